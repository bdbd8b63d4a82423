//! Licences that end before their time.
//!
//! A licence that was revoked can be shown until the end it was signed with; so its seat stays taken until then, and the list of
//! revoked licences names it. One whose machine has signed that it gave it up frees its seat at once, if the seat was taken for
//! a licence.

use super::own_name;
use crate::accounts::account::{Account, raw};
use crate::accounts::arguments::{required, required_text};
use crate::audit::{self, Change};
use crate::bundle::deployment::Deployment;
use crate::error::Error;
use crate::meter::seat;
use crate::pg::error::or_raise;
use crate::pg::session::{Actor, connect_to_change};
use entitlements_bundle::{Binding, Deactivation, Refusal};
use pgrx::Uuid;
use pgrx::prelude::*;
use pgrx::spi::{Spi, SpiClient};
use serde_json::json;
use std::collections::BTreeSet;

fn unknown(id: impl ToString) -> Error {
    Error::UnknownRow { object: "licence", id: id.to_string() }
}

/// The account of a licence, when its turn has come.
fn take_account(client: &mut SpiClient<'_>, id: Uuid) -> Result<Account, Error> {
    const ACCOUNT: &str = "SELECT account_id FROM entitlements.licences WHERE id = $1";
    let found = client.update(ACCOUNT, Some(1), &[id.into()])?;
    let account = found.into_iter().next().ok_or_else(|| unknown(id))?.get(1)?;
    Account::take_by_id(client, account.ok_or_else(|| unknown(id))?)
}

#[pg_extern(sql = false)]
fn revoke_licence(id: Option<Uuid>, reason: Option<&str>) -> bool {
    or_raise(connect_to_change(|client| {
        let id = required("id", id)?;
        let reason = required_text("reason", reason)?;
        let account = take_account(client, id)?;
        let revoked = client.update(
            "UPDATE entitlements.licences AS licence
                SET revoked_at = greatest(pg_catalog.now(), issued_at), revoked_by = $2, revoked_reason = $3
              WHERE id = $1 AND revoked_at IS NULL RETURNING pg_catalog.to_jsonb(licence)::pg_catalog.text",
            None,
            &[id.into(), Actor::current().role.into(), reason.into()],
        )?;
        if revoked.is_empty() {
            return Ok(false);
        }
        let change = Change {
            action: "revoke",
            object: "licence",
            object_id: id.to_string(),
            old: None,
            new: revoked.first().get_one()?.map(raw),
            reason: Some(reason.to_owned()),
        };
        audit::record(client, account.chain(), &[change])?;
        Ok::<_, Error>(true)
    }))
}

/// Whose seat a licence has taken.
struct Seat {
    account: String,
    feature: String,
    holder: String,
}

#[pg_extern(sql = false)]
fn deactivate_licence(document: Option<&str>) -> bool {
    or_raise(required("document", document).and_then(deactivate))
}

fn deactivate(document: &str) -> Result<bool, Error> {
    let deactivated = connect_to_change(|client| {
        let deployment = Deployment::read(client)?;
        let received = Deactivation::open(document, own_name(&deployment)?)?;
        note_deactivation(client, &received.document)
    })?;
    match deactivated {
        None => Ok(false),
        Some(seat) => {
            if let Some(Seat { account, feature, holder }) = seat {
                seat::give_up(&account, &feature, &holder, "deactivated")?;
            }
            Ok(true)
        }
    }
}

