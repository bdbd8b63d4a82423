//! Usage reports from outside: what a site signs, and what the vendor makes of documents that come late, twice or not at all.

use entitlements_bundle::USAGE_REPORT_TYPE;
use entitlements_client_tests::{Database, Party, one, refused_with};
use serde_json::Value;
use std::ops::{Deref, DerefMut};

const CATALOG: &str = r#"{
    "features": {
        "sso": {"kind": "flag"},
        "calls": {"kind": "quota", "period": "1 month", "anchor": "calendar"},
        "seats": {"kind": "allocation"}
    },
    "plans": {"team": {"kind": "base", "features": {"sso": true, "calls": 1000, "seats": "unlimited"}}}
}"#;

/// A party that does what these tests are about.
struct Reporting(Party);

impl Deref for Reporting {
    type Target = Party;

    fn deref(&self) -> &Party {
        &self.0
    }
}

impl DerefMut for Reporting {
    fn deref_mut(&mut self) -> &mut Party {
        &mut self.0
    }
}

impl Reporting {
    fn new(name: &str, number: u8) -> Self {
        Self(Party::new(Database::new(), name, number))
    }

    fn report(&mut self) -> String {
        // Reports are a second long at least.
        one(
            &mut self.client,
            "SELECT entitlements.export_usage_report(
                \"from\" => now() - interval '1 hour', \"to\" => now(), audience => 'vendor')",
            &[],
        )
    }

    fn import(&mut self, document: &str) -> Vec<String> {
        let sql = "SELECT account || ' ' || feature || ' ' || used || coalesce(' after ' || used_before, '')
                          || coalesce(' of ' || allowance, '') FROM entitlements.import_usage_report($1)";
        let rows = self.client.query(sql, &[&document]).expect("the report is taken in");
        rows.iter().map(|row| row.get(0)).collect()
    }

    fn told(&mut self) -> Vec<String> {
        one(
            &mut self.client,
            "SELECT array(SELECT feature || ' ' || used FROM entitlements.reported_usage('acme', 'site-7'))",
            &[],
        )
    }

    fn missing(&mut self) -> Vec<i64> {
        one(&mut self.client, "SELECT missing FROM entitlements.reporting_sites()", &[])
    }
}

fn vendor_and_site() -> (Reporting, Reporting) {
    let (mut vendor, mut site) = (Reporting::new("vendor", 1), Reporting::new("site-7", 2));
    vendor.run("SELECT entitlements.define_account('acme', NULL, NULL, NULL)");
    vendor.trust(&site, "site-7", "usage_report");
    site.client.query("SELECT entitlements.apply_catalog($1::text)", &[&CATALOG]).expect("the catalog applies");
    site.run("SELECT entitlements.subscribe('acme', 'team')");
    (vendor, site)
}

fn reason(error: &postgres::error::DbError) -> String {
    let detail: Value = serde_json::from_str(error.detail().expect("DETAIL")).expect("DETAIL is JSON");
    detail["reason"].as_str().expect("a reason").to_owned()
}

#[test]
fn usage_reaches_the_vendor() {
    let (mut vendor, mut site) = vendor_and_site();
    site.run("SELECT entitlements.consume('acme', 'calls', 2.5); SELECT entitlements.consume('acme', 'seats', 3)");
    let first = site.report();
    assert_eq!(vendor.import(&first), ["acme calls 2.5 of 1000", "acme seats 3"]);
    assert!(vendor.import(&first).is_empty(), "a report that comes twice counts once");
    site.run("SELECT entitlements.consume('acme', 'calls', 4)");
    let second = site.report();
    assert_eq!(vendor.import(&second), ["acme calls 6.5 after 2.5 of 1000", "acme seats 3 after 3"]);
    assert_eq!(vendor.told(), ["calls 6.5", "seats 3"]);
    // What is promised only, and the promise is over, was not used.
    site.run("SELECT entitlements.reserve('acme', 'calls', 10, '1 millisecond'); SELECT pg_sleep(0.01)");
    let third = site.report();
    assert_eq!(vendor.import(&third), ["acme calls 6.5 after 6.5 of 1000", "acme seats 3 after 3"]);
    assert_eq!(one::<String>(&mut site.client, "SELECT entitlements.usage_report(2)", &[]), second);
    refused_with(&mut site.client, "NE010", "SELECT entitlements.usage_report(9)", &[]);
    assert_eq!(one::<i64>(&mut vendor.client, "SELECT count(*) FROM entitlements.verify_audit()", &[]), 0);

    let exported: Value = one(&mut vendor.client, "SELECT entitlements.export_account('acme')", &[]);
    assert_eq!(exported["reported_usage"].as_array().map(Vec::len), Some(2));
    vendor.run("SELECT entitlements.erase_account('acme', 'asked for')");
    assert!(vendor.told().is_empty());
}

