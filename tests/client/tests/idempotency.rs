//! A call under an idempotency key happens once, however often and by however many it is made.

use entitlements_client_tests::{self as harness, Database, one};
use postgres::Client;
use std::thread;

const CATALOG: &str = r#"SELECT entitlements.apply_catalog('{
    "features": {"calls": {"kind": "quota", "period": "1 month", "overage": "reject"},
                 "credits": {"kind": "quota"}, "images": {"kind": "quota", "draws_on": {"feature": "credits", "cost": 2.5}},
                 "free": {"kind": "quota"}, "seats": {"kind": "allocation"}, "sso": {"kind": "flag"}},
    "plans": {"team": {"kind": "base", "features": {"calls": 100.5, "credits": 50, "images": "unlimited", "free": "unlimited", "seats": 3, "sso": true}}}}');
    SELECT entitlements.subscribe('acme', 'team', ends_at => now() + interval '1 year');
    SELECT entitlements.subscribe('other', 'team')"#;

fn refused_with(client: &mut Client, sqlstate: &str, sql: &str) {
    harness::refused_with(client, sqlstate, sql, &[]);
}

fn filled() -> (Database, Client) {
    let database = Database::new();
    let mut client = database.connect();
    client.batch_execute(CATALOG).unwrap();
    (database, client)
}

fn used(client: &mut Client, feature: &str) -> String {
    one(client, "SELECT used::text FROM entitlements.check_access('acme', $1)", &[&feature])
}

/// The rows a query gives, as text.
fn answer(client: &mut Client, sql: &str) -> Vec<String> {
    let sql = format!("SELECT answer::text FROM ({sql}) AS answer");
    client.query(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}")).iter().map(|row| row.get(0)).collect()
}

#[test]
fn the_first_answer_is_given_again_exactly() {
    let (_database, mut client) = filled();
    let calls = [
        "SELECT * FROM entitlements.consume('acme', 'calls', 1.000000001, 'a')",
        "SELECT * FROM entitlements.try_consume('acme', 'calls', 2, 'b', '{\"why\": [1.50]}')",
        "SELECT * FROM entitlements.try_consume('acme', 'calls', 1000, 'denied')",
        "SELECT * FROM entitlements.consume('acme', 'free', 999999999999999999.999999999, 'unlimited')",
        "SELECT * FROM entitlements.release('acme', 'calls', 1, 'c')",
        "SELECT * FROM entitlements.consume('acme', 'images', 3, 'd')",
        "SELECT * FROM entitlements.consume_many('acme', '{\"seats\": 1, \"calls\": 2, \"images\": 1.5}', 'e')",
    ];
    let first: Vec<Vec<String>> = calls.iter().map(|call| answer(&mut client, call)).collect();
    let before = ["calls", "credits", "images", "free", "seats"].map(|feature| used(&mut client, feature));
    // What is in force and used now is another than then.
    client.batch_execute("SELECT entitlements.set_override('acme', 'calls', 'set', '5', 'less')").unwrap();
    for (call, first) in calls.iter().zip(&first) {
        assert_eq!(&answer(&mut client, call), first, "{call}");
    }
    client.batch_execute("SELECT entitlements.block('acme', 'fraud', 'chargeback')").unwrap();
    for (call, first) in calls.iter().zip(&first) {
        assert_eq!(&answer(&mut client, call), first, "{call}");
    }
    client.batch_execute("SELECT entitlements.unblock('acme', 'fraud', 'paid')").unwrap();
    assert_eq!(["calls", "credits", "images", "free", "seats"].map(|feature| used(&mut client, feature)), before);
    assert_eq!(first[6].len(), 3);
    assert!(first[2][0].starts_with("(f,limit_exceeded,acme,calls,quota,100.5,"), "{}", first[2][0]);
}

#[test]
fn another_call_under_the_key_is_refused() {
    let (_database, mut client) = filled();
    client.batch_execute("SELECT entitlements.consume('acme', 'calls', 1, 'key', '{\"a\": 1}')").unwrap();
    for call in [
        "entitlements.consume('acme', 'calls', 2, 'key', '{\"a\": 1}')",
        "entitlements.consume('acme', 'calls', 1, 'key')",
        "entitlements.consume('acme', 'calls', 1, 'key', '{\"a\": 2}')",
        "entitlements.consume('acme', 'free', 1, 'key', '{\"a\": 1}')",
        "entitlements.try_consume('acme', 'calls', 1, 'key', '{\"a\": 1}')",
        "entitlements.release('acme', 'calls', 1, 'key', '{\"a\": 1}')",
        "entitlements.consume_many('acme', '{\"calls\": 1}', 'key', '{\"a\": 1}')",
        "entitlements.record_usage('[{\"account\": \"acme\", \"feature\": \"calls\", \"idempotency_key\": \"key\", \"metadata\": {\"a\": 1}}]')",
    ] {
        refused_with(&mut client, "NE009", &format!("SELECT * FROM {call}"));
    }
    assert_eq!(used(&mut client, "calls"), "1");
    // 1 and 1.0 are one number, and each account has keys of its own.
    client.batch_execute("SELECT entitlements.consume('acme', 'calls', 1.0, 'key', '{\"a\": 1}')").unwrap();
    client.batch_execute("SELECT entitlements.consume('other', 'calls', 2, 'key')").unwrap();
    assert_eq!(used(&mut client, "calls"), "1");
}

