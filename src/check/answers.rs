//! The accounts that a memo holds and what was answered about them, laid out so that a repeated question reads one cache line.

use super::load::Account;
use entitlements_model::amount::Allowance;
use entitlements_model::period::Period;
use entitlements_model::time::Time;
use entitlements_server::name::{AccountName, ShortName};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_table::HashTable;
use std::hash::BuildHasher;
use std::rc::Rc;

/// A feature's place in the memo, valid for the memo's present generation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FeatureSlot(pub u32);

impl FeatureSlot {
    /// The bit that stands for the feature in a remembered account; features past the 32nd have none and are resolved anew.
    #[inline(always)]
    fn bit(self) -> u32 {
        if self.0 < u32::BITS { 1 << self.0 } else { 0 }
    }
}

/// One account's answers: one cache line.
#[repr(align(64))]
struct Remembered {
    /// The name, laid out without the padding that ShortName has.
    words: [u64; 5],
    form: u32,
    /// The account's place among the accounts.
    account: u32,
    /// The answers hold for times before this.
    until: Time,
    /// A bit a feature: answered, and the answer.
    known: u32,
    granted: u32,
}

const _: () = assert!(size_of::<Remembered>() == 64);

impl Remembered {
    #[inline(always)]
    fn name(&self) -> ShortName {
        ShortName { words: self.words, form: self.form }
    }
}

/// An account that a name stands for.
struct Kept {
    /// None where no account has the name.
    id: Option<i64>,
    /// Of the name, by which its answers are found.
    hash: u64,
    /// What was read of it; None where only the answers were kept, for want of room.
    rows: Option<Rc<Account>>,
}

/// A credit of an account and feature, as its row has it.
#[derive(Clone)]
pub struct Credit {
    pub id: i64,
    pub amount: Allowance,
    pub priority: i32,
    pub starts_at: Time,
    pub expires_at: Time,
    /// None: once.
    pub period: Option<Period>,
    pub source: Box<[u8]>,
}

/// The credits of one feature.
type FeatureCredits = (i32, Rc<[Credit]>);

#[derive(Default)]
pub struct Answers {
    hasher: RandomState,
    remembered: HashTable<Remembered>,
    /// By the place that `remembered` tells.
    kept: Vec<Kept>,
    /// Places in `kept` to be used again.
    free: Vec<u32>,
    /// Places by the id of the account.
    by_id: HashTable<u32>,
    /// Places of accounts that inherit.
    inheriting: Vec<u32>,
    /// Places of names that no account has.
    unknown: Vec<u32>,
    /// Accounts with names that are too long for a ShortName, by key, and until when their rows hold.
    long_named: HashMap<Box<[u8]>, (Rc<Account>, Time), RandomState>,
    /// By account and feature, those that end after the time of the read.
    credits: HashMap<i64, Vec<FeatureCredits>, RandomState>,
    /// Bytes in use, roughly.
    size: usize,
}

/// Bytes that an account takes without its rows: its answers, and how they are found.
const SIZE_OF_ANSWERS: usize = (size_of::<Remembered>() + size_of::<Kept>() + 2 * size_of::<u32>()) * 8 / 7;

fn size_of_credits(credits: &[FeatureCredits]) -> usize {
    credits.iter().map(|(_, credits)| 64 + credits.len() * (size_of::<Credit>() + 16)).sum()
}

impl Answers {
    pub fn clear(&mut self) {
        /// Tables with room for more than this are given back rather than wiped.
        const WORTH_KEEPING: usize = 256;
        if self.remembered.capacity() > WORTH_KEEPING {
            *self = Self::default();
            return;
        }
        self.remembered.clear();
        self.kept.clear();
        self.free.clear();
        self.by_id.clear();
        self.inheriting.clear();
        self.unknown.clear();
        self.long_named.clear();
        self.credits.clear();
        self.size = 0;
    }

    /// Bytes in use, roughly.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The answer given before, if it holds at `now`.
    #[inline(always)]
    pub fn recall(&self, name: AccountName<'_>, slot: FeatureSlot, now: Time) -> Option<bool> {
        let name = ShortName::of(name)?;
        let remembered = self.remembered.find(self.hasher.hash_one(name), |remembered| remembered.name() == name)?;
        (now < remembered.until && remembered.known & slot.bit() != 0).then_some(remembered.granted & slot.bit() != 0)
    }

    /// Keeps an answer about an account that is here.
    pub fn note(&mut self, name: AccountName<'_>, slot: FeatureSlot, granted: bool) {
        let Some(name) = ShortName::of(name) else {
            return;
        };
        if let Some(remembered) =
            self.remembered.find_mut(self.hasher.hash_one(name), |remembered| remembered.name() == name)
        {
            remembered.known |= slot.bit();
            remembered.granted |= if granted { slot.bit() } else { 0 };
        }
    }

