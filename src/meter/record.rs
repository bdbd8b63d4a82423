//! Recording usage that has happened: metered somewhere else, counted here whatever the limit.
//!
//! A batch may be large, so everything is done for all of it at once: keys are claimed and the ledger is written by one
//! statement each, and units are added up by pool and window before a counter is touched. Counters are taken in one order, so
//! that two batches never wait for each other in a circle.
//!
//! An event counts in the window that contains its time, also when that is over. Nothing is recorded if one event is invalid.

use super::as_owner_changing;
use super::consume::{Line, look_back, take_line};
use super::feature::Feature;
use super::idempotency::{fault_of, used_otherwise};
use crate::check::memo::MEMO;
use crate::error::Error;
use crate::meter::write::sql_amount;
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use crate::pg::session::{Actor, refuse_read_only};
use crate::pg::snapshot::statement_time;
use crate::pg::subtransaction::upsert;
use entitlements_model::amount::Amount;
use entitlements_model::meter::request;
use entitlements_model::time::{self, Time};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use pgrx::AnyNumeric;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::str::FromStr;

/// Most events in one call.
const MOST_EVENTS: usize = 1_000_000;

/// How far, in microseconds, another machine's clock may be ahead of ours.
const CLOCKS_DIFFER: Time = 5 * 60 * 1_000_000;

type UsageRow = (String, String, i64, AnyNumeric, i64);

#[pg_extern(sql = false)]
fn record_usage(
    usage: Option<JsonbText>,
) -> TableIterator<
    'static,
    (name!(account, String), name!(feature, String), name!(events, i64), name!(amount, AnyNumeric), name!(duplicates, i64)),
> {
    TableIterator::new(or_raise(record(usage)))
}

/// An event as it is passed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Element<'a> {
    #[serde(borrow)]
    account: Cow<'a, str>,
    #[serde(borrow)]
    feature: Cow<'a, str>,
    #[serde(borrow, default)]
    n: Option<&'a RawValue>,
    #[serde(borrow, default)]
    at: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    idempotency_key: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
}

struct Event<'a> {
    /// Places in the batch's accounts and features.
    account: usize,
    feature: usize,
    n: Amount,
    /// As passed; when the call was made where it was not.
    at: Time,
    key: Option<(Cow<'a, str>, [u8; 32])>,
    metadata: Option<&'a str>,
    is_duplicate: bool,
}

/// Different texts in the order in which they came, and which element named each first.
#[derive(Default)]
struct Names<'a> {
    places: HashMap<Cow<'a, str>, usize, RandomState>,
    first_named: Vec<(Cow<'a, str>, usize)>,
}

impl<'a> Names<'a> {
    fn place_of(&mut self, name: Cow<'a, str>, element: usize) -> usize {
        if let Some(place) = self.places.get(&name) {
            return *place;
        }
        let place = self.first_named.len();
        self.first_named.push((name.clone(), element));
        self.places.insert(name, place);
        place
    }

    fn name(&self, place: usize) -> &str {
        &self.first_named[place].0
    }
}

#[derive(Default)]
struct Batch<'a> {
    accounts: Names<'a>,
    features: Names<'a>,
    events: Vec<Event<'a>>,
}

fn at_element(index: usize) -> impl Fn(Error) -> Error {
    move |error| Error::Element { argument: "usage", index, error: Box::new(error) }
}

fn record(usage: Option<JsonbText>) -> Result<Vec<UsageRow>, Error> {
    let now = statement_time();
    let JsonbText(text) = usage.ok_or_else(|| Error::argument("usage", "it is NULL"))?;
    let mut batch = Batch::read(&text, now)?;
    refuse_read_only();
    let features = batch.known_features()?;
    let accounts = as_owner_changing(|client| batch.known_accounts(client))?;
    as_owner_changing(|client| batch.claim_keys(client, &accounts, now))?;
    let groups = batch.groups();
    count(&groups, now)?;
    as_owner_changing(|client| batch.keep_events(client, &accounts, &features))?;
    Ok(groups
        .into_iter()
        .map(|((account, feature), group)| {
            let sum = group
                .iter()
                .filter(|event| !event.is_duplicate)
                .fold(Amount::ZERO, |sum, event| sum.saturating_add(event.n));
            let duplicates = group.iter().filter(|event| event.is_duplicate).count() as i64;
            let events = group.len() as i64 - duplicates;
            (account.to_owned(), feature.to_owned(), events, sql_amount(sum), duplicates)
        })
        .collect())
}

