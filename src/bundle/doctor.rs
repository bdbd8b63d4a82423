//! What an operator should know before customers notice.

use super::deployment::Deployment;
use super::status::{self, Status};
use super::{SOURCE_PREFIX, trust};
use crate::error::Error;
use crate::pg::cluster;
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use entitlements_bundle::{NumericDate, Phase};
use entitlements_model::time::Time;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::{Value, json};

struct Finding {
    severity: &'static str,
    finding: &'static str,
    object: String,
    detail: Value,
    hint: &'static str,
}

#[pg_extern(sql = false)]
fn doctor() -> TableIterator<
    'static,
    (name!(severity, String), name!(finding, String), name!(object, String), name!(detail, JsonbText), name!(hint, String)),
> {
    let findings = or_raise(Spi::connect(findings));
    TableIterator::new(findings.into_iter().map(|found| {
        (
            found.severity.to_owned(),
            found.finding.to_owned(),
            found.object,
            JsonbText(found.detail.to_string()),
            found.hint.to_owned(),
        )
    }))
}

fn findings(client: &SpiClient<'_>) -> Result<Vec<Finding>, Error> {
    let deployment = Deployment::read(client)?;
    let trust = trust::read(client)?;
    let mut findings = Vec::new();
    findings.extend(clock(&deployment));
    findings.extend(place(&deployment));
    let statuses = status::all(client, true)?;
    for status in &statuses {
        findings.extend(standing(status));
        findings.extend(history(status));
        let distrusted = status.kid.parse().ok().and_then(|kid| trust.get(kid)).is_none_or(|key| key.distrusted);
        findings.extend(distrusted.then(|| Finding {
            severity: "warning",
            finding: "bundle_of_distrusted_key",
            object: status.issuer.clone(),
            detail: json!({ "sequence": status.sequence, "kid": status.kid }),
            hint: "What it brought still counts. Import a bundle signed with another key, or distrust the key again with rows => 'end'.",
        }));
    }
    findings.extend(orphans(client)?);
    Ok(findings)
}

fn seconds(time: Time) -> i64 {
    NumericDate::from_time(time).seconds()
}

fn clock(deployment: &Deployment) -> Option<Finding> {
    let clock = deployment.clock();
    clock.is_behind().then(|| Finding {
        severity: "error",
        finding: "clock_behind",
        object: "clock".to_owned(),
        detail: json!({ "now": seconds(clock.now), "highest_seen": seconds(clock.highest) }),
        hint: "The clock was set back, or was once far ahead: set it right. Until it has caught up, bundles in mode enforce do not count.",
    })
}

fn place(deployment: &Deployment) -> Option<Finding> {
    let known = deployment.place?;
    let detail = json!({
        "system_identifier": cluster::system_identifier().to_string(), "database": cluster::database(), "timeline": cluster::timeline(),
        "known_system_identifier": known.system_identifier.to_string(), "known_database": known.database,
        "known_timeline": known.timeline,
    });
    if (known.system_identifier, known.database) != (cluster::system_identifier(), cluster::database()) {
        return Some(Finding {
            severity: "warning",
            finding: "database_copied",
            object: "database".to_owned(),
            detail,
            hint: "The database is another one than before, or in another cluster: moved, restored from a dump, or a copy beside the original. Import the newest bundle again. If this is the place for it, call entitlements.set_deployment.",
        });
    }
    cluster::timeline().is_some_and(|now| now != known.timeline).then(|| Finding {
        severity: "warning",
        finding: "database_recovered",
        object: "database".to_owned(),
        detail,
        hint: "The cluster was promoted or recovered, perhaps to an earlier time: import the newest bundle again. entitlements.set_deployment takes note of it.",
    })
}

fn standing(status: &Status) -> Option<Finding> {
    let Status { terms, standing, .. } = status;
    let detail = json!({
        "sequence": status.sequence, "mode": terms.mode.as_str(), "heartbeat_due_at": terms.heartbeat_due.map(seconds),
        "expires_at": seconds(terms.expires), "grace_ends_at": seconds(terms.grace_ends), "denies": standing.denial.is_some(),
    });
    let (severity, finding, hint) = match standing.phase {
        Phase::Fresh => return None,
        Phase::Stale => ("warning", "bundle_stale", "The next bundle is overdue: ask the issuer for it."),
        Phase::Grace => ("warning", "bundle_in_grace", "Import a new bundle before its grace ends."),
        Phase::Expired if standing.denial.is_none() => {
            ("warning", "bundle_expired", "It still counts, in mode advise. Import a new bundle.")
        }
        Phase::Expired => ("error", "bundle_expired", "What it granted does not count any more. Import a new bundle."),
    };
    Some(Finding { severity, finding, object: status.issuer.clone(), detail, hint })
}

fn history(status: &Status) -> Vec<Finding> {
    let mut findings = Vec::new();
    if status.missed > 0 {
        findings.push(Finding {
            severity: "warning",
            finding: "sequence_gap",
            object: status.issuer.clone(),
            detail: json!({ "sequence": status.sequence, "missed": status.missed }),
            hint: "Bundles before this one never arrived. Nothing is lost, as each states everything; but see why they did not.",
        });
    }
    if let Some(faults) = status.faults.as_ref().filter(|faults| !faults.is_empty()) {
        findings.push(Finding {
            severity: "error",
            finding: "bundle_tampered",
            object: status.issuer.clone(),
            detail: json!({ "sequence": status.sequence, "faults": faults }),
            hint: "Somebody changed what the bundle brought. entitlements.verify_audit and the audit log may tell who; the next bundle puts it right.",
        });
    }
    findings
}

/// Rows that name a bundle's issuer of whom no bundle is in force.
fn orphans(client: &SpiClient<'_>) -> Result<Vec<Finding>, Error> {
    const ORPHANS: &str = "
        SELECT source, pg_catalog.count(*)
          FROM (SELECT source FROM entitlements.subscriptions WHERE superseded_at IS NULL AND in_force_until > pg_catalog.now()
                UNION ALL SELECT source FROM entitlements.overrides WHERE ended_at IS NULL AND expires_at > pg_catalog.now()
                UNION ALL SELECT source FROM entitlements.credits WHERE voided_at IS NULL AND expires_at > pg_catalog.now()) AS held
         WHERE pg_catalog.starts_with(source, $1)
           AND NOT EXISTS (SELECT FROM entitlements.bundles WHERE $1 || issuer = source AND superseded_at IS NULL)
         GROUP BY source ORDER BY source";
    let mut findings = Vec::new();
    for row in client.select(ORPHANS, None, &[SOURCE_PREFIX.into()])? {
        findings.push(Finding {
            severity: "error",
            finding: "rows_without_bundle",
            object: row.get::<String>(1)?.unwrap_or_default(),
            detail: json!({ "rows": row.get::<i64>(2)? }),
            hint: "They claim to come by a bundle, and none stands for them: the bundle was removed, or somebody wrote the rows.",
        });
    }
    Ok(findings)
}
