//! The library from outside, as the extension and the command-line tool use it.

mod claims;
mod document;
mod policy;
mod seal;
mod standing;
mod vectors;
mod vendor;
