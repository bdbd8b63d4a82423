//! Functions of the server, declared here to go without the guard that pgrx puts around each of them: a sigsetjmp and code of its
//! own, which counts where they run for each row, or each unit that is consumed.

use pgrx::pg_sys;
use std::ffi::{c_char, c_int};

/// The file of a relation.
#[cfg(feature = "pg15")]
pub(super) type RelFile = pg_sys::RelFileNode;
#[cfg(not(feature = "pg15"))]
pub(super) type RelFile = pg_sys::RelFileLocator;

/// # Safety
/// The relation is open.
pub(super) unsafe fn file_of(relation: pg_sys::Relation) -> RelFile {
    // SAFETY: by contract.
    unsafe {
        #[cfg(feature = "pg15")]
        return (*relation).rd_node;
        #[cfg(not(feature = "pg15"))]
        (*relation).rd_locator
    }
}

unsafe extern "C-unwind" {
    // These cannot raise an error: they look up built-in functions, copy attributes and look at the state of the backend.
    pub(super) fn heap_deform_tuple(
        tuple: pg_sys::HeapTuple,
        descriptor: pg_sys::TupleDesc,
        values: *mut pg_sys::Datum,
        nulls: *mut bool,
    );
    pub(super) fn index_deform_tuple(
        tuple: pg_sys::IndexTuple,
        descriptor: pg_sys::TupleDesc,
        values: *mut pg_sys::Datum,
        nulls: *mut bool,
    );
    pub(super) fn PopActiveSnapshot();
    pub(super) fn TransactionIdIsCurrentTransactionId(id: pg_sys::TransactionId) -> bool;
    pub(super) fn TransactionStartedDuringRecovery() -> bool;
    pub(super) fn ScanKeyEntryInitialize(
        key: *mut pg_sys::ScanKeyData,
        flags: c_int,
        column: pg_sys::AttrNumber,
        strategy: pg_sys::StrategyNumber,
        subtype: pg_sys::Oid,
        collation: pg_sys::Oid,
        procedure: pg_sys::Oid,
        argument: pg_sys::Datum,
    );

    // These can, and are for one guard around several of them: pg_guard_ffi_boundary. Nothing that has a guard of its own may be
    // called inside of it and raise an error there: that is a panic, which cannot pass the outer guard.
    pub(super) fn table_open(table: pg_sys::Oid, lock: pg_sys::LOCKMODE) -> pg_sys::Relation;
    pub(super) fn table_close(table: pg_sys::Relation, lock: pg_sys::LOCKMODE);
    pub(super) fn get_namespace_oid(name: *const c_char, missing_ok: bool) -> pg_sys::Oid;
    pub(super) fn get_relname_relid(name: *const c_char, namespace: pg_sys::Oid) -> pg_sys::Oid;
    pub(super) fn index_open(index: pg_sys::Oid, lock: pg_sys::LOCKMODE) -> pg_sys::Relation;
    pub(super) fn index_close(index: pg_sys::Relation, lock: pg_sys::LOCKMODE);
    pub(super) fn systable_beginscan_ordered(
        table: pg_sys::Relation,
        index: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        keys: c_int,
        key: pg_sys::ScanKey,
    ) -> pg_sys::SysScanDesc;
    pub(super) fn systable_endscan_ordered(scan: pg_sys::SysScanDesc);
    #[cfg(not(feature = "pg18"))]
    pub(super) fn index_beginscan(
        table: pg_sys::Relation,
        index: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        keys: c_int,
        orders: c_int,
    ) -> pg_sys::IndexScanDesc;
    #[cfg(feature = "pg18")]
    pub(super) fn index_beginscan(
        table: pg_sys::Relation,
        index: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        counts: *mut pg_sys::IndexScanInstrumentation,
        keys: c_int,
        orders: c_int,
    ) -> pg_sys::IndexScanDesc;
    pub(super) fn index_rescan(
        scan: pg_sys::IndexScanDesc,
        keys: pg_sys::ScanKey,
        key_count: c_int,
        orders: pg_sys::ScanKey,
        order_count: c_int,
    );
    pub(super) fn index_getnext_tid(
        scan: pg_sys::IndexScanDesc,
        direction: pg_sys::ScanDirection::Type,
    ) -> pg_sys::ItemPointer;
    pub(super) fn index_fetch_heap(scan: pg_sys::IndexScanDesc, slot: *mut pg_sys::TupleTableSlot) -> bool;
    pub(super) fn index_endscan(scan: pg_sys::IndexScanDesc);
    pub(super) fn visibilitymap_get_status(
        table: pg_sys::Relation,
        block: pg_sys::BlockNumber,
        page: *mut pg_sys::Buffer,
    ) -> u8;
    pub(super) fn table_slot_create(table: pg_sys::Relation, owner: *mut *mut pg_sys::List) -> *mut pg_sys::TupleTableSlot;
    pub(super) fn ExecDropSingleTupleTableSlot(slot: *mut pg_sys::TupleTableSlot);
    pub(super) fn heap_fetch(
        table: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        tuple: pg_sys::HeapTuple,
        buffer: *mut pg_sys::Buffer,
        keep_buffer: bool,
    ) -> bool;
    pub(super) fn ReadBuffer(table: pg_sys::Relation, block: pg_sys::BlockNumber) -> pg_sys::Buffer;
    pub(super) fn ReadRecentBuffer(
        file: RelFile,
        fork: pg_sys::ForkNumber::Type,
        block: pg_sys::BlockNumber,
        buffer: pg_sys::Buffer,
    ) -> bool;
    pub(super) fn BufferGetBlockNumber(buffer: pg_sys::Buffer) -> pg_sys::BlockNumber;
    pub(super) fn LockBuffer(buffer: pg_sys::Buffer, mode: c_int);
    pub(super) fn ReleaseBuffer(buffer: pg_sys::Buffer);
    pub(super) fn UnlockReleaseBuffer(buffer: pg_sys::Buffer);
    pub(super) fn heap_page_prune_opt(table: pg_sys::Relation, buffer: pg_sys::Buffer);
    pub(super) fn HeapTupleSatisfiesVisibility(
        version: pg_sys::HeapTuple,
        snapshot: pg_sys::Snapshot,
        buffer: pg_sys::Buffer,
    ) -> bool;
    pub(super) fn heap_hot_search_buffer(
        place: pg_sys::ItemPointer,
        table: pg_sys::Relation,
        buffer: pg_sys::Buffer,
        snapshot: pg_sys::Snapshot,
        tuple: pg_sys::HeapTuple,
        all_dead: *mut bool,
        is_first: bool,
    ) -> bool;
    pub(super) fn heap_get_root_tuples(page: pg_sys::Page, roots: *mut pg_sys::OffsetNumber);
    pub(super) fn HeapTupleSatisfiesUpdate(
        tuple: pg_sys::HeapTuple,
        command: pg_sys::CommandId,
        buffer: pg_sys::Buffer,
    ) -> pg_sys::TM_Result::Type;
    pub(super) fn lookup_rowtype_tupdesc(of_type: pg_sys::Oid, modifier: i32) -> pg_sys::TupleDesc;
    pub(super) fn DecrTupleDescRefCount(descriptor: pg_sys::TupleDesc);
    pub(super) fn heap_form_tuple(
        descriptor: pg_sys::TupleDesc,
        values: *mut pg_sys::Datum,
        nulls: *mut bool,
    ) -> pg_sys::HeapTuple;
    pub(super) fn HeapTupleHeaderGetDatum(tuple: pg_sys::HeapTupleHeader) -> pg_sys::Datum;
    pub(super) fn heap_modify_tuple_by_cols(
        tuple: pg_sys::HeapTuple,
        descriptor: pg_sys::TupleDesc,
        count: c_int,
        columns: *mut c_int,
        values: *mut pg_sys::Datum,
        nulls: *mut bool,
    ) -> pg_sys::HeapTuple;
    #[cfg(feature = "pg15")]
    pub(super) fn heap_update(
        table: pg_sys::Relation,
        place: pg_sys::ItemPointer,
        tuple: pg_sys::HeapTuple,
        command: pg_sys::CommandId,
        crosscheck: pg_sys::Snapshot,
        wait: bool,
        failure: *mut pg_sys::TM_FailureData,
        mode: *mut pg_sys::LockTupleMode::Type,
    ) -> pg_sys::TM_Result::Type;
    #[cfg(not(feature = "pg15"))]
    pub(super) fn heap_update(
        table: pg_sys::Relation,
        place: pg_sys::ItemPointer,
        tuple: pg_sys::HeapTuple,
        command: pg_sys::CommandId,
        crosscheck: pg_sys::Snapshot,
        wait: bool,
        failure: *mut pg_sys::TM_FailureData,
        mode: *mut pg_sys::LockTupleMode::Type,
        indexes: *mut pg_sys::TU_UpdateIndexes::Type,
    ) -> pg_sys::TM_Result::Type;
    #[cfg(feature = "pg15")]
    pub(super) fn simple_heap_update(table: pg_sys::Relation, place: pg_sys::ItemPointer, tuple: pg_sys::HeapTuple);
    #[cfg(not(feature = "pg15"))]
    pub(super) fn simple_heap_update(
        table: pg_sys::Relation,
        place: pg_sys::ItemPointer,
        tuple: pg_sys::HeapTuple,
        indexes: *mut pg_sys::TU_UpdateIndexes::Type,
    );
    pub(super) fn heap_freetuple(tuple: pg_sys::HeapTuple);
    pub(super) fn CommandCounterIncrement();
    pub(super) fn GetTransactionSnapshot() -> pg_sys::Snapshot;
    pub(super) fn PushActiveSnapshot(snapshot: pg_sys::Snapshot);
    pub(super) fn GetCurrentCommandId(used: bool) -> pg_sys::CommandId;
    pub(super) fn RelationGetNumberOfBlocksInFork(
        table: pg_sys::Relation,
        fork: pg_sys::ForkNumber::Type,
    ) -> pg_sys::BlockNumber;

    /// nbtree.h: the first or last page of a level, locked for reading; level 0 is that of the leaves.
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    pub(super) fn _bt_get_endpoint(
        index: pg_sys::Relation,
        level: u32,
        rightmost: bool,
        snapshot: pg_sys::Snapshot,
    ) -> pg_sys::Buffer;
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    pub(super) fn _bt_get_endpoint(index: pg_sys::Relation, level: u32, rightmost: bool) -> pg_sys::Buffer;

    /// nbtree.h: the root, or where the levels above have one page only, the lowest of those, locked; 0 where the index is empty.
    #[cfg(feature = "pg15")]
    pub(super) fn _bt_getroot(index: pg_sys::Relation, access: c_int) -> pg_sys::Buffer;
    #[cfg(not(feature = "pg15"))]
    pub(super) fn _bt_getroot(index: pg_sys::Relation, table: pg_sys::Relation, access: c_int) -> pg_sys::Buffer;

    /// predicate.h, which pgrx has no binding of.
    pub(super) fn PredicateLockPage(relation: pg_sys::Relation, block: pg_sys::BlockNumber, snapshot: pg_sys::Snapshot);
}
