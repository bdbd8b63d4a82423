//! protect_table, unprotect_table and protect_columns: what a member can and cannot reach, what the planner makes of it, and
//! that what was there before comes back.

use entitlements_client_tests::{Database, Role, one, refused_with};
use postgres::error::DbError;
use postgres::{Client, Transaction};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const UUID_A: &str = "00000000-0000-0000-0000-00000000000a";
const UUID_B: &str = "00000000-0000-0000-0000-00000000000b";

/// Rich accounts have every feature, poor ones none.
const LIFE: &str = r#"
    SELECT entitlements.apply_catalog('{
        "features": {"sso": {"kind": "flag"}, "export": {"kind": "flag"}, "pages": {"kind": "flag"}, "odd.Key:x-1": {"kind": "flag"}},
        "plans": {"team": {"kind": "base", "features": {"sso": true, "export": true, "pages": true, "odd.Key:x-1": true}}}}');
    SELECT entitlements.subscribe(rich, 'team') FROM unnest(ARRAY['acme', '42', '00000000-0000-0000-0000-00000000000a']) AS rich;
    SELECT entitlements.define_account(poor) FROM unnest(ARRAY['poor', '43', '00000000-0000-0000-0000-00000000000b']) AS poor;
    CREATE DOMAIN account_key AS text CHECK (value <> '');
    CREATE DOMAIN account_number AS integer;
"#;

struct Stage {
    role: Role,
    owner: Client,
}

impl Stage {
    /// A database with accounts, and a role that has the level member.
    fn new() -> Self {
        let role = Role::new(Database::new());
        let mut owner = role.database().connect();
        owner.batch_execute(LIFE).unwrap();
        let stage = format!("SELECT entitlements.grant_access('{}', 'member')", role.name());
        owner.batch_execute(&stage).unwrap();
        Self { role, owner }
    }

