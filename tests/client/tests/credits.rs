//! Credits, rollover, corrections and the history of usage: what they promise, also while others consume.

use entitlements_client_tests::{Database, one, refused_with, row};
use postgres::Client;
use rand::Rng;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

const PRODUCT: &str = r#"{
    "features": {
        "calls":  {"kind": "quota", "period": "1 month", "anchor": "calendar", "thresholds": [0.5, 1]},
        "credit": {"kind": "quota", "period": "1 month", "anchor": "calendar", "overage": "allow"},
        "kept":   {"kind": "quota", "period": "1 month", "anchor": "calendar", "rollover": {"max": "unlimited", "windows": 2}},
        "short":  {"kind": "quota", "period": "1 second", "anchor": "calendar", "rollover": {"max": "unlimited", "windows": 1}},
        "capped": {"kind": "quota", "period": "1 second", "anchor": "calendar", "rollover": {"max": 15, "windows": 3}},
        "terms":  {"kind": "quota", "anchor": "renewal", "rollover": {"max": 8, "windows": 1}},
        "logged": {"kind": "quota", "period": "1 month", "anchor": "calendar", "ledger": true},
        "seats":  {"kind": "allocation"},
        "rate":   {"kind": "rate", "period": "1 second"},
        "sso":    {"kind": "flag"}},
    "plans": {"team": {"kind": "base", "features": {
        "calls": 10, "credit": 10, "kept": 10, "short": 10, "capped": 10, "terms": 10, "logged": 10, "seats": 2, "sso": true}}}}"#;

/// A database with the product, account `acme` with the plan and account `prepaid` without one.
fn filled() -> (Database, Client) {
    let database = Database::new();
    let mut client = database.connect();
    client
        .batch_execute(&format!(
            "SELECT entitlements.apply_catalog('{PRODUCT}');
             SELECT entitlements.subscribe('acme', 'team');
             SELECT entitlements.define_account('prepaid');"
        ))
        .unwrap();
    (database, client)
}

fn text(client: &mut Client, sql: &str) -> String {
    one(client, &format!("SELECT ({sql})::text"), &[])
}

/// The first column of each row, separated by spaces.
fn list(client: &mut Client, sql: &str) -> String {
    let rows = client.query(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join(" ")
}

/// allowed, used, remaining of check_access or another function that decides.
fn decision(client: &mut Client, call: &str) -> String {
    let row = row(
        client,
        &format!(
            "SELECT concat_ws(' ', allowed, reason, used::float8, coalesce(remaining::float8::text, '-')) FROM entitlements.{call}"
        ),
        &[],
    );
    row.get(0)
}

/// What is used of each pool by its priority and age: credits by id, the plan's as 0.
fn used(client: &mut Client, account: &str, feature: &str) -> String {
    list(
        client,
        &format!(
            "SELECT concat(counter.credit_id, ':', sum(counter.used + coalesce((SELECT sum(slot.used) FROM entitlements.counter_slots AS slot
                                                                         WHERE slot.counter_id = counter.id), 0))::float8)
             FROM entitlements.counters AS counter
             JOIN entitlements.accounts AS account ON account.id = account_id AND account.key = '{account}'
             JOIN entitlements.features AS feature ON feature.id = feature_id AND feature.key = '{feature}'
             GROUP BY counter.credit_id ORDER BY counter.credit_id"
        ),
    )
}

/// Runs the statement in another session. It has to wait: the value is there when what it waits for has ended.
fn waiting(database: &Database, sql: &str) -> JoinHandle<Result<String, String>> {
    let mut client = database.connect();
    let pid: i32 = one(&mut client, "SELECT pg_backend_pid()", &[]);
    let sql = sql.to_owned();
    let handle = thread::spawn(move || match client.query_one(&sql, &[]) {
        Ok(row) => Ok(row.get(0)),
        Err(error) => Err(error.code().map_or_else(String::new, |code| code.code().to_owned())),
    });
    let mut observer = database.connect();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let is_waiting: bool = one(
            &mut observer,
            "SELECT coalesce((SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1), false)",
            &[&pid],
        );
        if is_waiting {
            return handle;
        }
        assert!(!handle.is_finished(), "it did not wait: {:?}", handle.join());
        assert!(Instant::now() < deadline, "it neither waits nor ends");
        sleep(Duration::from_millis(5));
    }
}

fn next_second() {
    let mut now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now = Duration::from_nanos(1_000_000_000 - u64::from(now.subsec_nanos())) + Duration::from_millis(20);
    sleep(now);
}

#[test]
fn a_credit_is_used_with_a_plan_and_without_one() {
    let (_database, mut client) = filled();
    let id: i64 = one(&mut client, "SELECT entitlements.grant_credit('prepaid', 'calls', 5, 'paid')", &[]);
    assert_eq!(decision(&mut client, "consume('prepaid', 'calls', 4)"), "t granted 4 1");
    assert_eq!(decision(&mut client, "try_consume('prepaid', 'calls', 2)"), "f limit_exceeded 4 1");
    assert_eq!(used(&mut client, "prepaid", "calls"), format!("{id}:4"));
    // The plan's allowance first: it expires first. A credit of a lower priority number before it.
    let late: i64 = one(&mut client, "SELECT entitlements.grant_credit('acme', 'calls', 5, 'top-up')", &[]);
    assert_eq!(decision(&mut client, "consume('acme', 'calls', 12)"), "t granted 12 3");
    assert_eq!(used(&mut client, "acme", "calls"), format!("0:10 {late}:2"));
    let first: i64 =
        one(&mut client, "SELECT entitlements.grant_credit('acme', 'calls', 1.5, 'a gift', priority => 1)", &[]);
    assert_eq!(decision(&mut client, "consume('acme', 'calls', 2)"), "t granted 14 2.5");
    assert_eq!(used(&mut client, "acme", "calls"), format!("0:10 {late}:2.5 {first}:1.5"));
    assert_eq!(decision(&mut client, "release('acme', 'calls', 1)"), "t granted 13 3.5");
    assert_eq!(used(&mut client, "acme", "calls"), format!("0:10 {late}:1.5 {first}:1.5"));
    // Not yet there, and no more there.
    client
        .batch_execute(
            "SELECT entitlements.grant_credit('acme', 'seats', 5, 'later', starts_at => now() + interval '1 hour');
             SELECT entitlements.grant_credit('acme', 'seats', 5, 'before', starts_at => now() - interval '2 hours', expires_at => now() - interval '1 hour');",
        )
        .unwrap();
    assert_eq!(decision(&mut client, "check_access('acme', 'seats', 3)"), "f limit_exceeded 0 2");
    let recorded = list(
        &mut client,
        "SELECT concat_ws('|', action, object, content->>'reason', content->'new'->>'amount') FROM entitlements.audit_log WHERE object = 'credit' ORDER BY id",
    );
    assert_eq!(
        recorded,
        "grant|credit|paid|5 grant|credit|top-up|5 grant|credit|a gift|1.5 grant|credit|later|5 grant|credit|before|5"
    );
    assert_eq!(text(&mut client, "SELECT count(*) FROM entitlements.verify_audit()"), "0");
}

