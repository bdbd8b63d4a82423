//! Servers that a test has for itself, to kill them.

use postgres::Config;
use std::collections::HashMap;
use std::process::Command;

/// A cluster of the test's own, durable, gone at the end.
pub struct Cluster {
    name: String,
}

impl Cluster {
    /// A new one, which runs.
    pub fn new(name: &str) -> Self {
        let cluster = Self { name: format!("{name}-{}", std::process::id()) };
        cluster.script("start");
        cluster
    }

    /// What scripts/cluster does by a command, and its output.
    pub fn script(&self, command: &str) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/cluster");
        let done = Command::new(script)
            .arg(command)
            .env("CLUSTER", &self.name)
            .env("FSYNC", "on")
            .env_remove("SETTINGS")
            .output()
            .expect("scripts/cluster can be run");
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("its output is text")
    }

    /// Addresses of the server and, if it runs, of the standby.
    pub fn addresses(&self) -> (Config, Option<Config>) {
        let output = self.script("env");
        let variables: HashMap<&str, &str> =
            output.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('=')).collect();
        let config = |host: &str, port: &str| {
            let mut config = Config::new();
            config.host(host).port(port.parse().expect("a port is a number")).user(variables["PGUSER"]);
            config
        };
        let standby = variables.get("STANDBY_PGHOST").map(|host| config(host, variables["STANDBY_PGPORT"]));
        (config(variables["PGHOST"], variables["PGPORT"]), standby)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.script("destroy");
    }
}
