//! Rotation: replacing a key by another.

use super::{KeyDigest, KeyProof, KeyRecord};
use crate::domain::{KeyId, clock::Timestamp};

/// A request to replace a key by a new one, which takes over its settings and its lineage as of
/// that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The owner of the key.
    pub owner: String,
    /// The key to replace.
    pub replaced: KeyId,
    /// When the replaced key ends, unless it ends sooner.
    pub overlap_ends_at: Timestamp,
    /// When the new key ends.
    pub end: SuccessorEnd,
    /// The moment of the rotation.
    pub at: Timestamp,
    /// The new key's public name.
    pub id: KeyId,
    /// What the new key is looked up by.
    pub digest: KeyDigest,
    /// The scheme of that digest.
    pub proof: KeyProof,
    /// The part of the new key that may be shown.
    pub preview: String,
    /// The key as the caller read it. It is rotated only if its settings still equal these; `None`:
    /// unconditionally.
    pub seen: Option<Box<KeyRecord>>,
}

/// When the successor of a rotated key ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SuccessorEnd {
    /// When the old one would have ended: an expiry that was set is kept, however often the key is
    /// rotated.
    #[default]
    SameMoment,
    /// After a lifetime as long as the old one's from its creation, counted from the rotation;
    /// never, if that one had no end.
    SameLife,
    /// At that moment; `None`: never.
    At(Option<Timestamp>),
}

impl SuccessorEnd {
    /// The end of a key that replaces `old` at `now`.
    pub(super) fn after(self, old: &KeyRecord, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::SameMoment => old.expires_at,
            Self::SameLife => old.expires_at.map(|end| {
                let life = end.duration_since(old.created_at);
                now.saturating_add(life).unwrap_or(Timestamp::MAX)
            }),
            Self::At(end) => end,
        }
    }
}

/// The result of a [`Rotation`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RotationOutcome {
    /// The new key is stored, and the old one will end.
    Rotated {
        /// What the old key is looked up by.
        replaced: KeyDigest,
        /// The new key.
        successor: Box<KeyRecord>,
    },
    /// The owner has no such key.
    Unknown,
    /// The key is revoked or expired.
    NotActive,
    /// The key was replaced before.
    Superseded {
        /// The key that replaced it.
        by: KeyId,
    },
    /// The key's settings differ from those that were [seen](Rotation::seen).
    Changed,
}
