//! Seats: holders of the places of an allocation, each a unit that is taken through the same pools as by `consume`.
//!
//! Promises: seats and what was consumed otherwise are never more than the limit together; nobody is refused while a seat can be
//! reclaimed; a running lease and a named seat are taken from nobody; a holder has one seat, however many ask for it at once.
//! Only a place that came by a bundle for a time is over with that time, whoever has it: from then on it is another database's.
//!
//! Every change of a seat is made under the lock of its row, and a new seat's row comes first: the unique index makes a second
//! assigner of the same holder wait for it. An assignment is a subtransaction, so a refusal leaves nothing of what was tried.
//! Of several that need a place each locks an expired seat that no other has locked; who finds all of them locked waits for
//! one to be decided, rather than be refused for what another may give back by an abort.

use super::consume::{Entry, Parts, Request, give_back_to, look_anew, take};
use super::decision::{Decision, signed};
use super::functions::feature_key;
use super::look::{Charge, Lapsed, Look};
use super::write::{self, Event, sql_amount};
use crate::accounts::arguments::{period, required_text, timestamp};
use crate::bundle::SOURCE_PREFIX;
use crate::bundle::deployment::Deployment;
use crate::check::functions::sql_time;
use crate::check::memo::MEMO;
use crate::error::Error;
use crate::pg::composite::{Composite, CompositeType, CompositeValue};
use crate::pg::error::or_raise;
use crate::pg::session::{connect_to_change, refuse_read_only};
use crate::pg::snapshot::statement_time;
use crate::pg::subtransaction::{attempt, upsert};
use crate::row::{present, present_time};
use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::catalog::Overage;
use entitlements_model::kind::{Kind, Reason};
use entitlements_model::meter::lease::{self, Assignment};
use entitlements_model::time::{FOREVER, Time};
use pgrx::AnyNumeric;
use pgrx::datum::Interval;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData};

/// Most bytes of a holder's name, which is indexed.
const HOLDER_BYTES: usize = 255;

static SEAT_ASSIGNMENT: CompositeType = CompositeType::new(c"seat_assignment");

/// Whose seat is meant.
#[derive(Clone, Copy)]
struct Asked<'a> {
    account: Option<&'a str>,
    feature: &'a str,
    holder: &'a str,
    /// None: what the seat has, or for a new one what the feature says.
    lease: Option<Interval>,
    /// Until when the seat is to be the holder's at least, whatever its lease; for a new one the end of its lease.
    at_least: Option<Time>,
    now: Time,
}

/// What became of a request for a seat.
struct Answer {
    holder: String,
    decision: Decision,
    /// None where it was denied.
    held: Option<Held>,
    /// Whose seats were ended for it.
    reclaimed_from: Vec<String>,
    kept: Option<Kept>,
}

#[derive(Clone, Copy)]
struct Held {
    assigned_at: Time,
    /// Infinity: a named seat.
    leased_until: Time,
}

/// When the credits end that a seat's place was taken from; FOREVER where it was taken from none.
#[derive(Clone, Copy)]
struct Ends {
    of_any: Time,
    /// Of those that came by a bundle.
    lent: Time,
}

/// A seat that is kept for somebody.
pub struct Kept {
    pub seat: i64,
    /// Whether it was taken now: the holder had none, or its lease was over.
    pub is_taken: bool,
    /// Until when the holder has it, and what it was taken from is there.
    pub until: Time,
}

/// A seat as its locked row has it.
struct Seat {
    id: i64,
    leased_until: Time,
    /// Given back, while its place may not change hands yet.
    is_returned: bool,
    /// Whether what it takes was taken from all pools that it would be taken from now.
    backed: bool,
}

/// Why an attempt was undone.
enum Undone {
    Denied(Box<Decision>),
    /// Somebody else was faster.
    Again,
    Failed(Error),
}

