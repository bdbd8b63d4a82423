//! Rates: what a bucket gives and when more comes back, in a table and in shared memory, alone and with many asking at once.

use entitlements_client_tests::{Database, one, refused_with, row};
use postgres::{Client, IsolationLevel};
use std::sync::{Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

const CATALOG: &str = r#"{
    "features": {
        "calls": {"kind": "rate", "period": "1 hour", "burst": 5},
        "shared_calls": {"kind": "rate", "period": "1 hour", "burst": 5, "store": "shared"},
        "often": {"kind": "rate", "period": "1 second", "burst": 50},
        "shared_often": {"kind": "rate", "period": "1 second", "burst": 50, "store": "shared"},
        "sevenths": {"kind": "rate", "period": "1 second"},
        "shared_sevenths": {"kind": "rate", "period": "1 second", "store": "shared"},
        "unlimited": {"kind": "rate", "period": "1 second"},
        "nothing": {"kind": "rate", "period": "1 second"}
    },
    "plans": {"team": {"kind": "base", "features": {
        "calls": 2, "shared_calls": 2, "often": 300, "shared_often": 300, "sevenths": 7, "shared_sevenths": 7,
        "unlimited": "unlimited", "nothing": 0}}}
}"#;

fn stage(database: &Database) -> Client {
    let mut client = database.connect();
    client.query("SELECT entitlements.apply_catalog($1::text)", &[&CATALOG]).expect("the catalog applies");
    run(&mut client, "SELECT entitlements.subscribe('acme', 'team')");
    client
}

fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

fn allowed(client: &mut Client, feature: &str, n: i32) -> bool {
    one(client, "SELECT allowed FROM entitlements.try_consume('acme', $1, $2::int)", &[&feature, &n])
}

/// Reason, remaining units rounded down, and seconds until it would be allowed.
fn check(client: &mut Client, call: &str) -> (String, Option<i32>, Option<i32>) {
    let sql = format!(
        "SELECT reason, floor(remaining)::int, ceil(extract(epoch FROM resets_at - statement_timestamp()))::int FROM entitlements.{call}"
    );
    let row = row(client, &sql, &[]);
    (row.get(0), row.get(1), row.get(2))
}

fn answer(reason: &str, remaining: i32, seconds: Option<i32>) -> (String, Option<i32>, Option<i32>) {
    (reason.to_owned(), Some(remaining), seconds)
}

