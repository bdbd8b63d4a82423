//! Situations of a few connections at one pool: who waits for whom, and what becomes of it.

use crate::stage::{Stage, allow, ask, assert_sound, refuse, run, say, slots, used};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// 100 units, spread over four slots.
fn spread_hundred() -> Stage {
    let stage = Stage::new();
    allow(&mut stage.connect(), "acme", "calls", "100");
    stage.spread("acme", "calls");
    stage
}

const TAKE: &str = "SELECT entitlements.consume('acme', 'calls', ";

#[test]
fn the_last_unit_goes_to_who_waits_if_it_comes_back() {
    for (end, then) in [("COMMIT", Err("NE002".to_owned())), ("ROLLBACK", Ok("granted".to_owned()))] {
        let stage = Stage::new();
        let mut first = stage.connect();
        ask(&mut first, "consume('acme', 'calls', 9)");
        run(&mut first, "BEGIN");
        ask(&mut first, "consume('acme', 'calls', 1)");
        let second = stage.blocked("SELECT reason FROM entitlements.consume('acme', 'calls', 1)");
        run(&mut first, end);
        assert_eq!(second.end().1, then, "{end}");
        assert_eq!(used(&mut first, "acme", "calls"), "10");
    }
}

#[test]
fn units_rolled_back_to_a_savepoint_are_free_at_once() {
    for spread in [false, true] {
        let stage = Stage::new();
        allow(&mut stage.connect(), "acme", "calls", "20");
        if spread {
            stage.spread("acme", "calls");
        }
        let mut first = stage.connect();
        run(&mut first, "BEGIN; SAVEPOINT s");
        ask(&mut first, "consume('acme', 'calls', 20)");
        let second = stage.blocked("SELECT reason FROM entitlements.consume('acme', 'calls', 20)");
        run(&mut first, "ROLLBACK TO s");
        assert_eq!(second.end().1.as_deref(), Ok("granted"), "spread: {spread}");
        refuse(&mut first, "NE002", "consume('acme', 'calls', 1)");
        run(&mut first, "ROLLBACK");
        assert_eq!(used(&mut first, "acme", "calls"), "20");
        assert_sound(&mut first, true);
    }
}

#[test]
fn who_was_denied_keeps_nobody_waiting() {
    for spread in [false, true] {
        let stage = Stage::new();
        allow(&mut stage.connect(), "acme", "calls", "20");
        if spread {
            stage.spread("acme", "calls");
        }
        let (mut denied, mut other) = stage.two();
        run(&mut denied, "BEGIN");
        assert!(say(&mut denied, "try_consume('acme', 'calls', 21)").starts_with("limit_exceeded"));
        run(&mut other, "SET lock_timeout = '1s'");
        ask(&mut other, "consume('acme', 'calls', 20)");
        assert!(say(&mut denied, "try_consume('acme', 'calls', 1)").starts_with("limit_exceeded 0 used 20"));
        run(&mut denied, "COMMIT");
    }
}

/// Lets one consumer wait for another, for so long after it was seen to wait. How long it may have waited, and over how many slots
/// the pool is spread then.
fn wait_once(stage: &Stage, account: &str, pause: Duration) -> (Duration, i64) {
    let mut holder = stage.connect();
    ask(&mut holder, &format!("consume('{account}', 'calls', 1)"));
    run(&mut holder, "BEGIN");
    ask(&mut holder, &format!("consume('{account}', 'calls', 1)"));
    let began = Instant::now();
    let waiting = stage.blocked(&format!("SELECT entitlements.consume('{account}', 'calls', 1)"));
    thread::sleep(pause);
    run(&mut holder, "COMMIT");
    waiting.end().1.expect("there is enough for both");
    (began.elapsed(), slots(&mut holder, account, "calls"))
}

#[test]
fn a_pool_is_spread_by_a_long_wait_and_not_by_a_short_one() {
    let stage = Stage::new();
    let mut operator = stage.connect();
    let short = (0..100).find_map(|attempt| {
        let account = format!("acme-{attempt}");
        ask(&mut operator, &format!("subscribe('{account}', 'team')"));
        allow(&mut operator, &account, "calls", "1000");
        let (waited, slots) = wait_once(&stage, &account, Duration::ZERO);
        (waited < Duration::from_millis(100)).then_some(slots)
    });
    assert_eq!(short, Some(0), "None: this machine lets nobody wait for a short time");
    allow(&mut operator, "acme", "calls", "1000");
    let (_, slots) = wait_once(&stage, "acme", Duration::from_millis(100));
    assert!(slots > 1);
    assert_sound(&mut operator, true);
}

