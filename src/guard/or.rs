//! Several kinds of credential, tried in order.

use std::{fmt, sync::Arc};

use http::Extensions;
use tower_layer::Layer;

use super::{Decision, Gate, Guard, NoMeter, Permit, Policy, ResponseMarks, Tail, Verdict, event};
use crate::{
    domain::{
        credential::CredentialKind,
        denial::{Denial, DenialKind, Neither},
        principal::Principal,
    },
    token::Issuers,
    trail,
    wire::{ClientAddress, CredentialPlaces, Denials, RequestHead, X_API_KEY, are_doubled},
};

/// The permit of every authenticating layer. It puts the [`Principal`] into the request's
/// extensions.
#[derive(Debug)]
pub struct Identified(Option<Principal>);

impl Identified {
    /// Proof that the principal sent the request.
    #[must_use]
    pub fn new(principal: Principal) -> Self {
        Self(Some(principal))
    }
}

impl Permit for Identified {
    type Meter = NoMeter;

    fn mark_request(&mut self, extensions: &mut Extensions) {
        if let Some(principal) = self.0.take() {
            trail::authenticated(&principal);
            event::authenticated(&principal);
            extensions.insert(principal);
        }
    }

    #[inline]
    fn mark_response(self, _: ResponseMarks<'_>) -> Tail<NoMeter> {
        Tail::Body
    }
}

/// A layer that identifies the caller, and can be one of several in an `.or(…)`, in any position.
/// Implement it to use your own.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tollgate::{ApiKeyLayer, CredentialKind, Principal, RequestHead, keyring::KeyResolver, store::StaticKeys};
/// use tollgate::denial::{Denial, DenialKind};
/// use tollgate::guard::{Authenticator, CredentialPlaces, Decision, Gate, Identified, Policy, Verdict};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// /// Identifies callers by the certificate of their connection.
/// #[derive(Clone, Debug)]
/// struct ByCertificate;
///
/// #[derive(Clone)]
/// struct ClientCertificate { name: String }
///
/// impl Policy for ByCertificate {
///     type Permit = Identified;
///
///     fn name(&self) -> &'static str {
///         "certificate"
///     }
///
///     fn places(&self) -> CredentialPlaces {
///         CredentialPlaces::ELSEWHERE
///     }
///
///     fn decide(&self, head: &RequestHead<'_>) -> Decision<Identified> {
///         Decision::Ready(match head.extensions.get::<ClientCertificate>() {
///             Some(client) => {
///                 let client = Principal::builder(&client.name, CredentialKind::Certificate);
///                 Verdict::Admit(Identified::new(client.build()))
///             }
///             None => Verdict::Abstain(Denial::new(DenialKind::CredentialMissing)),
///         })
///     }
/// }
///
/// impl Authenticator for ByCertificate {
///     type Policy = Self;
///
///     fn into_gate(self) -> Gate<Self> {
///         Gate::new(self)
///     }
/// }
///
/// let keys = StaticKeys::new().add_key("app", "3f6e1c0a9b7d4e52-of-32-or-more", ["app"])?;
/// let layer = ByCertificate.or(ApiKeyLayer::new(KeyResolver::builder(keys).build()));
/// let hello = service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned())));
/// let service = layer.layer(hello);
/// let client = ClientCertificate { name: "billing".to_owned() };
/// let known = http::Request::builder().extension(client).body(())?;
/// assert_eq!(service.clone().oneshot(known).await?.status(), 200);
/// let by_key = http::Request::builder().header("x-api-key", "3f6e1c0a9b7d4e52-of-32-or-more").body(())?;
/// assert_eq!(service.clone().oneshot(by_key).await?.status(), 200);
/// assert_eq!(service.oneshot(http::Request::new(())).await?.status(), 401);
/// # Ok(()) }
/// ```
pub trait Authenticator {
    /// The layer's policy.
    type Policy: Policy<Permit = Identified> + Clone;

    /// The layer's policy with its settings.
    fn into_gate(self) -> Gate<Self::Policy>;

    /// Falls back to `other` for requests without a credential that this layer recognizes. A bad
    /// credential is refused, not passed on; only a session's cookie that isn't good is, if there
    /// is a key or a token beside it ([`SessionCookieLayer::or`](crate::SessionCookieLayer::or)).
    #[must_use]
    fn or<A: Authenticator>(self, other: A) -> OrLayer<Self::Policy, A::Policy>
    where
        Self: Sized,
    {
        OrLayer::new(self.into_gate(), other)
    }
}

