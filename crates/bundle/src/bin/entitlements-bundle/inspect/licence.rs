//! A licence, for people.

use entitlements_bundle::{Kid, Licence};
use entitlements_model::json::Json;

use super::{Shown, row, seconds};

impl Shown for Licence {
    fn lines(&self, kid: Kid, _: bool) -> Vec<String> {
        let mut lines = vec![row("licence", &self.id), row("issuer", &self.issuer), row("account", &self.account)];
        lines.extend(self.holder.as_ref().map(|holder| row("holder", holder)));
        lines.push(row("application", self.audience.as_deref().unwrap_or("any")));
        lines.push(row("key", kid));
        lines.push(row("issued", self.issued_at));
        lines.push(row("valid from", self.not_before));
        lines.push(row("expires", self.expires));
        lines.push(row("lease", seconds(self.lease)));
        lines.extend(self.heartbeat.map(|heartbeat| row("heartbeat", seconds(heartbeat))));
        lines.extend(self.seat.as_ref().map(|seat| row("seat", seat)));
        lines.push(row("machine", self.machine.as_ref().map_or("any".into(), |binding| binding.machine.to_string())));
        lines.extend(self.reason.as_ref().map(|reason| row("reason", reason)));
        lines.extend(self.features.iter().map(|(feature, value)| row("feature", format!("{feature} {value}"))));
        lines
    }

    fn claims(&self) -> Json {
        self.to_json()
    }
}
