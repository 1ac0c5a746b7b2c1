//! One document from one address, and from nowhere else.

use std::{
    error::Error,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use reqwest::{
    Certificate, Client, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{ACCEPT, CACHE_CONTROL, HeaderMap},
    redirect::Policy,
};

use super::{BYTES_MAX, JwksError};

pub(super) const ODD_ROOTS: JwksError = JwksError::Setting("root_certificate: certificates in PEM");

/// Which protections are disabled.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowances {
    pub(super) http: bool,
    pub(super) private_addresses: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Fetcher {
    client: Client,
    allowances: Allowances,
}

/// A document, and how long it says that it is fresh.
pub(super) struct Document {
    pub(super) json: Vec<u8>,
    pub(super) max_age: Option<Duration>,
}

impl Fetcher {
    /// `roots` are trusted instead of the system's, if there are any.
    pub(super) fn new(
        deadline: Duration,
        allowances: Allowances,
        roots: &[u8],
    ) -> Result<Self, JwksError> {
        let client = match roots {
            [] => Client::builder(),
            pem => Client::builder().tls_certs_only(certificates(pem)?),
        };
        let client = client
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .https_only(!allowances.http)
            .timeout(deadline)
            .pool_max_idle_per_host(1)
            .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(PublicAddresses { allowances }))
            .build()
            // Only they are parsed here; the rest is constant.
            .map_err(|error| match roots {
                [] => failure(error),
                _ => ODD_ROOTS,
            })?;
        Ok(Self { client, allowances })
    }

    /// Checks that an address may be fetched. A host name is judged by what it resolves to, when it
    /// is connected to.
    pub(super) fn check(&self, url: &str) -> Result<Url, JwksError> {
        let url = Url::parse(url).map_err(|_| JwksError::Url)?;
        let scheme_fits = match url.scheme() {
            "https" => true,
            "http" => self.allowances.http,
            _ => false,
        };
        let bare = url.username().is_empty() && url.password().is_none();
        if !scheme_fits || !bare || url.fragment().is_some() {
            return Err(JwksError::Url);
        }
        let host = url.host_str().ok_or(JwksError::Url)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let literal: Option<IpAddr> = host.parse().ok();
        if literal.is_some_and(|address| !self.allowances.admit(address)) {
            return Err(JwksError::PrivateAddress);
        }
        Ok(url)
    }

    pub(super) async fn fetch(&self, url: Url) -> Result<Document, JwksError> {
        let request = self.client.get(url).header(ACCEPT, "application/json");
        let mut response = request.send().await.map_err(failure)?;
        let status = response.status();
        if status != StatusCode::OK {
            let what = format!("the status is {}", status.as_u16());
            return Err(JwksError::Answer(what.into()));
        }
        let max_age = max_age(response.headers());
        let mut json = Vec::new();
        while let Some(part) = response.chunk().await.map_err(failure)? {
            if json.len().saturating_add(part.len()) > BYTES_MAX {
                return Err(JwksError::TooLarge);
            }
            json.extend_from_slice(&part);
        }
        Ok(Document { json, max_age })
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate>, JwksError> {
    match Certificate::from_pem_bundle(pem) {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(ODD_ROOTS),
    }
}

/// The whole chain of causes: the outermost says no more than that something failed.
fn failure(error: reqwest::Error) -> JwksError {
    let error = error.without_url();
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        if next.is::<NoPublicAddress>() {
            return JwksError::PrivateAddress;
        }
        told = format!("{told}: {next}");
        cause = next.source();
    }
    JwksError::Answer(told.into())
}

/// RFC 9111 section 5.2.2; `no-store` and `no-cache` are zero.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let mut found = None;
    for line in headers.get_all(CACHE_CONTROL) {
        for directive in line.to_str().ok()?.split(',') {
            let directive = directive.trim().to_ascii_lowercase();
            if matches!(directive.as_str(), "no-store" | "no-cache") {
                return Some(Duration::ZERO);
            }
            if let Some(seconds) = directive.strip_prefix("max-age=") {
                found = seconds.trim_matches('"').parse().ok();
            }
        }
    }
    found.map(Duration::from_secs)
}

impl Allowances {
    fn admit(self, address: IpAddr) -> bool {
        self.private_addresses || is_public(address)
    }
}

/// Resolves names, and drops addresses that must not be connected to. The addresses that are
/// checked are those connected to, so a name that resolves differently the second time gains
/// nothing.
#[derive(Debug)]
struct PublicAddresses {
    allowances: Allowances,
}

impl Resolve for PublicAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        let allowances = self.allowances;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found
                .filter(|address| allowances.admit(address.ip()))
                .collect();
            if public.is_empty() {
                return Err(NoPublicAddress.into());
            }
            let addresses: Addrs = Box::new(public.into_iter());
            Ok(addresses)
        })
    }
}

/// A name stands only for addresses that must not be connected to.
#[derive(Debug, thiserror::Error)]
#[error("no public address")]
struct NoPublicAddress;

/// Whether an address is on the public Internet: not in the registries of special-purpose addresses
/// (RFC 6890), even when wrapped in IPv6.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_broadcast()
        || a == 0
        || a >= 224
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19));
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(address) = address.to_ipv4_mapped() {
        return is_public_v4(address);
    }
    let [a, b, c, d, e, f, g, h] = address.segments();
    let wrapped = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match (a, b) {
        // NAT64 (RFC 6052), and 6to4.
        (0x64, 0xff9b) => [c, d, e, f] == [0; 4] && wrapped(g, h),
        (0x2002, _) => wrapped(b, c),
        // Teredo and others of its block, documentation.
        (0x2001, 0..=0x1ff | 0xdb8) | (0x3fff, 0..=0xfff) => false,
        // Global unicast: 2000::/3.
        _ => a & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_private_networks_are_known() {
        for private in [
            "127.0.0.1",
            "127.255.0.9",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001::1",
            "2001:db8::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
            "2606:4700::1111",
            "2a00:1450:4001::1",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn addresses_are_of_one_kind() {
        let strict = Fetcher::new(Duration::from_secs(1), Allowances::default(), b"").unwrap();
        for url in [
            "http://id.example.com/keys",
            "ftp://id.example.com/",
            "file:///etc/passwd",
            "https://me@id.example.com/",
            "https://me:pw@id.example.com/",
            "https://id.example.com/#keys",
            "id.example.com/keys",
            "",
        ] {
            assert!(matches!(strict.check(url), Err(JwksError::Url)), "{url}");
        }
        for url in [
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/",
        ] {
            let checked = strict.check(url);
            assert!(matches!(checked, Err(JwksError::PrivateAddress)), "{url}");
        }
        strict.check("https://id.example.com/keys").unwrap();
    }

    #[test]
    fn freshness_is_read_from_the_headers() {
        let age = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, text.parse().unwrap());
            max_age(&headers).map(|age| age.as_secs())
        };
        assert_eq!(age("public, max-age=300, must-revalidate"), Some(300));
        assert_eq!(age("Max-Age=\"7\""), Some(7));
        assert_eq!(age("no-store, max-age=300"), Some(0));
        assert_eq!(age("public"), None);
        assert_eq!(age("max-age=soon"), None);
        assert_eq!(max_age(&HeaderMap::new()), None);
    }
}
