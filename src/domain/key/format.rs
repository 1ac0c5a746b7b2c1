//! Key formats: keys are generated, recognised and checked without a look-up.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{Alphabet, KeyDigest};

/// The random bits that a key must have besides its checksum (OWASP ASVS 5.0, 6.5.2 and 11.5.1).
const RANDOM_BITS_MIN: u32 = 128;
/// The longest random part including its checksum, in characters.
const LENGTH_MAX: u8 = 128;
const SEPARATOR_LENGTH_MAX: usize = 4;
/// Characters of the random part that a preview shows at each end.
const PREVIEW_SHOWN: usize = 4;

/// The setting of a key format that is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFormatError {
    /// `prefix` or an environment is empty, too long, or has characters other than `a-z`, `A-Z` and
    /// `0-9`.
    #[error("prefix and environments: 1 to 16 letters and digits each")]
    Label,
    /// `separator` is too long or has characters other than `-`, `_`, `.` and `~`.
    #[error("separator: at most 4 of the characters `-`, `_`, `.` and `~`")]
    Separator,
    /// `length` leaves fewer than 128 random bits besides the checksum, or is over 128.
    #[error(
        "length: at least 128 random bits besides the checksum, at most {LENGTH_MAX} characters"
    )]
    Length,
}

/// A text is not a key of this format. The error doesn't say where it differs: that would only help
/// somebody who guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a key of this format")]
pub struct MalformedKey;

/// The format of a service's own keys: `prefix_environment_random`, where the last six characters
/// are a checksum. For keys that were issued elsewhere use a
/// [`ForeignFormat`](super::ForeignFormat).
///
/// The checksum (a CRC-32 of everything before it) lets garbage be refused before it is hashed or
/// looked up. It is not a security measure and needn't be.
///
/// ```
/// use tollgate::key::{Alphabet, KeyFormat};
///
/// let format = KeyFormat::builder("ps")
///     .environments(["live", "test"])
///     .alphabet(Alphabet::LowerAlphanumeric)
///     .length(32)
///     .build()?;
/// let key = format.generate(Some("live"))?;
/// assert!(key.expose().starts_with("ps_live_"));
/// assert_eq!(key.expose().len(), "ps_live_".len() + 32);
/// assert_eq!(format.parse(key.expose())?, Some("live"));
/// assert!(format.parse("ps_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6").is_err(), "wrong checksum");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFormat {
    /// `prefix_` or `prefix_environment_`, with the environment's name.
    starts: Vec<(String, Option<String>)>,
    prefix: String,
    separator: String,
    alphabet: Alphabet,
    length: u8,
    checksum: bool,
}

/// Makes a [`KeyFormat`].
#[derive(Clone, Debug)]
#[must_use]
pub struct KeyFormatBuilder {
    prefix: String,
    environments: Vec<String>,
    separator: String,
    alphabet: Alphabet,
    length: u8,
    checksum: bool,
}

