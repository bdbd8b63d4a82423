//! The accounts themselves: finding, creating, and their place below a parent.

use super::arguments::{self, required, required_text};
use crate::audit::{self, Chain, Change};
use crate::error::Error;
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use crate::pg::session::connect_to_change;
use crate::pg::subtransaction::upsert;
use entitlements_model::key::AccountKey;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::value::RawValue;

/// Most generations above an account.
const MOST_ANCESTORS: usize = 15;

/// Keys of erased accounts start so; no other account's key does.
pub const ERASED_PREFIX: &str = "erased:";

/// An account whose turn this transaction has.
pub struct Account {
    pub id: i64,
}

impl Account {
    pub fn chain(&self) -> Chain {
        Chain::Account(self.id)
    }

    /// The account with this key, when its turn has come. NE006 if there is none, NE009 if it is erased.
    pub fn take(client: &mut SpiClient<'_>, key: Option<&str>) -> Result<Self, Error> {
        let key = required("account", key)?;
        let unknown = || Error::UnknownAccount { account: key.to_owned() };
        let account = Self { id: id_of(client, key)?.ok_or_else(unknown)? };
        audit::take_turn(client, account.chain())?;
        // It may have been erased while this transaction waited.
        if id_of(client, key)? != Some(account.id) {
            return Err(unknown());
        }
        account.refuse_erased(client)?;
        Ok(account)
    }

    /// The account with this id, when its turn has come.
    pub fn take_by_id(client: &mut SpiClient<'_>, id: i64) -> Result<Self, Error> {
        let account = Self { id };
        audit::take_turn(client, account.chain())?;
        account.refuse_erased(client)?;
        Ok(account)
    }

    /// The account with this key, when its turn has come; created if there is none.
    pub fn take_or_create(client: &mut SpiClient<'_>, key: Option<&str>) -> Result<Self, Error> {
        let key = required("account", key)?;
        if id_of(client, key)?.is_some() {
            return Self::take(client, Some(key));
        }
        match create(client, key, None)? {
            Some(account) => Ok(account),
            None => Self::take(client, Some(key)),
        }
    }

    fn refuse_erased(&self, client: &mut SpiClient<'_>) -> Result<(), Error> {
        let found = client.update(
            "SELECT FROM entitlements.accounts WHERE id = $1 AND erased_at IS NOT NULL",
            Some(1),
            &[self.id.into()],
        )?;
        if found.is_empty() {
            return Ok(());
        }
        Err(Error::Conflict {
            message: format!("account {} is erased", self.id),
            hint: "Nothing can be added to it. Its former key is free for a new account.".to_owned(),
        })
    }

    /// Keeps which parent the account has had until now, if it gets another.
    pub fn keep_parent(&self, client: &mut SpiClient<'_>, next: Option<i64>) -> Result<(), Error> {
        upsert(
            client,
            c"former_parents",
            "INSERT INTO entitlements.former_parents (account_id, until, parent_id)
             SELECT id, greatest(pg_catalog.now(), created_at,
                                 (SELECT pg_catalog.max(until) FROM entitlements.former_parents WHERE account_id = id)), parent_id
               FROM entitlements.accounts WHERE id = $1 AND parent_id IS DISTINCT FROM $2
             ON CONFLICT (account_id, until) DO NOTHING",
            &[self.id.into(), next.into()],
        )?;
        Ok(())
    }

    /// The account's row as JSON.
    pub fn row(&self, client: &mut SpiClient<'_>) -> Result<Box<RawValue>, Error> {
        let found = client.update(
            "SELECT pg_catalog.to_jsonb(account)::pg_catalog.text FROM entitlements.accounts account WHERE id = $1",
            Some(1),
            &[self.id.into()],
        )?;
        Ok(raw(found.first().get_one()?.expect("the account is there")))
    }
}

/// JSON as the server wrote it.
pub fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).expect("jsonb is valid JSON")
}

fn id_of(client: &mut SpiClient<'_>, key: &str) -> Result<Option<i64>, Error> {
    let found = client.update("SELECT id FROM entitlements.accounts WHERE key = $1", Some(1), &[key.into()])?;
    if found.is_empty() { Ok(None) } else { Ok(found.first().get_one()?) }
}

