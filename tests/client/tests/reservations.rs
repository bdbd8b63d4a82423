//! Units reserved are units used, until they are committed, given back, or the time is up; and consuming several features at
//! once.

use entitlements_client_tests::{self as harness, Database, one};
use postgres::Client;
use std::thread;
use std::time::Duration;
use uuid::Uuid;

const CATALOG: &str = r#"SELECT entitlements.apply_catalog('{
    "features": {"calls": {"kind": "quota", "period": "1 month"}, "short": {"kind": "quota", "period": "1 second"},
                 "capped": {"kind": "quota", "overage": "cap"}, "kept": {"kind": "quota", "ledger": true},
                 "credits": {"kind": "quota"}, "images": {"kind": "quota", "draws_on": {"feature": "credits", "cost": 2.5}},
                 "seats": {"kind": "allocation"}, "sso": {"kind": "flag"}, "none": {"kind": "quota"}},
    "plans": {"team": {"kind": "base", "features": {"calls": 10, "short": 10, "capped": 10, "kept": 10, "credits": 50, "images": 100, "seats": 3, "sso": true}}}}');
    SELECT entitlements.subscribe('acme', 'team')"#;

fn refused_with(client: &mut Client, sqlstate: &str, sql: &str) {
    harness::refused_with(client, sqlstate, sql, &[]);
}

fn filled() -> (Database, Client) {
    let database = Database::new();
    let mut client = database.connect();
    client.batch_execute(CATALOG).unwrap();
    (database, client)
}

fn used(client: &mut Client, feature: &str) -> String {
    one(client, "SELECT used::text FROM entitlements.check_access('acme', $1)", &[&feature])
}

fn reserve(client: &mut Client, feature: &str, n: &str, ttl: &str) -> Uuid {
    one(client, &format!("SELECT entitlements.reserve('acme', '{feature}', {n}, '{ttl}')"), &[])
}

fn call(client: &mut Client, sql: &str, id: Uuid) -> Result<String, String> {
    match client.query_one(&format!("SELECT ({sql})::text"), &[&id]) {
        Ok(row) => Ok(row.get(0)),
        Err(error) => Err(error.code().unwrap_or_else(|| panic!("{error:?}")).code().to_owned()),
    }
}

fn commit(client: &mut Client, id: Uuid, actual: &str) -> Result<String, String> {
    call(client, &format!("(entitlements.commit_reservation($1, {actual})).consumed"), id)
}

fn cancel(client: &mut Client, id: Uuid) -> bool {
    one(client, "SELECT entitlements.cancel_reservation($1)", &[&id])
}

#[test]
fn what_is_reserved_is_used_until_it_is_settled() {
    let (_database, mut client) = filled();
    let id = reserve(&mut client, "calls", "6", "1 hour");
    assert_eq!(id.get_version_num(), 4);
    assert_eq!(used(&mut client, "calls"), "6");
    refused_with(&mut client, "NE002", "SELECT entitlements.consume('acme', 'calls', 5)");
    refused_with(&mut client, "NE002", "SELECT entitlements.reserve('acme', 'calls', 5, '1 hour')");
    assert_eq!(commit(&mut client, id, "2"), Ok("2".to_owned()));
    assert_eq!(used(&mut client, "calls"), "2");
    let id = reserve(&mut client, "calls", "8", "1 hour");
    assert!(cancel(&mut client, id));
    assert!(!cancel(&mut client, id));
    assert_eq!(used(&mut client, "calls"), "2");
    let id = reserve(&mut client, "calls", "3", "1 hour");
    assert_eq!(commit(&mut client, id, "NULL"), Ok("3".to_owned()));
    assert_eq!(used(&mut client, "calls"), "5");
    for again in ["NULL", "3", "1"] {
        assert_eq!(commit(&mut client, id, again), Err("NE009".to_owned()));
    }
    assert!(!cancel(&mut client, id));
    assert_eq!(used(&mut client, "calls"), "5");
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.reservation_parts", &[]), 0);
}

