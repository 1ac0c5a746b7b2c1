//! A token's claims (RFC 7519 section 4), read in one pass.

use std::{borrow::Cow, collections::BTreeMap, fmt, time::Duration};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, value::RawValue};

use super::strict::{Checked, DEPTH_MAX, Names, Text, set_once};
use crate::domain::clock::Timestamp;

/// How many roles, or audiences, a token may name.
pub(super) const LIST_LENGTH_MAX: usize = 64;

/// The claims as in the token, checked only for form and type.
#[derive(Default)]
pub(super) struct Claims<'de> {
    pub(super) issuer: Option<Cow<'de, str>>,
    pub(super) subject: Option<Cow<'de, str>>,
    pub(super) audience: Option<Texts<'de>>,
    pub(super) expires_at: Option<NumericDate>,
    pub(super) not_before: Option<NumericDate>,
    pub(super) issued_at: Option<NumericDate>,
    pub(super) id: Option<Cow<'de, str>>,
    pub(super) session: Option<Cow<'de, str>>,
    pub(super) token_use: Option<Cow<'de, str>>,
    /// The claim, not the header's `typ`: some providers state the kind of token here.
    pub(super) typ: Option<Typ<'de>>,
    pub(super) roles: Option<List<'de>>,
    pub(super) kept: BTreeMap<String, Value>,
}

/// Reads [`Claims`], with the other claims that were requested.
pub(super) struct ClaimsSeed<'a> {
    pub(super) kept: &'a [Box<str>],
    /// Whether `roles` is an ordinary claim.
    pub(super) roles_elsewhere: bool,
}

impl<'de> DeserializeSeed<'de> for ClaimsSeed<'_> {
    type Value = Claims<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ClaimsSeed<'_> {
    type Value = Claims<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JWT claims set")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let depth = DEPTH_MAX.saturating_sub(1);
        let mut claims = Claims::default();
        let mut others = Names::default();
        while let Some(Text(name)) = members.next_key()? {
            let place = self.place(&name);
            let raw = if self.kept.iter().any(|kept| **kept == *name) {
                let raw: &RawValue = members.next_value()?;
                let value = checked_value(raw, depth)?;
                claims.kept.insert(name.clone().into_owned(), value);
                Some(raw)
            } else {
                None
            };
            match (place, raw) {
                (Some(place), None) => members.next_value_seed(Filling(place, &mut claims))?,
                (Some(place), Some(raw)) => {
                    let mut value = serde_json::Deserializer::from_str(raw.get());
                    let read = Filling(place, &mut claims).deserialize(&mut value);
                    read.map_err(A::Error::custom)?;
                }
                (None, None) => members.next_value_seed(Checked { depth })?,
                (None, Some(_)) => {}
            }
            if place.is_none() {
                others.admit(name)?;
            }
        }
        Ok(claims)
    }
}

/// A claim that has a field of its own in [`Claims`], and a type.
#[derive(Clone, Copy)]
enum Place {
    Issuer,
    Subject,
    Audience,
    ExpiresAt,
    NotBefore,
    IssuedAt,
    Id,
    Session,
    TokenUse,
    Typ,
    Roles,
}

impl ClaimsSeed<'_> {
    fn place(&self, name: &str) -> Option<Place> {
        Some(match name {
            "iss" => Place::Issuer,
            "sub" => Place::Subject,
            "aud" => Place::Audience,
            "exp" => Place::ExpiresAt,
            "nbf" => Place::NotBefore,
            "iat" => Place::IssuedAt,
            "jti" => Place::Id,
            "sid" => Place::Session,
            "token_use" => Place::TokenUse,
            "typ" => Place::Typ,
            // Of any type if it doesn't contain the roles.
            "roles" if !self.roles_elsewhere => Place::Roles,
            _ => return None,
        })
    }
}

/// Reads a value into its field, if that isn't set yet.
struct Filling<'a, 'de>(Place, &'a mut Claims<'de>);

impl<'de> DeserializeSeed<'de> for Filling<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        let Self(place, claims) = self;
        match place {
            Place::Issuer => set_once(&mut claims.issuer, text(value)?),
            Place::Subject => set_once(&mut claims.subject, text(value)?),
            Place::Audience => set_once(&mut claims.audience, Texts::deserialize(value)?),
            Place::ExpiresAt => set_once(&mut claims.expires_at, NumericDate::deserialize(value)?),
            Place::NotBefore => set_once(&mut claims.not_before, NumericDate::deserialize(value)?),
            Place::IssuedAt => set_once(&mut claims.issued_at, NumericDate::deserialize(value)?),
            Place::Id => set_once(&mut claims.id, text(value)?),
            Place::Session => set_once(&mut claims.session, text(value)?),
            Place::TokenUse => set_once(&mut claims.token_use, text(value)?),
            Place::Typ => set_once(&mut claims.typ, Typ::deserialize(value)?),
            Place::Roles => set_once(&mut claims.roles, List::deserialize(value)?),
        }
    }
}

