//! A database with accounts that may have three projects each, and a table of projects.

use entitlements_client_tests::{Database, one, refused_with};
use postgres::Client;

const CATALOG: &str = r#"{
    "features": {"projects": {"kind": "allocation"}, "sites": {"kind": "allocation"}, "sso": {"kind": "flag"},
                 "calls": {"kind": "quota"}},
    "plans": {"free": {"kind": "base", "features": {"projects": 3, "sites": 2, "sso": true, "calls": 10}}}}"#;

/// With accounts `a` and `b`.
pub fn stage() -> (Database, Client) {
    let database = Database::new();
    let client = set(&database);
    (database, client)
}

pub fn set(database: &Database) -> Client {
    let mut client = database.connect();
    client.query("SELECT entitlements.apply_catalog($1::text)", &[&CATALOG]).expect("the catalog applies");
    run(&mut client, "SELECT entitlements.subscribe('a', 'free'), entitlements.subscribe('b', 'free')");
    client
}

pub fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// A statement or several are refused.
pub fn refuse(client: &mut Client, sqlstate: &str, sql: &str) -> String {
    match client.batch_execute(sql) {
        Ok(()) => panic!("{sql}: done, where {sqlstate} was due"),
        Err(error) => {
            let refusal = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}"));
            assert_eq!(refusal.code().code(), sqlstate, "{sql}: {error:?}");
            refusal.message().to_owned()
        }
    }
}

/// Limits a table with the column `account`.
pub fn limit(client: &mut Client, table: &str, condition: Option<&str>) -> i64 {
    one(client, "SELECT entitlements.limit_rows($1::text::regclass, 'account', 'projects', $2)", &[&table, &condition])
}

pub fn refuse_limit(client: &mut Client, sqlstate: &str, arguments: &str) -> String {
    refused_with(client, sqlstate, &format!("SELECT entitlements.limit_rows({arguments})"), &[]).message().to_owned()
}

/// What the accounts use of the feature, in the order of their keys.
pub fn used(client: &mut Client) -> String {
    one(
        client,
        "SELECT string_agg(key || ' ' || trim_scale((entitlements.check_access(key, 'projects')).used), ', ' ORDER BY key COLLATE \"C\")
           FROM entitlements.accounts",
        &[],
    )
}

/// The counters are what the tables have; that of an account named here is as given.
pub fn assert_used(client: &mut Client, expected: &str) {
    assert_eq!(used(client), expected);
    assert_counted(client);
}

/// The counters are what the tables have.
pub fn assert_counted(client: &mut Client) {
    let drift: Option<String> =
        one(client, "SELECT string_agg(drift::text, ' ') FROM entitlements.recount_rows(repair => false) AS drift", &[]);
    assert_eq!(drift, None);
}
