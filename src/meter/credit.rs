//! Credits: amounts beside what plans allow, granted and taken back by operators.
//!
//! What is voided is gone with the commit: the counter of the credit is written anew under all its locks, so whoever looked at
//! it before looks again and finds the credit gone, and what the function returns is exactly what nobody has used. Who
//! opens a window of a credit locks the credit's row, so no counter comes up in between.
//!
//! Where overage is allowed, what was used beyond the plan's allowance is a debt. The next credit settles it in the same way:
//! units move from the plan's counter to the credit's, both held until the transaction ends.

use super::consume::{Request, Round, Rounds, Subject};
use super::counter::{self, Counter};
use super::functions::units;
use super::look::{Charge, Pool, lapsed};
use super::rollover;
use super::write::sql_amount;
use crate::accounts::account::{Account, raw};
use crate::accounts::arguments::{
    self, required, required_moment, required_source, required_text, source_name, timestamp, transaction_time,
};
use crate::accounts::feature::Feature;
use crate::audit::{self, Change};
use crate::check::memo::MEMO;
use crate::error::Error;
use crate::pg::error::or_raise;
use crate::pg::number::AmountArgument;
use crate::pg::session::{Actor, connect_to_change};
use crate::pg::snapshot::statement_time;
use crate::pg::subtransaction::upsert;
use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::catalog::Overage;
use entitlements_model::kind::Kind;
use entitlements_model::time::{FOREVER, Time};
use pgrx::AnyNumeric;
use pgrx::datum::Interval;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::value::RawValue;

#[expect(clippy::too_many_arguments, reason = "those of the SQL function")]
#[pg_extern(sql = false)]
fn grant_credit(
    account: Option<&str>,
    feature: Option<&str>,
    amount: Option<AmountArgument>,
    reason: Option<&str>,
    expires_at: Option<TimestampWithTimeZone>,
    priority: Option<i32>,
    starts_at: Option<TimestampWithTimeZone>,
    period: Option<Interval>,
    source: Option<&str>,
    source_ref: Option<&str>,
) -> i64 {
    or_raise(
        connect_to_change(|client| {
            let grant = Grant {
                feature: required_text("feature", feature)?,
                amount: units("amount", amount)?,
                reason: required_text("reason", reason)?,
                expires_at: expires_at.map_or(FOREVER, Time::from),
                priority: required("priority", priority)?,
                starts_at: starts_at.map(|starts_at| required_moment("starts_at", Some(starts_at))).transpose()?,
                period: period.map(|length| arguments::period("period", length)).transpose()?,
                source: required_source(source)?,
                source_ref: source_name("source_ref", source_ref)?,
            };
            if grant.source == rollover::SOURCE {
                return Err(Error::argument("source", format!("{} is what carried allowances have", rollover::SOURCE)));
            }
            grant.make(client, account)
        })
        .and_then(|made| {
            if made.is_new {
                settle_debt(required("account", account)?, required("feature", feature)?, made.id)?;
            }
            Ok(made.id)
        }),
    )
}

/// Grants units that a source has for the account until a time, as a credit of its own name.
pub fn grant_from(
    client: &mut SpiClient<'_>,
    account: &str,
    feature: &str,
    amount: Amount,
    expires_at: Time,
    (source, source_ref): (&str, &str),
) -> Result<i64, Error> {
    let reason = format!("{source} {source_ref}");
    let (source_ref, reason) = (Some(source_ref), reason.as_str());
    let (priority, starts_at, period) = (PRIORITY, None, None);
    let made = Grant { feature, amount, reason, expires_at, priority, starts_at, period, source, source_ref }
        .make(client, Some(account))?;
    if made.is_new {
        settle_debt(account, feature, made.id)?;
    }
    Ok(made.id)
}

/// Of credits that say nothing else.
pub const PRIORITY: i32 = 100;

/// What was asked for, checked one argument at a time.
struct Grant<'a> {
    feature: &'a str,
    amount: Amount,
    reason: &'a str,
    expires_at: Time,
    priority: i32,
    /// None: now.
    starts_at: Option<Time>,
    period: Option<Interval>,
    source: &'a str,
    source_ref: Option<&'a str>,
}

struct Made {
    id: i64,
    is_new: bool,
}

