-- Accounts and what they hold, through a life. One transaction, so that now() stands still.
\set VERBOSITY sqlstate
\set ON_ERROR_ROLLBACK on
\pset null '(null)'
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
DROP EXTENSION entitlements;
CREATE EXTENSION entitlements;
BEGIN;
SELECT count(*) AS changes FROM entitlements.apply_catalog('{
    "features": {"sso": {"kind": "flag"}, "support": {"kind": "config", "schema": {"enum": ["community", "standard"]}}, "seats": {"kind": "allocation", "unit": "seat"}},
    "plans": {"free": {"kind": "base", "features": {"support": "community", "seats": 3}},
              "team": {"kind": "base", "extends": "free", "rank": 10, "features": {"sso": true, "support": "standard", "seats": {"amount": 1, "per_unit": true}}}}}');

-- What is believed of a subscription, as of times; now is the moment of this transaction.
CREATE FUNCTION moment(at timestamptz) RETURNS text LANGUAGE sql AS $$ SELECT CASE WHEN at = now() THEN 'now' ELSE at::text END $$;
CREATE FUNCTION life(of bigint) RETURNS TABLE (plan text, version integer, quantity integer, status text, starts_at text, ends_at text, grace_until text, reason text)
LANGUAGE sql AS $$
    SELECT plan.key, version.version, quantity, status, moment(starts_at), moment(ends_at), moment(grace_until), reason
    FROM entitlements.subscriptions AS held
    JOIN entitlements.plans AS plan ON plan.id = held.plan_id
    LEFT JOIN entitlements.plan_versions AS version ON version.id = held.plan_version_id
    WHERE held.id = of AND superseded_at IS NULL
    ORDER BY held.starts_at, held.ends_at
$$;

-- A trial that becomes a term.
SELECT entitlements.subscribe('acme', 'team', quantity => 5, starts_at => '2020-01-01', ends_at => '2121-01-01', trial_until => '2020-02-01', source => 'stripe', source_ref => 'so-1', reason => 'ordered') AS id;
SELECT * FROM life(1);
-- From now on, then from a later time on; the same again is no change.
SELECT entitlements.change_subscription(1, quantity => 8, reason => 'grew');
SELECT entitlements.change_subscription(1, quantity => 8);
SELECT entitlements.change_subscription(1, plan => 'free', at => '2100-01-01', reason => 'downgrade at renewal');
SELECT * FROM life(1);
-- What was is still there.
SELECT count(*) AS rows, count(superseded_at) AS superseded FROM entitlements.subscriptions WHERE id = 1;
-- Past due until the grace is over, then paid.
SELECT entitlements.change_subscription(1, status => 'past_due', grace_until => '2121-02-01', reason => 'card declined');
SELECT * FROM life(1);
SELECT entitlements.change_subscription(1, status => 'active', reason => 'paid');
-- Renewed before the end: from the old end.
SELECT entitlements.renew_subscription(1, '2122-01-01', 'renewed') AS starts_at;
SELECT * FROM life(1);
-- An end, and with it what was scheduled after.
SELECT entitlements.end_subscription(1, '2090-01-01', 'canceled by customer');
SELECT entitlements.end_subscription(1, '2090-01-01', 'canceled by customer');
SELECT * FROM life(1);

-- In grace a renewal starts at the old end, later it starts now.
SELECT entitlements.subscribe('late', 'team', starts_at => '2020-01-01', ends_at => '2021-01-01') AS id;
SELECT entitlements.change_subscription(2, status => 'past_due', grace_until => '2121-02-01');
SELECT * FROM life(2);
SELECT entitlements.renew_subscription(2, '2122-01-01') AS starts_at;
SELECT entitlements.subscribe('later', 'team', starts_at => '2020-01-01', ends_at => '2021-01-01') AS id;
SELECT moment(entitlements.renew_subscription(3, '2122-01-01')) AS starts_at;

-- Pinned and latest.
SELECT entitlements.subscribe('modern', 'team', version_policy => 'latest') AS id;
SELECT count(*) AS changes FROM entitlements.apply_catalog('{"plans": {"team": {"features": {"sso": true, "seats": 50}}}}');
SELECT entitlements.value_of('modern', 'seats') AS latest, entitlements.value_of('late', 'seats') AS pinned;
SELECT entitlements.change_subscription(4, version_policy => 'pinned'), entitlements.change_subscription(2, version_policy => 'latest');
SELECT version FROM life(4);
SELECT entitlements.value_of('late', 'seats') AS follows_now;

-- Overrides: one of each source is live; deny beats set beats add.
SELECT entitlements.set_override('late', 'seats', 'add', '5', 'a favour', source => 'sales') AS id;
SELECT entitlements.value_of('late', 'seats');
SELECT entitlements.set_override('late', 'seats', 'set', '"unlimited"', 'promised', '2121-01-01') AS id;
SELECT entitlements.value_of('late', 'seats');
SELECT entitlements.set_override('late', 'seats', 'deny', NULL, 'no', source => 'legal') AS id;
SELECT entitlements.value_of('late', 'seats');
SELECT entitlements.clear_override(3, 'settled'), entitlements.clear_override(3, 'settled');
SELECT entitlements.set_override('late', 'seats', 'set', '7', 'promised less') AS id;
SELECT id, mode, amount, reason, source, moment(expires_at) AS expires_at, ended_at IS NOT NULL AS ended, ended_reason FROM entitlements.overrides ORDER BY id;

