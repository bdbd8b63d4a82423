//! Issuing licences and renewing them.
//!
//! A licence says what its account is entitled to at this moment, and ends when that may change at the latest. Where it counts
//! against an allocation its subject has a seat for as long as any licence of the subject holds: the seat's lease is never
//! shorter than what was signed, so a place changes hands only when nobody can show a licence for it any more. What the place is
//! taken from may have an end, and no licence outlasts that.

use super::own_name;
use super::signing::{own_licence_keys, signing_key};
use crate::accounts::account::Account;
use crate::accounts::arguments::{required, required_text, timestamp};
use crate::audit::{self, Change};
use crate::bundle::deployment::Deployment;
use crate::check::functions::{Answer, denial, sql_value};
use crate::check::memo::MEMO;
use crate::error::Error;
use crate::meter::reservation::{end_of, new_id};
use crate::meter::seat::{self, Kept};
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use crate::pg::session::{Actor, connect_to_change};
use crate::pg::snapshot::statement_time;
use crate::pg::subtransaction::{upsert, with_fresh_snapshot};
use crate::row::present;
use entitlements_bundle::{Binding, Licence, LicenceRequest, NumericDate, Order, Refusal, authenticate_as};
use entitlements_model::json::{self, Json, Limits};
use entitlements_model::key::{AccountKey, FeatureKey};
use entitlements_model::time::{FOREVER, Time};
use entitlements_server::name::AccountName;
use pgrx::Uuid;
use pgrx::datum::Interval;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::json;
use std::collections::BTreeMap;

/// Most bytes of a subject and an audience, as documents have it.
const NAME_BYTES: usize = 255;

/// What a licence is for, of a new one or of one that is renewed.
struct Terms {
    id: Uuid,
    account: String,
    holder: String,
    audience: Option<String>,
    /// None: all that the account is granted.
    features: Option<Vec<String>>,
    seat: Option<String>,
    machine: Option<Binding>,
}

/// A licence that was signed.
struct Signed {
    token: String,
    kid: String,
    expires: NumericDate,
    /// The seat that was taken for it.
    seat: Option<i64>,
}

#[pg_extern(sql = false)]
fn issue_licence(
    account: Option<&str>,
    subject: Option<&str>,
    features: Option<Vec<Option<String>>>,
    ttl: Option<Interval>,
    seat_feature: Option<&str>,
    audience: Option<&str>,
    request: Option<&str>,
) -> String {
    or_raise(issue(account, subject, features, ttl, seat_feature, audience, request))
}

fn issue(
    account: Option<&str>,
    subject: Option<&str>,
    features: Option<Vec<Option<String>>>,
    ttl: Option<Interval>,
    seat_feature: Option<&str>,
    audience: Option<&str>,
    request: Option<&str>,
) -> Result<String, Error> {
    let key = required("account", account)?;
    let until = end_of(ttl)?;
    let features = features.map(named).transpose()?;
    let deployment = connect_to_change(|client| Deployment::read(client))?;
    let issuer = own_name(&deployment)?;
    refuse_clock_behind(&deployment)?;
    let request = request.map(|text| LicenceRequest::open(text, issuer)).transpose()?.map(|received| received.document);
    if let Some(request) = &request
        && request.account.as_str() != key
    {
        return Err(Error::argument("request", "it is for another account"));
    }
    let asked = |of: fn(&LicenceRequest) -> Option<String>| request.as_ref().and_then(of);
    let subject = subject.map(str::to_owned).or_else(|| asked(|request| request.holder.clone()));
    let wanted = asked_features(request.as_ref());
    let terms = Terms {
        id: new_id()?,
        account: key.to_owned(),
        holder: name("subject", subject.as_deref())?.to_owned(),
        audience: match audience {
            Some(audience) => Some(name("audience", Some(audience))?.to_owned()),
            None => asked(|request| request.application.clone()),
        },
        features: features.or(wanted),
        seat: seat_feature.map(str::to_owned),
        machine: request.as_ref().map(LicenceRequest::binding),
    };
    let account = connect_to_change(|client| Account::take(client, Some(key)))?;
    let signed = terms.sign(issuer, until)?;
    connect_to_change(|client| {
        terms.keep(client, &account, until, &signed)?;
        let change = Change {
            action: "issue",
            object: "licence",
            object_id: terms.id.to_string(),
            old: None,
            new: Some(json!({
                "subject": terms.holder, "audience": terms.audience, "features": terms.features, "seat_feature": terms.seat,
                "machine": terms.machine.as_ref().map(|machine| machine.machine.to_string()),
                "expires_at": signed.expires.seconds(), "kid": signed.kid,
            })),
            reason: None,
        };
        audit::record(client, account.chain(), &[change])
    })?;
    Ok(signed.token)
}

