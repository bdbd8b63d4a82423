//! One test for each known way in which an answer that is kept in memory goes stale, or differs from a query's.

use crate::comparison::{Comparison, Session, alone};
use entitlements_client_tests::Database;
use std::fs;

const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

const DENY: &str = "SELECT test.override('a0', 'flag_a', 'deny', NULL, 'trap')";
const CLEAR: &str = "SELECT test.clear('a0', 'flag_a')";
const ASSIGN_ID: &str = "SELECT pg_current_xact_id()";
const SNAPSHOT: &str = "SELECT pg_current_snapshot()";

/// `a0` is granted `flag_a` by a subscription.
fn granted() -> (Comparison, Session) {
    let comparison = Comparison::new();
    let mut session = comparison.session();
    session.run("SELECT test.subscribe('a0', 'free', false, 'active', 'infinity')");
    assert!(session.entitled("a0", "flag_a"));
    (comparison, session)
}

/// Repeats `attempt` until it tells that the snapshots it wanted to be alike were: background work of the server may begin
/// and end transactions at any time.
fn until_met(mut attempt: impl FnMut() -> bool) {
    assert!((0..50).any(|_| attempt()), "the snapshots were never alike: somebody else uses this server");
}

/// A snapshot leaves out its own transaction's id. With an older transaction open and a younger one finished it looks the
/// same before and after the own end.
#[test]
fn the_own_commit_is_seen_although_the_snapshot_looks_the_same() {
    let _alone = alone();
    let (comparison, mut own) = granted();
    let (mut older, mut younger) = (comparison.session(), comparison.session());
    for end in ["COMMIT", "ROLLBACK"] {
        until_met(|| {
            own.run(CLEAR);
            older.run("BEGIN");
            older.run(ASSIGN_ID);
            own.run("BEGIN");
            own.run(ASSIGN_ID);
            younger.run(ASSIGN_ID);
            assert!(own.entitled("a0", "flag_a"));
            let before = own.value(SNAPSHOT);
            own.run(DENY);
            own.run(end);
            let alike = own.value(SNAPSHOT) == before;
            assert_eq!(own.entitled("a0", "flag_a"), end == "ROLLBACK", "after {end}");
            older.run("ROLLBACK");
            alike
        });
    }
}

/// A transaction that ends while an older one is open and after a younger one has ended moves neither bound of the snapshot:
/// only the list of those that run gets shorter.
#[test]
fn a_commit_that_moves_no_bound_of_the_snapshot_is_seen() {
    let _alone = alone();
    let (comparison, mut reader) = granted();
    let (mut oldest, mut older, mut younger) = (comparison.session(), comparison.session(), comparison.session());
    until_met(|| {
        younger.run(CLEAR);
        oldest.run("BEGIN");
        oldest.run(ASSIGN_ID);
        older.run("BEGIN");
        older.run(DENY);
        younger.run(ASSIGN_ID);
        assert!(reader.entitled("a0", "flag_a"));
        let bounds = "SELECT (pg_snapshot_xmin(pg_current_snapshot()), pg_snapshot_xmax(pg_current_snapshot()))";
        let before = reader.value(bounds);
        older.run("COMMIT");
        let alike = reader.value(bounds) == before;
        assert!(!reader.entitled("a0", "flag_a"));
        oldest.run("ROLLBACK");
        alike
    });
}

/// The other way round: what was seen of the own changes is not seen any more after they were given up. The next transaction
/// has to have a command behind it for its snapshot to look the same.
#[test]
fn a_prepared_transaction_hides_its_changes_until_it_is_committed() {
    let _alone = alone();
    let (comparison, mut own) = granted();
    let mut other = comparison.session();
    let name = comparison.database.name();
    for end in ["COMMIT PREPARED", "ROLLBACK PREPARED"] {
        until_met(|| {
            other.run(CLEAR);
            own.run("BEGIN");
            own.run(DENY);
            assert!(!own.entitled("a0", "flag_a"));
            let before = own.value(SNAPSHOT);
            own.run(&format!("PREPARE TRANSACTION '{name}'"));
            own.run("BEGIN");
            // Brings the command id to where it was.
            own.run(&DENY.replace("a0", "a1"));
            let alike = own.value(SNAPSHOT) == before;
            assert!(own.entitled("a0", "flag_a"), "not committed yet");
            assert!(other.entitled("a0", "flag_a"), "not committed yet");
            other.run(&format!("{end} '{name}'"));
            assert_eq!(own.entitled("a0", "flag_a"), end == "ROLLBACK PREPARED", "the open transaction after {end}");
            own.run("COMMIT");
            assert_eq!(own.entitled("a0", "flag_a"), end == "ROLLBACK PREPARED", "after {end}");
            assert_eq!(other.entitled("a0", "flag_a"), end == "ROLLBACK PREPARED", "another session after {end}");
            alike
        });
    }
}

