//! Index scans on the extension's own tables with the active snapshot.
//!
//! No SPI: a scan costs a microsecond or two, assigns no transaction id and so works on a standby, in a read-only transaction
//! and in a parallel worker. What it reads is what a query with this snapshot reads; in a serializable transaction it leaves
//! the same predicate locks. Access to the tables needs no privilege of the caller: EXECUTE on the function decides.

use super::btree::Wanted;
use super::callbacks::RELATIONS_CHANGED;
use super::page::line_pointers;
use super::probe::{Entries, probe};
use super::relations::{Access, CoveredAccess};
use super::snapshot::{ActiveSnapshot, is_serializable};
use super::unguarded::{
    self, ExecDropSingleTupleTableSlot, HeapTupleSatisfiesVisibility, LockBuffer, PredicateLockPage, ReadBuffer,
    RelationGetNumberOfBlocksInFork, ReleaseBuffer, ScanKeyEntryInitialize, TransactionIdIsCurrentTransactionId,
    UnlockReleaseBuffer, file_of, heap_deform_tuple, heap_fetch, heap_get_root_tuples, heap_hot_search_buffer,
    heap_page_prune_opt, index_close, index_deform_tuple, index_endscan, index_fetch_heap, index_getnext_tid, index_rescan,
    systable_beginscan_ordered, systable_endscan_ordered, table_close, table_open, table_slot_create,
    visibilitymap_get_status,
};
use super::values;
use super::whereabouts::{Known, MAIN};
use entitlements_model::amount::{Allowance, Amount};
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use std::ffi::c_int;
use std::ops::ControlFlow;

/// What a query takes to read.
pub(super) const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;

/// For closing, and for opening again: the lock stays to the end of the transaction.
pub(super) const KEPT: pg_sys::LOCKMODE = pg_sys::NoLock as pg_sys::LOCKMODE;

/// A condition on a leading column of the index; `usize` is the column's place in `Access::columns`.
#[derive(Clone, Copy)]
pub enum Condition<'a> {
    TextIs(usize, &'a [u8]),
    Int4Is(usize, i32),
    Int8Is(usize, i64),
    Int8AtLeast(usize, i64),
    /// The column lies at the time or before it, in microseconds.
    UpTo(usize, i64),
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

/// What a row is looked at for, which decides how its table is locked: a lock for changes taken at once spares that for reading.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    Read,
    Change,
}

impl Intent {
    fn lock(self) -> pg_sys::LOCKMODE {
        match self {
            Self::Read => LOCK,
            Self::Change => pg_sys::RowExclusiveLock as pg_sys::LOCKMODE,
        }
    }
}

/// Where a version of a row lies in its table.
#[derive(Clone, Copy)]
pub struct Place {
    pub(super) tid: pg_sys::ItemPointerData,
    /// Where its page was in the server's memory, if that is known; else 0.
    pub(super) buffer: pg_sys::Buffer,
}

impl Place {
    pub(super) fn at(tid: pg_sys::ItemPointerData) -> Self {
        Self { tid, buffer: 0 }
    }

    /// Whether both lie in one page.
    fn is_near(&self, other: &Self) -> bool {
        block_of(&self.tid) == block_of(&other.tid)
    }

    /// The page, pinned, unless the file has no such page.
    ///
    /// # Safety
    /// `table` is the place's, open and locked. May raise an error.
    pub(super) unsafe fn pin(&mut self, table: pg_sys::Relation) -> Option<pg_sys::Buffer> {
        let block = block_of(&self.tid);
        // SAFETY: by contract; a page that is in memory is in the file.
        unsafe {
            if (Known { block, buffer: self.buffer }).pin(file_of(table), MAIN).is_none() {
                if block >= RelationGetNumberOfBlocksInFork(table, MAIN) {
                    return None;
                }
                self.buffer = ReadBuffer(table, block);
            }
        }
        Some(self.buffer)
    }
}

