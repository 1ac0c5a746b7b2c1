//! [`RateLimitLayer`] and its settings.

use std::{sync::Arc, time::Duration};

use super::{
    CountedTokens, Plans, RateLimitKey, RateLimitPolicy, RateLimits,
    policy::{Engine, OwnQuotas, Settings, Unit},
};
use crate::{
    domain::{
        clock::{Clock, SystemClock},
        quota::Quotas,
    },
    guard::{self, Gate},
    store::{MemoryRateLimiter, RateStore},
    wire::{ClientAddress, RateHeaderDialect, RequestHead},
};

/// The default number of keys that a layer keeps.
const CAPACITY: usize = 1_000_000;

/// Limits how often each client may call. See the [module](super).
#[derive(Clone, Debug)]
pub struct RateLimitLayer {
    gate: Gate<RateLimitPolicy>,
}

guard::layer!(RateLimitLayer, RateLimitPolicy);

impl RateLimitLayer {
    /// Counts by the client's address: IPv4 addresses, and /64 prefixes of IPv6. The server has to
    /// provide the peer's address: see [`RequestHead::peer`].
    ///
    /// **Behind a proxy, configure how it names its clients**
    /// ([`client_address`](Self::client_address)): all clients of an untrusted proxy count as one,
    /// and any of them can use up everybody's quota. The layers of a
    /// [builder](crate::Tollgate::builder) use the builder's setting, and a layer inside of one
    /// that added a [`ClientIp`](crate::ClientIp) counts by that.
    #[must_use]
    pub fn per_client_ip(quotas: impl Into<Quotas>) -> Self {
        Self::per(RateLimitKey::client_ip(ClientAddress::peer()), quotas)
    }

    /// Counts by principal: by key together with all keys it was rotated into, or else by user.
    /// Each key of a customer has the quotas for itself; [`per_account`](Self::per_account) counts
    /// them together.
    #[must_use]
    pub fn per_principal(quotas: impl Into<Quotas>) -> Self {
        Self::per(RateLimitKey::principal(), quotas)
    }

    /// Counts by the account that pays: all keys of a customer together. Callers without an account
    /// are refused. The quotas in a key's record are not used.
    #[must_use]
    pub fn per_account(quotas: impl Into<Quotas>) -> Self {
        Self::per(RateLimitKey::account(), quotas)
    }

    /// Counts all requests together.
    #[must_use]
    pub fn global(quotas: impl Into<Quotas>) -> Self {
        Self::per(RateLimitKey::everybody(), quotas)
    }

    /// Counts by `key`.
    #[must_use]
    pub fn per(key: RateLimitKey, quotas: impl Into<Quotas>) -> Self {
        let clock = SystemClock::shared();
        let limiter = MemoryRateLimiter::new(CAPACITY, Arc::clone(&clock));
        Self {
            gate: Gate::new(RateLimitPolicy {
                settings: Settings::new(key, quotas.into(), clock),
                engine: Engine::Memory(Arc::new(limiter)),
                capacity: CAPACITY,
            }),
        }
    }

    /// How the client address is determined, if the key uses it; the peer's by default.
    #[must_use]
    pub fn client_address(self, address: ClientAddress) -> Self {
        self.change(|policy| policy.settings.key.set_address(address))
    }

