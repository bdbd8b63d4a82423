//! What is stored survives pg_dump and a restore, and an extension that was updated is the one that is installed anew.

use entitlements_client_tests::{Database, Role, one, row};
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
                     "calls": {"kind": "quota", "unit": "call", "ledger": true, "period": "1 month 12 hours", "thresholds": [0.8, 1], "overage": "allow", "ceiling": 1.25},
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
    SELECT entitlements.assign_seat('acme', 'seats', 'ann', '1 day');
    SELECT entitlements.release_seat('acme', 'seats', 'ann', 'left');
    SELECT entitlements.assign_seat('acme', 'seats', 'bob', '1 month 1 day');
    SELECT entitlements.consume('parent', 'requests', 1.1);
    SELECT entitlements.subscribe('gone', 'team', reason => 'a person');
    SELECT entitlements.erase_account('gone', 'asked for');
    SELECT entitlements.consume('acme', 'calls', 0.000000001, 'key', '{"a": 1}');
    SELECT entitlements.reserve('parent', 'seats', 1, '1 year', '{"for": "later"}');
    SELECT entitlements.grant_credit('acme', 'seats', 2.5, 'a gift', period => '1 month 2 days');
    SELECT entitlements.delegate('acme', 'site-8', 'seats', 1, '1 year', 'sold');
    SELECT entitlements.set_usage('acme', 'calls', 5, 'imported');
    INSERT INTO entitlements.counter_slots (counter_id, touched_at, slot, share, used) SELECT id, now(), 0, 'Infinity', 1.5 FROM entitlements.counters;
    UPDATE entitlements.counters SET slots = 1, allocated = 'Infinity';
    SELECT entitlements.set_deployment('site-7');
    SELECT entitlements.export_bundle('site-8', sign => false);
    INSERT INTO entitlements.bundles (issuer, audience, sequence, digest, kid, issued_at, expires_at, grace_ends_at, mode, missed, accounts, subscriptions,
                                      overrides, accepted_at, accepted_by, document, revoked)
    VALUES ('vendor', 'site-7', 1, 'd', 'k', now(), now() + interval '1 day', now() + interval '2 days', 'enforce', 0, 0, 0, 0, now(), 'ann', 'a.b.c', '{l-1}');
    INSERT INTO entitlements.signing_keys VALUES ('k', '{"kty": "OKP"}', now());
    INSERT INTO entitlements.licences (id, account_id, holder, features, kid, issued_at, renewed_at, expires_at, lease, issued_by)
    SELECT gen_random_uuid(), id, 'ann', '{sso}', 'k', now(), now(), now() + interval '1 day', '1 day 1 hour', 'bob' FROM entitlements.accounts;
    INSERT INTO entitlements.imported_licences VALUES ('keygen:1', 'l', 1, NULL, now(), 'infinity', now(), 'ann');
    INSERT INTO entitlements.usage_reports VALUES ('vendor', 1, 'd', '-infinity', now(), 3, 'k', now(), 'ann', 'a.b.c');
    INSERT INTO entitlements.received_usage_reports VALUES ('site-8', 1, 'd', NULL, '-infinity', now(), 3, 'k', now(), now(), 'ann');
    INSERT INTO entitlements.reported_usage VALUES ('site-8', 'acme', 1, 'calls', '-infinity', 'infinity', 5.5, 'Infinity', 1);
    INSERT INTO entitlements.received_delegations SELECT 'vendor', 7, account_id, feature_id, amount, expires_at, id, now() FROM entitlements.credits LIMIT 1;
    SELECT entitlements.set_plan_feature('free', 'seats', '4');
    SELECT entitlements.publish_plan('free');
    SELECT entitlements.define_plan('draft', 'addon', rank => 5);
    SELECT entitlements.define_account('parent', metadata => '{"name": "Müller & Söhne"}');
    SELECT entitlements.trust_key('{"kty": "OKP", "crv": "Ed25519", "kid": "key", "x": "6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw"}',
                                  'https://issuer.example', 'session', 'orders', '/org/id');
    SELECT entitlements.distrust_key('key', 'replaced');
    SELECT entitlements.trust_key('{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}', 'vendor',
                                  valid_from => now() - interval '1 year', valid_until => now() + interval '1 year');
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
    answers.extend(lines(client, "SELECT history::text FROM entitlements.usage_history('acme', 'calls') AS history"));
    answers.extend(lines(
        client,
        "SELECT line FROM (SELECT max(starts_at) AS at FROM entitlements.subscriptions WHERE id = 2) AS life,
             entitlements.explain('acme', 'seats', at - interval '1 microsecond') AS line",
    ));
    answers
}

