//! The format of keys that were issued by another system.

use std::ops::RangeInclusive;

use super::Alphabet;

/// The longest key of any format, in bytes.
const LENGTH_MAX: u16 = 512;
const PREFIX_LENGTH_MAX: usize = 64;
/// The shortest prefix that distinguishes a key from other text, in bytes.
const TELLING_PREFIX_LENGTH_MIN: usize = 3;

/// The format of keys that were issued elsewhere, say by an old system or a partner. They have no
/// checksum, so garbage of the right form is detected only by a look-up.
///
/// ```
/// use tollgate::key::{Alphabet, ForeignFormat};
///
/// let sk = ForeignFormat::builder(Alphabet::Base64Url, 20..=164).prefix("sk-").build()?;
/// assert!(sk.matches("sk-proj-AbCdEfGhIjKlMnOpQrSt"));
/// assert!(sk.claims("sk-short") && !sk.matches("sk-short"));
///
/// let pat = ForeignFormat::builder(Alphabet::Base62, 82..=82).prefix("github_pat_").add_characters("_").build()?;
/// assert!(pat.matches(&format!("github_pat_{}", "0".repeat(82))));
///
/// let bare = ForeignFormat::builder(Alphabet::Hex, 32..=64).build()?;
/// assert!(bare.matches("0123456789abcdef0123456789abcdef"));
/// assert!(ForeignFormat::uuid().matches("6ba7b810-9dad-11d1-80b4-00c04fd430c8"));
/// # Ok::<(), tollgate::key::ForeignFormatError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignFormat {
    prefix: String,
    alphabet: Alphabet,
    characters: String,
    length: RangeInclusive<u16>,
}

/// The setting of a foreign format that is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignFormatError {
    /// `prefix` is over 64 bytes, or it or an added character can't be sent in a header.
    #[error("prefix and characters: printable ASCII except `,`, `;` and `\"`")]
    Characters,
    /// `length` is an empty range, or exceeds 512 with the prefix.
    #[error("length: 1 to {LENGTH_MAX} characters, with the prefix")]
    Length,
}

/// Makes a [`ForeignFormat`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ForeignFormatBuilder(ForeignFormat);

impl ForeignFormatBuilder {
    /// What every key begins with, compared byte for byte; empty by default. Without a prefix, any
    /// text that has the whole form counts as a key; choose characters and lengths that exclude
    /// what another layer should handle.
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.0.prefix);
        self
    }

    /// Characters allowed after the prefix in addition to the alphabet's.
    pub fn add_characters(mut self, characters: &str) -> Self {
        self.0.characters.push_str(characters);
        self
    }

    /// Builds the format.
    ///
    /// # Errors
    /// [`ForeignFormatError`] names the setting.
    pub fn build(self) -> Result<ForeignFormat, ForeignFormatError> {
        let format = self.0;
        let mut literal = format.prefix.bytes().chain(format.characters.bytes());
        if format.prefix.len() > PREFIX_LENGTH_MAX || !literal.all(is_speakable) {
            return Err(ForeignFormatError::Characters);
        }
        let prefix = u16::try_from(format.prefix.len()).unwrap_or(u16::MAX);
        let longest = format.length.end().saturating_add(prefix);
        if *format.length.start() == 0 || format.length.is_empty() || longest > LENGTH_MAX {
            return Err(ForeignFormatError::Length);
        }
        Ok(format)
    }
}

impl ForeignFormat {
    /// Starts a format of `length` characters of an alphabet, not counting the prefix.
    pub fn builder(alphabet: Alphabet, length: RangeInclusive<u16>) -> ForeignFormatBuilder {
        ForeignFormatBuilder(Self {
            prefix: String::new(),
            alphabet,
            characters: String::new(),
            length,
        })
    }

    /// A UUID in lower case: at most 122 random bits.
    #[must_use]
    pub fn uuid() -> Self {
        Self {
            prefix: String::new(),
            alphabet: Alphabet::Hex,
            characters: "-".to_owned(),
            length: 36..=36,
        }
    }

    /// A regular expression that finds keys of this format in other text, like
    /// [`KeyFormat::pattern`](super::KeyFormat::pattern). `None` if the prefix has fewer than three
    /// characters: a scanner would take every UUID, hash or word for a key.
    ///
    /// ```
    /// use tollgate::key::{Alphabet, ForeignFormat};
    ///
    /// let sk = ForeignFormat::builder(Alphabet::Base64Url, 20..=164).prefix("sk-").build()?;
    /// assert_eq!(sk.pattern().as_deref(), Some(r"\bsk-[0-9A-Za-z_-]{20,164}"));
    /// assert_eq!(ForeignFormat::uuid().pattern(), None);
    /// # Ok::<(), tollgate::key::ForeignFormatError>(())
    /// ```
    #[must_use]
    pub fn pattern(&self) -> Option<String> {
        if self.prefix.len() < TELLING_PREFIX_LENGTH_MIN {
            return None;
        }
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let begin = match self.prefix.as_bytes().first() {
            Some(first) if is_word(first) => r"\b",
            // There is no word boundary before other characters.
            _ => "",
        };
        let prefix = literal(&self.prefix).replace(r"\-", "-");
        let more = literal(&self.characters);
        let characters = self.alphabet.class();
        let (least, most) = (self.length.start(), self.length.end());
        let length = if least == most {
            least.to_string()
        } else {
            format!("{least},{most}")
        };
        Some(format!("{begin}{prefix}[{more}{characters}]{{{length}}}"))
    }