-- Blocks: each source lifts its own.
SELECT entitlements.block('late', 'billing', 'unpaid') AS id, entitlements.block('late', 'billing', 'unpaid') AS same;
SELECT entitlements.block('late', 'fraud', 'chargeback', 'sso') AS id;
SELECT entitlements.unblock('late', 'legal', 'not mine'), entitlements.unblock('late', 'billing', 'paid'), entitlements.unblock('late', 'fraud', 'of all');
SELECT entitlements.entitled('late', 'sso') AS sso, entitlements.entitled('late', 'seats') AS seats;

-- Parents.
SELECT entitlements.define_account('group', time_zone => 'Europe/Vienna', metadata => '{"segment": "enterprise"}') = entitlements.define_account('group') AS same;
SELECT entitlements.subscribe('group', 'team') AS id;
SELECT entitlements.define_account('unit', 'group') > 0 AS defined;
SELECT entitlements.entitled('unit', 'sso') AS inherits;
SELECT entitlements.define_account('unit', '') > 0 AS taken_out;
SELECT entitlements.entitled('unit', 'sso') AS inherits;
SELECT key, time_zone, metadata FROM entitlements.accounts WHERE key IN ('group', 'unit') ORDER BY key;
SELECT entitlements.define_account('unit', 'group') > 0 AS below;
SELECT entitlements.define_account('group', 'unit');

-- Handing out and erasing.
SELECT entitlements.subscribe('person', 'team', source_ref => 'a@example.com', reason => 'called Jo', metadata => '{"name": "Jo"}') AS id;
SELECT jsonb_object_keys(export) AS part FROM entitlements.export_account('person') AS export;
SELECT export #>> '{subscriptions,0,plan}' AS plan, export #>> '{subscriptions,0,source_ref}' AS ref FROM entitlements.export_account('person') AS export;
SELECT entitlements.erase_account('person', 'asked for') AS erased \gset
SELECT key = 'erased:' || id AS renamed, erased_at = now() AS now, metadata FROM entitlements.accounts WHERE id = :erased;
SELECT source_ref, reason, metadata FROM entitlements.subscriptions WHERE id = 6;
SELECT count(*) AS entries, count(content) AS with_content FROM entitlements.audit_log JOIN entitlements.accounts ON accounts.id = chain_id WHERE erased_at IS NOT NULL;
SELECT entitlements.entitled('person', 'sso');
SELECT count(*) AS faults FROM entitlements.verify_audit();
SELECT entitlements.subscribe('person', 'free') AS another_person;

-- Refusals.
SELECT entitlements.subscribe('acme', 'nosuch');
SELECT entitlements.subscribe('acme', 'team', 99);
SELECT entitlements.subscribe('', 'team');
SELECT entitlements.subscribe('acme', 'team', quantity => 0);
SELECT entitlements.subscribe('acme', 'team', ends_at => '2001-01-01');
SELECT entitlements.subscribe('acme', 'team', status => 'past_due');
SELECT entitlements.subscribe('acme', 'team', 1, version_policy => 'latest');
SELECT entitlements.subscribe('acme', 'team', source => '');
SELECT entitlements.subscribe('acme', 'team', source_ref => repeat('x', 256));
SELECT entitlements.change_subscription(99, quantity => 2);
SELECT entitlements.change_subscription(1);
SELECT entitlements.change_subscription(1, status => 'past_due');
SELECT entitlements.renew_subscription(4, '2122-01-01');
SELECT entitlements.renew_subscription(1, '2001-01-01');
SELECT entitlements.end_subscription(1, 'infinity');
SELECT entitlements.set_override('nobody', 'sso', 'set', 'true', 'why');
SELECT entitlements.set_override('acme', 'nosuch', 'set', 'true', 'why');
SELECT entitlements.set_override('acme', 'sso', 'set', 'true', '');
SELECT entitlements.set_override('acme', 'sso', 'set', '5', 'why');
SELECT entitlements.set_override('acme', 'sso', 'add', '5', 'why');
SELECT entitlements.set_override('acme', 'support', 'set', '"gold"', 'why');
SELECT entitlements.set_override('acme', 'seats', 'deny', '5', 'why');
SELECT entitlements.clear_override(99, 'why');
SELECT entitlements.block('nobody', 'fraud', 'why');
SELECT entitlements.block('acme', 'fraud', NULL);
SELECT entitlements.define_account('unit', 'nobody');
SELECT entitlements.define_account('unit', time_zone => 'Europe/Nowhere');
SELECT entitlements.define_account('unit', metadata => '[]');
SELECT entitlements.define_account('erased:7');
SELECT entitlements.erase_account('group', 'has a child');
SELECT entitlements.export_account('nobody');
ROLLBACK;