/// ROLLBACK TO keeps the command id, and in REPEATABLE READ and SERIALIZABLE the snapshot too.
#[test]
fn rollback_to_a_savepoint_takes_back_what_was_seen() {
    let _alone = alone();
    let (_comparison, mut session) = granted();
    for level in LEVELS {
        session.run(&format!("BEGIN ISOLATION LEVEL {level}"));
        assert!(session.entitled("a0", "flag_a"));
        session.run("SAVEPOINT first");
        session.run(DENY);
        assert!(!session.entitled("a0", "flag_a"), "{level}: the own change is seen");
        session.run("SAVEPOINT second");
        session.run(CLEAR);
        assert!(session.entitled("a0", "flag_a"), "{level}: the own change is seen");
        session.run("ROLLBACK TO second");
        assert!(!session.entitled("a0", "flag_a"), "{level}: the inner change is gone");
        session.run("RELEASE second");
        assert!(!session.entitled("a0", "flag_a"), "{level}: RELEASE changes nothing");
        session.run("ROLLBACK TO first");
        assert!(session.entitled("a0", "flag_a"), "{level}: the outer change is gone");
        session.run("SELECT test.flip_in_vain('a0', 'flag_a')");
        assert!(session.entitled("a0", "flag_a"), "{level}: the change that an exception took back is gone");
        session.run("COMMIT");
        assert!(session.entitled("a0", "flag_a"), "{level}: after the commit");
    }
}

/// Within one transaction only the command id tells snapshots apart.
#[test]
fn each_own_change_is_seen_by_the_next_statement_and_not_by_its_own() {
    let _alone = alone();
    let (_comparison, mut session) = granted();
    for level in LEVELS {
        session.run(&format!("BEGIN ISOLATION LEVEL {level}"));
        for _ in 0..3 {
            let before = session.entitled("a0", "flag_a");
            let rows = session.query(
                "SELECT got, test.flip(account, feature), entitlements.entitled(account, feature), want FROM test.comparison
                WHERE account = 'a0' AND feature = 'flag_a'",
            );
            let answer = Some(if before { "t" } else { "f" }.to_owned());
            assert_eq!(rows, [[answer.clone(), Some("0".to_owned()), answer.clone(), answer]], "{level}");
            assert_eq!(session.entitled("a0", "flag_a"), !before, "{level}: the next statement");
        }
        session.run("ROLLBACK");
    }
}

/// The same place in a PL/pgSQL function asks about one feature after another.
#[test]
fn a_feature_in_a_variable_is_looked_up_each_time() {
    let _alone = alone();
    let (_comparison, mut session) = granted();
    for (feature, expected) in [("flag_a", true), ("flag_b", false), ("seats", false)] {
        assert_eq!(session.is_true(&format!("SELECT test.stable_answer('a0', '{feature}')")), expected, "{feature}");
    }
    assert_eq!(session.value("SELECT test.volatile_answers()"), "0");
}

