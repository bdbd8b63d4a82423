//! Consuming and giving back in the caller's transaction: one call may touch several pools, all or none of them.

use super::counter::{Counter, PLAN, PoolKey};
use super::decision::{Decision, signed};
use super::feature::Feature;
use super::look::{self, Charge, Lapsed, Look, Pool};
use super::pool::{Attempt, Held, Step};
use super::window::{end_of_term, window_of};
use super::{rate, reservation, rollover, write};
use crate::check::memo::MEMO;
use crate::error::Error;
use crate::pg::backend::BackendLocal;
use crate::pg::change::Wait;
use crate::pg::latch::Latch;
use crate::pg::relations::Relations;
use crate::pg::scan::Intent;
use crate::pg::session::refuse_read_only;
use crate::pg::snapshot::{ActiveSnapshot, clock_time, statement_time};
use crate::pg::subtransaction::{attempt, with_fresh_snapshot};
use entitlements_model::amount::Amount;
use entitlements_model::catalog::{Anchor, Overage};
use entitlements_model::kind::{Kind, Reason};
use entitlements_model::meter::contention::Waited;
use entitlements_model::time::{FOREVER, Time};
use std::rc::Rc;

/// A call that takes or gives back units.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub account: Option<&'a str>,
    pub feature: &'a str,
    pub n: Amount,
    /// All of it or nothing, even where the feature lets callers have what is left.
    pub whole: bool,
    /// For the ledger; None where what is done is no consumption yet.
    pub entry: Option<Entry<'a>>,
}

/// What the ledger keeps of a call.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// What is done.
    pub action: &'static str,
    pub idempotency_key: Option<&'a str>,
    /// JSON.
    pub metadata: Option<&'a str>,
}

/// Units of one charge, found again at each look by what was asked for.
#[derive(Clone, Copy)]
pub struct Line<'a> {
    pub account: &'a str,
    pub feature: &'a str,
    /// The account and the feature of the charge.
    pub charge: (i64, i32),
    pub wanted: Amount,
    /// When the usage was, for usage that is only recorded: it is counted whatever the limit. None: now, within the limit.
    pub happened_at: Option<Time>,
}

/// What was taken from which counter.
pub type Parts = Vec<(i64, Amount)>;

/// Units taken from a counter, and the charge that they are a part of.
#[derive(Clone, Copy)]
pub struct Part {
    pub counter: i64,
    /// The account and the feature of the charge.
    pub charge: (i64, i32),
    pub amount: Amount,
}

/// Takes the units or none: a denial is a decision with `allowed` false. With `denial_raises` the caller raises an error then,
/// which undoes what was taken from one pool before another turned out to be empty; else a subtransaction does.
pub fn take(request: Request<'_>, denial_raises: bool) -> Result<(Decision, Parts), Error> {
    let (decision, parts) = take_in_charges(request, denial_raises)?;
    Ok((decision, parts.into_iter().map(|part| (part.counter, part.amount)).collect()))
}

/// Takes as `take` does, and tells which charge each part belongs to: every one of them gave the whole.
pub fn take_in_charges(request: Request<'_>, denial_raises: bool) -> Result<(Decision, Vec<Part>), Error> {
    refuse_read_only();
    let mut taking = Taking::new(request, denial_raises);
    if let Some(decision) = taking.run()? {
        return Ok((decision, taking.parts));
    }
    let mut taking = Taking::new(request, true);
    let mut outcome = Ok(None);
    // Kept only if something was taken.
    let kept: Result<(), ()> = attempt(|| {
        outcome = taking.run();
        if matches!(&outcome, Ok(Some(decision)) if decision.allowed) { Ok(()) } else { Err(()) }
    });
    match (outcome?, kept) {
        (Some(decision), Ok(())) => Ok((decision, taking.parts)),
        (Some(decision), Err(())) => Ok((decision, Vec::new())),
        (None, _) => Err(Error::Internal("a call that can be undone asked for that again".to_owned())),
    }
}

/// Takes the units of a line. A denial is the look that shows it; what was taken until then is for the caller to undo.
pub fn take_line(line: Line<'_>) -> Result<Result<(), Look>, Error> {
    let mut taken = Amount::ZERO;
    let rounds = line.happened_at.map_or_else(Rounds::new, Rounds::at);
    rounds.run(Subject::Line(line), |turn| turn.take_line(line, &mut taken))
}

