//! The ledger of usage and its partitions, and what maintain() does.

use entitlements_client_tests::{self as harness, Database, one};
use postgres::Client;
use std::process::{Command, Stdio};
use std::thread;

const CATALOG: &str = r#"SELECT entitlements.apply_catalog('{
    "features": {"kept": {"kind": "quota", "ledger": true}, "calls": {"kind": "quota", "period": "1 month"}},
    "plans": {"team": {"kind": "base", "features": {"kept": 1000, "calls": 1000}}}}');
    SELECT entitlements.subscribe('acme', 'team')"#;

fn filled() -> (Database, Client) {
    let database = Database::new();
    let mut client = database.connect();
    client.batch_execute(CATALOG).unwrap();
    (database, client)
}

fn lines(client: &mut Client, sql: &str) -> Vec<String> {
    client.query(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}")).iter().map(|row| row.get(0)).collect()
}

fn maintain(client: &mut Client) -> Vec<String> {
    lines(client, "SELECT concat_ws(' ', action, object, count) FROM entitlements.maintain()")
}

/// Events and how many, by where they are: in the default partition, or in that of a month from now.
fn places(client: &mut Client) -> Vec<String> {
    lines(
        client,
        "SELECT concat_ws(' ', CASE WHEN tableoid = 'entitlements.usage_events_rest'::regclass THEN 'rest' ELSE 'month' END, count(*))
           FROM entitlements.usage_events GROUP BY 1 = 1, tableoid ORDER BY 1",
    )
}

/// An event that many days ago.
fn happened(client: &mut Client, days: i32) {
    client
        .query(
            "SELECT entitlements.record_usage(jsonb_build_array(jsonb_build_object('account', 'acme', 'feature', 'kept', 'at', now() - $1 * interval '1 day')))",
            &[&f64::from(days)],
        )
        .unwrap();
}

#[test]
fn each_use_is_kept() {
    let (_database, mut client) = filled();
    client
        .batch_execute(
            "SELECT entitlements.consume('acme', 'kept', 5, 'key', '{\"a\": 1}');
             SELECT entitlements.consume('acme', 'kept', 5, 'key', '{\"a\": 1}');
             SELECT entitlements.consume('acme', 'calls', 5);
             SELECT entitlements.try_consume('acme', 'kept', 5000);
             SELECT entitlements.release('acme', 'kept', 2);
             SELECT * FROM entitlements.consume_many('acme', '{\"kept\": 3, \"calls\": 1}');
             SELECT entitlements.commit_reservation(entitlements.reserve('acme', 'kept', 4, '1 hour', '{\"b\": 2}'), 1.5);
             SELECT entitlements.commit_reservation(entitlements.reserve('acme', 'kept', 4, '1 hour'), 6);
             SELECT entitlements.cancel_reservation(entitlements.reserve('acme', 'kept', 4, '1 hour'));
             SELECT entitlements.record_usage('[{\"account\": \"acme\", \"feature\": \"kept\", \"n\": 7, \"at\": \"2026-01-01T00:00:00Z\", \"idempotency_key\": \"e\", \"metadata\": 3}]')",
        )
        .unwrap();
    client.batch_execute("BEGIN; SELECT entitlements.consume('acme', 'kept'); ROLLBACK").unwrap();
    let kept = lines(
        &mut client,
        "SELECT concat_ws(' ', action, amount, idempotency_key, metadata, role_name) FROM entitlements.usage_events ORDER BY id",
    );
    let user: String = one(&mut client, "SELECT session_user::text", &[]);
    let expected = [
        "consume 5 key {\"a\": 1}",
        "release -2",
        "consume_many 3",
        "commit_reservation 1.5 {\"b\": 2}",
        "commit_reservation 6",
        "record_usage 7 e 3",
    ];
    assert_eq!(kept, expected.map(|line| format!("{line} {user}")));
    // What the ledger keeps adds up to what was used.
    let differs =
        "SELECT (SELECT sum(amount) FROM entitlements.usage_events) - used FROM entitlements.check_access('acme', 'kept')";
    assert_eq!(one::<String>(&mut client, &format!("SELECT ({differs})::text"), &[]), "0.0");
}

