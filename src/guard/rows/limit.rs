//! limit_rows and unlimit_rows, and what follows from changes of limited tables.

use super::{give_back, state, units};
use crate::accounts::feature::Feature;
use crate::audit::{self, Chain, Change};
use crate::error::Error;
use crate::pg::backend::BackendFlag;
use crate::pg::error::{or_raise, warn};
use crate::pg::session::{Actor, connect_to_change, sees_what_is_committed};
use crate::pg::table::{KeyColumn, Oid, RowCounts, TableLock, Tally, check_condition, lock, qualified_name};
use crate::pg::trigger::TriggerArguments;
use entitlements_model::kind::Kind;
use pgrx::prelude::*;
use pgrx::spi::{Spi, SpiClient, quote_identifier, quote_literal};
use serde_json::{Value, json};
use std::ffi::CStr;

/// What the names of the triggers begin with.
const PREFIX: &str = "limit_rows_";

/// A table whose rows are limited: of a partitioned one, each part is one more.
#[derive(Clone)]
pub struct Limited {
    pub table: Oid,
    pub is_partitioned: bool,
    /// The table that it is a partition of.
    parent: Option<Oid>,
    is_durable: bool,
    pub by: TriggerArguments,
}

impl Limited {
    /// All of them, those with partitions first, each in the order of their numbers.
    pub fn all(client: &mut SpiClient<'_>) -> Result<Vec<Self>, Error> {
        // By what depends on the function: pg_trigger has no index that leads there.
        let found = client.update(
            "SELECT class.oid, class.relkind = 'p', CASE WHEN class.relispartition THEN inherits.inhparent END,
                    class.relpersistence = 'p', trigger.tgargs
               FROM pg_catalog.pg_depend AS depend
               JOIN pg_catalog.pg_trigger AS trigger ON trigger.oid = depend.objid
               JOIN pg_catalog.pg_class AS class ON class.oid = trigger.tgrelid
               LEFT JOIN pg_catalog.pg_inherits AS inherits ON inherits.inhrelid = class.oid
              WHERE depend.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                AND depend.refobjid = 'entitlements.count_rows()'::pg_catalog.regprocedure
                AND depend.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass
                AND trigger.tgtype & (1 | 4) = 4
              ORDER BY class.relkind = 'p' DESC, class.oid, trigger.tgname",
            None,
            &[],
        )?;
        let mut all = Vec::new();
        for row in found {
            if let (Some(table), Some(is_partitioned), Some(is_durable), Some(stored)) =
                (row.get(1)?, row.get(2)?, row.get(4)?, row.get::<Vec<u8>>(5)?)
            {
                let by = TriggerArguments::stored(&stored)?;
                all.push(Self { table, is_partitioned, parent: row.get(3)?, is_durable, by });
            }
        }
        Ok(all)
    }

    /// A part of another that is limited.
    pub fn is_partition(&self) -> bool {
        self.parent.is_some()
    }

    /// The rows that the table itself has, by account.
    pub fn rows(&self) -> Result<RowCounts, Error> {
        let mut tally = Tally::new(self.table, &self.by.account_column, self.by.condition.as_deref())?;
        if !self.is_partitioned {
            tally.add_table()?;
        }
        Ok(tally.into_counts())
    }
}

