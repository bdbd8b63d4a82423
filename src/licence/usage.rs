//! Usage reports: what was used here, signed for the vendor; and what sites report here.
//!
//! The reports for one audience are a chain: each has the number after the one before and names its digest. They are made one after
//! another, and the documents stay, so one that got lost on its way can be handed out again as it was. On the other side a report
//! counts once in whatever order reports arrive, and of two that tell of the same window the later one does.

use super::issue::name;
use super::signing::{signing_key, trusted_keys};
use super::{exists, own_name};
use crate::accounts::arguments::{required, required_moment, required_text, timestamp};
use crate::audit::{self, Chain, Change};
use crate::bundle::deployment::Deployment;
use crate::check::memo::MEMO;
use crate::error::Error;
use crate::meter::write::sql_amount;
use crate::pg::error::or_raise;
use crate::pg::session::{Actor, connect_to_change};
use crate::pg::snapshot::statement_time;
use crate::pg::subtransaction::upsert;
use crate::row::present;
use entitlements_bundle::{
    Accepted, Digest, Follower, Neighbours, NumericDate, Purpose, UsageAcceptance, UsageJudgement, UsageReport, UsageRow,
    Window, authenticate_as, judge_usage,
};
use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::fault::Fault;
use entitlements_model::key::{AccountKey, FeatureKey};
use entitlements_model::time::{BEGINNING, Time};
use entitlements_server::name::AccountName;
use pgrx::AnyNumeric;
use pgrx::prelude::*;
use pgrx::spi::{Spi, SpiClient, SpiHeapTupleData};
use serde_json::json;

#[pg_extern(sql = false)]
fn export_usage_report(
    from: Option<TimestampWithTimeZone>,
    to: Option<TimestampWithTimeZone>,
    audience: Option<&str>,
) -> String {
    or_raise(connect_to_change(|client| {
        let from = from.map(|from| required_moment("from", Some(from))).transpose()?;
        let to = required_moment("to", to)?;
        audit::take_turn(client, Chain::Catalog)?;
        let deployment = Deployment::read(client)?;
        let issuer = own_name(&deployment)?;
        let audience = match audience {
            Some(audience) => name("audience", Some(audience))?.to_owned(),
            None => only_issuer(client)?,
        };
        let last = last_report(client, &audience)?;
        let now = statement_time();
        if to > now {
            return Err(Error::argument("to", "it is in the future"));
        }
        let ends_at = NumericDate::from_time(to);
        let starts_at = match from {
            Some(from) => NumericDate::from_time(from),
            None => last.as_ref().map_or(NumericDate::from_time(BEGINNING), |last| last.ends_at),
        };
        if ends_at <= starts_at {
            return Err(Error::argument("to", "it is not a second after from, or after the end of the report before"));
        }
        let report = UsageReport {
            issuer: issuer.to_owned(),
            audience,
            issued_at: NumericDate::from_time(now),
            sequence: last.as_ref().map_or(1, |last| last.accepted.sequence + 1),
            previous: last.map(|last| last.accepted.digest),
            starts_at,
            ends_at,
            rows: rows(client, starts_at.time(), ends_at.time(), now)?,
        };
        let payload = report.to_json().to_string();
        if let Err(faults) = UsageReport::parse(payload.as_bytes()) {
            return Err(cannot_report(&faults));
        }
        let key = signing_key(client)?;
        let document = report.sign(&key);
        keep(client, &report, Digest::of(payload.as_bytes()), &key.public().kid().to_string(), &document)?;
        Ok(document)
    }))
}

fn cannot_report(faults: &[Fault]) -> Error {
    Error::Conflict {
        message: format!("this cannot be reported: {}", faults.first().map_or_else(String::new, Fault::to_string)),
        hint: "A report covers from to to; a shorter time has fewer rows.".to_owned(),
    }
}

