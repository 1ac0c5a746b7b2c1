use proptest::prelude::*;

use super::{
    super::{
        Balance, Books, Budget, HoldRefusal, credit, hold, settle,
        tests::{ann, key},
    },
    *,
};
use crate::domain::{
    BudgetId,
    budget::{BudgetWindow, Moment, RollingLimit, SpendingLimits, Windows},
};

/// An account with one budget.
#[derive(Default)]
struct Loaded {
    balance: Balance,
    budget: Budget,
}

impl Books for Loaded {
    fn balance(&mut self) -> &mut Balance {
        &mut self.balance
    }

    fn budget(&mut self, _: &BudgetId) -> &mut Budget {
        &mut self.budget
    }
}

fn window(seconds: u64) -> RollingWindow {
    RollingWindow::new(Duration::from_secs(seconds)).unwrap()
}

/// A second of the first of a month.
fn at(second: i64) -> Moment {
    Moment {
        second,
        windows: Windows {
            day: second.div_euclid(86_400) * 86_400,
            month: 0,
        },
    }
}

fn rolling(seconds: u64, limit: i64) -> SpendingLimits {
    SpendingLimits {
        rolling: Some(RollingLimit::new(window(seconds), Money::from_nanos(limit))),
        ..SpendingLimits::default()
    }
}

fn limited(limits: SpendingLimits) -> Loaded {
    let mut books = Loaded::default();
    credit(&mut books.balance, Money::MAX).unwrap();
    books.budget.set_limits(limits, at(0));
    books
}

fn open(books: &mut Loaded, amount: i64, second: i64) -> Result<Windows, HoldRefusal> {
    let held = hold(books, &[key()], Money::from_nanos(amount), at(second));
    held.map(|grant| grant.windows)
}

fn end(books: &mut Loaded, stamp: Windows, held: i64, charged: i64, second: i64) -> Vec<i64> {
    let (held, charged) = (Money::from_nanos(held), Money::from_nanos(charged));
    let settled = settle(books, &ann(), &[key()], stamp, held, charged, second);
    let rolling = |alert: &crate::domain::budget::SpendingAlert| {
        assert_eq!(alert.window, BudgetWindow::Rolling);
        alert.spent.nanos()
    };
    settled.alerts.iter().map(rolling).collect()
}

/// A call that is over in its second.
fn spend(books: &mut Loaded, amount: i64, second: i64) -> Vec<i64> {
    let stamp = open(books, amount, second).unwrap();
    end(books, stamp, amount, amount, second)
}

/// For how long a call of that amount is refused.
fn wait(books: &mut Loaded, amount: i64, second: i64) -> Option<u64> {
    match open(books, amount, second).unwrap_err() {
        HoldRefusal::RollingLimitReached { wait } => wait.map(|wait| wait.as_secs()),
        refusal => panic!("{refusal}"),
    }
}

fn is_only_held(books: &mut Loaded, amount: i64, second: i64) -> bool {
    let limit = Some(BudgetWindow::Rolling);
    open(books, amount, second) == Err(HoldRefusal::OnlyHeld { limit })
}

#[test]
fn a_charge_counts_until_its_slice_has_left_the_window() {
    // Slices of ten seconds.
    let mut books = limited(rolling(600, 100));
    spend(&mut books, 70, 1_007);
    spend(&mut books, 20, 1_300);
    assert_eq!(wait(&mut books, 11, 1_300), Some(310));
    assert_eq!(wait(&mut books, 81, 1_300), Some(610));
    assert_eq!(wait(&mut books, 101, 1_300), None, "it never fits");
    assert_eq!(wait(&mut books, 11, 1_609), Some(1));
    let stamp = open(&mut books, 80, 1_610).unwrap();
    // What is held counts, however long it is, and what it came to from its end on.
    assert!(is_only_held(&mut books, 1, 1_610), "whoever holds must end");
    assert!(is_only_held(&mut books, 80, 1_610));
    assert_eq!(wait(&mut books, 81, 1_610), Some(300));
    assert!(is_only_held(&mut books, 21, 1_610));
    assert!(is_only_held(&mut books, 21, 100_000));
    end(&mut books, stamp, 80, 50, 100_000);
    assert_eq!(wait(&mut books, 51, 100_599), Some(11));
    spend(&mut books, 50, 100_599);
    spend(&mut books, 50, 100_610);
}

