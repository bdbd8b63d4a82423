//! What an account is entitled to at an instant, and from which rows.
//!
//! The rules, applied to one account and one feature:
//!
//! 1. A subscription counts while it is in force and its plan version carries the feature with a value that grants something:
//!    a flag that is on, a configuration that is not `null`, an amount above zero or unlimited.
//! 2. The values that count combine as the feature says. `all` and `min` are the exception to rule 1: once something grants,
//!    they look at every subscription in force that lists the feature, also at those that list it as off or zero.
//! 3. An account of whose own subscriptions none counts has its parent's complete answer instead, with the parent's overrides
//!    and blocks in it, and the parent likewise.
//! 4. Then the account's own overrides: `deny` beats `set` beats `add`. Among equals the newest decides; amounts to add add up.
//! 5. Then its own blocks.
//!
//! [`granted`] and [`resolve`] come out of one evaluation and so cannot disagree; what was looked at is worked out afterwards
//! and only for who asks. Nothing here depends on the order of the rows: equal values are told apart by the latest start, then
//! by the greatest id.
//!
//! The caller passes the rows it believes at the moment it asks about: live overrides and blocks, current segments of
//! subscriptions. A row that disagrees with its feature (a flag value for a quota, an override without a value) gives nothing.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::amount::Allowance;
use crate::kind::{Combine, Kind, OverrideMode, PlanKind, Reason, Status};
use crate::plan::{FeatureId, PlanVersion, PlanVersionId, Value};
use crate::time::{BEGINNING, FOREVER, Time};

/// One segment of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Shared by all segments of the subscription.
    pub id: i64,
    pub row_id: i64,
    pub plan_version: PlanVersionId,
    pub status: Status,
    pub starts_at: Time,
    /// [`FOREVER`] if open.
    pub ends_at: Time,
    /// Read only when past due; may lie beyond `ends_at`. None: not in force at all while past due.
    pub grace_until: Option<Time>,
    pub quantity: u32,
    pub withheld: Option<Withheld>,
}

impl Subscription {
    /// The instant from which the segment is not in force any more; `starts_at` if it never is.
    pub fn in_force_until(&self) -> Time {
        let end = match self.status {
            Status::Trialing | Status::Active | Status::Canceled => self.ends_at,
            Status::PastDue => self.grace_until.unwrap_or(self.starts_at),
        };
        end.max(self.starts_at)
    }

    /// None when in force.
    pub fn absence(&self, at: Time) -> Option<Absence> {
        if at < self.starts_at {
            Some(Absence::NotStarted)
        } else if at < self.in_force_until() {
            None
        } else if self.status == Status::PastDue {
            Some(Absence::GraceOver)
        } else {
            Some(Absence::Ended)
        }
    }
}

/// Why a row does not count although it is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Withheld {
    /// The bundle it came by has run out.
    BundleStale,
    /// The clock shows a time that is over.
    ClockRollback,
}

impl Withheld {
    pub fn reason(self) -> Reason {
        match self {
            Withheld::BundleStale => Reason::BundleStale,
            Withheld::ClockRollback => Reason::ClockRollback,
        }
    }
}

/// Why a row is not in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    NotStarted,
    Ended,
    /// Past due, and the grace is over or there was none.
    GraceOver,
}

/// A live override: not cleared, started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    pub id: i64,
    pub feature: FeatureId,
    pub mode: OverrideMode,
    /// An amount is for the account: `per_unit` has no quantity to multiply with.
    pub value: Option<Value>,
    /// [`FOREVER`] if none.
    pub expires_at: Time,
    /// Says nothing about one that denies.
    pub withheld: Option<Withheld>,
}

impl Override {
    fn withheld(&self) -> Option<Withheld> {
        self.withheld.filter(|_| self.mode != OverrideMode::Deny)
    }
}

/// A live block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub id: i64,
    /// None: every feature.
    pub feature: Option<FeatureId>,
}

/// The rows of one account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holder {
    pub subscriptions: Vec<Subscription>,
    pub overrides: Vec<Override>,
    pub blocks: Vec<Block>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    pub id: FeatureId,
    pub kind: Kind,
    /// One that the kind does not allow counts as the kind's default.
    pub combine: Combine,
}

