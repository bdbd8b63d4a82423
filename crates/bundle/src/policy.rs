//! What an authentic bundle means for a database: accepted, nothing new, or refused and why.
//!
//! The invariant: over the bundles a database accepts from one issuer, sequence numbers rise, and the highest time seen never
//! falls. So no copy of an old bundle, and no clock, brings back what a newer one took away.

use entitlements_model::time::{BEGINNING, FOREVER, Time};

use crate::bundle::{Bundle, IntroducedKey};
use crate::date::NumericDate;
use crate::digest::Digest;
use crate::refusal::Refusal;
use crate::standing::{Clock, LEEWAY};
use crate::trust::{Authentic, Purpose, TrustSet, TrustedKey};

/// What a database keeps of the last bundle it accepted from an issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub sequence: i64,
    pub digest: Digest,
}

#[derive(Clone, Debug)]
pub enum Judgement {
    /// The bundle in force, once more.
    NoOp,
    Accept(Box<Acceptance>),
}

/// What to do and to keep when a bundle is accepted.
#[derive(Clone, Debug)]
pub struct Acceptance {
    pub bundle: Bundle,
    /// To be kept for the issuer.
    pub accepted: Accepted,
    /// To be kept as the highest time seen: a signature proves that its time has come.
    pub highest: Time,
    /// To be trusted from now on: keys that this bundle is the first to name.
    pub introduces: Vec<TrustedKey>,
    /// How many bundles were issued in between and never arrived here.
    pub missed: i64,
}

/// `deployment` is the database's own name, `last` what was accepted last from the bundle's issuer.
pub fn judge(
    authentic: Authentic,
    deployment: &str,
    trust: &TrustSet,
    last: Option<Accepted>,
    clock: Clock,
) -> Result<Judgement, Refusal> {
    let bundle = authentic.bundle();
    if bundle.audience != deployment {
        let audience = bundle.audience.clone();
        return Err(Refusal::OtherAudience { audience, deployment: deployment.to_owned() });
    }
    let accepted = Accepted { sequence: bundle.sequence, digest: authentic.digest() };
    if last == Some(accepted) {
        return Ok(Judgement::NoOp);
    }
    let missed = follow(bundle, last)?;
    in_time(&authentic, bundle.issued_at, bundle.not_before, Some(bundle.expires), clock.time())?;
    let introduces = introduce(bundle, trust)?;
    let highest = clock.time().max(bundle.issued_at.time());
    Ok(Judgement::Accept(Box::new(Acceptance { bundle: authentic.into_bundle(), accepted, highest, introduces, missed })))
}

/// The number of bundles between the last one and this; a first bundle may have any number.
fn follow(bundle: &Bundle, last: Option<Accepted>) -> Result<i64, Refusal> {
    let sequence = bundle.sequence;
    let Some(last) = last else {
        return Ok(0);
    };
    match sequence - last.sequence {
        ..0 => Err(Refusal::Replayed { sequence, last: last.sequence }),
        0 => Err(Refusal::SequenceReused(sequence)),
        1 if bundle.previous.is_some_and(|previous| previous != last.digest) => Err(Refusal::HistoryForked(sequence)),
        distance => Ok(distance - 1),
    }
}

/// Whether a document may be accepted at this time. One without `expires` is of any age.
pub(crate) fn in_time<D>(
    authentic: &Authentic<D>,
    issued_at: NumericDate,
    not_before: NumericDate,
    expires: Option<NumericDate>,
    time: Time,
) -> Result<(), Refusal> {
    let reached = |date: NumericDate| date.time() <= time.saturating_add(LEEWAY);
    if !reached(issued_at) {
        return Err(Refusal::IssuedInFuture(issued_at));
    }
    if !reached(not_before) {
        return Err(Refusal::NotYetValid(not_before));
    }
    if let Some(expires) = expires.filter(|expires| expires.time() <= time) {
        return Err(Refusal::Expired(expires));
    }
    // Both times: whoever copies a key whose time is over can write any issue time.
    if !authentic.signs_at(issued_at.time()) || !authentic.signs_at(time.max(issued_at.time())) {
        return Err(Refusal::KeyOutOfTime(authentic.signer().key.kid()));
    }
    Ok(())
}

fn introduce(bundle: &Bundle, trust: &TrustSet) -> Result<Vec<TrustedKey>, Refusal> {
    let mut introduces = Vec::new();
    for introduced in &bundle.keys {
        match trust.get(introduced.key.kid()) {
            None => introduces.push(trusted(introduced, &bundle.issuer)),
            Some(known) if !known.distrusted && known.issuer == bundle.issuer && known.purpose == Purpose::Bundle => {}
            Some(known) => return Err(Refusal::KeyTaken(known.key.kid())),
        }
    }
    Ok(introduces)
}

fn trusted(introduced: &IntroducedKey, issuer: &str) -> TrustedKey {
    TrustedKey {
        key: introduced.key.clone(),
        issuer: issuer.to_owned(),
        purpose: Purpose::Bundle,
        not_before: introduced.not_before.map_or(BEGINNING, NumericDate::time),
        not_after: introduced.not_after.map_or(FOREVER, NumericDate::time),
        distrusted: false,
    }
}
