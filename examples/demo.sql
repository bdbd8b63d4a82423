-- From an empty database to answers: real product catalogs, accounts, and row-level security that asks for entitlements.
-- Run it with psql from the project's folder, in a database of its own, as a superuser. The second product gets a database
-- of its own too, demo_postman, which is dropped first if it exists.

\set QUIET on
\pset footer off
\set catalog `cat examples/catalogs/github.json`
\set other_catalog `cat examples/catalogs/postman.json`

SELECT current_database() AS demo \gset
\echo '== One product: Postman''s plans'
SET client_min_messages = warning;
DROP DATABASE IF EXISTS demo_postman WITH (FORCE);
CREATE DATABASE demo_postman TEMPLATE template0 ENCODING 'UTF8';
\connect demo_postman
CREATE EXTENSION entitlements;
SELECT action, object, count(*) FROM entitlements.apply_catalog(:'other_catalog') GROUP BY action, object ORDER BY object, action;

\echo '== Another product, in a database of its own: GitHub''s plans'
\connect :demo
CREATE EXTENSION entitlements;
SELECT action, object, count(*) FROM entitlements.apply_catalog(:'catalog') GROUP BY action, object ORDER BY object, action;

\echo '== Applied again, a catalog changes nothing'
SELECT count(*) AS changes FROM entitlements.apply_catalog(:'catalog');

\echo '== Customers: one on the free plan, one that bought a team plan with a data pack, one on a trial'
SELECT entitlements.subscribe('hobby', 'free', reason => 'signed up') IS NOT NULL AS hobby,
       entitlements.subscribe('acme', 'team', quantity => 25, source => 'stripe', source_ref => 'so-17', reason => 'ordered online') IS NOT NULL AS acme,
       entitlements.subscribe('acme', 'git_lfs_data_pack', quantity => 2, source => 'stripe', source_ref => 'so-17') IS NOT NULL AS pack,
       entitlements.subscribe('zenith', 'enterprise', status => 'trialing', ends_at => now() + interval '30 days', reason => 'trial') IS NOT NULL AS zenith;

\echo '== Who may do what'
SELECT account,
       entitlements.entitled(account, 'code_owners') AS code_owners,
       entitlements.entitled(account, 'single_sign_on') AS single_sign_on,
       entitlements.value_of(account, 'invoice_billing') AS payment,
       entitlements.allowance(account, 'github_actions_quota') AS minutes,
       entitlements.allowance(account, 'git_lfs_storage_limit') AS lfs_gb
FROM unnest(ARRAY['hobby', 'acme', 'zenith', 'nobody']) AS account;

\echo '== An exception, and why the answer is what it is'
SELECT entitlements.set_override('acme', 'single_sign_on', 'set', 'true', 'promised in the renewal call', expires_at => now() + interval '90 days')
    IS NOT NULL AS granted;
SELECT * FROM entitlements.explain('acme', 'single_sign_on');

\echo '== An application table gated by row-level security'
\ir application.sql
INSERT INTO application.organisations VALUES ('hobby', 'Hobby'), ('acme', 'Acme'), ('zenith', 'Zenith');
INSERT INTO application.projects (org_id, name) SELECT id, 'website' FROM application.organisations;
INSERT INTO application.findings (org_id, project_id, severity, title)
SELECT org_id, id, 'high', 'secret in ' || name FROM application.projects;
SET ROLE app;
SELECT set_config('application.org', 'acme', false) AS "session of";
SELECT count(*) AS findings_visible FROM application.findings;
SELECT set_config('application.org', 'zenith', false) AS "session of";
SELECT count(*) AS findings_visible FROM application.findings;
RESET ROLE;

\echo '== Packaging changes, customers keep what they bought'
SELECT entitlements.set_plan_feature('team', 'github_actions_quota', '2500');
SELECT entitlements.publish_plan('team') AS version;
SELECT entitlements.subscribe('newcomer', 'team') IS NOT NULL AS subscribed;
SELECT account, entitlements.allowance(account, 'github_actions_quota') AS minutes FROM unnest(ARRAY['acme', 'newcomer']) AS account;

\echo '== A suspension, and lifting it'
SELECT entitlements.block('acme', 'billing', 'card declined') IS NOT NULL AS blocked;
SELECT allowed, reason FROM entitlements.check_access('acme', 'code_owners');
SELECT entitlements.unblock('acme', 'billing', 'paid') AS lifted;
SELECT allowed, reason FROM entitlements.check_access('acme', 'code_owners');

\echo '== All of it is in the audit log, and the log verifies'
SELECT action, object, count(*) FROM entitlements.audit_log WHERE chain_id <> 0 GROUP BY action, object ORDER BY object, action;
SELECT count(*) AS faults FROM entitlements.verify_audit();
