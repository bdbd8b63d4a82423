//! Changes of a subscription's life: each rule, then any sequence of changes.

use entitlements_model::kind::Status;
use entitlements_model::time::{FOREVER, Time};
use entitlements_model::timeline::{Change, Standing, Stretch, TimelineError, change, end, renew, restate, term_end};
use proptest::prelude::*;

type Life = Vec<Stretch<u32>>;

/// Of a term that began at 0.
fn stretch(status: Status, starts_at: Time, ends_at: Time, grace_until: Option<Time>, terms: u32) -> Stretch<u32> {
    Stretch { status, starts_at, ends_at, term_starts_at: 0, grace_until, terms }
}

/// The same in a term that began then.
fn of_term(term_starts_at: Time, stretch: Stretch<u32>) -> Stretch<u32> {
    Stretch { term_starts_at, ..stretch }
}

fn active(starts_at: Time, ends_at: Time) -> Stretch<u32> {
    stretch(Status::Active, starts_at, ends_at, None, 1)
}

fn canceled(starts_at: Time, ends_at: Time) -> Stretch<u32> {
    stretch(Status::Canceled, starts_at, ends_at, None, 1)
}

fn past_due(starts_at: Time, ends_at: Time, grace_until: Time) -> Stretch<u32> {
    stretch(Status::PastDue, starts_at, ends_at, Some(grace_until), 1)
}

fn with_terms(life: &[Stretch<u32>], at: Time, terms: u32) -> Result<Life, TimelineError> {
    change(life, Change { at, standing: None, ends_at: None, changes_terms: true, terms: |_: &u32| terms })
}

fn with_standing(life: &[Stretch<u32>], at: Time, standing: Standing) -> Result<Life, TimelineError> {
    change(life, Change { at, standing: Some(standing), ends_at: None, changes_terms: false, terms: |terms: &u32| *terms })
}

fn with_end(life: &[Stretch<u32>], at: Time, ends_at: Time) -> Result<Life, TimelineError> {
    change(life, Change { at, standing: None, ends_at: Some(ends_at), changes_terms: false, terms: |terms: &u32| *terms })
}

#[test]
fn a_change_applies_from_its_moment_on() {
    let changed = stretch(Status::Active, 50, 100, None, 2);
    assert_eq!(with_terms(&[active(0, 100)], 50, 2), Ok(vec![active(0, 50), changed]));
}

#[test]
fn a_change_before_the_start_applies_to_all_of_it() {
    assert_eq!(with_terms(&[active(10, 100)], 5, 2), Ok(vec![stretch(Status::Active, 10, 100, None, 2)]));
}

#[test]
fn a_change_keeps_what_is_scheduled_after_it() {
    let life = vec![stretch(Status::Trialing, 0, 30, None, 1), active(30, FOREVER)];
    let changed = with_terms(&life, 10, 2).unwrap();
    assert_eq!(
        changed,
        [
            stretch(Status::Trialing, 0, 10, None, 1),
            stretch(Status::Trialing, 10, 30, None, 2),
            stretch(Status::Active, 30, FOREVER, None, 2)
        ]
    );
}

#[test]
fn a_change_to_what_already_is_changes_nothing() {
    let life = vec![stretch(Status::Trialing, 0, 30, None, 1), active(30, 100)];
    assert_eq!(with_terms(&life, 10, 1), Ok(life.clone()));
    assert_eq!(with_end(&life, 10, 100), Ok(life.clone()));
    assert_eq!(end(&[active(0, 50), canceled(50, 80)], 60, 80), Ok(vec![active(0, 50), canceled(50, 80)]));
}

#[test]
fn grace_reaches_over_the_end_but_not_over_the_next_term() {
    let grace = Standing::PastDue { grace_until: 120 };
    assert_eq!(with_standing(&[active(0, 100)], 90, grace), Ok(vec![active(0, 90), past_due(90, 100, 120)]));
    let renewed = vec![active(0, 100), active(100, 200)];
    assert_eq!(with_standing(&renewed, 90, grace), Ok(vec![active(0, 90), past_due(90, 100, 100), past_due(100, 200, 120)]));
}

#[test]
fn paying_ends_the_grace_period() {
    let life = vec![active(0, 90), past_due(90, 200, 120)];
    assert_eq!(
        with_standing(&life, 110, Standing::Active),
        Ok(vec![active(0, 90), past_due(90, 110, 110), active(110, 200)])
    );
}

#[test]
fn a_grace_period_granted_after_the_end_counts_from_it() {
    let life = with_standing(&[active(0, 100)], 105, Standing::PastDue { grace_until: 120 }).unwrap();
    assert_eq!(life, [active(0, 100), past_due(100, 100, 120)]);
    let longer = with_standing(&life, 115, Standing::PastDue { grace_until: 130 }).unwrap();
    assert_eq!(longer, [active(0, 100), past_due(100, 100, 130)]);
    assert_eq!(renew(&longer, 125, 200), Ok((vec![active(0, 100), of_term(100, active(100, 200))], 100)));
}

