-- What the database must be like. Checked first, so that nothing is left behind where it is not.

-- For all of the script: names and operators come from the system's schema, whatever the installing role has created.
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE FUNCTION entitlements.require_utf8() RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'require_utf8_wrapper';
SELECT entitlements.require_utf8();
DROP FUNCTION entitlements.require_utf8();
