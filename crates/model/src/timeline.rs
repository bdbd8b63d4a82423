//! The life of a subscription: stretches of time, each with one status and one set of terms, and what a change makes of them.
//!
//! Each function takes the stretches as they are believed now and gives them as they are believed after the change; who stores
//! them replaces those that differ. Promises: the stretches given back are in order, at most one of them is in force at any
//! time, what was in force before the change takes effect is what it was, and each piece of a term knows when the term began,
//! which only a renewal makes anew. (One exception, by its nature: a grace period
//! that is granted after the term has ended counts from the end, so that the next term still follows the last without a gap.)

use crate::kind::Status;
use crate::time::{FOREVER, Time};

/// One stretch of a subscription's life. `T` is what was bought: plan, quantity and the like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch<T> {
    pub status: Status,
    pub starts_at: Time,
    /// Exclusive.
    pub ends_at: Time,
    /// When the term that the stretch belongs to began, no later than the stretch.
    pub term_starts_at: Time,
    /// Until when a stretch that is past due grants, exclusive; None = it does not. None for every other status.
    pub grace_until: Option<Time>,
    pub terms: T,
}

/// What a status change sets: a stretch that is past due has its grace period, others have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Trialing,
    Active,
    Canceled,
    PastDue { grace_until: Time },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimelineError {
    #[error("the subscription's term has ended")]
    Ended,
    #[error("the subscription has no end")]
    OpenEnded,
    #[error("grace_until is not later than the moment of the change")]
    GraceTooEarly,
    #[error("ends_at is not later than the moment of the change")]
    EndTooEarly,
    #[error("ends_at is later than the subscription's end")]
    EndTooLate,
    #[error("until is not later than the start of the new term")]
    TermTooShort { starts_at: Time },
}

/// A change of a subscription from some moment on.
pub struct Change<F> {
    pub at: Time,
    pub standing: Option<Standing>,
    /// A new end of the term.
    pub ends_at: Option<Time>,
    /// Whether `terms` asks for other terms, which only a term that has not ended can have.
    pub changes_terms: bool,
    /// Makes the terms of a stretch from its old ones, and notes that are no terms with them.
    pub terms: F,
}

impl<T> Stretch<T> {
    /// When the stretch stops to grant, exclusive.
    pub fn in_force_until(&self) -> Time {
        match self.status {
            Status::PastDue => self.grace_until.unwrap_or(self.starts_at),
            Status::Trialing | Status::Active | Status::Canceled => self.ends_at,
        }
    }

    pub fn is_in_force(&self, at: Time) -> bool {
        self.starts_at <= at && at < self.in_force_until()
    }

    fn is_empty(&self) -> bool {
        self.starts_at == self.ends_at && self.in_force_until() <= self.starts_at
    }

    fn goes_on_as(&self, next: &Self) -> bool
    where
        T: PartialEq,
    {
        let of = |stretch: &Self| (stretch.status, stretch.term_starts_at, stretch.grace_until);
        of(self) == of(next) && self.terms == next.terms
    }

    fn stand(&mut self, standing: Standing) {
        (self.status, self.grace_until) = match standing {
            Standing::Trialing => (Status::Trialing, None),
            Standing::Active => (Status::Active, None),
            Standing::Canceled => (Status::Canceled, None),
            Standing::PastDue { grace_until } => (Status::PastDue, Some(grace_until)),
        };
    }

    /// Ends term and grace at `end` where they go on beyond it.
    fn cut(&mut self, end: Time) {
        self.ends_at = self.ends_at.min(end);
        self.grace_until = self.grace_until.map(|grace| grace.min(end));
    }
}

/// The end of the term: that of the last stretch.
pub fn term_end<T>(life: &[Stretch<T>]) -> Time {
    life.iter().map(|stretch| stretch.ends_at).max().unwrap_or(FOREVER)
}