/// A ledger has what other features draw of its pool, however they do.
#[test]
fn what_other_features_draw_is_kept() {
    let (_database, mut client) = filled();
    client
        .batch_execute(
            "SELECT entitlements.apply_catalog('{
                \"features\": {\"tokens\": {\"kind\": \"quota\", \"ledger\": true},
                               \"texts\": {\"kind\": \"quota\", \"draws_on\": {\"feature\": \"tokens\", \"cost\": 2.5}},
                               \"images\": {\"kind\": \"quota\", \"ledger\": true, \"draws_on\": {\"feature\": \"tokens\", \"cost\": 10}}},
                \"plans\": {\"ai\": {\"kind\": \"base\", \"features\": {\"tokens\": 1000, \"texts\": \"unlimited\", \"images\": \"unlimited\"}}}}');
             SELECT entitlements.subscribe('acme', 'ai');
             SELECT entitlements.consume('acme', 'tokens', 1), entitlements.consume('acme', 'texts', 2), entitlements.consume('acme', 'images', 3);
             SELECT entitlements.release('acme', 'texts', 1);
             SELECT entitlements.set_usage('acme', 'images', 2, 'counted wrong');
             SELECT * FROM entitlements.consume_many('acme', '{\"texts\": 4, \"images\": 1}');
             SELECT entitlements.commit_reservation(entitlements.reserve('acme', 'images', 4, '1 hour'), 2);
             SELECT entitlements.record_usage('[{\"account\": \"acme\", \"feature\": \"texts\", \"n\": 6, \"metadata\": 7},
                                                {\"account\": \"acme\", \"feature\": \"images\", \"n\": 5}]')",
        )
        .unwrap();
    let kept = lines(
        &mut client,
        "SELECT concat_ws(' ', feature.key, string_agg(concat(action, ' ', trim_scale(amount), ' ' || metadata::text), ', ' ORDER BY event.id))
           FROM entitlements.usage_events AS event JOIN entitlements.features AS feature ON feature.id = event.feature_id
          GROUP BY feature.key ORDER BY feature.key",
    );
    assert_eq!(
        kept,
        [
            "images consume 3, set_usage -1, consume_many 1, commit_reservation 2, record_usage 5",
            "tokens consume 1, consume 5, consume 30, release -2.5, consume_many 10, consume_many 10, commit_reservation 20, record_usage 15 7, record_usage 50",
        ]
    );
    for feature in ["tokens", "images"] {
        let differs = format!(
            "SELECT ((SELECT sum(amount) FROM entitlements.usage_events AS event JOIN entitlements.features AS feature ON feature.id = event.feature_id
                       WHERE feature.key = '{feature}') = used)::text FROM entitlements.check_access('acme', '{feature}')"
        );
        assert_eq!(one::<String>(&mut client, &differs, &[]), "true", "{feature}");
    }
}

#[test]
fn months_get_partitions_and_go_when_they_are_old() {
    let (_database, mut client) = filled();
    client
        .batch_execute("SELECT entitlements.consume('acme', 'kept'); SELECT entitlements.consume('acme', 'kept')")
        .unwrap();
    happened(&mut client, 70);
    assert_eq!(places(&mut client), ["rest 3"]);
    let month = |ahead: i32| {
        format!("SELECT 'usage_events_' || to_char(now() AT TIME ZONE 'UTC' + {ahead} * interval '1 month', 'YYYY_MM')")
    };
    let (this, next): (String, String) = (one(&mut client, &month(0), &[]), one(&mut client, &month(1), &[]));
    // Nothing depends on what the caller has set.
    client.batch_execute("SET TimeZone = 'Pacific/Kiritimati'; SET DateStyle = 'German'").unwrap();
    assert_eq!(maintain(&mut client), [format!("create {this} 2"), format!("create {next} 0")]);
    assert_eq!(places(&mut client), ["month 2", "rest 1"]);
    assert!(maintain(&mut client).is_empty());
    client.batch_execute("RESET TimeZone; RESET DateStyle; SELECT entitlements.consume('acme', 'kept')").unwrap();
    assert_eq!(places(&mut client), ["month 3", "rest 1"]);
    client.batch_execute("SET entitlements.ledger_retention = '69d'").unwrap();
    assert_eq!(maintain(&mut client), ["delete usage_events_rest 1"]);
    // A partition of a month that is over for longer than that.
    client
        .batch_execute(
            "CREATE TABLE entitlements.usage_events_2020_01 PARTITION OF entitlements.usage_events FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-02-01 00:00+00');
             SELECT entitlements.record_usage('[{\"account\": \"acme\", \"feature\": \"kept\", \"at\": \"2020-01-31T00:00:00Z\"}]')",
        )
        .unwrap();
    assert_eq!(places(&mut client), ["month 1", "month 3"]);
    assert_eq!(maintain(&mut client), ["drop usage_events_2020_01 1"]);
    assert_eq!(places(&mut client), ["month 3"]);
    let keys = "SELECT count(*) FROM pg_inherits JOIN pg_index ON indrelid = inhrelid WHERE inhparent = 'entitlements.usage_events'::regclass AND indisprimary";
    assert_eq!(one::<i64>(&mut client, keys, &[]), 3);
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.usage_events", &[]), 3);
    client.batch_execute("DROP EXTENSION entitlements").unwrap();
    let left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'usage_events%'";
    assert_eq!(one::<i64>(&mut client, left, &[]), 0);
}

