//! Who may do what: nobody anything, until it is granted; and whoever is granted something cannot lead it astray.

use entitlements_client_tests::{Database, Role, one, refused_with};
use postgres::{Client, SimpleQueryMessage};
use std::collections::BTreeSet;

const SNAPSHOT: &str = include_str!("../snapshot.sql");
const EXPECTED: &str = include_str!("../privileges.txt");
const EXPECTED_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/privileges.txt");

fn lines(client: &mut Client, sql: &str) -> Vec<String> {
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn every_object_is_as_the_snapshot_says() {
    let database = Database::new();
    let present = lines(&mut database.connect(), SNAPSHOT);
    if std::env::var_os("RENEW_SNAPSHOT").is_some() {
        std::fs::write(EXPECTED_FILE, present.join("\n") + "\n").unwrap();
        return;
    }
    let expected: Vec<&str> = EXPECTED.lines().collect();
    let (known, found): (BTreeSet<&str>, BTreeSet<&str>) =
        (expected.iter().copied().collect(), present.iter().map(String::as_str).collect());
    let differences: Vec<String> = known
        .difference(&found)
        .map(|line| format!("- {line}"))
        .chain(found.difference(&known).map(|line| format!("+ {line}")))
        .collect();
    assert!(
        expected == present,
        "the extension's objects are not those of tests/client/privileges.txt:\n{}\n\
         If this is what you want, RENEW_SNAPSHOT=1 with the same test writes the file anew; read its diff.",
        differences.join("\n")
    );
}

#[test]
fn whoever_acts_for_the_owner_has_a_fixed_search_path() {
    let database = Database::new();
    let mut client = database.connect();
    let open = lines(
        &mut client,
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'entitlements'::regnamespace AND prosecdef
         AND coalesce(proconfig, '{}') @> '{\"search_path=pg_catalog, pg_temp\"}' IS NOT TRUE",
    );
    assert_eq!(open, Vec::<String>::new());
    let count: i64 = one(
        &mut client,
        "SELECT count(*) FROM pg_proc WHERE pronamespace = 'entitlements'::regnamespace AND prosecdef",
        &[],
    );
    assert!(count > 10, "there are functions that run as the owner, and {count} were looked at");
}

/// A call of each function with NULL for each argument. What takes or gives what only the server has cannot be called.
const CALLS: &str = "
    SELECT format('SELECT %s(%s)', oid::regproc, (SELECT string_agg('NULL::' || type::regtype, ', ') FROM unnest(proargtypes) AS type))
    FROM pg_proc
    WHERE pronamespace = 'entitlements'::regnamespace AND 'internal'::regtype <> ALL (proargtypes) AND prorettype <> 'trigger'::regtype
    ORDER BY oid";

const READS_AND_WRITES: &str = "
    SELECT format(form, oid::regclass)
    FROM pg_class, unnest(ARRAY['SELECT FROM %s', 'INSERT INTO %s DEFAULT VALUES', 'DELETE FROM %s', 'TRUNCATE %s']) AS form
    WHERE relnamespace = 'entitlements'::regnamespace AND relkind = 'r'
    UNION ALL
    SELECT format('UPDATE %s SET %I = DEFAULT', attrelid::regclass, attname)
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = 'entitlements'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT format(form, oid::regclass)
    FROM pg_class, unnest(ARRAY['SELECT nextval(%L)', 'SELECT currval(%L)', 'SELECT setval(%L, 1)', 'SELECT FROM %s']) AS form
    WHERE relnamespace = 'entitlements'::regnamespace AND relkind = 'S'";

#[test]
fn a_role_without_a_grant_can_do_nothing() {
    let role = Role::new(Database::new());
    let mut owner = role.database().connect();
    let calls = lines(&mut owner, CALLS);
    assert!(calls.len() >= 40, "the functions were found: {}", calls.len());
    let accesses = lines(&mut owner, READS_AND_WRITES);
    assert!(accesses.len() >= 130, "the tables and sequences were found: {}", accesses.len());

    let mut client = role.connect();
    for usage in [false, true] {
        if usage {
            role.grant("USAGE ON SCHEMA entitlements");
        }
        for statement in calls.iter().chain(&accesses) {
            let error = refused_with(&mut client, "42501", statement, &[]);
            let of_schema = error.message().contains("schema");
            assert_eq!(of_schema, !usage, "{statement}: {}", error.message());
        }
    }
    let callable = lines(
        &mut client,
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'entitlements'::regnamespace AND has_function_privilege(oid, 'EXECUTE')",
    );
    assert_eq!(callable, Vec::<String>::new());
    refused_with(&mut client, "42501", "CREATE TABLE entitlements.mine ()", &[]);
}

#[test]
fn a_granted_function_works_without_any_privilege_on_tables() {
    let role = Role::new(Database::new());
    let mut owner = role.database().connect();
    fill(&mut owner);
    role.grant("USAGE ON SCHEMA entitlements");
    role.grant("EXECUTE ON FUNCTION entitlements.entitled(text, text), entitlements.block(text, text, text, text)");
    let mut client = role.connect();
    assert!(one::<bool>(&mut client, "SELECT entitlements.entitled('acme', 'sso')", &[]));
    one::<i64>(&mut client, "SELECT entitlements.block('acme', 'fraud', 'chargeback')", &[]);
    assert!(!one::<bool>(&mut client, "SELECT entitlements.entitled('acme', 'sso')", &[]));
    refused_with(&mut client, "42501", "SELECT entitlements.unblock('acme', 'fraud', 'no')", &[]);
    refused_with(&mut client, "42501", "SELECT FROM entitlements.blocks", &[]);
    let author: String = one(&mut owner, "SELECT created_by FROM entitlements.blocks", &[]);
    assert_eq!(author, role.name(), "the author is who called, not the owner");
}

/// Only the owner of its tables may keep the extension's records as they were.
#[test]
fn the_owner_cannot_change_what_is_on_record_by_mistake() {
    let database = Database::new();
    let mut client = database.connect();
    fill(&mut client);
    for statement in [
        "UPDATE entitlements.audit_log SET action = 'nothing'",
        "DELETE FROM entitlements.audit_log",
        "TRUNCATE entitlements.audit_log",
        "UPDATE entitlements.plan_features SET amount = 5 WHERE amount IS NOT NULL",
        "DELETE FROM entitlements.plan_features",
        "TRUNCATE entitlements.plan_features",
        "UPDATE entitlements.plan_versions SET rank = 5",
        "DELETE FROM entitlements.plan_versions",
        "SET session_replication_role = replica; DELETE FROM entitlements.audit_log",
    ] {
        let error = client.batch_execute(statement).expect_err(statement);
        assert_eq!(error.code().map(|code| code.code()), Some("NE009"), "{statement}: {error:?}");
    }
}

const PRODUCT: &str = r#"{
    "features": {"sso": {"kind": "flag"},
                 "support": {"kind": "config", "schema": {"enum": ["community", "standard"]}},
                 "calls": {"kind": "quota", "unit": "call", "period": "1 year 2 months 3 days 04:05:06", "thresholds": [0.8, 1]},
                 "seats": {"kind": "allocation"}},
    "plans": {"free": {"kind": "base", "features": {"support": "community", "seats": 3}},
              "team": {"kind": "base", "extends": "free", "rank": 10,
                       "features": {"sso": true, "support": "standard", "calls": 1000.5, "seats": {"amount": 1, "per_unit": true}}}}}"#;