#[test]
fn a_source_makes_a_credit_of_a_name_once() {
    let (database, mut client) = filled();
    const GRANT: &str =
        "SELECT entitlements.grant_credit('prepaid', 'calls', 5, 'paid', source => 'stripe', source_ref => 'pi_1')";
    let barrier = Barrier::new(16);
    let ids: Vec<i64> = thread::scope(|scope| {
        let racing = || {
            let mut client = database.connect();
            barrier.wait();
            one(&mut client, GRANT, &[])
        };
        let racers: Vec<_> = (0..16).map(|_| scope.spawn(racing)).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(
        text(
            &mut client,
            "SELECT concat(count(*), ' ', (SELECT count(*) FROM entitlements.audit_log WHERE action = 'grant')) FROM entitlements.credits"
        ),
        "1 1"
    );
    for other in [
        "grant_credit('acme', 'calls', 5, 'paid', source => 'stripe', source_ref => 'pi_1')",
        "grant_credit('prepaid', 'seats', 5, 'paid', source => 'stripe', source_ref => 'pi_1')",
        "grant_credit('prepaid', 'calls', 6, 'paid', source => 'stripe', source_ref => 'pi_1')",
        "grant_credit('prepaid', 'calls', 5, 'paid', priority => 1, source => 'stripe', source_ref => 'pi_1')",
        "grant_credit('prepaid', 'calls', 5, 'paid', period => '1 day', source => 'stripe', source_ref => 'pi_1')",
        "grant_credit('prepaid', 'calls', 5, 'paid', 'tomorrow', source => 'stripe', source_ref => 'pi_1')",
        "grant_credit('prepaid', 'calls', 5, 'paid', starts_at => 'yesterday', source => 'stripe', source_ref => 'pi_1')",
    ] {
        refused_with(&mut client, "NE009", &format!("SELECT entitlements.{other}"), &[]);
    }
    let another: i64 = one(
        &mut client,
        "SELECT entitlements.grant_credit('prepaid', 'calls', 5, 'paid', source => 'paddle', source_ref => 'pi_1')",
        &[],
    );
    assert_ne!(another, ids[0]);
}

#[test]
fn what_makes_no_credit_is_refused() {
    let (_database, mut client) = filled();
    for (code, call) in [
        ("NE003", "grant_credit('acme', 'cals', 1, 'x')"),
        ("NE004", "grant_credit('acme', 'sso', 1, 'x')"),
        ("NE004", "grant_credit('acme', 'rate', 1, 'x')"),
        ("NE006", "grant_credit('nobody', 'calls', 1, 'x')"),
        ("NE007", "grant_credit('acme', 'calls', 0, 'x')"),
        ("NE007", "grant_credit('acme', 'calls', -1, 'x')"),
        ("NE007", "grant_credit('acme', 'calls', 'Infinity', 'x')"),
        ("NE007", "grant_credit('acme', 'calls', 1, ' ')"),
        ("NE007", "grant_credit('acme', 'calls', 1, NULL)"),
        ("NE007", "grant_credit('acme', 'calls', 1, 'x', '-infinity')"),
        ("NE007", "grant_credit('acme', 'calls', 1, 'x', now(), starts_at => now())"),
        ("NE007", "grant_credit('acme', 'calls', 1, 'x', starts_at => 'infinity')"),
        ("NE007", "grant_credit('acme', 'calls', 1, 'x', priority => NULL)"),
        ("NE007", "grant_credit('acme', 'calls', 1, 'x', period => '-1 day')"),
        ("NE007", "grant_credit('acme', 'calls', 1, 'x', period => '0')"),
        ("NE007", "grant_credit('acme', 'calls', 1, 'x', period => '1 month -1 day')"),
        ("NE007", "grant_credit('acme', 'calls', 1, 'x', source => 'rollover')"),
        ("NE010", "void_credit(0, 'x')"),
        ("NE007", "void_credit(NULL, 'x')"),
        ("NE007", "void_credit(1, '')"),
    ] {
        refused_with(&mut client, code, &format!("SELECT entitlements.{call}"), &[]);
    }
    assert_eq!(text(&mut client, "SELECT count(*) FROM entitlements.credits"), "0");
}

#[test]
fn a_recurring_credit_is_there_anew_each_period() {
    let (_database, mut client) = filled();
    client
        .batch_execute(
            "SELECT entitlements.grant_credit('prepaid', 'calls', 3, 'allotment', expires_at => date_trunc('second', now()) + interval '4 seconds',
                        starts_at => date_trunc('second', now()), period => '2 seconds')",
        )
        .unwrap();
    assert_eq!(decision(&mut client, "consume('prepaid', 'calls', 2)"), "t granted 2 1");
    assert_eq!(decision(&mut client, "try_consume('prepaid', 'calls', 2)"), "f limit_exceeded 2 1");
    sleep(Duration::from_millis(2_050));
    assert_eq!(decision(&mut client, "check_access('prepaid', 'calls', 3)"), "t granted 0 3");
    assert_eq!(decision(&mut client, "consume('prepaid', 'calls', 3)"), "t granted 3 0");
    let history = list(
        &mut client,
        "SELECT concat(extract(epoch FROM window_end - window_start)::int, ':', used, ':', from_plan, ':', from_credits) FROM entitlements.usage_history('prepaid', 'calls')",
    );
    assert_eq!(history, "2:2:0:2 2:3:0:3");
    sleep(Duration::from_millis(2_050));
    assert_eq!(decision(&mut client, "try_consume('prepaid', 'calls', 1)"), "f not_granted 0 0");
}

#[test]
fn voiding_takes_what_nobody_has_used() {
    let (_database, mut client) = filled();
    let id: i64 = one(&mut client, "SELECT entitlements.grant_credit('prepaid', 'calls', 5.5, 'paid')", &[]);
    client.batch_execute("SELECT entitlements.consume('prepaid', 'calls', 2)").unwrap();
    assert_eq!(text(&mut client, &format!("entitlements.void_credit({id}, 'refunded')")), "3.5");
    assert_eq!(text(&mut client, &format!("entitlements.void_credit({id}, 'refunded')")), "0");
    assert_eq!(decision(&mut client, "try_consume('prepaid', 'calls')"), "f not_granted 0 0");
    let unused: i64 = one(&mut client, "SELECT entitlements.grant_credit('prepaid', 'calls', 7, 'paid')", &[]);
    assert_eq!(text(&mut client, &format!("entitlements.void_credit({unused}, 'refunded')")), "7");
    let over: i64 = one(
        &mut client,
        "SELECT entitlements.grant_credit('prepaid', 'calls', 7, 'paid', 'yesterday', starts_at => now() - interval '2 days')",
        &[],
    );
    assert_eq!(text(&mut client, &format!("entitlements.void_credit({over}, 'too late')")), "0");
    let recorded = list(
        &mut client,
        "SELECT concat_ws('|', object_id, content->>'reason', (content->'old'->>'voided_at') IS NULL, (content->'new'->>'voided_at') IS NOT NULL) FROM entitlements.audit_log WHERE action = 'void' ORDER BY id",
    );
    assert_eq!(recorded, format!("{id}|refunded|t|t {unused}|refunded|t|t {over}|too late|t|t"));
}

#[test]
fn a_void_returns_what_expired_reservations_hold() {
    let (_database, mut client) = filled();
    client
        .batch_execute(
            "SELECT entitlements.grant_credit('prepaid', 'calls', 10, 'paid');
             SELECT entitlements.reserve('prepaid', 'calls', 3, '1 hour'), entitlements.reserve('prepaid', 'calls', 4, '20 milliseconds')",
        )
        .unwrap();
    sleep(Duration::from_millis(50));
    assert_eq!(text(&mut client, "entitlements.void_credit(1, 'refunded')"), "7");
    assert_eq!(used(&mut client, "prepaid", "calls"), "1:3");
}

#[test]
fn a_consumer_that_comes_after_the_void_gets_nothing() {
    for used_before in [false, true] {
        let (database, mut client) = filled();
        let id: i64 = one(&mut client, "SELECT entitlements.grant_credit('prepaid', 'calls', 5, 'paid')", &[]);
        if used_before {
            client.batch_execute("SELECT entitlements.consume('prepaid', 'calls', 1)").unwrap();
        }
        let mut transaction = client.transaction().unwrap();
        let left: String =
            transaction.query_one(&format!("SELECT entitlements.void_credit({id}, 'x')::text"), &[]).unwrap().get(0);
        assert_eq!(left, if used_before { "4" } else { "5" });
        let consumer = waiting(&database, "SELECT reason FROM entitlements.try_consume('prepaid', 'calls', 1)");
        transaction.commit().unwrap();
        assert_eq!(consumer.join().unwrap().unwrap(), "not_granted", "used before: {used_before}");
        // If the void is taken back, the consumer gets what it wants.
        let id: i64 = one(&mut client, "SELECT entitlements.grant_credit('prepaid', 'calls', 5, 'paid')", &[]);
        if used_before {
            client.batch_execute("SELECT entitlements.consume('prepaid', 'calls', 1)").unwrap();
        }
        let mut transaction = client.transaction().unwrap();
        transaction.query(&format!("SELECT entitlements.void_credit({id}, 'x')"), &[]).unwrap();
        let consumer = waiting(&database, "SELECT reason FROM entitlements.try_consume('prepaid', 'calls', 1)");
        transaction.rollback().unwrap();
        assert_eq!(consumer.join().unwrap().unwrap(), "granted");
    }
}

#[test]
fn a_void_waits_for_who_has_consumed() {
    for (ending, left) in [("COMMIT", "2"), ("ROLLBACK", "5")] {
        let (database, mut client) = filled();
        let id: i64 = one(&mut client, "SELECT entitlements.grant_credit('prepaid', 'calls', 5, 'paid')", &[]);
        client.batch_execute("BEGIN; SELECT entitlements.consume('prepaid', 'calls', 3)").unwrap();
        let void = waiting(&database, &format!("SELECT entitlements.void_credit({id}, 'x')::text"));
        client.batch_execute(ending).unwrap();
        assert_eq!(void.join().unwrap().unwrap(), left);
    }
}

#[test]
fn a_void_under_load_is_exact() {
    let (database, mut client) = filled();
    client.batch_execute("SELECT entitlements.grant_credit('prepaid', 'calls', 100000, 'paid')").unwrap();
    let (acknowledged, stop) = (AtomicI64::new(0), AtomicBool::new(false));
    let left: i64 = thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                let mut client = database.connect();
                let mut random = rand::rng();
                while !stop.load(Ordering::Relaxed) {
                    let work = random.random_range(0..4);
                    let mut transaction = client.transaction().unwrap();
                    let allowed: bool = transaction
                        .query_one("SELECT allowed FROM entitlements.try_consume('prepaid', 'calls', 1)", &[])
                        .unwrap()
                        .get(0);
                    transaction.query("SELECT pg_sleep($1::float8 / 1000)", &[&f64::from(work)]).unwrap();
                    if random.random_bool(0.1) {
                        transaction.rollback().unwrap();
                    } else {
                        transaction.commit().unwrap();
                        acknowledged.fetch_add(i64::from(allowed), Ordering::Relaxed);
                    }
                    if !allowed {
                        break;
                    }
                }
            });
        }
        sleep(Duration::from_millis(1_500));
        let slots: i64 = one(&mut client, "SELECT count(*) FROM entitlements.counter_slots", &[]);
        assert!(slots > 1, "there is contention");
        let before = Instant::now();
        let left = one(&mut client, "SELECT entitlements.void_credit(1, 'x')::bigint", &[]);
        println!("void took {:?} after {} units", before.elapsed(), acknowledged.load(Ordering::Relaxed));
        sleep(Duration::from_millis(100));
        stop.store(true, Ordering::Relaxed);
        left
    });
    let acknowledged = acknowledged.into_inner();
    assert!(acknowledged > 100, "there was load: {acknowledged}");
    assert_eq!(left + acknowledged, 100_000);
    assert_eq!(used(&mut client, "prepaid", "calls"), format!("1:{acknowledged}"));
}