/// A prepared statement keeps its plan, not its answers.
#[test]
fn prepared_statements_follow_the_changes() {
    let _alone = alone();
    let (comparison, mut session) = granted();
    let mut other = comparison.session();
    for mode in ["force_generic_plan", "force_custom_plan", "auto"] {
        session.run(&format!("SET plan_cache_mode = {mode}"));
        session.run(
            "PREPARE ask(text, text) AS
            SELECT entitlements.entitled($1, $2) AND want AND got OR NOT (entitlements.entitled($1, $2) OR want OR got)
            FROM test.comparison WHERE account = $1 AND feature = $2",
        );
        session.run("PREPARE plain(text, text) AS SELECT entitlements.entitled($1, $2)");
        for round in 0..8 {
            for change in [DENY, CLEAR] {
                other.run(change);
                for feature in ["flag_a", "flag_b", "seats"] {
                    let asked = format!("{mode}, round {round}, {feature} after {change}");
                    assert!(session.is_true(&format!("EXECUTE ask('a0', '{feature}')")), "{asked}");
                    let granted = feature == "flag_a" && change == CLEAR;
                    assert_eq!(session.is_true(&format!("EXECUTE plain('a0', '{feature}')")), granted, "{asked}");
                }
            }
        }
        session.run("DEALLOCATE ALL");
    }
}

/// Ids of plan versions start anew with the extension, and versions are remembered by id.
#[test]
fn an_extension_created_again_is_another_one() {
    let _alone = alone();
    let install = |flag: bool| {
        format!(
            "CREATE EXTENSION entitlements;
            INSERT INTO entitlements.features (key, kind, combine) VALUES ('flag', 'flag', 'any');
            INSERT INTO entitlements.plans (key, kind) VALUES ('plan', 'base');
            INSERT INTO entitlements.plan_versions (plan_id, version, kind, rank, definition, published_at, published_by)
                VALUES (1, 1, 'base', 0, '{{}}', now(), 'test');
            INSERT INTO entitlements.plan_features (plan_version_id, feature_id, kind, enabled) VALUES (1, 1, 'flag', {flag});
            INSERT INTO entitlements.accounts (key, created_at) VALUES ('a0', now());
            INSERT INTO entitlements.subscriptions (id, account_id, plan_id, plan_version_id, status, quantity, starts_at,
                    term_starts_at, source, recorded_at, recorded_by)
                VALUES (1, 1, 1, 1, 'active', 1, '2020-01-01', '2020-01-01', 'test', now(), 'test')"
        )
    };
    // The type of a decision is another one too.
    const ASK: &str = "SELECT entitlements.entitled('a0', 'flag') AND (entitlements.check_access('a0', 'flag')).allowed";
    const DENIED: &str =
        "SELECT NOT (entitlements.entitled('a0', 'flag') OR (entitlements.check_access('a0', 'flag')).allowed)";
    let database = Database::bare();
    let mut own = Session { client: database.connect() };
    let mut other = Session { client: database.connect() };
    own.run(&install(true));
    assert!(own.is_true(ASK));
    assert!(other.is_true(ASK));
    own.run("DROP EXTENSION entitlements");
    own.run(&install(false));
    assert!(own.is_true(DENIED), "in the backend that created it again");
    assert!(other.is_true(DENIED), "in a backend that knew the former one");
    own.run("BEGIN");
    own.run("DROP EXTENSION entitlements");
    own.run(&install(true));
    assert!(own.is_true(ASK), "within the transaction");
    own.run("ROLLBACK");
    assert!(own.is_true(DENIED), "after the transaction was rolled back");
    other.run("DROP EXTENSION entitlements; CREATE EXTENSION entitlements");
    assert_eq!(own.try_query(ASK).expect_err("the new one has no features").code(), "NE003");
}

/// Replication and restores fill one table after the other: for a while there is a published version without its features.
#[test]
fn a_version_seen_before_its_features_is_read_again() {
    let _alone = alone();
    let (comparison, mut session) = granted();
    let mut other = comparison.session();
    session.run("SELECT test.subscribe('a1', 'free', true, 'active', 'infinity')");
    assert!(session.entitled("a1", "flag_a"));
    for flag in ["false", "true"] {
        other.run(
            "INSERT INTO entitlements.plan_versions (plan_id, version, kind, rank, definition, published_at, published_by)
            SELECT plan_id, max(version) + 1, 'base', 0, '{}', now(), 'test' FROM entitlements.plan_versions
            WHERE plan_id = (SELECT id FROM entitlements.plans WHERE key = 'free') GROUP BY plan_id",
        );
        assert!(!session.entitled("a1", "flag_a"));
        other.run(&format!(
            "INSERT INTO entitlements.plan_features (plan_version_id, feature_id, kind, enabled)
            SELECT (SELECT max(id) FROM entitlements.plan_versions), id, 'flag', {flag} FROM entitlements.features
            WHERE key = 'flag_a'"
        ));
        assert_eq!(session.entitled("a1", "flag_a"), flag == "true");
    }
}