    fn run(&mut self, sql: &str) {
        self.owner.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// A table of the statement's, with rows of which the role may do everything.
    fn table(&mut self, sql: &str) {
        self.run(sql);
        self.run(&format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {}", self.role.name()));
    }

    /// Documents of acme and poor, three and two.
    fn documents(&mut self) {
        self.table(
            "CREATE TABLE documents (id integer PRIMARY KEY, account text NOT NULL, title text);
             INSERT INTO documents SELECT n, CASE WHEN n <= 3 THEN 'acme' ELSE 'poor' END, 'title ' || n FROM generate_series(1, 5) n;",
        );
    }

    fn lines(&mut self, sql: &str) -> Vec<String> {
        self.owner.query(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}")).iter().map(|row| row.get(0)).collect()
    }

    /// The statements that protect_table, unprotect_table or protect_columns gives.
    fn statements(&mut self, call: &str) -> Vec<String> {
        self.lines(&format!("SELECT * FROM entitlements.{call}"))
    }

    /// Runs the statement as the role with the account, and gives how many rows it met, or the error. It is taken back.
    fn count(&mut self, account: Option<&str>, sql: &str) -> Result<u64, Box<DbError>> {
        let mut transaction = self.owner.transaction().unwrap();
        transaction.execute("SELECT entitlements.set_account($1::text)", &[&account]).unwrap();
        transaction.batch_execute(&format!("SET LOCAL ROLE {}", self.role.name())).unwrap();
        let outcome = transaction
            .execute(sql, &[])
            .map_err(|error| Box::new(error.as_db_error().expect("the server says no").clone()));
        transaction.rollback().unwrap();
        outcome
    }

    fn code(&mut self, account: Option<&str>, sql: &str) -> String {
        match self.count(account, sql) {
            Ok(rows) => format!("{rows} rows"),
            Err(error) => error.code().code().to_owned(),
        }
    }

    fn plan(&mut self, account: &str, sql: &str) -> String {
        let mut transaction = self.owner.transaction().unwrap();
        transaction.execute("SELECT entitlements.set_account($1::text)", &[&account]).unwrap();
        transaction.batch_execute(&format!("SET LOCAL ROLE {}", self.role.name())).unwrap();
        let plan: Vec<String> = transaction.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
        transaction.rollback().unwrap();
        plan.join("\n")
    }

    fn policies(&mut self) -> Vec<String> {
        self.lines(
            "SELECT concat_ws(' | ', polrelid::regclass, polname, polcmd, polpermissive, polroles, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid),
                              obj_description(oid, 'pg_policy')) FROM pg_policy ORDER BY 1",
        )
    }

    fn row_security(&mut self, table: &str) -> (bool, bool) {
        let row = self
            .owner
            .query_one("SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = $1::text::regclass", &[&table])
            .unwrap();
        (row.get(0), row.get(1))
    }
}

#[test]
fn rows_are_those_of_the_current_account_whatever_the_columns_type() {
    let mut stage = Stage::new();
    for (of_type, rich, poor) in [
        ("text", "acme", "poor"),
        ("text COLLATE \"C\"", "acme", "poor"),
        ("varchar(40)", "acme", "poor"),
        ("varchar", "acme", "poor"),
        ("account_key", "acme", "poor"),
        ("uuid", UUID_A, UUID_B),
        ("bigint", "42", "43"),
        ("integer", "42", "43"),
        ("account_number", "42", "43"),
    ] {
        stage.table(&format!(
            "DROP TABLE IF EXISTS \"My rows\";
             CREATE TABLE \"My rows\" (id integer, \"Whose it is\" {of_type});
             CREATE INDEX ON \"My rows\" (\"Whose it is\");
             INSERT INTO \"My rows\" VALUES (1, '{rich}'), (2, '{rich}'), (3, '{poor}'), (4, NULL);"
        ));
        let call = "protect_table('\"My rows\"', 'Whose it is')";
        assert_eq!(stage.statements(call).len(), 3, "{of_type}");
        assert_eq!(stage.statements(call), Vec::<String>::new(), "{of_type}");
        let read = "SELECT FROM \"My rows\"";
        assert_eq!(stage.code(Some(rich), read), "2 rows", "{of_type}");
        assert_eq!(stage.code(Some(poor), read), "1 rows", "{of_type}");
        assert_eq!(stage.code(None, read), "0 rows", "{of_type}");
        let other_kind = if rich == "acme" { "42" } else { "acme" };
        assert_eq!(stage.code(Some(other_kind), read), "0 rows", "{of_type}");
        let insert = |account: &str| format!("INSERT INTO \"My rows\" VALUES (5, {account})");
        assert_eq!(stage.code(Some(rich), &insert(&format!("'{rich}'"))), "1 rows", "{of_type}");
        assert_eq!(stage.code(Some(rich), &insert(&format!("'{poor}'"))), "42501", "{of_type}");
        assert_eq!(stage.code(Some(rich), &insert("NULL")), "42501", "{of_type}");
        assert_eq!(stage.code(None, &insert(&format!("'{poor}'"))), "42501", "{of_type}");
        assert_eq!(stage.code(Some(rich), "UPDATE \"My rows\" SET id = 0"), "2 rows", "{of_type}");
        assert_eq!(
            stage.code(Some(rich), &format!("UPDATE \"My rows\" SET \"Whose it is\" = '{poor}'")),
            "42501",
            "{of_type}"
        );
        assert_eq!(stage.code(Some(poor), "DELETE FROM \"My rows\""), "1 rows", "{of_type}");
        stage.run("SET enable_seqscan = off");
        let by_index = stage.plan(rich, "EXPLAIN (COSTS OFF) SELECT FROM \"My rows\"");
        stage.run("RESET enable_seqscan");
        assert!(by_index.contains("Index Cond: (") && by_index.contains("\"Whose it is\""), "{of_type}: {by_index}");
        assert_eq!(stage.statements("unprotect_table('\"My rows\"')").len(), 2, "{of_type}");
        assert_eq!(stage.policies(), Vec::<String>::new(), "{of_type}");

        // Gated by the account of the row: by a list with the index, without it by a question for each row.
        for way in ["ARRAY", "entitlements.entitled("] {
            stage.statements("protect_table('\"My rows\"', 'Whose it is', 'sso', 'SELECT', 'every')");
            assert!(stage.policies().concat().contains(way), "{of_type}: {:?}", stage.policies());
            assert_eq!(
                stage.statements("protect_table('\"My rows\"', 'Whose it is', 'sso', 'SELECT', 'every')").len(),
                0,
                "{of_type}"
            );
            stage.run(&format!("SELECT entitlements.grant_access('{}', 'reader')", stage.role.name()));
            assert_eq!(stage.code(None, read), "2 rows", "{of_type}");
            assert_eq!(stage.code(Some(poor), &insert(&format!("'{poor}'"))), "42501", "{of_type}");
            stage.run("DROP INDEX \"My rows_Whose it is_idx\"; CREATE INDEX \"My rows_Whose it is_idx\" ON \"My rows\" (id, \"Whose it is\")");
        }
        assert_eq!(stage.statements("unprotect_table('\"My rows\"')").len(), 3, "{of_type}");
        stage.run(&format!("SELECT entitlements.revoke_access('{}', 'reader')", stage.role.name()));
    }
}

#[test]
fn a_gate_is_for_its_command() {
    let mut stage = Stage::new();
    stage.documents();
    // What an account without the feature meets: read, insert, update, delete.
    for (command, expected) in [
        ("ALL", ["0 rows", "42501", "0 rows", "0 rows"]),
        ("SELECT", ["0 rows", "1 rows", "0 rows", "0 rows"]),
        ("INSERT", ["2 rows", "42501", "2 rows", "2 rows"]),
        ("update", ["2 rows", "1 rows", "0 rows", "2 rows"]),
        ("Delete", ["2 rows", "1 rows", "2 rows", "0 rows"]),
    ] {
        stage.statements(&format!("protect_table('documents', 'account', 'sso', '{command}')"));
        for (account, expected) in [("poor", expected), ("acme", ["3 rows", "1 rows", "3 rows", "3 rows"])] {
            let met = [
                stage.code(Some(account), "SELECT FROM documents"),
                stage.code(Some(account), &format!("INSERT INTO documents VALUES (9, '{account}')")),
                stage.code(Some(account), "UPDATE documents SET title = id::text"),
                stage.code(Some(account), "DELETE FROM documents WHERE id > 0"),
            ];
            assert_eq!(met, expected, "{command} by {account}");
        }
        if command == "INSERT" {
            let error = stage.count(Some("poor"), "INSERT INTO documents VALUES (9, 'poor')").unwrap_err();
            assert!(error.message().contains("entitlements_gate_insert_sso"), "{}", error.message());
        }
        stage.statements("unprotect_table('documents')");
    }
}

#[test]
fn gates_of_several_calls_all_apply() {
    let mut stage = Stage::new();
    stage.documents();
    stage.statements("protect_table('documents', 'account', 'sso')");
    stage.statements("protect_table('documents', 'account', 'export', 'SELECT')");
    stage.statements("protect_table('documents', 'account', 'odd.Key:x-1', 'SELECT')");
    assert_eq!(stage.policies().len(), 4);
    assert_eq!(stage.code(Some("acme"), "SELECT FROM documents"), "3 rows");
    for feature in ["sso", "export", "odd.Key:x-1"] {
        stage.run(&format!("SELECT entitlements.set_override('acme', '{feature}', 'deny', NULL, 'no')"));
        assert_eq!(stage.code(Some("acme"), "SELECT FROM documents"), "0 rows", "{feature}");
        stage.run("SELECT entitlements.clear_override(id, 'yes') FROM entitlements.overrides WHERE ended_at IS NULL");
    }
    // One by one they go, and the account's rows stay its own.
    for feature in ["sso", "export", "odd.Key:x-1"] {
        assert_eq!(stage.statements(&format!("unprotect_table('documents', '{feature}')")).len(), 1, "{feature}");
        assert_eq!(stage.statements(&format!("unprotect_table('documents', '{feature}')")).len(), 0, "{feature}");
    }
    assert_eq!(stage.policies().len(), 1);
    assert_eq!(stage.code(Some("poor"), "SELECT FROM documents"), "2 rows");
    assert_eq!(stage.row_security("documents"), (true, false));
}

#[test]
fn long_features_that_begin_alike_have_policies_of_their_own() {
    let mut stage = Stage::new();
    stage.documents();
    for end in ["a", "b"] {
        let feature = format!("{}{end}", "x".repeat(99));
        stage.run(&format!("SELECT entitlements.define_feature('{feature}', 'flag')"));
        assert!(stage.statements(&format!("protect_table('documents', 'account', '{feature}', 'INSERT')")).len() >= 2);
        assert_eq!(stage.statements(&format!("protect_table('documents', 'account', '{feature}', 'INSERT')")).len(), 0);
    }
    assert_eq!(stage.policies().len(), 3);
    assert_eq!(stage.statements(&format!("unprotect_table('documents', '{}a')", "x".repeat(99))).len(), 1);
    assert_eq!(stage.policies().len(), 2);
}

#[test]
fn rows_of_every_account_are_gated_by_their_own() {
    let mut stage = Stage::new();
    stage.documents();
    stage.run(&format!("SELECT entitlements.grant_access('{}', 'reader')", stage.role.name()));
    stage.statements("protect_table('documents', 'account', 'pages', 'SELECT', 'every')");
    stage.statements("protect_table('documents', 'account', 'sso', 'SELECT', 'every')");
    assert_eq!(stage.code(Some("poor"), "SELECT FROM documents"), "3 rows", "those of acme");
    assert_eq!(stage.code(None, "SELECT FROM documents"), "3 rows");
    assert_eq!(stage.code(Some("acme"), "INSERT INTO documents VALUES (9, 'acme')"), "42501", "no policy lets anybody");
    // Beside it an account's own rows.
    stage.statements("protect_table('documents', 'account')");
    assert_eq!(stage.code(Some("acme"), "INSERT INTO documents VALUES (9, 'acme')"), "1 rows");
    assert_eq!(stage.code(Some("acme"), "INSERT INTO documents VALUES (9, 'poor')"), "42501");
    // The last gate that goes takes with it that everybody's rows are reached.
    assert_eq!(stage.statements("unprotect_table('documents', 'pages')").len(), 1);
    assert_eq!(stage.code(Some("poor"), "SELECT FROM documents"), "3 rows");
    assert_eq!(stage.statements("unprotect_table('documents', 'sso')").len(), 2);
    assert_eq!(stage.code(Some("poor"), "SELECT FROM documents"), "2 rows");
    stage.statements("unprotect_table('documents')");
    assert_eq!(stage.row_security("documents"), (false, false));

    // What would open the table to everybody, unsaid, is refused.
    stage.statements("protect_table('documents', 'account', 'sso')");
    for command in ["ALL", "INSERT", "UPDATE", "DELETE"] {
        let call = format!("SELECT entitlements.protect_table('documents', 'account', 'pages', '{command}', 'every')");
        let error = refused_with(&mut stage.owner, "NE009", &call, &[]);
        assert!(error.hint().is_some());
    }
    stage.run("ALTER TABLE documents ADD author text");
    let error =
        refused_with(&mut stage.owner, "NE009", "SELECT entitlements.protect_table('documents', 'author', 'sso')", &[]);
    assert!(error.hint().unwrap().contains("unprotect_table('public.documents')"));
    stage.statements("unprotect_table('documents')");
    stage.statements("protect_table('documents', 'account', 'pages', 'ALL', 'every')");
    refused_with(&mut stage.owner, "NE009", "SELECT entitlements.protect_table('documents', 'account', 'sso')", &[]);
    assert_eq!(stage.code(None, "UPDATE documents SET title = ''"), "3 rows");
    assert_eq!(stage.code(None, "INSERT INTO documents VALUES (9, 'acme')"), "1 rows");
    assert_eq!(stage.code(None, "INSERT INTO documents VALUES (9, 'poor')"), "42501");
}

#[test]
fn many_accounts_are_asked_one_by_one() {
    let mut stage = Stage::new();
    stage.documents();
    stage.run("CREATE INDEX ON documents (account); INSERT INTO entitlements.accounts (key, created_at) SELECT 'a' || n, now() FROM generate_series(1, 994) n");
    let call = "protect_table('documents', 'account', 'sso', 'SELECT', 'every')";
    assert!(stage.statements(call).concat().contains("ARRAY(SELECT entitlements.entitled_accounts('sso'))"));
    stage.run("INSERT INTO entitlements.accounts (key, created_at) VALUES ('one more', now())");
    let again = stage.statements(call).concat();
    assert!(again.contains("entitlements.entitled(account, 'sso')"), "{again}");
    stage.run(&format!("SELECT entitlements.grant_access('{}', 'reader')", stage.role.name()));
    assert_eq!(stage.code(None, "SELECT FROM documents"), "3 rows");
}

#[test]
fn a_dry_run_shows_exactly_what_is_run() {
    let mut stage = Stage::new();
    stage.documents();
    for (dry, real) in [
        (
            "protect_table('documents', 'account', 'sso', 'UPDATE', force => true, dry_run => true)",
            "protect_table('documents', 'account', 'sso', 'UPDATE', force => true)",
        ),
        ("unprotect_table('documents', dry_run => true)", "unprotect_table('documents')"),
        (
            "protect_columns('documents', 'account', '{\"title\": \"sso\"}', dry_run => true)",
            "protect_columns('documents', 'account', '{\"title\": \"sso\"}')",
        ),
    ] {
        let before = (
            stage.policies(),
            stage.row_security("documents"),
            stage.lines("SELECT count(*)::text FROM entitlements.audit_log"),
        );
        let mut read_only = stage.owner.build_transaction().read_only(true).start().unwrap();
        let shown: Vec<String> = read_only
            .query(&format!("SELECT * FROM entitlements.{dry}"), &[])
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        let xid: Option<String> = read_only.query_one("SELECT pg_current_xact_id_if_assigned()::text", &[]).unwrap().get(0);
        assert_eq!(xid, None, "{dry}");
        read_only.rollback().unwrap();
        assert_eq!(
            before,
            (
                stage.policies(),
                stage.row_security("documents"),
                stage.lines("SELECT count(*)::text FROM entitlements.audit_log")
            ),
            "{dry}"
        );
        assert!(!shown.is_empty(), "{dry}");

        // Run by hand, in a session with names of its own, they leave nothing to do.
        let mut by_hand = stage.owner.transaction().unwrap();
        by_hand
            .batch_execute("CREATE SCHEMA own; CREATE TABLE own.documents (account text); SET LOCAL search_path = own")
            .unwrap();
        by_hand.batch_execute(&shown.join(";\n")).unwrap();
        let left = by_hand
            .query(&format!("SELECT * FROM entitlements.{}", real.replace("'documents'", "'public.documents'")), &[])
            .unwrap()
            .len();
        assert_eq!(left, 0, "{real}");
        by_hand.rollback().unwrap();
        assert_eq!(stage.statements(real), shown, "{real}");
        let recorded: String = one(
            &mut stage.owner,
            "SELECT (content #> '{new,statements}')::text FROM entitlements.audit_log ORDER BY id DESC LIMIT 1",
            &[],
        );
        assert_eq!(serde_json::from_str::<Vec<String>>(&recorded).unwrap(), shown);
    }
    assert_eq!(one::<i64>(&mut stage.owner, "SELECT count(*) FROM entitlements.verify_audit()", &[]), 0);
}

#[test]
fn what_was_renamed_or_altered_is_found_and_mended() {
    let mut stage = Stage::new();
    stage.documents();
    stage.statements("protect_table('documents', 'account', 'sso')");
    stage.run("CREATE SCHEMA other; ALTER TABLE documents RENAME account TO owner; ALTER TABLE documents RENAME TO papers; ALTER TABLE papers SET SCHEMA other");
    assert_eq!(stage.statements("protect_table('other.papers', 'owner', 'sso')").len(), 0);
    let policies = stage.policies();
    for change in [
        "ALTER POLICY entitlements_account ON other.papers USING (true)",
        "ALTER POLICY entitlements_gate_all_sso ON other.papers USING (true)",
        "ALTER POLICY entitlements_gate_all_sso ON other.papers WITH CHECK (true)",
        "ALTER POLICY entitlements_gate_all_sso ON other.papers TO postgres",
        "DROP POLICY entitlements_account ON other.papers; CREATE POLICY entitlements_account ON other.papers USING (owner = entitlements.current_account())",
        "DROP POLICY entitlements_gate_all_sso ON other.papers",
        "COMMENT ON POLICY entitlements_gate_all_sso ON other.papers IS NULL",
        "ALTER TABLE other.papers DISABLE ROW LEVEL SECURITY",
    ] {
        stage.run(change);
        assert!(!stage.statements("protect_table('other.papers', 'owner', 'sso')").is_empty(), "{change}");
        assert_eq!(stage.policies(), policies, "{change}");
        assert_eq!(stage.row_security("other.papers"), (true, false), "{change}");
    }
    stage.statements("unprotect_table('other.papers')");
    assert_eq!((stage.policies().len(), stage.row_security("other.papers")), (0, (false, false)));
}

/// Warnings that a connection got.
fn listening(database: &Database) -> (Client, Arc<Mutex<Vec<String>>>) {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let heard = warnings.clone();
    let mut config = database.config();
    config.notice_callback(move |notice| heard.lock().unwrap().push(notice.message().to_owned()));
    (config.connect(postgres::NoTls).unwrap(), warnings)
}

#[test]
fn unprotect_puts_back_what_was() {
    let mut stage = Stage::new();
    stage.documents();
    for (before, after) in [
        ("DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY", (false, false)),
        ("ENABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY", (true, false)),
        ("DISABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", (false, true)),
        ("ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", (true, true)),
    ] {
        stage.run(&format!("ALTER TABLE documents {before}"));
        assert_eq!(stage.row_security("documents"), after);
        stage.statements("protect_table('documents', 'account')");
        assert_eq!(stage.row_security("documents"), (true, after.1), "{before}");
        stage.statements("protect_table('documents', 'account', 'sso', 'INSERT', force => true)");
        assert_eq!(stage.row_security("documents"), (true, true), "{before}");
        stage.statements("protect_table('documents', 'account', 'export')");
        assert_eq!(stage.row_security("documents"), (true, true), "what was forced stays so");
        stage.statements("unprotect_table('documents')");
        assert_eq!((stage.policies().len(), stage.row_security("documents")), (0, after), "{before}");
        assert_eq!(stage.statements("unprotect_table('documents')").len(), 0);
    }
    // Policies of the user's own are never left without effect.
    stage.run("ALTER TABLE documents DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY");
    stage.statements("protect_table('documents', 'account', 'sso')");
    stage.run("CREATE POLICY mine ON documents USING (true)");
    let (mut client, warnings) = listening(stage.role.database());
    client.batch_execute("SELECT entitlements.unprotect_table('documents')").unwrap();
    assert_eq!((stage.policies().len(), stage.row_security("documents")), (1, (true, false)));
    assert!(warnings.lock().unwrap().iter().any(|warning| warning.contains("stays on")), "{warnings:?}");
    // Where the comments were lost, row security stays as it is.
    stage.run("DROP POLICY mine ON documents; ALTER TABLE documents DISABLE ROW LEVEL SECURITY");
    stage.statements("protect_table('documents', 'account')");
    stage.run("COMMENT ON POLICY entitlements_account ON documents IS NULL");
    stage.statements("unprotect_table('documents')");
    assert_eq!((stage.policies().len(), stage.row_security("documents")), (0, (true, false)));
}

#[test]
fn the_owner_is_bound_where_it_is_forced() {
    let mut stage = Stage::new();
    stage.documents();
    let role = stage.role.name().to_owned();
    stage.run(&format!("ALTER TABLE documents OWNER TO {role}"));
    stage.statements("protect_table('documents', 'account', 'sso')");
    assert_eq!(stage.code(Some("acme"), "SELECT FROM documents"), "5 rows");
    stage.statements("protect_table('documents', 'account', 'sso', force => true)");
    assert_eq!(stage.code(Some("acme"), "SELECT FROM documents"), "3 rows");
    assert_eq!(stage.code(Some("poor"), "SELECT FROM documents"), "0 rows");
}

#[test]
fn a_developer_protects_the_tables_that_are_theirs() {
    let mut stage = Stage::new();
    stage.documents();
    let role = stage.role.name().to_owned();
    let mut client = stage.role.connect();
    refused_with(&mut client, "42501", "SELECT entitlements.protect_table('documents', 'account')", &[]);
    stage.run(&format!("SELECT entitlements.grant_access('{role}', 'catalog')"));
    for call in [
        "protect_table('documents', 'account', 'sso')",
        "protect_table('documents', 'account', dry_run => true)",
        "unprotect_table('documents')",
        "protect_columns('documents', 'account', '{\"title\": \"sso\"}')",
    ] {
        let error = refused_with(&mut client, "42501", &format!("SELECT entitlements.{call}"), &[]);
        assert_eq!(error.message(), "must be owner of table public.documents");
    }
    stage.run(&format!("ALTER TABLE documents OWNER TO {role}; GRANT CREATE ON SCHEMA public TO {role}"));
    // Names and settings of the session change nothing.
    client
        .batch_execute(
            "CREATE TEMP TABLE accounts (id int); CREATE TEMP TABLE documents (account int);
             SET quote_all_identifiers = on; SET search_path = pg_temp, public; SET row_security = off",
        )
        .unwrap();
    for call in [
        "protect_table('public.documents', 'account', 'sso')",
        "protect_columns('public.documents', 'account', '{\"title\": \"sso\"}')",
    ] {
        assert!(!client.query(&format!("SELECT entitlements.{call}"), &[]).unwrap().is_empty());
        assert!(client.query(&format!("SELECT entitlements.{call}"), &[]).unwrap().is_empty());
    }
    let author: String =
        one(&mut stage.owner, "SELECT role_name FROM entitlements.audit_log WHERE object = 'table' LIMIT 1", &[]);
    assert_eq!(author, role);
    assert!(!client.query("SELECT entitlements.unprotect_table('public.documents')", &[]).unwrap().is_empty());
}

/// Only servers built with ICU have such columns.
#[test]
fn a_column_whose_keys_are_equal_though_they_differ_is_refused() {
    let mut stage = Stage::new();
    let icu: bool = one(&mut stage.owner, "SELECT EXISTS (SELECT FROM pg_collation WHERE collname = 'und-x-icu')", &[]);
    if !icu {
        return;
    }
    stage.run(
        "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE odd (loose text COLLATE loose);",
    );
    let error = stage.owner.execute("SELECT entitlements.protect_table('odd', 'loose')", &[]).unwrap_err();
    let refusal = error.as_db_error().expect("the server refuses");
    assert_eq!(refusal.code().code(), "NE007");
    assert!(refusal.message().contains("different keys can be equal"), "{refusal}");
    assert!(refusal.hint().is_some_and(|hint| hint.contains("COLLATE \"C\"")), "{refusal:?}");
}

#[test]
fn what_cannot_be_protected_is_refused_with_what_to_do() {
    let mut stage = Stage::new();
    stage.documents();
    stage.run(
        "CREATE VIEW a_view AS SELECT * FROM documents; CREATE MATERIALIZED VIEW a_copy AS SELECT * FROM documents;
         CREATE SEQUENCE a_sequence; CREATE INDEX an_index ON documents (account);
         CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing; CREATE FOREIGN TABLE far (account text) SERVER nowhere;
         CREATE TABLE odd (id smallint, name name, many text[], at timestamptz, padded char(10));
         ALTER TABLE documents ADD gone text; ALTER TABLE documents DROP gone;",
    );
    for (call, code, message, hint) in [
        ("protect_table('a_view', 'account')", "NE007", "is a view", "security_invoker"),
        ("unprotect_table('a_view')", "NE007", "is a view", "security_invoker"),
        ("protect_columns('a_view', 'account', '{\"title\": \"sso\"}')", "NE007", "is a view", "security_invoker"),
        ("protect_table('a_copy', 'account')", "NE007", "is a materialized view", "copies"),
        ("protect_table('a_sequence', 'account')", "NE007", "is no table", "ordinary"),
        ("protect_table('an_index', 'account')", "NE007", "is no table", "ordinary"),
        ("protect_table('far', 'account')", "NE007", "is a foreign table", "where it is"),
        ("protect_table('pg_class', 'relname')", "NE007", "of the system", "own tables"),
        ("protect_table('information_schema.sql_features', 'feature_id')", "NE007", "of the system", "own tables"),
        ("protect_table('entitlements.accounts', 'key')", "NE007", "of the extension", "own tables"),
        ("protect_table(0, 'account')", "NE007", "no such table", ""),
        ("protect_table(NULL, 'account')", "NE007", "it is NULL", ""),
        ("protect_table('documents', NULL)", "NE007", "it is NULL", ""),
        ("protect_table('documents', 'acount')", "NE007", "has no column", "Perhaps you meant \"account\"."),
        ("protect_table('documents', 'zzz')", "NE007", "has no column", "Its columns are id, account, title."),
        ("protect_table('documents', 'gone')", "NE007", "has no column", "Its columns are id, account, title."),
        ("protect_table('documents', 'ctid')", "NE007", "has no column", "Perhaps you meant \"id\"."),
        ("protect_table('odd', 'id')", "NE007", "of type smallint", "text, varchar, uuid, bigint or integer"),
        ("protect_table('odd', 'name')", "NE007", "of type name", "text, varchar, uuid, bigint or integer"),
        ("protect_table('odd', 'many')", "NE007", "of type text[]", "text, varchar, uuid, bigint or integer"),
        (
            "protect_table('odd', 'at')",
            "NE007",
            "of type timestamp with time zone",
            "text, varchar, uuid, bigint or integer",
        ),
        ("protect_table('odd', 'padded')", "NE007", "of type character", "text, varchar, uuid, bigint or integer"),
        ("protect_table('documents', 'account', 'ssso')", "NE003", "unknown feature", "Perhaps you meant \"sso\"."),
        ("unprotect_table('documents', 'ssso')", "NE003", "unknown feature", "Perhaps you meant \"sso\"."),
        ("protect_table('documents', 'account', 'sso', 'READ')", "NE007", "no such command", "ALL, SELECT"),
        ("protect_table('documents', 'account', 'sso', NULL)", "NE007", "it is NULL", ""),
        (
            "protect_table('documents', 'account', 'sso', 'ALL', 'all')",
            "NE007",
            "neither current nor every",
            "rows of all accounts",
        ),
        ("protect_table('documents', 'account', NULL, 'ALL', 'every')", "NE007", "nothing would guard", "Name the feature"),
        ("protect_table('documents', 'account', 'sso', force => NULL)", "NE007", "it is NULL", ""),
        ("protect_table('documents', 'account', 'sso', dry_run => NULL)", "NE007", "it is NULL", ""),
        ("protect_columns('documents', 'account', '{}')", "NE007", "not a JSON object", "{\"column\": \"feature\"}"),
        (
            "protect_columns('documents', 'account', '[\"title\"]')",
            "NE007",
            "not a JSON object",
            "{\"column\": \"feature\"}",
        ),
        (
            "protect_columns('documents', 'account', '{\"title\": 1}')",
            "NE007",
            "not a JSON object",
            "{\"column\": \"feature\"}",
        ),
        (
            "protect_columns('documents', 'account', '{\"title\": \"ssso\"}')",
            "NE003",
            "unknown feature",
            "Perhaps you meant \"sso\".",
        ),
        (
            "protect_columns('documents', 'account', '{\"tittle\": \"sso\"}')",
            "NE007",
            "has no column",
            "Perhaps you meant \"title\".",
        ),
        ("protect_columns('documents', 'account', '{\"account\": \"sso\"}')", "NE007", "cannot be gated", ""),
        (
            "protect_columns('documents', 'account', '{\"title\": \"sso\"}', 'odd')",
            "NE009",
            "already a relation",
            "another name",
        ),
        (
            "protect_columns('documents', 'account', '{\"title\": \"sso\"}', 'a_view')",
            "NE009",
            "already a relation",
            "another name",
        ),
        ("protect_columns('documents', 'account', '{\"title\": \"sso\"}', '')", "NE007", "1 to 63 bytes", ""),
    ] {
        let error = refused_with(&mut stage.owner, code, &format!("SELECT entitlements.{call}"), &[]);
        assert!(error.message().contains(message), "{call}: {}", error.message());
        assert!(error.hint().unwrap_or_default().contains(hint), "{call}: {:?}", error.hint());
        assert_eq!(error.hint().is_some(), !hint.is_empty(), "{call}: {:?}", error.hint());
    }
    assert_eq!((stage.policies().len(), stage.row_security("documents")), (0, (false, false)));
}

#[test]
fn partitioned_tables_are_protected_at_their_root() {
    let mut stage = Stage::new();
    stage.table(
        "CREATE TABLE parts (id integer, account text) PARTITION BY RANGE (id);
         CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
         CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20) PARTITION BY LIST (account);
         CREATE TABLE parts_2_acme PARTITION OF parts_2 FOR VALUES IN ('acme');
         CREATE INDEX ON parts (account);
         INSERT INTO parts VALUES (1, 'acme'), (2, 'poor'), (11, 'acme');",
    );
    let (mut client, warnings) = listening(stage.role.database());
    client.batch_execute("SELECT entitlements.protect_table('parts', 'account', 'sso')").unwrap();
    let open: Vec<String> = warnings.lock().unwrap().clone();
    assert_eq!(open.len(), 3, "{open:?}");
    assert!(open[0].contains("privileges on public.parts_1"), "{open:?}");
    stage.run(&format!("REVOKE ALL ON parts_1, parts_2, parts_2_acme FROM {}", stage.role.name()));
    assert_eq!(stage.code(Some("acme"), "SELECT FROM parts"), "2 rows");
    assert_eq!(stage.code(Some("poor"), "SELECT FROM parts"), "0 rows");
    assert_eq!(stage.code(Some("acme"), "INSERT INTO parts VALUES (3, 'acme'), (12, 'acme')"), "2 rows");
    assert_eq!(stage.code(Some("acme"), "INSERT INTO parts VALUES (3, 'poor')"), "42501");
    assert_eq!(stage.code(Some("acme"), "UPDATE parts SET id = id + 1"), "2 rows");
    assert_eq!(stage.code(Some("acme"), "SELECT FROM parts_1"), "42501");
    stage.run("CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM (20) TO (30)");
    assert_eq!(stage.code(Some("acme"), "INSERT INTO parts VALUES (21, 'acme')"), "1 rows");
    assert_eq!(stage.code(Some("acme"), "INSERT INTO parts VALUES (21, 'poor')"), "42501");
    warnings.lock().unwrap().clear();
    assert!(client.query("SELECT entitlements.protect_table('parts', 'account', 'sso')", &[]).unwrap().is_empty());
    assert_eq!(*warnings.lock().unwrap(), Vec::<String>::new());
    // The list takes the partitions' indexes.
    client.batch_execute("SELECT entitlements.unprotect_table('parts')").unwrap();
    let every = stage.statements("protect_table('parts', 'account', 'sso', 'SELECT', 'every')");
    assert!(every.concat().contains("ARRAY"), "{every:?}");
}

