//! Every fault of a catalog document: where it is found and what is said.

use entitlements_model::catalog::{Error, State, plan_changes};
use entitlements_model::fault::Faults;
use entitlements_model::json::{Json, Limits, parse};

fn json(text: &str) -> Json {
    parse(text, Limits::CATALOG).unwrap()
}

fn apply(state: &mut State, text: &str) {
    let changes = plan_changes(state, &json(text)).unwrap();
    state.apply(&changes);
}

/// A catalog with a feature of each kind, all but `spare` and `old` carried by plans.
fn present() -> State {
    let mut state = State::default();
    apply(
        &mut state,
        r#"{"features": {
              "sso": {"kind": "flag"},
              "support": {"kind": "config", "schema": {"enum": ["community", "standard", "premium"]}},
              "minutes": {"kind": "quota", "unit": "minute", "period": "1 month"},
              "seats": {"kind": "allocation"},
              "calls": {"kind": "rate", "period": "1 second"},
              "spare": {"kind": "flag"},
              "old": {"kind": "flag", "archived": true}},
            "plans": {
              "free": {"kind": "base", "features": {"sso": false, "support": "community", "minutes": 2000}},
              "team": {"kind": "base", "extends": "free", "rank": 10, "features": {"seats": 5, "calls": 10}},
              "legacy": {"kind": "base", "archived": true, "features": {"sso": true}},
              "extra": {"kind": "addon", "features": {"minutes": 1000}}},
            "prices": {"stripe": {"price_1": {"plan": "team"}}}}"#,
    );
    state
}

fn invalid(state: &State, document: &Json) -> Vec<(String, String)> {
    match plan_changes(state, document) {
        Err(Error::Invalid(faults)) => faults.into_iter().map(|fault| (fault.path, fault.fault)).collect(),
        other => panic!("not refused as invalid: {other:?}"),
    }
}

#[track_caller]
fn check(document: &str, expected: &[(&str, &str)]) {
    let found = invalid(&present(), &json(document));
    let found: Vec<_> = found.iter().map(|(path, fault)| (path.as_str(), fault.as_str())).collect();
    assert_eq!(found, expected, "{document}");
}

