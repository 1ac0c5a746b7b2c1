//! Authentication by signed token (JWT): [`JwtLayer`].
//!
//! - Refuses with 401 if the token is missing, bad or expired, or its login has ended, or if an API
//!   key is sent beside or instead of it; with 503 if the login or the keys can't be looked up;
//!   with 403 if another site's page made the browser send a cookie.
//! - Stands inside rate limits by address, and outside everything that needs a
//!   [`Principal`](crate::Principal).
//! - Without [`JwtLayer::sessions`] a token is good until it expires. With it, a logout, a changed
//!   password, a disabled user or a lowered role takes effect on the next request.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::convert::Infallible;
//! use tollgate::{JwtLayer, Principal, store::{SessionId, UserId}, token::{TokenIssuer, TokenVerifier}};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let secret = b"thirty-two bytes or more, please!";
//! let (user, session) = (UserId::new("user-1")?, SessionId::new("session-1")?);
//! let token = TokenIssuer::hs256(secret).build()?.issue(&user, &session, ["operator"])?;
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

mod location;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use location::{Found, Location};

use crate::{
    domain::{
        credential::{CredentialKind, CredentialText},
        denial::{Denial, DenialKind, Sought},
    },
    guard::{self, Authenticator, Decision, Gate, Identified, OrLayer, Policy, Verdict},
    login::{ResolvedSession, SessionError, SessionResolver},
    token::{Issuers, TokenVerifier, Verification, VerifiedToken, Wait},
    wire::{CredentialPlaces, Origin, RequestHead},
};

/// Admits callers with a token. See the [module](self).
#[derive(Clone, Debug)]
pub struct JwtLayer {
    gate: Gate<JwtPolicy>,
}

guard::layer!(JwtLayer, JwtPolicy);

impl JwtLayer {
    /// Accepts tokens that `verifier` finds good, in `authorization: Bearer` unless another place
    /// is set. There, a request with a different credential in `x-api-key` is refused.
    #[must_use]
    pub fn new(verifier: TokenVerifier) -> Self {
        Self {
            gate: Gate::new(JwtPolicy {
                verifier,
                sessions: None,
                location: Location::BEARER,
                sought: None,
                trusted: Arc::from([]),
                others: Arc::default(),
            }),
        }
    }

    /// Removes the header fields in which a token is looked for from requests that pass, so that a
    /// handler that relays requests can't hand a caller's credential to its provider. Layers
    /// further in don't see them either; requests that are [skipped](Self::skip) keep theirs.
    /// Cookies, and places of your own other than `authorization`, are left alone, and so is a copy
    /// of a credential where none is looked for.
    #[must_use]
    pub fn hide_credentials(self) -> Self {
        Self {
            gate: self.gate.hide_credentials(),
        }
    }

    /// Accepts tokens in `authorization: Bearer`, and ignores the header fields of keys: for
    /// requiring both an application's key and a user's token, with one layer for each
    /// ([`ApiKeyLayer::only_in_header`](crate::ApiKeyLayer::only_in_header)).
    #[must_use]
    pub fn only_bearer(self) -> Self {
        self.read_from(Location::ONLY_BEARER)
    }

    /// Accepts tokens in the cookie `name`, and in no header. Browsers send cookies whichever site
    /// causes the request, so unsafe methods and upgrades from another site's page (`Origin`,
    /// `Sec-Fetch-Site`) are refused with 403. A page loaded over http can't set a cookie whose
    /// name starts with `__Host-`. A cookie that was split (`NAME.0`, `NAME.1`, …) is reassembled.
    ///
    /// A cookie that isn't good is refused even beside a good key, unlike a session cookie of
    /// NextAuth: whether its login still holds may take I/O, after which no other layer can be
    /// asked. So a stale cookie stands in the way of a key, unless the layer for keys is [the
    /// first](Self::or).
    #[must_use]
    pub fn cookie(self, name: &str) -> Self {
        self.read_from(Location::Cookie {
            names: Arc::from([name.into()]),
        })
    }

