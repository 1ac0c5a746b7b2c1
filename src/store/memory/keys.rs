//! Keys by id, by digest, and in order of creation, of all owners and of each.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use hashbrown::HashMap;

use super::MemoryStore;
use crate::{
    domain::{
        KeyId,
        clock::Timestamp,
        key::{
            KeyDigest, KeyRecord, KeyUpdate, KeysPerOwner, Rehash, RevokedKey, Rotation,
            RotationOutcome,
        },
        page::{Page, Paged},
    },
    store::{KeyLookup, KeyStore, StoreError, StoreErrorKind, StoreFuture, held_keys::HeldKeys},
    sync::lock,
};

#[derive(Default)]
pub(super) struct Keys {
    by_id: HashMap<KeyId, (u64, KeyRecord)>,
    by_digest: HashMap<KeyDigest, KeyId>,
    by_position: BTreeMap<u64, KeyId>,
    /// The positions of each owner's.
    by_owner: HashMap<String, BTreeSet<u64>>,
    made: u64,
}

impl Keys {
    fn find(&self, digest: &KeyDigest) -> Option<&KeyRecord> {
        let id = self.by_digest.get(digest)?;
        self.by_id.get(id).map(|(_, record)| record)
    }

    fn rehash(&mut self, change: &Rehash) -> Result<bool, StoreError> {
        let Some((_, record)) = self.by_id.get_mut(&change.id) else {
            return Ok(false);
        };
        if record.digest == change.from
            && change.digest != change.from
            && self.by_digest.contains_key(&change.digest)
        {
            let text = "the digest of the key is taken";
            return Err(StoreError::new(StoreErrorKind::Conflict, text));
        }
        let changed = record.rehash(change);
        if changed {
            self.by_digest.remove(&change.from);
            self.by_digest.insert(change.digest, change.id.clone());
        }
        Ok(changed)
    }

    fn list(&self, owner: &str, page: &Page) -> Paged<KeyRecord> {
        let before = page.cursor().unwrap_or(u64::MAX);
        let owned = self.by_owner.get(owner).into_iter();
        let positions = owned.flat_map(|positions| positions.range(..before).rev());
        self.page(page, positions.copied())
    }

    fn list_all(&self, page: &Page) -> Paged<KeyRecord> {
        let before = page.cursor().unwrap_or(u64::MAX);
        let positions = self.by_position.range(..before).rev();
        self.page(page, positions.map(|(position, _)| *position))
    }

    fn page(&self, page: &Page, positions: impl Iterator<Item = u64>) -> Paged<KeyRecord> {
        let rows = positions
            .filter_map(|position| Some((position, self.at(position)?.clone())))
            .take(usize::from(page.limit()).saturating_add(1))
            .collect();
        Paged::from_rows(page, rows)
    }

    fn at(&self, position: u64) -> Option<&KeyRecord> {
        let id = self.by_position.get(&position)?;
        self.by_id.get(id).map(|(_, record)| record)
    }
}

impl HeldKeys for Keys {
    fn owned(&self, owner: &str, id: &KeyId) -> Option<&KeyRecord> {
        let (_, record) = self.by_id.get(id)?;
        (record.owner == owner).then_some(record)
    }

    fn owned_by(&self, owner: &str) -> impl Iterator<Item = &KeyRecord> {
        let owned = self.by_owner.get(owner).into_iter().flatten();
        owned.filter_map(|position| self.at(*position))
    }

    fn is_taken(&self, record: &KeyRecord) -> bool {
        self.by_id.contains_key(&record.id) || self.by_digest.contains_key(&record.digest)
    }

    fn add(&mut self, record: KeyRecord) -> Result<(), StoreError> {
        self.made = self.made.saturating_add(1);
        self.by_digest.insert(record.digest, record.id.clone());
        self.by_owner
            .entry_ref(record.owner.as_str())
            .or_default()
            .insert(self.made);
        self.by_position.insert(self.made, record.id.clone());
        self.by_id.insert(record.id.clone(), (self.made, record));
        Ok(())
    }

    fn replace(&mut self, record: KeyRecord) {
        if let Some((_, stored)) = self.by_id.get_mut(&record.id) {
            *stored = record;
        }
    }

    fn delete(&mut self, owner: &str, id: &KeyId) -> Option<KeyRecord> {
        self.owned(owner, id)?;
        let (position, record) = self.by_id.remove(id)?;
        self.by_digest.remove(&record.digest);
        self.by_position.remove(&position);
        if let Some(positions) = self.by_owner.get_mut(owner) {
            positions.remove(&position);
            if positions.is_empty() {
                self.by_owner.remove(owner);
            }
        }
        Some(record)
    }
}

impl KeyLookup for MemoryStore {
    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        StoreFuture::ready(Ok(lock(&self.0.keys).find(digest).cloned()))
    }

    fn rehash(&self, change: Rehash) -> StoreFuture<bool> {
        StoreFuture::ready(lock(&self.0.keys).rehash(&change))
    }

    fn recently_used(&self, limit: u16) -> StoreFuture<Vec<KeyRecord>> {
        let now = self.0.clock.now();
        let mut active: Vec<_> = {
            let keys = lock(&self.0.keys);
            let records = keys.by_id.values().map(|(_, record)| record);
            records
                .filter(|record| record.is_active(now))
                .cloned()
                .collect()
        };
        active.sort_by_key(|record| Reverse(record.last_used_at));
        active.truncate(usize::from(limit));
        StoreFuture::ready(Ok(active))
    }

    fn touch(&self, id: &KeyId, at: Timestamp) {
        if let Some((_, record)) = lock(&self.0.keys).by_id.get_mut(id) {
            record.last_used_at = record.last_used_at.max(Some(at));
        }
    }
}

impl KeyStore for MemoryStore {
    fn insert(&self, record: KeyRecord, bounds: Option<KeysPerOwner>) -> StoreFuture<()> {
        StoreFuture::ready(lock(&self.0.keys).insert(record, bounds))
    }

    fn rotate(
        &self,
        rotation: Rotation,
        bounds: Option<KeysPerOwner>,
    ) -> StoreFuture<RotationOutcome> {
        StoreFuture::ready(lock(&self.0.keys).rotate(&rotation, bounds))
    }

    fn get(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        let found = lock(&self.0.keys).owned(owner, id).cloned();
        StoreFuture::ready(Ok(found))
    }

    fn list(&self, owner: &str, page: Page) -> StoreFuture<Paged<KeyRecord>> {
        StoreFuture::ready(Ok(lock(&self.0.keys).list(owner, &page)))
    }

    fn list_all(&self, page: Page) -> StoreFuture<Paged<KeyRecord>> {
        StoreFuture::ready(Ok(lock(&self.0.keys).list_all(&page)))
    }

    fn update(
        &self,
        owner: &str,
        id: &KeyId,
        change: KeyUpdate,
        bounds: Option<KeysPerOwner>,
    ) -> StoreFuture<Option<KeyRecord>> {
        let now = self.0.clock.now();
        StoreFuture::ready(lock(&self.0.keys).update(owner, id, change, bounds, now))
    }

    fn revoke_all(&self, owner: &str, at: Timestamp) -> StoreFuture<Vec<RevokedKey>> {
        StoreFuture::ready(Ok(lock(&self.0.keys).revoke_all(owner, at)))
    }

    fn delete(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        StoreFuture::ready(Ok(lock(&self.0.keys).delete(owner, id)))
    }
}
