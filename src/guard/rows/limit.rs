//! limit_rows and unlimit_rows.
//!
//! They run with the caller's rights, so that whose tables these are is asked of the role that calls, not of one that runs
//! something of the caller's: only what follows is done with the rights of the extension's owner. The catalog's turn comes
//! before any lock on a table, and partitions are looked for once nobody can be adding to the table that they are of.

use super::{give_back, state, units};
use crate::accounts::feature::Feature;
use crate::audit::{self, Chain, Change};
use crate::error::Error;
use crate::meter::as_owner_changing;
use crate::pg::backend::BackendFlag;
use crate::pg::error::{or_raise, warn};
use crate::pg::session::{is_restricted, refuse_read_only, role_in_force, sees_what_is_committed};
use crate::pg::table::{
    KeyColumn, Oid, RowCounts, TableLock, Tally, check_condition, qualified_name, rows_if_countable, take_tree, tree,
};
use crate::pg::trigger::{CountTrigger, LimitedTable, TriggerArguments};
use entitlements_model::kind::Kind;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, quote_identifier, quote_literal};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::CStr;

/// What the names of the triggers begin with.
const PREFIX: &str = "limit_rows_";

/// The rows that the table itself has, by account.
pub fn rows_of(table: Oid, is_partitioned: bool, by: &TriggerArguments) -> Result<RowCounts, Error> {
    let mut tally = Tally::new(table, &by.account_column, by.condition.as_deref())?;
    if !is_partitioned {
        tally.add_table()?;
    }
    Ok(tally.into_counts())
}

/// Adds counts of a part to those of the whole.
pub fn add(sums: &mut RowCounts, part: RowCounts) {
    part.into_iter().for_each(|(account, rows)| *sums.entry(account).or_default() += rows);
}

/// A table as the catalog has it.
struct Described {
    kind: String,
    is_durable: bool,
    is_partition: bool,
    is_in_system_schema: bool,
    is_callers: bool,
    has_heirs: bool,
}

impl Described {
    /// NE007 where there is none.
    fn find(client: &mut SpiClient<'_>, table: Oid, caller: Oid) -> Result<Self, Error> {
        let found = client.update(
            "SELECT class.relkind::pg_catalog.text, class.relpersistence = 'p', class.relispartition,
                    class.relnamespace::pg_catalog.regnamespace::pg_catalog.text IN ('pg_catalog', 'information_schema', 'pg_toast', 'entitlements'),
                    pg_catalog.pg_has_role($2, class.relowner, 'USAGE'),
                    class.relkind <> 'p' AND EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhparent = class.oid)
                      OR NOT class.relispartition AND EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhrelid = class.oid)
               FROM pg_catalog.pg_class AS class WHERE class.oid = $1",
            Some(1),
            &[table.into(), caller.into()],
        )?;
        if found.is_empty() {
            return Err(Error::argument("table", "there is no such table"));
        }
        let row = found.first();
        let is = |place| Ok::<_, Error>(row.get::<bool>(place)?.unwrap_or(false));
        Ok(Self {
            kind: row.get(1)?.unwrap_or_default(),
            is_durable: is(2)?,
            is_partition: is(3)?,
            is_in_system_schema: is(4)?,
            is_callers: is(5)?,
            has_heirs: is(6)?,
        })
    }

    /// NE007.
    fn refuse_unfit(&self) -> Result<(), Error> {
        let fault = match self.kind.as_str() {
            "v" | "m" => "it is a view; limit the rows of the tables that it shows",
            "f" => "it is a foreign table; limit its rows where they are stored",
            "r" | "p" if self.is_in_system_schema => "it is a table of the system",
            "r" | "p" if !self.is_durable => {
                "its rows are gone after the session or a crash, and the counter would not know"
            }
            "r" | "p" if self.has_heirs => "it inherits or is inherited from; make it a partitioned table",
            "r" | "p" if self.is_partition => "it is a partition; limit the rows of the partitioned table",
            "r" | "p" => return Ok(()),
            _ => "it is not a table",
        };
        Err(Error::argument("table", fault))
    }

    fn refuse_others(&self) -> Result<(), Error> {
        if self.is_callers { Ok(()) } else { Err(Error::argument("table", "only its owner may limit its rows")) }
    }
}

#[pg_extern(sql = false)]
fn limit_rows(
    table: Option<Oid>,
    // A name ends in NUL, as a cstring does.
    account_column: Option<&CStr>,
    feature: Option<&str>,
    condition: Option<&str>,
) -> i64 {
    let account_column = account_column.map(CStr::to_string_lossy);
    or_raise(limit(table, account_column.as_deref(), feature, condition))
}

