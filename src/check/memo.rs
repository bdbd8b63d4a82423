//! What this backend remembers of the present snapshot, so that a check inside a query costs tens of nanoseconds.
//!
//! Invariant: everything here except what `catalog` keeps for good is what a snapshot of the content that `snapshot` holds shows to
//! a transaction in the same state. So an answer is what a join over the tables gives in the same statement, never staler and
//! never newer.
//!
//! When the content is another one, what the new snapshot shows anew is looked up among the marks that every change leaves (see
//! `pg::change_mark`): the accounts that they name are forgotten, and the rest holds. Where that cannot be told (an older snapshot, a
//! transaction that has changed something itself or is serializable, a relation that was changed, a mark for all accounts) the
//! memo is emptied before the next answer.
//!
//! Nothing is tagged with a generation counter of its own: such a tag says when something was read, not what the reader saw.
//!
//! Published plan versions are immutable and their ids are not used again. They outlive snapshots and go only when a relation
//! changes, or for want of room. So does what metering has read of a feature, which is used only if the row's version is the one
//! that the snapshot shows.

use super::answers::{Answers, FeatureSlot};
use super::enforcement::Enforcement;
use super::functions::Answer;
use super::load::{Account, Catalog, Reader, Vacant, present};
use crate::error::Error;
use crate::meter::counter::Places;
use crate::pg::backend::BackendLocal;
use crate::pg::callbacks::{CHANGED_HERE, MEMO_EXPIRED, RELATIONS_CHANGED};
use crate::pg::change_mark::may_be_since;
use crate::pg::relations::{self, Relations, change_mark};
use crate::pg::scan::{Condition, Intent, Order, scan};
use crate::pg::settings;
use crate::pg::snapshot::{ActiveSnapshot, News, SnapshotKey, statement_time};
use crate::pg::whereabouts;
use entitlements_model::key::FeatureKey;
use entitlements_model::resolve::{self, Feature, Subscription};
use entitlements_model::time::Time;
use entitlements_server::mark::EVERY_ACCOUNT;
use entitlements_server::name::AccountName;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use std::ops::ControlFlow;
use std::rc::Rc;

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

/// More changed accounts than this are not worth forgetting one by one.
const MOST_CHANGED: usize = 1000;

/// A share of accounts, and when it was estimated.
struct Estimate {
    share: f64,
    at: Time,
}

pub struct Memo {
    snapshot: SnapshotKey,
    /// Room for the content of the next one.
    next_snapshot: SnapshotKey,
    /// Counts the times that the memo was emptied, from 1.
    generation: u64,
    relations: Option<Rc<Relations>>,
    answers: Answers,
    vacant: Vacant,
    scratch: Vec<Subscription>,
    /// Not bound to a snapshot.
    places: Places,
    /// The time of the newest read. Rows that had ended before it were left out, so it answers no earlier question.
    read_at: Time,
    slots: HashMap<Box<[u8]>, FeatureSlot, RandomState>,
    features: Vec<Feature>,
    catalog: Catalog,
    /// Whether what came by bundles counts.
    enforcement: Enforcement,
    /// Shares of accounts by feature key. Guesses for the planner, not bound to a snapshot.
    estimates: HashMap<Box<[u8]>, Estimate, RandomState>,
    /// Bytes in use without answers and catalog, roughly.
    size: usize,
}

