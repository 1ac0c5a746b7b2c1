//! What an application notes beside a call.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

use crate::domain::is_deceptive;

/// How many tags a call has at most.
const TAGS_MAX: usize = 8;

/// The longest name, and the longest value, in bytes.
const LENGTH_MAX: usize = 64;

/// What an application notes beside a call, in its row of the usage log: the customer or the
/// feature that it was for, say. At most eight pairs of a name and a value, each of 1 to 64 bytes
/// without characters that control, can't be seen, or change the direction of writing; in the order
/// of their names. Empty ones allocate nothing. Serialized as a map.
///
/// ```
/// use tollgate::usage::Tags;
///
/// let tags = Tags::new().with("customer", "acme").with("feature", "summary");
/// assert_eq!(tags.get("customer"), Some("acme"));
/// assert!(Tags::new().insert("customer", "").is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "BTreeMap<Box<str>, Box<str>>")]
pub struct Tags(Vec<(Box<str>, Box<str>)>);

/// A tag that no call can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTag {
    /// The name or the value is empty, too long, or has a character that controls, can't be seen,
    /// or changes the direction of writing.
    #[error(
        "a tag's name and its value have 1 to 64 bytes each, and no control or invisible characters"
    )]
    Text,
    /// The call has as many as it can have.
    #[error("a call has at most 8 tags")]
    TooMany,
}

impl Tags {
    /// No tags.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Sets one, in place of one of the same name.
    ///
    /// # Errors
    /// [`InvalidTag`]; then nothing has changed.
    pub fn insert(&mut self, name: &str, value: &str) -> Result<(), InvalidTag> {
        if !is_valid(name) || !is_valid(value) {
            return Err(InvalidTag::Text);
        }
        let place = self.0.binary_search_by(|(known, _)| (**known).cmp(name));
        match place {
            Ok(found) => {
                if let Some((_, known)) = self.0.get_mut(found) {
                    *known = value.into();
                }
            }
            Err(_) if self.0.len() >= TAGS_MAX => return Err(InvalidTag::TooMany),
            Err(place) => self.0.insert(place, (name.into(), value.into())),
        }
        Ok(())
    }

    /// The same with one more. One that is not valid is left out, and the first such one is logged.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.note(name, value);
        self
    }

    /// Sets one. One that is not valid is left out, and the first such one is logged.
    pub(crate) fn note(&mut self, name: &str, value: &str) {
        static LOGGED: std::sync::Once = std::sync::Once::new();
        if let Err(error) = self.insert(name, value) {
            LOGGED.call_once(|| {
                tracing::warn!(
                    target: "tollgate",
                    %error,
                    name = name.get(..name.floor_char_boundary(LENGTH_MAX)).unwrap_or_default(),
                    "a call's tag is left out of the usage log; further ones are not logged"
                );
            });
        }
    }

    /// The value of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value)
    }

    /// All names with their values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn is_valid(text: &str) -> bool {
    (1..=LENGTH_MAX).contains(&text.len()) && !text.contains(is_deceptive)
}

impl Serialize for Tags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// Leaves out what is not valid.
impl From<BTreeMap<Box<str>, Box<str>>> for Tags {
    fn from(stored: BTreeMap<Box<str>, Box<str>>) -> Self {
        let mut tags = Self::new();
        for (name, value) in &stored {
            // Stored by another version, perhaps, whose bounds were wider.
            let _ = tags.insert(name, value);
        }
        tags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_have_bounds() {
        let (longest, longer) = ("ä".repeat(32), "a".repeat(65));
        let mut tags = Tags::new();
        for bad in [
            "",
            "a\0",
            "a\nb",
            "\u{7f}",
            "\u{85}",
            "\u{202e}a",
            "a\u{200b}",
            "\u{2028}",
            &longer,
        ] {
            assert_eq!(tags.insert(bad, "x"), Err(InvalidTag::Text), "{bad:?}");
            assert_eq!(tags.insert("x", bad), Err(InvalidTag::Text), "{bad:?}");
            assert!(Tags::new().with("x", bad).is_empty());
        }
        for number in 0..8 {
            tags.insert(&format!("name {number}"), &longest).unwrap();
        }
        let full = tags.clone();
        assert_eq!(tags.insert("one more", "x"), Err(InvalidTag::TooMany));
        assert_eq!(tags.clone().with("one more", "x"), full);
        tags.insert("name 3", "another value").unwrap();
        assert_eq!(tags.iter().count(), 8);
        assert_eq!(tags.get("name 3"), Some("another value"));
    }

    #[test]
    fn their_text_is_the_same_whatever_order_they_came_in() {
        let tags = Tags::new().with("b", "\"2\", or more").with("a", "1");
        let text = serde_json::to_string(&tags).unwrap();
        assert_eq!(text, r#"{"a":"1","b":"\"2\", or more"}"#);
        assert_eq!(Tags::new().with("a", "1").with("b", "\"2\", or more"), tags);
        assert_eq!(serde_json::from_str::<Tags>(&text).unwrap(), tags);
        let stored = r#"{"a":"1","":"x","b":"\u0000"}"#;
        let read: Tags = serde_json::from_str(stored).unwrap();
        assert_eq!(read, Tags::new().with("a", "1"));
    }
}
