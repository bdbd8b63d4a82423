//! Usage reports: what a site used, signed with the customer's own key, in a series that can miss nothing unnoticed.
//!
//! The invariant: over the reports a vendor has of one site, a number has one content, and each report names the one before it by
//! its digest. So a report that comes twice counts once, one that never came is known to be missing and may still come, and a
//! site that was restored from a backup, or copied, is found out by its second report of the same number.

use std::collections::HashSet;

use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::fault::{Fault, Faults, Path};
use entitlements_model::json::{Json, Limits};
use entitlements_model::key::{AccountKey, FeatureKey};

use crate::date::NumericDate;
use crate::digest::Digest;
use crate::jws::{Jws, USAGE_REPORT_TYPE};
use crate::key::PrivateKey;
use crate::policy::{self, Accepted};
use crate::read::{self, Object};
use crate::refusal::Refusal;
use crate::standing::Clock;
use crate::trust::{Authentic, Document, Purpose};

/// Some 500,000 rows.
pub const USAGE_LIMITS: Limits = Limits { bytes: 128 << 20, depth: 8, nodes: 5_000_000 };

const MEMBERS: [&str; 8] = ["iss", "aud", "iat", "seq", "prev", "starts_at", "ends_at", "rows"];

const ROW_MEMBERS: [&str; 5] = ["account", "feature", "window", "used", "allowance"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageReport {
    /// `iss`: the site, by its name as a deployment.
    pub issuer: String,
    /// `aud`: the vendor.
    pub audience: String,
    /// `iat`
    pub issued_at: NumericDate,
    /// `seq`: 1 for a site's first report, one more for each after it.
    pub sequence: i64,
    /// `prev`: the digest of the report before; `None` for the first only.
    pub previous: Option<Digest>,
    /// `starts_at` and `ends_at`: the time the report is about, the end not included.
    pub starts_at: NumericDate,
    pub ends_at: NumericDate,
    pub rows: Vec<UsageRow>,
}

/// What one account had used of one feature in one window, from the window's start to the report's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    pub account: AccountKey,
    pub feature: FeatureKey,
    /// `None` for what has no window: an allocation, or a quota that never resets.
    pub window: Option<Window>,
    pub used: Amount,
    pub allowance: Allowance,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    pub starts_at: NumericDate,
    pub ends_at: NumericDate,
}

/// What a vendor has of a site's reports around a number: all that decides about one more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// The digest of the report with the same number.
    pub same: Option<Digest>,
    /// The report with the greatest number below.
    pub before: Option<Accepted>,
    /// The report with the least number above: its number, and the digest it says comes before.
    pub after: Option<Follower>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    pub sequence: i64,
    pub previous: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsageJudgement {
    /// A report that is there already, once more.
    Repeated,
    Accept(Box<UsageAcceptance>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageAcceptance {
    pub report: UsageReport,
    /// To be kept for the site.
    pub accepted: Accepted,
    /// The numbers right below that have not come: `report.sequence - missing` to `report.sequence - 1`.
    pub missing: i64,
    /// A later report came before this one, and what it says of a window is newer.
    pub late: bool,
}

impl UsageReport {
    pub fn sign(&self, key: &PrivateKey) -> String {
        Jws::sign(self.to_json().to_string().as_bytes(), USAGE_REPORT_TYPE, key)
    }

    /// Reads the payload of a report. Whoever calls this with a payload that no signature vouches for must not act on it.
    pub fn parse(payload: &[u8]) -> Result<Self, Vec<Fault>> {
        read::document(payload, USAGE_LIMITS, Self::read)
    }

    fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let root = Path::Root;
        let object = Object::read(json, &root, &MEMBERS, faults)?;
        let issuer = object.required("iss", faults, read::name);
        let audience = object.required("aud", faults, read::name);
        let issued_at = object.required("iat", faults, read::date);
        let sequence = object.required("seq", faults, read::sequence);
        let previous = object.optional("prev", faults, read::parsed);
        let starts_at = object.required("starts_at", faults, read::date);
        let ends_at = object.required("ends_at", faults, read::date);
        let rows = object.required("rows", faults, read_rows);
        let report = Self {
            issuer: issuer?,
            audience: audience?,
            issued_at: issued_at?,
            sequence: sequence?,
            previous: previous?,
            starts_at: starts_at?,
            ends_at: ends_at?,
            rows: rows?,
        };
        match report.previous {
            None if report.sequence > 1 => faults.push(&root.member("prev"), || "is missing after the first report".into()),
            Some(_) if report.sequence == 1 => faults.push(&root.member("prev"), || "nothing comes before report 1".into()),
            _ => {}
        }
        if report.ends_at <= report.starts_at {
            faults.push(&root.member("ends_at"), || "is not after starts_at".into());
        }
        if report.ends_at > report.issued_at {
            faults.push(&root.member("ends_at"), || "is after iat".into());
        }
        Some(report)
    }

    /// The claims as a document, members in the order of the documentation.
    pub fn to_json(&self) -> Json {
        let mut members = vec![
            ("iss", Json::string(&self.issuer)),
            ("aud", Json::string(&self.audience)),
            ("iat", Json::number(self.issued_at.seconds())),
            ("seq", Json::number(self.sequence)),
        ];
        members.extend(self.previous.map(|previous| ("prev", Json::string(previous.to_string()))));
        members.push(("starts_at", Json::number(self.starts_at.seconds())));
        members.push(("ends_at", Json::number(self.ends_at.seconds())));
        members.push(("rows", Json::Array(self.rows.iter().map(UsageRow::to_json).collect())));
        Json::object(members)
    }
}

impl Document for UsageReport {
    const TYPE: &'static str = USAGE_REPORT_TYPE;
    const LIMITS: Limits = USAGE_LIMITS;
    const PURPOSE: Purpose = Purpose::UsageReport;

    fn parse(payload: &[u8]) -> Result<Self, Vec<Fault>> {
        UsageReport::parse(payload)
    }

    fn issuer(&self) -> &str {
        &self.issuer
    }
}

/// No two of the same account, feature and window.
fn read_rows(json: &Json, path: &Path, faults: &mut Faults) -> Option<Vec<UsageRow>> {
    let items = read::items(json, path, faults)?;
    let mut rows: Vec<UsageRow> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        rows.extend(UsageRow::read(item, &path.item(index), faults));
    }
    if rows.len() < items.len() {
        return None;
    }
    let mut seen = HashSet::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        if !seen.insert((&row.account, &row.feature, row.window)) {
            faults.push(&path.item(index), || "the account, feature and window appear more than once".into());
        }
    }
    Some(rows)
}

