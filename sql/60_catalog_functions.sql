-- Changing the catalog: documents, drafts of plans, moving subscriptions between versions.

CREATE FUNCTION entitlements.apply_catalog(document text, dry_run boolean DEFAULT false) RETURNS SETOF entitlements.catalog_change
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'apply_catalog_wrapper';
CREATE FUNCTION entitlements.apply_catalog(document jsonb, dry_run boolean DEFAULT false) RETURNS SETOF entitlements.catalog_change
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC SELECT * FROM entitlements.apply_catalog(document::pg_catalog.text, dry_run); END;
COMMENT ON FUNCTION entitlements.apply_catalog(text, boolean) IS
    'Makes the catalog what the document states and returns the changes; what the document does not name stays as it is. The whole document '
    'is checked first and applied wholly or not at all; applied again it changes nothing. A plan whose features, rank or parent change gets a '
    'new version, as do the plans that extend it; subscriptions stay on theirs unless they follow the latest. dry_run returns the same rows '
    'and writes nothing. An untyped literal is this form, which refuses keys that appear twice. NE007 an argument is NULL; NE008 the document '
    'is not valid or longer than 16 MiB, DETAIL lists every fault with its JSON path; NE009 it would change what is published and cannot '
    'change, or its revision is not the catalog''s any more.';
COMMENT ON FUNCTION entitlements.apply_catalog(jsonb, boolean) IS
    'apply_catalog of a jsonb document; jsonb itself keeps only the last of keys that appear twice.';

CREATE FUNCTION entitlements.export_catalog() RETURNS jsonb
    LANGUAGE c STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'export_catalog_wrapper';
COMMENT ON FUNCTION entitlements.export_catalog() IS
    'The present catalog as a document that apply_catalog takes, with the latest version of each plan; drafts and earlier versions are not '
    'part of it. Its revision lets apply_catalog refuse it once somebody else changed the catalog.';

CREATE FUNCTION entitlements.define_feature(feature text, kind text DEFAULT NULL, definition jsonb DEFAULT '{}') RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'define_feature_wrapper';
COMMENT ON FUNCTION entitlements.define_feature(text, text, jsonb) IS
    'Creates or changes a feature at once. kind is flag, config, quota, allocation or rate; NULL leaves that of an existing feature. '
    'definition holds the other members of a feature as in a catalog document, such as {"unit": "seat"}: those not named stay, null ones take '
    'their default. NE007 feature or definition is NULL or malformed; NE008 and NE009 as apply_catalog.';

CREATE FUNCTION entitlements.define_plan(plan text, kind text DEFAULT NULL, extends text DEFAULT NULL, rank integer DEFAULT NULL,
        name text DEFAULT NULL, description text DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'define_plan_wrapper';
COMMENT ON FUNCTION entitlements.define_plan(text, text, text, integer, text, text) IS
    'Edits the draft of a plan, or starts one: from the latest version, or a new plan of kind base (default) or addon. NULL leaves a member as '
    'it is; an empty text takes extends, name or description away. Nobody sees a draft before publish_plan, which also checks it as a whole. '
    'NE007 plan is NULL, or a key or kind is malformed.';

CREATE FUNCTION entitlements.set_plan_feature(plan text, feature text, value jsonb) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'set_plan_feature_wrapper';
COMMENT ON FUNCTION entitlements.set_plan_feature(text, text, jsonb) IS
    'Sets what the draft of a plan holds of a feature; without a draft one is started from the latest version. The value is as in a catalog '
    'document: true or false, a config value, or an amount in the feature''s unit, "unlimited" or {"amount": 1, "per_unit": true}. SQL NULL '
    'takes the feature out of the plan''s own set, so that what the extended plan gives counts; JSON null takes away also that. NE003 unknown '
    'feature; NE005 unknown plan; NE007 plan or feature is NULL or malformed, or the feature takes no such value.';

CREATE FUNCTION entitlements.discard_draft(plan text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'discard_draft_wrapper';
COMMENT ON FUNCTION entitlements.discard_draft(text) IS
    'Drops the draft of a plan; false if there is none. NE007 plan is NULL or malformed.';

CREATE FUNCTION entitlements.publish_plan(plan text) RETURNS integer
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'publish_plan_wrapper';
COMMENT ON FUNCTION entitlements.publish_plan(text) IS
    'Publishes the draft of a plan as a new version, with new versions of the plans that extend it, and returns the version that is now the '
    'latest. Subscriptions that follow the latest version have it from the commit on; their number does not matter. Without a draft, or with '
    'one that changes nothing, the present version stays. NE005 unknown plan; NE007 plan is NULL or malformed; NE008 the draft is not valid, '
    'DETAIL lists every fault; NE009 the plan got a newer version since the draft began.';

CREATE FUNCTION entitlements.migrate_subscriptions(plan text, from_version integer, to_version integer, accounts text[] DEFAULT NULL,
        at timestamptz DEFAULT pg_catalog.now(), reason text DEFAULT NULL, dry_run boolean DEFAULT false)
    RETURNS SETOF entitlements.migrated_subscription
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'migrate_subscriptions_wrapper';
COMMENT ON FUNCTION entitlements.migrate_subscriptions(text, integer, integer, text[], timestamptz, text, boolean) IS
    'Moves subscriptions that are pinned to from_version (NULL = any other) of a plan to to_version, from at on (default now), with the '
    'stretches that are scheduled for later; what was held before at stays as it was. accounts chooses whose (NULL = everybody''s). '
    'Subscriptions whose term is over at that moment are left, also in grace, as are those that follow the latest version. dry_run '
    'returns the same rows and writes nothing. NE005 unknown plan or version; NE006 unknown account; NE007 plan, to_version, at or dry_run is '
    'NULL, an account is NULL, at is infinite, or both versions are the same.';
