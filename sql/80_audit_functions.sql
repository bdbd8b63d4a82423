-- The audit log's functions, and the triggers that keep rows as they are.

CREATE FUNCTION entitlements.verify_audit(account text DEFAULT NULL)
    RETURNS TABLE (account_key text, chain_id bigint, seq bigint, entry_id bigint, fault text)
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 1 COST 100000 SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
    AS 'MODULE_PATHNAME', 'verify_audit_wrapper';
COMMENT ON FUNCTION entitlements.verify_audit(text) IS
    'Checks the hash chain of the account, or with NULL all chains; no rows = nothing was altered. For each chain that does not verify, the first entry that was altered, '
    'removed or inserted: chain_id is the account''s id or 0 for the catalog, seq the place in the chain, entry_id NULL where no entry is left. Who rewrites a chain '
    'from some entry to its end, and its head, is found out only by comparing audit_chains.last_hash with one kept elsewhere. Changes nothing, also works on '
    'a standby. NE006 unknown account.';

CREATE FUNCTION entitlements.refuse_change() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'refuse_change_wrapper';
COMMENT ON FUNCTION entitlements.refuse_change() IS
    'Trigger: NE009 for rows that never change. Lets only erase_account remove the contents of audit entries.';

CREATE TRIGGER rows_never_change BEFORE UPDATE OR DELETE ON entitlements.audit_log
    FOR EACH ROW EXECUTE FUNCTION entitlements.refuse_change();
CREATE TRIGGER rows_stay BEFORE TRUNCATE ON entitlements.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION entitlements.refuse_change();
CREATE TRIGGER rows_never_change BEFORE UPDATE OR DELETE ON entitlements.plan_versions
    FOR EACH ROW EXECUTE FUNCTION entitlements.refuse_change();
CREATE TRIGGER rows_stay BEFORE TRUNCATE ON entitlements.plan_versions
    FOR EACH STATEMENT EXECUTE FUNCTION entitlements.refuse_change();
CREATE TRIGGER rows_never_change BEFORE UPDATE OR DELETE ON entitlements.plan_features
    FOR EACH ROW EXECUTE FUNCTION entitlements.refuse_change();
CREATE TRIGGER rows_stay BEFORE TRUNCATE ON entitlements.plan_features
    FOR EACH STATEMENT EXECUTE FUNCTION entitlements.refuse_change();

ALTER TABLE entitlements.audit_log ENABLE ALWAYS TRIGGER rows_never_change, ENABLE ALWAYS TRIGGER rows_stay;
ALTER TABLE entitlements.plan_versions ENABLE ALWAYS TRIGGER rows_never_change, ENABLE ALWAYS TRIGGER rows_stay;
ALTER TABLE entitlements.plan_features ENABLE ALWAYS TRIGGER rows_never_change, ENABLE ALWAYS TRIGGER rows_stay;
