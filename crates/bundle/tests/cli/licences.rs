//! Licences, what machines write about them, and usage reports.

use std::fs;

use entitlements_bundle::{DelegationReturn, NumericDate, PrivateKey};
use entitlements_model::json::Json;

use crate::{AT, Desk, ISSUED, claims, json, member};

const LICENCE: &str = r#"{"iss":"vendor","sub":"acme","aud":"editor","iat":1700000000,"exp":1700604800,"jti":"l-1",
    "holder":"ann","features":{"sso":true,"seats":5},"lease":604800,"heartbeat":86400}"#;

fn report(sequence: i64, previous: &str) -> String {
    let row = r#"{"account":"acme","feature":"minutes","window":{"starts_at":1699000000,"ends_at":1701000000},"used":2.5,"allowance":3000}"#;
    let previous = if previous.is_empty() { String::new() } else { format!(r#""prev":"{previous}","#) };
    format!(
        r#"{{"iss":"site-7","aud":"vendor","iat":{ISSUED},"seq":{sequence},{previous}"starts_at":1699900000,"ends_at":{ISSUED},"rows":[{row}]}}"#
    )
}

impl Desk {
    fn licence(&self, claims: &str) {
        self.write("licence.json", claims);
        let sign = ["sign", "--type", "licence", "--key", "vendor.key", "--output", "licence.jws", "licence.json"];
        self.succeeds(&sign);
    }

    fn report(&self, claims: &str) {
        self.write("usage.json", claims);
        let sign = ["sign", "--type", "usage-report", "--key", "vendor.key", "--output", "usage.jws", "usage.json"];
        self.succeeds(&sign);
    }

    fn check<'a>(&self, issuer: &'a str, more: &[&'a str], document: &'a str) -> Vec<&'a str> {
        let mut arguments = vec!["verify", "--trust", "vendor.jwk", "--issuer", issuer];
        arguments.extend(more);
        arguments.push(document);
        arguments
    }
}

#[test]
fn a_licence_is_verified_where_it_is_shown() {
    let desk = Desk::new();
    desk.licence(LICENCE);
    let text = desk.succeeds(&desk.check("vendor", &["--at", AT, "--audience", "editor"], "licence.jws"));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "accepted: licence l-1 of vendor for acme");
    assert_eq!(lines[1..], ["until   2023-11-21 22:13:20 UTC", "grants  seats 5", "grants  sso true"]);

    let check = |at, audience| {
        let arguments = desk.check("vendor", &["--json", "--at", at, "--audience", audience], "licence.jws");
        let output = desk.run(&arguments);
        match output.status.code() {
            Some(0) => {
                let answer = json(&String::from_utf8(output.stdout).unwrap());
                assert_eq!(answer.get("renewal_due"), Some(&Json::Bool(at != AT)));
                member(&answer.to_string(), "outcome")
            }
            code => {
                assert_eq!(code, Some(1));
                member(&String::from_utf8(output.stderr).unwrap(), "error")
            }
        }
    };
    assert_eq!(check(AT, "editor"), "accepted");
    assert_eq!(check("1700086400", "editor"), "accepted");
    assert_eq!(check(AT, "viewer"), "other_audience");
    assert_eq!(check("1700604800", "editor"), "expired");
    let (_, error) = desk.fails(1, &desk.check("vendor", &["--at", AT], "licence.jws"));
    assert!(error.contains("for 'editor', not for 'an application without a name'"), "{error}");
}

#[test]
fn a_bundle_revokes_a_licence() {
    let desk = Desk::new();
    desk.licence(LICENCE);
    let with = |list: &str| {
        desk.write("claims.json", &claims(1).replace("\"seq\"", &format!("\"revoked\":[{list}],\"seq\"")));
        desk.sign();
        desk.check("vendor", &["--json", "--at", AT, "--audience", "editor", "--revoked", "bundle.jws"], "licence.jws")
    };
    desk.succeeds(&with("\"l-2\""));
    let (_, error) = desk.fails(1, &with("\"l-1\""));
    assert_eq!(member(&error, "error"), "revoked");
    assert!(desk.succeeds(&["inspect", "--accounts", "bundle.jws"]).contains("\nrevoked licence l-1\n"));
}

