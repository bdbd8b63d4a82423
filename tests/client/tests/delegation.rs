//! Delegation from outside: two databases, documents carried between them, and no unit that counts twice.

use entitlements_client_tests::{Database, Party, one, refused_with};
use postgres::Client;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use std::ops::{Deref, DerefMut};
use std::thread;
use std::time::Duration;

/// The customer's pool, and below it an account for the site, which has nothing of its own.
const CATALOG: &str = r#"{
    "features": {
        "sso": {"kind": "flag"},
        "calls": {"kind": "quota", "period": "1 year"},
        "seats": {"kind": "allocation"}
    },
    "plans": {"team": {"kind": "base", "features": {"sso": true, "calls": 10, "seats": 10}}}
}"#;

/// A party that does what these tests are about.
struct Delegating(Party);

impl Deref for Delegating {
    type Target = Party;

    fn deref(&self) -> &Party {
        &self.0
    }
}

impl DerefMut for Delegating {
    fn deref_mut(&mut self) -> &mut Party {
        &mut self.0
    }
}

impl Delegating {
    fn new(name: &str, number: u8) -> Self {
        Self(Party::new(Database::new(), name, number))
    }

    fn export(&mut self) -> String {
        let sql = "SELECT entitlements.export_bundle('site-7', ARRAY['acme/site-7'], now() + interval '30 days')";
        one(&mut self.client, sql, &[])
    }

    fn import(&mut self, bundle: &str) {
        self.client.query("SELECT * FROM entitlements.import_bundle($1::text)", &[&bundle]).expect("the bundle is imported");
    }

    /// How many units could be taken now.
    fn left(&mut self, account: &str, feature: &str) -> i64 {
        let sql = "SELECT coalesce(floor(remaining), 0)::bigint FROM entitlements.check_access($1, $2)";
        one(&mut self.client, sql, &[&account, &feature])
    }

    fn take(&mut self, account: &str, feature: &str, n: i64) -> bool {
        let sql = "SELECT allowed FROM entitlements.try_consume($1, $2, $3::bigint::numeric)";
        one(&mut self.client, sql, &[&account, &feature, &n])
    }

    fn delegate(&mut self, feature: &str, n: i64, lease: &str) -> i64 {
        let sql =
            "SELECT entitlements.delegate('acme/site-7', 'site-7', $1, $2::bigint::numeric, $3::text::interval, 'sold')";
        one(&mut self.client, sql, &[&feature, &n, &lease])
    }

    fn give_back(&mut self, id: i64) -> String {
        one(&mut self.client, "SELECT entitlements.return_delegation($1)", &[&id])
    }

    fn accept(&mut self, document: &str) -> i64 {
        one(&mut self.client, "SELECT entitlements.accept_return($1)::bigint", &[&document])
    }

    fn reclaim(&mut self, id: i64) -> i64 {
        one(&mut self.client, "SELECT entitlements.reclaim_delegation($1)::bigint", &[&id])
    }

    /// An hour passes for delegations whose lease is over, here at the vendor.
    fn let_an_hour_pass(&mut self) {
        self.run("UPDATE entitlements.delegations SET lease_ends_at = lease_ends_at - interval '1 hour' WHERE lease_ends_at < now()");
    }
}

fn vendor_and_site() -> (Delegating, Delegating) {
    let (mut vendor, mut site) = (Delegating::new("vendor", 1), Delegating::new("site-7", 2));
    vendor.trust(&site, "site-7", "usage_report");
    site.trust(&vendor, "vendor", "bundle");
    vendor.client.query("SELECT entitlements.apply_catalog($1::text)", &[&CATALOG]).expect("the catalog applies");
    vendor.run("SELECT entitlements.subscribe('acme', 'team'); SELECT entitlements.define_account('acme/site-7', 'acme')");
    (vendor, site)
}

fn reason(error: &postgres::error::DbError) -> String {
    let detail: Value = serde_json::from_str(error.detail().expect("DETAIL")).expect("DETAIL is JSON");
    detail["reason"].as_str().expect("a reason").to_owned()
}

