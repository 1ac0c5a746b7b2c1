//! The client's address: the peer's, or the one that a trusted proxy forwards.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::{Arc, Once},
};

use http::{Extensions, HeaderMap, HeaderName};
use ipnet::IpNet;

use super::RequestHead;
use crate::domain::{
    denial::{Denial, DenialKind},
    network,
};

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The maximum number of forwarding hops.
const HOPS_MAX: usize = 32;
/// The maximum number of parts in one line of `Forwarded`.
const PARTS_MAX: usize = 1_024;

/// The address at the other end of a connection, for servers that put none of the known types into
/// the extensions. With plain hyper, insert this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

impl PeerAddress {
    /// Inserts it where the layers look for it, and where tonic does.
    pub(crate) fn insert_into(self, extensions: &mut Extensions) {
        extensions.insert(self);
        #[cfg(feature = "tonic")]
        extensions.insert(tonic::transport::server::TcpConnectInfo {
            local_addr: None,
            remote_addr: Some(self.0),
        });
    }
}

/// The header in which trusted proxies name the client. One, as configured; never guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: all lines joined, read from the right.
    XForwardedFor,
    /// `Forwarded` (RFC 7239): the `for` parameters, read from the right.
    Forwarded,
    /// `X-Forwarded-For`, or `X-Real-IP` in requests without it. Only behind proxies that set or
    /// remove both: a header that a proxy just passes on was written by the client.
    XForwardedForOrXRealIp,
}

/// Why there is no client address. The request is then refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The server provided no peer address.
    #[error("the server provided no peer address")]
    NoPeer,
    /// A trusted proxy sent something that is not an address.
    #[error("a forwarding header contains something that is not an address")]
    Unreadable,
    /// More than 32 hops.
    #[error("more than {HOPS_MAX} forwarding hops")]
    TooManyHops,
}

impl AddressError {
    /// Returns the error, to be refused with. A server that provides no peer address does so for
    /// every request, so how to fix that is logged once.
    pub(crate) fn said(self) -> Self {
        static LOGGED: Once = Once::new();
        if self == Self::NoPeer {
            LOGGED.call_once(log_missing_peer);
        }
        self
    }
}

fn log_missing_peer() {
    tracing::error!(
        target: "tollgate",
        "the server provides no peer address, so layers that count or compare addresses refuse every request: serve axum's router by \
         `app.into_make_service_with_connect_info::<SocketAddr>()`, with tollgate's feature `axum`; let other servers put a `tollgate::PeerAddress` into \
         the extensions of each request"
    );
}

impl From<AddressError> for Denial {
    fn from(error: AddressError) -> Self {
        let kind = match error.said() {
            AddressError::NoPeer => DenialKind::Unavailable,
            AddressError::Unreadable | AddressError::TooManyHops => DenialKind::Malformed,
        };
        // None of this passes by itself.
        Self::new(kind)
            .without_wait()
            .because(format!("no client address: {error}"))
    }
}

/// The client's address as a layer of this crate determined it
/// ([`IpAllowLayer`](crate::IpAllowLayer)): the peer's, or the one that a trusted proxy named. In
/// the request's extensions, and an extractor for axum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientIp(IpAddr);

impl ClientIp {
    pub(crate) fn new(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    /// The address; IPv4 in IPv6 notation becomes IPv4.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.0
    }

    /// What the client is counted by: the IPv4 address, or the /64 of the IPv6 address, since one
    /// client usually has a whole /64.
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

/// Determines the client's address: the peer's, unless the peer is a trusted proxy.
///
/// In that case the configured header is read from the right, and the first address that isn't a
/// trusted proxy wins: everything further left was written by someone untrusted.
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
    trusted: Arc<[(IpNet, ForwardedHeader)]>,
}

impl ClientAddress {
    /// Always the peer's address.
    #[must_use]
    pub fn peer() -> Self {
        Self {
            trusted: Arc::from([]),
        }
    }

    /// The peer's address, unless it lies in `networks`; in that case the client that `header`
    /// names. Calls add up; the first network that contains the peer decides which header is read.
    #[must_use]
    pub fn trusting(
        mut self,
        networks: impl IntoIterator<Item = IpNet>,
        header: ForwardedHeader,
    ) -> Self {
        let networks = networks.into_iter().map(network::canonical);
        let more = networks.map(|network| (network, header));
        self.trusted = self.trusted.iter().copied().chain(more).collect();
        self
    }

