//! Levels of access: each gives its functions and nothing else, and what is reported is what the server does.

use entitlements_client_tests::{Database, Role, one, refused_with};
use postgres::Client;
use std::collections::{BTreeMap, BTreeSet};

/// What nobody calls by themselves.
const IN_NO_LEVEL: &[&str] =
    &["count_rows()", "entitled_support(internal)", "follow_drops()", "follow_tables()", "mark_change()", "refuse_change()"];

/// The functions of each level; those that take an account, in the form that takes text.
const MEMBER_READS: &str = "allowance(text) check_access(text,numeric) current_account() current_account_bigint() current_account_uuid() \
    entitled(text) entitlements_of() require(text) value_of(text)";
const MEMBER_CONSUMES: &str = "authenticate(text) consume(text,numeric) try_consume(text,numeric)";
const READS: &str = "allowance(text,text) check_access(text,text,numeric) entitled(text,text) entitled_accounts(text) entitled_accounts_bigint(text) \
    entitled_accounts_uuid(text) entitlements_of(text) explain(text,text,timestamptz,text) require(text,text) seats(text,text) \
    usage_history(text,text,timestamptz,timestamptz) value_of(text,text) jwks() revoked_licences()";
const CONSUMES: &str = "assign_seat(text,text,text,interval) commit_reservation(uuid,numeric) consume(text,text,numeric,text,jsonb) \
    consume_many(text,jsonb,text,jsonb) extend_reservation(uuid,interval) record_usage(jsonb) release(text,numeric) release(text,text,numeric,text,jsonb) renew_seat(text,text,text) \
    reserve(text,text,numeric,interval,jsonb) set_account(text) try_assign_seat(text,text,text,interval) try_consume(text,text,numeric,text,jsonb) \
    cancel_reservation(uuid) release_seat(text,text,text,text) deactivate_licence(text) issue_licence(text,text,text[],interval,text,text,text) renew_licence(text,interval)";
const OPERATES: &str = "block(text,text,text,text) cancel_reservation(uuid) \
    change_subscription(bigint,text,integer,integer,text,timestamptz,timestamptz,text,timestamptz,text,jsonb,text,text) clear_override(bigint,text) \
    define_account(text,text,text,jsonb) end_subscription(bigint,timestamptz,text) erase_account(text,text) export_account(text) \
    grant_credit(text,text,numeric,text,timestamptz,integer,timestamptz,interval,text,text) release_seat(text,text,text,text) \
    renew_subscription(bigint,timestamptz,text) set_override(text,text,text,jsonb,text,timestamptz,text) set_usage(text,text,numeric,text) \
    subscribe(text,text,integer,integer,timestamptz,timestamptz,text,text,text,text,jsonb,text,timestamptz) unblock(text,text,text,text) void_credit(bigint,text) bundle_status(boolean) doctor() deactivate_licence(text) issue_licence(text,text,text[],interval,text,text,text) renew_licence(text,interval) \
    accept_return(text) delegate(text,text,text,numeric,interval,text) import_licence(text,text,text,jsonb,text) reclaim_delegation(bigint) \
    return_delegation(bigint,text) revoke_licence(uuid,text) reported_usage(text,text) reporting_sites() usage_report(bigint,text) \
    export_usage_report(timestamptz,timestamptz,text) import_usage_report(text)";
const CATALOGS: &str = "apply_catalog(jsonb,boolean) apply_catalog(text,boolean) define_feature(text,text,jsonb) define_plan(text,text,text,integer,text,text) \
    discard_draft(text) export_catalog() limit_rows(regclass,name,text,text) migrate_subscriptions(text,integer,integer,text[],timestamptz,text,boolean) \
    protect_columns(regclass,name,jsonb,text,boolean) protect_table(regclass,name,text,text,text,boolean,boolean) publish_plan(text) \
    recount_rows(regclass,boolean,text) set_plan_feature(text,text,jsonb) unlimit_rows(regclass,text) unprotect_table(regclass,text,boolean)";
const AUDITS: &str = "access_report() bundle_status(boolean) doctor() export_account(text) export_catalog() reported_usage(text,text) \
    reporting_sites() usage_report(bigint,text) verify_audit(text)";

