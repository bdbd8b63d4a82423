//! Bundles as documents: what is written is read back, and what is wrong is said where it is.

use entitlements_bundle::{
    Account, Bundle, Delegation, IntroducedKey, Mode, NumericDate, Override, OverrideValue, Subscription,
};
use entitlements_model::fault::Fault;
use entitlements_model::json::Json;
use entitlements_model::key::{AccountKey, FeatureKey, PlanKey};
use proptest::prelude::*;

use crate::vendor::{bundle, date, key};

fn parse(text: &str) -> Result<Bundle, Vec<Fault>> {
    Bundle::parse(text.as_bytes())
}

/// The bundle's text with one piece replaced.
fn with(piece: &str, other: &str) -> String {
    let text = bundle(1).to_json().to_string();
    assert_eq!(text.matches(piece).count(), 1, "{piece} in {text}");
    text.replace(piece, other)
}

#[test]
fn members_left_out_have_their_defaults() {
    let least = r#"{"iss":"v","aud":"d","iat":10,"exp":20,"seq":1,"accounts":{}}"#;
    let read = parse(least).unwrap();
    assert_eq!((read.not_before, read.grace, read.heartbeat, read.mode), (date(10), 0, None, Mode::Enforce));
    assert_eq!((read.previous, read.catalog.as_ref(), read.keys.len()), (None, None, 0));
    let nulls = least.replace(r#""seq""#, r#""prev":null,"heartbeat":null,"catalog":null,"keys":null,"seq""#);
    assert_eq!(parse(&nulls), Ok(read));
    let account = least.replace("{}}", r#"{"a":{"subscriptions":[{"plan":"p","starts_at":5,"ref":"r"}]}}}"#);
    let subscription = &parse(&account).unwrap().accounts["a"].subscriptions[0];
    assert_eq!((subscription.quantity, subscription.ends_at), (1, None));
}

#[test]
fn faults_are_named_with_their_place() {
    for (piece, other, fault) in [
        (r#""iss":"https://vendor.example","#, "", "$.iss: is missing"),
        (r#""iss":"https://vendor.example""#, r#""iss":"""#, "$.iss: is empty"),
        (r#""iss":"https://vendor.example""#, r#""iss":"a\nb""#, "$.iss: contains a control character"),
        (r#""aud":"site-7""#, r#""aud":["site-7"]"#, "$.aud: must be a string, not an array"),
        (r#""aud":"site-7""#, r#""aud":"site-7","jti":"1""#, "$.jti: unknown member; known are iss, aud"),
        (r#""seq":1,"#, "", "$.seq: is missing"),
        (r#""seq":1,"#, r#""seq":0,"#, "$.seq: 0 is not an integer from 1 to 9007199254740991"),
        (r#""seq":1,"#, r#""seq":9007199254740992,"#, "$.seq: 9007199254740992 is not an integer"),
        (r#""seq":1,"#, r#""seq":1.0,"#, "$.seq: 1.0 is not an integer"),
        (r#""seq":1,"#, r#""seq":"1","#, "$.seq: must be an integer, not a string"),
        (r#""seq":1,"#, r#""seq":1,"seq":2,"#, "$.seq: the key appears more than once"),
        (r#""iat":1700000000"#, r#""iat":1700000000.5"#, "$.iat: 1700000000.5 is not an integer"),
        (r#""iat":1700000000"#, r#""iat":1.7e9"#, "$.iat: 1.7e9 is not an integer"),
        (r#""iat":1700000000"#, r#""iat":-1"#, "$.iat: -1 is not an integer"),
        (r#""iat":1700000000"#, r#""iat":253402300800"#, "$.iat: 253402300800 is not an integer"),
        (r#""iat":1700000000"#, r#""iat":"2023-11-14""#, "$.iat: must be an integer, not a string"),
        (r#""exp":1702592000"#, r#""exp":1700000000"#, "$.exp: is not after iat and nbf"),
        (r#""nbf":1700000000"#, r#""nbf":1702592000"#, "$.exp: is not after iat and nbf"),
        (r#""seq":1,"#, r#""seq":1,"prev":"AAAA","#, "$.prev: 'AAAA' is not a SHA-256 value"),
        (r#""grace":1209600"#, r#""grace":-1"#, "$.grace: -1 is not an integer from 0"),
        (r#""heartbeat":604800"#, r#""heartbeat":0"#, "$.heartbeat: 0 is not an integer from 1"),
        (r#""mode":"enforce""#, r#""mode":"warn""#, "$.mode: 'warn' is not one of: enforce, advise"),
        (r#""catalog":{"#, r#""catalog":{"limits":{},"#, "$.catalog.limits: unknown member"),
        (r#""kind":"flag""#, r#""kind":"flags""#, "$.catalog.features.sso.kind: 'flags' is not one of: flag"),
        (r#""kind":"base""#, r#""kind":"quota""#, "$.catalog.plans.team.kind: 'quota' is not one of: base"),
        (r#"{"team":"#, r#"{"the team":"#, "$.catalog.plans['the team']: the key of a plan contains ' '"),
        (r#""acme":{"#, r#""":{"#, "$.accounts['']: the key of an account is empty"),
        (r#""acme":{"#, r#""acme":{"credits":[],"#, "$.accounts.acme.credits: unknown member"),
        (r#""plan":"team","#, "", "$.accounts.acme.subscriptions[0].plan: is missing"),
        (r#""plan":"team""#, r#""plan":"-""#, "$.accounts.acme.subscriptions[0].plan: '-' starts with '-'"),
        (r#""quantity":25"#, r#""quantity":0"#, "$.accounts.acme.subscriptions[0].quantity: 0 is not an integer"),
        (r#""quantity":25"#, r#""quantity":2147483648"#, "$.accounts.acme.subscriptions[0].quantity: 2147483648 is"),
        (r#""ends_at":1731536000"#, r#""ends_at":1699999999"#, "$.accounts.acme.subscriptions[0].ends_at: is before"),
        (r#","ref":"so-17""#, "", "$.accounts.acme.subscriptions[0].ref: is missing"),
        (
            r#""subscriptions":["#,
            r#""subscriptions":[{"plan":"free","starts_at":0,"ref":"so-17"},"#,
            "$.accounts.acme.subscriptions[1].ref: 'so-17' appears more than once",
        ),
        (r#""feature":"seats""#, r#""feature":"sso""#, "$.accounts.acme.overrides[1].value: nothing can be added to a flag"),
        (r#""value":true"#, r#""value":"yes""#, "$.accounts.acme.overrides[0].value: is no value of a flag: must be true"),
        (r#""value":true"#, r#""value":null"#, "$.accounts.acme.overrides[0].value: must be a value, not null"),
        (r#""value":2.5"#, r#""value":-2.5"#, "$.accounts.acme.overrides[1].value: -2.5 is negative"),
        (r#""value":2.5"#, r#""value":1e18"#, "$.accounts.acme.overrides[1].value: 1e18 is not below"),
        (r#""value":2.5"#, r#""value":"2""#, "$.accounts.acme.overrides[1].value: must be a number"),
        (r#""mode":"add""#, r#""mode":"deny""#, "$.accounts.acme.overrides[1].value: a denial has no value"),
        (r#""mode":"add","value":2.5"#, r#""mode":"add""#, "$.accounts.acme.overrides[1].value: is missing"),
        (r#""reason":"goodwill""#, r#""reason":"""#, "$.accounts.acme.overrides[1].reason: is empty"),
        (r#""accounts":{"#, r#""keys":{},"accounts":{"#, "$.keys: must be an array, not an object"),
        (r#""accounts":{"#, r#""keys":[{"kid":"x"}],"accounts":{"#, "$.keys[0].kid: unknown member"),
    ] {
        let text = with(piece, other);
        let faults = parse(&text).expect_err(&text);
        assert!(faults[0].to_string().starts_with(fault), "{} instead of {fault}", faults[0]);
    }
}

#[test]
fn one_pass_finds_every_fault() {
    let text = r#"{"iss":1,"aud":"d","iat":"x","seq":1,"accounts":{"a":{"overrides":[{"feature":"f"}]}},"x":0}"#;
    let faults = parse(text).unwrap_err();
    let paths: Vec<&str> = faults.iter().map(|fault| fault.path.as_str()).collect();
    let overrides = "$.accounts.a.overrides[0]";
    assert_eq!(paths, ["$.x", "$.iss", "$.iat", "$.exp", &format!("{overrides}.mode"), &format!("{overrides}.reason")]);
}

#[test]
fn an_override_of_a_feature_appears_once() {
    let text = with(r#""overrides":["#, r#""overrides":[{"feature":"sso","mode":"deny","reason":"r"},"#);
    let faults = parse(&text).unwrap_err();
    assert_eq!(faults[0].to_string(), "$.accounts.acme.overrides[1].feature: 'sso' appears more than once");
}

#[test]
fn a_delegation_is_numbered_and_of_something() {
    let delegations = |json: &str| parse(&with(r#""overrides":["#, &format!(r#""delegations":{json},"overrides":["#)));
    let fault = |json: &str| delegations(json).unwrap_err()[0].to_string();
    let one = r#"{"id":7,"feature":"seats","amount":5,"ends_at":1800000000}"#;
    assert_eq!(delegations(&format!("[{one}]")).unwrap().accounts.values().next().unwrap().delegations[0].id, 7);
    let path = "$.accounts.acme.delegations";
    assert_eq!(fault(&format!("[{one},{one}]")), format!("{path}[1].id: appears more than once"));
    assert_eq!(fault(&format!("[{}]", one.replace(":5", ":0"))), format!("{path}[0].amount: is zero"));
    assert!(fault(&format!("[{}]", one.replace(":7", ":0"))).starts_with(&format!("{path}[0].id: ")));
    // An id is one delegation, whosever it is.
    let accounts = |other: &str| format!(r#""accounts":{{"a-first":{{"delegations":[{other}]}},"#);
    let both = |other: &str| {
        let first = with(r#""overrides":["#, &format!(r#""delegations":[{one}],"overrides":["#));
        parse(&first.replacen(r#""accounts":{"#, &accounts(other), 1))
    };
    assert!(both(&one.replace(":7", ":8")).is_ok());
    assert_eq!(both(one).unwrap_err()[0].to_string(), format!("{path}[0].id: is one of account 'a-first' too"));
}

#[test]
fn introduced_keys_are_public_and_named_once() {
    let keys = |json: String| parse(&with(r#""accounts":{"#, &format!(r#""keys":{json},"accounts":{{"#)));
    let fault = |json: String| keys(json).unwrap_err()[0].to_string();
    let jwk = key(2).public().to_jwk();
    assert_eq!(keys(format!(r#"[{{"jwk":{jwk}}}]"#)).unwrap().keys[0].key, *key(2).public());
    let private = key(2).to_jwk();
    assert!(fault(format!(r#"[{{"jwk":{}}}]"#, *private)).starts_with("$.keys[0].jwk.d: this is the private part"));
    assert!(fault(format!(r#"[{{"jwk":{jwk}}},{{"jwk":{jwk}}}]"#)).starts_with("$.keys[1]: the key"));
    assert_eq!(fault(format!(r#"[{{"jwk":{jwk},"nbf":9,"exp":9}}]"#)), "$.keys[0].exp: is not after nbf");
    let many: Vec<String> = (0..17).map(|seed| format!(r#"{{"jwk":{}}}"#, key(seed).public().to_jwk())).collect();
    assert_eq!(fault(format!("[{}]", many.join(","))), "$.keys: more than 16 keys");
}

fn any_date() -> impl Strategy<Value = NumericDate> {
    (0..=NumericDate::LAST.seconds()).prop_map(date)
}

fn any_value() -> impl Strategy<Value = OverrideValue> {
    prop_oneof![
        Just(OverrideValue::Deny),
        (0u64..1_000_000_000_000).prop_map(|billionths| {
            let text = format!("{}.{:09}", billionths / 1_000_000_000, billionths % 1_000_000_000);
            OverrideValue::Add(text.parse().unwrap())
        }),
        any::<bool>().prop_map(|flag| OverrideValue::Set(Json::Bool(flag))),
        "[^\0]{0,5}".prop_map(|text| OverrideValue::Set(Json::object([(text.clone(), Json::string(text))]))),
    ]
}

fn any_account() -> impl Strategy<Value = Account> {
    let subscription = ("[a-z]{1,5}", 1i32.., any_date(), prop::option::of(0i64..1_000_000_000));
    let exception = (any_value(), "\\PC{1,9}", prop::option::of(any_date()));
    let subscriptions = prop::collection::btree_map("[^\\p{C}]{1,5}", subscription, 0..3);
    let overrides = prop::collection::btree_map("[a-z]{1,3}", exception, 0..3);
    let delegations = prop::collection::btree_map(1i64..1 << 53, ("[a-z]{1,3}", 1u32.., any_date()), 0..3);
    (subscriptions, overrides, delegations).prop_map(|(subscriptions, overrides, delegations)| Account {
        subscriptions: subscriptions
            .into_iter()
            .map(|(reference, (plan, quantity, starts_at, length))| Subscription {
                reference,
                plan: PlanKey::parse(&plan).unwrap(),
                quantity,
                starts_at,
                ends_at: length.and_then(|length| NumericDate::from_seconds(starts_at.seconds() + length)),
            })
            .collect(),
        overrides: overrides
            .into_iter()
            .map(|(feature, (value, reason, expires_at))| Override {
                feature: FeatureKey::parse(&feature).unwrap(),
                value,
                reason,
                expires_at,
            })
            .collect(),
        delegations: delegations
            .into_iter()
            .map(|(id, (feature, amount, ends_at))| Delegation {
                id,
                feature: FeatureKey::parse(&feature).unwrap(),
                amount: amount.to_string().parse().unwrap(),
                ends_at,
            })
            .collect(),
    })
}

prop_compose! {
    fn any_bundle()(
        accounts in prop::collection::btree_map("[^\\p{C}]{1,6}", any_account(), 0..4),
        names in ("[^\\p{C}]{1,9}", "[^\\p{C}]{1,9}"),
        (issued, later, expires) in (0i64..1_000_000_000, 0i64..1_000_000, 1_000_001i64..1_000_000_000),
        (sequence, grace, heartbeat) in (1i64..1 << 53, 0i64..=315_360_000, prop::option::of(1i64..=315_360_000)),
        advise in any::<bool>(),
        seeds in prop::collection::btree_map(any::<u8>(), prop::option::of(1i64..1_000_000), 0..3),
        revoked in prop::collection::btree_set("[^\\p{C}]{1,9}", 0..3),
    ) -> Bundle {
        let introduced = |(seed, start): (u8, Option<i64>)| IntroducedKey {
            key: key(seed).public().clone(),
            not_before: start.map(date),
            not_after: start.map(|start| date(start + 1)),
        };
        Bundle {
            issuer: names.0,
            audience: names.1,
            issued_at: date(issued),
            not_before: date(issued + later),
            expires: date(issued + expires),
            sequence,
            previous: None,
            grace,
            heartbeat,
            mode: if advise { Mode::Advise } else { Mode::Enforce },
            catalog: advise.then(|| Json::object([("plans", Json::object::<&str>([]))])),
            accounts: accounts.into_iter().map(|(key, account)| (AccountKey::parse(&key).unwrap(), account)).collect(),
            keys: seeds.into_iter().map(introduced).collect(),
            revoked,
        }
    }
}

#[test]
fn a_revocation_list_names_each_licence_once() {
    let with = |list: &str| with(r#""seq":1,"#, &format!(r#""seq":1,"revoked":{list},"#));
    let read = parse(&with(r#"["b","a"]"#)).unwrap();
    assert_eq!(read.revoked.iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(parse(&with("null")), Ok(bundle(1)));
    assert_eq!(parse(&with("[]")), Ok(bundle(1)));
    assert!(
        !bundle(1).to_json().to_string().contains("revoked"),
        "what older readers would refuse is written only where needed"
    );
    let many = format!("[{}\"x\"]", (0..100_000).map(|id| format!("\"{id}\",")).collect::<String>());
    for (list, fault) in [
        (r#"{"a":1}"#, "$.revoked: must be an array, not an object"),
        (r#"["a","b","a"]"#, "$.revoked[2]: the licence appears more than once"),
        (r#"["a",1]"#, "$.revoked[1]: must be a string, not a number"),
        (r#"[""]"#, "$.revoked[0]: is empty"),
        (&many, "$.revoked: more than 100000 licences"),
    ] {
        assert_eq!(parse(&with(list)).unwrap_err()[0].to_string(), fault);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn round_trip(bundle in any_bundle()) {
        prop_assert_eq!(parse(&bundle.to_json().to_string()), Ok(bundle));
    }
}