/// What `all` says about a table and feature.
fn of<'a>(all: &'a [Limited], table: Oid, feature: &str) -> Option<&'a Limited> {
    all.iter().find(|limited| limited.table == table && limited.by.feature == feature)
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
    fn find(client: &mut SpiClient<'_>, table: Oid) -> Result<Self, Error> {
        let found = client.update(
            "SELECT class.relkind::pg_catalog.text, class.relpersistence = 'p', class.relispartition,
                    class.relnamespace::pg_catalog.regnamespace::pg_catalog.text IN ('pg_catalog', 'information_schema', 'pg_toast', 'entitlements'),
                    pg_catalog.pg_has_role($2::pg_catalog.name, class.relowner, 'USAGE'),
                    class.relkind <> 'p' AND EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhparent = class.oid)
                      OR NOT class.relispartition AND EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhrelid = class.oid)
               FROM pg_catalog.pg_class AS class WHERE class.oid = $1",
            Some(1),
            &[table.into(), Actor::current().role.into()],
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
    refuse_old_snapshots()?;
    connect_to_change(|client| {
        // Nobody else's table is locked, nor one of the system; and what was so before may have changed when the lock is there.
        for is_locked in [false, true] {
            if is_locked {
                lock(table, TableLock::ShareRowExclusive);
            }
            let described = Described::find(client, table)?;
            described.refuse_others()?;
            described.refuse_unfit()?;
        }
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
        match of(&Limited::all(client)?, table, feature) {
            Some(limited) if limited.by == by => return Ok(0),
            Some(limited) => {
                return Err(Error::Conflict {
                    message: format!("rows of the table are limited by \"{feature}\" already, in another way"),
                    hint: format!(
                        "They are counted by column {}{}. Call entitlements.unlimit_rows first.",
                        limited.by.account_column,
                        limited.by.condition.as_ref().map_or_else(String::new, |condition| format!(" where {condition}")),
                    ),
                });
            }
            None => {}
        }
        let _working = Working::begin();
        let rows = limit_tree(client, table, &by)?;
        let new = json!({"account_column": by.account_column, "feature": by.feature, "where": by.condition, "rows": rows});
        record(client, "limit_rows", table, None, Some(new))?;
        Ok(rows)
    })
}

