//! The record that metering answers with.

use super::look::Look;
use super::write::sql_amount;
use crate::check::functions::sql_time;
use crate::error::{Error, Exceeded};
use crate::pg::composite::{Composite, CompositeType, CompositeValue, SignedAmount};
use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::kind::{Kind, Reason};
use entitlements_model::time::Time;
use pgrx::AnyNumeric;

static DECISION: CompositeType = CompositeType::new(c"decision");

/// An answer, as the type `decision` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub reason: Reason,
    pub account: Option<String>,
    pub feature: String,
    pub kind: Kind,
    /// None for features that are not metered.
    pub amounts: Option<Amounts>,
    pub expires_at: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amounts {
    pub allowance: Allowance,
    pub used: Amount,
    pub remaining: Allowance,
    pub requested: Amount,
    /// Negative billionths stand for units given back.
    pub consumed: i128,
    pub overage: Amount,
    pub resets_at: Option<Time>,
}

impl Decision {
    /// What the look shows, after `consumed` billionths of a unit were consumed.
    pub fn of(look: &Look, allowed: bool, reason: Reason, requested: Amount, consumed: i128) -> Self {
        let own = look.charges.first();
        let amounts = look.feature.resolved.kind.is_metered().then(|| Amounts {
            allowance: own.map_or(look.allowance, |charge| charge.whole_allowance()),
            used: own.map_or(Amount::ZERO, |charge| charge.used()),
            remaining: look.remaining(),
            requested,
            consumed,
            overage: own.map_or(Amount::ZERO, |charge| charge.overage()),
            resets_at: own.and_then(|charge| charge.resets_at()),
        });
        Self {
            allowed,
            reason,
            account: look.account_key.clone(),
            feature: look.feature.key.as_str().to_owned(),
            kind: look.feature.resolved.kind,
            amounts,
            expires_at: look.expires_at,
        }
    }

    pub fn into_composite(self) -> Result<CompositeValue, Error> {
        let amount = |of: fn(Amounts) -> Amount| self.amounts.map(|amounts| of(amounts).into());
        let limit = |of: fn(Amounts) -> Allowance| match self.amounts.map(of) {
            Some(Allowance::Finite(amount)) => Some(amount.into()),
            Some(Allowance::Unlimited) | None => None,
        };
        let decision = Composite::of(&DECISION)?
            .with(Some(self.allowed))
            .with_text(Some(self.reason.as_str()))
            .with_text(self.account.as_deref())
            .with_text(Some(&self.feature))
            .with_text(Some(self.kind.as_str()))
            .with_amount(limit(|amounts| amounts.allowance))
            .with_amount(amount(|amounts| amounts.used))
            .with_amount(limit(|amounts| amounts.remaining))
            .with_amount(amount(|amounts| amounts.requested))
            .with_amount(self.amounts.map(|amounts| SignedAmount(amounts.consumed)))
            .with_amount(amount(|amounts| amounts.overage))
            .with(self.amounts.and_then(|amounts| amounts.resets_at).and_then(sql_time))
            .with(self.expires_at.and_then(sql_time));
        Ok(decision.build())
    }

    /// As the error that `consume` raises.
    pub fn into_error(self) -> Error {
        match (self.reason, self.amounts) {
            (Reason::LimitExceeded | Reason::RateLimited, Some(amounts)) => Error::LimitExceeded(Box::new(Exceeded {
                account: self.account.unwrap_or_default(),
                feature: self.feature,
                reason: self.reason,
                allowance: amounts.allowance,
                used: amounts.used,
                requested: amounts.requested,
                resets_at: amounts.resets_at,
            })),
            _ => Error::NotEntitled { account: self.account, feature: self.feature, kind: self.kind, reason: self.reason },
        }
    }
}

/// Billionths as a numeric.
pub fn signed(billionths: i128) -> AnyNumeric {
    let amount = Amount::from_nanos(billionths.abs()).map_or(AnyNumeric::from(0), sql_amount);
    if billionths < 0 { -amount } else { amount }
}
