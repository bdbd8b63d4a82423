//! Changing the catalog from outside: documents, drafts, migration, and several editors at once.

use entitlements_client_tests::{Database, one, refused_with, row};
use postgres::{Client, Row};
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};

const PRODUCT: &str = r#"{
    "features": {
        "sso": {"kind": "flag"},
        "support": {"kind": "config", "schema": {"enum": ["community", "standard", "premium"]}},
        "minutes": {"kind": "quota", "unit": "minute", "period": "1 month", "thresholds": [0.8, 1]},
        "seats": {"kind": "allocation", "unit": "seat"}},
    "plans": {
        "free": {"kind": "base", "features": {"sso": false, "support": "community", "minutes": 2000, "seats": 3}},
        "team": {"kind": "base", "extends": "free", "rank": 10,
                 "features": {"support": "standard", "minutes": 3000, "seats": {"amount": 1, "per_unit": true}}},
        "extra": {"kind": "addon", "features": {"minutes": 1000}}},
    "prices": {"stripe": {"price_1": {"plan": "team"}}}}"#;

/// Every table of the catalog, to see whether anything was written.
const CATALOG_TABLES: &str = "
    SELECT md5(string_agg(content, '' ORDER BY content)) FROM (
        SELECT to_jsonb(t)::text AS content FROM entitlements.features AS t
        UNION ALL SELECT to_jsonb(t)::text FROM entitlements.plans AS t
        UNION ALL SELECT to_jsonb(t)::text FROM entitlements.plan_versions AS t
        UNION ALL SELECT to_jsonb(t)::text FROM entitlements.plan_features AS t
        UNION ALL SELECT to_jsonb(t)::text FROM entitlements.plan_drafts AS t
        UNION ALL SELECT to_jsonb(t)::text FROM entitlements.prices AS t
        UNION ALL SELECT to_jsonb(t)::text FROM entitlements.audit_log AS t
        UNION ALL SELECT to_jsonb(t)::text FROM entitlements.audit_chains AS t) AS tables";

/// Changes as `action object key`.
fn changes(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| format!("{} {} {}", row.get::<_, &str>(0), row.get::<_, &str>(1), row.get::<_, &str>(2))).collect()
}

fn apply(client: &mut Client, document: &str) -> Vec<String> {
    let applied = client.query("SELECT * FROM entitlements.apply_catalog($1::text)", &[&document]);
    changes(&applied.unwrap_or_else(|error| panic!("{document:.200}: {error:?}")))
}

fn product() -> (Database, Client) {
    let database = Database::new();
    let mut client = database.connect();
    apply(&mut client, PRODUCT);
    (database, client)
}

fn export(client: &mut Client) -> Value {
    one(client, "SELECT entitlements.export_catalog()", &[])
}

/// Gives the account a subscription by plain rows, so that these tests need nothing but the catalog; NULL follows the latest.
fn hold(client: &mut Client, account: &str, plan: &str, version: Option<i32>) -> i64 {
    client
        .execute(
            "INSERT INTO entitlements.accounts (key, created_at) VALUES ($1, now()) ON CONFLICT DO NOTHING",
            &[&account],
        )
        .unwrap();
    one(
        client,
        "INSERT INTO entitlements.subscriptions (id, account_id, plan_id, plan_version_id, status, quantity, starts_at,
             term_starts_at, source, recorded_at, recorded_by)
         SELECT nextval('entitlements.subscription_ids'), account.id, plan.id,
             (SELECT id FROM entitlements.plan_versions WHERE plan_id = plan.id AND version = $3), 'active', 2,
             now() - interval '1 hour', now() - interval '1 hour', 'manual', now(), 'test'
         FROM entitlements.accounts AS account, entitlements.plans AS plan
         WHERE account.key = $1 AND plan.key = $2
         RETURNING id",
        &[&account, &plan, &version],
    )
}

fn value_of(client: &mut Client, account: &str, feature: &str) -> Value {
    one(client, "SELECT entitlements.value_of($1::text, $2)", &[&account, &feature])
}

fn publish(client: &mut Client, plan: &str) -> i32 {
    one(client, "SELECT entitlements.publish_plan($1)", &[&plan])
}

fn backend(client: &mut Client) -> i32 {
    one(client, "SELECT pg_backend_pid()", &[])
}

