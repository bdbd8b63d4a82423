//! recount_rows: what the counters have against what the tables have.

use super::limit::{add, refuse_old_snapshots, required, rows_of};
use super::units;
use crate::accounts::account::Account;
use crate::accounts::feature::Feature;
use crate::audit::{self, Chain, Change};
use crate::error::Error;
use crate::meter::consume::look_in_use;
use crate::meter::correction::restate;
use crate::meter::write::sql_amount;
use crate::pg::error::or_raise;
use crate::pg::session::connect_to_change;
use crate::pg::table::{Oid, RowCounts, TableLock, lock, qualified_name};
use crate::pg::trigger::TriggerArguments;
use entitlements_model::amount::Amount;
use entitlements_model::kind::Kind;
use pgrx::AnyNumeric;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::json;
use std::collections::{BTreeMap, HashSet};

#[expect(clippy::type_complexity, reason = "the columns, which pgrx takes no alias for")]
#[pg_extern(sql = false)]
fn recount_rows(
    table: Option<Oid>,
    repair: Option<bool>,
    of_feature: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(tables, Option<String>),
        name!(account, Option<String>),
        name!(feature, String),
        name!(rows, AnyNumeric),
        name!(counted, AnyNumeric),
        name!(repaired, bool),
    ),
> {
    let found = or_raise(recount(table, repair, of_feature));
    TableIterator::new(found.into_iter().map(|drift| {
        let Drift { tables, account, feature, rows, counted, repaired } = drift;
        (tables, account, feature, sql_amount(rows), sql_amount(counted), repaired)
    }))
}

/// A table whose rows are limited: of a partitioned one, each part is one more.
struct Limited {
    table: Oid,
    is_partitioned: bool,
    /// A part of another that is limited.
    is_partition: bool,
    by: TriggerArguments,
}

impl Limited {
    /// All of them, those with partitions first, each in the order of their numbers.
    fn all(client: &mut SpiClient<'_>) -> Result<Vec<Self>, Error> {
        // By what depends on the function: pg_trigger has no index that leads there.
        let found = client.update(
            "SELECT DISTINCT class.relkind = 'p', class.oid, class.relispartition, trigger.tgargs
               FROM pg_catalog.pg_depend AS depend
               JOIN pg_catalog.pg_trigger AS trigger ON trigger.oid = depend.objid
               JOIN pg_catalog.pg_class AS class ON class.oid = trigger.tgrelid
              WHERE depend.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                AND depend.refobjid = 'entitlements.count_rows()'::pg_catalog.regprocedure
                AND depend.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass
              ORDER BY 1 DESC, 2, 4",
            None,
            &[],
        )?;
        let mut all = Vec::new();
        for row in found {
            if let (Some(is_partitioned), Some(table), Some(is_partition), Some(stored)) =
                (row.get(1)?, row.get(2)?, row.get(3)?, row.get::<Vec<u8>>(4)?)
            {
                let by = TriggerArguments::stored(&stored)?;
                all.push(Self { table, is_partitioned, is_partition, by });
            }
        }
        Ok(all)
    }

    /// Those of a feature, locked against writers: also what others were limiting, or adding as a partition, until the locks
    /// kept them from it.
    fn take(client: &mut SpiClient<'_>, feature: &str) -> Result<Vec<Self>, Error> {
        let mut taken = HashSet::new();
        loop {
            let mut limited = Self::all(client)?;
            limited.retain(|limited| limited.by.feature == feature);
            let new: Vec<Oid> = limited.iter().map(|limited| limited.table).filter(|table| taken.insert(*table)).collect();
            if new.is_empty() {
                return Ok(limited);
            }
            for table in new {
                lock(table, TableLock::Share);
            }
        }
    }
}

/// A counter that is not what the tables have.
struct Drift {
    /// Names of the limited tables.
    tables: Option<String>,
    account: Option<String>,
    feature: String,
    rows: Amount,
    counted: Amount,
    repaired: bool,
}