#[test]
fn what_is_kept_for_a_time_goes() {
    let (_database, mut client) = filled();
    client
        .batch_execute(
            "SELECT entitlements.maintain();
             SELECT entitlements.consume('acme', 'calls', 1, 'old'); SELECT entitlements.consume('acme', 'calls', 1, 'young');
             UPDATE entitlements.idempotency_keys SET created_at = created_at - interval '91 days' WHERE key = 'old';
             SELECT entitlements.cancel_reservation(entitlements.reserve('acme', 'calls', 1, '1 hour'));
             SELECT entitlements.commit_reservation(entitlements.reserve('acme', 'calls', 1, '1 hour'));
             UPDATE entitlements.reservations SET ended_at = ended_at - interval '91 days' WHERE state = 'canceled';
             SELECT entitlements.reserve('acme', 'calls', 5, '1 microsecond'); SELECT entitlements.reserve('acme', 'calls', 5, '1 hour')",
        )
        .unwrap();
    let done = ["expire reservations 1", "delete reservations 1", "delete idempotency_keys 1"];
    assert_eq!(maintain(&mut client), done);
    assert!(maintain(&mut client).is_empty());
    assert_eq!(
        lines(&mut client, "SELECT state FROM entitlements.reservations ORDER BY 1"),
        ["committed", "expired", "held"]
    );
    assert_eq!(lines(&mut client, "SELECT used::text FROM entitlements.counters"), ["8"]);
    // The key stands for another call now.
    client.batch_execute("SELECT entitlements.consume('acme', 'calls', 2, 'old')").unwrap();
    client.batch_execute("SET entitlements.idempotency_retention = '1d'; UPDATE entitlements.idempotency_keys SET created_at = created_at - interval '2 days'").unwrap();
    assert_eq!(maintain(&mut client), ["delete idempotency_keys 2"]);
}

#[test]
fn counters_of_the_past_are_folded() {
    let (database, mut client) = filled();
    thread::scope(|scope| {
        for _ in 0..8 {
            let mut client = database.connect();
            scope.spawn(move || {
                for _ in 0..10 {
                    client
                        .batch_execute("BEGIN; SELECT entitlements.consume('acme', 'calls'); SELECT pg_sleep(0.002); COMMIT")
                        .unwrap();
                }
            });
        }
    });
    assert!(one::<i16>(&mut client, "SELECT slots FROM entitlements.counters", &[]) > 1, "the pool did not spread");
    client.batch_execute("SELECT entitlements.maintain()").unwrap();
    assert!(one::<i16>(&mut client, "SELECT slots FROM entitlements.counters", &[]) > 1, "the window is not over");
    client
        .batch_execute("UPDATE entitlements.counters SET window_start = window_start - interval '3 months', window_end = window_end - interval '3 months'")
        .unwrap();
    assert_eq!(maintain(&mut client), ["fold counters 1"]);
    assert_eq!(lines(&mut client, "SELECT concat_ws(' ', used, allocated, slots) FROM entitlements.counters"), ["80 0 0"]);
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.counter_slots", &[]), 0);
}

