//! Whether what came by bundles counts at a time: the terms of the bundles in force decide, and nothing in the rows.
//!
//! Where no bundle was ever accepted this costs one look at the size of a file. Where none in force denies, rows are read as
//! ever, and their source with them only where one does.

use super::load::{present, word};
use crate::bundle::source_of;
use crate::pg::relations::{Relations, bundle, deployment};
use crate::pg::scan::{Order, Row, has_no_pages, scan};
use crate::pg::snapshot::ActiveSnapshot;
use entitlements_bundle::{Clock, Denial, Mode, Terms};
use entitlements_model::resolve::Withheld;
use entitlements_model::time::{BEGINNING, FOREVER, Time};
use std::ops::ControlFlow;

pub struct Enforcement {
    /// Sources whose rows do not count, and why.
    withheld: Vec<(Vec<u8>, Withheld)>,
    /// Holds for times of the clock in `from <= t < until`.
    from: Time,
    pub until: Time,
}

impl Enforcement {
    /// Holds at no time.
    pub const fn unknown() -> Self {
        Self { withheld: Vec::new(), from: FOREVER, until: BEGINNING }
    }

    /// Everything counts, always.
    const fn nothing_withheld() -> Self {
        Self { withheld: Vec::new(), from: BEGINNING, until: FOREVER }
    }

    pub fn holds_at(&self, time: Time) -> bool {
        self.from <= time && time < self.until
    }

    pub fn withholds(&self) -> bool {
        !self.withheld.is_empty()
    }

    /// Why the rows of this source do not count; None if they do.
    pub fn of(&self, source: &[u8]) -> Option<Withheld> {
        self.withheld.iter().find(|(withheld, _)| withheld == source).map(|(_, why)| *why)
    }

    /// By the bundles in force, when the clock shows `now`.
    pub fn at_present(relations: &Relations, snapshot: ActiveSnapshot, now: Time) -> Self {
        if has_no_pages(&relations.bundles_in_force) {
            return Self::nothing_withheld();
        }
        let mut highest = BEGINNING;
        scan(&relations.deployment, &[], Order::Any, snapshot, |row| {
            highest = present(row.time(deployment::HIGHEST_SEEN));
            ControlFlow::Break(())
        });
        let mut enforcement = Self { from: now, ..Self::nothing_withheld() };
        scan(&relations.bundles_in_force, &[], Order::Any, snapshot, |row| {
            enforcement.add(row, Clock { now, highest });
            ControlFlow::Continue(())
        });
        enforcement
    }

    /// By the bundles that were in force at a past time; what the clock showed then is not known.
    pub fn in_the_past(relations: &Relations, snapshot: ActiveSnapshot, at: Time) -> Self {
        if has_no_pages(&relations.bundles) {
            return Self::nothing_withheld();
        }
        let mut enforcement = Self { from: at, ..Self::nothing_withheld() };
        scan(&relations.bundles, &[], Order::Any, snapshot, |row| {
            let in_force = present(row.time(bundle::ACCEPTED_AT)) <= at
                && row.time(bundle::SUPERSEDED_AT).is_none_or(|superseded_at| at < superseded_at);
            if in_force {
                enforcement.add(row, Clock { now: at, highest: at });
            }
            ControlFlow::Continue(())
        });
        enforcement
    }

    fn add(&mut self, row: &Row<'_, { bundle::COUNT }>, clock: Clock) {
        let terms = Terms {
            issued_at: present(row.time(bundle::ISSUED_AT)),
            expires: present(row.time(bundle::EXPIRES_AT)),
            grace_ends: present(row.time(bundle::GRACE_ENDS_AT)),
            heartbeat_due: row.time(bundle::HEARTBEAT_DUE_AT),
            mode: word::<Mode, _>(row, bundle::MODE),
        };
        let standing = terms.standing(clock);
        self.until = self.until.min(standing.until);
        let why = match standing.denial {
            None => return,
            Some(Denial::Expired) => Withheld::BundleStale,
            Some(Denial::ClockBehind) => Withheld::ClockRollback,
        };
        let issuer = present(row.text(bundle::ISSUER, |issuer| String::from_utf8_lossy(issuer).into_owned()));
        self.withheld.push((source_of(&issuer).into_bytes(), why));
    }
}
