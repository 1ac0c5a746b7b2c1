//! Extracts the one credential of a request.

use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};

use super::CredentialPlaces;
use crate::domain::{credential::CredentialText, denial::Sought};

/// The longest credential that is accepted, in bytes; longer ones are refused before any hashing.
const LENGTH_MAX: usize = 16 * 1024;

/// The default header for keys.
pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A credential as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credential<'a> {
    /// None of this kind.
    Absent,
    /// Something that can't be a credential: empty, too long, or with characters that no token has.
    Unreadable,
    /// A credential.
    Text(CredentialText<'a>),
}

impl Credential<'_> {
    fn agrees_with(self, other: Self) -> Result<(), Ambiguous> {
        match (self, other) {
            (Self::Absent, _) | (_, Self::Absent) => Ok(()),
            (Self::Text(one), Self::Text(other)) if one == other => Ok(()),
            _ => Err(Ambiguous),
        }
    }
}

/// The credentials that a request carries: in the key header, and as a bearer token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credentials<'a> {
    /// From the key header.
    pub(crate) key_header: Credential<'a>,
    /// From `authorization: Bearer`.
    pub(crate) bearer: Credential<'a>,
}

/// Where a credential may be sent: in the layer's own header, in `authorization`, and in the
/// headers of other layers that read credentials from the same requests.
#[derive(Clone, Debug)]
pub(crate) struct KeyHeaders {
    own: Option<HeaderName>,
    authorization: Authorization,
    /// Whether another layer reads bearer tokens too.
    shares_bearer: bool,
    others: Vec<HeaderName>,
}

/// How a bearer token in `authorization` is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Authorization {
    /// As one of the credentials.
    Taken,
    /// It belongs to another layer that reads credentials from the same requests: unless it equals
    /// ours, neither counts.
    Compared,
    /// Ignored.
    Ignored,
}

impl KeyHeaders {
    const fn in_places(own: Option<HeaderName>, authorization: Authorization) -> Self {
        Self {
            own,
            authorization,
            shares_bearer: false,
            others: Vec::new(),
        }
    }

    /// In this header, or as a bearer token.
    pub(crate) const fn new(own: HeaderName) -> Self {
        Self::in_places(Some(own), Authorization::Taken)
    }

    /// Only in this header, whatever else the request contains.
    pub(crate) const fn only(own: HeaderName) -> Self {
        Self::in_places(Some(own), Authorization::Ignored)
    }

    /// Only as a bearer token, whatever else the request contains.
    pub(crate) const fn only_bearer() -> Self {
        Self::in_places(None, Authorization::Taken)
    }

    /// The header fields in which it may be sent.
    pub(crate) fn places(&self) -> CredentialPlaces {
        let bearer = (self.authorization == Authorization::Taken).then_some(AUTHORIZATION);
        CredentialPlaces::headers(self.own.iter().cloned().chain(bearer))
    }

    /// Where a client without a key could have sent one, unless it is the default headers.
    pub(crate) fn sought(&self) -> Option<Sought> {
        let own = self.own.as_ref()?;
        let sought = || Sought::key_in(own.as_str().to_owned().into());
        match self.authorization {
            Authorization::Taken if *own == X_API_KEY => None,
            Authorization::Taken => Some(sought().or_bearer()),
            Authorization::Compared | Authorization::Ignored => Some(sought()),
        }
    }

    /// Whether a bearer token may be a credential for another layer.
    pub(crate) const fn shares_bearer(&self) -> bool {
        self.shares_bearer
    }

    /// Other layers look for credentials of the same requests in `places`.
    pub(crate) fn add_others(&mut self, places: &CredentialPlaces) {
        self.shares_bearer |= places.take_bearer();
        for header in places.as_headers() {
            let is_known = self.own.as_ref() == Some(header) || self.others.contains(header);
            match self.authorization {
                Authorization::Ignored if *header == AUTHORIZATION => {
                    self.authorization = Authorization::Compared;
                }
                _ if *header == AUTHORIZATION || is_known => {}
                _ => self.others.push(header.clone()),
            }
        }
    }
}

/// A credential was sent twice, or two were sent that disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ambiguous;

impl<'a> Credentials<'a> {
    /// Reads all places. A repeated line is refused even if both are equal, because intermediaries
    /// disagree about which one counts.
    pub(crate) fn read(headers: &'a HeaderMap, places: &KeyHeaders) -> Result<Self, Ambiguous> {
        let key = match &places.own {
            Some(own) => in_header(headers, own)?,
            None => Credential::Absent,
        };
        let bearer = match places.authorization {
            Authorization::Ignored => Credential::Absent,
            Authorization::Taken | Authorization::Compared => {
                only(headers, &AUTHORIZATION)?.map_or(Credential::Absent, bearer)
            }
        };
        key.agrees_with(bearer)?;
        for other in &places.others {
            let other = in_header(headers, other)?;
            key.agrees_with(other)?;
            bearer.agrees_with(other)?;
        }
        let is_taken = places.authorization == Authorization::Taken;
        Ok(Self {
            key_header: key,
            bearer: if is_taken { bearer } else { Credential::Absent },
        })
    }

