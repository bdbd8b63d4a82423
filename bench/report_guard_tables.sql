-- The measurements of guard_tables.sql as Markdown. What else a machine does only ever adds to a processor time, also where
-- all subjects ran in the same round, so that a promise is judged by the shortest time of each over all rounds. Beside it stand
-- the ratios taken within each round: their median and spread.
\set ON_ERROR_STOP on
\pset tuples_only on
\pset format unaligned
\set most 1.02

CREATE TEMP VIEW figures AS
SELECT experiment, subject, round, value / units * 1e9 AS figure FROM bench.measurements WHERE round > 0;

CREATE TEMP VIEW promises AS
SELECT *, round(shortest, 2) <= :most AS kept
FROM (SELECT experiment, subject, (min(own) / min(other))::numeric AS shortest,
             percentile_cont(0.5) WITHIN GROUP (ORDER BY own / other)::numeric AS middle, min(own / other)::numeric AS low, max(own / other)::numeric AS high
      FROM (SELECT o.experiment, o.subject, o.figure AS own, h.figure AS other FROM figures o JOIN figures h USING (experiment, round)
            WHERE h.subject = 'by hand' AND o.subject IN ('protected', 'asked', 'listed')) r
      GROUP BY experiment, subject) f;

SELECT '# Guarded tables' || E'\n\n' || format(
    'PostgreSQL %s, shared_buffers %s; %s rows; %s processors; load average %s before, %s after; %s rounds.',
    current_setting('server_version'), current_setting('shared_buffers'), :rows, :'processors', :'load_before', :'load_after', :'rounds');

SELECT E'\n## Promises\n\nTime of what protect_table makes, divided by that of the best policy written by hand: the shortest of each; and within each round, median (lowest – highest). '
    'It is promised to be at least as fast. In scans for the current account both have the same plan but for a sub-select that is evaluated once, so '
    'that two hundredths are taken for noise: up to ' || :most || E' passes.\n';
SELECT '| ' || rpad('what', 50) || ' | shortest | ' || rpad('in each round', 22) || ' | promised | met |'
UNION ALL SELECT '|' || repeat('-', 52) || '|----------|' || repeat('-', 24) || '|----------|-----|';
SELECT '| ' || rpad(experiment || ', ' || subject, 50) || ' | ' || rpad(round(shortest, 2)::text, 8) || ' | '
    || rpad(format('%s (%s – %s)', round(middle, 2), round(low, 2), round(high, 2)), 22) || ' | <= ' || :most || '  | '
    || CASE WHEN kept THEN 'yes' ELSE 'NO ' END || ' |'
FROM promises ORDER BY experiment LIKE '%every%', experiment, subject;

SELECT E'\n## Processor time\n\nNanoseconds a row that is read, or a statement where the index finds the rows: median (lowest – highest), and times that of the unguarded table.\n';
SELECT '| ' || rpad('what', 44) || ' | ' || rpad('guard', 10) || ' | ' || rpad('ns', 34) || ' | times |'
UNION ALL SELECT '|' || repeat('-', 46) || '|' || repeat('-', 12) || '|' || repeat('-', 36) || '|-------|';
SELECT '| ' || rpad(experiment, 44) || ' | ' || rpad(subject, 10) || ' | ' || rpad(format('%s (%s – %s)', round(middle), round(low), round(high)), 34)
    || ' | ' || lpad(coalesce(round(times, 2)::text, ''), 5) || ' |'
FROM (SELECT o.experiment, o.subject, percentile_cont(0.5) WITHIN GROUP (ORDER BY o.figure)::numeric AS middle, min(o.figure)::numeric AS low, max(o.figure)::numeric AS high,
             percentile_cont(0.5) WITHIN GROUP (ORDER BY o.figure / u.figure)::numeric AS times
      FROM figures o LEFT JOIN figures u ON u.experiment = o.experiment AND u.round = o.round AND u.subject = 'unguarded'
      GROUP BY o.experiment, o.subject) f
ORDER BY experiment LIKE '%every%', experiment, array_position(ARRAY['unguarded', 'protected', 'asked', 'listed', 'by hand'], subject);

SELECT count(*) > 0 AS broken FROM promises WHERE NOT kept \gset
\if :broken
DO $$ BEGIN RAISE 'a promise is not kept'; END $$;
\endif
