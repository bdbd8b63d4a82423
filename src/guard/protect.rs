//! Row security by entitlement: the policies that keep each account to its own rows, and to what it is entitled to.
//!
//! The policies are the state: there is no registry beside them that could say something else. They survive renaming,
//! pg_dump and pg_upgrade, and nobody but the table's owner can make or remove them. Their names tell them from others, and their comment
//! what `unprotect_table` is to put back.
//!
//! What does not depend on the row is a sub-select without references to it: the planner makes it an InitPlan, evaluated once
//! a statement, so the comparison with the account column can use an index, and the workers of a parallel scan get the
//! values from the leader.

use super::functions::{bigint_of, uuid_of};
use super::table::{AccountColumn, Expression, Run, Table, texts};
use crate::accounts::arguments::required;
use crate::audit::{self, Chain, Change};
use crate::check::memo::MEMO;
use crate::error::Error;
use crate::meter::{as_owner_changing, relations};
use crate::pg::Oid;
use crate::pg::error::or_raise;
use crate::pg::owner::as_owner;
use crate::pg::session::connect_to_change;
use pgrx::datum::Uuid;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::{Value, json};
use std::ffi::CStr;

/// The statements that a policy is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Command {
    All,
    Select,
    Insert,
    Update,
    Delete,
}

impl Command {
    const EACH: [Self; 5] = [Self::All, Self::Select, Self::Insert, Self::Update, Self::Delete];

    fn as_str(self) -> &'static str {
        match self {
            Self::All => "ALL",
            Self::Select => "SELECT",
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }

    /// As pg_policy has it.
    fn code(self) -> &'static str {
        match self {
            Self::All => "*",
            Self::Select => "r",
            Self::Insert => "a",
            Self::Update => "w",
            Self::Delete => "d",
        }
    }

    fn named(name: Option<&str>) -> Result<Self, Error> {
        let name = required("command", name)?;
        Self::EACH.into_iter().find(|command| command.as_str().eq_ignore_ascii_case(name)).ok_or_else(|| {
            Error::InvalidArgument {
                argument: "command",
                fault: "there is no such command".to_owned(),
                hint: Some("Commands are ALL, SELECT, INSERT, UPDATE and DELETE.".to_owned()),
            }
        })
    }
}

/// Whose rows a command reaches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accounts {
    Current,
    /// Gated by the account of the row.
    Every,
}

impl Accounts {
    fn named(name: Option<&str>) -> Result<Self, Error> {
        match required("accounts", name)? {
            "current" => Ok(Self::Current),
            "every" => Ok(Self::Every),
            _ => Err(Error::InvalidArgument {
                argument: "accounts",
                fault: "it is neither current nor every".to_owned(),
                hint: Some(
                    "current: rows of the current account, which the gate asks about; every: rows of all accounts, each of which its gate asks about."
                        .to_owned(),
                ),
            }),
        }
    }
}

/// The policy that keeps rows to the current account.
const ACCOUNT: &str = "entitlements_account";
/// With the command: rows of all accounts, as far as the gates let.
const EVERY: &str = "entitlements_every_";
/// With command and feature: asks about the current account.
const GATE: &str = "entitlements_gate_";
/// With command and feature: asks about the account of the row.
const ROW_GATE: &str = "entitlements_row_gate_";

/// Accounts up to which the list of those that are granted a feature is better than asking for each row.
const FEW_ACCOUNTS: i64 = 1000;

/// What a comment begins with; then comes what was there before, as JSON.
const MARK: &str = "Made by entitlements.protect_table; entitlements.unprotect_table removes it. Before: ";

/// A policy as it should be.
struct Policy {
    name: String,
    permissive: bool,
    command: Command,
    condition: Expression,
}

impl Policy {
    /// Rows of the current account.
    fn of_account(column: &AccountColumn) -> Self {
        Self { name: ACCOUNT.to_owned(), permissive: true, command: Command::All, condition: column.is_current() }
    }

    /// All rows, so that only the gates decide.
    fn of_every_account(command: Command) -> Self {
        let condition = Expression { sql: "true".to_owned(), shown: "true".to_owned() };
        Self { name: every_name(command), permissive: true, command, condition }
    }

