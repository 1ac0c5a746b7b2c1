use super::*;
use crate::domain::{
    books::{LeaseStanding, StepKind},
    usage::{Call, Outcome, Settlement},
};

fn ann() -> AccountId {
    AccountId::new("ann").unwrap()
}

fn nanos(nanos: i64) -> Money {
    Money::from_nanos(nanos)
}

/// A lease whose first step the store has just answered.
fn open() -> LeaseState {
    let id = LeaseId {
        instance: 1,
        number: 2,
    };
    let mut lease = LeaseState::watched(id, Arc::from([]));
    assert!(lease.miss(nanos(10), Duration::ZERO, 1));
    let step = lease.open(&ann(), id, Expiry::Release, Money::MAX);
    assert!(!accept(&mut lease, step.target));
    assert!(lease.is_open_in(Windows::default()));
    lease
}

/// The store accepts the step; returns whether the lease has ended.
fn accept(lease: &mut LeaseState, amount: Money) -> bool {
    let standing = LeaseStanding {
        is_open: true,
        amount,
        windows: Windows::default(),
        left: Left {
            account: nanos(1_000_000),
            budgets: None,
        },
    };
    lease.answered(&standing).1
}

fn tick(lease: &mut LeaseState) -> Option<Arc<LeaseStep>> {
    lease.next_step(&ann(), Expiry::Release, Money::MAX, true)
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
fn a_lease_that_only_grants_reports_at_each_interval() {
    let mut lease = open();
    assert!(tick(&mut lease).is_none(), "nothing was granted");
    for _ in 0..3 {
        assert!(lease.grant(nanos(1), Duration::ZERO));
        let step = tick(&mut lease).unwrap();
        assert!(step.served.is_empty());
        assert!(!accept(&mut lease, step.target));
        assert!(tick(&mut lease).is_none(), "nothing since");
    }
}

#[test]
fn a_refused_step_is_halved_until_the_row_is_found() {
    let mut lease = open();
    for number in 0..32 {
        assert!(lease.grant(nanos(1), Duration::ZERO));
        lease.settle(served(number));
    }
    let (mut taken, mut lost, mut steps, mut is_finished) = (Vec::new(), 0, 0, false);
    while !is_finished {
        let Some(step) = tick(&mut lease) else {
            continue;
        };
        steps += 1;
        assert!(steps < 100, "it comes to an end");
        let is_bad = |row: &Served| row.call.request_id.as_str() == "13";
        if step.served.iter().any(is_bad) {
            lost += lease.failed(StepFailure::Refused, Duration::ZERO).rows;
        } else {
            taken.extend(step.served.iter().map(|row| row.call.request_id.clone()));
            is_finished = accept(&mut lease, step.target);
        }
    }
    assert!(
        is_finished,
        "of a lease that lost something nothing more is granted"
    );
    assert_eq!((taken.len(), lost), (31, 1));
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 31, "each once");
    assert_eq!(lease.unacknowledged().0, 0);
}

#[test]
fn a_defect_is_given_minutes_to_be_mended() {
    let mut lease = open();
    assert!(lease.grant(nanos(1), Duration::ZERO));
    lease.settle(served(1));
    let (mut sent, mut lost) = (0, 0);
    for tenth in 0..6_000 {
        if tick(&mut lease).is_some() {
            sent += 1;
            let elapsed = Duration::from_millis(tenth * 100);
            lost += lease.failed(StepFailure::Defect, elapsed).rows;
            assert_eq!(lost > 0, tenth >= 3_000, "{tenth}");
        }
        if lost > 0 {
            break;
        }
    }
    assert_eq!(lost, 1);
    assert!((90..120).contains(&sent), "not at every interval: {sent}");
}

#[test]
fn a_late_report_is_sent_when_its_lease_has_ended() {
    let of = |number| LeaseId {
        instance: 1,
        number,
    };
    let report = LateReport {
        windows: Windows { day: 4, month: 3 },
        lease: of(2),
        was_resolved: false,
    };
    let mut late = LeaseState::late(of(5), Arc::from([]), report, true);
    let held = Money::ZERO;
    late.settle(Served { held, ..served(1) });
    assert!(late.mark_awaited());
    assert!(tick(&mut late).is_none());
    assert!(!late.note_end(of(3), true));
    assert!(tick(&mut late).is_none(), "another has ended");
    assert!(late.note_end(of(2), true));
    assert!(!late.note_end(of(2), false), "known already");
    let step = tick(&mut late).unwrap();
    let was_resolved = true;
    let report = LateReport {
        was_resolved,
        ..report
    };
    assert_eq!(step.kind, StepKind::Late(report));
    assert!(step.ends && step.served.len() == 1);
    assert!(late.answered(&LeaseStanding::default()).1);
}
