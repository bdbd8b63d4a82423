//! Taking over licence files of Keygen, so that its users can move.
//!
//! Which public keys count is decided by `trust_key`: purpose licence, with `keygen:` and the account's id there as the issuer. With
//! the licence's id that is the source of what a file grants here, so that nothing of another source is touched, nor what another
//! licence grants. A file is what its licence states at the time of its issue: what it does not name any more ends, and an older
//! file changes nothing.

use super::exists;
use super::signing::trusted_keys;
use crate::accounts::account::Account;
use crate::accounts::arguments::{required, required_text, source_name, timestamp, transaction_time};
use crate::accounts::feature_override::{self, NewOverride};
use crate::accounts::subscription::{self, NewSubscription, SubscriptionChange, VersionPolicy};
use crate::bundle::deployment::Deployment;
use crate::error::{Error, RefusedBundle};
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use crate::pg::session::{Actor, connect_to_change};
use crate::pg::subtransaction::upsert;
use entitlements_bundle::{KeygenError, KeygenLicence, NumericDate, Purpose, Refusal, open_keygen_file};
use entitlements_model::fault::Fault;
use entitlements_model::json::{self, Json, Limits, Member};
use entitlements_model::kind::{Kind, OverrideMode, Status};
use entitlements_model::time::{FOREVER, Time};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use std::collections::BTreeMap;

/// What issuers of such files begin with.
const ISSUER: &str = "keygen:";

/// What a file grants of one feature.
struct Grant {
    feature: String,
    /// JSON.
    value: String,
}

/// A row of the result.
type Change = (String, String, String, Option<JsonbText>, Option<TimestampWithTimeZone>);

#[expect(clippy::type_complexity, reason = "the columns of the result, which pgrx takes no alias for")]
#[pg_extern(sql = false)]
fn import_licence(
    file: Option<&str>,
    account: Option<&str>,
    key: Option<&str>,
    mapping: Option<JsonbText>,
    plan: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(action, String),
        name!(object, String),
        name!(key, String),
        name!(value, Option<JsonbText>),
        name!(expires_at, Option<TimestampWithTimeZone>),
    ),
> {
    TableIterator::new(or_raise(connect_to_change(|client| import(client, file, account, key, mapping, plan))))
}

fn import(
    client: &mut SpiClient<'_>,
    file: Option<&str>,
    account: Option<&str>,
    licence_key: Option<&str>,
    mapping: Option<JsonbText>,
    plan: Option<&str>,
) -> Result<Vec<Change>, Error> {
    let file = required_text("file", file)?;
    let key = required("account", account)?;
    let mapping = read_mapping(mapping)?;
    let (issuer, licence) = open(client, file, licence_key)?;
    let source = format!("{issuer}:{}", licence.id);
    source_name("file", Some(&source))?;
    let clock = Deployment::read(client)?.clock();
    licence.in_time(clock)?;
    let ends_at = licence.licence_ends.unwrap_or(FOREVER);
    if matches!(licence.status.as_str(), "SUSPENDED" | "BANNED") {
        return Err(refused("revoked", format!("the licence is {}", licence.status.to_lowercase()), Vec::new()));
    }
    if ends_at <= clock.time() {
        return Err(Refusal::Expired(NumericDate::from_time(ends_at)).into());
    }
    let until = ends_at.min(licence.expires.unwrap_or(FOREVER));
    let grants = grants(client, &licence, &mapping, plan.is_some())?;
    let account = Account::take_or_create(client, Some(key))?;
    let subscription = note(client, &issuer, &licence, &account, until)?;
    let reason = format!("licence {}", licence.id);
    let import = Import { issuer: &issuer, source: &source, licence: &licence, key, reason: &reason, until };
    let mut changes = import.clear(client, &account, &grants)?;
    for grant in &grants {
        changes.extend(import.grant(client, &account, grant)?);
    }
    if let Some(plan) = plan {
        changes.extend(import.subscribe(client, plan, subscription)?);
    }
    Ok(changes)
}

