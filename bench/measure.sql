-- What is measured inside the server, and where the measurements are kept.
\set ON_ERROR_STOP on

-- value: seconds for `units` answers, or transactions per second where units is NULL. Round 0 warms up and does not count.
CREATE TABLE bench.measurements (experiment text, subject text, round integer, value float8, units bigint);
CREATE TABLE bench.subjects (experiment text, subject text, role text, query text, units bigint, expected bigint);

-- Runs each subject of an experiment once a round, in an order drawn anew each round, so that the machine's other work
-- hits all alike. Each begins with an empty memo, as after a change of the catalog.
CREATE PROCEDURE bench.measure(experiment text, rounds integer) LANGUAGE plpgsql AS $$
DECLARE
    subject bench.subjects;
    began float8;
    seconds float8;
    answer bigint;
BEGIN
    FOR round IN 0..rounds LOOP
        FOR subject IN SELECT * FROM bench.subjects s WHERE s.experiment = measure.experiment ORDER BY random() LOOP
            PERFORM pg_catalog.set_config('role', subject.role, true);
            began := bench.cpu_time();
            EXECUTE subject.query INTO answer;
            seconds := bench.cpu_time() - began;
            RESET ROLE;
            IF answer IS DISTINCT FROM subject.expected THEN
                RAISE '% of % answered %, not %', subject.subject, experiment, answer, subject.expected;
            END IF;
            INSERT INTO bench.measurements VALUES (experiment, subject.subject, round, seconds, subject.units);
            UPDATE entitlements.features SET unit = unit WHERE key = 'beta';
            COMMIT;
        END LOOP;
    END LOOP;
END $$;

-- Publishes the plan that everybody follows, with the feature beta on and off in turn, on in the last round. Time as it
-- passes, to the end of the commit. The next statement must see it.
CREATE PROCEDURE bench.publish(rounds integer) LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz;
    seconds float8;
    answer bigint;
    turned_on boolean;
BEGIN
    FOR round IN 0..rounds LOOP
        turned_on := round % 2 = rounds % 2;
        PERFORM entitlements.set_plan_feature('team', 'beta', to_jsonb(turned_on));
        COMMIT;
        began := clock_timestamp();
        PERFORM entitlements.publish_plan('team');
        COMMIT;
        seconds := extract(epoch FROM clock_timestamp() - began);
        SELECT count(*) INTO answer FROM bench.in_order WHERE entitlements.entitled(account, 'beta') = turned_on;
        IF answer <> (SELECT count(*) FROM bench.in_order) THEN
            RAISE 'after publication % accounts had it', answer;
        END IF;
        INSERT INTO bench.measurements VALUES ('publish', 'publish_plan', round, seconds, 1);
        COMMIT;
    END LOOP;
END $$;

-- The first check of an account: each is asked once, in one statement.
INSERT INTO bench.subjects
SELECT format('first check, %s of each, %s', held, replace(asked, '_', ' ')), guard, 'none',
    format('SELECT count(*) FROM bench.%I WHERE %s(account, ''sso'')', asked,
           CASE guard WHEN 'noop' THEN 'bench.noop' ELSE 'entitlements.entitled' END), n, n
FROM unnest(ARRAY['in_no_order', 'in_order']) asked, unnest(ARRAY['entitled', 'noop']) guard,
    (SELECT count(*) AS n FROM bench.in_order) t,
    (SELECT count(*) AS held FROM entitlements.subscriptions WHERE account_id = 1) u;