fn text<'de, D: Deserializer<'de>>(value: D) -> Result<Cow<'de, str>, D::Error> {
    Text::deserialize(value).map(|text| text.0)
}

/// Not a registered claim, so it may contain anything; anything but a string is ignored.
pub(super) struct Typ<'de>(Option<Cow<'de, str>>);

impl Typ<'_> {
    pub(super) fn text(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl<'de> Deserialize<'de> for Typ<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        let mut value = serde_json::Deserializer::from_str(raw);
        if raw.starts_with('"') {
            let typ = text(&mut value).map_err(D::Error::custom)?;
            return Ok(Self(Some(typ)));
        }
        let depth = DEPTH_MAX.saturating_sub(1);
        let checked = Checked { depth }.deserialize(&mut value);
        checked.map_err(D::Error::custom)?;
        Ok(Self(None))
    }
}

fn checked_value<E: Error>(raw: &RawValue, depth: usize) -> Result<Value, E> {
    let mut deserializer = serde_json::Deserializer::from_str(raw.get());
    Checked { depth }
        .deserialize(&mut deserializer)
        .map_err(E::custom)?;
    serde_json::from_str(raw.get()).map_err(E::custom)
}

/// A moment in seconds since 1970, possibly fractional; never a string, null, negative or infinite.
#[derive(Clone, Copy)]
pub(super) struct NumericDate(pub(super) Timestamp);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Read as text, because how a number is deserialized depends on features that other crates
        // may enable.
        let number = <&RawValue>::deserialize(deserializer)?.get();
        if let Ok(seconds) = number.parse::<u64>() {
            return moment(Duration::from_secs(seconds));
        }
        let seconds = number.parse::<f64>().map_err(D::Error::custom)?;
        moment(Duration::try_from_secs_f64(seconds).map_err(D::Error::custom)?)
    }
}

fn moment<E: Error>(since_1970: Duration) -> Result<NumericDate, E> {
    match Timestamp::UNIX_EPOCH.checked_add(since_1970) {
        Ok(moment) => Ok(NumericDate(moment)),
        // Some issuers write "never" as the last day of 9999, which is partly beyond our calendar.
        Err(_) if since_1970 < YEAR_10000 => Ok(NumericDate(Timestamp::MAX)),
        Err(error) => Err(E::custom(error)),
    }
}

/// From 1970 until the year 10000.
const YEAR_10000: Duration = Duration::from_secs(253_402_300_800);

/// An array of strings; null is an empty one.
pub(super) struct List<'de>(pub(super) Vec<Cow<'de, str>>);

impl<'de> Deserialize<'de> for List<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor;

        impl<'de> Visitor<'de> for ListVisitor {
            type Value = List<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of strings")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
                texts(items).map(List)
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(List(Vec::new()))
            }
        }

        deserializer.deserialize_any(ListVisitor)
    }
}

/// A string, or an array of strings.
pub(super) enum Texts<'de> {
    One(Cow<'de, str>),
    Many(Vec<Cow<'de, str>>),
}

impl Texts<'_> {
    pub(super) fn contains(&self, wanted: &str) -> bool {
        match self {
            Self::One(text) => text == wanted,
            Self::Many(texts) => texts.iter().any(|text| text == wanted),
        }
    }
}

impl<'de> Deserialize<'de> for Texts<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextsVisitor;

        impl<'de> Visitor<'de> for TextsVisitor {
            type Value = Texts<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Texts::One(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Texts::One(Cow::Owned(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
                texts(items).map(Texts::Many)
            }
        }

        deserializer.deserialize_any(TextsVisitor)
    }
}

fn texts<'de, A: SeqAccess<'de>>(mut items: A) -> Result<Vec<Cow<'de, str>>, A::Error> {
    let mut texts = Vec::new();
    while let Some(Text(text)) = items.next_element()? {
        if texts.len() >= LIST_LENGTH_MAX {
            return Err(A::Error::custom("too many items"));
        }
        texts.push(text);
    }
    Ok(texts)
}
