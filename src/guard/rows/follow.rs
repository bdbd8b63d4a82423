//! What follows from changes of limited tables, by event triggers.
//!
//! Only what a command has changed is looked at, so that a fault of one table stops nobody who works on others. What limits a
//! table is asked of the server's own description of it: in REPEATABLE READ the transaction's snapshot may not have it yet. A partition is
//! limited by the command that makes it one, and not by a later one: a restore makes triggers one after the other, in
//! an order of its own.

use super::limit::{IS_WORKING, Working, drop_triggers, found_table, limit_parts, make_triggers, refuse_old_snapshots};
use crate::error::Error;
use crate::pg::error::warn;
use crate::pg::session::is_own_transaction;
use crate::pg::table::{KeyColumn, Oid, TableLock, check_condition, is_partitioned, qualified_name, take_tree, tree};
use crate::pg::trigger::{LimitedTable, TableCommand, TriggerArguments};
use pgrx::spi::{Spi, SpiClient, quote_identifier};

const UNLIMIT: &str = "Call entitlements.unlimit_rows first.";

/// Tables are changed: partitions of limited tables are limited, and what cannot be counted is refused. NE009.
pub fn follow_tables(command: &TableCommand) -> Result<(), Error> {
    if IS_WORKING.is_raised() {
        return Ok(());
    }
    Spi::connect_mut(|client| {
        if command.is_rewriting {
            return refuse_rewriting(client, command);
        }
        let changed = changed_tables(client)?;
        if changed.is_empty() {
            return Ok(());
        }
        let _working = Working::begin();
        if command.renames {
            follow_renamed_column(client)?;
        }
        for change in &changed {
            let Some(table) = LimitedTable::find(change.table) else { continue };
            enable_as_due(client, change.table, &table)?;
            for by in table.limits() {
                refuse_uncountable(change.table, &table, by, command)?;
            }
        }
        for (child, parent) in new_children(client, &changed, command)? {
            follow_child(client, child, parent)?;
        }
        Ok(())
    })
}

/// A table that the command has made or altered.
struct ChangedTable {
    table: Oid,
    is_new: bool,
}

fn changed_tables(client: &mut SpiClient<'_>) -> Result<Vec<ChangedTable>, Error> {
    let mut tables = Vec::new();
    let query = "SELECT command.objid, pg_catalog.bool_or(command.command_tag LIKE 'CREATE%')
                   FROM pg_catalog.pg_event_trigger_ddl_commands() AS command
                  WHERE command.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                  GROUP BY command.objid ORDER BY command.objid";
    for row in client.update(query, None, &[])? {
        if let (Some(table), Some(is_new)) = (row.get(1)?, row.get(2)?) {
            tables.push(ChangedTable { table, is_new });
        }
    }
    Ok(tables)
}

/// A column that was renamed is still the one that accounts are counted by.
fn follow_renamed_column(client: &mut SpiClient<'_>) -> Result<(), Error> {
    let renamed = client.update(
        "SELECT command.objid, attribute.attname::pg_catalog.text
           FROM pg_catalog.pg_event_trigger_ddl_commands() AS command
           JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = command.objid AND attribute.attnum = command.objsubid
          WHERE command.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND command.objsubid > 0",
        None,
        &[],
    )?;
    if renamed.is_empty() {
        return Ok(());
    }
    let (Some(root), Some(new)) = renamed.first().get_two::<Oid, String>()? else { return Ok(()) };
    for part in tree(root) {
        let found = found_table(part)?;
        for by in found.limits() {
            let is_gone = KeyColumn::find(part, &by.account_column)?.is_none();
            if is_gone && matches!(KeyColumn::find(part, &new), Ok(Some(_))) {
                drop_triggers(client, part, &found, &by.feature)?;
                let by = TriggerArguments { account_column: new.clone(), ..by.clone() };
                make_triggers(client, part, found.is_partitioned(), &by)?;
            }
        }
    }
    Ok(())
}

/// ALTER TABLE … ENABLE TRIGGER ALL has the triggers fire where they are not to.
fn enable_as_due(client: &mut SpiClient<'_>, table: Oid, found: &LimitedTable) -> Result<(), Error> {
    for trigger in &found.triggers {
        if let Some(clause) = trigger.to_be_enabled() {
            let (table, name) = (qualified_name(table)?, quote_identifier(&trigger.name));
            client.update(format!("ALTER TABLE {table} ENABLE {clause} TRIGGER {name}").as_str(), None, &[])?;
        }
    }
    Ok(())
}

fn refusal(table: Oid, feature: &str, what: &str, hint: &str) -> Error {
    match qualified_name(table) {
        Ok(table) => Error::Conflict {
            message: format!("rows of {table} are limited by \"{feature}\", and {what}"),
            hint: hint.to_owned(),
        },
        Err(error) => error,
    }
}

