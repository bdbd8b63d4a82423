-- The measurements as Markdown: medians with lowest and highest, and what was promised. Differences and ratios are taken
-- within each round, in which both subjects ran, so that the machine's other work cancels out.
\set ON_ERROR_STOP on
\pset tuples_only on
\pset format unaligned

CREATE TEMP VIEW figures AS
SELECT experiment, subject, round, CASE WHEN units IS NULL THEN value ELSE value / units * 1e9 END AS figure
FROM bench.measurements WHERE round > 0;

-- promise: figure of `subject` less that of `against` (-), or divided by it (/), is to be at least or at most `bound`.
CREATE TEMP TABLE promises (place serial, title text, experiment text, subject text, operation text, against text, unit text, comparison text, bound float8);
INSERT INTO promises (title, experiment, subject, operation, against, unit, comparison, bound)
SELECT p.title, 'scan, ' || type || ', ' || style, p.subject, p.operation, p.against, p.unit, p.comparison, p.bound
FROM unnest(ARRAY['text', 'uuid', 'bigint']) WITH ORDINALITY t(type, i), unnest(ARRAY['where', 'policy']) style, (VALUES
    (1, 'entitled over no-op, a row', 'entitled', '-', 'noop', 'ns', '<=', 30),
    (2, 'IN (SELECT) against entitled', 'in (select)', '/', 'entitled', 'times', '>', 1),
    (3, 'SQL function against entitled', 'sql function', '/', 'entitled', 'times', '>=', 40),
    (4, 'PL/pgSQL function against entitled', 'plpgsql function', '/', 'entitled', 'times', '>=', 40)
) p(j, title, subject, operation, against, unit, comparison, bound)
ORDER BY i, style DESC, j;
INSERT INTO promises (title, experiment, subject, operation, against, unit, comparison, bound)
SELECT 'first check over no-op', experiment, 'entitled', '-', 'noop', 'ns', '<=', 5000
FROM (SELECT DISTINCT experiment FROM figures WHERE experiment LIKE 'first check%') e ORDER BY experiment;
INSERT INTO promises (title, experiment, subject, operation, against, unit, comparison, bound) VALUES
    ('throughput, entitled against no-op', 'wire', 'many accounts', '/', 'noop', 'times', '>=', 0.95),
    ('throughput, few against many accounts', 'wire', 'few accounts', '/', 'many accounts', 'times', '<=', 1.3),
    ('publication', 'publish', 'publish_plan', '-', NULL, 'ns', '<', 50e6);

SELECT '# Measurements' || E'\n' || format(
    'PostgreSQL %s, shared_buffers %s in %s, fsync %s; %s processors; load average %s before, %s after; %s rounds.%s',
    current_setting('server_version'), current_setting('shared_buffers'), :'pages', current_setting('fsync'),
    :'processors', :'load_before', :'load_after', :'rounds',
    CASE WHEN :scale <> 1 THEN format(' **Scale %s: the targets below are for scale 1.**', :scale) ELSE '' END)
    || E'\n' || :'loading' || E'\n';

SELECT format(E'## Scan of %s documents\n', max(units)) FROM bench.measurements WHERE experiment LIKE 'scan%';
SELECT format('Nanoseconds of processor time a row for the whole query, median (lowest – highest). The SQL and the PL/pgSQL function read %s rows. '
    'Every query begins with an empty memo.', min(units)) || E'\n' FROM bench.measurements WHERE experiment LIKE 'scan%';
SELECT '| ' || string_agg(rpad(name, width), ' | ' ORDER BY place) || ' |'
FROM (VALUES (0, 'guard', 17), (1, 'text, where', 22), (2, 'text, policy', 22), (3, 'uuid, where', 22), (4, 'uuid, policy', 22),
    (5, 'bigint, where', 22), (6, 'bigint, policy', 22)) h(place, name, width)
UNION ALL SELECT '|' || repeat('-', 19) || repeat('|' || repeat('-', 24), 6) || '|';
SELECT '| ' || rpad(subject, 17) || ' | ' || string_agg(rpad(format('%s (%s – %s)', round(middle), round(low), round(high)), 22), ' | ' ORDER BY column_place) || ' |'
FROM (SELECT subject, array_position(ARRAY['scan, text, where', 'scan, text, policy', 'scan, uuid, where', 'scan, uuid, policy', 'scan, bigint, where',
          'scan, bigint, policy'], experiment) AS column_place,
          percentile_cont(0.5) WITHIN GROUP (ORDER BY figure)::numeric AS middle, min(figure)::numeric AS low, max(figure)::numeric AS high
      FROM figures WHERE experiment LIKE 'scan%' GROUP BY 1, 2) f
