//! Accepting a bundle.

use super::deployment::{self, Deployment};
use super::difference::{self, AccountDifference};
use super::stated::{self, Catalog, StatedAccount};
use super::write::{self, Cause, MOST_COMPARISONS, Outcome};
use super::{document, present, source_of, supersede, trust};
use crate::accounts::arguments::{required, timestamp, transaction_time};
use crate::audit::{self, Chain, Change};
use crate::catalog::functions::changes_to;
use crate::catalog::write::write as write_catalog;
use crate::error::{Error, RefusedBundle, summary};
use crate::licence::{self, ArrivingDelegation};
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use crate::pg::session::{Actor, connect_to_change};
use entitlements_bundle::{
    Acceptance, Accepted, Authentic, Bundle, Judgement, Purpose, Refusal, Terms, TrustSet, authenticate, judge,
};
use entitlements_model::catalog;
use entitlements_model::fault::Fault;
use entitlements_model::time::FOREVER;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::json;
use std::collections::BTreeSet;

/// A row of what import_bundle gives.
pub struct Row {
    action: &'static str,
    object: &'static str,
    account: Option<String>,
    key: Option<String>,
    detail: String,
}

/// Of a text as of a bytea: as arguments both are their bytes, and a database's text is UTF-8.
#[expect(clippy::type_complexity, reason = "the columns of the type bundle_change, which pgrx takes no alias for")]
#[pg_extern(sql = false)]
fn import_bundle(
    document: Option<&[u8]>,
    dry_run: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(action, String),
        name!(object, String),
        name!(account, Option<String>),
        name!(key, Option<String>),
        name!(detail, JsonbText),
    ),
> {
    let row = |row: Row| (row.action.to_owned(), row.object.to_owned(), row.account, row.key, JsonbText(row.detail));
    TableIterator::new(or_raise(import(document, dry_run)).into_iter().map(row))
}

fn import(document: Option<&[u8]>, dry_run: Option<bool>) -> Result<Vec<Row>, Error> {
    let document = required("document", document)?;
    let dry_run = required("dry_run", dry_run)?;
    let text = document::open(document)?;
    if dry_run {
        return Spi::connect(|client| {
            let authentic = authenticate(&text, &trust::read(client)?)?;
            let Some(accepted) = judged(client, &text, authentic)? else { return Ok(Vec::new()) };
            let plan = Plan::of(client, &accepted.acceptance.bundle)?;
            let arrivals = Arrivals::of(client, &accepted.acceptance.bundle)?;
            let differences = differences(client, &accepted.acceptance.bundle, plan.accounts)?;
            Ok(describe(&accepted.acceptance, &plan.changes, &differences, &arrivals, &plan.catalog))
        });
    }
    connect_to_change(|client| {
        let trust = trust::read(client)?;
        if is_in_force(client, &text, &trust)? {
            return Ok(Vec::new());
        }
        // Who is no issuer here need not make others wait.
        let authentic = authenticate(&text, &trust)?;
        audit::take_turn(client, Chain::Catalog)?;
        let Some(accepted) = judged(client, &text, authentic)? else { return Ok(Vec::new()) };
        accept(client, &text, accepted)
    })
}

/// A bundle that is accepted, and the key that signed it.
struct Judged {
    acceptance: Acceptance,
    kid: String,
}

/// Whether this is, byte for byte, the document of a bundle in force whose key is still trusted: what was found out about it then
/// needs no second look.
fn is_in_force(client: &SpiClient<'_>, text: &str, trust: &TrustSet) -> Result<bool, Error> {
    const SAME: &str = "
        SELECT bundle.issuer, bundle.kid FROM entitlements.bundles AS bundle JOIN entitlements.deployment ON deployment.name = bundle.audience
         WHERE bundle.superseded_at IS NULL AND bundle.reset_to IS NULL
           AND pg_catalog.octet_length(bundle.document) = $2 AND bundle.document = $1";
    let found = client.select(SAME, Some(1), &[text.as_bytes().into(), (text.len() as i32).into()])?;
    if found.is_empty() {
        return Ok(false);
    }
    let (issuer, kid) = found.first().get_two::<String, String>()?;
    let known = kid.and_then(|kid| kid.parse().ok()).and_then(|kid| trust.get(kid));
    Ok(known.is_some_and(|known| {
        !known.distrusted && known.purpose == Purpose::Bundle && Some(&known.issuer) == issuer.as_ref()
    }))
}

