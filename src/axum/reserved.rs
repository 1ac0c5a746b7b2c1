//! Refuses JSON in JSON, see [`is_reserved`].

use std::fmt;

use memchr::memmem;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::domain::json::is_reserved;

/// Fails where `json` has a member of a reserved name, however it is spelled, and where it is no JSON. What can't have one isn't
/// read for that.
pub(super) fn refuse(json: &[u8]) -> Result<(), serde_json::Error> {
    // Letters and signs are written as they are, or by their number.
    let may_have = [&b"$serde_json"[..], b"\\u"];
    if may_have
        .iter()
        .all(|text| memmem::find(json, text).is_none())
    {
        return Ok(());
    }
    let mut reader = serde_json::Deserializer::from_slice(json);
    Unreserved.deserialize(&mut reader)?;
    reader.end()
}

/// Any value, of whose members none has a reserved name.
#[derive(Clone, Copy)]
struct Unreserved;

impl<'de> DeserializeSeed<'de> for Unreserved {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unreserved {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while members.next_key_seed(Name)?.is_some() {
            members.next_value_seed(self)?;
        }
        Ok(())
    }
}

/// The name of a member.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<(), D::Error> {
        name.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<(), E> {
        if is_reserved(name) {
            Err(E::custom("a reserved name"))
        } else {
            Ok(())
        }
    }
}
