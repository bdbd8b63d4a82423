//! Levels of access: which role may call what.
//!
//! A level is a set of functions, and [`FUNCTIONS`] is the only place that says which; the tables are never granted. Roles are
//! the user's own and none is created. The server's privileges alone decide what a role can do: `access_grants` only remembers
//! what was given as a level, so that an upgrade can add to it. It knows roles by name, as a dump does, and a name can come to
//! mean another role. So a level counts as held only while the role has all that was granted with it.

use crate::accounts::arguments::required;
use crate::audit::{self, Chain, Change};
use crate::error::Error;
use crate::pg::Oid;
use crate::pg::error::or_raise;
use crate::pg::session::{Actor, connect_to_change};
use crate::pg::subtransaction::upsert;
use entitlements_model::suggest;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::json;
use std::collections::BTreeSet;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Level {
    /// A tenant: asks about and consumes for the current account only.
    Member,
    /// Asks about every account.
    Reader,
    /// The application: acts for every account.
    Consumer,
    /// Sells and supports: changes what accounts hold.
    Operator,
    /// Defines features and plans, and which tables they guard.
    Catalog,
    /// Brings in what other systems know.
    Integrator,
    /// Sees everything, changes nothing.
    Auditor,
    /// All of it, and who else may.
    Admin,
}

use Level::{Admin, Auditor, Catalog, Consumer, Integrator, Member, Operator, Reader};

impl Level {
    const ALL: [Self; 8] = [Member, Reader, Consumer, Operator, Catalog, Integrator, Auditor, Admin];

    const fn as_str(self) -> &'static str {
        match self {
            Member => "member",
            Reader => "reader",
            Consumer => "consumer",
            Operator => "operator",
            Catalog => "catalog",
            Integrator => "integrator",
            Auditor => "auditor",
            Admin => "admin",
        }
    }

    fn named(name: Option<&str>) -> Result<Self, Error> {
        let name = required("level", name)?;
        Self::ALL.into_iter().find(|level| level.as_str() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str);
            let hint = match suggest::nearest(name, known.into_iter(), 1).first() {
                Some(nearest) => format!("Perhaps you meant \"{nearest}\"."),
                None => format!("Levels are {}.", known.join(", ")),
            };
            Error::InvalidArgument { argument: "level", fault: "there is no such level".to_owned(), hint: Some(hint) }
        })
    }

    /// The functions of the level, as `regprocedure` reads them without the schema.
    fn functions(self) -> Vec<String> {
        let of_level = FUNCTIONS.iter().filter(|(levels, _)| self == Admin || levels.contains(&self));
        of_level.flat_map(|(_, signatures)| *signatures).flat_map(|signature| forms(signature)).collect()
    }
}

