//! Attacks by a role with full SQL and the level `member` only, who wants what is another customer's.
//!
//! Each attack is tried twice: on the extension as it is, where it must be refused, and where the one thing that stops it was
//! taken away, where it must get through: an attack that never works proves nothing. A forged token is stopped by the one thing
//! that is wrong with it: the reason for the refusal names it, and the same token without it opens its account.

mod stage;
mod token;

use serde_json::json;
use stage::{Attempt, SECRET, Stage, any_of, ask, tells_secret, try_token};
use std::process::Command;
use token::{Key, Token, now};

/// An attack and the weakness that lets it through: SQL that the owner runs, in which `$tenant` is the attacker's role.
fn attack(weakness: &str, attempt: impl Fn(&Stage) -> Attempt) {
    let sound = Stage::new();
    if let Ok(loot) = attempt(&sound) {
        panic!("the attack got through: {loot}");
    }
    let weak = Stage::new();
    weak.weaken(weakness);
    if let Err(refusal) = attempt(&weak) {
        panic!("the attack proves nothing, for it fails in a weakened database too: {refusal}");
    }
}

/// Statements that no privilege of the attacker's lets run, each with the weakness that does, and with nothing less: until it is
/// there the statement is refused for want of a privilege (42501), whatever else was weakened before.
fn statements<S: AsRef<str>>(attempts: impl IntoIterator<Item = (S, S)>) {
    let stage = Stage::new();
    for (weakness, statement) in attempts {
        let (weakness, statement) = (weakness.as_ref(), statement.as_ref());
        let attempt = || ask(&mut stage.attacker(), statement);
        match attempt() {
            Ok(loot) => panic!("{statement} got through: {loot}"),
            Err(refusal) => assert!(refusal.starts_with("42501"), "{statement}: {refusal}"),
        }
        stage.weaken(weakness);
        if let Err(refusal) = attempt() {
            panic!("{statement} proves nothing, for it fails after {weakness} too: {refusal}");
        }
    }
}

/// Believes what a token says.
const CREDULOUS: &str = "CREATE OR REPLACE FUNCTION entitlements.authenticate(token text) RETURNS text LANGUAGE sql VOLATILE SECURITY DEFINER AS $$
    SELECT entitlements.set_account(pg_catalog.convert_from(pg_catalog.decode(
        pg_catalog.rpad(pg_catalog.translate(pg_catalog.split_part(token, '.', 2), '-_', '+/'),
            (pg_catalog.length(pg_catalog.split_part(token, '.', 2)) + 3) / 4 * 4, '='), 'base64'), 'UTF8')::jsonb ->> 'sub') $$";

/// Keeps the account in a setting, as is done without an extension.
const IN_A_SETTING: &str = "CREATE OR REPLACE FUNCTION entitlements.authenticate(token text) RETURNS text LANGUAGE sql VOLATILE SECURITY DEFINER AS $$
    SELECT pg_catalog.set_config('app.account', pg_catalog.convert_from(pg_catalog.decode(
        pg_catalog.rpad(pg_catalog.translate(pg_catalog.split_part(token, '.', 2), '-_', '+/'),
            (pg_catalog.length(pg_catalog.split_part(token, '.', 2)) + 3) / 4 * 4, '='), 'base64'), 'UTF8')::jsonb ->> 'sub', false) $$;
    CREATE OR REPLACE FUNCTION entitlements.current_account() RETURNS text LANGUAGE sql STABLE AS $$
        SELECT pg_catalog.current_setting('app.account', true) $$;
    CREATE OR REPLACE FUNCTION entitlements.entitled(feature text) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER AS $$
        SELECT entitlements.entitled(pg_catalog.current_setting('app.account', true), feature) $$";

/// Everybody sees all rows of docs.
const OPEN: &str = "CREATE POLICY open ON docs USING (true)";

// Naming another account.

#[test]
fn asking_about_another_account() {
    statements(
        [
            ("entitled(text, text)", "SELECT entitlements.entitled('globex', 'sso')"),
            ("require(text, text)", "SELECT entitlements.require('globex'::text, 'sso')"),
            ("value_of(text, text)", "SELECT entitlements.value_of('globex'::text, 'sso')"),
            ("allowance(text, text)", "SELECT entitlements.allowance('globex'::text, 'calls')"),
            ("check_access(text, text, numeric)", "SELECT entitlements.check_access('globex'::text, 'calls')"),
            ("entitlements_of(text)", "SELECT * FROM entitlements.entitlements_of('globex'::text)"),
            ("entitled_accounts", "SELECT * FROM entitlements.entitled_accounts('sso')"),
            ("explain(text, text, timestamptz, text)", "SELECT entitlements.explain('globex'::text, 'sso')"),
            (
                "usage_history(text, text, timestamptz, timestamptz)",
                "SELECT * FROM entitlements.usage_history('globex'::text, 'calls')",
            ),
            ("seats(text, text)", "SELECT * FROM entitlements.seats('globex'::text, 'projects')"),
            ("export_account", "SELECT entitlements.export_account('globex')"),
        ]
        .map(|(function, statement)| (granting(function), statement.to_owned())),
    );
}

