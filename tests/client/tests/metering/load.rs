//! Many connections at a few pools: exactly what is allowed is consumed, and what is stored is what was acknowledged.
//!
//! METERING_SECONDS sets how long the random load runs.

use crate::stage::{Stage, allow, ask, assert_sound, run, used};
use crate::traffic::{self, ENOUGH_SAMPLES, Traffic};
use entitlements_client_tests::one;
use postgres::Client;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

const CONNECTIONS: usize = 64;

/// Runs `work` on so many connections at once, which all start together, and gives what each returns.
fn at_once<T: Send>(stage: &Stage, connections: usize, work: impl Fn(usize, Client) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(connections);
    thread::scope(|scope| {
        let all: Vec<_> = (0..connections)
            .map(|number| {
                let (start, work) = (&start, &work);
                scope.spawn(move || {
                    let mut client = stage.connect();
                    // Whoever hangs fails the test.
                    run(&mut client, "SET statement_timeout = '60s'; SET deadlock_timeout = '50ms'");
                    start.wait();
                    work(number, client)
                })
            })
            .collect();
        all.into_iter().map(|thread| thread.join().expect("no connection fails")).collect()
    })
}

/// Consumes in a transaction each until it is denied; returns how often it was not.
fn until_denied(client: &mut Client, account: &str, feature: &str, n: &str, most: f64) -> usize {
    let call = format!("SELECT entitlements.consume('{account}', '{feature}', {n})");
    let mut taken = 0;
    loop {
        match traffic::outcome(client, &call) {
            Ok(()) => taken += 1,
            Err(code) if code == "NE002" => {
                assert_nothing_left(client, account, feature, n, most);
                return taken;
            }
            Err(code) => panic!("{call} after {taken}: {code}"),
        }
    }
}

/// A denial was right: as nobody gives back, committed usage leaves less than what was asked for.
fn assert_nothing_left(client: &mut Client, account: &str, feature: &str, n: &str, most: f64) {
    let used: f64 = used(client, account, feature).parse().expect("usage is a number");
    let n: f64 = n.parse().expect("units are a number");
    assert!(used + n > most, "denied {n} with {used} of {most} used");
}

/// As `until_denied`, but in transactions that are long and short, take several, and are rolled back as a whole or in part.
fn randomly_until_denied(client: &mut Client, account: &str, most: usize, random: &mut StdRng) -> usize {
    let call = format!("SELECT entitlements.consume('{account}', 'calls')");
    let mut committed = 0;
    loop {
        run(client, "BEGIN");
        let mut held = 0;
        let mut end = None;
        for _ in 0..random.random_range(1..5) {
            let undone = random.random_ratio(1, 6);
            if undone {
                run(client, "SAVEPOINT s");
            }
            match traffic::outcome(client, &call) {
                Ok(()) if undone => run(client, "ROLLBACK TO s"),
                Ok(()) => held += 1,
                Err(code) => {
                    end = Some(code);
                    break;
                }
            }
            if random.random_ratio(1, 4) {
                run(client, &format!("SELECT pg_sleep({})", random.random_range(0.0..0.003)));
            }
        }
        match end.as_deref() {
            None if random.random_ratio(4, 5) => {
                run(client, "COMMIT");
                committed += held;
            }
            // With units of its own it is not denied for good: they are free again.
            None => run(client, "ROLLBACK"),
            Some("NE002") if held == 0 => {
                run(client, "ROLLBACK");
                assert_nothing_left(client, account, "calls", "1", most as f64);
                return committed;
            }
            // Two who have units wait for each other's.
            Some("NE002" | "40P01") => run(client, "ROLLBACK"),
            Some(code) => panic!("{code}"),
        }
    }
}

#[test]
fn exactly_what_is_allowed_is_consumed_and_nobody_is_denied_before() {
    let stage = Stage::new();
    let mut client = stage.connect();
    // Contention spreads a pool; with fewer connections than units most of it goes through slots.
    for (number, most_slots) in
        [(1, 64), (3, 64), (7, 64), (10, 4), (63, 64), (64, 64), (65, 1), (100, 256), (1000, 64), (10_000, 64)]
    {
        let account = format!("n{number}");
        ask(&mut client, &format!("subscribe('{account}', 'team')"));
        allow(&mut client, &account, "calls", &number.to_string());
        let taken = at_once(&stage, CONNECTIONS, |_, mut client| {
            run(&mut client, &format!("SET entitlements.max_slots = {most_slots}"));
            until_denied(&mut client, &account, "calls", "1", number as f64)
        });
        assert_eq!(taken.iter().sum::<usize>(), number, "{taken:?}");
        assert_eq!(used(&mut client, &account, "calls"), number.to_string());
    }
    assert_sound(&mut client, true);
}

