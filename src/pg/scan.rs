//! Index scans on the extension's own tables with the active snapshot.
//!
//! No SPI: a scan costs a microsecond or two, assigns no transaction id and so works on a standby, in a read-only transaction
//! and in a parallel worker. What it reads is what a query with this snapshot reads; in a serializable transaction it leaves
//! the same predicate locks. Access to the tables needs no privilege of the caller: EXECUTE on the function decides.

use super::relations::{Access, CoveredAccess};
use super::snapshot::ActiveSnapshot;
use super::values;
use pgrx::pg_sys;
use std::ops::ControlFlow;

unsafe extern "C-unwind" {
    /// predicate.h, which pgrx has no binding of.
    fn PredicateLockPage(relation: pg_sys::Relation, block: pg_sys::BlockNumber, snapshot: pg_sys::Snapshot);
}

/// A condition on a leading column of the index; `usize` is the column's place in `Access::columns`.
#[derive(Clone, Copy)]
pub enum Condition<'a> {
    TextIs(usize, &'a [u8]),
    Int4Is(usize, i32),
    Int8Is(usize, i64),
    Int8AtLeast(usize, i64),
    /// The column lies after the time, in microseconds.
    After(usize, i64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It does not matter.
    Any,
    /// In the index's order.
    Ascending,
    /// Against the index's order.
    Descending,
}

/// A row of a scan; valid until the next one is fetched.
pub struct Row<'a, const COLUMNS: usize> {
    columns: &'a [i16; COLUMNS],
    values: &'a [pg_sys::Datum],
    nulls: &'a [bool],
}

impl<const COLUMNS: usize> Row<'_, COLUMNS> {
    fn datum(&self, column: usize) -> Option<pg_sys::Datum> {
        let place = self.columns[column] as usize - 1;
        (!self.nulls[place]).then(|| self.values[place])
    }

    pub fn int4(&self, column: usize) -> Option<i32> {
        self.datum(column).map(|datum| datum.value() as i32)
    }

    pub fn int8(&self, column: usize) -> Option<i64> {
        self.datum(column).map(|datum| datum.value() as i64)
    }

    pub fn bool(&self, column: usize) -> Option<bool> {
        self.datum(column).map(|datum| datum.value() & 0xFF != 0)
    }

    /// A timestamptz in microseconds since 2000-01-01 UTC; infinity is `i64::MAX`.
    pub fn time(&self, column: usize) -> Option<i64> {
        self.int8(column)
    }

    /// The bytes of a text value.
    pub fn text<R>(&self, column: usize, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        // SAFETY: the caller names a column of type text; the value lives as long as the row.
        self.datum(column).map(|datum| unsafe { values::with_text(datum, read) })
    }

    /// A numeric value as text, such as `12.50` or `Infinity`.
    pub fn numeric(&self, column: usize) -> Option<String> {
        // SAFETY: the caller names a column of type numeric.
        self.datum(column).map(|datum| unsafe { values::numeric_text(datum) })
    }

    /// A jsonb value as text.
    pub fn jsonb(&self, column: usize) -> Option<String> {
        // SAFETY: the caller names a column of type jsonb.
        self.datum(column).map(|datum| unsafe { values::jsonb_text(datum) })
    }
}

/// Most columns a table of the extension has; room for decoding a row without an allocation.
const MAX_COLUMNS: usize = 48;

