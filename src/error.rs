//! Every way in which the extension says no: SQLSTATE class NE, a plain message, a hint, and DETAIL as JSON for programs.
//!
//! docs/errors.md lists the codes; a test compares it with this file.

use entitlements_bundle::Refusal as BundleRefusal;
use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::catalog;
use entitlements_model::fault::Fault;
use entitlements_model::kind::{Kind, Reason};
use entitlements_model::suggest;
use entitlements_model::time::Time;
use entitlements_token::Refusal;
use pgrx::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::fmt::{self, Display, Formatter};
use thiserror::Error as ThisError;

#[derive(Debug, ThisError)]
pub enum Error {
    #[error("account {} is not entitled to feature \"{feature}\"", name(account))]
    NotEntitled { account: Option<String>, feature: String, kind: Kind, reason: Reason },

    #[error("{0}")]
    LimitExceeded(Box<Exceeded>),

    #[error("could not serialize access due to concurrent use of a counter")]
    Serialization,

    #[error("unknown feature \"{}\"", shortened(feature))]
    UnknownFeature { feature: String, nearest: Vec<String> },

    #[error("feature \"{feature}\" is of kind {kind}, and this needs {needed}", kind = kind.as_str())]
    WrongKind { feature: String, kind: Kind, needed: &'static str },

    #[error("unknown plan \"{}\"", shortened(plan))]
    UnknownPlan { plan: String, nearest: Vec<String> },

    #[error("plan \"{plan}\" has no published version {}", version.map_or_else(String::new, |version| version.to_string()))]
    UnknownPlanVersion { plan: String, version: Option<i32> },

    #[error("unknown account \"{}\"", shortened(account))]
    UnknownAccount { account: String },

    #[error("invalid {argument}: {fault}")]
    InvalidArgument { argument: &'static str, fault: String, hint: Option<String> },

    #[error("element {index} of {argument}: {error}")]
    Element {
        argument: &'static str,
        /// From 0, as in SQL/JSON paths.
        index: usize,
        error: Box<Error>,
    },

    #[error("invalid catalog document: {}", summary(faults))]
    InvalidDocument { faults: Vec<Fault> },

    #[error("the catalog document conflicts with what is published: {}", summary(faults))]
    DocumentConflict { faults: Vec<Fault> },

    #[error("{message}")]
    Conflict { message: String, hint: String },

    #[error("unknown {object} {}", shortened(id))]
    UnknownRow { object: &'static str, id: String },

    #[error("{}", .0.message)]
    BundleRefused(Box<RefusedBundle>),

    #[error("must be owner of table {table}")]
    NotOwner { table: String },

    #[error("the session token is refused: {0}")]
    TokenRefused(Refusal),

    #[error("the extension cannot work here: {fault}")]
    Installation { fault: String, hint: &'static str },

    #[error("{0}")]
    Internal(String),
}

/// A signed document that changes nothing.
#[derive(Debug)]
pub struct RefusedBundle {
    pub message: String,
    /// One word for programs.
    pub reason: &'static str,
    /// Two documents of one issuer contradict each other.
    pub is_alarm: bool,
    pub faults: Vec<Fault>,
}

impl RefusedBundle {
    /// With what can be wrong with the content only where the catalog and the files of this database are.
    pub fn new(reason: &'static str, message: impl Into<String>, faults: Vec<Fault>) -> Self {
        Self { message: message.into(), reason, is_alarm: false, faults }
    }

    fn hint(&self) -> &'static str {
        match self.reason {
            "unknown_key" => "Trust the issuer's key with entitlements.trust_key, if you know it to be the issuer's.",
            "distrusted_key" | "key_out_of_time" => "Ask the issuer for a bundle signed with a key that is valid.",
            "other_purpose" | "other_issuer" => {
                "The key was trusted for something else; a key signs for one issuer and purpose."
            }
            "other_audience" => "Ask for one that is issued to this database's name; entitlements.set_deployment names it.",
            "replayed" => {
                "A newer bundle is in force. After an issuer lost its numbers, see entitlements.reset_bundle_sequence."
            }
            "sequence_reused" | "history_forked" => {
                "ALARM: two bundles of this issuer contradict each other. Its key was copied, or its database restored from a backup: ask the issuer."
            }
            "issued_in_future" | "not_yet_valid" => "Import it later; if the clock of this machine is wrong, correct it.",
            "expired" => "Ask the issuer for a new one.",
            "other_recipient" | "no_identity" => "The identity is in the file that entitlements.age_identity_file names.",
            "catalog_conflict" => {
                "What customers bought does not change: the issuer has to use other keys. DETAIL lists the conflicts."
            }
            _ => "Nothing was changed. DETAIL has the reason, and the faults with their JSON paths where there are any.",
        }
    }
}

impl From<BundleRefusal> for Error {
    fn from(refusal: BundleRefusal) -> Self {
        let faults = refusal.faults();
        let message = match faults {
            [] => refusal.to_string(),
            faults => format!("{refusal}: {}", summary(faults)),
        };
        Self::BundleRefused(Box::new(RefusedBundle {
            message,
            reason: refusal.word(),
            is_alarm: refusal.is_alarm(),
            faults: faults.to_vec(),
        }))
    }
}

/// A request beyond an allowance, or faster than a rate.
#[derive(Debug)]
pub struct Exceeded {
    pub account: String,
    pub feature: String,
    /// limit_exceeded or rate_limited.
    pub reason: Reason,
    pub allowance: Allowance,
    pub used: Amount,
    pub requested: Amount,
    /// When usage starts again at zero, or a rate would allow the request; None: never.
    pub resets_at: Option<Time>,
}

impl Display for Exceeded {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { feature, used, allowance, requested, .. } = self;
        let account = shortened(&self.account);
        match self.reason {
            Reason::RateLimited => {
                write!(
                    f,
                    "account \"{account}\" uses feature \"{feature}\" faster than its rate allows, and {requested} more were asked for"
                )
            }
            _ => write!(
                f,
                "account \"{account}\" has used {used} of {allowance} of feature \"{feature}\", and {requested} more were asked for"
            ),
        }
    }
}

impl Exceeded {
    fn hint(&self) -> String {
        match (self.reason, self.resets_at) {
            (Reason::RateLimited, Some(at)) => format!("Ask again at {} or later.", utc(at)),
            (Reason::RateLimited, None) => "So many are never allowed at once: ask for fewer at a time.".to_owned(),
            (_, Some(at)) => {
                format!("Usage starts again at zero at {}; a larger plan or a credit gives more at once.", utc(at))
            }
            (_, None) => "Release what is not needed, or let the account have a larger plan or a credit.".to_owned(),
        }
    }

    fn detail(&self) -> Value {
        json!({
            "account": self.account, "feature": self.feature, "reason": self.reason.as_str(),
            "allowance": number(self.allowance), "used": number(Allowance::Finite(self.used)),
            "requested": number(Allowance::Finite(self.requested)), "resets_at": self.resets_at.map(utc),
        })
    }
}

fn name(account: &Option<String>) -> String {
    account.as_ref().map_or_else(|| "NULL".to_owned(), |account| format!("\"{}\"", shortened(account)))
}

/// A text for a message: long ones end in an ellipsis.
fn shortened(text: &str) -> String {
    const MOST: usize = 200;
    match text.char_indices().nth(MOST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// The first fault in full, and how many there are.
pub fn summary(faults: &[Fault]) -> String {
    let first =
        faults.first().map_or_else(String::new, |fault| format!("{}: {}", shortened(&fault.path), shortened(&fault.fault)));
    match faults.len() {
        0 | 1 => first,
        2 => format!("{first} (and 1 more fault)"),
        count => format!("{first} (and {} more faults)", count - 1),
    }
}

fn listed(faults: &[Fault]) -> Value {
    faults.iter().map(|Fault { path, fault }| json!({"path": shortened(path), "fault": shortened(fault)})).collect()
}

fn did_you_mean(nearest: &[String]) -> Option<String> {
    let quoted: Vec<String> = nearest.iter().map(|known| format!("\"{known}\"")).collect();
    (!quoted.is_empty()).then(|| format!("Perhaps you meant {}.", quoted.join(" or ")))
}

/// A JSON number with every digit; null for unlimited.
fn number(allowance: Allowance) -> Option<Box<RawValue>> {
    match allowance {
        Allowance::Finite(amount) => RawValue::from_string(amount.to_string()).ok(),
        Allowance::Unlimited => None,
    }
}

/// ISO 8601 in UTC.
fn utc(time: Time) -> String {
    TimestampWithTimeZone::try_from(time).map_or_else(
        |_| "infinity".to_owned(),
        |time| time.at_timezone("UTC").map_or_else(|_| String::new(), |t| format!("{}Z", t.to_iso_string())),
    )
}

fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    suggest::nearest(key, known, 3).into_iter().map(str::to_owned).collect()
}

impl Error {
    pub fn argument(argument: &'static str, fault: impl Into<String>) -> Self {
        Self::InvalidArgument { argument, fault: fault.into(), hint: None }
    }

    /// With the nearest of the keys that are known.
    pub fn unknown_feature<'a>(feature: &str, known: impl Iterator<Item = &'a str>) -> Self {
        Self::UnknownFeature { feature: feature.to_owned(), nearest: nearest(feature, known) }
    }

    /// With the nearest of the keys that are known.
    pub fn unknown_plan<'a>(plan: &str, known: impl Iterator<Item = &'a str>) -> Self {
        Self::UnknownPlan { plan: plan.to_owned(), nearest: nearest(plan, known) }
    }

    /// An object of the extension is not as this version of it makes it.
    pub fn incomplete(fault: impl Into<String>) -> Self {
        Self::Installation {
            fault: fault.into(),
            hint: "ALTER EXTENSION entitlements UPDATE brings the objects up to date.",
        }
    }

    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::NotEntitled { .. } => "NE001",
            Self::LimitExceeded(_) => "NE002",
            Self::Serialization => "40001",
            Self::UnknownFeature { .. } => "NE003",
            Self::WrongKind { .. } => "NE004",
            Self::UnknownPlan { .. } | Self::UnknownPlanVersion { .. } => "NE005",
            Self::UnknownAccount { .. } => "NE006",
            Self::InvalidArgument { .. } => "NE007",
            Self::Element { error, .. } => error.sqlstate(),
            Self::InvalidDocument { .. } => "NE008",
            Self::Conflict { .. } | Self::DocumentConflict { .. } => "NE009",
            Self::UnknownRow { .. } => "NE010",
            Self::Installation { .. } => "NE011",
            Self::NotOwner { .. } => "42501",
            Self::BundleRefused(_) => "NE013",
            Self::TokenRefused(_) => "NE012",
            Self::Internal(_) => "XX000",
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotEntitled { account: None, .. } => Some(
                "Name the account, or bind one to the transaction with entitlements.authenticate or entitlements.set_account; NULL is entitled to nothing."
                    .to_owned(),
            ),
            Self::NotEntitled { account: Some(account), feature, reason, .. } => Some(match reason {
                Reason::UnknownAccount => format!(
                    "No account has this key. Create it with entitlements.subscribe or entitlements.define_account; key: {}",
                    shortened(account)
                ),
                _ => format!(
                    "SELECT entitlements.explain('{}', '{feature}') tells why.",
                    shortened(account).replace('\'', "''")
                ),
            }),
            Self::LimitExceeded(exceeded) => Some(exceeded.hint()),
            Self::Serialization => Some("The transaction might succeed if retried.".to_owned()),
            Self::UnknownFeature { nearest, .. } => did_you_mean(nearest)
                .or_else(|| Some("SELECT key FROM entitlements.features lists what is known.".to_owned())),
            Self::UnknownPlan { nearest, .. } => {
                did_you_mean(nearest).or_else(|| Some("SELECT key FROM entitlements.plans lists what is known.".to_owned()))
            }
            Self::UnknownPlanVersion { .. } => {
                Some("Publish the plan with entitlements.publish_plan or entitlements.apply_catalog.".to_owned())
            }
            Self::UnknownAccount { .. } => {
                Some("Accounts come into being by entitlements.define_account or entitlements.subscribe.".to_owned())
            }
            Self::InvalidArgument { hint, .. } => hint.clone(),
            Self::Element { error, .. } => error.hint(),
            Self::InvalidDocument { .. } => {
                Some("DETAIL lists each fault with its JSON path; nothing was written.".to_owned())
            }
            Self::DocumentConflict { .. } => Some(
                "What customers bought does not change: use another key. DETAIL lists each conflict; nothing was written."
                    .to_owned(),
            ),
            Self::Conflict { hint, .. } => Some(hint.clone()),
            Self::BundleRefused(refused) => Some(refused.hint().to_owned()),
            Self::Installation { hint, .. } => Some((*hint).to_owned()),
            Self::TokenRefused(Refusal::Expired) => Some("Ask the issuer for a new token.".to_owned()),
            Self::TokenRefused(Refusal::UnknownKey) => {
                Some("A key is trusted by entitlements.trust_key with purpose 'session'.".to_owned())
            }
            Self::TokenRefused(_)
            | Self::WrongKind { .. }
            | Self::UnknownRow { .. }
            | Self::NotOwner { .. }
            | Self::Internal(_) => None,
        }
    }

    /// The SQLSTATE that PostgREST answers with a status of HTTP, for the errors that are an answer to its user.
    pub fn http_sqlstate(&self) -> Option<&'static str> {
        match self {
            Self::NotEntitled { .. } => Some("PT403"),
            Self::LimitExceeded(exceeded) if exceeded.reason == Reason::RateLimited => Some("PT429"),
            Self::LimitExceeded(_) => Some("PT402"),
            Self::TokenRefused(_) => Some("PT401"),
            Self::Element { error, .. } => error.http_sqlstate(),
            _ => None,
        }
    }

    /// What a program needs to answer its user, as JSON.
    pub fn detail(&self) -> Option<String> {
        let detail: Value = match self {
            Self::NotEntitled { account, feature, kind, reason } => {
                // What is not granted has no allowance, and nothing was asked for but the feature itself.
                let none = kind.is_metered().then_some(0);
                json!({
                    "account": account, "feature": feature, "reason": reason.as_str(),
                    "allowance": none, "used": none, "requested": null, "resets_at": null,
                })
            }
            Self::LimitExceeded(exceeded) => exceeded.detail(),
            Self::UnknownFeature { feature, nearest } => json!({"feature": shortened(feature), "nearest": nearest}),
            Self::WrongKind { feature, kind, .. } => json!({"feature": feature, "kind": kind.as_str()}),
            Self::UnknownPlan { plan, nearest } => json!({"plan": shortened(plan), "nearest": nearest}),
            Self::UnknownPlanVersion { plan, version } => json!({"plan": plan, "version": version}),
            Self::UnknownAccount { account } => json!({"account": shortened(account)}),
            Self::InvalidDocument { faults } | Self::DocumentConflict { faults } => listed(faults),
            Self::BundleRefused(refused) => json!({
                "reason": refused.reason, "alarm": refused.is_alarm, "faults": listed(&refused.faults),
            }),
            Self::UnknownRow { object, id } => json!({"object": object, "id": shortened(id)}),
            Self::TokenRefused(refusal) => json!({"reason": refusal.as_str()}),
            Self::InvalidArgument { argument, .. } => json!({"argument": argument}),
            Self::Element { index, error, .. } => {
                let mut detail = error.detail().and_then(|detail| serde_json::from_str(&detail).ok()).unwrap_or(json!({}));
                detail["index"] = json!(index);
                detail
            }
            Self::Serialization
            | Self::Conflict { .. }
            | Self::NotOwner { .. }
            | Self::Installation { .. }
            | Self::Internal(_) => return None,
        };
        Some(detail.to_string())
    }
}

impl From<catalog::Error> for Error {
    fn from(error: catalog::Error) -> Self {
        match error {
            catalog::Error::Invalid(faults) => Self::InvalidDocument { faults },
            catalog::Error::Conflict(faults) => Self::DocumentConflict { faults },
            catalog::Error::StaleRevision { .. } => Self::Conflict {
                message: error.to_string(),
                hint: "Somebody changed the catalog meanwhile. Export it again and make the change in that document."
                    .to_owned(),
            },
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::TokenRefused(refusal)
    }
}

impl From<pgrx::spi::Error> for Error {
    fn from(error: pgrx::spi::Error) -> Self {
        Self::Internal(format!("a query of the extension failed: {error}"))
    }
}