#[test]
fn exactly_what_is_allowed_is_consumed_though_transactions_are_rolled_back() {
    let stage = Stage::new();
    let mut client = stage.connect();
    for (number, most_slots) in [(1, 64), (2, 64), (10, 64), (65, 64), (300, 4), (300, 256), (10_000, 64)] {
        let account = format!("n{number}_{most_slots}");
        ask(&mut client, &format!("subscribe('{account}', 'team')"));
        allow(&mut client, &account, "calls", &number.to_string());
        let taken = at_once(&stage, CONNECTIONS, |connection, mut client| {
            run(&mut client, &format!("SET entitlements.max_slots = {most_slots}"));
            randomly_until_denied(&mut client, &account, number, &mut StdRng::seed_from_u64(connection as u64))
        });
        assert_eq!(taken.iter().sum::<usize>(), number, "{taken:?}");
        assert_eq!(used(&mut client, &account, "calls"), number.to_string());
    }
    assert_sound(&mut client, true);
}

#[test]
fn the_plan_and_its_credits_are_consumed_to_the_last_unit() {
    let stage = Stage::new();
    let mut client = stage.connect();
    for (n, calls) in [("1", 142), ("2", 71), ("0.5", 284)] {
        let account = format!("n{n}");
        ask(&mut client, &format!("subscribe('{account}', 'team')"));
        for (amount, priority) in [(5, 10), (77, 100), (50, 200)] {
            run(
                &mut client,
                &format!(
                    "INSERT INTO entitlements.credits (account_id, feature_id, amount, created_by, recorded_at, source, priority, starts_at)
                     SELECT a.id, f.id, {amount}, 'test', now(), 'test', {priority}, now() FROM entitlements.accounts a, entitlements.features f
                      WHERE a.key = '{account}' AND f.key = 'calls'"
                ),
            );
        }
        let taken = at_once(&stage, 32, |_, mut client| until_denied(&mut client, &account, "calls", n, 142.0));
        assert_eq!(taken.iter().sum::<usize>(), calls, "{taken:?}");
        assert_eq!(used(&mut client, &account, "calls"), "142");
    }
    assert_sound(&mut client, true);
}

#[test]
fn each_threshold_is_reported_once_however_many_cross_it() {
    let stage = Stage::new();
    let mut client = stage.connect();
    for number in [10, 200] {
        let account = format!("n{number}");
        ask(&mut client, &format!("subscribe('{account}', 'team')"));
        allow(&mut client, &account, "watched", &number.to_string());
        at_once(&stage, CONNECTIONS, |_, mut client| until_denied(&mut client, &account, "watched", "1", f64::from(number)));
        assert_eq!(used(&mut client, &account, "watched"), number.to_string());
        let reported: String = one(
            &mut client,
            "SELECT string_agg(trim_scale(threshold) || ' at ' || trim_scale(used), ', ' ORDER BY threshold) FROM entitlements.threshold_events
              WHERE account_id = (SELECT id FROM entitlements.accounts WHERE key = $1)",
            &[&account],
        );
        assert_eq!(reported, format!("0.5 at {}, 0.8 at {}, 1 at {number}", number / 2, number * 4 / 5));
    }
}

/// The shares were made under a higher limit, and all consumers hold their units until nobody gets any more.
#[test]
fn a_lower_limit_is_kept_by_all_at_once() {
    let stage = Stage::new();
    let mut client = stage.connect();
    for (number, limit) in [7, 100, 390].into_iter().enumerate() {
        let account = format!("a{number}");
        ask(&mut client, &format!("subscribe('{account}', 'team')"));
        allow(&mut client, &account, "calls", "400");
        let call = format!("SELECT entitlements.consume('{account}', 'calls')");
        at_once(&stage, 16, |_, mut client| (0..24).for_each(|_| run(&mut client, &call)));
        ask(&mut client, &format!("release('{account}', 'calls', 384)"));
        allow(&mut client, &account, "calls", &limit.to_string());
        let taken = at_once(&stage, CONNECTIONS, |_, mut client| {
            run(&mut client, "SET lock_timeout = '300ms'; BEGIN");
            let taken = (0..5).take_while(|_| traffic::outcome(&mut client, &call).is_ok()).count();
            // What was taken by an earlier statement is gone with the one that failed.
            if taken == 5 { (client, taken) } else { (client, 0) }
        });
        let mut taken = taken;
        taken.iter_mut().for_each(|(client, taken)| run(client, if *taken > 0 { "COMMIT" } else { "ROLLBACK" }));
        let committed: usize = taken.iter().map(|(_, taken)| taken).sum();
        assert!(committed <= limit, "{committed} of {limit}");
        assert_eq!(used(&mut client, &account, "calls"), committed.to_string());
    }
    assert_sound(&mut client, false);
}

