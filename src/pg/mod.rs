//! All contact with the server that Rust cannot check: the only place of `unsafe` and of `pg_sys`.
//!
//! Each module wraps one thing of the server in an interface that safe code cannot misuse, and says in a SAFETY line why each
//! block is sound. Everything runs on the backend's one thread.

pub mod arguments;
pub mod backend;
mod btree;
pub mod callbacks;
pub mod change;
pub mod change_mark;
pub mod cluster;
pub mod composite;
pub mod encoding;
pub mod entry;
pub mod error;
pub mod jsonb;
pub mod latch;
pub mod number;
pub mod owner;
mod page;
mod probe;
pub mod relations;
pub mod rows;
pub mod scan;
pub mod session;
pub mod settings;
pub mod shared_memory;
pub mod snapshot;
pub mod subtransaction;
pub mod support;
pub mod table;
pub mod time_zone;
pub mod trigger;
mod unguarded;
pub mod values;
mod visibility;
pub mod whereabouts;

/// The number by which the server knows an object.
pub use pgrx::pg_sys::Oid;
