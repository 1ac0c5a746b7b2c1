//! Authentication by the session cookie of a web application: [`SessionCookieLayer`].
//!
//! - Refuses with 401 a cookie that is expired, tampered with, made with another secret, or sent
//!   twice under one name; one beside which a key or a token is sent twice; and a request without
//!   one. [`or`](SessionCookieLayer::or) leaves requests without a cookie to another layer, and
//!   those with a key or a token beside a cookie that isn't good. Refuses with 403 a request that
//!   another site's page caused: unsafe methods and upgrades whose `Origin` or `Sec-Fetch-Site` is
//!   foreign, since browsers add cookies to those too.
//! - Stands inside rate limits by address, and outside everything that needs a
//!   [`Principal`](crate::Principal).
//! - Uses no store: a cookie is good until it expires.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::convert::Infallible;
//! use tollgate::{Principal, SessionCookieLayer, token::SessionCookieVerifier};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! // As `encode` of `next-auth/jwt` makes it.
//! let cookie = concat!(
//!     "next-auth.session-token=eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..T_HblwJTajzwijm5.I9s_L00tCNPaYKZBZ3",
//!     "zIJ2l3Lqh90kaVS-qZBz2joyFy_aA4zJuQCisMK6OesYQoouEwlBqo2WcBifPSX95egM1x5Qcq7MoyG0Kads8UKFwPa3IWwshSIz",
//!     "b3hVan3hF-af6aBTnAQWJpufdFlUKkAUtbc98Ex0QpwcA-78EK6xUBEv64aNSoEez5Zqg5G3ebpVcup_ThchfscIpWyA.7iDLI5Y",
//!     "qYZK3yhoIQA6Wsg",
//! );
//! let verifier = SessionCookieVerifier::next_auth(b"a secret made for the tests of this crate");
//! let hello = service_fn(async |request: http::Request<()>| {
//!     let principal = request.extensions().get::<Principal>().expect("behind the layer");
//!     assert_eq!(principal.subject(), "user-7");
//!     Ok::<_, Infallible>(http::Response::new("hello".to_owned()))
//! });
//! let service = SessionCookieLayer::new(verifier.build()?).layer(hello);
//! let request = |cookie: &str| http::Request::builder().header("cookie", cookie).body(()).unwrap();
//!
//! assert_eq!(service.clone().oneshot(request(cookie)).await?.status(), 200);
//! let changed = cookie.replace("I9s_", "AAAA");
//! assert_eq!(service.oneshot(request(&changed)).await?.status(), 401);
//! # Ok(()) }
//! ```

use std::sync::Arc;

use http::{HeaderName, header::AUTHORIZATION};

use crate::{
    domain::{
        credential::CredentialKind,
        denial::{Denial, DenialKind},
    },
    guard::{self, Authenticator, Decision, Gate, Identified, OrLayer, Policy, Verdict},
    token::SessionCookieVerifier,
    wire::{
        CookieValue, CredentialPlaces, InvalidOrigin, Origin, RequestHead, X_API_KEY, are_doubled,
        is_cross_site, read_named_cookie,
    },
};

const NAME: &str = "session_cookie";

/// Admits callers with a session. See the [module](self).
#[derive(Clone, Debug)]
pub struct SessionCookieLayer {
    gate: Gate<SessionCookiePolicy>,
}

guard::layer!(SessionCookieLayer, SessionCookiePolicy);

impl SessionCookieLayer {
    /// Accepts cookies that `verifier` finds good, whole or split (`.0`, `.1`, …), under the names
    /// that the application uses unless it sets another
    /// ([`cookie_names`](SessionCookieVerifier::cookie_names)): with NextAuth.js 4
    /// `__Secure-next-auth.session-token`, or else `next-auth.session-token`.
    /// A browser that sends both has the first one judged alone, because a network attacker can set
    /// only the other. The application itself looks at one name, by its URL: say
    /// [that](Self::application_url) where you know it.
    ///
    /// A cookie without a value, as an ended session may leave it, is no credential.
    #[must_use]
    pub fn new(verifier: SessionCookieVerifier) -> Self {
        let names = verifier.cookie_names();
        Self {
            gate: Gate::new(SessionCookiePolicy {
                verifier,
                names: names.map(Into::into).into(),
                trusted: Arc::from([]),
                cross_site: CrossSite::Refused,
                others: Others::Ignored,
                key_headers: vec![X_API_KEY],
            }),
        }
    }

