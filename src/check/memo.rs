//! What this backend remembers of the present snapshot, so that a check inside a query costs tens of nanoseconds.
//!
//! Invariant: everything here except what `catalog` keeps for good was read with a snapshot of the content that `snapshot` holds,
//! by a transaction in the same state. Whenever that can no longer be said (another content, a transaction that wrote or was serializable has
//! ended, a subtransaction was rolled back, a relation was changed) the memo is emptied before the next answer. So an
//! answer is what a join over the tables gives in the same statement, never staler and never newer.
//!
//! Nothing is tagged with a generation counter of its own: such a tag says when something was read, not what the reader saw.
//!
//! Published plan versions are immutable and their ids are not used again. They outlive snapshots and go only when a relation
//! changes, or for want of room. So does what metering has read of a feature, which is used only if the row's version is the one
//! that the snapshot shows.

use super::answers::{AccountName, Answers, FeatureSlot};
use super::enforcement::Enforcement;
use super::functions::Answer;
use super::load::{Account, Catalog, Reader};
use crate::error::Error;
use crate::pg::backend::BackendLocal;
use crate::pg::callbacks::{MEMO_EXPIRED, RELATIONS_CHANGED};
use crate::pg::relations::{self, Relations};
use crate::pg::settings;
use crate::pg::snapshot::{ActiveSnapshot, SnapshotKey, statement_time};
use entitlements_model::key::FeatureKey;
use entitlements_model::resolve::{self, Feature};
use entitlements_model::time::Time;
use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// This backend's memo.
pub static MEMO: BackendLocal<Memo> = BackendLocal::new(Memo::new);

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
    answers: Answers,
    /// The time of the newest read. Rows that had ended before it were left out, so it answers no earlier question.
    read_at: Time,
    slots: HashMap<Box<[u8]>, FeatureSlot, RandomState>,
    features: Vec<Feature>,
    catalog: Catalog,
    /// Whether what came by bundles counts.
    enforcement: Enforcement,
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
            answers: Answers::default(),
            read_at: Time::MIN,
            slots: HashMap::default(),
            features: Vec::new(),
            catalog: Catalog::default(),
            enforcement: Enforcement::unknown(),
            estimates: HashMap::default(),
            size: 0,
            most: 0,
        }
    }

    /// Makes the memo one of the active snapshot.
    #[inline(always)]
    fn attune(&mut self, new_site: bool) -> Result<(ActiveSnapshot, Time), Error> {
        let snapshot =
            ActiveSnapshot::get().ok_or_else(|| Error::Internal("entitlements are asked outside of a query".to_owned()))?;
        let now = statement_time();
        if new_site || !self.is_of(snapshot, now) {
            self.compare(snapshot, now);
        }
        Ok((snapshot, now))
    }

    #[cold]
    fn compare(&mut self, snapshot: ActiveSnapshot, now: Time) {
        let expired = MEMO_EXPIRED.is_raised();
        MEMO_EXPIRED.lower();
        let other_snapshot = !self.snapshot.replace(snapshot);
        self.most = settings::memo_size();
        if self.size > self.most {
            self.catalog.forget_versions();
            self.empty();
        } else if expired || other_snapshot || now < self.read_at {
            self.empty();
        }
        if relations::have_changed() {
            self.relations = None;
            self.catalog.forget_versions();
            self.estimates.clear();
            self.empty();
        }
    }

    fn empty(&mut self) {
        self.answers.clear();
        self.read_at = Time::MIN;
        self.slots.clear();
        self.features.clear();
        self.catalog.forget_snapshot();
        self.enforcement = Enforcement::unknown();
        self.generation += 1;
        self.size = self.catalog.size();
    }

    fn reader(&mut self, snapshot: ActiveSnapshot) -> Result<Reader<'_>, Error> {
        let relations = Relations::current(&mut self.relations)?;
        let now = statement_time();
        if !self.enforcement.holds_at(now) {
            self.enforcement = Enforcement::at_present(&relations, snapshot, now);
        }
        Ok(Reader { relations, snapshot, catalog: &mut self.catalog, enforcement: &self.enforcement })
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
                let (_, feature) = self.reader(snapshot)?.feature(key)?;
                let slot = FeatureSlot(self.features.len() as u32);
                self.features.push(feature);
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
        let (snapshot, now) = self.attune(site.generation == 0)?;
        let slot = self.feature(site, feature, snapshot)?;
        match self.answers.recall(account, slot, now) {
            Some(granted) => Ok(granted),
            None => self.answer(account, slot, now, snapshot),
        }
    }

    /// What `granted` would say, if that takes no more than looking it up. Calls nothing that can fail.
    #[inline(always)]
    pub fn recall(&self, account: AccountName<'_>, feature: &[u8], site: &CallSite) -> Option<bool> {
        let snapshot = ActiveSnapshot::get()?;
        let now = statement_time();
        let same_feature = site.constant || site.key[..usize::from(site.length)] == *feature;
        if !self.is_of(snapshot, now) || site.generation != self.generation || !same_feature {
            return None;
        }
        self.answers.recall(account, site.slot, now)
    }

    /// Whether all that is remembered holds for a snapshot and a time.
    #[inline(always)]
    fn is_of(&self, snapshot: ActiveSnapshot, now: Time) -> bool {
        !MEMO_EXPIRED.is_raised()
            && !RELATIONS_CHANGED.is_raised()
            && self.snapshot.looks_like(snapshot)
            && self.read_at <= now
            && self.size <= self.most
    }

    /// The slow way: reads the account unless it is remembered, and resolves the feature.
    #[inline(never)]
    fn answer(
        &mut self,
        name: AccountName<'_>,
        slot: FeatureSlot,
        now: Time,
        snapshot: ActiveSnapshot,
    ) -> Result<bool, Error> {
        let feature = self.features[slot.0 as usize];
        if self.answers.account(name, now).is_none() {
            let catalog_before = self.catalog.size();
            let account = self.reader(snapshot)?.account(&name.to_key(), Some(now))?;
            let (_, until) = resolve::stable_period(&account.lineage, now);
            let until = until.min(self.enforcement.until);
            self.size += self.answers.keep(name, account, until) + (self.catalog.size() - catalog_before);
            self.read_at = now;
        }
        let account = self.answers.account(name, now).expect("the account was just read");
        let granted = resolve::granted(&feature, &account.lineage, &self.catalog, now);
        self.answers.note(name, slot, granted);
        Ok(granted)
    }

    /// Reads with the present snapshot what is not kept in the memo.
    pub fn read<R>(&mut self, work: impl FnOnce(&mut Reader<'_>) -> Result<R, Error>) -> Result<R, Error> {
        let (snapshot, _) = self.attune(true)?;
        work(&mut self.reader(snapshot)?)
    }

    /// Whether there is an account with this key.
    pub fn has_account(&mut self, key: &str) -> Result<bool, Error> {
        self.read(|reader| Ok(reader.has_account(key.as_bytes())))
    }

    /// Raises NE003 for an unknown feature.
    pub fn known(&mut self, feature: &[u8], site: &mut CallSite) -> Result<(), Error> {
        let (snapshot, _) = self.attune(site.generation == 0)?;
        self.feature(site, feature, snapshot).map(|_| ())
    }

    /// The full answer. With history, rows that have ended are read too, which tells `expired` from `not_granted`.
    pub fn resolve(&mut self, name: Option<AccountName<'_>>, feature: &[u8], with_history: bool) -> Result<Answer, Error> {
        let (snapshot, now) = self.attune(true)?;
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
            entitlement: reader.resolve(&feature, &account, now),
        })
    }

    /// The full answers for every feature, by feature key; none for an unknown account.
    pub fn resolve_all(&mut self, name: AccountName<'_>) -> Result<Vec<Answer>, Error> {
        let (snapshot, now) = self.attune(true)?;
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
            entitlement: reader.resolve(&feature, &account, now),
        };
        Ok(reader.features().into_iter().map(answer).collect())
    }

    /// What share of accounts is granted the feature, about; of a named account, whether it is. None for an unknown feature.
    pub fn share(&mut self, name: Option<AccountName<'_>>, feature: &[u8]) -> Result<Option<f64>, Error> {
        let (snapshot, now) = self.attune(true)?;
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
        let (snapshot, now) = self.attune(true)?;
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
