//! The steps of a consumer. Names are those of the code in the extension.

use crate::store::{Counter, Row, Rows, Slot, Tables, Transaction, Units};
use crate::{Operation, Setting, Weakness};

/// What one snapshot shows of a pool, the consumer's own changes included.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Look {
    pub limit: Units,
    pub counter: Counter,
    pub slots: Vec<Option<Slot>>,
    pub total: Units,
}

/// Where a transaction is. Everything up to the next step happens at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Look,
    /// take_fast: the next slot to try, counted from the transaction's own.
    Fast(usize),
    /// fold: the next row to try; 0 = the counter.
    Fold(usize),
    /// take_slow: the counter row is to be locked.
    Slow,
    /// The counter row is locked and has units that are in no share: the next slot to try.
    Refill(usize),
    /// The counter row is locked: the next slot to try, and those that others held.
    Gather(usize, Rows),
    /// Not without these rows, which others held: one of them is to be waited for.
    Yield(Rows),
    /// In the latch's queue, to wait then; None = there is nothing left to wait for.
    Latch(Option<Held>),
    /// Until the holder gives the row back or ends.
    Wait(Held),
    /// What was waited for has come.
    Woken,
    /// All operations are done.
    End,
    Committed,
    Aborted,
}

/// A row in another's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    pub row: Rows,
    pub by: Transaction,
}

/// A take (or, negative, a release) that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Made {
    pub n: Units,
    /// The limit in force when its statement began, by its place in [`Setting::limits`].
    pub from: usize,
    /// The limit in force when it was made; of a release, when it was committed.
    pub to: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Consumer {
    pub step: Step,
    /// Which of its operations it is at.
    pub operation: usize,
    pub look: Option<Look>,
    /// Rows of which others committed newer versions than the look shows.
    pub newer: Rows,
    /// Rows locked in this operation: what a savepoint gives back.
    pub locked: Rows,
    /// Had to wait in this operation: the pool may be contended.
    pub waited: bool,
    /// Found the pool quiet in this operation; once is enough.
    pub tried_to_fold: bool,
    /// For the properties alone: nothing below decides a step.
    pub began: usize,
    /// At some moment since the operation began, what was committed (and its own) left less than it asks for.
    pub deniable: bool,
    pub made: Vec<Made>,
    pub denied: Vec<Units>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub tables: Tables,
    /// The limit in force, by its place in [`Setting::limits`].
    pub limit: usize,
    /// The first has the latch, the others wait for it.
    pub latch: Vec<Transaction>,
    pub consumers: Vec<Consumer>,
    /// For the properties alone.
    pub falsely_denied: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The next step of a transaction.
    Step(Transaction),
    /// It finds the pool quiet and tries to fold it before it takes.
    Fold(Transaction),
    /// It chose which of the rows to wait for.
    WaitFor(Transaction, Held),
    /// None of them is held any more.
    WaitForNone(Transaction),
    Commit(Transaction),
    Abort(Transaction),
    /// The next limit is committed.
    ChangeLimit,
}

/// Even parts of `units` for each of `slots` slots, the remainder to the first.
fn parts(units: Units, slots: usize) -> impl Iterator<Item = Units> {
    let slots = slots as Units;
    (0..slots).map(move |i| units / slots + Units::from(i < units % slots))
}

impl Consumer {
    pub fn starting() -> Consumer {
        Consumer {
            step: Step::Look,
            operation: 0,
            look: None,
            newer: Rows::NONE,
            locked: Rows::NONE,
            waited: false,
            tried_to_fold: false,
            began: 0,
            deniable: false,
            made: Vec::new(),
            denied: Vec::new(),
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.step, Step::Committed | Step::Aborted)
    }

    /// What its work so far adds to the total.
    pub fn net(&self) -> Units {
        self.made.iter().map(|made| made.n).sum()
    }
}

/// One transaction's view of the state: the protocol is written as what "I" do.
pub struct Me<'a> {
    pub setting: &'a Setting,
    pub state: &'a mut State,
    pub me: Transaction,
}

