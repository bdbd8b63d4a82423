//! What holds for every catalog and every document.

use std::collections::BTreeMap;

use entitlements_model::amount::Amount;
use entitlements_model::catalog::{Action, Cell, DocValue, Error, Row, State, draft, export, export_plan, plan_changes};
use entitlements_model::fault::Faults;
use entitlements_model::json::{Json, Limits, parse};
use entitlements_model::key::{FeatureKey, PlanKey};
use entitlements_model::kind::Kind;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// Feature `f<n>` has kind `KINDS[n]`, or now and then another one.
const KINDS: [&str; 8] = ["flag", "config", "quota", "allocation", "rate", "flag", "quota", "quota"];
const PLANS: usize = 6;

fn number() -> impl Strategy<Value = Json> {
    let literals = ["0", "1", "1.0", "5e0", "0.5", "1000", "999999999999999999.999999999"];
    prop::sample::select(literals.to_vec()).prop_map(Json::number)
}

fn maybe(strategy: impl Strategy<Value = Json> + 'static) -> BoxedStrategy<Option<Json>> {
    prop_oneof![3 => Just(None), 2 => strategy.prop_map(Some)].boxed()
}

fn text() -> impl Strategy<Value = Json> {
    prop_oneof![4 => "[a-zé' ]{0,5}".prop_map(Json::string), 1 => Just(Json::Null)]
}

fn choice(words: &'static [&'static str]) -> BoxedStrategy<Json> {
    prop::sample::select(words).prop_map(Json::string).boxed()
}

fn boolean() -> BoxedStrategy<Json> {
    any::<bool>().prop_map(Json::Bool).boxed()
}

/// An object of the members that are there, in this order.
fn object(members: Vec<(&'static str, BoxedStrategy<Option<Json>>)>) -> BoxedStrategy<Json> {
    let (names, values): (Vec<_>, Vec<_>) = members.into_iter().unzip();
    values
        .prop_map(move |values| {
            Json::object(names.iter().zip(values).filter_map(|(name, value)| Some((*name, value?))).collect::<Vec<_>>())
        })
        .boxed()
}

/// What feature `f2`, `f6` or `f7` draws on: usually `f2`, which usually draws on nothing.
fn draws_on(number: usize) -> BoxedStrategy<Option<Json>> {
    let on = |feature: &'static str| {
        object(vec![
            ("feature", Just(Some(Json::string(feature))).boxed()),
            ("cost", maybe(prop::sample::select(vec!["1", "10.0", "0.5"]).prop_map(Json::number))),
        ])
        .prop_map(Some)
    };
    let nothing = prop_oneof![Just(None), Just(Some(Json::Null))];
    match number {
        2 => prop_oneof![24 => nothing, 1 => on("f6")].boxed(),
        _ => prop_oneof![7 => nothing, 8 => on("f2"), 1 => on("f7")].boxed(),
    }
}

