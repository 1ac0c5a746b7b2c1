//! A gate that reads some bodies before they are paid for.

use std::{mem, sync::Arc};

use tower_layer::Layer;

use super::{
    Common, PRINCIPAL_LIMIT, Settings, TollgateBuilder, TollgateError, TollgateLayer,
    layer::WholeCourse,
    settings::{PrincipalLimit, Setting},
};
use crate::{
    audit::Audited,
    guard::{
        Gate, Guard, Identified, Policy,
        course::{Several, Then, Unless},
    },
    rate_limit::{RateLimitLayer, RateLimitPolicy},
    spending_limit::{BodyDigestLayer, BodyDigestService, SpendingLimitLayer, SpendingLimitPolicy},
};

/// The innermost gates, for requests that are neither skipped nor open to strangers.
type Spending = Unless<Unless<Paying>>;
type Paying = Then<Several<RateLimitPolicy>, Option<Gate<SpendingLimitPolicy>>>;

/// The whole gate, with a [`BodyDigestLayer`] between permission and what depends on the body,
/// limits of tokens and spending: [`TollgateBuilder::build_reading_bodies`]. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct ReadingTollgateLayer<A: Policy> {
    outer: TollgateLayer<A>,
    bodies: BodyDigestLayer,
    spending: Arc<Spending>,
}

impl<S, A: Policy<Permit = Identified>> Layer<S> for ReadingTollgateLayer<A> {
    type Service = Audited<Guard<BodyDigestService<Guard<S, Arc<Spending>>>, Arc<WholeCourse<A>>>>;

    fn layer(&self, inner: S) -> Self::Service {
        let spending = Guard::new(inner, Arc::clone(&self.spending));
        self.outer.layer(self.bodies.layer(spending))
    }
}

impl<A: Policy<Permit = Identified> + Clone> TollgateBuilder<A> {
    /// Builds the gate with `bodies` where it belongs: inside of permission, so that nobody's body
    /// is read who is refused for another reason, and outside of spending, which has to know it. It
    /// reads no bodies of requests that are [skipped](Self::skip) or [open to
    /// strangers](Self::open_to_strangers). The service inside gets the requests with a
    /// [`DigestedBody`](crate::spending_limit::DigestedBody).
    ///
    /// Limits of [tokens](RateLimitLayer::tokens) on authenticated callers
    /// ([`with_rate_limit`](Self::with_rate_limit), [`add_rate_limit`](Self::add_rate_limit)) then
    /// stand inside of the reading too, before spending: their closures find the
    /// [`RequestedUse`](crate::RequestedUse) that the layer [reads](BodyDigestLayer::read_use), and
    /// requests that aren't permitted take no tokens. All other limits stay where they are. An
    /// [outer](Self::add_outer_rate_limit) limit of tokens knows only the head.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::convert::Infallible;
    /// use tollgate::store::{AccountId, Ledger, MemoryStore};
    /// use tollgate::{AuthenticateLayer, BodyDigestLayer, CredentialKind, IdempotencyKeys, Price, PriceTable, Principal, SpendingLimitLayer, Tollgate, usage::Credit};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let ledger = MemoryStore::new();
    /// let (account, amount) = (AccountId::new("ann")?, "1".parse()?);
    /// ledger.credit(Credit { account, amount, reference: "first".into() }).await?;
    /// let prices = PriceTable::new().route("POST", "/chat", Price::flat("0.0020".parse()?))?;
    /// let spending = SpendingLimitLayer::new(ledger, prices).idempotency_keys(IdempotencyKeys::new());
    ///
    /// let ann = || Principal::builder("ann", CredentialKind::Token).build();
    /// let gate = Tollgate::builder()
    ///     .authenticate(AuthenticateLayer::by_head(move |_| Ok(Some(ann()))))
    ///     .with_spending(spending)
    ///     .build_reading_bodies(BodyDigestLayer::new())?;
    /// let chat = service_fn(async |_| Ok::<_, Infallible>(http::Response::new("hello".to_owned())));
    /// let service = gate.layer(chat);
    /// let call = |body: &str| {
    ///     let request = http::Request::post("/chat").header("idempotency-key", "a");
    ///     service.clone().oneshot(request.body(body.to_owned()).unwrap())
    /// };
    /// let answer = call("one").await?;
    /// assert_eq!(answer.status(), 200);
    /// http_body_util::BodyExt::collect(answer.into_body()).await?;
    /// assert_eq!(call("one").await?.headers()["idempotency-replayed"], "true");
    /// assert_eq!(call("two").await?.status(), 422);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`TollgateError`] names the invalid setting, or says that [`spending`](Self::spending) is
    /// missing, for which bodies would be read.
    pub fn build_reading_bodies(
        mut self,
        bodies: BodyDigestLayer,
    ) -> Result<ReadingTollgateLayer<A>, TollgateError> {
        let (skips, open) = (self.settings.skips.clone(), self.settings.open.clone());
        let common = Common {
            address: self.settings.address.clone(),
            shadow: self.settings.shadow,
            rate_store: self.settings.rate_store.clone(),
            rate_scope: self.settings.rate_scope.clone(),
        };
        self.settings
            .check(&self.given, self.authentication.as_ref())?;
        let Some(spending) = self.settings.take_spending() else {
            return Err(TollgateError::Needs {
                setting: "build_reading_bodies",
                other: Setting::Spending.name(),
            });
        };
        let paying = Then {
            outer: common.limits(self.settings.take_token_limits()),
            inner: common.gate(Some(spending.into_gate())),
        };
        let outer = self.build()?;
        Ok(ReadingTollgateLayer {
            outer,
            bodies: bodies.of_known_callers(),
            spending: Arc::new(Unless::new(skips, Unless::new(open, paying))),
        })
    }
}