/// Returns once the backend waits for a lock of another.
fn wait_until_blocked(observer: &mut Client, backend: i32) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while one::<i32>(observer, "SELECT cardinality(pg_blocking_pids($1))", &[&backend]) == 0 {
        assert!(Instant::now() < deadline, "backend {backend} does not wait");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The faults that DETAIL lists, as `path fault`.
fn faults(error: &postgres::error::DbError) -> Vec<String> {
    let faults: Vec<Value> = serde_json::from_str(error.detail().expect("DETAIL")).expect("DETAIL is a JSON array");
    faults.iter().map(|fault| format!("{} {}", fault["path"].as_str().unwrap(), fault["fault"].as_str().unwrap())).collect()
}

#[test]
fn a_document_becomes_rows_once() {
    let database = Database::new();
    let mut client = database.connect();
    let expected = [
        "create feature minutes",
        "create feature seats",
        "create feature sso",
        "create feature support",
        "create plan extra",
        "create plan free",
        "create plan team",
        "publish plan extra",
        "publish plan free",
        "publish plan team",
        "create price stripe/price_1",
    ];
    assert_eq!(apply(&mut client, PRODUCT), expected);
    assert_eq!(apply(&mut client, PRODUCT), [""; 0]);
    let again = client.query("SELECT * FROM entitlements.apply_catalog($1::jsonb)", &[&json_of(PRODUCT)]).unwrap();
    assert_eq!(again.len(), 0);

    let team = client
        .query(
            "SELECT feature.key, cell.inherited,
                 coalesce(to_jsonb(cell.enabled), cell.config, to_jsonb(cell.amount)), cell.per_unit
             FROM entitlements.plan_features AS cell
             JOIN entitlements.features AS feature ON feature.id = cell.feature_id
             JOIN entitlements.plan_versions AS version ON version.id = cell.plan_version_id
             JOIN entitlements.plans AS plan ON plan.id = version.plan_id
             WHERE plan.key = 'team' AND version.version = 1 AND version.rank = 10
             ORDER BY feature.key",
            &[],
        )
        .unwrap();
    let team: Vec<(String, bool, Value, bool)> =
        team.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    let cell = |key: &str, inherited, value, per_unit| (key.to_owned(), inherited, value, per_unit);
    assert_eq!(
        team,
        [
            cell("minutes", false, json!(3000), false),
            cell("seats", false, json!(1), true),
            cell("sso", true, json!(false), false),
            cell("support", false, json!("standard"), false),
        ]
    );
    let quota = row(
        &mut client,
        "SELECT period = '1 month', anchor, overage, thresholds = '{0.8, 1}' FROM entitlements.features WHERE key = 'minutes'",
        &[],
    );
    assert_eq!((quota.get(0), quota.get(1), quota.get(2), quota.get(3)), (true, "calendar", "reject", true));
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_changed_plan_gets_a_new_version_with_those_that_extend_it() {
    let (_database, mut client) = product();
    let changed = r#"{"plans": {"free": {"features": {"sso": true, "support": "community", "minutes": 2000, "seats": 3}}}}"#;
    let rows = client.query("SELECT * FROM entitlements.apply_catalog($1::text)", &[&changed]).unwrap();
    assert_eq!(changes(&rows), ["publish plan free", "publish plan team"]);
    let detail: Value = rows[1].get(3);
    assert_eq!(detail["version"], 2);
    assert_eq!(detail["changed"], json!({"sso": {"from": false, "to": true}}));
    // The version before is as it was.
    let old: bool = one(
        &mut client,
        "SELECT cell.enabled FROM entitlements.plan_features AS cell
         JOIN entitlements.plan_versions AS version ON version.id = cell.plan_version_id
         JOIN entitlements.plans AS plan ON plan.id = version.plan_id
         JOIN entitlements.features AS feature ON feature.id = cell.feature_id
         WHERE plan.key = 'team' AND version.version = 1 AND feature.key = 'sso'",
        &[],
    );
    assert!(!old);
}

#[test]
fn what_changes_in_place_and_what_is_archived() {
    let (_database, mut client) = product();
    let renamed = r#"{"features": {"minutes": {"name": "Minutes", "period": "7 days", "overage": "allow", "ceiling": 1.25}},
        "plans": {"team": {"name": "Team", "archived": true}},
        "prices": {"stripe": {"price_1": {"plan": "team", "version": 1, "quantity": 5}, "price_2": {"plan": "extra"}}}}"#;
    assert_eq!(
        apply(&mut client, renamed),
        [
            "update feature minutes",
            "update plan team",
            "archive plan team",
            "update price stripe/price_1",
            "create price stripe/price_2"
        ]
    );
    let minutes = row(
        &mut client,
        "SELECT name, period = '7 days', overage, ceiling = 1.25, thresholds = '{0.8, 1}' FROM entitlements.features WHERE key = 'minutes'",
        &[],
    );
    assert_eq!((minutes.get(0), minutes.get(1), minutes.get(2)), ("Minutes", true, "allow"));
    assert!(minutes.get::<_, bool>(3) && minutes.get::<_, bool>(4));
    let archived = "SELECT name = 'Team' AND archived_at IS NOT NULL FROM entitlements.plans WHERE key = 'team'";
    assert!(one::<bool>(&mut client, archived, &[]));
    let archived_at: std::time::SystemTime =
        one(&mut client, "SELECT archived_at FROM entitlements.plans WHERE key = 'team'", &[]);
    apply(&mut client, r#"{"plans": {"team": {"name": "The team"}}}"#);
    assert_eq!(archived_at, one(&mut client, "SELECT archived_at FROM entitlements.plans WHERE key = 'team'", &[]));
    let price = "SELECT version = 1 AND quantity = 5 FROM entitlements.prices WHERE external_id = 'price_1'";
    assert!(one::<bool>(&mut client, price, &[]));

    let back = r#"{"plans": {"team": {"archived": false}}, "prices": {"stripe": {"price_2": null}}}"#;
    assert_eq!(apply(&mut client, back), ["restore plan team", "remove price stripe/price_2"]);
    assert!(one::<bool>(&mut client, "SELECT archived_at IS NULL FROM entitlements.plans WHERE key = 'team'", &[]));
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.prices", &[]), 1);
}

#[test]
fn how_usage_is_metered_becomes_rows() {
    let (_database, mut client) = product();
    let metered = r#"{"features": {
        "answers": {"kind": "quota", "draws_on": {"feature": "credits", "cost": 2.5}},
        "credits": {"kind": "quota", "period": "1 month", "rollover": {"max": "unlimited", "windows": 3}, "ledger": true},
        "images": {"kind": "quota", "draws_on": {"feature": "minutes"}, "anchor": "renewal", "rollover": {"max": 500}},
        "seats": {"lease": "15 minutes", "linger": "PT5M"},
        "calls": {"kind": "rate", "period": "1 second", "store": "shared"},
        "logins": {"kind": "rate", "period": "1 second"}}}"#;
    assert_eq!(
        apply(&mut client, metered),
        [
            "create feature calls",
            "create feature credits",
            "create feature logins",
            "update feature seats",
            "create feature answers",
            "create feature images",
        ]
    );
    assert_eq!(apply(&mut client, metered), [""; 0]);
    let rows = |client: &mut Client| -> Vec<String> {
        one(
            client,
            "SELECT array_agg(concat_ws(' ', feature.key, 'draws ' || pool.key || ' ×' || feature.cost,
                 'rolls ' || feature.rollover || ' ×' || feature.rollover_windows, CASE WHEN feature.ledger THEN 'ledger' END,
                 'lease ' || feature.lease, 'linger ' || feature.linger, feature.store) ORDER BY feature.key)
             FROM entitlements.features AS feature
             LEFT JOIN entitlements.features AS pool ON pool.id = feature.draws_on
             WHERE feature.kind IN ('quota', 'allocation', 'rate')",
            &[],
        )
    };
    assert_eq!(
        rows(&mut client),
        [
            "answers draws credits ×2.5",
            "calls shared",
            "credits rolls Infinity ×3 ledger",
            "images draws minutes ×1 rolls 500 ×1",
            "logins table",
            "minutes",
            "seats lease 00:15:00 linger 00:05:00",
        ]
    );
    // The pool and what draws on it change places, and everything else goes back to its default.
    let turned = r#"{"features": {
        "answers": {"draws_on": null}, "credits": {"rollover": null, "ledger": false, "draws_on": {"feature": "answers"}},
        "images": {"kind": "flag"}, "minutes": {"draws_on": {"feature": "answers", "cost": 0.1}},
        "seats": {"lease": null, "linger": null}, "calls": {"store": null}}}"#;
    apply(&mut client, turned);
    assert_eq!(
        rows(&mut client),
        ["answers", "calls table", "credits draws answers ×1", "logins table", "minutes draws answers ×0.1", "seats"]
    );
    let document =
        r#"{"features": {"answers": {"kind": "flag"}, "other": {"kind": "quota", "draws_on": {"feature": "credit"}}}}"#;
    let error = refused_with(&mut client, "NE008", "SELECT * FROM entitlements.apply_catalog($1::text)", &[&document]);
    assert_eq!(
        faults(&error),
        [
            "$.features.answers.kind 'credits' draws on the feature, so it stays a quota",
            "$.features.answers.kind 'minutes' draws on the feature, so it stays a quota",
            "$.features.other.draws_on.feature unknown feature; nearest: credits",
        ]
    );
}

#[test]
fn a_dry_run_gives_the_same_rows_and_writes_nothing() {
    let database = Database::new();
    let mut client = database.connect();
    apply(
        &mut client,
        r#"{"features": {"sso": {"kind": "flag"}}, "plans": {"free": {"kind": "base", "features": {"sso": true}}}}"#,
    );
    hold(&mut client, "acme", "free", None);
    let before: String = one(&mut client, CATALOG_TABLES, &[]);
    let text = |rows: Vec<Row>| -> Vec<String> { rows.iter().map(|row| row.get(0)).collect() };
    let run = "SELECT t::text FROM entitlements.apply_catalog($1::text, $2) AS t";

    let mut reading = client.build_transaction().read_only(true).start().unwrap();
    let planned = text(reading.query(run, &[&PRODUCT, &true]).unwrap());
    let id: Option<String> = reading.query_one("SELECT pg_current_xact_id_if_assigned()::text", &[]).unwrap().get(0);
    assert_eq!(id, None);
    reading.commit().unwrap();
    assert_eq!(before, one::<String>(&mut client, CATALOG_TABLES, &[]));

    let applied = text(client.query(run, &[&PRODUCT, &false]).unwrap());
    assert!(applied.len() > 8);
    assert_eq!(planned, applied);
    assert_ne!(before, one::<String>(&mut client, CATALOG_TABLES, &[]));
}

#[test]
fn a_dry_run_waits_for_nobody() {
    let (database, mut client) = product();
    let mut editing = client.transaction().unwrap();
    editing.query("SELECT entitlements.apply_catalog('{\"plans\": {\"team\": {\"rank\": 11}}}')", &[]).unwrap();
    let mut other = database.connect();
    other.batch_execute("SET lock_timeout = '1s'").unwrap();
    let dry = "SELECT * FROM entitlements.apply_catalog('{\"plans\": {\"team\": {\"rank\": 12}}}', dry_run => true)";
    assert_eq!(changes(&other.query(dry, &[]).unwrap()), ["publish plan team"]);
    export(&mut other);
    let wet = "SELECT * FROM entitlements.apply_catalog('{\"plans\": {\"team\": {\"rank\": 12}}}')";
    refused_with(&mut other, "55P03", wet, &[]);
}