fn granting(function: &str) -> String {
    format!("GRANT EXECUTE ON FUNCTION entitlements.{function} TO $tenant")
}

#[test]
fn consuming_for_another_account() {
    statements(
        [
            ("consume(text, text, numeric, text, jsonb)", "SELECT entitlements.consume('globex'::text, 'calls', 1, 'key')"),
            ("try_consume(text, text, numeric, text, jsonb)", "SELECT entitlements.try_consume('globex'::text, 'calls')"),
            ("release(text, text, numeric, text, jsonb)", "SELECT entitlements.release('globex'::text, 'calls')"),
            ("consume_many(text, jsonb, text, jsonb)", "SELECT * FROM entitlements.consume_many('globex'::text, '{\"calls\": 1}')"),
            (
                "record_usage",
                "SELECT entitlements.record_usage('[{\"account\": \"globex\", \"feature\": \"calls\", \"n\": 1, \"idempotency_key\": \"mine\"}]')",
            ),
            ("set_usage(text, text, numeric, text)", "SELECT entitlements.set_usage('globex'::text, 'calls', 0, 'mine')"),
            ("reserve(text, text, numeric, interval, jsonb)", "SELECT entitlements.reserve('globex'::text, 'calls', 1, '1 hour')"),
            ("block", "SELECT entitlements.block('globex', 'fraud', 'revenge')"),
            ("set_override", "SELECT entitlements.set_override('acme', 'calls', 'set', '1000000', 'mine')"),
        ]
        .map(|(function, statement)| (granting(function), statement.to_owned())),
    );
}

#[test]
fn consuming_for_another_account_inside_of_other_statements() {
    attack("GRANT EXECUTE ON FUNCTION entitlements.consume(text, text, numeric, text, jsonb) TO $tenant", |stage| {
        let tried = any_of(
            &mut stage.attacker(),
            &["42501"],
            [
                "DO $$ BEGIN PERFORM entitlements.consume('globex'::text, 'calls', 1, 'a key'); END $$",
                "EXPLAIN ANALYZE SELECT entitlements.consume('globex'::text, 'calls', 1, 'another key')",
            ],
        );
        let used = stage.used("globex", "calls");
        if used == 7.0 { Err(tried.unwrap_or_else(|refusal| refusal)) } else { Ok(format!("globex uses {used} calls")) }
    });
}

#[test]
fn taking_from_another_account_by_rows_that_name_it() {
    attack("ALTER TABLE projects DISABLE ROW LEVEL SECURITY", |stage| {
        let mut client = stage.as_acme();
        let told = any_of(
            &mut client,
            &["42501", "NE002"],
            [
                "INSERT INTO projects SELECT n, 'globex' FROM pg_catalog.generate_series(1, 4) n",
                "INSERT INTO projects VALUES (1, 'acme'); UPDATE projects SET account_id = 'globex'",
                "MERGE INTO projects USING (SELECT 2) one ON false WHEN NOT MATCHED THEN INSERT VALUES (2, 'globex')",
            ],
        );
        ask(&mut client, "COMMIT")?;
        let (told, used) = (told.unwrap_or_else(|refusal| refusal), stage.used("globex", "projects"));
        if used > 0.0 || told.contains("allowance") { Ok(told) } else { Err(told) }
    });
}

#[test]
fn binding_another_account() {
    attack("GRANT EXECUTE ON FUNCTION entitlements.set_account(text) TO PUBLIC", |stage| {
        let mut client = stage.attacker();
        ask(&mut client, "BEGIN")?;
        ask(&mut client, "SELECT entitlements.set_account('globex'::text)")?;
        tells_secret(ask(&mut client, "SELECT body FROM docs"))
    });
}

#[test]
fn writing_rows_of_another_account() {
    attack("CREATE POLICY anything ON docs FOR INSERT WITH CHECK (true)", |stage| {
        let mut client = stage.as_acme();
        any_of(
            &mut client,
            &["42501"],
            [
                "INSERT INTO docs VALUES (1000, 'globex', 'forged')",
                "UPDATE docs SET account_id = 'globex'",
                "INSERT INTO docs VALUES (11, 'acme', 'mine') ON CONFLICT (id) DO UPDATE SET body = 'forged'",
                "MERGE INTO docs USING (SELECT 1) one ON false WHEN NOT MATCHED THEN INSERT VALUES (1001, 'globex', 'forged')",
            ],
        )
    });
}

// Settings, roles, definitions.