impl Feature {
    fn rule(&self) -> Combine {
        if Combine::allowed_for(self.kind).contains(&self.combine) { self.combine } else { Combine::default_for(self.kind) }
    }
}

/// Where plan versions are found. Every version that a row names exists.
pub trait Plans {
    fn plan_version(&self, id: PlanVersionId) -> &PlanVersion;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    Flag(bool),
    /// JSON text; None when there is no value.
    Config(Option<Arc<str>>),
    Allowance(Allowance),
}

impl Resolved {
    /// Zero where it is no allowance.
    pub fn allowance(&self) -> Allowance {
        match self {
            Resolved::Allowance(allowance) => *allowance,
            Resolved::Flag(_) | Resolved::Config(_) => Allowance::ZERO,
        }
    }
}

/// The full answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entitlement {
    pub granted: bool,
    /// Off, none or zero when not granted.
    pub value: Resolved,
    /// `granted`, `not_granted`, `expired`, `bundle_stale`, `clock_rollback`, `override_denied` or `blocked`. It is `expired` when
    /// a subscription or override that would have granted the feature is over, `bundle_stale` or `clock_rollback` when one is
    /// withheld, and nothing else that is stored now says no.
    pub reason: Reason,
    /// The earliest instant at which a row that this answer was made from starts or ends; [`FOREVER`] if none does.
    pub valid_until: Time,
    /// When the grant ends if no row is added or changed. None if it does not, or if not granted.
    pub expires_at: Option<Time>,
    /// Whose subscriptions hold the feature, as an index into the lineage.
    pub held_by: Option<usize>,
    /// Every row of the accounts that were asked, as far as it concerns the feature: the account first, then its ancestors
    /// up to the one that holds the feature.
    pub contributions: Vec<Contribution>,
}

/// What one row did to the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contribution {
    /// The index into the lineage.
    pub level: usize,
    pub source: Source,
    /// What the row carries for the feature, its quantity included; None if nothing.
    pub value: Option<Resolved>,
    pub effect: Effect,
}

/// A row, by its index among the rows of its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Subscription { index: usize },
    Override { index: usize },
    Block { index: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// A subscription whose value is in the combined value.
    Counted,
    /// A row of the same level decided instead.
    Beaten {
        by: Source,
    },
    /// In force, but off, `null` or zero.
    NotGranting,
    /// The plan version does not carry the feature.
    NotListed,
    NotInForce(Absence),
    /// In force, but withheld.
    Withheld(Withheld),
    /// An override that put its value in place of what was there.
    Replaces,
    /// An override that added its amount to what was there.
    Adds,
    /// An override or block.
    Denies,
}

/// Whether the feature is granted at an instant. `lineage[0]` is the account, then come its parent, grandparent and so on.
/// Allocates nothing.
pub fn granted<P: Plans + ?Sized>(feature: &Feature, lineage: &[Holder], plans: &P, at: Time) -> bool {
    Question { feature, plans, at }.answer(lineage).value.grants()
}

/// An answer without the rows that it was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    pub value: Resolved,
    pub reason: Reason,
    pub held_by: Option<usize>,
}

/// What [`resolve`] says in short. `lineage[0]` is the account, then come its parent, grandparent and so on.
pub fn settle<P: Plans + ?Sized>(feature: &Feature, lineage: &[Holder], plans: &P, at: Time) -> Settled {
    let Answer { value, reason, held_by } = Question { feature, plans, at }.answer(lineage);
    Settled { value: value.to_resolved(), reason, held_by }
}

/// When a grant that is there at an instant ends, if no row is added or changed; None if it does not.
pub fn end_of_grant<P: Plans + ?Sized>(feature: &Feature, lineage: &[Holder], plans: &P, at: Time) -> Option<Time> {
    Question { feature, plans, at }.end_of_grant(lineage)
}

/// The full answer at an instant. `lineage[0]` is the account, then come its parent, grandparent and so on.
pub fn resolve<P: Plans + ?Sized>(feature: &Feature, lineage: &[Holder], plans: &P, at: Time) -> Entitlement {
    let question = Question { feature, plans, at };
    let answer = question.answer(lineage);
    let granted = answer.value.grants();
    let asked = &lineage[..answer.held_by.map_or(lineage.len(), |level| level + 1)];
    Entitlement {
        granted,
        value: answer.value.to_resolved(),
        reason: answer.reason,
        valid_until: question.next_boundary(asked),
        expires_at: if granted { question.end_of_grant(lineage) } else { None },
        held_by: answer.held_by,
        contributions: asked.iter().enumerate().flat_map(|(level, holder)| question.contributions(level, holder)).collect(),
    }
}