/// TRUNCATE does not wait for old snapshots: a query sees it at once.
#[test]
fn truncate_is_seen_as_by_a_query() {
    let _alone = alone();
    let (comparison, mut session) = granted();
    let mut other = comparison.session();
    // Remembered before the transaction begins, so that the answers below need no lock that TRUNCATE would wait for.
    session.run("SELECT test.override('a1', 'flag_a', 'set', true, 'trap')");
    let ask = "SELECT entitlements.entitled('a1', 'flag_a')";
    until_met(|| {
        assert!(session.is_true(ask));
        let before = session.value(SNAPSHOT);
        session.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
        let alike = session.value(SNAPSHOT) == before;
        if !alike {
            session.run("ROLLBACK");
        }
        alike
    });
    other.run("SET lock_timeout = '5s'");
    other.run("TRUNCATE entitlements.overrides");
    assert!(!session.is_true(ask));
    session.agrees();
    session.run("COMMIT");
    session.agrees();
}

/// An index rebuilt under a new OID is found.
#[test]
fn indexes_may_be_rebuilt_at_any_time() {
    let _alone = alone();
    let (comparison, mut session) = granted();
    let mut other = comparison.session();
    for table in ["features", "accounts", "subscriptions", "overrides", "blocks", "plan_versions", "plan_features"] {
        session.run("BEGIN");
        session.run("SELECT entitlements.entitled('a0', 'flag_a')");
        session.run("COMMIT");
        session.run("BEGIN");
        session.run("SELECT 1");
        other.run(&format!("REINDEX TABLE CONCURRENTLY entitlements.{table}"));
        assert!(session.is_true("SELECT entitlements.entitled('a0', 'flag_a')"), "{table}");
        session.run("COMMIT");
        session.agrees();
    }
}

/// A setting that every client may choose keeps the server from using indexes, the partial ones too.
#[test]
fn ended_rows_stay_ended_without_system_indexes() {
    let _alone = alone();
    let (comparison, mut session) = granted();
    session.run(DENY);
    session.run(CLEAR);
    session.run("SELECT test.subscribe('a1', 'team', false, 'active', 'infinity'), test.unsubscribe('a1')");
    session.run("SELECT test.block('a0', NULL, 'legal')");
    session.run("SELECT test.unblock('a0')");
    let mut without = comparison.session_with("-c ignore_system_indexes=on");
    assert!(without.entitled("a0", "flag_a"), "the override and the block are over");
    assert!(!without.entitled("a1", "flag_a"), "the subscription was superseded");
    without.agrees();
}

/// Predicate locks belong to a transaction. What an earlier one has read must be read again, or a write skew goes unnoticed.
#[test]
fn serializable_transactions_conflict_over_what_entitled_read() {
    let _alone = alone();
    let (comparison, mut reader) = granted();
    let mut writer = comparison.session();
    let ask = "SELECT entitlements.entitled('a0', 'flag_a')";
    let join = "SELECT want FROM test.expected WHERE account = 'a0' AND feature = 'flag_a'";
    // How the answer got into the memo before, how the transaction reads, and whether that conflicts.
    let cases = [
        ("READ COMMITTED", Some(join), true),
        ("READ COMMITTED", Some(ask), true),
        ("SERIALIZABLE", Some(ask), true),
        ("SERIALIZABLE", None, false),
    ];
    for (warmed_in, read, conflicts) in cases {
        until_met(|| {
            writer.run(CLEAR);
            reader.run("TRUNCATE test.scratch");
            reader.run(ask);
            reader.run(&format!("BEGIN ISOLATION LEVEL {warmed_in}"));
            reader.run(ask);
            reader.run(ask);
            let before = reader.value(SNAPSHOT);
            reader.run("COMMIT");
            reader.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
            if let Some(read) = read {
                assert!(reader.is_true(read));
            }
            let alike = reader.value(SNAPSHOT) == before;
            writer.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
            writer.run("SELECT count(*) FROM test.scratch");
            writer.run(DENY);
            let failures = [
                reader.try_query("INSERT INTO test.scratch VALUES (1)"),
                reader.try_query("COMMIT"),
                writer.try_query("COMMIT"),
            ];
            let failures: Vec<_> =
                failures.iter().filter_map(|result| result.as_ref().err()).map(|code| code.code()).collect();
            let asked = format!("remembered in {warmed_in}, read by {read:?}");
            assert_eq!(failures.first().copied(), conflicts.then_some("40001"), "{asked}");
            reader.run("ROLLBACK");
            writer.run("ROLLBACK");
            alike
        });
    }
}