impl Grant<'_> {
    fn make(self, client: &mut SpiClient<'_>, account: Option<&str>) -> Result<Made, Error> {
        let account = Account::take(client, account)?;
        let feature = Feature::find(client, self.feature)?;
        if !matches!(feature.kind, Kind::Quota | Kind::Allocation) {
            let needed = "a quota or an allocation";
            return Err(Error::WrongKind { feature: feature.key, kind: feature.kind, needed });
        }
        let starts_at = self.starts_at.unwrap_or_else(transaction_time);
        if self.expires_at <= starts_at {
            return Err(Error::argument("expires_at", "it is not after starts_at"));
        }
        let inserted = upsert(
            client,
            c"credits",
            "INSERT INTO entitlements.credits AS credit
                    (account_id, feature_id, amount, priority, starts_at, expires_at, period, source, source_ref, reason, created_by, recorded_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, pg_catalog.now())
             ON CONFLICT (source, source_ref) WHERE source_ref IS NOT NULL DO NOTHING
             RETURNING id, pg_catalog.to_jsonb(credit)::pg_catalog.text",
            &[
                account.id.into(),
                feature.id.into(),
                sql_amount(self.amount).into(),
                self.priority.into(),
                timestamp(starts_at).into(),
                timestamp(self.expires_at).into(),
                self.period.into(),
                self.source.into(),
                self.source_ref.into(),
                self.reason.into(),
                Actor::current().role.into(),
            ],
        )?;
        if inserted.is_empty() {
            return self.known(client, &account, &feature);
        }
        let (id, new) = inserted.first().get_two::<i64, String>()?;
        let id = id.expect("a key column");
        let change = Change {
            action: "grant",
            object: "credit",
            object_id: id.to_string(),
            old: None,
            new: new.map(raw),
            reason: Some(self.reason.to_owned()),
        };
        audit::record(client, account.chain(), &[change])?;
        Ok(Made { id, is_new: true })
    }

    /// The credit that the source has made of the same name. NE009 if it is another one.
    fn known(self, client: &mut SpiClient<'_>, account: &Account, feature: &Feature) -> Result<Made, Error> {
        let found = client.update(
            "SELECT id, account_id = $3 AND feature_id = $4 AND amount = $5 AND priority = $6 AND expires_at = $7
                        AND ($8 IS NULL OR starts_at = $8) AND period IS NOT DISTINCT FROM $9
               FROM entitlements.credits WHERE source = $1 AND source_ref = $2",
            Some(1),
            &[
                self.source.into(),
                self.source_ref.into(),
                account.id.into(),
                feature.id.into(),
                sql_amount(self.amount).into(),
                self.priority.into(),
                timestamp(self.expires_at).into(),
                self.starts_at.map(timestamp).into(),
                self.period.into(),
            ],
        )?;
        if found.is_empty() {
            // Cut or erased just now.
            return Err(Error::Serialization);
        }
        match found.first().get_two::<i64, bool>()? {
            (Some(id), Some(true)) => Ok(Made { id, is_new: false }),
            (id, _) => Err(Error::Conflict {
                message: format!("the source has made credit {} of this name with other arguments", id.unwrap_or_default()),
                hint: "A source_ref names one credit. Give another one another name, or repeat the call as it was."
                    .to_owned(),
            }),
        }
    }
}

/// Moves what was used beyond the plan's allowance to a credit that this transaction has just made, as far as it goes.
fn settle_debt(account: &str, feature: &str, credit: i64) -> Result<(), Error> {
    let request = Request { account: Some(account), feature, n: Amount::ONE, whole: true, entry: None };
    let mut moved = None;
    Rounds::without_lapsed().run(Subject::Request(request), |turn| {
        let look = turn.look(request)?;
        let of_credit = |charge: &&Charge| charge.pools.iter().any(|pool| pool.key.credit == credit);
        let Some(charge) = look.charges.iter().find(of_credit) else { return Ok(Round::Finished(())) };
        let plan = charge.pools.iter().find(|pool| pool.is_plan());
        let own = charge.pools.iter().find(|pool| pool.key.credit == credit);
        let (Some(plan), Some(own)) = (plan, own) else { return Ok(Round::Finished(())) };
        let (Allowance::Finite(allowance), Allowance::Finite(amount)) = (plan.allowance, own.allowance) else {
            return Ok(Round::Finished(()));
        };
        if charge.feature.overage != Overage::Allow || plan.key.account != own.key.account {
            return Ok(Round::Finished(()));
        }
        let Some(units) = moved else {
            if turn.open_window(plan, charge)? {
                return turn.again();
            }
            if plan.lapsed > Amount::ZERO {
                let counter = plan.counter.as_ref().map_or(0, |counter| counter.id);
                turn.sweep(counter)?;
                return turn.again();
            }
            let settled = |used: Amount| used.saturating_sub(used.saturating_sub(allowance).min(amount));
            let Some(before) = turn.restate(plan, settled)? else { return turn.again() };
            let debt = before.saturating_sub(settled(before));
            moved = Some(debt);
            return Ok(if debt == Amount::ZERO { Round::Finished(()) } else { Round::Again });
        };
        if turn.open_window(own, charge)? {
            return turn.again();
        }
        match turn.restate(own, |_| units)? {
            Some(_) => Ok(Round::Finished(())),
            None => turn.again(),
        }
    })
}

