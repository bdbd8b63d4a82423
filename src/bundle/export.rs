//! Stating what accounts hold here, for a database elsewhere.
//!
//! What is stated is what holds now and later, so a subscription is stated by its present term, and what is scheduled after it
//! under a ref of its own. A subscription that is pinned to an earlier version of its plan is stated with a plan of that
//! version's own, `<plan>.v<number>`: the audience has no versions but those that bundles bring.

use super::deployment::{Deployment, database_name};
use super::{SOURCE_PREFIX, document};
use crate::accounts::arguments::{required, required_moment, timestamp, transaction_time};
use crate::audit::{self, Chain, Change};
use crate::catalog::stored;
use crate::error::Error;
use crate::licence;
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use crate::pg::session::{Actor, connect_to_change};
use crate::pg::settings;
use crate::pg::snapshot::statement_time;
use crate::row::{present, present_time};
use entitlements_bundle::{
    Account, BUNDLE_TYPE, Bundle, Digest, IntroducedKey, Jws, Mode, NumericDate, Override, OverrideValue, PrivateKey,
    PublicKey, Subscription,
};
use entitlements_model::amount::Amount;
use entitlements_model::catalog::{self, Cell, Definition, DocValue, PresentPlan, State};
use entitlements_model::json::{self, Json, Limits};
use entitlements_model::key::{AccountKey, FeatureKey, PlanKey};
use entitlements_model::kind::OverrideMode;
use entitlements_model::time::{FOREVER, Time};
use pgrx::datum::Interval;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

#[expect(clippy::too_many_arguments, reason = "the arguments of the SQL function")]
#[pg_extern(sql = false)]
fn export_bundle(
    audience: Option<&str>,
    accounts: Option<Vec<Option<String>>>,
    expires_at: Option<TimestampWithTimeZone>,
    grace: Option<Interval>,
    heartbeat: Option<Interval>,
    mode: Option<&str>,
    sign: Option<bool>,
    introduce: Option<JsonbText>,
) -> String {
    or_raise(connect_to_change(|client| {
        let audience = database_name("audience", audience)?;
        let expires = NumericDate::from_time(required_moment("expires_at", expires_at)?);
        let grace = duration(client, "grace", required("grace", grace)?, 0)?;
        let heartbeat = heartbeat.map(|heartbeat| duration(client, "heartbeat", heartbeat, 1)).transpose()?;
        let mode: Mode = required("mode", mode)?.parse().map_err(|fault| Error::argument("mode", format!("it {fault}")))?;
        let key = match required("sign", sign)? {
            true => Some(licence::signing_key(client)?),
            false => None,
        };
        let keys = introduced(introduce)?;
        let accounts = accounts.map(named).transpose()?;
        let now = NumericDate::from_time(statement_time());
        if expires <= now {
            return Err(Error::argument("expires_at", "it is not in the future"));
        }

        audit::take_turn(client, Chain::Catalog)?;
        let Some(issuer) = Deployment::read(client)?.name else {
            return Err(Error::Conflict {
                message: "this database has no name to issue a bundle under".to_owned(),
                hint: "Give it one with entitlements.set_deployment; it is the issuer that others trust keys of.".to_owned(),
            });
        };
        let (last, previous) = last_issued(client, audience)?;
        let (accounts, catalog) = Holdings::read(client, accounts, audience)?;
        let bundle = Bundle {
            issuer,
            audience: audience.to_owned(),
            issued_at: now,
            not_before: now,
            expires,
            sequence: last + 1,
            previous,
            grace,
            heartbeat,
            mode,
            catalog,
            accounts,
            keys,
            revoked: licence::revoked_ids(client)?,
        };
        let payload = bundle.to_json().to_string();
        // What is issued is what the other side reads.
        if let Err(faults) = Bundle::parse(payload.as_bytes()) {
            let fault = faults.first().map_or_else(String::new, |fault| format!("{}: {}", fault.path, fault.fault));
            return Err(cannot_state(fault));
        }
        note_issue(client, &bundle, Digest::of(payload.as_bytes()), key.as_ref())?;
        Ok(match key {
            Some(key) => Jws::sign(payload.as_bytes(), BUNDLE_TYPE, &key),
            None => payload,
        })
    }))
}