#[test]
fn a_limit_that_was_only_written_down_is_kept_too() {
    let mut books = limited(SpendingLimits::default());
    books.budget.limits = rolling(600, 100);
    spend(&mut books, 70, 1_000);
    assert_eq!(wait(&mut books, 31, 1_000), Some(610));
    books.budget.limits = rolling(1_200, 100);
    assert!(open(&mut books, 31, 1_700).is_err());
}

#[test]
fn what_is_left_is_that_of_the_tightest() {
    let mut books = limited(SpendingLimits {
        daily: Some(Money::from_nanos(80)),
        ..rolling(3_600, 50)
    });
    let left = |books: &mut Loaded, amount, second| {
        let grant = hold(books, &[key()], Money::from_nanos(amount), at(second)).unwrap();
        end(books, grant.windows, amount, amount, second);
        grant.left.budgets.unwrap().nanos()
    };
    assert_eq!(left(&mut books, 20, 0), 30);
    assert_eq!(left(&mut books, 20, 5_000), 30);
    assert_eq!(left(&mut books, 20, 10_000), 20, "of the day");
    // Also before anything is begun anew.
    let later = |second| books.budget.left(at(second)).unwrap().nanos();
    assert_eq!([10_000, 13_660, 86_400].map(later), [20, 20, 50]);
    assert_eq!(left(&mut books, 0, 86_400), 50);
    assert!(open(&mut books, 51, 86_400).is_err());
}

#[test]
fn a_clock_that_steps_back_frees_nothing() {
    let mut books = limited(rolling(600, 100));
    spend(&mut books, 100, 5_000);
    for second in [4_000, 0, -100_000] {
        let soonest = u64::try_from(5_610 - second).unwrap();
        assert_eq!(wait(&mut books, 1, second), Some(soonest));
    }
    let mut books = limited(rolling(600, 100));
    let stamp = open(&mut books, 100, 5_000).unwrap();
    end(&mut books, stamp, 100, 100, 1_000);
    assert_eq!(
        wait(&mut books, 1, 5_609),
        Some(1),
        "it counts in the latest slice"
    );
    spend(&mut books, 100, 5_610);
}

#[test]
fn an_overrun_is_waited_for() {
    let mut books = limited(rolling(60, 10));
    let stamp = open(&mut books, 10, 0).unwrap();
    end(&mut books, stamp, 10, 25, 0);
    assert_eq!(wait(&mut books, 0, 0), Some(61));
    assert_eq!(wait(&mut books, 0, 60), Some(1));
    spend(&mut books, 10, 61);
}

#[test]
fn a_soft_limit_is_told_once_in_the_length_of_the_window() {
    let soft = |soft| SpendingLimits {
        rolling: Some(RollingLimit {
            limit: None,
            soft: Money::from_nanos(soft).into(),
            window: window(600),
        }),
        ..SpendingLimits::default()
    };
    let mut books = limited(soft(10));
    let calls = [
        (0, 9, None),
        (500, 1, Some(10)),
        (501, 5, None),
        // Below, and passed again, too soon.
        (1_099, 4, None),
        // Below again.
        (1_110, 5, None),
        (1_110, 1, Some(10)),
        (1_111, 100, None),
        (5_000, 9, None),
        (5_000, 9, Some(18)),
    ];
    for (second, amount, told) in calls {
        // The same limits once more change nothing.
        books.budget.set_limits(soft(10), at(second));
        let found = spend(&mut books, amount, second);
        assert_eq!(found, Vec::from_iter(told), "{amount} in {second}");
    }
    // Another one was never told.
    books.budget.set_limits(soft(30), at(5_000));
    assert_eq!(spend(&mut books, 12, 5_000), [30]);
}