impl Me<'_> {
    fn has(&self, weakness: Weakness) -> bool {
        self.setting.weakness == Some(weakness)
    }

    fn consumer(&mut self) -> &mut Consumer {
        &mut self.state.consumers[self.me]
    }

    fn goto(&mut self, step: Step) {
        self.consumer().step = step;
    }

    fn operation(&self) -> Operation {
        self.setting.transactions[self.me][self.state.consumers[self.me].operation]
    }

    fn seen(&self) -> &Look {
        self.state.consumers[self.me].look.as_ref().expect("every step after look has one")
    }

    fn is_newer(&self, rows: Rows) -> bool {
        self.state.consumers[self.me].newer.has(rows)
    }

    fn counter(&self) -> Counter {
        self.state.tables.counter.seen_by(self.me)
    }

    fn slot(&self, i: usize) -> Option<Slot> {
        self.state.tables.slots[i].seen_by(self.me)
    }

    fn write_counter(&mut self, counter: Counter) {
        self.state.tables.counter.write(self.me, counter);
    }

    fn write_slot(&mut self, i: usize, slot: Option<Slot>) {
        self.state.tables.slots[i].write(self.me, slot);
    }

    fn slots(&self) -> usize {
        self.setting.slots
    }

    /// False = held by another.
    fn try_lock<T: Copy>(me: Transaction, row: &mut Row<T>, rows: Rows, locked: &mut Rows) -> bool {
        match row.locked_by {
            Some(holder) => holder == me,
            None => {
                row.locked_by = Some(me);
                *locked = locked.with(rows);
                true
            }
        }
    }

    fn try_lock_counter(&mut self) -> bool {
        let State { tables, consumers, .. } = &mut *self.state;
        Self::try_lock(self.me, &mut tables.counter, Rows::COUNTER, &mut consumers[self.me].locked)
    }

    fn try_lock_slot(&mut self, i: usize) -> bool {
        let State { tables, consumers, .. } = &mut *self.state;
        Self::try_lock(self.me, &mut tables.slots[i], Rows::slot(i), &mut consumers[self.me].locked)
    }

    /// Rolls back to the savepoint at the operation's begin.
    fn give_back_locks(&mut self) {
        let locked = std::mem::take(&mut self.consumer().locked);
        self.state.tables.unlock(locked, self.me);
        if !self.has(Weakness::WaitsForTransaction) {
            self.wake(locked);
        }
    }

    /// Whoever waits for me to let go of one of these rows.
    fn wake(&mut self, rows: Rows) {
        for consumer in &mut self.state.consumers {
            match consumer.step {
                Step::Wait(held) if held.by == self.me && rows.has(held.row) => consumer.step = Step::Woken,
                Step::Latch(Some(held)) if held.by == self.me && rows.has(held.row) => consumer.step = Step::Latch(None),
                _ => {}
            }
        }
    }

    pub fn step(&mut self) {
        match self.state.consumers[self.me].step {
            Step::Look => self.look(),
            Step::Fast(tried) => self.take_fast(tried),
            Step::Fold(tried) => self.fold(tried),
            Step::Slow => self.take_slow(),
            Step::Refill(tried) => self.refill(tried),
            Step::Gather(next, skipped) => self.gather(next, skipped),
            Step::Latch(Some(held)) => self.goto(Step::Wait(held)),
            Step::Latch(None) | Step::Woken => {
                self.consumer().waited = true;
                self.look();
            }
            Step::Yield(_) | Step::Wait(_) | Step::End | Step::Committed | Step::Aborted => {
                unreachable!("not a step of its own")
            }
        }
    }

    fn look(&mut self) {
        let tables = &self.state.tables;
        let look = Look {
            limit: self.setting.limits[self.state.limit],
            counter: tables.counter.seen_by(self.me),
            slots: tables.slots.iter().map(|row| row.seen_by(self.me)).collect(),
            total: tables.total(self.me),
        };
        let limit = self.state.limit;
        let consumer = self.consumer();
        if consumer.look.is_none() {
            consumer.began = limit;
        }
        consumer.newer = Rows::NONE;
        consumer.look = Some(look);
        self.state.note_deniable(self.setting);
        self.after_look();
    }

    /// What follows from the look alone.
    fn after_look(&mut self) {
        let look = self.seen();
        // deny_certain
        let certain = match self.operation() {
            Operation::Consume(n) => look.total + n > look.limit,
            Operation::Release(n) => look.total < n,
        };
        if certain {
            return self.deny();
        }
        let spread = look.slots.iter().any(Option::is_some);
        let shares_hold = match self.operation() {
            Operation::Release(_) => true,
            Operation::Consume(_) if self.has(Weakness::FastByOldShares) => {
                look.counter.used + look.counter.allocated <= look.limit
            }
            Operation::Consume(_) => look.counter.limit <= look.limit,
        };
        let in_slow_path = self.state.consumers[self.me].locked.has(Rows::COUNTER);
        self.goto(if spread && shares_hold && !in_slow_path { Step::Fast(0) } else { Step::Slow });
    }

    /// Whether the slot can serve the operation.
    fn serves(&self, slot: Option<Slot>) -> bool {
        match (slot, self.operation()) {
            (Some(slot), Operation::Consume(n)) => slot.room() >= n,
            (Some(slot), Operation::Release(n)) => slot.used >= n,
            (None, _) => false,
        }
    }

    fn take_fast(&mut self, tried: usize) {
        let candidate = (tried..self.slots()).find(|tried| self.serves(self.seen().slots[(self.me + tried) % self.slots()]));
        let Some(tried) = candidate else { return self.goto(Step::Slow) };
        let i = (self.me + tried) % self.slots();
        if self.state.tables.slots[i].held_by_other(self.me).is_some() {
            return self.goto(Step::Fast(tried + 1));
        }
        let mut slot = self.seen().slots[i];
        if self.has(Weakness::FastByFreshRoom) && self.serves(self.slot(i)) {
            slot = self.slot(i);
        } else if self.is_newer(Rows::slot(i)) && !self.has(Weakness::FastByStaleRoom) {
            if self.has(Weakness::KeepsLockOfNewerVersion) {
                self.state.tables.slots[i].locked_by = Some(self.me);
            }
            return self.goto(Step::Look);
        }
        self.try_lock_slot(i);
        let slot = slot.expect("it serves");
        self.write_slot(i, Some(Slot { used: slot.used + self.operation().adds(), ..slot }));
        self.done();
    }

    fn fold(&mut self, tried: usize) {
        self.consumer().tried_to_fold = true;
        let free = if tried == 0 { self.try_lock_counter() } else { self.try_lock_slot(tried - 1) };
        if !free && (tried == 0 || !self.has(Weakness::FoldsWithoutAllSlots)) {
            self.give_back_locks();
            return self.goto(Step::Fast(0));
        }
        if tried < self.slots() {
            return self.goto(Step::Fold(tried + 1));
        }
        // All rows are locked. If none is newer than the look, what the look said is so.
        if !self.state.consumers[self.me].newer.is_empty() {
            self.give_back_locks();
            return self.goto(Step::Look);
        }
        let counter = Counter { used: self.seen().total, allocated: 0, limit: 0, ..self.counter() };
        for i in 0..self.slots() {
            if self.state.tables.slots[i].locked_by == Some(self.me) {
                self.write_slot(i, None);
            }
        }
        self.take_at_row(counter);
    }

    /// A look is newer than every version, or the row is the only one: `counter.used` is the total.
    fn take_at_row(&mut self, counter: Counter) {
        let used = counter.used + self.operation().adds();
        let crosses = self.setting.threshold.is_some_and(|threshold| used >= threshold);
        let counter = Counter { used, reported: counter.reported || crosses, ..counter };
        self.write_counter(counter);
        if self.setting.spreads && self.state.consumers[self.me].waited && matches!(self.operation(), Operation::Consume(_))
        {
            self.spread(counter);
        }
        self.done();
    }

    /// The greatest total that needs no word to anybody.
    fn bound(&self, limit: Units, reported: bool) -> Units {
        match self.setting.threshold {
            Some(threshold) if !reported && !self.has(Weakness::ForgetsCrossing) => limit.min(threshold - 1),
            _ => limit,
        }
    }

    fn spread(&mut self, counter: Counter) {
        let limit = self.seen().limit;
        let unallocated = self.bound(limit, counter.reported) - counter.used;
        if unallocated <= 0 {
            return;
        }
        self.write_counter(Counter { allocated: unallocated, limit, ..counter });
        for (i, share) in parts(unallocated, self.slots()).enumerate() {
            if share > 0 && self.try_lock_slot(i) {
                self.write_slot(i, Some(Slot { share, used: 0 }));
            }
        }
    }

    fn take_slow(&mut self) {
        if !self.try_lock_counter() {
            return self.goto(Step::Yield(Rows::COUNTER));
        }
        if self.is_newer(Rows::COUNTER) && !self.has(Weakness::NoLookAtNewerVersion) {
            return self.goto(Step::Look);
        }
        let counter = self.counter();
        if (0..self.slots()).all(|i| self.slot(i).is_none()) {
            return self.take_at_row(Counter { limit: 0, ..counter });
        }
        match self.operation() {
            Operation::Release(n) if counter.used >= n => {
                self.write_counter(Counter { used: counter.used - n, ..counter });
                self.done();
            }
            Operation::Consume(n) if self.unallocated(self.held_limit()) >= n => self.goto(Step::Refill(0)),
            _ => self.goto(Step::Gather(0, Rows::NONE)),
        }
    }

    /// The limit to work under with the counter row locked and not all slots: a lower one holds at once, a higher one only
    /// when no slot is in another's hands.
    fn held_limit(&self) -> Units {
        let limit = self.seen().limit;
        let raises = self.has(Weakness::RaisesWithoutAllSlots) || self.has(Weakness::FastByOldShares);
        if raises { limit } else { limit.min(self.counter().limit) }
    }

    /// Negative after the limit was lowered.
    fn unallocated(&self, limit: Units) -> Units {
        let counter = self.counter();
        self.bound(limit, counter.reported) - counter.used - counter.allocated
    }

    fn refill(&mut self, tried: usize) {
        let (counter, limit) = (self.counter(), self.held_limit());
        let (unallocated, n) = (self.unallocated(limit), self.operation().adds());
        let share = n.max((unallocated + self.slots() as Units - 1) / self.slots() as Units);
        if tried < self.slots() {
            let i = (self.me + tried) % self.slots();
            // A slot that is not there yet is made: nobody else can while we hold the counter row.
            if !self.try_lock_slot(i) {
                return self.goto(Step::Refill(tried + 1));
            }
            let slot = self.slot(i).unwrap_or(Slot { share: 0, used: 0 });
            self.write_slot(i, Some(Slot { share: slot.share + share, used: slot.used + n }));
            let allocated = if self.has(Weakness::ForgetsAllocated) { counter.allocated } else { counter.allocated + share };
            self.write_counter(Counter { allocated, limit, ..counter });
        } else {
            self.write_counter(Counter { used: counter.used + n, limit, ..counter });
        }
        self.done();
    }

    fn gather(&mut self, next: usize, skipped: Rows) {
        let mut skipped = skipped;
        if self.slot(next).is_some() && !self.try_lock_slot(next) {
            skipped = skipped.with(Rows::slot(next));
        }
        if next + 1 < self.slots() {
            return self.goto(Step::Gather(next + 1, skipped));
        }
        if self.has(Weakness::GathersWithoutLocks) {
            skipped = Rows::NONE;
        }
        let counter = self.counter();
        let locked: Vec<(usize, Slot)> =
            (0..self.slots()).filter(|i| !skipped.has(Rows::slot(*i))).filter_map(|i| Some((i, self.slot(i)?))).collect();
        let (used, share) = locked.iter().fold((0, 0), |sum, (_, slot)| (sum.0 + slot.used, sum.1 + slot.share));
        let adds = self.operation().adds();

        // With all rows locked and none newer than the look, the look is the present.
        let all = skipped.is_empty();
        let certain = all && self.state.consumers[self.me].newer.is_empty();
        let mut limit = self.held_limit();
        let mut reported = counter.reported;
        if certain {
            limit = self.seen().limit;
        }
        let left = |limit, reported| self.bound(limit, reported) - counter.used - counter.allocated + (share - used) - adds;
        if certain && adds > 0 && left(limit, reported) < 0 && left(limit, true) >= 0 {
            reported = true;
        }
        let left = left(limit, reported);
        let serves = if adds > 0 { left >= 0 } else { counter.used + used >= -adds };
        if serves {
            // A release may leave more than a lowered limit allows: then nothing is spread, and the old limit stays written
            // for the shares in others' hands.
            let rest = left.max(0);
            let (used, allocated) = (counter.used + used + adds, counter.allocated - share + rest);
            let limit = if used + allocated <= limit { limit } else { counter.limit };
            self.write_counter(Counter { used, allocated, limit, reported });
            for ((i, _), share) in locked.iter().zip(parts(rest, locked.len().max(1))) {
                if self.try_lock_slot(*i) {
                    self.write_slot(*i, Some(Slot { share, used: 0 }));
                }
            }
            return self.done();
        }
        if self.has(Weakness::DeniesWithoutAllSlots) || (all && self.has(Weakness::DeniesByOldLook)) {
            return self.deny();
        }
        self.goto(if all { Step::Look } else { Step::Yield(skipped) });
    }

    /// Give back what this operation locked, so that nobody waits for us in turn, and wait.
    pub fn wait_for(&mut self, held: Option<Held>) {
        if !self.has(Weakness::WaitsWithLocks) {
            self.give_back_locks();
        }
        let Some(held) = held else { return self.goto(Step::Look) };
        let owns = !self.state.tables.held_by(self.me).is_empty();
        let latched = self.state.latch.contains(&self.me);
        if latched || (owns && !self.has(Weakness::QueuesWithUnits)) {
            return self.goto(Step::Wait(held));
        }
        self.state.latch.push(self.me);
        self.goto(Step::Latch(Some(held)));
    }

    fn deny(&mut self) {
        let n = self.operation().adds();
        let consumer = self.consumer();
        let deniable = consumer.deniable;
        consumer.denied.push(n);
        self.state.falsely_denied |= !deniable;
        self.give_back_locks();
        self.next_operation();
    }

    fn done(&mut self) {
        let (n, to) = (self.operation().adds(), self.state.limit);
        let consumer = self.consumer();
        let from = consumer.began;
        consumer.made.push(Made { n, from, to });
        self.next_operation();
    }

    fn next_operation(&mut self) {
        let me = self.me;
        self.state.latch.retain(|other| *other != me);
        let last = self.setting.transactions[self.me].len() - 1;
        let consumer = self.consumer();
        consumer.look = None;
        consumer.newer = Rows::NONE;
        consumer.locked = Rows::NONE;
        consumer.waited = false;
        consumer.tried_to_fold = false;
        consumer.began = 0;
        consumer.deniable = false;
        if consumer.operation == last {
            consumer.step = Step::End;
        } else {
            consumer.operation += 1;
            consumer.step = Step::Look;
        }
    }

    pub fn end(&mut self, commit: bool) {
        let held = self.state.tables.held_by(self.me);
        let written = self.state.tables.end(self.me, commit);
        self.wake(held);
        let me = self.me;
        self.state.latch.retain(|other| *other != me);
        let limit = self.state.limit;
        let consumer = self.consumer();
        consumer.step = if commit { Step::Committed } else { Step::Aborted };
        for made in consumer.made.iter_mut().filter(|made| made.n < 0) {
            made.to = limit;
        }
        for consumer in self.state.consumers.iter_mut().filter(|consumer| consumer.look.is_some()) {
            consumer.newer = consumer.newer.with(written);
        }
        self.state.note_deniable(self.setting);
    }
}