fn cannot_state(fault: impl Into<String>) -> Error {
    Error::Conflict {
        message: format!("this cannot be stated in a bundle: {}", fault.into()),
        hint: "Name the accounts that can be, or change what cannot.".to_owned(),
    }
}

fn duration(client: &SpiClient<'_>, argument: &'static str, value: Interval, least: i64) -> Result<i64, Error> {
    const SECONDS: &str = "SELECT pg_catalog.ceil(extract(epoch FROM $1))::pg_catalog.int8";
    let seconds = client.select(SECONDS, Some(1), &[value.into()])?.first().get_one::<i64>()?.unwrap_or(-1);
    /// Ten years, the longest that a bundle can say.
    const MOST: i64 = 315_360_000;
    if (least..=MOST).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(Error::argument(argument, format!("it is not {least} seconds to ten years")))
    }
}

/// The key in the file that a superuser's setting names.
pub fn signing_key() -> Result<PrivateKey, Error> {
    let setting = "entitlements.signing_key_file";
    let Some(file) = settings::signing_key_file() else {
        return Err(Error::Conflict {
            message: format!("{setting} is not set"),
            hint: "It names the file with the private key; with sign => false the claims can be signed elsewhere."
                .to_owned(),
        });
    };
    let key = document::read_secret(&file, setting)?;
    PrivateKey::from_jwk(&key).map_err(|_| Error::Conflict {
        message: format!("the file that {setting} names has no private key of Ed25519"),
        hint: "entitlements-bundle keygen makes one.".to_owned(),
    })
}

fn introduced(keys: Option<JsonbText>) -> Result<Vec<IntroducedKey>, Error> {
    let Some(JsonbText(text)) = keys else { return Ok(Vec::new()) };
    let wrong = |fault: String| Error::argument("introduce", fault);
    let keys = json::parse(&text, Limits::CATALOG).map_err(|_| wrong("it is no JSON Web Key".to_owned()))?;
    let keys = match keys {
        Json::Array(keys) => keys,
        key => vec![key],
    };
    let read = |key: &Json| {
        let key = PublicKey::from_json(key).map_err(|error| wrong(error.to_string()))?;
        Ok(IntroducedKey { key, not_before: None, not_after: None })
    };
    keys.iter().map(read).collect()
}

fn named(accounts: Vec<Option<String>>) -> Result<BTreeSet<String>, Error> {
    accounts.into_iter().map(|account| account.ok_or_else(|| Error::argument("accounts", "one of them is NULL"))).collect()
}

fn last_issued(client: &SpiClient<'_>, audience: &str) -> Result<(i64, Option<Digest>), Error> {
    const LAST: &str = "SELECT sequence, digest FROM entitlements.issued_bundles WHERE audience = $1 ORDER BY sequence DESC";
    let found = client.select(LAST, Some(1), &[audience.into()])?;
    if found.is_empty() {
        return Ok((0, None));
    }
    let (sequence, digest) = found.first().get_two::<i64, String>()?;
    Ok((sequence.unwrap_or(0), digest.and_then(|digest| digest.parse().ok())))
}

fn note_issue(client: &mut SpiClient<'_>, bundle: &Bundle, digest: Digest, key: Option<&PrivateKey>) -> Result<(), Error> {
    let kid = key.map(|key| key.public().kid().to_string());
    client.update(
        "INSERT INTO entitlements.issued_bundles (audience, sequence, digest, kid, issued_at, expires_at, issued_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        None,
        &[
            bundle.audience.as_str().into(),
            bundle.sequence.into(),
            digest.to_string().into(),
            kid.as_deref().into(),
            timestamp(bundle.issued_at.time()).into(),
            timestamp(bundle.expires.time()).into(),
            Actor::current().role.into(),
        ],
    )?;
    let change = Change {
        action: "export",
        object: "bundle",
        object_id: format!("{} {}", bundle.audience, bundle.sequence),
        old: None,
        new: Some(json!({
            "digest": digest.to_string(), "kid": kid, "accounts": bundle.accounts.len(), "expires_at": bundle.expires.seconds(),
            "grace": bundle.grace, "mode": bundle.mode.as_str(),
        })),
        reason: None,
    };
    audit::record(client, Chain::Catalog, &[change])
}

