//! Whether a database would accept a bundle.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use entitlements_bundle::{Accepted, Clock, Digest, Judgement, NumericDate, Standing, Terms, authenticate, judge};
use entitlements_model::json::Json;
use entitlements_model::time::{BEGINNING, FOREVER};

use crate::failure::Failure;
use crate::files;
use crate::plain::Plain;

#[derive(Args)]
pub struct Verify {
    /// A public key that is trusted: a JWK or a JWK set; may be given several times
    #[arg(long, value_name = "FILE", required = true)]
    trust: Vec<PathBuf>,
    /// The issuer whose bundles these keys sign
    #[arg(long)]
    issuer: String,
    /// The name of the database that the bundle must be for
    #[arg(long, value_name = "NAME")]
    audience: String,
    /// The time of the check in seconds since 1970; without it, now
    #[arg(long, value_name = "SECONDS", value_parser = date)]
    at: Option<NumericDate>,
    /// The sequence number of the bundle that was accepted last
    #[arg(long, value_name = "NUMBER", requires = "last_digest")]
    last_sequence: Option<i64>,
    /// The digest of the bundle that was accepted last
    #[arg(long, value_name = "DIGEST", requires = "last_sequence")]
    last_digest: Option<Digest>,
    /// The bundle
    #[arg(value_name = "FILE")]
    document: PathBuf,
}

fn date(text: &str) -> Result<NumericDate, String> {
    let seconds = text.parse().ok().and_then(NumericDate::from_seconds);
    seconds.ok_or_else(|| "not a number of seconds since 1970".into())
}

fn now() -> NumericDate {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).ok().and_then(NumericDate::from_seconds).unwrap_or(NumericDate::LAST)
}

impl Verify {
    pub fn run(self, json: bool) -> Result<(), Failure> {
        let trust = files::read_trust(&self.trust, &self.issuer)?;
        let clock = Clock { now: self.at.unwrap_or_else(now).time(), highest: BEGINNING };
        let last = self.last_sequence.zip(self.last_digest).map(|(sequence, digest)| Accepted { sequence, digest });
        let authentic = authenticate(&files::read(&self.document)?, &trust)?;
        let (bundle, digest) = (authentic.bundle().clone(), authentic.digest());
        let (outcome, missed) = match judge(authentic, &self.audience, &trust, last, clock)? {
            Judgement::NoOp => ("unchanged", 0),
            Judgement::Accept(acceptance) => ("accepted", acceptance.missed),
        };
        let standing = Terms::of(&bundle).standing(clock);
        if json {
            let answer = Json::object([
                ("outcome", Json::string(outcome)),
                ("issuer", Json::string(&bundle.issuer)),
                ("audience", Json::string(&bundle.audience)),
                ("sequence", Json::number(bundle.sequence)),
                ("digest", Json::string(digest.to_string())),
                ("missed", Json::number(missed)),
                ("phase", Json::string(standing.phase.as_str())),
                ("until", until(standing).map_or(Json::Null, |date| Json::number(date.seconds()))),
            ]);
            return files::write(None, &answer.to_string());
        }
        let mut text = format!("{outcome}: bundle {} of {} for {}", bundle.sequence, bundle.issuer, bundle.audience);
        text.push_str(&format!("\ndigest  {digest}\nphase   {}", standing.phase.as_str()));
        if let Some(until) = until(standing) {
            text.push_str(&format!(" until {until}"));
        }
        if missed > 0 {
            text.push_str(&format!("\nmissed  {missed} bundles between the last one and this"));
        }
        let lines: Vec<String> = text.lines().map(|line| Plain(line).to_string()).collect();
        files::write(None, &lines.join("\n"))
    }
}

fn until(standing: Standing) -> Option<NumericDate> {
    (standing.until != FOREVER).then(|| NumericDate::from_time(standing.until))
}
