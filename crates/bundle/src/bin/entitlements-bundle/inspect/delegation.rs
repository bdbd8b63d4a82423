//! The return of a delegation, for people.

use entitlements_bundle::{DelegationReturn, Kid};
use entitlements_model::json::Json;

use super::{Shown, row};

impl Shown for DelegationReturn {
    fn lines(&self, kid: Kid, _all: bool) -> Vec<String> {
        vec![
            row("site", &self.issuer),
            row("vendor", &self.audience),
            row("delegation", self.id),
            row("unused", self.unused),
            row("key", kid),
            row("issued", self.issued_at),
        ]
    }

    fn claims(&self) -> Json {
        self.to_json()
    }
}
