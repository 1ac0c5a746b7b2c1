//! Parsing of network addresses.

pub use ipnet::IpNet;

/// The text is neither an address nor a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an address (192.0.2.1) or a network (192.0.2.0/24) is expected")]
pub struct InvalidNetwork;

/// Parses an address (a network of one) or a network in CIDR form. An IPv4 address in IPv6 notation
/// becomes the IPv4 address, as in the requests that it will be compared with.
///
/// ```
/// use tollgate::network;
///
/// assert_eq!(network::parse("192.0.2.7")?.to_string(), "192.0.2.7/32");
/// assert_eq!(network::parse("2001:db8::/32")?.to_string(), "2001:db8::/32");
/// assert_eq!(network::parse("::ffff:192.0.2.7")?.to_string(), "192.0.2.7/32");
/// assert!(network::parse("192.0.2.0/33").is_err());
/// # Ok::<(), network::InvalidNetwork>(())
/// ```
///
/// # Errors
/// [`InvalidNetwork`].
pub fn parse(text: &str) -> Result<IpNet, InvalidNetwork> {
    let text = text.trim();
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Ok(IpNet::from(address.to_canonical()));
    }
    let network = text.parse::<IpNet>().map_err(|_| InvalidNetwork)?;
    Ok(canonical(network))
}

/// Parses addresses and networks that are separated by commas. Spaces, and nothing between two
/// commas, are ignored, so an empty text is an empty list.
///
/// ```
/// use tollgate::network;
///
/// let networks = network::parse_list("192.0.2.7, 2001:db8::/32,")?;
/// assert_eq!(networks, [network::parse("192.0.2.7")?, network::parse("2001:db8::/32")?]);
/// assert!(network::parse_list("192.0.2.7 198.51.100.1").is_err());
/// # Ok::<(), network::InvalidNetwork>(())
/// ```
///
/// # Errors
/// [`InvalidNetwork`] if one of them is none.
pub fn parse_list(text: &str) -> Result<Vec<IpNet>, InvalidNetwork> {
    let entries = text.split(',').map(str::trim);
    entries
        .filter(|entry| !entry.is_empty())
        .map(parse)
        .collect()
}

/// The same network in the form that requests use: IPv4 in IPv6 notation becomes IPv4.
pub(crate) fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else {
        return network;
    };
    let mapped = v6
        .addr()
        .to_ipv4_mapped()
        .zip(v6.prefix_len().checked_sub(96));
    mapped
        .and_then(|(v4, length)| ipnet::Ipv4Net::new(v4, length).ok())
        .map_or(network, IpNet::V4)
}

/// [`canonical`] for each network.
pub(crate) fn canonical_all(networks: &mut [IpNet]) {
    for network in networks {
        *network = canonical(*network);
    }
}
