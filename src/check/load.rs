//! Reading what decides about an account: its rows and its ancestors', the plan versions they name, the features.

use super::answers::{Answers, Credit};
use super::enforcement::Enforcement;
use crate::error::Error;
use crate::meter::counter::Places;
use crate::meter::feature::Feature as MeteredFeature;
use crate::pg::relations::{
    Access, Relations, account, account_entry, block, credit, exception, feature, plan_feature, plan_version, subscription,
    subscription_entry,
};
use crate::pg::scan::{Condition, Intent, Order, Row, Version, has_no_pages, scan, scan_covered};
use crate::pg::snapshot::{ActiveSnapshot, is_serializable};
use entitlements_model::amount::Allowance;
use entitlements_model::key::FeatureKey;
use entitlements_model::kind::{Combine, Kind, OverrideMode, PlanKind, Reason, Status};
use entitlements_model::period::Period;
use entitlements_model::plan::{FeatureId, PlanId, PlanVersion, PlanVersionId, Value};
use entitlements_model::resolve::{self, Block, Entitlement, Feature, Holder, Override, Plans, Subscription};
use entitlements_model::time::Time;
use entitlements_server::name::AccountName;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use std::cell::RefCell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::str::FromStr;

/// Subscriptions for which room is kept from one account to the next.
const MOST_SCRATCH: usize = 64;

/// More generations of parents than define_account allows: a longer chain of rows was not written by the extension.
pub const MOST_ANCESTORS: usize = 16;

/// An account and the accounts it inherits from, with what they hold.
pub struct Account {
    /// None where no account has the key.
    pub id: Option<i64>,
    /// Ids of the accounts that it inherits from, its parent first.
    pub ancestors: Box<[i64]>,
    /// The account itself, its parent, and so on; empty where no account has the key.
    pub lineage: Box<[Holder]>,
    /// What metering has found that these rows amount to, of the features that were asked for first. They amount to the same for
    /// as long as the account is remembered.
    settlements: RefCell<Vec<(FeatureId, Settlement)>>,
}

/// What an account is granted of a metered feature.
#[derive(Clone, Copy)]
pub struct Settlement {
    pub reason: Reason,
    pub allowance: Allowance,
    /// Who in the lineage holds it.
    pub held_by: usize,
    pub expires_at: Option<Time>,
}

/// Most settlements that an account remembers: a feature, and the one that it draws on.
const MOST_SETTLEMENTS: usize = 2;

impl Account {
    /// What a key that no account has stands for.
    pub fn unknown() -> Self {
        Self::of(None, Vec::new(), Vec::new())
    }

    fn of(id: Option<i64>, ancestors: Vec<i64>, lineage: Vec<Holder>) -> Self {
        Self { id, ancestors: ancestors.into(), lineage: lineage.into(), settlements: RefCell::default() }
    }

    /// What the account is granted of a feature at `now`, at which its rows hold.
    pub fn settle(&self, feature: &Feature, plans: &Catalog, now: Time) -> Settlement {
        let mut settlements = self.settlements.borrow_mut();
        if let Some((_, known)) = settlements.iter().find(|(known, _)| *known == feature.id) {
            return *known;
        }
        let settled = resolve::settle(feature, &self.lineage, plans, now);
        let granted = settled.reason == Reason::Granted;
        let settlement = Settlement {
            reason: settled.reason,
            allowance: settled.value.allowance(),
            held_by: settled.held_by.unwrap_or(0),
            expires_at: if granted { resolve::end_of_grant(feature, &self.lineage, plans, now) } else { None },
        };
        if settlements.len() < MOST_SETTLEMENTS {
            settlements.reserve_exact(1);
            settlements.push((feature.id, settlement));
        }
        settlement
    }

    /// Bytes on the heap, roughly; with room for its settlements, which come later.
    pub fn size(&self) -> usize {
        let rows = |holder: &Holder| {
            size_of::<Holder>()
                + holder.subscriptions.capacity() * size_of::<Subscription>()
                + holder.overrides.capacity() * (size_of::<Override>() + 64)
                + holder.blocks.capacity() * size_of::<Block>()
        };
        self.lineage.iter().map(rows).sum::<usize>()
            + size_of_val(&*self.ancestors)
            + MOST_SETTLEMENTS * size_of::<(FeatureId, Settlement)>()
    }
}

