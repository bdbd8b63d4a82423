//! Resolution against a second, deliberately naive reading of the rules, at every instant of random small worlds.
//!
//! The naive model shares nothing with the crate but the row types: it recurses to the top of the lineage before it looks at
//! the account, works on plain lists, and finds boundaries by asking again one microsecond later.

use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::kind::{Combine, Kind, OverrideMode, PlanKind, Reason, Status};
use entitlements_model::plan::{FeatureId, PlanVersion, PlanVersionId, Value};
use entitlements_model::resolve::*;
use entitlements_model::time::{BEGINNING, FOREVER, Time};
use proptest::prelude::*;
use proptest::sample::select;

const FEATURE: FeatureId = FeatureId(5);
const OTHER: FeatureId = FeatureId(6);

/// Rows start and end within 0..=LAST or not at all, so nothing changes outside of the instants asked.
const LAST: Time = 16;

fn instants() -> std::ops::RangeInclusive<Time> {
    -1..=LAST + 1
}

// The naive model

#[derive(Debug, Clone, PartialEq)]
enum Naive {
    Flag(bool),
    Config(Option<String>),
    /// None is unlimited.
    Billionths(Option<i128>),
}

#[derive(Debug, Clone, PartialEq)]
struct NaiveAnswer {
    granted: bool,
    value: Naive,
    reason: &'static str,
}

fn nothing(kind: Kind) -> Naive {
    match kind {
        Kind::Flag => Naive::Flag(false),
        Kind::Config => Naive::Config(None),
        _ => Naive::Billionths(Some(0)),
    }
}

fn gives(value: &Naive) -> bool {
    *value != Naive::Flag(false) && *value != Naive::Config(None) && *value != Naive::Billionths(Some(0))
}

fn naive_value(kind: Kind, value: &Value, quantity: u32) -> Option<Naive> {
    match value {
        Value::Flag(on) if kind == Kind::Flag => Some(Naive::Flag(*on)),
        Value::Config(json) if kind == Kind::Config => Some(Naive::Config((**json != *"null").then(|| json.to_string()))),
        Value::Metered { allowance, per_unit } if kind.is_metered() => {
            let times = if *per_unit { i128::from(quantity) } else { 1 };
            Some(Naive::Billionths(match allowance {
                Allowance::Finite(amount) => Some(amount.nanos() * times),
                Allowance::Unlimited if times == 0 => Some(0),
                Allowance::Unlimited => None,
            }))
        }
        _ => None,
    }
}

fn started(row: &Subscription, at: Time) -> bool {
    at >= row.starts_at
}

fn over(row: &Subscription, at: Time) -> bool {
    match (row.status, row.grace_until) {
        (Status::PastDue, None) => true,
        (Status::PastDue, Some(grace_until)) => at >= grace_until,
        _ => at >= row.ends_at,
    }
}

/// Unlimited is more than any amount.
fn size(value: &Naive) -> i128 {
    match value {
        Naive::Billionths(Some(amount)) => *amount,
        Naive::Billionths(None) => i128::MAX,
        _ => unreachable!("only amounts have a size"),
    }
}

fn total<'a>(values: impl Iterator<Item = &'a Naive>) -> Naive {
    let values: Vec<&Naive> = values.collect();
    let unlimited = values.contains(&&Naive::Billionths(None));
    Naive::Billionths(if unlimited { None } else { Some(values.into_iter().map(size).sum()) })
}

fn naive_combine(feature: &Feature, in_force: &[(&Subscription, &PlanVersion, Naive)]) -> Naive {
    let values = || in_force.iter().map(|(_, _, value)| value);
    let mut by_size: Vec<Naive> = if feature.kind.is_metered() { values().cloned().collect() } else { Vec::new() };
    by_size.sort_by_key(size);
    match (feature.kind, feature.combine) {
        (Kind::Flag, Combine::All) => Naive::Flag(values().all(gives)),
        (Kind::Flag, _) => Naive::Flag(values().any(gives)),
        (Kind::Config, _) => {
            let mut present: Vec<_> = in_force.iter().filter(|(_, _, value)| gives(value)).collect();
            present.sort_by(|(a, plan_a, _), (b, plan_b, _)| {
                plan_a
                    .rank
                    .cmp(&plan_b.rank)
                    .then((plan_a.kind == PlanKind::Base).cmp(&(plan_b.kind == PlanKind::Base)))
                    .then(a.starts_at.cmp(&b.starts_at))
                    .then(a.id.cmp(&b.id))
                    .then(a.row_id.cmp(&b.row_id))
            });
            present.last().unwrap().2.clone()
        }
        (_, Combine::Sum) => total(values()),
        (_, Combine::Max) => by_size.last().unwrap().clone(),
        (_, Combine::Min) => by_size.first().unwrap().clone(),
        (_, _) => {
            let of =
                |kind: PlanKind| in_force.iter().filter(move |(_, plan, _)| plan.kind == kind).map(|(_, _, value)| value);
            let base = of(PlanKind::Base).max_by_key(|value| size(value)).cloned().unwrap_or(Naive::Billionths(Some(0)));
            total(of(PlanKind::Addon).chain([&base]))
        }
    }
}