/// Applies a change to all that lies at or after its moment, and before the subscription's start to all of it. What already is
/// as it shall be stays in one piece.
pub fn change<T: Clone + PartialEq>(
    life: &[Stretch<T>],
    change: Change<impl Fn(&T) -> T>,
) -> Result<Vec<Stretch<T>>, TimelineError> {
    let start = life.first().map_or(change.at, |first| first.starts_at);
    let at = change.at.max(start);
    if let Some(Standing::PastDue { grace_until }) = change.standing
        && grace_until <= at
    {
        return Err(TimelineError::GraceTooEarly);
    }
    let end = term_end(life);
    if at >= end {
        return change_after_end(life, end, change);
    }
    if change.ends_at.is_some_and(|ends_at| ends_at <= at) {
        return Err(TimelineError::EndTooEarly);
    }
    let (mut before, mut after) = split(life, at);
    if let Some(ends_at) = change.ends_at {
        after.retain(|stretch| stretch.starts_at < ends_at);
        after.iter_mut().for_each(|stretch| stretch.ends_at = stretch.ends_at.min(ends_at));
        if let Some(last) = after.last_mut() {
            last.ends_at = ends_at;
        }
    }
    if change.standing == Some(Standing::Canceled) && change.ends_at.unwrap_or(end) == FOREVER {
        return Err(TimelineError::OpenEnded);
    }
    for stretch in &mut after {
        stretch.terms = (change.terms)(&stretch.terms);
        if let Some(standing) = change.standing {
            stretch.stand(standing);
        }
    }
    before.extend(after);
    Ok(unless_same(life, at, settle(before)))
}

/// Once the term is over only a grace period can be granted, changed or (by a renewal) turned into the next term.
fn change_after_end<T: Clone>(
    life: &[Stretch<T>],
    end: Time,
    change: Change<impl Fn(&T) -> T>,
) -> Result<Vec<Stretch<T>>, TimelineError> {
    let mut life = life.to_vec();
    let (Some(standing @ Standing::PastDue { .. }), None, false) = (change.standing, change.ends_at, change.changes_terms)
    else {
        return Err(TimelineError::Ended);
    };
    match life.last_mut() {
        // A grace period that was over before the end stays over: the new one begins at the end.
        Some(last) if last.status == Status::PastDue && last.in_force_until() >= end => {
            last.terms = (change.terms)(&last.terms);
            last.stand(standing);
        }
        Some(last) if last.status != Status::Canceled => {
            let terms = (change.terms)(&last.terms);
            let mut grace = Stretch { starts_at: end, ends_at: end, terms, ..last.clone() };
            grace.stand(standing);
            life.push(grace);
        }
        _ => return Err(TimelineError::Ended),
    }
    Ok(settle(life))
}

/// A further term to `until`, active and on the terms of the last one. Before the end and in grace it follows the old term,
/// later it starts `now`. What is past due becomes active; the rest of the running term stays as it is.
pub fn renew<T: Clone + PartialEq>(
    life: &[Stretch<T>],
    now: Time,
    until: Time,
) -> Result<(Vec<Stretch<T>>, Time), TimelineError> {
    let end = term_end(life);
    if end == FOREVER {
        return Err(TimelineError::OpenEnded);
    }
    let in_grace = life.last().is_some_and(|last| last.status == Status::PastDue && now < last.in_force_until());
    let starts_at = if now < end || in_grace { end } else { now };
    if until <= starts_at {
        return Err(TimelineError::TermTooShort { starts_at });
    }
    let (mut paid, mut after) = split(life, now);
    for stretch in after.iter_mut().filter(|stretch| stretch.status == Status::PastDue) {
        stretch.stand(Standing::Active);
    }
    paid.extend(after);
    let mut life = unless_same(life, now, paid);
    let term = life.last().map(|last| Stretch {
        status: Status::Active,
        starts_at,
        ends_at: until,
        term_starts_at: starts_at,
        grace_until: None,
        terms: last.terms.clone(),
    });
    life.extend(term);
    Ok((settle(life), starts_at))
}

