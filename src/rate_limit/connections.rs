//! Limits on open connections.

use std::{
    fmt,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

use super::{InFlight, concurrency::Counts};
use crate::{
    domain::{
        clock::{Clock, SystemClock},
        network,
    },
    repeats::{LogLine, Repeats},
    wire::counted_as,
};

/// How long to wait after a failure that isn't one connection's: most likely there are no more
/// descriptors, and an immediate retry would fail as well.
const PAUSE: Duration = Duration::from_millis(100);

/// Limits how many connections each address has open at once, so that no single client can use up
/// all of them: by IPv4 address, and by /64 prefix of IPv6. For a server that accepts its own
/// connections, before anything is read from them.
///
/// It counts by the peer's address, since a connection shows no other. A proxy in front of the
/// server carries the connections of many clients: exempt it by [`add_proxies`](Self::add_proxies).
///
/// With [`in_all`](Self::in_all) and [`accept`](Self::accept) it also limits how many there are
/// together.
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
    /// `None`: any number.
    places: Option<Arc<Semaphore>>,
}

impl ConnectionLimit {
    /// At most `most` per address. 0 counts as 1.
    #[must_use]
    pub fn per_peer(most: u32) -> Self {
        Self {
            most: most.max(1),
            proxies: Vec::new(),
            counts: Arc::default(),
            places: None,
        }
    }

    /// Also limits the connections of all addresses together, proxies' included, where they are
    /// [accepted](Self::accept); any number unless set. 0 counts as 1. Choose fewer than the
    /// process may have descriptors.
    #[must_use]
    pub fn in_all(mut self, most: u32) -> Self {
        let most = usize::try_from(most.max(1)).unwrap_or(usize::MAX);
        let places = Semaphore::new(most.min(Semaphore::MAX_PERMITS));
        self.places = Some(Arc::new(places));
        self
    }

    /// Adds proxies, which carry connections of many clients, and so are not counted.
    #[must_use]
    pub fn add_proxies(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        let networks = networks.into_iter().map(network::canonical);
        self.proxies.extend(networks);
        self
    }