/// The issuer whose bundles this database trusts, if it is one.
fn only_issuer(client: &mut SpiClient<'_>) -> Result<String, Error> {
    const ISSUERS: &str =
        "SELECT DISTINCT issuer FROM entitlements.trusted_keys WHERE purpose = 'bundle' AND distrusted_at IS NULL";
    let mut issuers = Vec::new();
    for row in client.update(ISSUERS, Some(2), &[])? {
        issuers.extend(row.get::<String>(1)?);
    }
    match issuers.pop() {
        Some(issuer) if issuers.is_empty() => Ok(issuer),
        _ => Err(Error::argument("audience", "it is NULL, and there is not exactly one issuer of bundles")),
    }
}

struct Last {
    accepted: Accepted,
    ends_at: NumericDate,
}

fn last_report(client: &mut SpiClient<'_>, audience: &str) -> Result<Option<Last>, Error> {
    const LAST: &str =
        "SELECT sequence, digest, ends_at FROM entitlements.usage_reports WHERE audience = $1 ORDER BY sequence DESC";
    let found = client.update(LAST, Some(1), &[audience.into()])?;
    let Some(row) = found.into_iter().next() else { return Ok(None) };
    let ends_at = NumericDate::from_time(present::<TimestampWithTimeZone>(&row, 3)?.into());
    Ok(Some(Last { accepted: accepted(&row, 1, 2)?, ends_at }))
}

fn accepted(row: &SpiHeapTupleData<'_>, sequence: usize, digest: usize) -> Result<Accepted, Error> {
    Ok(Accepted { sequence: present(row, sequence)?, digest: parsed_digest(row, digest)? })
}

fn parsed_digest(row: &SpiHeapTupleData<'_>, column: usize) -> Result<Digest, Error> {
    present::<String>(row, column)?.parse().map_err(|_| Error::Internal("a stored digest is none".to_owned()))
}

/// What was used in each window that overlaps the time, of what is counted at this moment: units that are only promised and
/// whose time is up are no use. Documents have whole seconds, so windows that are the same by them are one, and none is shorter.
/// The allowance is that of the pools that the window is of: the plan's, credits', or both.
fn rows(client: &mut SpiClient<'_>, from: Time, to: Time, now: Time) -> Result<Vec<UsageRow>, Error> {
    const USED: &str = "
        SELECT account.key, feature.key, used.window_start, used.window_end, used.units, used.of_plan, used.of_credits
          FROM (SELECT counted.account_id, counted.feature_id, counted.window_start, counted.window_end,
                       pg_catalog.sum(counted.units) AS units, pg_catalog.bool_or(counted.credit_id = 0) AS of_plan,
                       pg_catalog.sum(CASE WHEN credit.voided_at IS NULL THEN credit.amount ELSE counted.units END) AS of_credits
                  FROM (SELECT counter.account_id, counter.feature_id, counter.credit_id,
                               CASE WHEN is_window THEN whole.window_start END AS window_start,
                               CASE WHEN is_window THEN greatest(whole.window_end, whole.window_start + '1 second') END AS window_end,
                               counter.used
                                   + coalesce((SELECT pg_catalog.sum(slot.used) FROM entitlements.counter_slots AS slot WHERE slot.counter_id = counter.id), 0)
                                   - coalesce((SELECT pg_catalog.sum(part.amount) FROM entitlements.reservation_parts AS part
                                                WHERE part.counter_id = counter.id AND part.expires_at <= $3), 0) AS units
                          FROM entitlements.counters AS counter,
                               LATERAL (SELECT pg_catalog.isfinite(counter.window_start) AND pg_catalog.isfinite(counter.window_end),
                                               pg_catalog.date_trunc('second', counter.window_start),
                                               pg_catalog.date_trunc('second', counter.window_end)) AS whole (is_window, window_start, window_end)
                         WHERE counter.window_start < $2 AND counter.window_end > $1) AS counted
                  LEFT JOIN entitlements.credits AS credit ON credit.id = counted.credit_id
                 GROUP BY 1, 2, 3, 4) AS used
          JOIN entitlements.accounts AS account ON account.id = used.account_id AND account.erased_at IS NULL
          JOIN entitlements.features AS feature ON feature.id = used.feature_id
         ORDER BY account.key, feature.key, used.window_start NULLS FIRST, used.window_end";
    let mut rows = Vec::new();
    for row in client.update(USED, None, &[timestamp(from).into(), timestamp(to).into(), timestamp(now).into()])? {
        let (account, feature): (String, String) = (present(&row, 1)?, present(&row, 2)?);
        let bound =
            |column| row.get::<TimestampWithTimeZone>(column).map(|at| at.map(Time::from).map(NumericDate::from_time));
        let window = match (bound(3)?, bound(4)?) {
            (Some(starts_at), Some(ends_at)) => Some(Window { starts_at, ends_at }),
            _ => None,
        };
        let amount = |amount: AnyNumeric| -> Result<Amount, Error> {
            amount.to_string().parse().map_err(|_| Error::Internal("usage is no amount".to_owned()))
        };
        let used = amount(present(&row, 5)?)?;
        let of_credits = row.get(7)?.map(amount).transpose()?.unwrap_or(Amount::ZERO);
        let of_plan = if present(&row, 6)? { allowance(&account, &feature)? } else { Allowance::ZERO };
        let allowance = of_plan.plus(Allowance::Finite(of_credits));
        let internal = |fault: String| Error::Internal(fault);
        rows.push(UsageRow {
            account: AccountKey::parse(&account).map_err(|fault| internal(fault.to_string()))?,
            feature: FeatureKey::parse(&feature).map_err(|fault| internal(fault.to_string()))?,
            window,
            used,
            allowance,
        });
    }
    Ok(rows)
}

