//! What this backend remembers of the present snapshot, so that a check inside a query costs tens of nanoseconds.
//!
//! Invariant: everything here except `plans` was read with a snapshot of the content that `snapshot` holds, by a transaction
//! in the same state. Whenever that can no longer be said (another content, a transaction that wrote or was serializable has
//! ended, a subtransaction was rolled back, the relations are others) the memo is emptied before the next answer. So an
//! answer is what a join over the tables gives in the same statement, never staler and never newer.
//!
//! Nothing is tagged with a generation counter of its own: such a tag says when something was read, not what the reader saw.
//!
//! Published plan versions are immutable and their ids are not used again. They outlive snapshots and go only with the
//! relations they were read from, or for want of room.

use super::functions::Answer;
use super::load::{Account, Catalog, Reader};
use crate::error::Error;
use crate::pg::backend::BackendLocal;
use crate::pg::callbacks::{MEMO_EXPIRED, RELATIONS_CHANGED};
use crate::pg::relations::Relations;
use crate::pg::settings;
use crate::pg::snapshot::{ActiveSnapshot, SnapshotKey, statement_time};
use entitlements_model::key::FeatureKey;
use entitlements_model::resolve::{self, Feature};
use entitlements_model::time::Time;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_table::{Entry as TableEntry, HashTable};
use std::hash::BuildHasher;

/// This backend's memo.
pub static MEMO: BackendLocal<Memo> = BackendLocal::new(Memo::new);

/// An account as a caller names it.
#[derive(Clone, Copy)]
pub enum AccountName<'a> {
    Text(&'a [u8]),
    Uuid([u8; 16]),
    Bigint(i64),
}

impl AccountName<'_> {
    /// The account's key: the canonical text of the value.
    pub fn to_key(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.to_vec(),
            Self::Bigint(number) => number.to_string().into_bytes(),
            Self::Uuid(bytes) => {
                let mut key = Vec::with_capacity(36);
                for (place, byte) in bytes.iter().enumerate() {
                    if matches!(place, 4 | 6 | 8 | 10) {
                        key.push(b'-');
                    }
                    for digit in [byte >> 4, byte & 0xF] {
                        key.push(b"0123456789abcdef"[usize::from(digit)]);
                    }
                }
                key
            }
        }
    }
}

/// The name in a form that is compared in a few instructions; for names of at most 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct ShortName {
    words: [u64; 4],
    /// Type and length.
    form: u64,
}

impl ShortName {
    #[inline(always)]
    fn of(name: AccountName<'_>) -> Option<Self> {
        match name {
            AccountName::Text(text) => {
                let mut bytes = [0; 32];
                bytes.get_mut(..text.len())?.copy_from_slice(text);
                let mut words = [0; 4];
                for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
                    *word = u64::from_ne_bytes(chunk.try_into().expect("chunks of eight"));
                }
                Some(Self { words, form: text.len() as u64 })
            }
            AccountName::Uuid(bytes) => {
                let (low, high) = bytes.split_at(8);
                let half = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
                Some(Self { words: [half(low), half(high), 0, 0], form: 1 << 32 })
            }
            AccountName::Bigint(number) => Some(Self { words: [number as u64, 0, 0, 0], form: 2 << 32 }),
        }
    }
}

/// A feature's place in the memo, valid for the memo's present generation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FeatureSlot(u32);

impl FeatureSlot {
    /// The bit that stands for the feature in `Answers`; features past the 64th have none.
    #[inline(always)]
    fn bit(self) -> u64 {
        if self.0 < 64 { 1 << self.0 } else { 0 }
    }
}

/// One account with what was answered about it.
struct Remembered {
    account: Account,
    /// The answers below hold for times in [from, until).
    from: Time,
    until: Time,
    /// A bit a feature: answered, and the answer.
    known: u64,
    granted: u64,
}

/// What a place in a query keeps between its calls, so that the feature is looked up once for all rows.
#[derive(Clone, Copy)]
pub struct CallSite {
    generation: u64,
    slot: FeatureSlot,
    length: u8,
    key: [u8; CallSite::LONGEST],
    /// The argument is a constant of the query and need not be compared.
    pub constant: bool,
}

impl CallSite {
    const LONGEST: usize = 100;