impl From<Error> for Undone {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<pgrx::spi::Error> for Undone {
    fn from(error: pgrx::spi::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Whether there is a place.
enum Room {
    Enough,
    /// Once these seats have ended.
    Reclaim(Vec<i64>),
    Full,
}

impl<'a> Asked<'a> {
    /// NE007 if an argument is missing or out of bounds.
    fn new(
        account: Option<&'a str>,
        feature: Option<&'a str>,
        holder: Option<&'a str>,
        lease: Option<Interval>,
    ) -> Result<Self, Error> {
        let holder = required_text("holder", holder)?;
        if holder.len() > HOLDER_BYTES {
            return Err(Error::argument("holder", format!("it is longer than {HOLDER_BYTES} bytes")));
        }
        let lease = lease.map(|length| period("lease", length)).transpose()?;
        Ok(Self { account, feature: feature_key(feature)?, holder, lease, at_least: None, now: statement_time() })
    }

    /// NE003 unknown feature, NE004 it is not an allocation.
    fn look(&self) -> Result<Look, Error> {
        let look = look_anew(self.account, self.feature, self.now)?;
        refuse_other_kinds(&look)?;
        Ok(look)
    }

    /// Gives the holder a seat, or with `renews` only the one that it has: NE010 if it has none.
    fn assign(&self, renews: bool) -> Result<Answer, Error> {
        refuse_read_only();
        loop {
            match attempt(|| self.try_once(renews)) {
                Ok(answer) => return Ok(answer),
                Err(Undone::Denied(decision)) => {
                    let (holder, decision) = (self.holder.to_owned(), *decision);
                    return Ok(Answer { holder, decision, held: None, reclaimed_from: Vec::new(), kept: None });
                }
                Err(Undone::Again) => {}
                Err(Undone::Failed(error)) => return Err(error),
            }
        }
    }

    fn try_once(&self, renews: bool) -> Result<Answer, Undone> {
        let look = self.look()?;
        let (account, feature) = (look.account, look.feature.resolved.id.0);
        let own = match account {
            Some(account) => connect_to_change(|client| self.lock_own(client, account, feature))?,
            None => None,
        };
        let own = own.filter(|seat| !(renews && seat.is_returned));
        let (own, new) = match (account, own) {
            (_, Some(seat)) => (connect_to_change(|client| self.unless_lent_is_over(client, seat))?, None),
            (_, None) if renews => return Err(self.unknown().into()),
            (Some(account), None) if !look.charges.is_empty() => {
                let (seat, held) = self.create(account, feature)?;
                (seat, Some(held))
            }
            _ => return Err(self.denied(&look)?),
        };
        let is_taken = own.leased_until <= self.now;
        let mut placing = Placing { asked: self, own, busy: Vec::new(), reclaimed: Vec::new() };
        let decision = placing.settle()?;
        let seat = placing.own.id;
        let (held, ends) = connect_to_change(|client| {
            let ends = Ends::of(client, seat)?;
            let held = match new {
                Some(held) => held.confined(client, seat, ends)?,
                None => self.resume(client, seat, ends)?,
            };
            Ok::<_, Error>((held, ends))
        })?;
        let kept = Some(Kept { seat, is_taken, until: held.leased_until.min(ends.of_any) });
        let (holder, reclaimed_from) = (self.holder.to_owned(), placing.reclaimed);
        Ok(Answer { holder, decision, held: Some(held), reclaimed_from, kept })
    }

    /// The seat as it is by the latest time that was ever seen: no lease runs any more on a place that was lent until then.
    fn unless_lent_is_over(&self, client: &mut SpiClient<'_>, seat: Seat) -> Result<Seat, Error> {
        let Ends { lent, .. } = Ends::of(client, seat.id)?;
        if lent == FOREVER || Deployment::read(client)?.clock().time() < lent {
            return Ok(seat);
        }
        Ok(Seat { leased_until: Time::MIN, ..seat })
    }

    fn unknown(&self) -> Error {
        Error::UnknownRow { object: "seat", id: self.holder.to_owned() }
    }

    fn denied(&self, look: &Look) -> Result<Undone, Error> {
        let reason = if look.charges.is_empty() { look.denial_reason(self.now)? } else { Reason::LimitExceeded };
        Ok(Undone::Denied(Box::new(Decision::of(look, false, reason, Amount::ONE, 0))))
    }

    /// The holder's seat, when nobody else is changing it.
    fn lock_own(&self, client: &mut SpiClient<'_>, account: i64, feature: i32) -> Result<Option<Seat>, Error> {
        let found = client.update(
            "SELECT id, leased_until, returned_at IS NOT NULL FROM entitlements.seats
              WHERE account_id = $1 AND feature_id = $2 AND holder = $3 AND ended_at IS NULL FOR NO KEY UPDATE",
            Some(1),
            &[account.into(), feature.into(), self.holder.into()],
        )?;
        let seat = |row: SpiHeapTupleData<'_>| {
            let (id, is_returned) = (present(&row, 1)?, present(&row, 3)?);
            Ok(Seat { id, leased_until: present_time(&row, 2)?, is_returned, backed: false })
        };
        found.into_iter().next().map(seat).transpose()
    }

    /// A seat without a place yet.
    fn create(&self, account: i64, feature: i32) -> Result<(Seat, Held), Undone> {
        connect_to_change(|client| {
            let inserted = upsert(
                client,
                c"seats",
                "INSERT INTO entitlements.seats (account_id, feature_id, holder, assigned_at, renewed_at, lease, leased_until)
                 SELECT asked.id, $2, $3, $4, $4, asked.lease, coalesce($4 + asked.lease, 'infinity')
                   FROM (SELECT account.id, coalesce($5, $6 - $4, feature.lease) AS lease
                           FROM entitlements.accounts AS account, entitlements.features AS feature
                          WHERE account.id = $1 AND account.erased_at IS NULL AND feature.id = $2 FOR KEY SHARE OF account) AS asked
                 ON CONFLICT (account_id, feature_id, holder) WHERE ended_at IS NULL DO NOTHING
                 RETURNING id, leased_until",
                &[
                    account.into(),
                    feature.into(),
                    self.holder.into(),
                    timestamp(self.now).into(),
                    self.lease.into(),
                    self.at_least.map(timestamp).into(),
                ],
            )?;
            let Some(row) = inserted.into_iter().next() else { return Err(Undone::Again) };
            // Nothing runs that would go on without a place.
            let seat = Seat { id: present(&row, 1)?, leased_until: Time::MIN, is_returned: false, backed: false };
            Ok((seat, Held { assigned_at: self.now, leased_until: present_time(&row, 2)? }))
        })
    }

    /// A sign of life: the seat is the holder's for another lease. Only a lease that is asked for makes it shorter.
    fn resume(&self, client: &mut SpiClient<'_>, seat: i64, ends: Ends) -> Result<Held, Error> {
        let found = client.update(
            "UPDATE entitlements.seats
                SET lease = coalesce($3, lease), renewed_at = greatest(renewed_at, $2),
                    leased_until = least($5, greatest(coalesce($2 + coalesce($3, lease), 'infinity'), $4,
                                                      CASE WHEN $3 IS NULL THEN leased_until END)),
                    returned_at = NULL, end_reason = NULL
              WHERE id = $1 RETURNING assigned_at, leased_until",
            None,
            &[
                seat.into(),
                timestamp(self.now).into(),
                self.lease.into(),
                self.at_least.map(timestamp).into(),
                timestamp(ends.lent).into(),
            ],
        )?;
        let row = found.into_iter().next().ok_or_else(|| Error::Internal(format!("seat {seat} is missing")))?;
        let held = Held { assigned_at: present_time(&row, 1)?, leased_until: present_time(&row, 2)? };
        client.update(
            "UPDATE entitlements.seat_parts SET leased_until = $2 WHERE seat_id = $1 AND leased_until <> $2",
            None,
            &[seat.into(), timestamp(held.leased_until).into()],
        )?;
        Ok(held)
    }

    /// False if the holder has no seat. Where places linger, the seat only ends when another needs its place.
    fn release(&self, reason: Option<&str>) -> Result<bool, Error> {
        refuse_read_only();
        let look = self.look()?;
        let (Some(account), feature) = (look.account, look.feature.resolved.id.0) else { return Ok(false) };
        let reason = reason.unwrap_or("released");
        let Some(seat) = connect_to_change(|client| self.lock_own(client, account, feature))? else { return Ok(false) };
        if seat.is_returned {
            return Ok(false);
        }
        if !connect_to_change(|client| self.leave_lingering(client, seat.id, reason))? {
            end(seat.id, reason, self.now)?;
        }
        Ok(true)
    }

    /// Ends the seat's lease instead of the seat. False, and nothing was done, where places do not linger.
    fn leave_lingering(&self, client: &mut SpiClient<'_>, seat: i64, reason: &str) -> Result<bool, Error> {
        let returned = client.update(
            "UPDATE entitlements.seats AS seat
                SET leased_until = least(seat.leased_until, $2), returned_at = $2, renewed_at = greatest(seat.renewed_at, $2), end_reason = $3
               FROM entitlements.features AS feature
              WHERE seat.id = $1 AND feature.id = seat.feature_id AND feature.linger IS NOT NULL
             RETURNING seat.leased_until",
            None,
            &[seat.into(), timestamp(self.now).into(), reason.into()],
        )?;
        let Some(row) = returned.into_iter().next() else { return Ok(false) };
        let leased_until = present::<TimestampWithTimeZone>(&row, 1)?;
        client.update(
            "UPDATE entitlements.seat_parts SET leased_until = $2 WHERE seat_id = $1",
            None,
            &[seat.into(), leased_until.into()],
        )?;
        Ok(true)
    }
}

impl Ends {
    fn of(client: &mut SpiClient<'_>, seat: i64) -> Result<Self, Error> {
        let found = client.update(
            "SELECT coalesce(pg_catalog.min(credit.expires_at), 'infinity'),
                    coalesce(pg_catalog.min(credit.expires_at) FILTER (WHERE pg_catalog.starts_with(credit.source, $2)), 'infinity')
               FROM entitlements.seat_parts AS part
               JOIN entitlements.counters AS counter ON counter.id = part.counter_id
               JOIN entitlements.credits AS credit ON credit.id = counter.credit_id
              WHERE part.seat_id = $1",
            Some(1),
            &[seat.into(), SOURCE_PREFIX.into()],
        )?;
        let row = found.into_iter().next().ok_or_else(|| Error::Internal("an aggregate has no row".to_owned()))?;
        Ok(Self { of_any: present_time(&row, 1)?, lent: present_time(&row, 2)? })
    }
}

impl Held {
    /// No lease is longer than what is lent.
    fn confined(self, client: &mut SpiClient<'_>, seat: i64, ends: Ends) -> Result<Self, Error> {
        if self.leased_until <= ends.lent {
            return Ok(self);
        }
        for confine in [
            "UPDATE entitlements.seats SET leased_until = $2 WHERE id = $1",
            "UPDATE entitlements.seat_parts SET leased_until = $2 WHERE seat_id = $1",
        ] {
            client.update(confine, None, &[seat.into(), timestamp(ends.lent).into()])?;
        }
        Ok(Self { leased_until: ends.lent, ..self })
    }
}

/// Finding a place for a seat whose row is locked.
struct Placing<'a> {
    asked: &'a Asked<'a>,
    own: Seat,
    /// Expired seats that others have locked.
    busy: Vec<i64>,
    reclaimed: Vec<String>,
}

impl Placing<'_> {
    fn settle(&mut self) -> Result<Decision, Undone> {
        loop {
            let look = self.asked.look()?;
            if look.charges.is_empty() {
                return Err(self.asked.denied(&look)?);
            }
            self.own.backed = is_backed(self.own.id, &look)?;
            match self.room(&look)? {
                Room::Enough if self.own.backed => return Ok(Decision::of(&look, true, Reason::Granted, Amount::ONE, 0)),
                Room::Enough => {
                    if let Some(decision) = self.take()? {
                        return Ok(decision);
                    }
                }
                Room::Reclaim(seats) => self.reclaim(&seats, &look)?,
                Room::Full => match self.busy.pop() {
                    Some(seat) => {
                        wait_for(seat)?;
                        self.busy.clear();
                    }
                    // What runs goes on, also where a place is not there any more.
                    None if self.own.leased_until > self.asked.now => {
                        return Ok(Decision::of(&look, true, Reason::Granted, Amount::ONE, 0));
                    }
                    None => return Err(self.asked.denied(&look)?),
                },
            }
        }
    }

