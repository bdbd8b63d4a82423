-- Tables alike: one that nothing limits, two that limit_rows does, the second with a condition, and one with a trigger that counts in
-- a row of its own, as people write it.
\set ON_ERROR_STOP on

CREATE EXTENSION entitlements;
CREATE SCHEMA bench;

SELECT entitlements.apply_catalog('{"features": {"projects": {"kind": "allocation"}, "live": {"kind": "allocation"}},
    "plans": {"team": {"kind": "base", "features": {"projects": 1000000000, "live": 1000000000}}}}');
SELECT entitlements.subscribe(n::text, 'team') FROM generate_series(1, 1000) n;

CREATE TABLE bench.unlimited (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text NOT NULL,
    name text NOT NULL DEFAULT 'a project',
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE TABLE bench.limit_rows (LIKE bench.unlimited INCLUDING ALL);
SELECT entitlements.limit_rows('bench.limit_rows', 'account', 'projects');
CREATE TABLE bench.limit_where (LIKE bench.unlimited INCLUDING ALL);
SELECT entitlements.limit_rows('bench.limit_where', 'account', 'live', "where" => 'deleted_at IS NULL');

CREATE TABLE bench.trigger (LIKE bench.unlimited INCLUDING ALL);
CREATE TABLE bench.counted (account text PRIMARY KEY, used bigint NOT NULL, cap bigint NOT NULL) WITH (fillfactor = 50);
INSERT INTO bench.counted SELECT n, 0, 1000000000 FROM generate_series(1, 1000) n;
CREATE FUNCTION bench.count_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE bench.counted SET used = used + 1 WHERE account = NEW.account AND used < cap;
    IF NOT FOUND THEN
        RAISE 'account % has all the projects that it may have', NEW.account;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER count_row AFTER INSERT ON bench.trigger FOR EACH ROW EXECUTE FUNCTION bench.count_row();

-- 'none' where there are so many rows and the subject's counter says so.
CREATE FUNCTION bench.faults(subject text, transactions bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    rows bigint;
    used numeric;
BEGIN
    EXECUTE format('SELECT count(*) FROM bench.%I', subject) INTO rows;
    used := CASE subject
        WHEN 'limit_rows' THEN (SELECT (entitlements.check_access('1', 'projects')).used)
        WHEN 'trigger' THEN (SELECT c.used FROM bench.counted c WHERE account = '1')
        ELSE rows END;
    RETURN CASE WHEN rows = transactions AND used = rows THEN 'none' ELSE format('%s rows, %s used', rows, used) END;
END $$;

-- Rows a second.
CREATE TABLE bench.measurements (accounts integer, subject text, round integer, rate numeric);

-- Inserts `rows` rows in one statement, with and without a limit in turn, and times it to the end of the commit.
CREATE PROCEDURE bench.bulk(rows integer, accounts integer, rounds integer) LANGUAGE plpgsql AS $$
DECLARE
    chosen text;
    began timestamptz;
BEGIN
    FOR round IN 0..rounds LOOP
        FOR chosen IN SELECT name FROM unnest(ARRAY['unlimited', 'limit_rows', 'limit_where']) name ORDER BY random() LOOP
            EXECUTE format('TRUNCATE bench.%I', chosen);
            COMMIT;
            CHECKPOINT;
            began := clock_timestamp();
            EXECUTE format('INSERT INTO bench.%I (account) SELECT (1 + n %% %s)::text FROM generate_series(1, %s) n', chosen, accounts, rows);
            COMMIT;
            -- The first round only gets things warm.
            IF round > 0 THEN
                INSERT INTO bench.measurements VALUES (accounts, chosen, round, rows / extract(epoch FROM clock_timestamp() - began));
            END IF;
        END LOOP;
        IF EXISTS (SELECT FROM unnest(ARRAY['projects', 'live']) feature
                    WHERE (SELECT sum((entitlements.check_access(n::text, feature)).used) FROM generate_series(1, accounts) n) <> rows) THEN
            RAISE 'the counters are not the number of rows';
        END IF;
    END LOOP;
    TRUNCATE bench.limit_rows, bench.limit_where;
END $$;