/// Sub-selects that are evaluated once. Since PostgreSQL 17 conditions name them too.
fn init_plans(plan: &str) -> usize {
    plan.lines().filter(|line| line.trim_start().starts_with("InitPlan")).count()
}

/// Rows of a thousand accounts, of which 42 is one.
fn many_rows(stage: &mut Stage, column: &str) {
    stage.table(&format!(
        "CREATE TABLE rows (id integer, account {column});
         INSERT INTO rows SELECT n, n % 1000 FROM generate_series(1, 100000) n;
         CREATE INDEX rows_account ON rows (account); ANALYZE rows;"
    ));
}

#[test]
fn a_statement_asks_once_and_finds_its_rows_by_the_index() {
    for column in ["text", "varchar(20)", "bigint", "integer"] {
        let mut stage = Stage::new();
        many_rows(&mut stage, column);
        stage.statements("protect_table('rows', 'account', 'sso')");
        let plan = stage.plan("42", "EXPLAIN (COSTS OFF) SELECT id FROM rows");
        assert!(plan.contains("rows_account") && plan.contains("Index Cond: ("), "{column}: {plan}");
        assert!(init_plans(&plan) == 2, "{column}: {plan}");
        assert!(!plan.contains("entitlements."), "nothing is called for a row: {plan}");

        stage.run("SET enable_indexscan = off; SET enable_bitmapscan = off; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0");
        let plan = stage.plan("42", "EXPLAIN (COSTS OFF) SELECT count(*) FROM rows");
        assert!(plan.contains("Parallel Seq Scan on rows"), "{column}: {plan}");
        assert_eq!(stage.plan("42", "SELECT count(*)::text FROM rows"), "100", "{column}");
    }
}

