-- Fills a database of its own: the extension, a catalog, :accounts accounts with the keys 1, 2, 3 …, each with :held
-- subscriptions: a base plan and add-ons. With :names > 0 so many of them exist also under a text and a uuid name.
-- :latest makes the base plan's subscriptions follow the latest version. Rows go straight into the tables, without the
-- triggers of foreign keys, and indexes are made afterwards; the exclusion constraint, which no check reads, stays away.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
SET synchronous_commit = off;
SET maintenance_work_mem = '1GB';
SET session_replication_role = replica;

CREATE EXTENSION entitlements;
CREATE SCHEMA bench;
CREATE FUNCTION bench.noop(text, text) RETURNS boolean LANGUAGE c STABLE PARALLEL SAFE AS :'noop', 'noop';
CREATE FUNCTION bench.noop(uuid, text) RETURNS boolean LANGUAGE c STABLE PARALLEL SAFE AS :'noop', 'noop';
CREATE FUNCTION bench.noop(bigint, text) RETURNS boolean LANGUAGE c STABLE PARALLEL SAFE AS :'noop', 'noop';

-- A base plan with twenty features and nine add-ons with one each.
INSERT INTO entitlements.features (key, kind, combine)
SELECT f, CASE WHEN f LIKE 'limit%' THEN 'quota' ELSE 'flag' END, CASE WHEN f LIKE 'limit%' THEN 'max_plus_addons' ELSE 'any' END
FROM unnest(ARRAY['sso', 'beta'] || ARRAY(SELECT 'flag_' || n FROM generate_series(1, 9) n) || ARRAY(SELECT 'limit_' || n FROM generate_series(1, 9) n)) f;
INSERT INTO entitlements.plans (key, kind)
SELECT 'team', 'base' UNION ALL SELECT 'extra_' || n, 'addon' FROM generate_series(1, 9) n;
INSERT INTO entitlements.plan_versions (plan_id, version, kind, rank, definition, published_at, published_by)
SELECT id, 1, kind, 0, '{}', now(), 'bench' FROM entitlements.plans ORDER BY id;
INSERT INTO entitlements.plan_features (plan_version_id, feature_id, kind, enabled, amount)
SELECT v.id, f.id, f.kind, CASE WHEN f.kind = 'flag' THEN f.key <> 'beta' END, CASE WHEN f.kind = 'quota' THEN 1000 END
FROM entitlements.plan_versions v JOIN entitlements.plans p ON p.id = v.plan_id
JOIN entitlements.features f ON p.key = 'team' OR f.key = replace(p.key, 'extra', 'limit');

SELECT conname FROM pg_constraint WHERE conrelid = 'entitlements.subscriptions'::regclass AND contype = 'x' \gset
ALTER TABLE entitlements.subscriptions DROP CONSTRAINT :conname;
SELECT format('DROP INDEX %s', indexrelid::regclass) AS drop_index, pg_get_indexdef(indexrelid) AS create_index
INTO TEMP secondary_indexes
FROM pg_index WHERE indrelid = 'entitlements.subscriptions'::regclass AND NOT indisprimary;
SELECT drop_index FROM secondary_indexes \gexec
ALTER TABLE entitlements.subscriptions DROP CONSTRAINT subscriptions_pkey;

INSERT INTO entitlements.accounts (id, key, created_at)
SELECT n, n, now() FROM generate_series(1, :accounts) n;
INSERT INTO entitlements.accounts (id, key, created_at)
SELECT n + :accounts, 'account-' || n, now() FROM generate_series(1, :names) n;
INSERT INTO entitlements.accounts (id, key, created_at)
SELECT n + :accounts + :names, md5(n::text)::uuid, now() FROM generate_series(1, :names) n;

-- Each account's subscriptions lie far apart, as if sold over the years.
SELECT :accounts + 2 * :names AS everybody \gset
INSERT INTO entitlements.subscriptions (row_id, id, account_id, plan_id, plan_version_id, status, quantity, starts_at, source, recorded_at, recorded_by)
SELECT i + 1, i + 1, i % :everybody + 1, p.id, CASE WHEN p.kind = 'addon' OR NOT :latest THEN v.id END,
    'active', 1, now() - interval '1 day' * (:held - i / :everybody), 'bench', now(), 'bench'
FROM generate_series(0, :held * :everybody::bigint - 1) i
JOIN entitlements.plans p ON p.id = i / :everybody + 1 JOIN entitlements.plan_versions v ON v.plan_id = p.id;
ALTER TABLE entitlements.subscriptions ADD PRIMARY KEY (row_id);
SELECT create_index FROM secondary_indexes \gexec
VACUUM ANALYZE entitlements.subscriptions, entitlements.accounts, entitlements.plan_versions, entitlements.plan_features;

-- Every account once, in no order.
CREATE TABLE bench.asked AS SELECT id AS account FROM entitlements.accounts WHERE id <= :accounts ORDER BY hashint8(id);
VACUUM ANALYZE bench.asked;
CREATE TABLE bench.neighbour (id integer PRIMARY KEY, changes bigint NOT NULL) WITH (fillfactor = 10);
INSERT INTO bench.neighbour VALUES (1, 0);
