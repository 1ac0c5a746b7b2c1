//! Turns refusals into answers; nothing else does.

mod format;
mod status;
mod text;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{
        ACCEPT_RANGES, ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
        LAST_MODIFIED, RETRY_AFTER, TRANSFER_ENCODING, WWW_AUTHENTICATE,
    },
    uri::PathAndQuery,
};
use serde::Serialize;

use super::{Dialect, RequestHead, grpc};
use crate::domain::{
    RequestId,
    denial::{Denial, DenialKind},
    masked::masked,
};

pub use format::DenialFormat;
pub(crate) use status::{kind_of_status, status};
pub(crate) use text::{message, title};

/// What a renderer may know about the refused request.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct DenialContext<'a> {
    /// The status of the answer.
    pub status: StatusCode,
    /// The full path of the request.
    pub path: &'a str,
    /// The request's id, if it has one.
    pub request_id: Option<&'a str>,
}

/// The part of a refusal's answer that depends on the format.
#[derive(Clone, Debug)]
pub struct DenialBody {
    /// The media type.
    pub content_type: HeaderValue,
    /// The body.
    pub bytes: Bytes,
    /// Additional header fields of the format.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl DenialBody {
    /// A JSON body. Members of a struct keep their order; those of a [`serde_json::Value`] are
    /// sorted. A value that can't be JSON (say, a map whose keys aren't strings) becomes an empty
    /// object.
    #[must_use]
    pub fn json(value: &(impl Serialize + ?Sized)) -> Self {
        let bytes = serde_json::to_vec(value).unwrap_or_else(|error| {
            tracing::error!(target: "tollgate", %error, "the body of a refusal can't be JSON");
            b"{}".to_vec()
        });
        Self {
            content_type: HeaderValue::from_static("application/json"),
            bytes: Bytes::from(bytes),
            headers: Vec::new(),
        }
    }
}

/// A format for refusals: one of [`DenialFormat`], or your own.
///
/// ```
/// use tollgate::denial::{Denial, DenialKind};
/// use tollgate::{DenialBody, DenialContext, Denials, RenderDenial, RequestHead};
///
/// #[derive(Debug)]
/// struct Terse;
///
/// impl RenderDenial for Terse {
///     fn render(&self, denial: &Denial, context: &DenialContext<'_>) -> DenialBody {
///         DenialBody::json(&serde_json::json!({ "no": denial.kind().as_str(), "at": context.path }))
///     }
/// }
///
/// let request = http::Request::builder().uri("/chat").body(())?;
/// let answer = Denials::new(Terse).respond(&Denial::new(DenialKind::NotPermitted), &RequestHead::of(&request));
/// assert_eq!(answer.status(), 403);
/// assert_eq!(answer.body().as_ref(), br#"{"at":"/chat","no":"not_permitted"}"#);
/// # Ok::<(), http::Error>(())
/// ```
pub trait RenderDenial: fmt::Debug + Send + Sync + 'static {
    /// Writes the body. The caller writes status, `www-authenticate` and `retry-after`.
    fn render(&self, denial: &Denial, context: &DenialContext<'_>) -> DenialBody;
}

/// The formats of refusals, by path. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Denials(Arc<Styles>);

#[derive(Clone, Debug)]
struct Styles {
    default: Arc<dyn RenderDenial>,
    prefixes: Vec<(Box<str>, Arc<dyn RenderDenial>)>,
    messages: Vec<(DenialKind, Box<str>)>,
    /// The realm of challenges, without quotes.
    realm: Box<str>,
    /// The address of the metadata in challenges (RFC 9728, 5.1), without quotes.
    resource_metadata: Option<Box<str>>,
    protocols: Protocols,
}

/// The protocols of a service's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocols {
    /// gRPC if the request's media type says so, plain HTTP otherwise.
    ByMediaType,
    /// Plain HTTP, whatever the request says.
    OnlyHttp,
}

impl Denials {
    /// One format for all paths.
    #[must_use]
    pub fn new(style: impl RenderDenial) -> Self {
        Self(Arc::new(Styles {
            default: Arc::new(style),
            prefixes: Vec::new(),
            messages: Vec::new(),
            realm: "api".into(),
            resource_metadata: None,
            protocols: Protocols::ByMediaType,
        }))
    }

    /// Adds a format for the path `prefix` and those below it; the first matching prefix wins.
    /// `/v1` and `/v1/` mean the same: `/v1` and `/v1/models`, but not `/v10`.
    #[must_use]
    pub fn add_path_prefix(mut self, prefix: &str, style: impl RenderDenial) -> Self {
        Arc::make_mut(&mut self.0)
            .prefixes
            .push((prefix.trim_end_matches('/').into(), Arc::new(style)));
        self
    }

    /// Sets the text that clients read for refusals of this kind, instead of the format's own; a
    /// text that comes with a refusal still takes precedence.
    #[must_use]
    pub fn add_message(mut self, kind: DenialKind, message: &str) -> Self {
        Arc::make_mut(&mut self.0)
            .messages
            .push((kind, message.into()));
        self
    }

