//! A metered feature as it is defined.

use crate::check::load::{Reader, present, read_feature};
use crate::error::Error;
use crate::pg::relations::feature;
use crate::pg::scan::{Condition, Order, Row, scan, shows};
use entitlements_model::amount::Amount;
use entitlements_model::catalog::{Anchor, Overage, Store};
use entitlements_model::key::FeatureKey;
use entitlements_model::kind::Kind;
use entitlements_model::meter::rollover::Rollover;
use entitlements_model::meter::share::Ceiling;
use entitlements_model::period::Period;
use entitlements_model::plan::FeatureId;
use entitlements_model::resolve;
use std::ops::ControlFlow;
use std::rc::Rc;

#[derive(Clone)]
pub struct Feature {
    pub key: FeatureKey,
    pub resolved: resolve::Feature,
    /// Of a quota's windows; of a rate, the time that the amount is for.
    pub period: Option<Period>,
    pub anchor: Option<Anchor>,
    pub overage: Overage,
    pub ceiling: Option<Ceiling>,
    /// Factors of the allowance, ascending.
    pub thresholds: Vec<Amount>,
    /// What of a window's allowance can still be used in later ones.
    pub rollover: Option<Rollover>,
    pub burst: Option<Amount>,
    pub store: Store,
    /// The feature whose pool this one draws on, and how many of its units one of this costs.
    pub draws_on: Option<(FeatureId, Amount)>,
    pub keeps_ledger: bool,
}

impl Feature {
    /// NE003 if there is none of this key.
    pub fn by_key(reader: &mut Reader<'_>, key: &[u8]) -> Result<Rc<Self>, Error> {
        let (relations, snapshot) = (reader.relations, reader.snapshot);
        if let Some(known) = reader.catalog.feature(key, |version| shows(&relations.features, version, snapshot)) {
            return Ok(Rc::clone(known));
        }
        let mut found = None;
        let condition = [Condition::TextIs(feature::KEY, key)];
        scan(&reader.relations.features, &condition, Order::Any, reader.snapshot, |row| {
            found = Some((row.version(), Self::read(row)));
            ControlFlow::Break(())
        });
        let (version, found) = found.ok_or_else(|| reader.unknown_feature(key))?;
        let found = Rc::new(found);
        reader.catalog.keep_feature(key, version, Rc::clone(&found));
        Ok(found)
    }

    pub fn by_id(reader: &Reader<'_>, id: FeatureId) -> Result<Rc<Self>, Error> {
        let mut found = None;
        let condition = [Condition::Int4Is(feature::ID, id.0)];
        scan(&reader.relations.features_by_id, &condition, Order::Any, reader.snapshot, |row| {
            found = Some(Rc::new(Self::read(row)));
            ControlFlow::Break(())
        });
        found.ok_or_else(|| Error::Internal(format!("feature {} is missing", id.0)))
    }

    fn read(row: &Row<'_, { feature::COUNT }>) -> Self {
        let (key, resolved) = read_feature(row);
        let word = |column| row.text(column, |text| String::from_utf8_lossy(text).into_owned());
        let draws_on = row.int4(feature::DRAWS_ON).map(FeatureId);
        Self {
            key,
            resolved,
            period: row.interval(feature::PERIOD).map(|(months, days, micros)| {
                Period::new(months.into(), days.into(), micros).expect("periods were checked when they were written")
            }),
            anchor: word(feature::ANCHOR).and_then(|anchor| anchor.parse().ok()),
            overage: word(feature::OVERAGE).and_then(|overage| overage.parse().ok()).unwrap_or(Overage::Reject),
            ceiling: (row.amount(feature::CEILING).map(Ceiling::Factor))
                .or(row.amount(feature::OVERDRAFT).map(Ceiling::Beyond)),
            thresholds: row.amounts(feature::THRESHOLDS).unwrap_or_default(),
            rollover: row
                .allowance(feature::ROLLOVER)
                .map(|max| Rollover { max, windows: row.int4(feature::ROLLOVER_WINDOWS).map_or(1, i32::unsigned_abs) }),
            burst: row.amount(feature::BURST),
            store: word(feature::STORE).and_then(|store| store.parse().ok()).unwrap_or(Store::Table),
            draws_on: draws_on.map(|on| (on, row.amount(feature::COST).unwrap_or(Amount::ONE))),
            keeps_ledger: present(row.bool(feature::LEDGER)),
        }
    }

    /// Whether its usage starts again at zero.
    pub fn has_windows(&self) -> bool {
        let is_regular = self.anchor.is_some() && self.period.is_some();
        self.resolved.kind == Kind::Quota && (is_regular || self.anchor == Some(Anchor::Renewal))
    }

    /// NE004 where the feature is not counted in units that are taken and given back.
    pub fn refuse_uncounted(&self) -> Result<(), Error> {
        match self.resolved.kind {
            Kind::Quota | Kind::Allocation => Ok(()),
            kind => {
                Err(Error::WrongKind { feature: self.key.as_str().to_owned(), kind, needed: "a quota or an allocation" })
            }
        }
    }
}
