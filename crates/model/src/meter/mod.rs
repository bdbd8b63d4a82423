//! The arithmetic of metering: when a window turns, how a pool spreads over slots, which pool is used up first, what rolls
//! over, how fast a rate fills and who holds a seat.
//!
//! Everything here is exact and total: integers only, and values at the ends of their range stop there instead of wrapping.
//! Who locks, stores and reads the clock is elsewhere.

pub mod burn;
pub mod contention;
pub mod lease;
pub mod rate;
pub mod request;
pub mod rollover;
pub mod share;
pub mod window;