#[test]
fn an_imported_snapshot_answers_as_in_its_time() {
    let _alone = alone();
    let (comparison, mut session) = granted();
    let (mut exporter, mut writer) = (comparison.session(), comparison.session());
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        exporter.run(&format!("BEGIN ISOLATION LEVEL {level}"));
        let exported = exporter.value("SELECT pg_export_snapshot()");
        writer.run(DENY);
        assert!(!session.entitled("a0", "flag_a"), "{level}: now");
        session.run(&format!("BEGIN ISOLATION LEVEL {level}; SET TRANSACTION SNAPSHOT '{exported}'"));
        assert!(session.entitled("a0", "flag_a"), "{level}: then");
        session.run("SELECT test.override('a0', 'flag_b', 'set', true, 'trap')");
        assert!(session.entitled("a0", "flag_a"), "{level}: then, after an own change");
        assert!(session.entitled("a0", "flag_b"), "{level}: the own change");
        session.run("ROLLBACK");
        assert!(!session.entitled("a0", "flag_a"), "{level}: now again");
        assert!(exporter.entitled("a0", "flag_a"), "{level}: the exporter");
        exporter.run("COMMIT");
        assert!(!exporter.entitled("a0", "flag_a"), "{level}: the exporter afterwards");
        writer.run(CLEAR);
    }
}

/// Time passes within a transaction, by statement_timestamp(), and changes no snapshot.
#[test]
fn rows_start_and_end_by_themselves() {
    let _alone = alone();
    let (_comparison, mut session) = granted();
    for level in LEVELS {
        for (starts, set_up) in [
            (false, "SELECT test.subscribe('a1', 'free', true, 'active', clock_timestamp() + '250 ms')"),
            (false, "SELECT test.subscribe('a1', 'free', false, 'past_due', clock_timestamp() + '250 ms')"),
            (
                false,
                "SELECT test.override('a1', 'flag_a', 'set', true, 'trap');
                UPDATE entitlements.overrides SET expires_at = clock_timestamp() + '250 ms' WHERE ended_at IS NULL",
            ),
            (
                true,
                "SELECT test.subscribe('a1', 'free', false, 'active', 'infinity');
                UPDATE entitlements.subscriptions SET starts_at = clock_timestamp() + '250 ms'
                    WHERE superseded_at IS NULL AND account_id = (SELECT id FROM entitlements.accounts WHERE key = 'a1')",
            ),
        ] {
            session.run(set_up);
            session.run(&format!("BEGIN ISOLATION LEVEL {level}"));
            assert_eq!(session.entitled("a1", "flag_a"), !starts, "{level}, before: {set_up}");
            session.run("SELECT pg_sleep(0.3)");
            assert_eq!(session.entitled("a1", "flag_a"), starts, "{level}, after: {set_up}");
            session.run("COMMIT");
            session.run("SELECT test.unsubscribe('a1'), test.clear('a1', 'flag_a')");
        }
    }
}

