//! Who is at the other end: the peer, or the client that a trusted proxy speaks for.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::{Arc, Once},
};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use super::RequestHead;
use crate::domain::denial::{Denial, DenialKind};

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The most forwarding hops that are looked at.
const HOPS_MAX: usize = 32;

/// The address at the other end of a connection, for servers that put none of the known types into the
/// extensions: plain hyper inserts this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

/// The header by which the trusted proxies tell for whom they speak. One, as configured; never a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: all lines joined, read from the right.
    XForwardedFor,
    /// `Forwarded` (RFC 7239): the `for` parameters, read from the right.
    Forwarded,
    /// `X-Forwarded-For`, and `X-Real-IP` in requests that have none. Only behind proxies that set or
    /// remove both: what a proxy passes on unread was written by the client.
    XForwardedForOrXRealIp,
}

/// Why there is no client address. The request is refused: what isn't known can't be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The server told no peer address.
    #[error("the server told no peer address")]
    NoPeer,
    /// A trusted proxy sent something that is no address.
    #[error("a forwarding header holds something that is no address")]
    Unreadable,
    /// More than 32 hops.
    #[error("more than {HOPS_MAX} forwarding hops")]
    TooManyHops,
}

impl AddressError {
    /// For whoever refuses for it. A server that tells no peer address tells none of any request: how to mend that is
    /// said once, aloud.
    pub(crate) fn said(self) -> Self {
        static SAID: Once = Once::new();
        if self == Self::NoPeer {
            SAID.call_once(say_how_to_tell_the_peer);
        }
        self
    }
}

fn say_how_to_tell_the_peer() {
    tracing::error!(
        target: "tollgate",
        "the server tells no peer address, and what counts or compares addresses refuses everybody: serve axum's router by \
         `app.into_make_service_with_connect_info::<SocketAddr>()`; let other servers put a `tollgate::PeerAddress` into \
         the extensions of each request"
    );
}

impl From<AddressError> for Denial {
    fn from(error: AddressError) -> Self {
        let kind = match error.said() {
            AddressError::NoPeer => DenialKind::Unavailable,
            AddressError::Unreadable | AddressError::TooManyHops => DenialKind::Malformed,
        };
        Self::new(kind).because(format!("no client address: {error}"))
    }
}

/// The address of the client, as a layer of this crate found it ([`IpAllowLayer`](crate::IpAllowLayer)):
/// the peer's, or that for which a trusted proxy speaks. In the request's extensions, and an extractor for
/// axum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientIp(IpAddr);

impl ClientIp {
    pub(crate) fn new(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    /// The address; IPv4 written as IPv6 is IPv4.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.0
    }

    /// What the client is counted by: the IPv4 address, or the /64 of the IPv6 one, since one client
    /// has them all.
    #[must_use]
    pub fn counted(self) -> IpAddr {
        counted_as(self.0)
    }
}

impl fmt::Display for ClientIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Finds the client's address: the peer's, unless the peer is a trusted proxy.
///
/// Then the configured header is read from the right, and the first address that isn't a trusted proxy
/// wins: everything further left was written by whom we don't trust.
///
/// ```
/// use tollgate::{ClientAddress, ForwardedHeader, PeerAddress, RequestHead};
///
/// let address = ClientAddress::peer()
///     .trusting(["10.0.0.0/8".parse()?], ForwardedHeader::XForwardedFor);
/// let mut request = http::Request::builder()
///     .header("x-forwarded-for", "203.0.113.9, 198.51.100.7, 10.0.0.3")
///     .body(())?;
/// request.extensions_mut().insert(PeerAddress("10.0.0.2:443".parse()?));
/// assert_eq!(address.resolve(&RequestHead::of(&request))?.to_string(), "198.51.100.7");
///
/// request.extensions_mut().insert(PeerAddress("192.0.2.1:443".parse()?));
/// assert_eq!(address.resolve(&RequestHead::of(&request))?.to_string(), "192.0.2.1", "not a proxy of ours");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClientAddress {
    trusted: Arc<[IpNet]>,
    header: ForwardedHeader,
}

impl ClientAddress {
    /// The peer's address, always.
    #[must_use]
    pub fn peer() -> Self {
        Self {
            trusted: Arc::from([]),
            header: ForwardedHeader::XForwardedFor,
        }
    }

    /// The peer's address, unless it lies in `networks`: then the client that `header` names.
    #[must_use]
    pub fn trusting(
        mut self,
        networks: impl IntoIterator<Item = IpNet>,
        header: ForwardedHeader,
    ) -> Self {
        self.trusted = networks.into_iter().collect();
        self.header = header;
        self
    }

