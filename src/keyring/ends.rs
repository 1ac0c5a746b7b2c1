//! How keys end: one, and all of an owner's.

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
    /// Ends a key now. To end it again changes nothing.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub async fn revoke(&self, owner: &str, id: &KeyId) -> Result<KeyRecord, KeyringError> {
        let old = self.get(owner, id).await?;
        self.change(&old, self.revocation()).await
    }

    /// Ends a key that somebody has found where it should not be, such as a scanner for secrets that knows the
    /// [pattern](crate::key::KeyFormat::pattern): all that is known of it is the key itself. Whose it was, and what it is called, stands in the
    /// answer, for the mail to its owner. In the audit log it says that the key leaked.
    ///
    /// Whoever has a key may end it: nothing more has to be shown. That it was looked at is no use of it, so
    /// [`last_used_at`](KeyRecord::last_used_at) still tells when it was used last.
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
    /// [`KeyringError`]; `NotFound` for what is no key, or none of this keyring's store.
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

    /// Ends all keys of an owner now, and says which: for one who is shut out ([`Logins::deactivate`]), since keys outlive their
    /// owner's logins. It is one step, so that no rotation at the same time leaves a good key behind. Each is
    /// in the audit log, beside the call itself.
    ///
    /// What lets the owner make a key has to be taken away first. A request that was let in before may still make one afterwards, which
    /// a second call finds.
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
        // For what may be touched where nobody learns whether it was.
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

    /// Ends a key now and forgets it.
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
