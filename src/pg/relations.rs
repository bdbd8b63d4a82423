//! The extension's tables and indexes as the check path reads them: OIDs and column numbers, looked up by name once and again
//! whenever a relation changes (DROP and CREATE EXTENSION in one backend give new OIDs).

use super::callbacks::{RELATIONS_CHANGED, watch};
use crate::error::Error;
use pgrx::pg_sys;
use std::ffi::CStr;

const SCHEMA: &CStr = c"entitlements";

/// A table with the index it is read by and the columns that are read, in the order they were asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Access<const COLUMNS: usize> {
    pub(super) table: pg_sys::Oid,
    pub(super) index: pg_sys::Oid,
    pub(super) columns: [i16; COLUMNS],
}

/// How each table is read on the check path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Relations {
    pub accounts_by_key: Access<3>,
    pub accounts_by_id: Access<3>,
    pub subscriptions_in_force: Access<11>,
    pub subscriptions_superseded: Access<11>,
    pub overrides_live: Access<10>,
    pub blocks_live: Access<4>,
    pub features_by_key: Access<5>,
    pub features_by_id: Access<5>,
    pub plan_versions: Access<4>,
    pub plan_versions_of_plan: Access<4>,
    pub plan_features: Access<7>,
}

fn oid_of(name: &CStr) -> Result<pg_sys::Oid, Error> {
    // SAFETY: system catalog look-ups by NUL-terminated names.
    let oid = unsafe { pg_sys::get_relname_relid(name.as_ptr(), pg_sys::get_namespace_oid(SCHEMA.as_ptr(), false)) };
    if oid == pg_sys::InvalidOid {
        return Err(Error::Installation(format!("relation entitlements.{} is missing", name.to_string_lossy())));
    }
    Ok(oid)
}

fn access<const COLUMNS: usize>(table: &CStr, index: &CStr, columns: [&CStr; COLUMNS]) -> Result<Access<COLUMNS>, Error> {
    let table_oid = oid_of(table)?;
    let mut numbers = [0; COLUMNS];
    for (number, column) in numbers.iter_mut().zip(columns) {
        // SAFETY: a system catalog look-up by OID and NUL-terminated name.
        *number = unsafe { pg_sys::get_attnum(table_oid, column.as_ptr()) };
        if *number <= 0 {
            return Err(Error::Installation(format!(
                "column {} of entitlements.{} is missing",
                column.to_string_lossy(),
                table.to_string_lossy()
            )));
        }
    }
    Ok(Access { table: table_oid, index: oid_of(index)?, columns: numbers })
}

impl Relations {
    fn look_up() -> Result<Self, Error> {
        const ACCOUNT: [&CStr; 3] = [c"id", c"parent_id", c"key"];
        const SUBSCRIPTION: [&CStr; 11] = [
            c"row_id",
            c"id",
            c"plan_id",
            c"plan_version_id",
            c"status",
            c"quantity",
            c"starts_at",
            c"ends_at",
            c"grace_until",
            c"account_id",
            c"in_force_until",
        ];
        const OVERRIDE: [&CStr; 10] = [
            c"id",
            c"feature_id",
            c"mode",
            c"enabled",
            c"config",
            c"amount",
            c"expires_at",
            c"account_id",
            c"kind",
            c"starts_at",
        ];
        const BLOCK: [&CStr; 4] = [c"id", c"feature_id", c"account_id", c"starts_at"];
        const FEATURE: [&CStr; 5] = [c"id", c"kind", c"combine", c"key", c"unit"];
        const PLAN_VERSION: [&CStr; 4] = [c"id", c"plan_id", c"kind", c"rank"];
        Ok(Self {
            accounts_by_key: access(c"accounts", c"accounts_key_key", ACCOUNT)?,
            accounts_by_id: access(c"accounts", c"accounts_pkey", ACCOUNT)?,
            subscriptions_in_force: access(c"subscriptions", c"subscriptions_check", SUBSCRIPTION)?,
            subscriptions_superseded: access(c"subscriptions", c"subscriptions_account", SUBSCRIPTION)?,
            overrides_live: access(c"overrides", c"overrides_live", OVERRIDE)?,
            blocks_live: access(c"blocks", c"blocks_live", BLOCK)?,
            features_by_key: access(c"features", c"features_key_key", FEATURE)?,
            features_by_id: access(c"features", c"features_pkey", FEATURE)?,
            plan_versions: access(c"plan_versions", c"plan_versions_pkey", PLAN_VERSION)?,
            plan_versions_of_plan: access(c"plan_versions", c"plan_versions_plan_id_version_key", PLAN_VERSION)?,
            plan_features: access(
                c"plan_features",
                c"plan_features_pkey",
                [c"feature_id", c"kind", c"enabled", c"config", c"amount", c"per_unit", c"plan_version_id"],
            )?,
        })
    }

    fn oids(&self) -> impl Iterator<Item = pg_sys::Oid> {
        fn both<const COLUMNS: usize>(access: &Access<COLUMNS>) -> [pg_sys::Oid; 2] {
            [access.table, access.index]
        }
        [
            both(&self.accounts_by_key),
            both(&self.accounts_by_id),
            both(&self.subscriptions_in_force),
            both(&self.subscriptions_superseded),
            both(&self.overrides_live),
            both(&self.blocks_live),
            both(&self.features_by_key),
            both(&self.features_by_id),
            both(&self.plan_versions),
            both(&self.plan_versions_of_plan),
            both(&self.plan_features),
        ]
        .into_iter()
        .flatten()
    }

    /// The relations as they are now. The second value tells whether they differ from `last`.
    pub fn current(last: &mut Option<Self>) -> Result<(Self, bool), Error> {
        if let (Some(known), false) = (*last, RELATIONS_CHANGED.is_raised()) {
            return Ok((known, false));
        }
        // Lowered first: an invalidation that arrives during the look-up raises it again. Taken, so that a look-up that fails
        // is made again.
        RELATIONS_CHANGED.lower();
        let previous = last.take();
        let found = Self::look_up()?;
        watch(found.oids());
        *last = Some(found);
        Ok((found, previous != Some(found)))
    }
}