/// What one snapshot shows of several features of an account.
pub fn look_at(account: &str, features: impl Iterator<Item = impl AsRef<str>>) -> Result<Vec<Look>, Error> {
    with_fresh_snapshot(|_| {
        let now = statement_time();
        MEMO.with(|memo| {
            memo.read(|reader| {
                features
                    .map(|feature| {
                        Look::at(reader, Some(account.as_bytes()), feature.as_ref().as_bytes(), now, Lapsed::Free)
                    })
                    .collect()
            })
        })
    })
}

/// What was used when; each charge has a counter of the plan's pool for that time.
pub fn look_back(account: &str, feature: &str, at: Time) -> Result<Look, Error> {
    Rounds::at(at).run(Subject::Past(account, feature, at), |turn| {
        let look = turn.look_back(account, feature, at)?;
        for charge in &look.charges {
            for pool in charge.pools.iter().filter(|pool| pool.is_plan()) {
                if turn.open_window(pool, charge)? {
                    return turn.again();
                }
            }
        }
        Ok(Round::Finished(look))
    })
}

/// What an account uses of a feature, whatever it is granted now. NE003, NE004, NE006.
pub fn look_in_use(account: &str, feature: &str) -> Result<Look, Error> {
    with_fresh_snapshot(|_| {
        MEMO.with(|memo| memo.read(|reader| Look::back(reader, account.as_bytes(), feature.as_bytes(), statement_time())))
    })
}

/// Counts units that are in use already, whatever the limit. NE006 unknown account, NE007 more than can be counted.
pub fn count_in_use(account: &str, feature: &str, n: Amount, entry: Entry<'_>) -> Result<(), Error> {
    refuse_read_only();
    let now = statement_time();
    let look = look_back(account, feature, now)?;
    for place in look.in_order() {
        let charge = &look.charges[place];
        let wanted = n.scaled_up(charge.cost);
        if take_line(Line { account, feature, charge: charge.key(), wanted, happened_at: Some(now) })?.is_err() {
            return Err(Error::Internal("usage that is only counted was denied".to_owned()));
        }
    }
    keep_entry(&*super::relations()?, &look, n.nanos(), Some(entry), now)
}

/// Folds the slots of a counter back into it, if nobody is in the way. True if it did.
pub fn fold(counter: i64) -> Result<bool, Error> {
    Rounds::new().run(Subject::Counter(counter), |turn| {
        let Some(found) = Counter::by_id(&turn.relations, turn.snapshot, counter) else { return Ok(Round::Finished(false)) };
        let pool = Pool::of_counter(found);
        let folded = match &pool.counter {
            Some(found) if !found.slots.is_empty() => attempt(|| turn.attempt(turn.snapshot, &pool, found).fold()).is_ok(),
            _ => false,
        };
        Ok(Round::Finished(folded))
    })
}

/// Gives units back, those used last first, whatever is granted now. NE006 unknown account, NE007 if fewer are in use.
pub fn give_back(request: Request<'_>) -> Result<Decision, Error> {
    give_back_or(request, Shortage::Refused)
}

/// Gives units back as `give_back` does; where fewer are in use, those. NE006 unknown account.
pub fn give_back_what_is_used(request: Request<'_>) -> Result<Decision, Error> {
    give_back_or(request, Shortage::Accepted)
}

/// What becomes of a call that gives back more than is in use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shortage {
    Refused,
    Accepted,
}

fn give_back_or(request: Request<'_>, shortage: Shortage) -> Result<Decision, Error> {
    refuse_read_only();
    let mut done = Done::default();
    let subject = Subject::Past(request.account.unwrap_or_default(), request.feature, statement_time());
    Rounds::new().run(subject, |turn| give_back_once(turn, request, shortage, &mut done))
}

/// Gives units back to one counter, whatever is granted now; where fewer are in use, those.
pub fn give_back_to(counter: i64, n: Amount) -> Result<(), Error> {
    Rounds::new().run(Subject::Counter(counter), |turn| {
        let found = Counter::by_id(&turn.relations, turn.snapshot, counter);
        let Some(found) = found else { return Err(Error::UnknownRow { object: "counter", id: counter.to_string() }) };
        let pool = Pool::of_counter(found);
        // A correction may have stated less meanwhile.
        let n = n.min(pool.stored_total());
        if n == Amount::ZERO {
            return Ok(Round::Finished(()));
        }
        match turn.release(&pool, n)? {
            Some(_) => Ok(Round::Finished(())),
            None => turn.again(),
        }
    })
}

