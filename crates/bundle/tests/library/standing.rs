//! An accepted bundle over time, compared with a model that looks at every second.

use entitlements_bundle::{Clock, Denial, LEEWAY, Mode, Phase, Standing, Terms};
use entitlements_model::time::{FOREVER, Time};
use proptest::prelude::*;

use crate::vendor::{DAY, ISSUED, bundle, date};

const SECOND: Time = 1_000_000;

fn at(seconds: i64) -> Time {
    date(seconds).time()
}

fn terms(mode: Mode) -> Terms {
    Terms { mode, ..Terms::of(&bundle(1)) }
}

fn phase_at(seconds: i64) -> Phase {
    terms(Mode::Enforce).standing(Clock { now: at(seconds), highest: at(ISSUED) }).phase
}

#[test]
fn a_bundle_ages() {
    for (seconds, phase) in [
        (0, Phase::Fresh),
        (7 * DAY - 1, Phase::Fresh),
        (7 * DAY, Phase::Stale),
        (30 * DAY - 1, Phase::Stale),
        (30 * DAY, Phase::Grace),
        (44 * DAY - 1, Phase::Grace),
        (44 * DAY, Phase::Expired),
        (4_000 * DAY, Phase::Expired),
    ] {
        assert_eq!(phase_at(ISSUED + seconds), phase, "{seconds} seconds after the issue");
    }
}

#[test]
fn the_mode_decides_what_expiry_and_clock_do() {
    let over = Clock { now: at(ISSUED + 50 * DAY), highest: 0 };
    assert_eq!(terms(Mode::Enforce).standing(over).denial, Some(Denial::Expired));
    assert_eq!(terms(Mode::Advise).standing(over).denial, None);
    assert_eq!(terms(Mode::Advise).standing(over).phase, Phase::Expired);
    for back in [1, 365] {
        let behind = Clock { now: at(ISSUED + 10 * DAY - back * DAY), highest: at(ISSUED + 10 * DAY) };
        let (enforced, advised) = (terms(Mode::Enforce).standing(behind), terms(Mode::Advise).standing(behind));
        assert_eq!(enforced.denial, Some(Denial::ClockBehind));
        assert_eq!(advised.denial, None);
        assert!(enforced.clock_behind && advised.clock_behind && enforced.heartbeat_missed);
    }
}

#[test]
fn a_clock_set_back_wins_no_time() {
    let back = Clock { now: at(ISSUED), highest: at(ISSUED + 44 * DAY) };
    assert_eq!(terms(Mode::Advise).standing(back).phase, Phase::Expired);
    let corrected = Clock { now: back.highest - LEEWAY, highest: back.highest };
    let standing = terms(Mode::Enforce).standing(corrected);
    assert_eq!((standing.clock_behind, standing.denial), (false, Some(Denial::Expired)));
}

/// The rules of the bundle, in whole seconds, said another way: by what has happened up to now.
fn naive(terms: &Terms, seen: &[i64]) -> (Phase, bool, bool, Option<Denial>) {
    let happened = |event: Time| seen.iter().any(|second| *second * SECOND >= event);
    let now = *seen.last().unwrap();
    let behind = seen.iter().any(|second| *second - now > 300);
    let missed = terms.heartbeat_due.is_some_and(happened);
    let mut phase = if missed { Phase::Stale } else { Phase::Fresh };
    if happened(terms.expires) {
        phase = Phase::Grace;
    }
    if happened(terms.grace_ends) {
        phase = Phase::Expired;
    }
    let denial = match (terms.mode, behind, happened(terms.grace_ends)) {
        (Mode::Advise, ..) | (_, false, false) => None,
        (_, true, _) => Some(Denial::ClockBehind),
        (_, false, true) => Some(Denial::Expired),
    };
    (phase, missed, behind, denial)
}

fn facts(standing: Standing) -> (Phase, bool, bool, Option<Denial>) {
    (standing.phase, standing.heartbeat_missed, standing.clock_behind, standing.denial)
}

proptest! {
    #[test]
    fn agrees_with_what_has_been_seen(
        (expires, grace, heartbeat) in (1i64..2_000, 0i64..2_000, prop::option::of(1i64..3_000)),
        advise in any::<bool>(),
        seen in prop::collection::vec(-500i64..5_000, 1..8),
    ) {
        let terms = Terms {
            issued_at: 0,
            expires: expires * SECOND,
            grace_ends: (expires + grace) * SECOND,
            heartbeat_due: heartbeat.map(|due| due * SECOND),
            mode: if advise { Mode::Advise } else { Mode::Enforce },
        };
        let mut highest = Time::MIN;
        for (index, second) in seen.iter().enumerate() {
            let clock = Clock { now: second * SECOND, highest };
            highest = clock.time();
            let standing = terms.standing(clock);
            prop_assert_eq!(facts(standing), naive(&terms, &seen[..=index]));

            // The answer holds until `until`, and is another then.
            let later = |time: Time| facts(terms.standing(Clock { now: time, highest }));
            prop_assert!(standing.until > clock.now);
            let scan = if standing.until == FOREVER { second + 8_000 } else { standing.until / SECOND };
            for second in *second..scan {
                prop_assert_eq!(later(second * SECOND), facts(standing));
            }
            if standing.until != FOREVER {
                prop_assert_eq!(later(standing.until - 1), facts(standing));
                prop_assert_ne!(later(standing.until), facts(standing));
            }
        }
    }
}
