//! Keys from the configuration.

use std::fmt;

use subtle::ConstantTimeEq;

use super::{KeyId, KeyLookup, StoreFuture};
use crate::domain::{
    BudgetId,
    clock::Timestamp,
    key::{KeyDigest, KeyRecord},
};

/// The shortest and the longest key, in bytes.
const LENGTH_MIN: usize = 8;
const LENGTH_MAX: usize = 512;
/// The maximum number of keys. Each look-up compares with all of them.
const KEYS_MAX: usize = 1_024;

/// Keys from the configuration: an administrator's in an environment variable, or those of a CI
/// server. They have no format: any text of 8 to 512 bytes that a header can carry will do.
///
/// Only their SHA-256 is kept, and a look-up compares with every one of them, in constant time.
/// Anyone who can guess such a key has it, so use 32 random characters or more.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tollgate::{key::KeyDigest, store::{KeyLookup, StaticKeys}};
///
/// let keys = StaticKeys::new()
///     .add_key("admin", "3f6e1c0a9b7d4e52-of-32-or-more", ["admin"])?
///     .add_list("client", "client-key-1, client-key-2", ["client"])?;
/// let found = keys.find(&KeyDigest::of("3f6e1c0a9b7d4e52-of-32-or-more")).await?.expect("it is there");
/// assert_eq!((found.owner.as_str(), &found.roles[0]), ("admin", &"admin".to_owned()));
/// let found = keys.find(&KeyDigest::of("client-key-2")).await?.expect("it is there");
/// assert_eq!(found.owner, "client-de7eed0461f3", "wherever it stands in the list");
/// assert!(keys.find(&KeyDigest::of("client-key-3")).await?.is_none());
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct StaticKeys {
    keys: Vec<KeyRecord>,
    takes_short: bool,
}

/// A key that can't be in the configuration. The text never contains the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StaticKeyError {
    /// The name is empty, longer than 255 bytes, or used twice.
    #[error("{name:?}: a key's name must have 1 to 255 bytes and be unique")]
    Name {
        /// The name.
        name: String,
    },
    /// Too short ([`StaticKeys::dangerous_short_keys`]), too long, or with characters that a header
    /// can't carry.
    #[error(
        "{name}: a key must have {LENGTH_MIN} to {LENGTH_MAX} printable ASCII characters, without blanks, commas, semicolons or quotes"
    )]
    Key {
        /// The name of the key.
        name: String,
    },
    /// Too many keys to compare with each.
    #[error("a configuration may have at most {KEYS_MAX} keys")]
    TooMany,
}

impl StaticKeys {
    /// No keys yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Also accepts shorter keys, from one byte on, and logs a warning for each: for keys that are
    /// in use and can't be replaced yet. Such a key can be found by trying. Call it before adding
    /// keys.
    #[must_use]
    pub fn dangerous_short_keys(mut self) -> Self {
        self.takes_short = true;
        self
    }

    /// Adds a key, named and owned `name`. A key that was already added keeps its first owner.
    ///
    /// # Errors
    /// [`StaticKeyError`], which contains the name, but never the key.
    pub fn add_key<'a>(
        self,
        name: &str,
        key: &str,
        roles: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, StaticKeyError> {
        self.add(name, name, key, roles)
    }

    /// In errors, and in the log, the key is called `told`.
    fn add<'a>(
        mut self,
        name: &str,
        told: &str,
        key: &str,
        roles: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, StaticKeyError> {
        let named = || told.to_owned();
        let bad_name = |_| StaticKeyError::Name { name: named() };
        let id = KeyId::new(name).map_err(bad_name)?;
        let lineage = BudgetId::new(name).map_err(bad_name)?;
        let speakable = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b'"' | b';');
        let length_min = if self.takes_short { 1 } else { LENGTH_MIN };
        if !(length_min..=LENGTH_MAX).contains(&key.len()) || !key.bytes().all(speakable) {
            return Err(StaticKeyError::Key { name: named() });
        }
        if key.len() < LENGTH_MIN {
            tracing::warn!(target: "tollgate", name = told, "a key under {LENGTH_MIN} characters can be guessed: replace it");
        }
        let digest = KeyDigest::of(key);
        if self.among(&digest).is_some() {
            return Ok(self);
        }
        if self.keys.iter().any(|known| known.id == id) {
            return Err(StaticKeyError::Name { name: named() });
        }
        if self.keys.len() >= KEYS_MAX {
            return Err(StaticKeyError::TooMany);
        }
        let mut record = KeyRecord::new(id, lineage, digest, name, Timestamp::UNIX_EPOCH);
        name.clone_into(&mut record.name);
        record.roles = roles.into_iter().map(str::to_owned).collect();
        self.keys.push(record);
        Ok(self)
    }

    /// Adds the keys of a comma-separated list. Blanks around a key are ignored, and so are empty
    /// entries.
    ///
    /// Each is named and owned by `prefix`, a hyphen and the first 12 hexadecimal digits of its
    /// SHA-256, so that a key keeps its counts and limits when its position changes. The digits
    /// reveal nothing about a key with 128 random bits; for a key that somebody chose, whoever
    /// reads the log can use them to check a guess.
    ///
    /// # Errors
    /// [`StaticKeyError`], which contains the position (`prefix-1`, `prefix-2`, …), but never the
    /// key.
    pub fn add_list<'a>(
        self,
        prefix: &str,
        list: &str,
        roles: impl IntoIterator<Item = &'a str> + Copy,
    ) -> Result<Self, StaticKeyError> {
        let keys = list.split(',').map(str::trim).filter(|key| !key.is_empty());
        (1_usize..).zip(keys).try_fold(self, |known, (place, key)| {
            let name = format!("{prefix}-{}", first_digits(&KeyDigest::of(key)));
            known.add(&name, &format!("{prefix}-{place}"), key, roles)
        })
    }

    /// Whether this is one of the keys.
    #[must_use]
    pub fn holds(&self, key: &str) -> bool {
        key.len() <= LENGTH_MAX && self.among(&KeyDigest::of(key)).is_some()
    }

    /// Compares with all of them, whether or not one matches.
    fn among(&self, digest: &KeyDigest) -> Option<&KeyRecord> {
        self.keys.iter().fold(None, |found, record| {
            let equal = record.digest.as_bytes().ct_eq(digest.as_bytes());
            if equal.into() { Some(record) } else { found }
        })
    }
}

