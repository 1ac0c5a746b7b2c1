//! Limits on the number of keys per owner.

use super::KeyRecord;
use crate::domain::{KeyId, clock::Timestamp};

/// How many keys an owner may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeysPerOwner {
    /// The most keys that may be active at once, neither revoked, disabled nor expired, when
    /// another is created. Rotation is exempt: the replaced key lives on only for the overlap.
    pub live_max: u32,
    /// The most keys that are kept, whatever their state. To make room for another, the oldest key
    /// that has ended is deleted.
    pub kept_max: u32,
}

/// The owner has reached the limit of keys. A store then fails with
/// [`Full`](crate::store::StoreErrorKind::Full).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the owner has as many keys as there may be")]
pub struct NoRoom;

impl KeysPerOwner {
    /// The check of [`insert`](crate::store::KeyStore::insert): which of the owner's keys, oldest
    /// first, is deleted for a new one; `None` if there is room.
    ///
    /// # Errors
    /// [`NoRoom`]: the limit of active keys is reached, or the limit of kept keys is reached and
    /// none has ended.
    pub fn admit<'a>(
        self,
        new: &KeyRecord,
        owned: impl Iterator<Item = &'a KeyRecord>,
    ) -> Result<Option<KeyId>, NoRoom> {
        let mut live = 0_u32;
        let counted = owned.inspect(|key| {
            live = live.saturating_add(key.is_active(new.created_at).into());
        });
        let leaves = self.make_room(new, counted)?;
        self.take(new, live).then_some(leaves).ok_or(NoRoom)
    }

    /// The check of [`rotate`](crate::store::KeyStore::rotate): which of the owner's keys, oldest
    /// first, is deleted for another; `None` if there is room.
    ///
    /// # Errors
    /// [`NoRoom`]: the limit of kept keys is reached, and none has ended.
    pub fn make_room<'a>(
        self,
        another: &KeyRecord,
        owned: impl Iterator<Item = &'a KeyRecord>,
    ) -> Result<Option<KeyId>, NoRoom> {
        let (mut kept, mut ended) = (0_u32, None);
        for key in owned {
            kept = kept.saturating_add(1);
            if ended.is_none() && !key.is_active(another.created_at) {
                ended = Some(&key.id);
            }
        }
        if kept < self.kept_max {
            return Ok(None);
        }
        ended.cloned().map(Some).ok_or(NoRoom)
    }

    /// The check of [`update`](crate::store::KeyStore::update) if a key that has ended [comes
    /// back](KeyRecord::comes_back): whether one more of the owner's keys may be active `now`.
    ///
    /// # Errors
    /// [`NoRoom`]: the limit of active keys is reached.
    pub fn admit_again<'a>(
        self,
        now: Timestamp,
        owned: impl Iterator<Item = &'a KeyRecord>,
    ) -> Result<(), NoRoom> {
        let live = owned.filter(|key| key.is_active(now)).count();
        let fits = u32::try_from(live).is_ok_and(|live| live < self.live_max);
        fits.then_some(()).ok_or(NoRoom)
    }

    /// Whether an owner with `live` active keys may have another one.
    pub(crate) fn take(self, another: &KeyRecord, live: u32) -> bool {
        !another.is_active(another.created_at) || live < self.live_max
    }
}
