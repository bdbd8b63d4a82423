//! The extension's tables and indexes as the check path reads them: OIDs and column numbers, looked up by name once and again
//! whenever a relation changes (DROP and CREATE EXTENSION in one backend give new OIDs).

use super::callbacks::{RELATIONS_CHANGED, locks_epoch, relations_epoch, watch, watch_all};
use super::scan::{KEPT, LOCK};
use super::unguarded::{get_namespace_oid, get_relname_relid, index_open, table_open};
use crate::error::Error;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::CStr;
use std::rc::Rc;

pub(super) const SCHEMA: &CStr = c"entitlements";

/// A table with the index it is read by and the columns that are read, in the order they were asked for.
#[derive(Clone, Copy)]
pub struct Access<const COLUMNS: usize> {
    pub(super) table: pg_sys::Oid,
    index: pg_sys::Oid,
    index_name: &'static CStr,
    pub(super) columns: [i16; COLUMNS],
    /// When it was looked up.
    epoch: u64,
}

impl<const COLUMNS: usize> PartialEq for Access<COLUMNS> {
    fn eq(&self, other: &Self) -> bool {
        (self.table, self.index, self.columns) == (other.table, other.index, other.columns)
    }
}

impl<const COLUMNS: usize> Eq for Access<COLUMNS> {}

impl<const COLUMNS: usize> Access<COLUMNS> {
    /// Opens the index. Since it was looked up REINDEX CONCURRENTLY may have put another in its place, and have dropped it, or have
    /// stopped the server from adding to it; now that the table is locked it waits before it does either.
    ///
    /// # Safety
    /// The table is locked. May raise an error.
    pub(super) unsafe fn open_index(&self, lock: pg_sys::LOCKMODE) -> pg_sys::Relation {
        // SAFETY: by contract; the names end with NUL.
        unsafe {
            let index = if relations_epoch() == self.epoch {
                self.index
            } else {
                get_relname_relid(self.index_name.as_ptr(), get_namespace_oid(SCHEMA.as_ptr(), false))
            };
            index_open(index, lock)
        }
    }
}

/// A table read through an index that has all the columns asked for, so that the table's own pages need not be looked at.
/// The numbers are those of the index's columns.
pub struct CoveredAccess<const COLUMNS: usize> {
    pub(super) access: Access<COLUMNS>,
    /// Epochs of relations and locks in which table and index were locked.
    locked_in: Cell<Option<(u64, u64)>>,
}

impl<const COLUMNS: usize> PartialEq for CoveredAccess<COLUMNS> {
    fn eq(&self, other: &Self) -> bool {
        self.access == other.access
    }
}

impl<const COLUMNS: usize> Eq for CoveredAccess<COLUMNS> {}

impl<const COLUMNS: usize> CoveredAccess<COLUMNS> {
    fn new(access: Access<COLUMNS>) -> Self {
        Self { access, locked_in: Cell::new(None) }
    }

    /// Opens table and index for reading, locked to the end of the transaction. A lock that is held is not taken again, which spares
    /// half of the way.
    ///
    /// # Safety
    /// A transaction is there. May raise an error.
    pub(super) unsafe fn open(&self) -> (pg_sys::Relation, pg_sys::Relation) {
        // SAFETY: by contract. Locks that were taken here are kept until a transaction ends or a subtransaction is rolled back, which
        // begins another epoch of locks.
        unsafe {
            let now = Some((relations_epoch(), locks_epoch()));
            if self.locked_in.get() == now {
                return (table_open(self.access.table, KEPT), index_open(self.access.index, KEPT));
            }
            let table = table_open(self.access.table, LOCK);
            let index = self.access.open_index(LOCK);
            // Taking a lock may have told of a change.
            if relations_epoch() == self.access.epoch {
                self.locked_in.set(now);
            }
            (table, index)
        }
    }
}

