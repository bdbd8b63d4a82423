//! What this database is, and the highest time it has seen.

use crate::accounts::arguments::{required_text, timestamp};
use crate::audit::{self, Chain, Change};
use crate::error::Error;
use crate::pg::cluster;
use crate::pg::error::or_raise;
use crate::pg::session::connect_to_change;
use crate::pg::snapshot::statement_time;
use crate::pg::subtransaction::upsert;
use crate::row::present;
use entitlements_bundle::Clock;
use entitlements_model::time::{BEGINNING, Time};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::json;

/// What the table has; without a row, nothing is known.
pub struct Deployment {
    pub name: Option<String>,
    pub highest_seen: Time,
    /// Where the database was when that was last known to be right.
    pub place: Option<Place>,
}

/// Where a database is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub system_identifier: i64,
    pub database: i64,
    /// Of the cluster's log.
    pub timeline: i32,
}

impl Deployment {
    pub fn read(client: &SpiClient<'_>) -> Result<Self, Error> {
        const READ: &str =
            "SELECT name, highest_seen, system_identifier, database_oid, timeline FROM entitlements.deployment";
        let found = client.select(READ, Some(1), &[])?;
        if found.is_empty() {
            return Ok(Self { name: None, highest_seen: BEGINNING, place: None });
        }
        let row = found.into_iter().next().ok_or_else(|| Error::Internal("the deployment is gone".to_owned()))?;
        Ok(Self {
            name: row.get(1)?,
            highest_seen: row.get::<TimestampWithTimeZone>(2)?.map_or(BEGINNING, Time::from),
            place: Some(Place {
                system_identifier: present(&row, 3)?,
                database: present(&row, 4)?,
                timeline: present(&row, 5)?,
            }),
        })
    }

    pub fn clock(&self) -> Clock {
        Clock { now: statement_time(), highest: self.highest_seen }
    }
}

/// Notes that `time` has come.
pub fn raise_highest(client: &mut SpiClient<'_>, time: Time) -> Result<(), Error> {
    upsert(
        client,
        c"deployment",
        "INSERT INTO entitlements.deployment AS known (highest_seen, system_identifier, database_oid, timeline) VALUES ($1, $2, $3, $4)
         ON CONFLICT (only_row) DO UPDATE SET highest_seen = excluded.highest_seen WHERE known.highest_seen < excluded.highest_seen",
        &[
            timestamp(time).into(),
            cluster::system_identifier().into(),
            cluster::database().into(),
            cluster::timeline().unwrap_or(0).into(),
        ],
    )?;
    Ok(())
}

/// Notes that the database is rightly where it is: until then doctor says that it is a copy or was recovered.
pub fn know_place(client: &mut SpiClient<'_>) -> Result<(), Error> {
    client.update(
        "UPDATE entitlements.deployment SET system_identifier = $1, database_oid = $2, timeline = $3
          WHERE (system_identifier, database_oid, timeline) IS DISTINCT FROM ($1, $2, $3)",
        None,
        &[cluster::system_identifier().into(), cluster::database().into(), cluster::timeline().unwrap_or(0).into()],
    )?;
    Ok(())
}

/// Most bytes of a name: what the `aud` of a bundle may have.
const NAME_BYTES: usize = 255;

/// The name of this or another database.
pub fn database_name<'a>(argument: &'static str, name: Option<&'a str>) -> Result<&'a str, Error> {
    match required_text(argument, name)? {
        name if name.len() > NAME_BYTES => Err(Error::argument(argument, format!("it is longer than {NAME_BYTES} bytes"))),
        name if name.chars().any(char::is_control) => Err(Error::argument(argument, "it contains a control character")),
        name => Ok(name),
    }
}

#[pg_extern(sql = false)]
fn set_deployment(name: Option<&str>) {
    or_raise(connect_to_change(|client| {
        let name = database_name("name", name)?;
        audit::take_turn(client, Chain::Catalog)?;
        let old = Deployment::read(client)?.name;
        raise_highest(client, statement_time())?;
        know_place(client)?;
        if old.as_deref() == Some(name) {
            return Ok(());
        }
        client.update("UPDATE entitlements.deployment SET name = $1", None, &[name.into()])?;
        let change = Change {
            action: "name",
            object: "deployment",
            object_id: name.to_owned(),
            old: old.map(|name| json!({ "name": name })),
            new: Some(json!({ "name": name })),
            reason: None,
        };
        audit::record(client, Chain::Catalog, &[change])
    }));
}
