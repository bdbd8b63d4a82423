-- Row security by entitlement. These run with the caller's rights, who must own the table; what they make are the user's own
-- policies and views. Names come out qualified, whatever the caller's search_path and settings.

CREATE FUNCTION entitlements.protect_table(
    "table" regclass, account_column name, feature text DEFAULT NULL, command text DEFAULT 'ALL', accounts text DEFAULT 'current',
    force boolean DEFAULT false, dry_run boolean DEFAULT false
) RETURNS SETOF text
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 5 SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
    AS 'MODULE_PATHNAME', 'protect_table_wrapper';
COMMENT ON FUNCTION entitlements.protect_table(regclass, name, text, text, text, boolean, boolean) IS
    'Makes row security policies for the caller''s table and returns the statements that it ran; with dry_run those that it would run. accounts current: rows are those of the current account, '
    'whose key is in account_column, and command (ALL, SELECT, INSERT, UPDATE, DELETE) needs the feature; a NULL feature gates nothing. accounts every: command reaches the rows of each account that is entitled to the feature. '
    'Gates of several calls all apply. force binds the table''s owner too. Calling it again changes nothing. Needs the owner of the table (42501). NE003 unknown feature, NE007 the table is a view, foreign table, system table '
    'or unknown, the column is missing, of another type than text, varchar, uuid, bigint or integer or of a nondeterministic collation, or another argument is invalid, NE009 it contradicts what an earlier call made.';

CREATE FUNCTION entitlements.unprotect_table("table" regclass, feature text DEFAULT NULL, dry_run boolean DEFAULT false) RETURNS SETOF text
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 5 SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
    AS 'MODULE_PATHNAME', 'unprotect_table_wrapper';
COMMENT ON FUNCTION entitlements.unprotect_table(regclass, text, boolean) IS
    'Removes the feature''s gates from the caller''s table, or without a feature all that protect_table made, and then puts row security back as it was before, unless the table has other policies. Returns the statements '
    'that it ran; with dry_run those that it would run. Needs the owner of the table (42501). NE003 unknown feature, NE007 the table is a view, foreign table, system table or unknown, or dry_run is NULL.';

CREATE FUNCTION entitlements.protect_columns(
    "table" regclass, account_column name, gates jsonb, "view" text DEFAULT NULL, dry_run boolean DEFAULT false
) RETURNS SETOF text
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 5 SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
    AS 'MODULE_PATHNAME', 'protect_columns_wrapper';
COMMENT ON FUNCTION entitlements.protect_columns(regclass, name, jsonb, text, boolean) IS
    'Makes a view of the caller''s table, in the table''s schema and by default of its name with _gated, or makes it anew: rows of the current account, each column of gates, {"column": "feature"}, NULL unless '
    'the account is entitled to the feature. A security barrier that reads with the owner''s privileges: grant the view, not the table. Returns the statements that it ran; with dry_run those that it would run. Needs the owner of the table (42501). '
    'NE003 unknown feature, NE007 as protect_table, or gates is not such an object, NE009 another relation has the view''s name.';

CREATE FUNCTION entitlements.entitled_accounts_uuid(feature text) RETURNS SETOF uuid
    LANGUAGE c STABLE PARALLEL SAFE ROWS 1000 AS 'MODULE_PATHNAME', 'entitled_accounts_uuid_wrapper';
COMMENT ON FUNCTION entitlements.entitled_accounts_uuid(text) IS
    'entitled_accounts whose key is a uuid in its canonical text form, for policies. NE003 unknown feature, NE007 feature is NULL.';

CREATE FUNCTION entitlements.entitled_accounts_bigint(feature text) RETURNS SETOF bigint
    LANGUAGE c STABLE PARALLEL SAFE ROWS 1000 AS 'MODULE_PATHNAME', 'entitled_accounts_bigint_wrapper';
COMMENT ON FUNCTION entitlements.entitled_accounts_bigint(text) IS
    'entitled_accounts whose key is a number in decimal digits, for policies. NE003 unknown feature, NE007 feature is NULL.';