/// Adds up what is to be counted, by pool and window, and counts it.
fn count(groups: &Groups<'_>, now: Time) -> Result<(), Error> {
    // Who has credits of its own has a line of its own: nobody else takes from them.
    let mut lines: BTreeMap<(i64, i32, Time, Option<&str>), Line<'_>> = BTreeMap::new();
    for ((account, feature), group) in groups {
        // Of a clock that is ahead: it is not later than now.
        let counted = group.iter().filter(|event| !event.is_duplicate);
        let mut left: Vec<(Time, Amount)> = counted.map(|event| (event.at.min(now), event.n)).collect();
        left.sort_unstable_by_key(|(at, _)| *at);
        while let Some((latest, _)) = left.last().copied() {
            let look = look_back(account, feature, latest)?;
            let windows: Vec<_> = look
                .charges
                .iter()
                .map(|charge| {
                    let plan = charge.pools.iter().find(|pool| pool.is_plan()).and_then(|pool| pool.counter.as_ref());
                    let window = plan.map(|counter| counter.window);
                    window.ok_or_else(|| Error::Internal("recorded usage has no window".to_owned()))
                })
                .collect::<Result<_, _>>()?;
            // Where all of them are the same as for the latest event.
            let start = windows.iter().map(|window| window.start).max().unwrap_or(latest).min(latest);
            let from = left.partition_point(|(at, _)| *at < start);
            let sum = left.drain(from..).fold(Amount::ZERO, |sum, (_, n)| sum.saturating_add(n));
            for (charge, window) in look.charges.iter().zip(&windows) {
                let key = charge.key();
                let wanted = sum.scaled_up(charge.cost);
                let has_own = charge.pools.iter().any(|pool| pool.key.account != charge.account);
                let asker = has_own.then_some(*account);
                let line = lines.entry((key.0, key.1, window.start, asker)).or_insert(Line {
                    account,
                    feature,
                    charge: key,
                    wanted: Amount::ZERO,
                    happened_at: Some(latest),
                });
                line.wanted = line.wanted.saturating_add(wanted);
            }
        }
    }
    for line in lines.into_values() {
        if take_line(line)?.is_err() {
            return Err(Error::Internal("recorded usage was denied".to_owned()));
        }
    }
    Ok(())
}

type Groups<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a Event<'a>>>;

impl<'a> Batch<'a> {
    /// NE007 for what is not an event.
    fn read(text: &'a str, now: Time) -> Result<Self, Error> {
        let elements: Vec<&RawValue> =
            serde_json::from_str(text).map_err(|_| Error::argument("usage", "it is not an array of events"))?;
        if elements.len() > MOST_EVENTS {
            return Err(Error::argument("usage", format!("it has more than {MOST_EVENTS} events")));
        }
        let mut batch = Self { events: Vec::with_capacity(elements.len()), ..Self::default() };
        for (index, element) in elements.into_iter().enumerate() {
            let event = batch.event(element, index, now).map_err(at_element(index))?;
            batch.events.push(event);
        }
        Ok(batch)
    }

