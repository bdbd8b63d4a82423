//! State of the backend process: statics that are safe because a backend has one thread and never re-enters them.

use once_cell::unsync::Lazy;
use std::cell::{Cell, UnsafeCell};

/// A value of this backend, lent out to one borrower at a time.
///
/// Reached without the cost of thread-local storage, which a check that runs for each row of a scan would feel. A panic or an
/// ERROR inside `with` unwinds through it and gives the value back.
pub struct BackendLocal<T> {
    value: UnsafeCell<Lazy<T>>,
    lent: Cell<bool>,
}

// SAFETY: PostgreSQL backends are single-threaded; nothing of this library starts a thread.
unsafe impl<T> Sync for BackendLocal<T> {}

struct Loan<'a>(&'a Cell<bool>);

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl<T> BackendLocal<T> {
    pub const fn new(make: fn() -> T) -> Self {
        Self { value: UnsafeCell::new(Lazy::new(make)), lent: Cell::new(false) }
    }

    /// The value to look at, if it is made and not lent out.
    #[inline(always)]
    pub fn peek<R>(&'static self, look: impl FnOnce(&T) -> Option<R>) -> Option<R> {
        if self.lent.get() {
            return None;
        }
        // SAFETY: not lent, so nobody can change the value; `look` cannot make anybody do so, since it gets no way to call SQL.
        Lazy::get(unsafe { &*self.value.get() }).and_then(look)
    }

    /// Runs `work` on the value, made at the first use. `work` must not come back here; that is a defect and panics.
    #[inline(always)]
    pub fn with<R>(&'static self, work: impl FnOnce(&mut T) -> R) -> R {
        assert!(!self.lent.replace(true), "a backend value is already lent");
        let _loan = Loan(&self.lent);
        // SAFETY: `lent` was false, so no other reference to the value exists; it stays true until `_loan` is dropped, after
        // the last use of this one.
        work(Lazy::force_mut(unsafe { &mut *self.value.get() }))
    }
}

/// A flag that callbacks of the server raise and ordinary code reads and lowers; raising never fails.
pub struct BackendFlag(Cell<bool>);

// SAFETY: as for BackendLocal.
unsafe impl Sync for BackendFlag {}

impl BackendFlag {
    pub const fn raised() -> Self {
        Self(Cell::new(true))
    }

    pub const fn lowered() -> Self {
        Self(Cell::new(false))
    }

    #[inline(always)]
    pub fn is_raised(&self) -> bool {
        self.0.get()
    }

    pub fn raise(&self) {
        self.0.set(true);
    }

    pub fn lower(&self) {
        self.0.set(false);
    }
}
