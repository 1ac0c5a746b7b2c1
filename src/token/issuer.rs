//! Issues access and refresh tokens.

mod builder;

use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

pub use self::builder::TokenIssuerBuilder;
use super::{
    IssueError, KeyError, SigningKey, TokenAlgorithm, TokenUse, TokenVerifier,
    TokenVerifierBuilder, claims::LIST_LENGTH_MAX, live::Signing,
};
use crate::domain::{
    SessionId, UserId,
    clock::{Clock, Timestamp},
};

/// Issues access tokens for logins.
///
/// The header has the algorithm, the key's name if it has one, and `JWT`; the claim `token_use`
/// says what a token is for. With a private key, anyone can verify with what [`jwks`](Self::jwks)
/// publishes.
///
/// ```
/// use std::time::Duration;
/// use tollgate::{store::{SessionId, UserId}, token::{TokenIssuer, TokenVerifier}};
///
/// let secret = b"thirty-two bytes or more, please!";
/// let issuer = TokenIssuer::hs256(secret).issuer("api").audience("web").lifetime(Duration::from_secs(900)).build()?;
/// let token = issuer.issue(&UserId::new("user-7")?, &SessionId::new("session-1")?, ["operator"])?;
///
/// let verifier = TokenVerifier::hs256(secret).issuer("api").audience("web").build()?;
/// let verified = verifier.verify(token.expose())?;
/// assert_eq!(verified.subject(), "user-7");
/// assert_eq!(verified.expires_at(), token.expires_at());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct TokenIssuer(Arc<Inner>);

struct Inner {
    keys: Arc<Signing>,
    issuer: Option<Box<str>>,
    audience: Option<Box<str>>,
    lifetime: Duration,
    clock: Arc<dyn Clock>,
}

#[derive(Serialize)]
struct IssuedClaims<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    sub: &'a str,
    sid: &'a str,
    jti: &'a str,
    iat: i64,
    exp: i64,
    token_use: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    roles: Vec<&'a str>,
    #[serde(rename = "gen", skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
}

/// As long as the id of every token.
const PLACEHOLDER_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// The claim with the sequence number of a refresh token within its login.
pub(crate) const GENERATION: &str = "gen";

/// What a refresh token is issued for.
pub(crate) struct RefreshGrant<'a> {
    pub(crate) user: &'a UserId,
    pub(crate) session: &'a SessionId,
    pub(crate) generation: u64,
    pub(crate) lifetime: Duration,
    /// When its login ends.
    pub(crate) latest: Timestamp,
}

impl TokenIssuer {
    /// Builds an issuer of HS256 tokens; the secret's raw bytes are the key, at least 32 of them.
    pub fn hs256(secret: &[u8]) -> TokenIssuerBuilder {
        TokenIssuerBuilder::new(SigningKey::from_secret(TokenAlgorithm::Hs256, secret))
    }

    /// Builds an issuer with a key.
    pub fn with_key(key: SigningKey) -> TokenIssuerBuilder {
        TokenIssuerBuilder::new(Ok(key))
    }