/// Usage never exceeds the allowance, sampled by snapshots that show both, where nobody lowers it.
#[test]
fn usage_stays_within_allowances_that_only_rise() {
    let stage = Stage::new();
    let traffic = Traffic::new(&stage.database, 20, seconds(4.0), false);
    let balance = traffic.run(CONNECTIONS);
    balance.assert_stored(&mut stage.connect());
    assert!(traffic.samples().iter().all(|sample| sample.used <= sample.most), "{:?}", traffic.samples());
    assert!(traffic.samples().len() > ENOUGH_SAMPLES, "the load was watched");
    assert_sound(&mut stage.connect(), true);
}

/// Usage grows only up to an allowance that was in force while a transaction ran that made it grow.
#[test]
fn usage_grows_no_further_than_an_allowance_in_force_meanwhile() {
    let stage = Stage::new();
    let traffic = Traffic::new(&stage.database, 20, seconds(4.0), true);
    let balance = traffic.run(CONNECTIONS);
    balance.assert_stored(&mut stage.connect());
    let samples = traffic.samples();
    let mut before: BTreeMap<&str, (f64, Duration)> = BTreeMap::new();
    for sample in samples.iter() {
        let (used, at) = before.insert(sample.pool.as_str(), (sample.used, sample.began)).unwrap_or_default();
        let most =
            traffic.greatest_allowance(&sample.pool, at.saturating_sub(traffic.longest()), sample.ended).max(sample.most);
        assert!(sample.used <= most.max(used), "{sample:?} after {used}, where at most {most} was allowed");
    }
    assert_sound(&mut stage.connect(), false);
}

fn seconds(default: f64) -> Duration {
    let set = std::env::var("METERING_SECONDS").ok();
    Duration::from_secs_f64(set.map_or(default, |text| text.parse().expect("METERING_SECONDS is a number")))
}

/// Interrupted statements, ended sessions, transactions in two phases, and tables and indexes that are written anew.
#[test]
fn disturbances_lose_nothing() {
    let stage = Stage::new();
    let traffic = Traffic::new(&stage.database, 10, seconds(4.0), false).disturbed();
    let balance = traffic.run(32);
    balance.assert_stored(&mut stage.connect());
    assert!(traffic.samples().iter().all(|sample| sample.used <= sample.most), "{:?}", traffic.samples());
    assert_sound(&mut stage.connect(), true);
}

#[test]
fn children_consume_what_their_parent_has_to_the_last_unit() {
    let stage = Stage::new();
    let mut client = stage.connect();
    allow(&mut client, "acme", "calls", "500");
    for number in 0..8 {
        ask(&mut client, &format!("define_account('c{number}', parent => 'acme')"));
        if number < 4 {
            allow(&mut client, &format!("c{number}"), "calls", "20");
        }
    }
    let taken = at_once(&stage, CONNECTIONS, |number, mut client| {
        let (child, capped) = (format!("c{}", number % 8), number % 8 < 4);
        let call = format!("SELECT entitlements.consume('{child}', 'calls')");
        let mut taken = 0;
        while traffic::outcome(&mut client, &call).inspect_err(|code| assert_eq!(code, "NE002")).is_ok() {
            taken += 1;
        }
        let left = |client: &mut Client, account: &str, most: f64| {
            used(client, account, "calls").parse::<f64>().expect("usage is a number") < most
        };
        assert!(!left(&mut client, "acme", 500.0) || capped && !left(&mut client, &child, 20.0), "{child} was denied");
        (number % 8, taken)
    });
    for child in 0..4 {
        let of_child: usize = taken.iter().filter(|(number, _)| *number == child).map(|(_, taken)| taken).sum();
        assert_eq!(of_child, 20);
        assert_eq!(used(&mut client, &format!("c{child}"), "calls"), "20");
    }
    assert_eq!(taken.iter().map(|(_, taken)| taken).sum::<usize>(), 500);
    assert_eq!(used(&mut client, "acme", "calls"), "500");
    assert_sound(&mut client, true);
}
