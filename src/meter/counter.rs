//! Counters and their slots as they are stored.

use crate::check::load::{Reader, present};
use crate::pg::relations::{Relations, counter, counter_slot};
use crate::pg::scan::{Condition, Order, Place, Root, Row, Tracks, fetch, fetch_all, scan};
use crate::pg::snapshot::{ActiveSnapshot, is_serializable};
use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::meter::window::Window;
use entitlements_model::time::Time;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use std::ops::ControlFlow;
use std::str::FromStr;

/// What stands for the plan's allowance where a credit's id would be.
pub const PLAN: i64 = 0;

/// The least that is remembered of counters: where the rows are that pools had when they were looked at last.
#[derive(Default)]
pub struct Places {
    counters: HashMap<PoolKey, Root, RandomState>,
    /// Of the slots, by counter.
    slots: HashMap<i64, Tracks, RandomState>,
    slot_count: usize,
}

impl Places {
    /// Some 100 kB.
    const MOST_COUNTERS: usize = 2000;

    /// Some 100 kB: a few slots each for a thousand counters, or the most that there may be for a few.
    const MOST_SLOTS: usize = 8000;

    fn keep(&mut self, key: PoolKey, root: Root) {
        if self.counters.len() >= Self::MOST_COUNTERS {
            self.counters.clear();
        }
        self.counters.insert(key, root);
    }

    fn keep_slots(&mut self, counter: i64, tracks: Tracks) {
        self.forget_slots(counter);
        if self.slot_count + tracks.count() > Self::MOST_SLOTS {
            self.slots.clear();
            self.slot_count = 0;
        }
        self.slot_count += tracks.count();
        self.slots.insert(counter, tracks);
    }

    fn forget_slots(&mut self, counter: i64) {
        if let Some(tracks) = self.slots.remove(&counter) {
            self.slot_count -= tracks.count();
        }
    }

    pub fn clear(&mut self) {
        self.counters.clear();
        self.slots.clear();
        self.slot_count = 0;
    }
}

/// A pool: an account's plan allowance of a feature, or one of its credits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PoolKey {
    pub account: i64,
    pub feature: i32,
    /// [`PLAN`] or a credit.
    pub credit: i64,
}

/// The usage of a pool in a window, as a snapshot shows it.
pub struct Counter {
    pub id: i64,
    pub place: Place,
    pub key: PoolKey,
    pub window: Window,
    /// Without what the slots have used.
    pub used: Amount,
    /// Sum of the slots' shares.
    pub allocated: Allowance,
    /// The limit that the shares were made under.
    pub made_under: Allowance,
    /// The greatest threshold reported.
    pub reported: Option<Amount>,
    /// The pool has one for a later window.
    pub is_superseded: bool,
    pub slots: Vec<Slot>,
    /// Whether this transaction has changed the counter or one of the slots: it has units of the pool.
    pub is_own: bool,
}

#[derive(Clone, Copy)]
pub struct Slot {
    pub number: i16,
    pub place: Place,
    pub share: Allowance,
    pub used: Amount,
    pub touched_at: Time,
}

impl Slot {
    pub fn read(row: &Row<'_, { counter_slot::COUNT }>) -> Self {
        Self {
            number: present(row.int2(counter_slot::SLOT)),
            place: row.place(),
            share: present(row.allowance(counter_slot::SHARE)),
            used: present(row.amount(counter_slot::USED)),
            touched_at: present(row.time(counter_slot::TOUCHED_AT)),
        }
    }

    pub fn room(&self) -> Allowance {
        self.share.minus(self.used)
    }
}

/// An amount as a query gives it.
pub fn amount(text: &str) -> Amount {
    Amount::from_str(text).expect("amounts were checked when they were written")
}

impl Counter {
    /// The pool's counter for the window that contains `at`, looked for first where the pool's last one was: windows do not
    /// overlap, so there is one at most. Does not tell whether it is superseded.
    pub fn where_it_was(reader: &mut Reader<'_>, key: PoolKey, at: Time) -> Option<Self> {
        let (relations, snapshot) = (reader.relations, reader.snapshot);
        // A serializable transaction leaves its predicate locks in the index.
        if let Some(root) = reader.places.counters.get_mut(&key).filter(|_| !is_serializable())
            && let Some(found) = fetch(&relations.counters, root, reader.intent, snapshot, Self::read)
            && found.key == key
            && found.window.contains(at)
        {
            return Some(found.with_slots_where_they_were(reader));
        }
        let found = Self::covering(relations, snapshot, key, at)?;
        if let Some(root) = Root::of(&relations.counters, found.place) {
            reader.places.keep(key, root);
        }
        Some(found)
    }

