//! What the tests from outside share: a database of their own with the extension installed, connections to it as any role,
//! and assertions on SQLSTATE.
//!
//! The server is named by the usual variables PGHOST, PGPORT and PGUSER (`scripts/cluster env` prints them); the user must
//! be a superuser. Tests of a hot standby need STANDBY_PGHOST and STANDBY_PGPORT too, tests of shared memory PRELOADED_PGHOST
//! and PRELOADED_PGPORT: a server with the library in shared_preload_libraries. Each test makes its own database and
//! drops it at the end, so tests run side by side.

pub mod cluster;

mod party;

pub use party::Party;

use postgres::error::DbError;
use postgres::types::ToSql;
use postgres::{Client, Config, NoTls, Row};
use std::env;
use std::sync::atomic::{AtomicU32, Ordering};

/// The server's address as the environment gives it, without a database.
fn server() -> Config {
    let mut config = Config::new();
    config.host(&env::var("PGHOST").expect("PGHOST names the test server (see scripts/cluster env)"));
    if let Ok(port) = env::var("PGPORT") {
        config.port(port.parse().expect("PGPORT is a port number"));
    }
    config.user(&user());
    config
}

/// Another server's address, by variables that start with a prefix and that a script sets.
fn server_named(prefix: &str, script: &str) -> Config {
    let variable = |name: &str| {
        let name = format!("{prefix}{name}");
        env::var(&name).unwrap_or_else(|_| panic!("{name} names a server (see {script})"))
    };
    let mut config = Config::new();
    config.host(&variable("PGHOST"));
    config.port(variable("PGPORT").parse().expect("it is a port number"));
    config.user(&user());
    config
}

fn user() -> String {
    env::var("PGUSER").unwrap_or_else(|_| "postgres".to_owned())
}

/// A database of the test's own with the extension created in it; dropped with the value.
pub struct Database {
    server: Config,
    name: String,
}

impl Database {
    /// A new database with the extension.
    pub fn new() -> Self {
        Self::on(server())
    }

    /// The same on another server.
    pub fn on(server: Config) -> Self {
        let template = template_on(&server);
        Self::copied_on(server, &template)
    }

    /// The same on the server that has preloaded the library.
    pub fn preloaded() -> Self {
        Self::on(server_named("PRELOADED_", "scripts/cluster preloaded"))
    }

    /// A new database without the extension.
    pub fn bare() -> Self {
        Self::bare_on(server())
    }

    fn bare_on(server: Config) -> Self {
        Self::copied_on(server, "template0 ENCODING 'UTF8'")
    }

    fn copied_on(server: Config, template: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("entitlements_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut client = server.clone().dbname("postgres").connect(NoTls).expect("the test server accepts connections");
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).expect("a leftover can be dropped");
        client.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}")).expect("a database can be created");
        Self { server, name }
    }

    /// From now on the database is that of another server, which has taken over.
    pub fn move_to(&mut self, server: Config) {
        self.server = server;
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection as the superuser the environment names.
    pub fn connect(&self) -> Client {
        self.config().connect(NoTls).expect("the database accepts connections")
    }

    /// How to reach this database on the hot standby that STANDBY_PGHOST and STANDBY_PGPORT name.
    pub fn standby_config(&self) -> Config {
        let mut config = server_named("STANDBY_", "scripts/cluster standby");
        config.dbname(&self.name);
        config
    }

    /// A connection as `role`, which must have LOGIN.
    pub fn connect_as(&self, role: &str) -> Client {
        self.config().user(role).connect(NoTls).expect("the role may connect")
    }

    /// How to reach this database.
    pub fn config(&self) -> Config {
        let mut config = self.server.clone();
        config.dbname(&self.name);
        config
    }
}

