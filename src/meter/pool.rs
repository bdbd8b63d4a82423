//! Taking units from a pool and giving them back: the slot protocol.
//!
//! Promises. Whatever is committed in whatever order, usage never exceeds the limit that was in force when each statement decided;
//! nobody is denied while anything is left; who consumes from a pool that is spread over slots waits for nobody.
//!
//! Why it holds. Units are only ever taken under the lock of the row that gives them, which the transaction keeps to its end:
//! an abort undoes the change of the row, and nobody could have built on it. A slot gives no more than its share; shares are
//! only given out under the lock of the counter, and `used` and all shares together stay within the limit they were made
//! under, which the counter tells. A lower limit is never served from older shares, a higher one is only put to use with all
//! slots locked, so that nobody is at work who has seen another. A row that has changed since the look is not touched.
//! Denials are decided by one look at what is committed, without any lock.
//!
//! `tests/protocol` explores this protocol in every interleaving, under the names used here: look, deny_certain, take_fast,
//! take_slow, spread, gather (whose first part is refill there), fold, release. What locks several rows runs in a subtransaction,
//! which is rolled back before anybody is waited for: who waits holds nothing but what it has taken units from.

use super::counter::{Counter, Slot};
use super::look::Pool;
use super::write;
use crate::error::Error;
use crate::pg::change::{Holders, Lock, LockedRow, NewValue, Version, Wait, lock, update};
use crate::pg::relations::{Relations, counter, counter_slot};
use crate::pg::scan::Place;
use crate::pg::session::process_number;
use crate::pg::settings;
use crate::pg::snapshot::ActiveSnapshot;
use crate::pg::subtransaction::attempt;
use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::meter::contention::Waited;
use entitlements_model::meter::share;
use entitlements_model::time::Time;

/// What came of one attempt.
pub enum Step {
    /// So many units were taken or given back. The thresholds that were crossed, at a total.
    Done { amount: Amount, crossed: Vec<Amount>, total: Amount },
    /// There is not enough, for certain.
    Denied,
    /// Somebody changed what was looked at. Nothing was locked.
    LookAgain,
    /// All rows are locked, and some have changed since the look: it has to be repeated with the locks.
    LookLocked,
    /// No free slot serves; so many that would have are held by others.
    Slow { held: usize },
    /// Another transaction has a row that may decide.
    Held(Held),
}

/// Who has a row.
pub enum Held {
    Counter(Holders),
    Slot(Holders),
}

impl Held {
    /// Waits until the row is given back, and locks nothing.
    pub fn wait(self) {
        let (Self::Counter(holders) | Self::Slot(holders)) = self;
        holders.wait();
    }
}

/// A taking or giving back of units, by one look.
pub struct Attempt<'a> {
    pub relations: &'a Relations,
    pub snapshot: ActiveSnapshot,
    pub pool: &'a Pool,
    pub counter: &'a Counter,
    pub now: Time,
    /// This consumer has waited for the counter.
    pub waited: Option<Waited>,
}

/// Slots that a pool is spread over at first.
const FIRST_SLOTS: usize = 4;

/// After how long without use, in microseconds for each of them, slots are folded back into the counter: the more it takes to
/// make them, the later.
const QUIET: Time = 250_000;

/// Usage that can be recorded, whatever the allowance.
const GREATEST_TOTAL: i128 = 10i128.pow(27) - 1;

/// A locked slot in its newest version, and what it is to become.
struct Gathered {
    place: Place,
    /// Among the counter's slots.
    index: usize,
    share: Allowance,
    used: Amount,
    is_newer: bool,
}

