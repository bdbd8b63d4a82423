//! Whatever is passed to a function, it answers or refuses as its comment says: never an internal error, never a crash, and
//! nothing is left written.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use entitlements_bundle::{
    BUNDLE_TYPE, DELEGATION_RETURN_TYPE, Deactivation, Jws, LicenceRequest, MachineId, NumericDate, PrivateKey,
    USAGE_REPORT_TYPE,
};
use entitlements_client_tests::{Database, one, refused_with};
use postgres::{Client, NoTls};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};

const PRODUCT: &str = r#"{
    "features": {"sso": {"kind": "flag"},
                 "support": {"kind": "config", "schema": {"enum": ["community", "standard"]}},
                 "calls": {"kind": "quota", "unit": "call", "period": "1 month"},
                 "seats": {"kind": "allocation"}},
    "plans": {"free": {"kind": "base", "features": {"support": "community", "seats": 3}},
              "team": {"kind": "base", "extends": "free", "rank": 10,
                       "features": {"sso": true, "calls": 1000.5, "seats": {"amount": 1, "per_unit": true}}}}}"#;

/// For each function a call that works, its arguments as SQL; every other call differs from it.
const WORKING_CALLS: &[(&str, &[&str])] = &[
    ("access_report()", &[]),
    ("allowance(bigint,text)", &["42", "'calls'"]),
    ("allowance(text,text)", &["'acme'", "'calls'"]),
    ("allowance(uuid,text)", &["'00000000-0000-0000-0000-00000000002a'", "'calls'"]),
    ("apply_catalog(jsonb,boolean)", &[r#"'{"features": {"sso": {"kind": "flag", "name": "SSO"}}}'"#, "false"]),
    ("apply_catalog(text,boolean)", &[r#"'{"features": {"sso": {"kind": "flag", "name": "SSO"}}}'"#, "false"]),
    // A token of the key below, valid until 2286.
    (
        "authenticate(text)",
        &[
            "'eyJhbGciOiAiRWREU0EiLCAidHlwIjogIkpXVCIsICJraWQiOiAia2V5In0.eyJpc3MiOiAiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsICJhdWQiOiAib3JkZXJzIiwgInN1YiI6ICJhY21lIiwgImV4cCI6IDk5OTk5OTk5OTl9.5K49fNfsPLTXvs8x-ifmPccEuYyY_iQdHJx2tPKyzY4xPbOBrYh6GNyQJWjxxfhoRSjGPBMjSVFheLl4Jec3Dg'",
        ],
    ),
    ("allowance(text)", &["'calls'"]),
    ("check_access(text,numeric)", &["'calls'", "1"]),
    ("consume(text,numeric)", &["'calls'", "1"]),
    ("current_account()", &[]),
    ("current_account_bigint()", &[]),
    ("current_account_uuid()", &[]),
    ("distrust_key(text,text,text)", &["'key'", "'stolen'", "'keep'"]),
    ("entitled(text)", &["'calls'"]),
    ("entitlements_of()", &[]),
    ("release(text,numeric)", &["'calls'", "1"]),
    ("require(text)", &["'calls'"]),
    ("set_account(bigint)", &["42"]),
    ("set_account(text)", &["'acme'"]),
    ("set_account(uuid)", &["'00000000-0000-0000-0000-00000000002a'"]),
    (
        "trust_key(jsonb,text,text,text,text,timestamp with time zone,timestamp with time zone)",
        &[
            r#"'{"kty": "OKP", "crv": "Ed25519", "kid": "other", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}'"#,
            "'https://issuer.example'",
            "'session'",
            "'orders'",
            "'/org/id'",
            "now()",
            "now() + interval '1 year'",
        ],
    ),
    ("try_consume(text,numeric)", &["'calls'", "1"]),
    ("value_of(text)", &["'calls'"]),
    ("assign_seat(bigint,text,text,interval)", &["42", "'seats'", "'bob'", "'1 hour'"]),
    ("assign_seat(text,text,text,interval)", &["'acme'", "'seats'", "'ann'", "'1 hour'"]),
    ("assign_seat(uuid,text,text,interval)", &["'00000000-0000-0000-0000-00000000002a'", "'seats'", "'bob'", "'1 hour'"]),
    ("block(text,text,text,text)", &["'acme'", "'billing'", "'unpaid'", "'sso'"]),
    (
        "change_subscription(bigint,text,integer,integer,text,timestamp with time zone,timestamp with time zone,text,timestamp with time zone,text,jsonb,text,text)",
        &[
            "1",
            "'team'",
            "2",
            "5",
            "'past_due'",
            "now() + interval '1 month'",
            "now() + interval '1 year'",
            "'pinned'",
            "now()",
            "'reason'",
            "'{}'",
            "'stripe'",
            "'order'",
        ],
    ),
    ("check_access(bigint,text,numeric)", &["42", "'calls'", "1"]),
    ("check_access(text,text,numeric)", &["'acme'", "'calls'", "1"]),
    ("check_access(uuid,text,numeric)", &["'00000000-0000-0000-0000-00000000002a'", "'calls'", "1"]),
    ("clear_override(bigint,text)", &["1", "'reason'"]),
    ("cancel_reservation(uuid)", &["(SELECT id FROM entitlements.reservations WHERE state = 'held')"]),
    ("commit_reservation(uuid,numeric)", &["(SELECT id FROM entitlements.reservations WHERE state = 'held')", "2"]),
    ("consume(bigint,text,numeric,text,jsonb)", &["42", "'calls'", "1", "'key'", "'{}'"]),
    ("consume(text,text,numeric,text,jsonb)", &["'acme'", "'calls'", "1", "'key'", "'{}'"]),
    ("consume(uuid,text,numeric,text,jsonb)", &["'00000000-0000-0000-0000-00000000002a'", "'calls'", "1", "'key'", "'{}'"]),
    ("consume_many(bigint,jsonb,text,jsonb)", &["42", r#"'{"calls": 1, "seats": 1}'"#, "'key'", "'{}'"]),
    ("consume_many(text,jsonb,text,jsonb)", &["'acme'", r#"'{"calls": 1, "seats": 1}'"#, "'key'", "'{}'"]),
    (
        "consume_many(uuid,jsonb,text,jsonb)",
        &["'00000000-0000-0000-0000-00000000002a'", r#"'{"calls": 1, "seats": 1}'"#, "'key'", "'{}'"],
    ),
    ("define_account(text,text,text,jsonb)", &["'acme'", "'42'", "'Europe/Vienna'", r#"'{"a": 1}'"#]),
    ("define_feature(text,text,jsonb)", &["'storage'", "'allocation'", r#"'{"unit": "GiB"}'"#]),
    ("define_plan(text,text,text,integer,text,text)", &["'pro'", "'base'", "'team'", "20", "'Pro'", "'for professionals'"]),
    ("discard_draft(text)", &["'drafted'"]),
    ("end_subscription(bigint,timestamp with time zone,text)", &["1", "now() + interval '1 day'", "'reason'"]),
    ("entitled(bigint,text)", &["42", "'calls'"]),
    ("entitled(text,text)", &["'acme'", "'calls'"]),
    ("entitled(uuid,text)", &["'00000000-0000-0000-0000-00000000002a'", "'calls'"]),
    ("entitled_accounts(text)", &["'calls'"]),
    ("entitled_accounts_bigint(text)", &["'calls'"]),
    ("entitled_accounts_uuid(text)", &["'calls'"]),
    ("entitlements_of(bigint)", &["42"]),
    ("entitlements_of(text)", &["'acme'"]),
    ("entitlements_of(uuid)", &["'00000000-0000-0000-0000-00000000002a'"]),
    ("erase_account(text,text)", &["'acme'", "'asked for'"]),
    ("explain(bigint,text,timestamp with time zone,text)", &["42", "'calls'", "now() - interval '1 hour'", "'text'"]),
    ("explain(text,text,timestamp with time zone,text)", &["'acme'", "'calls'", "now() - interval '1 hour'", "'json'"]),
    (
        "explain(uuid,text,timestamp with time zone,text)",
        &["'00000000-0000-0000-0000-00000000002a'", "'calls'", "now()", "'text'"],
    ),
    ("export_account(text)", &["'acme'"]),
    ("export_catalog()", &[]),
    ("extend_reservation(uuid,interval)", &["(SELECT id FROM entitlements.reservations WHERE state = 'held')", "'1 hour'"]),
    ("maintain()", &[]),
    ("grant_access(regrole,text)", &["'pg_monitor'", "'auditor'"]),
    (
        "grant_credit(text,text,numeric,text,timestamp with time zone,integer,timestamp with time zone,interval,text,text)",
        &["'acme'", "'calls'", "5", "'paid'", "now() + interval '1 year'", "50", "now()", "'1 month'", "'stripe'", "'pi_1'"],
    ),
    (
        "migrate_subscriptions(text,integer,integer,text[],timestamp with time zone,text,boolean)",
        &["'team'", "1", "2", "'{acme}'", "now()", "'reason'", "false"],
    ),
    (
        "protect_columns(regclass,name,jsonb,text,boolean)",
        &["'documents'", "'account'", r#"'{"title": "sso"}'"#, "'titles'", "false"],
    ),
    (
        "protect_table(regclass,name,text,text,text,boolean,boolean)",
        &["'documents'", "'account'", "'sso'", "'SELECT'", "'every'", "true", "false"],
    ),
    ("publish_plan(text)", &["'drafted'"]),
    (
        "record_usage(jsonb)",
        &[r#"'[{"account": "acme", "feature": "calls", "n": 2, "idempotency_key": "key", "metadata": {}}]'"#],
    ),
    ("release(bigint,text,numeric,text,jsonb)", &["42", "'calls'", "1", "'key'", "'{}'"]),
    ("recount_rows(regclass,boolean,text)", &["'limited'", "true", "'seats'"]),
    ("limit_rows(regclass,name,text,text)", &["'unlimited'", "'account'", "'seats'", "'deleted_at IS NULL'"]),
    ("unlimit_rows(regclass,text)", &["'limited'", "'seats'"]),
    ("release(text,text,numeric,text,jsonb)", &["'acme'", "'calls'", "1", "'key'", "'{}'"]),
    ("release(uuid,text,numeric,text,jsonb)", &["'00000000-0000-0000-0000-00000000002a'", "'calls'", "1", "'key'", "'{}'"]),
    ("renew_access()", &[]),
    ("renew_subscription(bigint,timestamp with time zone,text)", &["1", "now() + interval '10 years'", "'reason'"]),
    ("release_seat(bigint,text,text,text)", &["42", "'seats'", "'bob'", "'left'"]),
    ("release_seat(text,text,text,text)", &["'acme'", "'seats'", "'bob'", "'left'"]),
    ("release_seat(uuid,text,text,text)", &["'00000000-0000-0000-0000-00000000002a'", "'seats'", "'bob'", "'left'"]),
    ("renew_seat(bigint,text,text)", &["42", "'seats'", "'bob'"]),
    ("renew_seat(text,text,text)", &["'acme'", "'seats'", "'bob'"]),
    ("renew_seat(uuid,text,text)", &["'00000000-0000-0000-0000-00000000002a'", "'seats'", "'bob'"]),
    ("require(bigint,text)", &["42", "'calls'"]),
    ("require(text,text)", &["'acme'", "'calls'"]),
    ("require(uuid,text)", &["'00000000-0000-0000-0000-00000000002a'", "'calls'"]),
    ("reserve(bigint,text,numeric,interval,jsonb)", &["42", "'calls'", "1", "'1 hour'", "'{}'"]),
    ("reserve(text,text,numeric,interval,jsonb)", &["'acme'", "'calls'", "1", "'1 hour'", "'{}'"]),
    (
        "reserve(uuid,text,numeric,interval,jsonb)",
        &["'00000000-0000-0000-0000-00000000002a'", "'calls'", "1", "'1 hour'", "'{}'"],
    ),
    ("revoke_access(regrole,text)", &["'pg_monitor'", "'auditor'"]),
    ("seats(bigint,text)", &["42", "'seats'"]),
    ("seats(text,text)", &["'acme'", "'seats'"]),
    ("seats(uuid,text)", &["'00000000-0000-0000-0000-00000000002a'", "'seats'"]),
    (
        "set_override(text,text,text,jsonb,text,timestamp with time zone,text)",
        &["'acme'", "'seats'", "'add'", "'5'", "'a favour'", "now() + interval '1 day'", "'sales'"],
    ),
    ("set_plan_feature(text,text,jsonb)", &["'drafted'", "'calls'", "'5'"]),
    ("set_usage(bigint,text,numeric,text)", &["42", "'calls'", "3", "'import'"]),
    ("set_usage(text,text,numeric,text)", &["'acme'", "'calls'", "3", "'import'"]),
    ("set_usage(uuid,text,numeric,text)", &["'00000000-0000-0000-0000-00000000002a'", "'calls'", "3", "'import'"]),
    ("shared_rates()", &[]),
    (
        "subscribe(text,text,integer,integer,timestamp with time zone,timestamp with time zone,text,text,text,text,jsonb,text,timestamp with time zone)",
        &[
            "'acme'",
            "'team'",
            "1",
            "2",
            "now()",
            "now() + interval '1 year'",
            "'pinned'",
            "'stripe'",
            "'order'",
            "'reason'",
            "'{}'",
            "'active'",
            "now() + interval '1 month'",
        ],
    ),
    ("try_consume(bigint,text,numeric,text,jsonb)", &["42", "'calls'", "1", "'key'", "'{}'"]),
    ("try_consume(text,text,numeric,text,jsonb)", &["'acme'", "'calls'", "1", "'key'", "'{}'"]),
    (
        "try_consume(uuid,text,numeric,text,jsonb)",
        &["'00000000-0000-0000-0000-00000000002a'", "'calls'", "1", "'key'", "'{}'"],
    ),
    ("try_assign_seat(bigint,text,text,interval)", &["42", "'seats'", "'bob'", "NULL"]),
    ("try_assign_seat(text,text,text,interval)", &["'acme'", "'seats'", "'ann'", "NULL"]),
    ("try_assign_seat(uuid,text,text,interval)", &["'00000000-0000-0000-0000-00000000002a'", "'seats'", "'bob'", "NULL"]),
    ("unprotect_table(regclass,text,boolean)", &["'documents'", "'sso'", "false"]),
    ("unblock(text,text,text,text)", &["'acme'", "'fraud'", "'cleared'", "NULL"]),
    (
        "usage_history(bigint,text,timestamp with time zone,timestamp with time zone)",
        &["42", "'calls'", "now() - interval '1 year'", "now()"],
    ),
    (
        "usage_history(text,text,timestamp with time zone,timestamp with time zone)",
        &["'acme'", "'calls'", "now() - interval '1 year'", "now()"],
    ),
    (
        "usage_history(uuid,text,timestamp with time zone,timestamp with time zone)",
        &["'00000000-0000-0000-0000-00000000002a'", "'calls'", "now() - interval '1 year'", "now()"],
    ),
    ("bundle_status(boolean)", &["true"]),
    ("doctor()", &[]),
    (
        "export_bundle(text,text[],timestamp with time zone,interval,interval,text,boolean,jsonb)",
        &["'site-8'", "'{acme}'", "now() + interval '1 year'", "'1 day'", "'1 hour'", "'advise'", "false", "NULL"],
    ),
    ("import_bundle(bytea,boolean)", &["(SELECT convert_to(content, 'UTF8') FROM public.next_bundle)", "false"]),
    ("import_bundle(text,boolean)", &["(SELECT content FROM public.next_bundle)", "false"]),
    ("reset_bundle_sequence(text,text,bigint)", &["'vendor'", "'its key was copied'", "1"]),
    ("accept_return(text)", &["(SELECT content FROM public.carried WHERE name = 'return')"]),
    ("deactivate_licence(text)", &["(SELECT content FROM public.carried WHERE name = 'deactivation')"]),
    ("delegate(text,text,text,numeric,interval,text)", &["'acme'", "'far'", "'calls'", "2", "'1 day'", "'sold'"]),
    (
        "export_usage_report(timestamp with time zone,timestamp with time zone,text)",
        &["now() - interval '1 hour'", "now()", "'vendor'"],
    ),
    (
        "import_licence(text,text,text,jsonb,text)",
        &["(SELECT content FROM public.carried WHERE name = 'keygen')", "'acme'", "'key'", r#"'{"SSO": "sso"}'"#, "'team'"],
    ),
    ("import_usage_report(text)", &["(SELECT content FROM public.carried WHERE name = 'report')"]),
    (
        "issue_licence(text,text,text[],interval,text,text,text)",
        &[
            "'acme'",
            "'ann'",
            "'{sso}'",
            "'1 day'",
            "'seats'",
            "'editor'",
            "(SELECT content FROM public.carried WHERE name = 'request')",
        ],
    ),
    ("jwks()", &[]),
    ("reclaim_delegation(bigint)", &["2"]),
    ("renew_licence(text,interval)", &["(SELECT content FROM public.carried WHERE name = 'licence')", "'1 day'"]),
    ("reported_usage(text,text)", &["'acme'", "'far'"]),
    ("reporting_sites()", &[]),
    ("return_delegation(bigint,text)", &["7", "'vendor'"]),
    ("revoke_licence(uuid,text)", &["(SELECT id FROM entitlements.licences)", "'copied'"]),
    ("revoked_licences()", &[]),
    ("usage_report(bigint,text)", &["1", "'vendor'"]),
    ("set_deployment(text)", &["'site-7'"]),
    ("value_of(bigint,text)", &["42", "'calls'"]),
    ("value_of(text,text)", &["'acme'", "'calls'"]),
    ("value_of(uuid,text)", &["'00000000-0000-0000-0000-00000000002a'", "'calls'"]),
    ("verify_audit(text)", &["'acme'"]),
    ("void_credit(bigint,text)", &["1", "'refunded'"]),
];

/// What users cannot call by themselves.
const NOT_CALLED: &[&str] =
    &["count_rows()", "entitled_support(internal)", "follow_drops()", "follow_tables()", "mark_change()", "refuse_change()"];

/// Values of each type that nobody should pass, and ordinary ones that fit badly.
fn garbage(of_type: &str) -> &'static [&'static str] {
    match of_type {
        "text" => &[
            "NULL",
            "''",
            "' '",
            "repeat('x', 1 << 20)",
            "repeat('é', 200)",
            r"E'\x01'",
            r"E'tab\there'",
            r"E'\u0085'",
            r"E'\u202e\uffff'",
            "'NaN'",
            "'nobody'",
            "'acme'",
            "'team'",
            "'free'",
            "'sso'",
            "'support'",
            "'latest'",
            "'trialing'",
            "'canceled'",
            "'past_due'",
            "'deny'",
            "'set'",
            "'addon'",
            "'erased:1'",
            "'''; DROP TABLE x'",
            "'{}'",
            "'null'",
            "'[1'",
            r#"'{"a": 1, "a": 2}'"#,
            "repeat('[', 100000)",
            r#"'{"features": {"x": {"kind": "quota", "period": "-1 month"}}}'"#,
            r#"'{"plans": {"free": {"features": {"seats": -1}}}}'"#,
        ],
        "integer" => &["NULL", "0", "-1", "1", "3", "2147483647", "-2147483648"],
        "bigint" => &["NULL", "0", "-1", "2", "9223372036854775807", "(-9223372036854775808)"],
        "numeric" => &[
            "NULL",
            "0",
            "-1",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "1e1000",
            "1e18",
            "1e-9",
            "1e-10",
            "1e-16000",
            "999999999999999999.999999999",
            "1000000000000000000",
        ],
        "timestamp with time zone" => &[
            "NULL",
            "'infinity'",
            "'-infinity'",
            "'4713-01-01 BC'",
            "'294276-12-31'",
            "'epoch'",
            "now()",
            "now() - interval '1 year'",
            "now() + interval '1 microsecond'",
        ],
        "jsonb" => &[
            "NULL",
            "'null'",
            "'[]'",
            "'{}'",
            "'\"x\"'",
            "'0'",
            "'-1'",
            "'1e20'",
            "'0.0000000001'",
            "'true'",
            "'\"unlimited\"'",
            "'\"Infinity\"'",
            "'[{}]'",
            "(repeat('[', 1000) || repeat(']', 1000))::jsonb",
            "to_jsonb(repeat('x', 1 << 20))",
            r#"'{"": ""}'"#,
            r#"'{"amount": 1, "per_unit": 1}'"#,
            r#"'{"kind": "flag"}'"#,
            "(SELECT jsonb_object_agg(n, n) FROM generate_series(1, 10000) n)",
            r#"'{"features": {"x": null}}'"#,
            r#"'{"schema": {"$ref": "http://example.com"}}'"#,
            r#"'{"plans": {"free": {"extends": "free"}}}'"#,
        ],
        "boolean" => &["NULL", "true", "false"],
        "text[]" => &[
            "NULL",
            "'{}'",
            "'{NULL}'",
            "'{\"\"}'",
            "'{nobody}'",
            "'{{acme},{42}}'",
            "'{acme,acme}'",
            "array_fill('acme'::text, ARRAY[10000])",
            "ARRAY[repeat('x', 1 << 20)]",
        ],
        "interval" => &[
            "NULL",
            "'0'",
            "'-1 second'",
            "'1 microsecond'",
            "'1 month -40 days'",
            "'178000000 years'",
            "'-178000000 years'",
            "'2147483647 days'",
            "'1 second'",
            "'999 years'",
        ],
        "regclass" => &[
            "NULL",
            "0",
            "4294967295",
            "'pg_catalog.pg_class'",
            "'entitlements.accounts'",
            "'entitlements.subscription_ids'",
            "'documents_account'",
            "'entitlements.audit_log_id_seq'",
            "'pg_catalog.pg_roles'",
            "'guarded'",
            "'limited'",
        ],
        "regrole" => &["NULL", "0", "4294967295", "'postgres'", "'pg_read_all_data'"],
        "name" => &[
            "NULL",
            "''",
            "'x'",
            "'id'",
            "'title'",
            "'ctid'",
            "'deleted_at'",
            "'accounts'",
            r"E'\u202e'",
            "repeat('é', 31)",
        ],
        "bytea" => &[
            "NULL",
            "''",
            r"'\x00'",
            r"'\xff'",
            "repeat('x', 1 << 20)",
            "'age-encryption.org/v1'",
            "'-----BEGIN AGE ENCRYPTED FILE-----'",
            "'a.b.c'",
        ],
        "uuid" => &["NULL", "'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"],
        other => panic!("no garbage of type {other} is known"),
    }
}

struct Function {
    signature: String,
    name: String,
    types: Vec<String>,
    working: Vec<&'static str>,
    /// The codes that its comment names, or for another form of the account those of the text form.
    codes: BTreeSet<String>,
}

impl Function {
    fn call(&self, arguments: &[&str]) -> String {
        let arguments: Vec<String> =
            arguments.iter().zip(&self.types).map(|(argument, of_type)| format!("({argument})::{of_type}")).collect();
        format!("SELECT count(*) FROM (SELECT * FROM entitlements.{}({})) AS answer", self.name, arguments.join(", "))
    }
}

fn functions(client: &mut Client) -> Vec<Function> {
    let described = client
        .query(
            "SELECT replace(oid::regprocedure::text, 'entitlements.', ''), proname::text, ARRAY(SELECT type::regtype::text FROM unnest(proargtypes) AS type),
                    obj_description(oid)
             FROM pg_proc WHERE pronamespace = 'entitlements'::regnamespace",
            &[],
        )
        .unwrap();
    let mut codes_of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in &described {
        codes_of.entry(row.get(1)).or_default().extend(codes(row.get(3)));
    }
    let mut working: BTreeMap<&str, &[&'static str]> = WORKING_CALLS.iter().copied().collect();
    let mut functions = Vec::new();
    for row in &described {
        let (signature, name): (String, String) = (row.get(0), row.get(1));
        if NOT_CALLED.contains(&signature.as_str()) {
            continue;
        }
        let working = working
            .remove(signature.as_str())
            .unwrap_or_else(|| panic!("a working call of {signature} is to be added here"));
        functions.push(Function {
            codes: codes_of[&name].clone(),
            signature,
            name,
            types: row.get(2),
            working: working.to_vec(),
        });
    }
    assert!(working.is_empty(), "these functions are no more: {:?}", working.keys());
    functions
}

/// The codes a comment names: a list such as NE005, and "NE008 and NE009 as apply_catalog".
fn codes(comment: &str) -> BTreeSet<String> {
    comment.match_indices("NE0").filter_map(|(at, _)| comment.get(at..at + 5)).map(str::to_owned).collect()
}

fn filled() -> (Database, Client) {
    let database = Database::new();
    let mut client = database.connect();
    client
        .batch_execute(&format!(
            r#"CREATE TABLE documents (id integer, account text, title text);
               CREATE INDEX documents_account ON documents (account);
               CREATE TABLE guarded (id integer, account text, title text);
               SELECT entitlements.apply_catalog('{PRODUCT}');
               SELECT entitlements.protect_table('guarded', 'account', 'sso');
               SELECT entitlements.subscribe('acme', 'team', 1, 2, ends_at => now() + interval '1 year');
               SELECT entitlements.apply_catalog('{{"plans": {{"team": {{"rank": 11}}}}}}');
               SELECT entitlements.define_plan('drafted', extends => 'free');
               SELECT entitlements.subscribe('42', 'team', quantity => 3);
               SELECT entitlements.subscribe('00000000-0000-0000-0000-00000000002a', 'team', quantity => 3);
               SELECT entitlements.set_override('acme', 'seats', 'set', '10', 'a favour');
               SELECT entitlements.block('42', 'fraud', 'chargeback', 'sso');
               SELECT entitlements.consume(account, 'calls', 5), entitlements.assign_seat(account, 'seats', 'bob')
                 FROM unnest(ARRAY['acme', '42', '00000000-0000-0000-0000-00000000002a']) AS account;
               SELECT entitlements.grant_credit('acme', 'calls', 5, 'paid');
               SELECT entitlements.reserve('acme', 'calls', 3, '1 hour');
               SELECT entitlements.trust_key('{{"kty": "OKP", "crv": "Ed25519", "kid": "key", "x": "6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw"}}',
                                             'https://issuer.example', 'session', 'orders');
               SET entitlements.account_setting = 'test.account';
               SET entitlements.account_claim = '';
               SET test.account = 'acme';
               CREATE TABLE limited (account text); CREATE TABLE unlimited (account text, deleted_at timestamptz);
               SELECT entitlements.limit_rows('limited', 'account', 'seats');"#
        ))
        .unwrap();
    let bundle = |sequence: u64| {
        let claims = format!(
            r#"{{"iss": "vendor", "aud": "site-7", "iat": 0, "exp": 253402300799, "seq": {sequence}, "accounts": {{"acme": {{
                "subscriptions": [{{"ref": "1", "plan": "team", "quantity": {sequence}, "starts_at": 0}}],
                "delegations": [{{"id": 7, "feature": "calls", "amount": 5, "ends_at": 253402300799}}]}}}}}}"#
        );
        Jws::sign(claims.as_bytes(), BUNDLE_TYPE, &PrivateKey::from_seed(&[1; 32]))
    };
    let jwk: serde_json::Value =
        serde_json::from_str(&PrivateKey::from_seed(&[1; 32]).public().to_jwk().to_string()).unwrap();
    client.execute("SELECT entitlements.set_deployment('site-7'), entitlements.trust_key($1, 'vendor')", &[&jwk]).unwrap();
    client.execute("SELECT entitlements.import_bundle($1::text)", &[&bundle(1)]).unwrap();
    client.execute("CREATE TABLE public.next_bundle AS SELECT $1::text AS content", &[&bundle(2)]).unwrap();
    carry(&mut client);
    (database, client)
}

/// Licences, reports and delegations, and documents about them from elsewhere, signed with the key 2.
fn carry(client: &mut Client) {
    let (own, far) = (PrivateKey::from_seed(&[1; 32]), PrivateKey::from_seed(&[2; 32]));
    let name: String = one(client, "SELECT current_database()::text", &[]);
    let file = std::env::temp_dir().join(format!("{name}.jwk"));
    std::fs::write(&file, own.to_jwk().as_bytes()).expect("the key is written");
    let jwk: serde_json::Value = serde_json::from_str(&far.public().to_jwk().to_string()).unwrap();
    for (issuer, purpose) in [("far", "usage_report"), ("keygen:acc", "licence")] {
        client.execute("SELECT entitlements.trust_key($1, $2, $3)", &[&jwk, &issuer, &purpose]).unwrap();
    }
    client
        .batch_execute(&format!(
            "SET entitlements.signing_key_file = '{}';
             CREATE TABLE public.carried (name text, content text);
             SELECT entitlements.delegate('acme', 'far', 'calls', 2, '1 day', 'sold') FROM generate_series(1, 2);
             UPDATE entitlements.delegations SET lease_ends_at = now() - interval '1 day' WHERE id = 2;
             SELECT entitlements.export_usage_report(now() - interval '1 day', now(), 'vendor')",
            file.display()
        ))
        .unwrap();
    let mut keep = |name: &str, content: &str| {
        client.execute("INSERT INTO public.carried VALUES ($1, $2)", &[&name, &content]).unwrap();
    };
    let machine = MachineId::derive(b"a machine", "site-7");
    let date = NumericDate::from_seconds(1_700_000_000).unwrap();
    let request = |nonce: &str| {
        let (account, features) = ("acme".parse().unwrap(), BTreeSet::new());
        let (vendor, nonce, key) = ("site-7".to_owned(), nonce.to_owned(), far.public().clone());
        let request = LicenceRequest {
            vendor,
            made_at: date,
            nonce,
            machine,
            key,
            account,
            holder: None,
            application: None,
            features,
        };
        request.sign(&far).unwrap()
    };
    keep("request", &request("2"));
    let report = r#"{"iss": "far", "aud": "site-7", "iat": 2, "seq": 1, "starts_at": 0, "ends_at": 1, "rows": [
        {"account": "acme", "feature": "calls", "used": 5, "allowance": "unlimited"}]}"#;
    keep("report", &Jws::sign(report.as_bytes(), USAGE_REPORT_TYPE, &far));
    let returned = r#"{"iss": "far", "aud": "site-7", "iat": 2, "id": 1, "unused": 1}"#;
    keep("return", &Jws::sign(returned.as_bytes(), DELEGATION_RETURN_TYPE, &far));
    let licence = r#"{"data": {"type": "licenses", "id": "1", "attributes": {"key": "key", "name": null, "status": "ACTIVE", "expiry": null}},
        "included": [{"type": "entitlements", "attributes": {"code": "SSO"}}], "meta": {"issued": "2024-01-01T00:00:00Z"}}"#;
    let enc = STANDARD.encode(licence);
    let sig = STANDARD.encode(far.sign(format!("license/{enc}").as_bytes()));
    let body = STANDARD.encode(format!(r#"{{"enc": "{enc}", "sig": "{sig}", "alg": "base64+ed25519"}}"#));
    keep("keygen", &format!("-----BEGIN LICENSE FILE-----\n{body}\n-----END LICENSE FILE-----"));
    let issue = "SELECT entitlements.issue_licence('acme', 'bea', seat_feature => 'seats', request => $1)";
    let token: String = one(client, issue, &[&request("1")]);
    let id: uuid::Uuid = one(client, "SELECT id FROM entitlements.licences", &[]);
    let deactivation = Deactivation {
        vendor: "site-7".to_owned(),
        made_at: date,
        licence: id.to_string(),
        machine,
        key: far.public().clone(),
    };
    let carried = [("licence", token), ("deactivation", deactivation.sign(&far).unwrap())];
    for (name, content) in carried {
        client.execute("INSERT INTO public.carried VALUES ($1, $2)", &[&name, &content]).unwrap();
    }
}

/// Everything stored, and where the sequences that nothing but a success may move are (they move in failed transactions too).
fn stored(client: &mut Client) -> String {
    let tables: Vec<String> = client
        .query("SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'entitlements'::regnamespace AND relkind = 'r' ORDER BY 1", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(tables.len() > 10, "{tables:?}");
    let each: Vec<String> = tables
        .iter()
        .map(|table| format!("SELECT '{table} ' || count(*) || ' ' || coalesce(md5(string_agg(t::text, ',' ORDER BY t::text)), '') FROM {table} AS t"))
        .collect();
    one(
        client,
        &format!("SELECT string_agg(line, '; ' ORDER BY line) FROM ({}) AS lines (line)", each.join(" UNION ALL ")),
        &[],
    )
}

/// How calls went, by code; '' is an answer.
#[derive(Default)]
struct Outcomes {
    calls: usize,
    by_code: BTreeMap<String, usize>,
    wrong: Vec<String>,
}

impl Outcomes {
    /// Makes the call and takes it back.
    fn try_call(&mut self, client: &mut Client, function: &Function, arguments: &[&str]) {
        let call = function.call(arguments);
        self.calls += 1;
        let mut transaction = client.transaction().unwrap();
        let code = match transaction.query(&call, &[]) {
            Ok(_) => String::new(),
            Err(error) => {
                let refusal = error.as_db_error().unwrap_or_else(|| panic!("{call}: {error:?}")).clone();
                let code = refusal.code().code().to_owned();
                if !function.codes.contains(&code) {
                    self.wrong.push(format!("{code} {}: {call:.400}", refusal.message()));
                }
                if refusal.message().len() > 2_000 {
                    self.wrong.push(format!("a message of {} bytes: {call:.400}", refusal.message().len()));
                }
                code
            }
        };
        transaction.rollback().unwrap();
        *self.by_code.entry(code).or_default() += 1;
    }

    fn check(self, at_least: usize) {
        let few = &self.wrong[..self.wrong.len().min(20)];
        assert!(few.is_empty(), "{} of {} calls, such as:\n{}", self.wrong.len(), self.calls, few.join("\n"));
        assert!(self.calls >= at_least, "only {} calls", self.calls);
        for code in ["", "NE003", "NE005", "NE006", "NE007", "NE008", "NE009", "NE010"] {
            assert!(self.by_code.contains_key(code), "no call led to '{code}': {:?}", self.by_code);
        }
    }
}

#[test]
fn one_wrong_argument_is_refused_as_documented() {
    let (_database, mut client) = filled();
    let before = stored(&mut client);
    let mut outcomes = Outcomes::default();
    for function in functions(&mut client) {
        let mut transaction = client.transaction().unwrap();
        if let Err(error) = transaction.query(&function.call(&function.working), &[]) {
            panic!("{} does not work: {error:?}", function.signature);
        }
        transaction.rollback().unwrap();
        for place in 0..function.types.len() {
            for value in garbage(&function.types[place]) {
                let mut arguments = function.working.clone();
                arguments[place] = value;
                outcomes.try_call(&mut client, &function, &arguments);
            }
        }
        let nothing = vec!["NULL"; function.types.len()];
        outcomes.try_call(&mut client, &function, &nothing);
    }
    assert_eq!(stored(&mut client), before);
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.verify_audit()", &[]), 0);
    outcomes.check(2_000);
}

#[test]
fn several_wrong_arguments_are_refused_as_documented() {
    let (_database, mut client) = filled();
    let seed: u64 =
        std::env::var("SEED").ok().map_or_else(|| rand::rng().random(), |seed| seed.parse().expect("SEED is a number"));
    println!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let functions: Vec<Function> = functions(&mut client).into_iter().filter(|function| function.types.len() > 1).collect();
    let before = stored(&mut client);
    let mut outcomes = Outcomes::default();
    for _ in 0..5_000 {
        let function = &functions[random.random_range(0..functions.len())];
        let arguments: Vec<&str> = function
            .types
            .iter()
            .zip(&function.working)
            .map(|(of_type, working)| {
                let garbage = garbage(of_type);
                if random.random_bool(0.4) { garbage[random.random_range(0..garbage.len())] } else { *working }
            })
            .collect();
        outcomes.try_call(&mut client, function, &arguments);
    }
    assert_eq!(stored(&mut client), before);
    outcomes.check(5_000);
}

/// Answers that are documented, where another function would refuse.
#[test]
fn an_account_that_cannot_be_is_entitled_to_nothing() {
    let (_database, mut client) = filled();
    for account in ["NULL", "''", "repeat('x', 1 << 20)", r"E'\x01'", "' acme'", "'ACME'"] {
        let answers: String = one(
            &mut client,
            &format!(
                "SELECT concat_ws('|', entitlements.entitled(a, 'sso'), entitlements.value_of(a, 'sso'), entitlements.value_of(a, 'support'),
                     entitlements.allowance(a, 'seats'), (entitlements.check_access(a, 'sso')).reason, (SELECT count(*) FROM entitlements.entitlements_of(a)))
                 FROM (SELECT {account}::text) AS asked (a)"
            ),
            &[],
        );
        assert_eq!(answers, "f|false|0|unknown_account|0", "{account}");
        refused_with(&mut client, "NE001", &format!("SELECT entitlements.require({account}, 'sso')"), &[]);
    }
    for feature in ["''", "repeat('x', 1 << 20)", "'SSO'", "' sso'"] {
        let error = refused_with(&mut client, "NE003", &format!("SELECT entitlements.entitled('acme', {feature})"), &[]);
        assert!(error.message().len() < 1_000, "{}", error.message().len());
        serde_json::from_str::<serde_json::Value>(error.detail().expect("DETAIL")).expect("DETAIL is JSON");
    }
}

/// Documents that are too much: an error that says so, soon, and nothing written.
#[test]
fn a_document_beyond_all_bounds_is_refused() {
    let (_database, mut client) = filled();
    let before = stored(&mut client);
    for (document, fault) in [
        (
            "(SELECT json_build_object('features', json_object_agg('f' || n, '{\"kind\": \"flag\"}'::json))::text FROM generate_series(1, 100000) n)",
            "more than 10000",
        ),
        ("repeat('[', 10000) || repeat(']', 10000)", "more than 64"),
        ("'{\"features\": ' || repeat('{\"a\": ', 10000) || '1' || repeat('}', 10000) || '}'", "more than 64"),
        ("'{\"features\": {\"a\": {\"kind\": \"flag\"}, \"a\": {\"kind\": \"quota\"}}}'", "more than once"),
        ("'{\"x\": \"' || repeat('x', 17 << 20) || '\"}'", "more than"),
        ("'{\"plans\": {\"free\": {\"features\": {\"seats\": NaN}}}}'", "not valid JSON"),
        ("'{\"plans\": {\"free\": {\"features\": {\"seats\": 1e1000}}}}'", "seats"),
        ("''", "not valid JSON"),
    ] {
        let call = format!("SELECT entitlements.apply_catalog(({document})::text)");
        let error = refused_with(&mut client, "NE008", &call, &[]);
        let detail = error.detail().expect("DETAIL lists the faults");
        assert!(detail.contains(fault), "{document:.80}: {detail:.400}");
        let faults: serde_json::Value = serde_json::from_str(detail).expect("DETAIL is JSON");
        assert!(
            faults.as_array().is_some_and(|faults| !faults.is_empty() && faults[0]["path"].is_string()),
            "{detail:.400}"
        );
        assert!(detail.len() < 1 << 20, "a DETAIL of {} bytes", detail.len());
    }
    assert_eq!(stored(&mut client), before);
}

/// The keys' order and length are those of UTF-8.
#[test]
fn a_database_of_another_encoding_is_refused_and_left_as_it_was() {
    for encoding in ["LATIN1", "SQL_ASCII", "EUC_JP"] {
        let database = Database::bare();
        let name = format!("{}_{}", database.name(), encoding.to_lowercase());
        let mut admin = database.connect();
        admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")).unwrap();
        let mut client = database.config().dbname(&name).connect(NoTls).unwrap();
        let error = refused_with(&mut client, "NE011", "CREATE EXTENSION entitlements", &[]);
        assert!(error.message().contains(encoding), "{}", error.message());
        let left: i64 = one(
            &mut client,
            "SELECT (SELECT count(*) FROM pg_extension WHERE extname = 'entitlements') + (SELECT count(*) FROM pg_namespace WHERE nspname = 'entitlements')
                  + (SELECT count(*) FROM pg_proc WHERE probin LIKE '%entitlements%')",
            &[],
        );
        assert_eq!(left, 0, "{encoding}");
        drop(client);
        admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).unwrap();
    }
}
