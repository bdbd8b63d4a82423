//! What pages of tables and indexes have in common (bufpage.h).

use pgrx::pg_sys;
use std::mem::offset_of;

/// Where the line pointers stand on a page.
pub(super) const LINE_POINTERS: usize = offset_of!(pg_sys::PageHeaderData, pd_linp);

/// The line pointers of a page, which lie between its header and pd_lower.
///
/// # Safety
/// `page` is in a buffer that is pinned and locked for as long as they are looked at.
pub(super) unsafe fn line_pointers<'a>(page: pg_sys::Page) -> &'a [pg_sys::ItemIdData] {
    // SAFETY: by contract.
    unsafe {
        let header = &*page.cast::<pg_sys::PageHeaderData>();
        let bytes = usize::from(header.pd_lower).saturating_sub(LINE_POINTERS);
        std::slice::from_raw_parts(page.add(LINE_POINTERS).cast(), bytes / size_of::<pg_sys::ItemIdData>())
    }
}
