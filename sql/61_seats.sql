-- Seats: who has a place of an allocation.

CREATE TYPE entitlements.seat_assignment AS (
    allowed        boolean,
    reason         text,
    account        text,
    feature        text,
    holder         text,
    assigned_at    timestamptz,
    leased_until   timestamptz,
    reclaimed_from text[],
    allowance      numeric,
    used           numeric,
    overage        numeric
);
COMMENT ON TYPE entitlements.seat_assignment IS
    'What became of a request for a seat; reason as in decision. leased_until is NULL for a named seat, which has no end, and like assigned_at where it was denied. '
    'reclaimed_from names the holders whose expired seats were ended for it. allowance (NULL = unlimited), used and overage are those of the allocation.';

CREATE FUNCTION entitlements.assign_seat(account text, feature text, holder text, lease interval DEFAULT NULL) RETURNS entitlements.seat_assignment
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'assign_seat_wrapper';
CREATE FUNCTION entitlements.assign_seat(account uuid, feature text, holder text, lease interval DEFAULT NULL) RETURNS entitlements.seat_assignment
    LANGUAGE sql VOLATILE PARALLEL UNSAFE RETURN entitlements.assign_seat(account::text, feature, holder, lease);
CREATE FUNCTION entitlements.assign_seat(account bigint, feature text, holder text, lease interval DEFAULT NULL) RETURNS entitlements.seat_assignment
    LANGUAGE sql VOLATILE PARALLEL UNSAFE RETURN entitlements.assign_seat(account::text, feature, holder, lease);
COMMENT ON FUNCTION entitlements.assign_seat(text, text, text, interval) IS
    'Gives the holder a place of an allocation, in the caller''s transaction: one unit, as consume takes it. A lease, from a second to 1000 years, makes the seat floating: '
    'after that time without renew_seat another holder can get it. NULL is the feature''s lease, and without one the seat is named: the holder''s until it is released. A holder '
    'that has a seat keeps it, and a lease given now replaces its lease. If all places are taken, seats whose lease is over are ended, the one that is over for longest first, before '
    'overage is used. NE001 not granted, NE002 all places are taken, NE003 unknown feature, NE004 the feature is not an allocation, NE007 feature or holder is missing, the holder is longer '
    'than 255 bytes, or the lease is out of bounds. REPEATABLE READ and SERIALIZABLE: 40001 where another transaction changed the same seats or counter.';
COMMENT ON FUNCTION entitlements.assign_seat(uuid, text, text, interval) IS 'assign_seat for accounts whose key is a uuid in its canonical text form.';
COMMENT ON FUNCTION entitlements.assign_seat(bigint, text, text, interval) IS 'assign_seat for accounts whose key is a number in decimal digits.';

CREATE FUNCTION entitlements.try_assign_seat(account text, feature text, holder text, lease interval DEFAULT NULL) RETURNS entitlements.seat_assignment
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'try_assign_seat_wrapper';
CREATE FUNCTION entitlements.try_assign_seat(account uuid, feature text, holder text, lease interval DEFAULT NULL) RETURNS entitlements.seat_assignment
    LANGUAGE sql VOLATILE PARALLEL UNSAFE RETURN entitlements.try_assign_seat(account::text, feature, holder, lease);
CREATE FUNCTION entitlements.try_assign_seat(account bigint, feature text, holder text, lease interval DEFAULT NULL) RETURNS entitlements.seat_assignment
    LANGUAGE sql VOLATILE PARALLEL UNSAFE RETURN entitlements.try_assign_seat(account::text, feature, holder, lease);
COMMENT ON FUNCTION entitlements.try_assign_seat(text, text, text, interval) IS
    'assign_seat that answers a denial instead of raising an error: allowed is false, reason says why, and nothing was changed. '
    'NE003 unknown feature, NE004 the feature is not an allocation, NE007 invalid argument; 40001 as assign_seat.';
COMMENT ON FUNCTION entitlements.try_assign_seat(uuid, text, text, interval) IS 'try_assign_seat for accounts whose key is a uuid in its canonical text form.';
COMMENT ON FUNCTION entitlements.try_assign_seat(bigint, text, text, interval) IS 'try_assign_seat for accounts whose key is a number in decimal digits.';

