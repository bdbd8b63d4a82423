//! A queue in front of something, in the server's lock table: first come, first served, seen by the deadlock detector and in
//! pg_locks, and given back at will, not only at the end of the transaction.

use pgrx::pg_sys;

/// Sets our keys apart from those of advisory locks, whose fourth field is 1 or 2.
const LATCH: u16 = 0x4E45;

/// This transaction's place at the head of the queue, until the value is dropped; at the latest until the transaction ends.
pub struct Latch(pg_sys::LOCKTAG);

impl Latch {
    /// Waits until nobody before has the latch of this number.
    pub fn take(number: i64) -> Self {
        // SAFETY: reads the backend's database and takes a lock with a key of the form that advisory locks have.
        unsafe {
            let tag = pg_sys::LOCKTAG {
                locktag_field1: pg_sys::MyDatabaseId.to_u32(),
                locktag_field2: (number >> 32) as u32,
                locktag_field3: number as u32,
                locktag_field4: LATCH,
                locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
                locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
            };
            pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as i32, false, false);
            Self(tag)
        }
    }

    /// How many wait for it.
    pub fn waiting(&self) -> usize {
        // SAFETY: reads the lock table. Whoever holds the lock is counted too.
        usize::try_from(unsafe { pg_sys::LockWaiterCount(&self.0) } - 1).unwrap_or(0)
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // An ERROR is on its way, and the server gives back the locks of a transaction that fails.
            return;
        }
        // SAFETY: the lock was taken in `take` and is given back once.
        unsafe { pg_sys::LockRelease(&self.0, pg_sys::ExclusiveLock as i32, false) };
    }
}
