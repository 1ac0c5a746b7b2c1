//! Operations on an account, by chance.

use proptest::prelude::*;

/// One operation on an account.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Hold {
        amount: i64,
        budgets: Vec<u8>,
        charge: bool,
        key: Option<(u8, u8)>,
    },
    Settle {
        which: usize,
        charged: i64,
    },
    Pay(i64),
    Adjust(i64),
    /// To which budgets, and of which of the latest calls.
    Refund(i64, Vec<u8>, Option<usize>),
    Line(i64),
    /// Of which budget: its limits, its soft limits, and those of its rolling window.
    Limits(u8, [Option<i64>; 3], [Vec<i64>; 3], Option<Rolling>),
    Wait(u32),
    Back(u32),
    Expire(usize),
    /// Settles what has expired before.
    Late {
        which: usize,
        charged: i64,
    },
    Record,
}

/// Seconds, limit, soft limits.
pub(super) type Rolling = (u64, Option<i64>, Vec<i64>);

fn rolling() -> impl Strategy<Value = Option<Rolling>> {
    let seconds = prop::sample::select(vec![60_u64, 601, 7_200, 86_400, 20 * 86_400]);
    prop::option::weighted(0.8, (seconds, limits(), soft_limits()))
}

/// Everyday amounts, and those at the limits of doubles and of `i64`.
fn amounts() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => -3_i64..3_000,
        2 => (0_i64..40).prop_map(|part| part * 999_999_999),
        2 => (0_i64..7).prop_map(|half| half * 500_000_000),
        1 => ((1_i64 << 53) - 3)..((1 << 53) + 3),
        1 => prop_oneof![Just(i64::MAX), Just(i64::MAX - 1), Just(i64::MIN), Just(i64::MIN + 1)],
        1 => any::<i64>(),
    ]
}

/// Boxed, since a step has eight: a test's stack is small.
fn limits() -> BoxedStrategy<Option<i64>> {
    prop_oneof![
        2 => Just(None),
        3 => (0_i64..3_000).prop_map(Some),
        1 => amounts().prop_map(|amount| Some(amount.saturating_abs())),
    ]
    .boxed()
}

fn soft_limits() -> BoxedStrategy<Vec<i64>> {
    let several = prop::collection::vec(0_i64..3_000, 0..5);
    prop_oneof![
        4 => several,
        1 => limits().prop_map(|limit| limit.into_iter().collect()),
    ]
    .boxed()
}

pub(super) fn steps() -> impl Strategy<Value = Step> {
    let hold = (
        amounts(),
        prop::collection::vec(0_u8..3, 0..4),
        any::<bool>(),
        prop::option::of((0_u8..3, 0_u8..2)),
    );
    prop_oneof![
        8 => hold.prop_map(|(amount, budgets, charge, key)| Step::Hold { amount, budgets, charge, key }),
        6 => (any::<usize>(), amounts()).prop_map(|(which, charged)| Step::Settle { which, charged }),
        3 => amounts().prop_map(Step::Pay),
        1 => amounts().prop_map(Step::Adjust),
        2 => refund(amounts()),
        1 => amounts().prop_map(|line| Step::Line(line.saturating_abs())),
        2 => (0_u8..3, prop::array::uniform3(limits()), prop::array::uniform3(soft_limits()), rolling())
            .prop_map(|(id, limits, soft, rolling)| Step::Limits(id, limits, soft, rolling)),
        3 => prop_oneof![1_u32..40, 40_u32..5_000, 30_000_u32..200_000, Just(86_400 * 20)].prop_map(Step::Wait),
        3 => any::<usize>().prop_map(Step::Expire),
        3 => late(amounts()),
        1 => Just(Step::Record),
    ]
}

/// Calls that come near the limits of rolling windows, and little else.
pub(super) fn rolling_steps() -> impl Strategy<Value = Step> {
    let hold = (
        0_i64..60,
        prop::collection::vec(0_u8..2, 1..3),
        any::<bool>(),
    );
    let soon = || prop::option::of(0_i64..150);
    let limits = (
        0_u8..2,
        prop::sample::select(vec![60_u64, 61, 601]),
        soon(),
        // Few amounts, so that some stay when others change.
        prop::collection::vec(prop::sample::select(vec![5_i64, 20, 40, 60, 90, 140]), 0..5),
    );
    prop_oneof![
        8 => hold.prop_map(|(amount, budgets, charge)| Step::Hold { amount, budgets, charge, key: None }),
        8 => (any::<usize>(), 0_i64..80).prop_map(|(which, charged)| Step::Settle { which, charged }),
        2 => limits.prop_map(|(id, seconds, limit, soft)| near(id, Some((seconds, limit, soft)))),
        1 => (0_u8..2).prop_map(|id| near(id, None)),
        6 => prop_oneof![1_u32..6, 1_u32..70, 55_u32..65, 500_u32..700].prop_map(Step::Wait),
        1 => (1_u32..100).prop_map(Step::Back),
        2 => any::<usize>().prop_map(Step::Expire),
        2 => late(0_i64..80),
        2 => refund(1_i64..40),
    ]
}

fn refund(amounts: impl Strategy<Value = i64>) -> impl Strategy<Value = Step> {
    let budgets = prop::collection::vec(0_u8..3, 0..3);
    (amounts, budgets, prop::option::of(any::<usize>()))
        .prop_map(|(amount, budgets, call)| Step::Refund(amount, budgets, call))
}

fn late(charged: impl Strategy<Value = i64>) -> impl Strategy<Value = Step> {
    (any::<usize>(), charged).prop_map(|(which, charged)| Step::Late { which, charged })
}

pub(super) fn near(id: u8, rolling: Option<Rolling>) -> Step {
    Step::Limits(id, [None; 3], Default::default(), rolling)
}
