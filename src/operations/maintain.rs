//! Housekeeping, for a scheduler to call: nothing depends on when it runs, and it may run any number of times at once.
//!
//! Notes what time it is, so that a clock set back is noticed. Deletes what is kept for a time only, ends what time alone has
//! ended, removes what came too late for an erasure, folds counters that nobody spreads any more, and keeps the ledger's
//! partitions: one for each month (UTC), made while it is still empty. A partition made here belongs to the
//! ledger but not to the extension, so that pg_dump takes it along with its rows. Events of a month without a partition are in
//! the default one, and move when theirs is made.

use crate::accounts::personal_data::erase_late;
use crate::bundle::raise_highest;
use crate::error::Error;
use crate::meter::{fold, reservation};
use crate::pg::change_mark;
use crate::pg::error::or_raise;
use crate::pg::session::connect_to_change;
use crate::pg::settings;
use crate::pg::snapshot::statement_time;
use entitlements_server::mark::EVERY_ACCOUNT;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

type Done = (String, String, i64);

#[pg_extern(sql = false)]
fn maintain() -> TableIterator<'static, (name!(action, String), name!(object, String), name!(count, i64))> {
    TableIterator::new(or_raise(all()))
}

fn all() -> Result<Vec<Done>, Error> {
    if !connect_to_change(take_turn)? {
        return Ok(Vec::new());
    }
    let mut done: Vec<Done> = Vec::new();
    let mut note = |action: &str, object: &str, count: i64| {
        if count > 0 {
            done.push((action.to_owned(), object.to_owned(), count));
        }
    };
    note("expire", "reservations", reservation::sweep_all()?);
    let retention = settings::idempotency_retention();
    note("delete", "reservations", connect_to_change(|client| delete_reservations(client, retention))?);
    note("delete", "idempotency_keys", connect_to_change(|client| delete_keys(client, retention))?);
    for (table, count) in connect_to_change(erase_late)? {
        note("erase", table, count);
    }
    let mut folded = 0;
    for counter in connect_to_change(spread_in_the_past)? {
        folded += i64::from(fold(counter)?);
    }
    note("fold", "counters", folded);
    note("delete", "change_marks", connect_to_change(delete_marks)?);
    done.extend(connect_to_change(keep_partitions)?);
    connect_to_change(|client| raise_highest(client, statement_time()))?;
    Ok(done)
}

/// False where another transaction is at it.
fn take_turn(client: &mut SpiClient<'_>) -> Result<bool, Error> {
    // The bytes of "maintain".
    let found = client.update("SELECT pg_catalog.pg_try_advisory_xact_lock(7881696745994938734)", Some(1), &[])?;
    Ok(found.first().get_one()?.unwrap_or(false))
}

/// Ended reservations say nothing any more but to whoever asks about one by its id.
fn delete_reservations(client: &mut SpiClient<'_>, retention: i64) -> Result<i64, Error> {
    let deleted = client.update(
        "DELETE FROM entitlements.reservations
          WHERE id IN (SELECT id FROM entitlements.reservations
                        WHERE state <> 'held' AND ended_at < pg_catalog.now() - pg_catalog.make_interval(mins => $1::pg_catalog.int4)
                        FOR UPDATE SKIP LOCKED)",
        None,
        &[retention.into()],
    )?;
    Ok(deleted.len() as i64)
}

fn delete_keys(client: &mut SpiClient<'_>, retention: i64) -> Result<i64, Error> {
    let deleted = client.update(
        "WITH old AS (
            SELECT account_id, key FROM entitlements.idempotency_keys
             WHERE created_at < pg_catalog.now() - pg_catalog.make_interval(mins => $1::pg_catalog.int4)
            FOR UPDATE SKIP LOCKED
        )
        DELETE FROM entitlements.idempotency_keys AS used USING old
         WHERE used.account_id = old.account_id AND used.key = old.key",
        None,
        &[retention.into()],
    )?;
    Ok(deleted.len() as i64)
}

/// Marks of change that every new snapshot shows, once there are many. Sessions that have read nothing since will miss them, so they
/// are told to forget everything, by a mark that whoever no longer sees the others does see.
fn delete_marks(client: &mut SpiClient<'_>) -> Result<i64, Error> {
    const MANY: i64 = 1000;
    let deleted = client.update(
        "WITH old AS MATERIALIZED (
            SELECT transaction_id, number FROM entitlements.change_marks
             WHERE transaction_id < pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::pg_catalog.text::pg_catalog.int8
        )
        DELETE FROM entitlements.change_marks AS mark USING old
         WHERE mark.transaction_id = old.transaction_id AND mark.number = old.number
           AND (SELECT pg_catalog.count(*) FROM old) >= $1",
        None,
        &[MANY.into()],
    )?;
    if !deleted.is_empty() {
        change_mark::mark(EVERY_ACCOUNT)?;
    }
    Ok(deleted.len() as i64)
}

/// Counters of windows that are over, and still have slots.
fn spread_in_the_past(client: &mut SpiClient<'_>) -> Result<Vec<i64>, Error> {
    let found = client.update(
        "SELECT counter.id
           FROM (SELECT DISTINCT counter_id FROM entitlements.counter_slots) AS spread
           JOIN entitlements.counters AS counter ON counter.id = spread.counter_id
          WHERE counter.window_end <= pg_catalog.statement_timestamp() ORDER BY counter.id",
        None,
        &[],
    )?;
    let mut counters = Vec::new();
    for row in found {
        counters.extend(row.get::<i64>(1)?);
    }
    Ok(counters)
}