#[test]
fn what_has_ended_takes_no_change() {
    let life = vec![active(0, 100)];
    assert_eq!(with_terms(&life, 100, 2), Err(TimelineError::Ended));
    assert_eq!(with_end(&life, 100, 200), Err(TimelineError::Ended));
    assert_eq!(with_standing(&life, 100, Standing::Active), Err(TimelineError::Ended));
    assert_eq!(with_standing(&[canceled(0, 100)], 100, Standing::PastDue { grace_until: 120 }), Err(TimelineError::Ended));
}

#[test]
fn grace_and_end_lie_after_the_change() {
    let life = vec![active(0, 100)];
    assert_eq!(with_standing(&life, 50, Standing::PastDue { grace_until: 50 }), Err(TimelineError::GraceTooEarly));
    assert_eq!(with_end(&life, 50, 50), Err(TimelineError::EndTooEarly));
    assert_eq!(with_standing(&[active(0, FOREVER)], 5, Standing::Canceled), Err(TimelineError::OpenEnded));
}

#[test]
fn a_grace_period_that_was_over_before_the_end_stays_over() {
    let life = vec![active(0, 10)];
    let life = with_standing(&life, 0, Standing::PastDue { grace_until: 3 }).unwrap();
    let extended = with_standing(&life, 12, Standing::PastDue { grace_until: 20 }).unwrap();
    let in_force = |at| extended.iter().any(|stretch| stretch.is_in_force(at));
    assert!(in_force(2) && !in_force(3) && !in_force(9), "{extended:?}");
    assert!(in_force(10) && in_force(19) && !in_force(20), "{extended:?}");
}

#[test]
fn a_new_end_cuts_or_extends_the_last_stretch() {
    let life = vec![active(0, 100), active(100, 200)];
    assert_eq!(with_end(&life, 50, 300), Ok(vec![active(0, 50), active(50, 100), active(100, 300)]));
    assert_eq!(with_end(&life, 50, 80), Ok(vec![active(0, 50), active(50, 80)]));
}

#[test]
fn renewal_before_the_end_leaves_the_running_term() {
    let next = of_term(100, active(100, 200));
    assert_eq!(renew(&[active(0, 100)], 60, 200), Ok((vec![active(0, 100), next.clone()], 100)));
    assert_eq!(renew(&[canceled(0, 100)], 60, 200), Ok((vec![canceled(0, 100), next], 100)));
}

#[test]
fn renewal_in_grace_follows_the_old_term() {
    let life = vec![active(0, 90), past_due(90, 100, 120)];
    let next = of_term(100, active(100, 200));
    assert_eq!(renew(&life, 110, 200), Ok((vec![active(0, 90), past_due(90, 100, 100), next], 100)));
}

#[test]
fn renewal_of_what_is_past_due_makes_the_rest_of_the_term_active() {
    let life = vec![active(0, 80), past_due(80, 100, 120)];
    assert_eq!(
        renew(&life, 90, 200),
        Ok((vec![active(0, 80), past_due(80, 90, 90), active(90, 100), of_term(100, active(100, 200))], 100))
    );
}

#[test]
fn renewal_after_end_and_grace_starts_now() {
    let next = |starts_at| of_term(starts_at, active(starts_at, 200));
    assert_eq!(renew(&[active(0, 100)], 100, 200), Ok((vec![active(0, 100), next(100)], 100)));
    assert_eq!(renew(&[active(0, 100)], 130, 200), Ok((vec![active(0, 100), next(130)], 130)));
    let lapsed = vec![active(0, 90), past_due(90, 100, 120)];
    assert_eq!(renew(&lapsed, 120, 200), Ok((vec![active(0, 90), past_due(90, 100, 120), next(120)], 120)));
}

#[test]
fn a_renewal_adds_time_to_a_term_that_ends() {
    assert_eq!(renew(&[active(0, 100)], 60, 100), Err(TimelineError::TermTooShort { starts_at: 100 }));
    assert_eq!(renew(&[active(0, 100)], 160, 150), Err(TimelineError::TermTooShort { starts_at: 160 }));
    assert_eq!(renew(&[active(0, FOREVER)], 60, 100), Err(TimelineError::OpenEnded));
}

