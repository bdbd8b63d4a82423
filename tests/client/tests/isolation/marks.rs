//! What a backend remembers outlives the transactions of others, and exactly what they have changed is forgotten.

use std::thread;
use std::time::Duration;

use crate::comparison::{Comparison, Session, alone};

/// How often this session's open transaction has looked for an account by its key.
const LOOKED: &str = "SELECT pg_stat_get_xact_numscans('entitlements.accounts_key'::regclass)";

/// A session in a READ COMMITTED transaction that has asked for a0, a1 and nobody, and one that changes things.
fn asked() -> (Comparison, Session, Session) {
    let comparison = Comparison::new();
    let (mut reader, mut other) = (comparison.session(), comparison.session());
    other.run("SELECT test.subscribe('a0', 'free', false, 'active', 'infinity'), test.subscribe('a1', 'team', true, 'active', 'infinity')");
    reader.run("BEGIN");
    for (account, answer) in [("a0", true), ("a1", true), ("nobody", false)] {
        assert_eq!(ask(&mut reader, account), answer);
    }
    (comparison, reader, other)
}

fn ask(session: &mut Session, account: &str) -> bool {
    session.is_true(&format!("SELECT entitlements.entitled('{account}', 'flag_a')"))
}

/// How often a question makes the session look for an account.
fn looks(session: &mut Session, account: &str) -> u32 {
    let before: u32 = session.value(LOOKED).parse().expect("a number");
    ask(session, account);
    let after: u32 = session.value(LOOKED).parse().expect("a number");
    after - before
}

#[test]
fn unrelated_transactions_make_nobody_forget() {
    let _alone = alone();
    let (_comparison, mut reader, mut other) = asked();
    other.run("INSERT INTO test.scratch VALUES (1)");
    other.run("BEGIN; INSERT INTO test.scratch VALUES (2); SAVEPOINT s; INSERT INTO test.scratch VALUES (3)");
    assert_eq!(looks(&mut reader, "a0"), 0, "while another transaction is open");
    other.run("COMMIT");
    assert_eq!(looks(&mut reader, "a0"), 0, "after it has ended");
    reader.run("INSERT INTO test.scratch VALUES (4)");
    assert_eq!(looks(&mut reader, "a0"), 0, "after the own transaction has written something");
    other.run("SELECT test.override('a1', 'flag_a', 'deny', NULL, 'trap')");
    assert_eq!(looks(&mut reader, "a0"), 0, "after a change of another account");
    assert!(!ask(&mut reader, "a1"));
    assert_eq!(looks(&mut reader, "a1"), 0, "what is read anew is remembered");
    reader.agrees();
}

/// The server says of both that they changed the relation.
#[test]
fn vacuum_and_analyze_make_nobody_forget() {
    let _alone = alone();
    let (_comparison, mut reader, mut other) = asked();
    for statement in ["VACUUM", "ANALYZE"] {
        for table in ["accounts", "subscriptions", "overrides", "features", "counters", "change_marks"] {
            other.run("INSERT INTO test.scratch VALUES (1)");
            other.run(&format!("{statement} entitlements.{table}"));
            assert_eq!(looks(&mut reader, "a0"), 0, "after {statement} {table}");
        }
    }
    reader.agrees();
}

#[test]
fn each_kind_of_change_is_noticed() {
    let _alone = alone();
    let (_comparison, mut reader, mut other) = asked();
    // TRUNCATE would wait for its locks.
    reader.run("COMMIT");
    let changes = [
        "SELECT test.override('a0', 'flag_a', 'deny', NULL, 'trap')",
        "SELECT test.clear('a0', 'flag_a')",
        "SELECT test.block('a0', NULL, 'trap')",
        "DELETE FROM entitlements.blocks",
        "SELECT test.unsubscribe('a0')",
        "SELECT test.adopt('a0', 'a1')",
        "SELECT test.block('a1', 'flag_a', 'trap')",
        "SELECT test.unblock('a1')",
        "SELECT test.publish('team', NULL, true, 2)",
        "SELECT test.publish('team', true, true, 2)",
        "INSERT INTO entitlements.accounts (key, parent_id, created_at) SELECT 'nobody', id, now() FROM entitlements.accounts WHERE key = 'a1'",
        "UPDATE entitlements.accounts SET parent_id = NULL WHERE key = 'nobody'",
        "UPDATE entitlements.accounts SET key = 'a9' WHERE key = 'a1'",
        "TRUNCATE entitlements.subscriptions",
    ];
    let mut answers = Vec::new();
    for change in changes {
        other.run(change);
        reader.agrees();
        let present = ["a0", "a1", "nobody"].map(|account| ask(&mut reader, account));
        assert_ne!(answers.last(), Some(&present), "{change} makes no difference");
        answers.push(present);
    }
}

