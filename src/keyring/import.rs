//! Keys that were made elsewhere.

use super::{
    Keyring, KeyringError, NewKey,
    bounds::settle_new,
    ring::{fresh_id, lineage_of},
};
use crate::domain::key::{KeyDigest, KeyProof, KeyRecord};

/// The shortest key that is taken as random, and the shortest that somebody chose, in bytes.
const RANDOM_LENGTH_MIN: usize = 22;
const CHOSEN_LENGTH_MIN: usize = 8;
const LENGTH_MAX: usize = 512;
/// Characters that a preview shows at each end.
const PREVIEW_SHOWN: usize = 4;

impl Keyring {
    /// Takes over a key of an older system: a random one, of at least 22 characters and so of 128 bits in any usual alphabet.
    /// It is stored like one of our own; the resolver must take its form ([`add_format`](super::KeyResolverBuilder::add_format)
    /// with [`without_checksum`](crate::key::KeyFormatBuilder::without_checksum), or no format at all).
    ///
    /// Where only SHA-256 digests are at hand, they go into the store as they are:
    /// [`KeyRecord::new`](crate::key::KeyRecord::new) with [`KeyDigest::from_bytes`](crate::key::KeyDigest::from_bytes).
    ///
    /// # Errors
    /// [`KeyringError`].
    pub async fn import(
        &self,
        owner: &str,
        key: &str,
        new: NewKey,
    ) -> Result<KeyRecord, KeyringError> {
        check(key, RANDOM_LENGTH_MIN)?;
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
    /// ([`weak_keys`](super::KeyResolverBuilder::weak_keys)): no two such keys may begin alike.
    ///
    /// # Errors
    /// [`KeyringError`]; `Invalid` where the resolver takes no such keys.
    pub async fn import_weak(
        &self,
        owner: &str,
        key: &str,
        new: NewKey,
    ) -> Result<KeyRecord, KeyringError> {
        check(key, CHOSEN_LENGTH_MIN)?;
        let Some((stored, shown)) = self.resolver().hash_weak(key).await? else {
            return Err(KeyringError::Invalid(
                "key: longer than its public start, where the resolver takes weak keys",
            ));
        };
        self.take(owner, stored, format!("{}...", start(key, shown)), new)
            .await
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
        let id = fresh_id()?;
        let lineage = lineage_of(&id)?;
        let mut record = self.record(owner, new, id, lineage, stored.0);
        (record.proof, record.preview) = (stored.1, preview);
        self.insert(record).await
    }
}

fn check(key: &str, length_min: usize) -> Result<(), KeyringError> {
    let speakable = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b'"' | b';');
    if (length_min..=LENGTH_MAX).contains(&key.len()) && key.bytes().all(speakable) {
        return Ok(());
    }
    Err(KeyringError::Invalid(
        "key: too short or too long, or with characters that a header can't carry",
    ))
}

fn start(key: &str, characters: usize) -> &str {
    key.get(..characters).unwrap_or_default()
}
