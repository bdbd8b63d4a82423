-- Prints docs/reference.md: the public objects of the extension with their comments, as Markdown.

\echo '# Reference'
\echo
\echo 'Made by `scripts/reference` from the comments in the database; `\\df+ entitlements.*` shows the same. Errors are listed in'
\echo '[errors.md](errors.md).'

LOAD 'entitlements';

CREATE TEMPORARY VIEW members AS
SELECT classid, objid
FROM pg_catalog.pg_depend
WHERE refclassid = 'pg_catalog.pg_extension'::regclass
  AND refobjid = (SELECT oid FROM pg_catalog.pg_extension WHERE extname = 'entitlements')
  AND deptype = 'e';

\echo
\echo '## Functions'
SELECT pg_catalog.format(
    E'\n### %s\n\n`%s(%s)` → `%s`\n\n%s\n\n%s',
    function.proname || CASE WHEN pg_catalog.count(*) OVER same_name > 1
        THEN ' (' || pg_catalog.pg_get_function_identity_arguments(function.oid) || ')' ELSE '' END,
    function.proname,
    pg_catalog.pg_get_function_arguments(function.oid),
    pg_catalog.pg_get_function_result(function.oid),
    pg_catalog.obj_description(function.oid, 'pg_proc'),
    CASE function.provolatile WHEN 'i' THEN 'Immutable' WHEN 's' THEN 'Stable' ELSE 'Volatile' END
        || CASE function.proparallel WHEN 's' THEN ', parallel safe' WHEN 'r' THEN ', parallel restricted' ELSE ', parallel unsafe' END
        || CASE WHEN function.prosecdef THEN ', security definer' ELSE '' END || '.')
FROM members
JOIN pg_catalog.pg_proc AS function ON members.classid = 'pg_catalog.pg_proc'::regclass AND function.oid = members.objid
WHERE function.prorettype NOT IN ('internal'::regtype, 'trigger'::regtype)
WINDOW same_name AS (PARTITION BY function.proname)
ORDER BY function.proname COLLATE "C", pg_catalog.pg_get_function_identity_arguments(function.oid) COLLATE "C";

\echo
\echo '## Types'
SELECT pg_catalog.format(
    E'\n### %s\n\n%s\n\n| column | type |\n| --- | --- |\n%s',
    type.typname,
    pg_catalog.obj_description(type.oid, 'pg_type'),
    (SELECT pg_catalog.string_agg(
        pg_catalog.format('| %s | %s |', attname, pg_catalog.format_type(atttypid, atttypmod)), E'\n' ORDER BY attnum)
     FROM pg_catalog.pg_attribute WHERE attrelid = type.typrelid AND attnum > 0 AND NOT attisdropped))
FROM members
JOIN pg_catalog.pg_type AS type ON members.classid = 'pg_catalog.pg_type'::regclass AND type.oid = members.objid
JOIN pg_catalog.pg_class AS class ON class.oid = type.typrelid AND class.relkind = 'c'
ORDER BY type.typname COLLATE "C";

\echo
\echo '## Tables'
\echo
\echo 'Written only by the functions above. They are documented for reading: reports, audits, and checks of the extension itself.'
SELECT pg_catalog.format(
    E'\n### %s\n\n%s\n\n| column | type | |\n| --- | --- | --- |\n%s',
    class.relname,
    pg_catalog.obj_description(class.oid, 'pg_class'),
    (SELECT pg_catalog.string_agg(
        pg_catalog.format('| %s | %s | %s |', attname, pg_catalog.format_type(atttypid, atttypmod)
            || CASE WHEN attnotnull THEN '' ELSE ', may be NULL' END,
            coalesce(pg_catalog.replace(pg_catalog.col_description(attrelid, attnum), '|', '\|'), '')), E'\n' ORDER BY attnum)
     FROM pg_catalog.pg_attribute WHERE attrelid = class.oid AND attnum > 0 AND NOT attisdropped))
FROM members
JOIN pg_catalog.pg_class AS class
    ON members.classid = 'pg_catalog.pg_class'::regclass AND class.oid = members.objid AND class.relkind IN ('r', 'v', 'p')
ORDER BY class.relname COLLATE "C";

\echo
\echo '## Settings'
\echo
\echo '| setting | default | |'
\echo '| --- | --- | --- |'
SELECT pg_catalog.format('| %s | %s%s | %s |', name, boot_val, unit, short_desc || coalesce(' ' || extra_desc, ''))
FROM pg_catalog.pg_settings
WHERE name LIKE 'entitlements.%'
ORDER BY name COLLATE "C";
