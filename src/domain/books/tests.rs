use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::domain::budget::{RollingLimit, RollingWindow, SpendingLimits, Thresholds};

#[derive(Default)]
struct Loaded {
    balance: Balance,
    budgets: HashMap<BudgetId, Budget>,
}

impl Books for Loaded {
    fn balance(&mut self) -> &mut Balance {
        &mut self.balance
    }

    fn budget(&mut self, id: &BudgetId) -> &mut Budget {
        self.budgets.entry(id.clone()).or_default()
    }
}

pub(super) fn ann() -> AccountId {
    AccountId::new("ann").unwrap()
}

pub(super) fn key() -> BudgetId {
    BudgetId::new("key-1").unwrap()
}

fn day(number: i64) -> Moment {
    Moment {
        second: number * 86_400,
        windows: Windows {
            day: number * 86_400,
            month: 0,
        },
    }
}

/// Ends a hold of ann's.
fn end(books: &mut Loaded, ids: &[BudgetId], stamp: Windows, held: i64, charged: i64) -> Settled {
    let (held, charged) = (Money::from_nanos(held), Money::from_nanos(charged));
    settle(books, &ann(), ids, stamp, held, charged, stamp.day)
}

fn funded(nanos: i64) -> Loaded {
    let mut books = Loaded::default();
    credit(&mut books.balance, Money::from_nanos(nanos)).unwrap();
    books
}

#[test]
fn a_refused_hold_changes_nothing_anywhere() {
    let (mut books, team) = (funded(100), BudgetId::new("team").unwrap());
    books.budget(&key()).limits.daily = Some(Money::from_nanos(50));
    books.budget(&team).limits.monthly = Some(Money::from_nanos(10));
    let ids = [key(), team.clone()];
    assert_eq!(
        hold(&mut books, &ids, Money::from_nanos(20), day(1)),
        Err(HoldRefusal::LimitReached(BudgetWindow::Month))
    );
    assert_eq!(books.balance.held, Money::ZERO);
    assert_eq!(books.budget(&key()).day, Spent::default());
    assert_eq!(
        hold(&mut books, &ids, Money::from_nanos(101), day(1)),
        Err(HoldRefusal::InsufficientCredits)
    );
    assert_eq!(
        hold(&mut books, &ids, Money::from_nanos(-1), day(1)),
        Err(HoldRefusal::NegativeAmount)
    );
    assert!(hold(&mut books, &ids, Money::from_nanos(10), day(1)).is_ok());
}

#[test]
fn only_what_is_charged_is_gone() {
    let team = BudgetId::new("team").unwrap();
    let limits = |window, limit| {
        let limit = Some(Money::from_nanos(limit));
        let mut limits = SpendingLimits::default();
        match window {
            BudgetWindow::Day => limits.daily = limit,
            BudgetWindow::Month => limits.monthly = limit,
            BudgetWindow::Total => limits.total = limit,
            BudgetWindow::Rolling => {
                let window = RollingWindow::new(Duration::from_secs(600)).unwrap();
                limits.rolling = Some(RollingLimit {
                    window,
                    limit,
                    soft: Thresholds::NONE,
                });
            }
        }
        limits
    };
    for window in [
        BudgetWindow::Day,
        BudgetWindow::Month,
        BudgetWindow::Total,
        BudgetWindow::Rolling,
    ] {
        let mut books = funded(100);
        books.budget(&key()).set_limits(limits(window, 50), day(1));
        books.budget(&team).limits.total = Some(Money::from_nanos(90));
        let ids = [key(), team.clone()];
        let refused = |books: &mut Loaded, ids: &[BudgetId], amount| {
            hold(books, ids, Money::from_nanos(amount), day(1)).unwrap_err()
        };
        let only_held = |limit| HoldRefusal::OnlyHeld { limit };
        let stamp = hold(&mut books, &ids, Money::from_nanos(50), day(1));
        let stamp = stamp.unwrap().windows;
        assert_eq!(refused(&mut books, &ids, 1), only_held(Some(window)));
        let twice = [team.clone(), key()];
        assert_eq!(
            refused(&mut books, &twice, 50),
            only_held(Some(BudgetWindow::Total))
        );
        assert_eq!(refused(&mut books, &[], 51), only_held(None));
        assert_eq!(
            refused(&mut books, &[], 101),
            HoldRefusal::InsufficientCredits
        );
        // Its account and its team only wait for the call; the key never has room.
        let gone = match window {
            BudgetWindow::Rolling => HoldRefusal::RollingLimitReached { wait: None },
            calendar => HoldRefusal::LimitReached(calendar),
        };
        assert_eq!(refused(&mut books, &twice, 51), gone);
        assert_eq!(
            books.balance.held,
            Money::from_nanos(50),
            "nothing has changed"
        );

        let _ = end(&mut books, &ids, stamp, 50, 50);
        let gone = refused(&mut books, &ids, 1);
        let is_gone = matches!(
            gone,
            HoldRefusal::LimitReached(_) | HoldRefusal::RollingLimitReached { wait: Some(_) }
        );
        assert!(is_gone, "{gone:?}");
    }
}

