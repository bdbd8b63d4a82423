//! What a snapshot shows about an account's use of a feature: what it is granted, and the pools that a call takes from.

use super::consume::Part;
use super::counter::{Counter, PLAN, PoolKey};
use super::feature::Feature;
use super::rollover;
use super::window::{end_of_term, window_of};
use crate::bundle::is_of_bundle;
use crate::check::answers::Credit;
use crate::check::load::{Account, Reader, present};
use crate::check::memo::MEMO;
use crate::error::Error;
use crate::pg::relations::{deployment, reservation_part};
use crate::pg::scan::{Condition, Order, scan};
use crate::pg::snapshot::statement_time;
use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::catalog::{Anchor, Overage};
use entitlements_model::kind::{Kind, Reason};
use entitlements_model::meter::burn;
use entitlements_model::meter::rollover::Rollover;
use entitlements_model::meter::window::Window;
use entitlements_model::period::Period;
use entitlements_model::resolve;
use entitlements_model::time::{BEGINNING, FOREVER, Time};
use entitlements_server::name::AccountName;
use std::ops::ControlFlow;
use std::rc::Rc;

/// An account's use of a feature.
pub struct Look {
    /// None where no account has the key.
    pub account: Option<i64>,
    pub account_key: Option<String>,
    pub feature: Rc<Feature>,
    pub granted: bool,
    pub reason: Reason,
    /// What the plans and overrides give; credits come on top.
    pub allowance: Allowance,
    pub expires_at: Option<Time>,
    /// What a unit is taken from: each of these in full. Empty where nothing may be taken.
    pub charges: Vec<Charge>,
}

/// Whether what expired reservations hold is free already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lapsed {
    Free,
    Held,
}

/// What a look is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Whether something may be taken: only pools that have anything.
    Decide,
    /// Where usage counts that has happened: the plan's pool is always there.
    Record,
}

/// Pools that together have to give an amount.
pub struct Charge {
    pub account: i64,
    pub feature: Rc<Feature>,
    /// Units for each unit asked for.
    pub cost: Amount,
    /// In the order in which they are used up.
    pub pools: Vec<Pool>,
}

pub struct Pool {
    pub key: PoolKey,
    /// Total usage that is allowed.
    pub limit: Allowance,
    /// What counts as within the allowance; the rest up to the limit is overage.
    pub allowance: Allowance,
    /// Factors of the allowance to report, ascending.
    pub thresholds: Vec<Amount>,
    /// None before the first use in the present window.
    pub counter: Option<Counter>,
    /// Of the plan's pool: the present window, as it is known now.
    pub window: Window,
    /// Of a credit.
    pub recurs: Option<Recurrence>,
    /// A credit that was made of what a window left.
    pub is_carried: bool,
    /// Of the plan's pool at the account that holds the feature.
    pub rollover: Option<Rollover>,
    /// Units of reservations that have expired and were not given back yet.
    pub lapsed: Amount,
    /// What was taken since the look.
    pub taken: Amount,
    /// What was given back since the look.
    pub given: Amount,
}

/// When a credit is there.
#[derive(Clone, Copy)]
pub struct Recurrence {
    pub starts_at: Time,
    pub expires_at: Time,
    /// None: once.
    pub period: Option<Period>,
}

impl Pool {
    /// A credit that is not there yet.
    pub fn foreseen(key: PoolKey, amount: Amount) -> Self {
        Self {
            key,
            limit: Allowance::Finite(amount),
            allowance: Allowance::Finite(amount),
            thresholds: Vec::new(),
            counter: None,
            window: Window::LIFETIME,
            recurs: None,
            is_carried: true,
            rollover: None,
            lapsed: Amount::ZERO,
            taken: Amount::ZERO,
            given: Amount::ZERO,
        }
    }

    /// A pool that only gives back: nothing limits that but what was used.
    pub fn of_counter(counter: Counter) -> Self {
        Self {
            key: counter.key,
            limit: Allowance::ZERO,
            allowance: Allowance::ZERO,
            thresholds: Vec::new(),
            window: counter.window,
            counter: Some(counter),
            recurs: None,
            is_carried: false,
            rollover: None,
            lapsed: Amount::ZERO,
            taken: Amount::ZERO,
            given: Amount::ZERO,
        }
    }

    pub fn is_plan(&self) -> bool {
        self.key.credit == PLAN
    }

    /// All that was used, without what expired reservations hold.
    pub fn total(&self) -> Amount {
        self.stored_total().saturating_sub(self.lapsed)
    }

