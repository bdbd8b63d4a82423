//! Every kind of statement that changes which rows there are.

use crate::stage::{assert_used, limit, refuse, run, set, stage};
use entitlements_client_tests::{Database, one};
use postgres::Client;
use std::io::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};

const TABLE: &str = "CREATE TABLE projects (id integer PRIMARY KEY, account text, name text)";

fn copy(client: &mut Client, table: &str, rows: &str) -> Result<u64, String> {
    let mut writer = client.copy_in(&format!("COPY {table} FROM STDIN")).expect("COPY begins");
    writer.write_all(rows.as_bytes()).expect("rows are sent");
    writer.finish().map_err(|error| error.as_db_error().expect("the server answers").code().code().to_owned())
}

#[test]
fn inserts_and_deletes_are_counted_and_limited() {
    let (_database, mut client) = stage();
    run(&mut client, TABLE);
    run(&mut client, "INSERT INTO projects VALUES (1, 'a')");
    assert_eq!(limit(&mut client, "projects", None), 1);
    assert_eq!(limit(&mut client, "projects", None), 0);
    assert_used(&mut client, "a 1, b 0");
    refuse(&mut client, "NE002", "INSERT INTO projects VALUES (2, 'a'), (3, 'b'), (4, 'a'), (5, 'a')");
    assert_used(&mut client, "a 1, b 0");
    run(&mut client, "INSERT INTO projects VALUES (2, 'a'), (3, 'b'), (4, 'a')");
    assert_used(&mut client, "a 3, b 1");
    refuse(&mut client, "NE002", "INSERT INTO projects VALUES (5, 'a')");
    refuse(&mut client, "NE001", "INSERT INTO projects VALUES (5, NULL)");
    refuse(&mut client, "NE001", "INSERT INTO projects VALUES (5, 'nobody')");
    run(&mut client, "INSERT INTO projects SELECT WHERE false");
    run(&mut client, "DELETE FROM projects WHERE id = 1");
    assert_used(&mut client, "a 2, b 1");
    run(&mut client, "DELETE FROM projects USING (VALUES (2), (3)) AS gone (id) WHERE projects.id = gone.id");
    assert_used(&mut client, "a 1, b 0");
    // One statement, as the server runs it two: inserts are counted at its end as deletes are.
    run(
        &mut client,
        "WITH gone AS (DELETE FROM projects RETURNING id) INSERT INTO projects SELECT 10 + n, 'b' FROM generate_series(1, 3) AS n",
    );
    assert_used(&mut client, "a 0, b 3");
}

#[test]
fn a_copy_is_counted_at_its_end() {
    let (_database, mut client) = stage();
    run(&mut client, TABLE);
    limit(&mut client, "projects", None);
    assert_eq!(copy(&mut client, "projects", "1\ta\tx\n2\tb\ty\n3\ta\t\\N\n"), Ok(3));
    assert_used(&mut client, "a 2, b 1");
    assert_eq!(copy(&mut client, "projects", "4\ta\tx\n5\ta\ty\n"), Err("NE002".to_owned()));
    assert_used(&mut client, "a 2, b 1");
}

#[test]
fn updates_of_the_account_move_rows() {
    let (_database, mut client) = stage();
    run(&mut client, TABLE);
    limit(&mut client, "projects", None);
    run(&mut client, "INSERT INTO projects VALUES (1, 'a'), (2, 'a'), (3, 'b'), (4, 'b')");
    run(&mut client, "UPDATE projects SET name = 'x', id = -id");
    assert_used(&mut client, "a 2, b 2");
    run(&mut client, "UPDATE projects SET account = 'b' WHERE id = -1");
    assert_used(&mut client, "a 1, b 3");
    refuse(&mut client, "NE002", "UPDATE projects SET account = 'b'");
    refuse(&mut client, "NE001", "UPDATE projects SET account = NULL WHERE id = -1");
    // All change places: nobody has more than before.
    run(&mut client, "INSERT INTO projects VALUES (5, 'a'), (6, 'a')");
    run(&mut client, "UPDATE projects SET account = CASE account WHEN 'a' THEN 'b' ELSE 'a' END");
    assert_used(&mut client, "a 3, b 3");
}