impl Memo {
    fn new() -> Self {
        Self {
            snapshot: SnapshotKey::default(),
            next_snapshot: SnapshotKey::default(),
            generation: 1,
            relations: None,
            answers: Answers::default(),
            vacant: Vacant::default(),
            scratch: Vec::new(),
            places: Places::default(),
            read_at: Time::MIN,
            slots: HashMap::default(),
            features: Vec::new(),
            catalog: Catalog::default(),
            enforcement: Enforcement::unknown(),
            estimates: HashMap::default(),
            size: 0,
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
        self.follow_relations();
        let expired = MEMO_EXPIRED.is_raised();
        MEMO_EXPIRED.lower();
        if !self.snapshot.recognises(snapshot) {
            self.next_snapshot.copy(snapshot);
            if !expired && now >= self.read_at && !self.catch_up(snapshot) {
                self.empty();
            }
            std::mem::swap(&mut self.snapshot, &mut self.next_snapshot);
        }
        if expired || now < self.read_at {
            self.empty();
        }
        // Taking a lock may have told of a change.
        if RELATIONS_CHANGED.is_raised() {
            self.follow_relations();
        }
        self.make_room();
    }

    /// Forgets everything where a relation is another one, or has other rows. VACUUM and ANALYZE change no more than numbers.
    fn follow_relations(&mut self) {
        if !relations::have_changed() {
            return;
        }
        let known = self.relations.take();
        let had_expired = MEMO_EXPIRED.is_raised();
        // Should the look-up end in an ERROR.
        MEMO_EXPIRED.raise();
        let is_same = Relations::current(&mut self.relations).is_ok_and(|found| known.as_ref() == Some(found));
        if !had_expired {
            MEMO_EXPIRED.lower();
        }
        if !is_same {
            self.catalog.forget_versions();
            self.places.clear();
            self.estimates.clear();
            self.empty();
        }
    }

    /// Forgets what the next snapshot shows otherwise than the present one. False where that is to be everything.
    fn catch_up(&mut self, snapshot: ActiveSnapshot) -> bool {
        let since = match self.snapshot.news_in(&self.next_snapshot) {
            _ if CHANGED_HERE.is_raised() => return false,
            News::Unknown => return false,
            News::None => return true,
            News::Since(transaction) => transaction,
        };
        let Ok(relations) = Relations::current(&mut self.relations) else { return false };
        if !relations.changes_are_marked {
            return false;
        }
        if !may_be_since(&relations.change_marks, since) {
            return true;
        }
        let mut changed = Vec::new();
        let condition = [Condition::Int8AtLeast(change_mark::TRANSACTION_ID, since as i64)];
        scan(&relations.change_marks, &condition, Order::Any, snapshot, |mark| {
            if !self.snapshot.shows(present(mark.int8(change_mark::TRANSACTION_ID)) as u64) {
                changed.push(present(mark.int8(change_mark::ACCOUNT_ID)));
            }
            if changed.len() <= MOST_CHANGED { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if changed.len() > MOST_CHANGED || changed.contains(&EVERY_ACCOUNT) {
            return false;
        }
        if !changed.is_empty() {
            self.vacant = Vacant::default();
        }
        changed.into_iter().for_each(|account| self.answers.forget(account));
        true
    }

    fn make_room(&mut self) {
        let most = settings::memo_size();
        let whereabouts = whereabouts::size();
        let in_use = |memo: &Self| memo.size + memo.answers.size() + memo.catalog.size() + whereabouts;
        if in_use(self) > most {
            self.answers.forget_rows();
            // Almost full of answers it would make room again and again.
            if in_use(self) > most - most / 4 {
                self.catalog.forget_versions();
                self.empty();
            }
        }
    }

    fn empty(&mut self) {
        self.answers.clear();
        self.vacant = Vacant::default();
        self.read_at = Time::MIN;
        self.slots.clear();
        self.features.clear();
        self.catalog.forget_snapshot();
        self.enforcement = Enforcement::unknown();
        self.generation += 1;
        self.size = 0;
    }

    fn reader(&mut self, snapshot: ActiveSnapshot) -> Result<Reader<'_>, Error> {
        let relations = Relations::current(&mut self.relations)?;
        let now = statement_time();
        if !self.enforcement.holds_at(now) {
            self.enforcement = Enforcement::at_present(relations, snapshot, now);
        }
        Ok(Reader {
            relations,
            snapshot,
            catalog: &mut self.catalog,
            answers: &mut self.answers,
            vacant: &mut self.vacant,
            scratch: &mut self.scratch,
            places: &mut self.places,
            read_at: &mut self.read_at,
            enforcement: &self.enforcement,
            intent: Intent::Read,
        })
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
        let account = self.reader(snapshot)?.present_account(name, now)?;
        let granted = resolve::granted(&feature, &account.lineage, &self.catalog, now);
        self.answers.note(name, slot, granted);
        self.make_room();
        Ok(granted)
    }

    /// Reads with the present snapshot what is not kept in the memo.
    pub fn read<R>(&mut self, work: impl FnOnce(&mut Reader<'_>) -> Result<R, Error>) -> Result<R, Error> {
        let (snapshot, _) = self.attune(true)?;
        work(&mut self.reader(snapshot)?)
    }

    /// The same for who has just read with this snapshot.
    pub fn read_on<R>(&mut self, work: impl FnOnce(&mut Reader<'_>) -> Result<R, Error>) -> Result<R, Error> {
        let (snapshot, _) = self.attune(false)?;
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
        let account = match (name, &key) {
            (Some(name), _) if !with_history => reader.present_account(name, now)?,
            (_, Some(key)) => reader.account(key, None)?.into(),
            (_, None) => Account::unknown().into(),
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
