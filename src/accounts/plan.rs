//! Plans and versions as subscriptions name them.

use crate::error::Error;
use pgrx::spi::SpiClient;

pub struct Plan {
    pub id: i32,
    pub key: String,
    pub archived: bool,
}

impl Plan {
    pub fn find(client: &mut SpiClient<'_>, key: &str) -> Result<Self, Error> {
        let found = client.update(
            "SELECT id, archived_at IS NOT NULL FROM entitlements.plans WHERE key = $1",
            Some(1),
            &[key.into()],
        )?;
        if found.is_empty() {
            return Err(unknown(client, key)?);
        }
        let (id, archived) = found.first().get_two::<i32, bool>()?;
        Ok(Self { id: id.expect("a key column"), key: key.to_owned(), archived: archived.unwrap_or(false) })
    }

    pub fn by_id(client: &mut SpiClient<'_>, id: i32) -> Result<Self, Error> {
        let found = client.update(
            "SELECT key, archived_at IS NOT NULL FROM entitlements.plans WHERE id = $1",
            Some(1),
            &[id.into()],
        )?;
        let (key, archived) = found.first().get_two::<String, bool>()?;
        Ok(Self { id, key: key.expect("rows refer to plans that exist"), archived: archived.unwrap_or(false) })
    }

    /// The id of the plan's version; without a number, of the latest.
    pub fn version(&self, client: &mut SpiClient<'_>, number: Option<i32>) -> Result<i64, Error> {
        let found = client.update(
            "SELECT id FROM entitlements.plan_versions
              WHERE plan_id = $1 AND ($2 IS NULL OR version = $2) ORDER BY version DESC",
            Some(1),
            &[self.id.into(), number.into()],
        )?;
        if found.is_empty() {
            return Err(Error::UnknownPlanVersion { plan: self.key.clone(), version: number });
        }
        Ok(found.first().get_one()?.expect("a key column"))
    }

    pub fn refuse_archived(&self) -> Result<(), Error> {
        if !self.archived {
            return Ok(());
        }
        Err(Error::Conflict {
            message: format!("plan \"{}\" is archived", self.key),
            hint: "It takes no new subscriptions; those that hold it keep it and can be renewed.".to_owned(),
        })
    }
}

fn unknown(client: &mut SpiClient<'_>, key: &str) -> Result<Error, Error> {
    let mut keys = Vec::new();
    for row in client.update("SELECT key FROM entitlements.plans", None, &[])? {
        keys.extend(row.get::<String>(1)?);
    }
    Ok(Error::unknown_plan(key, keys.iter().map(String::as_str)))
}
