//! One test for each rule of resolution, named after it.

use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::kind::{Combine, Kind, OverrideMode, PlanKind, Reason, Status};
use entitlements_model::plan::{FeatureId, PlanVersion, PlanVersionId, Value};
use entitlements_model::resolve::*;
use entitlements_model::time::{BEGINNING, FOREVER, Time};

const FEATURE: FeatureId = FeatureId(7);
const OTHER: FeatureId = FeatureId(8);
const NOW: Time = 100;

struct Catalog(Vec<PlanVersion>);

impl Plans for Catalog {
    fn plan_version(&self, id: PlanVersionId) -> &PlanVersion {
        &self.0[id.0 as usize]
    }
}

/// One feature and the plan versions that a test needs; each call of `plan` adds a version and answers its id.
struct World {
    feature: Feature,
    catalog: Catalog,
}

impl World {
    fn new(kind: Kind) -> Self {
        Self::combining(kind, Combine::default_for(kind))
    }

    fn combining(kind: Kind, combine: Combine) -> Self {
        Self { feature: Feature { id: FEATURE, kind, combine }, catalog: Catalog(Vec::new()) }
    }

    fn plan(&mut self, kind: PlanKind, rank: i32, value: Option<Value>) -> PlanVersionId {
        let id = PlanVersionId(self.catalog.0.len() as i64);
        let features = value.into_iter().map(|value| (FEATURE, value)).collect();
        self.catalog.0.push(PlanVersion { id, kind, rank, features });
        id
    }

    fn base(&mut self, value: Value) -> PlanVersionId {
        self.plan(PlanKind::Base, 0, Some(value))
    }

    fn addon(&mut self, value: Value) -> PlanVersionId {
        self.plan(PlanKind::Addon, 0, Some(value))
    }

    fn at(&self, at: Time, lineage: &[Holder]) -> Entitlement {
        let answer = resolve(&self.feature, lineage, &self.catalog, at);
        assert_eq!(answer.granted, granted(&self.feature, lineage, &self.catalog, at));
        answer
    }

    fn now(&self, lineage: &[Holder]) -> Entitlement {
        self.at(NOW, lineage)
    }
}

fn amount(text: &str) -> Allowance {
    Allowance::Finite(text.parse::<Amount>().unwrap())
}

fn metered(text: &str) -> Value {
    let allowance = if text == "unlimited" { Allowance::Unlimited } else { amount(text) };
    Value::Metered { allowance, per_unit: false }
}

fn per_unit(text: &str) -> Value {
    Value::Metered { allowance: amount(text), per_unit: true }
}

fn config(json: &str) -> Value {
    Value::Config(json.into())
}

fn configured(json: &str) -> Resolved {
    Resolved::Config(Some(json.into()))
}

fn allowed(text: &str) -> Resolved {
    Resolved::Allowance(amount(text))
}

/// Active from 0, open, quantity 1.
fn subscription(id: i64, plan_version: PlanVersionId) -> Subscription {
    Subscription {
        id,
        row_id: id,
        plan_version,
        status: Status::Active,
        starts_at: 0,
        ends_at: FOREVER,
        grace_until: None,
        quantity: 1,
        withheld: None,
    }
}

fn exception(id: i64, mode: OverrideMode, value: Option<Value>) -> Override {
    Override { id, feature: FEATURE, mode, value, expires_at: FOREVER, withheld: None }
}

fn set(id: i64, value: Value) -> Override {
    exception(id, OverrideMode::Set, Some(value))
}

fn add(id: i64, value: Value) -> Override {
    exception(id, OverrideMode::Add, Some(value))
}

fn deny(id: i64) -> Override {
    exception(id, OverrideMode::Deny, None)
}

fn holder(subscriptions: impl Into<Vec<Subscription>>) -> Holder {
    Holder { subscriptions: subscriptions.into(), ..Holder::default() }
}

fn with_overrides(holder: Holder, overrides: impl Into<Vec<Override>>) -> Holder {
    Holder { overrides: overrides.into(), ..holder }
}

fn blocked(holder: Holder, feature: Option<FeatureId>) -> Holder {
    Holder { blocks: vec![Block { id: 1, feature }], ..holder }
}

fn effects(entitlement: &Entitlement) -> Vec<Effect> {
    entitlement.contributions.iter().map(|contribution| contribution.effect).collect()
}