impl Attempt<'_> {
    /// Takes `n` units; with `up_to` what is left where that is less.
    pub fn take(&self, n: Amount, up_to: bool) -> Result<Step, Error> {
        if self.deny_certain(n, up_to) {
            return Ok(Step::Denied);
        }
        if self.counter.slots.is_empty() { self.take_at_row(n, up_to) } else { self.take_fast(n) }
    }

    /// What the look shows leaves less than `n`.
    fn deny_certain(&self, n: Amount, up_to: bool) -> bool {
        self.fitting(self.pool.stored_total(), n, up_to).is_none()
    }

    /// How much of `n` fits on top of a total; None where it does not, or nothing.
    fn fitting(&self, total: Amount, n: Amount, up_to: bool) -> Option<Amount> {
        let greatest = Amount::from_nanos(GREATEST_TOTAL).expect("the greatest amount is one");
        let left = self.pool.limit.min(Allowance::Finite(greatest)).minus(total);
        if left.covers(n) {
            return Some(n);
        }
        match left {
            Allowance::Finite(left) if up_to && left > Amount::ZERO => Some(left),
            _ => None,
        }
    }

    /// Up to which total usage neither exceeds a limit nor crosses a threshold.
    fn bound(&self, limit: Allowance) -> Allowance {
        if self.pool.thresholds.is_empty() {
            return limit;
        }
        let next = share::crossed(&self.pool.thresholds, self.pool.allowance, self.counter.reported, Amount::ZERO).next;
        share::bound(limit, next)
    }

    /// The slots with their places, this backend's preferred one first.
    fn slots(&self) -> impl Iterator<Item = (usize, &Slot)> {
        let count = self.counter.slots.len();
        let first = process_number() % count;
        (first..count).chain(0..first).map(|index| (index, &self.counter.slots[index]))
    }

    fn take_at_row(&self, n: Amount, up_to: bool) -> Result<Step, Error> {
        let total = self.counter.used;
        let Some(taken) = self.fitting(total, n, up_to) else { return Ok(Step::Denied) };
        let total = total.saturating_add(taken);
        let crossing = self.crossing(total);
        let mut changes = vec![(counter::USED, NewValue::Amount(total))];
        changes.extend(crossing.reported.map(|factor| (counter::REPORTED, NewValue::Amount(factor))));
        let shares = if self.waited.is_some_and(Waited::is_contention) {
            self.first_shares(crossing.bound.minus(total), taken)
        } else {
            Vec::new()
        };
        if !shares.is_empty() {
            changes.push((counter::ALLOCATED, NewValue::Allowance(sum(&shares))));
            changes.push((counter::MADE_UNDER, NewValue::Allowance(self.pool.limit)));
            changes.push((counter::SLOTS, NewValue::Int2(shares.len() as i16)));
        }
        match update(&self.relations.counters, self.counter.place, self.snapshot, &changes) {
            Lock::Taken(()) => {
                if !shares.is_empty() {
                    self.insert_slots(0, &shares)?;
                }
                Ok(Step::Done { amount: taken, crossed: crossing.crossed, total })
            }
            other => self.without_row(other),
        }
    }

    /// What the first slots get to spread a pool; nothing where too little is left to share.
    fn first_shares(&self, unallocated: Allowance, n: Amount) -> Vec<Allowance> {
        let slots = settings::max_slots().min(FIRST_SLOTS);
        let mut shares = share::spread(fraction(unallocated, 1, 2, n), n, slots);
        shares.retain(|share| !share.is_zero());
        if shares.len() < 2 { Vec::new() } else { shares }
    }

    fn insert_slots(&self, first: usize, shares: &[Allowance]) -> Result<(), Error> {
        write::insert_slots(self.relations, self.counter.id, first, shares, self.now)
    }

    /// Takes from a slot that is free and has enough, if the shares may be served under the limit that the look shows.
    fn take_fast(&self, n: Amount) -> Result<Step, Error> {
        let counter = self.counter;
        let given_out = counter.allocated.plus(Allowance::Finite(counter.used));
        if counter.made_under > self.pool.limit || given_out > self.bound(self.pool.limit) {
            return Ok(Step::Slow { held: 0 });
        }
        if self.is_quiet() && attempt(|| self.fold()).is_ok() {
            return Ok(Step::LookAgain);
        }
        let mut held = 0;
        for (_, slot) in self.slots().filter(|(_, slot)| slot.room().covers(n)) {
            match self.use_slot(slot, slot.used.saturating_add(n)) {
                Lock::Taken(()) => {
                    let total = self.pool.stored_total().saturating_add(n);
                    return Ok(Step::Done { amount: n, crossed: Vec::new(), total });
                }
                Lock::Newer => return Ok(Step::LookAgain),
                Lock::Held => held += 1,
                Lock::Conflict => {}
            }
        }
        Ok(Step::Slow { held })
    }

    /// Sets what a slot has used, if it is as the look shows it and free.
    fn use_slot(&self, slot: &Slot, used: Amount) -> Lock<()> {
        let changes = [(counter_slot::USED, NewValue::Amount(used)), (counter_slot::TOUCHED_AT, NewValue::Time(self.now))];
        update(&self.relations.counter_slots, slot.place, self.snapshot, &changes)
    }

    /// Takes what is not allocated, and gathers from slots what is. In a subtransaction: whatever is not done has to be undone.
    pub fn take_slow(&self, n: Amount, up_to: bool, held: usize) -> Result<Step, Error> {
        if self.counter.slots.is_empty() || self.deny_certain(n, up_to) {
            return self.take(n, up_to);
        }
        let locked = lock(&self.relations.counters, self.counter.place, self.snapshot, Version::Seen, Wait::Skip, |row| {
            self.gather(row, n, up_to, held)
        });
        self.of_row(locked)
    }

    /// With the counter locked: locks as many slots as it takes, and shares out anew what they and the counter have left.
    fn gather(&self, row: &LockedRow<'_, { counter::COUNT }>, n: Amount, up_to: bool, held: usize) -> Result<Step, Error> {
        let counter = self.counter;
        // A lower limit holds at once, a higher one only with all slots locked.
        let limit = self.pool.limit.min(counter.made_under);
        let bound = self.bound(limit);
        // How far usage can have got: what the slots that are not locked may use counts as used.
        let mut reach: Vec<Allowance> = counter.slots.iter().map(|slot| slot.share).collect();
        let within = |bound: Allowance, reach: &[Allowance]| match (bound, sum(reach)) {
            (Allowance::Unlimited, _) => true,
            (_, Allowance::Finite(reach)) => bound.covers(reach.saturating_add(counter.used).saturating_add(n)),
            (_, Allowance::Unlimited) => false,
        };
        let mut gathered: Vec<Gathered> = Vec::new();
        let mut missing: Option<Place> = None;
        for (index, slot) in self.slots() {
            if within(bound, &reach) && (!gathered.is_empty() || held > 0) {
                break;
            }
            match self.lock_slot(index, slot, Wait::Skip) {
                Lock::Taken(found) => {
                    reach[index] = Allowance::Finite(found.used);
                    gathered.push(found);
                }
                Lock::Held => missing = missing.or(Some(slot.place)),
                Lock::Newer => return Ok(Step::LookAgain),
                Lock::Conflict => return Err(Error::Serialization),
            }
        }
        let (taken, crossing, limit) = if within(bound, &reach) {
            (n, Crossing { crossed: Vec::new(), reported: None, bound }, limit)
        } else if let Some(place) = missing {
            return Ok(self.held_slot(place));
        } else if gathered.iter().any(|found| found.is_newer) {
            return Ok(Step::LookLocked);
        } else {
            // The look is the present, and nobody else is at work.
            let total = gathered.iter().fold(counter.used, |total, found| total.saturating_add(found.used));
            let Some(taken) = self.fitting(total, n, up_to) else { return Ok(Step::Denied) };
            (taken, self.crossing(total.saturating_add(taken)), self.pool.limit)
        };
        let total = self.pool.stored_total().saturating_add(taken);
        let changes = self.share_out(gathered, sum(&reach), taken, crossing.bound, held)?;
        let mut changes = changes;
        changes.push((counter::MADE_UNDER, NewValue::Allowance(limit)));
        changes.extend(crossing.reported.map(|factor| (counter::REPORTED, NewValue::Amount(factor))));
        row.update(&changes);
        Ok(Step::Done { amount: taken, crossed: crossing.crossed, total })
    }

    /// Books what was taken and gives the gathered slots new shares of what is left; returns what changes at the counter.
    fn share_out(
        &self,
        mut gathered: Vec<Gathered>,
        reach: Allowance,
        taken: Amount,
        bound: Allowance,
        held: usize,
    ) -> Result<Vec<(usize, NewValue)>, Error> {
        let slots = self.counter.slots.len();
        let mut used = self.counter.used;
        let mut unallocated = match reach {
            Allowance::Finite(reach) => bound.minus(reach.saturating_add(used).saturating_add(taken)),
            Allowance::Unlimited => Allowance::Unlimited,
        };
        if gathered.is_empty() {
            used = used.saturating_add(taken);
        } else {
            gathered[0].used = gathered[0].used.saturating_add(taken);
            // All of it when it had to be scraped together, else a part: the other slots will want theirs.
            let all = gathered.len() == slots;
            let budget = if all { unallocated } else { fraction(unallocated, gathered.len(), 2 * slots, taken) };
            let parts = share::spread(budget, taken, gathered.len());
            for (found, part) in gathered.iter_mut().zip(parts) {
                found.share = Allowance::Finite(found.used).plus(part);
                unallocated = less(unallocated, part);
            }
        }
        let mut shares: Vec<Allowance> = self.counter.slots.iter().map(|slot| slot.share).collect();
        for found in &gathered {
            shares[found.index] = found.share;
            let changes = [
                (counter_slot::SHARE, NewValue::Allowance(found.share)),
                (counter_slot::USED, NewValue::Amount(found.used)),
                (counter_slot::TOUCHED_AT, NewValue::Time(self.now)),
            ];
            self.change_gathered(found.place, |row| row.update(&changes));
        }
        let most = settings::max_slots();
        if 2 * held >= slots && slots < most {
            let more = slots.min(most - slots);
            let mut new = share::spread(fraction(unallocated, more, 2 * (slots + more), taken), taken, more);
            new.retain(|share| !share.is_zero());
            if !new.is_empty() {
                let first = self.counter.slots.iter().map(|slot| slot.number as usize + 1).max().unwrap_or(0);
                self.insert_slots(first, &new)?;
                shares.extend(new);
            }
        }
        Ok(vec![
            (counter::USED, NewValue::Amount(used)),
            (counter::ALLOCATED, NewValue::Allowance(sum(&shares))),
            (counter::SLOTS, NewValue::Int2(shares.len() as i16)),
        ])
    }

    /// Counts `n` units whatever the limit: they are used. Denied only where the total could not be stored.
    pub fn add(&self, n: Amount) -> Result<Step, Error> {
        if !self.counter.slots.is_empty() {
            return Ok(Step::Slow { held: 0 });
        }
        let total = self.counter.used.saturating_add(n);
        if total.nanos() > GREATEST_TOTAL {
            return Ok(Step::Denied);
        }
        let crossing = self.crossing(total);
        let mut changes = vec![(counter::USED, NewValue::Amount(total))];
        changes.extend(crossing.reported.map(|factor| (counter::REPORTED, NewValue::Amount(factor))));
        match update(&self.relations.counters, self.counter.place, self.snapshot, &changes) {
            Lock::Taken(()) => Ok(Step::Done { amount: n, crossed: crossing.crossed, total }),
            other => self.without_row(other),
        }
    }

    /// Counts units at the counter; where they go beyond the limit or a threshold, with all slots folded into it, so that no
    /// share lies beyond. In a subtransaction, as `take_slow`.
    pub fn add_slow(&self, n: Amount) -> Result<Step, Error> {
        let total = self.pool.stored_total().saturating_add(n);
        if self.counter.slots.is_empty() {
            return self.add(n);
        }
        if total.nanos() > GREATEST_TOTAL {
            return Ok(Step::Denied);
        }
        let used = self.counter.used.saturating_add(n);
        let bound = self.bound(self.pool.limit.min(self.counter.made_under));
        if self.counter.allocated.plus(Allowance::Finite(used)) <= bound {
            let changes = [(counter::USED, NewValue::Amount(used))];
            return match update(&self.relations.counters, self.counter.place, self.snapshot, &changes) {
                Lock::Taken(()) => Ok(Step::Done { amount: n, crossed: Vec::new(), total }),
                other => self.without_row(other),
            };
        }
        Ok(match self.restate(Wait::Skip, |used| used.saturating_add(n))? {
            Step::Done { crossed, total, .. } => Step::Done { amount: n, crossed, total },
            step => step,
        })
    }

    fn lock_slot(&self, index: usize, slot: &Slot, wait: Wait) -> Lock<Gathered> {
        lock(&self.relations.counter_slots, slot.place, self.snapshot, Version::Newest, wait, |row| {
            // Consumers change `used` without the counter's lock, a share never.
            let newest = Slot::read(&row.row());
            Gathered { place: newest.place, index, share: newest.share, used: newest.used, is_newer: row.is_newer }
        })
    }

    /// Works on a slot that this transaction has locked.
    fn change_gathered(&self, place: Place, work: impl FnOnce(&LockedRow<'_, { counter_slot::COUNT }>)) {
        let locked = lock(&self.relations.counter_slots, place, self.snapshot, Version::Seen, Wait::Skip, work);
        assert!(matches!(locked, Lock::Taken(())), "this transaction has the slot's lock");
    }

    /// Gives back `n` units.
    pub fn release(&self, n: Amount) -> Result<Step, Error> {
        let total = self.pool.stored_total();
        if total < n {
            return Ok(Step::Denied);
        }
        let given = || Ok(Step::Done { amount: n, crossed: Vec::new(), total: total.saturating_sub(n) });
        if self.counter.slots.is_empty() {
            let changes = [(counter::USED, NewValue::Amount(self.counter.used.saturating_sub(n)))];
            return match update(&self.relations.counters, self.counter.place, self.snapshot, &changes) {
                Lock::Taken(()) => given(),
                other => self.without_row(other),
            };
        }
        for (_, slot) in self.slots().filter(|(_, slot)| slot.used >= n) {
            match self.use_slot(slot, slot.used.saturating_sub(n)) {
                Lock::Taken(()) => return given(),
                Lock::Newer => return Ok(Step::LookAgain),
                Lock::Held | Lock::Conflict => {}
            }
        }
        Ok(Step::Slow { held: 0 })
    }

    /// Gives back from several rows. In a subtransaction, as `take_slow`.
    pub fn release_slow(&self, n: Amount) -> Result<Step, Error> {
        if self.counter.slots.is_empty() || self.pool.stored_total() < n {
            return self.release(n);
        }
        let locked = lock(&self.relations.counters, self.counter.place, self.snapshot, Version::Seen, Wait::Skip, |row| {
            self.gather_back(row, n)
        });
        self.of_row(locked)
    }

    fn gather_back(&self, row: &LockedRow<'_, { counter::COUNT }>, n: Amount) -> Result<Step, Error> {
        let from_row = self.counter.used.min(n);
        let mut lacking = n.saturating_sub(from_row);
        let mut held = None;
        let mut gathered = Vec::new();
        for (index, slot) in self.slots() {
            if lacking == Amount::ZERO {
                break;
            }
            match self.lock_slot(index, slot, Wait::Skip) {
                Lock::Taken(found) => {
                    let part = found.used.min(lacking);
                    lacking = lacking.saturating_sub(part);
                    gathered.push((found, part));
                }
                Lock::Held => held = held.or(Some(slot.place)),
                Lock::Newer => return Ok(Step::LookAgain),
                Lock::Conflict => return Err(Error::Serialization),
            }
        }
        if lacking > Amount::ZERO {
            return Ok(held.map_or(Step::LookLocked, |place| self.held_slot(place)));
        }
        for (found, part) in &gathered {
            let changes = [
                (counter_slot::USED, NewValue::Amount(found.used.saturating_sub(*part))),
                (counter_slot::TOUCHED_AT, NewValue::Time(self.now)),
            ];
            self.change_gathered(found.place, |row| row.update(&changes));
        }
        row.update(&[(counter::USED, NewValue::Amount(self.counter.used.saturating_sub(from_row)))]);
        let total = self.pool.stored_total().saturating_sub(n);
        Ok(Step::Done { amount: n, crossed: Vec::new(), total })
    }

    /// Nobody but this backend has used the slots for a while.
    fn is_quiet(&self) -> bool {
        let slots = self.counter.slots.len();
        let since = self.now.saturating_sub(QUIET.saturating_mul(slots as Time));
        slots > 1 && self.slots().skip(1).all(|(_, slot)| slot.touched_at < since)
    }

    /// Folds the slots back into the counter, if nobody is in the way. In a subtransaction, as `take_slow`.
    pub fn fold(&self) -> Result<(), NotFolded> {
        let locked = lock(&self.relations.counters, self.counter.place, self.snapshot, Version::Seen, Wait::Skip, |row| {
            let mut total = self.counter.used;
            let mut places = Vec::with_capacity(self.counter.slots.len());
            for (index, slot) in self.slots() {
                let Lock::Taken(found) = self.lock_slot(index, slot, Wait::Skip) else { return Err(NotFolded) };
                if found.is_newer {
                    return Err(NotFolded);
                }
                total = total.saturating_add(found.used);
                places.push(found.place);
            }
            if total.nanos() > GREATEST_TOTAL {
                return Err(NotFolded);
            }
            places.into_iter().for_each(|place| self.change_gathered(place, |slot| slot.delete()));
            row.update(&[
                (counter::USED, NewValue::Amount(total)),
                (counter::ALLOCATED, NewValue::Amount(Amount::ZERO)),
                (counter::SLOTS, NewValue::Int2(0)),
            ]);
            Ok(())
        });
        match locked {
            Lock::Taken(folded) => folded,
            Lock::Held | Lock::Newer | Lock::Conflict => Err(NotFolded),
        }
    }

    /// States anew how much was used, given what was, with the counter and all its slots locked and folded into one row. Who
    /// looked at the counter before has to look again, also where the number stays the same. What was used before is the
    /// amount of the step, what is used now its total. In a subtransaction, as `take_slow`; with Block the slots are waited for
    /// one after the other and kept meanwhile, so that it comes to an end under any load.
    pub fn restate(&self, wait: Wait, state: impl Fn(Amount) -> Amount) -> Result<Step, Error> {
        let locked = lock(&self.relations.counters, self.counter.place, self.snapshot, Version::Seen, Wait::Skip, |row| {
            let mut before = self.counter.used;
            let mut places = Vec::with_capacity(self.counter.slots.len());
            for (index, slot) in self.counter.slots.iter().enumerate() {
                match self.lock_slot(index, slot, wait) {
                    Lock::Taken(found) => {
                        before = before.saturating_add(found.used);
                        places.push(found.place);
                    }
                    Lock::Held => return Ok(self.held_slot(slot.place)),
                    Lock::Newer => return Ok(Step::LookAgain),
                    Lock::Conflict => return Err(Error::Serialization),
                }
            }
            places.into_iter().for_each(|place| self.change_gathered(place, |slot| slot.delete()));
            let greatest = Amount::from_nanos(GREATEST_TOTAL).expect("the greatest amount is one");
            let total = state(before).min(greatest);
            let crossing = self.crossing(total);
            let mut changes = vec![
                (counter::USED, NewValue::Amount(total)),
                (counter::ALLOCATED, NewValue::Amount(Amount::ZERO)),
                (counter::SLOTS, NewValue::Int2(0)),
            ];
            changes.extend(crossing.reported.map(|factor| (counter::REPORTED, NewValue::Amount(factor))));
            row.update(&changes);
            Ok(Step::Done { amount: before, crossed: crossing.crossed, total })
        });
        self.of_row(locked)
    }

    /// What became of a step with the counter's row locked.
    fn of_row(&self, locked: Lock<Result<Step, Error>>) -> Result<Step, Error> {
        match locked {
            Lock::Taken(step) => step,
            Lock::Held => self.without_row(Lock::Held),
            Lock::Newer => self.without_row(Lock::Newer),
            Lock::Conflict => self.without_row(Lock::Conflict),
        }
    }

    fn held_slot(&self, place: Place) -> Step {
        Step::Held(Held::Slot(Holders::of(&self.relations.counter_slots, place, self.snapshot)))
    }

    /// What to do when the counter's row was not to be had.
    fn without_row(&self, locked: Lock<()>) -> Result<Step, Error> {
        match locked {
            Lock::Held => {
                Ok(Step::Held(Held::Counter(Holders::of(&self.relations.counters, self.counter.place, self.snapshot))))
            }
            Lock::Newer | Lock::Taken(()) => Ok(Step::LookAgain),
            Lock::Conflict => Err(Error::Serialization),
        }
    }

    /// What a total crosses that was not reported yet.
    fn crossing(&self, total: Amount) -> Crossing {
        if self.pool.thresholds.is_empty() {
            return Crossing { crossed: Vec::new(), reported: None, bound: self.pool.limit };
        }
        let found = share::crossed(&self.pool.thresholds, self.pool.allowance, self.counter.reported, total);
        let bound = share::bound(self.pool.limit, found.next);
        Crossing { reported: found.factors.last().copied(), bound, crossed: found.factors }
    }
}

/// Somebody is at work in the slots.
pub struct NotFolded;

/// Thresholds that are crossed, and up to where no further one is.
struct Crossing {
    crossed: Vec<Amount>,
    /// The greatest of them.
    reported: Option<Amount>,
    bound: Allowance,
}

fn sum(shares: &[Allowance]) -> Allowance {
    shares.iter().fold(Allowance::ZERO, |sum, share| sum.plus(*share))
}

/// A part of what is left, in whole units where these are asked for.
fn fraction(allowance: Allowance, numerator: usize, denominator: usize, n: Amount) -> Allowance {
    match allowance {
        Allowance::Finite(amount) => {
            let part = amount.part(denominator).times(u32::try_from(numerator).unwrap_or(u32::MAX));
            Allowance::Finite(if n.is_whole() { part.floor() } else { part })
        }
        Allowance::Unlimited => Allowance::Unlimited,
    }
}

fn less(unallocated: Allowance, part: Allowance) -> Allowance {
    match part {
        Allowance::Finite(part) => unallocated.minus(part),
        Allowance::Unlimited => unallocated,
    }
}