/// Looks with a snapshot of this moment.
pub fn look_anew(account: Option<&str>, feature: &str, now: Time) -> Result<Look, Error> {
    with_fresh_snapshot(|_| {
        MEMO.with(|memo| {
            memo.read(|reader| Look::at(reader, account.map(str::as_bytes), feature.as_bytes(), now, Lapsed::Free))
        })
    })
}

/// What came of looking once and acting on it.
pub(super) enum Round<T> {
    Finished(T),
    Again,
    /// Another transaction has a row of this counter: queue, then look again.
    QueueFor(i64),
}

/// After so many looks that came too late a call queues, even if nobody has what it needs.
const PATIENCE: u32 = 5;

/// A call's place in the queue for a counter.
struct Queued {
    counter: i64,
    latch: Latch,
    since: Time,
    since_last: Option<Time>,
}

impl Queued {
    fn queue_for(counter: i64) -> Self {
        /// The counter that this backend queued for last, and when.
        static LAST: BackendLocal<Option<(i64, Time)>> = BackendLocal::new(|| None);
        let since = clock_time();
        let last = LAST.with(|last| last.replace((counter, since)));
        let since_last = last.filter(|(last, _)| *last == counter).map(|(_, then)| since - then);
        Self { counter, latch: Latch::take(counter), since, since_last }
    }

    fn waited(&self) -> Waited {
        Waited { duration: clock_time() - self.since, since_last: self.since_last, behind: self.latch.waiting() }
    }
}

/// Looking and acting until it is done, and where this call queues meanwhile.
pub(super) struct Rounds {
    queued: Option<Queued>,
    late: u32,
    lapsed: Lapsed,
    /// How often a counter was not to be had with all its slots.
    refused: u32,
    /// The moment that is looked at; None: now.
    at: Option<Time>,
}

impl Rounds {
    pub(super) fn new() -> Self {
        Self { queued: None, late: 0, lapsed: Lapsed::Held, refused: 0, at: None }
    }

    /// Rounds that look for expired reservations at once.
    pub(super) fn without_lapsed() -> Self {
        Self { lapsed: Lapsed::Free, ..Self::new() }
    }

    /// Rounds in which a past moment is looked at.
    fn at(at: Time) -> Self {
        Self { at: Some(at), ..Self::new() }
    }

    pub(super) fn run<T>(
        mut self,
        subject: Subject<'_>,
        mut act: impl FnMut(&mut Turn<'_>) -> Result<Round<T>, Error>,
    ) -> Result<T, Error> {
        loop {
            let round = with_fresh_snapshot(|snapshot| {
                let relations = super::relations()?;
                let now = statement_time();
                let (at, rounds) = (self.at.unwrap_or(now), &mut self);
                act(&mut Turn { snapshot, relations, now, at, subject, rounds, next: Round::Again, is_stale: false })
            })?;
            match round {
                Round::Finished(result) => return Ok(result),
                Round::Again => {}
                Round::QueueFor(counter) => {
                    // The place before is given up first: who waits has no latch.
                    self.queued = None;
                    self.queued = Some(Queued::queue_for(counter));
                }
            }
        }
    }
}

/// What a call is about.
#[derive(Clone, Copy)]
pub(super) enum Subject<'a> {
    Request(Request<'a>),
    Line(Line<'a>),
    /// An account's use of a feature at a time.
    Past(&'a str, &'a str, Time),
    Counter(i64),
}

impl Subject<'_> {
    /// The pool with this counter, as the active snapshot shows it.
    fn pool(self, counter: i64, now: Time) -> Result<Option<Pool>, Error> {
        MEMO.with(|memo| {
            memo.read(|reader| {
                let look = match self {
                    Self::Counter(id) => {
                        return Ok(Counter::by_id(reader.relations, reader.snapshot, id).map(Pool::of_counter));
                    }
                    Self::Request(Request { account, feature, .. }) => {
                        Look::at(reader, account.map(str::as_bytes), feature.as_bytes(), now, Lapsed::Held)?
                    }
                    Self::Line(Line { account, feature, happened_at: None, .. }) => {
                        Look::at(reader, Some(account.as_bytes()), feature.as_bytes(), now, Lapsed::Held)?
                    }
                    Self::Line(Line { account, feature, happened_at: Some(at), .. }) | Self::Past(account, feature, at) => {
                        Look::back(reader, account.as_bytes(), feature.as_bytes(), at)?
                    }
                };
                let mut pools = look.charges.into_iter().flat_map(|charge| charge.pools);
                Ok(pools.find(|pool| pool.counter.as_ref().is_some_and(|known| known.id == counter)))
            })
        })
    }
}

/// One look at the state and what is done about it.
pub(super) struct Turn<'a> {
    pub(super) snapshot: ActiveSnapshot,
    pub(super) relations: Rc<Relations>,
    pub(super) now: Time,
    /// The moment whose windows are looked at.
    pub(super) at: Time,
    subject: Subject<'a>,
    rounds: &'a mut Rounds,
    next: Round<()>,
    /// Something was done by a later look.
    is_stale: bool,
}