/// Calls `visit` with each row that satisfies `conditions`, until it breaks.
pub fn scan<const COLUMNS: usize>(
    access: &Access<COLUMNS>,
    conditions: &[Condition<'_>],
    order: Order,
    snapshot: ActiveSnapshot,
    mut visit: impl FnMut(&Row<'_, COLUMNS>) -> ControlFlow<()>,
) {
    // SAFETY: the sequence that genam.c asks for: open, begin, fetch, end, close, with keys that match the columns' types and
    // outlive the scan. Locks are kept to the end of the transaction, as a query keeps them. On an ERROR the server's
    // resource owner closes everything.
    unsafe {
        let mut text_key = values::TextDatum::default();
        let mut keys = scan_keys(access, conditions, &mut text_key);

        let table = pg_sys::table_open(access.table, pg_sys::AccessShareLock as i32);
        let descriptor = (*table).rd_att;
        assert!((*descriptor).natts as usize <= MAX_COLUMNS, "room for all columns");
        let mut values = [pg_sys::Datum::from(0); MAX_COLUMNS];
        let mut nulls = [false; MAX_COLUMNS];
        let mut deliver = |tuple: pg_sys::HeapTuple| {
            pg_sys::heap_deform_tuple(tuple, descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
            visit(&Row { columns: &access.columns, values: &values, nulls: &nulls })
        };

        let direction = match order {
            Order::Descending => pg_sys::ScanDirection::BackwardScanDirection,
            Order::Any | Order::Ascending => pg_sys::ScanDirection::ForwardScanDirection,
        };
        // Always the ordered scan: the other kind reads the whole table under ignore_system_indexes, which every client may
        // set, and then knows nothing of a partial index's predicate.
        let index = pg_sys::index_open(access.index, pg_sys::AccessShareLock as i32);
        let scan =
            pg_sys::systable_beginscan_ordered(table, index, snapshot.as_ptr(), conditions.len() as i32, keys.as_mut_ptr());
        loop {
            let tuple = pg_sys::systable_getnext_ordered(scan, direction);
            if tuple.is_null() || deliver(tuple).is_break() {
                break;
            }
        }
        pg_sys::systable_endscan_ordered(scan);
        pg_sys::index_close(index, pg_sys::NoLock as i32);
        pg_sys::table_close(table, pg_sys::NoLock as i32);
    }
}

/// `scan` through an index that has all the columns, in the index's order. Where the visibility map says that everybody sees
/// all of a page, the page is not looked at: this is what an index-only scan of the server does.
///
/// For an account with ten subscriptions that is one place in the index instead of ten all over the table.
pub fn scan_covered<const COLUMNS: usize>(
    CoveredAccess(access): &CoveredAccess<COLUMNS>,
    conditions: &[Condition<'_>],
    snapshot: ActiveSnapshot,
    mut visit: impl FnMut(&Row<'_, COLUMNS>) -> ControlFlow<()>,
) {
    // SAFETY: the sequence of nodeIndexonlyscan.c, for an MVCC snapshot: the tuple of the index is used if the visibility map
    // or the table's tuple says that the snapshot sees it. Keys as in `scan`. The buffer and the slot are given back at the
    // end, on an ERROR by the server's resource owner and memory context.
    unsafe {
        let mut text_key = values::TextDatum::default();
        let mut keys = scan_keys(access, conditions, &mut text_key);
        let table = pg_sys::table_open(access.table, pg_sys::AccessShareLock as i32);
        let index = pg_sys::index_open(access.index, pg_sys::AccessShareLock as i32);
        let scan = begin_scan(table, index, snapshot, conditions.len() as i32);
        (*scan).xs_want_itup = true;
        pg_sys::index_rescan(scan, keys.as_mut_ptr(), conditions.len() as i32, std::ptr::null_mut(), 0);

        let mut values = [pg_sys::Datum::from(0); MAX_COLUMNS];
        let mut nulls = [false; MAX_COLUMNS];
        let mut map_page: pg_sys::Buffer = 0;
        let mut slot: *mut pg_sys::TupleTableSlot = std::ptr::null_mut();
        loop {
            let place = pg_sys::index_getnext_tid(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if place.is_null() {
                break;
            }
            let block = pg_sys::BlockNumber::from((*place).ip_blkid.bi_hi) << 16
                | pg_sys::BlockNumber::from((*place).ip_blkid.bi_lo);
            let status = pg_sys::visibilitymap_get_status(table, block, &mut map_page);
            if u32::from(status) & pg_sys::VISIBILITYMAP_ALL_VISIBLE != 0 {
                // The page was not looked at, and so is locked here against serializable transactions that change it.
                pg_sys::ffi::pg_guard_ffi_boundary(|| PredicateLockPage(table, block, snapshot.as_ptr()));
            } else {
                if slot.is_null() {
                    slot = pg_sys::table_slot_create(table, std::ptr::null_mut());
                }
                if !pg_sys::index_fetch_heap(scan, slot) {
                    continue;
                }
            }
            pg_sys::index_deform_tuple((*scan).xs_itup, (*scan).xs_itupdesc, values.as_mut_ptr(), nulls.as_mut_ptr());
            if visit(&Row { columns: &access.columns, values: &values, nulls: &nulls }).is_break() {
                break;
            }
        }
        if map_page != 0 {
            pg_sys::ReleaseBuffer(map_page);
        }
        if !slot.is_null() {
            pg_sys::ExecDropSingleTupleTableSlot(slot);
        }
        pg_sys::index_endscan(scan);
        pg_sys::index_close(index, pg_sys::NoLock as i32);
        pg_sys::table_close(table, pg_sys::NoLock as i32);
    }
}

/// # Safety
/// `table` and `index` are open and belong together.
unsafe fn begin_scan(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: ActiveSnapshot,
    conditions: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: by contract; without ORDER BY operators, and since PostgreSQL 18 without counting for EXPLAIN ANALYZE.
    #[cfg(not(feature = "pg18"))]
    unsafe {
        pg_sys::index_beginscan(table, index, snapshot.as_ptr(), conditions, 0)
    }
    #[cfg(feature = "pg18")]
    unsafe {
        pg_sys::index_beginscan(table, index, snapshot.as_ptr(), std::ptr::null_mut(), conditions, 0)
    }
}

/// The conditions as the server takes them; as many keys as there are conditions are filled.
///
/// # Safety
/// `text_key` must outlive the use of the keys.
unsafe fn scan_keys<const COLUMNS: usize>(
    access: &Access<COLUMNS>,
    conditions: &[Condition<'_>],
    text_key: &mut values::TextDatum,
) -> [pg_sys::ScanKeyData; 2] {
    // SAFETY: a key of zeros is a valid value of the C type; the rest is by contract.
    unsafe {
        let mut keys: [pg_sys::ScanKeyData; 2] = std::mem::zeroed();
        assert!(conditions.len() <= keys.len(), "room for all conditions");
        for (key, condition) in keys.iter_mut().zip(conditions) {
            fill_key(key, access, condition, text_key);
        }
        keys
    }
}

/// # Safety
/// `text_key` must outlive the use of `key`.
unsafe fn fill_key<const COLUMNS: usize>(
    key: &mut pg_sys::ScanKeyData,
    access: &Access<COLUMNS>,
    condition: &Condition<'_>,
    text_key: &mut values::TextDatum,
) {
    let (column, strategy, procedure, collation, argument) = match *condition {
        Condition::TextIs(column, text) => {
            (column, pg_sys::BTEqualStrategyNumber, pg_sys::F_TEXTEQ, pg_sys::C_COLLATION_OID, text_key.set(text))
        }
        Condition::Int4Is(column, value) => {
            (column, pg_sys::BTEqualStrategyNumber, pg_sys::F_INT4EQ, pg_sys::InvalidOid, pg_sys::Datum::from(value))
        }
        Condition::Int8Is(column, value) => {
            (column, pg_sys::BTEqualStrategyNumber, pg_sys::F_INT8EQ, pg_sys::InvalidOid, pg_sys::Datum::from(value))
        }
        Condition::Int8AtLeast(column, value) => {
            (column, pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_INT8GE, pg_sys::InvalidOid, pg_sys::Datum::from(value))
        }
        Condition::After(column, value) => (
            column,
            pg_sys::BTGreaterStrategyNumber,
            pg_sys::F_TIMESTAMPTZ_GT,
            pg_sys::InvalidOid,
            pg_sys::Datum::from(value),
        ),
    };
    // SAFETY: `key` is zeroed memory of the right type; the procedure is the operator's of the column's type.
    unsafe {
        pg_sys::ScanKeyEntryInitialize(
            key,
            0,
            access.columns[column],
            strategy as u16,
            pg_sys::InvalidOid,
            collation,
            pg_sys::Oid::from(procedure),
            argument,
        );
    }
}
