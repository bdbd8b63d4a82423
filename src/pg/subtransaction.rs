//! Subtransactions: work that is undone without ending the caller's transaction.

use super::relations::Access;
use super::snapshot::ActiveSnapshot;
use super::unguarded::{CommandCounterIncrement, GetTransactionSnapshot, PopActiveSnapshot, PushActiveSnapshot};
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs `work` in a subtransaction that is kept if it succeeds and rolled back, with its locks, if it does not.
pub fn attempt<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    // SAFETY: as pl_exec.c does it for a block with an EXCEPTION clause: memory context and resource owner are put back, and an
    // ERROR, which comes as a panic, ends the subtransaction before it goes on.
    unsafe {
        let (context, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let result = catch_unwind(AssertUnwindSafe(work));
        match &result {
            Ok(Ok(_)) => pg_sys::ReleaseCurrentSubTransaction(),
            Ok(Err(_)) | Err(_) => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

/// None where `work` finds that a row is there already (23505): ON CONFLICT does not see an index that REINDEX CONCURRENTLY is
/// making, or taking away, and that has the row. Only then in a subtransaction, for who waits for what a subtransaction has
/// done waits for the whole transaction.
pub fn unless_duplicate<const COLUMNS: usize, T, E>(
    access: &Access<COLUMNS>,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<Option<T>, E> {
    if !access.is_being_reindexed() {
        return work().map(Some);
    }
    PgTryBuilder::new(AssertUnwindSafe(|| attempt(work).map(Some)))
        .catch_when(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION, |_| Ok(None))
        .execute()
}

/// Runs `work` with a snapshot of this moment, whatever the isolation level: what was withdrawn meanwhile no longer counts.
pub fn with_latest_snapshot<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: as the server does to check a foreign key. On an ERROR the snapshot goes with the transaction.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let result = work();
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// Runs `work` with a snapshot of this moment, which sees what the transaction has done so far. In REPEATABLE READ and
/// SERIALIZABLE it is the transaction's own.
pub fn with_fresh_snapshot<R>(work: impl FnOnce(ActiveSnapshot) -> R) -> R {
    // SAFETY: as the server does before each statement of a VOLATILE function. On an ERROR the snapshot goes with the
    // transaction.
    unsafe {
        pg_guard_ffi_boundary(|| {
            CommandCounterIncrement();
            PushActiveSnapshot(GetTransactionSnapshot());
        });
        let snapshot = ActiveSnapshot::get().expect("a snapshot was just made the active one");
        let result = work(snapshot);
        PopActiveSnapshot();
        result
    }
}