    /// The application's own URL (`NEXTAUTH_URL`, `AUTH_URL`), with or without a path. It chooses
    /// the cookie by it: if the URL is `https`, the one whose name begins with `__Secure-`, and
    /// else the other. So does this layer. Of an `https` application the other cookie is never
    /// looked at: a network attacker can set it, to a session of his own, for a browser that has
    /// none. Of an `http` application the `__Secure-` one is looked at if there is none of the
    /// other. Pages of the URL's origin may send unsafe requests with the cookie
    /// ([`add_trusted_origin`](Self::add_trusted_origin)). Names that were set before are replaced;
    /// an application that sets `useSecureCookies` against its URL needs its name set after this
    /// ([`name`](Self::name)).
    ///
    /// ```
    /// use tollgate::{SessionCookieLayer, token::SessionCookieVerifier};
    ///
    /// let verifier = SessionCookieVerifier::next_auth(b"a secret made for the tests of this crate");
    /// let layer = SessionCookieLayer::new(verifier.build()?).application_url("http://localhost:3000")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidOrigin`] if it isn't `http` or `https`, or has no host.
    pub fn application_url(self, url: &str) -> Result<Self, InvalidOrigin> {
        let origin = Origin::of_url(url)?;
        let [secure, plain] = self.gate.policy().verifier.cookie_names();
        let named = if origin.is_https() {
            self.name(secure)
        } else {
            self.name(plain).add_name(secure)
        };
        Ok(named.add_trusted_origin(origin))
    }

    /// The cookie's name, instead of the usual two. A page loaded over http can't set a cookie
    /// whose name starts with `__Secure-` or `__Host-`.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        self.change(|policy| policy.names = Arc::from([name.into()]))
    }

    /// Adds a name that is looked at only if there is no cookie of the names before it, good or
    /// bad.
    ///
    /// ```
    /// use tollgate::{SessionCookieLayer, token::SessionCookieVerifier};
    ///
    /// let verifier = SessionCookieVerifier::next_auth(b"a secret made for the tests of this crate");
    /// let layer = SessionCookieLayer::new(verifier.build()?)
    ///     .name("__Host-session")
    ///     .add_name("__Secure-next-auth.session-token");
    /// # Ok::<(), tollgate::token::SessionCookieError>(())
    /// ```
    #[must_use]
    pub fn add_name(self, name: &str) -> Self {
        self.change(|policy| {
            policy.names = policy.names.iter().cloned().chain([name.into()]).collect();
        })
    }

    /// Adds an origin whose pages may send unsafe requests with the cookie: the application's own,
    /// if a proxy in front changes `Host`, or that of another of your applications.
    #[must_use]
    pub fn add_trusted_origin(self, origin: Origin) -> Self {
        self.change(|policy| {
            policy.trusted = policy.trusted.iter().cloned().chain([origin]).collect();
        })
    }

    /// Accepts the cookie from pages of any site. Something else must then prevent cross-site
    /// requests, such as a token in every form.
    #[must_use]
    pub fn dangerous_any_origin(self) -> Self {
        self.change(|policy| policy.cross_site = CrossSite::Admitted)
    }

    /// Refuses requests with a key or a bearer token, even beside a cookie: for routes that are
    /// only for a user in a browser.
    #[must_use]
    pub fn exclusive(self) -> Self {
        self.change(|policy| policy.others = Others::Refused)
    }

    /// Whether the request carries a good session cookie. Use it to exempt callers from an outer
    /// layer ([`skip`](crate::RateLimitLayer::skip)), where this layer stands first in its
    /// [`or`](Self::or): it decides on every request with a good cookie, and no later layer looks
    /// at what else is there. Behind a layer for keys, which would judge a key beside the cookie,
    /// it exempts guesses at keys too.
    ///
    /// ```
    /// use tollgate::{RequestHead, SessionCookieLayer, token::SessionCookieVerifier};
    ///
    /// let verifier = SessionCookieVerifier::next_auth(b"a secret made for the tests of this crate");
    /// let layer = SessionCookieLayer::new(verifier.build()?);
    /// let made_up = http::Request::builder().header("cookie", "next-auth.session-token=a.b.c.d.e").body(())?;
    /// assert!(!layer.finds_session(&RequestHead::of(&made_up)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn finds_session(&self, head: &RequestHead<'_>) -> bool {
        let policy = self.gate.policy();
        match read_named_cookie(head.headers, &policy.names) {
            (name, CookieValue::Text(cookie)) => policy.verifier.look(name, &cookie).is_ok(),
            (_, CookieValue::Absent | CookieValue::Unreadable) => false,
        }
    }

    /// Falls back to `other` for requests without a session cookie, and for those whose cookie
    /// isn't good beside another credential: `authorization`, `x-api-key`, or a header field in
    /// which `other` looks for keys. Browsers send cookies that have ended, or that another
    /// application on the same host has set, without anybody's choosing so; a key is sent on
    /// purpose. A key in a place that `other` doesn't [name](crate::guard::Policy::places) isn't
    /// seen, so put such a layer first.
    ///
    /// A good cookie decides, whatever else is there, and a bad one by itself is refused.
    #[must_use]
    pub fn or<A: Authenticator>(self, other: A) -> OrLayer<SessionCookiePolicy, A::Policy> {
        OrLayer::new(self.gate, other)
    }

    fn change(self, change: impl FnOnce(&mut SessionCookiePolicy)) -> Self {
        Self {
            gate: self.gate.map_policy(change),
        }
    }
}

