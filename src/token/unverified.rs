//! What a token says before it is verified: only whose it claims to be, to choose the one verifier
//! that judges it. That one checks the issuer again, with the signature.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::{
    header::{Segments, decode},
    strict::{Checked, DEPTH_MAX, Names, Text, set_once},
};

/// The `iss` of a token. `None` also if it can't be read beyond doubt: of a token with two, parsers
/// may choose either.
pub(super) fn issuer(token: &str) -> Option<String> {
    let json = decode(Segments::of(token).ok()?.claims).ok()?;
    let mut deserializer = serde_json::Deserializer::from_slice(&json);
    let issuer = Issuer.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    issuer.map(Cow::into_owned)
}

/// Reads the `iss` of a claims set, and the rest only for its form.
struct Issuer;

impl<'de> DeserializeSeed<'de> for Issuer {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Issuer {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JWT claims set")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let depth = DEPTH_MAX.saturating_sub(1);
        let mut issuer = None;
        let mut others = Names::default();
        while let Some(Text(name)) = members.next_key()? {
            if name == "iss" {
                set_once(&mut issuer, members.next_value::<Text<'_>>()?.0)?;
            } else {
                members.next_value_seed(Checked { depth })?;
                others.admit(name)?;
            }
        }
        Ok(issuer)
    }
}
