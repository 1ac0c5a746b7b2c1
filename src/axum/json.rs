//! A strict JSON body.

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

/// A JSON body, whatever its `content-type` says: `curl -d` sends JSON as a form. Limited by axum's
/// body limit (2 MB unless a `DefaultBodyLimit` on the route or the router sets another; a login,
/// which anybody may call, should allow only a few kilobytes). `Option<JsonBody<T>>` makes the body
/// optional.
///
/// Refused with 400 if it isn't JSON, with 422 if it isn't the expected JSON, with 413 if it is too
/// large, and with 408 if nothing arrives for 10 seconds or it is not complete within 30.
///
/// An array doesn't count as an object, though serde would read a struct from one. No object at any
/// depth may have the member `$serde_json::private::RawValue`: with serde_json's feature
/// `raw_value`, which this crate, sqlx and axum's `Json` enable, a few kilobytes of it overflow the
/// stack of anything that reads a `serde_json::Value`.
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

/// A whole body as received, within the same limits on length and time as a [`JsonBody`]: for what
/// isn't JSON.
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
                _ if TooSlow::is_cause_of(&rejection) => DenialKind::TooSlow,
                _ => DenialKind::Malformed,
            };
            Denial::new(kind).because(rejection.body_text())
        })
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<JsonBody<T>, Denial> {
    read(json).map(JsonBody).map_err(|error| describe(&error))
}

/// serde's message names a field and a position, but may also quote a value, so only the position
/// and the kind are reported.
fn describe(error: &serde_json::Error) -> Denial {
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

/// Reads a struct only from an object; serde would also read one from an array, member by member.
struct NamedMembers<D>(D);

/// Forwards calls unchanged.
macro_rules! forward {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(visitor)
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for NamedMembers<D> {
    type Error = D::Error;

    forward! {
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
        self.0.deserialize_option(InsideOption(visitor))
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

/// Applies the same rule inside an `Option`.
struct InsideOption<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for InsideOption<V> {
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