/// Tables that are guarded, and a role that may read them.
const GUARDED: &str = r#"
    CREATE TABLE documents (id integer, account text, title text);
    CREATE TABLE pages (id integer, account text) PARTITION BY RANGE (id);
    CREATE TABLE pages_1 PARTITION OF pages FOR VALUES FROM (0) TO (10);
    INSERT INTO documents VALUES (1, 'parent', 'seen'), (2, 'late', 'not seen');
    INSERT INTO pages VALUES (1, 'parent'), (2, 'late');
    SELECT entitlements.protect_table('documents', 'account', 'sso', force => true);
    SELECT entitlements.protect_table('documents', 'account', 'calls', 'INSERT');
    SELECT entitlements.protect_table('pages', 'account', 'sso', 'SELECT', 'every');
    SELECT entitlements.protect_columns('documents', 'account', '{"title": "sso"}');
"#;

/// What a guarded table is made of, who may do what, and what unprotect_table would put back.
const GUARDS: &str = "
    SELECT concat_ws(' | ', polrelid::regclass, polname, polcmd, polpermissive, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid), obj_description(oid, 'pg_policy'))
      FROM pg_policy
    UNION ALL SELECT concat_ws(' | ', oid::regclass, relrowsecurity, relforcerowsecurity, reloptions, obj_description(oid, 'pg_class'), pg_get_viewdef(oid))
      FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')
    UNION ALL SELECT entitlements.unprotect_table('documents', dry_run => true)
    UNION ALL SELECT entitlements.unprotect_table('pages', dry_run => true)
    UNION ALL SELECT report::text FROM entitlements.access_report() AS report ORDER BY 1";

/// What the role sees for an account.
fn seen(client: &mut Client, role: &str) -> Vec<String> {
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute(&format!("SELECT entitlements.set_account('parent'); SET LOCAL ROLE {role}")).unwrap();
    let rows = transaction
        .query("SELECT concat('document ', id) FROM documents UNION ALL SELECT concat('title ', title) FROM documents_gated UNION ALL SELECT concat('page ', id) FROM pages ORDER BY 1", &[])
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
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
    let role = Role::new(Database::new());
    let original = role.database();
    let mut client = original.connect();
    client.batch_execute(LIFE).unwrap();
    client.batch_execute(GUARDED).unwrap();
    let name = role.name();
    client
        .batch_execute(&format!("SELECT entitlements.grant_access('{name}', 'reader'); GRANT SELECT ON documents, documents_gated, pages TO {name}"))
        .unwrap();
    let restored = Database::bare();
    let mut dump = program("pg_dump", original);
    dump.args(dump_options);
    let mut into = program(restore, &restored);
    into.args(restore_options).arg("--dbname").arg(restored.name());
    pipe(dump, into);

    let mut again = restored.connect();
    let (before, after) = (content(&mut client), content(&mut again));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    // Marks name transactions of the server that they were written on.
    for (name, rows) in before.iter().filter(|(name, _)| *name != "entitlements.change_marks") {
        assert_eq!(rows, &after[name], "{name}");
    }
    assert_eq!(lines(&mut again, SNAPSHOT), lines(&mut client, SNAPSHOT));
    let answers_before = answers(&mut client);
    assert!(answers_before.len() > 25, "{}", answers_before.len());
    assert_eq!(answers(&mut again), answers_before);
    assert_eq!(one::<i64>(&mut again, "SELECT count(*) FROM entitlements.verify_audit()", &[]), 0);
    assert_eq!(lines(&mut again, GUARDS), lines(&mut client, GUARDS));
    assert_eq!(seen(&mut again, name), seen(&mut client, name));
    assert_eq!(seen(&mut again, name), ["document 1", "page 1", "title seen"]);
    let again_protected = "SELECT entitlements.protect_table('documents', 'account', 'sso', force => true)
        UNION ALL SELECT entitlements.protect_columns('documents', 'account', '{\"title\": \"sso\"}')";
    assert_eq!(lines(&mut again, again_protected), Vec::<String>::new());
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
