//! Locking and changing single rows of the extension's own tables, without the executor.
//!
//! A counter is changed for every unit that is consumed, often by many at once: one lock, one new version of the row, both as
//! `SELECT … FOR NO KEY UPDATE` and `UPDATE` do it, at a fraction of their cost. The tables that are changed here have no
//! triggers, no partial indexes and no generated columns, and no column of an index is ever changed.

use super::page::line_pointers;
use super::relations::Access;
use super::scan::{MAX_COLUMNS, Place, Row};
use super::session::sees_what_is_committed;
use super::snapshot::ActiveSnapshot;
use super::unguarded::{
    GetCurrentCommandId, HeapTupleSatisfiesUpdate, LockBuffer, ReleaseBuffer, heap_freetuple, heap_modify_tuple_by_cols,
    heap_page_prune_opt, simple_heap_update, table_close, table_open,
};
use super::{unguarded, values};
use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::time::Time;
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

/// What to do when another transaction holds the row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Skip,
    /// For the end of that transaction.
    Block,
}

/// What became of an attempt to lock or change a row.
pub enum Lock<T> {
    Taken(T),
    /// Another transaction has it, and it was not waited for.
    Held,
    /// The row was changed or deleted after the snapshot that found it; it is not locked.
    Newer,
    /// The same in REPEATABLE READ and SERIALIZABLE, which do not see what is newer.
    Conflict,
}

/// Which version of a row is locked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The one that the snapshot shows, if it is still the newest.
    Seen,
    /// The newest, in READ COMMITTED.
    Newest,
}

/// A row that this transaction has locked.
pub struct LockedRow<'a, const COLUMNS: usize> {
    access: &'a Access<COLUMNS>,
    table: pg_sys::Relation,
    tuple: pg_sys::HeapTuple,
    values: [pg_sys::Datum; MAX_COLUMNS],
    nulls: [bool; MAX_COLUMNS],
    /// The row was changed after the snapshot that found it.
    pub is_newer: bool,
}

/// A value for a column.
#[derive(Clone, Copy)]
pub enum NewValue {
    Int2(i16),
    Amount(Amount),
    /// numeric; unlimited is Infinity.
    Allowance(Allowance),
    Time(Time),
}

impl NewValue {
    fn to_datum(self) -> pg_sys::Datum {
        match self {
            Self::Int2(number) => pg_sys::Datum::from(number),
            Self::Time(time) => pg_sys::Datum::from(time),
            Self::Amount(amount) => values::billionths_datum(amount.nanos()),
            Self::Allowance(allowance) => values::allowance_datum(allowance),
        }
    }
}

impl<const COLUMNS: usize> LockedRow<'_, COLUMNS> {
    pub fn row(&self) -> Row<'_, COLUMNS> {
        // SAFETY: the tuple is pinned while this value lives.
        let (place, written_by) =
            unsafe { (Place::at((*self.tuple).t_self), (*(*self.tuple).t_data).t_choice.t_heap.t_xmin) };
        Row { columns: &self.access.columns, values: &self.values, nulls: &self.nulls, place, written_by }
    }

    /// Writes a new version of the row with these columns changed. Once; the row's values here stay the old ones.
    pub fn update(&self, changes: &[(usize, NewValue)]) {
        // SAFETY: this transaction holds the row's lock, so nobody has changed it.
        unsafe {
            let mut changes = Changes::of(self.access, changes);
            let mut place = (*self.tuple).t_self;
            let tuple = pg_guard_ffi_boundary(|| {
                let tuple = changes.apply(self.table, self.tuple);
                #[cfg(feature = "pg15")]
                simple_heap_update(self.table, &mut place, tuple);
                #[cfg(not(feature = "pg15"))]
                {
                    let mut indexes = pg_sys::TU_UpdateIndexes::TU_None;
                    simple_heap_update(self.table, &mut place, tuple, &mut indexes);
                }
                tuple
            });
            make_findable(self.table, tuple);
            pg_sys::heap_freetuple(tuple);
        }
    }

    pub fn delete(&self) {
        // SAFETY: this transaction holds the row's lock.
        unsafe {
            let mut place = (*self.tuple).t_self;
            pg_sys::simple_heap_delete(self.table, &mut place);
        }
    }
}