#[test]
fn on_conflict_and_merge_are_counted_by_what_they_do() {
    let (_database, mut client) = stage();
    run(&mut client, TABLE);
    limit(&mut client, "projects", None);
    run(&mut client, "INSERT INTO projects VALUES (1, 'a'), (2, 'a')");
    run(&mut client, "INSERT INTO projects VALUES (1, 'a'), (2, 'b'), (3, 'a') ON CONFLICT DO NOTHING");
    assert_used(&mut client, "a 3, b 0");
    run(&mut client, "INSERT INTO projects VALUES (1, 'a'), (2, 'a') ON CONFLICT (id) DO UPDATE SET name = 'again'");
    assert_used(&mut client, "a 3, b 0");
    run(
        &mut client,
        "INSERT INTO projects VALUES (1, 'b'), (4, 'b') ON CONFLICT (id) DO UPDATE SET account = excluded.account",
    );
    assert_used(&mut client, "a 2, b 2");
    let merge = "MERGE INTO projects USING (VALUES (1, 'a'), (2, NULL), (3, 'b'), (5, 'b')) AS new (id, account) ON projects.id = new.id
        WHEN MATCHED AND new.account IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET account = new.account
        WHEN NOT MATCHED THEN INSERT VALUES (new.id, new.account)";
    run(&mut client, merge);
    assert_used(&mut client, "a 1, b 3");
    refuse(
        &mut client,
        "NE002",
        "MERGE INTO projects USING (VALUES (8), (9), (10)) AS new (id) ON projects.id = new.id
           WHEN NOT MATCHED THEN INSERT VALUES (new.id, 'a')",
    );
    assert_used(&mut client, "a 1, b 3");
}

#[test]
fn cascades_are_counted() {
    let (_database, mut client) = stage();
    run(
        &mut client,
        "CREATE TABLE owners (account text PRIMARY KEY); INSERT INTO owners VALUES ('a'), ('b');
         CREATE TABLE projects (account text REFERENCES owners ON DELETE CASCADE ON UPDATE CASCADE, parent integer, id integer PRIMARY KEY);
         ALTER TABLE projects ADD FOREIGN KEY (parent) REFERENCES projects ON DELETE CASCADE",
    );
    limit(&mut client, "projects", None);
    run(&mut client, "INSERT INTO projects VALUES ('a', NULL, 1), ('a', 1, 2), ('b', 2, 3), ('b', NULL, 4)");
    // Down two levels of the same table, in one statement.
    run(&mut client, "DELETE FROM projects WHERE id = 1");
    assert_used(&mut client, "a 0, b 1");
    run(&mut client, "DELETE FROM owners WHERE account = 'b'");
    assert_used(&mut client, "a 0, b 0");
    run(&mut client, "INSERT INTO projects VALUES ('a', NULL, 1), ('a', 1, 2)");
    run(&mut client, "UPDATE owners SET account = 'b'");
    assert_used(&mut client, "a 0, b 2");
    run(&mut client, "TRUNCATE owners CASCADE");
    assert_used(&mut client, "a 0, b 0");
    run(
        &mut client,
        "ALTER TABLE projects DROP CONSTRAINT projects_account_fkey, ADD FOREIGN KEY (account) REFERENCES owners ON DELETE SET NULL;
         INSERT INTO owners VALUES ('a'); INSERT INTO projects VALUES ('a', NULL, 1)",
    );
    refuse(&mut client, "NE001", "DELETE FROM owners");
    assert_used(&mut client, "a 1, b 0");
}