fn fill(client: &mut Client) {
    client.execute("SELECT entitlements.apply_catalog($1::text)", &[&PRODUCT]).unwrap();
    client.execute("SELECT entitlements.subscribe('acme', 'team', quantity => 2)", &[]).unwrap();
}

/// What a session can do to its own names and settings, in the hope that the extension's queries look there first.
const HOSTILE: &str = r#"
    CREATE SCHEMA hostile;
    CREATE FUNCTION hostile.taken() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'shadowed'; END $$;
    CREATE FUNCTION hostile.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT hostile.taken()::text::timestamptz';
    CREATE FUNCTION hostile.lower(text) RETURNS text LANGUAGE sql AS 'SELECT hostile.taken()::text';
    CREATE FUNCTION hostile.nextval(text) RETURNS bigint LANGUAGE sql AS 'SELECT hostile.taken()::text::bigint';
    CREATE FUNCTION hostile.max(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT hostile.taken()::text::bigint';
    CREATE FUNCTION hostile.to_jsonb(record) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'shadowed'; END $$;
    CREATE FUNCTION hostile.unnest(text[]) RETURNS SETOF text LANGUAGE sql AS 'SELECT hostile.taken()::text';
    CREATE FUNCTION hostile.coalesce(text, text) RETURNS text LANGUAGE sql AS 'SELECT hostile.taken()::text';
    CREATE FUNCTION hostile.value_of(text, text) RETURNS jsonb LANGUAGE sql AS 'SELECT hostile.taken()::text::jsonb';
    CREATE FUNCTION hostile.explain(text, text, timestamptz, text) RETURNS SETOF text LANGUAGE sql AS 'SELECT hostile.taken()::text';
    CREATE FUNCTION hostile.same(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT hostile.taken()';
    CREATE FUNCTION hostile.same(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT hostile.taken()';
    CREATE FUNCTION hostile.same(integer, integer) RETURNS boolean LANGUAGE sql AS 'SELECT hostile.taken()';
    CREATE FUNCTION hostile.same(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS 'SELECT hostile.taken()';
    CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.same);
    CREATE OPERATOR hostile.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = hostile.same);
    CREATE OPERATOR hostile.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = hostile.same);
    CREATE OPERATOR hostile.<> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = hostile.same);
    CREATE OPERATOR hostile.> (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = hostile.same);
    CREATE DOMAIN hostile.text AS pg_catalog.text CHECK (hostile.taken());
    CREATE DOMAIN hostile.jsonb AS pg_catalog.jsonb CHECK (hostile.taken());
    CREATE DOMAIN hostile."decision" AS pg_catalog.text CHECK (hostile.taken());
    CREATE VIEW hostile.accounts AS SELECT hostile.taken() AS id;
    CREATE VIEW hostile.pg_timezone_names AS SELECT hostile.taken() AS name;
    CREATE TEMP TABLE accounts (id int);
    CREATE TEMP TABLE features (id int);
    CREATE TEMP TABLE subscriptions (id int);
    CREATE TEMP TABLE audit_log (id int);
    CREATE TEMP VIEW pg_timezone_names AS SELECT hostile.taken() AS name;
    SET search_path = hostile, pg_temp, pg_catalog;
    SET IntervalStyle = 'sql_standard';
    SET DateStyle = 'SQL, DMY';
    SET bytea_output = 'escape';
    SET extra_float_digits = -15;
    SET transform_null_equals = on;
    SET array_nulls = off;
    SET quote_all_identifiers = on;
    SET default_transaction_isolation = 'repeatable read';
    SET enable_indexscan = off;
    SET enable_seqscan = off;
    SET row_security = off;
