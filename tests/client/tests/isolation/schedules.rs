//! Random schedules: a few sessions run random transactions, one statement at a time, and after almost every statement
//! somebody compares answers with the join.
//!
//! A schedule is decided by its seed and by what its backends went through before. ENTITLEMENTS_SEED replays the run that a
//! failure names, ENTITLEMENTS_SECONDS says how long to go on.

use crate::comparison::{Comparison, Session, alone};
use postgres::error::SqlState;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::env;
use std::time::{Duration, Instant};

/// Sessions that run transactions.
const SESSIONS: usize = 4;
/// A session that keeps a transaction with an id open through a whole schedule, and one that ends transactions in between: with
/// both, the snapshots of the others look alike more often.
const OLDEST: usize = SESSIONS;
const PASSER_BY: usize = SESSIONS + 1;
const STATEMENTS: usize = 18;
/// Schedules that the same backends go through, one after the other: what a backend remembers outlives a transaction.
const SCHEDULES_PER_BACKEND: u64 = 50;

const FEWEST_SCHEDULES: u64 = 500;

const NAMES: [&str; 6] = ["a0", "a1", "a2", "a3", "a4", "nobody"];
const FEATURES: [&str; 3] = ["flag_a", "flag_b", "seats"];
const PLANS: [&str; 3] = ["free", "team", "extra"];

/// Everything as it was, apart from plan versions, which stay.
const RESET: &str = "
    DELETE FROM entitlements.overrides;
    DELETE FROM entitlements.blocks;
    DELETE FROM entitlements.subscriptions;
    UPDATE entitlements.accounts SET parent_id = NULL WHERE parent_id IS NOT NULL;
    DELETE FROM entitlements.accounts WHERE key = 'nobody';
    INSERT INTO entitlements.accounts (key, created_at)
        SELECT name, now() FROM test.names WHERE name <> 'nobody' ON CONFLICT DO NOTHING;
    UPDATE entitlements.features SET combine = 'any' WHERE combine = 'all';
    UPDATE entitlements.features SET combine = 'max_plus_addons' WHERE combine = 'min';
    SELECT test.publish('free', true, NULL, NULL), test.publish('team', true, true, 2), test.publish('extra', NULL, NULL, 1);
    SELECT test.subscribe('a0', 'free', false, 'active', 'infinity'), test.subscribe('a1', 'team', true, 'active', 'infinity');
    SELECT test.adopt('a2', 'a0'), test.adopt('a3', 'a2');";

/// The settings have another name since PostgreSQL 16.
const PARALLEL: &str =
    "SELECT set_config(name, 'on', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query')";
const NOT_PARALLEL: &str =
    "SELECT set_config(name, 'off', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query')";

