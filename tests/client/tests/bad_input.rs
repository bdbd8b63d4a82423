//! Whatever is passed to a function, it answers or refuses as its comment says: never an internal error, never a crash, and
//! nothing is left written.

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
    ("allowance(bigint,text)", &["42", "'calls'"]),
    ("allowance(text,text)", &["'acme'", "'calls'"]),
    ("allowance(uuid,text)", &["'00000000-0000-0000-0000-00000000002a'", "'calls'"]),
    ("apply_catalog(jsonb,boolean)", &[r#"'{"features": {"sso": {"kind": "flag", "name": "SSO"}}}'"#, "false"]),
    ("apply_catalog(text,boolean)", &[r#"'{"features": {"sso": {"kind": "flag", "name": "SSO"}}}'"#, "false"]),
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
    ("define_account(text,text,text,jsonb)", &["'acme'", "'42'", "'Europe/Vienna'", r#"'{"a": 1}'"#]),
    ("define_feature(text,text,jsonb)", &["'storage'", "'allocation'", r#"'{"unit": "GiB"}'"#]),
    ("define_plan(text,text,text,integer,text,text)", &["'pro'", "'base'", "'team'", "20", "'Pro'", "'for professionals'"]),
    ("discard_draft(text)", &["'drafted'"]),
    ("end_subscription(bigint,timestamp with time zone,text)", &["1", "now() + interval '1 day'", "'reason'"]),
    ("entitled(bigint,text)", &["42", "'calls'"]),
    ("entitled(text,text)", &["'acme'", "'calls'"]),
    ("entitled(uuid,text)", &["'00000000-0000-0000-0000-00000000002a'", "'calls'"]),
    ("entitled_accounts(text)", &["'calls'"]),
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
    (
        "migrate_subscriptions(text,integer,integer,text[],timestamp with time zone,text,boolean)",
        &["'team'", "1", "2", "'{acme}'", "now()", "'reason'", "false"],
    ),
    ("publish_plan(text)", &["'drafted'"]),
    ("renew_subscription(bigint,timestamp with time zone,text)", &["1", "now() + interval '10 years'", "'reason'"]),
    ("require(bigint,text)", &["42", "'calls'"]),
    ("require(text,text)", &["'acme'", "'calls'"]),
    ("require(uuid,text)", &["'00000000-0000-0000-0000-00000000002a'", "'calls'"]),
    (
        "set_override(text,text,text,jsonb,text,timestamp with time zone,text)",
        &["'acme'", "'seats'", "'add'", "'5'", "'a favour'", "now() + interval '1 day'", "'sales'"],
    ),
    ("set_plan_feature(text,text,jsonb)", &["'drafted'", "'calls'", "'5'"]),
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
    ("unblock(text,text,text,text)", &["'acme'", "'fraud'", "'cleared'", "NULL"]),
    ("value_of(bigint,text)", &["42", "'calls'"]),
    ("value_of(text,text)", &["'acme'", "'calls'"]),
    ("value_of(uuid,text)", &["'00000000-0000-0000-0000-00000000002a'", "'calls'"]),
    ("verify_audit(text)", &["'acme'"]),
];

/// What users cannot call by themselves.
const NOT_CALLED: &[&str] = &["entitled_support(internal)", "refuse_change()"];

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
            r#"SELECT entitlements.apply_catalog('{PRODUCT}');
               SELECT entitlements.subscribe('acme', 'team', 1, 2, ends_at => now() + interval '1 year');
               SELECT entitlements.apply_catalog('{{"plans": {{"team": {{"rank": 11}}}}}}');
               SELECT entitlements.define_plan('drafted', extends => 'free');
               SELECT entitlements.subscribe('42', 'team');
               SELECT entitlements.subscribe('00000000-0000-0000-0000-00000000002a', 'team');
               SELECT entitlements.set_override('acme', 'seats', 'set', '10', 'a favour');
               SELECT entitlements.block('42', 'fraud', 'chargeback', 'sso');"#
        ))
        .unwrap();
    (database, client)
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
    one(client, &format!("SELECT string_agg(line, '; ') FROM ({}) AS lines (line)", each.join(" UNION ALL ")), &[])
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
    for _ in 0..3_000 {
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
    outcomes.check(3_000);
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
