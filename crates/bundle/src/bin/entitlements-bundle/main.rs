//! `entitlements-bundle`: makes keys, signs bundles, verifies them and shows what they say.
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
mod plain;
mod sign;
mod verify;
mod yaml;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Keys, signatures and content of entitlements bundles.
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
    /// Check the claims of a bundle and sign them
    Sign(sign::Sign),
    /// Say whether a database would accept a bundle, and what it would mean there
    Verify(verify::Verify),
    /// Show what a bundle says, trusted or not
    Inspect(inspect::Inspect),
    /// Encrypt a bundle, or any text, with age
    Encrypt(encryption::Encrypt),
    /// Decrypt what was encrypted with age
    Decrypt(encryption::Decrypt),
    /// Turn a catalog written in YAML into a catalog document
    Convert(convert::Convert),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Keygen(keygen) => keygen.run(arguments.json),
        Command::Sign(sign) => sign.run(arguments.json),
        Command::Verify(verify) => verify.run(arguments.json),
        Command::Inspect(inspect) => inspect.run(arguments.json),
        Command::Encrypt(encrypt) => encrypt.run(),
        Command::Decrypt(decrypt) => decrypt.run(),
        Command::Convert(convert) => convert.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(arguments.json);
            ExitCode::FAILURE
        }
    }
}
