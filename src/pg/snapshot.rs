//! The active snapshot, and recognising it. While the key is the same, and no callback has raised MEMO_EXPIRED, two snapshots see
//! the same rows (`entitlements_server::snapshot`). Equal bounds and counts mean equal content; the arrays are compared all the
//! same whenever the snapshot lies elsewhere in memory or another call site asks, since that costs once a statement only.

pub use entitlements_server::snapshot::News;
use entitlements_server::snapshot::{Bounds, Content};
use pgrx::pg_sys;

unsafe extern "C-unwind" {
    // Declared here, not taken from pgrx, to go without its guard (a setjmp each): they cannot raise an error, and the check
    // path calls them for each row.
    fn GetActiveSnapshot() -> pg_sys::Snapshot;
    fn ActiveSnapshotSet() -> bool;
    fn GetCurrentStatementStartTimestamp() -> pg_sys::TimestampTz;
    fn GetCurrentTransactionStartTimestamp() -> pg_sys::TimestampTz;
}

/// When the statement that the client sent last arrived, in microseconds since 2000-01-01 UTC: `statement_timestamp()`.
#[inline(always)]
pub fn statement_time() -> i64 {
    // SAFETY: reads a variable of the backend.
    unsafe { GetCurrentStatementStartTimestamp() }
}

/// Now, in microseconds since 2000-01-01 UTC: `clock_timestamp()`.
pub fn clock_time() -> i64 {
    // SAFETY: asks the system for the time.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// When the transaction began: `now()`.
pub fn transaction_time() -> i64 {
    // SAFETY: reads a variable of the backend.
    unsafe { GetCurrentTransactionStartTimestamp() }
}

/// Whether the transaction has to leave predicate locks on what it reads.
#[inline(always)]
pub fn is_serializable() -> bool {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::XactIsoLevel == pg_sys::XACT_SERIALIZABLE as i32 }
}

/// The snapshot of the query that is running.
#[derive(Clone, Copy)]
pub struct ActiveSnapshot(pg_sys::Snapshot);

impl ActiveSnapshot {
    /// None outside of a query.
    #[inline(always)]
    pub fn get() -> Option<Self> {
        // SAFETY: reads variables of the backend; GetActiveSnapshot is only called when one is set.
        unsafe { ActiveSnapshotSet().then(|| Self(GetActiveSnapshot())) }
    }

    /// Whether the planner may look at rows: there is a snapshot, and a look leaves no predicate locks that would make a
    /// serializable transaction conflict with changes it never asked about.
    pub fn may_be_read_for_estimates() -> bool {
        // SAFETY: reads a variable of the backend.
        unsafe { ActiveSnapshotSet() && !is_serializable() }
    }

    pub(super) fn as_ptr(self) -> pg_sys::Snapshot {
        self.0
    }

    #[inline(always)]
    fn address(self) -> usize {
        self.0 as usize
    }

    #[inline(always)]
    fn bounds(self) -> Bounds {
        // SAFETY: the active snapshot stays allocated while the query runs.
        unsafe {
            let snapshot = &*self.0;
            Bounds {
                xmin: snapshot.xmin.into_inner(),
                xmax: snapshot.xmax.into_inner(),
                xcnt: snapshot.xcnt,
                subxcnt: snapshot.subxcnt,
                curcid: snapshot.curcid,
                suboverflowed: snapshot.suboverflowed,
                recovery: snapshot.takenDuringRecovery,
                serializable: is_serializable(),
            }
        }
    }

    /// The transactions and subtransactions that were running.
    fn running(self) -> (&'static [u32], &'static [u32]) {
        unsafe fn list(start: *const pg_sys::TransactionId, count: usize) -> &'static [u32] {
            // SAFETY: the caller gives an array of the snapshot with its count; it may be NULL when it is empty. An id is a
            // uint32 (postgres_ext.h).
            if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(start.cast(), count) } }
        }
        // SAFETY: xip and subxip have xcnt and subxcnt elements; the slices are compared or copied at once, while the snapshot
        // is active, and not kept.
        unsafe {
            let snapshot = &*self.0;
            (list(snapshot.xip, snapshot.xcnt as usize), list(snapshot.subxip, snapshot.subxcnt.max(0) as usize))
        }
    }
}

/// A snapshot as it is recognised.
#[derive(Default)]
pub struct SnapshotKey {
    /// Where it lay last.
    address: usize,
    content: Content,
}

impl SnapshotKey {
    /// Whether the snapshot lies where the last one did and has its bounds, counts and command id.
    #[inline(always)]
    pub fn looks_like(&self, snapshot: ActiveSnapshot) -> bool {
        self.address == snapshot.address() && self.content.bounds == snapshot.bounds()
    }

    /// Whether the snapshot has the same content, wherever it lies.
    pub fn recognises(&mut self, snapshot: ActiveSnapshot) -> bool {
        let (running, running_sub) = snapshot.running();
        let same = self.content.is(snapshot.bounds(), running, running_sub);
        if same {
            self.address = snapshot.address();
        }
        same
    }

    /// Takes over the content of the snapshot.
    pub fn copy(&mut self, snapshot: ActiveSnapshot) {
        // SAFETY: reads a variable in shared memory.
        let next = unsafe { pg_sys::ReadNextFullTransactionId() }.value;
        let (running, running_sub) = snapshot.running();
        self.address = snapshot.address();
        self.content.copy(snapshot.bounds(), running, running_sub, next);
    }

    /// What `later` shows that this snapshot does not, apart from what the own transaction has done.
    pub fn news_in(&self, later: &Self) -> News {
        self.content.news_in(&later.content)
    }

    /// Whether it shows the work of a transaction that has committed.
    pub fn shows(&self, transaction: u64) -> bool {
        self.content.shows(transaction)
    }
}
