//! Recovery of an issuer's sequence numbers.

use crate::accounts::arguments::{required, required_text};
use crate::audit::{self, Chain, Change};
use crate::error::Error;
use crate::pg::error::or_raise;
use crate::pg::session::connect_to_change;
use pgrx::prelude::*;
use serde_json::json;

#[pg_extern(sql = false)]
fn reset_bundle_sequence(issuer: Option<&str>, reason: Option<&str>, accepted: Option<i64>) {
    or_raise(connect_to_change(|client| {
        let issuer = required_text("issuer", issuer)?;
        let reason = required_text("reason", reason)?;
        let accepted = required("accepted", accepted)?;
        if accepted < 0 {
            return Err(Error::argument("accepted", "it is below zero"));
        }
        audit::take_turn(client, Chain::Catalog)?;
        let found = client.update(
            "UPDATE entitlements.bundles SET reset_to = $2
              WHERE id = (SELECT max(id) FROM entitlements.bundles WHERE issuer = $1) RETURNING sequence",
            None,
            &[issuer.into(), accepted.into()],
        )?;
        if found.is_empty() {
            return Err(Error::UnknownRow { object: "bundle", id: format!("of {issuer}") });
        }
        let change = Change {
            action: "reset",
            object: "bundle",
            object_id: issuer.to_owned(),
            old: Some(json!({ "sequence": found.first().get_one::<i64>()? })),
            new: Some(json!({ "accepted": accepted })),
            reason: Some(reason.to_owned()),
        };
        audit::record(client, Chain::Catalog, &[change])
    }));
}
