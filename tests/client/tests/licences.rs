//! Licences from outside: what is signed, whom it takes a seat from and until when, and how it ends.

use entitlements_bundle::{
    Authentic, Clock, Deactivation, Licence, LicenceRequest, MachineId, NumericDate, Place, PrivateKey, PublicKey, Purpose,
    TrustSet, TrustedKey, authenticate_as, judge_licence,
};
use entitlements_client_tests::{Database, one, refused_with, row};
use postgres::Client;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

const VENDOR: &str = "vendor";

const CATALOG: &str = r#"{
    "features": {
        "sso": {"kind": "flag"},
        "export": {"kind": "flag"},
        "support": {"kind": "config", "schema": {"enum": ["community", "standard"]}},
        "calls": {"kind": "quota", "period": "1 month"},
        "seats": {"kind": "allocation"}
    },
    "plans": {"team": {"kind": "base", "features": {"sso": true, "support": "standard", "calls": 1000, "seats": 2}}}
}"#;

fn key(number: u8) -> PrivateKey {
    PrivateKey::from_seed(&[number; 32])
}

/// A key file that the server can read.
struct KeyFile(PathBuf);

impl KeyFile {
    fn new(database: &Database, key: &PrivateKey) -> Self {
        let path = std::env::temp_dir().join(format!("{}_{}.jwk", database.name(), key.public().kid()));
        fs::write(&path, key.to_jwk().as_bytes()).expect("the key is written");
        Self(path)
    }