    /// Sets the `realm` of challenges (RFC 9110, 11.5); `api` by default. Characters that a
    /// challenge can't carry are dropped.
    #[must_use]
    pub fn realm(mut self, realm: &str) -> Self {
        let fits = |character: &char| is_quotable(*character);
        Arc::make_mut(&mut self.0).realm = realm.chars().filter(fits).collect();
        self
    }

    /// Sets the address of the protected resource's metadata (RFC 9728), which challenges then name
    /// in `resource_metadata`: where a client learns which authorization server to ask for a token,
    /// as those of the Model Context Protocol do. Characters that a challenge can't carry are
    /// dropped.
    #[must_use]
    pub fn resource_metadata(mut self, url: &str) -> Self {
        let fits = |character: &char| is_quotable(*character);
        let url = url.chars().filter(fits).collect();
        Arc::make_mut(&mut self.0).resource_metadata = Some(url);
        self
    }

    /// For a service without gRPC: every refusal has its HTTP status and the configured format.
    /// Without this setting, a request whose `content-type` is gRPC's or gRPC-Web's is refused in
    /// the form that those clients read: with status 200, and the code in `grpc-status`.
    ///
    /// ```
    /// use tollgate::denial::{Denial, DenialKind};
    /// use tollgate::{DenialFormat, Denials, RequestHead};
    ///
    /// let request = http::Request::builder().header("content-type", "application/grpc-web").body(())?;
    /// let (denial, head) = (Denial::new(DenialKind::NotPermitted), RequestHead::of(&request));
    /// let denials = Denials::new(DenialFormat::Detail);
    /// assert_eq!(denials.respond(&denial, &head).headers()["grpc-status"], "7");
    /// assert_eq!(denials.only_http().respond(&denial, &head).status(), 403);
    /// # Ok::<(), http::Error>(())
    /// ```
    #[must_use]
    pub fn only_http(mut self) -> Self {
        Arc::make_mut(&mut self.0).protocols = Protocols::OnlyHttp;
        self
    }

    /// The protocol in which to answer a refusal of the request.
    fn dialect(&self, request: &RefusedRequest) -> Dialect {
        match self.0.protocols {
            Protocols::ByMediaType => request.dialect,
            Protocols::OnlyHttp => Dialect::Http,
        }
    }

    /// The parts of a request that are saved in case it is refused further in.
    pub(crate) fn keep(&self, head: &RequestHead<'_>) -> RefusedRequest {
        let mut request = RefusedRequest::of(head);
        request.dialect = self.dialect(&request);
        request
    }

    /// The answer to a refused request. gRPC is answered in gRPC, unless the service is [HTTP
    /// only](Self::only_http); HEAD gets no content, but its length (RFC 9110, 9.3.2).
    #[must_use]
    pub fn respond(&self, denial: &Denial, head: &RequestHead<'_>) -> Response<Bytes> {
        let request = RefusedRequest::of(head);
        let mut response = self.respond_to(denial, &request, HeaderMap::new());
        let length = response.body().len();
        if *head.method == Method::HEAD && length > 0 {
            let length = HeaderValue::from(length);
            response.headers_mut().insert(CONTENT_LENGTH, length);
            *response.body_mut() = Bytes::new();
        }
        response
    }

    /// The same, from the saved parts of the request, and with existing header fields.
    pub(crate) fn respond_to(
        &self,
        denial: &Denial,
        request: &RefusedRequest,
        mut headers: HeaderMap,
    ) -> Response<Bytes> {
        for name in BODY_HEADERS {
            headers.remove(name);
        }
        let own = self.with_own_message(denial);
        let worded = own.as_ref().unwrap_or(denial);
        let mut response = match self.dialect(request) {
            Dialect::Http => {
                grpc::forget_status(&mut headers);
                self.respond_http(worded, request, headers)
            }
            dialect @ (Dialect::Grpc | Dialect::Web | Dialect::WebText) => {
                let denial = worded;
                let text = denial.message().map_or_else(|| message(denial), Into::into);
                let mut response = grpc::respond(denial, &text, dialect).map(|()| Bytes::new());
                merge(response.headers_mut(), headers);
                response
            }
        };
        response.extensions_mut().insert(denial.clone());
        response
    }