#[test]
fn the_next_credit_settles_what_was_used_beyond_the_allowance() {
    let (database, mut client) = filled();
    assert_eq!(decision(&mut client, "consume('acme', 'credit', 17)"), "t granted 17 -");
    let first: i64 = one(&mut client, "SELECT entitlements.grant_credit('acme', 'credit', 5, 'paid')", &[]);
    assert_eq!(used(&mut client, "acme", "credit"), format!("0:12 {first}:5"));
    let second: i64 = one(&mut client, "SELECT entitlements.grant_credit('acme', 'credit', 5, 'paid')", &[]);
    assert_eq!(used(&mut client, "acme", "credit"), format!("0:10 {first}:5 {second}:2"));
    assert_eq!(text(&mut client, "SELECT overage FROM entitlements.check_access('acme', 'credit')"), "0");
    let third: i64 = one(&mut client, "SELECT entitlements.grant_credit('acme', 'credit', 5, 'paid')", &[]);
    assert_eq!(
        used(&mut client, "acme", "credit"),
        format!("0:10 {first}:5 {second}:2"),
        "credit {third} has nothing to settle"
    );
    // It waits for who is just going beyond.
    client.batch_execute("BEGIN; SELECT entitlements.consume('acme', 'credit', 10)").unwrap();
    let grant = waiting(&database, "SELECT entitlements.grant_credit('acme', 'credit', 100, 'paid')::text");
    client.batch_execute("COMMIT").unwrap();
    let fourth = grant.join().unwrap().unwrap();
    assert_eq!(used(&mut client, "acme", "credit"), format!("0:10 {first}:5 {second}:5 {third}:5 {fourth}:2"));
}