#[track_caller]
fn check_feature(feature: &str, path: &str, fault: &str) {
    check(&format!(r#"{{"features": {{"f": {feature}}}}}"#), &[(&format!("$.features.f{path}"), fault)]);
}

#[track_caller]
fn check_plan(plan: &str, path: &str, fault: &str) {
    check(&format!(r#"{{"plans": {{"p": {plan}}}}}"#), &[(&format!("$.plans.p{path}"), fault)]);
}

#[track_caller]
fn check_value(feature: &str, value: &str, path: &str, fault: &str) {
    let plan = format!(r#"{{"kind": "base", "features": {{"{feature}": {value}}}}}"#);
    check_plan(&plan, &format!(".features.{feature}{path}"), fault);
}

#[test]
fn documents_that_are_no_objects() {
    for (document, what) in
        [("null", "null"), ("true", "a boolean"), ("1", "a number"), (r#""x""#, "a string"), ("[]", "an array")]
    {
        check(document, &[("$", &format!("must be an object, not {what}"))]);
    }
}

#[test]
fn top_level_members() {
    check(r#"{"feature": {}}"#, &[("$.feature", "unknown member; nearest: features")]);
    check(r#"{"zzzzzzzz": {}}"#, &[("$.zzzzzzzz", "unknown member")]);
    check(r#"{"it's odd": 1}"#, &[(r"$['it\'s odd']", "unknown member")]);
    check(
        r#"{"features": [], "plans": 1, "prices": null}"#,
        &[
            ("$.features", "must be an object, not an array"),
            ("$.plans", "must be an object, not a number"),
            ("$.prices", "must be an object, not null"),
        ],
    );
}

#[test]
fn revisions() {
    let range = "is not an integer from 0 to 9223372036854775807";
    check(r#"{"revision": -1}"#, &[("$.revision", &format!("-1 {range}"))]);
    check(r#"{"revision": 1.5}"#, &[("$.revision", &format!("1.5 {range}"))]);
    check(r#"{"revision": 1e30}"#, &[("$.revision", &format!("1e30 {range}"))]);
    check(r#"{"revision": "1"}"#, &[("$.revision", "must be an integer, not a string")]);
}

#[test]
fn every_fault_is_reported_in_one_attempt() {
    check(
        r#"{"features": {"a": {"kind": "flag", "period": "1 day"}, "b": 1},
            "plans": {"p": {"kind": "base", "rank": "x", "features": {"a": 1, "ss": true}}},
            "prices": {"stripe": {"x": {"plan": "nope"}, "y": {"plan": "p", "version": 2}}},
            "more": 1}"#,
        &[
            ("$.more", "unknown member"),
            ("$.features.a.period", "a feature of kind flag has no period"),
            ("$.features.b", "must be an object, not a number"),
            ("$.plans.p.rank", "must be an integer, not a string"),
            ("$.plans.p.features.a", "must be true or false, not a number"),
            ("$.plans.p.features.ss", "unknown feature; nearest: sso"),
            ("$.prices.stripe.x.plan", "there is no plan 'nope'"),
            ("$.prices.stripe.y.version", "plan 'p' has no version 2, its latest is 1"),
        ],
    );
}

#[test]
fn a_hundred_faults_are_kept_and_the_others_counted() {
    let members: Vec<_> = (0..150).map(|number| (format!("f{number}"), Json::Bool(true))).collect();
    let document = Json::object([("features", Json::object(members))]);
    let found = invalid(&present(), &document);
    assert_eq!(found.len(), Faults::KEPT + 1);
    assert_eq!(found[99], ("$.features.f99".into(), "must be an object, not a boolean".into()));
    assert_eq!(found[100], ("$".into(), "and 50 more faults".into()));
}

#[test]
fn keys() {
    let rule = "a key has only ASCII letters, digits and _ . : -";
    check(
        r#"{"features": {"": {"kind": "flag"}, "a b": {"kind": "flag"}, "-a": {"kind": "flag"}},
            "plans": {"é": {"kind": "base"}}}"#,
        &[
            ("$.features['']", "the key of a feature is empty"),
            ("$.features['a b']", &format!("the key of a feature contains ' '; {rule}")),
            ("$.features['-a']", "the key of a feature starts with '-'; a key starts with an ASCII letter, a digit or _"),
            ("$.plans['é']", &format!("the key of a plan contains 'é'; {rule}")),
        ],
    );
    let long = "x".repeat(1 << 20);
    let document = Json::object([("features", Json::object([(long.as_str(), Json::Null)]))]);
    let path = format!("$.features['{}…']", &long[..100]);
    assert_eq!(invalid(&present(), &document), [(path, "the key of a feature is longer than 100 bytes".into())]);
}

#[test]
fn kinds_of_features() {
    check_feature("{}", "", "a new feature needs a kind");
    check_feature(r#"{"kind": null}"#, ".kind", "must be a string, not null");
    check_feature(r#"{"kind": "boolean"}"#, ".kind", "'boolean' is not one of: flag, config, quota, allocation, rate");
    check_feature("null", "", "a feature cannot be removed; archive it");
    check_feature("7", "", "must be an object, not a number");
}

#[test]
fn members_of_features() {
    check_feature(r#"{"kind": "flag", "titel": "x"}"#, ".titel", "unknown member");
    check_feature(r#"{"kind": "quota", "perod": "1 day"}"#, ".perod", "unknown member; nearest: period");
    check_feature(r#"{"kind": "flag", "name": 1}"#, ".name", "must be a string, not a number");
    check_feature(r#"{"kind": "flag", "archived": "yes"}"#, ".archived", "must be true or false, not a string");
    let name = "x".repeat(201);
    check_feature(&format!(r#"{{"kind": "flag", "name": "{name}"}}"#), ".name", "longer than 200 characters");
    let text = "x".repeat(10_001);
    check_feature(
        &format!(r#"{{"kind": "flag", "description": "{text}"}}"#),
        ".description",
        "longer than 10000 characters",
    );
}

#[test]
fn members_of_other_kinds() {
    for (kind, members) in [
        ("flag", &["unit", "period", "anchor", "overage", "ceiling", "overdraft", "thresholds", "burst", "schema"][..]),
        ("config", &["unit", "period", "anchor", "overage", "ceiling", "overdraft", "thresholds", "burst"]),
        ("flag", &["rollover", "draws_on", "ledger", "lease", "linger", "store"]),
        ("config", &["rollover", "draws_on", "ledger", "lease", "linger", "store"]),
        ("quota", &["burst", "schema", "lease", "linger", "store"]),
        ("allocation", &["period", "anchor", "burst", "schema", "rollover", "draws_on", "store"]),
    ] {
        for member in members {
            check_feature(
                &format!(r#"{{"kind": "{kind}", "{member}": 1}}"#),
                &format!(".{member}"),
                &format!("a feature of kind {kind} has no {member}"),
            );
        }
    }
    let foreign = [
        "anchor",
        "overage",
        "ceiling",
        "overdraft",
        "thresholds",
        "schema",
        "rollover",
        "draws_on",
        "ledger",
        "lease",
        "linger",
    ];
    for member in foreign {
        check_feature(
            &format!(r#"{{"kind": "rate", "period": "1 day", "{member}": 1}}"#),
            &format!(".{member}"),
            &format!("a feature of kind rate has no {member}"),
        );
    }
}

#[test]
fn combining() {
    check_feature(
        r#"{"kind": "flag", "combine": "sum"}"#,
        ".combine",
        "a feature of kind flag combines by any, all, not sum",
    );
    check_feature(
        r#"{"kind": "config", "combine": "max"}"#,
        ".combine",
        "a feature of kind config combines by highest_rank, not max",
    );
    check_feature(
        r#"{"kind": "quota", "combine": "or"}"#,
        ".combine",
        "'or' is not one of: any, all, highest_rank, max_plus_addons, sum, max, min",
    );
}

#[test]
fn periods() {
    for (period, fault) in [
        (r#""monthly""#, "'monthly' is not a period; write a whole number and a unit, such as \"1 month\" or \"12 hours\""),
        (r#""-1 day""#, "'-1 day' is not a period; write a whole number and a unit, such as \"1 month\" or \"12 hours\""),
        (r#""0 days""#, "'0 days' is shorter than a second"),
        (r#""9999 years""#, "'9999 years' is longer than 1000 years"),
        ("30", "must be a string, not a number"),
    ] {
        check_feature(&format!(r#"{{"kind": "quota", "period": {period}}}"#), ".period", fault);
    }
    check_feature(r#"{"kind": "rate"}"#, "", "a rate needs a period");
    check_feature(r#"{"kind": "rate", "period": null}"#, "", "a rate needs a period");
}

#[test]
fn anchors() {
    check_feature(
        r#"{"kind": "quota", "period": "1 day", "anchor": "weekly"}"#,
        ".anchor",
        "'weekly' is not one of: calendar, subscription, renewal",
    );
    for anchor in ["calendar", "subscription"] {
        check_feature(
            &format!(r#"{{"kind": "quota", "anchor": "{anchor}"}}"#),
            ".anchor",
            "windows that start anew need a period",
        );
    }
    check_feature(
        r#"{"kind": "quota", "period": "1 day", "anchor": "renewal"}"#,
        ".anchor",
        "a quota that resets at renewal has no period",
    );
    let mut state = present();
    apply(&mut state, r#"{"features": {"r": {"kind": "quota", "anchor": "renewal"}}}"#);
    let found = invalid(&state, &json(r#"{"features": {"r": {"period": "1 day"}}}"#));
    assert_eq!(found, [("$.features.r.period".into(), "a quota that resets at renewal has no period".into())]);
}

#[test]
fn overage_and_ceilings() {
    check_feature(r#"{"kind": "quota", "overage": "soft"}"#, ".overage", "'soft' is not one of: reject, cap, allow");
    check_feature(r#"{"kind": "quota", "ceiling": 1.25}"#, ".ceiling", "a ceiling needs overage allow");
    for (ceiling, fault) in [
        ("0.5", "0.5 is below 1, the allowance itself"),
        ("-2", "-2 is negative"),
        (r#""2""#, "must be a number, not a string"),
    ] {
        check_feature(&format!(r#"{{"kind": "quota", "overage": "allow", "ceiling": {ceiling}}}"#), ".ceiling", fault);
    }
    let mut state = present();
    apply(&mut state, r#"{"features": {"c": {"kind": "quota", "overage": "allow", "ceiling": 2}}}"#);
    let found = invalid(&state, &json(r#"{"features": {"c": {"overage": "cap"}}}"#));
    assert_eq!(found, [("$.features.c.overage".into(), "a ceiling needs overage allow".into())]);
}

#[test]
fn overdrafts() {
    check_feature(r#"{"kind": "quota", "overdraft": 5}"#, ".overdraft", "an overdraft needs overage allow");
    for (overdraft, fault) in
        [("0", "must be above 0"), ("-2", "-2 is negative"), (r#""2""#, "must be a number, not a string")]
    {
        let feature = format!(r#"{{"kind": "allocation", "overage": "allow", "overdraft": {overdraft}}}"#);
        check_feature(&feature, ".overdraft", fault);
    }
    let mut state = present();
    apply(&mut state, r#"{"features": {"c": {"kind": "quota", "overage": "allow", "overdraft": 5}}}"#);
    for (change, member) in [(r#"{"ceiling": 2}"#, "ceiling"), (r#"{"ceiling": 2, "overdraft": 3}"#, "overdraft")] {
        let found = invalid(&state, &json(&format!(r#"{{"features": {{"c": {change}}}}}"#)));
        let fault = "a feature has a ceiling or an overdraft, not both";
        assert_eq!(found, [(format!("$.features.c.{member}"), fault.to_owned())]);
    }
    // One takes the other's place.
    apply(&mut state, r#"{"features": {"c": {"overdraft": null, "ceiling": 2}}}"#);
}

#[test]
fn thresholds() {
    for (thresholds, path, fault) in [
        ("0.8", "", "must be an array, not a number"),
        ("[0.8, 0.5]", "[1]", "thresholds must ascend"),
        ("[0.8, 0.80]", "[1]", "thresholds must ascend"),
        ("[0]", "[0]", "must be above 0"),
        ("[0.5, -1]", "[1]", "-1 is negative"),
        ("[null]", "[0]", "must be a number, not null"),
        ("[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21]", "", "21 thresholds, more than 20"),
    ] {
        check_feature(
            &format!(r#"{{"kind": "allocation", "thresholds": {thresholds}}}"#),
            &format!(".thresholds{path}"),
            fault,
        );
    }
}

#[test]
fn rollovers() {
    for (rollover, path, fault) in [
        ("500", "", "must be an object, not a number"),
        ("{}", "", "a max is missing"),
        (r#"{"max": null}"#, ".max", "must be a number or \"unlimited\", not null"),
        (r#"{"max": 0}"#, ".max", "must be above 0"),
        (r#"{"max": -1}"#, ".max", "-1 is negative"),
        (r#"{"max": "all"}"#, ".max", "must be a number or \"unlimited\", not a string"),
        (r#"{"max": 1, "windows": 0}"#, ".windows", "0 is not an integer from 1 to 120"),
        (r#"{"max": 1, "windows": 121}"#, ".windows", "121 is not an integer from 1 to 120"),
        (r#"{"max": 1, "windows": "2"}"#, ".windows", "must be an integer, not a string"),
        (r#"{"max": 1, "window": 2}"#, ".window", "unknown member; nearest: windows"),
    ] {
        check_feature(
            &format!(r#"{{"kind": "quota", "period": "1 month", "rollover": {rollover}}}"#),
            &format!(".rollover{path}"),
            fault,
        );
    }
}

#[test]
fn rollovers_need_windows() {
    let fault = "a rollover needs windows: a period or an anchor";
    check_feature(r#"{"kind": "quota", "rollover": {"max": 1}}"#, ".rollover", fault);
    // What is wrong with the period is said alone.
    check_feature(
        r#"{"kind": "quota", "period": "0 days", "rollover": {"max": 1}}"#,
        ".period",
        "'0 days' is shorter than a second",
    );
    let mut state = present();
    apply(
        &mut state,
        r#"{"features": {"p": {"kind": "quota", "period": "1 day", "rollover": {"max": 1}},
                         "a": {"kind": "quota", "anchor": "renewal", "rollover": {"max": 1}}}}"#,
    );
    for (document, path) in [
        (r#"{"features": {"p": {"period": null}}}"#, "$.features.p.period"),
        (r#"{"features": {"a": {"anchor": null}}}"#, "$.features.a.anchor"),
        (r#"{"features": {"a": {"anchor": null, "rollover": {"max": 2}}}}"#, "$.features.a.rollover"),
    ] {
        assert_eq!(invalid(&state, &json(document)), [(path.into(), fault.into())]);
    }
}

#[test]
fn what_is_drawn_on() {
    for (draws_on, path, fault) in [
        (r#""minutes""#, "", "must be an object, not a string"),
        ("{}", "", "the feature to draw on is missing"),
        (r#"{"feature": 1}"#, ".feature", "must be a string, not a number"),
        (r#"{"feature": "a b"}"#, ".feature", "'a b' contains ' '; a key has only ASCII letters, digits and _ . : -"),
        (r#"{"feature": "minuets"}"#, ".feature", "unknown feature; nearest: minutes"),
        (r#"{"feature": "f"}"#, ".feature", "a feature cannot draw on itself"),
        (r#"{"feature": "seats"}"#, ".feature", "'seats' is of kind allocation; only a quota can be drawn on"),
        (r#"{"feature": "minutes", "cost": 0}"#, ".cost", "must be above 0"),
        (r#"{"feature": "minutes", "cost": -1}"#, ".cost", "-1 is negative"),
        (r#"{"feature": "minutes", "cost": "1"}"#, ".cost", "must be a number, not a string"),
        (r#"{"feature": "minutes", "weight": 1}"#, ".weight", "unknown member"),
    ] {
        check_feature(&format!(r#"{{"kind": "quota", "draws_on": {draws_on}}}"#), &format!(".draws_on{path}"), fault);
    }
}

#[test]
fn what_is_drawn_on_draws_on_nothing_itself() {
    check(
        r#"{"features": {"a": {"kind": "quota", "draws_on": {"feature": "b"}},
                         "b": {"kind": "quota", "draws_on": {"feature": "minutes"}}}}"#,
        &[("$.features.a.draws_on.feature", "'b' draws on another feature itself")],
    );
    check(
        r#"{"features": {"a": {"kind": "quota", "draws_on": {"feature": "b"}},
                         "b": {"kind": "quota", "draws_on": {"feature": "a"}}}}"#,
        &[
            ("$.features.a.draws_on.feature", "'b' draws on another feature itself"),
            ("$.features.b.draws_on.feature", "'a' draws on another feature itself"),
        ],
    );
    // What is wrong with the feature drawn on is said once.
    check(
        r#"{"features": {"a": {"kind": "quota", "draws_on": {"feature": "b"}}, "b": {"kind": "?"}}}"#,
        &[("$.features.b.kind", "'?' is not one of: flag, config, quota, allocation, rate")],
    );
}

#[test]
fn what_is_drawn_on_stays_so() {
    let mut state = present();
    apply(
        &mut state,
        r#"{"features": {"pool": {"kind": "quota"}, "other": {"kind": "quota"},
                         "d": {"kind": "quota", "draws_on": {"feature": "pool"}}}}"#,
    );
    let drawn = "'d' draws on the feature, so it";
    for (feature, path, fault) in [
        (r#"{"kind": "flag"}"#, "$.features.pool.kind", format!("{drawn} stays a quota")),
        (r#"{"draws_on": {"feature": "other"}}"#, "$.features.pool.draws_on", format!("{drawn} draws on none itself")),
    ] {
        for drawing in [r#""#, r#", "d": {"name": "D"}"#, r#", "d": {"draws_on": {"feature": "pool", "cost": 2}}"#] {
            let document = format!(r#"{{"features": {{"pool": {feature}{drawing}}}}}"#);
            assert_eq!(invalid(&state, &json(&document)), [(path.into(), fault.clone())], "{document}");
        }
    }
    apply(&mut state, r#"{"features": {"pool": {"archived": true}, "other": {"archived": true}}}"#);
    assert_eq!(
        invalid(&state, &json(r#"{"features": {"d": {"draws_on": {"feature": "other"}}}}"#)),
        [("$.features.d.draws_on.feature".into(), "feature 'other' is archived".into())]
    );
    apply(&mut state, r#"{"features": {"d": {"draws_on": {"feature": "pool", "cost": 2}}}}"#);
}

#[test]
fn ledgers_seats_and_stores() {
    check_feature(r#"{"kind": "quota", "ledger": "yes"}"#, ".ledger", "must be true or false, not a string");
    for member in ["lease", "linger"] {
        for (period, fault) in
            [(r#""0 minutes""#, "'0 minutes' is shorter than a second"), ("15", "must be a string, not a number")]
        {
            let feature = format!(r#"{{"kind": "allocation", "{member}": {period}}}"#);
            check_feature(&feature, &format!(".{member}"), fault);
        }
    }
    check_feature(
        r#"{"kind": "rate", "period": "1 second", "store": "memory"}"#,
        ".store",
        "'memory' is not one of: table, shared",
    );
}

#[test]
fn bursts() {
    for (burst, fault) in
        [("0", "must be above 0"), (r#""x""#, "must be a number, not a string"), ("1e18", "1e18 is not below 10^18")]
    {
        check_feature(&format!(r#"{{"kind": "rate", "period": "1 second", "burst": {burst}}}"#), ".burst", fault);
    }
}

#[test]
fn schemas() {
    for (schema, fault) in [
        ("1", "must be a JSON Schema: an object, true or false, not a number"),
        (
            r#"{"type": "text"}"#,
            "not a JSON Schema: \"text\" is not valid under any of the schemas listed in the 'anyOf' keyword",
        ),
        (r##"{"$ref": "#/$defs/x"}"##, "not a JSON Schema: the reference '#/$defs/x' leads to nothing"),
    ] {
        check_feature(&format!(r#"{{"kind": "config", "schema": {schema}}}"#), ".schema", fault);
    }
    let long = "x".repeat(65_536);
    check_feature(
        &format!(r#"{{"kind": "config", "schema": {{"const": "{long}"}}}}"#),
        ".schema",
        "a schema of more than 65536 bytes",
    );
}

#[test]
fn schemas_reach_nothing_outside_themselves() {
    for reference in ["http://example.com/s.json", "https://example.com/s.json", "file:///etc/hosts", "other.json"] {
        check_feature(
            &format!(r#"{{"kind": "config", "schema": {{"$ref": "{reference}"}}}}"#),
            ".schema",
            &format!("not a JSON Schema: the reference '{reference}' does not lead to a place within the schema (#/…)"),
        );
    }
}

/// What is wrong with the schema is said once, not again for each value.
#[test]
fn a_schema_that_is_none_checks_nothing() {
    check(
        r#"{"features": {"f": {"kind": "config", "schema": {"type": 1}}},
            "plans": {"p": {"kind": "base", "features": {"f": "x"}}}}"#,
        &[(
            "$.features.f.schema",
            "not a JSON Schema: 1 is not valid under any of the schemas listed in the 'anyOf' keyword",
        )],
    );
}

/// More schemas than are kept compiled.
#[test]
fn every_schema_counts_however_many_there_are() {
    let schema = |number: usize| json(&format!(r#"{{"kind": "config", "schema": {{"const": {number}}}}}"#));
    let features = Json::object((0..150).map(|number| (format!("f{number:03}"), schema(number))));
    let plan = |shift: usize| {
        let values = (0..150).map(|number| (format!("f{number:03}"), Json::number(number + shift)));
        Json::object([("p", Json::object([("kind", Json::string("base")), ("features", Json::object(values))]))])
    };
    let document = |shift| Json::object([("features", features.clone()), ("plans", plan(shift))]);
    assert!(plan_changes(&State::default(), &document(0)).is_ok());
    let found = invalid(&State::default(), &document(1));
    assert_eq!(found.len(), Faults::KEPT + 1);
    assert_eq!(found[100].1, "and 50 more faults");
}

#[test]
fn patterns_cannot_cost_more_than_linear_time() {
    for pattern in ["(?=a)b", r"(a)\\1", "(a{1000}){1000}"] {
        let document =
            json(&format!(r#"{{"features": {{"f": {{"kind": "config", "schema": {{"pattern": "{pattern}"}}}}}}}}"#));
        assert_eq!(invalid(&present(), &document).len(), 1, "{pattern}");
    }
}

#[test]
fn kinds_and_members_of_plans() {
    check_plan("{}", "", "a new plan needs a kind: base or addon");
    check_plan(r#"{"kind": "add-on"}"#, ".kind", "'add-on' is not one of: base, addon");
    check_plan("null", "", "a plan cannot be removed; archive it");
    check_plan("[]", "", "must be an object, not an array");
    check_plan(r#"{"kind": "base", "feature": {}}"#, ".feature", "unknown member; nearest: features");
    check_plan(r#"{"kind": "base", "name": true}"#, ".name", "must be a string, not a boolean");
    check_plan(r#"{"kind": "base", "archived": 0}"#, ".archived", "must be true or false, not a number");
    check_plan(r#"{"kind": "base", "features": []}"#, ".features", "must be an object, not an array");
    for rank in ["1.5", "2147483648", "-1e10"] {
        check_plan(
            &format!(r#"{{"kind": "base", "rank": {rank}}}"#),
            ".rank",
            &format!("{rank} is not an integer from -2147483648 to 2147483647"),
        );
    }
}

#[test]
fn parents() {
    check_plan(r#"{"kind": "base", "extends": "fre"}"#, ".extends", "there is no plan 'fre'; nearest: free");
    check_plan(r#"{"kind": "base", "extends": "zzzzzz"}"#, ".extends", "there is no plan 'zzzzzz'");
    check_plan(
        r#"{"kind": "base", "extends": "a/b"}"#,
        ".extends",
        "'a/b' contains '/'; a key has only ASCII letters, digits and _ . : -",
    );
    check_plan(
        r#"{"kind": "addon", "extends": "free"}"#,
        ".extends",
        "a plan of kind addon cannot extend 'free', which is of kind base",
    );
    check_plan(r#"{"kind": "base", "extends": "legacy"}"#, ".extends", "plan 'legacy' is archived");
}

#[test]
fn circles() {
    check_plan(r#"{"kind": "base", "extends": "p"}"#, ".extends", "plans extend one another in a circle: p → p");
    check(
        r#"{"plans": {"free": {"extends": "team"}}}"#,
        &[("$.plans.free.extends", "plans extend one another in a circle: free → team → free")],
    );
    check(
        r#"{"plans": {"a": {"kind": "base", "extends": "b"}, "b": {"kind": "base", "extends": "c"},
                      "c": {"kind": "base", "extends": "b"}, "d": {"kind": "base", "extends": "a"}}}"#,
        &[("$.plans.b.extends", "plans extend one another in a circle: b → c → b")],
    );
    let ring = (0..8).map(|n| (format!("r{n}"), json(&format!(r#"{{"kind": "base", "extends": "r{}"}}"#, (n + 1) % 8))));
    let found = invalid(&present(), &Json::object([("plans", Json::object(ring))]));
    assert_eq!(
        found,
        [("$.plans.r0.extends".into(), "plans extend one another in a circle: r0 → r1 → r2 → r3 → r4 → …".to_string())]
    );
}

#[test]
fn features_of_plans() {
    check_value("seets", "1", "", "unknown feature; nearest: seats");
    check_value("seets", "null", "", "unknown feature; nearest: seats");
    check_value("old", "true", "", "the feature is archived");
    check(
        r#"{"features": {"broken": {"kind": "?"}}, "plans": {"p": {"kind": "base", "features": {"broken": 1}}}}"#,
        &[("$.features.broken.kind", "'?' is not one of: flag, config, quota, allocation, rate")],
    );
}

#[test]
fn values_of_flags() {
    check_value("sso", "1", "", "must be true or false, not a number");
    check_value("sso", r#""true""#, "", "must be true or false, not a string");
}

#[test]
fn values_of_config_features() {
    check_value(
        "support",
        r#""gold""#,
        "",
        "does not fit the feature's schema: the value is not one of \"community\", \"standard\" or \"premium\"",
    );
    check(
        r#"{"features": {"f": {"kind": "config", "schema": {"properties": {"days": {"type": "integer"}}}}},
            "plans": {"p": {"kind": "base", "features": {"f": {"days": "x"}}}}}"#,
        &[("$.plans.p.features.f", "does not fit the feature's schema: the value is not of type \"integer\" at /days")],
    );
    let long = "x".repeat(65_535);
    check(
        &format!(
            r#"{{"features": {{"f": {{"kind": "config"}}}}, "plans": {{"p": {{"kind": "base", "features": {{"f": "{long}"}}}}}}}}"#
        ),
        &[("$.plans.p.features.f", "a config value of more than 65536 bytes")],
    );
}

#[test]
fn values_of_metered_features() {
    for feature in ["minutes", "seats", "calls"] {
        for (value, path, fault) in [
            ("true", "", "must be a number or \"unlimited\", not a boolean"),
            (r#""infinite""#, "", "must be a number or \"unlimited\", not a string"),
            (r#""NaN""#, "", "must be a number or \"unlimited\", not a string"),
            ("-1", "", "-1 is negative"),
            ("1e18", "", "1e18 is not below 10^18"),
            ("0.0000000001", "", "0.0000000001 has more than nine fraction digits"),
            ("{}", "", "an amount is missing"),
            (r#"{"amount": null}"#, ".amount", "must be a number or \"unlimited\", not null"),
            (r#"{"amount": -1}"#, ".amount", "-1 is negative"),
            (r#"{"amount": 1, "per_unit": 1}"#, ".per_unit", "must be true or false, not a number"),
            (r#"{"amount": 1, "per_seat": true}"#, ".per_seat", "unknown member; nearest: per_unit"),
        ] {
            check_value(feature, value, path, fault);
        }
    }
}

#[test]
fn prices() {
    let check_price = |price: &str, path: &str, fault: &str| {
        check(&format!(r#"{{"prices": {{"stripe": {{"x": {price}}}}}}}"#), &[(&format!("$.prices.stripe.x{path}"), fault)]);
    };
    check_price("1", "", "must be an object, not a number");
    check_price("{}", "", "a price needs a plan");
    check_price(r#"{"plan": null}"#, ".plan", "must be a string, not null");
    check_price(r#"{"plan": "taem"}"#, ".plan", "there is no plan 'taem'; nearest: team");
    check_price(r#"{"plan": "team", "amount": 1}"#, ".amount", "unknown member");
    check_price(r#"{"plan": "team", "version": 0}"#, ".version", "0 is not an integer from 1 to 2147483647");
    check_price(r#"{"plan": "team", "version": 2}"#, ".version", "plan 'team' has no version 2, its latest is 1");
    check_price(r#"{"plan": "team", "quantity": 0}"#, ".quantity", "0 is not an integer from 1 to 2147483647");
    check_price(r#"{"plan": "team", "quantity": 1.5}"#, ".quantity", "1.5 is not an integer from 1 to 2147483647");
    check(r#"{"prices": {"stripe": 1}}"#, &[("$.prices.stripe", "must be an object, not a number")]);
    check(
        r#"{"prices": {"a b": {}, "stripe": {"": {"plan": "team"}, "a\tb": {"plan": "team"}}}}"#,
        &[
            ("$.prices['a b']", "the key of a connector contains ' '; a key has only ASCII letters, digits and _ . : -"),
            ("$.prices.stripe['']", "the id of a price is empty"),
            (r"$.prices.stripe['a\u0009b']", r"the id of a price contains the control character '\t'"),
        ],
    );
}

#[test]
fn limits() {
    let many = |count: usize, value: &Json| Json::object((0..count).map(|number| (format!("k{number}"), value.clone())));
    let flag = json(r#"{"kind": "flag"}"#);
    let base = json(r#"{"kind": "base"}"#);
    let price = json(r#"{"plan": "team"}"#);
    for (document, path, fault) in [
        (Json::object([("features", many(100_000, &flag))]), "$.features", "100000 features, more than 10000"),
        (
            Json::object([("features", many(10_000, &flag))]),
            "$.features",
            "10007 features with those there are, more than 10000",
        ),
        (Json::object([("plans", many(5_001, &base))]), "$.plans", "5001 plans, more than 5000"),
        (Json::object([("plans", many(5_000, &base))]), "$.plans", "5004 plans with those there are, more than 5000"),
        (
            Json::object([("prices", Json::object([("c", many(100_000, &price))]))]),
            "$.prices",
            "100001 prices with those there are, more than 100000",
        ),
    ] {
        assert_eq!(invalid(&present(), &document), [(path.to_string(), fault.to_string())]);
    }
}

#[test]
fn the_limit_of_feature_values_counts_what_is_inherited() {
    let features = Json::object((0..100).map(|number| (format!("f{number}"), json(r#"{"kind": "flag"}"#))));
    let values = Json::object((0..100).map(|number| (format!("f{number}"), Json::Bool(true))));
    let chain = (0..1_001).map(|number| {
        let plan = match number {
            0 => Json::object([("kind", Json::string("base")), ("features", values.clone())]),
            _ => json(&format!(r#"{{"kind": "base", "extends": "p{}"}}"#, number - 1)),
        };
        (format!("p{number}"), plan)
    });
    let document =
        |plans: Vec<(String, Json)>| Json::object([("features", features.clone()), ("plans", Json::object(plans))]);
    let plans: Vec<_> = chain.collect();
    assert!(plan_changes(&State::default(), &document(plans[..1_000].to_vec())).is_ok());
    assert_eq!(
        invalid(&State::default(), &document(plans)),
        [("$.plans".into(), "the plans together hold more than 100000 feature values, with what they inherit".into())]
    );
}

fn conflicts(document: &str) -> Vec<(String, String)> {
    match plan_changes(&present(), &json(document)) {
        Err(Error::Conflict(faults)) => faults.into_iter().map(|fault| (fault.path, fault.fault)).collect(),
        other => panic!("not refused as a conflict: {other:?}"),
    }
}

#[test]
fn what_published_plans_carry_stays_what_it_is() {
    assert_eq!(
        conflicts(r#"{"features": {"sso": {"kind": "quota"}, "minutes": {"combine": "sum"}}}"#),
        [
            (
                "$.features.sso.kind".into(),
                "published plans carry the feature, so its kind stays flag and cannot become quota".into()
            ),
            (
                "$.features.minutes.combine".into(),
                "published plans carry the feature, so its combine stays max_plus_addons and cannot become sum".into()
            ),
        ]
    );
    assert_eq!(
        conflicts(r#"{"plans": {"extra": {"kind": "base"}}}"#),
        [("$.plans.extra.kind".into(), "the plan is of kind addon, which cannot change".into())]
    );
}

#[test]
fn a_document_with_faults_and_conflicts_is_invalid() {
    check(
        r#"{"features": {"sso": {"kind": "quota"}}, "more": 1}"#,
        &[
            ("$.more", "unknown member"),
            ("$.features.sso.kind", "published plans carry the feature, so its kind stays flag and cannot become quota"),
        ],
    );
}

#[test]
fn a_stale_document_that_would_change_something_is_refused() {
    let state = present();
    let refused = plan_changes(&state, &json(r#"{"revision": 0, "features": {"new": {"kind": "flag"}}}"#));
    assert_eq!(refused, Err(Error::StaleRevision { document: 0, present: 1 }));
    assert_eq!(plan_changes(&state, &json(r#"{"revision": 0, "features": {"sso": {"kind": "flag"}}}"#)), Ok(Vec::new()));
    assert_eq!(
        plan_changes(&state, &json(r#"{"revision": 1, "features": {"new": {"kind": "flag"}}}"#))
            .map(|changes| changes.len()),
        Ok(1)
    );
}

#[test]
fn values_published_again_must_fit_the_schema_of_today() {
    let state = present();
    // Tightening the schema alone publishes nothing, so nothing has to fit it.
    let tightened = r#""support": {"schema": {"enum": ["standard", "premium"]}}"#;
    assert!(plan_changes(&state, &json(&format!(r#"{{"features": {{{tightened}}}}}"#))).is_ok());
    let document = json(&format!(r#"{{"features": {{{tightened}}}, "plans": {{"team": {{"rank": 11}}}}}}"#));
    let reason = "does not fit the feature's schema: the value is not one of \"standard\" or \"premium\"";
    assert_eq!(
        invalid(&state, &document),
        [("$.features.support.schema".into(), format!("the value of 'support' in plan 'team' {reason}"))]
    );
    let mut state = present();
    apply(&mut state, &format!(r#"{{"features": {{{tightened}}}}}"#));
    assert_eq!(
        invalid(&state, &json(r#"{"plans": {"team": {"rank": 11}}}"#)),
        [("$.plans.team".into(), format!("the value of 'support' in plan 'team' {reason}"))]
    );
}
