//! Tables of the application, whose rows are counted by account.
//!
//! Rows come as the server has them at hand, a trigger's transition tables or the whole table, so that neither privileges nor
//! row security decide what is counted. Only a condition of the table's owner is left to a query, which runs with the owner's
//! rights on rows that are put before it.

use super::owner::as_restricted_owner;
use super::subtransaction::attempt;
use super::values;
use crate::error::Error;
use entitlements_server::name::AccountName;
use entitlements_server::sqlstate::{is_fault_of_query, is_fault_of_server};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::PgTryBuilder;
use pgrx::spi::{Spi, quote_identifier};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::panic::AssertUnwindSafe;

pub use pg_sys::Oid;

unsafe extern "C-unwind" {
    // catalog/pg_inherits.h
    fn find_all_inheritors(parent: Oid, mode: pg_sys::LOCKMODE, parents: *mut *mut pg_sys::List) -> *mut pg_sys::List;
}

/// A number of rows for each account that has any, in the order of their keys; None is the account of rows that name none.
pub type RowCounts = BTreeMap<Option<String>, i64>;

/// Locks that are kept to the end of the transaction.
#[derive(Clone, Copy)]
pub enum TableLock {
    /// Against who changes how the table is defined, by this lock or by most kinds of ALTER TABLE; reading and writing go on.
    Definition,
    /// Against writers.
    Share,
    /// Against writers and who makes triggers; that of CREATE TRIGGER.
    ShareRowExclusive,
    /// Against everybody; that of DROP TRIGGER.
    AccessExclusive,
}

impl TableLock {
    fn mode(self) -> i32 {
        let mode = match self {
            Self::Definition => pg_sys::ShareUpdateExclusiveLock,
            Self::Share => pg_sys::ShareLock,
            Self::ShareRowExclusive => pg_sys::ShareRowExclusiveLock,
            Self::AccessExclusive => pg_sys::AccessExclusiveLock,
        };
        mode as i32
    }
}

/// Locks the table; false if there is none any more.
pub fn lock(table: Oid, lock: TableLock) -> bool {
    // SAFETY: waits for the lock and looks into the catalog; both work on any number.
    unsafe {
        pg_sys::LockRelationOid(table, lock.mode());
        pg_sys::get_rel_relkind(table) != 0
    }
}

/// A table and its partitions, each after the one that it is of, as they are now, whatever the transaction's snapshot shows.
pub fn tree(root: Oid) -> Vec<Oid> {
    inheritors(root, pg_sys::NoLock as i32)
}

/// `tree`, locked, by a lock that keeps others from adding partitions: each is looked for under one that has it already.
pub fn take_tree(root: Oid, mode: TableLock) -> Vec<Oid> {
    lock(root, mode);
    inheritors(root, mode.mode())
}

/// Whether it has partitions, without a lock on it.
pub fn is_partitioned(table: Oid) -> bool {
    // SAFETY: a look-up in the catalog, for any number.
    unsafe { pg_sys::get_rel_relkind(table) as u8 == pg_sys::RELKIND_PARTITIONED_TABLE }
}

fn inheritors(root: Oid, mode: i32) -> Vec<Oid> {
    // SAFETY: it looks into the catalog for any number, and gives a list of numbers, that of the
    // root first; an ERROR becomes a panic at the boundary.
    unsafe {
        let tables = pg_sys::ffi::pg_guard_ffi_boundary(|| find_all_inheritors(root, mode, std::ptr::null_mut()));
        (0..pg_sys::list_length(tables)).map(|place| pg_sys::list_nth_oid(tables, place)).collect()
    }
}

/// The column of a table that holds account keys.
#[derive(Clone, Copy)]
pub struct KeyColumn {
    number: i16,
    keys: Keys,
}

/// How keys are written in a column. They stand for accounts as the functions of SQL have it for each type.
#[derive(Clone, Copy)]
enum Keys {
    Text,
    Uuid,
    Int8,
    Int4,
}