GROUP BY subject
ORDER BY array_position(ARRAY['unguarded', 'noop', 'entitled', 'in (select)', 'exists (select)', 'sql function', 'plpgsql function'], subject);

SELECT E'\n## First checks, and over the wire\n\nFirst checks: microseconds of processor time for one account, the no-op included. Wire: transactions a second of prepared statements, '
    || E'8 clients through TCP, after each has asked once about every account, with room to remember them (entitlements.memo_size 256 MB); '
    || E'"neighbour": while another client commits all the time.\n';
SELECT '| ' || rpad('experiment', 36) || ' | ' || rpad('subject', 18) || ' | ' || lpad('median', 10) || ' | ' || lpad('lowest', 10) || ' | ' || lpad('highest', 10) || ' |'
UNION ALL SELECT '|' || repeat('-', 38) || '|' || repeat('-', 20) || repeat('|-----------:', 3) || '|';
SELECT '| ' || rpad(experiment, 36) || ' | ' || rpad(subject, 18) || ' | '
    || concat_ws(' | ', lpad(round(middle, digits)::text, 10), lpad(round(low, digits)::text, 10), lpad(round(high, digits)::text, 10)) || ' |'
FROM (SELECT experiment, subject, CASE WHEN count(units) > 0 THEN 0.001 ELSE 1 END AS factor, CASE WHEN count(units) > 0 THEN 2 ELSE 0 END AS digits
      FROM bench.measurements WHERE experiment NOT LIKE 'scan%' AND experiment <> 'publish' GROUP BY 1, 2) m,
    LATERAL (SELECT factor * percentile_cont(0.5) WITHIN GROUP (ORDER BY figure)::numeric AS middle,
                    factor * min(figure)::numeric AS low, factor * max(figure)::numeric AS high
             FROM figures f WHERE f.experiment = m.experiment AND f.subject = m.subject) f
ORDER BY experiment, subject;

SELECT E'\n## Promises\n\nMedian over the rounds (lowest – highest).\n';
SELECT '| ' || rpad('what', 45) || ' | ' || rpad('where', 36) || ' | ' || rpad('measured', 38) || ' | ' || rpad('promised', 12) || ' | met |'
UNION ALL SELECT '|' || repeat('-', 47) || '|' || repeat('-', 38) || '|' || repeat('-', 40) || '|' || repeat('-', 14) || '|-----|';
SELECT '| ' || rpad(title, 45) || ' | ' || rpad(experiment, 36) || ' | '
    || rpad(format('%s (%s – %s) %s', round(middle / scale, 2), round(low / scale, 2), round(high / scale, 2), name), 38) || ' | '
    || rpad(comparison || ' ' || (bound / scale)::float8 || ' ' || name, 12) || ' | '
    || CASE WHEN CASE comparison WHEN '<=' THEN middle <= bound WHEN '<' THEN middle < bound WHEN '>' THEN middle > bound ELSE middle >= bound END
       THEN 'yes' ELSE 'NO ' END || ' |'
FROM promises p,
    LATERAL (SELECT count(*) AS rounds, percentile_cont(0.5) WITHIN GROUP (ORDER BY value)::numeric AS middle, min(value)::numeric AS low, max(value)::numeric AS high
             FROM (SELECT CASE WHEN p.against IS NULL THEN s.figure WHEN p.operation = '-' THEN s.figure - a.figure ELSE s.figure / a.figure END AS value
                   FROM figures s LEFT JOIN figures a ON a.experiment = s.experiment AND a.round = s.round AND a.subject = p.against
                   WHERE s.experiment = p.experiment AND s.subject = p.subject) v) f,
    LATERAL (SELECT CASE WHEN unit <> 'ns' THEN 1 WHEN bound >= 1e6 THEN 1e6 WHEN bound >= 1000 THEN 1000 ELSE 1 END::numeric AS scale,
                    CASE WHEN unit <> 'ns' THEN unit WHEN bound >= 1e6 THEN 'ms' WHEN bound >= 1000 THEN 'µs' ELSE 'ns' END AS name) u
WHERE rounds > 0
ORDER BY place;
SELECT E'\n' || :'witness';