    /// Adds an origin whose pages may send unsafe requests with the [`cookie`](Self::cookie).
    #[must_use]
    pub fn add_trusted_origin(self, origin: Origin) -> Self {
        let gate = self.gate.map_policy(|policy| {
            let trusted = policy.trusted.iter().cloned();
            policy.trusted = trusted.chain([origin]).collect();
        });
        Self { gate }
    }

    /// Accepts the token that `read` returns: from another header, for example. It is judged as
    /// returned.
    #[must_use]
    pub fn read_by(
        self,
        read: impl Fn(&RequestHead<'_>) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.read_from(Location::Custom(Arc::new(read)))
    }

    fn read_from(self, location: Location) -> Self {
        let gate = self.gate.map_policy(|policy| {
            policy.sought = location.sought().map(Arc::new);
            policy.location = location;
        });
        Self { gate }
    }

    /// Also checks that the token's login is still valid; a token without a login is then refused.
    /// The [`Principal`](crate::Principal) has the user's current roles and attributes from the
    /// store. Only the scopes, attributes that the user lacks, and an expiry sooner than the
    /// login's are taken from the token.
    #[must_use]
    pub fn sessions(self, sessions: SessionResolver) -> Self {
        Self {
            gate: self
                .gate
                .map_policy(|policy| policy.sessions = Some(sessions)),
        }
    }

    /// Falls back to `other` for requests without a token. A bad token is refused, not passed on,
    /// also one in a [`cookie`](Self::cookie): where pages that have it call by key too, put the
    /// layer for keys first.
    ///
    /// Issuers with users and keys of their own have a layer each. A token in `authorization` is
    /// judged by one of them alone, chosen by its `iss` before it is verified: the first whose
    /// verifier has that [`issuer`](crate::token::TokenVerifierBuilder::issuer) or
    /// [template](crate::token::TokenVerifierBuilder::add_issuer_template), or the first of all
    /// where none has. So name the issuers of each: a verifier without takes all tokens that
    /// reach it. Where a `sub` of one may be another's too, tell them apart by
    /// [`subject_prefix`](crate::token::TokenVerifierBuilder::subject_prefix).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::convert::Infallible;
    /// # use tollgate::{JwtLayer, Principal, store::{SessionId, UserId}, token::TokenIssuer};
    /// # use tower::{Layer, ServiceExt, service_fn};
    /// let (user, session) = (UserId::new("1")?, SessionId::new("s")?);
    /// let own = TokenIssuer::hs256(b"our secret of thirty-two bytes, or more").issuer("us").build()?;
    /// let partner = TokenIssuer::hs256(b"their secret of thirty-two bytes or more").issuer("acme").build()?;
    /// let both = JwtLayer::new(own.verifier().build()?)
    ///     .or(JwtLayer::new(partner.verifier().subject_prefix("acme:").build()?));
    ///
    /// # let whoami = service_fn(async |request: http::Request<()>| {
    /// #     let principal = request.extensions().get::<Principal>().expect("behind the layer");
    /// #     let answer = http::Response::builder().header("x-subject", principal.subject());
    /// #     Ok::<_, Infallible>(answer.body(String::new()).expect("a response"))
    /// # });
    /// let service = both.layer(whoami);
    /// for (issuer, subject) in [(&own, "1"), (&partner, "acme:1")] {
    ///     let token = issuer.issue(&user, &session, [])?;
    ///     let bearer = format!("Bearer {}", token.expose());
    ///     let request = http::Request::builder().header("authorization", bearer).body(())?;
    ///     let answer = service.clone().oneshot(request).await?;
    ///     assert_eq!(answer.headers()["x-subject"], subject);
    /// }
    /// # Ok(()) }
    /// ```
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
    location: Location,
    /// `None`: in the usual place.
    sought: Option<Arc<Sought>>,
    /// Origins whose pages may send a cookie with unsafe requests.
    trusted: Arc<[Origin]>,
    /// Issuers that have a verifier of their own further on in the chain.
    others: Arc<Issuers>,
}

impl JwtPolicy {
    fn missing(&self) -> Denial {
        let missing = denial(DenialKind::CredentialMissing);
        match &self.sought {
            Some(sought) => missing.seeking(Arc::clone(sought)),
            None => missing,
        }
    }

