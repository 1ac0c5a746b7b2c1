//! Gives back holds that nobody settles. Those that can't be resolved, because their books can't be
//! read, don't block the others.

use std::{collections::BTreeMap, time::Duration};

use hashbrown::HashSet;

use super::{
    super::{accounts::load, batch::UnitOfWork, convert::Failure},
    STEP_HOLDS,
};
use crate::{
    domain::{
        AccountId, BudgetId,
        usage::{Hold, HoldId, Settlement},
    },
    store::StoreError,
};

/// How long a hold that can't be resolved is skipped.
const PUT_OFF: Duration = Duration::from_secs(60);

impl UnitOfWork<'_> {
    /// Resolves this instance's overdue holds, each by its own policy; `false`: there are more.
    pub(super) fn resolve_overdue(&mut self) -> Result<bool, Failure> {
        if self.tally.is_anew {
            // The known holds belong to the instance that this one replaced.
            return Ok(true);
        }
        let overdue = self
            .maintenance
            .overdue(self.elapsed, &self.settings.settling);
        let all_done = overdue.len() < STEP_HOLDS;
        let mut wanted = BTreeMap::<i64, HashSet<u64>>::new();
        for id in overdue {
            match self.bundles.bundle_of(id)? {
                Some(first) => {
                    wanted.entry(first).or_default().insert(id.number);
                }
                // It was settled in this transaction, or is gone for another reason.
                None if self.tally.ended.contains(&id) => {}
                None => self.tally.vanished.push(id.number),
            }
        }
        let mut holds = Vec::new();
        for (first, numbers) in &wanted {
            let is_wanted = |number| numbers.contains(&number);
            if !self.bundles.read(*first, is_wanted, &mut holds)? {
                let instance = self.maintenance.instance;
                let numbers = numbers.iter().copied();
                self.put_off(numbers.map(|number| HoldId { instance, number }));
            }
        }
        self.give_back(&holds)?;
        Ok(all_done)
    }

    /// Resolves all holds of an instance, each by its own policy; `false`: there are more. Those
    /// that can't be resolved don't block the others.
    pub(super) fn resolve_all_of(&mut self, instance: u64) -> Result<bool, Failure> {
        if self.maintenance.stuck.contains_key(&instance) {
            return Ok(true);
        }
        let (mut all_done, mut all_readable) = (true, true);
        let mut holds = Vec::new();
        for first in self.bundles.of(instance)? {
            if holds.len() >= STEP_HOLDS {
                all_done = false;
                break;
            }
            let (put_off, settling) = (&self.maintenance.put_off, &self.settings.settling);
            let wanted = |number| {
                let id = HoldId { instance, number };
                // A hold whose settlement is waiting isn't abandoned.
                !put_off.contains_key(&id) && !settling.contains(id)
            };
            all_readable &= self.bundles.read(first, wanted, &mut holds)?;
        }
        all_readable &= self.give_back(&holds)?;
        let mut put_off = self.maintenance.put_off.keys();
        if all_done && !(all_readable && put_off.all(|id| id.instance != instance)) {
            let until = self.elapsed.saturating_add(PUT_OFF);
            self.maintenance.stuck.insert(instance, until);
        }
        Ok(all_done)
    }

    fn put_off(&mut self, ids: impl Iterator<Item = HoldId>) {
        let until = self.elapsed.saturating_add(PUT_OFF);
        self.maintenance.put_off.extend(ids.map(|id| (id, until)));
    }

    /// `false`: some can't be resolved.
    fn give_back(&mut self, holds: &[Hold]) -> Result<bool, Failure> {
        let (mut unreadable, mut resolved) = (HashSet::new(), 0_usize);
        for hold in holds {
            let age = self.now.duration_since(hold.call.started_at);
            let settlement = Settlement::abandoned(hold.amount, hold.expiry, age, &hold.budgets);
            let account = &hold.call.account;
            match self.look_into(account, &hold.budgets)? {
                Ok(()) => {
                    self.resolve(hold, &settlement)?;
                    resolved = resolved.saturating_add(1);
                }
                Err(error) => {
                    self.put_off(std::iter::once(hold.id));
                    // Log each account once.
                    if unreadable.insert(account) {
                        tell_unreadable(account, &error);
                    }
                }
            }
        }
        if resolved > 0 {
            tracing::warn!(
                target: "tollgate::sqlite",
                holds = resolved,
                "resolved holds that nobody settled"
            );
        }
        Ok(unreadable.is_empty())
    }

    /// Whether the account's books can be read; if not, that must not stop everyone's writes.
    pub(in crate::store::sqlite) fn is_readable(
        &mut self,
        account: &AccountId,
        budgets: &[BudgetId],
    ) -> Result<bool, Failure> {
        let outcome = self.look_into(account, budgets)?;
        if let Err(error) = &outcome {
            tell_unreadable(account, error);
        }
        Ok(outcome.is_ok())
    }

    fn look_into(
        &mut self,
        account: &AccountId,
        budgets: &[BudgetId],
    ) -> Result<Result<(), StoreError>, Failure> {
        match load(&mut self.accounts, &mut self.statements, account, budgets) {
            Ok(_) => Ok(Ok(())),
            Err(failure) if failure.is_passing() => Err(failure),
            Err(failure) => Ok(Err(failure.0)),
        }
    }
}

fn tell_unreadable(account: &AccountId, error: &StoreError) {
    tracing::error!(target: "tollgate::sqlite", %error, %account, "can't resolve what is held");
}