/// Rows in the order in which they are stated. What came by a bundle is stated only of accounts that are named.
const SUBSCRIPTIONS: &str = "
    SELECT account.key, held.id, plan.key, version.version, held.quantity, held.starts_at, held.in_force_until, held.term_starts_at
      FROM entitlements.subscriptions AS held
      JOIN entitlements.accounts AS account ON account.id = held.account_id
      JOIN entitlements.plans AS plan ON plan.id = held.plan_id
      LEFT JOIN entitlements.plan_versions AS version ON version.id = held.plan_version_id
     WHERE held.superseded_at IS NULL AND held.in_force_until > greatest(pg_catalog.now(), held.starts_at)
       AND account.erased_at IS NULL
       AND CASE WHEN $1 IS NULL THEN NOT pg_catalog.starts_with(held.source, $2) ELSE account.key = ANY ($1) END
     ORDER BY account.key, held.id, held.starts_at";

const OVERRIDES: &str = "
    SELECT account.key, feature.key, exception.mode, exception.enabled, exception.config::pg_catalog.text, exception.amount::pg_catalog.text,
           exception.reason, exception.expires_at
      FROM entitlements.overrides AS exception
      JOIN entitlements.accounts AS account ON account.id = exception.account_id
      JOIN entitlements.features AS feature ON feature.id = exception.feature_id
     WHERE exception.ended_at IS NULL AND exception.expires_at > pg_catalog.now() AND account.erased_at IS NULL
       AND CASE WHEN $1 IS NULL THEN NOT pg_catalog.starts_with(exception.source, $2) ELSE account.key = ANY ($1) END
     ORDER BY account.key, feature.key, exception.id";

const BLOCKS: &str = "
    SELECT account.key, feature.key, block.reason
      FROM entitlements.blocks AS block
      JOIN entitlements.accounts AS account ON account.id = block.account_id
      LEFT JOIN entitlements.features AS feature ON feature.id = block.feature_id
     WHERE block.ended_at IS NULL AND account.erased_at IS NULL AND ($1 IS NULL OR account.key = ANY ($1))
     ORDER BY account.key, block.id";

const ACCOUNTS: &str = "SELECT key FROM entitlements.accounts WHERE key = ANY ($1) AND erased_at IS NULL";

const CELLS: &str = "
    SELECT feature.key, cell.enabled, cell.config::pg_catalog.text, cell.amount::pg_catalog.text, cell.per_unit, version.rank
      FROM entitlements.plan_versions AS version
      JOIN entitlements.plans AS plan ON plan.id = version.plan_id
      LEFT JOIN entitlements.plan_features AS cell ON cell.plan_version_id = version.id
      LEFT JOIN entitlements.features AS feature ON feature.id = cell.feature_id
     WHERE plan.key = $1 AND version.version = $2";

/// A part of a subscription's life on one set of terms.
struct Part {
    account: String,
    id: i64,
    plan: String,
    version: Option<i32>,
    quantity: i32,
    starts_at: Time,
    ends_at: Time,
    term_starts_at: Time,
}

impl Part {
    fn read(row: &SpiHeapTupleData<'_>) -> Result<Self, Error> {
        let time = |column| present_time(row, column);
        Ok(Self {
            account: present(row, 1)?,
            id: present(row, 2)?,
            plan: present(row, 3)?,
            version: row.get(4)?,
            quantity: present(row, 5)?,
            starts_at: time(6)?,
            ends_at: time(7)?,
            term_starts_at: time(8)?,
        })
    }

