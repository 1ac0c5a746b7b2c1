//! A JSON body that is taken at its word.

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, OptionalFromRequest, Request},
    http::StatusCode,
};
use serde::{
    Deserializer,
    de::{DeserializeOwned, Visitor},
};

use super::{
    paced::{Paced, TooSlow},
    reserved,
};
use crate::domain::denial::{Denial, DenialKind};

/// A JSON body, whatever its `content-type` says: `curl -d` sends JSON as a form. Bounded by axum's
/// body limit (2 MB unless a `DefaultBodyLimit` on the route or the router sets another: what anybody may send to a login
/// should be a few kilobytes). An `Option<JsonBody<T>>` may be left out.
///
/// Refused with 400 when it isn't JSON, with 422 when it isn't the JSON that was asked for (an array is
/// no object, though serde would read one as a struct; nor has any object, at any depth, the member
/// `$serde_json::private::RawValue`, by which a few kilobytes overflow the stack of whoever reads a `serde_json::Value` while that crate's
/// feature `raw_value` is on, as it is with this crate, sqlx and axum's `Json`), with 413 when it is too large, and with 408 when nothing of it comes for 10
/// seconds, or not all of it within 30.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Denial;

    async fn from_request(request: Request, state: &S) -> Result<Self, Denial> {
        parse(&whole(request, state).await?)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> OptionalFromRequest<S> for JsonBody<T> {
    type Rejection = Denial;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Denial> {
        let bytes = whole(request, state).await?;
        if bytes.is_empty() {
            Ok(None)
        } else {
            parse(&bytes).map(Some)
        }
    }
}

/// All of a body as it came, within the bounds in length and time that a [`JsonBody`] has: for what isn't JSON.
#[derive(Clone, Debug, Default)]
pub struct WholeBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for WholeBody {
    type Rejection = Denial;

    async fn from_request(request: Request, state: &S) -> Result<Self, Denial> {
        whole(request, state).await.map(Self)
    }
}

async fn whole<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Denial> {
    let request = request.map(|body| Body::new(Paced::new(body)));
    Bytes::from_request(request, state)
        .await
        .map_err(|rejection| {
            let kind = match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => DenialKind::TooLarge,
                _ if TooSlow::is_why(&rejection) => DenialKind::TooSlow,
                _ => DenialKind::Malformed,
            };
            Denial::new(kind).because(rejection.body_text())
        })
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<JsonBody<T>, Denial> {
    read(json)
        .map(JsonBody)
        .map_err(|error| not_the_json(&error))
}

/// serde's words name a field and a place; they may repeat a value, so only the place and the kind are told.
fn not_the_json(error: &serde_json::Error) -> Denial {
    let place = format!("line {} column {}", error.line(), error.column());
    if error.is_data() {
        Denial::new(DenialKind::Unprocessable).with_message(format!(
            "The JSON body is not what is expected here ({place})"
        ))
    } else {
        Denial::new(DenialKind::Malformed)
            .with_message(format!("The body is not valid JSON ({place})"))
    }
}

fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    reserved::refuse(json)?;
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = T::deserialize(NamedMembers(&mut deserializer))?;
    deserializer.end()?;
    Ok(value)
}

/// Reads a struct from an object only: an array would be taken member by member.
struct NamedMembers<D>(D);

/// Hands calls on as they are.
macro_rules! hand_on {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(visitor)
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for NamedMembers<D> {
    type Error = D::Error;

    hand_on! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32
        deserialize_i64 deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32
        deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char
        deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
        deserialize_unit deserialize_seq deserialize_map deserialize_identifier
        deserialize_ignored_any
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_option(Inside(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple(length, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple_struct(name, length, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }
}

/// Reads what is in an `Option` like the whole.
struct Inside<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Inside<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.expecting(f)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(NamedMembers(inner))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;

    /// A body that begins, and of which no more comes.
    struct Silent(Option<Bytes>);

    impl http_body::Body for Silent {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
            match self.0.take() {
                Some(start) => std::task::Poll::Ready(Some(Ok(http_body::Frame::data(start)))),
                None => std::task::Poll::Pending,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_falls_silent_is_refused() {
        let silent = |start: &'static str| {
            let body = Body::new(Silent(Some(Bytes::from_static(start.as_bytes()))));
            Request::new(body)
        };
        let refused = |answer: Result<_, Denial>| answer.err().map(|denial| denial.kind());
        let json = <JsonBody<Value> as FromRequest<()>>::from_request(silent("{"), &()).await;
        assert_eq!(refused(json.map(drop)), Some(DenialKind::TooSlow));
        let perhaps = <JsonBody<Value> as OptionalFromRequest<()>>::from_request(silent(""), &());
        assert_eq!(refused(perhaps.await.map(drop)), Some(DenialKind::TooSlow));
        let whole = WholeBody::from_request(silent("a"), &()).await;
        assert_eq!(refused(whole.map(drop)), Some(DenialKind::TooSlow));
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Payment {
        amount: u64,
    }

    #[test]
    fn a_struct_is_an_object() {
        assert_eq!(
            read::<Payment>(br#"{"amount":1}"#).unwrap(),
            Payment { amount: 1 }
        );
        assert_eq!(
            read::<Option<Payment>>(br#"{"amount":1}"#).unwrap(),
            Some(Payment { amount: 1 })
        );
        assert_eq!(read::<Option<Payment>>(b"null").unwrap(), None);
        for text in [
            "[1]",
            "1",
            "null",
            "\"a\"",
            "{}",
            r#"{"amount":1,"amount":2}"#,
            r#"{"amount":1} x"#,
        ] {
            assert!(read::<Payment>(text.as_bytes()).is_err(), "{text}");
        }
        assert!(read::<Option<Payment>>(b"[1]").is_err());
    }

    #[test]
    fn no_body_is_read_as_json_in_json() {
        let bare = r#"{"$serde_json::private::RawValue":"[1]"}"#;
        let spelled = r#"{"\u0024serde_json::private::RawValue":"[1]"}"#;
        let deep = format!(r#"[{{"a":{{"b":[{bare}]}}}}]"#);
        for json in [bare, spelled, &deep] {
            assert!(
                read::<Value>(json.as_bytes()).unwrap_err().is_data(),
                "{json}"
            );
            let other = json.replace("private", "public");
            assert!(read::<Value>(other.as_bytes()).is_ok(), "{json}");
        }
        let said = r#"{"text":"$serde_json::private::RawValue \u00e9"}"#;
        assert!(read::<Value>(said.as_bytes()).is_ok(), "a text may say so");
        let words = read::<Value>(br#"["$serde_json::private::RawValue" "#).unwrap_err();
        assert!(words.is_eof());
    }

    #[test]
    fn what_asks_for_an_array_or_for_anything_gets_it() {
        assert_eq!(read::<Vec<u8>>(b"[1]").unwrap(), [1]);
        assert!(read::<Value>(b"[1]").unwrap().is_array());
        assert_eq!(read::<(u8, u8)>(b"[1,2]").unwrap(), (1, 2));
    }
}