/// None for the bundle that is in force already. Whoever is trusted may have changed since the document was checked.
fn judged(client: &SpiClient<'_>, text: &str, authentic: Authentic) -> Result<Option<Judged>, Error> {
    let trust = trust::read(client)?;
    let authentic = match trust.get(authentic.signer().key.kid()) {
        Some(known) if known == authentic.signer() => authentic,
        _ => authenticate(text, &trust)?,
    };
    let deployment = Deployment::read(client)?;
    let kid = authentic.signer().key.kid().to_string();
    let name = deployment.name.as_deref().unwrap_or_default();
    let last = Last::read(client, &authentic.bundle().issuer, name)?;
    let sequence = authentic.bundle().sequence;
    if let Some(Last { reset_to: Some(reset_to), .. }) = &last
        && sequence <= *reset_to
        && authentic.bundle().audience == name
    {
        return Err(Refusal::Replayed { sequence, last: *reset_to }.into());
    }
    let accepted = last.filter(|last| last.reset_to.is_none()).map(|last| last.accepted);
    match judge(authentic, name, &trust, accepted, deployment.clock())? {
        Judgement::NoOp => Ok(None),
        Judgement::Accept(acceptance) => Ok(Some(Judged { acceptance: *acceptance, kid })),
    }
}

/// The last bundle of the issuer for this database under its present name, also when it is not in force any more: issuers number
/// bundles for each name.
struct Last {
    accepted: Accepted,
    /// Where its sequence number was reset, or what it brought was ended: numbers above this one are accepted next.
    reset_to: Option<i64>,
}

impl Last {
    fn read(client: &SpiClient<'_>, issuer: &str, audience: &str) -> Result<Option<Self>, Error> {
        const READ: &str =
            "SELECT sequence, digest, coalesce(reset_to, CASE WHEN superseded_at IS NOT NULL THEN sequence - 1 END)
               FROM entitlements.bundles WHERE issuer = $1 AND audience = $2 ORDER BY id DESC";
        let found = client.select(READ, Some(1), &[issuer.into(), audience.into()])?;
        if found.is_empty() {
            return Ok(None);
        }
        let (sequence, digest, reset_to) = found.first().get_three::<i64, String, i64>()?;
        let (Some(sequence), Some(digest)) = (sequence, digest.and_then(|digest| digest.parse().ok())) else {
            return Err(Error::Internal("the bundle in force has no sequence and digest".to_owned()));
        };
        Ok(Some(Self { accepted: Accepted { sequence, digest }, reset_to }))
    }
}

/// What a bundle means for this catalog.
struct Plan<'b> {
    changes: Vec<catalog::Change>,
    /// As it is once the changes are made.
    catalog: Catalog,
    accounts: Vec<StatedAccount<'b>>,
}

impl<'b> Plan<'b> {
    /// Refuses what the catalog, with the bundle's own part applied, does not allow.
    fn of(client: &SpiClient<'_>, bundle: &'b Bundle) -> Result<Self, Error> {
        let changes = match &bundle.catalog {
            Some(document) => changes_to(client, document).map_err(of_the_catalog)?,
            None => Vec::new(),
        };
        let mut catalog = Catalog::read(client, FOREVER)?;
        catalog.after(&changes)?;
        let mut accounts = catalog.read_accounts(bundle).map_err(Refusal::Invalid)?;
        stated::as_stored(client, &mut accounts)?;
        Ok(Self { changes, catalog, accounts })
    }
}

/// What a bundle brings beside the catalog and what accounts hold, as far as it is new here.
struct Arrivals<'b> {
    delegations: Vec<ArrivingDelegation<'b>>,
    /// Licences that the issuer's bundle before did not revoke, and those that only that one did.
    revoked: Vec<&'b str>,
    forgotten: Vec<String>,
}

