//! Rows that never change: the triggers on audit_log, plan_versions and plan_features.
//!
//! They fire under every setting of session_replication_role. The one exception is the erasure of an account's personal data,
//! which only `erase_contents` can ask for: its permission is a flag of this backend that SQL has no way to set.

use crate::error::Error;
use crate::pg::backend::BackendFlag;
use crate::pg::error::raise;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

static ERASING: BackendFlag = BackendFlag::lowered();

/// While it lives, content and salt of audit entries can be removed. Ends with its scope, also by an error.
struct Permission;

impl Permission {
    fn to_erase() -> Self {
        ERASING.raise();
        Self
    }
}

impl Drop for Permission {
    fn drop(&mut self) {
        ERASING.lower();
    }
}

/// Removes the contents of all of the account's entries, whose chain still verifies if an entry about the erasure follows.
pub fn erase_contents(client: &mut SpiClient<'_>, account_id: i64) -> Result<(), Error> {
    let _permission = Permission::to_erase();
    client.update(
        "UPDATE entitlements.audit_log SET content = NULL, salt = NULL WHERE chain_id = $1 AND content IS NOT NULL",
        None,
        &[account_id.into()],
    )?;
    Ok(())
}

#[pg_trigger(sql = false)]
fn refuse_change<'a>(trigger: &'a PgTrigger<'a>) -> Result<Option<PgHeapTuple<'a, impl WhoAllocated>>, PgTriggerError> {
    if ERASING.is_raised() && matches!(trigger.op()?, PgTriggerOperation::Update) {
        return Ok(trigger.new());
    }
    let table = trigger.table_name()?;
    raise(Error::Conflict {
        message: format!("rows of entitlements.{table} never change"),
        hint: match table.as_str() {
            "audit_log" => "Every change is a new entry; entitlements.erase_account removes an account's personal data.",
            _ => "Publish a new version of the plan with entitlements.apply_catalog or entitlements.publish_plan.",
        }
        .to_owned(),
    })
}