    fn gate(command: Command, feature: &Feature) -> Self {
        let key = &feature.key;
        Self {
            name: feature.policy_name(GATE, command),
            permissive: false,
            command,
            condition: Expression {
                sql: current_is_entitled(key),
                shown: format!("( SELECT entitlements.entitled('{key}'::text) AS entitled)"),
            },
        }
    }

    fn row_gate(command: Command, feature: &Feature, column: &AccountColumn, by_list: bool) -> Self {
        let key = &feature.key;
        let condition = if by_list {
            let (function, account) = (column.key_type.form_of("entitled_accounts"), column.comparable());
            Expression {
                sql: format!("{} OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT entitlements.{function}('{key}')))", account.sql),
                shown: format!(
                    "({} = ANY (ARRAY( SELECT entitlements.{function}('{key}'::text) AS {function})))",
                    account.shown
                ),
            }
        } else {
            let account = column.argument();
            Expression {
                sql: format!("entitlements.entitled({}, '{key}')", account.sql),
                shown: format!("entitlements.entitled({}, '{key}'::text)", account.shown),
            }
        };
        Self { name: feature.policy_name(ROW_GATE, command), permissive: false, command, condition }
    }

    /// The condition for rows that are there, and the one for new rows. PostgreSQL applies the first to new rows too where
    /// there is no second.
    fn conditions(&self) -> (Option<&Expression>, Option<&Expression>) {
        match self.command {
            Command::Insert => (None, Some(&self.condition)),
            _ => (Some(&self.condition), None),
        }
    }

    /// In the place of the one that is there.
    fn make(&self, table: &Table, there: &[Existing], before: &Before) -> Vec<String> {
        let same_name = there.iter().find(|existing| existing.name == self.name);
        if same_name.is_some_and(|existing| existing.is(self)) {
            return Vec::new();
        }
        let name = quoted(&self.name);
        let clause = if self.command == Command::Insert { "WITH CHECK" } else { "USING" };
        let kind = if self.permissive { "PERMISSIVE" } else { "RESTRICTIVE" };
        let mut statements: Vec<String> = same_name.map(|existing| existing.drop_from(table)).into_iter().collect();
        statements.push(format!(
            "CREATE POLICY {name} ON {} AS {kind} FOR {} {clause} ({})",
            table.name,
            self.command.as_str(),
            self.condition.sql
        ));
        statements.push(format!("COMMENT ON POLICY {name} ON {} IS '{}'", table.name, before.comment()));
        statements
    }
}

fn every_name(command: Command) -> String {
    format!("{EVERY}{}", command.as_str().to_lowercase())
}

/// A name of this module: feature keys are of letters, digits and `_.:-`.
fn quoted(name: &str) -> String {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if is_plain { name.to_owned() } else { format!("\"{name}\"") }
}

struct Feature {
    key: String,
    /// What tells long keys apart that begin alike.
    digest: String,
}

impl Feature {
    /// NE003 if there is none.
    fn find(client: &mut SpiClient<'_>, run: Run, key: &str) -> Result<Self, Error> {
        known_feature(key)?;
        let digest = texts(run.read(client, "SELECT pg_catalog.md5($1)", &[key.into()])?)?;
        Ok(Self { key: key.to_owned(), digest: digest.into_iter().next().unwrap_or_default() })
    }

    fn policy_name(&self, kind: &str, command: Command) -> String {
        /// Of a name in PostgreSQL, less its terminating zero.
        const MOST_BYTES: usize = 63;
        let start = format!("{kind}{}_", command.as_str().to_lowercase());
        if start.len() + self.key.len() <= MOST_BYTES {
            return format!("{start}{}", self.key);
        }
        let digest = &self.digest[..8];
        format!("{start}{}_{digest}", &self.key[..MOST_BYTES - start.len() - 1 - digest.len()])
    }
}

/// The condition that the current account is entitled to the feature, asked once a statement.
pub fn current_is_entitled(feature: &str) -> String {
    format!("(SELECT entitlements.entitled('{feature}'))")
}

/// NE003 if there is no such feature.
pub fn known_feature(key: &str) -> Result<(), Error> {
    MEMO.with(|memo| memo.resolve(None, key.as_bytes(), false)).map(|_| ())
}

/// A policy that the table has.
struct Existing {
    name: String,
    permissive: bool,
    command: String,
    for_all_roles: bool,
    using: Option<String>,
    check: Option<String>,
    comment: Option<String>,
    columns: Vec<i16>,
}

