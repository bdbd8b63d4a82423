//! In which buffers of the server's pages of indexes were, so that it need not look for them among all that are in memory, and so that
//! their content is on its way to the processor before it is known that they are still there.

use super::backend::BackendLocal;
use super::settings;
use super::unguarded::{BufferGetBlockNumber, ReadBuffer, ReadRecentBuffer, RelFile, file_of};
use pgrx::pg_sys;

pub(super) const MAIN: pg_sys::ForkNumber::Type = pg_sys::ForkNumber::MAIN_FORKNUM;

/// A page of a relation, and in which buffer it was.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub(super) block: pg_sys::BlockNumber,
    pub(super) buffer: pg_sys::Buffer,
}

impl Known {
    pub(super) const NONE: Self = Self { block: 0, buffer: 0 };

    /// # Safety
    /// The buffer is pinned.
    pub(super) unsafe fn of(buffer: pg_sys::Buffer) -> Self {
        // SAFETY: by contract.
        Self { block: unsafe { BufferGetBlockNumber(buffer) }, buffer }
    }

    /// Pins it, if it is still there.
    ///
    /// # Safety
    /// May raise an error.
    pub(super) unsafe fn pin(self, file: RelFile, fork: pg_sys::ForkNumber::Type) -> Option<pg_sys::Buffer> {
        // SAFETY: by contract. That the buffer has the page is what ReadRecentBuffer makes sure of.
        let is_there = self.buffer != 0 && unsafe { ReadRecentBuffer(file, fork, self.block, self.buffer) };
        is_there.then_some(self.buffer)
    }
}

/// In which buffer a page was whose hash ends with these bits; 0 of none.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Hint(u32);

impl Hint {
    const NONE: Self = Self(0);
    /// Enough for 128 GB of buffers.
    const BITS_OF_BUFFER: u32 = 24;

    fn new(hash: u32, buffer: pg_sys::Buffer) -> Self {
        match u32::try_from(buffer) {
            Ok(buffer) if buffer >> Self::BITS_OF_BUFFER == 0 => Self(hash << Self::BITS_OF_BUFFER | buffer),
            _ => Self::NONE,
        }
    }

    fn buffer(self, hash: u32) -> Option<pg_sys::Buffer> {
        let buffer = self.0 ^ hash << Self::BITS_OF_BUFFER;
        (self != Self::NONE && buffer >> Self::BITS_OF_BUFFER == 0).then_some(buffer as pg_sys::Buffer)
    }
}

struct Whereabouts {
    /// By a hash of index and page, a power of two of them. A hint may be of another page: which one a buffer has is for the server
    /// to say.
    hints: Vec<Hint>,
    /// How often one has lost its place to another since there were more of them.
    displaced: usize,
}

/// 8 kB.
const FEWEST: usize = 2048;

/// 512 kB: for an index of 1 GB.
const MOST: usize = 131_072;

static WHEREABOUTS: BackendLocal<Whereabouts> = BackendLocal::new(Whereabouts::new);

/// Most that there may be: an eighth of what the memo may use.
fn most() -> usize {
    (settings::memo_size() / 8 / size_of::<Hint>()).clamp(FEWEST, MOST)
}

impl Whereabouts {
    fn new() -> Self {
        Self { hints: vec![Hint::NONE; FEWEST], displaced: 0 }
    }

    fn place_of(&self, hash: u32) -> usize {
        (hash >> (u32::BITS - self.hints.len().ilog2())) as usize
    }

    fn of(&self, hash: u32) -> Option<pg_sys::Buffer> {
        self.hints[self.place_of(hash)].buffer(hash)
    }

    fn note(&mut self, hash: u32, buffer: pg_sys::Buffer) {
        let place = self.place_of(hash);
        let former = std::mem::replace(&mut self.hints[place], Hint::new(hash, buffer));
        self.displaced += usize::from(former != Hint::NONE && former.buffer(hash).is_none());
        if self.displaced > self.hints.len() / 2 && self.hints.len() * 2 <= most() {
            // The next bit of the hash decides: one of two places is the right one.
            self.hints = self.hints.iter().flat_map(|hint| [*hint; 2]).collect();
            self.displaced = 0;
        }
    }
}

fn hash_of(index: pg_sys::Oid, block: pg_sys::BlockNumber) -> u32 {
    // The golden ratio's bits scatter what is near.
    const SCATTER: u32 = 0x9E37_79B9;
    (index.to_u32().wrapping_mul(SCATTER) ^ block).wrapping_mul(SCATTER)
}

/// Bytes that are in use, which are not more than an eighth of `entitlements.memo_size`, or 8 kB.
pub fn size() -> usize {
    WHEREABOUTS.with(|all| {
        if all.hints.len() > most() {
            *all = Whereabouts::new();
        }
        size_of_val(&*all.hints)
    })
}

/// Pins a page that the index has, with what `fetch` asks to be brought into the processor's cache of it.
///
/// # Safety
/// The index is open and locked. `fetch` does not read the page. May raise an error.
pub(super) unsafe fn pin(
    index: pg_sys::Relation,
    block: pg_sys::BlockNumber,
    fetch: impl Fn(pg_sys::Page),
) -> pg_sys::Buffer {
    // SAFETY: by contract; a buffer keeps its place in memory whichever page it has.
    unsafe {
        let hash = hash_of((*index).rd_id, block);
        let pinned = WHEREABOUTS.with(|all| all.of(hash)).and_then(|buffer| {
            fetch(pg_sys::BufferGetPage(buffer));
            Known { block, buffer }.pin(file_of(index), MAIN)
        });
        pinned.unwrap_or_else(|| {
            let buffer = ReadBuffer(index, block);
            fetch(pg_sys::BufferGetPage(buffer));
            WHEREABOUTS.with(|all| all.note(hash, buffer));
            buffer
        })
    }
}
