//! The application's tables, as those who guard them need to know them.

use crate::accounts::arguments::required;
use crate::error::Error;
use crate::pg::Oid;
use crate::pg::table::{TableLock, lock};
use entitlements_model::suggest;
use pgrx::datum::DatumWithOid;
use pgrx::spi::{SpiClient, SpiTupleTable};
use std::ffi::CStr;

/// Whether anything is changed, or only told what would be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Run {
    Dry,
    Real,
}

impl Run {
    pub fn of(dry_run: Option<bool>) -> Result<Self, Error> {
        Ok(if required("dry_run", dry_run)? { Self::Dry } else { Self::Real })
    }

    /// What a query finds. A dry run assigns no transaction id.
    pub fn read<'conn>(
        self,
        client: &mut SpiClient<'conn>,
        query: &str,
        arguments: &[DatumWithOid<'_>],
    ) -> Result<SpiTupleTable<'conn>, Error> {
        Ok(match self {
            Self::Dry => client.select(query, None, arguments)?,
            Self::Real => client.update(query, None, arguments)?,
        })
    }
}

/// An ordinary or partitioned table that the caller owns.
pub struct Table {
    pub oid: Oid,
    /// With its schema, as SQL has it.
    pub name: String,
    /// As SQL has it.
    pub schema: String,
    /// Without its schema, not quoted.
    pub bare_name: String,
    pub row_security: bool,
    /// Also for its owner.
    pub forced: bool,
}

impl Table {
    /// The table, and in a real run a lock that keeps its definition to this transaction.
    pub fn take(client: &mut SpiClient<'_>, run: Run, table: Option<Oid>) -> Result<Self, Error> {
        let oid = required("table", table)?;
        let found = Self::find(client, run, oid)?;
        if run == Run::Dry {
            return Ok(found);
        }
        lock(oid, TableLock::Definition);
        Self::find(client, run, oid)
    }

    fn find(client: &mut SpiClient<'_>, run: Run, oid: Oid) -> Result<Self, Error> {
        const TABLE: &str = "
            SELECT pg_class.oid::pg_catalog.regclass::pg_catalog.text, pg_catalog.quote_ident(nspname), relname::pg_catalog.text,
                   relkind::pg_catalog.text, relrowsecurity, relforcerowsecurity, pg_catalog.pg_has_role(relowner, 'USAGE'),
                   pg_class.oid < 16384 OR nspname = 'entitlements' OR nspname LIKE 'pg\\_toast%'
              FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = $1";
        let found = run.read(client, TABLE, &[oid.into()])?;
        if found.is_empty() {
            return Err(Error::argument("table", "there is no such table"));
        }
        let row = found.first();
        let present = |column: Option<String>| column.expect("a column that is not NULL");
        let (name, kind) = (present(row.get(1)?), present(row.get(4)?));
        let is = |column: usize| Ok::<_, Error>(row.get::<bool>(column)?.unwrap_or_default());
        if let Some((what, hint)) = not_a_table(&kind) {
            return Err(Error::InvalidArgument {
                argument: "table",
                fault: format!("{name} is {what}"),
                hint: Some(hint.to_owned()),
            });
        }
        if is(8)? {
            return Err(Error::InvalidArgument {
                argument: "table",
                fault: format!("{name} is a table of the system or of the extension"),
                hint: Some("These guard the application's own tables.".to_owned()),
            });
        }
        if !is(7)? {
            return Err(Error::NotOwner { table: name });
        }
        Ok(Self {
            oid,
            name,
            schema: present(row.get(2)?),
            bare_name: present(row.get(3)?),
            row_security: is(5)?,
            forced: is(6)?,
        })
    }

    /// The tables below this one, partitions or heirs, that somebody else has been granted something on: who reads them
    /// directly does not meet this table's policies.
    pub fn open_heirs(&self, client: &mut SpiClient<'_>, run: Run) -> Result<Vec<String>, Error> {
        const HEIRS: &str = "
            WITH RECURSIVE below (oid) AS (
                SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = $1
                UNION SELECT inhrelid FROM pg_catalog.pg_inherits JOIN below ON inhparent = below.oid
            )
            SELECT oid::pg_catalog.regclass::pg_catalog.text FROM below JOIN pg_catalog.pg_class USING (oid)
             WHERE NOT relrowsecurity AND EXISTS (SELECT FROM pg_catalog.aclexplode(relacl) AS acl WHERE acl.grantee <> relowner)
             ORDER BY 1";
        texts(run.read(client, HEIRS, &[self.oid.into()])?)
    }
}

/// What it is instead of a table, and what to do about it.
fn not_a_table(kind: &str) -> Option<(&'static str, &'static str)> {
    match kind {
        "r" | "p" => None,
        "v" => Some((
            "a view",
            "Protect the tables that the view reads, and create it WITH (security_invoker), so that they are read as the caller.",
        )),
        "m" => Some(("a materialized view", "Its rows are copies: protect a table, or show them through a view.")),
        "f" => Some(("a foreign table", "Protect the table in the database where it is.")),
        _ => Some(("no table", "Name an ordinary or partitioned table.")),
    }
}

/// The rows' one column.
pub fn texts(rows: SpiTupleTable<'_>) -> Result<Vec<String>, Error> {
    let mut texts = Vec::new();
    for row in rows {
        texts.extend(row.get::<String>(1)?);
    }
    Ok(texts)
}

/// In which form a column holds accounts' keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    Text,
    Uuid,
    Bigint,
}

impl KeyType {
    /// The function's form for this type: `current_account` and `entitled_accounts` have one each.
    pub fn form_of(self, function: &str) -> String {
        match self {
            Self::Text => function.to_owned(),
            Self::Uuid => format!("{function}_uuid"),
            Self::Bigint => format!("{function}_bigint"),
        }
    }
}

