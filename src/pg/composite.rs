//! Making values of the extension's composite types.

use crate::error::Error;
use pgrx::heap_tuple::PgHeapTuple;
use pgrx::{AllocatedByRust, IntoDatum, PgTupleDesc, pg_sys};

/// A value of a composite type, filled from the first column to the last.
pub struct Composite {
    descriptor: PgTupleDesc<'static>,
    columns: Vec<Option<pg_sys::Datum>>,
}

impl Composite {
    /// `type_name` is schema-qualified.
    pub fn of(type_name: &str) -> Result<Self, Error> {
        let descriptor = PgTupleDesc::for_composite_type(type_name)
            .ok_or_else(|| Error::incomplete(format!("type {type_name} is missing")))?;
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

    pub fn build(self) -> PgHeapTuple<'static, AllocatedByRust> {
        assert_eq!(self.columns.len(), self.descriptor.len(), "every column has a value");
        // SAFETY: as many values as columns, each of its column's type.
        unsafe { PgHeapTuple::from_datums(self.descriptor, self.columns) }.expect("the values fit the type")
    }
}