fn limit(
    table: Option<Oid>,
    account_column: Option<&str>,
    feature: Option<&str>,
    condition: Option<&str>,
) -> Result<i64, Error> {
    let table = required("table", table)?;
    let account_column = required("account_column", account_column)?;
    let feature = required("feature", feature)?;
    let by = TriggerArguments {
        account_column: account_column.to_owned(),
        feature: feature.to_owned(),
        condition: condition.map(str::trim).filter(|condition| !condition.is_empty()).map(str::to_owned),
    };
    changing_tables_of_caller(|client, caller| {
        let refuse = |client: &mut SpiClient<'_>| {
            let described = Described::find(client, table, caller)?;
            described.refuse_others()?;
            described.refuse_unfit()
        };
        // Nobody else's table is locked, nor one of the system; and what was so before may have changed when the lock is there.
        refuse(client)?;
        audit::take_turn(client, Chain::Catalog)?;
        let parts = take_tree(table, TableLock::ShareRowExclusive);
        refuse(client)?;
        let found = Feature::find(client, feature)?;
        if found.kind != Kind::Allocation {
            return Err(Error::WrongKind { feature: found.key, kind: found.kind, needed: "an allocation" });
        }
        if KeyColumn::find(table, account_column)?.is_none() {
            return Err(Error::argument("account_column", "the table has no such column"));
        }
        if let Some(condition) = &by.condition {
            check_condition(table, account_column, condition)?;
        }
        let root = found_table(table)?;
        let is_new = match root.limit_by(feature) {
            Some(limit) if *limit != by => return Err(limited_otherwise("the table", limit)),
            limit => limit.is_none(),
        };
        let _working = Working::begin();
        let is_mended = mend(client, &parts, &by)?;
        let rows = limit_parts(client, &parts, root.owner, &by)?;
        if is_new || is_mended || rows > 0 {
            let new =
                json!({"account_column": by.account_column, "feature": by.feature, "where": by.condition, "rows": rows});
            record(client, "limit_rows", table, None, Some(new))?;
        }
        Ok(rows)
    })
}