#[test]
fn a_bad_key_is_refused_and_an_unknown_account_has_none() {
    let (_database, mut client) = filled();
    for call in ["consume('acme', 'calls', 1, $1)", "try_consume('acme', 'calls', 1, $1)", "release('acme', 'calls', 1, $1)"]
    {
        for key in [String::new(), "x".repeat(256), "é".repeat(128)] {
            let error = client.query(&format!("SELECT entitlements.{call}"), &[&key]).unwrap_err();
            assert_eq!(error.code().unwrap().code(), "NE007", "{call} {key}");
        }
    }
    client.query("SELECT entitlements.consume('acme', 'calls', 1, $1)", &[&"é".repeat(127)]).unwrap();
    for _ in 0..2 {
        let reason: String =
            one(&mut client, "SELECT reason FROM entitlements.try_consume('nobody', 'calls', 1, 'key')", &[]);
        assert_eq!(reason, "unknown_account");
    }
    refused_with(&mut client, "NE001", "SELECT entitlements.consume('nobody', 'calls', 1, 'key')");
    refused_with(&mut client, "NE001", "SELECT entitlements.consume(NULL, 'calls', 1, 'key')");
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.idempotency_keys", &[]), 1);
}

#[test]
fn a_call_that_was_undone_did_not_happen() {
    let (_database, mut client) = filled();
    client
        .batch_execute(
            "BEGIN; SELECT entitlements.consume('acme', 'calls', 1, 'key'); ROLLBACK;
             BEGIN; SAVEPOINT a; SELECT entitlements.consume('acme', 'calls', 2, 'key'); ROLLBACK TO a;
             SELECT entitlements.consume('acme', 'calls', 3, 'key'); COMMIT;
             SELECT entitlements.consume('acme', 'calls', 3, 'key');",
        )
        .unwrap();
    assert_eq!(used(&mut client, "calls"), "3");
    // A denial that was raised was undone too: the key is free.
    refused_with(&mut client, "NE002", "SELECT entitlements.consume('acme', 'calls', 1000, 'denied')");
    client.batch_execute("SELECT entitlements.consume('acme', 'calls', 1, 'denied')").unwrap();
    assert_eq!(used(&mut client, "calls"), "4");
}

#[test]
fn sixty_four_callers_with_one_key_consume_once() {
    let (database, mut client) = filled();
    let answers: Vec<String> = thread::scope(|scope| {
        let callers: Vec<_> = (0..64)
            .map(|caller| {
                let mut client = database.connect();
                scope.spawn(move || {
                    let mut transaction = client.transaction().unwrap();
                    let answer: String = transaction
                        .query_one("SELECT entitlements.consume('acme', 'calls', 7, 'key')::text", &[])
                        .unwrap()
                        .get(0);
                    // Every third gives up; then it is as if it had never called.
                    let gives_up = caller % 3 == 0;
                    if gives_up {
                        transaction.rollback().unwrap()
                    } else {
                        transaction.commit().unwrap()
                    }
                    (!gives_up).then_some(answer)
                })
            })
            .collect();
        callers.into_iter().filter_map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(used(&mut client, "calls"), "7");
    assert_eq!(answers.len(), 42);
    assert!(answers.windows(2).all(|two| two[0] == two[1]), "{answers:?}");
}

#[test]
fn a_second_caller_waits_for_the_first() {
    let (database, mut client) = filled();
    for (end, used_then) in [("ROLLBACK", "2"), ("COMMIT", "3")] {
        let key = format!("key {end}");
        client.batch_execute("BEGIN").unwrap();
        client.query("SELECT entitlements.consume('acme', 'calls', 1, $1)", &[&key]).unwrap();
        let mut second = database.connect();
        let pid: i32 = one(&mut second, "SELECT pg_backend_pid()", &[]);
        let waiting = thread::spawn(move || {
            second.query_one("SELECT (entitlements.consume('acme', 'calls', 1, $1)).used::text", &[&key]).map(|_| ())
        });
        let mut watcher = database.connect();
        let waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1";
        while one::<Option<bool>>(&mut watcher, waits, &[&pid]) != Some(true) {
            assert!(!waiting.is_finished(), "the second caller did not wait");
            thread::sleep(std::time::Duration::from_millis(5));
        }
        client
            .batch_execute(if end == "COMMIT" {
                "COMMIT"
            } else {
                "ROLLBACK; SELECT entitlements.consume('acme', 'calls', 1)"
            })
            .unwrap();
        waiting.join().unwrap().unwrap();
        assert_eq!(used(&mut client, "calls"), used_then, "{end}");
    }
}

#[test]
fn repeatable_read_raises_only_serialization_failures() {
    let (database, mut client) = filled();
    let mut other = database.connect();
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    other.batch_execute("SELECT entitlements.consume('acme', 'calls', 1, 'key')").unwrap();
    refused_with(&mut client, "40001", "SELECT entitlements.consume('acme', 'calls', 1, 'key')");
    client.batch_execute("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT entitlements.consume('acme', 'calls', 1, 'key'); COMMIT").unwrap();
    assert_eq!(used(&mut client, "calls"), "1");
    client.batch_execute("BEGIN READ ONLY").unwrap();
    refused_with(&mut client, "25006", "SELECT entitlements.consume('acme', 'calls', 1, 'key')");
}
