-- Documents of a thousand accounts, and of one more that nobody knows so that a guard that is not asked gives itself away;
-- and the ways to guard them, as a WHERE clause and as a policy for a plain role. What a user without the extension would
-- have is here too: subscriptions and features of plans in tables of one's own.
-- :rows documents; the functions that are slow read the first :few of them.
\set ON_ERROR_STOP on

CREATE TABLE bench.subscriptions AS
SELECT n::bigint AS account_bigint, 'account-' || n AS account_text, md5(n::text)::uuid AS account_uuid, 'team' AS plan, 'infinity'::timestamptz AS ends_at
FROM generate_series(1, 1000) n
UNION ALL
SELECT n, 'account-' || n, md5(n::text)::uuid, 'extra_' || e, 'infinity' FROM generate_series(1, 1000) n, generate_series(1, 9) e;
CREATE INDEX ON bench.subscriptions (account_bigint);
CREATE INDEX ON bench.subscriptions (account_text);
CREATE INDEX ON bench.subscriptions (account_uuid);
CREATE TABLE bench.plan_features (plan text, feature text, PRIMARY KEY (plan, feature));
INSERT INTO bench.plan_features SELECT p.key, f.key
FROM entitlements.plan_features pf JOIN entitlements.features f ON f.id = pf.feature_id
JOIN entitlements.plan_versions v ON v.id = pf.plan_version_id JOIN entitlements.plans p ON p.id = v.plan_id
WHERE pf.enabled IS NOT FALSE;

CREATE TABLE bench.documents AS
SELECT i AS id, a AS account_bigint, 'account-' || a AS account_text, md5(a::text)::uuid AS account_uuid, 'document ' || i AS title
FROM (SELECT i, 1 + (hashint8(i) & 2147483647) % 1001::bigint AS a FROM generate_series(1, :rows) i OFFSET 0) d;
CREATE TABLE bench.few_documents AS SELECT * FROM bench.documents WHERE id <= :few;
ALTER TABLE bench.documents ENABLE ROW LEVEL SECURITY;
ALTER TABLE bench.few_documents ENABLE ROW LEVEL SECURITY;
VACUUM ANALYZE bench.subscriptions, bench.plan_features, bench.documents, bench.few_documents;

SELECT format('CREATE FUNCTION bench.entitled_sql(account %1$s, feature text) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS $f$
    SELECT EXISTS (SELECT FROM bench.subscriptions s JOIN bench.plan_features p USING (plan)
                   WHERE s.account_%1$s = $1 AND p.feature = $2 AND now() < s.ends_at) $f$', type),
    format('CREATE FUNCTION bench.entitled_plpgsql(account %1$s, feature text) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE AS $f$
    BEGIN
        RETURN EXISTS (SELECT FROM bench.subscriptions s JOIN bench.plan_features p USING (plan)
                       WHERE s.account_%1$s = $1 AND p.feature = $2 AND now() < s.ends_at);
    END $f$', type)
FROM unnest(ARRAY['text', 'uuid', 'bigint']) type \gexec

CREATE TEMP TABLE guards AS
SELECT type, guard, format('bench_%s_%s', split_part(guard, ' ', 1), type) AS role, format(condition, type) AS condition, slow
FROM unnest(ARRAY['text', 'uuid', 'bigint']) type, (VALUES
    ('unguarded', 'true', false),
    ('entitled', 'entitlements.entitled(account_%1$s, ''sso'')', false),
    ('noop', 'bench.noop(account_%1$s, ''sso'')', false),
    ('in (select)', 'account_%1$s IN (SELECT s.account_%1$s FROM bench.subscriptions s JOIN bench.plan_features p USING (plan)
        WHERE p.feature = ''sso'' AND now() < s.ends_at)', false),
    ('exists (select)', 'EXISTS (SELECT FROM bench.subscriptions s JOIN bench.plan_features p USING (plan)
        WHERE s.account_%1$s = d.account_%1$s AND p.feature = ''sso'' AND now() < s.ends_at)', false),
    ('sql function', 'bench.entitled_sql(account_%1$s, ''sso'')', true),
    ('plpgsql function', 'bench.entitled_plpgsql(account_%1$s, ''sso'')', true)
) v(guard, condition, slow);

-- A role for each guard; its policy is the only one that applies to it.
SELECT format('CREATE ROLE %I', role), format('GRANT USAGE ON SCHEMA bench, entitlements TO %I', role),
    format('GRANT EXECUTE ON FUNCTION entitlements.entitled(%s, text) TO %I', type, role),
    format('GRANT SELECT ON bench.documents, bench.few_documents, bench.subscriptions, bench.plan_features TO %I', role),
    format('CREATE POLICY %1$I ON bench.%2$I FOR SELECT TO %1$I USING (%3$s)', role, documents, replace(condition, 'd.account', documents || '.account'))
FROM guards, LATERAL (SELECT CASE WHEN slow THEN 'few_documents' ELSE 'documents' END AS documents) t \gexec

INSERT INTO bench.subjects
SELECT format('scan, %s, %s', type, style), guard, CASE style WHEN 'policy' THEN role ELSE 'none' END,
    format('SELECT count(*) FROM bench.%s d', CASE WHEN slow THEN 'few_documents' ELSE 'documents' END)
        || CASE style WHEN 'where' THEN ' WHERE ' || condition ELSE '' END,
    n, n - CASE WHEN guard IN ('unguarded', 'noop') THEN 0 ELSE strangers END
FROM guards, unnest(ARRAY['where', 'policy']) style,
    LATERAL (SELECT CASE WHEN slow THEN :few ELSE :rows END AS n) t,
    LATERAL (SELECT count(*) AS strangers FROM bench.documents WHERE account_bigint = 1001 AND id <= n) u;