/// What is signed now would be longer than it says, for whoever has the right time.
fn refuse_clock_behind(deployment: &Deployment) -> Result<(), Refusal> {
    let clock = deployment.clock();
    if clock.is_behind() { Err(Refusal::ClockBehind(NumericDate::from_time(clock.highest))) } else { Ok(()) }
}

fn named(features: Vec<Option<String>>) -> Result<Vec<String>, Error> {
    match features.into_iter().collect::<Option<Vec<String>>>() {
        Some(features) if features.is_empty() => Err(Error::argument("features", "it is empty")),
        Some(features) => Ok(features),
        None => Err(Error::argument("features", "an element is NULL")),
    }
}

fn asked_features(request: Option<&LicenceRequest>) -> Option<Vec<String>> {
    let features = &request?.features;
    (!features.is_empty()).then(|| features.iter().map(|feature| feature.as_str().to_owned()).collect())
}

/// A name that goes into a document.
pub fn name<'a>(argument: &'static str, value: Option<&'a str>) -> Result<&'a str, Error> {
    match required_text(argument, value)? {
        text if text.len() > NAME_BYTES => Err(Error::argument(argument, format!("it is longer than {NAME_BYTES} bytes"))),
        text if text.chars().any(char::is_control) => Err(Error::argument(argument, "it contains a control character")),
        text => Ok(text),
    }
}

#[pg_extern(sql = false)]
fn renew_licence(token: Option<&str>, ttl: Option<Interval>) -> String {
    or_raise(renew(token, ttl))
}

fn renew(token: Option<&str>, ttl: Option<Interval>) -> Result<String, Error> {
    let token = required("token", token)?;
    let until = end_of(ttl)?;
    let (terms, issuer) = connect_to_change(|client| {
        let deployment = Deployment::read(client)?;
        let issuer = own_name(&deployment)?;
        let authentic = authenticate_as::<Licence>(token, &own_licence_keys(client, issuer)?)?;
        let licence = authentic.into_document();
        refuse_clock_behind(&deployment)?;
        if licence.expires.time() <= deployment.clock().time() {
            return Err(Refusal::Expired(licence.expires).into());
        }
        Ok::<_, Error>((Terms::of(client, licence)?, issuer.to_owned()))
    })?;
    let signed = terms.sign(&issuer, until)?;
    connect_to_change(|client| terms.keep_renewal(client, until, &signed))?;
    Ok(signed.token)
}

impl Terms {
    /// Those of a licence that holds, which stays locked. They are what was kept when it was issued, whatever the token says: more
    /// than the vendor may have a key that has signed here.
    fn of(client: &mut SpiClient<'_>, licence: Licence) -> Result<Self, Error> {
        let unknown = || Error::UnknownRow { object: "licence", id: licence.id.clone() };
        const READ: &str = "SELECT licence.id, account.key, licence.features, feature.key,
                    licence.revoked_at IS NOT NULL OR licence.deactivated_at IS NOT NULL,
                    licence.holder, licence.audience, licence.machine, licence.machine_key, licence.nonce
               FROM entitlements.licences AS licence
               JOIN entitlements.accounts AS account ON account.id = licence.account_id
               LEFT JOIN entitlements.features AS feature ON feature.id = licence.seat_feature_id
              WHERE licence.id = $1::pg_catalog.uuid FOR NO KEY UPDATE OF licence";
        if !is_id(&licence.id) {
            return Err(unknown());
        }
        let found = client.update(READ, Some(1), &[licence.id.as_str().into()])?;
        let row = found.into_iter().next().ok_or_else(unknown)?;
        if row.get::<bool>(5)? != Some(false) {
            return Err(Refusal::Revoked(licence.id).into());
        }
        let (Some(id), Some(account)) = (row.get(1)?, row.get(2)?) else { return Err(unknown()) };
        let broken = || Error::Internal("a licence is bound to what is no machine".to_owned());
        let binding = |machine: String| {
            let key = row.get::<String>(9)?.map(|key| key.parse()).transpose().map_err(|_| broken())?;
            Ok::<_, Error>(Binding { machine: machine.parse().map_err(|_| broken())?, key, nonce: row.get(10)? })
        };
        Ok(Self {
            id,
            account,
            holder: present(&row, 6)?,
            audience: row.get(7)?,
            features: row.get(3)?,
            seat: row.get(4)?,
            machine: row.get::<String>(8)?.map(binding).transpose()?,
        })
    }

