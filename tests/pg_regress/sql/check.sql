-- The check family: every kind of feature, every form of an account, every way to be without.
\set VERBOSITY sqlstate
\set ON_ERROR_ROLLBACK on
\pset null '(null)'
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
DROP EXTENSION entitlements;
CREATE EXTENSION entitlements;
BEGIN;
SELECT count(*) AS changes FROM entitlements.apply_catalog('{
    "features": {
        "sso":     {"kind": "flag"},
        "support": {"kind": "config", "schema": {"enum": ["community", "standard"]}},
        "limits":  {"kind": "config"},
        "exports": {"kind": "quota", "unit": "export", "period": "1 month"},
        "seats":   {"kind": "allocation", "unit": "seat"},
        "calls":   {"kind": "rate", "period": "1 second"}},
    "plans": {
        "free": {"kind": "base", "features": {"sso": false, "support": "community", "exports": 10, "seats": 3}},
        "team": {"kind": "base", "extends": "free", "rank": 10,
                 "features": {"sso": true, "support": "standard", "limits": {"depth": [1, 2.50], "size": 12345678901234567890.12345}, "exports": "unlimited",
                              "seats": {"amount": 1.5, "per_unit": true}, "calls": 100}},
        "more": {"kind": "addon", "features": {"seats": {"amount": 5, "per_unit": true}, "exports": 7, "calls": 899999999999999999.999999999}}}}');
SELECT entitlements.subscribe('hobby', 'free', starts_at => '2020-01-01') AS hobby,
       entitlements.subscribe('acme', 'team', quantity => 20, starts_at => '2020-01-01', ends_at => '2120-01-01') AS acme,
       entitlements.subscribe('acme', 'more', quantity => 2, starts_at => '2020-01-01', ends_at => '2110-01-01') AS more,
       entitlements.subscribe('42', 'free', starts_at => '2020-01-01') AS number,
       entitlements.subscribe('00000000-0000-0000-0000-00000000002a', 'team', starts_at => '2020-01-01') AS uuid,
       entitlements.subscribe('over', 'team', starts_at => '2020-01-01', ends_at => '2021-01-01') AS over,
       entitlements.subscribe('early', 'team', starts_at => '2120-01-01') AS early;

SELECT account, entitlements.entitled(account, 'sso') AS sso, entitlements.value_of(account, 'support') AS support,
       entitlements.value_of(account, 'limits') AS limits, entitlements.allowance(account, 'exports') AS exports,
       entitlements.value_of(account, 'exports') AS exports_value, entitlements.allowance(account, 'seats') AS seats,
       entitlements.allowance(account, 'calls') AS calls
FROM unnest(ARRAY['hobby', 'acme', 'over', 'early', 'nobody', '', NULL]) AS account;

-- Whatever type the application's key has.
SELECT entitlements.entitled(42, 'seats') AS number, entitlements.entitled('00000000-0000-0000-0000-00000000002a'::uuid, 'sso') AS uuid,
       entitlements.require(42, 'seats') AS require, entitlements.value_of(42, 'support') AS value_of, entitlements.allowance(42, 'seats') AS allowance,
       (entitlements.check_access(42, 'seats')).allowed AS check_access, (SELECT count(*) FROM entitlements.entitlements_of(42)) AS entitlements_of;

-- What a check answers, with its reason.
SELECT d.allowed, d.reason, d.account, d.feature, d.kind, d.allowance, d.used, d.remaining, d.requested, d.consumed, d.overage, d.resets_at = date_trunc('month', now()) + interval '1 month' AS with_the_month, d.expires_at
FROM (VALUES ('hobby', 'sso', 1), ('hobby', 'exports', 10), ('hobby', 'exports', 10.5), ('acme', 'sso', 1), ('acme', 'exports', 1e15), ('acme', 'seats', 40),
             ('acme', 'seats', 41), ('over', 'sso', 1), ('early', 'sso', 1), ('nobody', 'sso', 1), (NULL, 'sso', 1)) AS asked (account, feature, n),
     entitlements.check_access(asked.account, asked.feature, asked.n) AS d;

SELECT feature, kind, granted, value, allowance, reason, expires_at, valid_until FROM entitlements.entitlements_of('acme');
SELECT count(*) AS nobody FROM entitlements.entitlements_of('nobody');
SELECT entitlements.entitled_accounts('sso');
SELECT entitlements.entitled_accounts('seats');

-- A change is seen by the next statement of the same transaction.
SELECT entitlements.set_override('hobby', 'sso', 'set', 'true', 'a favour') AS override;
SELECT entitlements.entitled('hobby', 'sso');
SELECT entitlements.block('hobby', 'billing', 'unpaid') AS block;
SELECT entitlements.entitled('hobby', 'sso') AS entitled, (entitlements.check_access('hobby', 'sso')).reason;
SELECT entitlements.unblock('hobby', 'billing', 'paid') AS unblocked;
SELECT entitlements.set_override('hobby', 'sso', 'deny', NULL, 'no more', source => 'legal') AS override;
SELECT entitlements.entitled('hobby', 'sso') AS entitled, (entitlements.check_access('hobby', 'sso')).reason;

-- What a policy does.
CREATE TABLE reports (account_id text, title text);
INSERT INTO reports SELECT account, title FROM unnest(ARRAY['hobby', 'acme', 'over', NULL]) AS account, unnest(ARRAY['July', 'August']) AS title;
SELECT account_id, title FROM reports WHERE entitlements.entitled(account_id, 'sso') ORDER BY 1, 2;
SELECT account_id, title FROM reports WHERE entitlements.require(account_id, 'seats') ORDER BY 1, 2;

SELECT entitlements.require('acme', 'sso');
SELECT entitlements.require('hobby', 'sso');
SELECT entitlements.require('nobody', 'sso');
SELECT entitlements.entitled('acme', 'ss0');
SELECT entitlements.entitled('acme', NULL);
SELECT entitlements.entitled('nobody', 'nosuch');
SELECT entitlements.value_of('acme', NULL);
SELECT entitlements.allowance('acme', 'sso');
SELECT entitlements.check_access('acme', 'seats', 0);
SELECT entitlements.check_access('acme', 'seats', -1);
SELECT entitlements.check_access('acme', 'seats', 'NaN');
SELECT entitlements.check_access('acme', 'seats', NULL);
SELECT entitlements.entitled_accounts('nosuch');

-- An error in full.
\set VERBOSITY default
SELECT entitlements.require('hobby', 'sso');
SELECT entitlements.entitled('acme', 'ss0');
SELECT entitlements.allowance('acme', 'sso');
ROLLBACK;
