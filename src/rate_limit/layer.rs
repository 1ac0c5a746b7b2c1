//! [`RateLimitLayer`] and its settings.

use std::{sync::Arc, time::Duration};

use super::{
    Plans, RateLimitKey, RateLimitPolicy, RateLimits,
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

/// Keys that a layer keeps unless told otherwise.
const CAPACITY: usize = 1_000_000;

/// Limits how often each client comes. See the [module](super).
#[derive(Clone, Debug)]
pub struct RateLimitLayer {
    gate: Gate<RateLimitPolicy>,
}

guard::layer!(RateLimitLayer, RateLimitPolicy);

impl RateLimitLayer {
    /// Counts by the client's address: IPv4 addresses, and /64 prefixes of IPv6. The server has to tell the peer's: see
    /// [`RequestHead::peer`].
    ///
    /// **Behind a proxy, say whom it speaks for** ([`client_address`](Self::client_address)): all clients of a proxy that isn't trusted
    /// are one, and one of them uses up what is everybody's. The layers of a [builder](crate::Tollgate::builder) have that of the
    /// builder, and a layer inside of one that left a [`ClientIp`](crate::ClientIp) counts that.
    #[must_use]
    pub fn per_client_ip(quotas: impl Into<Quotas>) -> Self {
        Self::per(RateLimitKey::client_ip(ClientAddress::peer()), quotas)
    }

    /// Counts by principal: by key, with all that it was rotated into, or else by user.
    #[must_use]
    pub fn per_principal(quotas: impl Into<Quotas>) -> Self {
        Self::per(RateLimitKey::principal(), quotas)
    }

    /// Counts all requests together.
    #[must_use]
    pub fn global(quotas: impl Into<Quotas>) -> Self {
        Self::per(RateLimitKey::everybody(), quotas)
    }

    /// Counts by what `key` says.
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

    /// Whose address counts, where addresses are counted; the peer's unless set.
    #[must_use]
    pub fn client_address(self, address: ClientAddress) -> Self {
        self.change(|policy| policy.settings.key.set_address(address))
    }

    /// What a request costs, by its head; 1 unless set. One that costs 0 is admitted, and told what is
    /// left.
    #[must_use]
    pub fn cost(self, cost: impl Fn(&RequestHead<'_>) -> u32 + Send + Sync + 'static) -> Self {
        self.change(|policy| policy.settings.cost = Some(Arc::new(cost)))
    }

    /// Counts tokens instead of requests: takes the estimate that `estimate` makes of the head, and corrects
    /// it when the answer is over: by what was counted with the request's [`Charge`](crate::Charge), or else by the `usage`
    /// that a body in JSON or of server-sent events tells, as OpenAI's and Anthropic's do. A
    /// window may be overdrawn by that, and then waits until it is made good. Where nothing was counted or told a
    /// failure (a status of 400 or more, of gRPC any but 0 before the first message, an error or a panic of the inner
    /// service) gives the estimate back, and anything else leaves it: a good answer, and a client that hangs up before there
    /// is one. An estimate of 0
    /// is taken as 1, so that nobody is admitted whose window is overdrawn; the correction evens it out.
    ///
    /// Clients are told what is left in `X-RateLimit-*` and as OpenAI has it, unless told in [other
    /// dialects](Self::add_headers). Not in the draft's: its units have a registry, in which there are no tokens, and a
    /// number without a unit is one of requests there.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::{Charge, RateLimitLayer, quota::Quota};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let answer = async |request: http::Request<()>| {
    ///     if let Some(charge) = request.extensions().get::<Charge>() {
    ///         charge.add_output_tokens(30);
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
            policy.settings.headers.tell_of_tokens();
        })
    }

    /// Counts failed attempts and nothing else: answers from further in that say 401 (of gRPC UNAUTHENTICATED), whoever
    /// gives them, unless the request brought no credential at all. So guesses at keys are limited where honest requests
    /// are not; put it outside of the layers that authenticate
    /// ([`add_outer_rate_limit`](crate::TollgateBuilder::add_outer_rate_limit) in a whole gate). A request is looked at only for whether the window is used
    /// up, and then refused with 429 before anything is hashed or looked up. That meets good credentials that come from
    /// there too: [skip](Self::skip) those that must not wait, but then they can be guessed at without a limit.
    ///
    /// The attempt is counted before the answer goes out. Attempts that are under way together all find room, and all
    /// count: so many may be too many, and are waited for afterwards. Whoever hangs up before the answer learns nothing, and
    /// is not counted. Clients are not told what is left.
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
            policy.settings.headers.tell_nothing();
        })
    }

    /// Goes by the layer's quotas and plans alone, whatever a key's own record says: for a limit that is about something
    /// else than a caller's requests as a whole. Of several layers that count by principal, one should go by the keys' own
    /// quotas. (They are numbers of requests: a layer that counts [`tokens`](Self::tokens) never goes by them, and has those of
    /// each caller [told](Self::quotas_by).)
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

    /// Has the quotas of each caller told by `quotas`: how many tokens a minute a key has, say, as its record's metadata says
    /// (the principal's [attributes](crate::Principal::attribute)). They take the place of those in a key's record; where there are
    /// none, the tier's count, or else the layer's. What was used under other numbers of the same name stays used.
    ///
    /// It is called with every request, so it does no I/O.
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
        self.change(|policy| policy.settings.own_quotas = OwnQuotas::Told(Arc::new(quotas)))
    }

    /// Quotas that differ from tier to tier. A key that has quotas of its own goes by these, unless it is
    /// [told not to](Self::without_own_quotas); who is in no tier of the table goes by the layer's.
    #[must_use]
    pub fn plans(self, plans: Plans) -> Self {
        self.change(|policy| policy.settings.plans = Some(plans))
    }

    /// One more dialect in which clients are told what is left; see [`RateHeaderDialect`]. The first call
    /// takes the place of the usual two.
    #[must_use]
    pub fn add_headers(self, dialect: RateHeaderDialect) -> Self {
        self.change(|policy| policy.settings.headers.add(dialect))
    }

    /// Spreads `retry-after` over so much more time, at random, so that clients who were refused together
    /// don't come back together.
    #[must_use]
    pub fn retry_jitter(self, most: Duration) -> Self {
        self.change(|policy| policy.settings.retry_jitter = most)
    }

    /// How many keys are kept at most; a million unless set. See [`MemoryRateLimiter`].
    #[must_use]
    pub fn capacity(self, keys: usize) -> Self {
        self.change(|policy| {
            policy.capacity = keys;
            policy.renew();
        })
    }

    /// Another source of time.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        self.change(|policy| {
            policy.settings.clock = clock;
            policy.renew();
        })
    }

    /// Counts in `store`, so that several processes act as one. `scope` is the limit's name there: the
    /// same in all processes, and another for every limit.
    #[must_use]
    pub fn with_store(self, scope: &str, store: impl RateStore) -> Self {
        let engine = Engine::Shared(scope.into(), Arc::new(store));
        self.change(|policy| policy.engine = engine)
    }

    /// Counts in `store`, unless it was given one of its own.
    pub(crate) fn inherit_store(self, scope: &str, store: &Arc<dyn RateStore>) -> Self {
        match self.gate.policy().engine {
            Engine::Memory(_) => self.with_store(scope, Arc::clone(store)),
            Engine::Shared(..) => self,
        }
    }

    /// What operators may ask and do while the layer is at work. Take it after the last setting: a change
    /// of `capacity` or `with_clock` begins with empty counts.
    #[must_use]
    pub fn limits(&self) -> RateLimits {
        RateLimits::new(self.gate.policy())
    }

    /// Stands beside a limit of the same callers that tells of their requests.
    pub(crate) fn beside_requests(self) -> Self {
        self.change(|policy| policy.settings.headers.tell_beside_requests())
    }

    /// Whether it counts what layers that authenticate refuse, and so nothing inside of them.
    pub(crate) fn counts_failed_attempts(&self) -> bool {
        self.gate.policy().settings.unit == Unit::FailedAttempts
    }

    /// Whether it refuses everybody where nobody is known yet.
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