/// A month of the ledger.
struct Month {
    partition: String,
    /// As literals.
    start: String,
    end: String,
}

const MONTHS: &str = "SELECT 'usage_events_' || pg_catalog.to_char(month, 'YYYY_MM'), month::pg_catalog.text, (month + '1 month'::pg_catalog.interval)::pg_catalog.text";

/// This month and the next, where they have no partition.
fn missing_months(client: &mut SpiClient<'_>) -> Result<Vec<Month>, Error> {
    let query = format!(
        "{MONTHS} FROM (SELECT pg_catalog.date_trunc('month', pg_catalog.now(), 'UTC') + ahead AS month
                          FROM (VALUES ('0 months'::pg_catalog.interval), ('1 month')) AS soon (ahead)) AS months
          WHERE pg_catalog.to_regclass('entitlements.usage_events_' || pg_catalog.to_char(month, 'YYYY_MM')) IS NULL ORDER BY month"
    );
    months(client, &query, &[])
}

/// Months with a partition that are over for longer than the ledger is kept.
fn old_months(client: &mut SpiClient<'_>, retention: i64) -> Result<Vec<Month>, Error> {
    let query = format!(
        "{MONTHS} FROM (SELECT pg_catalog.make_timestamptz(pg_catalog.substr(partition.relname, 14, 4)::pg_catalog.int4,
                                                           pg_catalog.substr(partition.relname, 19, 2)::pg_catalog.int4, 1, 0, 0, 0, 'UTC') AS month
                          FROM pg_catalog.pg_inherits AS child JOIN pg_catalog.pg_class AS partition ON partition.oid = child.inhrelid
                         WHERE child.inhparent = 'entitlements.usage_events'::pg_catalog.regclass
                           AND partition.relnamespace = 'entitlements'::pg_catalog.regnamespace
                           AND partition.relname ~ '^usage_events_[0-9]{{4}}_[0-9]{{2}}$') AS months
          WHERE month + '1 month'::pg_catalog.interval <= pg_catalog.now() - pg_catalog.make_interval(mins => $1::pg_catalog.int4) ORDER BY month"
    );
    months(client, &query, &[retention])
}

fn months(client: &mut SpiClient<'_>, query: &str, arguments: &[i64]) -> Result<Vec<Month>, Error> {
    let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).into()).collect();
    let mut months = Vec::new();
    for row in client.update(query, None, &arguments)? {
        if let (Some(partition), Some(start), Some(end)) = (row.get(1)?, row.get(2)?, row.get(3)?) {
            months.push(Month { partition, start, end });
        }
    }
    Ok(months)
}

fn keep_partitions(client: &mut SpiClient<'_>) -> Result<Vec<Done>, Error> {
    let mut done = Vec::new();
    let missing = missing_months(client)?;
    if !missing.is_empty() {
        // The whole first: who waited for the default partition alone would write to it what belongs to the new one by then.
        client.update("LOCK TABLE entitlements.usage_events IN ACCESS EXCLUSIVE MODE", None, &[])?;
    }
    for month in missing {
        let moved = make_partition(client, &month)?;
        done.push(("create".to_owned(), month.partition, moved));
    }
    let retention = settings::ledger_retention();
    for month in old_months(client, retention)? {
        let count =
            client.update(&format!("SELECT pg_catalog.count(*) FROM entitlements.{}", month.partition), Some(1), &[])?;
        let count = count.first().get_one()?.unwrap_or(0);
        client.update(&format!("DROP TABLE entitlements.{}", month.partition), None, &[])?;
        done.push(("drop".to_owned(), month.partition, count));
    }
    let deleted = client.update(
        "DELETE FROM entitlements.usage_events_rest
          WHERE at < pg_catalog.now() - pg_catalog.make_interval(mins => $1::pg_catalog.int4)",
        None,
        &[retention.into()],
    )?;
    if !deleted.is_empty() {
        done.push(("delete".to_owned(), "usage_events_rest".to_owned(), deleted.len() as i64));
    }
    Ok(done)
}

/// How many events it has at once.
fn make_partition(client: &mut SpiClient<'_>, month: &Month) -> Result<i64, Error> {
    let Month { partition, start, end } = month;
    client.update(
        &format!(
            "CREATE TABLE entitlements.{partition}
                (LIKE entitlements.usage_events_rest INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)"
        ),
        None,
        &[],
    )?;
    let moved = client.update(
        &format!(
            "WITH moved AS (
                DELETE FROM entitlements.usage_events_rest WHERE at >= '{start}' AND at < '{end}' RETURNING *
            )
            INSERT INTO entitlements.{partition} SELECT * FROM moved"
        ),
        None,
        &[],
    )?;
    let moved = moved.len() as i64;
    client.update(
        &format!(
            "ALTER TABLE entitlements.usage_events ATTACH PARTITION entitlements.{partition} FOR VALUES FROM ('{start}') TO ('{end}')"
        ),
        None,
        &[],
    )?;
    Ok(moved)
}