/// Makes the triggers of a table and all of its partitions that have none, and counts their rows. How many.
fn limit_tree(client: &mut SpiClient<'_>, root: Oid, by: &TriggerArguments) -> Result<i64, Error> {
    let all = Limited::all(client)?;
    let mut sums = RowCounts::new();
    for (table, kind, name) in tree(client, root)? {
        if of(&all, table, &by.feature).is_some_and(|limited| limited.by == *by) {
            continue;
        }
        lock(table, TableLock::ShareRowExclusive);
        if kind == "f" {
            return Err(Error::Conflict {
                message: format!("{name} is a foreign table, and rows of the table that it is a partition of are limited"),
                hint: "Rows can only be counted where they are stored.".to_owned(),
            });
        }
        let limited = Limited { table, is_partitioned: kind == "p", parent: None, is_durable: true, by: by.clone() };
        add(&mut sums, limited.rows()?);
        make_triggers(client, &limited)?;
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

/// The table and its partitions: number, kind, name.
fn tree(client: &mut SpiClient<'_>, root: Oid) -> Result<Vec<(Oid, String, String)>, Error> {
    let mut tables = Vec::new();
    let found = client.update(
        "SELECT class.oid, class.relkind::pg_catalog.text, class.oid::pg_catalog.regclass::pg_catalog.text
           FROM pg_catalog.pg_class AS class
           LEFT JOIN pg_catalog.pg_partition_tree($1) AS part ON part.relid = class.oid
          WHERE part.relid IS NOT NULL OR class.oid = $1 ORDER BY coalesce(part.level, 0), class.oid",
        None,
        &[root.into()],
    )?;
    for row in found {
        if let (Some(table), Some(kind), Some(name)) = (row.get(1)?, row.get(2)?, row.get(3)?) {
            tables.push((table, kind, name));
        }
    }
    Ok(tables)
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

fn triggers(limited: &Limited) -> &'static [(&'static str, &'static str, &'static str, &'static str)] {
    if limited.is_partitioned { &TRIGGERS[..3] } else { &TRIGGERS }
}

fn make_triggers(client: &mut SpiClient<'_>, limited: &Limited) -> Result<(), Error> {
    let TriggerArguments { account_column, feature, condition } = &limited.by;
    let table = qualified_name(limited.table)?;
    let arguments = [account_column, feature, condition.as_deref().unwrap_or_default()].map(quote_literal).join(", ");
    for (event, when, rows, enabled) in triggers(limited) {
        let name = trigger_name(feature, event);
        client.update(
            format!("CREATE TRIGGER {name} {when} ON {table} {rows} EXECUTE FUNCTION entitlements.count_rows({arguments})")
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

fn drop_triggers(client: &mut SpiClient<'_>, limited: &Limited) -> Result<(), Error> {
    let table = qualified_name(limited.table)?;
    for (event, ..) in triggers(limited) {
        let name = trigger_name(&limited.by.feature, event);
        client.update(format!("DROP TRIGGER IF EXISTS {name} ON {table}").as_str(), None, &[])?;
    }
    Ok(())
}

#[pg_extern(sql = false)]
fn unlimit_rows(table: Option<Oid>, feature: Option<&str>) -> i64 {
    or_raise(unlimit(table, feature))
}

fn unlimit(table: Option<Oid>, feature: Option<&str>) -> Result<i64, Error> {
    let table = required("table", table)?;
    refuse_old_snapshots()?;
    connect_to_change(|client| {
        Described::find(client, table)?.refuse_others()?;
        if !Limited::all(client)?.iter().any(|limited| limited.table == table) {
            return Ok(0);
        }
        lock(table, TableLock::AccessExclusive);
        let _working = Working::begin();
        let all = Limited::all(client)?;
        let mut rows = 0;
        for root in all.iter().filter(|limited| limited.table == table) {
            let by = &root.by;
            if feature.is_some_and(|feature| feature != by.feature) {
                continue;
            }
            if root.parent.is_some() {
                return Err(Error::argument("table", "it is a partition; name the partitioned table"));
            }
            let mut sums = RowCounts::new();
            for (part, ..) in tree(client, table)? {
                if let Some(limited) = of(&all, part, &by.feature) {
                    lock(part, TableLock::AccessExclusive);
                    add(&mut sums, limited.rows()?);
                    drop_triggers(client, limited)?;
                }
            }
            let mut counted = 0;
            for (account, count) in sums {
                if let Some(account) = account {
                    give_back(&account, &by.feature, units(count.unsigned_abs())?)?;
                    counted += count;
                }
            }
            let old =
                json!({"account_column": by.account_column, "feature": by.feature, "where": by.condition, "rows": counted});
            record(client, "unlimit_rows", table, Some(old), None)?;
            rows += counted;
        }
        Ok(rows)
    })
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
static IS_WORKING: BackendFlag = BackendFlag::lowered();

struct Working;

impl Working {
    fn begin() -> Self {
        IS_WORKING.raise();
        Self
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        IS_WORKING.lower();
    }
}

/// Tables were made or changed: partitions of limited tables are limited, and what cannot be counted is refused. NE009.
pub fn follow_tables() -> Result<(), Error> {
    if IS_WORKING.is_raised() {
        return Ok(());
    }
    Spi::connect_mut(|client| {
        let all = Limited::all(client)?;
        if all.is_empty() {
            return Ok(());
        }
        let _working = Working::begin();
        let all = follow_renamed_columns(client, all)?;
        let changed = changed_tables(client)?;
        for limited in &all {
            refuse_uncountable(client, &all, limited, changed.contains(&limited.table))?;
        }
        for root in all.iter().filter(|limited| limited.is_partitioned && limited.parent.is_none()) {
            limit_tree(client, root.table, &root.by)?;
        }
        Ok(())
    })
}

fn changed_tables(client: &mut SpiClient<'_>) -> Result<Vec<Oid>, Error> {
    let mut tables = Vec::new();
    let query = "SELECT DISTINCT objid FROM pg_catalog.pg_event_trigger_ddl_commands()
                  WHERE classid = 'pg_catalog.pg_class'::pg_catalog.regclass";
    for row in client.update(query, None, &[])? {
        tables.extend(row.get::<Oid>(1)?);
    }
    Ok(tables)
}

/// A column that was renamed is still the one that accounts are counted by.
fn follow_renamed_columns(client: &mut SpiClient<'_>, all: Vec<Limited>) -> Result<Vec<Limited>, Error> {
    let renamed = client.update(
        "SELECT attribute.attname::pg_catalog.text
           FROM pg_catalog.pg_event_trigger_ddl_commands() AS command
           JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = command.objid AND attribute.attnum = command.objsubid
          WHERE command.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND command.objsubid > 0",
        None,
        &[],
    )?;
    let Some(new) = (if renamed.is_empty() { None } else { renamed.first().get_one::<String>()? }) else { return Ok(all) };
    let mut followed = Vec::with_capacity(all.len());
    for mut limited in all {
        let is_gone = KeyColumn::find(limited.table, &limited.by.account_column)?.is_none();
        if is_gone && matches!(KeyColumn::find(limited.table, &new), Ok(Some(_))) {
            drop_triggers(client, &limited)?;
            limited.by.account_column.clone_from(&new);
            make_triggers(client, &limited)?;
        }
        followed.push(limited);
    }
    Ok(followed)
}

fn refuse_uncountable(
    client: &mut SpiClient<'_>,
    all: &[Limited],
    limited: &Limited,
    is_changed: bool,
) -> Result<(), Error> {
    let TriggerArguments { account_column, feature, condition } = &limited.by;
    let table = qualified_name(limited.table)?;
    let refusal = |what: &str, hint: &str| {
        let message = format!("rows of {table} are limited by \"{feature}\", and {what}");
        Err(Error::Conflict { message, hint: hint.to_owned() })
    };
    const UNLIMIT: &str = "Call entitlements.unlimit_rows first.";
    if !limited.is_durable {
        return refusal("those of an unlogged table are gone after a crash", UNLIMIT);
    }
    if let Some(parent) = limited.parent
        && of(all, parent, feature).is_none_or(|parent| parent.by != limited.by)
    {
        return refusal(
            "those of the partitioned table are not, or in another way",
            "Call entitlements.limit_rows for the partitioned table before, or entitlements.unlimit_rows for this one.",
        );
    }
    if !matches!(KeyColumn::find(limited.table, account_column), Ok(Some(_))) {
        return refusal("they are counted by the column that this changes", UNLIMIT);
    }
    if let (Some(condition), true) = (condition, is_changed) {
        check_condition(limited.table, account_column, condition)?;
    }
    if !limited.is_partitioned {
        let heirs =
            client.update("SELECT FROM pg_catalog.pg_inherits WHERE inhparent = $1", Some(1), &[limited.table.into()])?;
        if !heirs.is_empty() {
            return refusal("rows of a table that inherits from it would not be", "Make it a partitioned table instead.");
        }
    }
    Ok(())
}

/// Tables were dropped: says so where the rows of one are still counted.
pub fn follow_drops() -> Result<(), Error> {
    if IS_WORKING.is_raised() {
        return Ok(());
    }
    let mut gone: Vec<(String, Option<String>)> = Vec::new();
    Spi::connect(|client| {
        let found = client.select(
            "SELECT tables.object_identity, features.key
               FROM pg_catalog.pg_event_trigger_dropped_objects() AS tables
               JOIN pg_catalog.pg_event_trigger_dropped_objects() AS triggers
                 ON triggers.object_type = 'trigger' AND triggers.address_names[1:2] = tables.address_names
               LEFT JOIN entitlements.features AS features ON triggers.address_names[3] = 'limit_rows_' || features.key || '_insert'
              WHERE tables.object_type = 'table' AND triggers.address_names[3] LIKE 'limit\\_rows\\_%\\_insert'
              ORDER BY 1, 2",
            None,
            &[],
        )?;
        for row in found {
            if let Some(table) = row.get(1)? {
                gone.push((table, row.get(2)?));
            }
        }
        Ok::<_, Error>(())
    })?;
    for (table, feature) in gone {
        let feature = feature.unwrap_or_else(|| "…".to_owned());
        let message = format!("rows of {table} are still counted");
        let hint = format!("SELECT * FROM entitlements.recount_rows(of_feature => '{feature}') counts anew.");
        warn(&message, Some(&hint));
    }
    Ok(())
}
