//! The slot protocol: how consumers take units from one pool at the same time without waiting for each other, never over the
//! limit and never denied while anything is left. Written as a model and explored in every interleaving of a few small
//! transactions by a model checker; the extension uses the same names.
//!
//! # The protocol
//!
//! A pool is a counter row and, under contention, slot rows that each own a share of the limit ([`store::Counter`],
//! [`store::Slot`]). Total usage = the counter's `used` + each slot's `used`. Row locks last until the transaction ends. The
//! counter's `limit` says what limit the shares were made under; at every commit `used + allocated <= limit`.
//!
//! 1. **look**: one fresh snapshot shows limit, counter and slots, own changes included.
//! 2. **deny_certain**: the total the look shows + n > its limit. There is no other denial. With all rows of the pool locked a
//!    look is the present, so a consumer that has locked them all and has too little looks again.
//! 3. **take_fast**: there are slots and the counter's `limit` <= the limit of the look. Tries to lock (SKIP LOCKED) each slot
//!    with room, its own first. A version newer than the look is not locked: look again. No other row is touched.
//! 4. **take_slow** otherwise, after a savepoint: tries to lock the counter row; if a newer version is locked, looks again.
//!    * No slots: takes at the row; a consumer that had to wait **spreads** what is left over slots, or does not: in the
//!      extension short waits now and then are no reason to.
//!    * A limit lower than the counter's holds at once. A higher one only when all slots are locked too, by a look made after
//!      that: what a raise makes free is given out when nobody else is at work in a slot.
//!    * Enough is unallocated: **refill**, raises the share of a free slot (or makes one) and takes there; if all slots are
//!      locked, takes at the row. In the extension this is how `gather` begins: it stops at the first slot if that is enough.
//!    * Else **gather**: tries to lock every slot; takes if what is unallocated and the room of those locked suffice, and
//!      spreads the rest over them. If they do not suffice and all are locked, the total would reach the threshold: the
//!      crossing is recorded, or the next look denies.
//! 5. **Waiting** for the counter row or a skipped slot: rolls back to the savepoint, so that whoever waits holds nothing that
//!    it has not taken units from. Then queues at the pool's **latch** (first come, first served; given back at the end of the
//!    operation), except that who holds rows of the pool from before goes past the queue, since the queue may wait for them.
//!    Then waits until the row is given back: for the end of the (sub)transaction that locked it, not of the whole
//!    transaction. Then starts again at the look, with the latch.
//! 6. **fold**: a consumer that finds the pool quiet tries to lock all rows; if it can and none is newer than its look, the
//!    counter takes all over and the slots are gone. Else it gives them back and goes on as usual.
//! 7. **release**: like a take, from a slot (or row) with `used` >= n; gathers if there is none. No limit matters to it.
//! 8. Shares stop below the next threshold, so that a crossing always passes through gather with all rows locked (or the row
//!    alone), and is recorded in the transaction that crosses.
//!
//! # What is checked
//!
//! In every reachable state ([`properties`]): never over, also across limits lowered and raised at any time; no false denial;
//! units of an aborted transaction come back (conservation); each crossing recorded; no deadlock among transactions of one
//! operation, and with two operations only between consumers that all hold units and together want more than is left. Every
//! run ends. For each [`Weakness`] a test shows that the checker finds it.
//!
//! Not modelled: several pools, cancelled statements, ROLLBACK TO a savepoint of the application; usage that is recorded whatever
//! the limit (`add`) and corrections (`restate`), which fold all slots first, also by waiting for one after the other.

pub mod properties;
pub mod protocol;
pub mod store;

use protocol::{Action, Consumer, Held, Me, State, Step};
use stateright::{Model, Property};
use store::{Counter, Row, Slot, Tables, Transaction, Units};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Consume(Units),
    Release(Units),
}

impl Operation {
    pub fn adds(self) -> Units {
        match self {
            Operation::Consume(n) => n,
            Operation::Release(n) => -n,
        }
    }
}