/// Ends the term at `ends_at`, and with it everything scheduled later. The time that is left is canceled, which grants as
/// before; what is past due keeps its grace period no longer than to the end. An end of a subscription that is over, and has
/// no grace period left, changes nothing.
pub fn end<T: Clone + PartialEq>(life: &[Stretch<T>], now: Time, ends_at: Time) -> Result<Vec<Stretch<T>>, TimelineError> {
    let old_end = term_end(life);
    if ends_at > old_end && ends_at > now {
        return Err(TimelineError::EndTooLate);
    }
    let granting = life.iter().map(Stretch::in_force_until).max().unwrap_or(ends_at);
    if ends_at > old_end && granting <= ends_at {
        return Ok(life.to_vec());
    }
    let (mut ended, mut rest) = split(life, now);
    for stretch in rest.iter_mut().filter(|stretch| stretch.status != Status::PastDue) {
        stretch.stand(Standing::Canceled);
    }
    ended.extend(rest);
    ended.retain(|stretch| stretch.starts_at < ends_at);
    ended.iter_mut().for_each(|stretch| stretch.cut(ends_at));
    let last = ended.last().or(life.first()).cloned();
    ended.extend(last.filter(|last| ended.is_empty() || last.status != Status::Canceled).map(|last| {
        let at = if ended.is_empty() { last.starts_at } else { ends_at.min(old_end) };
        Stretch { status: Status::Canceled, starts_at: at, ends_at: at, grace_until: None, ..last }
    }));
    Ok(unless_same(life, now, settle(ended)))
}

/// The life once its source has stated all of it anew: what lies before `now` stays what it was, and the rest is as stated, a
/// single stretch. Of a subscription that had not begun, what lies in the past is as stated too.
pub fn restate<T: Clone + PartialEq>(life: &[Stretch<T>], now: Time, stated: Stretch<T>) -> Vec<Stretch<T>> {
    let (mut restated, _) = split(life, now);
    if restated.is_empty() {
        return vec![stated];
    }
    let rest = Stretch { starts_at: stated.starts_at.max(now), ..stated };
    if rest.starts_at < rest.ends_at {
        match restated.last_mut() {
            Some(last) if last.ends_at == rest.starts_at && last.goes_on_as(&rest) => last.ends_at = rest.ends_at,
            _ => restated.push(rest),
        }
    }
    settle(restated)
}

/// The old life where the new one differs from it only in being split at the moment.
fn unless_same<T: Clone + PartialEq>(life: &[Stretch<T>], at: Time, new: Vec<Stretch<T>>) -> Vec<Stretch<T>> {
    let (mut pieces, after) = split(life, at);
    pieces.extend(after);
    if settle(pieces) == new { life.to_vec() } else { new }
}

/// What lies before the moment and what lies at or after it. Grace periods go with the stretch that is past due, as far as it
/// reaches.
fn split<T: Clone>(life: &[Stretch<T>], at: Time) -> (Vec<Stretch<T>>, Vec<Stretch<T>>) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for stretch in life {
        if stretch.starts_at >= at {
            after.push(stretch.clone());
        } else if stretch.ends_at <= at {
            before.push(stretch.clone());
        } else {
            let mut first = stretch.clone();
            first.cut(at);
            before.push(first);
            after.push(Stretch { starts_at: at, ..stretch.clone() });
        }
    }
    (before, after)
}

/// Makes the stretches fit together: a grace period ends where the next stretch starts, and a stretch of no length stays only
/// where it says something, the last one that the subscription is canceled.
fn settle<T>(life: Vec<Stretch<T>>) -> Vec<Stretch<T>> {
    let count = life.len();
    let mut settled: Vec<Stretch<T>> = Vec::with_capacity(count);
    for (place, mut stretch) in life.into_iter().enumerate() {
        stretch.grace_until = stretch.grace_until.filter(|grace| *grace > stretch.starts_at);
        if !stretch.is_empty() {
            give_way(&mut settled, stretch.starts_at);
        } else if place + 1 < count
            || stretch.status != Status::Canceled
            || settled.last().is_some_and(|last| last.status == Status::Canceled)
        {
            continue;
        }
        settled.push(stretch);
    }
    settled
}

/// Ends the last grace period where the next stretch starts.
fn give_way<T>(settled: &mut Vec<Stretch<T>>, next: Time) {
    if let Some(last) = settled.last_mut() {
        last.grace_until = last.grace_until.map(|grace| grace.min(next)).filter(|grace| *grace > last.starts_at);
    }
    settled.pop_if(|last| last.is_empty());
}
