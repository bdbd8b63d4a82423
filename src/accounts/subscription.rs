//! Subscriptions: beginning, changing, renewing, ending.
//!
//! The rows with superseded_at NULL are a subscription's life as it is believed now. Each function reads them, lets `timeline`
//! work out the life after the change, supersedes the rows that are no longer so and adds those that are new.

use super::account::{Account, raw};
use super::arguments::{self, required, required_moment, required_source, source_name, timestamp, transaction_time};
use super::plan::Plan;
use crate::audit::{self, Change};
use crate::error::Error;
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use crate::pg::session::{Actor, connect_to_change};
use crate::row::{present, present_time};
use entitlements_model::kind::Status;
use entitlements_model::time::{BEGINNING, FOREVER, Time};
use entitlements_model::timeline::{self, Standing, Stretch, TimelineError, term_end};
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData};
use serde_json::value::RawValue;
use std::collections::HashMap;

/// What is bought, and how the row came to be.
#[derive(Clone, PartialEq)]
struct Terms {
    plan_id: i32,
    /// None follows each publication of the plan.
    version_id: Option<i64>,
    quantity: i32,
    source: String,
    source_ref: Option<String>,
    reason: Option<String>,
    metadata: Option<String>,
}

/// A row of the life as it is believed now.
struct Row {
    row_id: i64,
    stretch: Stretch<Terms>,
    recorded_at: Time,
    json: Box<RawValue>,
}

/// By plan and version of a row, the version that takes its place; None follows each publication.
type Versions = HashMap<(i32, Option<i64>), Option<i64>>;

/// A subscription whose account's turn this transaction has.
struct Subscription {
    id: i64,
    account: Account,
    rows: Vec<Row>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum VersionPolicy {
    Pinned,
    Latest,
}

impl VersionPolicy {
    fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "pinned" => Ok(Self::Pinned),
            "latest" => Ok(Self::Latest),
            _ => Err(Error::argument("version_policy", "it is not one of: pinned, latest")),
        }
    }
}

fn parse_status(text: &str) -> Result<Status, Error> {
    text.parse().map_err(|fault| Error::argument("status", format!("it {fault}")))
}

fn valid_quantity(quantity: i32) -> Result<i32, Error> {
    if quantity > 0 { Ok(quantity) } else { Err(Error::argument("quantity", "it is not above zero")) }
}

fn refuse_version_of_latest(version: Option<i32>, policy: Option<VersionPolicy>) -> Result<(), Error> {
    match (version, policy) {
        (Some(_), Some(VersionPolicy::Latest)) => {
            Err(Error::argument("version", "version_policy latest follows the plan and takes no version"))
        }
        _ => Ok(()),
    }
}

#[expect(clippy::too_many_arguments, reason = "the arguments of the SQL function")]
#[pg_extern(sql = false)]
fn subscribe(
    account: Option<&str>,
    plan: Option<&str>,
    version: Option<i32>,
    quantity: Option<i32>,
    starts_at: Option<TimestampWithTimeZone>,
    ends_at: Option<TimestampWithTimeZone>,
    version_policy: Option<&str>,
    source: Option<&str>,
    source_ref: Option<&str>,
    reason: Option<&str>,
    metadata: Option<JsonbText>,
    status: Option<&str>,
    trial_until: Option<TimestampWithTimeZone>,
) -> i64 {
    or_raise(connect_to_change(|client| {
        let new = NewSubscription {
            account: required("account", account)?,
            plan: required("plan", plan)?,
            version,
            quantity: required("quantity", quantity)?,
            starts_at: required_moment("starts_at", starts_at)?,
            ends_at: ends_at.map(Time::from),
            version_policy: VersionPolicy::parse(required("version_policy", version_policy)?)?,
            source: required_source(source)?,
            source_ref,
            reason,
            metadata,
            status: parse_status(required("status", status)?)?,
            trial_until: trial_until.map(Time::from),
        };
        start(client, new)
    }))
}

/// What `subscribe` is told.
pub struct NewSubscription<'a> {
    pub account: &'a str,
    pub plan: &'a str,
    /// None is the newest.
    pub version: Option<i32>,
    pub quantity: i32,
    pub starts_at: Time,
    /// None has no end.
    pub ends_at: Option<Time>,
    pub version_policy: VersionPolicy,
    pub source: &'a str,
    pub source_ref: Option<&'a str>,
    pub reason: Option<&'a str>,
    pub metadata: Option<JsonbText>,
    pub status: Status,
    pub trial_until: Option<Time>,
}

