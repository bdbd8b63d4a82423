//! Random use of many pools from many connections, with notes of what the server has acknowledged.
//!
//! All amounts are multiples of a half, which floating point adds up exactly.

use crate::stage::{ask, run};
use entitlements_client_tests::{Database, one};
use postgres::{Client, NoTls};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// What happens to a statement: the SQLSTATE where it is refused, `lost` where the connection is.
pub fn outcome(client: &mut Client, sql: &str) -> Result<(), String> {
    client.simple_query(sql).map(|_| ()).map_err(|error| code_of(&error))
}

fn code_of(error: &postgres::Error) -> String {
    match error.as_db_error().map(|refusal| refusal.code().code()) {
        // The server says goodbye: it is told to stop, another process crashed, it starts or stops.
        None | Some("57P01" | "57P02" | "57P03") => LOST.to_owned(),
        Some(code) => code.to_owned(),
    }
}

const LOST: &str = "lost";

/// What a feature's use adds to other pools.
const FEATURES: [&str; 6] = ["calls", "capped", "roof", "watched", "images", "short"];

/// Limits of these are changed.
const CHANGED: [&str; 2] = ["calls", "capped"];

/// What the plans allow of features whose limits are not changed otherwise.
const OF_PLANS: [(&str, [(&str, f64); 2]); 2] =
    [("team", [("watched", PLAN), ("short", PLAN)]), ("wide", [("watched", 40.0), ("short", 25.0)])];

pub struct Traffic<'a> {
    database: &'a Database,
    accounts: usize,
    /// Their subscriptions.
    subscriptions: Vec<String>,
    /// Reservations that were made and not ended yet, as far as was acknowledged.
    reserved: Mutex<Vec<Reserved>>,
    duration: Duration,
    lowers: bool,
    disturbs: bool,
    /// How many transactions were about to be committed: each leaves its number in a table. Its id would not tell what
    /// became of it, for a server that has crashed gives the ids of what it has forgotten to others.
    begun: AtomicI64,
    started: Instant,
    over: AtomicBool,
    samples: Mutex<Vec<Sample>>,
    limits: Mutex<BTreeMap<String, Vec<Limit>>>,
    longest: Mutex<Duration>,
}

/// What one snapshot showed of a pool.
#[derive(Clone, Debug)]
pub struct Sample {
    /// `account/feature`
    pub pool: String,
    /// In the window that has most.
    pub used: f64,
    pub most: f64,
    pub began: Duration,
    pub ended: Duration,
}

/// With so many looks at it a load was watched.
pub const ENOUGH_SAMPLES: usize = 100;

/// Units that are kept until somebody ends it.
#[derive(Clone)]
struct Reserved {
    id: String,
    account: String,
    feature: &'static str,
    n: f64,
}

/// What a transaction has done.
#[derive(Clone, Default)]
struct Work {
    units: Units,
    reserved: Vec<Reserved>,
}

impl Work {
    fn add(&mut self, account: &str, feature: &str, units: f64) {
        *self.units.entry(format!("{account}/{feature}")).or_default() += units;
        if feature == "images" {
            *self.units.entry(format!("{account}/ai")).or_default() += 10.0 * units;
        }
    }
}

struct Limit {
    value: f64,
    began: Duration,
    ended: Duration,
}

/// Units by pool.
type Units = BTreeMap<String, f64>;

/// What was acknowledged, and transactions whose COMMIT was on its way when the connection was lost.
#[derive(Default)]
pub struct Balance {
    acknowledged: Units,
    in_doubt: Vec<(i64, Units)>,
    pub transactions: usize,
}

enum End {
    Committed(Units),
    Undone,
    InDoubt(i64, Units),
    Lost,
}

impl<'a> Traffic<'a> {
    /// Makes the accounts. Limits of some pools change all the time; with `lowers` also downwards.
    pub fn new(database: &'a Database, accounts: usize, duration: Duration, lowers: bool) -> Self {
        let mut client = database.connect();
        run(&mut client, "CREATE TABLE public.transactions (number bigint)");
        let subscribe = |number| ask(&mut client, &format!("subscribe('a{number}', 'team')"));
        let subscriptions = (0..accounts).map(subscribe).collect();
        Self {
            database,
            accounts,
            subscriptions,
            reserved: Mutex::default(),
            duration,
            lowers,
            disturbs: false,
            begun: AtomicI64::new(0),
            started: Instant::now(),
            over: AtomicBool::new(false),
            samples: Mutex::default(),
            limits: Mutex::default(),
            longest: Mutex::default(),
        }
    }

