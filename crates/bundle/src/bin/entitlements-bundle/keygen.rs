//! A new key pair.

use std::path::PathBuf;

use clap::Args;
use entitlements_bundle::PrivateKey;
use entitlements_bundle::seal::generate_identity;
use entitlements_model::json::Json;

use crate::failure::Failure;
use crate::files;

#[derive(Args)]
pub struct Keygen {
    /// New file for the private key, readable by its owner only
    #[arg(long, value_name = "FILE")]
    private: PathBuf,
    /// File for the public key, which databases are to trust; without it the key is printed
    #[arg(long, value_name = "FILE")]
    public: Option<PathBuf>,
    /// Make an identity of age, to decrypt what is encrypted to its recipient
    #[arg(long)]
    encryption: bool,
}

impl Keygen {
    pub fn run(self, json: bool) -> Result<(), Failure> {
        if self.encryption {
            let (identity, recipient) = generate_identity();
            files::write_secret(&self.private, &identity)?;
            return self.answer(json, &recipient, &recipient, Json::object([("recipient", Json::string(&recipient))]));
        }
        let key = PrivateKey::generate().map_err(|error| Failure::key(&self.private, error))?;
        files::write_secret(&self.private, &key.to_jwk())?;
        let (kid, jwk) = (key.public().kid().to_string(), key.public().to_jwk());
        let text = jwk.to_string();
        self.answer(json, &kid, &text, Json::object([("kid", Json::string(&kid)), ("public", jwk)]))
    }

    /// Puts the public part where it was asked for. `name` is printed when it went to a file.
    fn answer(&self, json: bool, name: &str, public: &str, answer: Json) -> Result<(), Failure> {
        if let Some(file) = &self.public {
            files::write(Some(file), public)?;
        }
        match (json, &self.public) {
            (true, _) => files::write(None, &answer.to_string()),
            (false, Some(_)) => files::write(None, name),
            (false, None) => files::write(None, public),
        }
    }
}
