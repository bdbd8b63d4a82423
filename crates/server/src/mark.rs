//! Which accounts a transaction has marked as changed.

use foldhash::fast::RandomState;
use hashbrown::HashSet;

/// What a mark names that stands for all accounts.
pub const EVERY_ACCOUNT: i64 = 0;

/// A transaction that changes more accounts than this marks all.
const MOST_ACCOUNTS: usize = 100;

/// What the present transaction has marked.
#[derive(Default)]
pub struct Marked {
    transaction: u64,
    /// Of the last mark. Marks that are rolled back keep their numbers.
    number: i32,
    accounts: HashSet<i64, RandomState>,
    every_account: bool,
}

impl Marked {
    /// The mark to write for a change of an account, as its number and what it names; None where there is one already.
    pub fn next(&mut self, transaction: u64, account: i64) -> Option<(i32, i64)> {
        if transaction != self.transaction {
            *self = Self { transaction, ..Self::default() };
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

    /// Something of the transaction was rolled back, and maybe marks with it.
    pub fn rolled_back(&mut self) {
        self.accounts.clear();
        self.every_account = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_marked_once_in_a_transaction() {
        let mut marked = Marked::default();
        assert_eq!(marked.next(7, 1), Some((1, 1)));
        assert_eq!(marked.next(7, 1), None);
        assert_eq!(marked.next(7, 2), Some((2, 2)));
        assert_eq!(marked.next(8, 1), Some((1, 1)));
    }

    #[test]
    fn many_accounts_are_all() {
        let mut marked = Marked::default();
        let written: Vec<_> = (1..=1000).filter_map(|account| marked.next(7, account)).collect();
        assert_eq!(written.len(), MOST_ACCOUNTS + 1);
        assert_eq!(written.last(), Some(&(101, EVERY_ACCOUNT)));
    }

    #[test]
    fn what_was_rolled_back_is_marked_anew_under_another_number() {
        let mut marked = Marked::default();
        assert_eq!(marked.next(7, EVERY_ACCOUNT), Some((1, EVERY_ACCOUNT)));
        assert_eq!(marked.next(7, 1), None);
        marked.rolled_back();
        assert_eq!(marked.next(7, 1), Some((2, 1)));
    }
}