    /// The credential, wherever it was sent.
    pub(crate) fn either(&self) -> Credential<'a> {
        match self.key_header {
            Credential::Absent => self.bearer,
            key => key,
        }
    }
}

/// Whether one of these fields, or `authorization`, was sent in more than one line. Then no
/// credential counts, wherever it was sent.
pub(crate) fn are_doubled(headers: &HeaderMap, places: &[HeaderName]) -> bool {
    // Almost no request repeats any field.
    headers.len() != headers.keys_len()
        && places
            .iter()
            .chain([&AUTHORIZATION])
            .any(|name| only(headers, name).is_err())
}

fn in_header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Credential<'a>, Ambiguous> {
    Ok(match only(headers, name)? {
        None => Credential::Absent,
        Some(value) => token(value.as_bytes()),
    })
}

fn only<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, Ambiguous> {
    let first = headers.get(name);
    // Almost no request repeats any field.
    if headers.len() != headers.keys_len() && headers.get_all(name).iter().nth(1).is_some() {
        return Err(Ambiguous);
    }
    Ok(first)
}

/// `Bearer` in any case, blanks, a token (RFC 9110, 11.1; RFC 6750, 2.1). Other schemes are
/// ignored.
fn bearer(value: &HeaderValue) -> Credential<'_> {
    let bytes = value.as_bytes();
    let Some((scheme, rest)) = bytes.split_at_checked(6) else {
        return Credential::Absent;
    };
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Credential::Absent;
    }
    match rest.first() {
        None => Credential::Unreadable,
        Some(b' ') => token(rest.trim_ascii_start()),
        // `BearerX` is another scheme; `Bearer`, a tab and a credential is a malformed one.
        Some(byte) if is_scheme_character(*byte) => Credential::Absent,
        Some(_) => Credential::Unreadable,
    }
}

/// RFC 9110, 5.6.2.
fn is_scheme_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A `token68`, extended by the characters that keys of other systems are known to use. No blank,
/// tab, comma or quote: a list counts as one malformed key.
fn token(bytes: &[u8]) -> Credential<'_> {
    if bytes.is_empty() || bytes.len() > LENGTH_MAX {
        return Credential::Unreadable;
    }
    if !is_speakable(bytes) {
        return Credential::Unreadable;
    }
    Credential::Text(CredentialText::of_ascii(bytes))
}

/// Sixteen bytes per step, branch-free; the remainder is covered by checking the last sixteen bytes
/// again.
fn is_speakable(bytes: &[u8]) -> bool {
    const LANES: usize = 16;
    let Some(last) = bytes.last_chunk::<LANES>() else {
        return !bytes.iter().any(|byte| is_unspeakable(*byte));
    };
    let mut unspeakable = [0_u8; LANES];
    let (chunks, _) = bytes.as_chunks::<LANES>();
    for chunk in chunks.iter().chain([last]) {
        for (seen, byte) in unspeakable.iter_mut().zip(chunk) {
            *seen |= u8::from(is_unspeakable(*byte));
        }
    }
    // The compiler makes one comparison of this, and a hundred instructions of a conversion into a
    // number.
    unspeakable.iter().fold(0, |any, seen| any | seen) == 0
}

