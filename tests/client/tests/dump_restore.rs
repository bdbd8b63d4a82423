//! What is stored survives pg_dump and a restore, and an extension that was updated is the one that is installed anew.

use entitlements_client_tests::{Database, one, row};
use postgres::Client;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};

const SNAPSHOT: &str = include_str!("../snapshot.sql");

/// A client program of the server's own version, connected to the database.
fn program(name: &str, database: &Database) -> Command {
    let mut command = Command::new(name);
    command.env("PGDATABASE", database.name()).env("PGOPTIONS", "-c client_min_messages=warning");
    if std::env::var_os("PGUSER").is_none() {
        command.env("PGUSER", "postgres");
    }
    command
}

fn pipe(mut from: Command, mut to: Command) {
    // What pg_dump says about accounts referring to accounts is no fault: the rows of a table come back in one statement.
    let mut source =
        from.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{from:?}: {error}"));
    let output = to.stdin(source.stdout.take().expect("a pipe")).output().unwrap_or_else(|error| panic!("{to:?}: {error}"));
    assert!(source.wait().unwrap().success(), "{from:?} failed");
    assert!(output.status.success(), "{to:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{to:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn lines(client: &mut Client, sql: &str) -> Vec<String> {
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Something in every table, and a past in each that has one. At the end a parent's row lies after its child's.
const LIFE: &str = r#"
    SELECT entitlements.apply_catalog('{
        "features": {"sso": {"kind": "flag", "name": "Single sign-on"},
                     "support": {"kind": "config", "schema": {"enum": ["community", "standard"]}},
                     "calls": {"kind": "quota", "unit": "call", "period": "1 month 12 hours", "thresholds": [0.8, 1], "overage": "allow", "ceiling": 1.25},
                     "seats": {"kind": "allocation"}, "requests": {"kind": "rate", "period": "90 seconds", "burst": 5.5}},
        "plans": {"free": {"kind": "base", "features": {"support": "community", "seats": 3, "calls": 0.000000001}},
                  "team": {"kind": "base", "extends": "free", "rank": 10, "description": "a \\ \n backslash and a new line",
                           "features": {"sso": true, "support": "standard", "calls": "unlimited", "requests": 100, "seats": {"amount": 1, "per_unit": true}}}},
        "prices": {"stripe": {"price_1": {"plan": "team"}, "price_2": {"plan": "team", "version": 1, "quantity": 5}}}}');
    SELECT entitlements.define_account('parent', time_zone => 'Europe/Vienna');
    SELECT entitlements.define_account('acme', 'parent');
    SELECT entitlements.define_account('acme', '');
    SELECT entitlements.define_account('acme', 'parent');
    SELECT entitlements.subscribe('parent', 'team', version_policy => 'latest', source => 'stripe', source_ref => 'order 1');
    SELECT entitlements.subscribe('acme', 'free', ends_at => now() + interval '1 year');
    SELECT entitlements.change_subscription(2, quantity => 3, reason => 'grew');
    SELECT entitlements.change_subscription(2, status => 'past_due', grace_until => now() + interval '1 month');
    SELECT entitlements.renew_subscription(2, now() + interval '2 years');
    SELECT entitlements.subscribe('late', 'team', ends_at => now() + interval '1 day');
    SELECT entitlements.end_subscription(3);
    SELECT entitlements.set_override('acme', 'sso', 'set', 'true', 'promised');
    SELECT entitlements.set_override('acme', 'sso', 'deny', NULL, 'no more');
    SELECT entitlements.set_override('acme', 'seats', 'set', '"unlimited"', 'a favour', now() + interval '1 day');
    SELECT entitlements.set_override('acme', 'support', 'set', '"standard"', 'a favour', source => 'sales');
    SELECT entitlements.clear_override(4, 'over');
    SELECT entitlements.block('acme', 'billing', 'unpaid');
    SELECT entitlements.unblock('acme', 'billing', 'paid');
    SELECT entitlements.block('late', 'fraud', 'chargeback', 'sso');
    SELECT entitlements.subscribe('gone', 'team', reason => 'a person');
    SELECT entitlements.erase_account('gone', 'asked for');
    SELECT entitlements.set_plan_feature('free', 'seats', '4');
    SELECT entitlements.publish_plan('free');
    SELECT entitlements.define_plan('draft', 'addon', rank => 5);
    SELECT entitlements.define_account('parent', metadata => '{"name": "Müller & Söhne"}');
"#;

/// Each table's content and where each sequence stands.
fn content(client: &mut Client) -> BTreeMap<String, String> {
    let mut content = BTreeMap::new();
    let relations = client
        .query("SELECT oid::regclass::text, relkind = 'S' FROM pg_class WHERE relnamespace = 'entitlements'::regnamespace AND relkind IN ('r', 'S')", &[])
        .unwrap();
    for relation in &relations {
        let name: String = relation.get(0);
        let rows = if relation.get(1) {
            one(client, &format!("SELECT concat_ws(' ', last_value, is_called) FROM {name}"), &[])
        } else {
            let rows: Option<String> =
                one(client, &format!("SELECT string_agg(t::text, E'\\n' ORDER BY t::text) FROM {name} AS t"), &[]);
            rows.unwrap_or_else(|| panic!("{name} is empty: the test says nothing about it"))
        };
        content.insert(name, rows);
    }
    content
}

/// The answers to everybody about everything, and the past of one.
fn answers(client: &mut Client) -> Vec<String> {
    let mut answers = lines(
        client,
        "SELECT entitlement::text FROM entitlements.accounts, entitlements.entitlements_of(key) AS entitlement ORDER BY 1",
    );
    answers.extend(lines(
        client,
        "SELECT line FROM (SELECT max(starts_at) AS at FROM entitlements.subscriptions WHERE id = 2) AS life,
             entitlements.explain('acme', 'seats', at - interval '1 microsecond') AS line",
    ));
    answers
}

/// New rows get ids that none had before.
fn goes_on(client: &mut Client) {
    let greatest: [i64; 4] = {
        let row = row(
            client,
            "SELECT (SELECT max(id) FROM entitlements.subscriptions), (SELECT max(id) FROM entitlements.overrides), (SELECT max(id) FROM entitlements.blocks),
                    (SELECT max(id) FROM entitlements.accounts)",
            &[],
        );
        [row.get(0), row.get(1), row.get(2), row.get(3)]
    };
    let subscription: i64 = one(client, "SELECT entitlements.subscribe('another', 'team')", &[]);
    let exception: i64 = one(client, "SELECT entitlements.set_override('another', 'sso', 'deny', NULL, 'no')", &[]);
    let block: i64 = one(client, "SELECT entitlements.block('another', 'legal', 'court')", &[]);
    let account: i64 = one(client, "SELECT entitlements.define_account('one more')", &[]);
    for (new, old) in [subscription, exception, block, account].iter().zip(greatest) {
        assert!(*new > old, "{new} follows {old}");
    }
    client
        .batch_execute(
            "SELECT entitlements.define_feature('new', 'flag'); SELECT entitlements.set_plan_feature('team', 'new', 'true')",
        )
        .unwrap();
    assert_eq!(one::<i32>(client, "SELECT entitlements.publish_plan('team')", &[]), 2);
    assert!(one::<bool>(client, "SELECT entitlements.entitled('parent', 'new')", &[]));
    assert_eq!(one::<i64>(client, "SELECT count(*) FROM entitlements.verify_audit()", &[]), 0);
}

fn survives(dump_options: &[&str], restore: &str, restore_options: &[&str]) {
    let original = Database::new();
    let mut client = original.connect();
    client.batch_execute(LIFE).unwrap();
    let restored = Database::bare();
    let mut dump = program("pg_dump", &original);
    dump.args(dump_options);
    let mut into = program(restore, &restored);
    into.args(restore_options).arg("--dbname").arg(restored.name());
    pipe(dump, into);

    let mut again = restored.connect();
    let (before, after) = (content(&mut client), content(&mut again));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (name, rows) in &before {
        assert_eq!(rows, &after[name], "{name}");
    }
    assert_eq!(lines(&mut again, SNAPSHOT), lines(&mut client, SNAPSHOT));
    let answers_before = answers(&mut client);
    assert!(answers_before.len() > 25, "{}", answers_before.len());
    assert_eq!(answers(&mut again), answers_before);
    assert_eq!(one::<i64>(&mut again, "SELECT count(*) FROM entitlements.verify_audit()", &[]), 0);
    goes_on(&mut again);
    goes_on(&mut client);
}

#[test]
fn a_custom_dump_brings_everything_back() {
    survives(&["--format=custom"], "pg_restore", &["--exit-on-error"]);
}

#[test]
fn a_plain_dump_brings_everything_back() {
    survives(&["--format=plain"], "psql", &["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null"]);
}

/// Every version that the server offers, installed and updated, is what the default version installs. With one version there
/// is no update to try yet: then this checks that it is the default and installs by its name.
#[test]
fn every_version_updates_to_the_present_one() {
    let fresh = Database::new();
    let mut client = fresh.connect();
    let expected = lines(&mut client, SNAPSHOT);
    let default: String =
        one(&mut client, "SELECT default_version FROM pg_available_extensions WHERE name = 'entitlements'", &[]);
    let versions = lines(
        &mut client,
        "SELECT version FROM pg_available_extension_versions WHERE name = 'entitlements' ORDER BY version",
    );
    assert!(versions.contains(&default), "{versions:?}");
    for version in versions {
        let database = Database::bare();
        let mut client = database.connect();
        client.batch_execute(&format!("CREATE EXTENSION entitlements VERSION '{version}'")).unwrap();
        client
            .batch_execute("ALTER EXTENSION entitlements UPDATE")
            .unwrap_or_else(|error| panic!("from {version}: {error:?}"));
        let installed: String = one(&mut client, "SELECT extversion FROM pg_extension WHERE extname = 'entitlements'", &[]);
        assert_eq!(installed, default, "from {version}");
        assert_eq!(lines(&mut client, SNAPSHOT), expected, "from {version}");
    }
}
