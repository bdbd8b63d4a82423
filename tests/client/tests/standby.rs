//! What a hot standby answers: every function that changes nothing, as the primary does, and a plain refusal from the others.
//! (That the answers are those of the rows replayed so far is for `isolation` to show.)

use entitlements_client_tests::{Database, one};
use postgres::{Client, NoTls};
use std::thread::sleep;
use std::time::{Duration, Instant};

const LIFE: &str = r#"
    SELECT entitlements.apply_catalog('{
        "features": {"sso": {"kind": "flag"}, "support": {"kind": "config"}, "seats": {"kind": "allocation", "unit": "seat"},
                     "calls": {"kind": "quota", "period": "1 month", "anchor": "calendar", "rollover": {"max": 15, "windows": 2}}},
        "plans": {"team": {"kind": "base", "features": {"sso": true, "support": {"days": 1.50}, "seats": {"amount": 2.5, "per_unit": true}, "calls": 10}}}}');
    SELECT entitlements.subscribe('acme', 'team', quantity => 3, starts_at => '2020-01-01', ends_at => '2120-01-01', reason => 'ordered');
    SELECT entitlements.change_subscription(1, quantity => 4, at => '2021-01-01');
    SELECT entitlements.set_override('acme', 'support', 'set', '"x"', 'a favour', now() + interval '1 day');
    SELECT entitlements.subscribe('7', 'team', version_policy => 'latest');
    SELECT entitlements.block('7', 'fraud', 'chargeback', 'sso');
    SELECT entitlements.set_plan_feature('team', 'seats', '9');
    SELECT entitlements.publish_plan('team');
    CREATE TABLE documents (id integer, account text, title text);
    SELECT entitlements.grant_credit('acme', 'seats', 3, 'a gift');
    SELECT entitlements.consume('acme', 'seats', 2);
    SELECT entitlements.assign_seat('acme', 'seats', 'ada');
    SELECT entitlements.trust_key('{"kty": "OKP", "crv": "Ed25519", "kid": "key", "x": "6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw"}', 'https://issuer.example', 'session', 'orders');
    SELECT entitlements.set_deployment('site');
    SELECT entitlements.trust_key('{"kty": "OKP", "crv": "Ed25519", "x": "-Z7YD1pr_y-Tvoq0WDw0ak_Tjy-j0nk75DsAUWFpsvk"}', 'vendor');
    SELECT entitlements.import_bundle('eyJhbGciOiJFZERTQSIsImtpZCI6IlVBQnJobkh3OWg4T2FrclgwQXNSYWp6UWppN0JuS3h4VFdDYWkzdjE4b28iLCJ0eXAiOiJlbnRpdGxlbWVudHMtYnVuZGxlK2p3dCJ9.eyJpc3MiOiJ2ZW5kb3IiLCJhdWQiOiJzaXRlIiwiaWF0IjoxNzAwMDAwMDAwLCJleHAiOjI1MzQwMjMwMDc5OSwic2VxIjoxLCJhY2NvdW50cyI6eyJhY21lIjp7InN1YnNjcmlwdGlvbnMiOlt7InJlZiI6IjEiLCJwbGFuIjoidGVhbSIsInF1YW50aXR5IjoxLCJzdGFydHNfYXQiOjE3MDAwMDAwMDB9XX19fQ.xsYpWXYvCc6s946LCybYhxgtGqBFv7n1idTKGyU3QoDRmn0zSNwGqGVK31MmiLDzlAJAom2Js5kzoHqNbM3UCQ');
    INSERT INTO entitlements.signing_keys (kid, jwk, first_used_at) VALUES ('key', '{}', now());
    INSERT INTO entitlements.usage_reports (audience, sequence, digest, starts_at, ends_at, row_count, kid, issued_at, issued_by, document)
        VALUES ('vendor', 1, 'digest', '2020-01-01', '2020-02-01', 0, 'key', now(), 'x', 'a.b.c');
    INSERT INTO entitlements.reservations (id, account_id, feature_id, amount, created_at, expires_at)
        SELECT '00000000-0000-0000-0000-000000000001', account_id, feature_id, 1, now(), now() + interval '1 hour' FROM entitlements.counters LIMIT 1;
    INSERT INTO entitlements.reservation_parts (reservation_id, counter_id, place, charge, expires_at, amount)
        SELECT reservation.id, counter.id, 0, 1, reservation.expires_at, 1 FROM entitlements.reservations AS reservation, entitlements.counters AS counter LIMIT 1;
"#;