fn beaten_by(index: usize) -> Effect {
    Effect::Beaten { by: Source::Subscription { index } }
}

// In force

#[test]
fn nobody_is_entitled_to_what_nothing_grants() {
    for (kind, nothing) in
        [(Kind::Flag, Resolved::Flag(false)), (Kind::Config, Resolved::Config(None)), (Kind::Quota, allowed("0"))]
    {
        let world = World::new(kind);
        for lineage in [&[][..], &[Holder::default()], &[Holder::default(), Holder::default()]] {
            let answer = world.now(lineage);
            assert_eq!((answer.granted, &answer.value, answer.reason), (false, &nothing, Reason::NotGranted));
            assert_eq!((answer.valid_until, answer.expires_at, answer.held_by), (FOREVER, None, None));
        }
    }
}

#[test]
fn trialing_active_and_canceled_are_in_force_from_their_start_until_their_end() {
    let mut world = World::new(Kind::Flag);
    let plan = world.base(Value::Flag(true));
    for status in [Status::Trialing, Status::Active, Status::Canceled] {
        let row = Subscription { status, starts_at: 10, ends_at: 20, grace_until: Some(30), ..subscription(1, plan) };
        let lineage = [holder([row])];
        let answers = [9, 10, 19, 20, 29].map(|at| world.at(at, &lineage).granted);
        assert_eq!(answers, [false, true, true, false, false], "{status}");
    }
}

#[test]
fn past_due_is_in_force_until_its_grace_is_over_whether_that_is_before_or_after_its_end() {
    let mut world = World::new(Kind::Flag);
    let plan = world.base(Value::Flag(true));
    let at = |grace_until, at| {
        let status = Status::PastDue;
        let row = Subscription { status, starts_at: 10, ends_at: 20, grace_until, ..subscription(1, plan) };
        world.at(at, &[holder([row])]).granted
    };
    assert_eq!([9, 10, 24, 25].map(|instant| at(Some(25), instant)), [false, true, true, false]);
    assert_eq!([9, 10, 14, 15, 19].map(|instant| at(Some(15), instant)), [false, true, true, false, false]);
    assert_eq!([9, 10, 19].map(|instant| at(None, instant)), [false, false, false]);
}

#[test]
fn infinite_ends_never_end() {
    let mut world = World::new(Kind::Flag);
    let plan = world.base(Value::Flag(true));
    let lineage = [holder([Subscription { starts_at: BEGINNING, ..subscription(1, plan) }])];
    for at in [BEGINNING, 0, FOREVER - 1] {
        let answer = world.at(at, &lineage);
        assert_eq!((answer.granted, answer.valid_until, answer.expires_at), (true, FOREVER, None));
        assert_eq!(stable_period(&lineage, at), (BEGINNING, FOREVER));
    }
}

#[test]
fn why_a_subscription_is_not_in_force() {
    let mut world = World::new(Kind::Flag);
    let plan = world.base(Value::Flag(true));
    let unlisted = world.plan(PlanKind::Base, 0, None);
    let row = subscription(1, plan);
    let lineage = [holder([
        Subscription { starts_at: NOW + 1, ..row.clone() },
        Subscription { ends_at: NOW, ..row.clone() },
        Subscription { status: Status::PastDue, grace_until: Some(NOW), ..row.clone() },
        Subscription { status: Status::PastDue, grace_until: None, ..row },
        subscription(2, unlisted),
    ])];
    assert_eq!(
        effects(&world.now(&lineage)),
        [
            Effect::NotInForce(Absence::NotStarted),
            Effect::NotInForce(Absence::Ended),
            Effect::NotInForce(Absence::GraceOver),
            Effect::NotInForce(Absence::GraceOver),
            Effect::NotListed,
        ]
    );
}

// Combining

#[test]
fn flag_any_is_or() {
    let mut world = World::new(Kind::Flag);
    let (on, off) = (world.base(Value::Flag(true)), world.base(Value::Flag(false)));
    let answer = world.now(&[holder([subscription(1, off), subscription(2, on), subscription(3, on)])]);
    assert_eq!((&answer.value, answer.reason, answer.held_by), (&Resolved::Flag(true), Reason::Granted, Some(0)));
    assert_eq!(effects(&answer), [Effect::NotGranting, Effect::Counted, Effect::Counted]);
    assert!(!world.now(&[holder([subscription(1, off)])]).granted);
}