impl<'b> Arrivals<'b> {
    fn of(client: &SpiClient<'_>, bundle: &'b Bundle) -> Result<Self, Error> {
        const REVOKED: &str = "SELECT revoked FROM entitlements.bundles WHERE issuer = $1 AND superseded_at IS NULL";
        let found = client.select(REVOKED, Some(1), &[bundle.issuer.as_str().into()])?;
        let known: BTreeSet<String> = match found.is_empty() {
            true => BTreeSet::new(),
            false => found.first().get_one::<Vec<String>>()?.unwrap_or_default().into_iter().collect(),
        };
        Ok(Self {
            delegations: licence::arriving_delegations(client, bundle)?,
            revoked: bundle.revoked.iter().map(String::as_str).filter(|id| !known.contains(*id)).collect(),
            forgotten: known.into_iter().filter(|id| !bundle.revoked.contains(id)).collect(),
        })
    }
}

/// The faults of a bundle's catalog are faults of the bundle.
fn of_the_catalog(error: Error) -> Error {
    let below = |faults: Vec<Fault>| -> Vec<Fault> {
        let below = |Fault { path, fault }| Fault { path: path.replacen('$', "$.catalog", 1), fault };
        faults.into_iter().map(below).collect()
    };
    match error {
        Error::InvalidDocument { faults } => Refusal::Invalid(below(faults)).into(),
        Error::DocumentConflict { faults } => {
            let faults = below(faults);
            let message = format!("the bundle's catalog conflicts with what is published: {}", summary(&faults));
            Error::BundleRefused(Box::new(RefusedBundle::new("catalog_conflict", message, faults)))
        }
        Error::Conflict { message, .. } => {
            Error::BundleRefused(Box::new(RefusedBundle::new("catalog_conflict", message, Vec::new())))
        }
        error => error,
    }
}

fn differences<'b>(
    client: &SpiClient<'_>,
    bundle: &Bundle,
    stated: Vec<StatedAccount<'b>>,
) -> Result<Vec<AccountDifference<'b>>, Error> {
    let present = present::read(client, &source_of(&bundle.issuer), stated.iter().map(|account| account.key))?;
    Ok(difference::between(present, stated, transaction_time()))
}

fn accept(client: &mut SpiClient<'_>, text: &str, Judged { acceptance, kid }: Judged) -> Result<Vec<Row>, Error> {
    let bundle = &acceptance.bundle;
    let mut plan = Plan::of(client, bundle)?;
    if !plan.changes.is_empty() {
        write_catalog(client, &plan.changes)?;
        plan.catalog = Catalog::read(client, FOREVER)?;
        plan.accounts = plan.catalog.read_accounts(bundle).map_err(Refusal::Invalid)?;
        stated::as_stored(client, &mut plan.accounts)?;
    }
    let name = format!("{} {}", bundle.issuer, bundle.sequence);
    trust::introduce(client, &acceptance.introduces, &kid, &format!("introduced by the bundle {name}"))?;
    let source = source_of(&bundle.issuer);
    let arrivals = Arrivals::of(client, bundle)?;
    let mut accounts = Some(plan.accounts);
    for _ in 0..MOST_COMPARISONS {
        let stated = match accounts.take() {
            Some(accounts) => accounts,
            None => {
                let mut accounts = plan.catalog.read_accounts(bundle).map_err(Refusal::Invalid)?;
                stated::as_stored(client, &mut accounts)?;
                accounts
            }
        };
        // A connection of its own, whose end frees what was read.
        let mut differences = Spi::connect_mut(|client| differences(client, bundle, stated))?;
        // What is new is told from the differences before they get their ids.
        let rows = describe(&acceptance, &plan.changes, &differences, &arrivals, &plan.catalog);
        let cause = Cause { action: "import", bundle: &name, reason: None };
        if write::write(&source, cause, &mut differences, &plan.catalog)? == Outcome::Written {
            drop(differences);
            keep(client, text, &acceptance, &kid, &name)?;
            licence::receive_delegations(client, &bundle.issuer, &arrivals.delegations)?;
            return Ok(rows);
        }
    }
    Err(Error::Serialization)
}

