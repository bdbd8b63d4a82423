//! The audit log: what it says, that it says so to another implementation too, and that no alteration stays hidden.

use entitlements_client_tests::{Database, one, refused_with, row};
use postgres::Client;

const CATALOG: &str = r#"{
    "features": {"sso": {"kind": "flag"}, "seats": {"kind": "allocation"}},
    "plans": {"team": {"kind": "base", "features": {"sso": true, "seats": 5}}}
}"#;

/// The extension with a small catalog, and two accounts whose chains have six entries each.
fn stage(database: &Database) -> Client {
    let mut client = database.connect();
    run(&mut client, &format!("SELECT entitlements.apply_catalog('{CATALOG}'::text)"));
    for account in ["acme", "zoo"] {
        run(
            &mut client,
            &format!(
                "SELECT entitlements.subscribe('{account}', 'team', reason => 'signed');
                 SELECT entitlements.set_override('{account}', 'sso', 'set', 'false', 'asked');
                 SELECT entitlements.block('{account}', 'fraud', 'odd');
                 SELECT entitlements.unblock('{account}', 'fraud', 'fine');
                 SELECT entitlements.define_account('{account}', time_zone => 'Europe/Vienna')"
            ),
        );
        assert_eq!(
            one::<i64>(&mut client, "SELECT last_seq FROM entitlements.audit_chains WHERE chain_id = $1", &[&id(account)]),
            6
        );
    }
    client
}

/// Accounts get their ids in the order of their creation.
fn id(account: &str) -> i64 {
    if account == "acme" { 1 } else { 2 }
}

fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

type Fault = (Option<String>, i64, Option<i64>, String);