    fn event(&mut self, element: &'a RawValue, index: usize, now: Time) -> Result<Event<'a>, Error> {
        let fault = |fault: String| Error::argument("usage", fault);
        if !element.get().starts_with('{') {
            return Err(fault("it is not an object".to_owned()));
        }
        let element: Element<'a> = serde_json::from_str(element.get()).map_err(|error| fault(described(&error)))?;
        let n = match element.n {
            None => Amount::ONE,
            Some(number) => match Amount::from_str(number.get()) {
                Ok(Amount::ZERO) => return Err(fault("n is zero".to_owned())),
                Ok(amount) => amount,
                Err(wrong) => return Err(fault(format!("n {wrong}"))),
            },
        };
        let at = match &element.at {
            None => now,
            Some(text) => {
                time::from_rfc3339(text).ok_or_else(|| fault("at is not a time such as 2026-03-01T12:00:00Z".to_owned()))?
            }
        };
        if at > now.saturating_add(CLOCKS_DIFFER) {
            return Err(fault("at is in the future".to_owned()));
        }
        let metadata = element.metadata.map(RawValue::get);
        let key = match element.idempotency_key {
            None => None,
            Some(key) => {
                if let Some(wrong) = fault_of(&key) {
                    return Err(Error::argument("idempotency_key", wrong));
                }
                let amount = n.to_string();
                let arguments = [Some(&*element.feature), Some(&amount), element.at.as_deref(), metadata];
                let digest = request::digest("record_usage", arguments);
                Some((key, digest))
            }
        };
        let account = self.accounts.place_of(element.account, index);
        let feature = self.features.place_of(element.feature, index);
        Ok(Event { account, feature, n, at, key, metadata, is_duplicate: false })
    }

    /// NE003, NE004.
    fn known_features(&self) -> Result<Vec<Rc<Feature>>, Error> {
        MEMO.with(|memo| {
            memo.read(|reader| {
                let known = |(key, index): &(Cow<'_, str>, usize)| {
                    let feature = Feature::by_key(reader, key.as_bytes())
                        .and_then(|feature| feature.refuse_uncounted().map(|()| feature));
                    feature.map_err(at_element(*index))
                };
                self.features.first_named.iter().map(known).collect()
            })
        })
    }

    /// Their ids. NE006.
    fn known_accounts(&self, client: &mut SpiClient<'_>) -> Result<Vec<i64>, Error> {
        let keys: Vec<&str> = self.accounts.first_named.iter().map(|(key, _)| &**key).collect();
        let found = client.update(
            "SELECT account.id FROM pg_catalog.unnest($1) WITH ORDINALITY AS named (key, place)
               LEFT JOIN entitlements.accounts AS account ON account.key = named.key COLLATE \"C\" AND account.erased_at IS NULL
              ORDER BY named.place",
            None,
            &[keys.into()],
        )?;
        let mut ids = Vec::with_capacity(self.accounts.first_named.len());
        for (row, (key, index)) in found.zip(&self.accounts.first_named) {
            let unknown = || at_element(*index)(Error::UnknownAccount { account: key.to_string() });
            ids.push(row.get(1)?.ok_or_else(unknown)?);
        }
        Ok(ids)
    }

    /// Finds out which events were recorded before. NE009 where a key stands for another one.
    fn claim_keys(&mut self, client: &mut SpiClient<'_>, accounts: &[i64], now: Time) -> Result<(), Error> {
        // What is claimed, and the event that does so.
        let mut claims: HashMap<(i64, &str), (&[u8; 32], usize), RandomState> = HashMap::default();
        let mut duplicates = Vec::new();
        for (index, event) in self.events.iter().enumerate() {
            let Some((key, digest)) = &event.key else { continue };
            match claims.entry((accounts[event.account], key)) {
                Entry::Vacant(claim) => drop(claim.insert((digest, index))),
                Entry::Occupied(claim) if claim.get().0 == digest => duplicates.push(index),
                Entry::Occupied(_) => return Err(at_element(index)(used_otherwise(key))),
            }
        }
        if claims.is_empty() {
            return Ok(());
        }
        let claimed = upsert(
            client,
            c"idempotency_keys",
            "WITH claimed AS (
                INSERT INTO entitlements.idempotency_keys (account_id, key, request, result, created_at)
                SELECT account_id, key, request, '', $4
                  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) AS named (account_id, key, request)
                 ORDER BY account_id, key
                ON CONFLICT (account_id, key) DO NOTHING RETURNING account_id, key
            )
            SELECT pg_catalog.count(*), pg_catalog.array_agg(account_id), pg_catalog.array_agg(key) FROM claimed",
            &[
                claims.keys().map(|(account, _)| *account).collect::<Vec<_>>().into(),
                claims.keys().map(|(_, key)| *key).collect::<Vec<_>>().into(),
                claims.values().map(|(digest, _)| digest.to_vec()).collect::<Vec<_>>().into(),
                TimestampWithTimeZone::try_from(now).expect("the clock is within the range of timestamptz").into(),
            ],
        )?;
        let claimed = claimed.first();
        if claimed.get::<i64>(1)? != Some(claims.len() as i64) {
            let of_accounts = claimed.get::<Vec<i64>>(2)?.unwrap_or_default();
            let new = of_accounts.into_iter().zip(claimed.get::<Vec<String>>(3)?.unwrap_or_default());
            let mut new: Vec<(i64, String)> = new.collect();
            new.sort_unstable();
            claims.retain(|claim, _| new.binary_search_by(|(account, key)| (*account, key.as_str()).cmp(claim)).is_err());
            refuse_other_requests(client, &claims)?;
            let known = |(account, key)| claims.contains_key(&(account, key));
            duplicates.extend(self.events.iter().enumerate().filter_map(|(index, event)| {
                let key = event.key.as_ref().map(|(key, _)| &**key)?;
                known((accounts[event.account], key)).then_some(index)
            }));
        }
        drop(claims);
        for index in duplicates {
            self.events[index].is_duplicate = true;
        }
        Ok(())
    }

    fn groups(&self) -> Groups<'_> {
        let mut by_place: HashMap<(usize, usize), Vec<&Event<'_>>, RandomState> = HashMap::default();
        for event in &self.events {
            by_place.entry((event.account, event.feature)).or_default().push(event);
        }
        let named = |((account, feature), group)| ((self.accounts.name(account), self.features.name(feature)), group);
        by_place.into_iter().map(named).collect()
    }

    /// Writes what the features' ledgers keep.
    fn keep_events(&self, client: &mut SpiClient<'_>, accounts: &[i64], features: &[Rc<Feature>]) -> Result<(), Error> {
        let ledgers = ledgers(features)?;
        // Each event with the feature in whose ledger it is kept, and how much of that it is.
        let kept: Vec<(&Event<'_>, i32, Amount)> = self
            .events
            .iter()
            .filter(|event| !event.is_duplicate)
            .flat_map(|event| {
                ledgers[event.feature].iter().map(move |(feature, cost)| (event, *feature, event.n.scaled_up(*cost)))
            })
            .collect();
        if kept.is_empty() {
            return Ok(());
        }
        let time =
            |at| TimestampWithTimeZone::try_from(at).expect("four digits of a year are within the range of timestamptz");
        let ats: Vec<TimestampWithTimeZone> = kept.iter().map(|(event, ..)| time(event.at)).collect();
        let account_ids: Vec<i64> = kept.iter().map(|(event, ..)| accounts[event.account]).collect();
        let feature_ids: Vec<i32> = kept.iter().map(|(_, feature, _)| *feature).collect();
        let amounts: Vec<String> = kept.iter().map(|(.., amount)| amount.to_string()).collect();
        let keys: Vec<Option<&str>> = kept.iter().map(|(event, ..)| event.key.as_ref().map(|(key, _)| &**key)).collect();
        let metadata: Vec<Option<&str>> = kept.iter().map(|(event, ..)| event.metadata).collect();
        client.update(
            "INSERT INTO entitlements.usage_events
                    (at, account_id, feature_id, amount, action, role_name, transaction_id, idempotency_key, metadata)
             SELECT event.at, event.account_id, event.feature_id, event.amount::pg_catalog.numeric, 'record_usage', $7,
                    pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8, event.key, event.metadata::pg_catalog.jsonb
               FROM ROWS FROM (
                        pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),
                        pg_catalog.unnest($5), pg_catalog.unnest($6)
                    ) AS event (at, account_id, feature_id, amount, key, metadata)",
            None,
            &[
                ats.into(),
                account_ids.into(),
                feature_ids.into(),
                amounts.into(),
                keys.into(),
                metadata.into(),
                Actor::current().role.into(),
            ],
        )?;
        Ok(())
    }
}

