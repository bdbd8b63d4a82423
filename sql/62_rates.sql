-- Rates: so many in a time. consume, try_consume and check_access decide on them.

CREATE FUNCTION entitlements.shared_rates() RETURNS TABLE (slots integer, busy integer)
    LANGUAGE c VOLATILE PARALLEL SAFE ROWS 1 AS 'MODULE_PATHNAME', 'shared_rates_wrapper';
COMMENT ON FUNCTION entitlements.shared_rates() IS
    'How much room for rates the server''s shared memory has, for all databases: slots is entitlements.rate_slots, busy how many hold a rate that is not fully available '
    'again and cannot be given to another. No row where the library is not in shared_preload_libraries: then features with store shared keep their rates in the table.';
