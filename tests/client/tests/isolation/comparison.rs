//! The join that answers are compared with, and a small database to compare in.

use entitlements_client_tests::Database;
use postgres::error::SqlState;
use postgres::{Client, NoTls, SimpleQueryMessage};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by each test while it runs; a test that failed does not fail the others.
pub fn alone() -> MutexGuard<'static, ()> {
    static SERVER: Mutex<()> = Mutex::new(());
    SERVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an account's own exceptions and suspensions make of a feature, as a scalar subquery: NULL where there are none.
fn exception(account: &str) -> String {
    format!(
        "CASE WHEN EXISTS (
            SELECT FROM entitlements.blocks block
            WHERE block.account_id = {account}.id AND block.ended_at IS NULL
                AND (block.feature_id IS NULL OR block.feature_id = feature.id)
        ) THEN false ELSE (
            SELECT CASE
                WHEN bool_or(exception.mode = 'deny') THEN false
                WHEN bool_or(exception.mode = 'set') THEN (
                    array_agg(coalesce(exception.enabled, exception.amount > 0) ORDER BY exception.id DESC)
                    FILTER (WHERE exception.mode = 'set'))[1]
                WHEN sum(exception.amount) > 0 THEN true
            END
            FROM entitlements.overrides exception
            WHERE exception.account_id = {account}.id AND exception.feature_id = feature.id
                AND exception.ended_at IS NULL AND statement_timestamp() < exception.expires_at
        ) END"
    )
}

/// What an account's own subscriptions give it of a feature, as a scalar subquery: NULL where it does not hold the feature.
fn holding(account: &str) -> String {
    format!(
        "(SELECT CASE
            WHEN bool_or(held.gives) THEN feature.combine NOT IN ('all', 'min') OR bool_and(held.gives)
        END
        FROM (
            SELECT coalesce(listed.enabled, listed.amount > 0) AS gives
            FROM entitlements.subscriptions subscription
            JOIN entitlements.plan_features listed ON listed.feature_id = feature.id AND listed.plan_version_id = coalesce(
                subscription.plan_version_id,
                (SELECT latest.id FROM entitlements.plan_versions latest
                    WHERE latest.plan_id = subscription.plan_id ORDER BY latest.version DESC LIMIT 1))
            WHERE subscription.account_id = {account}.id AND subscription.superseded_at IS NULL
                AND subscription.starts_at <= statement_timestamp()
                AND statement_timestamp()
                    < CASE subscription.status WHEN 'past_due' THEN subscription.grace_until ELSE subscription.ends_at END
        ) held)"
    )
}

/// The schema `test`: names that are asked for, with and without an account behind them; `comparison`, in which `got` is the
/// extension's answer and `want` the join's; and functions that answer and change from within.
///
/// Accounts have at most two generations of ancestors here.
fn definitions() -> String {
    let levels: Vec<String> =
        ["account", "parent", "grandparent"].iter().flat_map(|level| [exception(level), holding(level)]).collect();
    format!(
        "CREATE SCHEMA test;
        CREATE TABLE test.names (name text PRIMARY KEY);
        CREATE TABLE test.scratch (n integer);
        CREATE VIEW test.expected AS
            SELECT names.name AS account, feature.key AS feature, coalesce({}, false) AS want
            FROM test.names CROSS JOIN entitlements.features feature
            LEFT JOIN entitlements.accounts account ON account.key = names.name
            LEFT JOIN entitlements.accounts parent ON parent.id = account.parent_id
            LEFT JOIN entitlements.accounts grandparent ON grandparent.id = parent.parent_id;
        CREATE VIEW test.comparison AS
            SELECT account, feature, entitlements.entitled(account, feature) AS got, want FROM test.expected;
        CREATE FUNCTION test.disagreements() RETURNS bigint LANGUAGE plpgsql VOLATILE
            AS $$ BEGIN RETURN (SELECT count(*) FROM test.comparison WHERE got <> want); END $$;
        {FUNCTIONS}",
        levels.join(", ")
    )
}

