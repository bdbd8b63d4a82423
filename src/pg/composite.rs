//! Making values of the extension's composite types.

use super::callbacks::relations_epoch;
use super::relations::SCHEMA;
use super::unguarded::{DecrTupleDescRefCount, HeapTupleHeaderGetDatum, heap_form_tuple, lookup_rowtype_tupdesc};
use super::values;
use crate::error::Error;
use entitlements_model::amount::Amount;
use entitlements_server::numeric;
use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{IntoDatum, pg_sys};
use std::ffi::CStr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A number of units in billionths.
#[derive(Clone, Copy)]
pub struct SignedAmount(pub i128);

impl From<Amount> for SignedAmount {
    fn from(amount: Amount) -> Self {
        Self(amount.nanos())
    }
}

/// A composite type in the extension's schema, looked up by its name once until relations change.
pub struct CompositeType {
    name: &'static CStr,
    /// What it was found as, and when.
    oid: AtomicU32,
    epoch: AtomicU64,
}

impl CompositeType {
    pub const fn new(name: &'static CStr) -> Self {
        Self { name, oid: AtomicU32::new(0), epoch: AtomicU64::new(0) }
    }

    fn oid(&self) -> Result<pg_sys::Oid, Error> {
        let (known, epoch) = (self.oid.load(Ordering::Relaxed), relations_epoch());
        if known != 0 && self.epoch.load(Ordering::Relaxed) == epoch {
            return Ok(pg_sys::Oid::from(known));
        }
        // SAFETY: a look-up in the system catalog by NUL-terminated name and schema.
        let oid = unsafe {
            let schema = pg_sys::get_namespace_oid(SCHEMA.as_ptr(), false);
            let (name, none) = (pg_sys::Datum::from(self.name.as_ptr()), pg_sys::Datum::from(0));
            let column = pg_sys::Anum_pg_type_oid as i16;
            pg_sys::GetSysCacheOid(pg_sys::SysCacheIdentifier::TYPENAMENSP as i32, column, name, schema.into(), none, none)
        };
        if oid == pg_sys::InvalidOid {
            return Err(Error::incomplete(format!("type entitlements.{} is missing", self.name.to_string_lossy())));
        }
        // The number before the look-up: a change meanwhile has another one.
        self.epoch.store(epoch, Ordering::Relaxed);
        self.oid.store(oid.to_u32(), Ordering::Relaxed);
        Ok(oid)
    }
}

/// A value of a composite type in the making, filled from the first column to the last.
pub struct Composite {
    of_type: pg_sys::Oid,
    columns: Vec<Column>,
    /// The varlena values that were made here, one after the other.
    varlenas: Vec<u32>,
}

struct Column {
    is_of_type: fn(pg_sys::Oid) -> bool,
    value: Value,
}

enum Value {
    Null,
    Is(pg_sys::Datum),
    /// From this place in `varlenas` on.
    At(usize),
}

impl Composite {
    pub fn of(composite: &CompositeType) -> Result<Self, Error> {
        Ok(Self { of_type: composite.oid()?, columns: Vec::with_capacity(16), varlenas: Vec::with_capacity(64) })
    }

    /// The next column. Its SQL type must be the one `T` stands for.
    pub fn with<T: IntoDatum>(mut self, value: Option<T>) -> Self {
        let value = value.and_then(T::into_datum).map_or(Value::Null, Value::Is);
        self.columns.push(Column { is_of_type: T::is_compatible_with, value });
        self
    }

    /// The next column, a text: without an allocation of its own.
    pub fn with_text(self, text: Option<&str>) -> Self {
        self.with_varlena(|of_type| of_type == pg_sys::TEXTOID, text.map(str::as_bytes))
    }

    /// The next column, a numeric: without the detour over text that the general conversion takes.
    pub fn with_amount(self, amount: Option<SignedAmount>) -> Self {
        let bytes = amount.map(|SignedAmount(billionths)| numeric::bytes_of(billionths));
        self.with_varlena(|of_type| of_type == pg_sys::NUMERICOID, bytes.as_ref().map(|(bytes, length)| &bytes[..*length]))
    }

    /// The next column: the bytes behind the length word of a varlena.
    fn with_varlena(mut self, is_of_type: fn(pg_sys::Oid) -> bool, bytes: Option<&[u8]>) -> Self {
        let value = bytes.map_or(Value::Null, |bytes| {
            let at = self.varlenas.len();
            values::push_varlena(&mut self.varlenas, bytes);
            Value::At(at)
        });
        self.columns.push(Column { is_of_type, value });
        self
    }

    pub fn build(self) -> CompositeValue {
        let datum = |column: &Column| match column.value {
            Value::Null => pg_sys::Datum::from(0),
            Value::Is(datum) => datum,
            Value::At(at) => pg_sys::Datum::from(self.varlenas[at..].as_ptr()),
        };
        let mut values: Vec<pg_sys::Datum> = self.columns.iter().map(datum).collect();
        let mut nulls: Vec<bool> = self.columns.iter().map(|column| matches!(column.value, Value::Null)).collect();
        // SAFETY: as many values as columns, each of its column's type: else nothing is built. The server copies the values, and
        // says in the copy's header what type it is of.
        let built = unsafe {
            pg_guard_ffi_boundary(|| {
                let descriptor = lookup_rowtype_tupdesc(self.of_type, -1);
                let built = self.fits(descriptor).then(|| {
                    let tuple = heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
                    HeapTupleHeaderGetDatum((*tuple).t_data)
                });
                if (*descriptor).tdrefcount >= 0 {
                    DecrTupleDescRefCount(descriptor);
                }
                built
            })
        };
        CompositeValue(built.expect("every column of the type has a value of its type"))
    }

    /// Whether these are the columns of the type.
    ///
    /// # Safety
    /// `descriptor` is in use.
    unsafe fn fits(&self, descriptor: pg_sys::TupleDesc) -> bool {
        // SAFETY: by contract; it has so many columns.
        unsafe {
            let count = (*descriptor).natts as usize;
            #[cfg(not(feature = "pg18"))]
            let columns = (*descriptor).attrs.as_ptr();
            // Behind the short form of them.
            #[cfg(feature = "pg18")]
            let columns = (*descriptor).compact_attrs.as_ptr().add(count).cast::<pg_sys::FormData_pg_attribute>();
            let columns = std::slice::from_raw_parts(columns, count);
            count == self.columns.len()
                && self.columns.iter().zip(columns).all(|(own, column)| (own.is_of_type)(column.atttypid))
        }
    }
}

/// A value of one of the extension's composite types, in the memory context that it was built in.
pub struct CompositeValue(pg_sys::Datum);

impl IntoDatum for CompositeValue {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(self.0)
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::RECORDOID
    }
}

// SAFETY: a composite value in the current memory context, as the caller expects.
unsafe impl BoxRet for CompositeValue {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: by contract.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

// SAFETY: every value is of a composite type; which one it is, the SQL of the functions says, which is written by hand.
unsafe impl SqlTranslatable for CompositeValue {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(CompositeValue);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("record"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("record")));
}