#[test]
fn a_pool_is_spread_by_waits_that_follow_each_other() {
    let stage = Stage::new();
    let mut clients = [stage.connect(), stage.connect()];
    allow(&mut clients[0], "acme", "calls", "100000");
    let is_spread = AtomicBool::new(false);
    thread::scope(|scope| {
        for client in &mut clients {
            let (mut watcher, is_spread) = (stage.connect(), &is_spread);
            scope.spawn(move || {
                let mut rounds = 0;
                while !is_spread.load(Ordering::Relaxed) {
                    rounds += 1;
                    assert!(rounds < 2000, "two that wait for each other all the time spread nothing");
                    run(client, "BEGIN; SELECT entitlements.consume('acme', 'calls', 1); SELECT pg_sleep(0.002); COMMIT");
                    is_spread.fetch_or(slots(&mut watcher, "acme", "calls") > 1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_sound(&mut clients[0], true);
}

/// How many consumers can be at work at once, none of which waits; they all commit.
fn at_work_at_once(stage: &Stage, most: usize) -> usize {
    let mut open = Vec::new();
    while open.len() < most {
        let mut client = stage.connect();
        run(&mut client, "SET lock_timeout = '100ms'; BEGIN");
        if client.simple_query(&format!("{TAKE}1)")).is_err() {
            break;
        }
        open.push(client);
    }
    open.iter_mut().for_each(|client| run(client, "COMMIT"));
    open.len()
}

#[test]
fn a_pool_is_spread_wider_until_its_consumers_do_not_wait_for_each_other() {
    let stage = Stage::new();
    allow(&mut stage.connect(), "acme", "calls", "10000");
    stage.spread("acme", "calls");
    let widths: Vec<usize> = (0..8).map(|_| at_work_at_once(&stage, 40)).collect();
    assert_eq!(widths.last(), Some(&40), "{widths:?}");
    assert_sound(&mut stage.connect(), true);
}

#[test]
fn who_waits_for_many_units_keeps_nobody_from_taking_few() {
    let stage = spread_hundred();
    let (mut holder, mut passer) = stage.two();
    run(&mut holder, "BEGIN");
    ask(&mut holder, "consume('acme', 'calls', 1)");
    let greedy = stage.blocked(&format!("{TAKE}95)"));
    run(&mut passer, "SET lock_timeout = '2s'");
    ask(&mut passer, "consume('acme', 'calls', 1)");
    run(&mut holder, "COMMIT");
    greedy.end().1.expect("98 are left");
    assert_eq!(used(&mut passer, "acme", "calls"), "97");
    assert_sound(&mut passer, true);
}

#[test]
fn a_holder_takes_more_while_others_wait_for_it() {
    let stage = spread_hundred();
    let (mut one, mut two) = stage.two();
    for client in [&mut one, &mut two] {
        run(client, "SET deadlock_timeout = '10ms'; BEGIN");
        ask(client, "consume('acme', 'calls', 1)");
    }
    let greedy = stage.blocked(&format!("{TAKE}80)"));
    ask(&mut one, "consume('acme', 'calls', 13)");
    run(&mut one, "COMMIT");
    run(&mut two, "COMMIT");
    greedy.end().1.expect("85 are left");
    assert_eq!(used(&mut one, "acme", "calls"), "95");
    assert_sound(&mut one, true);
}

#[test]
fn a_lowered_limit_holds_from_the_next_statement_on_though_shares_were_handed_out() {
    let stage = spread_hundred();
    let (mut client, mut operator) = stage.two();
    ask(&mut client, "consume('acme', 'calls', 20)");
    allow(&mut operator, "acme", "calls", "21");
    assert_eq!(say(&mut client, "consume('acme', 'calls', 1)"), "granted 1 used 21 of 21 left 0");
    refuse(&mut client, "NE002", "consume('acme', 'calls', 1)");
    allow(&mut operator, "acme", "calls", "5");
    assert_eq!(say(&mut client, "check_access('acme', 'calls')"), "limit_exceeded 0 used 21 of 5 left 0 over 16");
    refuse(&mut client, "NE002", "consume('acme', 'calls', 1)");
    ask(&mut client, "release('acme', 'calls', 17)");
    assert_eq!(say(&mut client, "consume('acme', 'calls', 1)"), "granted 1 used 5 of 5 left 0");
    allow(&mut operator, "acme", "calls", "100");
    ask(&mut client, "consume('acme', 'calls', 95)");
    refuse(&mut client, "NE002", "consume('acme', 'calls', 1)");
}

#[test]
fn a_limit_lowered_between_two_statements_of_a_transaction_holds_for_the_second() {
    for spread in [false, true] {
        let stage = Stage::new();
        allow(&mut stage.connect(), "acme", "calls", "20");
        if spread {
            stage.spread("acme", "calls");
        }
        let (mut client, mut operator) = stage.two();
        run(&mut client, "BEGIN");
        ask(&mut client, "consume('acme', 'calls', 3)");
        allow(&mut operator, "acme", "calls", "4");
        ask(&mut client, "consume('acme', 'calls', 1)");
        refuse(&mut client, "NE002", "consume('acme', 'calls', 1)");
        run(&mut client, "ROLLBACK");
    }
}

/// Who consumed under a higher limit and has not committed yet counts when the limit is lower again.
#[test]
fn a_lowered_limit_holds_though_somebody_still_works_under_the_higher_one() {
    let stage = spread_hundred();
    let (mut before, mut operator) = stage.two();
    allow(&mut operator, "acme", "calls", "200");
    run(&mut before, "BEGIN");
    ask(&mut before, "consume('acme', 'calls', 150)");
    allow(&mut operator, "acme", "calls", "60");
    let mut watcher = stage.connect();
    let after = stage.start(&format!("{TAKE}12)"));
    after.waits(&mut watcher);
    run(&mut before, "COMMIT");
    let result = after.end().1;
    assert_eq!(used(&mut operator, "acme", "calls"), "150");
    assert_eq!(result, Err("NE002".to_owned()));
}

/// A raised limit is not used while somebody could still be served from shares made under the old one, which counts again soon.
#[test]
fn who_works_under_a_limit_that_was_raised_for_a_moment_counts() {
    let stage = spread_hundred();
    let (mut raised, mut operator) = stage.two();
    allow(&mut operator, "acme", "calls", "200");
    run(&mut raised, "BEGIN");
    ask(&mut raised, "consume('acme', 'calls', 100)");
    allow(&mut operator, "acme", "calls", "100");
    let others = [(); 3].map(|()| stage.blocked(&format!("{TAKE}10)")));
    run(&mut raised, "COMMIT");
    for other in others {
        assert_eq!(other.end().1, Err("NE002".to_owned()));
    }
    assert_eq!(used(&mut operator, "acme", "calls"), "100");
}

/// Versions of slots are made, undone and removed between two looks of a session, and their places go to other slots.
#[test]
fn usage_is_told_right_wherever_slots_have_gone() {
    let stage = Stage::new();
    let mut reader = stage.connect();
    allow(&mut reader, "acme", "calls", "1000000");
    stage.spread("acme", "calls");
    let mut others = [(); 5].map(|()| stage.connect());
    let mut committed = 0;
    for round in 0..200 {
        // Any number of versions, so that a place that was looked at is another slot's present version now and then.
        for step in 0..round * round % 61 {
            let other = &mut others[(round + step) % 4];
            let end = if step % 3 == 2 { "ROLLBACK" } else { "COMMIT" };
            run(other, &format!("BEGIN; {TAKE} 1); {end}"));
            committed += u64::from(end == "COMMIT");
        }
        match round % 100 {
            40 => run(&mut reader, "VACUUM entitlements.counter_slots"),
            80 => run(&mut reader, "VACUUM FULL entitlements.counter_slots"),
            _ => {}
        }
        // What another one holds does not count yet.
        let end = ["COMMIT", "ROLLBACK"][round / 3 % 2];
        run(&mut others[4], &format!("BEGIN; {TAKE} 1)"));
        committed += 1;
        let left = 1_000_000 - committed;
        assert_eq!(
            say(&mut reader, "consume('acme', 'calls', 1)"),
            format!("granted 1 used {committed} of 1000000 left {left}"),
            "in round {round}"
        );
        run(&mut others[4], end);
        committed += u64::from(end == "COMMIT");
    }
    assert!(slots(&mut reader, "acme", "calls") > 1, "it is spread to the end");
    assert_eq!(used(&mut reader, "acme", "calls"), committed.to_string());
}