#[test]
fn settling_under_load_loses_nothing_and_leaves_no_debt_beside_a_credit() {
    let (database, mut client) = filled();
    let (acknowledged, stop) = (AtomicI64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let mut client = database.connect();
                let mut random = rand::rng();
                while !stop.load(Ordering::Relaxed) {
                    let n: i32 = random.random_range(1..4);
                    let mut transaction = client.transaction().unwrap();
                    transaction.query("SELECT entitlements.consume('acme', 'credit', $1::int)", &[&n]).unwrap();
                    transaction.query("SELECT pg_sleep(0.002)", &[]).unwrap();
                    transaction.commit().unwrap();
                    acknowledged.fetch_add(n.into(), Ordering::Relaxed);
                }
            });
        }
        for _ in 0..30 {
            client.batch_execute("SELECT entitlements.grant_credit('acme', 'credit', 40, 'paid')").unwrap();
            let split: i64 = one(
                &mut client,
                "SELECT count(*) FROM entitlements.usage_history('acme', 'credit') AS plan
                  WHERE plan.from_plan > 10 AND EXISTS (
                        SELECT FROM entitlements.credits AS credit
                         WHERE amount > coalesce((SELECT sum(counter.used + coalesce((SELECT sum(slot.used) FROM entitlements.counter_slots AS slot WHERE slot.counter_id = counter.id), 0))
                                                    FROM entitlements.counters AS counter WHERE counter.credit_id = credit.id), 0))",
                &[],
            );
            assert_eq!(split, 0, "there is a debt and a credit that could settle it");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let total: i64 = one(&mut client, "SELECT sum(used)::bigint FROM entitlements.usage_history('acme', 'credit')", &[]);
    assert_eq!(total, acknowledged.into_inner());
}

#[test]
fn what_months_have_left_is_carried() {
    let (_database, mut client) = filled();
    client
        .batch_execute("SELECT entitlements.subscribe('old', 'team', starts_at => date_trunc('month', now(), 'UTC') - interval '5 months')")
        .unwrap();
    // Two months are carried, and what is granted today was not granted then.
    assert_eq!(decision(&mut client, "check_access('old', 'kept', 30)"), "t granted 0 30");
    client.batch_execute("SELECT entitlements.set_override('old', 'kept', 'add', '100', 'a favour')").unwrap();
    assert_eq!(decision(&mut client, "check_access('old', 'kept', 131)"), "f limit_exceeded 0 130");
    client.batch_execute("SELECT entitlements.clear_override(1, 'over')").unwrap();
    assert_eq!(text(&mut client, "SELECT count(*) FROM entitlements.credits"), "0");
    refused_with(&mut client, "NE002", "SELECT entitlements.consume('old', 'kept', 31)", &[]);
    assert_eq!(decision(&mut client, "consume('old', 'kept', 15)"), "t granted 15 15");
    let credits = list(
        &mut client,
        "SELECT concat(amount, '@', priority, ':', (extract(epoch FROM expires_at - date_trunc('month', now(), 'UTC')) / 86400 / 28)::int, ':', source) FROM entitlements.credits ORDER BY expires_at",
    );
    assert_eq!(credits, "10@90:1:rollover 10@90:2:rollover");
    let parts = used(&mut client, "old", "kept");
    let parts: Vec<&str> = parts.split(' ').map(|part| part.split(':').nth(1).unwrap()).collect();
    assert_eq!(parts, ["0", "10", "5"]);
    // A new customer has nothing to carry, and one that was away had nothing.
    assert_eq!(decision(&mut client, "check_access('acme', 'kept', 11)"), "f limit_exceeded 0 10");
    client
        .batch_execute(
            "SELECT entitlements.subscribe('back', 'team', starts_at => date_trunc('month', now(), 'UTC') - interval '5 months',
                        ends_at => date_trunc('month', now(), 'UTC') - interval '20 days');
             SELECT entitlements.subscribe('back', 'team', starts_at => date_trunc('month', now(), 'UTC'));",
        )
        .unwrap();
    assert_eq!(decision(&mut client, "check_access('back', 'kept')"), "t granted 0 20");
    assert_eq!(decision(&mut client, "consume('back', 'kept')"), "t granted 1 19");
}

