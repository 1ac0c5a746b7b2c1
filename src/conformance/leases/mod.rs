//! The laws of a ledger whose money can be leased.
//!
//! Each takes a ledger in which nobody has anything, and the clock that it reads.
//! [`leases`](super::leases()) runs them all.
//!
//! They are about [`LeaseStore::lease`]: what a node may do with a lease afterwards is
//! [`LeasedLedger`](crate::store::LeasedLedger)'s business. What to do with a step, and with what
//! result, is decided by [`Lease`](crate::books::Lease). That the leases of an instance that fell
//! silent are resolved takes a second store on the same books, and is none of them.

mod money;
mod steps;

use std::{sync::Arc, time::Duration};

use super::later;
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{LeaseId, LeaseStanding, LeaseStep, Served, StepKind},
        clock::{Clock, ManualClock},
        money::Money,
        page::Page,
        usage::{Call, Credit, Expiry, HoldRequest, Outcome, Settlement, UsageEntry},
    },
    store::LeaseStore,
};

pub use money::{
    a_charge_counts_in_the_day_of_its_lease, a_lease_grows_by_an_eighth_and_past_no_limit,
    of_many_leases_at_once_no_more_is_set_aside_than_there_is,
    what_cost_more_than_was_leased_is_charged_all_the_same,
    what_is_leased_is_there_for_nobody_else, what_is_needed_no_more_is_given_back,
    what_was_served_is_charged_and_written_down,
};
pub use steps::{
    a_late_report_counts_once_and_where_its_hold_did, a_lease_ends_with_its_last_step,
    a_lease_is_opened_by_its_first_step_and_for_a_living_instance, a_step_counts_once,
    a_store_tells_its_instance_and_its_time,
};

const DAY: Duration = Duration::from_secs(86_400);

type Time = Arc<ManualClock>;

fn nanos(nanos: i64) -> Money {
    Money::from_nanos(nanos)
}

fn ann() -> AccountId {
    AccountId::new("ann").unwrap()
}

fn budget() -> BudgetId {
    BudgetId::new("key-1").unwrap()
}

/// A lease of the store's own instance.
fn lease<S: LeaseStore>(store: &S, number: u64) -> LeaseId {
    LeaseId {
        instance: store.tenure().instance(),
        number,
    }
}

fn costs(charged: i64) -> Settlement {
    Settlement::new(nanos(charged), Outcome::Completed)
}

/// A hold beside the leases.
fn request<S: LeaseStore>(store: &S, amount: i64) -> HoldRequest {
    HoldRequest {
        call: step(lease(store, 0), 1, &[0], 0).served[0].call.clone(),
        budgets: [budget()].as_slice().into(),
        amount: nanos(amount),
        lifetime: Duration::from_secs(60),
        expiry: Expiry::Release,
        idempotency: None,
    }
}

/// A step of ann's lease: calls that cost so much, and how much is to be set aside then.
fn step(id: LeaseId, number: u64, served: &[i64], target: i64) -> LeaseStep {
    let served = served.iter().enumerate().map(|(row, cost)| Served {
        call: Call {
            request_id: format!("call-{number}-{row}").into(),
            account: ann(),
            principal: Arc::from("ann"),
            key: None,
            route: Arc::from("POST /chat"),
            started_at: later(0),
        },
        held: nanos(7),
        settlement: costs(*cost),
    });
    LeaseStep {
        id,
        kind: StepKind::Lease,
        number,
        account: ann(),
        budgets: Arc::from([budget()]),
        expiry: Expiry::Release,
        served: served.collect(),
        target: nanos(target),
        ends: false,
    }
}

async fn apply<S: LeaseStore>(store: &S, step: LeaseStep) -> LeaseStanding {
    store.lease(Arc::new(step)).await.unwrap()
}

async fn pay<S: LeaseStore>(store: &S, amount: i64) {
    let credit = Credit {
        account: ann(),
        amount: nanos(amount),
        reference: "invoice-1".to_owned(),
    };
    store.credit(credit).await.unwrap();
}

/// What ann's account has settled and held.
async fn account<S: LeaseStore>(store: &S) -> (i64, i64) {
    let balance = store.balance(&ann()).await.unwrap();
    (balance.settled.nanos(), balance.held.nanos())
}

/// What today's budget has settled and held.
async fn today<S: LeaseStore>(store: &S) -> (i64, i64) {
    let spent = store.budget(&ann(), &budget()).await.unwrap();
    (spent.day.settled.nanos(), spent.day.held.nanos())
}

/// Newest first.
async fn rows<S: LeaseStore>(store: &S) -> Vec<UsageEntry> {
    let page = Page::first(1_000);
    store.usage(&ann(), page).await.unwrap().items
}

/// Two seconds before a day ends, which the store has noticed.
async fn late_in_the_day<S: LeaseStore>(store: &S, clock: &ManualClock) {
    clock.advance(DAY - Duration::from_secs(2));
    store.flush().await.unwrap();
    assert!(
        store
            .tenure()
            .holds(store.tenure().instance(), clock.elapsed(), clock.now()),
        "a flush confirms that the store is alive"
    );
}
