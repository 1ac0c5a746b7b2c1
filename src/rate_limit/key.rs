//! What a rate limit counts by: principal, key, address, route, header, or a closure.

use std::{
    borrow::Cow,
    fmt,
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

use http::{HeaderName, Method};
use smallvec::SmallVec;

use crate::{
    domain::{
        denial::{Denial, DenialKind},
        principal::Principal,
    },
    store::RateKey,
    wire::{ClientAddress, RequestHead, counted_as},
};

type Name = dyn Fn(&RequestHead<'_>) -> Option<String> + Send + Sync;

/// What requests are counted by: one property, or a combination.
///
/// A missing property (a header, a tenant) counts as a value of its own: all requests without it
/// share a count. If a principal or an address is missing, the request is refused.
///
/// ```
/// use tollgate::{RateLimitLayer, quota::Quota, rate_limit::RateLimitKey};
///
/// // Each tenant has so many of each route.
/// let key = RateLimitKey::attribute("tenant").and(RateLimitKey::route());
/// let layer = RateLimitLayer::per(key, Quota::per_minute(100));
/// ```
#[derive(Clone, Debug)]
pub struct RateLimitKey(Vec<KeySource>);

#[derive(Clone)]
enum KeySource {
    Address(ClientAddress),
    Principal,
    Subject,
    Account,
    Attribute(Box<str>),
    Header(HeaderName),
    Route,
    Name(Arc<Name>),
}

impl RateLimitKey {
    /// Nothing: all requests share one count.
    #[must_use]
    pub const fn everybody() -> Self {
        Self(Vec::new())
    }

    /// The client's address: IPv4 addresses, and /64 prefixes of IPv6.
    #[must_use]
    pub fn client_ip(address: ClientAddress) -> Self {
        Self(vec![KeySource::Address(address)])
    }

    /// The principal: the key together with all keys it was rotated into, or else the user.
    #[must_use]
    pub fn principal() -> Self {
        Self(vec![KeySource::Principal])
    }

    /// The user, or the owner of the key: all keys of one owner together.
    #[must_use]
    pub fn subject() -> Self {
        Self(vec![KeySource::Subject])
    }

    /// The account that pays.
    #[must_use]
    pub fn account() -> Self {
        Self(vec![KeySource::Account])
    }

    /// An attribute that the application stores for the principal: a tenant, a team.
    #[must_use]
    pub fn attribute(name: &str) -> Self {
        Self(vec![KeySource::Attribute(name.into())])
    }

    /// The first value of a header. The client chooses it: it separates clients, but protects
    /// against none.
    #[must_use]
    pub fn header(name: HeaderName) -> Self {
        Self(vec![KeySource::Header(name)])
    }

    /// Method and route: the pattern that axum's router matched, or the raw path if no router has
    /// matched one yet. HEAD counts as GET. All methods outside HTTP's own standards (RFC 9110, RFC
    /// 5789) count as one, because clients can invent them.
    #[must_use]
    pub fn route() -> Self {
        Self(vec![KeySource::Route])
    }

    /// A name that `name` derives from the request's head.
    #[must_use]
    pub fn by(name: impl Fn(&RequestHead<'_>) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(vec![KeySource::Name(Arc::new(name))])
    }

    /// Combines both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Whether it is just the principal, so that a key's own quotas apply.
    pub(super) fn is_principal(&self) -> bool {
        matches!(self.0.as_slice(), [KeySource::Principal])
    }

    /// Whether it needs an authenticated caller.
    pub(super) fn needs_principal(&self) -> bool {
        self.0.iter().any(|by| match by {
            KeySource::Principal
            | KeySource::Subject
            | KeySource::Account
            | KeySource::Attribute(_) => true,
            KeySource::Address(_)
            | KeySource::Header(_)
            | KeySource::Route
            | KeySource::Name(_) => false,
        })
    }

    /// Replaces the way to determine the address, if the key uses it.
    pub(super) fn set_address(&mut self, address: ClientAddress) {
        let old = self.0.iter_mut().find_map(|by| match by {
            KeySource::Address(old) => Some(old),
            _ => None,
        });
        if let Some(old) = old {
            *old = address;
        }
    }

    /// Applies the gate's way to determine the address, unless the key has its own.
    pub(super) fn inherit_address(&mut self, address: &ClientAddress) {
        for by in &mut self.0 {
            if let KeySource::Address(own) = by {
                own.inherit(address);
            }
        }
    }

    /// What this request is counted by.
    pub(super) fn of<'a>(&self, head: &RequestHead<'a>) -> Result<Counted<'a>, Denial> {
        let mut parts = SmallVec::new();
        for by in &self.0 {
            parts.push(by.part(head)?);
        }
        Ok(Counted(parts))
    }
}

impl KeySource {
    fn part<'a>(&self, head: &RequestHead<'a>) -> Result<Part<'a>, Denial> {
        let text =
            |text: Option<&'a str>| text.map_or(Part::Missing, |text| Part::Text(text.into()));
        Ok(match self {
            Self::Address(address) => Part::Address(counted_as(address.resolve(head)?)),
            Self::Principal => text(Some(principal(head)?.metered_as())),
            Self::Subject => text(Some(principal(head)?.subject())),
            Self::Account => text(Some(principal(head)?.require_account()?.as_str())),
            Self::Attribute(name) => text(principal(head)?.attribute(name)),
            Self::Header(name) => match head.headers.get(name) {
                Some(value) => Part::Bytes(value.as_bytes()),
                None => Part::Missing,
            },
            Self::Route => Part::Route(method(head), head.route_pattern().unwrap_or(head.path())),
            Self::Name(name) => match name(head) {
                Some(name) => Part::Text(Cow::Owned(name)),
                None => Part::Missing,
            },
        })
    }
}