/// The levels that have a function, besides admin, which has all. What is in none of these groups is not for users to call.
/// `account` stands for each type that an account can be given in.
const FUNCTIONS: &[(&[Level], &[&str])] = &[
    (
        // What policies ask too: any role that may meet a protected table needs these.
        &[Member, Reader, Consumer, Operator, Auditor],
        &[
            "allowance(text)",
            "check_access(text,numeric)",
            "current_account()",
            "current_account_bigint()",
            "current_account_uuid()",
            "entitled(text)",
            "entitlements_of()",
            "require(text)",
            "value_of(text)",
        ],
    ),
    // No release for members: who could give back would have no limit.
    (&[Member, Consumer], &["authenticate(text)", "consume(text,numeric)", "try_consume(text,numeric)"]),
    (
        &[Reader, Consumer, Operator, Auditor],
        &[
            "allowance(account,text)",
            "check_access(account,text,numeric)",
            "entitled(account,text)",
            "entitled_accounts(text)",
            "entitled_accounts_bigint(text)",
            "entitled_accounts_uuid(text)",
            "entitlements_of(account)",
            "explain(account,text,timestamptz,text)",
            "jwks()",
            "require(account,text)",
            "revoked_licences()",
            "seats(account,text)",
            "usage_history(account,text,timestamptz,timestamptz)",
            "value_of(account,text)",
        ],
    ),
    (
        &[Consumer],
        &[
            "assign_seat(account,text,text,interval)",
            "commit_reservation(uuid,numeric)",
            "consume(account,text,numeric,text,jsonb)",
            "consume_many(account,jsonb,text,jsonb)",
            "extend_reservation(uuid,interval)",
            "release(account,text,numeric,text,jsonb)",
            "release(text,numeric)",
            "renew_seat(account,text,text)",
            "reserve(account,text,numeric,interval,jsonb)",
            "set_account(account)",
            "try_assign_seat(account,text,text,interval)",
            "try_consume(account,text,numeric,text,jsonb)",
        ],
    ),
    (&[Consumer, Integrator], &["record_usage(jsonb)"]),
    (
        &[Consumer, Operator],
        &[
            "cancel_reservation(uuid)",
            "deactivate_licence(text)",
            "issue_licence(text,text,text[],interval,text,text,text)",
            "release_seat(account,text,text,text)",
            "renew_licence(text,interval)",
        ],
    ),
    (
        &[Operator],
        &[
            "accept_return(text)",
            "block(text,text,text,text)",
            "change_subscription(bigint,text,integer,integer,text,timestamptz,timestamptz,text,timestamptz,text,jsonb,text,text)",
            "clear_override(bigint,text)",
            "define_account(text,text,text,jsonb)",
            "delegate(text,text,text,numeric,interval,text)",
            "end_subscription(bigint,timestamptz,text)",
            "erase_account(text,text)",
            "grant_credit(text,text,numeric,text,timestamptz,integer,timestamptz,interval,text,text)",
            "import_licence(text,text,text,jsonb,text)",
            "reclaim_delegation(bigint)",
            "renew_subscription(bigint,timestamptz,text)",
            "return_delegation(bigint,text)",
            "revoke_licence(uuid,text)",
            "set_override(text,text,text,jsonb,text,timestamptz,text)",
            "set_usage(account,text,numeric,text)",
            "subscribe(text,text,integer,integer,timestamptz,timestamptz,text,text,text,text,jsonb,text,timestamptz)",
            "unblock(text,text,text,text)",
            "void_credit(bigint,text)",
        ],
    ),
    (&[Operator, Auditor], &["export_account(text)"]),
    (
        &[Catalog],
        &[
            "apply_catalog(jsonb,boolean)",
            "apply_catalog(text,boolean)",
            "define_feature(text,text,jsonb)",
            "define_plan(text,text,text,integer,text,text)",
            "discard_draft(text)",
            "limit_rows(regclass,name,text,text)",
            "migrate_subscriptions(text,integer,integer,text[],timestamptz,text,boolean)",
            "protect_columns(regclass,name,jsonb,text,boolean)",
            "protect_table(regclass,name,text,text,text,boolean,boolean)",
            "publish_plan(text)",
            "recount_rows(regclass,boolean,text)",
            "set_plan_feature(text,text,jsonb)",
            "unlimit_rows(regclass,text)",
            "unprotect_table(regclass,text,boolean)",
        ],
    ),
    (&[Operator, Auditor], &["reported_usage(text,text)", "reporting_sites()", "usage_report(bigint,text)"]),
    (&[Operator, Integrator], &["export_usage_report(timestamptz,timestamptz,text)", "import_usage_report(text)"]),
    (&[Catalog, Auditor], &["export_catalog()"]),
    (&[Auditor], &["access_report()", "verify_audit(text)"]),
    (&[Integrator], &["import_bundle(bytea,boolean)", "import_bundle(text,boolean)"]),
    (&[Operator, Integrator, Auditor], &["bundle_status(boolean)", "doctor()"]),
    (
        &[],
        &[
            "distrust_key(text,text,text)",
            "export_bundle(text,text[],timestamptz,interval,interval,text,boolean,jsonb)",
            "grant_access(regrole,text)",
            "maintain()",
            "renew_access()",
            "reset_bundle_sequence(text,text,bigint)",
            "revoke_access(regrole,text)",
            "set_deployment(text)",
            "shared_rates()",
            "trust_key(jsonb,text,text,text,text,timestamptz,timestamptz)",
        ],
    ),
];

/// The signature, or one for each type of account.
fn forms(signature: &str) -> Vec<String> {
    if !signature.contains("(account") {
        return vec![signature.to_owned()];
    }
    ["text", "uuid", "bigint"].map(|of_type| signature.replacen("(account", &format!("({of_type}"), 1)).to_vec()
}

