//! Usage that has happened is counted whatever the limit, where and when it happened, once.

use entitlements_client_tests::{self as harness, Database, one};
use postgres::Client;
use std::thread;
use std::time::{Duration, Instant};

const CATALOG: &str = r#"SELECT entitlements.apply_catalog('{
    "features": {"calls": {"kind": "quota", "period": "1 month", "anchor": "calendar", "thresholds": [0.5, 1]},
                 "daily": {"kind": "quota", "period": "1 day", "anchor": "calendar"},
                 "lifetime": {"kind": "quota"}, "kept": {"kind": "quota", "ledger": true},
                 "credits": {"kind": "quota"}, "images": {"kind": "quota", "period": "1 month", "anchor": "calendar", "draws_on": {"feature": "credits", "cost": 2.5}},
                 "seats": {"kind": "allocation"}, "sso": {"kind": "flag"}, "none": {"kind": "quota"}},
    "plans": {"team": {"kind": "base", "features": {"calls": 10, "daily": 10, "lifetime": 10, "kept": 10, "credits": 50, "images": 100, "seats": 3, "sso": true}}}}');
    SELECT entitlements.define_account('acme', time_zone => 'Europe/Vienna');
    SELECT entitlements.subscribe('acme', 'team');
    SELECT entitlements.subscribe('other', 'team')"#;

fn filled() -> (Database, Client) {
    let database = Database::new();
    let mut client = database.connect();
    client.batch_execute(CATALOG).unwrap();
    (database, client)
}

fn used(client: &mut Client, feature: &str) -> String {
    one(client, "SELECT used::text FROM entitlements.check_access('acme', $1)", &[&feature])
}

/// What is recorded, as account, feature, events, amount, duplicates.
fn record(client: &mut Client, usage: &str) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', account, feature, events, amount, duplicates) FROM entitlements.record_usage($1::text::jsonb)";
    client.query(sql, &[&usage]).unwrap_or_else(|error| panic!("{usage}: {error:?}")).iter().map(|row| row.get(0)).collect()
}

fn refused(client: &mut Client, sqlstate: &str, usage: &str) -> String {
    let sql = "SELECT * FROM entitlements.record_usage($1::text::jsonb)";
    harness::refused_with(client, sqlstate, sql, &[&usage]).message().to_owned()
}

#[test]
fn usage_counts_whatever_the_limit() {
    let (_database, mut client) = filled();
    client.batch_execute("SELECT entitlements.block('other', 'fraud', 'chargeback')").unwrap();
    let recorded = record(
        &mut client,
        r#"[{"account": "acme", "feature": "calls", "n": 4.5}, {"account": "acme", "feature": "seats"},
            {"account": "acme", "feature": "calls", "n": 20, "metadata": {"job": 7}}, {"account": "other", "feature": "calls", "n": 3},
            {"account": "acme", "feature": "none", "n": 1}, {"account": "acme", "feature": "images", "n": 30, "at": null, "idempotency_key": null}]"#,
    );
    let expected = ["acme calls 2 24.5 0", "acme images 1 30 0", "acme none 1 1 0", "acme seats 1 1 0", "other calls 1 3 0"];
    assert_eq!(recorded, expected);
    assert_eq!(["calls", "seats", "images", "credits"].map(|feature| used(&mut client, feature)), ["24.5", "1", "30", "75"]);
    let over = "SELECT concat_ws(' ', allowed, remaining, overage) FROM entitlements.check_access('acme', 'calls')";
    assert_eq!(one::<String>(&mut client, over, &[]), "f 0 14.5");
    let crossed =
        "SELECT string_agg(threshold || ' at ' || used, ', ' ORDER BY threshold) FROM entitlements.threshold_events";
    assert_eq!(one::<String>(&mut client, crossed, &[]), "0.5 at 24.5, 1 at 24.5");
    record(&mut client, r#"[{"account": "acme", "feature": "calls", "n": 4.5}]"#);
    assert_eq!(one::<String>(&mut client, crossed, &[]), "0.5 at 24.5, 1 at 24.5");
    harness::refused_with(&mut client, "NE002", "SELECT entitlements.consume('acme', 'calls')", &[]);
    client.batch_execute("SELECT entitlements.release('acme', 'calls', 25)").unwrap();
    client.batch_execute("SELECT entitlements.consume('acme', 'calls', 6)").unwrap();
    assert!(record(&mut client, "[]").is_empty());
}

