-- The application of the recipes. Reports may be read by accounts whose plan has the feature; an export takes a unit, in the
-- transaction that writes its row; a search takes one of a rate. Role :app is trusted to say whom it acts for, role :member
-- passes on tokens that the holder of the key :jwk signs.

CREATE EXTENSION entitlements;
SELECT count(*) FROM entitlements.apply_catalog('{
  "features": {
    "reports":  {"kind": "flag"},
    "exports":  {"kind": "quota", "unit": "export", "period": "1 month", "anchor": "calendar"},
    "searches": {"kind": "rate", "unit": "search", "period": "1 minute", "burst": 1}
  },
  "plans": {
    "free": {"kind": "base", "features": {"searches": 1}},
    "team": {"kind": "base", "features": {"reports": true, "exports": 3, "searches": 1}},
    "busy": {"kind": "base", "features": {"reports": true, "exports": "unlimited", "searches": 1}}
  }
}');
SELECT entitlements.subscribe('acme', 'team'), entitlements.subscribe('globex', 'team'), entitlements.subscribe('hobby', 'free');
-- For pooler.py, which has many accounts.
SELECT count(entitlements.subscribe('tenant-' || number, 'busy')) FROM generate_series(1, 40) AS number;

CREATE TABLE reports (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id text NOT NULL,
    title text NOT NULL
);
CREATE INDEX ON reports (account_id);
INSERT INTO reports (account_id, title)
    VALUES ('acme', 'July'), ('acme', 'August'), ('globex', 'July'), ('hobby', 'July');
INSERT INTO reports (account_id, title) SELECT 'tenant-' || number, 'of tenant-' || number FROM generate_series(1, 40) AS number;

-- The account of a new row is that of the transaction. A request's key makes a repeated request one export.
CREATE TABLE exports (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id text NOT NULL DEFAULT entitlements.current_account(),
    file text NOT NULL,
    request text NOT NULL,
    UNIQUE (account_id, request)
);

SELECT entitlements.protect_table('reports', 'account_id', 'reports');
SELECT entitlements.protect_table('exports', 'account_id');

GRANT SELECT, INSERT ON reports, exports TO :app, :member;
SELECT entitlements.grant_access(:'app', 'consumer');
SELECT entitlements.grant_access(:'member', 'member');
SELECT entitlements.trust_key(:'jwk', 'https://login.example', 'session', audience => 'recipes');