    /// The account, if it is here with rows that hold at `now`.
    pub fn account(&self, name: AccountName<'_>, now: Time) -> Option<Rc<Account>> {
        let (rows, until) = match ShortName::of(name) {
            Some(name) => {
                let remembered = self.remembered.find(self.hasher.hash_one(name), |remembered| remembered.name() == name)?;
                (self.kept[remembered.account as usize].rows.as_ref()?, remembered.until)
            }
            None => {
                let (rows, until) = self.long_named.get(name.to_key().as_slice())?;
                (rows, *until)
            }
        };
        (now < until).then(|| Rc::clone(rows))
    }

    /// Keeps an account whose rows hold until `until`, in place of what was known of it.
    pub fn keep(&mut self, name: AccountName<'_>, account: Rc<Account>, until: Time) {
        let Some(short) = ShortName::of(name) else {
            let key = name.to_key();
            self.size += account.size() + key.len() + size_of::<(Box<[u8]>, Rc<Account>, Time)>();
            self.long_named.insert(key.into(), (account, until));
            return;
        };
        let hash = self.hasher.hash_one(short);
        if let Some(known) = self.remembered.find(hash, |remembered| remembered.name() == short) {
            self.forget_place(known.account);
        }
        let place = match self.free.pop() {
            Some(place) => place,
            None => u32::try_from(self.kept.len()).expect("entitlements.memo_size does not hold so many accounts"),
        };
        self.size += account.size() + SIZE_OF_ANSWERS;
        match account.id {
            Some(_) => {
                let (hasher, kept) = (&self.hasher, &self.kept);
                let hash = hasher.hash_one(account.id);
                self.by_id.insert_unique(hash, place, |other| hasher.hash_one(kept[*other as usize].id));
            }
            None => self.unknown.push(place),
        }
        if !account.ancestors.is_empty() {
            self.inheriting.push(place);
        }
        let kept = Kept { id: account.id, hash, rows: Some(account) };
        match self.kept.get_mut(place as usize) {
            Some(free) => *free = kept,
            None => self.kept.push(kept),
        }
        let remembered = Remembered { words: short.words, form: short.form, account: place, until, known: 0, granted: 0 };
        let hasher = &self.hasher;
        self.remembered.insert_unique(hash, remembered, |other| hasher.hash_one(other.name()));
    }

    /// The credits of an account and feature that were read before.
    pub fn credits(&self, account: i64, feature: i32) -> Option<Rc<[Credit]>> {
        self.credits.get(&account)?.iter().find(|(known, _)| *known == feature).map(|(_, credits)| Rc::clone(credits))
    }

    pub fn keep_credits(&mut self, account: i64, feature: i32, credits: Rc<[Credit]>) {
        let of_account = self.credits.entry(account).or_default();
        of_account.push((feature, credits));
        self.size += size_of_credits(&of_account[of_account.len() - 1..]);
    }

    /// Forgets what was read of an account: whose rows have changed, who inherits from it, and names that nobody had.
    pub fn forget(&mut self, account: i64) {
        let hash = self.hasher.hash_one(Some(account));
        let has_id = |place: &u32| self.kept[*place as usize].id == Some(account);
        let mut places: Vec<u32> = self.by_id.iter_hash(hash).copied().filter(has_id).collect();
        let inherits = |place: &u32| {
            let rows = &self.kept[*place as usize].rows;
            rows.as_ref().is_none_or(|rows| rows.ancestors.contains(&account))
        };
        places.extend(self.inheriting.iter().copied().filter(inherits));
        places.append(&mut self.unknown);
        places.sort_unstable();
        places.dedup();
        places.into_iter().for_each(|place| self.forget_place(place));
        self.long_named.clear();
        if let Some(credits) = self.credits.remove(&account) {
            self.size = self.size.saturating_sub(size_of_credits(&credits));
        }
    }

    /// Keeps no more than the answers that were given, which take a fraction of the room.
    pub fn forget_rows(&mut self) {
        for place in std::mem::take(&mut self.inheriting) {
            self.forget_place(place);
        }
        for rows in self.kept.iter_mut().filter_map(|kept| kept.rows.take()) {
            self.size = self.size.saturating_sub(rows.size());
        }
        self.long_named.clear();
        self.credits.clear();
        self.size = self.remembered.len() * SIZE_OF_ANSWERS;
    }

    fn forget_place(&mut self, place: u32) {
        let kept = &mut self.kept[place as usize];
        if let Some(rows) = kept.rows.take() {
            self.size = self.size.saturating_sub(rows.size());
        }
        self.size = self.size.saturating_sub(SIZE_OF_ANSWERS);
        let (id, hash) = (kept.id, kept.hash);
        if id.is_some()
            && let Ok(entry) = self.by_id.find_entry(self.hasher.hash_one(id), |other| *other == place)
        {
            entry.remove();
        }
        if let Ok(entry) = self.remembered.find_entry(hash, |remembered| remembered.account == place) {
            entry.remove();
        }
        self.unknown.retain(|other| *other != place);
        self.inheriting.retain(|other| *other != place);
        self.free.push(place);
    }
}