/// A role that can be granted something.
struct Grantee {
    name: String,
    /// As SQL has it.
    quoted: String,
}

impl Grantee {
    fn find(client: &mut SpiClient<'_>, role: Option<Oid>) -> Result<Self, Error> {
        let role = required("role", role)?;
        let found = client.update(
            "SELECT rolname::pg_catalog.text, pg_catalog.quote_ident(rolname),
                    (SELECT extowner FROM pg_catalog.pg_extension WHERE extname = 'entitlements') = oid
               FROM pg_catalog.pg_roles WHERE oid = $1",
            Some(1),
            &[role.into()],
        )?;
        if found.is_empty() {
            return Err(Error::argument("role", "there is no such role"));
        }
        match found.first().get_three::<String, String, bool>()? {
            (_, _, Some(true)) => Err(Error::argument("role", "it owns the extension and may do everything")),
            (name, quoted, _) => {
                Ok(Self { name: name.expect("roles have names"), quoted: quoted.expect("roles have names") })
            }
        }
    }

    /// Those of the functions that were granted to the role itself, by whomever.
    fn granted(&self, client: &mut SpiClient<'_>, signatures: &[String]) -> Result<BTreeSet<String>, Error> {
        let found = client.update(
            "SELECT signature FROM pg_catalog.unnest($2) AS signature
               JOIN pg_catalog.pg_proc ON pg_proc.oid = pg_catalog.to_regprocedure('entitlements.' || signature)
              WHERE EXISTS (SELECT FROM pg_catalog.aclexplode(proacl) AS acl JOIN pg_catalog.pg_roles ON pg_roles.oid = acl.grantee
                             WHERE rolname = $1 AND acl.privilege_type = 'EXECUTE')",
            None,
            &[self.name.as_str().into(), signatures.to_vec().into()],
        )?;
        let mut granted = BTreeSet::new();
        for row in found {
            granted.extend(row.get::<String>(1)?);
        }
        Ok(granted)
    }

    /// Whether any function was granted to the role itself.
    fn can_call(&self, client: &mut SpiClient<'_>) -> Result<bool, Error> {
        let found = client.update(
            "SELECT FROM pg_catalog.pg_proc, pg_catalog.aclexplode(proacl) AS acl JOIN pg_catalog.pg_roles ON pg_roles.oid = acl.grantee
              WHERE pronamespace = 'entitlements'::pg_catalog.regnamespace AND rolname = $1",
            Some(1),
            &[self.name.as_str().into()],
        )?;
        Ok(!found.is_empty())
    }

    /// The levels that the role holds.
    fn levels(&self, client: &mut SpiClient<'_>) -> Result<Vec<(Level, Vec<String>)>, Error> {
        let mut given = Vec::new();
        for row in client.update(
            "SELECT level, functions FROM entitlements.access_grants WHERE role = $1 ORDER BY level",
            None,
            &[self.name.as_str().into()],
        )? {
            let functions = row.get::<Vec<String>>(2)?.expect("a column that is not NULL");
            given.push((Level::named(row.get(1)?)?, functions));
        }
        let mut held = Vec::new();
        for (level, functions) in given {
            let existing = existing(client, &functions)?;
            if self.granted(client, &existing)?.len() == existing.len() {
                held.push((level, functions));
            }
        }
        Ok(held)
    }

    /// Grants the level with all functions that it has now. False if nothing was missing.
    fn grant(&self, client: &mut SpiClient<'_>, level: Level) -> Result<bool, Error> {
        let functions = existing(client, &level.functions())?;
        let granted = self.granted(client, &functions)?;
        let known = self.levels(client)?.into_iter().find(|(held, _)| *held == level);
        if granted.len() == functions.len() && known.is_some_and(|(_, recorded)| recorded == functions) {
            return Ok(false);
        }
        client.update(&format!("GRANT USAGE ON SCHEMA entitlements TO {}", self.quoted), None, &[])?;
        client.update(&format!("GRANT EXECUTE ON FUNCTION {} TO {}", list(&functions), self.quoted), None, &[])?;
        upsert(
            client,
            c"access_grants",
            "INSERT INTO entitlements.access_grants (role, level, functions, granted_at, granted_by)
             VALUES ($1, $2, $3, pg_catalog.now(), $4)
             ON CONFLICT (role, level) DO UPDATE
                SET functions = excluded.functions, granted_at = excluded.granted_at, granted_by = excluded.granted_by",
            &[self.name.as_str().into(), level.as_str().into(), functions.clone().into(), Actor::current().role.into()],
        )?;
        let new: Vec<&String> = functions.iter().filter(|function| !granted.contains(*function)).collect();
        self.record(client, "grant", json!({ "level": level.as_str(), "functions": new }))?;
        Ok(true)
    }

