//! How often may they come: [`RateLimitLayer`].
//!
//! - Refuses with 429 and `retry-after`. Every answer says what is left: `RateLimit`,
//!   `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10) and `X-RateLimit-*`.
//! - Stands outside authentication when it counts by address, and inside when it counts by principal. A
//!   limit per principal without a principal refuses with 401 and says so in the log; a limit by
//!   address refuses with 503 where the server tells no address, and with 400 where a trusted proxy
//!   tells an unreadable one.
//! - Several quotas are one decision: a refused request has consumed nothing from any.
//! - The counts are in this process's memory: there is no store that could fail.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::{convert::Infallible, net::SocketAddr};
//! use tollgate::{PeerAddress, RateLimitLayer, quota::Quota};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let hello = service_fn(async |_| Ok::<_, Infallible>(http::Response::new("hello".to_owned())));
//! let service = RateLimitLayer::per_client_ip(Quota::per_minute(2)).layer(hello);
//! let request = |peer: SocketAddr| {
//!     let mut request = http::Request::new(());
//!     request.extensions_mut().insert(PeerAddress(peer));
//!     request
//! };
//! let (one, other) = ("192.0.2.1:99".parse()?, "192.0.2.2:99".parse()?);
//! let answer = service.clone().oneshot(request(one)).await?;
//! assert_eq!(answer.headers()["ratelimit"], "\"minute\";r=1;t=30");
//! assert_eq!(service.clone().oneshot(request(one)).await?.status(), 200);
//! let refused = service.clone().oneshot(request(one)).await?;
//! assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"30".parse()?));
//! assert_eq!(service.oneshot(request(other)).await?.status(), 200);
//! # Ok(()) }
//! ```

use std::sync::Arc;

use smallvec::SmallVec;

use crate::{
    domain::{
        clock::{Clock, SystemClock},
        denial::{Denial, DenialKind},
        principal::Principal,
        quota::Quotas,
    },
    guard::{self, Decision, Gate, NoMeter, Permit, Policy, ResponseMarks, Tail, Verdict},
    store::{MemoryRateLimiter, RateDecision, WindowReading},
    wire::{ClientAddress, RateHeaders, RequestHead, counted_as},
};

/// Keys that a layer keeps unless told otherwise.
const CAPACITY: usize = 1_000_000;

/// Limits how often each client comes. See the [module](self).
#[derive(Clone, Debug)]
pub struct RateLimitLayer {
    gate: Gate<RateLimitPolicy>,
}

guard::layer!(RateLimitLayer, RateLimitPolicy);

impl RateLimitLayer {
    /// Counts by the client's address: IPv4 addresses, and /64 prefixes of IPv6.
    #[must_use]
    pub fn per_client_ip(quotas: impl Into<Quotas>) -> Self {
        Self::new(quotas.into(), By::Address(ClientAddress::peer()))
    }

    /// Counts by principal: by key, with all that it was rotated into, or else by user.
    #[must_use]
    pub fn per_principal(quotas: impl Into<Quotas>) -> Self {
        Self::new(quotas.into(), By::Principal)
    }

    /// Counts all requests together.
    #[must_use]
    pub fn global(quotas: impl Into<Quotas>) -> Self {
        Self::new(quotas.into(), By::Everybody)
    }

    fn new(quotas: Quotas, by: By) -> Self {
        let settings = Settings {
            quotas,
            by,
            capacity: CAPACITY,
            clock: SystemClock::shared(),
        };
        Self {
            gate: Gate::new(RateLimitPolicy::new(settings)),
        }
    }

    /// Whose address counts, where addresses are counted; the peer's unless set.
    #[must_use]
    pub fn client_address(self, address: ClientAddress) -> Self {
        self.change(|settings| {
            if let By::Address(by) = &mut settings.by {
                *by = address;
            }
        })
    }

    /// How many keys are kept at most; a million unless set. See [`MemoryRateLimiter`].
    #[must_use]
    pub fn capacity(self, keys: usize) -> Self {
        self.change(|settings| settings.capacity = keys)
    }

    /// Another source of time.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        self.change(|settings| settings.clock = clock)
    }

    pub(crate) fn into_policy(self) -> RateLimitPolicy {
        self.gate.policy().clone()
    }

    /// Settings come before the first request: a change begins with empty counts.
    fn change(self, change: impl FnOnce(&mut Settings)) -> Self {
        Self {
            gate: self.gate.map_policy(|policy| {
                let mut settings = policy.settings.clone();
                change(&mut settings);
                *policy = RateLimitPolicy::new(settings);
            }),
        }
    }
}

#[derive(Clone, Debug)]
struct Settings {
    quotas: Quotas,
    by: By,
    capacity: usize,
    clock: Arc<dyn Clock>,
}

/// What requests are counted by.
#[derive(Clone, Debug)]
enum By {
    Address(ClientAddress),
    Principal,
    Everybody,
}

/// The decision of a [`RateLimitLayer`].
#[derive(Clone, Debug)]
pub struct RateLimitPolicy {
    settings: Settings,
    limiter: Arc<MemoryRateLimiter>,
    headers: Arc<RateHeaders>,
}

impl RateLimitPolicy {
    fn new(settings: Settings) -> Self {
        let quotas = settings.quotas.as_slice();
        let clock = Arc::clone(&settings.clock);
        Self {
            limiter: Arc::new(MemoryRateLimiter::new(quotas, settings.capacity, clock)),
            headers: Arc::new(RateHeaders::new(quotas)),
            settings,
        }
    }

    fn take(&self, head: &RequestHead<'_>) -> Result<RateDecision, Denial> {
        match &self.settings.by {
            By::Address(address) => {
                let address = address.resolve(head)?;
                Ok(self.limiter.take(&counted_as(address)))
            }
            By::Principal => {
                let principal = head.extensions.get::<Principal>().ok_or_else(|| {
                    Denial::new(DenialKind::CredentialMissing)
                        .because("no principal: the layer must stand inside an authenticating one")
                })?;
                Ok(self.limiter.take(principal.metered_as()))
            }
            By::Everybody => Ok(self.limiter.take(&())),
        }
    }
}

impl Policy for RateLimitPolicy {
    type Permit = RateLimitPermit;

    fn name(&self) -> &'static str {
        "rate_limit"
    }

    fn decide(&self, head: &RequestHead<'_>) -> Decision<RateLimitPermit> {
        Decision::Ready(match self.take(head) {
            Err(denial) => Verdict::Refuse(denial),
            Ok(RateDecision {
                retry_after: None,
                readings,
            }) => Verdict::Admit(RateLimitPermit {
                headers: Arc::clone(&self.headers),
                readings,
            }),
            Ok(RateDecision {
                retry_after: Some(wait),
                readings,
            }) => {
                let denial = Denial::new(DenialKind::RateLimited).retry_after(wait);
                let permit = RateLimitPermit {
                    headers: Arc::clone(&self.headers),
                    readings,
                };
                Verdict::RefuseMarked(denial, permit)
            }
        })
    }
}

/// What is left to the client, to be written on the answer.
#[derive(Debug)]
pub struct RateLimitPermit {
    headers: Arc<RateHeaders>,
    readings: SmallVec<[WindowReading; 3]>,
}

impl Permit for RateLimitPermit {
    type Meter = NoMeter;

    fn mark_response(self, response: ResponseMarks<'_>) -> Tail<NoMeter> {
        self.headers.write(response.headers, &self.readings);
        Tail::Body
    }
}