#[test]
fn a_limit_that_is_set_later_counts_what_surely_lies_in_the_window() {
    let second = 40 * 86_400 + 7_200;
    let mut moment = at(second);
    moment.windows.month = 35 * 86_400;
    let spent = |settled| super::super::Spent {
        settled: Money::from_nanos(settled),
        held: Money::ZERO,
    };
    let settled = |seconds: u64| {
        let mut budget = Budget {
            windows: moment.windows,
            day: spent(10),
            month: spent(50),
            total: spent(200),
            ..Budget::default()
        };
        budget.set_limits(rolling(seconds, 1), moment);
        budget.rolling.unwrap().settled().nanos()
    };
    assert_eq!(settled(3_600), 0, "it may have been before");
    assert_eq!(settled(7_200), 10);
    assert_eq!(settled(5 * 86_400), 10);
    assert_eq!(settled(6 * 86_400), 50);
}

#[test]
fn a_window_of_another_length_forgets_nothing_that_it_can_know() {
    let mut books = limited(rolling(600, 1_000));
    for second in [1_000, 1_300, 1_599] {
        spend(&mut books, 100, second);
    }
    // A shorter one: each charge counts as though it had come at the end of its slice.
    books.budget.set_limits(rolling(60, 100), at(1_599));
    assert_eq!(wait(&mut books, 1, 1_599), Some(61));
    spend(&mut books, 100, 1_660);
    // But not as though it came later than now.
    let mut early = limited(rolling(600, 100));
    spend(&mut early, 100, 1_592);
    early.budget.set_limits(rolling(60, 100), at(1_595));
    assert_eq!(wait(&mut early, 1, 1_595), Some(61));
    // A longer one knows of the shorter what that still knew, and of the day all.
    books.budget.set_limits(rolling(86_400, 100), at(1_700));
    assert_eq!(
        books.budget.rolling.as_ref().unwrap().settled().nanos(),
        400
    );
    // Taken away and set again, it goes on.
    books
        .budget
        .set_limits(SpendingLimits::default(), at(1_700));
    spend(&mut books, 7, 1_700);
    books.budget.set_limits(rolling(86_400, 100), at(1_700));
    assert_eq!(
        books.budget.rolling.as_ref().unwrap().settled().nanos(),
        407
    );
}

/// What happened, as a list.
#[derive(Default)]
struct Model {
    window: u64,
    charges: Vec<(i64, i64)>,
    held: i64,
    latest: i64,
}

impl Model {
    fn look(&mut self, second: i64) -> i64 {
        self.latest = self.latest.max(second);
        self.latest
    }

    fn width(&self) -> i64 {
        i64::try_from(self.window.div_ceil(60)).unwrap()
    }

    /// What the slices say of a second.
    fn counted(&mut self, second: i64) -> i64 {
        let (now, width) = (self.look(second), self.width());
        let length = i64::try_from(self.window).unwrap();
        let counts = |at: i64| at - at.rem_euclid(width) + width + length > now;
        let charges = self.charges.iter().filter(|(at, _)| counts(*at));
        charges.map(|(_, amount)| amount).sum()
    }

    /// What was charged in the span that ends with a second.
    fn exactly(&self, second: i64) -> i64 {
        let first = second - i64::try_from(self.window).unwrap();
        let charges = self.charges.iter();
        let within = charges.filter(|(at, _)| *at > first && *at <= second);
        within.map(|(_, amount)| amount).sum()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Hold(i64),
    Settle(usize, i64),
    Wait(i64),
    Limit(i64),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_i64..60).prop_map(Step::Hold),
        4 => (any::<usize>(), 0_i64..60).prop_map(|(which, charged)| Step::Settle(which, charged)),
        3 => prop_oneof![4 => 0_i64..30, 1 => 0_i64..2_000, 1 => -500_i64..0].prop_map(Step::Wait),
        1 => (0_i64..200).prop_map(Step::Limit),
    ]
}

/// The most that is charged in any span, if each charge has that date.
fn most(window: u64, charges: impl Fn() -> Vec<(i64, i64)>) -> i64 {
    let mut model = Model {
        window,
        charges: charges(),
        ..Model::default()
    };
    model.charges.sort_unstable();
    let ends = model.charges.iter().map(|(at, _)| *at);
    ends.map(|at| model.exactly(at)).max().unwrap_or_default()
}

