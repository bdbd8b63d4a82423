//! A database with a catalog that has a feature for each rule, and accounts with the allowances that a test wants.

use entitlements_client_tests::{Database, one};
use postgres::Client;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Every account has ten of each metered feature, but `ai`, of which it has a hundred.
const CATALOG: &str = r#"{
    "features": {
        "calls": {"kind": "quota"},
        "mails": {"kind": "quota"},
        "capped": {"kind": "quota", "overage": "cap"},
        "open": {"kind": "quota", "overage": "allow"},
        "roof": {"kind": "quota", "overage": "allow", "ceiling": 1.5},
        "lent": {"kind": "quota", "overage": "allow", "overdraft": 2.5},
        "watched": {"kind": "quota", "thresholds": [0.5, 0.8, 1]},
        "watched_open": {"kind": "quota", "overage": "allow", "thresholds": [0.5, 1, 2]},
        "short": {"kind": "quota", "period": "1 second"},
        "reports": {"kind": "quota", "period": "1 month"},
        "seats": {"kind": "allocation"},
        "ai": {"kind": "quota"},
        "images": {"kind": "quota", "draws_on": {"feature": "ai", "cost": 10}},
        "texts": {"kind": "quota", "draws_on": {"feature": "ai", "cost": 0.5}},
        "sso": {"kind": "flag"},
        "region": {"kind": "config"}
    },
    "plans": {
        "team": {"kind": "base", "features": {
            "calls": 10, "mails": 10, "capped": 10, "open": 10, "roof": 10, "lent": 10, "watched": 10, "watched_open": 10, "short": 10,
            "seats": 10, "ai": 100, "images": 10, "texts": 10, "sso": true, "region": "eu"
        }},
        "wide": {"kind": "base", "extends": "team", "features": {"watched": 40, "short": 25}},
        "monthly": {"kind": "addon", "features": {"reports": 10}},
        "big": {"kind": "base", "features": {"calls": 1000}}
    }
}"#;

pub struct Stage {
    pub database: Database,
}

impl Stage {
    /// With the account `acme`, which has the plan `team`.
    pub fn new() -> Self {
        Self::in_database(Database::new())
    }

    pub fn in_database(database: Database) -> Self {
        let stage = Self { database };
        let mut client = stage.connect();
        client.query("SELECT entitlements.apply_catalog($1::text)", &[&CATALOG]).expect("the catalog applies");
        ask(&mut client, "subscribe('acme', 'team')");
        stage
    }

    pub fn connect(&self) -> Client {
        self.database.connect()
    }

    pub fn two(&self) -> (Client, Client) {
        (self.connect(), self.connect())
    }

    /// Runs statements on a connection of their own, and says so once they wait for a lock.
    pub fn blocked(&self, statements: &str) -> Started {
        let started = self.start(statements);
        let mut watcher = self.connect();
        assert!(started.waits(&mut watcher), "{statements}: waits");
        started
    }

    /// Runs statements on a connection of their own.
    pub fn start(&self, statements: &str) -> Started {
        let mut client = self.connect();
        let process = one(&mut client, "SELECT pg_backend_pid()", &[]);
        let statements = statements.to_owned();
        let thread = thread::spawn(move || {
            let result = client.simple_query(&statements).map(|messages| last_value(&messages));
            (client, result.map_err(|error| error.as_db_error().expect("the server answers").code().code().to_owned()))
        });
        Started { process, thread }
    }

    /// Spreads the pool of one of acme's features over slots, as several consumers at once do, and leaves nothing used. It stays
    /// spread: to the extension it looks as if others had just used it, for an hour.
    pub fn spread(&self, account: &str, feature: &str) {
        let mut first = self.connect();
        // The counter has to be there: who makes it is waited for.
        ask(&mut first, &format!("consume('{account}', '{feature}', 1)"));
        ask(&mut first, &format!("release('{account}', '{feature}', 1)"));
        run(&mut first, "BEGIN");
        ask(&mut first, &format!("consume('{account}', '{feature}', 1)"));
        let others = [(); 3].map(|()| self.blocked(&format!("SELECT entitlements.consume('{account}', '{feature}', 1)")));
        run(&mut first, "COMMIT");
        for other in others {
            other.end().1.expect("there is enough for all");
        }
        ask(&mut first, &format!("release('{account}', '{feature}', 4)"));
        run(&mut first, "UPDATE entitlements.counter_slots SET touched_at = now() + interval '1 hour'");
        assert!(slots(&mut first, account, feature) > 1, "{feature} is spread");
    }
}

/// Statements on their way.
pub struct Started {
    pub process: i32,
    thread: JoinHandle<(Client, Result<String, String>)>,
}