/// The span `[from, until)` around an instant in which no row of any level starts or ends: any answer from these rows at one
/// instant of it is the answer at all of them.
pub fn stable_period(lineage: &[Holder], at: Time) -> (Time, Time) {
    let subscriptions = lineage.iter().flat_map(|holder| &holder.subscriptions).flat_map(Subscription::boundaries);
    let overrides = lineage.iter().flat_map(|holder| &holder.overrides).map(|exception| exception.expires_at);
    subscriptions.chain(overrides).fold((BEGINNING, FOREVER), |(from, until), boundary| {
        if boundary <= at { (from.max(boundary), until) } else { (from, until.min(boundary)) }
    })
}

impl Subscription {
    fn boundaries(&self) -> [Time; 2] {
        [self.starts_at, self.in_force_until()]
    }
}

/// A value as it enters the answer: read for the feature's kind, with the quantity in it.
#[derive(Clone, Copy)]
enum Effective<'a> {
    Flag(bool),
    Config(Option<&'a Arc<str>>),
    Allowance(Allowance),
}

impl<'a> Effective<'a> {
    fn nothing(kind: Kind) -> Self {
        match kind {
            Kind::Flag => Self::Flag(false),
            Kind::Config => Self::Config(None),
            Kind::Quota | Kind::Allocation | Kind::Rate => Self::Allowance(Allowance::ZERO),
        }
    }

    /// None when the value is not of this kind.
    fn read(kind: Kind, value: &'a Value, quantity: u32) -> Option<Self> {
        match (kind, value) {
            (Kind::Flag, Value::Flag(on)) => Some(Self::Flag(*on)),
            (Kind::Config, Value::Config(json)) => Some(Self::Config(value.grants().then_some(json))),
            (Kind::Quota | Kind::Allocation | Kind::Rate, Value::Metered { allowance, per_unit }) => {
                Some(Self::Allowance(if *per_unit { allowance.times(quantity) } else { *allowance }))
            }
            _ => None,
        }
    }

    fn grants(self) -> bool {
        match self {
            Self::Flag(on) => on,
            Self::Config(json) => json.is_some(),
            Self::Allowance(allowance) => !allowance.is_zero(),
        }
    }

    /// Zero for what is not metered.
    fn allowance(self) -> Allowance {
        match self {
            Self::Allowance(allowance) => allowance,
            Self::Flag(_) | Self::Config(_) => Allowance::ZERO,
        }
    }

    fn to_resolved(self) -> Resolved {
        match self {
            Self::Flag(on) => Resolved::Flag(on),
            Self::Config(json) => Resolved::Config(json.cloned()),
            Self::Allowance(allowance) => Resolved::Allowance(allowance),
        }
    }
}

/// A subscription whose plan version lists the feature.
#[derive(Clone, Copy)]
struct Listing<'a> {
    index: usize,
    subscription: &'a Subscription,
    plan: &'a PlanVersion,
    value: Effective<'a>,
}

impl Listing<'_> {
    /// Tells equal values apart.
    fn recency(&self) -> (Time, i64, i64) {
        (self.subscription.starts_at, self.subscription.id, self.subscription.row_id)
    }

    fn is_addon(&self) -> bool {
        self.plan.kind == PlanKind::Addon
    }
}

/// What the subscriptions of one account amount to.
struct Combined<'a> {
    value: Effective<'a>,
    /// The subscription that the others are compared with, where one decides.
    decisive: Option<usize>,
}

/// What the overrides of one account amount to.
enum Exception<'a> {
    Deny { index: usize },
    Set { index: usize, value: Effective<'a> },
    Add { allowance: Allowance },
}

struct Answer<'a> {
    value: Effective<'a>,
    reason: Reason,
    held_by: Option<usize>,
}

struct Question<'a, P: ?Sized> {
    feature: &'a Feature,
    plans: &'a P,
    at: Time,
}

