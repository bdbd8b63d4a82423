//! Writing entries.

use crate::error::Error;
use crate::pg::session::Actor;
use crate::pg::subtransaction::upsert;
use entitlements_model::audit::{self, Entry, Hash};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;

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

/// Waits for the chain's turn, which this transaction then keeps to its end, and gives the number of the chain's entries.
///
/// In READ COMMITTED, statements after this one see what the holder before has committed. In REPEATABLE READ and SERIALIZABLE
/// the server raises 40001 if somebody else has changed the chain since the snapshot was taken.
pub fn take_turn(client: &mut SpiClient<'_>, chain: Chain) -> Result<i64, Error> {
    let heads = take_turns(client, &[chain])?;
    Ok(heads.get(&chain.id()).map_or(0, |head| head.last_seq))
}

/// The newest entry of a chain.
pub struct Head {
    last_seq: i64,
    last_hash: Vec<u8>,
}

/// Takes the turns of several chains, in the order of their ids: two transactions that do so never wait for each other in a
/// circle. Gives the heads, locked; a chain without entries gets one with number 0, for what is to be locked must be there.
pub fn take_turns(client: &mut SpiClient<'_>, chains: &[Chain]) -> Result<HashMap<i64, Head>, Error> {
    let ids: Vec<i64> = chains.iter().map(|chain| chain.id()).collect();
    let heads = lock_heads(client, &ids)?;
    let new: Vec<i64> = ids.iter().copied().filter(|id| !heads.contains_key(id)).collect();
    if new.is_empty() {
        return Ok(heads);
    }
    upsert(
        client,
        c"audit_chains",
        "INSERT INTO entitlements.audit_chains (chain_id, last_seq, last_hash)
         SELECT DISTINCT chain_id, 0, $2 FROM pg_catalog.unnest($1) AS chain_id ORDER BY chain_id
         ON CONFLICT (chain_id) DO NOTHING",
        &[new.into(), audit::START.as_slice().into()],
    )?;
    let heads = lock_heads(client, &ids)?;
    match ids.iter().find(|id| !heads.contains_key(id)) {
        None => Ok(heads),
        Some(id) => Err(Error::Internal(format!("the head of audit chain {id} could not be locked"))),
    }
}

fn lock_heads(client: &mut SpiClient<'_>, ids: &[i64]) -> Result<HashMap<i64, Head>, Error> {
    const LOCK: &str = "SELECT chain_id, last_seq, last_hash FROM entitlements.audit_chains WHERE chain_id = ANY ($1)
        ORDER BY chain_id FOR NO KEY UPDATE";
    let mut heads = HashMap::new();
    for row in client.update(LOCK, None, &[ids.to_vec().into()])? {
        if let (Some(id), Some(last_seq), Some(last_hash)) = (row.get(1)?, row.get(2)?, row.get(3)?) {
            heads.insert(id, Head { last_seq, last_hash });
        }
    }
    Ok(heads)
}

/// Appends an entry for each of the changes. Takes the chain's turn if the transaction does not have it yet.
pub fn record<J: Serialize>(client: &mut SpiClient<'_>, chain: Chain, changes: &[Change<J>]) -> Result<(), Error> {
    record_all(client, &[(chain, changes)])
}

/// `record` for several chains, each named once, with as many statements as for one.
pub fn record_all<J: Serialize>(client: &mut SpiClient<'_>, changes: &[(Chain, &[Change<J>])]) -> Result<(), Error> {
    let count = changes.iter().map(|(_, changes)| changes.len()).sum();
    if count == 0 {
        return Ok(());
    }
    let chains: Vec<Chain> = changes.iter().map(|(chain, _)| *chain).collect();
    let mut heads = take_turns(client, &chains)?;
    let actor = Actor::current();
    let origin = Origin::of_transaction(client, count)?;

    let mut columns = Columns::default();
    let mut ids = origin.ids.iter();
    for (chain, changes) in changes {
        let head = heads.get_mut(&chain.id()).expect("take_turns gives each chain's head");
        for (change, id) in changes.iter().zip(&mut ids) {
            let (salt, content) = (new_salt()?, change.content());
            let content_hash = audit::content_hash(&salt, &content);
            let entry = Entry {
                id: *id,
                chain_id: chain.id(),
                seq: head.last_seq + 1,
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
            let hash = entry.hash(&head.last_hash);
            *head = Head { last_seq: entry.seq, last_hash: hash.to_vec() };
            columns.add(&entry, salt, content, content_hash, hash);
        }
    }

    client.update(
        "INSERT INTO entitlements.audit_log (id, chain_id, seq, at, transaction_id, session_user_name, role_name, client_address,
                                             action, object, object_id, content, salt, content_hash, hash)
         SELECT entry.id, entry.chain_id, entry.seq, $1, $2, $3, $4, $5::pg_catalog.inet,
                entry.action, entry.object, entry.object_id, entry.content::pg_catalog.json, entry.salt, entry.content_hash, entry.hash
           FROM ROWS FROM (
                    pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9), pg_catalog.unnest($10),
                    pg_catalog.unnest($11), pg_catalog.unnest($12), pg_catalog.unnest($13), pg_catalog.unnest($14), pg_catalog.unnest($15)
                ) AS entry (id, chain_id, seq, action, object, object_id, content, salt, content_hash, hash)",
        None,
        &[
            origin.at.into(),
            origin.transaction_id.into(),
            actor.session_user.into(),
            actor.role.into(),
            origin.client_address.into(),
            columns.ids.into(),
            columns.chain_ids.into(),
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
    let (ids, heads): (Vec<i64>, Vec<Head>) = heads.into_iter().unzip();
    let (seqs, hashes): (Vec<i64>, Vec<Vec<u8>>) = heads.into_iter().map(|head| (head.last_seq, head.last_hash)).unzip();
    client.update(
        "UPDATE entitlements.audit_chains AS head SET last_seq = newest.seq, last_hash = newest.hash
           FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) AS newest (chain_id, seq, hash)
          WHERE head.chain_id = newest.chain_id",
        None,
        &[ids.into(), seqs.into(), hashes.into()],
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
    chain_ids: Vec<i64>,
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
        self.chain_ids.push(entry.chain_id);
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
