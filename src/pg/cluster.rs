//! Which cluster and which of its databases this is.

use pgrx::pg_sys;

/// The number that initdb gave the cluster; a copy of its files has it too.
pub fn system_identifier() -> i64 {
    // SAFETY: reads the control file's copy in shared memory. As a bigint, as pg_control_system() has it.
    unsafe { pg_sys::GetSystemIdentifier() as i64 }
}

/// The number that the cluster gave this database; one that is restored from a dump gets another.
pub fn database() -> i64 {
    // SAFETY: a variable of the backend, set before it runs any statement.
    unsafe { pg_sys::MyDatabaseId }.to_u32().into()
}

/// The timeline of the write-ahead log, another one after each recovery and promotion; None on a standby.
pub fn timeline() -> Option<i32> {
    // SAFETY: reads variables in shared memory; the timeline of insertion is known outside of recovery.
    unsafe { (!pg_sys::RecoveryInProgress()).then(|| pg_sys::GetWALInsertionTimeLine() as i32) }
}
