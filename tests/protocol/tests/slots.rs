//! Families of small pools, each explored in every interleaving; and for each mistake a pool in which it shows.

use entitlements_protocol_tests::Operation::{Consume, Release};
use entitlements_protocol_tests::protocol::State;
use entitlements_protocol_tests::store::{Slot, Units};
use entitlements_protocol_tests::{Operation, Setting, Start, Weakness};
use stateright::{Checker, DiscoveryClassification, Model};
use std::collections::{BTreeSet, HashMap};

const THREADS: usize = 2;

fn pool(limits: &[Units], slots: &[Slot], transactions: &[&[Operation]]) -> Setting {
    Setting {
        limits: limits.to_vec(),
        threshold: None,
        slots: slots.len().max(2),
        start: Start { used: 0, slots: slots.to_vec() },
        transactions: transactions.iter().map(|operations| operations.to_vec()).collect(),
        folds: false,
        spreads: true,
        weakness: None,
    }
}

fn slot(share: Units, used: Units) -> Slot {
    Slot { share, used }
}

/// Names of violated properties, and of the situations that were met.
fn explore(setting: &Setting) -> (BTreeSet<&'static str>, BTreeSet<&'static str>) {
    let checker = setting.clone().checker().threads(THREADS).spawn_bfs().join();
    let (met, violated): (Vec<_>, Vec<_>) = checker
        .discoveries()
        .into_keys()
        .partition(|name| matches!(checker.discovery_classification(name), DiscoveryClassification::Example));
    (violated.into_iter().collect(), met.into_iter().collect())
}

/// Explores all, finds nothing wrong and meets these situations.
fn hold(settings: impl IntoIterator<Item = Setting>, expected: &[&str]) {
    let mut all_met = BTreeSet::new();
    for setting in settings {
        let (violated, met) = explore(&setting);
        assert!(violated.is_empty(), "{violated:?} violated in {setting:?}");
        all_met.extend(met);
    }
    let missing: Vec<_> = expected.iter().filter(|name| !all_met.contains(**name)).collect();
    assert!(missing.is_empty(), "never met: {missing:?}");
}

/// All ways to choose `count` of `choices`, in any order but one.
fn choose<T: Clone>(choices: &[T], count: usize) -> Vec<Vec<T>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let chosen = |i: usize| {
        let rest = choose(&choices[i..], count - 1);
        rest.into_iter().map(move |rest| [vec![choices[i].clone()], rest].concat())
    };
    (0..choices.len()).flat_map(chosen).collect()
}

/// The row alone, everything in shares, something in shares, and slots with units in use.
fn starts(limit: Units) -> Vec<Vec<Slot>> {
    vec![
        vec![],
        vec![slot(limit / 2, 0), slot(limit - limit / 2, 0)],
        vec![slot(1, 0), slot(1, 0)],
        vec![slot(limit - 1, 1), slot(1, 1)],
    ]
}

fn family(limits: &[Units], start: &[Slot], transactions: &[Vec<Operation>], count: usize) -> Vec<Setting> {
    let chosen = choose(transactions, count);
    chosen.into_iter().map(|transactions| Setting { transactions, ..pool(limits, start, &[]) }).collect()
}

fn singles(operations: &[Operation]) -> Vec<Vec<Operation>> {
    operations.iter().map(|operation| vec![*operation]).collect()
}

#[test]
fn three_transactions_of_one_operation() {
    let operations = singles(&[Consume(1), Consume(2), Release(1), Release(2)]);
    let settings = (2..=4).flat_map(|limit| starts(limit).into_iter().map(move |start| (limit, start)));
    let settings = settings.flat_map(|(limit, start)| family(&[limit], &start, &operations, 3));
    hold(
        settings.flat_map(|setting| [setting.clone(), Setting { folds: true, ..setting }]),
        &["denied", "latched", "spread", "folded", "gathered", "refilled"],
    );
}

#[test]
fn waits_that_are_no_reason_to_spread() {
    let operations = singles(&[Consume(1), Consume(2), Release(1)]);
    let settings = (2..=4).flat_map(|limit| family(&[limit], &[], &operations, 3));
    hold(settings.map(|setting| Setting { spreads: false, ..setting }), &["denied", "latched"]);
}

