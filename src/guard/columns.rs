//! Columns by entitlement: a view with the rows of the current account, in which a column is NULL unless the account is
//! entitled to its feature.
//!
//! The view reads the table with its owner's privileges, so its readers need none on the table, where the columns are open. It
//! has the comparison with the account inside, and as a security barrier: no condition of a reader is evaluated on a row, or a
//! column, that is not the reader's.

use super::protect::{change, current_is_entitled, known_feature};
use super::table::{AccountColumn, Run, Table, column_name, texts};
use crate::accounts::arguments::required;
use crate::error::Error;
use crate::pg::Oid;
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::{Map, Value};
use std::ffi::CStr;

/// What the view's comment begins with; then comes a digest of the statement that made it.
const MARK: &str = "Made by entitlements.protect_columns: ";

#[pg_extern(sql = false)]
fn protect_columns(
    table: Option<Oid>,
    account_column: Option<&CStr>,
    gates: Option<JsonbText>,
    view: Option<&str>,
    dry_run: Option<bool>,
) -> SetOfIterator<'static, String> {
    SetOfIterator::new(or_raise(Run::of(dry_run).and_then(|run| {
        change(run, "protect columns", table, |client, table| {
            let gates = features_of(gates)?;
            let column = AccountColumn::find(client, run, table, account_column)?;
            if gates.contains_key(column_name("account_column", account_column)?) {
                return Err(Error::argument("gates", "the account column cannot be gated"));
            }
            let view = View::named(client, run, table, view)?;
            view.make(client, run, table, &column, &gates)
        })
    })))
}

/// Columns with the features that gate them.
fn features_of(gates: Option<JsonbText>) -> Result<Map<String, Value>, Error> {
    let JsonbText(text) = required("gates", gates)?;
    let faulty = || Error::InvalidArgument {
        argument: "gates",
        fault: "it is not a JSON object of columns with their features".to_owned(),
        hint: Some(r#"Such as {"column": "feature"}."#.to_owned()),
    };
    let gates: Map<String, Value> = serde_json::from_str(&text).map_err(|_| faulty())?;
    if gates.is_empty() {
        return Err(faulty());
    }
    for feature in gates.values() {
        known_feature(feature.as_str().ok_or_else(faulty)?)?;
    }
    Ok(gates)
}

struct View {
    /// With its schema, as SQL has it.
    name: String,
    /// None if there is no such view yet.
    comment: Option<String>,
}

impl View {
    /// In the table's schema.
    fn named(client: &mut SpiClient<'_>, run: Run, table: &Table, name: Option<&str>) -> Result<Self, Error> {
        let bare_name = name.map_or_else(|| format!("{}_gated", table.bare_name), str::to_owned);
        if bare_name.is_empty() || bare_name.len() > 63 {
            return Err(Error::argument("view", "a name has 1 to 63 bytes"));
        }
        const VIEW: &str = "
            SELECT pg_catalog.quote_ident($2), class.oid IS NOT NULL, pg_catalog.obj_description(class.oid, 'pg_class')
              FROM pg_catalog.pg_class AS own
              LEFT JOIN pg_catalog.pg_class AS class ON class.relnamespace = own.relnamespace AND class.relname = $2
             WHERE own.oid = $1";
        let found = run.read(client, VIEW, &[table.oid.into(), bare_name.as_str().into()])?;
        let (quoted, exists, comment) = found.first().get_three::<String, bool, String>()?;
        let name = format!("{}.{}", table.schema, quoted.expect("a quoted name"));
        match comment {
            Some(comment) if comment.starts_with(MARK) => Ok(Self { name, comment: Some(comment) }),
            _ if exists == Some(true) => Err(Error::Conflict {
                message: format!("there is already a relation {name}, which protect_columns did not make"),
                hint: "Give the view another name.".to_owned(),
            }),
            _ => Ok(Self { name, comment: None }),
        }
    }

    /// The statements that make it what it should be; none if it is.
    fn make(
        &self,
        client: &mut SpiClient<'_>,
        run: Run,
        table: &Table,
        account: &AccountColumn,
        gates: &Map<String, Value>,
    ) -> Result<Vec<String>, Error> {
        let columns = columns_of(client, run, table)?;
        for gated in gates.keys() {
            if !columns.iter().any(|column| column.name == *gated) {
                return Err(table.unknown_column(client, run, "gates", gated)?);
            }
        }
        let listed: Vec<String> = columns
            .iter()
            .map(|Column { name, quoted }| match gates.get(name).and_then(Value::as_str) {
                None => quoted.clone(),
                Some(feature) => format!("CASE WHEN {} THEN {quoted} END AS {quoted}", current_is_entitled(feature)),
            })
            .collect();
        let statement = format!(
            "CREATE OR REPLACE VIEW {} WITH (security_barrier) AS SELECT {} FROM {} WHERE {} WITH CASCADED CHECK OPTION",
            self.name,
            listed.join(", "),
            table.name,
            account.is_current().sql
        );
        let digest = texts(run.read(client, "SELECT pg_catalog.md5($1)", &[statement.as_str().into()])?)?;
        let comment = format!("{MARK}{}", digest.concat());
        if self.comment.as_ref() == Some(&comment) {
            return Ok(Vec::new());
        }
        Ok(vec![statement, format!("COMMENT ON VIEW {} IS '{comment}'", self.name)])
    }
}

struct Column {
    name: String,
    /// As SQL has it.
    quoted: String,
}

fn columns_of(client: &mut SpiClient<'_>, run: Run, table: &Table) -> Result<Vec<Column>, Error> {
    const COLUMNS: &str = "SELECT attname::pg_catalog.text, pg_catalog.quote_ident(attname) FROM pg_catalog.pg_attribute
        WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let mut columns = Vec::new();
    for row in run.read(client, COLUMNS, &[table.oid.into()])? {
        if let (Some(name), Some(quoted)) = (row.get(1)?, row.get(2)?) {
            columns.push(Column { name, quoted });
        }
    }
    Ok(columns)
}