fn refused(reason: &'static str, message: impl Into<String>, faults: Vec<Fault>) -> Error {
    Error::BundleRefused(Box::new(RefusedBundle::new(reason, message, faults)))
}

/// What the file says, and the issuer whose key signed it.
fn open(client: &SpiClient<'_>, file: &str, licence_key: Option<&str>) -> Result<(String, KeygenLicence), Error> {
    let now = crate::pg::snapshot::statement_time();
    let trust = trusted_keys(client, Purpose::Licence)?;
    let live = |signer: &&entitlements_bundle::TrustedKey| {
        signer.issuer.starts_with(ISSUER) && !signer.distrusted && signer.not_before <= now && now < signer.not_after
    };
    for signer in trust.keys().filter(live) {
        match open_keygen_file(file, &signer.key, licence_key) {
            Ok(licence) => return Ok((signer.issuer.clone(), licence)),
            Err(KeygenError::BadSignature) => {}
            Err(error) => return Err(refused(error.word(), error.to_string(), error.faults().to_vec())),
        }
    }
    Err(refused("unknown_key", "no key that is trusted for such licences has signed the file", Vec::new()))
}

/// Codes of entitlements, each with the feature it stands for, or None where it stands for nothing here.
type Mapping = BTreeMap<String, Option<Json>>;

fn read_mapping(mapping: Option<JsonbText>) -> Result<Mapping, Error> {
    let wrong = |fault: &str| Error::argument("mapping", fault);
    let Some(JsonbText(text)) = mapping else { return Ok(Mapping::new()) };
    let Ok(Json::Object(members)) = json::parse(&text, Limits::CATALOG) else {
        return Err(wrong("it is not a JSON object"));
    };
    let read = |(code, to): Member| match &to {
        Json::Null => Ok((code.to_string(), None)),
        Json::String(_) => Ok((code.to_string(), Some(to))),
        Json::Object(_) if matches!(to.get("feature"), Some(Json::String(_))) => Ok((code.to_string(), Some(to))),
        _ => Err(wrong("a code stands for a feature's key, for an object with feature and value, or for null")),
    };
    members.into_iter().map(read).collect()
}

/// What the codes of the file stand for; all that stand for nothing known are faults.
fn grants(
    client: &mut SpiClient<'_>,
    licence: &KeygenLicence,
    mapping: &Mapping,
    has_plan: bool,
) -> Result<Vec<Grant>, Error> {
    // Of codes for one feature the first counts.
    let mut grants: BTreeMap<String, String> = BTreeMap::new();
    let mut grant = |feature: String, value: String| {
        grants.entry(feature).or_insert(value);
    };
    let mut faults = Vec::new();
    let codes = licence.entitlements.iter().flatten();
    for code in codes {
        let mut fault = |fault: String| faults.push(Fault { path: format!("$.included.{code}"), fault });
        let (feature, value) = match mapping.get(code) {
            Some(None) => continue,
            Some(Some(Json::String(feature))) => (feature.as_str(), None),
            Some(Some(to)) => match to.get("feature") {
                Some(Json::String(feature)) => (feature.as_str(), to.get("value")),
                _ => continue,
            },
            None => (code.as_str(), None),
        };
        let found = client.update(
            "SELECT key, kind FROM entitlements.features WHERE key = ANY (ARRAY[$1, pg_catalog.lower($1)]) ORDER BY key = $1 DESC",
            Some(1),
            &[feature.into()],
        )?;
        let (Some(key), Some(kind)) = (match found.is_empty() {
            true => (None, None),
            false => found.first().get_two::<String, String>()?,
        }) else {
            fault(format!("there is no feature '{feature}'; the mapping says what the code stands for"));
            continue;
        };
        match (value, kind.parse::<Kind>()) {
            (Some(value), _) => grant(key, value.to_string()),
            (None, Ok(Kind::Flag)) => grant(key, "true".to_owned()),
            (None, _) => {
                fault(format!("feature '{key}' is no flag: the mapping has to say which value the code stands for"))
            }
        }
    }
    if !faults.is_empty() {
        return Err(refused("invalid", "entitlements of the licence stand for nothing here", faults));
    }
    if grants.is_empty() && !has_plan {
        let fault = "the licence file has no entitlements: make it with include=entitlements, or name a plan";
        return Err(refused("invalid", fault, Vec::new()));
    }
    Ok(grants.into_iter().map(|(feature, value)| Grant { feature, value }).collect())
}

