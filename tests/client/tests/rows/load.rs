//! Many connections change a table at once, at random: no snapshot ever shows an account with more rows than it is allowed,
//! and in the end each counter is the number of rows, also where the server was killed meanwhile. Limits that count rows by
//! themselves, as a trigger or a policy does that is written by hand, are overrun by the same connections. So it is where the owner
//! recounts, has partitions come and go, and ends and begins limits at the same time.
//!
//! METERING_SECONDS sets how long the load runs.

use crate::stage::{assert_counted, run, set};
use entitlements_client_tests::cluster::Cluster;
use entitlements_client_tests::{Database, one};
use postgres::{Client, NoTls};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 64;
const ACCOUNTS: usize = 16;
const MOST: i64 = 20;

/// Limited tables, one of them partitioned, and two with limits that are written by hand.
const TABLES: &str = "
    CREATE TABLE folders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
    CREATE TABLE projects (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account text NOT NULL, gone boolean NOT NULL DEFAULT false,
                           folder bigint REFERENCES folders ON DELETE CASCADE);
    CREATE INDEX ON projects (account); CREATE INDEX ON projects (folder);
    CREATE TABLE parted (id integer, account text NOT NULL) PARTITION BY LIST (id);
    CREATE TABLE odd PARTITION OF parted FOR VALUES IN (1, 3); CREATE TABLE even PARTITION OF parted FOR VALUES IN (0, 2);
    CREATE TABLE by_trigger (account text NOT NULL);
    CREATE FUNCTION refuse_many() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        IF (SELECT count(*) FROM by_trigger WHERE account = NEW.account) >= 20 THEN RAISE 'too many' USING ERRCODE = 'P0001'; END IF;
        RETURN NEW;
      END $$;
    CREATE TRIGGER refuse_many BEFORE INSERT ON by_trigger FOR EACH ROW EXECUTE FUNCTION refuse_many();
    CREATE TABLE by_policy (account text NOT NULL);
    CREATE FUNCTION rows_of(account text) RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER
      BEGIN ATOMIC SELECT count(*) FROM by_policy WHERE by_policy.account = rows_of.account; END;
    ALTER TABLE by_policy ENABLE ROW LEVEL SECURITY;
    CREATE POLICY few ON by_policy FOR INSERT WITH CHECK (rows_of(account) < 20);";

const SAMPLE: &str = "SELECT max(rows) FROM (
    SELECT count(*) AS rows FROM (SELECT account FROM projects WHERE NOT gone UNION ALL SELECT account FROM parted) AS seen GROUP BY account) AS counts";

struct Load<'a> {
    database: &'a Database,
    /// The owner works too, and transactions are of one statement: those of several hold what the owner needs next and wait for the owner.
    with_owner: bool,
    writer: String,
    end: Instant,
    over: AtomicBool,
    committed: AtomicUsize,
    denied: AtomicUsize,
    /// What the owner has done.
    administered: AtomicUsize,
    /// Most rows of an account, as snapshots show it.
    samples: Mutex<Vec<i64>>,
}

/// The connection is lost.
struct Lost;

impl<'a> Load<'a> {
    fn new(database: &'a Database, duration: Duration) -> Self {
        let mut client = set(database);
        run(&mut client, TABLES);
        for account in 0..ACCOUNTS {
            let subscribed = format!(
                "SELECT entitlements.subscribe('a{account}', 'free'), entitlements.set_override('a{account}', 'projects', 'set', '{MOST}', 'test')"
            );
            run(&mut client, &subscribed);
        }
        // Who writes has no privilege on anything of the extension.
        let writer = format!("{}_writer", database.name());
        run(
            &mut client,
            &format!(
                "SELECT entitlements.limit_rows('projects', 'account', 'projects', 'NOT gone'), entitlements.limit_rows('parted', 'account', 'projects');
                 CREATE ROLE {writer}; GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO {writer}"
            ),
        );
        Self {
            database,
            with_owner: false,
            writer,
            end: Instant::now() + duration,
            over: AtomicBool::new(false),
            committed: AtomicUsize::new(0),
            denied: AtomicUsize::new(0),
            administered: AtomicUsize::new(0),
            samples: Mutex::default(),
        }
    }