/// What plans and overrides allow the account now.
fn allowance(account: &str, feature: &str) -> Result<Allowance, Error> {
    let answer = MEMO.with(|memo| memo.resolve(Some(AccountName::Text(account.as_bytes())), feature.as_bytes(), false))?;
    Ok(answer.entitlement.value.allowance())
}

fn keep(client: &mut SpiClient<'_>, report: &UsageReport, digest: Digest, kid: &str, document: &str) -> Result<(), Error> {
    client.update(
        "INSERT INTO entitlements.usage_reports
                (audience, sequence, digest, starts_at, ends_at, row_count, kid, issued_at, issued_by, document)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        None,
        &[
            report.audience.as_str().into(),
            report.sequence.into(),
            digest.to_string().into(),
            timestamp(report.starts_at.time()).into(),
            timestamp(report.ends_at.time()).into(),
            (report.rows.len() as i64).into(),
            kid.into(),
            timestamp(report.issued_at.time()).into(),
            Actor::current().role.into(),
            document.into(),
        ],
    )?;
    let change = Change {
        action: "export",
        object: "usage_report",
        object_id: format!("{} {}", report.audience, report.sequence),
        old: None,
        new: Some(json!({ "digest": digest.to_string(), "rows": report.rows.len(), "kid": kid })),
        reason: None,
    };
    audit::record(client, Chain::Catalog, &[change])
}

#[pg_extern(sql = false)]
fn usage_report(sequence: Option<i64>, audience: Option<&str>) -> String {
    or_raise(Spi::connect(|client| {
        let sequence = required("sequence", sequence)?;
        const FIND: &str =
            "SELECT document FROM entitlements.usage_reports WHERE sequence = $1 AND audience = coalesce($2, audience)";
        let found = client.select(FIND, Some(2), &[sequence.into(), audience.into()])?;
        match found.len() {
            0 => Err(Error::UnknownRow { object: "usage report", id: sequence.to_string() }),
            1 => Ok(found.first().get_one::<String>()?.unwrap_or_default()),
            _ => Err(Error::argument("audience", "it is NULL, and there are reports for several")),
        }
    }))
}

