//! Signed bundles from outside: what an import makes of them, what is refused, how they are enforced, and how two databases
//! that never meet keep in step.

use ed25519_dalek::Signer;
use entitlements_bundle::{
    BUNDLE_TYPE, Clock, Jws, Licence, NumericDate, Place, PrivateKey, Purpose, TrustSet, TrustedKey, authenticate_as,
    judge_licence,
};
use entitlements_client_tests::{Database, one, refused_with};
use hmac::{Hmac, Mac};
use postgres::Client;
use serde_json::{Value, json};
use sha2::Sha256;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

const VENDOR: &str = "https://vendor.example";
const DAY: i64 = 86_400;
const SITE: &str = "site-7";

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs() as i64
}

/// When what is bought ends: a year after today, the same for all bundles of a test.
fn next_year() -> i64 {
    now() / DAY * DAY + 366 * DAY
}

fn key(number: u8) -> PrivateKey {
    PrivateKey::from_seed(&[number; 32])
}

/// The catalog of the vendor.
fn catalog() -> Value {
    json!({
        "features": {
            "sso": {"kind": "flag"},
            "export": {"kind": "flag"},
            "support": {"kind": "config", "schema": {"enum": ["community", "standard", "premium"]}},
            "calls": {"kind": "quota", "unit": "call", "period": "1 month"},
            "seats": {"kind": "allocation", "unit": "seat"}
        },
        "plans": {
            "free": {"kind": "base", "features": {"sso": false, "support": "community", "calls": 10, "seats": 1}},
            "team": {"kind": "base", "extends": "free", "rank": 10,
                     "features": {"sso": true, "export": true, "support": "standard", "calls": 1000, "seats": {"amount": 1, "per_unit": true}}}
        }
    })
}

/// What the vendor states, valid for a day.
struct Claims(Value);

impl Claims {
    fn new(sequence: i64) -> Self {
        let now = now();
        Self(json!({
            "iss": VENDOR, "aud": SITE, "iat": now - 60, "exp": now + 86_400, "seq": sequence, "catalog": catalog(),
            "accounts": {"acme": {
                "subscriptions": [{"ref": "so-17", "plan": "team", "quantity": 25, "starts_at": 1_700_000_000, "ends_at": next_year()}],
                "overrides": [
                    {"feature": "support", "mode": "set", "value": "premium", "reason": "pilot"},
                    {"feature": "seats", "mode": "add", "value": 5, "reason": "goodwill"}
                ]
            }}
        }))
    }

    fn with(mut self, claim: &str, value: Value) -> Self {
        self.0[claim] = value;
        self
    }

    fn without(mut self, claim: &str) -> Self {
        self.0.as_object_mut().expect("claims are an object").remove(claim);
        self
    }

    fn signed(&self, key: &PrivateKey) -> String {
        sign(self.0.to_string().as_bytes(), key)
    }
}

fn sign(payload: &[u8], key: &PrivateKey) -> String {
    Jws::sign(payload, BUNDLE_TYPE, key)
}

fn trust(client: &mut Client, key: &PrivateKey, issuer: &str) {
    let jwk: Value = serde_json::from_str(&key.public().to_jwk().to_string()).expect("it is JSON");
    client.execute("SELECT entitlements.trust_key($1, $2)", &[&jwk, &issuer]).expect("the key is trusted");
}

fn distrust(client: &mut Client, key: &PrivateKey, rows: &str) {
    let kid = key.public().kid().to_string();
    client.execute("SELECT entitlements.distrust_key($1, 'it was copied', $2)", &[&kid, &rows]).expect("it is distrusted");
}

/// A site that trusts the vendor's first key.
fn site() -> (Database, Client) {
    let database = Database::new();
    let mut client = database.connect();
    client.execute("SELECT entitlements.set_deployment($1)", &[&SITE]).expect("the site has a name");
    trust(&mut client, &key(1), VENDOR);
    (database, client)
}

type Change = (String, String, Option<String>, Option<String>, Value);

fn import(client: &mut Client, document: &str) -> Vec<Change> {
    changes(client, document, false)
}

fn changes(client: &mut Client, document: &str, dry_run: bool) -> Vec<Change> {
    let rows = client
        .query(
            "SELECT action, object, account, key, detail FROM entitlements.import_bundle($1::text, $2)",
            &[&document, &dry_run],
        )
        .unwrap_or_else(|error| panic!("{:?}", error.as_db_error()));
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))).collect()
}

/// Action, object and key of each change.
fn short(changes: &[Change]) -> Vec<String> {
    let short = |(action, object, account, key, _): &Change| {
        format!(
            "{action} {object} {}",
            [account.as_deref(), key.as_deref()].into_iter().flatten().collect::<Vec<_>>().join("/")
        )
    };
    changes.iter().map(short).collect()
}

/// Everything that is stored, table by table, but for what says when and where this was asked.
fn state(client: &mut Client) -> BTreeMap<String, String> {
    let tables: Vec<String> = client
        .query("SELECT relname::text FROM pg_class WHERE relnamespace = 'entitlements'::regnamespace AND relkind = 'r'", &[])
        .expect("tables can be listed")
        .iter()
        .map(|row| row.get(0))
        .collect();
    let content = |table: String| {
        let sql =
            format!("SELECT coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '') FROM entitlements.{table} AS t");
        let content = one(client, &sql, &[]);
        (table, content)
    };
    tables.into_iter().map(content).collect()
}

/// Asserts that a document is refused for this reason and changes nothing, as text and as bytes, by import and by dry run.
#[track_caller]
fn refused_for(client: &mut Client, reason: &str, document: &str) -> Value {
    let before = state(client);
    let mut detail = Value::Null;
    let bytes = document.as_bytes();
    for (as_bytes, dry_run) in [(true, true), (false, true), (true, false), (false, false)] {
        let error = match as_bytes {
            true => refused_with(client, "NE013", "SELECT entitlements.import_bundle($1::bytea, $2)", &[&bytes, &dry_run]),
            false => {
                refused_with(client, "NE013", "SELECT entitlements.import_bundle($1::text, $2)", &[&document, &dry_run])
            }
        };
        detail = serde_json::from_str(error.detail().expect("a refusal has a detail")).expect("it is JSON");
        assert_eq!(detail["reason"], reason, "{error:?}");
        assert!(error.hint().is_some());
    }
    assert!(state(client) == before, "a refused bundle left a trace");
    detail
}

fn entitled(client: &mut Client, account: &str, feature: &str) -> bool {
    one(client, "SELECT entitlements.entitled($1::text, $2)", &[&account, &feature])
}

fn reason(client: &mut Client, account: &str, feature: &str) -> String {
    one(client, "SELECT reason FROM entitlements.check_access($1::text, $2)", &[&account, &feature])
}

fn allowance(client: &mut Client, account: &str, feature: &str) -> String {
    one(client, "SELECT coalesce(entitlements.allowance($1::text, $2)::text, 'unlimited')", &[&account, &feature])
}

fn audit_is_sound(client: &mut Client) {
    assert_eq!(one::<i64>(client, "SELECT count(*) FROM entitlements.verify_audit()", &[]), 0);
}

#[test]
fn a_bundle_brings_catalog_accounts_subscriptions_and_overrides() {
    let (_database, mut client) = site();
    let document = Claims::new(1).signed(&key(1));
    let planned = changes(&mut client, &document, true);
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.bundles", &[]), 0, "a dry run writes nothing");
    let made = import(&mut client, &document);
    assert_eq!(short(&planned), short(&made));
    let of_accounts: Vec<String> = short(&made).into_iter().filter(|change| change.contains("acme")).collect();
    assert_eq!(
        of_accounts,
        ["added account acme", "added subscription acme/so-17", "added override acme/support", "added override acme/seats"]
    );
    assert!(entitled(&mut client, "acme", "sso"));
    assert_eq!(allowance(&mut client, "acme", "seats"), "30");
    assert_eq!(one::<Value>(&mut client, "SELECT entitlements.value_of('acme', 'support')", &[]), json!("premium"));
    assert_eq!(import(&mut client, &document), [], "the bundle in force, once more");
    assert_eq!(import(&mut client, &Claims::new(2).signed(&key(1))), [], "another bundle with the same content");
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.bundles WHERE document IS NOT NULL", &[]), 1);
    let entries = "SELECT count(*) FROM entitlements.audit_log WHERE action = 'import' AND chain_id <> 0";
    assert_eq!(one::<i64>(&mut client, entries, &[]), 1, "what does not change has no entry");
    audit_is_sound(&mut client);
}

