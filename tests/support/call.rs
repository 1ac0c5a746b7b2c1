//! Requests, answers, and the laws that answers have to keep.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::Value;

const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

/// Where a server is and how to speak to it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    http: reqwest::Client,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ANSWERED_WITHIN)
            .build()
            .expect("an HTTP client");
        Self { address, http }
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> Call {
        let url = format!("http://{}{path}", self.address);
        Call {
            builder: self.http.request(method, url),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }

    pub(crate) fn put(&self, path: &str) -> Call {
        self.call(Method::PUT, path)
    }

    pub(crate) fn delete(&self, path: &str) -> Call {
        self.call(Method::DELETE, path)
    }
}

/// One request in the making.
#[derive(Debug)]
pub(crate) struct Call {
    builder: reqwest::RequestBuilder,
}

impl Call {
    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.header("x-api-key", key)
    }

    /// Adds a header; one of the same name stays.
    pub(crate) fn header(self, name: &str, value: &str) -> Self {
        Self {
            builder: self.builder.header(name, value),
        }
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        Self {
            builder: self.builder.json(body),
        }
    }

    /// A body of no stated type.
    pub(crate) fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self {
            builder: self.builder.body(body.into()),
        }
    }

    pub(crate) async fn send(self) -> Answer {
        self.attempt().await.expect("an answer")
    }

    /// For a server that may be gone: an answer only when all of it arrived.
    pub(crate) async fn attempt(self) -> Result<Answer, reqwest::Error> {
        let response = self.begin().await?;
        let status = response.status();
        let headers = response.headers().clone();
        let body = response.bytes().await?;
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    /// The head of an answer whose body is still to come.
    pub(crate) async fn begin(self) -> Result<reqwest::Response, reqwest::Error> {
        self.builder.send().await
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of UTF-8")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {} {:?}", self.status, self.body))
    }

    /// The value of a header that is there once.
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut lines = self.headers.get_all(name).iter();
        let value = lines
            .next()
            .unwrap_or_else(|| panic!("no {name} in {self:?}"));
        assert_eq!(lines.next(), None, "{name} twice");
        value.to_str().expect("an ASCII header")
    }

    /// The value of a header that is a whole number.
    pub(crate) fn number(&self, name: &str) -> u64 {
        let value = self.header(name);
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}: {value} is not a whole number"))
    }

    pub(crate) fn request_id(&self) -> &str {
        self.header("x-request-id")
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(
            self.status.as_u16(),
            status,
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        self
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert!(self.status.is_success(), "{} {:?}", self.status, self.body);
        self
    }

    /// What every refusal must have, whatever its shape.
    #[track_caller]
    pub(crate) fn refusal(&self, among: &[u16]) -> Value {
        let status = self.status.as_u16();
        assert!(
            among.contains(&status),
            "{status}, not one of {among:?}: {:?}",
            self.body
        );
        let kind = self.header(header::CONTENT_TYPE.as_str());
        assert!(
            kind == "application/json" || kind.starts_with("application/json;"),
            "{status} is {kind}: {:?}",
            self.body
        );
        assert!(!self.request_id().is_empty());
        if self.status == StatusCode::UNAUTHORIZED {
            assert!(
                self.headers
                    .get_all(header::WWW_AUTHENTICATE)
                    .iter()
                    .any(|challenge| challenge
                        .to_str()
                        .is_ok_and(|text| text.to_ascii_lowercase().starts_with("bearer"))),
                "no Bearer challenge: {:?}",
                self.headers
            );
        }
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            assert!(self.number("retry-after") >= 1);
        }
        self.json()
    }
}