fn feature(number: usize) -> BoxedStrategy<Json> {
    let kind = KINDS[number];
    let mut members = vec![
        ("kind", Just(Some(Json::string(kind))).boxed()),
        ("name", maybe(text())),
        ("description", maybe(text())),
        ("archived", prop_oneof![9 => Just(None), 1 => boolean().prop_map(Some)].boxed()),
    ];
    let thresholds = prop::sample::subsequence(vec!["0.5", "0.80", "1", "1.5e0"], 0..=4)
        .prop_map(|literals| Json::Array(literals.into_iter().map(Json::number).collect()));
    let period = || choice(&["1 month", "7 days", "P1Y", "12:00:00"]);
    match kind {
        "flag" => {}
        "config" => members.push((
            "schema",
            maybe(prop_oneof![Just(Json::Bool(true)), Just(Json::object([("minProperties", Json::number(0))]))]),
        )),
        "quota" => {
            members.push(("unit", maybe(text())));
            members.push(("overage", maybe(choice(&["reject", "cap", "allow"]))));
            members.push(("thresholds", maybe(thresholds)));
            members.push(("ledger", maybe(boolean())));
            members.push(("draws_on", draws_on(number)));
            let max = prop_oneof![Just(Json::string("unlimited")), Just(Json::number("500")), Just(Json::number("0.50"))];
            let rollover = object(vec![
                ("max", max.prop_map(Some).boxed()),
                ("windows", maybe(prop_oneof![Just(Json::number(1)), Just(Json::number("1.2e2"))])),
            ]);
            let mut windowed = members.clone();
            windowed.push(("period", period().prop_map(Some).boxed()));
            windowed.push(("anchor", choice(&["calendar", "subscription"]).prop_map(Some).boxed()));
            windowed.push(("rollover", maybe(rollover)));
            members.push(("period", maybe(period())));
            members.push(("anchor", maybe(choice(&["calendar", "subscription", "renewal"]))));
            return prop_oneof![1 => object(members), 2 => object(windowed)].boxed();
        }
        "allocation" => {
            members.push(("overage", Just(Some(Json::string("allow"))).boxed()));
            members.push(("ceiling", maybe(Just(Json::number("1.25")))));
            members.push(("thresholds", maybe(thresholds)));
            members.push(("ledger", maybe(boolean())));
            members.push(("lease", maybe(choice(&["15 minutes", "PT900S", "1 day"]))));
            members.push(("linger", maybe(choice(&["5 minutes", "00:05"]))));
        }
        _ => {
            members.push(("period", period().prop_map(Some).boxed()));
            members.push(("burst", maybe(Just(Json::number("2.50")))));
            members.push(("store", maybe(prop_oneof![choice(&["table", "shared"]), Just(Json::Null)])));
        }
    }
    object(members)
}

fn value(kind: &'static str) -> BoxedStrategy<Json> {
    let present = match kind {
        "flag" => boolean(),
        "config" => prop_oneof![
            text().prop_filter("null takes the feature away", |json| *json != Json::Null),
            number(),
            number().prop_map(|one| Json::object([("b", one), ("a", Json::Array(vec![Json::Null]))])),
        ]
        .boxed(),
        _ => prop_oneof![
            3 => number(),
            1 => Just(Json::string("unlimited")),
            1 => (number(), any::<bool>())
                .prop_map(|(amount, per_unit)| Json::object([("per_unit", Json::Bool(per_unit)), ("amount", amount)])),
        ]
        .boxed(),
    };
    prop_oneof![3 => present, 1 => Just(Json::Null)].boxed()
}

/// A plan's own set, of all features.
fn own_set() -> BoxedStrategy<Json> {
    let values: Vec<_> = KINDS.iter().map(|kind| maybe(value(kind))).collect();
    values
        .prop_map(|values| {
            let cells = values.into_iter().enumerate().filter_map(|(index, value)| Some((format!("f{index}"), value?)));
            Json::object(cells.collect::<Vec<_>>())
        })
        .boxed()
}

/// Plan `p<n>` is a base plan if n is even; it extends one of its kind, usually with a lower number.
fn plan(number: usize) -> BoxedStrategy<Json> {
    let below: Vec<usize> = (number % 2..number).step_by(2).collect();
    let below = if below.is_empty() {
        Just(Json::Null).boxed()
    } else {
        prop::sample::select(below).prop_map(|n| Json::string(format!("p{n}"))).boxed()
    };
    let any = (0..PLANS).prop_map(|n| Json::string(format!("p{n}")));
    let extends = prop_oneof![30 => below, 3 => Just(Json::Null), 1 => any];
    let kind = if number.is_multiple_of(2) { "base" } else { "addon" };
    object(vec![
        ("kind", Just(Some(Json::string(kind))).boxed()),
        ("name", maybe(text())),
        ("extends", prop_oneof![1 => Just(None), 2 => extends.prop_map(Some)].boxed()),
        ("rank", maybe((-3i32..3).prop_map(Json::number))),
        ("features", maybe(own_set())),
        ("archived", prop_oneof![9 => Just(None), 1 => boolean().prop_map(Some)].boxed()),
    ])
}