    fn goes_on_as(&self, next: &Self) -> bool {
        let of = |part: &Self| (part.id, part.version, part.quantity, part.term_starts_at);
        of(self) == of(next) && self.plan == next.plan && self.ends_at == next.starts_at
    }
}

struct Holdings {
    state: State,
    /// Plans that are stated, and features of overrides.
    plans: BTreeSet<PlanKey>,
    features: BTreeSet<FeatureKey>,
    accounts: BTreeMap<AccountKey, Account>,
}

impl Holdings {
    fn read(
        client: &SpiClient<'_>,
        names: Option<BTreeSet<String>>,
        audience: &str,
    ) -> Result<(BTreeMap<AccountKey, Account>, Option<Json>), Error> {
        let state = stored::read(client)?;
        let mut holdings = Self { state, plans: BTreeSet::new(), features: BTreeSet::new(), accounts: BTreeMap::new() };
        if let Some(names) = &names {
            holdings.name(client, names)?;
        }
        let names: Option<Vec<String>> = names.map(|names| names.into_iter().collect());
        holdings.subscriptions(client, names.clone())?;
        holdings.overrides(client, names.clone())?;
        for (account, delegation) in licence::delegations(client, audience, names.clone())? {
            holdings.features.insert(delegation.feature.clone());
            holdings.account(&account)?.delegations.push(delegation);
        }
        holdings.blocks(client, names)?;
        let catalog = holdings.catalog();
        Ok((holdings.accounts, catalog))
    }

    fn name(&mut self, client: &SpiClient<'_>, names: &BTreeSet<String>) -> Result<(), Error> {
        let asked: Vec<String> = names.iter().cloned().collect();
        for row in client.select(ACCOUNTS, None, &[asked.into()])? {
            self.account(&present::<String>(&row, 1)?)?;
        }
        match names.iter().find(|name| !self.accounts.contains_key(name.as_str())) {
            None => Ok(()),
            Some(account) => Err(Error::UnknownAccount { account: account.clone() }),
        }
    }

    fn account(&mut self, key: &str) -> Result<&mut Account, Error> {
        let key: AccountKey = stored::parsed(key)?;
        Ok(self.accounts.entry(key).or_default())
    }

    fn subscriptions(&mut self, client: &SpiClient<'_>, names: Option<Vec<String>>) -> Result<(), Error> {
        let mut parts: Vec<Part> = Vec::new();
        for row in client.select(SUBSCRIPTIONS, None, &[names.into(), SOURCE_PREFIX.into()])? {
            let part = Part::read(&row)?;
            match parts.last_mut() {
                Some(last) if last.goes_on_as(&part) => last.ends_at = part.ends_at,
                _ => parts.push(part),
            }
        }
        let now = transaction_time();
        let mut before = None;
        for part in parts {
            let is_first = before.replace(part.id) != Some(part.id);
            let starts_at = if part.starts_at <= now { part.term_starts_at } else { part.starts_at };
            let starts_at = NumericDate::from_time(starts_at);
            let plan = self.plan(client, &part.plan, part.version)?;
            let reference = if is_first { part.id.to_string() } else { format!("{}@{}", part.id, starts_at.seconds()) };
            let subscription = Subscription {
                reference,
                plan,
                quantity: part.quantity,
                starts_at,
                ends_at: (part.ends_at != FOREVER).then(|| NumericDate::from_time(part.ends_at)),
            };
            self.account(&part.account)?.subscriptions.push(subscription);
        }
        Ok(())
    }