impl Started {
    /// True once they wait for a lock; false when they are done without.
    pub fn waits(&self, watcher: &mut Client) -> bool {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.thread.is_finished() {
            let waits: bool = one(watcher, "SELECT cardinality(pg_blocking_pids($1)) > 0", &[&self.process]);
            if waits {
                return true;
            }
            assert!(Instant::now() < end, "neither done nor waiting");
            thread::sleep(Duration::from_millis(2));
        }
        false
    }

    /// The connection, and the first value of the last row or the SQLSTATE.
    pub fn end(self) -> (Client, Result<String, String>) {
        self.thread.join().expect("the connection works")
    }
}

fn last_value(messages: &[postgres::SimpleQueryMessage]) -> String {
    let rows = messages.iter().filter_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    });
    rows.last().unwrap_or_default()
}

/// Calls a function of the extension.
pub fn ask(client: &mut Client, call: &str) -> String {
    one(client, &format!("SELECT (entitlements.{call})::text"), &[])
}

pub fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// What a decision says: the reason, what was consumed and how much is used, of how much, and what is left; overage if any.
pub fn say(client: &mut Client, call: &str) -> String {
    let sql = format!(
        "SELECT concat_ws(' ', d.reason, trim_scale(d.consumed), 'used', trim_scale(d.used), 'of', coalesce(trim_scale(d.allowance)::text, 'any'),
                          'left', coalesce(trim_scale(d.remaining)::text, 'any'), 'over ' || trim_scale(nullif(d.overage, 0)),
                          CASE WHEN d.allowed <> (d.reason = 'granted') THEN 'but allowed is ' || d.allowed END)
           FROM entitlements.{call} AS d"
    );
    one(client, &sql, &[])
}

/// The SQLSTATE that a call is refused with.
pub fn refuse(client: &mut Client, sqlstate: &str, call: &str) -> postgres::error::DbError {
    entitlements_client_tests::refused_with(client, sqlstate, &format!("SELECT entitlements.{call}"), &[])
}

/// Usage as stored, in all windows.
pub fn used(client: &mut Client, account: &str, feature: &str) -> String {
    one(
        client,
        "SELECT trim_scale(coalesce(sum(c.used + coalesce((SELECT sum(s.used) FROM entitlements.counter_slots s WHERE s.counter_id = c.id), 0)), 0))::text
           FROM entitlements.counters c WHERE c.account_id = (SELECT id FROM entitlements.accounts WHERE key = $1)
            AND c.feature_id = (SELECT id FROM entitlements.features WHERE key = $2)",
        &[&account, &feature],
    )
}

/// How many slots the plan's pool is spread over.
pub fn slots(client: &mut Client, account: &str, feature: &str) -> i64 {
    one(
        client,
        "SELECT count(*) FROM entitlements.counters c JOIN entitlements.counter_slots s ON s.counter_id = c.id
          WHERE c.account_id = (SELECT id FROM entitlements.accounts WHERE key = $1)
            AND c.feature_id = (SELECT id FROM entitlements.features WHERE key = $2)",
        &[&account, &feature],
    )
}

/// Sets what the account is allowed.
pub fn allow(client: &mut Client, account: &str, feature: &str, allowance: &str) {
    ask(client, &format!("set_override('{account}', '{feature}', 'set', '{allowance}', 'test')"));
}

/// What must hold of counters and slots whatever happened; where no limit was lowered also that shares stay within the limit.
pub fn assert_sound(client: &mut Client, limits_never_fell: bool) {
    let faults: Option<String> = one(
        client,
        "WITH counted AS (
            SELECT c.id, c.slots, c.used, c.allocated, count(s.slot) AS rows, coalesce(sum(s.share), 0) AS shares,
                   coalesce(sum(s.used), 0) AS used_in_slots,
                   CASE WHEN c.credit_id <> 0 THEN (SELECT amount FROM entitlements.credits WHERE id = c.credit_id)
                        WHEN f.overage = 'allow' THEN
                            coalesce(f.ceiling * entitlements.allowance(a.key, f.key), f.overdraft + entitlements.allowance(a.key, f.key), 'Infinity')
                        ELSE coalesce(entitlements.allowance(a.key, f.key), 'Infinity') END AS most
              FROM entitlements.counters c
              JOIN entitlements.accounts a ON a.id = c.account_id
              JOIN entitlements.features f ON f.id = c.feature_id
              LEFT JOIN entitlements.counter_slots s ON s.counter_id = c.id
             GROUP BY c.id, a.key, f.id)
         SELECT string_agg(counted::text, ' ') FROM counted
          WHERE slots <> rows OR allocated <> shares OR $1 AND (used + allocated > most OR used + used_in_slots > most)",
        &[&limits_never_fell],
    );
    assert_eq!(faults, None);
}
