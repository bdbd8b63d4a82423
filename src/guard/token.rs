//! Session tokens: which account a token that its bearer presents stands for.
//!
//! What a token has to be is read from the table of trusted keys, which only its owner reaches, and as it is at this moment: a
//! key that was distrusted counts no more, in transactions that began before either. The clock is the server's at the moment of
//! the call, not the start of a statement that may be old by now.

use super::trust::SESSION;
use crate::check::load::{Reader, present};
use crate::check::memo::MEMO;
use crate::error::Error;
use crate::pg::relations::trusted_key;
use crate::pg::scan::{Condition, Order, scan};
use crate::pg::snapshot::clock_time;
use crate::pg::subtransaction::with_latest_snapshot;
use entitlements_model::time::Time;
use entitlements_token::{AccountClaim, PublicKey, Refusal, Terms, Token};
use std::ops::ControlFlow;

/// The key of the account that the token names. NE012 for any token that is not in order.
pub fn account(token: &str) -> Result<String, Error> {
    let token = Token::parse(token)?;
    let now = clock_time();
    with_latest_snapshot(|| {
        let stored = MEMO.with(|memo| memo.read(|reader| Ok(stored_key(reader, token.kid(), now))))?;
        let stored = stored.ok_or(Refusal::UnknownKey)?;
        let (key, claim) = stored.usable()?;
        let terms = Terms { key: &key, issuer: &stored.issuer, audience: &stored.audience, claim: &claim };
        let account = token.account(terms, now)?;
        match MEMO.with(|memo| memo.has_account(&account))? {
            true => Ok(account),
            false => Err(Refusal::UnknownAccount.into()),
        }
    })
}

/// A row of the table of trusted keys.
struct StoredKey {
    jwk: String,
    issuer: String,
    audience: String,
    account_claim: String,
}

impl StoredKey {
    fn usable(&self) -> Result<(PublicKey, AccountClaim), Error> {
        let broken = |column: &str| Error::Internal(format!("{column} of a trusted key cannot be read"));
        let key = PublicKey::from_jwk(&self.jwk).map_err(|_| broken("jwk"))?;
        let claim = AccountClaim::parse(&self.account_claim).map_err(|_| broken("account_claim"))?;
        Ok((key, claim))
    }
}

/// The key of this name that is trusted for session tokens now; there is at most one.
fn stored_key(reader: &Reader<'_>, kid: &str, now: Time) -> Option<StoredKey> {
    let mut found = None;
    let named = [Condition::TextIs(trusted_key::KID, kid.as_bytes())];
    scan(&reader.relations.trusted_keys, &named, Order::Any, reader.snapshot, |row| {
        let text = |column| row.text(column, |text| String::from_utf8_lossy(text).into_owned());
        let valid = present(row.time(trusted_key::VALID_FROM)) <= now && now < present(row.time(trusted_key::VALID_UNTIL));
        if !valid || text(trusted_key::PURPOSE).as_deref() != Some(SESSION) {
            return ControlFlow::Continue(());
        }
        found = Some(StoredKey {
            jwk: present(row.jsonb(trusted_key::JWK)),
            issuer: present(text(trusted_key::ISSUER)),
            audience: present(text(trusted_key::AUDIENCE)),
            account_claim: present(text(trusted_key::ACCOUNT_CLAIM)),
        });
        ControlFlow::Break(())
    });
    found
}
