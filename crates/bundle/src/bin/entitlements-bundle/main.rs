//! `entitlements-bundle`: makes keys, signs bundles, licences and usage reports, verifies them and
//! shows what they say.
//!
//! Exit status: 0 done, 1 refused, invalid or not possible, 2 wrong usage. Results go to standard output, everything else to
//! standard error; with `--json` both are one JSON object. A private key is written to a new file that only its owner can
//! read, and never printed.

#![forbid(unsafe_code)]

mod convert;
mod encryption;
mod failure;
mod files;
mod inspect;
mod keygen;
mod licence;
mod plain;
mod pricing;
mod sign;
mod verify;
mod yaml;

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};
use entitlements_bundle::NumericDate;

/// Keys, signatures and content of entitlements bundles, licences and usage reports.
///
/// Exit status: 0 done, 1 refused, invalid or not possible, 2 wrong usage. FILE may be - for standard input.
#[derive(Parser)]
#[command(name = "entitlements-bundle", version, arg_required_else_help = true)]
struct Arguments {
    /// Answer with JSON: the result on standard output, an error on standard error
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a key pair for signing or for encryption
    Keygen(keygen::Keygen),
    /// Check the claims of a bundle, a licence or a usage report and sign them
    Sign(sign::Sign),
    /// Say whether a bundle, a licence or a usage report would be accepted, and what it would mean there
    Verify(verify::Verify),
    /// Show what a document says, trusted or not
    Inspect(inspect::Inspect),
    /// Ask for a licence for a machine without a network, or give one up
    Licence(licence::LicenceCommand),
    /// Encrypt a bundle, or any text, with age
    Encrypt(encryption::Encrypt),
    /// Decrypt what was encrypted with age
    Decrypt(encryption::Decrypt),
    /// Turn a catalog written in YAML, or a Pricing2Yaml file, into a catalog document
    Convert(convert::Convert),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Keygen(keygen) => keygen.run(arguments.json),
        Command::Sign(sign) => sign.run(arguments.json),
        Command::Verify(verify) => verify.run(arguments.json),
        Command::Inspect(inspect) => inspect.run(arguments.json),
        Command::Licence(licence) => licence.run(),
        Command::Encrypt(encrypt) => encrypt.run(),
        Command::Decrypt(decrypt) => decrypt.run(),
        Command::Convert(convert) => convert.run(arguments.json),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(arguments.json);
            ExitCode::FAILURE
        }
    }
}

fn now() -> NumericDate {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).ok().and_then(NumericDate::from_seconds).unwrap_or(NumericDate::LAST)
}
