//! Rates: how many units in how much time, decided by the Generic Cell Rate Algorithm (ITU-T Recommendation I.371, in its form
//! as virtual scheduling).
//!
//! The state is a single point in time, the theoretical arrival time: when a bucket that fills at the rate would be full again.
//! A request moves it on by the time that its units take to come back, and is allowed when it then lies no further ahead than
//! the time that a whole burst takes. That decides exactly like a bucket of tokens which holds a burst and fills evenly, and a
//! state need not be touched while nothing is asked.
//!
//! Promises: no rounding. The time that units take is rarely a whole number of microseconds, so a point in time carries the
//! rest as a fraction of one, with the allowance as denominator; nothing adds up over any number of requests. A clock that is
//! put back never allows more. Where numbers end a request is denied, never allowed by mistake.

use crate::amount::Amount;
use crate::time::Time;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub allowance: Amount,
    /// The microseconds that the allowance is for, above zero.
    pub period: i64,
    /// The most at once.
    pub burst: Amount,
}

/// The theoretical arrival time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    pub at: Time,
    /// The rest of a microsecond, in parts of which it has as many as the allowance has billionths: not negative, and less than
    /// these. When the allowance has changed they are read as parts of the new one, which moves the point by less than a
    /// microsecond.
    pub fraction: i128,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// The state after the decision; that before it when denied.
    pub arrival: Option<Arrival>,
    /// The most that would be allowed at this moment after the decision.
    pub remaining: Amount,
    /// When a denied request would be allowed if no other is until then. None: never, or after the end of time.
    pub retry_at: Option<Time>,
}

/// Decides on a request. A rate that was never used has no arrival.
pub fn decide(rate: Rate, arrival: Option<Arrival>, now: Time, n: Amount) -> Decision {
    let denied = Decision { allowed: false, arrival, remaining: Amount::ZERO, retry_at: None };
    if rate.allowance == Amount::ZERO {
        return denied;
    }
    let before = rate.start(arrival, now);
    let latest = rate.add(Point::whole(now), rate.span(rate.burst));
    let denied = Decision { remaining: rate.remaining(before, latest), ..denied };
    if n > rate.burst {
        return denied;
    }
    let after = rate.add(before, rate.span(n));
    match after.arrival() {
        Some(arrival) if after <= latest => {
            let remaining = rate.remaining(after, latest);
            Decision { allowed: true, arrival: Some(arrival), remaining, retry_at: None }
        }
        _ => Decision { retry_at: rate.first_moment(after).filter(|at| *at > now), ..denied },
    }
}

/// A point or a span of time. Ordered as such, since the fraction is less than a microsecond.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    micros: i128,
    /// In parts of the rate's allowance.
    fraction: i128,
}

impl Point {
    fn whole(at: Time) -> Self {
        Self { micros: i128::from(at), fraction: 0 }
    }

    /// None after the end of time.
    fn arrival(self) -> Option<Arrival> {
        Time::try_from(self.micros).ok().map(|at| Arrival { at, fraction: self.fraction })
    }
}

/// Spans end here, far beyond the end of time, so that a sum of some of them fits.
const LONGEST: i128 = i128::MAX / 8;

impl Rate {
    fn parts(self) -> i128 {
        self.allowance.nanos()
    }

    /// Where the next request counts from: a bucket does not fill beyond a burst.
    fn start(self, arrival: Option<Arrival>, now: Time) -> Point {
        let arrival = arrival
            .map(|arrival| Point { micros: i128::from(arrival.at), fraction: arrival.fraction.clamp(0, self.parts() - 1) });
        arrival.unwrap_or(Point::whole(now)).max(Point::whole(now))
    }

    /// How long units take to come back.
    fn span(self, n: Amount) -> Point {
        let (micros, fraction) = product_divided(n.nanos(), i128::from(self.period), self.parts());
        Point { micros: micros.min(LONGEST), fraction }
    }