    fn respond_http(
        &self,
        denial: &Denial,
        request: &RefusedRequest,
        mut headers: HeaderMap,
    ) -> Response<Bytes> {
        let status = status(denial.kind());
        let context = DenialContext {
            status,
            path: request.path(),
            request_id: request.request_id.as_deref(),
        };
        let body = self.style(request.path()).render(denial, &context);
        headers.insert(CONTENT_TYPE, body.content_type);
        // An existing challenge is the application's own, perhaps with another scheme.
        if denial.kind().is_authentication() && !headers.contains_key(WWW_AUTHENTICATE) {
            headers.insert(WWW_AUTHENTICATE, self.challenge(denial.kind()));
        }
        if let Some(methods) = allowed(denial) {
            headers.insert(ALLOW, methods);
        }
        if let Some(challenge) = denial
            .required_scope()
            .and_then(|scopes| self.insufficient_scope(scopes))
        {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = denial.wait_secs() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        for (name, value) in body.headers {
            headers.insert(name, value);
        }
        let mut response = Response::new(body.bytes);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    /// The refusal with the configured text, if there is one and the refusal has none.
    fn with_own_message(&self, denial: &Denial) -> Option<Denial> {
        let kind = denial.kind();
        let mut messages = self.0.messages.iter();
        let (_, message) = messages.find(|(known, _)| *known == kind)?;
        let has_no_message = denial.message().is_none();
        has_no_message.then(|| denial.clone().with_message(message.to_string()))
    }

    fn style(&self, path: &str) -> &dyn RenderDenial {
        let fits = |(prefix, _): &&(Box<str>, _)| {
            let rest = path.strip_prefix(prefix.as_ref());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match self.0.prefixes.iter().find(fits) {
            Some((_, style)) => style.as_ref(),
            None => self.0.default.as_ref(),
        }
    }

    /// RFC 6750, 3: at least one parameter, and an error code only if a credential was sent.
    /// `invalid_request` is for a 400; contradictory credentials are answered with 401, like an
    /// invalid one.
    fn challenge(&self, kind: DenialKind) -> HeaderValue {
        self.bearer(match kind {
            DenialKind::CredentialMissing | DenialKind::LoginFailed => "",
            DenialKind::CredentialExpired => {
                ", error=\"invalid_token\", error_description=\"expired\""
            }
            _ => ", error=\"invalid_token\"",
        })
    }

    /// RFC 6750, 3.1. If a scope can't be carried in a challenge (RFC 6749, 3.3), the challenge is
    /// omitted.
    fn insufficient_scope(&self, scopes: &str) -> Option<HeaderValue> {
        let parameters = || format!(", error=\"insufficient_scope\", scope=\"{scopes}\"");
        let fits = scopes.chars().all(is_quotable);
        fits.then(|| self.bearer(&parameters()))
    }

    fn bearer(&self, parameters: &str) -> HeaderValue {
        let metadata = self.0.resource_metadata.as_ref();
        let metadata = metadata.map(|url| format!(", resource_metadata=\"{url}\""));
        let metadata = metadata.unwrap_or_default();
        let challenge = format!("Bearer realm=\"{}\"{parameters}{metadata}", self.0.realm);
        HeaderValue::try_from(challenge).unwrap_or(HeaderValue::from_static("Bearer"))
    }
}

/// Whether a quoted string may contain it unescaped.
fn is_quotable(character: char) -> bool {
    matches!(character, ' '..='~') && !matches!(character, '"' | '\\')
}

impl Default for Denials {
    /// Problem details (RFC 9457).
    fn default() -> Self {
        Self::new(DenialFormat::Problem)
    }
}

impl<S: RenderDenial> From<S> for Denials {
    fn from(style: S) -> Self {
        Self::new(style)
    }
}

/// The parts of a request that are saved in case it is refused further in. Cheap to clone, because
/// nearly every request is admitted. `Default` is for an unknown request.
#[derive(Clone, Default)]
pub(crate) struct RefusedRequest {
    target: Option<PathAndQuery>,
    request_id: Option<RequestId>,
    pub(crate) dialect: Dialect,
}

impl RefusedRequest {
    pub(crate) fn of(head: &RequestHead<'_>) -> Self {
        Self {
            target: head.target().cloned(),
            request_id: head.request_id().cloned(),
            dialect: head.dialect(),
        }
    }

    pub(crate) fn request_id(&self) -> Option<&RequestId> {
        self.request_id.as_ref()
    }

    fn path(&self) -> &str {
        self.target.as_ref().map_or("/", PathAndQuery::path)
    }
}

/// Only the path, masked: a query or a segment may contain secrets.
impl fmt::Debug for RefusedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefusedRequest")
            .field("path", &masked(self.path()))
            .field("request_id", &self.request_id)
            .finish_non_exhaustive()
    }
}

/// Header fields that describe a body (RFC 9110, 8; RFC 9530), and don't apply to the one that
/// replaces it.
const BODY_HEADERS: [HeaderName; 10] = [
    ACCEPT_RANGES,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    ETAG,
    LAST_MODIFIED,
    TRANSFER_ENCODING,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// RFC 9110, 10.2.1.
fn allowed(denial: &Denial) -> Option<HeaderValue> {
    let methods: Vec<_> = denial.allowed_methods().collect();
    HeaderValue::try_from(methods.join(", "))
        .ok()
        .filter(|methods| !methods.is_empty())
}

fn merge(into: &mut HeaderMap, others: HeaderMap) {
    let mut name = None;
    for (next, value) in others {
        name = next.or(name);
        if let Some(name) = name.clone().filter(|name| !into.contains_key(name)) {
            into.append(name, value);
        }
    }
}

#[cfg(test)]
mod tests;
