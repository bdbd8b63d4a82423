-- Why an answer is what it is.

CREATE FUNCTION entitlements.explain(account text, feature text, at timestamptz DEFAULT now(), format text DEFAULT 'text') RETURNS SETOF text
    LANGUAGE c STABLE PARALLEL SAFE ROWS 20 AS 'MODULE_PATHNAME', 'explain_wrapper';
CREATE FUNCTION entitlements.explain(account uuid, feature text, at timestamptz DEFAULT now(), format text DEFAULT 'text') RETURNS SETOF text
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 20
    BEGIN ATOMIC SELECT * FROM entitlements.explain(account::text, feature, at, format); END;
CREATE FUNCTION entitlements.explain(account bigint, feature text, at timestamptz DEFAULT now(), format text DEFAULT 'text') RETURNS SETOF text
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 20
    BEGIN ATOMIC SELECT * FROM entitlements.explain(account::text, feature, at, format); END;
COMMENT ON FUNCTION entitlements.explain(text, text, timestamptz, text) IS
    'Why the account is or is not granted the feature at a time: each subscription, override and block with its effect, source, reason, author '
    'and end. About a past time it tells what was decided then from the rows as recorded then, and what they would say with what is known '
    'now. format is text (one row a line, like EXPLAIN) or json (one row). NE003 unknown feature, NE007 an argument is NULL or the format unknown.';
COMMENT ON FUNCTION entitlements.explain(uuid, text, timestamptz, text) IS 'explain for accounts whose key is a uuid in its canonical text form.';
COMMENT ON FUNCTION entitlements.explain(bigint, text, timestamptz, text) IS 'explain for accounts whose key is a number in decimal digits.';