"#;

/// Every family of functions, in an order in which each does something. Nothing here depends on the clock or on who asks.
const WORK: &[&str] = &[
    "SELECT action, object, key, detail FROM entitlements.apply_catalog('{\"features\": {\"x\": {\"kind\": \"quota\", \"period\": \"1 mon 12:00\"}}}')",
    "SELECT entitlements.define_feature('y', 'rate', '{\"period\": \"90 seconds\"}')",
    "SELECT entitlements.define_plan('pro', extends => 'team', rank => 20)",
    "SELECT entitlements.set_plan_feature('pro', 'x', '12.5')",
    "SELECT entitlements.publish_plan('pro')",
    "SELECT entitlements.set_plan_feature('free', 'x', '1')",
    "SELECT entitlements.discard_draft('free')",
    "SELECT entitlements.export_catalog()",
    "SELECT entitlements.define_account('parent', time_zone => 'Europe/Vienna', metadata => '{\"a\": 1}')",
    "SELECT entitlements.define_account('acme', 'parent')",
    "SELECT entitlements.subscribe('parent', 'pro', starts_at => '2020-01-31 00:00+00', ends_at => '2100-01-01 00:00+00', trial_until => '2020-02-10 00:00+00')",
    "SELECT entitlements.subscribe('parent', 'team', source_ref => 'order')",
    "SELECT entitlements.change_subscription(2, quantity => 4)",
    "SELECT entitlements.renew_subscription(2, '2101-01-01 00:00+00') = timestamptz '2100-01-01 00:00+00'",
    "SELECT entitlements.end_subscription(3)",
    "SELECT subscription, account, from_version FROM entitlements.migrate_subscriptions('team', NULL, 1, ARRAY['acme'])",
    "SELECT entitlements.set_override('acme', 'seats', 'add', '5', 'a favour')",
    "SELECT entitlements.set_override('acme', 'support', 'set', '\"standard\"', 'a favour')",
    "SELECT entitlements.clear_override(2, 'enough')",
    "SELECT entitlements.block('acme', 'billing', 'unpaid', 'sso')",
    "SELECT entitlements.unblock('acme', 'billing', 'paid', 'sso')",
    "SELECT entitlements.entitled('acme', 'sso'), entitlements.require('acme', 'x'), entitlements.value_of('acme', 'x'), entitlements.allowance('acme', 'seats')",
    "SELECT entitlements.value_of(1::pg_catalog.int8, 'x'), entitlements.allowance(1::pg_catalog.int8, 'seats')",
    "SELECT entitlements.check_access('acme', 'seats', 3)",
    "SELECT feature, kind, value, allowance, reason, extract(epoch FROM expires_at) FROM entitlements.entitlements_of('acme')",
    "SELECT entitlements.entitled_accounts('sso')",
    "SELECT * FROM entitlements.explain('parent', 'x', '2021-01-01 00:00+00') LIMIT 1",
    "SELECT pg_catalog.jsonb_array_length(entitlements.export_account('acme') OPERATOR(pg_catalog.->) 'audit_log')",
    "SELECT count(*) FROM entitlements.verify_audit()",
    "SELECT entitlements.define_account('gone')",
    "SELECT entitlements.erase_account('gone', 'asked for')",
    "SELECT count(*) FROM entitlements.verify_audit('parent')",
];