impl Turn<'_> {
    pub(super) fn look(&self, request: Request<'_>) -> Result<Look, Error> {
        self.look_for(request.account, request.feature)
    }

    fn look_for(&self, account: Option<&str>, feature: &str) -> Result<Look, Error> {
        let (account, lapsed) = (account.map(str::as_bytes), self.rounds.lapsed);
        MEMO.with(|memo| {
            memo.read_on(|reader| {
                reader.intent = Intent::Change;
                Look::at(reader, account, feature.as_bytes(), self.now, lapsed)
            })
        })
    }

    /// What the account uses, whatever it is granted now: a suspended customer can give back.
    pub(super) fn look_in_use(&self, request: Request<'_>) -> Result<Look, Error> {
        let account = request.account.ok_or_else(|| Error::argument("account", "it is NULL"))?;
        let mut look = self.look_back(account, request.feature, self.now)?;
        look.account_key = Some(account.to_owned());
        Ok(look)
    }

    fn look_back(&self, account: &str, feature: &str, at: Time) -> Result<Look, Error> {
        MEMO.with(|memo| memo.read(|reader| Look::back(reader, account.as_bytes(), feature.as_bytes(), at)))
    }

    /// Whether a denial is final: not before expired reservations were looked for, and given back if there are any.
    fn may_deny(&mut self, look: &Look) -> Result<bool, Error> {
        self.next = Round::Again;
        if self.rounds.lapsed == Lapsed::Held {
            self.rounds.lapsed = Lapsed::Free;
            return Ok(false);
        }
        let pools = look.charges.iter().flat_map(|charge| &charge.pools);
        let lapsed = pools.filter(|pool| pool.lapsed > Amount::ZERO).filter_map(|pool| pool.counter.as_ref());
        let counters: Vec<i64> = lapsed.map(|counter| counter.id).collect();
        counters.iter().try_for_each(|counter| self.sweep(*counter))?;
        Ok(counters.is_empty())
    }

    /// Ends the expired reservations on a counter. The state has to be looked at again.
    pub(super) fn sweep(&mut self, counter: i64) -> Result<(), Error> {
        // Whoever is just ending one of them may be queueing to give its units back.
        self.rounds.queued = None;
        self.next = Round::Again;
        reservation::sweep(counter, self.now)
    }

    fn attempt<'b>(&'b self, snapshot: ActiveSnapshot, pool: &'b Pool, counter: &'b Counter) -> Attempt<'b> {
        Attempt {
            relations: &self.relations,
            snapshot,
            pool,
            counter,
            now: self.now,
            // Only what is one row can be spread; asking takes a look at the lock table.
            waited: self.place_in_queue(counter).filter(|_| counter.slots.is_empty()).map(Queued::waited),
        }
    }

    /// What a step came to: the amount, zero for a denial; None where the state has to be looked at again, as `again` tells.
    fn settle(&mut self, pool: &Pool, counter: &Counter, step: Step) -> Result<Option<Amount>, Error> {
        match step {
            Step::Done { amount, crossed, total } => {
                if !crossed.is_empty() {
                    write::report_thresholds(&self.relations, counter.id, &crossed, pool.allowance, total, self.now)?;
                }
                Ok(Some(amount))
            }
            Step::Denied => Ok(Some(Amount::ZERO)),
            Step::LookAgain | Step::LookLocked | Step::Slow { .. } => {
                self.rounds.late += 1;
                self.next = if self.rounds.late > PATIENCE { self.queue(counter) } else { Round::Again };
                Ok(None)
            }
            Step::Held(held) => {
                self.next = self.queue(counter);
                if let Round::Again = self.next {
                    held.wait();
                }
                Ok(None)
            }
        }
    }

    /// Whether to queue. Who is at the head of the queue goes on, and so does who has units of the pool already: the head of
    /// the queue may be waiting for it.
    fn queue(&self, counter: &Counter) -> Round<()> {
        let is_head = self.place_in_queue(counter).is_some();
        if is_head || counter.is_own { Round::Again } else { Round::QueueFor(counter.id) }
    }

    fn place_in_queue(&self, counter: &Counter) -> Option<&Queued> {
        self.rounds.queued.as_ref().filter(|queued| queued.counter == counter.id)
    }

    pub(super) fn again<T>(&mut self) -> Result<Round<T>, Error> {
        Ok(match self.next {
            Round::QueueFor(counter) => Round::QueueFor(counter),
            Round::Again | Round::Finished(()) => Round::Again,
        })
    }

    fn take(&mut self, pool: &Pool, n: Amount, up_to: bool) -> Result<Option<Amount>, Error> {
        let Some(counter) = &pool.counter else { return Ok(None) };
        let step = match self.attempt(self.snapshot, pool, counter).take(n, up_to)? {
            Step::Slow { held } => self.slow(pool, counter, |attempt| attempt.take_slow(n, up_to, held))?,
            step => step,
        };
        self.settle(pool, counter, step)
    }

    /// Counts units that were used, whatever the limit.
    fn add(&mut self, pool: &Pool, n: Amount) -> Result<Option<Amount>, Error> {
        let Some(counter) = &pool.counter else { return Ok(None) };
        let step = match self.attempt(self.snapshot, pool, counter).add(n)? {
            Step::Slow { .. } => self.slow(pool, counter, |attempt| attempt.add_slow(n))?,
            step => step,
        };
        match step {
            Step::Denied => Err(Error::argument("usage", "it is more than can be counted in a window")),
            step => self.settle(pool, counter, step),
        }
    }

    /// Takes from the pools of a charge in their order, and tells what came from which counter. What is missing in the end;
    /// None where the state has to be looked at again.
    fn take_charge(
        &mut self,
        charge: &mut Charge,
        mut missing: Amount,
        to_the_end: bool,
        mut note: impl FnMut(i64, Amount),
    ) -> Result<Option<Amount>, Error> {
        for index in 0..charge.pools.len() {
            if missing == Amount::ZERO {
                break;
            }
            let pool = &charge.pools[index];
            if self.open_window(pool, charge)? {
                return Ok(None);
            }
            if pool.taken > Amount::ZERO {
                // Taken from further up already, which this look does not show.
                self.next = Round::Again;
                return Ok(None);
            }
            let up_to = to_the_end || index + 1 < charge.pools.len();
            let Some(amount) = self.take(pool, missing, up_to)? else { return Ok(None) };
            let counter = pool.counter.as_ref().map_or(0, |counter| counter.id);
            note(counter, amount);
            missing = missing.saturating_sub(amount);
            charge.note_taken(index, amount);
        }
        Ok(Some(missing))
    }

    fn take_line(&mut self, line: Line<'_>, taken: &mut Amount) -> Result<Round<Result<(), Look>>, Error> {
        let is_recorded = line.happened_at.is_some();
        let mut look = match line.happened_at {
            Some(at) => self.look_back(line.account, line.feature, at)?,
            None => self.look_for(Some(line.account), line.feature)?,
        };
        if self.open_plan_windows(&look)? {
            return self.again();
        }
        let place = look.charges.iter().position(|charge| charge.key() == line.charge);
        let missing = line.wanted.saturating_sub(*taken);
        let Some(place) = place else {
            return if is_recorded { self.add_to(line, missing) } else { Ok(Round::Finished(Err(look))) };
        };
        if !is_recorded && !look.charges[place].left().covers(missing) {
            return if self.may_deny(&look)? { Ok(Round::Finished(Err(look))) } else { self.again() };
        }
        let charge = &mut look.charges[place];
        if !is_recorded || charge.pools.len() > 1 {
            let note = |_, amount| *taken = taken.saturating_add(amount);
            let Some(missing) = self.take_charge(charge, missing, is_recorded, note)? else { return self.again() };
            if missing == Amount::ZERO {
                return Ok(Round::Finished(Ok(())));
            }
            if !is_recorded {
                return if self.may_deny(&look)? { Ok(Round::Finished(Err(look))) } else { self.again() };
            }
            if charge.pools.iter().any(|pool| pool.taken > Amount::ZERO) {
                // These rows have changed since the look: the rest comes after another.
                return Ok(Round::Again);
            }
        }
        let charge = &look.charges[place];
        let plan = charge.pools.iter().find(|pool| pool.is_plan());
        let plan = plan.ok_or_else(|| Error::Internal("recorded usage has no pool of the plan".to_owned()))?;
        if self.open_window(plan, charge)? || self.add(plan, missing)?.is_none() {
            return self.again();
        }
        Ok(Round::Finished(Ok(())))
    }

    /// Counts units where they were to be counted when the call began, though the account no longer inherits from there.
    fn add_to(&mut self, line: Line<'_>, missing: Amount) -> Result<Round<Result<(), Look>>, Error> {
        let key = PoolKey { account: line.charge.0, feature: line.charge.1, credit: PLAN };
        let counter = Counter::covering(&self.relations, self.snapshot, key, self.at);
        let counter = counter.ok_or_else(|| Error::Internal("a counter of recorded usage is missing".to_owned()))?;
        match self.add(&Pool::of_counter(counter), missing)? {
            Some(_) => Ok(Round::Finished(Ok(()))),
            None => self.again(),
        }
    }

    fn release(&mut self, pool: &Pool, n: Amount) -> Result<Option<Amount>, Error> {
        let Some(counter) = &pool.counter else { return Ok(None) };
        let step = match self.attempt(self.snapshot, pool, counter).release(n)? {
            Step::Slow { .. } => self.slow(pool, counter, |attempt| attempt.release_slow(n))?,
            step => step,
        };
        match step {
            Step::Denied => Err(Error::argument("n", format!("it is more than the {} units in use", pool.stored_total()))),
            step => self.settle(pool, counter, step),
        }
    }

    /// Works on several rows in a subtransaction, which is kept only if the step is done: who waits holds nothing.
    fn slow(
        &mut self,
        pool: &Pool,
        counter: &Counter,
        work: impl Fn(&Attempt<'_>) -> Result<Step, Error>,
    ) -> Result<Step, Error> {
        self.is_stale = true;
        let kept = attempt(|| {
            let mut step = work(&self.attempt(self.snapshot, pool, counter)).map_err(Err)?;
            while let Step::LookLocked = step {
                step = with_fresh_snapshot(|snapshot| match self.subject.pool(counter.id, self.now)? {
                    Some(pool) => match &pool.counter {
                        Some(counter) => work(&self.attempt(snapshot, &pool, counter)),
                        None => Ok(Step::LookAgain),
                    },
                    None => Ok(Step::LookAgain),
                })
                .map_err(Err)?;
            }
            if let Step::Done { .. } = step { Ok(step) } else { Err(Ok(step)) }
        });
        match kept {
            Ok(step) | Err(Ok(step)) => Ok(step),
            Err(Err(error)) => Err(error),
        }
    }

    /// States anew how much of the pool was used, given what was, and returns that; None where the state has to be looked at
    /// again, as `again` tells. Who waits holds nothing at first, but where the slots are never free all at once they are taken
    /// one after the other.
    pub(super) fn restate(&mut self, pool: &Pool, state: impl Fn(Amount) -> Amount) -> Result<Option<Amount>, Error> {
        let Some(counter) = &pool.counter else { return Ok(None) };
        let step = if self.rounds.refused < PATIENCE {
            self.slow(pool, counter, |attempt| attempt.restate(Wait::Skip, &state))?
        } else {
            self.attempt(self.snapshot, pool, counter).restate(Wait::Block, &state)?
        };
        self.rounds.refused += u32::from(matches!(step, Step::Held(Held::Slot(_))));
        self.settle(pool, counter, step)
    }

    /// Makes the counters of the plans' pools that something is carried over to. True if there was one to make.
    fn open_plan_windows(&mut self, look: &Look) -> Result<bool, Error> {
        for charge in &look.charges {
            let plan = charge.pools.iter().find(|pool| pool.is_plan());
            if let Some(plan) = plan.filter(|plan| plan.rollover.is_some())
                && self.open_window(plan, charge)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The counter of a term that had no end when its window began, and is over.
    fn term_before(&self, pool: &Pool, charge: &Charge) -> Option<Counter> {
        let has_terms = charge.feature.anchor == Some(Anchor::Renewal) && pool.is_plan();
        let last = has_terms.then(|| Counter::covering(&self.relations, self.snapshot, pool.key, self.at));
        last.flatten().filter(|last| last.window.end == FOREVER)
    }

    /// Makes the pool's counter for the present window where there is none. True if there was none, or its window has changed.
    pub(super) fn open_window(&mut self, pool: &Pool, charge: &Charge) -> Result<bool, Error> {
        self.next = Round::Again;
        match &pool.counter {
            None => {
                if let Some(last) = self.term_before(pool, charge) {
                    let end = end_of_term(&self.relations, &last, self.at)?;
                    write::move_end(&self.relations, &last, end)?;
                    return Ok(true);
                }
                let window = window_of(&self.relations, pool, &charge.feature, self.at)?;
                if pool.rollover.is_some() {
                    rollover::open(self, pool, &charge.feature, window)?;
                } else {
                    write::create_counter(&self.relations, pool.key, window)?;
                }
                Ok(true)
            }
            // The term has another end than when its window began.
            Some(counter) if pool.is_plan() && counter.window.end != pool.window.end => {
                write::move_end(&self.relations, counter, pool.window.end)?;
                Ok(true)
            }
            Some(_) => Ok(false),
        }
    }
}

/// A taking on its way: what it has taken so far.
struct Taking<'a> {
    request: Request<'a>,
    can_be_undone: bool,
    done: Done,
    parts: Vec<Part>,
}

/// What a call has moved of each charge, by its key.
#[derive(Default)]
struct Done(Vec<((i64, i32), Amount)>);

impl Done {
    fn of(&self, charge: (i64, i32)) -> Amount {
        self.0.iter().find(|(key, _)| *key == charge).map_or(Amount::ZERO, |(_, sum)| *sum)
    }

    fn add(&mut self, charge: (i64, i32), amount: Amount) {
        match self.0.iter_mut().find(|(key, _)| *key == charge) {
            Some((_, sum)) => *sum = sum.saturating_add(amount),
            None => self.0.push((charge, amount)),
        }
    }
}

impl<'a> Taking<'a> {
    fn new(request: Request<'a>, can_be_undone: bool) -> Self {
        Self { request, can_be_undone, done: Done::default(), parts: Vec::new() }
    }

    /// None, and nothing was done, where it takes from several pools and could not be undone.
    fn run(&mut self) -> Result<Option<Decision>, Error> {
        Rounds::new().run(Subject::Request(self.request), |turn| self.round(turn))
    }

    fn round(&mut self, turn: &mut Turn<'_>) -> Result<Round<Option<Decision>>, Error> {
        let mut look = turn.look(self.request)?;
        let n = self.request.n;
        // A rate knows no units that are only promised.
        if look.feature.resolved.kind == Kind::Rate && self.request.entry.is_some() {
            return Ok(match rate::take(&turn.relations, turn.snapshot, &look, n, turn.now)? {
                Some(decision) => Round::Finished(Some(decision)),
                None => Round::Again,
            });
        }
        look.feature.refuse_uncounted()?;
        let denied = |look: &mut Look, parts: &[Part], reason| {
            look.forget_taken(parts);
            Ok(Round::Finished(Some(Decision::of(look, false, reason, n, 0))))
        };
        if look.charges.is_empty() {
            let reason = look.denial_reason(turn.now)?;
            return denied(&mut look, &self.parts, reason);
        }
        if turn.open_plan_windows(&look)? {
            return turn.again();
        }
        // What is left of one pool may be taken already when another comes: that stays taken.
        let has_taken = !self.done.0.is_empty();
        if !self.can_be_undone && !has_taken && look.charges.iter().map(|charge| charge.pools.len()).sum::<usize>() > 1 {
            return Ok(Round::Finished(None));
        }
        let single = look.charges.len() == 1;
        let mut taken = n;
        for place in look.in_order() {
            let charge = &look.charges[place];
            let caps = single && !self.request.whole && charge.feature.overage == Overage::Cap;
            let wanted = n.scaled_up(charge.cost);
            let missing = wanted.saturating_sub(self.done.of(charge.key()));
            if !caps && !charge.left().covers(missing) {
                if !turn.may_deny(&look)? {
                    return turn.again();
                }
                return denied(&mut look, &self.parts, Reason::LimitExceeded);
            }
            let key = charge.key();
            let note = |counter, amount| self.note(key, counter, amount);
            let Some(missing) = turn.take_charge(&mut look.charges[place], missing, caps, note)? else {
                return turn.again();
            };
            if missing > Amount::ZERO {
                let got = wanted.saturating_sub(missing);
                if !turn.may_deny(&look)? {
                    return turn.again();
                }
                if !caps || got == Amount::ZERO {
                    return denied(&mut look, &self.parts, Reason::LimitExceeded);
                }
                taken = got;
            }
        }
        keep_entry(&turn.relations, &look, taken.nanos(), self.request.entry, turn.now)?;
        if turn.is_stale {
            look = with_fresh_snapshot(|_| turn.look(self.request))?;
        }
        Ok(Round::Finished(Some(Decision::of(&look, true, Reason::Granted, n, taken.nanos()))))
    }

    fn note(&mut self, charge: (i64, i32), counter: i64, amount: Amount) {
        self.done.add(charge, amount);
        match self.parts.iter_mut().find(|part| part.counter == counter) {
            Some(part) => part.amount = part.amount.saturating_add(amount),
            None if amount > Amount::ZERO => self.parts.push(Part { counter, charge, amount }),
            None => {}
        }
    }
}

/// Whether the charge is there only because nothing is granted, and nothing was ever taken from it.
fn is_untouched(charge: &Charge) -> bool {
    charge.pools.iter().all(|pool| pool.counter.is_none() && pool.allowance.is_zero())
}

/// What reservations hold of a pool: it is their own to give back.
fn reserved(pool: &Pool) -> Result<Amount, Error> {
    let Some(counter) = &pool.counter else { return Ok(Amount::ZERO) };
    MEMO.with(|memo| memo.read(|reader| Ok(look::reserved(reader, counter.id))))
}

fn give_back_once(
    turn: &mut Turn<'_>,
    request: Request<'_>,
    shortage: Shortage,
    done: &mut Done,
) -> Result<Round<Decision>, Error> {
    let mut look = turn.look_in_use(request)?;
    look.feature.refuse_uncounted()?;
    for place in look.in_order() {
        let charge = &look.charges[place];
        let key = charge.key();
        let wanted = request.n.scaled_up(charge.cost);
        let mut missing = wanted.saturating_sub(done.of(key));
        let reserved: Vec<Amount> = charge.pools.iter().map(reserved).collect::<Result<_, _>>()?;
        let in_use_at = |charge: &Charge, index: usize| {
            charge.in_use_at(index).min(charge.pools[index].stored_total().saturating_sub(reserved[index]))
        };
        let pools = (0..charge.pools.len()).filter(|index| !charge.is_repeat(*index));
        let in_use = pools.fold(Amount::ZERO, |sum, index| sum.saturating_add(in_use_at(charge, index)));
        if is_untouched(charge) && !look.charges.iter().all(is_untouched) {
            // No cap of its own: what is inherited is refused to it for now.
            continue;
        }
        if in_use < missing && shortage == Shortage::Refused {
            return Err(Error::argument("n", format!("it is more than the {in_use} units in use")));
        }
        missing = missing.min(in_use);
        for index in (0..charge.pools.len()).rev() {
            let pool = &look.charges[place].pools[index];
            let part = in_use_at(&look.charges[place], index).min(missing);
            if part == Amount::ZERO {
                continue;
            }
            if pool.given > Amount::ZERO {
                // Given back at its other place already, which this look does not show.
                return Ok(Round::Again);
            }
            let Some(amount) = turn.release(pool, part)? else { return turn.again() };
            missing = missing.saturating_sub(amount);
            done.add(key, amount);
            look.charges[place].note_given(index, amount);
        }
    }
    keep_entry(&turn.relations, &look, -request.n.nanos(), request.entry, turn.now)?;
    if turn.is_stale {
        look = with_fresh_snapshot(|_| turn.look_in_use(request))?;
    }
    Ok(Round::Finished(Decision::of(&look, true, Reason::Granted, request.n, -request.n.nanos())))
}

/// Keeps billionths of a unit that were consumed in the ledger of the feature, and what they cost in that of the feature that
/// it draws on; of those that have one.
pub fn keep_entry(
    relations: &Relations,
    look: &Look,
    consumed: i128,
    entry: Option<Entry<'_>>,
    at: Time,
) -> Result<(), Error> {
    keep_own_entry(relations, look, consumed, entry, at)?;
    let (Some(entry), Some(account), Some((pool, cost))) = (entry, look.account, look.feature.draws_on) else {
        return Ok(());
    };
    let pool = MEMO.with(|memo| memo.read(|reader| Feature::by_id(reader, pool)))?;
    if !pool.keeps_ledger {
        return Ok(());
    }
    let amount = Amount::calculated(consumed.abs()).scaled_up(cost).nanos() * consumed.signum();
    write::keep_event(relations, write::Event { account, feature: pool.resolved.id.0, amount: signed(amount), entry, at })
}

/// Keeps what was consumed in the feature's own ledger, if it has one.
pub fn keep_own_entry(
    relations: &Relations,
    look: &Look,
    consumed: i128,
    entry: Option<Entry<'_>>,
    at: Time,
) -> Result<(), Error> {
    let (Some(entry), Some(account), true) = (entry, look.account, look.feature.keeps_ledger) else { return Ok(()) };
    let feature = look.feature.resolved.id.0;
    write::keep_event(relations, write::Event { account, feature, amount: signed(consumed), entry, at })
}
