//! A usage report, for people.

use entitlements_bundle::{Kid, UsageReport, UsageRow};
use entitlements_model::amount::Allowance;
use entitlements_model::json::Json;

use super::{Shown, row};

impl Shown for UsageReport {
    fn lines(&self, kid: Kid, all: bool) -> Vec<String> {
        let mut lines = vec![row("site", &self.issuer), row("vendor", &self.audience), row("sequence", self.sequence)];
        lines.extend(self.previous.map(|previous| row("previous", previous)));
        lines.push(row("key", kid));
        lines.push(row("issued", self.issued_at));
        lines.push(row("from", self.starts_at));
        lines.push(row("to", self.ends_at));
        lines.push(row("rows", self.rows.len()));
        if all {
            lines.extend(self.rows.iter().map(usage));
        }
        lines
    }

    fn claims(&self) -> Json {
        self.to_json()
    }
}

fn usage(row: &UsageRow) -> String {
    let allowance = match row.allowance {
        Allowance::Finite(amount) => amount.to_string(),
        Allowance::Unlimited => "unlimited".into(),
    };
    let window = row.window.map_or(String::new(), |window| format!(" in {} – {}", window.starts_at, window.ends_at));
    format!("  {} {}: {} of {allowance}{window}", row.account, row.feature, row.used)
}
