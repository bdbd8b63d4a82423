//! Clients of `bench/run meter` that pgbench cannot be: they stop when the units are used up, or talk to Redis as well.
//!
//!   entitlements-bench SUBJECT CLIENTS SECONDS ACCOUNT [DEATH]
//!
//! Each client is a thread with connections of its own. It warms up, waits for the others, and then takes units one at a
//! time for so many seconds, 0 = until it is denied one. PostgreSQL is named by PGHOST (a directory with a socket), PGPORT,
//! PGUSER and PGDATABASE, Redis by the path of its socket, REDIS_SOCKET.
//!
//! The client that takes the unit with the number DEATH kills them all, after the unit and before the row it pays for.
//!
//! Prints three numbers: how many units were acknowledged, warming up included; how many after that; in how many seconds.
//! Only answers count, not attempts. A client whose server goes away stops, and the status is 1 in the end.

use futures_util::future::try_join4;
use postgres::types::ToSql;
use postgres::{Client, NoTls, Statement};
use std::env;
use std::error::Error;
use std::process::{self, Command, ExitCode};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

type Attempt = Result<bool, Box<dyn Error + Send + Sync>>;

/// What a client does again and again.
trait Subject: Send {
    /// Takes one unit; false = none is left.
    fn take(&mut self) -> Attempt;

    /// Makes connection and server ready, so that what is measured begins warm. Gives how many units were taken for it.
    fn warm_up(&mut self) -> Result<u64, Box<dyn Error + Send + Sync>>;
}

const WARM_UP: u64 = 5;

/// How many units are left until death; 0 = they live on.
static UNITS_TO_LIVE: AtomicU64 = AtomicU64::new(0);

/// Stands between taking a unit and storing the row it pays for.
fn between_unit_and_row() -> Result<(), Box<dyn Error + Send + Sync>> {
    let left = UNITS_TO_LIVE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    if left == Ok(1) {
        // A signal that no program can answer.
        Command::new("kill").args(["-KILL", &process::id().to_string()]).status()?;
    }
    Ok(())
}

/// Units alone, from a pool that has an end; warmed up at another one.
struct Units {
    client: Client,
    statement: Statement,
    account: String,
    elsewhere: &'static str,
}

impl Units {
    fn by(sql: &str, account: &str, elsewhere: &'static str) -> Result<Self, Box<dyn Error>> {
        let mut client = connect()?;
        let statement = client.prepare(sql)?;
        Ok(Self { client, statement, account: account.to_owned(), elsewhere })
    }
}

impl Subject for Units {
    fn take(&mut self) -> Attempt {
        Ok(self.client.query_opt(&self.statement, &[&self.account])?.is_some())
    }

    fn warm_up(&mut self) -> Result<u64, Box<dyn Error + Send + Sync>> {
        for _ in 0..WARM_UP {
            self.client.query_opt(&self.statement, &[&self.elsewhere])?;
        }
        Ok(0)
    }
}

/// A unit and the row it pays for, by one statement.
struct JobInStatement {
    client: Client,
    statement: Statement,
    account: String,
}

impl Subject for JobInStatement {
    fn take(&mut self) -> Attempt {
        Ok(self.client.execute(&self.statement, &[&self.account])? == 1)
    }

    fn warm_up(&mut self) -> Result<u64, Box<dyn Error + Send + Sync>> {
        repeated(self)
    }
}

/// A unit and the row it pays for, by two statements between BEGIN and COMMIT.
struct JobInTransaction {
    client: Client,
    consume: Statement,
    insert: Statement,
    account: String,
}

impl Subject for JobInTransaction {
    fn take(&mut self) -> Attempt {
        let mut transaction = self.client.transaction()?;
        let allowed: bool = transaction.query_one(&self.consume, &[&self.account])?.get(0);
        if allowed {
            between_unit_and_row()?;
            transaction.execute(&self.insert, &[&self.account])?;
        }
        transaction.commit()?;
        Ok(allowed)
    }