impl KeyColumn {
    /// None where the table has no such column.
    pub fn find(table: Oid, name: &str) -> Result<Option<Self>, Error> {
        let Ok(name) = CString::new(name) else { return Ok(None) };
        // SAFETY: look-ups in the catalog; the name ends in NUL.
        let (number, base) = unsafe {
            let number = pg_sys::get_attnum(table, name.as_ptr());
            if number <= 0 {
                return Ok(None);
            }
            if is_virtual(table, number) {
                return Err(Error::argument("account_column", "it is a virtual generated column, which rows do not have"));
            }
            (number, pg_sys::getBaseType(pg_sys::get_atttype(table, number)))
        };
        let keys = match base {
            pg_sys::TEXTOID | pg_sys::VARCHAROID => Keys::Text,
            pg_sys::UUIDOID => Keys::Uuid,
            pg_sys::INT8OID => Keys::Int8,
            pg_sys::INT4OID => Keys::Int4,
            _ => return Err(Error::argument("account_column", "it is not of type text, varchar, uuid, bigint or integer")),
        };
        Ok(Some(Self { number, keys }))
    }

    /// Adds `by` for the account of the row.
    ///
    /// # Safety
    /// The slot holds a row of the column's table.
    unsafe fn count(self, slot: *mut pg_sys::TupleTableSlot, by: i64, tally: &mut Runs) {
        // SAFETY: by contract; a slot's arrays have as many elements as the row has columns, valid up to tts_nvalid.
        unsafe {
            if (*slot).tts_nvalid < self.number {
                pg_sys::slot_getsomeattrs_int(slot, self.number.into());
            }
            let place = self.number as usize - 1;
            if *(*slot).tts_isnull.add(place) {
                return tally.add(None, by);
            }
            let datum = *(*slot).tts_values.add(place);
            match self.keys {
                Keys::Text => values::with_text(datum, |text| tally.add(Some(text), by)),
                Keys::Uuid => tally.add(Some(&*datum.cast_mut_ptr::<[u8; 16]>()), by),
                Keys::Int8 => tally.add(Some(&(datum.value() as i64).to_ne_bytes()), by),
                Keys::Int4 => tally.add(Some(&i64::from(datum.value() as i32).to_ne_bytes()), by),
            }
        }
    }

    /// The account's key for what `count` has noted.
    fn key(self, noted: &[u8]) -> String {
        fn bytes<const LENGTH: usize>(noted: &[u8]) -> [u8; LENGTH] {
            noted.try_into().expect("noted by the same column")
        }
        let key = |name: AccountName<'_>| String::from_utf8_lossy(&name.to_key()).into_owned();
        match self.keys {
            Keys::Text => key(AccountName::Text(noted)),
            Keys::Uuid => key(AccountName::uuid(bytes(noted))),
            Keys::Int8 | Keys::Int4 => key(AccountName::Bigint(i64::from_ne_bytes(bytes(noted)))),
        }
    }
}

/// Sums by key. Rows of one account often follow each other: a run of them is added up before it is looked for.
#[derive(Default)]
struct Runs {
    sums: HashMap<Option<Box<[u8]>>, i64, RandomState>,
    last: Option<Vec<u8>>,
    run: i64,
}

impl Runs {
    fn add(&mut self, key: Option<&[u8]>, by: i64) {
        if self.last.as_deref() != key {
            self.end_run();
            self.last = key.map(<[u8]>::to_vec);
        }
        self.run += by;
    }

    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        *self.sums.entry(self.last.as_deref().map(Box::from)).or_default() += run;
    }
}

/// Counts rows of a table.
pub struct Tally<'a> {
    table: Oid,
    column: KeyColumn,
    /// Column name and condition; None: all rows count.
    condition: Option<(&'a str, &'a str)>,
    runs: Runs,
    counts: RowCounts,
}

impl<'a> Tally<'a> {
    /// NE009 where the column is gone.
    pub fn new(table: Oid, column: &'a str, condition: Option<&'a str>) -> Result<Self, Error> {
        let found = KeyColumn::find(table, column)?.ok_or_else(|| Error::Conflict {
            message: format!("rows are counted by column \"{column}\", and the table has none of this name"),
            hint: "Undo what was done to the column, or call entitlements.unlimit_rows and limit_rows again.".to_owned(),
        })?;
        let condition = condition.map(|condition| (column, condition));
        Ok(Self { table, column: found, condition, runs: Runs::default(), counts: RowCounts::new() })
    }

    pub fn into_counts(mut self) -> RowCounts {
        self.runs.end_run();
        for (noted, sum) in std::mem::take(&mut self.runs.sums) {
            *self.counts.entry(noted.map(|noted| self.column.key(&noted))).or_default() += sum;
        }
        self.counts.retain(|_, sum| *sum != 0);
        self.counts
    }

