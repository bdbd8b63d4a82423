//! Usage reports: a series that misses nothing unnoticed, whatever order it arrives in.

use std::collections::BTreeMap;

use entitlements_bundle::{
    Accepted, Clock, Digest, Follower, Neighbours, Purpose, TrustSet, TrustedKey, UsageJudgement, UsageReport, UsageRow,
    Window, authenticate_as, judge_usage,
};
use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::key::{AccountKey, FeatureKey};
use proptest::prelude::*;

use crate::vendor::{DAY, DEPLOYMENT, ISSUED, ISSUER, date, key, trusted};

fn row(account: &str, feature: &str, used: &str) -> UsageRow {
    UsageRow {
        account: AccountKey::parse(account).unwrap(),
        feature: FeatureKey::parse(feature).unwrap(),
        window: Some(Window { starts_at: date(ISSUED - 30 * DAY), ends_at: date(ISSUED) }),
        used: used.parse().unwrap(),
        allowance: Allowance::Finite("3000".parse().unwrap()),
    }
}

/// The report number `sequence`, a day each.
fn report(sequence: i64, previous: Option<Digest>) -> UsageReport {
    let seats = UsageRow { window: None, allowance: Allowance::Unlimited, ..row("acme", "seats", "17") };
    UsageReport {
        issuer: DEPLOYMENT.into(),
        audience: ISSUER.into(),
        issued_at: date(ISSUED + sequence * DAY + 5),
        sequence,
        previous,
        starts_at: date(ISSUED + (sequence - 1) * DAY),
        ends_at: date(ISSUED + sequence * DAY),
        rows: vec![row("acme", "actions_minutes", "2999.5"), seats],
    }
}

fn digest(report: &UsageReport) -> Digest {
    Digest::of(report.to_json().to_string().as_bytes())
}

fn trust() -> TrustSet {
    let key = TrustedKey { issuer: DEPLOYMENT.into(), purpose: Purpose::UsageReport, ..trusted(&key(5)) };
    [key].into_iter().collect()
}

fn clock() -> Clock {
    Clock { now: date(ISSUED + 400 * DAY).time(), highest: date(0).time() }
}

fn series(count: i64) -> Vec<UsageReport> {
    let mut series: Vec<UsageReport> = Vec::new();
    for sequence in 1..=count {
        series.push(report(sequence, series.last().map(digest)));
    }
    series
}

/// A vendor's memory of one site.
#[derive(Default)]
struct Vendor {
    reports: BTreeMap<i64, (Digest, Option<Digest>)>,
}

impl Vendor {
    fn neighbours(&self, sequence: i64) -> Neighbours {
        let before = self.reports.range(..sequence).next_back();
        let after = self.reports.range(sequence + 1..).next();
        Neighbours {
            same: self.reports.get(&sequence).map(|(digest, _)| *digest),
            before: before.map(|(sequence, (digest, _))| Accepted { sequence: *sequence, digest: *digest }),
            after: after.map(|(sequence, (_, previous))| Follower { sequence: *sequence, previous: previous.unwrap() }),
        }
    }

    /// What the report was answered with: missing reports before it and whether it came late, or a word.
    fn receive(&mut self, report: &UsageReport) -> Result<(i64, bool), &'static str> {
        let authentic = authenticate_as(&report.sign(&key(5)), &trust()).unwrap();
        match judge_usage(authentic, ISSUER, self.neighbours(report.sequence), clock()) {
            Ok(UsageJudgement::Repeated) => Err("repeated"),
            Ok(UsageJudgement::Accept(acceptance)) => {
                assert_eq!(acceptance.report, *report);
                let Accepted { sequence, digest } = acceptance.accepted;
                self.reports.insert(sequence, (digest, report.previous));
                Ok((acceptance.missing, acceptance.late))
            }
            Err(refusal) => Err(refusal.word()),
        }
    }
}

