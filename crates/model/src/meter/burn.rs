//! Burn order: from which pools a request is taken when an account has several.
//!
//! Lower priority numbers burn first, then what ends first, then what is oldest; the plan allowance before credits that are its
//! equal. Two pools of an account are never equal, so every consumer burns and locks them in the same order.

use crate::amount::{Allowance, Amount};
use crate::time::Time;

/// What decides when a pool burns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pool {
    /// None: the allowance of the account's plans.
    pub credit: Option<i64>,
    pub priority: i32,
    /// Of the plan allowance, the end of its window.
    pub expires_at: Time,
    /// Does not matter for the plan allowance.
    pub started_at: Time,
}

impl Pool {
    /// The pool of the lowest rank is used up first.
    pub fn rank(&self) -> (i32, Time, Option<(Time, i64)>) {
        (self.priority, self.expires_at, self.credit.map(|id| (self.started_at, id)))
    }
}

/// What a request takes from each pool, given what is left in each, in burn order. When they do not have enough: all of it.
pub fn split(n: Amount, left: &[Allowance]) -> Vec<Amount> {
    let mut missing = n;
    left.iter()
        .map(|left| {
            let taken = match left {
                Allowance::Finite(left) => missing.min(*left),
                Allowance::Unlimited => missing,
            };
            missing = missing.saturating_sub(taken);
            taken
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::FOREVER;
    use proptest::prelude::*;

    fn plan(priority: i32, expires_at: Time) -> Pool {
        Pool { credit: None, priority, expires_at, started_at: 0 }
    }

    fn credit(id: i64, priority: i32, expires_at: Time, started_at: Time) -> Pool {
        Pool { credit: Some(id), priority, expires_at, started_at }
    }

    fn units(units: u32) -> Amount {
        Amount::ONE.times(units)
    }

    fn all_units(counts: &[u32]) -> Vec<Amount> {
        counts.iter().copied().map(units).collect()
    }

    #[test]
    fn pools_burn_by_priority_then_end_then_age() {
        let ordered = [
            credit(7, -5, FOREVER, 90),
            credit(6, 100, 40, 90),
            plan(100, 50),
            credit(9, 100, 50, -10),
            credit(3, 100, 50, 10),
            credit(4, 100, 50, 10),
            credit(1, 100, FOREVER, 0),
            credit(2, 200, 10, 0),
        ];
        let mut pools = ordered;
        pools.reverse();
        pools.sort_unstable_by_key(Pool::rank);
        assert_eq!(pools, ordered);
        pools.rotate_left(3);
        pools.sort_unstable_by_key(Pool::rank);
        assert_eq!(pools, ordered);
    }

    #[test]
    fn a_request_takes_what_each_pool_has_left() {
        let left = [Allowance::Finite(units(3)), Allowance::ZERO, Allowance::Finite(units(4))];
        assert_eq!(split(units(2), &left), all_units(&[2, 0, 0]));
        assert_eq!(split(units(5), &left), all_units(&[3, 0, 2]));
        assert_eq!(split(units(9), &left), all_units(&[3, 0, 4]));
        assert_eq!(split(units(9), &[left[0], Allowance::Unlimited, left[2]]), all_units(&[3, 6, 0]));
        assert_eq!(split(units(9), &[]), []);
    }

    proptest! {
        #[test]
        fn every_request_is_that_of_single_units(
            pools in prop::collection::vec(0..6u32, 0..6),
            requests in prop::collection::vec(0..12u32, 0..6),
        ) {
            let mut used = vec![0; pools.len()];
            for n in requests {
                let left: Vec<_> = pools.iter().zip(&used).map(|(size, used)| Allowance::Finite(units(size - used))).collect();
                let mut expected = vec![0; pools.len()];
                for _ in 0..n {
                    let Some(pool) = (0..pools.len()).find(|pool| used[*pool] < pools[*pool]) else { break };
                    expected[pool] += 1;
                    used[pool] += 1;
                }
                prop_assert_eq!(split(units(n), &left), all_units(&expected));
            }
        }
    }
}
