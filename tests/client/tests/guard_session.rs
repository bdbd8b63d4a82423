//! The current account: how it is bound, how long it counts, and that nobody gets one that was not given to them.

use entitlements_bundle::{PrivateKey, base64url};
use entitlements_client_tests::{Database, one, refused, refused_with, row};
use postgres::types::Type;
use postgres::{Client, NoTls};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PRODUCT: &str = r#"
    SELECT entitlements.apply_catalog('{
        "features": {"sso": {"kind": "flag"}, "support": {"kind": "config"},
                     "calls": {"kind": "quota", "period": "1 month"}, "seats": {"kind": "allocation"},
                     "bursts": {"kind": "rate", "period": "1 hour"}},
        "plans": {"team": {"kind": "base", "features": {"sso": true, "support": "standard", "calls": 10, "seats": 3, "bursts": 2}},
                  "free": {"kind": "base", "features": {"calls": 1}}}}');
    SELECT entitlements.subscribe('acme', 'team'), entitlements.subscribe('rival', 'free'), entitlements.subscribe('42', 'team'),
           entitlements.subscribe('00000000-0000-0000-0000-00000000002a', 'team');"#;

fn filled() -> (Database, Client) {
    let database = Database::new();
    let mut client = database.connect();
    client.batch_execute(PRODUCT).unwrap();
    (database, client)
}

fn current(client: &mut Client) -> Option<String> {
    one(client, "SELECT entitlements.current_account()", &[])
}

/// A role with the level of a tenant's connections, dropped at the end, after its database.
struct Member {
    name: String,
    database: Option<Database>,
}

impl Member {
    fn new(database: Database) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("entitlements_member_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        database
            .connect()
            .batch_execute(&format!(
                "DROP ROLE IF EXISTS {name}; CREATE ROLE {name} LOGIN; SELECT entitlements.grant_access('{name}', 'member')"
            ))
            .unwrap();
        Self { name, database: Some(database) }
    }

    fn database(&self) -> &Database {
        self.database.as_ref().expect("it lasts as long as the role")
    }

    fn connect(&self) -> Client {
        self.database().connect_as(&self.name)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut config = self.database().config();
        drop(self.database.take());
        if let Ok(mut client) = config.dbname("postgres").connect(NoTls) {
            let _ = client.batch_execute(&format!("DROP ROLE {}", self.name));
        }
    }
}

// Binding

#[test]
fn the_account_is_that_of_the_transaction() {
    let (database, mut client) = filled();
    assert_eq!(current(&mut client), None);
    // A statement by itself is a transaction, whose account ends with it.
    assert_eq!(one::<String>(&mut client, "SELECT entitlements.set_account('acme')", &[]), "acme");
    assert_eq!(current(&mut client), None);

    let prepared = format!("PREPARE TRANSACTION '{}'", database.name());
    for end in ["COMMIT", "ROLLBACK", &prepared] {
        client.batch_execute("BEGIN; SELECT entitlements.set_account('acme')").unwrap();
        assert_eq!(current(&mut client).as_deref(), Some("acme"), "{end}");
        client.batch_execute(end).unwrap();
        assert_eq!(current(&mut client), None, "{end}");
    }
    client.batch_execute(&format!("ROLLBACK PREPARED '{}'", database.name())).unwrap();

    client.batch_execute("BEGIN; SELECT entitlements.set_account('acme')").unwrap();
    refused_with(&mut client, "22012", "SELECT 1 / 0", &[]);
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(current(&mut client), None, "after a transaction that failed");

    client.batch_execute("BEGIN; SELECT entitlements.set_account('acme'); COMMIT AND CHAIN").unwrap();
    assert_eq!(current(&mut client), None, "in the transaction that follows in a chain");
    client.batch_execute("ROLLBACK").unwrap();
}