/// Any number at once, while the ledger is written: one does the work, nobody fails, no event is lost.
#[test]
fn many_maintain_while_others_consume() {
    let (database, mut client) = filled();
    thread::scope(|scope| {
        for worker in 0..6 {
            let mut client = database.connect();
            scope.spawn(move || {
                for _ in 0..20 {
                    if worker < 3 {
                        client.batch_execute("SELECT entitlements.maintain()").unwrap();
                    } else {
                        client.batch_execute("SELECT entitlements.consume('acme', 'kept')").unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(places(&mut client), ["month 60"]);
    // Only one at a time: the other has nothing to do.
    client.batch_execute("BEGIN; SELECT entitlements.maintain()").unwrap();
    let mut other = database.connect();
    other
        .batch_execute(
            "SET entitlements.ledger_retention = '1d'; SELECT entitlements.reserve('acme', 'calls', 5, '1 microsecond')",
        )
        .unwrap();
    assert!(maintain(&mut other).is_empty());
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(maintain(&mut other), ["expire reservations 1"]);
}

#[test]
fn partitions_survive_a_dump() {
    let (database, mut client) = filled();
    client
        .batch_execute("SELECT entitlements.consume('acme', 'kept', 3, 'key', '{\"a\": 1}'); SELECT entitlements.maintain()")
        .unwrap();
    client.batch_execute("SELECT entitlements.reserve('acme', 'kept', 5, '1 hour')").unwrap();
    happened(&mut client, 70);
    for (dump_options, restore, restore_options) in [
        (&["--format=custom"][..], "pg_restore", &["--exit-on-error"][..]),
        (&["--format=plain"], "psql", &["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null"]),
    ] {
        let restored = Database::bare();
        let mut dump = Command::new("pg_dump")
            .args(dump_options)
            .arg(database.name())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let into = Command::new(restore)
            .args(restore_options)
            .arg("--dbname")
            .arg(restored.name())
            .stdin(dump.stdout.take().unwrap())
            .output()
            .unwrap();
        assert!(dump.wait().unwrap().success());
        assert!(into.status.success(), "{restore}: {}", String::from_utf8_lossy(&into.stderr));
        let mut again = restored.connect();
        for sql in [
            "SELECT concat_ws(' ', tableoid::regclass, event) FROM entitlements.usage_events AS event ORDER BY id",
            "SELECT counter::text FROM entitlements.counters AS counter ORDER BY id",
            "SELECT key::text FROM entitlements.idempotency_keys AS key ORDER BY key",
            "SELECT concat_ws(' ', reservation, part) FROM entitlements.reservations AS reservation JOIN entitlements.reservation_parts AS part ON reservation_id = id",
            "SELECT concat_ws(' ', indrelid::regclass, indexrelid::regclass) FROM pg_inherits JOIN pg_index ON indrelid = inhrelid
              WHERE inhparent = 'entitlements.usage_events'::regclass ORDER BY 1",
        ] {
            let before = lines(&mut client, sql);
            assert!(!before.is_empty(), "{sql}");
            assert_eq!(lines(&mut again, sql), before, "{sql}");
        }
        assert!(maintain(&mut again).is_empty());
        again.batch_execute("SELECT entitlements.consume('acme', 'kept'); SELECT entitlements.consume('acme', 'kept', 3, 'key', '{\"a\": 1}')").unwrap();
        assert_eq!(lines(&mut again, "SELECT used::text FROM entitlements.check_access('acme', 'kept')"), ["10"]);
    }
}

/// The extension's own queries mean what they say, whatever the caller has put first in the search path.
#[test]
fn nobody_lends_the_extension_an_operator() {
    let (database, mut client) = filled();
    let role = format!("hostile_{}", database.name());
    client
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {name} TO {role};
             GRANT USAGE ON SCHEMA entitlements TO {role};
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA entitlements TO {role}",
            name = database.name()
        ))
        .unwrap();
    let mut hostile = database.connect_as(&role);
    hostile
        .batch_execute(
            "CREATE SCHEMA evil;
             CREATE FUNCTION evil.same(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'run as %', current_user; END $$;
             CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'run as %', current_user; END $$;
             CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = bigint, RIGHTARG = bigint);
             CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = text, RIGHTARG = text);
             SET search_path = evil, pg_catalog;
             SELECT entitlements.consume('acme', 'kept', 1, 'key');
             SELECT entitlements.commit_reservation(entitlements.reserve('acme', 'calls', 4, '1 hour'), 1);
             SELECT entitlements.record_usage('[{\"account\": \"acme\", \"feature\": \"kept\", \"idempotency_key\": \"e\"}]');
             SELECT entitlements.record_usage('[{\"account\": \"acme\", \"feature\": \"kept\", \"idempotency_key\": \"e\"}]');
             SELECT entitlements.maintain();
             SET search_path = pg_catalog",
        )
        .unwrap();
    assert_eq!(one::<String>(&mut hostile, "SELECT current_setting('search_path')", &[]), "pg_catalog");
    // The lie is one that would be heard.
    hostile.batch_execute("SET search_path = evil, pg_catalog").unwrap();
    harness::refused_with(&mut hostile, "P0001", "SELECT 'a'::text = 'b'::text", &[]);
    drop(hostile);
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).unwrap();
}
