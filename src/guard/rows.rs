//! Rows as units of an allocation: an account has at most so many rows in a table as it is allowed.
//!
//! limit_rows gives a table triggers that change the account's counter by what a statement changes: at its end, once for each
//! account, however many rows. So the counter is the number of rows in every committed state, an insert is denied as any other
//! use is, and inserters at one account wait for each other no more than consumers do. A trigger changes the counters in the
//! order of the accounts' keys: two INSERTs, two UPDATEs or two DELETEs never wait for each other in a circle. MERGE, ON CONFLICT
//! and WITH fire a trigger for each thing that they do, each by itself, and two of those can (40P01).
//!
//! The triggers are the state: there is no list of limited tables, and what a dump restores is limited as it was. A table
//! has one trigger for each kind of statement, whose transition tables tell what changed; a table without partitions has one
//! before TRUNCATE, and one for rows that logical replication applies, for which no statement triggers fire. Such rows are
//! counted whatever the limit: they were let in where they come from. Of a partitioned table every part has its own, since a
//! statement fires only those of the table that it names. Tables that become partitions later get theirs from an event trigger.

mod follow;
mod limit;
mod recount;

use crate::error::Error;
use crate::meter::consume::{Entry, Request, count_in_use, give_back_what_is_used, take};
use crate::meter::functions::or_denial;
use crate::pg::error::warn;
use crate::pg::table::{RowCounts, Tally};
use crate::pg::trigger::{Firing, TriggerArguments};
use entitlements_model::amount::Amount;

pub use follow::{follow_drops, follow_tables};

/// Rows as units of an allocation.
fn units(rows: u64) -> Result<Amount, Error> {
    const ONE: i128 = 1_000_000_000;
    Amount::from_nanos(i128::from(rows) * ONE).map_err(|fault| Error::Internal(format!("{rows} rows: {fault}")))
}

/// What a trigger has to do. NE001 a row names no account or one that is not granted the feature, NE002 there would be more
/// rows than are allowed.
pub fn count(firing: &Firing<'_>) -> Result<(), Error> {
    if !firing.is_due() {
        return Ok(());
    }
    let TriggerArguments { account_column, feature, condition } = firing.arguments()?;
    let mut tally = Tally::new(firing.table(), &account_column, condition.as_deref())?;
    firing.count(&mut tally)?;
    let changes = tally.into_counts();
    if firing.is_for_row() { follow(&feature, &changes) } else { allow(&feature, &changes) }
}

/// Takes what there is more, and gives back what there is less. An account that nobody knows never had any.
fn allow(feature: &str, changes: &RowCounts) -> Result<(), Error> {
    for (account, change) in changes {
        let n = units(change.unsigned_abs())?;
        if *change > 0 {
            let entry = Some(Entry { action: "consume", idempotency_key: None, metadata: None });
            let request = Request { account: account.as_deref(), feature, n, whole: true, entry };
            or_denial(take(request, true)?.0)?;
        } else if let Some(account) = account {
            give_back(account, feature, n)?;
        }
    }
    Ok(())
}

/// Counts what was decided elsewhere.
fn follow(feature: &str, changes: &RowCounts) -> Result<(), Error> {
    for (account, change) in changes {
        let Some(account) = account else { continue };
        let n = units(change.unsigned_abs())?;
        if *change < 0 {
            give_back(account, feature, n)?;
        } else if let Err(error) = state(account, feature, n) {
            match error {
                Error::UnknownAccount { account } => {
                    warn(&format!("account \"{account}\" is unknown here: its replicated rows are not counted"), None);
                }
                error => return Err(error),
            }
        }
    }
    Ok(())
}

/// Counts rows that are there, whatever the limit. NE006 unknown account.
fn state(account: &str, feature: &str, n: Amount) -> Result<(), Error> {
    count_in_use(account, feature, n, Entry { action: "consume", idempotency_key: None, metadata: None })
}

fn give_back(account: &str, feature: &str, n: Amount) -> Result<(), Error> {
    let entry = Some(Entry { action: "release", idempotency_key: None, metadata: None });
    match give_back_what_is_used(Request { account: Some(account), feature, n, whole: true, entry }) {
        Ok(_) | Err(Error::UnknownAccount { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
