//! The command-line tool as a person or a script meets it: what it prints where, and how it exits.

mod licences;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use entitlements_model::json::{self, Json, Limits};

const ISSUED: i64 = 1_700_000_000;

/// A directory of its own, with a key pair and the claims of a bundle.
struct Desk {
    path: PathBuf,
}

static DESKS: AtomicU32 = AtomicU32::new(0);

impl Desk {
    fn new() -> Self {
        let name = format!("desk-{}-{}", std::process::id(), DESKS.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        let desk = Self { path };
        desk.succeeds(&["keygen", "--private", "vendor.key", "--public", "vendor.jwk"]);
        desk.write("claims.json", &claims(1));
        desk
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path.join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path.join(name)).unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_entitlements-bundle"));
        command.args(arguments).current_dir(&self.path).stdin(Stdio::null()).output().unwrap()
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard output and standard error of a command that exits with this status.
    fn fails(&self, status: i32, arguments: &[&str]) -> (String, String) {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn sign(&self) {
        self.succeeds(&["sign", "--key", "vendor.key", "--output", "bundle.jws", "claims.json"]);
    }

    fn verify<'a>(&self, at: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let mut arguments =
            vec!["verify", "--trust", "vendor.jwk", "--issuer", "vendor", "--audience", "site-7", "--at", at];
        arguments.extend(more);
        arguments.push("bundle.jws");
        arguments
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn claims(sequence: i64) -> String {
    let account = r#"{"subscriptions":[{"plan":"team","quantity":25,"starts_at":1700000000,"ref":"so-17"}],
        "overrides":[{"feature":"sso","mode":"set","value":true,"reason":"pilot \u001b[31m"}]}"#;
    let exp = ISSUED + 30 * 86_400;
    format!(
        r#"{{"iss":"vendor","aud":"site-7","iat":{ISSUED},"exp":{exp},"grace":86400,"seq":{sequence},"accounts":{{"acme":{account}}}}}"#
    )
}

fn json(text: &str) -> Json {
    json::parse(text.trim(), Limits::CATALOG).unwrap_or_else(|faults| panic!("{text}: {faults:?}"))
}

fn member(text: &str, name: &str) -> String {
    match json(text).get(name) {
        Some(Json::String(text)) => text.to_string(),
        other => panic!("{name} is {other:?} in {text}"),
    }
}

const AT: &str = "1700000100";

#[test]
fn a_signed_bundle_is_accepted() {
    let desk = Desk::new();
    desk.sign();
    let text = desk.succeeds(&desk.verify(AT, &[]));
    assert!(text.starts_with("accepted: bundle 1 of vendor for site-7\ndigest  "), "{text}");
    assert!(text.ends_with("\nphase   fresh until 2023-12-14 22:13:20 UTC\n"), "{text}");
}

#[test]
fn what_was_accepted_last_decides() {
    let desk = Desk::new();
    desk.sign();
    let answer = desk.succeeds(&desk.verify(AT, &["--json"]));
    let digest = member(&answer, "digest");
    assert_eq!(member(&answer, "outcome"), "accepted");
    let again = desk.succeeds(&desk.verify(AT, &["--json", "--last-sequence", "1", "--last-digest", &digest]));
    assert_eq!(member(&again, "outcome"), "unchanged");
    let (_, error) = desk.fails(1, &desk.verify(AT, &["--json", "--last-sequence", "2", "--last-digest", &digest]));
    assert_eq!(member(&error, "error"), "replayed");

    desk.write("claims.json", &claims(1).replace("86400", "3600"));
    desk.sign();
    let (out, error) = desk.fails(1, &desk.verify(AT, &["--last-sequence", "1", "--last-digest", &digest]));
    assert_eq!(out, "");
    assert!(error.contains("the sequence number 1 as the one accepted before, but another content"), "{error}");

    desk.write("claims.json", &claims(4));
    desk.sign();
    let text = desk.succeeds(&desk.verify(AT, &["--last-sequence", "1", "--last-digest", &digest]));
    assert!(text.ends_with("missed  2 bundles between the last one and this\n"), "{text}");

    let like_an_option = format!("-{}", "A".repeat(42));
    let text = desk.succeeds(&desk.verify(AT, &["--last-sequence", "3", "--last-digest", &like_an_option]));
    assert!(text.starts_with("accepted: bundle 4 of vendor for site-7\n"), "{text}");
}

#[test]
fn what_is_refused_exits_with_1_and_says_why() {
    let desk = Desk::new();
    desk.sign();
    let reason = |arguments: &[&str]| member(&desk.fails(1, arguments).1, "error");
    assert_eq!(reason(&desk.verify("1800000000", &["--json"])), "expired");
    assert_eq!(reason(&desk.verify("1600000000", &["--json"])), "issued_in_future");
    let mut other = desk.verify(AT, &["--json"]);
    other[6] = "site-8";
    assert_eq!(reason(&other), "other_audience");
    other[6] = "site-7";
    other[4] = "another";
    assert_eq!(reason(&other), "other_issuer");

    desk.write("bundle.jws", &desk.read("bundle.jws").replacen("eyJ", "eyK", 1));
    assert_eq!(reason(&desk.verify(AT, &["--json"])), "malformed");
    desk.write("bundle.jws", "");
    assert_eq!(reason(&desk.verify(AT, &["--json"])), "malformed");
    fs::remove_file(desk.path.join("bundle.jws")).unwrap();
    assert_eq!(reason(&desk.verify(AT, &["--json"])), "file");
}

#[test]
fn a_stranger_s_signature_is_refused() {
    let desk = Desk::new();
    desk.succeeds(&["keygen", "--private", "other.key"]);
    desk.succeeds(&["sign", "--key", "other.key", "--output", "bundle.jws", "claims.json"]);
    let (_, error) = desk.fails(1, &desk.verify(AT, &[]));
    assert!(error.starts_with("entitlements-bundle: the document names the key "), "{error}");
}

#[test]
fn wrong_usage_exits_with_2() {
    let desk = Desk::new();
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["verify", "bundle.jws"],
        &["sign", "claims.json"],
        &["inspect", "--trust", "vendor.jwk", "bundle.jws"],
        &["verify", "--trust", "vendor.jwk", "--issuer", "v", "--audience", "a", "--last-sequence", "1", "bundle.jws"],
        &["verify", "--trust", "vendor.jwk", "--issuer", "v", "--audience", "a", "--at", "noon", "bundle.jws"],
    ] {
        let (out, error) = desk.fails(2, arguments);
        assert_eq!(out, "");
        assert!(error.contains("Usage") || error.contains("--help"), "{arguments:?}: {error}");
    }
}

#[test]
fn help_names_every_command_and_the_exit_status() {
    let desk = Desk::new();
    let help = desk.succeeds(&["--help"]);
    for word in [
        "keygen",
        "sign",
        "verify",
        "inspect",
        "licence",
        "encrypt",
        "decrypt",
        "convert",
        "--json",
        "Exit status: 0",
        "1 refused",
        "2 wrong usage",
    ] {
        assert!(help.contains(word), "{word} in {help}");
    }
    assert!(desk.succeeds(&["--version"]).starts_with("entitlements-bundle "));
}

#[test]
fn claims_with_faults_are_not_signed() {
    let desk = Desk::new();
    desk.write("claims.json", &claims(1).replace("\"seq\":1", "\"seq\":0,\"nonce\":1"));
    let (out, error) = desk.fails(1, &["sign", "--key", "vendor.key", "claims.json"]);
    assert_eq!(out, "");
    assert!(error.contains("  $.nonce: unknown member"), "{error}");
    assert!(error.contains("  $.seq: 0 is not an integer"), "{error}");
    let (_, error) = desk.fails(1, &["sign", "--json", "--key", "vendor.key", "claims.json"]);
    let faults = json(&error);
    assert!(matches!(faults.get("faults"), Some(Json::Array(faults)) if faults.len() == 2), "{error}");
}

#[test]
fn an_untrusted_document_is_shown_and_marked() {
    let desk = Desk::new();
    desk.sign();
    let text = desk.succeeds(&["inspect", "--accounts", "bundle.jws"]);
    assert!(text.starts_with("UNTRUSTED: the signature was not checked"), "{text}");
    assert!(
        text.contains("\nissuer      vendor\n") && text.contains("\n  team × 25 [so-17] 2023-11-14 22:13:20 UTC – open")
    );
    assert!(text.contains("pilot \\u{1b}[31m") && !text.contains('\u{1b}'), "{text:?}");

    let trusted = ["inspect", "--trust", "vendor.jwk", "--issuer", "vendor", "bundle.jws"];
    assert!(desk.succeeds(&trusted).starts_with("SIGNED with the trusted key "));
    let (text, error) = desk.fails(1, &["inspect", "--trust", "vendor.jwk", "--issuer", "another", "bundle.jws"]);
    assert!(text.starts_with("UNTRUSTED: the document is issued by 'vendor'"), "{text}");
    assert!(error.contains("issued by 'vendor'"), "{error}");

    let answer = json(&desk.succeeds(&["inspect", "--json", "bundle.jws"]));
    assert_eq!(answer.get("trusted"), Some(&Json::Bool(false)));
    assert_eq!(answer.get("claims").and_then(|claims| claims.get("seq")), Some(&Json::number(1)));
}

#[cfg(unix)]
#[test]
fn a_private_key_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    let file = desk.path.join("vendor.key");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let before = desk.read("vendor.key");
    let (_, error) = desk.fails(1, &["keygen", "--private", "vendor.key"]);
    assert!(error.contains("exists"), "{error}");
    assert_eq!(desk.read("vendor.key"), before);

