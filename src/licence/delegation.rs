//! Delegation: units of the vendor's own pools that a site has for a time.
//!
//! The vendor takes the units as if they were consumed, and they are stated in bundles for the site until the lease ends. The
//! site has them as a credit that ends with the lease, whatever arrives or does not; a return voids the credit and signs what
//! nobody had used. The vendor gives back what was signed, once. Without a return it has the units of an allocation again only once
//! the lease is over by a margin for clocks that differ; of a quota none, since the site may have used them up.

use super::issue::name;
use super::own_name;
use super::signing::{signing_key, trusted_keys};
use crate::accounts::account::Account;
use crate::accounts::arguments::{required, required_text, timestamp};
use crate::audit::{self, Change};
use crate::bundle::deployment::Deployment;
use crate::bundle::source_of;
use crate::error::{Error, RefusedBundle};
use crate::meter::consume::{Entry, Request, give_back_to, take};
use crate::meter::credit;
use crate::meter::functions::{feature_key, or_denial, units};
use crate::meter::reservation::end_of;
use crate::meter::write::sql_amount;
use crate::pg::error::or_raise;
use crate::pg::number::AmountArgument;
use crate::pg::session::{Actor, connect_to_change};
use crate::pg::snapshot::statement_time;
use crate::row::{present, present_time};
use entitlements_bundle::{
    Bundle, Delegation, DelegationReturn, NumericDate, Purpose, Refusal, authenticate_as, judge_return,
};
use entitlements_model::amount::Amount;
use entitlements_model::key::{AccountKey, FeatureKey};
use entitlements_model::time::Time;
use pgrx::AnyNumeric;
use pgrx::datum::Interval;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};

/// How long after the end of a lease its units are still the site's, for clocks that differ: an hour.
const MARGIN: Time = 3_600_000_000;

const SECOND: Time = 1_000_000;

fn amount(row: &SpiHeapTupleData<'_>, column: usize) -> Result<Amount, Error> {
    let amount: AnyNumeric = present(row, column)?;
    amount.to_string().parse().map_err(|_| Error::Internal("a delegation has no amount".to_owned()))
}

fn unknown(id: i64) -> Error {
    Error::UnknownRow { object: "delegation", id: id.to_string() }
}

#[pg_extern(sql = false)]
fn delegate(
    account: Option<&str>,
    site: Option<&str>,
    feature: Option<&str>,
    amount: Option<AmountArgument>,
    lease: Option<Interval>,
    reason: Option<&str>,
) -> i64 {
    or_raise(hand_out(account, site, feature, amount, lease, reason))
}

fn hand_out(
    account: Option<&str>,
    site: Option<&str>,
    feature: Option<&str>,
    amount: Option<AmountArgument>,
    lease: Option<Interval>,
    reason: Option<&str>,
) -> Result<i64, Error> {
    let (site, reason) = (name("site", site)?, required_text("reason", reason)?);
    let (feature, n) = (feature_key(feature)?, units("amount", amount)?);
    // Documents have whole seconds.
    let ends_at = end_of(lease)?.div_euclid(SECOND) * SECOND;
    if ends_at <= statement_time() {
        return Err(Error::argument("lease", "it is shorter than a second"));
    }
    let taken = connect_to_change(|client| Account::take(client, account))?;
    let entry = Some(Entry { action: "delegate", idempotency_key: None, metadata: None });
    let (decision, parts) = take(Request { account, feature, n, whole: true, entry }, true)?;
    or_denial(decision)?;
    let (counters, amounts): (Vec<i64>, Vec<AnyNumeric>) =
        parts.into_iter().map(|(counter, part)| (counter, sql_amount(part))).unzip();
    connect_to_change(|client| {
        let inserted = client.update(
            "INSERT INTO entitlements.delegations
                    (account_id, feature_id, site, amount, lease_ends_at, reason, delegated_at, delegated_by)
             SELECT $1, feature.id, $3, $4, $5, $6, pg_catalog.now(), $7 FROM entitlements.features AS feature WHERE feature.key = $2
             RETURNING id",
            None,
            &[
                taken.id.into(),
                feature.into(),
                site.into(),
                sql_amount(n).into(),
                timestamp(ends_at).into(),
                reason.into(),
                Actor::current().role.into(),
            ],
        )?;
        let id: i64 = inserted.first().get_one()?.ok_or_else(|| Error::Internal("a delegation has no id".to_owned()))?;
        client.update(
            "INSERT INTO entitlements.delegation_parts (delegation_id, counter_id, amount)
             SELECT $1, part.counter_id, pg_catalog.sum(part.amount)
               FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) AS part (counter_id, amount) GROUP BY part.counter_id",
            None,
            &[id.into(), counters.into(), amounts.into()],
        )?;
        let new = json!({ "site": site, "feature": feature, "amount": n.to_string(), "lease_ends_at": NumericDate::from_time(ends_at).seconds() });
        note(client, &taken, "delegate", id.to_string(), new, Some(reason))?;
        Ok(id)
    })
}

