//! Encrypting and decrypting documents on their way.

use std::path::PathBuf;

use clap::Args;
use entitlements_bundle::{BUNDLE_LIMITS, most_bytes, seal};

use crate::failure::Failure;
use crate::files;

#[derive(Args)]
pub struct Encrypt {
    /// Who will be able to read it, age1…; may be given several times
    #[arg(long, required = true)]
    recipient: Vec<String>,
    /// Where to write it; without it, to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The document
    #[arg(value_name = "FILE")]
    document: PathBuf,
}

impl Encrypt {
    pub fn run(self) -> Result<(), Failure> {
        let sealed = seal::seal(files::read(&self.document)?.trim_ascii_end(), &self.recipient)?;
        files::write(self.output.as_deref(), sealed.trim_ascii_end())
    }
}

#[derive(Args)]
pub struct Decrypt {
    /// The identity file, as keygen --encryption or age-keygen makes it
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
    /// Where to write the document; without it, to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The encrypted document
    #[arg(value_name = "FILE")]
    document: PathBuf,
}

impl Decrypt {
    pub fn run(self) -> Result<(), Failure> {
        let identities = files::read_secret(&self.identity)?;
        // With room for the line feed at the end of a file.
        let most = most_bytes(BUNDLE_LIMITS.bytes) + 2;
        let document = seal::open(&files::read_bytes(&self.document)?, &identities, most)?;
        files::write(self.output.as_deref(), document.trim_ascii_end())
    }
}
