//! Rollover: what is left of a window's allowance when the window turns, and how long it is carried.
//!
//! What a window leaves unused is carried into at most `windows` windows after it. In each of them it burns before that window's
//! own allowance, the oldest first, so nothing lapses that could have been used. All that is carried into one window is at most
//! `max`; when it is more, the oldest gives way, which would lapse first anyway. An unlimited allowance has nothing left that
//! could be counted, so it carries nothing.
//!
//! Every window counts, also one that nothing was used in.

use crate::amount::{Allowance, Amount};

/// A window that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// Its own, without what was carried into it.
    pub allowance: Allowance,
    /// All that was used in it; may be more than there was.
    pub used: Amount,
}

/// What a feature allows to be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollover {
    /// The most that is carried into one window.
    pub max: Allowance,
    /// Into how many windows after its own an amount is carried.
    pub windows: u32,
}

/// What one window left, as it stands in a later one. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    pub amount: Amount,
    /// In how many windows it can be used, that one included.
    pub windows: u32,
}

/// What is carried into the window that follows on these, oldest first. The past is in order too and without gaps.
pub fn carried(past: &[Past], rollover: Rollover) -> Vec<Carried> {
    past.iter().fold(Vec::new(), |carried, window| turn(&carried, *window, rollover))
}

/// What is carried into the next window from one that is over and what had been carried into that, oldest first.
fn turn(carried: &[Carried], over: Past, rollover: Rollover) -> Vec<Carried> {
    let mut burning = over.used;
    let mut burn = |amount: Amount| {
        let left = amount.saturating_sub(burning);
        burning = burning.saturating_sub(amount);
        left
    };
    let mut left: Vec<Carried> =
        carried.iter().map(|old| Carried { amount: burn(old.amount), windows: old.windows.saturating_sub(1) }).collect();
    if let Allowance::Finite(own) = over.allowance {
        left.push(Carried { amount: burn(own), windows: rollover.windows });
    }
    left.retain(|left| left.windows > 0);
    let kept = kept(left.iter().rev().map(|left| left.amount), rollover.max);
    left.iter_mut().rev().zip(kept).for_each(|(left, kept)| left.amount = kept);
    left.retain(|left| left.amount > Amount::ZERO);
    left
}

