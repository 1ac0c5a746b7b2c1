//! The stored form of a rolling window: words that an operator can read.
//!
//! Length in seconds, limit, smallest soft limit, the latest second at which it was evaluated, the
//! second at which that soft limit was last reported; then for each slice its number and what was
//! charged in it, oldest first. `-` means none; `off` in place of the limit means that the budget
//! no longer has a rolling limit. Where it has several soft limits,
//! [`thresholds`](super::thresholds) has the others.

use std::time::Duration;

use crate::domain::{
    books::{Budget, Rolling},
    budget::{RollingLimit, RollingWindow},
    money::Money,
};

/// `None` if the budget never had a rolling limit.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(super) fn write(budget: &Budget) -> Option<String> {
    use std::fmt::Write;

    let rolling = budget.rolling.as_deref()?;
    let optional =
        |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let amount = |amount: Option<Money>| optional(amount.map(Money::nanos));
    let limit = match &budget.limits.rolling {
        Some(rolling) => amount(rolling.limit),
        None => "off".to_owned(),
    };
    let soft = budget.limits.rolling_soft().first();
    let (seconds, latest) = (rolling.window().length().as_secs(), rolling.latest());
    let told_at = optional(soft.and_then(|soft| rolling.told_at(soft)));
    let soft = amount(soft);
    let mut text = format!("{seconds} {limit} {soft} {latest} {told_at}");
    for (number, settled) in rolling.slices() {
        // Writing to a string never fails.
        let _ = write!(text, " {number} {}", settled.nanos());
    }
    Some(text)
}

/// Adds the rolling window to a budget. `None` if `text` was never written by [`write`].
pub(super) fn read(text: &str, budget: &mut Budget) -> Option<()> {
    let words: Vec<&str> = text.split(' ').collect();
    let [seconds, limit, soft, latest, told_at, slices @ ..] = words.as_slice() else {
        return None;
    };
    let window = RollingWindow::new(Duration::from_secs(seconds.parse().ok()?)).ok()?;
    let optional = |word: &str| match word {
        "-" => Some(None),
        number => number.parse::<i64>().ok().map(Some),
    };
    let amount = |word: &str| Some(optional(word)?.map(Money::from_nanos));
    let slice = |pair: &[&str]| match pair {
        [number, settled] => Some((
            number.parse().ok()?,
            Money::from_nanos(settled.parse().ok()?),
        )),
        _ => None,
    };
    let slices: Vec<(i64, Money)> = slices.chunks(2).map(slice).collect::<Option<_>>()?;
    budget.limits.rolling = match *limit {
        "off" => None,
        limit => Some(RollingLimit {
            window,
            limit: amount(limit)?,
            soft: amount(soft)?.into(),
        }),
    };
    let mut rolling = Rolling::stored(window, latest.parse().ok()?, slices)?;
    let soft = budget.limits.rolling_soft().first();
    if let (Some(soft), Some(told_at)) = (soft, optional(told_at)?) {
        rolling.tell(soft, told_at);
    }
    budget.rolling = Some(Box::new(rolling));
    Some(())
}

#[cfg(all(test, any(feature = "postgres", feature = "sqlite")))]
mod tests {
    use super::*;

    fn again(text: &str) -> Option<String> {
        let mut budget = Budget::default();
        read(text, &mut budget)?;
        write(&budget)
    }

    #[test]
    fn what_is_written_comes_out_again_and_nothing_else_does() {
        for text in [
            "60 - - 0 -",
            "600 100 9223372036854775807 -7 -60",
            "3600 off - 60000 - 940 1 999 2 1000 9223372036854775804",
        ] {
            assert_eq!(again(text).as_deref(), Some(text));
        }
        for text in [
            "",
            "59 - - 0 -",
            "60 - - 0",
            "60 - - 0 - 1",
            "60 x - 0 -",
            // Out of order, outside the window, a zero charge, more than an account can hold.
            "3600 - - 60000 - 999 1 999 2",
            "3600 - - 60000 - 1001 1",
            "3600 - - 60000 - 939 1",
            "3600 - - 60000 - 999 0",
            "3600 - - 60000 - 999 -1",
            "3600 - - 60000 - 999 1 1000 9223372036854775807",
        ] {
            assert_eq!(again(text), None, "{text}");
        }
        assert_eq!(write(&Budget::default()), None);
    }
}