    pub const fn new(constant: bool) -> Self {
        Self { generation: 0, slot: FeatureSlot(0), length: 0, key: [0; Self::LONGEST], constant }
    }
}

/// How long an estimate for the planner serves, in microseconds.
const ESTIMATE_SERVES: Time = 60_000_000;

/// Accounts that are looked at for an estimate.
const SAMPLE: i64 = 64;

/// A share of accounts, and when it was estimated.
struct Estimate {
    share: f64,
    at: Time,
}

pub struct Memo {
    snapshot: SnapshotKey,
    /// Counts the times that the memo was emptied, from 1.
    generation: u64,
    relations: Option<Relations>,
    hasher: RandomState,
    accounts: HashTable<(ShortName, Remembered)>,
    long_named: HashMap<Box<[u8]>, Remembered, RandomState>,
    slots: HashMap<Box<[u8]>, FeatureSlot, RandomState>,
    features: Vec<(FeatureKey, Feature)>,
    catalog: Catalog,
    /// Shares of accounts by feature key. Guesses for the planner, not bound to a snapshot.
    estimates: HashMap<Box<[u8]>, Estimate, RandomState>,
    /// Bytes in use, roughly; past `most` the memo starts anew.
    size: usize,
    most: usize,
}

impl Memo {
    fn new() -> Self {
        Self {
            snapshot: SnapshotKey::default(),
            generation: 1,
            relations: None,
            hasher: RandomState::default(),
            accounts: HashTable::new(),
            long_named: HashMap::default(),
            slots: HashMap::default(),
            features: Vec::new(),
            catalog: Catalog::default(),
            estimates: HashMap::default(),
            size: 0,
            most: 0,
        }
    }

    /// Makes the memo one of the active snapshot.
    #[inline(always)]
    fn attune(&mut self, new_site: bool) -> Result<ActiveSnapshot, Error> {
        let snapshot =
            ActiveSnapshot::get().ok_or_else(|| Error::Internal("entitlements are asked outside of a query".to_owned()))?;
        let unchanged = !MEMO_EXPIRED.is_raised()
            && !RELATIONS_CHANGED.is_raised()
            && self.snapshot.looks_like(snapshot)
            && self.size <= self.most;
        if !unchanged || new_site {
            self.compare(snapshot)?;
        }
        Ok(snapshot)
    }

    #[cold]
    fn compare(&mut self, snapshot: ActiveSnapshot) -> Result<(), Error> {
        let expired = MEMO_EXPIRED.is_raised();
        MEMO_EXPIRED.lower();
        let other_snapshot = !self.snapshot.replace(snapshot);
        self.most = settings::memo_size();
        if self.size > self.most {
            self.catalog.forget_versions();
            self.empty();
        } else if expired || other_snapshot {
            self.empty();
        }
        let (_, other_relations) = Relations::current(&mut self.relations)?;
        if other_relations {
            self.empty();
            self.catalog.forget_versions();
            self.estimates.clear();
        }
        Ok(())
    }

    fn empty(&mut self) {
        /// Tables with room for more than this are given back rather than wiped.
        const WORTH_KEEPING: usize = 256;
        if self.accounts.capacity() > WORTH_KEEPING {
            self.accounts = HashTable::new();
        } else {
            self.accounts.clear();
        }
        self.long_named.clear();
        self.slots.clear();
        self.features.clear();
        self.catalog.forget_snapshot();
        self.generation += 1;
        self.size = self.catalog.size();
    }

