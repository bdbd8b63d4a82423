//! A vendor and a site that no network connects, each a server of its own: what passes between them are files.

use entitlements_client_tests::{Database, Party, one, refused_with};
use postgres::types::ToSql;
use std::fs;
use std::path::PathBuf;

const CATALOG: &str = r#"{
    "features": {
        "sso": {"kind": "flag"},
        "calls": {"kind": "quota", "period": "1 month", "anchor": "calendar", "overage": "allow"},
        "seats": {"kind": "allocation"}
    },
    "plans": {
        "small": {"kind": "base", "features": {"calls": 100, "seats": 3}},
        "large": {"kind": "base", "extends": "small", "rank": 10, "features": {"sso": true, "calls": 1000, "seats": 30}}
    }
}"#;

/// What somebody carries from one to the other.
struct Stick(PathBuf);

impl Stick {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("entitlements-{}-{name}", std::process::id())))
    }

    fn save(&self, party: &mut Party, sql: &str) {
        let document: String = one(&mut party.client, sql, &[]);
        fs::write(&self.0, document).expect("the document fits");
    }

    fn load(&self) -> String {
        fs::read_to_string(&self.0).expect("the document can be read")
    }
}

impl Drop for Stick {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

const EXPORT: &str =
    "SELECT entitlements.export_bundle('site-7', expires_at => now() + interval '30 days', heartbeat => '7 days')";

fn carry_bundle(vendor: &mut Party, site: &mut Party) -> String {
    let stick = Stick::new("bundle");
    stick.save(vendor, EXPORT);
    site.client
        .query("SELECT * FROM entitlements.import_bundle($1::text)", &[&stick.load()])
        .expect("the bundle is imported");
    stick.load()
}

/// What the vendor reads in the site's report of the last hour.
fn carry_report(site: &mut Party, vendor: &mut Party) -> Vec<String> {
    let stick = Stick::new("report");
    stick.save(site, "SELECT entitlements.export_usage_report(\"from\" => now() - interval '1 hour', audience => 'vendor')");
    let sql = "SELECT feature || ' ' || used || coalesce(' of ' || allowance, '') FROM entitlements.import_usage_report($1)
                WHERE used > 0 ORDER BY 1";
    let rows = vendor.client.query(sql, &[&stick.load()]).expect("the report is taken in");
    rows.iter().map(|row| row.get(0)).collect()
}

fn allowance(party: &mut Party, feature: &str) -> String {
    one(&mut party.client, "SELECT coalesce(entitlements.allowance('acme', $1)::text, 'unlimited')", &[&feature])
}

fn entitled(party: &mut Party) -> bool {
    // A bundle has the features that it is about, so the site may not even know this one.
    one(
        &mut party.client,
        "SELECT EXISTS (SELECT FROM entitlements.entitlements_of('acme') WHERE feature = 'sso' AND granted)",
        &[],
    )
}

fn refused_import(site: &mut Party, document: &str) -> String {
    let parameters: &[&(dyn ToSql + Sync)] = &[&document];
    let error = refused_with(&mut site.client, "NE013", "SELECT * FROM entitlements.import_bundle($1::text)", parameters);
    let detail: serde_json::Value = serde_json::from_str(error.detail().unwrap_or_default()).expect("DETAIL is JSON");
    detail["reason"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_vendor_and_a_site_on_servers_of_their_own() {
    let mut vendor = Party::new(Database::new(), "vendor", 1);
    let mut site = Party::new(Database::preloaded(), "site-7", 2);
    let address =
        |party: &mut Party| -> i64 { one(&mut party.client, "SELECT system_identifier FROM pg_control_system()", &[]) };
    assert_ne!(address(&mut vendor), address(&mut site), "two clusters");
    vendor.trust(&site, "site-7", "usage_report");
    site.trust(&vendor, "vendor", "bundle");

    // Sold, carried over, enforced.
    vendor.client.query("SELECT entitlements.apply_catalog($1::text)", &[&CATALOG]).expect("the catalog applies");
    vendor.run("SELECT entitlements.subscribe('acme', 'small', ends_at => now() + interval '1 year')");
    let first = carry_bundle(&mut vendor, &mut site);
    assert_eq!((allowance(&mut site, "calls"), entitled(&mut site)), ("100".to_owned(), false));
    site.run("SELECT entitlements.consume('acme', 'seats', 3); SELECT entitlements.consume('acme', 'calls', 130)");
    refused_with(&mut site.client, "NE002", "SELECT entitlements.consume('acme', 'seats')", &[]);

    // Reported, and settled at the vendor: the overage becomes a larger plan.
    assert_eq!(carry_report(&mut site, &mut vendor), ["calls 130 of 100", "seats 3 of 3"]);
    let over: i64 = one(
        &mut vendor.client,
        "SELECT sum(greatest(used - allowance, 0))::bigint FROM entitlements.reported_usage('acme', 'site-7')",
        &[],
    );
    assert_eq!(over, 30);
    vendor.run("SELECT entitlements.change_subscription(1, plan => 'large')");
    carry_bundle(&mut vendor, &mut site);
    assert_eq!((allowance(&mut site, "calls"), entitled(&mut site)), ("1000".to_owned(), true));
    assert_eq!(refused_import(&mut site, &first), "replayed");

    // What is used stays used; a downgrade holds from the next statement on.
    site.run("SELECT entitlements.consume('acme', 'seats', 7)");
    vendor.run("SELECT entitlements.change_subscription(1, plan => 'small')");
    carry_bundle(&mut vendor, &mut site);
    refused_with(&mut site.client, "NE002", "SELECT entitlements.consume('acme', 'seats')", &[]);
    assert_eq!(carry_report(&mut site, &mut vendor), ["calls 130 of 100", "seats 10 of 3"]);

    // Renewed before its end.
    vendor.run("SELECT entitlements.renew_subscription(1, now() + interval '2 years')");
    carry_bundle(&mut vendor, &mut site);
    let ends: bool = one(
        &mut site.client,
        "SELECT max(ends_at) > now() + interval '700 days' FROM entitlements.subscriptions WHERE superseded_at IS NULL",
        &[],
    );
    assert!(ends);

    // The next key is introduced by the present one, which then goes.
    let old = vendor.jwk();
    vendor.sign_with(3);
    let next = vendor.jwk();
    vendor.sign_with(1);
    let introduced = format!("{}, introduce => '{next}')", EXPORT.trim_end_matches(')'));
    let stick = Stick::new("rotation");
    stick.save(&mut vendor, &introduced);
    site.client
        .query("SELECT * FROM entitlements.import_bundle($1::text)", &[&stick.load()])
        .expect("the key is introduced");
    vendor.sign_with(3);
    carry_bundle(&mut vendor, &mut site);
    let thumbprint: String =
        one(&mut site.client, "SELECT kid FROM entitlements.trusted_keys WHERE jwk ->> 'x' = $1::jsonb ->> 'x'", &[&old]);
    site.client.query("SELECT entitlements.distrust_key($1, 'rotated')", &[&thumbprint]).expect("the old key goes");
    vendor.sign_with(1);
    let stick = Stick::new("old-key");
    stick.save(&mut vendor, EXPORT);
    assert_eq!(refused_import(&mut site, &stick.load()), "distrusted_key");

    // Its key lost, the vendor makes another, which the site's owner has to be told of by other means.
    vendor.sign_with(4);
    let stick = Stick::new("new-key");
    stick.save(&mut vendor, EXPORT);
    assert_eq!(refused_import(&mut site, &stick.load()), "unknown_key");
    site.trust(&vendor, "vendor", "bundle");
    carry_bundle(&mut vendor, &mut site);

    // Revoked.
    vendor.run("SELECT entitlements.end_subscription(1, reason => 'never paid')");
    carry_bundle(&mut vendor, &mut site);
    assert_eq!((allowance(&mut site, "calls"), entitled(&mut site)), ("0".to_owned(), false));
    refused_with(&mut site.client, "NE001", "SELECT entitlements.consume('acme', 'calls')", &[]);
    site.run("SELECT entitlements.release('acme', 'seats', 10)");

    for party in [&mut vendor, &mut site] {
        assert_eq!(one::<i64>(&mut party.client, "SELECT count(*) FROM entitlements.verify_audit()", &[]), 0);
    }
    let alarms: i64 = one(&mut site.client, "SELECT count(*) FROM entitlements.doctor() WHERE severity = 'error'", &[]);
    assert_eq!(alarms, 0);
}
