//! What each function of the consume family answers, on one connection where that is enough.

use crate::stage::{Stage, allow, ask, assert_sound, refuse, run, say, slots, used};
use entitlements_client_tests::{one, refused_with};
use postgres::Client;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Calls, each with what it says.
fn goes(client: &mut Client, steps: &[(&str, &str)]) {
    for (call, said) in steps {
        assert_eq!(say(client, call), *said, "{call}");
    }
}

/// Once on a pool that is one row, once on one that is spread over slots.
fn on_row_and_slots(feature: &str, allowance: &str, test: impl Fn(&Stage, &mut Client)) {
    for spread in [false, true] {
        let stage = Stage::new();
        let mut client = stage.connect();
        if spread {
            allow(&mut client, "acme", feature, "1000");
            stage.spread("acme", feature);
            run(&mut client, "DELETE FROM entitlements.threshold_events; UPDATE entitlements.counters SET reported = NULL");
        }
        allow(&mut client, "acme", feature, allowance);
        test(&stage, &mut client);
        assert_eq!(slots(&mut client, "acme", feature) > 0, spread);
    }
}

#[test]
fn what_goes_beyond_the_allowance_is_refused() {
    on_row_and_slots("calls", "10", |_, client| {
        goes(
            client,
            &[
                ("check_access('acme', 'calls', 10)", "granted 0 used 0 of 10 left 10"),
                ("check_access('acme', 'calls', 11)", "limit_exceeded 0 used 0 of 10 left 10"),
                ("consume('acme', 'calls', 3.5)", "granted 3.5 used 3.5 of 10 left 6.5"),
                ("try_consume('acme', 'calls', 6.500000001)", "limit_exceeded 0 used 3.5 of 10 left 6.5"),
                ("consume('acme', 'calls', 6.5)", "granted 6.5 used 10 of 10 left 0"),
                ("try_consume('acme', 'calls', 0.000000001)", "limit_exceeded 0 used 10 of 10 left 0"),
                ("release('acme', 'calls', 0.000000001)", "granted -0.000000001 used 9.999999999 of 10 left 0.000000001"),
                ("consume('acme', 'calls', 0.000000001)", "granted 0.000000001 used 10 of 10 left 0"),
            ],
        );
        let error = refuse(client, "NE002", "consume('acme', 'calls', 2)");
        let detail: serde_json::Value =
            serde_json::from_str(error.detail().expect("a denial has a detail")).expect("it is JSON");
        for (key, value) in [("account", "\"acme\""), ("feature", "\"calls\""), ("reason", "\"limit_exceeded\"")] {
            assert_eq!(detail[key].to_string(), value, "{detail}");
        }
        assert!(detail["allowance"].to_string().contains("10") && detail["requested"].to_string().contains('2'), "{detail}");
        assert_sound(client, false);
    });
}

#[test]
fn cap_gives_what_is_left() {
    on_row_and_slots("capped", "10", |_, client| {
        goes(
            client,
            &[
                ("consume('acme', 'capped', 7)", "granted 7 used 7 of 10 left 3"),
                ("check_access('acme', 'capped', 7)", "granted 0 used 7 of 10 left 3"),
                ("consume('acme', 'capped', 7)", "granted 3 used 10 of 10 left 0"),
                ("check_access('acme', 'capped')", "limit_exceeded 0 used 10 of 10 left 0"),
                ("try_consume('acme', 'capped', 7)", "limit_exceeded 0 used 10 of 10 left 0"),
                ("release('acme', 'capped', 1)", "granted -1 used 9 of 10 left 1"),
                ("try_consume('acme', 'capped', 7)", "granted 1 used 10 of 10 left 0"),
            ],
        );
        refuse(client, "NE002", "consume('acme', 'capped')");
        assert_sound(client, false);
    });
}

