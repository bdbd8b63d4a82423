//! A bundle, for people.

use entitlements_bundle::{Account, Bundle, Kid, OverrideValue};
use entitlements_model::json::Json;
use entitlements_model::key::AccountKey;

use super::{Shown, row, seconds};

impl Shown for Bundle {
    fn lines(&self, kid: Kid, all: bool) -> Vec<String> {
        let mut lines = Vec::new();
        summary(self, kid, &mut lines);
        if all {
            self.accounts.iter().for_each(|(key, account)| list(key, account, &mut lines));
            lines.extend(self.revoked.iter().map(|id| format!("revoked licence {id}")));
        }
        lines
    }

    fn claims(&self) -> Json {
        self.to_json()
    }
}

fn summary(bundle: &Bundle, kid: Kid, lines: &mut Vec<String>) {
    let count = |part: &str| match bundle.catalog.as_ref().and_then(|catalog| catalog.get(part)) {
        Some(Json::Object(members)) => members.len(),
        _ => 0,
    };
    let subscriptions: usize = bundle.accounts.values().map(|account| account.subscriptions.len()).sum();
    let overrides: usize = bundle.accounts.values().map(|account| account.overrides.len()).sum();
    let mut line = |name: &str, value: String| lines.push(row(name, value));
    line("issuer", bundle.issuer.clone());
    line("database", bundle.audience.clone());
    line("sequence", bundle.sequence.to_string());
    if let Some(previous) = bundle.previous {
        line("previous", previous.to_string());
    }
    line("key", kid.to_string());
    line("issued", bundle.issued_at.to_string());
    line("valid from", bundle.not_before.to_string());
    line("expires", bundle.expires.to_string());
    line("grace", seconds(bundle.grace));
    if let Some(heartbeat) = bundle.heartbeat {
        line("heartbeat", seconds(heartbeat));
    }
    line("mode", bundle.mode.to_string());
    if bundle.catalog.is_some() {
        line("catalog", format!("features {}, plans {}", count("features"), count("plans")));
    }
    line("accounts", format!("{} with subscriptions {subscriptions}, overrides {overrides}", bundle.accounts.len()));
    if !bundle.revoked.is_empty() {
        line("revoked", format!("{} licences", bundle.revoked.len()));
    }
    for key in &bundle.keys {
        line("introduces", key.key.kid().to_string());
    }
}

fn list(key: &AccountKey, account: &Account, lines: &mut Vec<String>) {
    lines.push(format!("account {key}"));
    for item in &account.subscriptions {
        let ends_at = item.ends_at.map_or("open".into(), |ends_at| ends_at.to_string());
        lines.push(format!("  {} × {} [{}] {} – {ends_at}", item.plan, item.quantity, item.reference, item.starts_at));
    }
    for item in &account.overrides {
        let value = match &item.value {
            OverrideValue::Set(value) => format!(" {value}"),
            OverrideValue::Add(amount) => format!(" {amount}"),
            OverrideValue::Deny => String::new(),
        };
        let expiry = item.expires_at.map_or(String::new(), |expires_at| format!(" until {expires_at}"));
        lines.push(format!("  {} {}{value}{expiry}: {}", item.value.mode(), item.feature, item.reason));
    }
}
