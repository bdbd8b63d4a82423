//! The rows of a query one after the other, without a copy of all of them and without one of each value.

use super::unguarded::heap_deform_tuple;
use super::values;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::spi::SpiClient;
use std::ffi::c_long;

/// Rows that are fetched at once: few enough to stay in the processor's cache.
const BATCH: c_long = 500;

/// A row of a query; columns are counted from 1, and are None where they are NULL.
pub struct QueryRow<'a> {
    types: &'a [pg_sys::Oid],
    values: &'a [pg_sys::Datum],
    nulls: &'a [bool],
}

impl QueryRow<'_> {
    fn datum(&self, column: usize, expected: pg_sys::Oid) -> Option<pg_sys::Datum> {
        let place = column - 1;
        assert_eq!(self.types[place], expected, "the type of column {column}");
        (!self.nulls[place]).then(|| self.values[place])
    }

    pub fn int4(&self, column: usize) -> Option<i32> {
        self.datum(column, pg_sys::INT4OID).map(|datum| datum.value() as i32)
    }

    pub fn int8(&self, column: usize) -> Option<i64> {
        self.datum(column, pg_sys::INT8OID).map(|datum| datum.value() as i64)
    }

    pub fn bool(&self, column: usize) -> Option<bool> {
        self.datum(column, pg_sys::BOOLOID).map(|datum| datum.value() & 0xFF != 0)
    }

    /// A timestamptz in microseconds since 2000-01-01 UTC; infinity is `i64::MAX`.
    pub fn time(&self, column: usize) -> Option<i64> {
        self.datum(column, pg_sys::TIMESTAMPTZOID).map(|datum| datum.value() as i64)
    }

    pub fn text(&self, column: usize) -> Option<&str> {
        // SAFETY: a value of type text, which lives as long as the row, and in the database's encoding, which CREATE EXTENSION
        // made sure is UTF8.
        self.datum(column, pg_sys::TEXTOID).map(|datum| unsafe { std::str::from_utf8_unchecked(values::text_bytes(datum)) })
    }
}

/// Calls `see` with each row of a query, until one is an error.
pub fn each<E: From<pgrx::spi::Error>>(
    client: &SpiClient<'_>,
    query: &str,
    arguments: &[DatumWithOid<'_>],
    mut see: impl FnMut(&QueryRow<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut cursor = client.try_open_cursor(query, arguments)?;
    let (mut types, mut values, mut nulls) = (Vec::new(), Vec::new(), Vec::new());
    while !cursor.fetch(BATCH)?.is_empty() {
        // SAFETY: what SPI fetched last, which is not empty: a table of this connection. Nothing else refers to it, and it is
        // freed once here or by the end of the connection.
        let (table, descriptor, tuples) = unsafe {
            let table = pg_sys::SPI_tuptable;
            (table, (*table).tupdesc, std::slice::from_raw_parts((*table).vals, (*table).numvals as usize))
        };
        if types.is_empty() {
            // SAFETY: the descriptor of the table's rows.
            let columns = unsafe { (*descriptor).natts };
            // SAFETY: as before; columns count from 1.
            types.extend((1..=columns).map(|column| unsafe { pg_sys::SPI_gettypeid(descriptor, column) }));
            values.resize(types.len(), pg_sys::Datum::from(0));
            nulls.resize(types.len(), false);
        }
        for tuple in tuples {
            // SAFETY: a row of the table, and room for all of its columns.
            unsafe { heap_deform_tuple(*tuple, descriptor, values.as_mut_ptr(), nulls.as_mut_ptr()) };
            see(&QueryRow { types: &types, values: &values, nulls: &nulls })?;
        }
        // SAFETY: see above.
        unsafe { pg_sys::SPI_freetuptable(table) };
    }
    Ok(())
}
