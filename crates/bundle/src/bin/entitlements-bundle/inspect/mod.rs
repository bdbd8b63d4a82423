//! What a document says, for people: also one that nobody vouches for, and then it says so first.

mod bundle;
mod delegation;
mod licence;
mod machine;
mod usage;

use std::path::PathBuf;

use clap::Args;
use entitlements_bundle::{
    Bundle, DEACTIVATION_TYPE, DELEGATION_RETURN_TYPE, Deactivation, DelegationReturn, Document, Jws, Kid,
    LICENCE_REQUEST_TYPE, LICENCE_TYPE, Licence, LicenceRequest, REQUEST_LIMITS, Received, Refusal, USAGE_REPORT_TYPE,
    UsageReport, authenticate_as, claimed_type,
};
use entitlements_model::fault::Fault;
use entitlements_model::json::Json;

use crate::failure::Failure;
use crate::files;
use crate::plain::Plain;

#[derive(Args)]
pub struct Inspect {
    /// A public key that is trusted: a JWK or a JWK set; without one, the signature is not checked
    #[arg(long, value_name = "FILE", requires = "issuer")]
    trust: Vec<PathBuf>,
    /// The issuer whose documents these keys sign
    #[arg(long, requires = "trust")]
    issuer: Option<String>,
    /// List every account with its subscriptions and overrides, and every row of a usage report
    #[arg(long)]
    accounts: bool,
    /// The bundle, licence, usage report, return of a delegation, request or deactivation
    #[arg(value_name = "FILE")]
    document: PathBuf,
}

/// A document for people, and for programs.
trait Shown {
    /// `all` also lists what there may be much of.
    fn lines(&self, kid: Kid, all: bool) -> Vec<String>;

    fn claims(&self) -> Json;
}

impl Inspect {
    pub fn run(self, json: bool) -> Result<(), Failure> {
        let text = files::read(&self.document)?;
        match claimed_type(&text).as_deref() {
            Ok(LICENCE_TYPE) => self.signed_by_others::<Licence>(&text, json),
            Ok(USAGE_REPORT_TYPE) => self.signed_by_others::<UsageReport>(&text, json),
            Ok(DELEGATION_RETURN_TYPE) => self.signed_by_others::<DelegationReturn>(&text, json),
            Ok(LICENCE_REQUEST_TYPE) => {
                let open = |text: &str, request: &LicenceRequest| LicenceRequest::open(text, &request.vendor);
                self.signed_by_itself(&text, LICENCE_REQUEST_TYPE, LicenceRequest::parse, open, json)
            }
            Ok(DEACTIVATION_TYPE) => {
                let open = |text: &str, given_up: &Deactivation| Deactivation::open(text, &given_up.vendor);
                self.signed_by_itself(&text, DEACTIVATION_TYPE, Deactivation::parse, open, json)
            }
            _ => self.signed_by_others::<Bundle>(&text, json),
        }
    }

    /// Shows what can be read; fails after that when keys were given and none of them signed it.
    fn signed_by_others<D: Document + Shown>(&self, text: &str, json: bool) -> Result<(), Failure> {
        let jws = Jws::parse(text, D::TYPE, D::LIMITS.bytes).map_err(Refusal::from)?;
        let refusal = match &self.issuer {
            Some(issuer) => authenticate_as::<D>(text, &files::read_trust(&self.trust, issuer, D::PURPOSE)?).err(),
            None => None,
        };
        let trusted = self.issuer.is_some() && refusal.is_none();
        let document = D::parse(jws.unverified_payload()).map_err(Refusal::Invalid)?;
        let first = match (trusted, &refusal) {
            (true, _) => format!("SIGNED with the trusted key {}", jws.kid()),
            (false, Some(refusal)) => format!("UNTRUSTED: {refusal}"),
            (false, None) => "UNTRUSTED: the signature was not checked, anybody may have written this".into(),
        };
        self.show(&document, first, trusted, jws.kid(), json)?;
        refusal.map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    /// A machine's document brings its own key: the signature is checked, and proves only that one machine made it.
    fn signed_by_itself<D: Shown>(
        &self,
        text: &str,
        typ: &'static str,
        parse: fn(&[u8]) -> Result<D, Vec<Fault>>,
        open: impl Fn(&str, &D) -> Result<Received<D>, Refusal>,
        json: bool,
    ) -> Result<(), Failure> {
        let jws = Jws::parse(text, typ, REQUEST_LIMITS.bytes).map_err(Refusal::from)?;
        let document = parse(jws.unverified_payload()).map_err(Refusal::Invalid)?;
        let refusal = open(text, &document).err();
        let first = match &refusal {
            Some(refusal) => format!("UNTRUSTED: {refusal}"),
            None => "UNTRUSTED: signed with the key it brings itself, any machine may have written this".into(),
        };
        self.show(&document, first, false, jws.kid(), json)?;
        refusal.map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    fn show(&self, document: &impl Shown, first: String, trusted: bool, kid: Kid, json: bool) -> Result<(), Failure> {
        if json {
            let answer = Json::object([
                ("trusted", Json::Bool(trusted)),
                ("kid", Json::string(kid.to_string())),
                ("claims", document.claims()),
            ]);
            return files::write(None, &answer.to_string());
        }
        let lines = [first].into_iter().chain(document.lines(kid, self.accounts));
        let lines: Vec<String> = lines.map(|line| Plain(&line).to_string()).collect();
        files::write(None, &lines.join("\n"))
    }
}

fn row(name: &str, value: impl std::fmt::Display) -> String {
    format!("{name:<12}{value}")
}

fn seconds(seconds: i64) -> String {
    match (seconds, seconds % 86_400) {
        (0, _) => "none".into(),
        (_, 0) => format!("{} d", seconds / 86_400),
        _ => format!("{seconds} s"),
    }
}
