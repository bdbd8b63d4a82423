//! Marks of change: which transaction changed what decides about which account.
//!
//! Triggers write them, before each change of a row and in the same transaction, so a snapshot shows a mark exactly if it shows
//! what is marked. The memo looks for marks that a snapshot shows and the one before did not. The own transaction's changes are
//! not told by marks but by CHANGED_HERE: then nothing outlives a snapshot.

use super::backend::BackendLocal;
use super::btree::{FOR_READING, page_end};
use super::callbacks::{CHANGED_HERE, ROLLED_BACK, relations_epoch};
use super::change::insert_index_entries;
use super::page::line_pointers;
use super::relations::{Access, change_mark, oid_of};
use super::scan::{KEPT, LOCK};
use super::unguarded::{self, LockBuffer, RelFile, UnlockReleaseBuffer, file_of, index_close, table_close, table_open};
use super::whereabouts::{Known, MAIN};
use crate::error::Error;
use entitlements_server::mark::Marked;
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

static MARKED: BackendLocal<Marked> = BackendLocal::new(Marked::default);

/// Marks an account whose rows are about to change.
pub fn mark(account: i64) -> Result<(), Error> {
    CHANGED_HERE.raise();
    // SAFETY: gives the transaction an id, if it has none.
    let transaction = unsafe { pg_sys::GetTopFullTransactionId() }.value;
    let mark = MARKED.with(|marked| {
        if ROLLED_BACK.is_raised() {
            ROLLED_BACK.lower();
            marked.rolled_back();
        }
        marked.next(transaction, account)
    });
    match mark {
        Some((number, account)) => write(transaction, number, account),
        None => Ok(()),
    }
}

/// Where the last page of the index of marks is in the server's memory.
struct LastPage {
    file: RelFile,
    page: Known,
    /// Relations as they were when it was found.
    epoch: u64,
}

static LAST_PAGE: BackendLocal<Option<LastPage>> = BackendLocal::new(|| None);

/// Whether there may be marks of this transaction or of later ones, whoever sees them: the index is in the order of
/// transactions, so its last entry tells. Nearly always there is none, and this costs a small part of a scan that finds none.
///
/// The caller has a snapshot, and has noticed since which relations had changed: the page that is remembered is of the index in
/// which whoever the snapshot shows has put marks.
pub fn may_be_since(access: &Access<{ change_mark::COUNT }>, transaction: u64) -> bool {
    let last = LAST_PAGE.with(|known| {
        let last = known.as_mut().filter(|page| page.epoch == relations_epoch()).and_then(LastPage::last_mark);
        last.unwrap_or_else(|| {
            let (page, last) = LastPage::find(access);
            *known = page;
            last
        })
    });
    last.is_none_or(|last| last >= transaction)
}

impl LastPage {
    /// The transaction of the last mark, where the page is still in memory and the last one. Some(None) where that cannot be told.
    ///
    /// No lock on the index is needed: it is no page of the file that would be read, but the memory, and only as long as that
    /// is the page's.
    fn last_mark(&mut self) -> Option<Option<u64>> {
        // SAFETY: pinned if it is this page, then read under its lock.
        unsafe {
            pg_guard_ffi_boundary(|| {
                let buffer = self.page.pin(self.file, MAIN)?;
                LockBuffer(buffer, FOR_READING);
                let page = pg_sys::BufferGetPage(buffer);
                let last = (page_end(page).is_leaf() && page_end(page).next == 0).then(|| last_key(page));
                UnlockReleaseBuffer(buffer);
                last
            })
        }
    }

    /// The last page, and the transaction of the last mark. No page where there are no marks, and no mark where that cannot be told.
    fn find(access: &Access<{ change_mark::COUNT }>) -> (Option<Self>, Option<u64>) {
        // SAFETY: a read of the last page of an index that is open and locked.
        unsafe {
            pg_guard_ffi_boundary(|| {
                let (table, index) = (table_open(access.table, LOCK), access.open_index(LOCK));
                let buffer = last_leaf(index);
                let mut found = (None, Some(0));
                if buffer != 0 {
                    let page = Known::of(buffer);
                    let last = last_key(pg_sys::BufferGetPage(buffer));
                    UnlockReleaseBuffer(buffer);
                    found = (Some(Self { file: file_of(index), page, epoch: relations_epoch() }), last);
                }
                index_close(index, KEPT);
                table_close(table, KEPT);
                found
            })
        }
    }
}

/// The last page of leaves, locked; 0 where the index is empty.
///
/// # Safety
/// `index` is a btree that is open. May raise an error.
unsafe fn last_leaf(index: pg_sys::Relation) -> pg_sys::Buffer {
    // SAFETY: by contract. Before PostgreSQL 17 with a snapshot that is only compared with old_snapshot_threshold.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return unguarded::_bt_get_endpoint(index, 0, true, std::ptr::null_mut());
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        unguarded::_bt_get_endpoint(index, 0, true)
    }
}

/// The first column of the last entry of a leaf page, 0 where there is no entry at all; None where this page has none.
///
/// # Safety
/// `page` is locked, and the last leaf of an index whose first column is a bigint that is not null: so all of its entries are
/// whole ones, in order, and that column begins behind the entry's header.
unsafe fn last_key(page: pg_sys::Page) -> Option<u64> {
    // SAFETY: by contract; line pointers point to entries.
    unsafe {
        let Some(last) = line_pointers(page).last() else {
            return (page_end(page).previous == 0).then_some(0);
        };
        let entry = page.add(last.lp_off() as usize);
        Some(entry.add(size_of::<pg_sys::IndexTupleData>()).cast::<i64>().read() as u64)
    }
}

fn write(transaction: u64, number: i32, account: i64) -> Result<(), Error> {
    let table = oid_of(c"change_marks")?;
    // SAFETY: the values are of the columns' types, in the order in which they were declared. On an ERROR the server's resource
    // owner closes the table.
    unsafe {
        let table = pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32);
        let mut values =
            [pg_sys::Datum::from(transaction as i64), pg_sys::Datum::from(number), pg_sys::Datum::from(account)];
        let mut nulls = [false; 3];
        assert!((*(*table).rd_att).natts as usize == values.len(), "marks have three columns");
        let tuple = pg_sys::heap_form_tuple((*table).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::simple_heap_insert(table, tuple);
        insert_index_entries(table, tuple);
        pg_sys::heap_freetuple(tuple);
        pg_sys::table_close(table, pg_sys::NoLock as i32);
    }
    Ok(())
}
