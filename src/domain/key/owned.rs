//! How many keys an owner has at most.

use super::KeyRecord;

/// How many keys an owner has at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeysPerOwner {
    /// That are good at a time: neither revoked nor expired. The key that a rotation replaces isn't counted then, so that while its
    /// overlap lasts there may be one more.
    pub live_max: u32,
    /// That are kept, whatever their state.
    pub kept_max: u32,
}

impl KeysPerOwner {
    /// Whether an owner who has these may have another key.
    pub(crate) fn have_room<'a>(
        self,
        another: &KeyRecord,
        owned: impl Iterator<Item = &'a KeyRecord>,
    ) -> bool {
        let now = another.created_at;
        let (mut live, mut kept) = (0_u32, 0_u32);
        for key in owned {
            kept = kept.saturating_add(1);
            let is_replaced = another.rotated_from.as_ref() == Some(&key.id);
            if key.is_active(now) && !is_replaced {
                live = live.saturating_add(1);
            }
        }
        self.has_room(another, live, kept)
    }

    /// The same by their numbers.
    pub(crate) fn has_room(self, another: &KeyRecord, live: u32, kept: u32) -> bool {
        let is_live = another.is_active(another.created_at);
        kept < self.kept_max && (!is_live || live < self.live_max)
    }
}