fn note(
    client: &mut SpiClient<'_>,
    account: &Account,
    action: &'static str,
    object_id: String,
    new: serde_json::Value,
    reason: Option<&str>,
) -> Result<(), Error> {
    let reason = reason.map(str::to_owned);
    let change = Change { action, object: "delegation", object_id, old: None, new: Some(new), reason };
    audit::record(client, account.chain(), &[change])
}

/// What a bundle for the site says of these accounts, or of all.
pub fn delegations(
    client: &SpiClient<'_>,
    site: &str,
    accounts: Option<Vec<String>>,
) -> Result<Vec<(String, Delegation)>, Error> {
    const OPEN: &str = "SELECT account.key, delegation.id, feature.key, delegation.amount, delegation.lease_ends_at
           FROM entitlements.delegations AS delegation
           JOIN entitlements.accounts AS account ON account.id = delegation.account_id
           JOIN entitlements.features AS feature ON feature.id = delegation.feature_id
          WHERE delegation.site = $1 AND delegation.returned_at IS NULL AND delegation.reclaimed_at IS NULL
            AND delegation.lease_ends_at > pg_catalog.statement_timestamp() AND account.erased_at IS NULL
            AND ($2 IS NULL OR account.key = ANY ($2))
          ORDER BY delegation.id";
    let mut stated = Vec::new();
    for row in client.select(OPEN, None, &[site.into(), accounts.into()])? {
        let feature: String = present(&row, 3)?;
        let delegation = Delegation {
            id: present(&row, 2)?,
            feature: FeatureKey::parse(&feature).map_err(|fault| Error::Internal(fault.to_string()))?,
            amount: amount(&row, 4)?,
            ends_at: NumericDate::from_time(present::<TimestampWithTimeZone>(&row, 5)?.into()),
        };
        stated.push((present(&row, 1)?, delegation));
    }
    Ok(stated)
}

/// A delegation that a bundle brings and that was not here before.
pub struct Arriving<'b> {
    pub account: &'b AccountKey,
    pub delegation: &'b Delegation,
}

/// A delegation that a bundle brought.
struct Received {
    account: String,
    feature: String,
    amount: Amount,
    ends_at: Time,
    is_returned: bool,
}

impl Received {
    /// From five columns in this order, the first of which is given.
    fn read(row: &SpiHeapTupleData<'_>, first: usize) -> Result<Self, Error> {
        Ok(Self {
            account: present(row, first)?,
            feature: present(row, first + 1)?,
            amount: amount(row, first + 2)?,
            ends_at: present_time(row, first + 3)?,
            is_returned: present(row, first + 4)?,
        })
    }

    fn is_as_stated(&self, account: &AccountKey, stated: &Delegation) -> bool {
        let (amount, ends_at) = (stated.amount, stated.ends_at.time());
        self.account == account.as_str()
            && self.feature == stated.feature.as_str()
            && (self.amount, self.ends_at) == (amount, ends_at)
    }
}

fn stated(bundle: &Bundle) -> impl Iterator<Item = (&AccountKey, &Delegation)> {
    bundle.accounts.iter().flat_map(|(key, account)| account.delegations.iter().map(move |delegation| (key, delegation)))
}

