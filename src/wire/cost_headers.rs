//! Cost headers: exact decimal numbers of dollars.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::number::Text;
use crate::domain::money::Money;

const HELD: HeaderName = HeaderName::from_static("x-cost-held");
const BALANCE_LEFT: HeaderName = HeaderName::from_static("x-balance-remaining");
const COST: HeaderName = HeaderName::from_static("x-cost");
const BUDGET_LEFT: HeaderName = HeaderName::from_static("x-budget-remaining");

/// The longest amount is `-9223372036.854775808`.
const AMOUNT_MAX: usize = 21;

/// The figures in the cost headers of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CostFigures {
    /// What was set aside for the request.
    pub(crate) held: Money,
    /// What it costs, if known.
    pub(crate) cost: Option<Money>,
    /// What the account can still set aside.
    pub(crate) balance_left: Money,
    /// What the tightest limit still admits, if there is a limit.
    pub(crate) budget_left: Option<Money>,
}

impl CostFigures {
    /// Writes the header fields; all amounts share one buffer.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        let mut text = Text::new([0; 4 * AMOUNT_MAX]);
        let fields = [
            (HELD, Some(self.held)),
            (BALANCE_LEFT, Some(self.balance_left)),
            (COST, self.cost),
            (BUDGET_LEFT, self.budget_left),
        ];
        let fields = fields.map(|(name, amount)| {
            let range = amount.map(|amount| text.push_decimal(amount));
            (name, range)
        });
        let text = text.into_bytes();
        for (name, range) in fields {
            let value = range.map(|range| HeaderValue::from_maybe_shared(text.slice(range)));
            if let Some(Ok(value)) = value {
                headers.insert(name, value);
            }
        }
    }
}

/// Writes what a call has cost in the end.
pub(crate) fn write_cost(headers: &mut HeaderMap, cost: Money) {
    let mut text = Text::new([0; AMOUNT_MAX]);
    text.push_decimal(cost);
    if let Ok(value) = HeaderValue::from_maybe_shared(text.into_bytes()) {
        headers.insert(COST, value);
    }
}

/// Removes what is true at one moment only: a repeated answer says what its call cost, not what was
/// left then.
pub(crate) fn remove_what_was_left(headers: &mut HeaderMap) {
    headers.remove(BALANCE_LEFT);
    headers.remove(BUDGET_LEFT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_and_the_longest_have_room() {
        let mut headers = HeaderMap::new();
        let figures = CostFigures {
            held: Money::from_nanos(i64::MIN),
            cost: Some(Money::from_nanos(i64::MIN)),
            balance_left: Money::from_nanos(2_000_000),
            budget_left: Some(Money::from_nanos(i64::MIN)),
        };
        figures.write(&mut headers);
        for name in [HELD, COST, BUDGET_LEFT] {
            assert_eq!(headers[name], "-9223372036.854775808");
        }
        assert_eq!(headers[BALANCE_LEFT], "0.002");
        let figures = CostFigures {
            cost: None,
            budget_left: None,
            ..figures
        };
        let mut headers = HeaderMap::new();
        figures.write(&mut headers);
        assert_eq!(headers.len(), 2);
    }
}
