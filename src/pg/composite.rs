//! Making values of the extension's composite types.

use super::callbacks::relations_epoch;
use super::relations::SCHEMA;
use super::values;
use crate::error::Error;
use entitlements_model::amount::Amount;
use pgrx::heap_tuple::PgHeapTuple;
use pgrx::{AllocatedByRust, IntoDatum, PgTupleDesc, pg_sys};
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

/// A value of a composite type, filled from the first column to the last.
pub struct Composite {
    descriptor: PgTupleDesc<'static>,
    columns: Vec<Option<pg_sys::Datum>>,
}

impl Composite {
    pub fn of(composite: &CompositeType) -> Result<Self, Error> {
        let oid = composite.oid()?;
        // SAFETY: the descriptor of a type that is there, counted as in use until it is dropped.
        let descriptor = unsafe { PgTupleDesc::from_pg(pg_sys::lookup_rowtype_tupdesc(oid, -1)) };
        let columns = Vec::with_capacity(descriptor.len());
        Ok(Self { descriptor, columns })
    }

    /// The next column. Its SQL type must be the one `T` stands for.
    pub fn with<T: IntoDatum>(mut self, value: Option<T>) -> Self {
        let column = self.descriptor.get(self.columns.len()).expect("the type has so many columns");
        assert!(T::is_compatible_with(column.type_oid().value()), "column {} is of another type", column.name());
        self.columns.push(value.and_then(T::into_datum));
        self
    }

    /// The next column, a numeric: without the detour over text that the general conversion takes.
    pub fn with_amount(mut self, amount: Option<SignedAmount>) -> Self {
        let column = self.descriptor.get(self.columns.len()).expect("the type has so many columns");
        assert_eq!(column.type_oid().value(), pg_sys::NUMERICOID, "column {} is another type", column.name());
        self.columns.push(amount.map(|SignedAmount(billionths)| values::billionths_datum(billionths)));
        self
    }

    pub fn build(self) -> PgHeapTuple<'static, AllocatedByRust> {
        assert_eq!(self.columns.len(), self.descriptor.len(), "every column has a value");
        // SAFETY: as many values as columns, each of its column's type.
        unsafe { PgHeapTuple::from_datums(self.descriptor, self.columns) }.expect("the values fit the type")
    }
}