/// What `subscribe` does.
pub fn start(client: &mut SpiClient<'_>, new: NewSubscription<'_>) -> Result<i64, Error> {
    let life = |terms| first_life(new.starts_at, new.ends_at, new.status, new.trial_until, terms);
    refuse_version_of_latest(new.version, Some(new.version_policy))?;
    let mut terms = Terms {
        plan_id: 0,
        version_id: None,
        quantity: valid_quantity(new.quantity)?,
        source: new.source.to_owned(),
        source_ref: source_name("source_ref", new.source_ref)?.map(str::to_owned),
        reason: new.reason.map(str::to_owned),
        metadata: arguments::object("metadata", new.metadata)?,
    };
    life(terms.clone())?;

    let account = Account::take_or_create(client, Some(new.account))?;
    let plan = Plan::find(client, new.plan)?;
    plan.refuse_archived()?;
    let version_id = plan.version(client, new.version)?;
    terms.plan_id = plan.id;
    terms.version_id = (new.version_policy == VersionPolicy::Pinned).then_some(version_id);
    let found = client.update("SELECT pg_catalog.nextval('entitlements.subscription_ids')", Some(1), &[])?;
    let id = found.first().get_one()?.expect("a sequence has a next value");
    let subscription = Subscription { id, account, rows: Vec::new() };
    let reason = terms.reason.clone();
    subscription.become_life(client, "subscribe", life(terms)?, reason)?;
    Ok(id)
}

/// The life that a new subscription begins with.
fn first_life(
    starts_at: Time,
    ends_at: Option<Time>,
    status: Status,
    trial_until: Option<Time>,
    terms: Terms,
) -> Result<Vec<Stretch<Terms>>, Error> {
    let ends_at = ends_at.unwrap_or(FOREVER);
    if ends_at <= starts_at {
        return Err(Error::argument("ends_at", "it is not later than starts_at"));
    }
    match status {
        Status::PastDue => return Err(Error::argument("status", "a subscription does not begin past_due")),
        Status::Canceled if ends_at == FOREVER => {
            return Err(Error::argument("status", "a canceled subscription has an end"));
        }
        Status::Active | Status::Trialing | Status::Canceled => {}
    }
    let stretch = |status, from, to| Stretch {
        status,
        starts_at: from,
        ends_at: to,
        term_starts_at: starts_at,
        grace_until: None,
        terms: terms.clone(),
    };
    let Some(trial_until) = trial_until else {
        return Ok(vec![stretch(status, starts_at, ends_at)]);
    };
    if status == Status::Canceled {
        return Err(Error::argument("trial_until", "a canceled subscription has no trial"));
    }
    if trial_until <= starts_at || trial_until > ends_at || trial_until == FOREVER {
        return Err(Error::argument("trial_until", "it does not lie between starts_at and ends_at"));
    }
    let mut life = vec![stretch(Status::Trialing, starts_at, trial_until)];
    if trial_until < ends_at {
        life.push(stretch(Status::Active, trial_until, ends_at));
    }
    Ok(life)
}

#[expect(clippy::too_many_arguments, reason = "the arguments of the SQL function")]
#[pg_extern(sql = false)]
fn change_subscription(
    id: Option<i64>,
    plan: Option<&str>,
    version: Option<i32>,
    quantity: Option<i32>,
    status: Option<&str>,
    grace_until: Option<TimestampWithTimeZone>,
    ends_at: Option<TimestampWithTimeZone>,
    version_policy: Option<&str>,
    at: Option<TimestampWithTimeZone>,
    reason: Option<&str>,
    metadata: Option<JsonbText>,
    source: Option<&str>,
    source_ref: Option<&str>,
) -> bool {
    or_raise(connect_to_change(|client| {
        let to = SubscriptionChange {
            plan,
            version,
            quantity,
            status: status.map(parse_status).transpose()?,
            grace_until: grace_until.map(Time::from),
            ends_at: ends_at.map(Time::from),
            version_policy: version_policy.map(VersionPolicy::parse).transpose()?,
            reason,
            metadata,
            source: source.map(|source| required_source(Some(source))).transpose()?,
            source_ref,
        };
        change(client, id, required_moment("at", at)?, to)
    }))
}

/// What `change_subscription` is told; None leaves as it is.
#[derive(Default)]
pub struct SubscriptionChange<'a> {
    pub plan: Option<&'a str>,
    pub version: Option<i32>,
    pub quantity: Option<i32>,
    pub status: Option<Status>,
    pub grace_until: Option<Time>,
    pub ends_at: Option<Time>,
    pub version_policy: Option<VersionPolicy>,
    pub reason: Option<&'a str>,
    pub metadata: Option<JsonbText>,
    pub source: Option<&'a str>,
    pub source_ref: Option<&'a str>,
}