fn recount(table: Option<Oid>, repair: Option<bool>, feature: Option<&str>) -> Result<Vec<Drift>, Error> {
    let repair = required("repair", repair)?;
    refuse_old_snapshots()?;
    connect_to_change(|client| {
        // Before any lock, as limit_rows takes it: until the end of the transaction there is no table more, nor less.
        audit::take_turn(client, Chain::Catalog)?;
        let all = Limited::all(client)?;
        let mut features: Vec<String> = match (feature, table) {
            (Some(feature), _) => {
                let found = Feature::find(client, feature)?;
                if found.kind != Kind::Allocation {
                    return Err(Error::WrongKind { feature: found.key, kind: found.kind, needed: "an allocation" });
                }
                vec![found.key]
            }
            (None, table) => {
                let named = all.iter().filter(|limited| table.is_none_or(|table| limited.table == table));
                named.map(|limited| limited.by.feature.clone()).collect()
            }
        };
        if features.is_empty() && table.is_some() {
            return Err(Error::argument("table", "no limit_rows counts its rows"));
        }
        features.sort_unstable();
        features.dedup();
        let mut found = Vec::new();
        for feature in features {
            found.extend(recount_feature(client, &feature, repair)?);
        }
        Ok(found)
    })
}

fn recount_feature(client: &mut SpiClient<'_>, feature: &str, repair: bool) -> Result<Vec<Drift>, Error> {
    let mut names = Vec::new();
    let mut rows = RowCounts::new();
    for limited in Limited::take(client, feature)? {
        add(&mut rows, rows_of(limited.table, limited.is_partitioned, &limited.by)?);
        if !limited.is_partition {
            names.push(qualified_name(limited.table)?);
        }
    }
    let tables = (!names.is_empty()).then(|| names.join(", "));
    let drift = |account, rows, counted, repaired| Drift {
        tables: tables.clone(),
        account,
        feature: feature.to_owned(),
        rows,
        counted,
        repaired,
    };
    let mut found = Vec::new();
    let mut expected: BTreeMap<i64, Amount> = counted_accounts(client, feature)?;
    for (account, count) in rows {
        let n = units(count.unsigned_abs())?;
        let look = match account.as_deref().map(|account| look_in_use(account, feature)) {
            Some(Ok(look)) => look,
            // Rows that nobody's counter can have.
            None | Some(Err(Error::UnknownAccount { .. })) => {
                found.push(drift(account, n, Amount::ZERO, false));
                continue;
            }
            Some(Err(error)) => return Err(error),
        };
        for charge in look.charges {
            let sum = expected.entry(charge.account).or_default();
            *sum = sum.saturating_add(n.scaled_up(charge.cost));
        }
    }
    for (account, rows) in expected {
        let Some(key) = key_of(client, account)? else { continue };
        let look = look_in_use(&key, feature)?;
        let own = (account, look.feature.resolved.id.0);
        let Some(charge) = look.charges.iter().find(|charge| charge.key() == own) else { continue };
        let counted = charge.stored();
        if counted == rows {
            continue;
        }
        let counted = if repair { repair_counter(client, (account, &key), feature, rows)? } else { counted };
        found.push(drift(Some(key), rows, counted, repair));
    }
    Ok(found)
}

/// States what an account's tables have, and returns what the counter had.
fn repair_counter(client: &mut SpiClient<'_>, named: (i64, &str), feature: &str, rows: Amount) -> Result<Amount, Error> {
    let account = Account::take(client, Some(named.1))?;
    let counted = restate(named, feature, rows)?;
    let used = |amount: Amount| Some(json!({"used": amount.to_string()}));
    let change = Change {
        action: "recount_rows",
        object: "usage",
        object_id: feature.to_owned(),
        old: used(counted),
        new: used(rows),
        reason: None,
    };
    audit::record(client, account.chain(), &[change])?;
    Ok(counted)
}

/// The accounts that have a counter with anything in use, each without rows so far.
fn counted_accounts(client: &mut SpiClient<'_>, feature: &str) -> Result<BTreeMap<i64, Amount>, Error> {
    let mut accounts = BTreeMap::new();
    let query = "SELECT DISTINCT counter.account_id FROM entitlements.counters AS counter
                   JOIN entitlements.features AS feature ON feature.id = counter.feature_id
                  WHERE feature.key = $1 AND (counter.used > 0 OR counter.slots > 0)";
    for row in client.update(query, None, &[feature.into()])? {
        if let Some(account) = row.get::<i64>(1)? {
            accounts.insert(account, Amount::ZERO);
        }
    }
    Ok(accounts)
}

/// None where the account is erased.
fn key_of(client: &mut SpiClient<'_>, account: i64) -> Result<Option<String>, Error> {
    let query = "SELECT key FROM entitlements.accounts WHERE id = $1 AND erased_at IS NULL";
    let found = client.update(query, Some(1), &[account.into()])?;
    if found.is_empty() { Ok(None) } else { Ok(found.first().get_one()?) }
}