#[test]
fn reports_in_order_are_accepted_once() {
    let mut vendor = Vendor::default();
    for report in series(4) {
        assert_eq!(vendor.receive(&report), Ok((0, false)));
        assert_eq!(vendor.receive(&report), Err("repeated"));
    }
    assert_eq!(vendor.receive(&series(1)[0]), Err("repeated"));
}

#[test]
fn a_gap_is_reported_and_can_be_filled() {
    let mut vendor = Vendor::default();
    let series = series(6);
    assert_eq!(vendor.receive(&series[0]), Ok((0, false)));
    assert_eq!(vendor.receive(&series[4]), Ok((3, false)));
    assert_eq!(vendor.receive(&series[2]), Ok((1, true)));
    assert_eq!(vendor.receive(&series[1]), Ok((0, true)));
    assert_eq!(vendor.receive(&series[3]), Ok((0, true)));
    assert_eq!(vendor.receive(&series[5]), Ok((0, false)));
}

#[test]
fn a_restored_or_copied_site_is_found_out() {
    let mut vendor = Vendor::default();
    let series = series(4);
    for report in &series[..3] {
        vendor.receive(report).unwrap();
    }
    let other = UsageReport { rows: Vec::new(), ..series[2].clone() };
    assert_eq!(vendor.receive(&other), Err("sequence_reused"));
    assert_eq!(vendor.receive(&report(4, Some(digest(&other)))), Err("history_forked"));
    assert_eq!(vendor.receive(&series[3]), Ok((0, false)));

    let mut vendor = Vendor::default();
    vendor.receive(&series[3]).unwrap();
    assert_eq!(vendor.receive(&other), Err("history_forked"), "the one after it names another");
    assert_eq!(vendor.receive(&series[2]), Ok((2, true)));
}

#[test]
fn a_report_for_another_vendor_or_from_the_future_is_refused() {
    let elsewhere = UsageReport { audience: "https://other.example".into(), ..report(1, None) };
    assert_eq!(Vendor::default().receive(&elsewhere), Err("other_audience"));
    let issued_at = date(ISSUED + 400 * DAY + 301);
    assert_eq!(Vendor::default().receive(&UsageReport { issued_at, ..report(1, None) }), Err("issued_in_future"));
    let text = report(1, None).sign(&key(6));
    assert_eq!(authenticate_as::<UsageReport>(&text, &trust()).unwrap_err().word(), "unknown_key");
    let bundles: TrustSet = [TrustedKey { issuer: DEPLOYMENT.into(), ..trusted(&key(5)) }].into_iter().collect();
    let text = report(1, None).sign(&key(5));
    assert_eq!(authenticate_as::<UsageReport>(&text, &bundles).unwrap_err().word(), "other_purpose");
}

