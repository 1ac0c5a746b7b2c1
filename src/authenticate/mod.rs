//! Authentication by a rule of your own: [`AuthenticateLayer`].
//!
//! For callers that no other layer can identify: through your own user database, a client
//! certificate or a header signed by a proxy; or through a [`Principal`] that an outer layer has
//! found.
//!
//! - Refuses with 401 a request without a credential that the rule recognizes (`None`), unless
//!   another layer recognizes one ([`or`](AuthenticateLayer::or)); as the rule says if it returns a
//!   [`Denial`]; with 503 if an asynchronous rule has not answered within its
//!   [`deadline`](AuthenticateLayer::deadline).
//! - Stands where the other authenticating layers do: inside rate limits by address, and outside
//!   everything that needs a [`Principal`].
//! - Caches nothing: a rule that does I/O does it on every request. For keys in your own database
//!   there is [`KeyLookup`](crate::store::KeyLookup), with a
//!   [`KeyResolver`](crate::keyring::KeyResolver) as its cache.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tollgate::{AuthenticateLayer, CredentialKind, Principal, RequestHead, denial::{Denial, DenialKind}};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! /// Asks a database, for example.
//! async fn find(ticket: String) -> Result<Principal, Denial> {
//!     match ticket.as_str() {
//!         "7" => Ok(Principal::builder("user-7", CredentialKind::Token).role("viewer").build()),
//!         _ => Err(Denial::new(DenialKind::CredentialInvalid)),
//!     }
//! }
//! let ticket = |head: &RequestHead<'_>| {
//!     let ticket = head.headers.get("x-ticket")?.to_str().ok()?;
//!     Some(ticket.to_owned())
//! };
//! let known = AuthenticateLayer::new(ticket, find);
//! let service = known.layer(service_fn(async |request: http::Request<()>| {
//!     let caller = request.extensions().get::<Principal>().expect("behind the layer");
//!     Ok::<_, std::convert::Infallible>(http::Response::new(caller.subject().to_owned()))
//! }));
//! let with = |ticket: &str| http::Request::builder().header("x-ticket", ticket).body(()).unwrap();
//! assert_eq!(service.clone().oneshot(with("7")).await?.status(), 200);
//! assert_eq!(service.clone().oneshot(with("8")).await?.status(), 401);
//! assert_eq!(service.oneshot(http::Request::new(())).await?.status(), 401);
//! # Ok(()) }
//! ```
//!
//! # Acting for another
//!
//! Further in than the layer that finds out who calls, a rule may say for whom: the audit log and
//! the request's events still name the caller, and limits per account and money are the customer's.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tollgate::{AuthenticateLayer, CredentialKind, Principal, store::AccountId};
//! use tollgate::denial::{Denial, DenialKind};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let acting = AuthenticateLayer::by_head(|head| {
//!     let Some(caller) = head.extensions.get::<Principal>() else { return Ok(None) };
//!     let Some(customer) = head.headers.get("x-on-behalf-of") else { return Ok(Some(caller.clone())) };
//!     if !caller.has_role("admin") {
//!         return Err(Denial::new(DenialKind::NotPermitted));
//!     }
//!     let account = customer.to_str().ok().and_then(|name| AccountId::new(name).ok());
//!     let account = account.ok_or(Denial::new(DenialKind::Malformed))?;
//!     // Of the administrator's rights it takes none along.
//!     Ok(Some(caller.to_builder().account(account).roles(["customer"]).build()))
//! });
//! let service = acting.layer(service_fn(async |request: http::Request<()>| {
//!     let caller = request.extensions().get::<Principal>().expect("behind the layer");
//!     let account = caller.account().map(AccountId::as_str);
//!     assert_eq!((caller.subject(), account, caller.has_role("admin")), ("jo", Some("acme"), false));
//!     Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
//! }));
//! let by = |role: &str| {
//!     let caller = Principal::builder("jo", CredentialKind::ApiKey).role(role).build();
//!     let request = http::Request::builder().header("x-on-behalf-of", "acme");
//!     request.extension(caller).body(()).unwrap()
//! };
//! assert_eq!(service.clone().oneshot(by("admin")).await?.status(), 200);
//! assert_eq!(service.oneshot(by("support")).await?.status(), 403);
//! # Ok(()) }
//! ```

use std::{fmt, future::Future, sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
    domain::{
        denial::{Denial, DenialKind},
        principal::Principal,
    },
    guard::{self, Authenticator, Decision, Gate, Identified, OrLayer, Policy, Verdict},
    wire::RequestHead,
};

const DEADLINE: Duration = Duration::from_secs(5);

/// Admits callers that your own rule identifies. See the [module](self).
#[derive(Clone, Debug)]
pub struct AuthenticateLayer {
    gate: Gate<AuthenticatePolicy>,
}

guard::layer!(AuthenticateLayer, AuthenticatePolicy);

