//! Shares: how much of a pool each of its slots may give away without asking, and how far all of them together may go.
//!
//! Promises: what is given never exceeds what is unallocated, and a slot that gets anything gets enough for the request at
//! hand. Few large shares are better than many small ones: a share that is too small for a request sends its consumer to the
//! pool's row and costs what slots are there to save. So what is left shrinks to fewer slots while it runs out. Where requests
//! are for whole units, shares are too, and the fraction of a unit that cannot be split stays in one place.
//!
//! A threshold bounds the shares: while it has not been reported, all shares together stay below the total that crosses it.
//! So it cannot be crossed unnoticed in a slot.

use crate::amount::{Allowance, Amount};
use crate::catalog::Overage;

/// A share holds at least this many requests, as long as there are several.
const REQUESTS_PER_SHARE: u32 = 4;

/// What each slot gets when all that is unallocated is spread evenly for requests of `n`. The first slot gets the remainder too,
/// the last ones nothing when there is little, and none gets anything when there is less than `n`.
pub fn spread(unallocated: Allowance, n: Amount, slots: usize) -> Vec<Allowance> {
    let Allowance::Finite(unallocated) = unallocated else { return vec![Allowance::Unlimited; slots] };
    let mut shares = vec![Allowance::ZERO; slots];
    let n = n.max(Amount::LEAST);
    if slots == 0 || unallocated < n {
        return shares;
    }
    let full_shares = unallocated.nanos() / n.times(REQUESTS_PER_SHARE).nanos();
    let count = usize::try_from(full_shares).map_or(slots, |full_shares| full_shares.clamp(1, slots));
    let part = even_part(unallocated, n, count);
    let first = (1..count).fold(unallocated, |rest, _| rest.saturating_sub(part));
    shares[..count].fill(Allowance::Finite(part));
    shares[0] = Allowance::Finite(first);
    shares
}

fn even_part(amount: Amount, n: Amount, count: usize) -> Amount {
    let part = amount.part(count);
    if n.is_whole() { part.floor() } else { part }
}

/// The greatest total that neither exceeds the limit nor reaches the next crossing.
pub fn bound(limit: Allowance, next_crossing: Option<Amount>) -> Allowance {
    match next_crossing {
        Some(crossing) => limit.min(Allowance::Finite(crossing.saturating_sub(Amount::LEAST))),
        None => limit,
    }
}

/// What a total means for thresholds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crossed {
    /// The factors to report now, ascending.
    pub factors: Vec<Amount>,
    /// The first total that crosses another one.
    pub next: Option<Amount>,
}

/// Which thresholds a total crosses that have not been reported in this window. They are factors of the allowance, ascending;
/// reported are all up to the greatest that was, also when the allowance has changed since. An unlimited allowance has none,
/// and an allowance of nothing is crossed by any use.
pub fn crossed(thresholds: &[Amount], allowance: Allowance, reported: Option<Amount>, total: Amount) -> Crossed {
    let mut crossed = Crossed { factors: Vec::new(), next: None };
    let Allowance::Finite(allowance) = allowance else { return crossed };
    for factor in thresholds.iter().copied().filter(|factor| reported.is_none_or(|reported| *factor > reported)) {
        let crossing = allowance.scaled_up(factor).max(Amount::LEAST);
        if crossing > total {
            crossed.next = Some(crossing);
            break;
        }
        crossed.factors.push(factor);
    }
    crossed
}

/// Where allowed overage ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ceiling {
    /// At this factor of the allowance.
    Factor(Amount),
    /// So many units beyond the allowance.
    Beyond(Amount),
}