    /// The plan that stands for this version; without one, and for the latest, the plan itself.
    fn plan(&mut self, client: &SpiClient<'_>, key: &str, version: Option<i32>) -> Result<PlanKey, Error> {
        let plan: PlanKey = stored::parsed(key)?;
        let latest = self.state.plans.get(&plan).map(|present| present.version);
        let key = match version.filter(|version| Some(*version) != latest) {
            None => plan,
            Some(version) => {
                let name = format!("{key}.v{version}");
                let key = PlanKey::parse(&name).map_err(|error| cannot_state(format!("the plan key {name} {error}")))?;
                match self.state.plans.get(&key) {
                    Some(known) if known.version != version || !self.plans.contains(&key) => {
                        return Err(cannot_state(format!("version {version} of plan {plan}, as a plan {key} exists")));
                    }
                    Some(_) => {}
                    None => {
                        let former = self.former(client, &plan, version)?;
                        self.state.plans.insert(key.clone(), former);
                    }
                }
                key
            }
        };
        self.plans.insert(key.clone());
        Ok(key)
    }

    /// An earlier version of a plan as a plan that extends no other.
    fn former(&self, client: &SpiClient<'_>, plan: &PlanKey, version: i32) -> Result<PresentPlan, Error> {
        let unknown = || Error::Internal(format!("version {version} of plan {plan} cannot be read"));
        let mut rank = None;
        let mut cells = BTreeMap::new();
        for row in client.select(CELLS, None, &[plan.as_str().into(), version.into()])? {
            rank = row.get::<i32>(6)?;
            let Some(feature) = row.get::<String>(1)? else { continue };
            let (config, amount) = (row.get::<String>(3)?, row.get::<String>(4)?);
            let value = stored::value(row.get(2)?, config.as_deref(), amount.as_deref(), row.get(5)?.unwrap_or(false))?;
            cells.insert(stored::parsed::<FeatureKey>(&feature)?, Cell { value, inherited: false });
        }
        let present = self.state.plans.get(plan).ok_or_else(unknown)?;
        let own = cells.iter().map(|(feature, cell): (&FeatureKey, &Cell)| (feature.clone(), Some(cell.value.clone())));
        let definition = Definition { extends: None, rank: rank.ok_or_else(unknown)?, features: own.collect() };
        Ok(PresentPlan { plan: present.plan.clone(), version, definition, cells })
    }

    fn overrides(&mut self, client: &SpiClient<'_>, names: Option<Vec<String>>) -> Result<(), Error> {
        for row in client.select(OVERRIDES, None, &[names.into(), SOURCE_PREFIX.into()])? {
            let feature: FeatureKey = stored::parsed(&present::<String>(&row, 2)?)?;
            let mode = stored::parsed::<OverrideMode>(&present::<String>(&row, 3)?)?;
            let (config, amount) = (row.get::<String>(5)?, row.get::<String>(6)?);
            let value = || stored::value(row.get(4)?, config.as_deref(), amount.as_deref(), false);
            let value = match mode {
                OverrideMode::Deny => OverrideValue::Deny,
                OverrideMode::Set => OverrideValue::Set(value()?.to_json()),
                OverrideMode::Add => match value()? {
                    DocValue::Metered { allowance: entitlements_model::amount::Allowance::Finite(amount), .. } => {
                        OverrideValue::Add(amount)
                    }
                    // Unlimited on top of anything is unlimited.
                    value => OverrideValue::Set(value.to_json()),
                },
            };
            let expires_at = Time::from(present::<TimestampWithTimeZone>(&row, 8)?);
            let stated = Override {
                feature: feature.clone(),
                value,
                reason: present(&row, 7)?,
                expires_at: (expires_at != FOREVER).then(|| NumericDate::from_time(expires_at)),
            };
            self.features.insert(feature);
            let overrides = &mut self.account(&present::<String>(&row, 1)?)?.overrides;
            match overrides.iter_mut().find(|known| known.feature == stated.feature) {
                Some(known) => merge(known, stated),
                None => overrides.push(stated),
            }
        }
        Ok(())
    }

