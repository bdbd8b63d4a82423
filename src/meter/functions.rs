//! The consume family as SQL calls it.

use super::consume::{Entry, Request, give_back, take};
use super::decision::Decision;
use super::idempotency::{Call, once};
use crate::error::Error;
use crate::pg::composite::CompositeValue;
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use crate::pg::number::AmountArgument;
use entitlements_model::amount::Amount;
use pgrx::prelude::*;

/// A number of units to take or give back.
pub fn units(argument: &'static str, n: Option<AmountArgument>) -> Result<Amount, Error> {
    let AmountArgument(n) = n.ok_or_else(|| Error::argument(argument, "it is NULL"))?;
    match n {
        Ok(Amount::ZERO) => Err(Error::argument(argument, "it is zero")),
        Ok(amount) => Ok(amount),
        Err(fault) => Err(Error::argument(argument, fault.to_string())),
    }
}

pub fn feature_key(feature: Option<&str>) -> Result<&str, Error> {
    feature.ok_or_else(|| Error::argument("feature", "it is NULL"))
}

/// The decision, or the error that it is as one.
pub fn or_denial(decision: Decision) -> Result<Decision, Error> {
    if decision.allowed { Ok(decision) } else { Err(decision.into_error()) }
}

/// A call of the family as SQL makes it.
pub struct Arguments<'a> {
    pub account: Option<&'a str>,
    pub feature: Option<&'a str>,
    pub n: Option<AmountArgument>,
    pub idempotency_key: Option<&'a str>,
    pub metadata: Option<JsonbText>,
}

impl Arguments<'_> {
    pub fn consume(self) -> Result<CompositeValue, Error> {
        self.run("consume", "consume", |request| take(request, true).and_then(|(decision, _)| or_denial(decision)))
    }

    pub fn try_consume(self) -> Result<CompositeValue, Error> {
        self.run("try_consume", "consume", |request| take(request, false).map(|(decision, _)| decision))
    }

    pub fn release(self) -> Result<CompositeValue, Error> {
        self.run("release", "release", give_back)
    }

    /// Does what is asked for, once where it is asked for under a key.
    fn run(
        self,
        function: &'static str,
        action: &'static str,
        work: impl FnOnce(Request<'_>) -> Result<Decision, Error>,
    ) -> Result<CompositeValue, Error> {
        let (feature, n) = (feature_key(self.feature)?, units("n", self.n)?);
        let metadata = self.metadata.as_ref().map(|JsonbText(text)| text.as_str());
        let entry = Some(Entry { action, idempotency_key: self.idempotency_key, metadata });
        let request = Request { account: self.account, feature, n, whole: false, entry };
        let Some(key) = self.idempotency_key else { return work(request)?.into_composite() };
        let amount = n.to_string();
        let arguments = vec![Some(feature), Some(amount.as_str()), metadata];
        let call = Call { function, account: self.account, key, arguments };
        let mut decisions = once(&call, || work(request).map(|decision| vec![decision]))?;
        decisions.pop().ok_or_else(|| Error::Internal("a stored decision is missing".to_owned()))?.into_composite()
    }
}

#[pg_extern(sql = false)]
fn consume(
    account: Option<&str>,
    feature: Option<&str>,
    n: Option<AmountArgument>,
    idempotency_key: Option<&str>,
    metadata: Option<JsonbText>,
) -> CompositeValue {
    or_raise(Arguments { account, feature, n, idempotency_key, metadata }.consume())
}

#[pg_extern(sql = false)]
fn try_consume(
    account: Option<&str>,
    feature: Option<&str>,
    n: Option<AmountArgument>,
    idempotency_key: Option<&str>,
    metadata: Option<JsonbText>,
) -> CompositeValue {
    or_raise(Arguments { account, feature, n, idempotency_key, metadata }.try_consume())
}

#[pg_extern(sql = false)]
fn release(
    account: Option<&str>,
    feature: Option<&str>,
    n: Option<AmountArgument>,
    idempotency_key: Option<&str>,
    metadata: Option<JsonbText>,
) -> CompositeValue {
    or_raise(Arguments { account, feature, n, idempotency_key, metadata }.release())
}