#[test]
fn flag_all_is_and_over_those_that_list_it() {
    let mut world = World::combining(Kind::Flag, Combine::All);
    let (on, off) = (world.base(Value::Flag(true)), world.base(Value::Flag(false)));
    let unlisted = world.plan(PlanKind::Base, 0, None);
    assert!(world.now(&[holder([subscription(1, on), subscription(2, unlisted), subscription(3, on)])]).granted);
    let ended = Subscription { ends_at: 5, ..subscription(2, off) };
    assert!(world.now(&[holder([subscription(1, on), ended])]).granted);
    let answer = world.now(&[holder([subscription(1, on), subscription(2, off)])]);
    assert_eq!((answer.granted, answer.reason, answer.held_by), (false, Reason::NotGranted, Some(0)));
    assert_eq!(effects(&answer), [beaten_by(1), Effect::Counted]);
    let answer = world.now(&[holder([subscription(1, off), subscription(2, on), subscription(3, off)])]);
    assert_eq!(effects(&answer), [Effect::Counted, beaten_by(2), Effect::Counted]);
}

#[test]
fn config_comes_from_the_highest_rank() {
    let mut world = World::new(Kind::Config);
    let low = world.plan(PlanKind::Base, 1, Some(config("\"low\"")));
    let high = world.plan(PlanKind::Addon, 2, Some(config("\"high\"")));
    let highest_but_null = world.plan(PlanKind::Base, 3, Some(config("null")));
    let rows = [subscription(1, low), subscription(2, high), subscription(3, highest_but_null)];
    let answer = world.now(&[holder(rows)]);
    assert_eq!(answer.value, configured("\"high\""));
    assert_eq!(effects(&answer), [beaten_by(1), Effect::Counted, Effect::NotGranting]);
}

#[test]
fn config_ties_go_to_base_then_to_the_latest_start_then_to_the_greatest_id() {
    let mut world = World::new(Kind::Config);
    let [one, two] = ["1", "2"].map(|json| world.base(config(json)));
    let addon = world.addon(config("3"));
    let later = |id, plan| Subscription { starts_at: 50, ..subscription(id, plan) };
    let value = |rows: [Subscription; 2]| world.now(&[holder(rows)]).value;
    assert_eq!(value([subscription(1, one), later(9, addon)]), configured("1"));
    assert_eq!(value([subscription(9, one), later(1, two)]), configured("2"));
    assert_eq!(value([later(1, two), subscription(9, one)]), configured("2"));
    assert_eq!(value([subscription(1, one), subscription(2, two)]), configured("2"));
    assert_eq!(value([subscription(2, two), subscription(1, one)]), configured("2"));
}

#[test]
fn a_config_that_is_false_is_present_and_null_is_not() {
    let mut world = World::new(Kind::Config);
    let (present, absent) = (world.base(config("false")), world.base(config("null")));
    assert_eq!(world.now(&[holder([subscription(1, present)])]).value, configured("false"));
    let answer = world.now(&[holder([subscription(1, absent)])]);
    assert_eq!((answer.granted, answer.value), (false, Resolved::Config(None)));
}

#[test]
fn metered_is_the_greatest_base_plus_all_addons() {
    for kind in [Kind::Quota, Kind::Allocation, Kind::Rate] {
        let mut world = World::new(kind);
        let [small, large] = ["2", "5"].map(|text| world.base(metered(text)));
        let extra = world.addon(metered("0.5"));
        let rows = [subscription(1, small), subscription(2, large), subscription(3, extra), subscription(4, extra)];
        let answer = world.now(&[holder(rows)]);
        assert_eq!(answer.value, allowed("6"));
        assert_eq!(effects(&answer), [beaten_by(1), Effect::Counted, Effect::Counted, Effect::Counted]);
        assert_eq!(world.now(&[holder([subscription(1, extra)])]).value, allowed("0.5"));
    }
}

