//! Import of keys that were made elsewhere.

use super::{
    Keyring, KeyringError, NewKey,
    bounds::settle_new,
    forms::Form,
    ring::{fresh_id, lineage_of},
};
use crate::domain::key::{KeyDigest, KeyProof, KeyRecord};

/// The shortest key that is taken as random, in bytes.
const RANDOM_LENGTH_MIN: usize = 22;
/// Characters that a preview shows at each end.
const PREVIEW_SHOWN: usize = 4;

impl Keyring {
    /// Takes over a key of an older system: a random one, of at least 22 characters and so of 128 bits in any usual alphabet.
    /// It is stored like one of our own; the resolver must take its form
    /// ([`add_foreign_format`](super::KeyResolverBuilder::add_foreign_format), or no format at all), and the environment must be one
    /// of the keyring's format, so that the key can be rotated into one of our own.
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
    /// Where only SHA-256 digests are at hand, they go into the store as they are:
    /// [`KeyRecord::new`](crate::key::KeyRecord::new) with [`KeyDigest::from_bytes`](crate::key::KeyDigest::from_bytes).
    ///
    /// # Errors
    /// [`KeyringError`]; `Invalid` for a key that the resolver would refuse by its form, or leave to others.
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

    /// Takes over a secret that somebody chose, or one that is too short to be random. It is stored by Argon2id, and found by
    /// its first characters, of which the resolver knows how many are public
    /// ([`weak_keys`](super::KeyResolverBuilder::weak_keys)): no two such keys may begin alike. At least eight more are its secret.
    ///
    /// # Errors
    /// [`KeyringError`]; `Invalid` where the resolver takes no such keys, and for one that begins like a key of a format.
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
        // Somebody may have asked for it before it was: that is remembered by the whole of it, which its start doesn't tell.
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
        settle_new(owner, &mut new)?;
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