/// Runs, with the rights of the extension's owner, what a role does to tables of its own: `work` gets its number. NE007 in
/// what the server evaluates for the owner of a table, which may be in anybody's work; NE009 where the transaction would not
/// see which partitions and counters there are once it has the locks.
fn changing_tables_of_caller<R>(work: impl FnOnce(&mut SpiClient<'_>, Oid) -> Result<R, Error>) -> Result<R, Error> {
    if is_restricted() {
        return Err(Error::argument("call", "an index, a materialized view or a condition on rows cannot make it"));
    }
    refuse_old_snapshots()?;
    refuse_read_only();
    let caller = role_in_force();
    as_owner_changing(|client| work(client, caller))
}

pub fn found_table(table: Oid) -> Result<LimitedTable, Error> {
    LimitedTable::find(table).ok_or_else(|| Error::argument("table", "there is no such table"))
}

fn limited_otherwise(table: &str, limit: &TriggerArguments) -> Error {
    Error::Conflict {
        message: format!("rows of {table} are limited by \"{}\" already, in another way", limit.feature),
        hint: format!(
            "They are counted by column {}{}. Call entitlements.unlimit_rows first.",
            limit.account_column,
            limit.condition.as_ref().map_or_else(String::new, |condition| format!(" where {condition}")),
        ),
    }
}

/// Makes the triggers of those parts of a table that have none, and counts their rows. How many. NE009 a part cannot have
/// them.
pub fn limit_parts(client: &mut SpiClient<'_>, parts: &[Oid], owner: Oid, by: &TriggerArguments) -> Result<i64, Error> {
    let mut sums = RowCounts::new();
    for &part in parts {
        let found = found_table(part)?;
        match found.limit_by(&by.feature) {
            Some(limit) if limit == by => continue,
            Some(limit) => return Err(limited_otherwise(&qualified_name(part)?, limit)),
            None => refuse_unfit_part(part, &found, owner, by)?,
        }
        add(&mut sums, rows_of(part, found.is_partitioned(), by)?);
        make_triggers(client, part, found.is_partitioned(), by)?;
    }
    let mut rows = 0;
    for (account, count) in sums {
        let Some(account) = account else {
            return Err(Error::InvalidArgument {
                argument: "table",
                fault: format!("{count} of its rows have NULL in {}", by.account_column),
                hint: Some(format!(
                    "Give them an account, or leave them out: where => '{} IS NOT NULL'.",
                    quote_identifier(&by.account_column)
                )),
            });
        };
        state(&account, &by.feature, units(count.unsigned_abs())?)?;
        rows += count;
    }
    Ok(rows)
}

/// NE009 where the rows of a part could not be counted, or its owner, with whose rights a condition runs, is not the one who
/// has written it.
fn refuse_unfit_part(part: Oid, found: &LimitedTable, owner: Oid, by: &TriggerArguments) -> Result<(), Error> {
    let (fault, hint) = if found.kind == 'f' {
        ("is a foreign table", "Rows can only be counted where they are stored.")
    } else if !found.is_durable {
        ("is unlogged, so that a crash would empty it", "ALTER TABLE … SET LOGGED makes it one whose rows can be counted.")
    } else if by.condition.is_some() && found.owner != owner {
        (
            "is another role's, with whose rights the condition on them would run",
            "ALTER TABLE … OWNER TO the owner of the partitioned table comes first.",
        )
    } else {
        return Ok(());
    };
    Err(Error::Conflict {
        message: format!(
            "{} {fault}, and rows of the table that it is a partition of are limited by \"{}\"",
            qualified_name(part)?,
            by.feature
        ),
        hint: hint.to_owned(),
    })
}

/// Makes anew the triggers of limited parts that have lost some, or whose triggers were disabled; whether there were any.
fn mend(client: &mut SpiClient<'_>, parts: &[Oid], by: &TriggerArguments) -> Result<bool, Error> {
    let mut is_mended = false;
    for &part in parts {
        let found = found_table(part)?;
        let there = || found.triggers.iter().filter(|trigger| trigger.arguments == *by);
        let due = triggers(found.is_partitioned()).len();
        if there().next().is_some() && (there().count() < due || !there().all(CountTrigger::is_as_due)) {
            make_triggers(client, part, found.is_partitioned(), by)?;
            is_mended = true;
        }
    }
    if is_mended {
        let message = "triggers that limit rows were gone or disabled, and are there again";
        let hint = format!("SELECT * FROM entitlements.recount_rows(of_feature => '{}') counts anew.", by.feature);
        warn(message, Some(&hint));
    }
    Ok(is_mended)
}

/// Names of the triggers that a table has for a feature, which a name of 63 bytes may have no room for.
fn trigger_name(feature: &str, event: &str) -> String {
    const MOST: usize = 43;
    let whole = if feature.len() <= MOST {
        feature.to_owned()
    } else {
        let digest = feature
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        format!("{}_{:08x}", &feature[..MOST - 9], digest as u32)
    };
    quote_identifier(format!("{PREFIX}{whole}_{event}"))
}

/// Event, clauses, whether a row's own, and when it fires. The last two are for tables that have rows.
const TRIGGERS: [(&str, &str, &str, &str); 5] = [
    ("insert", "AFTER INSERT", "REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT", ""),
    ("update", "AFTER UPDATE", "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT", ""),
    ("delete", "AFTER DELETE", "REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT", ""),
    ("truncate", "BEFORE TRUNCATE", "FOR EACH STATEMENT", "ALWAYS"),
    ("replica", "AFTER INSERT OR UPDATE OR DELETE", "FOR EACH ROW", "REPLICA"),
];

fn triggers(is_partitioned: bool) -> &'static [(&'static str, &'static str, &'static str, &'static str)] {
    if is_partitioned { &TRIGGERS[..3] } else { &TRIGGERS }
}

/// In the place of those of the same names.
pub fn make_triggers(
    client: &mut SpiClient<'_>,
    table: Oid,
    is_partitioned: bool,
    by: &TriggerArguments,
) -> Result<(), Error> {
    let TriggerArguments { account_column, feature, condition } = by;
    let table = qualified_name(table)?;
    let arguments = [account_column, feature, condition.as_deref().unwrap_or_default()].map(quote_literal).join(", ");
    for (event, when, rows, enabled) in triggers(is_partitioned) {
        let name = trigger_name(feature, event);
        client.update(
            format!(
                "CREATE OR REPLACE TRIGGER {name} {when} ON {table} {rows} EXECUTE FUNCTION entitlements.count_rows({arguments})"
            )
            .as_str(),
            None,
            &[],
        )?;
        if !enabled.is_empty() {
            client.update(format!("ALTER TABLE {table} ENABLE {enabled} TRIGGER {name}").as_str(), None, &[])?;
        }
    }
    Ok(())
}