    let secret = member(&before, "d");
    let printed = desk.succeeds(&["keygen", "--json", "--private", "second.key"]);
    assert!(json(&printed).get("public").is_some_and(|jwk| jwk.get("d").is_none()));
    assert!(!printed.contains(&member(&desk.read("second.key"), "d")));
    desk.write("broken.key", &before.replace("\"kty\"", "\"kty2\""));
    fs::set_permissions(desk.path.join("broken.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let (_, error) = desk.fails(1, &["sign", "--key", "broken.key", "claims.json"]);
    assert!(error.contains("open to other users") && !error.contains(&secret), "{error}");
    let (_, error) = desk.fails(1, &["verify", "--trust", "vendor.key", "--issuer", "v", "--audience", "a", "claims.json"]);
    assert!(error.contains("private part") && !error.contains(&secret), "{error}");
}

#[test]
fn a_jwk_set_is_trusted_too() {
    let desk = Desk::new();
    desk.sign();
    let public = desk.read("vendor.jwk");
    let other = desk.succeeds(&["keygen", "--private", "other.key"]);
    desk.write("vendor.jwk", &format!("{{\"keys\":[{other},{public}]}}"));
    desk.succeeds(&desk.verify(AT, &[]));
}

#[test]
fn catalogs_are_converted_and_checked() {
    let desk = Desk::new();
    desk.write(
        "catalog.yaml",
        "features:\n  sso: {kind: flag}\n  seats: {kind: allocation, unit: seat}\n\
         plans:\n  free: &free\n    kind: base\n    features: {sso: false, seats: 3}\n\
         \x20 team:\n    kind: base\n    extends: free\n    features: {sso: true, seats: 0.50}\n",
    );
    let text = desk.succeeds(&["convert", "catalog.yaml"]);
    let end = r#""team":{"kind":"base","extends":"free","features":{"sso":true,"seats":0.50}}}}"#;
    assert!(text.trim_end().ends_with(end), "{text}");
    desk.write("catalog.yaml", "plans:\n  team:\n    kind: base\n    features: {sso: true}\n");
    let (_, error) = desk.fails(1, &["convert", "catalog.yaml"]);
    assert!(error.contains("  $.plans.team.features.sso: "), "{error}");
    desk.succeeds(&["convert", "--partial", "--output", "catalog.json", "catalog.yaml"]);
    assert_eq!(desk.read("catalog.json"), "{\"plans\":{\"team\":{\"kind\":\"base\",\"features\":{\"sso\":true}}}}\n");
    desk.write("catalog.yaml", "a: 1\na: 2\n");
    let (_, error) = desk.fails(1, &["convert", "catalog.yaml"]);
    assert!(error.contains("  line 2: the key 'a' appears more than once"), "{error}");
}

#[test]
fn pricing_files_are_converted_and_what_is_left_out_is_named() {
    let desk = Desk::new();
    desk.write(
        "pricing.yaml",
        "saasName: shop\nfeatures:\n  sso: {valueType: BOOLEAN, defaultValue: false}\nusageLimits:\n\
         \x20 pages: {valueType: NUMERIC, type: RENEWABLE, unit: page/day, defaultValue: .inf}\n\
         plans:\n  FREE: {monthlyPrice: 1, features: null, usageLimits: null}\naddOns: null\n",
    );
    let output = desk.run(&["convert", "pricing.yaml"]);
    assert_eq!(output.status.code(), Some(0));
    let catalog = json(&String::from_utf8(output.stdout).unwrap());
    let features = catalog.get("plans").and_then(|plans| plans.get("FREE")).and_then(|plan| plan.get("features")).unwrap();
    assert_eq!(features.to_string(), r#"{"sso":false,"pages":"unlimited"}"#);
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(notes.contains("note: $.plans.*.monthlyPrice: has no place in a catalog\n"), "{notes}");
    let output = desk.run(&["convert", "--json", "pricing.yaml"]);
    let notes = json(&String::from_utf8(output.stderr).unwrap());
    assert!(matches!(notes.get("notes"), Some(Json::Array(notes)) if notes.len() == 2), "{notes}");
    desk.write("pricing.yaml", "saasName: shop\nfeatures: 1\n");
    let (_, error) = desk.fails(1, &["convert", "pricing.yaml"]);
    assert!(error.contains("  $.features: must be a mapping, not a number"), "{error}");
}

#[test]
fn documents_are_encrypted_on_their_way() {
    let desk = Desk::new();
    desk.sign();
    let recipient = desk.succeeds(&["keygen", "--encryption", "--private", "site.key", "--public", "site.pub"]);
    assert_eq!(desk.read("site.pub"), recipient);
    let recipient = recipient.trim();
    assert!(recipient.starts_with("age1"), "{recipient}");
    desk.succeeds(&["encrypt", "--recipient", recipient, "--output", "bundle.age", "bundle.jws"]);
    let sealed = desk.read("bundle.age");
    assert!(sealed.starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n"), "{sealed}");
    assert_eq!(desk.succeeds(&["decrypt", "--identity", "site.key", "bundle.age"]), desk.read("bundle.jws"));

    desk.succeeds(&["keygen", "--encryption", "--private", "other.key"]);
    let (out, error) = desk.fails(1, &["decrypt", "--json", "--identity", "other.key", "bundle.age"]);
    assert_eq!((out.as_str(), member(&error, "error").as_str()), ("", "encryption"));
    desk.fails(1, &["encrypt", "--recipient", "nobody", "bundle.jws"]);
    desk.fails(2, &["encrypt", "bundle.jws"]);
}