#[test]
fn metered_sum_max_and_min_run_over_all() {
    let value = |combine, third: &str| {
        let mut world = World::combining(Kind::Quota, combine);
        let plans = [world.base(metered("2")), world.base(metered("5")), world.addon(metered(third))];
        let answer = world.now(&[holder([0, 1, 2].map(|index| subscription(index as i64, plans[index])))]);
        let effects = effects(&answer);
        (answer.granted, answer.value, effects)
    };
    let counted = Effect::Counted;
    assert_eq!(value(Combine::Sum, "1"), (true, allowed("8"), vec![counted, counted, counted]));
    assert_eq!(value(Combine::Max, "9"), (true, allowed("9"), vec![beaten_by(2), beaten_by(2), counted]));
    assert_eq!(value(Combine::Max, "0"), (true, allowed("5"), vec![beaten_by(1), counted, Effect::NotGranting]));
    assert_eq!(value(Combine::Min, "1"), (true, allowed("1"), vec![beaten_by(2), beaten_by(2), counted]));
    assert_eq!(value(Combine::Min, "0"), (false, allowed("0"), vec![beaten_by(2), beaten_by(2), counted]));
}

#[test]
fn per_unit_multiplies_with_the_quantity_and_nothing_else_does() {
    let mut world = World::new(Kind::Allocation);
    let (seats, fixed) = (world.base(per_unit("2")), world.base(metered("7")));
    let of = |quantity, plan| Subscription { quantity, ..subscription(1, plan) };
    assert_eq!(world.now(&[holder([of(5, seats)])]).value, allowed("10"));
    assert_eq!(world.now(&[holder([of(5, fixed)])]).value, allowed("7"));
    assert!(!world.now(&[holder([of(0, seats)])]).granted);
    let larger = Subscription { id: 2, row_id: 2, ..of(4, seats) };
    let answer = world.now(&[holder([of(1, fixed), larger])]);
    assert_eq!((&answer.value, &answer.contributions[1].value), (&allowed("8"), &Some(allowed("8"))));
}

#[test]
fn unlimited_wins() {
    for combine in [Combine::MaxPlusAddons, Combine::Sum, Combine::Max] {
        for kind in [PlanKind::Base, PlanKind::Addon] {
            let mut world = World::combining(Kind::Quota, combine);
            let finite = world.base(metered("999999999999999999.999999999"));
            let unlimited = world.plan(kind, 0, Some(metered("unlimited")));
            let answer = world.now(&[holder([subscription(1, finite), subscription(2, unlimited)])]);
            assert_eq!(answer.value, Resolved::Allowance(Allowance::Unlimited), "{combine} {kind}");
        }
    }
}

#[test]
fn a_combine_of_another_kind_counts_as_the_default() {
    let mut world = World::combining(Kind::Quota, Combine::Any);
    let (base, addon) = (world.base(metered("2")), world.addon(metered("3")));
    assert_eq!(world.now(&[holder([subscription(1, base), subscription(2, addon)])]).value, allowed("5"));
}

#[test]
fn a_value_of_another_kind_gives_nothing() {
    let mut world = World::new(Kind::Quota);
    let wrong = world.base(Value::Flag(true));
    let answer = world.now(&[holder([subscription(1, wrong)])]);
    assert_eq!((answer.granted, effects(&answer)), (false, vec![Effect::NotListed]));
    let answer = world.now(&[with_overrides(Holder::default(), [set(1, Value::Flag(true))])]);
    assert_eq!((answer.granted, answer.reason), (false, Reason::NotGranted));
}

// Ancestors

#[test]
fn what_the_account_holds_itself_counts_alone() {
    let mut world = World::new(Kind::Quota);
    let (small, large) = (world.base(metered("1")), world.base(metered("100")));
    let answer = world.now(&[holder([subscription(1, small)]), holder([subscription(2, large)])]);
    assert_eq!((&answer.value, answer.held_by), (&allowed("1"), Some(0)));
    assert!(answer.contributions.iter().all(|contribution| contribution.level == 0));
}

#[test]
fn what_the_account_does_not_hold_comes_from_the_nearest_ancestor_that_does() {
    let mut world = World::new(Kind::Quota);
    let (zero, five, nine) = (world.base(metered("0")), world.base(metered("5")), world.base(metered("9")));
    let own = holder([subscription(1, zero)]);
    let lineage = [own, Holder::default(), holder([subscription(2, five)]), holder([subscription(3, nine)])];
    let answer = world.now(&lineage);
    assert_eq!((&answer.value, answer.held_by), (&allowed("5"), Some(2)));
    let seen: Vec<_> = answer.contributions.iter().map(|row| (row.level, row.effect)).collect();
    assert_eq!(seen, [(0, Effect::NotGranting), (2, Effect::Counted)]);
}

