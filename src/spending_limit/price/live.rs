//! A price that changes while the server runs.

use std::sync::{Arc, RwLock};

use super::Price;
use crate::sync::{read, write};

/// Why a price can't be set: it is negative, a price by model that lists no models or is nested, or
/// one by tokens of which a [tier](crate::TokenPrice::tier) or a [range of
/// lengths](crate::TokenPrice::above_input) has what only the whole can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("negative price, no models, a `*` within a model's name, or a bound within a tier")]
pub struct InvalidPrice;

/// A price that is changed while the server runs, as when a provider changes its own: for
/// [`PriceTable::route_live`](crate::PriceTable::route_live). Clones share it.
///
/// A call is charged by the price that its money was held for, however long it takes: a change
/// applies to calls that begin after it. The price is read once, when the request reaches the
/// layer, and all of it counts for the call: the prices of all models, the bounds, and where the
/// cost comes from. What a handler ([`HeldUse`](crate::HeldUse)) and a client (`x-cost`) are told
/// is of that price too. With [`route_by`](crate::PriceTable::route_by), that is the moment when
/// the closure [gets](Self::get) it.
///
/// A retry under an `Idempotency-Key` costs nothing. It gets the answer of the call that was paid
/// for, with that call's cost, even if nobody could pay the price of now. But the price of now says
/// whether the request is sold at all: what it doesn't admit (a model that is listed no more) is
/// refused, and where it is free, the key isn't looked at, and the handler runs again. What was
/// free, or failed, is no paid call: a retry of it is charged by the price of now.
///
/// It changes in this process only: each process of a server has to be told.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tollgate::{CredentialKind, LivePrice, Price, PriceTable, Principal, SpendingLimitLayer};
/// use tollgate::store::{AccountId, Ledger, MemoryStore};
/// use tollgate::usage::Credit;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// let price = LivePrice::new(Price::flat("0.02".parse()?))?;
/// let prices = PriceTable::new().route_live("POST", "/chat", &price)?;
///
/// let ledger = MemoryStore::new();
/// let (account, reference) = (AccountId::new("user-1")?, "invoice 7".to_owned());
/// ledger.credit(Credit { account, amount: "0.05".parse()?, reference }).await?;
/// let hello = service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned())));
/// let service = SpendingLimitLayer::new(ledger, prices).layer(hello);
/// let request = || {
///     let caller = Principal::builder("user-1", CredentialKind::ApiKey).build();
///     http::Request::post("/chat").extension(caller).body(()).unwrap()
/// };
/// assert_eq!(service.clone().oneshot(request()).await?.status(), 200);
/// price.set(Price::flat("0.04".parse()?))?;
/// assert_eq!(service.clone().oneshot(request()).await?.status(), 402);
/// price.set(Price::flat("0.03".parse()?))?;
/// assert_eq!(service.oneshot(request()).await?.status(), 200);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct LivePrice(Arc<RwLock<Price>>);

impl LivePrice {
    /// Begins with this price.
    ///
    /// # Errors
    /// [`InvalidPrice`].
    pub fn new(price: impl Into<Price>) -> Result<Self, InvalidPrice> {
        Ok(Self(Arc::new(RwLock::new(valid(price.into())?))))
    }

    /// Changes it for calls that begin from now on.
    ///
    /// # Errors
    /// [`InvalidPrice`]: it remains as it was.
    pub fn set(&self, price: impl Into<Price>) -> Result<(), InvalidPrice> {
        let price = valid(price.into())?;
        *write(&self.0) = price;
        Ok(())
    }

    /// What it is at this moment.
    #[must_use]
    pub fn get(&self) -> Price {
        read(&self.0).clone()
    }
}

fn valid(price: Price) -> Result<Price, InvalidPrice> {
    if price.is_invalid() {
        return Err(InvalidPrice);
    }
    Ok(price)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::Money;

    #[test]
    fn a_price_that_is_none_changes_nothing() {
        let flat = |nanos| Price::flat(Money::from_nanos(nanos));
        assert_eq!(LivePrice::new(flat(-1)).unwrap_err(), InvalidPrice);
        let price = LivePrice::new(flat(1)).unwrap();
        let nobody: [(&str, Price); 0] = [];
        for bad in [flat(-1), Price::by_model(nobody)] {
            assert_eq!(price.set(bad), Err(InvalidPrice));
            assert_eq!(price.get(), flat(1));
        }
        price.clone().set(flat(2)).unwrap();
        assert_eq!(price.get(), flat(2));
    }
}
