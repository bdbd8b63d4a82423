-- Licences: what an application may do that verifies offline; and licence files of others.

CREATE TABLE entitlements.signing_keys (
    kid               text COLLATE "C" PRIMARY KEY,
    jwk               jsonb NOT NULL CHECK (jsonb_typeof(jwk) = 'object' AND NOT jwk ? 'd'),
    first_used_at     timestamptz NOT NULL,
    needed_until      timestamptz NOT NULL DEFAULT '-infinity',
    distrusted_at     timestamptz,
    distrusted_by     text,
    distrusted_reason text,
    CHECK (num_nonnulls(distrusted_at, distrusted_by, distrusted_reason) IN (0, 3))
);
COMMENT ON TABLE entitlements.signing_keys IS 'The public part of each key that this database has signed with.';
COMMENT ON COLUMN entitlements.signing_keys.needed_until IS 'Until when a licence can be shown that it signed and that a later key has signed since';
COMMENT ON COLUMN entitlements.signing_keys.distrusted_at IS 'Since when what it signs counts no longer; NULL = it does';

CREATE TABLE entitlements.licences (
    id              uuid PRIMARY KEY,
    account_id      bigint NOT NULL REFERENCES entitlements.accounts,
    holder          text COLLATE "C" NOT NULL,
    audience        text,
    features        text[],
    seat_feature_id integer REFERENCES entitlements.features,
    seat_id         bigint REFERENCES entitlements.seats,
    kid             text COLLATE "C" NOT NULL REFERENCES entitlements.signing_keys,
    issued_at       timestamptz NOT NULL,
    renewed_at      timestamptz NOT NULL CHECK (renewed_at >= issued_at),
    expires_at      timestamptz NOT NULL,
    lease           interval NOT NULL,
    machine         text COLLATE "C",
    machine_key     text COLLATE "C",
    nonce           text COLLATE "C",
    issued_by       text NOT NULL,
    revoked_at      timestamptz,
    revoked_by      text,
    revoked_reason  text,
    deactivated_at  timestamptz,
    CONSTRAINT licences_request UNIQUE (machine, nonce),
    CHECK (num_nonnulls(machine, machine_key, nonce) IN (0, 3)),
    CHECK (num_nonnulls(revoked_at, revoked_by, revoked_reason) IN (0, 3))
);
CREATE INDEX licences_holder ON entitlements.licences (account_id, seat_feature_id, holder);
CREATE INDEX licences_key ON entitlements.licences (kid, expires_at);
CREATE INDEX licences_ended ON entitlements.licences (expires_at) WHERE revoked_at IS NOT NULL OR deactivated_at IS NOT NULL;
COMMENT ON TABLE entitlements.licences IS 'Licences that were issued. A renewal signs the same licence again, with a later end.';
COMMENT ON COLUMN entitlements.licences.id IS 'jti of each of its tokens';
COMMENT ON COLUMN entitlements.licences.holder IS 'The person or thing it was given to';
COMMENT ON COLUMN entitlements.licences.features IS 'What was asked for; NULL = all that the account is granted';
COMMENT ON COLUMN entitlements.licences.seat_feature_id IS 'The allocation in which the holder has a seat meanwhile';
COMMENT ON COLUMN entitlements.licences.seat_id IS 'The seat that was taken for it; NULL = none, or the holder had one';
COMMENT ON COLUMN entitlements.licences.kid IS 'The key that signed it last';
COMMENT ON COLUMN entitlements.licences.expires_at IS 'The latest end that was signed: it can be shown until then, whatever is known here';
COMMENT ON COLUMN entitlements.licences.machine IS 'The only machine on which it holds, as its request names it; NULL = any';
COMMENT ON COLUMN entitlements.licences.machine_key IS 'Thumbprint of the key that signed the request, and signs the deactivation';
COMMENT ON COLUMN entitlements.licences.nonce IS 'Of the request that it answers';
COMMENT ON COLUMN entitlements.licences.revoked_at IS 'When it was revoked: it is not renewed, and in the list of revoked licences; NULL = it is not';
COMMENT ON COLUMN entitlements.licences.deactivated_at IS 'When its machine''s word arrived that it gave it up; NULL = it did not';