    fn reader(&mut self, snapshot: ActiveSnapshot) -> Result<Reader<'_>, Error> {
        let relations = Relations::current(&mut self.relations)?.0;
        Ok(Reader { relations, snapshot, catalog: &mut self.catalog })
    }

    /// The feature of a call, looked up at its first row or when it changes.
    #[inline(always)]
    fn feature(&mut self, site: &mut CallSite, key: &[u8], snapshot: ActiveSnapshot) -> Result<FeatureSlot, Error> {
        if site.generation == self.generation && (site.constant || site.key[..usize::from(site.length)] == *key) {
            return Ok(site.slot);
        }
        self.look_up_feature(site, key, snapshot)
    }

    #[cold]
    fn look_up_feature(&mut self, site: &mut CallSite, key: &[u8], snapshot: ActiveSnapshot) -> Result<FeatureSlot, Error> {
        let slot = match self.slots.get(key) {
            Some(slot) => *slot,
            None => {
                let (feature_key, feature) = self.reader(snapshot)?.feature(key)?;
                let slot = FeatureSlot(self.features.len() as u32);
                self.features.push((feature_key, feature));
                self.slots.insert(key.into(), slot);
                self.size += 2 * key.len() + 128;
                slot
            }
        };
        site.generation = self.generation;
        site.slot = slot;
        site.length = key.len() as u8;
        site.key[..key.len()].copy_from_slice(key);
        Ok(slot)
    }

    /// Whether the account is granted the feature. An unknown account is granted nothing; an unknown feature is NE003.
    #[inline(always)]
    pub fn granted(&mut self, account: AccountName<'_>, feature: &[u8], site: &mut CallSite) -> Result<bool, Error> {
        let snapshot = self.attune(site.generation == 0)?;
        let slot = self.feature(site, feature, snapshot)?;
        let now = statement_time();
        if let Some(name) = ShortName::of(account) {
            let hash = self.hasher.hash_one(name);
            if let Some((_, remembered)) = self.accounts.find(hash, |(known, _)| *known == name)
                && remembered.from <= now
                && now < remembered.until
                && remembered.known & slot.bit() != 0
            {
                return Ok(remembered.granted & slot.bit() != 0);
            }
        }
        self.answer(account, slot, now, snapshot)
    }

    /// The slow way: reads the account unless it is remembered, and resolves the feature.
    #[inline(never)]
    fn answer(&mut self, name: AccountName<'_>, slot: FeatureSlot, now: Time, snapshot: ActiveSnapshot) -> Result<bool, Error> {
        self.remember(name, now, snapshot)?;
        let feature = &self.features[slot.0 as usize].1;
        let catalog = &self.catalog;
        let remembered = match ShortName::of(name) {
            Some(short) => self.accounts.find_mut(self.hasher.hash_one(short), |(known, _)| *known == short).map(|(_, it)| it),
            None => self.long_named.get_mut(name.to_key().as_slice()),
        }
        .expect("the account was just remembered");
        let granted = resolve::granted(feature, &remembered.account.lineage, catalog, now);
        remembered.known |= slot.bit();
        if granted {
            remembered.granted |= slot.bit();
        }
        Ok(granted)
    }

    /// Makes sure that the account is in the memo with rows that hold at `now`.
    fn remember(&mut self, name: AccountName<'_>, now: Time, snapshot: ActiveSnapshot) -> Result<(), Error> {
        let holds = |remembered: &Remembered| remembered.from <= now && now < remembered.until;
        let short = ShortName::of(name);
        let hash = short.map_or(0, |short| self.hasher.hash_one(short));
        let present = match short {
            Some(short) => self.accounts.find(hash, |(known, _)| *known == short).is_some_and(|(_, it)| holds(it)),
            None => self.long_named.get(name.to_key().as_slice()).is_some_and(holds),
        };
        if present {
            return Ok(());
        }
        let key = name.to_key();
        let account = self.reader(snapshot)?.account(&key, Some(now))?;
        let (_, until) = resolve::stable_period(&account.lineage, now);
        let size = size_of::<(ShortName, Remembered)>() * 8 / 7 + account.size();
        // Rows that had ended before `now` were not read: the answers hold from now on.
        let remembered = Remembered { account, from: now, until, known: 0, granted: 0 };
        match short {
            Some(short) => {
                let hasher = &self.hasher;
                match self.accounts.entry(hash, |(known, _)| *known == short, |(known, _)| hasher.hash_one(known)) {
                    TableEntry::Occupied(mut entry) => entry.get_mut().1 = remembered,
                    TableEntry::Vacant(entry) => {
                        entry.insert((short, remembered));
                    }
                }
            }
            None => {
                self.long_named.insert(key.into(), remembered);
            }
        }
        self.size += size;
        Ok(())
    }

    /// Reads with the present snapshot what is not kept in the memo.
    pub fn read<R>(&mut self, work: impl FnOnce(&mut Reader<'_>) -> Result<R, Error>) -> Result<R, Error> {
        let snapshot = self.attune(true)?;
        work(&mut self.reader(snapshot)?)
    }

    /// Raises NE003 for an unknown feature.
    pub fn known(&mut self, feature: &[u8], site: &mut CallSite) -> Result<(), Error> {
        let snapshot = self.attune(site.generation == 0)?;
        self.feature(site, feature, snapshot).map(|_| ())
    }

    /// The full answer. With history, rows that have ended are read too, which tells `expired` from `not_granted`.
    pub fn resolve(&mut self, name: Option<AccountName<'_>>, feature: &[u8], with_history: bool) -> Result<Answer, Error> {
        let snapshot = self.attune(true)?;
        let now = statement_time();
        let mut reader = self.reader(snapshot)?;
        let (feature_key, feature) = reader.feature(feature)?;
        let key = name.map(AccountName::to_key);
        let account = match &key {
            Some(key) => reader.account(key, (!with_history).then_some(now))?,
            None => Account::unknown(),
        };
        Ok(Answer {
            known_account: account.id.is_some(),
            account: key.map(|key| String::from_utf8_lossy(&key).into_owned()),
            feature_key: feature_key.as_str().to_owned(),
            feature,
            entitlement: resolve::resolve(&feature, &account.lineage, reader.catalog, now),
        })
    }

    /// The full answers for every feature, by feature key; none for an unknown account.
    pub fn resolve_all(&mut self, name: AccountName<'_>) -> Result<Vec<Answer>, Error> {
        let snapshot = self.attune(true)?;
        let now = statement_time();
        let mut reader = self.reader(snapshot)?;
        let key = name.to_key();
        let account = reader.account(&key, None)?;
        if account.id.is_none() {
            return Ok(Vec::new());
        }
        let key = String::from_utf8_lossy(&key).into_owned();
        let answer = |(feature_key, feature): (FeatureKey, Feature)| Answer {
            known_account: true,
            account: Some(key.clone()),
            feature_key: feature_key.as_str().to_owned(),
            feature,
            entitlement: resolve::resolve(&feature, &account.lineage, reader.catalog, now),
        };
        Ok(reader.features().into_iter().map(answer).collect())
    }

    /// What share of accounts is granted the feature, about; of a named account, whether it is. None for an unknown feature.
    pub fn share(&mut self, name: Option<AccountName<'_>>, feature: &[u8]) -> Result<Option<f64>, Error> {
        let snapshot = self.attune(true)?;
        let now = statement_time();
        let known = match self.reader(snapshot)?.feature(feature) {
            Ok((_, known)) => known,
            Err(Error::UnknownFeature { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        if let Some(name) = name {
            let mut reader = self.reader(snapshot)?;
            let account = reader.account(&name.to_key(), Some(now))?;
            return Ok(Some(f64::from(resolve::granted(&known, &account.lineage, reader.catalog, now))));
        }
        if let Some(estimate) = self.estimates.get(feature)
            && (now - estimate.at).abs() < ESTIMATE_SERVES
        {
            return Ok(Some(estimate.share));
        }
        let (mut looked_at, mut granted) = (0, 0);
        self.reader(snapshot)?.sample_accounts(SAMPLE, now, |account, catalog| {
            looked_at += 1;
            granted += i32::from(resolve::granted(&known, &account.lineage, catalog, now));
        })?;
        // A sample never shows that all or none are granted it.
        let share = (f64::from(granted) + 0.5) / (f64::from(looked_at) + 1.0);
        if self.estimates.len() >= 1000 {
            self.estimates.clear();
        }
        self.estimates.insert(feature.into(), Estimate { share, at: now });
        Ok(Some(share))
    }

    /// Keys of the accounts that are granted the feature, in order.
    pub fn accounts_granted(&mut self, feature: &[u8]) -> Result<Vec<String>, Error> {
        let snapshot = self.attune(true)?;
        let now = statement_time();
        let mut reader = self.reader(snapshot)?;
        let (_, feature) = reader.feature(feature)?;
        let mut granted = Vec::new();
        reader.each_account(now, |key, account, catalog| {
            if resolve::granted(&feature, &account.lineage, catalog, now) {
                granted.push(String::from_utf8_lossy(key).into_owned());
            }
        })?;
        Ok(granted)
    }
}
