//! What is sent to the store, and what its answers change.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    accounts::{Account, Accounts, Scarce, lock, random},
    builder::Settings,
    share::{Answered, StepFailure},
};
use crate::{
    domain::{
        AccountId,
        books::{LeaseId, LeaseStanding, LeaseStep},
        budget::Windows,
        money::Money,
    },
    store::{StoreError, StoreErrorKind, gauge::Gauge},
};

/// A step that is to be sent, and of which lease.
pub(super) struct Outgoing {
    pub(super) account: AccountId,
    pub(super) step: Arc<LeaseStep>,
}

/// When accounts are looked at.
#[derive(Clone, Copy)]
struct Look {
    is_tick: bool,
    elapsed: Duration,
    windows: Windows,
    instance: u64,
}

impl Accounts {
    /// What is to be sent now of an account, or of all, and forgets what is over. `is_tick`: what waits for its time is
    /// due.
    pub(super) fn due(&self, account: Option<&AccountId>, is_tick: bool) -> Vec<Outgoing> {
        let look = Look {
            is_tick,
            elapsed: self.clock.elapsed(),
            windows: self.store.windows(self.clock.now()),
            instance: self.store.tenure().instance(),
        };
        let mut outgoing = Vec::new();
        if let Some(id) = account {
            if let Some(account) = self.shard(id).get_mut(id) {
                self.look_at(id, account, look, &mut outgoing);
            }
            return outgoing;
        }
        for shard in &self.shards {
            lock(shard).retain(|id, account| {
                self.look_at(id, account, look, &mut outgoing);
                let is_kept = !account.is_forgotten(look.elapsed);
                if !is_kept {
                    Gauge::leave(&self.known, 1);
                }
                is_kept
            });
        }
        outgoing
    }

    fn look_at(
        &self,
        id: &AccountId,
        account: &mut Account,
        look: Look,
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
        account.resolve(look.elapsed, &*self.clock);
        let may_open = !self.is_closed.load(Ordering::Acquire);
        let mut shares = std::mem::take(&mut account.shares);
        for share in &mut shares {
            if share.is_busy(busy_from) {
                let may_open = may_open && !account.is_exact(&share.budgets, look.elapsed);
                if may_open && Gauge::enter(&self.leases, leases_max) {
                    match self.name() {
                        Some(name) => outgoing.push(Outgoing {
                            account: id.clone(),
                            step: share.open(id, name, expiry, lease_max),
                        }),
                        None => Gauge::leave(&self.leases, 1),
                    }
                }
            } else if !share.is_watched() {
                let is_idle = look.elapsed.saturating_sub(share.last_used) >= idle_after;
                let is_ours = share.id.instance == look.instance;
                if is_idle || !is_ours || share.is_of_before(look.windows) {
                    share.close();
                }
                let step = share.next_step(id, expiry, lease_max, look.is_tick);
                outgoing.extend(step.map(|step| Outgoing {
                    account: id.clone(),
                    step,
                }));
            }
            if look.is_tick {
                share.look_back(lease_max);
            }
        }
        shares.retain(|share| {
            let is_over = share.is_over();
            if is_over && !share.is_watched() {
                Gauge::leave(&self.leases, 1);
            }
            !is_over
        });
        account.shares = shares;
    }

    fn name(&self) -> Option<LeaseId> {
        Some(LeaseId {
            instance: self.store.tenure().instance(),
            number: random().ok()?,
        })
    }

    /// The store's answer to a step; whether there is more to do at once.
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
        let Some(share) = account.share(sent.step.id) else {
            return false;
        };
        let (Answered { rows, scarcity }, is_over) = match answer {
            Ok(standing) => share.answered(standing),
            Err(error) => (share.failed(failure(error), self.clock.elapsed()), false),
        };
        let has_more = answer.is_ok() && !is_over && (share.is_urgent() || share.owes());
        if is_over {
            account.shares.retain(|share| share.id != sent.step.id);
            Gauge::leave(&self.leases, 1);
        }
        if let Some(scarcity) = scarcity {
            let scarce = if scarcity.is_of_account {
                Scarce::Account
            } else {
                Scarce::Budgets(&sent.step.budgets)
            };
            account.be_exact(scarce, self.clock.elapsed());
        }
        drop(shard);
        Gauge::leave(&self.places, rows);
        has_more
    }

    /// Forgets every lease: from none is anything granted any more. Returns how many calls nobody will hear of, and what
    /// those cost that had ended.
    pub(super) fn give_up(&self) -> (usize, Money) {
        let (mut calls, mut charged) = (0_usize, Money::ZERO);
        self.each(None, |account| {
            calls = calls.saturating_add(account.open.take_all().len());
            for share in account.shares.drain(..) {
                let (rows, cost) = share.untold();
                calls = calls.saturating_add(rows);
                charged = charged.saturating_add(cost);
                if !share.is_watched() {
                    Gauge::leave(&self.leases, 1);
                }
            }
        });
        (calls, charged)
    }
}

fn failure(error: &StoreError) -> StepFailure {
    match error.kind() {
        StoreErrorKind::Unavailable | StoreErrorKind::Busy => StepFailure::Passing,
        StoreErrorKind::Internal => StepFailure::Defect,
        _ => StepFailure::Refused,
    }
}