/// Changes columns of a row, if the version that the snapshot shows is the newest and no other transaction has it.
pub fn update<const COLUMNS: usize>(
    access: &Access<COLUMNS>,
    place: Place,
    snapshot: ActiveSnapshot,
    changes: &[(usize, NewValue)],
) -> Lock<()> {
    // SAFETY: the row was found with the snapshot, which keeps the version from being removed. heap_update can only be asked to
    // wait for who has the row, so it is asked first whether anybody has; in the instant between, somebody may come who is then
    // waited for. It does not change a row that is not as it was seen. Who found the row has left the predicate lock on it.
    let result = unsafe {
        let mut changes = Changes::of(access, changes);
        let mut old: pg_sys::HeapTupleData = std::mem::zeroed();
        old.t_self = place.tid;
        let mut place = place;
        let found = pg_guard_ffi_boundary(|| {
            let table = table_open(access.table, pg_sys::RowExclusiveLock as i32);
            let buffer = place.pin(table)?;
            heap_page_prune_opt(table, buffer);
            let command = GetCurrentCommandId(true);
            LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
            let page = pg_sys::BufferGetPage(buffer);
            let line = line_pointers(page).get(usize::from(old.t_self.ip_posid) - 1)?;
            if line.lp_flags() != pg_sys::LP_NORMAL {
                return None;
            }
            old.t_data = page.add(line.lp_off() as usize).cast();
            old.t_len = line.lp_len();
            old.t_tableOid = access.table;
            let mut result = HeapTupleSatisfiesUpdate(&mut old, command, buffer);
            LockBuffer(buffer, pg_sys::BUFFER_LOCK_UNLOCK as i32);
            let mut tuple = std::ptr::null_mut();
            if result == pg_sys::TM_Result::TM_Ok {
                tuple = changes.apply(table, &mut old);
                result = heap_update(table, &mut old.t_self, tuple, command);
            }
            Some((table, buffer, tuple, result))
        });
        let (table, buffer, tuple, result) = found.expect("the snapshot shows the row");
        if result == pg_sys::TM_Result::TM_Ok {
            make_findable(table, tuple);
        }
        pg_guard_ffi_boundary(|| {
            if !tuple.is_null() {
                heap_freetuple(tuple);
            }
            ReleaseBuffer(buffer);
            table_close(table, pg_sys::NoLock as i32);
        });
        result
    };
    match result {
        pg_sys::TM_Result::TM_Ok => Lock::Taken(()),
        // Locked, maybe by this transaction itself or in a way that does not matter: this finds out.
        pg_sys::TM_Result::TM_BeingModified => {
            lock(access, place, snapshot, Version::Seen, Wait::Skip, |row| row.update(changes))
        }
        // By this transaction, which the next snapshot shows at any isolation level.
        pg_sys::TM_Result::TM_SelfModified => Lock::Newer,
        _ => newer(),
    }
}

/// # Safety
/// `tuple` is a new version of the row of `table` at `place`, with the same keys. May raise an error.
unsafe fn heap_update(
    table: pg_sys::Relation,
    place: pg_sys::ItemPointer,
    tuple: pg_sys::HeapTuple,
    command: pg_sys::CommandId,
) -> pg_sys::TM_Result::Type {
    // SAFETY: by contract; without a crosscheck, waiting for who has the row.
    unsafe {
        let mut failure: pg_sys::TM_FailureData = std::mem::zeroed();
        let mut mode = pg_sys::LockTupleMode::LockTupleNoKeyExclusive;
        let crosscheck = std::ptr::null_mut();
        #[cfg(feature = "pg15")]
        return unguarded::heap_update(table, place, tuple, command, crosscheck, true, &mut failure, &mut mode);
        #[cfg(not(feature = "pg15"))]
        {
            let mut indexes = pg_sys::TU_UpdateIndexes::TU_None;
            unguarded::heap_update(table, place, tuple, command, crosscheck, true, &mut failure, &mut mode, &mut indexes)
        }
    }
}