/// What `change_subscription` does.
pub fn change(client: &mut SpiClient<'_>, id: Option<i64>, at: Time, to: SubscriptionChange<'_>) -> Result<bool, Error> {
    let SubscriptionChange { version, ends_at, reason, source, .. } = to;
    let standing = standing(to.status, to.grace_until)?;
    if ends_at == Some(BEGINNING) {
        return Err(Error::argument("ends_at", "it is -infinity"));
    }
    let policy = to.version_policy;
    refuse_version_of_latest(version, policy)?;
    let quantity = to.quantity.map(valid_quantity).transpose()?;
    let source_ref = source_name("source_ref", to.source_ref)?;
    let metadata = arguments::object("metadata", to.metadata)?;
    let changes_terms = to.plan.is_some() || version.is_some() || quantity.is_some() || policy.is_some();
    let changes_notes = source.is_some() || source_ref.is_some() || metadata.is_some() || reason.is_some();
    if !changes_terms && !changes_notes && standing.is_none() && ends_at.is_none() {
        return Err(Error::argument("arguments", "there is nothing to change"));
    }

    let subscription = Subscription::take(client, id)?;
    let plan = to.plan.map(|plan| Plan::find(client, plan)).transpose()?;
    let versions = subscription.versions_from(client, at, plan.as_ref(), version, policy)?;
    let change = timeline::Change {
        at,
        standing,
        ends_at,
        changes_terms,
        terms: |terms: &Terms| Terms {
            plan_id: plan.as_ref().map_or(terms.plan_id, |plan| plan.id),
            version_id: versions.get(&(terms.plan_id, terms.version_id)).copied().unwrap_or(terms.version_id),
            quantity: quantity.unwrap_or(terms.quantity),
            source: source.map_or_else(|| terms.source.clone(), str::to_owned),
            source_ref: source_ref.map(str::to_owned).or_else(|| terms.source_ref.clone()),
            reason: reason.map(str::to_owned).or_else(|| terms.reason.clone()),
            metadata: metadata.clone().or_else(|| terms.metadata.clone()),
        },
    };
    let life = timeline::change(&subscription.life(), change).map_err(|error| subscription.refusal(error))?;
    subscription.become_life(client, "change", life, reason.map(str::to_owned))
}

fn standing(status: Option<Status>, grace_until: Option<Time>) -> Result<Option<Standing>, Error> {
    match (status, grace_until) {
        (Some(Status::PastDue), Some(grace_until)) => Ok(Some(Standing::PastDue { grace_until })),
        (Some(Status::PastDue), None) => Err(Error::argument("grace_until", "status past_due needs it")),
        (_, Some(_)) => Err(Error::argument("grace_until", "only status past_due has it")),
        (Some(Status::Trialing), None) => Ok(Some(Standing::Trialing)),
        (Some(Status::Active), None) => Ok(Some(Standing::Active)),
        (Some(Status::Canceled), None) => Ok(Some(Standing::Canceled)),
        (None, None) => Ok(None),
    }
}

#[pg_extern(sql = false)]
fn renew_subscription(id: Option<i64>, until: Option<TimestampWithTimeZone>, reason: Option<&str>) -> TimestampWithTimeZone {
    or_raise(connect_to_change(|client| renew(client, id, until, reason)))
}

/// What `renew_subscription` does.
pub fn renew(
    client: &mut SpiClient<'_>,
    id: Option<i64>,
    until: Option<TimestampWithTimeZone>,
    reason: Option<&str>,
) -> Result<TimestampWithTimeZone, Error> {
    let until = Time::from(required("until", until)?);
    let subscription = Subscription::take(client, id)?;
    let (mut life, starts_at) =
        timeline::renew(&subscription.life(), transaction_time(), until).map_err(|error| subscription.refusal(error))?;
    if let Some(term) = life.last_mut() {
        term.terms.reason = reason.map(str::to_owned);
    }
    subscription.become_life(client, "renew", life, reason.map(str::to_owned))?;
    Ok(timestamp(starts_at))
}

#[pg_extern(sql = false)]
fn end_subscription(id: Option<i64>, ends_at: Option<TimestampWithTimeZone>, reason: Option<&str>) -> bool {
    or_raise(connect_to_change(|client| {
        let ends_at = required_moment("ends_at", ends_at)?;
        let subscription = Subscription::take(client, id)?;
        let life =
            timeline::end(&subscription.life(), transaction_time(), ends_at).map_err(|error| subscription.refusal(error))?;
        subscription.become_life(client, "end", life, reason.map(str::to_owned))
    }))
}