/// The columns of a table that are read, each with a constant for its place in `Access::columns`.
macro_rules! columns {
    ($table:ident { $($NAME:ident = $name:literal),+ $(,)? }) => {
        pub mod $table {
            use std::ffi::CStr;

            #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
            enum Place { $($NAME),+ }

            $(pub const $NAME: usize = Place::$NAME as usize;)+
            pub const COUNT: usize = [$($name),+].len();
            pub(super) const NAMES: [&CStr; COUNT] = [$($name),+];
        }
    };
}

columns!(account { ID = c"id", PARENT_ID = c"parent_id", KEY = c"key" });
columns!(account_entry { KEY = c"key", ID = c"id", PARENT_ID = c"parent_id" });
columns!(former_parent { ACCOUNT_ID = c"account_id", UNTIL = c"until", PARENT_ID = c"parent_id" });
columns!(subscription {
    ROW_ID = c"row_id",
    ID = c"id",
    ACCOUNT_ID = c"account_id",
    PLAN_ID = c"plan_id",
    PLAN_VERSION_ID = c"plan_version_id",
    STATUS = c"status",
    QUANTITY = c"quantity",
    STARTS_AT = c"starts_at",
    ENDS_AT = c"ends_at",
    GRACE_UNTIL = c"grace_until",
    IN_FORCE_UNTIL = c"in_force_until",
    SOURCE = c"source",
    SOURCE_REF = c"source_ref",
    REASON = c"reason",
    RECORDED_AT = c"recorded_at",
    RECORDED_BY = c"recorded_by",
    SUPERSEDED_AT = c"superseded_at",
});
columns!(subscription_entry {
    ACCOUNT_ID = c"account_id",
    IN_FORCE_UNTIL = c"in_force_until",
    ID = c"id",
    PLAN_ID = c"plan_id",
    PLAN_VERSION_ID = c"plan_version_id",
    STATUS = c"status",
    QUANTITY = c"quantity",
    STARTS_AT = c"starts_at",
});
columns!(exception {
    ID = c"id",
    ACCOUNT_ID = c"account_id",
    FEATURE_ID = c"feature_id",
    MODE = c"mode",
    ENABLED = c"enabled",
    CONFIG = c"config",
    AMOUNT = c"amount",
    SOURCE = c"source",
    REASON = c"reason",
    CREATED_BY = c"created_by",
    STARTS_AT = c"starts_at",
    EXPIRES_AT = c"expires_at",
    ENDED_AT = c"ended_at",
});
columns!(block {
    ID = c"id",
    ACCOUNT_ID = c"account_id",
    FEATURE_ID = c"feature_id",
    SOURCE = c"source",
    REASON = c"reason",
    CREATED_BY = c"created_by",
    STARTS_AT = c"starts_at",
    ENDED_AT = c"ended_at",
});
columns!(feature {
    ID = c"id",
    KEY = c"key",
    KIND = c"kind",
    COMBINE = c"combine",
    UNIT = c"unit",
    PERIOD = c"period",
    ANCHOR = c"anchor",
    OVERAGE = c"overage",
    CEILING = c"ceiling",
    OVERDRAFT = c"overdraft",
    THRESHOLDS = c"thresholds",
    ROLLOVER = c"rollover",
    ROLLOVER_WINDOWS = c"rollover_windows",
    BURST = c"burst",
    DRAWS_ON = c"draws_on",
    COST = c"cost",
    LEDGER = c"ledger",
    STORE = c"store",
});
columns!(credit {
    ID = c"id",
    ACCOUNT_ID = c"account_id",
    FEATURE_ID = c"feature_id",
    AMOUNT = c"amount",
    PRIORITY = c"priority",
    STARTS_AT = c"starts_at",
    EXPIRES_AT = c"expires_at",
    PERIOD = c"period",
    SOURCE = c"source",
});
columns!(counter {
    ID = c"id",
    ACCOUNT_ID = c"account_id",
    FEATURE_ID = c"feature_id",
    CREDIT_ID = c"credit_id",
    WINDOW_START = c"window_start",
    WINDOW_END = c"window_end",
    SLOTS = c"slots",
    USED = c"used",
    ALLOCATED = c"allocated",
    MADE_UNDER = c"made_under",
    REPORTED = c"reported",
});
columns!(counter_slot {
    COUNTER_ID = c"counter_id",
    SLOT = c"slot",
    SHARE = c"share",
    USED = c"used",
    TOUCHED_AT = c"touched_at",
});
columns!(reservation_part { COUNTER_ID = c"counter_id", EXPIRES_AT = c"expires_at", AMOUNT = c"amount" });
columns!(rate { ACCOUNT_ID = c"account_id", FEATURE_ID = c"feature_id", ARRIVAL = c"arrival", FRACTION = c"fraction" });
columns!(bundle {
    ISSUER = c"issuer",
    ISSUED_AT = c"issued_at",
    EXPIRES_AT = c"expires_at",
    GRACE_ENDS_AT = c"grace_ends_at",
    HEARTBEAT_DUE_AT = c"heartbeat_due_at",
    MODE = c"mode",
    ACCEPTED_AT = c"accepted_at",
    SUPERSEDED_AT = c"superseded_at",
});
columns!(deployment { HIGHEST_SEEN = c"highest_seen" });
columns!(change_mark { TRANSACTION_ID = c"transaction_id", ACCOUNT_ID = c"account_id" });
columns!(trusted_key {
    KID = c"kid",
    PURPOSE = c"purpose",
    ISSUER = c"issuer",
    JWK = c"jwk",
    AUDIENCE = c"audience",
    ACCOUNT_CLAIM = c"account_claim",
    VALID_FROM = c"valid_from",
    VALID_UNTIL = c"valid_until",
});
columns!(plan { ID = c"id", KEY = c"key" });
columns!(plan_version {
    ID = c"id",
    PLAN_ID = c"plan_id",
    VERSION = c"version",
    KIND = c"kind",
    RANK = c"rank",
    PUBLISHED_AT = c"published_at",
});
columns!(plan_feature {
    PLAN_VERSION_ID = c"plan_version_id",
    FEATURE_ID = c"feature_id",
    ENABLED = c"enabled",
    CONFIG = c"config",
    AMOUNT = c"amount",
    PER_UNIT = c"per_unit",
});