/// Locks the row as FOR NO KEY UPDATE does, and works on it. The lock stays until the (sub)transaction ends.
pub fn lock<const COLUMNS: usize, T>(
    access: &Access<COLUMNS>,
    place: Place,
    snapshot: ActiveSnapshot,
    version: Version,
    wait: Wait,
    work: impl FnOnce(&LockedRow<'_, COLUMNS>) -> T,
) -> Lock<T> {
    // SAFETY: the sequence of nodeLockRows.c: the row was found with the snapshot; the slot is made for the table and holds
    // the row's version pinned until it is dropped. On an ERROR the server's resource owner cleans up.
    unsafe {
        let table = pg_sys::table_open(access.table, pg_sys::RowExclusiveLock as i32);
        let slot = pg_sys::table_slot_create(table, std::ptr::null_mut());
        let mut tid = place.tid;
        let mut failure: pg_sys::TM_FailureData = std::mem::zeroed();
        let flags = match version {
            Version::Newest if sees_what_is_committed() => pg_sys::TUPLE_LOCK_FLAG_FIND_LAST_VERSION as u8,
            Version::Newest | Version::Seen => 0,
        };
        let policy = match wait {
            Wait::Skip => pg_sys::LockWaitPolicy::LockWaitSkip,
            Wait::Block => pg_sys::LockWaitPolicy::LockWaitBlock,
        };
        let tuple_lock = (*(*table).rd_tableam).tuple_lock.expect("heap tables lock tuples");
        let command = pg_sys::GetCurrentCommandId(true);
        let result = pg_guard_ffi_boundary(|| {
            tuple_lock(
                table,
                &mut tid,
                snapshot.as_ptr(),
                slot,
                command,
                pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
                policy,
                flags,
                &mut failure,
            )
        });
        let locked = match result {
            pg_sys::TM_Result::TM_Ok => {
                let mut should_free = false;
                let tuple = pg_sys::ExecFetchSlotHeapTuple(slot, false, &mut should_free);
                let mut row = LockedRow {
                    access,
                    table,
                    tuple,
                    values: [pg_sys::Datum::from(0); MAX_COLUMNS],
                    nulls: [false; MAX_COLUMNS],
                    is_newer: failure.traversed,
                };
                pg_sys::heap_deform_tuple(tuple, (*table).rd_att, row.values.as_mut_ptr(), row.nulls.as_mut_ptr());
                Lock::Taken(work(&row))
            }
            pg_sys::TM_Result::TM_WouldBlock => Lock::Held,
            pg_sys::TM_Result::TM_SelfModified => Lock::Newer,
            _ => newer(),
        };
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::table_close(table, pg_sys::NoLock as i32);
        locked
    }
}

/// The transactions that have a row, to wait for once nothing is locked any more: the row itself may not be there then.
pub struct Holders(Vec<pg_sys::TransactionId>);

impl Holders {
    /// Those that have locked or changed the version of the row that the snapshot shows.
    pub fn of<const COLUMNS: usize>(access: &Access<COLUMNS>, place: Place, snapshot: ActiveSnapshot) -> Self {
        // SAFETY: the row was found with the snapshot, which keeps the version from being removed.
        let (mask, xmax) = unsafe {
            let table = pg_sys::table_open(access.table, pg_sys::AccessShareLock as i32);
            let mut tuple: pg_sys::HeapTupleData = std::mem::zeroed();
            tuple.t_self = place.tid;
            let mut buffer: pg_sys::Buffer = 0;
            let found = pg_sys::heap_fetch(table, snapshot.as_ptr(), &mut tuple, &mut buffer, false);
            assert!(found, "the snapshot shows the row");
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
            let header = (u32::from((*tuple.t_data).t_infomask), (*tuple.t_data).t_choice.t_heap.t_xmax);
            pg_sys::UnlockReleaseBuffer(buffer);
            pg_sys::table_close(table, pg_sys::NoLock as i32);
            header
        };
        if mask & pg_sys::HEAP_XMAX_INVALID != 0 {
            return Self(Vec::new());
        }
        if mask & pg_sys::HEAP_XMAX_IS_MULTI == 0 {
            return Self(vec![xmax]);
        }
        // SAFETY: the members of a multixact that a row has are on record. The server allocates them in the current context.
        unsafe {
            let mut members = std::ptr::null_mut();
            let only_locked = mask & pg_sys::HEAP_XMAX_LOCK_ONLY != 0;
            let count = pg_sys::GetMultiXactIdMembers(xmax, &mut members, false, only_locked);
            let members = (0..usize::try_from(count).unwrap_or(0)).map(|index| *members.add(index));
            // A key share, as a foreign key takes it, keeps nobody from the row.
            let in_the_way =
                |member: &pg_sys::MultiXactMember| member.status > pg_sys::MultiXactStatus::MultiXactStatusForKeyShare;
            Self(members.filter(in_the_way).map(|member| member.xid).collect())
        }
    }

    pub fn wait(self) {
        self.0.into_iter().for_each(wait_for_transaction);
    }
}

/// Waits for the end of a transaction or subtransaction. One that has ended into its parent goes on as the parent: unlike the
/// server, which then waits for the whole transaction, this notices when the parent is rolled back.
fn wait_for_transaction(id: pg_sys::TransactionId) {
    let mut id = id;
    // SAFETY: the locks that XactLockTableWait takes. A transaction in progress has its parent on record.
    unsafe {
        while id != pg_sys::InvalidTransactionId && !pg_sys::TransactionIdIsCurrentTransactionId(id) {
            let tag = pg_sys::LOCKTAG {
                locktag_field1: id.into_inner(),
                locktag_field2: 0,
                locktag_field3: 0,
                locktag_field4: 0,
                locktag_type: pg_sys::LockTagType::LOCKTAG_TRANSACTION as u8,
                locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
            };
            pg_sys::LockAcquire(&tag, pg_sys::ShareLock as i32, false, false);
            pg_sys::LockRelease(&tag, pg_sys::ShareLock as i32, false);
            if !pg_sys::TransactionIdIsInProgress(id) {
                break;
            }
            id = pg_sys::SubTransGetParent(id);
        }
    }
}

fn newer<T>() -> Lock<T> {
    if sees_what_is_committed() { Lock::Newer } else { Lock::Conflict }
}

/// New values as the server takes them.
struct Changes<const COLUMNS: usize> {
    count: usize,
    columns: [i32; COLUMNS],
    values: [pg_sys::Datum; COLUMNS],
    nulls: [bool; COLUMNS],
}

impl<const COLUMNS: usize> Changes<COLUMNS> {
    fn of(access: &Access<COLUMNS>, changes: &[(usize, NewValue)]) -> Self {
        let mut columns = [0; COLUMNS];
        let mut values = [pg_sys::Datum::from(0); COLUMNS];
        for (place, (column, value)) in changes.iter().enumerate() {
            columns[place] = i32::from(access.columns[*column]);
            values[place] = value.to_datum();
        }
        Self { count: changes.len(), columns, values, nulls: [false; COLUMNS] }
    }

    /// A copy of the tuple with the columns changed.
    ///
    /// # Safety
    /// `tuple` is one of `table`, which the changes are for. May raise an error.
    unsafe fn apply(&mut self, table: pg_sys::Relation, tuple: pg_sys::HeapTuple) -> pg_sys::HeapTuple {
        let (columns, values, nulls) = (&mut self.columns, &mut self.values, &mut self.nulls);
        // SAFETY: by contract; the values are of the columns' types.
        unsafe {
            heap_modify_tuple_by_cols(
                tuple,
                (*table).rd_att,
                self.count as i32,
                columns.as_mut_ptr(),
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            )
        }
    }
}

/// Makes a new version findable, where the old version's index entries do not lead to it.
///
/// # Safety
/// `tuple` was just stored in `table`.
unsafe fn make_findable(table: pg_sys::Relation, tuple: pg_sys::HeapTuple) {
    // SAFETY: by contract.
    unsafe {
        if u32::from((*(*tuple).t_data).t_infomask2) & pg_sys::HEAP_ONLY_TUPLE == 0 {
            insert_index_entries(table, tuple);
        }
    }
}

/// # Safety
/// `tuple` was just stored in `table`, whose indexes are neither partial nor on expressions.
pub(super) unsafe fn insert_index_entries(table: pg_sys::Relation, tuple: pg_sys::HeapTuple) {
    // SAFETY: by contract; as CatalogTupleUpdate does it. Of a new version the unique indexes find the old one, which this
    // transaction has just ended, and no other.
    unsafe {
        let slot = pg_sys::MakeSingleTupleTableSlot((*table).rd_att, &pg_sys::TTSOpsHeapTuple);
        pg_sys::ExecStoreHeapTuple(tuple, slot, false);
        let indexes = pg_sys::RelationGetIndexList(table);
        for place in 0..pg_sys::list_length(indexes) {
            let index = pg_sys::index_open(pg_sys::list_nth_oid(indexes, place), pg_sys::RowExclusiveLock as i32);
            // One that REINDEX CONCURRENTLY has not begun to fill gets its entries when it does.
            if (*(*index).rd_index).indisready {
                insert_index_entry(table, index, tuple, slot);
            }
            pg_sys::index_close(index, pg_sys::NoLock as i32);
        }
        pg_sys::list_free(indexes);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
    }
}

/// # Safety
/// `index` is one of `table`, and `slot` holds `tuple`, which was just stored there.
unsafe fn insert_index_entry(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    tuple: pg_sys::HeapTuple,
    slot: *mut pg_sys::TupleTableSlot,
) {
    // SAFETY: by contract.
    unsafe {
        let info = pg_sys::BuildIndexInfo(index);
        let mut values = [pg_sys::Datum::from(0); pg_sys::INDEX_MAX_KEYS as usize];
        let mut nulls = [false; pg_sys::INDEX_MAX_KEYS as usize];
        pg_sys::FormIndexDatum(info, slot, std::ptr::null_mut(), values.as_mut_ptr(), nulls.as_mut_ptr());
        let check = if (*(*index).rd_index).indisunique {
            pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
        } else {
            pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO
        };
        let place = &mut (*tuple).t_self;
        pg_sys::index_insert(index, values.as_mut_ptr(), nulls.as_mut_ptr(), place, table, check, true, info);
    }
}
