-- Reservations: units taken in advance. They run with the caller's rights as the consume family does; whoever may call them
-- may end any reservation whose id is known, and ids cannot be guessed.

CREATE FUNCTION entitlements.reserve(account text, feature text, n numeric, ttl interval, metadata jsonb DEFAULT NULL) RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reserve_wrapper';
CREATE FUNCTION entitlements.reserve(account uuid, feature text, n numeric, ttl interval, metadata jsonb DEFAULT NULL) RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL UNSAFE RETURN entitlements.reserve(account::text, feature, n, ttl, metadata);
CREATE FUNCTION entitlements.reserve(account bigint, feature text, n numeric, ttl interval, metadata jsonb DEFAULT NULL) RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL UNSAFE RETURN entitlements.reserve(account::text, feature, n, ttl, metadata);
COMMENT ON FUNCTION entitlements.reserve(text, text, numeric, interval, jsonb) IS
    'Takes n units of a quota or allocation, all or none, until the reservation is committed, canceled or older than ttl, and returns its id. '
    'They count as used meanwhile, and are free again by themselves. ttl is positive and at most 366 days. metadata goes into the feature''s ledger at the commit. '
    'NE001 not granted, NE002 the allowance is used up, NE003 unknown feature, NE004 the feature is not a quota or allocation, NE007 an argument but metadata is NULL, '
    'invalid n as for consume, or ttl is out of range; 40001 as consume.';
COMMENT ON FUNCTION entitlements.reserve(uuid, text, numeric, interval, jsonb) IS 'reserve for accounts whose key is a uuid in its canonical text form.';
COMMENT ON FUNCTION entitlements.reserve(bigint, text, numeric, interval, jsonb) IS 'reserve for accounts whose key is a number in decimal digits.';

CREATE FUNCTION entitlements.commit_reservation(id uuid, actual numeric DEFAULT NULL) RETURNS entitlements.decision
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'commit_reservation_wrapper';
COMMENT ON FUNCTION entitlements.commit_reservation(uuid, numeric) IS
    'Ends the reservation: actual units were consumed, NULL = as many as were reserved. What was reserved beyond that is given back to the windows it came from; '
    'what is missing is consumed now by the usual rules, and where that is denied the reservation stays. requested and consumed are the actual units in the decision. '
    'NE001 not granted and NE002 the allowance is used up, for the missing units; NE007 id is NULL or actual invalid as n of consume, NE009 the reservation was committed, '
    'canceled or its time is up, NE010 unknown reservation; 40001 as consume.';

CREATE FUNCTION entitlements.cancel_reservation(id uuid) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cancel_reservation_wrapper';
COMMENT ON FUNCTION entitlements.cancel_reservation(uuid) IS
    'Ends the reservation and gives its units back to the windows they came from. False if it was committed or canceled before, or its time is up. '
    'NE007 id is NULL, NE010 unknown reservation; 40001 as consume.';

CREATE FUNCTION entitlements.extend_reservation(id uuid, ttl interval) RETURNS timestamptz
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'extend_reservation_wrapper';
COMMENT ON FUNCTION entitlements.extend_reservation(uuid, interval) IS
    'Keeps the reservation until ttl from now, which may also be sooner than before, and returns when that is. ttl is positive and at most 366 days. '
    'NE007 an argument is NULL or ttl out of range, NE009 the reservation was committed, canceled or its time is up, NE010 unknown reservation; 40001 as consume.';