    /// Whether a text claims to be a key of this format: whether it has the prefix or, without one,
    /// the whole form.
    #[must_use]
    pub fn claims(&self, text: &str) -> bool {
        if self.prefix.is_empty() {
            self.matches(text)
        } else {
            text.starts_with(&self.prefix)
        }
    }

    /// Whether a text has the form of such a key.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let Some(body) = text.strip_prefix(&self.prefix) else {
            return false;
        };
        let belongs =
            |byte: u8| self.alphabet.contains(byte) || self.characters.as_bytes().contains(&byte);
        u16::try_from(body.len()).is_ok_and(|length| self.length.contains(&length))
            && body.bytes().all(belongs)
    }
}

/// Escapes a text for a regular expression, inside and outside of a class.
fn literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii_punctuation() && !matches!(character, '_' | '<' | '>') {
            literal.push('\\');
        }
        literal.push(character);
    }
    literal
}

/// Whether a key may contain this character: visible, and neither a separator nor a quote in a
/// header.
pub(crate) const fn is_speakable(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b',' | b'"' | b';')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_prefix_the_characters_and_the_length() {
        let format = ForeignFormat::builder(Alphabet::Base62, 4..=6)
            .prefix("sk-")
            .add_characters(".")
            .build()
            .unwrap();
        for good in ["sk-abcd", "sk-AB.9zZ"] {
            assert!(format.claims(good) && format.matches(good), "{good}");
        }
        for bad in ["sk-abc", "sk-abcdefg", "sk-ab_d", "sk-abcé", "sk-"] {
            assert!(format.claims(bad) && !format.matches(bad), "{bad}");
        }
        for other in ["", "sk", "SK-abcd", "abcd"] {
            assert!(!format.claims(other) && !format.matches(other), "{other}");
        }
    }

    #[test]
    fn without_a_prefix_only_the_whole_form_is_a_claim() {
        let uuid = ForeignFormat::uuid();
        assert!(uuid.claims("6ba7b810-9dad-11d1-80b4-00c04fd430c8"));
        for other in [
            "6ba7b810-9dad-11d1-80b4",
            "eyJhbGciOiJIUzI1NiJ9.e30.AAAA",
            "",
        ] {
            assert!(!uuid.claims(other), "{other}");
        }
    }

    #[test]
    fn a_scanner_finds_keys_whatever_they_are_made_of() {
        let odd: String = (0..=127_u8)
            .filter(|byte| is_speakable(*byte) && !byte.is_ascii_alphanumeric())
            .map(char::from)
            .collect();
        for prefix in ["sk-", "$a^", "[.*", &odd] {
            let format = ForeignFormat::builder(Alphabet::Hex, 4..=40)
                .prefix(prefix)
                .add_characters(&odd)
                .build()
                .unwrap();
            let pattern = regex::Regex::new(&format.pattern().unwrap()).unwrap();
            let key = format!("{prefix}{odd}0af");
            assert!(format.matches(&key), "{key}");
            let text = format!("key {key} and more");
            assert_eq!(pattern.find(&text).unwrap().as_str(), key);
            for other in [format!("{prefix}0ag0a"), odd.clone(), key.replace('0', "G")] {
                let found = pattern.find(&other).map(|found| found.as_str());
                assert!(found.is_none_or(|found| format.matches(found)), "{other}");
            }
            assert!(!pattern.is_match(&format!("{prefix}0agg")), "{pattern}");
        }
        for (prefix, length, expected) in [
            ("key_", 32..=32, Some(r"\bkey_[0-9a-f]{32}")),
            ("k_", 32..=32, None),
            ("", 32..=64, None),
        ] {
            let format = ForeignFormat::builder(Alphabet::Hex, length).prefix(prefix);
            let pattern = format.build().unwrap().pattern();
            assert_eq!(pattern.as_deref(), expected);
        }
    }

    #[test]
    fn what_no_key_is_sent_with_is_in_no_format() {
        let build = |prefix: &str, more: &str, length| {
            let builder = ForeignFormat::builder(Alphabet::Hex, length).prefix(prefix);
            builder.add_characters(more).build().map(|_| ())
        };
        assert_eq!(build("sk-", "+/=", 1..=509), Ok(()));
        for (prefix, more) in [("a b", ""), ("", ","), ("é", ""), (&"p".repeat(65), "")] {
            assert_eq!(
                build(prefix, more, 1..=9),
                Err(ForeignFormatError::Characters)
            );
        }
        #[expect(clippy::reversed_empty_ranges, reason = "it is to be refused")]
        for length in [0..=9, 9..=8, 1..=510] {
            assert_eq!(build("sk-", "", length), Err(ForeignFormatError::Length));
        }
    }
}