/// Keeps that this file was taken in, and gives the subscription that an earlier one started.
fn note(
    client: &mut SpiClient<'_>,
    issuer: &str,
    licence: &KeygenLicence,
    account: &Account,
    until: Time,
) -> Result<Option<i64>, Error> {
    const PRESENT: &str = "SELECT account_id, issued_at, subscription_id FROM entitlements.imported_licences
          WHERE source = $1 AND licence_id = $2 FOR UPDATE";
    let found = client.update(PRESENT, Some(1), &[issuer.into(), licence.id.as_str().into()])?;
    let mut subscription = None;
    if let Some(row) = found.into_iter().next() {
        if row.get::<i64>(1)? != Some(account.id) {
            return Err(Error::Conflict {
                message: "the licence was imported for another account".to_owned(),
                hint: "A licence is imported for one account.".to_owned(),
            });
        }
        let issued_at = row.get::<TimestampWithTimeZone>(2)?.map_or(licence.issued_at, Time::from);
        if licence.issued_at < issued_at {
            return Err(refused("replayed", "a newer file of this licence was imported before", Vec::new()));
        }
        subscription = row.get(3)?;
    }
    upsert(
        client,
        c"imported_licences",
        "INSERT INTO entitlements.imported_licences (source, licence_id, account_id, issued_at, expires_at, imported_at, imported_by)
         VALUES ($1, $2, $3, $4, $5, pg_catalog.now(), $6)
         ON CONFLICT (source, licence_id) DO UPDATE
            SET issued_at = excluded.issued_at, expires_at = excluded.expires_at,
                imported_at = excluded.imported_at, imported_by = excluded.imported_by",
        &[
            issuer.into(),
            licence.id.as_str().into(),
            account.id.into(),
            timestamp(licence.issued_at).into(),
            timestamp(until).into(),
            Actor::current().role.into(),
        ],
    )?;
    Ok(subscription)
}

/// A file whose content counts from now on.
struct Import<'a> {
    issuer: &'a str,
    /// Of all that comes of this licence, and of nothing else.
    source: &'a str,
    licence: &'a KeygenLicence,
    key: &'a str,
    reason: &'a str,
    until: Time,
}