    /// Whether the seat has its place, or there is one for it: within the allowance if seats can be reclaimed for that, else
    /// within what overage allows.
    fn room(&self, look: &Look) -> Result<Room, Error> {
        if self.own.backed && self.own.leased_until > self.asked.now {
            return Ok(Room::Enough);
        }
        match self.room_within(look, false)? {
            Room::Full => self.room_within(look, true),
            room => Ok(room),
        }
    }

    fn room_within(&self, look: &Look, with_overage: bool) -> Result<Room, Error> {
        for charge in &look.charges {
            let wanted = if self.own.backed { 0 } else { Amount::ONE.nanos() };
            let Some(balance) = charge.balance(with_overage) else { continue };
            if balance >= wanted {
                continue;
            }
            let expired = self.expired(charge)?;
            let held = i128::try_from(expired.len()).unwrap_or(i128::MAX);
            let places = held.saturating_add(balance.div_euclid(Amount::ONE.nanos())).max(0);
            let limit = Allowance::Finite(Amount::ONE.times(u32::try_from(places).unwrap_or(u32::MAX)));
            match lease::assign(&expired, &self.own.id, 0, limit, self.asked.now) {
                Assignment::Resume(_) | Assignment::Take => {}
                Assignment::Reclaim(seats) => {
                    let others = seats.into_iter().map(|seat| expired[seat].holder).filter(|seat| *seat != self.own.id);
                    return Ok(Room::Reclaim(others.collect()));
                }
                // What cannot be within the allowance has as little overage as can be.
                Assignment::Full if !with_overage && charge.feature.overage == Overage::Allow => {
                    let may_end = |seat: &&lease::Seat<i64>| seat.holder != self.own.id && seat.seen_at <= self.asked.now;
                    let seats: Vec<i64> = expired.iter().filter(may_end).map(|seat| seat.holder).collect();
                    return Ok(if seats.is_empty() { Room::Full } else { Room::Reclaim(seats) });
                }
                Assignment::Full => return Ok(Room::Full),
            }
        }
        Ok(Room::Enough)
    }

