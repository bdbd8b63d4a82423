//! Whether an application on a machine would accept a licence.

use std::collections::BTreeSet;

use entitlements_bundle::{Place, Purpose, authenticate, authenticate_as, judge_licence};
use entitlements_model::json::Json;

use super::Verify;
use crate::failure::Failure;
use crate::files;
use crate::plain::Plain;

impl Verify {
    pub(super) fn licence(&self, text: &str, json: bool) -> Result<(), Failure> {
        let place = Place {
            audience: self.audience.as_deref(),
            machine: self.machine.as_deref().map(|path| files::read_machine(path, &self.issuer)).transpose()?,
            key: self.machine_key.as_deref().map(files::read_public_key).transpose()?.map(|key| key.kid()),
            nonce: None,
        };
        let authentic = authenticate_as(text, &self.trust(Purpose::Licence)?)?;
        let granted = judge_licence(authentic, place, &self.revoked()?, self.clock())?;
        let licence = granted.licence;
        if json {
            let answer = Json::object([
                ("outcome", Json::string("accepted")),
                ("issuer", Json::string(&licence.issuer)),
                ("licence", Json::string(&licence.id)),
                ("account", Json::string(licence.account.as_str())),
                ("holder", licence.holder.as_ref().map_or(Json::Null, Json::string)),
                ("machine", Json::Bool(licence.machine.is_some())),
                ("until", Json::number(licence.expires.seconds())),
                ("renewal_due", Json::Bool(granted.renewal_due)),
                ("features", Json::object(licence.features.iter().map(|(key, value)| (key.as_str(), value.clone())))),
            ]);
            return files::write(None, &answer.to_string());
        }
        let due = if granted.renewal_due { ", renewal is due" } else { "" };
        let mut lines = vec![
            format!("accepted: licence {} of {} for {}", licence.id, licence.issuer, licence.account),
            format!("until   {}{due}", licence.expires),
        ];
        lines.extend(licence.features.iter().map(|(feature, value)| format!("grants  {feature} {value}")));
        let lines: Vec<String> = lines.iter().map(|line| Plain(line).to_string()).collect();
        files::write(None, &lines.join("\n"))
    }

    /// What the bundle revokes, if one is given and it is the issuer's.
    fn revoked(&self) -> Result<BTreeSet<String>, Failure> {
        let Some(path) = &self.revoked else {
            return Ok(BTreeSet::new());
        };
        let bundle = authenticate(&files::read(path)?, &self.trust(Purpose::Bundle)?)?;
        Ok(bundle.into_bundle().revoked)
    }
}