/// A version of a row. What is in it never changes: what was read of it holds for every snapshot that shows it.
#[derive(Clone, Copy)]
pub struct Version {
    place: Place,
    written_by: pg_sys::TransactionId,
}

/// A row of a scan; valid until the next one is fetched.
pub struct Row<'a, const COLUMNS: usize> {
    pub(super) columns: &'a [i16; COLUMNS],
    pub(super) values: &'a [pg_sys::Datum],
    pub(super) nulls: &'a [bool],
    pub(super) place: Place,
    pub(super) written_by: pg_sys::TransactionId,
}

impl<const COLUMNS: usize> Row<'_, COLUMNS> {
    fn datum(&self, column: usize) -> Option<pg_sys::Datum> {
        let place = self.columns[column] as usize - 1;
        (!self.nulls[place]).then(|| self.values[place])
    }

    /// Where the version lies that the scan found; of a covered scan, where the index points.
    pub fn place(&self) -> Place {
        self.place
    }

    pub fn version(&self) -> Version {
        Version { place: self.place, written_by: self.written_by }
    }

    /// Whether this transaction wrote the version.
    pub fn is_own(&self) -> bool {
        // SAFETY: looks at the state of the own transaction.
        unsafe { TransactionIdIsCurrentTransactionId(self.written_by) }
    }

    pub fn int2(&self, column: usize) -> Option<i16> {
        self.datum(column).map(|datum| datum.value() as i16)
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

    /// A numeric value, where Infinity is unlimited.
    pub fn allowance(&self, column: usize) -> Option<Allowance> {
        // SAFETY: the caller names a column of type numeric.
        self.datum(column).map(|datum| unsafe { values::allowance(datum) })
    }

    /// A finite numeric value.
    pub fn amount(&self, column: usize) -> Option<Amount> {
        self.allowance(column).map(|allowance| match allowance {
            Allowance::Finite(amount) => amount,
            Allowance::Unlimited => panic!("constraints keep infinity out of the column"),
        })
    }

    /// The elements of a numeric array.
    pub fn amounts(&self, column: usize) -> Option<Vec<Amount>> {
        // SAFETY: the caller names a column of type numeric[].
        self.datum(column).map(|datum| unsafe { values::amounts(datum) })
    }

    /// An interval's months, days and microseconds.
    pub fn interval(&self, column: usize) -> Option<(i32, i32, i64)> {
        // SAFETY: the caller names a column of type interval, which is passed by reference.
        self.datum(column).map(|datum| unsafe {
            let interval = &*datum.cast_mut_ptr::<pg_sys::Interval>();
            (interval.month, interval.day, interval.time)
        })
    }

    /// A jsonb value as text.
    pub fn jsonb(&self, column: usize) -> Option<String> {
        // SAFETY: the caller names a column of type jsonb.
        self.datum(column).map(|datum| unsafe { values::jsonb_text(datum) })
    }
}

/// Most columns a table of the extension has; room for decoding a row without an allocation.
pub(super) const MAX_COLUMNS: usize = 48;

/// Most columns an index of the extension has.
pub(super) const MAX_INDEX_COLUMNS: usize = 16;

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

        // Always the ordered scan: the other kind reads the whole table under ignore_system_indexes, which every client may
        // set, and then knows nothing of a partial index's predicate.
        let (table, index, scan) = pg_guard_ffi_boundary(|| {
            let table = table_open(access.table, LOCK);
            let index = access.open_index(LOCK);
            let count = conditions.len() as c_int;
            (table, index, systable_beginscan_ordered(table, index, snapshot.as_ptr(), count, keys.as_mut_ptr()))
        });
        let descriptor = (*table).rd_att;
        assert!((*descriptor).natts as usize <= MAX_COLUMNS, "room for all columns");
        let mut values = [pg_sys::Datum::from(0); MAX_COLUMNS];
        let mut nulls = [false; MAX_COLUMNS];
        let mut deliver = |tuple: pg_sys::HeapTuple| {
            heap_deform_tuple(tuple, descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
            visit(&Row {
                columns: &access.columns,
                values: &values,
                nulls: &nulls,
                place: Place::at((*tuple).t_self),
                written_by: (*(*tuple).t_data).t_choice.t_heap.t_xmin,
            })
        };

        let direction = match order {
            Order::Descending => pg_sys::ScanDirection::BackwardScanDirection,
            Order::Any | Order::Ascending => pg_sys::ScanDirection::ForwardScanDirection,
        };
        loop {
            let tuple = pg_sys::systable_getnext_ordered(scan, direction);
            if tuple.is_null() || deliver(tuple).is_break() {
                break;
            }
        }
        pg_guard_ffi_boundary(|| {
            systable_endscan_ordered(scan);
            index_close(index, KEPT);
            table_close(table, KEPT);
        });
    }
}

