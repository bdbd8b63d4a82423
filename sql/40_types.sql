-- The records that functions answer with.

CREATE TYPE entitlements.decision AS (
    allowed    boolean,
    reason     text,
    account    text,
    feature    text,
    kind       text,
    allowance  numeric,
    used       numeric,
    remaining  numeric,
    requested  numeric,
    consumed   numeric,
    overage    numeric,
    resets_at  timestamptz,
    expires_at timestamptz
);
COMMENT ON TYPE entitlements.decision IS
    'An answer with its reason: granted, not_granted, unknown_account, blocked, override_denied, expired, limit_exceeded, rate_limited, '
    'clock_rollback or bundle_stale. Amounts are in the feature''s unit and NULL for features that are not metered; allowance and '
    'remaining are also NULL where there is no limit. resets_at is when usage starts again at zero, for a rate when the '
    'same request would be allowed. expires_at is when the grant ends if nothing changes, NULL if it does not.';

CREATE TYPE entitlements.entitlement AS (
    account     text,
    feature     text,
    kind        text,
    granted     boolean,
    value       jsonb,
    allowance   numeric,
    reason      text,
    expires_at  timestamptz,
    valid_until timestamptz
);
COMMENT ON TYPE entitlements.entitlement IS
    'What an account is entitled to of one feature. allowance is NULL where there is no limit and for features that are not metered. '
    'valid_until is the earliest time at which the answer can change by itself, NULL if it cannot.';

CREATE TYPE entitlements.catalog_change AS (
    action            text,
    object            text,
    key               text,
    detail            jsonb,
    accounts_affected bigint
);
COMMENT ON TYPE entitlements.catalog_change IS
    'A change of the catalog: action is create, update, publish, archive, restore or remove; object is feature, plan or price; '
    'accounts_affected counts the accounts whose entitlements it changes at once, with those below them that may inherit: those that follow the '
    'plan''s latest version, or have the feature whose rule it changes.';

CREATE TYPE entitlements.migrated_subscription AS (
    subscription bigint,
    account      text,
    from_version integer,
    to_version   integer,
    quantity     integer,
    starts_at    timestamptz
);
COMMENT ON TYPE entitlements.migrated_subscription IS
    'A stretch of a subscription that migrate_subscriptions moved: it holds to_version from starts_at on.';
