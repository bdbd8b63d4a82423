//! Accounts and their subscriptions are found wherever in the indexes their entries are.

use crate::comparison::{Comparison, Session, alone};

/// More accounts than there is room for in one leaf, under names of all lengths, many of which begin others.
const ACCOUNTS: &str = "
    INSERT INTO test.names
        SELECT name FROM generate_series(1, 500) n, LATERAL (VALUES (n::text), ('ä' || n % 300), (rpad(n::text || '/', 1 + n % 255, 'x')),
            (repeat('a', 1 + n % 255)), ('a' || chr(768 + n))) one (name)
        ON CONFLICT DO NOTHING;
    INSERT INTO entitlements.accounts (key, created_at) SELECT name, now() FROM test.names ORDER BY md5(name) ON CONFLICT DO NOTHING;
    INSERT INTO test.names SELECT name || '-' FROM test.names WHERE length(name) < 20 ON CONFLICT DO NOTHING;
    SELECT test.subscribe(name, CASE WHEN length(name) % 2 = 0 THEN 'free' ELSE 'team' END, true, 'active', 'infinity')
        FROM test.names WHERE left(md5(name), 1) < 'a';
    ANALYZE";

/// So many that one leaf does not have them, or not only them; what counts stands first.
const MANY_SUBSCRIPTIONS: &str = "
    SELECT test.subscribe(name, 'team', true, 'active', '2100-01-01') FROM test.names WHERE name = 'a1' OR name LIKE '9%';
    SELECT test.subscribe('a1', 'extra', true, 'active', 'infinity') FROM generate_series(1, 400);
    SELECT test.subscribe(name, 'extra', true, 'active', 'infinity') FROM test.names, generate_series(1, 30) WHERE name LIKE '9%'";

/// Entries of rows that nobody sees any more, between others.
const CHANGED_OFTEN: &str = "DO $$ BEGIN FOR n IN 1..150 LOOP
    PERFORM test.unsubscribe(name), test.subscribe(name, 'team', true, 'active', 'infinity') FROM test.names WHERE name IN ('a3', '1000');
    COMMIT; END LOOP; END $$";

/// Whole leaves become empty.
const REMOVED: &str = "
    DELETE FROM entitlements.subscriptions USING entitlements.accounts WHERE account_id = accounts.id AND key BETWEEN '3' AND '8';
    DELETE FROM entitlements.accounts WHERE key BETWEEN '3' AND '8'";

/// The order in which the accounts' subscriptions stand in their index.
const OLDEST: &str = "(SELECT id FROM entitlements.accounts WHERE key = account)";

/// Asks everything anew in an order.
fn agrees(reader: &mut Session, other: &mut Session, order: &str, after: &str) {
    other.run("UPDATE entitlements.features SET unit = unit");
    let wrong = reader.query(&format!(
        "SELECT account, want FROM (SELECT * FROM test.expected WHERE feature = 'flag_b' ORDER BY {order} OFFSET 0) expected
         WHERE entitlements.entitled(account, feature) <> want"
    ));
    assert!(wrong.is_empty(), "in order of {order} after {after}: {} wrong answers, as {:?}", wrong.len(), wrong[0]);
}

#[test]
fn accounts_are_found_whatever_becomes_of_their_indexes() {
    let _alone = alone();
    let comparison = Comparison::new();
    let [mut reader, mut other, mut witness] = [(); 3].map(|()| comparison.session());
    let whatever = [
        ACCOUNTS,
        MANY_SUBSCRIPTIONS,
        CHANGED_OFTEN,
        "VACUUM entitlements.accounts, entitlements.subscriptions",
        CHANGED_OFTEN,
        REMOVED,
        "VACUUM entitlements.accounts, entitlements.subscriptions",
        ACCOUNTS,
        "REINDEX TABLE CONCURRENTLY entitlements.subscriptions",
        "REINDEX TABLE entitlements.accounts",
        "VACUUM FULL entitlements.subscriptions",
    ];
    for statement in whatever {
        // A snapshot of before, which also keeps rows and VACUUM from being done with: rewriting would wait for it.
        let rewrites = statement.starts_with("VACUUM FULL") || statement.starts_with("REINDEX");
        witness.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
        let few = "SELECT count(*) FROM test.names WHERE name < '12' AND entitlements.entitled(name, 'flag_b')";
        let before = witness.value(few);
        if rewrites {
            witness.run("COMMIT");
        }
        other.run(statement);
        for order in ["account", "md5(account)", OLDEST, &format!("{OLDEST} DESC")] {
            agrees(&mut reader, &mut other, order, statement);
        }
        if !rewrites {
            // What it changes itself makes it forget.
            witness.run("INSERT INTO entitlements.accounts (key, created_at) VALUES (gen_random_uuid(), now())");
            assert_eq!(witness.value(few), before, "to a snapshot of before {statement}");
            witness.run("COMMIT");
        }
    }
}

/// On more pages of indexes than a session takes note of at first, most of them asked for in no order.
const ON_MANY_PAGES: &str = "
    SET session_replication_role = replica;
    INSERT INTO entitlements.accounts (key, created_at) SELECT md5(n::text) || repeat('-', 70), now() FROM generate_series(1, 120000) n;
    INSERT INTO entitlements.subscriptions (id, account_id, plan_id, status, quantity, starts_at, term_starts_at, source, recorded_at, recorded_by)
        SELECT nextval('entitlements.subscription_ids'), account.id, plan.id, 'active', 1, '2020-01-01', '2020-01-01', 'test', now(), 'test'
        FROM entitlements.accounts account, entitlements.plans plan WHERE account.id % 2 = 0 AND plan.key = 'team';
    RESET session_replication_role;
    VACUUM ANALYZE entitlements.accounts, entitlements.subscriptions";

#[test]
fn accounts_are_found_on_many_pages() {
    let _alone = alone();
    let comparison = Comparison::new();
    let [mut reader, mut other] = [(); 2].map(|()| comparison.session());
    ON_MANY_PAGES.split(';').for_each(|statement| other.run(statement));
    let asked = "SELECT format('%s right, %s granted', count(*) FILTER (WHERE entitlements.entitled(key, 'flag_b') = want), count(*) FILTER (WHERE want))
        FROM (SELECT key, account_id IS NOT NULL AS want
              FROM entitlements.accounts LEFT JOIN entitlements.subscriptions ON account_id = accounts.id
              WHERE accounts.id % 3 = 0 AND length(key) = 102 ORDER BY md5(key) OFFSET 0) in_no_order";
    for round in ["while they are noted", "when they are known", "where others have taken their places"] {
        if round == "where others have taken their places" {
            other.run("VACUUM FULL entitlements.subscriptions");
            other.run("REINDEX TABLE entitlements.accounts");
        }
        other.run("UPDATE entitlements.features SET unit = unit");
        assert_eq!(reader.value(asked), "40000 right, 20000 granted", "{round}");
    }
}
