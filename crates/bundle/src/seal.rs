//! Encryption of documents on their way, with age (X25519): only the holder of an identity reads them.
//!
//! Encryption hides, it vouches for nothing: anybody can encrypt to a recipient. What comes out of [`open`] is text from a
//! stranger until [`authenticate`](crate::authenticate) says otherwise. What a file may cost is bounded before it is decrypted.

use std::cell::Cell;
use std::io::{self, Read, Write};

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::secrecy::ExposeSecret;
use age::x25519::{Identity, Recipient};
use age::{Decryptor, Encryptor};
use zeroize::Zeroizing;

/// Most recipients of a document. Each has a stanza of about 100 bytes in the header.
const MAX_RECIPIENTS: usize = 64;

/// Bytes of the header. Reading one that does not end takes time with the square of this.
const HEADER_BYTES: u64 = 8 << 10;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("{0} is not a recipient of age, which starts with age1")]
    Recipient(String),
    #[error("a document is encrypted to 1 to {MAX_RECIPIENTS} recipients, not to {0}")]
    Recipients(usize),
    #[error("the identity is not one of age, a line that starts with AGE-SECRET-KEY-1")]
    Identity,
    #[error("the document is not encrypted to any of these identities")]
    OtherRecipient,
    #[error("the document is not a sound file of age: {0}")]
    Damaged(String),
    #[error("the document has more than {0} bytes")]
    TooLarge(usize),
    #[error("the document is not text in UTF-8")]
    NotText,
}

/// A new identity, as a line of an identity file, and the recipient that others encrypt to.
pub fn generate_identity() -> (Zeroizing<String>, String) {
    let identity = Identity::generate();
    (Zeroizing::new(identity.to_string().expose_secret().to_owned()), identity.to_public().to_string())
}

/// Encrypts to each of these recipients; armoured, so that it travels as text.
pub fn seal(document: &str, recipients: &[impl AsRef<str>]) -> Result<String, SealError> {
    let read = |text: &str| text.parse().map_err(|_| SealError::Recipient(text.to_owned()));
    let recipients = recipients.iter().map(|text| read(text.as_ref())).collect::<Result<Vec<Recipient>, _>>()?;
    let count = recipients.len();
    if count > MAX_RECIPIENTS {
        return Err(SealError::Recipients(count));
    }
    let encryptor = Encryptor::with_recipients(recipients.iter().map(|recipient| recipient as &dyn age::Recipient))
        .map_err(|_| SealError::Recipients(count))?;
    let written = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor).and_then(|armour| {
        let mut stream = encryptor.wrap_output(armour)?;
        stream.write_all(document.as_bytes())?;
        stream.finish()?.finish()
    });
    let bytes = written.map_err(damaged)?;
    String::from_utf8(bytes).map_err(|_| SealError::NotText)
}

/// Decrypts a file, armoured or not, with the identities of an identity file. More than `most` bytes are not read.
pub fn open(sealed: &[u8], identities: &str, most: usize) -> Result<String, SealError> {
    let identities = read_identities(identities)?;
    let left = Cell::new(HEADER_BYTES);
    let input = Bounded { input: ArmoredReader::new(sealed), left: &left };
    let decryptor = Decryptor::new(input).map_err(|error| SealError::Damaged(error.to_string()))?;
    left.set(u64::MAX);
    let stream = decryptor.decrypt(identities.iter().map(|identity| identity as &dyn age::Identity));
    let stream = stream.map_err(|error| match error {
        age::DecryptError::NoMatchingKeys => SealError::OtherRecipient,
        error => SealError::Damaged(error.to_string()),
    })?;
    let mut document = Vec::new();
    stream.take(most as u64 + 1).read_to_end(&mut document).map_err(damaged)?;
    if document.len() > most {
        return Err(SealError::TooLarge(most));
    }
    String::from_utf8(document).map_err(|_| SealError::NotText)
}

/// The lines of an identity file; empty lines and those that start with # say nothing.
fn read_identities(text: &str) -> Result<Vec<Identity>, SealError> {
    let lines = text.lines().map(str::trim_ascii).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let identities: Vec<Identity> = lines.map(str::parse).collect::<Result<_, _>>().map_err(|_| SealError::Identity)?;
    if identities.is_empty() { Err(SealError::Identity) } else { Ok(identities) }
}

fn damaged(error: io::Error) -> SealError {
    SealError::Damaged(error.to_string())
}

/// A header is read again from its start until its end has come; so it has to end soon.
struct Bounded<'c, R> {
    input: R,
    left: &'c Cell<u64>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            return Err(io::Error::other(format!("its header has more than {HEADER_BYTES} bytes")));
        }
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.input.read(&mut buffer[..room])?;
        self.left.set(left - read as u64);
        Ok(read)
    }
}