    fn sign_with(&self, client: &mut Client) {
        run(client, &format!("SET entitlements.signing_key_file = '{}'", self.0.display()));
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

fn stage(database: &Database) -> (Client, KeyFile) {
    let mut client = database.connect();
    client.query("SELECT entitlements.apply_catalog($1::text)", &[&CATALOG]).expect("the catalog applies");
    run(&mut client, "SELECT entitlements.subscribe('acme', 'team'); SELECT entitlements.set_deployment('vendor')");
    let file = KeyFile::new(database, &key(1));
    file.sign_with(&mut client);
    (client, file)
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs() as i64
}

fn date(seconds: i64) -> NumericDate {
    NumericDate::from_seconds(seconds).expect("it is a date")
}

/// As an application reads it, which knows nothing but the published keys.
fn read(client: &mut Client, token: &str) -> Authentic<Licence> {
    let jwks: Value = one(client, "SELECT entitlements.jwks()", &[]);
    let keys = PublicKey::set_from_jwk(&jwks.to_string()).expect("keys");
    let trusted = |key| TrustedKey {
        key,
        issuer: VENDOR.to_owned(),
        purpose: Purpose::Licence,
        not_before: i64::MIN,
        not_after: i64::MAX,
        distrusted: false,
    };
    let trust: TrustSet = keys.into_iter().map(trusted).collect();
    authenticate_as(token, &trust).expect("the licence is authentic")
}

fn licence(client: &mut Client, token: &str) -> Licence {
    read(client, token).into_document()
}

fn issue(client: &mut Client, arguments: &str) -> String {
    one(client, &format!("SELECT entitlements.issue_licence({arguments})"), &[])
}

fn holders(client: &mut Client) -> Vec<String> {
    one(
        client,
        "SELECT array(SELECT holder FROM entitlements.seats('acme', 'seats') WHERE state = 'leased' ORDER BY holder)",
        &[],
    )
}

fn reason(error: &postgres::error::DbError) -> String {
    let detail: Value = serde_json::from_str(error.detail().expect("DETAIL")).expect("DETAIL is JSON");
    detail["reason"].as_str().expect("a reason").to_owned()
}

#[test]
fn a_licence_says_what_the_account_is_entitled_to() {
    let database = Database::new();
    let (mut client, _file) = stage(&database);
    let token = issue(&mut client, "'acme', 'ann', audience => 'editor', ttl => '1 hour'");
    let authentic = read(&mut client, &token);
    let clock = Clock { now: date(now()).time(), highest: i64::MIN };
    let place = Place { audience: Some("editor"), ..Place::default() };
    let granted = judge_licence(authentic, place, &BTreeSet::new(), clock).expect("it holds");
    let licence = granted.licence;
    assert_eq!((licence.account.as_str(), licence.holder.as_deref()), ("acme", Some("ann")));
    assert_eq!(licence.expires.seconds() - licence.issued_at.seconds(), 3600);
    let features: Vec<String> = licence.features.iter().map(|(key, value)| format!("{} {value}", key.as_str())).collect();
    assert_eq!(features, ["calls 1000", "seats 2", "sso true", r#"support "standard""#]);
    assert!(judge_licence(read(&mut client, &token), Place::default(), &BTreeSet::new(), clock).is_err());

    let some = issue(&mut client, "'acme', 'ann', ARRAY['sso']");
    assert_eq!(self::licence(&mut client, &some).features.len(), 1);
    let issue = "SELECT entitlements.issue_licence($1, $2, $3::text[])";
    refused_with(&mut client, "NE001", issue, &[&"acme", &"ann", &vec!["sso", "export"]]);
    refused_with(&mut client, "NE003", issue, &[&"acme", &"ann", &vec!["nothing"]]);
    refused_with(&mut client, "NE006", issue, &[&"nobody", &"ann", &vec!["sso"]]);
    refused_with(&mut client, "NE007", issue, &[&"acme", &None::<&str>, &vec!["sso"]]);
    let bad_ttl = "SELECT entitlements.issue_licence('acme', 'ann', ttl => $1::text::interval)";
    for ttl in ["0", "-1 day", "2 years", "1 microsecond"] {
        refused_with(&mut client, "NE007", bad_ttl, &[&ttl]);
    }
}

#[test]
fn a_licence_ends_with_what_was_bought() {
    let database = Database::new();
    let (mut client, _file) = stage(&database);
    run(
        &mut client,
        "SELECT entitlements.set_override('acme', 'export', 'set', 'true', 'pilot', date_trunc('second', now()) + interval '2 days')",
    );
    let end: i64 = one(
        &mut client,
        "SELECT extract(epoch FROM max(expires_at))::bigint FROM entitlements.overrides WHERE expires_at < 'infinity'",
        &[],
    );
    let all = issue(&mut client, "'acme', 'ann'");
    assert_eq!(licence(&mut client, &all).expires.seconds(), end);
    let without = issue(&mut client, "'acme', 'ann', ARRAY['sso']");
    assert_eq!(licence(&mut client, &without).lease, 7 * 86_400);
    assert!(licence(&mut client, &without).expires.seconds() - now() > 6 * 86_400);

    run(&mut client, "SELECT entitlements.end_subscription(1, now() + interval '1 hour', 'canceled')");
    let renewed: String = one(&mut client, "SELECT entitlements.renew_licence($1)", &[&without]);
    let left = licence(&mut client, &renewed).expires.seconds() - now();
    assert!((3500..=3600).contains(&left), "{left}");
}

#[test]
fn seats_are_taken_for_as_long_as_a_licence_can_be_shown() {
    let database = Database::new();
    let (mut client, _file) = stage(&database);
    let ann = issue(&mut client, "'acme', 'ann', seat_feature => 'seats', ttl => '1 day'");
    issue(&mut client, "'acme', 'bob', seat_feature => 'seats', ttl => '1 day'");
    assert_eq!(holders(&mut client), ["ann", "bob"]);
    let third = "SELECT entitlements.issue_licence('acme', 'cyd', seat_feature => 'seats')";
    refused_with(&mut client, "NE002", third, &[]);
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.licences", &[]), 2);
    // A shorter licence of the same subject leaves the seat to the longer.
    issue(&mut client, "'acme', 'ann', seat_feature => 'seats', ttl => '1 minute'");
    let lasts = "SELECT leased_until >= (SELECT max(expires_at) FROM entitlements.licences WHERE holder = $1)
                   FROM entitlements.seats('acme', 'seats') WHERE holder = $1";
    assert!(one::<bool>(&mut client, lasts, &[&"ann"]));
    // A heartbeat gives the next token of the same licence, and its seat goes on.
    let next: String = one(&mut client, "SELECT entitlements.renew_licence($1, '3 days')", &[&ann]);
    let (old, new) = (licence(&mut client, &ann), licence(&mut client, &next));
    assert_eq!(old.id, new.id);
    assert!(new.expires > old.expires);
    assert!(one::<bool>(&mut client, lasts, &[&"ann"]));
    // Revoking takes nothing back that can still be shown.
    let id: Uuid = new.id.parse().expect("a uuid");
    assert!(one::<bool>(&mut client, "SELECT entitlements.revoke_licence($1, 'copied')", &[&id]));
    assert!(!one::<bool>(&mut client, "SELECT entitlements.revoke_licence($1, 'copied')", &[&id]));
    refused_with(&mut client, "NE002", third, &[]);
    let error = refused_with(&mut client, "NE013", "SELECT entitlements.renew_licence($1)", &[&next]);
    assert_eq!(reason(&error), "revoked");
    let listed = row(
        &mut client,
        "SELECT id, issuer, ended_at < now(), expires_at > now() FROM entitlements.revoked_licences()",
        &[],
    );
    let listed: (String, String, bool, bool) = (listed.get(0), listed.get(1), listed.get(2), listed.get(3));
    assert_eq!(listed, (id.to_string(), VENDOR.to_owned(), true, true));
    refused_with(&mut client, "NE010", "SELECT entitlements.revoke_licence($1, 'copied')", &[&Uuid::nil()]);
    let verified: i64 = one(&mut client, "SELECT count(*) FROM entitlements.verify_audit()", &[]);
    assert_eq!(verified, 0);
}

#[test]
fn a_seat_that_its_holder_had_stays_as_it_was() {
    let database = Database::new();
    let (mut client, _file) = stage(&database);
    run(
        &mut client,
        "SELECT entitlements.assign_seat('acme', 'seats', 'press 4'); SELECT entitlements.assign_seat('acme', 'seats', 'bob', '10 days')",
    );
    let state = "SELECT string_agg(holder || ' ' || state || coalesce(' ' || (leased_until > now() + interval '9 days'), ''), ', ' ORDER BY holder)
                   FROM entitlements.seats('acme', 'seats')";
    assert_eq!(one::<String>(&mut client, state, &[]), "bob leased true, press 4 named");
    issue(&mut client, "'acme', 'bob', seat_feature => 'seats', ttl => '1 day'");
    let (machine_key, machine) = (key(7), MachineId::derive(b"a machine", VENDOR));
    let document = request(&machine_key, machine, "nonce 1").sign(&machine_key).expect("it is its own key");
    let sql = "SELECT entitlements.issue_licence('acme', NULL, seat_feature => 'seats', ttl => '1 day', request => $1)";
    let token: String = one(&mut client, sql, &[&document]);
    assert_eq!(one::<String>(&mut client, state, &[]), "bob leased true, press 4 named");
    // A lease of its own is what a renewal gives, never less than what was signed.
    issue(&mut client, "'acme', 'bob', seat_feature => 'seats', ttl => '20 days'");
    run(&mut client, "SELECT entitlements.renew_seat('acme', 'seats', 'bob')");
    let lasts = "SELECT leased_until >= (SELECT max(expires_at) FROM entitlements.licences) FROM entitlements.seats('acme', 'seats') WHERE holder = 'bob'";
    assert!(one::<bool>(&mut client, lasts, &[]));
    let deactivation = Deactivation {
        vendor: VENDOR.to_owned(),
        made_at: date(now()),
        licence: licence(&mut client, &token).id,
        machine,
        key: machine_key.public().clone(),
    };
    let document = deactivation.sign(&machine_key).expect("it is its own key");
    assert!(one::<bool>(&mut client, "SELECT entitlements.deactivate_licence($1)", &[&document]));
    assert_eq!(one::<String>(&mut client, state, &[]), "bob leased true, press 4 named");
}

#[test]
fn a_licence_ends_with_the_allocation_of_its_seat() {
    let database = Database::new();
    let (mut client, _file) = stage(&database);
    run(
        &mut client,
        "SELECT entitlements.set_override('acme', 'seats', 'add', '1', 'pilot', date_trunc('second', now()) + interval '10 days')",
    );
    let of_override = "SELECT extract(epoch FROM expires_at)::bigint FROM entitlements.overrides";
    let end: i64 = one(&mut client, of_override, &[]);
    let token = issue(&mut client, "'acme', 'ann', ARRAY['sso'], '300 days', 'seats'");
    assert_eq!(licence(&mut client, &token).expires.seconds(), end);
    let without = issue(&mut client, "'acme', 'ann', ARRAY['sso'], '300 days'");
    assert!(licence(&mut client, &without).expires.seconds() > end);
    // A place that a credit gives is there as long as that.
    run(
        &mut client,
        "SELECT entitlements.clear_override(id, 'over') FROM entitlements.overrides;
         SELECT entitlements.assign_seat('acme', 'seats', 'bob');
         SELECT entitlements.grant_credit('acme', 'seats', 1, 'pilot', date_trunc('second', now()) + interval '5 days')",
    );
    let end: i64 = one(&mut client, "SELECT extract(epoch FROM expires_at)::bigint FROM entitlements.credits", &[]);
    let token = issue(&mut client, "'acme', 'cyd', ARRAY['sso'], '300 days', 'seats'");
    assert_eq!(licence(&mut client, &token).expires.seconds(), end);
}

#[test]
fn a_clock_that_is_behind_issues_nothing() {
    let database = Database::new();
    let (mut client, _file) = stage(&database);
    run(&mut client, "UPDATE entitlements.deployment SET highest_seen = now() + interval '1 day'");
    let error = refused_with(&mut client, "NE013", "SELECT entitlements.issue_licence('acme', 'ann')", &[]);
    assert_eq!(reason(&error), "clock_behind");
}

#[test]
fn a_copied_signing_key_is_withdrawn() {
    let database = Database::new();
    let (mut client, _file) = stage(&database);
    let (machine_key, machine) = (key(7), MachineId::derive(b"a machine", VENDOR));
    let document = request(&machine_key, machine, "nonce 1").sign(&machine_key).expect("it is its own key");
    let token: String = one(&mut client, "SELECT entitlements.issue_licence('acme', NULL, request => $1)", &[&document]);
    let issued = licence(&mut client, &token);
    // Who has the key signs the same licence for anybody, on any machine: what is renewed is what was issued.
    let forged = Licence { machine: None, audience: None, holder: Some("thief".to_owned()), ..issued.clone() }.sign(&key(1));
    let renew = "SELECT entitlements.renew_licence($1)";
    let renewed: String = one(&mut client, renew, &[&forged]);
    let renewed = licence(&mut client, &renewed);
    assert_eq!((renewed.machine, renewed.audience, renewed.holder), (issued.machine, issued.audience, issued.holder));

    let kid = key(1).public().kid().to_string();
    let distrust = "SELECT entitlements.distrust_key($1, 'copied')";
    assert!(one::<bool>(&mut client, distrust, &[&kid]));
    assert!(!one::<bool>(&mut client, distrust, &[&kid]));
    assert_eq!(reason(&refused_with(&mut client, "NE013", renew, &[&token])), "distrusted_key");
    let keys =
        |client: &mut Client| one::<Value>(client, "SELECT entitlements.jwks()", &[])["keys"].as_array().map(Vec::len);
    assert_eq!(keys(&mut client), Some(0));
    for sql in ["issue_licence('acme', 'ann')", "export_bundle('site-7')"] {
        let error = refused_with(&mut client, "NE009", &format!("SELECT entitlements.{sql}"), &[]);
        assert!(error.message().contains("distrusted"), "{error:?}");
    }
    let second = KeyFile::new(&database, &key(2));
    second.sign_with(&mut client);
    let fresh = issue(&mut client, "'acme', 'ann'");
    licence(&mut client, &fresh);
    assert_eq!(keys(&mut client), Some(1));
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.verify_audit()", &[]), 0);
}

#[test]
fn many_at_once_never_have_more_licences_than_seats() {
    let database = Database::new();
    let (_client, file) = stage(&database);
    let start = Barrier::new(6);
    let granted: usize = thread::scope(|scope| {
        let ask = |number: usize| {
            let (database, file, start) = (&database, &file, &start);
            scope.spawn(move || {
                let mut client = database.connect();
                file.sign_with(&mut client);
                start.wait();
                let sql = "SELECT entitlements.issue_licence('acme', $1, seat_feature => 'seats')";
                match client.query(sql, &[&format!("holder {}", number % 4)]) {
                    Ok(_) => Some(number % 4),
                    Err(error) => {
                        assert_eq!(error.code().map(|code| code.code().to_owned()), Some("NE002".to_owned()), "{error:?}");
                        None
                    }
                }
            })
        };
        let asking: Vec<_> = (0..6).map(ask).collect();
        asking.into_iter().filter_map(|thread| thread.join().expect("it ends")).collect::<BTreeSet<_>>().len()
    });
    assert_eq!(granted, 2);
}

fn request(key: &PrivateKey, machine: MachineId, nonce: &str) -> LicenceRequest {
    LicenceRequest {
        vendor: VENDOR.to_owned(),
        made_at: date(now()),
        nonce: nonce.to_owned(),
        machine,
        key: key.public().clone(),
        account: "acme".parse().expect("a key"),
        holder: Some("press 4".to_owned()),
        application: Some("editor".to_owned()),
        features: BTreeSet::new(),
    }
}

#[test]
fn a_machine_without_network_asks_once_and_gives_up_once() {
    let database = Database::new();
    let (mut client, _file) = stage(&database);
    let machine_key = key(7);
    let machine = MachineId::derive(b"a machine", VENDOR);
    let mut request = request(&machine_key, machine, "nonce 1");
    let document = request.sign(&machine_key).expect("it is its own key");
    let issue = "SELECT entitlements.issue_licence('acme', NULL, seat_feature => 'seats', request => $1)";
    let token: String = one(&mut client, issue, &[&document]);
    let issued = licence(&mut client, &token);
    let binding = issued.machine.clone().expect("it is bound");
    assert_eq!((binding.machine, binding.nonce.as_deref()), (machine, Some("nonce 1")));
    assert_eq!((issued.holder.as_deref(), issued.audience.as_deref()), (Some("press 4"), Some("editor")));
    refused_with(&mut client, "NE009", issue, &[&document]);
    refused_with(&mut client, "NE007", "SELECT entitlements.issue_licence('other', NULL, request => $1)", &[&document]);
    let mut bytes = document.clone().into_bytes();
    let at = bytes.len() / 2;
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    refused_with(&mut client, "NE013", issue, &[&String::from_utf8(bytes).expect("it is text")]);
    request.vendor = "another".to_owned();
    let error = refused_with(&mut client, "NE013", issue, &[&request.sign(&machine_key)]);
    assert_eq!(reason(&error), "other_audience");
    assert_eq!(holders(&mut client), ["press 4"]);

    let give_up = |key: &PrivateKey| {
        let deactivation = Deactivation {
            vendor: VENDOR.to_owned(),
            made_at: date(now()),
            licence: issued.id.clone(),
            machine,
            key: key.public().clone(),
        };
        deactivation.sign(key).expect("it is its own key")
    };
    let deactivate = "SELECT entitlements.deactivate_licence($1)";
    let error = refused_with(&mut client, "NE013", deactivate, &[&give_up(&key(8))]);
    assert_eq!(reason(&error), "other_machine");
    assert!(one::<bool>(&mut client, deactivate, &[&give_up(&machine_key)]));
    assert!(!one::<bool>(&mut client, deactivate, &[&give_up(&machine_key)]));
    assert!(holders(&mut client).is_empty());
    refused_with(&mut client, "NE013", "SELECT entitlements.renew_licence($1)", &[&token]);
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM entitlements.revoked_licences()", &[]), 1);
}

#[test]
fn a_rotated_key_leaves_what_was_signed_valid() {
    let database = Database::new();
    let (mut client, _first) = stage(&database);
    let token = issue(&mut client, "'acme', 'ann', ttl => '1 day'");
    let second = KeyFile::new(&database, &key(2));
    second.sign_with(&mut client);
    licence(&mut client, &token);
    let renewed: String = one(&mut client, "SELECT entitlements.renew_licence($1)", &[&token]);
    licence(&mut client, &renewed);
    licence(&mut client, &token);
    assert_eq!(one::<Value>(&mut client, "SELECT entitlements.jwks()", &[])["keys"].as_array().map(Vec::len), Some(2));
    run(&mut client, "RESET entitlements.signing_key_file");
    refused_with(&mut client, "NE009", "SELECT entitlements.issue_licence('acme', 'ann')", &[]);
    run(&mut client, "SET entitlements.signing_key_file = '/nonexistent'");
    let error = refused_with(&mut client, "NE009", "SELECT entitlements.issue_licence('acme', 'ann')", &[]);
    assert!(!error.message().contains("/nonexistent"));
    // Another database's licence says nothing here.
    let other = Database::new();
    let (mut elsewhere, _file) = stage(&other);
    refused_with(&mut elsewhere, "NE013", "SELECT entitlements.renew_licence($1)", &[&renewed]);
}

#[test]
fn an_erased_account_leaves_no_names() {
    let database = Database::new();
    let (mut client, _file) = stage(&database);
    issue(&mut client, "'acme', 'ann', seat_feature => 'seats'");
    let exported: Value = one(&mut client, "SELECT entitlements.export_account('acme')", &[]);
    assert_eq!(exported["licences"][0]["holder"], "ann");
    run(&mut client, "SELECT entitlements.erase_account('acme', 'asked for')");
    let kept = row(&mut client, "SELECT holder, revoked_at IS NOT NULL FROM entitlements.licences", &[]);
    assert_eq!((kept.get::<_, &str>(0), kept.get::<_, bool>(1)), ("erased", true));
}

/// A licence file as Keygen makes it, signed with the key.
fn keygen_file(client: &mut Client, key: &PrivateKey, codes: &[&str], issued: i64, expiry: Option<i64>) -> String {
    keygen_file_of("lic-1", client, key, codes, issued, expiry)
}

fn keygen_file_of(
    id: &str,
    client: &mut Client,
    key: &PrivateKey,
    codes: &[&str],
    issued: i64,
    expiry: Option<i64>,
) -> String {
    let time = |client: &mut Client, at: i64| -> String {
        one(client, "SELECT to_char(to_timestamp($1::bigint) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')", &[&at])
    };
    let base64 = |client: &mut Client, bytes: &[u8]| -> String {
        one(client, "SELECT translate(encode($1, 'base64'), E'\\n', '')", &[&bytes])
    };
    let included: Vec<Value> =
        codes.iter().map(|code| serde_json::json!({"type": "entitlements", "attributes": {"code": code}})).collect();
    let (issued, expiry) = (time(client, issued), expiry.map(|expiry| time(client, expiry)));
    let payload = serde_json::json!({
        "data": {"type": "licenses", "id": id, "attributes": {
            "key": "SECRET-KEY", "name": "Pro", "status": "ACTIVE", "expiry": expiry, "metadata": {}}},
        "included": included,
        "meta": {"issued": issued, "expiry": null, "ttl": null},
    });
    let enc = base64(client, payload.to_string().as_bytes());
    let sig = base64(client, &key.sign(format!("license/{enc}").as_bytes()));
    let envelope = serde_json::json!({"enc": enc, "sig": sig, "alg": "base64+ed25519"}).to_string();
    let body = base64(client, envelope.as_bytes());
    format!("-----BEGIN LICENSE FILE-----\n{body}\n-----END LICENSE FILE-----\n")
}

#[test]
fn licence_files_of_keygen_are_taken_over() {
    let database = Database::new();
    let (mut client, _file) = stage(&database);
    let keygen = key(9);
    let file = keygen_file(&mut client, &keygen, &["SSO", "EXPORT"], now() - 60, Some(now() + 86_400));
    let import = "SELECT action, object, name FROM entitlements.import_licence($1, $2)";
    let error = refused_with(&mut client, "NE013", import, &[&file, &"movers"]);
    assert_eq!(reason(&error), "unknown_key");
    let jwk: Value = serde_json::from_str(&keygen.public().to_jwk().to_string()).expect("it is JSON");
    client.execute("SELECT entitlements.trust_key($1, 'keygen:acc-1', 'licence')", &[&jwk]).expect("the key is trusted");
    let changes = |client: &mut Client, file: &str, account: &str| -> Vec<String> {
        let rows = client.query(import, &[&file, &account]).expect("the file is imported");
        rows.iter()
            .map(|row| format!("{} {} {}", row.get::<_, &str>(0), row.get::<_, &str>(1), row.get::<_, &str>(2)))
            .collect()
    };
    let mut first = changes(&mut client, &file, "movers");
    first.sort();
    assert_eq!(first, ["granted override export", "granted override sso"]);
    assert!(changes(&mut client, &file, "movers").is_empty());
    assert!(one::<bool>(&mut client, "SELECT entitlements.entitled('movers', 'sso')", &[]));
    let ends: bool = one(
        &mut client,
        "SELECT bool_and(expires_at < now() + interval '1 day 1 minute' AND source = 'keygen:acc-1:lic-1') FROM entitlements.overrides",
        &[],
    );
    assert!(ends);
    // A newer file takes its place, an older one does not.
    let newer = keygen_file(&mut client, &keygen, &["SSO"], now(), Some(now() + 86_400));
    let newer_changes = changes(&mut client, &newer, "movers");
    assert!(newer_changes.contains(&"ended override export".to_owned()), "{newer_changes:?}");
    assert!(!one::<bool>(&mut client, "SELECT entitlements.entitled('movers', 'export')", &[]));
    assert_eq!(reason(&refused_with(&mut client, "NE013", import, &[&file, &"movers"])), "replayed");
    refused_with(&mut client, "NE009", import, &[&newer, &"others"]);
    // Codes that stand for nothing here are named.
    let unknown = keygen_file(&mut client, &keygen, &["NOWHERE", "CALLS"], now() + 1, None);
    let error = refused_with(&mut client, "NE013", import, &[&unknown, &"movers"]);
    assert!(error.detail().expect("DETAIL").contains("NOWHERE") && error.detail().expect("DETAIL").contains("CALLS"));
    let mapped = "SELECT count(*) FROM entitlements.import_licence($1, 'movers', mapping =>
        '{\"NOWHERE\": null, \"CALLS\": {\"feature\": \"calls\", \"value\": 50}}', plan => 'team')";
    assert_eq!(one::<i64>(&mut client, mapped, &[&unknown]), 3);
    let calls: bool = one(&mut client, "SELECT entitlements.allowance('movers', 'calls') = 50", &[]);
    assert!(calls);
    let plans: i64 =
        one(&mut client, "SELECT count(*) FROM entitlements.subscriptions WHERE source = 'keygen:acc-1:lic-1'", &[]);
    assert_eq!(plans, 1);
    let ended = keygen_file(&mut client, &keygen, &["SSO"], now() + 2, Some(now() - 10));
    assert_eq!(reason(&refused_with(&mut client, "NE013", import, &[&ended, &"movers"])), "expired");
}

#[test]
fn two_licences_of_keygen_are_no_ones_but_their_own() {
    let database = Database::new();
    let (mut client, _file) = stage(&database);
    let keygen = key(9);
    let jwk: Value = serde_json::from_str(&keygen.public().to_jwk().to_string()).expect("it is JSON");
    client.execute("SELECT entitlements.trust_key($1, 'keygen:acc-1', 'licence')", &[&jwk]).expect("the key is trusted");
    let long = keygen_file_of("lic-1", &mut client, &keygen, &["SSO"], now() - 60, Some(now() + 900 * 86_400));
    let short = keygen_file_of("lic-2", &mut client, &keygen, &["SSO", "EXPORT"], now() - 50, Some(now() + 86_400));
    let import = "SELECT count(*) FROM entitlements.import_licence($1, 'movers', mapping =>
        '{\"SSO\": \"sso\", \"EXPORT\": \"export\", \"LOGIN\": \"sso\"}')";
    assert_eq!(one::<i64>(&mut client, import, &[&long]), 1);
    assert_eq!(one::<i64>(&mut client, import, &[&short]), 2);
    assert_eq!(one::<i64>(&mut client, import, &[&long]), 0);
    let lasts = "SELECT max(expires_at) > now() + interval '899 days' FROM entitlements.overrides WHERE ended_at IS NULL";
    assert!(one::<bool>(&mut client, lasts, &[]));
    // One drops what the other still grants; and several codes for a feature are one.
    let fewer = keygen_file_of("lic-2", &mut client, &keygen, &["EXPORT"], now() - 40, Some(now() + 86_400));
    one::<i64>(&mut client, import, &[&fewer]);
    assert!(one::<bool>(&mut client, "SELECT entitlements.entitled('movers', 'sso')", &[]));
    let several =
        keygen_file_of("lic-1", &mut client, &keygen, &["SSO", "EXPORT", "LOGIN"], now() - 30, Some(now() + 86_400));
    assert_eq!(one::<i64>(&mut client, import, &[&several]), 2);
    assert_eq!(one::<i64>(&mut client, import, &[&several]), 0);
}
