//! Two customers of one application, `acme` and `globex`, and a role with full SQL that may act for whom it has a token of.

use super::token::{Key, Token};
use entitlements_client_tests::{Database, one};
use postgres::{Client, NoTls};
use std::sync::atomic::{AtomicU32, Ordering};

/// What the attacker wants to see.
pub const SECRET: &str = "globex plans a takeover";

pub struct Stage {
    pub database: Option<Database>,
    /// The role of the attacker, and of everybody else who comes through the application's pool.
    pub tenant: String,
    /// What the application's identity provider signs with.
    pub key: Key,
    /// Trusted, but for bundles.
    pub bundle_key: Key,
    /// Was trusted once.
    pub distrusted_key: Key,
}

/// How a transaction of the attacker ended.
pub type Attempt = Result<String, String>;

impl Stage {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let database = Database::new();
        let tenant = format!("entitlements_tenant_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let stage =
            Self { tenant, key: Key::new(), bundle_key: Key::new(), distrusted_key: Key::new(), database: Some(database) };
        stage.set_up();
        stage
    }

    fn set_up(&self) {
        let mut owner = self.owner();
        let tenant = &self.tenant;
        let name = self.database().name();
        owner
            .batch_execute(&format!(
                r#"SELECT entitlements.apply_catalog('{{"features": {{
                        "sso": {{"kind": "flag"}}, "reports": {{"kind": "flag"}},
                        "calls": {{"kind": "quota", "period": "1 month"}}, "projects": {{"kind": "allocation"}}}},
                      "plans": {{"pro": {{"kind": "base", "features": {{
                        "sso": true, "reports": true, "calls": 10, "projects": 3}}}}}}}}');
                   SELECT entitlements.subscribe('acme', 'pro'), entitlements.subscribe('globex', 'pro');
                   SELECT entitlements.consume('globex', 'calls', 7);
                   CREATE TABLE docs (id integer PRIMARY KEY, account_id text NOT NULL, body text NOT NULL);
                   INSERT INTO docs VALUES (1, 'acme', 'acme bakes bread');
                   INSERT INTO docs SELECT 10 + n, 'globex', '{SECRET}' FROM pg_catalog.generate_series(1, 200) n;
                   ANALYZE docs;
                   SELECT entitlements.protect_table('docs', 'account_id', 'sso');
                   SELECT entitlements.protect_columns('docs', 'account_id', '{{"body": "reports"}}', 'docs_of_account');
                   CREATE TABLE projects (id integer PRIMARY KEY, account_id text NOT NULL);
                   SELECT entitlements.protect_table('projects', 'account_id');
                   SELECT entitlements.limit_rows('projects', 'account_id', 'projects');
                   DROP ROLE IF EXISTS {tenant};
                   CREATE ROLE {tenant} LOGIN;
                   GRANT CREATE, TEMPORARY ON DATABASE {name} TO {tenant};
                   GRANT SELECT, INSERT, UPDATE, DELETE ON projects TO {tenant};
                   GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO {tenant};
                   GRANT SELECT ON docs_of_account TO {tenant};
                   SELECT entitlements.grant_access('{tenant}', 'member');"#
            ))
            .expect("the stage is set");
        self.trust(&self.key, "session", Some("app"));
        self.trust(&self.bundle_key, "bundle", None);
        self.trust(&self.distrusted_key, "session", Some("app"));
        one::<Option<String>>(
            &mut owner,
            "SELECT entitlements.distrust_key($1, 'it was copied')::text",
            &[&self.distrusted_key.kid],
        );
    }

    fn trust(&self, key: &Key, purpose: &str, audience: Option<&str>) {
        self.owner()
            .query(
                "SELECT entitlements.trust_key($1::text::jsonb, $2, $3, $4)",
                &[&key.jwk(), &"https://id.example", &purpose, &audience],
            )
            .expect("the key can be trusted");
    }

    pub fn database(&self) -> &Database {
        self.database.as_ref().expect("it lasts as long as the stage")
    }

    pub fn owner(&self) -> Client {
        self.database().connect()
    }

    /// The attacker's session.
    pub fn attacker(&self) -> Client {
        let mut client = self.database().connect_as(&self.tenant);
        client.batch_execute("CREATE SCHEMA IF NOT EXISTS evil").expect("the attacker has a schema");
        client
    }

    /// A token as the identity provider makes it.
    pub fn token(&self, account: &str) -> String {
        Token::of(account).signed_by(&self.key)
    }

    /// The attacker's session in a transaction that acts for acme, as it may.
    pub fn as_acme(&self) -> Client {
        let mut client = self.attacker();
        client.batch_execute("BEGIN").expect("a transaction begins");
        self.authenticate(&mut client, "acme").expect("the attacker is a customer too");
        client
    }

    pub fn authenticate(&self, client: &mut Client, account: &str) -> Attempt {
        try_token(client, &self.token(account))
    }

    /// What the owner sees.
    pub fn seen(&self, sql: &str) -> String {
        ask(&mut self.owner(), sql).expect("the owner may ask").trim_end_matches(['|', '\n']).to_owned()
    }

    /// Takes away what stops an attack: SQL that the owner runs, in which `$tenant` is the attacker's role.
    pub fn weaken(&self, weakness: &str) {
        let weakness = weakness.replace("$tenant", &self.tenant).replace("$database", self.database().name());
        self.owner().batch_execute(&weakness).unwrap_or_else(|error| panic!("{weakness}: {error:?}"));
    }

    /// Units of a feature that an account uses.
    pub fn used(&self, account: &str, feature: &str) -> f64 {
        let sql = "SELECT (entitlements.check_access($1, $2)).used::float8";
        one(&mut self.owner(), sql, &[&account, &feature])
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let mut config = self.database().config();
        drop(self.database.take());
        if let Ok(mut client) = config.dbname("postgres").connect(NoTls) {
            let _ = client.batch_execute(&format!("DROP ROLE IF EXISTS {}", self.tenant));
        }
    }
}