/// A row of a report that was taken in.
type Reported = (
    String,
    String,
    String,
    Option<TimestampWithTimeZone>,
    Option<TimestampWithTimeZone>,
    AnyNumeric,
    Option<AnyNumeric>,
    Option<AnyNumeric>,
);

#[expect(clippy::type_complexity, reason = "the columns of the result, which pgrx takes no alias for")]
#[pg_extern(sql = false)]
fn import_usage_report(
    document: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(site, String),
        name!(account, String),
        name!(feature, String),
        name!(window_start, Option<TimestampWithTimeZone>),
        name!(window_end, Option<TimestampWithTimeZone>),
        name!(used, AnyNumeric),
        name!(used_before, Option<AnyNumeric>),
        name!(allowance, Option<AnyNumeric>),
    ),
> {
    TableIterator::new(or_raise(connect_to_change(|client| import(client, required_text("document", document)?))))
}

fn import(client: &mut SpiClient<'_>, document: &str) -> Result<Vec<Reported>, Error> {
    let deployment = Deployment::read(client)?;
    let own_name = own_name(&deployment)?.to_owned();
    // Who is no site of ours need not make others wait.
    let authentic = authenticate_as::<UsageReport>(document, &trusted_keys(client, Purpose::UsageReport)?)?;
    audit::take_turn(client, Chain::Catalog)?;
    let authentic_kid = authentic.signer().key.kid().to_string();
    let (site, sequence) = (authentic.document().issuer.clone(), authentic.document().sequence);
    let neighbours = neighbours(client, &site, sequence)?;
    match judge_usage(authentic, &own_name, neighbours, deployment.clock())? {
        UsageJudgement::Repeated => Ok(Vec::new()),
        UsageJudgement::Accept(acceptance) => accept(client, *acceptance, &authentic_kid),
    }
}

fn neighbours(client: &mut SpiClient<'_>, site: &str, sequence: i64) -> Result<Neighbours, Error> {
    let mut read = |query: &str| {
        let found = client.update(query, Some(1), &[site.into(), sequence.into()])?;
        let row = found.into_iter().next();
        row.map(|row| Ok::<_, Error>((present::<i64>(&row, 1)?, row.get::<String>(2)?))).transpose()
    };
    let digest = |text: Option<String>| {
        text.and_then(|text| text.parse().ok()).ok_or_else(|| Error::Internal("a stored digest is none".to_owned()))
    };
    let same = read("SELECT sequence, digest FROM entitlements.received_usage_reports WHERE site = $1 AND sequence = $2")?;
    let before = read(
        "SELECT sequence, digest FROM entitlements.received_usage_reports WHERE site = $1 AND sequence < $2 ORDER BY sequence DESC",
    )?;
    let after = read(
        "SELECT sequence, previous FROM entitlements.received_usage_reports WHERE site = $1 AND sequence > $2 ORDER BY sequence",
    )?;
    Ok(Neighbours {
        same: same.map(|(_, text)| digest(text)).transpose()?,
        before: before.map(|(sequence, text)| digest(text).map(|digest| Accepted { sequence, digest })).transpose()?,
        after: after.map(|(sequence, text)| digest(text).map(|previous| Follower { sequence, previous })).transpose()?,
    })
}