/// What holds wherever the state is kept.
fn a_bucket_gives_a_burst_and_fills(database: &Database, calls: &str, sevenths: &str) {
    let mut client = stage(database);
    assert_eq!(check(&mut client, &format!("check_access('acme', '{calls}', 5)")), answer("granted", 5, None));
    assert_eq!(check(&mut client, &format!("check_access('acme', '{calls}', 6)")), answer("rate_limited", 5, None));
    assert_eq!(check(&mut client, &format!("try_consume('acme', '{calls}', 4)")), answer("granted", 1, None));
    // Two an hour: one more is there in half an hour.
    assert_eq!(check(&mut client, &format!("try_consume('acme', '{calls}', 2)")), answer("rate_limited", 1, Some(1800)));
    assert_eq!(check(&mut client, &format!("check_access('acme', '{calls}')")), answer("granted", 1, None));
    assert_eq!(check(&mut client, &format!("consume('acme', '{calls}')")), answer("granted", 0, None));
    assert_eq!(check(&mut client, &format!("check_access('acme', '{calls}')")), answer("rate_limited", 0, Some(1800)));
    let error = refused_with(&mut client, "NE002", &format!("SELECT entitlements.consume('acme', '{calls}', 3)"), &[]);
    let detail: serde_json::Value = serde_json::from_str(error.detail().unwrap()).unwrap();
    assert_eq!(
        (&detail["reason"], &detail["requested"], &detail["allowance"]),
        (&"rate_limited".into(), &3.into(), &2.into())
    );
    assert!(detail["resets_at"].is_string());
    let error = refused_with(&mut client, "NE002", &format!("SELECT entitlements.consume('acme', '{calls}', 6)"), &[]);
    assert!(error.hint().unwrap().contains("never allowed at once"), "{error:?}");
    for call in [
        format!("release('acme', '{calls}')"),
        format!("reserve('acme', '{calls}', 1, '1 minute')"),
        format!("consume_many('acme', '{{\"{calls}\": 1}}')"),
    ] {
        refused_with(&mut client, "NE004", &format!("SELECT entitlements.{call}"), &[]);
    }

    // Seven a second, all at once and then evenly, whatever the fractions of a microsecond.
    for _ in 0..7 {
        assert!(allowed(&mut client, sevenths, 1));
    }
    assert!(!allowed(&mut client, sevenths, 7));
    thread::sleep(Duration::from_millis(1_000));
    assert!(allowed(&mut client, sevenths, 7));
    assert!(!allowed(&mut client, sevenths, 2));
    thread::sleep(Duration::from_millis(290));
    assert!(allowed(&mut client, sevenths, 2));

    // Another account has a bucket of its own, also where it inherits the rate.
    run(&mut client, "SELECT entitlements.define_account('north', parent => 'acme')");
    assert_eq!(check(&mut client, &format!("try_consume('north', '{calls}', 5)")), answer("granted", 0, None));
    // A larger allowance counts at once: 20 an hour bring one in three minutes.
    run(&mut client, &format!("SELECT entitlements.set_override('acme', '{calls}', 'set', '20', 'more')"));
    let (reason, _, seconds) = check(&mut client, &format!("try_consume('acme', '{calls}', 5)"));
    assert_eq!(reason, "rate_limited");
    assert!(seconds.is_some_and(|seconds| seconds > 0 && seconds <= 9000), "{seconds:?}");

    let mut transaction = client.build_transaction().read_only(true).start().unwrap();
    let sql = format!("SELECT allowed FROM entitlements.check_access('acme', '{calls}')");
    assert!(!transaction.query_one(&sql, &[]).unwrap().get::<_, bool>(0));
    let refused = transaction.query(&format!("SELECT entitlements.try_consume('acme', '{calls}')"), &[]).unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "25006");
}

#[test]
fn in_the_table() {
    let database = Database::new();
    a_bucket_gives_a_burst_and_fills(&database, "calls", "sevenths");
    let mut client = database.connect();
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.rates", &[]), 3);
}

#[test]
fn without_preloading_shared_rates_are_in_the_table() {
    let database = Database::new();
    a_bucket_gives_a_burst_and_fills(&database, "shared_calls", "shared_sevenths");
    let mut client = database.connect();
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.rates", &[]), 3);
    assert_eq!(client.query("SELECT * FROM entitlements.shared_rates()", &[]).unwrap().len(), 0);
}

#[test]
fn what_grants_decides_before_the_rate() {
    let database = Database::new();
    let mut client = stage(&database);
    let taken = row(
        &mut client,
        "SELECT allowed, allowance::text, remaining::text, consumed::text FROM entitlements.consume('acme', 'unlimited', 1e17)",
        &[],
    );
    assert!(taken.get::<_, bool>(0));
    assert_eq!(
        (taken.get(1), taken.get(2), taken.get(3)),
        (None::<String>, None::<String>, Some("100000000000000000".to_owned()))
    );
    for (reason, call) in [
        ("not_granted", "try_consume('acme', 'nothing')"),
        ("unknown_account", "try_consume('nobody', 'calls')"),
        ("unknown_account", "try_consume(NULL::text, 'calls')"),
        ("unknown_account", "check_access('nobody', 'calls')"),
    ] {
        assert_eq!(check(&mut client, call).0, reason, "{call}");
    }
    refused_with(&mut client, "NE001", "SELECT entitlements.consume('acme', 'nothing')", &[]);
    run(&mut client, "SELECT entitlements.set_override('acme', 'often', 'deny', NULL, 'abuse')");
    assert_eq!(check(&mut client, "try_consume('acme', 'often')").0, "override_denied");
    run(&mut client, "SELECT entitlements.block('acme', 'billing', 'unpaid')");
    for call in ["try_consume('acme', 'calls')", "try_consume('acme', 'unlimited')", "check_access('acme', 'calls')"] {
        assert_eq!(check(&mut client, call).0, "blocked", "{call}");
    }
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.rates", &[]), 0);
}