/// A database with the extension as it is installed now, which all tests copy: that is quicker than CREATE EXTENSION each time. Made
/// by the first to need it; finished when nobody may connect to it.
fn template_on(server: &Config) -> String {
    const NAME: &str = "SELECT 'entitlements_template_' || left(md5(pg_read_file(format('%s/extension/entitlements--%s.sql', setting, default_version))), 16)
        FROM pg_config, pg_available_extensions AS extension WHERE pg_config.name = 'SHAREDIR' AND extension.name = 'entitlements'";
    let mut client = server.clone().dbname("postgres").connect(NoTls).expect("the test server accepts connections");
    let name: String = one(&mut client, NAME, &[]);
    let is_finished = |client: &mut Client| {
        let found = client.query("SELECT FROM pg_database WHERE datname = $1 AND NOT datallowconn", &[&name]);
        !found.expect("databases are listed").is_empty()
    };
    if !is_finished(&mut client) {
        client
            .batch_execute("SELECT pg_advisory_lock(hashtext('entitlements_template'))")
            .expect("the lock is there to be had");
        if !is_finished(&mut client) {
            let old =
                client.query("SELECT datname FROM pg_database WHERE starts_with(datname, 'entitlements_template_')", &[]);
            for row in old.expect("databases are listed") {
                client
                    .batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", row.get::<_, &str>(0)))
                    .expect("it is in nobody's use");
            }
            client
                .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'"))
                .expect("a database can be created");
            let mut filling = server.clone().dbname(&name).connect(NoTls).expect("the new database accepts connections");
            filling.batch_execute("CREATE EXTENSION entitlements").expect("the extension installs");
            drop(filling);
            client.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).expect("it is ours");
        }
    }
    name
}

impl Default for Database {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Ok(mut client) = self.server.clone().dbname("postgres").connect(NoTls) {
            let _ = client.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        }
    }
}

/// A role that may connect and nothing else; dropped at the end, after its database.
pub struct Role {
    name: String,
    database: Option<Database>,
}

impl Role {
    /// With the database that it is for.
    pub fn new(database: Database) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("entitlements_role_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        database.connect().batch_execute(&format!("DROP ROLE IF EXISTS {name}; CREATE ROLE {name} LOGIN")).unwrap();
        Self { name, database: Some(database) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn database(&self) -> &Database {
        self.database.as_ref().expect("it lasts as long as the role")
    }

    pub fn connect(&self) -> Client {
        self.database().connect_as(&self.name)
    }

    pub fn grant(&self, privilege: &str) {
        self.database().connect().batch_execute(&format!("GRANT {privilege} TO {}", self.name)).unwrap();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let mut config = self.database().config();
        drop(self.database.take());
        if let Ok(mut client) = config.dbname("postgres").connect(NoTls) {
            let _ = client.batch_execute(&format!("DROP ROLE {}", self.name));
        }
    }
}

/// The one value of the one row `sql` gives.
pub fn one<T>(client: &mut Client, sql: &str, params: &[&(dyn ToSql + Sync)]) -> T
where
    T: for<'a> postgres::types::FromSql<'a>,
{
    row(client, sql, params).get(0)
}

/// The one row `sql` gives.
pub fn row(client: &mut Client, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Row {
    client.query_one(sql, params).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

/// The error `sql` raises; it is a failure of the test if it raises none.
pub fn refused(client: &mut Client, sql: &str, params: &[&(dyn ToSql + Sync)]) -> DbError {
    match client.query(sql, params) {
        Ok(rows) => panic!("{sql}: gave {} rows where an error was due", rows.len()),
        Err(error) => match error.as_db_error() {
            Some(refusal) => refusal.clone(),
            None => panic!("{sql}: {error:?}"),
        },
    }
}

/// Asserts that `sql` is refused with `sqlstate`, and gives the error for a closer look.
pub fn refused_with(client: &mut Client, sqlstate: &str, sql: &str, params: &[&(dyn ToSql + Sync)]) -> DbError {
    let error = refused(client, sql, params);
    assert_eq!(error.code().code(), sqlstate, "{sql}: {error:?}");
    error
}