    /// Adds `by` for each row that was kept.
    pub fn add_kept(&mut self, rows: &KeptRows, by: i64) -> Result<(), Error> {
        let Some((column, condition)) = self.condition else {
            // SAFETY: the rows are the table's; a read pointer of its own leaves those of other readers where they are.
            unsafe {
                let pointer = pg_sys::tuplestore_alloc_read_pointer(rows.store, pg_sys::EXEC_FLAG_REWIND as i32);
                pg_sys::tuplestore_select_read_pointer(rows.store, pointer);
                pg_sys::tuplestore_rescan(rows.store);
                let slot = Slot::new(self.table, &raw const pg_sys::TTSOpsMinimalTuple);
                while pg_sys::tuplestore_gettupleslot(rows.store, true, false, slot.0) {
                    self.column.count(slot.0, by, &mut self.runs);
                }
            }
            return Ok(());
        };
        let query = format!(
            "SELECT {key}::pg_catalog.text, pg_catalog.count(*) FROM entitlements_rows AS {table} WHERE ({condition}\n) GROUP BY 1",
            key = key_in_query(self.table, column),
            table = name_in_query(self.table),
        );
        let counts = &mut self.counts;
        as_restricted_owner(self.table, || {
            Spi::connect(|client| {
                rows.register(self.table);
                for row in client.select(query.as_str(), None, &[])? {
                    *counts.entry(row.get::<String>(1)?).or_default() += by * row.get::<i64>(2)?.unwrap_or(0);
                }
                Ok(())
            })
        })
    }

    /// Adds one for each row that the table has now.
    pub fn add_table(&mut self) -> Result<(), Error> {
        self.scan(1)
    }

    /// Takes away one for each row that the table has now.
    pub fn take_table_away(&mut self) -> Result<(), Error> {
        self.scan(-1)
    }

    /// Adds `by` for each row that the table has now, whatever the transaction's snapshot shows. It is locked against writers.
    fn scan(&mut self, by: i64) -> Result<(), Error> {
        // SAFETY: a scan of the whole table with a registered snapshot. An ERROR lets go of all that with the transaction.
        let kept = unsafe {
            pg_sys::CommandCounterIncrement();
            let relation = pg_sys::table_open(self.table, pg_sys::NoLock as i32);
            let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
            let scan = pg_sys::systable_beginscan(relation, pg_sys::InvalidOid, false, snapshot, 0, std::ptr::null_mut());
            let slot = Slot::new(self.table, &raw const pg_sys::TTSOpsHeapTuple);
            let kept = self.condition.map(|_| KeptRows::new());
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    break;
                }
                match &kept {
                    Some(kept) => pg_sys::tuplestore_puttuple(kept.store, tuple),
                    None => {
                        pg_sys::ExecStoreHeapTuple(tuple, slot.0, false);
                        self.column.count(slot.0, by, &mut self.runs);
                    }
                }
            }
            drop(slot);
            pg_sys::systable_endscan(scan);
            pg_sys::UnregisterSnapshot(snapshot);
            pg_sys::table_close(relation, pg_sys::NoLock as i32);
            kept
        };
        match kept {
            Some(kept) => self.add_kept(&kept, by),
            None => Ok(()),
        }
    }
}

/// Where a row is put to look at its columns.
struct Slot(*mut pg_sys::TupleTableSlot);

impl Slot {
    /// # Safety
    /// The table is open, and stays so while the slot is in use.
    unsafe fn new(table: Oid, operations: *const pg_sys::TupleTableSlotOps) -> Self {
        // SAFETY: by contract; the descriptor lives as long as the relation is open.
        unsafe {
            let relation = pg_sys::table_open(table, pg_sys::NoLock as i32);
            let slot = pg_sys::MakeSingleTupleTableSlot((*relation).rd_att, operations);
            pg_sys::table_close(relation, pg_sys::NoLock as i32);
            Self(slot)
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: made by new, and dropped once.
        unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.0) }
    }
}

/// Rows that the server has set aside.
pub struct KeptRows {
    store: *mut pg_sys::Tuplestorestate,
    is_own: bool,
}