fn naive(feature: &Feature, lineage: &[Holder], plans: &Catalog, at: Time) -> NaiveAnswer {
    let none = || NaiveAnswer { granted: false, value: nothing(feature.kind), reason: "not_granted" };
    let Some((account, ancestors)) = lineage.split_first() else {
        return none();
    };
    let inherited = naive(feature, ancestors, plans, at);

    let mut in_force = Vec::new();
    let mut something_ended = false;
    let mut withheld = Vec::new();
    for row in &account.subscriptions {
        let plan = plans.plan_version(row.plan_version);
        let listed = plan.features.iter().find(|(id, _)| *id == feature.id);
        let Some(value) = listed.and_then(|(_, value)| naive_value(feature.kind, value, row.quantity)) else {
            continue;
        };
        match (started(row, at), over(row, at)) {
            (true, false) => match row.withheld {
                None => in_force.push((row, plan, value)),
                Some(why) if gives(&value) => withheld.push((why, "subscription")),
                Some(_) => (),
            },
            (true, true) => something_ended |= gives(&value),
            (false, _) => (),
        }
    }
    let holds = in_force.iter().any(|(_, _, value)| gives(value));
    let mut answer = if holds {
        let value = naive_combine(feature, &in_force);
        let granted = gives(&value);
        NaiveAnswer { granted, value, reason: if granted { "granted" } else { "not_granted" } }
    } else {
        inherited
    };

    let given = |row: &Override| {
        let value = row.value.as_ref().and_then(|value| naive_value(feature.kind, value, 1));
        value.unwrap_or(nothing(feature.kind))
    };
    let mut denies = Vec::new();
    let mut sets = Vec::new();
    let mut adds = Vec::new();
    let mut something_expired = false;
    for row in account.overrides.iter().filter(|row| row.feature == feature.id) {
        match row.mode {
            OverrideMode::Deny if at < row.expires_at => denies.push(row),
            OverrideMode::Deny => (),
            OverrideMode::Set | OverrideMode::Add if at >= row.expires_at => something_expired |= gives(&given(row)),
            OverrideMode::Set | OverrideMode::Add if row.withheld.is_some() => {
                withheld.extend(row.withheld.filter(|_| gives(&given(row))).map(|why| (why, "override")));
            }
            OverrideMode::Add if feature.kind.is_metered() => adds.push(row),
            OverrideMode::Set | OverrideMode::Add => sets.push(row),
        }
    }
    sets.sort_by_key(|row| row.id);
    let mut final_no = false;
    if let Some(set) = sets.last() {
        answer.value = given(set);
        final_no = true;
        answer.reason = "not_granted";
    } else if !adds.is_empty() {
        let extra: Vec<Naive> = adds.into_iter().map(given).collect();
        answer.value = total(extra.iter().chain([&answer.value]));
    }
    answer.granted = gives(&answer.value);
    if answer.granted {
        answer.reason = "granted";
    } else if ["not_granted", "expired"].contains(&answer.reason) && !final_no {
        withheld.retain(|(_, of)| *of == "override" || !holds);
        if withheld.iter().any(|(why, _)| *why == Withheld::ClockRollback) {
            answer.reason = "clock_rollback";
        } else if !withheld.is_empty() {
            answer.reason = "bundle_stale";
        } else if something_expired || (something_ended && !holds) {
            answer.reason = "expired";
        }
    }
    if !denies.is_empty() {
        answer = NaiveAnswer { reason: "override_denied", ..none() };
    }
    if account.blocks.iter().any(|block| block.feature.is_none() || block.feature == Some(feature.id)) {
        answer = NaiveAnswer { reason: "blocked", ..none() };
    }
    answer
}