fn refuse_uncountable(table: Oid, found: &LimitedTable, by: &TriggerArguments, command: &TableCommand) -> Result<(), Error> {
    let TriggerArguments { account_column, feature, condition } = by;
    let refuse = |what: &str| Err(refusal(table, feature, what, UNLIMIT));
    if !found.is_durable {
        return refuse("those of an unlogged table are gone after a crash");
    }
    let is_there = matches!(KeyColumn::find(table, account_column), Ok(Some(_)));
    if !is_there || command.dropped.contains(account_column) {
        return refuse("they are counted by the column that this changes");
    }
    if let Some(condition) = condition
        && command.concerns_conditions
    {
        let columns = check_condition(table, account_column, condition)?;
        if columns.iter().any(|column| command.dropped.contains(column)) {
            return refuse("whether one counts depends on the column that this changes");
        }
    }
    Ok(())
}

/// NE009 where the values of a column that decides what is counted are about to change in all rows, which fires no triggers.
fn refuse_rewriting(client: &mut SpiClient<'_>, command: &TableCommand) -> Result<(), Error> {
    if command.recomputed.is_empty() {
        return Ok(());
    }
    let query = "SELECT pg_catalog.pg_event_trigger_table_rewrite_oid()";
    let Some(table) = client.update(query, Some(1), &[])?.first().get_one::<Oid>()? else { return Ok(()) };
    let Some(found) = LimitedTable::find(table) else { return Ok(()) };
    for by in found.limits() {
        let mut columns = vec![by.account_column.clone()];
        if let Some(condition) = &by.condition {
            columns.extend(check_condition(table, &by.account_column, condition)?);
        }
        if let Some(column) = columns.iter().find(|column| command.recomputed.contains(column)) {
            let what = format!("this could change what is counted: it gives {column} other values");
            let hint = "Call entitlements.unlimit_rows before and limit_rows afterwards, in the same transaction.";
            return Err(refusal(table, &by.feature, &what, hint));
        }
    }
    Ok(())
}

/// Tables that the command has put below another: child and parent.
fn new_children(
    client: &mut SpiClient<'_>,
    changed: &[ChangedTable],
    command: &TableCommand,
) -> Result<Vec<(Oid, Oid)>, Error> {
    let numbers = |is_wanted: &dyn Fn(&ChangedTable) -> bool| -> Vec<Oid> {
        changed.iter().filter(|change| is_wanted(change)).map(|change| change.table).collect()
    };
    // CREATE TABLE and ALTER TABLE … INHERIT name the child, ATTACH PARTITION the parent: which child is new is told by the
    // transaction. What others have made the snapshot may not have: nothing else is asked here.
    let query =
        "SELECT inhrelid, inhparent, xmin::pg_catalog.text::pg_catalog.int8, inhrelid = ANY ($2), inhparent = ANY ($3)
                   FROM pg_catalog.pg_inherits WHERE inhrelid = ANY ($1) OR inhparent = ANY ($3) ORDER BY 2, 1";
    let arguments =
        [numbers(&|_| true).into(), numbers(&|change| change.is_new).into(), numbers(&|_| command.attaches).into()];
    let mut children = Vec::new();
    for row in client.update(query, None, &arguments)? {
        let (Some(child), Some(parent), Some(made_by)) = (row.get(1)?, row.get(2)?, row.get::<i64>(3)?) else { continue };
        let is = |place| Ok::<_, Error>(row.get::<bool>(place)?.unwrap_or_default());
        if is(4)? || is_own_transaction(made_by as u32) && (is(5)? || !is_partitioned(parent)) {
            children.push((child, parent));
        }
    }
    Ok(children)
}

fn follow_child(client: &mut SpiClient<'_>, child: Oid, parent: Oid) -> Result<(), Error> {
    let (below, above) = (found_table(child)?, found_table(parent)?);
    if !above.is_partitioned() {
        let hint = "Make it a partitioned table instead.";
        let what = "rows of a table that inherits from it would not be";
        return above.limits().first().map_or(Ok(()), |by| Err(refusal(parent, &by.feature, what, hint)));
    }
    if let Some(by) = below.limits().into_iter().find(|by| above.limit_by(&by.feature) != Some(by)) {
        let hint =
            "Call entitlements.limit_rows for the partitioned table before, or entitlements.unlimit_rows for this one.";
        return Err(refusal(child, &by.feature, "those of the partitioned table are not, or in another way", hint));
    }
    if above.triggers.is_empty() {
        return Ok(());
    }
    refuse_old_snapshots()?;
    let parts = take_tree(child, TableLock::ShareRowExclusive);
    for by in above.limits() {
        limit_parts(client, &parts, above.owner, by)?;
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
