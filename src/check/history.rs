//! Reading all that was ever recorded about an account, for `explain`.
//!
//! Two questions can be asked of a past moment: what was decided then, from the rows as they were recorded then; and what
//! would be decided for that moment with what is known now. A row tells both: what it says of time (starts, ends), and since
//! when and until when it was what the database said (recorded, superseded).

use super::enforcement::Enforcement;
use super::load::{MOST_ANCESTORS, Reader, read_block, read_override, read_subscription};
use crate::error::Error;
use crate::pg::relations::{account, block, exception, former_parent, plan, plan_version, subscription};
use crate::pg::scan::{Condition, Order, Row, scan};
use entitlements_model::plan::{FeatureId, PlanId, PlanVersionId};
use entitlements_model::resolve::{Block, Holder, Override, Subscription};
use entitlements_model::time::{FOREVER, Time};
use std::ops::ControlFlow;

/// A subscription's row with what is told about it.
#[derive(Clone)]
pub struct SubscriptionRecord {
    pub row: Subscription,
    pub plan: PlanId,
    pub follows_latest: bool,
    pub source: String,
    pub source_ref: Option<String>,
    pub reason: Option<String>,
    pub recorded_by: String,
    pub recorded_at: Time,
    superseded_at: Time,
}

/// An override with what is told about it.
#[derive(Clone)]
pub struct OverrideRecord {
    pub row: Override,
    pub source: String,
    pub reason: String,
    pub created_by: String,
    pub starts_at: Time,
    ended_at: Time,
}

/// A block with what is told about it.
#[derive(Clone)]
pub struct BlockRecord {
    pub row: Block,
    pub source: String,
    pub reason: String,
    pub created_by: String,
    pub starts_at: Time,
    ended_at: Time,
}

/// One account's records.
#[derive(Clone)]
pub struct Records {
    pub account: String,
    pub subscriptions: Vec<SubscriptionRecord>,
    pub overrides: Vec<OverrideRecord>,
    pub blocks: Vec<BlockRecord>,
}

/// Which rows count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Belief {
    /// What the database says now.
    Present,
    /// What it said at that time.
    RecordedAt(Time),
}

impl Records {
    /// The records that count for a question about `at`.
    pub fn under(&self, belief: Belief, at: Time, is_past: bool) -> Self {
        let stands = |record: &SubscriptionRecord| match belief {
            Belief::Present => record.superseded_at == FOREVER,
            Belief::RecordedAt(time) => record.recorded_at <= time && time < record.superseded_at,
        };
        // Overrides and blocks are never backdated: what is live now counts at once, what was live then counted then.
        let live = |starts_at: Time, ended_at: Time| {
            if is_past { starts_at <= at && at < ended_at } else { ended_at == FOREVER }
        };
        Self {
            account: self.account.clone(),
            subscriptions: self.subscriptions.iter().filter(|record| stands(record)).cloned().collect(),
            overrides: self.overrides.iter().filter(|record| live(record.starts_at, record.ended_at)).cloned().collect(),
            blocks: self.blocks.iter().filter(|record| live(record.starts_at, record.ended_at)).cloned().collect(),
        }
    }

    fn withhold(&mut self, enforcement: &Enforcement) {
        for record in &mut self.subscriptions {
            record.row.withheld = enforcement.of(record.source.as_bytes());
        }
        for record in &mut self.overrides {
            record.row.withheld = enforcement.of(record.source.as_bytes());
        }
    }

    /// The rows alone, in the same order.
    pub fn holder(&self) -> Holder {
        Holder {
            subscriptions: self.subscriptions.iter().map(|record| record.row.clone()).collect(),
            overrides: self.overrides.iter().map(|record| record.row.clone()).collect(),
            blocks: self.blocks.iter().map(|record| record.row.clone()).collect(),
        }
    }
}

fn owned<const COLUMNS: usize>(row: &Row<'_, COLUMNS>, column: usize) -> Option<String> {
    row.text(column, |text| String::from_utf8_lossy(text).into_owned())
}

