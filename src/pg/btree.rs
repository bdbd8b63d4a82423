//! The pages of a btree, and the way down to a leaf, which is shorter where the server still has pages where they were last found.

use super::backend::BackendLocal;
use super::page::{LINE_POINTERS, line_pointers};
use super::relations::Access;
use super::scan::{Condition, block_of};
use super::unguarded::{self, LockBuffer, ReleaseBuffer, TransactionStartedDuringRecovery, UnlockReleaseBuffer, file_of};
use super::values;
use super::visibility::VisibilityMap;
use super::whereabouts::{Known, MAIN, pin};
use entitlements_server::search::{self, Share};
use pgrx::pg_sys;
use std::cmp::Ordering;
use std::ffi::{c_char, c_int};

pub(super) const FOR_READING: c_int = pg_sys::BUFFER_LOCK_SHARE as c_int;
pub(super) const UNLOCK: c_int = pg_sys::BUFFER_LOCK_UNLOCK as c_int;

/// nbtree.h: what stands at the end of each page.
#[repr(C)]
pub(super) struct PageEnd {
    /// 0 of the first one.
    pub(super) previous: pg_sys::BlockNumber,
    /// 0 of the last one.
    pub(super) next: pg_sys::BlockNumber,
    level: u32,
    flags: u16,
    cycle: u16,
}

impl PageEnd {
    /// Where it stands on a page.
    pub(super) const PLACE: usize = pg_sys::BLCKSZ as usize - size_of::<Self>();

    /// A page of leaves that is in use.
    pub(super) fn is_leaf(&self) -> bool {
        const LEAF: u16 = 1 << 0;
        self.flags & LEAF != 0 && self.is_in_use()
    }

    /// Neither BTP_DELETED nor BTP_HALF_DEAD.
    pub(super) fn is_in_use(&self) -> bool {
        const DELETED: u16 = 1 << 2 | 1 << 4;
        self.flags & DELETED == 0
    }
}

/// # Safety
/// `page` is one of a btree, locked.
pub(super) unsafe fn page_end<'a>(page: pg_sys::Page) -> &'a PageEnd {
    // SAFETY: by contract.
    unsafe { &*page.add(PageEnd::PLACE).cast() }
}

/// Bytes of the longest text that is looked for this way: that of an account's key. An index compresses only longer ones.
const LONGEST_TEXT: usize = 255;

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

    /// Whether the first of what is wanted lies behind an entry that parts two pages, in which columns that it lacks are less than
    /// any value.
    ///
    /// # Safety
    /// `entry` is one of a page of this index above the leaves, or what bounds a page, and the page is locked.
    unsafe fn lies_behind(&self, entry: pg_sys::IndexTuple) -> bool {
        // SAFETY: by contract; the columns that it has are not null, and aligned behind each other.
        unsafe {
            let (columns, is_whole) = columns_of_pivot(entry);
            if columns == 0 {
                return true;
            }
            match (self.compare_first(entry), self.after) {
                (Ordering::Less, _) => true,
                (Ordering::Greater, _) => false,
                // Equal ones are before it and behind it; those before it come first.
                (Ordering::Equal, None) => columns == 1 && !is_whole,
                (Ordering::Equal, Some(after)) => columns == 1 || values_of(entry).cast::<i64>().add(1).read() <= after,
            }
        }
    }

    /// About which share of the entries between two others that part pages come before those that are wanted.
    ///
    /// # Safety
    /// Both are of a page of this index above the leaves, which is locked, and have columns.
    unsafe fn share_between(&self, lower: pg_sys::IndexTuple, upper: pg_sys::IndexTuple) -> Option<Share> {
        // SAFETY: as in `compare_first`.
        unsafe {
            let (lower, upper) = (values_of(lower), values_of(upper));
            match self.first {
                First::Int8(wanted) => Some(Share::between(lower.cast::<i64>().read(), wanted, upper.cast::<i64>().read())),
                First::Text(wanted) => Some(Share::between_texts(
                    values::plain_text(pg_sys::Datum::from(lower))?,
                    wanted,
                    values::plain_text(pg_sys::Datum::from(upper))?,
                )),
            }
        }
    }
}