impl KeyFormatBuilder {
    /// The environments that may follow the prefix; none by default.
    pub fn environments<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.environments = names.into_iter().map(str::to_owned).collect();
        self
    }

    /// The separator after the prefix and after the environment: at most 4 of `-`, `_`, `.` and
    /// `~`; `_` by default. If it is empty, every text that begins with the prefix claims to be a
    /// key.
    pub fn separator(mut self, separator: &str) -> Self {
        separator.clone_into(&mut self.separator);
        self
    }

    /// The characters of the random part; [`Alphabet::Base62`] by default.
    pub fn alphabet(mut self, alphabet: Alphabet) -> Self {
        self.alphabet = alphabet;
        self
    }

    /// The length of the random part including its checksum, in characters; 32 by default.
    pub fn length(mut self, characters: u8) -> Self {
        self.length = characters;
        self
    }

    /// No checksum, for keys that were issued elsewhere: then garbage is detected only by a
    /// look-up.
    pub fn without_checksum(mut self) -> Self {
        self.checksum = false;
        self
    }

    /// Builds the format.
    ///
    /// # Errors
    /// [`KeyFormatError`] names the setting.
    pub fn build(self) -> Result<KeyFormat, KeyFormatError> {
        let label = |text: &str| {
            (1..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        if !label(&self.prefix) || !self.environments.iter().all(|name| label(name)) {
            return Err(KeyFormatError::Label);
        }
        let separates = |byte| matches!(byte, b'-' | b'_' | b'.' | b'~');
        if self.separator.len() > SEPARATOR_LENGTH_MAX || !self.separator.bytes().all(separates) {
            return Err(KeyFormatError::Separator);
        }
        let random = u32::from(self.length).saturating_sub(if self.checksum { 6 } else { 0 });
        let millibits = random.saturating_mul(self.alphabet.millibits());
        if self.length > LENGTH_MAX || millibits < RANDOM_BITS_MIN.saturating_mul(1_000) {
            return Err(KeyFormatError::Length);
        }
        let Self {
            alphabet,
            length,
            checksum,
            separator,
            ..
        } = self;
        let prefix = format!("{}{separator}", self.prefix);
        let starts = if self.environments.is_empty() {
            vec![(prefix.clone(), None)]
        } else {
            let start = |name: String| (format!("{prefix}{name}{separator}"), Some(name));
            self.environments.into_iter().map(start).collect()
        };
        Ok(KeyFormat {
            starts,
            prefix,
            separator,
            alphabet,
            length,
            checksum,
        })
    }
}

impl KeyFormat {
    /// Starts a format whose keys begin with `prefix_`, unless another
    /// [`separator`](KeyFormatBuilder::separator) is set.
    pub fn builder(prefix: &str) -> KeyFormatBuilder {
        KeyFormatBuilder {
            prefix: prefix.to_owned(),
            environments: Vec::new(),
            separator: "_".to_owned(),
            alphabet: Alphabet::Base62,
            length: 32,
            checksum: true,
        }
    }

    /// `prefix_` and 43 URL-safe characters with a checksum: 222 random bits.
    ///
    /// # Errors
    /// [`KeyFormatError::Label`].
    pub fn url_safe(prefix: &str) -> Result<Self, KeyFormatError> {
        let builder = Self::builder(prefix).alphabet(Alphabet::Base64Url);
        builder.length(43).build()
    }

    /// `prefix_live_` or `prefix_test_` and 32 lower-case letters and digits with a checksum: 134
    /// random bits.
    ///
    /// # Errors
    /// [`KeyFormatError::Label`].
    pub fn live_and_test(prefix: &str) -> Result<Self, KeyFormatError> {
        let builder = Self::builder(prefix).environments(["live", "test"]);
        builder.alphabet(Alphabet::LowerAlphanumeric).build()
    }

    /// A regular expression that finds keys of this format in other text, for secret scanners and
    /// for redacting logs. It uses only syntax that all engines understand, and does not verify the
    /// checksum: use [`parse`](Self::parse) for that. A key
    /// that was found is ended by
    /// [`Keyring::revoke_leaked`](crate::keyring::Keyring::revoke_leaked).
    ///
    /// ```
    /// use tollgate::key::KeyFormat;
    ///
    /// let format = KeyFormat::live_and_test("ps")?;
    /// assert_eq!(format.pattern(), r"\bps_(?:live|test)_[0-9a-z]{32}");
    /// # Ok::<(), tollgate::key::KeyFormatError>(())
    /// ```
    #[must_use]
    pub fn pattern(&self) -> String {
        let environments: Vec<_> = self
            .starts
            .iter()
            .filter_map(|(_, environment)| environment.as_deref())
            .collect();
        let environment = match environments.as_slice() {
            [] => String::new(),
            several => format!("(?:{}){}", several.join("|"), self.separator),
        };
        // The dot is the only separator character with a meaning in regular expressions.
        let literal = |text: &str| text.replace('.', r"\.");
        let (prefix, environment) = (literal(&self.prefix), literal(&environment));
        let (characters, length) = (self.alphabet.class(), self.length);
        format!(r"\b{prefix}{environment}[{characters}]{{{length}}}")
    }

    /// Whether a text claims to be a key of this format: whether it begins with the prefix.
    #[must_use]
    pub fn claims(&self, text: &str) -> bool {
        text.starts_with(&self.prefix)
    }

    /// Checks a key as far as possible without a look-up, and returns its environment.
    ///
    /// # Errors
    /// [`MalformedKey`]: wrong start, length, character or checksum.
    pub fn parse(&self, text: &str) -> Result<Option<&str>, MalformedKey> {
        // At most one start fits: starts of equal length differ, and with starts of different
        // lengths the rest has the right length only once.
        let fits = |(start, _): &&(String, Option<String>)| {
            let body = text.strip_prefix(start.as_str());
            body.is_some_and(|body| self.is_body(body))
        };
        let (_, environment) = self.starts.iter().find(fits).ok_or(MalformedKey)?;
        if self.checksum {
            let end = text.len().checked_sub(6).ok_or(MalformedKey)?;
            let (covered, sum) = text.split_at_checked(end).ok_or(MalformedKey)?;
            if sum.as_bytes() != self.checksum_of(covered) {
                return Err(MalformedKey);
            }
        }
        Ok(environment.as_deref())
    }

    fn is_body(&self, body: &str) -> bool {
        body.len() == usize::from(self.length) && self.alphabet.spells(body)
    }

    /// Whether there is such an environment; `None` counts as one if the format has none.
    pub(crate) fn has_environment(&self, environment: Option<&str>) -> bool {
        self.starts
            .iter()
            .any(|(_, name)| name.as_deref() == environment)
    }

    /// Generates a new key from the system's randomness.
    ///
    /// # Errors
    /// [`GenerateKeyError`]: the format has no such environment, or the system provided no
    /// randomness.
    pub fn generate(&self, environment: Option<&str>) -> Result<ApiKey, GenerateKeyError> {
        let fits = |(_, name): &&(String, Option<String>)| name.as_deref() == environment;
        let (start, _) = self
            .starts
            .iter()
            .find(fits)
            .ok_or(GenerateKeyError::UnknownEnvironment)?;
        let random = usize::from(self.length).saturating_sub(if self.checksum { 6 } else { 0 });
        let mut key = Zeroizing::new(start.clone());
        key.reserve_exact(usize::from(self.length));
        self.push_random(&mut key, random)?;
        if self.checksum {
            let sum = self.checksum_of(&key);
            key.extend(sum.iter().copied().map(char::from));
        }
        let preview = self.preview(&key);
        Ok(ApiKey {
            preview,
            secret: SecretString::from(key.as_str()),
        })
    }

    /// `ps_live_abcd...xyz9`: the start, and four characters from each end of the random part.
    fn preview(&self, key: &str) -> String {
        let body_at = key.len().saturating_sub(usize::from(self.length));
        let head = key
            .get(..body_at.saturating_add(PREVIEW_SHOWN))
            .unwrap_or_default();
        let tail = key
            .get(key.len().saturating_sub(PREVIEW_SHOWN)..)
            .unwrap_or_default();
        format!("{head}...{tail}")
    }

    /// Uniform characters: bytes at or above the largest multiple of the alphabet's size are
    /// rejected.
    fn push_random(&self, key: &mut String, count: usize) -> Result<(), GenerateKeyError> {
        let characters = self.alphabet.characters();
        let size = characters.len();
        let fair = 256_usize.saturating_sub(256_usize.checked_rem(size).unwrap_or(0));
        let target = key.len().saturating_add(count);
        let mut pool = Zeroizing::new([0_u8; 64]);
        while key.len() < target {
            getrandom::fill(pool.as_mut()).map_err(|_| GenerateKeyError::NoRandomness)?;
            let fair_draws = pool
                .iter()
                .map(|byte| usize::from(*byte))
                .filter(|byte| *byte < fair);
            for draw in fair_draws.take(target.saturating_sub(key.len())) {
                let index = draw.checked_rem(size).unwrap_or(0);
                key.extend(characters.get(index).copied().map(char::from));
            }
        }
        Ok(())
    }

    fn checksum_of(&self, covered: &str) -> [u8; 6] {
        self.alphabet.spell(crc32fast::hash(covered.as_bytes()))
    }
}

/// Why no key was generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateKeyError {
    /// The format has no such environment.
    #[error("the key format has no such environment")]
    UnknownEnvironment,
    /// The system provided no randomness.
    #[error("the system provided no randomness")]
    NoRandomness,
}

/// A new key in plaintext: shown once, never stored. Redacted in `Debug`, wiped from memory when
/// dropped.
#[derive(Clone)]
pub struct ApiKey {
    preview: String,
    secret: SecretString,
}

impl ApiKey {
    /// The plaintext key, to be shown to its owner this once.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.secret.expose_secret()
    }

    /// The part that may be stored and shown.
    #[must_use]
    pub fn preview(&self) -> &str {
        &self.preview
    }

    /// The digest by which it is stored and looked up.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        KeyDigest::of(self.expose())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", self.preview)
    }
}

#[cfg(test)]
mod tests;