#[test]
fn what_a_window_has_left_is_carried_once_however_many_race() {
    let (database, mut client) = filled();
    let stop = AtomicBool::new(false);
    let acknowledged = AtomicI64::new(0);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut client = database.connect();
                let mut random = rand::rng();
                while !stop.load(Ordering::Relaxed) {
                    let mut transaction = client.transaction().unwrap();
                    let allowed: bool = transaction
                        .query_one("SELECT allowed FROM entitlements.try_consume('acme', 'short', 1)", &[])
                        .unwrap()
                        .get(0);
                    transaction.query("SELECT pg_sleep(0.01)", &[]).unwrap();
                    transaction.commit().unwrap();
                    acknowledged.fetch_add(i64::from(allowed), Ordering::Relaxed);
                    sleep(Duration::from_millis(random.random_range(0..4_000)));
                }
            });
        }
        sleep(Duration::from_secs(7));
        stop.store(true, Ordering::Relaxed);
    });
    let windows = client
        .query(
            "SELECT counter.used::bigint + coalesce((SELECT sum(slot.used)::bigint FROM entitlements.counter_slots AS slot WHERE slot.counter_id = counter.id), 0),
                    (SELECT count(*) FROM entitlements.credits AS credit WHERE credit.starts_at = counter.window_end),
                    (SELECT coalesce(sum(amount), 0)::bigint FROM entitlements.credits AS credit WHERE credit.starts_at = counter.window_end),
                    EXISTS (SELECT FROM entitlements.counters AS next WHERE next.credit_id = 0 AND next.window_start = counter.window_end)
               FROM entitlements.counters AS counter
              WHERE counter.credit_id = 0 AND window_end > (SELECT starts_at FROM entitlements.subscriptions) ORDER BY window_start",
            &[],
        )
        .unwrap();
    assert!(windows.len() > 4, "windows have turned: {}", windows.len());
    for window in windows.iter() {
        let (used, credits, carried, was_followed): (i64, i64, i64, bool) =
            (window.get(0), window.get(1), window.get(2), window.get(3));
        if was_followed {
            assert_eq!((credits, carried), (i64::from(used < 10), 10 - used));
        }
    }
    let total: i64 = one(&mut client, "SELECT sum(used)::bigint FROM entitlements.usage_history('acme', 'short')", &[]);
    assert_eq!(total, acknowledged.into_inner());
}

#[test]
fn the_turn_of_a_window_waits_for_who_has_consumed_in_the_last_one() {
    let (database, mut client) = filled();
    next_second();
    // Of its own allowance four, after what the window before had left; the window is open only in this transaction.
    client.batch_execute("BEGIN; SELECT entitlements.consume('acme', 'short', 14)").unwrap();
    next_second();
    let next = waiting(&database, "SELECT remaining::text FROM entitlements.consume('acme', 'short', 1)");
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(next.join().unwrap().unwrap(), "15");
    // Without a use in between, a whole window is carried; of what was carried before, nothing.
    next_second();
    next_second();
    assert_eq!(decision(&mut client, "check_access('acme', 'short')"), "t granted 0 20");
    assert_eq!(decision(&mut client, "consume('acme', 'short', 20)"), "t granted 20 0");
}

/// A statement that began before the turn of the window and comes after the first one of the next.
#[test]
fn who_comes_late_finds_the_window_closed() {
    let (_database, mut client) = filled();
    const NEXT_MONTH: &str = "INSERT INTO entitlements.counters (account_id, feature_id, window_start, window_end)
        SELECT account.id, feature.id, date_trunc('month', now(), 'UTC') + interval '1 month', date_trunc('month', now(), 'UTC') + interval '2 months'
          FROM entitlements.accounts AS account, entitlements.features AS feature
         WHERE account.key = 'acme' AND feature.key = $1";
    client
        .batch_execute("SELECT entitlements.consume('acme', 'kept', 3), entitlements.consume('acme', 'calls', 3)")
        .unwrap();
    for feature in ["kept", "calls"] {
        assert_eq!(client.execute(NEXT_MONTH, &[&feature]).unwrap(), 1);
    }
    assert_eq!(decision(&mut client, "try_consume('acme', 'kept')"), "f limit_exceeded 3 0");
    client.batch_execute("SELECT entitlements.release('acme', 'kept')").unwrap();
    assert_eq!(decision(&mut client, "check_access('acme', 'kept')"), "f limit_exceeded 2 0");
    assert_eq!(decision(&mut client, "consume('acme', 'calls')"), "t granted 4 6");
    client
        .batch_execute("SELECT entitlements.set_usage('acme', 'kept', 0, 'x'); DELETE FROM entitlements.counters WHERE window_start < now()")
        .unwrap();
    assert_eq!(decision(&mut client, "try_consume('acme', 'kept')"), "f limit_exceeded 0 0");
    assert_eq!(text(&mut client, "SELECT count(*) FROM entitlements.credits"), "0");
}

#[test]
fn no_more_is_carried_than_may_be() {
    let (_database, mut client) = filled();
    next_second();
    for _ in 0..4 {
        let seen = decision(&mut client, "check_access('acme', 'capped')");
        let taken = decision(&mut client, "consume('acme', 'capped')");
        let (seen, taken): (f64, f64) =
            (seen.rsplit(' ').next().unwrap().parse().unwrap(), taken.rsplit(' ').next().unwrap().parse().unwrap());
        assert_eq!(seen, taken + 1.0, "check_access shows what consume finds");
        assert!(seen <= 25.0);
        next_second();
    }
    assert!(decision(&mut client, "check_access('acme', 'capped')").ends_with(" 25"));
    assert!(decision(&mut client, "consume('acme', 'capped', 25)").ends_with(" 0"));
}

/// Units of a reservation whose commit is on its way at the turn are not carried as well.
#[test]
fn what_is_just_committed_is_not_carried() {
    for (ending, carried) in [("COMMIT", "15"), ("ROLLBACK", "19")] {
        let (database, mut client) = filled();
        client
            .batch_execute(
                "SELECT entitlements.reserve('acme', 'kept', 4, '1 second');
                 UPDATE entitlements.counters SET window_start = window_start - interval '1 month', window_end = window_start;
                 UPDATE entitlements.subscriptions SET starts_at = starts_at - interval '1 year', term_starts_at = starts_at - interval '1 year'",
            )
            .unwrap();
        client.batch_execute("BEGIN; SELECT entitlements.commit_reservation(id) FROM entitlements.reservations").unwrap();
        sleep(Duration::from_millis(1_050));
        let later = waiting(&database, "SELECT remaining::text FROM entitlements.consume('acme', 'kept')");
        client.batch_execute(ending).unwrap();
        assert_eq!(later.join().unwrap().unwrap(), carried, "{ending}");
    }
}

/// An account with 100 units a term, and its subscription, which began an hour ago.
fn on_terms(client: &mut Client, ends_at: &str) -> i64 {
    client
        .batch_execute(
            r#"SELECT entitlements.apply_catalog('{"features": {"hours": {"kind": "quota", "anchor": "renewal"}},
                                                   "plans": {"by_term": {"kind": "base", "features": {"hours": 100}}}}')"#,
        )
        .unwrap();
    let ends_at = if ends_at.is_empty() { "NULL".to_owned() } else { format!("clock_timestamp() + interval '{ends_at}'") };
    one(
        client,
        &format!(
            "SELECT entitlements.subscribe('loyal', 'by_term', starts_at => now() - interval '1 hour', ends_at => {ends_at})"
        ),
        &[],
    )
}

