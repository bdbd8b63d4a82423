-- The consume family. VOLATILE: they take from counters in the caller's transaction, and an abort gives everything back.
-- They run with the caller's rights and reach the tables by themselves: EXECUTE decides who may call them.

CREATE FUNCTION entitlements.consume(
    account text, feature text, n numeric DEFAULT 1, idempotency_key text DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS entitlements.decision
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'consume_wrapper';
CREATE FUNCTION entitlements.consume(
    account uuid, feature text, n numeric DEFAULT 1, idempotency_key text DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS entitlements.decision
    LANGUAGE sql VOLATILE PARALLEL UNSAFE RETURN entitlements.consume(account::text, feature, n, idempotency_key, metadata);
CREATE FUNCTION entitlements.consume(
    account bigint, feature text, n numeric DEFAULT 1, idempotency_key text DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS entitlements.decision
    LANGUAGE sql VOLATILE PARALLEL UNSAFE RETURN entitlements.consume(account::text, feature, n, idempotency_key, metadata);
COMMENT ON FUNCTION entitlements.consume(text, text, numeric, text, jsonb) IS
    'Takes n units (default 1) of a quota, an allocation or a rate in the caller''s transaction, and returns the decision. A feature with overage cap may take less, see consumed. '
    'The same idempotency_key again returns the first decision and takes nothing. metadata goes into the feature''s ledger. NE001 not granted, NE002 the allowance is used up or the rate exceeded, '
    'NE003 unknown feature, NE004 the feature is a flag or config, NE007 feature or n is NULL, n is zero, negative, NaN, infinite, not below 10^18 or finer than '
    'nine digits, or the key is too long, NE009 the key was used with other arguments. REPEATABLE READ and SERIALIZABLE: 40001 where another transaction changed the counter.';
COMMENT ON FUNCTION entitlements.consume(uuid, text, numeric, text, jsonb) IS 'consume for accounts whose key is a uuid in its canonical text form.';
COMMENT ON FUNCTION entitlements.consume(bigint, text, numeric, text, jsonb) IS 'consume for accounts whose key is a number in decimal digits.';

CREATE FUNCTION entitlements.try_consume(
    account text, feature text, n numeric DEFAULT 1, idempotency_key text DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS entitlements.decision
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'try_consume_wrapper';
CREATE FUNCTION entitlements.try_consume(
    account uuid, feature text, n numeric DEFAULT 1, idempotency_key text DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS entitlements.decision
    LANGUAGE sql VOLATILE PARALLEL UNSAFE RETURN entitlements.try_consume(account::text, feature, n, idempotency_key, metadata);
CREATE FUNCTION entitlements.try_consume(
    account bigint, feature text, n numeric DEFAULT 1, idempotency_key text DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS entitlements.decision
    LANGUAGE sql VOLATILE PARALLEL UNSAFE RETURN entitlements.try_consume(account::text, feature, n, idempotency_key, metadata);
COMMENT ON FUNCTION entitlements.try_consume(text, text, numeric, text, jsonb) IS
    'consume that answers a denial with a decision instead of an error: allowed is false, reason says why, and nothing was taken. '
    'NE003 unknown feature, NE004 the feature is a flag or config, NE007 invalid argument, NE009 the key was used with other arguments; 40001 as consume.';
COMMENT ON FUNCTION entitlements.try_consume(uuid, text, numeric, text, jsonb) IS 'try_consume for accounts whose key is a uuid in its canonical text form.';
COMMENT ON FUNCTION entitlements.try_consume(bigint, text, numeric, text, jsonb) IS 'try_consume for accounts whose key is a number in decimal digits.';

CREATE FUNCTION entitlements.release(
    account text, feature text, n numeric DEFAULT 1, idempotency_key text DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS entitlements.decision
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'release_wrapper';
CREATE FUNCTION entitlements.release(
    account uuid, feature text, n numeric DEFAULT 1, idempotency_key text DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS entitlements.decision
    LANGUAGE sql VOLATILE PARALLEL UNSAFE RETURN entitlements.release(account::text, feature, n, idempotency_key, metadata);
CREATE FUNCTION entitlements.release(
    account bigint, feature text, n numeric DEFAULT 1, idempotency_key text DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS entitlements.decision
    LANGUAGE sql VOLATILE PARALLEL UNSAFE RETURN entitlements.release(account::text, feature, n, idempotency_key, metadata);
COMMENT ON FUNCTION entitlements.release(text, text, numeric, text, jsonb) IS
    'Gives n units (default 1) back that were consumed in the present window, those of the pool used last first; consumed is -n in the decision. '
    'Also while the account is blocked or not entitled any more. NE003 unknown feature, NE004 the feature is not a quota or allocation, NE006 unknown account, NE007 invalid argument or more than is in use, where what reservations hold is not, '
    'NE009 the key was used with other arguments; 40001 as consume.';
COMMENT ON FUNCTION entitlements.release(uuid, text, numeric, text, jsonb) IS 'release for accounts whose key is a uuid in its canonical text form.';
COMMENT ON FUNCTION entitlements.release(bigint, text, numeric, text, jsonb) IS 'release for accounts whose key is a number in decimal digits.';

CREATE FUNCTION entitlements.consume_many(
    account text, amounts jsonb, idempotency_key text DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS SETOF entitlements.decision
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'consume_many_wrapper';
CREATE FUNCTION entitlements.consume_many(
    account uuid, amounts jsonb, idempotency_key text DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS SETOF entitlements.decision
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    BEGIN ATOMIC SELECT * FROM entitlements.consume_many(account::text, amounts, idempotency_key, metadata); END;
CREATE FUNCTION entitlements.consume_many(
    account bigint, amounts jsonb, idempotency_key text DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS SETOF entitlements.decision
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    BEGIN ATOMIC SELECT * FROM entitlements.consume_many(account::text, amounts, idempotency_key, metadata); END;
COMMENT ON FUNCTION entitlements.consume_many(text, jsonb, text, jsonb) IS
    'Takes units of several quotas and allocations, all or none: amounts is an object of up to 1,000 features with numbers. Returns a decision for each, in the order '
    'of the features'' keys, as things are when all is taken. Features with overage cap give all that is asked or nothing. The same idempotency_key again returns the '
    'first decisions and takes nothing. NE001 one is not granted, NE002 an allowance is used up, NE003 unknown feature, NE004 one is not a quota or allocation, '
    'NE007 amounts is not such an object or the key is empty or longer than 255 bytes, NE009 the key was used with other arguments; 40001 as consume.';
COMMENT ON FUNCTION entitlements.consume_many(uuid, jsonb, text, jsonb) IS 'consume_many for accounts whose key is a uuid in its canonical text form.';
COMMENT ON FUNCTION entitlements.consume_many(bigint, jsonb, text, jsonb) IS 'consume_many for accounts whose key is a number in decimal digits.';

CREATE FUNCTION entitlements.record_usage(usage jsonb)
    RETURNS TABLE (account text, feature text, events bigint, amount numeric, duplicates bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'record_usage_wrapper';
COMMENT ON FUNCTION entitlements.record_usage(jsonb) IS
    'Counts usage that has happened, whatever was granted and left: an array of up to 1,000,000 objects with account, feature, and if need be n (default 1), '
    'at (a time as in RFC 3339, default now), idempotency_key and metadata. An event counts in the window that contains its time, also when that is over. '
    'Credits and what they have left are used as by consume, what is beyond that counts to the plan. An event whose idempotency_key was recorded before counts as a duplicate only. Returns what was recorded for each account and feature. '
    'Nothing is recorded if an event is invalid; the message and DETAIL say which, counted from 0. NE003 unknown feature, NE004 the feature is not a quota or allocation, '
    'NE006 unknown account, NE007 usage is not such an array, an n is invalid as for consume, a time is more than 5 minutes ahead, or a total would not be below 10^18, '
    'NE009 a key was used for another event; 40001 as consume.';
