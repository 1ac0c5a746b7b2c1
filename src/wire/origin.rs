//! Detects requests that a browser sends on behalf of another site.

use std::{fmt, str::FromStr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{HOST, ORIGIN, UPGRADE},
    uri::{Authority, Scheme},
};

use super::RequestHead;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The text is not an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an origin is expected: https://app.example.com")]
pub struct InvalidOrigin;

/// A web origin (RFC 6454): scheme, host and port. `https://app.example.com:443` equals
/// `https://app.example.com`.
///
/// ```
/// use tollgate::Origin;
///
/// let origin: Origin = "https://App.example.com:443/".parse()?;
/// assert_eq!(origin.to_string(), "https://app.example.com");
/// assert!("app.example.com".parse::<Origin>().is_err());
/// # Ok::<(), tollgate::InvalidOrigin>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    scheme: Scheme,
    /// In lower case, without the scheme's own port.
    host: Box<str>,
}

impl Origin {
    /// The origin of a URL of the application: `https://app.example.com` for
    /// `https://app.example.com/app/api/auth`.
    ///
    /// ```
    /// use tollgate::Origin;
    ///
    /// let origin = Origin::of_url("https://app.example.com:8443/app/api/auth?x=1")?;
    /// assert_eq!(origin.to_string(), "https://app.example.com:8443");
    /// # Ok::<(), tollgate::InvalidOrigin>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidOrigin`] if it has no scheme or no host.
    pub fn of_url(url: &str) -> Result<Self, InvalidOrigin> {
        let (_, rest) = url.split_once("://").ok_or(InvalidOrigin)?;
        let path = rest
            .find(['/', '?', '#'])
            .map_or("", |at| rest.split_at(at).1);
        url.strip_suffix(path).ok_or(InvalidOrigin)?.parse()
    }

    /// Whether the scheme is `https`.
    pub(crate) fn is_https(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    /// Parses `http://…` or `https://…` with a host, an optional port and an optional trailing
    /// slash.
    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let text = text.strip_suffix('/').unwrap_or(text);
        let (scheme, host) = text.split_once("://").ok_or(InvalidOrigin)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::HTTP,
            "https" => Scheme::HTTPS,
            _ => return Err(InvalidOrigin),
        };
        let host = normal_host(host, &scheme).ok_or(InvalidOrigin)?;
        Ok(Self { scheme, host })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)
    }
}

/// Host and port in comparable form: in lower case, without the scheme's default port.
fn normal_host(text: &str, scheme: &Scheme) -> Option<Box<str>> {
    let authority = Authority::from_str(text).ok()?;
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return None;
    }
    let own_port = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    let host = authority.host().to_ascii_lowercase();
    // An unreadable port is invalid.
    let port_given = authority.as_str().len() > authority.host().len();
    match authority.port_u16() {
        None if port_given => None,
        None => Some(host.into()),
        Some(port) if port == own_port => Some(host.into()),
        Some(port) => Some(format!("{host}:{port}").into()),
    }
}