/// Windows of `hours` as what was used in them.
fn terms(client: &mut Client) -> String {
    list(
        client,
        "SELECT concat(used, CASE WHEN window_end = 'infinity' THEN ' open' END, ';') FROM entitlements.usage_history('loyal', 'hours')",
    )
}

#[test]
fn a_term_without_an_end_is_over_when_it_gets_one_and_another_follows() {
    let (_database, mut client) = filled();
    let id = on_terms(&mut client, "");
    assert_eq!(decision(&mut client, "consume('loyal', 'hours', 80)"), "t granted 80 20");
    client
        .batch_execute(&format!(
            "SELECT entitlements.change_subscription({id}, ends_at => clock_timestamp() + interval '300 milliseconds');
             SELECT entitlements.renew_subscription({id}, '2100-01-01');"
        ))
        .unwrap();
    sleep(Duration::from_millis(400));
    // Nobody has used anything between.
    assert_eq!(decision(&mut client, "consume('loyal', 'hours', 90)"), "t granted 90 10");
    assert_eq!(terms(&mut client), "80; 90;");
    let tiled = "SELECT count(DISTINCT edge) FROM entitlements.counters, unnest(ARRAY[window_start, window_end]) AS edge";
    assert_eq!(text(&mut client, tiled), "3");
}

#[test]
fn grace_goes_on_with_what_the_term_has_left() {
    let (_database, mut client) = filled();
    let id = on_terms(&mut client, "300 milliseconds");
    assert_eq!(decision(&mut client, "consume('loyal', 'hours', 80)"), "t granted 80 20");
    client
        .batch_execute(&format!(
            "SELECT entitlements.change_subscription({id}, status => 'past_due', grace_until => now() + interval '1 hour')"
        ))
        .unwrap();
    sleep(Duration::from_millis(400));
    assert_eq!(decision(&mut client, "check_access('loyal', 'hours', 30)"), "f limit_exceeded 80 20");
    assert_eq!(decision(&mut client, "try_consume('loyal', 'hours', 30)"), "f limit_exceeded 80 20");
    assert_eq!(decision(&mut client, "consume('loyal', 'hours', 15)"), "t granted 95 5");
    assert_eq!(decision(&mut client, "release('loyal', 'hours', 1)"), "t granted 94 6");
    assert_eq!(terms(&mut client), "94 open;");
    let resets = "SELECT resets_at FROM entitlements.check_access('loyal', 'hours')";
    assert_eq!(one::<Option<std::time::SystemTime>>(&mut client, resets, &[]), None);
    // Paid for in grace, the next term begins where the one before ended.
    client.batch_execute(&format!("SELECT entitlements.renew_subscription({id}, '2100-01-01')")).unwrap();
    assert_eq!(decision(&mut client, "check_access('loyal', 'hours', 30)"), "t granted 0 100");
    assert_eq!(decision(&mut client, "consume('loyal', 'hours', 30)"), "t granted 30 70");
    assert_eq!(terms(&mut client), "94; 30;");
}

#[test]
fn a_term_after_grace_has_lapsed_is_a_new_one() {
    let (_database, mut client) = filled();
    let id = on_terms(&mut client, "200 milliseconds");
    client
        .batch_execute(&format!(
            "SELECT entitlements.change_subscription({id}, status => 'past_due', grace_until => now() + interval '400 milliseconds')"
        ))
        .unwrap();
    sleep(Duration::from_millis(250));
    assert_eq!(decision(&mut client, "consume('loyal', 'hours', 60)"), "t granted 60 40");
    sleep(Duration::from_millis(250));
    assert_eq!(decision(&mut client, "try_consume('loyal', 'hours')"), "f expired 0 0");
    client.batch_execute(&format!("SELECT entitlements.renew_subscription({id}, '2100-01-01')")).unwrap();
    assert_eq!(decision(&mut client, "consume('loyal', 'hours', 70)"), "t granted 70 30");
    assert_eq!(terms(&mut client), "60; 70;");
}

#[test]
fn a_term_that_is_made_longer_stays_one() {
    let (_database, mut client) = filled();
    let id = on_terms(&mut client, "300 milliseconds");
    assert_eq!(decision(&mut client, "consume('loyal', 'hours', 80)"), "t granted 80 20");
    client.batch_execute(&format!("SELECT entitlements.change_subscription({id}, ends_at => '2100-01-01')")).unwrap();
    sleep(Duration::from_millis(400));
    assert_eq!(decision(&mut client, "check_access('loyal', 'hours', 30)"), "f limit_exceeded 80 20");
    assert_eq!(decision(&mut client, "consume('loyal', 'hours', 20)"), "t granted 100 0");
    assert_eq!(terms(&mut client), "100;");
}

#[test]
fn what_a_term_has_left_lives_as_long_as_the_next_one() {
    let (_database, mut client) = filled();
    client
        .batch_execute(
            "SELECT entitlements.subscribe('loyal', 'team', starts_at => now() - interval '40 days', ends_at => now() - interval '5 days');
             SELECT entitlements.subscribe('loyal', 'team', starts_at => now() - interval '5 days');",
        )
        .unwrap();
    assert_eq!(decision(&mut client, "check_access('loyal', 'terms')"), "t granted 0 18");
    assert_eq!(decision(&mut client, "consume('loyal', 'terms', 3)"), "t granted 3 15");
    let until = "SELECT string_agg(expires_at::text, ' ') FROM entitlements.credits";
    assert_eq!(text(&mut client, until), "infinity");
    client.batch_execute("SELECT entitlements.change_subscription(3, ends_at => '2100-01-01 00:00+00')").unwrap();
    assert_eq!(decision(&mut client, "consume('loyal', 'terms', 3)"), "t granted 6 12");
    assert_eq!(text(&mut client, until), "2100-01-01 00:00:00+00");
}

