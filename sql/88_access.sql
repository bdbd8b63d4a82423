-- Levels of access: which role may call what. Which functions a level has is in src/guard/access.rs.

CREATE TABLE entitlements.access_grants (
    role       text COLLATE "C" NOT NULL,
    level      text COLLATE "C" NOT NULL CHECK (
        level IN ('member', 'reader', 'consumer', 'operator', 'catalog', 'integrator', 'auditor', 'admin')),
    functions  text[] NOT NULL,
    granted_at timestamptz NOT NULL,
    granted_by text NOT NULL,
    PRIMARY KEY (role, level)
);
COMMENT ON TABLE entitlements.access_grants IS
    'Which levels grant_access gave to whom. A level is held only by who has the privileges too: a role''s name can come to mean another role.';
COMMENT ON COLUMN entitlements.access_grants.functions IS 'What was granted with the level; who no longer has all of it holds the level no more';
SELECT pg_catalog.pg_extension_config_dump('entitlements.access_grants', '');

CREATE FUNCTION entitlements.grant_access(role regrole, level text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
    AS 'MODULE_PATHNAME', 'grant_access_wrapper';
COMMENT ON FUNCTION entitlements.grant_access(regrole, text) IS
    'Grants the role the functions of a level: member (the current account only), reader, consumer, operator (accounts), catalog, integrator, auditor or admin (all). '
    'Levels add up. False if the role holds the level with all its functions already; after an upgrade a second call adds what is new. NE007 unknown role or level, '
    'or the role owns the extension and may do everything anyway.';

CREATE FUNCTION entitlements.revoke_access(role regrole, level text DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
    AS 'MODULE_PATHNAME', 'revoke_access_wrapper';
COMMENT ON FUNCTION entitlements.revoke_access(regrole, text) IS
    'Takes the level''s functions from the role, also those granted by hand, but for those of other levels that it holds; without a level those of all levels. False if it has none of them. '
    'What it has as a member of other roles or through PUBLIC stays: see access_report. NE007 unknown role or level, or the role owns the extension.';

CREATE FUNCTION entitlements.renew_access() RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
    AS 'MODULE_PATHNAME', 'renew_access_wrapper';
COMMENT ON FUNCTION entitlements.renew_access() IS
    'After an upgrade: grants every holder of a level the functions that the level has since got. Returns how many levels of roles got some.';

CREATE FUNCTION entitlements.access_report() RETURNS TABLE (role text, level text, object text, privilege text, how text)
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 100 SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
    AS 'MODULE_PATHNAME', 'access_report_wrapper';
COMMENT ON FUNCTION entitlements.access_report() IS
    'Who may do what with the extension, but for its owner and superusers: a row for each role and privilege. level is that of grant_access, NULL for what comes from elsewhere; how says '
    'where it comes from: grant_access; GRANT (by hand, also to PUBLIC); member of a role; owner of an object. Rows without a privilege are levels that are not held '
    'in full: how says why. Changes nothing, also works on a standby.';