    /// What a request costs, by its head; 1 by default. A request that costs 0 is admitted, and its
    /// answer says what is left.
    #[must_use]
    pub fn cost(self, cost: impl Fn(&RequestHead<'_>) -> u32 + Send + Sync + 'static) -> Self {
        self.change(|policy| policy.settings.cost = Some(Arc::new(cost)))
    }

    /// Counts tokens instead of requests: takes what `estimate` computes from the head, and
    /// corrects it when the answer is over, by what was counted with the request's
    /// [`Charge`](crate::Charge), or else by the `usage` in a JSON body or in server-sent events,
    /// in OpenAI's and Anthropic's formats. The correction may overdraw a window, which then
    /// refuses until it has recovered. A count that nobody names is not zero: if a handler adds
    /// only output, and the answer doesn't tell its input, the estimate stays unless the output
    /// alone is more. So add zero input tokens where there are none. If no usage is known, a
    /// failure (a status of 400 or more, for gRPC any but 0 before the first message, an error or
    /// a panic of the inner service) gives the estimate back; anything else keeps it: a good
    /// answer, or a client that disconnects before there is one. An estimate of 0 counts as 1, so
    /// that nobody is admitted to an overdrawn window; the correction evens that out.
    ///
    /// Where a gate reads what requests ask for,
    /// [`RequestedUse::estimate`](crate::RequestedUse::estimate) is the estimate.
    ///
    /// Clients see what is left in `X-RateLimit-*` and in OpenAI's headers, unless [other
    /// dialects](Self::add_headers) are set. The draft's headers are not used: the registry for its
    /// units has no tokens, and a number without a unit means requests there.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::{Charge, RateLimitLayer, quota::Quota};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let answer = async |request: http::Request<()>| {
    ///     if let Some(charge) = request.extensions().get::<Charge>() {
    ///         charge.add_input_tokens(10);
    ///         charge.add_output_tokens(20);
    ///     }
    ///     Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
    /// };
    /// let service = RateLimitLayer::global(Quota::per_hour(100)).tokens(|_| 50).layer(service_fn(answer));
    /// let answer = service.clone().oneshot(http::Request::new(())).await?;
    /// assert_eq!(answer.headers()["x-ratelimit-remaining"], "50");
    /// let answer = service.oneshot(http::Request::new(())).await?;
    /// assert_eq!(answer.headers()["x-ratelimit-remaining"], "20", "the first took 30, not 50");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn tokens(
        self,
        estimate: impl Fn(&RequestHead<'_>) -> u32 + Send + Sync + 'static,
    ) -> Self {
        self.cost(estimate).change(|policy| {
            policy.settings.unit = Unit::Tokens;
            policy.settings.headers.report_tokens();
        })
    }

    /// Which tokens a limit in [`tokens`](Self::tokens) counts; all of them unless set. Estimate
    /// the same ones: for a limit on output, the most that a call may write. One on input takes it
    /// from the answer too, so it is exact when the answer is over. Without `tokens` it does
    /// nothing.
    ///
    /// Of two limits around one handler, on input and on output, the inner one alone tells what is
    /// left: their headers have the same names. The outer one's refusals tell its own.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::{RateLimitLayer, quota::Quota, rate_limit::CountedTokens};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// const ANSWER: &str = r#"{"usage":{"input_tokens":20,"cache_read_input_tokens":900,"output_tokens":5}}"#;
    /// let model = service_fn(async |_: http::Request<()>| {
    ///     http::Response::builder().header("content-type", "application/json").body(ANSWER.to_owned())
    /// });
    /// let input = RateLimitLayer::global(Quota::per_hour(100)).tokens(|_| 50);
    /// let input = input.counted_tokens(CountedTokens::UncachedInput);
    /// let limits = input.limits();
    /// let answer = input.layer(model).oneshot(http::Request::new(())).await?;
    /// http_body_util::BodyExt::collect(answer.into_body()).await?;
    /// let request = http::Request::new(());
    /// let left = limits.peek(&tollgate::RequestHead::of(&request)).await?;
    /// assert_eq!(left.remaining(), 80);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn counted_tokens(self, counted: CountedTokens) -> Self {
        self.change(|policy| policy.settings.counted = counted)
    }

