//! The steps sent to the store, and how its answers are applied.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    account::Account,
    accounts::{Accounts, random},
    builder::Settings,
    lease::{Answered, StepFailure},
};
use crate::{
    domain::{
        AccountId,
        books::{LeaseId, LeaseStanding, LeaseStep},
        budget::Windows,
        money::Money,
    },
    store::{StoreError, StoreErrorKind, gauge::Gauge},
    sync::lock,
};

/// A step to be sent, and the account it belongs to.
pub(super) struct Outgoing {
    pub(super) account: AccountId,
    pub(super) step: Arc<LeaseStep>,
}

/// What a sweep of the accounts is measured against.
#[derive(Clone, Copy)]
struct Sweep {
    is_tick: bool,
    elapsed: Duration,
    windows: Windows,
    instance: u64,
}

impl Accounts {
    /// Returns what is to be sent now for an account, or for all, and forgets what is finished.
    /// `is_tick`: what waits for the interval is due too.
    pub(super) fn due(&self, account: Option<&AccountId>, is_tick: bool) -> Vec<Outgoing> {
        let sweep = Sweep {
            is_tick,
            elapsed: self.clock.elapsed(),
            windows: self.store.windows(self.clock.now()),
            instance: self.store.tenure().instance(),
        };
        let mut outgoing = Vec::new();
        if let Some(id) = account {
            if let Some(account) = self.shard(id).get_mut(id) {
                self.sweep_account(id, account, sweep, &mut outgoing);
            }
            return outgoing;
        }
        for shard in &self.shards {
            lock(shard).retain(|id, account| {
                self.sweep_account(id, account, sweep, &mut outgoing);
                let is_kept = !account.is_forgotten(sweep.elapsed);
                if !is_kept {
                    Gauge::leave(&self.known, 1);
                }
                is_kept
            });
        }
        outgoing
    }

    fn sweep_account(
        &self,
        id: &AccountId,
        account: &mut Account,
        sweep: Sweep,
        outgoing: &mut Vec<Outgoing>,
    ) {
        let Settings {
            expiry,
            lease_max,
            busy_from,
            leases_max,
            idle_after,
            ..
        } = self.settings;
        account.resolve(sweep.elapsed, &*self.clock);
        let may_open = !self.is_closed.load(Ordering::Acquire);
        let mut leases = std::mem::take(&mut account.leases);
        for lease in &mut leases {
            if lease.is_busy(busy_from) {
                let may_open = may_open && !account.is_suspended(&lease.budgets, sweep.elapsed);
                if may_open && Gauge::enter(&self.leases, leases_max) {
                    match self.new_id() {
                        Some(new_id) => outgoing.push(Outgoing {
                            account: id.clone(),
                            step: lease.open(id, new_id, expiry, lease_max),
                        }),
                        None => Gauge::leave(&self.leases, 1),
                    }
                }
            } else if !lease.is_watched() {
                let is_idle = sweep.elapsed.saturating_sub(lease.last_used) >= idle_after;
                let is_ours = lease.id.instance == sweep.instance;
                if is_idle || !is_ours || lease.is_stale_for(sweep.windows) {
                    lease.close();
                }
                let step = lease.next_step(id, expiry, lease_max, sweep.is_tick);
                outgoing.extend(step.map(|step| Outgoing {
                    account: id.clone(),
                    step,
                }));
            }
            if sweep.is_tick {
                lease.end_interval(lease_max);
            }
        }
        let dead: Vec<LeaseId> = leases
            .extract_if(.., |lease| lease.is_finished())
            .filter(|lease| !lease.is_watched())
            .map(|lease| lease.id)
            .collect();
        account.leases = leases;
        for id in dead {
            Gauge::leave(&self.leases, 1);
            if account.note_end(id, true) {
                self.urgent.notify_one();
            }
        }
    }

    pub(super) fn new_id(&self) -> Option<LeaseId> {
        Some(LeaseId {
            instance: self.store.tenure().instance(),
            number: random().ok()?,
        })
    }

    /// Applies the store's answer to a step; returns whether the lease needs another step right
    /// away.
    pub(super) fn answered(
        &self,
        sent: &Outgoing,
        answer: &Result<LeaseStanding, StoreError>,
    ) -> bool {
        let mut shard = self.shard(&sent.account);
        let Some(account) = shard.get_mut(&sent.account) else {
            return false;
        };
        account.answers = account.answers.wrapping_add(1);
        let Some(lease) = account.lease(sent.step.id) else {
            return false;
        };
        let (Answered { rows, scarcity }, is_finished) = match answer {
            Ok(standing) => lease.answered(standing),
            Err(error) => (lease.failed(failure(error), self.clock.elapsed()), false),
        };
        let mut has_more =
            answer.is_ok() && !is_finished && (lease.is_urgent() || lease.is_awaited());
        if is_finished {
            account.leases.retain(|lease| lease.id != sent.step.id);
            Gauge::leave(&self.leases, 1);
            let was_resolved = answer.as_ref().is_ok_and(|standing| !standing.is_open);
            has_more = account.note_end(sent.step.id, was_resolved);
        }
        if let Some(scarcity) = scarcity {
            account.suspend_leasing(scarcity, &sent.step.budgets, self.clock.elapsed());
        }
        drop(shard);
        Gauge::leave(&self.unreported, rows);
        has_more
    }

    /// Forgets every lease, so that nothing is granted any more. Returns how many calls will never
    /// be reported, and the cost of those that had ended.
    pub(super) fn give_up(&self) -> (usize, Money) {
        let (mut calls, mut charged) = (0_usize, Money::ZERO);
        self.each(None, |account| {
            calls = calls.saturating_add(account.open.take_all().len());
            for lease in account.leases.drain(..) {
                let (rows, cost) = lease.unacknowledged();
                calls = calls.saturating_add(rows);
                charged = charged.saturating_add(cost);
                if !lease.is_watched() {
                    Gauge::leave(&self.leases, 1);
                }
            }
        });
        (calls, charged)
    }
}

/// Why the store did not accept a step.
pub(super) fn failure(error: &StoreError) -> StepFailure {
    match error.kind() {
        StoreErrorKind::Unavailable | StoreErrorKind::Busy => StepFailure::Transient,
        StoreErrorKind::Internal => StepFailure::Defect,
        _ => StepFailure::Refused,
    }
}