impl KeptRows {
    fn new() -> Self {
        // SAFETY: makes a store that goes to disk beyond work_mem.
        let store = unsafe { pg_sys::tuplestore_begin_heap(false, false, pg_sys::work_mem) };
        Self { store, is_own: true }
    }

    /// A transition table.
    ///
    /// # Safety
    /// The trigger is firing while the value lives.
    pub(super) unsafe fn of_transition(store: *mut pg_sys::Tuplestorestate) -> Self {
        Self { store, is_own: false }
    }

    /// One row.
    ///
    /// # Safety
    /// A valid tuple.
    pub(super) unsafe fn of_tuple(tuple: pg_sys::HeapTuple) -> Self {
        let rows = Self::new();
        // SAFETY: by contract; the store takes a copy.
        unsafe { pg_sys::tuplestore_puttuple(rows.store, tuple) };
        rows
    }

    /// Makes the rows known to the queries of this SPI connection as `entitlements_rows`.
    fn register(&self, table: Oid) {
        // SAFETY: SPI copies nothing: description and store live until the connection ends, in its memory and by our caller.
        unsafe {
            let described = pg_sys::palloc0(size_of::<pg_sys::EphemeralNamedRelationData>())
                .cast::<pg_sys::EphemeralNamedRelationData>();
            (*described).md.name = pg_sys::pstrdup(c"entitlements_rows".as_ptr());
            (*described).md.reliddesc = table;
            (*described).md.enrtype = pg_sys::EphemeralNameRelationType::ENR_NAMED_TUPLESTORE;
            (*described).md.enrtuples = pg_sys::tuplestore_tuple_count(self.store) as f64;
            (*described).reldata = self.store.cast();
            let registered = pg_sys::SPI_register_relation(described);
            assert_eq!(registered, pg_sys::SPI_OK_REL_REGISTER as i32, "each connection has one such relation");
        }
    }
}

impl Drop for KeptRows {
    fn drop(&mut self) {
        if self.is_own {
            // SAFETY: made by new, and dropped once.
            unsafe { pg_sys::tuplestore_end(self.store) }
        }
    }
}

