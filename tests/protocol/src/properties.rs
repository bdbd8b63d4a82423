//! What must be true in every reachable state. All of it is judged by what the transactions did and which limit was in force
//! when, never by what the protocol keeps.
use crate::protocol::{Consumer, Made, State, Step};
use crate::store::Units;
use crate::{Operation, Setting};
use stateright::Property;

pub fn all() -> Vec<Property<Setting>> {
    vec![
        Property::always("never over", never_over),
        Property::always("no false denial", no_false_denial),
        Property::always("denials hold at the end", denials_hold_at_the_end),
        Property::always("conservation", conservation),
        Property::always("each crossing recorded", each_crossing_recorded),
        Property::always("no needless deadlock", no_needless_deadlock),
        // Situations that the tests want to have met, so that no promise holds for want of a case.
        Property::sometimes("denied", |_, state: &State| state.consumers.iter().any(|consumer| !consumer.denied.is_empty())),
        Property::sometimes("latched", |_, state: &State| state.latch.len() > 1),
        Property::sometimes("deadlock", |_, state: &State| state.deadlock().is_some()),
        Property::sometimes("crossed", |_, state: &State| state.tables.counter.committed.reported),
        Property::sometimes("refilled", |_, state| met(state, |step| matches!(step, Step::Refill(_)))),
        Property::sometimes("gathered", |_, state| met(state, |step| matches!(step, Step::Gather(..)))),
        Property::sometimes("spread", |setting: &Setting, state| setting.start.slots.is_empty() && has_slots(state)),
        Property::sometimes("folded", |setting: &Setting, state| !setting.start.slots.is_empty() && !has_slots(state)),
    ]
}

fn met(state: &State, at: impl Fn(Step) -> bool) -> bool {
    state.consumers.iter().any(|consumer| at(consumer.step))
}

fn has_slots(state: &State) -> bool {
    state.tables.slots.iter().any(|row| row.committed.is_some())
}

/// The committed takes can be put in an order, each at one moment while its statement ran, such that each fits the limit of its
/// moment. And if the limit never changes, nothing that is still open can break it by committing.
fn never_over(setting: &Setting, state: &State) -> bool {
    let committed = state.consumers.iter().filter(|consumer| consumer.step == Step::Committed);
    let made: Vec<Made> = committed.flat_map(|consumer| consumer.made.iter().copied()).collect();
    let explained = exists_order(setting, &made, &mut Vec::new());
    if setting.limits.len() > 1 {
        return explained;
    }
    let open = state.consumers.iter().filter(|consumer| !consumer.is_over());
    explained && state.committed(setting) + open.map(|consumer| consumer.net().max(0)).sum::<Units>() <= setting.limits[0]
}

/// Whether each of `made` can be given one of the limits that were in force while its statement ran (the first have those of
/// `at`), so that the total of all up to a limit with takes fits it. Under one limit releases go first.
fn exists_order(setting: &Setting, made: &[Made], at: &mut Vec<usize>) -> bool {
    match made.get(at.len()) {
        Some(next) => (next.from..=next.to).any(|limit| {
            at.push(limit);
            let found = exists_order(setting, made, at);
            at.pop();
            found
        }),
        None => (0..setting.limits.len()).all(|limit| {
            let takes = made.iter().zip(&*at).any(|(made, at)| *at == limit && made.n > 0);
            let total: Units = made.iter().zip(&*at).filter(|(_, at)| **at <= limit).map(|(made, _)| made.n).sum();
            !takes || setting.start.total() + total <= setting.limits[limit]
        }),
    }
}

/// Each denied consumer was denied by a moment of its statement: what was committed then, its own work and n were more than the
/// limit of that moment.
fn no_false_denial(_: &Setting, state: &State) -> bool {
    !state.falsely_denied
}

/// Once all have ended, what is left is less than anyone was denied. (Who aborted had its own units to count; with releases or
/// other limits a denial need not last.)
fn denials_hold_at_the_end(setting: &Setting, state: &State) -> bool {
    let releases = setting.transactions.iter().flatten().any(|operation| matches!(operation, Operation::Release(_)));
    if setting.limits.len() > 1 || releases || !state.consumers.iter().all(Consumer::is_over) {
        return true;
    }
    let total = state.committed(setting);
    state.consumers.iter().all(|consumer| {
        let own = if consumer.step == Step::Aborted { consumer.net() } else { 0 };
        consumer.denied.iter().all(|n| total + own + n > setting.limits[0])
    })
}

/// What is stored is what was committed, and shares are within what they were made under.
fn conservation(setting: &Setting, state: &State) -> bool {
    let counter = state.tables.counter.committed;
    let slots = || state.tables.slots.iter().filter_map(|row| row.committed);
    let shares: Units = slots().map(|slot| slot.share).sum();
    state.tables.committed_total() == state.committed(setting)
        && counter.used >= 0
        && slots().all(|slot| 0 <= slot.used && slot.used <= slot.share)
        && shares == counter.allocated
        && (setting.limits.len() > 1 || counter.used + counter.allocated <= setting.limits[0])
        && (!has_slots(state) || counter.used + counter.allocated <= counter.limit)
}

/// The threshold is recorded as crossed once it is, and no earlier; once recorded it stays, also after releases.
fn each_crossing_recorded(setting: &Setting, state: &State) -> bool {
    let Some(threshold) = setting.threshold else { return true };
    let releases = setting.transactions.iter().flatten().any(|operation| matches!(operation, Operation::Release(_)));
    let (reported, crossed) = (state.tables.counter.committed.reported, state.tables.committed_total() >= threshold);
    if releases { reported || !crossed } else { reported == crossed }
}

/// Whoever is in it has taken units before, and what they want now is together more than is left (a release in the cycle
/// wants units that others hold).
fn no_needless_deadlock(setting: &Setting, state: &State) -> bool {
    let Some(cycle) = state.deadlock() else { return true };
    let open = state.consumers.iter().filter(|consumer| !consumer.is_over());
    let left = setting.limits[state.limit] - state.committed(setting) - open.map(Consumer::net).sum::<Units>();
    let wanted = || cycle.iter().map(|i| setting.transactions[*i][state.consumers[*i].operation].adds());
    cycle.iter().all(|i| !state.consumers[*i].made.is_empty()) && (wanted().any(|n| n < 0) || wanted().sum::<Units>() > left)
}
