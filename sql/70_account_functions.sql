-- Accounts and what they hold. Each function changes one account, in its turn, and records the change in the audit log.
-- TimeZone is pinned so that times in audit entries and exports are UTC whatever the client has set.

CREATE FUNCTION entitlements.define_account(
    account text, parent text DEFAULT NULL, time_zone text DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'define_account_wrapper';
COMMENT ON FUNCTION entitlements.define_account(text, text, text, jsonb) IS
    'Creates the account or changes what is given of it, and returns its id. NULL leaves a property as it is; a new account has no parent, '
    'time zone UTC and no metadata. parent '''' takes it out from below its parent; metadata, an object, is replaced as a whole. '
    'NE006 unknown parent, NE007 invalid key, time zone or metadata, NE009 the account would inherit from itself or have more than 15 accounts above it, '
    'or it or its parent is erased.';

CREATE FUNCTION entitlements.subscribe(
    account text, plan text, version integer DEFAULT NULL, quantity integer DEFAULT 1, starts_at timestamptz DEFAULT pg_catalog.now(),
    ends_at timestamptz DEFAULT NULL, version_policy text DEFAULT 'pinned', source text DEFAULT 'manual', source_ref text DEFAULT NULL,
    reason text DEFAULT NULL, metadata jsonb DEFAULT NULL, status text DEFAULT 'active', trial_until timestamptz DEFAULT NULL
) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'subscribe_wrapper';
COMMENT ON FUNCTION entitlements.subscribe(
    text, text, integer, integer, timestamptz, timestamptz, text, text, text, text, jsonb, text, timestamptz) IS
    'Gives the account (created if unknown) quantity units of the plan from starts_at until ends_at, exclusive; NULL = no end. Returns the '
    'subscription''s id. The version stays as bought, by default the latest one published; version_policy ''latest'' follows each publication and takes no version. '
    'Until trial_until the status is trialing. status is active, trialing, or canceled with an end. Several subscriptions may share a source_ref. '
    'NE005 unknown plan or version, NE007 invalid or missing argument, NE009 the plan is archived or the account erased.';

CREATE FUNCTION entitlements.change_subscription(
    id bigint, plan text DEFAULT NULL, version integer DEFAULT NULL, quantity integer DEFAULT NULL, status text DEFAULT NULL,
    grace_until timestamptz DEFAULT NULL, ends_at timestamptz DEFAULT NULL, version_policy text DEFAULT NULL,
    at timestamptz DEFAULT pg_catalog.now(), reason text DEFAULT NULL, metadata jsonb DEFAULT NULL, source text DEFAULT NULL, source_ref text DEFAULT NULL
) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'change_subscription_wrapper';
COMMENT ON FUNCTION entitlements.change_subscription(
    bigint, text, integer, integer, text, timestamptz, timestamptz, text, timestamptz, text, jsonb, text, text) IS
    'Changes what is given, from the moment at on: in the future a scheduled change, in the past a correction. What is scheduled later is changed too; NULL '
    'leaves as it is. Another plan comes in its latest version unless version says otherwise; version_policy ''pinned'' alone fixes the version followed so far. '
    'status past_due needs grace_until, until when it still grants; it may lie beyond the end, and after the end counts from it. Another status ends '
    'the grace period. ends_at moves the end, ''infinity'' removes it. False if all is so already. NE005 unknown plan or version, NE007 invalid argument, '
    'NE009 the term has ended, the plan is archived or the account erased, NE010 unknown subscription.';

CREATE FUNCTION entitlements.renew_subscription(id bigint, until timestamptz, reason text DEFAULT NULL) RETURNS timestamptz
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'renew_subscription_wrapper';
COMMENT ON FUNCTION entitlements.renew_subscription(bigint, timestamptz, text) IS
    'Adds a term until the given time and returns its start: before the end and in grace the old end, later now. The running term stays as it is, but what '
    'is past due becomes active. A canceled subscription is active again for the new term. A second renewal adds a second term. '
    'NE007 until is not later than the start of the new term, NE009 the subscription has no end or the account is erased, NE010 unknown subscription.';

CREATE FUNCTION entitlements.end_subscription(id bigint, ends_at timestamptz DEFAULT pg_catalog.now(), reason text DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'end_subscription_wrapper';
COMMENT ON FUNCTION entitlements.end_subscription(bigint, timestamptz, text) IS
    'Ends the subscription at ends_at, with any grace period and what is scheduled later. Until then it is canceled, which grants as before. False '
    'if it has ended already. NE007 ends_at is infinite or later than the present end, NE009 the account is erased, NE010 unknown subscription.';

CREATE FUNCTION entitlements.set_override(
    account text, feature text, mode text, value jsonb, reason text, expires_at timestamptz DEFAULT NULL, source text DEFAULT 'manual'
) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'set_override_wrapper';
COMMENT ON FUNCTION entitlements.set_override(text, text, text, jsonb, text, timestamptz, text) IS
    'Makes an exception for the account and feature, in the place of the live one of the same source, until expires_at, exclusive; NULL = until cleared. Returns its id. '
    'mode set: value instead of what the plans give; add: an amount on top, metered features only; deny: value is NULL. value is true or false for a flag, what the '
    'schema allows for a config feature, a number in the feature''s unit or "unlimited" for a metered one. '
    'NE003 unknown feature, NE006 unknown account, NE007 invalid or missing argument, NE009 the account is erased.';

CREATE FUNCTION entitlements.clear_override(id bigint, reason text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'clear_override_wrapper';
COMMENT ON FUNCTION entitlements.clear_override(bigint, text) IS
    'Ends the override now. False if it is not live any more. NE007 reason is missing, NE009 the account is erased, NE010 unknown override.';

CREATE FUNCTION entitlements.block(account text, source text, reason text, feature text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'block_wrapper';
COMMENT ON FUNCTION entitlements.block(text, text, text, text) IS
    'Suspends the account, or only its use of the feature, until the same source lifts it. Returns the block''s id. A source that blocks twice for '
    'the same reason gets the block that is there; with another reason the new one replaces it. '
    'NE003 unknown feature, NE006 unknown account, NE007 source or reason is missing, or source longer than 255 bytes, NE009 the account is erased.';

CREATE FUNCTION entitlements.unblock(account text, source text, reason text, feature text DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'unblock_wrapper';
COMMENT ON FUNCTION entitlements.unblock(text, text, text, text) IS
    'Lifts the source''s block of the account (feature NULL) or of the one feature. False if there is none. '
    'NE003 unknown feature, NE006 unknown account, NE007 source or reason is missing, or source longer than 255 bytes, NE009 the account is erased.';

CREATE FUNCTION entitlements.export_account(account text) RETURNS jsonb
    LANGUAGE c STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'export_account_wrapper';
COMMENT ON FUNCTION entitlements.export_account(text) IS
    'All that is stored about the account: its own row and those of its former parents, subscriptions, overrides, blocks, credits, usage, reservations, seats, idempotency '
    'keys, ledger, rates, licences, delegations and audit entries, past ones too, with the keys of plans and features; times are UTC. Changes nothing, also works on a standby. NE006 unknown account, NE007 account is NULL.';

CREATE FUNCTION entitlements.erase_account(account text, reason text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'erase_account_wrapper';
COMMENT ON FUNCTION entitlements.erase_account(text, text) IS
    'Ends all that the account holds and erases what the application wrote about it: key, metadata, references, reasons, config values of overrides, holders of seats, '
    'idempotency keys, metadata of reservations and the ledger, holders of licences, contents of audit entries. What remains says that somebody held and used what when; the audit '
    'chain still verifies. What calls under way commit later, maintain() removes; signed usage reports stay. The reason given here stays. The key becomes erased:id, and the former one is free. Returns the id. NE006 unknown account, NE007 reason is missing, NE009 other accounts are below it or it is erased already.';