/// What was read of the catalog. Versions of plans, and of the rows of features, hold for good; which ones are shown is a matter
/// of the snapshot.
#[derive(Default)]
pub struct Catalog {
    versions: HashMap<PlanVersionId, PlanVersion, RandomState>,
    /// Versions that the present snapshot shows without features. Where tables are filled one after the other, by a restore or
    /// by replication, a version can be seen before its features: these do not outlive the snapshot.
    bare: Vec<PlanVersionId>,
    latest: HashMap<PlanId, Option<PlanVersionId>, RandomState>,
    /// By key, as they were seen last.
    features: HashMap<Box<[u8]>, SeenFeature, RandomState>,
    size: usize,
}

struct SeenFeature {
    version: Version,
    /// What is remembered at present is of a snapshot that shows the version.
    is_present: bool,
    feature: Rc<MeteredFeature>,
}

/// Tables that had nothing in them when they were looked at: what is inserted since leaves a mark.
#[derive(Default)]
pub struct Vacant {
    overrides: bool,
    blocks: bool,
}

/// Bytes that a version takes without its features, roughly.
const SIZE_OF_VERSION: usize = size_of::<PlanVersion>() + 32;

impl Catalog {
    /// Bytes on the heap, roughly.
    pub fn size(&self) -> usize {
        self.size
    }

    pub fn forget_versions(&mut self) {
        self.versions.clear();
        self.bare.clear();
        self.latest.clear();
        self.features.clear();
        self.size = 0;
    }

    /// A feature that was seen before, if `is_shown` says so of its version. It is asked once for what is remembered at present.
    pub fn feature(&mut self, key: &[u8], is_shown: impl FnOnce(Version) -> bool) -> Option<&Rc<MeteredFeature>> {
        let seen = self.features.get_mut(key)?;
        seen.is_present = seen.is_present || is_shown(seen.version);
        seen.is_present.then_some(&seen.feature)
    }

    pub fn keep_feature(&mut self, key: &[u8], version: Version, feature: Rc<MeteredFeature>) {
        if self.features.insert(key.into(), SeenFeature { version, is_present: true, feature }).is_none() {
            self.size += 2 * key.len() + size_of::<SeenFeature>() + 64;
        }
    }

    pub fn forget_snapshot(&mut self) {
        for id in self.bare.drain(..) {
            self.versions.remove(&id);
            self.size -= SIZE_OF_VERSION;
        }
        self.latest.clear();
        self.features.values_mut().for_each(|seen| seen.is_present = false);
    }
}

impl Plans for Catalog {
    fn plan_version(&self, id: PlanVersionId) -> &PlanVersion {
        &self.versions[&id]
    }
}

/// Reads with one snapshot.
pub struct Reader<'a> {
    pub relations: &'a Rc<Relations>,
    pub snapshot: ActiveSnapshot,
    pub catalog: &'a mut Catalog,
    pub(super) answers: &'a mut Answers,
    pub(super) vacant: &'a mut Vacant,
    /// Empty, with room for subscriptions while they are read.
    pub(super) scratch: &'a mut Vec<Subscription>,
    pub places: &'a mut Places,
    /// When what is in the answers was read last.
    pub(super) read_at: &'a mut Time,
    /// At the time of the statement.
    pub enforcement: &'a Enforcement,
    /// What is going to happen with counters.
    pub intent: Intent,
}

/// A value that a NOT NULL constraint promises.
pub fn present<T>(value: Option<T>) -> T {
    value.expect("NOT NULL columns have values")
}

/// A word that a CHECK constraint promises to be one of a list.
pub fn word<T: FromStr, const COLUMNS: usize>(row: &Row<'_, COLUMNS>, column: usize) -> T {
    let read = row.text(column, |text| std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()));
    present(read).expect("CHECK constraints allow known words only")
}

