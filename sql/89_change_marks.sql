-- What lets a backend go on using what it has read when the next snapshot is another one: it looks up what that one shows anew.

CREATE TABLE entitlements.change_marks (
    transaction_id bigint NOT NULL,
    number         integer NOT NULL,
    account_id     bigint NOT NULL,
    PRIMARY KEY (transaction_id, number)
);
COMMENT ON TABLE entitlements.change_marks IS
    'Which transaction changed what decides about which account. Old marks are of no use to anybody and deleted by maintain(). '
    'Belongs to this server alone: neither dumped nor to be replicated by rows.';
COMMENT ON COLUMN entitlements.change_marks.transaction_id IS 'As pg_current_xact_id() gives it';
COMMENT ON COLUMN entitlements.change_marks.number IS 'Tells the marks of one transaction apart';
COMMENT ON COLUMN entitlements.change_marks.account_id IS '0 = every account: the catalog, a bundle''s terms, or very many accounts';
SELECT pg_catalog.pg_extension_config_dump('entitlements.change_marks', 'WHERE false');

CREATE FUNCTION entitlements.mark_change() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'mark_change';
COMMENT ON FUNCTION entitlements.mark_change() IS
    'Trigger: marks the account of the row, whose id is in the column that the trigger names, or with none every account. Fires before the change, so that the '
    'transaction''s own queries trust nothing read before. NE007 for calls that are not such a trigger''s.';

CREATE TRIGGER mark_change BEFORE INSERT OR UPDATE OR DELETE ON entitlements.accounts
    FOR EACH ROW EXECUTE FUNCTION entitlements.mark_change('id');
CREATE TRIGGER mark_change BEFORE INSERT OR UPDATE OR DELETE ON entitlements.subscriptions
    FOR EACH ROW EXECUTE FUNCTION entitlements.mark_change('account_id');
CREATE TRIGGER mark_change BEFORE INSERT OR UPDATE OR DELETE ON entitlements.overrides
    FOR EACH ROW EXECUTE FUNCTION entitlements.mark_change('account_id');
CREATE TRIGGER mark_change BEFORE INSERT OR UPDATE OR DELETE ON entitlements.blocks
    FOR EACH ROW EXECUTE FUNCTION entitlements.mark_change('account_id');
CREATE TRIGGER mark_change BEFORE INSERT OR UPDATE OR DELETE ON entitlements.credits
    FOR EACH ROW EXECUTE FUNCTION entitlements.mark_change('account_id');
CREATE TRIGGER mark_change BEFORE INSERT OR UPDATE OR DELETE ON entitlements.features
    FOR EACH ROW EXECUTE FUNCTION entitlements.mark_change();
CREATE TRIGGER mark_change BEFORE INSERT OR UPDATE OR DELETE ON entitlements.plan_versions
    FOR EACH ROW EXECUTE FUNCTION entitlements.mark_change();
CREATE TRIGGER mark_change BEFORE INSERT OR UPDATE OR DELETE ON entitlements.plan_features
    FOR EACH ROW EXECUTE FUNCTION entitlements.mark_change();
CREATE TRIGGER mark_change BEFORE INSERT OR UPDATE OR DELETE ON entitlements.bundles
    FOR EACH ROW EXECUTE FUNCTION entitlements.mark_change();
CREATE TRIGGER mark_change BEFORE INSERT OR UPDATE OR DELETE ON entitlements.deployment
    FOR EACH ROW EXECUTE FUNCTION entitlements.mark_change();

CREATE TRIGGER mark_truncation BEFORE TRUNCATE ON entitlements.accounts
    FOR EACH STATEMENT EXECUTE FUNCTION entitlements.mark_change();
CREATE TRIGGER mark_truncation BEFORE TRUNCATE ON entitlements.subscriptions
    FOR EACH STATEMENT EXECUTE FUNCTION entitlements.mark_change();
CREATE TRIGGER mark_truncation BEFORE TRUNCATE ON entitlements.overrides
    FOR EACH STATEMENT EXECUTE FUNCTION entitlements.mark_change();
CREATE TRIGGER mark_truncation BEFORE TRUNCATE ON entitlements.blocks
    FOR EACH STATEMENT EXECUTE FUNCTION entitlements.mark_change();
CREATE TRIGGER mark_truncation BEFORE TRUNCATE ON entitlements.credits
    FOR EACH STATEMENT EXECUTE FUNCTION entitlements.mark_change();
CREATE TRIGGER mark_truncation BEFORE TRUNCATE ON entitlements.features
    FOR EACH STATEMENT EXECUTE FUNCTION entitlements.mark_change();
CREATE TRIGGER mark_truncation BEFORE TRUNCATE ON entitlements.bundles
    FOR EACH STATEMENT EXECUTE FUNCTION entitlements.mark_change();
CREATE TRIGGER mark_truncation BEFORE TRUNCATE ON entitlements.deployment
    FOR EACH STATEMENT EXECUTE FUNCTION entitlements.mark_change();

-- Whatever session_replication_role says: a subscriber's backends and a restore's neighbours remember, too.
ALTER TABLE entitlements.accounts ENABLE ALWAYS TRIGGER mark_change, ENABLE ALWAYS TRIGGER mark_truncation;
ALTER TABLE entitlements.subscriptions ENABLE ALWAYS TRIGGER mark_change, ENABLE ALWAYS TRIGGER mark_truncation;
ALTER TABLE entitlements.overrides ENABLE ALWAYS TRIGGER mark_change, ENABLE ALWAYS TRIGGER mark_truncation;
ALTER TABLE entitlements.blocks ENABLE ALWAYS TRIGGER mark_change, ENABLE ALWAYS TRIGGER mark_truncation;
ALTER TABLE entitlements.credits ENABLE ALWAYS TRIGGER mark_change, ENABLE ALWAYS TRIGGER mark_truncation;
ALTER TABLE entitlements.features ENABLE ALWAYS TRIGGER mark_change, ENABLE ALWAYS TRIGGER mark_truncation;
ALTER TABLE entitlements.plan_versions ENABLE ALWAYS TRIGGER mark_change;
ALTER TABLE entitlements.plan_features ENABLE ALWAYS TRIGGER mark_change;
ALTER TABLE entitlements.bundles ENABLE ALWAYS TRIGGER mark_change, ENABLE ALWAYS TRIGGER mark_truncation;
ALTER TABLE entitlements.deployment ENABLE ALWAYS TRIGGER mark_change, ENABLE ALWAYS TRIGGER mark_truncation;