#[test]
fn more_than_reserved_is_consumed_by_the_usual_rules() {
    let (_database, mut client) = filled();
    let id = reserve(&mut client, "calls", "4", "1 hour");
    assert_eq!(commit(&mut client, id, "11"), Err("NE002".to_owned()));
    assert_eq!(used(&mut client, "calls"), "4");
    assert_eq!(commit(&mut client, id, "10"), Ok("10".to_owned()));
    assert_eq!(used(&mut client, "calls"), "10");
    // All or nothing, where a consumer would get what is left.
    refused_with(&mut client, "NE002", "SELECT entitlements.reserve('acme', 'capped', 11, '1 hour')");
    let id = reserve(&mut client, "capped", "10", "1 hour");
    assert_eq!(commit(&mut client, id, "11"), Err("NE002".to_owned()));
    assert_eq!(used(&mut client, "capped"), "10");
    assert_eq!(commit(&mut client, id, "9.5"), Ok("9.5".to_owned()));
    assert_eq!(used(&mut client, "capped"), "9.5");
}

#[test]
fn each_pool_gets_its_own_back() {
    let (_database, mut client) = filled();
    client
        .batch_execute(
            "INSERT INTO entitlements.credits (account_id, feature_id, amount, priority, starts_at, source, created_by, recorded_at)
             SELECT account.id, feature.id, 20, 200, now() - interval '1 minute', 'test', 'test', now()
               FROM entitlements.accounts AS account, entitlements.features AS feature WHERE feature.key = 'credits'",
        )
        .unwrap();
    // 24 × 2.5 = 60: 50 of the plan and 10 of the credit.
    let id = reserve(&mut client, "images", "24", "1 hour");
    let pools = "SELECT string_agg(counter.used::text, ' ' ORDER BY feature.key, counter.credit_id)
                   FROM entitlements.counters AS counter JOIN entitlements.features AS feature ON feature.id = counter.feature_id";
    assert_eq!(one::<String>(&mut client, pools, &[]), "50 10 24");
    assert_eq!(commit(&mut client, id, "18"), Ok("18".to_owned()));
    assert_eq!(one::<String>(&mut client, pools, &[]), "45 0 18");
}

/// A child's credits are its own, but what they give is a part of what the parent's pool gives.
#[test]
fn a_childs_credit_is_a_part_of_what_its_parent_gives() {
    let (_database, mut client) = filled();
    client
        .batch_execute(
            "SELECT entitlements.define_account('kid', parent => 'acme');
             SELECT entitlements.grant_credit('kid', 'credits', 4, 'gift', priority => 1)",
        )
        .unwrap();
    let pools = "SELECT string_agg(concat(account.key, ' ', counter.used), ', ' ORDER BY account.key, counter.credit_id)
                   FROM entitlements.counters AS counter JOIN entitlements.accounts AS account ON account.id = counter.account_id";
    let id: Uuid = one(&mut client, "SELECT entitlements.reserve('kid', 'credits', 6, '1 hour')", &[]);
    assert_eq!(commit(&mut client, id, "1"), Ok("1".to_owned()));
    assert_eq!(one::<String>(&mut client, pools, &[]), "acme 0, kid 1");
    // The same with a cap of the child's, which counts all of it.
    client.batch_execute("SELECT entitlements.set_override('kid', 'credits', 'set', '20', 'cap')").unwrap();
    let id: Uuid = one(&mut client, "SELECT entitlements.reserve('kid', 'credits', 10, '1 hour')", &[]);
    assert_eq!(one::<String>(&mut client, pools, &[]), "acme 7, kid 10, kid 4");
    assert_eq!(commit(&mut client, id, "5"), Ok("5".to_owned()));
    assert_eq!(one::<String>(&mut client, pools, &[]), "acme 2, kid 5, kid 4");
}

/// What is left of one pool was taken when another pool came: both count as one call.
#[test]
fn a_credit_that_comes_while_a_rest_is_taken_adds_to_it() {
    let (database, mut client) = filled();
    reserve(&mut client, "capped", "7", "100 milliseconds");
    thread::sleep(Duration::from_millis(150));
    client.batch_execute("BEGIN; SELECT FROM entitlements.reservations FOR UPDATE").unwrap();
    let (mut taker, mut granter) = (database.connect(), database.connect());
    let backend: i32 = one(&mut taker, "SELECT pg_backend_pid()", &[]);
    let taking = thread::spawn(move || {
        one::<String>(
            &mut taker,
            "SELECT concat(consumed, ' ', used) FROM entitlements.try_consume('acme', 'capped', 10)",
            &[],
        )
    });
    // It has three, and waits for what the expired reservation holds.
    while !one::<bool>(&mut granter, "SELECT cardinality(pg_blocking_pids($1)) > 0", &[&backend]) {
        assert!(!taking.is_finished(), "it does not wait");
        thread::sleep(Duration::from_millis(2));
    }
    granter.batch_execute("SELECT entitlements.grant_credit('acme', 'capped', 5, 'paid')").unwrap();
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(taking.join().unwrap(), "10 10");
    assert_eq!(used(&mut client, "capped"), "10");
}

