-- A vendor with :accounts customers, each with a subscription and two overrides.
CREATE EXTENSION entitlements;
SELECT entitlements.set_deployment('https://vendor.example');
SELECT entitlements.apply_catalog('{
    "features": {"sso": {"kind": "flag"}, "support": {"kind": "config"}, "calls": {"kind": "quota", "period": "1 month"}, "seats": {"kind": "allocation"}},
    "plans": {"team": {"kind": "base", "features": {"sso": true, "support": "standard", "calls": 1000, "seats": {"amount": 1, "per_unit": true}}}}}');
INSERT INTO entitlements.accounts (key, created_at) SELECT 'customer-' || n, now() FROM generate_series(1, :accounts) AS n;
INSERT INTO entitlements.subscriptions (id, account_id, plan_id, plan_version_id, status, quantity, starts_at, ends_at, term_starts_at, source, recorded_at, recorded_by)
SELECT account.id, account.id, version.plan_id, version.id, 'active', 5, date_trunc('second', now()) - interval '1 month', date_trunc('second', now()) + interval '11 months',
       date_trunc('second', now()) - interval '1 month', 'bench', now(), 'bench'
  FROM entitlements.accounts AS account, entitlements.plan_versions AS version;
INSERT INTO entitlements.overrides (account_id, feature_id, kind, mode, amount, reason, source, created_by, starts_at)
SELECT account.id, feature.id, feature.kind, 'add', 5, 'goodwill', 'bench', 'bench', now()
  FROM entitlements.accounts AS account, entitlements.features AS feature WHERE feature.key IN ('calls', 'seats');
ANALYZE;
