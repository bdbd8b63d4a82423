//! What applying a document changes, and what it leaves alone.

use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::catalog::{
    Action, Anchor, Change, Definition, DocValue, DrawsOn, Error, Object, Overage, Rollover, Row, State, Store, draft,
    export, export_plan, plan_changes,
};
use entitlements_model::json::{Json, Limits, parse};
use entitlements_model::key::{FeatureKey, PlanKey};
use entitlements_model::kind::{Combine, Kind, PlanKind};

fn json(text: &str) -> Json {
    parse(text, Limits::CATALOG).unwrap()
}

fn changes(state: &State, text: &str) -> Vec<Change> {
    plan_changes(state, &json(text)).unwrap()
}

fn apply(state: &mut State, text: &str) -> Vec<Change> {
    let changes = changes(state, text);
    state.apply(&changes);
    changes
}

/// `action object key` of each change.
fn summary(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| format!("{} {} {}", change.action.as_str(), change.object().as_str(), change.key()))
        .collect()
}

fn feature(key: &str) -> FeatureKey {
    FeatureKey::parse(key).unwrap()
}

fn plan(key: &str) -> PlanKey {
    PlanKey::parse(key).unwrap()
}

fn amount(text: &str) -> Amount {
    text.parse().unwrap()
}

fn metered(text: &str) -> DocValue {
    DocValue::Metered { allowance: Allowance::Finite(amount(text)), per_unit: false }
}

const DOCUMENT: &str = r#"{
  "features": {
    "sso":             {"kind": "flag"},
    "support":         {"kind": "config", "schema": {"enum": ["community", "standard", "premium"]}},
    "actions_minutes": {"kind": "quota", "unit": "minute", "period": "1 month", "anchor": "calendar", "thresholds": [0.8, 1]},
    "seats":           {"kind": "allocation", "unit": "seat"}},
  "plans": {
    "free": {"kind": "base", "features": {"sso": false, "support": "community", "actions_minutes": 2000, "seats": 3}},
    "team": {"kind": "base", "extends": "free", "rank": 10,
             "features": {"support": "standard", "actions_minutes": 3000, "seats": {"amount": 1, "per_unit": true}}},
    "extra_minutes": {"kind": "addon", "features": {"actions_minutes": 1000}}},
  "prices": {"stripe": {"price_123": {"plan": "team"}}}}"#;

fn catalog() -> State {
    let mut state = State::default();
    apply(&mut state, DOCUMENT);
    state
}

