-- On top of what load.sql has made with :accounts accounts: a quota that all of them have, their counters of this month, and
-- the table that somebody without the extension would count in. :limit units are the last twentieth of the allowance of the
-- accounts limit-1 … limit-:rounds and of the plain rows with the same numbers below zero.
\set ON_ERROR_STOP on

SELECT setval(pg_get_serial_sequence('entitlements.accounts', 'id'), max(id)) FROM entitlements.accounts;
SELECT setval('entitlements.subscription_ids', max(id)) FROM entitlements.subscriptions;
SELECT setval(pg_get_serial_sequence('entitlements.subscriptions', 'row_id'), max(row_id)) FROM entitlements.subscriptions;

SELECT entitlements.apply_catalog(jsonb_build_object(
    'features', '{"calls": {"kind": "quota", "period": "1 month"}}'::jsonb,
    'plans', jsonb_build_object('limited', jsonb_build_object('kind', 'base', 'features', jsonb_build_object('calls', 20 * :limit)))));
SELECT entitlements.set_plan_feature('team', 'calls', '1000000000000');
SELECT entitlements.publish_plan('team');
SELECT id AS calls FROM entitlements.features WHERE key = 'calls' \gset

INSERT INTO entitlements.counters (account_id, feature_id, window_start, window_end)
SELECT id, :calls, date_trunc('month', now(), 'UTC'), date_trunc('month', now(), 'UTC') + interval '1 month'
FROM entitlements.accounts;

SELECT entitlements.subscribe('limit-' || round, 'limited'), entitlements.consume('limit-' || round, 'calls', 19 * :limit)
FROM generate_series(1, :rounds) round;

-- Accounts with more pools: credits, all of them there ("full") or used up but for the plan's allowance ("spent").
CREATE TABLE bench.pools AS
SELECT pools, state, format('pools-%s-%s', pools, state) AS account FROM unnest(ARRAY[1, 2, 5, 10, 20, 50]) pools, unnest(ARRAY['full', 'spent']) state;
SELECT entitlements.subscribe(account, 'team') FROM bench.pools;
INSERT INTO entitlements.credits (account_id, feature_id, amount, priority, starts_at, source, created_by, recorded_at)
SELECT a.id, :calls, CASE state WHEN 'full' THEN 1000000000 ELSE 1 END, 50, now(), 'bench', 'bench', now()
FROM bench.pools p JOIN entitlements.accounts a ON a.key = p.account, generate_series(2, pools);
SELECT entitlements.consume(account, 'calls', pools) FROM bench.pools WHERE state = 'spent';

CREATE TABLE bench.plain (id bigint PRIMARY KEY, used bigint NOT NULL, cap bigint NOT NULL);
INSERT INTO bench.plain SELECT n, 0, 1000000000000 FROM generate_series(1, :accounts) n;
INSERT INTO bench.plain SELECT -n, 19 * :limit, 20 * :limit FROM generate_series(1, :rounds) n;

-- What units pay for.
CREATE TABLE bench.rows (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Units that are stored as used, by the extension and in the plain table.
CREATE FUNCTION bench.units(OUT consumed numeric, OUT updated numeric) LANGUAGE sql STABLE AS $$
    SELECT (SELECT sum(used) FROM entitlements.counters) + (SELECT coalesce(sum(used), 0) FROM entitlements.counter_slots),
        (SELECT sum(used) FROM bench.plain)
$$;

-- The same of some accounts.
CREATE FUNCTION bench.units(first_account bigint, last_account bigint, OUT consumed numeric, OUT updated numeric) LANGUAGE sql STABLE AS $$
    SELECT (SELECT sum(c.used + coalesce((SELECT sum(s.used) FROM entitlements.counter_slots s WHERE s.counter_id = c.id), 0))
            FROM entitlements.counters c WHERE c.account_id BETWEEN first_account AND last_account),
        (SELECT sum(used) FROM bench.plain WHERE id BETWEEN first_account AND last_account)
$$;

-- Usage in bulk: where it would go without the extension, with and without a key that lets nothing in twice.
CREATE TABLE bench.events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text NOT NULL, feature text NOT NULL, n numeric NOT NULL, at timestamptz NOT NULL, idempotency_key text, metadata jsonb
);
CREATE TABLE bench.keyed_events (LIKE bench.events INCLUDING ALL, UNIQUE (account, idempotency_key));

-- Writes `rows` units of a thousand accounts, each way once a round, and times it to the end of the commit.
CREATE PROCEDURE bench.record(rows integer, rounds integer) LANGUAGE plpgsql AS $$
DECLARE
    subject record;
    usage jsonb;
    before numeric;
    after numeric;
    began timestamptz;
    seconds float8;
BEGIN
    FOR round IN 1..rounds LOOP
        FOR subject IN
            SELECT * FROM (VALUES
                ('record', 'insert', 'INSERT INTO bench.events (account, feature, n, at, idempotency_key, metadata)
                    SELECT * FROM jsonb_to_recordset($1) AS r(account text, feature text, n numeric, at timestamptz, idempotency_key text, metadata jsonb)'),
                ('record', 'record_usage', 'SELECT entitlements.record_usage($1)'),
                ('record, keyed', 'insert', 'INSERT INTO bench.keyed_events (account, feature, n, at, idempotency_key, metadata)
                    SELECT * FROM jsonb_to_recordset($1) AS r(account text, feature text, n numeric, at timestamptz, idempotency_key text, metadata jsonb)'),
                ('record, keyed', 'record_usage', 'SELECT entitlements.record_usage($1)')
            ) s(experiment, name, query)
            ORDER BY random()
        LOOP
            usage := jsonb_agg(jsonb_strip_nulls(jsonb_build_object('account', (1 + i % 1000)::text, 'feature', 'calls', 'n', 1, 'at', now(),
                    'idempotency_key', CASE WHEN subject.experiment LIKE '%keyed' THEN format('%s-%s', round, i) END)))
                FROM generate_series(1, rows) i;
            before := consumed FROM bench.units();
            COMMIT;
            began := clock_timestamp();
            EXECUTE subject.query USING usage;
            COMMIT;
            seconds := extract(epoch FROM clock_timestamp() - began);
            after := consumed FROM bench.units();
            IF after - before <> (CASE subject.name WHEN 'insert' THEN 0 ELSE rows END) THEN
                RAISE '%, %: % units were stored', subject.experiment, subject.name, after - before;
            END IF;
            INSERT INTO bench.measurements VALUES (subject.experiment, subject.name, round, rows / seconds, NULL);
            COMMIT;
        END LOOP;
    END LOOP;
END $$;

VACUUM ANALYZE;
CHECKPOINT;