    /// All that was used, as the counter has it.
    pub fn stored_total(&self) -> Amount {
        let stored = self.counter.as_ref().map_or(Amount::ZERO, Counter::total);
        stored.saturating_add(self.taken).saturating_sub(self.given)
    }

    pub fn left(&self) -> Allowance {
        self.limit.minus(self.total())
    }

    fn overage(&self) -> Amount {
        self.beyond_allowance(self.total())
    }

    fn stored_overage(&self) -> Amount {
        self.beyond_allowance(self.stored_total())
    }

    fn beyond_allowance(&self, total: Amount) -> Amount {
        match self.allowance {
            Allowance::Finite(allowance) => total.saturating_sub(allowance),
            Allowance::Unlimited => Amount::ZERO,
        }
    }
}

impl Charge {
    /// Its account and feature, which tell it from the other charges of a call.
    pub fn key(&self) -> (i64, i32) {
        (self.account, self.feature.resolved.id.0)
    }

    /// Each pool once: the plan's may stand at the end again, for what goes beyond its allowance.
    fn each_pool(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter().enumerate().filter(|(place, _)| !self.is_repeat(*place)).map(|(_, pool)| pool)
    }

    /// Whether the pool stands further up already.
    pub fn is_repeat(&self, place: usize) -> bool {
        self.pools[..place].iter().any(|pool| pool.key == self.pools[place].key)
    }

    pub fn note_taken(&mut self, place: usize, amount: Amount) {
        let key = self.pools[place].key;
        for pool in self.pools.iter_mut().filter(|pool| pool.key == key) {
            pool.taken = pool.taken.saturating_add(amount);
        }
    }

    pub fn note_given(&mut self, place: usize, amount: Amount) {
        let key = self.pools[place].key;
        for pool in self.pools.iter_mut().filter(|pool| pool.key == key) {
            pool.given = pool.given.saturating_add(amount);
        }
    }

    /// How much of the units in use were taken at this place: where the pool stands twice, those beyond its allowance were
    /// taken at the second.
    pub fn in_use_at(&self, place: usize) -> Amount {
        let pool = &self.pools[place];
        if self.is_repeat(place) { pool.stored_overage() } else { pool.stored_total() }
    }

    /// What all pools allow together, overage not counted.
    pub fn whole_allowance(&self) -> Allowance {
        self.each_pool().fold(Allowance::ZERO, |sum, pool| sum.plus(pool.allowance))
    }

    pub fn used(&self) -> Amount {
        self.each_pool().fold(Amount::ZERO, |sum, pool| sum.saturating_add(pool.total()))
    }

    /// As the counters have it: with what expired reservations hold.
    pub fn stored(&self) -> Amount {
        self.each_pool().fold(Amount::ZERO, |sum, pool| sum.saturating_add(pool.stored_total()))
    }

    pub fn overage(&self) -> Amount {
        self.each_pool().map(Pool::overage).max().unwrap_or(Amount::ZERO)
    }

    /// What can still be taken, by what the look has shown. The last entry of a pool has its widest limit.
    pub fn left(&self) -> Allowance {
        let widest = |(place, pool): &(usize, &Pool)| !self.pools[place + 1..].iter().any(|later| later.key == pool.key);
        self.pools.iter().enumerate().filter(widest).fold(Allowance::ZERO, |sum, (_, pool)| sum.plus(pool.left()))
    }

    /// Billionths of a unit that are left, negative where more is in use than is allowed now; None where there is no limit.
    /// With overage up to its ceiling.
    pub fn balance(&self, with_overage: bool) -> Option<i128> {
        let widest = |(place, pool): &(usize, &Pool)| !self.pools[place + 1..].iter().any(|later| later.key == pool.key);
        self.pools.iter().enumerate().filter(widest).try_fold(0, |sum: i128, (_, pool)| {
            match if with_overage { pool.limit } else { pool.allowance } {
                Allowance::Finite(limit) => Some(sum.saturating_add(limit.nanos() - pool.total().nanos())),
                Allowance::Unlimited => None,
            }
        })
    }

    pub fn counters(&self) -> impl Iterator<Item = i64> {
        self.each_pool().filter_map(|pool| pool.counter.as_ref()).map(|counter| counter.id)
    }

    /// When the plan's window ends, used or not.
    pub fn resets_at(&self) -> Option<Time> {
        let plan = self.pools.iter().find(|pool| pool.is_plan())?;
        Some(plan.window.end).filter(|end| *end != FOREVER)
    }
}