fn text<const COLUMNS: usize>(row: &Row<'_, COLUMNS>, column: usize) -> String {
    owned(row, column).unwrap_or_default()
}

fn time<const COLUMNS: usize>(row: &Row<'_, COLUMNS>, column: usize) -> Time {
    row.time(column).unwrap_or(FOREVER)
}

impl Reader<'_> {
    /// All records of the account with this key and of the ancestors it had at `at`; None for an unknown account.
    pub fn records(&self, key: &[u8], at: Option<Time>) -> Result<Option<Vec<Records>>, Error> {
        let mut next = None;
        scan(&self.relations.accounts_by_key, &[Condition::TextIs(account::KEY, key)], Order::Any, self.snapshot, |row| {
            next = row.int8(account::ID);
            ControlFlow::Break(())
        });
        match next {
            Some(id) => self.records_from(id, at).map(Some),
            None => Ok(None),
        }
    }

    /// All records of the account and of the ancestors it had at `at`.
    pub fn records_from(&self, account: i64, at: Option<Time>) -> Result<Vec<Records>, Error> {
        let mut next = Some(account);
        let mut lineage = Vec::new();
        while let Some(id) = next.take() {
            if lineage.len() > MOST_ANCESTORS {
                return Err(Error::incomplete(format!("account {id} has more than {MOST_ANCESTORS} ancestors")));
            }
            let mut name = String::new();
            scan(&self.relations.accounts_by_id, &[Condition::Int8Is(account::ID, id)], Order::Any, self.snapshot, |row| {
                name = text(row, account::KEY);
                next = row.int8(account::PARENT_ID);
                ControlFlow::Break(())
            });
            if let Some(at) = at {
                next = self.parent_then(id, at).unwrap_or(next);
            }
            lineage.push(self.records_of(id, name));
        }
        Ok(lineage)
    }

    /// The records that count for a question about `at`, each subscription with the version that it has in the answer; what
    /// follows a plan that had no version does not count.
    pub fn standing(&mut self, records: &[Records], belief: Belief, at: Time, is_past: bool) -> Vec<Records> {
        let enforcement = self.enforcement_at(at, is_past);
        let mut lineage: Vec<Records> = records.iter().map(|records| records.under(belief, at, is_past)).collect();
        for records in &mut lineage {
            records.withhold(&enforcement);
            records.subscriptions.retain_mut(|record| {
                if record.follows_latest {
                    match self.latest_at(record.plan, if is_past { at } else { FOREVER }) {
                        Some(version) => record.row.plan_version = version,
                        None => return false,
                    }
                }
                self.version(record.row.plan_version);
                true
            });
        }
        lineage
    }

    /// Whether what came by bundles counts at a time of the clock.
    pub fn enforcement_at(&self, at: Time, is_past: bool) -> Enforcement {
        match is_past {
            true => Enforcement::in_the_past(self.relations, self.snapshot, at),
            false => Enforcement::at_present(self.relations, self.snapshot, at),
        }
    }

    /// The parent that the account had at a time before its present one; Some(None) where it had none.
    fn parent_then(&self, id: i64, at: Time) -> Option<Option<i64>> {
        let mut then = None;
        scan(
            &self.relations.former_parents,
            &[Condition::Int8Is(former_parent::ACCOUNT_ID, id), Condition::After(former_parent::UNTIL, at)],
            Order::Ascending,
            self.snapshot,
            |row| {
                then = Some(row.int8(former_parent::PARENT_ID));
                ControlFlow::Break(())
            },
        );
        then
    }

    fn records_of(&self, id: i64, name: String) -> Records {
        let mut records = Records { account: name, subscriptions: Vec::new(), overrides: Vec::new(), blocks: Vec::new() };
        for access in [&self.relations.subscriptions, &self.relations.superseded_subscriptions] {
            let own = [Condition::Int8Is(subscription::ACCOUNT_ID, id)];
            scan(access, &own, Order::Any, self.snapshot, |row| {
                records.subscriptions.push(SubscriptionRecord {
                    row: read_subscription(row),
                    plan: PlanId(row.int4(subscription::PLAN_ID).unwrap_or_default()),
                    follows_latest: row.int8(subscription::PLAN_VERSION_ID).is_none(),
                    source: text(row, subscription::SOURCE),
                    source_ref: owned(row, subscription::SOURCE_REF),
                    reason: owned(row, subscription::REASON),
                    recorded_by: text(row, subscription::RECORDED_BY),
                    recorded_at: time(row, subscription::RECORDED_AT),
                    superseded_at: time(row, subscription::SUPERSEDED_AT),
                });
                ControlFlow::Continue(())
            });
        }
        for access in [&self.relations.overrides, &self.relations.ended_overrides] {
            let own = [Condition::Int8Is(exception::ACCOUNT_ID, id)];
            scan(access, &own, Order::Any, self.snapshot, |row| {
                records.overrides.push(OverrideRecord {
                    row: read_override(row),
                    source: text(row, exception::SOURCE),
                    reason: text(row, exception::REASON),
                    created_by: text(row, exception::CREATED_BY),
                    starts_at: time(row, exception::STARTS_AT),
                    ended_at: time(row, exception::ENDED_AT),
                });
                ControlFlow::Continue(())
            });
        }
        for access in [&self.relations.blocks, &self.relations.ended_blocks] {
            let own = [Condition::Int8Is(block::ACCOUNT_ID, id)];
            scan(access, &own, Order::Any, self.snapshot, |row| {
                records.blocks.push(BlockRecord {
                    row: read_block(row),
                    source: text(row, block::SOURCE),
                    reason: text(row, block::REASON),
                    created_by: text(row, block::CREATED_BY),
                    starts_at: time(row, block::STARTS_AT),
                    ended_at: time(row, block::ENDED_AT),
                });
                ControlFlow::Continue(())
            });
        }
        records.subscriptions.sort_by_key(|record| (record.row.starts_at, record.row.row_id));
        records
    }

    /// The plan's version that was the latest at `at`.
    pub fn latest_at(&self, plan: PlanId, at: Time) -> Option<PlanVersionId> {
        let mut latest = None;
        scan(
            &self.relations.versions_of_plan,
            &[Condition::Int4Is(plan_version::PLAN_ID, plan.0)],
            Order::Descending,
            self.snapshot,
            |row| {
                if time(row, plan_version::PUBLISHED_AT) > at {
                    return ControlFlow::Continue(());
                }
                latest = row.int8(plan_version::ID).map(PlanVersionId);
                ControlFlow::Break(())
            },
        );
        latest
    }

    /// The plan's key.
    pub fn plan_key(&self, id: PlanId) -> String {
        let mut key = String::new();
        scan(&self.relations.plans, &[Condition::Int4Is(plan::ID, id.0)], Order::Any, self.snapshot, |row| {
            key = text(row, plan::KEY);
            ControlFlow::Break(())
        });
        key
    }

    /// The number of a plan version among the versions of its plan.
    pub fn version_number(&self, id: PlanVersionId) -> i32 {
        let mut number = 0;
        scan(
            &self.relations.plan_versions,
            &[Condition::Int8Is(plan_version::ID, id.0)],
            Order::Any,
            self.snapshot,
            |row| {
                number = row.int4(plan_version::VERSION).unwrap_or_default();
                ControlFlow::Break(())
            },
        );
        number
    }

    /// The unit of a metered feature, for people.
    pub fn unit(&self, feature: FeatureId) -> Option<String> {
        let mut unit = None;
        scan(
            &self.relations.features_by_id,
            &[Condition::Int4Is(crate::pg::relations::feature::ID, feature.0)],
            Order::Any,
            self.snapshot,
            |row| {
                unit = owned(row, crate::pg::relations::feature::UNIT);
                ControlFlow::Break(())
            },
        );
        unit
    }
}
