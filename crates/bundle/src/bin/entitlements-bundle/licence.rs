//! What a machine without a network writes: a request for a licence, and that it gave one up.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use entitlements_bundle::{Deactivation, Jws, LICENCE_LIMITS, LICENCE_TYPE, Licence, LicenceRequest, Refusal, base64url};
use entitlements_model::key::{AccountKey, FeatureKey};

use crate::failure::Failure;
use crate::files;
use crate::now;

#[derive(Args)]
pub struct LicenceCommand {
    #[command(subcommand)]
    command: MachineCommand,
}

#[derive(Subcommand)]
enum MachineCommand {
    /// Ask a vendor for a licence for this machine
    Request(Request),
    /// Tell the vendor that this machine no longer uses its licence
    Deactivate(Deactivate),
}

impl LicenceCommand {
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            MachineCommand::Request(request) => request.run(),
            MachineCommand::Deactivate(deactivate) => deactivate.run(),
        }
    }
}

#[derive(Args)]
struct Request {
    /// The private key of this machine, as keygen makes it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// What tells this machine from all others; only a digest of it is sent
    #[arg(long, value_name = "FILE", default_value = "/etc/machine-id")]
    machine: PathBuf,
    /// The vendor that is asked, by its name as an issuer
    #[arg(long)]
    issuer: String,
    /// The account whose licence it will be
    #[arg(long)]
    account: AccountKey,
    /// Who or what will hold the licence
    #[arg(long)]
    holder: Option<String>,
    /// The application that the licence is for
    #[arg(long, value_name = "NAME")]
    application: Option<String>,
    /// A feature that is wanted; may be given several times. Without one, all that the account has
    #[arg(long)]
    feature: Vec<FeatureKey>,
    /// Where to write the request; without it, to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Request {
    fn run(self) -> Result<(), Failure> {
        let key = files::read_private_key(&self.key)?;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| Failure::no_entropy(&error.to_string()))?;
        let request = LicenceRequest {
            machine: files::read_machine(&self.machine, &self.issuer)?,
            vendor: self.issuer,
            made_at: now(),
            nonce: base64url::encode(&nonce),
            key: key.public().clone(),
            account: self.account,
            holder: self.holder,
            application: self.application,
            features: self.feature.into_iter().collect(),
        };
        LicenceRequest::parse(request.to_json().to_string().as_bytes())
            .map_err(|faults| Failure::invalid("the request", faults))?;
        let document = request.sign(&key).ok_or(Refusal::OtherMachine)?;
        files::write(self.output.as_deref(), &document)
    }
}

#[derive(Args)]
struct Deactivate {
    /// The private key of this machine, with which it asked for the licence
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where to write the deactivation; without it, to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The licence
    #[arg(value_name = "FILE")]
    licence: PathBuf,
}

impl Deactivate {
    /// Who signed the licence does not matter: the vendor knows which ones it issued.
    fn run(self) -> Result<(), Failure> {
        let key = files::read_private_key(&self.key)?;
        let text = files::read(&self.licence)?;
        let jws = Jws::parse(&text, LICENCE_TYPE, LICENCE_LIMITS.bytes).map_err(Refusal::from)?;
        let licence = Licence::parse(jws.unverified_payload()).map_err(Refusal::Invalid)?;
        let binding = licence.machine.ok_or(Refusal::OtherMachine)?;
        let deactivation = Deactivation {
            vendor: licence.issuer,
            made_at: now(),
            licence: licence.id,
            machine: binding.machine,
            key: key.public().clone(),
        };
        deactivation.is_of(&deactivation.licence, &binding)?;
        let document = deactivation.sign(&key).ok_or(Refusal::OtherMachine)?;
        files::write(self.output.as_deref(), &document)
    }
}