/// How many columns an entry has that parts two pages, and whether it tells the place of a row as well, which comes after the columns.
///
/// # Safety
/// `entry` is one of a page above the leaves, or what bounds a page, and the page is locked.
unsafe fn columns_of_pivot(entry: pg_sys::IndexTuple) -> (u16, bool) {
    // INDEX_ALT_TID_MASK, BT_OFFSET_MASK and BT_PIVOT_HEAP_TID_ATTR.
    const IS_PIVOT: u16 = 0x2000;
    const COLUMNS: u16 = 0x0FFF;
    const HAS_PLACE: u16 = 0x1000;
    // SAFETY: by contract.
    unsafe {
        match (*entry).t_info & IS_PIVOT {
            // Nothing of it was left out.
            0 => (COLUMNS, true),
            _ => ((*entry).t_tid.ip_posid & COLUMNS, (*entry).t_tid.ip_posid & HAS_PLACE != 0),
        }
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

/// The way that was last taken through an index.
#[derive(Clone, Copy)]
pub(super) struct Trail {
    index: pg_sys::Oid,
    /// The page from which the way down began.
    root: Known,
    leaf: Known,
    /// How often, one after the other, what was wanted was not on the last leaf.
    missed: u16,
    /// By level.
    forms: [PageForm; LEVELS],
    /// The table's.
    pub(super) map: VisibilityMap,
}

/// What pages of one level of an index have in common with their neighbours, about.
#[derive(Clone, Copy)]
struct PageForm {
    /// Places of its entries.
    places: u16,
    /// Where on the page the lowest entry begins.
    upper: u16,
}

impl PageForm {
    const UNKNOWN: Self = Self { places: 0, upper: 0 };

    /// # Safety
    /// The page is locked.
    unsafe fn of(page: &BtreePage) -> Self {
        // SAFETY: by contract.
        let upper = unsafe { (*page.page.cast::<pg_sys::PageHeaderData>()).pd_upper };
        Self { places: page.end - page.begin, upper }
    }

    /// Has the parts of such a page that a search looks at brought into the processor's cache, all at once, as far as they can be told
    /// before it is looked at: from the share of entries that come before what is wanted. Entries are laid down from the end of a page
    /// in their order, for the most part.
    ///
    /// # Safety
    /// `page` is that of a buffer.
    unsafe fn fetch(self, page: pg_sys::Page, share: Option<Share>) {
        const LINE: usize = 64;
        // SAFETY: by contract; nothing is read.
        unsafe {
            prefetch(page);
            prefetch(page.add(PageEnd::PLACE));
            let line_pointers = page.add(LINE_POINTERS);
            let line_pointer = |place: usize| line_pointers.add(place * size_of::<pg_sys::ItemIdData>());
            let Some(share) = share else {
                (1..8).for_each(|eighth| prefetch(line_pointer(usize::from(self.places) * eighth / 8)));
                return;
            };
            let place = share.of(self.places);
            prefetch(line_pointer(usize::from(place)));
            let filled = PageEnd::PLACE - usize::from(self.upper);
            let entry = PageEnd::PLACE - filled * usize::from(place + 1) / usize::from(self.places.max(1));
            (0..4).for_each(|line| prefetch(page.wrapping_add(entry + LINE).wrapping_sub(line * LINE)));
        }
    }
}

/// Levels of pages whose form is remembered, from the leaves on; those above have few pages.
const LEVELS: usize = 2;

/// The last one through each index: who asks about accounts in their order, or about neighbours, need not descend.
static TRAILS: BackendLocal<Vec<Trail>> = BackendLocal::new(Vec::new);

impl Trail {
    /// The last one, or none.
    pub(super) fn last_of(index: pg_sys::Oid) -> Self {
        let nothing = Self {
            index,
            root: Known::NONE,
            leaf: Known::NONE,
            missed: 0,
            forms: [PageForm::UNKNOWN; LEVELS],
            map: VisibilityMap::UNKNOWN,
        };
        TRAILS.with(|known| known.iter().find(|trail| trail.index == index).copied().unwrap_or(nothing))
    }

    pub(super) fn remember(self) {
        /// More indexes than are probed; DROP and CREATE EXTENSION make others.
        const MOST: usize = 8;
        TRAILS.with(|known| match known.iter_mut().find(|trail| trail.index == self.index) {
            Some(trail) => *trail = self,
            None => {
                if known.len() == MOST {
                    known.clear();
                }
                known.push(self);
            }
        });
    }

    /// Pins and locks the page from which the way down began, if it is still in memory and the only one of its level.
    ///
    /// # Safety
    /// The index is open and locked. May raise an error.
    unsafe fn lock_root(&self, index: pg_sys::Relation) -> Option<pg_sys::Buffer> {
        // SAFETY: looked at under its lock.
        unsafe {
            let buffer = self.root.pin(file_of(index), MAIN)?;
            LockBuffer(buffer, FOR_READING);
            let about = page_end(pg_sys::BufferGetPage(buffer));
            if about.is_in_use() && about.previous == 0 && about.next == 0 {
                return Some(buffer);
            }
            UnlockReleaseBuffer(buffer);
            None
        }
    }

    /// Whether what is wanted may lie on the last leaf. Who asks in no order is seldom in luck.
    fn is_worth_a_try(&self) -> bool {
        self.missed < 4 || self.missed.is_multiple_of(16)
    }

    /// Locks the leaf, if it is still in memory and one, and the entries that are wanted begin there, or would.
    ///
    /// # Safety
    /// The index is open and locked. May raise an error.
    unsafe fn lock_leaf_if_it_has(&self, index: pg_sys::Relation, wanted: &Wanted<'_>) -> Option<Descent> {
        // SAFETY: pinned if it is this page of the index's file, then looked at under its lock.
        unsafe {
            let buffer = self.leaf.pin(file_of(index), MAIN)?;
            LockBuffer(buffer, FOR_READING);
            let page = BtreePage::of(buffer);
            if page.is_leaf && page.surrounds(wanted) {
                return Some(Descent::Leaf(page, page.first_not(None, |entry| wanted.comes_after(entry))));
            }
            UnlockReleaseBuffer(buffer);
            None
        }
    }
}

/// A page of a btree that is locked.
#[derive(Clone, Copy)]
struct BtreePage {
    page: pg_sys::Page,
    /// 0 of leaves.
    level: u32,
    is_leaf: bool,
    is_in_use: bool,
    /// The page behind it; 0 of the last one.
    next: pg_sys::BlockNumber,
    /// Places of its entries; all pages but the last of a level begin with what bounds them, which is none.
    begin: u16,
    end: u16,
}

impl BtreePage {
    /// # Safety
    /// The buffer has a page of a btree, pinned and locked.
    unsafe fn of(buffer: pg_sys::Buffer) -> Self {
        // SAFETY: by contract.
        unsafe {
            let page = pg_sys::BufferGetPage(buffer);
            let end = line_pointers(page).len() as u16 + 1;
            let about = page_end(page);
            let (level, is_leaf, is_in_use, next) = (about.level, about.is_leaf(), about.is_in_use(), about.next);
            Self { page, level, is_leaf, is_in_use, next, begin: if next == 0 { 1 } else { 2 }, end }
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

    /// The first place whose entry does not come before something, which the entries of a page do in order. With a share, this is
    /// about how many of them do.
    ///
    /// # Safety
    /// The page is locked.
    unsafe fn first_not(&self, share: Option<Share>, comes_before: impl Fn(pg_sys::IndexTuple) -> bool) -> u16 {
        // SAFETY: by contract; all places between are the page's.
        let entry = |place| unsafe { self.entry(place) };
        search::first_not(
            self.begin..self.end,
            share,
            |place| prefetch(entry(place).cast()),
            |place| comes_before(entry(place)),
        )
    }

    /// Where what is wanted leads to from here.
    ///
    /// # Safety
    /// The page is locked.
    unsafe fn way(&self, wanted: &Wanted<'_>, share: Option<Share>) -> Way {
        if !self.is_in_use {
            return if self.next == 0 { Way::Lost } else { Way::Behind(self.next) };
        }
        // SAFETY: by contract. The first entry of a page above the leaves comes before everything. What bounds the page needs to be
        // looked at only where everything on it comes before what is wanted.
        unsafe {
            let at = match self.is_leaf {
                true => self.first_not(share, |entry| wanted.comes_after(entry)),
                false => self.first_not(share, |entry| wanted.lies_behind(entry)),
            };
            if at == self.end && self.next != 0 && wanted.lies_behind(self.entry(1)) {
                return Way::Behind(self.next);
            }
            match (self.is_leaf, at > self.begin) {
                (true, _) => Way::Here(at),
                (false, true) => Way::Below(block_of(&(*self.entry(at - 1)).t_tid), self.share_below(wanted, at)),
                (false, false) => Way::Lost,
            }
        }
    }

    /// About which share of the entries below the one before this place come before what is wanted.
    ///
    /// # Safety
    /// The page is one above the leaves, in use and locked, and has an entry before this place.
    unsafe fn share_below(&self, wanted: &Wanted<'_>, place: u16) -> Option<Share> {
        // SAFETY: by contract. The first entry has no columns.
        unsafe {
            if place - 1 == self.begin || place == self.end && self.next == 0 {
                return None;
            }
            let above = self.entry(if place == self.end { 1 } else { place });
            wanted.share_between(self.entry(place - 1), above)
        }
    }

    /// Whether the entries that are wanted begin here, or would, as far as can be told without those before.
    ///
    /// # Safety
    /// The page is a leaf, and locked.
    unsafe fn surrounds(&self, wanted: &Wanted<'_>) -> bool {
        // SAFETY: by contract.
        unsafe {
            self.begin < self.end
                && wanted.compare_first(self.entry(self.begin)).is_lt()
                && (self.next == 0 || !wanted.lies_behind(self.entry(1)))
        }
    }

    /// Calls `keep` with the wanted entries, which begin at a place, for as long as it says that it has kept them.
    ///
    /// # Safety
    /// The page is a leaf, and locked. May raise an error.
    unsafe fn visit_entries(
        &self,
        from: u16,
        wanted: &Wanted<'_>,
        keep: &mut impl FnMut(pg_sys::IndexTuple) -> bool,
    ) -> Visited {
        // SAFETY: by contract.
        unsafe {
            for place in from..self.end {
                let entry = self.entry(place);
                if wanted.compare_first(entry).is_ne() {
                    return Visited::All;
                }
                if self.line_pointer(place).lp_flags() == pg_sys::LP_DEAD && !TransactionStartedDuringRecovery() {
                    continue;
                }
                // INDEX_ALT_TID_MASK: one that stands for many.
                if (*entry).t_info & 0x2000 != 0 || !keep(entry) {
                    return Visited::NotKept;
                }
            }
            match self.next != 0 && wanted.compare_first(self.entry(1)).is_le() {
                true => Visited::AllBefore(self.next),
                false => Visited::All,
            }
        }
    }
}

/// Which of the wanted entries were visited.
enum Visited {
    All,
    /// There may be more on this page, which is the next one.
    AllBefore(pg_sys::BlockNumber),
    NotKept,
}

/// Leaves that are pinned, for as long as it must not happen that an entry is removed and its row's place given away.
pub(super) struct PinnedLeaves([pg_sys::Buffer; 2]);

impl PinnedLeaves {
    /// # Safety
    /// Called once. May raise an error.
    pub(super) unsafe fn release(&self) {
        for buffer in self.0 {
            if buffer != 0 {
                // SAFETY: pinned, by contract.
                unsafe { ReleaseBuffer(buffer) };
            }
        }
    }
}

/// Calls `keep` with the entries that are wanted. None, and nothing is pinned, where it cannot keep one, or they are on more than
/// two leaves.
///
/// # Safety
/// The index is a btree of the table, as new as PostgreSQL 12, whose columns are not null and in ascending order; both are open
/// and locked. May raise an error.
pub(super) unsafe fn visit(
    index: pg_sys::Relation,
    table: pg_sys::Relation,
    wanted: &Wanted<'_>,
    trail: &mut Trail,
    mut keep: impl FnMut(pg_sys::IndexTuple) -> bool,
) -> Option<PinnedLeaves> {
    // SAFETY: by contract; one leaf at a time is locked. Entries move to the right only.
    unsafe {
        let found = if trail.is_worth_a_try() { trail.lock_leaf_if_it_has(index, wanted) } else { None };
        trail.missed = if found.is_some() { 0 } else { trail.missed.wrapping_add(1) };
        let (page, at) = match found.unwrap_or_else(|| descend(index, table, wanted, trail)) {
            Descent::Leaf(page, at) => (page, at),
            Descent::Empty => return Some(PinnedLeaves([0; 2])),
            Descent::Lost => return None,
        };
        let mut leaves = PinnedLeaves([trail.leaf.buffer, 0]);
        let mut visited = page.visit_entries(at, wanted, &mut keep);
        LockBuffer(trail.leaf.buffer, UNLOCK);
        if let Visited::AllBefore(next) = visited {
            let buffer = pin(index, next, |page| trail.forms[0].fetch(page, Some(Share::NONE)));
            leaves.0[1] = buffer;
            LockBuffer(buffer, FOR_READING);
            let page = BtreePage::of(buffer);
            if page.is_leaf {
                visited = page.visit_entries(page.begin, wanted, &mut keep);
                (trail.leaf, trail.forms[0]) = (Known::of(buffer), PageForm::of(&page));
            }
            LockBuffer(buffer, UNLOCK);
        }
        if !matches!(visited, Visited::All) {
            leaves.release();
            return None;
        }
        Some(leaves)
    }
}

/// Asks the processor to bring what is there into its cache.
fn prefetch(place: *const c_char) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Where a page leads to.
enum Way {
    /// The wanted entries begin at this place of it, or would.
    Here(u16),
    /// They are on this page, or behind it.
    Behind(pg_sys::BlockNumber),
    /// They are on this page, a level below, or below or behind it, with about that share of its entries before them.
    Below(pg_sys::BlockNumber, Option<Share>),
    /// It is not what it has to be.
    Lost,
}

/// Where the way down has led.
enum Descent {
    /// To a leaf, which is pinned and locked, and the place on it at which the entries that are wanted begin, or would.
    Leaf(BtreePage, u16),
    /// The index is empty.
    Empty,
    Lost,
}

/// From the root to a leaf, as _bt_search goes: without holding a page while the next one is read, so that it may have been split
/// or emptied meanwhile, and what is wanted lies further behind (Lehman and Yao, 1981). `trail` is the way taken before, and this one afterwards.
///
/// # Safety
/// As `visit`.
#[cfg_attr(feature = "pg15", allow(unused_variables))]
unsafe fn descend(index: pg_sys::Relation, table: pg_sys::Relation, wanted: &Wanted<'_>, trail: &mut Trail) -> Descent {
    // SAFETY: by contract; one page at a time is pinned and locked.
    unsafe {
        let mut buffer = match trail.lock_root(index) {
            Some(buffer) => buffer,
            None => {
                #[cfg(feature = "pg15")]
                let buffer = unguarded::_bt_getroot(index, FOR_READING);
                #[cfg(not(feature = "pg15"))]
                let buffer = unguarded::_bt_getroot(index, table, FOR_READING);
                if buffer == 0 {
                    return Descent::Empty;
                }
                buffer
            }
        };
        trail.root = Known::of(buffer);
        let mut share = None;
        loop {
            let page = BtreePage::of(buffer);
            let level = page.level as usize;
            if let Some(form) = trail.forms.get_mut(level) {
                *form = PageForm::of(&page);
            }
            let (next, level) = match page.way(wanted, share) {
                Way::Here(at) => {
                    trail.leaf = Known::of(buffer);
                    return Descent::Leaf(page, at);
                }
                Way::Behind(next) => {
                    share = None;
                    (next, level)
                }
                Way::Below(next, share_before) => {
                    share = share_before;
                    (next, level.saturating_sub(1))
                }
                Way::Lost => {
                    UnlockReleaseBuffer(buffer);
                    return Descent::Lost;
                }
            };
            UnlockReleaseBuffer(buffer);
            let form = trail.forms[level.min(LEVELS - 1)];
            buffer = pin(index, next, |page| form.fetch(page, share));
            LockBuffer(buffer, FOR_READING);
        }
    }
}