/// The ways in which the tables are read.
macro_rules! relations {
    (
        { $($name:ident: $columns:ident of $table:literal by $index:literal,)+ }
        covered { $($entry:ident: $entry_columns:ident of $entry_table:literal by $entry_index:literal,)+ }
    ) => {
        /// How each table is read. Equal ones stand for the same relations in the same files.
        #[derive(PartialEq, Eq)]
        pub struct Relations {
            $(pub $name: Access<{ $columns::COUNT }>,)+
            $(pub $entry: CoveredAccess<{ $entry_columns::COUNT }>,)+
            /// Whether each change of what decides about accounts leaves a mark.
            pub changes_are_marked: bool,
            /// In which files they are: another one where a relation was truncated or rewritten.
            files: Box<[pg_sys::Oid]>,
        }

        impl Relations {
            fn look_up() -> Result<Self, Error> {
                let mut found = Self {
                    $($name: access($table, $index, $columns::NAMES, false)?,)+
                    $($entry: CoveredAccess::new(access($entry_table, $entry_index, $entry_columns::NAMES, true)?),)+
                    changes_are_marked: changes_are_marked()?,
                    files: Box::default(),
                };
                found.files = found.oids().map(file_of).collect::<Result<_, _>>()?;
                Ok(found)
            }

            fn oids(&self) -> impl Iterator<Item = pg_sys::Oid> {
                [$(self.$name.table, self.$name.index,)+ $(self.$entry.access.table, self.$entry.access.index,)+].into_iter()
            }
        }
    };
}