#[test]
fn a_procedure_that_commits_has_no_account_left() {
    let (_database, mut client) = filled();
    client.batch_execute("CREATE TABLE seen (place text, account text)").unwrap();
    client
        .batch_execute(
            "DO $$ BEGIN
                 PERFORM entitlements.set_account('acme');
                 INSERT INTO seen VALUES ('before', entitlements.current_account());
                 COMMIT;
                 INSERT INTO seen VALUES ('after', entitlements.current_account());
                 BEGIN
                     PERFORM entitlements.set_account('42');
                     INSERT INTO seen VALUES ('within', entitlements.current_account());
                     RAISE EXCEPTION 'undone';
                 EXCEPTION WHEN raise_exception THEN
                     INSERT INTO seen VALUES ('caught', entitlements.current_account());
                 END;
             END $$",
        )
        .unwrap();
    let seen: Vec<(String, Option<String>)> =
        client.query("SELECT * FROM seen", &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    let of = |place: &str, account: Option<&str>| (place.to_owned(), account.map(str::to_owned));
    assert_eq!(seen, [of("before", Some("acme")), of("after", None), of("caught", None)]);
}

/// Any order of savepoints, releases and rollbacks, against what a list of values does.
#[test]
fn savepoints_give_back_what_was_bound_before_them() {
    let (_database, mut client) = filled();
    let seed: u64 =
        std::env::var("SEED").ok().map_or_else(|| rand::rng().random(), |seed| seed.parse().expect("SEED is a number"));
    println!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let accounts = [Some("acme"), Some("rival"), Some("42"), None];
    let mut rollbacks = 0;
    for _ in 0..60 {
        client.batch_execute("BEGIN").unwrap();
        // The account now, and at each savepoint that still is.
        let (mut bound, mut savepoints): (Option<&str>, Vec<Option<&str>>) = (None, Vec::new());
        for _ in 0..30 {
            match random.random_range(0..6) {
                0 => {
                    client.batch_execute(&format!("SAVEPOINT s{}", savepoints.len())).unwrap();
                    savepoints.push(bound);
                }
                1 if !savepoints.is_empty() => {
                    let to = random.random_range(0..savepoints.len());
                    client.batch_execute(&format!("RELEASE s{to}")).unwrap();
                    savepoints.truncate(to);
                }
                2 if !savepoints.is_empty() => {
                    let to = random.random_range(0..savepoints.len());
                    if random.random_bool(0.3) {
                        refused_with(&mut client, "NE006", "SELECT entitlements.set_account('nobody')", &[]);
                    }
                    client.batch_execute(&format!("ROLLBACK TO s{to}")).unwrap();
                    bound = savepoints[to];
                    savepoints.truncate(to + 1);
                    rollbacks += 1;
                }
                3 => {
                    // Uses a subtransaction of its own.
                    client.execute("SELECT entitlements.try_consume('rival', 'calls', 5)", &[]).unwrap();
                }
                _ => {
                    bound = accounts[random.random_range(0..accounts.len())];
                    client.execute("SELECT entitlements.set_account($1::text)", &[&bound]).unwrap();
                }
            }
            assert_eq!(current(&mut client).as_deref(), bound);
        }
        client.batch_execute(if random.random_bool(0.5) { "COMMIT" } else { "ROLLBACK" }).unwrap();
        assert_eq!(current(&mut client), None);
    }
    assert!(rollbacks > 50, "{rollbacks} rollbacks");
}

#[test]
fn a_pool_hands_nothing_over() {
    let (database, mut client) = filled();
    let member = Member::new(database);
    let mut pooled = member.connect();
    // What drivers keep: statements with cached plans. Five times, until the plan is a generic one.
    pooled
        .batch_execute(
            "PREPARE mine AS SELECT entitlements.current_account(), entitlements.entitled('sso'), entitlements.value_of('support')",
        )
        .unwrap();
    trust(&mut client, "session", "sub");
    for round in 0..12 {
        let account = ["acme", "rival"][round % 2];
        pooled.batch_execute("BEGIN").unwrap();
        pooled
            .execute("SELECT entitlements.authenticate($1)", &[&token(&claims(&[("sub", &format!("\"{account}\""))]))])
            .unwrap();
        let answer = row(&mut pooled, "EXECUTE mine", &[]);
        assert_eq!(answer.get::<_, Option<String>>(0).as_deref(), Some(account));
        assert_eq!(answer.get::<_, bool>(1), account == "acme");
        assert_eq!(answer.get::<_, Option<serde_json::Value>>(2), (account == "acme").then(|| "standard".into()));
        pooled.batch_execute(["COMMIT", "ROLLBACK"][round / 2 % 2]).unwrap();
        // The next client, in a transaction of its own.
        let answer = row(&mut pooled, "EXECUTE mine", &[]);
        assert_eq!((answer.get::<_, Option<String>>(0), answer.get::<_, bool>(1)), (None, false));
    }
    pooled.batch_execute("BEGIN").unwrap();
    pooled.execute("SELECT entitlements.authenticate($1)", &[&token(&claims(&[]))]).unwrap();
    refused_with(&mut pooled, "25001", "DISCARD ALL", &[]);
    pooled.batch_execute("ROLLBACK").unwrap();
    pooled.batch_execute("DISCARD ALL").unwrap();
    assert_eq!(current(&mut pooled), None);
}

/// A cursor goes on with the account it was opened for: its rows were asked for by that account.
#[test]
fn a_held_cursor_has_its_rows_and_no_account() {
    let (_database, mut client) = filled();
    client
        .batch_execute(
            "BEGIN; SELECT entitlements.set_account('acme');
             DECLARE held CURSOR WITH HOLD FOR SELECT entitlements.current_account() FROM generate_series(1, 3);
             COMMIT",
        )
        .unwrap();
    assert_eq!(one::<String>(&mut client, "FETCH 1 FROM held", &[]), "acme");
    assert_eq!(current(&mut client), None);
}

#[test]
fn only_accounts_that_there_are_can_be_set() {
    let (_database, mut client) = filled();
    let error = refused_with(&mut client, "NE006", "SELECT entitlements.set_account('nobody')", &[]);
    assert_eq!(error.detail(), Some(r#"{"account":"nobody"}"#));
    refused_with(&mut client, "NE006", "SELECT entitlements.set_account('')", &[]);
    refused_with(&mut client, "NE006", "SELECT entitlements.set_account(7)", &[]);
    for (sql, key) in [
        ("SELECT entitlements.set_account(42)", Some("42")),
        (
            "SELECT entitlements.set_account('00000000-0000-0000-0000-00000000002A'::uuid)",
            Some("00000000-0000-0000-0000-00000000002a"),
        ),
        ("SELECT entitlements.set_account(NULL::text)", None),
        ("SELECT entitlements.set_account(NULL::uuid)", None),
        ("SELECT entitlements.set_account(NULL::bigint)", None),
    ] {
        client.batch_execute("BEGIN; SELECT entitlements.set_account('acme')").unwrap();
        assert_eq!(one::<Option<String>>(&mut client, sql, &[]).as_deref(), key, "{sql}");
        assert_eq!(current(&mut client).as_deref(), key, "{sql}");
        client.batch_execute("COMMIT").unwrap();
    }
    // One that the same transaction has made.
    client
        .batch_execute("BEGIN; SELECT entitlements.define_account('new'); SELECT entitlements.set_account('new'); ROLLBACK")
        .unwrap();
    refused_with(&mut client, "NE006", "SELECT entitlements.set_account('new')", &[]);
}

#[test]
fn keys_are_numbers_and_uuids_in_their_own_form_alone() {
    let (_database, mut client) = filled();
    for (key, number, uuid) in [
        ("42", true, false),
        ("-42", true, false),
        ("0", true, false),
        ("9223372036854775807", true, false),
        ("9223372036854775808", false, false),
        ("042", false, false),
        ("+42", false, false),
        ("-0", false, false),
        (" 42", false, false),
        ("42.0", false, false),
        ("4e1", false, false),
        ("00000000-0000-0000-0000-00000000002a", false, true),
        ("00000000-0000-0000-0000-00000000002A", false, false),
        ("0000000000000000000000000000002a", false, false),
        ("{00000000-0000-0000-0000-00000000002a}", false, false),
        ("00000000-0000-0000-0000-00000000002a-", false, false),
        ("0000-00000000-0000-0000-00000000002a", false, false),
        ("00000000-0000-0000-0000-00000000002", false, false),
        ("00000000-0000-0000-0000-00000000002aa", false, false),
        ("é", false, false),
        ("acme", false, false),
    ] {
        client.batch_execute("BEGIN").unwrap();
        client.execute("SELECT entitlements.define_account($1)", &[&key]).unwrap();
        client.execute("SELECT entitlements.set_account($1::text)", &[&key]).unwrap();
        let found = row(
            &mut client,
            "SELECT entitlements.current_account_bigint()::text, entitlements.current_account_uuid()::text",
            &[],
        );
        let expected = |is: bool| is.then(|| key.to_owned());
        assert_eq!((found.get(0), found.get(1)), (expected(number), expected(uuid)), "{key}");
        client.batch_execute("ROLLBACK").unwrap();
    }
    let nobody =
        row(&mut client, "SELECT entitlements.current_account_bigint(), entitlements.current_account_uuid()::text", &[]);
    assert_eq!((nobody.get::<_, Option<i64>>(0), nobody.get::<_, Option<String>>(1)), (None, None));
}

// The functions of one argument

/// Calls on the current account, and the same with the account named.
const SAME: &[(&str, &str)] = &[
    ("entitled('sso')", "entitled('%', 'sso')"),
    ("entitled('calls')", "entitled('%', 'calls')"),
    ("value_of('sso')", "value_of('%', 'sso')"),
    ("value_of('support')", "value_of('%', 'support')"),
    ("allowance('seats')", "allowance('%', 'seats')"),
    ("check_access('calls')", "check_access('%', 'calls')"),
    ("check_access('calls', 11)", "check_access('%', 'calls', 11)"),
    ("check_access('bursts', 2)", "check_access('%', 'bursts', 2)"),
    ("check_access('sso')", "check_access('%', 'sso')"),
    ("try_consume('calls', 11)", "try_consume('%', 'calls', 11)"),
    ("try_consume('seats')", "try_consume('%', 'seats')"),
    (
        "ARRAY(SELECT e::text FROM entitlements.entitlements_of() AS e)",
        "ARRAY(SELECT e::text FROM entitlements.entitlements_of('%') AS e)",
    ),
];

#[test]
fn without_account_it_is_the_current_one() {
    let (_database, mut client) = filled();
    let text = |client: &mut Client, call: &str| -> Option<String> {
        let schema = if call.starts_with("ARRAY") { "" } else { "entitlements." };
        let sql = format!("SELECT ({schema}{call})::text");
        client.batch_execute("SAVEPOINT call").unwrap();
        let answer = one(client, &sql, &[]);
        client.batch_execute("ROLLBACK TO call").unwrap();
        answer
    };
    for account in ["acme", "rival", "42", "00000000-0000-0000-0000-00000000002a"] {
        client.batch_execute("BEGIN").unwrap();
        client.execute("SELECT entitlements.set_account($1::text)", &[&account]).unwrap();
        for (current, named) in SAME {
            assert_eq!(text(&mut client, current), text(&mut client, &named.replace('%', account)), "{account}: {current}");
        }
        client.batch_execute("COMMIT").unwrap();
    }
    client.batch_execute("BEGIN; SELECT entitlements.set_account('acme')").unwrap();
    assert!(one::<bool>(&mut client, "SELECT entitlements.require('sso')", &[]));
    client.batch_execute("SELECT entitlements.consume('calls', 4); SELECT entitlements.release('calls')").unwrap();
    let used: String = one(&mut client, "SELECT (entitlements.check_access('acme', 'calls')).used::text", &[]);
    assert_eq!(used, "3");
    let error = refused_with(&mut client, "NE002", "SELECT entitlements.consume('calls', 8)", &[]);
    assert!(error.detail().is_some_and(|detail| detail.contains(r#""account":"acme""#)), "{error:?}");
    client.batch_execute("ROLLBACK; BEGIN; SELECT entitlements.set_account('rival')").unwrap();
    refused_with(&mut client, "NE001", "SELECT entitlements.require('sso')", &[]);
    client.batch_execute("ROLLBACK").unwrap();
}

#[test]
fn without_a_current_account_nothing_is_granted() {
    let (_database, mut client) = filled();
    let answers = row(
        &mut client,
        "SELECT entitlements.entitled('sso'), entitlements.value_of('sso')::text, entitlements.value_of('support')::text,
                entitlements.allowance('calls')::text, (entitlements.check_access('calls')).allowed,
                (entitlements.try_consume('calls')).reason, (SELECT count(*) FROM entitlements.entitlements_of())",
        &[],
    );
    assert!(!answers.get::<_, bool>(0));
    assert_eq!(answers.get::<_, Option<&str>>(1), Some("false"));
    assert_eq!(answers.get::<_, Option<&str>>(2), None);
    assert_eq!(answers.get::<_, Option<&str>>(3), Some("0"));
    assert!(!answers.get::<_, bool>(4));
    assert_eq!(answers.get::<_, &str>(5), "unknown_account");
    assert_eq!(answers.get::<_, i64>(6), 0);
    refused_with(&mut client, "NE001", "SELECT entitlements.require('sso')", &[]);
    refused_with(&mut client, "NE001", "SELECT entitlements.consume('calls')", &[]);
    refused_with(&mut client, "NE007", "SELECT entitlements.release('calls')", &[]);
    for function in ["entitled", "require", "value_of", "allowance", "check_access", "consume", "try_consume"] {
        refused_with(&mut client, "NE003", &format!("SELECT entitlements.{function}('nothing')"), &[]);
        refused_with(&mut client, "NE007", &format!("SELECT entitlements.{function}(NULL)"), &[]);
    }
}

/// The account can change between two rows of one statement; each row is answered for the account of its moment.
#[test]
fn a_statement_that_changes_the_account_is_answered_row_by_row() {
    let (_database, mut client) = filled();
    let answers: Vec<(String, bool)> = client
        .query(
            "SELECT entitlements.set_account(account), entitlements.entitled('sso')
             FROM unnest(ARRAY['acme', 'rival', 'acme', 'rival', '42']) AS account",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    for (account, granted) in answers {
        assert_eq!(granted, account != "rival", "{account}");
    }
}

/// Drivers that do not say of what types their parameters are: the calls that name the account mean what they meant.
#[test]
fn parameters_without_types_still_find_the_forms_with_an_account() {
    let (_database, mut client) = filled();
    for (call, types) in [
        ("entitled($1, $2)", vec![Type::TEXT, Type::TEXT]),
        ("require($1, $2)", vec![Type::TEXT, Type::TEXT]),
        ("value_of($1, $2)", vec![Type::TEXT, Type::TEXT]),
        ("allowance($1, $2)", vec![Type::TEXT, Type::TEXT]),
        ("check_access($1, $2)", vec![Type::TEXT, Type::TEXT]),
        ("check_access($1, $2, $3)", vec![Type::TEXT, Type::TEXT, Type::NUMERIC]),
        ("consume($1, $2)", vec![Type::TEXT, Type::TEXT]),
        ("consume($1, $2, $3)", vec![Type::TEXT, Type::TEXT, Type::NUMERIC]),
        ("consume($1, $2, $3, $4)", vec![Type::TEXT, Type::TEXT, Type::NUMERIC, Type::TEXT]),
        ("consume($1, $2, $3, $4, $5)", vec![Type::TEXT, Type::TEXT, Type::NUMERIC, Type::TEXT, Type::JSONB]),
        ("try_consume($1, $2)", vec![Type::TEXT, Type::TEXT]),
        ("try_consume($1, $2, $3)", vec![Type::TEXT, Type::TEXT, Type::NUMERIC]),
        ("try_consume($1, $2, $3, $4)", vec![Type::TEXT, Type::TEXT, Type::NUMERIC, Type::TEXT]),
        ("release($1, $2)", vec![Type::TEXT, Type::TEXT]),
        ("release($1, $2, $3)", vec![Type::TEXT, Type::TEXT, Type::NUMERIC]),
        ("release($1, $2, $3, $4)", vec![Type::TEXT, Type::TEXT, Type::NUMERIC, Type::TEXT]),
        ("entitlements_of($1)", vec![Type::TEXT]),
        ("set_account($1)", vec![Type::TEXT]),
        ("authenticate($1)", vec![Type::TEXT]),
        // On the current account.
        ("entitled($1)", vec![Type::TEXT]),
        ("require($1)", vec![Type::TEXT]),
        ("value_of($1)", vec![Type::TEXT]),
        ("allowance($1)", vec![Type::TEXT]),
        ("check_access($1)", vec![Type::TEXT]),
        ("consume($1)", vec![Type::TEXT]),
        ("try_consume($1)", vec![Type::TEXT]),
        ("release($1)", vec![Type::TEXT]),
        ("consume($1, $2::numeric)", vec![Type::TEXT, Type::NUMERIC]),
        ("consume($1, n => $2)", vec![Type::TEXT, Type::NUMERIC]),
    ] {
        let statement =
            client.prepare(&format!("SELECT entitlements.{call}")).unwrap_or_else(|error| panic!("{call}: {error:?}"));
        assert_eq!(statement.params(), types, "{call}");
    }
    // Constants: text is an account, a number is n.
    client.batch_execute("BEGIN; SELECT entitlements.set_account('rival')").unwrap();
    let of =
        |client: &mut Client, call: &str| -> String { one(client, &format!("SELECT (entitlements.{call}).account"), &[]) };
    assert_eq!(of(&mut client, "check_access('acme', 'calls')"), "acme");
    assert_eq!(of(&mut client, "check_access(42, 'calls')"), "42");
    assert_eq!(of(&mut client, "check_access('calls', 1)"), "rival");
    assert_eq!(of(&mut client, "check_access('calls', 1.5)"), "rival");
    client.batch_execute("ROLLBACK").unwrap();
}

#[test]
fn a_policy_asks_once_and_leaves_the_scan_parallel() {
    let (_database, mut client) = filled();
    client
        .batch_execute(
            "CREATE TABLE orders (id bigint, account text, number bigint);
             INSERT INTO orders SELECT i, CASE WHEN i % 4 = 0 THEN 'acme' ELSE 'rival' END, CASE WHEN i % 4 = 0 THEN 42 ELSE 7 END
               FROM generate_series(1, 40000) AS i;
             ANALYZE orders;
             SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2;
             BEGIN; SELECT entitlements.set_account('acme')",
        )
        .unwrap();
    let condition = "account = (SELECT entitlements.current_account()) AND (SELECT entitlements.entitled('sso'))";
    let query = format!("SELECT count(*) FROM orders WHERE {condition}");
    let plan: Vec<String> =
        client.query(&format!("EXPLAIN (COSTS OFF) {query}"), &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let plan = plan.join("\n");
    for part in ["Gather", "Parallel Seq Scan on orders", "InitPlan"] {
        assert!(plan.contains(part), "{part}:\n{plan}");
    }
    assert_eq!(one::<i64>(&mut client, &query, &[]), 10_000);
    // Not in a worker, where the account is not known.
    let plain =
        "SELECT count(*) FROM orders WHERE account = entitlements.current_account() AND entitlements.entitled('sso')";
    assert_eq!(one::<i64>(&mut client, plain, &[]), 10_000);
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(one::<i64>(&mut client, &query, &[]), 0);
    assert_eq!(one::<i64>(&mut client, plain, &[]), 0);
    client.batch_execute("BEGIN; SELECT entitlements.set_account(42)").unwrap();
    let by_number = "SELECT count(*) FROM orders WHERE number = (SELECT entitlements.current_account_bigint())";
    assert_eq!(one::<i64>(&mut client, by_number, &[]), 10_000);
    client.batch_execute("COMMIT").unwrap();
}

// Session tokens

const ISSUER: &str = "https://issuer.example";

fn signer(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(&[seed; 32])
}

/// The public key that tokens are signed with here, named `key`.
fn jwk(seed: u8) -> serde_json::Value {
    let mut jwk: serde_json::Value = serde_json::from_str(&signer(seed).public().to_jwk().to_string()).unwrap();
    jwk["kid"] = "key".into();
    jwk
}

fn trust(client: &mut Client, purpose: &str, claim: &str) -> String {
    let sql = "SELECT entitlements.trust_key($1, $2, $3, 'orders', $4)";
    one(client, sql, &[&jwk(1), &ISSUER, &purpose, &claim])
}

fn sign(seed: u8, header: &str, payload: &str) -> String {
    let input = format!("{}.{}", base64url::encode(header.as_bytes()), base64url::encode(payload.as_bytes()));
    format!("{input}.{}", base64url::encode(&signer(seed).sign(input.as_bytes())))
}

fn token(payload: &str) -> String {
    sign(1, r#"{"alg": "EdDSA", "typ": "JWT", "kid": "key"}"#, payload)
}

fn seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// Claims that are in order, with others instead of or beside them; an empty value leaves the claim out.
fn claims(changed: &[(&str, &str)]) -> String {
    let (expires, issuer) = ((seconds() + 300).to_string(), format!("\"{ISSUER}\""));
    let usual = [("iss", issuer.as_str()), ("aud", "\"orders\""), ("exp", &expires), ("sub", "\"acme\"")];
    let kept = usual.into_iter().filter(|(name, _)| changed.iter().all(|(other, _)| other != name));
    let members = kept.chain(changed.iter().copied().filter(|(_, value)| !value.is_empty()));
    let members: Vec<String> = members.map(|(name, value)| format!("\"{name}\": {value}")).collect();
    format!("{{{}}}", members.join(", "))
}

/// Asserts that the token is refused for this reason, and that the error says nothing of it.
fn refuses(client: &mut Client, token: &str, reason: &str) {
    let error = refused_with(client, "NE012", "SELECT entitlements.authenticate($1)", &[&token]);
    assert_eq!(error.detail(), Some(format!(r#"{{"reason":"{reason}"}}"#).as_str()), "{token}");
    let said = format!("{error:?}");
    let parts: Vec<&str> = token.split('.').filter(|part| part.len() > 8).collect();
    assert!(parts.iter().all(|part| !said.contains(part)), "{said}");
}

/// A key and a token of each algorithm, made by other libraries (RustCrypto), for the subject acme, until 2286.
const EACH_ALGORITHM: [(&str, &str, &str); 3] = [
    (
        "EdDSA",
        r#"{"kty": "OKP", "crv": "Ed25519", "kid": "key", "x": "6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw"}"#,
        "eyJhbGciOiAiRWREU0EiLCAidHlwIjogIkpXVCIsICJraWQiOiAia2V5In0.eyJpc3MiOiAiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsICJhdWQiOiAib3JkZXJzIiwgInN1YiI6ICJhY21lIiwgImV4cCI6IDk5OTk5OTk5OTl9.5K49fNfsPLTXvs8x-ifmPccEuYyY_iQdHJx2tPKyzY4xPbOBrYh6GNyQJWjxxfhoRSjGPBMjSVFheLl4Jec3Dg",
    ),
    (
        "ES256",
        r#"{"kty": "EC", "crv": "P-256", "kid": "key", "x": "HhhTL9R1TALzBB2cdc6zO4P_2BrHzk_ogsyxyYvFiW4", "y": "pGwxHE4v9A3ZajZT5uRURdMt_khuztdcepDGoYiBwKM"}"#,
        "eyJhbGciOiAiRVMyNTYiLCAidHlwIjogIkpXVCIsICJraWQiOiAia2V5In0.eyJpc3MiOiAiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsICJhdWQiOiAib3JkZXJzIiwgInN1YiI6ICJhY21lIiwgImV4cCI6IDk5OTk5OTk5OTl9.6NF6EYdaqACNqIo41B6orn4YAgEdQAPrDM7ut3oAU92XUPq-hIX_5S35Frb8aGLFcquXqF-lvhVU-Y_16FkGog",
    ),
    (
        "RS256",
        r#"{"kty": "RSA", "kid": "key", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ", "e": "AQAB"}"#,
        "eyJhbGciOiAiUlMyNTYiLCAidHlwIjogIkpXVCIsICJraWQiOiAia2V5In0.eyJpc3MiOiAiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsICJhdWQiOiAib3JkZXJzIiwgInN1YiI6ICJhY21lIiwgImV4cCI6IDk5OTk5OTk5OTl9.F-5K7nfTQN8tKaBqfp-UtkBI43jQyi1oYYFbGqT5v0oWeJuyVXP7ztNXGa8klfmcDBFOiU1z3f0eAcyI51wscUVYNsh4_W-8s73f0a5tQR9czlMjHCFctjcnb-kMFIJlCSVu-QvSytvM5GurkUf9RoX6HqC_5amlLyc9ohrsgDU_9spQLd0FKds0KlymmiOBwkeEITAilw36iMvXJUz1vRUQV8nRY1K6YiGeg5ROOTI9AWYT1N666uaXw52HcSYQvN6kt6B-oewc9E75n3p10GtSg19zg_hgQFCFdPfpQ450zeVBiorq1cMsUvugna2oVIXjQ5-jWN2mG_n5-RT9EQ",
    ),
];

#[test]
fn a_token_of_each_algorithm_binds_its_account() {
    let (_database, mut client) = filled();
    for (algorithm, jwk, token) in EACH_ALGORITHM {
        client.batch_execute("BEGIN").unwrap();
        client.execute("SELECT entitlements.trust_key($1::text::jsonb, $2, 'session', 'orders')", &[&jwk, &ISSUER]).unwrap();
        assert_eq!(one::<String>(&mut client, "SELECT algorithm FROM entitlements.trusted_keys", &[]), algorithm);
        assert_eq!(one::<String>(&mut client, "SELECT entitlements.authenticate($1)", &[&token]), "acme");
        assert_eq!(current(&mut client).as_deref(), Some("acme"), "{algorithm}");
        client.batch_execute("SAVEPOINT refused").unwrap();
        for (other, _, of_other) in EACH_ALGORITHM {
            if other != algorithm {
                refuses(&mut client, of_other, "algorithm");
                client.batch_execute("ROLLBACK TO refused").unwrap();
            }
        }
        client.batch_execute("ROLLBACK").unwrap();
    }
}

#[test]
fn a_token_binds_what_acted_for_nobody() {
    let (_database, mut client) = filled();
    trust(&mut client, "session", "sub");
    let acme = format!("SELECT entitlements.authenticate('{}')", token(&claims(&[])));
    let nobody = "SELECT entitlements.set_account(NULL::text)";
    for begin in ["", "SAVEPOINT a;", "SELECT entitlements.set_account(42); ROLLBACK TO start; SAVEPOINT a;"] {
        client.batch_execute(&format!("BEGIN; SAVEPOINT start; {begin} {nobody}; SAVEPOINT b; {acme}")).unwrap();
        assert_eq!(current(&mut client).as_deref(), Some("acme"), "{begin}");
        // And then for good.
        for other in ["SELECT entitlements.set_account(42)", nobody] {
            client.batch_execute("SAVEPOINT other").unwrap();
            refused_with(&mut client, "NE009", other, &[]);
            client.batch_execute("ROLLBACK TO other").unwrap();
        }
        client.batch_execute("COMMIT").unwrap();
    }
    // Not where it has acted for somebody: NULL gives that no end, whose cursors can still be read.
    for acted in [
        "SELECT entitlements.set_account(42); DECLARE left_open CURSOR FOR SELECT entitlements.current_account();",
        "SELECT entitlements.set_account(42); SAVEPOINT a;",
        "SAVEPOINT a; SELECT entitlements.set_account(42); RELEASE a;",
        "SAVEPOINT a; SELECT entitlements.set_account(42); SAVEPOINT b; SELECT entitlements.set_account(NULL::text); RELEASE a;",
        "SELECT entitlements.set_account(42); SELECT entitlements.set_account(NULL::text); SAVEPOINT a;",
    ] {
        for released in ["", "SAVEPOINT c; SELECT entitlements.set_account(NULL::text); RELEASE c;"] {
            client.batch_execute(&format!("BEGIN; {acted} {nobody}; {released} SAVEPOINT last")).unwrap();
            assert_eq!(current(&mut client), None, "{acted}");
            refused_with(&mut client, "NE009", &acme, &[]);
            client.batch_execute("ROLLBACK").unwrap();
        }
    }
}

#[test]
fn each_refusal_says_why_and_binds_nothing() {
    let (database, mut owner) = filled();
    let member = Member::new(database);
    let mut client = member.connect();
    let good = token(&claims(&[]));
    refuses(&mut client, &good, "unknown_key");
    trust(&mut owner, "session", "sub");
    assert_eq!(one::<String>(&mut client, "SELECT entitlements.authenticate($1)", &[&good]), "acme");

    let past = (seconds() - 31).to_string();
    let ahead = (seconds() + 60).to_string();
    let with_header = |header: &str| sign(1, header, &claims(&[]));
    let (unsigned, _) = good.rsplit_once('.').unwrap();
    for (token, reason) in [
        ("", "malformed"),
        ("acme", "malformed"),
        (&*good.replace('.', ""), "malformed"),
        (&format!("{good} "), "malformed"),
        (&"x".repeat(100_000), "malformed"),
        (&token(r#"{"sub": "acme", "sub": "rival"}"#), "malformed"),
        (&with_header(r#"{"alg": "EdDSA", "kid": "key", "kid": "key"}"#), "malformed"),
        (&with_header(r#"{"alg": "EdDSA"}"#), "header"),
        (&with_header(&format!(r#"{{"alg": "EdDSA", "kid": "key", "jwk": {}}}"#, jwk(1))), "header"),
        (&with_header(r#"{"alg": "EdDSA", "kid": "key", "crit": ["exp"]}"#), "header"),
        (&with_header(r#"{"alg": "EdDSA", "kid": "key", "typ": "entitlements-bundle+jwt"}"#), "header"),
        (&with_header(r#"{"alg": "none", "kid": "key"}"#), "algorithm"),
        (&with_header(r#"{"alg": "HS256", "kid": "key"}"#), "algorithm"),
        (&with_header(r#"{"alg": "EdDSA", "kid": "other"}"#), "unknown_key"),
        (&with_header(r#"{"alg": "EdDSA", "kid": "' OR true --"}"#), "unknown_key"),
        (&sign(2, r#"{"alg": "EdDSA", "kid": "key"}"#, &claims(&[])), "bad_signature"),
        (&format!("{unsigned}."), "bad_signature"),
        (&token(&claims(&[("iss", "\"https://evil.example\"")])), "wrong_issuer"),
        (&token(&claims(&[("aud", "\"billing\"")])), "wrong_audience"),
        (&token(&claims(&[("aud", "")])), "wrong_audience"),
        (&token(&claims(&[("exp", &past)])), "expired"),
        (&token(&claims(&[("nbf", &ahead)])), "not_yet_valid"),
        (&token(&claims(&[("iat", &ahead)])), "not_yet_valid"),
        (&token(&claims(&[("exp", "")])), "claim"),
        (&token(&claims(&[("sub", "")])), "claim"),
        (&token(&claims(&[("sub", "[\"acme\"]")])), "claim"),
        (&token(&claims(&[("sub", "\"nobody\"")])), "unknown_account"),
        (&token(&claims(&[("sub", &format!("\"{}\"", "x".repeat(5_000)))])), "unknown_account"),
    ] {
        client.batch_execute("BEGIN").unwrap();
        client.execute("SELECT entitlements.authenticate($1)", &[&good]).unwrap();
        client.batch_execute("SAVEPOINT before").unwrap();
        refuses(&mut client, token, reason);
        client.batch_execute("ROLLBACK TO before").unwrap();
        assert_eq!(current(&mut client).as_deref(), Some("acme"), "what was bound before stays");
        client.batch_execute("COMMIT").unwrap();
        refuses(&mut client, token, reason);
        assert_eq!(current(&mut client), None);
    }
    refused_with(&mut client, "NE012", "SELECT entitlements.authenticate(NULL)", &[]);
}

#[test]
fn the_account_stands_where_the_key_says() {
    let (_database, mut client) = filled();
    trust(&mut client, "session", "/org/id");
    let organisation = token(&claims(&[("org", r#"{"id": 42}"#)]));
    assert_eq!(one::<String>(&mut client, "SELECT entitlements.authenticate($1)", &[&organisation]), "42");
    refuses(&mut client, &token(&claims(&[])), "claim");
}

#[test]
fn a_key_counts_for_its_purpose_and_time_and_while_it_is_trusted() {
    let (database, mut client) = filled();
    let good = token(&claims(&[]));
    let bundle = signer(1).public().to_jwk().to_string();
    let kid: String = one(&mut client, "SELECT entitlements.trust_key($1::text::jsonb, $2, 'bundle')", &[&bundle, &ISSUER]);
    let of_bundle_key = sign(1, &format!(r#"{{"alg": "EdDSA", "kid": "{kid}"}}"#), &claims(&[]));
    refuses(&mut client, &of_bundle_key, "unknown_key");

    let trust_for = |client: &mut Client, from: &str, until: &str| {
        let sql = format!("SELECT entitlements.trust_key($1, $2, 'session', 'orders', 'sub', {from}, {until})");
        client.execute(&sql, &[&jwk(1), &ISSUER]).unwrap();
    };
    trust_for(&mut client, "now() + interval '1 hour'", "NULL");
    refuses(&mut client, &good, "unknown_key");
    assert!(one::<bool>(&mut client, "SELECT entitlements.distrust_key('key', 'too early')", &[]));
    trust_for(&mut client, "NULL", "clock_timestamp() + interval '2 seconds'");
    one::<String>(&mut client, "SELECT entitlements.authenticate($1)", &[&good]);
    sleep(Duration::from_millis(2_100));
    refuses(&mut client, &good, "unknown_key");
    client.execute("SELECT entitlements.distrust_key('key', 'too short')", &[]).unwrap();

    // Distrusted while transactions run, however old what they see is.
    trust_for(&mut client, "NULL", "'infinity'");
    let mut other = database.connect();
    other.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE").unwrap();
    one::<String>(&mut other, "SELECT entitlements.authenticate($1)", &[&good]);
    assert!(one::<bool>(&mut client, "SELECT entitlements.distrust_key('key', 'stolen')", &[]));
    assert!(!one::<bool>(&mut client, "SELECT entitlements.distrust_key('key', 'stolen')", &[]));
    assert_eq!(current(&mut other).as_deref(), Some("acme"), "what is bound stays to the end");
    refuses(&mut other, &good, "unknown_key");
    other.batch_execute("ROLLBACK").unwrap();
    let history: i64 = one(&mut client, "SELECT count(*) FROM entitlements.trusted_keys WHERE kid = 'key'", &[]);
    assert_eq!(history, 3);
    let audited: Vec<String> = client
        .query("SELECT action || ' ' || object_id FROM entitlements.audit_log WHERE object = 'key' AND chain_id = 0 ORDER BY seq", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let once = ["trust key", "distrust key"];
    assert_eq!(audited, [&[format!("trust {kid}").as_str()][..], &once, &once, &once].concat());
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.verify_audit()", &[]), 0);
}

/// The clock that tokens are held against goes on within a transaction and a statement; an account that is bound stays so.
#[test]
fn a_token_expires_while_a_transaction_runs() {
    let (_database, mut client) = filled();
    trust(&mut client, "session", "sub");
    // 30 seconds of leeway: it runs out in a second or two.
    let ending = token(&claims(&[("exp", &(seconds() - 28).to_string())]));
    client.batch_execute("BEGIN").unwrap();
    one::<String>(&mut client, "SELECT entitlements.authenticate($1)", &[&ending]);
    let sql = "SELECT entitlements.authenticate($1) FROM (SELECT pg_sleep(2.1) OFFSET 0) AS slept";
    let error = refused_with(&mut client, "NE012", sql, &[&ending]);
    assert_eq!(error.detail(), Some(r#"{"reason":"expired"}"#));
    client.batch_execute("ROLLBACK; BEGIN").unwrap();
    let ending = token(&claims(&[("exp", &(seconds() - 28).to_string())]));
    one::<String>(&mut client, "SELECT entitlements.authenticate($1)", &[&ending]);
    sleep(Duration::from_millis(2_100));
    assert_eq!(current(&mut client).as_deref(), Some("acme"));
    client.batch_execute("COMMIT").unwrap();
    refuses(&mut client, &ending, "expired");
}

#[test]
fn keys_are_trusted_on_one_set_of_terms() {
    let (_database, mut client) = filled();
    assert_eq!(trust(&mut client, "session", "sub"), "key");
    let audited = "SELECT count(*) FROM entitlements.audit_log WHERE object = 'key'";
    assert_eq!(trust(&mut client, "session", "sub"), "key", "again, on the same terms");
    assert_eq!(one::<i64>(&mut client, audited, &[]), 1);
    let call = "SELECT entitlements.trust_key($1, $2::text, $3::text, $4::text, $5::text)";
    let orders = Some("orders");
    for (jwk, issuer, purpose, audience, claim, sqlstate, what) in [
        (jwk(1), ISSUER, "session", orders, "tenant", "NE009", "key"),
        (jwk(1), ISSUER, "session", Some("billing"), "sub", "NE009", "key"),
        (jwk(1), "https://other.example", "session", orders, "sub", "NE009", "key"),
        (jwk(2), ISSUER, "session", orders, "sub", "NE009", "key"),
        (jwk(2), ISSUER, "session", None, "sub", "NE007", "audience"),
        (jwk(2), ISSUER, "session", Some(" "), "sub", "NE007", "audience"),
        (jwk(2), ISSUER, "session", orders, "/~", "NE007", "account_claim"),
        (jwk(2), ISSUER, "session", orders, "", "NE007", "account_claim"),
        (jwk(2), "", "session", orders, "sub", "NE007", "issuer"),
        (jwk(2), ISSUER, "sessions", orders, "sub", "NE007", "purpose"),
        (jwk(2), ISSUER, "bundle", orders, "sub", "NE007", "audience"),
        // Documents name their key by its thumbprint.
        (jwk(2), ISSUER, "bundle", None, "sub", "NE007", "jwk"),
        (serde_json::json!({"kty": "oct", "k": "AAAA"}), ISSUER, "session", orders, "sub", "NE007", "jwk"),
        (serde_json::json!([]), ISSUER, "session", orders, "sub", "NE007", "jwk"),
    ] {
        let error = refused_with(&mut client, sqlstate, call, &[&jwk, &issuer, &purpose, &audience, &claim]);
        let said = format!("{} {}", error.message(), error.detail().unwrap_or_default());
        assert!(said.contains(what), "{what}: {said}");
    }
    let mut private = jwk(2);
    private["d"] = "c2VjcmV0".into();
    let error = refused_with(&mut client, "NE007", call, &[&private, &ISSUER, &"session", &orders, &"sub"]);
    assert!(error.message().contains("secret part") && !format!("{error:?}").contains("c2VjcmV0"), "{error:?}");
    for kept in ["d", "k"] {
        let sql = format!("UPDATE entitlements.trusted_keys SET jwk = jwk || '{{\"{kept}\": \"x\"}}'");
        refused_with(&mut client, "23514", &sql, &[]);
    }
    // A key for each purpose can have the name.
    let bundle = signer(1).public().to_jwk().to_string();
    let thumbprint = "SELECT entitlements.trust_key($1::text::jsonb, $2)";
    let kid: String = one(&mut client, thumbprint, &[&bundle, &ISSUER]);
    assert_eq!(kid, signer(1).public().kid().to_string());
    let unnamed = bundle.replace(&format!(r#""kid":"{kid}","#), "");
    assert_ne!(unnamed, bundle);
    assert_eq!(one::<String>(&mut client, thumbprint, &[&unnamed, &ISSUER]), kid, "the name it has without one");
    client.execute("SELECT entitlements.trust_key($1::text::jsonb, $2, 'session', 'orders')", &[&bundle, &ISSUER]).unwrap();
    assert!(one::<bool>(&mut client, "SELECT entitlements.distrust_key($1, 'both')", &[&kid]));
    let left: i64 = one(&mut client, "SELECT count(*) FROM entitlements.trusted_keys WHERE distrusted_at IS NULL", &[]);
    assert_eq!(left, 1, "the one named key");
    refused_with(&mut client, "NE010", "SELECT entitlements.distrust_key('nothing', 'x')", &[]);
    refused_with(&mut client, "NE007", "SELECT entitlements.distrust_key('key', '')", &[]);
}

/// A member's other sessions read the activity of its role: the token must not be in it, wherever the statement has it.
#[test]
fn no_other_session_reads_the_token() {
    let (database, mut owner) = filled();
    trust(&mut owner, "session", "sub");
    let member = Member::new(database);
    let token = token(&claims(&[]));
    let statement = format!("BEGIN; SELECT entitlements.authenticate('{token}'); SELECT pg_sleep(1.5); COMMIT");
    let in_block = format!("DO $$ BEGIN PERFORM entitlements.authenticate('{token}'), pg_sleep(1.5); END $$");
    let in_refusal = format!(
        "DO $$ BEGIN PERFORM entitlements.authenticate('{token}x'); EXCEPTION WHEN OTHERS THEN PERFORM pg_sleep(1.5); END $$"
    );
    for statement in [statement, in_block, in_refusal] {
        let mut busy = member.connect();
        let pid: i32 = one(&mut busy, "SELECT pg_backend_pid()", &[]);
        let running = spawn(move || {
            busy.batch_execute(&statement).unwrap();
            busy
        });
        sleep(Duration::from_millis(700));
        let mut watcher = member.connect();
        let seen = row(&mut watcher, "SELECT state, query FROM pg_stat_activity WHERE pid = $1", &[&pid]);
        assert_eq!(seen.get::<_, &str>(0), "active");
        assert_eq!(seen.get::<_, &str>(1), "SELECT entitlements.authenticate(<token>)");
        let mut busy = running.join().unwrap();
        let seen: String = one(&mut watcher, "SELECT query FROM pg_stat_activity WHERE pid = $1", &[&pid]);
        assert!(!seen.contains(&token), "while it is idle");
        // The next statement is shown again.
        one::<i32>(&mut busy, "SELECT 1 AS visible", &[]);
        let seen: String = one(&mut watcher, "SELECT query FROM pg_stat_activity WHERE pid = $1", &[&pid]);
        assert!(seen.contains("visible"), "{seen}");
    }
}

#[test]
fn a_member_acts_for_its_account_alone() {
    let (database, mut owner) = filled();
    trust(&mut owner, "session", "sub");
    let member = Member::new(database);
    let mut client = member.connect();
    client.batch_execute("BEGIN").unwrap();
    one::<String>(&mut client, "SELECT entitlements.authenticate($1)", &[&token(&claims(&[]))]);
    assert!(one::<bool>(&mut client, "SELECT entitlements.require('sso')", &[]));
    client.batch_execute("SELECT entitlements.consume('calls'); SAVEPOINT before").unwrap();
    for statement in [
        "SELECT entitlements.set_account('rival')",
        "SELECT entitlements.set_account(42)",
        "SELECT entitlements.set_account(NULL::text)",
        "SELECT entitlements.entitled('rival', 'sso')",
        "SELECT entitlements.consume('rival', 'calls')",
        "SELECT entitlements.consume('rival'::text, 'calls'::text, 1)",
        "SELECT entitlements.entitlements_of('rival')",
        "SELECT entitlements.trust_key('{}', 'me', 'session', 'orders')",
        "SELECT entitlements.distrust_key('key', 'mine now')",
        "SELECT FROM entitlements.trusted_keys",
        "INSERT INTO entitlements.trusted_keys DEFAULT VALUES",
    ] {
        refused_with(&mut client, "42501", statement, &[]);
        client.batch_execute("ROLLBACK TO before").unwrap();
        assert_eq!(current(&mut client).as_deref(), Some("acme"), "{statement}");
    }
    client.batch_execute("COMMIT").unwrap();
}

// A setting that a gateway fills in

#[test]
fn only_an_administrator_has_the_account_read_from_a_setting() {
    let (database, mut owner) = filled();
    let member = Member::new(database);
    let name = &member.name;
    let mut client = member.connect();
    // Before the library is loaded, the name is free for anybody: what was set then does not count.
    client
        .batch_execute(
            "SET entitlements.account_setting = 'my.account'; SET entitlements.account_claim = ''; SET my.account = 'acme'",
        )
        .unwrap();
    assert_eq!(current(&mut client), None);
    for statement in [
        "SET entitlements.account_setting = 'my.account'",
        "SET LOCAL entitlements.account_claim = ''",
        "SELECT set_config('entitlements.account_setting', 'my.account', false)",
        &format!("ALTER ROLE {name} SET entitlements.account_setting = 'my.account'"),
    ] {
        refused_with(&mut client, "42501", statement, &[]);
    }
    assert_eq!(current(&mut client), None);
    // At connect.
    let mut config = member.database().config();
    config
        .user(name)
        .options("-c entitlements.account_setting=my.account -c entitlements.account_claim= -c my.account=acme");
    if let Ok(mut client) = config.connect(NoTls) {
        assert_eq!(current(&mut client), None);
        assert!(!one::<bool>(&mut client, "SELECT entitlements.entitled('sso')", &[]));
    }
    // Kept for the role, from a session that has not loaded the library.
    let mut fresh = member.connect();
    if fresh.batch_execute(&format!("ALTER ROLE {name} SET entitlements.account_setting = 'my.account'")).is_ok() {
        let mut client = member.connect();
        client.batch_execute("SET my.account = '{\"sub\": \"acme\"}'").unwrap();
        assert_eq!(current(&mut client), None);
    }

    let database_name = member.database().name().to_owned();
    owner
        .batch_execute(&format!(
            "LOAD 'entitlements'; ALTER DATABASE {database_name} SET entitlements.account_setting = 'request.jwt.claims'"
        ))
        .unwrap();
    let mut client = member.connect();
    assert_eq!(current(&mut client), None);
    client.batch_execute(r#"SET request.jwt.claims = '{"sub": "acme"}'"#).unwrap();
    assert_eq!(current(&mut client).as_deref(), Some("acme"));
    assert!(one::<bool>(&mut client, "SELECT entitlements.entitled('sso')", &[]));
}

#[test]
fn claims_of_a_gateway_name_the_account() {
    let (database, mut client) = filled();
    client.batch_execute("SET entitlements.account_setting = 'request.jwt.claims'").unwrap();
    assert_eq!(current(&mut client), None, "the gateway has set nothing");
    for (claim, claims, account) in [
        ("sub", r#"{"sub": "acme"}"#, Some("acme")),
        ("sub", r#"{"sub": 42}"#, Some("42")),
        ("sub", r#"{"sub": "nobody knows it"}"#, Some("nobody knows it")),
        ("sub", r#"{"sub": "acme", "sub": "rival"}"#, None),
        ("sub", r#"{"sub": ["acme"]}"#, None),
        ("sub", r#"{"sub": ""}"#, None),
        ("sub", r#"{"sub": null}"#, None),
        ("sub", "{}", None),
        ("sub", "", None),
        ("sub", "acme", None),
        ("sub", "{\"sub\": \"acme\"", None),
        ("/app_metadata/org", r#"{"sub": "ada", "app_metadata": {"org": "acme"}}"#, Some("acme")),
        ("/app_metadata/org", r#"{"sub": "ada"}"#, None),
        ("/~", r#"{"~": "acme"}"#, None),
        ("", "acme", Some("acme")),
        ("", "", None),
    ] {
        client.execute("SELECT set_config('entitlements.account_claim', $1, false)", &[&claim]).unwrap();
        client.execute("SELECT set_config('request.jwt.claims', $1, false)", &[&claims]).unwrap();
        assert_eq!(current(&mut client).as_deref(), account, "{claim} of {claims}");
        let granted: bool = one(&mut client, "SELECT entitlements.entitled('sso')", &[]);
        assert_eq!(granted, matches!(account, Some("acme" | "42")), "{claim} of {claims}");
    }
    client.batch_execute(r#"SET entitlements.account_claim = 'sub'; SET request.jwt.claims = '{"sub": "acme"}'"#).unwrap();
    // As PostgREST does it: for the transaction.
    client.batch_execute(r#"BEGIN; SET LOCAL request.jwt.claims = '{"sub": "rival"}'"#).unwrap();
    assert_eq!(current(&mut client).as_deref(), Some("rival"));
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(current(&mut client).as_deref(), Some("acme"));
    // What was bound comes first, also when that is nobody.
    client.batch_execute("BEGIN; SELECT entitlements.set_account(42)").unwrap();
    assert_eq!(current(&mut client).as_deref(), Some("42"));
    client.batch_execute("SELECT entitlements.set_account(NULL::text)").unwrap();
    assert_eq!(current(&mut client), None);
    client.batch_execute("ROLLBACK").unwrap();
    client.batch_execute("SET entitlements.account_setting = ''").unwrap();
    assert_eq!(current(&mut client), None);
    // A setting that there is not.
    client.batch_execute("SET entitlements.account_setting = 'no such setting'").unwrap();
    assert_eq!(current(&mut client), None);
    drop(database);
}

// Errors for an HTTP layer

#[test]
fn errors_have_the_codes_that_postgrest_answers_with() {
    let (database, mut owner) = filled();
    trust(&mut owner, "session", "sub");
    let member = Member::new(database);
    let mut client = member.connect();
    for (call, native, http) in [
        ("require('sso')", "NE001", "PT403"),
        ("consume('seats')", "NE001", "PT403"),
        ("consume('calls', 2)", "NE002", "PT402"),
        ("consume('nothing')", "NE003", "NE003"),
        ("consume('sso')", "NE004", "NE004"),
        ("consume('calls', 0)", "NE007", "NE007"),
        ("authenticate('acme')", "NE012", "PT401"),
    ] {
        let mut details = Vec::new();
        for (codes, sqlstate) in [("native", native), ("postgrest", http)] {
            client.batch_execute(&format!("SET entitlements.error_codes = {codes}; BEGIN")).unwrap();
            let rival = token(&claims(&[("sub", "\"rival\"")]));
            one::<String>(&mut client, "SELECT entitlements.authenticate($1)", &[&rival]);
            let error = refused_with(&mut client, sqlstate, &format!("SELECT entitlements.{call}"), &[]);
            details.push((error.message().to_owned(), error.detail().map(str::to_owned)));
            client.batch_execute("ROLLBACK").unwrap();
        }
        assert_eq!(details[0], details[1], "{call}");
    }
    refused_with(&mut client, "22023", "SET entitlements.error_codes = 'http'", &[]);
    owner.batch_execute("SET entitlements.error_codes = postgrest").unwrap();
    owner.batch_execute("SELECT entitlements.consume('acme', 'bursts', 2)").unwrap();
    let error = refused(&mut owner, "SELECT entitlements.consume('acme', 'bursts')", &[]);
    assert_eq!(error.code().code(), "PT429", "{error:?}");
    let error = refused(&mut owner, "SELECT entitlements.set_account('nobody')", &[]);
    assert_eq!(error.code().code(), "NE006");
}