/// Documents have whole seconds, credits do not; and what credits give is allowed as what a plan gives.
#[test]
fn credits_are_reported_with_what_they_allow() {
    let (mut vendor, mut site) = vendor_and_site();
    let end = "now() + interval '10 days'";
    site.run(&format!(
        "SELECT entitlements.grant_credit('acme', 'calls', 5, 'one', {end}, priority => 1);
         SELECT entitlements.grant_credit('acme', 'calls', 7, 'other', {end}, priority => 1);
         SELECT entitlements.define_account('globex');
         SELECT entitlements.grant_credit('globex', 'seats', 3, 'delegated', {end});
         SELECT entitlements.grant_credit('globex', 'calls', 2, 'soon over', now() + interval '300 milliseconds');"
    ));
    site.run("SELECT entitlements.consume('globex', 'calls', 2)");
    site.run("SELECT entitlements.consume('acme', 'calls', 20); SELECT entitlements.consume('globex', 'seats', 3); SELECT pg_sleep(1)");
    let report = site.report();
    let mut rows = vendor.import(&report);
    rows.sort();
    assert_eq!(rows, ["acme calls 12 of 12", "acme calls 8 of 1000", "globex calls 2 of 2", "globex seats 3 of 3"]);
}

#[test]
fn reports_come_in_any_order() {
    let (mut vendor, mut site) = vendor_and_site();
    let mut reports = Vec::new();
    for _ in 0..4 {
        site.run("SELECT entitlements.consume('acme', 'calls')");
        reports.push(site.report());
    }
    vendor.import(&reports[0]);
    vendor.import(&reports[3]);
    assert_eq!(vendor.missing(), [2, 3]);
    assert_eq!(vendor.told(), ["calls 4"]);
    assert!(vendor.import(&reports[1]).is_empty(), "it tells nothing new");
    assert_eq!(vendor.told(), ["calls 4"]);
    assert_eq!(vendor.missing(), [3]);
    vendor.import(&reports[2]);
    assert!(vendor.missing().is_empty());
}

#[test]
fn a_forked_history_is_refused() {
    let (mut vendor, mut site) = vendor_and_site();
    let first = site.report();
    vendor.import(&first);
    // The site is restored from before its second report, which the vendor has.
    let second = site.report();
    vendor.import(&second);
    site.run("DELETE FROM entitlements.usage_reports WHERE sequence = 2; SELECT entitlements.consume('acme', 'calls')");
    let other = site.report();
    let sql = "SELECT * FROM entitlements.import_usage_report($1)";
    let error = refused_with(&mut vendor.client, "NE013", sql, &[&other]);
    assert_eq!(reason(&error), "sequence_reused");
    assert!(error.detail().expect("DETAIL").contains("\"alarm\":true"), "{error:?}");
    let third = site.report();
    assert_eq!(reason(&refused_with(&mut vendor.client, "NE013", sql, &[&third])), "history_forked");
    assert!(vendor.told().is_empty());
}

#[test]
fn reports_of_others_are_refused() {
    let (mut vendor, mut site) = vendor_and_site();
    let sql = "SELECT * FROM entitlements.import_usage_report($1)";
    let document = site.report();
    let mut stranger = Reporting::new("site-7", 3);
    let forged = stranger.report();
    assert_eq!(reason(&refused_with(&mut vendor.client, "NE013", sql, &[&forged])), "unknown_key");
    let mut second = Reporting::new("site-8", 4);
    vendor.trust(&second, "site-9", "usage_report");
    let misnamed = second.report();
    assert_eq!(reason(&refused_with(&mut vendor.client, "NE013", sql, &[&misnamed])), "other_issuer");
    let mut third = Reporting::new("site-10", 5);
    vendor.trust(&third, "site-10", "licence");
    let other = third.report();
    assert_eq!(reason(&refused_with(&mut vendor.client, "NE013", sql, &[&other])), "unknown_key");
    vendor.run("SELECT entitlements.set_deployment('another')");
    assert_eq!(reason(&refused_with(&mut vendor.client, "NE013", sql, &[&document])), "other_audience");
    vendor.run("SELECT entitlements.set_deployment('vendor')");
    for place in (0..document.len()).step_by(97) {
        let mut bytes = document.clone().into_bytes();
        bytes[place] = if bytes[place] == b'x' { b'y' } else { b'x' };
        let changed = String::from_utf8(bytes).expect("it is text");
        refused_with(&mut vendor.client, "NE013", sql, &[&changed]);
    }
    let invalid = entitlements_bundle::Jws::sign(b"{}", USAGE_REPORT_TYPE, &site.key);
    assert_eq!(reason(&refused_with(&mut vendor.client, "NE013", sql, &[&invalid])), "invalid");
    let kid = site.key.public().kid().to_string();
    vendor.client.execute("SELECT entitlements.distrust_key($1, 'copied')", &[&kid]).expect("it is distrusted");
    assert_eq!(reason(&refused_with(&mut vendor.client, "NE013", sql, &[&document])), "distrusted_key");
}

#[test]
fn a_report_is_about_some_time() {
    let (_vendor, mut site) = vendor_and_site();
    let sql = "SELECT entitlements.export_usage_report($1::text::timestamptz, $2::text::timestamptz, $3)";
    for (from, to) in [("tomorrow", "yesterday"), ("yesterday", "infinity"), ("-infinity", "now"), ("yesterday", "tomorrow")]
    {
        refused_with(&mut site.client, "NE007", sql, &[&from, &to, &"vendor"]);
    }
    refused_with(&mut site.client, "NE007", "SELECT entitlements.export_usage_report()", &[]);
    let mut nameless = Database::new();
    let client = &mut nameless.connect();
    refused_with(client, "NE009", "SELECT entitlements.export_usage_report(audience => 'vendor')", &[]);
    let _ = &mut nameless;
}