    /// The client's address; IPv4 in IPv6 notation becomes IPv4. Without trusted proxies of its own
    /// it returns the address that a layer further out determined ([`ClientIp`]), so that of two
    /// layers the inner one doesn't count the proxy.
    ///
    /// # Errors
    /// [`AddressError`]: refuse the request.
    pub fn resolve(&self, head: &RequestHead<'_>) -> Result<IpAddr, AddressError> {
        if self.trusted.is_empty()
            && let Some(found) = head.extensions.get::<ClientIp>()
        {
            return Ok(found.address());
        }
        let peer = head.peer().ok_or(AddressError::NoPeer)?.ip().to_canonical();
        let Some(header) = self.header_of(peer) else {
            return Ok(peer);
        };
        match header {
            ForwardedHeader::XForwardedForOrXRealIp
                if !head.headers.contains_key(X_FORWARDED_FOR) =>
            {
                real_ip(head.headers).map(|client| client.unwrap_or(peer))
            }
            ForwardedHeader::XForwardedFor | ForwardedHeader::XForwardedForOrXRealIp => {
                self.first_untrusted(peer, head.headers, X_FORWARDED_FOR, listed, |hop| Some(hop))
            }
            ForwardedHeader::Forwarded => {
                self.first_untrusted(peer, head.headers, "forwarded", elements, node_of)
            }
        }
    }

    /// Takes over the settings of `outer`, unless it has trusted proxies of its own.
    pub(crate) fn inherit(&mut self, outer: &Self) {
        if self.trusted.is_empty() {
            self.clone_from(outer);
        }
    }

    /// Whether a trusted network contains every address of its family.
    pub(crate) fn trusts_everybody(&self) -> bool {
        self.trusted
            .iter()
            .any(|(network, _)| network.prefix_len() == 0)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.header_of(address).is_some()
    }

    /// The header in which a trusted proxy names the client.
    fn header_of(&self, proxy: IpAddr) -> Option<ForwardedHeader> {
        let mut trusted = self.trusted.iter();
        let (_, header) = trusted.find(|(network, _)| network.contains(&proxy))?;
        Some(*header)
    }

    fn first_untrusted(
        &self,
        peer: IpAddr,
        headers: &HeaderMap,
        name: &'static str,
        hops: fn(&str) -> Option<Vec<&str>>,
        node: fn(&str) -> Option<&str>,
    ) -> Result<IpAddr, AddressError> {
        let lines = headers.get_all(HeaderName::from_static(name));
        let mut client = peer;
        let mut count = 0_usize;
        let lines: Vec<_> = lines.iter().collect();
        for line in lines.into_iter().rev() {
            let line = line.to_str().map_err(|_| AddressError::Unreadable)?;
            for hop in hops(line).ok_or(AddressError::Unreadable)? {
                count = count.saturating_add(1);
                if count > HOPS_MAX {
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

/// The address in `X-Real-IP`, if there is one.
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

/// The comma-separated items, from the right; no more than are examined.
fn listed(line: &str) -> Option<Vec<&str>> {
    let hops = line.rsplit(',').take(HOPS_MAX.saturating_add(1));
    Some(hops.collect())
}

/// The elements of `Forwarded` (RFC 7239, 4), from the right. The line is parsed from its start,
/// because other parameters carry values that a client chose (`host`), and a comma within quotes
/// doesn't separate.
fn elements(line: &str) -> Option<Vec<&str>> {
    let mut elements = split_outside_quotes(line, b',')?;
    elements.reverse();
    elements.truncate(HOPS_MAX.saturating_add(1));
    Some(elements)
}

/// The `for` parameter of an element; `None` if there is none, more than one, or something that
/// isn't a parameter.
fn node_of(element: &str) -> Option<&str> {
    let mut node = None;
    for pair in split_outside_quotes(element, b';')? {
        let pair = pair.trim();
        if pair.is_empty() {
            continue;
        }
        let (name, value) = pair.split_once('=')?;
        let inside = match value.strip_prefix('"') {
            // The only closing quote is at the end.
            Some(rest) => rest
                .strip_suffix('"')
                .filter(|inside| quotes_are_escaped(inside))?,
            None if value.contains('"') => return None,
            None => value,
        };
        if name.eq_ignore_ascii_case("for") && node.replace(inside).is_some() {
            return None;
        }
    }
    node
}

/// Whether every quote inside a quoted string is escaped, and every backslash escapes something.
fn quotes_are_escaped(inside: &str) -> bool {
    let mut bytes = inside.bytes();
    while let Some(byte) = bytes.next() {
        let sound = match byte {
            b'\\' => bytes.next().is_some(),
            byte => byte != b'"',
        };
        if !sound {
            return false;
        }
    }
    true
}

/// Splits a text at separators outside of quoted strings; `None` if a quoted string doesn't end, or
/// there are too many parts.
fn split_outside_quotes(text: &str, separator: u8) -> Option<Vec<&str>> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        if escaped {
            escaped = false;
        } else if quoted && byte == b'\\' {
            escaped = true;
        } else if byte == b'"' {
            quoted = !quoted;
        } else if byte == separator && !quoted {
            if parts.len() >= PARTS_MAX {
                return None;
            }
            parts.push(text.get(start..at)?);
            start = at.saturating_add(1);
        }
    }
    parts.push(text.get(start..)?);
    (!quoted).then_some(parts)
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

/// What a client is counted by: an IPv4 address, or the /64 of an IPv6 address, since one client
/// usually has a whole /64.
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
