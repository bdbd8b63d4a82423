//! Running the extension: what has to be done from time to time.

mod maintain;
