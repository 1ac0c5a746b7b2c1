//! Amounts at which an alert is raised.

use std::sync::Arc;

use crate::domain::money::Money;

/// The amounts at which a window's spending raises an alert, smallest first: up to
/// [`MAX`](Self::MAX), each once. They refuse nothing, and don't follow a limit that is changed.
///
/// ```
/// use tollgate::{budget::{SoftLimits, SpendingLimits, Thresholds}, money::Money};
///
/// let (daily, monthly): (Money, Money) = ("10".parse()?, "200".parse()?);
/// let limits = SpendingLimits {
///     daily: Some(daily),
///     monthly: Some(monthly),
///     soft: SoftLimits {
///         daily: "8".parse::<Money>()?.into(),
///         monthly: Thresholds::percent_of(monthly, [50, 80, 100])?,
///         ..SoftLimits::default()
///     },
///     ..SpendingLimits::default()
/// };
/// let [half, _, all] = limits.soft.monthly.as_slice() else { panic!("there are three") };
/// assert_eq!((half.to_string(), all.to_string()), ("$100.0000".into(), "$200.0000".into()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// As JSON they are an amount, a list of amounts, or `null`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thresholds(
    /// Sorted, without duplicates. Never an empty list: a budget without thresholds costs a look at
    /// a pointer. Shared, so that a copy of a budget doesn't copy them.
    Option<Arc<[Money]>>,
);

/// The amounts are not valid as thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidThresholds {
    /// More than [`Thresholds::MAX`].
    #[error("a window has at most {} thresholds", Thresholds::MAX)]
    TooMany,
    /// A threshold is more than [`Money`] can hold.
    #[error("a threshold is out of range")]
    OutOfRange,
}

impl Thresholds {
    /// The most that a window has.
    pub const MAX: usize = 8;

    /// No alerts.
    pub const NONE: Self = Self(None);

    /// These amounts, in any order.
    ///
    /// # Errors
    /// [`InvalidThresholds::TooMany`] when more than [`MAX`](Self::MAX) of them differ.
    pub fn new(amounts: impl IntoIterator<Item = Money>) -> Result<Self, InvalidThresholds> {
        let mut sorted: Vec<Money> = Vec::new();
        for amount in amounts {
            if let Err(place) = sorted.binary_search(&amount) {
                if sorted.len() >= Self::MAX {
                    return Err(InvalidThresholds::TooMany);
                }
                sorted.insert(place, amount);
            }
        }
        Ok(Self((!sorted.is_empty()).then(|| sorted.into())))
    }

    /// These percentages of a limit, each rounded up to a whole nano-dollar. More than 100 percent
    /// is reached only by an overrun.
    ///
    /// # Errors
    /// [`InvalidThresholds::TooMany`] when more than [`MAX`](Self::MAX) of them differ, and
    /// [`InvalidThresholds::OutOfRange`] when one is more than [`Money`] can hold.
    pub fn percent_of(
        limit: Money,
        percents: impl IntoIterator<Item = u32>,
    ) -> Result<Self, InvalidThresholds> {
        let mut is_out_of_range = false;
        let amounts = percents.into_iter().map_while(|percent| {
            let amount = percent_of(limit, percent);
            is_out_of_range |= amount.is_none();
            amount
        });
        let thresholds = Self::new(amounts)?;
        if is_out_of_range {
            return Err(InvalidThresholds::OutOfRange);
        }
        Ok(thresholds)
    }

    /// What has been spent of `sum` when so much of it is left: for whoever wants to hear that a
    /// limit, or what an account has paid in, is down to 5 dollars
    /// ([how](crate::budget#a-balance)). An amount that is no less than `sum` is passed from the
    /// start, and left out.
    ///
    /// ```
    /// use tollgate::{budget::Thresholds, money::Money};
    ///
    /// let (paid, five, one): (Money, Money, Money) = ("20".parse()?, "5".parse()?, "1".parse()?);
    /// let told = Thresholds::with_left(paid, [five, one])?;
    /// assert_eq!(told.as_slice(), ["15".parse()?, "19".parse()?]);
    /// assert!(Thresholds::with_left(one, [five])?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidThresholds::TooMany`] when more than [`MAX`](Self::MAX) of them differ, and
    /// [`InvalidThresholds::OutOfRange`] when one is more than [`Money`] can hold.
    pub fn with_left(
        sum: Money,
        left: impl IntoIterator<Item = Money>,
    ) -> Result<Self, InvalidThresholds> {
        let mut is_out_of_range = false;
        let amounts = left.into_iter().map_while(|left| {
            let spent = sum.checked_sub(left);
            is_out_of_range |= spent.is_none();
            spent
        });
        let thresholds = Self::new(amounts.filter(|spent| *spent > Money::ZERO))?;
        if is_out_of_range {
            return Err(InvalidThresholds::OutOfRange);
        }
        Ok(thresholds)
    }

    /// The amounts, smallest first.
    #[must_use]
    pub fn as_slice(&self) -> &[Money] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The smallest.
    #[cfg(any(feature = "postgres", feature = "redis", feature = "sqlite"))]
    pub(crate) fn first(&self) -> Option<Money> {
        self.as_slice().first().copied()
    }

    pub(crate) fn contains(&self, amount: Money) -> bool {
        self.as_slice().binary_search(&amount).is_ok()
    }