impl Look {
    /// NE003 unknown feature, NE004 it is not metered in units that are used up. `now` is the time of the statement.
    ///
    /// What expired reservations hold counts as used in an answer of `Lapsed::Held`, which saves looking for them.
    pub fn at(
        reader: &mut Reader<'_>,
        account: Option<&[u8]>,
        feature: &[u8],
        now: Time,
        lapsed: Lapsed,
    ) -> Result<Self, Error> {
        let feature = Feature::by_key(reader, feature)?;
        let found = match account {
            Some(key) => reader.present_account(AccountName::Text(key), now)?,
            None => Rc::new(Account::unknown()),
        };
        let mut look = Self::of(reader, &found, feature, now, Purpose::Decide)?;
        if lapsed == Lapsed::Free {
            look.free_lapsed(reader, now);
        }
        look.account_key = account.map(|key| String::from_utf8_lossy(key).into_owned());
        Ok(look)
    }

    /// Where usage that happened at `at` counts, whatever was granted then. NE003, NE004; NE006 unknown account.
    pub fn back(reader: &mut Reader<'_>, account: &[u8], feature: &[u8], at: Time) -> Result<Self, Error> {
        let feature = Feature::by_key(reader, feature)?;
        let found = reader.account(account, Some(at))?;
        if found.id.is_none() {
            return Err(Error::UnknownAccount { account: String::from_utf8_lossy(account).into_owned() });
        }
        Self::of(reader, &found, feature, at, Purpose::Record)
    }

    /// The places of the charges in the order in which all calls take from them, so that two never wait for each other in a
    /// circle.
    pub fn in_order(&self) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.charges.len()).collect();
        places.sort_by_key(|place| self.charges[*place].key());
        places
    }

    /// Whether `n` units, or with overage cap at least some, could be taken.
    pub fn allows(&self, n: Amount) -> bool {
        let enough = |charge: &Charge| match charge.feature.overage {
            Overage::Cap if self.charges.len() == 1 => !charge.left().is_zero(),
            Overage::Reject | Overage::Cap | Overage::Allow => charge.left().covers(n.scaled_up(charge.cost)),
        };
        !self.charges.is_empty() && self.charges.iter().all(enough)
    }

    /// Leaves out what expired reservations hold.
    fn free_lapsed(&mut self, reader: &Reader<'_>, now: Time) {
        for pool in self.charges.iter_mut().flat_map(|charge| &mut charge.pools) {
            pool.lapsed = pool.counter.as_ref().map_or(Amount::ZERO, |counter| lapsed(reader, counter.id, now));
        }
    }

    /// As if the call had taken nothing: neither since the look nor, as `parts` of counters tell, before.
    pub fn forget_taken(&mut self, parts: &[Part]) {
        for pool in self.charges.iter_mut().flat_map(|charge| &mut charge.pools) {
            let part = parts.iter().find(|part| pool.counter.as_ref().is_some_and(|known| known.id == part.counter));
            pool.given = part.map_or(Amount::ZERO, |part| part.amount);
        }
    }

    /// How many units can still be taken: what the scarcest charge has left.
    pub fn remaining(&self) -> Allowance {
        let units = |charge: &Charge| match charge.left() {
            Allowance::Finite(left) => Allowance::Finite(left.divided_down(charge.cost)),
            Allowance::Unlimited => Allowance::Unlimited,
        };
        self.charges.iter().map(units).min().unwrap_or(Allowance::ZERO)
    }

    /// Why nothing may be taken, also looking at what has ended.
    pub fn denial_reason(&self, now: Time) -> Result<Reason, Error> {
        let (Some(key), Reason::NotGranted) = (&self.account_key, self.reason) else { return Ok(self.reason) };
        MEMO.with(|memo| {
            memo.read(|reader| {
                let account = reader.account(key.as_bytes(), None)?;
                let settled = resolve::settle(&self.feature.resolved, &account.lineage, &*reader.catalog, now);
                Ok(if settled.reason == Reason::Granted { Reason::NotGranted } else { settled.reason })
            })
        })
    }

    fn of(
        reader: &mut Reader<'_>,
        account: &Account,
        feature: Rc<Feature>,
        now: Time,
        purpose: Purpose,
    ) -> Result<Self, Error> {
        let settled = account.settle(&feature.resolved, reader.catalog, now);
        let mut look = Self {
            account: account.id,
            account_key: None,
            granted: settled.reason == Reason::Granted,
            reason: if account.id.is_none() { Reason::UnknownAccount } else { settled.reason },
            allowance: settled.allowance,
            expires_at: settled.expires_at,
            charges: Vec::new(),
            feature,
        };
        let denied = matches!(look.reason, Reason::UnknownAccount | Reason::Blocked | Reason::OverrideDenied);
        let has_pools = matches!(look.feature.resolved.kind, Kind::Quota | Kind::Allocation);
        if (denied && purpose == Purpose::Decide) || !has_pools {
            return Ok(look);
        }
        look.charges = charges(reader, account, &look.feature, Amount::ONE, now, purpose)?;
        if let Some((on, cost)) = look.feature.draws_on {
            let pool_feature = Feature::by_id(reader, on)?;
            let drawn = charges(reader, account, &pool_feature, cost, now, purpose)?;
            if drawn.is_empty() || look.charges.is_empty() {
                look.charges.clear();
            } else {
                look.charges.extend(drawn);
            }
        }
        if look.charges.is_empty() {
            look.granted = false;
        } else if !look.granted {
            // Credits alone.
            look.granted = true;
            look.reason = Reason::Granted;
        }
        Ok(look)
    }
}