/// What each statement answers, as text.
fn answers(client: &mut Client) -> Vec<String> {
    let answer = |statement: &&str| {
        let messages = client.simple_query(statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        let mut answer = format!("{statement}:");
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                let columns: Vec<&str> = (0..row.len()).map(|column| row.get(column).unwrap_or("NULL")).collect();
                answer.push_str(&format!("\n    {}", columns.join(" | ")));
            }
        }
        answer
    };
    WORK.iter().map(answer).collect()
}

/// What is stored, but for times and authors.
const STORED: &str = "
    SELECT to_jsonb(t)::text FROM entitlements.features AS t
    UNION ALL SELECT (to_jsonb(t) - '{published_at,published_by}'::text[])::text FROM entitlements.plan_versions AS t
    UNION ALL SELECT to_jsonb(t)::text FROM entitlements.plan_features AS t
    UNION ALL SELECT concat_ws('|', id, plan_id, plan_version_id, quantity, status, isfinite(ends_at)) FROM entitlements.subscriptions AS t
    UNION ALL SELECT concat_ws('|', id, feature_id, mode, config, amount) FROM entitlements.overrides AS t
    UNION ALL SELECT concat_ws('|', chain_id, seq, action, object, object_id) FROM entitlements.audit_log AS t
    ORDER BY 1";

#[test]
fn names_and_settings_of_the_caller_change_nothing() {
    let mut outcomes = Vec::new();
    for hostile in [false, true] {
        let role = Role::new(Database::new());
        let mut owner = role.database().connect();
        fill(&mut owner);
        role.grant("USAGE ON SCHEMA entitlements");
        role.grant("EXECUTE ON ALL FUNCTIONS IN SCHEMA entitlements");
        role.grant(&format!("CREATE, TEMPORARY ON DATABASE {}", role.database().name()));
        let mut client = role.connect();
        client.batch_execute("SET TimeZone = 'UTC'").unwrap();
        if hostile {
            client.batch_execute(HOSTILE).unwrap();
            for bait in [
                "SELECT now()",
                "SELECT text 'a' = text 'b'",
                "SELECT id FROM pg_temp.pg_timezone_names, hostile.accounts",
                "SELECT 'a'::text",
            ] {
                let error = client.simple_query(bait).expect_err(bait);
                assert_eq!(error.as_db_error().map(|error| error.message()), Some("shadowed"), "{bait}");
            }
        }
        let answers = answers(&mut client);
        outcomes.push((answers, lines(&mut owner, STORED)));
    }
    let (hostile, plain) = (outcomes.pop().unwrap(), outcomes.pop().unwrap());
    for (plain, hostile) in plain.0.iter().zip(&hostile.0).chain(plain.1.iter().zip(&hostile.1)) {
        assert_eq!(plain, hostile);
    }
    assert_eq!(plain.1.len(), hostile.1.len());
    assert!(plain.1.len() > 60, "{}", plain.1.len());
}
