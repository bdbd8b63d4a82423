//! Functions that SQL calls for each row: written against the call convention itself, without conversions or allocations.

use super::arguments::Arguments;
use super::error::or_raise;
use super::values;
use crate::check::functions;
use crate::check::memo::{CallSite, MEMO};
use crate::error::Error;
use crate::guard::session;
use entitlements_server::name::AccountName;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// How an account argument of an SQL type is read.
trait AccountType {
    /// The name, if reading it cannot raise an error.
    ///
    /// # Safety
    /// `datum` is a valid, non-NULL value of the type, and outlives the name.
    unsafe fn peek<'a>(datum: pg_sys::Datum) -> Option<AccountName<'a>>;

    /// # Safety
    /// `datum` is a valid, non-NULL value of the type.
    unsafe fn read<R>(datum: pg_sys::Datum, use_name: impl FnOnce(AccountName<'_>) -> R) -> R;
}

struct Text;

impl AccountType for Text {
    #[inline(always)]
    unsafe fn peek<'a>(datum: pg_sys::Datum) -> Option<AccountName<'a>> {
        // SAFETY: by contract a text.
        unsafe { values::plain_text(datum) }.map(AccountName::Text)
    }

    #[inline(always)]
    unsafe fn read<R>(datum: pg_sys::Datum, use_name: impl FnOnce(AccountName<'_>) -> R) -> R {
        // SAFETY: by contract a text.
        unsafe { values::with_text(datum, |text| use_name(AccountName::Text(text))) }
    }
}

struct Uuid;

impl Uuid {
    /// # Safety
    /// `datum` is a valid, non-NULL uuid.
    #[inline(always)]
    unsafe fn name(datum: pg_sys::Datum) -> AccountName<'static> {
        // SAFETY: by contract; a uuid is a pointer to 16 bytes.
        AccountName::uuid(unsafe { *datum.cast_mut_ptr::<[u8; 16]>() })
    }
}

impl AccountType for Uuid {
    #[inline(always)]
    unsafe fn peek<'a>(datum: pg_sys::Datum) -> Option<AccountName<'a>> {
        // SAFETY: by contract.
        Some(unsafe { Self::name(datum) })
    }

    #[inline(always)]
    unsafe fn read<R>(datum: pg_sys::Datum, use_name: impl FnOnce(AccountName<'_>) -> R) -> R {
        // SAFETY: by contract.
        use_name(unsafe { Self::name(datum) })
    }
}

struct Bigint;

impl AccountType for Bigint {
    #[inline(always)]
    unsafe fn peek<'a>(datum: pg_sys::Datum) -> Option<AccountName<'a>> {
        Some(AccountName::Bigint(datum.value() as i64))
    }

    #[inline(always)]
    unsafe fn read<R>(datum: pg_sys::Datum, use_name: impl FnOnce(AccountName<'_>) -> R) -> R {
        use_name(AccountName::Bigint(datum.value() as i64))
    }
}

/// The answer, if this place in the query has asked before and it takes no more than looking it up. Cannot raise an error or
/// panic, so that it needs no guard, which would cost a fifth of the whole call.
///
/// # Safety
/// As for [`granted`].
#[inline(always)]
unsafe fn recalled<A: AccountType>(arguments: &Arguments) -> Option<bool> {
    // SAFETY: by contract.
    unsafe {
        let site = arguments.known_call_site()?;
        let feature = values::plain_text(arguments.get(1)?)?;
        let account = A::peek(arguments.get(0)?)?;
        MEMO.peek(|memo| memo.recall(account, feature, site))
    }
}

/// Whether the account (argument 0) is granted the feature (argument 1).
///
/// # Safety
/// Argument 0 is of the SQL type that `A` stands for, argument 1 text.
#[inline(always)]
unsafe fn granted<A: AccountType>(arguments: &mut Arguments) -> Result<bool, Error> {
    // SAFETY: by contract.
    unsafe {
        let Some(feature) = arguments.get(1) else {
            return Err(Error::argument("feature", "it is NULL"));
        };
        let mut first = CallSite::new(false);
        let site = arguments.call_site(|arguments| CallSite::new(arguments.is_constant(1))).unwrap_or(&mut first);
        values::with_text(feature, |feature| match arguments.get(0) {
            Some(account) => A::read(account, |account| MEMO.with(|memo| memo.granted(account, feature, &mut *site))),
            None => MEMO.with(|memo| memo.known(feature, &mut *site)).map(|()| false),
        })
    }
}

/// # Safety
/// As for [`granted`].
unsafe fn required<A: AccountType>(arguments: &mut Arguments) -> Result<bool, Error> {
    // SAFETY: by contract.
    unsafe {
        if granted::<A>(arguments)? {
            return Ok(true);
        }
        let account = arguments.get(0).map(|account| A::read(account, |name| name.to_key()));
        let feature = arguments.get(1).map(|feature| values::with_text(feature, <[u8]>::to_vec));
        Err(functions::denial(account.as_deref(), feature.as_deref().unwrap_or_default()))
    }
}

/// Whether the current account is granted the feature (argument 0).
///
/// # Safety
/// Argument 0 is text.
unsafe fn current_granted(arguments: &mut Arguments) -> Result<bool, Error> {
    // SAFETY: by contract.
    unsafe {
        let Some(feature) = arguments.get(0) else {
            return Err(Error::argument("feature", "it is NULL"));
        };
        let mut first = CallSite::new(false);
        let site = arguments.call_site(|arguments| CallSite::new(arguments.is_constant(0))).unwrap_or(&mut first);
        values::with_text(feature, |feature| match session::current_account() {
            Some(account) => MEMO.with(|memo| memo.granted(AccountName::Text(account.as_bytes()), feature, &mut *site)),
            None => MEMO.with(|memo| memo.known(feature, &mut *site)).map(|()| false),
        })
    }
}

/// # Safety
/// As for [`current_granted`].
unsafe fn current_required(arguments: &mut Arguments) -> Result<bool, Error> {
    // SAFETY: by contract.
    unsafe {
        if current_granted(arguments)? {
            return Ok(true);
        }
        let feature = arguments.get(0).map(|feature| values::with_text(feature, <[u8]>::to_vec));
        let account = session::current_account();
        Err(functions::denial(account.as_deref().map(str::as_bytes), feature.as_deref().unwrap_or_default()))
    }
}

/// Functions on the current account remember no answers of their own: whose it would be can change between two calls.
unsafe fn never_recalled(_: &Arguments) -> Option<bool> {
    None
}

/// A version-1 function: the symbol and the record that the server asks for by name. `$recalled` looks up a remembered answer;
/// `$settled` tells which of these are the function's result; the others, and all that goes beyond looking up, are for `$body`.
macro_rules! sql_function {
    ($name:ident, $record:ident, $recalled:expr, $settled:expr, $body:expr) => {
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            #[pg_guard]
            unsafe extern "C-unwind" fn guarded(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
                // SAFETY: as below.
                let answer = unsafe { $body(&mut Arguments::new(fcinfo)) };
                pg_sys::Datum::from(or_raise(answer))
            }

            // SAFETY: the server calls this with the arguments that CREATE FUNCTION declares.
            unsafe {
                match $recalled(&Arguments::new(fcinfo)) {
                    Some(granted) if $settled(granted) => pg_sys::Datum::from(granted),
                    _ => guarded(fcinfo),
                }
            }
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $record() -> &'static pg_sys::Pg_finfo_record {
            const VERSION_1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &VERSION_1
        }
    };
}

sql_function!(entitled_text, pg_finfo_entitled_text, recalled::<Text>, |_| true, granted::<Text>);
sql_function!(entitled_uuid, pg_finfo_entitled_uuid, recalled::<Uuid>, |_| true, granted::<Uuid>);
sql_function!(entitled_bigint, pg_finfo_entitled_bigint, recalled::<Bigint>, |_| true, granted::<Bigint>);
sql_function!(require_text, pg_finfo_require_text, recalled::<Text>, |granted| granted, required::<Text>);
sql_function!(require_uuid, pg_finfo_require_uuid, recalled::<Uuid>, |granted| granted, required::<Uuid>);
sql_function!(require_bigint, pg_finfo_require_bigint, recalled::<Bigint>, |granted| granted, required::<Bigint>);
sql_function!(entitled_current, pg_finfo_entitled_current, never_recalled, |_| true, current_granted);
sql_function!(require_current, pg_finfo_require_current, never_recalled, |_| true, current_required);
