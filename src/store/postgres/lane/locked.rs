//! Calls of accounts that others keep locked: set aside, so that the rest of the lane doesn't wait.

use std::collections::VecDeque;

use hashbrown::HashSet;

use super::{
    super::{command::Command, convert::Failure},
    Lane, Suspects,
};
use crate::{domain::AccountId, repeats::LogLine};

/// Accounts remembered as locked; beyond that the set is cleared and rebuilt.
const LOCKED_MAX: usize = 1_024;

impl Lane {
    /// Checks which of the accounts locked earlier still are, and sets their calls aside so that
    /// others don't wait for them.
    pub(super) async fn set_locked_aside(
        &mut self,
        batch: &mut Vec<Command>,
    ) -> Result<(), Failure> {
        let mut accounts = batch.iter().filter_map(Command::account);
        if self.locked.is_empty() || !accounts.any(|account| self.locked.contains(account)) {
            return Ok(());
        }
        self.check_locks(batch, Suspects::Known).await?;
        self.set_aside(batch);
        Ok(())
    }

    /// Records which accounts of the batch are locked now.
    pub(super) async fn check_locks(
        &mut self,
        batch: &[Command],
        suspects: Suspects,
    ) -> Result<(), Failure> {
        let accounts = batch.iter().filter_map(Command::account);
        let accounts: HashSet<AccountId> = accounts
            .filter(|account| suspects == Suspects::All || self.locked.contains(*account))
            .cloned()
            .collect();
        let locked = self.locked_among(&accounts).await?;
        self.locked.retain(|account| !accounts.contains(account));
        if self.locked.len().saturating_add(locked.len()) > LOCKED_MAX {
            self.locked.clear();
        }
        self.locked.extend(locked);
        Ok(())
    }

    /// Takes the calls of locked accounts out of the batch. Settlements and holds wait; everything
    /// else fails.
    pub(super) fn set_aside(&mut self, batch: &mut Vec<Command>) {
        let is_locked = |command: &mut Command| {
            let account = command.account();
            account.is_some_and(|account| self.locked.contains(account))
        };
        let aside: Vec<Command> = batch.extract_if(.., is_locked).collect();
        if aside.is_empty() {
            return;
        }
        let failure = Failure::locked();
        let now = self.shared.settings.clock.elapsed();
        if let Some(LogLine { left_out }) = self.shared.locked_calls.failed(&failure.error, now) {
            tracing::warn!(
                target: "tollgate::postgres",
                left_out,
                calls = aside.len(),
                "accounts are locked by others: their calls wait"
            );
        }
        for command in aside {
            let waits = matches!(command, Command::Hold { .. }) && command.is_wanted();
            if waits && !self.closing {
                self.retry_reason = Some(failure.error.clone());
                self.retries.push_back(command);
            } else {
                self.retry_or_fail(command, &failure, VecDeque::push_back);
            }
        }
        self.schedule_retry();
    }
}
