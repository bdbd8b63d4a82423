//! Reading and writing files; `-` is standard input or output.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use entitlements_bundle::{MachineId, PrivateKey, PublicKey, Purpose, TrustSet, TrustedKey};
use entitlements_model::time::{BEGINNING, FOREVER};
use zeroize::Zeroizing;

use crate::failure::Failure;

/// Bytes of the greatest file that is read; a bundle of the greatest size, signed, has fewer.
const MOST: u64 = 400 << 20;

/// The text of a file. One that is too large is refused without reading it to its end.
pub fn read(path: &Path) -> Result<String, Failure> {
    let not_text = |_| Failure::file(path, &io::Error::other("not text in UTF-8"));
    String::from_utf8(read_bytes(path)?).map_err(not_text)
}

pub fn read_bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let source: io::Result<Box<dyn Read>> = match path.as_os_str() == "-" {
        true => Ok(Box::new(io::stdin())),
        false => File::open(path).map(|file| Box::new(file) as Box<dyn Read>),
    };
    let read = source.and_then(|source| source.take(MOST + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 <= MOST => Ok(bytes),
        Ok(_) => Err(Failure::file(path, &io::Error::other(format!("more than {MOST} bytes are not read")))),
        Err(error) => Err(Failure::file(path, &error)),
    }
}

/// Writes a result and a line feed; without a path, to standard output.
pub fn write(path: Option<&Path>, text: &str) -> Result<(), Failure> {
    let path = path.unwrap_or(Path::new("-"));
    let written = match path.as_os_str() == "-" {
        true => writeln!(io::stdout(), "{text}"),
        false => File::create(path).and_then(|mut file| writeln!(file, "{text}")),
    };
    written.map_err(|error| Failure::file(path, &error))
}

/// Writes a secret to a new file that only its owner can read. A file that exists is left as it is.
pub fn write_secret(path: &Path, text: &str) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(path).and_then(|mut file| {
        writeln!(file, "{text}")?;
        file.sync_all()
    });
    written.map_err(|error| Failure::file(path, &error))
}

/// The text of a private key, wiped from memory when dropped; warns when other users can read it too.
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, Failure> {
    warn_if_others_can_read(path);
    read(path).map(Zeroizing::new)
}

pub fn read_private_key(path: &Path) -> Result<PrivateKey, Failure> {
    let text = read_secret(path)?;
    PrivateKey::from_jwk(&text).map_err(|error| Failure::key(path, error))
}

#[cfg(unix)]
fn warn_if_others_can_read(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o077 != 0) {
        eprintln!("warning: {} is open to other users; chmod 600 closes it", path.display());
    }
}

#[cfg(not(unix))]
fn warn_if_others_can_read(_: &Path) {}

pub fn read_public_key(path: &Path) -> Result<PublicKey, Failure> {
    PublicKey::from_jwk(&read(path)?).map_err(|error| Failure::key(path, error))
}

/// Which machine this is to an issuer. White space around what is in the file is no part of it: files end in a line feed.
pub fn read_machine(path: &Path, issuer: &str) -> Result<MachineId, Failure> {
    let identity = read_bytes(path)?;
    match identity.trim_ascii() {
        [] => Err(Failure::file(path, &io::Error::other("is empty: it tells no machine from another"))),
        identity => Ok(MachineId::derive(identity, issuer)),
    }
}

/// The keys in these files, each a public JWK or a JWK set, trusted for one issuer's documents of one kind.
pub fn read_trust(paths: &[impl AsRef<Path>], issuer: &str, purpose: Purpose) -> Result<TrustSet, Failure> {
    let mut keys = Vec::new();
    for path in paths {
        let path = path.as_ref();
        keys.extend(PublicKey::set_from_jwk(&read(path)?).map_err(|error| Failure::key(path, error))?);
    }
    let trusted = |key| TrustedKey {
        key,
        issuer: issuer.to_owned(),
        purpose,
        not_before: BEGINNING,
        not_after: FOREVER,
        distrusted: false,
    };
    Ok(keys.into_iter().map(trusted).collect())
}
