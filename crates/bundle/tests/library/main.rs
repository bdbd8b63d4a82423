//! The library from outside, as the extension and the command-line tool use it.

mod claims;
mod delegation;
mod document;
mod keygen_file;
mod licence;
mod machine;
mod policy;
mod seal;
mod standing;
mod usage;
mod vectors;
mod vendor;
