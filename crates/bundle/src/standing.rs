//! An accepted bundle over time: fresh, stale, in grace, expired; and a clock that may have been set back.
//!
//! Time is taken as the later of the clock and the highest time ever seen, so setting the clock back wins nothing. In `enforce`
//! a clock further behind than a correction of a few minutes denies until it has caught up; in `advise` it is reported only.

use entitlements_model::time::{FOREVER, Time};

use crate::bundle::{Bundle, Mode};

const SECOND: Time = 1_000_000;

/// How far two right clocks may differ: five minutes.
pub const LEEWAY: Time = 300 * SECOND;

/// The time of a question, and the latest time this database is known to have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    pub now: Time,
    pub highest: Time,
}

impl Clock {
    /// The time to judge by; never behind what was seen.
    pub fn time(self) -> Time {
        self.now.max(self.highest)
    }

    /// The clock shows a time that is over.
    pub fn is_behind(self) -> bool {
        self.now.saturating_add(LEEWAY) < self.highest
    }
}

/// What a bundle says of its own time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub issued_at: Time,
    pub expires: Time,
    pub grace_ends: Time,
    /// When the next bundle is overdue.
    pub heartbeat_due: Option<Time>,
    pub mode: Mode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Fresh,
    /// The next bundle is overdue.
    Stale,
    Grace,
    Expired,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Fresh => "fresh",
            Phase::Stale => "stale",
            Phase::Grace => "grace",
            Phase::Expired => "expired",
        }
    }
}

/// Why what the bundle granted does not hold at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    Expired,
    ClockBehind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The furthest phase reached.
    pub phase: Phase,
    /// Also in grace and later, where the phase does not tell.
    pub heartbeat_missed: bool,
    pub clock_behind: bool,
    /// Always `None` in [`Mode::Advise`].
    pub denial: Option<Denial>,
    /// The first time of the clock at which the answer is another, if no bundle comes; FOREVER if never.
    pub until: Time,
}

impl Terms {
    pub fn of(bundle: &Bundle) -> Self {
        let (issued_at, expires) = (bundle.issued_at.time(), bundle.expires.time());
        Self {
            issued_at,
            expires,
            grace_ends: expires + bundle.grace * SECOND,
            heartbeat_due: bundle.heartbeat.map(|heartbeat| issued_at + heartbeat * SECOND),
            mode: bundle.mode,
        }
    }

    pub fn standing(&self, clock: Clock) -> Standing {
        let time = clock.time();
        let heartbeat_missed = self.heartbeat_due.is_some_and(|due| due <= time);
        let phase = match time {
            _ if self.grace_ends <= time => Phase::Expired,
            _ if self.expires <= time => Phase::Grace,
            _ if heartbeat_missed => Phase::Stale,
            _ => Phase::Fresh,
        };
        let clock_behind = clock.is_behind();
        let denial = match self.mode {
            Mode::Advise => None,
            Mode::Enforce if clock_behind => Some(Denial::ClockBehind),
            Mode::Enforce => (phase == Phase::Expired).then_some(Denial::Expired),
        };
        let until = if clock_behind {
            clock.highest - LEEWAY
        } else {
            let turns = [self.heartbeat_due.unwrap_or(FOREVER), self.expires, self.grace_ends];
            turns.into_iter().filter(|turn| *turn > time).min().unwrap_or(FOREVER)
        };
        Standing { phase, heartbeat_missed, clock_behind, denial, until }
    }
}