/// Whether a page of another site may have made the browser send this, cookies included: an unsafe
/// method or an upgrade (a WebSocket) with a foreign `Origin` or `Sec-Fetch-Site`. `trusted`
/// origins are not foreign.
///
/// Without either header the sender is not a browser of this decade, or not a browser at all, so no
/// page can have caused the request.
pub(crate) fn is_cross_site(head: &RequestHead<'_>, trusted: &[Origin]) -> bool {
    let safe = matches!(
        *head.method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
    );
    if safe && !head.headers.contains_key(UPGRADE) {
        return false;
    }
    let (Ok(origin), Ok(site)) = (
        only(head.headers, &ORIGIN),
        only(head.headers, &SEC_FETCH_SITE),
    ) else {
        return true;
    };
    let origin = match origin.map(HeaderValue::to_str) {
        None => None,
        // `null` matches no origin.
        Some(origin) => match origin.map(Origin::from_str) {
            Ok(Ok(origin)) => Some(origin),
            _ => return true,
        },
    };
    if let Some(origin) = &origin
        && trusted.contains(origin)
    {
        return false;
    }
    let same_site = site.is_none_or(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
    !same_site || origin.is_some_and(|origin| !is_own(&origin, head))
}

/// Whether the origin is where the request was sent. Only the host is compared: behind a TLS proxy
/// the request doesn't show the scheme.
fn is_own(origin: &Origin, head: &RequestHead<'_>) -> bool {
    let host = match head.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => only(head.headers, &HOST)
            .ok()
            .flatten()
            .and_then(|host| host.to_str().ok()),
    };
    host.and_then(|host| normal_host(host, &origin.scheme))
        .is_some_and(|host| host == origin.host)
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        _ => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crosses(method: &str, lines: &[(&str, &str)]) -> bool {
        let mut request = http::Request::builder().method(method).uri("/api/keys");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let trusted = ["https://app.example.com".parse().unwrap()];
        is_cross_site(&RequestHead::of(&request), &trusted)
    }

    #[test]
    fn a_foreign_page_is_told_from_our_own() {
        let host = ("host", "Localhost:3000");
        for (lines, foreign) in [
            (vec![host], false),
            (vec![host, ("origin", "http://localhost:3000")], false),
            (vec![host, ("origin", "https://app.example.com")], false),
            (
                vec![
                    host,
                    ("origin", "https://app.example.com:443"),
                    ("sec-fetch-site", "cross-site"),
                ],
                false,
            ),
            (vec![host, ("sec-fetch-site", "same-origin")], false),
            (vec![host, ("sec-fetch-site", "none")], false),
            (
                vec![("host", "a.example"), ("origin", "https://a.example")],
                false,
            ),
            (
                vec![("host", "a.example:443"), ("origin", "https://a.example")],
                false,
            ),
            (vec![host, ("origin", "http://localhost:3001")], true),
            (vec![host, ("origin", "http://localhost")], true),
            (vec![host, ("origin", "http://evil.example")], true),
            (
                vec![host, ("origin", "http://localhost:3000.evil.example")],
                true,
            ),
            (
                vec![host, ("origin", "http://localhost:3000@evil.example")],
                true,
            ),
            (vec![host, ("origin", "http://app.example.com")], true),
            (vec![host, ("origin", "null")], true),
            (vec![host, ("origin", "")], true),
            (vec![host, ("origin", "http://localhost:x")], true),
            (vec![("origin", "http://localhost:3000")], true),
            (vec![host, ("sec-fetch-site", "cross-site")], true),
            (vec![host, ("sec-fetch-site", "same-site")], true),
            (
                vec![
                    host,
                    ("origin", "http://localhost:3000"),
                    ("sec-fetch-site", "cross-site"),
                ],
                true,
            ),
            (
                vec![
                    host,
                    ("origin", "http://localhost:3000"),
                    ("origin", "http://localhost:3000"),
                ],
                true,
            ),
        ] {
            assert_eq!(crosses("POST", &lines), foreign, "{lines:?}");
            assert_eq!(crosses("DELETE", &lines), foreign, "{lines:?}");
            assert!(!crosses("GET", &lines), "{lines:?}");
            let mut upgrade = lines.clone();
            upgrade.push(("upgrade", "websocket"));
            assert_eq!(crosses("GET", &upgrade), foreign, "{upgrade:?}");
        }
    }

    #[test]
    fn an_absolute_target_is_where_the_request_went() {
        let request = |origin| {
            http::Request::post("http://a.example/keys")
                .header("host", "b.example")
                .header("origin", origin)
                .body(())
                .unwrap()
        };
        assert!(!is_cross_site(
            &RequestHead::of(&request("http://a.example")),
            &[]
        ));
        assert!(is_cross_site(
            &RequestHead::of(&request("http://b.example")),
            &[]
        ));
    }

    #[test]
    fn what_is_no_origin_is_not_taken_for_one() {
        for text in [
            "",
            "a.example",
            "ftp://a.example",
            "https://",
            "https://u@a.example",
            "https://a.example/x",
            "https://a b",
        ] {
            assert_eq!(text.parse::<Origin>(), Err(InvalidOrigin), "{text}");
        }
        assert_eq!(
            "http://[::1]:80".parse::<Origin>().unwrap().to_string(),
            "http://[::1]"
        );
    }
}