#[test]
fn a_first_document_creates_features_then_plans_then_versions_then_prices() {
    let mut state = State::default();
    assert_eq!(
        summary(&apply(&mut state, DOCUMENT)),
        [
            "create feature actions_minutes",
            "create feature seats",
            "create feature sso",
            "create feature support",
            "create plan extra_minutes",
            "create plan free",
            "create plan team",
            "publish plan extra_minutes",
            "publish plan free",
            "publish plan team",
            "create price stripe/price_123",
        ]
    );
    assert_eq!(state.revision, 1);
    assert!(state.features.values().all(|present| present.in_use));
    let team = &state.plans["team"];
    assert_eq!((team.version, team.plan.kind, team.definition.rank), (1, PlanKind::Base, 10));
    let cells: Vec<_> =
        team.cells.iter().map(|(key, cell)| (key.as_str(), cell.value.to_json().to_string(), cell.inherited)).collect();
    assert_eq!(
        cells,
        [
            ("actions_minutes", "3000".into(), false),
            ("seats", r#"{"amount":1,"per_unit":true}"#.into(), false),
            ("sso", "false".into(), true),
            ("support", r#""standard""#.into(), false),
        ]
    );
    let minutes = &state.features["actions_minutes"].feature;
    assert_eq!(minutes.kind, Kind::Quota);
    assert_eq!(minutes.combine, Combine::MaxPlusAddons);
    assert_eq!(minutes.period.unwrap().to_string(), "1 month");
    assert_eq!((minutes.anchor, minutes.overage), (Some(Anchor::Calendar), Some(Overage::Reject)));
    assert_eq!(minutes.thresholds, [amount("0.8"), amount("1")]);
}

#[test]
fn the_same_document_changes_nothing_the_second_time() {
    let state = catalog();
    assert_eq!(changes(&state, DOCUMENT), []);
    let rewritten = DOCUMENT
        .replace("2000", "2.000e3")
        .replace(r#""sso": false, "#, "")
        .replace(r#""seats": 3}"#, r#""seats": 3.0, "sso": false}"#);
    assert_eq!(changes(&state, &rewritten), []);
    assert_eq!(changes(&state, "{}"), []);
    assert_eq!(changes(&state, r#"{"features": {"sso": {}}, "plans": {"team": {}}, "prices": {"stripe": {}}}"#), []);
}

#[test]
fn a_changed_plan_is_published_with_those_that_inherit_the_change() {
    let mut state = catalog();
    apply(&mut state, r#"{"plans": {"enterprise": {"kind": "base", "extends": "team", "features": {"sso": true}}}}"#);
    let changes =
        apply(&mut state, r#"{"plans": {"free": {"features": {"sso": true, "support": "community", "seats": 3}}}}"#);
    // enterprise holds its own sso and team's minutes: nothing it inherits changed.
    assert_eq!(summary(&changes), ["publish plan free", "publish plan team"]);
    assert_eq!(
        changes[0].detail.to_string(),
        r#"{"version":2,"added":{},"removed":["actions_minutes"],"changed":{"sso":{"from":false,"to":true}}}"#
    );
    assert_eq!(
        changes[1].detail.to_string(),
        r#"{"version":2,"added":{},"removed":[],"changed":{"sso":{"from":false,"to":true}}}"#
    );
    let versions: Vec<_> = state.plans.values().map(|present| present.version).collect();
    assert_eq!(versions, [1, 1, 2, 2]);
}

#[test]
fn an_added_feature_reaches_all_heirs() {
    let mut state = catalog();
    apply(&mut state, r#"{"plans": {"enterprise": {"kind": "base", "extends": "team"}}}"#);
    let changes = apply(
        &mut state,
        r#"{"features": {"audit": {"kind": "flag"}},
            "plans": {"free": {"features": {"sso": false, "support": "community", "actions_minutes": 2000, "seats": 3, "audit": true}}}}"#,
    );
    assert_eq!(
        summary(&changes),
        ["create feature audit", "publish plan free", "publish plan team", "publish plan enterprise"]
    );
    assert_eq!(changes[3].detail.to_string(), r#"{"version":2,"added":{"audit":true},"removed":[],"changed":{}}"#);
}

#[test]
fn null_takes_away_what_is_inherited() {
    let mut state = catalog();
    let team = r#"{"plans": {"team": {"features": {"sso": null, "support": "standard"}}}}"#;
    apply(&mut state, team);
    let present = &state.plans["team"];
    assert_eq!(present.cells.keys().map(FeatureKey::as_str).collect::<Vec<_>>(), ["actions_minutes", "seats", "support"]);
    assert_eq!(present.definition.features[&feature("sso")], None);
    assert_eq!(changes(&state, team), []);
    // It stays away also when the extended plan changes its mind about the value.
    let free =
        r#"{"plans": {"free": {"features": {"sso": true, "support": "community", "actions_minutes": 2000, "seats": 3}}}}"#;
    assert_eq!(summary(&apply(&mut state, free)), ["publish plan free"]);
}

#[test]
fn rank_and_parent_make_a_version() {
    let mut state = catalog();
    let changes = apply(&mut state, r#"{"plans": {"team": {"extends": null, "rank": 20}}}"#);
    assert_eq!(summary(&changes), ["publish plan team"]);
    assert_eq!(
        changes[0].detail.to_string(),
        r#"{"version":2,"extends":{"from":"free","to":null},"rank":{"from":10,"to":20},"added":{},"removed":["sso"],"changed":{}}"#
    );
    let Row::PlanVersion(row) = &changes[0].row else { panic!("{changes:?}") };
    assert_eq!((&row.plan, row.version, row.kind), (&plan("team"), 2, PlanKind::Base));
    assert_eq!((row.definition.extends.as_ref(), row.definition.rank), (None, 20));
    // The rank is each plan's own.
    assert_eq!(summary(&apply(&mut state, r#"{"plans": {"free": {"rank": -1}}}"#)), ["publish plan free"]);
}

#[test]
fn what_people_read_makes_no_version() {
    let mut state = catalog();
    let changes = apply(&mut state, r#"{"plans": {"free": {"name": "Free", "description": "For all"}}}"#);
    assert_eq!(summary(&changes), ["update plan free"]);
    assert_eq!(
        changes[0].detail.to_string(),
        r#"{"name":{"from":null,"to":"Free"},"description":{"from":null,"to":"For all"}}"#
    );
    let changes = apply(&mut state, r#"{"plans": {"free": {"name": null}}}"#);
    assert_eq!(changes[0].detail.to_string(), r#"{"name":{"from":"Free","to":null}}"#);
    assert_eq!(state.plans["free"].plan.description.as_deref(), Some("For all"));
}

#[test]
fn members_of_a_feature_that_are_not_named_stay() {
    let mut state = catalog();
    let changes = apply(&mut state, r#"{"features": {"actions_minutes": {"overage": "allow", "ceiling": 1.25}}}"#);
    assert_eq!(summary(&changes), ["update feature actions_minutes"]);
    assert_eq!(changes[0].detail.to_string(), r#"{"overage":{"from":null,"to":"allow"},"ceiling":{"from":null,"to":1.25}}"#);
    let changes =
        apply(&mut state, r#"{"features": {"actions_minutes": {"thresholds": null, "unit": null, "period": null}}}"#);
    assert_eq!(
        changes[0].detail.to_string(),
        r#"{"unit":{"from":"minute","to":null},"period":{"from":"1 month","to":null},"thresholds":{"from":[0.8,1],"to":null}}"#
    );
    let minutes = &state.features["actions_minutes"].feature;
    assert_eq!((minutes.period, minutes.anchor, minutes.ceiling), (None, None, Some(amount("1.25"))));
}

#[test]
fn a_quota_can_reset_at_renewal() {
    let mut state = State::default();
    apply(&mut state, r#"{"features": {"q": {"kind": "quota", "anchor": "renewal"}}}"#);
    assert_eq!(state.features["q"].feature.anchor, Some(Anchor::Renewal));
    apply(&mut state, r#"{"features": {"q": {"anchor": "subscription", "period": "1 year"}}}"#);
    assert_eq!(state.features["q"].feature.anchor, Some(Anchor::Subscription));
    apply(&mut state, r#"{"features": {"q": {"anchor": "renewal", "period": null}}}"#);
    assert_eq!(state.features["q"].feature.to_json().to_string(), r#"{"kind":"quota","anchor":"renewal"}"#);
    apply(&mut state, r#"{"features": {"q": {"anchor": null}}}"#);
    assert_eq!(state.features["q"].feature.anchor, None);
}

const METERED: &str = r#"{"features": {
    "credits": {"kind": "quota", "period": "1 month", "rollover": {"max": 500.0}, "ledger": true},
    "images":  {"kind": "quota", "draws_on": {"feature": "credits", "cost": 10}},
    "words":   {"kind": "quota", "anchor": "renewal", "draws_on": {"feature": "credits"},
                "rollover": {"max": "unlimited", "windows": 3}},
    "seats":   {"kind": "allocation", "lease": "PT15M", "linger": "5 minutes", "ledger": false},
    "calls":   {"kind": "rate", "period": "1 second", "store": "shared"},
    "logins":  {"kind": "rate", "period": "1 second", "store": "table"}}}"#;

#[test]
fn how_usage_is_metered() {
    let mut state = State::default();
    apply(&mut state, METERED);
    let of = |key: &str| &state.features[key].feature;
    let credits = of("credits");
    assert_eq!(credits.rollover, Some(Rollover { max: Allowance::Finite(amount("500")), windows: 1 }));
    assert_eq!((credits.ledger, &credits.draws_on, credits.store), (true, &None, None));
    assert_eq!(of("images").draws_on, Some(DrawsOn { feature: feature("credits"), cost: amount("10") }));
    assert_eq!(of("words").draws_on, Some(DrawsOn { feature: feature("credits"), cost: amount("1") }));
    assert_eq!(of("words").rollover, Some(Rollover { max: Allowance::Unlimited, windows: 3 }));
    let seats = of("seats");
    let lengths = [seats.lease, seats.linger].map(|length| length.unwrap().to_string());
    assert_eq!((lengths, seats.ledger), (["15 minutes".into(), "5 minutes".into()], false));
    assert_eq!((of("calls").store, of("logins").store), (Some(Store::Shared), Some(Store::Table)));

    assert_eq!(changes(&state, METERED), []);
    assert_eq!(
        export(&state).get("features").unwrap().to_string(),
        concat!(
            r#"{"calls":{"kind":"rate","period":"1 second","store":"shared"},"#,
            r#""credits":{"kind":"quota","period":"1 month","rollover":{"max":500},"ledger":true},"#,
            r#""images":{"kind":"quota","draws_on":{"feature":"credits","cost":10}},"#,
            r#""logins":{"kind":"rate","period":"1 second"},"#,
            r#""seats":{"kind":"allocation","lease":"15 minutes","linger":"5 minutes"},"#,
            r#""words":{"kind":"quota","anchor":"renewal","rollover":{"max":"unlimited","windows":3},"draws_on":{"feature":"credits"}}}"#,
        )
    );
}

/// What is not repeated takes its default: these members are stated completely.
#[test]
fn how_usage_is_metered_can_change() {
    let mut state = State::default();
    apply(&mut state, METERED);
    let changes = apply(
        &mut state,
        r#"{"features": {"images": {"draws_on": {"feature": "credits"}}, "words": {"rollover": {"max": 1}, "draws_on": null},
                         "credits": {"ledger": null}, "seats": {"lease": null}, "calls": {"store": null}}}"#,
    );
    let details: Vec<_> = changes.iter().map(|change| format!("{} {}", change.key(), change.detail)).collect();
    assert_eq!(
        details,
        [
            r#"calls {"store":{"from":"shared","to":null}}"#,
            r#"credits {"ledger":{"from":true,"to":null}}"#,
            r#"seats {"lease":{"from":"15 minutes","to":null}}"#,
            concat!(
                r#"words {"rollover":{"from":{"max":"unlimited","windows":3},"to":{"max":1}},"#,
                r#""draws_on":{"from":{"feature":"credits"},"to":null}}"#
            ),
            r#"images {"draws_on":{"from":{"feature":"credits","cost":10},"to":{"feature":"credits"}}}"#,
        ]
    );
    // Another kind has none of this.
    apply(&mut state, r#"{"features": {"words": {"kind": "allocation"}, "seats": {"kind": "rate", "period": "1 day"}}}"#);
    let seats = &state.features["seats"].feature;
    assert_eq!((state.features["words"].feature.rollover, seats.linger, seats.store), (None, None, Some(Store::Table)));
}

#[test]
fn a_feature_is_a_quota_while_others_draw_on_it() {
    let mut state = State::default();
    let first = r#"{"features": {"a": {"kind": "quota", "draws_on": {"feature": "z"}}, "z": {"kind": "quota"}}}"#;
    assert_eq!(summary(&apply(&mut state, first)), ["create feature z", "create feature a"]);
    // The other way round.
    let turned = r#"{"features": {"a": {"draws_on": null}, "z": {"draws_on": {"feature": "a"}}}}"#;
    assert_eq!(summary(&apply(&mut state, turned)), ["update feature a", "update feature z"]);
    let moved = r#"{"features": {"a": {"kind": "flag"}, "m": {"kind": "quota"}, "z": {"draws_on": {"feature": "m"}}}}"#;
    assert_eq!(summary(&apply(&mut state, moved)), ["create feature m", "update feature z", "update feature a"]);
}

#[test]
fn the_kind_of_a_feature_that_no_version_carries_can_change() {
    let mut state = State::default();
    apply(
        &mut state,
        r#"{"features": {"f": {"kind": "quota", "name": "F", "period": "1 day", "combine": "sum", "archived": true}}}"#,
    );
    let changes = apply(&mut state, r#"{"features": {"f": {"kind": "flag"}}}"#);
    assert_eq!(
        changes[0].detail.to_string(),
        r#"{"kind":{"from":"quota","to":"flag"},"combine":{"from":"sum","to":null},"period":{"from":"1 day","to":null}}"#
    );
    assert_eq!(state.features["f"].feature.to_json().to_string(), r#"{"kind":"flag","name":"F","archived":true}"#);
}

#[test]
fn a_feature_is_in_use_for_good() {
    let mut state = catalog();
    apply(&mut state, r#"{"plans": {"free": {"features": {}}, "team": {"features": {}}}}"#);
    assert!(matches!(plan_changes(&state, &json(r#"{"features": {"sso": {"kind": "quota"}}}"#)), Err(Error::Conflict(_))));
}

#[test]
fn archiving_and_restoring() {
    let mut state = catalog();
    let changes = apply(
        &mut state,
        r#"{"features": {"sso": {"archived": true, "name": "SSO"}}, "plans": {"free": {"archived": true}}}"#,
    );
    assert_eq!(summary(&changes), ["update feature sso", "archive feature sso", "archive plan free"]);
    let Row::Feature(_, updated) = &changes[0].row else { panic!("{changes:?}") };
    assert!(!updated.archived);
    assert!(state.features["sso"].feature.archived && state.plans["free"].plan.archived);
    // What extends or carries it already may stay so; others may not begin to.
    let team = r#"{"plans": {"team": {"extends": "free", "rank": 11}}}"#;
    assert_eq!(summary(&apply(&mut state, team)), ["publish plan team"]);
    let own = r#"{"plans": {"free": {"features": {"sso": true}}}}"#;
    assert_eq!(summary(&apply(&mut state, own)), ["publish plan free", "publish plan team"]);
    assert!(plan_changes(&state, &json(r#"{"plans": {"team": {"features": {"sso": true}}}}"#)).is_err());
    let restored = r#"{"features": {"sso": {"archived": false}}, "plans": {"free": {"archived": null}}}"#;
    assert_eq!(summary(&apply(&mut state, restored)), ["restore feature sso", "restore plan free"]);
    assert_eq!(summary(&apply(&mut state, r#"{"plans": {"team": {"features": {"sso": true}}}}"#)), ["publish plan team"]);
}

#[test]
fn prices_are_stated_completely() {
    let mut state = catalog();
    let changes =
        apply(&mut state, r#"{"prices": {"stripe": {"price_123": {"plan": "free", "version": 1, "quantity": 5}}}}"#);
    assert_eq!(summary(&changes), ["update price stripe/price_123"]);
    assert_eq!(changes[0].detail.to_string(), r#"{"from":{"plan":"team"},"to":{"plan":"free","version":1,"quantity":5}}"#);
    let changes = apply(&mut state, r#"{"prices": {"stripe": {"price_123": {"plan": "free"}}}}"#);
    assert_eq!(changes[0].detail.to_string(), r#"{"from":{"plan":"free","version":1,"quantity":5},"to":{"plan":"free"}}"#);
    let changes = apply(&mut state, r#"{"prices": {"stripe": {"price_123": null, "unknown": null}}}"#);
    assert_eq!(summary(&changes), ["remove price stripe/price_123"]);
    assert_eq!(changes[0].action, Action::Remove);
    assert_eq!(changes[0].object(), Object::Price);
    assert!(state.prices.is_empty());
}

#[test]
fn a_price_can_sell_the_version_that_its_document_publishes() {
    let state = catalog();
    let document = r#"{"plans": {"team": {"rank": 11}}, "prices": {"stripe": {"x": {"plan": "team", "version": 2}}}}"#;
    assert_eq!(summary(&changes(&state, document)), ["publish plan team", "create price stripe/x"]);
}

#[test]
fn an_export_states_the_catalog_without_defaults() {
    let mut state = catalog();
    apply(
        &mut state,
        r#"{"plans": {"free": {"name": "Free", "archived": true}}, "prices": {"paddle": {"p 1": {"plan": "team", "quantity": 2}}}}"#,
    );
    let text = export(&state).to_string();
    assert_eq!(
        text,
        concat!(
            r#"{"revision":2,"features":{"#,
            r#""actions_minutes":{"kind":"quota","unit":"minute","period":"1 month","thresholds":[0.8,1]},"#,
            r#""seats":{"kind":"allocation","unit":"seat"},"#,
            r#""sso":{"kind":"flag"},"#,
            r#""support":{"kind":"config","schema":{"enum":["community","standard","premium"]}}},"#,
            r#""plans":{"#,
            r#""extra_minutes":{"kind":"addon","features":{"actions_minutes":1000}},"#,
            r#""free":{"kind":"base","name":"Free","features":{"actions_minutes":2000,"seats":3,"sso":false,"support":"community"},"archived":true},"#,
            r#""team":{"kind":"base","extends":"free","rank":10,"features":{"actions_minutes":3000,"seats":{"amount":1,"per_unit":true},"support":"standard"}}},"#,
            r#""prices":{"paddle":{"p 1":{"plan":"team","quantity":2}},"stripe":{"price_123":{"plan":"team"}}}}"#,
        )
    );
    assert_eq!(changes(&state, &text), []);
    let mut copy = State::default();
    apply(&mut copy, &text);
    assert_eq!(copy, State { revision: 1, ..state });
    assert_eq!(export(&State::default()).to_string(), r#"{"revision":0}"#);
}

#[test]
fn definitions_read_back() {
    let mut state = catalog();
    apply(&mut state, r#"{"plans": {"team": {"features": {"sso": null, "seats": "unlimited", "support": "premium"}}}}"#);
    let definition = &state.plans["team"].definition;
    let text = definition.to_json().to_string();
    assert_eq!(text, r#"{"extends":"free","rank":10,"features":{"seats":"unlimited","sso":null,"support":"premium"}}"#);
    let kind_of = |key: &str| state.features.get(key).map(|present| present.feature.kind);
    assert_eq!(Definition::parse(&json(&text), kind_of).as_ref(), Ok(definition));
    for broken in
        ["[]", r#"{"rank": "x"}"#, r#"{"features": {"nope": true}}"#, r#"{"features": {"sso": 1}}"#, r#"{"kind": "base"}"#]
    {
        assert!(Definition::parse(&json(broken), kind_of).is_err(), "{broken}");
    }
}

#[test]
fn values_are_equal_by_meaning() {
    let parsed = |kind, text: &str| DocValue::parse(kind, &json(text)).unwrap();
    assert_eq!(parsed(Kind::Quota, "1e3"), metered("1000"));
    assert_eq!(parsed(Kind::Quota, r#"{"amount": 1000.0, "per_unit": false}"#), metered("1000"));
    assert_eq!(parsed(Kind::Config, r#"{"a": 1, "b": [2.0]}"#), parsed(Kind::Config, r#"{"b": [2], "a": 1.0}"#));
    assert_ne!(parsed(Kind::Config, "[1, 2]"), parsed(Kind::Config, "[2, 1]"));
    assert_eq!(
        parsed(Kind::Quota, r#"{"amount": "unlimited", "per_unit": true}"#).to_json().to_string(),
        r#"{"amount":"unlimited","per_unit":true}"#
    );
    let fault = DocValue::parse(Kind::Flag, &json("1")).unwrap_err().remove(0);
    assert_eq!(fault.to_string(), "$: must be true or false, not a number");
}

#[test]
fn a_draft_is_edited_and_published() {
    let mut state = catalog();
    let mut pro = draft::new(PlanKind::Base);
    draft::set_member(&mut pro, "extends", Json::string("team")).unwrap();
    draft::set_member(&mut pro, "name", Json::string("Pro")).unwrap();
    draft::set_member(&mut pro, "name", Json::Null).unwrap();
    draft::set_feature(&mut pro, &feature("sso"), Json::Bool(false)).unwrap();
    draft::set_feature(&mut pro, &feature("sso"), Json::Bool(true)).unwrap();
    draft::set_feature(&mut pro, &feature("seats"), Json::Null).unwrap();
    draft::set_feature(&mut pro, &feature("support"), Json::string("premium")).unwrap();
    draft::unset_feature(&mut pro, &feature("support")).unwrap();
    assert_eq!(pro.to_string(), r#"{"kind":"base","features":{"sso":true,"seats":null},"extends":"team","name":null}"#);
    let document = draft::document(&plan("pro"), pro);
    assert_eq!(summary(&apply(&mut state, &document.to_string())), ["create plan pro", "publish plan pro"]);

    let mut again = export_plan(&state.plans["pro"]);
    assert_eq!(again.to_string(), r#"{"kind":"base","extends":"team","features":{"seats":null,"sso":true}}"#);
    draft::unset_feature(&mut again, &feature("seats")).unwrap();
    let changes = apply(&mut state, &draft::document(&plan("pro"), again).to_string());
    assert_eq!(
        changes[0].detail.to_string(),
        r#"{"version":2,"added":{"seats":{"amount":1,"per_unit":true}},"removed":[],"changed":{}}"#
    );

    for broken in ["[]", r#"{"features": 1}"#] {
        assert!(draft::set_feature(&mut json(broken), &feature("sso"), Json::Null).is_err());
    }
    let mut empty = json("{}");
    draft::set_feature(&mut empty, &feature("sso"), Json::Bool(true)).unwrap();
    assert_eq!(empty.to_string(), r#"{"features":{"sso":true}}"#);
}
