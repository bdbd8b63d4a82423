//! Verifies a licence with jsonwebtoken and prints the features it grants.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;

const TYPE: &str = "entitlements-licence+jwt";
const LEEWAY: u64 = 300;

#[derive(Deserialize)]
struct Licence {
    iss: String,
    aud: Option<String>,
    iat: u64,
    nbf: Option<u64>,
    exp: u64,
    features: BTreeMap<String, Value>,
    machine: Option<Machine>,
}

#[derive(Deserialize)]
struct Machine {
    id: String,
}

/// Where and when a licence is shown.
struct Place {
    issuer: String,
    audience: Option<String>,
    machine: Option<String>,
    now: u64,
}

/// The claims of a licence that holds at this place; else a word that says why it does not.
fn verify(token: &str, keys: &JwkSet, place: &Place) -> Result<Licence, &'static str> {
    let header = decode_header(token).map_err(|_| "malformed")?;
    if header.typ.as_deref() != Some(TYPE) {
        return Err("malformed");
    }
    let key = header.kid.and_then(|kid| keys.find(&kid)).ok_or("unknown_key")?;
    let key = DecodingKey::from_jwk(key).map_err(|_| "unknown_key")?;
    // The times are judged below: the library knows no other now than the clock's.
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.validate_exp = false;
    validation.validate_aud = false;
    let licence = decode::<Licence>(token, &key, &validation).map_err(|error| match error.kind() {
        ErrorKind::InvalidSignature => "bad_signature",
        _ => "malformed",
    })?;
    let licence = licence.claims;
    if licence.iss != place.issuer {
        return Err("other_issuer");
    }
    if licence.aud.is_some() && licence.aud != place.audience {
        return Err("other_audience");
    }
    if licence.machine.as_ref().is_some_and(|machine| place.machine.as_ref() != Some(&machine.id)) {
        return Err("other_machine");
    }
    if licence.iat.max(licence.nbf.unwrap_or(0)) > place.now + LEEWAY {
        return Err("not_yet_valid");
    }
    if licence.exp <= place.now { Err("expired") } else { Ok(licence) }
}

fn main() -> ExitCode {
    let mut options = BTreeMap::new();
    let mut file = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.strip_prefix("--") {
            Some(option) => {
                let (name, value) = match option.split_once('=') {
                    Some((name, value)) => (name, value.to_owned()),
                    None => (option, arguments.next().unwrap_or_default()),
                };
                options.insert(name.to_owned(), value);
            }
            None => file = Some(argument),
        }
    }
    let (Some(jwks), Some(issuer), Some(file)) = (options.remove("jwks"), options.remove("issuer"), file) else {
        eprintln!("usage: verify --jwks FILE --issuer NAME [--audience NAME] [--machine=DIGEST] [--at SECONDS] FILE");
        return ExitCode::from(2);
    };
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    let place = Place {
        issuer,
        audience: options.remove("audience"),
        machine: options.remove("machine"),
        now: options.remove("at").map_or(clock, |at| at.parse().expect("--at is a number of seconds")),
    };
    let keys = std::fs::read_to_string(jwks).expect("the key set can be read");
    let keys: JwkSet = serde_json::from_str(&keys).expect("the key set is one");
    let token = std::fs::read_to_string(file).expect("the licence can be read");
    match verify(token.trim(), &keys, &place) {
        Ok(licence) => {
            println!("{}", serde_json::to_string(&licence.features).expect("it was JSON"));
            ExitCode::SUCCESS
        }
        Err(word) => {
            eprintln!("{word}");
            ExitCode::FAILURE
        }
    }
}