/// One authenticating layer, or else another. The settings (`skip`, `shadow`, `denials`) are those
/// of the first, and can be changed here; credentials are hidden if either is to hide them.
///
/// A request is judged by the first policy that recognizes its credential: a bad credential is
/// refused, and the next policy isn't asked, except that a session's cookie counts for nothing
/// beside another credential if it isn't good. If `authorization` or a key's header field appears
/// twice, the request is refused by whichever policy judges it, even if both lines agree, because
/// intermediaries disagree about which one counts. One without a credential is refused once, with a
/// text that names all that would do; where a place isn't for everybody to know, set another text
/// ([`Denials::add_message`]).
pub struct OrLayer<A, B> {
    gate: Gate<Or<A, B>>,
}

impl<A, B> OrLayer<A, B>
where
    A: Policy<Permit = Identified> + Clone,
    B: Policy<Permit = Identified> + Clone,
{
    pub(crate) fn new(first: Gate<A>, other: impl Authenticator<Policy = B>) -> Self {
        let other = other.into_gate();
        let first = if other.hides_credentials() {
            first.hide_credentials()
        } else {
            first
        };
        let second = other.policy().clone();
        Self {
            gate: first.with_policy(|first| Or::new(first, second)),
        }
    }

    /// Falls back to `other` for requests without a credential that the layers so far recognize.
    #[must_use]
    pub fn or<C: Authenticator>(self, other: C) -> OrLayer<Or<A, B>, C::Policy> {
        OrLayer::new(self.gate, other)
    }

    /// Skips requests for which `skip` returns true.
    #[must_use]
    pub fn skip(self, skip: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        Self {
            gate: self.gate.skip(skip),
        }
    }

    /// Skips requests whose full path is exactly one of `paths`.
    #[must_use]
    pub fn skip_paths<'a>(self, paths: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            gate: self.gate.skip_paths(paths),
        }
    }

    /// Skips CORS preflight requests, for a service that answers them further in. They are better
    /// answered outside: see [`Gate::skip_preflight`].
    #[must_use]
    pub fn skip_preflight(self) -> Self {
        Self {
            gate: self.gate.skip_preflight(),
        }
    }

    /// Removes the header fields in which a credential is looked for from requests that pass, so
    /// that a handler that relays requests can't hand a caller's credential to its provider. Layers
    /// further in don't see them either; requests that are [skipped](Self::skip) keep theirs.
    /// Cookies, and places of your own other than `authorization`, are left alone, and so is a copy
    /// of a credential where none is looked for.
    #[must_use]
    pub fn hide_credentials(self) -> Self {
        Self {
            gate: self.gate.hide_credentials(),
        }
    }

    /// Decides, logs and counts, and lets everything through.
    #[must_use]
    pub fn shadow(self) -> Self {
        Self {
            gate: self.gate.shadow(),
        }
    }

    /// The format of refusals; problem details (RFC 9457) unless set.
    #[must_use]
    pub fn denials(self, denials: impl Into<Denials>) -> Self {
        Self {
            gate: self.gate.with_denials(denials),
        }
    }
}

impl<A, B> Authenticator for OrLayer<A, B>
where
    A: Policy<Permit = Identified> + Clone,
    B: Policy<Permit = Identified> + Clone,
{
    type Policy = Or<A, B>;

    fn into_gate(self) -> Gate<Or<A, B>> {
        self.gate
    }
}

impl<S, A, B> Layer<S> for OrLayer<A, B>
where
    A: Policy<Permit = Identified>,
    B: Policy<Permit = Identified>,
{
    type Service = Guard<S, Gate<Or<A, B>>>;

    fn layer(&self, inner: S) -> Self::Service {
        self.gate.layer(inner)
    }
}

impl<A, B> Clone for OrLayer<A, B> {
    fn clone(&self) -> Self {
        Self {
            gate: self.gate.clone(),
        }
    }
}

impl<A: fmt::Debug, B: fmt::Debug> fmt::Debug for OrLayer<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrLayer").field("gate", &self.gate).finish()
    }
}

