//! What the protocol needs of PostgreSQL in READ COMMITTED: committed row versions, at most one uncommitted version made by
//! the transaction that holds the row's lock, row locks until the transaction ends (or until the savepoint they were taken
//! after is rolled back), and a try-lock that never waits (SKIP LOCKED).

/// Small on purpose: a state is hashed and stored millions of times.
pub type Units = i8;
/// A transaction, by its place in [`crate::Setting::transactions`].
pub type Transaction = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row<T> {
    pub committed: T,
    pub locked_by: Option<Transaction>,
    /// The version made by `locked_by`.
    pub uncommitted: Option<T>,
}

impl<T: Copy> Row<T> {
    pub fn new(committed: T) -> Row<T> {
        Row { committed, locked_by: None, uncommitted: None }
    }

    /// What a fresh snapshot of `reader` shows: what is committed, and its own changes.
    pub fn seen_by(&self, reader: Transaction) -> T {
        if self.locked_by == Some(reader) { self.uncommitted.unwrap_or(self.committed) } else { self.committed }
    }

    pub fn held_by_other(&self, me: Transaction) -> Option<Transaction> {
        self.locked_by.filter(|holder| *holder != me)
    }

    pub fn write(&mut self, me: Transaction, version: T) {
        assert_eq!(self.locked_by, Some(me), "a row is written under its lock");
        self.uncommitted = Some(version);
    }

    /// Whether the end of `me` made a new version.
    pub fn end(&mut self, me: Transaction, commit: bool) -> bool {
        if self.locked_by != Some(me) {
            return false;
        }
        self.locked_by = None;
        match self.uncommitted.take() {
            Some(version) if commit => {
                self.committed = version;
                true
            }
            _ => false,
        }
    }
}

/// The row of a pool in one window. Its total usage is `used` and what its slots have used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Counter {
    pub used: Units,
    /// The sum of the slots' shares.
    pub allocated: Units,
    /// The limit the shares were made under: `used + allocated <= limit`. Means nothing while there are no slots.
    pub limit: Units,
    /// The threshold has been crossed and recorded.
    pub reported: bool,
}

/// `0 <= used <= share`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    pub share: Units,
    pub used: Units,
}

impl Slot {
    pub fn room(self) -> Units {
        self.share - self.used
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tables {
    pub counter: Row<Counter>,
    /// None = there is no such row.
    pub slots: Vec<Row<Option<Slot>>>,
}

/// A set of rows of [`Tables`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rows(u8);

impl Rows {
    pub const NONE: Rows = Rows(0);
    pub const COUNTER: Rows = Rows(1);

    pub fn slot(slot: usize) -> Rows {
        Rows(2 << slot)
    }

    pub fn with(self, others: Rows) -> Rows {
        Rows(self.0 | others.0)
    }

    pub fn has(self, others: Rows) -> bool {
        self.0 & others.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Tables {
    /// Total usage as `reader` sees it.
    pub fn total(&self, reader: Transaction) -> Units {
        let slots = self.slots.iter().filter_map(|row| row.seen_by(reader));
        self.counter.seen_by(reader).used + slots.map(|slot| slot.used).sum::<Units>()
    }

    pub fn committed_total(&self) -> Units {
        self.counter.committed.used + self.slots.iter().filter_map(|row| row.committed).map(|slot| slot.used).sum::<Units>()
    }

    /// Which of these rows are in other hands than mine.
    pub fn in_other_hands(&self, rows: Rows, me: Transaction) -> Vec<(Rows, Transaction)> {
        let counter = (Rows::COUNTER, self.counter.held_by_other(me));
        let slots = self.slots.iter().enumerate().map(|(i, row)| (Rows::slot(i), row.held_by_other(me)));
        let all = std::iter::once(counter).chain(slots);
        all.filter(|(row, _)| rows.has(*row)).filter_map(|(row, holder)| Some((row, holder?))).collect()
    }

    pub fn held_by(&self, me: Transaction) -> Rows {
        let counter = if self.counter.locked_by == Some(me) { Rows::COUNTER } else { Rows::NONE };
        let slots = self.slots.iter().enumerate().filter(|(_, row)| row.locked_by == Some(me));
        slots.fold(counter, |rows, (i, _)| rows.with(Rows::slot(i)))
    }

    /// ROLLBACK TO a savepoint after which `me` locked `rows` and changed nothing.
    pub fn unlock(&mut self, rows: Rows, me: Transaction) {
        if rows.has(Rows::COUNTER) && self.counter.locked_by == Some(me) {
            assert!(self.counter.uncommitted.is_none());
            self.counter.locked_by = None;
        }
        for (i, row) in self.slots.iter_mut().enumerate() {
            if rows.has(Rows::slot(i)) && row.locked_by == Some(me) {
                assert!(row.uncommitted.is_none());
                row.locked_by = None;
            }
        }
    }

    /// Ends the transaction; the rows of which it made new versions.
    pub fn end(&mut self, me: Transaction, commit: bool) -> Rows {
        let counter = if self.counter.end(me, commit) { Rows::COUNTER } else { Rows::NONE };
        let slots = self.slots.iter_mut().enumerate();
        slots.fold(counter, |rows, (i, row)| if row.end(me, commit) { rows.with(Rows::slot(i)) } else { rows })
    }
}
