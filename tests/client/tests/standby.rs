//! What a hot standby answers: every function that changes nothing, as the primary does, and a plain refusal from the others.
//! (That the answers are those of the rows replayed so far is for `isolation` to show.)

use entitlements_client_tests::{Database, one};
use postgres::{Client, NoTls};
use std::thread::sleep;
use std::time::{Duration, Instant};

const LIFE: &str = r#"
    SELECT entitlements.apply_catalog('{
        "features": {"sso": {"kind": "flag"}, "support": {"kind": "config"}, "seats": {"kind": "allocation", "unit": "seat"}},
        "plans": {"team": {"kind": "base", "features": {"sso": true, "support": {"days": 1.50}, "seats": {"amount": 2.5, "per_unit": true}}}}}');
    SELECT entitlements.subscribe('acme', 'team', quantity => 3, starts_at => '2020-01-01', ends_at => '2120-01-01', reason => 'ordered');
    SELECT entitlements.change_subscription(1, quantity => 4, at => '2021-01-01');
    SELECT entitlements.set_override('acme', 'support', 'set', '"x"', 'a favour', now() + interval '1 day');
    SELECT entitlements.subscribe('7', 'team', version_policy => 'latest');
    SELECT entitlements.block('7', 'fraud', 'chargeback', 'sso');
    SELECT entitlements.set_plan_feature('team', 'seats', '9');
    SELECT entitlements.publish_plan('team');
"#;

/// Calls of every function that is not volatile.
const READING: &[&str] = &[
    "SELECT entitlements.entitled('acme', 'sso')::text",
    "SELECT entitlements.entitled(7, 'sso')::text",
    "SELECT entitlements.entitled('00000000-0000-0000-0000-000000000000'::uuid, 'sso')::text",
    "SELECT entitlements.require('acme', 'seats')::text",
    "SELECT entitlements.value_of('acme', 'support')::text",
    "SELECT entitlements.allowance('7', 'seats')::text",
    "SELECT entitlements.check_access('acme', 'seats', 10)::text",
    "SELECT string_agg(e::text, ';') FROM entitlements.entitlements_of('acme') AS e",
    "SELECT string_agg(a, ';') FROM entitlements.entitled_accounts('seats') AS a",
    "SELECT string_agg(line, ';') FROM entitlements.explain('acme', 'support', '2031-01-01 00:00+00') AS line",
    "SELECT entitlements.explain('acme', 'seats', '2020-06-01 00:00+00', 'json')",
    "SELECT entitlements.export_catalog()::text",
    "SELECT entitlements.export_account('acme')::text",
    "SELECT count(*)::text FROM entitlements.verify_audit()",
    "SELECT count(*)::text FROM entitlements.verify_audit('acme')",
    "SELECT string_agg(c::text, ';') FROM entitlements.apply_catalog('{\"features\": {\"sso\": {\"name\": \"SSO\"}}}', dry_run => true) AS c",
    "SELECT count(*)::text FROM entitlements.migrate_subscriptions('team', 1, 2, dry_run => true)",
];

/// A call of each function that changes something, which would.
const CHANGING: &[&str] = &[
    "SELECT entitlements.apply_catalog('{\"features\": {\"sso\": {\"name\": \"SSO\"}}}')",
    "SELECT entitlements.define_feature('sso', NULL, '{\"name\": \"SSO\"}')",
    "SELECT entitlements.define_plan('new')",
    "SELECT entitlements.set_plan_feature('team', 'seats', '10')",
    "SELECT entitlements.discard_draft('team')",
    "SELECT entitlements.publish_plan('team')",
    "SELECT entitlements.migrate_subscriptions('team', 1, 2)",
    "SELECT entitlements.define_account('new')",
    "SELECT entitlements.subscribe('acme', 'team')",
    "SELECT entitlements.change_subscription(1, quantity => 5)",
    "SELECT entitlements.renew_subscription(1, '2130-01-01')",
    "SELECT entitlements.end_subscription(1)",
    "SELECT entitlements.set_override('acme', 'sso', 'deny', NULL, 'no')",
    "SELECT entitlements.clear_override(1, 'no')",
    "SELECT entitlements.block('acme', 'fraud', 'no')",
    "SELECT entitlements.unblock('7', 'fraud', 'yes', 'sso')",
    "SELECT entitlements.erase_account('acme', 'no')",
];

/// A session on the standby, once it has replayed what the primary wrote.
fn standby_of(database: &Database, primary: &mut Client) -> Client {
    let written: String = one(primary, "SELECT pg_current_wal_insert_lsn()::text", &[]);
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Ok(mut standby) = database.standby_config().connect(NoTls) {
            assert!(one::<bool>(&mut standby, "SELECT pg_is_in_recovery()", &[]), "STANDBY_PGHOST names a standby");
            if one(&mut standby, &format!("SELECT pg_last_wal_replay_lsn() >= '{written}'"), &[]) {
                return standby;
            }
        }
        assert!(Instant::now() < end, "the standby has replayed {written}");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_standby_answers_as_the_primary_and_nothing_read_only_changes() {
    let database = Database::new();
    let mut primary = database.connect();
    primary.batch_execute(LIFE).unwrap();
    let mut standby = standby_of(&database, &mut primary);
    let functions: Vec<String> = primary
        .query("SELECT DISTINCT proname::text FROM pg_proc WHERE pronamespace = 'entitlements'::regnamespace AND proname NOT IN ('entitled_support', 'refuse_change')", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    for function in functions {
        let call = format!("entitlements.{function}(");
        assert!(
            READING.iter().chain(CHANGING).any(|statement| statement.contains(&call)),
            "a call of {function} is to be added here"
        );
    }
    for statement in READING {
        let expected: String = one(&mut primary, statement, &[]);
        assert_eq!(one::<String>(&mut standby, statement, &[]), expected, "{statement}");
    }
    for statement in CHANGING {
        let error = standby.query(*statement, &[]).expect_err(statement);
        assert_eq!(error.code().map(|code| code.code()), Some("25006"), "{statement}: {error:?}");
    }
    for statement in CHANGING {
        let mut read_only = primary.build_transaction().read_only(true).start().unwrap();
        let error = read_only.query(*statement, &[]).expect_err(statement);
        assert_eq!(error.code().map(|code| code.code()), Some("25006"), "{statement}: {error:?}");
    }
    for statement in CHANGING {
        primary
            .batch_execute(&format!("BEGIN; {statement}; ROLLBACK"))
            .unwrap_or_else(|error| panic!("{statement} works on the primary: {error:?}"));
    }
}
