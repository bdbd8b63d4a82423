//! A look at one leaf of a btree: what a scan that finds few entries does, without what it sets up for many.
//!
//! The server's own scan allocates some 50 kB, prepares its keys in two forms and keeps a list of what it found. For the two scans
//! of a first check that is half of the time. Descending is left to nbtree.

use super::backend::BackendLocal;
use super::change_mark::btree_page;
use super::relations::Access;
use super::scan::{Condition, MAX_COLUMNS, Place, Row, block_of};
use super::snapshot::ActiveSnapshot;
use super::unguarded::{
    self, _bt_freestack, BufferGetBlockNumber, LockBuffer, ReadBuffer, ReadRecentBuffer, ReleaseBuffer,
    ScanKeyEntryInitialize, TransactionStartedDuringRecovery, UnlockReleaseBuffer, file_of, heap_hot_search_buffer,
    heap_page_prune_opt, index_deform_tuple, visibilitymap_get_status,
};
use super::values;
use pgrx::pg_sys;
use std::cmp::Ordering;
use std::ffi::{c_int, c_void};
use std::mem::{MaybeUninit, offset_of};
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
        let mut values = [pg_sys::Datum::from(0); MAX_COLUMNS];
        let mut nulls = [false; MAX_COLUMNS];
        let mut next = 0;
        while next < self.used {
            let entry = self.words[next..].as_mut_ptr().cast::<pg_sys::IndexTupleData>();
            // SAFETY: `push` has put an entry of this index there, and the arrays have room for its columns.
            let place = unsafe {
                index_deform_tuple(entry, (*index).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
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

/// nbtree.h: BTScanInsertData, the same in all versions, and shorter by the keys that are never looked at.
#[repr(C)]
pub(super) struct InsertionKey {
    heapkeyspace: bool,
    allequalimage: bool,
    anynullkeys: bool,
    nextkey: bool,
    pivotsearch_or_backward: bool,
    scantid: pg_sys::ItemPointer,
    keysz: c_int,
    scankeys: [pg_sys::ScanKeyData; 2],
}

/// Bytes of the longest text that is looked for this way: that of an account's key. An index compresses only longer ones.
const LONGEST_TEXT: usize = 255;

const TEXT_WORDS: usize = (pg_sys::VARHDRSZ + LONGEST_TEXT).div_ceil(size_of::<u32>());

type TextRoom = [u32; TEXT_WORDS];

/// What a probe looks for: the entries that have one value in the first column, and of these those that have a later time in the
/// second.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    first: First<'a>,
    after: Option<i64>,
}

#[derive(Clone, Copy)]
enum First<'a> {
    Text(&'a [u8]),
    Int8(i64),
}

impl<'a> Wanted<'a> {
    /// None where the conditions are of another form.
    pub(super) fn of<const COLUMNS: usize>(access: &Access<COLUMNS>, conditions: &[Condition<'a>]) -> Option<Self> {
        let (first, column) = match *conditions.first()? {
            Condition::TextIs(column, text) => (First::Text(text), column),
            Condition::Int8Is(column, value) => (First::Int8(value), column),
            _ => return None,
        };
        let after = match (conditions.get(1), first) {
            (None, First::Text(text)) if text.len() > LONGEST_TEXT => return None,
            (None, _) => None,
            (Some(Condition::After(second, time)), First::Int8(_)) if access.columns[*second] == 2 => Some(*time),
            (Some(_), _) => return None,
        };
        (access.columns[column] == 1 && conditions.len() <= 2).then_some(Self { first, after })
    }

    /// How the first column of an entry compares with the one that is wanted.
    ///
    /// # Safety
    /// `entry` is one of a leaf of this index that is locked, or what bounds the leaf.
    unsafe fn compare_first(&self, entry: pg_sys::IndexTuple) -> Ordering {
        // SAFETY: by contract; the column is there, and not null. Text is neither compressed nor stored elsewhere in an index.
        unsafe {
            let value = values_of(entry);
            match self.first {
                First::Int8(wanted) => value.cast::<i64>().read().cmp(&wanted),
                First::Text(wanted) => {
                    values::plain_text(pg_sys::Datum::from(value)).map_or(Ordering::Less, |text| text.cmp(wanted))
                }
            }
        }
    }

    /// Whether an entry comes before those that are wanted.
    ///
    /// # Safety
    /// `entry` is one of a leaf of this index that is locked, and does not bound it.
    unsafe fn comes_after(&self, entry: pg_sys::IndexTuple) -> bool {
        // SAFETY: by contract; the second column is there too, not null, and aligned behind the first.
        unsafe {
            match (self.compare_first(entry), self.after) {
                (Ordering::Equal, Some(after)) => values_of(entry).cast::<i64>().add(1).read() <= after,
                (order, _) => order.is_lt(),
            }
        }
    }

    /// As nbtree takes it, for as long as `room` is there.
    fn to_key(self, room: &mut TextRoom) -> InsertionKey {
        let (procedure, collation, argument) = match self.first {
            First::Text(text) => {
                // SAFETY: there is room for the header and the longest text, aligned for the header.
                let argument = unsafe {
                    pgrx::set_varsize_4b(room.as_mut_ptr().cast(), (pg_sys::VARHDRSZ + text.len()) as i32);
                    std::ptr::copy_nonoverlapping(
                        text.as_ptr(),
                        room.as_mut_ptr().cast::<u8>().add(pg_sys::VARHDRSZ),
                        text.len(),
                    );
                    pg_sys::Datum::from(room.as_ptr())
                };
                (pg_sys::F_BTTEXTCMP, pg_sys::C_COLLATION_OID, argument)
            }
            First::Int8(value) => (pg_sys::F_BTINT8CMP, pg_sys::InvalidOid, pg_sys::Datum::from(value)),
        };
        // SAFETY: a key of zeros is a valid value of the C type; the procedures are what the index orders its columns by.
        unsafe {
            let mut key = InsertionKey { heapkeyspace: true, keysz: 1, ..std::mem::zeroed() };
            fill(&mut key.scankeys[0], 1, procedure, collation, argument);
            if let Some(after) = self.after {
                (key.nextkey, key.keysz) = (true, 2);
                let argument = pg_sys::Datum::from(after);
                fill(&mut key.scankeys[1], 2, pg_sys::F_TIMESTAMPTZ_CMP, pg_sys::InvalidOid, argument);
            }
            key
        }
    }
}

/// # Safety
/// The procedure compares values of the argument's type.
unsafe fn fill(key: &mut pg_sys::ScanKeyData, column: i16, procedure: u32, collation: pg_sys::Oid, argument: pg_sys::Datum) {
    // SAFETY: by contract. A key for comparing has no strategy.
    unsafe {
        ScanKeyEntryInitialize(key, 0, column, 0, pg_sys::InvalidOid, collation, pg_sys::Oid::from(procedure), argument);
    }
}

/// Where the values of an entry begin.
///
/// # Safety
/// `entry` points to an entry of an index.
unsafe fn values_of(entry: pg_sys::IndexTuple) -> *const u8 {
    // SAFETY: by contract. IndexInfoFindDataOffset; INDEX_NULL_MASK tells whether there is a bitmap of nulls.
    unsafe { entry.cast::<u8>().add(if (*entry).t_info & 0x8000 == 0 { 8 } else { 16 }) }
}

/// Where a leaf is in the server's memory.
#[derive(Clone, Copy)]
struct Leaf {
    index: pg_sys::Oid,
    block: pg_sys::BlockNumber,
    buffer: pg_sys::Buffer,
}

/// The last leaf that was looked at, of each index: who asks about accounts in their order, or about neighbours, need not descend.
static LAST_LEAVES: BackendLocal<Vec<Leaf>> = BackendLocal::new(Vec::new);

impl Leaf {
    fn last_of(index: pg_sys::Oid) -> Option<Self> {
        LAST_LEAVES.with(|known| known.iter().find(|leaf| leaf.index == index).copied())
    }

    fn remember(self) {
        /// More indexes than are probed; DROP and CREATE EXTENSION make others.
        const MOST: usize = 8;
        LAST_LEAVES.with(|known| match known.iter_mut().find(|leaf| leaf.index == self.index) {
            Some(leaf) => *leaf = self,
            None => {
                if known.len() == MOST {
                    known.clear();
                }
                known.push(self);
            }
        });
    }

    /// Locks it, if it is still in memory and a leaf, and whatever is wanted lies between its entries.
    ///
    /// # Safety
    /// The index is open and locked. May raise an error.
    unsafe fn lock_if_it_has(self, index: pg_sys::Relation, wanted: &Wanted<'_>) -> Option<pg_sys::Buffer> {
        // SAFETY: pinned if it is this page of the index's file, then looked at under its lock.
        unsafe {
            if !ReadRecentBuffer(file_of(index), pg_sys::ForkNumber::MAIN_FORKNUM, self.block, self.buffer) {
                return None;
            }
            LockBuffer(self.buffer, pg_sys::BUFFER_LOCK_SHARE as c_int);
            let page = LeafPage::of(self.buffer);
            if page.is_leaf && page.surrounds(wanted) {
                return Some(self.buffer);
            }
            UnlockReleaseBuffer(self.buffer);
            None
        }
    }
}

/// A page of a btree that is locked.
#[derive(Clone, Copy)]
struct LeafPage {
    page: pg_sys::Page,
    is_leaf: bool,
    /// Nothing lies behind it.
    is_last: bool,
    /// Places of its entries; all leaves but the last begin with what bounds them, which is none.
    begin: u16,
    end: u16,
}

impl LeafPage {
    /// # Safety
    /// The buffer has a page of a btree, pinned and locked.
    unsafe fn of(buffer: pg_sys::Buffer) -> Self {
        // SAFETY: by contract; line pointers lie between the page's header and pd_lower (bufpage.h).
        unsafe {
            let page = pg_sys::BufferGetPage(buffer);
            let header = &*page.cast::<pg_sys::PageHeaderData>();
            let bytes = usize::from(header.pd_lower).saturating_sub(offset_of!(pg_sys::PageHeaderData, pd_linp));
            let end = (bytes / size_of::<pg_sys::ItemIdData>()) as u16 + 1;
            let (is_leaf, is_last) = (btree_page(page).is_leaf(), btree_page(page).next == 0);
            Self { page, is_leaf, is_last, begin: if is_last { 1 } else { 2 }, end }
        }
    }

    /// # Safety
    /// The page has this place, and is locked.
    unsafe fn line_pointer(&self, place: u16) -> pg_sys::ItemIdData {
        // SAFETY: by contract.
        unsafe { *(*self.page.cast::<pg_sys::PageHeaderData>()).pd_linp.as_ptr().add(usize::from(place) - 1) }
    }

    /// # Safety
    /// As `line_pointer`.
    unsafe fn entry(&self, place: u16) -> pg_sys::IndexTuple {
        // SAFETY: line pointers point to entries.
        unsafe { self.page.add(self.line_pointer(place).lp_off() as usize).cast() }
    }

    /// Whether all entries with the first column that is wanted are here, if there are any.
    ///
    /// # Safety
    /// The page is a leaf, and locked.
    unsafe fn surrounds(&self, wanted: &Wanted<'_>) -> bool {
        // SAFETY: by contract.
        unsafe {
            self.begin < self.end && wanted.compare_first(self.entry(self.begin)).is_lt() && self.is_before_bound(wanted)
        }
    }

    /// Whether no entry with the first column that is wanted lies behind the page.
    ///
    /// # Safety
    /// As `surrounds`.
    unsafe fn is_before_bound(&self, wanted: &Wanted<'_>) -> bool {
        // SAFETY: by contract; what bounds a leaf has the first column.
        unsafe { self.is_last || wanted.compare_first(self.entry(1)).is_gt() }
    }

    /// Copies the wanted entries. False where the page does not have all of them, or they are too many.
    ///
    /// # Safety
    /// The page is the one on which the entries begin, or would, and is locked. May raise an error.
    unsafe fn copy_entries(&self, wanted: &Wanted<'_>, entries: &mut Entries) -> bool {
        // SAFETY: by contract.
        unsafe {
            let (mut from, mut to) = (self.begin, self.end);
            while from < to {
                let middle = from + (to - from) / 2;
                if wanted.comes_after(self.entry(middle)) { from = middle + 1 } else { to = middle }
            }
            for place in from..self.end {
                let entry = self.entry(place);
                if wanted.compare_first(entry).is_ne() {
                    return true;
                }
                if self.line_pointer(place).lp_flags() == pg_sys::LP_DEAD && !TransactionStartedDuringRecovery() {
                    continue;
                }
                // INDEX_ALT_TID_MASK: one that stands for many.
                if (*entry).t_info & 0x2000 != 0 || !entries.push(entry) {
                    return false;
                }
            }
            self.is_before_bound(wanted)
        }
    }
}

/// The entries of an index that are wanted and whose rows the snapshot shows, in order. False where that takes a scan: they go on
/// in the next leaf, are too many, or have many that no snapshot shows among them.
///
/// # Safety
/// The index is a btree of the table, as new as PostgreSQL 12, whose columns are not null and in ascending order; both are open
/// and locked. The transaction is not serializable, for no predicate lock is left. May raise an error.
pub(super) unsafe fn probe(
    (table, index): (pg_sys::Relation, pg_sys::Relation),
    wanted: &Wanted<'_>,
    snapshot: ActiveSnapshot,
    entries: &mut Entries,
) -> bool {
    // SAFETY: by contract. As nodeIndexonlyscan.c and nbtree do it together: the leaf is locked while entries are copied, and pinned
    // until it is known which rows the snapshot shows, which keeps VACUUM from removing an entry and giving its row's place away.
    unsafe {
        let known = Leaf::last_of((*index).rd_id).and_then(|leaf| leaf.lock_if_it_has(index, wanted));
        let leaf = match known {
            Some(leaf) => leaf,
            None => {
                let mut leaf: pg_sys::Buffer = 0;
                let mut room = [0; TEXT_WORDS];
                let stack = search(index, table, &mut wanted.to_key(&mut room), &mut leaf, snapshot);
                _bt_freestack(stack);
                if leaf == 0 {
                    return true;
                }
                Leaf { index: (*index).rd_id, block: BufferGetBlockNumber(leaf), buffer: leaf }.remember();
                leaf
            }
        };
        count_scan(index);
        let is_complete = LeafPage::of(leaf).copy_entries(wanted, entries);
        if !is_complete || entries.used == 0 {
            UnlockReleaseBuffer(leaf);
            return is_complete;
        }
        LockBuffer(leaf, pg_sys::BUFFER_LOCK_UNLOCK as c_int);
        let mut map_page: pg_sys::Buffer = 0;
        let mut unseen = 0;
        let is_known = entries.retain(|place| {
            let status = visibilitymap_get_status(table, block_of(&place), &mut map_page);
            if u32::from(status) & pg_sys::VISIBILITYMAP_ALL_VISIBLE != 0 || is_shown(table, place, snapshot) {
                return Some(true);
            }
            unseen += 1;
            (unseen <= MOST_UNSEEN).then_some(false)
        });
        if map_page != 0 {
            ReleaseBuffer(map_page);
        }
        ReleaseBuffer(leaf);
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
        LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as c_int);
        let mut tuple: pg_sys::HeapTupleData = std::mem::zeroed();
        let found =
            heap_hot_search_buffer(&mut place, table, buffer, snapshot.as_ptr(), &mut tuple, std::ptr::null_mut(), true);
        UnlockReleaseBuffer(buffer);
        found
    }
}

/// # Safety
/// As `probe`.
#[cfg_attr(feature = "pg15", allow(unused_variables))]
unsafe fn search(
    index: pg_sys::Relation,
    table: pg_sys::Relation,
    key: &mut InsertionKey,
    leaf: &mut pg_sys::Buffer,
    snapshot: ActiveSnapshot,
) -> *mut c_void {
    const FOR_READING: c_int = pg_sys::BUFFER_LOCK_SHARE as c_int;
    // SAFETY: by contract. Before PostgreSQL 17 with a snapshot that is only compared with old_snapshot_threshold; since 16 with the
    // table, which is only for who writes.
    unsafe {
        #[cfg(feature = "pg15")]
        return unguarded::_bt_search(index, key, leaf, FOR_READING, snapshot.as_ptr());
        #[cfg(feature = "pg16")]
        return unguarded::_bt_search(index, table, key, leaf, FOR_READING, snapshot.as_ptr());
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        unguarded::_bt_search(index, table, key, leaf, FOR_READING)
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