proptest! {
    #[test]
    fn no_span_sees_more_than_the_limit_by_whichever_end_of_a_call(
        seconds in 60_u64..200,
        calls in prop::collection::vec((0_i64..40, 1_i64..60, 0_i64..300), 1..80),
    ) {
        const LIMIT: i64 = 100;
        let mut books = limited(rolling(seconds, LIMIT));
        let (mut second, mut under_way, mut done) = (0_i64, Vec::new(), Vec::new());
        for (pause, amount, lasts) in calls {
            second += pause;
            let is_over = |(ends, ..): &mut (i64, i64, i64, Windows)| *ends <= second;
            let mut over: Vec<_> = under_way.extract_if(.., is_over).collect();
            over.sort_unstable_by_key(|(ends, ..)| *ends);
            for (ends, began, amount, stamp) in over {
                end(&mut books, stamp, amount, amount, ends);
                done.push((began, ends, amount));
            }
            if let Ok(stamp) = open(&mut books, amount, second) {
                under_way.push((second + lasts, second, amount, stamp));
            }
        }
        let began = || done.iter().map(|(began, _, amount)| (*began, *amount)).collect();
        let ended = || done.iter().map(|(_, ended, amount)| (*ended, *amount)).collect();
        prop_assert!(most(seconds, began) <= LIMIT);
        prop_assert!(most(seconds, ended) <= LIMIT);
    }

    #[test]
    fn no_span_sees_more_than_the_limit_and_nothing_is_refused_that_fits(
        seconds in 60_u64..700,
        mut limit in 0_i64..200,
        steps in prop::collection::vec(steps(), 1..120),
    ) {
        let mut books = limited(rolling(seconds, limit));
        let mut model = Model { window: seconds, ..Model::default() };
        let (mut second, mut open_holds) = (10_000_i64, Vec::new());
        for step in steps {
            match step {
                Step::Hold(amount) => {
                    let counted = model.counted(second);
                    let fits = counted + model.held + amount <= limit;
                    match open(&mut books, amount, second) {
                        Ok(stamp) => {
                            prop_assert!(fits);
                            let now = model.look(second);
                            prop_assert!(model.exactly(now) + model.held + amount <= limit);
                            model.held += amount;
                            open_holds.push((stamp, amount));
                        }
                        Err(HoldRefusal::RollingLimitReached { wait }) => {
                            prop_assert!(counted + amount > limit);
                            let later = wait.map(|wait| second + i64::try_from(wait.as_secs()).unwrap());
                            // What is held is none of its business.
                            let mut fits_at = |at| model.counted(at) + amount <= limit;
                            // A look into the future moves the model's own sight.
                            match later {
                                Some(later) => {
                                    prop_assert!(!fits_at(later - 1));
                                    prop_assert!(fits_at(later));
                                }
                                None => prop_assert!(!fits_at(i64::MAX / 4)),
                            }
                            model.latest = books.budget.rolling.as_ref().unwrap().latest;
                        }
                        Err(HoldRefusal::OnlyHeld { limit: window }) => {
                            prop_assert_eq!(window, Some(BudgetWindow::Rolling));
                            prop_assert!(!fits && counted + amount <= limit);
                            model.latest = books.budget.rolling.as_ref().unwrap().latest;
                        }
                        Err(refusal) => panic!("{refusal}"),
                    }
                }
                Step::Settle(which, charged) if !open_holds.is_empty() => {
                    let (stamp, held): (Windows, i64) = open_holds.swap_remove(which % open_holds.len());
                    let charged = charged.min(held);
                    end(&mut books, stamp, held, charged, second);
                    let at = model.look(second);
                    model.held -= held;
                    model.charges.push((at, charged));
                }
                Step::Settle(..) => {}
                Step::Wait(by) => second += by,
                Step::Limit(other) => {
                    limit = other;
                    books.budget.set_limits(rolling(seconds, limit), at(second));
                    model.look(second);
                }
            }
            let rolling = books.budget.clone().rolled(at(second)).rolling.unwrap();
            let latest = model.latest;
            prop_assert_eq!(rolling.settled().nanos(), model.counted(second));
            // To read changes nothing.
            model.latest = latest;
            prop_assert!(rolling.slices.len() <= 62);
            prop_assert!(rolling.slices.iter().all(|slice| slice.settled > Money::ZERO));
        }
    }
}