/// What define_account may say about an account; None leaves it, or its default.
struct Properties {
    parent: Option<Parent>,
    time_zone: Option<String>,
    metadata: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Parent {
    Nobody,
    Account(i64),
}

impl Parent {
    fn id(self) -> Option<i64> {
        match self {
            Self::Nobody => None,
            Self::Account(id) => Some(id),
        }
    }
}

/// A new account, and its turn; None if somebody else has just created it.
fn create(client: &mut SpiClient<'_>, key: &str, properties: Option<&Properties>) -> Result<Option<Account>, Error> {
    AccountKey::parse(key).map_err(|fault| Error::argument("account", fault.to_string()))?;
    if key.starts_with(ERASED_PREFIX) {
        return Err(Error::argument("account", format!("keys that start with {ERASED_PREFIX} belong to erased accounts")));
    }
    let parent = properties.and_then(|properties| properties.parent).and_then(Parent::id);
    let inserted = upsert(
        client,
        c"accounts",
        "INSERT INTO entitlements.accounts (key, parent_id, time_zone, metadata, created_at)
         VALUES ($1, $2, coalesce($3, 'UTC'), coalesce($4::pg_catalog.jsonb, '{}'), pg_catalog.now())
         ON CONFLICT (key) DO NOTHING RETURNING id",
        &[
            key.into(),
            parent.into(),
            properties.and_then(|properties| properties.time_zone.as_deref()).into(),
            properties.and_then(|properties| properties.metadata.as_deref()).into(),
        ],
    )?;
    if inserted.is_empty() {
        return Ok(None);
    }
    let account = Account { id: inserted.first().get_one()?.expect("a key column") };
    let new = Some(account.row(client)?);
    let object_id = account.id.to_string();
    let change = Change { action: "create", object: "account", object_id, old: None, new, reason: None };
    audit::record(client, account.chain(), &[change])?;
    Ok(Some(account))
}

#[pg_extern(sql = false)]
fn define_account(account: Option<&str>, parent: Option<&str>, time_zone: Option<&str>, metadata: Option<JsonbText>) -> i64 {
    or_raise(connect_to_change(|client| define(client, account, parent, time_zone, metadata)))
}

fn define(
    client: &mut SpiClient<'_>,
    account: Option<&str>,
    parent: Option<&str>,
    time_zone: Option<&str>,
    metadata: Option<JsonbText>,
) -> Result<i64, Error> {
    let key = required("account", account)?;
    let mut properties = Properties {
        parent: None,
        time_zone: time_zone.map(|time_zone| known_time_zone(client, time_zone)).transpose()?,
        metadata: arguments::object("metadata", metadata)?,
    };
    if id_of(client, key)?.is_none() {
        properties.parent = place(client, None, parent)?;
        if let Some(account) = create(client, key, Some(&properties))? {
            return Ok(account.id);
        }
    }
    let account = Account::take(client, Some(key))?;
    properties.parent = place(client, Some(account.id), parent)?;
    update(client, &account, &properties)?;
    Ok(account.id)
}

fn known_time_zone(client: &mut SpiClient<'_>, time_zone: &str) -> Result<String, Error> {
    let found = client.update("SELECT FROM pg_catalog.pg_timezone_names WHERE name = $1", Some(1), &[time_zone.into()])?;
    if time_zone != "UTC" && found.is_empty() {
        return Err(Error::argument("time_zone", "it is not a name in pg_timezone_names, such as Europe/Vienna"));
    }
    Ok(time_zone.to_owned())
}

fn update(client: &mut SpiClient<'_>, account: &Account, properties: &Properties) -> Result<(), Error> {
    let old = account.row(client)?;
    if let Some(parent) = properties.parent {
        account.keep_parent(client, parent.id())?;
    }
    client.update(
        "UPDATE entitlements.accounts
            SET parent_id = CASE WHEN $2 THEN $3 ELSE parent_id END,
                time_zone = coalesce($4, time_zone),
                metadata = coalesce($5::pg_catalog.jsonb, metadata)
          WHERE id = $1",
        None,
        &[
            account.id.into(),
            properties.parent.is_some().into(),
            properties.parent.and_then(Parent::id).into(),
            properties.time_zone.as_deref().into(),
            properties.metadata.as_deref().into(),
        ],
    )?;
    let new = account.row(client)?;
    if old.get() == new.get() {
        return Ok(());
    }
    let object_id = account.id.to_string();
    let change = Change { action: "update", object: "account", object_id, old: Some(old), new: Some(new), reason: None };
    audit::record(client, account.chain(), &[change])
}

/// The parent that the argument names: NULL leaves what is, the empty text means none.
///
/// The account (None if it does not exist yet) and all accounts above its new parent stay locked, so that two changes at once
/// cannot make a circle, or more generations than allowed, of what is right in each. Locks are taken in the order of ids.
fn place(client: &mut SpiClient<'_>, account: Option<i64>, parent: Option<&str>) -> Result<Option<Parent>, Error> {
    let key = match parent {
        None => return Ok(None),
        Some("") => return Ok(Some(Parent::Nobody)),
        Some(key) => required_text("parent", Some(key))?,
    };
    let unknown = || Error::UnknownAccount { account: key.to_owned() };
    let id = id_of(client, key)?.ok_or_else(unknown)?;
    let mut line = Vec::new();
    loop {
        let above = line_of(client, id)?;
        if above == line {
            break;
        }
        line = above;
        lock_line(client, account, &line)?;
    }
    if id_of(client, key)? != Some(id) {
        return Err(unknown());
    }
    let conflict = |message: String, hint: &str| Err(Error::Conflict { message, hint: hint.to_owned() });
    Account { id }.refuse_erased(client)?;
    if account.is_some_and(|account| line.contains(&account)) {
        return conflict(
            format!("account \"{key}\" is, or inherits from, the account it would be the parent of"),
            "An account cannot inherit from itself; take it out from below the other first.",
        );
    }
    if line.len() + generations_below(client, account)? > MOST_ANCESTORS {
        return conflict(
            format!("there would be more than {MOST_ANCESTORS} accounts above one another"),
            "Put the account below one that is higher up.",
        );
    }
    Ok(Some(Parent::Account(id)))
}

/// The account and those above it.
fn line_of(client: &mut SpiClient<'_>, id: i64) -> Result<Vec<i64>, Error> {
    let mut line = Vec::new();
    let above = client.update(
        "WITH RECURSIVE line (id, parent_id, place) AS (
             SELECT id, parent_id, 1 FROM entitlements.accounts WHERE id = $1
             UNION ALL
             SELECT above.id, above.parent_id, line.place + 1
               FROM line JOIN entitlements.accounts above ON above.id = line.parent_id WHERE line.place < 100)
         SELECT id FROM line ORDER BY place",
        None,
        &[id.into()],
    )?;
    for row in above {
        line.extend(row.get::<i64>(1)?);
    }
    Ok(line)
}

fn lock_line(client: &mut SpiClient<'_>, account: Option<i64>, line: &[i64]) -> Result<(), Error> {
    let mut ids: Vec<i64> = line.iter().copied().chain(account).collect();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        let lock = if Some(id) == account {
            "SELECT FROM entitlements.accounts WHERE id = $1 FOR NO KEY UPDATE"
        } else {
            "SELECT FROM entitlements.accounts WHERE id = $1 FOR SHARE"
        };
        client.update(lock, Some(1), &[id.into()])?;
    }
    Ok(())
}

/// How many generations there are below the account.
fn generations_below(client: &mut SpiClient<'_>, account: Option<i64>) -> Result<usize, Error> {
    let found = client.update(
        "WITH RECURSIVE below (id, generation) AS (
             SELECT $1, 0::pg_catalog.int8
             UNION ALL
             SELECT child.id, below.generation + 1
               FROM below JOIN entitlements.accounts child ON child.parent_id = below.id WHERE below.generation < 100)
         SELECT pg_catalog.max(generation) FROM below",
        Some(1),
        &[account.into()],
    )?;
    Ok(found.first().get_one::<i64>()?.map_or(0, |generations| generations as usize))
}