#[test]
fn a_dry_run_lists_what_the_import_then_does() {
    let (_database, mut client) = site();
    let jwk = |number| -> Value { serde_json::from_str(&key(number).public().to_jwk().to_string()).unwrap() };
    let lease = now() + DAY;
    let seats = |id: i64| json!({"id": id, "feature": "seats", "amount": 3, "ends_at": lease});
    let mut grown = catalog();
    grown["features"]["storage"] = json!({"kind": "quota", "period": "1 month"});
    grown["plans"]["team"]["features"]["calls"] = json!(5000);
    grown["plans"]["large"] = json!({"kind": "base", "extends": "team", "rank": 20, "features": {"storage": 10}});
    let mut first = Claims::new(1).with("revoked", json!(["l-2", "l-1"]));
    first.0["accounts"]["acme"]["delegations"] =
        json!([seats(1), {"id": 2, "feature": "calls", "amount": 0.5, "ends_at": lease}]);
    let accounts = json!({
        "acme": {
            "subscriptions": [{"ref": "so-17", "plan": "team", "quantity": 5, "starts_at": 1_700_000_000},
                              {"ref": "so-18", "plan": "large", "starts_at": now() + DAY}],
            "overrides": [{"feature": "storage", "mode": "add", "value": 1, "reason": "new"}],
            "delegations": [seats(1), seats(3), {"id": 4, "feature": "storage", "amount": 7, "ends_at": lease},
                            {"id": 5, "feature": "seats", "amount": 1, "ends_at": now() - 5}]
        },
        "globex": {"delegations": [seats(6)]}
    });
    let second = Claims::new(2)
        .with("catalog", grown)
        .with("accounts", accounts)
        .with("keys", json!([{"jwk": jwk(2)}, {"jwk": jwk(3), "exp": now() + 50 * DAY}]))
        .with("revoked", json!(["l-1", "l-3"]));
    let third = Claims::new(3).with("accounts", json!({"globex": {}}));
    let mut listed = Vec::new();
    for claims in [first, second, third] {
        let document = claims.signed(&key(1));
        let before = state(&mut client);
        let planned = changes(&mut client, &document, true);
        assert!(state(&mut client) == before, "a dry run left a trace");
        assert_eq!(planned, import(&mut client, &document));
        assert_eq!(changes(&mut client, &document, true), []);
        assert!(!one::<bool>(&mut client, "SELECT tampered FROM entitlements.bundle_status()", &[]));
        listed.push(planned);
    }
    let of = |listed: &[Change], object: &str| {
        short(listed).into_iter().filter(|change| change.split(' ').nth(1) == Some(object)).collect::<Vec<String>>()
    };
    assert_eq!(of(&listed[0], "delegation"), ["added delegation acme/1", "added delegation acme/2"]);
    assert_eq!(of(&listed[0], "revocation"), ["added revocation l-1", "added revocation l-2"]);
    assert_eq!(
        of(&listed[1], "delegation"),
        ["added delegation acme/3", "added delegation acme/4", "added delegation globex/6"],
        "what is here is not listed again, nor what is over"
    );
    assert_eq!(of(&listed[1], "revocation"), ["added revocation l-3", "ended revocation l-2"]);
    assert_eq!(of(&listed[1], "key").len(), 2);
    assert!(short(&listed[1]).contains(&"create plan large".to_owned()), "{:?}", short(&listed[1]));
    assert_eq!(of(&listed[2], "revocation"), ["ended revocation l-1", "ended revocation l-3"]);
    assert_eq!(of(&listed[2], "delegation"), Vec::<String>::new(), "a lease ends by its time");
    let subscription = listed[1].iter().find(|change| change.3.as_deref() == Some("so-17")).unwrap();
    assert_eq!((&subscription.4["from"]["version"], &subscription.4["to"]["version"]), (&json!(1), &json!(2)));
    assert_eq!(listed[1].iter().find(|change| change.3.as_deref() == Some("4")).unwrap().4["amount"], json!("7"));
    audit_is_sound(&mut client);
}

#[test]
fn an_import_changes_only_what_its_issuer_granted() {
    let (_database, mut client) = site();
    import(&mut client, &Claims::new(1).signed(&key(1)));
    client
        .batch_execute(
            "SELECT entitlements.subscribe('acme', 'free', source_ref => 'so-17');
             SELECT entitlements.subscribe('local', 'team');
             SELECT entitlements.set_override('acme', 'calls', 'add', '50', 'for a test');
             SELECT entitlements.set_override('acme', 'export', 'deny', NULL, 'not allowed here');
             SELECT entitlements.block('acme', 'fraud', 'looks odd', 'sso');",
        )
        .expect("the site has rows of its own");
    let rows = "SELECT count(*) FROM entitlements.subscriptions WHERE source = 'manual' AND superseded_at IS NULL AND ends_at = 'infinity'";
    assert_eq!(one::<i64>(&mut client, rows, &[]), 2);

    let accounts = json!({"acme": {
        "subscriptions": [{"ref": "so-17", "plan": "team", "quantity": 10, "starts_at": 1_700_000_000, "ends_at": next_year()}],
        "overrides": [{"feature": "support", "mode": "set", "value": "standard", "reason": "pilot is over"}]
    }, "globex": {}});
    let made = import(&mut client, &Claims::new(2).with("accounts", accounts).signed(&key(1)));
    assert_eq!(
        short(&made),
        [
            "changed subscription acme/so-17",
            "ended override acme/seats",
            "changed override acme/support",
            "added account globex"
        ]
    );
    assert_eq!((&made[0].4["from"]["quantity"], &made[0].4["to"]["quantity"]), (&json!(25), &json!(10)));
    assert_eq!(one::<i64>(&mut client, rows, &[]), 2);
    assert_eq!(allowance(&mut client, "acme", "seats"), "10");
    assert_eq!(allowance(&mut client, "acme", "calls"), "1050");
    assert_eq!(reason(&mut client, "acme", "export"), "override_denied");
    assert_eq!(reason(&mut client, "acme", "sso"), "blocked");
    // The past stays what it was.
    let past = "SELECT string_agg(quantity::text, ',' ORDER BY starts_at) FROM entitlements.subscriptions
                 WHERE source LIKE 'bundle:%' AND superseded_at IS NULL";
    assert_eq!(one::<String>(&mut client, past, &[]), "25,10");

    let made = import(&mut client, &Claims::new(3).with("accounts", json!({})).signed(&key(1)));
    assert_eq!(short(&made), ["ended subscription acme/so-17", "ended override acme/support"]);
    assert_eq!(allowance(&mut client, "acme", "seats"), "1", "the site's own subscription stays");
    assert_eq!(import(&mut client, &Claims::new(4).with("accounts", json!({})).signed(&key(1))), []);

    let made = import(&mut client, &Claims::new(5).signed(&key(1)));
    assert_eq!(
        short(&made),
        ["changed subscription acme/so-17", "added override acme/support", "added override acme/seats"]
    );
    let ids = "SELECT count(DISTINCT id) FROM entitlements.subscriptions WHERE source LIKE 'bundle:%'";
    assert_eq!(one::<i64>(&mut client, ids, &[]), 1, "a ref is one subscription, also after a pause");
    assert_eq!(allowance(&mut client, "acme", "seats"), "30");
    audit_is_sound(&mut client);
}

#[test]
fn issuers_do_not_touch_each_other() {
    let (_database, mut client) = site();
    trust(&mut client, &key(2), "https://other.example");
    import(&mut client, &Claims::new(1).signed(&key(1)));
    let other = |sequence| Claims::new(sequence).with("iss", json!("https://other.example")).without("catalog");
    import(&mut client, &other(9).signed(&key(2)));
    assert_eq!(allowance(&mut client, "acme", "seats"), "35", "the greater base plan, and both amounts that are added");
    import(&mut client, &other(10).with("accounts", json!({})).signed(&key(2)));
    assert_eq!(allowance(&mut client, "acme", "seats"), "30");
    refused_for(&mut client, "other_issuer", &Claims::new(2).signed(&key(2)));
    audit_is_sound(&mut client);
}

#[test]
fn a_plan_that_the_bundle_changes_reaches_its_subscriptions() {
    let (_database, mut client) = site();
    import(&mut client, &Claims::new(1).signed(&key(1)));
    let mut changed = catalog();
    changed["plans"]["team"]["features"]["calls"] = json!(5000);
    let bundle = Claims::new(2).with("catalog", changed);
    let planned = changes(&mut client, &bundle.signed(&key(1)), true);
    let made = import(&mut client, &bundle.signed(&key(1)));
    assert_eq!(short(&planned), short(&made));
    assert_eq!(short(&made), ["publish plan team", "changed subscription acme/so-17"]);
    assert_eq!(allowance(&mut client, "acme", "calls"), "5000");
}

