//! A document as it arrives: text or bytes, plain or encrypted with age.

use crate::error::{Error, RefusedBundle};
use crate::pg::settings;
use entitlements_bundle::seal::{self, SealError};
use entitlements_bundle::{BUNDLE_LIMITS, most_bytes};
use std::borrow::Cow;
use std::fs;

/// What files of age begin with, as they are and armoured.
const SEALED: [&[u8]; 2] = [b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE-----"];

fn refused(reason: &'static str, message: impl Into<String>) -> Error {
    Error::BundleRefused(Box::new(RefusedBundle::new(reason, message, Vec::new())))
}

/// Most bytes of a document, with room for the line feed at the end of a file.
const MOST: usize = most_bytes(BUNDLE_LIMITS.bytes) + 2;

/// Most bytes of one that is encrypted: a header, 16 bytes for each 64 KiB, and armour that makes lines of 66 bytes of 48.
const MOST_SEALED: usize = (MOST + MOST / 4096 + (64 << 10)) / 48 * 66;

/// The text of the signed document. What is too large for one is refused before anything reads it.
pub fn open(document: &[u8]) -> Result<Cow<'_, str>, Error> {
    let too_large = |most: usize| {
        let message = format!("the document has {} bytes, more than {most} are not read", document.len());
        Err(refused("too_large", message))
    };
    if document.len() > MOST_SEALED {
        return too_large(MOST_SEALED);
    }
    let is_sealed = SEALED.iter().any(|start| document.trim_ascii_start().starts_with(start));
    if is_sealed {
        return unseal(document).map(Cow::Owned);
    }
    if document.len() > MOST {
        return too_large(MOST);
    }
    match std::str::from_utf8(document.trim_ascii()) {
        Ok(text) => Ok(Cow::Borrowed(text)),
        Err(_) => Err(refused("malformed", "the document is not text in UTF-8")),
    }
}

fn unseal(document: &[u8]) -> Result<String, Error> {
    let Some(file) = settings::age_identity_file() else {
        return Err(refused("no_identity", "the document is encrypted, and entitlements.age_identity_file is not set"));
    };
    let identities = read_secret(&file, "entitlements.age_identity_file")?;
    let opened = seal::open(document, &identities, MOST);
    let text = opened.map_err(|error| match error {
        SealError::OtherRecipient => refused("other_recipient", error.to_string()),
        SealError::Identity => Error::Conflict {
            message: "the file that entitlements.age_identity_file names has no identity of age".to_owned(),
            hint: "entitlements-bundle keygen --encryption, or age-keygen, makes one.".to_owned(),
        },
        SealError::TooLarge(_) => refused("too_large", error.to_string()),
        error => refused("malformed", error.to_string()),
    })?;
    Ok(text.trim_ascii().to_owned())
}

/// Most bytes of a file with a secret.
const SECRET_BYTES: u64 = 64 << 10;

/// The file that a superuser's setting names. Its content appears in no message.
pub fn read_secret(file: &str, setting: &str) -> Result<String, Error> {
    let unreadable = |fault: String| Error::Conflict {
        message: format!("the file that {setting} names cannot be read: {fault}"),
        hint: "The server's operating system user needs to be able to read it, and nobody else.".to_owned(),
    };
    let size = fs::metadata(file).map_err(|error| unreadable(error.to_string()))?.len();
    if size > SECRET_BYTES {
        return Err(unreadable(format!("it has more than {SECRET_BYTES} bytes")));
    }
    fs::read_to_string(file).map_err(|error| unreadable(error.kind().to_string()))
}
