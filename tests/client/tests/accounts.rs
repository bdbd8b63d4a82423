//! Accounts and what they hold: every function, what it refuses, what the rows say afterwards, and two connections at once.

use entitlements_client_tests::{Database, one, refused_with};
use postgres::Client;
use std::thread;
use std::time::Duration;

const CATALOG: &str = r#"{
    "features": {
        "sso": {"kind": "flag"},
        "support": {"kind": "config", "schema": {"enum": ["community", "standard", "premium"]}},
        "minutes": {"kind": "quota", "unit": "minute"},
        "seats": {"kind": "allocation"}
    },
    "plans": {
        "free": {"kind": "base", "features": {"sso": false, "support": "community", "seats": 3}},
        "team": {"kind": "base", "rank": 10, "features": {"sso": true, "support": "standard", "seats": {"amount": 1, "per_unit": true}}},
        "old": {"kind": "base", "features": {"sso": true}}
    }
}"#;

fn stage(database: &Database) -> Client {
    let mut client = database.connect();
    apply(&mut client, CATALOG);
    apply(&mut client, r#"{"plans": {"old": {"archived": true}}}"#);
    client
}

fn apply(client: &mut Client, document: &str) {
    client.query("SELECT entitlements.apply_catalog($1::text)", &[&document]).expect("the catalog applies");
}

/// A new version of team: seats for each unit.
fn publish_team(client: &mut Client, seats: i32) {
    let features = format!(r#"{{"sso": true, "support": "standard", "seats": {{"amount": {seats}, "per_unit": true}}}}"#);
    apply(client, &format!(r#"{{"plans": {{"team": {{"features": {features}}}}}}}"#));
}

fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

fn id(client: &mut Client, sql: &str) -> i64 {
    one(client, &format!("SELECT entitlements.{sql}"), &[])
}

fn done(client: &mut Client, sql: &str) -> bool {
    one(client, &format!("SELECT entitlements.{sql}"), &[])
}

fn refuse(client: &mut Client, sqlstate: &str, sql: &str) -> String {
    refused_with(client, sqlstate, &format!("SELECT entitlements.{sql}"), &[]).message().to_owned()
}

/// The subscription's life as it is believed, times in days from now: `status quantity [from,to)`, `~` before the grace period's end.
fn life(client: &mut Client, subscription: i64) -> Vec<String> {
    let rows = client
        .query(
            "WITH day AS (SELECT *, extract(epoch FROM starts_at - now()) / 86400 AS s,
                                 CASE WHEN isfinite(ends_at) THEN extract(epoch FROM ends_at - now()) / 86400 END AS e,
                                 extract(epoch FROM grace_until - now()) / 86400 AS g
                            FROM entitlements.subscriptions WHERE id = $1 AND superseded_at IS NULL)
             SELECT concat(status, ' ', quantity, ' [', trim_scale(round(s, 3)), ',', coalesce(trim_scale(round(e, 3))::text, ''), ')',
                           '~' || trim_scale(round(g, 3))) FROM day ORDER BY starts_at, ends_at, row_id",
            &[&subscription],
        )
        .expect("the rows can be read");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Everything in one transaction, so that now() stands still and lives have whole days.
fn standing_still(test: impl FnOnce(&mut Client)) {
    let database = Database::new();
    let mut client = stage(&database);
    run(&mut client, "BEGIN");
    test(&mut client);
    run(&mut client, "COMMIT");
    let faults: i64 = one(&mut client, "SELECT count(*) FROM entitlements.verify_audit()", &[]);
    assert_eq!(faults, 0);
}

fn subscribe(client: &mut Client, from: i32, to: i32) -> i64 {
    one(
        client,
        "SELECT entitlements.subscribe('acme', 'team', starts_at => now() + make_interval(days => $1), ends_at => now() + make_interval(days => $2))",
        &[&from, &to],
    )
}

#[test]
fn define_account_creates_and_changes_what_is_given() {
    let database = Database::new();
    let mut client = stage(&database);
    let org = id(&mut client, "define_account('org')");
    let acme = id(&mut client, r#"define_account('acme', 'org', 'Europe/Vienna', '{"tier": 1.50}')"#);
    let row = |client: &mut Client| -> String {
        one(
            client,
            "SELECT concat_ws('|', parent_id, time_zone, metadata) FROM entitlements.accounts WHERE key = 'acme'",
            &[],
        )
    };
    assert_eq!(row(&mut client), format!(r#"{org}|Europe/Vienna|{{"tier": 1.50}}"#));
    assert_eq!(id(&mut client, "define_account('acme')"), acme);
    assert_eq!(row(&mut client), format!(r#"{org}|Europe/Vienna|{{"tier": 1.50}}"#));
    id(&mut client, "define_account('acme', time_zone => 'UTC', metadata => '{}')");
    assert_eq!(row(&mut client), format!("{org}|UTC|{{}}"));
    id(&mut client, "define_account('acme', parent => '')");
    assert_eq!(row(&mut client), "UTC|{}");
    let former: i64 = one(&mut client, "SELECT parent_id FROM entitlements.former_parents WHERE account_id = $1", &[&acme]);
    assert_eq!(former, org);
    let actions: String = one(
        &mut client,
        "SELECT string_agg(action, ' ' ORDER BY seq) FROM entitlements.audit_log WHERE chain_id = $1",
        &[&acme],
    );
    assert_eq!(actions, "create update update", "what changes nothing is not recorded");
}

#[test]
fn define_account_refuses_what_cannot_be() {
    let database = Database::new();
    let mut client = stage(&database);
    let long = "x".repeat(256);
    for (sqlstate, call) in [
        ("NE007", "define_account(NULL)".to_owned()),
        ("NE007", "define_account('')".to_owned()),
        ("NE007", format!("define_account('{long}')")),
        ("NE007", r"define_account(E'a\nb')".to_owned()),
        ("NE007", "define_account('erased:1')".to_owned()),
        ("NE007", "define_account('a', time_zone => 'Mars/Olympus')".to_owned()),
        ("NE007", "define_account('a', time_zone => 'utc+3')".to_owned()),
        ("NE007", "define_account('a', metadata => '[]')".to_owned()),
        ("NE007", "define_account('a', metadata => 'null')".to_owned()),
        ("NE007", "define_account('a', parent => ' ')".to_owned()),
        ("NE006", "define_account('a', parent => 'nobody')".to_owned()),
        ("NE006", "define_account('a', parent => 'a')".to_owned()),
    ] {
        refuse(&mut client, sqlstate, &call);
    }
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.accounts", &[]), 0);
    id(&mut client, &format!("define_account('{}')", "é".repeat(127)));
}

#[test]
fn parents_make_no_circle_and_no_long_line() {
    let database = Database::new();
    let mut client = stage(&database);
    id(&mut client, "define_account('0')");
    for generation in 1..=15 {
        id(&mut client, &format!("define_account('{generation}', parent => '{}')", generation - 1));
    }
    refuse(&mut client, "NE009", "define_account('16', parent => '15')");
    refuse(&mut client, "NE009", "define_account('0', parent => '0')");
    refuse(&mut client, "NE009", "define_account('0', parent => '7')");
    id(&mut client, "define_account('top')");
    refuse(&mut client, "NE009", "define_account('0', parent => 'top')");
    id(&mut client, "define_account('15', parent => '')");
    id(&mut client, "define_account('0', parent => 'top')");
    refuse(&mut client, "NE009", "define_account('15', parent => '14')");
    id(&mut client, "define_account('15', parent => '13')");
}

#[test]
fn a_subscription_begins_as_asked() {
    standing_still(|client| {
        let plain = id(client, "subscribe('acme', 'team')");
        assert_eq!(life(client, plain), ["active 1 [0,)"]);
        let trial = id(
            client,
            "subscribe('acme', 'team', quantity => 3, starts_at => now() + interval '1 day', ends_at => now() + interval '10 days',
                       trial_until => now() + interval '4 days', source => 'shop', source_ref => 'so-17', reason => 'fair', metadata => '{\"n\": 1.0}')",
        );
        assert_eq!(life(client, trial), ["trialing 3 [1,4)", "active 3 [4,10)"]);
        let only_trial = id(
            client,
            "subscribe('zoo', 'team', ends_at => now() + interval '4 days', trial_until => now() + interval '4 days', source_ref => 'so-17')",
        );
        assert_eq!(life(client, only_trial), ["trialing 1 [0,4)"]);
        let shared: i64 =
            one(client, "SELECT count(DISTINCT id) FROM entitlements.subscriptions WHERE source_ref = 'so-17'", &[]);
        assert_eq!(shared, 2, "several subscriptions may share an order");
        let ending = id(client, "subscribe('zoo', 'team', status => 'canceled', ends_at => now() + interval '4 days')");
        assert_eq!(life(client, ending), ["canceled 1 [0,4)"]);
        let past = subscribe(client, -20, -10);
        assert_eq!(life(client, past), ["active 1 [-20,-10)"]);
        let notes: String = one(
            client,
            "SELECT concat_ws('|', source, source_ref, reason, metadata, recorded_by, recorded_at = now())
               FROM entitlements.subscriptions WHERE id = $1 LIMIT 1",
            &[&trial],
        );
        assert_eq!(notes, r#"shop|so-17|fair|{"n": 1.0}|postgres|t"#);
    });
}

#[test]
fn subscribe_refuses_what_cannot_be() {
    let database = Database::new();
    let mut client = stage(&database);
    for (sqlstate, call) in [
        ("NE005", "subscribe('a', 'taem')"),
        ("NE005", "subscribe('a', 'team', 2)"),
        ("NE005", "subscribe('a', 'team', 0)"),
        ("NE009", "subscribe('a', 'old')"),
        ("NE007", "subscribe(NULL, 'team')"),
        ("NE007", "subscribe('', 'team')"),
        ("NE007", "subscribe('erased:7', 'team')"),
        ("NE007", "subscribe('a', NULL)"),
        ("NE007", "subscribe('a', 'team', quantity => 0)"),
        ("NE007", "subscribe('a', 'team', quantity => -1)"),
        ("NE007", "subscribe('a', 'team', quantity => NULL)"),
        ("NE007", "subscribe('a', 'team', starts_at => NULL)"),
        ("NE007", "subscribe('a', 'team', starts_at => 'infinity')"),
        ("NE007", "subscribe('a', 'team', starts_at => '-infinity')"),
        ("NE007", "subscribe('a', 'team', ends_at => now())"),
        ("NE007", "subscribe('a', 'team', ends_at => '-infinity')"),
        ("NE007", "subscribe('a', 'team', version_policy => 'newest')"),
        ("NE007", "subscribe('a', 'team', version_policy => NULL)"),
        ("NE007", "subscribe('a', 'team', 1, version_policy => 'latest')"),
        ("NE007", "subscribe('a', 'team', source => '')"),
        ("NE007", "subscribe('a', 'team', metadata => '\"text\"')"),
        ("NE007", "subscribe('a', 'team', status => 'past_due')"),
        ("NE007", "subscribe('a', 'team', status => 'canceled')"),
        ("NE007", "subscribe('a', 'team', status => 'unpaid')"),
        ("NE007", "subscribe('a', 'team', trial_until => now())"),
        ("NE007", "subscribe('a', 'team', trial_until => 'infinity')"),
        ("NE007", "subscribe('a', 'team', ends_at => now() + interval '1 day', trial_until => now() + interval '2 days')"),
    ] {
        refuse(&mut client, sqlstate, call);
    }
    let written: i64 = one(
        &mut client,
        "SELECT (SELECT count(*) FROM entitlements.accounts) + (SELECT count(*) FROM entitlements.audit_log WHERE chain_id > 0)",
        &[],
    );
    assert_eq!(written, 0);
    let error = refused_with(&mut client, "NE005", "SELECT entitlements.subscribe('a', 'taem')", &[]);
    assert!(error.hint().is_some_and(|hint| hint.contains("\"team\"")), "{error:?}");
}

#[test]
fn customers_keep_the_version_they_bought_unless_they_follow() {
    let database = Database::new();
    let mut client = stage(&database);
    let pinned = id(&mut client, "subscribe('pinned', 'team', quantity => 2)");
    let follows = id(&mut client, "subscribe('follows', 'team', quantity => 2, version_policy => 'latest')");
    publish_team(&mut client, 5);
    let seats = |client: &mut Client, account: &str| -> String {
        one(client, "SELECT entitlements.allowance($1::text, 'seats')::text", &[&account])
    };
    assert_eq!((seats(&mut client, "pinned"), seats(&mut client, "follows")), ("2".to_owned(), "10".to_owned()));
    id(&mut client, "subscribe('later', 'team', quantity => 2)");
    id(&mut client, "subscribe('first', 'team', 1, 2)");
    assert_eq!((seats(&mut client, "later"), seats(&mut client, "first")), ("10".to_owned(), "2".to_owned()));

    assert!(done(&mut client, &format!("change_subscription({pinned}, version_policy => 'latest')")));
    assert!(done(&mut client, &format!("change_subscription({follows}, version_policy => 'pinned')")));
    publish_team(&mut client, 7);
    assert_eq!((seats(&mut client, "pinned"), seats(&mut client, "follows")), ("14".to_owned(), "10".to_owned()));
    assert!(!done(&mut client, &format!("change_subscription({follows}, plan => 'team', version_policy => 'pinned')")));
    assert!(done(&mut client, &format!("change_subscription({follows}, version => 1)")));
    assert_eq!(seats(&mut client, "follows"), "2");
    assert!(done(&mut client, &format!("change_subscription({follows}, plan => 'free')")));
    assert_eq!(seats(&mut client, "follows"), "3");
    refuse(&mut client, "NE005", &format!("change_subscription({follows}, version => 9)"));
    refuse(&mut client, "NE005", &format!("change_subscription({follows}, plan => 'nothing')"));
    refuse(&mut client, "NE009", &format!("change_subscription({follows}, plan => 'old')"));
    refuse(&mut client, "NE007", &format!("change_subscription({follows}, version => 1, version_policy => 'latest')"));
}

#[test]
fn a_change_splits_the_row_it_falls_into() {
    standing_still(|client| {
        let subscription = subscribe(client, -10, 20);
        assert!(done(client, &format!("change_subscription({subscription}, quantity => 4, reason => 'grew')")));
        assert_eq!(life(client, subscription), ["active 1 [-10,0)", "active 4 [0,20)"]);
        assert!(!done(client, &format!("change_subscription({subscription}, quantity => 4)")));
        done(client, &format!("change_subscription({subscription}, quantity => 9, at => now() + interval '5 days')"));
        assert_eq!(life(client, subscription), ["active 1 [-10,0)", "active 4 [0,5)", "active 9 [5,20)"]);
        done(client, &format!("change_subscription({subscription}, quantity => 2, at => now() - interval '3 days')"));
        assert_eq!(
            life(client, subscription),
            ["active 1 [-10,-3)", "active 2 [-3,0)", "active 2 [0,5)", "active 2 [5,20)"],
            "a correction from a past moment on"
        );
        done(client, &format!("change_subscription({subscription}, ends_at => 'infinity')"));
        assert_eq!(life(client, subscription).last().map(String::as_str), Some("active 2 [5,)"));
        done(client, &format!("change_subscription({subscription}, ends_at => now() + interval '2 days')"));
        assert_eq!(life(client, subscription), ["active 1 [-10,-3)", "active 2 [-3,0)", "active 2 [0,2)"]);
    });
}

#[test]
fn what_was_believed_stays() {
    let database = Database::new();
    let mut client = stage(&database);
    let subscription = id(&mut client, "subscribe('acme', 'team', quantity => 1)");
    run(&mut client, &format!("SELECT entitlements.change_subscription({subscription}, quantity => 5)"));
    run(&mut client, &format!("SELECT entitlements.end_subscription({subscription})"));
    let rows: Vec<String> = client
        .query(
            "SELECT concat(status, ' ', quantity, ' believed from ', dense_rank() OVER (ORDER BY recorded_at), ' ', superseded_at IS NULL)
               FROM entitlements.subscriptions ORDER BY row_id",
            &[],
        )
        .expect("the rows can be read")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(
        rows,
        [
            "active 1 believed from 1 f",
            "active 1 believed from 2 t",
            "active 5 believed from 2 f",
            "active 5 believed from 3 t",
            "canceled 5 believed from 3 t"
        ]
    );
    let gaps: i64 = one(
        &mut client,
        "SELECT count(*) FROM entitlements.subscriptions old
          WHERE superseded_at IS NOT NULL AND NOT EXISTS (SELECT FROM entitlements.subscriptions new WHERE new.recorded_at = old.superseded_at)",
        &[],
    );
    assert_eq!(gaps, 0, "a row is superseded at the moment at which another is recorded");
}

#[test]
fn past_due_grants_until_grace_ends() {
    standing_still(|client| {
        let subscription = subscribe(client, -10, 5);
        done(
            client,
            &format!("change_subscription({subscription}, status => 'past_due', grace_until => now() + interval '7 days')"),
        );
        assert_eq!(life(client, subscription), ["active 1 [-10,0)", "past_due 1 [0,5)~7"]);
        assert!(one::<bool>(client, "SELECT entitlements.entitled('acme'::text, 'sso')", &[]));
        done(client, &format!("change_subscription({subscription}, status => 'active')"));
        assert_eq!(life(client, subscription), ["active 1 [-10,0)", "active 1 [0,5)"]);

        let ended = subscribe(client, -30, -2);
        done(
            client,
            &format!("change_subscription({ended}, status => 'past_due', grace_until => now() + interval '3 days')"),
        );
        assert_eq!(life(client, ended), ["active 1 [-30,-2)", "past_due 1 [-2,-2)~3"]);
    });
}

#[test]
fn change_subscription_refuses_what_cannot_be() {
    let database = Database::new();
    let mut client = stage(&database);
    let open = id(&mut client, "subscribe('acme', 'team')");
    let ended = id(
        &mut client,
        "subscribe('acme', 'team', starts_at => now() - interval '9 days', ends_at => now() - interval '1 day')",
    );
    for (sqlstate, call) in [
        ("NE007", "change_subscription(NULL, quantity => 1)".to_owned()),
        ("NE010", "change_subscription(12345, quantity => 1)".to_owned()),
        ("NE007", format!("change_subscription({open})")),
        ("NE007", format!("change_subscription({open}, quantity => 0)")),
        ("NE007", format!("change_subscription({open}, quantity => 2, at => NULL)")),
        ("NE007", format!("change_subscription({open}, quantity => 2, at => 'infinity')")),
        ("NE007", format!("change_subscription({open}, status => 'past_due')")),
        ("NE007", format!("change_subscription({open}, status => 'active', grace_until => now() + interval '1 day')")),
        ("NE007", format!("change_subscription({open}, grace_until => now() + interval '1 day')")),
        ("NE007", format!("change_subscription({open}, status => 'past_due', grace_until => now())")),
        ("NE007", format!("change_subscription({open}, status => 'expired')")),
        ("NE007", format!("change_subscription({open}, ends_at => now())")),
        ("NE007", format!("change_subscription({open}, ends_at => '-infinity')")),
        ("NE007", format!("change_subscription({open}, source => ' ')")),
        ("NE009", format!("change_subscription({open}, status => 'canceled')")),
        ("NE009", format!("change_subscription({ended}, quantity => 2)")),
        ("NE009", format!("change_subscription({ended}, ends_at => now() + interval '1 day')")),
        ("NE009", format!("change_subscription({ended}, status => 'active')")),
    ] {
        refuse(&mut client, sqlstate, &call);
    }
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.subscriptions", &[]), 2);
}

#[test]
fn renewal_extends_from_the_old_end_or_from_now() {
    standing_still(|client| {
        let renewed = |client: &mut Client, subscription: i64, days: i32| -> String {
            one(
                client,
                "SELECT trim_scale(extract(epoch FROM entitlements.renew_subscription($1, now() + make_interval(days => $2)) - now()) / 86400)::text",
                &[&subscription, &days],
            )
        };
        let early = subscribe(client, -10, 5);
        assert_eq!(renewed(client, early, 35), "5");
        assert_eq!(life(client, early), ["active 1 [-10,5)", "active 1 [5,35)"]);
        assert_eq!(renewed(client, early, 65), "35", "a second renewal adds a second term");
        assert_eq!(life(client, early), ["active 1 [-10,5)", "active 1 [5,35)", "active 1 [35,65)"]);

        let in_grace = subscribe(client, -10, -2);
        done(
            client,
            &format!("change_subscription({in_grace}, status => 'past_due', grace_until => now() + interval '3 days')"),
        );
        assert_eq!(renewed(client, in_grace, 28), "-2");
        assert_eq!(life(client, in_grace), ["active 1 [-10,-2)", "active 1 [-2,28)"]);

        let late = subscribe(client, -10, -2);
        assert_eq!(renewed(client, late, 30), "0");
        assert_eq!(life(client, late), ["active 1 [-10,-2)", "active 1 [0,30)"]);

        let canceled = subscribe(client, -10, 5);
        done(client, &format!("end_subscription({canceled}, now() + interval '5 days')"));
        assert_eq!(renewed(client, canceled, 35), "5");
        assert_eq!(life(client, canceled), ["active 1 [-10,0)", "canceled 1 [0,5)", "active 1 [5,35)"]);

        let past_due = subscribe(client, -10, 5);
        done(
            client,
            &format!("change_subscription({past_due}, status => 'past_due', grace_until => now() + interval '9 days')"),
        );
        assert_eq!(renewed(client, past_due, 35), "5");
        assert_eq!(life(client, past_due), ["active 1 [-10,0)", "active 1 [0,5)", "active 1 [5,35)"]);
    });
}

#[test]
fn each_row_knows_when_its_term_began() {
    standing_still(|client| {
        let subscription = subscribe(client, -10, 5);
        done(client, &format!("change_subscription({subscription}, plan => 'free', at => now() - interval '3 days')"));
        run(client, &format!("SELECT entitlements.renew_subscription({subscription}, now() + interval '35 days')"));
        done(client, &format!("change_subscription({subscription}, quantity => 2, at => now() + interval '20 days')"));
        let terms = |client: &mut Client, subscription: i64| -> Vec<String> {
            one(
                client,
                "SELECT array_agg(concat(extract(day FROM starts_at - now()), ' of ', extract(day FROM term_starts_at - now()))
                     ORDER BY starts_at)
                 FROM entitlements.subscriptions WHERE id = $1 AND superseded_at IS NULL",
                &[&subscription],
            )
        };
        assert_eq!(terms(client, subscription), ["-10 of -10", "-3 of -10", "5 of 5", "20 of 5"]);

        let tried: i64 = id(
            client,
            "subscribe('acme', 'team', starts_at => now() - interval '2 days', trial_until => now() + interval '5 days')",
        );
        assert_eq!(terms(client, tried), ["-2 of -2", "5 of -2"]);
    });
}

#[test]
fn renewal_needs_an_end_and_a_later_one() {
    let database = Database::new();
    let mut client = stage(&database);
    let open = id(&mut client, "subscribe('acme', 'team')");
    let term = id(&mut client, "subscribe('acme', 'team', ends_at => now() + interval '9 days')");
    refuse(&mut client, "NE009", &format!("renew_subscription({open}, now() + interval '1 year')"));
    refuse(&mut client, "NE007", &format!("renew_subscription({term}, now() + interval '8 days')"));
    refuse(&mut client, "NE007", &format!("renew_subscription({term}, NULL)"));
    refuse(&mut client, "NE007", "renew_subscription(NULL, now())");
    refuse(&mut client, "NE010", "renew_subscription(999, now())");
    run(&mut client, &format!("SELECT entitlements.renew_subscription({term}, 'infinity', 'for good')"));
    assert_eq!(life(&mut client, term).len(), 2);
}

#[test]
fn an_archived_plan_can_be_renewed() {
    let database = Database::new();
    let mut client = stage(&database);
    let term = id(&mut client, "subscribe('acme', 'free', ends_at => now() + interval '9 days')");
    apply(&mut client, r#"{"plans": {"free": {"archived": true}}}"#);
    run(&mut client, &format!("SELECT entitlements.renew_subscription({term}, now() + interval '1 year')"));
    assert!(done(&mut client, &format!("change_subscription({term}, quantity => 2)")));
}

#[test]
fn an_end_cuts_what_comes_later() {
    standing_still(|client| {
        let now = subscribe(client, -10, 5);
        assert!(done(client, &format!("end_subscription({now}, reason => 'left')")));
        assert_eq!(life(client, now), ["active 1 [-10,0)", "canceled 1 [0,0)"]);
        assert!(!done(client, &format!("end_subscription({now})")));

        let scheduled = subscribe(client, 3, 30);
        assert!(done(client, &format!("end_subscription({scheduled})")));
        assert_eq!(life(client, scheduled), ["canceled 1 [3,3)"]);

        let later = subscribe(client, -10, 20);
        done(client, &format!("change_subscription({later}, quantity => 2, at => now() + interval '9 days')"));
        assert!(done(client, &format!("end_subscription({later}, now() + interval '4 days')")));
        assert_eq!(life(client, later), ["active 1 [-10,0)", "canceled 1 [0,4)"]);

        let past = subscribe(client, -10, 20);
        assert!(done(client, &format!("end_subscription({past}, now() - interval '2 days')")));
        assert_eq!(life(client, past), ["active 1 [-10,-2)", "canceled 1 [-2,-2)"]);

        let in_grace = subscribe(client, -10, -2);
        done(
            client,
            &format!("change_subscription({in_grace}, status => 'past_due', grace_until => now() + interval '3 days')"),
        );
        assert!(done(client, &format!("end_subscription({in_grace})")));
        assert_eq!(life(client, in_grace), ["active 1 [-10,-2)", "past_due 1 [-2,-2)~0", "canceled 1 [-2,-2)"]);
    });
    let database = Database::new();
    let mut client = stage(&database);
    let term = id(&mut client, "subscribe('acme', 'team', ends_at => now() + interval '9 days')");
    refuse(&mut client, "NE007", &format!("end_subscription({term}, now() + interval '10 days')"));
    refuse(&mut client, "NE007", &format!("end_subscription({term}, 'infinity')"));
    refuse(&mut client, "NE007", &format!("end_subscription({term}, NULL)"));
    refuse(&mut client, "NE010", "end_subscription(999)");
}

#[test]
fn an_override_takes_the_place_of_its_sources_last() {
    let database = Database::new();
    let mut client = stage(&database);
    id(&mut client, "subscribe('acme', 'team', quantity => 5)");
    let value = |client: &mut Client, feature: &str| -> Option<serde_json::Value> {
        one(client, "SELECT entitlements.value_of('acme'::text, $1)", &[&feature])
    };
    let first = id(&mut client, "set_override('acme', 'seats', 'set', '7', 'deal')");
    assert_eq!(value(&mut client, "seats"), Some(7.into()));
    let second = id(&mut client, "set_override('acme', 'seats', 'add', '2.5', 'deal, better')");
    assert_eq!(value(&mut client, "seats"), Some(7.5.into()));
    let other = id(&mut client, "set_override('acme', 'seats', 'add', '\"unlimited\"', 'sorry', source => 'support')");
    assert_eq!(value(&mut client, "seats"), Some("unlimited".into()));
    let live: Vec<i64> =
        one(&mut client, "SELECT array_agg(id ORDER BY id) FROM entitlements.overrides WHERE ended_at IS NULL", &[]);
    assert_eq!(live, [second, other]);
    let ended: String = one(
        &mut client,
        "SELECT concat_ws('|', ended_reason, ended_by) FROM entitlements.overrides WHERE id = $1",
        &[&first],
    );
    assert_eq!(ended, "deal, better|postgres");
    assert!(done(&mut client, &format!("clear_override({other}, 'enough')")));
    assert!(!done(&mut client, &format!("clear_override({other}, 'enough')")));
    assert_eq!(value(&mut client, "seats"), Some(7.5.into()));
    id(&mut client, "set_override('acme', 'support', 'set', '\"premium\"', 'vip')");
    assert_eq!(value(&mut client, "support"), Some("premium".into()));
    id(&mut client, "set_override('acme', 'sso', 'deny', NULL, 'abuse')");
    assert_eq!(value(&mut client, "sso"), Some(false.into()));
    id(&mut client, "set_override('acme', 'sso', 'deny', 'null', 'abuse')");
}

#[test]
fn set_override_refuses_what_cannot_be() {
    let database = Database::new();
    let mut client = stage(&database);
    id(&mut client, "define_account('acme')");
    for (sqlstate, call) in [
        ("NE006", "set_override('nobody', 'sso', 'set', 'true', 'r')"),
        ("NE003", "set_override('acme', 'sos', 'set', 'true', 'r')"),
        ("NE007", "set_override(NULL, 'sso', 'set', 'true', 'r')"),
        ("NE007", "set_override('acme', NULL, 'set', 'true', 'r')"),
        ("NE007", "set_override('acme', 'sso', NULL, 'true', 'r')"),
        ("NE007", "set_override('acme', 'sso', 'allow', 'true', 'r')"),
        ("NE007", "set_override('acme', 'sso', 'set', NULL, 'r')"),
        ("NE007", "set_override('acme', 'sso', 'set', 'null', 'r')"),
        ("NE007", "set_override('acme', 'sso', 'set', '1', 'r')"),
        ("NE007", "set_override('acme', 'sso', 'add', 'true', 'r')"),
        ("NE007", "set_override('acme', 'sso', 'deny', 'true', 'r')"),
        ("NE007", "set_override('acme', 'sso', 'set', 'true', NULL)"),
        ("NE007", "set_override('acme', 'sso', 'set', 'true', ' ')"),
        ("NE007", "set_override('acme', 'sso', 'set', 'true', 'r', now())"),
        ("NE007", "set_override('acme', 'sso', 'set', 'true', 'r', source => '')"),
        ("NE007", "set_override('acme', 'support', 'set', '\"gold\"', 'r')"),
        ("NE007", "set_override('acme', 'support', 'add', '\"premium\"', 'r')"),
        ("NE007", "set_override('acme', 'seats', 'set', '-1', 'r')"),
        ("NE007", "set_override('acme', 'seats', 'set', '1e18', 'r')"),
        ("NE007", "set_override('acme', 'seats', 'set', '0.0000000001', 'r')"),
        ("NE007", "set_override('acme', 'seats', 'set', '\"lots\"', 'r')"),
        ("NE007", "set_override('acme', 'seats', 'set', '{\"amount\": 1}', 'r')"),
        ("NE007", "clear_override(NULL, 'r')"),
        ("NE010", "clear_override(77, 'r')"),
    ] {
        refuse(&mut client, sqlstate, call);
    }
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.overrides", &[]), 0);
    let largest = "999999999999999999.999999999";
    id(&mut client, &format!("set_override('acme', 'seats', 'set', '{largest}', 'r')"));
    let recorded: String = one(
        &mut client,
        "SELECT concat_ws(' ', (SELECT amount FROM entitlements.overrides),
                          (SELECT content->'new'->>'amount' FROM entitlements.audit_log ORDER BY id DESC LIMIT 1))",
        &[],
    );
    assert_eq!(recorded, format!("{largest} {largest}"), "no digit is lost");
}

#[test]
fn each_source_lifts_its_own_blocks() {
    let database = Database::new();
    let mut client = stage(&database);
    id(&mut client, "subscribe('acme', 'team')");
    let entitled = |client: &mut Client, feature: &str| -> bool {
        one(client, "SELECT entitlements.entitled('acme'::text, $1)", &[&feature])
    };
    let fraud = id(&mut client, "block('acme', 'fraud', 'odd')");
    assert_eq!(id(&mut client, "block('acme', 'fraud', 'odd')"), fraud, "the same again changes nothing");
    let legal = id(&mut client, "block('acme', 'legal', 'order', 'sso')");
    assert!(!entitled(&mut client, "seats"));
    assert!(!done(&mut client, "unblock('acme', 'billing', 'paid')"));
    assert!(!done(&mut client, "unblock('acme', 'legal', 'no such block of all')"));
    assert!(done(&mut client, "unblock('acme', 'fraud', 'fine')"));
    assert!(!done(&mut client, "unblock('acme', 'fraud', 'fine')"));
    assert!(entitled(&mut client, "seats") && !entitled(&mut client, "sso"));
    let again = id(&mut client, "block('acme', 'legal', 'another order', 'sso')");
    assert_ne!(again, legal);
    let live: Vec<i64> = one(&mut client, "SELECT array_agg(id) FROM entitlements.blocks WHERE ended_at IS NULL", &[]);
    assert_eq!(live, [again]);
    assert!(done(&mut client, "unblock('acme', 'legal', 'over', 'sso')"));
    assert!(entitled(&mut client, "sso"));
    for (sqlstate, call) in [
        ("NE006", "block('nobody', 'fraud', 'r')"),
        ("NE003", "block('acme', 'fraud', 'r', 'nothing')"),
        ("NE007", "block('acme', NULL, 'r')"),
        ("NE007", "block('acme', 'fraud', NULL)"),
        ("NE007", "block(NULL, 'fraud', 'r')"),
        ("NE006", "unblock('nobody', 'fraud', 'r')"),
        ("NE007", "unblock('acme', '', 'r')"),
    ] {
        refuse(&mut client, sqlstate, call);
    }
}

#[test]
fn an_export_has_everything() {
    let database = Database::new();
    let mut client = stage(&database);
    run(
        &mut client,
        "SELECT entitlements.define_account('org');
         SELECT entitlements.define_account('acme', 'org', metadata => '{\"n\": 12345678901234567890.123456789}');
         SELECT entitlements.subscribe('acme', 'team', source_ref => 'so-1');
         SELECT entitlements.set_override('acme', 'sso', 'deny', NULL, 'secret reason');
         SELECT entitlements.block('acme', 'fraud', 'odd', 'seats');
         SELECT entitlements.define_account('acme', parent => '')",
    );
    run(&mut client, "SET TimeZone = 'Asia/Tokyo'");
    let summary: String = one(
        &mut client,
        "SELECT concat_ws(' ', e->'account'->'metadata'->>'n', e->'former_parents'->0->>'parent', e->'subscriptions'->0->>'plan',
                          e->'subscriptions'->0->>'version', e->'overrides'->0->>'reason', e->'blocks'->0->>'feature',
                          jsonb_array_length(e->'audit_log'), right(e->'account'->>'created_at', 6))
           FROM entitlements.export_account('acme') e",
        &[],
    );
    assert_eq!(summary, "12345678901234567890.123456789 org team 1 secret reason seats 5 +00:00");
    refuse(&mut client, "NE006", "export_account('nobody')");
    refuse(&mut client, "NE007", "export_account(NULL)");
}

#[test]
fn erasure_leaves_nothing_personal() {
    let database = Database::new();
    let mut client = stage(&database);
    run(
        &mut client,
        "SELECT entitlements.define_account('org');
         SELECT entitlements.define_account('ann@sample.org', 'org', 'Europe/Vienna', '{\"name\": \"Ann\"}');
         SELECT entitlements.subscribe('ann@sample.org', 'team', source_ref => 'Ann-17', reason => 'Ann asked', metadata => '{\"by\": \"Ann\"}');
         SELECT entitlements.change_subscription(1, quantity => 2, reason => 'Ann again');
         SELECT entitlements.set_override('ann@sample.org', 'support', 'set', '\"premium\"', 'Ann is nice');
         SELECT entitlements.block('ann@sample.org', 'fraud', 'Ann?');
         SELECT entitlements.unblock('ann@sample.org', 'fraud', 'not Ann');
         SELECT entitlements.block('ann@sample.org', 'legal', 'Ann!')",
    );
    refuse(&mut client, "NE009", "erase_account('org', 'asked')");
    refuse(&mut client, "NE007", "erase_account('ann@sample.org', NULL)");
    let account = id(&mut client, "erase_account('ann@sample.org', 'asked')");
    let left: i64 = one(
        &mut client,
        "SELECT count(*) FROM (SELECT to_jsonb(t)::text FROM entitlements.accounts t UNION ALL SELECT to_jsonb(t)::text FROM entitlements.subscriptions t
           UNION ALL SELECT to_jsonb(t)::text FROM entitlements.overrides t UNION ALL SELECT to_jsonb(t)::text FROM entitlements.blocks t
           UNION ALL SELECT to_jsonb(t)::text FROM entitlements.audit_log t WHERE chain_id > 0) rows (text) WHERE text ~* 'ann|vienna|premium'",
        &[],
    );
    assert_eq!(left, 0);
    let live: i64 = one(
        &mut client,
        "SELECT (SELECT count(*) FROM entitlements.subscriptions WHERE superseded_at IS NULL AND in_force_until > now())
              + (SELECT count(*) FROM entitlements.overrides WHERE ended_at IS NULL) + (SELECT count(*) FROM entitlements.blocks WHERE ended_at IS NULL)",
        &[],
    );
    assert_eq!(live, 0);
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.verify_audit()", &[]), 0);
    let erased = format!("erased:{account}");
    for call in [
        format!("subscribe('{erased}', 'team')"),
        format!("define_account('{erased}')"),
        format!("define_account('child', '{erased}')"),
        format!("set_override('{erased}', 'sso', 'set', 'true', 'r')"),
        format!("block('{erased}', 'fraud', 'r')"),
        format!("erase_account('{erased}', 'r')"),
        "change_subscription(1, quantity => 3)".to_owned(),
        "renew_subscription(1, now() + interval '1 year')".to_owned(),
        "end_subscription(1)".to_owned(),
        "clear_override(1, 'r')".to_owned(),
    ] {
        refuse(&mut client, "NE009", &call);
    }
    refuse(&mut client, "NE006", "block('ann@sample.org', 'fraud', 'r')");
    assert_ne!(id(&mut client, "define_account('ann@sample.org')"), account, "the key is free");
    id(&mut client, "erase_account('org', 'its children are gone')");
}

/// Lets `second` run while a transaction that did `first` is still open; it must wait for that, and go on when it commits.
fn one_after_the_other(database: &Database, first: &str, second: &str) -> Result<(), String> {
    let mut one_client = database.connect();
    let mut other = database.connect();
    run(&mut one_client, &format!("BEGIN; {first}"));
    let pid: i32 = one(&mut other, "SELECT pg_backend_pid()", &[]);
    let second = second.to_owned();
    let waiting = thread::spawn(move || {
        other.batch_execute(&second).map_err(|error| error.as_db_error().expect("a server error").code().code().to_owned())
    });
    let waits = (0..500).any(|_| {
        thread::sleep(Duration::from_millis(10));
        one(
            &mut one_client,
            "SELECT coalesce(wait_event_type = 'Lock', false) FROM pg_stat_activity WHERE pid = $1",
            &[&pid],
        )
    });
    assert!(waits, "the second waits for the first");
    run(&mut one_client, "COMMIT");
    waiting.join().expect("no panic")
}

#[test]
fn two_who_subscribe_a_new_account_share_it() {
    let database = Database::new();
    let mut client = stage(&database);
    let call = "SELECT entitlements.subscribe('new', 'team')";
    assert_eq!(one_after_the_other(&database, call, call), Ok(()));
    let counts: String = one(
        &mut client,
        "SELECT concat((SELECT count(*) FROM entitlements.accounts), (SELECT count(DISTINCT id) FROM entitlements.subscriptions),
                       (SELECT count(*) FROM entitlements.verify_audit()))",
        &[],
    );
    assert_eq!(counts, "120");
}

#[test]
fn two_overrides_at_once_leave_one_live() {
    let database = Database::new();
    let mut client = stage(&database);
    id(&mut client, "define_account('acme')");
    let call = |seats: i32| format!("SELECT entitlements.set_override('acme', 'seats', 'set', '{seats}', 'r')");
    assert_eq!(one_after_the_other(&database, &call(1), &call(2)), Ok(()));
    let live: String =
        one(&mut client, "SELECT string_agg(amount::text, ' ') FROM entitlements.overrides WHERE ended_at IS NULL", &[]);
    assert_eq!(live, "2");
}

/// The one that waits began earlier than the one it waits for: belief still goes forward in time, and no change is lost.
#[test]
fn changes_at_once_happen_one_after_the_other() {
    let database = Database::new();
    let mut client = stage(&database);
    let change = |what: &str| format!("SELECT entitlements.change_subscription(1, {what})");
    id(&mut client, "subscribe('acme', 'team')");
    let mut early = database.connect();
    run(&mut early, "BEGIN; SELECT now()");
    assert_eq!(one_after_the_other(&database, &change("quantity => 4"), &change("plan => 'free'")), Ok(()));
    run(&mut early, "SELECT entitlements.change_subscription(1, source_ref => 'so-9'); COMMIT");
    let last: String = one(
        &mut client,
        "SELECT concat_ws(' ', plan.key, quantity, source_ref) FROM entitlements.subscriptions subscription
           JOIN entitlements.plans plan ON plan.id = plan_id WHERE superseded_at IS NULL ORDER BY starts_at DESC LIMIT 1",
        &[],
    );
    assert_eq!(last, "free 4 so-9");
    let end = "SELECT entitlements.end_subscription(1)";
    assert_eq!(one_after_the_other(&database, end, &change("quantity => 9")), Err("NE009".to_owned()));
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.verify_audit()", &[]), 0);
}

#[test]
fn change_and_end_at_once_keep_both() {
    let database = Database::new();
    let mut client = stage(&database);
    id(&mut client, "subscribe('acme', 'team', ends_at => now() + interval '30 days')");
    let change = "SELECT entitlements.change_subscription(1, quantity => 4)";
    let end = "SELECT entitlements.end_subscription(1, now() + interval '9 days')";
    assert_eq!(one_after_the_other(&database, change, end), Ok(()));
    let last: String = one(
        &mut client,
        "SELECT concat_ws(' ', status, quantity, round(extract(epoch FROM ends_at - now()) / 86400)) FROM entitlements.subscriptions
          WHERE superseded_at IS NULL ORDER BY starts_at DESC LIMIT 1",
        &[],
    );
    assert_eq!(last, "canceled 4 9");
}

#[test]
fn an_erasure_and_a_change_at_once_exclude_each_other() {
    let database = Database::new();
    let mut client = stage(&database);
    id(&mut client, "subscribe('acme', 'team')");
    let erase = "SELECT entitlements.erase_account('acme', 'asked')";
    let refused = one_after_the_other(&database, erase, "SELECT entitlements.subscribe('acme', 'team')");
    assert_eq!(refused, Err("NE006".to_owned()));
    id(&mut client, "define_account('org')");
    let refused = one_after_the_other(
        &database,
        "SELECT entitlements.define_account('below', 'org')",
        "SELECT entitlements.erase_account('org', 'asked')",
    );
    assert_eq!(refused, Err("NE009".to_owned()), "an account that is just getting a child is not erased");
}

#[test]
fn two_parents_at_once_make_no_circle() {
    let database = Database::new();
    let mut client = stage(&database);
    for account in ["a", "b", "c", "d"] {
        id(&mut client, &format!("define_account('{account}')"));
    }
    let below = |child: &str, parent: &str| format!("SELECT entitlements.define_account('{child}', '{parent}')");
    run(&mut client, &format!("{}; {}", below("a", "b"), below("c", "d")));
    assert_eq!(one_after_the_other(&database, &below("b", "c"), &below("d", "a")), Err("NE009".to_owned()));
}

#[test]
fn a_snapshot_that_is_too_old_is_refused_for_a_retry() {
    let database = Database::new();
    let mut client = stage(&database);
    id(&mut client, "subscribe('acme', 'team')");
    let mut other = database.connect();
    let mut round = 0;
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        for call in [
            "SELECT entitlements.change_subscription(1, quantity => 9)",
            "SELECT entitlements.subscribe('acme', 'team')",
            "SELECT entitlements.block('acme', 'legal', 'r')",
            "SELECT entitlements.define_account('acme', metadata => '{}')",
        ] {
            run(&mut client, &format!("BEGIN ISOLATION LEVEL {level}; SELECT FROM entitlements.accounts"));
            round += 1;
            run(&mut other, &format!("SELECT entitlements.block('acme', 'fraud', 'round {round}')"));
            refused_with(&mut client, "40001", call, &[]);
            run(&mut client, "ROLLBACK");
            run(&mut client, &format!("BEGIN ISOLATION LEVEL {level}; {call}; COMMIT"));
        }
    }
    run(&mut client, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM entitlements.accounts");
    run(&mut other, "SELECT entitlements.define_account('young')");
    refused_with(&mut client, "40001", "SELECT entitlements.subscribe('young', 'team')", &[]);
    run(&mut client, "ROLLBACK");
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.verify_audit()", &[]), 0);
}

#[test]
fn many_at_once_lose_nothing() {
    let database = Database::new();
    let mut client = stage(&database);
    thread::scope(|scope| {
        for worker in 0..6 {
            let mut worker_client = database.connect();
            scope.spawn(move || {
                for round in 0..15 {
                    let account = (worker + round) % 3;
                    run(
                        &mut worker_client,
                        &format!(
                            "SELECT entitlements.set_override('{account}', 'seats', 'add', '{round}', 'r', source => 'worker {worker}')
                               FROM entitlements.subscribe('{account}', 'team') subscription"
                        ),
                    );
                }
            });
        }
    });
    let counts: String = one(
        &mut client,
        "SELECT concat_ws(' ', (SELECT count(*) FROM entitlements.accounts), (SELECT count(*) FROM entitlements.subscriptions),
                          (SELECT count(*) FROM entitlements.overrides), (SELECT count(*) FROM entitlements.overrides WHERE ended_at IS NULL),
                          (SELECT count(*) FROM entitlements.audit_log WHERE chain_id > 0), (SELECT count(*) FROM entitlements.verify_audit()))",
        &[],
    );
    assert_eq!(counts, "3 90 90 18 183 0");
}

#[test]
fn who_was_granted_nothing_can_call_nothing() {
    let database = Database::new();
    let mut client = stage(&database);
    let role = format!("nobody_of_{}", database.name());
    run(&mut client, &format!("CREATE ROLE {role}; SET ROLE {role}"));
    for call in
        ["define_account('a')", "subscribe('a', 'team')", "export_account('a')", "erase_account('a', 'r')", "verify_audit()"]
    {
        refuse(&mut client, "42501", call);
    }
    run(&mut client, &format!("RESET ROLE; DROP ROLE {role}"));
}