/// The decision of an [`OrLayer`].
#[derive(Clone, Debug)]
pub struct Or<A, B> {
    first: A,
    second: B,
    /// Where either looks for credentials, and `x-api-key`.
    places: CredentialPlaces,
    neither: Arc<Neither>,
}

impl<A: Policy, B: Policy> Or<A, B> {
    /// Each learns where the other expects a key: two credentials that disagree are both rejected,
    /// whichever policy is asked first.
    fn new(mut first: A, mut second: B) -> Self {
        let (of_first, of_second) = (first.places(), second.places());
        second.stand_beside(&of_first);
        first.stand_beside(&of_second);
        first.leave_bearers_of(&second.bearer_issuers());
        let places = CredentialPlaces::headers([X_API_KEY]);
        Self {
            first,
            second,
            places: places.and(of_first).and(of_second),
            neither: Arc::default(),
        }
    }
}

impl<A, B> Or<A, B>
where
    A: Policy<Permit = Identified>,
    B: Policy<Permit = Identified>,
{
    fn ask_in_order(&self, head: &RequestHead<'_>) -> Decision<Identified> {
        let of_first = match self.first.decide(head) {
            Decision::Ready(Verdict::Abstain(denial)) => denial,
            decision => return decision,
        };
        match self.second.decide(head) {
            Decision::Ready(Verdict::Abstain(of_second)) => Decision::Ready(Verdict::Abstain(
                more_telling(&self.neither, of_first, of_second),
            )),
            // One that takes its time to find nothing unsays no credential that was bad.
            Decision::Pending(second) if of_first.kind() != DenialKind::CredentialMissing => {
                let neither = Arc::clone(&self.neither);
                Decision::pending(async move {
                    match second.await {
                        Verdict::Abstain(of_second) => {
                            Verdict::Abstain(more_telling(&neither, of_first, of_second))
                        }
                        verdict => verdict,
                    }
                })
            }
            decision => decision,
        }
    }
}

/// The denial of the policy that saw a credential: one that was sent on purpose, rather than a
/// cookie, which browsers add. Where neither saw any, both say what they look for.
fn more_telling(neither: &Neither, first: Denial, second: Denial) -> Denial {
    let is_blind = |denial: &Denial| denial.kind() == DenialKind::CredentialMissing;
    let is_of_cookie = first.credential() == Some(CredentialKind::SessionCookie);
    match (is_blind(&first), is_blind(&second)) {
        (true, true) => neither.denial(&first, second),
        (true, false) => second,
        (false, false) if is_of_cookie => second,
        (false, _) => first,
    }
}

impl<A, B> Policy for Or<A, B>
where
    A: Policy<Permit = Identified>,
    B: Policy<Permit = Identified>,
{
    type Permit = Identified;

    fn name(&self) -> &'static str {
        "authentication"
    }

    fn inherit_address(&mut self, address: &ClientAddress) {
        self.first.inherit_address(address);
        self.second.inherit_address(address);
    }

    fn places(&self) -> CredentialPlaces {
        self.first.places().and(self.second.places())
    }

    fn stand_beside(&mut self, others: &CredentialPlaces) {
        self.first.stand_beside(others);
        self.second.stand_beside(others);
    }

    /// Tokens of the second policy's issuers get to it only past the first. One that doesn't look
    /// at bearers could admit another credential meanwhile, and a bad token would be overlooked.
    fn bearer_issuers(&self) -> Issuers {
        let mut issuers = self.first.bearer_issuers();
        if self.first.places().compare_bearer() {
            issuers.extend(&self.second.bearer_issuers());
        }
        issuers
    }

    fn leave_bearers_of(&mut self, issuers: &Issuers) {
        if self.second.places().compare_bearer() {
            self.first.leave_bearers_of(issuers);
        }
        self.second.leave_bearers_of(issuers);
    }

    fn decide(&self, head: &RequestHead<'_>) -> Decision<Identified> {
        let decision = self.ask_in_order(head);
        if matches!(decision, Decision::Ready(Verdict::Refuse(_)))
            || !are_doubled(head.headers, self.places.as_headers())
        {
            return decision;
        }
        let reason = "a credential came in two lines";
        Decision::Ready(Verdict::Refuse(
            Denial::new(DenialKind::CredentialAmbiguous).because(reason),
        ))
    }
}
