//! The Polysystems example, tried from outside: a real process, real sockets, a real file.
//!
//! Nothing here knows the crate. What is asserted is what the service's documentation says, what
//! the contract of the example adds to it, and laws that hold whatever the implementation: no
//! money is lost or made, no refusal is without its shape, no input ends a process.

#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "every line here is a test, and a test that panics is one that fails"
)]

mod bad_input;
mod chat;
mod credentials;
mod crowds;
mod disk;
mod durability;
mod headers;
mod isolation;
mod key_use;
mod keys;
mod leaks;
mod limits;
mod lists;
mod money;
#[cfg(feature = "redis")]
mod names;
mod outage;
mod passwords;
mod paths;
mod races;
mod rate_limits;
#[cfg(feature = "redis")]
#[allow(dead_code, reason = "tests of other kinds use the rest")]
#[path = "../support/redis.rs"]
mod redis;
mod reference;
mod refusals;
mod settings;
#[cfg(feature = "redis")]
mod shared_limits;
mod support;
mod tokens;
mod top_up;
