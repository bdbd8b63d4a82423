//! Rollover: what windows leave of the plan's allowance comes into the next ones as credits.
//!
//! The transaction that makes the counter of a new window makes these credits too, so both are there once, however many race.
//! Before, it locks the counter of the window before and writes it anew: what was left is counted when everybody who consumed
//! there is done, and who comes late finds the window closed. Windows in between in which nothing was used get their counters
//! then, for the same reason. What a window allowed is resolved as of its last instant, by what is known now.
//!
//! `check_access` may not write. It sees the same by `foresee`, from what its snapshot shows.

use super::consume::Turn;
use super::counter::{Counter, PoolKey};
use super::feature::Feature;
use super::look::{Pool, credits_of, lapsed};
use super::window::{end_of_windows, window_of};
use super::write::{self, CarriedCredit};
use crate::check::history::{Belief, Records};
use crate::check::load::Reader;
use crate::check::memo::MEMO;
use crate::error::Error;
use crate::pg::subtransaction::attempt;
use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::meter::burn;
use entitlements_model::meter::rollover::{Carried, Past, Rollover, carried, kept};
use entitlements_model::meter::window::Window;
use entitlements_model::resolve::{self, Resolved};
use entitlements_model::time::{BEGINNING, FOREVER, Time};
use std::cmp::Reverse;
use std::iter;

/// The source of the credits that are made here.
pub const SOURCE: &str = "rollover";

/// They burn before the plan's allowance.
const PRIORITY: i32 = 90;

/// Makes the counter of a window that begins, and the credits that are carried into it: none where a later window has begun
/// already. Whoever called has to look again.
pub fn open(turn: &mut Turn<'_>, pool: &Pool, feature: &Feature, window: Window) -> Result<(), Error> {
    let last = Counter::last_begun(&turn.relations, turn.snapshot, pool.key, FOREVER);
    let is_late = last.as_ref().is_some_and(|last| last.window.start > window.start);
    let Some(rollover) = pool.rollover.filter(|_| window.start > BEGINNING && !is_late) else {
        return write::create_counter(&turn.relations, pool.key, window).map(drop);
    };
    let mut over = None;
    if let Some(counter) = last {
        // By their rows: one of them may just be committed.
        if MEMO.with(|memo| memo.read(|reader| Ok(lapsed(reader, counter.id, turn.now))))? > Amount::ZERO {
            return turn.sweep(counter.id);
        }
        let before = counter.window;
        let Some(used) = turn.restate(&Pool::of_counter(counter), |used| used)? else { return Ok(()) };
        over = Some((before, used));
    }
    let windows = uncarried(pool, rollover, window, over, |at| window_of(&turn.relations, pool, feature, at))?;
    let past = MEMO.with(|memo| memo.read(|reader| past(reader, pool, feature, &windows, over)))?;
    let new = carried(&past, rollover);
    let mut credits = Vec::new();
    MEMO.with(|memo| {
        memo.read(|reader| {
            credits_of(reader, pool.key.account, pool.key.feature, window.start, &mut credits);
            Ok(())
        })
    })?;
    let mut cuts = Vec::new();
    for (older, most) in excess(pool, credits.iter().map(|(_, credit)| credit), &new, rollover) {
        let most = match &older.counter {
            Some(_) => {
                let Some(used) = turn.restate(older, |used| used)? else { return Ok(()) };
                capped(used.saturating_add(most), older.allowance)
            }
            None => most,
        };
        cuts.push((older.key.credit, most));
    }
    let carry = || -> Result<bool, Error> {
        // Whoever is just opening one of these windows is waited for, and who comes late finds them closed.
        for (unused, Past { allowance, .. }) in windows.iter().zip(&past) {
            let has_counter = over.is_some_and(|(last, _)| last == *unused);
            if !has_counter && !allowance.is_zero() && write::create_counter(&turn.relations, pool.key, *unused)?.is_none() {
                return Ok(false);
            }
        }
        let Some(counter) = write::create_counter(&turn.relations, pool.key, window)? else { return Ok(false) };
        for (credit, most) in &cuts {
            write::cut_credit(&turn.relations, *credit, *most)?;
        }
        for Carried { amount, windows } in &new {
            let expires_at = end_of_windows(&turn.relations, pool, feature, window, *windows, turn.at)?;
            let credit = CarriedCredit {
                amount: *amount,
                priority: PRIORITY,
                starts_at: window.start,
                expires_at,
                source: SOURCE,
                source_ref: format!("{counter}/{windows}"),
            };
            write::carry(&turn.relations, pool.key, credit)?;
        }
        Ok(true)
    };
    match attempt(|| match carry() {
        Ok(true) => Ok(()),
        Ok(false) => Err(None),
        Err(error) => Err(Some(error)),
    }) {
        Ok(()) | Err(None) => Ok(()),
        Err(Some(error)) => Err(error),
    }
}

