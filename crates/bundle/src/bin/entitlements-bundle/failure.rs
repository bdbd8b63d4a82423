//! Why a command did not do what it was asked for.

use std::io;
use std::path::Path;

use entitlements_bundle::seal::SealError;
use entitlements_bundle::{KeyError, Refusal};
use entitlements_model::fault::Fault;
use entitlements_model::json::Json;

use crate::plain::Plain;

pub struct Failure {
    /// One word for programs.
    word: &'static str,
    message: String,
    faults: Vec<Fault>,
}

impl Failure {
    pub fn file(path: &Path, error: &io::Error) -> Self {
        Self { word: "file", message: format!("{}: {error}", path.display()), faults: Vec::new() }
    }

    /// `what` is no document of its form.
    pub fn invalid(what: impl Into<String>, faults: Vec<Fault>) -> Self {
        Self { word: "invalid", message: format!("{} is not valid", what.into()), faults }
    }

    pub fn key(path: &Path, error: KeyError) -> Self {
        match error {
            KeyError::Invalid(faults) => Self::invalid(format!("the key in {}", path.display()), faults),
            error => Self::no_entropy(&error.to_string()),
        }
    }

    pub fn no_entropy(message: &str) -> Self {
        Self { word: "no_entropy", message: message.to_owned(), faults: Vec::new() }
    }

    pub fn report(&self, json: bool) {
        if json {
            let faults = self.faults.iter().map(Fault::to_json).collect();
            let members = [("error", Json::string(self.word)), ("message", Json::string(&self.message))];
            eprintln!("{}", Json::object(members.into_iter().chain([("faults", Json::Array(faults))])));
        } else {
            eprintln!("entitlements-bundle: {}", Plain(&self.message));
            for fault in &self.faults {
                eprintln!("  {}", Plain(&fault.to_string()));
            }
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { word: refusal.word(), message: refusal.to_string(), faults: refusal.faults().to_vec() }
    }
}

impl From<SealError> for Failure {
    fn from(error: SealError) -> Self {
        Self { word: "encryption", message: error.to_string(), faults: Vec::new() }
    }
}