#[test]
fn stated_usage_is_spread_as_if_it_had_been_used() {
    let (_database, mut client) = filled();
    assert_eq!(decision(&mut client, "set_usage('acme', 'calls', 6, 'import')"), "t granted 6 4");
    assert_eq!(text(&mut client, "SELECT consumed FROM entitlements.set_usage('acme', 'calls', 2.5, 'import')"), "-3.5");
    assert_eq!(decision(&mut client, "set_usage('acme', 'calls', 0, 'import')"), "t granted 0 10");
    let late: i64 = one(&mut client, "SELECT entitlements.grant_credit('acme', 'calls', 5, 'top-up')", &[]);
    let first: i64 = one(&mut client, "SELECT entitlements.grant_credit('acme', 'calls', 3, 'gift', priority => 1)", &[]);
    assert_eq!(decision(&mut client, "set_usage('acme', 'calls', 14, 'import')"), "t granted 14 4");
    assert_eq!(used(&mut client, "acme", "calls"), format!("0:10 {late}:1 {first}:3"));
    assert_eq!(decision(&mut client, "set_usage('acme', 'calls', 20, 'import')"), "t granted 20 0");
    assert_eq!(used(&mut client, "acme", "calls"), format!("0:12 {late}:5 {first}:3"));
    assert_eq!(decision(&mut client, "set_usage('acme', 'calls', 2, 'import')"), "t granted 2 16");
    assert_eq!(used(&mut client, "acme", "calls"), format!("0:0 {late}:0 {first}:2"));
    let crossed = list(
        &mut client,
        "SELECT concat(account, '/', feature, '/', threshold, '/', used) FROM entitlements.thresholds_crossed ORDER BY threshold",
    );
    assert_eq!(crossed, "acme/calls/0.5/6 acme/calls/1/10");
    let recorded: String = one(
        &mut client,
        "SELECT concat_ws('|', object, object_id, content->'old'->>'used', content->'new'->>'used', content->>'reason') FROM entitlements.audit_log WHERE action = 'set_usage' ORDER BY id LIMIT 1 OFFSET 1",
        &[],
    );
    assert_eq!(recorded, "usage|calls|6|2.5|import");
    // More than credits alone, without a plan.
    let only: i64 = one(&mut client, "SELECT entitlements.grant_credit('prepaid', 'calls', 5, 'paid')", &[]);
    assert_eq!(decision(&mut client, "set_usage('prepaid', 'calls', 7, 'import')"), "t granted 7 0");
    assert_eq!(used(&mut client, "prepaid", "calls"), format!("{only}:7"));
    client.batch_execute("SELECT entitlements.set_usage('acme', 'logged', 4, 'import'), entitlements.set_usage('acme', 'logged', 1, 'import')").unwrap();
    assert_eq!(
        list(&mut client, "SELECT concat(action, amount) FROM entitlements.usage_events ORDER BY id"),
        "set_usage4 set_usage-3"
    );
    client.batch_execute("SELECT entitlements.define_account('child', 'acme')").unwrap();
    for (code, call) in [
        ("NE001", "set_usage('prepaid', 'seats', 1, 'x')"),
        ("NE003", "set_usage('acme', 'cals', 1, 'x')"),
        ("NE004", "set_usage('acme', 'sso', 1, 'x')"),
        ("NE004", "set_usage('acme', 'rate', 1, 'x')"),
        ("NE006", "set_usage('nobody', 'calls', 1, 'x')"),
        ("NE007", "set_usage('acme', 'calls', -1, 'x')"),
        ("NE007", "set_usage('acme', 'calls', NULL, 'x')"),
        ("NE007", "set_usage('acme', 'calls', 'NaN', 'x')"),
        ("NE007", "set_usage('acme', 'calls', 1, '')"),
        ("NE009", "set_usage('child', 'calls', 1, 'x')"),
    ] {
        refused_with(&mut client, code, &format!("SELECT entitlements.{call}"), &[]);
    }
}

/// The second credit has no counter yet, so the state is looked at again after the first was restated.
#[test]
fn a_correction_over_several_credits_tells_what_was_before() {
    let (_database, mut client) = filled();
    client
        .batch_execute(
            "SELECT entitlements.grant_credit('prepaid', 'logged', 10, 'paid');
             SELECT entitlements.consume('prepaid', 'logged', 8);
             SELECT entitlements.grant_credit('prepaid', 'logged', 10, 'paid again');",
        )
        .unwrap();
    assert_eq!(text(&mut client, "SELECT consumed FROM entitlements.set_usage('prepaid', 'logged', 15, 'import')"), "7");
    assert_eq!(used(&mut client, "prepaid", "logged"), "1:10 2:5");
    assert_eq!(text(&mut client, "SELECT sum(amount) FROM entitlements.usage_events"), "15");
    let recorded = "SELECT concat(content->'old'->>'used', ' ', content->'new'->>'used') FROM entitlements.audit_log WHERE action = 'set_usage'";
    assert_eq!(text(&mut client, recorded), "8 15");
}

#[test]
fn who_consumes_after_a_correction_starts_from_it() {
    let (database, mut client) = filled();
    client
        .batch_execute(
            "SELECT entitlements.consume('acme', 'calls', 1); BEGIN; SELECT entitlements.consume('acme', 'calls', 3)",
        )
        .unwrap();
    let correction =
        waiting(&database, "SELECT concat(used, ' ', consumed) FROM entitlements.set_usage('acme', 'calls', 9, 'x')");
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(correction.join().unwrap().unwrap(), "9 5");
    client.batch_execute("BEGIN; SELECT entitlements.set_usage('acme', 'calls', 2, 'x')").unwrap();
    let consumer = waiting(&database, "SELECT concat(allowed, used) FROM entitlements.try_consume('acme', 'calls', 1)");
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(consumer.join().unwrap().unwrap(), "t3");
}

#[test]
fn corrections_under_load_are_exact() {
    let (database, mut client) = filled();
    client.batch_execute("SELECT entitlements.set_override('acme', 'calls', 'set', '1000000', 'load')").unwrap();
    let stop = AtomicBool::new(false);
    let consumed = AtomicI64::new(0);
    let mut corrected = 0;
    thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                let mut client = database.connect();
                while !stop.load(Ordering::Relaxed) {
                    let mut transaction = client.transaction().unwrap();
                    transaction.query("SELECT entitlements.consume('acme', 'calls', 1)", &[]).unwrap();
                    transaction.query("SELECT pg_sleep(0.003)", &[]).unwrap();
                    transaction.commit().unwrap();
                    consumed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for n in 0..10_i32 {
            sleep(Duration::from_millis(100));
            let difference: i64 = one(
                &mut client,
                "SELECT consumed::bigint FROM entitlements.set_usage('acme', 'calls', $1::int, 'load')",
                &[&(n * 7)],
            );
            corrected += difference;
        }
        stop.store(true, Ordering::Relaxed);
    });
    let stored: i64 = one(&mut client, "SELECT used::bigint FROM entitlements.check_access('acme', 'calls')", &[]);
    assert_eq!(stored, consumed.into_inner() + corrected);
}