#[test]
fn allowed_overage_is_counted_up_to_the_ceiling() {
    on_row_and_slots("roof", "10", |_, client| {
        goes(
            client,
            &[
                ("consume('acme', 'roof', 9)", "granted 9 used 9 of 10 left 6"),
                ("try_consume('acme', 'roof', 7)", "limit_exceeded 0 used 9 of 10 left 6"),
                ("consume('acme', 'roof', 6)", "granted 6 used 15 of 10 left 0 over 5"),
                ("check_access('acme', 'roof')", "limit_exceeded 0 used 15 of 10 left 0 over 5"),
                ("release('acme', 'roof', 6)", "granted -6 used 9 of 10 left 6"),
            ],
        );
        assert_sound(client, false);
    });
    on_row_and_slots("open", "10", |_, client| {
        goes(
            client,
            &[
                ("consume('acme', 'open', 9)", "granted 9 used 9 of 10 left any"),
                ("consume('acme', 'open', 1000000)", "granted 1000000 used 1000009 of 10 left any over 999999"),
                ("release('acme', 'open', 1000000)", "granted -1000000 used 9 of 10 left any"),
            ],
        );
        assert_sound(client, false);
    });
}

fn thresholds(client: &mut Client) -> String {
    let sql = "SELECT coalesce(string_agg(concat_ws(' ', trim_scale(threshold), 'at', trim_scale(used), 'of', trim_scale(allowance)), ', '
                      ORDER BY at, threshold), '') FROM entitlements.threshold_events";
    one(client, sql, &[])
}

#[test]
fn each_threshold_is_reported_once_in_a_window() {
    on_row_and_slots("watched", "10", |_, client| {
        let step = |client: &mut Client, call: &str, reported: &str| {
            ask(client, call);
            assert_eq!(thresholds(client), reported, "after {call}");
        };
        step(client, "consume('acme', 'watched', 4.999999999)", "");
        run(client, "BEGIN");
        step(client, "consume('acme', 'watched', 0.000000001)", "0.5 at 5 of 10");
        run(client, "ROLLBACK");
        step(client, "consume('acme', 'watched', 1.000000001)", "0.5 at 6 of 10");
        step(client, "release('acme', 'watched', 2)", "0.5 at 6 of 10");
        step(client, "consume('acme', 'watched', 2)", "0.5 at 6 of 10");
        step(client, "consume('acme', 'watched', 4)", "0.5 at 6 of 10, 0.8 at 10 of 10, 1 at 10 of 10");
        step(client, "release('acme', 'watched', 10)", "0.5 at 6 of 10, 0.8 at 10 of 10, 1 at 10 of 10");
        step(client, "consume('acme', 'watched', 10)", "0.5 at 6 of 10, 0.8 at 10 of 10, 1 at 10 of 10");
    });
    on_row_and_slots("watched_open", "10", |_, client| {
        ask(client, "consume('acme', 'watched_open', 1)");
        for _ in 0..19 {
            ask(client, "consume('acme', 'watched_open')");
        }
        assert_eq!(thresholds(client), "0.5 at 5 of 10, 1 at 10 of 10, 2 at 20 of 10");
    });
}

#[test]
fn a_threshold_of_an_allowance_that_was_lowered_is_reported_by_the_next_use() {
    on_row_and_slots("watched", "10", |_, client| {
        ask(client, "consume('acme', 'watched', 4)");
        allow(client, "acme", "watched", "6");
        ask(client, "consume('acme', 'watched', 0.1)");
        assert_eq!(thresholds(client), "0.5 at 4.1 of 6");
        allow(client, "acme", "watched", "100");
        ask(client, "consume('acme', 'watched', 50)");
        assert_eq!(thresholds(client), "0.5 at 4.1 of 6");
        ask(client, "consume('acme', 'watched', 30)");
        assert_eq!(thresholds(client), "0.5 at 4.1 of 6, 0.8 at 84.1 of 100");
    });
}

#[test]
fn a_savepoint_gives_back_exactly_what_was_taken_after_it() {
    on_row_and_slots("calls", "20", |_, client| {
        run(client, "BEGIN");
        ask(client, "consume('acme', 'calls', 2)");
        run(client, "SAVEPOINT a");
        ask(client, "consume('acme', 'calls', 11)");
        run(client, "SAVEPOINT b");
        ask(client, "release('acme', 'calls', 12.5)");
        run(client, "ROLLBACK TO b");
        assert_eq!(used(client, "acme", "calls"), "13");
        run(client, "ROLLBACK TO a");
        assert_eq!(say(client, "consume('acme', 'calls', 1)"), "granted 1 used 3 of 20 left 17");
        run(client, "RELEASE a; SAVEPOINT c");
        refuse(client, "NE002", "consume('acme', 'calls', 18)");
        run(client, "ROLLBACK TO c; COMMIT");
        assert_eq!(say(client, "check_access('acme', 'calls')"), "granted 0 used 3 of 20 left 17");
        assert_sound(client, false);
    });
}