#[test]
fn an_ancestor_answers_with_its_overrides_and_blocks() {
    let mut world = World::new(Kind::Quota);
    let five = world.base(metered("5"));
    let inherited = |parent: Holder| world.now(&[Holder::default(), parent]);
    let parent = || holder([subscription(1, five)]);
    assert_eq!(inherited(with_overrides(parent(), [add(1, metered("2"))])).value, allowed("7"));
    assert_eq!(inherited(with_overrides(parent(), [set(1, metered("3"))])).value, allowed("3"));
    let denied = inherited(with_overrides(parent(), [deny(1)]));
    assert_eq!((denied.granted, denied.reason), (false, Reason::OverrideDenied));
    let blocked = inherited(blocked(parent(), None));
    assert_eq!((blocked.granted, blocked.reason), (false, Reason::Blocked));
}

#[test]
fn an_ancestors_override_alone_is_inherited_too() {
    let world = World::new(Kind::Flag);
    let parent = with_overrides(Holder::default(), [set(1, Value::Flag(true))]);
    let answer = world.now(&[Holder::default(), parent]);
    assert_eq!((answer.granted, answer.reason, answer.held_by), (true, Reason::Granted, None));
}

#[test]
fn an_ancestors_refusal_does_not_touch_what_the_account_holds_or_is_given_itself() {
    let mut world = World::new(Kind::Quota);
    let five = world.base(metered("5"));
    let parent = || blocked(with_overrides(holder([subscription(1, five)]), [deny(1)]), None);
    let given = |exception| world.now(&[with_overrides(Holder::default(), [exception]), parent()]);
    assert_eq!(world.now(&[holder([subscription(2, five)]), parent()]).value, allowed("5"));
    assert_eq!(given(set(2, metered("3"))).value, allowed("3"));
    assert_eq!(given(add(2, metered("3"))).value, allowed("3"));
    assert_eq!(given(add(2, metered("0"))).reason, Reason::Blocked);
}

#[test]
fn the_accounts_overrides_apply_to_what_it_inherits() {
    let mut world = World::new(Kind::Quota);
    let five = world.base(metered("5"));
    let with = |exception| world.now(&[with_overrides(Holder::default(), [exception]), holder([subscription(1, five)])]);
    assert_eq!(with(add(1, metered("2"))).value, allowed("7"));
    assert_eq!(with(set(1, metered("2"))).value, allowed("2"));
    assert_eq!(with(deny(1)).reason, Reason::OverrideDenied);
}

// Overrides and blocks

#[test]
fn deny_beats_set_beats_add() {
    let mut world = World::new(Kind::Quota);
    let five = world.base(metered("5"));
    let with = |overrides: Vec<Override>| world.now(&[with_overrides(holder([subscription(1, five)]), overrides)]);
    let beaten_by = |index| Effect::Beaten { by: Source::Override { index } };

    let added = with(vec![add(3, metered("1"))]);
    assert_eq!((&added.value, effects(&added)), (&allowed("6"), vec![Effect::Counted, Effect::Adds]));
    let replaced = with(vec![add(3, metered("1")), set(2, metered("2"))]);
    assert_eq!(replaced.value, allowed("2"));
    assert_eq!(effects(&replaced), [Effect::Counted, beaten_by(1), Effect::Replaces]);
    let denied = with(vec![add(3, metered("1")), set(2, metered("2")), deny(1)]);
    assert_eq!((denied.granted, &denied.value, denied.reason), (false, &allowed("0"), Reason::OverrideDenied));
    assert_eq!(effects(&denied), [Effect::Counted, beaten_by(2), beaten_by(2), Effect::Denies]);
}

#[test]
fn amounts_to_add_add_up_and_the_newest_set_decides() {
    let world = World::new(Kind::Quota);
    let with = |overrides: [Override; 2]| world.now(&[with_overrides(Holder::default(), overrides)]).value;
    assert_eq!(with([add(1, metered("1")), add(2, metered("2"))]), allowed("3"));
    assert_eq!(with([add(1, metered("unlimited")), add(2, metered("2"))]), Resolved::Allowance(Allowance::Unlimited));
    assert_eq!(with([set(1, metered("1")), set(2, metered("2"))]), allowed("2"));
    assert_eq!(with([set(2, metered("2")), set(1, metered("1"))]), allowed("2"));
}