impl AuthenticateLayer {
    /// Reads a credential from the head with `credential`, and identifies its owner with `who`. If
    /// `credential` returns `None`, the request is left to other layers; if `who` refuses, it is
    /// refused. For a store that fails, return [`DenialKind::Unavailable`].
    #[must_use]
    pub fn new<C, A>(
        credential: impl Fn(&RequestHead<'_>) -> Option<C> + Send + Sync + 'static,
        who: impl Fn(C) -> A + Send + Sync + 'static,
    ) -> Self
    where
        A: Future<Output = Result<Principal, Denial>> + Send + 'static,
    {
        Self::of(Rule::Async(Arc::new(move |head, deadline| {
            let Some(credential) = credential(head) else {
                return Decision::Ready(verdict(Ok(None)));
            };
            let answer = who(credential);
            Decision::pending(async move {
                match timeout(deadline, answer).await {
                    Ok(answer) => verdict(answer.map(Some)),
                    Err(_) => Verdict::Refuse(
                        Denial::new(DenialKind::Unavailable)
                            .retry_after(Duration::from_secs(1))
                            .because("nobody said within the deadline whose credential it is"),
                    ),
                }
            })
        })))
    }

    /// Like [`new`](Self::new), for a `rule` that needs only the head and answers at once;
    /// `Ok(None)` means that the request carries nothing that it recognizes.
    ///
    /// ```
    /// use tollgate::{AuthenticateLayer, CredentialKind, Principal};
    ///
    /// /// What a server that terminates TLS puts on the requests of a connection.
    /// #[derive(Clone)]
    /// struct ClientCertificate { name: String }
    ///
    /// let by_certificate = AuthenticateLayer::by_head(|head| {
    ///     let certificate = head.extensions.get::<ClientCertificate>();
    ///     Ok(certificate.map(|client| Principal::builder(&client.name, CredentialKind::Certificate).build()))
    /// });
    /// # let _: AuthenticateLayer = by_certificate;
    /// ```
    #[must_use]
    pub fn by_head(
        rule: impl Fn(&RequestHead<'_>) -> Result<Option<Principal>, Denial> + Send + Sync + 'static,
    ) -> Self {
        Self::of(Rule::Sync(Arc::new(rule)))
    }

    /// Adopts the [`Principal`] that a layer further out has put into the request's extensions, so
    /// that a [`Tollgate`](crate::Tollgate) can limit and charge callers that existing
    /// authentication has identified.
    #[must_use]
    pub fn found_outside() -> Self {
        Self::by_head(|head| Ok(head.extensions.get::<Principal>().cloned()))
    }

    /// How long to wait for an asynchronous rule; 5 seconds unless set.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        Self {
            gate: self.gate.map_policy(|policy| policy.deadline = deadline),
        }
    }

    /// Falls back to `other` for requests without anything that the rule recognizes. A credential
    /// that it rejects is refused, not passed on.
    #[must_use]
    pub fn or<A: Authenticator>(self, other: A) -> OrLayer<AuthenticatePolicy, A::Policy> {
        OrLayer::new(self.gate, other)
    }

    fn of(rule: Rule) -> Self {
        Self {
            gate: Gate::new(AuthenticatePolicy {
                rule,
                deadline: DEADLINE,
            }),
        }
    }
}

impl Authenticator for AuthenticateLayer {
    type Policy = AuthenticatePolicy;

    fn into_gate(self) -> Gate<AuthenticatePolicy> {
        self.gate
    }
}

/// The decision of an [`AuthenticateLayer`].
#[derive(Clone)]
pub struct AuthenticatePolicy {
    rule: Rule,
    deadline: Duration,
}

type AsyncRule = dyn Fn(&RequestHead<'_>, Duration) -> Decision<Identified> + Send + Sync;
type SyncRule = dyn Fn(&RequestHead<'_>) -> Result<Option<Principal>, Denial> + Send + Sync;

#[derive(Clone)]
enum Rule {
    Async(Arc<AsyncRule>),
    Sync(Arc<SyncRule>),
}

impl Policy for AuthenticatePolicy {
    type Permit = Identified;

    fn name(&self) -> &'static str {
        "authenticate"
    }

    fn decide(&self, head: &RequestHead<'_>) -> Decision<Identified> {
        match &self.rule {
            Rule::Async(rule) => rule(head, self.deadline),
            Rule::Sync(rule) => Decision::Ready(verdict(rule(head))),
        }
    }
}

fn verdict(answer: Result<Option<Principal>, Denial>) -> Verdict<Identified> {
    match answer {
        Ok(Some(principal)) => Verdict::Admit(Identified::new(principal)),
        Ok(None) => Verdict::Abstain(Denial::new(DenialKind::CredentialMissing)),
        Err(denial) => Verdict::Refuse(denial),
    }
}

impl fmt::Debug for AuthenticatePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticatePolicy")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