/// What a bundle delegates to this site beyond what is here and what is over. A bundle that brings back what ended here is refused;
/// what an erased account had is over, and that it is still stated is not refused, for its account is nobody's any more.
pub fn arriving<'b>(client: &SpiClient<'_>, bundle: &'b Bundle) -> Result<Vec<Arriving<'b>>, Error> {
    const KNOWN: &str = "SELECT delegation.id, account.key, feature.key, delegation.amount, delegation.lease_ends_at, delegation.returned_at IS NOT NULL,
                account.erased_at IS NOT NULL
           FROM entitlements.received_delegations AS delegation
           JOIN entitlements.accounts AS account ON account.id = delegation.account_id
           JOIN entitlements.features AS feature ON feature.id = delegation.feature_id
          WHERE delegation.issuer = $1 AND delegation.id = ANY ($2)";
    let ids: Vec<i64> = stated(bundle).map(|(_, delegation)| delegation.id).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut known: HashMap<i64, (Received, bool)> = HashMap::new();
    for row in client.select(KNOWN, None, &[bundle.issuer.as_str().into(), ids.into()])? {
        known.insert(present(&row, 1)?, (Received::read(&row, 2)?, present(&row, 7)?));
    }
    let now = Deployment::read(client)?.clock().time();
    let mut arriving = Vec::new();
    for (account, delegation) in stated(bundle) {
        let ended = |how: &str| refused("delegation_ended", format!("delegation {} {how}", delegation.id));
        match known.get(&delegation.id) {
            Some((_, true)) => {}
            Some((received, _)) if received.is_returned => return Err(ended("was returned")),
            Some((received, _)) if !received.is_as_stated(account, delegation) => {
                return Err(ended("was on other terms before"));
            }
            Some(_) => {}
            None if delegation.ends_at.time() <= now => {}
            None => arriving.push(Arriving { account, delegation }),
        }
    }
    refuse_taken_names(client, &bundle.issuer, &arriving)?;
    Ok(arriving)
}

fn refused(reason: &'static str, message: String) -> Error {
    Error::BundleRefused(Box::new(RefusedBundle::new(reason, message, Vec::new())))
}

/// A delegation becomes a credit of its own name. Somebody here may have made another one of that name.
fn refuse_taken_names(client: &SpiClient<'_>, issuer: &str, arriving: &[Arriving<'_>]) -> Result<(), Error> {
    const TAKEN: &str = "SELECT credit.source_ref, account.key, feature.key, credit.amount, credit.expires_at,
                credit.priority <> $3 OR credit.period IS NOT NULL
           FROM entitlements.credits AS credit
           JOIN entitlements.accounts AS account ON account.id = credit.account_id
           JOIN entitlements.features AS feature ON feature.id = credit.feature_id
          WHERE credit.source = $1 AND credit.source_ref = ANY ($2)";
    let names: Vec<String> = arriving.iter().map(|arriving| arriving.delegation.id.to_string()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let named: HashMap<&str, &Arriving<'_>> = names.iter().map(String::as_str).zip(arriving).collect();
    for row in client.select(TAKEN, None, &[source_of(issuer).into(), names.clone().into(), credit::PRIORITY.into()])? {
        let (name, differs): (String, bool) = (present(&row, 1)?, present(&row, 6)?);
        let credit = Received::read(&row, 2)?;
        let is_same = named
            .get(name.as_str())
            .is_some_and(|Arriving { account, delegation }| credit.is_as_stated(account, delegation));
        if differs || !is_same {
            return Err(refused(
                "delegation_taken",
                format!("a credit that was granted here has the name of delegation {name}"),
            ));
        }
    }
    Ok(())
}

/// Makes what an accepted bundle brings count here.
pub fn receive(client: &mut SpiClient<'_>, issuer: &str, arriving: &[Arriving<'_>]) -> Result<(), Error> {
    let source = source_of(issuer);
    for Arriving { account, delegation } in arriving {
        let (id, name) = (delegation.id, delegation.id.to_string());
        let (feature, ends_at) = (delegation.feature.as_str(), delegation.ends_at.time());
        let credit = credit::grant_from(client, account.as_str(), feature, delegation.amount, ends_at, (&source, &name))?;
        client.update(
            "INSERT INTO entitlements.received_delegations (issuer, id, account_id, feature_id, amount, lease_ends_at, credit_id, received_at)
             SELECT $1, $2, credit.account_id, credit.feature_id, credit.amount, credit.expires_at, credit.id, pg_catalog.now()
               FROM entitlements.credits AS credit WHERE credit.id = $3",
            None,
            &[issuer.into(), id.into(), credit.into()],
        )?;
    }
    Ok(())
}

