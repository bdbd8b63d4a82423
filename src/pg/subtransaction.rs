//! Subtransactions: work that is undone without ending the caller's transaction.

use super::relations::is_being_reindexed;
use super::snapshot::ActiveSnapshot;
use super::unguarded::{CommandCounterIncrement, GetTransactionSnapshot, PopActiveSnapshot, PushActiveSnapshot};
use crate::error::Error;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiTupleTable};
use std::ffi::CStr;
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

/// Runs an INSERT … ON CONFLICT into a table of the extension, again where REINDEX CONCURRENTLY comes in between: ON CONFLICT
/// does not see an index that is being made, or taken away, and that has the row already (23505), and finds no index at all in the
/// moment in which the two change places (42P10). Only then in a subtransaction, for who waits for what a subtransaction has
/// done waits for the whole transaction.
pub fn upsert<'conn>(
    client: &mut SpiClient<'conn>,
    table: &CStr,
    query: &str,
    arguments: &[DatumWithOid<'_>],
) -> Result<SpiTupleTable<'conn>, Error> {
    const MOST_TRIES: usize = 10;
    let mut run = || client.update(query, None, arguments).map_err(Error::from);
    if is_being_reindexed(table)? {
        for _ in 1..MOST_TRIES {
            let done = PgTryBuilder::new(AssertUnwindSafe(|| attempt(&mut run).map(Some)))
                .catch_when(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION, |_| Ok(None))
                .catch_when(PgSqlErrorCode::ERRCODE_INVALID_COLUMN_REFERENCE, |_| Ok(None))
                .execute()?;
            if let Some(rows) = done {
                return Ok(rows);
            }
        }
    }
    run()
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