    /// With its slots, looked for first where they were: if the snapshot shows as many of the counter's there as it has, those are all.
    fn with_slots_where_they_were(mut self, reader: &mut Reader<'_>) -> Self {
        let (relations, snapshot, expected) = (reader.relations, reader.snapshot, self.slots.capacity());
        if expected == 0 {
            return self;
        }
        if let Some(tracks) = reader.places.slots.get_mut(&self.id).filter(|tracks| tracks.count() == expected) {
            let mut is_own = false;
            let is_shown = fetch_all(&relations.counter_slots, tracks, reader.intent, snapshot, |index, row| {
                let number = present(row.int2(counter_slot::SLOT));
                if present(row.int8(counter_slot::COUNTER_ID)) != self.id || usize::try_from(number) != Ok(index) {
                    return false;
                }
                is_own |= row.is_own();
                self.slots.push(Slot::read(row));
                true
            });
            if is_shown {
                self.is_own |= is_own;
                return self;
            }
            self.slots.clear();
        }
        let found = self.with_slots(relations, snapshot);
        // They are numbered without a gap, and found in order.
        match Tracks::of(&relations.counter_slots, found.slots.iter().map(|slot| slot.place)) {
            Some(tracks) => reader.places.keep_slots(found.id, tracks),
            None => reader.places.forget_slots(found.id),
        }
        found
    }

    /// The pool's counter for the window that contains `at`.
    pub fn covering(relations: &Relations, snapshot: ActiveSnapshot, key: PoolKey, at: Time) -> Option<Self> {
        Self::last_begun(relations, snapshot, key, at).filter(|found| found.window.contains(at))
    }

    /// The pool's counter for the last window that has begun at `at`; it may be over.
    pub fn last_begun(relations: &Relations, snapshot: ActiveSnapshot, key: PoolKey, at: Time) -> Option<Self> {
        let conditions = [
            Condition::Int8Is(counter::ACCOUNT_ID, key.account),
            Condition::Int4Is(counter::FEATURE_ID, key.feature),
            Condition::Int8Is(counter::CREDIT_ID, key.credit),
        ];
        let mut found = None;
        let mut is_superseded = false;
        scan(&relations.counters, &conditions, Order::Descending, snapshot, |row| {
            if present(row.time(counter::WINDOW_START)) > at {
                is_superseded = true;
                return ControlFlow::Continue(());
            }
            found = Some(Self { is_superseded, ..Self::read(row) });
            ControlFlow::Break(())
        });
        found.map(|found| found.with_slots(relations, snapshot))
    }

    /// All counters of an account and feature.
    pub fn all(relations: &Relations, snapshot: ActiveSnapshot, account: i64, feature: i32) -> Vec<Self> {
        let conditions = [Condition::Int8Is(counter::ACCOUNT_ID, account), Condition::Int4Is(counter::FEATURE_ID, feature)];
        let mut found = Vec::new();
        scan(&relations.counters, &conditions, Order::Ascending, snapshot, |row| {
            found.push(Self::read(row));
            ControlFlow::Continue(())
        });
        found.into_iter().map(|found| found.with_slots(relations, snapshot)).collect()
    }

    pub fn by_id(relations: &Relations, snapshot: ActiveSnapshot, id: i64) -> Option<Self> {
        let mut found = None;
        scan(&relations.counters_by_id, &[Condition::Int8Is(counter::ID, id)], Order::Any, snapshot, |row| {
            found = Some(Self::read(row));
            ControlFlow::Break(())
        });
        found.map(|found| found.with_slots(relations, snapshot))
    }

    /// Without slots, which are rows of their own; `slots` has as many places as there are.
    fn read(row: &Row<'_, { counter::COUNT }>) -> Self {
        Self {
            id: present(row.int8(counter::ID)),
            place: row.place(),
            key: PoolKey {
                account: present(row.int8(counter::ACCOUNT_ID)),
                feature: present(row.int4(counter::FEATURE_ID)),
                credit: present(row.int8(counter::CREDIT_ID)),
            },
            window: Window { start: present(row.time(counter::WINDOW_START)), end: present(row.time(counter::WINDOW_END)) },
            used: present(row.amount(counter::USED)),
            allocated: present(row.allowance(counter::ALLOCATED)),
            made_under: present(row.allowance(counter::MADE_UNDER)),
            reported: row.amount(counter::REPORTED),
            is_superseded: false,
            slots: Vec::with_capacity(present(row.int2(counter::SLOTS)) as usize),
            is_own: row.is_own(),
        }
    }

    fn with_slots(mut self, relations: &Relations, snapshot: ActiveSnapshot) -> Self {
        if self.slots.capacity() > 0 {
            let (slots, is_own) = (&mut self.slots, &mut self.is_own);
            let conditions = [Condition::Int8Is(counter_slot::COUNTER_ID, self.id)];
            scan(&relations.counter_slots, &conditions, Order::Any, snapshot, |row| {
                slots.push(Slot::read(row));
                *is_own |= row.is_own();
                ControlFlow::Continue(())
            });
        }
        self
    }

    /// All that was used, as the snapshot shows it.
    pub fn total(&self) -> Amount {
        self.slots.iter().fold(self.used, |total, slot| total.saturating_add(slot.used))
    }
}
