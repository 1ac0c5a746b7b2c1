//! The bound on keys of one owner.

use super::KeyRecord;
use crate::domain::{KeyId, clock::Timestamp};

/// How many keys an owner has at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeysPerOwner {
    /// That are good at a time, neither revoked nor expired, when another is made. A rotation isn't held to it: what it replaces
    /// goes on for the overlap alone.
    pub live_max: u32,
    /// That are kept, whatever their state. For a further key the oldest goes that has ended.
    pub kept_max: u32,
}

/// An owner has as many keys as there may be. A store fails with [`Full`](crate::store::StoreErrorKind::Full) then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the owner has as many keys as there may be")]
pub struct NoRoom;

impl KeysPerOwner {
    /// What [`insert`](crate::store::KeyStore::insert) asks: which of the owner's keys, oldest first, goes for a new one; `None`
    /// where there is room.
    ///
    /// # Errors
    /// [`NoRoom`]: as many are good as may be, or as many are kept and none has ended.
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

    /// What [`rotate`](crate::store::KeyStore::rotate) asks: which of the owner's keys, oldest first, goes for another; `None`
    /// where there is room.
    ///
    /// # Errors
    /// [`NoRoom`]: as many are kept as may be, and none has ended.
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

    /// What [`update`](crate::store::KeyStore::update) asks where a key that has ended [comes back](KeyRecord::comes_back): whether
    /// one more of the owner's keys may be good `now`.
    ///
    /// # Errors
    /// [`NoRoom`]: as many are good as may be.
    pub fn admit_again<'a>(
        self,
        now: Timestamp,
        owned: impl Iterator<Item = &'a KeyRecord>,
    ) -> Result<(), NoRoom> {
        let live = owned.filter(|key| key.is_active(now)).count();
        let fits = u32::try_from(live).is_ok_and(|live| live < self.live_max);
        fits.then_some(()).ok_or(NoRoom)
    }

    /// Whether an owner of so many good ones may have another key.
    pub(crate) fn take(self, another: &KeyRecord, live: u32) -> bool {
        !another.is_active(another.created_at) || live < self.live_max
    }
}