/// The column that says whose a row is.
pub struct AccountColumn {
    pub number: i16,
    pub key_type: KeyType,
    /// As SQL has it.
    pub quoted: String,
    built_in: &'static str,
    /// The column is not of the built-in type itself, but of a domain or of varchar, which has no operators of its own.
    is_other: bool,
}

impl AccountColumn {
    pub fn find(client: &mut SpiClient<'_>, run: Run, table: &Table, name: Option<&CStr>) -> Result<Self, Error> {
        let name = column_name("account_column", name)?;
        // The last type is what a domain is made of.
        const COLUMN: &str = "
            WITH RECURSIVE found AS (
                SELECT attnum, pg_catalog.quote_ident(attname) AS quoted, atttypid, attcollation
                  FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attname = $2 AND attnum > 0 AND NOT attisdropped
            ), types (oid, depth) AS (
                SELECT atttypid, 0 FROM found
                UNION ALL SELECT typbasetype, depth + 1 FROM types JOIN pg_catalog.pg_type USING (oid) WHERE typtype = 'd'
            )
            SELECT attnum, quoted, types.oid::pg_catalog.regtype::pg_catalog.text, depth > 0,
                   coalesce((SELECT collisdeterministic FROM pg_catalog.pg_collation WHERE pg_collation.oid = attcollation), true)
              FROM found, types ORDER BY depth DESC LIMIT 1";
        let found = run.read(client, COLUMN, &[table.oid.into(), name.into()])?;
        if found.is_empty() {
            return Err(table.unknown_column(client, run, "account_column", name)?);
        }
        let row = found.first();
        let (number, quoted, of_type) = row.get_three::<i16, String, String>()?;
        let (of_type, is_domain) = (of_type.unwrap_or_default(), row.get::<bool>(4)?.unwrap_or_default());
        let refused = |fault: String, hint: &str| Error::InvalidArgument {
            argument: "account_column",
            fault,
            hint: Some(hint.to_owned()),
        };
        let (key_type, built_in) = match of_type.as_str() {
            "text" => (KeyType::Text, "text"),
            "character varying" => (KeyType::Text, "text"),
            "uuid" => (KeyType::Uuid, "uuid"),
            "bigint" => (KeyType::Bigint, "bigint"),
            "integer" => (KeyType::Bigint, "integer"),
            other => {
                return Err(refused(
                    format!("column \"{name}\" is of type {other}"),
                    "The key of an account is in a column of type text, varchar, uuid, bigint or integer.",
                ));
            }
        };
        if row.get::<bool>(5)? == Some(false) {
            return Err(refused(
                format!("column \"{name}\" has a collation in which different keys can be equal"),
                "Accounts are told apart byte by byte: give the column COLLATE \"C\", or no collation of its own.",
            ));
        }
        Ok(Self {
            number: number.expect("columns have numbers"),
            key_type,
            quoted: quoted.expect("columns have names"),
            built_in,
            is_other: is_domain || of_type == "character varying",
        })
    }

    /// The key for a comparison that an index serves.
    pub fn comparable(&self) -> Expression {
        self.cast_to(self.is_other.then_some(self.built_in))
    }

    /// The condition that the row is one of the current account's.
    pub fn is_current(&self) -> Expression {
        let (key, function) = (self.comparable(), self.key_type.form_of("current_account"));
        Expression {
            sql: format!("{} OPERATOR(pg_catalog.=) (SELECT entitlements.{function}())", key.sql),
            shown: format!("({} = ( SELECT entitlements.{function}() AS {function}))", key.shown),
        }
    }

    /// The key as an argument of `entitled`.
    pub fn argument(&self) -> Expression {
        let taken = if self.key_type == KeyType::Bigint { "bigint" } else { self.built_in };
        self.cast_to((self.is_other || taken != self.built_in).then_some(taken))
    }

    fn cast_to(&self, of_type: Option<&str>) -> Expression {
        let quoted = &self.quoted;
        match of_type {
            None => Expression { sql: quoted.clone(), shown: quoted.clone() },
            Some(of_type) => {
                Expression { sql: format!("{quoted}::{}", sql_name(of_type)), shown: format!("({quoted})::{of_type}") }
            }
        }
    }
}

/// The name that no schema on the search path can take.
fn sql_name(of_type: &str) -> String {
    match of_type {
        "bigint" => "pg_catalog.int8".to_owned(),
        "integer" => "pg_catalog.int4".to_owned(),
        other => format!("pg_catalog.{other}"),
    }
}

/// An expression as it is written, and as the server shows it once it has read it.
pub struct Expression {
    pub sql: String,
    pub shown: String,
}

impl Table {
    pub fn unknown_column(
        &self,
        client: &mut SpiClient<'_>,
        run: Run,
        argument: &'static str,
        name: &str,
    ) -> Result<Error, Error> {
        const COLUMNS: &str = "SELECT attname::pg_catalog.text FROM pg_catalog.pg_attribute
            WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
        let columns = texts(run.read(client, COLUMNS, &[self.oid.into()])?)?;
        let nearest = suggest::nearest(name, columns.iter().map(String::as_str), 2);
        let hint = if nearest.is_empty() {
            format!("Its columns are {}.", columns.join(", "))
        } else {
            format!("Perhaps you meant \"{}\".", nearest.join("\" or \""))
        };
        let fault = format!("{} has no column \"{name}\"", self.name);
        Ok(Error::InvalidArgument { argument, fault, hint: Some(hint) })
    }
}

/// A value of type name.
pub fn column_name<'a>(argument: &'static str, name: Option<&'a CStr>) -> Result<&'a str, Error> {
    required(argument, name)?.to_str().map_err(|_| Error::argument(argument, "it is not UTF-8"))
}
