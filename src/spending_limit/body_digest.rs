//! Reads bodies before passing their requests on: those of requests with an `Idempotency-Key`,
//! those of undeclared length, and those that say what their requests ask for.

mod body;
mod reading;

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Extensions, Request, header::CONTENT_LENGTH};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use self::reading::Extent;
pub use self::{body::DigestedBody, reading::BodyDigestFuture};
use super::{
    idempotency::IDEMPOTENCY_KEY,
    requested_use::{Reader, Readers, RequestShape, RequestedUse},
};
use crate::{
    domain::{
        denial::{Denial, DenialKind},
        principal::Principal,
    },
    wire::{InvalidRoute, RequestHead},
};

/// What is known about a request's body; stored in its extensions.
#[derive(Clone, Copy, Debug)]
enum BodyDigest {
    Whole(WholeRead),
    TooLong,
    TooSlow,
    BrokenOff,
}

/// A body that was read to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct WholeRead {
    pub(super) bytes: u64,
    /// Its SHA-256, if its request has an `Idempotency-Key`.
    pub(super) digest: Option<[u8; 32]>,
}

/// The result of reading a request's body, if it was read.
///
/// # Errors
/// If it could not be read to its end.
pub(super) fn read(extensions: &Extensions) -> Result<Option<&WholeRead>, Denial> {
    extensions.get().map(BodyDigest::whole).transpose()
}

impl BodyDigest {
    fn whole(&self) -> Result<&WholeRead, Denial> {
        let (kind, why) = match self {
            Self::Whole(read) => return Ok(read),
            Self::TooLong => (DenialKind::TooLarge, "the body is longer than is read"),
            Self::TooSlow => (DenialKind::TooSlow, "the body came too slowly"),
            Self::BrokenOff => {
                let why = "The request's body broke off";
                let denial = Denial::new(DenialKind::Malformed).with_message(why);
                return Err(denial.because(why));
            }
        };
        Err(Denial::new(kind).because(why))
    }
}

/// Makes the request body part of what must match when an `Idempotency-Key` is reused: with a
/// different body the request is refused with 422 (draft-ietf-httpapi-idempotency-key-header, 2.4)
/// instead of getting the first request's answer. In a [`Tollgate`](crate::Tollgate) it has a place
/// of its own: [`build_reading_bodies`](crate::TollgateBuilder::build_reading_bodies).
///
/// A [`SpendingLimitLayer`](crate::SpendingLimitLayer) decides on the head alone, before any of the
/// body is read, and every instance must know what the first call's body was. So this layer goes
/// further out, inside authentication if possible. It reads the whole body of a request that has
/// the header, buffers its frames, passes them on when all have arrived, and adds their SHA-256 to
/// the fingerprint that the ledger keeps. Requests without the header pass through untouched,
/// unless it also [measures](Self::measure) or reads [what they ask for](Self::read_use).
///
/// The spending limit, where money would be held, refuses a body above
/// [`bytes_max`](Self::bytes_max) with 413, one that breaks off with 400, and one that sends
/// nothing for 10 seconds or is not complete within 30 with 408. A client that wants an answer
/// before it has sent its whole body (a bidirectional stream) must not send the header, and a
/// service with such clients must not measure.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::convert::Infallible;
/// use tollgate::store::{AccountId, Ledger, MemoryStore};
/// use tollgate::{BodyDigestLayer, CredentialKind, IdempotencyKeys, Price, PriceTable, Principal, SpendingLimitLayer, usage::Credit};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// let ledger = MemoryStore::new();
/// let (account, amount) = (AccountId::new("user-1")?, "1".parse()?);
/// ledger.credit(Credit { account, amount, reference: "first".into() }).await?;
/// let prices = PriceTable::new().route("POST", "/chat", Price::flat("0.0020".parse()?))?;
/// let chat = service_fn(async |_: http::Request<_>| Ok::<_, Infallible>(http::Response::new("hello".to_owned())));
///
/// let charged = SpendingLimitLayer::new(ledger, prices).idempotency_keys(IdempotencyKeys::new());
/// let service = BodyDigestLayer::new().layer(charged.layer(chat));
/// let call = |body: &str| {
///     let request = http::Request::post("/chat").header("idempotency-key", "a");
///     let mut request = request.body(body.to_owned()).unwrap();
///     request.extensions_mut().insert(Principal::builder("user-1", CredentialKind::ApiKey).build());
///     service.clone().oneshot(request)
/// };
/// let answer = call("one").await?;
/// assert_eq!(answer.status(), 200);
/// http_body_util::BodyExt::collect(answer.into_body()).await?;
/// assert_eq!(call("one").await?.headers()["idempotency-replayed"], "true");
/// assert_eq!(call("two").await?.status(), 422);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it does nothing until it is a layer of a service"]
pub struct BodyDigestLayer {
    bytes_max: u64,
    measures: bool,
    /// Whether it reads only the bodies of callers who are known.
    only_known: bool,
    readers: Option<Readers>,
}

