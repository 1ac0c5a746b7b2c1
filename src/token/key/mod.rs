//! Keys, each pinned to its one algorithm.
//!
//! A token never chooses the algorithm: its header is compared with the key's algorithm, not
//! obeyed.

mod algorithm;
mod edwards;
mod encoding;
mod error;
mod jwk;
mod left_out;
mod material;
mod rsa;
mod set;
mod signing;
mod verifying;

pub use algorithm::TokenAlgorithm;
pub use error::KeyError;
pub use set::VerifyingKeys;
pub(in crate::token) use set::{DefaultAlgorithms, Unfit};
pub use signing::SigningKey;
pub use verifying::VerifyingKey;
