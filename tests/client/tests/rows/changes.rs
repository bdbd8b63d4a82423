//! What happens to limited tables themselves, and what cannot be limited.

use crate::stage::{assert_counted, assert_used, limit, refuse, refuse_limit, run, stage, used};
use entitlements_client_tests::{Database, one, row};
use postgres::Client;
use std::process::Command;

#[test]
fn partitions_count_wherever_a_row_comes_in() {
    let (_database, mut client) = stage();
    run(
        &mut client,
        "CREATE TABLE projects (id integer, account text) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF projects FOR VALUES FROM (0) TO (10);
         CREATE TABLE middle PARTITION OF projects FOR VALUES FROM (10) TO (20) PARTITION BY LIST (account);
         CREATE TABLE middle_a PARTITION OF middle FOR VALUES IN ('a');
         INSERT INTO projects VALUES (1, 'a'), (11, 'a')",
    );
    assert_eq!(limit(&mut client, "projects", None), 2);
    run(&mut client, "INSERT INTO low VALUES (2, 'b')");
    assert_used(&mut client, "a 2, b 1");
    refuse(&mut client, "NE002", "INSERT INTO projects VALUES (3, 'a'), (12, 'a')");
    refuse(&mut client, "NE002", "INSERT INTO middle_a VALUES (12, 'a'), (13, 'a')");
    run(&mut client, "INSERT INTO middle VALUES (12, 'a')");
    refuse(&mut client, "NE002", "INSERT INTO low VALUES (3, 'a')");
    assert_used(&mut client, "a 3, b 1");
    // From one partition to another, and at the same time from one account to another.
    run(&mut client, "UPDATE projects SET id = 3 WHERE id = 12");
    assert_used(&mut client, "a 3, b 1");
    run(&mut client, "UPDATE projects SET id = 4, account = 'b' WHERE id = 3; UPDATE middle SET id = 14 WHERE id = 11");
    assert_used(&mut client, "a 2, b 2");
    run(&mut client, "DELETE FROM projects WHERE id = 4; DELETE FROM middle_a; TRUNCATE low");
    assert_used(&mut client, "a 0, b 0");
    run(&mut client, "INSERT INTO projects VALUES (1, 'a'), (11, 'a'); TRUNCATE projects");
    assert_used(&mut client, "a 0, b 0");
}