#[test]
fn each_call_of_a_statement_sees_those_before_it() {
    on_row_and_slots("calls", "20", |_, client| {
        let allowed: String = one(
            client,
            "SELECT string_agg(trim_scale((d).used) || CASE WHEN (d).allowed THEN '' ELSE '!' END, ' ' ORDER BY n)
               FROM (SELECT n, entitlements.try_consume('acme', 'calls', n) AS d FROM generate_series(1, 8) n OFFSET 0) AS calls",
            &[],
        );
        assert_eq!(allowed, "1 3 6 10 15 15! 15! 15!");
        refuse(client, "NE002", "consume('acme', 'calls') FROM generate_series(1, 6)");
        assert_eq!(used(client, "acme", "calls"), "15");
        let both = "SELECT concat_ws(' ', (entitlements.release('acme', 'calls', 15)).used, (entitlements.consume('acme', 'calls', 20)).used)";
        assert_eq!(one::<String>(client, both, &[]), "0 20");
    });
}

#[test]
fn bad_arguments_are_refused_and_take_nothing() {
    let stage = Stage::new();
    let mut client = stage.connect();
    for function in ["consume", "try_consume", "release"] {
        for n in
            ["0", "-1", "'NaN'", "'Infinity'", "'-Infinity'", "10::numeric ^ 1000", "1e18", "1e-10", "1.0000000001", "NULL"]
        {
            refuse(&mut client, "NE007", &format!("{function}('acme', 'calls', {n})"));
        }
        for (sqlstate, feature) in [("NE003", "'nothing'"), ("NE004", "'sso'"), ("NE004", "'region'"), ("NE007", "NULL")] {
            refuse(&mut client, sqlstate, &format!("{function}('acme', {feature})"));
        }
    }
    refuse(&mut client, "NE007", "release('acme', 'calls', 1)");
    ask(&mut client, "consume('acme', 'calls', 2)");
    refuse(&mut client, "NE007", "release('acme', 'calls', 2.000000001)");
    refuse(&mut client, "NE006", "release('nobody', 'calls', 1)");
    for account in ["'nobody'", "NULL", "''"] {
        refuse(&mut client, "NE001", &format!("consume({account}, 'calls')"));
        assert_eq!(ask(&mut client, &format!("try_consume({account}, 'calls')")).split(',').nth(1), Some("unknown_account"));
    }
    assert_eq!(used(&mut client, "acme", "calls"), "2");
    allow(&mut client, "acme", "calls", "999999999999999999");
    ask(&mut client, "consume('acme', 'calls', 999999999999999996.999999999)");
    assert_eq!(
        say(&mut client, "consume('acme', 'calls', 0.000000001)"),
        "granted 0.000000001 used 999999999999999999 of 999999999999999999 left 0"
    );
}

#[test]
fn usage_without_a_limit_ends_at_what_can_be_counted() {
    on_row_and_slots("calls", "\"unlimited\"", |_, client| {
        ask(client, "consume('acme', 'calls', 999999999999999999)");
        refuse(client, "NE002", "consume('acme', 'calls', 1)");
        assert_eq!(
            say(client, "consume('acme', 'calls', 0.999999999)"),
            "granted 0.999999999 used 999999999999999999.999999999 of any left any"
        );
        ask(client, "release('acme', 'calls', 999999999999999999)");
        assert_eq!(used(client, "acme", "calls"), "0.999999999");
    });
}