    /// A busy machine takes longer until enough was seen.
    fn is_over(&self) -> bool {
        const PATIENCE: Duration = Duration::from_secs(60);
        let late = Instant::now().checked_duration_since(self.end);
        self.over.load(Ordering::Relaxed) || late.is_some_and(|late| late > PATIENCE || self.has_shown_enough())
    }

    fn has_shown_enough(&self) -> bool {
        let (committed, denied) = (self.committed.load(Ordering::Relaxed), self.denied.load(Ordering::Relaxed));
        let is_administered = !self.with_owner || self.administered.load(Ordering::Relaxed) > 4;
        self.is_watched() && is_administered && committed > 100 && denied > 10
    }

    /// The owner keeps everybody waiting, who watches too.
    fn enough_samples(&self) -> usize {
        if self.with_owner { 5 } else { 50 }
    }

    fn is_watched(&self) -> bool {
        let samples = self.samples.lock().expect("nobody failed with it");
        samples.len() > self.enough_samples() && samples.contains(&MOST)
    }

    fn connect(&self) -> Option<Client> {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.is_over() {
            if let Ok(mut client) = self.database.config().connect(NoTls)
                && client.batch_execute("SET statement_timeout = '30s'; SET deadlock_timeout = '50ms'").is_ok()
            {
                return Some(client);
            }
            assert!(Instant::now() < end, "the server comes back");
            thread::sleep(Duration::from_millis(50));
        }
        None
    }

    fn run(&self) {
        thread::scope(|scope| {
            for number in 0..CONNECTIONS {
                scope.spawn(move || self.change_rows(number as u64));
            }
            scope.spawn(|| self.watch());
            if self.with_owner {
                scope.spawn(|| self.administer());
            }
        });
    }

    fn change_rows(&self, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        while let Some(mut client) = self.connect() {
            if client.batch_execute(&format!("SET ROLE {}", self.writer)).is_err() {
                continue;
            }
            while !self.is_over() {
                if self.transaction(&mut client, &mut random).is_err() {
                    break;
                }
            }
        }
    }

