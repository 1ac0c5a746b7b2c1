//! Limits on open connections.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{InFlight, concurrency::Counts};
use crate::{domain::network, wire::counted_as};

/// Limits how many connections each address has open at once, so that no single client can use up
/// all of them: by IPv4 address, and by /64 prefix of IPv6. For a server that accepts its own
/// connections, before anything is read from them.
///
/// It counts by the peer's address, since a connection shows no other. A proxy in front of the
/// server carries the connections of many clients: exempt it by [`add_proxies`](Self::add_proxies).
///
/// It counts in this process. Memory use is proportional to the open connections; clones share the
/// limit.
///
/// ```
/// use std::net::IpAddr;
/// use tollgate::rate_limit::ConnectionLimit;
///
/// let limit = ConnectionLimit::per_peer(1).add_proxies(["10.0.0.0/8".parse()?]);
/// let (client, neighbour): (IpAddr, IpAddr) = ("2001:db8::1".parse()?, "2001:db8::2".parse()?);
/// let place = limit.open(client);
/// assert!(place.is_some());
/// assert!(limit.open(neighbour).is_none(), "of one /64, which is one client's");
/// drop(place);
/// assert!(limit.open(neighbour).is_some());
///
/// let proxy = "10.0.0.7".parse()?;
/// assert!([limit.open(proxy), limit.open(proxy)].iter().all(Option::is_some));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ConnectionLimit {
    most: u32,
    proxies: Vec<IpNet>,
    counts: Arc<Counts>,
}

impl ConnectionLimit {
    /// At most `most` per address. 0 counts as 1.
    #[must_use]
    pub fn per_peer(most: u32) -> Self {
        Self {
            most: most.max(1),
            proxies: Vec::new(),
            counts: Arc::default(),
        }
    }

    /// Adds proxies, which carry connections of many clients, and so are not counted.
    #[must_use]
    pub fn add_proxies(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        let networks = networks.into_iter().map(network::canonical);
        self.proxies.extend(networks);
        self
    }

    /// A place for a connection of `peer`; `None` if it has reached the limit: close the
    /// connection. Keep the place for as long as the connection lasts
    /// ([`WatchedIo::keeping`](crate::stall::WatchedIo::keeping)).
    #[must_use]
    pub fn open(&self, peer: IpAddr) -> Option<ConnectionPlace> {
        let peer = peer.to_canonical();
        if self.proxies.iter().any(|proxy| proxy.contains(&peer)) {
            return Some(ConnectionPlace { _counted: None });
        }
        let counted = InFlight::begin(&self.counts, &counted_as(peer), self.most)?;
        Some(ConnectionPlace {
            _counted: Some(counted),
        })
    }
}

/// A connection's place in a [`ConnectionLimit`], released when dropped.
#[must_use = "it is free again at once"]
pub struct ConnectionPlace {
    /// `None` for a proxy.
    _counted: Option<InFlight>,
}

impl fmt::Debug for ConnectionPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionPlace")
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ipv4_that_is_written_as_ipv6_is_ipv4() {
        let limit = ConnectionLimit::per_peer(1);
        let limit = limit.add_proxies(["::ffff:10.0.0.0/104".parse().unwrap()]);
        let place = limit.open(address("192.0.2.1"));
        assert!(place.is_some() && limit.open(address("::ffff:192.0.2.1")).is_none());
        let others = ["192.0.2.2", "2001:db8:0:1::1", "2001:db8:0:2::1"];
        let others = others.map(|other| limit.open(address(other)));
        assert!(others.iter().all(Option::is_some));
        let of_proxy = ["10.0.0.1", "10.0.0.1", "::ffff:10.0.0.1"];
        let of_proxy = of_proxy.map(|proxy| limit.open(address(proxy)));
        assert!(of_proxy.iter().all(Option::is_some));
    }

    #[test]
    fn threads_have_no_more_than_there_may_be_and_leave_none() {
        let (limit, peer) = (ConnectionLimit::per_peer(5), address("192.0.2.1"));
        let together = Barrier::new(8);
        let opened: usize = thread::scope(|scope| {
            let each = [(); 8].map(|()| {
                scope.spawn(|| {
                    together.wait();
                    let places = [limit.open(peer), limit.open(peer)];
                    together.wait();
                    places.iter().flatten().count()
                })
            });
            each.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(opened, 5);
        let again: Vec<_> = (0..6).map(|_| limit.open(peer)).collect();
        assert_eq!(again.iter().flatten().count(), 5, "all were free again");
    }
}