#[test]
fn nothing_is_rounded_in_the_row() {
    let database = Database::new();
    let mut client = stage(&database);
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute("SELECT entitlements.consume('acme', 'sevenths') FROM generate_series(1, 3)").unwrap();
    let row = transaction.query_one("SELECT fraction::text FROM entitlements.rates", &[]).unwrap();
    // Three sevenths of a second are 428571 and 3/7 microseconds; the allowance is seven.
    assert_eq!(row.get::<_, String>(0), "3");
}

#[test]
fn a_rate_in_the_table_is_part_of_the_transaction() {
    let database = Database::new();
    let mut client = stage(&database);
    assert!(allowed(&mut client, "calls", 1));
    let mut transaction = client.transaction().unwrap();
    let take = "SELECT allowed FROM entitlements.try_consume('acme', 'calls', 3)";
    let mut savepoint = transaction.savepoint("s").unwrap();
    assert!(savepoint.query_one(take, &[]).unwrap().get::<_, bool>(0));
    assert!(!savepoint.query_one(take, &[]).unwrap().get::<_, bool>(0));
    savepoint.rollback().unwrap();
    assert!(transaction.query_one(take, &[]).unwrap().get::<_, bool>(0));
    transaction.rollback().unwrap();

    // Who asks for the same meanwhile waits for what becomes of it; who would be denied anyway does not.
    let mut transaction = client.transaction().unwrap();
    assert!(transaction.query_one(take, &[]).unwrap().get::<_, bool>(0));
    let mut other = database.connect();
    assert!(!allowed(&mut other, "calls", 5));
    let waiting = thread::spawn({
        let mut second = database.connect();
        move || allowed(&mut second, "calls", 4)
    });
    thread::sleep(Duration::from_millis(300));
    assert!(!waiting.is_finished());
    transaction.rollback().unwrap();
    assert!(waiting.join().unwrap());
    assert!(!allowed(&mut client, "calls", 1));
}

#[test]
fn a_stricter_isolation_level_raises_a_serialization_failure_and_nothing_else() {
    let database = Database::new();
    let mut client = stage(&database);
    let mut other = database.connect();
    for level in [IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
        for known in [false, true] {
            run(&mut client, "DELETE FROM entitlements.rates");
            if known {
                assert!(allowed(&mut client, "calls", 1));
            }
            let mut transaction = client.build_transaction().isolation_level(level).start().unwrap();
            transaction.query("SELECT 1 FROM entitlements.rates", &[]).unwrap();
            assert!(allowed(&mut other, "calls", 1));
            let failure = transaction.query("SELECT entitlements.try_consume('acme', 'calls')", &[]).unwrap_err();
            assert_eq!(failure.code().unwrap().code(), "40001", "{failure:?}");
        }
    }
}