impl Reader<'_> {
    /// The account with the rows that are in force at `now`, the time of the statement, or later. Remembered.
    pub fn present_account(&mut self, name: AccountName<'_>, now: Time) -> Result<Rc<Account>, Error> {
        if let Some(known) = self.answers.account(name, now) {
            return Ok(known);
        }
        let account = Rc::new(self.account(&name.to_key(), Some(now))?);
        let (_, until) = resolve::stable_period(&account.lineage, now);
        self.answers.keep(name, Rc::clone(&account), until.min(self.enforcement.until));
        *self.read_at = now;
        Ok(account)
    }

    /// The credits of an account and feature that are there at `now`, the time of the statement, or later. Remembered.
    pub fn present_credits(&mut self, account: i64, feature: i32, now: Time) -> Rc<[Credit]> {
        if let Some(known) = self.answers.credits(account, feature) {
            return known;
        }
        let credits: Rc<[Credit]> = self.credits(account, feature, now).into();
        self.answers.keep_credits(account, feature, Rc::clone(&credits));
        *self.read_at = now;
        credits
    }

    /// The credits of an account and feature that end after `since`.
    pub fn credits(&self, account: i64, feature: i32, since: Time) -> Vec<Credit> {
        let conditions = [
            Condition::Int8Is(credit::ACCOUNT_ID, account),
            Condition::Int4Is(credit::FEATURE_ID, feature),
            Condition::After(credit::EXPIRES_AT, since),
        ];
        let mut credits = Vec::new();
        scan(&self.relations.credits, &conditions, Order::Any, self.snapshot, |row| {
            credits.push(Credit {
                id: present(row.int8(credit::ID)),
                amount: present(row.allowance(credit::AMOUNT)),
                priority: present(row.int4(credit::PRIORITY)),
                starts_at: present(row.time(credit::STARTS_AT)),
                expires_at: present(row.time(credit::EXPIRES_AT)),
                period: row.interval(credit::PERIOD).map(|(months, days, micros)| {
                    Period::new(months.into(), days.into(), micros).expect("periods were checked when they were written")
                }),
                source: present(row.text(credit::SOURCE, |source| source.into())),
            });
            ControlFlow::Continue(())
        });
        credits
    }

    /// The account with this key and the rows that are still in force after `since`; with None also those that have ended.
    pub fn account(&mut self, key: &[u8], since: Option<Time>) -> Result<Account, Error> {
        let mut found = None;
        let key = [Condition::TextIs(account_entry::KEY, key)];
        scan_covered(&self.relations.account_entries, &key, self.snapshot, |row| {
            found = Some((present(row.int8(account_entry::ID)), row.int8(account_entry::PARENT_ID)));
            ControlFlow::Break(())
        });
        match found {
            None => Ok(Account::unknown()),
            Some((id, parent)) => self.account_with(id, parent, since),
        }
    }

    /// The full answer at the time of the statement, which holds at the longest until a bundle's standing turns.
    pub fn resolve(&self, feature: &Feature, account: &Account, now: Time) -> Entitlement {
        let entitlement = resolve::resolve(feature, &account.lineage, &*self.catalog, now);
        Entitlement { valid_until: entitlement.valid_until.min(self.enforcement.until), ..entitlement }
    }

    /// Whether there is an account with this key.
    pub fn has_account(&self, key: &[u8]) -> bool {
        let mut found = false;
        scan_covered(&self.relations.account_entries, &[Condition::TextIs(account_entry::KEY, key)], self.snapshot, |_| {
            found = true;
            ControlFlow::Break(())
        });
        found
    }

    /// The account with this id and parent.
    fn account_with(&mut self, id: i64, parent: Option<i64>, since: Option<Time>) -> Result<Account, Error> {
        let mut lineage = vec![self.holder(id, since)];
        let mut ancestors = Vec::new();
        let mut next = parent;
        while let Some(ancestor) = next {
            if lineage.len() > MOST_ANCESTORS {
                return Err(Error::incomplete(format!("account {id} has more than {MOST_ANCESTORS} ancestors")));
            }
            lineage.push(self.holder(ancestor, since));
            ancestors.push(ancestor);
            next = None;
            scan(
                &self.relations.accounts_by_id,
                &[Condition::Int8Is(account::ID, ancestor)],
                Order::Any,
                self.snapshot,
                |row| {
                    next = row.int8(account::PARENT_ID);
                    ControlFlow::Break(())
                },
            );
        }
        Ok(Account::of(Some(id), ancestors, lineage))
    }

    /// Calls `visit` with every account, in the order of their keys, and what is in force at `now` or later.
    pub fn each_account(&mut self, now: Time, mut visit: impl FnMut(&[u8], &Account, &Catalog)) -> Result<(), Error> {
        let mut result = Ok(());
        let relations = self.relations;
        scan(&relations.accounts_by_key, &[], Order::Ascending, self.snapshot, |row| {
            match self.account_with(present(row.int8(account::ID)), row.int8(account::PARENT_ID), Some(now)) {
                Ok(found) => {
                    row.text(account::KEY, |key| visit(key, &found, self.catalog));
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    result = Err(error);
                    ControlFlow::Break(())
                }
            }
        });
        result
    }

    /// Calls `visit` with up to `size` accounts spread evenly over the ids, the same ones each time.
    pub fn sample_accounts(&mut self, size: i64, now: Time, mut visit: impl FnMut(&Account, &Catalog)) -> Result<(), Error> {
        let by_id = self.relations.accounts_by_id;
        let first = |snapshot, conditions: &[Condition<'_>], order| {
            let mut found = None;
            scan(&by_id, conditions, order, snapshot, |row| {
                found = Some((present(row.int8(account::ID)), row.int8(account::PARENT_ID)));
                ControlFlow::Break(())
            });
            found
        };
        let (Some((lowest, _)), Some((highest, _))) =
            (first(self.snapshot, &[], Order::Ascending), first(self.snapshot, &[], Order::Descending))
        else {
            return Ok(());
        };
        let step = (highest.saturating_sub(lowest) / size).max(1);
        let mut from = lowest;
        while from <= highest {
            let Some((id, parent)) = first(self.snapshot, &[Condition::Int8AtLeast(account::ID, from)], Order::Ascending)
            else {
                break;
            };
            let sampled = self.account_with(id, parent, Some(now))?;
            visit(&sampled, self.catalog);
            from = from.saturating_add(step).max(id.saturating_add(1));
        }
        Ok(())
    }

    /// What one account holds itself.
    fn holder(&mut self, id: i64, since: Option<Time>) -> Holder {
        if self.enforcement.withholds() {
            return self.holder_with_sources(id, since);
        }
        // Memory is what limits the memo: what is kept is as large as it has to be.
        let mut subscriptions = std::mem::take(self.scratch);
        let mut followers = Vec::new();
        let conditions = [
            Condition::Int8Is(subscription_entry::ACCOUNT_ID, id),
            Condition::After(subscription_entry::IN_FORCE_UNTIL, since.unwrap_or(Time::MIN)),
        ];
        let conditions = if since.is_some() { &conditions } else { &conditions[..1] };
        scan_covered(&self.relations.subscription_entries, conditions, self.snapshot, |row| {
            let found = read_subscription_entry(row);
            if found.plan_version == FOLLOWS_LATEST {
                followers.push((subscriptions.len(), PlanId(present(row.int4(subscription_entry::PLAN_ID)))));
            }
            subscriptions.push(found);
            ControlFlow::Continue(())
        });
        self.versions_of(&mut subscriptions, followers);
        let kept = subscriptions.as_slice().into();
        if subscriptions.capacity() <= MOST_SCRATCH {
            subscriptions.clear();
            *self.scratch = subscriptions;
        }
        Holder { subscriptions: kept, overrides: self.overrides(id), blocks: self.blocks(id) }
    }

    /// The same where some of it does not count, which takes a look at who granted it.
    #[cold]
    fn holder_with_sources(&mut self, id: i64, since: Option<Time>) -> Holder {
        let mut subscriptions = Vec::new();
        let mut followers = Vec::new();
        let conditions = [
            Condition::Int8Is(subscription::ACCOUNT_ID, id),
            Condition::After(subscription::IN_FORCE_UNTIL, since.unwrap_or(Time::MIN)),
        ];
        let conditions = if since.is_some() { &conditions } else { &conditions[..1] };
        scan(&self.relations.subscriptions, conditions, Order::Any, self.snapshot, |row| {
            let withheld = present(row.text(subscription::SOURCE, |source| self.enforcement.of(source)));
            let found = Subscription { withheld, ..read_subscription(row) };
            if found.plan_version == FOLLOWS_LATEST {
                followers.push((subscriptions.len(), PlanId(present(row.int4(subscription::PLAN_ID)))));
            }
            subscriptions.push(found);
            ControlFlow::Continue(())
        });
        self.versions_of(&mut subscriptions, followers);
        Holder { subscriptions, overrides: self.overrides(id), blocks: self.blocks(id) }
    }

    /// Gives those that follow their plan its latest version, and makes sure that the catalog has all versions.
    fn versions_of(&mut self, subscriptions: &mut Vec<Subscription>, followers: Vec<(usize, PlanId)>) {
        for (place, plan) in followers.into_iter().rev() {
            match self.latest(plan) {
                Some(version) => subscriptions[place].plan_version = version,
                // The foreign key keeps the plan; a plan without a published version gives nothing.
                None => drop(subscriptions.remove(place)),
            }
        }
        for subscription in subscriptions {
            self.version(subscription.plan_version);
        }
    }

    fn overrides(&mut self, holder: i64) -> Vec<Override> {
        let mut overrides = Vec::new();
        if is_vacant(&self.relations.overrides, &mut self.vacant.overrides) {
            return overrides;
        }
        let condition = [Condition::Int8Is(exception::ACCOUNT_ID, holder)];
        scan(&self.relations.overrides, &condition, Order::Any, self.snapshot, |row| {
            let withheld = match self.enforcement.withholds() {
                true => present(row.text(exception::SOURCE, |source| self.enforcement.of(source))),
                false => None,
            };
            overrides.push(Override { withheld, ..read_override(row) });
            ControlFlow::Continue(())
        });
        overrides
    }

    fn blocks(&mut self, holder: i64) -> Vec<Block> {
        let mut blocks = Vec::new();
        if is_vacant(&self.relations.blocks, &mut self.vacant.blocks) {
            return blocks;
        }
        let condition = [Condition::Int8Is(block::ACCOUNT_ID, holder)];
        scan(&self.relations.blocks, &condition, Order::Any, self.snapshot, |row| {
            blocks.push(read_block(row));
            ControlFlow::Continue(())
        });
        blocks
    }

    /// The plan's version that subscriptions to the latest one hold.
    pub fn latest(&mut self, plan: PlanId) -> Option<PlanVersionId> {
        if let Some(known) = self.catalog.latest.get(&plan) {
            return *known;
        }
        let mut latest = None;
        scan(
            &self.relations.versions_of_plan,
            &[Condition::Int4Is(plan_version::PLAN_ID, plan.0)],
            Order::Descending,
            self.snapshot,
            |row| {
                latest = row.int8(plan_version::ID).map(PlanVersionId);
                ControlFlow::Break(())
            },
        );
        self.catalog.latest.insert(plan, latest);
        latest
    }

    /// Makes sure that the catalog has the version.
    pub fn version(&mut self, id: PlanVersionId) {
        if self.catalog.versions.contains_key(&id) {
            return;
        }
        let mut header = None;
        scan(
            &self.relations.plan_versions,
            &[Condition::Int8Is(plan_version::ID, id.0)],
            Order::Any,
            self.snapshot,
            |row| {
                header = Some((word::<PlanKind, _>(row, plan_version::KIND), present(row.int4(plan_version::RANK))));
                ControlFlow::Break(())
            },
        );
        let (kind, rank) = header.expect("foreign keys keep plan versions");
        let mut features = Vec::new();
        let mut size = SIZE_OF_VERSION;
        // The index is on (plan_version_id, feature_id), so features arrive sorted by id as PlanVersion wants them.
        scan(
            &self.relations.plan_features,
            &[Condition::Int8Is(plan_feature::PLAN_VERSION_ID, id.0)],
            Order::Ascending,
            self.snapshot,
            |row| {
                let value = present(value(
                    row,
                    [plan_feature::ENABLED, plan_feature::CONFIG, plan_feature::AMOUNT],
                    present(row.bool(plan_feature::PER_UNIT)),
                ));
                size += size_of::<(FeatureId, Value)>();
                if let Value::Config(json) = &value {
                    size += json.len();
                }
                features.push((FeatureId(present(row.int4(plan_feature::FEATURE_ID))), value));
                ControlFlow::Continue(())
            },
        );
        if features.is_empty() {
            self.catalog.bare.push(id);
        }
        self.catalog.versions.insert(id, PlanVersion { id, kind, rank, features });
        self.catalog.size += size;
    }

    /// The feature with this key.
    pub fn feature(&self, key: &[u8]) -> Result<(FeatureKey, Feature), Error> {
        let mut found = None;
        scan(&self.relations.features, &[Condition::TextIs(feature::KEY, key)], Order::Any, self.snapshot, |row| {
            found = Some(read_feature(row));
            ControlFlow::Break(())
        });
        found.ok_or_else(|| self.unknown_feature(key))
    }

    /// All features, by key.
    pub fn features(&self) -> Vec<(FeatureKey, Feature)> {
        let mut features = Vec::new();
        scan(&self.relations.features, &[], Order::Ascending, self.snapshot, |row| {
            features.push(read_feature(row));
            ControlFlow::Continue(())
        });
        features
    }

    #[cold]
    pub fn unknown_feature(&self, key: &[u8]) -> Error {
        let known = self.features();
        Error::unknown_feature(&String::from_utf8_lossy(key), known.iter().map(|(key, _)| key.as_str()))
    }
}

