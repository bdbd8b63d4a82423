//! Whether a database would accept a bundle.

use entitlements_bundle::{Judgement, NumericDate, Purpose, Standing, Terms, authenticate, judge};
use entitlements_model::json::Json;
use entitlements_model::time::FOREVER;

use super::Verify;
use crate::failure::Failure;
use crate::files;
use crate::plain::Plain;

impl Verify {
    pub(super) fn bundle(&self, text: &str, json: bool) -> Result<(), Failure> {
        let (audience, clock) = (self.required_audience(), self.clock());
        let trust = self.trust(Purpose::Bundle)?;
        let authentic = authenticate(text, &trust)?;
        let (bundle, digest) = (authentic.bundle().clone(), authentic.digest());
        let (outcome, missed) = match judge(authentic, audience, &trust, self.last(), clock)? {
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