pub fn drop_triggers(client: &mut SpiClient<'_>, table: Oid, found: &LimitedTable, feature: &str) -> Result<(), Error> {
    let table = qualified_name(table)?;
    for trigger in found.triggers.iter().filter(|trigger| trigger.arguments.feature == feature) {
        client.update(format!("DROP TRIGGER {} ON {table}", quote_identifier(&trigger.name)).as_str(), None, &[])?;
    }
    Ok(())
}

#[pg_extern(sql = false)]
fn unlimit_rows(table: Option<Oid>, feature: Option<&str>) -> i64 {
    or_raise(unlimit(table, feature))
}

fn unlimit(table: Option<Oid>, feature: Option<&str>) -> Result<i64, Error> {
    let table = required("table", table)?;
    changing_tables_of_caller(|client, caller| {
        Described::find(client, table, caller)?.refuse_others()?;
        if limiting_features(&tree(table), feature)?.is_empty() {
            return Ok(0);
        }
        audit::take_turn(client, Chain::Catalog)?;
        let parts = take_tree(table, TableLock::AccessExclusive);
        let described = Described::find(client, table, caller)?;
        described.refuse_others()?;
        let features = limiting_features(&parts, feature)?;
        if described.is_partition && !features.is_empty() {
            return Err(Error::argument("table", "it is a partition; name the partitioned table"));
        }
        let _working = Working::begin();
        let mut rows = 0;
        for feature in features {
            rows += unlimit_parts(client, &parts, table, &feature)?;
        }
        Ok(rows)
    })
}

/// By which features rows of some of these tables are limited; only the one that is named, if one is.
fn limiting_features(parts: &[Oid], named: Option<&str>) -> Result<BTreeSet<String>, Error> {
    let mut features = BTreeSet::new();
    for &part in parts {
        let found = found_table(part)?;
        features.extend(found.limits().into_iter().map(|by| by.feature.clone()));
    }
    features.retain(|feature| named.is_none_or(|named| named == feature));
    Ok(features)
}

/// Drops the triggers and gives back what can be counted; how many rows.
fn unlimit_parts(client: &mut SpiClient<'_>, parts: &[Oid], root: Oid, feature: &str) -> Result<i64, Error> {
    let mut sums = RowCounts::new();
    let mut limit = None;
    for &part in parts {
        let found = found_table(part)?;
        let Some(by) = found.limit_by(feature) else { continue };
        // What has broken the limit must not keep it in force.
        match rows_if_countable(|| rows_of(part, found.is_partitioned(), by)) {
            Ok(rows) => add(&mut sums, rows),
            Err(error) => {
                let message = format!("rows of {} cannot be counted, and are still in use: {error}", qualified_name(part)?);
                let hint = format!("SELECT * FROM entitlements.recount_rows(of_feature => '{feature}') counts anew.");
                warn(&message, Some(&hint));
            }
        }
        drop_triggers(client, part, &found, feature)?;
        limit.get_or_insert_with(|| by.clone());
    }
    let mut counted = 0;
    for (account, count) in sums {
        if let Some(account) = account {
            give_back(&account, feature, units(count.unsigned_abs())?)?;
            counted += count;
        }
    }
    if let Some(TriggerArguments { account_column, condition, .. }) = limit {
        let old = json!({"account_column": account_column, "feature": feature, "where": condition, "rows": counted});
        record(client, "unlimit_rows", root, Some(old), None)?;
    }
    Ok(counted)
}

fn record(
    client: &mut SpiClient<'_>,
    action: &'static str,
    table: Oid,
    old: Option<Value>,
    new: Option<Value>,
) -> Result<(), Error> {
    let change = Change { action, object: "table", object_id: qualified_name(table)?, old, new, reason: None };
    audit::record(client, Chain::Catalog, &[change])
}

/// NE009 where the transaction would not see which partitions and counters there are once it has the locks.
pub fn refuse_old_snapshots() -> Result<(), Error> {
    if sees_what_is_committed() {
        return Ok(());
    }
    Err(Error::Conflict {
        message: "rows are counted in a transaction that is READ COMMITTED".to_owned(),
        hint: "Another sees only what was committed before it began.".to_owned(),
    })
}

pub fn required<T>(argument: &'static str, value: Option<T>) -> Result<T, Error> {
    value.ok_or_else(|| Error::argument(argument, "it is NULL"))
}

/// This session is making or dropping triggers, of which its own event triggers need not hear.
pub static IS_WORKING: BackendFlag = BackendFlag::lowered();

pub struct Working;

impl Working {
    pub fn begin() -> Self {
        IS_WORKING.raise();
        Self
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        IS_WORKING.lower();
    }
}
