//! What a stranger may send, as functions of bytes. Each asserts what must hold whatever the bytes
//! are.
//!
//! `tests/fuzz_targets.rs` of the crate includes this file, and runs it on the corpus.

mod targets;

pub use targets::{headers, key, left::left, path, request::request, token, usage};