impl<'a, P: Plans + ?Sized> Question<'a, P> {
    /// Ancestors beyond the first account that holds the feature are not looked at. From that account on, each level down to
    /// the asking account lets the answer through its own overrides and blocks.
    fn answer(&self, lineage: &'a [Holder]) -> Answer<'a> {
        let held = lineage
            .iter()
            .enumerate()
            .find_map(|(level, holder)| self.combine(self.in_force(holder)).map(|combined| (level, combined.value)));
        let nothing = Effective::nothing(self.feature.kind);
        let (held_by, value) = held.map_or((None, nothing), |(level, value)| (Some(level), value));
        let reason = if value.grants() { Reason::Granted } else { Reason::NotGranted };
        let asked = held_by.map_or(lineage.len(), |level| level + 1);
        lineage[..asked]
            .iter()
            .enumerate()
            .rev()
            .fold(Answer { value, reason, held_by }, |answer, (level, holder)| self.at_level(answer, level, holder))
    }

    fn at_level(&self, base: Answer<'a>, level: usize, holder: &'a Holder) -> Answer<'a> {
        let refused = |reason| (Effective::nothing(self.feature.kind), reason);
        let (value, reason) = if self.blocks(holder).next().is_some() {
            refused(Reason::Blocked)
        } else {
            match self.exception(holder) {
                Some(Exception::Deny { .. }) => refused(Reason::OverrideDenied),
                Some(Exception::Set { value, .. }) if value.grants() => (value, Reason::Granted),
                Some(Exception::Set { .. }) => refused(Reason::NotGranted),
                Some(Exception::Add { allowance }) if !allowance.is_zero() => {
                    (Effective::Allowance(base.value.allowance().plus(allowance)), Reason::Granted)
                }
                Some(Exception::Add { .. }) | None => {
                    (base.value, self.reason_at_level(&base, base.held_by == Some(level), holder))
                }
            }
        };
        Answer { value, reason, ..base }
    }

    /// The reason of an answer that the level's own overrides and blocks let through.
    fn reason_at_level(&self, base: &Answer<'a>, holds: bool, holder: &'a Holder) -> Reason {
        let has_withheld = || self.withheld(holds, holder).map(Withheld::reason);
        let has_lapsed = || self.has_lapsed(holds, holder).then_some(Reason::Expired);
        match base.reason {
            Reason::NotGranted => has_withheld().or_else(has_lapsed).unwrap_or(Reason::NotGranted),
            Reason::Expired => has_withheld().unwrap_or(Reason::Expired),
            reason => reason,
        }
    }

    /// Whether the account has something in force that would grant and is withheld.
    fn withheld(&self, holds: bool, holder: &'a Holder) -> Option<Withheld> {
        let subscriptions =
            self.listings(holder).filter(|listing| !holds && self.is_in_force(listing) && listing.value.grants());
        let overrides = self.overrides(holder).map(|(_, exception)| exception);
        let overrides = overrides.filter(|exception| self.at < exception.expires_at && self.value_of(exception).grants());
        let withheld = subscriptions.filter_map(|listing| listing.subscription.withheld);
        withheld.chain(overrides.filter_map(Override::withheld)).max()
    }

    fn is_in_force(&self, listing: &Listing) -> bool {
        listing.subscription.absence(self.at).is_none()
    }

    /// Whether the account had something that would grant and is over. Its ended subscriptions say nothing where those in
    /// force hold the feature and it is refused all the same.
    fn has_lapsed(&self, holds: bool, holder: &'a Holder) -> bool {
        let ended = |listing: Listing| {
            matches!(listing.subscription.absence(self.at), Some(Absence::Ended | Absence::GraceOver))
                && listing.value.grants()
        };
        let expired = |exception: &Override| {
            exception.expires_at <= self.at && exception.mode != OverrideMode::Deny && self.value_of(exception).grants()
        };
        (!holds && self.listings(holder).any(ended)) || self.overrides(holder).any(|(_, exception)| expired(exception))
    }

