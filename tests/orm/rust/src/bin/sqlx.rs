//! sqlx: a transaction for one account, denials as an error type with an HTTP status.
//!
//! Where the server is comes from the environment (PGHOST, PGDATABASE …).

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use entitlements_recipes::Checks;
use serde::Deserialize;
use sqlx::postgres::{PgConnectOptions, PgDatabaseError, PgPool, PgPoolOptions};
use sqlx::{Connection, Postgres, Transaction};

/// So that the checks meet a connection that was used before; an application has more.
const POOL_SIZE: u32 = 1;

// recipe: pool
/// Without a cache of statements sqlx prepares none by name, which a pooler in transaction mode may not know.
async fn connect() -> sqlx::Result<PgPool> {
    PgPoolOptions::new().max_connections(POOL_SIZE).connect_with(PgConnectOptions::new().statement_cache_capacity(0)).await
}
// end

// recipe: account
/// A transaction for the account: it ends with the transaction, whatever ends that. Dropped, it is rolled back.
async fn acting_for(pool: &PgPool, account: Option<&str>) -> sqlx::Result<Transaction<'static, Postgres>> {
    let mut transaction = pool.begin().await?;
    sqlx::query("SELECT entitlements.set_account($1::text)").bind(account).execute(&mut *transaction).await?;
    Ok(transaction)
}
// end

// recipe: denied
#[derive(Debug, Deserialize)]
struct Detail {
    reason: String,
    resets_at: Option<DateTime<Utc>>,
}

#[derive(Debug)]
enum Error {
    Denied { status: u16, retry_after: Option<i64>, detail: Detail },
    Other(sqlx::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let raised = error.as_database_error().and_then(|raised| raised.try_downcast_ref::<PgDatabaseError>());
        let (status, raised) = match raised.map(|raised| (raised.code(), raised)) {
            Some(("NE001", raised)) => (403, raised),
            Some(("NE002", raised)) => (402, raised),
            Some(("NE012", raised)) => (401, raised),
            _ => return Self::Other(error),
        };
        match raised.detail().and_then(|detail| serde_json::from_str::<Detail>(detail).ok()) {
            Some(detail) if detail.reason == "rate_limited" => {
                let wait = detail.resets_at.map(|at| ((at - Utc::now()).num_milliseconds() as f64 / 1000.0).ceil() as i64);
                Self::Denied { status: 429, retry_after: wait.map(|seconds| seconds.max(1)), detail }
            }
            Some(detail) => Self::Denied { status, retry_after: None, detail },
            None => Self::Other(error),
        }
    }
}
// end

async fn reports(pool: &PgPool, account: Option<&str>) -> Result<Vec<String>, Error> {
    let mut transaction = acting_for(pool, account).await?;
    Ok(sqlx::query_scalar("SELECT title FROM reports ORDER BY id").fetch_all(&mut *transaction).await?)
}

// recipe: work
/// Writes the row and takes the unit, once for a request however often it comes. Returns how many are left.
async fn export(pool: &PgPool, account: &str, file: &str, request: &str) -> Result<f64, Error> {
    let mut transaction = acting_for(pool, Some(account)).await?;
    sqlx::query("INSERT INTO exports (file, request) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(file)
        .bind(request)
        .execute(&mut *transaction)
        .await?;
    let consume = "SELECT remaining::float8 FROM entitlements.consume(entitlements.current_account(), 'exports', 1, $1)";
    let remaining = sqlx::query_scalar(consume).bind(request).fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(remaining)
}
// end

async fn search(pool: &PgPool, account: &str) -> Result<(), Error> {
    let mut transaction = acting_for(pool, Some(account)).await?;
    sqlx::query("SELECT FROM entitlements.consume('searches')").execute(&mut *transaction).await?;
    Ok(transaction.commit().await?)
}

/// How many exports there are, and how many units are used.
async fn state(pool: &PgPool, account: &str) -> Result<(i64, i64), Error> {
    let mut transaction = acting_for(pool, Some(account)).await?;
    let query = "SELECT (SELECT count(*) FROM exports), used::bigint FROM entitlements.check_access('exports')";
    Ok(sqlx::query_as(query).fetch_one(&mut *transaction).await?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Error> {
    let pool = &connect().await?;
    let mut checks = Checks::default();

    checks.check("an account sees its own rows and no others", reports(pool, Some("acme")).await? == ["July", "August"]);
    checks.check("an account without the feature sees no rows", reports(pool, Some("hobby")).await?.is_empty());
    checks.check("without an account there are no rows", reports(pool, None).await?.is_empty());

    let left = export(pool, "acme", "a.csv", "r1").await?;
    checks.check("a row and the unit it takes are committed together", left == 2.0 && state(pool, "acme").await? == (1, 1));

    let mut transaction = acting_for(pool, Some("acme")).await?;
    sqlx::query("INSERT INTO exports (file, request) VALUES ('b.csv', 'r2')").execute(&mut *transaction).await?;
    sqlx::query("SELECT FROM entitlements.consume('exports')").execute(&mut *transaction).await?;
    drop(transaction);
    checks.check("a rollback gives the unit back", state(pool, "acme").await? == (1, 1));

    let mut transaction = acting_for(pool, Some("acme")).await?;
    let mut savepoint = transaction.begin().await?;
    sqlx::query("SELECT FROM entitlements.consume('exports')").execute(&mut *savepoint).await?;
    savepoint.rollback().await?;
    transaction.commit().await?;
    checks.check("a rollback to a savepoint gives its unit back", state(pool, "acme").await? == (1, 1));

    let again = export(pool, "acme", "a.csv", "r1").await?;
    checks.check("the same request again takes nothing", again == 2.0 && state(pool, "acme").await? == (1, 1));

    export(pool, "acme", "b.csv", "r2").await?;
    export(pool, "acme", "c.csv", "r3").await?;
    let used_up = export(pool, "acme", "d.csv", "r4").await;
    checks.check(
        "used up: 402, and the row is not there",
        matches!(used_up, Err(Error::Denied { status: 402, retry_after: None, detail }) if detail.reason == "limit_exceeded")
            && state(pool, "acme").await? == (3, 3),
    );
    let denied = export(pool, "hobby", "a.csv", "r1").await;
    checks.check("not entitled: 403", matches!(denied, Err(Error::Denied { status: 403, .. })));
    search(pool, "globex").await?;
    let denied = search(pool, "globex").await;
    checks.check(
        "too fast: 429 with Retry-After",
        matches!(denied, Err(Error::Denied { status: 429, retry_after: Some(1..=60), .. })),
    );

    let mut transaction = pool.begin().await?;
    let left: Option<String> =
        sqlx::query_scalar("SELECT entitlements.current_account()").fetch_one(&mut *transaction).await?;
    checks.check("the next transaction of the connection has no account", left.is_none());
    drop(transaction);
    // Another kind of error stays what it is.
    let mut transaction = pool.begin().await?;
    let other = Error::from(sqlx::query("SELECT 1 / 0").execute(&mut *transaction).await.unwrap_err());
    checks.check("other errors are no denials", matches!(other, Error::Other(sqlx::Error::Database(_))));
    Ok(checks.status())
}