// Random worlds

#[derive(Debug, Clone)]
struct Catalog(Vec<PlanVersion>);

impl Plans for Catalog {
    fn plan_version(&self, id: PlanVersionId) -> &PlanVersion {
        &self.0[id.0 as usize]
    }
}

#[derive(Debug, Clone)]
struct World {
    feature: Feature,
    catalog: Catalog,
    lineage: Vec<Holder>,
}

impl World {
    fn resolve(&self, at: Time) -> Entitlement {
        resolve(&self.feature, &self.lineage, &self.catalog, at)
    }

    fn naive(&self, at: Time) -> NaiveAnswer {
        naive(&self.feature, &self.lineage, &self.catalog, at)
    }
}

const PLANS: usize = 6;

fn values(kind: Kind) -> BoxedStrategy<Value> {
    match kind {
        Kind::Flag => any::<bool>().prop_map(Value::Flag).boxed(),
        Kind::Config => {
            select(&["null", "false", "1", "\"a\"", "{}"][..]).prop_map(|json| Value::Config(json.into())).boxed()
        }
        _ => {
            let billionths = select(&[0, 1, 500_000_000, 2_000_000_000, 5_000_000_000][..]);
            let finite = billionths.prop_map(|nanos| Allowance::Finite(Amount::from_nanos(nanos).unwrap()));
            let allowance = prop_oneof![6 => finite, 1 => Just(Allowance::Unlimited)];
            (allowance, any::<bool>()).prop_map(|(allowance, per_unit)| Value::Metered { allowance, per_unit }).boxed()
        }
    }
}

/// Mostly of the feature's kind.
fn any_value(kind: Kind) -> impl Strategy<Value = Value> {
    prop_oneof![12 => values(kind), 1 => select(Kind::ALL).prop_flat_map(values)]
}

fn instant() -> impl Strategy<Value = Time> {
    0..=LAST
}

fn end() -> impl Strategy<Value = Time> {
    prop_oneof![3 => instant(), 1 => Just(FOREVER)]
}

fn plans(kind: Kind) -> impl Strategy<Value = Catalog> {
    let listed = prop_oneof![5 => any_value(kind).prop_map(Some), 1 => Just(None)];
    let plan = (select(PlanKind::ALL), 0..3i32, listed, any::<bool>());
    prop::collection::vec(plan, PLANS).prop_map(|plans| {
        let version = |(index, (kind, rank, value, other)): (usize, (PlanKind, i32, Option<Value>, bool))| {
            let other = other.then_some((OTHER, Value::Flag(true)));
            let features = value.map(|value| (FEATURE, value)).into_iter().chain(other).collect();
            PlanVersion { id: PlanVersionId(index as i64), kind, rank, features }
        };
        Catalog(plans.into_iter().enumerate().map(version).collect())
    })
}

fn withheld() -> impl Strategy<Value = Option<Withheld>> {
    prop_oneof![8 => Just(None), 1 => Just(Some(Withheld::BundleStale)), 1 => Just(Some(Withheld::ClockRollback))]
}

fn subscription() -> impl Strategy<Value = Subscription> {
    let starts_at = prop_oneof![5 => instant(), 1 => Just(BEGINNING)];
    let row =
        (1..4i64, 0..PLANS as i64, select(Status::ALL), starts_at, end(), prop::option::of(end()), 0..4u32, withheld());
    row.prop_map(|(id, plan, status, starts_at, ends_at, grace_until, quantity, withheld)| Subscription {
        id,
        row_id: 0,
        plan_version: PlanVersionId(plan),
        status,
        starts_at,
        ends_at,
        grace_until,
        quantity,
        withheld,
    })
}

fn exception(kind: Kind) -> impl Strategy<Value = Override> {
    let feature = prop_oneof![4 => Just(FEATURE), 1 => Just(OTHER)];
    let mode = prop_oneof![3 => Just(OverrideMode::Set), 4 => Just(OverrideMode::Add), 1 => Just(OverrideMode::Deny)];
    let value = prop_oneof![9 => any_value(kind).prop_map(Some), 1 => Just(None)];
    (feature, mode, value, end(), withheld()).prop_map(|(feature, mode, value, expires_at, withheld)| Override {
        id: 0,
        feature,
        mode,
        value,
        expires_at,
        withheld,
    })
}