/// Two that inherit from one account, in one batch, in both orders: each takes from its own credits only.
#[test]
fn each_account_below_another_takes_from_its_own_credits() {
    for (rich, poor) in [("a", "b"), ("b", "a")] {
        let (_database, mut client) = filled();
        client
            .batch_execute(&format!(
                "SELECT entitlements.define_account('a', parent => 'acme'), entitlements.define_account('b', parent => 'acme');
                 SELECT entitlements.grant_credit('{rich}', 'lifetime', 100, 'paid', priority => 1)"
            ))
            .unwrap();
        record(
            &mut client,
            &format!(
                r#"[{{"account": "{rich}", "feature": "lifetime", "n": 30}}, {{"account": "{poor}", "feature": "lifetime", "n": 4}}]"#
            ),
        );
        let pools = "SELECT string_agg(used::text, ' ' ORDER BY credit_id) FROM entitlements.counters";
        assert_eq!(one::<String>(&mut client, pools, &[]), "4 30", "{rich} has a credit");
    }
}

#[test]
fn credits_are_used_before_overage() {
    let (_database, mut client) = filled();
    client
        .batch_execute(
            "INSERT INTO entitlements.credits (account_id, feature_id, amount, priority, starts_at, source, created_by, recorded_at)
             SELECT account.id, feature.id, 5, 200, now() - interval '1 minute', 'test', 'test', now()
               FROM entitlements.accounts AS account, entitlements.features AS feature WHERE account.key = 'acme' AND feature.key = 'lifetime'",
        )
        .unwrap();
    let pools = "SELECT string_agg(used::text, ' ' ORDER BY credit_id) FROM entitlements.counters";
    record(&mut client, r#"[{"account": "acme", "feature": "lifetime", "n": 12}]"#);
    assert_eq!(one::<String>(&mut client, pools, &[]), "10 2");
    record(&mut client, r#"[{"account": "acme", "feature": "lifetime", "n": 12}]"#);
    assert_eq!(one::<String>(&mut client, pools, &[]), "19 5");
}

#[test]
fn late_events_count_in_the_window_of_their_time() {
    let (_database, mut client) = filled();
    record(
        &mut client,
        r#"[{"account": "acme", "feature": "daily", "n": 1, "at": "2024-02-29T22:59:59.999999Z"},
            {"account": "acme", "feature": "daily", "n": 2, "at": "2024-02-29T23:00:00Z"},
            {"account": "acme", "feature": "daily", "n": 4, "at": "2024-03-01T23:30:00+01:00"},
            {"account": "acme", "feature": "daily", "n": 8}, {"account": "acme", "feature": "daily", "n": 16, "at": "2024-02-29T00:00:00+01:00"},
            {"account": "other", "feature": "daily", "n": 32, "at": "2024-02-29T23:00:00Z"},
            {"account": "acme", "feature": "lifetime", "n": 64, "at": "2024-02-29T23:00:00Z"},
            {"account": "acme", "feature": "images", "n": 2, "at": "2024-02-29T23:00:00Z"}, {"account": "acme", "feature": "images", "n": 4}]"#,
    );
    let windows = "SELECT concat_ws(' ', account.key, feature.key, CASE WHEN counter.window_start = '-infinity' THEN 'ever' WHEN counter.window_end > now() THEN 'now'
                                    ELSE (counter.window_start AT TIME ZONE account.time_zone)::text END, counter.used)
         FROM entitlements.counters AS counter JOIN entitlements.accounts AS account ON account.id = counter.account_id
         JOIN entitlements.features AS feature ON feature.id = counter.feature_id ORDER BY account.key, feature.key, counter.window_start";
    let windows: Vec<String> = client.query(windows, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let expected = [
        "acme credits ever 15",
        "acme daily 2024-02-29 00:00:00 17",
        "acme daily 2024-03-01 00:00:00 6",
        "acme daily now 8",
        "acme images 2024-03-01 00:00:00 2",
        "acme images now 4",
        "acme lifetime ever 64",
        "other daily 2024-02-29 00:00:00 32",
    ];
    assert_eq!(windows, expected);
    assert_eq!(used(&mut client, "daily"), "8");
    let soon: String = one(&mut client, "SELECT to_jsonb(now() + interval '4 minutes')#>>'{}'", &[]);
    record(&mut client, &format!(r#"[{{"account": "acme", "feature": "daily", "at": "{soon}"}}]"#));
    let later: String = one(&mut client, "SELECT to_jsonb(now() + interval '6 minutes')#>>'{}'", &[]);
    let fault = refused(&mut client, "NE007", &format!(r#"[{{"account": "acme", "feature": "daily", "at": "{later}"}}]"#));
    assert!(fault.contains("future"), "{fault}");
}

#[test]
fn an_invalid_event_is_named_and_nothing_is_recorded() {
    let (_database, mut client) = filled();
    let good = r#"{"account": "acme", "feature": "calls", "idempotency_key": "a"}, {"account": "acme", "feature": "kept"}"#;
    for (code, bad, fault) in [
        ("NE003", r#"{"account": "acme", "feature": "call"}"#, "unknown feature"),
        ("NE004", r#"{"account": "acme", "feature": "sso"}"#, "kind flag"),
        ("NE006", r#"{"account": "nobody", "feature": "calls"}"#, "unknown account"),
        ("NE006", r#"{"account": "erased:1", "feature": "calls"}"#, "unknown account"),
        ("NE007", r#"{"account": "acme"}"#, "feature"),
        ("NE007", r#"{"feature": "calls"}"#, "account"),
        ("NE007", r#"{"account": 42, "feature": "calls"}"#, "string"),
        ("NE007", r#"{"account": "acme", "feature": "calls", "amount": 1}"#, "unknown field"),
        ("NE007", r#"{"account": "acme", "feature": "calls", "n": 0}"#, "zero"),
        ("NE007", r#"{"account": "acme", "feature": "calls", "n": -1}"#, "negative"),
        ("NE007", r#"{"account": "acme", "feature": "calls", "n": "1"}"#, "not a number"),
        ("NE007", r#"{"account": "acme", "feature": "calls", "n": 1e18}"#, "10^18"),
        ("NE007", r#"{"account": "acme", "feature": "calls", "n": 1e-10}"#, "nine"),
        ("NE007", r#"{"account": "acme", "feature": "calls", "at": "yesterday"}"#, "time"),
        ("NE007", r#"{"account": "acme", "feature": "calls", "at": "2024-02-30T00:00:00Z"}"#, "time"),
        ("NE007", r#"{"account": "acme", "feature": "calls", "at": "2999-01-01T00:00:00Z"}"#, "future"),
        ("NE007", r#"{"account": "acme", "feature": "calls", "at": 5}"#, "string"),
        ("NE007", r#"{"account": "acme", "feature": "calls", "idempotency_key": ""}"#, "empty"),
        ("NE009", r#"{"account": "acme", "feature": "calls", "n": 2, "idempotency_key": "a"}"#, "other arguments"),
        ("NE009", r#"{"account": "acme", "feature": "calls", "idempotency_key": "a", "metadata": 1}"#, "other arguments"),
        ("NE007", "1", "not an object"),
        ("NE007", r#"["acme", "calls"]"#, "not an object"),
    ] {
        let message = refused(&mut client, code, &format!("[{good}, {bad}]"));
        assert!(message.starts_with("element 2 of usage: ") && message.contains(fault), "{bad}: {message}");
    }
    for whole in ["{}", "1", "null", r#""x""#] {
        refused(&mut client, "NE007", whole);
    }
    refused(
        &mut client,
        "NE007",
        r#"[{"account": "acme", "feature": "calls", "n": 9e17}, {"account": "acme", "feature": "calls", "n": 9e17}]"#,
    );
    harness::refused_with(&mut client, "NE007", "SELECT * FROM entitlements.record_usage(NULL)", &[]);
    for table in ["counters", "usage_events", "idempotency_keys", "threshold_events"] {
        let rows: i64 = one(&mut client, &format!("SELECT count(*) FROM entitlements.{table}"), &[]);
        assert_eq!(rows, 0, "{table}");
    }
}

#[test]
fn an_event_is_recorded_once() {
    let (_database, mut client) = filled();
    let event = |n: u32| {
        format!(
            r#"{{"account": "acme", "feature": "calls", "n": {n}, "at": "2024-02-29T23:00:00Z", "idempotency_key": "event {n}", "metadata": {{"n": {n}}}}}"#
        )
    };
    let same = r#"{"account": "other", "feature": "calls", "idempotency_key": "event 1"}"#;
    let batch = |numbers: &[u32]| format!("[{}, {same}]", numbers.iter().map(|n| event(*n)).collect::<Vec<_>>().join(", "));
    assert_eq!(record(&mut client, &batch(&[1, 2, 1, 4])), ["acme calls 3 7 1", "other calls 1 1 0"]);
    assert_eq!(record(&mut client, &batch(&[8, 2, 8])), ["acme calls 1 8 2", "other calls 0 0 1"]);
    assert_eq!(record(&mut client, &batch(&[1, 2, 4, 8])), ["acme calls 0 0 4", "other calls 0 0 1"]);
    let changed = event(2).replace("\"n\": 2,", "\"n\": 3,");
    let message = refused(&mut client, "NE009", &format!("[{}, {changed}]", event(16)));
    assert!(message.starts_with("element 1 of usage: idempotency key \"event 2\""), "{message}");
    assert_eq!(one::<String>(&mut client, "SELECT sum(used)::text FROM entitlements.counters", &[]), "16");
    client.batch_execute("BEGIN").unwrap();
    assert_eq!(record(&mut client, &batch(&[32])), ["acme calls 1 32 0", "other calls 0 0 1"]);
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(record(&mut client, &batch(&[32])), ["acme calls 1 32 0", "other calls 0 0 1"]);
}

/// Batches that overlap, from many connections at once, among consumers: each event counts once, and the limit holds for those
/// who ask.
#[test]
fn many_record_and_consume_at_once() {
    let (database, mut client) = filled();
    client
        .batch_execute(
            "SELECT entitlements.set_override('acme', feature, 'set', '100000', 'room') FROM unnest('{calls,kept,credits,images}'::text[]) AS feature",
        )
        .unwrap();
    let consumed: i64 = thread::scope(|scope| {
        for worker in 0..8u32 {
            let mut client = database.connect();
            scope.spawn(move || {
                for step in 0..15u32 {
                    // Each event is in the batches of several workers, in other orders.
                    let mut numbers: Vec<u32> = (0..20).map(|place| (worker / 2 + step * 10 + place) % 160).collect();
                    if worker % 2 == 0 {
                        numbers.reverse();
                    }
                    let events: Vec<String> = numbers
                        .iter()
                        .map(|n| {
                            let feature = ["calls", "kept", "images"][*n as usize % 3];
                            let account = ["acme", "other"][*n as usize % 2];
                            format!(r#"{{"account": "{account}", "feature": "{feature}", "idempotency_key": "{n}"}}"#)
                        })
                        .collect();
                    record(&mut client, &format!("[{}]", events.join(", ")));
                }
            });
        }
        let consumers: Vec<_> = (0..8)
            .map(|_| {
                let mut client = database.connect();
                scope.spawn(move || {
                    (0..40)
                        .map(|_| {
                            one::<i64>(
                                &mut client,
                                "SELECT consumed::bigint FROM entitlements.try_consume('acme', 'calls')",
                                &[],
                            )
                        })
                        .sum::<i64>()
                })
            })
            .collect();
        consumers.into_iter().map(|consumer| consumer.join().unwrap()).sum()
    });
    assert_eq!(consumed, 320);
    let keys: i64 = one(&mut client, "SELECT count(*) FROM entitlements.idempotency_keys", &[]);
    let totals = "SELECT sum(counter.used + coalesce((SELECT sum(slot.used) FROM entitlements.counter_slots AS slot WHERE slot.counter_id = counter.id), 0))::bigint
                    FROM entitlements.counters AS counter JOIN entitlements.features AS feature ON feature.id = counter.feature_id WHERE feature.key IN ('calls', 'kept', 'images')";
    assert_eq!(one::<i64>(&mut client, totals, &[]), keys + consumed);
    let kept: i64 = one(&mut client, "SELECT count(*) FROM entitlements.usage_events", &[]);
    let recorded: i64 =
        one(&mut client, "SELECT count(*) FROM entitlements.idempotency_keys WHERE key::integer % 3 = 1", &[]);
    assert_eq!(kept, recorded);
    let broken = "SELECT count(*) FROM entitlements.counters AS counter
         WHERE counter.slots <> (SELECT count(*) FROM entitlements.counter_slots AS slot WHERE slot.counter_id = counter.id)
            OR counter.allocated <> coalesce((SELECT sum(slot.share) FROM entitlements.counter_slots AS slot WHERE slot.counter_id = counter.id), 0)
            OR counter.slots > 0 AND counter.used + counter.allocated > counter.made_under";
    assert_eq!(one::<i64>(&mut client, broken, &[]), 0);
}

/// A pool that is spread over slots is folded when recorded usage goes beyond its limit: no share is left to consume from.
#[test]
fn shares_do_not_outlive_the_limit() {
    let (database, mut client) = filled();
    client.batch_execute("SELECT entitlements.set_override('acme', 'calls', 'set', '1000', 'room')").unwrap();
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
    let slots: i16 = one(&mut client, "SELECT slots FROM entitlements.counters", &[]);
    assert!(slots > 1, "the pool did not spread");
    record(&mut client, r#"[{"account": "acme", "feature": "calls", "n": 5}]"#);
    assert_eq!(used(&mut client, "calls"), "85");
    record(&mut client, r#"[{"account": "acme", "feature": "calls", "n": 2000}]"#);
    assert_eq!(used(&mut client, "calls"), "2085");
    let crossed =
        "SELECT string_agg(threshold || ' at ' || used, ', ' ORDER BY threshold) FROM entitlements.threshold_events";
    assert_eq!(one::<String>(&mut client, crossed, &[]), "0.5 at 2085, 1 at 2085");
    let left: i64 = one(&mut client, "SELECT count(*) FROM entitlements.counter_slots", &[]);
    assert_eq!(left, 0);
    harness::refused_with(&mut client, "NE002", "SELECT entitlements.consume('acme', 'calls', 0.000000001)", &[]);
}

#[test]
fn a_large_batch_takes_no_longer_than_it_must() {
    let (_database, mut client) = filled();
    let rows = 20_000;
    let usage: String = one(
        &mut client,
        "SELECT jsonb_agg(jsonb_build_object('account', CASE n % 2 WHEN 0 THEN 'acme' ELSE 'other' END, 'feature', 'kept', 'n', n % 7 + 1,
                                             'at', '2026-01-01 00:00:00Z'::timestamptz + n * interval '1 minute', 'idempotency_key', 'event ' || n))::text
           FROM generate_series(1, $1) AS n",
        &[&rows],
    );
    let start = Instant::now();
    let recorded = record(&mut client, &usage);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert_eq!(recorded.len(), 2);
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.usage_events", &[]), i64::from(rows));
    assert_eq!(record(&mut client, &usage), ["acme kept 0 0 10000", "other kept 0 0 10000"]);
}