/// The table's name without its schema, as a condition may use it.
fn name_in_query(table: Oid) -> String {
    // SAFETY: a copy of the name, or NULL where there is no such table.
    let name = unsafe {
        let name = pg_sys::get_rel_name(table);
        if name.is_null() { String::new() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    };
    quote_identifier(name)
}

fn key_in_query(table: Oid, column: &str) -> String {
    format!("{}.{}", name_in_query(table), quote_identifier(column))
}

/// Whether a column's value is computed when it is read: rows that triggers get do not have it.
///
/// # Safety
/// The table has the column.
unsafe fn is_virtual(table: Oid, column: i16) -> bool {
    // SAFETY: a look-up in the catalog.
    unsafe { pg_sys::get_attgenerated(table, column) as u8 == b'v' }
}

/// Refuses what is no condition on a row of the table, or one whose value for a row may change without the row: NE007. Gives
/// the columns that it uses.
pub fn check_condition(table: Oid, column: &str, condition: &str) -> Result<Vec<String>, Error> {
    let query = format!(
        "SELECT {key}::pg_catalog.text FROM ONLY {table} AS {name} WHERE ({condition}\n)",
        key = key_in_query(table, column),
        table = qualified_name(table)?,
        name = name_in_query(table),
    );
    let query = CString::new(query).map_err(|_| Error::argument("where", "it contains a NUL"))?;
    let columns = undone_if_refused(is_fault_of_query, || {
        as_restricted_owner(table, || Spi::connect(|_| Ok(columns_it_depends_on(table, &query))))
    })?;
    let columns = columns.ok_or_else(|| Error::InvalidArgument {
        argument: "where",
        fault: "its value for a row could change without the row".to_owned(),
        hint: Some("Use the row's columns and immutable functions only, without subqueries.".to_owned()),
    })?;
    // SAFETY: these are columns of the table.
    if let Some((_, name)) = columns.iter().find(|(number, _)| unsafe { is_virtual(table, *number) }) {
        return Err(Error::InvalidArgument {
            argument: "where",
            fault: format!("{name} is a virtual generated column, which rows do not have"),
            hint: Some("Write what it is generated from, or make it STORED.".to_owned()),
        });
    }
    Ok(columns.into_iter().map(|(_, name)| name).collect())
}

/// The rows of a table by account, or why they cannot be counted. What is no fault of the table or its condition, such as a
/// cancellation, is raised as it came.
pub fn rows_if_countable(count: impl FnOnce() -> Result<RowCounts, Error>) -> Result<RowCounts, Error> {
    undone_if_refused(|sqlstate| !is_fault_of_server(sqlstate), count)
}

/// What `work` gives. What it or the server says against it undoes it and comes back, the latter only where `is_fault` of a
/// SQLSTATE says so: else it goes on as it came.
fn undone_if_refused<T>(is_fault: fn(i32) -> bool, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    attempt(|| {
        PgTryBuilder::new(AssertUnwindSafe(work))
            .catch_others(|fault| {
                let report = match &fault {
                    CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
                    CaughtError::RustPanic { ereport, .. } => ereport,
                };
                if !is_fault(report.sql_error_code() as i32) {
                    fault.rethrow();
                }
                Err(Error::argument("where", report.message().to_owned()))
            })
            .execute()
    })
}

/// The columns, numbers and names, by which alone the query, which only selects from the table, chooses a row. None: it may
/// choose another time what it has not chosen before, though the row is the same.
fn columns_it_depends_on(table: Oid, query: &CStr) -> Option<Vec<(i16, String)>> {
    // SAFETY: plans the query, which is not run, and looks at its parse tree while the plan is there.
    unsafe {
        let plan = pg_sys::SPI_prepare(query.as_ptr(), 0, std::ptr::null_mut());
        if plan.is_null() {
            return None;
        }
        let only = |list: *mut pg_sys::List| (pg_sys::list_length(list) == 1).then(|| pg_sys::list_nth(list, 0));
        let source = only(pg_sys::SPI_plan_get_plan_sources(plan)).map(|source| source.cast::<pg_sys::CachedPlanSource>());
        let query = source.and_then(|source| only((*source).query_list)).map(|query| query.cast::<pg_sys::Query>());
        let is_plain = |query: &pg_sys::Query| {
            let has_more = query.hasSubLinks || query.hasAggs || query.hasWindowFuncs || !query.setOperations.is_null();
            !has_more && pg_sys::list_length(query.rtable) == 1
        };
        let fixed = query.filter(|query| is_plain(&**query) && !pg_sys::contain_mutable_functions(query.cast()));
        let columns = fixed.and_then(|query| columns_of(table, (*query).jointree.cast()));
        pg_sys::SPI_freeplan(plan);
        columns
    }
}

/// The columns of the one table of a query that an expression uses; all of them where it uses the row. None: it uses what
/// only a stored row has.
///
/// # Safety
/// A node of such a query.
unsafe fn columns_of(table: Oid, expression: *mut pg_sys::Node) -> Option<Vec<(i16, String)>> {
    // SAFETY: by contract; the table is there while the query is, and get_attname gives the name of any of its columns.
    unsafe {
        let mut used = std::ptr::null_mut();
        pg_sys::pull_varattnos(expression, 1, &mut used);
        let mut numbers = Vec::new();
        let mut member = pg_sys::bms_next_member(used, -1);
        while member >= 0 {
            match member + pg_sys::FirstLowInvalidHeapAttributeNumber {
                0 => {
                    let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
                    numbers.extend(1..=(*(*relation).rd_att).natts as i16);
                    pg_sys::table_close(relation, pg_sys::NoLock as i32);
                }
                number if number < 0 => return None,
                number => numbers.push(number as i16),
            }
            member = pg_sys::bms_next_member(used, member);
        }
        let name = |number| CStr::from_ptr(pg_sys::get_attname(table, number, false)).to_string_lossy().into_owned();
        Some(numbers.into_iter().map(|number| (number, name(number))).collect())
    }
}

/// The table's name with its schema, quoted where needed. NE007 where there is no such table.
pub fn qualified_name(table: Oid) -> Result<String, Error> {
    let name = name_in_query(table);
    // SAFETY: a copy of the name, or NULL where there is no such schema.
    let schema = unsafe {
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(table));
        if schema.is_null() {
            return Err(Error::argument("table", "there is no such table"));
        }
        CStr::from_ptr(schema).to_string_lossy().into_owned()
    };
    Ok(format!("{}.{name}", quote_identifier(schema)))
}