#[test]
fn a_cursor_answers_by_the_snapshot_it_was_opened_with() {
    let _alone = alone();
    let (comparison, mut session) = granted();
    let mut other = comparison.session();
    for hold in ["WITHOUT HOLD", "WITH HOLD"] {
        session.run("BEGIN");
        session.run(&format!(
            "DECLARE open NO SCROLL CURSOR {hold} FOR
            SELECT entitlements.entitled('a0', 'flag_a') AS got, want
            FROM generate_series(1, 10) n CROSS JOIN LATERAL (
                SELECT want FROM test.expected WHERE account = 'a0' AND feature = 'flag_a' AND n > 0) expected"
        ));
        let granted_then = [[Some("t".to_owned()), Some("t".to_owned())]];
        assert_eq!(session.query("FETCH open"), granted_then);
        session.run(DENY);
        assert!(!session.entitled("a0", "flag_a"));
        assert_eq!(session.query("FETCH open"), granted_then, "after an own change");
        session.run("SAVEPOINT one");
        session.run(CLEAR);
        assert!(session.entitled("a0", "flag_a"));
        assert_eq!(session.query("FETCH open"), granted_then, "after two own changes");
        session.run("ROLLBACK TO one");
        assert_eq!(session.query("FETCH open"), granted_then, "after ROLLBACK TO");
        assert!(!session.entitled("a0", "flag_a"));
        if hold == "WITH HOLD" {
            session.run("COMMIT");
            other.run("SELECT test.block('a0', NULL, 'fraud')");
            assert!(!session.entitled("a0", "flag_a"));
            assert_eq!(session.query("FETCH open"), granted_then, "after the commit");
            session.run("CLOSE open");
            other.run("SELECT test.unblock('a0')");
            other.run(CLEAR);
        } else {
            session.run("ROLLBACK");
        }
        assert!(session.entitled("a0", "flag_a"));
    }
}

/// Past 64 subtransactions a snapshot lists their ids no more, and says so.
#[test]
fn many_subtransactions_are_told_apart() {
    let _alone = alone();
    let (comparison, mut writer) = granted();
    let mut reader = comparison.session();
    for level in LEVELS {
        writer.run(&format!("BEGIN ISOLATION LEVEL {level}"));
        for number in 0..150 {
            writer.run(&format!("SAVEPOINT s{number}"));
            let (account, feature) = (number % 5, ["flag_a", "flag_b", "seats"][number % 3]);
            writer.run(&format!("SELECT test.override('a{account}', '{feature}', 'set', {}, 'trap')", number % 2 == 0));
            if number % 7 == 0 {
                writer.agrees();
                reader.agrees();
                writer.run(&format!("ROLLBACK TO s{number}"));
            }
            if number % 11 == 0 {
                writer.agrees();
                reader.agrees();
            }
        }
        writer.agrees();
        writer.run("ROLLBACK TO s100");
        writer.agrees();
        assert!(reader.entitled("a0", "flag_a"), "{level}: nothing is committed");
        assert!(!reader.entitled("a0", "flag_b"), "{level}: nothing is committed");
        writer.run("COMMIT");
        reader.agrees();
        writer.agrees();
        writer.run("UPDATE entitlements.overrides SET ended_at = greatest(starts_at, now()) WHERE ended_at IS NULL");
    }
}

/// What does not fit is read again; the answers are the same and the memory stays within bounds.
#[test]
fn a_memo_too_small_for_its_accounts_answers_the_same() {
    let _alone = alone();
    let (_comparison, mut session) = granted();
    session.run(
        "INSERT INTO entitlements.accounts (key, created_at) SELECT 'many' || n, now() FROM generate_series(1, 10000) n;
        INSERT INTO entitlements.subscriptions (id, account_id, plan_id, plan_version_id, status, quantity, starts_at,
                term_starts_at, source, recorded_at, recorded_by)
            SELECT nextval('entitlements.subscription_ids'), account.id, version.plan_id, version.id, 'active', 1, '2020-01-01',
                '2020-01-01', 'test', now(), 'test'
            FROM entitlements.accounts account JOIN entitlements.plan_versions version ON version.plan_id = 1 + account.id % 3
            WHERE account.key LIKE 'many%' AND account.id % 4 <> 0;
        ANALYZE",
    );
    let ask = "SELECT count(*) FILTER (WHERE entitlements.entitled(account.key, asked.feature)
                <> (asked.feature = ANY (CASE WHEN account.id % 4 = 0 THEN '{}' WHEN account.id % 3 = 0 THEN '{flag_a}'
                    WHEN account.id % 3 = 1 THEN '{flag_a,flag_b,seats}' ELSE '{seats}' END::text[])))
        FROM (SELECT 'many' || (1 + n * 7919 % 10000) AS key, ('{flag_a,flag_b,seats}'::text[])[1 + n % 3] AS feature
            FROM generate_series(1, 40000) n OFFSET 0) asked JOIN entitlements.accounts account ON account.key = asked.key";
    for size in ["64kB", "4MB", "64kB", "1GB"] {
        session.run(&format!("SET entitlements.memo_size = '{size}'"));
        assert_eq!(session.value(ask), "0", "memo of {size}");
    }

    let process = session.value("SELECT pg_backend_pid()");
    let memory = || {
        let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the server runs on this machine");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the kernel tells RssAnon");
        line.trim_end_matches("kB").trim().parse::<u64>().expect("RssAnon is a number")
    };
    session.run("DISCARD ALL");
    session.run("SET entitlements.memo_size = '64kB'");
    let unknown = "SELECT count(*) FROM generate_series(1, 1000) n WHERE entitlements.entitled('nobody' || n, 'flag_a')";
    assert_eq!(session.value(unknown), "0");
    let before = memory();
    assert_eq!(session.value(&unknown.replace("1000)", "150000)")), "0");
    let grown = memory().saturating_sub(before);
    assert!(grown < 8192, "the backend grew by {grown} kB");
}