    /// A blocked account holds nothing; a blocked feature is denied. What was delegated to the account counts at the audience until
    /// its lease ends, whatever is stated, so that is denied too.
    fn blocks(&mut self, client: &SpiClient<'_>, names: Option<Vec<String>>) -> Result<(), Error> {
        for row in client.select(BLOCKS, None, &[names.into()])? {
            let feature = row.get::<String>(2)?.map(|key| stored::parsed::<FeatureKey>(&key)).transpose()?;
            let reason: String = present(&row, 3)?;
            let key: String = present(&row, 1)?;
            if !self.accounts.contains_key(key.as_str()) {
                continue;
            }
            let account = self.account(&key)?;
            match feature {
                None => {
                    let delegated = account.delegations.iter().map(|delegation| delegation.feature.clone());
                    let delegated: BTreeSet<FeatureKey> = delegated.collect();
                    let overrides = delegated.into_iter().map(|feature| denied(feature, &reason)).collect();
                    *account = Account { overrides, ..Account::default() };
                }
                Some(feature) => {
                    account.overrides.retain(|known| known.feature != feature);
                    account.overrides.push(denied(feature.clone(), &reason));
                    self.features.insert(feature);
                }
            }
        }
        Ok(())
    }

    /// The plans and features that it takes to read what is stated.
    fn catalog(&mut self) -> Option<Json> {
        let mut plans = self.plans.clone();
        let mut next: Vec<PlanKey> = plans.iter().cloned().collect();
        while let Some(plan) = next.pop() {
            let parent = self.state.plans.get(&plan).and_then(|present| present.definition.extends.clone());
            next.extend(parent.filter(|parent| plans.insert(parent.clone())));
        }
        let mut features = self.features.clone();
        for present in self.state.plans.iter().filter(|(key, _)| plans.contains(*key)).map(|(_, present)| present) {
            features.extend(present.cells.keys().cloned());
            features.extend(present.definition.features.keys().cloned());
        }
        let mut next: Vec<FeatureKey> = features.iter().cloned().collect();
        while let Some(feature) = next.pop() {
            let drawn = self.state.features.get(&feature).and_then(|present| present.feature.draws_on.as_ref());
            next.extend(drawn.map(|drawn| drawn.feature.clone()).filter(|drawn| features.insert(drawn.clone())));
        }
        self.state.plans.retain(|key, _| plans.contains(key));
        self.state.features.retain(|key, _| features.contains(key));
        self.state.prices.clear();
        let Json::Object(mut members) = catalog::export(&self.state) else { return None };
        members.retain(|(member, _)| member != "revision");
        for (member, features) in &mut members {
            if let ("features", Json::Object(features)) = (member.as_str(), features) {
                features.iter_mut().for_each(|(_, feature)| state_defaults(feature));
            }
        }
        (!members.is_empty()).then_some(Json::Object(members))
    }
}

fn denied(feature: FeatureKey, reason: &str) -> Override {
    Override { feature, value: OverrideValue::Deny, reason: reason.to_owned(), expires_at: None }
}

/// What decides how much of a feature can be used. Where it is at its default that is stated too, since members that a document
/// does not name stay as they are where it is applied.
const DECISIVE: [&str; 9] = ["combine", "period", "anchor", "overage", "ceiling", "rollover", "draws_on", "lease", "burst"];

fn state_defaults(feature: &mut Json) {
    if let Json::Object(members) = feature {
        for name in DECISIVE {
            if !members.iter().any(|(member, _)| member == name) {
                members.push((name.into(), Json::Null));
            }
        }
    }
}

/// Several sources' overrides of one feature as one: deny beats set beats add, of several to set the newest counts, amounts add
/// up. It expires with the first of those it is made from.
fn merge(known: &mut Override, other: Override) {
    let strength = |stated: &Override| match stated.value {
        OverrideValue::Deny => 2,
        OverrideValue::Set(_) => 1,
        OverrideValue::Add(_) => 0,
    };
    if strength(&other) < strength(known) {
        return;
    }
    if let (OverrideValue::Add(one), OverrideValue::Add(more)) = (&mut known.value, &other.value) {
        *one = Amount::saturating_add(*one, *more);
        known.expires_at = [known.expires_at, other.expires_at].into_iter().flatten().min();
        return;
    }
    *known = other;
}