#[test]
fn units_go_to_the_site_and_come_back() {
    let (mut vendor, mut site) = vendor_and_site();
    let seats = vendor.delegate("seats", 6, "30 days");
    let calls = vendor.delegate("calls", 4, "30 days");
    assert_eq!((vendor.left("acme", "seats"), vendor.left("acme", "calls")), (4, 6));
    let too_many = "SELECT entitlements.delegate('acme/site-7', 'site-7', 'seats', 5, '1 day', 'sold')";
    refused_with(&mut vendor.client, "NE002", too_many, &[]);
    let flag = "SELECT entitlements.delegate('acme/site-7', 'site-7', 'sso', 5, '1 day', 'sold')";
    refused_with(&mut vendor.client, "NE004", flag, &[]);

    let first = vendor.export();
    site.import(&first);
    site.import(&first);
    assert_eq!((site.left("acme/site-7", "seats"), site.left("acme/site-7", "calls")), (6, 4));
    assert!(site.take("acme/site-7", "calls", 3));
    assert!(site.take("acme/site-7", "seats", 2));
    assert!(!site.take("acme/site-7", "calls", 2));
    // Another bundle with the same delegations changes nothing.
    let second = vendor.export();
    site.import(&second);
    assert_eq!((site.left("acme/site-7", "seats"), site.left("acme/site-7", "calls")), (4, 1));

    let returned = site.give_back(calls);
    assert_eq!(site.left("acme/site-7", "calls"), 0);
    assert_eq!(site.give_back(calls), returned, "the same document again");
    assert_eq!(vendor.left("acme", "calls"), 6);
    assert_eq!(vendor.accept(&returned), 1);
    assert_eq!(vendor.left("acme", "calls"), 7, "what was used stays used");
    assert_eq!(vendor.accept(&returned), 0);
    assert_eq!(vendor.left("acme", "calls"), 7);
    refused_with(&mut vendor.client, "NE009", "SELECT entitlements.reclaim_delegation($1)", &[&seats]);
    let third = vendor.export();
    site.import(&third);
    assert_eq!(site.left("acme/site-7", "calls"), 0);
    for party in [&mut vendor, &mut site] {
        assert_eq!(one::<i64>(&mut party.client, "SELECT count(*) FROM entitlements.verify_audit()", &[]), 0);
    }
}

#[test]
fn what_ended_never_comes_back() {
    let (mut vendor, mut site) = vendor_and_site();
    let id = vendor.delegate("seats", 6, "30 days");
    let first = vendor.export();
    let second = vendor.export();
    site.import(&first);
    let returned = site.give_back(id);
    let import = "SELECT * FROM entitlements.import_bundle($1::text)";
    assert_eq!(reason(&refused_with(&mut site.client, "NE013", import, &[&second])), "delegation_ended");
    let dry_run = "SELECT * FROM entitlements.import_bundle($1::text, true)";
    assert_eq!(reason(&refused_with(&mut site.client, "NE013", dry_run, &[&second])), "delegation_ended");
    assert_eq!(site.left("acme/site-7", "seats"), 0);
    vendor.accept(&returned);
    let third = vendor.export();
    site.import(&third);
    assert_eq!((vendor.left("acme", "seats"), site.left("acme/site-7", "seats")), (10, 0));
    // Somebody else's word gives nothing back.
    let mut stranger = Delegating::new("site-7", 3);
    stranger.trust(&vendor, "vendor", "bundle");
    let again = vendor.delegate("seats", 2, "30 days");
    let fourth = vendor.export();
    stranger.import(&fourth);
    let forged = stranger.give_back(again);
    let error = refused_with(&mut vendor.client, "NE013", "SELECT entitlements.accept_return($1)", &[&forged]);
    assert_eq!(reason(&error), "unknown_key");
    vendor.trust(&stranger, "site-8", "usage_report");
    let error = refused_with(&mut vendor.client, "NE013", "SELECT entitlements.accept_return($1)", &[&forged]);
    assert_eq!(reason(&error), "other_issuer");
    assert_eq!(vendor.left("acme", "seats"), 8);
}