/// The planner may send a check to workers, which get the snapshot and the own changes of their leader.
#[test]
fn parallel_workers_answer_the_same() {
    let _alone = alone();
    let (_comparison, mut session) = granted();
    session.run(
        "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
        SET max_parallel_workers_per_gather = 2;
        INSERT INTO entitlements.accounts (key, created_at) SELECT 'many' || n, now() FROM generate_series(1, 5000) n;
        INSERT INTO test.names SELECT 'many' || n FROM generate_series(1, 5000) n;
        ANALYZE",
    );
    let ask = "SELECT count(*) FROM test.names WHERE entitlements.entitled(name, 'flag_a')";
    let plan: String = session.query(&format!("EXPLAIN {ask}")).into_iter().flatten().flatten().collect();
    assert!(plan.contains("Parallel Seq Scan"), "{plan}");
    for level in LEVELS {
        for access in ["READ WRITE", "READ ONLY"] {
            session.run("SELECT test.clear('many' || n, 'flag_a') FROM generate_series(1, 100) n");
            session.run(&format!("BEGIN ISOLATION LEVEL {level}, {access}"));
            assert_eq!(session.value(ask), "1", "{level}, {access}");
            if access == "READ WRITE" {
                session
                    .run("SELECT test.override('many' || n, 'flag_a', 'set', true, 'trap') FROM generate_series(1, 100) n");
                assert_eq!(session.value(ask), "101", "{level}: own changes");
                session.run("SAVEPOINT one");
                session.run("SELECT test.clear('many' || n, 'flag_a') FROM generate_series(1, 50) n");
                assert_eq!(session.value(ask), "51", "{level}: changes of a subtransaction");
                session.run("ROLLBACK TO one");
                assert_eq!(session.value(ask), "101", "{level}: after ROLLBACK TO");
            }
            session.run("COMMIT");
        }
    }
}

/// A check reads only: it takes no transaction id, which a standby, a parallel worker or a read-only transaction could not give.
#[test]
fn checks_assign_no_transaction_id() {
    let _alone = alone();
    let (_comparison, mut session) = granted();
    for level in LEVELS {
        for access in ["READ WRITE", "READ ONLY"] {
            session.run("SELECT test.block('a4', NULL, 'legal')");
            session.run("SELECT test.unblock('a4')");
            session.run(&format!("BEGIN ISOLATION LEVEL {level}, {access}"));
            session.agrees();
            session.run("SELECT entitlements.require('a0', 'flag_a')");
            session.run("SELECT entitlements.value_of('a0', 'seats'), entitlements.allowance('a0', 'seats')");
            session.run("SELECT entitlements.check_access('a0', 'seats', 2)");
            session.run("SELECT * FROM entitlements.entitlements_of('a0')");
            session.run("SELECT * FROM entitlements.entitled_accounts('flag_a')");
            session.run("SELECT * FROM entitlements.explain('a0', 'flag_a')");
            assert!(session.is_true("SELECT pg_current_xact_id_if_assigned() IS NULL"), "{level}, {access}");
            session.run("COMMIT");
        }
    }
}
