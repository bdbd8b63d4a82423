//! Seats: who gets a place in an allocation.
//!
//! A named seat belongs to its holder until it is released. A floating seat has a lease, and an expired one is still its
//! holder's, who resumes it without noticing; only when somebody else needs the place does it change hands, and not before the
//! holder has been gone for the linger time. A seat that was returned lingers too when its lease is ended instead of the seat.
//!
//! Promises: a place is only given when all seats together are then within the limit, no running lease and no named seat is ever
//! taken from its holder, and nobody is refused while enough seats can be reclaimed. When the limit was lowered below what is
//! held, holders keep what runs, but an expired lease does not come back unless there is a place for it.

use std::cmp::Reverse;

use crate::amount::{Allowance, Amount};
use crate::time::Time;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat<H> {
    pub holder: H,
    pub since: Time,
    /// Until when the lease runs, exclusive. None: a named seat.
    pub leased_until: Option<Time>,
    /// When the holder last took, renewed or returned it.
    pub seen_at: Time,
}

/// What becomes of a request for a seat. Seats are given by their index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assignment {
    /// The holder has this seat and keeps it.
    Resume(usize),
    /// There is a place.
    Take,
    /// There is a place once these seats have ended, among them the holder's own if it had one.
    Reclaim(Vec<usize>),
    Full,
}

impl<H> Seat<H> {
    fn is_expired(&self, now: Time) -> bool {
        self.leased_until.is_some_and(|until| until <= now)
    }

    fn is_reclaimable(&self, linger: i64, now: Time) -> bool {
        self.is_expired(now) && self.seen_at.saturating_add(linger) <= now
    }
}

/// Decides on a request for a seat. The limit is that of the seats, any overdraft included; a part of a unit is no seat. Linger
/// is in microseconds. The lease that expired first is reclaimed first, and no more than are needed.
pub fn assign<H: PartialEq>(seats: &[Seat<H>], holder: &H, linger: i64, limit: Allowance, now: Time) -> Assignment {
    let places = places(limit);
    let own = seats.iter().position(|seat| seat.holder == *holder);
    if let Some(own) = own
        && (!seats[own].is_expired(now) || seats.len() <= places)
    {
        return Assignment::Resume(own);
    }
    if seats.len() < places {
        return Assignment::Take;
    }
    let mut free: Vec<usize> =
        (0..seats.len()).filter(|index| Some(*index) == own || seats[*index].is_reclaimable(linger, now)).collect();
    let needed = seats.len() - places + 1;
    if free.len() < needed {
        return Assignment::Full;
    }
    free.sort_by_key(|index| (Reverse(Some(*index) == own), seats[*index].leased_until, seats[*index].since));
    free.truncate(needed);
    Assignment::Reclaim(free)
}