#[test]
fn a_lease_ends_by_itself() {
    let (mut vendor, mut site) = vendor_and_site();
    let seats = vendor.delegate("seats", 6, "2 seconds");
    let calls = vendor.delegate("calls", 6, "2 seconds");
    let first = vendor.export();
    site.import(&first);
    assert_eq!(site.left("acme/site-7", "seats"), 6);
    thread::sleep(Duration::from_millis(2_100));
    assert_eq!((site.left("acme/site-7", "seats"), site.left("acme/site-7", "calls")), (0, 0));
    let reclaim = "SELECT entitlements.reclaim_delegation($1)";
    refused_with(&mut vendor.client, "NE009", reclaim, &[&seats]);
    vendor.let_an_hour_pass();
    assert_eq!((vendor.reclaim(seats), vendor.reclaim(calls)), (6, 0));
    assert_eq!((vendor.reclaim(seats), vendor.left("acme", "seats"), vendor.left("acme", "calls")), (0, 10, 4));
    refused_with(&mut vendor.client, "NE010", reclaim, &[&99i64]);
    // A site that never had it gets nothing of an old bundle.
    let mut late = Delegating::new("site-7", 4);
    late.trust(&vendor, "vendor", "bundle");
    late.import(&first);
    assert_eq!(late.left("acme/site-7", "seats"), 0);
}