/// The account's own charge, and where it inherits the feature those of the accounts that it inherits from: the one that holds
/// it has the pool, those on the way down only count where they cap what they let through.
fn charges(
    reader: &mut Reader<'_>,
    account: &Account,
    feature: &Rc<Feature>,
    cost: Amount,
    now: Time,
    purpose: Purpose,
) -> Result<Vec<Charge>, Error> {
    let Some(id) = account.id else { return Ok(Vec::new()) };
    let id_of = |level: usize| if level == 0 { id } else { account.ancestors[level - 1] };
    let settled = account.settle(&feature.resolved, reader.catalog, now);
    let holder_level = settled.held_by;
    let mut charges = Vec::with_capacity(1);
    let mut credits = Vec::new();
    credits_of(reader, id, feature.resolved.id.0, now, &mut credits);
    let mut below = settled.allowance;
    for level in 0..holder_level {
        let lineage = &account.lineage[level + 1..];
        let above = resolve::settle(&feature.resolved, lineage, &*reader.catalog, now).value.allowance();
        if below != above {
            let pool = plan_pool(reader, id_of(level), feature, below, now)?;
            charges.push(Charge { account: id_of(level), feature: Rc::clone(feature), cost, pools: vec![pool] });
        }
        below = above;
    }
    let holder = id_of(holder_level);
    if holder_level > 0 {
        credits_of(reader, holder, feature.resolved.id.0, now, &mut credits);
    }
    let pools = pools(reader, holder, feature, below, credits, now, purpose)?;
    if pools.is_empty() {
        return Ok(Vec::new());
    }
    charges.push(Charge { account: holder, feature: Rc::clone(feature), cost, pools });
    Ok(charges)
}

/// Priority of what a plan allows among credits.
pub const PLAN_PRIORITY: i32 = 100;

/// The plan's pool and the credits in burn order; where overage is allowed, the plan's pool once more at the end, up to the ceiling.
fn pools(
    reader: &mut Reader<'_>,
    account: i64,
    feature: &Feature,
    allowance: Allowance,
    credits: Vec<(burn::Pool, Pool)>,
    now: Time,
    purpose: Purpose,
) -> Result<Vec<Pool>, Error> {
    let mut ranked = credits;
    let mut limit = None;
    if !allowance.is_zero() || purpose == Purpose::Record {
        let mut plan = plan_pool(reader, account, feature, allowance, now)?;
        plan.rollover = feature.rollover;
        if feature.rollover.is_some() {
            if plan.counter.is_none() {
                rollover::foresee(reader, &plan, feature, &mut ranked, now)?;
            }
            // What this window has left was carried into the next.
            limit = plan.counter.as_ref().filter(|counter| counter.is_superseded).map(Counter::total);
        }
        let window = plan.window;
        let rank = burn::Pool { credit: None, priority: PLAN_PRIORITY, expires_at: window.end, started_at: window.start };
        ranked.push((rank, plan));
    }
    ranked.sort_by_key(|(rank, _)| rank.rank());
    let mut pools: Vec<Pool> = ranked.into_iter().map(|(_, pool)| pool).collect();
    if feature.overage == Overage::Allow {
        match &mut pools[..] {
            [] => {}
            [plan] if plan.is_plan() => plan.limit = ceiling(feature, allowance),
            _ => {
                let mut beyond = plan_pool(reader, account, feature, allowance, now)?;
                beyond.limit = ceiling(feature, allowance);
                pools.push(beyond);
            }
        }
    }
    if let Some(limit) = limit {
        for plan in pools.iter_mut().filter(|pool| pool.is_plan()) {
            plan.limit = plan.limit.min(Allowance::Finite(limit));
        }
    }
    Ok(pools)
}