/// What counts here as delegated by the bundle's issuer but is not what was delegated, and what is missing.
///
/// A credit has to be as it was received, as the audit log has it, and as the bundle states it if it does; one that a bundle
/// before this one brought is not stated any more. What the site itself voided is none of it.
pub fn faults(client: &SpiClient<'_>, bundle: &Bundle) -> Result<Option<String>, Error> {
    const LIVE: &str = "SELECT credit.id, delegation.id, account.key, feature.key, credit.amount, credit.expires_at, delegation.returned_at IS NOT NULL,
                coalesce((delegation.account_id, delegation.feature_id, delegation.amount, delegation.lease_ends_at)
                           = (credit.account_id, credit.feature_id, credit.amount, credit.expires_at)
                         AND pg_catalog.to_jsonb(credit) @> (
                             SELECT (entry.content -> 'new')::pg_catalog.jsonb FROM entitlements.audit_log AS entry
                              WHERE entry.chain_id = credit.account_id AND entry.object = 'credit' AND entry.object_id = credit.id::pg_catalog.text
                              ORDER BY entry.seq DESC LIMIT 1), false)
           FROM entitlements.credits AS credit
           JOIN entitlements.accounts AS account ON account.id = credit.account_id
           JOIN entitlements.features AS feature ON feature.id = credit.feature_id
           LEFT JOIN entitlements.received_delegations AS delegation ON delegation.credit_id = credit.id AND delegation.issuer = $2
          WHERE (credit.source = $1 OR delegation.issuer = $2) AND credit.voided_at IS NULL AND credit.expires_at > pg_catalog.statement_timestamp()
          ORDER BY credit.id";
    const VOIDED: &str = "SELECT delegation.id FROM entitlements.received_delegations AS delegation
           JOIN entitlements.credits AS credit ON credit.id = delegation.credit_id
          WHERE delegation.issuer = $1 AND delegation.id = ANY ($2) AND credit.voided_at IS NOT NULL";
    let issuer = bundle.issuer.as_str();
    let now = Deployment::read(client)?.clock().time();
    let is_open = |(_, delegation): &(&AccountKey, &Delegation)| delegation.ends_at.time() > now;
    let mut missing: BTreeMap<i64, (&AccountKey, &Delegation)> =
        stated(bundle).filter(is_open).map(|(account, delegation)| (delegation.id, (account, delegation))).collect();
    let mut wrong: Vec<String> = Vec::new();
    for row in client.select(LIVE, None, &[source_of(issuer).into(), issuer.into()])? {
        let Some(id) = row.get::<i64>(2)? else {
            wrong.push(format!("credit {}", present::<i64>(&row, 1)?));
            continue;
        };
        let received = Received::read(&row, 3)?;
        let is_stated = missing.remove(&id).is_none_or(|(account, stated)| received.is_as_stated(account, stated));
        if received.is_returned || !is_stated || !present::<bool>(&row, 8)? {
            wrong.push(format!("delegation {id}"));
        }
    }
    if !missing.is_empty() {
        let ids: Vec<i64> = missing.keys().copied().collect();
        for row in client.select(VOIDED, None, &[issuer.into(), ids.into()])? {
            missing.remove(&present::<i64>(&row, 1)?);
        }
        wrong.extend(missing.keys().map(|id| format!("delegation {id}")));
    }
    let count = wrong.len();
    Ok(wrong.first().map(|first| format!("{count} credits are not what was delegated, such as {first}")))
}

/// Ends all that an issuer has delegated to this site, when its word is worth nothing any more.
pub fn end_all(client: &mut SpiClient<'_>, issuer: &str, reason: &str) -> Result<(), Error> {
    const LIVE: &str = "SELECT credit.id FROM entitlements.received_delegations AS delegation
           JOIN entitlements.credits AS credit ON credit.id = delegation.credit_id
          WHERE delegation.issuer = $1 AND credit.voided_at IS NULL ORDER BY credit.account_id, credit.id";
    let mut credits: Vec<i64> = Vec::new();
    for row in client.update(LIVE, None, &[issuer.into()])? {
        credits.extend(row.get::<i64>(1)?);
    }
    credits.into_iter().try_for_each(|id| credit::void(Some(id), Some(reason)).map(|_| ()))
}

#[pg_extern(sql = false)]
fn return_delegation(id: Option<i64>, issuer: Option<&str>) -> String {
    or_raise(connect_to_change(|client| {
        let id = required("id", id)?;
        const FIND: &str = "SELECT issuer, account_id FROM entitlements.received_delegations WHERE id = $1 AND issuer = coalesce($2, issuer)";
        let found = client.update(FIND, Some(2), &[id.into(), issuer.into()])?;
        if found.len() > 1 {
            return Err(Error::argument("issuer", "it is NULL, and several have delegated under this number"));
        }
        let row = found.into_iter().next().ok_or_else(|| unknown(id))?;
        let (issuer, account): (String, i64) = (present(&row, 1)?, present(&row, 2)?);
        // Of an erased account too: what nobody can use is the issuer's again.
        let account = Account { id: account };
        audit::take_turn(client, account.chain())?;
        give_up(client, id, issuer, &account)
    }))
}