#[test]
fn nobody_else_gives_back_what_is_reserved() {
    let (_database, mut client) = filled();
    let id = reserve(&mut client, "calls", "8", "1 hour");
    client.batch_execute("SELECT entitlements.consume('acme', 'calls', 2)").unwrap();
    refused_with(&mut client, "NE007", "SELECT entitlements.release('acme', 'calls', 3)");
    client.batch_execute("SELECT entitlements.release('acme', 'calls', 2)").unwrap();
    refused_with(&mut client, "NE007", "SELECT entitlements.release('acme', 'calls', 1)");
    client.batch_execute("SELECT entitlements.consume('acme', 'calls', 2)").unwrap();
    assert_eq!(commit(&mut client, id, "NULL"), Ok("8".to_owned()));
    client.batch_execute("SELECT entitlements.release('acme', 'calls', 10)").unwrap();
    assert_eq!(used(&mut client, "calls"), "0");
}

#[test]
fn time_alone_ends_a_reservation() {
    let (_database, mut client) = filled();
    let id = reserve(&mut client, "calls", "9", "300 milliseconds");
    let longer = reserve(&mut client, "calls", "1", "300 milliseconds");
    call(&mut client, "entitlements.extend_reservation($1, '1 hour')", longer).unwrap();
    refused_with(&mut client, "NE002", "SELECT entitlements.consume('acme', 'calls', 9)");
    thread::sleep(Duration::from_millis(350));
    assert_eq!(used(&mut client, "calls"), "1");
    // It is over although nobody has needed its units yet.
    assert_eq!(commit(&mut client, id, "1"), Err("NE009".to_owned()));
    assert!(!cancel(&mut client, id));
    assert_eq!(call(&mut client, "entitlements.extend_reservation($1, '1 hour')", id), Err("NE009".to_owned()));
    client.batch_execute("SELECT entitlements.consume('acme', 'calls', 9)").unwrap();
    assert_eq!(used(&mut client, "calls"), "10");
    assert_eq!(commit(&mut client, id, "1"), Err("NE009".to_owned()));
    assert_eq!(commit(&mut client, longer, "NULL"), Ok("1".to_owned()));
    assert_eq!(used(&mut client, "calls"), "10");
    let states = "SELECT string_agg(state, ' ' ORDER BY created_at, state) FROM entitlements.reservations";
    assert_eq!(one::<String>(&mut client, states, &[]), "expired committed");
}

#[test]
fn a_consumer_who_takes_what_is_left_gets_expired_units_too() {
    let (_database, mut client) = filled();
    reserve(&mut client, "capped", "6", "100 milliseconds");
    thread::sleep(Duration::from_millis(150));
    let consumed: String = one(&mut client, "SELECT consumed::text FROM entitlements.consume('acme', 'capped', 100)", &[]);
    assert_eq!(consumed, "10");
    assert_eq!(used(&mut client, "capped"), "10");
}

