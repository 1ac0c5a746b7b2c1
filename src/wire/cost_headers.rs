//! What a client is told of its money: exact decimal numbers of dollars.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::domain::money::Money;

/// A header field that tells an amount.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CostHeader {
    /// What the request costs.
    Cost,
    /// What was set aside for it.
    Held,
    /// What the account can still set aside.
    BalanceLeft,
    /// What the tightest limit still admits.
    BudgetLeft,
}

impl CostHeader {
    const fn name(self) -> HeaderName {
        HeaderName::from_static(match self {
            Self::Cost => "x-cost",
            Self::Held => "x-cost-held",
            Self::BalanceLeft => "x-balance-remaining",
            Self::BudgetLeft => "x-budget-remaining",
        })
    }

    pub(crate) fn insert(self, headers: &mut HeaderMap, amount: Money) {
        if let Ok(value) = HeaderValue::from_str(&amount.to_decimal()) {
            headers.insert(self.name(), value);
        }
    }
}