/// The account that the token opens.
pub fn try_token(client: &mut Client, token: &str) -> Attempt {
    match client.query_one("SELECT entitlements.authenticate($1)", &[&token]) {
        Ok(row) => Ok(row.get(0)),
        Err(error) => Err(told(&error)),
    }
}

/// What the server tells about an error: all of it, for it may tell too much.
pub fn told(error: &postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => {
            format!(
                "{}: {} {} {}",
                error.code().code(),
                error.message(),
                error.detail().unwrap_or_default(),
                error.hint().unwrap_or_default()
            )
        }
        None => format!("{error:?}"),
    }
}

/// All rows as text, or what the server tells.
pub fn ask(client: &mut Client, sql: &str) -> Attempt {
    use postgres::SimpleQueryMessage::Row;
    let messages = client.simple_query(sql).map_err(|error| told(&error))?;
    let mut text = String::new();
    for message in messages {
        if let Row(row) = message {
            (0..row.len()).for_each(|column| text += &format!("{}|", row.get(column).unwrap_or_default()));
            text.push('\n');
        }
    }
    Ok(text)
}

/// Tries each statement, in a transaction of its own unless one is open; gets through with those that the server runs. What it
/// refuses it refuses with one of these SQLSTATEs: a statement that has a fault of its own would prove nothing.
pub fn any_of<S: AsRef<str>>(client: &mut Client, sqlstates: &[&str], statements: impl IntoIterator<Item = S>) -> Attempt {
    let is_open = ask(client, "SELECT pg_catalog.now() <> pg_catalog.statement_timestamp()")?.starts_with('t');
    let mut through = Vec::new();
    let mut refusals = Vec::new();
    for statement in statements {
        let statement = statement.as_ref();
        if is_open {
            ask(client, "SAVEPOINT attempt")?;
        }
        match ask(client, statement) {
            Ok(answer) => through.push(format!("{statement}: {answer}")),
            Err(refusal) => {
                assert!(sqlstates.iter().any(|sqlstate| refusal.starts_with(sqlstate)), "{statement}: {refusal}");
                refusals.push(format!("{statement}: {refusal}"));
                if is_open {
                    ask(client, "ROLLBACK TO attempt")?;
                }
            }
        }
    }
    if through.is_empty() { Err(refusals.join("\n")) } else { Ok(through.join("\n")) }
}

/// Gets through if what was told has the secret.
pub fn tells_secret(told: Attempt) -> Attempt {
    match told {
        Ok(text) | Err(text) if text.contains(SECRET) => Ok(text),
        Ok(text) => Err(format!("nothing of interest: {text}")),
        Err(text) => Err(text),
    }
}