    /// Those that spending reaches by going from `before` to `after`, smallest first.
    pub(crate) fn crossed(&self, before: Money, after: Money) -> impl Iterator<Item = Money> {
        let amounts = self.as_slice().iter().copied();
        let not_yet = amounts.skip_while(move |amount| *amount <= before);
        not_yet.take_while(move |amount| *amount <= after)
    }
}

/// A single amount.
impl From<Money> for Thresholds {
    fn from(amount: Money) -> Self {
        Self(Some([amount].into()))
    }
}

/// A single amount, or none.
impl From<Option<Money>> for Thresholds {
    fn from(amount: Option<Money>) -> Self {
        amount.map_or(Self::NONE, Self::from)
    }
}

fn percent_of(limit: Money, percent: u32) -> Option<Money> {
    let hundredths = i128::from(limit.nanos()).checked_mul(percent.into())?;
    let nanos = hundredths.checked_add(99)?.checked_div_euclid(100)?;
    i64::try_from(nanos).ok().map(Money::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(amounts: &[i64]) -> Vec<Money> {
        amounts.iter().copied().map(Money::from_nanos).collect()
    }

    #[test]
    fn a_budget_is_as_large_as_with_one_amount_in_their_place() {
        assert_eq!(size_of::<Thresholds>(), size_of::<Option<Money>>());
    }

    #[test]
    fn they_are_sorted_and_none_is_there_twice() {
        let some = Thresholds::new(nanos(&[30, 10, 20, 10, 30])).unwrap();
        assert_eq!(some.as_slice(), nanos(&[10, 20, 30]));
        assert!(Thresholds::new([]).unwrap().is_empty());
        assert_eq!(Thresholds::new([]), Ok(Thresholds::NONE));
        assert_eq!(Thresholds::from(None), Thresholds::default());
        let one = Thresholds::from(Money::from_nanos(10));
        assert_eq!(Thresholds::new(nanos(&[10, 10])), Ok(one));
    }

    #[test]
    fn a_window_has_only_so_many() {
        let eight = || (0..8).chain(0..8).map(Money::from_nanos);
        assert_eq!(Thresholds::new(eight()).unwrap().as_slice().len(), 8);
        let nine = eight().chain([Money::from_nanos(8)]);
        assert_eq!(Thresholds::new(nine), Err(InvalidThresholds::TooMany));
        let endless = Thresholds::percent_of(Money::from_nanos(100), 1..);
        assert_eq!(endless, Err(InvalidThresholds::TooMany));
    }

    #[test]
    fn a_percentage_is_reached_no_sooner_than_it_is_spent() {
        let of = |limit, percent| {
            let some = Thresholds::percent_of(Money::from_nanos(limit), [percent]);
            some.map(|some| some.as_slice().first().copied().unwrap().nanos())
        };
        assert_eq!(of(10, 50), Ok(5));
        assert_eq!(of(9, 50), Ok(5));
        assert_eq!(of(3, 33), Ok(1));
        assert_eq!(of(3, 34), Ok(2));
        assert_eq!(of(i64::MAX, 100), Ok(i64::MAX));
        assert_eq!(of(i64::MAX, 101), Err(InvalidThresholds::OutOfRange));
        assert_eq!(of(i64::MAX, u32::MAX), Err(InvalidThresholds::OutOfRange));
        let three = Thresholds::percent_of(Money::from_nanos(200), [100, 50, 80]).unwrap();
        assert_eq!(three.as_slice(), nanos(&[100, 160, 200]));
    }

    #[test]
    fn what_is_left_is_told_by_what_is_spent() {
        let of = |sum, left: &[i64]| {
            let some = Thresholds::with_left(Money::from_nanos(sum), nanos(left));
            some.map(|some| some.as_slice().to_vec())
        };
        assert_eq!(of(20, &[5, 1, 0, 5]), Ok(nanos(&[15, 19, 20])));
        assert_eq!(of(20, &[20, 21, i64::MAX]), Ok(vec![]));
        assert_eq!(of(-5, &[-10, 0]), Ok(nanos(&[5])), "what may be overdrawn");
        assert_eq!(of(1, &[i64::MIN]), Err(InvalidThresholds::OutOfRange));
        let nine: Vec<i64> = (1..=9).collect();
        assert_eq!(of(10, &nine), Err(InvalidThresholds::TooMany));
        assert_eq!(of(9, &nine).map(|some| some.len()), Ok(8));
    }

    #[test]
    fn one_is_crossed_by_reaching_it_and_not_by_staying() {
        let some = Thresholds::new(nanos(&[10, 20, 30])).unwrap();
        let crossed = |before, after| -> Vec<i64> {
            let (before, after) = (Money::from_nanos(before), Money::from_nanos(after));
            let crossed = some.crossed(before, after);
            crossed.map(Money::nanos).collect()
        };
        assert!(crossed(0, 9).is_empty());
        assert_eq!(crossed(9, 10), [10]);
        assert!(crossed(10, 10).is_empty());
        assert_eq!(crossed(10, 29), [20]);
        assert_eq!(crossed(0, 99), [10, 20, 30]);
        assert!(crossed(30, 99).is_empty());
        assert!(crossed(99, 0).is_empty());
        assert!(
            Thresholds::NONE
                .crossed(Money::ZERO, Money::MAX)
                .next()
                .is_none()
        );
    }
}