const LEVELS: &[(&str, &[&str])] = &[
    ("member", &[MEMBER_READS, MEMBER_CONSUMES]),
    ("reader", &[MEMBER_READS, READS]),
    ("consumer", &[MEMBER_READS, MEMBER_CONSUMES, READS, CONSUMES]),
    ("operator", &[MEMBER_READS, READS, OPERATES]),
    ("catalog", &[CATALOGS]),
    (
        "integrator",
        &[
            "bundle_status(boolean) doctor() export_usage_report(timestamptz,timestamptz,text) import_usage_report(text) import_bundle(bytea,boolean) import_bundle(text,boolean) record_usage(jsonb)",
        ],
    ),
    ("auditor", &[MEMBER_READS, READS, AUDITS]),
];

fn lines(client: &mut Client, sql: &str) -> BTreeSet<String> {
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// All functions, as regprocedure shows them without the schema.
fn functions(client: &mut Client) -> BTreeSet<String> {
    lines(
        client,
        "SELECT replace(oid::regprocedure::text, 'entitlements.', '') FROM pg_proc WHERE pronamespace = 'entitlements'::regnamespace",
    )
}

/// Those that the role can call by itself.
fn callable(client: &mut Client, role: &str) -> BTreeSet<String> {
    lines(
        client,
        &format!(
            "SELECT replace(oid::regprocedure::text, 'entitlements.', '') FROM pg_proc
              WHERE pronamespace = 'entitlements'::regnamespace AND has_function_privilege('{role}', oid, 'EXECUTE')"
        ),
    )
}

/// As regprocedure shows it.
fn shown(signature: &str) -> String {
    signature.replace("timestamptz", "timestamp with time zone")
}

/// Together with the forms for other types of account, which exist besides a form for text.
fn with_forms(signatures: &BTreeSet<String>, all: &BTreeSet<String>) -> BTreeSet<String> {
    let mut with_forms = BTreeSet::new();
    for signature in signatures {
        with_forms.insert(signature.clone());
        for of_type in ["uuid", "bigint"] {
            let form = signature.replacen("(text", &format!("({of_type}"), 1);
            if all.contains(&form) {
                with_forms.insert(form);
            }
        }
    }
    with_forms
}

fn admin_role() -> (Role, Client) {
    let role = Role::new(Database::new());
    let owner = role.database().connect();
    (role, owner)
}

fn grant(owner: &mut Client, role: &Role, level: &str) -> bool {
    one(owner, &format!("SELECT entitlements.grant_access('{}', '{level}')", role.name()), &[])
}

fn revoke(owner: &mut Client, role: &Role, level: Option<&str>) -> bool {
    one(owner, &format!("SELECT entitlements.revoke_access('{}', $1)", role.name()), &[&level])
}

#[test]
fn every_function_is_in_a_level_or_deliberately_in_none() {
    let (role, mut owner) = admin_role();
    assert!(grant(&mut owner, &role, "admin"));
    let all = functions(&mut owner);
    let withheld: BTreeSet<String> = all.difference(&callable(&mut owner, role.name())).cloned().collect();
    assert_eq!(withheld, IN_NO_LEVEL.iter().map(|function| (*function).to_owned()).collect());
}

/// A call of each function with NULL for each argument, which leads to an error or does next to nothing.
const CALLS: &str = "
    SELECT format('SELECT %s(%s)', oid::regproc, (SELECT string_agg('NULL::' || type::regtype, ', ') FROM unnest(proargtypes) AS type)),
           replace(oid::regprocedure::text, 'entitlements.', '')
    FROM pg_proc
    WHERE pronamespace = 'entitlements'::regnamespace AND 'internal'::regtype <> ALL (proargtypes)
      AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
    ORDER BY oid";

#[test]
fn a_level_is_exactly_its_functions() {
    let (role, mut owner) = admin_role();
    let all = functions(&mut owner);
    let calls: Vec<(String, String)> = owner.query(CALLS, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(calls.len() > 80, "{}", calls.len());
    let mut client = role.connect();
    for (level, parts) in LEVELS {
        let listed: BTreeSet<String> = parts.iter().flat_map(|part| part.split_whitespace()).map(shown).collect();
        let expected: BTreeSet<String> = with_forms(&listed, &all).intersection(&all).cloned().collect();
        assert!(grant(&mut owner, &role, level));
        assert_eq!(callable(&mut owner, role.name()), expected, "{level}");
        for (call, function) in &calls {
            let mut transaction = client.transaction().unwrap();
            let outcome = transaction.query(call.as_str(), &[]);
            let code = outcome.err().and_then(|error| error.code().map(|code| code.code().to_owned()));
            assert_eq!(code.as_deref() == Some("42501"), !expected.contains(function), "{level}: {call}: {code:?}");
            transaction.rollback().unwrap();
        }
        for table in lines(
            &mut owner,
            "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'entitlements'::regnamespace AND relkind IN ('r', 'p', 'S')",
        ) {
            refused_with(&mut client, "42501", &format!("SELECT FROM {table}"), &[]);
        }
        assert!(revoke(&mut owner, &role, Some(level)));
        assert_eq!(callable(&mut owner, role.name()), BTreeSet::new(), "{level}");
        let usage: bool = one(&mut owner, "SELECT has_schema_privilege($1::text, 'entitlements', 'USAGE')", &[&role.name()]);
        assert!(!usage, "{level}");
    }
    refused_with(&mut client, "42501", "SELECT entitlements.grant_access(session_user::text::regrole, 'admin')", &[]);
}

/// The table of docs/tables.md says which functions a level has.
#[test]
fn the_documented_levels_are_those_that_are_granted() {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tables.md")).unwrap();
    let mut rows =
        document.lines().skip_while(|line| !line.starts_with("| functions |")).take_while(|line| line.starts_with('|'));
    let levels: Vec<&str> =
        rows.next().expect("the table").split('|').map(str::trim).skip(2).filter(|level| !level.is_empty()).collect();
    assert_eq!(levels, LEVELS.iter().map(|(level, _)| *level).collect::<Vec<_>>());
    let mut documented: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for row in rows.skip(1) {
        let mut cells = row.split('|').map(str::trim).skip(1);
        let names: Vec<String> = cells.next().expect("functions").split('`').skip(1).step_by(2).map(str::to_owned).collect();
        for (level, _) in levels.iter().zip(cells).filter(|(_, cell)| *cell == "yes") {
            documented.entry(level).or_default().extend(names.clone());
        }
        documented.entry("admin").or_default().extend(names.into_iter().filter(|name| name != "admin"));
    }
    let (role, mut owner) = admin_role();
    for level in levels.into_iter().chain(["admin"]) {
        grant(&mut owner, &role, level);
        let names: BTreeSet<String> = callable(&mut owner, role.name())
            .iter()
            .filter_map(|function| function.split('(').next())
            .map(str::to_owned)
            .collect();
        assert_eq!(documented[level], names, "{level}");
        revoke(&mut owner, &role, None);
    }
}

/// What a level's list names exists.
#[test]
fn the_lists_name_functions() {
    let database = Database::new();
    let all = functions(&mut database.connect());
    let named = LEVELS.iter().flat_map(|(_, parts)| *parts).flat_map(|part| part.split_whitespace()).map(shown);
    let missing: BTreeSet<String> = named.filter(|signature| !all.contains(signature)).collect();
    assert_eq!(missing, BTreeSet::new());
}

#[test]
fn levels_add_up_and_go_one_by_one() {
    let (role, mut owner) = admin_role();
    assert!(grant(&mut owner, &role, "reader"));
    let reads = callable(&mut owner, role.name());
    assert!(!grant(&mut owner, &role, "reader"), "it is held already");
    assert!(grant(&mut owner, &role, "consumer"));
    assert!(grant(&mut owner, &role, "operator"));
    assert!(revoke(&mut owner, &role, Some("consumer")));
    assert!(!revoke(&mut owner, &role, Some("integrator")), "record_usage went with consumer, and integrator was not held");
    assert!(revoke(&mut owner, &role, Some("operator")));
    assert_eq!(callable(&mut owner, role.name()), reads);
    let held = lines(&mut owner, "SELECT level FROM entitlements.access_grants");
    assert_eq!(held, BTreeSet::from(["reader".to_owned()]));

    // What was granted by hand goes too, and so does what a role has under a name that it did not have then.
    role.grant("EXECUTE ON FUNCTION entitlements.maintain()");
    assert!(revoke(&mut owner, &role, None));
    assert_eq!(callable(&mut owner, role.name()), BTreeSet::new());
    assert!(!revoke(&mut owner, &role, None));
    assert!(grant(&mut owner, &role, "member"));
    owner.execute("UPDATE entitlements.access_grants SET role = 'another name'", &[]).unwrap();
    assert!(revoke(&mut owner, &role, Some("member")));
    assert_eq!(callable(&mut owner, role.name()), BTreeSet::new());
}

/// What the report says of a role: levels and how with the number of rows.
fn reported(client: &mut Client, role: &str) -> BTreeMap<String, i64> {
    client
        .query(
            "SELECT concat_ws('; ', coalesce(level, '-'), how), count(*) FROM entitlements.access_report() WHERE role = $1 GROUP BY 1",
            &[&role],
        )
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect()
}

#[test]
fn the_report_tells_what_came_past_the_levels() {
    let (role, mut owner) = admin_role();
    let name = role.name().to_owned();
    assert_eq!(one::<i64>(&mut owner, "SELECT count(*) FROM entitlements.access_report()", &[]), 0);
    grant(&mut owner, &role, "member");
    let functions = callable(&mut owner, &name).len() as i64;
    assert_eq!(reported(&mut owner, &name), BTreeMap::from([("member; grant_access".to_owned(), functions + 1)]));

    role.grant("SELECT, UPDATE ON entitlements.accounts");
    role.grant("SELECT (key) ON entitlements.features");
    role.grant("USAGE ON SEQUENCE entitlements.subscription_ids");
    role.grant("EXECUTE ON FUNCTION entitlements.maintain()");
    owner.batch_execute("GRANT EXECUTE ON FUNCTION entitlements.maintain() TO PUBLIC").unwrap();
    assert_eq!(reported(&mut owner, &name)["-; GRANT"], 5);
    let by_hand = lines(
        &mut owner,
        "SELECT concat_ws(' ', CASE role WHEN 'PUBLIC' THEN role END, privilege, object) FROM entitlements.access_report() WHERE how = 'GRANT'",
    );
    let expected = [
        "EXECUTE function entitlements.maintain()",
        "PUBLIC EXECUTE function entitlements.maintain()",
        "SELECT column entitlements.features.key",
        "SELECT table entitlements.accounts",
        "UPDATE table entitlements.accounts",
        "USAGE sequence entitlements.subscription_ids",
    ];
    assert_eq!(by_hand, expected.map(str::to_owned).into());

    // Members of a role, and of the one that reads everything.
    let below = format!("{name}_below");
    owner
        .batch_execute(&format!(
            "DROP ROLE IF EXISTS {below}; CREATE ROLE {below} IN ROLE {name}; GRANT pg_read_all_data TO {below}"
        ))
        .unwrap();
    let inherited = reported(&mut owner, &below);
    owner.batch_execute(&format!("DROP ROLE {below}")).unwrap();
    let expected = [
        (format!("member; member of {name}"), functions + 1),
        (format!("-; member of {name}"), 5),
        ("-; member of pg_read_all_data".to_owned(), 1),
    ];
    assert_eq!(inherited, BTreeMap::from(expected));

    owner.batch_execute(&format!("ALTER TABLE entitlements.accounts OWNER TO {name}")).unwrap();
    assert_eq!(reported(&mut owner, &name)["-; owner"], 2, "the table and its sequence");
    owner.batch_execute("ALTER TABLE entitlements.accounts OWNER TO postgres").unwrap();
}

#[test]
fn a_level_is_held_only_with_its_privileges() {
    let (role, mut owner) = admin_role();
    let name = role.name().to_owned();
    grant(&mut owner, &role, "operator");
    owner
        .batch_execute(&format!("REVOKE EXECUTE ON FUNCTION entitlements.block(text, text, text, text) FROM {name}"))
        .unwrap();
    let report = reported(&mut owner, &name);
    assert_eq!(report["operator; not held: some of its privileges were revoked"], 1);
    assert!(report["-; GRANT"] > 10, "{report:?}");
    assert_eq!(one::<i64>(&mut owner, "SELECT entitlements.renew_access()", &[]), 0);
    assert!(grant(&mut owner, &role, "operator"), "granted again");
    assert!(!reported(&mut owner, &name).contains_key("-; GRANT"));

    // The name comes to mean somebody else.
    owner.batch_execute(&format!("DROP OWNED BY {name}; ALTER ROLE {name} RENAME TO {name}_old")).unwrap();
    assert_eq!(reported(&mut owner, &name), BTreeMap::from([("operator; there is no such role".to_owned(), 1)]));
    owner.batch_execute(&format!("CREATE ROLE {name}_new; ALTER ROLE {name}_new RENAME TO {name}")).unwrap();
    grant(&mut owner, &role, "member");
    assert_eq!(one::<i64>(&mut owner, "SELECT entitlements.renew_access()", &[]), 0);
    let may_block: bool = one(
        &mut owner,
        "SELECT has_function_privilege($1::text, 'entitlements.block(text, text, text, text)', 'EXECUTE')",
        &[&name],
    );
    assert!(!may_block);
    owner.batch_execute(&format!("DROP OWNED BY {name}; DROP ROLE {name}; ALTER ROLE {name}_old RENAME TO {name}")).unwrap();
}

#[test]
fn an_upgrade_can_give_holders_what_is_new() {
    let (role, mut owner) = admin_role();
    let name = role.name().to_owned();
    grant(&mut owner, &role, "operator");
    let before = callable(&mut owner, &name);
    // As if the level had got the function since.
    owner
        .batch_execute(&format!(
            "REVOKE EXECUTE ON FUNCTION entitlements.block(text, text, text, text) FROM {name};
             UPDATE entitlements.access_grants SET functions = array_remove(functions, 'block(text,text,text,text)') || '{{no_more(text)}}'::text[]"
        ))
        .unwrap();
    assert_eq!(reported(&mut owner, &name)["operator; not in full: renew_access() grants what is new"], 1);
    assert_eq!(one::<i64>(&mut owner, "SELECT entitlements.renew_access()", &[]), 1);
    assert_eq!(callable(&mut owner, &name), before);
    assert_eq!(one::<i64>(&mut owner, "SELECT entitlements.renew_access()", &[]), 0);
    assert_eq!(reported(&mut owner, &name).len(), 1);
}

#[test]
fn an_admin_grants_without_being_the_owner() {
    let (role, mut owner) = admin_role();
    grant(&mut owner, &role, "admin");
    let other = format!("{}_other", role.name());
    owner.batch_execute(&format!("DROP ROLE IF EXISTS {other}; CREATE ROLE {other}")).unwrap();
    let mut admin = role.connect();
    assert!(one::<bool>(&mut admin, &format!("SELECT entitlements.grant_access('{other}', 'reader')"), &[]));
    let author: String = one(&mut owner, "SELECT granted_by FROM entitlements.access_grants WHERE level = 'reader'", &[]);
    assert_eq!(author, role.name());
    assert!(one::<i64>(&mut admin, "SELECT count(*) FROM entitlements.access_report()", &[]) > 100);
    assert!(one::<bool>(&mut admin, &format!("SELECT entitlements.revoke_access('{other}')"), &[]));
    owner.batch_execute(&format!("DROP ROLE {other}")).unwrap();
}

#[test]
fn changes_of_access_are_on_record_and_can_be_taken_back() {
    let (role, mut owner) = admin_role();
    let mut transaction = owner.transaction().unwrap();
    transaction.execute(&format!("SELECT entitlements.grant_access('{}', 'reader')", role.name()), &[]).unwrap();
    transaction.rollback().unwrap();
    assert_eq!(callable(&mut owner, role.name()), BTreeSet::new());
    grant(&mut owner, &role, "reader");
    grant(&mut owner, &role, "reader");
    revoke(&mut owner, &role, Some("reader"));
    revoke(&mut owner, &role, None);
    let recorded: Vec<String> = owner
        .query("SELECT concat_ws(' ', action, object, object_id, content #>> '{new,level}', content #>> '{old,level}') FROM entitlements.audit_log ORDER BY seq", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(recorded, [format!("grant access {} reader", role.name()), format!("revoke access {} reader", role.name())]);
    assert_eq!(one::<i64>(&mut owner, "SELECT count(*) FROM entitlements.verify_audit()", &[]), 0);
}

#[test]
fn what_cannot_be_granted_is_refused() {
    let (role, mut owner) = admin_role();
    let name = role.name();
    for (call, hint) in [
        (format!("grant_access('{name}', 'readers')"), "Perhaps you meant \"reader\"."),
        (
            format!("grant_access('{name}', 'x')"),
            "Levels are member, reader, consumer, operator, catalog, integrator, auditor, admin.",
        ),
        (
            format!("revoke_access('{name}', 'x')"),
            "Levels are member, reader, consumer, operator, catalog, integrator, auditor, admin.",
        ),
        (format!("grant_access('{name}', NULL)"), ""),
        ("grant_access(NULL, 'reader')".to_owned(), ""),
        ("grant_access(0, 'reader')".to_owned(), ""),
        ("grant_access(current_user::text::regrole, 'reader')".to_owned(), ""),
        ("revoke_access(current_user::text::regrole)".to_owned(), ""),
    ] {
        let error = refused_with(&mut owner, "NE007", &format!("SELECT entitlements.{call}"), &[]);
        assert_eq!(error.hint().unwrap_or_default(), hint, "{call}");
    }
    assert_eq!(one::<i64>(&mut owner, "SELECT count(*) FROM entitlements.access_grants", &[]), 0);
}