/// How often entitled and current_account were called, since the server was last told.
fn calls(transaction: &mut Transaction<'_>) -> (i64, i64) {
    let row = transaction
        .query_one(
            "SELECT coalesce(pg_stat_get_xact_function_calls('entitlements.entitled(text)'::regprocedure), 0),
                    coalesce(pg_stat_get_xact_function_calls('entitlements.current_account()'::regprocedure), 0)",
            &[],
        )
        .unwrap();
    (row.get(0), row.get(1))
}

#[test]
fn a_policy_calls_nothing_for_a_row() {
    let mut stage = Stage::new();
    many_rows(&mut stage, "text");
    stage.statements("protect_table('rows', 'account', 'sso')");
    let role = stage.role.name().to_owned();
    stage.run("SET track_functions = 'all'; SET enable_indexscan = off; SET enable_bitmapscan = off; SET max_parallel_workers_per_gather = 0");
    for statement in [
        "SELECT FROM rows",
        "UPDATE rows SET id = id + 1",
        "INSERT INTO rows SELECT n, '42' FROM generate_series(1, 1000) n",
        "DELETE FROM rows",
    ] {
        let mut transaction = stage.owner.transaction().unwrap();
        let before = calls(&mut transaction);
        transaction.batch_execute(&format!("SELECT entitlements.set_account('42'); SET LOCAL ROLE {role}")).unwrap();
        assert!(transaction.execute(statement, &[]).unwrap() >= 100);
        transaction.batch_execute("RESET ROLE").unwrap();
        let after = calls(&mut transaction);
        // Each policy that a statement falls under asks for itself: an UPDATE reads rows, changes them, and makes new ones.
        assert!((1..=3).contains(&(after.0 - before.0)), "{statement}: entitled, {before:?} to {after:?}");
        assert!((1..=3).contains(&(after.1 - before.1)), "{statement}: current_account, {before:?} to {after:?}");
        transaction.rollback().unwrap();
    }
}

