//! The check family as SQL calls it; `entitled` and `require`, which are called for each row, are in `pg::entry`.
//!
//! None of these assigns a transaction id or writes: they work in read-only transactions, parallel workers and on standbys.

use super::answers::AccountName;
use super::memo::MEMO;
use crate::error::Error;
use crate::pg::composite::Composite;
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::kind::{Kind, Reason};
use entitlements_model::resolve::{Entitlement, Feature, Resolved};
use entitlements_model::time::Time;
use pgrx::prelude::*;
use pgrx::{AllocatedByRust, AnyNumeric};
use std::str::FromStr;

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

fn sql_amount(amount: Amount) -> AnyNumeric {
    AnyNumeric::from_str(&amount.to_string()).expect("amounts are printed as numerics")
}

/// timestamptz as SQL has it; None for a time that never comes.
pub fn sql_time(time: Time) -> Option<TimestampWithTimeZone> {
    (time != Time::MAX).then(|| TimestampWithTimeZone::try_from(time).expect("times come from timestamptz columns"))
}

/// The value as `value_of` gives it, with every digit that is stored.
fn sql_value(value: &Resolved) -> Option<JsonbText> {
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

#[pg_extern(sql = false)]
fn value_of(account: Option<&str>, feature: Option<&str>) -> Option<JsonbText> {
    sql_value(&or_raise(resolve(account, feature, false)).entitlement.value)
}

#[pg_extern(sql = false)]
fn allowance(account: Option<&str>, feature: Option<&str>) -> Option<AnyNumeric> {
    numeric(or_raise(resolve(account, feature, false).and_then(|answer| {
        answer.allowance().ok_or(Error::WrongKind {
            feature: answer.feature_key,
            kind: answer.feature.kind,
            needed: "a quota, an allocation or a rate",
        })
    })))
}

#[pg_extern(sql = false)]
fn check_access(
    account: Option<&str>,
    feature: Option<&str>,
    n: Option<AnyNumeric>,
) -> pgrx::composite_type!('static, "entitlements.decision") {
    or_raise(decide(account, feature, n).and_then(Decision::into_composite))
}

/// The answer to "would n be allowed now", as the type `decision` has it.
struct Decision {
    allowed: bool,
    reason: Reason,
    account: Option<String>,
    feature: String,
    kind: Kind,
    /// None for features without a limit.
    limit: Option<Allowance>,
    requested: Amount,
    expires_at: Option<Time>,
}

impl Decision {
    fn into_composite(self) -> Result<PgHeapTuple<'static, AllocatedByRust>, Error> {
        let when_metered = |amount: Amount| self.limit.map(|_| sql_amount(amount));
        let decision = Composite::of("entitlements.decision")?
            .with(Some(self.allowed))
            .with(Some(self.reason.as_str()))
            .with(self.account)
            .with(Some(self.feature))
            .with(Some(self.kind.as_str()))
            .with(self.limit.and_then(numeric))
            .with(when_metered(Amount::ZERO))
            .with(self.limit.and_then(numeric))
            .with(when_metered(self.requested))
            .with(when_metered(Amount::ZERO))
            .with(when_metered(Amount::ZERO))
            .with(None::<TimestampWithTimeZone>)
            .with(self.expires_at.and_then(sql_time));
        Ok(decision.build())
    }
}

fn decide(account: Option<&str>, feature: Option<&str>, n: Option<AnyNumeric>) -> Result<Decision, Error> {
    let requested = match n {
        None => return Err(Error::argument("n", "it is NULL")),
        Some(n) => match Amount::from_str(&n.to_string()) {
            Ok(Amount::ZERO) => return Err(Error::argument("n", "it is zero")),
            Ok(amount) => amount,
            Err(fault) => return Err(Error::argument("n", fault.to_string())),
        },
    };
    let answer = resolve(account, feature, true)?;
    let limit = answer.allowance();
    let within = limit.is_none_or(|allowance| Allowance::Finite(requested) <= allowance);
    let granted = answer.entitlement.granted;
    Ok(Decision {
        allowed: granted && within,
        reason: if granted && !within { Reason::LimitExceeded } else { answer.reason() },
        kind: answer.feature.kind,
        limit,
        requested,
        expires_at: answer.entitlement.expires_at,
        account: answer.account,
        feature: answer.feature_key,
    })
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
    let answers = or_raise(match account {
        None => Ok(Vec::new()),
        Some(account) => MEMO.with(|memo| memo.resolve_all(AccountName::Text(account.as_bytes()))),
    });
    TableIterator::new(answers.into_iter().map(|answer| {
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

#[pg_extern(sql = false)]
fn entitled_accounts(feature: Option<&str>) -> SetOfIterator<'static, String> {
    let accounts = or_raise(match feature {
        None => Err(Error::argument("feature", "it is NULL")),
        Some(feature) => MEMO.with(|memo| memo.accounts_granted(feature.as_bytes())),
    });
    SetOfIterator::new(accounts)
}