    fn transaction(&self, client: &mut Client, random: &mut StdRng) -> Result<(), Lost> {
        let isolation = if random.random_ratio(4, 5) { "READ COMMITTED" } else { "REPEATABLE READ" };
        self.execute(client, &format!("BEGIN ISOLATION LEVEL {isolation}"), isolation)?;
        let statements = if self.with_owner { 1 } else { [1, 1, 1, 2, 3][random.random_range(0..5)] };
        for _ in 0..statements {
            let savepoint = random.random_ratio(1, 3);
            if savepoint {
                self.execute(client, "SAVEPOINT s", isolation)?;
            }
            let done = self.statement(client, random, isolation)?;
            match (savepoint, done) {
                (true, false) => drop(self.execute(client, "ROLLBACK TO s", isolation)?),
                (true, true) if random.random_ratio(1, 3) => drop(self.execute(client, "ROLLBACK TO s", isolation)?),
                (_, true) => {}
                (false, false) => return self.execute(client, "ROLLBACK", isolation).map(drop),
            }
            if random.random_ratio(1, 4) {
                self.execute(client, &format!("SELECT pg_sleep({})", random.random_range(0.0..0.004)), isolation)?;
            }
        }
        let end = if random.random_ratio(1, 6) { "ROLLBACK" } else { "COMMIT" };
        if self.execute(client, end, isolation)? && end == "COMMIT" {
            self.committed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn statement(&self, client: &mut Client, random: &mut StdRng, isolation: &str) -> Result<bool, Lost> {
        let account = format!("a{}", random.random_range(0..ACCOUNTS));
        let other = format!("a{}", random.random_range(0..ACCOUNTS));
        let part = random.random_range(0..4);
        let few = random.random_range(1..5);
        // Who waits for rows that another has may be waited for himself: most look for others.
        let skip = if random.random_ratio(3, 4) { " FOR UPDATE SKIP LOCKED" } else { "" };
        let some =
            format!("id IN (SELECT id FROM projects WHERE account = '{account}' ORDER BY random() LIMIT {few}{skip})");
        let sql = match random.random_range(0..18) {
            0..3 => format!("INSERT INTO projects (account) VALUES ('{account}')"),
            3 => format!("INSERT INTO projects (account) SELECT 'a' || (n + {part}) FROM generate_series(0, {few}) AS n"),
            4 => format!("INSERT INTO projects (account, gone) VALUES ('{account}', true), ('{other}', false), ('{account}', false)"),
            5 => format!("UPDATE projects SET account = '{other}' WHERE {some}"),
            6 => format!("UPDATE projects SET gone = NOT gone WHERE {some}"),
            7 | 8 => format!("DELETE FROM projects WHERE {some}"),
            9 => format!(
                "MERGE INTO projects USING (SELECT (SELECT id FROM projects WHERE account = '{account}' ORDER BY random() LIMIT 1{skip}) AS id UNION ALL SELECT -1) AS source
                    ON projects.id = source.id WHEN MATCHED AND projects.gone THEN DELETE WHEN MATCHED THEN UPDATE SET account = '{other}'
                  WHEN NOT MATCHED THEN INSERT (account) VALUES ('{account}')"
            ),
            10 => format!(
                "INSERT INTO projects (id, account) OVERRIDING SYSTEM VALUE SELECT id, '{other}' FROM projects WHERE account = '{account}' LIMIT 1{skip}
                  ON CONFLICT (id) DO UPDATE SET account = excluded.account"
            ),
            11 => format!("INSERT INTO parted VALUES ({part}, '{account}'), ({few} % 4, '{other}')"),
            12 if self.with_owner => format!("INSERT INTO odd VALUES (1, '{account}')"),
            12 => format!("INSERT INTO odd VALUES (1, '{account}'); UPDATE parted SET id = (id + 1) % 4 WHERE account = '{other}'"),
            13 => format!("DELETE FROM parted WHERE account = '{account}'"),
            14 => format!(
                "WITH made AS (INSERT INTO folders DEFAULT VALUES RETURNING id)
                 INSERT INTO projects (account, folder) SELECT CASE n WHEN 0 THEN '{other}' ELSE '{account}' END, id FROM made, generate_series(0, 1) AS n"
            ),
            15 => format!("DELETE FROM folders WHERE id IN (SELECT id FROM folders ORDER BY random() LIMIT {few}{skip})"),
            16 if random.random_ratio(1, 10) => "TRUNCATE parted".to_owned(),
            _ => return self.copy(client, &account, few, isolation),
        };
        if random.random_ratio(1, 2) {
            // Refused or not, it must not undo the rest.
            self.execute(client, "SAVEPOINT by_hand", isolation)?;
            let by_hand = ["by_trigger", "by_policy"][random.random_range(0..2)];
            if !self.execute(client, &format!("INSERT INTO {by_hand} VALUES ('a0')"), isolation)? {
                self.execute(client, "ROLLBACK TO by_hand", isolation)?;
            }
        }
        self.execute(client, &sql, isolation)
    }

    fn copy(&self, client: &mut Client, account: &str, rows: usize, isolation: &str) -> Result<bool, Lost> {
        let copied = client.copy_in("COPY projects (account) FROM STDIN").and_then(|mut writer| {
            // An error of the connection shows at the end.
            let _ = writer.write_all(format!("{account}\n").repeat(rows).as_bytes());
            writer.finish().map(drop)
        });
        self.outcome(copied, "COPY", isolation)
    }

    fn execute(&self, client: &mut Client, sql: &str, isolation: &str) -> Result<bool, Lost> {
        self.outcome(client.batch_execute(sql), sql, isolation)
    }

    /// Whether it was done; what is refused must be refused rightly.
    fn outcome(&self, result: Result<(), postgres::Error>, sql: &str, isolation: &str) -> Result<bool, Lost> {
        let Err(error) = result else { return Ok(true) };
        match error.as_db_error().map(|refusal| refusal.code().code()) {
            None | Some("57P01" | "57P02" | "57P03") => return Err(Lost),
            Some("NE002") => drop(self.denied.fetch_add(1, Ordering::Relaxed)),
            // By hand: the trigger and the policy.
            Some("P0001") if sql.contains("by_trigger") => {}
            Some("42501") if sql.contains("by_policy") => {}
            // Two who hold what the other needs next, rows or units.
            Some("40P01") => {}
            Some("40001") if isolation == "REPEATABLE READ" => {}
            // The row has gone to another partition.
            Some("40001") if sql.contains("parted") => {}
            _ => panic!("{sql} in {isolation}: {error:?}"),
        }
        Ok(false)
    }

    /// What the owner of the tables does meanwhile. A recount has the writers wait, and finds nothing.
    fn administer(&self) {
        const WORK: [&str; 4] = [
            "DO $$ BEGIN IF EXISTS (SELECT FROM entitlements.recount_rows(of_feature => 'projects')) THEN RAISE 'drift' USING ERRCODE = 'XX000'; END IF; END $$",
            "BEGIN; ALTER TABLE parted DETACH PARTITION odd; ALTER TABLE parted ATTACH PARTITION odd FOR VALUES IN (1, 3); COMMIT",
            "BEGIN; SELECT entitlements.unlimit_rows('parted'); SELECT entitlements.limit_rows('parted', 'account', 'projects'); COMMIT",
            "BEGIN; CREATE TABLE other (id integer, account text NOT NULL); INSERT INTO other VALUES (4, 'a0');
             ALTER TABLE parted ATTACH PARTITION other FOR VALUES IN (4); DELETE FROM parted WHERE id = 4; DROP TABLE other; COMMIT",
        ];
        let mut work = WORK.iter().cycle();
        while let Some(mut client) = self.connect() {
            while !self.is_over() {
                let sql = work.next().expect("it goes in a circle");
                match self.execute(&mut client, sql, "READ COMMITTED") {
                    Ok(true) => drop(self.administered.fetch_add(1, Ordering::Relaxed)),
                    Ok(false) => drop(client.batch_execute("ROLLBACK")),
                    Err(Lost) => break,
                }
                thread::sleep(Duration::from_millis(200));
            }
        }
    }

    fn watch(&self) {
        while let Some(mut client) = self.connect() {
            while !self.is_over() {
                let sample = match client.query_one(SAMPLE, &[]) {
                    Ok(sample) => sample,
                    Err(error) => match self.outcome(Err(error), SAMPLE, "READ COMMITTED") {
                        Ok(_) => continue,
                        Err(Lost) => break,
                    },
                };
                self.samples.lock().expect("nobody failed with it").push(sample.get::<_, Option<i64>>(0).unwrap_or(0));
            }
        }
    }

    fn assert_held(&self) {
        let mut client = self.database.connect();
        assert_counted(&mut client);
        let samples = self.samples.lock().expect("nobody failed with it");
        assert!(samples.len() > self.enough_samples(), "the load was watched: {}", samples.len());
        assert!(samples.iter().all(|rows| *rows <= MOST), "at most {MOST} rows: {samples:?}");
        assert!(samples.contains(&MOST), "some account had all that it may");
        let (committed, denied) = (self.committed.load(Ordering::Relaxed), self.denied.load(Ordering::Relaxed));
        let administered = self.administered.load(Ordering::Relaxed);
        eprintln!(
            "{committed} transactions, {denied} denials, {} samples, {administered} times the owner's work",
            samples.len()
        );
        assert_eq!(administered > 4, self.with_owner, "the owner has done everything: {administered}");
        assert!(committed > 100 && denied > 10, "{committed} transactions, {denied} denials");
        // Independent of what the extension itself says.
        let faults: Option<String> = one(
            &mut client,
            "SELECT string_agg(counted::text, ' ') FROM (
                SELECT a.key, (SELECT count(*) FROM (SELECT account FROM projects WHERE NOT gone UNION ALL SELECT account FROM parted) AS seen
                                WHERE account = a.key) AS rows,
                       coalesce(sum(c.used + coalesce((SELECT sum(s.used) FROM entitlements.counter_slots s WHERE s.counter_id = c.id), 0)), 0) AS used
                  FROM entitlements.accounts a LEFT JOIN entitlements.counters c ON c.account_id = a.id GROUP BY a.key) AS counted
              WHERE rows <> used OR rows > 20",
            &[],
        );
        assert_eq!(faults, None);
        // What is left is there to be had, to the last row.
        let one_more = "INSERT INTO projects (account) VALUES ('a0')";
        while self.execute(&mut client, one_more, "READ COMMITTED").unwrap_or_else(|Lost| panic!("the server is there")) {}
        let rows: i64 = one(
            &mut client,
            "SELECT count(*) FROM (SELECT account FROM projects WHERE NOT gone UNION ALL SELECT account FROM parted) AS seen
              WHERE account = 'a0'",
            &[],
        );
        assert_eq!(rows, MOST);
        run(&mut client, &format!("DROP OWNED BY {0}; DROP ROLE {0}", self.writer));
    }

    /// Most rows of an account where a limit is written by hand.
    fn by_hand(&self, table: &str) -> i64 {
        let most = format!("SELECT max(rows) FROM (SELECT count(*) AS rows FROM {table} GROUP BY account) AS counts");
        one(&mut self.database.connect(), &most, &[])
    }
}

fn seconds(default: f64) -> Duration {
    let set = std::env::var("METERING_SECONDS").ok();
    Duration::from_secs_f64(set.map_or(default, |text| text.parse().expect("METERING_SECONDS is a number")))
}

#[test]
fn no_snapshot_shows_more_rows_than_are_allowed_where_limits_by_hand_are_overrun() {
    let database = Database::new();
    let load = Load::new(&database, seconds(8.0));
    load.run();
    load.assert_held();
    for table in ["by_trigger", "by_policy"] {
        let most = load.by_hand(table);
        eprintln!("{table}: {most} rows where {MOST} are allowed");
        assert!(most > MOST, "{table} is overrun: {most}");
    }
}

#[test]
fn limits_hold_while_their_owner_changes_the_tables() {
    let database = Database::new();
    let load = Load { with_owner: true, ..Load::new(&database, seconds(8.0)) };
    load.run();
    load.assert_held();
}

#[test]
fn counters_are_the_number_of_rows_after_crashes() {
    let cluster = Cluster::new("rows");
    let database = Database::on(cluster.addresses().0);
    let duration = seconds(8.0);
    let load = Load::new(&database, Duration::from_secs(600));
    thread::scope(|scope| {
        let running = scope.spawn(|| load.run());
        let end = Instant::now() + duration;
        let mut crashes = 0;
        // A busy machine takes longer until enough was seen.
        while crashes < 2 || Instant::now() < end || (crashes < 20 && !load.has_shown_enough()) {
            thread::sleep(Duration::from_millis(2500));
            cluster.script("crash");
            cluster.script("start");
            crashes += 1;
        }
        load.over.store(true, Ordering::Relaxed);
        running.join().expect("no client fails");
    });
    load.assert_held();
}
