//! Writing entries.

use crate::error::Error;
use crate::pg::session::Actor;
use entitlements_model::audit::{self, Entry, Hash};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde::Serialize;
use serde_json::Value;

/// Which chain an entry belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chain {
    Catalog,
    /// By the account's id.
    Account(i64),
}

impl Chain {
    fn id(self) -> i64 {
        match self {
            Self::Catalog => 0,
            Self::Account(id) => id,
        }
    }
}

/// One change of state. `J` is how it holds JSON; raw text keeps numbers digit by digit.
pub struct Change<J = Value> {
    pub action: &'static str,
    pub object: &'static str,
    /// Key or id of the object; never an account's key, which may be personal data and could not be erased here.
    pub object_id: String,
    pub old: Option<J>,
    pub new: Option<J>,
    pub reason: Option<String>,
}

#[derive(Serialize)]
struct Content<'a, J> {
    old: &'a Option<J>,
    new: &'a Option<J>,
    reason: &'a Option<String>,
}

impl<J: Serialize> Change<J> {
    fn content(&self) -> String {
        let content = Content { old: &self.old, new: &self.new, reason: &self.reason };
        serde_json::to_string(&content).expect("JSON values and texts are written as JSON")
    }
}

/// Waits for the chain's turn, which this transaction then keeps to its end, and gives the number of the chain's entries; for
/// the catalog that is its revision.
///
/// In READ COMMITTED, statements after this one see what the holder before has committed. In REPEATABLE READ and SERIALIZABLE
/// the server raises 40001 if somebody else has changed the chain since the snapshot was taken.
pub fn take_turn(client: &mut SpiClient<'_>, chain: Chain) -> Result<i64, Error> {
    head(client, chain).map(|(last_seq, _)| last_seq)
}

/// The chain's head, locked. A chain without entries gets a head with number 0: what is to be locked must be there.
fn head(client: &mut SpiClient<'_>, chain: Chain) -> Result<(i64, Vec<u8>), Error> {
    const LOCK: &str = "SELECT last_seq, last_hash FROM entitlements.audit_chains WHERE chain_id = $1 FOR NO KEY UPDATE";
    let found = client.update(LOCK, Some(1), &[chain.id().into()])?;
    let found = if found.is_empty() {
        client.update(
            "INSERT INTO entitlements.audit_chains (chain_id, last_seq, last_hash) VALUES ($1, 0, $2) ON CONFLICT (chain_id) DO NOTHING",
            None,
            &[chain.id().into(), audit::START.as_slice().into()],
        )?;
        client.update(LOCK, Some(1), &[chain.id().into()])?
    } else {
        found
    };
    match found.first().get_two::<i64, Vec<u8>>()? {
        (Some(last_seq), Some(last_hash)) => Ok((last_seq, last_hash)),
        _ => Err(Error::Internal(format!("the head of audit chain {} could not be locked", chain.id()))),
    }
}