impl Existing {
    fn of(client: &mut SpiClient<'_>, run: Run, table: &Table) -> Result<Vec<Self>, Error> {
        const POLICIES: &str = "
            SELECT polname::pg_catalog.text, polpermissive, polcmd::pg_catalog.text, polroles = '{0}',
                   pg_catalog.pg_get_expr(polqual, polrelid), pg_catalog.pg_get_expr(polwithcheck, polrelid),
                   pg_catalog.obj_description(oid, 'pg_policy'),
                   ARRAY(SELECT refobjsubid::pg_catalog.int2 FROM pg_catalog.pg_depend
                          WHERE classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND objid = pg_policy.oid
                            AND refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND refobjid = polrelid AND refobjsubid > 0)
              FROM pg_catalog.pg_policy WHERE polrelid = $1 ORDER BY polname COLLATE \"C\"";
        let mut policies = Vec::new();
        for row in run.read(client, POLICIES, &[table.oid.into()])? {
            policies.push(Self {
                name: row.get(1)?.unwrap_or_default(),
                permissive: row.get(2)?.unwrap_or_default(),
                command: row.get(3)?.unwrap_or_default(),
                for_all_roles: row.get(4)?.unwrap_or_default(),
                using: row.get(5)?,
                check: row.get(6)?,
                comment: row.get(7)?,
                columns: row.get(8)?.unwrap_or_default(),
            });
        }
        Ok(policies)
    }

    fn is_ours(&self) -> bool {
        self.name == ACCOUNT || [EVERY, GATE, ROW_GATE].iter().any(|start| self.name.starts_with(start))
    }

    fn is(&self, policy: &Policy) -> bool {
        let (using, check) = policy.conditions();
        let shown = |expression: Option<&Expression>| expression.map(|expression| expression.shown.clone());
        self.permissive == policy.permissive
            && self.command == policy.command.code()
            && self.for_all_roles
            && self.using == shown(using)
            && self.check == shown(check)
            && self.comment.as_ref().is_some_and(|comment| comment.starts_with(MARK))
    }

    fn asks_about(&self, feature: &str) -> bool {
        let constant = format!("'{feature}'::text");
        [&self.using, &self.check].into_iter().flatten().any(|condition| condition.contains(&constant))
    }

    fn drop_from(&self, table: &Table) -> String {
        format!("DROP POLICY {} ON {}", quoted(&self.name), table.name)
    }
}

/// What the table's row security was before any of these policies.
struct Before {
    row_security: bool,
    forced: bool,
}

impl Before {
    fn of(table: &Table, there: &[Existing]) -> Self {
        if !there.iter().any(Existing::is_ours) {
            return Self { row_security: table.row_security, forced: table.forced };
        }
        let noted = there.iter().filter_map(|policy| policy.comment.as_ref()?.strip_prefix(MARK));
        match noted.filter_map(|note| serde_json::from_str::<Value>(note).ok()).next() {
            Some(note) => Self { row_security: note["row_security"] != false, forced: note["forced"] != false },
            // The comments were lost: what is on stays on.
            None => Self { row_security: true, forced: true },
        }
    }

    fn comment(&self) -> String {
        format!("{MARK}{}", json!({ "row_security": self.row_security, "forced": self.forced }))
    }
}

#[pg_extern(sql = false)]
fn protect_table(
    table: Option<Oid>,
    account_column: Option<&CStr>,
    feature: Option<&str>,
    command: Option<&str>,
    accounts: Option<&str>,
    force: Option<bool>,
    dry_run: Option<bool>,
) -> SetOfIterator<'static, String> {
    SetOfIterator::new(or_raise(Run::of(dry_run).and_then(|run| {
        change(run, "protect", table, |client, table| {
            let (command, accounts) = (Command::named(command)?, Accounts::named(accounts)?);
            let force = required("force", force)?;
            let column = AccountColumn::find(client, run, table, account_column)?;
            let feature = feature.map(|key| Feature::find(client, run, key)).transpose()?;
            protect(client, run, table, &column, feature.as_ref(), command, accounts, force)
        })
    })))
}

#[pg_extern(sql = false)]
fn unprotect_table(table: Option<Oid>, feature: Option<&str>, dry_run: Option<bool>) -> SetOfIterator<'static, String> {
    SetOfIterator::new(or_raise(Run::of(dry_run).and_then(|run| {
        change(run, "unprotect", table, |client, table| {
            feature.map(known_feature).transpose()?;
            unprotect(client, run, table, feature)
        })
    })))
}

