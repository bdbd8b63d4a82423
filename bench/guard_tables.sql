-- :rows rows of a thousand accounts, and of one more that nobody knows so that a guard that does not guard gives itself away.
-- What a user without the extension would have is here too: subscriptions and features of plans in tables of one's own.
\set ON_ERROR_STOP on
SET synchronous_commit = off;
SET maintenance_work_mem = '512MB';

CREATE EXTENSION entitlements;
CREATE SCHEMA bench;
CREATE FUNCTION bench.cpu_time() RETURNS float8 LANGUAGE c VOLATILE AS :'noop', 'cpu_time';
SELECT entitlements.apply_catalog('{"features": {"sso": {"kind": "flag"}, "rare": {"kind": "flag"}},
    "plans": {"team": {"kind": "base", "features": {"sso": true, "rare": false}}, "extra": {"kind": "addon", "features": {"rare": true}}}}');
SELECT entitlements.subscribe(n::text, 'team') FROM generate_series(1, 1000) n;
SELECT entitlements.subscribe(n::text, 'extra') FROM generate_series(1, 10) n;

CREATE TABLE bench.subscriptions AS
SELECT n::bigint AS account_bigint, n::text AS account_text, 'team' AS plan, 'infinity'::timestamptz AS ends_at FROM generate_series(1, 1000) n
UNION ALL SELECT n, n::text, 'extra', 'infinity' FROM generate_series(1, 10) n;
CREATE INDEX ON bench.subscriptions (account_bigint);
CREATE INDEX ON bench.subscriptions (account_text);
CREATE TABLE bench.plan_features (plan text, feature text, PRIMARY KEY (plan, feature));
INSERT INTO bench.plan_features VALUES ('team', 'sso'), ('extra', 'rare');

-- Of each type: many_… have the rows of all accounts, one_… those of account 1.
SELECT format('CREATE UNLOGGED TABLE bench.%s_%s_%s AS SELECT (%s)::%s AS account, i AS id FROM generate_series(1, %s::bigint) i',
    held, guard, type, CASE held WHEN 'many' THEN '1 + (hashint8(i) & 2147483647) % 1001::bigint' ELSE '1' END, type, :rows),
    format('CREATE INDEX ON bench.%s_%s_%s (account)', held, guard, type)
FROM unnest(ARRAY['text', 'bigint']) type, (VALUES
    ('many', 'unguarded'), ('many', 'protected'), ('many', 'by_hand'), ('many', 'listed'), ('many', 'asked'), ('many', 'rare_listed'), ('many', 'rare_asked'),
    ('many', 'in_select'), ('many', 'rare_in_select'), ('one', 'unguarded'), ('one', 'protected'), ('one', 'by_hand')) v(held, guard) \gexec

-- Guards of the current account.
SELECT format('SELECT entitlements.protect_table(''bench.%s_protected_%s'', ''account'', ''sso'')', held, type),
    format('ALTER TABLE bench.%s_by_hand_%s ENABLE ROW LEVEL SECURITY', held, type),
    format('CREATE POLICY own ON bench.%1$s_by_hand_%2$s USING (account = (SELECT current_setting(''app.account'')::%2$s))', held, type),
    format('CREATE POLICY gate ON bench.%1$s_by_hand_%2$s AS RESTRICTIVE USING ((SELECT EXISTS (SELECT FROM bench.subscriptions s JOIN bench.plan_features p USING (plan)
        WHERE s.account_%2$s = current_setting(''app.account'')::%2$s AND p.feature = ''sso'' AND now() < s.ends_at)))', held, type)
FROM unnest(ARRAY['text', 'bigint']) type, unnest(ARRAY['many', 'one']) held \gexec

-- Guards of every row's account: the list is chosen for the index, asking for each row where there is none.
SELECT format('SELECT entitlements.protect_table(''bench.many_%slisted_%s'', ''account'', ''%s'', ''SELECT'', ''every'')', prefix, type, feature),
    format('DROP INDEX bench.many_%sasked_%s_account_idx', prefix, type),
    format('SELECT entitlements.protect_table(''bench.many_%sasked_%s'', ''account'', ''%s'', ''SELECT'', ''every'')', prefix, type, feature),
    format('ALTER TABLE bench.many_%sin_select_%s ENABLE ROW LEVEL SECURITY', prefix, type),
    format('CREATE POLICY gate ON bench.many_%1$sin_select_%2$s USING (account IN (SELECT s.account_%2$s FROM bench.subscriptions s JOIN bench.plan_features p USING (plan)
        WHERE p.feature = %3$L AND now() < s.ends_at))', prefix, type, feature)
FROM unnest(ARRAY['text', 'bigint']) type, (VALUES ('', 'sso'), ('rare_', 'rare')) v(prefix, feature) \gexec

DROP ROLE IF EXISTS bench_member;
CREATE ROLE bench_member;
SELECT entitlements.grant_access('bench_member', 'reader');
GRANT USAGE ON SCHEMA bench TO bench_member;
GRANT SELECT ON ALL TABLES IN SCHEMA bench TO bench_member;