/// Adds to the credits what `open` would make at the first use of the window, and takes from them what it would.
pub fn foresee(
    reader: &mut Reader<'_>,
    pool: &Pool,
    feature: &Feature,
    credits: &mut Vec<(burn::Pool, Pool)>,
    now: Time,
) -> Result<(), Error> {
    let Some(rollover) = pool.rollover else { return Ok(()) };
    let relations = reader.relations;
    let window = window_of(relations, pool, feature, now)?;
    let last = Counter::last_begun(relations, reader.snapshot, pool.key, FOREVER);
    if window.start == BEGINNING || last.as_ref().is_some_and(|last| last.window.start > window.start) {
        return Ok(());
    }
    let over = last.map(|counter| (counter.window, counter.total().saturating_sub(lapsed(reader, counter.id, now))));
    let windows = uncarried(pool, rollover, window, over, |at| window_of(relations, pool, feature, at))?;
    let new = carried(&past(reader, pool, feature, &windows, over)?, rollover);
    let cuts: Vec<(i64, Amount)> = excess(pool, credits.iter().map(|(_, credit)| credit), &new, rollover)
        .into_iter()
        .map(|(older, most)| (older.key.credit, older.total().saturating_add(most)))
        .collect();
    for (_, credit) in credits.iter_mut() {
        if let Some((_, most)) = cuts.iter().find(|(id, _)| *id == credit.key.credit) {
            credit.limit = Allowance::Finite(*most);
            credit.allowance = credit.limit;
        }
    }
    for (place, Carried { amount, windows }) in (1..).zip(new) {
        let expires_at = end_of_windows(relations, pool, feature, window, windows, now)?;
        let rank = burn::Pool { credit: Some(-place), priority: PRIORITY, expires_at, started_at: window.start };
        credits.push((rank, Pool::foreseen(PoolKey { credit: -place, ..pool.key }, amount)));
    }
    Ok(())
}

/// The windows before one that begins whose allowance was not carried yet and still can be, oldest first.
fn uncarried(
    pool: &Pool,
    rollover: Rollover,
    begins: Window,
    over: Option<(Window, Amount)>,
    window_at: impl Fn(Time) -> Result<Window, Error>,
) -> Result<Vec<Window>, Error> {
    debug_assert!(pool.is_plan(), "only what a plan allows is carried");
    let mut windows = Vec::new();
    let mut start = begins.start;
    while windows.len() < rollover.windows as usize && start > BEGINNING {
        if let Some((last, _)) = over.filter(|(last, _)| last.end >= start) {
            windows.push(last);
            break;
        }
        let before = window_at(start - 1)?;
        if before.start == BEGINNING {
            break;
        }
        // Grids of another origin do not tile with this one.
        windows.push(Window { end: start, ..before });
        start = before.start;
    }
    windows.reverse();
    Ok(windows)
}

/// What these windows allowed; only the last that has a counter has usage.
fn past(
    reader: &mut Reader<'_>,
    pool: &Pool,
    feature: &Feature,
    windows: &[Window],
    over: Option<(Window, Amount)>,
) -> Result<Vec<Past>, Error> {
    let past = |window: &Window| {
        let used = over.filter(|(last, _)| last == window).map_or(Amount::ZERO, |(_, used)| used);
        Ok(Past { allowance: allowance_at(reader, pool.key.account, feature, window.end - 1)?, used })
    };
    windows.iter().map(past).collect()
}

/// What the account's own plans and overrides allowed at a past time, by what is known now.
fn allowance_at(reader: &mut Reader<'_>, account: i64, feature: &Feature, at: Time) -> Result<Allowance, Error> {
    let records = reader.records_from(account, Some(at))?;
    let holders: Vec<_> = reader.standing(&records, Belief::Present, at, true).iter().map(Records::holder).collect();
    let settled = resolve::settle(&feature.resolved, &holders, &*reader.catalog, at);
    Ok(match (settled.value, settled.held_by) {
        (Resolved::Allowance(allowance), None | Some(0)) => allowance,
        _ => Allowance::ZERO,
    })
}

/// The older credits that give way, because with the new ones more would be carried than may be; and how much of what each has
/// left stays.
fn excess<'a>(
    plan: &Pool,
    credits: impl IntoIterator<Item = &'a Pool>,
    new: &[Carried],
    rollover: Rollover,
) -> Vec<(&'a Pool, Amount)> {
    let new = new.iter().fold(Amount::ZERO, |sum, carried| sum.saturating_add(carried.amount));
    let is_older = |credit: &&Pool| credit.is_carried && credit.key.account == plan.key.account;
    let mut older: Vec<&Pool> = credits.into_iter().filter(is_older).collect();
    older.sort_by_key(|credit| Reverse(credit.recurs.map(|recurs| (recurs.expires_at, credit.key.credit))));
    let left = older.into_iter().filter_map(|credit| match credit.left() {
        Allowance::Finite(left) => Some((credit, left)),
        Allowance::Unlimited => None,
    });
    let left: Vec<(&Pool, Amount)> = left.collect();
    let stays = kept(iter::once(new).chain(left.iter().map(|(_, left)| *left)), rollover.max);
    let stays = left.into_iter().zip(stays.into_iter().skip(1));
    stays.filter(|((_, left), kept)| kept < left).map(|((credit, _), kept)| (credit, kept)).collect()
}

fn capped(amount: Amount, most: Allowance) -> Amount {
    match most {
        Allowance::Finite(most) => amount.min(most),
        Allowance::Unlimited => amount,
    }
}