fn faults(client: &mut Client) -> Vec<Fault> {
    let rows = client.query("SELECT account_key, chain_id, seq, fault FROM entitlements.verify_audit()", &[]);
    let rows = rows.expect("the log can be verified");
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

/// Runs `sql` as a superuser who has switched the triggers off, checks what verify_audit finds, and undoes it.
fn tampered(client: &mut Client, sql: &str) -> Vec<Fault> {
    run(
        client,
        "BEGIN; ALTER TABLE entitlements.audit_log DISABLE TRIGGER ALL; ALTER TABLE entitlements.audit_log DROP CONSTRAINT audit_log_check",
    );
    run(client, sql);
    let found = faults(client);
    run(client, "ROLLBACK");
    assert_eq!(faults(client), [], "the log is whole again after {sql}");
    found
}

fn single(found: Vec<Fault>, what: &str) -> Fault {
    assert_eq!(found.len(), 1, "{what}: {found:?}");
    found.into_iter().next().expect("there is one")
}

#[test]
fn an_entry_says_who_what_when_and_why() {
    let database = Database::new();
    let mut client = stage(&database);
    let role = format!("clerk_of_{}", database.name());
    run(&mut client, &format!("CREATE ROLE {role}"));
    run(
        &mut client,
        &format!(
            "GRANT USAGE ON SCHEMA entitlements TO {role}; GRANT EXECUTE ON FUNCTION entitlements.block TO {role};
             SET ROLE {role}; SELECT entitlements.block('acme', 'legal', 'court order'); RESET ROLE"
        ),
    );
    let entry = row(
        &mut client,
        "SELECT session_user_name, role_name, action, object, object_id, content->>'reason', content->'new'->>'source',
                content->>'old' IS NULL, at <= now(), transaction_id > 0, client_address IS NOT NULL
           FROM entitlements.audit_log ORDER BY id DESC LIMIT 1",
        &[],
    );
    let session_user: String = one(&mut client, "SELECT session_user::text", &[]);
    let through_tcp: bool = one(&mut client, "SELECT inet_client_addr() IS NOT NULL", &[]);
    let texts: Vec<String> = (0..7).map(|column| entry.get(column)).collect();
    let block: String = one(&mut client, "SELECT max(id)::text FROM entitlements.blocks", &[]);
    assert_eq!(texts, [&*session_user, &role, "block", "block", &block, "court order", "legal"]);
    assert!((7..10).all(|column| entry.get(column)));
    assert_eq!(entry.get::<_, bool>(10), through_tcp);
    run(&mut client, &format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// The documented encoding, written in SQL: whoever has the rows can verify them without the extension.
#[test]
fn hashes_follow_from_the_documented_encoding() {
    let database = Database::new();
    let mut client = stage(&database);
    run(
        &mut client,
        "SET DateStyle = 'German'; SET TimeZone = 'Asia/Kathmandu'; SET bytea_output = 'escape'; SET extra_float_digits = -15",
    );
    let wrong: i64 = one(
        &mut client,
        r"WITH fields AS (
              SELECT *, lag(hash, 1, decode(repeat('00', 32), 'hex')) OVER (PARTITION BY chain_id ORDER BY seq) AS before FROM entitlements.audit_log)
          SELECT count(*) FROM fields
           WHERE content_hash <> sha256(salt || convert_to(content::text, 'UTF8'))
              OR hash <> sha256(before || int8send(id) || int8send(chain_id) || int8send(seq) || timestamptz_send(at) || int8send(transaction_id)
                   || int4send(octet_length(session_user_name)) || convert_to(session_user_name, 'UTF8')
                   || int4send(octet_length(role_name)) || convert_to(role_name, 'UTF8')
                   || CASE WHEN client_address IS NULL THEN int4send(-1)
                           ELSE int4send(octet_length(client_address::text)) || convert_to(client_address::text, 'UTF8') END
                   || int4send(octet_length(action)) || convert_to(action, 'UTF8')
                   || int4send(octet_length(object)) || convert_to(object, 'UTF8')
                   || int4send(octet_length(object_id)) || convert_to(object_id, 'UTF8')
                   || content_hash)",
        &[],
    );
    assert_eq!(wrong, 0);
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.audit_log WHERE chain_id IN (1, 2)", &[]), 12);
    assert_eq!(faults(&mut client), []);
}

#[test]
fn rows_never_change() {
    let database = Database::new();
    let mut client = stage(&database);
    for table in ["audit_log", "plan_versions", "plan_features"] {
        let column = if table == "plan_features" { "plan_version_id" } else { "id" };
        for role in ["origin", "replica"] {
            run(&mut client, &format!("SET session_replication_role = {role}"));
            refused_with(&mut client, "NE009", &format!("UPDATE entitlements.{table} SET {column} = {column}"), &[]);
            refused_with(&mut client, "NE009", &format!("DELETE FROM entitlements.{table}"), &[]);
            refused_with(&mut client, "NE009", &format!("TRUNCATE entitlements.{table} CASCADE"), &[]);
        }
    }
    assert_eq!(faults(&mut client), []);
}

#[test]
fn an_altered_column_is_found_in_its_entry() {
    let database = Database::new();
    let mut client = stage(&database);
    for change in [
        "id = id + 1000",
        "at = at + interval '1 microsecond'",
        "at = 'infinity'",
        "transaction_id = transaction_id + 1",
        "session_user_name = 'somebody'",
        "role_name = role_name || ' '",
        "client_address = coalesce(client_address + 1, '10.0.0.7')",
        "client_address = set_masklen(coalesce(client_address, '10.0.0.7'), 24)",
        "action = 'block'",
        "object = 'account'",
        "object_id = '77'",
        "content = '{\"old\":null,\"new\":null,\"reason\":\"other\"}'",
        "content = (content::text || ' ')::json",
        "salt = sha256(salt)",
        "content = NULL, salt = NULL",
        "content = NULL",
        "content_hash = sha256(content_hash)",
        "hash = sha256(hash)",
        "content = '{}', content_hash = sha256(salt || '{}'::bytea)",
    ] {
        let found =
            tampered(&mut client, &format!("UPDATE entitlements.audit_log SET {change} WHERE chain_id = 1 AND seq = 3"));
        let (account, chain_id, seq, fault) = single(found, change);
        assert_eq!((account.as_deref(), chain_id, seq), (Some("acme"), 1, Some(3)), "{change}: {fault}");
    }
}

#[test]
fn entries_in_each_others_place_are_found() {
    let database = Database::new();
    let mut client = stage(&database);
    let found = tampered(
        &mut client,
        "UPDATE entitlements.audit_log SET seq = 100 WHERE chain_id = 2 AND seq = 4;
         UPDATE entitlements.audit_log SET seq = 4 WHERE chain_id = 2 AND seq = 5;
         UPDATE entitlements.audit_log SET seq = 5 WHERE chain_id = 2 AND seq = 100",
    );
    let (account, _, seq, _) = single(found, "two entries exchanged");
    assert_eq!((account.as_deref(), seq), (Some("zoo"), Some(4)));
    let found =
        tampered(&mut client, "UPDATE entitlements.audit_log SET chain_id = 1, seq = 7 WHERE chain_id = 2 AND seq = 6");
    let places: Vec<_> = found.iter().map(|(account, _, seq, _)| (account.as_deref(), *seq)).collect();
    assert_eq!(places, [(Some("acme"), Some(7)), (Some("zoo"), Some(6))], "an entry moved to another chain: {found:?}");
}

#[test]
fn removed_entries_are_found() {
    let database = Database::new();
    let mut client = stage(&database);
    for (which, seq, fault) in [
        ("seq = 1", 1, "entry 1 was removed"),
        ("seq IN (3, 4)", 3, "entries 3 to 4 were removed"),
        ("seq = 6", 6, "entry 6 was removed"),
        ("seq > 4", 5, "entries 5 to 6 were removed"),
        ("true", 1, "entries 1 to 6 were removed"),
    ] {
        let found = tampered(&mut client, &format!("DELETE FROM entitlements.audit_log WHERE chain_id = 1 AND {which}"));
        assert_eq!(single(found, which), (Some("acme".to_owned()), 1, Some(seq), fault.to_owned()));
    }
    let found = tampered(&mut client, "DELETE FROM entitlements.audit_log WHERE chain_id = 0");
    let (account, chain_id, seq, _) = single(found, "the catalog's chain");
    assert_eq!((account, chain_id, seq), (None, 0, Some(1)));
}

#[test]
fn inserted_entries_are_found() {
    let database = Database::new();
    let mut client = stage(&database);
    let copy = "INSERT INTO entitlements.audit_log (chain_id, seq, at, transaction_id, session_user_name, role_name, action, object, object_id,
                                                    content, salt, content_hash, hash)
                SELECT chain_id, 7, at, transaction_id, session_user_name, role_name, action, object, object_id, content, salt, content_hash, hash
                  FROM entitlements.audit_log WHERE chain_id = 1 AND seq = 6";
    let (_, _, seq, fault) = single(tampered(&mut client, copy), "an entry after the last");
    assert_eq!((seq, fault.as_str()), (Some(7), "the entry was inserted: the chain ended before it"));
    let with_head = format!("{copy}; UPDATE entitlements.audit_chains SET last_seq = 7 WHERE chain_id = 1");
    let (_, _, seq, fault) = single(tampered(&mut client, &with_head), "with its head");
    assert_eq!(seq, Some(7), "{fault}");
    let elsewhere = copy.replace("SELECT chain_id, 7", "SELECT 99, 1");
    let (account, chain_id, _, _) = single(tampered(&mut client, &elsewhere), "a chain of nobody");
    assert_eq!((account, chain_id), (None, 99));
}

#[test]
fn altered_heads_and_removed_chains_are_found() {
    let database = Database::new();
    let mut client = stage(&database);
    for (sql, seq) in [
        ("UPDATE entitlements.audit_chains SET last_hash = sha256(last_hash) WHERE chain_id = 2", Some(6)),
        ("UPDATE entitlements.audit_chains SET last_seq = 5 WHERE chain_id = 2", Some(6)),
        ("UPDATE entitlements.audit_chains SET last_seq = 8 WHERE chain_id = 2", Some(7)),
        ("DELETE FROM entitlements.audit_chains WHERE chain_id = 2", None),
        ("DELETE FROM entitlements.audit_log WHERE chain_id = 2; DELETE FROM entitlements.audit_chains WHERE chain_id = 2", None),
        (
            "DELETE FROM entitlements.audit_log WHERE chain_id = 2;
             UPDATE entitlements.audit_chains SET last_seq = 0, last_hash = decode(repeat('00', 32), 'hex') WHERE chain_id = 2",
            Some(1),
        ),
    ] {
        let found = single(tampered(&mut client, sql), sql);
        assert_eq!((found.0.as_deref(), found.1, found.2), (Some("zoo"), 2, seq), "{sql}: {}", found.3);
    }
}

#[test]
fn one_account_can_be_verified_by_itself() {
    let database = Database::new();
    let mut client = stage(&database);
    run(
        &mut client,
        "ALTER TABLE entitlements.audit_log DISABLE TRIGGER ALL; UPDATE entitlements.audit_log SET action = 'x' WHERE chain_id = 2 AND seq = 2",
    );
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.verify_audit('acme')", &[]), 0);
    assert_eq!(one::<i64>(&mut client, "SELECT seq FROM entitlements.verify_audit('zoo')", &[]), 2);
    refused_with(&mut client, "NE006", "SELECT * FROM entitlements.verify_audit('nobody')", &[]);
}

#[test]
fn erased_contents_verify_and_others_removed_do_not() {
    let database = Database::new();
    let mut client = stage(&database);
    run(&mut client, "SELECT entitlements.erase_account('acme', 'asked to be forgotten')");
    assert_eq!(faults(&mut client), []);
    let kept: i64 =
        one(&mut client, "SELECT count(*) FROM entitlements.audit_log WHERE chain_id = 1 AND content IS NOT NULL", &[]);
    assert_eq!(kept, 1, "only the erasure itself has content");
    let found = tampered(
        &mut client,
        "UPDATE entitlements.audit_log SET content = NULL, salt = NULL WHERE chain_id = 1 AND action = 'erase'",
    );
    let (account, chain_id, seq, _) = single(found, "the erasure's own content");
    let last: i64 = one(&mut client, "SELECT last_seq FROM entitlements.audit_chains WHERE chain_id = 1", &[]);
    assert_eq!((account.as_deref(), chain_id, seq), (Some("erased:1"), 1, Some(last)));
    let found = tampered(&mut client, "UPDATE entitlements.audit_log SET role_name = 'x' WHERE chain_id = 1 AND seq = 2");
    assert_eq!(single(found, "an entry without content").2, Some(2));
    refused_with(
        &mut client,
        "NE009",
        "UPDATE entitlements.audit_log SET content = NULL, salt = NULL WHERE chain_id = 2",
        &[],
    );
}

/// The permission to remove contents ends with the erasure, also with one that fails half-way.
#[test]
fn a_failed_erasure_leaves_the_log_closed() {
    let database = Database::new();
    let mut client = stage(&database);
    let mut other = database.connect();
    run(&mut other, "BEGIN; SELECT FROM entitlements.audit_log WHERE chain_id = 1 AND seq = 2 FOR UPDATE");
    run(&mut client, "SET lock_timeout = '100ms'");
    refused_with(&mut client, "55P03", "SELECT entitlements.erase_account('acme', 'asked')", &[]);
    run(&mut other, "ROLLBACK");
    refused_with(
        &mut client,
        "NE009",
        "UPDATE entitlements.audit_log SET content = NULL, salt = NULL WHERE chain_id = 1",
        &[],
    );
    run(&mut client, "SELECT entitlements.erase_account('acme', 'asked')");
    refused_with(
        &mut client,
        "NE009",
        "UPDATE entitlements.audit_log SET content = NULL, salt = NULL WHERE chain_id = 2",
        &[],
    );
    assert_eq!(faults(&mut client), []);
}

#[test]
fn verifying_writes_nothing() {
    let database = Database::new();
    let mut client = stage(&database);
    run(&mut client, "BEGIN READ ONLY");
    assert_eq!(faults(&mut client), []);
    let has_id: bool = one(&mut client, "SELECT pg_current_xact_id_if_assigned() IS NOT NULL", &[]);
    assert!(!has_id);
    assert!(one::<String>(&mut client, "SELECT entitlements.export_account('acme')::text", &[]).contains("Europe/Vienna"));
    let has_id: bool = one(&mut client, "SELECT pg_current_xact_id_if_assigned() IS NOT NULL", &[]);
    assert!(!has_id);
    run(&mut client, "COMMIT");
}

/// While other connections write, a verification sees heads and entries of one moment.
#[test]
fn verifying_among_writers_finds_no_fault() {
    let database = Database::new();
    let mut client = stage(&database);
    std::thread::scope(|scope| {
        let writers: Vec<_> = ["acme", "zoo"]
            .into_iter()
            .map(|account| {
                let mut writer = database.connect();
                scope.spawn(move || {
                    for round in 0..60 {
                        run(&mut writer, &format!("SELECT entitlements.block('{account}', 'fraud', 'round {round}')"));
                    }
                })
            })
            .collect();
        while !writers.iter().all(|writer| writer.is_finished()) {
            assert_eq!(faults(&mut client), []);
            run(&mut client, "BEGIN; SELECT pg_current_xact_id()");
            assert_eq!(faults(&mut client), []);
            run(&mut client, "COMMIT");
        }
    });
    assert_eq!(faults(&mut client), []);
    let entries: i64 = one(&mut client, "SELECT count(*) FROM entitlements.audit_log WHERE chain_id IN (1, 2)", &[]);
    assert_eq!(entries, 12 + 120);
}

#[test]
fn what_is_rolled_back_leaves_no_entry() {
    let database = Database::new();
    let mut client = stage(&database);
    run(
        &mut client,
        "BEGIN; SELECT entitlements.block('acme', 'legal', 'a'); SAVEPOINT s; SELECT entitlements.block('acme', 'fraud', 'b');
         ROLLBACK TO s; SELECT entitlements.block('acme', 'billing', 'c'); COMMIT;
         BEGIN; SELECT entitlements.block('zoo', 'legal', 'a'); ROLLBACK",
    );
    assert_eq!(faults(&mut client), []);
    let count = |client: &mut Client, account: &str| {
        one::<i64>(client, "SELECT count(*) FROM entitlements.audit_log WHERE chain_id = $1", &[&id(account)])
    };
    assert_eq!((count(&mut client, "acme"), count(&mut client, "zoo")), (8, 6));
}