impl UsageRow {
    fn read(json: &Json, path: &Path, faults: &mut Faults) -> Option<Self> {
        let object = Object::read(json, path, &ROW_MEMBERS, faults)?;
        let account = object.required("account", faults, read::parsed);
        let feature = object.required("feature", faults, read::parsed);
        let window = object.optional("window", faults, Window::read);
        let used = object.required("used", faults, read::amount);
        let allowance = object.required("allowance", faults, |json, path, faults| match json {
            Json::String(word) if word == "unlimited" => Some(Allowance::Unlimited),
            Json::Number(_) => read::amount(json, path, faults).map(Allowance::Finite),
            _ => read::wrong_type(json, "a number or \"unlimited\"", path, faults),
        });
        Some(Self { account: account?, feature: feature?, window: window?, used: used?, allowance: allowance? })
    }

    fn to_json(&self) -> Json {
        let mut members =
            vec![("account", Json::string(self.account.as_str())), ("feature", Json::string(self.feature.as_str()))];
        members.extend(self.window.map(|window| ("window", window.to_json())));
        members.push(("used", Json::number(self.used)));
        members.push((
            "allowance",
            match self.allowance {
                Allowance::Finite(amount) => Json::number(amount),
                Allowance::Unlimited => Json::string("unlimited"),
            },
        ));
        Json::object(members)
    }
}

impl Window {
    fn read(json: &Json, path: &Path, faults: &mut Faults) -> Option<Self> {
        let object = Object::read(json, path, &["starts_at", "ends_at"], faults)?;
        let starts_at = object.required("starts_at", faults, read::date);
        let ends_at = object.required("ends_at", faults, read::date);
        let window = Self { starts_at: starts_at?, ends_at: ends_at? };
        if window.ends_at <= window.starts_at {
            faults.push(&path.member("ends_at"), || "is not after starts_at".into());
            return None;
        }
        Some(window)
    }

    fn to_json(self) -> Json {
        Json::object([
            ("starts_at", Json::number(self.starts_at.seconds())),
            ("ends_at", Json::number(self.ends_at.seconds())),
        ])
    }
}

/// What an authentic report means for the vendor `audience`. Reports may come in any order.
pub fn judge_usage(
    authentic: Authentic<UsageReport>,
    audience: &str,
    neighbours: Neighbours,
    clock: Clock,
) -> Result<UsageJudgement, Refusal> {
    let report = authentic.document();
    if report.audience != audience {
        let claimed = report.audience.clone();
        return Err(Refusal::OtherAudience { audience: claimed, deployment: audience.to_owned() });
    }
    let (sequence, digest) = (report.sequence, authentic.digest());
    match neighbours.same {
        Some(same) if same == digest => return Ok(UsageJudgement::Repeated),
        Some(_) => return Err(Refusal::SequenceReused(sequence)),
        None => {}
    }
    let before = neighbours.before.map_or(0, |before| before.sequence);
    let follows =
        neighbours.before.is_none_or(|before| before.sequence + 1 < sequence || report.previous == Some(before.digest));
    let followed = neighbours.after.is_none_or(|after| sequence + 1 < after.sequence || after.previous == digest);
    if !follows || !followed {
        return Err(Refusal::HistoryForked(sequence));
    }
    policy::in_time(&authentic, report.issued_at, report.issued_at, None, clock.time())?;
    Ok(UsageJudgement::Accept(Box::new(UsageAcceptance {
        accepted: Accepted { sequence, digest },
        missing: sequence - before - 1,
        late: neighbours.after.is_some(),
        report: authentic.into_document(),
    })))
}
