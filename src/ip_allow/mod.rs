//! Allowed client addresses: [`IpAllowLayer`].
//!
//! - Refuses with 403 a client whose address is in none of the networks; with 400 if what a trusted
//!   proxy reports isn't an address; and with 503 if the server provides no peer address, because
//!   then there is nothing to check.
//! - Stands outside everything that costs something: rate limits, authentication.
//! - Asks no store.
//! - Puts the address into the request's extensions as a [`ClientIp`]; in shadow mode also an
//!   address outside the networks.
//!
//! The networks of a single key are set on the key: see
//! [`NewKey::networks`](crate::keyring::NewKey::networks).
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::convert::Infallible;
//! use tollgate::{ClientIp, IpAllowLayer, PeerAddress, network};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let whence = service_fn(async |request: http::Request<()>| {
//!     let client = request.extensions().get::<ClientIp>().expect("behind the layer");
//!     Ok::<_, Infallible>(http::Response::new(client.to_string()))
//! });
//! let office = network::parse("192.0.2.0/24")?;
//! let service = IpAllowLayer::new([office]).layer(whence);
//! let from = |peer: &str| {
//!     let mut request = http::Request::new(());
//!     request.extensions_mut().insert(PeerAddress(peer.parse().unwrap()));
//!     request
//! };
//! assert_eq!(service.clone().oneshot(from("192.0.2.7:4711")).await?.status(), 200);
//! assert_eq!(service.clone().oneshot(from("198.51.100.1:4711")).await?.status(), 403);
//! assert_eq!(service.oneshot(http::Request::new(())).await?.status(), 503);
//! # Ok(()) }
//! ```

use std::{net::IpAddr, sync::Arc};

use http::Extensions;
use ipnet::IpNet;

use crate::{
    domain::{
        denial::{Denial, DenialKind},
        network,
    },
    guard::{self, Decision, Gate, NoMeter, Permit, Policy, ResponseMarks, Tail, Verdict},
    wire::{ClientAddress, ClientIp, RequestHead},
};

/// Admits clients whose address is in one of the networks. See the [module](self).
#[derive(Clone, Debug)]
pub struct IpAllowLayer {
    gate: Gate<IpAllowPolicy>,
}

guard::layer!(IpAllowLayer, IpAllowPolicy);

impl IpAllowLayer {
    /// Admits clients from one of `networks`; an empty list admits nobody.
    #[must_use]
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self::of(Some(networks.into_iter().map(network::canonical).collect()))
    }

    /// Admits every client with an address, for the [`ClientIp`] that it adds.
    #[must_use]
    pub fn everybody() -> Self {
        Self::of(None)
    }

    /// How the client's address is found; the peer's unless set.
    #[must_use]
    pub fn client_address(self, address: ClientAddress) -> Self {
        Self {
            gate: self.gate.map_policy(|policy| policy.address = address),
        }
    }

    pub(crate) fn into_gate(self) -> Gate<IpAllowPolicy> {
        self.gate
    }

    fn of(networks: Option<Arc<[IpNet]>>) -> Self {
        Self {
            gate: Gate::new(IpAllowPolicy {
                networks,
                address: ClientAddress::peer(),
            }),
        }
    }
}

/// The decision of an [`IpAllowLayer`].
#[derive(Clone, Debug)]
pub struct IpAllowPolicy {
    /// `None`: everybody.
    networks: Option<Arc<[IpNet]>>,
    address: ClientAddress,
}

impl IpAllowPolicy {
    fn allows(&self, client: IpAddr) -> bool {
        let holds = |networks: &Arc<[IpNet]>| networks.iter().any(|one| one.contains(&client));
        self.networks.as_ref().is_none_or(holds)
    }
}

impl Policy for IpAllowPolicy {
    type Permit = Located;