impl BodyDigestLayer {
    /// Reads up to 1 MiB.
    pub const fn new() -> Self {
        Self {
            bytes_max: 1_048_576,
            measures: false,
            only_known: false,
            readers: None,
        }
    }

    /// Also reads the bodies of requests that don't declare their length (`transfer-encoding:
    /// chunked`, or HTTP/2 without a `content-length`), so that a call that is priced [by what it
    /// sends](crate::TokenBound::BodyBytes) is held for by what arrived, and not by the most that
    /// could have. Such a body is held in memory until it is complete, within the same limits.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::convert::Infallible;
    /// use http_body_util::StreamBody;
    /// use tollgate::store::{AccountId, Ledger, MemoryStore};
    /// use tollgate::{BodyDigestLayer, CredentialKind, Price, PriceTable, Principal, SpendingLimitLayer, usage::Credit};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let ledger = MemoryStore::new();
    /// let (account, amount) = (AccountId::new("user-1")?, "0.10".parse()?);
    /// ledger.credit(Credit { account, amount, reference: "first".into() }).await?;
    /// let price = Price::per_million_tokens("0.50".parse()?, "1.50".parse()?);
    /// let charged = SpendingLimitLayer::new(ledger, PriceTable::new().route("POST", "/chat", price)?);
    /// let chat = service_fn(async |_: http::Request<_>| Ok::<_, Infallible>(http::Response::new("hello".to_owned())));
    ///
    /// for (layer, status) in [(BodyDigestLayer::new(), 402), (BodyDigestLayer::new().measure(), 200)] {
    ///     let piece = Ok::<_, Infallible>(http_body::Frame::data(bytes::Bytes::from_static(b"a few bytes")));
    ///     let mut request = http::Request::post("/chat").body(StreamBody::new(tokio_stream::iter([piece])))?;
    ///     request.extensions_mut().insert(Principal::builder("user-1", CredentialKind::ApiKey).build());
    ///     let answer = layer.layer(charged.layer(chat.clone())).oneshot(request).await?;
    ///     assert_eq!(answer.status(), status);
    /// }
    /// # Ok(()) }
    /// ```
    pub const fn measure(mut self) -> Self {
        self.measures = true;
        self
    }

    /// Leaves the requests alone that have no [`Principal`], for a place inside of authentication.
    pub(crate) const fn of_known_callers(mut self) -> Self {
        self.only_known = true;
        self
    }

    /// Also reads what the requests of a route ask for, and puts the [`RequestedUse`] into their
    /// extensions: the model, the most output, and how many choices. Money is then held for that,
    /// and not for the price's own [output bound](crate::TokenPrice::output_bound) and the dearest
    /// model. Without it, a client that asks for 64,000 tokens is admitted with what 4,096 cost,
    /// and many such calls at once spend more than its account has.
    ///
    /// Every request of the route is read to its end, within the same limits. The spending limit
    /// refuses, whatever the price, a body that isn't read to its end, and with 400 what the
    /// [shape](RequestShape) doesn't allow. Compressed bodies are refused as well; put a layer that
    /// decompresses further out if clients send them. All that is read is what the client says:
    /// where the path or a gateway's own table chooses the model, use
    /// [`read_use_by`](Self::read_use_by).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::convert::Infallible;
    /// use tollgate::store::{AccountId, Ledger, MemoryStore};
    /// use tollgate::{BodyDigestLayer, CredentialKind, Price, PriceTable, Principal, RequestShape, SpendingLimitLayer, usage::Credit};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let ledger = MemoryStore::new();
    /// let (account, amount) = (AccountId::new("user-1")?, "0.50".parse()?);
    /// ledger.credit(Credit { account, amount, reference: "first".into() }).await?;
    /// let price = Price::per_million_tokens("2.50".parse()?, "10".parse()?);
    /// let prices = PriceTable::new().route("POST", "/v1/chat/completions", price)?;
    /// let chat = service_fn(async |_| Ok::<_, Infallible>(http::Response::new("hello".to_owned())));
    ///
    /// let service = BodyDigestLayer::new()
    ///     .read_use("POST", "/v1/chat/completions", RequestShape::OpenAiChat)?
    ///     .layer(SpendingLimitLayer::new(ledger, prices).layer(chat));
    /// for (body, status) in [
    ///     (r#"{"model": "m", "messages": []}"#, 200),
    ///     (r#"{"model": "m", "messages": [], "max_tokens": 64000}"#, 402),
    ///     (r#"{"model": "m", "messages": [], "max_tokens": 64, "max_tokens": 64000}"#, 400),
    /// ] {
    ///     let mut request = http::Request::post("/v1/chat/completions").body(body.to_owned())?;
    ///     request.extensions_mut().insert(Principal::builder("user-1", CredentialKind::ApiKey).build());
    ///     assert_eq!(service.clone().oneshot(request).await?.status(), status);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`InvalidRoute`]: as for [`PriceTable::route`](crate::PriceTable::route), but for the price.
    pub fn read_use(
        self,
        method: &str,
        pattern: &str,
        shape: RequestShape,
    ) -> Result<Self, InvalidRoute> {
        self.read_by(method, pattern, Reader::Shape(shape))
    }