impl Authenticator for SessionCookieLayer {
    type Policy = SessionCookiePolicy;

    fn into_gate(self) -> Gate<SessionCookiePolicy> {
        self.gate
    }
}

/// The decision of a [`SessionCookieLayer`].
#[derive(Clone, Debug)]
pub struct SessionCookiePolicy {
    verifier: SessionCookieVerifier,
    names: Arc<[Box<str>]>,
    trusted: Arc<[Origin]>,
    cross_site: CrossSite,
    others: Others,
    /// The header fields in which keys are expected.
    key_headers: Vec<HeaderName>,
}

#[derive(Clone, Copy, Debug)]
enum CrossSite {
    Refused,
    Admitted,
}

/// Keys and bearer tokens.
#[derive(Clone, Copy, Debug)]
enum Others {
    Ignored,
    Refused,
}

impl Policy for SessionCookiePolicy {
    type Permit = Identified;

    fn name(&self) -> &'static str {
        NAME
    }

    fn places(&self) -> CredentialPlaces {
        CredentialPlaces::ELSEWHERE
    }

    fn stand_beside(&mut self, others: &CredentialPlaces) {
        self.key_headers.extend_from_slice(others.as_headers());
    }

    fn decide(&self, head: &RequestHead<'_>) -> Decision<Identified> {
        Decision::Ready(self.judge(head))
    }
}

impl SessionCookiePolicy {
    fn judge(&self, head: &RequestHead<'_>) -> Verdict<Identified> {
        if matches!(self.others, Others::Refused) && self.finds_another(head) {
            let denial = denial(DenialKind::CredentialInvalid);
            return Verdict::Refuse(
                denial.because("a key or a token where only a session will do"),
            );
        }
        let (name, cookie) = read_named_cookie(head.headers, &self.names);
        let cookie = match cookie {
            CookieValue::Absent => return Verdict::Abstain(denial(DenialKind::CredentialMissing)),
            CookieValue::Unreadable => {
                let reason = "the session cookie is there twice, incomplete or unreadable";
                let denial = denial(DenialKind::CredentialInvalid).because(reason);
                return if self.finds_another(head) {
                    passed_over(denial)
                } else {
                    Verdict::Refuse(denial)
                };
            }
            CookieValue::Text(cookie) => cookie,
        };
        if are_doubled(head.headers, &self.key_headers) {
            let reason = "a key or a token is there twice, beside the session cookie";
            return Verdict::Refuse(denial(DenialKind::CredentialAmbiguous).because(reason));
        }
        let found = self
            .verifier
            .look(name, &cookie)
            .map_err(|refusal| Denial::from(refusal).of_credential(CredentialKind::SessionCookie));
        match found {
            // Whoever sent it: where the cookie counts for nothing, it lends a page nothing either.
            Err(denial) if self.finds_another(head) => passed_over(denial),
            _ if matches!(self.cross_site, CrossSite::Refused)
                && is_cross_site(head, &self.trusted) =>
            {
                let foreign = denial(DenialKind::NotPermitted);
                Verdict::Refuse(foreign.because("a page of another site sent it"))
            }
            Ok(principal) => Verdict::Admit(Identified::new(principal)),
            Err(denial) => Verdict::Refuse(denial),
        }
    }

    /// Whether there is a key, or anything in `authorization`, good or bad.
    fn finds_another(&self, head: &RequestHead<'_>) -> bool {
        let is_there = |name| head.headers.contains_key(name);
        is_there(&AUTHORIZATION) || self.key_headers.iter().any(is_there)
    }
}

/// A cookie that isn't good, beside another credential, is left to the policies that take that one.
/// If none does, this refusal holds.
fn passed_over(denial: Denial) -> Verdict<Identified> {
    tracing::debug!(
        target: "tollgate",
        layer = NAME,
        kind = denial.kind().as_str(),
        reason = denial.reason(),
        "a session cookie is passed over for another credential"
    );
    Verdict::Abstain(denial)
}

fn denial(kind: DenialKind) -> Denial {
    Denial::new(kind).of_credential(CredentialKind::SessionCookie)
}