relations! {
    {
        accounts_by_key: account of c"accounts" by c"accounts_key",
        accounts_by_id: account of c"accounts" by c"accounts_pkey",
        former_parents: former_parent of c"former_parents" by c"former_parents_pkey",
        subscriptions: subscription of c"subscriptions" by c"subscriptions_check",
        superseded_subscriptions: subscription of c"subscriptions" by c"subscriptions_account",
        overrides: exception of c"overrides" by c"overrides_live",
        ended_overrides: exception of c"overrides" by c"overrides_account",
        blocks: block of c"blocks" by c"blocks_live",
        ended_blocks: block of c"blocks" by c"blocks_account",
        features: feature of c"features" by c"features_key_key",
        features_by_id: feature of c"features" by c"features_pkey",
        plans: plan of c"plans" by c"plans_pkey",
        plan_versions: plan_version of c"plan_versions" by c"plan_versions_pkey",
        versions_of_plan: plan_version of c"plan_versions" by c"plan_versions_plan_id_version_key",
        plan_features: plan_feature of c"plan_features" by c"plan_features_pkey",
        credits: credit of c"credits" by c"credits_live",
        counters: counter of c"counters" by c"counters_pool",
        counters_by_id: counter of c"counters" by c"counters_pkey",
        counter_slots: counter_slot of c"counter_slots" by c"counter_slots_pkey",
        rates: rate of c"rates" by c"rates_pkey",
        bundles: bundle of c"bundles" by c"bundles_pkey",
        bundles_in_force: bundle of c"bundles" by c"bundles_in_force",
        deployment: deployment of c"deployment" by c"deployment_pkey",
        reservation_parts: reservation_part of c"reservation_parts" by c"reservation_parts_counter",
        trusted_keys: trusted_key of c"trusted_keys" by c"trusted_keys_live",
        change_marks: change_mark of c"change_marks" by c"change_marks_pkey",
    }
    covered {
        account_entries: account_entry of c"accounts" by c"accounts_key",
        subscription_entries: subscription_entry of c"subscriptions" by c"subscriptions_check",
    }
}

/// The number of a relation's file.
fn file_of(relation: pg_sys::Oid) -> Result<pg_sys::Oid, Error> {
    // SAFETY: a look-up in the system catalog; what it finds is read before it is released.
    unsafe {
        let found = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, pg_sys::Datum::from(relation));
        if found.is_null() {
            return Err(Error::incomplete(format!("relation {relation:?} is missing")));
        }
        let file = (*pg_sys::GETSTRUCT(found).cast::<pg_sys::FormData_pg_class>()).relfilenode;
        pg_sys::ReleaseSysCache(found);
        Ok(file)
    }
}

pub(super) fn oid_of(name: &CStr) -> Result<pg_sys::Oid, Error> {
    // SAFETY: system catalog look-ups by NUL-terminated names.
    let oid = unsafe { pg_sys::get_relname_relid(name.as_ptr(), pg_sys::get_namespace_oid(SCHEMA.as_ptr(), false)) };
    if oid == pg_sys::InvalidOid {
        return Err(Error::incomplete(format!("relation entitlements.{} is missing", name.to_string_lossy())));
    }
    Ok(oid)
}

/// Whether REINDEX CONCURRENTLY is at work on a table, for the rest of the transaction: it waits for who may write.
pub(super) fn is_being_reindexed(table: &CStr) -> Result<bool, Error> {
    let table = oid_of(table)?;
    // SAFETY: the lock is kept; the list and the indexes are those of an open table. All are open before one is looked at: opening
    // one may show that two have changed places. On an ERROR the server's resource owner closes them.
    unsafe {
        let table = pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32);
        let list = pg_sys::RelationGetIndexList(table);
        let open = |place| pg_sys::index_open(pg_sys::list_nth_oid(list, place), pg_sys::AccessShareLock as i32);
        let indexes: Vec<pg_sys::Relation> = (0..pg_sys::list_length(list)).map(open).collect();
        let is_found = indexes.iter().any(|index| !(*(**index).rd_index).indisvalid);
        for index in indexes {
            pg_sys::index_close(index, pg_sys::NoLock as i32);
        }
        pg_sys::list_free(list);
        pg_sys::table_close(table, pg_sys::NoLock as i32);
        Ok(is_found)
    }
}

