use super::*;
use crate::domain::usage::{Call, Outcome, Settlement};

fn ann() -> AccountId {
    AccountId::new("ann").unwrap()
}

fn nanos(nanos: i64) -> Money {
    Money::from_nanos(nanos)
}

/// A lease of which the store has just said how it stands.
fn open() -> Share {
    let id = LeaseId {
        instance: 1,
        number: 2,
    };
    let mut share = Share::watched(id, Arc::from([]));
    assert!(share.miss(nanos(10), Duration::ZERO, 1));
    let step = share.open(&ann(), id, Expiry::Release, Money::MAX);
    assert!(!told(&mut share, step.target));
    assert!(share.is_open_in(Windows::default()));
    share
}

/// The store took the step; whether that was the end.
fn told(share: &mut Share, amount: Money) -> bool {
    let standing = LeaseStanding {
        is_open: true,
        amount,
        windows: Windows::default(),
        left: Left {
            account: nanos(1_000_000),
            budgets: None,
        },
    };
    share.answered(&standing).1
}

fn tick(share: &mut Share) -> Option<Arc<LeaseStep>> {
    share.next_step(&ann(), Expiry::Release, Money::MAX, true)
}

fn served(number: usize) -> Served {
    Served {
        call: Call {
            request_id: number.to_string().into(),
            account: ann(),
            principal: Arc::from("ann"),
            key: None,
            route: Arc::from("/"),
            started_at: crate::domain::clock::Timestamp::UNIX_EPOCH,
        },
        held: nanos(1),
        settlement: Settlement::new(nanos(1), Outcome::Completed),
    }
}

#[test]
fn who_only_grants_asks_at_each_interval_how_the_account_stands() {
    let mut share = open();
    assert!(tick(&mut share).is_none(), "nothing was granted");
    for _ in 0..3 {
        assert!(share.grant(nanos(1), Duration::ZERO));
        let step = tick(&mut share).unwrap();
        assert!(step.served.is_empty());
        assert!(!told(&mut share, step.target));
        assert!(tick(&mut share).is_none(), "nothing since");
    }
}

#[test]
fn a_step_that_is_refused_is_told_in_halves_until_the_row_is_found() {
    let mut share = open();
    for number in 0..32 {
        assert!(share.grant(nanos(1), Duration::ZERO));
        share.settle(served(number));
    }
    let (mut taken, mut lost, mut steps, mut is_over) = (Vec::new(), 0, 0, false);
    while !is_over {
        let Some(step) = tick(&mut share) else {
            continue;
        };
        steps += 1;
        assert!(steps < 100, "it comes to an end");
        let is_bad = |row: &Served| row.call.request_id.as_str() == "13";
        if step.served.iter().any(is_bad) {
            lost += share.failed(StepFailure::Refused, Duration::ZERO).rows;
        } else {
            taken.extend(step.served.iter().map(|row| row.call.request_id.clone()));
            is_over = told(&mut share, step.target);
        }
    }
    assert!(
        is_over,
        "of a lease that lost something nothing more is granted"
    );
    assert_eq!((taken.len(), lost), (31, 1));
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 31, "each once");
    assert_eq!(share.untold().0, 0);
}

#[test]
fn a_defect_is_given_minutes_to_be_mended() {
    let mut share = open();
    assert!(share.grant(nanos(1), Duration::ZERO));
    share.settle(served(1));
    let (mut sent, mut lost) = (0, 0);
    for tenth in 0..6_000 {
        if tick(&mut share).is_some() {
            sent += 1;
            let elapsed = Duration::from_millis(tenth * 100);
            lost += share.failed(StepFailure::Defect, elapsed).rows;
            assert_eq!(lost > 0, tenth >= 3_000, "{tenth}");
        }
        if lost > 0 {
            break;
        }
    }
    assert_eq!(lost, 1);
    assert!((90..120).contains(&sent), "not at every interval: {sent}");
}