#[test]
fn a_machine_without_a_network_asks_is_answered_and_gives_up() {
    let desk = Desk::new();
    desk.write("machine-id", "4f1c\n");
    desk.succeeds(&["keygen", "--private", "machine.key", "--public", "machine.jwk"]);
    let request = ["licence", "request", "--key", "machine.key", "--machine", "machine-id", "--issuer", "vendor"];
    let more = ["--account", "acme", "--holder", "press 4", "--feature", "sso", "--output", "request.jws"];
    desk.succeeds(&[&request[..], &more].concat());
    let shown = desk.succeeds(&["inspect", "request.jws"]);
    assert!(shown.starts_with("UNTRUSTED: signed with the key it brings itself"), "{shown}");
    assert!(shown.contains("\naccount     acme\n") && shown.contains("\nfeature     sso\n"), "{shown}");

    let asked = json(&desk.succeeds(&["inspect", "--json", "request.jws"]));
    let claims = asked.get("claims").unwrap();
    let text = |name: &str| claims.get(name).unwrap().to_string();
    let kid = asked.get("kid").unwrap();
    let machine = format!(r#""machine":{{"id":{},"key":{kid},"nonce":{}}},"lease""#, text("machine"), text("nonce"));
    desk.licence(&LICENCE.replace("\"lease\"", &machine));

    let check = |more: &[&str]| {
        let mut all = vec!["--json", "--at", AT, "--audience", "editor"];
        all.extend(more);
        let output = desk.run(&desk.check("vendor", &all, "licence.jws"));
        output.status.code() == Some(0)
    };
    assert!(check(&["--machine", "machine-id", "--machine-key", "machine.jwk"]));
    assert!(!check(&["--machine", "machine-id"]));
    assert!(!check(&[]));
    desk.write("other-id", "4f1d\n");
    assert!(!check(&["--machine", "other-id", "--machine-key", "machine.jwk"]));
    assert!(!check(&["--machine", "machine-id", "--machine-key", "vendor.jwk"]));

    desk.succeeds(&["licence", "deactivate", "--key", "machine.key", "--output", "given-up.jws", "licence.jws"]);
    let shown = desk.succeeds(&["inspect", "given-up.jws"]);
    assert!(shown.contains("\nlicence     l-1\ngiven up to vendor\n"), "{shown}");
    let (_, error) = desk.fails(1, &["licence", "deactivate", "--json", "--key", "vendor.key", "licence.jws"]);
    assert_eq!(member(&error, "error"), "other_machine");

    let forged = desk.read("request.jws").replacen("eyJhdWQi", "eyJhdWQj", 1);
    desk.write("request.jws", &forged);
    let (_, error) = desk.fails(1, &["inspect", "--json", "request.jws"]);
    assert!(["invalid", "bad_signature"].contains(&member(&error, "error").as_str()), "{error}");
}

#[test]
fn what_is_wrong_with_a_request_is_said() {
    let desk = Desk::new();
    desk.write("machine-id", " \n");
    let request = ["licence", "request", "--json", "--key", "vendor.key", "--machine", "machine-id", "--account", "acme"];
    let (_, error) = desk.fails(1, &[&request[..], &["--issuer", "vendor"]].concat());
    assert!(member(&error, "message").contains("tells no machine from another"), "{error}");
    desk.write("machine-id", "1");
    let (_, error) = desk.fails(1, &[&request[..], &["--issuer", ""]].concat());
    assert_eq!(member(&error, "error"), "invalid");
    desk.fails(2, &[&request[..], &["--issuer", "vendor", "--feature", "no spaces"]].concat());
    desk.fails(2, &["licence"]);
    desk.fails(2, &["licence", "request", "--key", "vendor.key"]);
    fs::remove_file(desk.path.join("machine-id")).unwrap();
    let (_, error) = desk.fails(1, &[&request[..], &["--issuer", "vendor"]].concat());
    assert_eq!(member(&error, "error"), "file");
}

#[test]
fn usage_reports_are_verified_in_their_series() {
    let desk = Desk::new();
    desk.report(&report(1, ""));
    let check = |more: &[&str]| {
        let mut all = vec!["--json", "--at", AT, "--audience", "vendor"];
        all.extend(more);
        let output = desk.run(&desk.check("site-7", &all, "usage.jws"));
        let (text, name) = if output.status.success() { (output.stdout, "outcome") } else { (output.stderr, "error") };
        let text = String::from_utf8(text).unwrap();
        (member(&text, name), text)
    };
    let (outcome, answer) = check(&[]);
    assert_eq!(outcome, "accepted");
    let digest = member(&answer, "digest");
    let last = ["--last-sequence", "1", "--last-digest", &digest];
    assert_eq!(check(&last).0, "unchanged");

    desk.report(&report(2, &digest));
    assert_eq!(check(&last).0, "accepted");
    desk.report(&report(2, "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"));
    assert_eq!(check(&last).0, "history_forked");
    desk.report(&report(4, &digest));
    let text =
        desk.succeeds(&desk.check("site-7", &[&["--at", AT, "--audience", "vendor"][..], &last].concat(), "usage.jws"));
    assert!(text.starts_with("accepted: usage report 4 of site-7 for vendor\n"), "{text}");
    assert!(text.ends_with("\nmissing 2 reports before this one\n"), "{text}");
    assert_eq!(check(&["--last-sequence", "9", "--last-digest", &digest]).0, "late");
    let (_, error) = desk.fails(2, &desk.check("site-7", &[], "usage.jws"));
    assert!(error.contains("--audience <NAME> is required"), "{error}");

    let shown = desk.succeeds(&["inspect", "--accounts", "usage.jws"]);
    assert!(shown.starts_with("UNTRUSTED: the signature was not checked"), "{shown}");
    assert!(shown.contains("\n  acme minutes: 2.5 of 3000 in 2023-11-03 08:26:40 UTC – "), "{shown}");
    let trusted = ["inspect", "--trust", "vendor.jwk", "--issuer", "site-7", "usage.jws"];
    assert!(desk.succeeds(&trusted).starts_with("SIGNED with the trusted key "));
}

#[test]
fn a_return_is_shown() {
    let desk = Desk::new();
    let returned = DelegationReturn {
        issuer: "site-7".into(),
        audience: "vendor".into(),
        issued_at: NumericDate::from_seconds(ISSUED).unwrap(),
        id: 7,
        unused: "2.5".parse().unwrap(),
    };
    let key = PrivateKey::from_seed(&[7; 32]);
    desk.write("return.jws", &returned.sign(&key));
    desk.write("site.jwk", &key.public().to_jwk().to_string());
    let shown = desk.succeeds(&["inspect", "return.jws"]);
    assert!(shown.starts_with("UNTRUSTED: the signature was not checked"), "{shown}");
    assert!(shown.contains("\ndelegation  7\nunused      2.5\n"), "{shown}");
    let trusted = ["inspect", "--json", "--trust", "site.jwk", "--issuer", "site-7", "return.jws"];
    assert_eq!(json(&desk.succeeds(&trusted)).get("trusted"), Some(&Json::Bool(true)));
}

#[test]
fn claims_are_those_of_their_type() {
    let desk = Desk::new();
    desk.write("licence.json", LICENCE);
    for (typ, claims, word) in [
        ("bundle", "licence.json", "invalid"),
        ("licence", "claims.json", "invalid"),
        ("usage-report", "claims.json", "invalid"),
    ] {
        let (_, error) = desk.fails(1, &["sign", "--json", "--type", typ, "--key", "vendor.key", claims]);
        assert_eq!(member(&error, "error"), word);
    }
    desk.fails(2, &["sign", "--type", "letter", "--key", "vendor.key", "licence.json"]);
    let answer = desk.succeeds(&["sign", "--json", "--type", "licence", "--key", "vendor.key", "licence.json"]);
    assert_eq!(member(&answer, "licence"), "l-1");
    desk.licence(LICENCE);
    let shown = desk.succeeds(&["inspect", "--json", "licence.jws"]);
    assert_eq!(json(&shown).get("claims").and_then(|claims| claims.get("jti")), Some(&Json::string("l-1")));
    assert!(desk.succeeds(&["inspect", "licence.jws"]).contains("\nmachine     any\n"));
}
