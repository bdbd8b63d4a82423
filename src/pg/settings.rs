//! The extension's settings (GUCs).

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use pgrx::pg_sys;
use std::ffi::{CStr, CString};

static MEMO_SIZE: GucSetting<i32> = GucSetting::<i32>::new(4096);

/// How much memory a backend may use to remember what it has read, in bytes.
pub fn memo_size() -> usize {
    usize::try_from(MEMO_SIZE.get()).unwrap_or(0) * 1024
}

static MAX_SLOTS: GucSetting<i32> = GucSetting::<i32>::new(64);

/// Most slots that a counter may be spread over; 1 = it stays one row.
pub fn max_slots() -> usize {
    usize::try_from(MAX_SLOTS.get()).unwrap_or(1)
}

static LEDGER_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(400 * DAY);

/// How long the ledger keeps events, in minutes.
pub fn ledger_retention() -> i64 {
    LEDGER_RETENTION.get().into()
}

static IDEMPOTENCY_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(90 * DAY);

/// How long idempotency keys and ended reservations are kept, in minutes.
pub fn idempotency_retention() -> i64 {
    IDEMPOTENCY_RETENTION.get().into()
}

static SIGNING_KEY_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// The file with the private key that bundles are signed with.
pub fn signing_key_file() -> Option<String> {
    path(&SIGNING_KEY_FILE)
}

static AGE_IDENTITY_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// The file with the identities that encrypted documents are opened with.
pub fn age_identity_file() -> Option<String> {
    path(&AGE_IDENTITY_FILE)
}

fn path(setting: &'static GucSetting<Option<CString>>) -> Option<String> {
    setting.get().and_then(|path| path.into_string().ok()).filter(|path| !path.is_empty())
}

/// In minutes, the longest unit of settings.
const DAY: i32 = 24 * 60;

static RATE_SLOTS: GucSetting<i32> = GucSetting::<i32>::new(16_384);

/// For how many rates in use at once shared memory has room.
pub fn rate_slots() -> usize {
    usize::try_from(RATE_SLOTS.get()).unwrap_or(0)
}

static ACCOUNT_SETTING: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static ACCOUNT_CLAIM: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"sub"));

/// What the layer before the database has set to say whom it acts for.
#[derive(Clone, PartialEq, Eq)]
pub struct Handed {
    /// The value of the setting that `entitlements.account_setting` names.
    pub value: String,
    /// Where the account stands in it; empty: it is the account.
    pub claim: String,
}

/// None unless the administrator has said which setting it is, and it has a value.
pub fn handed() -> Option<Handed> {
    let name = ACCOUNT_SETTING.get().filter(|name| !name.is_empty())?;
    // SAFETY: a look-up by a NUL-terminated name, NULL where there is no such setting. The value is copied at once.
    let value = unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        if value.is_null() {
            return None;
        }
        CStr::from_ptr(value).to_str().ok()?.to_owned()
    };
    let claim = ACCOUNT_CLAIM.get().unwrap_or_default().into_string().ok()?;
    Some(Handed { value, claim })
}

/// Under which SQLSTATEs errors are raised.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum ErrorCodes {
    /// Class NE.
    #[name = c"native"]
    Native,
    /// Where the error is an answer to the user, the code that PostgREST makes a status of HTTP.
    #[name = c"postgrest"]
    Postgrest,
}

static ERROR_CODES: GucSetting<ErrorCodes> = GucSetting::<ErrorCodes>::new(ErrorCodes::Native);

pub fn error_codes() -> ErrorCodes {
    ERROR_CODES.get()
}

/// Defines the setting that only counts when the server starts.
pub fn define_shared() {
    GucRegistry::define_int_guc(
        c"entitlements.rate_slots",
        c"Rates whose state is kept in shared memory at once.",
        c"An account and feature takes one until its rate is fully available again. 40 bytes each.",
        &RATE_SLOTS,
        1024,
        64 * 1024 * 1024,
        GucContext::Postmaster,
        GucFlags::default(),
    );
}

/// Defines the settings; called once, from _PG_init.
pub fn define() {
    GucRegistry::define_int_guc(
        c"entitlements.memo_size",
        c"Memory that a backend may use to remember resolved accounts.",
        c"What no longer fits is read again from the tables; answers are the same.",
        &MEMO_SIZE,
        64,
        1024 * 1024,
        GucContext::Userset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"entitlements.max_slots",
        c"Most slots that a counter is spread over while many transactions use it at once.",
        c"About as many transactions as this can consume from one pool without waiting for each other. 1 keeps each counter one row.",
        &MAX_SLOTS,
        1,
        1024,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"entitlements.ledger_retention",
        c"How long the ledger of usage keeps events.",
        c"maintain() deletes older ones. Write days as in 400d.",
        &LEDGER_RETENTION,
        DAY,
        36_500 * DAY,
        GucContext::Suset,
        GucFlags::UNIT_MIN,
    );
    GucRegistry::define_int_guc(
        c"entitlements.idempotency_retention",
        c"How long idempotency keys and ended reservations are kept.",
        c"maintain() deletes older ones; a call repeated later is a new one. Write days as in 90d.",
        &IDEMPOTENCY_RETENTION,
        DAY,
        36_500 * DAY,
        GucContext::Suset,
        GucFlags::UNIT_MIN,
    );
    GucRegistry::define_string_guc(
        c"entitlements.signing_key_file",
        c"File with the private key that export_bundle signs with, a JSON Web Key.",
        c"Read by the server when a bundle is exported; nobody but its operating system user should be able to read it.",
        &SIGNING_KEY_FILE,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_string_guc(
        c"entitlements.age_identity_file",
        c"File with the identities that import_bundle opens encrypted documents with.",
        c"As age-keygen writes it; nobody but the server's operating system user should be able to read it.",
        &AGE_IDENTITY_FILE,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_string_guc(
        c"entitlements.account_setting",
        c"Name of the setting that says which account is the current one.",
        c"For example request.jwt.claims. Only where nobody who may send SQL can reach the database: whoever can sets it as they like. Empty = none.",
        &ACCOUNT_SETTING,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"entitlements.account_claim",
        c"Where the account stands in the JSON that entitlements.account_setting names.",
        c"A member's name, or a JSON Pointer where it begins with a slash. Empty = the value is the account's key itself.",
        &ACCOUNT_CLAIM,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"entitlements.error_codes",
        c"SQLSTATEs that errors are raised with.",
        c"native: class NE. postgrest: PT403 not entitled, PT402 allowance used up, PT429 rate exceeded, PT401 token refused, else class NE.",
        &ERROR_CODES,
        GucContext::Userset,
        GucFlags::default(),
    );
}