#[test]
fn faults_are_named_with_their_place() {
    let text = report(2, Some(Digest::of(b""))).to_json().to_string();
    for (piece, other, fault) in [
        (r#""seq":2,"#, r#""seq":1,"#, "$.prev: nothing comes before report 1"),
        (r#""prev":"47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU","#, "", "$.prev: is missing after the first report"),
        (r#""ends_at":1700172800"#, r#""ends_at":1700086400"#, "$.ends_at: is not after starts_at"),
        (r#""ends_at":1700172800"#, r#""ends_at":1700172806"#, "$.ends_at: is after iat"),
        (r#""used":2999.5"#, r#""used":-1"#, "$.rows[0].used: -1 is negative"),
        (r#""used":2999.5"#, r#""used":"1""#, "$.rows[0].used: must be a number, not a string"),
        (r#""allowance":3000"#, r#""allowance":"much""#, "$.rows[0].allowance: must be a number or \"unlimited\""),
        (r#""allowance":3000"#, r#""allowance":null"#, "$.rows[0].allowance: must be a number or \"unlimited\""),
        (r#""window":{"#, r#""window":{"a":1,"#, "$.rows[0].window.a: unknown member"),
        (r#""ends_at":1700000000"#, r#""ends_at":1697408000"#, "$.rows[0].window.ends_at: is not after starts_at"),
        (r#""rows":["#, r#""rows":[1,"#, "$.rows[0]: must be an object, not a number"),
    ] {
        assert_eq!(text.matches(piece).count(), 1, "{piece} in {text}");
        let faults = UsageReport::parse(text.replace(piece, other).as_bytes()).unwrap_err();
        assert!(faults[0].to_string().starts_with(fault), "{} for {other}", faults[0]);
    }
    let twice = UsageReport { rows: vec![row("a", "f", "1"), row("a", "g", "1"), row("a", "f", "2")], ..report(1, None) };
    let faults = UsageReport::parse(twice.to_json().to_string().as_bytes()).unwrap_err();
    assert_eq!(faults[0].to_string(), "$.rows[2]: the account, feature and window appear more than once");
}

prop_compose! {
    fn any_row()(
        (account, feature) in ("[^\\p{C}]{1,4}", "[a-z]{1,4}"),
        window in prop::option::of((0i64..1_000_000_000, 1i64..1_000_000)),
        used in 0i128..1 << 80,
        allowance in prop::option::of(0i128..1 << 80),
    ) -> UsageRow {
        let window = window.map(|(start, length)| Window { starts_at: date(start), ends_at: date(start + length) });
        let amount = |nanos| Amount::from_nanos(nanos).unwrap();
        UsageRow {
            account: AccountKey::parse(&account).unwrap(),
            feature: FeatureKey::parse(&feature).unwrap(),
            window,
            used: amount(used),
            allowance: allowance.map_or(Allowance::Unlimited, |nanos| Allowance::Finite(amount(nanos))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trip(mut rows in prop::collection::vec(any_row(), 0..6), sequence in 1i64..1000) {
        rows.sort_by(|a, b| (&a.account, &a.feature).cmp(&(&b.account, &b.feature)));
        rows.dedup_by(|a, b| (&a.account, &a.feature) == (&b.account, &b.feature));
        let report = UsageReport { rows, ..report(sequence, (sequence > 1).then(|| Digest::of(b"x"))) };
        prop_assert_eq!(UsageReport::parse(report.to_json().to_string().as_bytes()), Ok(report));
    }

    /// Whatever order a series arrives in, and however often: each report is accepted once, and what is said to be missing
    /// before one is what had not arrived.
    #[test]
    fn every_order_ends_with_every_report(arrivals in prop::collection::vec(1i64..9, 1..40)) {
        let series = series(8);
        let mut vendor = Vendor::default();
        for sequence in arrivals {
            let known: Vec<i64> = vendor.reports.keys().copied().collect();
            let answer = vendor.receive(&series[sequence as usize - 1]);
            if known.contains(&sequence) {
                prop_assert_eq!(answer, Err("repeated"));
            } else {
                let missing = (1..sequence).rev().take_while(|below| !known.contains(below)).count() as i64;
                prop_assert_eq!(answer, Ok((missing, known.iter().any(|above| *above > sequence))));
            }
        }
    }

    /// A report of another history is never accepted next to one it contradicts.
    #[test]
    fn two_histories_never_stand_side_by_side(arrivals in prop::collection::vec((1i64..6, any::<bool>()), 1..20)) {
        let one = series(5);
        let mut other = one.clone();
        for at in 1..5 {
            let previous = Some(digest(&other[at - 1]));
            other[at] = UsageReport { rows: Vec::new(), previous, ..one[at].clone() };
        }
        let mut vendor = Vendor::default();
        for (sequence, first) in arrivals {
            let _ = vendor.receive(if first { &one[sequence as usize - 1] } else { &other[sequence as usize - 1] });
            for (sequence, (digest, _)) in &vendor.reports {
                if let Some((_, Some(previous))) = vendor.reports.get(&(sequence + 1)) {
                    prop_assert_eq!(previous, digest);
                }
            }
        }
    }
}
