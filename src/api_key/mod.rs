//! Authentication by API key: [`ApiKeyLayer`].
//!
//! - Refuses with 401 if the key is missing, bad or expired, or if there are several; with 403 if
//!   this key, or any, may not be used from the client's address; with 503 if the store fails.
//! - Stands inside rate limits by address, and outside everything that needs a
//!   [`Principal`](crate::Principal).
//! - If the store fails, keys that were used within the resolver's `ttl` keep working; others get
//!   503.
//! - Never looks for a key in the address: that stands in logs, histories and `Referer` fields. For
//!   old clients that know no other way, an [`AuthenticateLayer`](crate::AuthenticateLayer) of your
//!   own can ask [`KeyResolver::find_from`].
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::convert::Infallible;
//! use tollgate::{ApiKeyLayer, Principal, key::KeyFormat, keyring::{KeyResolver, Keyring, NewKey}};
//! use tollgate::store::MemoryStore;
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let (store, format) = (MemoryStore::new(), KeyFormat::builder("acme").build()?);
//! let resolver = KeyResolver::builder(store.clone()).add_format(format.clone()).build();
//! let (key, _) = Keyring::new(store, format, resolver.clone()).create("user-1", NewKey::default()).await?;
//!
//! let whoami = service_fn(async |request: http::Request<()>| {
//!     let principal = request.extensions().get::<Principal>().expect("behind the layer");
//!     Ok::<_, Infallible>(http::Response::new(principal.subject().to_owned()))
//! });
//! let service = ApiKeyLayer::new(resolver).layer(whoami);
//! let good = http::Request::builder().header("x-api-key", key.expose()).body(())?;
//! assert_eq!(service.clone().oneshot(good).await?.status(), 200);
//! let bad = http::Request::builder().header("x-api-key", "acme_guess").body(())?;
//! assert_eq!(service.oneshot(bad).await?.status(), 401);
//! # Ok(()) }
//! ```

mod location;

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use http::HeaderName;
use ipnet::IpNet;
use location::{Found, Location};

use crate::{
    domain::{
        KeyId,
        credential::CredentialKind,
        denial::{Denial, DenialKind, Sought},
        network,
    },
    guard::{self, Authenticator, Decision, Gate, Identified, OrLayer, Policy, Verdict},
    keyring::{KeyRefusal, KeyResolver, Resolution, ResolvedKey},
    store::StaticKeys,
    wire::{AddressError, ClientAddress, CredentialPlaces, KeyHeaders, RequestHead, X_API_KEY},
};

/// Admits callers with a key. See the [module](self).
#[derive(Clone, Debug)]
pub struct ApiKeyLayer {
    gate: Gate<ApiKeyPolicy>,
}

guard::layer!(ApiKeyLayer, ApiKeyPolicy);

impl ApiKeyLayer {
    /// Accepts the keys of `keys`, in `x-api-key` or `authorization: Bearer`. Any bearer token is
    /// taken for a key, unless this layer is [combined](Self::or) with one that takes bearer
    /// tokens: then a token that [doesn't look like a key](KeyResolver::claims) is left to that
    /// layer.
    #[must_use]
    pub fn new(keys: KeyResolver) -> Self {
        Self {
            gate: Gate::new(ApiKeyPolicy {
                keys,
                location: Location::Headers(KeyHeaders::new(X_API_KEY)),
                sought: None,
                address: ClientAddress::peer(),
                networks: None,
            }),
        }
    }

    /// Expects keys in the header `name` instead of `x-api-key`. A key in `authorization: Bearer`
    /// is still accepted, and a request with two that differ is refused: if clients send another
    /// kind of token there, use [`only_in_header`](Self::only_in_header).
    #[must_use]
    pub fn header(self, name: HeaderName) -> Self {
        self.read_from(Location::Headers(KeyHeaders::new(name)))
    }