/// Appends an entry for each of the changes. Takes the chain's turn if the transaction does not have it yet.
pub fn record<J: Serialize>(client: &mut SpiClient<'_>, chain: Chain, changes: &[Change<J>]) -> Result<(), Error> {
    if changes.is_empty() {
        return Ok(());
    }
    let (last_seq, mut last_hash) = head(client, chain)?;
    let actor = Actor::current();
    let origin = Origin::of_transaction(client, changes.len())?;

    let mut columns = Columns::default();
    for ((change, id), seq) in changes.iter().zip(origin.ids).zip(last_seq + 1..) {
        let (salt, content) = (new_salt()?, change.content());
        let content_hash = audit::content_hash(&salt, &content);
        let entry = Entry {
            id,
            chain_id: chain.id(),
            seq,
            at: origin.at.into(),
            transaction_id: origin.transaction_id,
            session_user_name: &actor.session_user,
            role_name: &actor.role,
            client_address: origin.client_address.as_deref(),
            action: change.action,
            object: change.object,
            object_id: &change.object_id,
            content_hash: &content_hash,
        };
        let hash = entry.hash(&last_hash);
        last_hash = hash.to_vec();
        columns.add(&entry, salt, content, content_hash, hash);
    }

    client.update(
        "INSERT INTO entitlements.audit_log (id, chain_id, seq, at, transaction_id, session_user_name, role_name, client_address,
                                             action, object, object_id, content, salt, content_hash, hash)
         SELECT entry.id, $1, entry.seq, $2, $3, $4, $5, $6::pg_catalog.inet,
                entry.action, entry.object, entry.object_id, entry.content::pg_catalog.json, entry.salt, entry.content_hash, entry.hash
           FROM ROWS FROM (
                    pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9), pg_catalog.unnest($10), pg_catalog.unnest($11),
                    pg_catalog.unnest($12), pg_catalog.unnest($13), pg_catalog.unnest($14), pg_catalog.unnest($15)
                ) AS entry (id, seq, action, object, object_id, content, salt, content_hash, hash)",
        None,
        &[
            chain.id().into(),
            origin.at.into(),
            origin.transaction_id.into(),
            actor.session_user.into(),
            actor.role.into(),
            origin.client_address.into(),
            columns.ids.into(),
            columns.seqs.into(),
            columns.actions.into(),
            columns.objects.into(),
            columns.object_ids.into(),
            columns.contents.into(),
            columns.salts.into(),
            columns.content_hashes.into(),
            columns.hashes.into(),
        ],
    )?;
    client.update(
        "UPDATE entitlements.audit_chains SET last_seq = $2, last_hash = $3 WHERE chain_id = $1",
        None,
        &[chain.id().into(), (last_seq + changes.len() as i64).into(), last_hash.into()],
    )?;
    Ok(())
}

/// What the entries of one transaction share, and ids for them.
struct Origin {
    at: TimestampWithTimeZone,
    transaction_id: i64,
    client_address: Option<String>,
    ids: Vec<i64>,
}

impl Origin {
    fn of_transaction(client: &mut SpiClient<'_>, entries: usize) -> Result<Self, Error> {
        let found = client.update(
            "SELECT pg_catalog.now(), pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8,
                    pg_catalog.inet_client_addr()::pg_catalog.text,
                    ARRAY(SELECT pg_catalog.nextval('entitlements.audit_log_id_seq') FROM pg_catalog.generate_series(1, $1))",
            Some(1),
            &[(entries as i64).into()],
        )?;
        let row = found.first();
        Ok(Self {
            at: row.get(1)?.expect("now() has a value"),
            transaction_id: row.get(2)?.expect("the transaction has an id"),
            client_address: row.get(3)?,
            ids: row.get(4)?.expect("an array without rows is empty"),
        })
    }
}

fn new_salt() -> Result<Vec<u8>, Error> {
    let mut salt = vec![0; 16];
    getrandom::fill(&mut salt).map_err(|error| Error::Internal(format!("the system gives no random bytes: {error}")))?;
    Ok(salt)
}

/// Entries by column, as the statement that inserts them takes them.
#[derive(Default)]
struct Columns {
    ids: Vec<i64>,
    seqs: Vec<i64>,
    actions: Vec<String>,
    objects: Vec<String>,
    object_ids: Vec<String>,
    contents: Vec<String>,
    salts: Vec<Vec<u8>>,
    content_hashes: Vec<Vec<u8>>,
    hashes: Vec<Vec<u8>>,
}

impl Columns {
    fn add(&mut self, entry: &Entry<'_>, salt: Vec<u8>, content: String, content_hash: Hash, hash: Hash) {
        self.ids.push(entry.id);
        self.seqs.push(entry.seq);
        self.actions.push(entry.action.to_owned());
        self.objects.push(entry.object.to_owned());
        self.object_ids.push(entry.object_id.to_owned());
        self.contents.push(content);
        self.salts.push(salt);
        self.content_hashes.push(content_hash.to_vec());
        self.hashes.push(hash.to_vec());
    }
}