#[test]
fn each_piece_of_a_term_knows_when_it_began() {
    let changed = with_terms(&[active(0, 100)], 40, 2).unwrap();
    let (renewed, _) = renew(&changed, 60, 200).unwrap();
    let life = with_terms(&renewed, 150, 3).unwrap();
    let terms: Vec<_> = life.iter().map(|stretch| (stretch.starts_at, stretch.term_starts_at)).collect();
    assert_eq!(terms, [(0, 0), (40, 0), (100, 100), (150, 100)]);
    let grace = with_standing(&life, 210, Standing::PastDue { grace_until: 220 }).unwrap();
    assert_eq!(grace.last().map(|stretch| (stretch.starts_at, stretch.term_starts_at)), Some((200, 100)));
    let ended = end(&life, 160, 180).unwrap();
    assert_eq!(ended.last().map(|stretch| (stretch.starts_at, stretch.term_starts_at)), Some((160, 100)));
}

#[test]
fn an_end_between_two_terms_is_that_of_the_first() {
    let (second, _) = renew(&[active(0, 60), canceled(60, 69)], 93, 100).unwrap();
    assert_eq!(second, [active(0, 60), canceled(60, 69), of_term(93, active(93, 100))]);
    assert_eq!(with_end(&second, 0, 80), Ok(vec![active(0, 60), canceled(60, 80)]));
}

#[test]
fn an_end_in_the_future_cancels_the_time_that_is_left() {
    let life = vec![active(0, 100), active(100, 200)];
    assert_eq!(end(&life, 50, 80), Ok(vec![active(0, 50), canceled(50, 80)]));
    assert_eq!(end(&life, 50, 200), Ok(vec![active(0, 50), canceled(50, 100), canceled(100, 200)]));
    assert_eq!(end(&life, 50, 201), Err(TimelineError::EndTooLate));
}

#[test]
fn an_end_now_leaves_a_mark() {
    assert_eq!(end(&[active(0, FOREVER)], 50, 50), Ok(vec![active(0, 50), canceled(50, 50)]));
    assert_eq!(end(&[active(0, FOREVER)], 50, 20), Ok(vec![active(0, 20), canceled(20, 20)]));
}

#[test]
fn an_end_before_the_start_leaves_only_the_mark() {
    let scheduled = vec![active(100, 200)];
    assert_eq!(end(&scheduled, 50, 50), Ok(vec![canceled(100, 100)]));
    assert_eq!(with_terms(&[canceled(100, 100)], 50, 2), Err(TimelineError::Ended));
}

#[test]
fn an_end_cuts_the_grace_period() {
    let life = vec![active(0, 90), past_due(90, 100, 120)];
    assert_eq!(end(&life, 110, 110), Ok(vec![active(0, 90), past_due(90, 100, 110), canceled(100, 100)]));
    assert_eq!(end(&life, 95, 98), Ok(vec![active(0, 90), past_due(90, 95, 95), past_due(95, 98, 98), canceled(98, 98)]));
    assert_eq!(end(&life, 130, 130), Ok(life.clone()));
}

#[derive(Debug, Clone)]
enum Step {
    Terms(Time, u32),
    Stand(Time, Standing),
    End(Time, Time),
    Renew(Time),
    Finish(Time),
}

#[test]
fn what_is_stated_anew_holds_from_now_on() {
    let stated = |starts_at, ends_at, terms| of_term(starts_at, stretch(Status::Active, starts_at, ends_at, None, terms));
    let life = restate(&[], 50, stated(0, 100, 1));
    assert_eq!(life, [active(0, 100)], "what is new is as stated, also before now");
    assert_eq!(restate(&life, 60, stated(0, 100, 1)), life);
    assert_eq!(restate(&life, 60, stated(0, 200, 1)), [active(0, 200)], "a later end is the same stretch");
    assert_eq!(restate(&life, 60, stated(0, 100, 2)), [active(0, 60), stretch(Status::Active, 60, 100, None, 2)]);
    assert_eq!(restate(&life, 120, stated(0, 200, 1)), [active(0, 100), active(120, 200)], "what was over was over");
    assert_eq!(restate(&life, 60, stated(80, 100, 1)), [active(0, 60), of_term(80, active(80, 100))]);
    assert_eq!(restate(&life, 60, stated(0, 40, 1)), [active(0, 60)], "the past stays what it was");
}

fn step() -> impl Strategy<Value = Step> {
    let time = 0..200i64;
    prop_oneof![
        (time.clone(), 0..4u32).prop_map(|(at, terms)| Step::Terms(at, terms)),
        (time.clone(), time.clone()).prop_map(|(at, grace_until)| Step::Stand(at, Standing::PastDue { grace_until })),
        (time.clone(), prop_oneof![Just(Standing::Active), Just(Standing::Trialing), Just(Standing::Canceled)])
            .prop_map(|(at, standing)| Step::Stand(at, standing)),
        (time.clone(), time.clone()).prop_map(|(at, ends_at)| Step::End(at, ends_at)),
        time.clone().prop_map(Step::Renew),
        time.prop_map(Step::Finish),
    ]
}