/// Makes the bundle the one in force. Who published a plan while this waited may have begun later: what a subscription holds is
/// the version that was the latest when the bundle was accepted.
fn keep(client: &mut SpiClient<'_>, text: &str, acceptance: &Acceptance, kid: &str, name: &str) -> Result<(), Error> {
    let bundle = &acceptance.bundle;
    let terms = Terms::of(bundle);
    let accounts = bundle.accounts.values();
    let subscriptions: usize = accounts.clone().map(|account| account.subscriptions.len()).sum();
    let overrides: usize = accounts.map(|account| account.overrides.len()).sum();
    supersede(client, &bundle.issuer)?;
    client.update(
        "INSERT INTO entitlements.bundles (issuer, audience, sequence, digest, kid, issued_at, expires_at, grace_ends_at, heartbeat_due_at, mode,
                                           missed, accounts, subscriptions, overrides, accepted_at, accepted_by, document, revoked)
         VALUES ($1, $16, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
                 (SELECT greatest(pg_catalog.now(), pg_catalog.max(published_at)) FROM entitlements.plan_versions), $14, $15, $17)",
        None,
        &[
            bundle.issuer.as_str().into(),
            bundle.sequence.into(),
            acceptance.accepted.digest.to_string().into(),
            kid.into(),
            timestamp(terms.issued_at).into(),
            timestamp(terms.expires).into(),
            timestamp(terms.grace_ends).into(),
            terms.heartbeat_due.map(timestamp).into(),
            terms.mode.as_str().into(),
            acceptance.missed.into(),
            (bundle.accounts.len() as i64).into(),
            (subscriptions as i64).into(),
            (overrides as i64).into(),
            Actor::current().role.into(),
            text.as_bytes().into(),
            bundle.audience.as_str().into(),
            (!bundle.revoked.is_empty()).then(|| bundle.revoked.iter().cloned().collect::<Vec<String>>()).into(),
        ],
    )?;
    deployment::raise_highest(client, acceptance.highest)?;
    deployment::know_place(client)?;
    let change = Change {
        action: "import",
        object: "bundle",
        object_id: name.to_owned(),
        old: None,
        new: Some(json!({
            "digest": acceptance.accepted.digest.to_string(), "kid": kid, "mode": terms.mode.as_str(), "missed": acceptance.missed,
            "accounts": bundle.accounts.len(), "subscriptions": subscriptions, "overrides": overrides,
            "revoked": bundle.revoked.len(), "expires_at": bundle.expires.seconds(), "grace": bundle.grace,
        })),
        reason: None,
    };
    audit::record(client, Chain::Catalog, &[change])
}

fn describe(
    acceptance: &Acceptance,
    changes: &[catalog::Change],
    differences: &[AccountDifference<'_>],
    arrivals: &Arrivals<'_>,
    catalog: &Catalog,
) -> Vec<Row> {
    let mut rows = Vec::new();
    rows.extend(changes.iter().map(|change| Row {
        action: change.action.as_str(),
        object: change.object().as_str(),
        account: None,
        key: Some(change.key()),
        detail: change.detail.to_string(),
    }));
    rows.extend(acceptance.introduces.iter().map(|known| Row {
        action: "added",
        object: "key",
        account: None,
        key: Some(known.key.kid().to_string()),
        detail: json!({ "issuer": known.issuer }).to_string(),
    }));
    for difference in differences {
        let row = |action, object, key: Option<&str>, detail: String| Row {
            action,
            object,
            account: Some(difference.key.to_string()),
            key: key.map(str::to_owned),
            detail,
        };
        if difference.id.is_none() {
            rows.push(row("added", "account", None, "{}".to_owned()));
        }
        for subscription in &difference.subscriptions {
            let step = subscription.step(catalog);
            rows.push(row(step.action, "subscription", Some(&subscription.reference), step.detail().to_string()));
        }
        for exception in &difference.overrides {
            let step = exception.step();
            let feature = catalog.feature_key(exception.feature);
            rows.push(row(step.action, "override", Some(feature), step.detail().to_string()));
        }
    }
    rows.extend(arrivals.delegations.iter().map(|ArrivingDelegation { account, delegation }| Row {
        action: "added",
        object: "delegation",
        account: Some(account.to_string()),
        key: Some(delegation.id.to_string()),
        detail: json!({
            "feature": delegation.feature.as_str(), "amount": delegation.amount.to_string(), "ends_at": delegation.ends_at.seconds(),
        })
        .to_string(),
    }));
    let revocation = |action, id: &str| Row {
        action,
        object: "revocation",
        account: None,
        key: Some(id.to_owned()),
        detail: json!({ "issuer": acceptance.bundle.issuer }).to_string(),
    };
    rows.extend(arrivals.revoked.iter().map(|id| revocation("added", id)));
    rows.extend(arrivals.forgotten.iter().map(|id| revocation("ended", id)));
    rows
}