/// How many of so many connections that all begin at once are granted, by what `work` counts.
fn race(database: &Database, count: usize, work: impl Fn(&mut Client) -> usize + Sync) -> usize {
    let barrier = Barrier::new(count);
    thread::scope(|scope| {
        let racers: Vec<_> = (0..count)
            .map(|_| {
                let (work, barrier) = (&work, &barrier);
                let mut client = database.connect();
                scope.spawn(move || {
                    barrier.wait();
                    work(&mut client)
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().expect("the racer does not fail")).sum()
    })
}

fn never_more_than_a_burst_and_what_time_brings(database: &Database, calls: &str, often: &str) {
    let granted = race(database, 48, |client| usize::from(allowed(client, calls, 1)));
    assert_eq!(granted, 5);
    // From when all are connected: while nobody asks, the burst is full and time brings nothing.
    let (begin, duration) = (OnceLock::new(), Duration::from_millis(1_500));
    let granted = race(database, 32, |client| {
        let begin = begin.get_or_init(Instant::now);
        let mut granted = 0;
        while begin.elapsed() < duration {
            granted += usize::from(allowed(client, often, 1));
        }
        granted
    });
    let most = 50.0 + 300.0 * begin.get().expect("all have begun").elapsed().as_secs_f64();
    assert!((granted as f64) <= most, "{granted} of {most}");
    // Demand was greater all the time: hardly anything was left.
    assert!(granted as f64 >= 50.0 + 300.0 * 0.6, "{granted} of {most}");
}

#[test]
fn many_at_once_in_the_table() {
    let database = Database::new();
    stage(&database);
    never_more_than_a_burst_and_what_time_brings(&database, "calls", "often");
}

/// One test, since the server's shared memory is one for all databases and here it gets full.
#[test]
fn in_shared_memory() {
    let database = Database::preloaded();
    a_bucket_gives_a_burst_and_fills(&database, "shared_calls", "shared_sevenths");
    let mut client = database.connect();
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.rates", &[]), 0);
    let filling = row(&mut client, "SELECT slots, busy FROM entitlements.shared_rates()", &[]);
    assert_eq!((filling.get::<_, i32>(0), filling.get::<_, i32>(1) >= 2), (1024, true));

    let second = Database::preloaded();
    stage(&second);
    never_more_than_a_burst_and_what_time_brings(&second, "shared_calls", "shared_often");
    let mut client = second.connect();
    run(&mut client, "SELECT entitlements.subscribe('other', 'team')");
    let mut transaction = client.transaction().unwrap();
    transaction.query("SELECT entitlements.consume('other', 'shared_calls', 3)", &[]).unwrap();
    transaction.rollback().unwrap();
    assert_eq!(check(&mut client, "check_access('other', 'shared_calls')"), answer("granted", 2, None));

    // More than there is room for, each busy for five seconds.
    run(
        &mut client,
        "SELECT entitlements.apply_catalog(jsonb_build_object(
             'features', (SELECT jsonb_object_agg('f' || n, '{\"kind\": \"rate\", \"period\": \"5 seconds\", \"store\": \"shared\"}'::jsonb) FROM generate_series(1, 3000) AS n),
             'plans', jsonb_build_object('many', jsonb_build_object('kind', 'base',
                 'features', (SELECT jsonb_object_agg('f' || n, 1) FROM generate_series(1, 3000) AS n)))));
         SELECT entitlements.subscribe('many', 'many')",
    );
    let mut refused = 0;
    let mut granted = Vec::new();
    for number in 1..=3000 {
        match client.query_one(&format!("SELECT allowed FROM entitlements.try_consume('many', 'f{number}')"), &[]) {
            Ok(row) => {
                assert!(row.get::<_, bool>(0));
                granted.push(number);
            }
            Err(error) => {
                assert_eq!(error.code().unwrap().code(), "NE011", "{error:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > 1000, "{refused}");
    assert!(granted.len() > 700, "{}", granted.len());
    // Who has a place keeps it.
    let newest = granted.last().expect("some were granted");
    assert!(!one::<bool>(&mut client, &format!("SELECT allowed FROM entitlements.try_consume('many', 'f{newest}')"), &[]));
    assert_eq!(check(&mut client, "check_access('other', 'shared_calls')"), answer("granted", 2, None));
    thread::sleep(Duration::from_secs(5));
    let busy: i32 = one(&mut client, "SELECT busy FROM entitlements.shared_rates()", &[]);
    assert!(busy < 50, "{busy}");
    assert!(one::<bool>(&mut client, "SELECT allowed FROM entitlements.try_consume('many', 'f3000')", &[]));
}