#[test]
fn set_may_take_away() {
    let mut world = World::new(Kind::Flag);
    let on = world.base(Value::Flag(true));
    let answer = world.now(&[with_overrides(holder([subscription(1, on)]), [set(1, Value::Flag(false))])]);
    assert_eq!((answer.granted, answer.reason), (false, Reason::NotGranted));
}

#[test]
fn add_to_a_flag_or_config_counts_as_set() {
    let world = World::new(Kind::Config);
    let answer = world.now(&[with_overrides(Holder::default(), [add(1, config("1"))])]);
    assert_eq!((&answer.value, effects(&answer)), (&configured("1"), vec![Effect::Replaces]));
    let world = World::new(Kind::Flag);
    assert!(world.now(&[with_overrides(Holder::default(), [add(1, Value::Flag(true))])]).granted);
}

#[test]
fn an_override_without_a_value_gives_nothing() {
    for kind in [Kind::Flag, Kind::Config, Kind::Quota] {
        let world = World::new(kind);
        for mode in [OverrideMode::Set, OverrideMode::Add] {
            assert!(!world.now(&[with_overrides(Holder::default(), [exception(1, mode, None)])]).granted);
        }
    }
}

#[test]
fn an_overrides_per_unit_has_no_quantity_to_multiply_with() {
    let mut world = World::new(Kind::Allocation);
    let five = world.base(metered("5"));
    let row = Subscription { quantity: 4, ..subscription(1, five) };
    assert_eq!(world.now(&[with_overrides(holder([row]), [add(1, per_unit("2"))])]).value, allowed("7"));
}

#[test]
fn an_override_ends_at_its_expiry() {
    let mut world = World::new(Kind::Flag);
    let on = world.base(Value::Flag(true));
    let expiring = Override { expires_at: 20, ..deny(1) };
    let lineage = [with_overrides(holder([subscription(1, on)]), [expiring])];
    let during = world.at(19, &lineage);
    assert_eq!((during.granted, during.reason, during.valid_until), (false, Reason::OverrideDenied, 20));
    let after = world.at(20, &lineage);
    assert_eq!((after.granted, after.reason), (true, Reason::Granted));
    assert_eq!(effects(&after), [Effect::Counted, Effect::NotInForce(Absence::Ended)]);
}

#[test]
fn an_override_of_another_feature_does_nothing() {
    let mut world = World::new(Kind::Flag);
    let on = world.base(Value::Flag(true));
    let other = Override { feature: OTHER, ..deny(1) };
    let answer = world.now(&[with_overrides(holder([subscription(1, on)]), [other])]);
    assert_eq!((answer.granted, effects(&answer)), (true, vec![Effect::Counted]));
}

#[test]
fn a_block_of_the_feature_or_of_all_denies_whatever_else_is_there() {
    let mut world = World::new(Kind::Flag);
    let on = world.base(Value::Flag(true));
    let account = || with_overrides(holder([subscription(1, on)]), [set(1, Value::Flag(true)), deny(2)]);
    for feature in [None, Some(FEATURE)] {
        let answer = world.now(&[blocked(account(), feature)]);
        assert_eq!((answer.granted, answer.reason, answer.expires_at), (false, Reason::Blocked, None));
        let last = answer.contributions.last().map(|row| (row.source, row.effect));
        assert_eq!(last, Some((Source::Block { index: 0 }, Effect::Denies)));
    }
    assert!(world.now(&[blocked(holder([subscription(1, on)]), Some(OTHER))]).granted);
}

// Reasons

#[test]
fn expired_when_what_granted_it_is_over() {
    let mut world = World::new(Kind::Quota);
    let (five, zero) = (world.base(metered("5")), world.base(metered("0")));
    let ended = |plan| Subscription { ends_at: NOW, ..subscription(1, plan) };
    let grace_over = Subscription { status: Status::PastDue, grace_until: Some(NOW), ..subscription(1, five) };
    let upcoming = Subscription { starts_at: NOW + 1, ..subscription(1, five) };
    let over = |exception| with_overrides(Holder::default(), [Override { expires_at: NOW, ..exception }]);
    for (account, reason) in [
        (holder([ended(five)]), Reason::Expired),
        (holder([grace_over]), Reason::Expired),
        (over(set(1, metered("1"))), Reason::Expired),
        (over(add(1, metered("1"))), Reason::Expired),
        (holder([ended(zero)]), Reason::NotGranted),
        (holder([upcoming]), Reason::NotGranted),
        (over(set(1, metered("0"))), Reason::NotGranted),
        (over(deny(1)), Reason::NotGranted),
    ] {
        assert_eq!(world.now(std::slice::from_ref(&account)).reason, reason, "{account:?}");
        assert_eq!(world.now(&[Holder::default(), account.clone()]).reason, reason, "inherited: {account:?}");
    }
}