#[test]
fn what_the_catalog_does_not_allow_is_refused_with_its_place() {
    let (_database, mut client) = site();
    import(&mut client, &Claims::new(1).signed(&key(1)));
    let accounts = json!({"acme": {
        "subscriptions": [{"ref": "1", "plan": "gold", "starts_at": 0}],
        "overrides": [
            {"feature": "nothing", "mode": "deny", "reason": "-"},
            {"feature": "support", "mode": "set", "value": "gold", "reason": "-"},
            {"feature": "sso", "mode": "add", "value": 1, "reason": "-"},
            {"feature": "calls", "mode": "set", "value": true, "reason": "-"}
        ],
        "delegations": [
            {"id": 1, "feature": "nothing", "amount": 1, "ends_at": now() + DAY},
            {"id": 2, "feature": "support", "amount": 1, "ends_at": now() + DAY}
        ]
    }, "erased:1": {}});
    let detail =
        refused_for(&mut client, "invalid", &Claims::new(2).without("catalog").with("accounts", accounts).signed(&key(1)));
    let paths: Vec<&str> =
        detail["faults"].as_array().unwrap().iter().map(|fault| fault["path"].as_str().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "$.accounts.acme.delegations[0].feature",
            "$.accounts.acme.delegations[1].feature",
            "$.accounts.acme.subscriptions[0].plan",
            "$.accounts.acme.overrides[0].feature",
            "$.accounts.acme.overrides[1].value",
            "$.accounts.acme.overrides[2].value",
            "$.accounts.acme.overrides[3].value",
            "$.accounts['erased:1']"
        ]
    );
    let of_catalog = |catalog: Value| Claims::new(2).with("catalog", catalog).signed(&key(1));
    let detail = refused_for(
        &mut client,
        "invalid",
        &of_catalog(json!({"plans": {"x": {"kind": "base", "features": {"nothing": true}}}})),
    );
    assert!(detail["faults"][0]["path"].as_str().unwrap().starts_with("$.catalog.plans.x"), "{detail}");
    refused_for(&mut client, "catalog_conflict", &of_catalog(json!({"features": {"sso": {"kind": "quota"}}})));
}

/// Lets the bundles in force age by so many seconds, as if they had been accepted earlier.
fn age(client: &mut Client, seconds: i64) {
    client
        .execute(
            "UPDATE entitlements.bundles
                SET issued_at = issued_at - $1 * '1 s'::interval, expires_at = expires_at - $1 * '1 s'::interval,
                    grace_ends_at = grace_ends_at - $1 * '1 s'::interval, heartbeat_due_at = heartbeat_due_at - $1 * '1 s'::interval,
                    accepted_at = accepted_at - $1 * '1 s'::interval
              WHERE superseded_at IS NULL",
            &[&(seconds as f64)],
        )
        .expect("a superuser may do anything");
}

/// As if the clock had been set back: what was seen lies ahead.
fn see(client: &mut Client, seconds_ahead: i64) {
    client
        .execute(
            "UPDATE entitlements.deployment SET highest_seen = now() + $1 * '1 s'::interval",
            &[&(seconds_ahead as f64)],
        )
        .expect("a superuser may do anything");
}

fn findings(client: &mut Client) -> Vec<String> {
    let rows = client.query("SELECT severity || ' ' || finding || ' ' || object FROM entitlements.doctor()", &[]);
    rows.expect("doctor answers").iter().map(|row| row.get(0)).collect()
}