/// A mistake that the protocol could have: the checker must find each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weakness {
    /// The fast path asks whether the shares the look shows fit the limit, not what limit they were made under; a higher
    /// limit that another transaction hands out at this moment goes unseen.
    FastByOldShares,
    /// The limit of the shares is raised under the counter row's lock alone: the same, when the limit is lowered again.
    RaisesWithoutAllSlots,
    /// A slot is written by what the look showed of it, though a newer version is locked.
    FastByStaleRoom,
    /// A newer version of a slot is taken from if it has room, by the limit of the older look.
    FastByFreshRoom,
    /// The row is taken from by an older look, though a newer version is locked.
    NoLookAtNewerVersion,
    /// The fast path locks a newer version and keeps it while it looks again, and while it waits.
    KeepsLockOfNewerVersion,
    /// A refill does not count as allocated.
    ForgetsAllocated,
    /// Room in slots that others hold counts.
    GathersWithoutLocks,
    /// Only some slots are folded.
    FoldsWithoutAllSlots,
    /// Denied because the slots that could be locked have too little.
    DeniesWithoutAllSlots,
    /// Denied with all rows locked, but by a limit seen before.
    DeniesByOldLook,
    /// Shares go beyond the threshold.
    ForgetsCrossing,
    /// What was gathered stays locked while waiting for the rest.
    WaitsWithLocks,
    /// Waits for the end of the transaction that held a row, though it has given the row back.
    WaitsForTransaction,
    /// Queues at the latch with units in hand that others in the queue may wait for.
    QueuesWithUnits,
}

/// The pool before the first transaction.
#[derive(Clone, Debug)]
pub struct Start {
    pub used: Units,
    pub slots: Vec<Slot>,
}

impl Start {
    pub fn total(&self) -> Units {
        self.used + self.slots.iter().map(|slot| slot.used).sum::<Units>()
    }
}

/// What is explored: every interleaving of these.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The first is in force at the start; the others are committed in this order, each at any time.
    pub limits: Vec<Units>,
    /// The first total that crosses the threshold.
    pub threshold: Option<Units>,
    /// How many slots there may be.
    pub slots: usize,
    pub start: Start,
    pub transactions: Vec<Vec<Operation>>,
    /// Whether consumers find the pool quiet.
    pub folds: bool,
    /// Whether consumers that had to wait find that reason enough to spread it.
    pub spreads: bool,
    pub weakness: Option<Weakness>,
}

impl Setting {
    fn may_fold(&self, i: Transaction, consumer: &Consumer) -> bool {
        let consumes = matches!(self.transactions[i][consumer.operation], Operation::Consume(_));
        self.folds && consumes && !consumer.tried_to_fold
    }
}

impl Model for Setting {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let slots = &self.start.slots;
        let allocated = slots.iter().map(|slot| slot.share).sum();
        let limit = if slots.is_empty() { 0 } else { self.limits[0] };
        let tables = Tables {
            counter: Row::new(Counter { used: self.start.used, allocated, limit, reported: false }),
            slots: (0..self.slots).map(|i| Row::new(slots.get(i).copied())).collect(),
        };
        vec![State {
            tables,
            limit: 0,
            latch: Vec::new(),
            consumers: self.transactions.iter().map(|_| Consumer::starting()).collect(),
            falsely_denied: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.limit + 1 < self.limits.len() && state.consumers.iter().any(|consumer| !consumer.is_over()) {
            actions.push(Action::ChangeLimit);
        }
        for (i, consumer) in state.consumers.iter().enumerate() {
            match consumer.step {
                Step::End => actions.extend([Action::Commit(i), Action::Abort(i)]),
                Step::Committed | Step::Aborted => {}
                Step::Wait(_) | Step::Latch(_) if state.waits_for(i).is_some() => {}
                Step::Yield(rows) => {
                    let held = state.tables.in_other_hands(rows, i);
                    actions.extend(held.iter().map(|(row, by)| Action::WaitFor(i, Held { row: *row, by: *by })));
                    if held.is_empty() {
                        actions.push(Action::WaitForNone(i));
                    }
                }
                Step::Fast(0) if self.may_fold(i, consumer) => actions.extend([Action::Step(i), Action::Fold(i)]),
                _ => actions.push(Action::Step(i)),
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let me = |me, state| Me { setting: self, state, me };
        match action {
            Action::Step(i) => me(i, &mut state).step(),
            Action::Fold(i) => state.consumers[i].step = Step::Fold(0),
            Action::WaitFor(i, held) => me(i, &mut state).wait_for(Some(held)),
            Action::WaitForNone(i) => me(i, &mut state).wait_for(None),
            Action::Commit(i) => me(i, &mut state).end(true),
            Action::Abort(i) => me(i, &mut state).end(false),
            Action::ChangeLimit => {
                state.limit += 1;
                state.note_deniable(self);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