/// A transaction that stays open for long lets the list of marks after it grow; what ends meanwhile is noticed all the same.
#[test]
fn a_long_transaction_hides_no_other() {
    let _alone = alone();
    let (comparison, mut reader, mut other) = asked();
    let mut long = comparison.session();
    long.run("BEGIN");
    long.run("SELECT test.override('a0', 'flag_a', 'deny', NULL, 'long')");
    for _ in 0..3 {
        other.run("SELECT test.override('a1', 'flag_a', 'deny', NULL, 'trap')");
        assert!(ask(&mut reader, "a0") && !ask(&mut reader, "a1"));
        other.run("SELECT test.clear('a1', 'flag_a')");
        assert!(ask(&mut reader, "a0") && ask(&mut reader, "a1"));
    }
    long.run("COMMIT");
    assert!(!ask(&mut reader, "a0") && ask(&mut reader, "a1"));
    reader.agrees();
}

#[test]
fn many_accounts_at_once_are_noticed() {
    let _alone = alone();
    let (_comparison, mut reader, mut other) = asked();
    other.run(
        "BEGIN;
         INSERT INTO entitlements.accounts (key, created_at) SELECT 'm' || n, now() FROM generate_series(1, 300) n;
         SELECT test.override('a0', 'flag_a', 'deny', NULL, 'trap')",
    );
    assert!(ask(&mut reader, "a0"));
    other.run("COMMIT");
    assert!(!ask(&mut reader, "a0"));
    // What a subtransaction has marked goes with it, and the same is marked again.
    other.run(
        "BEGIN; SAVEPOINT s; SELECT test.clear('a0', 'flag_a'); ROLLBACK TO s; SELECT test.clear('a0', 'flag_a'); COMMIT",
    );
    assert!(ask(&mut reader, "a0"));
    reader.agrees();
}

/// A restore disables triggers: then nothing is remembered from one snapshot to the next.
#[test]
fn disabled_triggers_make_everybody_forget() {
    let _alone = alone();
    let (comparison, mut reader, mut other) = asked();
    reader.run("COMMIT");
    for trigger in ["DISABLE TRIGGER ALL", "ENABLE TRIGGER ALL"] {
        other.run(&format!("ALTER TABLE entitlements.overrides {trigger}"));
        // Without ALWAYS they do not fire in a replica.
        other.run("SET session_replication_role = replica");
        for (change, answer) in [("deny", false), ("set", true)] {
            assert_eq!(ask(&mut reader, "a0"), !answer, "{trigger}, before {change}");
            other.run(&format!("SELECT test.override('a0', 'flag_a', '{change}', true, 'trap')"));
            assert_eq!(ask(&mut reader, "a0"), answer, "{trigger}, after {change}");
        }
        other.run("RESET session_replication_role");
    }
    drop(comparison);
}

/// Marks are deleted when there are many. A session that has slept meanwhile cannot find those it missed.
#[test]
fn who_sleeps_while_marks_are_deleted_forgets_everything() {
    let _alone = alone();
    let (comparison, mut reader, mut other) = asked();
    reader.run("COMMIT");
    assert!(ask(&mut reader, "a0"));
    other.run("SELECT test.override('a0', 'flag_a', 'deny', NULL, 'trap')");
    other.run("DO $$ BEGIN FOR n IN 1..1000 LOOP PERFORM test.block('a2', NULL, n::text); COMMIT; END LOOP; END $$");
    let deleted = "SELECT count FROM entitlements.maintain() WHERE object = 'change_marks'";
    let count: u32 = other.value(deleted).parse().expect("a number");
    assert!(count > 1000, "{count} marks were deleted");
    assert!(!ask(&mut reader, "a0"));
    reader.agrees();
    assert!(other.query(deleted).is_empty(), "few are left alone");
    drop(comparison);
}

