//! When a pool of one row is wanted by so many that it is worth spreading.
//!
//! A spread pool costs each consumer some microseconds more, for there are more rows to look at. A short wait now and then, which
//! consumers of a thousand accounts have with each other all the time, is no reason for that.

use crate::time::Time;

/// Waiting for so long, in microseconds, is reason enough.
const LONG: Time = 100_000;

/// Waits that follow each other in less than this, in microseconds, are more than now and then.
const SOON: Time = 1_000_000;

/// More than so many others who wait at the same time are a queue.
const FEW: usize = 1;

/// A consumer's wait for the row.
#[derive(Debug, Clone, Copy)]
pub struct Waited {
    /// In microseconds.
    pub duration: Time,
    /// The time between the beginning of this consumer's last wait for the same row, if it was its last one at all, and of this, in
    /// microseconds.
    pub since_last: Option<Time>,
    /// Who waits behind it.
    pub behind: usize,
}

impl Waited {
    pub fn is_contention(self) -> bool {
        self.duration >= LONG || self.behind > FEW || self.since_last.is_some_and(|time| time < SOON)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Waited = Waited { duration: 5_000, since_last: None, behind: 1 };

    #[test]
    fn a_short_wait_now_and_then_is_none() {
        assert!(!SHORT.is_contention());
        assert!(!Waited { since_last: Some(1_500_000), ..SHORT }.is_contention());
    }

    #[test]
    fn a_long_wait_waits_in_a_row_and_a_queue_are() {
        assert!(Waited { duration: 100_000, ..SHORT }.is_contention());
        assert!(Waited { since_last: Some(20_000), ..SHORT }.is_contention());
        assert!(Waited { behind: 2, ..SHORT }.is_contention());
    }
}