fn ceiling(feature: &Feature, allowance: Allowance) -> Allowance {
    entitlements_model::meter::share::ceiling(allowance, feature.overage, feature.ceiling)
}

fn plan_pool(
    reader: &mut Reader<'_>,
    account: i64,
    feature: &Feature,
    allowance: Allowance,
    now: Time,
) -> Result<Pool, Error> {
    let key = PoolKey { account, feature: feature.resolved.id.0, credit: PLAN };
    let counter = match feature.rollover {
        Some(_) => Counter::covering(reader.relations, reader.snapshot, key, now),
        None => Counter::where_it_was(reader, key, now),
    };
    let mut pool = pool(key, allowance, counter, None);
    // No usage is a part of nothing.
    if !allowance.is_zero() {
        pool.thresholds = feature.thresholds.clone();
    }
    let relations = &reader.relations;
    pool.window = match &pool.counter {
        Some(counter) => counter.window,
        None => Window::LIFETIME,
    };
    if feature.anchor == Some(Anchor::Renewal) && pool.window.end == FOREVER {
        // A term without an end may have got one, and one that was over may go on.
        let last = pool.counter.take().or_else(|| Counter::last_begun(relations, reader.snapshot, key, now));
        if let Some(last) = last {
            pool.window = Window { end: end_of_term(relations, &last, now)?, ..last.window };
            pool.counter = Some(last).filter(|_| pool.window.contains(now));
        }
    }
    if pool.counter.is_none() && feature.has_windows() {
        pool.window = window_of(relations, &pool, feature, now)?;
    }
    Ok(pool)
}

fn pool(key: PoolKey, allowance: Allowance, counter: Option<Counter>, recurs: Option<Recurrence>) -> Pool {
    Pool {
        key,
        limit: allowance,
        allowance,
        thresholds: Vec::new(),
        counter,
        window: Window::LIFETIME,
        recurs,
        is_carried: false,
        rollover: None,
        lapsed: Amount::ZERO,
        taken: Amount::ZERO,
        given: Amount::ZERO,
    }
}

/// Adds the pools of the account's credits that are there at `now`.
pub fn credits_of(reader: &mut Reader<'_>, account: i64, feature: i32, now: Time, pools: &mut Vec<(burn::Pool, Pool)>) {
    let credits = if now == statement_time() {
        reader.present_credits(account, feature, now)
    } else {
        reader.credits(account, feature, now).into()
    };
    for credit in credits.iter().filter(|credit| credit.starts_at <= now && now < credit.expires_at) {
        if is_over(reader, &credit.source, credit.expires_at) {
            continue;
        }
        let Credit { id, priority, starts_at, expires_at, period, .. } = *credit;
        let rank = burn::Pool { credit: Some(id), priority, expires_at, started_at: starts_at };
        let key = PoolKey { account, feature, credit: id };
        let counter = Counter::where_it_was(reader, key, now);
        let mut pool = pool(key, credit.amount, counter, Some(Recurrence { starts_at, expires_at, period }));
        pool.is_carried = *credit.source == *rollover::SOURCE.as_bytes();
        pools.push((rank, pool));
    }
}

/// Whether units that came by a bundle count no longer: its issuer's bundles do not, or the lease has ended, by the latest time
/// that was ever seen.
fn is_over(reader: &Reader<'_>, source: &[u8], expires_at: Time) -> bool {
    if !is_of_bundle(source) {
        return false;
    }
    let mut highest = BEGINNING;
    scan(&reader.relations.deployment, &[], Order::Any, reader.snapshot, |row| {
        highest = present(row.time(deployment::HIGHEST_SEEN));
        ControlFlow::Break(())
    });
    expires_at <= highest || reader.enforcement.of(source).is_some()
}

/// Units that reservations which have expired still hold of a counter.
pub fn lapsed(reader: &Reader<'_>, counter: i64, now: Time) -> Amount {
    held(
        reader,
        &[Condition::Int8Is(reservation_part::COUNTER_ID, counter), Condition::UpTo(reservation_part::EXPIRES_AT, now)],
    )
}

/// Units that reservations hold of a counter, expired or not.
pub fn reserved(reader: &Reader<'_>, counter: i64) -> Amount {
    held(reader, &[Condition::Int8Is(reservation_part::COUNTER_ID, counter)])
}

fn held(reader: &Reader<'_>, conditions: &[Condition<'_>]) -> Amount {
    let mut sum = Amount::ZERO;
    scan(&reader.relations.reservation_parts, conditions, Order::Any, reader.snapshot, |row| {
        sum = sum.saturating_add(present(row.amount(reservation_part::AMOUNT)));
        ControlFlow::Continue(())
    });
    sum
}
