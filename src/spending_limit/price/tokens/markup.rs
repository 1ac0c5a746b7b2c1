//! What a seller adds to the prices of a provider.

use std::sync::Arc;

use super::{Rates, TokenPrice};
use crate::domain::money::Money;

/// How many millionths, in which [`Money::per_million`] counts, a basis point is.
const MILLIONTHS: u64 = 100;

impl TokenPrice {
    /// Raises the prices set so far by so many basis points, hundredths of a percent: 2,000 are 20
    /// %. Those of [longer requests](Self::above_input), [tiers](Self::tier) and
    /// [searches](Self::web_searches) are among them; what is set afterwards isn't raised. Each
    /// price is rounded up to a nano-dollar for a million tokens or a thousand searches.
    ///
    /// If a price becomes too high for [`Money`], a [table](crate::PriceTable::route) refuses it.
    ///
    /// ```
    /// use tollgate::Price;
    ///
    /// let cost = |input: &str, output: &str| Ok::<_, tollgate::money::ParseMoneyError>(
    ///     Price::per_million_tokens(input.parse()?, output.parse()?),
    /// );
    /// assert_eq!(cost("2.50", "10")?.markup_bps(2_000), cost("3", "12")?);
    /// # Ok::<(), tollgate::money::ParseMoneyError>(())
    /// ```
    pub fn markup_bps(mut self, basis_points: u32) -> Self {
        let raised = MILLIONTHS.saturating_mul(u64::from(basis_points));
        let raised = raised.saturating_add(1_000_000);
        if self.change(|price| price.per_million(raised)).is_none() {
            Arc::make_mut(self.more.get_or_insert_default()).is_invalid = true;
        }
        self
    }

    /// Changes every price; `None`, and some of them are changed, if one can't be.
    fn change(&mut self, change: impl Fn(Money) -> Option<Money>) -> Option<()> {
        let each = |rates: &mut Rates| rates.change(&change);
        each(&mut self.rates)?;
        let Some(more) = &mut self.more else {
            return Some(());
        };
        let more = Arc::make_mut(more);
        for tier in &mut more.tiers {
            each(&mut tier.rates)?;
            for (_, rates) in &mut tier.above {
                each(rates)?;
            }
        }
        for (_, rates) in &mut more.above {
            each(rates)?;
        }
        if let Some((price, _)) = &mut more.searches {
            *price = change(*price)?;
        }
        Some(())
    }
}
