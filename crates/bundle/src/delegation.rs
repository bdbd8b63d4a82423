//! Units that a site has for a time: taken out of the vendor's own pools, carried in bundles, given back by a signed return.
//!
//! The invariant, of vendor and site together: a unit counts in one place at a time. The site counts it until the lease ends, by
//! its own time and whatever arrives; the vendor counts it again once the site has signed that it does not, or once the lease is
//! long over. Which delegations a site has had it remembers, so one that ended never comes back.

use std::collections::HashSet;

use entitlements_model::amount::Amount;
use entitlements_model::fault::{Fault, Faults, Path};
use entitlements_model::json::{Json, Limits};
use entitlements_model::key::FeatureKey;

use crate::date::NumericDate;
use crate::jws::{DELEGATION_RETURN_TYPE, Jws};
use crate::key::PrivateKey;
use crate::policy;
use crate::read::{self, Object};
use crate::refusal::Refusal;
use crate::standing::Clock;
use crate::trust::{Authentic, Document, Purpose};

pub const RETURN_LIMITS: Limits = Limits { bytes: 16 << 10, depth: 4, nodes: 100 };

/// Of one account, in a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    /// `id`: the issuer's number for it; none is used twice.
    pub id: i64,
    pub feature: FeatureKey,
    pub amount: Amount,
    /// `ends_at`: when the site counts the units no longer.
    pub ends_at: NumericDate,
}

/// A site ends a delegation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelegationReturn {
    /// `iss`: the site.
    pub issuer: String,
    /// `aud`: the issuer of the delegation.
    pub audience: String,
    /// `iat`
    pub issued_at: NumericDate,
    /// `id` of the delegation.
    pub id: i64,
    /// `unused`: what nobody has used; the rest stays used.
    pub unused: Amount,
}

impl Delegation {
    fn read(json: &Json, path: &Path, faults: &mut Faults) -> Option<Self> {
        let object = Object::read(json, path, &["id", "feature", "amount", "ends_at"], faults)?;
        let id = object.required("id", faults, read::sequence);
        let feature = object.required("feature", faults, read::parsed);
        let amount = object.required("amount", faults, read::amount);
        let ends_at = object.required("ends_at", faults, read::date);
        let delegation = Self { id: id?, feature: feature?, amount: amount?, ends_at: ends_at? };
        if delegation.amount == Amount::ZERO {
            faults.push(&path.member("amount"), || "is zero".into());
            return None;
        }
        Some(delegation)
    }

    pub(crate) fn to_json(&self) -> Json {
        Json::object([
            ("id", Json::number(self.id)),
            ("feature", Json::string(self.feature.as_str())),
            ("amount", Json::number(self.amount)),
            ("ends_at", Json::number(self.ends_at.seconds())),
        ])
    }
}

/// No two of an account with the same id.
pub(crate) fn read_all(json: &Json, path: &Path, faults: &mut Faults) -> Option<Vec<Delegation>> {
    let items = read::items(json, path, faults)?;
    let mut delegations = Vec::with_capacity(items.len());
    let mut seen = HashSet::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let path = path.item(index);
        let Some(delegation) = Delegation::read(item, &path, faults) else { continue };
        if seen.insert(delegation.id) {
            delegations.push(delegation);
        } else {
            faults.push(&path.member("id"), || "appears more than once".into());
        }
    }
    (delegations.len() == items.len()).then_some(delegations)
}

impl DelegationReturn {
    pub fn sign(&self, key: &PrivateKey) -> String {
        Jws::sign(self.to_json().to_string().as_bytes(), DELEGATION_RETURN_TYPE, key)
    }

    pub fn to_json(&self) -> Json {
        Json::object([
            ("iss", Json::string(&self.issuer)),
            ("aud", Json::string(&self.audience)),
            ("iat", Json::number(self.issued_at.seconds())),
            ("id", Json::number(self.id)),
            ("unused", Json::number(self.unused)),
        ])
    }
}

impl Document for DelegationReturn {
    const TYPE: &'static str = DELEGATION_RETURN_TYPE;
    const LIMITS: Limits = RETURN_LIMITS;
    /// Both say what was used at a site.
    const PURPOSE: Purpose = Purpose::UsageReport;

    fn parse(payload: &[u8]) -> Result<Self, Vec<Fault>> {
        read::document(payload, RETURN_LIMITS, |json, faults| {
            let root = Path::Root;
            let object = Object::read(json, &root, &["iss", "aud", "iat", "id", "unused"], faults)?;
            let issuer = object.required("iss", faults, read::name);
            let audience = object.required("aud", faults, read::name);
            let issued_at = object.required("iat", faults, read::date);
            let id = object.required("id", faults, read::sequence);
            let unused = object.required("unused", faults, read::amount);
            Some(Self { issuer: issuer?, audience: audience?, issued_at: issued_at?, id: id?, unused: unused? })
        })
    }

    fn issuer(&self) -> &str {
        &self.issuer
    }
}

/// What an authentic return means for the issuer `audience` of the delegation. It is of any age, but its key has to sign now.
pub fn judge_return(
    authentic: Authentic<DelegationReturn>,
    audience: &str,
    clock: Clock,
) -> Result<DelegationReturn, Refusal> {
    let returned = authentic.document();
    if returned.audience != audience {
        let claimed = returned.audience.clone();
        return Err(Refusal::OtherAudience { audience: claimed, deployment: audience.to_owned() });
    }
    policy::in_time(&authentic, returned.issued_at, returned.issued_at, None, clock.time())?;
    Ok(authentic.into_document())
}