#[test]
fn an_operator_reads_what_is_held() {
    for (limit, text) in [
        (
            None,
            "calls under way hold what the amount needs of the balance",
        ),
        (
            Some(BudgetWindow::Day),
            "calls under way hold what the amount needs of the limit of a day",
        ),
    ] {
        assert_eq!(HoldRefusal::OnlyHeld { limit }.to_string(), text);
    }
}

#[test]
fn a_call_over_midnight_counts_where_it_began() {
    let mut books = funded(1_000);
    books.budget(&key()).limits.daily = Some(Money::from_nanos(10));
    let yesterday = hold(&mut books, &[key()], Money::from_nanos(10), day(1))
        .unwrap()
        .windows;
    let today = hold(&mut books, &[key()], Money::from_nanos(10), day(2))
        .unwrap()
        .windows;
    let _ = end(&mut books, &[key()], yesterday, 10, 10);
    assert_eq!(books.budget(&key()).day.settled, Money::ZERO);
    let _ = end(&mut books, &[key()], today, 10, 4);
    let budget = books.budget(&key());
    assert_eq!(
        (budget.day.settled, budget.day.held),
        (Money::from_nanos(4), Money::ZERO)
    );
    assert_eq!(budget.total.settled, Money::from_nanos(14));
}

#[test]
fn a_clock_that_steps_back_frees_nothing() {
    let mut books = funded(1_000);
    books.budget(&key()).limits.daily = Some(Money::from_nanos(10));
    let _ = hold(&mut books, &[key()], Money::from_nanos(10), day(2)).unwrap();
    assert!(hold(&mut books, &[key()], Money::from_nanos(1), day(1)).is_err());
}

#[test]
fn a_grant_says_what_is_left() {
    let (mut books, team) = (funded(100), BudgetId::new("team").unwrap());
    books.budget(&key()).limits.daily = Some(Money::from_nanos(50));
    books.budget(&team).limits.monthly = Some(Money::from_nanos(30));
    let left = |books: &mut Loaded, ids: &[BudgetId], amount| {
        let left = hold(books, ids, Money::from_nanos(amount), day(1))
            .unwrap()
            .left;
        (left.account.nanos(), left.budgets.map(Money::nanos))
    };
    assert_eq!(left(&mut books, &[key(), team], 10), (90, Some(20)));
    assert_eq!(left(&mut books, &[key()], 10), (80, Some(30)));
    assert_eq!(left(&mut books, &[], 10), (70, None));
}

#[test]
fn a_budget_that_is_named_twice_counts_once() {
    let mut books = funded(1_000);
    books.budget(&key()).limits.daily = Some(Money::from_nanos(10));
    let twice = [key(), key()];
    let stamp = hold(&mut books, &twice, Money::from_nanos(10), day(1))
        .unwrap()
        .windows;
    assert_eq!(books.budget(&key()).day.held, Money::from_nanos(10));
    let _ = end(&mut books, &twice, stamp, 10, 10);
    assert_eq!(books.budget(&key()).total.settled, Money::from_nanos(10));
}

#[test]
fn no_charge_is_larger_than_the_books_can_hold() {
    let mut books = funded(10);
    let mut logged = 0_i64;
    for charged in [7, i64::MAX, i64::MAX, 1] {
        let settled = end(&mut books, &[], day(1).windows, 0, charged);
        logged = logged.checked_add(settled.charged.nanos()).unwrap();
        assert_eq!(books.balance.settled.nanos(), logged);
    }
}

#[test]
fn a_credit_line_is_spent_and_no_more() {
    let mut books = funded(10);
    books.balance.credit_line = Money::from_nanos(5);
    assert!(hold(&mut books, &[], Money::from_nanos(16), day(1)).is_err());
    let _ = hold(&mut books, &[], Money::from_nanos(15), day(1)).unwrap();
    assert_eq!(books.balance.available(), Money::ZERO);
    books.balance.credit_line = Money::MAX;
    books.balance.deposited = Money::MAX;
    assert_eq!(books.balance.available(), Money::MAX);
}

