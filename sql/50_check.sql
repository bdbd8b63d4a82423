-- The check family. STABLE and PARALLEL SAFE; no transaction id, no SPI: they read the tables with the query's own snapshot.

CREATE FUNCTION entitlements.entitled_support(internal) RETURNS internal
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'entitled_support';
COMMENT ON FUNCTION entitlements.entitled_support(internal) IS
    'Planner support of entitled: selectivity is the share of accounts that are granted the feature, from a sample; cost is that of a remembered answer.';

CREATE FUNCTION entitlements.entitled(account text, feature text) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE SUPPORT entitlements.entitled_support AS 'MODULE_PATHNAME', 'entitled_text';
CREATE FUNCTION entitlements.entitled(account uuid, feature text) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE SUPPORT entitlements.entitled_support AS 'MODULE_PATHNAME', 'entitled_uuid';
CREATE FUNCTION entitlements.entitled(account bigint, feature text) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE SUPPORT entitlements.entitled_support AS 'MODULE_PATHNAME', 'entitled_bigint';
COMMENT ON FUNCTION entitlements.entitled(text, text) IS
    'Whether the account is granted the feature at statement_timestamp(): a flag that is on, a config value that is present, an allowance above '
    'zero or unlimited. Usage does not matter. False for an account that is NULL or unknown. NE003 unknown feature, NE007 feature is NULL.';
COMMENT ON FUNCTION entitlements.entitled(uuid, text) IS
    'entitled for accounts whose key is a uuid in its canonical text form (lower case, with hyphens).';
COMMENT ON FUNCTION entitlements.entitled(bigint, text) IS
    'entitled for accounts whose key is a number in decimal digits.';

CREATE FUNCTION entitlements.require(account text, feature text) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'require_text';
CREATE FUNCTION entitlements.require(account uuid, feature text) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'require_uuid';
CREATE FUNCTION entitlements.require(account bigint, feature text) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'require_bigint';
COMMENT ON FUNCTION entitlements.require(text, text) IS
    'True, or NE001 with the reason in DETAIL, where entitled is false. NE003 unknown feature, NE007 feature is NULL.';
COMMENT ON FUNCTION entitlements.require(uuid, text) IS
    'require for accounts whose key is a uuid in its canonical text form.';
COMMENT ON FUNCTION entitlements.require(bigint, text) IS
    'require for accounts whose key is a number in decimal digits.';

CREATE FUNCTION entitlements.value_of(account text, feature text) RETURNS jsonb
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'value_of_wrapper';
CREATE FUNCTION entitlements.value_of(account uuid, feature text) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE RETURN entitlements.value_of(account::text, feature);
CREATE FUNCTION entitlements.value_of(account bigint, feature text) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE RETURN entitlements.value_of(account::text, feature);
COMMENT ON FUNCTION entitlements.value_of(text, text) IS
    'The account''s value of the feature: true or false for a flag; the value of a config feature, NULL where it has none; the allowance of a '
    'metered feature as a number or "unlimited", 0 where it has none. NE003 unknown feature, NE007 feature is NULL.';
COMMENT ON FUNCTION entitlements.value_of(uuid, text) IS 'value_of for accounts whose key is a uuid in its canonical text form.';
COMMENT ON FUNCTION entitlements.value_of(bigint, text) IS 'value_of for accounts whose key is a number in decimal digits.';

CREATE FUNCTION entitlements.allowance(account text, feature text) RETURNS numeric
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'allowance_wrapper';
CREATE FUNCTION entitlements.allowance(account uuid, feature text) RETURNS numeric
    LANGUAGE sql STABLE PARALLEL SAFE RETURN entitlements.allowance(account::text, feature);
CREATE FUNCTION entitlements.allowance(account bigint, feature text) RETURNS numeric
    LANGUAGE sql STABLE PARALLEL SAFE RETURN entitlements.allowance(account::text, feature);
COMMENT ON FUNCTION entitlements.allowance(text, text) IS
    'The account''s allowance of a metered feature in the feature''s unit: NULL = unlimited, 0 = not granted. NE003 unknown feature, '
    'NE004 the feature is not metered, NE007 feature is NULL.';
COMMENT ON FUNCTION entitlements.allowance(uuid, text) IS 'allowance for accounts whose key is a uuid in its canonical text form.';
COMMENT ON FUNCTION entitlements.allowance(bigint, text) IS 'allowance for accounts whose key is a number in decimal digits.';

CREATE FUNCTION entitlements.check_access(account text, feature text, n numeric DEFAULT 1) RETURNS entitlements.decision
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'check_access_wrapper';
CREATE FUNCTION entitlements.check_access(account uuid, feature text, n numeric DEFAULT 1) RETURNS entitlements.decision
    LANGUAGE sql STABLE PARALLEL SAFE RETURN entitlements.check_access(account::text, feature, n);
CREATE FUNCTION entitlements.check_access(account bigint, feature text, n numeric DEFAULT 1) RETURNS entitlements.decision
    LANGUAGE sql STABLE PARALLEL SAFE RETURN entitlements.check_access(account::text, feature, n);
COMMENT ON FUNCTION entitlements.check_access(text, text, numeric) IS
    'Whether n units (default 1) would be allowed now, with the reason; consumes nothing. n is ignored for features that are not metered. '
    'used and remaining are what the query''s snapshot shows, of a rate in shared memory what is there now. NE003 unknown feature, NE007 feature is NULL or n is NULL, zero, negative, NaN, '
    'infinite, not below 10^18 or finer than nine digits.';
COMMENT ON FUNCTION entitlements.check_access(uuid, text, numeric) IS 'check_access for accounts whose key is a uuid in its canonical text form.';
COMMENT ON FUNCTION entitlements.check_access(bigint, text, numeric) IS 'check_access for accounts whose key is a number in decimal digits.';

CREATE FUNCTION entitlements.entitlements_of(account text) RETURNS SETOF entitlements.entitlement
    LANGUAGE c STABLE PARALLEL SAFE ROWS 50 AS 'MODULE_PATHNAME', 'entitlements_of_wrapper';
CREATE FUNCTION entitlements.entitlements_of(account uuid) RETURNS SETOF entitlements.entitlement
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 50 BEGIN ATOMIC SELECT * FROM entitlements.entitlements_of(account::text); END;
CREATE FUNCTION entitlements.entitlements_of(account bigint) RETURNS SETOF entitlements.entitlement
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 50 BEGIN ATOMIC SELECT * FROM entitlements.entitlements_of(account::text); END;
COMMENT ON FUNCTION entitlements.entitlements_of(text) IS
    'Every feature with what the account is entitled to of it, by feature key; no rows for an account that is NULL or unknown.';
COMMENT ON FUNCTION entitlements.entitlements_of(uuid) IS 'entitlements_of for accounts whose key is a uuid in its canonical text form.';
COMMENT ON FUNCTION entitlements.entitlements_of(bigint) IS 'entitlements_of for accounts whose key is a number in decimal digits.';

CREATE FUNCTION entitlements.entitled_accounts(feature text) RETURNS SETOF text
    LANGUAGE c STABLE PARALLEL SAFE ROWS 1000 AS 'MODULE_PATHNAME', 'entitled_accounts_wrapper';
COMMENT ON FUNCTION entitlements.entitled_accounts(text) IS
    'Keys of the accounts that are granted the feature, in order. NE003 unknown feature, NE007 feature is NULL.';