#[test]
fn who_may_not_use_a_feature_hears_why() {
    let stage = Stage::new();
    let mut client = stage.connect();
    let denied = |client: &mut Client, reason: &str| {
        assert!(say(client, "try_consume('acme', 'calls')").starts_with(&format!("{reason} 0 ")), "{reason}");
        assert!(say(client, "check_access('acme', 'calls')").starts_with(&format!("{reason} 0 ")), "{reason}");
        refuse(client, "NE001", "consume('acme', 'calls')");
    };
    ask(&mut client, "consume('acme', 'calls', 4)");
    ask(&mut client, "set_override('acme', 'calls', 'deny', NULL, 'test')");
    denied(&mut client, "override_denied");
    run(&mut client, "SELECT entitlements.clear_override(max(id), 'test') FROM entitlements.overrides");
    ask(&mut client, "block('acme', 'fraud', 'test')");
    denied(&mut client, "blocked");
    ask(&mut client, "unblock('acme', 'fraud', 'test')");
    ask(&mut client, "block('acme', 'fraud', 'test', 'calls')");
    denied(&mut client, "blocked");
    ask(&mut client, "unblock('acme', 'fraud', 'test', 'calls')");
    assert_eq!(say(&mut client, "consume('acme', 'calls')"), "granted 1 used 5 of 10 left 5");
    run(&mut client, "SELECT entitlements.end_subscription(max(id)) FROM entitlements.subscriptions");
    denied(&mut client, "expired");
    ask(&mut client, "define_account('new')");
    assert!(say(&mut client, "try_consume('new', 'calls')").starts_with("not_granted 0 used 0 of 0 left 0"));
}

#[test]
fn a_feature_that_draws_on_another_takes_from_both_or_none() {
    let stage = Stage::new();
    let mut client = stage.connect();
    goes(
        &mut client,
        &[
            ("consume('acme', 'images', 2)", "granted 2 used 2 of 10 left 8"),
            ("consume('acme', 'texts', 5)", "granted 5 used 5 of 10 left 5"),
            ("check_access('acme', 'ai')", "granted 0 used 22.5 of 100 left 77.5"),
            ("consume('acme', 'ai', 70)", "granted 70 used 92.5 of 100 left 7.5"),
            ("check_access('acme', 'images')", "limit_exceeded 0 used 2 of 10 left 0.75"),
            ("try_consume('acme', 'images')", "limit_exceeded 0 used 2 of 10 left 0.75"),
            ("consume('acme', 'images', 0.75)", "granted 0.75 used 2.75 of 10 left 0"),
            ("try_consume('acme', 'texts')", "limit_exceeded 0 used 5 of 10 left 0"),
            ("release('acme', 'texts', 5)", "granted -5 used 0 of 10 left 5"),
        ],
    );
    refuse(&mut client, "NE002", "consume('acme', 'images')");
    assert_eq!((used(&mut client, "acme", "images"), used(&mut client, "acme", "ai")), ("2.75".into(), "97.5".into()));
    allow(&mut client, "acme", "ai", "1000");
    assert_eq!(say(&mut client, "try_consume('acme', 'images', 8)"), "limit_exceeded 0 used 2.75 of 10 left 7.25");
    assert_eq!(used(&mut client, "acme", "ai"), "97.5");
}

#[test]
fn children_take_from_the_pool_of_their_parent_and_within_their_own_cap() {
    let stage = Stage::new();
    let mut client = stage.connect();
    ask(&mut client, "define_account('left', parent => 'acme')");
    ask(&mut client, "define_account('right', parent => 'acme')");
    allow(&mut client, "right", "calls", "3");
    goes(
        &mut client,
        &[
            ("consume('left', 'calls', 4)", "granted 4 used 4 of 10 left 6"),
            ("check_access('right', 'calls')", "granted 0 used 0 of 3 left 3"),
            ("consume('right', 'calls', 2)", "granted 2 used 2 of 3 left 1"),
            ("try_consume('right', 'calls', 2)", "limit_exceeded 0 used 2 of 3 left 1"),
            ("check_access('acme', 'calls')", "granted 0 used 6 of 10 left 4"),
            ("consume('left', 'calls', 4)", "granted 4 used 10 of 10 left 0"),
            ("try_consume('right', 'calls', 1)", "limit_exceeded 0 used 2 of 3 left 0"),
            ("release('right', 'calls', 2)", "granted -2 used 0 of 3 left 2"),
            ("consume('acme', 'calls', 2)", "granted 2 used 10 of 10 left 0"),
        ],
    );
    refuse(&mut client, "NE007", "release('right', 'calls', 1)");
    assert_eq!((used(&mut client, "acme", "calls"), used(&mut client, "right", "calls")), ("10".into(), "0".into()));
    assert_sound(&mut client, true);
}