#[test]
fn an_export_states_the_catalog_whole_and_exactly() {
    let (_database, mut client) = product();
    apply(
        &mut client,
        r#"{"features": {"bytes": {"kind": "allocation"}, "api-calls": {"kind": "rate", "period": "1 day 02:03:04.000005", "burst": 7.5},
                "wide": {"kind": "config"}, "old": {"kind": "flag", "archived": true},
                "credits": {"kind": "quota", "anchor": "renewal", "rollover": {"max": 0.000000001, "windows": 120}, "ledger": true},
                "answers": {"kind": "quota", "period": "P1Y2M3DT4H", "rollover": {"max": "unlimited"},
                    "draws_on": {"feature": "credits", "cost": 999999999999999999.999999999}},
                "desks": {"kind": "allocation", "lease": "1 month 2 days 03:04:05.000006", "linger": "PT5M"},
                "hits": {"kind": "rate", "period": "1 second", "store": "shared"}},
            "plans": {"team": {"features": {"seats": null, "bytes": 999999999999999999.999999999, "api-calls": "unlimited",
                "wide": {"deep": [1e2, 0.10, "\u00e9\"\\", null, {"n": 123456789012345678901234567890}]}}},
                "extra": {"archived": true, "name": "More minutes"}}}"#,
    );
    // Settings that change how values are printed.
    client
        .batch_execute("SET IntervalStyle = 'sql_standard'; SET DateStyle = 'German'; SET extra_float_digits = -15; SET TimeZone = 'Asia/Tokyo'")
        .unwrap();
    let exported: String = one(&mut client, "SELECT entitlements.export_catalog()::text", &[]);
    assert!(exported.contains("999999999999999999.999999999"), "{exported}");
    assert!(exported.contains("123456789012345678901234567890"), "{exported}");
    assert!(exported.contains("1 month 2 days 3 hours 4 minutes 5 seconds 6 microseconds"), "{exported}");
    assert_eq!(apply(&mut client, &exported), [""; 0]);

    let elsewhere = Database::new();
    let mut other = elsewhere.connect();
    assert!(apply(&mut other, &exported).len() > 15);
    assert_eq!(apply(&mut other, &exported), [""; 0]);
    let without_revision = "SELECT (entitlements.export_catalog() - 'revision')::text";
    assert_eq!(one::<String>(&mut client, without_revision, &[]), one::<String>(&mut other, without_revision, &[]));
    let cells = "SELECT string_agg(concat_ws('|', p.key, f.key, c.enabled, c.config, c.amount, c.per_unit, c.inherited), ';' ORDER BY p.key, f.key)
        FROM entitlements.plan_features AS c
        JOIN entitlements.features AS f ON f.id = c.feature_id
        JOIN entitlements.plan_versions AS v ON v.id = c.plan_version_id
        JOIN entitlements.plans AS p ON p.id = v.plan_id
        WHERE v.version = (SELECT max(version) FROM entitlements.plan_versions WHERE plan_id = p.id)";
    assert_eq!(one::<String>(&mut client, cells, &[]), one::<String>(&mut other, cells, &[]));
}

#[test]
fn an_export_is_a_read() {
    let (_database, mut client) = product();
    let mut reading = client.build_transaction().read_only(true).start().unwrap();
    let exported: Value = reading.query_one("SELECT entitlements.export_catalog()", &[]).unwrap().get(0);
    assert_eq!(exported["plans"]["team"]["extends"], "free");
    let id: Option<String> = reading.query_one("SELECT pg_current_xact_id_if_assigned()::text", &[]).unwrap().get(0);
    assert_eq!(id, None);
    reading.commit().unwrap();
    // In a transaction that has written, it shows what that wrote.
    let mut writing = client.transaction().unwrap();
    writing.query("SELECT entitlements.apply_catalog('{\"plans\": {\"team\": {\"rank\": 99}}}')", &[]).unwrap();
    let exported: Value = writing.query_one("SELECT entitlements.export_catalog()", &[]).unwrap().get(0);
    assert_eq!(exported["plans"]["team"]["rank"], 99);
    writing.rollback().unwrap();
    assert_eq!(export(&mut client)["plans"]["team"]["rank"], 10);
}