/// Whether the table's file is empty, so that no snapshot shows a row of it.
pub fn has_no_pages<const COLUMNS: usize>(access: &Access<COLUMNS>) -> bool {
    // SAFETY: opens and closes the table as a scan does, and asks for the length of its file in between.
    unsafe {
        pg_guard_ffi_boundary(|| {
            let table = table_open(access.table, LOCK);
            let pages = RelationGetNumberOfBlocksInFork(table, pg_sys::ForkNumber::MAIN_FORKNUM);
            table_close(table, KEPT);
            pages == 0
        })
    }
}

/// Whether the snapshot shows a version that was read before. Who asks forgets versions when a relation changes: a table that
/// is rewritten keeps who wrote them, and not their places.
pub fn shows<const COLUMNS: usize>(access: &Access<COLUMNS>, version: Version, snapshot: ActiveSnapshot) -> bool {
    // SAFETY: the table is open, and its lock keeps the file from being cut. A tuple of zeros is a valid value of the C type;
    // heap_fetch fills it from the place, and pins the buffer if it finds what the snapshot shows.
    unsafe {
        let mut tuple: pg_sys::HeapTupleData = std::mem::zeroed();
        tuple.t_self = version.place.tid;
        pg_guard_ffi_boundary(|| {
            let table = table_open(access.table, LOCK);
            let mut buffer: pg_sys::Buffer = 0;
            // Taking the lock may have told of a change.
            let is_there = !RELATIONS_CHANGED.is_raised()
                && block_of(&version.place.tid) < RelationGetNumberOfBlocksInFork(table, pg_sys::ForkNumber::MAIN_FORKNUM);
            let mut shown = is_there && heap_fetch(table, snapshot.as_ptr(), &mut tuple, &mut buffer, false);
            if shown {
                shown = (*tuple.t_data).t_choice.t_heap.t_xmin == version.written_by;
                ReleaseBuffer(buffer);
            }
            table_close(table, KEPT);
            shown
        })
    }
}

/// Where the indexes point for a row: from there a scan follows the row's versions, for as long as none of them has another value
/// for a column that is indexed. Who keeps one asks of what is found there whether it is the row, and forgets all when a
/// relation changes.
pub struct Root(Place);

/// At least MaxHeapTuplesPerPage: a row takes its header and a line pointer.
const MOST_ROWS_OF_PAGE: usize =
    pg_sys::BLCKSZ as usize / (size_of::<pg_sys::HeapTupleHeaderData>() + size_of::<pg_sys::ItemIdData>());

impl Root {
    /// None where the version at the place is gone.
    pub fn of<const COLUMNS: usize>(access: &Access<COLUMNS>, place: Place) -> Option<Self> {
        Tracks::of(access, std::iter::once(place)).map(|Tracks(tracks)| Self(tracks[0].root))
    }
}