#[test]
fn units_that_a_superuser_raised_are_found() {
    let (mut vendor, mut site) = vendor_and_site();
    let (seats, calls) = (vendor.delegate("seats", 6, "30 days"), vendor.delegate("calls", 4, "30 days"));
    let fleeting = vendor.delegate("seats", 1, "2 seconds");
    let bundle = vendor.export();
    site.import(&bundle);
    let faults = |client: &mut Client| -> String {
        one(client, "SELECT array_to_string(faults, '; ') FROM entitlements.bundle_status()", &[])
    };
    assert!(site.take("acme/site-7", "calls", 2));
    assert_eq!(faults(&mut site.client), "");
    let stages: [(&str, &[&str]); 2] = [
        (
            "as the bundle states them",
            &["", "; UPDATE entitlements.received_delegations SET amount = 60, lease_ends_at = '2100-01-01'"],
        ),
        ("of a bundle before", &[""]),
    ];
    for (stage, beside) in stages {
        for tampering in [
            "UPDATE entitlements.credits SET amount = 60 WHERE amount = 6",
            "UPDATE entitlements.credits SET expires_at = '2100-01-01' WHERE amount = 6",
            "UPDATE entitlements.credits SET starts_at = '2020-01-01' WHERE amount = 6",
            "UPDATE entitlements.credits SET period = '1 day' WHERE amount = 4",
            "UPDATE entitlements.credits SET account_id = (SELECT id FROM entitlements.accounts WHERE key = 'acme') WHERE amount = 6",
            "UPDATE entitlements.credits SET feature_id = (SELECT id FROM entitlements.features WHERE key = 'calls') WHERE amount = 6",
            "UPDATE entitlements.credits SET source = 'manual' WHERE amount = 6",
            "UPDATE entitlements.received_delegations SET amount = 60 WHERE amount = 6",
            "DELETE FROM entitlements.received_delegations WHERE amount = 6",
            "INSERT INTO entitlements.credits (account_id, feature_id, amount, priority, starts_at, source, created_by, recorded_at)
             SELECT account_id, feature_id, 5, 100, now(), source, created_by, now() FROM entitlements.credits WHERE amount = 6",
            "SELECT entitlements.grant_credit('acme/site-7', 'seats', 5, 'x', source => 'bundle:vendor', source_ref => '99')",
        ] {
            for beside in beside {
                let mut transaction = site.client.transaction().unwrap();
                transaction.batch_execute("INSERT INTO entitlements.accounts (key, created_at) VALUES ('acme', now()) ON CONFLICT DO NOTHING").unwrap();
                transaction.batch_execute(&format!("{tampering}{beside}")).unwrap();
                let row = transaction.query_one("SELECT tampered, array_to_string(faults, '; ') FROM entitlements.bundle_status()", &[]).unwrap();
                assert!(row.get::<_, bool>(0), "{stage}: {tampering}{beside}");
                let fault: String = row.get(1);
                assert!(fault.contains("not what was delegated, such as"), "{stage}: {tampering}{beside}: {fault}");
                let found = "SELECT count(*) FROM entitlements.doctor() WHERE finding = 'bundle_tampered' AND severity = 'error'";
                assert_eq!(transaction.query_one(found, &[]).unwrap().get::<_, i64>(0), 1);
                transaction.rollback().unwrap();
            }
        }
        assert_eq!(faults(&mut site.client), "", "{stage}");
        // The next bundle is for another account and states none of it: the units stay until their lease ends.
        let other: String = one(&mut vendor.client, "SELECT entitlements.export_bundle('site-7', ARRAY['acme'])", &[]);
        site.import(&other);
        assert_eq!(faults(&mut site.client), "");
    }
    // What ends by itself, is returned or is voided here is no tampering.
    let bundle = vendor.export();
    site.import(&bundle);
    thread::sleep(Duration::from_millis(2_100));
    assert_eq!(faults(&mut site.client), "", "delegation {fleeting} is over");
    site.give_back(seats);
    site.run("SELECT entitlements.void_credit(id, 'not wanted') FROM entitlements.credits WHERE amount = 4");
    assert_eq!(faults(&mut site.client), "", "delegations {seats} and {calls} are gone");
    // Voided credits that count again are.
    site.run(
        "BEGIN; UPDATE entitlements.credits SET voided_at = NULL, voided_by = NULL, void_reason = NULL WHERE amount = 4",
    );
    assert_eq!(faults(&mut site.client), format!("1 credits are not what was delegated, such as delegation {calls}"));
    site.run("ROLLBACK; BEGIN; UPDATE entitlements.credits SET voided_at = NULL, voided_by = NULL, void_reason = NULL WHERE amount = 6;
              UPDATE entitlements.received_delegations SET returned_at = NULL, unused = NULL, return_document = NULL");
    assert_eq!(faults(&mut site.client), format!("1 credits are not what was delegated, such as delegation {seats}"));
    site.run("ROLLBACK");
    // Credits that no bundle stands for.
    site.run("UPDATE entitlements.credits SET voided_at = NULL, voided_by = NULL, void_reason = NULL WHERE amount = 4; DELETE FROM entitlements.bundles");
    let found = "SELECT string_agg(finding || ' ' || object, '; ') FROM entitlements.doctor()";
    assert_eq!(one::<String>(&mut site.client, found, &[]), "rows_without_bundle bundle:vendor");
}

#[test]
fn what_a_copied_key_delegated_ends() {
    let (mut vendor, mut site) = vendor_and_site();
    let id = vendor.delegate("seats", 6, "1 day");
    let bundle = vendor.export();
    site.import(&bundle);
    let kid = vendor.key.public().kid().to_string();
    site.client.execute("SELECT entitlements.distrust_key($1, 'copied', 'end')", &[&kid]).expect("it is distrusted");
    assert_eq!(site.left("acme/site-7", "seats"), 0);
    // Nobody can tell any more what was unused: only time gives it back.
    let returned = site.give_back(id);
    assert_eq!((vendor.accept(&returned), vendor.left("acme", "seats")), (0, 4));
}

/// Whoever has a place of the vendor's has it no longer than the site does, by a licence, by a lease or by name.
#[test]
fn seats_end_with_what_was_delegated() {
    let (mut vendor, mut site) = vendor_and_site();
    vendor.delegate("seats", 3, "4 seconds");
    let bundle = vendor.export();
    site.import(&bundle);
    // A place of the site's own, which somebody has.
    site.run(
        "SELECT entitlements.set_override('acme/site-7', 'seats', 'set', '1', 'own');
         SELECT entitlements.define_feature('sso', 'flag', '{}');
         SELECT entitlements.set_override('acme/site-7', 'sso', 'set', 'true', 'own')",
    );
    site.run(
        "SELECT entitlements.issue_licence('acme/site-7', 'ann', ARRAY['sso'], '366 days', 'seats');
         SELECT entitlements.assign_seat('acme/site-7', 'seats', 'bob', '1 hour');
         SELECT entitlements.assign_seat('acme/site-7', 'seats', 'cyd');
         SELECT entitlements.assign_seat('acme/site-7', 'seats', 'dan')",
    );
    let end = "(SELECT expires_at FROM entitlements.credits)";
    let ends = format!(
        "SELECT string_agg(holder, ' ' ORDER BY holder) FROM entitlements.seats('acme/site-7', 'seats') WHERE leased_until = {end}"
    );
    assert_eq!(one::<String>(&mut site.client, &ends, &[]), "ann bob cyd");
    assert!(one::<bool>(&mut site.client, &format!("SELECT expires_at <= {end} FROM entitlements.licences"), &[]));
    site.run(
        "SELECT entitlements.renew_seat('acme/site-7', 'seats', 'bob'); SELECT entitlements.renew_seat('acme/site-7', 'seats', 'cyd');
         SELECT entitlements.issue_licence('acme/site-7', 'ann', ARRAY['sso'], '1 day', 'seats')",
    );
    assert_eq!(one::<String>(&mut site.client, &ends, &[]), "ann bob cyd");
    assert!(one::<bool>(&mut site.client, &format!("SELECT max(expires_at) <= {end} FROM entitlements.licences"), &[]));
    // By the latest time that was seen the delegation is over.
    site.run("BEGIN; UPDATE entitlements.deployment SET highest_seen = now() + interval '4 minutes'");
    let renew = "SELECT entitlements.renew_seat('acme/site-7', 'seats', $1)";
    let denied = "SELECT count(*) FROM entitlements.try_assign_seat('acme/site-7', 'seats', $1) WHERE NOT allowed";
    for holder in ["ann", "bob", "cyd"] {
        assert_eq!(one::<i64>(&mut site.client, denied, &[&holder]), 1, "{holder}");
    }
    site.run("ROLLBACK");
    thread::sleep(Duration::from_millis(4_100));
    for holder in ["ann", "bob", "cyd"] {
        refused_with(&mut site.client, "NE002", renew, &[&holder]);
    }
    refused_with(
        &mut site.client,
        "NE002",
        "SELECT entitlements.issue_licence('acme/site-7', 'ann', ARRAY['sso'], '1 day', 'seats')",
        &[],
    );
    // A place of the site's own is anybody's again.
    site.run("SELECT entitlements.renew_seat('acme/site-7', 'seats', 'dan'); SELECT entitlements.release_seat('acme/site-7', 'seats', 'dan');
              SELECT entitlements.renew_seat('acme/site-7', 'seats', 'cyd')");
    let named = "SELECT state FROM entitlements.seats('acme/site-7', 'seats') WHERE holder = 'cyd'";
    assert_eq!(one::<String>(&mut site.client, named, &[]), "named");
}

#[test]
fn a_site_key_whose_time_is_over_returns_nothing() {
    let (mut vendor, mut site) = (Delegating::new("vendor", 1), Delegating::new("site-7", 2));
    let jwk = site.jwk();
    let trust = "SELECT entitlements.trust_key($1, 'site-7', 'usage_report', valid_until => now() + interval '2 seconds')";
    vendor.client.execute(trust, &[&jwk]).expect("the key is trusted for a time");
    site.trust(&vendor, "vendor", "bundle");
    vendor.client.query("SELECT entitlements.apply_catalog($1::text)", &[&CATALOG]).expect("the catalog applies");
    vendor.run("SELECT entitlements.subscribe('acme', 'team'); SELECT entitlements.define_account('acme/site-7', 'acme')");
    let id = vendor.delegate("seats", 6, "30 days");
    let bundle = vendor.export();
    site.import(&bundle);
    let returned = site.give_back(id);
    thread::sleep(Duration::from_millis(2_100));
    let error = refused_with(&mut vendor.client, "NE013", "SELECT entitlements.accept_return($1)", &[&returned]);
    assert_eq!(reason(&error), "key_out_of_time");
    assert_eq!(vendor.left("acme", "seats"), 4);
}

#[test]
fn what_an_erased_account_had_goes_back() {
    let (mut vendor, mut site) = vendor_and_site();
    let (seats, calls) = (vendor.delegate("seats", 6, "30 days"), vendor.delegate("calls", 4, "30 days"));
    let first = vendor.export();
    site.import(&first);
    assert!(site.take("acme/site-7", "calls", 3));
    site.run("SELECT entitlements.assign_seat('acme/site-7', 'seats', 'ann')");
    site.run("SELECT entitlements.erase_account('acme/site-7', 'asked for')");
    // The vendor does not know yet, and its bundles are taken in: for an account that has none of it.
    let second = vendor.export();
    site.import(&second);
    assert_eq!((site.left("acme/site-7", "seats"), site.left("acme/site-7", "calls")), (0, 0));
    let faults = "SELECT array_to_string(faults, '; ') FROM entitlements.bundle_status()";
    assert_eq!(one::<String>(&mut site.client, faults, &[]), "");
    for (id, unused) in [(seats, 6), (calls, 1)] {
        let returned = site.give_back(id);
        assert_eq!(site.give_back(id), returned);
        assert_eq!(vendor.accept(&returned), unused);
    }
    assert_eq!((vendor.left("acme", "seats"), vendor.left("acme", "calls")), (10, 7));
    let third = vendor.export();
    site.import(&third);
    // Without a key the account is erased all the same, and nobody can tell later what it had left.
    let id = vendor.delegate("seats", 2, "30 days");
    let fourth = vendor.export();
    site.import(&fourth);
    assert_eq!(site.left("acme/site-7", "seats"), 2);
    site.run("BEGIN; SET LOCAL entitlements.signing_key_file = ''; SELECT entitlements.erase_account('acme/site-7', 'asked for'); COMMIT");
    let fifth = vendor.export();
    site.import(&fifth);
    let returned = site.give_back(id);
    assert_eq!((vendor.accept(&returned), vendor.left("acme", "seats")), (0, 8));
    assert_eq!(one::<i64>(&mut site.client, "SELECT count(*) FROM entitlements.verify_audit()", &[]), 0);
}

#[test]
fn a_blocked_account_has_nothing_of_what_was_delegated() {
    let (mut vendor, mut site) = vendor_and_site();
    vendor.delegate("seats", 6, "30 days");
    let first = vendor.export();
    site.import(&first);
    vendor.run("SELECT entitlements.block('acme/site-7', 'fraud', 'odd'); SELECT entitlements.delegate('acme', 'site-7', 'seats', 1, '1 day', 'x')");
    let second = vendor.export();
    site.import(&second);
    assert_eq!(site.left("acme/site-7", "seats"), 0);
    assert!(!site.take("acme/site-7", "seats", 1));
    vendor.run("SELECT entitlements.unblock('acme/site-7', 'fraud', 'was wrong')");
    let third = vendor.export();
    site.import(&third);
    assert_eq!(site.left("acme/site-7", "seats"), 6);
    assert!(!one::<bool>(&mut site.client, "SELECT tampered FROM entitlements.bundle_status()", &[]));
}

#[test]
fn a_credit_that_has_a_delegations_name_is_in_its_way() {
    let (mut vendor, mut site) = vendor_and_site();
    let id = vendor.delegate("seats", 6, "30 days");
    let bundle = vendor.export();
    site.client.query("SELECT entitlements.apply_catalog($1::text)", &[&CATALOG]).expect("the catalog applies");
    site.run("SELECT entitlements.define_account('acme/site-7')");
    let grant =
        "SELECT entitlements.grant_credit('acme/site-7', 'seats', 5, 'x', source => 'bundle:vendor', source_ref => $1)";
    site.client.execute(grant, &[&id.to_string()]).expect("it is granted");
    for dry_run in [true, false] {
        let import = "SELECT * FROM entitlements.import_bundle($1::text, $2)";
        let error = refused_with(&mut site.client, "NE013", import, &[&bundle, &dry_run]);
        assert_eq!(reason(&error), "delegation_taken");
    }
}

#[test]
fn a_clock_set_back_wins_nothing() {
    let (mut vendor, mut site) = vendor_and_site();
    vendor.delegate("seats", 6, "1 day");
    let sql =
        "SELECT entitlements.export_bundle('site-7', ARRAY['acme/site-7'], now() + interval '30 days', mode => 'advise')";
    let bundle: String = one(&mut vendor.client, sql, &[]);
    site.import(&bundle);
    assert_eq!(site.left("acme/site-7", "seats"), 6);
    // The site has seen a time after the lease, and its clock shows one before.
    site.run("UPDATE entitlements.deployment SET highest_seen = now() + interval '2 days'");
    assert_eq!(site.left("acme/site-7", "seats"), 0);
    assert!(!site.take("acme/site-7", "seats", 1));
}

/// In every order of documents that are delivered, lost, repeated and delayed no unit counts twice.
#[test]
fn no_unit_is_used_twice() {
    let (mut taken_at_site, mut returned) = (0, 0);
    for seed in 0..10 {
        let (taken, returns) = schedule(seed);
        taken_at_site += taken;
        returned += returns;
    }
    assert!(taken_at_site > 20 && returned > 3, "{taken_at_site} taken, {returned} returned: too little happened");
}

/// How many units the site has taken, and how many returns it made.
fn schedule(seed: u64) -> (i64, usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut vendor, mut site) = vendor_and_site();
    site.client.query("SELECT entitlements.apply_catalog($1::text)", &[&CATALOG]).expect("the catalog applies");
    site.run("SELECT entitlements.define_account('acme/site-7')");
    let mut taken_at_site = 0;
    let (mut bundles, mut returns, mut ids): (Vec<String>, Vec<String>, Vec<i64>) = Default::default();
    let mut used_calls = 0;
    let mut held_here = 0;
    for step in 0..60 {
        let feature = if random.random() { "calls" } else { "seats" };
        let n = random.random_range(1..=4);
        match random.random_range(0..10) {
            0 | 1 => {
                let lease = if random.random_range(0..3) > 0 { "1 second" } else { "1 day" };
                let sql = "SELECT entitlements.delegate('acme/site-7', 'site-7', $1, $2::bigint::numeric, $3::text::interval, 'sold')";
                if let Ok(row) = vendor.client.query_one(sql, &[&feature, &n, &lease]) {
                    ids.push(row.get(0));
                }
            }
            2 | 5 if ids.len() > returns.len() && random.random() => bundles.push(vendor.export()),
            // Any document that was ever made, maybe once more, maybe never.
            3 | 4 if !bundles.is_empty() => {
                let newest = bundles.len() - 1;
                let bundle = &bundles[if random.random() { newest } else { random.random_range(0..=newest) }];
                let _ = site.client.query("SELECT * FROM entitlements.import_bundle($1::text)", &[bundle]);
            }
            5 if !ids.is_empty() => {
                let id = ids[random.random_range(0..ids.len())];
                if let Ok(row) = site.client.query_one("SELECT entitlements.return_delegation($1)", &[&id]) {
                    returns.push(row.get(0));
                }
            }
            6 if !returns.is_empty() => {
                let document = returns[random.random_range(0..returns.len())].clone();
                vendor.accept(&document);
            }
            7 if !ids.is_empty() => {
                if random.random_range(0..3) == 0 {
                    thread::sleep(Duration::from_millis(1_000));
                }
                vendor.let_an_hour_pass();
                for id in &ids {
                    let _ = vendor.client.query("SELECT entitlements.reclaim_delegation($1)", &[id]);
                }
            }
            8 if random.random() => {
                if vendor.take("acme", feature, n) {
                    if feature == "calls" { used_calls += n } else { held_here += n }
                }
            }
            _ if feature == "seats" && random.random() => {
                let lease = if random.random() { Some("1 hour") } else { None };
                let holder = format!("holder {}", random.random_range(0..12));
                let sql = "SELECT count(*) FROM entitlements.try_assign_seat('acme/site-7', 'seats', $1, $2::text::interval) WHERE allowed";
                taken_at_site += one::<i64>(&mut site.client, sql, &[&holder, &lease]);
            }
            _ => {
                if site.take("acme/site-7", feature, n) {
                    taken_at_site += n;
                    used_calls += if feature == "calls" { n } else { 0 };
                }
            }
        }
        let calls = used_calls + vendor.left("acme", "calls") + site.left("acme/site-7", "calls");
        assert!(calls <= 10, "seed {seed}, step {step}: {calls} calls");
        // What runs there counts as that site's, and so do seats that somebody has, of whatever they were taken.
        let at_site: i64 = one(
            &mut site.client,
            "WITH live AS (SELECT credit.id, credit.amount FROM entitlements.credits AS credit
                             JOIN entitlements.features AS feature ON feature.id = feature_id
                            WHERE feature.key = 'seats' AND voided_at IS NULL AND expires_at > now())
             SELECT (SELECT coalesce(sum(amount), 0) FROM live)::bigint
                  + (SELECT count(*) FROM entitlements.seats AS seat
                      WHERE seat.ended_at IS NULL AND seat.leased_until > now()
                        AND NOT EXISTS (SELECT FROM entitlements.seat_parts AS part
                                          JOIN entitlements.counters AS counter ON counter.id = part.counter_id
                                          JOIN live ON live.id = counter.credit_id WHERE part.seat_id = seat.id))",
            &[],
        );
        let seats = held_here + vendor.left("acme", "seats") + at_site;
        assert!(seats <= 10, "seed {seed}, step {step}: {seats} seats");
    }
    (taken_at_site, returns.len())
}
