//! A catalog written by people, as a catalog document.

use std::path::PathBuf;

use clap::Args;
use entitlements_model::catalog::{Error, State, plan_changes};
use entitlements_model::json::{Json, Limits};

use crate::failure::Failure;
use crate::files;
use crate::plain::Plain;
use crate::pricing;
use crate::yaml::{self, Infinity};

#[derive(Args)]
pub struct Convert {
    /// Where to write the catalog document; without it, to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The file changes a catalog that has more than it names: do not check it as a whole catalog
    #[arg(long)]
    partial: bool,
    /// The catalog in YAML, or a Pricing2Yaml file
    #[arg(value_name = "FILE")]
    catalog: PathBuf,
}

impl Convert {
    pub fn run(self, json: bool) -> Result<(), Failure> {
        let invalid = |faults| Failure::invalid(format!("the catalog in {}", self.catalog.display()), faults);
        let text = files::read(&self.catalog)?;
        let is_pricing = pricing::is_pricing(&text);
        let infinity = if is_pricing { Infinity::Unlimited } else { Infinity::Refused };
        let mut document = yaml::parse(&text, Limits::CATALOG, infinity).map_err(|fault| invalid(vec![fault]))?;
        let mut notes = Vec::new();
        if is_pricing {
            let converted = pricing::convert(&document).map_err(invalid)?;
            (document, notes) = (converted.catalog, converted.notes);
        }
        if !self.partial {
            plan_changes(&State::default(), &document).map_err(|error| match error {
                Error::Invalid(faults) | Error::Conflict(faults) => invalid(faults),
                Error::StaleRevision { .. } => invalid(Vec::new()),
            })?;
        }
        files::write(self.output.as_deref(), &document.to_string())?;
        report(&notes, json);
        Ok(())
    }
}

/// What of the file is not in the document, to standard error.
fn report(notes: &[String], json: bool) {
    match json {
        true if notes.is_empty() => {}
        true => eprintln!("{}", Json::object([("notes", Json::Array(notes.iter().map(Json::string).collect()))])),
        false => notes.iter().for_each(|note| eprintln!("note: {}", Plain(note))),
    }
}
