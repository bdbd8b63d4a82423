//! What is stored and answered against the arithmetic of `entitlements-model`: random operations on an account's plan and credits,
//! one after the other but each from another of many connections, with amounts down to billionths.

use crate::stage::{Stage, allow, ask, run};
use crate::traffic::outcome;
use entitlements_client_tests::{one, row};
use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::catalog::Overage;
use entitlements_model::meter::burn::{self, split};
use entitlements_model::meter::share::{Ceiling, ceiling};
use entitlements_model::time::FOREVER;
use postgres::Client;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fmt::Write;
use std::str::FromStr;
use std::sync::Mutex;
use std::thread;

/// A feature of the stage, and what happens beyond its allowance.
#[derive(Clone, Copy)]
struct Rule {
    feature: &'static str,
    overage: Overage,
    ceiling: Option<&'static str>,
    overdraft: Option<&'static str>,
}

const RULES: [Rule; 5] = [
    Rule { feature: "calls", overage: Overage::Reject, ceiling: None, overdraft: None },
    Rule { feature: "capped", overage: Overage::Cap, ceiling: None, overdraft: None },
    Rule { feature: "open", overage: Overage::Allow, ceiling: None, overdraft: None },
    Rule { feature: "roof", overage: Overage::Allow, ceiling: Some("1.5"), overdraft: None },
    Rule { feature: "lent", overage: Overage::Allow, ceiling: None, overdraft: Some("2.5") },
];

/// The plan's pool is the first, the others are credits.
struct Pool {
    id: i64,
    rank: burn::Pool,
    allowance: Amount,
    used: Amount,
    voided: bool,
}

struct Reservation {
    id: String,
    amount: Amount,
    /// Pools in the order in which they gave.
    parts: Vec<(usize, Amount)>,
}

struct Model {
    account: String,
    rule: Rule,
    pools: Vec<Pool>,
    reservations: Vec<Reservation>,
    log: String,
}

fn amount(text: &str) -> Amount {
    Amount::from_str(text).expect("an amount")
}

fn sum(amounts: impl Iterator<Item = Amount>) -> Amount {
    amounts.fold(Amount::ZERO, Amount::saturating_add)
}

impl Model {
    fn new(account: String, rule: Rule) -> Self {
        let rank = burn::Pool { credit: None, priority: 100, expires_at: FOREVER, started_at: 0 };
        let plan = Pool { id: 0, rank, allowance: amount("10"), used: Amount::ZERO, voided: false };
        Self { account, rule, pools: vec![plan], reservations: Vec::new(), log: String::new() }
    }

    fn limit(&self) -> Allowance {
        let factor = self.rule.ceiling.map(|factor| Ceiling::Factor(amount(factor)));
        let limit = factor.or(self.rule.overdraft.map(|units| Ceiling::Beyond(amount(units))));
        ceiling(Allowance::Finite(self.pools[0].allowance), self.rule.overage, limit)
    }

    /// Pools in burn order, each with how far it may be used; where overage is allowed the plan's at the end once more.
    fn entries(&self) -> Vec<(usize, Allowance)> {
        let mut places: Vec<usize> = (0..self.pools.len()).filter(|place| !self.pools[*place].voided).collect();
        places.sort_by_key(|place| self.pools[*place].rank.rank());
        let mut entries: Vec<_> =
            places.into_iter().map(|place| (place, Allowance::Finite(self.pools[place].allowance))).collect();
        if self.rule.overage == Overage::Allow {
            entries.push((0, self.limit()));
        }
        entries
    }

    fn live(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter().filter(|pool| !pool.voided)
    }

    /// What each pool gives of `n`; None where it is denied.
    fn take(&mut self, n: Amount, whole: bool) -> Option<Vec<(usize, Amount)>> {
        let mut reached: Vec<Amount> = self.pools.iter().map(|pool| pool.used).collect();
        let mut left = Vec::new();
        let entries = self.entries();
        for (place, limit) in &entries {
            left.push(limit.minus(reached[*place]));
            if let Allowance::Finite(limit) = limit {
                reached[*place] = reached[*place].max(*limit);
            }
        }
        let parts = split(n, &left);
        let got = sum(parts.iter().copied());
        if got < n && (whole || self.rule.overage != Overage::Cap || got == Amount::ZERO) {
            return None;
        }
        let mut given: Vec<(usize, Amount)> = Vec::new();
        for ((place, _), part) in entries.into_iter().zip(parts).filter(|(_, part)| *part > Amount::ZERO) {
            self.pools[place].used = self.pools[place].used.saturating_add(part);
            match given.iter_mut().find(|(known, _)| *known == place) {
                Some((_, sum)) => *sum = sum.saturating_add(part),
                None => given.push((place, part)),
            }
        }
        Some(given)
    }

    fn reserved(&self, place: usize) -> Amount {
        let parts = self.reservations.iter().flat_map(|reservation| &reservation.parts);
        sum(parts.filter(|(known, _)| *known == place).map(|(_, part)| *part))
    }

