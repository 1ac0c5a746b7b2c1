//! Prices that change while a tonic server runs.

use tokio::net::TcpListener;
use tollgate::{
    ApiKeyLayer, Charge, IdempotencyKeys, LivePrice, Price, PriceTable, SpendingLimitLayer,
    TokenBound,
    key::KeyFormat,
    keyring::{KeyResolver, Keyring, NewKey},
    money::Money,
    store::{AccountId, Ledger, MemoryStore, Page},
    usage::{Credit, UsageEntry},
};
use tonic::transport::{Server, server::TcpIncoming};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::util::MapRequestLayer;

use super::{Channel, Code, Endpoint, MetadataValue, reason, with_key};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// Ten times as many nano-dollars for a token of output as for one of input.
fn by_token(nanos: i64) -> Price {
    let million = |nanos: i64| Money::from_nanos(nanos * 1_000_000);
    let price = Price::per_million_tokens(million(nanos), million(10 * nanos));
    let price = price.input_bound(TokenBound::Fixed(100));
    price.output_bound(TokenBound::Fixed(100)).into()
}

fn flat(nanos: i64) -> Price {
    Price::flat(Money::from_nanos(nanos))
}

struct Shop {
    store: MemoryStore,
    account: AccountId,
    key: String,
    health: HealthClient<Channel>,
}

impl Shop {
    /// A server whose calls set `price` to `then` while they run, and use 3 tokens and write 2.
    async fn open(price: &LivePrice, then: Price) -> Self {
        let (store, account) = (MemoryStore::new(), AccountId::new("ann").unwrap());
        let format = KeyFormat::builder("acme").build().unwrap();
        let keys = KeyResolver::builder(store.clone()).add_format(format.clone());
        let keys = keys.build();
        let ring = Keyring::new(store.clone(), format, keys.clone());
        let (key, _) = ring.create("ann", NewKey::default()).await.unwrap();
        let credit = Credit {
            account: account.clone(),
            amount: Money::from_nanos(100_000),
            reference: "first".into(),
        };
        store.credit(credit).await.unwrap();
        let prices = PriceTable::new()
            .route_live("POST", CHECK, price)
            .and_then(|prices| prices.route_live("POST", WATCH, price));
        let spending = SpendingLimitLayer::new(store.clone(), prices.unwrap())
            .idempotency_keys(IdempotencyKeys::new())
            .cost_headers();
        let price = price.clone();
        let at_work = MapRequestLayer::new(move |request: http::Request<tonic::body::Body>| {
            price.set(then.clone()).unwrap();
            let charge: &Charge = request.extensions().get().unwrap();
            charge.add_input_tokens(3);
            charge.add_output_tokens(2);
            request
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_reporter, health) = tonic_health::server::health_reporter();
        let server = Server::builder()
            .layer(ApiKeyLayer::new(keys))
            .layer(spending)
            .layer(at_work)
            .add_service(health);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self {
            store,
            account,
            key: key.expose().into(),
            health: HealthClient::new(endpoint.connect().await.unwrap()),
        }
    }

    fn request(&self, name: Option<&'static str>) -> tonic::Request<HealthCheckRequest> {
        let mut request = with_key(HealthCheckRequest::default(), &self.key);
        if let Some(name) = name {
            let name = MetadataValue::from_static(name);
            request.metadata_mut().insert("idempotency-key", name);
        }
        request
    }

    async fn rows(&self) -> Vec<UsageEntry> {
        let rows = self.store.usage(&self.account, Page::first(10)).await;
        rows.unwrap().items
    }

    /// What the call before was charged, and what was held for it.
    async fn last(&self) -> (i64, i64) {
        let rows = self.rows().await;
        let row = rows.first().unwrap();
        (row.settlement.charged.nanos(), row.held.nanos())
    }
}

#[tokio::test]
async fn a_call_costs_what_it_cost_when_it_began() {
    let price = LivePrice::new(by_token(1)).unwrap();
    let mut shop = Shop::open(&price, by_token(5)).await;
    for nanos in [1, 5] {
        let request = shop.request(None);
        shop.health.check(request).await.unwrap();
        assert_eq!(shop.last().await, (23 * nanos, 1_100 * nanos));
    }
}

/// The price changes when the first message is there, long before the end.
#[tokio::test]
async fn so_does_a_stream() {
    let price = LivePrice::new(flat(7)).unwrap();
    let mut shop = Shop::open(&price, flat(7)).await;
    let request = shop.request(None);
    let mut stream = shop.health.watch(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    price.set(flat(9_000)).unwrap();
    let balance = shop.store.balance(&shop.account).await.unwrap();
    assert_eq!(balance.held.nanos(), 7);
    // It would go on for ever: a client that leaves ends it.
    drop(stream);
    let is_settled = async || {
        while shop.rows().await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let settled = tokio::time::timeout(std::time::Duration::from_secs(20), is_settled());
    settled.await.unwrap();
    assert_eq!(shop.last().await, (7, 7));
}

#[tokio::test]
async fn a_retry_shows_the_price_of_the_call_that_was_paid_for() {
    let price = LivePrice::new(flat(100)).unwrap();
    let mut shop = Shop::open(&price, flat(300)).await;
    for now in [100, 300, 1_000_000] {
        price.set(flat(now)).unwrap();
        let request = shop.request(Some("a"));
        let answer = shop.health.check(request).await.unwrap();
        let told = |name: &str| {
            let value = answer.metadata().get(name);
            value.map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(told("x-cost").unwrap(), "0.0000001");
        assert_eq!(told("x-cost-held").unwrap(), "0.0000001");
        let is_first = now == 100;
        assert_eq!(told("idempotency-replayed").is_none(), is_first);
        assert_eq!(told("x-balance-remaining").is_some(), is_first);
    }
    assert_eq!(
        (shop.rows().await.len(), shop.last().await),
        (1, (100, 100))
    );
    // Another call is one at the price of now.
    let request = shop.request(Some("b"));
    let refused = shop.health.check(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(reason(&refused), "INSUFFICIENT_CREDITS");
}