fn price() -> BoxedStrategy<Json> {
    let price = object(vec![
        ("plan", (0..PLANS).prop_map(|n| Some(Json::string(format!("p{n}")))).boxed()),
        ("version", prop_oneof![5 => Just(None), 1 => Just(Some(Json::number(1)))].boxed()),
        ("quantity", maybe((1u32..4).prop_map(Json::number))),
    ]);
    prop_oneof![4 => price, 1 => Just(Json::Null)].boxed()
}

fn named(prefix: &'static str, values: Vec<BoxedStrategy<Option<Json>>>) -> BoxedStrategy<Json> {
    values
        .prop_map(move |values| {
            let members =
                values.into_iter().enumerate().filter_map(|(index, value)| Some((format!("{prefix}{index}"), value?)));
            Json::object(members.collect::<Vec<_>>())
        })
        .boxed()
}

/// A document that could well be applied.
fn document(first: bool) -> BoxedStrategy<Json> {
    let whole = |strategy: BoxedStrategy<Json>| if first { strategy.prop_map(Some).boxed() } else { maybe(strategy) };
    let features = named("f", (0..KINDS.len()).map(|number| whole(feature(number))).collect());
    let plans = named("p", (0..PLANS).map(|number| whole(plan(number))).collect());
    let prices = named("id", vec![maybe(price()); 4]).prop_map(|prices| Json::object([("stripe", prices)]));
    object(vec![
        ("features", features.prop_map(Some).boxed()),
        ("plans", plans.prop_map(Some).boxed()),
        ("prices", maybe(prices)),
    ])
}

/// A first document for an empty catalog, and some that change it.
fn documents() -> impl Strategy<Value = Vec<Json>> {
    (document(true), prop::collection::vec(document(false), 0..4)).prop_map(|(first, mut documents)| {
        documents.insert(0, first);
        documents
    })
}

/// The catalog after each document that can be applied.
fn history(documents: &[Json]) -> Vec<State> {
    let mut state = State::default();
    let mut history = vec![state.clone()];
    for document in documents {
        if let Ok(changes) = plan_changes(&state, document) {
            state.apply(&changes);
            history.push(state.clone());
        }
    }
    history
}

/// What a plan holds of a feature, straight from the rule: its own value, else what the plan that
/// it extends holds.
fn naive_cell(state: &State, plan: &PlanKey, feature: &FeatureKey) -> Option<Cell> {
    let definition = &state.plans[plan].definition;
    match (definition.features.get(feature), &definition.extends) {
        (Some(own), _) => own.clone().map(|value| Cell { value, inherited: false }),
        (None, Some(parent)) => naive_cell(state, parent, feature).map(|cell| Cell { inherited: true, ..cell }),
        (None, None) => None,
    }
}

/// The same document, written differently: members the other way round, numbers with an exponent.
fn rewritten(json: &Json) -> Json {
    match json {
        Json::Number(literal) if !literal.contains('e') => Json::number(format!("{literal}E+0")),
        Json::Array(items) => Json::Array(items.iter().map(rewritten).collect()),
        Json::Object(members) => Json::object(members.iter().rev().map(|(key, value)| (key.clone(), rewritten(value)))),
        other => other.clone(),
    }
}

/// The catalog but for what counts its history.
fn content(state: &State) -> impl PartialEq + std::fmt::Debug + use<> {
    let plans = state
        .plans
        .iter()
        .map(|(key, present)| (key.clone(), (present.plan.clone(), present.definition.clone(), present.cells.clone())));
    let features = state.features.iter().map(|(key, present)| (key.clone(), present.feature.clone()));
    (features.collect::<BTreeMap<_, _>>(), plans.collect::<BTreeMap<_, _>>(), state.prices.clone())
}

