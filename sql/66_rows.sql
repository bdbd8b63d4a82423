-- Limits on the rows of the application's tables. limit_rows and unlimit_rows run with the caller's rights, who must own the table, and
-- as the extension's owner only what they then do; what they count they read themselves, so that neither privileges nor row security decide.

CREATE FUNCTION entitlements.count_rows() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'count_rows';
COMMENT ON FUNCTION entitlements.count_rows() IS
    'The triggers of limit_rows: changes accounts'' counters by the rows that a statement has added and removed. Whoever may make triggers with it may consume for every account. '
    'NE001 a row names no account or one that is not granted the feature, NE002 there would be more rows than are allowed, NE007 called otherwise, '
    'NE009 the account column is gone; 40001 as consume.';

CREATE FUNCTION entitlements.limit_rows("table" regclass, account_column name, feature text, "where" text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'limit_rows_wrapper';
COMMENT ON FUNCTION entitlements.limit_rows(regclass, name, text, text) IS
    'From now on each row of the table takes a unit of the feature, an allocation, from the account that account_column names, and a statement that would add more rows than are allowed is refused. '
    'where: only rows count for which this condition holds, as in ''deleted_at IS NULL''; it uses the row alone, and names outside of pg_catalog with their schema. '
    'Rows that are there are counted whatever the limit; returns how many, 0 where the table is limited so already: triggers that are gone or disabled are then made anew, with a warning. '
    'Partitions are limited too, also later ones. For the table''s owner. '
    'NE003 unknown feature, NE004 it is no allocation, NE006 a row names an unknown account, NE007 table, account_column or where cannot be used, '
    'NE009 the table''s rows are limited by the feature in another way, a partition''s cannot be, or the transaction is not READ COMMITTED.';

CREATE FUNCTION entitlements.unlimit_rows("table" regclass, feature text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'unlimit_rows_wrapper';
COMMENT ON FUNCTION entitlements.unlimit_rows(regclass, text) IS
    'Ends limit_rows by the feature, NULL = by all features, and gives back what the rows have taken. Returns how many rows were counted; 0 where the table is not limited. '
    'What cannot be counted any more, since a column or a function is gone, is not given back: a warning says so. '
    'For the table''s owner. NE007 there is no such table, it is a partition of a limited one, or somebody else''s, NE009 the transaction is not READ COMMITTED.';

CREATE FUNCTION entitlements.recount_rows("table" regclass DEFAULT NULL, repair boolean DEFAULT true, of_feature text DEFAULT NULL)
    RETURNS TABLE (tables text, account text, feature text, rows numeric, counted numeric, repaired boolean)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'recount_rows_wrapper';
COMMENT ON FUNCTION entitlements.recount_rows(regclass, boolean, text) IS
    'Counts the rows of all tables that are limited by the feature, or by those that limit the table, or NULL and NULL by any, and returns each account whose counter differs: '
    'the tables, the rows they have, and what was counted. With repair the counter becomes the number of rows, whatever else was consumed. Writers wait until the transaction ends. '
    'account NULL or unknown: rows that nobody''s counter can have; they are not repaired. '
    'NE003 unknown feature, NE004 it is no allocation, NE007 the table is not limited or repair is NULL, NE009 the transaction is not READ COMMITTED.';

CREATE FUNCTION entitlements.follow_tables() RETURNS event_trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'follow_tables';
COMMENT ON FUNCTION entitlements.follow_tables() IS
    'Limits the rows of tables that become partitions of limited ones, puts the triggers of limit_rows back to firing when they are to, and refuses changes after which rows of limited tables '
    'could not be counted, or would count otherwise: NE009. NE006 and NE007 as limit_rows.';

CREATE FUNCTION entitlements.follow_drops() RETURNS event_trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'follow_drops';
COMMENT ON FUNCTION entitlements.follow_drops() IS 'Warns that the rows of a limited table which was dropped are still counted.';

CREATE EVENT TRIGGER entitlements_follow_tables ON ddl_command_end
    WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE', 'CREATE SCHEMA', 'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE')
    EXECUTE FUNCTION entitlements.follow_tables();
COMMENT ON EVENT TRIGGER entitlements_follow_tables IS 'Keeps limit_rows up with changes of tables.';

CREATE EVENT TRIGGER entitlements_follow_rewrites ON table_rewrite EXECUTE FUNCTION entitlements.follow_tables();
COMMENT ON EVENT TRIGGER entitlements_follow_rewrites IS 'Refuses what would change in all rows whether and for whom they count.';

CREATE EVENT TRIGGER entitlements_follow_drops ON sql_drop
    WHEN TAG IN ('DROP TABLE', 'DROP SCHEMA', 'DROP OWNED')
    EXECUTE FUNCTION entitlements.follow_drops();
COMMENT ON EVENT TRIGGER entitlements_follow_drops IS 'Says which rows are still counted though their table is gone.';