    fn warm_up(&mut self) -> Result<u64, Box<dyn Error + Send + Sync>> {
        repeated(self)
    }
}

/// The same two statements between BEGIN and COMMIT, sent together: what denies the unit undoes the rest.
struct JobInPipeline {
    runtime: Runtime,
    client: tokio_postgres::Client,
    consume: Statement,
    insert: Statement,
    account: String,
}

impl JobInPipeline {
    fn new(account: &str) -> Result<Self, Box<dyn Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let config = config()?;
        let (client, consume, insert) = runtime.block_on(async {
            let (client, connection) = config.connect(NoTls).await?;
            tokio::spawn(connection);
            let consume = client.prepare("SELECT entitlements.consume($1::text, 'calls')").await?;
            let insert = client.prepare(INSERT).await?;
            Ok::<_, tokio_postgres::Error>((client, consume, insert))
        })?;
        Ok(Self { runtime, client, consume, insert, account: account.to_owned() })
    }
}

impl Subject for JobInPipeline {
    fn take(&mut self) -> Attempt {
        let (client, account) = (&self.client, &self.account);
        let parameters: [&(dyn ToSql + Sync); 1] = [account];
        let all = async {
            try_join4(
                client.batch_execute("BEGIN"),
                client.execute(&self.consume, &parameters),
                client.execute(&self.insert, &parameters),
                client.batch_execute("COMMIT"),
            )
            .await
        };
        self.runtime.block_on(all)?;
        Ok(true)
    }

    fn warm_up(&mut self) -> Result<u64, Box<dyn Error + Send + Sync>> {
        repeated(self)
    }
}

/// A unit from Redis, then the row it pays for in PostgreSQL.
struct JobWithRedis {
    redis: redis::Connection,
    script: redis::Script,
    client: Client,
    insert: Statement,
    account: String,
}

/// Check and increment in one step; 1 = taken.
const CHECK_AND_INCREMENT: &str = "
    if tonumber(redis.call('GET', KEYS[1]) or '0') + 1 > tonumber(ARGV[1]) then return 0 end
    redis.call('INCR', KEYS[1])
    return 1";

/// The allowance, for Redis to compare with; nobody reaches it here.
const ALLOWANCE: u64 = 1_000_000_000_000;

impl Subject for JobWithRedis {
    fn take(&mut self) -> Attempt {
        let taken: u8 = self.script.key(&self.account).arg(ALLOWANCE).invoke(&mut self.redis)?;
        if taken == 1 {
            between_unit_and_row()?;
            self.client.execute(&self.insert, &[&self.account])?;
        }
        Ok(taken == 1)
    }

    fn warm_up(&mut self) -> Result<u64, Box<dyn Error + Send + Sync>> {
        repeated(self)
    }
}

fn repeated(subject: &mut dyn Subject) -> Result<u64, Box<dyn Error + Send + Sync>> {
    let mut taken = 0;
    for _ in 0..WARM_UP {
        taken += u64::from(subject.take()?);
    }
    Ok(taken)
}

fn config() -> Result<tokio_postgres::Config, Box<dyn Error>> {
    let mut config = tokio_postgres::Config::new();
    config.host(&env::var("PGHOST")?).port(env::var("PGPORT")?.parse()?);
    config.user(&env::var("PGUSER")?).dbname(&env::var("PGDATABASE")?);
    Ok(config)
}

fn connect() -> Result<Client, Box<dyn Error>> {
    Ok(postgres::Config::from(config()?).connect(NoTls)?)
}

const INSERT: &str = "INSERT INTO bench.rows (account) VALUES ($1)";