proptest! {
    #[test]
    fn applying_a_document_twice_changes_nothing_more(documents in documents()) {
        let mut state = State::default();
        for document in &documents {
            if let Ok(changes) = plan_changes(&state, document) {
                state.apply(&changes);
                prop_assert_eq!(plan_changes(&state, document), Ok(Vec::new()));
                prop_assert_eq!(plan_changes(&state, &rewritten(document)), Ok(Vec::new()));
            }
        }
    }

    #[test]
    fn every_plan_holds_what_the_rule_says(documents in documents()) {
        for state in history(&documents) {
            for (plan, present) in &state.plans {
                for feature in state.features.keys() {
                    prop_assert_eq!(present.cells.get(feature).cloned(), naive_cell(&state, plan, feature));
                }
                prop_assert!(present.cells.keys().all(|feature| state.features[feature].in_use));
            }
        }
    }

    #[test]
    fn an_export_is_the_catalog(documents in documents()) {
        for state in history(&documents) {
            let document = export(&state);
            prop_assert_eq!(plan_changes(&state, &document), Ok(Vec::new()));
            let read = parse(&document.to_string(), Limits::CATALOG).unwrap();
            prop_assert_eq!(read.to_string(), document.to_string());

            let mut copy = State::default();
            copy.apply(&plan_changes(&copy, &read).unwrap());
            prop_assert_eq!(content(&copy), content(&state));
            for (plan, present) in &state.plans {
                let draft = draft::document(plan, export_plan(present));
                prop_assert_eq!(plan_changes(&state, &draft), Ok(Vec::new()));
            }
        }
    }

    #[test]
    fn what_a_document_does_not_name_stays_as_it_is(documents in documents()) {
        let mut state = State::default();
        for document in &documents {
            let Ok(changes) = plan_changes(&state, document) else { continue };
            let before = state.clone();
            state.apply(&changes);
            let named = |part: &str, key: &str| document.get(part).is_some_and(|part| part.get(key).is_some());
            for (key, present) in before.features.iter().filter(|(key, _)| !named("features", key.as_str())) {
                prop_assert_eq!(&state.features[key].feature, &present.feature);
            }
            for (key, present) in before.plans.iter().filter(|(key, _)| !named("plans", key.as_str())) {
                prop_assert_eq!(&state.plans[key].plan, &present.plan);
                prop_assert_eq!(&state.plans[key].definition, &present.definition);
            }
            let prices = document.get("prices").and_then(|prices| prices.get("stripe"));
            for (key, price) in before.prices.iter().filter(|(key, _)| prices.is_none_or(|prices| prices.get(key.external_id()).is_none())) {
                prop_assert_eq!(state.prices.get(key), Some(price));
            }
        }
    }

    #[test]
    fn nothing_draws_on_what_is_no_pool(documents in documents()) {
        let mut state = State::default();
        for document in &documents {
            // Not after any change on the way either.
            for change in plan_changes(&state, document).unwrap_or_default() {
                state.apply(&[change]);
                for present in state.features.values() {
                    let Some(draws_on) = &present.feature.draws_on else { continue };
                    let pool = &state.features[&draws_on.feature].feature;
                    prop_assert!(present.feature.kind == Kind::Quota && draws_on.cost > Amount::ZERO);
                    prop_assert!(pool.kind == Kind::Quota && pool.draws_on.is_none(), "{:?}", state.features);
                }
            }
        }
    }

    #[test]
    fn each_change_is_needed_and_valid_after_those_before_it(documents in documents()) {
        let mut state = State::default();
        for document in &documents {
            let Ok(changes) = plan_changes(&state, document) else { continue };
            let before = state.clone();
            for change in &changes {
                let previous = state.clone();
                state.apply(std::slice::from_ref(change));
                state.revision = previous.revision;
                prop_assert_ne!(&state, &previous, "{:?} changes nothing", change);
                match &change.row {
                    Row::Feature(key, _) => prop_assert_eq!(change.action == Action::Create, !previous.features.contains_key(key)),
                    Row::Plan(key, plan) => match previous.plans.get(key) {
                        Some(present) => prop_assert_eq!(present.plan.kind, plan.kind),
                        None => prop_assert_eq!(change.action, Action::Create),
                    },
                    Row::PlanVersion(row) => {
                        prop_assert_eq!(row.version, previous.plans[&row.plan].version + 1);
                        prop_assert!(row.cells.iter().all(|(feature, _)| previous.features.contains_key(feature)));
                        prop_assert!(row.cells.is_sorted_by(|one, two| one.0 < two.0));
                        for (feature, cell) in &row.cells {
                            // The plan that it extends was published before it.
                            prop_assert_eq!(naive_cell(&state, &row.plan, feature), Some(cell.clone()));
                        }
                        let once = changes.iter().filter(|other| matches!(&other.row, Row::PlanVersion(other) if other.plan == row.plan));
                        prop_assert_eq!(once.count(), 1);
                    }
                    Row::Price(_, Some(price)) => {
                        let plan = &previous.plans[&price.plan];
                        prop_assert!(plan.version >= price.version.unwrap_or(1));
                    }
                    Row::Price(key, None) => prop_assert!(previous.prices.contains_key(key)),
                }
            }
            for (key, present) in &before.features {
                let after = &state.features[key].feature;
                let fixed = after.kind == present.feature.kind && after.combine == present.feature.combine;
                prop_assert!(fixed || !present.in_use);
            }
            state.revision = before.revision + 1;
        }
    }

    #[test]
    fn a_stale_document_never_changes_anything(documents in documents(), late in document(false)) {
        let Some(state) = history(&documents).pop().filter(|state| state.revision > 0) else { return Ok(()) };
        let with_revision = |revision: i64| match &late {
            Json::Object(members) => {
                let mut members = members.clone();
                members.push(("revision".into(), Json::number(revision)));
                Json::Object(members)
            }
            _ => unreachable!("a document is an object"),
        };
        let fresh = plan_changes(&state, &late);
        prop_assert_eq!(plan_changes(&state, &with_revision(state.revision)), fresh.clone());
        let stale = plan_changes(&state, &with_revision(state.revision - 1));
        match fresh {
            Ok(changes) if !changes.is_empty() => {
                prop_assert_eq!(stale, Err(Error::StaleRevision { document: state.revision - 1, present: state.revision }));
            }
            other => prop_assert_eq!(stale, other),
        }
    }

    #[test]
    fn values_read_back(values in prop::collection::vec((0..KINDS.len()).prop_flat_map(|index| value(KINDS[index]).prop_map(move |json| (index, json))), 1..20)) {
        for (index, json) in values {
            let kind = KINDS[index].parse().unwrap();
            if let Ok(value) = DocValue::parse(kind, &json) {
                prop_assert_eq!(DocValue::parse(kind, &value.to_json()), Ok(value));
            } else {
                prop_assert_eq!(json, Json::Null);
            }
        }
    }
}

