//! Authentication by a rule of your own: [`AuthenticateLayer`].
//!
//! For callers that no other layer can identify: by your own user database, a client certificate or a header that a proxy
//! signs; or by a [`Principal`] that an outer layer has found.
//!
//! - Refuses with 401 a request without a credential that the rule knows (`None`), unless another layer knows one
//!   ([`or`](AuthenticateLayer::or)); as the rule says when it returns a [`Denial`]; with 503 when an asynchronous
//!   rule has not answered within its [`deadline`](AuthenticateLayer::deadline).
//! - Stands where the other authenticating layers do: inside rate limits by address, and outside whatever asks for a
//!   [`Principal`].
//! - Caches nothing: a rule that does I/O does it on every request. For keys in your own database there is
//!   [`KeyLookup`](crate::store::KeyLookup), with a [`KeyResolver`](crate::keyring::KeyResolver) as its cache.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tollgate::{AuthenticateLayer, CredentialKind, Principal, RequestHead, denial::{Denial, DenialKind}};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! /// Asks a database, say.
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

/// Admits whom a rule of one's own knows. See the [module](self).
#[derive(Clone, Debug)]
pub struct AuthenticateLayer {
    gate: Gate<AuthenticatePolicy>,
}

guard::layer!(AuthenticateLayer, AuthenticatePolicy);

impl AuthenticateLayer {
    /// Reads with `credential` what there is of one in the head, and asks `who` whose it is. A request that carries nothing which
    /// `credential` knows (`None`) is another layer's; one that `who` refuses is refused. A store that fails is
    /// [`DenialKind::Unavailable`].
    #[must_use]
    pub fn new<C, A>(
        credential: impl Fn(&RequestHead<'_>) -> Option<C> + Send + Sync + 'static,
        who: impl Fn(C) -> A + Send + Sync + 'static,
    ) -> Self
    where
        A: Future<Output = Result<Principal, Denial>> + Send + 'static,
    {
        Self::of(Rule::Asks(Arc::new(move |head, deadline| {
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

    /// The same for a `rule` that has all it needs in the head, and answers at once; `Ok(None)` where the request carries nothing that it
    /// knows.
    ///
    /// ```
    /// use tollgate::{AuthenticateLayer, CredentialKind, Principal};
    ///
    /// /// What a server that ends TLS leaves on the requests of a connection.
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
        Self::of(Rule::Knows(Arc::new(rule)))
    }

    /// Takes over the [`Principal`] that a layer further out has put into the request's extensions: an authentication that was
    /// there before. So a [`Tollgate`](crate::Tollgate) inside of it can limit and charge whom it found.
    #[must_use]
    pub fn found_outside() -> Self {
        Self::by_head(|head| Ok(head.extensions.get::<Principal>().cloned()))
    }

    /// For how long a rule that asks somebody is waited for; 5 seconds unless set.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        Self {
            gate: self.gate.map_policy(|policy| policy.deadline = deadline),
        }
    }

    /// Asks `other` about requests that carry nothing which the rule knows. What it finds to be no good is refused, not
    /// passed on.
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

type Asks = dyn Fn(&RequestHead<'_>, Duration) -> Decision<Identified> + Send + Sync;
type Knows = dyn Fn(&RequestHead<'_>) -> Result<Option<Principal>, Denial> + Send + Sync;

#[derive(Clone)]
enum Rule {
    Asks(Arc<Asks>),
    Knows(Arc<Knows>),
}

impl Policy for AuthenticatePolicy {
    type Permit = Identified;

    fn name(&self) -> &'static str {
        "authenticate"
    }

    fn decide(&self, head: &RequestHead<'_>) -> Decision<Identified> {
        match &self.rule {
            Rule::Asks(rule) => rule(head, self.deadline),
            Rule::Knows(rule) => Decision::Ready(verdict(rule(head))),
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