/// Runs, unless the run is dry, the statements that `plan` gives, and puts them on record.
pub fn change(
    run: Run,
    action: &'static str,
    table: Option<Oid>,
    plan: impl FnOnce(&mut SpiClient<'_>, &Table) -> Result<Vec<String>, Error>,
) -> Result<Vec<String>, Error> {
    if run == Run::Dry {
        return Spi::connect_mut(|client| {
            let table = Table::take(client, run, table)?;
            plan(client, &table)
        });
    }
    let (table, statements) = connect_to_change(|client| {
        // Before the lock on the table, as limit_rows takes it.
        as_owner_changing(|client| audit::take_turn(client, Chain::Catalog))?;
        let table = Table::take(client, run, table)?;
        let statements = plan(client, &table)?;
        for statement in &statements {
            client.update(statement.as_str(), None, &[])?;
        }
        Ok::<_, Error>((table, statements))
    })?;
    if !statements.is_empty() {
        let new = Some(json!({ "statements": statements }));
        let change = Change { action, object: "table", object_id: table.name, old: None, new, reason: None };
        as_owner_changing(|client| audit::record(client, Chain::Catalog, &[change]))?;
    }
    Ok(statements)
}

#[expect(clippy::too_many_arguments, reason = "what is asked for, word by word")]
fn protect(
    client: &mut SpiClient<'_>,
    run: Run,
    table: &Table,
    column: &AccountColumn,
    feature: Option<&Feature>,
    command: Command,
    accounts: Accounts,
    force: bool,
) -> Result<Vec<String>, Error> {
    let there = Existing::of(client, run, table)?;
    refuse_contradiction(table, column, &there, command, accounts)?;
    let before = Before::of(table, &there);
    let mut policies = Vec::new();
    match (accounts, feature) {
        (Accounts::Current, feature) => {
            policies.push(Policy::of_account(column));
            policies.extend(feature.map(|feature| Policy::gate(command, feature)));
        }
        (Accounts::Every, Some(feature)) => {
            policies.push(Policy::of_every_account(command));
            let by_list = has_index(client, run, table, column)? && has_few_accounts()?;
            policies.push(Policy::row_gate(command, feature, column, by_list));
        }
        (Accounts::Every, None) => {
            return Err(Error::InvalidArgument {
                argument: "feature",
                fault: "it is NULL, and nothing would guard the rows of every account".to_owned(),
                hint: Some("Name the feature that the account of a row must be entitled to.".to_owned()),
            });
        }
    }
    let mut statements: Vec<String> = policies.iter().flat_map(|policy| policy.make(table, &there, &before)).collect();
    if !table.row_security {
        statements.push(format!("ALTER TABLE {} ENABLE ROW LEVEL SECURITY", table.name));
    }
    if force && !table.forced {
        statements.push(format!("ALTER TABLE {} FORCE ROW LEVEL SECURITY", table.name));
    }
    for heir in table.open_heirs(client, run)? {
        pgrx::warning!(
            "roles other than its owner have privileges on {heir}, and whoever reads it directly does not meet the policies of {}",
            table.name
        );
    }
    Ok(statements)
}

/// NE009 where what is asked for would undo, unsaid, what was asked for before.
fn refuse_contradiction(
    table: &Table,
    column: &AccountColumn,
    there: &[Existing],
    command: Command,
    accounts: Accounts,
) -> Result<(), Error> {
    let own = there.iter().find(|policy| policy.name == ACCOUNT);
    let name = &table.name;
    let hint = |what: &str| {
        format!("{what} SELECT entitlements.unprotect_table('{}') removes what is there.", name.replace('\'', "''"))
    };
    if own.is_some() && accounts == Accounts::Every && command != Command::Select {
        return Err(Error::Conflict {
            message: format!(
                "{name} keeps each account to its own rows, and {} would reach those of every account",
                command.as_str()
            ),
            hint: hint("Beside the account's own rows, those of every account can only be read."),
        });
    }
    let reaches_all =
        there.iter().find(|policy| policy.name.starts_with(EVERY) && policy.name != every_name(Command::Select));
    if let (Some(reaches_all), Accounts::Current) = (reaches_all, accounts) {
        return Err(Error::Conflict {
            message: format!("policy {} lets the rows of every account be reached in {name}", reaches_all.name),
            hint: hint("Rows cannot be kept to the current account beside it."),
        });
    }
    if let (Some(own), Accounts::Current) = (own, accounts)
        && !own.columns.is_empty()
        && own.columns != [column.number]
    {
        return Err(Error::Conflict {
            message: format!("another column than {} says in {name} whose a row is", column.quoted),
            hint: hint("A table has one account column."),
        });
    }
    Ok(())
}

fn unprotect(client: &mut SpiClient<'_>, run: Run, table: &Table, feature: Option<&str>) -> Result<Vec<String>, Error> {
    let there = Existing::of(client, run, table)?;
    let before = Before::of(table, &there);
    let is_gate = |policy: &Existing| policy.name.starts_with(GATE) || policy.name.starts_with(ROW_GATE);
    let mut going: Vec<&Existing> = there
        .iter()
        .filter(|policy| match feature {
            None => policy.is_ours(),
            Some(feature) => is_gate(policy) && policy.asks_about(feature),
        })
        .collect();
    // Where no gate is left, nobody reaches the rows of every account.
    let is_left = |policy: &Existing, going: &[&Existing]| going.iter().all(|gone| gone.name != policy.name);
    for command in Command::EACH {
        let of_command = |policy: &Existing| policy.name.starts_with(ROW_GATE) && policy.command == command.code();
        let still_gated = there.iter().any(|policy| of_command(policy) && is_left(policy, &going));
        if !still_gated && going.iter().any(|policy| of_command(policy)) {
            let open = there.iter().find(|policy| policy.name == every_name(command) && is_left(policy, &going));
            going.extend(open);
        }
    }
    let mut statements = Vec::new();
    if !going.is_empty() && !there.iter().any(|policy| policy.is_ours() && is_left(policy, &going)) {
        let other = there.iter().any(|policy| !policy.is_ours());
        if table.forced && !before.forced {
            statements.push(format!("ALTER TABLE {} NO FORCE ROW LEVEL SECURITY", table.name));
        }
        if table.row_security && !before.row_security && !other {
            statements.push(format!("ALTER TABLE {} DISABLE ROW LEVEL SECURITY", table.name));
        } else if table.row_security && !before.row_security {
            pgrx::warning!("row level security of {} stays on, since the table has other policies", table.name);
        }
    }
    statements.extend(going.iter().map(|policy| policy.drop_from(table)));
    Ok(statements)
}

/// Whether an index finds the rows of an account.
fn has_index(client: &mut SpiClient<'_>, run: Run, table: &Table, column: &AccountColumn) -> Result<bool, Error> {
    const INDEX: &str = "SELECT FROM pg_catalog.pg_index JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid JOIN pg_catalog.pg_am ON pg_am.oid = relam
        WHERE indrelid = $1 AND indkey[0] = $2 AND amname = 'btree' AND indisvalid AND indpred IS NULL LIMIT 1";
    Ok(!run.read(client, INDEX, &[table.oid.into(), column.number.into()])?.is_empty())
}

fn has_few_accounts() -> Result<bool, Error> {
    as_owner(&relations()?.counters, || {
        Spi::connect(|client| {
            const COUNT: &str = "SELECT pg_catalog.count(*) FROM (SELECT FROM entitlements.accounts LIMIT $1) AS few";
            let count: Option<i64> = client.select(COUNT, None, &[(FEW_ACCOUNTS + 1).into()])?.first().get_one()?;
            Ok(count.unwrap_or_default() <= FEW_ACCOUNTS)
        })
    })
}

#[pg_extern(sql = false)]
fn entitled_accounts_uuid(feature: Option<&str>) -> SetOfIterator<'static, Uuid> {
    SetOfIterator::new(granted_accounts(feature).into_iter().filter_map(|key| uuid_of(&key)))
}

#[pg_extern(sql = false)]
fn entitled_accounts_bigint(feature: Option<&str>) -> SetOfIterator<'static, i64> {
    SetOfIterator::new(granted_accounts(feature).into_iter().filter_map(|key| bigint_of(&key)))
}

fn granted_accounts(feature: Option<&str>) -> Vec<String> {
    or_raise(required("feature", feature).and_then(|feature| MEMO.with(|memo| memo.accounts_granted(feature.as_bytes()))))
}