/// Whether nobody has a row in the table, which many databases have nothing in: a look at the length of its file may tell. A
/// serializable transaction goes through the index all the same, for the predicate lock that this leaves.
fn is_vacant<const COLUMNS: usize>(access: &Access<COLUMNS>, known: &mut bool) -> bool {
    if !*known {
        *known = !is_serializable() && has_no_pages(access);
    }
    *known
}

/// What stands for the version in the row of a subscription that follows its plan's latest; ids begin with 1.
const FOLLOWS_LATEST: PlanVersionId = PlanVersionId(0);

/// As far as the index tells it: when the row stops to be in force, not why.
fn read_subscription_entry(row: &Row<'_, { subscription_entry::COUNT }>) -> Subscription {
    let in_force_until = present(row.time(subscription_entry::IN_FORCE_UNTIL));
    Subscription {
        row_id: 0,
        id: present(row.int8(subscription_entry::ID)),
        plan_version: row.int8(subscription_entry::PLAN_VERSION_ID).map_or(FOLLOWS_LATEST, PlanVersionId),
        status: word::<Status, _>(row, subscription_entry::STATUS),
        quantity: u32::try_from(present(row.int4(subscription_entry::QUANTITY))).expect("quantities are positive"),
        starts_at: present(row.time(subscription_entry::STARTS_AT)),
        ends_at: in_force_until,
        grace_until: Some(in_force_until),
        withheld: None,
    }
}