CREATE FUNCTION entitlements.renew_seat(account text, feature text, holder text) RETURNS timestamptz
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'renew_seat_wrapper';
CREATE FUNCTION entitlements.renew_seat(account uuid, feature text, holder text) RETURNS timestamptz
    LANGUAGE sql VOLATILE PARALLEL UNSAFE RETURN entitlements.renew_seat(account::text, feature, holder);
CREATE FUNCTION entitlements.renew_seat(account bigint, feature text, holder text) RETURNS timestamptz
    LANGUAGE sql VOLATILE PARALLEL UNSAFE RETURN entitlements.renew_seat(account::text, feature, holder);
COMMENT ON FUNCTION entitlements.renew_seat(text, text, text) IS
    'The sign of life of a seat''s holder: the lease starts anew. Returns until when it runs, NULL for a named seat. A lease that was over resumes if its place '
    'is still there. NE001 nothing is granted any more, NE002 the lease was over and the limit is lower than what is in use, NE003 unknown feature, NE004 the feature is not an allocation, '
    'NE007 feature or holder is missing, NE010 the holder has no seat: it was released, or reclaimed for another; 40001 as assign_seat.';
COMMENT ON FUNCTION entitlements.renew_seat(uuid, text, text) IS 'renew_seat for accounts whose key is a uuid in its canonical text form.';
COMMENT ON FUNCTION entitlements.renew_seat(bigint, text, text) IS 'renew_seat for accounts whose key is a number in decimal digits.';

CREATE FUNCTION entitlements.release_seat(account text, feature text, holder text, reason text DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'release_seat_wrapper';
CREATE FUNCTION entitlements.release_seat(account uuid, feature text, holder text, reason text DEFAULT NULL) RETURNS boolean
    LANGUAGE sql VOLATILE PARALLEL UNSAFE RETURN entitlements.release_seat(account::text, feature, holder, reason);
CREATE FUNCTION entitlements.release_seat(account bigint, feature text, holder text, reason text DEFAULT NULL) RETURNS boolean
    LANGUAGE sql VOLATILE PARALLEL UNSAFE RETURN entitlements.release_seat(account::text, feature, holder, reason);
COMMENT ON FUNCTION entitlements.release_seat(text, text, text, text) IS
    'Gives the holder''s seat back. Its place is free at once, or where the feature has linger, for the same holder at once and for others when they need it after that time. '
    'The reason is kept with the seat. False if the holder has none. NE003 unknown feature, NE004 the feature is not an allocation, NE007 feature or holder is missing; 40001 as assign_seat.';
COMMENT ON FUNCTION entitlements.release_seat(uuid, text, text, text) IS 'release_seat for accounts whose key is a uuid in its canonical text form.';
COMMENT ON FUNCTION entitlements.release_seat(bigint, text, text, text) IS 'release_seat for accounts whose key is a number in decimal digits.';

CREATE FUNCTION entitlements.seats(account text, feature text) RETURNS TABLE (holder text, assigned_at timestamptz, leased_until timestamptz, state text)
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 20 SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'seats_wrapper';
CREATE FUNCTION entitlements.seats(account uuid, feature text) RETURNS TABLE (holder text, assigned_at timestamptz, leased_until timestamptz, state text)
    LANGUAGE sql STABLE PARALLEL UNSAFE ROWS 20 BEGIN ATOMIC SELECT * FROM entitlements.seats(account::text, feature); END;
CREATE FUNCTION entitlements.seats(account bigint, feature text) RETURNS TABLE (holder text, assigned_at timestamptz, leased_until timestamptz, state text)
    LANGUAGE sql STABLE PARALLEL UNSAFE ROWS 20 BEGIN ATOMIC SELECT * FROM entitlements.seats(account::text, feature); END;
COMMENT ON FUNCTION entitlements.seats(text, text) IS
    'The account''s seats of an allocation, by holder. state is named, leased, expired (the lease is over; another who needs the place gets it) or returned (given back, the place lingers). '
    'leased_until is NULL for a named seat. Writes nothing, also works on a standby. No rows for an unknown account. NE003 unknown feature, NE004 the feature is not an allocation, NE007 feature is NULL.';
COMMENT ON FUNCTION entitlements.seats(uuid, text) IS 'seats for accounts whose key is a uuid in its canonical text form.';
COMMENT ON FUNCTION entitlements.seats(bigint, text) IS 'seats for accounts whose key is a number in decimal digits.';