/// The life after the step with the start of the term that a renewal adds, and until when it must grant what it granted.
fn take(life: &[Stretch<u32>], now: Time, step: &Step) -> (Result<(Life, Option<Time>), TimelineError>, Time) {
    let same_terms = |changed: Result<Life, _>| changed.map(|life| (life, None));
    match *step {
        Step::Terms(at, terms) => (same_terms(with_terms(life, at, terms)), at),
        Step::Stand(at, standing) => (same_terms(with_standing(life, at, standing)), at.min(term_end(life))),
        Step::End(at, ends_at) => (same_terms(with_end(life, at, ends_at)), at),
        Step::Renew(until) => {
            (renew(life, now, until).map(|(life, starts_at)| (life, Some(starts_at))), now.min(term_end(life)))
        }
        Step::Finish(ends_at) => (same_terms(end(life, now, ends_at)), ends_at),
    }
}

/// When the term began that the moment lies in.
fn term_start(life: &[Stretch<u32>], at: Time) -> Option<Time> {
    let stretch = life.iter().find(|stretch| stretch.starts_at <= at && at < stretch.ends_at)?;
    Some(stretch.term_starts_at)
}

proptest! {
    #[test]
    fn any_sequence_of_changes_keeps_the_promises(
        starts_at in 0..100i64,
        length in prop_oneof![1..100i64, Just(FOREVER - 100)],
        steps in prop::collection::vec((0..20i64, step()), 1..12),
    ) {
        let mut life: Life = vec![of_term(starts_at, active(starts_at, starts_at.saturating_add(length).max(length)))];
        let mut now = 0;
        for (wait, step) in steps {
            now += wait;
            let (changed, kept_until) = take(&life, now, &step);
            let Ok((changed, renewed_at)) = changed else { continue };
            prop_assert!(!changed.is_empty());
            for pair in changed.windows(2) {
                prop_assert!(pair[0].starts_at <= pair[1].starts_at, "in order: {changed:?}");
                prop_assert!(pair[0].ends_at <= pair[1].starts_at, "no overlap: {changed:?}");
            }
            for stretch in &changed {
                prop_assert!(stretch.starts_at <= stretch.ends_at);
                prop_assert!(stretch.term_starts_at <= stretch.starts_at);
                let known = life.iter().any(|old| old.term_starts_at == stretch.term_starts_at);
                prop_assert!(known || renewed_at == Some(stretch.term_starts_at), "no such term: {changed:?} of {life:?}");
                prop_assert!(stretch.grace_until.is_none() || stretch.status == Status::PastDue);
                prop_assert!(stretch.grace_until.is_none_or(|grace| grace > stretch.starts_at));
            }
            for at in 0..400 {
                // What lay in a term stays in it; what is new belongs to the renewal, else to the last term that had begun by then.
                if let Some(term) = term_start(&changed, at) {
                    let begun = || life.iter().rev().find(|stretch| stretch.starts_at <= at).map(|stretch| stretch.term_starts_at);
                    let expected = term_start(&life, at).or(renewed_at).or_else(begun);
                    prop_assert_eq!(Some(term), expected, "at {}, {:?} made {:?} of {:?}", at, step, changed, life);
                }
                let granting = |life: &[Stretch<u32>]| life.iter().filter(|stretch| stretch.is_in_force(at)).map(|stretch| stretch.terms).collect::<Vec<_>>();
                let after = granting(&changed);
                prop_assert!(after.len() <= 1, "at {at}, two in force: {changed:?}");
                if at < kept_until {
                    prop_assert_eq!(after, granting(&life), "at {}, {:?} made {:?} of {:?}", at, step, changed, life);
                }
            }
            life = changed;
        }
    }

    #[test]
    fn stated_again_nothing_changes(
        stated in prop::collection::vec((0..100i64, 1..100i64, 0..3u32, 0..30i64), 1..8),
    ) {
        let (mut life, mut now) = (Life::new(), 0);
        for (starts_at, length, terms, wait) in stated {
            now += wait;
            let stated = of_term(starts_at, stretch(Status::Active, starts_at, starts_at + length, None, terms));
            let restated = restate(&life, now, stated.clone());
            prop_assert_eq!(&restate(&restated, now + 1, stated.clone()), &restated);
            for at in 0..250 {
                let granting = |life: &[Stretch<u32>]| life.iter().filter(|stretch| stretch.is_in_force(at)).map(|stretch| stretch.terms).collect::<Vec<_>>();
                let begun = life.iter().any(|stretch| stretch.starts_at < now);
                let expected = if at < now && begun { granting(&life) } else { granting(std::slice::from_ref(&stated)) };
                prop_assert_eq!(granting(&restated), expected, "at {}, {:?} made of {:?}", at, &restated, &life);
            }
            life = restated;
        }
    }
}