/// Anything, made of the words of a catalog so that it gets past the first checks.
fn anything() -> impl Strategy<Value = Json> {
    let words = [
        "features",
        "plans",
        "prices",
        "revision",
        "kind",
        "name",
        "extends",
        "rank",
        "archived",
        "amount",
        "per_unit",
        "schema",
        "period",
        "anchor",
        "overage",
        "ceiling",
        "overdraft",
        "thresholds",
        "burst",
        "rollover",
        "max",
        "windows",
        "draws_on",
        "feature",
        "cost",
        "ledger",
        "lease",
        "linger",
        "store",
        "combine",
        "plan",
        "version",
        "quantity",
        "stripe",
        "f0",
        "f1",
        "p0",
        "p1",
        "flag",
        "config",
        "quota",
        "base",
        "addon",
        "unlimited",
        "1 month",
        "$ref",
        "#",
        "",
        "x y",
        "é\u{1}",
    ];
    let word = move || prop::sample::select(words.to_vec());
    let numbers = ["0", "-1", "1.5", "1e400", "-0", "99999999999999999999", "1e-30", "not a number", ""];
    let leaf = prop_oneof![
        1 => Just(Json::Null),
        1 => boolean(),
        1 => prop::sample::select(numbers.to_vec()).prop_map(Json::number),
        3 => word().prop_map(Json::string),
    ];
    leaf.prop_recursive(6, 60, 8, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
            4 => prop::collection::vec((word(), inner), 0..8).prop_map(Json::object),
        ]
    })
}