/// What stays of each amount, the newest first, where all together are at most `max`: the oldest give way.
pub fn kept(newest_first: impl IntoIterator<Item = Amount>, max: Allowance) -> Vec<Amount> {
    let mut room = max;
    let mut keep = |amount: Amount| {
        let kept = match room {
            Allowance::Finite(room) => amount.min(room),
            Allowance::Unlimited => amount,
        };
        room = room.minus(kept);
        kept
    };
    newest_first.into_iter().map(&mut keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: Allowance = Allowance::Unlimited;

    fn units(units: u32) -> Amount {
        Amount::ONE.times(units)
    }

    fn finite(count: u32) -> Allowance {
        Allowance::Finite(units(count))
    }

    fn past(windows: &[(u32, u32)]) -> Vec<Past> {
        windows.iter().map(|(allowance, used)| Past { allowance: finite(*allowance), used: units(*used) }).collect()
    }

    /// Amount and number of windows of each.
    fn carry(windows: &[(u32, u32)], max: Allowance, lifetime: u32) -> Vec<(Amount, u32)> {
        let carried = carried(&past(windows), Rollover { max, windows: lifetime });
        carried.into_iter().map(|carried| (carried.amount, carried.windows)).collect()
    }

    #[test]
    fn what_is_left_is_carried_as_long_as_it_lives() {
        assert_eq!(carry(&[], ALL, 1), []);
        assert_eq!(carry(&[(10, 4)], ALL, 1), [(units(6), 1)]);
        assert_eq!(carry(&[(10, 4), (10, 0)], ALL, 1), [(units(10), 1)]);
        assert_eq!(carry(&[(10, 4), (10, 0)], ALL, 3), [(units(6), 2), (units(10), 3)]);
        assert_eq!(carry(&[(10, 4), (10, 0), (10, 0)], ALL, 2), [(units(10), 1), (units(10), 2)]);
        assert_eq!(carry(&[(10, 4)], ALL, 0), []);
        assert_eq!(carry(&[(10, 10)], ALL, 2), []);
        assert_eq!(carry(&[(10, 15)], ALL, 2), []);
    }

    #[test]
    fn what_is_carried_burns_first() {
        assert_eq!(carry(&[(10, 4), (10, 5)], ALL, 2), [(units(1), 1), (units(10), 2)]);
        assert_eq!(carry(&[(10, 4), (10, 5)], ALL, 1), [(units(10), 1)]);
        assert_eq!(carry(&[(10, 4), (10, 8)], ALL, 2), [(units(8), 2)]);
    }

    #[test]
    fn the_oldest_gives_way_when_there_is_too_much() {
        assert_eq!(carry(&[(10, 4)], finite(5), 2), [(units(5), 2)]);
        assert_eq!(carry(&[(10, 4), (10, 2)], finite(12), 2), [(units(2), 1), (units(10), 2)]);
        assert_eq!(carry(&[(10, 4), (10, 2)], finite(8), 2), [(units(8), 2)]);
        assert_eq!(carry(&[(10, 4)], finite(0), 2), []);
    }

    #[test]
    fn an_unlimited_allowance_carries_nothing_but_burns_what_was_carried() {
        let unlimited = Past { allowance: Allowance::Unlimited, used: units(4) };
        let rollover = Rollover { max: ALL, windows: 3 };
        assert_eq!(carried(&[unlimited], rollover), []);
        let before = past(&[(10, 0)])[0];
        assert_eq!(carried(&[before, unlimited], rollover), [Carried { amount: units(6), windows: 2 }]);
    }

    /// Every unit is a token with the window it comes from; what is used takes the oldest.
    fn naive(windows: &[(u32, u32)], max: Option<u32>, lifetime: u32) -> Vec<(Amount, u32)> {
        let mut tokens: Vec<u32> = Vec::new();
        for (window, (allowance, used)) in (0..).zip(windows) {
            tokens.extend((0..*allowance).map(|_| window));
            tokens.drain(..tokens.len().min(*used as usize));
            tokens.retain(|birth| window - birth < lifetime);
            let most = max.map_or(tokens.len(), |max| tokens.len().min(max as usize));
            tokens.drain(..tokens.len() - most);
        }
        let last = windows.len() as u32;
        tokens.chunk_by(PartialEq::eq).map(|same| (units(same.len() as u32), lifetime - (last - same[0] - 1))).collect()
    }

    proptest! {
        #[test]
        fn it_is_what_tokens_with_a_birth_window_make_of_it(
            windows in prop::collection::vec((0..12u32, 0..16u32), 0..10),
            max in prop::option::of(0..20u32),
            lifetime in 0..5u32,
        ) {
            prop_assert_eq!(carry(&windows, max.map_or(ALL, finite), lifetime), naive(&windows, max, lifetime));
        }

        #[test]
        fn never_more_is_used_than_there_was(
            windows in prop::collection::vec((0..12u32, 0..16u32), 1..10),
            lifetime in 0..5u32,
        ) {
            let rollover = Rollover { max: ALL, windows: lifetime };
            let sum = |carried: &[Carried]| carried.iter().fold(Amount::ZERO, |sum, one| sum.saturating_add(one.amount));
            let (mut carried, mut granted, mut used) = (Vec::new(), Amount::ZERO, Amount::ZERO);
            for (allowance, wanted) in windows {
                granted = granted.saturating_add(units(allowance));
                let within = units(wanted).min(sum(&carried).saturating_add(units(allowance)));
                used = used.saturating_add(within);
                carried = turn(&carried, Past { allowance: finite(allowance), used: within }, rollover);
                prop_assert!(used.saturating_add(sum(&carried)) <= granted);
            }
        }
    }
}