/// The version that the snapshot shows of the row with this root. None where there is none: it may be another row's root now.
pub fn fetch<const COLUMNS: usize, R>(
    access: &Access<COLUMNS>,
    root: &mut Root,
    intent: Intent,
    snapshot: ActiveSnapshot,
    read: impl FnOnce(&Row<'_, COLUMNS>) -> R,
) -> Option<R> {
    // SAFETY: as heapam_index_fetch_tuple does it, pruning included: the buffer is pinned while the row is read, and locked while
    // its versions are followed. The table's lock keeps the file from being cut; a page that is in memory has not been cut off
    // before. On an ERROR the server's resource owner closes everything.
    unsafe {
        let mut tid = root.0.tid;
        let mut tuple: pg_sys::HeapTupleData = std::mem::zeroed();
        let found = pg_guard_ffi_boundary(|| {
            let table = table_open(access.table, intent.lock());
            // Taking the lock may have told of a change.
            let buffer = if RELATIONS_CHANGED.is_raised() { None } else { root.0.pin(table) };
            let Some(buffer) = buffer else {
                table_close(table, KEPT);
                return None;
            };
            heap_page_prune_opt(table, buffer);
            LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as c_int);
            let is_shown =
                heap_hot_search_buffer(&mut tid, table, buffer, snapshot.as_ptr(), &mut tuple, std::ptr::null_mut(), true);
            LockBuffer(buffer, pg_sys::BUFFER_LOCK_UNLOCK as c_int);
            if !is_shown {
                ReleaseBuffer(buffer);
                table_close(table, KEPT);
                return None;
            }
            Some((table, buffer))
        });
        let (table, buffer) = found?;
        tuple.t_self = tid;
        let mut values = [pg_sys::Datum::from(0); MAX_COLUMNS];
        let mut nulls = [false; MAX_COLUMNS];
        heap_deform_tuple(&mut tuple, (*table).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
        let result = read(&Row {
            columns: &access.columns,
            values: &values,
            nulls: &nulls,
            place: Place { tid, buffer },
            written_by: (*tuple.t_data).t_choice.t_heap.t_xmin,
        });
        pg_guard_ffi_boundary(|| {
            ReleaseBuffer(buffer);
            table_close(table, KEPT);
        });
        Some(result)
    }
}

/// Where some rows were found.
pub struct Tracks(Vec<Track>);

/// Where a row was found.
#[derive(Clone, Copy)]
struct Track {
    /// As for `Root`.
    root: Place,
    /// Of the version that was seen last, in the same page: it is not far from there to the one that a later snapshot shows.
    seen: pg_sys::OffsetNumber,
}

impl Tracks {
    /// None where the version at one of the places is gone.
    pub fn of<const COLUMNS: usize>(access: &Access<COLUMNS>, places: impl Iterator<Item = Place>) -> Option<Self> {
        let mut tracks: Vec<Track> = places.map(|place| Track { root: place, seen: place.tid.ip_posid }).collect();
        // SAFETY: the versions were found with the active snapshot, so their pages are there; the list has an entry for each place of
        // a page, which is locked while it is filled.
        unsafe {
            pg_guard_ffi_boundary(|| {
                let table = table_open(access.table, LOCK);
                let mut roots = [0; MOST_ROWS_OF_PAGE];
                for neighbours in tracks.chunk_by_mut(Track::is_near) {
                    let buffer = ReadBuffer(table, block_of(&neighbours[0].root.tid));
                    LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as c_int);
                    heap_get_root_tuples(pg_sys::BufferGetPage(buffer), roots.as_mut_ptr());
                    UnlockReleaseBuffer(buffer);
                    for track in neighbours {
                        track.root.buffer = buffer;
                        track.root.tid.ip_posid = roots[usize::from(track.seen) - 1];
                    }
                }
                table_close(table, KEPT);
            });
        }
        tracks.iter().all(|track| track.root.tid.ip_posid != 0).then_some(Self(tracks))
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl Track {
    fn is_near(&self, other: &Self) -> bool {
        self.root.is_near(&other.root)
    }

    /// The version that the snapshot shows of the row with the root.
    ///
    /// # Safety
    /// The buffer is the page of the table, pinned and locked. May raise an error.
    unsafe fn version_of_root(
        &self,
        table: pg_sys::Relation,
        buffer: pg_sys::Buffer,
        snapshot: ActiveSnapshot,
    ) -> Option<pg_sys::HeapTupleData> {
        // SAFETY: by contract.
        unsafe {
            let mut tuple: pg_sys::HeapTupleData = std::mem::zeroed();
            let mut tid = self.root.tid;
            let all_dead = std::ptr::null_mut();
            let is_shown = heap_hot_search_buffer(&mut tid, table, buffer, snapshot.as_ptr(), &mut tuple, all_dead, true);
            tuple.t_self = tid;
            is_shown.then_some(tuple)
        }
    }

    /// The version that the snapshot shows from the one on that was seen last, if that is short to tell. It may be one of another row,
    /// that has got the place.
    ///
    /// # Safety
    /// As `version_of_root`.
    unsafe fn version_since(
        &self,
        table: pg_sys::Relation,
        buffer: pg_sys::Buffer,
        snapshot: ActiveSnapshot,
    ) -> Option<pg_sys::HeapTupleData> {
        const MOST_STEPS: usize = 4;
        // SAFETY: by contract; as heap_hot_search_buffer does it, which begins at roots only. Normal line pointers point to
        // versions.
        unsafe {
            let page = pg_sys::BufferGetPage(buffer);
            let lines = line_pointers(page);
            let mut tuple: pg_sys::HeapTupleData = std::mem::zeroed();
            (tuple.t_tableOid, tuple.t_self) = ((*table).rd_id, self.root.tid);
            tuple.t_self.ip_posid = self.seen;
            let mut written_by = None;
            for _ in 0..MOST_STEPS {
                let line = lines.get(usize::from(tuple.t_self.ip_posid).checked_sub(1)?)?;
                if line.lp_flags() != pg_sys::LP_NORMAL {
                    return None;
                }
                tuple.t_data = page.add(line.lp_off() as usize).cast();
                tuple.t_len = line.lp_len();
                let xmin = (*tuple.t_data).t_choice.t_heap.t_xmin;
                if written_by.is_some_and(|written_by| written_by != xmin) {
                    return None;
                }
                if HeapTupleSatisfiesVisibility(&mut tuple, snapshot.as_ptr(), buffer) {
                    return Some(tuple);
                }
                // The next version, where this one has one in the page, and only one transaction has to do with it.
                let version = &*tuple.t_data;
                let flags = u32::from(version.t_infomask);
                if u32::from(version.t_infomask2) & pg_sys::HEAP_HOT_UPDATED == 0
                    || flags & (pg_sys::HEAP_XMAX_INVALID | pg_sys::HEAP_XMAX_IS_MULTI | pg_sys::HEAP_XMIN_INVALID) != 0
                {
                    return None;
                }
                written_by = Some(version.t_choice.t_heap.t_xmax);
                tuple.t_self.ip_posid = version.t_ctid.ip_posid;
            }
            None
        }
    }
}

/// Calls `visit` with the version that the snapshot shows of each of these rows and its number among them, in their order; `visit` says
/// whether it is of the row that it should be. False where one is not, or the snapshot does not show one of each.
///
/// The pages are locked while `visit` looks at what is in them. The transaction is not serializable: no predicate lock is left.
pub fn fetch_all<const COLUMNS: usize>(
    access: &Access<COLUMNS>,
    Tracks(tracks): &mut Tracks,
    intent: Intent,
    snapshot: ActiveSnapshot,
    mut visit: impl FnMut(usize, &Row<'_, COLUMNS>) -> bool,
) -> bool {
    let mut values = [pg_sys::Datum::from(0); MAX_COLUMNS];
    let mut nulls = [false; MAX_COLUMNS];
    let mut versions: Vec<Option<pg_sys::HeapTupleData>> = Vec::with_capacity(tracks.len());
    let mut visited = 0;
    // SAFETY: as `fetch`, for one page after the other; versions are looked at while their page is locked, and pages are pruned by
    // who changes something in them. On an ERROR, also one of `visit`, the server's resource owner unlocks and closes everything.
    unsafe {
        let table = pg_guard_ffi_boundary(|| table_open(access.table, intent.lock()));
        // Taking the lock may have told of a change.
        let mut is_shown = !RELATIONS_CHANGED.is_raised();
        for neighbours in tracks.chunk_by_mut(Track::is_near) {
            let pinned = pg_guard_ffi_boundary(|| {
                let buffer = if is_shown { neighbours[0].root.pin(table)? } else { return None };
                LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as c_int);
                let version = |track: &Track| {
                    let seen = track.version_since(table, buffer, snapshot);
                    seen.or_else(|| track.version_of_root(table, buffer, snapshot))
                };
                versions.clear();
                versions.extend(neighbours.iter().map(version));
                Some(buffer)
            });
            let Some(buffer) = pinned else {
                is_shown = false;
                break;
            };
            for (track, version) in neighbours.iter_mut().zip(&versions) {
                let mut is_expected = |version: Option<pg_sys::HeapTupleData>| {
                    let mut tuple = version?;
                    heap_deform_tuple(&mut tuple, (*table).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
                    let place = Place { tid: tuple.t_self, buffer };
                    let written_by = (*tuple.t_data).t_choice.t_heap.t_xmin;
                    let row = Row { columns: &access.columns, values: &values, nulls: &nulls, place, written_by };
                    visit(visited, &row).then_some(tuple.t_self.ip_posid)
                };
                let seen = is_expected(*version)
                    .or_else(|| is_expected(pg_guard_ffi_boundary(|| track.version_of_root(table, buffer, snapshot))));
                is_shown &= seen.is_some();
                track.seen = seen.unwrap_or(track.seen);
                visited += 1;
            }
            pg_guard_ffi_boundary(|| UnlockReleaseBuffer(buffer));
        }
        pg_guard_ffi_boundary(|| table_close(table, KEPT));
        is_shown
    }
}

pub(super) fn block_of(place: &pg_sys::ItemPointerData) -> pg_sys::BlockNumber {
    pg_sys::BlockNumber::from(place.ip_blkid.bi_hi) << 16 | pg_sys::BlockNumber::from(place.ip_blkid.bi_lo)
}

/// `scan` through an index that has all the columns, in the index's order. Where the visibility map says that everybody sees
/// all of a page, the page is not looked at: this is what an index-only scan of the server does.
///
/// For an account with ten subscriptions that is one place in the index instead of ten all over the table.
pub fn scan_covered<const COLUMNS: usize>(
    covered: &CoveredAccess<COLUMNS>,
    conditions: &[Condition<'_>],
    snapshot: ActiveSnapshot,
    mut visit: impl FnMut(&Row<'_, COLUMNS>) -> ControlFlow<()>,
) {
    let access = &covered.access;
    // SAFETY: the sequence of nodeIndexonlyscan.c, for an MVCC snapshot: the tuple of the index is used if the visibility map
    // or the table's tuple says that the snapshot sees it. Keys as in `scan`. The buffer and the slot are given back at the
    // end, on an ERROR by the server's resource owner and memory context.
    unsafe {
        let wanted = if is_serializable() { None } else { Wanted::of(access, conditions) };
        let mut entries = Entries::new();
        let (table, index, is_probed) = pg_guard_ffi_boundary(|| {
            let (table, index) = covered.open();
            let is_probed = wanted.is_some_and(|wanted| probe((table, index), &wanted, snapshot, &mut entries));
            (table, index, is_probed)
        });
        if is_probed {
            entries.visit(&access.columns, index, visit);
            pg_guard_ffi_boundary(|| {
                index_close(index, KEPT);
                table_close(table, KEPT);
            });
            return;
        }

        let mut text_key = values::TextDatum::default();
        let mut keys = scan_keys(access, conditions, &mut text_key);
        let scan = pg_guard_ffi_boundary(|| {
            let scan = index_beginscan(table, index, snapshot, conditions.len() as c_int);
            (*scan).xs_want_itup = true;
            index_rescan(scan, keys.as_mut_ptr(), conditions.len() as c_int, std::ptr::null_mut(), 0);
            scan
        });

        let mut values = [pg_sys::Datum::from(0); MAX_COLUMNS];
        let mut nulls = [false; MAX_COLUMNS];
        let mut map_page: pg_sys::Buffer = 0;
        let mut slot: *mut pg_sys::TupleTableSlot = std::ptr::null_mut();
        // Goes to the next tuple of the index that the snapshot sees.
        let mut next = || {
            loop {
                let place = index_getnext_tid(scan, pg_sys::ScanDirection::ForwardScanDirection);
                if place.is_null() {
                    return None;
                }
                let block = block_of(&*place);
                let status = visibilitymap_get_status(table, block, &mut map_page);
                if u32::from(status) & pg_sys::VISIBILITYMAP_ALL_VISIBLE != 0 {
                    // The page was not looked at, and so is locked here against serializable transactions that change it.
                    PredicateLockPage(table, block, snapshot.as_ptr());
                    return Some(*place);
                }
                if slot.is_null() {
                    slot = table_slot_create(table, std::ptr::null_mut());
                }
                if index_fetch_heap(scan, slot) {
                    return Some(*place);
                }
            }
        };
        while let Some(place) = pg_guard_ffi_boundary(&mut next) {
            index_deform_tuple((*scan).xs_itup, (*scan).xs_itupdesc, values.as_mut_ptr(), nulls.as_mut_ptr());
            let row = Row {
                columns: &access.columns,
                values: &values,
                nulls: &nulls,
                place: Place::at(place),
                written_by: pg_sys::InvalidTransactionId,
            };
            if visit(&row).is_break() {
                break;
            }
        }
        pg_guard_ffi_boundary(|| {
            if map_page != 0 {
                ReleaseBuffer(map_page);
            }
            if !slot.is_null() {
                ExecDropSingleTupleTableSlot(slot);
            }
            index_endscan(scan);
            index_close(index, KEPT);
            table_close(table, KEPT);
        });
    }
}

/// # Safety
/// `table` and `index` are open and belong together. May raise an error.
unsafe fn index_beginscan(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: ActiveSnapshot,
    conditions: c_int,
) -> pg_sys::IndexScanDesc {
    // SAFETY: by contract; without ORDER BY operators, and since PostgreSQL 18 without counting for EXPLAIN ANALYZE.
    #[cfg(not(feature = "pg18"))]
    unsafe {
        unguarded::index_beginscan(table, index, snapshot.as_ptr(), conditions, 0)
    }
    #[cfg(feature = "pg18")]
    unsafe {
        unguarded::index_beginscan(table, index, snapshot.as_ptr(), std::ptr::null_mut(), conditions, 0)
    }
}

const MOST_CONDITIONS: usize = 3;

/// The conditions as the server takes them; as many keys as there are conditions are filled.
///
/// # Safety
/// `text_key` must outlive the use of the keys.
unsafe fn scan_keys<const COLUMNS: usize>(
    access: &Access<COLUMNS>,
    conditions: &[Condition<'_>],
    text_key: &mut values::TextDatum,
) -> [pg_sys::ScanKeyData; MOST_CONDITIONS] {
    // SAFETY: a key of zeros is a valid value of the C type; the rest is by contract.
    unsafe {
        let mut keys: [pg_sys::ScanKeyData; MOST_CONDITIONS] = std::mem::zeroed();
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
        Condition::UpTo(column, value) => (
            column,
            pg_sys::BTLessEqualStrategyNumber,
            pg_sys::F_TIMESTAMPTZ_LE,
            pg_sys::InvalidOid,
            pg_sys::Datum::from(value),
        ),
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
        ScanKeyEntryInitialize(
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
