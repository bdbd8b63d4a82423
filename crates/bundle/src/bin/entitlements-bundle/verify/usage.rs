//! Whether a vendor would accept a usage report.

use entitlements_bundle::{Neighbours, Purpose, UsageJudgement, UsageReport, authenticate_as, judge_usage};
use entitlements_model::json::Json;

use super::Verify;
use crate::failure::Failure;
use crate::files;
use crate::plain::Plain;

impl Verify {
    pub(super) fn usage(&self, text: &str, json: bool) -> Result<(), Failure> {
        let audience = self.required_audience();
        let authentic = authenticate_as::<UsageReport>(text, &self.trust(Purpose::UsageReport)?)?;
        let (report, digest) = (authentic.document().clone(), authentic.digest());
        let sequence = report.sequence;
        let last = self.last();
        let neighbours = Neighbours {
            same: last.filter(|last| last.sequence == sequence).map(|last| last.digest),
            before: last.filter(|last| last.sequence < sequence),
            after: None,
        };
        let late = last.is_some_and(|last| last.sequence > sequence);
        let (outcome, missing) = match judge_usage(authentic, audience, neighbours, self.clock())? {
            UsageJudgement::Repeated => ("unchanged", 0),
            UsageJudgement::Accept(_) if late => ("late", 0),
            UsageJudgement::Accept(acceptance) => ("accepted", acceptance.missing),
        };
        if json {
            let answer = Json::object([
                ("outcome", Json::string(outcome)),
                ("issuer", Json::string(&report.issuer)),
                ("audience", Json::string(&report.audience)),
                ("sequence", Json::number(sequence)),
                ("digest", Json::string(digest.to_string())),
                ("missing", Json::number(missing)),
                ("rows", Json::number(report.rows.len())),
            ]);
            return files::write(None, &answer.to_string());
        }
        let mut lines = vec![
            format!("{outcome}: usage report {sequence} of {} for {}", report.issuer, report.audience),
            format!("digest  {digest}"),
            format!("rows    {}, from {} to {}", report.rows.len(), report.starts_at, report.ends_at),
        ];
        if missing > 0 {
            lines.push(format!("missing {missing} reports before this one"));
        }
        let lines: Vec<String> = lines.iter().map(|line| Plain(line).to_string()).collect();
        files::write(None, &lines.join("\n"))
    }
}
