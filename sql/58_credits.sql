-- Credits, and usage as it was: amounts beside the plans, corrections, history.

CREATE FUNCTION entitlements.grant_credit(
    account text, feature text, amount numeric, reason text, expires_at timestamptz DEFAULT NULL, priority integer DEFAULT 100,
    starts_at timestamptz DEFAULT NULL, period interval DEFAULT NULL, source text DEFAULT 'manual', source_ref text DEFAULT NULL
) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'grant_credit_wrapper';
COMMENT ON FUNCTION entitlements.grant_credit(text, text, numeric, text, timestamptz, integer, timestamptz, interval, text, text) IS
    'Lets the account use amount units of a quota or allocation beside what its plans allow, from starts_at (NULL = now) until expires_at, exclusive (NULL = '
    'never), with a period anew in each one. Returns the credit''s id. Pools with a lower priority are used first, the plan''s allowance has 100. Where overage is allowed, what '
    'was used beyond the plan''s allowance is taken from the credit at once. One credit for each source and source_ref: the same grant again returns the first id. '
    'NE003 unknown feature, NE004 the feature is not a quota or allocation, NE006 unknown account, NE007 invalid or missing argument, NE009 the source has made another '
    'credit of this name, or the account is erased.';

CREATE FUNCTION entitlements.void_credit(id bigint, reason text) RETURNS numeric
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'void_credit_wrapper';
COMMENT ON FUNCTION entitlements.void_credit(bigint, text) IS
    'Takes the credit back and returns what was left of it, of a recurring one in the present period; 0 if it has expired or was voided before. Waits for transactions that have '
    'used of it. What was used stays used. NE007 an argument is missing, NE009 the account is erased, NE010 unknown credit.';

CREATE FUNCTION entitlements.set_usage(account text, feature text, used numeric, reason text) RETURNS entitlements.decision
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'set_usage_wrapper';
CREATE FUNCTION entitlements.set_usage(account uuid, feature text, used numeric, reason text) RETURNS entitlements.decision
    LANGUAGE sql VOLATILE PARALLEL UNSAFE RETURN entitlements.set_usage(account::text, feature, used, reason);
CREATE FUNCTION entitlements.set_usage(account bigint, feature text, used numeric, reason text) RETURNS entitlements.decision
    LANGUAGE sql VOLATILE PARALLEL UNSAFE RETURN entitlements.set_usage(account::text, feature, used, reason);
COMMENT ON FUNCTION entitlements.set_usage(text, text, numeric, text) IS
    'States that the account has used so many units in the present window, 0 included, and returns the decision; consumed is the difference, negative where it was more. '
    'The units are spread over credits and the plan''s allowance in the order in which they are used; more than these allow counts as overage of the plan. Thresholds that are reached are reported. '
    'Units of reservations that are held count as used. Waits for transactions that have consumed of the feature. NE001 nothing is granted, NE003 unknown feature, NE004 the feature is '
    'not a quota or allocation, NE006 unknown account, NE007 invalid or missing argument, NE009 the account inherits the feature from another one, or is erased.';
COMMENT ON FUNCTION entitlements.set_usage(uuid, text, numeric, text) IS 'set_usage for accounts whose key is a uuid in its canonical text form.';
COMMENT ON FUNCTION entitlements.set_usage(bigint, text, numeric, text) IS 'set_usage for accounts whose key is a number in decimal digits.';

CREATE FUNCTION entitlements.usage_history(
    account text, feature text, "from" timestamptz DEFAULT NULL, "to" timestamptz DEFAULT NULL
) RETURNS TABLE (window_start timestamptz, window_end timestamptz, used numeric, from_plan numeric, from_credits numeric)
    LANGUAGE c STABLE PARALLEL SAFE ROWS 20 AS 'MODULE_PATHNAME', 'usage_history_wrapper';
CREATE FUNCTION entitlements.usage_history(
    account uuid, feature text, "from" timestamptz DEFAULT NULL, "to" timestamptz DEFAULT NULL
) RETURNS TABLE (window_start timestamptz, window_end timestamptz, used numeric, from_plan numeric, from_credits numeric)
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 20
    BEGIN ATOMIC SELECT * FROM entitlements.usage_history(account::text, feature, "from", "to"); END;
CREATE FUNCTION entitlements.usage_history(
    account bigint, feature text, "from" timestamptz DEFAULT NULL, "to" timestamptz DEFAULT NULL
) RETURNS TABLE (window_start timestamptz, window_end timestamptz, used numeric, from_plan numeric, from_credits numeric)
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 20
    BEGIN ATOMIC SELECT * FROM entitlements.usage_history(account::text, feature, "from", "to"); END;
COMMENT ON FUNCTION entitlements.usage_history(text, text, timestamptz, timestamptz) IS
    'What was used of a quota or allocation of the account in each window that overlaps the span from (NULL = the beginning) to (NULL = no end), exclusive, oldest first; windows '
    'that nobody consumed in may have no row. A credit''s windows are its own, from its start to its end or a period each; where they are those of the plan they share a row. '
    '-infinity and infinity where usage never starts again at zero. Changes nothing, also works on a standby. '
    'NE003 unknown feature, NE004 the feature is not a quota or allocation, NE006 unknown account, NE007 account or feature is NULL.';
COMMENT ON FUNCTION entitlements.usage_history(uuid, text, timestamptz, timestamptz) IS 'usage_history for accounts whose key is a uuid in its canonical text form.';
COMMENT ON FUNCTION entitlements.usage_history(bigint, text, timestamptz, timestamptz) IS 'usage_history for accounts whose key is a number in decimal digits.';

CREATE VIEW entitlements.thresholds_crossed AS
    SELECT account.key AS account, feature.key AS feature, event.threshold, event.window_start, counter.window_end,
           event.allowance, event.used, event.at, event.transaction_id
      FROM entitlements.threshold_events AS event
      JOIN entitlements.counters AS counter ON counter.id OPERATOR(pg_catalog.=) event.counter_id
      JOIN entitlements.accounts AS account ON account.id OPERATOR(pg_catalog.=) event.account_id
      JOIN entitlements.features AS feature ON feature.id OPERATOR(pg_catalog.=) event.feature_id;
COMMENT ON VIEW entitlements.thresholds_crossed IS 'The threshold events with the keys of accounts and features.';
