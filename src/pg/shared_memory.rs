//! Shared memory of the server: the state of rates that is not kept in a table.
//!
//! There only where the library is in shared_preload_libraries, since the server fixes its shared memory when it starts. A table
//! of entries of a fixed number, in partitions with a lock each. A key has its place in a window of neighbouring entries; an
//! entry is given to another key only when its state is what one that was never used has, so that losing it loses nothing.
//! Whoever finds no such entry is told so: a rate that forgets would allow too much.

use super::settings;
use entitlements_model::meter::rate::Arrival;
use entitlements_model::time::Time;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

const NAME: &CStr = c"entitlements_rates";

/// Locks, so that so many backends can be at work at once.
const PARTITIONS: usize = 64;

/// Neighbouring entries that a key may have one of.
const WINDOW: usize = 32;

/// The server's lock that guards the making of named areas; its place among the main locks is the same in all versions.
const ADDIN_SHMEM_INIT_LOCK: usize = 21;

/// An account's use of a feature in one database of the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key {
    account: i64,
    feature: i32,
    database: u32,
}

impl Key {
    pub fn in_this_database(account: i64, feature: i32) -> Self {
        // SAFETY: reads a variable of the backend.
        Self { account, feature, database: unsafe { pg_sys::MyDatabaseId }.to_u32() }
    }

    /// The finalizer of MurmurHash3 over both words. Not seeded: all backends have to agree.
    fn hash(self) -> u64 {
        let mix = |word: u64| {
            let word = (word ^ word >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
            let word = (word ^ word >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
            word ^ word >> 33
        };
        let place = u64::from(self.database) << 32 | u64::from(self.feature.cast_unsigned());
        mix(mix(self.account.cast_unsigned()) ^ place)
    }
}

/// Zeros are an entry without a key: no database has the number 0.
#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    account: i64,
    feature: i32,
    database: u32,
    at: Time,
    fraction: [u64; 2],
}

impl Entry {
    const EMPTY: Self = Self { account: 0, feature: 0, database: 0, at: 0, fraction: [0; 2] };

    fn new(key: Key, arrival: Arrival) -> Self {
        let fraction = arrival.fraction.cast_unsigned();
        Self {
            account: key.account,
            feature: key.feature,
            database: key.database,
            at: arrival.at,
            fraction: [(fraction >> 64) as u64, fraction as u64],
        }
    }

    fn has(&self, key: Key) -> bool {
        (self.account, self.feature, self.database) == (key.account, key.feature, key.database)
    }

    fn arrival(&self) -> Arrival {
        let [high, low] = self.fraction;
        Arrival { at: self.at, fraction: (u128::from(high) << 64 | u128::from(low)).cast_signed() }
    }

    /// Whether the state says no more than that of a rate that was never used.
    fn is_idle(&self, now: Time) -> bool {
        self.database == 0 || self.at < now
    }
}

static ENTRIES: AtomicPtr<Entry> = AtomicPtr::new(std::ptr::null_mut());
static LOCKS: AtomicPtr<pg_sys::LWLockPadded> = AtomicPtr::new(std::ptr::null_mut());
/// Entries of a partition.
static PER_PARTITION: AtomicUsize = AtomicUsize::new(0);

/// The state of rates in shared memory.
#[derive(Clone, Copy)]
pub struct Rates {
    entries: *mut Entry,
    locks: *mut pg_sys::LWLockPadded,
    per_partition: usize,
}

/// How full the memory is.
#[derive(Clone, Copy)]
pub struct Filling {
    pub slots: usize,
    /// Entries that cannot be given to another key now.
    pub busy: usize,
}

/// A partition's lock, until the value is dropped.
struct Held(*mut pg_sys::LWLock);

impl Held {
    fn take(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type) -> Self {
        // SAFETY: one of the locks that the server made for this library.
        unsafe { pg_sys::LWLockAcquire(lock, mode) };
        Self(lock)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // An ERROR is on its way, and the server gives back such locks of a transaction that fails.
            return;
        }
        // SAFETY: taken in `take`, given back once.
        unsafe { pg_sys::LWLockRelease(self.0) };
    }
}

impl Rates {
    /// None where the library was not preloaded.
    pub fn get() -> Option<Self> {
        let (entries, locks) = (ENTRIES.load(Ordering::Relaxed), LOCKS.load(Ordering::Relaxed));
        let per_partition = PER_PARTITION.load(Ordering::Relaxed);
        (!entries.is_null() && !locks.is_null()).then_some(Self { entries, locks, per_partition })
    }

