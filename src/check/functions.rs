//! The check family as SQL calls it; `entitled` and `require`, which are called for each row, are in `pg::entry`.
//!
//! None of these assigns a transaction id or writes: they work in read-only transactions, parallel workers and on standbys.

use super::memo::MEMO;
use crate::error::Error;
use crate::meter::decision::Decision;
use crate::meter::functions::{feature_key, units};
use crate::meter::look::{Lapsed, Look};
use crate::meter::rate;
use crate::meter::write::sql_amount;
use crate::pg::composite::CompositeValue;
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use crate::pg::number::AmountArgument;
use crate::pg::snapshot::statement_time;
use entitlements_model::amount::Allowance;
use entitlements_model::kind::{Kind, Reason};
use entitlements_model::resolve::{Entitlement, Feature, Resolved};
use entitlements_model::time::Time;
use entitlements_server::name::AccountName;
use pgrx::AnyNumeric;
use pgrx::prelude::*;

/// A resolved entitlement with the words it is reported in.
pub struct Answer {
    pub account: Option<String>,
    pub feature_key: String,
    pub feature: Feature,
    pub entitlement: Entitlement,
    pub known_account: bool,
}

impl Answer {
    pub fn reason(&self) -> Reason {
        if self.known_account { self.entitlement.reason } else { Reason::UnknownAccount }
    }

    /// The allowance, for features that have one.
    fn allowance(&self) -> Option<Allowance> {
        match self.entitlement.value {
            Resolved::Allowance(allowance) => Some(allowance),
            Resolved::Flag(_) | Resolved::Config(_) => None,
        }
    }
}

/// numeric as SQL has it; None for unlimited.
fn numeric(allowance: Allowance) -> Option<AnyNumeric> {
    match allowance {
        Allowance::Unlimited => None,
        Allowance::Finite(amount) => Some(sql_amount(amount)),
    }
}

/// timestamptz as SQL has it; None for a time that never comes.
pub fn sql_time(time: Time) -> Option<TimestampWithTimeZone> {
    (time != Time::MAX).then(|| TimestampWithTimeZone::try_from(time).expect("times come from timestamptz columns"))
}

/// The value as `value_of` gives it, with every digit that is stored.
pub fn sql_value(value: &Resolved) -> Option<JsonbText> {
    let json = match value {
        Resolved::Flag(enabled) => enabled.to_string(),
        Resolved::Config(None) => return None,
        Resolved::Config(Some(json)) => json.to_string(),
        Resolved::Allowance(Allowance::Unlimited) => "\"unlimited\"".to_owned(),
        Resolved::Allowance(Allowance::Finite(amount)) => amount.to_string(),
    };
    Some(JsonbText(json))
}

fn resolve(account: Option<&str>, feature: Option<&str>, with_history: bool) -> Result<Answer, Error> {
    let feature = feature.ok_or_else(|| Error::argument("feature", "it is NULL"))?;
    MEMO.with(|memo| {
        memo.resolve(account.map(|account| AccountName::Text(account.as_bytes())), feature.as_bytes(), with_history)
    })
}

/// Why `account` is not granted `feature`, as the error that `require` raises.
pub fn denial(account: Option<&[u8]>, feature: &[u8]) -> Error {
    match MEMO.with(|memo| memo.resolve(account.map(AccountName::Text), feature, true)) {
        Ok(answer) => {
            let reason = answer.reason();
            let kind = answer.feature.kind;
            Error::NotEntitled { account: answer.account, feature: answer.feature_key, kind, reason }
        }
        Err(error) => error,
    }
}

/// What `value_of` gives.
pub fn value(account: Option<&str>, feature: Option<&str>) -> Result<Option<JsonbText>, Error> {
    Ok(sql_value(&resolve(account, feature, false)?.entitlement.value))
}

#[pg_extern(sql = false)]
fn value_of(account: Option<&str>, feature: Option<&str>) -> Option<JsonbText> {
    or_raise(value(account, feature))
}