/// The first 12 hexadecimal digits: of a thousand keys two are alike once in 500 million lists, and
/// then the list is refused.
fn first_digits(digest: &KeyDigest) -> String {
    let bytes = digest.as_bytes().iter().take(6);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

impl KeyLookup for StaticKeys {
    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        StoreFuture::ready(Ok(self.among(digest).cloned()))
    }
}

impl fmt::Debug for StaticKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.keys.iter().map(|record| record.id.as_str());
        f.debug_list().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_are_judged_and_never_shown() {
        let add = |name: &str, key: &str| StaticKeys::new().add_key(name, key, []);
        for key in [
            "",
            "seven-7",
            "with blank",
            "with,comma",
            "with;semi",
            "tab\tbed-key",
            "ümlaut-key",
            &"a".repeat(513),
        ] {
            let refused = add("n", key).unwrap_err();
            assert_eq!(refused, StaticKeyError::Key { name: "n".into() });
            assert!(key.is_empty() || !refused.to_string().contains(key));
        }
        assert!(matches!(
            add("", "long-enough"),
            Err(StaticKeyError::Name { .. })
        ));
        let twice = add("n", "long-enough").unwrap();
        assert!(twice.clone().add_key("n", "another-key", []).is_err());
        assert!(!format!("{twice:?}").contains("long-enough"));
    }

    #[tokio::test]
    async fn a_short_key_is_taken_where_that_was_asked_for() {
        let keys = StaticKeys::new().dangerous_short_keys();
        assert!(keys.clone().add_key("n", "", []).is_err());
        assert!(keys.clone().add_key("n", "a b", []).is_err());
        let keys = keys.add_key("n", "s", []).unwrap();
        let found = keys.find(&KeyDigest::of("s")).await.unwrap();
        assert_eq!(found.map(|record| record.owner).as_deref(), Some("n"));
        assert!(keys.find(&KeyDigest::of("")).await.unwrap().is_none());
    }

    #[test]
    fn a_list_is_read_leniently_and_a_key_has_one_owner() {
        let keys = StaticKeys::new()
            .add_list(
                "c",
                " first-key ,, second-key,first-key,third-key",
                ["client"],
            )
            .unwrap();
        let named = |keys: &StaticKeys| -> Vec<_> {
            let names = keys.keys.iter().map(|record| record.id.to_string());
            names.collect()
        };
        let [first, second, third] = ["first-key", "second-key", "third-key"]
            .map(|key| format!("c-{}", first_digits(&KeyDigest::of(key))));
        assert_eq!(named(&keys), [&*first, &second, &third]);
        for record in &keys.keys {
            assert_eq!(record.owner, record.id.as_str());
            assert_eq!(record.lineage.as_str(), record.id.as_str());
        }
        // One is taken out, and another comes: those that stay are who they were.
        let rotated = StaticKeys::new()
            .add_list("c", "new-key-1,third-key,second-key", [])
            .unwrap();
        assert_eq!(named(&rotated)[1..], [&*third, &second]);
        let bad = StaticKeys::new().add_list("c", "first-key,,a;bad-key", []);
        let told = StaticKeyError::Key { name: "c-2".into() };
        assert_eq!(bad.unwrap_err(), told, "by its place");
        assert!(
            StaticKeys::new()
                .add_list("c", "", [])
                .unwrap()
                .keys
                .is_empty()
        );
        let many: Vec<_> = (0..=KEYS_MAX).map(|n| format!("client-key-{n}")).collect();
        let refused = StaticKeys::new().add_list("c", &many.join(","), []);
        assert_eq!(refused.unwrap_err(), StaticKeyError::TooMany);
    }
}