impl State {
    /// For the properties: who could be denied rightly at this moment.
    pub fn note_deniable(&mut self, setting: &Setting) {
        for i in 0..self.consumers.len() {
            let consumer = &self.consumers[i];
            if consumer.look.is_none() || consumer.deniable {
                continue;
            }
            // Only what is committed and its own, computed from the history and not from the tables.
            let total = self.committed(setting) + consumer.net();
            self.consumers[i].deniable = match setting.transactions[i][consumer.operation] {
                Operation::Consume(n) => total + n > setting.limits[self.limit],
                Operation::Release(n) => total < n,
            };
        }
    }

    /// What the committed transactions' takes and releases add up to.
    pub fn committed(&self, setting: &Setting) -> Units {
        let committed = self.consumers.iter().filter(|consumer| consumer.step == Step::Committed);
        setting.start.total() + committed.map(Consumer::net).sum::<Units>()
    }

    /// Whom the transaction cannot go on before.
    pub fn waits_for(&self, i: Transaction) -> Option<Transaction> {
        match self.consumers[i].step {
            Step::Wait(held) => Some(held.by),
            Step::Latch(_) => Some(self.latch[0]).filter(|first| *first != i),
            _ => None,
        }
    }

    /// A cycle of waits: PostgreSQL would end one of them with 40P01.
    pub fn deadlock(&self) -> Option<Vec<Transaction>> {
        (0..self.consumers.len()).find_map(|start| {
            let mut cycle = vec![start];
            let mut at = start;
            while let Some(next) = self.waits_for(at) {
                if next == start {
                    return Some(cycle);
                }
                if cycle.contains(&next) {
                    return None;
                }
                cycle.push(next);
                at = next;
            }
            None
        })
    }
}
