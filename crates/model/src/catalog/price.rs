//! Prices: what a price of a billing or CRM system sells.

use crate::fault::Path;
use crate::json::Json;
use crate::key::{AccountKey, KeyError, PlanKey};

use super::read::{self, Findings};

/// A price's name: the connector that knows it, and its id there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PriceKey {
    connector: String,
    external_id: String,
}

impl PriceKey {
    /// A connector has the form of a plan key, an external id that of an account key.
    pub fn parse(connector: &str, external_id: &str) -> Result<PriceKey, KeyError> {
        PlanKey::parse(connector)?;
        AccountKey::parse(external_id)?;
        Ok(PriceKey { connector: connector.to_owned(), external_id: external_id.to_owned() })
    }

    pub fn connector(&self) -> &str {
        &self.connector
    }

    pub fn external_id(&self) -> &str {
        &self.external_id
    }
}

/// What a price sells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    pub plan: PlanKey,
    /// `None` sells the version that is the latest when the subscription begins.
    pub version: Option<i32>,
    pub quantity: u32,
}

const MEMBERS: [&str; 3] = ["plan", "version", "quantity"];

impl Price {
    pub fn to_json(&self) -> Json {
        let mut members = vec![("plan", Json::string(self.plan.as_str()))];
        members.extend(self.version.map(|version| ("version", Json::number(version))));
        if self.quantity != 1 {
            members.push(("quantity", Json::number(self.quantity)));
        }
        Json::object(members)
    }

    /// A document states a price completely.
    pub(super) fn read(json: &Json, path: &Path, findings: &mut Findings) -> Option<Price> {
        let members = read::object(json, path, findings)?;
        let (mut plan, mut version, mut quantity) = (None, Some(None), Some(1));
        let range = || 1..=i64::from(i32::MAX);
        for (member, json) in members {
            let path = path.member(member);
            match member.as_str() {
                "plan" => plan = Some(read::parsed(json, &path, findings)),
                "version" => version = read::nullable(json, |json| read::integer(json, range(), &path, findings)),
                "quantity" => {
                    let read = read::nullable(json, |json| read::integer(json, range(), &path, findings));
                    quantity = read.map(|quantity| quantity.unwrap_or(1));
                }
                _ => read::unknown_member(member, &MEMBERS, &path, findings),
            }
        }
        if plan.is_none() {
            findings.fault(path, || "a price needs a plan".into());
        }
        Some(Price { plan: plan??, version: version?.map(|version| version as i32), quantity: quantity? as u32 })
    }
}