    fn release(&mut self, n: Amount) -> bool {
        let free = |model: &Self, place: usize| model.pools[place].used.saturating_sub(model.reserved(place));
        let live: Vec<usize> = (0..self.pools.len()).filter(|place| !self.pools[*place].voided).collect();
        if sum(live.into_iter().map(|place| free(self, place))) < n {
            return false;
        }
        let mut missing = n;
        let entries = self.entries();
        for (index, (place, _)) in entries.iter().enumerate().rev() {
            let pool = &self.pools[*place];
            let is_repeat = entries[..index].iter().any(|(earlier, _)| earlier == place);
            let here = if is_repeat { pool.used.saturating_sub(pool.allowance) } else { pool.used };
            let part = here.min(free(self, *place)).min(missing);
            self.pools[*place].used = pool.used.saturating_sub(part);
            missing = missing.saturating_sub(part);
        }
        true
    }

    fn state(&mut self, used: Amount) {
        let mut places: Vec<usize> = self.entries().into_iter().map(|(place, _)| place).collect();
        if self.rule.overage == Overage::Allow {
            places.pop();
        }
        let allowances: Vec<Allowance> =
            places.iter().map(|place| Allowance::Finite(self.pools[*place].allowance)).collect();
        let parts = split(used, &allowances);
        let beyond = used.saturating_sub(sum(parts.iter().copied()));
        for (place, part) in places.into_iter().zip(parts) {
            self.pools[place].used = if place == 0 { part.saturating_add(beyond) } else { part };
        }
    }

    fn grant(&mut self, id: i64, rank: burn::Pool, granted: Amount) {
        let plan = &mut self.pools[0];
        let debt = plan.used.saturating_sub(plan.allowance).min(granted);
        let settled = if self.rule.overage == Overage::Allow { debt } else { Amount::ZERO };
        plan.used = plan.used.saturating_sub(settled);
        self.pools.push(Pool { id, rank, allowance: granted, used: settled, voided: false });
    }

    /// Gives back what a reservation holds beyond `kept`, what was taken last first.
    fn free(&mut self, reservation: &Reservation, kept: Amount) {
        let mut surplus = reservation.amount.saturating_sub(kept);
        for (place, part) in reservation.parts.iter().rev() {
            let back = (*part).min(surplus);
            surplus = surplus.saturating_sub(back);
            let pool = &mut self.pools[*place];
            pool.used = pool.used.saturating_sub(back);
        }
    }

    /// used, allowance, remaining and overage, as a decision has them.
    fn decision(&self) -> [Option<Amount>; 4] {
        let used = sum(self.live().map(|pool| pool.used));
        let allowance = sum(self.live().map(|pool| pool.allowance));
        let credits = self.live().skip(1).map(|pool| Allowance::Finite(pool.allowance).minus(pool.used));
        let remaining = credits.fold(self.limit().minus(self.pools[0].used), Allowance::plus);
        let remaining = match remaining {
            Allowance::Finite(remaining) => Some(remaining),
            Allowance::Unlimited => None,
        };
        let overage = self.live().map(|pool| pool.used.saturating_sub(pool.allowance)).max();
        [Some(used), Some(allowance), remaining, overage]
    }

    fn compare(&self, client: &mut Client) {
        let Self { account, rule: Rule { feature, .. }, log, .. } = self;
        let found = row(
            client,
            &format!(
                "SELECT used::text, allowance::text, remaining::text, overage::text FROM entitlements.check_access('{account}', '{feature}')"
            ),
            &[],
        );
        let answered: [Option<Amount>; 4] =
            std::array::from_fn(|column| found.get::<_, Option<String>>(column).as_deref().map(amount));
        assert_eq!(answered, self.decision(), "used, allowance, remaining, overage after{log}");
        let stored = client
            .query(
                "SELECT counter.credit_id, (counter.used + coalesce((SELECT sum(slot.used) FROM entitlements.counter_slots AS slot WHERE slot.counter_id = counter.id), 0))::text
                   FROM entitlements.counters AS counter
                   JOIN entitlements.accounts AS account ON account.id = counter.account_id AND account.key = $1
                   JOIN entitlements.features AS feature ON feature.id = counter.feature_id AND feature.key = $2",
                &[account, feature],
            )
            .expect("counters can be read");
        for pool in &self.pools {
            let of_pool = stored.iter().find(|row| row.get::<_, i64>(0) == pool.id);
            let used = of_pool.map_or(Amount::ZERO, |row| amount(row.get(1)));
            assert_eq!(used, pool.used, "of credit {} after{log}", pool.id);
        }
    }