/// Calls of every function that is not volatile, and of those that say for whom a transaction acts.
const READING: &[&str] = &[
    "SELECT entitlements.set_account('acme')",
    // Valid until 2286.
    "SELECT entitlements.authenticate('eyJhbGciOiAiRWREU0EiLCAidHlwIjogIkpXVCIsICJraWQiOiAia2V5In0.eyJpc3MiOiAiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsICJhdWQiOiAib3JkZXJzIiwgInN1YiI6ICJhY21lIiwgImV4cCI6IDk5OTk5OTk5OTl9.5K49fNfsPLTXvs8x-ifmPccEuYyY_iQdHJx2tPKyzY4xPbOBrYh6GNyQJWjxxfhoRSjGPBMjSVFheLl4Jec3Dg')",
    "SELECT entitlements.current_account() FROM (SELECT entitlements.set_account('7') OFFSET 0) AS now_seven",
    "SELECT entitlements.current_account_bigint()::text FROM (SELECT entitlements.set_account('7') OFFSET 0) AS now_seven",
    "SELECT coalesce(entitlements.current_account_uuid()::text, 'none') FROM (SELECT entitlements.set_account('7') OFFSET 0) AS now_seven",
    "SELECT entitlements.entitled('acme', 'sso')::text",
    "SELECT entitlements.entitled(7, 'sso')::text",
    "SELECT entitlements.entitled('00000000-0000-0000-0000-000000000000'::uuid, 'sso')::text",
    "SELECT entitlements.require('acme', 'seats')::text",
    "SELECT entitlements.value_of('acme', 'support')::text",
    "SELECT entitlements.allowance('7', 'seats')::text",
    "SELECT entitlements.check_access('acme', 'seats', 10)::text",
    "SELECT entitlements.check_access('acme', 'calls', 25)::text",
    "SELECT string_agg(h::text, ';') FROM entitlements.usage_history('acme', 'seats') AS h",
    "SELECT string_agg(e::text, ';') FROM entitlements.entitlements_of('acme') AS e",
    "SELECT string_agg(a, ';') FROM entitlements.entitled_accounts('seats') AS a",
    "SELECT string_agg(line, ';') FROM entitlements.explain('acme', 'support', '2031-01-01 00:00+00') AS line",
    "SELECT entitlements.explain('acme', 'seats', '2020-06-01 00:00+00', 'json')",
    "SELECT entitlements.export_catalog()::text",
    "SELECT entitlements.export_account('acme')::text",
    "SELECT count(*)::text FROM entitlements.verify_audit()",
    "SELECT count(*)::text FROM entitlements.seats('acme', 'seats')",
    "SELECT count(*)::text FROM entitlements.shared_rates()",
    "SELECT count(*)::text FROM entitlements.verify_audit('acme')",
    "SELECT string_agg(c::text, ';') FROM entitlements.apply_catalog('{\"features\": {\"sso\": {\"name\": \"SSO\"}}}', dry_run => true) AS c",
    "SELECT count(*)::text FROM entitlements.entitled_accounts_uuid('seats')",
    "SELECT string_agg(account::text, ';') FROM entitlements.entitled_accounts_bigint('seats') AS account",
    "SELECT string_agg(statement, ';') FROM entitlements.protect_table('documents', 'account', 'sso', dry_run => true) AS statement",
    "SELECT count(*)::text FROM entitlements.unprotect_table('documents', dry_run => true)",
    "SELECT string_agg(statement, ';') FROM entitlements.protect_columns('documents', 'account', '{\"title\": \"sso\"}', dry_run => true) AS statement",
    "SELECT count(*)::text FROM entitlements.access_report()",
    "SELECT string_agg(format('%s %s %s %s', issuer, sequence, phase, tampered), ';') FROM entitlements.bundle_status()",
    "SELECT count(*)::text FROM entitlements.doctor()",
    "SELECT entitlements.jwks()::text",
    "SELECT count(*)::text FROM entitlements.revoked_licences()",
    "SELECT count(*)::text FROM entitlements.reported_usage()",
    "SELECT count(*)::text FROM entitlements.reporting_sites()",
    "SELECT entitlements.usage_report(1)",
    "SELECT count(*)::text FROM entitlements.migrate_subscriptions('team', 1, 2, dry_run => true)",
];