#[test]
fn four_transactions_and_three_slots() {
    for limit in 2..=3 {
        hold(family(&[limit], &[], &singles(&[Consume(1), Consume(2)]), 4), &["denied", "latched", "spread"]);
        let start = [slot(1, 0), slot(1, 0), slot(0, 0)];
        hold(family(&[limit], &start, &singles(&[Consume(1), Consume(2)]), 4), &["denied", "latched"]);
    }
}

#[test]
fn a_lowered_limit() {
    for start in [vec![], vec![slot(1, 0), slot(1, 0)], vec![slot(2, 0), slot(2, 0)], vec![slot(1, 1), slot(1, 1)]] {
        hold(family(&[4, 2], &start, &singles(&[Consume(1), Consume(2), Release(1)]), 3), &["denied"]);
    }
}

#[test]
fn a_raised_limit() {
    for start in [vec![], vec![slot(1, 0), slot(1, 0)]] {
        hold(family(&[2, 4], &start, &singles(&[Consume(1), Consume(2), Release(1)]), 3), &["denied"]);
    }
}

#[test]
fn a_limit_that_comes_back() {
    for limits in [[2, 4, 2], [4, 2, 4]] {
        let start = [slot(1, 0), slot(1, 0)];
        hold(family(&limits, &start, &singles(&[Consume(1), Consume(2)]), 2), &["denied"]);
        hold([pool(&limits, &start, &[&[Consume(1)], &[Consume(2)], &[Consume(1)]])], &["denied"]);
    }
}

#[test]
fn a_threshold_is_crossed_once() {
    let operations = singles(&[Consume(1), Consume(2), Release(1)]);
    for (limit, threshold) in [(3, 2), (3, 3), (4, 2), (4, 3), (4, 4)] {
        for start in [vec![], vec![slot(1, 0)]] {
            let settings = family(&[limit], &start, &operations, 3);
            let settings =
                settings.into_iter().map(|setting| Setting { threshold: Some(threshold), folds: true, ..setting });
            hold(settings, &["crossed"]);
        }
    }
}

#[test]
fn transactions_of_two_operations() {
    let operations = [Consume(1), Consume(2)];
    let pairs: Vec<Vec<Operation>> = operations.iter().flat_map(|a| operations.map(|b| vec![*a, b])).collect();
    for limit in 2..=4 {
        for start in starts(limit) {
            for setting in family(&[limit], &start, &pairs, 2) {
                let third = operations.map(|operation| {
                    let transactions = [setting.transactions.clone(), vec![vec![operation]]].concat();
                    Setting { transactions, ..setting.clone() }
                });
                hold(third, &[]);
                hold([setting], &[]);
            }
        }
    }
    let mixed = [vec![Consume(1), Release(1)], vec![Release(1), Consume(2)], vec![Consume(1), Release(2)]];
    hold(family(&[3], &[slot(1, 0), slot(2, 1)], &mixed, 2), &[]);
}

/// So that "only if true" speaks of something: one row would have let the second wait before it took anything.
#[test]
fn a_deadlock_of_two_that_both_want_more_than_is_left() {
    let both = [Consume(1), Consume(1)];
    hold([pool(&[2], &[slot(1, 0), slot(1, 0)], &[&both, &both])], &["deadlock"]);
    let (_, met) = explore(&pool(&[2], &[], &[&both, &both]));
    assert!(!met.contains("deadlock"), "one row: who comes second waits with empty hands");
    let (_, met) = explore(&pool(&[4], &[slot(2, 0), slot(2, 0)], &[&both, &both]));
    assert!(!met.contains("deadlock"), "there is enough for both");
}

