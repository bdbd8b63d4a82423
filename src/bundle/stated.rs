//! What a bundle states, in the ids of this database's catalog.
//!
//! A subscription holds the version of its plan that is the latest once the bundle's own catalog is applied: what an issuer
//! granted follows from its last bundle alone, not from the bundles that arrived before it.

use crate::accounts::account::ERASED_PREFIX;
use crate::accounts::arguments::timestamp;
use crate::accounts::feature_override::{Value, compiled};
use crate::error::Error;
use entitlements_bundle::{Account, Bundle, Delegation, Override, OverrideValue, Subscription};
use entitlements_model::catalog::{Change, Row, Schema};
use entitlements_model::fault::{Excerpt, Fault, Faults, Path};
use entitlements_model::json::Json;
use entitlements_model::kind::{Kind, OverrideMode, Status};
use entitlements_model::time::{FOREVER, Time};
use entitlements_model::timeline::Stretch;
use pgrx::spi::SpiClient;
use std::borrow::Cow;
use std::collections::HashMap;

/// What is bought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    pub plan: i32,
    /// None follows each publication, which a bundle never states.
    pub version: Option<i64>,
    pub quantity: i32,
}

/// An override but for whose it is and of what.
#[derive(Clone, PartialEq)]
pub struct Exception<'b> {
    pub mode: OverrideMode,
    pub value: Value,
    pub reason: Cow<'b, str>,
    pub expires_at: Time,
}