    /// Like [`read_use`](Self::read_use), for a shape of your own. `read` gets the whole body; the
    /// spending limit answers with the refusal that it returns. It should refuse what parsers read
    /// differently: a member that is there twice, a number in a string.
    ///
    /// ```
    /// use tollgate::{BodyDigestLayer, RequestedUse, denial::{Denial, DenialKind}};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Summary { words_max: u64 }
    ///
    /// let layer = BodyDigestLayer::new().read_use_by("POST", "/summaries", |_, body| {
    ///     let summary: Summary = serde_json::from_slice(body)
    ///         .map_err(|_| Denial::new(DenialKind::Malformed).with_message("words_max: missing"))?;
    ///     let mut asked = RequestedUse::default();
    ///     asked.output_max = Some(summary.words_max.saturating_mul(4));
    ///     Ok(asked)
    /// })?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::spending_limit::InvalidRoute>(())
    /// ```
    ///
    /// # Errors
    /// As for [`read_use`](Self::read_use).
    pub fn read_use_by(
        self,
        method: &str,
        pattern: &str,
        read: impl Fn(&RequestHead<'_>, &[u8]) -> Result<RequestedUse, Denial> + Send + Sync + 'static,
    ) -> Result<Self, InvalidRoute> {
        self.read_by(method, pattern, Reader::Own(Arc::new(read)))
    }

    fn read_by(
        mut self,
        method: &str,
        pattern: &str,
        reader: Reader,
    ) -> Result<Self, InvalidRoute> {
        let readers = self.readers.take().unwrap_or_default();
        self.readers = Some(readers.add(method, pattern, reader)?);
        Ok(self)
    }

    /// The longest body that is read, in bytes. It may have one frame per 256 of them. A request
    /// whose body is read may take about that much memory until it is complete. While it is looked
    /// at for what it asks for, one that came in several frames takes twice as much; and one that
    /// is mostly a single name with escapes, or brackets within brackets, up to six times.
    pub const fn bytes_max(mut self, bytes: u64) -> Self {
        self.bytes_max = bytes;
        self
    }
}

impl BodyDigestLayer {
    /// How much of a request's body is read; `None` if nothing of it is.
    fn extent<B>(&self, request: &Request<B>) -> Option<Extent> {
        let headers = request.headers();
        let readers = self.readers.as_ref();
        let reader = readers.and_then(|readers| readers.find(&RequestHead::of(request)));
        let is_unmeasured = self.measures && !headers.contains_key(CONTENT_LENGTH);
        let is_hashed = headers.contains_key(IDEMPOTENCY_KEY);
        let is_left = self.only_known && request.extensions().get::<Principal>().is_none();
        let reads = (is_unmeasured || is_hashed || reader.is_some()) && !is_left;
        reads.then(|| Extent {
            bytes_max: self.bytes_max,
            is_hashed,
            reader: reader.cloned(),
        })
    }
}

impl Default for BodyDigestLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for BodyDigestLayer {
    type Service = BodyDigestService<S>;

    fn layer(&self, inner: S) -> BodyDigestService<S> {
        let layer = self.clone();
        BodyDigestService { inner, layer }
    }
}

/// The service of a [`BodyDigestLayer`].
#[derive(Clone, Debug)]
pub struct BodyDigestService<S> {
    inner: S,
    layer: BodyDigestLayer,
}

impl<S, B> Service<Request<B>> for BodyDigestService<S>
where
    S: Service<Request<DigestedBody<B>>> + Clone,
    B: Body,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BodyDigestFuture<S, B>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(extent) = self.layer.extent(&request) else {
            return BodyDigestFuture::calling(self.inner.call(request.map(DigestedBody::unread)));
        };
        // Call the service that reported ready, not its clone.
        let fresh = self.inner.clone();
        let service = mem::replace(&mut self.inner, fresh);
        BodyDigestFuture::reading(service, request, extent)
    }
}