/// Ends all that the account holds now or later.
pub fn end_all(client: &mut SpiClient<'_>, account: &Account) -> Result<(), Error> {
    let mut ids = Vec::new();
    let found = client.update(
        "SELECT DISTINCT id FROM entitlements.subscriptions
          WHERE account_id = $1 AND superseded_at IS NULL AND in_force_until > pg_catalog.now() ORDER BY id",
        None,
        &[account.id.into()],
    )?;
    for row in found {
        ids.extend(row.get::<i64>(1)?);
    }
    let now = transaction_time();
    for id in ids {
        let subscription = Subscription::load(client, id, Account { id: account.id })?;
        let life = timeline::end(&subscription.life(), now, now).map_err(|error| subscription.refusal(error))?;
        subscription.become_life(client, "end", life, None)?;
    }
    Ok(())
}

impl Subscription {
    /// The subscription with this id, when its account's turn has come. NE010 if there is none.
    fn take(client: &mut SpiClient<'_>, id: Option<i64>) -> Result<Self, Error> {
        let id = required("id", id)?;
        let found =
            client.update("SELECT account_id FROM entitlements.subscriptions WHERE id = $1", Some(1), &[id.into()])?;
        if found.is_empty() {
            return Err(Error::UnknownRow { object: "subscription", id: id.to_string() });
        }
        let account = Account::take_by_id(client, found.first().get_one()?.expect("a column that is not NULL"))?;
        Self::load(client, id, account)
    }

    fn load(client: &mut SpiClient<'_>, id: i64, account: Account) -> Result<Self, Error> {
        let mut rows = Vec::new();
        let found = client.update(
            "SELECT row_id, plan_id, plan_version_id, status, quantity, starts_at, ends_at, term_starts_at, grace_until, source,
                    source_ref, reason, metadata::pg_catalog.text, recorded_at, pg_catalog.to_jsonb(subscription)::pg_catalog.text
               FROM entitlements.subscriptions subscription
              WHERE id = $1 AND superseded_at IS NULL ORDER BY starts_at, ends_at, row_id",
            None,
            &[id.into()],
        )?;
        for row in found {
            rows.push(read(&row)?);
        }
        Ok(Self { id, account, rows })
    }

    fn life(&self) -> Vec<Stretch<Terms>> {
        self.rows.iter().map(|row| row.stretch.clone()).collect()
    }

    /// Which version takes the place of which, in rows that last beyond `at`; what is not listed stays.
    fn versions_from(
        &self,
        client: &mut SpiClient<'_>,
        at: Time,
        new_plan: Option<&Plan>,
        number: Option<i32>,
        policy: Option<VersionPolicy>,
    ) -> Result<Versions, Error> {
        let mut versions = HashMap::new();
        for Row { stretch: Stretch { terms, .. }, .. } in self.rows.iter().filter(|row| row.stretch.ends_at > at) {
            let moves = new_plan.filter(|plan| plan.id != terms.plan_id);
            if let Some(plan) = moves {
                plan.refuse_archived()?;
            }
            let follows = terms.version_id.is_none();
            let version_id = match (number, policy) {
                (None, Some(VersionPolicy::Latest)) => None,
                (None, None) if follows => None,
                (None, _) if !follows && moves.is_none() => terms.version_id,
                _ => {
                    let plan = match new_plan {
                        Some(plan) => plan,
                        None => &Plan::by_id(client, terms.plan_id)?,
                    };
                    Some(plan.version(client, number)?)
                }
            };
            versions.insert((terms.plan_id, terms.version_id), version_id);
        }
        Ok(versions)
    }

    /// Makes the life what is believed from now on and records it. False if it is believed already.
    fn become_life(
        self,
        client: &mut SpiClient<'_>,
        action: &'static str,
        mut life: Vec<Stretch<Terms>>,
        reason: Option<String>,
    ) -> Result<bool, Error> {
        let mut superseded = Vec::new();
        for row in &self.rows {
            match life.iter().position(|stretch| *stretch == row.stretch) {
                Some(place) => drop(life.remove(place)),
                None => superseded.push(row),
            }
        }
        if superseded.is_empty() && life.is_empty() {
            return Ok(false);
        }
        // A transaction that began earlier may have had to wait for this one's rows: belief does not go back in time.
        let recorded_at = self.rows.iter().map(|row| row.recorded_at).fold(transaction_time(), Time::max);
        let row_ids: Vec<i64> = superseded.iter().map(|row| row.row_id).collect();
        client.update(
            "UPDATE entitlements.subscriptions SET superseded_at = $2 WHERE row_id = ANY ($1)",
            None,
            &[row_ids.into(), timestamp(recorded_at).into()],
        )?;
        let mut added = Vec::new();
        for stretch in life {
            added.push(self.add(client, stretch, recorded_at)?);
        }
        let change = Change {
            action,
            object: "subscription",
            object_id: self.id.to_string(),
            old: list(superseded.iter().map(|row| &*row.json)),
            new: list(added.iter().map(|json| &**json)),
            reason,
        };
        audit::record(client, self.account.chain(), &[change])?;
        Ok(true)
    }