fn places(limit: Allowance) -> usize {
    match limit {
        Allowance::Finite(limit) => usize::try_from(limit.nanos() / Amount::ONE.nanos()).unwrap_or(usize::MAX),
        Allowance::Unlimited => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(holder: u8) -> Seat<u8> {
        Seat { holder, since: 0, leased_until: None, seen_at: 0 }
    }

    fn floating(holder: u8, leased_until: Time) -> Seat<u8> {
        Seat { holder, since: 0, leased_until: Some(leased_until), seen_at: 0 }
    }

    fn limit(seats: u32) -> Allowance {
        Allowance::Finite(Amount::ONE.times(seats))
    }

    #[test]
    fn a_place_is_taken_while_there_is_one() {
        assert_eq!(assign(&[], &1, 0, limit(1), 100), Assignment::Take);
        assert_eq!(assign(&[named(2)], &1, 0, limit(2), 100), Assignment::Take);
        assert_eq!(assign(&[named(2)], &1, 0, limit(1), 100), Assignment::Full);
        assert_eq!(assign(&[named(2); 50], &1, 0, Allowance::Unlimited, 100), Assignment::Take);
        assert_eq!(assign(&[], &1, 0, limit(0), 100), Assignment::Full);
        let almost_two = Allowance::Finite("1.999999999".parse().unwrap());
        assert_eq!(assign(&[named(2)], &1, 0, almost_two, 100), Assignment::Full);
    }

    #[test]
    fn an_expired_lease_with_a_place_to_take_is_left_alone() {
        assert_eq!(assign(&[floating(2, 50)], &1, 0, limit(2), 100), Assignment::Take);
    }

    #[test]
    fn a_holder_resumes_its_seat() {
        for seat in [named(1), floating(1, 200), floating(1, 50)] {
            assert_eq!(assign(&[named(2), seat], &1, 0, limit(2), 100), Assignment::Resume(1));
        }
    }

    #[test]
    fn the_lease_that_expired_first_is_reclaimed() {
        let seats = [floating(2, 200), floating(3, 60), floating(4, 50), named(5)];
        assert_eq!(assign(&seats, &1, 0, limit(4), 100), Assignment::Reclaim(vec![2]));
        assert_eq!(assign(&seats, &1, 0, limit(4), 50), Assignment::Reclaim(vec![2]));
        assert_eq!(assign(&seats, &1, 0, limit(4), 49), Assignment::Full);
        let older = Seat { since: -1, ..floating(3, 50) };
        assert_eq!(assign(&[floating(2, 50), older], &1, 0, limit(2), 100), Assignment::Reclaim(vec![1]));
    }

    #[test]
    fn a_place_does_not_change_hands_before_the_linger_time() {
        let seat = Seat { seen_at: 40, ..floating(2, 50) };
        assert_eq!(assign(&[seat], &1, 30, limit(1), 69), Assignment::Full);
        assert_eq!(assign(&[seat], &1, 30, limit(1), 70), Assignment::Reclaim(vec![0]));
        assert_eq!(assign(&[seat], &1, i64::MAX, limit(1), 70), Assignment::Full);
    }

    #[test]
    fn a_lowered_limit_leaves_what_runs_and_nothing_else() {
        let seats = [floating(2, 200), floating(3, 60), floating(4, 50)];
        assert_eq!(assign(&seats, &2, 0, limit(1), 100), Assignment::Resume(0));
        assert_eq!(assign(&seats, &3, 0, limit(1), 100), Assignment::Full);
        assert_eq!(assign(&seats, &3, 0, limit(2), 100), Assignment::Reclaim(vec![1, 2]));
        assert_eq!(assign(&seats, &1, 0, limit(2), 100), Assignment::Reclaim(vec![2, 1]));
        assert_eq!(assign(&seats, &1, 0, limit(1), 100), Assignment::Full);
        assert_eq!(assign(&[floating(1, 50)], &1, 0, limit(0), 100), Assignment::Full);
    }

    fn seats() -> impl Strategy<Value = Vec<Seat<u8>>> {
        let times = (0..20i64, prop::option::of(0..20i64), 0..20i64);
        prop::collection::vec(times, 0..7).prop_map(|seats| {
            let seat = |(holder, (since, leased_until, seen_at))| Seat { holder, since, leased_until, seen_at };
            (0..).zip(seats).map(seat).collect()
        })
    }

    proptest! {
        #[test]
        fn what_may_be_done_is_done_and_nothing_else(
            seats in seats(),
            holder in 0..8u8,
            linger in 0..10i64,
            places in 0..8usize,
            now in 0..20i64,
        ) {
            let running = |seat: &Seat<u8>| seat.leased_until.is_none_or(|until| now < until);
            let own = seats.iter().position(|seat| seat.holder == holder);
            let takeable = |index: usize| {
                Some(index) == own || (!running(&seats[index]) && now - seats[index].seen_at >= linger)
            };
            let firm = (0..seats.len()).filter(|index| !takeable(*index)).count();
            match assign(&seats, &holder, linger, limit(places as u32), now) {
                Assignment::Resume(index) => {
                    prop_assert_eq!(Some(index), own);
                    prop_assert!(running(&seats[index]) || seats.len() <= places);
                }
                Assignment::Take => prop_assert!(own.is_none() && seats.len() < places),
                Assignment::Reclaim(ended) => {
                    prop_assert!(own.is_none_or(|own| !running(&seats[own]) && ended[0] == own));
                    prop_assert!(ended.iter().all(|index| takeable(*index)));
                    prop_assert_eq!(seats.len() - ended.len() + 1, places);
                    let last = ended.iter().filter(|index| Some(**index) != own).map(|index| seats[*index].leased_until).max();
                    let kept = (0..seats.len()).filter(|index| takeable(*index) && !ended.contains(index));
                    prop_assert!(last.is_none_or(|last| kept.map(|index| seats[index].leased_until).all(|until| last <= until)));
                }
                Assignment::Full => {
                    prop_assert!(own.is_none_or(|own| !running(&seats[own])));
                    prop_assert!(firm + 1 > places);
                }
            }
        }
    }
}