/// Replaces the value at one place of a document, counting places depth first.
fn replace(json: &mut Json, place: &mut usize, with: &Json) {
    if *place == 0 {
        *json = with.clone();
    }
    let Some(rest) = place.checked_sub(1) else { return };
    *place = rest;
    let members: Vec<&mut Json> = match json {
        Json::Array(items) => items.iter_mut().collect(),
        Json::Object(members) => members.iter_mut().map(|(_, value)| value).collect(),
        _ => Vec::new(),
    };
    for member in members {
        replace(member, place, with);
        if *place == usize::MAX {
            return;
        }
    }
}

fn check_refusal(outcome: Result<Vec<entitlements_model::catalog::Change>, Error>) -> Result<(), TestCaseError> {
    if let Err(Error::Invalid(faults) | Error::Conflict(faults)) = outcome {
        prop_assert!(!faults.is_empty() && faults.len() <= Faults::KEPT + 1);
        for fault in faults {
            prop_assert!(fault.path.starts_with('$') && !fault.fault.is_empty());
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_document_causes_a_panic(document in anything(), part in prop::sample::select(vec!["features", "plans", "prices"])) {
        let state = State::default();
        check_refusal(plan_changes(&state, &document))?;
        check_refusal(plan_changes(&state, &Json::object([(part, document)])))?;
    }

    #[test]
    fn no_damage_to_a_document_causes_a_panic(first in document(true), next in document(true), place in 0usize..150, with in anything()) {
        let state = history(&[first]).pop().unwrap();
        let mut damaged = next;
        replace(&mut damaged, &mut place.clone(), &with);
        check_refusal(plan_changes(&state, &damaged))?;
        check_refusal(plan_changes(&State::default(), &damaged))?;
    }

    #[test]
    fn no_text_causes_a_panic(text in any::<String>(), document in document(true), cut in any::<prop::sample::Index>(), insert in ".") {
        for text in [text, {
            let whole = document.to_string();
            let mut at = cut.index(whole.len());
            while !whole.is_char_boundary(at) {
                at -= 1;
            }
            [&whole[..at], &insert, &whole[at..]].concat()
        }] {
            if let Ok(json) = parse(&text, Limits::CATALOG) {
                check_refusal(plan_changes(&State::default(), &json))?;
            }
        }
    }
}

/// The properties above say nothing if the documents made for them are refused.
#[test]
fn most_generated_documents_are_applied() {
    let mut runner = TestRunner::deterministic();
    let (mut applied, mut later, mut inherited, mut removed, mut drawn, mut redrawn) = (0, 0, 0, 0, 0, 0);
    for _ in 0..300 {
        let documents = documents().new_tree(&mut runner).unwrap().current();
        let history = history(&documents);
        applied += usize::from(history.len() > 1);
        later += usize::from(history.len() > 2);
        let plans = || history.iter().flat_map(|state| state.plans.values());
        let draws = |state: &State| -> Vec<_> {
            state.features.values().map(|present| present.feature.draws_on.as_ref().map(|on| on.feature.clone())).collect()
        };
        drawn += usize::from(history.iter().any(|state| draws(state).iter().any(Option::is_some)));
        redrawn += usize::from(history.windows(2).any(|pair| {
            pair[0].features.len() == pair[1].features.len()
                && draws(&pair[0]) != draws(&pair[1])
                && draws(&pair[0]).iter().any(Option::is_some)
        }));
        inherited += usize::from(plans().any(|present| present.cells.values().any(|cell| cell.inherited)));
        removed += usize::from(plans().any(|present| {
            let parent = present.definition.extends.as_ref();
            let taken = |parent: &PlanKey| {
                present.definition.features.iter().any(|(key, value)| {
                    value.is_none()
                        && history
                            .iter()
                            .any(|state| state.plans.get(parent).is_some_and(|parent| parent.cells.contains_key(key)))
                })
            };
            parent.is_some_and(taken)
        }));
    }
    assert!(applied > 180 && later > 100 && inherited > 100 && removed > 20, "{applied} {later} {inherited} {removed}");
    assert!(drawn > 90 && redrawn > 20, "{drawn} {redrawn}");
}
