//! Which pages of a table everybody sees all of, so that they need not be looked at.

use super::unguarded::{ReleaseBuffer, file_of, visibilitymap_get_status};
use super::whereabouts::Known;
use pgrx::pg_sys;

const MAP: pg_sys::ForkNumber::Type = pg_sys::ForkNumber::VISIBILITYMAP_FORKNUM;

/// Pages of the map that are remembered, and pinned together: each tells of 250 MB of the table.
const PAGES: usize = 8;

/// visibilitymap.c: two bits tell of a page, behind the header of the map's.
const TOLD_BY_PAGE: usize = (pg_sys::BLCKSZ as usize - 24) * 8 / 2;

/// Pages of a table's visibility map: where they were, and which are pinned.
#[derive(Clone, Copy)]
pub(super) struct VisibilityMap {
    known: [Known; PAGES],
    pinned: [pg_sys::Buffer; PAGES],
}

impl VisibilityMap {
    pub(super) const UNKNOWN: Self = Self { known: [Known::NONE; PAGES], pinned: [0; PAGES] };

    /// Whether everybody sees all of a page of the table.
    ///
    /// # Safety
    /// The table is open and locked, and always the same. May raise an error.
    pub(super) unsafe fn shows_all(&mut self, table: pg_sys::Relation, block: pg_sys::BlockNumber) -> bool {
        let place = block as usize / TOLD_BY_PAGE % PAGES;
        let (known, pinned) = (&mut self.known[place], &mut self.pinned[place]);
        // SAFETY: by contract; what is pinned is a page of the map, and the server looks whether it is the right one.
        unsafe {
            if *pinned == 0 {
                *pinned = known.pin(file_of(table), MAP).unwrap_or(0);
            }
            let before = *pinned;
            let status = visibilitymap_get_status(table, block, pinned);
            if *pinned != before && *pinned != 0 {
                *known = Known::of(*pinned);
            }
            u32::from(status) & pg_sys::VISIBILITYMAP_ALL_VISIBLE != 0
        }
    }

    /// Gives back what is pinned.
    ///
    /// # Safety
    /// May raise an error.
    pub(super) unsafe fn release(&mut self) {
        for buffer in std::mem::take(&mut self.pinned) {
            if buffer != 0 {
                // SAFETY: pinned by `shows_all`.
                unsafe { ReleaseBuffer(buffer) };
            }
        }
    }
}