#[test]
fn becoming_another_role() {
    for (weakness, statement) in [
        ("GRANT postgres TO $tenant", "SET ROLE postgres"),
        ("GRANT postgres TO $tenant", "SELECT pg_catalog.set_config('role', 'postgres', false)"),
        (&granting("grant_access"), "SELECT entitlements.grant_access(CURRENT_USER::regrole, 'admin')"),
        ("ALTER ROLE $tenant SUPERUSER", "SET SESSION AUTHORIZATION postgres"),
        ("ALTER ROLE $tenant SUPERUSER", "ALTER ROLE CURRENT_USER SUPERUSER"),
    ] {
        statements([(weakness, statement)]);
    }
}

#[test]
fn a_setting_that_names_the_account() {
    const TRUSTS_A_SETTING: &str = "ALTER DATABASE $database SET entitlements.account_setting = 'request.jwt.claims'";
    attack(TRUSTS_A_SETTING, |stage| {
        let mut config = stage.database().config();
        config.user(&stage.tenant).options("-c entitlements.account_setting=request.jwt.claims");
        let with_options = config.connect(postgres::NoTls).map_err(|error| stage::told(&error));
        let mut shown = Vec::new();
        for mut client in [with_options, Ok(stage.attacker())].into_iter().flatten() {
            let _ = any_of(
                &mut client,
                &["42501", "42602"],
                [
                    "SET entitlements.account_setting = 'request.jwt.claims'",
                    "SELECT pg_catalog.set_config('entitlements.account_setting', 'request.jwt.claims', false)",
                    "ALTER ROLE CURRENT_USER SET entitlements.account_setting = 'request.jwt.claims'",
                    "SET entitlements.account_claim = 'sub'",
                    "SET entitlements.current_account = 'globex'",
                    "SET request.jwt.claims = '{\"sub\": \"globex\"}'",
                ],
            );
            shown.push(ask(&mut client, "SELECT body FROM docs").unwrap_or_else(|refusal| refusal));
        }
        tells_secret(Ok(shown.join("\n")))
    });
}

#[test]
fn a_session_that_keeps_the_account_of_the_client_before() {
    attack(IN_A_SETTING, |stage| {
        let mut pooled = stage.attacker();
        ask(&mut pooled, "BEGIN")?;
        stage.authenticate(&mut pooled, "globex")?;
        ask(&mut pooled, "COMMIT")?;
        tells_secret(ask(&mut pooled, "SELECT body FROM docs"))
    });
}

#[test]
fn a_session_that_keeps_the_account_after_an_error() {
    attack(IN_A_SETTING, |stage| {
        let mut pooled = stage.attacker();
        stage.authenticate(&mut pooled, "globex")?;
        let _ = ask(&mut pooled, "BEGIN; SAVEPOINT s; SELECT 1 / 0");
        ask(&mut pooled, "ROLLBACK")?;
        tells_secret(ask(&mut pooled, "SELECT body FROM docs"))
    });
}

