//! A signature over claims that are right.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use entitlements_bundle::{BUNDLE_TYPE, Bundle, Digest, Jws, LICENCE_TYPE, Licence, USAGE_REPORT_TYPE, UsageReport};
use entitlements_model::json::Json;

use crate::failure::Failure;
use crate::files;

#[derive(Args)]
pub struct Sign {
    /// The private key, a JWK
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// What the claims are those of
    #[arg(long = "type", value_enum, default_value_t = Kind::Bundle)]
    kind: Kind,
    /// Where to write the document; without it, to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The claims, a JSON document; they are signed byte for byte
    #[arg(value_name = "FILE")]
    claims: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Bundle,
    Licence,
    UsageReport,
}

impl Sign {
    pub fn run(self, json: bool) -> Result<(), Failure> {
        let key = files::read_private_key(&self.key)?;
        let claims = files::read(&self.claims)?;
        let payload = claims.trim_ascii().as_bytes();
        let (typ, read) = match self.kind {
            Kind::Bundle => (BUNDLE_TYPE, Bundle::parse(payload).map(|bundle| sequence(bundle.sequence))),
            Kind::Licence => (LICENCE_TYPE, Licence::parse(payload).map(|licence| ("licence", Json::string(licence.id)))),
            Kind::UsageReport => (USAGE_REPORT_TYPE, UsageReport::parse(payload).map(|report| sequence(report.sequence))),
        };
        let name = read.map_err(|faults| Failure::invalid("the document", faults))?;
        let document = Jws::sign(payload, typ, &key);
        if !json {
            return files::write(self.output.as_deref(), &document);
        }
        let mut answer = vec![
            ("kid", Json::string(key.public().kid().to_string())),
            name,
            ("digest", Json::string(Digest::of(payload).to_string())),
        ];
        match &self.output {
            Some(output) => files::write(Some(output), &document)?,
            None => answer.push(("document", Json::string(document))),
        }
        files::write(None, &Json::object(answer).to_string())
    }
}

fn sequence(sequence: i64) -> (&'static str, Json) {
    ("sequence", Json::number(sequence))
}