fn holder(kind: Kind) -> impl Strategy<Value = Holder> {
    let overrides = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec(exception(kind), 1..4)
    ];
    let feature = prop_oneof![1 => Just(None), 1 => Just(Some(FEATURE)), 3 => Just(Some(OTHER))];
    let blocks = prop_oneof![5 => Just(Vec::new()), 1 => prop::collection::vec(feature.prop_map(|feature| Block { id: 0, feature }), 1..3)];
    let subscriptions = prop::collection::vec(subscription(), 0..5);
    (subscriptions, overrides, blocks).prop_map(|(subscriptions, overrides, blocks)| Holder {
        subscriptions,
        overrides,
        blocks,
    })
}

/// Row ids are unique and unrelated to the order of the rows.
fn numbered(mut holder: Holder, offset: usize) -> Holder {
    let number = |index: usize, count: usize| ((index + offset) % count) as i64 + 1;
    let (subscriptions, overrides) = (holder.subscriptions.len(), holder.overrides.len());
    holder.subscriptions.iter_mut().enumerate().for_each(|(index, row)| row.row_id = number(index, subscriptions));
    holder.overrides.iter_mut().enumerate().for_each(|(index, row)| row.id = number(index, overrides));
    holder
}

fn feature() -> impl Strategy<Value = Feature> {
    let kinds = select(Kind::ALL);
    kinds.prop_flat_map(|kind| {
        let combine = select(Combine::allowed_for(kind));
        combine.prop_map(move |combine| Feature { id: FEATURE, kind, combine })
    })
}

fn world() -> impl Strategy<Value = World> {
    feature().prop_flat_map(|feature| {
        let lineage = prop::collection::vec((holder(feature.kind), 0..4usize), 0..4);
        (plans(feature.kind), lineage).prop_map(move |(catalog, lineage)| {
            let lineage = lineage.into_iter().map(|(holder, offset)| numbered(holder, offset)).collect();
            World { feature, catalog, lineage }
        })
    })
}

fn naive_form(value: &Resolved) -> Naive {
    match value {
        Resolved::Flag(on) => Naive::Flag(*on),
        Resolved::Config(json) => Naive::Config(json.as_ref().map(|json| json.to_string())),
        Resolved::Allowance(Allowance::Finite(amount)) => Naive::Billionths(Some(amount.nanos())),
        Resolved::Allowance(Allowance::Unlimited) => Naive::Billionths(None),
    }
}

fn as_naive(entitlement: &Entitlement) -> NaiveAnswer {
    let Entitlement { granted, value, reason, .. } = entitlement;
    NaiveAnswer { granted: *granted, value: naive_form(value), reason: reason.as_str() }
}

/// The answer as its own contributions tell it: what an explanation shows must lead to what was decided.
fn replayed(world: &World, entitlement: &Entitlement) -> Naive {
    let kind = world.feature.kind;
    let as_value = |row: &Contribution| naive_form(row.value.as_ref().unwrap());
    let rows = |level: usize, effect: Effect| {
        entitlement.contributions.iter().filter(move |row| row.level == level && row.effect == effect)
    };
    let mut value = nothing(kind);
    for level in (0..world.lineage.len()).rev() {
        let counted: Vec<Naive> = rows(level, Effect::Counted).map(as_value).collect();
        if !counted.is_empty() {
            value = match kind {
                Kind::Flag => Naive::Flag(counted.iter().all(gives)),
                Kind::Config => {
                    assert_eq!(counted.len(), 1, "one subscription decides");
                    counted[0].clone()
                }
                _ => total(counted.iter()),
            };
        }
        let added: Vec<Naive> = rows(level, Effect::Adds).map(as_value).collect();
        if !added.is_empty() {
            value = total(added.iter().chain([&value]));
        }
        if let Some(row) = rows(level, Effect::Replaces).next() {
            value = as_value(row);
        }
        if rows(level, Effect::Denies).next().is_some() {
            value = nothing(kind);
        }
    }
    value
}

