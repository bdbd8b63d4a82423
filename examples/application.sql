-- A small multi-tenant application: organisations host projects. Load it with psql, in a database with the extension.
--
-- An organisation is an account: its id is the account key. What an organisation may see is decided in two steps, each a
-- policy of its own. The permissive one lets a session see its own organisation's rows. The restrictive one, which must
-- hold as well, asks for the entitlement; it decides row by row and in the same snapshot as the query, so it also guards
-- reports, exports and any query that forgot to ask. Features are those of catalogs/github.json.

SELECT 'CREATE ROLE app NOLOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app') \gexec

CREATE SCHEMA application;

CREATE TABLE application.organisations (
    id   text PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE application.members (
    org_id text NOT NULL REFERENCES application.organisations,
    email  text NOT NULL,
    role   text NOT NULL DEFAULT 'member' CHECK (role IN ('member', 'owner')),
    PRIMARY KEY (org_id, email)
);

CREATE TABLE application.projects (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org_id  text NOT NULL REFERENCES application.organisations,
    name    text NOT NULL,
    private boolean NOT NULL DEFAULT false,
    UNIQUE (org_id, name),
    UNIQUE (org_id, id)
);

CREATE TABLE application.findings (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org_id     text NOT NULL,
    project_id bigint NOT NULL,
    severity   text NOT NULL CHECK (severity IN ('low', 'medium', 'high')),
    title      text NOT NULL,
    FOREIGN KEY (org_id, project_id) REFERENCES application.projects (org_id, id)
);
CREATE INDEX ON application.findings (org_id);

CREATE TABLE application.support_tickets (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org_id    text NOT NULL REFERENCES application.organisations,
    opened_at timestamptz NOT NULL DEFAULT now(),
    subject   text NOT NULL
);
CREATE INDEX ON application.support_tickets (org_id);

CREATE TABLE application.audit_events (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org_id      text NOT NULL REFERENCES application.organisations,
    occurred_at timestamptz NOT NULL DEFAULT now(),
    actor       text NOT NULL,
    action      text NOT NULL
);
CREATE INDEX ON application.audit_events (org_id);

-- Whose session this is. The application sets it at the start of each transaction:
--   SELECT set_config('application.org', 'acme', true)
-- Unset, it is NULL or empty and no row is anybody's own.
CREATE FUNCTION application.current_org() RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('application.org', true), '');

ALTER TABLE application.organisations   ENABLE ROW LEVEL SECURITY;
ALTER TABLE application.members         ENABLE ROW LEVEL SECURITY;
ALTER TABLE application.projects        ENABLE ROW LEVEL SECURITY;
ALTER TABLE application.findings        ENABLE ROW LEVEL SECURITY;
ALTER TABLE application.support_tickets ENABLE ROW LEVEL SECURITY;
ALTER TABLE application.audit_events    ENABLE ROW LEVEL SECURITY;

CREATE POLICY own_rows ON application.organisations   USING (id = application.current_org());
CREATE POLICY own_rows ON application.members         USING (org_id = application.current_org());
CREATE POLICY own_rows ON application.projects        USING (org_id = application.current_org());
CREATE POLICY own_rows ON application.findings        USING (org_id = application.current_org());
CREATE POLICY own_rows ON application.support_tickets USING (org_id = application.current_org());
CREATE POLICY own_rows ON application.audit_events    USING (org_id = application.current_org());

-- The plan decides whether a whole table is there …
CREATE POLICY entitled ON application.findings AS RESTRICTIVE
    USING (entitlements.entitled(org_id, 'security_overview'));
CREATE POLICY entitled ON application.audit_events AS RESTRICTIVE FOR SELECT
    USING (entitlements.entitled(org_id, 'audit_log_api'));

-- … or only what may be written: tickets and private projects stay readable after a downgrade.
CREATE POLICY entitled ON application.support_tickets AS RESTRICTIVE FOR INSERT
    WITH CHECK (entitlements.entitled(org_id, 'standard_support'));
CREATE POLICY entitled ON application.projects AS RESTRICTIVE
    USING (true) WITH CHECK (NOT private OR entitlements.entitled(org_id, 'private_repositories'));

-- The application asks; it neither reads nor writes what the answers come from.
GRANT USAGE ON SCHEMA application, entitlements TO app;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA application TO app;
GRANT EXECUTE ON FUNCTION entitlements.entitled(text, text) TO app;