#[test]
fn the_list_of_accounts_is_made_once_and_used_by_the_index() {
    for column in ["text", "bigint"] {
        let mut stage = Stage::new();
        many_rows(&mut stage, column);
        stage.run(&format!("SELECT entitlements.grant_access('{}', 'reader')", stage.role.name()));
        stage.statements("protect_table('rows', 'account', 'sso', 'SELECT', 'every')");
        let plan = stage.plan("acme", "EXPLAIN (COSTS OFF) SELECT id FROM rows");
        assert!(plan.contains("InitPlan") && plan.contains("Index Cond: (account = ANY ("), "{column}: {plan}");
        assert_eq!(stage.plan("acme", "SELECT count(*)::text FROM rows"), "100", "{column}");
    }
}

#[test]
fn a_column_is_null_without_its_feature() {
    let mut stage = Stage::new();
    stage.run(
        "CREATE TABLE people (id integer, account text, name varchar(20), \"Salary\" numeric(10, 2), CHECK (id < 100))",
    );
    stage.run("INSERT INTO people VALUES (1, 'acme', 'Ann', 10), (2, 'acme', 'Bob', 20), (3, 'poor', 'Eve', 30)");
    let call = "protect_columns('people', 'account', '{\"Salary\": \"sso\", \"name\": \"export\"}')";
    assert_eq!(stage.statements(call).len(), 2);
    assert_eq!(stage.statements(call).len(), 0);
    let role = stage.role.name().to_owned();
    stage.run(&format!("GRANT ALL ON people_gated TO {role}"));
    let read = "SELECT string_agg(concat_ws(' ', id, name, \"Salary\"), ', ' ORDER BY id) FROM people_gated";
    assert_eq!(stage.plan("acme", read), "1 Ann 10.00, 2 Bob 20.00");
    assert_eq!(stage.plan("poor", read), "3");
    assert_eq!(stage.plan("42", "SELECT count(*)::text FROM people_gated"), "0");
    assert_eq!(stage.code(None, "SELECT FROM people_gated"), "0 rows");
    assert_eq!(stage.code(Some("acme"), "SELECT FROM people"), "42501");
    // It can be written to, but for the gated columns, and not for others.
    assert_eq!(stage.code(Some("acme"), "INSERT INTO people_gated (id, account) VALUES (4, 'acme')"), "1 rows");
    assert_eq!(stage.code(Some("acme"), "INSERT INTO people_gated (id, account) VALUES (4, 'poor')"), "44000");
    assert_eq!(stage.code(Some("acme"), "UPDATE people_gated SET account = 'poor'"), "44000");
    assert_eq!(stage.code(Some("acme"), "UPDATE people_gated SET id = id + 10"), "2 rows");
    assert_eq!(stage.code(Some("acme"), "UPDATE people_gated SET \"Salary\" = 0"), "0A000");
    assert_eq!(stage.code(Some("acme"), "DELETE FROM people_gated"), "2 rows");
    // A condition that tells what it sees does not see other rows or what is gated.
    stage.run(&format!(
        "GRANT CREATE ON SCHEMA public TO {role};
         CREATE FUNCTION leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN RAISE WARNING 'leaked %', $1; RETURN true; END $$"
    ));
    let (mut client, warnings) = listening(stage.role.database());
    client
        .batch_execute(&format!(
            "BEGIN; SELECT entitlements.set_account('poor'); SET LOCAL ROLE {role}; SELECT FROM people_gated WHERE leak(concat(id, name, \"Salary\")); COMMIT"
        ))
        .unwrap();
    assert_eq!(*warnings.lock().unwrap(), ["leaked 3"]);
    // Asked once, whatever the number of rows.
    let plan = stage.plan("acme", "EXPLAIN (COSTS OFF) SELECT * FROM people_gated");
    assert!(init_plans(&plan) == 3 && !plan.contains("entitlements."), "{plan}");

    // Another column joins, another gate, another name.
    stage.run("ALTER TABLE people ADD note text");
    assert_eq!(stage.statements(call).len(), 2);
    assert_eq!(stage.code(Some("acme"), "SELECT note FROM people_gated"), "2 rows");
    assert_eq!(stage.statements("protect_columns('people', 'account', '{\"note\": \"sso\"}', 'notes')").len(), 2);
    assert_eq!(stage.lines("SELECT count(*)::text FROM notes"), ["0"], "without an account nobody sees a row");
}

