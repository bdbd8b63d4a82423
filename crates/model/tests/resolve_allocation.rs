//! `granted` is asked on every miss of the check path and promises to allocate nothing.

use std::hint::black_box;

use entitlements_model::amount::Allowance;
use entitlements_model::kind::{Combine, Kind, OverrideMode, PlanKind, Status};
use entitlements_model::plan::{FeatureId, PlanVersion, PlanVersionId, Value};
use entitlements_model::resolve::*;
use entitlements_model::time::FOREVER;

fn allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

struct OnePlan(PlanVersion);

impl Plans for OnePlan {
    fn plan_version(&self, _: PlanVersionId) -> &PlanVersion {
        &self.0
    }
}

fn subscription(id: i64, ends_at: i64) -> Subscription {
    Subscription {
        id,
        row_id: id,
        plan_version: PlanVersionId(1),
        status: Status::Active,
        starts_at: 0,
        ends_at,
        grace_until: None,
        quantity: 3,
        withheld: None,
    }
}

#[test]
fn granted_allocates_nothing() {
    let id = FeatureId(1);
    for (kind, value) in [
        (Kind::Flag, Value::Flag(true)),
        (Kind::Config, Value::Config("{\"level\": 1}".into())),
        (Kind::Quota, Value::Metered { allowance: Allowance::Unlimited, per_unit: true }),
    ] {
        let features = vec![(id, value.clone())];
        let plans = OnePlan(PlanVersion { id: PlanVersionId(1), kind: PlanKind::Base, rank: 0, features });
        let add =
            Override { id: 1, feature: id, mode: OverrideMode::Add, value: Some(value), expires_at: 30, withheld: None };
        let account = Holder { overrides: vec![add], ..Holder::default() };
        let parent = Holder { subscriptions: vec![subscription(1, 10), subscription(2, FOREVER)], ..Holder::default() };
        let lineage = [account, Holder::default(), parent];
        for combine in Combine::allowed_for(kind) {
            let feature = Feature { id, kind, combine: *combine };
            for at in [-1, 5, 20, 40] {
                assert_eq!(
                    allocations(|| _ = black_box(granted(&feature, &lineage, &plans, at))),
                    0,
                    "{kind} {combine} {at}"
                );
            }
            assert_ne!(allocations(|| _ = black_box(resolve(&feature, &lineage, &plans, 5))), 0, "the counter counts");
        }
    }
}