/// Makes a credit as an operator's function would.
fn credit(client: &mut Client, feature: &str, amount: &str, rest: &str) -> i64 {
    let sql = format!(
        "INSERT INTO entitlements.credits (account_id, feature_id, amount, created_by, recorded_at, source, priority, starts_at, expires_at)
         SELECT a.id, f.id, {amount}, 'test', now(), 'test', {rest} FROM entitlements.accounts a, entitlements.features f
          WHERE a.key = 'acme' AND f.key = '{feature}' RETURNING id"
    );
    one(client, &sql, &[])
}

/// Usage of the plan's pool and of each credit, in the order of their ids.
fn by_pool(client: &mut Client, feature: &str) -> String {
    let sql = "SELECT string_agg(trim_scale(c.used + coalesce((SELECT sum(s.used) FROM entitlements.counter_slots s WHERE s.counter_id = c.id), 0))::text,
                      ' ' ORDER BY c.credit_id)
                 FROM entitlements.counters c JOIN entitlements.features f ON f.id = c.feature_id WHERE f.key = $1";
    one::<Option<String>>(client, sql, &[&feature]).unwrap_or_default()
}

#[test]
fn credits_are_used_up_in_their_order_and_given_back_in_reverse() {
    for isolation in ["READ COMMITTED", "REPEATABLE READ"] {
        let stage = Stage::new();
        let mut client = stage.connect();
        run(&mut client, &format!("SET default_transaction_isolation = '{isolation}'"));
        // Used last; first, as its priority says; before the plan's, for it expires.
        credit(&mut client, "calls", "5", "200, now() - interval '1 hour', 'infinity'");
        credit(&mut client, "calls", "3", "10, now() - interval '1 hour', 'infinity'");
        credit(&mut client, "calls", "2", "100, now() - interval '1 hour', now() + interval '1 hour'");
        credit(&mut client, "calls", "7", "1, now() + interval '1 hour', 'infinity'");
        for (call, said, pools) in [
            ("check_access('acme', 'calls', 20)", "granted 0 used 0 of 20 left 20", ""),
            ("consume('acme', 'calls', 2)", "granted 2 used 2 of 20 left 18", "2"),
            ("consume('acme', 'calls', 2)", "granted 2 used 4 of 20 left 16", "3 1"),
            ("try_consume('acme', 'calls', 17)", "limit_exceeded 0 used 4 of 20 left 16", "3 1"),
            ("consume('acme', 'calls', 12)", "granted 12 used 16 of 20 left 4", "10 1 3 2"),
            ("consume('acme', 'calls', 4)", "granted 4 used 20 of 20 left 0", "10 5 3 2"),
            ("release('acme', 'calls', 6)", "granted -6 used 14 of 20 left 6", "9 0 3 2"),
            ("release('acme', 'calls', 10)", "granted -10 used 4 of 20 left 16", "0 0 3 1"),
        ] {
            assert_eq!(say(&mut client, call), said, "{isolation}: {call}");
            assert_eq!(by_pool(&mut client, "calls"), pools, "{isolation}: {call}");
        }
        assert_sound(&mut client, true);
    }
}

#[test]
fn the_plan_is_used_before_a_credit_that_expires_later_than_its_window() {
    let stage = Stage::new();
    let mut client = stage.connect();
    ask(&mut client, "subscribe('acme', 'monthly')");
    credit(&mut client, "reports", "5", "100, now() - interval '1 hour', now() + interval '1 year'");
    ask(&mut client, "consume('acme', 'reports', 4)");
    assert_eq!(by_pool(&mut client, "reports"), "4", "the plan's pool comes first though nothing was used of it");
    ask(&mut client, "consume('acme', 'reports', 8)");
    assert_eq!(by_pool(&mut client, "reports"), "10 2");
}