    /// The key's state, None if it was never used or that makes no difference any more.
    pub fn look_up(self, key: Key) -> Option<Arrival> {
        let (partition, mut places) = self.places(key);
        self.with_partition(partition, pg_sys::LWLockMode::LW_SHARED, |entries| {
            places.find(|place| entries[*place].has(key)).map(|place| entries[place].arrival())
        })
    }

    /// Puts another state in the place of the key's, with nobody in between. None, and nothing was done, if there is no room
    /// for the key.
    pub fn change<R>(self, key: Key, now: Time, work: impl FnOnce(Option<Arrival>) -> (Option<Arrival>, R)) -> Option<R> {
        let (partition, mut places) = self.places(key);
        self.with_partition(partition, pg_sys::LWLockMode::LW_EXCLUSIVE, |entries| {
            let known = places.clone().find(|place| entries[*place].has(key));
            let place = known.or_else(|| places.find(|place| entries[*place].is_idle(now)))?;
            let (arrival, result) = work(known.map(|place| entries[place].arrival()));
            if let Some(arrival) = arrival {
                entries[place] = Entry::new(key, arrival);
            }
            Some(result)
        })
    }

    pub fn filling(self, now: Time) -> Filling {
        let busy = (0..PARTITIONS).map(|partition| {
            self.with_partition(partition, pg_sys::LWLockMode::LW_SHARED, |entries| {
                entries.iter().filter(|entry| !entry.is_idle(now)).count()
            })
        });
        Filling { slots: PARTITIONS * self.per_partition, busy: busy.sum() }
    }

    /// The key's partition, and its window there.
    fn places(self, key: Key) -> (usize, impl Iterator<Item = usize> + Clone) {
        let hash = key.hash();
        let (start, count) = ((hash >> 32) as usize, self.per_partition);
        (hash as usize % PARTITIONS, (0..WINDOW.min(count)).map(move |step| (start + step) % count))
    }

    /// `work` changes nothing under a shared lock.
    fn with_partition<R>(self, partition: usize, mode: pg_sys::LWLockMode::Type, work: impl FnOnce(&mut [Entry]) -> R) -> R {
        assert!(partition < PARTITIONS);
        // SAFETY: there are PARTITIONS locks and as many times `per_partition` entries, initialised, for as long as the server
        // runs; the lock is held while `work` has them.
        unsafe {
            let _held = Held::take(&raw mut (*self.locks.add(partition)).lock, mode);
            let start = self.entries.add(partition * self.per_partition);
            work(std::slice::from_raw_parts_mut(start, self.per_partition))
        }
    }
}

static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// Whether the server is starting and loads the libraries of shared_preload_libraries.
pub fn is_preloading() -> bool {
    // SAFETY: reads a variable of the process.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Has the server set memory aside. Called from _PG_init while it is preloading.
pub fn reserve() {
    // SAFETY: the postmaster has one thread; the hooks before these are called by them.
    unsafe {
        PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(at_request);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(at_startup);
    }
}

fn per_partition() -> usize {
    settings::rate_slots().div_ceil(PARTITIONS)
}

#[pg_guard]
unsafe extern "C-unwind" fn at_request() {
    // SAFETY: this is where the server lets libraries ask for memory and locks.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            previous();
        }
        pg_sys::RequestAddinShmemSpace(PARTITIONS * per_partition() * size_of::<Entry>());
        pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), PARTITIONS as i32);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_startup() {
    // SAFETY: this is where the server lets libraries set up what they asked for; after a crash once more, with memory that is
    // new. It is at least as aligned as any type. Backends are forked from this process and so have the addresses.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            previous();
        }
        let slots = PARTITIONS * per_partition();
        let guard = Held::take(
            &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock,
            pg_sys::LWLockMode::LW_EXCLUSIVE,
        );
        let mut found = false;
        let entries = pg_sys::ShmemInitStruct(NAME.as_ptr(), slots * size_of::<Entry>(), &mut found).cast::<Entry>();
        if !found {
            for place in 0..slots {
                entries.add(place).write(Entry::EMPTY);
            }
        }
        drop(guard);
        PER_PARTITION.store(per_partition(), Ordering::Relaxed);
        LOCKS.store(pg_sys::GetNamedLWLockTranche(NAME.as_ptr()), Ordering::Relaxed);
        ENTRIES.store(entries, Ordering::Relaxed);
    }
}
