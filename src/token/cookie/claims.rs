//! A session cookie's claims, read in one pass.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::KeptClaims;
use crate::{
    domain::clock::Timestamp,
    token::{
        claims::{NumericDate, Texts},
        strict::{Checked, DEPTH_MAX, Names, Text},
    },
};

/// The claims as in the cookie, checked only for form and type.
#[derive(Default)]
pub(super) struct CookieClaims<'de> {
    pub(super) subject: Option<Cow<'de, str>>,
    pub(super) email: Option<Cow<'de, str>>,
    pub(super) name: Option<Cow<'de, str>>,
    pub(super) id: Option<Cow<'de, str>>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) issued_at: Option<Timestamp>,
    pub(super) roles: Vec<Cow<'de, str>>,
    pub(super) kept: Vec<(String, String)>,
}

/// Reads [`CookieClaims`], with the other claims that were requested.
pub(super) struct CookieClaimsSeed<'a>(pub(super) &'a KeptClaims);

impl<'de> DeserializeSeed<'de> for CookieClaimsSeed<'_> {
    type Value = CookieClaims<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for CookieClaimsSeed<'_> {
    type Value = CookieClaims<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JWT claims set")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut claims = CookieClaims::default();
        let mut names = Names::default();
        while let Some(Text(name)) = members.next_key()? {
            names.admit(name.clone())?;
            match name.as_ref() {
                "sub" => claims.subject = text_or_null(&mut members)?,
                "email" => claims.email = text_or_null(&mut members)?,
                "name" => claims.name = text_or_null(&mut members)?,
                "jti" => claims.id = text_or_null(&mut members)?,
                "exp" => claims.expires_at = Some(members.next_value::<NumericDate>()?.0),
                "nbf" => claims.not_before = Some(members.next_value::<NumericDate>()?.0),
                "iat" => claims.issued_at = Some(members.next_value::<NumericDate>()?.0),
                other if self.0.roles.as_deref() == Some(other) => {
                    claims.roles = match members.next_value::<Option<Texts<'de>>>()? {
                        None => Vec::new(),
                        Some(Texts::One(role)) => vec![role],
                        Some(Texts::Many(roles)) => roles,
                    };
                }
                other if self.0.attributes.iter().any(|kept| **kept == *other) => {
                    let value = checked_text(members.next_value()?)?;
                    claims
                        .kept
                        .extend(value.map(|value| (name.into_owned(), value)));
                }
                _ => members.next_value_seed(CHECKED)?,
            }
        }
        Ok(claims)
    }
}

const CHECKED: Checked = Checked {
    depth: DEPTH_MAX.saturating_sub(1),
};

/// NextAuth writes `null` for what a provider didn't supply.
fn text_or_null<'de, A: MapAccess<'de>>(
    members: &mut A,
) -> Result<Option<Cow<'de, str>>, A::Error> {
    Ok(members
        .next_value::<Option<Text<'de>>>()?
        .map(|text| text.0))
}

/// Checks a value's form; returns its text if it is a string.
fn checked_text<E: serde::de::Error>(raw: &RawValue) -> Result<Option<String>, E> {
    let mut deserializer = serde_json::Deserializer::from_str(raw.get());
    CHECKED.deserialize(&mut deserializer).map_err(E::custom)?;
    Ok(serde_json::from_str(raw.get()).ok())
}