pub fn read_subscription(row: &Row<'_, { subscription::COUNT }>) -> Subscription {
    Subscription {
        row_id: present(row.int8(subscription::ROW_ID)),
        id: present(row.int8(subscription::ID)),
        plan_version: row.int8(subscription::PLAN_VERSION_ID).map_or(FOLLOWS_LATEST, PlanVersionId),
        status: word::<Status, _>(row, subscription::STATUS),
        quantity: u32::try_from(present(row.int4(subscription::QUANTITY))).expect("quantities are positive"),
        starts_at: present(row.time(subscription::STARTS_AT)),
        ends_at: present(row.time(subscription::ENDS_AT)),
        grace_until: row.time(subscription::GRACE_UNTIL),
        withheld: None,
    }
}

pub fn read_override(row: &Row<'_, { exception::COUNT }>) -> Override {
    Override {
        id: present(row.int8(exception::ID)),
        feature: FeatureId(present(row.int4(exception::FEATURE_ID))),
        mode: word::<OverrideMode, _>(row, exception::MODE),
        value: value(row, [exception::ENABLED, exception::CONFIG, exception::AMOUNT], false),
        expires_at: present(row.time(exception::EXPIRES_AT)),
        withheld: None,
    }
}

pub fn read_block(row: &Row<'_, { block::COUNT }>) -> Block {
    Block { id: present(row.int8(block::ID)), feature: row.int4(block::FEATURE_ID).map(FeatureId) }
}

pub fn read_feature(row: &Row<'_, { feature::COUNT }>) -> (FeatureKey, Feature) {
    let key = present(row.text(feature::KEY, |text| FeatureKey::parse(&String::from_utf8_lossy(text))));
    let found = Feature {
        id: FeatureId(present(row.int4(feature::ID))),
        kind: word::<Kind, _>(row, feature::KIND),
        combine: word::<Combine, _>(row, feature::COMBINE),
    };
    (key.expect("keys were checked when they were written"), found)
}

/// The value in the columns of a flag, a config value and an amount.
fn value<const COLUMNS: usize>(row: &Row<'_, COLUMNS>, columns: [usize; 3], per_unit: bool) -> Option<Value> {
    let [enabled, config, amount] = columns;
    if let Some(enabled) = row.bool(enabled) {
        return Some(Value::Flag(enabled));
    }
    if let Some(json) = row.jsonb(config) {
        return Some(Value::Config(json.into()));
    }
    row.allowance(amount).map(|allowance| Value::Metered { allowance, per_unit })
}
