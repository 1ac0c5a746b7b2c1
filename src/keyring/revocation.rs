//! Revocation of one key, or of all of an owner's.

use super::{
    Keyring, KeyringError,
    changes::{act, digests_of},
};
use crate::{
    domain::{
        KeyId,
        audit::{Act, AuditAction},
        key::{KeyDigest, KeyRecord, KeyUpdate, RevokedKey},
        page::Page,
    },
    store::{KeyStore, StoreFuture},
    trail,
};

impl Keyring {
    /// Revokes a key now. Revoking it again changes nothing.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub async fn revoke(&self, owner: &str, id: &KeyId) -> Result<KeyRecord, KeyringError> {
        let old = self.get(owner, id).await?;
        self.change(&old, self.revocation()).await
    }

    /// Revokes a key that was found where it should not be, for example by a secret scanner that
    /// knows the [pattern](crate::key::KeyFormat::pattern), when nothing is known but the key
    /// itself. The returned record has its owner and name, for notifying the owner. The audit log
    /// says that the key leaked.
    ///
    /// Possession of the key is enough to revoke it. This doesn't count as use, so
    /// [`last_used_at`](KeyRecord::last_used_at) still says when it was last used.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::{key::KeyFormat, keyring::{KeyResolver, Keyring, KeyringError, NewKey}, store::MemoryStore};
    ///
    /// let (store, format) = (MemoryStore::new(), KeyFormat::builder("acme").build()?);
    /// let resolver = KeyResolver::builder(store.clone()).add_format(format.clone()).build();
    /// let ring = Keyring::new(store, format, resolver.clone());
    /// let (key, _) = ring.create("user-1", NewKey::default()).await?;
    ///
    /// assert_eq!(ring.revoke_leaked(key.expose()).await?.owner, "user-1");
    /// assert!(resolver.find(key.expose()).await.is_err());
    /// let another = ring.revoke_leaked("acme_of_somebody_else").await;
    /// assert!(matches!(another, Err(KeyringError::NotFound)));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`KeyringError`]; `NotFound` if it isn't a key, or not one of this keyring's store.
    pub async fn revoke_leaked(&self, key: &str) -> Result<KeyRecord, KeyringError> {
        let known = self.resolver().known(key).await?;
        let holder = known.ok_or(KeyringError::NotFound)?.principal();
        let id = holder.key().ok_or(KeyringError::NotFound)?;
        let old = self.get(holder.subject(), id).await?;
        let act = act(AuditAction::KEY_REVOKE, id).because("the key leaked");
        self.change_as(act, &old, self.revocation()).await
    }

    fn revocation(&self) -> KeyUpdate {
        KeyUpdate {
            revoked_at: Some(self.now()),
            ..KeyUpdate::default()
        }
    }

    /// Revokes all keys of an owner now, and returns their ids: for locking a user out
    /// ([`Logins::deactivate`]), since keys outlive their owner's logins. It is a single step, so
    /// that no concurrent rotation leaves an active key behind. Each key is recorded in the audit
    /// log, besides the call itself.
    ///
    /// First revoke the owner's right to create keys. A request that was admitted earlier may still
    /// create one, which a second call finds.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::{key::KeyFormat, keyring::{KeyResolver, Keyring, NewKey}, store::MemoryStore};
    ///
    /// let (store, format) = (MemoryStore::new(), KeyFormat::builder("acme").build()?);
    /// let resolver = KeyResolver::builder(store.clone()).add_format(format.clone()).build();
    /// let ring = Keyring::new(store, format, resolver);
    /// let (_, key) = ring.create("user-1", NewKey::default()).await?;
    /// assert_eq!(ring.revoke_all("user-1").await?, [key.id]);
    /// assert!(ring.revoke_all("user-1").await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// [`Logins::deactivate`]: crate::login::Logins::deactivate
    ///
    /// # Errors
    /// [`KeyringError::Store`].
    pub async fn revoke_all(&self, owner: &str) -> Result<Vec<KeyId>, KeyringError> {
        // Needed in case the outcome remains unknown.
        let may_touch = self.good_digests(owner).await?;
        let (name, at) = (owner.to_owned(), self.now());
        let revoke = move |store: &dyn KeyStore| {
            let ended = store.revoke_all(&name, at);
            StoreFuture::new(async move {
                let ended = ended.await?;
                for key in &ended {
                    trail::record(act(AuditAction::KEY_REVOKE, &key.id));
                }
                Ok(ended)
            })
        };
        let touched = |ended: &Vec<RevokedKey>| ended.iter().map(|key| key.digest).collect();
        let all = Act::new(AuditAction::KEY_REVOKE).on(owner);
        let all = all.because("all keys of the owner");
        let ended = self.make(all, may_touch, revoke, touched).await?;
        Ok(ended.into_iter().map(|key| key.id).collect())
    }

    async fn good_digests(&self, owner: &str) -> Result<Vec<KeyDigest>, KeyringError> {
        let mut digests = Vec::new();
        let mut page = Page::first(u16::MAX);
        loop {
            let part = self.list(owner, page).await?;
            let good = part.items.iter().filter(|key| key.revoked_at.is_none());
            digests.extend(good.map(|key| key.digest));
            match part.next_cursor {
                Some(cursor) => page = Page::first(u16::MAX).after(cursor),
                None => return Ok(digests),
            }
        }
    }

    /// Revokes a key now and deletes it.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub async fn delete(&self, owner: &str, id: &KeyId) -> Result<KeyRecord, KeyringError> {
        let old = self.get(owner, id).await?;
        let act = act(AuditAction::KEY_DELETE, id);
        let may_touch = vec![old.digest];
        let delete = move |store: &dyn KeyStore| store.delete(&old.owner, &old.id);
        let record = self.make(act, may_touch, delete, digests_of).await?;
        record.ok_or(KeyringError::NotFound)
    }
}
