//! Seats of an allocation: named and floating, who gets a place and who keeps one, alone and with many asking at once.

use entitlements_client_tests::{Database, one, refused_with, row};
use postgres::Client;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const CATALOG: &str = r#"{
    "features": {
        "sso": {"kind": "flag"},
        "named": {"kind": "allocation", "unit": "seat", "ledger": true},
        "floating": {"kind": "allocation", "lease": "1 hour"},
        "lingering": {"kind": "allocation", "lease": "1 hour", "linger": "10 minutes"},
        "soft": {"kind": "allocation", "lease": "1 hour", "overage": "allow"},
        "ceiling": {"kind": "allocation", "lease": "1 hour", "overage": "allow", "ceiling": 1.5},
        "lent": {"kind": "allocation", "lease": "1 hour", "overage": "allow", "overdraft": 2},
        "capped": {"kind": "allocation", "overage": "cap"}
    },
    "plans": {"team": {"kind": "base", "features": {
        "sso": true, "named": 2, "floating": 2, "lingering": 1, "soft": 2, "ceiling": 2, "lent": 1, "capped": 1.5}}}
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

/// Assigns a seat of acme; gives the reason and whose seats were reclaimed.
fn ask(client: &mut Client, feature: &str, holder: &str) -> (String, Vec<String>) {
    ask_for(client, "acme", feature, holder)
}

fn ask_for(client: &mut Client, account: &str, feature: &str, holder: &str) -> (String, Vec<String>) {
    let sql =
        "SELECT reason, reclaimed_from, allowed, assigned_at IS NOT NULL FROM entitlements.try_assign_seat($1, $2, $3)";
    let row = row(client, sql, &[&account, &feature, &holder]);
    let (reason, allowed): (String, bool) = (row.get(0), row.get(2));
    assert_eq!((allowed, allowed), (reason == "granted", row.get(3)));
    (reason, row.get(1))
}

fn granted(client: &mut Client, feature: &str, holder: &str) {
    assert_eq!(ask(client, feature, holder), ("granted".to_owned(), Vec::new()), "{feature} {holder}");
}

fn full(client: &mut Client, feature: &str, holder: &str) {
    assert_eq!(ask(client, feature, holder), ("limit_exceeded".to_owned(), Vec::new()), "{feature} {holder}");
}

fn reclaims(client: &mut Client, feature: &str, holder: &str, from: &[&str]) {
    let from: Vec<String> = from.iter().map(|holder| (*holder).to_owned()).collect();
    assert_eq!(ask(client, feature, holder), ("granted".to_owned(), from), "{feature} {holder}");
}

/// Lets so many minutes pass for a holder's seat.
fn age(client: &mut Client, holder: &str, minutes: i32) {
    run(
        client,
        &format!(
            "UPDATE entitlements.seat_parts SET leased_until = leased_until - interval '{minutes} minutes'
              WHERE seat_id IN (SELECT id FROM entitlements.seats WHERE holder = '{holder}' AND ended_at IS NULL);
             UPDATE entitlements.seats SET leased_until = leased_until - interval '{minutes} minutes',
                    renewed_at = renewed_at - interval '{minutes} minutes', assigned_at = assigned_at - interval '{minutes} minutes'
              WHERE holder = '{holder}' AND ended_at IS NULL"
        ),
    );
}

