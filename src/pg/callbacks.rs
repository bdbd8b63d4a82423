//! What the server tells this backend: transactions end, subtransactions abort, relations change.
//!
//! The callbacks are permanent (registered once when the library is loaded) and only raise flags: a failure inside one, at
//! commit, would take the server down.

use super::backend::BackendFlag;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::sync::atomic::{AtomicU32, Ordering};

/// What is remembered by snapshot no longer holds, although the next snapshot may look like the last: a snapshot leaves out
/// its own transaction's id, and keeps its command id over ROLLBACK TO.
pub static MEMO_EXPIRED: BackendFlag = BackendFlag::raised();

/// A relation was changed or dropped: the extension's own may have got other OIDs.
pub static RELATIONS_CHANGED: BackendFlag = BackendFlag::raised();

#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(event: pg_sys::XactEvent::Type, _argument: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_PARALLEL_PRE_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE};
    if matches!(event, XACT_EVENT_PRE_COMMIT | XACT_EVENT_PARALLEL_PRE_COMMIT | XACT_EVENT_PRE_PREPARE) {
        return;
    }
    // SAFETY: reads of backend variables; neither function can fail.
    let changed_or_serializable = unsafe {
        pg_sys::XactIsoLevel == pg_sys::XACT_SERIALIZABLE as i32
            || GetTopTransactionIdIfAny() != pg_sys::TransactionId::from_inner(0)
    };
    if changed_or_serializable {
        MEMO_EXPIRED.raise();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_subtransaction_end(
    event: pg_sys::SubXactEvent::Type,
    _own_id: pg_sys::SubTransactionId,
    _parent_id: pg_sys::SubTransactionId,
    _argument: *mut std::ffi::c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        MEMO_EXPIRED.raise();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_relation_change(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    if relation == pg_sys::InvalidOid || OWN_RELATIONS.iter().any(|own| own.load(Ordering::Relaxed) == relation.to_u32()) {
        RELATIONS_CHANGED.raise();
    }
}

/// OIDs of the relations whose changes matter; the rest is 0.
static OWN_RELATIONS: [AtomicU32; 40] = [const { AtomicU32::new(0) }; 40];

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
    fn GetTopTransactionIdIfAny() -> pg_sys::TransactionId;
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
