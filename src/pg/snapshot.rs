//! Recognising a snapshot by its content, and telling what it shows that an earlier one did not.
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

/// The content of a snapshot.
#[derive(Default)]
pub struct SnapshotKey {
    scalars: Scalars,
    /// xmax with its epoch: which transaction it is in the life of the server.
    end: u64,
    running: Vec<pg_sys::TransactionId>,
    running_sub: Vec<pg_sys::TransactionId>,
}

/// What a snapshot shows that an earlier one did not.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing of other transactions, and all that the earlier one shows.
    None,
    /// Maybe work of transactions from this one on, and all that the earlier one shows.
    Since(u64),
    /// That cannot be told, or it does not show all that the earlier one shows.
    Unknown,
}

impl SnapshotKey {
    /// Whether the snapshot lies where the last one did and has its bounds, counts and command id.
    #[inline(always)]
    pub fn looks_like(&self, snapshot: ActiveSnapshot) -> bool {
        self.scalars == snapshot.scalars()
    }

    /// Whether the snapshot has the same content, wherever it lies.
    pub fn recognises(&mut self, snapshot: ActiveSnapshot) -> bool {
        let scalars = snapshot.scalars();
        let (running, running_sub) = snapshot.running();
        let same = Scalars { address: self.scalars.address, ..scalars } == self.scalars
            && running == self.running
            && running_sub == self.running_sub;
        if same {
            self.scalars.address = scalars.address;
        }
        same
    }

    /// Takes over the content of the snapshot.
    pub fn copy(&mut self, snapshot: ActiveSnapshot) {
        self.scalars = snapshot.scalars();
        // SAFETY: reads a variable in shared memory.
        let next = unsafe { pg_sys::ReadNextFullTransactionId() }.value;
        // The snapshot ends less than two thousand million transactions before or after.
        self.end = full(next, next as u32, self.scalars.xmax);
        let (running, running_sub) = snapshot.running();
        self.running.clear();
        self.running.extend_from_slice(running);
        self.running_sub.clear();
        self.running_sub.extend_from_slice(running_sub);
    }

    /// What `later` shows that this snapshot does not, apart from what the own transaction has done.
    ///
    /// A snapshot shows the transactions before its end that were not running, so `later` shows all that this one shows if
    /// whatever ran for it and began before our end ran for us too. Then new is what ran for us and no longer runs, and what
    /// comes after our end.
    pub fn news_in(&self, later: &Self) -> News {
        let (us, them) = (&self.scalars, &later.scalars);
        let overflowed = us.suboverflowed || them.suboverflowed;
        if us.serializable || them.serializable || us.recovery != them.recovery || (us.recovery && overflowed) {
            return News::Unknown;
        }
        let began_before_our_end = |id: &&pg_sys::TransactionId| self.full(**id) < self.end;
        let runs_anew = |theirs: &[_], ours: &[_]| theirs.iter().filter(began_before_our_end).any(|id| !ours.contains(id));
        // Where there are more subtransactions than a snapshot holds, the list of transactions tells all the same.
        if self.end == 0
            || later.end < self.end
            || runs_anew(&later.running, &self.running)
            || (!overflowed && runs_anew(&later.running_sub, &self.running_sub))
        {
            return News::Unknown;
        }
        let has_ended = |id: &&pg_sys::TransactionId| !later.transactions().contains(id);
        match self.transactions().iter().filter(has_ended).map(|id| self.full(*id)).min() {
            Some(first) => News::Since(first),
            None if later.end == self.end => News::None,
            None => News::Since(self.end),
        }
    }

    /// Whether it shows the work of a transaction that has committed.
    pub fn shows(&self, transaction: u64) -> bool {
        let id = pg_sys::TransactionId::from_inner(transaction as u32);
        transaction < self.end && !self.transactions().contains(&id)
    }

    /// The transactions that were running; in recovery with their subtransactions.
    fn transactions(&self) -> &[pg_sys::TransactionId] {
        if self.scalars.recovery { &self.running_sub } else { &self.running }
    }

    fn full(&self, id: pg_sys::TransactionId) -> u64 {
        full(self.end, self.scalars.xmax, id.into_inner())
    }
}

/// A transaction's number with its epoch, given that of one that is less than two thousand million away.
fn full(known: u64, known_id: u32, id: u32) -> u64 {
    known.wrapping_add_signed(i64::from(id.wrapping_sub(known_id) as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A snapshot before the transaction `end`, for which these ran.
    fn snapshot(end: u64, running: &[u32]) -> SnapshotKey {
        SnapshotKey {
            scalars: Scalars { xmax: end as u32, ..Scalars::default() },
            end,
            running: running.iter().map(|id| pg_sys::TransactionId::from_inner(*id)).collect(),
            running_sub: Vec::new(),
        }
    }

    #[test]
    fn a_later_snapshot_shows_what_has_ended_and_what_is_new() {
        assert_eq!(snapshot(100, &[90]).news_in(&snapshot(100, &[90])), News::None);
        assert_eq!(snapshot(100, &[90, 95]).news_in(&snapshot(100, &[90])), News::Since(95));
        assert_eq!(snapshot(100, &[90]).news_in(&snapshot(105, &[90, 102])), News::Since(100));
        assert_eq!(snapshot(100, &[90, 98]).news_in(&snapshot(105, &[98])), News::Since(90));
    }

    #[test]
    fn an_earlier_snapshot_shows_less() {
        assert_eq!(snapshot(105, &[]).news_in(&snapshot(100, &[])), News::Unknown);
        assert_eq!(snapshot(105, &[]).news_in(&snapshot(105, &[90])), News::Unknown);
        assert_eq!(SnapshotKey::default().news_in(&snapshot(105, &[])), News::Unknown);
    }

    #[test]
    fn transaction_ids_wrap_around() {
        let epoch = 1 << 32;
        let (before, after) = (snapshot(epoch + 2, &[u32::MAX - 3, 1]), snapshot(epoch + 9, &[1, 5]));
        assert_eq!(before.news_in(&after), News::Since(epoch - 4));
        assert_eq!(after.news_in(&before), News::Unknown);
        assert!(after.shows(epoch - 4) && after.shows(epoch + 4) && !after.shows(epoch + 5) && !after.shows(epoch + 9));
        assert!(!before.shows(epoch + 1) && before.shows(epoch - 9));
    }

    #[test]
    fn shown_are_committed_transactions_before_the_end() {
        let seen = snapshot(100, &[90]);
        assert!(seen.shows(89) && !seen.shows(90) && seen.shows(99) && !seen.shows(100));
    }
}