    /// The seats of the charge's pools whose lease is over, but for those that others are changing. `seen_at` is when the place
    /// may change hands.
    fn expired(&self, charge: &Charge) -> Result<Vec<lease::Seat<i64>>, Error> {
        let counters: Vec<i64> = charge.counters().collect();
        connect_to_change(|client| {
            let found = client.update(
                "SELECT DISTINCT seat.id, seat.assigned_at, seat.leased_until, seat.renewed_at + coalesce(feature.linger, '0')
                   FROM entitlements.seat_parts AS part
                   JOIN entitlements.seats AS seat ON seat.id = part.seat_id
                   JOIN entitlements.features AS feature ON feature.id = seat.feature_id
                  WHERE part.counter_id = ANY ($1) AND part.leased_until <= $2 AND seat.ended_at IS NULL
                    AND (seat.id <> ALL ($3) OR seat.id = $4)",
                None,
                &[counters.into(), timestamp(self.asked.now).into(), self.busy.clone().into(), self.own.id.into()],
            )?;
            let seat = |row: SpiHeapTupleData<'_>| {
                Ok(lease::Seat {
                    holder: present(&row, 1)?,
                    since: present_time(&row, 2)?,
                    leased_until: Some(present_time(&row, 3)?),
                    seen_at: present_time(&row, 4)?,
                })
            };
            found.into_iter().map(seat).collect()
        })
    }

    /// Ends these seats if no other has any of them locked.
    fn reclaim(&mut self, seats: &[i64], look: &Look) -> Result<(), Undone> {
        const LOCK: &str = "SELECT id, holder FROM entitlements.seats
              WHERE id = ANY ($1) AND ended_at IS NULL AND leased_until <= $2 ORDER BY leased_until, id FOR NO KEY UPDATE SKIP LOCKED";
        let locked: Vec<(i64, String)> = connect_to_change(|client| {
            let found = client.update(LOCK, None, &[seats.to_vec().into(), timestamp(self.asked.now).into()])?;
            found.into_iter().map(|row| Ok::<_, Error>((present(&row, 1)?, present(&row, 2)?))).collect::<Result<_, _>>()
        })?;
        let busy = seats.iter().filter(|seat| !locked.iter().any(|(id, _)| id == *seat));
        let before = self.busy.len();
        self.busy.extend(busy);
        if self.busy.len() > before {
            return Ok(());
        }
        let only = locked.len() == 1;
        for (seat, holder) in locked {
            if only && !self.own.backed && is_backed_alone(seat, look)? {
                self.hand_over(seat, look)?;
            }
            end(seat, "reclaimed", self.asked.now)?;
            self.reclaimed.push(holder);
        }
        Ok(())
    }

    /// The unit of the other seat becomes this one's, without a change of any counter: who holds nothing but seats is in
    /// nobody's way.
    fn hand_over(&self, seat: i64, look: &Look) -> Result<(), Error> {
        give_back(self.own.id)?;
        connect_to_change(|client| {
            client.update(
                "UPDATE entitlements.seat_parts AS part SET seat_id = seat.id, leased_until = seat.leased_until
                   FROM entitlements.seats AS seat WHERE part.seat_id = $1 AND seat.id = $2",
                None,
                &[seat.into(), self.own.id.into()],
            )?;
            Ok::<_, Error>(())
        })?;
        if let (true, Some(account)) = (look.feature.keeps_ledger, look.account) {
            keep_event(account, look.feature.resolved.id.0, Amount::ONE.nanos(), "assign_seat", self.asked.now)?;
        }
        Ok(())
    }

    /// Takes the seat's unit. None if it was not there any more.
    fn take(&mut self) -> Result<Option<Decision>, Undone> {
        give_back(self.own.id)?;
        let Asked { account, feature, .. } = *self.asked;
        let entry = Some(entry("assign_seat"));
        let request = Request { account, feature, n: Amount::ONE, whole: true, entry };
        let (decision, parts) = take(request, false)?;
        match decision.allowed {
            true => {
                keep_parts(self.own.id, &parts)?;
                Ok(Some(decision))
            }
            false if decision.reason == Reason::LimitExceeded => Ok(None),
            false => Err(Undone::Denied(Box::new(decision))),
        }
    }
}