#[test]
fn units_belong_to_the_window_they_came_from() {
    let (_database, mut client) = filled();
    let id = reserve(&mut client, "short", "8", "1 hour");
    let first = "SELECT used::text FROM entitlements.counters ORDER BY window_start LIMIT 1";
    let ends = "SELECT window_end <= clock_timestamp() FROM entitlements.counters ORDER BY window_start LIMIT 1";
    while !one::<bool>(&mut client, ends, &[]) {
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(used(&mut client, "short"), "0");
    assert_eq!(commit(&mut client, id, "3"), Ok("3".to_owned()));
    assert_eq!(one::<String>(&mut client, first, &[]), "3");
    assert_eq!(used(&mut client, "short"), "0");
}

#[test]
fn bad_input_is_refused() {
    let (_database, mut client) = filled();
    for ttl in ["0 seconds", "-1 second", "1 month -40 days", "367 days", "13 months", "178000000 years", "NULL"] {
        let ttl = if ttl == "NULL" { ttl.to_owned() } else { format!("'{ttl}'") };
        refused_with(&mut client, "NE007", &format!("SELECT entitlements.reserve('acme', 'calls', 1, {ttl})"));
    }
    for (code, arguments) in [
        ("NE007", "'acme', 'calls', 0, '1 hour'"),
        ("NE007", "'acme', 'calls', 'NaN', '1 hour'"),
        ("NE007", "'acme', NULL, 1, '1 hour'"),
        ("NE003", "'acme', 'nothing', 1, '1 hour'"),
        ("NE004", "'acme', 'sso', 1, '1 hour'"),
        ("NE001", "'acme', 'none', 1, '1 hour'"),
        ("NE001", "'nobody', 'calls', 1, '1 hour'"),
        ("NE001", "NULL, 'calls', 1, '1 hour'"),
    ] {
        refused_with(&mut client, code, &format!("SELECT entitlements.reserve({arguments})"));
    }
    let longest = reserve(&mut client, "calls", "1", "1 year");
    assert!(cancel(&mut client, longest));
    let id = reserve(&mut client, "calls", "1", "1 hour");
    for actual in ["0", "-1", "'NaN'", "1e18"] {
        assert_eq!(commit(&mut client, id, actual), Err("NE007".to_owned()), "{actual}");
    }
    assert_eq!(call(&mut client, "entitlements.extend_reservation($1, '0')", id), Err("NE007".to_owned()));
    let unknown = Uuid::from_u128(1);
    for function in ["commit_reservation($1)", "cancel_reservation($1)", "extend_reservation($1, '1 hour')"] {
        assert_eq!(call(&mut client, &format!("entitlements.{function}"), unknown), Err("NE010".to_owned()), "{function}");
    }
    assert_eq!(used(&mut client, "calls"), "1");
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.reservations", &[]), 2);
}

/// Of a commit, a cancel and consumers who want the units of an expired reservation, one gets them.
#[test]
fn exactly_one_ends_a_reservation() {
    let (database, mut client) = filled();
    for round in 0..20 {
        let id = reserve(&mut client, "seats", "3", "40 milliseconds");
        let pause = Duration::from_millis(30 + round % 10 * 2);
        let settled: Vec<i64> = thread::scope(|scope| {
            let racers: Vec<_> = (0..6)
                .map(|racer| {
                    let mut client = database.connect();
                    scope.spawn(move || {
                        thread::sleep(pause);
                        match racer {
                            0 | 1 => i64::from(commit(&mut client, id, "2").is_ok()) * 2,
                            2 => i64::from(cancel(&mut client, id)) * 10,
                            _ => one::<i64>(
                                &mut client,
                                "SELECT consumed::bigint * 100 FROM entitlements.try_consume('acme', 'seats')",
                                &[],
                            ),
                        }
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let ended = settled[..3].iter().filter(|settled| **settled > 0).count();
        assert!(ended <= 1, "{settled:?}");
        let committed: i64 = settled[..2].iter().sum();
        let consumed = settled[3..].iter().sum::<i64>() / 100;
        // What an expired reservation held is left out without a change.
        assert_eq!(used(&mut client, "seats"), (committed + consumed).to_string(), "{settled:?}");
        assert!(committed + consumed <= 3, "{settled:?}");
        let left = committed + consumed;
        if left > 0 {
            client.batch_execute(&format!("SELECT entitlements.release('acme', 'seats', {left})")).unwrap();
        }
        client.batch_execute("SELECT entitlements.maintain()").unwrap();
        assert_eq!(one::<String>(&mut client, "SELECT used::text FROM entitlements.counters", &[]), "0");
    }
}

#[test]
fn random_work_by_many_leaves_exactly_what_was_acknowledged() {
    let (database, mut client) = filled();
    client.batch_execute("SELECT entitlements.set_override('acme', 'calls', 'set', '60', 'room for many')").unwrap();
    let kept: i64 = thread::scope(|scope| {
        let workers: Vec<_> = (0..16i64)
            .map(|worker| {
                let mut client = database.connect();
                scope.spawn(move || {
                    let mut kept = 0;
                    for step in 0..30 {
                        let n = 1 + (worker + step) % 5;
                        let Ok(row) = client
                            .query_one(&format!("SELECT entitlements.reserve('acme', 'calls', {n}, '10 seconds')"), &[])
                        else {
                            continue;
                        };
                        let id: Uuid = row.get(0);
                        match (worker + step) % 4 {
                            0 => assert!(cancel(&mut client, id)),
                            1 if kept < 3 => {
                                match commit(&mut client, id, "1") {
                                    Ok(_) => kept += 1,
                                    // Nothing has changed: it is still held.
                                    Err(error) => assert!(cancel(&mut client, id), "{error:?}"),
                                }
                            }
                            2 => {
                                client.batch_execute("BEGIN").unwrap();
                                let _ = commit(&mut client, id, "7");
                                client.batch_execute("ROLLBACK").unwrap();
                                assert!(cancel(&mut client, id));
                            }
                            _ => {
                                let until = call(&mut client, "entitlements.extend_reservation($1, '1 millisecond')", id);
                                assert!(until.is_ok(), "{until:?}");
                            }
                        }
                    }
                    kept
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    thread::sleep(Duration::from_millis(5));
    assert_eq!(used(&mut client, "calls"), kept.to_string());
    client.batch_execute("SELECT entitlements.maintain()").unwrap();
    let stored = "SELECT (SELECT sum(used) FROM entitlements.counters)::bigint + coalesce((SELECT sum(used) FROM entitlements.counter_slots), 0)::bigint";
    assert_eq!(one::<i64>(&mut client, stored, &[]), kept);
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.reservation_parts", &[]), 0);
}

#[test]
fn erasure_ends_reservations_and_forgets_keys() {
    let (_database, mut client) = filled();
    client
        .batch_execute(
            "SELECT entitlements.reserve('acme', 'kept', 3, '1 hour', '{\"person\": 1}');
             SELECT entitlements.consume('acme', 'kept', 1, 'a person', '{\"person\": 2}')",
        )
        .unwrap();
    let exported: String = one(&mut client, "SELECT entitlements.export_account('acme')::text", &[]);
    for personal in ["\"reservations\"", "\"person\": 1", "\"person\": 2", "a person", "\"usage_events\""] {
        assert!(exported.contains(personal), "{personal} in {exported}");
    }
    client.batch_execute("SELECT entitlements.erase_account('acme', 'asked for')").unwrap();
    let left: String = one(
        &mut client,
        "SELECT concat(array_agg(r::text), (SELECT array_agg(k::text) FROM entitlements.idempotency_keys AS k), (SELECT array_agg(e::text) FROM entitlements.usage_events AS e))
         FROM entitlements.reservations AS r",
        &[],
    );
    assert!(!left.contains("person"), "{left}");
    assert!(left.contains("canceled"), "{left}");
    assert_eq!(one::<String>(&mut client, "SELECT used::text FROM entitlements.counters", &[]), "1");
}

/// A call that is on its way when its account is erased has nothing that the erasure could wait for.
#[test]
fn what_is_written_during_an_erasure_is_removed_by_maintain() {
    let (database, mut client) = filled();
    client.batch_execute("SELECT entitlements.consume('acme', 'kept', 1)").unwrap();
    let mut late = database.connect();
    late.batch_execute(
        "BEGIN; SELECT entitlements.consume('acme', 'kept', 1, 'a person', '{\"person\": 2}');
         SELECT entitlements.reserve('acme', 'kept', 3, '1 hour', '{\"person\": 1}')",
    )
    .unwrap();
    client.batch_execute("SELECT entitlements.erase_account('acme', 'asked for')").unwrap();
    late.batch_execute("COMMIT").unwrap();
    let left = "SELECT concat(array_agg(r::text), (SELECT array_agg(k::text) FROM entitlements.idempotency_keys AS k), (SELECT array_agg(e::text) FROM entitlements.usage_events AS e))
                FROM entitlements.reservations AS r";
    assert!(one::<String>(&mut client, left, &[]).contains("person"));
    let done = "SELECT string_agg(concat_ws(' ', object, count), ', ' ORDER BY object) FROM entitlements.maintain() WHERE action = 'erase'";
    assert_eq!(one::<String>(&mut client, done, &[]), "idempotency_keys 1, reservations 1, usage_events 1");
    assert!(!one::<String>(&mut client, left, &[]).contains("person"));
    assert_eq!(one::<Option<String>>(&mut client, done, &[]), None);
}

#[test]
fn several_features_are_taken_together_or_not_at_all() {
    let (_database, mut client) = filled();
    let rows = client
        .query(
            "SELECT feature, consumed::text, used::text, remaining::text FROM entitlements.consume_many('acme', '{\"seats\": 2, \"images\": 4, \"calls\": 0.5, \"credits\": 10}')",
            &[],
        )
        .unwrap();
    let rows: Vec<[String; 4]> = rows.iter().map(|row| [row.get(0), row.get(1), row.get(2), row.get(3)]).collect();
    // 20 of the credits are left after 10 for themselves and 10 for four images: enough for 12 more.
    let expected = [
        ["calls", "0.5", "0.5", "9.5"],
        ["credits", "10", "20", "30"],
        ["images", "4", "4", "12"],
        ["seats", "2", "2", "1"],
    ];
    assert_eq!(rows, expected.map(|row| row.map(str::to_owned)));
    for (code, amounts) in [
        ("NE002", r#"{"calls": 1, "seats": 2}"#),
        ("NE002", r#"{"calls": 1, "credits": 20, "images": 5}"#),
        ("NE001", r#"{"calls": 1, "none": 2}"#),
        ("NE003", r#"{"calls": 1, "nothing": 2}"#),
        ("NE004", r#"{"calls": 1, "sso": 2}"#),
        ("NE007", r#"{"calls": 1, "seats": 0}"#),
        ("NE007", r#"{"calls": 1, "seats": -1}"#),
        ("NE007", r#"{"calls": 1, "seats": "1"}"#),
        ("NE007", r#"{"calls": 1, "seats": 1e18}"#),
        ("NE007", "{}"),
        ("NE007", "[]"),
        ("NE007", "1"),
    ] {
        refused_with(&mut client, code, &format!("SELECT * FROM entitlements.consume_many('acme', '{amounts}')"));
    }
    refused_with(&mut client, "NE001", "SELECT * FROM entitlements.consume_many(NULL, '{\"calls\": 1}')");
    refused_with(&mut client, "NE007", "SELECT * FROM entitlements.consume_many('acme', NULL)");
    refused_with(
        &mut client,
        "NE007",
        "SELECT * FROM entitlements.consume_many('acme', (SELECT jsonb_object_agg('f' || n, 1) FROM generate_series(1, 1001) AS n))",
    );
    assert_eq!(["calls", "seats", "credits", "images"].map(|feature| used(&mut client, feature)), ["0.5", "2", "20", "4"]);
}

#[test]
fn a_thousand_features_in_one_call() {
    let (_database, mut client) = filled();
    client
        .batch_execute(
            "SELECT entitlements.apply_catalog(jsonb_build_object(
                'features', (SELECT jsonb_object_agg('f' || n, '{\"kind\": \"quota\"}'::jsonb) FROM generate_series(1, 1000) AS n),
                'plans', jsonb_build_object('many', jsonb_build_object('kind', 'base',
                    'features', (SELECT jsonb_object_agg('f' || n, 1) FROM generate_series(1, 1000) AS n)))));
             SELECT entitlements.subscribe('many', 'many')",
        )
        .unwrap();
    let all = "(SELECT jsonb_object_agg('f' || n, 1) FROM generate_series(1, 1000) AS n)";
    let taken: i64 = one(&mut client, &format!("SELECT count(*) FROM entitlements.consume_many('many', {all})"), &[]);
    assert_eq!(taken, 1000);
    refused_with(&mut client, "NE002", &format!("SELECT count(*) FROM entitlements.consume_many('many', {all})"));
}

/// Each call takes the same pools by other features in other orders; none waits for one that waits for it.
#[test]
fn calls_for_several_features_do_not_wait_in_a_circle() {
    let (database, mut client) = filled();
    client
        .batch_execute(
            "SELECT entitlements.set_override('acme', feature, 'set', '\"unlimited\"', 'room') FROM unnest('{calls,credits,images,seats,kept}'::text[]) AS feature;
             SET entitlements.max_slots = 1;
             SELECT entitlements.consume_many('acme', '{\"calls\": 1, \"credits\": 1, \"images\": 1, \"seats\": 1, \"kept\": 1}')",
        )
        .unwrap();
    thread::scope(|scope| {
        for worker in 0..12 {
            let mut client = database.connect();
            scope.spawn(move || {
                let call = [
                    "entitlements.consume_many('acme', '{\"images\": 1, \"calls\": 1}')",
                    "entitlements.consume_many('acme', '{\"seats\": 1, \"credits\": 1, \"calls\": 1}')",
                    "entitlements.consume('acme', 'images')",
                    "entitlements.consume_many('acme', '{\"kept\": 1, \"images\": 1, \"seats\": 1}')",
                ][worker % 4];
                client.batch_execute("SET entitlements.max_slots = 1").unwrap();
                for _ in 0..25 {
                    client.query(&format!("SELECT * FROM {call}"), &[]).unwrap_or_else(|error| panic!("{call}: {error:?}"));
                }
            });
        }
    });
    let used = ["calls", "seats", "images", "kept", "credits"].map(|feature| used(&mut client, feature));
    // 3 workers each, 25 times; an image is 2.5 credits.
    assert_eq!(used, ["151", "151", "226", "76", "641"].map(str::to_owned));
}
