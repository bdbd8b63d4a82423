//! Recognising a snapshot by its content.
//!
//! What a snapshot sees is decided by the fields below and by the own transaction's state. While the key is the same, and no
//! callback has raised MEMO_EXPIRED, two snapshots see the same rows.
//!
//! Within one xmax the set of running transactions only shrinks: every id below xmax was handed out before the snapshot was
//! taken, and none comes back. Equal xmin, xmax and counts therefore already mean equal sets; the arrays are compared all the
//! same whenever the snapshot lies elsewhere in memory or another call site asks, since that costs once a statement only.

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
    fn scalars(self) -> Scalars {
        // SAFETY: the active snapshot stays allocated while the query runs.
        unsafe {
            let snapshot = &*self.0;
            Scalars {
                address: self.0 as usize,
                xmin: snapshot.xmin.into_inner(),
                xmax: snapshot.xmax.into_inner(),
                xcnt: snapshot.xcnt,
                subxcnt: snapshot.subxcnt,
                curcid: snapshot.curcid,
                suboverflowed: snapshot.suboverflowed,
                recovery: snapshot.takenDuringRecovery,
                // A serializable transaction must leave its own predicate locks: it shares with no other.
                serializable: is_serializable(),
            }
        }
    }

    fn running(self) -> (&'static [pg_sys::TransactionId], &'static [pg_sys::TransactionId]) {
        unsafe fn list(start: *const pg_sys::TransactionId, count: usize) -> &'static [pg_sys::TransactionId] {
            // SAFETY: the caller gives an array of the snapshot with its count; it may be NULL when it is empty.
            if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(start, count) } }
        }
        // SAFETY: xip and subxip have xcnt and subxcnt elements; the slices are compared or copied at once, while the snapshot
        // is active, and not kept.
        unsafe {
            let snapshot = &*self.0;
            (list(snapshot.xip, snapshot.xcnt as usize), list(snapshot.subxip, snapshot.subxcnt.max(0) as usize))
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Scalars {
    address: usize,
    xmin: u32,
    xmax: u32,
    xcnt: u32,
    subxcnt: i32,
    curcid: u32,
    suboverflowed: bool,
    recovery: bool,
    serializable: bool,
}

/// The content of the snapshot seen last.
#[derive(Default)]
pub struct SnapshotKey {
    scalars: Scalars,
    running: Vec<pg_sys::TransactionId>,
    running_sub: Vec<pg_sys::TransactionId>,
}

impl SnapshotKey {
    /// Whether the snapshot lies where the last one did and has its bounds, counts and command id.
    #[inline(always)]
    pub fn looks_like(&self, snapshot: ActiveSnapshot) -> bool {
        self.scalars == snapshot.scalars()
    }

    /// Whether the snapshot has the same content as the last one. Remembers it either way.
    pub fn replace(&mut self, snapshot: ActiveSnapshot) -> bool {
        let scalars = snapshot.scalars();
        let (running, running_sub) = snapshot.running();
        let same = Scalars { address: self.scalars.address, ..scalars } == self.scalars
            && running == self.running
            && running_sub == self.running_sub;
        self.scalars = scalars;
        if !same {
            self.running.clear();
            self.running.extend_from_slice(running);
            self.running_sub.clear();
            self.running_sub.extend_from_slice(running_sub);
        }
        same
    }
}