/// In which features' ledgers a use of each feature is kept, and how many of their units one of its units is: its own, and that
/// of the feature that it draws on.
fn ledgers(features: &[Rc<Feature>]) -> Result<Vec<Vec<(i32, Amount)>>, Error> {
    MEMO.with(|memo| {
        memo.read(|reader| {
            let of = |feature: &Rc<Feature>| {
                let own = feature.keeps_ledger.then_some((feature.resolved.id.0, Amount::ONE));
                let drawn = match feature.draws_on {
                    Some((pool, cost)) => Feature::by_id(reader, pool)?.keeps_ledger.then_some((pool.0, cost)),
                    None => None,
                };
                Ok(own.into_iter().chain(drawn).collect())
            };
            features.iter().map(of).collect()
        })
    })
}

/// NE009 where one of the keys, which were there before, stands for another event.
fn refuse_other_requests(
    client: &mut SpiClient<'_>,
    known: &HashMap<(i64, &str), (&[u8; 32], usize), RandomState>,
) -> Result<(), Error> {
    let stored = client.update(
        "SELECT used.account_id, used.key, used.request
           FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS named (account_id, key)
           JOIN entitlements.idempotency_keys AS used ON used.account_id = named.account_id AND used.key = named.key COLLATE \"C\"",
        None,
        &[
            known.keys().map(|(account, _)| *account).collect::<Vec<_>>().into(),
            known.keys().map(|(_, key)| *key).collect::<Vec<_>>().into(),
        ],
    )?;
    let mut first_wrong: Option<(usize, String)> = None;
    for row in stored {
        let (Some(account), Some(key), Some(request)) = (row.get::<i64>(1)?, row.get::<String>(2)?, row.get::<Vec<u8>>(3)?)
        else {
            continue;
        };
        if let Some((digest, index)) = known.get(&(account, key.as_str()))
            && **digest != request[..]
            && first_wrong.as_ref().is_none_or(|(wrong, _)| index < wrong)
        {
            first_wrong = Some((*index, key));
        }
    }
    match first_wrong {
        Some((index, key)) => Err(at_element(index)(used_otherwise(&key))),
        None => Ok(()),
    }
}

/// What a JSON reader found wrong, without the place in a line of its own.
fn described(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}
