//! Prices that change while the server runs.

use super::*;
use tollgate::LivePrice;

#[tokio::test]
async fn a_call_costs_what_it_cost_when_it_began() {
    let gate = Gate::new().await;
    let cheap = by_token().cost_from(CostSource::Body);
    let dear = Price::per_million_tokens(dollars("5"), dollars("50")).cost_from(CostSource::Body);
    let price = LivePrice::new(cheap).unwrap();
    let prices = PriceTable::new().route_live("POST", "/chat", &price);
    let layer = SpendingLimitLayer::new(gate.ledger.clone(), prices.unwrap());
    // It changes while the handler works.
    let handler = |_| {
        price.set(dear.clone()).unwrap();
        async { answer("application/json", &[USAGE]) }
    };
    let (_, row) = gate.call(layer.clone(), handler).await;
    assert_eq!(
        (nanos(&row), row.held.nanos()),
        (7 * 1_000 + 5 * 10_000, HELD)
    );
    let (_, row) = gate.call(layer, handler).await;
    assert_eq!(nanos(&row), 7 * 5_000 + 5 * 50_000);
}
