//! What the server tells this backend: transactions end, subtransactions end, relations change.
//!
//! The callbacks are permanent (registered once when the library is loaded) and do no more than raise flags and drop what the
//! transaction had bound, which cannot fail: a failure inside one, at commit, would take the server down.

use super::backend::BackendFlag;
use super::snapshot::is_serializable;
use crate::guard::session;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What is remembered by snapshot no longer holds, although the next snapshot may look like the last: a snapshot leaves out
/// its own transaction's id, and keeps its command id over ROLLBACK TO.
pub static MEMO_EXPIRED: BackendFlag = BackendFlag::raised();

/// The transaction has changed what decides about accounts, or is just about to. Its snapshots tell such changes only by their
/// command id.
pub static CHANGED_HERE: BackendFlag = BackendFlag::lowered();

/// A subtransaction was rolled back, and what it wrote with it.
pub static ROLLED_BACK: BackendFlag = BackendFlag::lowered();

/// A relation was changed or dropped: the extension's own may have got other OIDs.
pub static RELATIONS_CHANGED: BackendFlag = BackendFlag::raised();

/// How often RELATIONS_CHANGED was raised.
static TIMES_CHANGED: AtomicU64 = AtomicU64::new(0);

/// A number that another one follows when relations change, for who keeps what it has found in the system catalog.
pub fn relations_epoch() -> u64 {
    TIMES_CHANGED.load(Ordering::Relaxed)
}

/// How often a transaction or a subtransaction has ended in a way that gives locks back.
static TIMES_UNLOCKED: AtomicU64 = AtomicU64::new(0);

/// A number that another one follows when locks are given back that were taken to be kept.
pub fn locks_epoch() -> u64 {
    TIMES_UNLOCKED.load(Ordering::Relaxed)
}

#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(event: pg_sys::XactEvent::Type, _argument: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_PARALLEL_PRE_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE};
    if matches!(event, XACT_EVENT_PRE_COMMIT | XACT_EVENT_PARALLEL_PRE_COMMIT | XACT_EVENT_PRE_PREPARE) {
        return;
    }
    TIMES_UNLOCKED.fetch_add(1, Ordering::Relaxed);
    session::end();
    if CHANGED_HERE.is_raised() || is_serializable() {
        MEMO_EXPIRED.raise();
    }
    CHANGED_HERE.lower();
}

#[pg_guard]
unsafe extern "C-unwind" fn at_subtransaction_end(
    event: pg_sys::SubXactEvent::Type,
    _own_id: pg_sys::SubTransactionId,
    _parent_id: pg_sys::SubTransactionId,
    _argument: *mut std::ffi::c_void,
) {
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
            TIMES_UNLOCKED.fetch_add(1, Ordering::Relaxed);
            if CHANGED_HERE.is_raised() {
                MEMO_EXPIRED.raise();
            }
            ROLLED_BACK.raise();
            session::roll_back(nesting_level());
        }
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => session::release(nesting_level()),
        _ => {}
    }
}

/// How deep the present subtransaction lies; 1 is the transaction itself. In the callbacks above, the one that ends.
pub fn nesting_level() -> i32 {
    // SAFETY: reads a variable of the backend.
    unsafe { GetCurrentTransactionNestLevel() }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_relation_change(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    let is_watched = |own: &AtomicU32| own.load(Ordering::Relaxed) == relation.to_u32();
    if relation == pg_sys::InvalidOid || are_all_watched() || OWN_RELATIONS.iter().any(is_watched) {
        RELATIONS_CHANGED.raise();
        TIMES_CHANGED.fetch_add(1, Ordering::Relaxed);
    }
}

/// OIDs of the relations whose changes matter; the rest is 0. Those of all relations matter where none is named.
static OWN_RELATIONS: [AtomicU32; 64] = [const { AtomicU32::new(0) }; 64];

fn are_all_watched() -> bool {
    OWN_RELATIONS[0].load(Ordering::Relaxed) == 0
}

/// From now on changes of all relations raise RELATIONS_CHANGED, until it is known which ones matter.
pub fn watch_all() {
    watch(std::iter::empty());
}

/// From now on only changes of these relations raise RELATIONS_CHANGED.
pub fn watch(relations: impl Iterator<Item = pg_sys::Oid>) {
    let mut relations = relations;
    for own in &OWN_RELATIONS {
        own.store(relations.next().map_or(0, pg_sys::Oid::to_u32), Ordering::Relaxed);
    }
    assert!(relations.next().is_none(), "room for all relations");
}

unsafe extern "C-unwind" {
    // Declared here, not taken from pgrx, to go without its guard: it cannot raise an error, and runs at commit.
    fn GetCurrentTransactionNestLevel() -> std::ffi::c_int;
}

/// Registers the callbacks for the life of the backend.
pub fn register() {
    // SAFETY: called once, from _PG_init; the functions are static and match the types the server calls them with.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_subtransaction_end), std::ptr::null_mut());
        pg_sys::CacheRegisterRelcacheCallback(Some(at_relation_change), pg_sys::Datum::from(0));
    }
}