CREATE TABLE entitlements.imported_licences (
    source          text COLLATE "C",
    licence_id      text COLLATE "C",
    account_id      bigint NOT NULL REFERENCES entitlements.accounts,
    subscription_id bigint,
    issued_at       timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    imported_at     timestamptz NOT NULL,
    imported_by     text NOT NULL,
    PRIMARY KEY (source, licence_id)
);
CREATE INDEX imported_licences_account ON entitlements.imported_licences (account_id);
COMMENT ON TABLE entitlements.imported_licences IS 'Licences of other systems that were taken over here, each for one account.';
COMMENT ON COLUMN entitlements.imported_licences.source IS 'The issuer whose key signed the file; with a colon and the licence''s id the source of what came of it';
COMMENT ON COLUMN entitlements.imported_licences.subscription_id IS 'The subscription that it started; NULL = none';
COMMENT ON COLUMN entitlements.imported_licences.issued_at IS 'When the newest file of it was made; an older one is refused';

SELECT pg_catalog.pg_extension_config_dump('entitlements.signing_keys', '');
SELECT pg_catalog.pg_extension_config_dump('entitlements.licences', '');
SELECT pg_catalog.pg_extension_config_dump('entitlements.imported_licences', '');

CREATE FUNCTION entitlements.issue_licence(
    account text, subject text, features text[] DEFAULT NULL, ttl interval DEFAULT '7 days', seat_feature text DEFAULT NULL,
    audience text DEFAULT NULL, request text DEFAULT NULL
) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'issue_licence_wrapper';
COMMENT ON FUNCTION entitlements.issue_licence(text, text, text[], interval, text, text, text) IS
    'Signs what the account is entitled to now, of the features (NULL = all that it is granted), for an application that verifies it offline with jwks(): a JSON Web Token. It ends after ttl '
    '(at most 366 days), or sooner when what it says, or its seat''s allocation, is known to change, and with the credit that the seat was taken from. subject is whom it is given to, audience the only application that may accept it (NULL = any). With seat_feature the '
    'subject takes a seat of that allocation for as long as the licence can be shown. With request, the signed request of a machine without network, the licence holds on that machine only; it then '
    'also says who subject, audience and features are where they are NULL, and is answered once. NE001 a feature is not granted, or seat_feature is not, NE002 no seat is free, NE003 unknown feature, '
    'NE004 seat_feature is not an allocation, NE006 unknown account, NE007 invalid argument, NE009 the database has no name or no signing key, the account is granted nothing, or the request was answered, '
    'NE013 the request is refused, or the clock is behind; 40001 as assign_seat.';

CREATE FUNCTION entitlements.renew_licence(token text, ttl interval DEFAULT '7 days') RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'renew_licence_wrapper';
COMMENT ON FUNCTION entitlements.renew_licence(text, interval) IS
    'Signs a licence that still holds anew, with what its account is entitled to now and a new end; its seat is kept as long. The heartbeat of an application: it shows its token and gets the next. '
    'NE001, NE002 as issue_licence, NE007 token is NULL or ttl is NULL, not positive or longer than 366 days, NE009 no name or signing key, NE010 unknown licence, NE013 the token is refused: '
    'expired, revoked, or not signed here; 40001 as assign_seat.';

