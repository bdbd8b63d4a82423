-- Why: every kind of line that explain writes. Times of recording are those of this transaction and masked.
\set VERBOSITY sqlstate
\set ON_ERROR_ROLLBACK on
\pset format unaligned
\pset tuples_only on
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
DROP EXTENSION entitlements;
CREATE EXTENSION entitlements;
BEGIN;
SELECT count(*) FROM entitlements.apply_catalog('{
    "features": {
        "sso":     {"kind": "flag"},
        "support": {"kind": "config"},
        "exports": {"kind": "quota", "unit": "export", "period": "1 month"},
        "seats":   {"kind": "allocation", "unit": "seat"}},
    "plans": {
        "free": {"kind": "base", "features": {"support": "community", "exports": 10, "seats": 3}},
        "team": {"kind": "base", "extends": "free", "rank": 10,
                 "features": {"sso": true, "support": "standard", "exports": "unlimited", "seats": {"amount": 1, "per_unit": true}}},
        "more": {"kind": "addon", "features": {"seats": {"amount": 5, "per_unit": true}}}}}');

-- Masks what differs from run to run: who recorded it and when, and the moment of this transaction.
CREATE FUNCTION why(account text, feature text, at timestamptz DEFAULT now()) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT regexp_replace(regexp_replace(line, 'by \S+ at [^,]+', 'by WHO at WHEN'), to_char(now(), 'YYYY-MM-DD') || ' [0-9:.]+\+00(:00)?', 'NOW', 'g')
    FROM entitlements.explain(account, feature, at) AS line
$$;

SELECT entitlements.define_account('group', time_zone => 'Europe/Vienna') > 0;
SELECT entitlements.subscribe('group', 'team', quantity => 20, starts_at => '2020-01-01', ends_at => '2120-01-01', source => 'stripe', source_ref => 'so-17', reason => 'ordered online') > 0;
SELECT entitlements.subscribe('group', 'more', quantity => 2, starts_at => '2020-01-01', source => 'stripe', source_ref => 'so-17', version_policy => 'latest') > 0;
SELECT entitlements.define_account('acme', 'group') > 0;
SELECT entitlements.subscribe('acme', 'free', starts_at => '2020-01-01') > 0;
SELECT entitlements.subscribe('acme', 'team', starts_at => '2019-01-01', ends_at => '2020-01-01', reason => 'the old contract') > 0;
SELECT entitlements.subscribe('acme', 'team', starts_at => '2120-01-01', status => 'trialing', ends_at => '2120-02-01') > 0;

\echo '-- its own, and what does not count'
SELECT why('acme', 'seats');
\echo '-- inherited'
SELECT why('acme', 'sso');
\echo '-- several'
SELECT why('group', 'seats');
\echo '-- config, by rank'
SELECT why('group', 'support');
\echo '-- nobody'
SELECT why('nobody', 'sso');

SELECT entitlements.change_subscription(3, status => 'past_due', grace_until => '2120-03-01', reason => 'card declined');
SELECT entitlements.set_override('acme', 'seats', 'add', '2', 'a favour', '2119-01-01', 'sales') > 0;
\echo '-- past due, and an override that adds'
SELECT why('acme', 'seats');
SELECT entitlements.set_override('acme', 'seats', 'set', '"unlimited"', 'promised in the renewal call') > 0;
SELECT entitlements.set_override('acme', 'seats', 'deny', NULL, 'by court order', source => 'legal') > 0;
SELECT entitlements.block('acme', 'fraud', 'chargeback') > 0;
SELECT entitlements.block('acme', 'billing', 'unpaid', 'seats') > 0;
\echo '-- everything at once'
SELECT why('acme', 'seats');
\echo '-- a parent that is blocked passes nothing on'
SELECT why('acme', 'sso');
SELECT entitlements.block('group', 'legal', 'sanctions') > 0;
SELECT why('acme', 'sso');

\echo '-- a time in the past: what was believed then, and what is known now'
SELECT why('group', 'seats', '2021-06-01 12:00+00');
\echo '-- a time in the future'
SELECT why('group', 'seats', '2121-01-01 12:00+00');
\echo '-- the session''s time zone'
SET TimeZone = 'America/New_York';
SELECT why('group', 'sso', '2121-01-01 12:00+00') LIMIT 1;
SET TimeZone = 'UTC';

\echo '-- as json'
SELECT jsonb_pretty(line::jsonb #- '{rows,0,recorded_at}' #- '{rows,0,by}' #- '{rows,1,recorded_at}' #- '{rows,1,by}' #- '{rows,2}')
FROM entitlements.explain('group', 'seats', '2100-01-01', 'json') AS line;

SELECT entitlements.explain('acme', 'nosuch');
SELECT entitlements.explain(NULL, 'sso');
SELECT entitlements.explain('acme', 'sso', NULL);
SELECT entitlements.explain('acme', 'sso', now(), 'yaml');
ROLLBACK;