#[test]
fn what_can_not_be_counted_is_not_granted() {
    let mut books = funded(i64::MAX);
    books.balance.credit_line = Money::MAX;
    let _ = hold(&mut books, &[key()], Money::MAX, day(1)).unwrap();
    let one = Money::from_nanos(1);
    assert_eq!(books.balance.available(), Money::MAX);
    let refused = hold(&mut books, &[key()], one, day(1));
    assert_eq!(refused, Err(HoldRefusal::OnlyHeld { limit: None }));
    let _ = end(&mut books, &[key()], day(1).windows, i64::MAX, i64::MAX);
    assert_eq!(books.balance.available(), Money::MAX);
    let refused = hold(&mut books, &[key()], one, day(1));
    assert_eq!(refused, Err(HoldRefusal::InsufficientCredits));
    assert_eq!(books.budget(&key()).total.held, Money::ZERO);
}

#[test]
fn a_correction_may_leave_less_than_nothing() {
    let mut books = funded(10);
    assert_eq!(adjust(&mut books.balance, Money::ZERO), None);
    adjust(&mut books.balance, Money::from_nanos(-15)).unwrap();
    assert_eq!(books.balance.available(), Money::from_nanos(-5));
    assert!(hold(&mut books, &[], Money::ZERO, day(1)).is_err());
    let lowest = Money::from_nanos(i64::MIN);
    assert_eq!(adjust(&mut books.balance, lowest), None);
}

#[test]
fn a_soft_limit_is_told_once_in_a_window() {
    let mut books = funded(1_000);
    books.budget(&key()).limits.soft.daily = Money::from_nanos(10).into();
    let mut told = Vec::new();
    for (today, charged) in [(1, 4), (1, 5), (1, 1), (1, 20), (2, 9), (2, 2), (2, 9)] {
        let amount = Money::from_nanos(charged);
        let stamp = hold(&mut books, &[key()], amount, day(today))
            .unwrap()
            .windows;
        let settled = end(&mut books, &[key()], stamp, charged, charged);
        told.extend(settled.alerts.into_iter().map(|alert| alert.spent.nanos()));
    }
    assert_eq!(told, [10, 11]);
}

#[test]
fn an_overrun_is_recorded_and_new_holds_wait() {
    let mut books = funded(10);
    let stamp = hold(&mut books, &[], Money::from_nanos(10), day(1))
        .unwrap()
        .windows;
    let _ = end(&mut books, &[], stamp, 10, 15);
    assert_eq!(books.balance.available(), Money::from_nanos(-5));
    assert!(hold(&mut books, &[], Money::from_nanos(1), day(1)).is_err());
}

proptest! {
    #[test]
    fn the_invariants_hold_after_every_step(
        limit in 0_i64..200,
        steps in prop::collection::vec((0_i64..60, 0_i64..80, 0_i64..4, any::<bool>()), 1..60),
    ) {
        let mut books = funded(500);
        books.budget(&key()).limits.daily = Some(Money::from_nanos(limit));
        let mut open = Vec::new();
        let mut charged_total = 0_i64;
        let mut overrun = 0_i64;
        for (amount, charged, today, settles) in steps {
            let amount = Money::from_nanos(amount);
            if let Ok(Grant { windows: stamp, .. }) = hold(&mut books, &[key()], amount, day(today)) {
                open.push((stamp, amount));
                let budget = books.budget(&key());
                let spent = budget.day.settled.nanos() + budget.day.held.nanos();
                prop_assert!(spent <= limit + overrun);
            }
            if settles && let Some((stamp, held)) = open.pop() {
                let _ = end(&mut books, &[key()], stamp, held.nanos(), charged);
                charged_total += charged;
                overrun += (charged - held.nanos()).max(0);
            }
            let balance = books.balance;
            let in_flight: i64 = open.iter().map(|(_, held)| held.nanos()).sum();
            prop_assert_eq!(balance.held.nanos(), in_flight);
            prop_assert_eq!(balance.settled.nanos(), charged_total);
            prop_assert_eq!(
                balance.deposited.nanos(),
                balance.available().nanos() + balance.held.nanos() + balance.settled.nanos()
            );
            prop_assert!(balance.available().nanos() >= -overrun);
        }
    }
}
