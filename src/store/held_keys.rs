//! Operations of engines that hold all keys in memory, to be run under the engine's lock.

use super::{
    KeyId, StoreError,
    keys::{changed_meanwhile, taken},
};
use crate::domain::{
    clock::Timestamp,
    key::{KeyRecord, KeyUpdate, KeysPerOwner, RevokedKey, Rotation, RotationOutcome},
};

/// How an engine finds and places records; the operations build on that and are the same for all.
pub(super) trait HeldKeys {
    /// The key, if it belongs to that owner.
    fn owned(&self, owner: &str, id: &KeyId) -> Option<&KeyRecord>;

    /// All keys of an owner, oldest first.
    fn owned_by(&self, owner: &str) -> impl Iterator<Item = &KeyRecord>;

    /// Whether its id or its digest belongs to another key.
    fn is_taken(&self, record: &KeyRecord) -> bool;

    /// Adds a new key, as the owner's youngest; nothing is changed where there is no place for it.
    fn add(&mut self, record: KeyRecord) -> Result<(), StoreError>;

    /// Replaces the key with the same id and digest.
    fn replace(&mut self, record: KeyRecord);

    fn delete(&mut self, owner: &str, id: &KeyId) -> Option<KeyRecord>;

    /// See [`KeyStore::insert`](super::KeyStore::insert).
    fn insert(
        &mut self,
        record: KeyRecord,
        bounds: Option<KeysPerOwner>,
    ) -> Result<(), StoreError> {
        if self.is_taken(&record) {
            return Err(taken());
        }
        let ended = match bounds {
            Some(bounds) => bounds.admit(&record, self.owned_by(&record.owner))?,
            None => None,
        };
        let owner = record.owner.clone();
        self.add(record)?;
        if let Some(ended) = ended {
            self.delete(&owner, &ended);
        }
        Ok(())
    }

    /// See [`KeyStore::rotate`](super::KeyStore::rotate).
    fn rotate(
        &mut self,
        rotation: &Rotation,
        bounds: Option<KeysPerOwner>,
    ) -> Result<RotationOutcome, StoreError> {
        let owner = &rotation.owner;
        let Some(mut old) = self.owned(owner, &rotation.replaced).cloned() else {
            return Ok(RotationOutcome::Unknown);
        };
        let successor = match old.rotate(rotation) {
            Ok(successor) => successor,
            Err(outcome) => return Ok(outcome),
        };
        if self.is_taken(&successor) {
            return Err(taken());
        }
        let ended = match bounds {
            Some(bounds) => bounds.make_room(&successor, self.owned_by(owner))?,
            None => None,
        };
        self.add(successor.clone())?;
        if let Some(ended) = ended {
            self.delete(owner, &ended);
        }
        let replaced = old.digest;
        self.replace(old);
        Ok(RotationOutcome::Rotated {
            replaced,
            successor: Box::new(successor),
        })
    }

    /// See [`KeyStore::revoke_all`](super::KeyStore::revoke_all).
    fn revoke_all(&mut self, owner: &str, at: Timestamp) -> Vec<RevokedKey> {
        let end = |key: &KeyRecord| {
            let mut ended = key.clone();
            ended.revoke(at).map(|revoked| (revoked, ended))
        };
        let ended: Vec<_> = self.owned_by(owner).filter_map(end).collect();
        let store = |(revoked, ended)| {
            self.replace(ended);
            revoked
        };
        ended.into_iter().map(store).collect()
    }

    /// See [`KeyStore::update`](super::KeyStore::update).
    fn update(
        &mut self,
        owner: &str,
        id: &KeyId,
        change: KeyUpdate,
        bounds: Option<KeysPerOwner>,
        now: Timestamp,
    ) -> Result<Option<KeyRecord>, StoreError> {
        let Some(mut record) = self.owned(owner, id).cloned() else {
            return Ok(None);
        };
        if !record.is_as_seen(change.seen.as_deref()) {
            return Err(changed_meanwhile());
        }
        if let Some(bounds) = bounds
            && record.comes_back(&change, now)
        {
            bounds.admit_again(now, self.owned_by(owner))?;
        }
        record.apply(change);
        self.replace(record.clone());
        Ok(Some(record))
    }
}
