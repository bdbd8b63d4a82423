//! How much the form of a document costs beyond its signature: verifications a second by this crate, from the text to the bytes of
//! the claims, as a share of those by ed25519-dalek alone over the same bytes. Part of `bench/run bundles`.

use ed25519_dalek::{Signer, SigningKey};
use entitlements_bundle::{BUNDLE_LIMITS, BUNDLE_TYPE, Jws, PrivateKey, base64url};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Rounds, in which both take turns.
const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(200);

fn rate(mut verify: impl FnMut()) -> f64 {
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < ROUND {
        verify();
        count += 1;
    }
    f64::from(count) / began.elapsed().as_secs_f64()
}

fn main() {
    let seed = [7; 32];
    let (ours, bare) = (PrivateKey::from_seed(&seed).public().clone(), SigningKey::from_bytes(&seed));
    println!("| size of the claims | ours / bare verification, median of {ROUNDS} | target |\n| ---: | ---: | ---: |");
    for size in [1_000, 10_000, 1_000_000] {
        let header = format!(r#"{{"alg":"EdDSA","kid":"{}","typ":"{BUNDLE_TYPE}"}}"#, ours.kid());
        let claims = format!(r#"{{"claims":"{}"}}"#, "x".repeat(size));
        let input = format!("{}.{}", base64url::encode(header.as_bytes()), base64url::encode(claims.as_bytes()));
        let signature = bare.sign(input.as_bytes());
        let document = format!("{input}.{}", base64url::encode(&signature.to_bytes()));
        let key = bare.verifying_key();
        let mut ratios: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let whole = rate(|| {
                    let jws = Jws::parse(black_box(document.as_str()), BUNDLE_TYPE, BUNDLE_LIMITS.bytes)
                        .expect("the form is right");
                    black_box(jws.verify(&ours).expect("the signature is right"));
                });
                let alone =
                    rate(|| key.verify_strict(black_box(input.as_bytes()), &signature).expect("the signature is right"));
                whole / alone
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        println!("| {size} | {:.2} | 0.8 |", ratios[ROUNDS / 2]);
    }
}