fn principal<'a>(head: &RequestHead<'a>) -> Result<&'a Principal, Denial> {
    head.extensions.get::<Principal>().ok_or_else(|| {
        Denial::new(DenialKind::CredentialMissing)
            .because("no principal: the layer must stand inside an authenticating one")
    })
}

/// The method, mapped to a small fixed set.
fn method<'a>(head: &RequestHead<'a>) -> &'a str {
    match *head.method {
        Method::HEAD => Method::GET.as_str(),
        _ => head.known_method().unwrap_or("*"),
    }
}

/// The values that a request is counted by. Borrows from the head and doesn't allocate.
#[derive(Debug)]
pub(super) struct Counted<'a>(SmallVec<[Part<'a>; 2]>);

#[derive(Debug)]
enum Part<'a> {
    Address(IpAddr),
    Text(Cow<'a, str>),
    Bytes(&'a [u8]),
    Route(&'a str, &'a str),
    Missing,
}

impl Counted<'_> {
    /// Its key in a shared store.
    pub(super) fn name(&self, scope: &Arc<str>) -> RateKey {
        let mut bytes = Vec::with_capacity(64);
        for part in &self.0 {
            part.each(|kind, piece| {
                bytes.push(kind);
                bytes.extend_from_slice(&piece.len().to_be_bytes());
                bytes.extend_from_slice(piece);
            });
        }
        RateKey::new(scope, &bytes)
    }
}

/// Written in few pieces, because every request is hashed. Within a limiter the kinds of parts are
/// always the same.
impl Hash for Counted<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for part in &self.0 {
            part.each(|kind, piece| {
                state.write(piece);
                let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
                state.write_u64(length.rotate_right(8) | u64::from(kind));
            });
        }
    }
}

impl Part<'_> {
    /// Its kind and its bytes; together with the length they are unambiguous.
    fn each(&self, mut put: impl FnMut(u8, &[u8])) {
        match self {
            Self::Address(IpAddr::V4(address)) => put(b'4', &address.octets()),
            Self::Address(IpAddr::V6(address)) => put(b'6', &address.octets()),
            Self::Text(text) => put(b't', text.as_bytes()),
            Self::Bytes(bytes) => put(b'b', bytes),
            Self::Route(method, path) => {
                put(b'm', method.as_bytes());
                put(b'p', path.as_bytes());
            }
            Self::Missing => put(b'-', &[]),
        }
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(_) => f.write_str("client_ip"),
            Self::Principal => f.write_str("principal"),
            Self::Subject => f.write_str("subject"),
            Self::Account => f.write_str("account"),
            Self::Attribute(name) => write!(f, "attribute({name})"),
            Self::Header(name) => write!(f, "header({name})"),
            Self::Route => f.write_str("route"),
            Self::Name(_) => f.write_str("by(…)"),
        }
    }
}