    fn record(&self, client: &mut SpiClient<'_>, action: &'static str, what: serde_json::Value) -> Result<(), Error> {
        let (old, new) = if action == "grant" { (None, Some(what)) } else { (Some(what), None) };
        let change = Change { action, object: "access", object_id: self.name.clone(), old, new, reason: None };
        audit::record(client, Chain::Catalog, &[change])
    }
}

/// Those of the functions that there are: the library may be newer than the objects, and older than a level's record.
fn existing(client: &mut SpiClient<'_>, signatures: &[String]) -> Result<Vec<String>, Error> {
    let found = client.update(
        "SELECT signature FROM pg_catalog.unnest($1) WITH ORDINALITY AS function (signature, place)
          WHERE pg_catalog.to_regprocedure('entitlements.' || signature) IS NOT NULL ORDER BY place",
        None,
        &[signatures.to_vec().into()],
    )?;
    let mut existing = Vec::new();
    for row in found {
        existing.extend(row.get::<String>(1)?);
    }
    Ok(existing)
}

fn list(functions: &[String]) -> String {
    functions.iter().map(|function| format!("entitlements.{function}")).collect::<Vec<_>>().join(", ")
}

#[pg_extern(sql = false)]
fn grant_access(role: Option<Oid>, level: Option<&str>) -> bool {
    or_raise(connect_to_change(|client| {
        let level = Level::named(level)?;
        audit::take_turn(client, Chain::Catalog)?;
        Grantee::find(client, role)?.grant(client, level)
    }))
}

#[pg_extern(sql = false)]
fn revoke_access(role: Option<Oid>, level: Option<&str>) -> bool {
    or_raise(connect_to_change(|client| {
        let level = level.map(|level| Level::named(Some(level))).transpose()?;
        audit::take_turn(client, Chain::Catalog)?;
        let grantee = Grantee::find(client, role)?;
        revoke(client, &grantee, level)
    }))
}

/// None: all levels.
fn revoke(client: &mut SpiClient<'_>, grantee: &Grantee, level: Option<Level>) -> Result<bool, Error> {
    let stays = |of: Level| level.is_some_and(|level| level != of);
    let (kept, lost): (Vec<_>, Vec<_>) = grantee.levels(client)?.into_iter().partition(|(held, _)| stays(*held));
    let kept: BTreeSet<String> = kept.into_iter().flat_map(|(_, functions)| functions).collect();
    let mut unwanted: BTreeSet<String> = lost.into_iter().flat_map(|(_, functions)| functions).collect();
    unwanted.extend(level.unwrap_or(Admin).functions());
    let unwanted: Vec<String> = unwanted.difference(&kept).cloned().collect();
    let unwanted: Vec<String> = grantee.granted(client, &unwanted)?.into_iter().collect();
    let forgotten = client.update(
        "DELETE FROM entitlements.access_grants WHERE role = $1 AND level = coalesce($2, level) RETURNING level",
        None,
        &[grantee.name.as_str().into(), level.map(Level::as_str).into()],
    )?;
    if forgotten.is_empty() && unwanted.is_empty() {
        return Ok(false);
    }
    if !unwanted.is_empty() {
        client.update(&format!("REVOKE EXECUTE ON FUNCTION {} FROM {}", list(&unwanted), grantee.quoted), None, &[])?;
    }
    if !grantee.can_call(client)? {
        client.update(&format!("REVOKE USAGE ON SCHEMA entitlements FROM {}", grantee.quoted), None, &[])?;
    }
    grantee.record(client, "revoke", json!({ "level": level.map(Level::as_str), "functions": unwanted }))?;
    Ok(true)
}