/// Whether a byte is not a graphic ASCII character (two comparisons: as a signed number, anything
/// beyond ASCII is less than all of ASCII), or separates credentials.
const fn is_unspeakable(byte: u8) -> bool {
    const DELETE: u8 = 0x7f;
    let is_no_character = (byte.cast_signed() <= b' '.cast_signed()) | (byte == DELETE);
    is_no_character | (byte == b',') | (byte == b'"') | (byte == b';')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &[u8])]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        map
    }

    fn read(lines: &[(&str, &[u8])]) -> Result<String, Ambiguous> {
        let map = headers(lines);
        let mut places = KeyHeaders::new(X_API_KEY);
        places.add_others(&CredentialPlaces::headers([
            HeaderName::from_static("x-other"),
            X_API_KEY,
        ]));
        Ok(match Credentials::read(&map, &places)?.either() {
            Credential::Text(text) => text.as_str().to_owned(),
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn one_credential_in_either_place() {
        assert_eq!(read(&[("x-api-key", b"k1")]), Ok("k1".into()));
        assert_eq!(read(&[("authorization", b"Bearer k1")]), Ok("k1".into()));
        assert_eq!(read(&[("authorization", b"bEARER   k1")]), Ok("k1".into()));
        assert_eq!(
            read(&[("x-api-key", b"k1"), ("authorization", b"Bearer k1")]),
            Ok("k1".into())
        );
        assert_eq!(read(&[]), Ok("Absent".into()));
    }

    #[test]
    fn a_key_in_the_header_of_another_layer_agrees_or_nothing_counts() {
        assert_eq!(read(&[("x-other", b"k1")]), Ok("Absent".into()));
        assert_eq!(
            read(&[("x-other", b"k1"), ("x-api-key", b"k1")]),
            Ok("k1".into())
        );
        for rival in [
            [("x-other", b"k2".as_slice()), ("x-api-key", b"k1")],
            [("x-other", b"k2"), ("authorization", b"Bearer k1")],
            [("x-other", b""), ("authorization", b"Bearer k1")],
            [("x-other", b"k1"), ("x-other", b"k1")],
        ] {
            assert_eq!(read(&rival), Err(Ambiguous), "{rival:?}");
        }
    }

    #[test]
    fn a_place_alone_is_read_alone() {
        let both = headers(&[("x-api-key", b"k1"), ("authorization", b"Bearer k2")]);
        let key = Credentials::read(&both, &KeyHeaders::only(X_API_KEY)).unwrap();
        assert_eq!(key.either(), Credential::Text("k1".into()));
        let token = Credentials::read(&both, &KeyHeaders::only_bearer()).unwrap();
        assert_eq!(token.either(), Credential::Text("k2".into()));

        let bearer = headers(&[("authorization", b"Bearer k2")]);
        let mut beside_tokens = KeyHeaders::only(X_API_KEY);
        for compared in [false, true] {
            let none = Credentials::read(&bearer, &beside_tokens).unwrap();
            assert_eq!(none.either(), Credential::Absent, "{compared}");
            // Who stands in line with it takes bearer tokens.
            beside_tokens.add_others(&KeyHeaders::only_bearer().places());
        }
        assert_eq!(Credentials::read(&both, &beside_tokens), Err(Ambiguous));
    }

    #[test]
    fn who_brings_none_is_told_where_it_is_looked_for() {
        let expected = |places: KeyHeaders| places.sought().map(|sought| sought.to_string());
        let own = HeaderName::from_static("x-gateway-key");
        assert_eq!(expected(KeyHeaders::new(X_API_KEY)), None);
        assert_eq!(
            expected(KeyHeaders::new(own.clone())).as_deref(),
            Some("Expected 'x-gateway-key' or 'Authorization: Bearer' header with access key")
        );
        assert_eq!(
            expected(KeyHeaders::only(own)).as_deref(),
            Some("Expected 'x-gateway-key' header with access key")
        );
    }

    #[test]
    fn two_that_may_disagree_are_refused() {
        assert_eq!(
            read(&[("x-api-key", b"k1"), ("x-api-key", b"k1")]),
            Err(Ambiguous)
        );
        assert_eq!(
            read(&[("x-api-key", b"k1"), ("authorization", b"Bearer k2")]),
            Err(Ambiguous)
        );
        assert_eq!(
            read(&[("x-api-key", b""), ("authorization", b"Bearer k2")]),
            Err(Ambiguous)
        );
        let twice: &[(&str, &[u8])] = &[
            ("authorization", b"Bearer a"),
            ("authorization", b"Basic b"),
        ];
        assert_eq!(read(twice), Err(Ambiguous));
    }

    #[test]
    fn what_is_no_token_is_unreadable() {
        let long = vec![b'a'; LENGTH_MAX + 1];
        for value in [
            b"".as_slice(),
            b"a,b",
            b"a b",
            b"a\tb",
            b"\xc3\xa9",
            b"\"a\"",
            &long,
        ] {
            assert_eq!(read(&[("x-api-key", value)]), Ok("Unreadable".into()));
        }
        assert_eq!(
            read(&[("authorization", b"Bearer")]),
            Ok("Unreadable".into())
        );
        for line in [b"Bearer ".as_slice(), b"Bearer\tk1", b"bearer\t"] {
            assert_eq!(read(&[("authorization", line)]), Ok("Unreadable".into()));
        }
        let beside_a_key: &[(&str, &[u8])] =
            &[("x-api-key", b"k1"), ("authorization", b"Bearer\tk2")];
        assert_eq!(read(beside_a_key), Err(Ambiguous));
    }

    #[test]
    fn one_bad_byte_is_found_wherever_it_stands() {
        for length in 1..70 {
            let good = vec![b'~'; length];
            assert!(matches!(token(&good), Credential::Text(_)), "{length}");
            for place in 0..length {
                for bad in [b' ', b'\t', b',', b'"', b';', 0x7f, 0x80, 0xff] {
                    let mut bytes = good.clone();
                    bytes[place] = bad;
                    assert_eq!(token(&bytes), Credential::Unreadable, "{bad} at {place}");
                }
            }
        }
    }

    #[test]
    fn other_schemes_are_not_bearer_tokens() {
        assert_eq!(
            read(&[("authorization", b"Basic dXNlcg==")]),
            Ok("Absent".into())
        );
        assert_eq!(read(&[("authorization", b"Bearerk1")]), Ok("Absent".into()));
        assert_eq!(
            read(&[("authorization-bin", b"Bearer k1")]),
            Ok("Absent".into())
        );
    }
}
