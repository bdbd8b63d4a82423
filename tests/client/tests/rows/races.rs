//! Two sessions at once: one changes tables or limits, and the other, which has to wait for it, must see what it has done.

use crate::stage::{assert_counted, assert_used, limit, refuse, run, stage};
use entitlements_client_tests::{Database, one};
use postgres::Client;
use std::thread;
use std::time::{Duration, Instant};

/// What `later` gives, which begins before and ends after `first` commits.
fn after_waiting_for<R: Send>(database: &Database, first: &mut Client, later: impl FnOnce(&mut Client) -> R + Send) -> R {
    let mut client = database.connect();
    let process: i32 = one(&mut client, "SELECT pg_backend_pid()", &[]);
    thread::scope(|scope| {
        let waiting = scope.spawn(move || later(&mut client));
        let (mut watcher, end) = (database.connect(), Instant::now() + Duration::from_secs(20));
        while !one::<bool>(&mut watcher, "SELECT cardinality(pg_blocking_pids($1)) > 0", &[&process]) {
            assert!(!waiting.is_finished() && Instant::now() < end, "it waits");
            thread::sleep(Duration::from_millis(5));
        }
        run(first, "COMMIT");
        waiting.join().expect("it ends well")
    })
}

const PARTED: &str = "CREATE TABLE projects (id integer, account text) PARTITION BY RANGE (id);
    CREATE TABLE low PARTITION OF projects FOR VALUES FROM (0) TO (10);
    CREATE TABLE middle PARTITION OF projects FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
    CREATE TABLE middle_low PARTITION OF middle FOR VALUES FROM (10) TO (15)";

fn drift(client: &mut Client) -> i64 {
    one(client, "SELECT count(*) FROM entitlements.recount_rows(of_feature => 'projects')", &[])
}

#[test]
fn a_recount_sees_the_partition_that_it_has_waited_for() {
    let (database, mut client) = stage();
    run(&mut client, PARTED);
    limit(&mut client, "projects", None);
    run(
        &mut client,
        "BEGIN; CREATE TABLE high PARTITION OF projects FOR VALUES FROM (20) TO (30);
         INSERT INTO projects VALUES (1, 'a'), (20, 'a'), (21, 'a')",
    );
    assert_eq!(after_waiting_for(&database, &mut client, drift), 0);
    assert_used(&mut client, "a 3, b 0");
}

#[test]
fn a_recount_sees_the_limit_that_it_has_waited_for() {
    let (database, mut client) = stage();
    run(
        &mut client,
        "CREATE TABLE projects (account text); CREATE TABLE more (account text); INSERT INTO more VALUES ('a')",
    );
    limit(&mut client, "projects", None);
    run(&mut client, "BEGIN");
    limit(&mut client, "more", None);
    run(&mut client, "INSERT INTO projects VALUES ('a')");
    assert_eq!(after_waiting_for(&database, &mut client, drift), 0);
    assert_used(&mut client, "a 2, b 0");
    run(&mut client, "BEGIN; SELECT entitlements.unlimit_rows('more')");
    assert_eq!(after_waiting_for(&database, &mut client, drift), 0);
    assert_used(&mut client, "a 1, b 0");
}

#[test]
fn a_limit_reaches_the_partition_that_it_has_waited_for() {
    let (database, mut client) = stage();
    run(&mut client, PARTED);
    run(&mut client, "CREATE TABLE middle_high (id integer, account text); INSERT INTO middle_high VALUES (15, 'b')");
    run(&mut client, "BEGIN; ALTER TABLE middle ATTACH PARTITION middle_high FOR VALUES FROM (15) TO (20)");
    assert_eq!(after_waiting_for(&database, &mut client, |other| limit(other, "projects", None)), 1);
    assert_used(&mut client, "a 0, b 1");
    run(&mut client, "INSERT INTO middle_high VALUES (16, 'b'); INSERT INTO projects VALUES (17, 'b')");
    refuse(&mut client, "NE002", "INSERT INTO middle_high VALUES (18, 'b')");
    assert_used(&mut client, "a 0, b 3");
    // The other way round: nothing of it stays limited.
    run(&mut client, "BEGIN; CREATE TABLE high PARTITION OF projects FOR VALUES FROM (20) TO (30)");
    let unlimit = |other: &mut Client| one::<i64>(other, "SELECT entitlements.unlimit_rows('projects')", &[]);
    assert_eq!(after_waiting_for(&database, &mut client, unlimit), 3);
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'limit%'", &[]), 0);
}

#[test]
fn a_transaction_with_an_old_snapshot_adds_no_partition_that_nobody_limits() {
    let (database, mut client) = stage();
    run(&mut client, PARTED);
    run(&mut client, "CREATE TABLE loose (id integer, account text); CREATE TABLE plain (account text)");
    let mut old = database.connect();
    for change in [
        "CREATE TABLE high PARTITION OF projects FOR VALUES FROM (20) TO (30)",
        "ALTER TABLE projects ATTACH PARTITION loose FOR VALUES FROM (20) TO (30)",
    ] {
        run(&mut old, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT");
        limit(&mut client, "projects", None);
        refuse(&mut old, "NE009", change);
        run(&mut old, "ROLLBACK");
        run(&mut client, "SELECT entitlements.unlimit_rows('projects')");
    }
    run(&mut old, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT");
    limit(&mut client, "projects", None);
    limit(&mut client, "plain", None);
    refuse(&mut old, "NE009", "CREATE TABLE other (id integer); ALTER TABLE plain DROP COLUMN account");
    run(&mut old, "ROLLBACK");
    // Tables that are newer than the snapshot.
    for change in [
        "ALTER TABLE newer DROP COLUMN account",
        "ALTER TABLE parted DROP COLUMN account",
        "CREATE TABLE high PARTITION OF parted DEFAULT",
        "ALTER TABLE parted ATTACH PARTITION loose DEFAULT",
        "CREATE TABLE heir () INHERITS (newer)",
    ] {
        run(&mut old, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT");
        run(
            &mut client,
            "CREATE TABLE newer (account text); CREATE TABLE parted (id integer, account text) PARTITION BY RANGE (id)",
        );
        limit(&mut client, "newer", None);
        limit(&mut client, "parted", None);
        refuse(&mut old, "NE009", change);
        run(&mut old, "ROLLBACK");
        run(&mut client, "DROP TABLE newer, parted");
    }
    assert_counted(&mut client);
}
