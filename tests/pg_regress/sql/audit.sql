-- The audit log: what is on record, and what shows when it is not what was recorded.
\set VERBOSITY sqlstate
\set ON_ERROR_ROLLBACK on
\pset null '(null)'
DROP EXTENSION entitlements;
CREATE EXTENSION entitlements;
BEGIN;
SELECT count(*) AS changes FROM entitlements.apply_catalog('{"features": {"sso": {"kind": "flag"}}, "plans": {"team": {"kind": "base", "features": {"sso": true}}}}');
SELECT entitlements.subscribe('acme', 'team', reason => 'ordered') AS subscription;
SELECT entitlements.set_override('acme', 'sso', 'deny', NULL, 'abuse') AS override;
SELECT entitlements.clear_override(1, 'settled');
SELECT entitlements.block('acme', 'billing', 'unpaid') AS block;
SELECT entitlements.define_plan('pro');
SELECT accounts.key AS account, seq, action, object, object_id, session_user_name = session_user AS session_user, role_name = current_user AS role,
       transaction_id = pg_current_xact_id()::text::bigint AS this_transaction, at = now() AS now, content ->> 'reason' AS reason
FROM entitlements.audit_log LEFT JOIN entitlements.accounts ON accounts.id = chain_id
ORDER BY chain_id, seq;
SELECT content -> 'new' ->> 'mode' AS mode, content -> 'old' AS old FROM entitlements.audit_log WHERE action = 'set';
SELECT chain_id, last_seq FROM entitlements.audit_chains ORDER BY chain_id;

-- Nothing changes, nothing is recorded.
SELECT entitlements.block('acme', 'billing', 'unpaid') AS same_block;
SELECT entitlements.unblock('acme', 'fraud', 'nothing there');
SELECT count(*) AS entries FROM entitlements.audit_log WHERE chain_id <> 0;

-- Rows stay as they are.
UPDATE entitlements.audit_log SET action = 'nothing';
DELETE FROM entitlements.audit_log;
TRUNCATE entitlements.audit_log;
UPDATE entitlements.plan_features SET enabled = false;
DELETE FROM entitlements.plan_versions;

-- Whoever owns the tables can do it all the same, and is found out.
SELECT count(*) AS faults FROM entitlements.verify_audit();
ALTER TABLE entitlements.audit_log DISABLE TRIGGER USER;
SAVEPOINT intact;
UPDATE entitlements.audit_log SET content = '{"reason": "another"}' WHERE chain_id <> 0 AND seq = 3;
SELECT account_key, chain_id, seq, entry_id IS NULL AS gone, fault FROM entitlements.verify_audit();
ROLLBACK TO intact;
UPDATE entitlements.audit_log SET role_name = 'somebody' WHERE chain_id = 0 AND seq = 1;
SELECT account_key, chain_id, seq, entry_id IS NULL AS gone, fault FROM entitlements.verify_audit();
ROLLBACK TO intact;
DELETE FROM entitlements.audit_log WHERE chain_id <> 0 AND seq = 2;
SELECT account_key, chain_id, seq, entry_id IS NULL AS gone, fault FROM entitlements.verify_audit();
ROLLBACK TO intact;
DELETE FROM entitlements.audit_log WHERE chain_id <> 0 AND seq = (SELECT last_seq FROM entitlements.audit_chains WHERE chain_id <> 0);
SELECT account_key, chain_id, seq, entry_id IS NULL AS gone, fault FROM entitlements.verify_audit('acme');
ROLLBACK TO intact;
INSERT INTO entitlements.audit_log (chain_id, seq, at, transaction_id, session_user_name, role_name, action, object, object_id, content, salt, content_hash, hash)
SELECT chain_id, seq + 1, at, transaction_id, session_user_name, role_name, action, object, object_id, content, salt, content_hash, hash
FROM entitlements.audit_log WHERE chain_id <> 0 ORDER BY seq DESC LIMIT 1;
SELECT account_key, chain_id, seq, entry_id IS NULL AS gone, fault FROM entitlements.verify_audit();
ROLLBACK TO intact;
UPDATE entitlements.audit_log SET content = NULL, salt = NULL WHERE chain_id <> 0 AND seq = 3;
SELECT account_key, chain_id, seq, entry_id IS NULL AS gone, fault FROM entitlements.verify_audit();
ROLLBACK TO intact;
SELECT count(*) AS faults FROM entitlements.verify_audit();
SELECT entitlements.verify_audit('nobody');
ROLLBACK;