#[test]
fn two_who_protect_a_table_at_once_take_turns() {
    let mut stage = Stage::new();
    stage.documents();
    let mut first = stage.role.database().connect();
    let mut second = stage.role.database().connect();
    let mut transaction = first.transaction().unwrap();
    assert_eq!(transaction.query("SELECT entitlements.protect_table('documents', 'account', 'sso')", &[]).unwrap().len(), 5);
    let other = std::thread::spawn(move || {
        second.query("SELECT entitlements.protect_table('documents', 'account', 'sso')", &[]).map(|rows| rows.len())
    });
    std::thread::sleep(Duration::from_millis(300));
    assert!(!other.is_finished(), "the second waits");
    transaction.commit().unwrap();
    assert_eq!(other.join().unwrap().unwrap(), 0);
}

#[test]
fn without_the_extension_nobody_reaches_the_rows() {
    let mut stage = Stage::new();
    stage.documents();
    stage.statements("protect_table('documents', 'account', 'sso')");
    refused_with(&mut stage.owner, "2BP01", "DROP EXTENSION entitlements", &[]);
    stage.run("DROP EXTENSION entitlements CASCADE");
    let role = stage.role.name().to_owned();
    let mut transaction = stage.owner.transaction().unwrap();
    transaction.batch_execute(&format!("SET LOCAL ROLE {role}")).unwrap();
    assert_eq!(transaction.execute("SELECT FROM documents", &[]).unwrap(), 0);
}
