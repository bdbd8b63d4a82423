//! What a bundle says, for people: also one that nobody vouches for, and then it says so first.

use std::path::PathBuf;

use clap::Args;
use entitlements_bundle::{Account, BUNDLE_LIMITS, BUNDLE_TYPE, Bundle, Jws, OverrideValue, Refusal, authenticate};
use entitlements_model::json::Json;
use entitlements_model::key::AccountKey;

use crate::failure::Failure;
use crate::files;
use crate::plain::Plain;

#[derive(Args)]
pub struct Inspect {
    /// A public key that is trusted: a JWK or a JWK set; without one, the signature is not checked
    #[arg(long, value_name = "FILE", requires = "issuer")]
    trust: Vec<PathBuf>,
    /// The issuer whose bundles these keys sign
    #[arg(long, requires = "trust")]
    issuer: Option<String>,
    /// List every account with its subscriptions and overrides
    #[arg(long)]
    accounts: bool,
    /// The bundle
    #[arg(value_name = "FILE")]
    document: PathBuf,
}

impl Inspect {
    /// Shows what can be read; fails after that when keys were given and none of them signed it.
    pub fn run(self, json: bool) -> Result<(), Failure> {
        let text = files::read(&self.document)?;
        let jws = Jws::parse(&text, BUNDLE_TYPE, BUNDLE_LIMITS.bytes).map_err(Refusal::from)?;
        let refusal = match &self.issuer {
            Some(issuer) => authenticate(&text, &files::read_trust(&self.trust, issuer)?).err(),
            None => None,
        };
        let trusted = self.issuer.is_some() && refusal.is_none();
        let bundle = Bundle::parse(jws.unverified_payload()).map_err(Refusal::Invalid)?;
        if json {
            let answer = Json::object([
                ("trusted", Json::Bool(trusted)),
                ("kid", Json::string(jws.kid().to_string())),
                ("claims", bundle.to_json()),
            ]);
            files::write(None, &answer.to_string())?;
        } else {
            let mut lines = vec![match (trusted, &refusal) {
                (true, _) => format!("SIGNED with the trusted key {}", jws.kid()),
                (false, Some(refusal)) => format!("UNTRUSTED: {refusal}"),
                (false, None) => "UNTRUSTED: the signature was not checked, anybody may have written this".into(),
            }];
            summary(&bundle, &jws, &mut lines);
            if self.accounts {
                bundle.accounts.iter().for_each(|(key, account)| list(key, account, &mut lines));
            }
            let lines: Vec<String> = lines.iter().map(|line| Plain(line).to_string()).collect();
            files::write(None, &lines.join("\n"))?;
        }
        refusal.map_or(Ok(()), |refusal| Err(refusal.into()))
    }
}

fn summary(bundle: &Bundle, jws: &Jws, lines: &mut Vec<String>) {
    let count = |part: &str| match bundle.catalog.as_ref().and_then(|catalog| catalog.get(part)) {
        Some(Json::Object(members)) => members.len(),
        _ => 0,
    };
    let subscriptions: usize = bundle.accounts.values().map(|account| account.subscriptions.len()).sum();
    let overrides: usize = bundle.accounts.values().map(|account| account.overrides.len()).sum();
    let mut line = |name: &str, value: String| lines.push(format!("{name:<12}{value}"));
    line("issuer", bundle.issuer.clone());
    line("database", bundle.audience.clone());
    line("sequence", bundle.sequence.to_string());
    if let Some(previous) = bundle.previous {
        line("previous", previous.to_string());
    }
    line("key", jws.kid().to_string());
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
    for key in &bundle.keys {
        line("introduces", key.key.kid().to_string());
    }
}

fn seconds(seconds: i64) -> String {
    match (seconds, seconds % 86_400) {
        (0, _) => "none".into(),
        (_, 0) => format!("{} d", seconds / 86_400),
        _ => format!("{seconds} s"),
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