fn subject(name: &str, account: &str) -> Result<Box<dyn Subject>, Box<dyn Error>> {
    Ok(match name {
        "limit-update" => Box::new(Units::by(
            "UPDATE bench.plain SET used = used + 1 WHERE id = $1::text::bigint AND used + 1 <= cap RETURNING used",
            account,
            "1",
        )?),
        "limit-consume" => Box::new(Units::by(
            "SELECT 1 FROM (SELECT (entitlements.try_consume($1::text, 'calls')).allowed OFFSET 0) d WHERE allowed",
            account,
            "1",
        )?),
        "job-statement" => {
            let mut client = connect()?;
            let statement = client.prepare(
                "INSERT INTO bench.rows (account) SELECT $1::text WHERE (entitlements.try_consume($1::text, 'calls')).allowed",
            )?;
            Box::new(JobInStatement { client, statement, account: account.to_owned() })
        }
        "job-transaction" => {
            let mut client = connect()?;
            let consume = client.prepare("SELECT (entitlements.try_consume($1::text, 'calls')).allowed")?;
            let insert = client.prepare(INSERT)?;
            Box::new(JobInTransaction { client, consume, insert, account: account.to_owned() })
        }
        "job-pipeline" => Box::new(JobInPipeline::new(account)?),
        "job-redis" => {
            let mut client = connect()?;
            let insert = client.prepare(INSERT)?;
            let redis = redis::Client::open(format!("redis+unix://{}", env::var("REDIS_SOCKET")?))?.get_connection()?;
            let script = redis::Script::new(CHECK_AND_INCREMENT);
            Box::new(JobWithRedis { redis, script, client, insert, account: account.to_owned() })
        }
        _ => return Err(format!("there is no subject {name}").into()),
    })
}

/// What one client has done.
struct Outcome {
    acknowledged: u64,
    measured: u64,
    fault: Option<Box<dyn Error + Send + Sync>>,
}

fn work(subject: &mut dyn Subject, start: &Barrier, seconds: u64) -> Outcome {
    let mut outcome = match subject.warm_up() {
        Ok(acknowledged) => Outcome { acknowledged, measured: 0, fault: None },
        Err(fault) => Outcome { acknowledged: 0, measured: 0, fault: Some(fault) },
    };
    start.wait();
    let end = (seconds > 0).then(|| Instant::now() + Duration::from_secs(seconds));
    while outcome.fault.is_none() && end.is_none_or(|end| Instant::now() < end) {
        match subject.take() {
            Ok(true) => outcome.measured += 1,
            Ok(false) => break,
            Err(fault) => outcome.fault = Some(fault),
        }
    }
    outcome.acknowledged += outcome.measured;
    outcome
}

fn run() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [name, clients, seconds, account, death @ ..] = &arguments[..] else {
        return Err("usage: entitlements-bench SUBJECT CLIENTS SECONDS ACCOUNT [DEATH]".into());
    };
    if let Some(death) = death.first() {
        UNITS_TO_LIVE.store(death.parse()?, Ordering::Relaxed);
    }
    let (clients, seconds): (usize, u64) = (clients.parse()?, seconds.parse()?);
    let mut subjects = (0..clients).map(|_| subject(name, account)).collect::<Result<Vec<_>, _>>()?;

    let start = Barrier::new(clients + 1);
    let (outcomes, elapsed) = thread::scope(|scope| {
        let workers: Vec<_> =
            subjects.iter_mut().map(|subject| scope.spawn(|| work(subject.as_mut(), &start, seconds))).collect();
        start.wait();
        let began = Instant::now();
        let outcomes: Vec<_> = workers.into_iter().map(|worker| worker.join().expect("a client does not panic")).collect();
        (outcomes, began.elapsed())
    });

    let acknowledged: u64 = outcomes.iter().map(|outcome| outcome.acknowledged).sum();
    let measured: u64 = outcomes.iter().map(|outcome| outcome.measured).sum();
    println!("{acknowledged} {measured} {:.6}", elapsed.as_secs_f64());
    let faults: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.fault.as_ref()).collect();
    if let Some(fault) = faults.first() {
        eprintln!("{} clients stopped, the first of them because: {fault}", faults.len());
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("entitlements-bench: {error}");
        ExitCode::from(2)
    })
}
