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

    /// Whether the argument is the same for all calls of this query.
    pub(super) fn is_constant(&self, place: i32) -> bool {
        // SAFETY: flinfo is the server's look-up record of this call; it may be NULL.
        unsafe {
            let function = (*self.0).flinfo;
            !function.is_null() && pg_sys::get_fn_expr_arg_stable(function, place)
        }
    }

    /// What this place in the query keeps between its calls, made by `new` at the first.
    ///
    /// # Safety
    /// All functions that use this in one call agree on the type, which owns nothing outside of itself.
    #[inline(always)]
    pub(super) unsafe fn call_site(&mut self, new: impl FnOnce(&Self) -> CallSite) -> *mut CallSite {
        // SAFETY: fn_extra belongs to the called function; fn_mcxt lives as long as it does.
        unsafe {
            let function = (*self.0).flinfo;
            if !(*function).fn_extra.is_null() {
                return (*function).fn_extra.cast();
            }
            let site = pg_sys::MemoryContextAlloc((*function).fn_mcxt, size_of::<CallSite>()).cast::<CallSite>();
            site.write(new(self));
            (*function).fn_extra = site.cast();
            site
        }
    }
}