    /// Takes the seat, then signs what the account is entitled to.
    fn sign(&self, issuer: &str, until: Time) -> Result<Signed, Error> {
        let now = statement_time();
        let kept = self.seat.as_ref().map(|feature| self.take_seat(feature, until)).transpose()?;
        let (features, mut entitled_until) = granted(&self.account, self.features.as_deref())?;
        if let (Some(feature), Some(kept)) = (&self.seat, &kept) {
            entitled_until = entitled_until.min(kept.until).min(known_until(&self.account, feature)?);
        }
        let issued_at = NumericDate::from_time(now);
        let lease = NumericDate::from_time(until).seconds() - issued_at.seconds();
        if lease < 1 {
            return Err(Error::argument("ttl", "it is shorter than a second"));
        }
        let key = |key: &str| AccountKey::parse(key).map_err(|fault| Error::argument("account", fault.to_string()));
        let seat = |key: &String| FeatureKey::parse(key).map_err(|fault| Error::argument("seat_feature", fault.to_string()));
        let licence = Licence::issue(Order {
            id: self.id.to_string(),
            issuer: issuer.to_owned(),
            account: key(&self.account)?,
            audience: self.audience.clone(),
            holder: Some(self.holder.clone()),
            issued_at,
            lease,
            entitled_until,
            features,
            seat: self.seat.as_ref().map(seat).transpose()?,
            heartbeat: None,
            machine: self.machine.clone(),
            reason: None,
        })?;
        let key = connect_to_change(signing_key)?;
        Ok(Signed {
            token: licence.sign(&key),
            kid: key.public().kid().to_string(),
            expires: licence.expires,
            seat: kept.filter(|kept| kept.is_taken).map(|kept| kept.seat),
        })
    }

    /// The seat is leased for as long as this licence, or an earlier one of the subject, can be shown.
    fn take_seat(&self, feature: &str, until: Time) -> Result<Kept, Error> {
        const SIGNED: &str = "SELECT pg_catalog.max(licence.expires_at)
               FROM entitlements.licences AS licence
               JOIN entitlements.accounts AS account ON account.id = licence.account_id
               JOIN entitlements.features AS feature ON feature.id = licence.seat_feature_id
              WHERE account.key = $1 AND feature.key = $2 AND licence.holder = $3 AND licence.deactivated_at IS NULL";
        let kept = seat::hold(&self.account, feature, &self.holder, until)?;
        // The seat is locked now: no other licence of the subject comes in between.
        let signed = connect_to_change(|client| {
            let arguments = [self.account.as_str().into(), feature.into(), self.holder.as_str().into()];
            let found = client.update(SIGNED, Some(1), &arguments)?;
            Ok::<_, Error>(found.first().get_one::<TimestampWithTimeZone>()?.map(Time::from))
        })?;
        if let Some(signed) = signed.filter(|signed| *signed > until) {
            seat::hold(&self.account, feature, &self.holder, signed)?;
        }
        Ok(kept)
    }

    fn keep(&self, client: &mut SpiClient<'_>, account: &Account, until: Time, signed: &Signed) -> Result<(), Error> {
        let machine = self.machine.as_ref();
        let inserted = upsert(
            client,
            c"licences",
            "INSERT INTO entitlements.licences
                    (id, account_id, holder, audience, features, seat_feature_id, kid, issued_at, renewed_at, expires_at, lease,
                     machine, machine_key, nonce, issued_by, seat_id)
             VALUES ($1, $2, $3, $4, $5, (SELECT id FROM entitlements.features WHERE key = $6), $7, $8, $8, $9, $10 - $8, $11, $12, $13, $14, $15)
             ON CONFLICT (machine, nonce) DO NOTHING RETURNING id",
            &[
                self.id.into(),
                account.id.into(),
                self.holder.as_str().into(),
                self.audience.as_deref().into(),
                self.features.clone().into(),
                self.seat.as_deref().into(),
                signed.kid.as_str().into(),
                timestamp(statement_time()).into(),
                timestamp(signed.expires.time()).into(),
                timestamp(until).into(),
                machine.map(|binding| binding.machine.to_string()).into(),
                machine.and_then(|binding| binding.key).map(|key| key.to_string()).into(),
                machine.and_then(|binding| binding.nonce.clone()).into(),
                Actor::current().role.into(),
                signed.seat.into(),
            ],
        )?;
        if !inserted.is_empty() {
            return Ok(());
        }
        Err(Error::Conflict {
            message: "this request of the machine was answered before".to_owned(),
            hint:
                "A request is answered once: give the machine the licence that answered it, or let it make another request."
                    .to_owned(),
        })
    }

