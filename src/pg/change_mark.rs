//! Marks of change: which transaction changed what decides about which account.
//!
//! Triggers write them, before each change of a row and in the same transaction, so a snapshot shows a mark exactly if it shows
//! what is marked. The memo looks for marks that a snapshot shows and the one before did not. The own transaction's changes are
//! not told by marks but by CHANGED_HERE: then nothing outlives a snapshot.

use super::backend::BackendLocal;
use super::callbacks::{CHANGED_HERE, ROLLED_BACK};
use super::change::insert_index_entries;
use super::relations::oid_of;
use crate::error::Error;
use foldhash::fast::RandomState;
use hashbrown::HashSet;
use pgrx::pg_sys;

/// What a mark names that stands for all accounts.
pub const EVERY_ACCOUNT: i64 = 0;

/// A transaction that changes more accounts than this marks all.
const MOST_ACCOUNTS: usize = 100;

/// What the present transaction has marked.
struct Marked {
    transaction: u64,
    /// Of the last mark. Marks that are rolled back keep their numbers.
    number: i32,
    accounts: HashSet<i64, RandomState>,
    every_account: bool,
}

static MARKED: BackendLocal<Marked> =
    BackendLocal::new(|| Marked { transaction: 0, number: 0, accounts: HashSet::default(), every_account: false });

impl Marked {
    /// The mark to write for a change of an account; None where there is one already.
    fn next(&mut self, transaction: u64, account: i64) -> Option<(i32, i64)> {
        if transaction != self.transaction {
            *self = Self { transaction, number: 0, accounts: HashSet::default(), every_account: false };
        }
        if ROLLED_BACK.is_raised() {
            ROLLED_BACK.lower();
            self.accounts.clear();
            self.every_account = false;
        }
        if self.every_account || self.accounts.contains(&account) {
            return None;
        }
        let account = if self.accounts.len() < MOST_ACCOUNTS { account } else { EVERY_ACCOUNT };
        self.number += 1;
        if account == EVERY_ACCOUNT {
            self.every_account = true;
        } else {
            self.accounts.insert(account);
        }
        Some((self.number, account))
    }
}

/// Marks an account whose rows are about to change.
pub fn mark(account: i64) -> Result<(), Error> {
    CHANGED_HERE.raise();
    // SAFETY: gives the transaction an id, if it has none.
    let transaction = unsafe { pg_sys::GetTopFullTransactionId() }.value;
    match MARKED.with(|marked| marked.next(transaction, account)) {
        Some((number, account)) => write(transaction, number, account),
        None => Ok(()),
    }
}

fn write(transaction: u64, number: i32, account: i64) -> Result<(), Error> {
    let table = oid_of(c"change_marks")?;
    // SAFETY: the values are of the columns' types, in the order in which they were declared. On an ERROR the server's resource
    // owner closes the table.
    unsafe {
        let table = pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32);
        let mut values =
            [pg_sys::Datum::from(transaction as i64), pg_sys::Datum::from(number), pg_sys::Datum::from(account)];
        let mut nulls = [false; 3];
        assert!((*(*table).rd_att).natts as usize == values.len(), "marks have three columns");
        let tuple = pg_sys::heap_form_tuple((*table).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::simple_heap_insert(table, tuple);
        insert_index_entries(table, tuple);
        pg_sys::heap_freetuple(tuple);
        pg_sys::table_close(table, pg_sys::NoLock as i32);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked() -> Marked {
        Marked { transaction: 0, number: 0, accounts: HashSet::default(), every_account: false }
    }

    #[test]
    fn an_account_is_marked_once_in_a_transaction() {
        let mut marked = marked();
        assert_eq!(marked.next(7, 1), Some((1, 1)));
        assert_eq!(marked.next(7, 1), None);
        assert_eq!(marked.next(7, 2), Some((2, 2)));
        assert_eq!(marked.next(8, 1), Some((1, 1)));
    }

    #[test]
    fn many_accounts_are_all() {
        let mut marked = marked();
        let written = (1..=1000).filter_map(|account| marked.next(7, account)).count();
        assert_eq!(written, MOST_ACCOUNTS + 1);
        assert!(marked.every_account);
    }

    #[test]
    fn what_was_rolled_back_is_marked_anew_under_another_number() {
        let mut marked = marked();
        assert_eq!(marked.next(7, EVERY_ACCOUNT), Some((1, EVERY_ACCOUNT)));
        assert_eq!(marked.next(7, 1), None);
        ROLLED_BACK.raise();
        assert_eq!(marked.next(7, 1), Some((2, 1)));
    }
}
