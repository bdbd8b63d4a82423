//! Whose tables are limited, and with whose rights a condition runs.

use crate::stage::{assert_used, limit, refuse, run, stage};
use entitlements_client_tests::{Role, one};
use postgres::Client;

fn triggers(client: &mut Client) -> i64 {
    one(client, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'limit%'", &[])
}

/// Who may limit tables of its own lets others run what limits one of theirs: VACUUM and ANALYZE, which run expressions of
/// an index, refreshing a materialized view, a function that runs as its owner.
#[test]
fn nobody_limits_tables_of_others_in_somebody_elses_work() {
    let (database, mut client) = stage();
    let attacker = Role::new(database);
    let name = attacker.name();
    run(
        &mut client,
        &format!(
            "CREATE TABLE victim (account text); INSERT INTO victim VALUES ('a'); CREATE TABLE limited (account text);
             SELECT entitlements.limit_rows('limited', 'account', 'projects'); SELECT entitlements.grant_access('{name}', 'catalog');
             CREATE SCHEMA evil AUTHORIZATION {name}"
        ),
    );
    let before = triggers(&mut client);
    run(
        &mut attacker.connect(),
        "CREATE TABLE evil.loot (who text); CREATE TABLE evil.own (account text);
         CREATE FUNCTION evil.note() RETURNS boolean LANGUAGE sql VOLATILE BEGIN ATOMIC INSERT INTO evil.loot VALUES (CURRENT_USER); SELECT true; END;
         CREATE FUNCTION evil.f(account text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN evil.note(); END $$;
         CREATE FUNCTION evil.trap(account text) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN 1; END $$;
         CREATE TABLE evil.bait (account text); CREATE INDEX ON evil.bait (evil.trap(account)); INSERT INTO evil.bait VALUES ('x');
         CREATE MATERIALIZED VIEW evil.m AS SELECT evil.trap(account) FROM evil.bait;
         CREATE FUNCTION evil.definer() RETURNS integer LANGUAGE sql SECURITY DEFINER AS $$ SELECT evil.trap('x') $$;
         GRANT USAGE ON SCHEMA evil TO PUBLIC",
    );
    for call in [
        "limit_rows('public.victim', 'account', 'projects', 'evil.f(account)')",
        "unlimit_rows('public.limited')",
        "limit_rows('evil.own', 'account', 'projects')",
    ] {
        run(
            &mut attacker.connect(),
            &format!(
                "CREATE OR REPLACE FUNCTION evil.trap(account text) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS
                   $$ BEGIN PERFORM entitlements.{call}; RETURN 1; END $$"
            ),
        );
        refuse(&mut client, "NE007", "ANALYZE evil.bait");
        refuse(&mut client, "NE007", "REFRESH MATERIALIZED VIEW evil.m");
        // Its own table is what a function of its own may limit.
        if !call.contains("evil.own") {
            refuse(&mut client, "NE007", "SELECT evil.definer()");
        }
    }
    assert_eq!(triggers(&mut client), before);
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM evil.loot", &[]), 0);
    run(&mut client, "SELECT evil.definer()");
    assert_eq!(triggers(&mut client), before + 5);
    run(&mut client, &format!("DROP OWNED BY {name} CASCADE"));
}

/// A condition runs as the owner of the table: a partition that is somebody else's would lend that role's rights to it.
#[test]
fn a_condition_does_not_run_as_the_owner_of_a_partition() {
    let (database, mut client) = stage();
    let owner = Role::new(database);
    let name = owner.name();
    run(
        &mut client,
        &format!("SELECT entitlements.grant_access('{name}', 'catalog'); CREATE SCHEMA app AUTHORIZATION {name}"),
    );
    run(
        &mut owner.connect(),
        "CREATE TABLE app.projects (id integer, account text) PARTITION BY RANGE (id);
         CREATE FUNCTION app.f(account text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
           $$ BEGIN IF CURRENT_USER = 'postgres' THEN RAISE 'got it'; END IF; RETURN true; END $$;
         SELECT entitlements.limit_rows('app.projects', 'account', 'projects', 'app.f(account)')",
    );
    let low = "CREATE TABLE app.low PARTITION OF app.projects FOR VALUES FROM (0) TO (10)";
    refuse(&mut client, "NE009", low);
    run(
        &mut client,
        &format!(
            "CREATE TABLE app.low (LIKE app.projects); INSERT INTO app.low VALUES (1, 'a'); ALTER TABLE app.low OWNER TO {name};
             ALTER TABLE app.projects ATTACH PARTITION app.low FOR VALUES FROM (0) TO (10); INSERT INTO app.projects VALUES (2, 'a')"
        ),
    );
    assert_used(&mut client, "a 2, b 0");
    run(&mut client, &format!("DROP OWNED BY {name} CASCADE"));
}

/// Row security that binds the owner too is no matter of a condition that runs as the owner.
#[test]
fn a_condition_goes_with_row_security_that_binds_the_owner() {
    let (database, mut client) = stage();
    let owner = Role::new(database);
    let name = owner.name();
    run(
        &mut client,
        &format!("SELECT entitlements.grant_access('{name}', 'catalog'); CREATE SCHEMA app AUTHORIZATION {name}"),
    );
    let mut own = owner.connect();
    for (number, protect_first) in [(1, true), (2, false)] {
        let table = format!("app.t{number}");
        run(&mut own, &format!("CREATE TABLE {table} (account text, deleted_at timestamptz)"));
        let protect = format!("SELECT entitlements.protect_table('{table}', 'account', 'sso', force => true)");
        if protect_first {
            run(&mut own, &protect);
        }
        limit(&mut own, &table, Some("deleted_at IS NULL"));
        if !protect_first {
            run(&mut own, &protect);
        }
        run(&mut own, &format!("ALTER TABLE {table} ADD COLUMN name text"));
        run(&mut client, &format!("INSERT INTO {table} VALUES ('a'); INSERT INTO {table} VALUES ('b', now())"));
    }
    assert_used(&mut client, "a 2, b 0");
    run(&mut client, &format!("DROP OWNED BY {name} CASCADE"));
}
