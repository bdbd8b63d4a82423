//! Why a token is refused, in words that a program can tell apart. They say nothing of the token's content.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Not three parts of canonical base64url, not strict JSON, or too long.
    Malformed,
    /// A member of the header that would change how the token is to be read, or one that is missing or of another type.
    Header,
    /// Another algorithm than the key's.
    Algorithm,
    /// No key of this name is trusted for session tokens now.
    UnknownKey,
    BadSignature,
    WrongIssuer,
    WrongAudience,
    Expired,
    NotYetValid,
    /// A claim that is needed is missing or of another type.
    Claim,
    /// The token is valid and names an account that there is not.
    UnknownAccount,
}

impl Refusal {
    pub const ALL: [Refusal; 11] = [
        Self::Malformed,
        Self::Header,
        Self::Algorithm,
        Self::UnknownKey,
        Self::BadSignature,
        Self::WrongIssuer,
        Self::WrongAudience,
        Self::Expired,
        Self::NotYetValid,
        Self::Claim,
        Self::UnknownAccount,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Header => "header",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::BadSignature => "bad_signature",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Claim => "claim",
            Self::UnknownAccount => "unknown_account",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "it is not a JSON Web Token in compact serialisation of at most 16 kB",
            Self::Header => "its header lacks what is needed, or has a member that is not allowed",
            Self::Algorithm => "it is not signed with the algorithm of its key",
            Self::UnknownKey => "its key is not trusted for session tokens",
            Self::BadSignature => "its signature is wrong",
            Self::WrongIssuer => "it is not from the issuer of its key",
            Self::WrongAudience => "it is for another audience",
            Self::Expired => "it has expired",
            Self::NotYetValid => "it is not valid yet",
            Self::Claim => "a claim that is needed is missing or of the wrong type",
            Self::UnknownAccount => "there is no account with the key that it names",
        })
    }
}