impl Settings {
    /// How is charged, by the gate's clock if it has one.
    pub(super) fn take_spending(&mut self) -> Option<SpendingLimitLayer> {
        let layer = self.spending.take()?;
        Some(match &self.clock {
            Some(clock) => layer.with_clock(Arc::clone(clock)),
            None => layer,
        })
    }

    /// The limits of tokens on authenticated callers, by name and in their order. They report to
    /// the client as they would among the others.
    fn take_token_limits(&mut self) -> Vec<(Box<str>, RateLimitLayer)> {
        let of_caller = self.per_principal.take();
        let (own, of_caller) = match of_caller {
            Some(PrincipalLimit::Layer(layer)) if layer.counts_tokens() => {
                (Some((PRINCIPAL_LIMIT.into(), layer)), None)
            }
            other => (None, other),
        };
        self.per_principal = of_caller;
        let further = mem::take(&mut self.further_limits).into_iter();
        let (tokens, rest) = further.partition(|(_, layer)| layer.counts_tokens());
        self.further_limits = rest;
        let are_beside = own.is_some() || self.limits_requests();
        let tokens: Vec<_> = tokens;
        let further = tokens.into_iter().map(|(name, layer)| match are_beside {
            true => (name, layer.beside_requests()),
            false => (name, layer),
        });
        own.into_iter().chain(further).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Mutex};