/// What `allowance` gives.
pub fn allowed(account: Option<&str>, feature: Option<&str>) -> Result<Option<AnyNumeric>, Error> {
    let answer = resolve(account, feature, false)?;
    answer.allowance().map(numeric).ok_or(Error::WrongKind {
        feature: answer.feature_key,
        kind: answer.feature.kind,
        needed: "a quota, an allocation or a rate",
    })
}

#[pg_extern(sql = false)]
fn allowance(account: Option<&str>, feature: Option<&str>) -> Option<AnyNumeric> {
    or_raise(allowed(account, feature))
}

#[pg_extern(sql = false)]
fn check_access(account: Option<&str>, feature: Option<&str>, n: Option<AmountArgument>) -> CompositeValue {
    or_raise(decide(account, feature, n).and_then(Decision::into_composite))
}

/// The answer to "would n be allowed now".
pub fn decide(account: Option<&str>, feature: Option<&str>, n: Option<AmountArgument>) -> Result<Decision, Error> {
    let requested = units("n", n)?;
    let feature = feature_key(feature)?;
    let now = statement_time();
    let look = MEMO.with(|memo| {
        memo.read(|reader| Look::at(reader, account.map(str::as_bytes), feature.as_bytes(), now, Lapsed::Free))
    })?;
    if matches!(look.feature.resolved.kind, Kind::Quota | Kind::Allocation) {
        let enough = look.allows(requested);
        let reason = match (look.charges.is_empty(), enough) {
            (true, _) => look.denial_reason(now)?,
            (false, true) => Reason::Granted,
            (false, false) => Reason::LimitExceeded,
        };
        return Ok(Decision::of(&look, enough, reason, requested, 0));
    }
    if look.feature.resolved.kind == Kind::Rate {
        return rate::check(&look, requested, now);
    }
    let answer = resolve(account, Some(feature), true)?;
    Ok(Decision {
        allowed: answer.entitlement.granted,
        reason: answer.reason(),
        kind: answer.feature.kind,
        amounts: None,
        expires_at: answer.entitlement.expires_at,
        account: answer.account,
        feature: answer.feature_key,
    })
}

/// A row of `entitlements_of`: the columns of the type entitlement.
pub type EntitlementRow = (
    String,
    String,
    String,
    bool,
    Option<JsonbText>,
    Option<AnyNumeric>,
    String,
    Option<TimestampWithTimeZone>,
    Option<TimestampWithTimeZone>,
);

/// What `entitlements_of` gives.
pub fn entitlements(account: Option<&str>) -> Result<impl Iterator<Item = EntitlementRow> + use<>, Error> {
    let answers = match account {
        None => Vec::new(),
        Some(account) => MEMO.with(|memo| memo.resolve_all(AccountName::Text(account.as_bytes())))?,
    };
    Ok(answers.into_iter().map(|answer| {
        (
            answer.account.clone().unwrap_or_default(),
            answer.feature_key.clone(),
            answer.feature.kind.as_str().to_owned(),
            answer.entitlement.granted,
            sql_value(&answer.entitlement.value),
            answer.allowance().and_then(numeric),
            answer.reason().as_str().to_owned(),
            answer.entitlement.expires_at.and_then(sql_time),
            sql_time(answer.entitlement.valid_until),
        )
    }))
}

#[expect(clippy::type_complexity, reason = "the columns of the type entitlement, which pgrx takes no alias for")]
#[pg_extern(sql = false)]
fn entitlements_of(
    account: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(account, String),
        name!(feature, String),
        name!(kind, String),
        name!(granted, bool),
        name!(value, Option<JsonbText>),
        name!(allowance, Option<AnyNumeric>),
        name!(reason, String),
        name!(expires_at, Option<TimestampWithTimeZone>),
        name!(valid_until, Option<TimestampWithTimeZone>),
    ),
> {
    TableIterator::new(or_raise(entitlements(account)))
}

#[pg_extern(sql = false)]
fn entitled_accounts(feature: Option<&str>) -> SetOfIterator<'static, String> {
    let accounts = or_raise(match feature {
        None => Err(Error::argument("feature", "it is NULL")),
        Some(feature) => MEMO.with(|memo| memo.accounts_granted(feature.as_bytes())),
    });
    SetOfIterator::new(accounts)
}
