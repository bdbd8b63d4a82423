//! tokio-postgres: a transaction for one account, denials by SQLSTATE.
//!
//! Where the server is comes from the environment (PGHOST, PGPORT, PGUSER, PGDATABASE).

use std::env;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use entitlements_recipes::Checks;
use serde::Deserialize;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, Error, NoTls, Transaction};

// recipe: account
/// A transaction for the account: it ends with the transaction, whatever ends that. Dropped, it is rolled back.
/// `query_typed` prepares no statement by name, which a pooler in transaction mode may not know.
async fn acting_for<'a>(client: &'a mut Client, account: Option<&str>) -> Result<Transaction<'a>, Error> {
    let transaction = client.transaction().await?;
    transaction.query_typed("SELECT entitlements.set_account($1)", &[(&account, Type::TEXT)]).await?;
    Ok(transaction)
}
// end

// recipe: refusal
#[derive(Deserialize)]
struct Detail {
    reason: String,
    resets_at: Option<DateTime<Utc>>,
}

/// The HTTP status and the seconds of Retry-After that say what the database said; any other error is handed back.
fn answer(error: Error) -> Result<(u16, Option<i64>), Error> {
    let status = match error.code().map(|code| code.code()) {
        Some("NE001") => 403,
        Some("NE002") => 402,
        Some("NE012") => 401,
        _ => return Err(error),
    };
    let detail = error.as_db_error().and_then(|raised| serde_json::from_str::<Detail>(raised.detail()?).ok());
    match detail {
        Some(Detail { reason, resets_at }) if reason == "rate_limited" => {
            let wait = resets_at.map(|at| ((at - Utc::now()).num_milliseconds() as f64 / 1000.0).ceil() as i64);
            Ok((429, wait.map(|seconds| seconds.max(1))))
        }
        _ => Ok((status, None)),
    }
}
// end

async fn reports(client: &mut Client, account: Option<&str>) -> Result<Vec<String>, Error> {
    let transaction = acting_for(client, account).await?;
    let rows = transaction.query_typed("SELECT title FROM reports ORDER BY id", &[]).await?;
    Ok(rows.iter().map(|row| row.get("title")).collect())
}

// recipe: work
/// Writes the row and takes the unit, once for a request however often it comes. Returns how many are left.
async fn export(client: &mut Client, account: &str, file: &str, request: &str) -> Result<f64, Error> {
    let transaction = acting_for(client, Some(account)).await?;
    let insert = "INSERT INTO exports (file, request) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    transaction.query_typed(insert, &[(&file, Type::TEXT), (&request, Type::TEXT)]).await?;
    let consume = "SELECT remaining::float8 FROM entitlements.consume(entitlements.current_account(), 'exports', 1, $1)";
    let decision = transaction.query_typed(consume, &[(&request, Type::TEXT)]).await?;
    transaction.commit().await?;
    Ok(decision[0].get("remaining"))
}
// end

async fn search(client: &mut Client, account: &str) -> Result<(), Error> {
    let transaction = acting_for(client, Some(account)).await?;
    transaction.batch_execute("SELECT FROM entitlements.consume('searches')").await?;
    transaction.commit().await
}

/// How many exports there are, and how many units are used.
async fn state(client: &mut Client, account: &str) -> Result<(i64, i64), Error> {
    let transaction = acting_for(client, Some(account)).await?;
    let query = "SELECT (SELECT count(*) FROM exports), used::bigint FROM entitlements.check_access('exports')";
    let rows = transaction.query_typed(query, &[]).await?;
    Ok((rows[0].get(0), rows[0].get(1)))
}

async fn connect() -> Result<Client, Error> {
    let setting = |name: &str| env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let port = setting("PGPORT").parse().expect("PGPORT is a number");
    let (client, connection) = Config::new()
        .host(setting("PGHOST"))
        .port(port)
        .user(setting("PGUSER"))
        .dbname(setting("PGDATABASE"))
        .connect(NoTls)
        .await?;
    tokio::spawn(connection);
    Ok(client)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Error> {
    let client = &mut connect().await?;
    let mut checks = Checks::default();

    checks.check("an account sees its own rows and no others", reports(client, Some("acme")).await? == ["July", "August"]);
    checks.check("an account without the feature sees no rows", reports(client, Some("hobby")).await?.is_empty());
    checks.check("without an account there are no rows", reports(client, None).await?.is_empty());

    let left = export(client, "acme", "a.csv", "r1").await?;
    checks
        .check("a row and the unit it takes are committed together", left == 2.0 && state(client, "acme").await? == (1, 1));

    let transaction = acting_for(client, Some("acme")).await?;
    transaction.batch_execute("INSERT INTO exports (file, request) VALUES ('b.csv', 'r2')").await?;
    transaction.batch_execute("SELECT FROM entitlements.consume('exports')").await?;
    drop(transaction);
    checks.check("a rollback gives the unit back", state(client, "acme").await? == (1, 1));

    let mut transaction = acting_for(client, Some("acme")).await?;
    let savepoint = transaction.savepoint("attempt").await?;
    savepoint.batch_execute("SELECT FROM entitlements.consume('exports')").await?;
    savepoint.rollback().await?;
    transaction.commit().await?;
    checks.check("a rollback to a savepoint gives its unit back", state(client, "acme").await? == (1, 1));

    let again = export(client, "acme", "a.csv", "r1").await?;
    checks.check("the same request again takes nothing", again == 2.0 && state(client, "acme").await? == (1, 1));

    export(client, "acme", "b.csv", "r2").await?;
    export(client, "acme", "c.csv", "r3").await?;
    let denied = export(client, "acme", "d.csv", "r4").await.map_err(answer);
    checks.check(
        "used up: 402, and the row is not there",
        matches!(denied, Err(Ok((402, None)))) && state(client, "acme").await? == (3, 3),
    );
    let denied = export(client, "hobby", "a.csv", "r1").await.map_err(answer);
    checks.check("not entitled: 403", matches!(denied, Err(Ok((403, None)))));
    search(client, "globex").await?;
    let denied = search(client, "globex").await.map_err(answer);
    checks.check("too fast: 429 with Retry-After", matches!(denied, Err(Ok((429, Some(1..=60))))));

    let rows = client.query_typed("SELECT entitlements.current_account()", &[]).await?;
    let left: Option<String> = rows[0].get(0);
    checks.check("the next transaction of the connection has no account", left.is_none());
    let other = client.batch_execute("SELECT 1 / 0").await.map_err(answer);
    checks.check("other errors are no denials", matches!(other, Err(Err(_))));
    Ok(checks.status())
}