/// A call of each function that changes something, which would.
const CHANGING: &[&str] = &[
    "SELECT entitlements.set_deployment('other')",
    "SELECT entitlements.import_bundle('eyJhbGciOiJFZERTQSIsImtpZCI6IlVBQnJobkh3OWg4T2FrclgwQXNSYWp6UWppN0JuS3h4VFdDYWkzdjE4b28iLCJ0eXAiOiJlbnRpdGxlbWVudHMtYnVuZGxlK2p3dCJ9.eyJpc3MiOiJ2ZW5kb3IiLCJhdWQiOiJzaXRlIiwiaWF0IjoxNzAwMDAwMDAwLCJleHAiOjI1MzQwMjMwMDc5OSwic2VxIjoyLCJhY2NvdW50cyI6eyJhY21lIjp7InN1YnNjcmlwdGlvbnMiOlt7InJlZiI6IjEiLCJwbGFuIjoidGVhbSIsInF1YW50aXR5IjoyLCJzdGFydHNfYXQiOjE3MDAwMDAwMDB9XX19fQ.oghQXqs940LQqcy3TSlRz_p97GPTGVMrIHUJjhr02ohN0fRII-uVjmoWhAyVE3qsLL82bgxb9sCQn9-0Q4hpDw')",
    "SELECT entitlements.reset_bundle_sequence('vendor', 'x')",
    "SELECT entitlements.delegate('acme', 'elsewhere', 'seats', 1, '1 day', 'x')",
    "SELECT entitlements.export_bundle('elsewhere', sign => false)",
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
    "SELECT entitlements.consume('acme', 'calls', 1)",
    "SELECT entitlements.try_consume('acme', 'calls', 1)",
    "SELECT entitlements.release('acme', 'seats', 1)",
    "SELECT entitlements.consume_many('acme', '{\"calls\": 1}')",
    "SELECT entitlements.record_usage('[{\"account\": \"acme\", \"feature\": \"calls\"}]')",
    "SELECT entitlements.reserve('acme', 'calls', 1, '1 hour')",
    "SELECT entitlements.extend_reservation('00000000-0000-0000-0000-000000000001', '2 hours')",
    "SELECT entitlements.commit_reservation('00000000-0000-0000-0000-000000000001')",
    "SELECT entitlements.cancel_reservation('00000000-0000-0000-0000-000000000001')",
    "SELECT entitlements.assign_seat('acme', 'seats', 'bob')",
    "SELECT entitlements.try_assign_seat('acme', 'seats', 'bob')",
    "SELECT entitlements.renew_seat('acme', 'seats', 'ada')",
    "SELECT entitlements.release_seat('acme', 'seats', 'ada')",
    "SELECT entitlements.maintain()",
    "SELECT entitlements.protect_table('documents', 'account', 'sso')",
    "SELECT entitlements.unprotect_table('documents')",
    "SELECT entitlements.protect_columns('documents', 'account', '{\"title\": \"sso\"}')",
    "SELECT entitlements.grant_access('pg_monitor', 'auditor')",
    "SELECT entitlements.limit_rows('documents', 'account', 'seats')",
    "SELECT entitlements.unlimit_rows('documents')",
    "SELECT entitlements.recount_rows()",
    "SELECT entitlements.revoke_access('pg_monitor')",
    "SELECT entitlements.renew_access()",
    "SELECT entitlements.trust_key('{\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"kid\": \"key\", \"x\": \"6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw\"}', 'https://issuer.example', 'session', 'billing') FROM entitlements.distrust_key('key', 'no')",
    "SELECT entitlements.distrust_key('key', 'no')",
    "SELECT entitlements.grant_credit('acme', 'calls', 1, 'x')",
    "SELECT entitlements.void_credit(1, 'x')",
    "SELECT entitlements.set_usage('acme', 'calls', 1, 'x')",
    "SELECT entitlements.unblock('7', 'fraud', 'yes', 'sso')",
    "SELECT entitlements.erase_account('acme', 'no')",
];

/// The same of functions that take what somebody signed, or sign. That they work where one may write is for other tests to show.
const SIGNED: &[&str] = &[
    "SELECT entitlements.issue_licence('acme', 'bea')",
    "SELECT entitlements.renew_licence('a.b.c')",
    "SELECT entitlements.revoke_licence('00000000-0000-0000-0000-000000000001', 'x')",
    "SELECT entitlements.deactivate_licence('a.b.c')",
    "SELECT entitlements.import_licence('a', 'acme')",
    "SELECT entitlements.export_usage_report()",
    "SELECT entitlements.import_usage_report('a.b.c')",
    "SELECT entitlements.return_delegation(1)",
    "SELECT entitlements.accept_return('a.b.c')",
    "SELECT entitlements.reclaim_delegation(1)",
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
        .query("SELECT DISTINCT proname::text FROM pg_proc WHERE pronamespace = 'entitlements'::regnamespace AND proname <> 'entitled_support' AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    for function in functions {
        let call = format!("entitlements.{function}(");
        assert!(
            READING.iter().chain(CHANGING).chain(SIGNED).any(|statement| statement.contains(&call)),
            "a call of {function} is to be added here"
        );
    }
    for statement in READING {
        let expected: String = one(&mut primary, statement, &[]);
        assert_eq!(one::<String>(&mut standby, statement, &[]), expected, "{statement}");
    }
    for statement in CHANGING.iter().chain(SIGNED) {
        let error = standby.query(*statement, &[]).expect_err(statement);
        assert_eq!(error.code().map(|code| code.code()), Some("25006"), "{statement}: {error:?}");
    }
    for statement in CHANGING.iter().chain(SIGNED) {
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