    /// How long its tokens are valid.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.0.lifetime
    }

    /// Signs with another key from now on. Tokens of the previous one stay valid until they expire
    /// or `overlap` ends: verifiers accept them, and [`jwks`](Self::jwks) keeps publishing the key.
    /// Without overlap, after a theft for example, they are refused at once. A process that starts
    /// later must be given the previous keys by [`add_retired`](TokenIssuerBuilder::add_retired).
    ///
    /// Publish the next key with [`announce`](Self::announce) before it signs, for verifiers that
    /// fetch rarely, and for processes that rotate a little later.
    ///
    /// A secret has no default name. One of the valid keys may be unnamed; name the next with
    /// [`SigningKey::kid`], which its tokens then contain.
    ///
    /// # Errors
    /// [`KeyError`]: a duplicate name, a second unnamed key, or a secret after private keys.
    pub fn rotate(&self, next: SigningKey, overlap: Duration) -> Result<(), KeyError> {
        self.0.keys.rotate(next, overlap, self.0.clock.now())
    }

    /// Publishes a key before it signs, which it does from [`rotate`](Self::rotate) on.
    ///
    /// # Errors
    /// As for [`rotate`](Self::rotate).
    pub fn announce(&self, next: &SigningKey) -> Result<(), KeyError> {
        self.0.keys.announce(next, self.0.clock.now())
    }

    /// The public keys that verify its tokens, as a JWK set (RFC 7517), to be served at an address
    /// known to verifiers. Secrets are not in it.
    #[must_use]
    pub fn jwks(&self) -> String {
        self.0.keys.jwks(self.0.clock.now())
    }

    /// Builds a verifier of its tokens, with the same keys (even after rotation), issuer, audience
    /// and clock.
    pub fn verifier(&self) -> TokenVerifierBuilder {
        let mut builder =
            TokenVerifier::builder(Arc::clone(&self.0.keys)).with_clock(Arc::clone(&self.0.clock));
        if let Some(issuer) = &self.0.issuer {
            builder = builder.issuer(issuer);
        }
        if let Some(audience) = &self.0.audience {
            builder = builder.audience(audience);
        }
        builder
    }

    /// Issues an access token to a user for one login.
    ///
    /// # Errors
    /// [`IssueError`]; `TooLong` with more than 64 roles, which no verifier accepts.
    pub fn issue<'a>(
        &self,
        user: &UserId,
        session: &SessionId,
        roles: impl IntoIterator<Item = &'a str>,
    ) -> Result<IssuedToken, IssueError> {
        self.issue_until(user, session, roles, Timestamp::MAX)
    }

    /// Like [`issue`](Self::issue), for a login that ends at `latest`: no token is valid for
    /// longer.
    pub(crate) fn issue_until<'a>(
        &self,
        user: &UserId,
        session: &SessionId,
        roles: impl IntoIterator<Item = &'a str>,
        latest: Timestamp,
    ) -> Result<IssuedToken, IssueError> {
        let roles = bounded(roles)?;
        let (issued_at, expires_at) = self.times(self.0.lifetime, latest)?;
        self.sign(&IssuedClaims {
            roles,
            ..self.claims(user, session, issued_at, expires_at, &random_id()?)
        })
        .map(|token| IssuedToken::new(token, issued_at, expires_at))
    }

    /// Whether verifiers accept a login's token with these roles.
    pub(crate) fn check_roles<'a>(
        &self,
        user: &UserId,
        session: &SessionId,
        roles: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), IssueError> {
        let (roles, end) = (bounded(roles)?, Timestamp::MAX);
        let json = to_json(&IssuedClaims {
            roles,
            ..self.claims(user, session, end, end, PLACEHOLDER_ID)
        })?;
        self.0.keys.current().check_length(json.len())
    }

    /// Issues a refresh token, which is marked as one and valid for nothing else.
    pub(crate) fn issue_refresh(
        &self,
        grant: &RefreshGrant<'_>,
    ) -> Result<IssuedToken, IssueError> {
        let (issued_at, expires_at) = self.times(grant.lifetime, grant.latest)?;
        let id = random_id()?;
        self.sign(&IssuedClaims {
            token_use: TokenUse::Refresh.as_str(),
            generation: Some(grant.generation),
            ..self.claims(grant.user, grant.session, issued_at, expires_at, &id)
        })
        .map(|token| IssuedToken::new(token, issued_at, expires_at))
    }

    /// When a token is issued and when it expires, both to the second: exactly its lifetime apart,
    /// unless its login ends sooner. Rounded down: a token that begins in the future is refused.
    fn times(
        &self,
        lifetime: Duration,
        latest: Timestamp,
    ) -> Result<(Timestamp, Timestamp), IssueError> {
        let second = |moment: Timestamp| Timestamp::from_second(moment.as_second());
        let times = second(self.0.clock.now()).and_then(|issued_at| {
            let end = issued_at.checked_add(Duration::from_secs(lifetime.as_secs()))?;
            Ok((issued_at, second(end.min(latest))?))
        });
        times.map_err(|_| IssueError::OutOfTime)
    }

    fn claims<'a>(
        &'a self,
        user: &'a UserId,
        session: &'a SessionId,
        issued_at: Timestamp,
        expires_at: Timestamp,
        id: &'a str,
    ) -> IssuedClaims<'a> {
        IssuedClaims {
            iss: self.0.issuer.as_deref(),
            aud: self.0.audience.as_deref(),
            sub: user.as_str(),
            sid: session.as_str(),
            jti: id,
            iat: issued_at.as_second(),
            exp: expires_at.as_second(),
            token_use: TokenUse::Access.as_str(),
            roles: Vec::new(),
            generation: None,
        }
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    fn sign(&self, claims: &IssuedClaims<'_>) -> Result<SecretString, IssueError> {
        let json = to_json(claims)?;
        let key = self.0.keys.current();
        key.check_length(json.len())?;
        let mut token = key.header.clone();
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(json, &mut token);
        let signature = key.key.sign(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(SecretString::from(token))
    }
}

fn to_json(claims: &IssuedClaims<'_>) -> Result<Vec<u8>, IssueError> {
    serde_json::to_vec(claims).map_err(|_| IssueError::Signing)
}

/// The roles, if no more than verifiers accept.
fn bounded<'a>(roles: impl IntoIterator<Item = &'a str>) -> Result<Vec<&'a str>, IssueError> {
    let one_more = LIST_LENGTH_MAX.saturating_add(1);
    let roles: Vec<&str> = roles.into_iter().take(one_more).collect();
    if roles.len() > LIST_LENGTH_MAX {
        return Err(IssueError::TooLong);
    }
    Ok(roles)
}

/// 128 random bits as text.
fn random_id() -> Result<String, IssueError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|_| IssueError::NoRandomness)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

impl fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenIssuer")
            .field("keys", &self.0.keys)
            .field("issuer", &self.0.issuer)
            .field("audience", &self.0.audience)
            .field("lifetime", &self.0.lifetime)
            .finish_non_exhaustive()
    }
}

/// A new token. Redacted in `Debug`, wiped from memory when dropped.
#[derive(Clone)]
pub struct IssuedToken {
    token: SecretString,
    issued_at: Timestamp,
    expires_at: Timestamp,
}

impl IssuedToken {
    fn new(token: SecretString, issued_at: Timestamp, expires_at: Timestamp) -> Self {
        Self {
            token,
            issued_at,
            expires_at,
        }
    }

    /// The token, for the client it was issued to.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.token.expose_secret()
    }

    /// When it expires: its `exp`.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Its lifetime in whole seconds, from the second in which it was issued: the `expires_in` of
    /// RFC 6749 section 5.1.
    #[must_use]
    pub fn expires_in_secs(&self) -> u64 {
        let lifetime = self.expires_at.duration_since(self.issued_at);
        u64::try_from(lifetime.as_secs()).unwrap_or(0)
    }
}

impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedToken")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