/// How far usage may go. Without a ceiling, allowed overage has no end.
pub fn ceiling(allowance: Allowance, overage: Overage, ceiling: Option<Ceiling>) -> Allowance {
    match (overage, allowance, ceiling) {
        (Overage::Reject | Overage::Cap, _, _) => allowance,
        (Overage::Allow, Allowance::Finite(allowance), Some(Ceiling::Factor(factor))) => {
            Allowance::Finite(allowance.scaled_down(factor))
        }
        (Overage::Allow, allowance, Some(Ceiling::Beyond(units))) => allowance.plus(Allowance::Finite(units)),
        (Overage::Allow, _, _) => Allowance::Unlimited,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn amount(text: &str) -> Amount {
        text.parse().unwrap()
    }

    fn finite(text: &str) -> Allowance {
        Allowance::Finite(amount(text))
    }

    fn finite_all(texts: &[&str]) -> Vec<Allowance> {
        texts.iter().map(|text| finite(text)).collect()
    }

    #[test]
    fn what_is_unallocated_spreads_evenly_over_as_many_slots_as_it_is_enough_for() {
        for (unallocated, n, slots, shares) in [
            ("100", "1", 4, &["25", "25", "25", "25"][..]),
            ("102", "1", 4, &["27", "25", "25", "25"]),
            ("15", "1", 4, &["5", "5", "5", "0"]),
            ("9", "1", 4, &["5", "4", "0", "0"]),
            ("7", "1", 4, &["7", "0", "0", "0"]),
            ("1", "1", 4, &["1", "0", "0", "0"]),
            ("0", "1", 4, &["0", "0", "0", "0"]),
            ("0.5", "1", 2, &["0", "0"]),
            ("10.5", "1", 2, &["5.5", "5"]),
            ("1", "0.1", 2, &["0.5", "0.5"]),
            ("1.000000001", "0.1", 2, &["0.500000001", "0.5"]),
            ("5", "1", 0, &[]),
        ] {
            assert_eq!(spread(finite(unallocated), amount(n), slots), finite_all(shares), "{unallocated} / {n} / {slots}");
        }
        assert_eq!(spread(Allowance::Unlimited, Amount::ONE, 2), vec![Allowance::Unlimited; 2]);
    }

    #[test]
    fn shares_stay_below_the_next_crossing() {
        assert_eq!(bound(finite("100"), None), finite("100"));
        assert_eq!(bound(finite("100"), Some(amount("80"))), finite("79.999999999"));
        assert_eq!(bound(finite("100"), Some(amount("100"))), finite("99.999999999"));
        assert_eq!(bound(finite("100"), Some(amount("120"))), finite("100"));
        assert_eq!(bound(Allowance::Unlimited, Some(amount("80"))), finite("79.999999999"));
        assert_eq!(bound(finite("100"), Some(Amount::ZERO)), Allowance::ZERO);
    }

    #[test]
    fn thresholds_are_crossed_when_reached_and_reported_once() {
        let thresholds = [amount("0.8"), amount("1"), amount("1.2")];
        let at = |reported: Option<&str>, total| {
            let crossed = crossed(&thresholds, finite("1000"), reported.map(amount), amount(total));
            let factors = crossed.factors.iter().map(Amount::to_string).collect::<Vec<_>>().join(" ");
            (factors, crossed.next.map(|next| next.to_string()))
        };
        let expect = |factors: &str, next: Option<&str>| (factors.to_owned(), next.map(str::to_owned));
        assert_eq!(at(None, "0"), expect("", Some("800")));
        assert_eq!(at(None, "799.999999999"), expect("", Some("800")));
        assert_eq!(at(None, "800"), expect("0.8", Some("1000")));
        assert_eq!(at(None, "1100"), expect("0.8 1", Some("1200")));
        assert_eq!(at(Some("0.8"), "1100"), expect("1", Some("1200")));
        assert_eq!(at(Some("1"), "500"), expect("", Some("1200")));
        assert_eq!(at(Some("1.2"), "5000"), expect("", None));
    }

    #[test]
    fn crossings_without_a_limit_at_nothing_and_between_billionths() {
        let crossed = |factor, allowance, total| crossed(&[amount(factor)], allowance, None, amount(total));
        assert_eq!(crossed("0.8", Allowance::Unlimited, "1e17"), Crossed { factors: vec![], next: None });
        assert_eq!(crossed("0.8", Allowance::ZERO, "0").next, Some(Amount::LEAST));
        assert_eq!(crossed("0.8", Allowance::ZERO, "0.000000001").factors, [amount("0.8")]);
        assert_eq!(crossed("0.5", finite("0.000000003"), "0.000000001").next, Some(amount("0.000000002")));
        let greatest = finite("999999999999999999.999999999").times(u32::MAX);
        assert!(crossed("999999999999999999.999999999", greatest, "1e17").next.is_some());
    }

    #[test]
    fn only_allowed_overage_goes_beyond_the_allowance() {
        let (factor, units) = (Some(Ceiling::Factor(amount("1.25"))), Some(Ceiling::Beyond(amount("2.5"))));
        for overage in [Overage::Reject, Overage::Cap] {
            assert_eq!(ceiling(finite("10"), overage, factor), finite("10"));
            assert_eq!(ceiling(finite("10"), overage, units), finite("10"));
            assert_eq!(ceiling(Allowance::Unlimited, overage, None), Allowance::Unlimited);
        }
        assert_eq!(ceiling(finite("10"), Overage::Allow, factor), finite("12.5"));
        assert_eq!(ceiling(finite("0.000000003"), Overage::Allow, factor), finite("0.000000003"));
        assert_eq!(ceiling(finite("10"), Overage::Allow, None), Allowance::Unlimited);
        assert_eq!(ceiling(Allowance::Unlimited, Overage::Allow, factor), Allowance::Unlimited);
        assert_eq!(ceiling(Allowance::ZERO, Overage::Allow, factor), Allowance::ZERO);
        assert_eq!(ceiling(finite("10"), Overage::Allow, units), finite("12.5"));
        assert_eq!(ceiling(Allowance::Unlimited, Overage::Allow, units), Allowance::Unlimited);
    }

    const LIMIT: i128 = 10i128.pow(27);

    fn amounts() -> impl Strategy<Value = Amount> {
        let nanos = prop_oneof![1..1000i128, 1..10i128.pow(13), 1..LIMIT];
        let any_nanos = nanos.prop_map(|nanos| Amount::from_nanos(nanos).unwrap());
        prop_oneof![any_nanos, (1..100_000u32).prop_map(|units| Amount::ONE.times(units))]
    }

    fn amount_of(share: &Allowance) -> Amount {
        match share {
            Allowance::Finite(amount) => *amount,
            Allowance::Unlimited => panic!("a share of something finite has no end"),
        }
    }

    proptest! {
        #[test]
        fn all_is_spread_evenly_and_each_share_is_enough(unallocated in amounts(), n in amounts(), slots in 1..70usize) {
            let shares: Vec<Amount> =
                spread(Allowance::Finite(unallocated), n, slots).iter().map(amount_of).collect();
            let total = shares.iter().fold(Amount::ZERO, |sum, share| sum.saturating_add(*share));
            prop_assert_eq!(shares.len(), slots);
            if unallocated < n {
                prop_assert_eq!(total, Amount::ZERO);
                return Ok(());
            }
            prop_assert_eq!(total, unallocated);
            let given: Vec<Amount> = shares.iter().copied().take_while(|share| *share > Amount::ZERO).collect();
            prop_assert!(shares[given.len()..].iter().all(|share| *share == Amount::ZERO));
            prop_assert!(given.iter().all(|share| *share >= n));
            prop_assert!(given[1..].iter().all(|share| *share == given[given.len() - 1] && (!n.is_whole() || share.is_whole())));
            let grain = if n.is_whole() { Amount::ONE } else { Amount::LEAST };
            let most_remainder = (0..=given.len()).fold(Amount::ZERO, |sum, _| sum.saturating_add(grain));
            prop_assert!(given[0].saturating_sub(given[given.len() - 1]) <= most_remainder);
            let enough_for = unallocated.nanos() / 4 / n.nanos();
            prop_assert_eq!(given.len() as i128, enough_for.clamp(1, slots as i128));
        }

        #[test]
        fn thresholds_are_crossed_exactly_from_the_factor_of_the_allowance_on(
            factors in prop::collection::btree_set(1..3_000_000_000i128, 0..6),
            allowance in 0..10i128.pow(18),
            reported in prop::option::of(0..3_000_000_000i128),
            total in 0..3 * 10i128.pow(18),
        ) {
            let of = |nanos| Amount::from_nanos(nanos).unwrap();
            let thresholds: Vec<Amount> = factors.iter().copied().map(of).collect();
            let crossed = crossed(&thresholds, Allowance::Finite(of(allowance)), reported.map(of), of(total));
            let due: Vec<i128> = factors.into_iter().filter(|factor| reported.is_none_or(|reported| *factor > reported)).collect();
            let reaches = |total: i128, factor: i128| total > 0 && total * 1_000_000_000 >= factor * allowance;
            let expected: Vec<Amount> = due.iter().copied().filter(|factor| reaches(total, *factor)).map(of).collect();
            prop_assert_eq!(crossed.factors.len() < due.len(), crossed.next.is_some());
            if let Some(next) = crossed.next {
                let factor = due[crossed.factors.len()];
                prop_assert!(reaches(next.nanos(), factor) && !reaches(next.nanos() - 1, factor));
                let below = amount_of(&bound(Allowance::Unlimited, Some(next)));
                prop_assert!(!reaches(below.nanos(), factor) && total <= below.nanos());
            }
            prop_assert_eq!(crossed.factors, expected);
        }
    }
}