    /// Accepts the next connection that there is a place for, by `accept`, a listener's function.
    /// If there is none [in all](Self::in_all), it waits before it accepts, and clients wait in the
    /// system's queue. Connections of an address that has as many as it may are closed. After a
    /// failure that isn't just one connection's it goes on, with a pause from the second in a row.
    ///
    /// `accept` must not do a handshake: one client's would hold up all others. Whoever waits for a
    /// connection has a place already, so several listeners of one limit need one more each.
    ///
    /// Keep the place for as long as the connection lasts. Dropping the future loses no connection.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::net::{TcpListener, TcpStream};
    /// use tollgate::{StallWatch, rate_limit::ConnectionLimit, stall::WatchedIo};
    ///
    /// /// For `axum::serve`.
    /// struct Limited {
    ///     listener: TcpListener,
    ///     limit: ConnectionLimit,
    /// }
    ///
    /// impl axum::serve::Listener for Limited {
    ///     type Io = WatchedIo<TcpStream>;
    ///     type Addr = std::net::SocketAddr;
    ///
    ///     async fn accept(&mut self) -> (Self::Io, Self::Addr) {
    ///         let (stream, peer, place) = self.limit.accept(|| self.listener.accept()).await;
    ///         (StallWatch::new().peer(peer).io(stream).keeping(place), peer)
    ///     }
    ///
    ///     fn local_addr(&self) -> std::io::Result<Self::Addr> {
    ///         self.listener.local_addr()
    ///     }
    /// }
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0").await?;
    /// let address = listener.local_addr()?;
    /// let limit = ConnectionLimit::per_peer(100).in_all(1_000);
    /// let server = axum::serve(Limited { listener, limit }, axum::Router::new());
    /// tokio::spawn(server.into_future());
    /// let mut client = TcpStream::connect(address).await?;
    /// tokio::io::AsyncWriteExt::write_all(&mut client, b"GET / HTTP/1.0\r\n\r\n").await?;
    /// let mut answer = String::new();
    /// tokio::io::AsyncReadExt::read_to_string(&mut client, &mut answer).await?;
    /// assert!(answer.starts_with("HTTP/1.0 404 "), "{answer}");
    /// # Ok(()) }
    /// ```
    pub async fn accept<S, F>(
        &self,
        mut accept: impl FnMut() -> F,
    ) -> (S, SocketAddr, ConnectionPlace)
    where
        F: Future<Output = io::Result<(S, SocketAddr)>>,
    {
        let in_all = match &self.places {
            // Fails only if the semaphore is closed, which never happens.
            Some(places) => Arc::clone(places).acquire_owned().await.ok(),
            None => None,
        };
        // The system reports errors of single connections in many ways (accept(2)).
        let mut is_first = true;
        loop {
            match accept().await {
                Ok((stream, peer)) => match self.open(peer.ip()) {
                    Some(place) => {
                        let place = ConnectionPlace {
                            _in_all: in_all,
                            ..place
                        };
                        return (stream, peer, place);
                    }
                    None => tracing::debug!(
                        target: "tollgate", %peer, "its address has too many connections; it is closed"
                    ),
                },
                Err(error) if is_of_one(&error) => {}
                Err(error) => {
                    static FAILURES: Repeats = Repeats::new();
                    if let Some(LogLine { left_out }) =
                        FAILURES.failed(&error, SystemClock.elapsed())
                    {
                        tracing::warn!(target: "tollgate", %error, left_out, "no connection was accepted");
                    }
                    if !std::mem::take(&mut is_first) {
                        sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    /// A place for a connection of `peer`; `None` if it has reached the limit: close the
    /// connection. Keep the place for as long as the connection lasts
    /// ([`WatchedIo::keeping`](crate::stall::WatchedIo::keeping)).
    #[must_use]
    pub fn open(&self, peer: IpAddr) -> Option<ConnectionPlace> {
        let peer = peer.to_canonical();
        if self.proxies.iter().any(|proxy| proxy.contains(&peer)) {
            return Some(ConnectionPlace::default());
        }
        let counted = InFlight::begin(&self.counts, &counted_as(peer), self.most)?;
        Some(ConnectionPlace {
            _counted: Some(counted),
            _in_all: None,
        })
    }
}

/// Whether accepting failed for this one connection, which ended while it waited.
fn is_of_one(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}

/// A connection's place in a [`ConnectionLimit`], released when dropped.
#[derive(Default)]
#[must_use = "it is free again at once"]
pub struct ConnectionPlace {
    /// `None` for a proxy.
    _counted: Option<InFlight>,
    /// `None` unless it was accepted here, and there is such a limit.
    _in_all: Option<OwnedSemaphorePermit>,
}

impl fmt::Debug for ConnectionPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionPlace")
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::VecDeque, future::ready, sync::Barrier, thread};

    use tokio::time::{Instant, timeout};

    use super::*;

    type Accepted = io::Result<(&'static str, SocketAddr)>;

    /// Connections that wait, in order.
    struct Queue(RefCell<VecDeque<Accepted>>);

    impl Queue {
        fn of<const N: usize>(waiting: [Accepted; N]) -> Self {
            Self(RefCell::new(waiting.into()))
        }

        async fn next(&self, limit: &ConnectionLimit) -> (&'static str, ConnectionPlace) {
            let next = || ready(self.0.borrow_mut().pop_front().unwrap());
            let (stream, _, place) = limit.accept(next).await;
            (stream, place)
        }

        fn left(&self) -> usize {
            self.0.borrow().len()
        }
    }

    fn of(name: &'static str, peer: &str) -> Accepted {
        Ok((name, SocketAddr::new(address(peer), 1)))
    }

    #[tokio::test(start_paused = true)]
    async fn where_there_is_no_place_left_nothing_is_accepted() {
        let limit = ConnectionLimit::per_peer(2).in_all(2);
        let limit = limit.add_proxies(["10.0.0.0/8".parse().unwrap()]);
        let queue = Queue::of([
            of("a", "192.0.2.1"),
            of("b", "10.0.0.1"),
            of("c", "192.0.2.1"),
        ]);
        let (first, second) = (queue.next(&limit).await, queue.next(&limit).await);
        assert_eq!((first.0, second.0), ("a", "b"));
        let third = timeout(Duration::from_secs(60), queue.next(&limit)).await;
        assert!(third.is_err(), "a proxy's has a place too");
        assert_eq!(queue.left(), 1, "it waits in the queue, and is not lost");
        drop(second);
        assert_eq!(queue.next(&limit).await.0, "c");
    }

    #[tokio::test(start_paused = true)]
    async fn one_too_many_of_an_address_is_closed_and_keeps_no_place() {
        let limit = ConnectionLimit::per_peer(1).in_all(2);
        let queue = Queue::of([
            of("a", "192.0.2.1"),
            of("b", "192.0.2.1"),
            of("c", "192.0.2.2"),
            of("d", "192.0.2.1"),
        ]);
        let first = queue.next(&limit).await;
        let other = queue.next(&limit).await;
        assert_eq!((first.0, other.0), ("a", "c"));
        drop(first);
        assert_eq!(queue.next(&limit).await.0, "d");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_paused_after_unless_it_is_one_connections() {
        let limit = ConnectionLimit::per_peer(1);
        let queue = Queue::of([
            Err(io::ErrorKind::ConnectionAborted.into()),
            Err(io::ErrorKind::ConnectionReset.into()),
            of("a", "192.0.2.1"),
            Err(io::Error::other("no descriptors")),
            Err(io::Error::other("no descriptors")),
            of("b", "192.0.2.2"),
        ]);
        let began = Instant::now();
        let first = queue.next(&limit).await;
        assert_eq!((first.0, began.elapsed()), ("a", Duration::ZERO));
        let second = queue.next(&limit).await;
        assert_eq!(
            (second.0, began.elapsed()),
            ("b", PAUSE),
            "after the second"
        );
    }

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