    /// Counts only failed attempts: answers from inner layers with status 401 (for gRPC
    /// UNAUTHENTICATED), whatever produced them, unless the request had no credential at all. So
    /// guessing keys is limited, and honest requests are not. Put it outside of the authenticating
    /// layers ([`add_outer_rate_limit`](crate::TollgateBuilder::add_outer_rate_limit) in a whole
    /// gate). A request is only checked for whether the window is used up, and in that case refused
    /// with 429 before anything is hashed or looked up. That also affects valid credentials from
    /// the same client: [skip](Self::skip) those that must not wait, but then they can be guessed
    /// without a limit.
    ///
    /// An attempt is counted before the answer is sent. Concurrent attempts are all admitted, and
    /// all counted, so the limit may be exceeded, and has to recover afterwards. A client that
    /// disconnects before the answer learns nothing, and is not counted. What is left is told in a
    /// refusal only: in other answers only whoever guesses could use it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::{RateLimitLayer, quota::Quota};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let knows = service_fn(async |request: http::Request<&str>| {
    ///     let status = if *request.body() == "the word" { 200 } else { 401 };
    ///     http::Response::builder().status(status).body(String::new())
    /// });
    /// let service = RateLimitLayer::global(Quota::per_hour(2)).failed_attempts().layer(knows);
    /// let mut statuses = Vec::new();
    /// for word in ["the word", "a guess", "the word", "the word", "a guess", "the word"] {
    ///     let answer = service.clone().oneshot(http::Request::new(word)).await?;
    ///     statuses.push(answer.status().as_u16());
    /// }
    /// assert_eq!(statuses, [200, 401, 200, 200, 401, 429]);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn failed_attempts(self) -> Self {
        self.change(|policy| {
            policy.settings.unit = Unit::FailedAttempts;
            policy.settings.headers.report_requests();
        })
    }

    /// Uses only the layer's quotas and plans, and ignores the quotas in a key's record: for a
    /// limit on something other than a caller's requests as a whole. Of several layers that count
    /// by principal, only one should use the keys' own quotas. (These are numbers of requests: a
    /// layer that counts [`tokens`](Self::tokens) never uses them; give it each caller's quotas by
    /// [`quotas_by`](Self::quotas_by).)
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::{CredentialKind, Principal, RateLimitLayer, quota::Quota};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let generous = Principal::builder("u", CredentialKind::ApiKey).quotas(Quota::per_minute(120).into()).build();
    /// let dear = RateLimitLayer::per_principal(Quota::per_minute(1)).without_own_quotas();
    /// let hello = service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new(String::new())));
    /// let (service, mut statuses) = (dear.layer(hello), Vec::new());
    /// for _ in 0..2 {
    ///     let mut request = http::Request::new(());
    ///     request.extensions_mut().insert(generous.clone());
    ///     statuses.push(service.clone().oneshot(request).await?.status().as_u16());
    /// }
    /// assert_eq!(statuses, [200, 429]);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn without_own_quotas(self) -> Self {
        self.change(|policy| policy.settings.own_quotas = OwnQuotas::Ignored)
    }

    /// Gets each caller's quotas from `quotas`: say, how many tokens a minute a key has, from its
    /// record's metadata (the principal's [attributes](crate::Principal::attribute)). They replace
    /// those in a key's record; if there are none, those of the tier or the layer apply. Usage
    /// under a quota of the same name with other numbers remains counted.
    ///
    /// It is called for every request, so it must not do I/O.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::{CredentialKind, Principal, RateLimitLayer, quota::{Quota, Quotas}};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let layer = RateLimitLayer::per_principal(Quota::per_minute(10_000)).tokens(|_| 8_000).quotas_by(|head| {
    ///     let caller = head.extensions.get::<Principal>()?;
    ///     let tokens = caller.attribute("tokens-per-minute")?.parse().ok()?;
    ///     Some(Quota::per_minute(tokens).into())
    /// });
    /// let hello = service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new(String::new())));
    /// let service = layer.layer(hello);
    /// let with = |attributes: &[(&str, &str)]| {
    ///     let attributes = attributes.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    ///     let subject = format!("{attributes:?}");
    ///     let caller = Principal::builder(&subject, CredentialKind::ApiKey).attributes(attributes).build();
    ///     let mut request = http::Request::new(());
    ///     request.extensions_mut().insert(caller);
    ///     request
    /// };
    /// let rich = [("tokens-per-minute", "90000")];
    /// let answer = service.clone().oneshot(with(&rich)).await?;
    /// assert_eq!(answer.headers()["x-ratelimit-limit-tokens"], "90000");
    /// let answer = service.oneshot(with(&[])).await?;
    /// assert_eq!(answer.headers()["x-ratelimit-limit-tokens"], "10000");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn quotas_by(
        self,
        quotas: impl Fn(&RequestHead<'_>) -> Option<Quotas> + Send + Sync + 'static,
    ) -> Self {
        self.change(|policy| policy.settings.own_quotas = OwnQuotas::Provided(Arc::new(quotas)))
    }

    /// Quotas by tier. A key with its own quotas uses those, unless they are
    /// [ignored](Self::without_own_quotas); a caller whose tier is not in the table gets the
    /// layer's quotas.
    #[must_use]
    pub fn plans(self, plans: Plans) -> Self {
        self.change(|policy| policy.settings.plans = Some(plans))
    }

    /// Adds a dialect of headers that say what is left; see [`RateHeaderDialect`]. The first call
    /// replaces the two default ones.
    #[must_use]
    pub fn add_headers(self, dialect: RateHeaderDialect) -> Self {
        self.change(|policy| policy.settings.headers.add(dialect))
    }

    /// Adds up to this much random time to `retry-after`, so that clients that were refused
    /// together don't all return at once.
    #[must_use]
    pub fn retry_jitter(self, most: Duration) -> Self {
        self.change(|policy| policy.settings.retry_jitter = most)
    }

    /// The maximum number of keys that are kept; a million by default. See [`MemoryRateLimiter`].
    #[must_use]
    pub fn capacity(self, keys: usize) -> Self {
        self.change(|policy| {
            policy.capacity = keys;
            policy.renew();
        })
    }

    /// Sets another source of time.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        self.change(|policy| {
            policy.settings.clock = clock;
            policy.renew();
        })
    }

    /// Counts in `store`, so that several processes share one limit. `scope` is the limit's name
    /// there: the same in all processes, and different for every limit.
    #[must_use]
    pub fn with_store(self, scope: &str, store: impl RateStore) -> Self {
        let engine = Engine::Shared(scope.into(), Arc::new(store));
        self.change(|policy| policy.engine = engine)
    }

    /// Counts in `store`, unless it has its own.
    pub(crate) fn inherit_store(self, scope: &str, store: &Arc<dyn RateStore>) -> Self {
        match self.gate.policy().engine {
            Engine::Memory(_) => self.with_store(scope, Arc::clone(store)),
            Engine::Shared(..) => self,
        }
    }

    /// A handle for operators to use while the layer is in use. Take it after the last setting:
    /// changing `capacity` or `with_clock` starts with empty counts.
    #[must_use]
    pub fn limits(&self) -> RateLimits {
        RateLimits::new(self.gate.policy())
    }

    /// For a layer beside a request limit on the same callers, which already sends the request
    /// headers.
    pub(crate) fn beside_requests(self) -> Self {
        self.change(|policy| policy.settings.headers.report_beside_requests())
    }

    /// Whether it counts what authenticating layers refuse, and so counts nothing inside of them.
    pub(crate) fn counts_failed_attempts(&self) -> bool {
        self.gate.policy().settings.unit == Unit::FailedAttempts
    }

    /// Whether it counts tokens, which the body says more of than the head.
    pub(crate) fn counts_tokens(&self) -> bool {
        self.gate.policy().settings.unit == Unit::Tokens
    }

    /// Whether it refuses every request outside of authentication.
    pub(crate) fn needs_principal(&self) -> bool {
        self.gate.policy().settings.key.needs_principal()
    }

    pub(crate) fn into_gate(self) -> Gate<RateLimitPolicy> {
        self.gate
    }

    fn change(self, change: impl FnOnce(&mut RateLimitPolicy)) -> Self {
        Self {
            gate: self.gate.map_policy(change),
        }
    }
}