-- Statements of their own, planned each time as an application's are.
CREATE FUNCTION bench.repeat(query text, times bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    answer bigint;
    total bigint := 0;
BEGIN
    FOR n IN 1..times LOOP
        EXECUTE query INTO answer;
        total := total + answer;
    END LOOP;
    RETURN total;
END $$;
GRANT EXECUTE ON FUNCTION bench.repeat(text, bigint) TO bench_member;

-- value: seconds of the processor for `units` rows or statements. Round 0 warms up and does not count.
CREATE TABLE bench.measurements (experiment text, subject text, round integer, value float8, units bigint);
CREATE TABLE bench.subjects (experiment text, subject text, setting text, query text, units bigint, expected bigint);

-- Of all that is read, and of what a statement finds by the index. The unguarded table is asked for the same rows.
INSERT INTO bench.subjects
SELECT format('%s, %s', type, experiment), subject, setting,
    CASE WHEN statements > 1 THEN format('SELECT bench.repeat(%L, %s)', query, statements) ELSE query END,
    CASE WHEN statements > 1 THEN statements ELSE :rows END, expected * statements
FROM unnest(ARRAY['text', 'bigint']) type,
    LATERAL (SELECT count(*) FILTER (WHERE account_bigint = 1) AS own, count(*) FILTER (WHERE account_bigint < 1001) AS known,
                    count(*) FILTER (WHERE account_bigint <= 10) AS ten
             FROM (SELECT account AS account_bigint FROM bench.many_unguarded_bigint) r) c,
    LATERAL (VALUES
        ('own rows by the index', 'unguarded', 'enable_seqscan', 500, format('SELECT count(*) FROM bench.many_unguarded_%1$s WHERE account = ''1''::%1$s', type), own),
        ('own rows by the index', 'protected', 'enable_seqscan', 500, format('SELECT count(*) FROM bench.many_protected_%s', type), own),
        ('own rows by the index', 'by hand', 'enable_seqscan', 500, format('SELECT count(*) FROM bench.many_by_hand_%s', type), own),
        ('own rows in a scan of all', 'unguarded', 'indexes', 1, format('SELECT count(*) FROM bench.many_unguarded_%1$s WHERE account = ''1''::%1$s', type), own),
        ('own rows in a scan of all', 'protected', 'indexes', 1, format('SELECT count(*) FROM bench.many_protected_%s', type), own),
        ('own rows in a scan of all', 'by hand', 'indexes', 1, format('SELECT count(*) FROM bench.many_by_hand_%s', type), own),
        ('all rows are own', 'unguarded', 'indexes', 1, format('SELECT count(*) FROM bench.one_unguarded_%s', type), :rows),
        ('all rows are own', 'protected', 'indexes', 1, format('SELECT count(*) FROM bench.one_protected_%s', type), :rows),
        ('all rows are own', 'by hand', 'indexes', 1, format('SELECT count(*) FROM bench.one_by_hand_%s', type), :rows),
        ('of every account, all entitled', 'unguarded', 'none', 1, format('SELECT count(*) FROM bench.many_unguarded_%1$s WHERE account <> ''1001''::%1$s', type), known),
        ('of every account, all entitled', 'asked', 'none', 1, format('SELECT count(*) FROM bench.many_asked_%s', type), known),
        ('of every account, all entitled', 'listed', 'none', 1, format('SELECT count(*) FROM bench.many_listed_%s', type), known),
        ('of every account, all entitled', 'by hand', 'none', 1, format('SELECT count(*) FROM bench.many_in_select_%s', type), known),
        ('of every account, 1 % entitled', 'asked', 'none', 1, format('SELECT count(*) FROM bench.many_rare_asked_%s', type), ten),
        ('of every account, 1 % entitled', 'listed', 'none', 1, format('SELECT count(*) FROM bench.many_rare_listed_%s', type), ten),
        ('of every account, 1 % entitled', 'by hand', 'none', 1, format('SELECT count(*) FROM bench.many_rare_in_select_%s', type), ten)
    ) v(experiment, subject, setting, statements, query, expected);

-- Runs each subject of an experiment once a round, in an order drawn anew each round, so that the machine's other work hits
-- all alike, as account 1.
CREATE PROCEDURE bench.measure(experiment text, rounds integer) LANGUAGE plpgsql AS $$
DECLARE
    subject bench.subjects;
    began float8;
    seconds float8;
    answer bigint;
BEGIN
    FOR round IN 0..rounds LOOP
        FOR subject IN SELECT * FROM bench.subjects s WHERE s.experiment = measure.experiment ORDER BY random() LOOP
            PERFORM entitlements.set_account('1'), set_config('app.account', '1', true), set_config('role', 'bench_member', true);
            IF subject.setting = 'indexes' THEN
                PERFORM set_config('enable_indexscan', 'off', true), set_config('enable_indexonlyscan', 'off', true), set_config('enable_bitmapscan', 'off', true);
            ELSIF subject.setting = 'enable_seqscan' THEN
                PERFORM set_config('enable_seqscan', 'off', true);
            END IF;
            began := bench.cpu_time();
            EXECUTE subject.query INTO answer;
            seconds := bench.cpu_time() - began;
            PERFORM set_config('role', 'none', true);
            IF answer IS DISTINCT FROM subject.expected THEN
                RAISE '% of % answered %, not %', subject.subject, experiment, answer, subject.expected;
            END IF;
            INSERT INTO bench.measurements VALUES (experiment, subject.subject, round, seconds, subject.units);
            COMMIT;
        END LOOP;
    END LOOP;
END $$;
GRANT EXECUTE ON FUNCTION bench.cpu_time() TO bench_member;
SELECT format('VACUUM ANALYZE %s', oid::regclass) FROM pg_class WHERE relnamespace = 'bench'::regnamespace AND relkind = 'r' \gexec