/// A condition is kept as text: what it means is the same for whoever writes, whatever the session's settings.
#[test]
fn a_condition_means_the_same_in_every_session() {
    let (_database, mut client) = stage();
    run(&mut client, "CREATE TABLE projects (account text, at timestamptz, name text)");
    run(&mut client, "SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'ISO, DMY'");
    limit(&mut client, "projects", Some("at >= '01/02/2026' AND name IS DISTINCT FROM '\\' AND (name = NULL) IS NULL"));
    for settings in [
        "SET TimeZone = 'America/New_York'; SET DateStyle = 'ISO, DMY'",
        "SET standard_conforming_strings = off; SET transform_null_equals = on",
        "RESET ALL",
    ] {
        run(&mut client, settings);
        run(
            &mut client,
            "INSERT INTO projects VALUES ('a', '2026-01-02 00:00Z'), ('a', '2026-01-01 23:59Z'); DELETE FROM projects WHERE at < '2026-01-02 00:00Z'",
        );
    }
    assert_used(&mut client, "a 3, b 0");
}

#[test]
fn cascades_into_partitions_are_counted() {
    let (_database, mut client) = stage();
    run(
        &mut client,
        "CREATE TABLE owners (id integer PRIMARY KEY, account text UNIQUE); INSERT INTO owners VALUES (1, 'a'), (2, 'b');
         CREATE TABLE projects (id integer, owner integer REFERENCES owners ON DELETE CASCADE,
                                account text REFERENCES owners (account) ON UPDATE CASCADE ON DELETE CASCADE) PARTITION BY LIST (id);
         CREATE TABLE odd PARTITION OF projects FOR VALUES IN (1, 3); CREATE TABLE even PARTITION OF projects FOR VALUES IN (2)",
    );
    limit(&mut client, "projects", None);
    run(&mut client, "INSERT INTO projects VALUES (1, 1, 'a'), (2, 1, 'a'), (3, 2, 'b')");
    assert_used(&mut client, "a 2, b 1");
    run(&mut client, "DELETE FROM owners WHERE id = 1");
    assert_used(&mut client, "a 0, b 1");
    run(&mut client, "INSERT INTO projects VALUES (2, 2, 'b'); UPDATE owners SET account = 'a'");
    assert_used(&mut client, "a 2, b 0");
    run(&mut client, "TRUNCATE owners CASCADE");
    assert_used(&mut client, "a 0, b 0");
}