/// Gives all up that an account has which is being erased, when its seats and reservations have ended. `return_delegation` hands
/// the documents out.
pub fn return_all(client: &mut SpiClient<'_>, account: &Account) -> Result<(), Error> {
    const OPEN: &str = "SELECT issuer, id FROM entitlements.received_delegations
          WHERE account_id = $1 AND returned_at IS NULL AND lease_ends_at > pg_catalog.statement_timestamp() ORDER BY issuer, id";
    let mut open: Vec<(String, i64)> = Vec::new();
    for row in client.update(OPEN, None, &[account.id.into()])? {
        open.push((present(&row, 1)?, present(&row, 2)?));
    }
    if open.is_empty() {
        return Ok(());
    }
    // Erasing does not wait for a key.
    if own_name(&Deployment::read(client)?).and_then(|_| signing_key(client)).is_err() {
        pgrx::warning!("the units that were delegated to the account are not given back: this database cannot sign");
        return Ok(());
    }
    open.into_iter().try_for_each(|(issuer, id)| give_up(client, id, issuer, account).map(|_| ()))
}

/// The return, signed; one that was made before as it was.
fn give_up(client: &mut SpiClient<'_>, id: i64, issuer: String, account: &Account) -> Result<String, Error> {
    const LOCK: &str = "SELECT delegation.credit_id, delegation.return_document, credit.voided_at IS NOT NULL
           FROM entitlements.received_delegations AS delegation
           JOIN entitlements.credits AS credit ON credit.id = delegation.credit_id
          WHERE delegation.issuer = $1 AND delegation.id = $2 FOR NO KEY UPDATE OF delegation";
    let found = client.update(LOCK, Some(1), &[issuer.as_str().into(), id.into()])?;
    let row = found.into_iter().next().ok_or_else(|| unknown(id))?;
    if let Some(document) = row.get::<String>(2)? {
        return Ok(document);
    }
    let deployment = Deployment::read(client)?;
    let reason = format!("delegation {id} is returned");
    // What was unused of a credit that was voided before nobody can tell any more.
    let unused = match present(&row, 3)? {
        true => Amount::ZERO,
        false => credit::void(Some(present(&row, 1)?), Some(&reason))?,
    };
    let key = signing_key(client)?;
    let document = DelegationReturn {
        issuer: own_name(&deployment)?.to_owned(),
        audience: issuer.clone(),
        issued_at: NumericDate::from_time(statement_time()),
        id,
        unused,
    }
    .sign(&key);
    client.update(
        "UPDATE entitlements.received_delegations SET returned_at = pg_catalog.now(), unused = $3, return_document = $4
          WHERE issuer = $1 AND id = $2",
        None,
        &[issuer.as_str().into(), id.into(), sql_amount(unused).into(), document.as_str().into()],
    )?;
    note(client, account, "return", format!("{issuer} {id}"), json!({ "unused": unused.to_string() }), None)?;
    Ok(document)
}

/// A delegation of this vendor's, locked.
struct HandedOut {
    account: Account,
    site: String,
    is_allocation: bool,
    amount: Amount,
    given_back: Amount,
    lease_ends_at: Time,
    returned: bool,
    reclaimed: bool,
}

impl HandedOut {
    fn lock(client: &mut SpiClient<'_>, id: i64) -> Result<Self, Error> {
        const ACCOUNT: &str = "SELECT account_id FROM entitlements.delegations WHERE id = $1";
        let found = client.update(ACCOUNT, Some(1), &[id.into()])?;
        let row = found.into_iter().next().ok_or_else(|| unknown(id))?;
        // Of an erased account too: the units are a parent's, maybe.
        let account = Account { id: present(&row, 1)? };
        audit::take_turn(client, account.chain())?;
        const LOCK: &str = "SELECT delegation.site, feature.kind = 'allocation', delegation.amount, delegation.given_back, delegation.lease_ends_at,
                    delegation.returned_at IS NOT NULL, delegation.reclaimed_at IS NOT NULL
               FROM entitlements.delegations AS delegation
               JOIN entitlements.features AS feature ON feature.id = delegation.feature_id
              WHERE delegation.id = $1 FOR NO KEY UPDATE OF delegation";
        let found = client.update(LOCK, Some(1), &[id.into()])?;
        let row = found.into_iter().next().ok_or_else(|| unknown(id))?;
        Ok(Self {
            account,
            site: present(&row, 1)?,
            is_allocation: present(&row, 2)?,
            amount: amount(&row, 3)?,
            given_back: amount(&row, 4)?,
            lease_ends_at: present::<TimestampWithTimeZone>(&row, 5)?.into(),
            returned: present(&row, 6)?,
            reclaimed: present(&row, 7)?,
        })
    }
}