#[test]
fn changing_what_guards() {
    let jwk = Key::new().jwk();
    let trust = format!("SELECT entitlements.trust_key('{jwk}', 'https://id.example', 'session', 'app')");
    statements([
        ("GRANT SET ON PARAMETER session_replication_role TO $tenant", "SET session_replication_role = replica"),
        (
            "REVOKE SET ON PARAMETER session_replication_role FROM $tenant; ALTER TABLE docs OWNER TO $tenant",
            "ALTER TABLE docs NO FORCE ROW LEVEL SECURITY",
        ),
        ("ALTER TABLE projects OWNER TO $tenant", "ALTER TABLE projects DISABLE TRIGGER ALL"),
        (&granting("unlimit_rows"), "SELECT entitlements.unlimit_rows('projects')"),
        (&granting("unprotect_table"), "SELECT entitlements.unprotect_table('docs')"),
        (
            "GRANT CREATE ON SCHEMA entitlements TO $tenant",
            "CREATE FUNCTION entitlements.entitled(feature text, evil text, worse text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        ),
        (
            "ALTER FUNCTION entitlements.current_account() OWNER TO $tenant",
            "CREATE OR REPLACE FUNCTION entitlements.current_account() RETURNS text LANGUAGE sql AS $$ SELECT 'globex' $$",
        ),
        (
            "ALTER FUNCTION entitlements.current_account_uuid() OWNER TO $tenant",
            "ALTER FUNCTION entitlements.current_account_uuid() IMMUTABLE",
        ),
        (&granting("trust_key"), &trust),
    ]);
    for (weakness, statement) in [
        ("ALTER TABLE docs OWNER TO $tenant", "ALTER TABLE docs DISABLE ROW LEVEL SECURITY"),
        ("ALTER TABLE docs OWNER TO $tenant", "DROP POLICY entitlements_account ON docs"),
        ("ALTER TABLE docs OWNER TO $tenant", "CREATE POLICY mine ON docs USING (true)"),
        ("ALTER ROLE $tenant SUPERUSER", "ALTER EXTENSION entitlements UPDATE"),
        ("ALTER ROLE $tenant SUPERUSER", "DROP EXTENSION entitlements CASCADE"),
    ] {
        statements([(weakness, statement)]);
    }
}

// Names put in the way.

/// Makes the attacker's schema full of what the extension might call by its bare name.
fn shadows(client: &mut postgres::Client) {
    let sql = "CREATE TABLE evil.log (who text, what text);
         CREATE FUNCTION evil.note(what text) RETURNS void LANGUAGE sql AS $$ INSERT INTO evil.log VALUES (CURRENT_USER, what) $$;
         GRANT ALL ON SCHEMA evil TO PUBLIC; GRANT ALL ON evil.log TO PUBLIC;
         CREATE FUNCTION evil.always(a text, b text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.note('text = text'); RETURN true; END $$;
         CREATE FUNCTION evil.always(a bigint, b bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.note('bigint = bigint'); RETURN true; END $$;
         CREATE FUNCTION evil.always(a timestamptz, b timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.note('time <= time'); RETURN true; END $$;
         CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.always);
         CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.always);
         CREATE OPERATOR evil.<= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.always);
         CREATE FUNCTION evil.current_account() RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.note('current_account'); RETURN 'globex'; END $$;
         CREATE FUNCTION evil.entitled(feature text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.note('entitled'); RETURN true; END $$;
         CREATE FUNCTION evil.lower(feature text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.note('lower'); RETURN feature; END $$;
         CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.note('now'); RETURN 'infinity'; END $$;
         CREATE FUNCTION evil.coalesce(a numeric, b numeric) RETURNS numeric LANGUAGE sql AS 'SELECT 0::numeric';
         CREATE DOMAIN evil.text AS pg_catalog.text CHECK (evil.note(VALUE) IS NULL OR true);
         CREATE DOMAIN evil.numeric AS pg_catalog.numeric;
         CREATE TYPE evil.decision AS (allowed boolean)";
    client.batch_execute(sql).expect("the attacker may fill its own schema");
}

#[test]
fn functions_operators_and_types_of_the_same_name() {
    let weakness = "CREATE FUNCTION visible(account_id text) RETURNS boolean LANGUAGE plpgsql STABLE AS
            $$ BEGIN RETURN account_id = current_account(); END $$;
        CREATE POLICY named ON docs USING (visible(account_id))";
    attack(weakness, |stage| {
        let mut client = stage.attacker();
        shadows(&mut client);
        ask(&mut client, "SET search_path = evil, pg_catalog, public, entitlements")?;
        ask(&mut client, "BEGIN")?;
        stage.authenticate(&mut client, "acme")?;
        tells_secret(ask(&mut client, "SELECT body FROM public.docs"))
    });
}

#[test]
fn tables_of_the_same_name() {
    let weakness =
        "CREATE TABLE accounts (key text); INSERT INTO accounts VALUES ('acme'); GRANT SELECT ON accounts TO PUBLIC;
        CREATE FUNCTION visible(account_id text) RETURNS boolean LANGUAGE plpgsql STABLE AS
            $$ BEGIN RETURN account_id IN (SELECT a.key FROM accounts a); END $$;
        CREATE POLICY named ON docs USING (visible(account_id))";
    attack(weakness, |stage| {
        let mut client = stage.attacker();
        let names = stage.seen(
            "SELECT pg_catalog.string_agg(relname, ',') FROM pg_catalog.pg_class
              WHERE relnamespace = 'entitlements'::regnamespace AND relkind IN ('r', 'v', 'p')",
        );
        for name in names.split(',') {
            ask(
                &mut client,
                &format!("CREATE TEMPORARY TABLE {name} (id bigint, key text, account_id bigint, used numeric)"),
            )?;
        }
        ask(&mut client, "INSERT INTO pg_temp.accounts (id, key) VALUES (1, 'globex')")?;
        ask(&mut client, "SET search_path = pg_temp, public, entitlements")?;
        ask(&mut client, "BEGIN")?;
        stage.authenticate(&mut client, "acme")?;
        any_of(&mut client, &[], ["SELECT entitlements.consume('calls', 1)"])?;
        tells_secret(ask(&mut client, "SELECT body FROM public.docs"))
    });
}

#[test]
fn code_that_runs_with_the_rights_of_another() {
    let weakness = "CREATE OR REPLACE FUNCTION entitlements.entitled(feature text) RETURNS boolean LANGUAGE plpgsql STABLE
        SECURITY DEFINER AS $$ BEGIN RETURN feature = lower(feature); END $$";
    attack(weakness, |stage| {
        let mut client = stage.attacker();
        shadows(&mut client);
        ask(&mut client, "SET search_path = evil, pg_catalog")?;
        ask(&mut client, "BEGIN")?;
        stage.authenticate(&mut client, "acme")?;
        let _ = any_of(
            &mut client,
            &["42501"],
            [
                "SELECT entitlements.entitled('sso')",
                "SELECT entitlements.require('sso')",
                "SELECT entitlements.value_of('calls')",
                "SELECT entitlements.allowance('calls')",
                "SELECT entitlements.check_access('calls')",
                "SELECT * FROM entitlements.entitlements_of()",
                "SELECT entitlements.consume('calls')",
                "SELECT entitlements.try_consume('calls')",
                "SELECT entitlements.release('calls')",
                "SELECT count(*) FROM public.docs",
                "INSERT INTO public.projects VALUES (1, 'acme')",
                "DELETE FROM public.projects",
            ],
        );
        ask(&mut client, "COMMIT")?;
        let by_others = stage.seen(&format!("SELECT * FROM evil.log WHERE who <> '{}'", stage.tenant));
        if by_others.is_empty() { Err("nobody fell for it".to_owned()) } else { Ok(by_others) }
    });
}

// What a query tells about rows it may not show.

const LEAK: &str = "CREATE TABLE evil.seen (body text);
    CREATE FUNCTION evil.leak(body text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
        $$ BEGIN INSERT INTO evil.seen VALUES (body); RETURN true; END $$;
    CREATE FUNCTION evil.leaks(a text, b text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
        $$ BEGIN INSERT INTO evil.seen VALUES (a); RETURN true; END $$;
    CREATE OPERATOR evil.~~~ (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.leaks)";

#[test]
fn a_function_that_tells_what_it_is_called_with() {
    attack(OPEN, |stage| {
        let mut client = stage.as_acme();
        ask(&mut client, LEAK)?;
        ask(&mut client, "SELECT id FROM docs WHERE evil.leak(body) AND body OPERATOR(evil.~~~) 'x'")?;
        tells_secret(ask(&mut client, "SELECT DISTINCT body FROM evil.seen"))
    });
}

#[test]
fn a_function_in_a_view_that_gates_columns() {
    attack("ALTER VIEW docs_of_account SET (security_barrier = false)", |stage| {
        let mut client = stage.as_acme();
        ask(&mut client, LEAK)?;
        ask(&mut client, "SELECT id FROM docs_of_account WHERE evil.leak(body) AND body OPERATOR(evil.~~~) 'x'")?;
        tells_secret(ask(&mut client, "SELECT DISTINCT body FROM evil.seen"))
    });
}

#[test]
fn an_error_that_quotes_a_row() {
    attack(OPEN, |stage| {
        let mut client = stage.as_acme();
        tells_secret(ask(&mut client, "SELECT id FROM docs WHERE id > 10 AND body::integer = 1"))
    });
}

#[test]
fn statistics_of_a_protected_table() {
    attack("ALTER TABLE docs DISABLE ROW LEVEL SECURITY", |stage| {
        tells_secret(ask(&mut stage.as_acme(), "SELECT * FROM pg_catalog.pg_stats WHERE tablename = 'docs'"))
    });
}

#[test]
fn a_token_in_the_statistics_of_another_session() {
    let shows_tokens = CREDULOUS;
    attack(shows_tokens, |stage| {
        let mut victim = stage.attacker();
        ask(&mut victim, "BEGIN")?;
        let token = stage.token("globex");
        ask(&mut victim, &format!("SELECT entitlements.authenticate('{token}')"))?;
        let mut client = stage.attacker();
        let shown =
            ask(&mut client, "SELECT query FROM pg_catalog.pg_stat_activity WHERE pid <> pg_catalog.pg_backend_pid()")?;
        if shown.contains(&token) { Ok(shown) } else { Err(shown) }
    });
}

// One session, one account after the other.

#[test]
fn a_cursor_kept_over_a_change_of_account() {
    attack(CREDULOUS, |stage| {
        let mut shared = stage.attacker();
        ask(&mut shared, "BEGIN")?;
        stage.authenticate(&mut shared, "globex")?;
        ask(&mut shared, "DECLARE c CURSOR FOR SELECT body FROM docs; FETCH 1 FROM c")?;
        stage.authenticate(&mut shared, "acme")?;
        tells_secret(ask(&mut shared, "FETCH ALL FROM c"))
    });
}

#[test]
fn a_savepoint_kept_over_a_change_of_account() {
    attack(CREDULOUS, |stage| {
        let mut shared = stage.attacker();
        ask(&mut shared, "BEGIN")?;
        stage.authenticate(&mut shared, "globex")?;
        ask(&mut shared, "SAVEPOINT s")?;
        stage.authenticate(&mut shared, "acme")?;
        ask(&mut shared, "ROLLBACK TO s")?;
        tells_secret(ask(&mut shared, "SELECT body FROM docs"))
    });
}

#[test]
fn a_prepared_statement_of_the_client_before() {
    attack("ALTER FUNCTION entitlements.current_account() IMMUTABLE", |stage| {
        let mut pooled = stage.attacker();
        ask(&mut pooled, "BEGIN")?;
        stage.authenticate(&mut pooled, "globex")?;
        ask(&mut pooled, "PREPARE p AS SELECT body FROM docs")?;
        for _ in 0..7 {
            tells_secret(ask(&mut pooled, "EXECUTE p"))?;
        }
        ask(&mut pooled, "COMMIT; BEGIN")?;
        stage.authenticate(&mut pooled, "acme")?;
        tells_secret(ask(&mut pooled, "EXECUTE p"))
    });
}

#[test]
fn a_session_after_discard_all() {
    attack(&format!("{IN_A_SETTING}; ALTER DATABASE $database SET app.account = 'globex'"), |stage| {
        let mut pooled = stage.attacker();
        ask(&mut pooled, "BEGIN")?;
        stage.authenticate(&mut pooled, "globex")?;
        ask(
            &mut pooled,
            "PREPARE p AS SELECT body FROM docs; DECLARE c CURSOR WITH HOLD FOR SELECT body FROM docs; COMMIT",
        )?;
        ask(&mut pooled, "DISCARD ALL")?;
        let kept: Vec<String> = ["EXECUTE p", "FETCH ALL FROM c", "SELECT body FROM docs"]
            .map(|sql| ask(&mut pooled, sql).unwrap_or_else(|refusal| refusal))
            .into();
        tells_secret(Ok(kept.join("\n")))
    });
}

// Around the functions.

#[test]
fn reading_and_writing_the_tables_of_the_extension() {
    attack("GRANT SELECT ON ALL TABLES IN SCHEMA entitlements TO PUBLIC", |stage| {
        let relations = stage.seen(
            "SELECT pg_catalog.string_agg(relkind::text || relname, ',') FROM pg_catalog.pg_class
              WHERE relnamespace = 'entitlements'::regnamespace AND relkind IN ('r', 'v', 'p', 'S')",
        );
        let mut statements = Vec::new();
        for relation in relations.split(',') {
            let (kind, name) = relation.split_at(1);
            if kind == "S" {
                statements.push(format!("SELECT pg_catalog.nextval('entitlements.{name}')"));
                continue;
            }
            statements.extend([
                format!("SELECT * FROM entitlements.{name}"),
                format!("SELECT pg_catalog.count(*) FROM entitlements.{name}"),
                format!("INSERT INTO entitlements.{name} DEFAULT VALUES"),
                format!("DELETE FROM entitlements.{name}"),
                format!("DO $$ BEGIN LOCK TABLE entitlements.{name} IN ACCESS SHARE MODE; END $$"),
                format!("ALTER TABLE entitlements.{name} ADD COLUMN evil text"),
            ]);
            if kind != "v" {
                statements.push(format!("TRUNCATE entitlements.{name}"));
            }
        }
        assert!(statements.len() > 100, "the extension has tables");
        // A view of sums takes no rows, whoever asks.
        any_of(&mut stage.attacker(), &["42501", "55000"], statements)
    });
}

#[test]
fn views_over_the_tables_of_the_extension() {
    attack("GRANT SELECT ON entitlements.accounts TO $tenant", |stage| {
        let mut client = stage.attacker();
        let _ = any_of(
            &mut client,
            &["42501"],
            [
                "CREATE VIEW evil.v AS SELECT key FROM entitlements.accounts",
                "CREATE FUNCTION evil.f() RETURNS SETOF text LANGUAGE sql AS 'SELECT key FROM entitlements.accounts'",
                "CREATE MATERIALIZED VIEW evil.m AS SELECT key FROM entitlements.accounts",
            ],
        );
        let found = any_of(
            &mut client,
            &["42501", "42P01"],
            ["SELECT * FROM evil.v", "SELECT * FROM evil.f()", "SELECT * FROM evil.m"],
        )?;
        if found.contains("globex") { Ok(found) } else { Err(found) }
    });
}

#[test]
fn a_dump() {
    attack("ALTER TABLE docs DISABLE ROW LEVEL SECURITY", |stage| {
        let mut told = String::new();
        for arguments in
            [&["--table=public.docs"][..], &["--table=public.docs", "--enable-row-security"], &["--data-only"], &[]]
        {
            let dump = Command::new("pg_dump")
                .args(["--username", &stage.tenant, "--dbname", stage.database().name()])
                .args(arguments)
                .output()
                .expect("pg_dump runs");
            told += &String::from_utf8_lossy(&dump.stdout);
            told += &String::from_utf8_lossy(&dump.stderr);
        }
        tells_secret(Ok(told))
    });
}

#[test]
fn copying_a_protected_table() {
    attack(OPEN, |stage| {
        let mut client = stage.as_acme();
        let mut text = String::new();
        assert!(client.copy_out("COPY entitlements.accounts TO STDOUT").is_err());
        ask(&mut client, "ROLLBACK; BEGIN")?;
        stage.authenticate(&mut client, "acme")?;
        for sql in ["COPY docs TO STDOUT", "COPY (SELECT body FROM docs) TO STDOUT", "COPY (TABLE docs) TO STDOUT"] {
            if let Ok(mut reader) = client.copy_out(sql) {
                std::io::Read::read_to_string(&mut reader, &mut text).map_err(|error| error.to_string())?;
            }
        }
        tells_secret(Ok(text))
    });
}

#[test]
fn more_rows_than_allowed() {
    attack("ALTER TABLE projects DISABLE TRIGGER USER", |stage| {
        let mut client = stage.attacker();
        ask(&mut client, "BEGIN")?;
        stage.authenticate(&mut client, "acme")?;
        let mut most = 0;
        for statement in [
            "INSERT INTO projects SELECT n, 'acme' FROM pg_catalog.generate_series(1, 50) n",
            "INSERT INTO projects VALUES (1, 'acme'), (2, 'acme'), (3, 'acme')",
            "INSERT INTO projects VALUES (4, 'acme')",
            "INSERT INTO projects VALUES (1, 'acme'), (5, 'acme') ON CONFLICT DO NOTHING",
            "WITH moved AS (DELETE FROM projects RETURNING *) INSERT INTO projects SELECT id + 100 + n, account_id FROM moved, pg_catalog.generate_series(1, 2) n",
            "SELECT entitlements.release('projects', 3)",
            "INSERT INTO projects SELECT 200 + n, 'acme' FROM pg_catalog.generate_series(1, 3) n",
            "SET LOCAL session_replication_role = replica",
            "TRUNCATE projects",
            "INSERT INTO projects SELECT 300 + n, 'acme' FROM pg_catalog.generate_series(1, 4) n",
        ] {
            let _ = any_of(&mut client, &["NE002", "23505", "42501"], [statement]);
            let rows: i64 = entitlements_client_tests::one(&mut client, "SELECT pg_catalog.count(*) FROM projects", &[]);
            most = most.max(rows);
        }
        if most > 3 { Ok(format!("{most} rows where 3 are allowed")) } else { Err(format!("{most} rows")) }
    });
}

#[test]
fn giving_back_what_was_used() {
    attack("GRANT EXECUTE ON FUNCTION entitlements.release(text, numeric) TO PUBLIC", |stage| {
        let mut client = stage.as_acme();
        let mut consumed = 0;
        for _ in 0..2 {
            if let Ok(taken) = any_of(&mut client, &["NE002"], ["SELECT entitlements.consume('calls', 10)"]) {
                assert!(taken.contains("granted"), "{taken}");
                consumed += 10;
            }
            let _ = any_of(&mut client, &["42501"], ["SELECT entitlements.release('calls', 10)"]);
        }
        if consumed > 10 { Ok(format!("{consumed} calls where 10 are allowed")) } else { Err(format!("{consumed} calls")) }
    });
}

// Tokens.

/// A token that opens globex would let its bearer read the secret, as one does that is right. A forged one is refused for this
/// reason and no other.
fn forged(reason: &str, forge: impl Fn(&Stage) -> String) {
    let steal = |stage: &Stage, token: &str| {
        let mut client = stage.attacker();
        ask(&mut client, "BEGIN")?;
        try_token(&mut client, token)?;
        tells_secret(ask(&mut client, "SELECT body FROM docs"))
    };
    attack(CREDULOUS, |stage| {
        let right = stage.token("globex");
        steal(stage, &right).expect("what is right opens the account");
        steal(stage, &forge(stage)).inspect_err(|refusal| {
            let detail = json!({ "reason": reason }).to_string();
            assert!(refusal.starts_with("NE012") && refusal.contains(&detail), "{reason} was due: {refusal}");
        })
    });
}

#[test]
fn tokens_without_a_signature() {
    forged("algorithm", |stage| {
        Token::of("globex").header("alg", json!("none")).header("kid", json!(stage.key.kid)).unsigned()
    });
    forged("algorithm", |stage| {
        Token::of("globex").header("alg", json!("nOnE")).header("kid", json!(stage.key.kid)).unsigned()
    });
    forged("bad_signature", |stage| Token::of("globex").header("kid", json!(stage.key.kid)).unsigned());
}

#[test]
fn tokens_sealed_with_a_public_key() {
    let sealed = |secret: fn(&Key) -> Vec<u8>| {
        forged("algorithm", move |stage| {
            let token = Token::of("globex").header("alg", json!("HS256")).header("kid", json!(stage.key.kid));
            token.sealed_with(&secret(&stage.key))
        });
    };
    sealed(|key| key.public().to_vec());
    sealed(|key| key.jwk().into_bytes());
    sealed(|key| key.jwk().split("\"x\":\"").nth(1).and_then(|x| x.split('"').next()).unwrap_or_default().into());
}

/// The public RSA key of RFC 7515, appendix A.2, and the same as PEM.
const RSA_JWK: &str = r#"{"kty": "RSA", "kid": "rsa", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}"#;
const RSA_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
    MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAofgWCuLjybRlzo0tZWJj\n\
    NiuSfb4p4fAkd/wWJcyQoTbji9k0l8W26mPddxHmfHQp+Vaw+4qPCJrcS2mJPMEz\n\
    P1Pt0Bm4d4QlL+yRT+SFd2lZS+pCgNMsD1W/YpRPEwOWvG6b32690r2jZ47soMZo\n\
    9wGzjb/7OMg0LOL+bSf63kpaSHSXndS5z5rexMdbBYUsLA9e+KXBdQOS+UTo7WTB\n\
    EMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6/I5IhlJH7aGhyxX\n\
    FvUK+DWNmoudF8NAco9/h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXp\n\
    oQIDAQAB\n\
    -----END PUBLIC KEY-----\n";

#[test]
fn tokens_sealed_with_the_public_part_of_an_rsa_key() {
    for secret in [RSA_PEM, RSA_PEM.trim_end(), RSA_JWK] {
        forged("algorithm", |stage| {
            let jwk: serde_json::Value = serde_json::from_str(RSA_JWK).expect("a JWK is JSON");
            let trust = "SELECT entitlements.trust_key($1, 'https://id.example', 'session', 'app')";
            stage.owner().query(trust, &[&jwk]).expect("the key can be trusted");
            let token = Token::of("globex").header("alg", json!("HS256")).header("kid", json!("rsa"));
            token.sealed_with(secret.as_bytes())
        });
    }
}

#[test]
fn tokens_by_another_key() {
    forged("bad_signature", |stage| Token::of("globex").signed_by(&stage.key.impostor()));
    forged("unknown_key", |_| Token::of("globex").signed_by(&Key::new()));
    forged("unknown_key", |stage| Token::of("globex").header("kid", json!("' OR true --")).signed_by(&stage.key));
    forged("unknown_key", |stage| Token::of("globex").signed_by(&stage.bundle_key));
    forged("unknown_key", |stage| Token::of("globex").signed_by(&stage.distrusted_key));
}

#[test]
fn tokens_that_bring_their_key() {
    for member in ["jwk", "jku", "x5u", "x5c"] {
        forged("header", |stage| {
            let key = stage.key.impostor();
            let brought = serde_json::from_str(&key.jwk()).expect("a JWK is JSON");
            let value = if member == "jwk" { brought } else { json!("https://evil.example/keys") };
            Token::of("globex").header(member, value).signed_by(&key)
        });
    }
}

#[test]
fn tokens_for_something_else() {
    forged("wrong_audience", |stage| Token::of("globex").claim("aud", json!("another app")).signed_by(&stage.key));
    forged("wrong_audience", |stage| Token::of("globex").claim("aud", json!(["one", "two"])).signed_by(&stage.key));
    forged("wrong_issuer", |stage| Token::of("globex").claim("iss", json!("https://evil.example")).signed_by(&stage.key));
}

#[test]
fn tokens_of_another_time() {
    forged("expired", |stage| Token::of("globex").claim("exp", json!(now() - 120)).signed_by(&stage.key));
    forged("not_yet_valid", |stage| Token::of("globex").claim("nbf", json!(now() + 120)).signed_by(&stage.key));
    forged("claim", |stage| Token::of("globex").claim("exp", json!(null)).signed_by(&stage.key));
}

#[test]
fn tokens_of_two_halves() {
    forged("bad_signature", |stage| {
        let (own, forged) = (stage.token("acme"), stage.token("globex"));
        let (header, claims) = (own.split('.').next(), forged.split('.').nth(1));
        let signature = own.split('.').nth(2);
        [header, claims, signature].map(Option::unwrap_or_default).join(".")
    });
}

#[test]
fn an_error_does_not_repeat_the_token() {
    let stage = Stage::new();
    let token = Token::of("globex").signed_by(&stage.key.impostor());
    let told = try_token(&mut stage.attacker(), &token).expect_err("a forged token is refused");
    assert!(!token.split('.').any(|part| told.contains(part)), "{told}");
    assert!(!told.contains(SECRET));
}