#[test]
fn every_fault_is_reported_with_its_place_and_nothing_is_written() {
    let (_database, mut client) = product();
    let before: String = one(&mut client, CATALOG_TABLES, &[]);
    let apply = "SELECT * FROM entitlements.apply_catalog($1::text)";
    let error = refused_with(
        &mut client,
        "NE008",
        apply,
        &[&r#"{"features": {"a": {"kind": "flag", "period": "1 month"}, "b": {"kind": "switch"}},
               "plans": {"x": {"kind": "base", "extends": "y"}, "y": {"kind": "base", "extends": "x", "features": {"minutes": -1, "seat": 2}}},
               "colour": "red"}"#],
    );
    let found = faults(&error);
    for place in [
        "$.features.a.period ",
        "$.features.b.kind ",
        "$.plans.y.features.minutes -1 is negative",
        "$.plans.y.features.seat unknown feature; nearest: seats",
        "$.colour unknown member",
        "$.plans.x.extends plans extend one another in a circle",
    ] {
        assert!(found.iter().any(|fault| fault.starts_with(place)), "{place} is not among {found:#?}");
    }
    assert_eq!(found.len(), 6);
    assert!(error.message().ends_with("(and 5 more faults)"), "{}", error.message());

    let many = |count: usize| {
        let features: Vec<String> = (0..count).map(|n| format!(r#""f{n}": {{"kind": "flag"}}"#)).collect();
        format!(r#"{{"features": {{{}}}}}"#, features.join(","))
    };
    for (document, fault) in [
        (String::new(), "$ not valid JSON: EOF while parsing a value at line 1 column 0"),
        ("{\"plans\": }".to_owned(), "$ not valid JSON: expected value at line 1 column 11"),
        ("[]".to_owned(), "$ must be an object, not an array"),
        ("null".to_owned(), "$ must be an object, not null"),
        (
            r#"{"features": {"x": {"kind": "flag"}, "x": {"kind": "flag"}}}"#.to_owned(),
            "$.features.x the key appears more than once",
        ),
        (r#"{"features": {"": {"kind": "flag"}}}"#.to_owned(), "$.features[''] the key of a feature is empty"),
        (
            r#"{"features": {"a\u0000": {"kind": "flag"}}}"#.to_owned(),
            "$.features['a\\u0000'] the character U+0000 cannot be stored",
        ),
        (r#"{"features": {"x": {"kind": "flag", "name": "\ud800"}}}"#.to_owned(), "$.features.x.name not valid JSON"),
        (
            r#"{"features": {"x": {"kind": "config", "schema": {"type": "strin"}}}}"#.to_owned(),
            "$.features.x.schema not a JSON Schema",
        ),
        (
            r#"{"features": {"x": {"kind": "config", "schema": {"$ref": "http://example.com/schema"}}}}"#.to_owned(),
            "$.features.x.schema not a JSON Schema",
        ),
        (
            r#"{"plans": {"team": {"features": {"support": "gold"}}}}"#.to_owned(),
            "$.plans.team.features.support does not fit",
        ),
        (
            r#"{"plans": {"team": {"features": {"minutes": 1e18}}}}"#.to_owned(),
            "$.plans.team.features.minutes 1e18 is not below 10^18",
        ),
        (
            r#"{"plans": {"team": {"features": {"minutes": "NaN"}}}}"#.to_owned(),
            "$.plans.team.features.minutes must be a number",
        ),
        (many(100_000), "$.features 100000 features, more than 10000"),
        (format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)), "$[0][0]"),
        (format!(r#"{{"features": {{"{}": {{"kind": "flag"}}}}}}"#, "k".repeat(1 << 20)), "$.features['kkk"),
        (format!("\"{}\"", "x".repeat(17 << 20)), "$ the document has 17825794 bytes, more than 16777216 are not read"),
    ] {
        let error = refused_with(&mut client, "NE008", apply, &[&document]);
        let found = faults(&error);
        assert!(found[0].starts_with(fault), "{document:.100}: {found:?}");
        let dry = "SELECT * FROM entitlements.apply_catalog($1::text, true)";
        assert_eq!(faults(&refused_with(&mut client, "NE008", dry, &[&document])), found);
    }
    assert_eq!(before, one::<String>(&mut client, CATALOG_TABLES, &[]));

    // An untyped literal is text, which still has both of two equal keys.
    refused_with(&mut client, "NE008", r#"SELECT entitlements.apply_catalog('{"features": {}, "features": {}}')"#, &[]);
    client.query(r#"SELECT entitlements.apply_catalog('{"features": {}, "features": {}}'::jsonb)"#, &[]).unwrap();
}

#[test]
fn arguments_that_mean_nothing_are_refused() {
    let (_database, mut client) = product();
    for call in [
        "apply_catalog(NULL::text)",
        "apply_catalog(NULL::jsonb)",
        "apply_catalog('{}', NULL)",
        "define_feature(NULL, 'flag')",
        "define_feature('x', 'flag', NULL)",
        "define_feature('x', 'flag', '[]')",
        "define_feature('x', 'flag', '{\"kind\": \"flag\"}')",
        "define_plan(NULL)",
        "define_plan('')",
        "define_plan('x', kind => 'bundle')",
        "define_plan('x', extends => 'no spaces')",
        "set_plan_feature(NULL, 'sso', 'true')",
        "set_plan_feature('team', NULL, 'true')",
        "discard_draft(NULL)",
        "publish_plan(NULL)",
        "define_feature(repeat('k', 1000000), 'flag')",
        "define_plan(repeat('k', 1000000))",
        "publish_plan(repeat('k', 1000000))",
        "set_plan_feature('team', 'sso', (repeat('[', 1000) || repeat(']', 1000))::jsonb)",
        "migrate_subscriptions(NULL, 1, 2)",
        "migrate_subscriptions('team', 1, NULL)",
        "migrate_subscriptions('team', 1, 1)",
        "migrate_subscriptions('team', NULL, 1, at => NULL)",
        "migrate_subscriptions('team', NULL, 1, at => 'infinity')",
        "migrate_subscriptions('team', NULL, 1, ARRAY[NULL])",
        "migrate_subscriptions('team', NULL, 1, dry_run => NULL)",
    ] {
        refused_with(&mut client, "NE007", &format!("SELECT entitlements.{call}"), &[]);
    }
}

#[test]
fn what_is_published_keeps_its_kind() {
    let (_database, mut client) = product();
    for (document, path) in [
        (r#"{"features": {"sso": {"kind": "quota"}}}"#, "$.features.sso.kind"),
        (r#"{"features": {"minutes": {"combine": "sum"}}}"#, "$.features.minutes.combine"),
        (r#"{"plans": {"extra": {"kind": "base"}}}"#, "$.plans.extra.kind"),
    ] {
        let error = refused_with(&mut client, "NE009", "SELECT entitlements.apply_catalog($1::text)", &[&document]);
        assert!(faults(&error)[0].starts_with(path), "{error:?}");
    }
    // A feature that no plan carries may still change, unless an account has an override of it.
    client.query("SELECT entitlements.define_feature('beta', 'flag')", &[]).unwrap();
    client.query("SELECT entitlements.define_feature('beta', 'quota')", &[]).unwrap();
    hold(&mut client, "acme", "team", Some(1));
    client
        .execute(
            "INSERT INTO entitlements.overrides (account_id, feature_id, kind, mode, amount, reason, source, created_by, starts_at, ended_at)
             SELECT account.id, feature.id, feature.kind, 'set', 5, 'trial', 'manual', 'test', now(), now()
             FROM entitlements.accounts AS account, entitlements.features AS feature
             WHERE account.key = 'acme' AND feature.key = 'beta'",
            &[],
        )
        .unwrap();
    let error = refused_with(&mut client, "NE009", "SELECT entitlements.define_feature('beta', 'flag')", &[]);
    assert!(faults(&error)[0].starts_with("$.features.beta.kind "), "{error:?}");
    // Or has paid for units of it, or has used it.
    for (feature, have) in [
        ("paid", "grant_credit('acme', 'paid', 5, 'paid')"),
        ("used", "record_usage('[{\"account\": \"acme\", \"feature\": \"used\"}]')"),
    ] {
        client.query("SELECT entitlements.define_feature($1, 'quota')", &[&feature]).unwrap();
        client.query(&format!("SELECT entitlements.{have}"), &[]).unwrap();
        let error = refused_with(&mut client, "NE009", "SELECT entitlements.define_feature($1, 'flag')", &[&feature]);
        assert!(faults(&error)[0].starts_with(&format!("$.features.{feature}.kind ")), "{error:?}");
    }
}

#[test]
fn a_stale_export_is_refused() {
    let (_database, mut client) = product();
    let mut mine = export(&mut client);
    let same = mine.clone();
    apply(&mut client, r#"{"plans": {"free": {"features": {"sso": true}}}}"#);
    mine["plans"]["team"]["rank"] = json!(20);
    let error = refused_with(&mut client, "NE009", "SELECT entitlements.apply_catalog($1::jsonb)", &[&mine]);
    assert!(error.message().contains("revision"), "{error:?}");
    // What it says about plan free is stale too, so even the unedited export would take that change back.
    refused_with(&mut client, "NE009", "SELECT entitlements.apply_catalog($1::jsonb)", &[&same]);
    assert_eq!(export(&mut client)["plans"]["free"]["features"], json!({"sso": true}));

    // Drafts are no part of an export: editing one does not make it stale.
    let mut fresh = export(&mut client);
    client.query("SELECT entitlements.set_plan_feature('extra', 'minutes', '5')", &[]).unwrap();
    assert_eq!(export(&mut client)["revision"], fresh["revision"]);
    fresh["plans"]["team"]["rank"] = json!(20);
    client.query("SELECT entitlements.apply_catalog($1::jsonb)", &[&fresh]).unwrap();
    assert_ne!(export(&mut client)["revision"], fresh["revision"]);
}

#[test]
fn two_editors_at_once_lose_nothing() {
    let (database, mut first) = product();
    let mut second = database.connect();
    let waiting = backend(&mut second);
    let mut editing = first.transaction().unwrap();
    editing.query(r#"SELECT entitlements.apply_catalog('{"plans": {"free": {"rank": 1}}}')"#, &[]).unwrap();
    let other = thread::spawn(move || apply(&mut second, r#"{"plans": {"team": {"rank": 20}}}"#));
    wait_until_blocked(&mut database.connect(), waiting);
    editing.commit().unwrap();
    assert_eq!(other.join().unwrap(), ["publish plan team"]);
    let catalog = export(&mut first);
    assert_eq!((&catalog["plans"]["free"]["rank"], &catalog["plans"]["team"]["rank"]), (&json!(1), &json!(20)));
}

#[test]
fn two_editors_of_one_plan_get_versions_after_one_another() {
    let (database, mut first) = product();
    let mut second = database.connect();
    let waiting = backend(&mut second);
    let mut editing = first.transaction().unwrap();
    editing.query(r#"SELECT entitlements.apply_catalog('{"plans": {"team": {"rank": 1}}}')"#, &[]).unwrap();
    let other = thread::spawn(move || {
        apply(&mut second, r#"{"plans": {"team": {"features": {"minutes": 1}}}}"#);
        second
    });
    wait_until_blocked(&mut database.connect(), waiting);
    editing.commit().unwrap();
    let mut second = other.join().unwrap();
    let team = &export(&mut second)["plans"]["team"];
    assert_eq!((&team["rank"], &team["features"]), (&json!(1), &json!({"minutes": 1})));
    let versions: Vec<i32> = one(
        &mut second,
        "SELECT array_agg(version ORDER BY version) FROM entitlements.plan_versions
         WHERE plan_id = (SELECT id FROM entitlements.plans WHERE key = 'team')",
        &[],
    );
    assert_eq!(versions, [1, 2, 3]);
}

#[test]
fn an_editor_with_an_old_snapshot_is_told_so() {
    let (database, mut first) = product();
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let mut second = database.connect();
        second.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}")).unwrap();
        export(&mut second);
        let rank = export(&mut first)["plans"]["free"]["rank"].as_i64().unwrap_or(0) + 1;
        apply(&mut first, &format!(r#"{{"plans": {{"free": {{"rank": {rank}}}}}}}"#));
        refused_with(&mut second, "40001", r#"SELECT entitlements.apply_catalog('{"plans": {"team": {"rank": 20}}}')"#, &[]);
        second.batch_execute("ROLLBACK").unwrap();
    }
    assert_eq!(export(&mut first)["plans"]["team"]["rank"], 10);
}

#[test]
fn the_first_two_editors_of_all_take_turns_too() {
    for level in ["READ COMMITTED", "REPEATABLE READ"] {
        let database = Database::new();
        let (mut first, mut second) = (database.connect(), database.connect());
        second.batch_execute(&format!("SET default_transaction_isolation = '{level}'")).unwrap();
        let waiting = backend(&mut second);
        let mut editing = first.transaction().unwrap();
        editing.query(r#"SELECT entitlements.apply_catalog('{"features": {"sso": {"kind": "flag"}}}')"#, &[]).unwrap();
        let other = thread::spawn(move || {
            let applied =
                second.query(r#"SELECT entitlements.apply_catalog('{"features": {"seats": {"kind": "allocation"}}}')"#, &[]);
            applied.err().map(|error| error.code().expect("an error of the server").code().to_owned())
        });
        wait_until_blocked(&mut database.connect(), waiting);
        editing.commit().unwrap();
        let refusal = other.join().unwrap();
        let features = export(&mut first)["features"].as_object().unwrap().len();
        match level {
            "READ COMMITTED" => assert_eq!((refusal.as_deref(), features), (None, 2)),
            _ => assert_eq!((refusal.as_deref(), features), (Some("40001"), 1)),
        }
    }
}

#[test]
fn a_rolled_back_document_leaves_nothing() {
    let (_database, mut client) = product();
    let before: String = one(&mut client, CATALOG_TABLES, &[]);
    let mut editing = client.transaction().unwrap();
    editing.query(r#"SELECT entitlements.apply_catalog('{"plans": {"team": {"rank": 1}}}')"#, &[]).unwrap();
    let mut nested = editing.transaction().unwrap();
    nested.query("SELECT entitlements.set_plan_feature('team', 'sso', 'true')", &[]).unwrap();
    nested.query("SELECT entitlements.publish_plan('team')", &[]).unwrap();
    nested.rollback().unwrap();
    assert_eq!(editing.query_one("SELECT entitlements.publish_plan('team')", &[]).unwrap().get::<_, i32>(0), 2);
    editing.rollback().unwrap();
    assert_eq!(before, one::<String>(&mut client, CATALOG_TABLES, &[]));
}

#[test]
fn a_publication_reaches_followers_at_commit_and_nobody_else() {
    let (database, mut editor) = product();
    let mut reader = database.connect();
    hold(&mut editor, "follower", "team", None);
    hold(&mut editor, "pinned", "team", Some(1));
    let both = |client: &mut Client| (value_of(client, "follower", "minutes"), value_of(client, "pinned", "minutes"));
    assert_eq!(both(&mut reader), (json!(3000), json!(3000)));

    let mut editing = editor.transaction().unwrap();
    editing.query("SELECT entitlements.set_plan_feature('team', 'minutes', '4000')", &[]).unwrap();
    assert_eq!(both(&mut reader), (json!(3000), json!(3000)));
    editing.query("SELECT entitlements.publish_plan('team')", &[]).unwrap();
    let own: Value = editing.query_one("SELECT entitlements.value_of('follower'::text, 'minutes')", &[]).unwrap().get(0);
    assert_eq!(own, 4000);
    assert_eq!(both(&mut reader), (json!(3000), json!(3000)));
    editing.commit().unwrap();
    assert_eq!(both(&mut reader), (json!(4000), json!(3000)));
}

#[test]
fn accounts_that_a_change_affects_are_counted() {
    let (_database, mut client) = product();
    for account in ["one", "two", "three"] {
        hold(&mut client, account, "team", None);
    }
    hold(&mut client, "three", "team", None);
    hold(&mut client, "pinned", "team", Some(1));
    hold(&mut client, "other", "extra", None);
    let past = hold(&mut client, "past", "team", None);
    client
        .execute("UPDATE entitlements.subscriptions SET ends_at = now() - interval '1 minute' WHERE id = $1", &[&past])
        .unwrap();
    let former = hold(&mut client, "former", "team", None);
    client.execute("UPDATE entitlements.subscriptions SET superseded_at = now() WHERE id = $1", &[&former]).unwrap();
    let rows = client
        .query(
            r#"SELECT action, object, key, accounts_affected FROM entitlements.apply_catalog(
                   '{"features": {"sso": {"name": "Single sign-on"}}, "plans": {"free": {"features": {"sso": true}}}}', true)"#,
            &[],
        )
        .unwrap();
    let counts: Vec<(String, i64)> = rows.iter().map(|row| (row.get(2), row.get(3))).collect();
    assert_eq!(counts, [("sso".to_owned(), 0), ("free".to_owned(), 0), ("team".to_owned(), 3)]);
}

#[test]
fn accounts_that_a_changed_rule_affects_are_counted() {
    let (_database, mut client) = product();
    hold(&mut client, "follower", "team", None);
    hold(&mut client, "pinned", "free", Some(1));
    client
        .batch_execute(
            "SELECT entitlements.define_account('below', parent => 'follower'), entitlements.define_account('lowest', parent => 'below');
             SELECT entitlements.define_account('bare'), entitlements.define_account('credited'), entitlements.define_account('excepted');
             SELECT entitlements.grant_credit('credited', 'minutes', 5, 'paid');
             SELECT entitlements.set_override('excepted', 'minutes', 'set', '5', 'trial'), entitlements.set_override('bare', 'minutes', 'deny', NULL, 'trial')",
        )
        .unwrap();
    let mut counts = |document: &str| -> Vec<(String, i64)> {
        let rows =
            client.query("SELECT key, accounts_affected FROM entitlements.apply_catalog($1::text, true)", &[&document]);
        rows.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    // The two that have it by a plan, two below, one by a credit and one by an override.
    for rule in
        [r#""overage": "cap""#, r#""overage": "allow", "ceiling": 2"#, r#""period": "1 day""#, r#""rollover": {"max": 5}"#]
    {
        let document = format!(r#"{{"features": {{"minutes": {{{rule}}}}}}}"#);
        assert_eq!(counts(&document), [("minutes".to_owned(), 6)], "{rule}");
    }
    assert_eq!(counts(r#"{"features": {"minutes": {"name": "Minutes", "thresholds": [1]}}}"#), [("minutes".to_owned(), 0)]);
    // A new version reaches those below its followers too.
    assert_eq!(counts(r#"{"plans": {"team": {"features": {"minutes": 5}}}}"#), [("team".to_owned(), 3)]);
}

#[test]
fn a_feature_is_defined_member_by_member() {
    let (_database, mut client) = product();
    client
        .query(r#"SELECT entitlements.define_feature('storage', 'allocation', '{"unit": "GiB", "overage": "allow"}')"#, &[])
        .unwrap();
    client
        .query(r#"SELECT entitlements.define_feature('storage', definition => '{"ceiling": 1.5, "unit": null}')"#, &[])
        .unwrap();
    assert_eq!(
        export(&mut client)["features"]["storage"],
        json!({"kind": "allocation", "overage": "allow", "ceiling": 1.5})
    );
    client
        .query(r#"SELECT entitlements.define_feature('storage', definition => '{"ceiling": null, "overdraft": 2.50}')"#, &[])
        .unwrap();
    assert_eq!(
        export(&mut client)["features"]["storage"],
        json!({"kind": "allocation", "overage": "allow", "overdraft": 2.5})
    );
    client
        .query(r#"SELECT entitlements.define_feature('storage', definition => '{"ceiling": 1.5, "overdraft": null}')"#, &[])
        .unwrap();
    let entries: i64 = one(&mut client, "SELECT count(*) FROM entitlements.audit_log WHERE object_id = 'storage'", &[]);
    client.query(r#"SELECT entitlements.define_feature('storage', 'allocation', '{"ceiling": 1.50}')"#, &[]).unwrap();
    assert_eq!(
        entries,
        one::<i64>(&mut client, "SELECT count(*) FROM entitlements.audit_log WHERE object_id = 'storage'", &[])
    );
    let error = refused_with(
        &mut client,
        "NE008",
        "SELECT entitlements.define_feature('storage', definition => '{\"size\": 1}')",
        &[],
    );
    assert_eq!(faults(&error), ["$.features.storage.size unknown member"]);
    refused_with(&mut client, "NE008", "SELECT entitlements.define_feature('fresh')", &[]);
}

#[test]
fn a_plan_is_drafted_and_published() {
    let (_database, mut client) = product();
    let mut run = |sql: &str| {
        client.query(&format!("SELECT entitlements.{sql}"), &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    };
    run("define_plan('pro', extends => 'team', rank => 30, name => 'Pro')");
    run("set_plan_feature('pro', 'sso', 'true')");
    run("set_plan_feature('pro', 'minutes', '\"unlimited\"')");
    run("set_plan_feature('pro', 'seats', '{\"amount\": 2, \"per_unit\": true}')");
    run("set_plan_feature('pro', 'support', 'null')");
    assert!(export(&mut client)["plans"].get("pro").is_none());
    refused_with(&mut client, "NE005", "SELECT entitlements.migrate_subscriptions('pro', NULL, 1)", &[]);
    assert_eq!(publish(&mut client, "pro"), 1);
    assert_eq!(publish(&mut client, "pro"), 1);
    assert_eq!(
        export(&mut client)["plans"]["pro"],
        json!({"kind": "base", "name": "Pro", "extends": "team", "rank": 30, "features":
            {"sso": true, "minutes": "unlimited", "seats": {"amount": 2, "per_unit": true}, "support": null}})
    );
    hold(&mut client, "acme", "pro", None);
    let support: Option<Value> = one(&mut client, "SELECT entitlements.value_of('acme'::text, 'support')", &[]);
    assert_eq!((support, value_of(&mut client, "acme", "sso")), (None, json!(true)));

    // SQL NULL gives back what is inherited; empty texts take members away.
    let mut run = |sql: &str| {
        client.query(&format!("SELECT entitlements.{sql}"), &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    };
    run("set_plan_feature('pro', 'support', NULL)");
    run("define_plan('pro', name => '')");
    assert_eq!(publish(&mut client, "pro"), 2);
    assert_eq!(value_of(&mut client, "acme", "support"), json!("standard"));
    client.query("SELECT entitlements.define_plan('pro', extends => '')", &[]).unwrap();
    assert_eq!(publish(&mut client, "pro"), 3);
    let pro = &export(&mut client)["plans"]["pro"];
    assert_eq!((pro.get("extends"), pro.get("name"), &pro["rank"]), (None, None, &json!(30)));
}

#[test]
fn a_draft_without_changes_publishes_nothing() {
    let (_database, mut client) = product();
    client.query("SELECT entitlements.set_plan_feature('team', 'minutes', '3000.0')", &[]).unwrap();
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.plan_drafts", &[]), 1);
    assert_eq!(publish(&mut client, "team"), 1);
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.plan_drafts", &[]), 0);
    assert_eq!(publish(&mut client, "extra"), 1);
}

#[test]
fn publishing_a_plan_publishes_those_that_extend_it() {
    let (_database, mut client) = product();
    client.query("SELECT entitlements.set_plan_feature('free', 'sso', 'true')", &[]).unwrap();
    assert_eq!(publish(&mut client, "free"), 2);
    assert_eq!(publish(&mut client, "team"), 2);
    assert_eq!(publish(&mut client, "extra"), 1);
    hold(&mut client, "acme", "team", None);
    assert_eq!(value_of(&mut client, "acme", "sso"), json!(true));
}

#[test]
fn a_draft_does_not_take_back_what_was_published_meanwhile() {
    let (_database, mut client) = product();
    client.query("SELECT entitlements.set_plan_feature('team', 'minutes', '4000')", &[]).unwrap();
    apply(&mut client, r#"{"plans": {"team": {"rank": 11}}}"#);
    let error = refused_with(&mut client, "NE009", "SELECT entitlements.publish_plan('team')", &[]);
    assert!(error.hint().unwrap().contains("discard_draft"), "{error:?}");
    assert!(one::<bool>(&mut client, "SELECT entitlements.discard_draft('team')", &[]));
    assert!(!one::<bool>(&mut client, "SELECT entitlements.discard_draft('team')", &[]));
    client.query("SELECT entitlements.set_plan_feature('team', 'minutes', '4000')", &[]).unwrap();
    assert_eq!(publish(&mut client, "team"), 3);
    assert_eq!(export(&mut client)["plans"]["team"]["rank"], 11);
    // The same for a new plan that somebody else publishes first.
    client.query("SELECT entitlements.define_plan('pro')", &[]).unwrap();
    apply(&mut client, r#"{"plans": {"pro": {"kind": "base"}}}"#);
    refused_with(&mut client, "NE009", "SELECT entitlements.publish_plan('pro')", &[]);
}

#[test]
fn slips_in_a_draft_show_at_once_and_the_rest_when_it_is_published() {
    let (_database, mut client) = product();
    for (sqlstate, call) in [
        ("NE003", "set_plan_feature('team', 'seat', '1')"),
        ("NE005", "set_plan_feature('teams', 'seats', '1')"),
        ("NE005", "publish_plan('teams')"),
        ("NE007", "set_plan_feature('team', 'seats', '-1')"),
        ("NE007", "set_plan_feature('team', 'seats', '\"many\"')"),
        ("NE007", "set_plan_feature('team', 'sso', '1')"),
        ("NE007", "set_plan_feature('team', 'support', '\"gold\"')"),
    ] {
        refused_with(&mut client, sqlstate, &format!("SELECT entitlements.{call}"), &[]);
    }
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.plan_drafts", &[]), 0);
    client.query("SELECT entitlements.define_plan('pro', extends => 'tem')", &[]).unwrap();
    let error = refused_with(&mut client, "NE008", "SELECT entitlements.publish_plan('pro')", &[]);
    assert_eq!(faults(&error), ["$.plans.pro.extends there is no plan 'tem'; nearest: team"]);
    client.query("SELECT entitlements.define_plan('pro', extends => 'team')", &[]).unwrap();
    assert_eq!(publish(&mut client, "pro"), 1);
}

#[test]
fn edits_of_one_draft_by_two_editors_merge() {
    let (database, mut first) = product();
    let mut second = database.connect();
    let waiting = backend(&mut second);
    let mut editing = first.transaction().unwrap();
    editing.query("SELECT entitlements.set_plan_feature('team', 'minutes', '4000')", &[]).unwrap();
    let other = thread::spawn(move || {
        second.query("SELECT entitlements.set_plan_feature('team', 'sso', 'true')", &[]).unwrap();
    });
    wait_until_blocked(&mut database.connect(), waiting);
    editing.commit().unwrap();
    other.join().unwrap();
    assert_eq!(publish(&mut first, "team"), 2);
    let features = &export(&mut first)["plans"]["team"]["features"];
    assert_eq!((&features["minutes"], &features["sso"]), (&json!(4000), &json!(true)));
}

/// A migration's rows as `subscription account from>to ×quantity`.
fn moved(rows: &[Row]) -> Vec<String> {
    let text = |row: &Row| {
        let (id, account): (i64, &str) = (row.get(0), row.get(1));
        format!("{id} {account} {}>{} ×{}", row.get::<_, i32>(2), row.get::<_, i32>(3), row.get::<_, i32>(4))
    };
    rows.iter().map(text).collect()
}

/// The rows of a subscription that are believed now: version, status, term and grace in hours from now.
fn stretches(client: &mut Client, id: i64) -> Vec<String> {
    let rows = client
        .query(
            "SELECT concat_ws(' ', 'v' || version.version, held.status,
                 round(extract(epoch FROM held.starts_at - clock_timestamp()) / 3600) || '…' ||
                 CASE WHEN isfinite(held.ends_at) THEN round(extract(epoch FROM held.ends_at - clock_timestamp()) / 3600)::text ELSE '' END,
                 'grace ' || round(extract(epoch FROM held.grace_until - clock_timestamp()) / 3600))
             FROM entitlements.subscriptions AS held
             LEFT JOIN entitlements.plan_versions AS version ON version.id = held.plan_version_id
             WHERE held.id = $1 AND held.superseded_at IS NULL
             ORDER BY held.starts_at",
            &[&id],
        )
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// A catalog whose plan team has three versions.
fn three_versions() -> (Database, Client) {
    let (database, mut client) = product();
    for minutes in [4000, 5000] {
        apply(&mut client, &format!(r#"{{"plans": {{"team": {{"features": {{"minutes": {minutes}}}}}}}}}"#));
    }
    (database, client)
}

#[test]
fn subscriptions_move_to_another_version() {
    let (_database, mut client) = three_versions();
    let one_ = hold(&mut client, "one", "team", Some(1));
    let two = hold(&mut client, "two", "team", Some(2));
    let current = hold(&mut client, "current", "team", Some(3));
    let follower = hold(&mut client, "follower", "team", None);
    let minutes = |client: &mut Client| -> Vec<i64> {
        ["one", "two", "current", "follower"].map(|account| value_of(client, account, "minutes").as_i64().unwrap()).to_vec()
    };
    assert_eq!(minutes(&mut client), [3000, 4000, 5000, 5000]);

    let preview =
        "SELECT * FROM entitlements.migrate_subscriptions('team', NULL, 3, reason => 'everybody', dry_run => true)";
    let rows: Vec<String> =
        one(&mut client, "SELECT array_agg(t::text ORDER BY row_id) FROM entitlements.subscriptions AS t", &[]);
    let planned = moved(&client.query(preview, &[]).unwrap());
    assert_eq!(planned, [format!("{one_} one 1>3 ×2"), format!("{two} two 2>3 ×2")]);
    assert_eq!(
        rows,
        one::<Vec<String>>(
            &mut client,
            "SELECT array_agg(t::text ORDER BY row_id) FROM entitlements.subscriptions AS t",
            &[]
        )
    );
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.audit_log WHERE chain_id <> 0", &[]), 0);

    let from_two = "SELECT * FROM entitlements.migrate_subscriptions('team', 2, 1)";
    assert_eq!(moved(&client.query(from_two, &[]).unwrap()), [format!("{two} two 2>1 ×2")]);
    assert_eq!(minutes(&mut client), [3000, 3000, 5000, 5000]);
    let everybody = "SELECT * FROM entitlements.migrate_subscriptions('team', NULL, 3, reason => 'everybody')";
    assert_eq!(moved(&client.query(everybody, &[]).unwrap()).len(), 2);
    assert_eq!(minutes(&mut client), [5000; 4]);
    assert_eq!(client.query(everybody, &[]).unwrap().len(), 0);

    // What was held before is still told; those that were not moved have no new rows.
    assert_eq!(stretches(&mut client, one_), ["v1 active -1…0", "v3 active 0…"]);
    for (id, count) in [(one_, 3), (two, 5), (current, 1), (follower, 1)] {
        assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.subscriptions WHERE id = $1", &[&id]), count);
    }
    let entry = row(
        &mut client,
        "SELECT entry.content::jsonb, entry.object_id FROM entitlements.audit_log AS entry
         JOIN entitlements.accounts AS account ON account.id = entry.chain_id
         WHERE account.key = 'one' AND entry.action = 'migrate'",
        &[],
    );
    let content: Value = entry.get(0);
    assert_eq!(entry.get::<_, &str>(1), one_.to_string());
    assert_eq!(
        (&content["old"]["version"], &content["new"]["version"], &content["reason"]),
        (&json!(1), &json!(3), &json!("everybody"))
    );
}

#[test]
fn a_migration_chooses_accounts() {
    let (_database, mut client) = three_versions();
    for account in ["one", "two", "three"] {
        hold(&mut client, account, "team", Some(1));
    }
    hold(&mut client, "elsewhere", "extra", Some(1));
    let chosen = "SELECT * FROM entitlements.migrate_subscriptions('team', 1, 2, $1, dry_run => $2)";
    let accounts = vec!["three", "one", "three", "elsewhere"];
    for dry_run in [true, false] {
        let rows = client.query(chosen, &[&accounts, &dry_run]).unwrap();
        let keys: Vec<&str> = rows.iter().map(|row| row.get(1)).collect();
        assert_eq!(keys, ["one", "three"]);
    }
    assert_eq!(value_of(&mut client, "two", "minutes"), json!(3000));
    assert_eq!(client.query(chosen, &[&Vec::<&str>::new(), &false]).unwrap().len(), 0);
    for (sqlstate, call) in [
        ("NE005", "migrate_subscriptions('teams', 1, 2)"),
        ("NE005", "migrate_subscriptions('team', 1, 4)"),
        ("NE005", "migrate_subscriptions('team', 0, 1)"),
        ("NE006", "migrate_subscriptions('team', 1, 2, ARRAY['two', 'nobody'])"),
    ] {
        refused_with(&mut client, sqlstate, &format!("SELECT entitlements.{call}"), &[]);
    }
    assert_eq!(value_of(&mut client, "two", "minutes"), json!(3000));
}

#[test]
fn a_migration_begins_when_it_is_told_to() {
    let (_database, mut client) = three_versions();
    let update = |client: &mut Client, id: i64, set: &str| {
        client.execute(&format!("UPDATE entitlements.subscriptions SET {set} WHERE id = $1"), &[&id]).unwrap();
    };
    let open = hold(&mut client, "open", "team", Some(1));
    let ending = hold(&mut client, "ending", "team", Some(1));
    update(&mut client, ending, "ends_at = now() + interval '2 hours', status = 'canceled'");
    let scheduled = hold(&mut client, "scheduled", "team", Some(1));
    update(&mut client, scheduled, "starts_at = now() + interval '5 hours'");
    let late = hold(&mut client, "late", "team", Some(1));
    update(
        &mut client,
        late,
        "status = 'past_due', ends_at = now() + interval '9 hours', grace_until = now() + interval '12 hours'",
    );
    let lapsed = hold(&mut client, "lapsed", "team", Some(1));
    update(
        &mut client,
        lapsed,
        "status = 'past_due', ends_at = now() + interval '9 hours', grace_until = now() + interval '1 hour'",
    );
    let grace = hold(&mut client, "grace", "team", Some(1));
    update(
        &mut client,
        grace,
        "status = 'past_due', ends_at = now() + interval '1 hour', grace_until = now() + interval '12 hours'",
    );

    let rows = client
        .query("SELECT * FROM entitlements.migrate_subscriptions('team', 1, 2, at => now() + interval '3 hours')", &[])
        .unwrap();
    let keys: Vec<&str> = rows.iter().map(|row| row.get(1)).collect();
    assert_eq!(keys, ["open", "scheduled", "late", "lapsed"]);
    assert_eq!(stretches(&mut client, open), ["v1 active -1…3", "v2 active 3…"]);
    assert_eq!(stretches(&mut client, ending), ["v1 canceled -1…2"]);
    assert_eq!(stretches(&mut client, scheduled), ["v2 active 5…"]);
    assert_eq!(stretches(&mut client, late), ["v1 past_due -1…3 grace 3", "v2 past_due 3…9 grace 12"]);
    assert_eq!(stretches(&mut client, lapsed), ["v1 past_due -1…3 grace 1", "v2 past_due 3…9"]);
    assert_eq!(stretches(&mut client, grace), ["v1 past_due -1…1 grace 12"]);
    assert_eq!(value_of(&mut client, "open", "minutes"), json!(3000));
}

#[test]
fn a_migration_keeps_the_terms() {
    let (_database, mut client) = three_versions();
    let id = hold(&mut client, "acme", "team", Some(1));
    client.query("SELECT entitlements.migrate_subscriptions('team', 1, 2, at => now() + interval '3 hours')", &[]).unwrap();
    let terms = "SELECT array_agg(round(extract(epoch FROM term_starts_at - clock_timestamp()) / 3600)::int ORDER BY row_id)
        FROM entitlements.subscriptions WHERE id = $1";
    assert_eq!(one::<Vec<i32>>(&mut client, terms, &[&id]), [-1, -1, -1]);
}

#[test]
fn a_migration_sees_what_changed_while_it_waited() {
    let (database, mut first) = three_versions();
    hold(&mut first, "one", "team", Some(1));
    hold(&mut first, "two", "team", Some(1));
    let mut second = database.connect();
    let waiting = backend(&mut second);
    let mut migrating = first.transaction().unwrap();
    migrating.query("SELECT entitlements.migrate_subscriptions('team', 1, 2, ARRAY['one'])", &[]).unwrap();
    let other = thread::spawn(move || {
        moved(&second.query("SELECT * FROM entitlements.migrate_subscriptions('team', 1, 3)", &[]).unwrap())
    });
    wait_until_blocked(&mut database.connect(), waiting);
    migrating.commit().unwrap();
    let moved = other.join().unwrap();
    assert_eq!(moved.len(), 1);
    assert!(moved[0].contains("two 1>3"), "{moved:?}");
    assert_eq!((value_of(&mut first, "one", "minutes"), value_of(&mut first, "two", "minutes")), (json!(4000), json!(5000)));
}

#[test]
fn history_is_in_order_though_transactions_are_not() {
    let (database, mut client) = three_versions();
    let mut early = database.connect();
    let mut early = early.transaction().unwrap();
    early.query("SELECT now()", &[]).unwrap();
    hold(&mut client, "acme", "team", Some(1));
    apply(&mut client, r#"{"plans": {"extra": {"rank": 1}}}"#);
    assert_eq!(early.query("SELECT entitlements.migrate_subscriptions('team', 1, 2)", &[]).unwrap().len(), 1);
    early.query(r#"SELECT entitlements.apply_catalog('{"plans": {"extra": {"rank": 2}}}')"#, &[]).unwrap();
    early.commit().unwrap();
    let in_order = "SELECT
        (SELECT bool_and(superseded_at IS NULL OR superseded_at >= recorded_at) AND count(DISTINCT recorded_at) = 1
            AND count(*) = 3 FROM entitlements.subscriptions)
        AND (SELECT bool_and(published_at >= former) AND count(former) = 4 FROM (
            SELECT published_at, lag(published_at) OVER (PARTITION BY plan_id ORDER BY version) AS former
            FROM entitlements.plan_versions) AS versions)";
    assert!(one::<bool>(&mut client, in_order, &[]));
}

#[test]
fn each_change_is_recorded() {
    let (_database, mut client) = product();
    apply(&mut client, r#"{"features": {"sso": {"name": "SSO"}}, "prices": {"stripe": {"price_1": {"plan": "free"}}}}"#);
    client.query("SELECT entitlements.set_plan_feature('team', 'minutes', '4000')", &[]).unwrap();
    client.query("SELECT entitlements.publish_plan('team')", &[]).unwrap();
    client.query("SELECT entitlements.publish_plan('team')", &[]).unwrap();
    client.query("SELECT entitlements.define_plan('team', rank => 9)", &[]).unwrap();
    client.query("SELECT entitlements.discard_draft('team')", &[]).unwrap();
    let rows = client
        .query("SELECT action, object, object_id, content::jsonb FROM entitlements.audit_log WHERE chain_id = 0 ORDER BY seq OFFSET 11", &[])
        .unwrap();
    assert_eq!(
        changes(&rows),
        [
            "update feature sso",
            "update price stripe/price_1",
            "edit draft team",
            "publish plan team",
            "publish draft team",
            "edit draft team",
            "discard draft team"
        ]
    );
    let content = |index: usize| rows[index].get::<_, Value>(3);
    assert_eq!(content(0), json!({"old": {"name": null}, "new": {"name": "SSO"}, "reason": null}));
    assert_eq!(content(1), json!({"old": {"plan": "team"}, "new": {"plan": "free"}, "reason": null}));
    assert_eq!(content(2)["new"]["features"]["minutes"], 4000);
    assert_eq!(content(3)["new"]["changed"], json!({"minutes": {"from": 3000, "to": 4000}}));
    assert_eq!(content(6)["new"], Value::Null);
}

#[test]
fn only_the_functions_may_be_granted() {
    let (database, mut client) = product();
    let role = format!("{}_editor", database.name());
    client.batch_execute(&format!("CREATE ROLE {role} LOGIN")).unwrap();
    let mut editor = database.connect_as(&role);
    let calls = [
        "apply_catalog('{\"plans\": {\"team\": {\"rank\": 3}}}'::text)",
        "apply_catalog('{\"plans\": {\"team\": {\"rank\": 4}}}'::jsonb)",
        "export_catalog()",
        "define_feature('beta', 'flag')",
        "define_plan('pro')",
        "set_plan_feature('pro', 'beta', 'true')",
        "publish_plan('pro')",
        "discard_draft('pro')",
        "migrate_subscriptions('team', 1, 2)",
    ];
    for call in calls {
        refused_with(&mut editor, "42501", &format!("SELECT entitlements.{call}"), &[]);
    }
    client
        .batch_execute(&format!(
            "GRANT USAGE ON SCHEMA entitlements TO {role};
             GRANT EXECUTE ON FUNCTION entitlements.apply_catalog(jsonb, boolean), entitlements.export_catalog(),
                 entitlements.define_feature, entitlements.define_plan, entitlements.set_plan_feature,
                 entitlements.publish_plan, entitlements.discard_draft, entitlements.migrate_subscriptions TO {role}"
        ))
        .unwrap();
    refused_with(&mut editor, "42501", &format!("SELECT entitlements.{}", calls[0]), &[]);
    // What the editor puts in the way of names is not looked at.
    editor
        .batch_execute(
            "CREATE TEMP TABLE features (key text); CREATE TEMP TABLE plans (key text); SET search_path = pg_temp",
        )
        .unwrap();
    for call in &calls[1..] {
        editor.query(&format!("SELECT entitlements.{call}"), &[]).unwrap_or_else(|error| panic!("{call}: {error:?}"));
    }
    refused_with(&mut editor, "42501", "SELECT * FROM entitlements.features", &[]);
    let author: String =
        one(&mut client, "SELECT DISTINCT role_name FROM entitlements.audit_log WHERE object_id = 'pro'", &[]);
    assert_eq!(author, role);
    let publisher: String =
        one(&mut client, "SELECT published_by FROM entitlements.plan_versions ORDER BY id DESC LIMIT 1", &[]);
    assert_eq!(publisher, role);
    drop(editor);
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).unwrap();
}

#[test]
fn the_greatest_catalog_is_applied() {
    let database = Database::new();
    let mut client = database.connect();
    let features: Vec<String> = (0..10_000).map(|n| format!(r#""f{n}": {{"kind": "quota"}}"#)).collect();
    let plans: Vec<String> = (0..100)
        .map(|plan| {
            let cells: Vec<String> = (0..1_000).map(|n| format!(r#""f{}": {n}"#, (plan * 1_000 + n) % 10_000)).collect();
            format!(r#""p{plan}": {{"kind": "base", "features": {{{}}}}}"#, cells.join(","))
        })
        .collect();
    let document = format!(r#"{{"features": {{{}}}, "plans": {{{}}}}}"#, features.join(","), plans.join(","));
    assert_eq!(apply(&mut client, &document).len(), 10_200);
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.plan_features", &[]), 100_000);
    assert_eq!(apply(&mut client, &document), [""; 0]);
    client.query("SELECT entitlements.set_plan_feature('p7', 'f7000', '1.5')", &[]).unwrap();
    assert_eq!(publish(&mut client, "p7"), 2);
}
