//! API keys: what they look like, what is kept of them, and nothing that is secret for longer than it must be.

mod digest;
mod format;
mod proof;
mod record;
mod rotation;

pub use digest::KeyDigest;
pub use format::{
    Alphabet, ApiKey, GenerateKeyError, KeyFormat, KeyFormatBuilder, KeyFormatError, MalformedKey,
};
pub use proof::{InvalidProof, KeyProof, Rehash};
pub use record::{KeyRecord, KeyUpdate};
pub use rotation::{Rotation, RotationOutcome};
