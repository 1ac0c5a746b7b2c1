//! Keys that are refused for a while.

use super::{Keyring, KeyringError};
use crate::domain::{
    KeyId,
    clock::Timestamp,
    key::{KeyRecord, KeyUpdate},
};

impl Keyring {
    /// Disables a key now: it is refused like a revoked one, from the same moment on, until it is
    /// [enabled](Self::enable). Disabling it again changes nothing.
    ///
    /// A disabled key counts among the [ended ones](Self::ended_keys_per_owner_max), so it takes
    /// none of its owner's places for active keys, and may be displaced by later keys that end. It
    /// can't be rotated. Its owner can't enable it with [`update_for`](Self::update_for).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::{key::KeyFormat, keyring::{KeyRefusal, KeyResolver, Keyring, NewKey}, store::MemoryStore};
    ///
    /// let (store, format) = (MemoryStore::new(), KeyFormat::builder("acme").build()?);
    /// let resolver = KeyResolver::builder(store.clone()).add_format(format.clone()).build();
    /// let ring = Keyring::new(store, format, resolver.clone());
    /// let (key, record) = ring.create("user-1", NewKey::default()).await?;
    ///
    /// ring.disable("user-1", &record.id).await?;
    /// assert!(matches!(resolver.find(key.expose()).await, Err(KeyRefusal::Disabled { .. })));
    /// ring.enable("user-1", &record.id).await?;
    /// assert!(resolver.find(key.expose()).await.is_ok());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`KeyringError`]; `NotActive` for a key that is revoked.
    pub async fn disable(&self, owner: &str, id: &KeyId) -> Result<KeyRecord, KeyringError> {
        let at = Some(self.now());
        self.suspend(owner, id, at).await
    }

    /// Enables a [disabled](Self::disable) key, if its owner may have another active key. For any
    /// other key that isn't revoked, this changes nothing; it doesn't extend an expired one.
    ///
    /// A process of a version that doesn't know disabled keys takes one for revoked, so a
    /// revocation there changes nothing: while such processes run, enable none that may have been
    /// revoked.
    ///
    /// # Errors
    /// [`KeyringError`]; `NotActive` for a key that is revoked, `TooMany` if there is no room.
    pub async fn enable(&self, owner: &str, id: &KeyId) -> Result<KeyRecord, KeyringError> {
        self.suspend(owner, id, None).await
    }

    async fn suspend(
        &self,
        owner: &str,
        id: &KeyId,
        disabled_at: Option<Timestamp>,
    ) -> Result<KeyRecord, KeyringError> {
        let change = KeyUpdate {
            disabled_at: Some(disabled_at),
            ..KeyUpdate::default()
        };
        let old = self.get(owner, id).await?;
        if old.revoked_at.is_some() {
            return Err(KeyringError::NotActive);
        }
        let stored = self.change(&old, change).await?;
        // As the store has it: it may have been revoked since it was read.
        if stored.revoked_at.is_some() {
            return Err(KeyringError::NotActive);
        }
        Ok(stored)
    }
}