#[pg_extern(sql = false)]
fn renew_access() -> i64 {
    or_raise(connect_to_change(|client| {
        audit::take_turn(client, Chain::Catalog)?;
        let mut roles: Vec<Oid> = Vec::new();
        for row in client.update(
            "SELECT DISTINCT pg_roles.oid FROM entitlements.access_grants JOIN pg_catalog.pg_roles ON rolname = role ORDER BY 1",
            None,
            &[],
        )? {
            roles.extend(row.get::<Oid>(1)?);
        }
        let mut renewed = 0;
        for role in roles {
            let grantee = Grantee::find(client, Some(role))?;
            for (level, _) in grantee.levels(client)? {
                renewed += i64::from(grantee.grant(client, level)?);
            }
        }
        Ok::<_, Error>(renewed)
    }))
}

/// $1, $2: the functions of the levels, a pair for each.
const REPORT: &str = "
    WITH RECURSIVE extension AS (
        SELECT extnamespace AS schema, extowner AS owner FROM pg_catalog.pg_extension WHERE extname = 'entitlements'
    ), objects (object, of_function, is_schema, owner, acl) AS (
        SELECT 'schema entitlements', NULL::pg_catalog.oid, true, nspowner, coalesce(nspacl, pg_catalog.acldefault('n', nspowner))
          FROM pg_catalog.pg_namespace JOIN extension ON pg_namespace.oid = extension.schema
        UNION ALL
        SELECT CASE relkind WHEN 'S' THEN 'sequence ' WHEN 'v' THEN 'view ' ELSE 'table ' END || pg_class.oid::pg_catalog.regclass, NULL, false, relowner,
               coalesce(relacl, pg_catalog.acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::pg_catalog.\"char\", relowner))
          FROM pg_catalog.pg_class JOIN extension ON relnamespace = extension.schema WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL
        SELECT 'column ' || attrelid::pg_catalog.regclass || '.' || pg_catalog.quote_ident(attname), NULL, false, relowner, attacl
          FROM pg_catalog.pg_attribute JOIN pg_catalog.pg_class ON pg_class.oid = attrelid JOIN extension ON relnamespace = extension.schema
         WHERE attacl IS NOT NULL AND NOT attisdropped
        UNION ALL
        SELECT 'function ' || pg_proc.oid::pg_catalog.regprocedure, pg_proc.oid, false, proowner,
               coalesce(proacl, pg_catalog.acldefault('f', proowner))
          FROM pg_catalog.pg_proc JOIN extension ON pronamespace = extension.schema
    ), granted (role, object, of_function, is_schema, privilege, how) AS (
        SELECT acl.grantee, object, of_function, is_schema, acl.privilege_type || CASE WHEN acl.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END, 'GRANT'
          FROM objects, pg_catalog.aclexplode(acl) AS acl, extension WHERE acl.grantee <> objects.owner AND acl.grantee <> extension.owner
        UNION ALL
        SELECT objects.owner, object, of_function, is_schema, 'ALL', 'owner'
          FROM objects, extension WHERE objects.owner <> extension.owner AND object NOT LIKE 'column %'
        UNION ALL
        SELECT pg_roles.oid, 'all tables', NULL, false, predefined.privilege, 'predefined'
          FROM (VALUES ('pg_read_all_data', 'SELECT'), ('pg_write_all_data', 'INSERT'), ('pg_write_all_data', 'UPDATE'), ('pg_write_all_data', 'DELETE'))
               AS predefined (name, privilege)
          JOIN pg_catalog.pg_roles ON rolname = predefined.name
    ), level_functions (level, of_function) AS (
        SELECT pair.level, pg_catalog.to_regprocedure('entitlements.' || pair.signature)::pg_catalog.oid
          FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS pair (level, signature)
    ), recorded (role_name, role, level, is_held, lacking) AS (
        SELECT access.role, pg_roles.oid, access.level,
               NOT EXISTS (
                   SELECT FROM pg_catalog.unnest(access.functions) AS signature
                    WHERE pg_catalog.to_regprocedure('entitlements.' || signature) IS NOT NULL
                      AND NOT EXISTS (SELECT FROM granted
                                       WHERE granted.role = pg_roles.oid AND privilege LIKE 'EXECUTE%'
                                         AND of_function = pg_catalog.to_regprocedure('entitlements.' || signature)::pg_catalog.oid)),
               EXISTS (
                   SELECT FROM level_functions
                    WHERE level_functions.level = access.level AND of_function IS NOT NULL
                      AND NOT EXISTS (SELECT FROM granted
                                       WHERE granted.role = pg_roles.oid AND privilege LIKE 'EXECUTE%' AND granted.of_function = level_functions.of_function))
          FROM entitlements.access_grants AS access LEFT JOIN pg_catalog.pg_roles ON rolname = access.role
    ), direct (role, level, object, privilege, how) AS (
        SELECT granted.role, recorded.level, object, privilege, CASE WHEN recorded.level IS NULL THEN how ELSE 'grant_access' END
          FROM granted
          LEFT JOIN recorded ON recorded.role = granted.role AND recorded.is_held AND (
               (is_schema AND privilege = 'USAGE')
            OR (privilege = 'EXECUTE' AND EXISTS (
                    SELECT FROM level_functions
                     WHERE level_functions.level = recorded.level AND level_functions.of_function = granted.of_function)))
    ), membership (member, role) AS (
        -- Since PostgreSQL 16 a membership may be good for nothing but giving it to others.
        SELECT member, roleid FROM pg_catalog.pg_auth_members
         WHERE coalesce((pg_catalog.to_jsonb(pg_auth_members) ->> 'inherit_option')::pg_catalog.bool, true)
            OR coalesce((pg_catalog.to_jsonb(pg_auth_members) ->> 'set_option')::pg_catalog.bool, true)
        UNION
        SELECT membership.member, above.roleid
          FROM membership JOIN pg_catalog.pg_auth_members AS above ON above.member = membership.role
    ), report (role, level, object, privilege, how) AS (
        SELECT CASE role WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(role)::pg_catalog.text END, level, object, privilege, how
          FROM direct WHERE how <> 'predefined'
        UNION ALL
        SELECT pg_catalog.pg_get_userbyid(member)::pg_catalog.text, level, object, privilege,
               'member of ' || pg_catalog.pg_get_userbyid(membership.role)
          FROM direct JOIN membership ON membership.role = direct.role
          JOIN pg_catalog.pg_roles ON pg_roles.oid = membership.member AND NOT rolsuper
         WHERE membership.member <> (SELECT owner FROM extension)
        UNION ALL
        SELECT role_name, level, NULL, NULL,
               CASE WHEN role IS NULL THEN 'there is no such role'
                    WHEN NOT is_held THEN 'not held: some of its privileges were revoked'
                    ELSE 'not in full: renew_access() grants what is new' END
          FROM recorded WHERE role IS NULL OR NOT is_held OR lacking
    )
    SELECT role, level, object, privilege, how FROM report
     ORDER BY role COLLATE \"C\", level COLLATE \"C\" NULLS LAST, object COLLATE \"C\" NULLS FIRST, privilege COLLATE \"C\", how COLLATE \"C\"";

type ReportRow = (Option<String>, Option<String>, Option<String>, Option<String>, Option<String>);

#[expect(clippy::type_complexity, reason = "the columns of the SQL function")]
#[pg_extern(sql = false)]
fn access_report() -> TableIterator<
    'static,
    (
        name!(role, Option<String>),
        name!(level, Option<String>),
        name!(object, Option<String>),
        name!(privilege, Option<String>),
        name!(how, Option<String>),
    ),
> {
    TableIterator::new(or_raise(report()))
}

fn report() -> Result<Vec<ReportRow>, Error> {
    let (mut levels, mut signatures) = (Vec::new(), Vec::new());
    for level in Level::ALL {
        for signature in level.functions() {
            levels.push(level.as_str());
            signatures.push(signature);
        }
    }
    Spi::connect(|client| {
        let mut rows = Vec::new();
        for row in client.select(REPORT, None, &[levels.into(), signatures.into()])? {
            rows.push((row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?));
        }
        Ok(rows)
    })
}