    use http::{Request, Response};
    use http_body_util::{BodyExt, Full};
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        authenticate::AuthenticateLayer,
        builder::Tollgate,
        domain::{
            AccountId,
            credential::CredentialKind,
            denial::{Denial, DenialKind},
            principal::Principal,
            quota::Quota,
            role::RoleSet,
            usage::Credit,
        },
        spending_limit::{
            DigestedBody, IdempotencyKeys, Price, PriceTable, RequestShape, RequestedUse,
        },
        store::{Ledger, MemoryStore},
        wire::DenialFormat,
    };

    type Body = DigestedBody<Full<bytes::Bytes>>;

    async fn funded() -> MemoryStore {
        let store = MemoryStore::new();
        let credit = Credit {
            account: AccountId::new("ann").unwrap(),
            amount: "1".parse().unwrap(),
            reference: "first".to_owned(),
        };
        store.credit(credit).await.unwrap();
        store
    }

    fn spending(store: &MemoryStore) -> SpendingLimitLayer {
        let prices = PriceTable::new()
            .route("POST", "/chat", Price::flat("0.10".parse().unwrap()))
            .unwrap();
        SpendingLimitLayer::new(store.clone(), prices).idempotency_keys(IdempotencyKeys::new())
    }

    #[test]
    fn what_is_missing_or_contradicts_is_refused() {
        let known = || Tollgate::builder().authenticate(AuthenticateLayer::by_head(|_| Ok(None)));
        let error = known().build_reading_bodies(BodyDigestLayer::new());
        assert_eq!(
            error.unwrap_err().to_string(),
            "build_reading_bodies: needs `spending`"
        );
        let store = MemoryStore::new();
        let nobody = Tollgate::builder().with_spending(spending(&store));
        let error = nobody.build_reading_bodies(BodyDigestLayer::new());
        assert_eq!(
            error.unwrap_err().to_string(),
            "with_spending: needs `authenticate`"
        );
        let twice = known()
            .with_spending(spending(&store))
            .with_spending(spending(&store));
        let error = twice.build_reading_bodies(BodyDigestLayer::new());
        assert_eq!(
            error.unwrap_err().to_string(),
            "with_spending: is set twice"
        );
    }

    /// Only bodies that are going to be paid for are read; and refusals are in the gate's own
    /// format, further in too.
    #[tokio::test]
    async fn bodies_of_those_who_are_refused_or_let_through_are_left_alone() {
        let store = funded().await;
        let gate = Tollgate::builder()
            .denials(DenialFormat::Detail)
            .authenticate(AuthenticateLayer::by_head(|head| {
                let name = head
                    .headers
                    .get("x-name")
                    .and_then(|name| name.to_str().ok());
                let name = name.ok_or_else(|| Denial::new(DenialKind::CredentialMissing))?;
                let caller = Principal::builder(name, CredentialKind::Token);
                Ok(Some(caller.role("viewer").build()))
            }))
            .require(&RoleSet::viewer_operator_admin(), "read")
            .with_spending(spending(&store))
            .skip_paths(["/skipped"])
            .open_to_strangers(|head| head.path() == "/open")
            .build_reading_bodies(BodyDigestLayer::new().bytes_max(5))
            .unwrap();
        let read = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&read);
        let service = gate.layer(service_fn(move |request: Request<Body>| {
            let debug = format!("{:?}", request.body());
            seen.lock().unwrap().push(debug);
            async { Ok::<_, Infallible>(Response::new("hello".to_owned())) }
        }));
        let call = async |path: &str, name: Option<&str>, body: &'static str| {
            let mut request = Request::post(path).header("idempotency-key", "a");
            if let Some(name) = name {
                request = request.header("x-name", name);
            }
            let request = request.body(Full::from(body)).unwrap();
            let answer = service.clone().oneshot(request).await.unwrap();
            let (head, body) = answer.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            (
                head.status.as_u16(),
                String::from_utf8(body.to_vec()).unwrap(),
            )
        };
        assert_eq!(call("/chat", Some("ann"), "one").await.0, 200);
        assert_eq!(call("/chat", Some("ann"), "one").await.0, 200);
        assert_eq!(*read.lock().unwrap(), ["DigestedBody(read)"], "once");
        let other = call("/chat", Some("ann"), "two").await;
        assert_eq!(other.0, 422);
        assert!(other.1.starts_with(r#"{"detail":"#), "{}", other.1);
        assert_eq!(call("/chat", Some("ann"), "longer").await.0, 413);
        assert_eq!(call("/chat", None, "longer").await.0, 401);
        assert_eq!(call("/nowhere", Some("ann"), "one").await.0, 404);
        for path in ["/skipped", "/open"] {
            assert_eq!(call(path, None, "longer").await.0, 200, "{path}");
        }
        let left_alone = "DigestedBody(unread)";
        let seen = ["DigestedBody(read)", left_alone, left_alone];
        assert_eq!(*read.lock().unwrap(), seen);
        let account = AccountId::new("ann").unwrap();
        let balance = store.balance(&account).await.unwrap();
        assert_eq!(balance.settled, "0.10".parse().unwrap());
    }

    /// A limit of tokens takes what the body asks for, wherever it is configured, and after the
    /// permission is known; a limit of requests counts whoever is refused for lack of one.
    #[tokio::test]
    async fn limits_of_tokens_see_what_the_request_asks_for() {
        let tokens = || {
            RateLimitLayer::per_principal(Quota::per_hour(1_000)).tokens(|head| {
                let asked = head.extensions.get::<RequestedUse>();
                let most = asked.and_then(|asked| asked.output_max).unwrap_or(1);
                u32::try_from(most).unwrap_or(u32::MAX)
            })
        };
        let requests = Quota::per_hour(10);
        for is_added in [true, false] {
            let store = funded().await;
            let gate = Tollgate::builder()
                .authenticate(AuthenticateLayer::by_head(|head| {
                    let role = head
                        .headers
                        .get("x-role")
                        .and_then(|role| role.to_str().ok());
                    let caller = Principal::builder("ann", CredentialKind::Token);
                    Ok(Some(caller.role(role.unwrap_or("viewer")).build()))
                }))
                .require(&RoleSet::viewer_operator_admin(), "read")
                .with_spending(spending(&store));
            let gate = match is_added {
                true => gate
                    .per_principal(requests.clone())
                    .add_rate_limit("tokens", tokens()),
                false => gate
                    .with_rate_limit(tokens())
                    .add_rate_limit("requests", RateLimitLayer::per_principal(requests.clone())),
            };
            let bodies = BodyDigestLayer::new()
                .read_use("POST", "/chat", RequestShape::OpenAiChat)
                .unwrap();
            let gate = gate.build_reading_bodies(bodies).unwrap();
            let service = gate.layer(service_fn(async |_: Request<Body>| {
                Ok::<_, Infallible>(Response::new("hello".to_owned()))
            }));
            for (role, asked, status, tokens, requests) in [
                ("nobody", 600, 403, None, "9"),
                ("viewer", 600, 200, Some("400"), "8"),
                ("viewer", 600, 429, Some("400"), "7"),
                ("viewer", 300, 200, Some("100"), "6"),
                // What can't be read takes what the closure makes of nothing, and gets it back.
                ("viewer", -1, 400, Some("99"), "5"),
                ("viewer", 100, 200, Some("0"), "4"),
            ] {
                let request = Request::post("/chat").header("x-role", role);
                let body = format!(r#"{{"model":"m","max_tokens":{asked}}}"#);
                let request = request.body(Full::from(body)).unwrap();
                let answer = service.clone().oneshot(request).await.unwrap();
                let name = format!("{is_added}, {role} asking for {asked}");
                assert_eq!(answer.status(), status, "{name}");
                let told = |field: &str| {
                    let value = answer.headers().get(field)?;
                    Some(value.to_str().unwrap().to_owned())
                };
                let left = told("x-ratelimit-remaining-tokens");
                assert_eq!(left.as_deref(), tokens, "{name}");
                let left = told("ratelimit").unwrap();
                assert!(left.contains(&format!("r={requests};")), "{name}: {left}");
                answer.into_body().collect().await.unwrap();
            }
        }
    }

    #[test]
    fn limits_of_tokens_are_checked_as_the_others_are() {
        let tokens = || RateLimitLayer::per_principal(Quota::per_hour(1)).tokens(|_| 1);
        let gate = Tollgate::builder()
            .authenticate(AuthenticateLayer::by_head(|_| Ok(None)))
            .with_spending(spending(&MemoryStore::new()))
            .add_rate_limit("tokens", tokens())
            .add_rate_limit("tokens", tokens());
        let error = gate.build_reading_bodies(BodyDigestLayer::new());
        assert_eq!(error.unwrap_err(), TollgateError::LimitNamedTwice);
    }
}