#[test]
fn not_granted_rather_than_expired_when_something_stored_now_says_no() {
    let mut world = World::new(Kind::Quota);
    let five = world.base(metered("5"));
    let ended = holder([Subscription { ends_at: NOW, ..subscription(1, five) }]);
    assert_eq!(world.now(&[with_overrides(ended, [set(1, metered("0"))])]).reason, Reason::NotGranted);

    let mut world = World::combining(Kind::Flag, Combine::All);
    let (on, off) = (world.base(Value::Flag(true)), world.base(Value::Flag(false)));
    let ended = Subscription { ends_at: NOW, ..subscription(3, on) };
    let held_but_refused = holder([subscription(1, on), subscription(2, off), ended]);
    assert_eq!(world.now(&[held_but_refused]).reason, Reason::NotGranted);
}

#[test]
fn an_ancestors_reason_is_kept_before_the_accounts_own_past() {
    let mut world = World::new(Kind::Flag);
    let on = world.base(Value::Flag(true));
    let ended = || holder([Subscription { ends_at: NOW, ..subscription(1, on) }]);
    let parent = || holder([subscription(2, on)]);
    assert_eq!(world.now(&[ended(), blocked(parent(), None)]).reason, Reason::Blocked);
    assert_eq!(world.now(&[ended(), with_overrides(parent(), [deny(1)])]).reason, Reason::OverrideDenied);
    assert_eq!(world.now(&[ended(), Holder::default()]).reason, Reason::Expired);
    assert_eq!(world.now(&[ended(), parent()]).reason, Reason::Granted);
}

// Instants

#[test]
fn a_grant_expires_when_the_last_row_that_carries_it_ends() {
    let mut world = World::new(Kind::Flag);
    let on = world.base(Value::Flag(true));
    let between = |id, starts_at, ends_at| Subscription { starts_at, ends_at, ..subscription(id, on) };
    let account = || holder([between(1, 0, 110), between(2, 110, 120), between(3, 130, FOREVER)]);
    let alone = world.now(&[account()]);
    assert_eq!((alone.valid_until, alone.expires_at), (110, Some(120)));
    let with_parent = world.now(&[account(), holder([between(4, 105, 125)])]);
    assert_eq!((with_parent.valid_until, with_parent.expires_at), (110, Some(125)));
    let with_open_parent = world.now(&[account(), holder([between(4, 0, FOREVER)])]);
    assert_eq!((with_open_parent.valid_until, with_open_parent.expires_at), (110, None));
}

#[test]
fn an_answer_ends_only_with_rows_that_concern_the_feature() {
    let mut world = World::new(Kind::Flag);
    let on = world.base(Value::Flag(true));
    let unlisted = world.plan(PlanKind::Base, 0, None);
    let unrelated = Subscription { ends_at: 110, ..subscription(2, unlisted) };
    let other = Override { feature: OTHER, expires_at: 105, ..deny(1) };
    let lineage = [with_overrides(holder([subscription(1, on), unrelated]), [other])];
    assert_eq!(world.now(&lineage).valid_until, FOREVER);
    assert_eq!(stable_period(&lineage, NOW), (0, 105));
}

#[test]
fn a_stable_period_lies_between_the_boundaries_of_all_rows() {
    let mut world = World::new(Kind::Flag);
    let on = world.base(Value::Flag(true));
    let status = Status::PastDue;
    let past_due = Subscription { status, starts_at: 30, ends_at: 60, grace_until: Some(80), ..subscription(1, on) };
    let parent = with_overrides(Holder::default(), [Override { expires_at: 50, ..deny(1) }]);
    let lineage = [holder([past_due]), parent];
    let periods = [0, 29, 30, 49, 50, 60, 79, 80].map(|at| stable_period(&lineage, at));
    let [before, early, late, after] = [(BEGINNING, 30), (30, 50), (50, 80), (80, FOREVER)];
    assert_eq!(periods, [before, before, early, early, late, late, late, after]);
    assert_eq!(stable_period(&[], 5), (BEGINNING, FOREVER));
}