/// No run goes in circles: each ends with all transactions ended, or in a deadlock. (A checker of states alone does not see
/// a run that never ends.)
#[test]
fn every_run_ends() {
    let settings = [
        pool(&[3], &[], &[&[Consume(1)], &[Consume(2)], &[Consume(1)]]),
        pool(&[3], &[slot(1, 0), slot(1, 0)], &[&[Consume(1)], &[Consume(2)], &[Consume(2)]]),
        pool(&[3], &[slot(2, 2), slot(1, 0)], &[&[Consume(1)], &[Release(2)], &[Consume(2)]]),
        pool(&[4, 2], &[slot(2, 0), slot(2, 0)], &[&[Consume(1)], &[Consume(2)], &[Consume(1)]]),
        pool(&[2, 4], &[slot(1, 0), slot(1, 0)], &[&[Consume(2)], &[Consume(2)]]),
        pool(&[4], &[slot(2, 0), slot(2, 0)], &[&[Consume(1), Consume(2)], &[Consume(1), Consume(2)]]),
    ];
    for setting in settings {
        assert!(ends(&Setting { folds: true, ..setting.clone() }), "{setting:?}");
    }
}

/// Depth first; a state met again on the way to itself is a circle.
fn ends(setting: &Setting) -> bool {
    let mut on_the_way: HashMap<State, bool> = HashMap::new();
    let mut way: Vec<(State, Vec<State>)> = Vec::new();
    let mut enter = setting.init_states();
    loop {
        while let Some(state) = enter.pop() {
            match on_the_way.get(&state) {
                Some(true) => return false,
                Some(false) => {}
                None => {
                    let next = setting.next_steps(&state).into_iter().map(|(_, next)| next).collect();
                    on_the_way.insert(state.clone(), true);
                    way.push((state, std::mem::replace(&mut enter, next)));
                }
            }
        }
        let Some((state, others)) = way.pop() else { return true };
        on_the_way.insert(state, false);
        enter = others;
    }
}

#[test]
fn each_mistake_is_found() {
    use Weakness::*;
    let (two, one) = (&[Consume(2)][..], &[Consume(1)][..]);
    let (ones, twos) = (&[slot(1, 0), slot(1, 0)][..], &[slot(1, 0)][..]);
    let mistakes = [
        (FastByOldShares, "never over", pool(&[4, 2], ones, &[two, one])),
        (RaisesWithoutAllSlots, "never over", pool(&[2, 4, 2], ones, &[two, one])),
        (FastByStaleRoom, "never over", pool(&[2], twos, &[one, one, one])),
        (FastByFreshRoom, "never over", pool(&[2, 4, 2], ones, &[one, two])),
        (NoLookAtNewerVersion, "never over", pool(&[4, 2], &[], &[two, two])),
        (ForgetsAllocated, "never over", pool(&[2], twos, &[one, one, one])),
        (GathersWithoutLocks, "never over", pool(&[2], ones, &[one, two])),
        (FoldsWithoutAllSlots, "conservation", Setting { folds: true, ..pool(&[2], ones, &[one, two]) }),
        (DeniesWithoutAllSlots, "no false denial", pool(&[2], ones, &[one, two])),
        (DeniesWithoutAllSlots, "denials hold at the end", pool(&[2], ones, &[one, two])),
        (DeniesByOldLook, "no false denial", pool(&[2, 4], ones, &[two, one])),
        (ForgetsCrossing, "each crossing recorded", Setting { threshold: Some(2), ..pool(&[3], twos, &[two, one]) }),
        (KeepsLockOfNewerVersion, "no needless deadlock", pool(&[4], twos, &[&[Consume(2), Consume(2)], one, one])),
        (WaitsWithLocks, "no needless deadlock", pool(&[2], twos, &[&[Consume(1), Consume(1)], two])),
        (WaitsForTransaction, "no needless deadlock", pool(&[4, 2], ones, &[one, two, one])),
        (QueuesWithUnits, "no needless deadlock", pool(&[3], twos, &[&[Consume(2), Consume(1)], one, two])),
    ];
    for (weakness, property, setting) in mistakes {
        hold([setting.clone()], &[]);
        let (violated, _) = explore(&Setting { weakness: Some(weakness), ..setting });
        assert!(violated.contains(property), "{weakness:?} does not violate {property:?}, only {violated:?}");
    }
}
