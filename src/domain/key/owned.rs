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

/// All keys of an owner that are kept are good, and they are as many as may be.
#[derive(Debug)]
pub(crate) struct NoRoom;

impl KeysPerOwner {
    /// Whether an owner who has these may have another key, where there is room for it.
    pub(crate) fn have_live_room<'a>(
        self,
        another: &KeyRecord,
        owned: impl Iterator<Item = &'a KeyRecord>,
    ) -> bool {
        let live = owned
            .filter(|key| key.is_active(another.created_at))
            .count();
        self.take(another, u32::try_from(live).unwrap_or(u32::MAX))
    }

    /// Whether an owner of so many good ones may have another key.
    pub(crate) fn take(self, another: &KeyRecord, live: u32) -> bool {
        !another.is_active(another.created_at) || live < self.live_max
    }

    /// Whether one that has ended may be good again beside these.
    pub(crate) fn have_one_back<'a>(
        self,
        now: Timestamp,
        owned: impl Iterator<Item = &'a KeyRecord>,
    ) -> bool {
        let live = owned.filter(|key| key.is_active(now)).count();
        u32::try_from(live).is_ok_and(|live| live < self.live_max)
    }

    /// Which of these, oldest first, goes for another one; `None` where there is room.
    pub(crate) fn make_room<'a>(
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
}
