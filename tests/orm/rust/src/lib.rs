//! Says of each thing that a recipe shows whether it held.

use std::process::ExitCode;

#[derive(Default)]
pub struct Checks {
    failed: usize,
}

impl Checks {
    pub fn check(&mut self, what: &str, holds: bool) {
        println!("{} - {what}", if holds { "ok" } else { "not ok" });
        self.failed += usize::from(!holds);
    }

    /// The program's status: a failure unless everything held.
    pub fn status(&self) -> ExitCode {
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
