//! Moving subscriptions from one version of their plan to another.
//!
//! Only pinned subscriptions are moved; those that follow the latest version need it never. A move is a change like any other:
//! the rows it concerns are superseded, what lies before the given moment is kept, and each account's audit chain tells.
//! Accounts take their turns in the order of their ids, so two migrations never wait for each other in a circle.

use super::drafts::unknown_plan;
use super::functions::key_argument;
use crate::audit::{self, Chain};
use crate::error::Error;
use crate::pg::error::or_raise;
use crate::pg::session::{Actor, refuse_read_only};
use entitlements_model::key::PlanKey;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData};
use serde_json::json;

const PLAN: &str = "SELECT id FROM entitlements.plans WHERE key = $1";

const VERSION: &str = "SELECT id FROM entitlements.plan_versions WHERE plan_id = $1 AND version = $2";

const ACCOUNTS: &str = "
    SELECT asked.key, account.id
    FROM unnest($1) AS asked (key)
    LEFT JOIN entitlements.accounts AS account ON account.key = asked.key
    ORDER BY account.id NULLS FIRST";

/// What would be moved: rows that begin or go on after $4, of the accounts $5 or of all. A row of no length only marks an end.
const PREVIEW: &str = "
    SELECT held.id, account.key, former.version, held.quantity, greatest(held.starts_at, $4), account.id
    FROM entitlements.subscriptions AS held
    JOIN entitlements.plan_versions AS former ON former.id = held.plan_version_id
    JOIN entitlements.accounts AS account ON account.id = held.account_id
    WHERE held.plan_id = $1 AND held.superseded_at IS NULL AND former.id <> $3 AND ($2 IS NULL OR former.id = $2)
        AND held.ends_at > greatest(held.starts_at, $4) AND ($5 IS NULL OR held.account_id = ANY ($5))
    ORDER BY account.id, held.id, held.starts_at";

/// Grace belongs to the use, not to the term: it ends with the part that is kept, and goes on in the part that is moved. A
/// transaction that began earlier may have had to wait for its turn: belief does not go back in time.
const MOVE: &str = "
    WITH moment AS (
        SELECT greatest(now(), max(recorded_at)) AS recorded_at
        FROM entitlements.subscriptions
        WHERE account_id = ANY ($5) AND plan_id = $1 AND superseded_at IS NULL
    ), ended AS (
        UPDATE entitlements.subscriptions AS held
        SET superseded_at = moment.recorded_at
        FROM entitlements.plan_versions AS former, moment
        WHERE former.id = held.plan_version_id
            AND held.plan_id = $1 AND held.superseded_at IS NULL AND former.id <> $3 AND ($2 IS NULL OR former.id = $2)
            AND (held.ends_at > $4 OR held.starts_at >= $4) AND held.account_id = ANY ($5)
        RETURNING held.*, former.version
    ), added AS (
        INSERT INTO entitlements.subscriptions (id, account_id, plan_id, plan_version_id, status, quantity, starts_at, ends_at,
            term_starts_at, grace_until, source, source_ref, reason, metadata, recorded_at, recorded_by)
        SELECT id, account_id, plan_id, plan_version_id, status, quantity, starts_at, $4, term_starts_at,
            CASE WHEN grace_until IS NOT NULL THEN least(grace_until, $4) END,
            source, source_ref, reason, metadata, superseded_at, $6
        FROM ended
        WHERE starts_at < $4
        UNION ALL
        SELECT id, account_id, plan_id, $3, status, quantity, greatest(starts_at, $4), ends_at, term_starts_at,
            CASE WHEN grace_until > $4 THEN grace_until END,
            source, source_ref, coalesce($7, reason), metadata, superseded_at, $6
        FROM ended
    )
    SELECT ended.id, account.key, ended.version, ended.quantity, greatest(ended.starts_at, $4), account.id
    FROM ended
    JOIN entitlements.accounts AS account ON account.id = ended.account_id
    WHERE ended.ends_at > ended.starts_at
    ORDER BY account.id, ended.id, ended.starts_at";

/// A stretch of a subscription that holds another version from `starts_at` on.
struct Moved {
    subscription: i64,
    account_id: i64,
    account: String,
    from_version: i32,
    quantity: i32,
    starts_at: TimestampWithTimeZone,
}

/// Which rows to move where, in ids.
struct Migration {
    plan_id: i32,
    /// None for whichever version a row has.
    from: Option<i64>,
    to: i64,
    at: TimestampWithTimeZone,
    /// None for all accounts.
    accounts: Option<Vec<i64>>,
}

#[pg_extern(sql = false)]
fn migrate_subscriptions(
    plan: Option<&str>,
    from_version: Option<i32>,
    to_version: Option<i32>,
    accounts: Option<Vec<Option<String>>>,
    at: Option<TimestampWithTimeZone>,
    reason: Option<&str>,
    dry_run: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(subscription, i64),
        name!(account, String),
        name!(from_version, i32),
        name!(to_version, i32),
        name!(quantity, i32),
        name!(starts_at, TimestampWithTimeZone),
    ),
> {
    let (to_version, moved) = or_raise(migrate(plan, from_version, to_version, accounts, at, reason, dry_run));
    TableIterator::new(moved.into_iter().map(move |moved| {
        (moved.subscription, moved.account, moved.from_version, to_version, moved.quantity, moved.starts_at)
    }))
}