    fn name(&self) -> &'static str {
        "ip_allow"
    }

    fn inherit_address(&mut self, address: &ClientAddress) {
        self.address.inherit(address);
    }

    fn decide(&self, head: &RequestHead<'_>) -> Decision<Located> {
        Decision::Ready(match self.address.resolve(head) {
            Ok(client) if self.allows(client) => Verdict::Admit(Located(ClientIp::new(client))),
            Ok(client) => {
                let reason = format!("{client} is in none of the networks");
                let denial = Denial::new(DenialKind::AddressRefused).because(reason);
                Verdict::RefuseMarked(Box::new(denial), Located(ClientIp::new(client)))
            }
            Err(error) => Verdict::Refuse(error.into()),
        })
    }
}

/// The permit of an [`IpAllowLayer`]. It puts the [`ClientIp`] on the request.
#[derive(Debug)]
pub struct Located(ClientIp);

impl Permit for Located {
    type Meter = NoMeter;

    fn mark_request(&mut self, extensions: &mut Extensions) {
        extensions.insert(self.0);
    }

    fn mark_response(self, _: ResponseMarks<'_>) -> Tail<NoMeter> {
        Tail::Body
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ForwardedHeader, PeerAddress};

    fn judged(layer: &IpAllowLayer, peer: &str, forwarded: Option<&str>) -> Option<DenialKind> {
        let mut request = http::Request::new(());
        let peer = PeerAddress(peer.parse().unwrap());
        request.extensions_mut().insert(peer);
        if let Some(forwarded) = forwarded {
            let value = forwarded.parse().unwrap();
            request.headers_mut().insert("x-forwarded-for", value);
        }
        match layer.gate.policy().decide(&RequestHead::of(&request)) {
            Decision::Ready(Verdict::Admit(_)) => None,
            Decision::Ready(Verdict::Refuse(denial)) => Some(denial.kind()),
            Decision::Ready(Verdict::RefuseMarked(denial, _)) => Some(denial.kind()),
            _ => panic!("neither admitted nor refused"),
        }
    }

    fn nets<const N: usize>(networks: [&str; N]) -> [IpNet; N] {
        networks.map(|network| network.parse().unwrap())
    }

    #[test]
    fn what_the_client_says_of_itself_changes_nothing() {
        let office = IpAllowLayer::new(nets(["192.0.2.0/24"]));
        let refused = Some(DenialKind::AddressRefused);
        assert_eq!(
            judged(&office, "198.51.100.1:1", Some("192.0.2.7")),
            refused
        );
        assert_eq!(judged(&office, "192.0.2.7:1", Some("198.51.100.1")), None);

        let proxied = office.client_address(
            ClientAddress::peer().trusting(nets(["10.0.0.0/8"]), ForwardedHeader::XForwardedFor),
        );
        assert_eq!(judged(&proxied, "10.0.0.1:1", Some("192.0.2.7")), None);
        let spoofed = "192.0.2.7, 198.51.100.1";
        assert_eq!(judged(&proxied, "10.0.0.1:1", Some(spoofed)), refused);
        let garbage = judged(&proxied, "10.0.0.1:1", Some("192.0.2.7, unknown"));
        assert_eq!(garbage, Some(DenialKind::Malformed));
    }

    #[test]
    fn ipv4_written_as_ipv6_is_ipv4_on_both_sides() {
        let mapped = IpAllowLayer::new(nets(["::ffff:192.0.2.0/120"]));
        assert_eq!(judged(&mapped, "192.0.2.7:1", None), None);
        let plain = IpAllowLayer::new(nets(["192.0.2.0/24"]));
        assert_eq!(judged(&plain, "[::ffff:192.0.2.7]:1", None), None);
    }

    #[test]
    fn an_empty_list_admits_nobody() {
        let nobody = IpAllowLayer::new([]);
        let refused = Some(DenialKind::AddressRefused);
        assert_eq!(judged(&nobody, "127.0.0.1:1", None), refused);
        assert_eq!(
            judged(&IpAllowLayer::everybody(), "127.0.0.1:1", None),
            None
        );
    }
}