CREATE FUNCTION entitlements.revoke_licence(id uuid, reason text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'revoke_licence_wrapper';
COMMENT ON FUNCTION entitlements.revoke_licence(uuid, text) IS
    'Revokes a licence: it is not renewed, and revoked_licences() and the next bundle name it. Its seat stays taken until the end that was signed, since it can be shown until then. '
    'False if it was revoked before. NE007 an argument is missing, NE010 unknown licence.';

CREATE FUNCTION entitlements.deactivate_licence(document text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'deactivate_licence_wrapper';
COMMENT ON FUNCTION entitlements.deactivate_licence(text) IS
    'Takes in the signed word of a machine that it gave up its licence: the seat is free at once, unless another licence of the same subject needs it or the subject had it before. False if it was taken in before. '
    'NE007 document is NULL, NE009 the database has no name, NE010 unknown licence, NE013 the document is refused; 40001 as release_seat.';

CREATE FUNCTION entitlements.revoked_licences() RETURNS TABLE (id text, ended_at timestamptz, expires_at timestamptz, issuer text)
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 20 SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'revoked_licences_wrapper';
COMMENT ON FUNCTION entitlements.revoked_licences() IS
    'Licences that hold no longer, whatever they say of their own end: an application that reaches this list refuses them. Those of this database that were revoked or given up, until the end that was signed; '
    'and those that the bundles in force revoke, whose ended_at and expires_at only their issuer knows (NULL). id is the licence''s jti, issuer its iss.';

CREATE FUNCTION entitlements.jwks() RETURNS jsonb
    LANGUAGE c STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'jwks_wrapper';
COMMENT ON FUNCTION entitlements.jwks() IS
    'The public keys with which what this database signed is verified, as a JSON Web Key Set (RFC 7517): that of the signing key file, and earlier ones while a licence that they signed holds; none that was distrusted. '
    'NE009 the key file cannot be read.';

CREATE FUNCTION entitlements.import_licence(
    file text, account text, key text DEFAULT NULL, mapping jsonb DEFAULT NULL, plan text DEFAULT NULL
) RETURNS TABLE (action text, object text, name text, value jsonb, expires_at timestamptz)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'import_licence_wrapper';
COMMENT ON FUNCTION entitlements.import_licence(text, text, text, jsonb, text) IS
    'Takes over a licence file of Keygen for the account, which is created if there is none: each of its entitlements becomes an override that sets a feature, with the licence''s or the file''s end, whichever is sooner, and '
    'with plan the account also subscribes to that. The file is signed by a key that is trusted with purpose licence and keygen:<account id there> as the issuer; with a colon and the licence''s id that is the source of what it grants. key is the licence '
    'key of an encrypted file. mapping says for codes of entitlements which features they stand for, {"CODE": "feature"} or {"CODE": {"feature": ..., "value": ...}} or null for none; else the feature of that name, also in '
    'lower case. A newer file of the licence takes the place of an older one. Returns what changed: action granted, changed or ended. NE005 unknown plan, NE007 invalid argument, NE009 the licence is another account''s or has another plan, '
    'NE013 the file is refused: DETAIL has the reason.';

-- Usage reports.

CREATE TABLE entitlements.usage_reports (
    audience  text COLLATE "C",
    sequence  bigint CHECK (sequence > 0),
    digest    text COLLATE "C" NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at   timestamptz NOT NULL CHECK (ends_at > starts_at),
    row_count bigint NOT NULL,
    kid       text COLLATE "C" NOT NULL REFERENCES entitlements.signing_keys,
    issued_at timestamptz NOT NULL,
    issued_by text NOT NULL,
    document  text NOT NULL,
    PRIMARY KEY (audience, sequence)
);
COMMENT ON TABLE entitlements.usage_reports IS 'What was reported of usage here, a chain of signed documents for each audience.';
COMMENT ON COLUMN entitlements.usage_reports.digest IS 'SHA-256 of the signed claims in base64url; the next report names it';

CREATE TABLE entitlements.received_usage_reports (
    site        text COLLATE "C",
    sequence    bigint CHECK (sequence > 0),
    digest      text COLLATE "C" NOT NULL,
    previous    text COLLATE "C",
    starts_at   timestamptz NOT NULL,
    ends_at     timestamptz NOT NULL,
    row_count   bigint NOT NULL,
    kid         text COLLATE "C" NOT NULL,
    issued_at   timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    received_by text NOT NULL,
    PRIMARY KEY (site, sequence)
);
COMMENT ON TABLE entitlements.received_usage_reports IS 'Reports of sites that were taken in.';
COMMENT ON COLUMN entitlements.received_usage_reports.previous IS 'Digest of the report before, as this one names it; NULL = it is the first';

CREATE TABLE entitlements.reported_usage (
    site         text COLLATE "C",
    account      text COLLATE "C",
    account_id   bigint REFERENCES entitlements.accounts,
    feature      text COLLATE "C",
    window_start timestamptz,
    window_end   timestamptz,
    used         numeric NOT NULL CHECK (used >= 0),
    allowance    numeric NOT NULL CHECK (allowance >= 0),
    sequence     bigint NOT NULL,
    PRIMARY KEY (site, account, feature, window_start, window_end),
    FOREIGN KEY (site, sequence) REFERENCES entitlements.received_usage_reports
);
CREATE INDEX reported_usage_account ON entitlements.reported_usage (account_id) WHERE account_id IS NOT NULL;
COMMENT ON TABLE entitlements.reported_usage IS 'What accounts have used at sites, by the latest report of each window.';
COMMENT ON COLUMN entitlements.reported_usage.account_id IS 'The account with this key here; NULL = there was none';
COMMENT ON COLUMN entitlements.reported_usage.window_start IS '-infinity, and window_end infinity: usage never starts again at zero';
COMMENT ON COLUMN entitlements.reported_usage.allowance IS 'At the site at the time of the report; Infinity = unlimited';
COMMENT ON COLUMN entitlements.reported_usage.sequence IS 'Of the report that told it';

SELECT pg_catalog.pg_extension_config_dump('entitlements.usage_reports', '');
SELECT pg_catalog.pg_extension_config_dump('entitlements.received_usage_reports', '');
SELECT pg_catalog.pg_extension_config_dump('entitlements.reported_usage', '');

CREATE FUNCTION entitlements.export_usage_report("from" timestamptz DEFAULT NULL, "to" timestamptz DEFAULT now(), audience text DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'export_usage_report_wrapper';
COMMENT ON FUNCTION entitlements.export_usage_report(timestamptz, timestamptz, text) IS
    'Signs what each account has used here in the windows that overlap the time from (default the end of the report before) until to, exclusive (default now), as it is counted at this moment, with the allowance of now, for '
    'audience: the vendor (default the only issuer of bundles whose keys are trusted). Reports for one audience are numbered, and each names the one before. NE007 from is not before to, to is in the '
    'future or infinite, or audience is NULL and not known, NE009 the database has no name or no signing key, or there is more to report than a document holds.';

CREATE FUNCTION entitlements.usage_report(sequence bigint, audience text DEFAULT NULL) RETURNS text
    LANGUAGE c STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'usage_report_wrapper';
COMMENT ON FUNCTION entitlements.usage_report(bigint, text) IS
    'A report once more as it was exported, for one that got lost on its way. NE007 sequence is NULL, or audience is NULL and there are several, NE010 there is no such report.';

CREATE FUNCTION entitlements.import_usage_report(document text) RETURNS TABLE (
    site text, account text, feature text, window_start timestamptz, window_end timestamptz, used numeric, used_before numeric, allowance numeric
)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'import_usage_report_wrapper';
COMMENT ON FUNCTION entitlements.import_usage_report(text) IS
    'Takes in the usage report of a site, signed with a key that is trusted with purpose usage_report and the site''s name as the issuer, and returns what it tells that no later report has told: used in the '
    'window, used_before as it was told until now (NULL = not at all), allowance at the site (NULL = unlimited). No rows for a report that was taken in before. A warning names reports before it that have not '
    'arrived; they may come later. NE007 document is missing, NE009 the database has no name, NE013 the report is refused: DETAIL has the reason.';

CREATE FUNCTION entitlements.reported_usage(of_account text DEFAULT NULL, of_site text DEFAULT NULL) RETURNS TABLE (
    site text, account text, feature text, window_start timestamptz, window_end timestamptz, used numeric, allowance numeric, reported_until timestamptz
)
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 100 SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'reported_usage_wrapper';
COMMENT ON FUNCTION entitlements.reported_usage(text, text) IS
    'What sites have reported, by the latest report of each window; of one account or one site where they are given. allowance is NULL where it is unlimited.';

CREATE FUNCTION entitlements.reporting_sites() RETURNS TABLE (
    site text, last_sequence bigint, missing bigint[], reported_until timestamptz, received_at timestamptz
)
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 20 SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'reporting_sites_wrapper';
COMMENT ON FUNCTION entitlements.reporting_sites() IS 'The sites whose reports were taken in, with the numbers of those that have not arrived, at most 1000 of them.';

-- Delegation: units of this database's pools that a site has for a time, and those that this site has of others.

CREATE TABLE entitlements.delegations (
    id            bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    account_id    bigint NOT NULL REFERENCES entitlements.accounts,
    feature_id    integer NOT NULL REFERENCES entitlements.features,
    site          text COLLATE "C" NOT NULL CHECK (octet_length(site) BETWEEN 1 AND 255),
    amount        numeric NOT NULL CHECK (amount > 0 AND amount < 'Infinity'),
    given_back    numeric NOT NULL DEFAULT 0 CHECK (given_back BETWEEN 0 AND amount),
    lease_ends_at timestamptz NOT NULL,
    reason        text NOT NULL,
    delegated_at  timestamptz NOT NULL,
    delegated_by  text NOT NULL,
    returned_at   timestamptz,
    reclaimed_at  timestamptz
);
CREATE INDEX delegations_open ON entitlements.delegations (site, lease_ends_at) WHERE returned_at IS NULL AND reclaimed_at IS NULL;
CREATE INDEX delegations_account ON entitlements.delegations (account_id);
COMMENT ON TABLE entitlements.delegations IS 'Units that were taken out of pools here for a site, until its lease of them is over.';
COMMENT ON COLUMN entitlements.delegations.given_back IS 'What is in the pools here again';
COMMENT ON COLUMN entitlements.delegations.lease_ends_at IS 'When the site counts the units no longer, exclusive';
COMMENT ON COLUMN entitlements.delegations.returned_at IS 'When the site''s signed return was taken in; NULL = it was not';
COMMENT ON COLUMN entitlements.delegations.reclaimed_at IS 'When it was closed after its lease; NULL = it was not';

CREATE TABLE entitlements.delegation_parts (
    delegation_id bigint REFERENCES entitlements.delegations,
    counter_id    bigint REFERENCES entitlements.counters,
    amount        numeric NOT NULL CHECK (amount > 0),
    PRIMARY KEY (delegation_id, counter_id)
);
COMMENT ON TABLE entitlements.delegation_parts IS 'Which counters the units of a delegation were taken from.';

CREATE TABLE entitlements.received_delegations (
    issuer          text COLLATE "C",
    id              bigint,
    account_id      bigint NOT NULL REFERENCES entitlements.accounts,
    feature_id      integer NOT NULL REFERENCES entitlements.features,
    amount          numeric NOT NULL,
    lease_ends_at   timestamptz NOT NULL,
    credit_id       bigint NOT NULL REFERENCES entitlements.credits,
    received_at     timestamptz NOT NULL,
    returned_at     timestamptz,
    unused          numeric,
    return_document text,
    PRIMARY KEY (issuer, id),
    CHECK (num_nonnulls(returned_at, unused, return_document) IN (0, 3))
);
CREATE INDEX received_delegations_account ON entitlements.received_delegations (account_id);
COMMENT ON TABLE entitlements.received_delegations IS 'Units that bundles brought for a time. Rows stay: what ended here never comes back.';
COMMENT ON COLUMN entitlements.received_delegations.credit_id IS 'As which the units count here';
COMMENT ON COLUMN entitlements.received_delegations.unused IS 'What nobody had used when it was returned';

SELECT pg_catalog.pg_extension_config_dump('entitlements.delegations', '');
SELECT pg_catalog.pg_extension_config_dump('entitlements.delegations_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('entitlements.delegation_parts', '');
SELECT pg_catalog.pg_extension_config_dump('entitlements.received_delegations', '');

CREATE FUNCTION entitlements.delegate(account text, site text, feature text, amount numeric, lease interval, reason text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'delegate_wrapper';
COMMENT ON FUNCTION entitlements.delegate(text, text, text, numeric, interval, text) IS
    'Takes units of a quota or allocation out of the account''s pools here, for the site to have until the lease (at most 366 days) ends: the next bundle exported for the site that states the account brings them. '
    'Returns the delegation''s number. NE001 not granted, NE002 there are not so many, NE003 unknown feature, NE004 neither a quota nor an allocation, NE006 unknown account, NE007 invalid argument; 40001 as consume.';

CREATE FUNCTION entitlements.return_delegation(id bigint, issuer text DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'return_delegation_wrapper';
COMMENT ON FUNCTION entitlements.return_delegation(bigint, text) IS
    'Ends a delegation that this site has, at once, and returns a signed document for its issuer that says how many units nobody has used; the others stay used. The same document again for one that was returned before, '
    'as erase_account does with those of the account. '
    'NE007 id is NULL, or issuer is NULL and several have used the number, NE009 no name or signing key, NE010 unknown delegation.';

CREATE FUNCTION entitlements.accept_return(document text) RETURNS numeric
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'accept_return_wrapper';
COMMENT ON FUNCTION entitlements.accept_return(text) IS
    'Takes in the return of a delegation, signed with a key that is trusted with purpose usage_report and the site''s name as the issuer, and gives the units that the site has not used back to the pools they were taken from. '
    'Returns how many; 0 for a return that was taken in before. NE007 document is missing, NE009 the database has no name, NE010 unknown delegation, NE013 the document is refused.';

CREATE FUNCTION entitlements.reclaim_delegation(id bigint) RETURNS numeric
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
    AS 'MODULE_PATHNAME', 'reclaim_delegation_wrapper';
COMMENT ON FUNCTION entitlements.reclaim_delegation(bigint) IS
    'Closes a delegation whose lease ended more than an hour ago, and gives the units of an allocation back to the pools they were taken from; those of a quota stay used, since the site may have used them. '
    'Returns how many; 0 if it was reclaimed before. NE007 id is NULL, NE009 the lease is not over so long, NE010 unknown delegation.';