#[test]
fn overage_begins_when_all_credits_are_used_up() {
    for isolation in ["READ COMMITTED", "REPEATABLE READ"] {
        let stage = Stage::new();
        let mut client = stage.connect();
        run(&mut client, &format!("SET default_transaction_isolation = '{isolation}'"));
        credit(&mut client, "roof", "5", "200, now() - interval '1 hour', 'infinity'");
        for (call, said, pools) in [
            ("consume('acme', 'roof', 12)", "granted 12 used 12 of 15 left 8", "10 2"),
            ("try_consume('acme', 'roof', 9)", "limit_exceeded 0 used 12 of 15 left 8", "10 2"),
            ("consume('acme', 'roof', 7)", "granted 7 used 19 of 15 left 1 over 4", "14 5"),
            ("release('acme', 'roof', 6)", "granted -6 used 13 of 15 left 7", "10 3"),
            ("consume('acme', 'roof', 6)", "granted 6 used 19 of 15 left 1 over 4", "14 5"),
            ("release('acme', 'roof', 19)", "granted -19 used 0 of 15 left 20", "0 0"),
            ("consume('acme', 'roof', 20)", "granted 20 used 20 of 15 left 0 over 5", "15 5"),
        ] {
            assert_eq!(say(&mut client, call), said, "{isolation}: {call}");
            assert_eq!(by_pool(&mut client, "roof"), pools, "{isolation}: {call}");
        }
    }
}

#[test]
fn cap_gives_what_the_plan_and_all_credits_have_left() {
    let stage = Stage::new();
    let mut client = stage.connect();
    credit(&mut client, "capped", "5", "200, now() - interval '1 hour', 'infinity'");
    credit(&mut client, "capped", "2", "10, now() - interval '1 hour', 'infinity'");
    goes(
        &mut client,
        &[
            ("consume('acme', 'capped', 11)", "granted 11 used 11 of 17 left 6"),
            ("consume('acme', 'capped', 11)", "granted 6 used 17 of 17 left 0"),
            ("try_consume('acme', 'capped', 11)", "limit_exceeded 0 used 17 of 17 left 0"),
        ],
    );
}

#[test]
fn a_new_window_begins_at_zero_and_the_old_one_stays() {
    let stage = Stage::new();
    let mut client = stage.connect();
    let end = Instant::now() + Duration::from_secs(20);
    let mut windows = 0;
    while windows < 2 {
        assert!(Instant::now() < end, "a window of a second ends");
        let before = say(&mut client, "check_access('acme', 'short')");
        let after = say(&mut client, "try_consume('acme', 'short', 10)");
        match (before.as_str(), after.as_str()) {
            (_, "granted 10 used 10 of 10 left 0") => windows += 1,
            ("limit_exceeded 0 used 10 of 10 left 0", "limit_exceeded 0 used 10 of 10 left 0") => {
                sleep(Duration::from_millis(20))
            }
            other => panic!("{other:?}"),
        }
    }
    let resets: bool = one(
        &mut client,
        "SELECT (d).resets_at - date_trunc('second', statement_timestamp()) = interval '1 second'
           FROM (SELECT entitlements.check_access('acme', 'short') AS d OFFSET 0) AS asked",
        &[],
    );
    assert!(resets);
    assert_eq!(used(&mut client, "acme", "short"), "20");
    // What a past window has cannot be given back in the present one.
    sleep(Duration::from_millis(1010));
    refuse(&mut client, "NE007", "release('acme', 'short', 1)");
    let tiled: bool = one(
        &mut client,
        "SELECT bool_and(window_end - window_start = interval '1 second' AND window_start = date_trunc('second', window_start))
           FROM entitlements.counters",
        &[],
    );
    assert!(tiled);
}

#[test]
fn an_allocation_has_no_windows() {
    let stage = Stage::new();
    let mut client = stage.connect();
    ask(&mut client, "consume('acme', 'seats', 4)");
    let whole: bool =
        one(&mut client, "SELECT window_start = '-infinity' AND window_end = 'infinity' FROM entitlements.counters", &[]);
    assert!(whole);
}

