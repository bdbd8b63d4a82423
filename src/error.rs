//! Every way in which the extension says no: SQLSTATE class NE, a plain message, a hint, and DETAIL as JSON for programs.
//!
//! docs/errors.md lists the codes; a test compares it with this file.

use entitlements_model::catalog;
use entitlements_model::fault::Fault;
use entitlements_model::kind::{Kind, Reason};
use serde_json::{Value, json};
use thiserror::Error as ThisError;

#[derive(Debug, ThisError)]
pub enum Error {
    #[error("account {} is not entitled to feature \"{feature}\"", name(account))]
    NotEntitled { account: Option<String>, feature: String, kind: Kind, reason: Reason },

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

    #[error("invalid catalog document: {}", summary(faults))]
    InvalidDocument { faults: Vec<Fault> },

    #[error("the catalog document conflicts with what is published: {}", summary(faults))]
    DocumentConflict { faults: Vec<Fault> },

    #[error("{message}")]
    Conflict { message: String, hint: String },

    #[error("unknown {object} {id}")]
    UnknownRow { object: &'static str, id: String },

    #[error("the extension cannot work here: {fault}")]
    Installation { fault: String, hint: &'static str },

    #[error("{0}")]
    Internal(String),
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
fn summary(faults: &[Fault]) -> String {
    let first =
        faults.first().map_or_else(String::new, |fault| format!("{}: {}", shortened(&fault.path), shortened(&fault.fault)));
    match faults.len() {
        0 | 1 => first,
        2 => format!("{first} (and 1 more fault)"),
        count => format!("{first} (and {} more faults)", count - 1),
    }
}

fn did_you_mean(nearest: &[String]) -> Option<String> {
    let quoted: Vec<String> = nearest.iter().map(|known| format!("\"{known}\"")).collect();
    (!quoted.is_empty()).then(|| format!("Perhaps you meant {}.", quoted.join(" or ")))
}

impl Error {
    pub fn argument(argument: &'static str, fault: impl Into<String>) -> Self {
        Self::InvalidArgument { argument, fault: fault.into(), hint: None }
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
            Self::UnknownFeature { .. } => "NE003",
            Self::WrongKind { .. } => "NE004",
            Self::UnknownPlan { .. } | Self::UnknownPlanVersion { .. } => "NE005",
            Self::UnknownAccount { .. } => "NE006",
            Self::InvalidArgument { .. } => "NE007",
            Self::InvalidDocument { .. } => "NE008",
            Self::Conflict { .. } | Self::DocumentConflict { .. } => "NE009",
            Self::UnknownRow { .. } => "NE010",
            Self::Installation { .. } => "NE011",
            Self::Internal(_) => "XX000",
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotEntitled { account: None, .. } => Some("Name the account; NULL is entitled to nothing.".to_owned()),
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
            Self::InvalidDocument { .. } => {
                Some("DETAIL lists each fault with its JSON path; nothing was written.".to_owned())
            }
            Self::DocumentConflict { .. } => Some(
                "What customers bought does not change: use another key. DETAIL lists each conflict; nothing was written."
                    .to_owned(),
            ),
            Self::Conflict { hint, .. } => Some(hint.clone()),
            Self::Installation { hint, .. } => Some((*hint).to_owned()),
            Self::WrongKind { .. } | Self::UnknownRow { .. } | Self::Internal(_) => None,
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
            Self::UnknownFeature { feature, nearest } => json!({"feature": shortened(feature), "nearest": nearest}),
            Self::WrongKind { feature, kind, .. } => json!({"feature": feature, "kind": kind.as_str()}),
            Self::UnknownPlan { plan, nearest } => json!({"plan": shortened(plan), "nearest": nearest}),
            Self::UnknownPlanVersion { plan, version } => json!({"plan": plan, "version": version}),
            Self::UnknownAccount { account } => json!({"account": shortened(account)}),
            Self::InvalidDocument { faults } | Self::DocumentConflict { faults } => faults
                .iter()
                .map(|Fault { path, fault }| json!({"path": shortened(path), "fault": shortened(fault)}))
                .collect::<Vec<_>>()
                .into(),
            Self::UnknownRow { object, id } => json!({"object": object, "id": id}),
            Self::InvalidArgument { argument, .. } => json!({"argument": argument}),
            Self::Conflict { .. } | Self::Installation { .. } | Self::Internal(_) => return None,
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

impl From<pgrx::spi::Error> for Error {
    fn from(error: pgrx::spi::Error) -> Self {
        Self::Internal(format!("a query of the extension failed: {error}"))
    }
}
