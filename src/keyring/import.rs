//! Import of keys that were made elsewhere.

use super::{
    Keyring, KeyringError, NewKey,
    bounds::normalize_new,
    forms::Form,
    ring::{fresh_id, lineage_of},
};
use crate::domain::key::{KeyDigest, KeyProof, KeyRecord};

/// The shortest key that is accepted as random, in bytes.
const RANDOM_LENGTH_MIN: usize = 22;
/// How many characters a preview shows at each end.
const PREVIEW_SHOWN: usize = 4;

impl Keyring {
    /// Imports a key of an older system: a random one of at least 22 characters, and so of 128 bits
    /// in any usual alphabet. It is stored like one of our own. The resolver must accept its form
    /// ([`add_foreign_format`](super::KeyResolverBuilder::add_foreign_format), or no format at
    /// all), and the environment must be one of the keyring's format, so that the key can be
    /// rotated into one of our own.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::key::{Alphabet, ForeignFormat, KeyFormat};
    /// use tollgate::keyring::{KeyResolver, Keyring, NewKey};
    /// use tollgate::store::MemoryStore;
    ///
    /// let (store, format) = (MemoryStore::new(), KeyFormat::builder("acme").build()?);
    /// let old = ForeignFormat::builder(Alphabet::Base62, 32..=48).prefix("sk-").build()?;
    /// let keys = KeyResolver::builder(store.clone()).add_format(format.clone()).add_foreign_format(old).build();
    /// let ring = Keyring::new(store, format, keys);
    /// ring.import("user-1", "sk-0123456789abcdefghijABCDEFGHIJKL", NewKey::default()).await?;
    /// assert!(ring.import("user-1", "pk-0123456789abcdefghijABCDEFGHIJKL", NewKey::default()).await.is_err());
    /// # Ok(()) }
    /// ```
    ///
    /// If only SHA-256 digests are available, put them into the store directly:
    /// [`KeyRecord::new`](crate::key::KeyRecord::new) with
    /// [`KeyDigest::from_bytes`](crate::key::KeyDigest::from_bytes).
    ///
    /// # Errors
    /// [`KeyringError`]; `Invalid` for a key that the resolver would refuse by its form, or leave
    /// to other layers.
    pub async fn import(
        &self,
        owner: &str,
        key: &str,
        new: NewKey,
    ) -> Result<KeyRecord, KeyringError> {
        if key.len() < RANDOM_LENGTH_MIN {
            return Err(KeyringError::Invalid("key: at least 22 characters"));
        }
        if self.resolver().form_of(key) == Form::Malformed {
            return Err(KeyringError::Invalid(
                "key: the resolver takes none of this form (formats, foreign formats, at most 512 characters that a header carries)",
            ));
        }
        if !self.resolver().claims(key) {
            return Err(KeyringError::Invalid(
                "key: has the form of a signed token, and would be taken for one as a bearer (add_foreign_format)",
            ));
        }
        let stored = self.resolver().hash(key);
        let tail = key.get(key.len().saturating_sub(PREVIEW_SHOWN)..);
        let preview = format!(
            "{}...{}",
            start(key, PREVIEW_SHOWN),
            tail.unwrap_or_default()
        );
        self.take(owner, stored, preview, new).await
    }

    /// Imports a secret that somebody chose, or one that is too short to be random. It is stored by
    /// Argon2id, and found by its first characters; the resolver knows how many are public
    /// ([`weak_keys`](super::KeyResolverBuilder::weak_keys)). No two such keys may have the same
    /// start, and at least eight more characters must be secret.
    ///
    /// # Errors
    /// [`KeyringError`]; `Invalid` if the resolver accepts no such keys, or if the key has the
    /// prefix of a format.
    pub async fn import_weak(
        &self,
        owner: &str,
        key: &str,
        new: NewKey,
    ) -> Result<KeyRecord, KeyringError> {
        let unfit = KeyringError::Invalid(
            "key: eight characters longer than its public start and of no format, where the resolver takes weak keys",
        );
        if self.resolver().form_of(key) != Form::Chosen {
            return Err(unfit);
        }
        let Some((stored, shown)) = self.resolver().hash_weak(key).await? else {
            return Err(unfit);
        };
        let preview = format!("{}...", start(key, shown));
        let record = self.take(owner, stored, preview, new).await?;
        // A request may have asked for it before it existed. That is cached under the digest of the
        // whole key, not of its start.
        self.resolver().invalidate(&self.resolver().hash(key).0);
        Ok(record)
    }

    async fn take(
        &self,
        owner: &str,
        stored: (KeyDigest, KeyProof),
        preview: String,
        mut new: NewKey,
    ) -> Result<KeyRecord, KeyringError> {
        normalize_new(owner, &mut new)?;
        self.check_roles(&new.roles)?;
        self.check_environment(new.environment.as_deref())?;
        let id = fresh_id()?;
        let lineage = lineage_of(&id)?;
        let mut record = self.record(owner, new, id, lineage, stored.0);
        (record.proof, record.preview) = (stored.1, preview);
        self.insert(record).await
    }
}

fn start(key: &str, characters: usize) -> &str {
    key.get(..characters).unwrap_or_default()
}
