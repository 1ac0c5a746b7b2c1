//! The stored form of soft limits, where a window has several of them.
//!
//! Its smallest one is stored with the budget, or with its rolling window. Windows with several
//! have all of them in a text beside: four words, for day, month, total and the rolling window.
//! Each is `-`, or the soft limits, smallest first, separated by commas. In the rolling window `@`
//! follows what was reported, and the second at which it last was; of the smallest, [that
//! window](super::rolling) knows.
//!
//! So a process of an older version neither updates nor loses the others. Where it has changed the
//! smallest, the text begins with another one, and counts no more.

use std::sync::Once;

use crate::domain::{
    books::{Budget, Rolling},
    budget::Thresholds,
    money::Money,
};

/// `None` if no window has several.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(super) fn write(budget: &Budget) -> Option<String> {
    let soft = &budget.limits.soft;
    let rolling = budget.limits.rolling_soft();
    let all = [&soft.daily, &soft.monthly, &soft.total, rolling];
    if all.iter().all(|window| window.as_slice().len() < 2) {
        return None;
    }
    let [day, month, total] = [all[0], all[1], all[2]].map(|window| word(window, |_| None));
    let known = budget.rolling.as_deref();
    let first = rolling.first();
    let told_at = |limit| {
        let known = known.filter(|_| first != Some(limit))?;
        known.told_at(limit)
    };
    Some(format!("{day} {month} {total} {}", word(rolling, told_at)))
}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
fn word(window: &Thresholds, told_at: impl Fn(Money) -> Option<i64>) -> String {
    if window.as_slice().len() < 2 {
        return "-".to_owned();
    }
    let limit = |limit: &Money| match told_at(*limit) {
        None => limit.nanos().to_string(),
        Some(second) => format!("{}@{second}", limit.nanos()),
    };
    let limits: Vec<String> = window.as_slice().iter().map(limit).collect();
    limits.join(",")
}

/// Adds the soft limits to a budget that has the smallest of each window. Where the text was never
/// written by [`write`], which is logged once, the window goes on with the smallest: no call is
/// refused because nobody would be told of it.
pub(super) fn read(text: &str, budget: &mut Budget) {
    static LOGGED: Once = Once::new();
    if read_words(text, budget).is_none() {
        LOGGED.call_once(|| {
            tracing::error!(
                target: "tollgate",
                "a budget has soft limits that can't be read, and goes on with the smallest; further ones are not logged"
            );
        });
    }
}

fn read_words(text: &str, budget: &mut Budget) -> Option<()> {
    let words: Vec<&str> = text.split(' ').collect();
    let [day, month, total, rolling] = words.as_slice() else {
        return None;
    };
    let soft = &mut budget.limits.soft;
    let day = read_word(day, &mut soft.daily, None);
    let month = read_word(month, &mut soft.monthly, None);
    let total = read_word(total, &mut soft.total, None);
    let known = budget.rolling.as_deref_mut();
    let mut none = Thresholds::NONE;
    let limit = budget.limits.rolling.as_mut();
    let soft = limit.map_or(&mut none, |limit| &mut limit.soft);
    let rolling = read_word(rolling, soft, known);
    day.and(month).and(total).and(rolling)
}

fn read_word(word: &str, window: &mut Thresholds, rolling: Option<&mut Rolling>) -> Option<()> {
    if word == "-" {
        return Some(());
    }
    let mut limits = Vec::new();
    let mut told = Vec::new();
    for part in word.split(',') {
        let (limit, told_at) = match part.split_once('@') {
            None => (part, None),
            Some((limit, second)) => (limit, Some(second.parse::<i64>().ok()?)),
        };
        let limit = Money::from_nanos(limit.parse().ok()?);
        limits.push(limit);
        told.extend(told_at.map(|second| (limit, second)));
    }
    if !limits.is_sorted_by(|a, b| a < b) {
        return None;
    }
    let stored = Thresholds::new(limits).ok()?;
    if stored.first() != window.first() {
        return Some(());
    }
    *window = stored;
    if let Some(rolling) = rolling {
        for (limit, second) in told {
            rolling.tell(limit, second);
        }
    }
    Some(())
}

#[cfg(all(test, any(feature = "postgres", feature = "sqlite")))]
mod tests {
    use super::*;
    use crate::{domain::budget::SpendingLimits, store::rolling};

    /// A budget with a smallest soft limit in each window.
    fn budget(smallest: [Option<i64>; 3], window: &str) -> Option<Budget> {
        let mut limits = SpendingLimits::default();
        let [day, month, total] = smallest.map(|limit| limit.map(Money::from_nanos).into());
        limits.soft.daily = day;
        limits.soft.monthly = month;
        limits.soft.total = total;
        let mut budget = Budget {
            limits,
            ..Budget::default()
        };
        rolling::read(window, &mut budget)?;
        Some(budget)
    }

    #[test]
    fn what_is_written_comes_out_again_and_nothing_else_does() {
        for text in [
            "10,20,30 - - -",
            "- 1,9223372036854775807 2,3 5,6@-60,7,8@1200",
            "- - 1,2,3,4,5,6,7,8 -",
        ] {
            let smallest = |word: &str| word.split(',').next()?.parse().ok();
            let words: Vec<Option<i64>> = text.split(' ').map(smallest).collect();
            let first = words[3].map_or("-".to_owned(), |limit| limit.to_string());
            let window = format!("60 - {first} 1200 1199");
            let mut budget = budget([words[0], words[1], words[2]], &window).unwrap();
            assert_eq!(write(&budget), None, "the smallest are elsewhere");
            read_words(text, &mut budget).unwrap();
            assert_eq!(write(&budget).as_deref(), Some(text));
            let kept = if words[3].is_some() {
                window
            } else {
                "60 - - 1200 -".to_owned()
            };
            assert_eq!(rolling::write(&budget), Some(kept));
        }
        for text in [
            "",
            "- - -",
            "- - - - -",
            "10, - - -",
            "10,x - - -",
            "10,20@ - - -",
            "10,20@x - - -",
            "1,2,3,4,5,6,7,8,9 - - -",
            "10,30,20 - - -",
            "10,20,20 - - -",
        ] {
            let mut budget = budget([Some(10), None, None], "60 - - 0 -").unwrap();
            let before = budget.clone();
            assert_eq!(read_words(text, &mut budget), None, "{text}");
            assert_eq!(budget, before, "{text}");
        }
    }

    #[test]
    fn a_window_whose_word_is_damaged_goes_on_with_the_smallest() {
        let mut budget = budget([Some(10), Some(1), None], "60 - 5 0 -").unwrap();
        read("10,x 1,2 - 5,6@", &mut budget);
        let kept = "- 1,2 - -";
        assert_eq!(write(&budget).as_deref(), Some(kept));
        assert_eq!(budget.limits.soft.daily, Money::from_nanos(10).into());
        assert_eq!(*budget.limits.rolling_soft(), Money::from_nanos(5).into());
    }

    #[test]
    fn what_another_version_changed_counts_without_the_others() {
        for (smallest, window) in [
            ([Some(11), None, Some(3)], "60 - 6 0 -"),
            ([None; 3], "60 off - 0 -"),
            ([Some(20), Some(1), None], "60 100 - 0 -"),
        ] {
            let mut changed = budget(smallest, window).unwrap();
            let before = changed.clone();
            read_words("10,20 - 1,2 5,6@0,7", &mut changed).unwrap();
            assert_eq!(changed, before);
        }
    }
}