    /// Accepts keys only in the header `name`: `authorization` is ignored, and can't conflict with
    /// a key. This is for a gateway whose clients send a provider's token there, or for requiring
    /// both an application's key and a user's token, with one layer for each. The request's
    /// [`Principal`](crate::Principal) is then the inner one's.
    ///
    /// Within one [`or`](Self::or), a layer that takes bearer tokens does conflict with this one: a
    /// request with both is refused.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::HeaderName;
    /// use tollgate::{ApiKeyLayer, keyring::KeyResolver, store::StaticKeys};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let keys = StaticKeys::new().add_key("app", "3f6e1c0a9b7d4e52-of-32-or-more", ["app"])?;
    /// let layer = ApiKeyLayer::new(KeyResolver::builder(keys).build());
    /// let hello = service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned())));
    /// let service = layer.only_in_header(HeaderName::from_static("x-gateway-key")).layer(hello);
    /// let request = || http::Request::builder().header("authorization", "Bearer sk-of-the-provider");
    /// let known = request().header("x-gateway-key", "3f6e1c0a9b7d4e52-of-32-or-more").body(())?;
    /// assert_eq!(service.clone().oneshot(known).await?.status(), 200);
    /// assert_eq!(service.oneshot(request().body(())?).await?.status(), 401);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn only_in_header(self, name: HeaderName) -> Self {
        self.read_from(Location::Headers(KeyHeaders::only(name)))
    }

    /// Removes the header fields in which a key is looked for from requests that pass, so that a
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

    /// Accepts the key that `read` returns, and none from a header: for example from the
    /// subprotocol of a WebSocket, for which a page can set no header. The key is judged as
    /// returned. To accept both, combine two layers with [`or`](Self::or).
    ///
    /// Paths and queries end up in logs, histories and `Referer`: put no key there if there is
    /// another place.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::{ApiKeyLayer, keyring::KeyResolver, store::StaticKeys};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let keys = StaticKeys::new().add_key("app", "3f6e1c0a9b7d4e52-of-32-or-more", ["app"])?;
    /// let keys = KeyResolver::builder(keys).build();
    /// let offered = ApiKeyLayer::new(keys.clone()).read_by(|head| {
    ///     let offered = head.headers.get("sec-websocket-protocol")?.to_str().ok()?;
    ///     offered.split(", ").find_map(|name| name.strip_prefix("key.")).map(str::to_owned)
    /// });
    /// let hello = service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned())));
    /// let service = ApiKeyLayer::new(keys).or(offered).layer(hello);
    /// for (key, status) in [("3f6e1c0a9b7d4e52-of-32-or-more", 200), ("a-guess", 401)] {
    ///     let request = http::Request::builder().header("sec-websocket-protocol", format!("chat, key.{key}"));
    ///     assert_eq!(service.clone().oneshot(request.body(())?).await?.status(), status);
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn read_by(
        self,
        read: impl Fn(&RequestHead<'_>) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.read_from(Location::Custom(Arc::new(read)))
    }

    fn read_from(self, location: Location) -> Self {
        Self {
            gate: self.gate.map_policy(|policy| {
                policy.sought = location.sought().map(Arc::new);
                policy.location = location;
            }),
        }
    }

    /// How the client's address is found, which a key's networks are compared with; the peer's
    /// unless set.
    #[must_use]
    pub fn client_address(self, address: ClientAddress) -> Self {
        Self {
            gate: self.gate.map_policy(|policy| policy.address = address),
        }
    }

    /// The networks that any key may be used from; anywhere unless set. The address is checked
    /// before the key, so that a client elsewhere doesn't learn whether a key is good. An empty
    /// list admits nobody.
    #[must_use]
    pub fn networks(self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        let networks = networks.into_iter().map(network::canonical).collect();
        Self {
            gate: self
                .gate
                .map_policy(|policy| policy.networks = Some(networks)),
        }
    }

    /// Whether the request carries one of `keys`, where this layer expects keys. Use it to exempt
    /// callers from an outer layer ([`skip`](crate::RateLimitLayer::skip)); this layer still
    /// decides who they are and what they may do.
    ///
    /// ```
    /// use tollgate::{
    ///     ApiKeyLayer, RequestHead, keyring::KeyResolver, store::StaticKeys,
    /// };
    ///
    /// let admin = StaticKeys::new().add_key("admin", "3f6e1c0a9b7d4e52-of-32-or-more", ["admin"])?;
    /// let layer = ApiKeyLayer::new(KeyResolver::builder(admin.clone()).build());
    /// let bearer = |key: &str| http::Request::builder().header("authorization", format!("Bearer {key}")).body(());
    /// let (good, bad) = (bearer("3f6e1c0a9b7d4e52-of-32-or-more")?, bearer("3f6e1c0a9b7d4e52")?);
    /// assert!(layer.brings_one_of(&admin, &RequestHead::of(&good)));
    /// assert!(!layer.brings_one_of(&admin, &RequestHead::of(&bad)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn brings_one_of(&self, keys: &StaticKeys, head: &RequestHead<'_>) -> bool {
        match self.gate.policy().location.read(head) {
            Found::Key(key) => keys.holds(&key),
            Found::Bearer(key) => keys.holds(key),
            Found::Nothing | Found::Unreadable | Found::Ambiguous => false,
        }
    }

    /// Falls back to `other` for requests without a key of this layer's. A bad key is refused, not
    /// passed on. Beside sessions the first layer decides which counts if both are good: with
    /// `keys.or(sessions)` a page that is signed in can act by a key, and with
    /// [`sessions.or(keys)`](crate::SessionCookieLayer::or) it remains the user.
    #[must_use]
    pub fn or<A: Authenticator>(self, other: A) -> OrLayer<ApiKeyPolicy, A::Policy> {
        OrLayer::new(self.gate, other)
    }
}