/// Whether a whole unit of the seat stems from each charge.
fn is_backed(seat: i64, look: &Look) -> Result<bool, Error> {
    Ok(back(&parts(seat)?, look))
}

/// The same, and nothing of it stems from elsewhere.
fn is_backed_alone(seat: i64, look: &Look) -> Result<bool, Error> {
    let parts = parts(seat)?;
    let is_known = |(part, _): &(i64, Amount)| look.charges.iter().any(|charge| charge.counters().any(|id| id == *part));
    Ok(back(&parts, look) && parts.iter().all(is_known))
}

fn back(parts: &Parts, look: &Look) -> bool {
    look.charges.iter().all(|charge| {
        let of_charge = |part: &&(i64, Amount)| charge.counters().any(|counter| counter == part.0);
        let sum = parts.iter().filter(of_charge).fold(Amount::ZERO, |sum, (_, amount)| sum.saturating_add(*amount));
        sum >= Amount::ONE
    })
}

fn parts(seat: i64) -> Result<Parts, Error> {
    connect_to_change(|client| {
        let found = client.update(
            "SELECT counter_id, amount FROM entitlements.seat_parts WHERE seat_id = $1",
            None,
            &[seat.into()],
        )?;
        parts_of(found.into_iter())
    })
}

/// Waits for the end of the transaction that is changing the seat.
fn wait_for(seat: i64) -> Result<(), Error> {
    connect_to_change(|client| {
        client.update("SELECT FROM entitlements.seats WHERE id = $1 FOR NO KEY UPDATE", Some(1), &[seat.into()])?;
        Ok(())
    })
}