const FUNCTIONS: &str = "
    CREATE FUNCTION test.override(name text, feature text, mode text, gives boolean, source text) RETURNS void LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    BEGIN
        UPDATE entitlements.overrides SET ended_at = greatest(starts_at, now())
            WHERE account_id = (SELECT id FROM entitlements.accounts WHERE key = $1)
                AND feature_id = (SELECT id FROM entitlements.features WHERE key = $2)
                AND overrides.source = $5 AND ended_at IS NULL;
        INSERT INTO entitlements.overrides
            (account_id, feature_id, kind, mode, enabled, amount, reason, source, created_by, starts_at)
            SELECT account.id, feature.id, feature.kind, CASE WHEN $3 = 'add' AND feature.kind = 'flag' THEN 'set' ELSE $3 END,
                CASE WHEN feature.kind = 'flag' AND $3 <> 'deny' THEN $4 END,
                CASE WHEN feature.kind <> 'flag' AND $3 <> 'deny' THEN $4::integer * 3 END,
                'test', $5, 'test', now()
            FROM entitlements.accounts account, entitlements.features feature WHERE account.key = $1 AND feature.key = $2;
    END $$;
    CREATE FUNCTION test.clear(name text, feature text) RETURNS void LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    BEGIN
        UPDATE entitlements.overrides SET ended_at = greatest(starts_at, now())
            WHERE account_id = (SELECT id FROM entitlements.accounts WHERE key = $1)
                AND feature_id = (SELECT id FROM entitlements.features WHERE key = $2) AND ended_at IS NULL;
    END $$;
    CREATE FUNCTION test.block(name text, feature text, source text) RETURNS void LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    BEGIN
        INSERT INTO entitlements.blocks (account_id, feature_id, source, reason, created_by, starts_at)
            SELECT id, (SELECT id FROM entitlements.features WHERE key = $2), $3, 'test', 'test', now()
            FROM entitlements.accounts WHERE key = $1;
    END $$;
    CREATE FUNCTION test.unblock(name text) RETURNS void LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    BEGIN
        UPDATE entitlements.blocks SET ended_at = greatest(starts_at, now())
            WHERE account_id = (SELECT id FROM entitlements.accounts WHERE key = $1) AND ended_at IS NULL;
    END $$;
    CREATE FUNCTION test.subscribe(name text, plan text, follow boolean, status text, until timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    BEGIN
        INSERT INTO entitlements.subscriptions (id, account_id, plan_id, plan_version_id, status, quantity, starts_at, ends_at,
                term_starts_at, grace_until, source, recorded_at, recorded_by)
            SELECT nextval('entitlements.subscription_ids'), account.id, plan.id,
                CASE WHEN NOT $3 THEN
                    (SELECT id FROM entitlements.plan_versions WHERE plan_id = plan.id ORDER BY version DESC LIMIT 1) END,
                $4, 2, '2020-01-01', CASE WHEN $4 = 'past_due' THEN '2021-01-01' ELSE $5 END,
                '2020-01-01', CASE WHEN $4 = 'past_due' THEN $5 END, 'test', now(), 'test'
            FROM entitlements.accounts account, entitlements.plans plan WHERE account.key = $1 AND plan.key = $2;
    END $$;
    CREATE FUNCTION test.unsubscribe(name text) RETURNS void LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    BEGIN
        UPDATE entitlements.subscriptions SET superseded_at = greatest(recorded_at, now())
            WHERE account_id = (SELECT id FROM entitlements.accounts WHERE key = $1) AND superseded_at IS NULL;
    END $$;
    CREATE FUNCTION test.publish(plan text, flag_a boolean, flag_b boolean, seats numeric) RETURNS void LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    BEGIN
        WITH published AS (
            INSERT INTO entitlements.plan_versions (plan_id, version, kind, rank, definition, published_at, published_by)
                SELECT id, 1 + (SELECT coalesce(max(version), 0) FROM entitlements.plan_versions WHERE plan_id = plans.id),
                    kind, 0, '{}', now(), 'test' FROM entitlements.plans WHERE key = $1
                RETURNING id)
        INSERT INTO entitlements.plan_features (plan_version_id, feature_id, kind, enabled, amount, per_unit)
            SELECT published.id, feature.id, feature.kind, CASE feature.key WHEN 'flag_a' THEN $2 WHEN 'flag_b' THEN $3 END,
                CASE feature.key WHEN 'seats' THEN $4 END, feature.key = 'seats'
            FROM published, entitlements.features feature
            WHERE CASE feature.key WHEN 'flag_a' THEN $2 IS NOT NULL WHEN 'flag_b' THEN $3 IS NOT NULL ELSE $4 IS NOT NULL END;
    END $$;
    CREATE FUNCTION test.adopt(name text, parent text) RETURNS void LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    BEGIN
        UPDATE entitlements.accounts SET parent_id = (SELECT id FROM entitlements.accounts WHERE key = $2) WHERE key = $1;
    END $$;

    -- Asks from PL/pgSQL expressions, whose call sites outlive one evaluation, with the snapshot of the calling query.
    CREATE FUNCTION test.stable_answer(name text, wanted text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
    DECLARE asked text; answer boolean; result boolean;
    BEGIN
        FOREACH asked IN ARRAY ARRAY['flag_a', wanted, 'seats', 'flag_b'] LOOP
            answer := entitlements.entitled(name, asked);
            IF asked = wanted THEN result := answer; END IF;
        END LOOP;
        RETURN result;
    END $$;

    -- The same with snapshots of its own; counts the disagreements.
    CREATE FUNCTION test.volatile_answers() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
    DECLARE asked record; answer boolean; wrong bigint := 0;
    BEGIN
        FOR asked IN SELECT account, feature, want FROM test.expected LOOP
            answer := entitlements.entitled(asked.account, asked.feature);
            IF answer <> asked.want THEN wrong := wrong + 1; END IF;
        END LOOP;
        RETURN wrong + test.disagreements();
    END $$;

    -- Changes an override in the middle of the calling statement; counts the disagreements around it.
    CREATE FUNCTION test.flip(name text, feature text) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
    DECLARE wrong bigint := test.disagreements();
    BEGIN
        PERFORM test.override(name, feature, 'set', NOT entitlements.entitled(name, feature), 'flip');
        RETURN wrong + test.disagreements();
    END $$;

    -- Changes an override and takes the change back with an exception; counts the disagreements around it.
    CREATE FUNCTION test.flip_in_vain(name text, feature text) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
    DECLARE wrong bigint := test.disagreements();
    BEGIN
        BEGIN
            PERFORM test.override(name, feature, 'set', NOT entitlements.entitled(name, feature), 'vain');
            wrong := wrong + test.disagreements();
            RAISE EXCEPTION USING errcode = 'ZZ001';
        EXCEPTION WHEN SQLSTATE 'ZZ001' THEN
            RETURN wrong + test.disagreements();
        END;
    END $$;

    INSERT INTO entitlements.features (key, kind, combine) VALUES
        ('flag_a', 'flag', 'any'), ('flag_b', 'flag', 'any'), ('seats', 'allocation', 'max_plus_addons');
    INSERT INTO entitlements.plans (key, kind) VALUES ('free', 'base'), ('team', 'base'), ('extra', 'addon');
    INSERT INTO test.names VALUES ('a0'), ('a1'), ('a2'), ('a3'), ('a4'), ('nobody');
    INSERT INTO entitlements.accounts (key, created_at) SELECT name, now() FROM test.names WHERE name <> 'nobody' ORDER BY name;
    SELECT test.publish('free', true, NULL, NULL), test.publish('team', true, true, 2), test.publish('extra', NULL, NULL, 1);
";

/// A connection that speaks the simple protocol: one message a statement, as psql sends it.
pub struct Session {
    pub client: Client,
}

impl Session {
    /// The error's SQLSTATE where the statement is refused.
    pub fn try_query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, SqlState> {
        let messages = self.client.simple_query(sql).map_err(|error| match error.as_db_error() {
            Some(refusal) => refusal.code().clone(),
            None => panic!("{sql}: {error:?}"),
        })?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|place| row.get(place).map(str::to_owned)).collect()),
            _ => None,
        });
        Ok(rows.collect())
    }

    pub fn query(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.try_query(sql).unwrap_or_else(|code| panic!("{sql}: {}", code.code()))
    }

    pub fn run(&mut self, sql: &str) {
        self.query(sql);
    }

    /// The one value of the one row.
    pub fn value(&mut self, sql: &str) -> String {
        let rows = self.query(sql);
        assert!(rows.len() == 1 && rows[0].len() == 1, "{sql}: {rows:?}");
        rows[0][0].clone().unwrap_or_else(|| panic!("{sql}: NULL"))
    }

    pub fn is_true(&mut self, sql: &str) -> bool {
        match self.value(sql).as_str() {
            "t" => true,
            "f" => false,
            other => panic!("{sql}: {other} is not a boolean"),
        }
    }

    /// The answer, which is the join's in the same statement.
    pub fn entitled(&mut self, account: &str, feature: &str) -> bool {
        let rows = self
            .query(&format!("SELECT got, want FROM test.comparison WHERE account = '{account}' AND feature = '{feature}'"));
        assert_eq!(rows.len(), 1, "{account} and {feature} are known to the test");
        assert_eq!(rows[0][0], rows[0][1], "entitled('{account}', '{feature}') is not what the join says");
        rows[0][0].as_deref() == Some("t")
    }

    /// Asserts that all answers are the join's.
    pub fn agrees(&mut self) {
        let wrong = self.query("SELECT account, feature, got FROM test.comparison WHERE got IS DISTINCT FROM want");
        assert!(wrong.is_empty(), "wrong answers: {wrong:?}");
    }
}

/// A database with the schema `test`.
pub struct Comparison {
    pub database: Database,
}

impl Comparison {
    pub fn new() -> Self {
        let database = Database::new();
        database.connect().batch_execute(&definitions()).unwrap_or_else(|error| panic!("the schema is made: {error:?}"));
        Self { database }
    }

    pub fn session(&self) -> Session {
        Session { client: self.database.connect() }
    }

    /// A session whose backend was started with these settings (`-c name=value …`).
    pub fn session_with(&self, options: &str) -> Session {
        Session { client: self.database.config().options(options).connect(NoTls).expect("the settings are accepted") }
    }
}

impl Drop for Comparison {
    /// A prepared transaction that a failed test left behind would keep the database.
    fn drop(&mut self) {
        if let Ok(mut client) = self.database.config().connect(NoTls)
            && let Ok(rows) = client.query("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()", &[])
        {
            for row in rows {
                let _ = client.batch_execute(&format!("ROLLBACK PREPARED '{}'", row.get::<_, String>(0)));
            }
        }
    }
}