/// With `covered`, the columns' numbers are those that they have in the index.
fn access<const COLUMNS: usize>(
    table: &CStr,
    index: &'static CStr,
    columns: [&CStr; COLUMNS],
    covered: bool,
) -> Result<Access<COLUMNS>, Error> {
    let epoch = relations_epoch();
    let (table_oid, index_oid) = (oid_of(table)?, oid_of(index)?);
    let (relation, relation_oid) = if covered { (index, index_oid) } else { (table, table_oid) };
    let mut numbers = [0; COLUMNS];
    for (number, column) in numbers.iter_mut().zip(columns) {
        // SAFETY: a system catalog look-up by OID and NUL-terminated name.
        *number = unsafe { pg_sys::get_attnum(relation_oid, column.as_ptr()) };
        if *number <= 0 {
            return Err(Error::incomplete(format!(
                "column {} of entitlements.{} is missing",
                column.to_string_lossy(),
                relation.to_string_lossy()
            )));
        }
    }
    Ok(Access { table: table_oid, index: index_oid, index_name: index, columns: numbers, epoch })
}

/// The tables whose rows decide about accounts: those that the memo remembers.
const MARKED: [&CStr; 10] = [
    c"accounts",
    c"subscriptions",
    c"overrides",
    c"blocks",
    c"credits",
    c"features",
    c"plan_versions",
    c"plan_features",
    c"bundles",
    c"deployment",
];

/// A restore may disable triggers.
fn changes_are_marked() -> Result<bool, Error> {
    const TRIGGER: &CStr = c"mark_change";
    /// TRIGGER_FIRES_ALWAYS
    const ALWAYS: std::ffi::c_char = b'A' as std::ffi::c_char;
    let is_marked = |table: &CStr| -> Result<bool, Error> {
        let oid = oid_of(table)?;
        // SAFETY: the table is open while its triggers are looked at; names are NUL-terminated.
        unsafe {
            let table = pg_sys::table_open(oid, pg_sys::AccessShareLock as i32);
            let triggers = (*table).trigdesc;
            let found = !triggers.is_null()
                && std::slice::from_raw_parts((*triggers).triggers, (*triggers).numtriggers as usize)
                    .iter()
                    .any(|trigger| CStr::from_ptr(trigger.tgname) == TRIGGER && trigger.tgenabled == ALWAYS);
            pg_sys::table_close(table, pg_sys::NoLock as i32);
            Ok(found)
        }
    };
    MARKED.into_iter().try_fold(true, |all, table| Ok(all && is_marked(table)?))
}

impl Relations {
    /// The relations as they are now, unless `known` has them already.
    pub fn current(known: &mut Option<Rc<Self>>) -> Result<&Rc<Self>, Error> {
        match known {
            Some(known) => Ok(known),
            None => {
                watch_all();
                let found = Self::look_up()?;
                watch(found.oids());
                Ok(known.insert(Rc::new(found)))
            }
        }
    }
}

/// Whether the server says of one of the relations that it was changed, dropped or truncated since this was asked last, by
/// whichever backend.
pub fn have_changed() -> bool {
    // SAFETY: the server does the same whenever it takes a lock, which each scan is about to do.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    // Lowered before the relations are looked up again: a change during the look-up raises it again.
    let changed = RELATIONS_CHANGED.is_raised();
    RELATIONS_CHANGED.lower();
    changed
}