fn keep_parts(seat: i64, parts: &Parts) -> Result<(), Error> {
    let (counters, amounts): (Vec<i64>, Vec<AnyNumeric>) =
        parts.iter().map(|(counter, amount)| (*counter, sql_amount(*amount))).unzip();
    connect_to_change(|client| {
        client.update(
            "INSERT INTO entitlements.seat_parts (seat_id, counter_id, leased_until, amount)
             SELECT seat.id, part.counter_id, seat.leased_until, part.amount
               FROM entitlements.seats AS seat, ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) AS part (counter_id, amount)
              WHERE seat.id = $1",
            None,
            &[seat.into(), counters.into(), amounts.into()],
        )?;
        Ok(())
    })
}

/// Gives back what the seat has taken.
fn give_back(seat: i64) -> Result<(), Error> {
    let parts = connect_to_change(|client| {
        let deleted = client.update(
            "DELETE FROM entitlements.seat_parts WHERE seat_id = $1 RETURNING counter_id, amount",
            None,
            &[seat.into()],
        )?;
        parts_of(deleted.into_iter())
    })?;
    parts.into_iter().try_for_each(|(counter, amount)| give_back_to(counter, amount))
}

fn parts_of<'a>(rows: impl Iterator<Item = SpiHeapTupleData<'a>>) -> Result<Parts, Error> {
    rows.map(|row| {
        let amount: AnyNumeric = present(&row, 2)?;
        Ok((present(&row, 1)?, super::counter::amount(&amount.to_string())))
    })
    .collect()
}