#[test]
fn a_transaction_with_one_snapshot_is_refused_rather_than_wrong() {
    let (database, mut client) = filled();
    client.batch_execute("SELECT entitlements.grant_credit('prepaid', 'calls', 5, 'paid'); SELECT entitlements.consume('prepaid', 'calls'), entitlements.consume('acme', 'calls')").unwrap();
    for change in [
        "SELECT entitlements.void_credit(1, 'x')",
        "SELECT entitlements.set_usage('acme', 'calls', 3, 'x')",
        "SELECT entitlements.set_usage('prepaid', 'calls', 3, 'x')",
    ] {
        let mut late = database.connect();
        late.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM entitlements.accounts").unwrap();
        client
            .batch_execute("SELECT entitlements.consume('prepaid', 'calls'), entitlements.consume('acme', 'calls')")
            .unwrap();
        refused_with(&mut late, "40001", change, &[]);
    }
}

#[test]
fn history_has_the_windows_that_are_over() {
    let (_database, mut client) = filled();
    client
        .batch_execute(
            "SELECT entitlements.consume('acme', 'calls', 3), entitlements.consume('acme', 'seats', 2);
             UPDATE entitlements.counters SET window_start = '2026-01-01 00:00+00', window_end = '2026-02-01 00:00+00'
              WHERE feature_id = (SELECT id FROM entitlements.features WHERE key = 'calls');
             SELECT entitlements.consume('acme', 'calls', 4);",
        )
        .unwrap();
    let months = |client: &mut Client, span: &str| {
        list(
            client,
            &format!(
                "SELECT concat(window_start = '2026-01-01 00:00+00', ':', used, ':', from_plan) FROM entitlements.usage_history('acme', 'calls'{span})"
            ),
        )
    };
    assert_eq!(months(&mut client, ""), "t:3:3 f:4:4");
    assert_eq!(months(&mut client, ", '2026-02-01 00:00+00'"), "f:4:4");
    assert_eq!(months(&mut client, ", '2026-01-31 00:00+00'"), "t:3:3 f:4:4");
    assert_eq!(months(&mut client, ", NULL, '2026-01-01 00:00+00'"), "");
    assert_eq!(months(&mut client, ", \"to\" => '2026-01-01 00:00:01+00'"), "t:3:3");
    assert_eq!(
        text(&mut client, "SELECT h FROM entitlements.usage_history('acme', 'seats') AS h"),
        "(-infinity,infinity,2,2,0)"
    );
    for (code, call) in [
        ("NE003", "usage_history('acme', 'cals')"),
        ("NE004", "usage_history('acme', 'sso')"),
        ("NE006", "usage_history('nobody', 'calls')"),
        ("NE007", "usage_history(NULL::text, 'calls')"),
        ("NE007", "usage_history('acme', NULL)"),
    ] {
        refused_with(&mut client, code, &format!("SELECT entitlements.{call}"), &[]);
    }
}

#[test]
fn erasing_an_account_ends_its_credits_and_removes_what_was_written_about_them() {
    let (_database, mut client) = filled();
    client
        .batch_execute(
            "SELECT entitlements.grant_credit('prepaid', 'calls', 5, 'for Jane Doe', source => 'stripe', source_ref => 'pi_jane');
             SELECT entitlements.grant_credit('prepaid', 'calls', 6, 'for Jane Doe');
             SELECT entitlements.consume('prepaid', 'calls', 2), entitlements.void_credit(2, 'Jane Doe asked');",
        )
        .unwrap();
    let export = text(&mut client, "entitlements.export_account('prepaid')");
    for word in ["for Jane Doe", "pi_jane", "Jane Doe asked", "\"usage\"", "\"thresholds\""] {
        assert!(export.contains(word), "{word}: {export}");
    }
    assert_eq!(text(&mut client, "entitlements.export_account('prepaid')->'usage'->0->>'used'"), "2");
    client.batch_execute("SELECT entitlements.erase_account('prepaid', 'asked')").unwrap();
    assert_eq!(text(&mut client, "SELECT count(*) FROM entitlements.credits WHERE voided_at IS NULL"), "0");
    assert_eq!(
        text(
            &mut client,
            "SELECT count(*) FROM entitlements.credits AS c WHERE c::text LIKE '%Jane%' OR c::text LIKE '%pi_%'"
        ),
        "0"
    );
    assert_eq!(text(&mut client, "SELECT count(*) FROM entitlements.verify_audit()"), "0");
}

/// Carrying over and opening windows is done with the owner's rights in the caller's session.
#[test]
fn no_operator_of_the_caller_runs_with_the_rights_of_the_owner() {
    let (database, mut client) = filled();
    let role = format!("{}_guest", database.name());
    client
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN;
             CREATE SCHEMA trap AUTHORIZATION {role};
             GRANT USAGE ON SCHEMA entitlements TO {role};
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA entitlements TO {role};
             SELECT entitlements.grant_credit('acme', 'calls', 5, 'paid', period => '1 day');"
        ))
        .unwrap();
    let mut guest = database.connect_as(&role);
    let operators: Vec<String> = ["bigint", "integer", "timestamptz", "text", "numeric", "\"char\""]
        .iter()
        .flat_map(|of_type| {
            ["=", ">", "<", ">=", "<="].into_iter().map(move |name| {
                format!("CREATE OPERATOR trap.{name} (FUNCTION = trap.spring, LEFTARG = {of_type}, RIGHTARG = {of_type});")
            })
        })
        .collect();
    for of_type in ["bigint", "integer", "timestamptz", "text", "numeric", "\"char\""] {
        guest
            .batch_execute(&format!(
                "CREATE FUNCTION trap.spring({of_type}, {of_type}) RETURNS boolean LANGUAGE plpgsql AS
                 $$BEGIN RAISE EXCEPTION 'sprung as %', current_user; END$$"
            ))
            .unwrap();
    }
    guest.batch_execute(&operators.concat()).unwrap();
    guest.batch_execute("SET search_path = trap, pg_catalog").unwrap();
    refused_with(&mut guest, "P0001", "SELECT 1::bigint = 1::bigint", &[]);
    for feature in ["kept", "calls", "seats", "logged"] {
        guest.batch_execute(&format!("SELECT entitlements.check_access('acme', '{feature}')")).unwrap();
        guest.batch_execute(&format!("SELECT entitlements.consume('acme', '{feature}')")).unwrap();
    }
    let path: String = one(&mut guest, "SHOW search_path", &[]);
    assert_eq!(path, "trap, pg_catalog");
    drop(guest);
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role};")).unwrap();
}