#[test]
fn a_truncation_gives_everything_back_also_to_who_cannot_see_it() {
    let (database, mut client) = stage();
    let role = format!("{}_owner", database.name());
    run(&mut client, TABLE);
    run(
        &mut client,
        &format!(
            "CREATE ROLE {role}; ALTER TABLE projects OWNER TO {role}; ALTER TABLE projects ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
             GRANT USAGE ON SCHEMA entitlements TO {role}; GRANT EXECUTE ON FUNCTION entitlements.limit_rows TO {role};
             INSERT INTO projects VALUES (1, 'a', 'x'), (2, 'b', 'x'), (3, 'b', 'gone'); SET ROLE {role}"
        ),
    );
    for (condition, counted) in [(None, "a 1, b 2"), (Some("name <> 'gone'"), "a 1, b 1")] {
        let seen: i64 = one(&mut client, "SELECT count(*) FROM projects", &[]);
        assert_eq!(seen, 0);
        limit(&mut client, "projects", condition);
        run(&mut client, "RESET ROLE");
        assert_used(&mut client, counted);
        run(&mut client, &format!("BEGIN; SET LOCAL ROLE {role}; TRUNCATE projects; ROLLBACK"));
        assert_used(&mut client, counted);
        run(&mut client, &format!("BEGIN; SET LOCAL ROLE {role}; TRUNCATE projects; COMMIT"));
        assert_used(&mut client, "a 0, b 0");
        run(&mut client, "SELECT entitlements.unlimit_rows('projects')");
        run(
            &mut client,
            &format!("INSERT INTO projects VALUES (1, 'a', 'x'), (2, 'b', 'x'), (3, 'b', 'gone'); SET ROLE {role}"),
        );
    }
    run(&mut client, &format!("RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// A truncation waits for who is inserting, and then his rows go too, whatever snapshot the transaction has.
#[test]
fn a_truncation_counts_rows_that_its_snapshot_does_not_show() {
    let (database, mut client) = stage();
    run(&mut client, TABLE);
    limit(&mut client, "projects", None);
    run(&mut client, "INSERT INTO projects VALUES (1, 'a')");
    let mut inserter = database.connect();
    run(&mut inserter, "BEGIN; INSERT INTO projects VALUES (2, 'a')");
    let process: i32 = one(&mut client, "SELECT pg_backend_pid()", &[]);
    let truncation = std::thread::spawn(move || {
        run(&mut client, "TRUNCATE projects");
        client
    });
    let mut watcher = database.connect();
    let end = Instant::now() + Duration::from_secs(20);
    while !one::<bool>(&mut watcher, "SELECT cardinality(pg_blocking_pids($1)) > 0", &[&process]) {
        assert!(Instant::now() < end && !truncation.is_finished(), "it waits");
        sleep(Duration::from_millis(5));
    }
    run(&mut inserter, "COMMIT");
    let mut client = truncation.join().expect("the truncation goes on");
    assert_used(&mut client, "a 0, b 0");
}

#[test]
fn savepoints_and_isolation_levels_count_what_stays() {
    let (database, mut client) = stage();
    run(&mut client, TABLE);
    limit(&mut client, "projects", None);
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        run(
            &mut client,
            &format!(
                "BEGIN ISOLATION LEVEL {level}; INSERT INTO projects VALUES (1, 'a'), (2, 'a');
                 SAVEPOINT s; INSERT INTO projects VALUES (3, 'a'); ROLLBACK TO s; INSERT INTO projects VALUES (4, 'a');
                 SAVEPOINT t; DELETE FROM projects WHERE id = 1; ROLLBACK TO t"
            ),
        );
        refuse(&mut client, "NE002", "INSERT INTO projects VALUES (5, 'a')");
        run(&mut client, "ROLLBACK TO t; DELETE FROM projects WHERE id = 4; INSERT INTO projects VALUES (5, 'a'); COMMIT");
        assert_used(&mut client, "a 3, b 0");
        run(&mut client, "BEGIN; DELETE FROM projects; ROLLBACK; DELETE FROM projects");
        assert_used(&mut client, "a 0, b 0");
    }
    let mut other = database.connect();
    run(&mut client, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    run(&mut other, "INSERT INTO projects VALUES (1, 'a')");
    refuse(&mut client, "40001", "INSERT INTO projects VALUES (2, 'a')");
}

/// Keys are written as the functions that take uuid and bigint have them.
#[test]
fn accounts_are_named_by_columns_of_each_type() {
    let (_database, mut client) = stage();
    run(
        &mut client,
        "SELECT entitlements.subscribe('42', 'free'), entitlements.subscribe('-7', 'free'),
                entitlements.subscribe('00000000-0000-0000-0000-00000000002a', 'free');
         CREATE DOMAIN account_key AS text CHECK (value <> ''); CREATE DOMAIN number AS bigint",
    );
    let nobody = "-7 0, 00000000-0000-0000-0000-00000000002a 0, 42 0, a 0, b 0";
    for (kind, key, other) in [
        ("text", "a", "b"),
        ("varchar(40)", "a", "b"),
        ("account_key", "a", "b"),
        ("uuid", "00000000-0000-0000-0000-00000000002A", "00000000-0000-0000-0000-00000000002b"),
        ("bigint", "42", "43"),
        ("integer", "-7", "7"),
        ("number", "42", "43"),
    ] {
        // A column that is gone before it, and one that came later with a default, which older rows do not store.
        run(
            &mut client,
            &format!(
                "CREATE TABLE projects (gone text, account {kind}); ALTER TABLE projects DROP COLUMN gone;
                 INSERT INTO projects VALUES ('{key}'); ALTER TABLE projects ADD COLUMN state text DEFAULT 'live'"
            ),
        );
        for condition in [None, Some("state = 'live'")] {
            limit(&mut client, "projects", condition);
            run(&mut client, &format!("INSERT INTO projects VALUES ('{key}'), ('{key}')"));
            let counted: String = one(
                &mut client,
                "SELECT trim_scale((entitlements.check_access(lower($1), 'projects')).used)::text",
                &[&key],
            );
            assert_eq!(counted, "3", "{kind}");
            refuse(&mut client, "NE002", &format!("INSERT INTO projects VALUES ('{key}')"));
            if other != "b" {
                refuse(&mut client, "NE001", &format!("INSERT INTO projects VALUES ('{other}')"));
            }
            run(
                &mut client,
                "SELECT entitlements.unlimit_rows('projects'); DELETE FROM projects WHERE ctid <> (SELECT min(ctid) FROM projects)",
            );
            assert_used(&mut client, nobody);
        }
        run(&mut client, "DROP TABLE projects");
    }
}

#[test]
fn rows_count_while_the_condition_holds() {
    let (_database, mut client) = stage();
    run(&mut client, "CREATE TABLE projects (id integer PRIMARY KEY, account text, deleted_at timestamptz)");
    run(&mut client, "INSERT INTO projects VALUES (1, 'a', NULL), (2, 'a', now()), (3, NULL, now())");
    assert_eq!(limit(&mut client, "projects", Some("deleted_at IS NULL -- and no more")), 1);
    run(&mut client, "INSERT INTO projects VALUES (4, 'a', NULL), (5, 'a', now()), (6, 'b', NULL)");
    assert_used(&mut client, "a 2, b 1");
    run(&mut client, "UPDATE projects SET deleted_at = now() WHERE id = 1");
    assert_used(&mut client, "a 1, b 1");
    run(&mut client, "UPDATE projects SET deleted_at = NULL WHERE id IN (1, 2)");
    assert_used(&mut client, "a 3, b 1");
    refuse(&mut client, "NE002", "UPDATE projects SET deleted_at = NULL WHERE id = 5");
    refuse(&mut client, "NE001", "UPDATE projects SET deleted_at = NULL WHERE id = 3");
    run(&mut client, "DELETE FROM projects WHERE account = 'a'");
    assert_used(&mut client, "a 0, b 1");
    run(&mut client, "TRUNCATE projects");
    assert_used(&mut client, "a 0, b 0");
}

#[test]
fn a_table_can_be_limited_by_several_features_and_a_feature_limit_several_tables() {
    let (_database, mut client) = stage();
    run(&mut client, "CREATE TABLE projects (account text, site boolean); CREATE TABLE more (account text)");
    limit(&mut client, "projects", None);
    limit(&mut client, "more", None);
    run(&mut client, "SELECT entitlements.limit_rows('projects', 'account', 'sites', 'site')");
    run(&mut client, "INSERT INTO projects VALUES ('a', true), ('a', false); INSERT INTO more VALUES ('a')");
    refuse(&mut client, "NE002", "INSERT INTO more VALUES ('a')");
    assert_used(&mut client, "a 3, b 0");
    run(&mut client, "DELETE FROM projects WHERE NOT site; INSERT INTO projects VALUES ('a', true)");
    assert_used(&mut client, "a 3, b 0");
    run(&mut client, "DELETE FROM more");
    refuse(&mut client, "NE002", "INSERT INTO projects VALUES ('a', true)");
    run(&mut client, "INSERT INTO projects VALUES ('a', false)");
    assert_eq!(one::<i64>(&mut client, "SELECT entitlements.unlimit_rows('projects', 'sites')", &[]), 2);
    assert_used(&mut client, "a 3, b 0");
    assert_eq!(one::<i64>(&mut client, "SELECT entitlements.unlimit_rows('projects')", &[]), 3);
    assert_used(&mut client, "a 0, b 0");
}

/// A replicated server and its subscription, which need to be taken down in order.
struct Subscription {
    from: Client,
    to: Client,
    slot: String,
}

impl Subscription {
    fn new(from: &Database, to: &Database) -> Self {
        let slot = to.name().to_owned();
        let (mut source, mut target) = (from.connect(), to.connect());
        one::<String>(
            &mut source,
            "SELECT slot_name::text FROM pg_create_logical_replication_slot($1::text, 'pgoutput')",
            &[&slot],
        );
        let (host, port) = (std::env::var("PGHOST").expect("set"), std::env::var("PGPORT").expect("set"));
        run(
            &mut target,
            &format!(
                "CREATE SUBSCRIPTION {slot} CONNECTION 'host={host} port={port} user=postgres dbname={}' PUBLICATION everything
                   WITH (create_slot = false, slot_name = '{slot}')",
                from.name()
            ),
        );
        Self { from: source, to: target, slot }
    }

    /// Until the tables are copied and what was committed is applied.
    fn catch_up(&mut self) {
        let end = Instant::now() + Duration::from_secs(30);
        let written: String = one(&mut self.from, "SELECT pg_current_wal_lsn()::text", &[]);
        let is_copied = "SELECT count(*) = 0 FROM pg_subscription_rel WHERE srsubstate <> 'r'";
        let is_applied = "SELECT coalesce(confirmed_flush_lsn >= $2::text::pg_lsn, false) FROM pg_replication_slots WHERE slot_name = $1::text";
        while !one::<bool>(&mut self.to, is_copied, &[]) || !one::<bool>(&mut self.from, is_applied, &[&self.slot, &written])
        {
            assert!(Instant::now() < end, "the subscriber follows");
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let slot = &self.slot;
        for command in ["DISABLE", "SET (slot_name = NONE)"] {
            let _ = self.to.batch_execute(&format!("ALTER SUBSCRIPTION {slot} {command}"));
        }
        let _ = self.to.batch_execute(&format!("DROP SUBSCRIPTION {slot}"));
        for _ in 0..100 {
            if self.from.batch_execute(&format!("SELECT pg_drop_replication_slot('{slot}')")).is_ok() {
                break;
            }
            sleep(Duration::from_millis(50));
        }
    }
}

/// For logical replication fires no triggers of statements. What it brings was decided where it comes from.
#[test]
fn replicated_rows_are_counted_whatever_the_limit() {
    let (publisher, subscriber) = (Database::new(), Database::new());
    let mut source = set(&publisher);
    let mut target = set(&subscriber);
    let tables = "CREATE TABLE projects (id integer PRIMARY KEY, account text, gone boolean DEFAULT false);
        CREATE TABLE parted (id integer PRIMARY KEY, account text) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (10); CREATE TABLE high PARTITION OF parted FOR VALUES FROM (10) TO (20);
        ALTER TABLE projects REPLICA IDENTITY FULL; ALTER TABLE low REPLICA IDENTITY FULL; ALTER TABLE high REPLICA IDENTITY FULL";
    run(&mut source, tables);
    run(
        &mut source,
        "INSERT INTO projects VALUES (1, 'a'), (2, 'a'), (3, 'a'), (4, 'a'), (5, 'b'), (6, 'nobody'); INSERT INTO projects VALUES (7, 'a', true)",
    );
    run(&mut source, "CREATE PUBLICATION everything FOR TABLE projects, parted WITH (publish_via_partition_root = true)");
    run(&mut target, tables);
    limit(&mut target, "projects", Some("NOT gone"));
    limit(&mut target, "parted", None);
    let mut subscription = Subscription::new(&publisher, &subscriber);
    subscription.catch_up();
    assert_eq!(crate::stage::used(&mut target), "a 4, b 1");
    run(&mut source, "INSERT INTO parted VALUES (1, 'b'), (11, 'b'), (12, 'a'); UPDATE parted SET id = 13 WHERE id = 1");
    subscription.catch_up();
    assert_eq!(crate::stage::used(&mut target), "a 5, b 3");
    run(
        &mut source,
        "UPDATE projects SET account = 'b' WHERE id = 1; UPDATE projects SET gone = true WHERE id = 2; DELETE FROM projects WHERE id IN (3, 6);
         UPDATE parted SET account = 'b' WHERE id = 12",
    );
    subscription.catch_up();
    assert_used(&mut target, "a 1, b 5");
    refuse(&mut target, "NE002", "INSERT INTO projects VALUES (100, 'b')");
    run(&mut target, "INSERT INTO projects VALUES (100, 'a')");
    run(&mut source, "TRUNCATE projects");
    subscription.catch_up();
    assert_used(&mut target, "a 0, b 3");
    run(&mut source, "TRUNCATE parted");
    subscription.catch_up();
    assert_used(&mut target, "a 0, b 0");
}