#[test]
fn isolation_levels_with_one_snapshot_raise_nothing_but_40001() {
    for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
        on_row_and_slots("calls", "100", |stage, client| {
            ask(client, "consume('acme', 'calls', 1)");
            let mut other = stage.connect();
            run(&mut other, &format!("BEGIN ISOLATION LEVEL {isolation}"));
            assert_eq!(say(&mut other, "check_access('acme', 'calls')"), "granted 0 used 1 of 100 left 99");
            // More than a slot has: several rows change.
            ask(client, "consume('acme', 'calls', 90)");
            assert_eq!(say(&mut other, "check_access('acme', 'calls')"), "granted 0 used 1 of 100 left 99");
            refuse(&mut other, "40001", "consume('acme', 'calls', 50)");
            run(&mut other, &format!("ROLLBACK; BEGIN ISOLATION LEVEL {isolation}"));
            for n in [2, 3] {
                ask(&mut other, &format!("consume('acme', 'calls', {n})"));
            }
            ask(&mut other, "release('acme', 'calls', 95.5)");
            ask(&mut other, "consume('acme', 'calls', 99.5)");
            refuse(&mut other, "NE002", "consume('acme', 'calls', 1)");
            run(&mut other, "ROLLBACK");
            assert_eq!(used(client, "acme", "calls"), "91");
            assert_sound(client, true);
        });
    }
}

#[test]
fn a_read_only_transaction_asks_and_does_not_take() {
    let stage = Stage::new();
    let mut client = stage.connect();
    run(&mut client, "SET default_transaction_read_only = on");
    assert_eq!(say(&mut client, "check_access('acme', 'calls')"), "granted 0 used 0 of 10 left 10");
    for function in ["consume", "try_consume", "release"] {
        refuse(&mut client, "25006", &format!("{function}('acme', 'calls')"));
    }
}

#[test]
fn prepared_transactions_keep_what_they_took_until_they_end() {
    for (end, left) in [("COMMIT PREPARED", "6"), ("ROLLBACK PREPARED", "10")] {
        on_row_and_slots("calls", "10", |stage, client| {
            let name = stage.database.name().to_owned();
            run(client, "BEGIN");
            ask(client, "consume('acme', 'calls', 4)");
            run(client, &format!("PREPARE TRANSACTION '{name}'"));
            assert_eq!(say(client, "check_access('acme', 'calls')"), "granted 0 used 0 of 10 left 10");
            run(client, "SET lock_timeout = '100ms'");
            refuse(client, "55P03", "consume('acme', 'calls', 7)");
            run(client, &format!("{end} '{name}'"));
            assert!(say(client, "check_access('acme', 'calls')").ends_with(&format!("left {left}")), "{end}");
            assert_sound(client, false);
        });
    }
}

#[test]
fn what_nobody_wants_at_once_any_more_is_one_row_again() {
    let stage = Stage::new();
    let mut client = stage.connect();
    allow(&mut client, "acme", "calls", "1000");
    stage.spread("acme", "calls");
    for _ in 0..40 {
        ask(&mut client, "consume('acme', 'calls', 7)");
    }
    run(&mut client, "UPDATE entitlements.counter_slots SET touched_at = now() + interval '1 minute'");
    assert_eq!(say(&mut client, "consume('acme', 'calls')"), "granted 1 used 281 of 1000 left 719");
    assert!(slots(&mut client, "acme", "calls") > 1, "others have used it just now");
    run(&mut client, "UPDATE entitlements.counter_slots SET touched_at = now() - interval '1 second'");
    assert_eq!(say(&mut client, "consume('acme', 'calls')"), "granted 1 used 282 of 1000 left 718");
    assert_eq!(slots(&mut client, "acme", "calls"), 0);
    assert_sound(&mut client, true);
    stage.spread("acme", "calls");
    assert_sound(&mut client, true);
}