impl Authenticator for ApiKeyLayer {
    type Policy = ApiKeyPolicy;

    fn into_gate(self) -> Gate<ApiKeyPolicy> {
        self.gate
    }
}

/// The decision of an [`ApiKeyLayer`].
#[derive(Clone, Debug)]
pub struct ApiKeyPolicy {
    keys: KeyResolver,
    location: Location,
    /// `None`: in the usual places.
    sought: Option<Arc<Sought>>,
    address: ClientAddress,
    /// `None`: from anywhere.
    networks: Option<Arc<[IpNet]>>,
}

impl Policy for ApiKeyPolicy {
    type Permit = Identified;

    fn name(&self) -> &'static str {
        "api_key"
    }

    fn inherit_address(&mut self, address: &ClientAddress) {
        self.address.inherit(address);
    }

    fn places(&self) -> CredentialPlaces {
        self.location.places()
    }

    fn stand_beside(&mut self, others: &CredentialPlaces) {
        self.location.stand_beside(others);
    }

    fn decide(&self, head: &RequestHead<'_>) -> Decision<Identified> {
        let key = match self.key(head) {
            Ok(key) => key,
            Err(verdict) => return Decision::Ready(verdict),
        };
        match self.keys.resolve(&key) {
            Resolution::Ready(found) => Decision::Ready(self.judge(found, head)),
            Resolution::Pending(found) => {
                // Resolved now, in case the key is bound to an address: the head is gone later.
                let address = self.address.resolve(head);
                Decision::pending(async move { judge(found.await, || address) })
            }
        }
    }
}

impl ApiKeyPolicy {
    /// The key that the request carries, if it comes from an allowed address.
    fn key<'a>(&self, head: &RequestHead<'a>) -> Result<Cow<'a, str>, Verdict<Identified>> {
        let found = match self.location.read(head) {
            Found::Nothing => {
                let missing = denial(DenialKind::CredentialMissing);
                return Err(Verdict::Abstain(match &self.sought {
                    Some(sought) => missing.seeking(Arc::clone(sought)),
                    None => missing,
                }));
            }
            // A bearer token that doesn't look like a key may belong to the other layer that takes
            // them.
            Found::Bearer(key) if !self.keys.claims(key) => {
                let foreign = denial(DenialKind::CredentialInvalid);
                return Err(Verdict::Abstain(foreign.because("not a key by its look")));
            }
            found => found,
        };
        self.check_address(head)?;
        match found {
            Found::Key(key) => Ok(key),
            Found::Bearer(key) => Ok(Cow::Borrowed(key)),
            Found::Nothing | Found::Unreadable => {
                Err(Verdict::Refuse(denial(DenialKind::CredentialInvalid)))
            }
            Found::Ambiguous => Err(Verdict::Refuse(denial(DenialKind::CredentialAmbiguous))),
        }
    }

    fn check_address(&self, head: &RequestHead<'_>) -> Result<(), Verdict<Identified>> {
        let Some(networks) = &self.networks else {
            return Ok(());
        };
        let address = match self.address.resolve(head) {
            Ok(address) => address,
            Err(error) => return Err(Verdict::Refuse(error.into())),
        };
        if networks.iter().any(|network| network.contains(&address)) {
            return Ok(());
        }
        let reason = format!("{address} is in none of the networks of keys");
        let denial = denial(DenialKind::AddressRefused).because(reason);
        Err(Verdict::Refuse(denial))
    }

    fn judge(
        &self,
        found: Result<Arc<ResolvedKey>, KeyRefusal>,
        head: &RequestHead<'_>,
    ) -> Verdict<Identified> {
        judge(found, || self.address.resolve(head))
    }
}

fn judge(
    found: Result<Arc<ResolvedKey>, KeyRefusal>,
    address: impl FnOnce() -> Result<IpAddr, AddressError>,
) -> Verdict<Identified> {
    let key = match found {
        Ok(key) => key,
        Err(refusal) => return Verdict::Refuse(refusal.into()),
    };
    if !key.networks().is_empty() {
        let refusal = match address() {
            Ok(address) => key.check_address(address).map_err(Denial::from),
            Err(error) => Err(unknown_address(Arc::clone(&key), &error)),
        };
        if let Err(denial) = refusal {
            return Verdict::Refuse(denial);
        }
    }
    Verdict::Admit(Identified::new(key.into_principal()))
}

/// The refusal of a key that is bound to networks, if the client's address is unknown.
fn unknown_address(key: Arc<ResolvedKey>, error: &AddressError) -> Denial {
    let principal = key.principal();
    let id = principal.key().map_or("a key", KeyId::as_str);
    let reason = format!("{id} is bound to networks, and {}", error.said());
    Denial::from(KeyRefusal::Elsewhere { key }).because(reason)
}

fn denial(kind: DenialKind) -> Denial {
    Denial::new(kind).of_credential(CredentialKind::ApiKey)
}
