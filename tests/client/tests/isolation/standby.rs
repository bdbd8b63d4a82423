//! A hot standby answers from what it has replayed, with snapshots of another make: they list running transactions in one
//! array, subtransactions among them, and no transaction id can be had.

use crate::comparison::{Comparison, Session, alone};
use postgres::NoTls;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A session on the standby, once the standby has the database.
fn standby_of(comparison: &Comparison, primary: &mut Session) -> Session {
    let position = primary.value("SELECT pg_current_wal_flush_lsn()");
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match comparison.database.standby_config().connect(NoTls) {
            Ok(client) => {
                let mut standby = Session { client };
                assert!(standby.is_true("SELECT pg_is_in_recovery()"), "STANDBY_PGHOST is a standby");
                wait_until_replayed(&mut standby, &position);
                return standby;
            }
            Err(error) => {
                assert!(error.as_db_error().is_some() && Instant::now() < end, "the standby has the database: {error:?}")
            }
        }
        sleep(Duration::from_millis(20));
    }
}

fn wait_until_replayed(standby: &mut Session, position: &str) {
    let end = Instant::now() + Duration::from_secs(30);
    while !standby.is_true(&format!("SELECT pg_last_wal_replay_lsn() >= '{position}'")) {
        assert!(Instant::now() < end, "the standby has replayed {position}");
        sleep(Duration::from_millis(2));
    }
}

fn replay(primary: &mut Session, standby: &mut Session) {
    let position = primary.value("SELECT pg_current_wal_flush_lsn()");
    wait_until_replayed(standby, &position);
}

const ANSWERS: &str = "SELECT account, feature, got FROM test.comparison ORDER BY account, feature";
/// The same by the join alone, which leaves nothing in the memo.
const EXPECTED: &str = "SELECT account, feature, want FROM test.expected ORDER BY account, feature";

/// Changes on the primary, each of which is one transaction.
const CHANGES: [&str; 12] = [
    "SELECT test.override('a0', 'flag_a', 'deny', NULL, 'sales')",
    "SELECT test.subscribe('a1', 'team', true, 'active', 'infinity')",
    "SELECT test.publish('team', false, true, 0)",
    "SELECT test.clear('a0', 'flag_a')",
    "SELECT test.adopt('a2', 'a1')",
    "SELECT test.block('a1', NULL, 'fraud')",
    "SELECT test.override('a2', 'seats', 'add', true, 'sales')",
    "SELECT test.unblock('a1')",
    "SELECT test.publish('team', true, NULL, 'Infinity')",
    "BEGIN; SELECT test.block('a0', NULL, 'legal'); SAVEPOINT s; SELECT test.unblock('a0'); ROLLBACK TO s; SELECT test.unblock('a2'); COMMIT",
    "SELECT test.unblock('a0')",
    "SELECT test.clear('a2', 'seats'), test.unsubscribe('a1'), test.adopt('a2', 'nobody')",
];

#[test]
fn a_standby_answers_from_what_it_has_replayed() {
    let _alone = alone();
    let comparison = Comparison::new();
    let mut primary = comparison.session();
    primary.run("SELECT test.subscribe('a0', 'free', false, 'active', 'infinity')");
    let mut standby = standby_of(&comparison, &mut primary);
    let mut repeatable = standby_of(&comparison, &mut primary);
    let mut open = comparison.session();
    let mut answered = Vec::new();
    for round in 0..5 {
        for change in CHANGES {
            // A transaction that stays open meanwhile, in some rounds with more subtransactions than a snapshot lists. Begun
            // first, it also keeps the primary from removing rows that the old snapshot below sees, for which replay would wait.
            open.run("BEGIN");
            for number in 0..if round % 2 == 0 { 1 } else { 70 } {
                open.run(&format!("SAVEPOINT s{number}"));
                open.run("SELECT test.override('a3', 'flag_a', 'set', true, 'open')");
            }
            repeatable.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
            let then = repeatable.query(if round % 2 == 0 { ANSWERS } else { EXPECTED });
            primary.run(change);
            replay(&mut primary, &mut standby);
            standby.agrees();
            let now = standby.query(ANSWERS);
            assert_eq!(now, primary.query(ANSWERS), "after {change}");
            repeatable.agrees();
            assert_eq!(repeatable.query(ANSWERS), then, "in the old snapshot after {change}");
            repeatable.run("COMMIT");
            assert_eq!(repeatable.query(ANSWERS), now, "in a new snapshot after {change}");
            open.run(if round == 4 { "COMMIT" } else { "ROLLBACK" });
            primary.run("INSERT INTO test.scratch VALUES (1)");
            replay(&mut primary, &mut standby);
            standby.agrees();
            answered.push(standby.query(ANSWERS));
        }
    }
    answered.sort();
    answered.dedup();
    assert!(answered.len() > 10, "the changes make a difference");
    assert!(standby.entitled("a3", "flag_a"), "the open transaction committed in the end");
}

#[test]
fn a_standby_answers_in_parallel_workers_and_assigns_no_transaction_id() {
    let _alone = alone();
    let comparison = Comparison::new();
    let mut primary = comparison.session();
    primary.run(
        "INSERT INTO entitlements.accounts (key, created_at) SELECT 'many' || n, now() FROM generate_series(1, 2000) n;
        INSERT INTO test.names SELECT 'many' || n FROM generate_series(1, 2000) n;
        SELECT test.subscribe('many' || n, 'free', n % 2 = 0, 'active', 'infinity') FROM generate_series(1, 200) n;
        ANALYZE",
    );
    let mut standby = standby_of(&comparison, &mut primary);
    let settings = "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0";
    let ask = "SELECT count(*) FROM test.names WHERE entitlements.entitled(name, 'flag_a')";
    standby.run(settings);
    let plan: String = standby.query(&format!("EXPLAIN {ask}")).into_iter().flatten().flatten().collect();
    assert!(plan.contains("Parallel Seq Scan"), "{plan}");
    for level in ["READ COMMITTED", "REPEATABLE READ"] {
        standby.run(&format!("BEGIN ISOLATION LEVEL {level}"));
        assert_eq!(standby.value(ask), "200", "{level}");
        primary.run("SELECT test.block('many' || n, NULL, 'fraud') FROM generate_series(1, 50) n");
        replay(&mut primary, &mut standby);
        assert_eq!(standby.value(ask), if level == "READ COMMITTED" { "150" } else { "200" }, "{level}, after a change");
        assert!(standby.is_true("SELECT pg_current_xact_id_if_assigned() IS NULL"));
        standby.run("COMMIT");
        assert_eq!(standby.value(ask), "150", "{level}, afterwards");
        primary.run("SELECT test.unblock('many' || n) FROM generate_series(1, 50) n");
        replay(&mut primary, &mut standby);
        assert_eq!(standby.value(ask), "200", "{level}, unblocked");
    }
    standby.agrees();
}