/// Ends a seat whose row is locked, and gives its place back.
fn end(seat: i64, reason: &str, now: Time) -> Result<(), Error> {
    give_back(seat)?;
    let (account, feature, keeps_ledger) = connect_to_change(|client| {
        let ended = client.update(
            "UPDATE entitlements.seats AS seat SET ended_at = greatest($2, seat.assigned_at), end_reason = coalesce(seat.end_reason, $3)
               FROM entitlements.features AS feature
              WHERE seat.id = $1 AND feature.id = seat.feature_id
             RETURNING seat.account_id, seat.feature_id, feature.ledger",
            None,
            &[seat.into(), timestamp(now).into(), reason.into()],
        )?;
        let row = ended.into_iter().next().ok_or_else(|| Error::Internal(format!("seat {seat} is missing")))?;
        Ok::<_, Error>((present(&row, 1)?, present(&row, 2)?, present(&row, 3)?))
    })?;
    if keeps_ledger {
        keep_event(account, feature, -Amount::ONE.nanos(), "release_seat", now)?;
    }
    Ok(())
}

fn keep_event(account: i64, feature: i32, billionths: i128, action: &'static str, at: Time) -> Result<(), Error> {
    write::keep_event(
        &*super::relations()?,
        Event { account, feature, amount: signed(billionths), entry: entry(action), at },
    )
}