pub struct StatedAccount<'b> {
    pub key: &'b str,
    /// By ref.
    pub subscriptions: Vec<(&'b str, Stretch<Terms>)>,
    /// By the feature's id.
    pub overrides: Vec<(i32, Exception<'b>)>,
}

struct Feature {
    id: i32,
    kind: Kind,
    schema: Option<Schema>,
}

/// The plans and features that a bundle can name, and their keys by id. What a bundle's catalog is about to make has ids below
/// zero.
pub struct Catalog {
    plans: HashMap<String, (i32, i64)>,
    features: HashMap<String, Feature>,
    plan_keys: HashMap<i32, String>,
    /// The numbers of all versions, by their ids.
    version_numbers: HashMap<i64, i32>,
    feature_keys: HashMap<i32, String>,
}

const PLANS: &str = "
    SELECT plan.key, plan.id, latest.id
      FROM entitlements.plans AS plan
     CROSS JOIN LATERAL (SELECT version.id FROM entitlements.plan_versions AS version
                          WHERE version.plan_id = plan.id AND version.published_at <= $1 ORDER BY version.version DESC LIMIT 1) AS latest";

const VERSIONS: &str = "SELECT id, version FROM entitlements.plan_versions";

const FEATURES: &str = "SELECT key, id, kind, value_schema::pg_catalog.text FROM entitlements.features";

impl Catalog {
    /// With the versions that were the latest at `at`.
    pub fn read(client: &SpiClient<'_>, at: Time) -> Result<Self, Error> {
        let (mut plans, mut plan_keys) = (HashMap::new(), HashMap::new());
        for row in client.select(PLANS, None, &[timestamp(at).into()])? {
            if let (Some(key), Some(id), Some(version)) = (row.get::<String>(1)?, row.get(2)?, row.get(3)?) {
                plan_keys.insert(id, key.clone());
                plans.insert(key, (id, version));
            }
        }
        let mut version_numbers = HashMap::new();
        for row in client.select(VERSIONS, None, &[])? {
            version_numbers.extend(row.get::<i64>(1)?.zip(row.get::<i32>(2)?));
        }
        let (mut features, mut feature_keys) = (HashMap::new(), HashMap::new());
        for row in client.select(FEATURES, None, &[])? {
            if let (Some(key), Some(id), Some(kind)) = (row.get::<String>(1)?, row.get(2)?, row.get::<String>(3)?) {
                let kind = kind.parse().map_err(|_| Error::Internal(format!("feature \"{key}\" is of no known kind")))?;
                let schema = row.get::<String>(4)?.map(|schema| compiled(&key, &schema)).transpose()?;
                feature_keys.insert(id, key.clone());
                features.insert(key, Feature { id, kind, schema });
            }
        }
        Ok(Self { plans, features, plan_keys, version_numbers, feature_keys })
    }

    /// The catalog once these changes are made.
    pub fn after(&mut self, changes: &[Change]) -> Result<(), Error> {
        for (number, change) in (1i32..).zip(changes) {
            match &change.row {
                Row::Feature(key, feature) => {
                    let schema = feature.schema.as_ref().map(Schema::compile).transpose().map_err(Error::Internal)?;
                    let id = self.features.get(key.as_str()).map_or(-number, |known| known.id);
                    self.feature_keys.insert(id, key.to_string());
                    self.features.insert(key.to_string(), Feature { id, kind: feature.kind, schema });
                }
                Row::PlanVersion(version) => {
                    let key = version.plan.as_str();
                    let id = self.plans.get(key).map_or(-number, |(id, _)| *id);
                    self.plan_keys.insert(id, key.to_owned());
                    self.version_numbers.insert(i64::from(-number), version.version);
                    self.plans.insert(key.to_owned(), (id, i64::from(-number)));
                }
                Row::Plan(..) | Row::Price(..) => {}
            }
        }
        Ok(())
    }

    pub fn plan_key(&self, id: i32) -> &str {
        self.plan_keys.get(&id).map_or("?", String::as_str)
    }

    pub fn version_number(&self, id: i64) -> Option<i32> {
        self.version_numbers.get(&id).copied()
    }

    pub fn feature_key(&self, id: i32) -> &str {
        self.feature_keys.get(&id).map_or("?", String::as_str)
    }

    /// The accounts of a bundle, or all that this catalog does not allow.
    pub fn read_accounts<'b>(&self, bundle: &'b Bundle) -> Result<Vec<StatedAccount<'b>>, Vec<Fault>> {
        let mut faults = Faults::default();
        let mut accounts = Vec::with_capacity(bundle.accounts.len());
        let (root, member) = (Path::Root, "accounts");
        let path = root.member(member);
        for (key, account) in &bundle.accounts {
            let path = path.member(key.as_str());
            if key.as_str().starts_with(ERASED_PREFIX) {
                faults.push(&path, || format!("keys that start with {ERASED_PREFIX} belong to erased accounts"));
            }
            accounts.push(self.account(key.as_str(), account, &path, &mut faults));
        }
        if faults.is_empty() { Ok(accounts) } else { Err(faults.into_vec()) }
    }

    fn account<'b>(&self, key: &'b str, account: &'b Account, path: &Path, faults: &mut Faults) -> StatedAccount<'b> {
        let (subscriptions_path, overrides_path) = (path.member("subscriptions"), path.member("overrides"));
        let delegations_path = path.member("delegations");
        for (at, item) in account.delegations.iter().enumerate() {
            self.check_delegation(item, &delegations_path.item(at), faults);
        }
        let subscriptions = account.subscriptions.iter().enumerate();
        let overrides = account.overrides.iter().enumerate();
        StatedAccount {
            key,
            subscriptions: subscriptions
                .filter_map(|(at, item)| self.subscription(item, &subscriptions_path.item(at), faults))
                .collect(),
            overrides: overrides.filter_map(|(at, item)| self.exception(item, &overrides_path.item(at), faults)).collect(),
        }
    }

    fn check_delegation(&self, item: &Delegation, path: &Path, faults: &mut Faults) {
        let fault = match self.features.get(item.feature.as_str()).map(|feature| feature.kind) {
            None => format!("there is no feature '{}'", Excerpt(item.feature.as_str())),
            Some(Kind::Quota | Kind::Allocation) => return,
            Some(kind) => format!("no units can be delegated of a {kind}"),
        };
        faults.push(&path.member("feature"), || fault);
    }

    fn subscription<'b>(
        &self,
        item: &'b Subscription,
        path: &Path,
        faults: &mut Faults,
    ) -> Option<(&'b str, Stretch<Terms>)> {
        let Some((plan, version)) = self.plans.get(item.plan.as_str()).copied() else {
            faults.push(&path.member("plan"), || format!("there is no plan '{}'", Excerpt(item.plan.as_str())));
            return None;
        };
        let starts_at = item.starts_at.time();
        let stretch = Stretch {
            status: Status::Active,
            starts_at,
            ends_at: item.ends_at.map_or(FOREVER, |ends_at| ends_at.time()),
            term_starts_at: starts_at,
            grace_until: None,
            terms: Terms { plan, version: Some(version), quantity: item.quantity },
        };
        Some((&item.reference, stretch))
    }

    fn exception<'b>(&self, item: &'b Override, path: &Path, faults: &mut Faults) -> Option<(i32, Exception<'b>)> {
        let Some(feature) = self.features.get(item.feature.as_str()) else {
            faults.push(&path.member("feature"), || format!("there is no feature '{}'", Excerpt(item.feature.as_str())));
            return None;
        };
        let value = match &item.value {
            OverrideValue::Deny => Ok(Value::default()),
            OverrideValue::Add(_) if !feature.kind.is_metered() => {
                Err(format!("nothing can be added to a {}", feature.kind))
            }
            OverrideValue::Add(amount) => Value::of(feature.kind, None, &Json::number(amount)),
            OverrideValue::Set(value) => Value::of(feature.kind, feature.schema.as_ref(), value),
        };
        let value = value.map_err(|fault| faults.push(&path.member("value"), || fault)).ok()?;
        let exception = Exception {
            mode: item.value.mode(),
            value,
            reason: Cow::Borrowed(&item.reason),
            expires_at: item.expires_at.map_or(FOREVER, |expires_at| expires_at.time()),
        };
        Some((feature.id, exception))
    }
}

/// Config values as jsonb writes them, to be compared with what is stored.
pub fn as_stored(client: &SpiClient<'_>, accounts: &mut [StatedAccount<'_>]) -> Result<(), Error> {
    let mut configs: Vec<&mut String> = accounts
        .iter_mut()
        .flat_map(|account| &mut account.overrides)
        .filter_map(|(_, exception)| exception.value.config.as_mut())
        .collect();
    if configs.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> = configs.iter().map(|config| config.as_str().to_owned()).collect();
    const NORMALISE: &str = "SELECT config::pg_catalog.jsonb::pg_catalog.text
        FROM pg_catalog.unnest($1) WITH ORDINALITY AS stated (config, place) ORDER BY place";
    for (config, row) in configs.iter_mut().zip(client.select(NORMALISE, None, &[texts.into()])?) {
        **config = row.get(1)?.unwrap_or_default();
    }
    Ok(())
}