impl Import<'_> {
    fn ends_at(&self) -> Option<TimestampWithTimeZone> {
        (self.until != FOREVER).then(|| timestamp(self.until))
    }

    /// Ends what an earlier file of the licence granted and this one does not.
    fn clear(&self, client: &mut SpiClient<'_>, account: &Account, grants: &[Grant]) -> Result<Vec<Change>, Error> {
        const OLD: &str = "SELECT feature.key, exception.id
               FROM entitlements.overrides AS exception JOIN entitlements.features AS feature ON feature.id = exception.feature_id
              WHERE exception.account_id = $1 AND exception.source = $2
                AND exception.ended_at IS NULL AND feature.key <> ALL ($3) ORDER BY feature.key";
        let kept: Vec<String> = grants.iter().map(|grant| grant.feature.clone()).collect();
        let arguments = [account.id.into(), self.source.into(), kept.into()];
        let mut old = Vec::new();
        for row in client.update(OLD, None, &arguments)? {
            old.extend(row.get::<String>(1)?.zip(row.get::<i64>(2)?));
        }
        let mut changes = Vec::new();
        for (feature, id) in old {
            feature_override::clear(client, Some(id), Some(self.reason))?;
            changes.push(("ended".to_owned(), "override".to_owned(), feature, None, None));
        }
        Ok(changes)
    }

    /// None where the same is granted already.
    fn grant(&self, client: &mut SpiClient<'_>, account: &Account, grant: &Grant) -> Result<Option<Change>, Error> {
        const SAME: &str = "SELECT FROM entitlements.overrides AS exception
               JOIN entitlements.features AS feature ON feature.id = exception.feature_id
              WHERE exception.account_id = $1 AND feature.key = $2 AND exception.source = $3 AND exception.ended_at IS NULL
                AND exception.expires_at = coalesce($4, 'infinity') AND exception.mode = 'set'
                AND coalesce(pg_catalog.to_jsonb(exception.enabled), exception.config,
                             CASE exception.amount WHEN 'Infinity' THEN '\"unlimited\"'::pg_catalog.jsonb
                                  ELSE pg_catalog.to_jsonb(exception.amount) END) = $5::pg_catalog.jsonb";
        let arguments = [
            account.id.into(),
            grant.feature.as_str().into(),
            self.source.into(),
            self.ends_at().into(),
            grant.value.as_str().into(),
        ];
        if exists(client, SAME, &arguments)? {
            return Ok(None);
        }
        let value = || Some(JsonbText(grant.value.clone()));
        let new = NewOverride {
            account: self.key,
            feature: &grant.feature,
            mode: OverrideMode::Set,
            value: value(),
            reason: self.reason,
            expires_at: self.until,
            source: self.source,
        };
        feature_override::set(client, new)?;
        Ok(Some(("granted".to_owned(), "override".to_owned(), grant.feature.clone(), value(), self.ends_at())))
    }

    /// Starts a subscription, or lets the one of an earlier file end when this one says.
    fn subscribe(&self, client: &mut SpiClient<'_>, plan: &str, held: Option<i64>) -> Result<Option<Change>, Error> {
        const PRESENT: &str = "SELECT plan.key, held.ends_at FROM entitlements.subscriptions AS held
               JOIN entitlements.plans AS plan ON plan.id = held.plan_id
              WHERE held.id = $1 AND held.superseded_at IS NULL AND held.in_force_until > pg_catalog.statement_timestamp()
              ORDER BY held.ends_at DESC";
        let change =
            |action: &str| Some((action.to_owned(), "subscription".to_owned(), plan.to_owned(), None, self.ends_at()));
        let found = client.update(PRESENT, Some(1), &[held.into()])?;
        if let Some(row) = found.into_iter().next() {
            let ends_at = row.get::<TimestampWithTimeZone>(2)?.map_or(FOREVER, Time::from);
            if row.get::<String>(1)?.as_deref() != Some(plan) {
                return Err(Error::Conflict {
                    message: format!("the licence holds another plan than \"{plan}\" here"),
                    hint: "Change the subscription with entitlements.change_subscription, then import with its plan."
                        .to_owned(),
                });
            }
            if ends_at == self.until {
                return Ok(None);
            }
            let reason = Some(self.reason);
            if ends_at < self.until && self.until != FOREVER {
                subscription::renew(client, held, self.ends_at(), reason)?;
            } else {
                let to = SubscriptionChange { ends_at: Some(self.until), reason, ..SubscriptionChange::default() };
                subscription::change(client, held, transaction_time(), to)?;
            }
            return Ok(change("changed"));
        }
        let new = NewSubscription {
            account: self.key,
            plan,
            version: None,
            quantity: 1,
            starts_at: transaction_time(),
            ends_at: self.ends_at().map(Time::from),
            version_policy: VersionPolicy::Pinned,
            source: self.source,
            source_ref: Some(&self.licence.id),
            reason: Some(self.reason),
            metadata: None,
            status: Status::Active,
            trial_until: None,
        };
        let id = subscription::start(client, new)?;
        client.update(
            "UPDATE entitlements.imported_licences SET subscription_id = $3 WHERE source = $1 AND licence_id = $2",
            None,
            &[self.issuer.into(), self.licence.id.as_str().into(), id.into()],
        )?;
        Ok(change("granted"))
    }
}
