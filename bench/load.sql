-- Fills a database of its own: the extension, a catalog, :accounts accounts with the keys 1, 2, 3 …, each with :held
-- subscriptions: a base plan and add-ons. So many as :names says exist also under a text and a uuid name. Where :latest is
-- true the base plan's subscriptions follow the latest version. Subscriptions go straight into the table, without the
-- triggers of foreign keys, and its indexes are made afterwards; the exclusion constraint, which no check reads, stays away.
\set ON_ERROR_STOP on
SET synchronous_commit = off;
SET maintenance_work_mem = '1GB';

CREATE EXTENSION entitlements;
CREATE SCHEMA bench;
CREATE FUNCTION bench.noop(text, text) RETURNS boolean LANGUAGE c STABLE PARALLEL SAFE AS :'noop', 'noop';
CREATE FUNCTION bench.noop(uuid, text) RETURNS boolean LANGUAGE c STABLE PARALLEL SAFE AS :'noop', 'noop';
CREATE FUNCTION bench.noop(bigint, text) RETURNS boolean LANGUAGE c STABLE PARALLEL SAFE AS :'noop', 'noop';
CREATE FUNCTION bench.cpu_time() RETURNS float8 LANGUAGE c VOLATILE AS :'noop', 'cpu_time';

-- A base plan with twenty features and nine add-ons with one each.
SELECT entitlements.apply_catalog(jsonb_build_object(
    'features', (SELECT jsonb_object_agg('flag_' || n, '{"kind": "flag"}'::jsonb) || jsonb_object_agg('limit_' || n, '{"kind": "quota"}'::jsonb)
                 FROM generate_series(1, 9) n) || '{"sso": {"kind": "flag"}, "beta": {"kind": "flag"}}',
    'plans', (SELECT jsonb_object_agg('extra_' || n, jsonb_build_object('kind', 'addon', 'features', jsonb_build_object('limit_' || n, 100)))
                  || jsonb_build_object('team', jsonb_build_object('kind', 'base', 'features',
                         jsonb_object_agg('flag_' || n, true) || jsonb_object_agg('limit_' || n, 1000) || '{"sso": true, "beta": false}'))
              FROM generate_series(1, 9) n)));

SELECT conname AS exclusion FROM pg_constraint WHERE conrelid = 'entitlements.subscriptions'::regclass AND contype = 'x' \gset
ALTER TABLE entitlements.subscriptions DROP CONSTRAINT :exclusion;
CREATE TEMP TABLE secondary_indexes AS
SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition
FROM pg_index WHERE indrelid = 'entitlements.subscriptions'::regclass AND NOT indisprimary;
SELECT format('DROP INDEX %s', name) FROM secondary_indexes \gexec
ALTER TABLE entitlements.subscriptions DROP CONSTRAINT subscriptions_pkey;
SET session_replication_role = replica;

INSERT INTO entitlements.accounts (id, key, created_at)
SELECT n, n::text, now() FROM generate_series(1, :accounts) n
UNION ALL SELECT :accounts + n, 'account-' || n, now() FROM generate_series(1, :names) n
UNION ALL SELECT :accounts + :names + n, md5(n::text)::uuid::text, now() FROM generate_series(1, :names) n;

-- The first subscription of everybody, then the second of everybody: an account's own lie far apart, as if sold over years.
SELECT :accounts + 2 * :names AS everybody \gset
CREATE TEMP TABLE offers AS
SELECT row_number() OVER (ORDER BY p.kind = 'addon', p.key) - 1 AS place, p.id AS plan_id,
    CASE WHEN p.kind = 'addon' OR NOT :latest THEN v.id END AS version_id
FROM entitlements.plans p JOIN entitlements.plan_versions v ON v.plan_id = p.id;
INSERT INTO entitlements.subscriptions (row_id, id, account_id, plan_id, plan_version_id, status, quantity, starts_at, term_starts_at, source, recorded_at, recorded_by)
SELECT i + 1, i + 1, i % :everybody + 1, plan_id, version_id, 'active', 1, now() - interval '1 day' * (:held - place),
    now() - interval '1 day' * (:held - place), 'bench', now(), 'bench'
FROM generate_series(0, :held * :everybody::bigint - 1) i JOIN offers ON place = i / :everybody;

-- VACUUM marks no page as visible to all whose rows were committed without a flush.
SET synchronous_commit = on;
ALTER TABLE entitlements.subscriptions ADD PRIMARY KEY (row_id);
SELECT definition FROM secondary_indexes \gexec
VACUUM ANALYZE entitlements.subscriptions, entitlements.accounts, entitlements.plan_versions, entitlements.plan_features;

-- A tenth of the accounts, each once.
CREATE TABLE bench.in_no_order AS
SELECT id AS account FROM entitlements.accounts WHERE id <= :accounts ORDER BY hashint8(id) LIMIT :accounts / 10;
CREATE TABLE bench.in_order AS
SELECT id AS account FROM entitlements.accounts WHERE id <= :accounts / 10 ORDER BY id;
VACUUM ANALYZE bench.in_no_order, bench.in_order;
CREATE TABLE bench.neighbour (id integer PRIMARY KEY, changes bigint NOT NULL) WITH (fillfactor = 10);
INSERT INTO bench.neighbour VALUES (1, 0);
