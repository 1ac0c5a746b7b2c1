//! Who are they, by token: [`JwtLayer`].
//!
//! - Refuses with 401 when there is no token, a bad one, an expired one, one of a login that has ended,
//!   or when an API key is sent beside or instead of it; with 503 when the login can't be looked up.
//! - Stands inside rate limits by address, and outside whatever asks for a [`Principal`](crate::Principal).
//! - Without [`JwtLayer::sessions`] a token is good until it expires. With it, logout, a changed password,
//!   a disabled user and a lowered role count on the next request.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::convert::Infallible;
//! use tollgate::{JwtLayer, Principal, store::UserId, token::{TokenIssuer, TokenVerifier}};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let secret = b"thirty-two bytes or more, please!";
//! let token = TokenIssuer::hs256(secret).build()?.issue(&UserId::new("user-1")?, None, ["operator"])?;
//!
//! let whoami = service_fn(async |request: http::Request<()>| {
//!     let principal = request.extensions().get::<Principal>().expect("behind the layer");
//!     Ok::<_, Infallible>(http::Response::new(principal.subject().to_owned()))
//! });
//! let service = JwtLayer::new(TokenVerifier::hs256(secret).build()?).layer(whoami);
//! let request = |token: &str| {
//!     http::Request::builder().header("authorization", format!("Bearer {token}")).body(()).unwrap()
//! };
//! assert_eq!(service.clone().oneshot(request(token.expose())).await?.status(), 200);
//! let tampered = format!("{}x", token.expose());
//! assert_eq!(service.oneshot(request(&tampered)).await?.status(), 401);
//! # Ok(()) }
//! ```

use std::sync::Arc;

use http::HeaderName;

use crate::{
    domain::{
        credential::CredentialKind,
        denial::{Denial, DenialKind},
    },
    guard::{self, Authenticator, Decision, Gate, Identified, OrLayer, Policy, Verdict},
    login::{ResolvedSession, SessionError, SessionResolver},
    token::TokenVerifier,
    wire::{Credential, Credentials, RequestHead},
};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Admits who has a token. See the [module](self).
#[derive(Clone, Debug)]
pub struct JwtLayer {
    gate: Gate<JwtPolicy>,
}

guard::layer!(JwtLayer, JwtPolicy);

impl JwtLayer {
    /// Takes tokens that `verifier` finds good, from `authorization: Bearer`.
    #[must_use]
    pub fn new(verifier: TokenVerifier) -> Self {
        Self {
            gate: Gate::new(JwtPolicy {
                verifier,
                sessions: None,
            }),
        }
    }

    /// Also asks whether the token's login still stands; a token without a login is refused then.
    #[must_use]
    pub fn sessions(self, sessions: SessionResolver) -> Self {
        Self {
            gate: self
                .gate
                .map_policy(|policy| policy.sessions = Some(sessions)),
        }
    }

    /// Asks `other` about requests that carry no token. A bad token is refused, not passed on.
    #[must_use]
    pub fn or<A: Authenticator>(self, other: A) -> OrLayer<JwtPolicy, A::Policy> {
        OrLayer::new(self.gate, other)
    }
}

impl Authenticator for JwtLayer {
    type Policy = JwtPolicy;

    fn into_gate(self) -> Gate<JwtPolicy> {
        self.gate
    }
}

/// The decision of a [`JwtLayer`].
#[derive(Clone, Debug)]
pub struct JwtPolicy {
    verifier: TokenVerifier,
    sessions: Option<SessionResolver>,
}

impl JwtPolicy {
    fn judge(&self, token: &str) -> Decision<Identified> {
        let verified = match self.verifier.verify(token) {
            Ok(verified) => verified,
            Err(error) => return Decision::Ready(Verdict::Refuse(error.into())),
        };
        let Some(sessions) = &self.sessions else {
            return Decision::Ready(Verdict::Admit(Identified::new(
                verified.principal().clone(),
            )));
        };
        match sessions.peek(&verified) {
            Some(answer) => Decision::Ready(verdict(answer)),
            None => {
                let sessions = sessions.clone();
                Decision::pending(async move { verdict(sessions.resolve(&verified).await) })
            }
        }
    }
}

impl Policy for JwtPolicy {
    type Permit = Identified;

    fn name(&self) -> &'static str {
        "jwt"
    }

    fn decide(&self, head: &RequestHead<'_>) -> Decision<Identified> {
        let refuse = |kind| Decision::Ready(Verdict::Refuse(denial(kind)));
        let Ok(credentials) = Credentials::read(head.headers, &X_API_KEY) else {
            return refuse(DenialKind::CredentialAmbiguous);
        };
        match credentials.bearer {
            Credential::Text(token) if looks_like_a_token(token) => self.judge(token),
            Credential::Unreadable => refuse(DenialKind::CredentialInvalid),
            Credential::Text(_) => abstain(DenialKind::CredentialInvalid),
            // A key where a token is due is a credential, and not a good one.
            Credential::Absent if credentials.key_header != Credential::Absent => {
                abstain(DenialKind::CredentialInvalid)
            }
            Credential::Absent => abstain(DenialKind::CredentialMissing),
        }
    }
}

fn verdict(answer: Result<Arc<ResolvedSession>, SessionError>) -> Verdict<Identified> {
    match answer {
        Ok(session) => Verdict::Admit(Identified::new(session.principal().clone())),
        Err(error) => Verdict::Refuse(error.into()),
    }
}

/// Three segments: whatever else it is, it means to be a JWS (RFC 7515, 3.1). API keys have no dots.
fn looks_like_a_token(text: &str) -> bool {
    text.bytes().filter(|byte| *byte == b'.').count() >= 2
}

fn abstain(kind: DenialKind) -> Decision<Identified> {
    Decision::Ready(Verdict::Abstain(denial(kind)))
}

fn denial(kind: DenialKind) -> Denial {
    Denial::new(kind).of_credential(CredentialKind::Token)
}