#[pg_extern(sql = false)]
fn accept_return(document: Option<&str>) -> AnyNumeric {
    or_raise(required_text("document", document).and_then(accept).map(sql_amount))
}

fn accept(document: &str) -> Result<Amount, Error> {
    let (id, unused) = connect_to_change(|client| {
        let trust = trusted_keys(client, Purpose::UsageReport)?;
        let authentic = authenticate_as::<DelegationReturn>(document, &trust)?;
        let deployment = Deployment::read(client)?;
        let returned = judge_return(authentic, own_name(&deployment)?, deployment.clock())?;
        let out = HandedOut::lock(client, returned.id)?;
        if out.site != returned.issuer {
            return Err(Refusal::OtherIssuer { claimed: returned.issuer, signer: out.site }.into());
        }
        if out.returned {
            return Ok((returned.id, Amount::ZERO));
        }
        let unused = returned.unused.min(out.amount.saturating_sub(out.given_back));
        client.update(
            "UPDATE entitlements.delegations SET returned_at = pg_catalog.now(), given_back = given_back + $2 WHERE id = $1",
            None,
            &[returned.id.into(), sql_amount(unused).into()],
        )?;
        let new = json!({ "unused": returned.unused.to_string(), "given_back": unused.to_string() });
        note(client, &out.account, "accept_return", returned.id.to_string(), new, None)?;
        Ok::<_, Error>((returned.id, unused))
    })?;
    give_back(id, unused)?;
    Ok(unused)
}

#[pg_extern(sql = false)]
fn reclaim_delegation(id: Option<i64>) -> AnyNumeric {
    or_raise(required("id", id).and_then(reclaim).map(sql_amount))
}

fn reclaim(id: i64) -> Result<Amount, Error> {
    let back = connect_to_change(|client| {
        let out = HandedOut::lock(client, id)?;
        if out.reclaimed {
            return Ok(Amount::ZERO);
        }
        let free_at = out.lease_ends_at.saturating_add(MARGIN);
        if statement_time() < free_at {
            return Err(Error::Conflict {
                message: format!("the site has the units until {}, and an hour more for clocks that differ", NumericDate::from_time(out.lease_ends_at)),
                hint: "Until then only the site's signed return gives them back: entitlements.return_delegation there, entitlements.accept_return here."
                    .to_owned(),
            });
        }
        let back = if out.is_allocation { out.amount.saturating_sub(out.given_back) } else { Amount::ZERO };
        client.update(
            "UPDATE entitlements.delegations SET reclaimed_at = pg_catalog.now(), given_back = given_back + $2 WHERE id = $1",
            None,
            &[id.into(), sql_amount(back).into()],
        )?;
        note(client, &out.account, "reclaim", id.to_string(), json!({ "given_back": back.to_string() }), None)?;
        Ok::<_, Error>(back)
    })?;
    give_back(id, back)?;
    Ok(back)
}

/// Gives units back to the counters that they were taken from. The delegation is locked. Each holder of a pool was charged for all
/// of them, so of each counter the same share goes back.
fn give_back(id: i64, units: Amount) -> Result<(), Error> {
    if units == Amount::ZERO {
        return Ok(());
    }
    const PARTS: &str = "SELECT part.counter_id, pg_catalog.trunc(part.amount * $2 / delegation.amount, 9)
           FROM entitlements.delegation_parts AS part
           JOIN entitlements.delegations AS delegation ON delegation.id = part.delegation_id
          WHERE part.delegation_id = $1 ORDER BY part.counter_id";
    let parts = connect_to_change(|client| {
        let found = client.update(PARTS, None, &[id.into(), sql_amount(units).into()])?;
        found
            .into_iter()
            .map(|row| Ok::<_, Error>((present(&row, 1)?, amount(&row, 2)?)))
            .collect::<Result<Vec<(i64, Amount)>, _>>()
    })?;
    parts.into_iter().try_for_each(|(counter, part)| give_back_to(counter, part))
}
