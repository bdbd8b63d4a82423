//! Where usage starts again at zero, seen from outside: usage that happened at known times is counted in the windows that contain
//! them, over changes of the clock, the ends of months and leap days.

use entitlements_client_tests::{Database, one};
use postgres::Client;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const CATALOG: &str = r#"SELECT entitlements.apply_catalog('{
    "features": {"daily": {"kind": "quota", "period": "1 day", "anchor": "calendar"},
                 "weekly": {"kind": "quota", "period": "1 week", "anchor": "calendar"},
                 "monthly": {"kind": "quota", "period": "1 month", "anchor": "calendar"},
                 "hourly": {"kind": "quota", "period": "6 hours", "anchor": "subscription"},
                 "days": {"kind": "quota", "period": "1 day", "anchor": "subscription"},
                 "months": {"kind": "quota", "period": "1 month", "anchor": "subscription"},
                 "years": {"kind": "quota", "period": "1 year", "anchor": "subscription"}},
    "plans": {"team": {"kind": "base", "features": {
                 "daily": 10, "weekly": 10, "monthly": 10, "hourly": 10, "days": 10, "months": 10, "years": 10}},
              "late": {"kind": "base", "features": {"months": 20}}}}')"#;

/// With account `acme` in a time zone, which has the plan since a time.
fn since(time_zone: &str, starts_at: &str) -> (Database, Client) {
    let database = Database::new();
    let mut client = database.connect();
    client
        .batch_execute(&format!(
            "{CATALOG};
             SELECT entitlements.define_account('acme', time_zone => '{time_zone}');
             SELECT entitlements.subscribe('acme', 'team', starts_at => '{starts_at}');
             SET TimeZone = '{time_zone}'"
        ))
        .unwrap();
    (database, client)
}

/// Records a unit at each of these times and tells the windows, in the time zone, with what was used in them.
fn windows(client: &mut Client, feature: &str, times: &[&str]) -> Vec<String> {
    client
        .query(
            "SELECT entitlements.record_usage((SELECT jsonb_agg(jsonb_build_object('account', 'acme', 'feature', $1::text, 'at', to_char(at::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')))
                                                 FROM unnest($2::text[]) AS at))",
            &[&feature, &times],
        )
        .unwrap();
    let form = "YYYY-MM-DD HH24:MI";
    let rows = client
        .query(
            "SELECT concat(to_char(window_start, $2), ' to ', to_char(window_end, $2), ', ', extract(epoch FROM window_end - window_start)::int8 / 3600, ' hours: ', used)
               FROM entitlements.usage_history('acme', $1)",
            &[&feature, &form],
        )
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[test]
fn a_day_on_which_the_clock_changes_is_shorter_or_longer() {
    let (_database, mut client) = since("Europe/Vienna", "2024-12-01 00:00+00");
    assert_eq!(
        windows(
            &mut client,
            "daily",
            &[
                "2025-03-29 23:59:59.999999",
                "2025-03-30 00:00",
                "2025-03-30 23:59:59",
                "2025-03-31 00:00",
                "2025-10-26 00:00",
                "2025-10-26 02:30+02",
                "2025-10-26 02:30+01",
                "2025-10-26 23:59",
            ]
        ),
        [
            "2025-03-29 00:00 to 2025-03-30 00:00, 24 hours: 1",
            "2025-03-30 00:00 to 2025-03-31 00:00, 23 hours: 2",
            "2025-03-31 00:00 to 2025-04-01 00:00, 24 hours: 1",
            "2025-10-26 00:00 to 2025-10-27 00:00, 25 hours: 4",
        ]
    );
    assert_eq!(
        windows(&mut client, "weekly", &["2025-03-30 23:59", "2025-03-31 00:00", "2025-10-26 12:00"]),
        [
            "2025-03-24 00:00 to 2025-03-31 00:00, 167 hours: 1",
            "2025-03-31 00:00 to 2025-04-07 00:00, 168 hours: 1",
            "2025-10-20 00:00 to 2025-10-27 00:00, 169 hours: 1",
        ]
    );
    assert_eq!(
        windows(&mut client, "monthly", &["2025-03-31 23:59", "2025-04-01 00:00", "2025-10-01 00:00"]),
        [
            "2025-03-01 00:00 to 2025-04-01 00:00, 743 hours: 1",
            "2025-04-01 00:00 to 2025-05-01 00:00, 720 hours: 1",
            "2025-10-01 00:00 to 2025-11-01 00:00, 745 hours: 1",
        ]
    );
}

/// Each window is counted from the start, so the day comes back after a shorter month.
#[test]
fn a_subscription_of_the_31st_has_windows_to_the_ends_of_months() {
    let (_database, mut client) = since("Europe/Vienna", "2024-01-31 10:00+01");
    assert_eq!(
        windows(
            &mut client,
            "months",
            &[
                "2024-01-31 10:00",
                "2024-02-29 09:59:59",
                "2024-02-29 10:00",
                "2024-03-31 09:59",
                "2024-03-31 10:00",
                "2024-04-30 10:00",
                "2025-02-28 10:00",
                "2025-03-31 09:59",
            ]
        ),
        [
            "2024-01-31 10:00 to 2024-02-29 10:00, 696 hours: 2",
            "2024-02-29 10:00 to 2024-03-31 10:00, 743 hours: 2",
            "2024-03-31 10:00 to 2024-04-30 10:00, 720 hours: 1",
            "2024-04-30 10:00 to 2024-05-31 10:00, 744 hours: 1",
            "2025-02-28 10:00 to 2025-03-31 10:00, 743 hours: 2",
        ]
    );
    assert_eq!(
        windows(&mut client, "days", &["2024-03-31 09:59", "2024-03-31 10:00"]),
        ["2024-03-30 10:00 to 2024-03-31 10:00, 23 hours: 1", "2024-03-31 10:00 to 2024-04-01 10:00, 24 hours: 1"]
    );
    // The present window is one of these too.
    let resets: bool = one(
        &mut client,
        "SELECT resets_at = (SELECT min(edge) FROM (SELECT (timestamp '2024-01-31 10:00' + n * interval '1 month') AT TIME ZONE 'Europe/Vienna' AS edge
                                                      FROM generate_series(1, 2400) AS n) AS edges WHERE edge > now())
           FROM entitlements.consume('acme', 'months')",
        &[],
    );
    assert!(resets);
}

