//! Which bundles a database accepts, in which order and at what time.

use entitlements_bundle::{
    Accepted, BUNDLE_TYPE, Bundle, Clock, Digest, IntroducedKey, Judgement, Jws, LEEWAY, Refusal, TrustSet, TrustedKey,
    authenticate, judge,
};
use entitlements_model::time::Time;
use proptest::prelude::*;

use crate::vendor::{DAY, DEPLOYMENT, ISSUED, bundle, date, key, sign, trust, trusted};

fn at(seconds: i64) -> Time {
    date(seconds).time()
}

fn clock(seconds: i64) -> Clock {
    Clock { now: at(seconds), highest: at(0) }
}

fn decide(bundle: &Bundle, last: Option<Accepted>, clock: Clock) -> Result<Judgement, Refusal> {
    judge(authenticate(&sign(bundle), &trust()).unwrap(), DEPLOYMENT, &trust(), last, clock)
}

fn word(bundle: &Bundle, last: Option<Accepted>, clock: Clock) -> &'static str {
    match decide(bundle, last, clock) {
        Ok(Judgement::Accept(_)) => "accept",
        Ok(Judgement::NoOp) => "no_op",
        Err(refusal) => refusal.word(),
    }
}

fn digest(bundle: &Bundle) -> Digest {
    Digest::of(bundle.to_json().to_string().as_bytes())
}

fn accepted(bundle: &Bundle) -> Option<Accepted> {
    Some(Accepted { sequence: bundle.sequence, digest: digest(bundle) })
}

#[test]
fn an_acceptance_says_what_to_keep() {
    let now = clock(ISSUED + 10);
    let Ok(Judgement::Accept(acceptance)) = decide(&bundle(7), accepted(&bundle(3)), now) else { panic!() };
    assert_eq!(acceptance.bundle, bundle(7));
    assert_eq!(Some(acceptance.accepted), accepted(&bundle(7)));
    assert_eq!((acceptance.highest, acceptance.missed), (at(ISSUED + 10), 3));
    let early = Clock { now: at(ISSUED - 60), highest: at(0) };
    let Ok(Judgement::Accept(acceptance)) = decide(&bundle(7), None, early) else { panic!() };
    assert_eq!((acceptance.highest, acceptance.missed), (at(ISSUED), 0));
}

#[test]
fn sequence_numbers_rise() {
    let last = accepted(&bundle(5));
    let now = clock(ISSUED);
    assert_eq!(word(&bundle(6), last, now), "accept");
    assert_eq!(word(&bundle(5), last, now), "no_op");
    assert_eq!(word(&bundle(4), last, now), "replayed");
    let other = Bundle { grace: 0, ..bundle(5) };
    assert_eq!(word(&other, last, now), "sequence_reused");
    assert!(decide(&other, last, now).unwrap_err().is_alarm());
    assert!(!decide(&bundle(4), last, now).unwrap_err().is_alarm());
}

#[test]
fn a_bundle_follows_the_one_it_names() {
    let now = clock(ISSUED);
    let next = |sequence, previous: &Bundle| Bundle { previous: Some(digest(previous)), ..bundle(sequence) };
    let other = Bundle { grace: 0, ..bundle(5) };
    assert_eq!(word(&next(6, &bundle(5)), accepted(&bundle(5)), now), "accept");
    assert_eq!(word(&next(6, &other), accepted(&bundle(5)), now), "history_forked");
    assert_eq!(word(&next(7, &bundle(6)), accepted(&bundle(5)), now), "accept");
    assert_eq!(word(&next(6, &bundle(5)), None, now), "accept");
}

#[test]
fn a_bundle_is_for_one_database_only() {
    let refusal = decide(&Bundle { audience: "site-8".into(), ..bundle(1) }, None, clock(ISSUED)).unwrap_err();
    assert_eq!(refusal.to_string(), "the document is for 'site-8', not for 'site-7'");
    let upper = Bundle { audience: "SITE-7".into(), ..bundle(1) };
    assert_eq!(word(&upper, None, clock(ISSUED)), "other_audience");
}

#[test]
fn a_bundle_has_its_time() {
    let leeway = LEEWAY / 1_000_000;
    let later = Bundle { not_before: date(ISSUED + DAY), ..bundle(1) };
    for (bundle, seconds, expected) in [
        (bundle(1), ISSUED - leeway, "accept"),
        (bundle(1), ISSUED - leeway - 1, "issued_in_future"),
        (bundle(1), ISSUED + 30 * DAY - 1, "accept"),
        (bundle(1), ISSUED + 30 * DAY, "expired"),
        (later.clone(), ISSUED + DAY - leeway - 1, "not_yet_valid"),
        (later, ISSUED + DAY - leeway, "accept"),
    ] {
        assert_eq!(word(&bundle, None, clock(seconds)), expected, "at {seconds}");
    }
}

