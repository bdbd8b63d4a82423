-- Running the extension.

CREATE FUNCTION entitlements.maintain() RETURNS TABLE (action text, object text, count bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO'
    SET lock_timeout = '5s'
    AS 'MODULE_PATHNAME', 'maintain_wrapper';
COMMENT ON FUNCTION entitlements.maintain() IS
    'Housekeeping for a scheduler, in a transaction of its own, every hour or day: ends reservations whose time is up, deletes ended reservations and idempotency keys '
    'older than entitlements.idempotency_retention, removes what calls that were under way during an erasure have written, folds the slots of counters whose window is over, makes the ledger''s partitions of this month and the next, and drops '
    'those older than entitlements.ledger_retention, deletes marks of change once there are 1,000. Returns what it did, a row each; none if there was nothing to do or another transaction is at it. '
    '55P03 where somebody keeps the ledger locked for 5 seconds.';