#[test]
fn a_subscription_of_a_leap_day_has_a_window_a_year() {
    let (_database, mut client) = since("UTC", "2024-02-29 00:00+00");
    assert_eq!(
        windows(&mut client, "years", &["2025-02-27 23:59", "2025-02-28 00:00", "2026-02-28 00:00"]),
        [
            "2024-02-29 00:00 to 2025-02-28 00:00, 8760 hours: 1",
            "2025-02-28 00:00 to 2026-02-28 00:00, 8760 hours: 1",
            "2026-02-28 00:00 to 2027-02-28 00:00, 8760 hours: 1",
        ]
    );
}

/// Hours are hours, whatever the clock on the wall says.
#[test]
fn hours_do_not_follow_the_clock_on_the_wall() {
    let (_database, mut client) = since("America/New_York", "2025-11-01 22:00-04");
    assert_eq!(
        windows(
            &mut client,
            "hourly",
            &["2025-11-01 22:00-04", "2025-11-02 01:30-04", "2025-11-02 01:30-05", "2025-11-02 03:00-05"]
        ),
        ["2025-11-01 22:00 to 2025-11-02 03:00, 6 hours: 3", "2025-11-02 03:00 to 2025-11-02 09:00, 6 hours: 1"]
    );
}

/// With several it is the base plan that began first.
#[test]
fn windows_go_by_the_subscription_that_gives_the_feature() {
    let (_database, mut client) = since("UTC", "2025-01-10 00:00+00");
    client
        .batch_execute(
            "SELECT entitlements.subscribe('acme', 'late', starts_at => '2025-03-20 00:00+00');
             UPDATE entitlements.subscriptions SET ends_at = '2025-06-15 00:00+00' WHERE id = 1",
        )
        .unwrap();
    windows(&mut client, "months", &["2025-02-09 23:59", "2025-04-01 00:00", "2025-06-14 00:00"]);
    // A window that has begun stays, also when another subscription gives the feature.
    assert_eq!(
        windows(&mut client, "months", &["2025-06-15 00:00", "2025-07-20 00:00"]),
        [
            "2025-01-10 00:00 to 2025-02-10 00:00, 744 hours: 1",
            "2025-03-10 00:00 to 2025-04-10 00:00, 744 hours: 1",
            "2025-06-10 00:00 to 2025-07-10 00:00, 720 hours: 2",
            "2025-07-20 00:00 to 2025-08-20 00:00, 744 hours: 1",
        ]
    );
}

/// Random starts and times, compared with what the server's own arithmetic says about the clock on the wall.
#[test]
fn windows_are_counted_on_the_clock_on_the_wall() {
    let (_database, mut client) = since("UTC", "2024-01-01 00:00+00");
    let mut random = StdRng::seed_from_u64(31);
    for number in 0..60 {
        let zone = ["Europe/Vienna", "America/New_York", "Australia/Lord_Howe", "America/St_Johns", "Asia/Kathmandu", "UTC"]
            [random.random_range(0..6)];
        let (feature, period) = [("days", "1 day"), ("months", "1 month"), ("months", "1 month"), ("years", "1 year")]
            [random.random_range(0..4)];
        // Most of them at the ends of months.
        let (month, day) = (random.random_range(1..=12), random.random_range(25..=31));
        let starts_at = format!(
            "(make_date(2019, {month}, 1) + least({day}, extract(day FROM make_date(2019, {month}, 1) + interval '1 month - 1 day')::int) - 1
              + make_time({}, {}, 0)) AT TIME ZONE '{zone}'",
            random.random_range(0..24),
            random.random_range(0..60)
        );
        let at =
            format!("timestamptz '2020-02-01 00:00+00' + {} * interval '1 second'", random.random_range(0..189_000_000));
        let account = format!("w{number}");
        client
            .batch_execute(&format!(
                "SELECT entitlements.define_account('{account}', time_zone => '{zone}');
                 SELECT entitlements.subscribe('{account}', 'team', starts_at => {starts_at});
                 SELECT entitlements.record_usage(jsonb_build_array(jsonb_build_object('account', '{account}', 'feature', '{feature}',
                            'at', to_char(({at}) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'))))"
            ))
            .unwrap();
        let differs: Option<String> = one(
            &mut client,
            &format!(
                "SELECT (WITH edges AS (
                     SELECT (({starts_at}) AT TIME ZONE '{zone}' + n * interval '{period}') AT TIME ZONE '{zone}' AS edge FROM generate_series(0, 4000) AS n),
                 expected AS (
                     SELECT (SELECT max(edge) FROM edges WHERE edge <= {at}) AS window_start, (SELECT min(edge) FROM edges WHERE edge > {at}) AS window_end)
                 SELECT concat_ws(', ', found, expected, {at}, {starts_at}) FROM expected, entitlements.usage_history('{account}', '{feature}') AS found
                  WHERE (found.window_start, found.window_end) IS DISTINCT FROM (expected.window_start, expected.window_end))"
            ),
            &[],
        );
        assert_eq!(differs, None, "{feature} of {zone}");
    }
}
