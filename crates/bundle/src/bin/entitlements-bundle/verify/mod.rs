//! Whether whoever a document is for would accept it.

mod bundle;
mod licence;
mod usage;

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory};
use entitlements_bundle::{
    Accepted, Clock, Digest, LICENCE_TYPE, NumericDate, Purpose, TrustSet, USAGE_REPORT_TYPE, claimed_type,
};
use entitlements_model::time::BEGINNING;

use crate::Arguments;
use crate::failure::Failure;
use crate::files;
use crate::now;

#[derive(Args)]
pub struct Verify {
    /// A public key that is trusted: a JWK or a JWK set; may be given several times
    #[arg(long, value_name = "FILE", required = true)]
    trust: Vec<PathBuf>,
    /// The issuer whose documents these keys sign
    #[arg(long)]
    issuer: String,
    /// Who the document must be for: a database, an application, the vendor that gets a usage report. A licence may be for nobody
    /// in particular
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
    /// The time of the check in seconds since 1970; without it, now
    #[arg(long, value_name = "SECONDS", value_parser = date)]
    at: Option<NumericDate>,
    /// The sequence number of the bundle or usage report that was accepted last
    #[arg(long, value_name = "NUMBER", requires = "last_digest")]
    last_sequence: Option<i64>,
    /// The digest of the bundle or usage report that was accepted last
    #[arg(long, value_name = "DIGEST", requires = "last_sequence", allow_hyphen_values = true)]
    last_digest: Option<Digest>,
    /// The machine that a licence must be for: a file with what tells it from all others
    #[arg(long, value_name = "FILE")]
    machine: Option<PathBuf>,
    /// The public key with which that machine asked for the licence: a JWK
    #[arg(long, value_name = "FILE", requires = "machine")]
    machine_key: Option<PathBuf>,
    /// The issuer's last bundle, which says what licences are revoked
    #[arg(long, value_name = "FILE")]
    revoked: Option<PathBuf>,
    /// The bundle, licence or usage report
    #[arg(value_name = "FILE")]
    document: PathBuf,
}

fn date(text: &str) -> Result<NumericDate, String> {
    let seconds = text.parse().ok().and_then(NumericDate::from_seconds);
    seconds.ok_or_else(|| "not a number of seconds since 1970".into())
}

impl Verify {
    pub fn run(self, json: bool) -> Result<(), Failure> {
        let text = files::read(&self.document)?;
        match claimed_type(&text).as_deref() {
            Ok(LICENCE_TYPE) => self.licence(&text, json),
            Ok(USAGE_REPORT_TYPE) => self.usage(&text, json),
            _ => self.bundle(&text, json),
        }
    }

    fn trust(&self, purpose: Purpose) -> Result<TrustSet, Failure> {
        files::read_trust(&self.trust, &self.issuer, purpose)
    }

    fn clock(&self) -> Clock {
        Clock { now: self.at.unwrap_or_else(now).time(), highest: BEGINNING }
    }

    fn last(&self) -> Option<Accepted> {
        self.last_sequence.zip(self.last_digest).map(|(sequence, digest)| Accepted { sequence, digest })
    }

    /// Documents that are for somebody are verified for somebody.
    fn required_audience(&self) -> &str {
        self.audience.as_deref().unwrap_or_else(|| {
            let message = "this document is for somebody: --audience <NAME> is required";
            Arguments::command().error(ErrorKind::MissingRequiredArgument, message).exit()
        })
    }
}