#[test]
fn setting_the_clock_back_revives_no_bundle() {
    for back in [DAY, 365 * DAY] {
        let behind = Clock { now: at(ISSUED + 30 * DAY - back), highest: at(ISSUED + 30 * DAY) };
        assert_eq!(word(&bundle(1), None, behind), "expired");
    }
    let behind = Clock { now: at(ISSUED - 365 * DAY), highest: at(ISSUED + DAY) };
    let Ok(Judgement::Accept(acceptance)) = decide(&bundle(1), None, behind) else { panic!() };
    assert_eq!(acceptance.highest, at(ISSUED + DAY));
}

#[test]
fn a_key_signs_in_its_time_only() {
    let word = |from: i64, to: i64, now: i64| {
        let signer = TrustedKey { not_before: at(from), not_after: at(to), ..trusted(&key(1)) };
        let trust: TrustSet = [signer].into_iter().collect();
        let authentic = authenticate(&sign(&bundle(1)), &trust).unwrap();
        judge(authentic, DEPLOYMENT, &trust, None, clock(now)).map_or_else(|refusal| refusal.word(), |_| "accept")
    };
    assert_eq!(word(ISSUED, ISSUED + DAY, ISSUED), "accept");
    assert_eq!(word(ISSUED, ISSUED + DAY, ISSUED - 60), "accept");
    assert_eq!(word(ISSUED + 1, ISSUED + DAY, ISSUED + 1), "key_out_of_time");
    assert_eq!(word(ISSUED - DAY, ISSUED, ISSUED), "key_out_of_time");
    assert_eq!(word(ISSUED, ISSUED + DAY, ISSUED + DAY), "key_out_of_time");
}

#[test]
fn a_bundle_introduces_the_next_key() {
    let next = IntroducedKey { key: key(2).public().clone(), not_before: Some(date(ISSUED)), not_after: None };
    let introducing = Bundle { keys: vec![next], ..bundle(1) };
    let Ok(Judgement::Accept(acceptance)) = decide(&introducing, None, clock(ISSUED)) else { panic!() };
    assert_eq!(acceptance.introduces.len(), 1);

    let second = Jws::sign(bundle(2).to_json().to_string().as_bytes(), BUNDLE_TYPE, &key(2));
    assert_eq!(authenticate(&second, &trust()).unwrap_err().word(), "unknown_key");
    let mut trust = trust();
    trust.extend(acceptance.introduces);
    let authentic = authenticate(&second, &trust).unwrap();
    let judged = judge(authentic, DEPLOYMENT, &trust, Some(acceptance.accepted), clock(ISSUED));
    assert!(matches!(judged, Ok(Judgement::Accept(_))));

    let again = authenticate(&sign(&introducing), &trust).unwrap();
    let Ok(Judgement::Accept(again)) = judge(again, DEPLOYMENT, &trust, None, clock(ISSUED)) else { panic!() };
    assert!(again.introduces.is_empty(), "a key that is trusted already stays as it is");
}

#[test]
fn a_bundle_cannot_introduce_a_withdrawn_key_or_one_of_another() {
    let keys = vec![IntroducedKey { key: key(2).public().clone(), not_before: None, not_after: None }];
    let introducing = Bundle { keys, ..bundle(1) };
    let withdrawn = TrustedKey { distrusted: true, ..trusted(&key(2)) };
    let another = TrustedKey { issuer: "https://other.example".into(), ..trusted(&key(2)) };
    let licences = TrustedKey { purpose: entitlements_bundle::Purpose::Licence, ..trusted(&key(2)) };
    for known in [withdrawn, another, licences] {
        let trust: TrustSet = [trusted(&key(1)), known].into_iter().collect();
        let authentic = authenticate(&sign(&introducing), &trust).unwrap();
        let refusal = judge(authentic, DEPLOYMENT, &trust, None, clock(ISSUED)).unwrap_err();
        assert_eq!(refusal, Refusal::KeyTaken(key(2).public().kid()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever arrives in whatever order: what is in force is always the accepted bundle of the greatest number, and only
    /// one content of it is ever accepted.
    #[test]
    fn nothing_old_comes_back(arrivals in prop::collection::vec((1i64..6, 0i64..2), 1..12)) {
        let mut all: Vec<(i64, i64)> = Vec::new();
        let mut last = None;
        for (sequence, grace) in arrivals {
            let arrived = Bundle { grace, ..bundle(sequence) };
            let greatest = all.iter().map(|(sequence, _)| *sequence).max();
            let expected = match greatest {
                Some(greatest) if sequence < greatest => "replayed",
                Some(greatest) if sequence == greatest && all.contains(&(sequence, grace)) => "no_op",
                Some(greatest) if sequence == greatest => "sequence_reused",
                _ => "accept",
            };
            prop_assert_eq!(word(&arrived, last, clock(ISSUED)), expected);
            if expected == "accept" {
                all.push((sequence, grace));
                last = accepted(&arrived);
            }
        }
    }
}
