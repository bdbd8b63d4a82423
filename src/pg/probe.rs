//! A look at one leaf of a btree: what a scan that finds few entries does, without what it sets up for many.
//!
//! The server's own scan allocates some 50 kB, prepares its keys in two forms and keeps a list of what it found. For the two scans
//! of a first check that is half of the time.

use super::btree::{FOR_READING, Trail, Wanted, visit};
use super::scan::{MAX_INDEX_COLUMNS, Place, Row, block_of};
use super::snapshot::ActiveSnapshot;
use super::unguarded::{
    LockBuffer, ReadBuffer, UnlockReleaseBuffer, heap_hot_search_buffer, heap_page_prune_opt, index_deform_tuple,
};
use pgrx::pg_sys;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;

/// Words that are copied of a leaf at most: some sixty subscriptions.
const MOST_WORDS: usize = 512;

/// Entries that no snapshot may show any more, and whose rows have to be looked at to know: with more of them the server's scan is
/// better, which tells who comes later.
const MOST_UNSEEN: usize = 8;

/// Entries of one leaf.
pub(super) struct Entries {
    words: [MaybeUninit<u64>; MOST_WORDS],
    used: usize,
}

impl Entries {
    pub(super) fn new() -> Self {
        Self { words: [MaybeUninit::uninit(); MOST_WORDS], used: 0 }
    }

    /// Copies an entry. False where there is no room for it.
    ///
    /// # Safety
    /// `entry` is one of a leaf that is locked.
    unsafe fn push(&mut self, entry: pg_sys::IndexTuple) -> bool {
        // SAFETY: by contract; the entry has as many words as it says, and begins at one.
        unsafe {
            let words = words_of_entry(entry);
            let Some(room) = self.words.get_mut(self.used..self.used + words) else { return false };
            std::ptr::copy_nonoverlapping(entry.cast::<u64>(), room.as_mut_ptr().cast(), words);
            self.used += words;
            true
        }
    }

    /// Keeps the entries of which `is_kept` says so. False where it does not know of one.
    fn retain(&mut self, mut is_kept: impl FnMut(pg_sys::ItemPointerData) -> Option<bool>) -> bool {
        let (mut next, mut kept) = (0, 0);
        while next < self.used {
            let entry = self.words[next..].as_mut_ptr().cast::<pg_sys::IndexTupleData>();
            // SAFETY: `push` has put an entry there.
            let (place, words) = unsafe { ((*entry).t_tid, words_of_entry(entry)) };
            match is_kept(place) {
                None => return false,
                Some(true) => {
                    self.words.copy_within(next..next + words, kept);
                    kept += words;
                }
                Some(false) => {}
            }
            next += words;
        }
        self.used = kept;
        true
    }

    /// Calls `visit` with each entry as a row.
    ///
    /// # Safety
    /// `index` is the open index that the entries are of.
    pub(super) unsafe fn visit<const COLUMNS: usize>(
        &mut self,
        columns: &[i16; COLUMNS],
        index: pg_sys::Relation,
        mut visit: impl FnMut(&Row<'_, COLUMNS>) -> ControlFlow<()>,
    ) {
        // SAFETY: by contract.
        let descriptor = unsafe { (*index).rd_att };
        // SAFETY: as before.
        assert!(unsafe { (*descriptor).natts } as usize <= MAX_INDEX_COLUMNS, "room for all columns");
        let mut values = [pg_sys::Datum::from(0); MAX_INDEX_COLUMNS];
        let mut nulls = [false; MAX_INDEX_COLUMNS];
        let mut next = 0;
        while next < self.used {
            let entry = self.words[next..].as_mut_ptr().cast::<pg_sys::IndexTupleData>();
            // SAFETY: `push` has put an entry of this index there, and the arrays have room for its columns.
            let place = unsafe {
                index_deform_tuple(entry, descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
                next += words_of_entry(entry);
                (*entry).t_tid
            };
            let row = Row {
                columns,
                values: &values,
                nulls: &nulls,
                place: Place::at(place),
                written_by: pg_sys::InvalidTransactionId,
            };
            if visit(&row).is_break() {
                return;
            }
        }
    }
}

/// How long an entry is: entries are whole words.
///
/// # Safety
/// `entry` points to an entry of an index.
unsafe fn words_of_entry(entry: pg_sys::IndexTuple) -> usize {
    // SAFETY: by contract. INDEX_SIZE_MASK.
    unsafe { usize::from((*entry).t_info & 0x1FFF) / size_of::<u64>() }
}

/// The entries of an index that are wanted and whose rows the snapshot shows, in order. False where that takes a scan: they are
/// too many, or have many that no snapshot shows among them.
///
/// # Safety
/// As for `visit`. The transaction is not serializable, for no predicate lock is left.
pub(super) unsafe fn probe(
    (table, index): (pg_sys::Relation, pg_sys::Relation),
    wanted: &Wanted<'_>,
    snapshot: ActiveSnapshot,
    entries: &mut Entries,
) -> bool {
    // SAFETY: by contract. As nodeIndexonlyscan.c and nbtree do it together: a leaf is locked while entries are copied, and pinned
    // until it is known which rows the snapshot shows, which keeps VACUUM from removing an entry and giving its row's place away.
    unsafe {
        let mut trail = Trail::last_of((*index).rd_id);
        let leaves = visit(index, table, wanted, &mut trail, |entry| entries.push(entry));
        let Some(leaves) = leaves else { return false };
        count_scan(index);
        let mut unseen = 0;
        let is_known = entries.retain(|place| {
            if trail.map.shows_all(table, block_of(&place)) || is_shown(table, place, snapshot) {
                return Some(true);
            }
            unseen += 1;
            (unseen <= MOST_UNSEEN).then_some(false)
        });
        trail.map.release();
        leaves.release();
        trail.remember();
        is_known
    }
}

/// Whether the snapshot shows a row that an entry points to.
///
/// # Safety
/// The table is open and locked. May raise an error.
unsafe fn is_shown(table: pg_sys::Relation, mut place: pg_sys::ItemPointerData, snapshot: ActiveSnapshot) -> bool {
    // SAFETY: by contract; as heapam_index_fetch_tuple does it.
    unsafe {
        let buffer = ReadBuffer(table, block_of(&place));
        heap_page_prune_opt(table, buffer);
        LockBuffer(buffer, FOR_READING);
        let mut tuple: pg_sys::HeapTupleData = std::mem::zeroed();
        let found =
            heap_hot_search_buffer(&mut place, table, buffer, snapshot.as_ptr(), &mut tuple, std::ptr::null_mut(), true);
        UnlockReleaseBuffer(buffer);
        found
    }
}

/// pg_stat_user_indexes shows the index in use.
///
/// # Safety
/// The index is open.
unsafe fn count_scan(index: pg_sys::Relation) {
    // SAFETY: by contract; where statistics are kept, reading a page has made a place for them.
    unsafe {
        let Some(statistics) = (*index).pgstat_info.as_mut() else { return };
        #[cfg(feature = "pg15")]
        let scans = &mut statistics.t_counts.t_numscans;
        #[cfg(not(feature = "pg15"))]
        let scans = &mut statistics.counts.numscans;
        *scans += 1;
    }
}