fn accept(client: &mut SpiClient<'_>, acceptance: UsageAcceptance, kid: &str) -> Result<Vec<Reported>, Error> {
    let UsageAcceptance { report, accepted, missing, late } = acceptance;
    let site = report.issuer.as_str();
    client.update(
        "INSERT INTO entitlements.received_usage_reports
                (site, sequence, digest, previous, starts_at, ends_at, row_count, kid, issued_at, received_at, received_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, pg_catalog.now(), $10)",
        None,
        &[
            site.into(),
            accepted.sequence.into(),
            accepted.digest.to_string().into(),
            report.previous.map(|previous| previous.to_string()).into(),
            timestamp(report.starts_at.time()).into(),
            timestamp(report.ends_at.time()).into(),
            (report.rows.len() as i64).into(),
            kid.into(),
            timestamp(report.issued_at.time()).into(),
            Actor::current().role.into(),
        ],
    )?;
    let change = Change {
        action: "import",
        object: "usage_report",
        object_id: format!("{site} {}", accepted.sequence),
        old: None,
        new: Some(json!({
            "digest": accepted.digest.to_string(), "rows": report.rows.len(), "kid": kid, "missing": missing, "late": late,
        })),
        reason: None,
    };
    audit::record(client, Chain::Catalog, &[change])?;
    if missing > 0 {
        let (first, last) = (accepted.sequence - missing, accepted.sequence - 1);
        pgrx::warning!("usage reports {first} to {last} of this site have not arrived");
    }
    store(client, &report)
}

/// Keeps the rows where no later report told of the window, and gives those.
fn store(client: &mut SpiClient<'_>, report: &UsageReport) -> Result<Vec<Reported>, Error> {
    const STORE: &str = "
        WITH told AS (
            SELECT told.account, told.feature, coalesce(told.window_start, '-infinity') AS window_start,
                   coalesce(told.window_end, 'infinity') AS window_end, told.used, told.allowance
              FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5), pg_catalog.unnest($6),
                              pg_catalog.unnest($7), pg_catalog.unnest($8))
                   AS told (account, feature, window_start, window_end, used, allowance)
        ), before AS (
            SELECT told.account, told.feature, told.window_start, told.window_end, known.used
              FROM told JOIN entitlements.reported_usage AS known USING (account, feature, window_start, window_end)
             WHERE known.site = $1
        ), stored AS (
            INSERT INTO entitlements.reported_usage AS known
                   (site, account, account_id, feature, window_start, window_end, used, allowance, sequence)
            SELECT $1, told.account, account.id, told.feature, told.window_start, told.window_end, told.used, told.allowance, $2
              FROM told LEFT JOIN entitlements.accounts AS account ON account.key = told.account
            ON CONFLICT (site, account, feature, window_start, window_end) DO UPDATE
               SET used = excluded.used, allowance = excluded.allowance, sequence = excluded.sequence, account_id = excluded.account_id
             WHERE known.sequence < excluded.sequence
            RETURNING account, feature, window_start, window_end, used, allowance
        )
        SELECT stored.account, stored.feature, nullif(stored.window_start, '-infinity'), nullif(stored.window_end, 'infinity'),
               stored.used, before.used, nullif(stored.allowance, 'Infinity')
          FROM stored LEFT JOIN before USING (account, feature, window_start, window_end)
         ORDER BY 1, 2, 3 NULLS FIRST";
    let rows = &report.rows;
    let bound = |of: fn(&Window) -> NumericDate| -> Vec<Option<TimestampWithTimeZone>> {
        rows.iter().map(|row| row.window.as_ref().map(|window| timestamp(of(window).time()))).collect()
    };
    let allowance = |row: &UsageRow| match row.allowance {
        Allowance::Finite(amount) => sql_amount(amount),
        Allowance::Unlimited => AnyNumeric::try_from("Infinity").unwrap_or_default(),
    };
    let stored = upsert(
        client,
        c"reported_usage",
        STORE,
        &[
            report.issuer.as_str().into(),
            report.sequence.into(),
            rows.iter().map(|row| row.account.as_str().to_owned()).collect::<Vec<String>>().into(),
            rows.iter().map(|row| row.feature.as_str().to_owned()).collect::<Vec<String>>().into(),
            bound(|window| window.starts_at).into(),
            bound(|window| window.ends_at).into(),
            rows.iter().map(|row| sql_amount(row.used)).collect::<Vec<AnyNumeric>>().into(),
            rows.iter().map(allowance).collect::<Vec<AnyNumeric>>().into(),
        ],
    )?;
    let row = |row: SpiHeapTupleData<'_>| {
        Ok((
            report.issuer.clone(),
            present(&row, 1)?,
            present(&row, 2)?,
            row.get(3)?,
            row.get(4)?,
            present(&row, 5)?,
            row.get(6)?,
            row.get(7)?,
        ))
    };
    stored.into_iter().map(row).collect()
}