#[test]
fn roles_without_execute_take_nothing_and_those_with_it_need_no_table() {
    let stage = Stage::new();
    let mut client = stage.connect();
    let role = format!("{}_role", stage.database.name());
    run(&mut client, &format!("CREATE ROLE {role} LOGIN"));
    let mut other = stage.database.connect_as(&role);
    refused_with(&mut other, "42501", "SELECT * FROM entitlements.counters", &[]);
    run(
        &mut client,
        &format!(
            "GRANT USAGE ON SCHEMA entitlements TO {role}; GRANT EXECUTE ON FUNCTION entitlements.consume(text, text, numeric, text, jsonb) TO {role}"
        ),
    );
    ask(&mut other, "consume('acme', 'calls', 3)");
    refused_with(&mut other, "42501", "UPDATE entitlements.counters SET used = 0", &[]);
    assert_eq!(used(&mut client, "acme", "calls"), "3");
    drop(other);
    run(&mut client, &format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn a_suspended_account_gives_back() {
    on_row_and_slots("seats", "20", |_, client| {
        ask(client, "consume('acme', 'seats', 8)");
        ask(client, "block('acme', 'billing', 'unpaid')");
        assert!(say(client, "release('acme', 'seats', 5)").starts_with("granted -5 used 3 of "));
        refuse(client, "NE007", "release('acme', 'seats', 4)");
        refuse(client, "NE001", "consume('acme', 'seats', 1)");
        ask(client, "unblock('acme', 'billing', 'paid')");
        ask(client, "set_override('acme', 'seats', 'deny', NULL, 'gone')");
        assert!(say(client, "release('acme', 'seats', 3)").starts_with("granted -3 used 0 of "));
        assert_sound(client, false);
    });
    let stage = Stage::new();
    refuse(&mut stage.connect(), "NE006", "release('nobody', 'seats', 1)");
    refuse(&mut stage.connect(), "NE007", "release(NULL::text, 'seats', 1)");
}

/// A denied first request tells when to come back, though nothing was used in this window yet.
#[test]
fn a_quota_that_was_never_used_tells_when_it_resets() {
    let stage = Stage::new();
    let mut client = stage.connect();
    ask(&mut client, "subscribe('acme', 'monthly')");
    let month = "date_trunc('month', now(), 'UTC') + interval '1 month'";
    for call in
        ["check_access('acme', 'reports', 11)", "try_consume('acme', 'reports', 11)", "check_access('acme', 'reports', 1)"]
    {
        let is_month: bool = one(&mut client, &format!("SELECT resets_at = {month} FROM entitlements.{call}"), &[]);
        assert!(is_month, "{call}");
    }
    let error = refuse(&mut client, "NE002", "consume('acme', 'reports', 11)");
    assert!(!error.detail().unwrap().contains("\"resets_at\": null"), "{error:?}");
    assert!(error.detail().unwrap().contains("resets_at"), "{error:?}");
    let never: bool = one(&mut client, "SELECT resets_at IS NULL FROM entitlements.try_consume('acme', 'calls', 11)", &[]);
    assert!(never);
}

#[test]
fn an_overdraft_is_a_number_of_units_beyond_the_allowance() {
    on_row_and_slots("lent", "10", |_, client| {
        goes(
            client,
            &[
                ("check_access('acme', 'lent', 13)", "limit_exceeded 0 used 0 of 10 left 12.5"),
                ("consume('acme', 'lent', 11)", "granted 11 used 11 of 10 left 1.5 over 1"),
                ("try_consume('acme', 'lent', 2)", "limit_exceeded 0 used 11 of 10 left 1.5 over 1"),
                ("consume('acme', 'lent', 1.5)", "granted 1.5 used 12.5 of 10 left 0 over 2.5"),
            ],
        );
        refuse(client, "NE002", "consume('acme', 'lent', 0.000000001)");
        // It stays so many units, whatever is allowed.
        allow(client, "acme", "lent", "20");
        goes(client, &[("consume('acme', 'lent', 10)", "granted 10 used 22.5 of 20 left 0 over 2.5")]);
    });
    // A credit comes on top, and settles what was lent.
    let stage = Stage::new();
    let mut client = stage.connect();
    ask(&mut client, "consume('acme', 'lent', 12)");
    ask(&mut client, "grant_credit('acme', 'lent', 5, 'paid')");
    goes(&mut client, &[("check_access('acme', 'lent', 6)", "limit_exceeded 0 used 12 of 15 left 5.5")]);
}