    fn add(self, point: Point, span: Point) -> Point {
        let (micros, fraction) = sum(point.micros, span.micros, point.fraction, span.fraction, self.parts());
        Point { micros, fraction }
    }

    /// How many units come back between the state and the latest point it may reach.
    fn remaining(self, state: Point, latest: Point) -> Amount {
        if state >= latest {
            return Amount::ZERO;
        }
        let period = i128::from(self.period);
        let (units, rest) = product_divided(latest.micros - state.micros, self.parts(), period);
        let fractions = (latest.fraction - state.fraction).saturating_add(rest).div_euclid(period);
        Amount::calculated(units.saturating_add(fractions).max(0)).min(self.burst)
    }

    /// The first whole microsecond at which a state may be reached.
    fn first_moment(self, state: Point) -> Option<Time> {
        let burst = self.span(self.burst);
        let rounded_up = i128::from(state.fraction > burst.fraction);
        Time::try_from(state.micros - burst.micros + rounded_up).ok()
    }
}

/// `a × b / d` and its remainder, for a, b >= 0 and d > 0, digit by binary digit of b since the product need not fit. A quotient
/// that does not fit is the greatest number.
fn product_divided(a: i128, b: i128, d: i128) -> (i128, i128) {
    let (whole, rest) = (a / d, a % d);
    let digits = i128::BITS - b.leading_zeros();
    (0..digits).rev().fold((0, 0), |(quotient, remainder), digit| {
        let twice = sum(quotient, quotient, remainder, remainder, d);
        if b >> digit & 1 == 0 { twice } else { sum(twice.0, whole, twice.1, rest, d) }
    })
}

