//! API keys: their formats and their stored records. Nothing secret is kept longer than necessary.

mod alphabet;
mod digest;
mod foreign;
mod format;
mod owned;
mod proof;
mod record;
mod rotation;

pub use alphabet::Alphabet;
pub use digest::KeyDigest;
pub(crate) use foreign::is_speakable;
pub use foreign::{ForeignFormat, ForeignFormatBuilder, ForeignFormatError};
pub use format::{
    ApiKey, GenerateKeyError, KeyFormat, KeyFormatBuilder, KeyFormatError, MalformedKey,
};
pub use owned::{KeysPerOwner, NoRoom};
pub use proof::{InvalidProof, KeyProof, Rehash};
pub use record::{KeyRecord, KeyUpdate, RevokedKey};
pub use rotation::{Rotation, RotationOutcome, SuccessorEnd};
