//! The call that the server makes: its arguments, and memory that lasts as long as the query's call site.

use crate::check::memo::CallSite;
use pgrx::pg_sys;

pub struct Arguments(pg_sys::FunctionCallInfo);

impl Arguments {
    /// # Safety
    /// `fcinfo` is the call that the server is making.
    #[inline(always)]
    pub(super) unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        Self(fcinfo)
    }

    /// The argument, None where it is NULL.
    ///
    /// # Safety
    /// The function is declared with more than `place` arguments.
    #[inline(always)]
    pub(super) unsafe fn get(&self, place: usize) -> Option<pg_sys::Datum> {
        // SAFETY: by contract; args is an array of as many elements as the function has arguments.
        let argument = unsafe { &*(*self.0).args.as_ptr().add(place) };
        (!argument.isnull).then_some(argument.value)
    }

    /// Whether the argument is a constant in the text of the query. A parameter is not: PL/pgSQL evaluates an expression of
    /// its own again and again at the same call site, each time with the present values of its variables.
    pub(super) fn is_constant(&self, place: i32) -> bool {
        // SAFETY: flinfo is the server's look-up record of this call and fn_expr the expression that makes it; both may be
        // NULL. A node's tag tells its type.
        unsafe {
            let function = (*self.0).flinfo;
            if function.is_null() || (*function).fn_expr.is_null() {
                return false;
            }
            let call = (*function).fn_expr;
            if (*call).type_ != pg_sys::NodeTag::T_FuncExpr {
                return false;
            }
            let arguments = (*call.cast::<pg_sys::FuncExpr>()).args;
            pg_sys::list_length(arguments) > place
                && (*pg_sys::list_nth(arguments, place).cast::<pg_sys::Node>()).type_ == pg_sys::NodeTag::T_Const
        }
    }

    /// What this place in the query keeps between its calls, if it has been called twice.
    ///
    /// # Safety
    /// As for `call_site`.
    #[inline(always)]
    pub(super) unsafe fn known_call_site(&self) -> Option<&CallSite> {
        // SAFETY: fn_extra is NULL, the sign of one call, or what call_site put there.
        unsafe {
            let kept = (*(*self.0).flinfo).fn_extra;
            if is_sign(kept) { None } else { kept.cast::<CallSite>().as_ref() }
        }
    }

    /// What this place in the query keeps between its calls, made by `new` at the second: a query that asks once, as most do
    /// that ask for one account, goes without the allocation. None at the first.
    ///
    /// # Safety
    /// All functions that use this in one call agree on the type, which owns nothing outside of itself.
    #[inline(always)]
    pub(super) unsafe fn call_site(&mut self, new: impl FnOnce(&Self) -> CallSite) -> Option<*mut CallSite> {
        // SAFETY: fn_extra belongs to the called function; fn_mcxt lives as long as it does.
        unsafe {
            let function = (*self.0).flinfo;
            let kept = (*function).fn_extra;
            if kept.is_null() {
                (*function).fn_extra = (&raw const CALLED_ONCE).cast_mut().cast();
                return None;
            }
            if !is_sign(kept) {
                return Some(kept.cast());
            }
            let site = pg_sys::MemoryContextAlloc((*function).fn_mcxt, size_of::<CallSite>()).cast::<CallSite>();
            site.write(new(self));
            (*function).fn_extra = site.cast();
            Some(site)
        }
    }
}

/// Its address is the sign of one call.
static CALLED_ONCE: u8 = 0;

#[inline(always)]
fn is_sign(kept: *mut std::ffi::c_void) -> bool {
    std::ptr::eq(kept.cast_const().cast(), &raw const CALLED_ONCE)
}
