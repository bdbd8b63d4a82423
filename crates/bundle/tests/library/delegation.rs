//! Returns of delegations: who may sign one, and when.

use entitlements_bundle::{Clock, DelegationReturn, Purpose, Refusal, TrustedKey, authenticate_as, judge_return};
use entitlements_model::time::{FOREVER, Time};

use crate::vendor::{DAY, DEPLOYMENT, ISSUED, ISSUER, date, key, trusted};

fn judged(issued: i64, not_after: Time, now: i64) -> Result<DelegationReturn, &'static str> {
    let returned = DelegationReturn {
        issuer: DEPLOYMENT.into(),
        audience: ISSUER.into(),
        issued_at: date(issued),
        id: 7,
        unused: "3".parse().unwrap(),
    };
    let site = TrustedKey { issuer: DEPLOYMENT.into(), purpose: Purpose::UsageReport, not_after, ..trusted(&key(5)) };
    let authentic = authenticate_as(&returned.sign(&key(5)), &[site].into_iter().collect()).unwrap();
    let clock = Clock { now: date(now).time(), highest: date(0).time() };
    let other = judge_return(Clone::clone(&authentic), "another", clock).unwrap_err();
    assert!(matches!(other, Refusal::OtherAudience { .. }), "{other}");
    judge_return(authentic, ISSUER, clock).map_err(|refusal| refusal.word())
}

#[test]
fn a_return_is_of_any_age() {
    assert_eq!(judged(ISSUED, FOREVER, ISSUED).unwrap().id, 7);
    assert!(judged(ISSUED, FOREVER, ISSUED + 1000 * DAY).is_ok());
    assert_eq!(judged(ISSUED + DAY, FOREVER, ISSUED), Err("issued_in_future"));
}

/// Who copied a key after its time can write any issue time.
#[test]
fn a_key_whose_time_is_over_returns_nothing() {
    let end = date(ISSUED + 10 * DAY).time();
    assert!(judged(ISSUED, end, ISSUED + 10 * DAY - 1).is_ok());
    assert_eq!(judged(ISSUED, end, ISSUED + 10 * DAY), Err("key_out_of_time"));
    assert_eq!(judged(ISSUED + 10 * DAY, end, ISSUED + 10 * DAY), Err("key_out_of_time"));
}
