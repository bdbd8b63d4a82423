//! The current account and the check and consume families on it, as SQL calls them; `entitled` and `require` are in `pg::entry`.

use super::session::{self, By};
use super::token;
use crate::check::functions as check;
use crate::check::memo::MEMO;
use crate::error::Error;
use crate::meter::functions::Arguments;
use crate::pg::composite::CompositeValue;
use crate::pg::error::{or_raise, raise};
use crate::pg::jsonb::JsonbText;
use crate::pg::number::AmountArgument;
use crate::pg::session::hide_statement;
use entitlements_server::name::AccountName;
use pgrx::AnyNumeric;
use pgrx::datum::Uuid;
use pgrx::prelude::*;

#[pg_extern(sql = false)]
fn set_account(account: Option<&str>) -> Option<&str> {
    if let Some(key) = account
        && !or_raise(MEMO.with(|memo| memo.has_account(key)))
    {
        raise(Error::UnknownAccount { account: key.to_owned() });
    }
    or_raise(session::bind(account, By::Role));
    account
}

#[pg_extern(sql = false)]
fn authenticate(token: Option<&str>) -> String {
    hide_statement();
    or_raise(bind_by_token(token.unwrap_or_default()))
}

fn bind_by_token(token: &str) -> Result<String, Error> {
    let account = token::account(token)?;
    session::bind(Some(&account), By::Token)?;
    Ok(account)
}

#[pg_extern(sql = false)]
fn current_account() -> Option<String> {
    session::current_account().map(String::from)
}

#[pg_extern(sql = false)]
fn current_account_uuid() -> Option<Uuid> {
    uuid_of(&session::current_account()?)
}

/// The uuid whose canonical text the key is.
pub fn uuid_of(key: &str) -> Option<Uuid> {
    let bytes = uuid_bytes(key)?;
    (AccountName::uuid(bytes).to_key() == key.as_bytes()).then(|| Uuid::from_bytes(bytes))
}

/// The bytes of a uuid in hexadecimal digits; hyphens are ignored.
fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let mut digits = text.bytes().filter(|byte| *byte != b'-').map(|byte| char::from(byte).to_digit(16));
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        *byte = (digits.next()?? << 4 | digits.next()??) as u8;
    }
    Some(bytes)
}

#[pg_extern(sql = false)]
fn current_account_bigint() -> Option<i64> {
    bigint_of(&session::current_account()?)
}

/// The number whose decimal digits the key is.
pub fn bigint_of(key: &str) -> Option<i64> {
    key.parse().ok().filter(|number: &i64| *number.to_string() == *key)
}

/// What `ask` says of the current account. Its key is gone when an error is raised, as `raise` asks for.
fn on_current<R>(ask: impl FnOnce(Option<&str>) -> Result<R, Error>) -> Result<R, Error> {
    ask(session::current_account().as_deref())
}

#[pg_extern(sql = false)]
fn current_value_of(feature: Option<&str>) -> Option<JsonbText> {
    or_raise(on_current(|account| check::value(account, feature)))
}

#[pg_extern(sql = false)]
fn current_allowance(feature: Option<&str>) -> Option<AnyNumeric> {
    or_raise(on_current(|account| check::allowed(account, feature)))
}

#[pg_extern(sql = false)]
fn current_check_access(feature: Option<&str>, n: Option<AmountArgument>) -> CompositeValue {
    or_raise(on_current(|account| check::decide(account, feature, n)?.into_composite()))
}

#[expect(clippy::type_complexity, reason = "the columns of the type entitlement, which pgrx takes no alias for")]
#[pg_extern(sql = false)]
fn current_entitlements_of() -> TableIterator<
    'static,
    (
        name!(account, String),
        name!(feature, String),
        name!(kind, String),
        name!(granted, bool),
        name!(value, Option<JsonbText>),
        name!(allowance, Option<AnyNumeric>),
        name!(reason, String),
        name!(expires_at, Option<TimestampWithTimeZone>),
        name!(valid_until, Option<TimestampWithTimeZone>),
    ),
> {
    TableIterator::new(or_raise(on_current(check::entitlements)))
}

/// A call of the consume family on the current account.
fn call<'a>(account: Option<&'a str>, feature: Option<&'a str>, n: Option<AmountArgument>) -> Arguments<'a> {
    Arguments { account, feature, n, idempotency_key: None, metadata: None }
}

#[pg_extern(sql = false)]
fn current_consume(feature: Option<&str>, n: Option<AmountArgument>) -> CompositeValue {
    or_raise(on_current(|account| call(account, feature, n).consume()))
}

#[pg_extern(sql = false)]
fn current_try_consume(feature: Option<&str>, n: Option<AmountArgument>) -> CompositeValue {
    or_raise(on_current(|account| call(account, feature, n).try_consume()))
}

#[pg_extern(sql = false)]
fn current_release(feature: Option<&str>, n: Option<AmountArgument>) -> CompositeValue {
    or_raise(on_current(|account| call(account, feature, n).release()))
}
