//! Features as overrides and blocks name them.

use crate::error::Error;
use entitlements_model::kind::Kind;
use pgrx::spi::SpiClient;

pub struct Feature {
    pub id: i32,
    pub key: String,
    pub kind: Kind,
    /// JSON Schema of a config feature's values.
    pub value_schema: Option<String>,
}

impl Feature {
    pub fn find(client: &mut SpiClient<'_>, key: &str) -> Result<Self, Error> {
        let found = client.update(
            "SELECT id, kind, value_schema::pg_catalog.text FROM entitlements.features WHERE key = $1",
            Some(1),
            &[key.into()],
        )?;
        if found.is_empty() {
            return Err(unknown(client, key)?);
        }
        let (id, kind, value_schema) = found.first().get_three::<i32, String, String>()?;
        let kind = kind.and_then(|kind| kind.parse().ok());
        Ok(Self {
            id: id.expect("a key column"),
            key: key.to_owned(),
            kind: kind.ok_or_else(|| Error::Internal(format!("feature \"{key}\" is of no known kind")))?,
            value_schema,
        })
    }
}

fn unknown(client: &mut SpiClient<'_>, key: &str) -> Result<Error, Error> {
    let mut keys = Vec::new();
    for row in client.update("SELECT key FROM entitlements.features", None, &[])? {
        keys.extend(row.get::<String>(1)?);
    }
    Ok(Error::unknown_feature(key, keys.iter().map(String::as_str)))
}