/// None if the licence was deactivated before; the seat if it was taken for a licence and nothing else of its holder needs it.
fn note_deactivation(client: &mut SpiClient<'_>, document: &Deactivation) -> Result<Option<Option<Seat>>, Error> {
    let text = &document.licence;
    if !super::issue::is_id(text) {
        return Err(unknown(text));
    }
    let found = client.update("SELECT $1::pg_catalog.uuid", Some(1), &[text.as_str().into()])?;
    let id: Uuid = found.first().get_one()?.ok_or_else(|| unknown(text))?;
    let account = take_account(client, id)?;
    const READ: &str = "SELECT machine, machine_key, deactivated_at IS NOT NULL FROM entitlements.licences
          WHERE id = $1 FOR NO KEY UPDATE";
    let found = client.update(READ, Some(1), &[id.into()])?;
    let row = found.into_iter().next().ok_or_else(|| unknown(text))?;
    let (machine, key) = (row.get::<String>(1)?, row.get::<String>(2)?);
    let machine = machine.and_then(|machine| machine.parse().ok()).ok_or(Refusal::OtherMachine)?;
    let binding = Binding { machine, key: key.and_then(|key| key.parse().ok()), nonce: None };
    document.is_of(text, &binding)?;
    if row.get::<bool>(3)? != Some(false) {
        return Ok(None);
    }
    client.update(
        "UPDATE entitlements.licences SET deactivated_at = greatest(pg_catalog.now(), issued_at) WHERE id = $1",
        None,
        &[id.into()],
    )?;
    let change = Change {
        action: "deactivate",
        object: "licence",
        object_id: id.to_string(),
        old: None,
        new: Some(json!({ "made_at": document.made_at.seconds(), "machine": machine.to_string() })),
        reason: None,
    };
    audit::record(client, account.chain(), &[change])?;
    const FREE: &str = "SELECT account.key, feature.key, licence.holder
           FROM entitlements.licences AS licence
           JOIN entitlements.accounts AS account ON account.id = licence.account_id
           JOIN entitlements.features AS feature ON feature.id = licence.seat_feature_id
          WHERE licence.id = $1
            AND NOT EXISTS (SELECT FROM entitlements.licences AS other
                             WHERE other.account_id = licence.account_id AND other.seat_feature_id = licence.seat_feature_id
                               AND other.holder = licence.holder AND other.deactivated_at IS NULL
                               AND other.expires_at > pg_catalog.statement_timestamp())
            AND EXISTS (SELECT FROM entitlements.licences AS taking JOIN entitlements.seats AS seat ON seat.id = taking.seat_id
                         WHERE taking.account_id = licence.account_id AND taking.seat_feature_id = licence.seat_feature_id
                           AND taking.holder = licence.holder AND seat.ended_at IS NULL)";
    let found = client.update(FREE, Some(1), &[id.into()])?;
    let Some(row) = found.into_iter().next() else { return Ok(Some(None)) };
    let seat = match (row.get(1)?, row.get(2)?, row.get(3)?) {
        (Some(account), Some(feature), Some(holder)) => Some(Seat { account, feature, holder }),
        _ => None,
    };
    Ok(Some(seat))
}

/// Those that were revoked or given up and could still be shown.
fn revoked(client: &SpiClient<'_>) -> Result<Vec<(Uuid, TimestampWithTimeZone, TimestampWithTimeZone)>, Error> {
    const REVOKED: &str = "SELECT id, least(revoked_at, deactivated_at), expires_at FROM entitlements.licences
          WHERE (revoked_at IS NOT NULL OR deactivated_at IS NOT NULL) AND expires_at > pg_catalog.statement_timestamp() ORDER BY id";
    let mut revoked = Vec::new();
    for row in client.select(REVOKED, None, &[])? {
        if let (Some(id), Some(at), Some(until)) = (row.get(1)?, row.get(2)?, row.get(3)?) {
            revoked.push((id, at, until));
        }
    }
    Ok(revoked)
}

/// Their ids, for the next bundle.
pub fn revoked_ids(client: &SpiClient<'_>) -> Result<BTreeSet<String>, Error> {
    Ok(revoked(client)?.into_iter().map(|(id, ..)| id.to_string()).collect())
}

type RevokedRow = (String, Option<TimestampWithTimeZone>, Option<TimestampWithTimeZone>, Option<String>);

/// With those of other issuers, whose bundles in force name them.
fn all_revoked(client: &SpiClient<'_>) -> Result<Vec<RevokedRow>, Error> {
    let own = Deployment::read(client)?.name;
    let own = revoked(client)?.into_iter().map(|(id, at, until)| (id.to_string(), Some(at), Some(until), own.clone()));
    let mut all: Vec<RevokedRow> = own.collect();
    const OF_OTHERS: &str = "SELECT licence.id, bundle.issuer FROM entitlements.bundles AS bundle, pg_catalog.unnest(bundle.revoked) AS licence (id)
          WHERE bundle.superseded_at IS NULL ORDER BY bundle.issuer, licence.id";
    for row in client.select(OF_OTHERS, None, &[])? {
        all.extend(row.get::<String>(1)?.zip(row.get::<String>(2)?).map(|(id, issuer)| (id, None, None, Some(issuer))));
    }
    Ok(all)
}

#[expect(clippy::type_complexity, reason = "the columns of the SQL function")]
#[pg_extern(sql = false)]
fn revoked_licences() -> TableIterator<
    'static,
    (
        name!(id, String),
        name!(ended_at, Option<TimestampWithTimeZone>),
        name!(expires_at, Option<TimestampWithTimeZone>),
        name!(issuer, Option<String>),
    ),
> {
    TableIterator::new(or_raise(Spi::connect(all_revoked)))
}

/// Revokes all licences of an account that is being erased, and forgets whom and which machine they were for.
pub fn end_all(client: &mut SpiClient<'_>, account: i64) -> Result<(), Error> {
    client.update(
        "UPDATE entitlements.licences
            SET holder = 'erased', audience = NULL, machine = NULL, machine_key = NULL, nonce = NULL,
                revoked_at = coalesce(revoked_at, greatest(pg_catalog.now(), issued_at)), revoked_by = coalesce(revoked_by, $2),
                revoked_reason = 'erased'
          WHERE account_id = $1",
        None,
        &[account.into(), Actor::current().role.into()],
    )?;
    Ok(())
}