    /// Notes until when a licence that was renewed can be shown, and with which key it was signed before.
    fn keep_renewal(&self, client: &mut SpiClient<'_>, until: Time, signed: &Signed) -> Result<(), Error> {
        client.update(
            "UPDATE entitlements.signing_keys AS key SET needed_until = licence.expires_at
               FROM entitlements.licences AS licence
              WHERE licence.id = $1 AND key.kid = licence.kid AND licence.kid <> $2 AND key.needed_until < licence.expires_at",
            None,
            &[self.id.into(), signed.kid.as_str().into()],
        )?;
        client.update(
            "UPDATE entitlements.licences
                SET kid = $2, renewed_at = greatest(renewed_at, $3), expires_at = greatest(expires_at, $4), lease = $5 - $3,
                    seat_id = coalesce($6, seat_id)
              WHERE id = $1",
            None,
            &[
                self.id.into(),
                signed.kid.as_str().into(),
                timestamp(statement_time()).into(),
                timestamp(signed.expires.time()).into(),
                timestamp(until).into(),
                signed.seat.into(),
            ],
        )?;
        Ok(())
    }
}

/// Whether a text is an id as licences have it.
pub fn is_id(text: &str) -> bool {
    let hyphens = [8, 13, 18, 23];
    text.len() == 36
        && text.bytes().enumerate().all(|(place, byte)| match hyphens.contains(&place) {
            true => byte == b'-',
            false => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// Until when what the account is entitled to of the feature is known to stay so.
fn known_until(account: &str, feature: &str) -> Result<Time, Error> {
    let name = Some(AccountName::Text(account.as_bytes()));
    let answer = with_fresh_snapshot(|_| MEMO.with(|memo| memo.resolve(name, feature.as_bytes(), false)))?;
    Ok(answer.entitlement.valid_until)
}

/// What the account is granted of the features, or of all, and until when that is known to stay so.
fn granted(account: &str, features: Option<&[String]>) -> Result<(BTreeMap<FeatureKey, Json>, Time), Error> {
    let name = AccountName::Text(account.as_bytes());
    let answers: Vec<Answer> = with_fresh_snapshot(|_| match features {
        None => MEMO.with(|memo| memo.resolve_all(name)),
        Some(features) => {
            let resolve = |feature: &String| {
                let answer = MEMO.with(|memo| memo.resolve(Some(name), feature.as_bytes(), false))?;
                match answer.entitlement.granted {
                    true => Ok(answer),
                    false => Err(denial(Some(account.as_bytes()), feature.as_bytes())),
                }
            };
            features.iter().map(resolve).collect()
        }
    })?;
    let mut values = BTreeMap::new();
    let mut until = FOREVER;
    for answer in answers.iter().filter(|answer| answer.entitlement.granted) {
        let Some(JsonbText(text)) = sql_value(&answer.entitlement.value) else { continue };
        let broken = |_| Error::Internal(format!("the value of feature \"{}\" is no JSON", answer.feature_key));
        let value = json::parse(&text, Limits::CATALOG).map_err(broken)?;
        let key = FeatureKey::parse(&answer.feature_key).map_err(|fault| Error::Internal(fault.to_string()))?;
        values.insert(key, value);
        until = until.min(answer.entitlement.valid_until);
    }
    match values.is_empty() {
        false => Ok((values, until)),
        true => Err(Error::Conflict {
            message: "the account is granted nothing that a licence could say".to_owned(),
            hint: "SELECT * FROM entitlements.entitlements_of(account) tells what it is granted and why not more."
                .to_owned(),
        }),
    }
}