/// Metering asks the same memory: what an account is granted, and its credits.
#[test]
fn consumption_follows_what_others_change() {
    let _alone = alone();
    let (_comparison, mut reader, mut other) = asked();
    reader.run("COMMIT");
    let take = "SELECT (entitlements.try_consume('a1', 'seats', 4)).allowed";
    let give = "SELECT (entitlements.release('a1', 'seats', 4)).allowed";
    assert!(reader.is_true(take) && !reader.is_true(take), "two seats, twice");
    other.run("SELECT entitlements.grant_credit('a1', 'seats', 4, 'a gift')");
    assert!(reader.is_true(take) && !reader.is_true(take));
    other.run("SELECT test.override('a1', 'seats', 'add', true, 'trap')");
    assert!(!reader.is_true(take), "three more are not four");
    assert!(reader.is_true(give));
    other.run("SELECT test.override('a1', 'seats', 'deny', NULL, 'trap')");
    assert!(!reader.is_true(take));
    other.run("SELECT test.clear('a1', 'seats')");
    assert!(reader.is_true(take));
}

/// Where the last mark stands is remembered as a place in memory, which may be another page's meanwhile, of another file, or not
/// the last one any more.
#[test]
fn marks_are_found_whatever_becomes_of_their_index() {
    let _alone = alone();
    let (comparison, mut reader, mut other) = asked();
    reader.run("COMMIT");
    let splits_pages = "DO $$ BEGIN FOR n IN 1..500 LOOP PERFORM test.block('a2', NULL, n::text), test.unblock('a2'); COMMIT; END LOOP; END $$";
    let whatever = [
        "SELECT 1",
        splits_pages,
        "VACUUM entitlements.change_marks",
        "REINDEX INDEX entitlements.change_marks_pkey",
        "REINDEX INDEX CONCURRENTLY entitlements.change_marks_pkey",
        "VACUUM FULL entitlements.change_marks",
        splits_pages,
        "DELETE FROM entitlements.change_marks",
        "VACUUM entitlements.change_marks",
        "TRUNCATE entitlements.change_marks",
        "SELECT count(*) FROM entitlements.maintain()",
    ];
    for statement in whatever {
        for _ in 0..2 {
            assert!(ask(&mut reader, "a0"), "before {statement}");
            other.run("INSERT INTO test.scratch VALUES (1)");
            assert_eq!(looks(&mut reader, "a0"), 0, "nothing has changed before {statement}");
            other.run(statement);
            other.run("SELECT test.override('a0', 'flag_a', 'deny', NULL, 'trap')");
            assert!(!ask(&mut reader, "a0"), "after {statement}");
            other.run("SELECT test.clear('a0', 'flag_a')");
            assert!(ask(&mut reader, "a0"), "again after {statement}");
        }
    }
    reader.agrees();
    drop(comparison);
}

/// While REINDEX CONCURRENTLY waits to drop the old index, that is still in memory and gets no entries any more.
#[test]
fn an_index_that_is_left_behind_is_not_asked() {
    let _alone = alone();
    let (comparison, mut reader, mut other) = asked();
    reader.run("COMMIT");
    let [mut first, mut second, mut builder] = [(); 3].map(|()| comparison.session());
    let waits_for = |watcher: &mut Session, builder: &str, holder: &str| {
        let waits = format!("SELECT pg_blocking_pids({builder}) @> ARRAY[{holder}]");
        while !watcher.is_true(&waits) {
            thread::sleep(Duration::from_millis(10));
        }
    };
    let holds = "BEGIN; LOCK TABLE entitlements.change_marks IN ACCESS SHARE MODE";
    let [process, one, two] =
        [&mut builder, &mut first, &mut second].map(|session| session.value("SELECT pg_backend_pid()"));
    assert!(ask(&mut reader, "a0"));
    other.run("INSERT INTO test.scratch VALUES (1)");
    assert!(ask(&mut reader, "a0"), "and where the last mark stands is remembered");
    let mut answers = Vec::new();
    thread::scope(|scope| {
        first.run(holds);
        scope.spawn(|| builder.run("REINDEX INDEX CONCURRENTLY entitlements.change_marks_pkey"));
        // The new index is in place, but who has a lock may still read the old one.
        waits_for(&mut other, &process, &one);
        second.run(holds);
        first.run("COMMIT");
        // Nobody writes to the old one any more, and it is dropped once this lock is gone.
        waits_for(&mut other, &process, &two);
        for _ in 0..2 {
            other.run("SELECT test.override('a0', 'flag_a', 'deny', NULL, 'trap')");
            answers.push(ask(&mut reader, "a0"));
            other.run("SELECT test.clear('a0', 'flag_a')");
            answers.push(ask(&mut reader, "a0"));
        }
        second.run("COMMIT");
    });
    assert_eq!(answers, [false, true, false, true]);
    reader.agrees();
}