    /// The client's address; IPv4 written as IPv6 comes out as IPv4.
    ///
    /// # Errors
    /// [`AddressError`]: refuse the request.
    pub fn resolve(&self, head: &RequestHead<'_>) -> Result<IpAddr, AddressError> {
        let peer = head.peer().ok_or(AddressError::NoPeer)?.ip().to_canonical();
        if !self.trusts(peer) {
            return Ok(peer);
        }
        match self.header {
            ForwardedHeader::XForwardedForOrXRealIp
                if !head.headers.contains_key(X_FORWARDED_FOR) =>
            {
                real_ip(head.headers).map(|client| client.unwrap_or(peer))
            }
            ForwardedHeader::XForwardedFor | ForwardedHeader::XForwardedForOrXRealIp => {
                self.first_untrusted(peer, head.headers, X_FORWARDED_FOR, |hop| Some(hop))
            }
            ForwardedHeader::Forwarded => {
                self.first_untrusted(peer, head.headers, "forwarded", forwarded_for)
            }
        }
    }

    /// Becomes what `outer` is, unless it has proxies of its own to trust.
    pub(crate) fn inherit(&mut self, outer: &Self) {
        if self.trusted.is_empty() {
            self.clone_from(outer);
        }
    }

    /// Whether some trusted network holds every address of its kind.
    pub(crate) fn trusts_everybody(&self) -> bool {
        self.trusted.iter().any(|network| network.prefix_len() == 0)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted
            .iter()
            .any(|network| network.contains(&address))
    }

    fn first_untrusted(
        &self,
        peer: IpAddr,
        headers: &HeaderMap,
        name: &'static str,
        node: fn(&str) -> Option<&str>,
    ) -> Result<IpAddr, AddressError> {
        let lines = headers.get_all(HeaderName::from_static(name));
        let mut client = peer;
        let mut hops = 0_usize;
        let lines: Vec<_> = lines.iter().collect();
        for line in lines.into_iter().rev() {
            let line = line.to_str().map_err(|_| AddressError::Unreadable)?;
            for hop in line.rsplit(',') {
                hops = hops.saturating_add(1);
                if hops > HOPS_MAX {
                    return Err(AddressError::TooManyHops);
                }
                let hop = node(hop.trim()).ok_or(AddressError::Unreadable)?;
                client = parse_node(hop).ok_or(AddressError::Unreadable)?;
                if !self.trusts(client) {
                    return Ok(client);
                }
            }
        }
        Ok(client)
    }
}

impl Default for ClientAddress {
    fn default() -> Self {
        Self::peer()
    }
}

/// What `X-Real-IP` says: one address, or nothing.
fn real_ip(headers: &HeaderMap) -> Result<Option<IpAddr>, AddressError> {
    let mut lines = headers.get_all("x-real-ip").iter();
    let line = match (lines.next(), lines.next()) {
        (None, _) => return Ok(None),
        (Some(only), None) => only.to_str().map_err(|_| AddressError::Unreadable)?,
        (Some(_), Some(_)) => return Err(AddressError::Unreadable),
    };
    let client = parse_node(line.trim()).ok_or(AddressError::Unreadable)?;
    Ok(Some(client))
}

/// The `for` parameter of one element of `Forwarded`; `None` when there is none, or more than one
/// (RFC 7239, 4).
fn forwarded_for(element: &str) -> Option<&str> {
    let mut found = element.split(';').filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        let value = value
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .unwrap_or(value);
        name.eq_ignore_ascii_case("for").then_some(value)
    });
    let only = found.next()?;
    found.next().is_none().then_some(only)
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`; nothing else.
fn parse_node(text: &str) -> Option<IpAddr> {
    let address = if let Some(rest) = text.strip_prefix('[') {
        let (inside, port) = rest.split_once(']')?;
        let port_is_sound = port.is_empty() || port.strip_prefix(':')?.parse::<u16>().is_ok();
        let address = inside.parse::<std::net::Ipv6Addr>().ok()?;
        port_is_sound.then_some(IpAddr::V6(address))?
    } else {
        IpAddr::from_str(text).ok().or_else(|| {
            text.parse::<std::net::SocketAddrV4>()
                .ok()
                .map(|node| IpAddr::V4(*node.ip()))
        })?
    };
    Some(address.to_canonical())
}

/// What a client is counted by: an IPv4 address, or the /64 of an IPv6 one, since one client has them all.
pub(crate) fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let prefix = u128::from(v6) & !u128::from(u64::MAX);
            IpAddr::V6(prefix.into())
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests;