/// Ways to ask, each with rows of (account, feature, got, want); planned once, for planning takes longer than answering.
const PREPARED: &str = "
    PREPARE all_answers AS SELECT account, feature, got, want FROM test.comparison;
    PREPARE one_answer(text, text) AS
        SELECT account, feature, got, want FROM test.comparison WHERE account = $1 AND feature = $2;
    PREPARE stable_answers(text) AS
        SELECT account, feature, test.stable_answer(account, feature), want FROM test.expected WHERE account = $1;
    PREPARE counted_answers(text) AS
        SELECT NULL, $1, count(*), (SELECT count(*) FROM test.expected WHERE feature = $1 AND want)
        FROM test.names WHERE entitlements.entitled(name, $1);
    PREPARE listed_answers(text) AS
        SELECT NULL, $1, array(SELECT entitlements.entitled_accounts($1)),
            array(SELECT account FROM test.expected WHERE feature = $1 AND want ORDER BY account COLLATE \"C\");
    PREPARE answers_around_a_change(text, text) AS
        SELECT account, feature, ARRAY[got, entitlements.entitled(account, feature), flipped = 0], ARRAY[want, want, true]
        FROM (SELECT account, feature, got, want, test.flip($1, $2) AS flipped
            FROM test.comparison WHERE account = $1 AND feature = $2 OFFSET 0) around";

/// What a run must have come by, or it shows nothing.
const REACHED: [&str; 18] = [
    "READ COMMITTED",
    "REPEATABLE READ",
    "SERIALIZABLE",
    "COMMIT",
    "ROLLBACK",
    "PREPARE TRANSACTION",
    "COMMIT PREPARED or ROLLBACK PREPARED",
    "ROLLBACK TO",
    "RELEASE",
    "DISCARD ALL",
    "changes",
    "changes within a statement",
    "fetches",
    "fetches after the commit",
    "imported snapshots",
    "parallel",
    "granted",
    "not granted",
];

const VACUUM: &str =
    "VACUUM entitlements.features, entitlements.accounts, entitlements.subscriptions, entitlements.overrides,
    entitlements.blocks, test.scratch";

/// Waiting for another session of this thread would be waiting for ever. The rest makes plans that suit tables this small, so
/// that more schedules fit into the time.
const SETTINGS: &str = "-c lock_timeout=2ms -c jit=off -c plan_cache_mode=force_generic_plan -c enable_hashjoin=off
    -c enable_mergejoin=off -c enable_seqscan=off";

/// A statement may meet what another session is doing.
fn is_expected(code: &SqlState) -> bool {
    [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::UNIQUE_VIOLATION,
        // A block or subscription for an account that another transaction deletes.
        SqlState::FOREIGN_KEY_VIOLATION,
    ]
    .contains(code)
}

#[derive(Default)]
struct Transaction {
    level: &'static str,
    read_only: bool,
    failed: bool,
    savepoints: usize,
    cursor: Option<Cursor>,
    /// A held cursor was opened or a snapshot exported, which forbids PREPARE TRANSACTION.
    must_not_be_prepared: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cursor {
    WithoutHold,
    WithHold,
}

struct Actor {
    session: Session,
    transaction: Option<Transaction>,
}

/// Each schedule has its own, since some errors need checks to be rare, or others to keep still.
struct Habits {
    sessions: usize,
    /// How often the session that has just done something checks, and how often another one does.
    checks_by_actor: f64,
    checks_by_other: f64,
    /// How many of the writes only take a transaction id.
    bare_ids: f64,
    /// How often somebody's transaction ends in between.
    passing: f64,
    /// How many in twenty of the statements within a transaction are about savepoints and cursors.
    nesting: u32,
}

struct Run<'a> {
    random: StdRng,
    comparison: &'a Comparison,
    /// Tidies up between schedules, and may wait for autovacuum.
    keeper: Session,
    actors: Vec<Actor>,
    prepared: Vec<String>,
    /// The statements of the present schedule, with the session that ran each.
    log: Vec<String>,
    seed: u64,
    habits: Habits,
    /// The seed of the first schedule that the present backends went through.
    first_seed: u64,
    counts: BTreeMap<&'static str, u64>,
}

impl<'a> Run<'a> {
    fn new(comparison: &'a Comparison) -> Self {
        let random = StdRng::seed_from_u64(0);
        Self {
            random,
            comparison,
            keeper: comparison.session(),
            actors: Vec::new(),
            prepared: Vec::new(),
            log: Vec::new(),
            seed: 0,
            habits: Habits {
                sessions: SESSIONS,
                checks_by_actor: 0.5,
                checks_by_other: 0.5,
                bare_ids: 0.5,
                passing: 0.5,
                nesting: 10,
            },
            first_seed: 0,
            counts: BTreeMap::new(),
        }
    }

    /// New backends for the schedules from `seed` on.
    fn connect(&mut self, seed: u64) {
        self.first_seed = seed;
        self.actors.clear();
        for _ in 0..SESSIONS + 2 {
            let session = self.comparison.session_with(SETTINGS);
            self.actors.push(Actor { session, transaction: None });
        }
        for actor in 0..SESSIONS {
            self.prepare_statements(actor);
        }
    }

    fn prepare_statements(&mut self, actor: usize) {
        self.actors[actor].session.run(PREPARED);
    }

    fn fail(&self, what: &str) -> ! {
        panic!(
            "{what}\nENTITLEMENTS_SEED={} replays this with what its backends did before. Schedule {}:\n{}",
            self.first_seed,
            self.seed,
            self.log.join("\n")
        );
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn chance(&mut self, share: f64) -> bool {
        self.random.random_bool(share)
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        *choices.choose(&mut self.random).expect("there is a choice")
    }

    /// Runs the statement; None where it was refused for what other sessions do. Any other refusal is a failure.
    fn run(&mut self, actor: usize, sql: &str) -> Option<Vec<Vec<Option<String>>>> {
        let result = self.actors[actor].session.try_query(sql);
        let outcome = result.as_ref().map_or_else(|code| format!(" -- {}", code.code()), |_| String::new());
        self.log.push(format!("{actor}: {sql}{outcome}"));
        match result {
            Ok(rows) => Some(rows),
            Err(code) if is_expected(&code) => {
                self.count("refused");
                if let Some(transaction) = &mut self.actors[actor].transaction {
                    transaction.failed = true;
                }
                None
            }
            Err(code) => self.fail(&format!("SQLSTATE {}", code.code())),
        }
    }

    /// Compares rows of (account, feature, got, want).
    fn compare(&mut self, rows: &[Vec<Option<String>>]) {
        for row in rows {
            let [.., got, want] = row.as_slice() else { self.fail("rows have an answer and the join's") };
            if got != want || got.is_none() {
                self.fail(&format!("wrong answer: {row:?}"));
            }
            match got.as_deref() {
                Some("t") => self.count("granted"),
                Some("f") => self.count("not granted"),
                _ => {}
            }
        }
    }

    fn name_and_feature(&mut self) -> (&'static str, &'static str) {
        (self.pick(&NAMES), self.pick(&FEATURES))
    }

    fn check(&mut self, actor: usize) {
        let (name, feature) = self.name_and_feature();
        let way = self.random.random_range(0..200);
        let sql = match way {
            0..80 => "EXECUTE all_answers".to_owned(),
            80..140 => format!("EXECUTE one_answer('{name}', '{feature}')"),
            140..155 => format!("EXECUTE stable_answers('{name}')"),
            155..170 => format!("EXECUTE counted_answers('{feature}')"),
            170..185 => format!("EXECUTE listed_answers('{feature}')"),
            185..192 => "SELECT 'rows', '', test.volatile_answers(), 0".to_owned(),
            // Constants of the query, not parameters.
            192..199 => format!(
                "SELECT '{name}', '{feature}', entitlements.entitled('{name}', '{feature}'), (SELECT want FROM test.expected
                    WHERE account = '{name}' AND feature = '{feature}')
                FROM generate_series(1, 2)"
            ),
            _ => {
                self.count("parallel");
                self.run(actor, PARALLEL);
                "SELECT account, feature, got, want FROM test.comparison".to_owned()
            }
        };
        if let Some(rows) = self.run(actor, &sql) {
            self.compare(&rows);
        }
        if way == 199 && self.actors[actor].transaction.as_ref().is_none_or(|transaction| !transaction.failed) {
            self.run(actor, NOT_PARALLEL);
        }
    }

    fn check_unless_failed(&mut self, actor: usize) {
        if self.actors[actor].transaction.as_ref().is_none_or(|transaction| !transaction.failed) {
            self.check(actor);
        }
    }

    fn change(&mut self) -> String {
        let (name, feature) = self.name_and_feature();
        let known = self.pick(&NAMES[..5]);
        match self.random.random_range(0..18) {
            0..4 => {
                let mode = self.pick(&["set", "set", "add", "deny"]);
                let gives = self.chance(0.5);
                let source = self.pick(&["sales", "support"]);
                format!("SELECT test.override('{name}', '{feature}', '{mode}', {gives}, '{source}')")
            }
            4..6 => format!("SELECT test.clear('{name}', '{feature}')"),
            6 => {
                let blocked = if self.chance(0.5) { "NULL".to_owned() } else { format!("'{feature}'") };
                let source = self.pick(&["billing", "fraud"]);
                format!("SELECT test.block('{name}', {blocked}, '{source}')")
            }
            7..9 => format!("SELECT test.unblock('{name}')"),
            9..12 => {
                let plan = self.pick(&PLANS);
                let follow = self.chance(0.6);
                let status = self.pick(&["active", "active", "trialing", "canceled", "past_due"]);
                let until = self.pick(&["infinity", "infinity", "2099-01-01", "2021-01-01"]);
                format!("SELECT test.subscribe('{known}', '{plan}', {follow}, '{status}', '{until}')")
            }
            12 => format!("SELECT test.unsubscribe('{known}')"),
            13..15 => {
                let plan = self.pick(&PLANS);
                let flags = [self.pick(&["true", "false", "NULL"]), self.pick(&["true", "false", "NULL"])];
                let seats = self.pick(&["0", "3", "'Infinity'", "NULL"]);
                format!("SELECT test.publish('{plan}', {}, {}, {seats})", flags[0], flags[1])
            }
            15 => {
                let place = self.random.random_range(1..5);
                // No account gets more than two ancestors.
                let parent = if place < 3 { self.pick(&["a0", "none"]) } else { self.pick(&["a0", "a2", "none"]) };
                format!("SELECT test.adopt('a{place}', '{parent}')")
            }
            16 => self
                .pick(&[
                    "UPDATE entitlements.features SET combine = CASE combine WHEN 'any' THEN 'all' ELSE 'any' END WHERE key = 'flag_b'",
                    "UPDATE entitlements.features SET combine = CASE combine WHEN 'min' THEN 'sum' ELSE 'min' END WHERE key = 'seats'",
                ])
                .to_owned(),
            _ => self
                .pick(&[
                    "INSERT INTO entitlements.accounts (key, parent_id, created_at)
                        SELECT 'nobody', id, now() FROM entitlements.accounts WHERE key = 'a0' ON CONFLICT DO NOTHING",
                    "UPDATE entitlements.accounts SET key = 'nobody' WHERE key = 'a4'
                        AND NOT EXISTS (SELECT FROM entitlements.accounts WHERE key = 'nobody')",
                    "UPDATE entitlements.accounts SET key = 'a4' WHERE key = 'nobody'
                        AND NOT EXISTS (SELECT FROM entitlements.accounts WHERE key = 'a4')",
                ])
                .to_owned(),
        }
    }

    /// A change of what decides, or something that only moves ids and snapshots on.
    fn write(&mut self, actor: usize) {
        self.count("changes");
        if self.chance(self.habits.bare_ids) {
            self.run(actor, "SELECT pg_current_xact_id()");
            return;
        }
        match self.random.random_range(0..9) {
            0..6 => {
                let sql = self.change();
                self.run(actor, &sql);
            }
            6 => {
                self.run(actor, "INSERT INTO test.scratch VALUES (1)");
            }
            7 => {
                let (name, feature) = self.name_and_feature();
                self.count("changes within a statement");
                let sql = format!("EXECUTE answers_around_a_change('{name}', '{feature}')");
                if let Some(rows) = self.run(actor, &sql) {
                    self.compare(&rows);
                }
            }
            _ => {
                let (name, feature) = self.name_and_feature();
                let sql = format!("SELECT 'in vain', '', test.flip_in_vain('{name}', '{feature}'), 0");
                if let Some(rows) = self.run(actor, &sql) {
                    self.compare(&rows);
                }
            }
        }
    }

    fn begin(&mut self, actor: usize) {
        let level = self.pick(&["READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]);
        let read_only = self.chance(0.2);
        let access = if read_only { ", READ ONLY" } else { "" };
        self.run(actor, &format!("BEGIN ISOLATION LEVEL {level}{access}"));
        self.actors[actor].transaction = Some(Transaction { level, read_only, ..Transaction::default() });
        self.count(level);
        if level == "REPEATABLE READ" && self.chance(0.3) {
            self.import_snapshot(actor);
        }
    }

    /// Takes the snapshot of another transaction, if one may give it away.
    fn import_snapshot(&mut self, actor: usize) {
        let may_export = |transaction: &Transaction| {
            transaction.level != "SERIALIZABLE" && !transaction.failed && transaction.savepoints == 0
        };
        let exporters: Vec<usize> = (0..self.habits.sessions)
            .filter(|other| *other != actor && self.actors[*other].transaction.as_ref().is_some_and(may_export))
            .collect();
        if exporters.is_empty() {
            return;
        }
        let exporter = self.pick(&exporters);
        if let Some(rows) = self.run(exporter, "SELECT pg_export_snapshot()") {
            let snapshot = rows[0][0].clone().unwrap_or_default();
            if let Some(transaction) = &mut self.actors[exporter].transaction {
                transaction.must_not_be_prepared = true;
            }
            self.run(actor, &format!("SET TRANSACTION SNAPSHOT '{snapshot}'"));
            self.count("imported snapshots");
        }
    }

    fn end(&mut self, actor: usize, transaction: &Transaction) {
        let may_prepare = !transaction.failed && !transaction.must_not_be_prepared;
        match self.random.random_range(0..10) {
            0..6 => {
                let committed = self.run(actor, "COMMIT").is_some() && !transaction.failed;
                self.count("COMMIT");
                if committed && transaction.cursor == Some(Cursor::WithHold) {
                    self.fetch_after_commit(actor);
                }
            }
            6..8 if may_prepare => {
                let name = format!("{}_{}", self.comparison.database.name(), self.log.len());
                if self.run(actor, &format!("PREPARE TRANSACTION '{name}'")).is_some() {
                    self.prepared.push(name);
                    self.count("PREPARE TRANSACTION");
                }
            }
            _ => {
                self.run(actor, "ROLLBACK");
                self.count("ROLLBACK");
            }
        }
        self.actors[actor].transaction = None;
    }

    fn fetch_after_commit(&mut self, actor: usize) {
        if let Some(rows) = self.run(actor, "FETCH 5 open") {
            self.compare(&rows);
            self.count("fetches after the commit");
        }
        self.run(actor, "CLOSE ALL");
    }

    fn finish_prepared(&mut self, actor: usize) {
        if self.prepared.is_empty() {
            return;
        }
        let place = self.random.random_range(0..self.prepared.len());
        let name = self.prepared.swap_remove(place);
        let how = self.pick(&["COMMIT", "COMMIT", "ROLLBACK"]);
        self.run(actor, &format!("{how} PREPARED '{name}'"));
        self.count("COMMIT PREPARED or ROLLBACK PREPARED");
    }

    fn savepoint(&mut self, actor: usize, depth: usize) {
        if depth > 0 && self.chance(0.6) {
            let target = self.random.random_range(0..depth);
            let roll_back = self.chance(0.7);
            let how = if roll_back { "ROLLBACK TO" } else { "RELEASE" };
            self.run(actor, &format!("{how} s{target}"));
            self.set_savepoints(actor, if roll_back { target + 1 } else { target });
            self.count(how);
        } else if self.run(actor, &format!("SAVEPOINT s{depth}")).is_some() {
            self.set_savepoints(actor, depth + 1);
        }
    }

    fn set_savepoints(&mut self, actor: usize, depth: usize) {
        if let Some(transaction) = &mut self.actors[actor].transaction {
            transaction.savepoints = depth;
            // ROLLBACK TO closes the cursors that were opened since; which, this does not follow.
            transaction.cursor = None;
        }
    }

    fn cursor(&mut self, actor: usize, is_open: bool) {
        if is_open && self.chance(0.7) {
            self.count("fetches");
            if let Some(rows) = self.run(actor, "FETCH 2 open") {
                self.compare(&rows);
            }
            return;
        }
        let (kind, how) = self.pick(&[
            (Cursor::WithHold, "WITH HOLD"),
            (Cursor::WithoutHold, "WITHOUT HOLD"),
            (Cursor::WithoutHold, "WITHOUT HOLD"),
        ]);
        let sql = format!(
            "CLOSE ALL; DECLARE open NO SCROLL CURSOR {how} FOR SELECT account, feature, got, want FROM test.comparison; FETCH 3 open"
        );
        if let Some(rows) = self.run(actor, &sql) {
            self.compare(&rows);
            if let Some(transaction) = &mut self.actors[actor].transaction {
                transaction.cursor = Some(kind);
                transaction.must_not_be_prepared |= kind == Cursor::WithHold;
            }
        }
    }

    fn step(&mut self, actor: usize) {
        match self.actors[actor].transaction.take() {
            None => match self.random.random_range(0..20) {
                0..8 => self.begin(actor),
                8..11 => self.short_transaction(actor),
                11..16 => self.write(actor),
                16..19 => self.finish_prepared(actor),
                _ => self.reset_session(actor),
            },
            Some(transaction) => {
                let (failed, read_only, depth, has_cursor) =
                    (transaction.failed, transaction.read_only, transaction.savepoints, transaction.cursor.is_some());
                let choice = self.random.random_range(0..20u32);
                if failed && (depth == 0 || choice < 10) || choice < 5 {
                    self.end(actor, &transaction);
                    return;
                }
                self.actors[actor].transaction = Some(transaction);
                if failed {
                    let target = self.random.random_range(0..depth);
                    self.run(actor, &format!("ROLLBACK TO s{target}"));
                    self.set_savepoints(actor, target + 1);
                    if let Some(transaction) = &mut self.actors[actor].transaction {
                        transaction.failed = false;
                    }
                    self.count("ROLLBACK TO");
                    return;
                }
                let nesting = self.habits.nesting;
                match choice - 5 {
                    nested if nested < nesting / 2 => self.savepoint(actor, depth),
                    nested if nested < nesting => self.cursor(actor, has_cursor),
                    _ if read_only => self.check(actor),
                    _ => self.write(actor),
                }
            }
        }
    }

    /// A whole transaction without much in between. What it has seen can be stale after its end, or never have been so.
    fn short_transaction(&mut self, actor: usize) {
        self.begin(actor);
        if self.chance(0.5) {
            self.run(actor, "SELECT pg_current_xact_id()");
        }
        if self.chance(0.5) {
            self.run(PASSER_BY, "SELECT pg_current_xact_id()");
        }
        if self.chance(0.7) {
            self.check_unless_failed(actor);
        }
        if self.actors[actor].transaction.as_ref().is_some_and(|transaction| !transaction.failed && !transaction.read_only) {
            let change = self.change();
            self.run(actor, &change);
        }
        if self.chance(0.3) {
            self.check_unless_failed(actor);
        }
        if let Some(transaction) = self.actors[actor].transaction.take() {
            self.end(actor, &transaction);
        }
        self.check(actor);
    }

    fn reset_session(&mut self, actor: usize) {
        if self.chance(0.2) {
            self.run(actor, "DISCARD ALL");
            self.prepare_statements(actor);
            self.count("DISCARD ALL");
        } else {
            let size = self.pick(&["64kB", "4MB"]);
            self.run(actor, &format!("SET entitlements.memo_size = '{size}'"));
        }
    }

    fn schedule(&mut self, seed: u64) {
        self.seed = seed;
        self.random = StdRng::seed_from_u64(seed);
        self.log.clear();
        self.keeper.run(RESET);
        self.habits = Habits {
            sessions: self.random.random_range(2..=SESSIONS),
            checks_by_actor: self.pick(&[0.3, 0.6, 1.0]),
            checks_by_other: self.pick(&[0.0, 0.2, 0.5]),
            bare_ids: self.pick(&[0.1, 0.3, 0.5]),
            passing: self.pick(&[0.0, 0.15]),
            nesting: self.pick(&[4, 11]),
        };
        let oldest = self.chance(0.5);
        if oldest {
            self.run(OLDEST, "BEGIN; SELECT pg_current_xact_id()");
        }
        for _ in 0..STATEMENTS {
            let actor = self.random.random_range(0..self.habits.sessions);
            self.step(actor);
            if self.chance(self.habits.passing) {
                self.run(PASSER_BY, "SELECT pg_current_xact_id()");
            }
            if self.chance(self.habits.checks_by_actor) {
                self.check_unless_failed(actor);
            }
            if self.chance(self.habits.checks_by_other) {
                let other = self.random.random_range(0..self.habits.sessions);
                self.check_unless_failed(other);
            }
        }
        for actor in 0..SESSIONS {
            if self.actors[actor].transaction.take().is_some() {
                self.run(actor, "ROLLBACK");
            }
        }
        if oldest {
            self.run(OLDEST, "ROLLBACK");
        }
        for name in std::mem::take(&mut self.prepared) {
            self.run(0, &format!("ROLLBACK PREPARED '{name}'"));
        }
    }
}

#[test]
fn random_schedules_agree_with_the_join() {
    let _alone = alone();
    let comparison = Comparison::new();
    let number =
        |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number")));
    let first = number("ENTITLEMENTS_SEED").unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000));
    let end = Instant::now() + Duration::from_secs(number("ENTITLEMENTS_SECONDS").unwrap_or(60));
    let mut run = Run::new(&comparison);
    let mut seed = first;
    while Instant::now() < end || seed < first + FEWEST_SCHEDULES {
        if (seed - first).is_multiple_of(SCHEDULES_PER_BACKEND) {
            run.connect(seed);
            run.keeper.run(VACUUM);
        }
        run.schedule(seed);
        seed += 1;
    }
    println!("schedules {first} to {}: {:?}", seed - 1, run.counts);
    for what in REACHED {
        assert!(run.counts.get(what).is_some_and(|count| *count >= 5), "{what} was hardly reached: {:?}", run.counts);
    }
}