fn migrate(
    plan: Option<&str>,
    from_version: Option<i32>,
    to_version: Option<i32>,
    accounts: Option<Vec<Option<String>>>,
    at: Option<TimestampWithTimeZone>,
    reason: Option<&str>,
    dry_run: Option<bool>,
) -> Result<(i32, Vec<Moved>), Error> {
    let plan = key_argument::<PlanKey>("plan", plan)?;
    let to_version = to_version.ok_or_else(|| Error::argument("to_version", "it is NULL"))?;
    if from_version == Some(to_version) {
        return Err(Error::argument("from_version", "it is the version to move to"));
    }
    let at = at.ok_or_else(|| Error::argument("at", "it is NULL"))?;
    if at.is_infinity() || at.is_neg_infinity() {
        return Err(Error::argument("at", "it is infinite"));
    }
    let dry_run = dry_run.ok_or_else(|| Error::argument("dry_run", "it is NULL"))?;
    let moved = Spi::connect_mut(|client| {
        let plan_id = plan_id(client, &plan)?;
        let version_id = |version| version_id(client, &plan, plan_id, version);
        let from = from_version.map(version_id).transpose()?;
        let to = version_id(to_version)?;
        let accounts = accounts.map(|keys| account_ids(client, keys)).transpose()?;
        let migration = Migration { plan_id, from, to, at, accounts };
        if dry_run {
            return migration.preview(client);
        }
        refuse_read_only();
        migration.run(client, &plan, to_version, reason)
    })?;
    Ok((to_version, moved))
}

impl Migration {
    /// The rows that would be moved, by account, subscription and start.
    fn preview(&self, client: &SpiClient<'_>) -> Result<Vec<Moved>, Error> {
        let arguments =
            [self.plan_id.into(), self.from.into(), self.to.into(), self.at.into(), self.accounts.clone().into()];
        client.select(PREVIEW, None, &arguments)?.map(Moved::read).collect()
    }

    fn run(
        self,
        client: &mut SpiClient<'_>,
        plan: &PlanKey,
        version: i32,
        reason: Option<&str>,
    ) -> Result<Vec<Moved>, Error> {
        let mut accounts: Vec<i64> = self.preview(client)?.iter().map(|moved| moved.account_id).collect();
        accounts.dedup();
        if accounts.is_empty() {
            return Ok(Vec::new());
        }
        let chains: Vec<Chain> = accounts.iter().copied().map(Chain::Account).collect();
        audit::take_turns(client, &chains)?;
        // Whatever changed while waiting for the turns is seen here.
        let arguments = [
            self.plan_id.into(),
            self.from.into(),
            self.to.into(),
            self.at.into(),
            accounts.into(),
            Actor::current().role.into(),
            reason.into(),
        ];
        let moved: Vec<Moved> = client.update(MOVE, None, &arguments)?.map(Moved::read).collect::<Result<_, Error>>()?;
        let entries: Vec<(Chain, Vec<audit::Change>)> = moved
            .chunk_by(|one, two| one.account_id == two.account_id)
            .map(|rows| {
                (Chain::Account(rows[0].account_id), rows.iter().map(|row| row.entry(plan, version, reason)).collect())
            })
            .collect();
        let changes: Vec<_> = entries.iter().map(|(chain, changes)| (*chain, changes.as_slice())).collect();
        audit::record_all(client, &changes)?;
        Ok(moved)
    }
}

impl Moved {
    fn read(row: SpiHeapTupleData<'_>) -> Result<Self, Error> {
        let missing = || Error::Internal("a column of a subscription is NULL".to_owned());
        Ok(Self {
            subscription: row.get(1)?.ok_or_else(missing)?,
            account: row.get(2)?.ok_or_else(missing)?,
            from_version: row.get(3)?.ok_or_else(missing)?,
            quantity: row.get(4)?.ok_or_else(missing)?,
            starts_at: row.get(5)?.ok_or_else(missing)?,
            account_id: row.get(6)?.ok_or_else(missing)?,
        })
    }

    fn entry(&self, plan: &PlanKey, version: i32, reason: Option<&str>) -> audit::Change {
        let holding = |version: i32| json!({"plan": plan.as_str(), "version": version, "quantity": self.quantity});
        let mut new = holding(version);
        new["starts_at"] = self.starts_at.to_iso_string().into();
        audit::Change {
            action: "migrate",
            object: "subscription",
            object_id: self.subscription.to_string(),
            old: Some(holding(self.from_version)),
            new: Some(new),
            reason: reason.map(str::to_owned),
        }
    }
}

fn plan_id(client: &SpiClient<'_>, plan: &PlanKey) -> Result<i32, Error> {
    let known = client.select(PLAN, Some(1), &[plan.as_str().into()])?;
    match known.is_empty() {
        true => Err(unknown_plan(client, plan)?),
        false => Ok(known.first().get_one()?.unwrap_or_default()),
    }
}

fn version_id(client: &SpiClient<'_>, plan: &PlanKey, plan_id: i32, version: i32) -> Result<i64, Error> {
    let known = client.select(VERSION, Some(1), &[plan_id.into(), version.into()])?;
    match known.is_empty() {
        true => Err(Error::UnknownPlanVersion { plan: plan.to_string(), version: Some(version) }),
        false => Ok(known.first().get_one()?.unwrap_or_default()),
    }
}

fn account_ids(client: &SpiClient<'_>, keys: Vec<Option<String>>) -> Result<Vec<i64>, Error> {
    let keys = keys.into_iter().collect::<Option<Vec<_>>>();
    let keys = keys.ok_or_else(|| Error::argument("accounts", "one of them is NULL"))?;
    let known = client.select(ACCOUNTS, None, &[keys.into()])?;
    known
        .map(|row| {
            let account = row.get::<String>(1)?.unwrap_or_default();
            row.get::<i64>(2)?.ok_or(Error::UnknownAccount { account })
        })
        .collect()
}
