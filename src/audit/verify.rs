//! Checking the chains.
//!
//! One query reads heads and entries in the order of the chains, in one snapshot, through a cursor: the memory needed does not
//! grow with the log. Of each chain the first fault is reported; what follows it proves nothing. Reads only, and assigns no
//! transaction id: works on a standby and in a read-only transaction.

use crate::error::Error;
use crate::pg::error::or_raise;
use crate::row::present;
use entitlements_model::audit::{self, Entry};
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData};

/// Rows fetched at a time.
const BATCH: i64 = 1000;

type FaultRow = (Option<String>, i64, Option<i64>, Option<i64>, String);

#[expect(clippy::type_complexity, reason = "the columns of the SQL function")]
#[pg_extern(sql = false)]
fn verify_audit(
    account: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(account_key, Option<String>),
        name!(chain_id, i64),
        name!(seq, Option<i64>),
        name!(entry_id, Option<i64>),
        name!(fault, String),
    ),
> {
    TableIterator::new(or_raise(faults(account)))
}

const CHAINS: &str = "
    SELECT chain.chain_id, chain.account, chain.is_account, chain.last_seq, chain.last_hash, chain.erased_in,
           entry.id, entry.seq, entry.at, entry.transaction_id, entry.session_user_name, entry.role_name,
           entry.client_address::pg_catalog.text, entry.action, entry.object, entry.object_id,
           entry.content::pg_catalog.text, entry.salt, entry.content_hash, entry.hash
      FROM (SELECT ids.chain_id, account.key AS account, account.id IS NOT NULL OR ids.chain_id = 0 AS is_account, head.last_seq, head.last_hash,
                   CASE WHEN account.erased_at IS NOT NULL THEN
                       (SELECT pg_catalog.max(erasure.seq) FROM entitlements.audit_log erasure
                         WHERE erasure.chain_id = ids.chain_id AND erasure.action = 'erase' AND erasure.object = 'account')
                   END AS erased_in
              FROM (SELECT chain_id FROM entitlements.audit_chains
                    UNION SELECT id FROM entitlements.accounts
                    UNION SELECT chain_id FROM entitlements.audit_log) ids
              LEFT JOIN entitlements.audit_chains head ON head.chain_id = ids.chain_id
              LEFT JOIN entitlements.accounts account ON account.id = ids.chain_id
             WHERE $1 IS NULL OR ids.chain_id = $1) chain
      LEFT JOIN entitlements.audit_log entry ON entry.chain_id = chain.chain_id
     ORDER BY chain.chain_id, entry.seq";

fn faults(account: Option<&str>) -> Result<Vec<FaultRow>, Error> {
    let cursor = Spi::connect(|client| {
        let only = account.map(|key| account_id(client, key)).transpose()?;
        Ok::<_, Error>(client.try_open_cursor(CHAINS, &[only.into()])?.detach_into_name())
    })?;
    let mut inspection = Inspection::default();
    // A connection to SPI for each batch: its end is what frees the batch's memory.
    while Spi::connect(|client| {
        let mut cursor = client.find_cursor(&cursor)?;
        let batch = cursor.fetch(BATCH)?;
        if batch.is_empty() {
            return Ok::<_, Error>(false);
        }
        for row in batch {
            inspection.see(&row)?;
        }
        cursor.detach_into_name();
        Ok(true)
    })? {}
    Ok(inspection.end())
}

fn account_id(client: &SpiClient<'_>, key: &str) -> Result<i64, Error> {
    let found = client.select("SELECT id FROM entitlements.accounts WHERE key = $1", Some(1), &[key.into()])?;
    if found.is_empty() {
        return Err(Error::UnknownAccount { account: key.to_owned() });
    }
    Ok(found.first().get_one()?.expect("a key column"))
}

/// What was found so far, and the way along the chain that is being read.
#[derive(Default)]
struct Inspection {
    faults: Vec<FaultRow>,
    walk: Option<Walk>,
}

impl Inspection {
    fn see(&mut self, row: &SpiHeapTupleData<'_>) -> Result<(), Error> {
        let chain_id: i64 = present(row, 1)?;
        if self.walk.as_ref().is_none_or(|walk| walk.chain_id != chain_id) {
            let finished = self.walk.replace(Walk::begin(chain_id, row)?);
            self.faults.extend(finished.and_then(Walk::end));
        }
        let has_entry = row.get::<i64>(7)?.is_some();
        if let Some(walk) = self.walk.as_mut().filter(|walk| has_entry && walk.fault.is_none()) {
            walk.fault = walk.step(row)?;
        }
        Ok(())
    }