    fn listings(&self, holder: &'a Holder) -> impl Iterator<Item = Listing<'a>> + Clone {
        holder.subscriptions.iter().enumerate().filter_map(|(index, subscription)| self.listing(index, subscription))
    }

    fn listing(&self, index: usize, subscription: &'a Subscription) -> Option<Listing<'a>> {
        let plan = self.plans.plan_version(subscription.plan_version);
        let value = Effective::read(self.feature.kind, plan.get(self.feature.id)?, subscription.quantity)?;
        Some(Listing { index, subscription, plan, value })
    }

    /// What counts of the subscriptions.
    fn in_force(&self, holder: &'a Holder) -> impl Iterator<Item = Listing<'a>> + Clone {
        self.listings(holder).filter(|listing| self.is_in_force(listing) && listing.subscription.withheld.is_none())
    }

    /// None when nothing grants: the account does not hold the feature itself.
    fn combine(&self, listed: impl Iterator<Item = Listing<'a>> + Clone) -> Option<Combined<'a>> {
        let granting = listed.clone().filter(|listing| listing.value.grants());
        granting.clone().next()?;
        let (value, decisive) = match self.feature.rule() {
            Combine::Any => (Effective::Flag(true), None),
            Combine::All => {
                let off = listed.filter(|listing| !listing.value.grants()).max_by_key(Listing::recency);
                (Effective::Flag(off.is_none()), off)
            }
            Combine::HighestRank => {
                let first = granting.max_by_key(|listing| (listing.plan.rank, !listing.is_addon(), listing.recency()))?;
                (first.value, Some(first))
            }
            Combine::MaxPlusAddons => {
                let base = greatest(granting.clone().filter(|listing| !listing.is_addon()));
                let addons = sum(granting.filter(Listing::is_addon));
                let allowance = base.map_or(Allowance::ZERO, |base| base.value.allowance()).plus(addons);
                (Effective::Allowance(allowance), base)
            }
            Combine::Sum => (Effective::Allowance(sum(granting)), None),
            Combine::Max => {
                let greatest = greatest(granting)?;
                (greatest.value, Some(greatest))
            }
            Combine::Min => {
                let least = listed.max_by_key(|listing| (Reverse(listing.value.allowance()), listing.recency()))?;
                (least.value, Some(least))
            }
        };
        Some(Combined { value, decisive: decisive.map(|listing| listing.index) })
    }

    /// The overrides of the feature, expired ones too.
    fn overrides(&self, holder: &'a Holder) -> impl Iterator<Item = (usize, &'a Override)> + Clone {
        holder.overrides.iter().enumerate().filter(|(_, exception)| exception.feature == self.feature.id)
    }

    fn exception(&self, holder: &'a Holder) -> Option<Exception<'a>> {
        let counts = |exception: &Override| self.at < exception.expires_at && exception.withheld().is_none();
        let live = self.overrides(holder).filter(|(_, exception)| counts(exception));
        let (index, decisive) = live.clone().max_by_key(|(_, exception)| (self.strength(exception), exception.id))?;
        Some(match self.strength(decisive) {
            Strength::Deny => Exception::Deny { index },
            Strength::Set => Exception::Set { index, value: self.value_of(decisive) },
            Strength::Add => Exception::Add {
                allowance: live.fold(Allowance::ZERO, |sum, (_, exception)| sum.plus(self.value_of(exception).allowance())),
            },
        })
    }

    /// There is nothing to add to what is not metered: such an override counts as `set`.
    fn strength(&self, exception: &Override) -> Strength {
        match exception.mode {
            OverrideMode::Deny => Strength::Deny,
            OverrideMode::Add if self.feature.kind.is_metered() => Strength::Add,
            OverrideMode::Set | OverrideMode::Add => Strength::Set,
        }
    }

    fn value_of(&self, exception: &'a Override) -> Effective<'a> {
        let value = exception.value.as_ref().and_then(|value| Effective::read(self.feature.kind, value, 1));
        value.unwrap_or(Effective::nothing(self.feature.kind))
    }

    fn blocks(&self, holder: &'a Holder) -> impl Iterator<Item = usize> {
        let concerns = |block: &Block| block.feature.is_none_or(|feature| feature == self.feature.id);
        holder.blocks.iter().enumerate().filter(move |(_, block)| concerns(block)).map(|(index, _)| index)
    }

    /// The first instant after the question's at which a row of these levels that concerns the feature starts or ends.
    fn next_boundary(&self, lineage: &'a [Holder]) -> Time {
        let subscriptions =
            lineage.iter().flat_map(|holder| self.listings(holder)).flat_map(|listing| listing.subscription.boundaries());
        let overrides = lineage.iter().flat_map(|holder| self.overrides(holder)).map(|(_, exception)| exception.expires_at);
        subscriptions.chain(overrides).filter(|boundary| *boundary > self.at).min().unwrap_or(FOREVER)
    }

    /// Ancestors count here even where the account holds the feature itself: they take over when its own rows end.
    /// Costs one answer for each instant at which a row starts or ends before the grant does.
    fn end_of_grant(&self, lineage: &'a [Holder]) -> Option<Time> {
        let mut later = Question { ..*self };
        loop {
            later.at = later.next_boundary(lineage);
            if later.at == FOREVER {
                return None;
            }
            if !later.answer(lineage).value.grants() {
                return Some(later.at);
            }
        }
    }

    fn contributions(&self, level: usize, holder: &'a Holder) -> impl Iterator<Item = Contribution> {
        let combined = self.combine(self.in_force(holder));
        let exception = self.exception(holder);
        let subscriptions = holder.subscriptions.iter().enumerate().map(move |(index, subscription)| {
            let listing = self.listing(index, subscription);
            Contribution {
                level,
                source: Source::Subscription { index },
                value: listing.map(|listing| listing.value.to_resolved()),
                effect: listing.map_or(Effect::NotListed, |listing| self.effect_of_subscription(listing, combined.as_ref())),
            }
        });
        let overrides = self.overrides(holder).map(move |(index, row)| Contribution {
            level,
            source: Source::Override { index },
            value: (row.mode != OverrideMode::Deny).then(|| self.value_of(row).to_resolved()),
            effect: self.effect_of_override(index, row, exception.as_ref()),
        });
        let blocks = self.blocks(holder).map(move |index| Contribution {
            level,
            source: Source::Block { index },
            value: None,
            effect: Effect::Denies,
        });
        subscriptions.chain(overrides).chain(blocks)
    }

    fn effect_of_subscription(&self, listing: Listing, combined: Option<&Combined>) -> Effect {
        if let Some(absence) = listing.subscription.absence(self.at) {
            return Effect::NotInForce(absence);
        }
        if let Some(withheld) = listing.subscription.withheld {
            return Effect::Withheld(withheld);
        }
        let rule = self.feature.rule();
        let considered = listing.value.grants() || matches!(rule, Combine::All | Combine::Min);
        let Some(combined) = combined.filter(|_| considered) else {
            return Effect::NotGranting;
        };
        let counts_anyway = match rule {
            Combine::MaxPlusAddons => listing.is_addon(),
            Combine::All => !listing.value.grants(),
            _ => false,
        };
        match combined.decisive {
            Some(decisive) if decisive != listing.index && !counts_anyway => {
                Effect::Beaten { by: Source::Subscription { index: decisive } }
            }
            _ => Effect::Counted,
        }
    }

    /// `exception` is what the live overrides of the level amount to, this one included if it is live.
    fn effect_of_override(&self, index: usize, row: &Override, exception: Option<&Exception>) -> Effect {
        if row.expires_at <= self.at {
            return Effect::NotInForce(Absence::Ended);
        }
        if let Some(withheld) = row.withheld() {
            return Effect::Withheld(withheld);
        }
        match exception {
            Some(Exception::Deny { index: decisive }) if *decisive == index => Effect::Denies,
            Some(Exception::Set { index: decisive, .. }) if *decisive == index => Effect::Replaces,
            Some(Exception::Deny { index: decisive } | Exception::Set { index: decisive, .. }) => {
                Effect::Beaten { by: Source::Override { index: *decisive } }
            }
            Some(Exception::Add { .. }) | None => Effect::Adds,
        }
    }
}

/// Which override wins; the order is the rule.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Strength {
    Add,
    Set,
    Deny,
}

fn greatest<'a>(listings: impl Iterator<Item = Listing<'a>>) -> Option<Listing<'a>> {
    listings.max_by_key(|listing| (listing.value.allowance(), listing.recency()))
}

fn sum<'a>(listings: impl Iterator<Item = Listing<'a>>) -> Allowance {
    listings.fold(Allowance::ZERO, |sum, listing| sum.plus(listing.value.allowance()))
}