/// What sites have told, as it counts.
#[expect(clippy::type_complexity, reason = "the columns of the result, which pgrx takes no alias for")]
#[pg_extern(sql = false)]
fn reported_usage(
    account: Option<&str>,
    site: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(site, String),
        name!(account, String),
        name!(feature, String),
        name!(window_start, Option<TimestampWithTimeZone>),
        name!(window_end, Option<TimestampWithTimeZone>),
        name!(used, AnyNumeric),
        name!(allowance, Option<AnyNumeric>),
        name!(reported_until, TimestampWithTimeZone),
    ),
> {
    const TOLD: &str = "SELECT told.site, told.account, told.feature, nullif(told.window_start, '-infinity'),
                nullif(told.window_end, 'infinity'), told.used, nullif(told.allowance, 'Infinity'), report.ends_at
           FROM entitlements.reported_usage AS told
           JOIN entitlements.received_usage_reports AS report USING (site, sequence)
          WHERE told.account = coalesce($1, told.account) AND told.site = coalesce($2, told.site)
          ORDER BY 1, 2, 3, told.window_start";
    let rows = Spi::connect(|client| {
        let found = client.select(TOLD, None, &[account.into(), site.into()])?;
        let row = |row: SpiHeapTupleData<'_>| {
            Ok::<_, Error>((
                present(&row, 1)?,
                present(&row, 2)?,
                present(&row, 3)?,
                row.get(4)?,
                row.get(5)?,
                present(&row, 6)?,
                row.get(7)?,
                present(&row, 8)?,
            ))
        };
        found.into_iter().map(row).collect::<Result<Vec<_>, _>>()
    });
    TableIterator::new(or_raise(rows))
}

#[pg_extern(sql = false)]
fn reporting_sites() -> TableIterator<
    'static,
    (
        name!(site, String),
        name!(last_sequence, i64),
        name!(missing, Vec<i64>),
        name!(reported_until, TimestampWithTimeZone),
        name!(received_at, TimestampWithTimeZone),
    ),
> {
    // Most numbers that are named of one site.
    const SITES: &str = "SELECT site, pg_catalog.max(sequence),
                ARRAY(SELECT number FROM pg_catalog.generate_series(1, least(pg_catalog.max(sequence), 1000000)) AS number
                       WHERE NOT EXISTS (SELECT FROM entitlements.received_usage_reports AS came
                                          WHERE came.site = report.site AND came.sequence = number) ORDER BY number LIMIT 1000),
                pg_catalog.max(ends_at), pg_catalog.max(received_at)
           FROM entitlements.received_usage_reports AS report GROUP BY site ORDER BY site";
    let rows = Spi::connect(|client| {
        let found = client.select(SITES, None, &[])?;
        let row = |row: SpiHeapTupleData<'_>| {
            Ok::<_, Error>((present(&row, 1)?, present(&row, 2)?, present(&row, 3)?, present(&row, 4)?, present(&row, 5)?))
        };
        found.into_iter().map(row).collect::<Result<Vec<_>, _>>()
    });
    TableIterator::new(or_raise(rows))
}

/// Forgets which account reported usage was of, when it is being erased.
pub fn blank(client: &mut SpiClient<'_>, account: i64) -> Result<(), Error> {
    const BLANK: &str = "UPDATE entitlements.reported_usage SET account = $2 WHERE account_id = $1";
    if exists(client, "SELECT FROM entitlements.reported_usage WHERE account_id = $1", &[account.into()])? {
        let name = format!("{}{account}", crate::accounts::account::ERASED_PREFIX);
        client.update(BLANK, None, &[account.into(), name.into()])?;
    }
    Ok(())
}