fn entry(action: &'static str) -> Entry<'static> {
    Entry { action, idempotency_key: None, metadata: None }
}

/// Ends all seats of an account that is being erased.
pub fn end_all(client: &mut SpiClient<'_>, account: i64) -> Result<(), Error> {
    let found = client.update(
        "SELECT id FROM entitlements.seats WHERE account_id = $1 AND ended_at IS NULL ORDER BY id FOR NO KEY UPDATE",
        None,
        &[account.into()],
    )?;
    let seats = found.into_iter().map(|row| present(&row, 1)).collect::<Result<Vec<i64>, Error>>()?;
    seats.into_iter().try_for_each(|seat| end(seat, "erased", statement_time()))
}

fn refuse_other_kinds(look: &Look) -> Result<(), Error> {
    match look.feature.resolved.kind {
        Kind::Allocation => Ok(()),
        kind => Err(Error::WrongKind { feature: look.feature.key.as_str().to_owned(), kind, needed: "an allocation" }),
    }
}

impl Answer {
    fn into_composite(self) -> Result<CompositeValue, Error> {
        let Decision { allowed, reason, account, feature, amounts, .. } = self.decision;
        let of = |of: fn(&super::decision::Amounts) -> Amount| amounts.as_ref().map(|amounts| of(amounts).into());
        let allowance = amounts.and_then(|amounts| match amounts.allowance {
            Allowance::Finite(amount) => Some(amount.into()),
            Allowance::Unlimited => None,
        });
        let answer = Composite::of(&SEAT_ASSIGNMENT)?
            .with(Some(allowed))
            .with_text(Some(reason.as_str()))
            .with_text(account.as_deref())
            .with_text(Some(&feature))
            .with_text(Some(&self.holder))
            .with(self.held.as_ref().and_then(|held| sql_time(held.assigned_at)))
            .with(self.held.as_ref().and_then(|held| sql_time(held.leased_until)))
            .with(Some(self.reclaimed_from))
            .with_amount(allowance)
            .with_amount(of(|amounts| amounts.used))
            .with_amount(of(|amounts| amounts.overage));
        Ok(answer.build())
    }

    /// The answer, or a denial as the error that it is.
    fn or_denial(self) -> Result<Self, Error> {
        if self.decision.allowed { Ok(self) } else { Err(self.decision.into_error()) }
    }
}

/// Gives the holder a seat until then at least, if what it is taken from is there so long, or the denial as an error.
pub fn hold(account: &str, feature: &str, holder: &str, until: Time) -> Result<Kept, Error> {
    let asked = Asked::new(Some(account), Some(feature), Some(holder), None)?;
    let answer = Asked { at_least: Some(until), ..asked }.assign(false)?.or_denial()?;
    answer.kept.ok_or_else(|| Error::Internal("a seat was given and is not there".to_owned()))
}

/// Gives the holder's seat back. False if there is none.
pub fn give_up(account: &str, feature: &str, holder: &str, reason: &str) -> Result<bool, Error> {
    Asked::new(Some(account), Some(feature), Some(holder), None)?.release(Some(reason))
}

#[pg_extern(sql = false)]
fn assign_seat(
    account: Option<&str>,
    feature: Option<&str>,
    holder: Option<&str>,
    lease: Option<Interval>,
) -> CompositeValue {
    or_raise(
        Asked::new(account, feature, holder, lease)
            .and_then(|asked| asked.assign(false)?.or_denial())
            .and_then(Answer::into_composite),
    )
}

#[pg_extern(sql = false)]
fn try_assign_seat(
    account: Option<&str>,
    feature: Option<&str>,
    holder: Option<&str>,
    lease: Option<Interval>,
) -> CompositeValue {
    or_raise(
        Asked::new(account, feature, holder, lease).and_then(|asked| asked.assign(false)).and_then(Answer::into_composite),
    )
}

#[pg_extern(sql = false)]
fn renew_seat(account: Option<&str>, feature: Option<&str>, holder: Option<&str>) -> Option<TimestampWithTimeZone> {
    let renewed = Asked::new(account, feature, holder, None).and_then(|asked| asked.assign(true)?.or_denial());
    or_raise(renewed).held.and_then(|held| sql_time(held.leased_until))
}

#[pg_extern(sql = false)]
fn release_seat(account: Option<&str>, feature: Option<&str>, holder: Option<&str>, reason: Option<&str>) -> bool {
    or_raise(Asked::new(account, feature, holder, None).and_then(|asked| asked.release(reason)))
}

#[pg_extern(sql = false)]
fn seats(
    account: Option<&str>,
    feature: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(holder, String),
        name!(assigned_at, TimestampWithTimeZone),
        name!(leased_until, Option<TimestampWithTimeZone>),
        name!(state, String),
    ),
> {
    let rows = or_raise(held_seats(account, feature));
    TableIterator::new(
        rows.into_iter().map(|(holder, assigned_at, leased_until, state)| {
            (holder, timestamp(assigned_at), sql_time(leased_until), state)
        }),
    )
}

fn held_seats(account: Option<&str>, feature: Option<&str>) -> Result<Vec<(String, Time, Time, String)>, Error> {
    let (feature, now) = (feature_key(feature)?, statement_time());
    let look = MEMO.with(|memo| {
        memo.read(|reader| Look::at(reader, account.map(str::as_bytes), feature.as_bytes(), now, Lapsed::Free))
    })?;
    refuse_other_kinds(&look)?;
    Spi::connect(|client| {
        let found = client.select(
            "SELECT holder, assigned_at, leased_until,
                    CASE WHEN returned_at IS NOT NULL THEN 'returned' WHEN leased_until = 'infinity' THEN 'named'
                         WHEN leased_until > $3 THEN 'leased' ELSE 'expired' END
               FROM entitlements.seats
              WHERE account_id = $1 AND feature_id = $2 AND ended_at IS NULL ORDER BY holder",
            None,
            &[look.account.into(), look.feature.resolved.id.0.into(), timestamp(now).into()],
        )?;
        let row = |row: SpiHeapTupleData<'_>| {
            Ok((present(&row, 1)?, present_time(&row, 2)?, present_time(&row, 3)?, present(&row, 4)?))
        };
        found.into_iter().map(row).collect()
    })
}
