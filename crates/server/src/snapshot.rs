//! Recognising a snapshot by its content, and telling what it shows that an earlier one did not.
//!
//! What a snapshot sees is decided by the fields below and by the own transaction's state. While they are the same, and nothing
//! was done in the own transaction, two snapshots see the same rows.
//!
//! Within one xmax the set of running transactions only shrinks: every id below xmax was handed out before the snapshot was
//! taken, and none comes back. Equal xmin, xmax and counts therefore already mean equal sets.

/// Bounds, counts and circumstances of a snapshot; the names are SnapshotData's.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    pub xmin: u32,
    pub xmax: u32,
    pub xcnt: u32,
    pub subxcnt: i32,
    pub curcid: u32,
    pub suboverflowed: bool,
    /// Taken on a standby.
    pub recovery: bool,
    /// A serializable transaction must leave its own predicate locks: it shares with no other.
    pub serializable: bool,
}

/// The content of a snapshot.
#[derive(Default)]
pub struct Content {
    pub bounds: Bounds,
    /// xmax with its epoch: which transaction it is in the life of the server.
    end: u64,
    running: Vec<u32>,
    running_sub: Vec<u32>,
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

impl Content {
    /// Whether a snapshot with these bounds, for which these transactions and subtransactions ran, has the same content.
    pub fn is(&self, bounds: Bounds, running: &[u32], running_sub: &[u32]) -> bool {
        // Processors take a third of a microsecond to compare nothing with nothing where an empty list points: at no memory.
        let are_same = |own: &[u32], other: &[u32]| own.len() == other.len() && (own.is_empty() || own == other);
        self.bounds == bounds && are_same(&self.running, running) && are_same(&self.running_sub, running_sub)
    }

    /// Takes over the content of a snapshot, given the transaction that the server begins next.
    pub fn copy(&mut self, bounds: Bounds, running: &[u32], running_sub: &[u32], next: u64) {
        self.bounds = bounds;
        // The snapshot ends less than two thousand million transactions before or after.
        self.end = full(next, next as u32, bounds.xmax);
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
        let (us, them) = (&self.bounds, &later.bounds);
        let overflowed = us.suboverflowed || them.suboverflowed;
        if us.serializable || them.serializable || us.recovery != them.recovery || (us.recovery && overflowed) {
            return News::Unknown;
        }
        let began_before_our_end = |id: &&u32| self.full(**id) < self.end;
        let runs_anew = |theirs: &[_], ours: &[_]| theirs.iter().filter(began_before_our_end).any(|id| !ours.contains(id));
        // Where there are more subtransactions than a snapshot holds, the list of transactions tells all the same.
        if self.end == 0
            || later.end < self.end
            || runs_anew(&later.running, &self.running)
            || (!overflowed && runs_anew(&later.running_sub, &self.running_sub))
        {
            return News::Unknown;
        }
        let has_ended = |id: &&u32| !later.transactions().contains(id);
        match self.transactions().iter().filter(has_ended).map(|id| self.full(*id)).min() {
            Some(first) => News::Since(first),
            None if later.end == self.end => News::None,
            None => News::Since(self.end),
        }
    }

    /// Whether it shows the work of a transaction that has committed.
    pub fn shows(&self, transaction: u64) -> bool {
        transaction < self.end && !self.transactions().contains(&(transaction as u32))
    }

    /// The transactions that were running; in recovery with their subtransactions.
    fn transactions(&self) -> &[u32] {
        if self.bounds.recovery { &self.running_sub } else { &self.running }
    }

    fn full(&self, id: u32) -> u64 {
        full(self.end, self.bounds.xmax, id)
    }
}

/// A transaction's number with its epoch, given that of one that is less than two thousand million away.
fn full(known: u64, known_id: u32, id: u32) -> u64 {
    known.wrapping_add_signed(i64::from(id.wrapping_sub(known_id) as i32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// A snapshot before the transaction `end`, for which these ran.
    fn snapshot(end: u64, running: &[u32]) -> Content {
        let mut content = Content::default();
        content.copy(Bounds { xmax: end as u32, ..Bounds::default() }, running, &[], end + 3);
        content
    }

    /// A transaction's first and last moment.
    type Life = (usize, usize);

    /// The snapshot at a moment of a history in which transactions get their numbers in the order in which they begin.
    fn taken_at(moment: usize, first: u64, history: &[Life]) -> Content {
        let begun = history.iter().filter(|life| life.0 <= moment).count();
        let running: Vec<u32> =
            (0..begun).filter(|place| history[*place].1 > moment).map(|place| (first + place as u64) as u32).collect();
        snapshot(first + begun as u64, &running)
    }

    proptest! {
        /// Against a history that is known: what one snapshot shows and another does not.
        #[test]
        fn news_are_what_a_history_says(
            near_wrap in any::<bool>(),
            mut history in vec((0..40usize, 1..20usize), 0..12),
            earlier in 0..50usize,
            later in 0..50usize,
        ) {
            let first = if near_wrap { (1 << 32) - 6 } else { 1000 };
            history.iter_mut().for_each(|life| life.1 += life.0);
            history.sort_unstable();
            let (earlier_seen, later_seen) = (taken_at(earlier, first, &history), taken_at(later, first, &history));
            let shown = |seen: &Content| -> Vec<u64> {
                (first..first + history.len() as u64).filter(|transaction| seen.shows(*transaction)).collect()
            };
            let ended_by = |moment: usize| -> Vec<u64> {
                (0..history.len()).filter(|place| history[*place].1 <= moment).map(|place| first + place as u64).collect()
            };
            prop_assert_eq!(shown(&earlier_seen), ended_by(earlier));
            prop_assert_eq!(shown(&later_seen), ended_by(later));

            let known = ended_by(earlier);
            let new: Vec<u64> = ended_by(later).into_iter().filter(|transaction| !known.contains(transaction)).collect();
            match earlier_seen.news_in(&later_seen) {
                News::None => prop_assert!(new.is_empty()),
                News::Since(from) => prop_assert!(new.iter().all(|transaction| *transaction >= from)),
                News::Unknown => prop_assert!(later < earlier, "a later snapshot shows all that an earlier one shows"),
            }
            if later < earlier && ended_by(later) != known {
                prop_assert_eq!(earlier_seen.news_in(&later_seen), News::Unknown);
            }
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
        assert_eq!(Content::default().news_in(&snapshot(105, &[])), News::Unknown);
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