    fn end(mut self) -> Vec<FaultRow> {
        self.faults.extend(self.walk.and_then(Walk::end));
        self.faults
    }
}

/// The way along one chain, from its first entry to its head.
struct Walk {
    chain_id: i64,
    account: Option<String>,
    is_account: bool,
    head: Option<(i64, Vec<u8>)>,
    /// The entry that tells of the erasure of the account's contents.
    erased_in: Option<i64>,
    last_seq: i64,
    last_hash: Vec<u8>,
    fault: Option<Fault>,
}

struct Fault {
    seq: Option<i64>,
    entry_id: Option<i64>,
    fault: String,
}

impl Walk {
    fn begin(chain_id: i64, row: &SpiHeapTupleData<'_>) -> Result<Self, Error> {
        Ok(Self {
            chain_id,
            account: row.get(2)?,
            is_account: present(row, 3)?,
            head: row.get(4)?.zip(row.get(5)?),
            erased_in: row.get(6)?,
            last_seq: 0,
            last_hash: audit::START.to_vec(),
            fault: None,
        })
    }

    /// Goes on to the entry in `row`.
    fn step(&mut self, row: &SpiHeapTupleData<'_>) -> Result<Option<Fault>, Error> {
        let (id, seq): (i64, i64) = (present(row, 7)?, present(row, 8)?);
        let fault = |fault: &str| Ok(Some(Fault { seq: Some(seq), entry_id: Some(id), fault: fault.to_owned() }));
        let expected = self.last_seq + 1;
        if seq != expected {
            return Ok(Some(Fault { seq: Some(expected), entry_id: None, fault: removed(expected, seq - 1) }));
        }
        if self.head.as_ref().is_some_and(|(last_seq, _)| seq > *last_seq) {
            return fault("the entry was inserted: the chain ended before it");
        }
        let content_hash: Vec<u8> = present(row, 19)?;
        match (row.get::<String>(17)?, row.get::<Vec<u8>>(18)?) {
            (Some(content), Some(salt)) if audit::content_hash(&salt, &content) == *content_hash => {}
            (None, None) if self.erased_in.is_some_and(|erased_in| seq < erased_in) => {}
            (None, None) => return fault("the entry's content was removed, and no erasure of the account follows"),
            _ => return fault("the entry's content, salt or content_hash was altered"),
        }
        let at: TimestampWithTimeZone = present(row, 9)?;
        let texts: [String; 5] =
            [present(row, 11)?, present(row, 12)?, present(row, 14)?, present(row, 15)?, present(row, 16)?];
        let [session_user_name, role_name, action, object, object_id] = &texts;
        let client_address: Option<String> = row.get(13)?;
        let entry = Entry {
            id,
            chain_id: self.chain_id,
            seq,
            at: at.into(),
            transaction_id: present(row, 10)?,
            session_user_name,
            role_name,
            client_address: client_address.as_deref(),
            action,
            object,
            object_id,
            content_hash: &content_hash,
        };
        let hash: Vec<u8> = present(row, 20)?;
        if entry.hash(&self.last_hash) != *hash {
            return fault(
                "the entry was altered, or put in another's place: its hash does not follow from its columns and the entry before it",
            );
        }
        self.last_seq = seq;
        self.last_hash = hash;
        Ok(None)
    }

    /// What the chain's end shows, after its last entry.
    fn end(self) -> Option<FaultRow> {
        let Fault { seq, entry_id, fault } = self.fault.or_else(|| match &self.head {
            _ if !self.is_account => {
                Some(Fault { seq: None, entry_id: None, fault: "the chain's account was removed".to_owned() })
            }
            None if self.chain_id == 0 && self.last_seq == 0 => None,
            None => Some(Fault { seq: None, entry_id: None, fault: "the chain's head was removed".to_owned() }),
            Some((last_seq, _)) if *last_seq > self.last_seq => {
                let seq = self.last_seq + 1;
                Some(Fault { seq: Some(seq), entry_id: None, fault: removed(seq, *last_seq) })
            }
            Some((_, last_hash)) if *last_hash != self.last_hash => Some(Fault {
                seq: Some(self.last_seq),
                entry_id: None,
                fault: "the chain's head was altered, or its last entries with their hashes".to_owned(),
            }),
            Some((0, _)) if self.chain_id != 0 => Some(Fault {
                seq: Some(1),
                entry_id: None,
                fault: "the account has no entry: its chain was removed".to_owned(),
            }),
            Some(_) => None,
        })?;
        Some((self.account, self.chain_id, seq, entry_id, fault))
    }
}

fn removed(first: i64, last: i64) -> String {
    match last - first {
        0 => format!("entry {first} was removed"),
        _ => format!("entries {first} to {last} were removed"),
    }
}
