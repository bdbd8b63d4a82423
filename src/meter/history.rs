//! Usage as it was: the counters of windows that are over stay, and are read with the query's snapshot.

use super::counter::{Counter, PLAN};
use super::feature::Feature;
use super::look::lapsed;
use super::write::sql_amount;
use crate::accounts::arguments::{required, timestamp};
use crate::check::memo::MEMO;
use crate::error::Error;
use crate::pg::error::or_raise;
use crate::pg::snapshot::statement_time;
use entitlements_model::amount::Amount;
use entitlements_model::meter::window::Window;
use entitlements_model::time::{BEGINNING, FOREVER, Time};
use pgrx::AnyNumeric;
use pgrx::prelude::*;
use std::collections::BTreeMap;

/// What was used of the plan's allowance and of credits in one window.
#[derive(Clone, Copy, Default)]
struct Used {
    from_plan: Amount,
    from_credits: Amount,
}

#[pg_extern(sql = false)]
fn usage_history(
    account: Option<&str>,
    feature: Option<&str>,
    from: Option<TimestampWithTimeZone>,
    to: Option<TimestampWithTimeZone>,
) -> TableIterator<
    'static,
    (
        name!(window_start, TimestampWithTimeZone),
        name!(window_end, TimestampWithTimeZone),
        name!(used, AnyNumeric),
        name!(from_plan, AnyNumeric),
        name!(from_credits, AnyNumeric),
    ),
> {
    let asked = Window { start: from.map_or(BEGINNING, Time::from), end: to.map_or(FOREVER, Time::from) };
    let windows = or_raise(windows(account, feature, asked));
    TableIterator::new(windows.into_iter().map(|((start, end), used)| {
        (
            timestamp(start),
            timestamp(end),
            sql_amount(used.from_plan.saturating_add(used.from_credits)),
            sql_amount(used.from_plan),
            sql_amount(used.from_credits),
        )
    }))
}

/// The windows that overlap the one asked for, by start and end.
fn windows(account: Option<&str>, feature: Option<&str>, asked: Window) -> Result<BTreeMap<(Time, Time), Used>, Error> {
    let account = required("account", account)?;
    let feature = required("feature", feature)?;
    let now = statement_time();
    MEMO.with(|memo| {
        memo.read(|reader| {
            let feature = Feature::by_key(reader, feature.as_bytes())?;
            feature.refuse_uncounted()?;
            let id = reader.account(account.as_bytes(), Some(now))?.id;
            let id = id.ok_or_else(|| Error::UnknownAccount { account: account.to_owned() })?;
            let mut windows: BTreeMap<(Time, Time), Used> = BTreeMap::new();
            for counter in Counter::all(reader.relations, reader.snapshot, id, feature.resolved.id.0) {
                let Window { start, end } = counter.window;
                if end <= asked.start || asked.end <= start {
                    continue;
                }
                let used = counter.total().saturating_sub(lapsed(reader, counter.id, now));
                let window = windows.entry((start, end)).or_default();
                let part = if counter.key.credit == PLAN { &mut window.from_plan } else { &mut window.from_credits };
                *part = part.saturating_add(used);
            }
            Ok(windows)
        })
    })
}
