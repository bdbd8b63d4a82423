//! Planner support of `entitled`: how many rows it lets through and what a call costs.

use super::error::or_raise;
use super::snapshot::ActiveSnapshot;
use super::values;
use crate::check::memo::MEMO;
use entitlements_server::name::AccountName;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// A remembered answer takes about as long as four comparisons of integers.
const OPERATORS_A_CALL: f64 = 4.0;

#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn entitled_support(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the planner calls this with one argument, a request node whose tag tells its type, and expects it back filled, or
    // NULL where there is nothing to say.
    unsafe {
        let request = (*(*fcinfo).args.as_ptr()).value.cast_mut_ptr::<pg_sys::Node>();
        let answered = match (*request).type_ {
            pg_sys::NodeTag::T_SupportRequestCost => {
                let request = &mut *request.cast::<pg_sys::SupportRequestCost>();
                request.startup = 0.0;
                request.per_tuple = OPERATORS_A_CALL * pg_sys::cpu_operator_cost;
                true
            }
            pg_sys::NodeTag::T_SupportRequestSelectivity => {
                let request = &mut *request.cast::<pg_sys::SupportRequestSelectivity>();
                match selectivity(request) {
                    Some(selectivity) => {
                        request.selectivity = selectivity;
                        true
                    }
                    None => false,
                }
            }
            _ => false,
        };
        if answered { pg_sys::Datum::from(request) } else { pg_sys::Datum::from(0) }
    }
}

/// The share of accounts that are granted the feature; exact where the account is known as well. None where the feature is
/// not, or is not known at planning time.
///
/// # Safety
/// A request of the planner for a function of (account, feature).
unsafe fn selectivity(request: &pg_sys::SupportRequestSelectivity) -> Option<f64> {
    // SAFETY: by contract; the arguments are expression nodes.
    unsafe {
        if !ActiveSnapshot::may_be_read_for_estimates() {
            return None;
        }
        let feature = constant(request.args, 1)?;
        let share = values::with_text(feature.constvalue, |feature| match constant(request.args, 0) {
            Some(account) => {
                let read = |name: AccountName<'_>| MEMO.with(|memo| memo.share(Some(name), feature));
                match account.consttype {
                    pg_sys::TEXTOID => values::with_text(account.constvalue, |text| read(AccountName::Text(text))),
                    pg_sys::UUIDOID => read(AccountName::uuid(*account.constvalue.cast_mut_ptr::<[u8; 16]>())),
                    _ => read(AccountName::Bigint(account.constvalue.value() as i64)),
                }
            }
            None => MEMO.with(|memo| memo.share(None, feature)),
        });
        or_raise(share)
    }
}

/// The argument, if it is a constant other than NULL.
///
/// # Safety
/// `arguments` is a list of expression nodes.
unsafe fn constant<'a>(arguments: *mut pg_sys::List, place: i32) -> Option<&'a pg_sys::Const> {
    // SAFETY: by contract; a node's tag tells its type.
    unsafe {
        if pg_sys::list_length(arguments) <= place {
            return None;
        }
        let node = pg_sys::list_nth(arguments, place).cast::<pg_sys::Node>();
        if (*node).type_ != pg_sys::NodeTag::T_Const {
            return None;
        }
        let constant = &*node.cast::<pg_sys::Const>();
        (!constant.constisnull).then_some(constant)
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_entitled_support() -> &'static pg_sys::Pg_finfo_record {
    const VERSION_1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &VERSION_1
}