fn seats(client: &mut Client, account: &str, feature: &str) -> Vec<String> {
    let sql = "SELECT holder || ' ' || state FROM entitlements.seats($1, $2)";
    client.query(sql, &[&account, &feature]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn used(client: &mut Client, account: &str, feature: &str) -> i64 {
    one(client, "SELECT used::bigint FROM entitlements.check_access($1, $2)", &[&account, &feature])
}

/// The units in the counters and the seats that took them.
fn balanced(client: &mut Client) {
    let sql = "SELECT count(*) FROM entitlements.counters AS counter
                WHERE counter.used + (SELECT coalesce(sum(slot.used), 0) FROM entitlements.counter_slots AS slot WHERE slot.counter_id = counter.id)
                   <> (SELECT coalesce(sum(part.amount), 0) FROM entitlements.seat_parts AS part WHERE part.counter_id = counter.id)";
    assert_eq!(one::<i64>(client, sql, &[]), 0, "units without a seat, or seats without units");
    let sql = "SELECT count(*) FROM entitlements.seats AS seat
                WHERE (seat.ended_at IS NULL) <> EXISTS (SELECT FROM entitlements.seat_parts AS part WHERE part.seat_id = seat.id)";
    assert_eq!(one::<i64>(client, sql, &[]), 0, "a live seat has parts, an ended one has none");
}

#[test]
fn a_named_seat_is_its_holders_until_it_is_released() {
    let database = Database::new();
    let mut client = stage(&database);
    granted(&mut client, "named", "ann");
    granted(&mut client, "named", "ann");
    granted(&mut client, "named", "bob");
    full(&mut client, "named", "cid");
    age(&mut client, "ann", 1_000_000);
    full(&mut client, "named", "cid");
    let error = refused_with(&mut client, "NE002", "SELECT entitlements.assign_seat('acme', 'named', 'cid')", &[]);
    assert!(error.detail().is_some_and(|detail| detail.contains(r#""used":2"#)), "{error:?}");
    assert_eq!(seats(&mut client, "acme", "named"), ["ann named", "bob named"]);
    assert!(one::<bool>(&mut client, "SELECT entitlements.renew_seat('acme', 'named', 'ann') IS NULL", &[]));

    assert!(one::<bool>(&mut client, "SELECT entitlements.release_seat('acme', 'named', 'ann', 'left')", &[]));
    assert!(!one::<bool>(&mut client, "SELECT entitlements.release_seat('acme', 'named', 'ann')", &[]));
    assert!(!one::<bool>(&mut client, "SELECT entitlements.release_seat('nobody', 'named', 'ann')", &[]));
    let reason: String = one(&mut client, "SELECT end_reason FROM entitlements.seats WHERE holder = 'ann'", &[]);
    assert_eq!(reason, "left");
    granted(&mut client, "named", "cid");
    let events: Vec<String> = client
        .query("SELECT action || ' ' || amount FROM entitlements.usage_events ORDER BY id", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(events, ["assign_seat 1", "assign_seat 1", "release_seat -1", "assign_seat 1"]);
    balanced(&mut client);
}

#[test]
fn seats_and_other_use_share_one_limit() {
    let database = Database::new();
    let mut client = stage(&database);
    run(&mut client, "SELECT entitlements.consume('acme', 'named')");
    granted(&mut client, "named", "ann");
    full(&mut client, "named", "bob");
    refused_with(&mut client, "NE002", "SELECT entitlements.consume('acme', 'named')", &[]);
    run(&mut client, "SELECT entitlements.release('acme', 'named')");
    granted(&mut client, "named", "bob");
    refused_with(&mut client, "NE002", "SELECT entitlements.consume('acme', 'named')", &[]);
    // The units were given back by hand: ending the seats cannot give them back once more.
    run(&mut client, "SELECT entitlements.release('acme', 'named', 2)");
    assert!(one::<bool>(&mut client, "SELECT entitlements.release_seat('acme', 'named', 'ann')", &[]));
    assert_eq!(used(&mut client, "acme", "named"), 0);
    // A part of a unit is no seat.
    granted(&mut client, "capped", "ann");
    full(&mut client, "capped", "bob");
    assert_eq!(
        one::<String>(&mut client, "SELECT remaining::text FROM entitlements.check_access('acme', 'capped')", &[]),
        "0.5"
    );
}

#[test]
fn an_expired_lease_is_its_holders_until_another_needs_the_place() {
    let database = Database::new();
    let mut client = stage(&database);
    granted(&mut client, "floating", "ann");
    granted(&mut client, "floating", "bob");
    let lease: bool = one(
        &mut client,
        "SELECT leased_until - assigned_at = interval '1 hour' FROM entitlements.seats('acme', 'floating') WHERE holder = 'ann'",
        &[],
    );
    assert!(lease);
    full(&mut client, "floating", "cid");
    age(&mut client, "ann", 61);
    assert_eq!(seats(&mut client, "acme", "floating"), ["ann expired", "bob leased"]);
    granted(&mut client, "floating", "ann");
    assert_eq!(seats(&mut client, "acme", "floating"), ["ann leased", "bob leased"]);
    age(&mut client, "ann", 61);
    let runs: bool =
        one(&mut client, "SELECT entitlements.renew_seat('acme', 'floating', 'ann') > now() + interval '59 minutes'", &[]);
    assert!(runs);

    age(&mut client, "ann", 62);
    age(&mut client, "bob", 63);
    reclaims(&mut client, "floating", "cid", &["bob"]);
    refused_with(&mut client, "NE010", "SELECT entitlements.renew_seat('acme', 'floating', 'bob')", &[]);
    reclaims(&mut client, "floating", "bob", &["ann"]);
    full(&mut client, "floating", "ann");
    let ended: i64 = one(
        &mut client,
        "SELECT count(*) FROM entitlements.seats WHERE end_reason = 'reclaimed' AND ended_at IS NOT NULL",
        &[],
    );
    assert_eq!(ended, 2);
    balanced(&mut client);
}

#[test]
fn a_lease_may_be_given_with_the_seat() {
    let database = Database::new();
    let mut client = stage(&database);
    let mut lease = |sql: &str| one::<Option<String>>(&mut client, sql, &[]);
    let seat = |lease: &str| {
        format!(
            "SELECT round(extract(epoch FROM leased_until - now()))::text FROM entitlements.assign_seat('acme', 'named', 'ann', {lease})"
        )
    };
    assert_eq!(lease(&seat("NULL")), None);
    assert_eq!(lease(&format!("{} -- a named seat becomes a floating one", seat("'1 day'"))).as_deref(), Some("86400"));
    assert_eq!(lease(&seat("NULL")).as_deref(), Some("86400"));
    assert_eq!(lease(&seat("'1 minute'")).as_deref(), Some("60"));
    for (sqlstate, call) in [
        ("NE007", "'acme', 'named', 'ann', '0'"),
        ("NE007", "'acme', 'named', 'ann', '-1 day'"),
        ("NE007", "'acme', 'named', 'ann', '1 millisecond'"),
        ("NE007", "'acme', 'named', 'ann', '100000 years'"),
        ("NE007", "'acme', 'named', NULL"),
        ("NE007", "'acme', 'named', ''"),
        ("NE007", "'acme', 'named', repeat('x', 256)"),
        ("NE007", "'acme', NULL, 'ann'"),
        ("NE003", "'acme', 'seats', 'ann'"),
        ("NE004", "'acme', 'sso', 'ann'"),
        ("NE001", "'nobody', 'named', 'ann'"),
        ("NE001", "NULL, 'named', 'ann'"),
    ] {
        refused_with(&mut client, sqlstate, &format!("SELECT entitlements.assign_seat({call})"), &[]);
    }
    assert_eq!(ask_for(&mut client, "nobody", "named", "ann").0, "unknown_account");
    assert_eq!(seats(&mut client, "nobody", "named"), Vec::<String>::new());
}

#[test]
fn a_place_lingers() {
    let database = Database::new();
    let mut client = stage(&database);
    granted(&mut client, "lingering", "ann");
    age(&mut client, "ann", 61);
    run(&mut client, "UPDATE entitlements.seats SET renewed_at = now() - interval '9 minutes'");
    full(&mut client, "lingering", "bob");
    run(&mut client, "UPDATE entitlements.seats SET renewed_at = now() - interval '11 minutes'");
    reclaims(&mut client, "lingering", "bob", &["ann"]);

    assert!(one::<bool>(&mut client, "SELECT entitlements.release_seat('acme', 'lingering', 'bob')", &[]));
    assert!(!one::<bool>(&mut client, "SELECT entitlements.release_seat('acme', 'lingering', 'bob')", &[]));
    assert_eq!(seats(&mut client, "acme", "lingering"), ["bob returned"]);
    full(&mut client, "lingering", "ann");
    refused_with(&mut client, "NE010", "SELECT entitlements.renew_seat('acme', 'lingering', 'bob')", &[]);
    granted(&mut client, "lingering", "bob");
    assert_eq!(seats(&mut client, "acme", "lingering"), ["bob leased"]);
    run(&mut client, "SELECT entitlements.release_seat('acme', 'lingering', 'bob', 'lunch')");
    age(&mut client, "bob", 11);
    reclaims(&mut client, "lingering", "ann", &["bob"]);
    let reason: String =
        one(&mut client, "SELECT end_reason FROM entitlements.seats WHERE holder = 'bob' ORDER BY id DESC LIMIT 1", &[]);
    assert_eq!(reason, "lunch");
    balanced(&mut client);
}

#[test]
fn overdraft_begins_where_nothing_can_be_reclaimed() {
    let database = Database::new();
    let mut client = stage(&database);
    for holder in ["a", "b", "c", "d"] {
        granted(&mut client, "soft", holder);
    }
    let overage: i64 = one(&mut client, "SELECT overage::bigint FROM entitlements.check_access('acme', 'soft')", &[]);
    assert_eq!(overage, 2);
    age(&mut client, "c", 61);
    age(&mut client, "a", 62);
    // Three would have to go for another to be within the allowance: those that can are not kept at extra cost.
    reclaims(&mut client, "soft", "e", &["a", "c"]);
    assert_eq!(seats(&mut client, "acme", "soft"), ["b leased", "d leased", "e leased"]);
    age(&mut client, "d", 63);
    age(&mut client, "e", 64);
    age(&mut client, "b", 65);
    // Two of three are enough.
    reclaims(&mut client, "soft", "f", &["b", "e"]);
    assert_eq!(seats(&mut client, "acme", "soft"), ["d expired", "f leased"]);
    granted(&mut client, "soft", "d");

    for holder in ["a", "b", "c"] {
        granted(&mut client, "ceiling", holder);
    }
    full(&mut client, "ceiling", "d");
    for holder in ["a", "b", "c"] {
        granted(&mut client, "lent", holder);
    }
    full(&mut client, "lent", "d");
    balanced(&mut client);
}

#[test]
fn a_lowered_limit_leaves_what_runs() {
    let database = Database::new();
    let mut client = stage(&database);
    granted(&mut client, "floating", "ann");
    granted(&mut client, "floating", "bob");
    run(&mut client, "SELECT entitlements.set_override('acme', 'floating', 'set', '1', 'smaller')");
    granted(&mut client, "floating", "ann");
    run(&mut client, "SELECT entitlements.renew_seat('acme', 'floating', 'bob')");
    full(&mut client, "floating", "cid");
    age(&mut client, "ann", 61);
    full(&mut client, "floating", "ann");
    refused_with(&mut client, "NE002", "SELECT entitlements.renew_seat('acme', 'floating', 'ann')", &[]);
    full(&mut client, "floating", "cid");
    age(&mut client, "bob", 62);
    // Each may come back at the cost of the other.
    reclaims(&mut client, "floating", "ann", &["bob"]);
    assert_eq!(seats(&mut client, "acme", "floating"), ["ann leased"]);

    run(&mut client, "SELECT entitlements.block('acme', 'fraud', 'chargeback')");
    assert_eq!(ask(&mut client, "floating", "ann").0, "blocked");
    refused_with(&mut client, "NE001", "SELECT entitlements.renew_seat('acme', 'floating', 'ann')", &[]);
    assert!(one::<bool>(&mut client, "SELECT entitlements.release_seat('acme', 'floating', 'ann')", &[]));
    balanced(&mut client);
}

#[test]
fn a_seat_is_part_of_the_transaction() {
    let database = Database::new();
    let mut client = stage(&database);
    granted(&mut client, "floating", "ann");
    granted(&mut client, "floating", "bob");
    age(&mut client, "ann", 61);
    let mut transaction = client.transaction().unwrap();
    let mut savepoint = transaction.savepoint("s").unwrap();
    let from: Vec<String> = savepoint
        .query_one("SELECT reclaimed_from FROM entitlements.assign_seat('acme', 'floating', 'cid')", &[])
        .unwrap()
        .get(0);
    assert_eq!(from, ["ann"]);
    savepoint.query("SELECT entitlements.release_seat('acme', 'floating', 'bob')", &[]).unwrap();
    savepoint.rollback().unwrap();
    transaction.query("SELECT entitlements.release_seat('acme', 'floating', 'bob')", &[]).unwrap();
    transaction.query("SELECT entitlements.assign_seat('acme', 'floating', 'dan')", &[]).unwrap();
    transaction.commit().unwrap();
    assert_eq!(seats(&mut client, "acme", "floating"), ["ann expired", "dan leased"]);
    // A statement that refuses leaves nothing, and those that follow go on.
    let mut transaction = client.transaction().unwrap();
    let reason: String =
        transaction.query_one("SELECT reason FROM entitlements.try_assign_seat('acme', 'capped', 'a')", &[]).unwrap().get(0);
    assert_eq!(reason, "granted");
    let reason: String =
        transaction.query_one("SELECT reason FROM entitlements.try_assign_seat('acme', 'capped', 'b')", &[]).unwrap().get(0);
    assert_eq!(reason, "limit_exceeded");
    transaction.commit().unwrap();
    assert_eq!(seats(&mut client, "acme", "capped"), ["a named"]);
    for read_only in [
        "SELECT entitlements.assign_seat('acme', 'floating', 'x')",
        "SELECT entitlements.release_seat('acme', 'floating', 'x')",
    ] {
        let mut transaction = client.build_transaction().read_only(true).start().unwrap();
        assert_eq!(transaction.query("SELECT * FROM entitlements.seats('acme', 'floating')", &[]).unwrap().len(), 2);
        assert_eq!(transaction.query(read_only, &[]).unwrap_err().code().unwrap().code(), "25006");
    }
    balanced(&mut client);
}

#[test]
fn seats_below_a_parent_share_its_places() {
    let database = Database::new();
    let mut client = stage(&database);
    run(
        &mut client,
        "SELECT entitlements.define_account('north', parent => 'acme'), entitlements.define_account('south', parent => 'acme')",
    );
    assert_eq!(ask_for(&mut client, "north", "floating", "ann").0, "granted");
    assert_eq!(ask_for(&mut client, "south", "floating", "ann").0, "granted");
    assert_eq!(ask_for(&mut client, "south", "floating", "bob").0, "limit_exceeded");
    run(&mut client, "UPDATE entitlements.seats SET renewed_at = renewed_at - interval '2 hours', leased_until = leased_until - interval '2 hours'
                       WHERE account_id = (SELECT id FROM entitlements.accounts WHERE key = 'north');
                      UPDATE entitlements.seat_parts SET leased_until = leased_until - interval '2 hours'
                       WHERE seat_id = (SELECT min(id) FROM entitlements.seats)");
    assert_eq!(ask_for(&mut client, "south", "floating", "bob"), ("granted".to_owned(), vec!["ann".to_owned()]));
    assert_eq!(seats(&mut client, "south", "floating"), ["ann leased", "bob leased"]);
    assert_eq!(seats(&mut client, "north", "floating"), Vec::<String>::new());
    assert_eq!(used(&mut client, "acme", "floating"), 2);
    balanced(&mut client);
}

#[test]
fn a_seat_outlives_the_credit_that_it_was_taken_from_if_there_is_room() {
    let database = Database::new();
    let mut client = stage(&database);
    run(
        &mut client,
        "INSERT INTO entitlements.credits (account_id, feature_id, amount, priority, starts_at, expires_at, source, created_by, recorded_at)
         SELECT account.id, feature.id, 1, 50, now() - interval '1 hour', now() + interval '1 day', 'test', 'test', now()
           FROM entitlements.accounts AS account, entitlements.features AS feature WHERE account.key = 'acme' AND feature.key = 'floating'",
    );
    granted(&mut client, "floating", "ann");
    granted(&mut client, "floating", "bob");
    run(&mut client, "UPDATE entitlements.credits SET expires_at = now()");
    assert_eq!(used(&mut client, "acme", "floating"), 1);
    run(&mut client, "SELECT entitlements.renew_seat('acme', 'floating', 'ann')");
    assert_eq!(used(&mut client, "acme", "floating"), 2);
    full(&mut client, "floating", "cid");
    balanced(&mut client);
}

/// What each of many connections gets, all beginning at once.
fn race<T: Send>(database: &Database, count: usize, work: impl Fn(&mut Client, usize) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(count);
    thread::scope(|scope| {
        let racers: Vec<_> = (0..count)
            .map(|number| {
                let (work, barrier) = (&work, &barrier);
                let mut client = database.connect();
                scope.spawn(move || {
                    barrier.wait();
                    work(&mut client, number)
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().expect("the racer does not fail")).collect()
    })
}

#[test]
fn many_at_once_get_each_place_once_and_no_more() {
    let database = Database::new();
    let mut client = stage(&database);
    run(&mut client, "SELECT entitlements.set_override('acme', 'floating', 'set', '17', 'test')");
    let reasons = race(&database, 64, |client, number| ask(client, "floating", &format!("holder {number}")).0);
    assert_eq!(reasons.iter().filter(|reason| *reason == "granted").count(), 17);
    assert_eq!(reasons.iter().filter(|reason| *reason == "limit_exceeded").count(), 47);
    assert_eq!(seats(&mut client, "acme", "floating").len(), 17);
    balanced(&mut client);

    // Eleven of them are over: as many newcomers get a place, each that of another.
    run(
        &mut client,
        "UPDATE entitlements.seats SET leased_until = now() - interval '1 minute' WHERE id IN (SELECT id FROM entitlements.seats WHERE ended_at IS NULL LIMIT 11);
         UPDATE entitlements.seat_parts AS part SET leased_until = seat.leased_until FROM entitlements.seats AS seat WHERE seat.id = part.seat_id",
    );
    let answers = race(&database, 40, |client, number| ask(client, "floating", &format!("newcomer {number}")));
    let mut from: Vec<String> = answers.iter().flat_map(|(_, from)| from.clone()).collect();
    from.sort();
    from.dedup();
    assert_eq!(answers.iter().filter(|(reason, _)| reason == "granted").count(), 11, "{answers:?}");
    assert_eq!(from.len(), 11);
    assert_eq!(seats(&mut client, "acme", "floating").len(), 17);
    balanced(&mut client);
}

#[test]
fn a_holder_that_asks_many_times_at_once_has_one_seat() {
    let database = Database::new();
    let mut client = stage(&database);
    let answers = race(&database, 24, |client, number| {
        let mut transaction = client.transaction().unwrap();
        let sql = "SELECT assigned_at FROM entitlements.assign_seat('acme', 'floating', 'ann')";
        transaction.query_one(sql, &[]).unwrap();
        // Some change their mind.
        if number % 3 == 0 { transaction.rollback() } else { transaction.commit() }
    });
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(seats(&mut client, "acme", "floating"), ["ann leased"]);
    assert_eq!(used(&mut client, "acme", "floating"), 1);
    balanced(&mut client);
}

#[test]
fn nobody_is_refused_for_a_place_that_comes_back() {
    let database = Database::new();
    let mut client = stage(&database);
    granted(&mut client, "floating", "ann");
    granted(&mut client, "floating", "bob");
    age(&mut client, "ann", 61);
    let mut first = database.connect();
    let mut transaction = first.transaction().unwrap();
    transaction.query("SELECT entitlements.assign_seat('acme', 'floating', 'cid')", &[]).unwrap();
    let waiting = thread::spawn({
        let mut second = database.connect();
        move || ask(&mut second, "floating", "dan")
    });
    thread::sleep(Duration::from_millis(300));
    assert!(!waiting.is_finished());
    transaction.rollback().unwrap();
    assert_eq!(waiting.join().unwrap(), ("granted".to_owned(), vec!["ann".to_owned()]));

    // And for one that does not come back it is refused once that is certain.
    age(&mut client, "dan", 61);
    let mut transaction = first.transaction().unwrap();
    transaction.query("SELECT entitlements.assign_seat('acme', 'floating', 'eve')", &[]).unwrap();
    let waiting = thread::spawn({
        let mut second = database.connect();
        move || ask(&mut second, "floating", "fay")
    });
    thread::sleep(Duration::from_millis(300));
    transaction.commit().unwrap();
    assert_eq!(waiting.join().unwrap().0, "limit_exceeded");
    balanced(&mut client);
}

/// Leases run out by themselves here, and some transactions are undone.
#[test]
fn at_no_moment_are_there_more_seats_than_places() {
    let database = Database::new();
    let mut client = stage(&database);
    run(&mut client, "SELECT entitlements.set_override('acme', 'floating', 'set', '9', 'test')");
    run(&mut client, "SELECT entitlements.define_account('north', parent => 'acme')");
    let seed: u64 =
        std::env::var("SEED").ok().map_or_else(|| rand::rng().random(), |seed| seed.parse().expect("SEED is a number"));
    println!("SEED={seed}");
    let (begin, duration) = (Instant::now(), Duration::from_secs(4));
    let over = AtomicBool::new(false);
    let counts = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut client = database.connect();
            let mut greatest = 0;
            while !over.load(Ordering::Relaxed) {
                greatest = greatest.max(one::<i64>(
                    &mut client,
                    "SELECT count(*) FROM entitlements.seats WHERE ended_at IS NULL",
                    &[],
                ));
            }
            greatest
        });
        let workers: Vec<_> = (0..12)
            .map(|number| {
                let mut client = database.connect();
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed + number);
                    let mut count = BTreeMap::new();
                    while begin.elapsed() < duration {
                        *count
                            .entry(random_transaction(&mut client, &mut random, begin.elapsed().as_secs()))
                            .or_insert(0) += 1;
                    }
                    count
                })
            })
            .collect();
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        over.store(true, Ordering::Relaxed);
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (code, count) in ended.into_iter().flat_map(|count| count.expect("a worker ends well")) {
            *counts.entry(code).or_default() += count;
        }
        let greatest = watch.join().unwrap();
        assert!((1..=9).contains(&greatest), "{greatest} seats at once");
        counts
    });
    println!("{counts:?}");
    balanced(&mut client);
    // What was undone and refused is a part, and it all happened.
    for code in ["", "NE002", "NE010", "rolled back"] {
        assert!(counts.get(code).is_some_and(|count| *count > 5), "{code}: {counts:?}");
    }
    let reclaimed: i64 = one(&mut client, "SELECT count(*) FROM entitlements.seats WHERE end_reason = 'reclaimed'", &[]);
    assert!(reclaimed > 0);
}

/// One call in a transaction that may be undone; how it ended: the error's code, nothing for a commit. Several calls might wait
/// for each other in a circle; one never does.
fn random_transaction(client: &mut Client, random: &mut StdRng, second: u64) -> String {
    let account = ["acme", "north"][random.random_range(0..2)];
    // Holders go, and their leases run out.
    let holder = format!("h{}", second * 4 + random.random_range(0..8));
    let call = match random.random_range(0..10) {
        0..5 => format!("assign_seat('{account}', 'floating', '{holder}', '1 second')"),
        5..8 => format!("renew_seat('{account}', 'floating', '{holder}')"),
        _ => format!("release_seat('{account}', 'floating', '{holder}')"),
    };
    let mut transaction = client.transaction().unwrap();
    match transaction.query(&format!("SELECT entitlements.{call}"), &[]) {
        Ok(_) if random.random_bool(0.2) => {
            transaction.rollback().unwrap();
            "rolled back".to_owned()
        }
        Ok(_) => {
            transaction.commit().unwrap();
            String::new()
        }
        Err(error) => {
            let code = error.code().expect("the server says why").code().to_owned();
            assert!(matches!(code.as_str(), "NE002" | "NE010"), "{call}: {error:?}");
            code
        }
    }
}

#[test]
fn holders_are_handed_out_and_erased_with_the_account() {
    let database = Database::new();
    let mut client = stage(&database);
    run(&mut client, "SELECT entitlements.define_account('north', parent => 'acme')");
    assert_eq!(ask_for(&mut client, "north", "named", "ann@example.com").0, "granted");
    run(&mut client, "SELECT entitlements.assign_seat('north', 'floating', 'bob@example.com')");
    run(&mut client, "SELECT entitlements.release_seat('north', 'floating', 'bob@example.com', 'bob left')");
    let holders: String = one(
        &mut client,
        "SELECT string_agg(seat ->> 'holder', ' ') FROM jsonb_array_elements(entitlements.export_account('north') -> 'seats') AS seat",
        &[],
    );
    assert_eq!(holders, "ann@example.com bob@example.com");
    run(&mut client, "SELECT entitlements.erase_account('north', 'asked for')");
    let left: i64 = one(
        &mut client,
        "SELECT count(*) FROM entitlements.seats WHERE holder LIKE '%example%' OR end_reason LIKE '%bob%' OR ended_at IS NULL",
        &[],
    );
    assert_eq!(left, 0);
    assert_eq!(used(&mut client, "acme", "named"), 0);
    balanced(&mut client);
}