    /// One random operation, by the server and by the model.
    fn step(&mut self, client: &mut Client, random: &mut StdRng) {
        let (account, feature) = (self.account.clone(), self.rule.feature);
        let n = some_amount(random);
        let operation = random.random_range(0..12);
        let call = match operation {
            0..=2 => format!("consume('{account}', '{feature}', {n})"),
            3 | 4 => format!("release('{account}', '{feature}', {n})"),
            5 => format!("set_usage('{account}', '{feature}', {n}, 'test')"),
            6 => format!("set_override('{account}', '{feature}', 'set', '{n}', 'test')"),
            7 if self.pools.len() < 6 => {
                let priority = [10, 100, 200][random.random_range(0..3)];
                let call = format!("grant_credit('{account}', '{feature}', {n}, 'test', priority => {priority})");
                write!(self.log, "\n{call}").expect("text can be written");
                let id: i64 = one(client, &format!("SELECT entitlements.{call}"), &[]);
                self.grant(id, burn::Pool { credit: Some(id), priority, expires_at: FOREVER, started_at: id }, n);
                return self.compare(client);
            }
            8 if self.pools.len() > 1 => {
                let place = random.random_range(1..self.pools.len());
                let pool = &mut self.pools[place];
                let left = if pool.voided { Amount::ZERO } else { pool.allowance.saturating_sub(pool.used) };
                pool.voided = true;
                let call = format!("void_credit({}, 'test')", pool.id);
                write!(self.log, "\n{call}").expect("text can be written");
                assert_eq!(amount(&ask(client, &call)), left, "returned after{}", self.log);
                return self.compare(client);
            }
            9 | 10 if !self.reservations.is_empty() => {
                let place = random.random_range(0..self.reservations.len());
                return self.end_reservation(client, place, random.random_ratio(2, 3).then_some(n));
            }
            _ => format!("reserve('{account}', '{feature}', {n}, '1 hour')"),
        };
        write!(self.log, "\n{call}").expect("text can be written");
        let expected = match operation {
            0..=2 => self.take(n, false).map(drop).ok_or("NE002"),
            3 | 4 => self.release(n).then_some(()).ok_or("NE007"),
            5 => {
                self.state(n);
                Ok(())
            }
            6 => {
                self.pools[0].allowance = n;
                Ok(())
            }
            _ => {
                let parts = self.take(n, true);
                let id = client.query_one(&format!("SELECT entitlements.{call}::text"), &[]);
                assert_eq!(id.is_ok(), parts.is_some(), "{id:?} after{}", self.log);
                if let (Ok(id), Some(parts)) = (id, parts) {
                    self.reservations.push(Reservation { id: id.get(0), amount: n, parts });
                }
                return self.compare(client);
            }
        };
        let found = outcome(client, &format!("SELECT entitlements.{call}"));
        assert_eq!(found, expected.map_err(str::to_owned), "after{}", self.log);
        self.compare(client);
    }

    /// Commits so much of it, or cancels it.
    fn end_reservation(&mut self, client: &mut Client, place: usize, actual: Option<Amount>) {
        let reservation = self.reservations.swap_remove(place);
        let call = match actual {
            Some(actual) => format!("commit_reservation('{}', {actual})", reservation.id),
            None => format!("cancel_reservation('{}')", reservation.id),
        };
        write!(self.log, "\n{call} of {}", reservation.amount).expect("text can be written");
        let more = actual.map_or(Amount::ZERO, |actual| actual.saturating_sub(reservation.amount));
        let is_denied = more > Amount::ZERO && self.take(more, true).is_none();
        let found = outcome(client, &format!("SELECT entitlements.{call}"));
        assert_eq!(found, if is_denied { Err("NE002".to_owned()) } else { Ok(()) }, "after{}", self.log);
        if is_denied {
            self.reservations.push(reservation);
        } else {
            self.free(&reservation, actual.unwrap_or(Amount::ZERO));
        }
        self.compare(client);
    }
}

fn some_amount(random: &mut StdRng) -> Amount {
    let nanos = match random.random_range(0..4) {
        0 => random.random_range(1..8) * 1_000_000_000,
        1 => random.random_range(1..120) * 100_000_000,
        2 => random.random_range(1..12_000_000_000),
        _ => random.random_range(1..30) * 1_000_000_000,
    };
    Amount::from_nanos(nanos).expect("an amount")
}

#[test]
fn what_is_stored_and_answered_is_what_the_model_says() {
    let stage = Stage::new();
    let mut client = stage.connect();
    let models: Vec<Mutex<Model>> = (0..10)
        .map(|number| {
            let (account, rule) = (format!("m{number}"), RULES[number % RULES.len()]);
            ask(&mut client, &format!("subscribe('{account}', 'team')"));
            if number >= RULES.len() {
                // A few slots, which any operation may fold or make anew.
                allow(&mut client, &account, rule.feature, "100");
                stage.spread(&account, rule.feature);
                allow(&mut client, &account, rule.feature, "10");
            }
            Mutex::new(Model::new(account, rule))
        })
        .collect();
    thread::scope(|scope| {
        for connection in 0..30 {
            let (models, stage) = (&models, &stage);
            scope.spawn(move || {
                let mut client = stage.connect();
                run(&mut client, "SET statement_timeout = '60s'");
                let mut random = StdRng::seed_from_u64(connection);
                for _ in 0..40 {
                    let place = random.random_range(0..models.len());
                    models[place].lock().expect("no other has failed").step(&mut client, &mut random);
                }
            });
        }
    });
}
