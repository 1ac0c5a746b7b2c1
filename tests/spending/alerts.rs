//! What the operator of a gate is told of its callers' spending.

use std::sync::Mutex;

use tollgate::budget::{BudgetWindow, SoftLimits, SpendingAlert, Thresholds};

use super::*;

fn all_calls() -> BudgetId {
    BudgetId::new("account").unwrap()
}

/// Prepaid: each call costs a dollar, and the operator wants to hear of 5 and of 1 that are left.
struct Prepaid {
    ledger: MemoryStore,
    layer: SpendingLimitLayer,
    told: Arc<Mutex<Vec<SpendingAlert>>>,
    paid: i64,
}

impl Prepaid {
    fn new() -> Self {
        let told = Arc::<Mutex<Vec<SpendingAlert>>>::default();
        let heard = Arc::clone(&told);
        let ledger = MemoryStore::builder()
            .on_alert(move |alert| heard.lock().unwrap().push(alert.clone()))
            .build();
        let price = Price::flat(dollars("1"));
        let prices = PriceTable::new().route("POST", "/chat", price).unwrap();
        let layer = SpendingLimitLayer::new(ledger.clone(), prices)
            .add_budget(|_| Ok(Some(all_calls())))
            .idempotency_keys(IdempotencyKeys::new());
        Self {
            ledger,
            layer,
            told,
            paid: 0,
        }
    }

    async fn pay_in(&mut self, amount: i64) {
        self.paid += amount;
        let left = ["5", "1"].map(dollars);
        let limits = SpendingLimits {
            soft: SoftLimits {
                total: Thresholds::with_left(dollars(&self.paid.to_string()), left).unwrap(),
                ..SoftLimits::default()
            },
            ..SpendingLimits::default()
        };
        let set = self.ledger.set_limits(&account(), &all_calls(), limits);
        set.await.unwrap();
        let credit = Credit {
            account: account(),
            amount: dollars(&amount.to_string()),
            reference: format!("payment {}", self.paid),
        };
        self.ledger.credit(credit).await.unwrap();
    }

    /// The status of a call of that key, and at which amounts that are left this was told.
    async fn call(&self, key: &str, headers: &[(&'static str, &'static str)]) -> (u16, Vec<Money>) {
        let service = self
            .layer
            .clone()
            .layer(service_fn(async |request: Request<()>| {
                let mut answer = answer("text/plain", &["hello"]);
                if request.headers().contains_key("x-fail") {
                    *answer.status_mut() = StatusCode::BAD_GATEWAY;
                }
                Ok::<_, Infallible>(answer)
            }));
        let called = service.oneshot(request_with(key, headers)).await;
        let (status, ..) = said(called.unwrap()).await;
        let left = self.ledger.balance(&account()).await.unwrap().available();
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        for alert in &told {
            let (account, budget) = (&alert.account, &alert.budget);
            assert_eq!((account, budget), (&self::account(), &all_calls()));
            assert_eq!(alert.window, BudgetWindow::Total);
            let spent = dollars(&self.paid.to_string()).checked_sub(left).unwrap();
            assert_eq!(alert.spent, spent);
        }
        let paid = dollars(&self.paid.to_string());
        let told = told.into_iter();
        let told = told.map(|alert| paid.checked_sub(alert.limit).unwrap());
        (status, told.collect())
    }
}

#[tokio::test]
async fn the_seller_of_credits_hears_once_that_an_account_is_down_to_five_and_to_one() {
    let mut it = Prepaid::new();
    it.pay_in(7).await;
    let (five, one) = (vec![dollars("5")], vec![dollars("1")]);
    let nothing = Vec::new();
    assert_eq!(it.call("key-1", &[]).await, (200, nothing.clone()));
    let failed = it.call("key-1", &[("x-fail", "1")]).await;
    assert_eq!(failed, (502, nothing.clone()));
    // All keys of an account spend its balance, and a retry spends nothing.
    let named = &[("idempotency-key", "a")];
    assert_eq!(it.call("key-2", named).await, (200, five.clone()));
    assert_eq!(it.call("key-2", named).await, (200, nothing.clone()));
    for told in [&nothing, &nothing, &nothing, &one] {
        assert_eq!(it.call("key-1", &[]).await, (200, told.clone()));
    }
    assert_eq!(it.call("key-1", &[]).await, (200, nothing.clone()));
    assert_eq!(it.call("key-1", &[]).await, (402, nothing.clone()));
    // Three dollars are more than one, and less than five.
    it.pay_in(3).await;
    assert_eq!(it.call("key-2", &[]).await, (200, nothing.clone()));
    assert_eq!(it.call("key-2", &[]).await, (200, one));
    it.pay_in(5).await;
    assert_eq!(it.call("key-2", &[]).await, (200, five));
}