    fn add(&self, client: &mut SpiClient<'_>, stretch: Stretch<Terms>, recorded_at: Time) -> Result<Box<RawValue>, Error> {
        let terms = stretch.terms;
        let inserted = client.update(
            "INSERT INTO entitlements.subscriptions AS subscription
                    (id, account_id, plan_id, plan_version_id, status, quantity, starts_at, ends_at, term_starts_at, grace_until,
                     source, source_ref, reason, metadata, recorded_at, recorded_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14::pg_catalog.jsonb, $15, $16)
             RETURNING pg_catalog.to_jsonb(subscription)::pg_catalog.text",
            None,
            &[
                self.id.into(),
                self.account.id.into(),
                terms.plan_id.into(),
                terms.version_id.into(),
                stretch.status.as_str().into(),
                terms.quantity.into(),
                timestamp(stretch.starts_at).into(),
                timestamp(stretch.ends_at).into(),
                timestamp(stretch.term_starts_at).into(),
                stretch.grace_until.map(timestamp).into(),
                terms.source.into(),
                terms.source_ref.into(),
                terms.reason.into(),
                terms.metadata.into(),
                timestamp(recorded_at).into(),
                Actor::current().role.into(),
            ],
        )?;
        Ok(raw(inserted.first().get_one()?.expect("an inserted row")))
    }

    fn refusal(&self, error: TimelineError) -> Error {
        let end = term_end(&self.life());
        let conflict =
            |hint: &str| Error::Conflict { message: format!("subscription {}: {error}", self.id), hint: hint.to_owned() };
        match error {
            TimelineError::Ended => conflict("Renew it with entitlements.renew_subscription, or subscribe anew."),
            TimelineError::OpenEnded => {
                conflict("Give it an end with entitlements.change_subscription or end_subscription.")
            }
            TimelineError::GraceTooEarly => Error::argument("grace_until", "it is not later than the moment of the change"),
            TimelineError::EndTooEarly => Error::InvalidArgument {
                argument: "ends_at",
                fault: "it is not later than the moment of the change".to_owned(),
                hint: Some("To end the subscription use entitlements.end_subscription.".to_owned()),
            },
            TimelineError::EndTooLate => Error::InvalidArgument {
                argument: "ends_at",
                fault: format!("it is later than the subscription's end, {}", timestamp(end).to_iso_string()),
                hint: Some("To make it last longer use entitlements.renew_subscription.".to_owned()),
            },
            TimelineError::TermTooShort { starts_at } => Error::argument(
                "until",
                format!("it is not later than the start of the new term, {}", timestamp(starts_at).to_iso_string()),
            ),
        }
    }
}

/// A JSON array of the rows; None if there are none.
fn list<'a>(rows: impl Iterator<Item = &'a RawValue>) -> Option<Box<RawValue>> {
    let rows: Vec<&str> = rows.map(RawValue::get).collect();
    (!rows.is_empty()).then(|| raw(format!("[{}]", rows.join(","))))
}

fn read(row: &SpiHeapTupleData<'_>) -> Result<Row, Error> {
    let time = |column| present_time(row, column);
    Ok(Row {
        row_id: present(row, 1)?,
        stretch: Stretch {
            status: parse_status(&present::<String>(row, 4)?)?,
            starts_at: time(6)?,
            ends_at: time(7)?,
            term_starts_at: time(8)?,
            grace_until: row.get::<TimestampWithTimeZone>(9)?.map(Time::from),
            terms: Terms {
                plan_id: present(row, 2)?,
                version_id: row.get(3)?,
                quantity: present(row, 5)?,
                source: present(row, 10)?,
                source_ref: row.get(11)?,
                reason: row.get(12)?,
                metadata: row.get(13)?,
            },
        },
        recorded_at: time(14)?,
        json: raw(present(row, 15)?),
    })
}
