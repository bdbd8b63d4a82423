//! One end of documents that are signed and carried: a database with a name and a signing key of its own.

use crate::Database;
use entitlements_bundle::PrivateKey;
use postgres::Client;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

pub struct Party {
    pub client: Client,
    pub key: PrivateKey,
    /// What the server signs with.
    file: PathBuf,
    pub database: Database,
}

impl Party {
    /// The number makes the key.
    pub fn new(database: Database, name: &str, number: u8) -> Self {
        let client = database.connect();
        let file = std::env::temp_dir().join(format!("{}-{name}.jwk", database.name()));
        let mut party = Self { client, key: PrivateKey::from_seed(&[number; 32]), file, database };
        party.client.execute("SELECT entitlements.set_deployment($1)", &[&name]).expect("it is named");
        party.sign_with(number);
        party
    }

    /// From now on another key.
    pub fn sign_with(&mut self, number: u8) {
        self.key = PrivateKey::from_seed(&[number; 32]);
        fs::write(&self.file, self.key.to_jwk().as_bytes()).expect("the key is written");
        self.run(&format!("SET entitlements.signing_key_file = '{}'", self.file.display()));
    }

    pub fn jwk(&self) -> Value {
        serde_json::from_str(&self.key.public().to_jwk().to_string()).expect("it is JSON")
    }

    pub fn trust(&mut self, other: &Self, issuer: &str, purpose: &str) {
        let sql = "SELECT entitlements.trust_key($1, $2, $3)";
        self.client.execute(sql, &[&other.jwk(), &issuer, &purpose]).expect("the key is trusted");
    }

    pub fn run(&mut self, sql: &str) {
        self.client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}