/// The sum of two numbers with their numerators, which are below the denominator. Compares with what is missing to the next
/// whole number, since the sum of the numerators need not fit.
fn sum(one: i128, two: i128, numerator: i128, other: i128, denominator: i128) -> (i128, i128) {
    let (whole, missing) = (one.saturating_add(two), denominator - other);
    if numerator >= missing { (whole.saturating_add(1), numerator - missing) } else { (whole, numerator + other) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{BEGINNING, FOREVER};
    use proptest::prelude::*;

    const SECOND: i64 = 1_000_000;

    fn units(units: u32) -> Amount {
        Amount::ONE.times(units)
    }

    fn nanos(nanos: i128) -> Amount {
        Amount::from_nanos(nanos).unwrap()
    }

    /// A rate in use.
    struct Used {
        rate: Rate,
        arrival: Option<Arrival>,
    }

    impl Used {
        fn new(rate: Rate) -> Self {
            Self { rate, arrival: None }
        }

        fn ask(&mut self, now: Time, n: Amount) -> Decision {
            let decision = decide(self.rate, self.arrival, now, n);
            self.arrival = decision.arrival;
            decision
        }
    }

    #[test]
    fn a_burst_is_allowed_at_once_and_comes_back_evenly() {
        let mut used = Used::new(Rate { allowance: units(10), period: SECOND, burst: units(3) });
        for left in [2, 1, 0] {
            let decision = used.ask(0, units(1));
            assert!(decision.allowed);
            assert_eq!((decision.remaining, decision.retry_at), (units(left), None));
        }
        let denied = used.ask(0, units(1));
        assert!(!denied.allowed);
        assert_eq!((denied.remaining, denied.retry_at), (Amount::ZERO, Some(SECOND / 10)));
        assert_eq!(used.ask(0, units(2)).retry_at, Some(SECOND / 5));
        assert!(!used.ask(SECOND / 10 - 1, units(1)).allowed);
        assert!(used.ask(SECOND / 10, units(1)).allowed);
        assert_eq!(used.ask(SECOND, units(3)).remaining, Amount::ZERO);
    }

    #[test]
    fn nothing_is_rounded_however_long_it_lasts() {
        let mut used = Used::new(Rate { allowance: units(3), period: SECOND, burst: units(3) });
        for second in 0..10_000 {
            for _ in 0..3 {
                assert!(used.ask(second * SECOND, units(1)).allowed, "second {second}");
            }
            assert!(!used.ask((second + 1) * SECOND - 700_000, units(1)).allowed, "second {second}");
        }
    }

    #[test]
    fn more_than_a_burst_is_never_allowed() {
        let mut used = Used::new(Rate { allowance: units(10), period: SECOND, burst: units(3) });
        let denied = used.ask(0, nanos(3_000_000_001));
        assert_eq!(denied, Decision { allowed: false, arrival: None, remaining: units(3), retry_at: None });
        assert!(used.ask(0, units(3)).allowed);
    }

    #[test]
    fn an_allowance_of_nothing_allows_nothing() {
        let mut used = Used::new(Rate { allowance: Amount::ZERO, period: SECOND, burst: units(3) });
        assert_eq!(
            used.ask(0, units(1)),
            Decision { allowed: false, arrival: None, remaining: Amount::ZERO, retry_at: None }
        );
    }

    #[test]
    fn a_clock_that_is_put_back_waits_for_itself() {
        let mut used = Used::new(Rate { allowance: units(1), period: SECOND, burst: units(2) });
        assert!(used.ask(100 * SECOND, units(2)).allowed);
        let denied = used.ask(0, units(1));
        assert_eq!((denied.allowed, denied.retry_at), (false, Some(101 * SECOND)));
    }

    #[test]
    fn a_request_is_denied_where_time_ends() {
        let slow = Rate { allowance: Amount::LEAST, period: 365 * 24 * 3600 * SECOND, burst: units(1000) };
        let mut used = Used::new(slow);
        let denied = used.ask(0, units(1000));
        assert_eq!((denied.allowed, denied.retry_at), (false, None));
        assert!(used.ask(0, Amount::LEAST).allowed);
    }

    #[test]
    fn a_changed_allowance_reads_the_same_moment() {
        let mut used = Used::new(Rate { allowance: units(7), period: SECOND, burst: units(7) });
        used.ask(0, units(1));
        used.rate.allowance = Amount::LEAST;
        let arrival = used.arrival.unwrap();
        assert!(arrival.fraction > 0);
        assert_eq!(used.rate.start(used.arrival, 0).micros, i128::from(arrival.at));
        assert_eq!(used.rate.start(used.arrival, 0).fraction, 0);
    }

    /// A bucket of tokens. One token is `period` parts, so that what a microsecond brings is a whole number of them.
    struct Bucket {
        rate: Rate,
        parts: i128,
        at: Time,
    }

    impl Bucket {
        fn new(rate: Rate, at: Time) -> Self {
            Self { rate, parts: rate.burst.nanos() * i128::from(rate.period), at }
        }

        fn fill(&mut self, now: Time) {
            let full = self.rate.burst.nanos() * i128::from(self.rate.period);
            self.parts = (self.parts + i128::from(now - self.at) * self.rate.allowance.nanos()).min(full);
            self.at = now;
        }

        fn take(&mut self, n: Amount) -> bool {
            let parts = n.nanos() * i128::from(self.rate.period);
            let enough = parts <= self.parts;
            self.parts -= if enough { parts } else { 0 };
            enough
        }
    }

    fn rates() -> impl Strategy<Value = Rate> {
        let small = (1..50i128, 1..50i64, 1..100i128);
        let usual = (10i128.pow(10)..10i128.pow(14), 1..10i64.pow(13), 1..10i128.pow(14));
        prop_oneof![small, usual].prop_map(|(allowance, period, burst)| Rate {
            allowance: nanos(allowance),
            period,
            burst: nanos(burst),
        })
    }

    /// Parts of a thousand: of a burst to ask for, and of the time that a burst takes until then.
    fn requests() -> impl Strategy<Value = Vec<(i128, i128)>> {
        prop::collection::vec((1..700i128, prop_oneof![Just(0), -300..700i128]), 1..40)
    }

    /// The requests of a rate with their times.
    fn schedule(rate: Rate, requests: &[(i128, i128)]) -> Vec<(Time, Amount)> {
        let burst_takes = rate.burst.nanos() * i128::from(rate.period) / rate.allowance.nanos() + 2;
        let mut now = 0;
        requests
            .iter()
            .map(|(part, wait)| {
                now = i64::try_from(i128::from(now) + wait * burst_takes.min(10i128.pow(13)) / 1000).unwrap();
                (now, nanos((rate.burst.nanos() * part / 1000).max(1)))
            })
            .collect()
    }

    proptest! {
        #[test]
        fn it_decides_like_a_bucket_of_tokens(rate in rates(), requests in requests()) {
            let requests: Vec<_> = requests.into_iter().map(|(part, wait)| (part, wait.max(0))).collect();
            let (mut used, mut bucket) = (Used::new(rate), Bucket::new(rate, 0));
            for (now, n) in schedule(rate, &requests) {
                bucket.fill(now);
                let decision = used.ask(now, n);
                prop_assert_eq!(decision.allowed, bucket.take(n));
                prop_assert_eq!(decision.remaining, nanos(bucket.parts / i128::from(rate.period)));
                prop_assert!(decision.allowed || decision.retry_at.is_some());
                if let Some(retry_at) = decision.retry_at {
                    prop_assert!(decide(rate, used.arrival, retry_at, n).allowed);
                    prop_assert!(!decide(rate, used.arrival, retry_at - 1, n).allowed);
                }
            }
        }

        #[test]
        fn a_clock_that_jumps_never_allows_more_than_its_latest_time_brings(rate in rates(), requests in requests()) {
            let mut used = Used::new(rate);
            let (mut granted, mut first, mut latest) = (0, None, 0);
            for (now, n) in schedule(rate, &requests) {
                let first = *first.get_or_insert(now);
                latest = latest.max(now).max(first);
                let earlier = decide(rate, used.arrival, now - 1, n);
                let decision = used.ask(now, n);
                prop_assert!(decision.allowed || !earlier.allowed);
                granted += if decision.allowed { n.nanos() } else { 0 };
                let brought = i128::from(latest - first) * rate.allowance.nanos();
                prop_assert!((granted - rate.burst.nanos()) * i128::from(rate.period) <= brought);
            }
        }

        #[test]
        fn every_request_has_a_decision(
            allowance in prop_oneof![0..10i128, 0..i128::MAX],
            burst in prop_oneof![0..10i128, 0..i128::MAX],
            n in prop_oneof![0..10i128, 0..i128::MAX],
            period in prop_oneof![1..10i64, 1..i64::MAX],
            arrival in prop::option::of((any::<Time>(), any::<i128>())),
            now in prop_oneof![any::<Time>(), Just(BEGINNING), Just(FOREVER)],
        ) {
            let [allowance, burst, n] = [allowance, burst, n].map(Amount::calculated);
            let rate = Rate { allowance, period, burst };
            let arrival = arrival.map(|(at, fraction)| Arrival { at, fraction });
            let decision = decide(rate, arrival, now, n);
            prop_assert!(decision.remaining <= burst && !(decision.allowed && n > burst));
            prop_assert!(decision.retry_at.is_none_or(|at| at > now));
        }

        #[test]
        fn a_divided_product_is_exact(a in 0..1i128 << 63, b in 0..1i128 << 63, d in 1..i128::MAX, large: i128) {
            prop_assert_eq!(product_divided(a, b, d), (a * b / d, a * b % d));
            prop_assert_eq!(product_divided(d, b, d), (b, 0));
            let large = large.saturating_abs();
            prop_assert_eq!(product_divided(large, d, d), (large, 0));
        }
    }
}
