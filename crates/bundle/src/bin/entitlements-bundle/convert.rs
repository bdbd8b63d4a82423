//! A catalog written by people, as a catalog document.

use std::path::PathBuf;

use clap::Args;
use entitlements_model::catalog::{Error, State, plan_changes};
use entitlements_model::json::Limits;

use crate::failure::Failure;
use crate::files;
use crate::yaml;

#[derive(Args)]
pub struct Convert {
    /// Where to write the catalog document; without it, to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The file changes a catalog that has more than it names: do not check it as a whole catalog
    #[arg(long)]
    partial: bool,
    /// The catalog in YAML
    #[arg(value_name = "FILE")]
    catalog: PathBuf,
}

impl Convert {
    pub fn run(self) -> Result<(), Failure> {
        let invalid = |faults| Failure::invalid(format!("the catalog in {}", self.catalog.display()), faults);
        let document = yaml::parse(&files::read(&self.catalog)?, Limits::CATALOG).map_err(|fault| invalid(vec![fault]))?;
        if !self.partial {
            plan_changes(&State::default(), &document).map_err(|error| match error {
                Error::Invalid(faults) | Error::Conflict(faults) => invalid(faults),
                Error::StaleRevision { .. } => invalid(Vec::new()),
            })?;
        }
        files::write(self.output.as_deref(), &document.to_string())
    }
}
