-- The catalog: documents, drafts, versions.
\set VERBOSITY sqlstate
\pset null '(null)'
DROP EXTENSION entitlements;
CREATE EXTENSION entitlements;
BEGIN;

-- An empty catalog takes a document; the same again changes nothing.
\set document '{"features": {"sso": {"kind": "flag"}, "support": {"kind": "config", "schema": {"enum": ["community", "standard"]}}, "exports": {"kind": "quota", "unit": "export", "period": "1 month", "thresholds": [0.8, 1]}, "seats": {"kind": "allocation", "unit": "seat"}, "calls": {"kind": "rate", "period": "1 minute", "burst": 10}}, "plans": {"free": {"kind": "base", "features": {"support": "community", "exports": 10, "seats": 3}}, "team": {"kind": "base", "extends": "free", "rank": 10, "features": {"sso": true, "support": "standard", "exports": "unlimited", "seats": {"amount": 1, "per_unit": true}, "calls": 100}}, "extra_seats": {"kind": "addon", "features": {"seats": {"amount": 5, "per_unit": true}}}}, "prices": {"stripe": {"price_1": {"plan": "team"}}}}'
SELECT action, object, key, detail, accounts_affected FROM entitlements.apply_catalog(:'document', dry_run => true);
SELECT count(*) AS features FROM entitlements.features;
SELECT action, object, key FROM entitlements.apply_catalog(:'document');
SELECT action, object, key FROM entitlements.apply_catalog(:'document');
SELECT action, object, key FROM entitlements.apply_catalog(:'document'::jsonb);
SELECT jsonb_pretty(entitlements.export_catalog());
SELECT count(*) AS changes FROM entitlements.apply_catalog(entitlements.export_catalog());

-- What a plan version holds, its own and what it inherits.
SELECT plan.key AS plan, version.version, feature.key AS feature, enabled, config, amount, per_unit, inherited
FROM entitlements.plan_features AS cell
JOIN entitlements.plan_versions AS version ON version.id = cell.plan_version_id
JOIN entitlements.plans AS plan ON plan.id = version.plan_id
JOIN entitlements.features AS feature ON feature.id = cell.feature_id
ORDER BY 1, 2, 3;

-- A change publishes the plan and those that extend it; what was sold stays, and who follows the latest has it at once.
SELECT entitlements.subscribe('pinned', 'team') AS pinned, entitlements.subscribe('latest', 'team', version_policy => 'latest') AS latest;
SELECT action, object, key, detail, accounts_affected
FROM entitlements.apply_catalog('{"plans": {"free": {"features": {"support": "community", "exports": 20, "seats": 3}}, "team": {"features": {"support": "standard", "seats": 7}}}}');
SELECT account, entitlements.allowance(account, 'exports') AS exports, entitlements.allowance(account, 'seats') AS seats, entitlements.entitled(account, 'sso') AS sso
FROM unnest(ARRAY['latest', 'pinned']) AS account;

-- Moving customers to another version, by a dry run first.
SELECT subscription, account, from_version, to_version, quantity FROM entitlements.migrate_subscriptions('team', 1, 2, dry_run => true);
SELECT subscription, account, from_version, to_version, quantity FROM entitlements.migrate_subscriptions('team', 1, 2, reason => 'sunset');
SELECT subscription, account, from_version, to_version, quantity FROM entitlements.migrate_subscriptions('team', 1, 2);
SELECT entitlements.allowance('pinned', 'exports') AS exports;

-- Drafts.
SELECT entitlements.define_feature('audit', 'flag', '{"name": "Audit log"}');
SELECT entitlements.define_plan('business', extends => 'team', rank => 20, name => 'Business');
SELECT entitlements.set_plan_feature('business', 'audit', 'true');
SELECT entitlements.set_plan_feature('business', 'sso', 'null');
SELECT entitlements.set_plan_feature('business', 'seats', '"unlimited"');
SELECT key, base_version, definition FROM entitlements.plan_drafts;
SELECT count(*) AS published FROM entitlements.plans WHERE key = 'business';
SELECT entitlements.publish_plan('business') AS version;
SELECT entitlements.publish_plan('business') AS still;
SELECT entitlements.set_plan_feature('business', 'seats', NULL);
SELECT entitlements.discard_draft('business') AS discarded, entitlements.discard_draft('business') AS again;

-- Retired: nobody new, and those who have it keep it.
SELECT action, object, key FROM entitlements.apply_catalog('{"plans": {"free": {"archived": true}}, "prices": {"stripe": {"price_1": null}}}');
SAVEPOINT before;
SELECT entitlements.subscribe('newcomer', 'free');
ROLLBACK TO before;
SELECT action, object, key FROM entitlements.apply_catalog('{"plans": {"free": {"archived": false}}}');

-- Faults: all of them, with their places.
SAVEPOINT before;
\set VERBOSITY terse
SELECT entitlements.apply_catalog('{"features": {"sso": {"kind": "flag", "unit": "x"}, "quota": {"kind": "quotum"}, "": {"kind": "flag"}}, "plans": {"free": {"features": {"seats": -1, "exports": "many", "support": "gold", "nosuch": true}}, "a": {"kind": "base", "extends": "b"}, "b": {"kind": "base", "extends": "a"}}, "pirces": {}}');
ROLLBACK TO before;
\set VERBOSITY default
DO $$
DECLARE
    faults jsonb;
BEGIN
    PERFORM entitlements.apply_catalog('{"features": {"sso": {"kind": "flag", "unit": "x"}, "quota": {"kind": "quotum"}, "": {"kind": "flag"}}, "plans": {"free": {"features": {"seats": -1, "exports": "many", "support": "gold", "nosuch": true}}, "a": {"kind": "base", "extends": "b"}, "b": {"kind": "base", "extends": "a"}}, "pirces": {}}');
EXCEPTION WHEN SQLSTATE 'NE008' THEN
    GET STACKED DIAGNOSTICS faults = PG_EXCEPTION_DETAIL;
    RAISE NOTICE '%', jsonb_pretty(faults);
END
$$;
\set VERBOSITY sqlstate

\set ON_ERROR_ROLLBACK on
-- Fixed once published; changed by somebody else meanwhile.
SELECT entitlements.apply_catalog('{"features": {"sso": {"kind": "quota"}}}');
SELECT entitlements.apply_catalog('{"features": {"sso": {"combine": "all"}}}');
SELECT entitlements.apply_catalog('{"plans": {"extra_seats": {"kind": "base"}}}');
SELECT entitlements.apply_catalog('{"revision": 1, "features": {"new": {"kind": "flag"}}}');
SELECT entitlements.set_plan_feature('team', 'seats', '9');
SELECT count(*) AS published FROM entitlements.apply_catalog('{"plans": {"team": {"rank": 11}}}');
SELECT entitlements.publish_plan('team');
-- Unknown and malformed.
SELECT entitlements.apply_catalog('{');
SELECT entitlements.apply_catalog(NULL::text);
SELECT entitlements.publish_plan('nosuch');
SELECT entitlements.set_plan_feature('team', 'nosuch', 'true');
SELECT entitlements.set_plan_feature('team', 'sso', '5');
SELECT entitlements.set_plan_feature('nosuch', 'sso', 'true');
SELECT entitlements.define_plan('a b');
SELECT entitlements.define_feature('x', 'flag', '[]');
SELECT entitlements.migrate_subscriptions('team', 1, 99);
SELECT entitlements.migrate_subscriptions('team', 2, 2);
SELECT entitlements.migrate_subscriptions('team', 1, 2, ARRAY['nobody']);
ROLLBACK;
