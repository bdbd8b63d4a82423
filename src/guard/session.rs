//! The current account: whom this transaction acts for.
//!
//! Invariant: it is bound by `set_account` or `authenticate` alone, in memory that no SQL reaches, and for no longer than what
//! bound it counts: rolling back to a savepoint from before gives back what was bound there, and the end of the transaction,
//! whichever it is, leaves nothing. So a connection that a pool hands to the next client carries nothing over, whatever the
//! client before did, and there is nothing that DISCARD ALL would have to forget.
//!
//! Without a binding, an administrator may have the account read from a setting that a gateway fills in
//! (`entitlements.account_setting`, off by default). Otherwise there is none, and NULL is entitled to nothing.

use crate::error::Error;
use crate::pg::backend::BackendLocal;
use crate::pg::callbacks::nesting_level;
use crate::pg::settings::{self, Handed};
use entitlements_token::{AccountClaim, account_in};

static SESSION: BackendLocal<Session> = BackendLocal::new(Session::new);

/// What one subtransaction has bound.
struct Binding {
    /// How deep the subtransaction lies; 1 is the transaction itself.
    level: i32,
    /// None: expressly nobody.
    account: Option<Box<str>>,
    by: By,
    /// Whether the transaction acted for somebody here, now or before: what it did as nobody is nothing that the next account
    /// could read on from.
    has_acted: bool,
}

/// Who said whom the transaction acts for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A role that is trusted to say so.
    Role,
    /// A token. The transaction then stays with its account: the next one could read on from a cursor of the one before, or
    /// go back to its savepoint.
    Token,
}

/// Bindings of this transaction, from the outermost subtransaction to the innermost; at most one each, and the last counts.
struct Session {
    bindings: Vec<Binding>,
}

impl Session {
    const fn new() -> Self {
        Self { bindings: Vec::new() }
    }

    fn bind(&mut self, level: i32, account: Option<Box<str>>, by: By) -> Result<(), Error> {
        let is_kept = |binding: &Binding| {
            by == By::Role && binding.by == By::Role || binding.account == account || by == By::Token && !binding.has_acted
        };
        if !self.bindings.iter().all(is_kept) {
            return Err(Error::Conflict {
                message: "the transaction acts for another account already, and a token binds it for good".to_owned(),
                hint: "End the transaction first.".to_owned(),
            });
        }
        let by = if self.bindings.iter().any(|binding| binding.by == By::Token) { By::Token } else { by };
        let has_acted = account.is_some() || self.has_acted(level);
        self.roll_back(level);
        self.bindings.push(Binding { level, account, by, has_acted });
        Ok(())
    }

    /// Whether somebody was acted for at this level or deeper.
    fn has_acted(&self, level: i32) -> bool {
        self.bindings.iter().any(|binding| binding.level >= level && binding.has_acted)
    }

    /// What was bound at this level or deeper never was.
    fn roll_back(&mut self, level: i32) {
        while self.bindings.pop_if(|binding| binding.level >= level).is_some() {}
    }

    /// What was bound at this level is the parent's. Allocates nothing, as it runs at commit.
    fn release(&mut self, level: i32) {
        if let Some(released) = self.bindings.pop_if(|binding| binding.level >= level) {
            let has_acted = released.has_acted || self.has_acted(level - 1);
            self.roll_back(level - 1);
            // There was room for it a moment ago.
            self.bindings.push(Binding { level: level - 1, has_acted, ..released });
        }
    }
}

/// Makes the account the current one until the end of the transaction or the rollback of the present subtransaction. NE009 where
/// the transaction acts for another and a token has a part in it.
pub fn bind(account: Option<&str>, by: By) -> Result<(), Error> {
    let level = nesting_level();
    SESSION.with(|session| session.bind(level, account.map(Box::from), by))
}

/// The key of the current account.
pub fn current_account() -> Option<Box<str>> {
    match SESSION.with(|session| session.bindings.last().map(|binding| binding.account.clone())) {
        Some(bound) => bound,
        None => settings::handed().and_then(account_handed),
    }
}

/// The account that was last read from a setting, so that claims are not parsed for each row.
static READ: BackendLocal<Option<(Handed, Option<Box<str>>)>> = BackendLocal::new(|| None);

fn account_handed(handed: Handed) -> Option<Box<str>> {
    READ.with(|read| match read {
        Some((known, account)) if *known == handed => account.clone(),
        _ => {
            let account = match handed.claim.as_str() {
                "" => Some(handed.value.clone()).filter(|key| !key.is_empty()),
                claim => AccountClaim::parse(claim).ok().and_then(|claim| account_in(&handed.value, &claim)),
            };
            let account = account.map(String::into_boxed_str);
            *read = Some((handed, account.clone()));
            account
        }
    })
}

/// The transaction is over.
pub fn end() {
    SESSION.with(|session| session.bindings.clear());
}

pub fn roll_back(level: i32) {
    SESSION.with(|session| session.roll_back(level));
}

pub fn release(level: i32) {
    SESSION.with(|session| session.release(level));
}
