//! The header of a JOSE object: members that are read, members that are refused, and others, of
//! which only the form matters (RFC 7515 section 4, RFC 7516 section 4).

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::{
    TokenError,
    strict::{Checked, DEPTH_MAX, Names, Text, set_once, skip},
};

/// The names of members.
#[derive(Clone, Copy)]
pub(super) struct Members<const N: usize> {
    /// Texts, each at most once.
    pub(super) read: [&'static str; N],
    /// They change what the object means, in ways that aren't supported.
    pub(super) refused: &'static [&'static str],
}

/// What a header has of them.
pub(super) struct Found<'de, const N: usize> {
    /// In the order of [`Members::read`].
    pub(super) texts: [Option<Cow<'de, str>>; N],
    pub(super) asks_too_much: bool,
}

impl<const N: usize> Members<N> {
    pub(super) fn find(self, json: &[u8]) -> Result<Found<'_, N>, TokenError> {
        let mut header = serde_json::Deserializer::from_slice(json);
        self.deserialize(&mut header)
            .and_then(|found| header.end().map(|()| found))
            .map_err(|_| TokenError::malformed("the header is not a well-formed JSON object"))
    }
}

impl<'de, const N: usize> DeserializeSeed<'de> for Members<N> {
    type Value = Found<'de, N>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Members<N> {
    type Value = Found<'de, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JOSE header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = Found {
            texts: [const { None }; N],
            asks_too_much: false,
        };
        let mut names = Names::default();
        while let Some(Text(name)) = members.next_key()? {
            let mut places = self.read.iter().zip(&mut found.texts);
            if let Some((_, place)) = places.find(|(known, _)| **known == name) {
                set_once(place, members.next_value::<Text<'_>>()?.0)?;
            } else if self.refused.contains(&name.as_ref()) {
                found.asks_too_much = true;
                skip(&mut members)?;
            } else {
                names.admit(name)?;
                members.next_value_seed(Checked {
                    depth: DEPTH_MAX.saturating_sub(1),
                })?;
            }
        }
        Ok(found)
    }
}
