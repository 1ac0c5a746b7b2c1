//! Keys, one or a page at a time.

use super::{Keyring, KeyringError};
use crate::domain::{
    KeyId,
    key::KeyRecord,
    page::{Page, Paged},
};

impl Keyring {
    /// One key of an owner.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub async fn get(&self, owner: &str, id: &KeyId) -> Result<KeyRecord, KeyringError> {
        let found = self.await_store(self.store().get(owner, id)).await?;
        found.ok_or(KeyringError::NotFound)
    }

    /// The keys of an owner, newest first.
    ///
    /// # Errors
    /// [`KeyringError::Store`].
    pub async fn list(&self, owner: &str, page: Page) -> Result<Paged<KeyRecord>, KeyringError> {
        Ok(self.await_store(self.store().list(owner, page)).await?)
    }

    /// The keys of all owners, newest first: for operators, who look for a key without knowing
    /// whose it is. A page costs as much as one of a single owner, however many keys there are; of
    /// a file, the whole file is read.
    ///
    /// Whoever may call this sees the names, owners and metadata of everybody's keys, so ask for a
    /// role of operators on its route.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::{key::KeyFormat, keyring::{KeyResolver, Keyring, NewKey}, store::{MemoryStore, Page}};
    ///
    /// let (store, format) = (MemoryStore::new(), KeyFormat::builder("acme").build()?);
    /// let resolver = KeyResolver::builder(store.clone()).add_format(format.clone()).build();
    /// let ring = Keyring::new(store, format, resolver);
    /// for owner in ["ann", "bob"] {
    ///     ring.create(owner, NewKey::default()).await?;
    /// }
    /// let first = ring.list_all(Page::first(1)).await?;
    /// assert_eq!(first.items[0].owner, "bob");
    /// let cursor = first.next_cursor.expect("there is another page");
    /// let second = ring.list_all(Page::first(1).after(cursor)).await?;
    /// assert_eq!((second.items[0].owner.as_str(), second.next_cursor), ("ann", None));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`KeyringError::Store`].
    pub async fn list_all(&self, page: Page) -> Result<Paged<KeyRecord>, KeyringError> {
        Ok(self.await_store(self.store().list_all(page)).await?)
    }
}