#[test]
fn what_an_expired_bundle_granted_does_not_count() {
    let (_database, mut client) = site();
    let mut bundle = Claims::new(1).with("grace", json!(DAY)).with("heartbeat", json!(3600));
    bundle.0["accounts"]["acme"]["overrides"]
        .as_array_mut()
        .unwrap()
        .push(json!({"feature": "export", "mode": "deny", "reason": "no"}));
    import(&mut client, &bundle.signed(&key(1)));
    client.batch_execute("SELECT entitlements.subscribe('globex', 'team', quantity => 3)").expect("globex is local");
    // An open session that remembers its answers.
    let ask = |client: &mut Client| (entitled(client, "acme", "sso"), entitled(client, "globex", "sso"));
    let phase = |client: &mut Client| {
        one::<String>(client, "SELECT phase || ' ' || denies FROM entitlements.bundle_status(false)", &[])
    };
    assert_eq!((ask(&mut client), phase(&mut client)), ((true, true), "fresh false".into()));
    assert_eq!(findings(&mut client), Vec::<String>::new());
    age(&mut client, 3600);
    assert_eq!((ask(&mut client), phase(&mut client)), ((true, true), "stale false".into()));
    assert_eq!(findings(&mut client)[0], format!("warning bundle_stale {VENDOR}"));
    age(&mut client, DAY - 3600);
    assert_eq!((ask(&mut client), phase(&mut client)), ((true, true), "grace false".into()));
    assert_eq!(findings(&mut client)[0], format!("warning bundle_in_grace {VENDOR}"));
    age(&mut client, DAY);
    assert_eq!((ask(&mut client), phase(&mut client)), ((false, true), "expired true".into()));
    assert_eq!(findings(&mut client)[0], format!("error bundle_expired {VENDOR}"));
    assert_eq!(reason(&mut client, "acme", "sso"), "bundle_stale");
    assert_eq!(reason(&mut client, "acme", "seats"), "bundle_stale");
    assert_eq!(reason(&mut client, "acme", "support"), "bundle_stale");
    assert_eq!(reason(&mut client, "acme", "export"), "override_denied", "what it denies stays denied");
    assert_eq!(allowance(&mut client, "acme", "seats"), "0");
    assert_eq!(allowance(&mut client, "globex", "seats"), "3");
    let error = refused_with(&mut client, "NE001", "SELECT entitlements.consume('acme', 'calls')", &[]);
    assert!(error.detail().unwrap().contains(r#""reason":"bundle_stale""#), "{error:?}");
    let error = refused_with(&mut client, "NE001", "SELECT entitlements.require('acme', 'sso')", &[]);
    assert!(error.detail().unwrap().contains(r#""reason":"bundle_stale""#), "{error:?}");
    let explained: Vec<String> =
        client.query("SELECT entitlements.explain('acme', 'sso')", &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let explained = explained.join("\n");
    assert!(explained.contains("its bundle has expired") && explained.contains(&format!("bundle:{VENDOR}")), "{explained}");
    // The site's own plan still counts.
    client.batch_execute("SELECT entitlements.subscribe('acme', 'free')").expect("acme has another plan");
    assert_eq!(allowance(&mut client, "acme", "seats"), "1");

    // The next bundle brings everything back; rows were never touched.
    bundle.0["seq"] = json!(2);
    assert_eq!(import(&mut client, &bundle.signed(&key(1))), []);
    assert_eq!(ask(&mut client), (true, true));
    assert_eq!(reason(&mut client, "acme", "sso"), "granted");
}

#[test]
fn advice_goes_on_after_its_end() {
    let (_database, mut client) = site();
    import(&mut client, &Claims::new(1).with("mode", json!("advise")).signed(&key(1)));
    age(&mut client, 400 * DAY);
    assert!(entitled(&mut client, "acme", "sso"));
    see(&mut client, DAY);
    assert!(entitled(&mut client, "acme", "sso"));
    let found = findings(&mut client);
    assert!(found.contains(&"error clock_behind clock".to_owned()), "{found:?}");
    assert!(found.contains(&format!("warning bundle_expired {VENDOR}")), "{found:?}");
}

#[test]
fn a_clock_set_back_wins_nothing() {
    for behind in [DAY, 365 * DAY] {
        let (_database, mut client) = site();
        import(&mut client, &Claims::new(1).with("exp", json!(now() + 1000 * DAY)).signed(&key(1)));
        assert!(entitled(&mut client, "acme", "sso"));
        see(&mut client, behind);
        assert!(!entitled(&mut client, "acme", "sso"));
        assert_eq!(reason(&mut client, "acme", "sso"), "clock_rollback");
        assert_eq!(reason(&mut client, "acme", "calls"), "clock_rollback");
        assert_eq!(findings(&mut client)[0], "error clock_behind clock");
        assert!(one::<bool>(&mut client, "SELECT clock_behind AND denies FROM entitlements.bundle_status(false)", &[]));
        see(&mut client, 200);
        assert!(entitled(&mut client, "acme", "sso"), "a correction of a few minutes is none of it");
        // A bundle that was over by the time that was seen stays so.
        see(&mut client, 2 * DAY);
        refused_for(&mut client, "expired", &Claims::new(2).signed(&key(1)));
    }
}

#[test]
fn maintenance_notes_the_time() {
    let (_database, mut client) = site();
    client
        .batch_execute("UPDATE entitlements.deployment SET highest_seen = '2020-01-01'; SELECT entitlements.maintain()")
        .unwrap();
    assert!(one::<bool>(&mut client, "SELECT highest_seen > now() - interval '1 minute' FROM entitlements.deployment", &[]));
    see(&mut client, DAY);
    client.batch_execute("SELECT entitlements.maintain()").unwrap();
    assert!(one::<bool>(&mut client, "SELECT highest_seen > now() FROM entitlements.deployment", &[]), "it never falls");
}

#[test]
fn the_answer_turns_while_a_session_is_open() {
    let (_database, mut client) = site();
    import(&mut client, &Claims::new(1).with("exp", json!(now() + 3)).signed(&key(1)));
    let until: bool = one(
        &mut client,
        "SELECT valid_until < now() + interval '4 s' FROM entitlements.entitlements_of('acme') WHERE feature = 'sso'",
        &[],
    );
    assert!(until, "an answer is valid until the bundle's next turn");
    assert!(entitled(&mut client, "acme", "sso"));
    std::thread::sleep(std::time::Duration::from_millis(3200));
    assert!(!entitled(&mut client, "acme", "sso"));
    let past = "SELECT count(*) FROM entitlements.explain('acme', 'sso', now() - interval '2 s') AS line WHERE line LIKE '%Granted: true%'";
    assert_eq!(one::<i64>(&mut client, past, &[]), 1, "what was decided then");
    let later = "SELECT count(*) FROM entitlements.explain('acme', 'sso', now() + interval '1 day') AS line WHERE line LIKE '%bundle_stale%'";
    assert_eq!(one::<i64>(&mut client, later, &[]), 1);
}

// What attackers try

#[test]
fn a_document_with_any_bit_flipped_is_refused() {
    let (_database, mut client) = site();
    // Small, for each of its bytes is a document.
    let accounts = json!({"acme": {"subscriptions": [{"ref": "1", "plan": "team", "starts_at": 0}]}});
    import(&mut client, &Claims::new(1).signed(&key(1)));
    let document = Claims::new(2).without("catalog").with("accounts", accounts).signed(&key(1));
    let before = state(&mut client);
    let as_bytes = client.prepare("SELECT count(*) FROM entitlements.import_bundle($1::bytea)").unwrap();
    let as_text = client.prepare("SELECT count(*) FROM entitlements.import_bundle($1::text)").unwrap();
    for place in 0..document.len() {
        for bit in 0..8 {
            let mut flipped = document.clone().into_bytes();
            flipped[place] ^= 1 << bit;
            let mut answers = vec![client.query_one(&as_bytes, &[&flipped])];
            // What is no text never gets as far.
            answers.extend(std::str::from_utf8(&flipped).map(|text| client.query_one(&as_text, &[&text])));
            for answer in answers {
                let error = answer.expect_err("a flipped bit is found");
                let error = error.as_db_error().expect("by the server");
                assert_eq!(error.code().code(), "NE013", "byte {place}, bit {bit}: {error:?}");
                let detail: Value = serde_json::from_str(error.detail().unwrap()).unwrap();
                let reason = detail["reason"].as_str().unwrap();
                assert!(
                    ["malformed", "unknown_key", "bad_signature"].contains(&reason),
                    "byte {place}, bit {bit}: {reason}"
                );
            }
        }
    }
    for end in [0, 1, document.len() / 2, document.len() - 1] {
        refused_for(&mut client, "malformed", &document[..end]);
    }
    assert!(state(&mut client) == before);
    assert!(!short(&import(&mut client, &document)).is_empty(), "as it was signed it is accepted");
}

#[test]
fn what_was_accepted_before_is_not_accepted_again() {
    let (_database, mut client) = site();
    let (first, second, third) = (Claims::new(1), Claims::new(2), Claims::new(3));
    import(&mut client, &first.signed(&key(1)));
    import(&mut client, &third.signed(&key(1)));
    refused_for(&mut client, "replayed", &first.signed(&key(1)));
    refused_for(&mut client, "replayed", &second.signed(&key(1)));
    let other = third.with("accounts", json!({}));
    let detail = refused_for(&mut client, "sequence_reused", &other.signed(&key(1)));
    assert_eq!(detail["alarm"], json!(true));
    let forked = Claims::new(4).with("prev", json!("A".repeat(43)));
    assert_eq!(refused_for(&mut client, "history_forked", &forked.signed(&key(1)))["alarm"], json!(true));
    assert_eq!(one::<i64>(&mut client, "SELECT missed FROM entitlements.bundle_status()", &[]), 1);
    assert_eq!(findings(&mut client), [format!("warning sequence_gap {VENDOR}")]);
}

#[test]
fn a_bundle_of_the_wrong_key_time_or_place_is_refused() {
    let (_database, mut client) = site();
    import(&mut client, &Claims::new(1).signed(&key(1)));
    let next = || Claims::new(2);
    refused_for(&mut client, "unknown_key", &next().signed(&key(9)));
    refused_for(&mut client, "other_audience", &next().with("aud", json!("site-8")).signed(&key(1)));
    refused_for(&mut client, "other_issuer", &next().with("iss", json!("https://else.example")).signed(&key(1)));
    refused_for(
        &mut client,
        "expired",
        &next().with("iat", json!(now() - 2 * DAY)).with("exp", json!(now() - DAY)).signed(&key(1)),
    );
    let far = now() + 10 * DAY;
    refused_for(
        &mut client,
        "issued_in_future",
        &next().with("iat", json!(now() + DAY)).with("exp", json!(far)).signed(&key(1)),
    );
    refused_for(
        &mut client,
        "not_yet_valid",
        &next().with("nbf", json!(now() + DAY)).with("exp", json!(far)).signed(&key(1)),
    );
    client.batch_execute("UPDATE entitlements.trusted_keys SET purpose = 'licence'").unwrap();
    refused_for(&mut client, "other_purpose", &next().signed(&key(1)));
    client
        .batch_execute("UPDATE entitlements.trusted_keys SET purpose = 'bundle', valid_until = now() - interval '1 hour'")
        .unwrap();
    refused_for(&mut client, "key_out_of_time", &next().signed(&key(1)));
    client.batch_execute("UPDATE entitlements.trusted_keys SET valid_until = 'infinity'").unwrap();
    distrust(&mut client, &key(1), "keep");
    refused_for(&mut client, "distrusted_key", &next().signed(&key(1)));
}

#[test]
fn a_database_without_a_name_accepts_nothing() {
    let database = Database::new();
    let mut client = database.connect();
    trust(&mut client, &key(1), VENDOR);
    refused_for(&mut client, "other_audience", &Claims::new(1).signed(&key(1)));
}

#[test]
fn a_signed_document_that_is_none_is_refused() {
    let (_database, mut client) = site();
    import(&mut client, &Claims::new(1).signed(&key(1)));
    let claims = Claims::new(2).without("catalog").0.to_string();
    let doubled = claims.replacen('{', r#"{"seq":1,"#, 1);
    let in_account = claims.replacen(r#""acme":{"#, r#""acme":{"subscriptions":[],"#, 1);
    let deep = claims.replacen(
        r#""accounts":"#,
        &format!(r#""catalog":{{"features":{}{}}},"accounts":"#, "[".repeat(5000), "]".repeat(5000)),
        1,
    );
    let unknown = Claims::new(2).with("admin", json!(true)).0.to_string();
    let fraction = claims.replacen(r#""seq":2"#, r#""seq":2.0"#, 1);
    for claims in [&doubled, &in_account, &deep, &unknown, &fraction, "[]", "", "{}", "null"] {
        let detail = refused_for(&mut client, "invalid", &sign(claims.as_bytes(), &key(1)));
        assert!(detail["faults"][0]["path"].as_str().unwrap().starts_with('$'), "{detail}");
    }
    for bytes in [&b"{\"iss\": \"\xff\"}"[..], b"\xff\xfe", b"\0"] {
        refused_for(&mut client, "invalid", &sign(bytes, &key(1)));
    }
    let before = state(&mut client);
    let error = refused_with(&mut client, "NE013", "SELECT entitlements.import_bundle('\\xff'::bytea)", &[]);
    assert!(error.detail().unwrap().contains("malformed"));
    refused_with(&mut client, "22021", "SELECT entitlements.import_bundle(convert_from('\\xff', 'UTF8'))", &[]);
    assert!(state(&mut client) == before);
}

/// The attacker has the public key, and a key of their own that the site trusts for their bundles.
#[test]
fn a_header_brings_no_rules_of_its_own() {
    let (_database, mut client) = site();
    trust(&mut client, &key(2), "https://evil.example");
    import(&mut client, &Claims::new(1).signed(&key(1)));
    let encode = |bytes: &[u8]| entitlements_bundle::base64url::encode(bytes);
    let payload = encode(Claims::new(2).0.to_string().as_bytes());
    let signed = Claims::new(2).signed(&key(1));
    let signature = signed.rsplit_once('.').unwrap().1;
    let (kid, jwk) = (key(1).public().kid().to_string(), key(1).public().to_jwk().to_string());
    let own_jwk: Value = serde_json::from_str(&key(2).public().to_jwk().to_string()).unwrap();
    let public: Value = serde_json::from_str(&jwk).unwrap();
    let x = entitlements_bundle::base64url::decode(public["x"].as_str().unwrap()).unwrap();
    let plain = json!({"alg": "EdDSA", "kid": kid, "typ": BUNDLE_TYPE});
    let with = |member: &str, value: Value| {
        let mut header = plain.clone();
        header[member] = value;
        header
    };
    // Another algorithm: no signature, the vendor's own, and the public key taken for a shared secret.
    for alg in ["none", "None", "", "HS256", "HS512", "ES256", "RS256", "PS256", "Ed448", "eddsa", "ECDH-ES"] {
        let header = encode(with("alg", json!(alg)).to_string().as_bytes());
        let input = format!("{header}.{payload}");
        let mut signatures = vec![String::new(), signature.to_owned()];
        for secret in [jwk.as_bytes(), &x] {
            let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
            mac.update(input.as_bytes());
            signatures.push(encode(&mac.finalize().into_bytes()));
        }
        for signature in signatures {
            refused_for(&mut client, "malformed", &format!("{input}.{signature}"));
        }
    }
    refused_for(&mut client, "malformed", &format!("{}.{payload}.", encode(plain.to_string().as_bytes())));
    // Members beside the three, each signed by the attacker's key and with the vendor's signature.
    for (member, value) in [
        ("jwk", own_jwk.clone()),
        ("jku", json!("https://evil.example/jwks.json")),
        ("x5u", json!("https://evil.example/chain.pem")),
        ("x5c", json!(["MIIB"])),
        ("x5t#S256", json!("A")),
        ("crit", json!(["exp"])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("cty", json!("JWT")),
        ("enc", json!("A256GCM")),
        ("alg", json!(["EdDSA"])),
        ("alg", json!(null)),
        ("kid", json!({"kid": kid})),
        ("kid", json!("../../etc/passwd")),
        ("kid", json!("' OR true --")),
        ("typ", json!("JWT")),
        ("typ", json!("entitlements-licence+jwt")),
        ("typ", json!("ENTITLEMENTS-BUNDLE+JWT")),
    ] {
        let header = encode(with(member, value).to_string().as_bytes());
        let input = format!("{header}.{payload}");
        let own = entitlements_bundle::base64url::encode(
            &ed25519_dalek::SigningKey::from_bytes(&[2; 32]).sign(input.as_bytes()).to_bytes(),
        );
        for signature in [signature, &own] {
            refused_for(&mut client, "malformed", &format!("{input}.{signature}"));
        }
    }
    // A member twice: the first is the vendor's key, the second the attacker's, and the other way round.
    let own_kid = key(2).public().kid().to_string();
    for (one, other) in [(&kid, &own_kid), (&own_kid, &kid)] {
        let header = format!(r#"{{"alg":"EdDSA","kid":"{one}","typ":"{BUNDLE_TYPE}","kid":"{other}"}}"#);
        refused_for(&mut client, "malformed", &format!("{}.{payload}.{signature}", encode(header.as_bytes())));
    }
    // The vendor's name under the attacker's signature, and the attacker's key under the vendor's name.
    refused_for(&mut client, "other_issuer", &Claims::new(2).signed(&key(2)));
    let input = format!("{}.{payload}", encode(plain.to_string().as_bytes()));
    let own = encode(&ed25519_dalek::SigningKey::from_bytes(&[2; 32]).sign(input.as_bytes()).to_bytes());
    refused_for(&mut client, "bad_signature", &format!("{input}.{own}"));
    refused_for(&mut client, "key_taken", &Claims::new(2).with("keys", json!([{ "jwk": own_jwk }])).signed(&key(1)));
    assert!(!short(&import(&mut client, &Claims::new(2).with("accounts", json!({})).signed(&key(1)))).is_empty());
}

#[test]
fn a_huge_document_is_refused_unread() {
    /// Of the greatest text and bytea that the server has.
    const GREATEST: usize = 2969 * 361_651;
    assert_eq!(GREATEST, (1 << 30) - 5);
    let filled = |unit: usize, times: usize| format!("repeat(repeat('x', {unit}), {times})");
    let (database, mut client) = site();
    import(&mut client, &Claims::new(1).signed(&key(1)));
    let before = state(&mut client);
    let greatest = filled(2969, 361_651);
    for document in [
        filled(1 << 20, 360),
        format!("convert_to({}, 'UTF8')", filled(1 << 20, 360)),
        format!("'age-encryption.org/v1' || {}", filled(46, 23_342_213)),
        "repeat(repeat(' ', 2969), 361651)".to_owned(),
    ] {
        let error = refused_with(&mut client, "NE013", &format!("SELECT entitlements.import_bundle({document})"), &[]);
        assert!(error.detail().unwrap().contains(r#""reason":"too_large""#), "{error:?}");
        assert!(error.message().len() < 300, "{error:?}");
    }
    // Refusing the greatest costs no memory beyond that of having it.
    let memory = |sql: &str, sqlstate: Option<&str>| {
        let mut client = database.connect();
        match sqlstate {
            Some(sqlstate) => drop(refused_with(&mut client, sqlstate, sql, &[])),
            None => drop(client.query(sql, &[]).unwrap()),
        }
        let status: String = one(&mut client, "SELECT pg_read_file('/proc/self/status')", &[]);
        let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells");
        most.trim().trim_end_matches(" kB").parse::<i64>().expect("a number") >> 10
    };
    for (greatest, dry_run) in [(format!("convert_to({greatest}, 'UTF8')"), true), (greatest, false)] {
        let having = memory(&format!("SELECT octet_length({greatest})"), None);
        let refusing = memory(&format!("SELECT entitlements.import_bundle({greatest}, {dry_run})"), Some("NE013"));
        assert!(refusing < having + 200, "{greatest}: {having} MB to have it, {refusing} MB to refuse it");
    }
    // A byte more there cannot be; nor does a message of the protocol hold it, at which the server hangs up.
    let beyond = format!("SELECT entitlements.import_bundle({})", filled(3810, 281_822));
    refused_with(&mut client, "54000", &beyond, &[]);
    assert!(state(&mut client) == before);
    assert!(entitled(&mut client, "acme", "sso"));
}

#[test]
fn rows_that_a_superuser_changed_are_found() {
    let (_database, mut client) = site();
    let faults = |client: &mut Client| {
        one::<String>(client, "SELECT array_to_string(faults, '; ') FROM entitlements.bundle_status()", &[])
    };
    let mut sequence = 1;
    for (tampering, found) in [
        (
            "UPDATE entitlements.subscriptions SET quantity = 500 WHERE source LIKE 'bundle:%' AND superseded_at IS NULL",
            "the rows of 1 accounts",
        ),
        (
            "UPDATE entitlements.subscriptions SET ends_at = 'infinity' WHERE source LIKE 'bundle:%' AND superseded_at IS NULL",
            "the rows of 1 accounts",
        ),
        (
            "UPDATE entitlements.subscriptions SET source = 'manual' WHERE source LIKE 'bundle:%' AND superseded_at IS NULL",
            "the rows of 1 accounts",
        ),
        ("UPDATE entitlements.overrides SET amount = 50 WHERE amount = 5 AND ended_at IS NULL", "the rows of 1 accounts"),
        (
            "UPDATE entitlements.overrides SET ended_at = now() WHERE source LIKE 'bundle:%' AND ended_at IS NULL",
            "the rows of 1 accounts",
        ),
        ("UPDATE entitlements.accounts SET key = 'other' WHERE key = 'acme'", "the rows of 2 accounts"),
        ("UPDATE entitlements.bundles SET expires_at = '2100-01-01', grace_ends_at = '2100-01-01'", "the stored terms"),
        ("UPDATE entitlements.bundles SET mode = 'advise'", "the stored terms"),
        (
            "UPDATE entitlements.bundles SET document = set_byte(document, 400, get_byte(document, 400) # 1) WHERE document IS NOT NULL",
            "is not what its key signed",
        ),
    ] {
        let bundle = Claims::new(sequence).signed(&key(1));
        import(&mut client, &bundle);
        assert_eq!(faults(&mut client), "", "before {tampering}");
        let mut transaction = client.transaction().unwrap();
        transaction.batch_execute(tampering).unwrap();
        let faults: String = transaction
            .query_one("SELECT array_to_string(faults, '; ') FROM entitlements.bundle_status()", &[])
            .unwrap()
            .get(0);
        assert!(faults.contains(found), "{tampering}: {faults}");
        let errors: i64 = transaction
            .query_one("SELECT count(*) FROM entitlements.doctor() WHERE finding = 'bundle_tampered'", &[])
            .unwrap()
            .get(0);
        assert_eq!(errors, 1);
        transaction.rollback().unwrap();
        sequence += 1;
    }
    client.batch_execute("UPDATE entitlements.subscriptions SET quantity = 500 WHERE superseded_at IS NULL").unwrap();
    assert_eq!(short(&import(&mut client, &Claims::new(sequence).signed(&key(1)))), ["changed subscription acme/so-17"]);
    assert_eq!(faults(&mut client), "", "the next bundle puts it right");
    client.batch_execute("DELETE FROM entitlements.bundles").unwrap();
    assert_eq!(findings(&mut client), [format!("error rows_without_bundle bundle:{VENDOR}")]);
}

#[test]
fn a_catalog_that_a_superuser_changed_is_found() {
    let (_vendor_database, mut vendor, _secret) = vendor();
    let (_site_database, mut site) = site();
    import(&mut site, &export(&mut vendor, ""));
    let unlock = "ALTER TABLE entitlements.plan_versions DISABLE TRIGGER USER; ALTER TABLE entitlements.plan_features DISABLE TRIGGER USER; ";
    let cell = "INSERT INTO entitlements.plan_features (plan_version_id, feature_id, kind, amount)
                SELECT version.id, feature.id, feature.kind, 500 FROM entitlements.plan_versions AS version, entitlements.features AS feature";
    for tampering in [
        "UPDATE entitlements.features SET overage = 'allow' WHERE key = 'calls'".to_owned(),
        "UPDATE entitlements.features SET combine = 'sum' WHERE key = 'calls'".to_owned(),
        "SELECT entitlements.apply_catalog('{\"features\": {\"calls\": {\"overage\": \"allow\"}}}')".to_owned(),
        "INSERT INTO entitlements.features (key, kind, combine, anchor, overage, period)
         SELECT 'new', kind, combine, anchor, overage, period FROM entitlements.features WHERE key = 'calls';
         ".to_owned() + cell + " WHERE feature.key = 'new' AND version.rank = 10",
        unlock.to_owned() + "UPDATE entitlements.plan_features SET amount = 500 WHERE amount = 1000",
        unlock.to_owned() + "DELETE FROM entitlements.plan_features WHERE NOT enabled",
        // A version from before the bundle, which its subscriptions now have.
        "INSERT INTO entitlements.plan_versions (plan_id, version, kind, rank, definition, published_at, published_by)
         SELECT plan_id, 2, kind, rank, definition, published_at, published_by FROM entitlements.plan_versions WHERE rank = 10;
         ".to_owned() + cell + " WHERE feature.key = 'calls' AND version.version = 2;
         UPDATE entitlements.subscriptions AS held SET plan_version_id = version.id FROM entitlements.plan_versions AS version
          WHERE version.version = 2 AND held.plan_id = version.plan_id",
    ] {
        let mut transaction = site.transaction().unwrap();
        transaction.batch_execute(&tampering).unwrap_or_else(|error| panic!("{tampering}: {error:?}"));
        let faults = "SELECT array_to_string(faults, '; ') FROM entitlements.bundle_status()";
        let faults: String = transaction.query_one(faults, &[]).unwrap().get(0);
        assert!(faults.starts_with("the catalog "), "{tampering}: {faults}");
        transaction.rollback().unwrap();
    }
    // What the site adds for itself is its own matter.
    site.batch_execute(
        "SELECT entitlements.apply_catalog('{\"features\": {\"calls\": {\"description\": \"ours\", \"thresholds\": [0.8]}, \"own\": {\"kind\": \"flag\"}},
             \"plans\": {\"own\": {\"kind\": \"base\", \"features\": {\"own\": true}}}}')",
    )
    .unwrap();
    assert!(!one::<bool>(&mut site, "SELECT tampered FROM entitlements.bundle_status()", &[]));
}

#[test]
fn another_cluster_or_timeline_is_told() {
    let (_database, mut client) = site();
    import(&mut client, &Claims::new(1).signed(&key(1)));
    assert_eq!(findings(&mut client), Vec::<String>::new());
    client.batch_execute("UPDATE entitlements.deployment SET timeline = timeline + 1").unwrap();
    assert_eq!(findings(&mut client), ["warning database_recovered database"]);
    let next = Claims::new(2).signed(&key(1));
    for of_place in ["system_identifier", "database_oid"] {
        import(&mut client, &next);
        client.batch_execute(&format!("UPDATE entitlements.deployment SET {of_place} = {of_place} + 1")).unwrap();
        assert_eq!(findings(&mut client), ["warning database_copied database"]);
        client.execute("SELECT entitlements.set_deployment($1)", &[&SITE]).unwrap();
        assert_eq!(findings(&mut client), Vec::<String>::new());
    }
    client.batch_execute("UPDATE entitlements.deployment SET timeline = timeline + 1").unwrap();
    import(&mut client, &Claims::new(3).signed(&key(1)));
    assert_eq!(findings(&mut client), Vec::<String>::new());
}

// Keys and numbers

/// Whoever copied a key may have introduced one of their own.
#[test]
fn a_copied_key_takes_those_with_it_that_it_introduced() {
    let (_database, mut client) = site();
    let jwk = |number| -> Value { serde_json::from_str(&key(number).public().to_jwk().to_string()).unwrap() };
    let introducing = |sequence, number| Claims::new(sequence).with("keys", json!([{ "jwk": jwk(number) }]));
    import(&mut client, &introducing(1, 2).signed(&key(1)));
    import(&mut client, &introducing(2, 3).signed(&key(2)));
    import(&mut client, &introducing(3, 4).signed(&key(3)));
    // A rotation leaves them.
    distrust(&mut client, &key(1), "keep");
    import(&mut client, &Claims::new(4).signed(&key(3)));
    // This one somebody vouches for.
    trust(&mut client, &key(4), VENDOR);
    distrust(&mut client, &key(1), "end");
    assert!(!entitled(&mut client, "acme", "sso"), "the bundle in force is of one of them");
    for number in [2, 3] {
        refused_for(&mut client, "distrusted_key", &Claims::new(5).signed(&key(number)));
    }
    import(&mut client, &Claims::new(5).signed(&key(4)));
    assert!(entitled(&mut client, "acme", "sso"));
    distrust(&mut client, &key(1), "end");
    distrust(&mut client, &key(2), "end");
    assert!(entitled(&mut client, "acme", "sso"));
    assert_eq!(findings(&mut client), Vec::<String>::new());
    audit_is_sound(&mut client);
}

#[test]
fn a_site_with_another_name_has_numbers_of_its_own() {
    let (_database, mut client) = site();
    import(&mut client, &Claims::new(5).signed(&key(1)));
    client.execute("SELECT entitlements.set_deployment('site-8')", &[]).unwrap();
    let renamed = |sequence| Claims::new(sequence).with("aud", json!("site-8")).signed(&key(1));
    import(&mut client, &renamed(1));
    assert!(entitled(&mut client, "acme", "sso"));
    client.execute("SELECT entitlements.set_deployment($1)", &[&SITE]).unwrap();
    refused_for(&mut client, "replayed", &Claims::new(4).signed(&key(1)));
    import(&mut client, &Claims::new(6).signed(&key(1)));
    audit_is_sound(&mut client);
}

#[test]
fn a_bundle_introduces_the_next_key() {
    let (_database, mut client) = site();
    let jwk: Value = serde_json::from_str(&key(2).public().to_jwk().to_string()).unwrap();
    let made = import(&mut client, &Claims::new(1).with("keys", json!([{ "jwk": jwk }])).signed(&key(1)));
    assert!(short(&made).contains(&format!("added key {}", key(2).public().kid())));
    import(&mut client, &Claims::new(2).signed(&key(2)));
    distrust(&mut client, &key(1), "keep");
    refused_for(&mut client, "distrusted_key", &Claims::new(3).signed(&key(1)));
    let taken: Value = serde_json::from_str(&key(1).public().to_jwk().to_string()).unwrap();
    refused_for(&mut client, "key_taken", &Claims::new(3).with("keys", json!([{ "jwk": taken }])).signed(&key(2)));
    import(&mut client, &Claims::new(3).signed(&key(2)));
    audit_is_sound(&mut client);
}

#[test]
fn an_issuer_that_lost_its_numbers_can_begin_again() {
    let (_database, mut client) = site();
    import(&mut client, &Claims::new((1 << 53) - 1).signed(&key(1)));
    refused_for(&mut client, "replayed", &Claims::new(43).signed(&key(1)));
    refused_with(&mut client, "NE010", "SELECT entitlements.reset_bundle_sequence('nobody', 'x')", &[]);
    refused_with(&mut client, "NE007", "SELECT entitlements.reset_bundle_sequence($1, '')", &[&VENDOR]);
    client.execute("SELECT entitlements.reset_bundle_sequence($1, 'its key was copied', 42)", &[&VENDOR]).unwrap();
    refused_for(&mut client, "replayed", &Claims::new(42).signed(&key(1)));
    assert!(entitled(&mut client, "acme", "sso"));
    import(&mut client, &Claims::new(43).signed(&key(1)));
    refused_for(&mut client, "replayed", &Claims::new(42).signed(&key(1)));
    import(&mut client, &Claims::new(44).signed(&key(1)));
    audit_is_sound(&mut client);
}

#[test]
fn what_a_copied_key_signed_can_be_ended() {
    let (_database, mut client) = site();
    import(&mut client, &Claims::new(1).signed(&key(1)));
    client.batch_execute("SELECT entitlements.subscribe('acme', 'free')").unwrap();
    distrust(&mut client, &key(1), "keep");
    assert_eq!(allowance(&mut client, "acme", "seats"), "30");
    assert_eq!(findings(&mut client), [format!("warning bundle_of_distrusted_key {VENDOR}")]);
    let kid = key(1).public().kid().to_string();
    refused_with(&mut client, "NE007", "SELECT entitlements.distrust_key($1, 'x', 'drop')", &[&kid]);
    distrust(&mut client, &key(1), "end");
    assert_eq!(allowance(&mut client, "acme", "seats"), "1");
    assert_eq!(findings(&mut client), Vec::<String>::new());
    trust(&mut client, &key(2), VENDOR);
    // The same claims again, with the new key.
    assert_eq!(short(&import(&mut client, &Claims::new(1).signed(&key(2)))).len(), 3);
    assert_eq!(allowance(&mut client, "acme", "seats"), "30");
    audit_is_sound(&mut client);
}

// Two databases

/// A file with a secret that the server can read.
struct Secret(std::path::PathBuf);

impl Secret {
    fn new(content: &str) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("entitlements-{}-{number}.key", std::process::id()));
        std::fs::write(&path, content).expect("a file can be written");
        Self(path)
    }

    fn set(&self, client: &mut Client, setting: &str) {
        client.batch_execute(&format!("SET {setting} = '{}'", self.0.display())).expect("a superuser may set it");
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The vendor's database, with a catalog and a customer.
fn vendor() -> (Database, Client, Secret) {
    let database = Database::new();
    let mut client = database.connect();
    client.execute("SELECT entitlements.set_deployment($1)", &[&VENDOR]).unwrap();
    client.execute("SELECT entitlements.apply_catalog($1::jsonb)", &[&catalog()]).unwrap();
    client
        .batch_execute(
            "SELECT entitlements.subscribe('acme', 'team', quantity => 25, ends_at => now() + interval '1 year');
             SELECT entitlements.set_override('acme', 'seats', 'add', '5', 'goodwill');
             SELECT entitlements.set_override('acme', 'seats', 'add', '2', 'more', source => 'crm');
             SELECT entitlements.set_override('acme', 'support', 'set', '\"premium\"', 'pilot');
             SELECT entitlements.subscribe('globex', 'free');",
        )
        .unwrap();
    let secret = Secret::new(&key(1).to_jwk());
    secret.set(&mut client, "entitlements.signing_key_file");
    (database, client, secret)
}

fn export(client: &mut Client, arguments: &str) -> String {
    one(client, &format!("SELECT entitlements.export_bundle('{SITE}'{arguments})"), &[])
}

/// What both databases say about the account.
fn same(vendor: &mut Client, site: &mut Client, account: &str) {
    let all = "SELECT string_agg(format('%s %s %s %s', feature, granted, value, allowance), E'\n' ORDER BY feature)
                 FROM entitlements.entitlements_of($1) WHERE granted";
    let at_vendor: String = one(vendor, all, &[&account]);
    assert_eq!(one::<String>(site, all, &[&account]), at_vendor);
}

#[test]
fn a_vendor_sells_and_a_site_enforces() {
    let (_vendor_database, mut vendor, _secret) = vendor();
    let (_site_database, mut site) = site();
    let carry = |vendor: &mut Client, site: &mut Client| {
        let document = export(vendor, ", heartbeat => '1 day'");
        let made = short(&import(site, &document));
        for account in ["acme", "globex"] {
            same(vendor, site, account);
        }
        assert!(!one::<bool>(site, "SELECT tampered FROM entitlements.bundle_status()", &[]));
        made
    };
    carry(&mut vendor, &mut site);
    assert_eq!(allowance(&mut site, "acme", "seats"), "32");
    assert_eq!(carry(&mut vendor, &mut site), Vec::<String>::new(), "nothing new");
    site.batch_execute("SELECT entitlements.consume('acme', 'calls', 900)").unwrap();

    // More seats from now on, fewer later.
    vendor.batch_execute("SELECT entitlements.change_subscription(1, quantity => 40)").unwrap();
    vendor
        .batch_execute("SELECT entitlements.change_subscription(1, quantity => 30, at => now() + interval '1 month')")
        .unwrap();
    let made = carry(&mut vendor, &mut site);
    assert_eq!(made[0], "changed subscription acme/1");
    assert!(made[1].starts_with("added subscription acme/1@"), "{made:?}");
    assert_eq!(allowance(&mut site, "acme", "seats"), "47");
    // Renewal, early.
    vendor.batch_execute("SELECT entitlements.renew_subscription(1, now() + interval '2 years')").unwrap();
    carry(&mut vendor, &mut site);
    // Downgrade.
    vendor.batch_execute("SELECT entitlements.change_subscription(1, plan => 'free', quantity => 1)").unwrap();
    carry(&mut vendor, &mut site);
    assert_eq!(allowance(&mut site, "acme", "seats"), "8");
    refused_with(&mut site, "NE002", "SELECT entitlements.consume('acme', 'calls')", &[]);
    // The plan changes for those who buy it from now on, not for who has it.
    let mut changed = catalog();
    changed["plans"]["free"]["features"]["calls"] = json!(3);
    vendor.execute("SELECT entitlements.apply_catalog($1::jsonb)", &[&changed]).unwrap();
    let made = carry(&mut vendor, &mut site);
    assert!(
        made.contains(&"publish plan free.v1".to_owned()) || made.contains(&"create plan free.v1".to_owned()),
        "{made:?}"
    );
    assert_eq!(allowance(&mut site, "globex", "calls"), "10");
    vendor.batch_execute("SELECT entitlements.migrate_subscriptions('free', 1, 2)").unwrap();
    carry(&mut vendor, &mut site);
    assert_eq!(allowance(&mut site, "globex", "calls"), "3");
    // Blocks travel, and revocation.
    vendor
        .batch_execute(
            "SELECT entitlements.block('acme', 'legal', 'x', 'support'); SELECT entitlements.block('globex', 'fraud', 'x')",
        )
        .unwrap();
    import(&mut site, &export(&mut vendor, ""));
    assert!(!entitled(&mut site, "acme", "support") && !entitled(&mut site, "globex", "calls"));
    assert_eq!(reason(&mut site, "acme", "support"), "override_denied");
    vendor
        .batch_execute("SELECT entitlements.end_subscription(1); SELECT entitlements.unblock('globex', 'fraud', 'x')")
        .unwrap();
    import(&mut site, &export(&mut vendor, ""));
    same(&mut vendor, &mut site, "globex");
    assert_eq!(allowance(&mut site, "acme", "seats"), "7", "what was added stays");

    // The next key is introduced by a bundle of the present one, which is then lost.
    let next: Value = serde_json::from_str(&key(2).public().to_jwk().to_string()).unwrap();
    let document: String = one(&mut vendor, "SELECT entitlements.export_bundle($1, introduce => $2)", &[&SITE, &next]);
    import(&mut site, &document);
    let secret = Secret::new(&key(2).to_jwk());
    secret.set(&mut vendor, "entitlements.signing_key_file");
    import(&mut site, &export(&mut vendor, ""));
    // Both keys are lost: the site trusts a new one by hand.
    let secret = Secret::new(&key(3).to_jwk());
    secret.set(&mut vendor, "entitlements.signing_key_file");
    let document = export(&mut vendor, "");
    refused_for(&mut site, "unknown_key", &document);
    distrust(&mut site, &key(1), "keep");
    distrust(&mut site, &key(2), "keep");
    trust(&mut site, &key(3), VENDOR);
    import(&mut site, &document);
    let missed: i64 = one(&mut site, "SELECT sum(missed)::bigint FROM entitlements.bundles", &[]);
    assert_eq!(missed, 0);
    audit_is_sound(&mut vendor);
    audit_is_sound(&mut site);
}

#[test]
fn revoked_licences_are_told_by_the_next_bundle() {
    let (_vendor_database, mut vendor, _secret) = vendor();
    let (_site_database, mut site) = site();
    let mut issue = |holder: &str| -> (String, String) {
        let token = one(&mut vendor, "SELECT entitlements.issue_licence('acme', $1)", &[&holder]);
        (token, one(&mut vendor, "SELECT id::text FROM entitlements.licences WHERE holder = $1", &[&holder]))
    };
    let (kept, revoked) = (issue("ann"), issue("bob"));
    let list = |client: &mut Client| -> Vec<(String, Option<String>)> {
        let sql = "SELECT id, issuer FROM entitlements.revoked_licences()";
        client.query(sql, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    import(&mut site, &export(&mut vendor, ""));
    assert_eq!(list(&mut site), []);
    vendor
        .batch_execute("SELECT entitlements.revoke_licence(id, 'copied') FROM entitlements.licences WHERE holder = 'bob'")
        .unwrap();
    let document = export(&mut vendor, "");
    let added = format!("added revocation {}", revoked.1);
    assert_eq!(short(&changes(&mut site, &document, true)), [added.as_str()]);
    assert_eq!(short(&import(&mut site, &document)), [added.as_str()]);
    let of_vendor = [(revoked.1.clone(), Some(VENDOR.to_owned()))];
    assert_eq!((list(&mut vendor), list(&mut site)), (of_vendor.to_vec(), of_vendor.to_vec()));

    // An application at the site that knows the vendor's key, and asks the site for the list.
    let known = TrustedKey {
        key: key(1).public().clone(),
        issuer: VENDOR.to_owned(),
        purpose: Purpose::Licence,
        not_before: i64::MIN,
        not_after: i64::MAX,
        distrusted: false,
    };
    let trust: TrustSet = [known].into_iter().collect();
    let ids: BTreeSet<String> = list(&mut site).into_iter().map(|(id, _)| id).collect();
    let clock = Clock { now: NumericDate::from_seconds(now()).unwrap().time(), highest: i64::MIN };
    let judge = |token: &str| {
        let authentic = authenticate_as::<Licence>(token, &trust).expect("the licence is authentic");
        judge_licence(authentic, Place::default(), &ids, clock).map(|granted| granted.licence.id)
    };
    assert_eq!(judge(&kept.0).unwrap(), kept.1);
    assert_eq!(judge(&revoked.0).unwrap_err().word(), "revoked");

    // What the site itself issues or hands on has nothing of it.
    let own: Value = serde_json::from_str(&export(&mut site, ", sign => false")).unwrap();
    assert_eq!(own.get("revoked"), None);
    // Somebody who makes the list shorter is found.
    let mut transaction = site.transaction().unwrap();
    transaction.batch_execute("UPDATE entitlements.bundles SET revoked = '{}' WHERE revoked IS NOT NULL").unwrap();
    let faults: String =
        transaction.query_one("SELECT array_to_string(faults, '; ') FROM entitlements.bundle_status()", &[]).unwrap().get(0);
    assert_eq!(faults, "the stored list of revoked licences is not that of the document");
    transaction.rollback().unwrap();

    // Once nobody can show it any more it is not told any more.
    vendor.batch_execute("UPDATE entitlements.licences SET expires_at = now() WHERE holder = 'bob'").unwrap();
    assert_eq!(short(&import(&mut site, &export(&mut vendor, ""))), [format!("ended revocation {}", revoked.1)]);
    assert_eq!((list(&mut vendor), list(&mut site)), (Vec::new(), Vec::new()));
    audit_is_sound(&mut site);
}

#[test]
fn a_payload_can_be_signed_elsewhere() {
    let (_vendor_database, mut vendor, _secret) = vendor();
    let (_site_database, mut site) = site();
    vendor.batch_execute("RESET entitlements.signing_key_file").unwrap();
    refused_with(&mut vendor, "NE009", "SELECT entitlements.export_bundle('x')", &[]);
    let payload = export(&mut vendor, ", ARRAY['globex'], sign => false, mode => 'advise', grace => '2 days'");
    let claims: Value = serde_json::from_str(&payload).unwrap();
    assert_eq!((&claims["seq"], &claims["mode"], &claims["grace"]), (&json!(1), &json!("advise"), &json!(172_800)));
    assert_eq!(claims["catalog"]["plans"].as_object().unwrap().keys().collect::<Vec<_>>(), ["free"]);
    import(&mut site, &sign(payload.as_bytes(), &key(1)));
    same(&mut vendor, &mut site, "globex");
    refused_with(&mut vendor, "NE006", "SELECT entitlements.export_bundle('x', ARRAY['nobody'], sign => false)", &[]);
    for arguments in [
        "NULL",
        "''",
        "'x', ARRAY[NULL]",
        "'x', expires_at => now()",
        "'x', mode => 'x'",
        "'x', grace => '-1 day'",
        "'x', heartbeat => '0'",
        "'x', introduce => '{}'",
    ] {
        refused_with(&mut vendor, "NE007", &format!("SELECT entitlements.export_bundle({arguments}, sign => false)"), &[]);
    }
    // What came by a bundle goes on only when it is named.
    let all: Value = serde_json::from_str(&export(&mut site, ", sign => false")).unwrap();
    assert_eq!(all["accounts"], json!({}));
    let named: Value = serde_json::from_str(&export(&mut site, ", ARRAY['globex'], sign => false")).unwrap();
    assert_eq!(named["accounts"]["globex"]["subscriptions"][0]["plan"], json!("free"));
}

#[test]
fn encrypted_documents_are_opened() {
    let (_database, mut client) = site();
    let (identity, recipient) = entitlements_bundle::seal::generate_identity();
    let (_, other) = entitlements_bundle::seal::generate_identity();
    let document = Claims::new(1).signed(&key(1));
    let sealed = entitlements_bundle::seal::seal(&document, &[&recipient]).unwrap();
    refused_for(&mut client, "no_identity", &sealed);
    let secret = Secret::new(&identity);
    secret.set(&mut client, "entitlements.age_identity_file");
    refused_for(&mut client, "other_recipient", &entitlements_bundle::seal::seal(&document, &[other]).unwrap());
    refused_for(&mut client, "malformed", &sealed[..sealed.len() / 2]);
    assert!(!import(&mut client, &sealed).is_empty());
    let count = client.query("SELECT * FROM entitlements.import_bundle($1::bytea)", &[&sealed.as_bytes()]).unwrap().len();
    assert_eq!(count, 0, "as bytes too, and it is the one in force");
    client.batch_execute("SET entitlements.age_identity_file = '/nowhere'").unwrap();
    refused_with(&mut client, "NE009", "SELECT entitlements.import_bundle($1::text)", &[&sealed]);
}

#[test]
fn only_a_superuser_names_files_with_secrets() {
    let (database, mut client) = site();
    let role = format!("{}_clerk", database.name());
    client
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA entitlements TO {role};
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA entitlements TO {role}"
        ))
        .unwrap();
    let mut clerk = database.connect_as(&role);
    // Before the library is loaded the server does not know better, and forgets it then.
    clerk.batch_execute("SET entitlements.signing_key_file = '/etc/passwd'").unwrap();
    let error = refused_with(&mut clerk, "NE009", "SELECT entitlements.export_bundle('x')", &[]);
    assert_eq!(error.message(), "entitlements.signing_key_file is not set");
    for setting in ["entitlements.signing_key_file", "entitlements.age_identity_file"] {
        refused_with(&mut clerk, "42501", &format!("SET {setting} = '/etc/passwd'"), &[]);
        refused_with(&mut clerk, "42501", &format!("SHOW {setting}"), &[]);
    }
    drop(clerk);
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).unwrap();
}

#[test]
fn who_has_no_privilege_has_none_on_bundles() {
    let (database, mut client) = site();
    let role = format!("{}_nobody", database.name());
    client.batch_execute(&format!("CREATE ROLE {role} LOGIN")).unwrap();
    let mut nobody = database.connect_as(&role);
    for call in ["import_bundle('')", "bundle_status()", "doctor()", "set_deployment('x')", "export_bundle('x')"] {
        refused_with(&mut nobody, "42501", &format!("SELECT entitlements.{call}"), &[]);
    }
    drop(nobody);
    client.batch_execute(&format!("DROP ROLE {role}")).unwrap();
}

#[test]
fn two_imports_at_once_take_turns() {
    let (database, mut client) = site();
    import(&mut client, &Claims::new(1).signed(&key(1)));
    let mut other = database.connect();
    let mut first = client.transaction().unwrap();
    let fewer = Claims::new(2).with("accounts", json!({})).signed(&key(1));
    first.execute("SELECT entitlements.import_bundle($1::text)", &[&fewer]).unwrap();
    let waiting = std::thread::spawn(move || {
        let result = other.query("SELECT * FROM entitlements.import_bundle($1::text)", &[&Claims::new(2).signed(&key(1))]);
        result.map(|rows| rows.len()).map_err(|error| error.as_db_error().unwrap().code().code().to_owned())
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    first.commit().unwrap();
    assert_eq!(waiting.join().unwrap(), Err("NE013".to_owned()), "the second is judged by what the first left");
    assert!(!entitled(&mut client, "acme", "sso"));
    audit_is_sound(&mut client);
}