#[test]
fn later_partitions_are_limited_too() {
    let (_database, mut client) = stage();
    run(&mut client, "CREATE TABLE projects (id integer, account text) PARTITION BY RANGE (id)");
    limit(&mut client, "projects", None);
    run(&mut client, "CREATE TABLE low PARTITION OF projects FOR VALUES FROM (0) TO (10) PARTITION BY LIST (account)");
    run(&mut client, "CREATE TABLE low_all PARTITION OF low DEFAULT; INSERT INTO low_all VALUES (1, 'a'), (2, 'a')");
    assert_used(&mut client, "a 2, b 0");
    // Columns in another order.
    run(
        &mut client,
        "CREATE TABLE high (account text, id integer); INSERT INTO high VALUES ('a', 10), ('a', 11), ('b', 12)",
    );
    run(&mut client, "ALTER TABLE projects ATTACH PARTITION high FOR VALUES FROM (10) TO (20)");
    assert_used(&mut client, "a 4, b 1");
    refuse(&mut client, "NE002", "INSERT INTO high VALUES ('a', 13)");
    run(&mut client, "DELETE FROM projects WHERE account = 'a' AND id > 1; INSERT INTO projects VALUES (15, 'a')");
    assert_used(&mut client, "a 2, b 1");
    // What is detached stays limited, and is not counted again.
    run(&mut client, "ALTER TABLE projects DETACH PARTITION high; INSERT INTO high VALUES ('b', 13)");
    assert_used(&mut client, "a 2, b 2");
    run(
        &mut client,
        "ALTER TABLE projects ATTACH PARTITION high FOR VALUES FROM (10) TO (20); INSERT INTO projects VALUES (16, 'b')",
    );
    assert_used(&mut client, "a 2, b 3");
    run(
        &mut client,
        "CREATE SCHEMA other CREATE TABLE more PARTITION OF public.projects FOR VALUES FROM (20) TO (30);
         INSERT INTO other.more VALUES (20, 'a')",
    );
    refuse(&mut client, "NE002", "INSERT INTO projects VALUES (21, 'a'), (22, 'b')");
    assert_used(&mut client, "a 3, b 3");
    // Nobody could count these.
    run(&mut client, "CREATE TABLE odd (id integer, account text); INSERT INTO odd VALUES (30, 'nobody')");
    refuse(&mut client, "NE006", "ALTER TABLE projects ATTACH PARTITION odd FOR VALUES FROM (30) TO (40)");
    run(
        &mut client,
        "CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
         CREATE FOREIGN TABLE far (id integer, account text) SERVER nowhere",
    );
    refuse(&mut client, "NE009", "ALTER TABLE projects ATTACH PARTITION far FOR VALUES FROM (40) TO (50)");
    refuse(
        &mut client,
        "NE009",
        "CREATE FOREIGN TABLE farther PARTITION OF projects FOR VALUES FROM (40) TO (50) SERVER nowhere",
    );
    assert_used(&mut client, "a 3, b 3");
    assert_eq!(one::<i64>(&mut client, "SELECT entitlements.unlimit_rows('projects')", &[]), 6);
    assert_eq!(used(&mut client), "a 0, b 0");
    let triggers: i64 = one(&mut client, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'limit%'", &[]);
    assert_eq!(triggers, 0);
}

#[test]
fn the_account_column_may_be_renamed_and_not_be_dropped() {
    let (_database, mut client) = stage();
    run(
        &mut client,
        "CREATE TABLE projects (id integer, account text, gone boolean DEFAULT false) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF projects FOR VALUES FROM (0) TO (10)",
    );
    limit(&mut client, "projects", Some("NOT gone"));
    run(&mut client, "INSERT INTO projects VALUES (1, 'a')");
    run(&mut client, "ALTER TABLE projects RENAME account TO \"Owner of it\"; INSERT INTO projects VALUES (2, 'a')");
    run(&mut client, "INSERT INTO low VALUES (3, 'a')");
    assert_used(&mut client, "a 3, b 0");
    refuse(&mut client, "NE002", "INSERT INTO low VALUES (3, 'a')");
    refuse(&mut client, "NE009", "ALTER TABLE projects DROP COLUMN \"Owner of it\"");
    refuse(&mut client, "NE009", "ALTER TABLE projects ALTER COLUMN \"Owner of it\" TYPE jsonb USING NULL");
    // The condition names it.
    refuse(&mut client, "NE007", "ALTER TABLE projects RENAME gone TO deleted");
    refuse(&mut client, "NE007", "ALTER TABLE projects DROP COLUMN gone");
    run(
        &mut client,
        "ALTER TABLE projects RENAME TO \"the projects\"; ALTER TABLE low SET SCHEMA public; ALTER TABLE low RENAME TO lower",
    );
    run(&mut client, "DELETE FROM \"the projects\" WHERE id = 1; INSERT INTO lower VALUES (4, 'b')");
    assert_used(&mut client, "a 2, b 1");
}

#[test]
fn what_could_not_be_counted_is_refused() {
    let (database, mut client) = stage();
    run(
        &mut client,
        "CREATE TABLE projects (id integer, account text, at timestamptz); CREATE VIEW shown AS SELECT * FROM projects;
         CREATE MATERIALIZED VIEW kept AS SELECT * FROM projects; CREATE TEMP TABLE brief (account text);
         CREATE UNLOGGED TABLE loose (account text); CREATE TABLE heir () INHERITS (projects); CREATE SEQUENCE numbers;
         CREATE TABLE parted (account text) PARTITION BY LIST (account); CREATE TABLE part PARTITION OF parted DEFAULT;
         CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing; CREATE FOREIGN TABLE far (account text) SERVER nowhere",
    );
    for table in [
        "shown",
        "kept",
        "brief",
        "loose",
        "projects",
        "heir",
        "numbers",
        "part",
        "far",
        "pg_class",
        "entitlements.accounts",
        "123456",
    ] {
        refuse_limit(&mut client, "NE007", &format!("'{table}', 'account', 'projects'"));
    }
    run(&mut client, "DROP TABLE heir");
    for call in ["limit_rows('projects', 'account', 'projects')", "unlimit_rows('projects')", "recount_rows()"] {
        refuse(&mut client, "NE009", &format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT entitlements.{call}"));
        run(&mut client, "ROLLBACK");
    }
    for (sqlstate, arguments) in [
        ("NE007", "NULL, 'account', 'projects'"),
        ("NE007", "'projects', NULL, 'projects'"),
        ("NE007", "'projects', 'account', NULL"),
        ("NE007", "'projects', 'nothing', 'projects'"),
        ("NE007", "'projects', 'ctid', 'projects'"),
        ("NE007", "'projects', 'at', 'projects'"),
        ("NE003", "'projects', 'account', 'nothing'"),
        ("NE004", "'projects', 'account', 'sso'"),
        ("NE004", "'projects', 'account', 'calls'"),
        ("NE007", "'projects', 'account', 'projects', 'at < now()'"),
        ("NE007", "'projects', 'account', 'projects', 'random() < 0.5'"),
        ("NE007", "'projects', 'account', 'projects', 'id IN (SELECT 1)'"),
        ("NE007", "'projects', 'account', 'projects', 'true) UNION SELECT (''a'''"),
        ("NE007", "'projects', 'account', 'projects', 'true); DROP TABLE projects; --'"),
        ("NE007", "'projects', 'account', 'projects', 'nothing'"),
        ("NE007", "'projects', 'account', 'projects', 'id IS'"),
        ("NE007", "'projects', 'account', 'projects', 'id'"),
    ] {
        refuse_limit(&mut client, sqlstate, arguments);
    }
    run(&mut client, "INSERT INTO projects VALUES (1, NULL)");
    refuse_limit(&mut client, "NE007", "'projects', 'account', 'projects'");
    run(&mut client, "UPDATE projects SET account = 'nobody'");
    refuse_limit(&mut client, "NE006", "'projects', 'account', 'projects'");
    let triggers: i64 = one(&mut client, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'limit%'", &[]);
    assert_eq!(triggers, 0);
    limit(&mut client, "projects", Some("id > 1"));
    refuse_limit(&mut client, "NE009", "'projects', 'account', 'projects'");
    refuse(&mut client, "NE009", "CREATE TABLE heir () INHERITS (projects)");
    refuse(&mut client, "NE009", "CREATE TABLE heir (LIKE projects); ALTER TABLE heir INHERIT projects");
    refuse(&mut client, "NE009", "ALTER TABLE projects SET UNLOGGED");
    // Rows that come in through the table above would not be counted.
    run(&mut client, "SELECT entitlements.unlimit_rows('projects'); CREATE TABLE single (account text)");
    limit(&mut client, "single", None);
    run(&mut client, "ALTER TABLE parted DETACH PARTITION part");
    refuse(&mut client, "NE009", "ALTER TABLE parted ATTACH PARTITION single DEFAULT");
    // Somebody else's table.
    let role = format!("{}_other", database.name());
    run(
        &mut client,
        &format!(
            "CREATE ROLE {role}; GRANT USAGE ON SCHEMA entitlements TO {role}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA entitlements TO {role}; SET ROLE {role}"
        ),
    );
    refuse_limit(&mut client, "NE007", "'public.projects', 'account', 'projects'");
    refuse(&mut client, "NE007", "SELECT entitlements.unlimit_rows('public.single')");
    run(&mut client, &format!("RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// The condition is the table owner's: it runs with the owner's rights, whoever recounts or inserts, and whatever they have
/// put in the way.
#[test]
fn a_condition_runs_as_the_owner_of_the_table() {
    let (database, mut client) = stage();
    let (owner, writer) = (format!("{}_o", database.name()), format!("{}_w", database.name()));
    run(
        &mut client,
        &format!(
            "CREATE ROLE {owner}; CREATE ROLE {writer}; GRANT USAGE ON SCHEMA entitlements TO {owner};
             GRANT EXECUTE ON FUNCTION entitlements.limit_rows TO {owner}; CREATE SCHEMA app AUTHORIZATION {owner}; SET ROLE {owner};
             CREATE TABLE app.projects (account text, state text);
             CREATE FUNCTION app.is_live(state text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
               BEGIN IF current_user <> '{owner}' THEN RAISE 'as %', current_user; END IF; RETURN state = 'live'; END $$;
             REVOKE ALL ON FUNCTION app.is_live FROM PUBLIC;
             SELECT entitlements.limit_rows('app.projects', 'account', 'projects', 'app.is_live(state)');
             GRANT USAGE ON SCHEMA app TO {writer}; GRANT INSERT ON app.projects TO {writer}; RESET ROLE;
             CREATE SCHEMA trap AUTHORIZATION {writer}; SET ROLE {writer};
             CREATE FUNCTION trap.never(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN false;
             CREATE OPERATOR trap.= (FUNCTION = trap.never, LEFTARG = text, RIGHTARG = text);
             SET search_path = trap, pg_catalog; INSERT INTO app.projects VALUES ('a', 'live'), ('a', 'gone')"
        ),
    );
    refuse(&mut client, "NE002", "INSERT INTO app.projects SELECT 'a', 'live' FROM generate_series(1, 3)");
    run(&mut client, "RESET ROLE; RESET search_path");
    assert_used(&mut client, "a 1, b 0");
    run(&mut client, &format!("DROP OWNED BY {writer}, {owner} CASCADE; DROP ROLE {writer}, {owner}"));
}

#[test]
fn a_recount_repairs_what_was_done_without_the_triggers() {
    let (_database, mut client) = stage();
    run(&mut client, "CREATE TABLE projects (account text, gone boolean DEFAULT false)");
    limit(&mut client, "projects", Some("NOT gone"));
    run(
        &mut client,
        "INSERT INTO projects VALUES ('a'), ('b'); SELECT entitlements.define_account('child', 'a');
         ALTER TABLE projects DISABLE TRIGGER USER; INSERT INTO projects VALUES ('a'), ('a'), ('a'), ('nobody'), ('child'); INSERT INTO projects VALUES ('a', true);
         DELETE FROM projects WHERE account = 'b'; ALTER TABLE projects ENABLE TRIGGER USER",
    );
    let recount = |client: &mut Client, repair: bool| -> Vec<String> {
        let found = client.query(
            "SELECT concat_ws(' ', account, rows, counted, repaired) FROM entitlements.recount_rows('projects', $1) ORDER BY account COLLATE \"C\"",
            &[&repair],
        );
        found.expect("it recounts").iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(recount(&mut client, false), ["a 5 1 f", "b 0 1 f", "nobody 1 0 f"]);
    assert_eq!(recount(&mut client, true), ["a 5 1 t", "b 0 1 t", "nobody 1 0 f"]);
    assert_eq!(recount(&mut client, true), ["nobody 1 0 f"]);
    assert_eq!(used(&mut client), "a 5, b 0, child 5");
    refuse(&mut client, "NE002", "INSERT INTO projects VALUES ('child')");
    run(&mut client, "DELETE FROM projects WHERE account = 'nobody'");
    assert_counted(&mut client);
    let audited = row(
        &mut client,
        "SELECT count(*) FILTER (WHERE action = 'recount_rows'), count(*) FILTER (WHERE action = 'limit_rows'), count(*) FROM entitlements.audit_log
          WHERE action LIKE '%rows'",
        &[],
    );
    assert_eq!((audited.get::<_, i64>(0), audited.get::<_, i64>(1), audited.get::<_, i64>(2)), (2, 1, 3));
    // Without the table there is nothing to count by, but what it has counted.
    run(&mut client, "DROP TABLE projects");
    assert_eq!(used(&mut client), "a 5, b 0, child 5");
    let rest: String = one(
        &mut client,
        "SELECT (recount).counted || ' ' || ((recount).tables IS NULL) FROM entitlements.recount_rows(of_feature => 'projects') AS recount",
        &[],
    );
    assert_eq!(rest, "5 true");
    assert_eq!(used(&mut client), "a 0, b 0, child 0");
}

/// As `pg_restore --data-only --disable-triggers` leaves a table.
#[test]
fn triggers_that_are_enabled_in_bulk_count_once() {
    let (_database, mut client) = stage();
    run(&mut client, "CREATE TABLE projects (account text)");
    limit(&mut client, "projects", None);
    const ENABLED: &str = "SELECT string_agg(right(tgname, 8) || tgenabled::text, ' ' ORDER BY tgname) FROM pg_trigger WHERE tgname LIKE 'limit%'";
    let enabled: String = one(&mut client, ENABLED, &[]);
    for all in ["ALL", "USER"] {
        run(&mut client, &format!("ALTER TABLE projects DISABLE TRIGGER {all}; ALTER TABLE projects ENABLE TRIGGER {all}"));
        assert_eq!(one::<String>(&mut client, ENABLED, &[]), enabled);
    }
    run(&mut client, "ALTER TABLE projects ENABLE ALWAYS TRIGGER limit_rows_projects_insert");
    assert_eq!(one::<String>(&mut client, ENABLED, &[]), enabled);
    run(&mut client, "INSERT INTO projects VALUES ('a')");
    run(
        &mut client,
        "SET session_replication_role = replica; INSERT INTO projects VALUES ('a'); RESET session_replication_role",
    );
    assert_used(&mut client, "a 2, b 0");
    // Who is superuser may have done it so that nobody puts it back.
    run(
        &mut client,
        "SET session_replication_role = replica; ALTER TABLE projects ENABLE TRIGGER USER;
         ALTER TABLE projects ENABLE ALWAYS TRIGGER limit_rows_projects_insert; RESET session_replication_role",
    );
    assert_ne!(one::<String>(&mut client, ENABLED, &[]), enabled);
    run(&mut client, "INSERT INTO projects VALUES ('a')");
    refuse(&mut client, "NE002", "INSERT INTO projects VALUES ('a')");
    assert_used(&mut client, "a 3, b 0");
}

#[test]
fn partitions_that_a_crash_would_empty_are_refused() {
    let (_database, mut client) = stage();
    run(
        &mut client,
        "CREATE TABLE projects (id integer, account text) PARTITION BY RANGE (id);
         CREATE UNLOGGED TABLE low PARTITION OF projects FOR VALUES FROM (0) TO (10)",
    );
    refuse_limit(&mut client, "NE009", "'projects', 'account', 'projects'");
    run(&mut client, "ALTER TABLE low SET LOGGED");
    limit(&mut client, "projects", None);
    refuse(&mut client, "NE009", "CREATE UNLOGGED TABLE high PARTITION OF projects FOR VALUES FROM (10) TO (20)");
    refuse(&mut client, "NE009", "ALTER TABLE low SET UNLOGGED");
    run(&mut client, "CREATE UNLOGGED TABLE loose (id integer, account text)");
    refuse(&mut client, "NE009", "ALTER TABLE projects ATTACH PARTITION loose FOR VALUES FROM (10) TO (20)");
    // One that became so behind the extension's back is nobody's concern but of who works on it.
    run(
        &mut client,
        "SET session_replication_role = replica; ALTER TABLE low SET UNLOGGED; RESET session_replication_role;
         CREATE TABLE other (id integer); ALTER TABLE other ADD COLUMN name text; CREATE TEMP TABLE brief (id integer)",
    );
    refuse(&mut client, "NE009", "ALTER TABLE low ADD CHECK (id > 0)");
}

#[test]
fn a_limit_that_is_broken_can_be_ended() {
    let (_database, mut client) = stage();
    run(
        &mut client,
        "CREATE DOMAIN label AS text; CREATE TYPE state AS ENUM ('live', 'gone');
         CREATE FUNCTION is_live(state) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN $1 = 'live';
         CREATE TABLE by_domain (account label); CREATE TABLE by_function (account text, state state); CREATE TABLE by_literal (LIKE by_function)",
    );
    limit(&mut client, "by_domain", None);
    limit(&mut client, "by_function", Some("public.is_live(state)"));
    limit(&mut client, "by_literal", Some("state = 'live'"));
    run(
        &mut client,
        "INSERT INTO by_domain VALUES ('a'); INSERT INTO by_function VALUES ('a', 'live'); INSERT INTO by_literal VALUES ('a', 'live'), ('b', 'live');
         DROP DOMAIN label CASCADE; DROP FUNCTION is_live; ALTER TYPE state RENAME VALUE 'live' TO 'alive'",
    );
    refuse(&mut client, "NE009", "INSERT INTO by_domain DEFAULT VALUES");
    refuse(&mut client, "42883", "INSERT INTO by_function VALUES ('b', 'gone')");
    refuse(&mut client, "22P02", "INSERT INTO by_literal VALUES ('b', 'gone')");
    run(&mut client, "CREATE TABLE other (id integer)");
    for table in ["by_domain", "by_function", "by_literal"] {
        assert_eq!(one::<i64>(&mut client, &format!("SELECT entitlements.unlimit_rows('{table}')"), &[]), 0);
    }
    run(&mut client, "INSERT INTO by_function VALUES ('b', 'gone'); INSERT INTO by_literal VALUES ('b', 'gone')");
    assert_eq!(used(&mut client), "a 3, b 1");
    run(&mut client, "SELECT entitlements.recount_rows(of_feature => 'projects')");
    assert_eq!(used(&mut client), "a 0, b 0");
}

#[test]
fn what_changes_in_all_rows_what_is_counted_is_refused() {
    let (_database, mut client) = stage();
    run(
        &mut client,
        "CREATE TABLE projects (id integer, account text, gone boolean DEFAULT false, name text) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF projects FOR VALUES FROM (0) TO (10)",
    );
    limit(&mut client, "projects", Some("NOT gone"));
    run(&mut client, "INSERT INTO projects VALUES (1, 'a'), (2, 'a')");
    for change in [
        "ALTER account TYPE text USING 'b'",
        "ALTER gone TYPE boolean USING NOT gone",
        "DROP gone, ADD gone boolean DEFAULT true",
        "DROP account, ADD account text DEFAULT 'b'",
    ] {
        refuse(&mut client, "NE009", &format!("ALTER TABLE projects {change}"));
    }
    assert_used(&mut client, "a 2, b 0");
    // The rest is no concern of the limit, nor what leaves the values as they are.
    run(
        &mut client,
        "ALTER TABLE projects ALTER name TYPE varchar USING upper(name), ADD at timestamptz DEFAULT clock_timestamp();
         ALTER TABLE projects ALTER account TYPE varchar",
    );
    run(
        &mut client,
        "BEGIN; SELECT entitlements.unlimit_rows('projects'); ALTER TABLE projects ALTER account TYPE text USING 'b';
         SELECT entitlements.limit_rows('projects', 'account', 'projects', 'NOT gone'); COMMIT",
    );
    assert_used(&mut client, "a 0, b 2");
    run(
        &mut client,
        "CREATE TABLE plain (account text); CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
         CREATE FOREIGN TABLE far (account text) SERVER nowhere",
    );
    limit(&mut client, "plain", None);
    refuse(&mut client, "NE009", "ALTER FOREIGN TABLE far INHERIT plain");
    let version: i32 = one(&mut client, "SELECT current_setting('server_version_num')::integer", &[]);
    if version >= 170_000 {
        run(&mut client, "CREATE TABLE computed (account text, gone boolean GENERATED ALWAYS AS (account IS NULL) STORED)");
        limit(&mut client, "computed", Some("NOT gone"));
        refuse(&mut client, "NE009", "ALTER TABLE computed ALTER gone SET EXPRESSION AS (account IS NOT NULL)");
    }
    if version >= 180_000 {
        run(
            &mut client,
            "CREATE TABLE virtual (account text, gone boolean GENERATED ALWAYS AS (account IS NULL) VIRTUAL,
                                   other text GENERATED ALWAYS AS (account || 'x') VIRTUAL)",
        );
        refuse_limit(&mut client, "NE007", "'virtual', 'account', 'projects', 'NOT gone'");
        refuse_limit(&mut client, "NE007", "'virtual', 'account', 'projects', 'virtual IS NOT NULL'");
        refuse_limit(&mut client, "NE007", "'virtual', 'other', 'projects'");
    }
}

#[test]
fn limiting_again_mends_what_is_gone() {
    let (_database, mut client) = stage();
    run(
        &mut client,
        "CREATE TABLE projects (id integer, account text) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF projects FOR VALUES FROM (0) TO (10)",
    );
    limit(&mut client, "projects", None);
    const TRIGGERS: &str =
        "SELECT string_agg(pg_get_triggerdef(oid) || tgenabled::text, E'\n' ORDER BY tgrelid::regclass::text, tgname)
        FROM pg_trigger WHERE tgname LIKE 'limit%'";
    let triggers: String = one(&mut client, TRIGGERS, &[]);
    for damage in [
        "DROP TRIGGER limit_rows_projects_insert ON projects",
        "DROP TRIGGER limit_rows_projects_delete ON low; DROP TRIGGER limit_rows_projects_truncate ON low",
        "ALTER TABLE low DISABLE TRIGGER ALL",
        "ALTER TABLE projects DISABLE TRIGGER limit_rows_projects_update",
    ] {
        run(&mut client, damage);
        assert_ne!(one::<String>(&mut client, TRIGGERS, &[]), triggers, "{damage}");
        assert_eq!(limit(&mut client, "projects", None), 0);
        assert_eq!(one::<String>(&mut client, TRIGGERS, &[]), triggers, "{damage}");
    }
    let audited: i64 = one(&mut client, "SELECT count(*) FROM entitlements.audit_log WHERE action = 'limit_rows'", &[]);
    assert_eq!(audited, 5);
    assert_eq!(limit(&mut client, "projects", None), 0);
    let audited: i64 = one(&mut client, "SELECT count(*) FROM entitlements.audit_log WHERE action = 'limit_rows'", &[]);
    assert_eq!(audited, 5);
    run(&mut client, "INSERT INTO projects VALUES (1, 'a')");
    assert_used(&mut client, "a 1, b 0");
}

/// pg_dump sorts triggers by the schema of their table: those of partitions come before or after those of the whole.
#[test]
fn a_dump_of_partitions_in_other_schemas_can_be_restored() {
    let (database, mut client) = stage();
    run(
        &mut client,
        "CREATE SCHEMA first; CREATE SCHEMA second; CREATE SCHEMA third;
         CREATE TABLE second.projects (id integer, account text, gone boolean DEFAULT false, owner integer) PARTITION BY RANGE (id);
         CREATE TABLE first.low PARTITION OF second.projects FOR VALUES FROM (0) TO (10);
         CREATE TABLE third.middle PARTITION OF second.projects FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
         CREATE TABLE first.middle PARTITION OF third.middle FOR VALUES FROM (10) TO (20);
         CREATE TABLE third.high PARTITION OF second.projects FOR VALUES FROM (20) TO (30);
         CREATE TABLE owners (id integer PRIMARY KEY); ALTER TABLE second.projects ADD FOREIGN KEY (owner) REFERENCES owners;
         CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER always AFTER INSERT ON second.projects FOR EACH STATEMENT EXECUTE FUNCTION nothing();
         ALTER TABLE second.projects ENABLE ALWAYS TRIGGER always",
    );
    limit(&mut client, "second.projects", Some("NOT gone"));
    run(
        &mut client,
        "INSERT INTO second.projects VALUES (1, 'a', false), (11, 'a', true), (12, 'b', false), (21, 'b', false)",
    );
    assert_used(&mut client, "a 1, b 2");
    const TRIGGERS: &str =
        "SELECT string_agg(pg_get_triggerdef(oid) || tgenabled::text, E'\n' ORDER BY tgrelid::regclass::text, tgname)
        FROM pg_trigger WHERE tgname LIKE 'limit%'";
    let triggers: String = one(&mut client, TRIGGERS, &[]);
    for restore in [
        "pg_dump FROM | psql -X -q -v ON_ERROR_STOP=1 -o /dev/null TO",
        "pg_dump FROM | psql -X -q -1 -v ON_ERROR_STOP=1 -o /dev/null TO",
        "F=$(mktemp); trap 'rm $F' EXIT; pg_dump -Fc -f $F FROM; R='pg_restore -e -d TO'; $R --section=pre-data --section=data $F && $R -j 4 --section=post-data $F",
    ] {
        let restored = Database::bare();
        let copy = restore.replace("FROM", database.name()).replace("TO", restored.name());
        let done = Command::new("bash").args(["-c", &format!("set -o pipefail; {copy}")]).output().expect("bash runs");
        assert!(done.status.success(), "{copy}: {}", String::from_utf8_lossy(&done.stderr));
        let mut client = restored.connect();
        assert_eq!(one::<String>(&mut client, TRIGGERS, &[]), triggers, "{copy}");
        assert_used(&mut client, "a 1, b 2");
    }
}

#[test]
fn a_dump_brings_limits_and_counts_back() {
    let (database, mut client) = stage();
    run(
        &mut client,
        "CREATE TABLE projects (id integer, account text, gone boolean DEFAULT false) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF projects FOR VALUES FROM (0) TO (10); CREATE TABLE plain (account text)",
    );
    limit(&mut client, "projects", Some("NOT gone"));
    limit(&mut client, "plain", None);
    run(&mut client, "INSERT INTO projects VALUES (1, 'a', false), (2, 'a', true); INSERT INTO plain VALUES ('a'), ('b')");
    const TRIGGERS: &str =
        "SELECT string_agg(pg_get_triggerdef(oid) || tgenabled::text, E'\\n' ORDER BY tgrelid::regclass::text, tgname)
        FROM pg_trigger WHERE tgname LIKE 'limit%'";
    let triggers: String = one(&mut client, TRIGGERS, &[]);
    let restored = Database::bare();
    let copy = format!("pg_dump {} | psql -X -q -v ON_ERROR_STOP=1 -o /dev/null {}", database.name(), restored.name());
    let done = Command::new("bash").args(["-c", &format!("set -o pipefail; {copy}")]).output().expect("bash runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let mut client = restored.connect();
    assert_eq!(one::<String>(&mut client, TRIGGERS, &[]), triggers);
    assert_used(&mut client, "a 2, b 1");
    run(
        &mut client,
        "INSERT INTO low VALUES (3, 'a'); CREATE TABLE high PARTITION OF projects FOR VALUES FROM (10) TO (20)",
    );
    refuse(&mut client, "NE002", "INSERT INTO high VALUES (11, 'a')");
    assert_used(&mut client, "a 3, b 1");
}