#[pg_extern(sql = false)]
fn void_credit(id: Option<i64>, reason: Option<&str>) -> AnyNumeric {
    or_raise(void(id, reason).map(sql_amount))
}

/// A credit that was just voided.
struct Voided {
    account: Account,
    old: Box<RawValue>,
    new: Box<RawValue>,
    amount: Amount,
    expires_at: Time,
    counters: Vec<i64>,
}

/// What `void_credit` does.
pub fn void(id: Option<i64>, reason: Option<&str>) -> Result<Amount, Error> {
    let (id, reason) = (required("id", id)?, required_text("reason", reason)?);
    let Some(voided) = connect_to_change(|client| Voided::mark(client, id, reason))? else { return Ok(Amount::ZERO) };
    let now = statement_time();
    let mut left = if now < voided.expires_at { voided.amount } else { Amount::ZERO };
    for counter in &voided.counters {
        let used = Rounds::new().run(Subject::Counter(*counter), |turn| {
            let Some(counter) = Counter::by_id(&turn.relations, turn.snapshot, *counter) else {
                return Ok(Round::Finished(Amount::ZERO));
            };
            // What expired reservations hold was used by nobody.
            if MEMO.with(|memo| memo.read(|reader| Ok(lapsed(reader, counter.id, now))))? > Amount::ZERO {
                turn.sweep(counter.id)?;
                return turn.again();
            }
            let covers_now = counter.window.contains(now);
            match turn.restate(&Pool::of_counter(counter), |used| used)? {
                Some(used) => Ok(Round::Finished(if covers_now { used } else { Amount::ZERO })),
                None => turn.again(),
            }
        })?;
        left = left.saturating_sub(used);
    }
    connect_to_change(|client| {
        let change = Change {
            action: "void",
            object: "credit",
            object_id: id.to_string(),
            old: Some(voided.old),
            new: Some(voided.new),
            reason: Some(reason.to_owned()),
        };
        audit::record(client, voided.account.chain(), &[change])
    })?;
    Ok(left)
}

impl Voided {
    /// None if it was voided before.
    fn mark(client: &mut SpiClient<'_>, id: i64, reason: &str) -> Result<Option<Self>, Error> {
        let found = client.update("SELECT account_id FROM entitlements.credits WHERE id = $1", Some(1), &[id.into()])?;
        if found.is_empty() {
            return Err(Error::UnknownRow { object: "credit", id: id.to_string() });
        }
        let account = Account::take_by_id(client, found.first().get_one()?.expect("a NOT NULL column"))?;
        let old = client.update(
            "SELECT pg_catalog.to_jsonb(credit)::pg_catalog.text FROM entitlements.credits AS credit
              WHERE id = $1 AND voided_at IS NULL FOR NO KEY UPDATE",
            Some(1),
            &[id.into()],
        )?;
        if old.is_empty() {
            return Ok(None);
        }
        let old = raw(old.first().get_one()?.expect("the row"));
        let new = client.update(
            "UPDATE entitlements.credits AS credit SET voided_at = pg_catalog.now(), voided_by = $2, void_reason = $3 WHERE id = $1
             RETURNING pg_catalog.to_jsonb(credit)::pg_catalog.text, amount, expires_at",
            None,
            &[id.into(), Actor::current().role.into(), reason.into()],
        )?;
        let (new, amount, expires_at) = new.first().get_three::<String, AnyNumeric, TimestampWithTimeZone>()?;
        let mut counters = Vec::new();
        let unfinished = client.update(
            "SELECT counter.id FROM entitlements.counters AS counter
               JOIN entitlements.credits AS credit ON credit.account_id = counter.account_id
                    AND credit.feature_id = counter.feature_id AND credit.id = counter.credit_id
              WHERE credit.id = $1 AND counter.window_end > $2 ORDER BY counter.window_start",
            None,
            &[id.into(), timestamp(statement_time()).into()],
        )?;
        for row in unfinished {
            counters.extend(row.get::<i64>(1)?);
        }
        Ok(Some(Self {
            account,
            old,
            new: raw(new.expect("the row")),
            amount: counter::amount(&amount.expect("a NOT NULL column").to_string()),
            expires_at: expires_at.map_or(FOREVER, Time::from),
            counters,
        }))
    }
}
