//! A signature over claims that are right.

use std::path::PathBuf;

use clap::Args;
use entitlements_bundle::{BUNDLE_TYPE, Bundle, Digest, Jws};
use entitlements_model::json::Json;

use crate::failure::Failure;
use crate::files;

#[derive(Args)]
pub struct Sign {
    /// The private key, a JWK
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where to write the bundle; without it, to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The claims, a JSON document; they are signed byte for byte
    #[arg(value_name = "FILE")]
    claims: PathBuf,
}

impl Sign {
    pub fn run(self, json: bool) -> Result<(), Failure> {
        let key = files::read_private_key(&self.key)?;
        let claims = files::read(&self.claims)?;
        let payload = claims.trim_ascii().as_bytes();
        let bundle = Bundle::parse(payload).map_err(|faults| Failure::invalid("the bundle", faults))?;
        let document = Jws::sign(payload, BUNDLE_TYPE, &key);
        if !json {
            return files::write(self.output.as_deref(), &document);
        }
        let mut answer = vec![
            ("kid", Json::string(key.public().kid().to_string())),
            ("sequence", Json::number(bundle.sequence)),
            ("digest", Json::string(Digest::of(payload).to_string())),
        ];
        match &self.output {
            Some(output) => files::write(Some(output), &document)?,
            None => answer.push(("document", Json::string(document))),
        }
        files::write(None, &Json::object(answer).to_string())
    }
}
