-- What is measured inside the server, and where every measurement is kept.
\set ON_ERROR_STOP on
SET client_min_messages = warning;

-- value is in seconds for `units` answers, or in transactions per second.
CREATE TABLE bench.measurements (experiment text, subject text, round integer, value float8, units bigint);
CREATE TABLE bench.subjects (experiment text, subject text, role text, query text, units bigint, expected bigint);

-- Runs each subject of an experiment once a round, in an order drawn anew each round, so that the machine's other work
-- hits all alike. The commit before each leaves the backend's memo empty.
CREATE PROCEDURE bench.measure(experiment text, rounds integer) LANGUAGE plpgsql AS $$
DECLARE
    subject bench.subjects;
    began timestamptz;
    seconds float8;
    answer bigint;
BEGIN
    FOR round IN 0..rounds LOOP -- round 0 warms up
        FOR subject IN SELECT * FROM bench.subjects s WHERE s.experiment = measure.experiment ORDER BY random() LOOP
            PERFORM pg_catalog.set_config('role', subject.role, true);
            began := clock_timestamp();
            EXECUTE subject.query INTO answer;
            seconds := extract(epoch FROM clock_timestamp() - began);
            RESET ROLE;
            IF answer <> subject.expected THEN
                RAISE '% of % answered %, not %', subject.subject, experiment, answer, subject.expected;
            END IF;
            IF round > 0 THEN
                INSERT INTO bench.measurements VALUES (experiment, subject.subject, round, seconds, subject.units);
            END IF;
            COMMIT;
        END LOOP;
    END LOOP;
END $$;

-- The first check of an account: every account is asked once, in one statement and in no order.
INSERT INTO bench.subjects
SELECT 'cold ' || current_database(), guard, 'none', format('SELECT count(*) FROM bench.asked WHERE %s(account, ''sso'')', guard), n, n
FROM unnest(ARRAY['entitlements.entitled', 'bench.noop']) guard, (SELECT count(*) AS n FROM bench.asked) t;