    /// Also cancels statements, ends sessions, prepares transactions, and rewrites tables and indexes.
    pub fn disturbed(self) -> Self {
        Self { disturbs: true, ..self }
    }

    /// Lets so many connections loose, and operators and an observer. Crashes of the server are not faults.
    pub fn run(&self, connections: usize) -> Balance {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..connections).map(|number| scope.spawn(move || self.consume(number as u64))).collect();
            let mut others = vec![
                scope.spawn(|| self.change_limits(0)),
                scope.spawn(|| self.change_limits(1)),
                scope.spawn(|| self.watch()),
            ];
            if self.disturbs {
                others.extend([scope.spawn(|| self.interrupt()), scope.spawn(|| self.maintain())]);
            }
            let mut balance = Balance::default();
            for client in clients {
                let part = client.join().expect("no client fails");
                part.acknowledged
                    .into_iter()
                    .for_each(|(pool, units)| *balance.acknowledged.entry(pool).or_default() += units);
                balance.in_doubt.extend(part.in_doubt);
                balance.transactions += part.transactions;
            }
            self.stop();
            others.into_iter().for_each(|other| other.join().expect("neither operators nor the observer fail"));
            balance
        })
    }

    pub fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub fn samples(&self) -> MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().expect("nobody failed with it")
    }

    /// How long the longest transaction took.
    pub fn longest(&self) -> Duration {
        *self.longest.lock().expect("nobody failed with it")
    }

    /// The greatest allowance that may have been in force at some time; what it is by the plan where nothing was changed.
    pub fn greatest_allowance(&self, pool: &str, from: Duration, to: Duration) -> f64 {
        let limits = self.limits.lock().expect("nobody failed with it");
        let none = Vec::new();
        let changes = limits.get(pool).unwrap_or(&none);
        let ends = changes.iter().skip(1).map(|next| next.ended).chain([Duration::MAX]);
        let in_force = changes.iter().zip(ends).filter(|(limit, end)| limit.began <= to && *end >= from);
        let first = changes.first().is_none_or(|first| first.ended >= from);
        in_force.map(|(limit, _)| limit.value).fold(if first { PLAN } else { 0.0 }, f64::max)
    }

    /// A busy machine takes longer until enough was seen.
    fn is_over(&self) -> bool {
        const PATIENCE: Duration = Duration::from_secs(60);
        let late = self.started.elapsed().checked_sub(self.duration);
        self.over.load(Ordering::Relaxed)
            || late.is_some_and(|late| late > PATIENCE || self.samples().len() > ENOUGH_SAMPLES)
    }

    /// A connection as soon as the server accepts one; None when it is over.
    fn connect(&self) -> Option<Client> {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.is_over() {
            if let Ok(mut client) = self.database.config().connect(NoTls)
                && outcome(&mut client, "SET statement_timeout = '30s'; SET deadlock_timeout = '50ms'").is_ok()
            {
                return Some(client);
            }
            assert!(Instant::now() < end, "the server comes back");
            thread::sleep(Duration::from_millis(50));
        }
        None
    }

    fn consume(&self, seed: u64) -> Balance {
        let mut random = StdRng::seed_from_u64(seed);
        let mut balance = Balance::default();
        while let Some(mut client) = self.connect() {
            if random.random_ratio(1, 4) {
                let slots = [1, 4, 64, 256][random.random_range(0..4)];
                let _ = outcome(&mut client, &format!("SET entitlements.max_slots = {slots}"));
            }
            while !self.is_over() {
                let began = Instant::now();
                match self.transaction(&mut client, &mut random) {
                    End::Committed(units) => {
                        units.into_iter().for_each(|(pool, units)| *balance.acknowledged.entry(pool).or_default() += units);
                        balance.transactions += 1;
                    }
                    End::Undone => {}
                    End::InDoubt(number, units) => balance.in_doubt.push((number, units)),
                    End::Lost => break,
                }
                let mut longest = self.longest.lock().expect("nobody failed with it");
                *longest = longest.max(began.elapsed());
            }
        }
        balance
    }

    /// A few statements in a transaction, some of them in savepoints, and its end.
    fn transaction(&self, client: &mut Client, random: &mut StdRng) -> End {
        let isolation = ["READ COMMITTED", "READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
            [random.random_range(0..5)];
        if outcome(client, &format!("BEGIN ISOLATION LEVEL {isolation}")).is_err() {
            return End::Lost;
        }
        let mut work = Work::default();
        for _ in 0..[1, 1, 1, 2, 4][random.random_range(0..5)] {
            let savepoint = random.random_ratio(1, 3).then(|| work.clone());
            if savepoint.is_some() && outcome(client, "SAVEPOINT s").is_err() {
                return End::Lost;
            }
            let refused = match random.random_range(0..6) {
                0 => self.reserve(client, random, isolation, &mut work),
                1 => self.end_reservation(client, random, isolation, &mut work),
                _ => self.statement(client, random, isolation, &mut work),
            }
            .err();
            if refused.as_deref() == Some(LOST) {
                return End::Lost;
            }
            match savepoint {
                Some(before) if refused.is_some() || random.random_ratio(1, 3) => {
                    if outcome(client, "ROLLBACK TO s").is_err() {
                        return End::Lost;
                    }
                    work = before;
                }
                None if refused.is_some() => {
                    return if outcome(client, "ROLLBACK").is_err() { End::Lost } else { End::Undone };
                }
                _ => {}
            }
            if random.random_ratio(1, 4)
                && outcome(client, &format!("SELECT pg_sleep({})", random.random_range(0.0..0.004))).is_err()
            {
                return End::Lost;
            }
        }
        if random.random_ratio(1, 6) {
            return if outcome(client, "ROLLBACK").is_err() { End::Lost } else { End::Undone };
        }
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        if outcome(client, &format!("INSERT INTO public.transactions VALUES ({number})")).is_err() {
            return End::Lost;
        }
        if self.disturbs && random.random_ratio(1, 8) {
            return self.in_two_phases(client, random, number, work);
        }
        match outcome(client, "COMMIT") {
            Ok(()) => self.committed(work),
            Err(code) if code == LOST => End::InDoubt(number, work.units),
            Err(code) => {
                let is_due = code == "40001" && isolation == "SERIALIZABLE" || code == "57014" && self.disturbs;
                assert!(is_due, "COMMIT in {isolation}: {code}");
                End::Undone
            }
        }
    }

    /// From now on others may end what was reserved.
    fn committed(&self, work: Work) -> End {
        self.reserved.lock().expect("nobody failed with it").extend(work.reserved);
        End::Committed(work.units)
    }

    fn in_two_phases(&self, client: &mut Client, random: &mut StdRng, number: i64, work: Work) -> End {
        let name = format!("{}_{number}", self.database.name());
        match outcome(client, &format!("PREPARE TRANSACTION '{name}'")) {
            Ok(()) => {}
            Err(code) if code == LOST => return End::Lost,
            Err(_) => return End::Undone,
        }
        let end = if random.random_ratio(3, 4) { "COMMIT" } else { "ROLLBACK" };
        thread::sleep(Duration::from_millis(random.random_range(0..5)));
        // Whoever interrupts may hit this one; it has to be done in the end.
        while outcome(client, &format!("{end} PREPARED '{name}'")).is_err() {
            let Ok(another) = self.database.config().connect(NoTls) else { continue };
            *client = another;
            let open = client.query("SELECT FROM pg_prepared_xacts WHERE gid = $1", &[&name]);
            if open.is_ok_and(|open| open.is_empty()) {
                break;
            }
        }
        if end == "COMMIT" { self.committed(work) } else { End::Undone }
    }

    fn statement(&self, client: &mut Client, random: &mut StdRng, isolation: &str, work: &mut Work) -> Result<(), String> {
        let account = format!("a{}", random.random_range(0..self.accounts));
        let feature = FEATURES[random.random_range(0..FEATURES.len())];
        let function = ["consume", "consume", "try_consume", "try_consume", "release"][random.random_range(0..5)];
        let n = ["0.5", "1", "1", "2", "3.5", "8"][random.random_range(0..6)];
        let n = if feature == "images" { ["0.5", "1"][random.random_range(0..2)] } else { n };
        let sql = format!("SELECT (entitlements.{function}('{account}', '{feature}', {n})).consumed::float8");
        let row = self.asked(client, &sql, isolation, |code| code == "NE007" && function == "release")?;
        work.add(&account, feature, row.get(0));
        Ok(())
    }

    fn reserve(&self, client: &mut Client, random: &mut StdRng, isolation: &str, work: &mut Work) -> Result<(), String> {
        let account = format!("a{}", random.random_range(0..self.accounts));
        let feature = FEATURES[random.random_range(0..FEATURES.len())];
        let n = if feature == "images" { 0.5 } else { [0.5, 1.0, 2.5][random.random_range(0..3)] };
        let sql = format!("SELECT entitlements.reserve('{account}', '{feature}', {n}, '1 hour')::text");
        let row = self.asked(client, &sql, isolation, |_| false)?;
        work.add(&account, feature, n);
        work.reserved.push(Reserved { id: row.get(0), account, feature, n });
        Ok(())
    }

    /// Commits or cancels a reservation of anybody's, also one that this transaction has made.
    fn end_reservation(
        &self,
        client: &mut Client,
        random: &mut StdRng,
        isolation: &str,
        work: &mut Work,
    ) -> Result<(), String> {
        let own = if random.random_ratio(1, 4) { work.reserved.pop() } else { None };
        let known = own.or_else(|| {
            let mut reserved = self.reserved.lock().expect("nobody failed with it");
            if reserved.is_empty() { None } else { Some(random.random_range(0..reserved.len())) }
                .map(|place| reserved.swap_remove(place))
        });
        let Some(Reserved { id, account, feature, n }) = known else { return Ok(()) };
        let actual = [None, Some(0.5), Some(n), Some(n + 1.5)][random.random_range(0..4)];
        let sql = match actual {
            Some(actual) => {
                format!("SELECT (entitlements.commit_reservation('{id}', {actual})).consumed::float8")
            }
            None => format!("SELECT CASE WHEN entitlements.cancel_reservation('{id}') THEN 0 ELSE -1 END::float8"),
        };
        // Where this is undone it stays held, and nobody asks for it again. An older snapshot does not show it.
        let row = self.asked(client, &sql, isolation, |code| code == "NE010" && isolation != "READ COMMITTED")?;
        let used: f64 = row.get(0);
        assert!(used >= 0.0, "{sql}: somebody else has ended it");
        work.add(&account, feature, used - n);
        Ok(())
    }

    /// The answer, or the SQLSTATE of a refusal that may be.
    fn asked(
        &self,
        client: &mut Client,
        sql: &str,
        isolation: &str,
        is_of_function: impl Fn(&str) -> bool,
    ) -> Result<postgres::Row, String> {
        client.query_one(sql, &[]).map_err(|error| {
            let code = code_of(&error);
            let is_due = match code.as_str() {
                LOST | "NE002" | "40P01" => true,
                "NE001" => self.lowers,
                "57014" => self.disturbs,
                "40001" => isolation != "READ COMMITTED",
                code => is_of_function(code),
            };
            assert!(is_due, "{sql} in {isolation}: {error:?}");
            code
        })
    }

    /// Puts an account on another plan, and where limits never fall on the wider one.
    fn change_plan(&self, client: &mut Client, random: &mut StdRng, account: usize) -> Result<(), String> {
        let (plan, limits) = OF_PLANS[if self.lowers { random.random_range(0..OF_PLANS.len()) } else { 1 }];
        let began = self.started.elapsed();
        let change = format!("SELECT entitlements.change_subscription({}, plan => '{plan}')", self.subscriptions[account]);
        let done = outcome(client, &change);
        // Where the connection is lost it may be in force.
        if done.is_ok() || done == Err(LOST.to_owned()) {
            for (feature, value) in limits {
                let limit = Limit { value, began, ended: self.started.elapsed() };
                let mut known = self.limits.lock().expect("nobody failed with it");
                known.entry(format!("a{account}/{feature}")).or_default().push(limit);
            }
        }
        match done.as_ref().map_err(String::as_str) {
            Err("57014" | "40P01") if self.disturbs => Ok(()),
            Ok(()) | Err(LOST) => done,
            Err(code) => panic!("{change}: {code}"),
        }
    }

    /// An operator, who has every other account.
    fn change_limits(&self, operator: usize) {
        let mut random = StdRng::seed_from_u64(1000 + operator as u64);
        let mut present = BTreeMap::new();
        while let Some(mut client) = self.connect() {
            while !self.is_over() {
                let number = operator + 2 * random.random_range(0..self.accounts / 2);
                if random.random_ratio(1, 4) {
                    if self.change_plan(&mut client, &mut random, number).is_err() {
                        break;
                    }
                    continue;
                }
                let account = format!("a{number}");
                let feature = CHANGED[random.random_range(0..CHANGED.len())];
                let pool = format!("{account}/{feature}");
                let known: &mut f64 = present.entry(pool.clone()).or_insert(PLAN);
                let value = if self.lowers {
                    [0.0, 3.0, 7.5, 10.0, 20.0, 80.0, 400.0][random.random_range(0..7)]
                } else {
                    *known + [0.5, 4.0, 30.0][random.random_range(0..3)]
                };
                let began = self.started.elapsed();
                let set = format!("SELECT entitlements.set_override('{account}', '{feature}', 'set', '{value}', 'test')");
                match outcome(&mut client, &set) {
                    Ok(()) => {}
                    // Maybe it is in force, maybe not.
                    Err(code) if code == LOST => {
                        *known = known.max(value);
                        break;
                    }
                    Err(code) if code == "57014" && self.disturbs => continue,
                    Err(code) => panic!("{set}: {code}"),
                }
                *known = value;
                let limit = Limit { value, began, ended: self.started.elapsed() };
                self.limits.lock().expect("nobody failed with it").entry(pool).or_default().push(limit);
                thread::sleep(Duration::from_millis(random.random_range(1..20)));
            }
        }
    }

    /// Cancels a statement or ends a session, now and then.
    fn interrupt(&self) {
        let mut random = StdRng::seed_from_u64(2000);
        let mut client = self.database.connect();
        while !self.is_over() {
            let function = if random.random_ratio(4, 5) { "pg_cancel_backend" } else { "pg_terminate_backend" };
            let sql = format!(
                "SELECT {function}(pid) FROM pg_stat_activity
                  WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%consume%' ORDER BY random() LIMIT 1"
            );
            run(&mut client, &sql);
            thread::sleep(Duration::from_millis(random.random_range(1..20)));
        }
    }

    fn maintain(&self) {
        let mut client = self.database.connect();
        for table in ["counters", "counter_slots", "overrides", "subscriptions"].iter().cycle() {
            for command in ["VACUUM", "REINDEX TABLE CONCURRENTLY", "VACUUM FULL", "REINDEX TABLE"] {
                if self.is_over() {
                    return;
                }
                // Who has read a table and goes on to write waits for whoever rewrites it, and the other way round.
                let done = outcome(&mut client, &format!("{command} entitlements.{table}"));
                assert!(done.is_ok() || done == Err("40P01".to_owned()), "{command} {table}: {done:?}");
                thread::sleep(Duration::from_millis(30));
            }
        }
    }

    /// Samples usage and limits, both by one snapshot.
    fn watch(&self) {
        while let Some(mut client) = self.connect() {
            while !self.is_over() {
                let began = self.started.elapsed();
                let Ok(rows) = client.query(STORED, &[]) else { break };
                let ended = self.started.elapsed();
                let read = |row: &postgres::Row| Sample {
                    pool: row.get("pool"),
                    used: row.get("most_used"),
                    most: row.get("most"),
                    began,
                    ended,
                };
                self.samples().extend(rows.iter().map(read));
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// What the plan allows of what is changed.
const PLAN: f64 = 10.0;

const STORED: &str = "SELECT a.key || '/' || f.key AS pool, max(c.used + s.used)::float8 AS most_used, sum(c.used + s.used)::float8 AS used,
        coalesce(entitlements.allowance(a.key, f.key), 'Infinity')::float8 * CASE WHEN f.overage = 'allow' THEN coalesce(f.ceiling, 'Infinity') ELSE 1 END::float8 AS most
   FROM entitlements.counters c
   JOIN entitlements.accounts a ON a.id = c.account_id
   JOIN entitlements.features f ON f.id = c.feature_id,
        LATERAL (SELECT coalesce(sum(slot.used), 0) AS used FROM entitlements.counter_slots slot WHERE slot.counter_id = c.id) s
  GROUP BY a.key, f.key, f.overage, f.ceiling ORDER BY 1";

impl Balance {
    /// What is stored is what was acknowledged, and what transactions in doubt have done whose number is there.
    pub fn assert_stored(&self, client: &mut Client) {
        let mut expected = self.acknowledged.clone();
        let committed: Vec<i64> = one(client, "SELECT coalesce(array_agg(number), '{}') FROM public.transactions", &[]);
        let committed: BTreeSet<i64> = committed.into_iter().collect();
        for (number, units) in &self.in_doubt {
            if committed.contains(number) {
                units.iter().for_each(|(pool, units)| *expected.entry(pool.clone()).or_default() += units);
            }
        }
        expected.retain(|_, units| *units != 0.0);
        let rows = client.query(STORED, &[]).expect("usage can be read");
        let mut stored: Units = rows.iter().map(|row| (row.get("pool"), row.get("used"))).collect();
        stored.retain(|_, units| *units != 0.0);
        let pools: BTreeSet<&String> = stored.keys().chain(expected.keys()).collect();
        let differing: Vec<_> = pools
            .into_iter()
            .map(|pool| (pool, stored.get(pool), expected.get(pool)))
            .filter(|(_, stored, expected)| stored != expected)
            .collect();
        assert!(differing.is_empty(), "stored, acknowledged: {differing:?}");
        assert!(self.transactions > 100, "only {} transactions were committed", self.transactions);
    }
}
