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
/// A call is charged by the price that its money was held for, however long it takes: a change applies
/// to calls that begin after it.
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