    fn judge(&self, token: CredentialText<'_>) -> Decision<Identified> {
        let verified = match self.verifier.verify_or_wait(token, &self.others) {
            Verification::Over(Ok(verified)) => verified,
            Verification::Over(Err(refusal)) if refusal.is_left => {
                return abstain(DenialKind::CredentialInvalid);
            }
            Verification::Over(Err(refusal)) => {
                return Decision::Ready(Verdict::Refuse(refusal.into()));
            }
            Verification::Waits { keys, .. } => {
                return self.judge_after(keys, token.as_str().to_owned());
            }
        };
        let Some(sessions) = &self.sessions else {
            return Decision::Ready(admit(&verified));
        };
        match sessions.peek(&verified) {
            Some(answer) => Decision::Ready(verdict(&verified, answer)),
            None => {
                let sessions = sessions.clone();
                Decision::pending(
                    async move { verdict(&verified, sessions.resolve(&verified).await) },
                )
            }
        }
    }

    /// Judges once the keys that may be the token's are loaded, or are known not to be available.
    fn judge_after(&self, keys: Wait, token: String) -> Decision<Identified> {
        let (verifier, sessions) = (self.verifier.clone(), self.sessions.clone());
        Decision::pending(async move {
            let verified = verifier.verify_after(keys, &token).await;
            match (verified, sessions) {
                (Err(refusal), _) => Verdict::Refuse(refusal.into()),
                (Ok(verified), None) => admit(&verified),
                (Ok(verified), Some(sessions)) => {
                    verdict(&verified, sessions.resolve(&verified).await)
                }
            }
        })
    }
}

fn admit(token: &VerifiedToken) -> Verdict<Identified> {
    Verdict::Admit(Identified::new(token.principal().clone()))
}

impl Policy for JwtPolicy {
    type Permit = Identified;

    fn name(&self) -> &'static str {
        "jwt"
    }

    fn places(&self) -> CredentialPlaces {
        self.location.places()
    }

    fn stand_beside(&mut self, others: &CredentialPlaces) {
        self.location.stand_beside(others);
    }

    fn bearer_issuers(&self) -> Issuers {
        if self.location.is_bearer() {
            self.verifier.issuers().clone()
        } else {
            Issuers::default()
        }
    }

    fn leave_bearers_of(&mut self, issuers: &Issuers) {
        // What is elsewhere isn't read by the others, who would overlook a bad token there.
        if self.location.is_bearer() {
            Arc::make_mut(&mut self.others).extend(issuers);
        }
    }

    fn decide(&self, head: &RequestHead<'_>) -> Decision<Identified> {
        let refuse = |kind| Decision::Ready(Verdict::Refuse(denial(kind)));
        match self.location.read(head, &self.trusted) {
            Found::Bearer(token) => self.judge(token),
            Found::Token(token) => self.judge((&*token).into()),
            Found::Nothing => Decision::Ready(Verdict::Abstain(self.missing())),
            Found::Foreign => abstain(DenialKind::CredentialInvalid),
            Found::Unreadable => refuse(DenialKind::CredentialInvalid),
            Found::Ambiguous => refuse(DenialKind::CredentialAmbiguous),
            Found::CrossSite => {
                let denial = denial(DenialKind::NotPermitted);
                let reason = "a page of another site sent the cookie";
                Decision::Ready(Verdict::Refuse(denial.because(reason)))
            }
        }
    }
}

/// The user is as the login says now; scopes, further claims and expiry come from the token alone.
fn verdict(
    token: &VerifiedToken,
    answer: Result<Arc<ResolvedSession>, SessionError>,
) -> Verdict<Identified> {
    match answer {
        Ok(session) => Verdict::Admit(Identified::new(token.principal_of(session.principal()))),
        // The signature is good, so the token's subject can be trusted.
        Err(error) => Verdict::Refuse(Denial::from(error).held_by(token.subject(), None)),
    }
}

fn abstain(kind: DenialKind) -> Decision<Identified> {
    Decision::Ready(Verdict::Abstain(denial(kind)))
}

fn denial(kind: DenialKind) -> Denial {
    Denial::new(kind).of_credential(CredentialKind::Token)
}
