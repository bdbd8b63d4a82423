//! What a machine without a network asks for or gives up, for people.

use entitlements_bundle::{Deactivation, Kid, LicenceRequest};
use entitlements_model::json::Json;

use super::{Shown, row};

impl Shown for LicenceRequest {
    fn lines(&self, kid: Kid, _: bool) -> Vec<String> {
        let mut lines = vec![row("request to", &self.vendor), row("account", &self.account)];
        lines.extend(self.holder.as_ref().map(|holder| row("holder", holder)));
        lines.extend(self.application.as_ref().map(|application| row("application", application)));
        lines.push(row("machine", self.machine));
        lines.push(row("key", kid));
        lines.push(row("nonce", &self.nonce));
        lines.push(row("made", self.made_at));
        lines.extend(self.features.iter().map(|feature| row("feature", feature)));
        lines
    }

    fn claims(&self) -> Json {
        self.to_json()
    }
}

impl Shown for Deactivation {
    fn lines(&self, kid: Kid, _: bool) -> Vec<String> {
        vec![
            row("licence", &self.licence),
            row("given up to", &self.vendor),
            row("machine", self.machine),
            row("key", kid),
            row("made", self.made_at),
        ]
    }

    fn claims(&self) -> Json {
        self.to_json()
    }
}