/// Whether each row has started and is over: the only way in which time enters.
fn phases(world: &World, at: Time) -> Vec<(bool, bool)> {
    let subscriptions = world.lineage.iter().flat_map(|holder| &holder.subscriptions);
    let overrides = world.lineage.iter().flat_map(|holder| &holder.overrides);
    let of_subscription = |row: &Subscription| (started(row, at), started(row, at) && over(row, at));
    subscriptions.map(of_subscription).chain(overrides.map(|row| (true, at >= row.expires_at))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_naive_model_at_every_instant(world in world()) {
        for at in instants() {
            let answer = world.resolve(at);
            prop_assert_eq!(as_naive(&answer), world.naive(at), "at {}", at);
            prop_assert_eq!(granted(&world.feature, &world.lineage, &world.catalog, at), answer.granted);
            prop_assert_eq!(answer.granted, answer.reason == Reason::Granted);
        }
    }

    #[test]
    fn contributions_lead_to_the_answer(world in world()) {
        for at in instants() {
            let answer = world.resolve(at);
            prop_assert_eq!(replayed(&world, &answer), as_naive(&answer).value, "at {}", at);
        }
    }

    #[test]
    fn an_answer_is_valid_exactly_until_a_row_it_was_made_from_starts_or_ends(world in world()) {
        for at in instants() {
            let answer = world.resolve(at);
            let changed = (at..=LAST + 1).find(|later| world.resolve(*later).contributions != answer.contributions);
            prop_assert_eq!(answer.valid_until, changed.unwrap_or(FOREVER), "at {}", at);
            for later in at..answer.valid_until.min(LAST + 1) {
                prop_assert_eq!(world.naive(later), world.naive(at), "from {} at {}", at, later);
            }
        }
    }

    #[test]
    fn a_grant_expires_at_the_first_instant_without_it(world in world()) {
        for at in instants() {
            let end = (at..=LAST + 1).find(|later| !world.naive(*later).granted);
            let expected = if world.naive(at).granted { end } else { None };
            prop_assert_eq!(world.resolve(at).expires_at, expected, "at {}", at);
        }
    }

    #[test]
    fn a_stable_period_is_the_longest_in_which_no_row_starts_or_ends(world in world()) {
        for at in instants() {
            let (from, until) = stable_period(&world.lineage, at);
            let now = phases(&world, at);
            let from_here = (-1..=at).rev().find(|earlier| phases(&world, *earlier) != now).map_or(BEGINNING, |end| end + 1);
            let until_here = (at..=LAST + 1).find(|later| phases(&world, *later) != now).unwrap_or(FOREVER);
            prop_assert_eq!((from, until), (from_here, until_here), "at {}", at);
            for other in from.max(-1)..until.min(LAST + 1) {
                prop_assert_eq!(world.naive(other), world.naive(at), "from {} at {}", at, other);
            }
        }
    }

    #[test]
    fn the_order_of_the_rows_does_not_matter(world in world(), turn in 0..5usize) {
        let mut turned = world.clone();
        for holder in &mut turned.lineage {
            holder.subscriptions.reverse();
            let length = holder.subscriptions.len();
            holder.subscriptions.rotate_left(if length == 0 { 0 } else { turn % length });
            holder.overrides.reverse();
            holder.blocks.reverse();
        }
        for at in instants() {
            let (one, two) = (world.resolve(at), turned.resolve(at));
            prop_assert_eq!(as_naive(&one), as_naive(&two), "at {}", at);
            prop_assert_eq!((one.valid_until, one.expires_at, one.held_by), (two.valid_until, two.expires_at, two.held_by));
        }
    }
}

/// The properties above say nothing about worlds that do not occur.
#[test]
fn the_random_worlds_reach_every_reason_and_effect() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut reasons = std::collections::BTreeSet::new();
    let mut effects = std::collections::BTreeSet::new();
    let mut held_by = std::collections::BTreeSet::new();
    for _ in 0..2000 {
        let world = world().new_tree(&mut runner).unwrap().current();
        for at in instants() {
            let answer = world.resolve(at);
            reasons.insert(answer.reason);
            held_by.insert(answer.held_by);
            effects.extend(answer.contributions.iter().map(|row| match row.effect {
                Effect::Beaten { by: Source::Subscription { .. } } => "beaten by a subscription".to_owned(),
                Effect::Beaten { by: Source::Override { .. } } => "beaten by an override".to_owned(),
                effect => format!("{effect:?}"),
            }));
        }
    }
    let expected = [
        Reason::Granted,
        Reason::NotGranted,
        Reason::Blocked,
        Reason::OverrideDenied,
        Reason::Expired,
        Reason::ClockRollback,
        Reason::BundleStale,
    ];
    assert_eq!(Vec::from_iter(reasons), expected);
    assert_eq!(Vec::from_iter(held_by), [None, Some(0), Some(1), Some(2)]);
    assert_eq!(effects.len(), 13, "{effects:?}");
}
