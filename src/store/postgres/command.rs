//! Requests to the lanes, and how they are answered.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc::UnboundedSender, oneshot};

use super::leases::Orphaned;
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{Balance, Budget, Grant, HoldRefusal, LeaseId, LeaseStanding, LeaseStep, StepKind},
        budget::SpendingLimits,
        money::Money,
        usage::{Adjustment, Call, Hold, HoldId, HoldRequest, Outcome, Settlement},
    },
    store::{StoreError, gauge::Permit, settling::OnItsWay},
};

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A change in the books of one account.
pub(super) enum Command {
    Hold {
        request: HoldRequest,
        granted: Option<Result<(HoldId, Grant), HoldRefusal>>,
        /// Its permit among open holds.
        permit: Option<Permit>,
        reply: Reply<Result<Granted, HoldRefusal>>,
    },
    Settle {
        hold: Hold,
        settlement: Settlement,
        /// Until this is dropped, the hold doesn't count as expired. `None` when no call was served
        /// under the hold.
        _on_its_way: Option<OnItsWay>,
        reply: Option<Reply<()>>,
    },
    Record {
        call: Call,
        settlement: Settlement,
        permit: Permit,
        reply: Reply<()>,
    },
    /// Extends a hold of the account.
    Extend {
        account: AccountId,
        hold: HoldId,
        lifetime: Duration,
        /// Until this is dropped, the hold doesn't count as expired.
        _on_its_way: OnItsWay,
        answer: Option<bool>,
        reply: Reply<bool>,
    },
    /// Moves money into or out of an account.
    Pay {
        change: Adjustment,
        rule: fn(&mut Balance, Money) -> Option<()>,
        answer: Option<Result<Balance, StoreError>>,
        reply: Reply<Balance>,
    },
    /// Applies a step of a lease.
    Lease {
        step: Arc<LeaseStep>,
        answer: Option<LeaseStanding>,
        reply: Reply<LeaseStanding>,
    },
    /// Resolves a lease whose instance is gone.
    EndLease {
        lease: Box<Orphaned>,
        reply: Reply<()>,
    },
    SetCreditLine {
        account: AccountId,
        line: Money,
        answer: Option<Balance>,
        reply: Reply<Balance>,
    },
    SetLimits {
        account: AccountId,
        budget: BudgetId,
        limits: SpendingLimits,
        answer: Option<Budget>,
        reply: Reply<Budget>,
    },
    Flush(Reply<()>),
    Close,
}

impl Command {
    /// The account whose books it changes.
    pub(super) fn account(&self) -> Option<&AccountId> {
        match self {
            Self::Hold { request, .. } => Some(&request.call.account),
            Self::Settle { hold, .. } => Some(&hold.call.account),
            Self::Record { call, .. } => Some(&call.account),
            Self::Lease { step, .. } => Some(&step.account),
            Self::EndLease { lease, .. } => Some(&lease.account),
            Self::Pay { change, .. } => Some(&change.account),
            Self::Extend { account, .. }
            | Self::SetCreditLine { account, .. }
            | Self::SetLimits { account, .. } => Some(account),
            Self::Flush(_) | Self::Close => None,
        }
    }

    /// The account's budgets that it needs.
    pub(super) fn budgets(&self) -> &[BudgetId] {
        match self {
            Self::Hold { request, .. } => &request.budgets,
            Self::Settle { hold, .. } => &hold.budgets,
            Self::Lease { step, .. } => &step.budgets,
            Self::EndLease { lease, .. } => &lease.budgets,
            Self::Pay { change, .. } => &change.budgets,
            Self::SetLimits { budget, .. } => std::slice::from_ref(budget),
            _ => &[],
        }
    }

    /// The leases that it concerns: of a late report, its own name, and the lease of its calls.
    pub(super) fn leases(&self) -> impl Iterator<Item = LeaseId> + use<> {
        let concerned = match self {
            Self::Lease { step, .. } => match step.kind {
                StepKind::Lease => [Some(step.id), None],
                StepKind::Late(report) => [Some(step.id), Some(report.lease)],
            },
            Self::EndLease { lease, .. } => [Some(lease.id), None],
            _ => [None, None],
        };
        concerned.into_iter().flatten()
    }

    /// The client's idempotency key for the call.
    pub(super) fn idempotency_key(&self) -> Option<&str> {
        match self {
            Self::Hold { request, .. } => request.idempotency.as_ref().map(|wish| &*wish.key),
            Self::Settle { hold, .. } => hold.idempotency_key.as_deref(),
            _ => None,
        }
    }

    /// Whether the account must have a row. Refusing a hold doesn't need one.
    pub(super) fn needs_account(&self) -> bool {
        match self {
            Self::Hold { request, .. } => request.amount.is_zero(),
            Self::Settle { .. }
            | Self::Extend { .. }
            | Self::Lease { .. }
            | Self::EndLease { .. }
            | Self::Flush(_)
            | Self::Close => false,
            Self::Pay { change, .. } => !change.amount.is_zero(),
            Self::Record { .. } | Self::SetCreditLine { .. } | Self::SetLimits { .. } => true,
        }
    }

    /// Whether its caller still waits. Under heavy load most holds that waited long have lost
    /// theirs.
    pub(super) fn is_wanted(&self) -> bool {
        match self {
            Self::Hold { reply, .. } => !reply.is_closed(),
            _ => true,
        }
    }

    /// Whether it counts toward the queue's length.
    pub(super) fn is_queued(&self) -> bool {
        matches!(
            self,
            Self::Hold { .. }
                | Self::Pay { .. }
                | Self::Lease { .. }
                | Self::SetCreditLine { .. }
                | Self::SetLimits { .. }
        )
    }

    /// Whether it is retried until it succeeds, because only this process knows of it.
    pub(super) fn must_be_retried(&self) -> bool {
        self.is_charge() || self.extending().is_some()
    }

    /// Whether it records the result of a call.
    pub(super) fn is_charge(&self) -> bool {
        matches!(self, Self::Settle { .. } | Self::Record { .. })
    }

    /// Logs all that it takes to charge the call by hand.
    pub(super) fn report_unwritten(&self, error: &StoreError) {
        let (call, settlement) = match self {
            Self::Settle {
                hold, settlement, ..
            } => (&hold.call, settlement),
            Self::Record {
                call, settlement, ..
            } => (call, settlement),
            _ => return,
        };
        tracing::error!(
            target: "tollgate::postgres",
            %error,
            account = %call.account,
            request_id = %call.request_id,
            route = %call.route,
            charged = %settlement.charged,
            "the store was closed before it was known that this call is charged"
        );
    }

    /// The hold whose lifetime it extends.
    pub(super) fn extending(&self) -> Option<HoldId> {
        match self {
            Self::Extend { hold, .. } => Some(*hold),
            _ => None,
        }
    }

    /// The hold that it ends.
    pub(super) fn ending(&self) -> Option<HoldId> {
        match self {
            Self::Settle { hold, .. } => Some(hold.id),
            _ => None,
        }
    }

    /// Whether it resolves a hold without its owner.
    pub(super) fn is_resolution(&self) -> bool {
        matches!(
            self,
            Self::Settle { settlement, _on_its_way: None, .. }
                if settlement.outcome == Outcome::Abandoned
        )
    }

    /// Answers that it is done; it stays done whether or not the caller still waits. `writer`
    /// receives the give-back of a hold that its caller never receives.
    pub(super) fn succeed(self, writer: &UnboundedSender<Command>) {
        let missing = || StoreError::internal("committed without an answer");
        match self {
            Self::Hold {
                request,
                granted,
                permit,
                reply,
            } => {
                // Free the permit before the caller can ask again.
                drop(permit);
                let answer = match granted {
                    None => Err(missing()),
                    Some(Err(refusal)) => Ok(Err(refusal)),
                    Some(Ok((id, grant))) => {
                        let hold = Hold::granted(id, request, grant);
                        Ok(Ok(Granted::new(hold, writer.clone())))
                    }
                };
                let _ = reply.send(answer);
            }
            Self::Settle { reply, .. } => {
                let _ = reply.map(|reply| reply.send(Ok(())));
            }
            Self::Record { permit, reply, .. } => {
                drop(permit);
                let _ = reply.send(Ok(()));
            }
            Self::EndLease { reply, .. } | Self::Flush(reply) => {
                let _ = reply.send(Ok(()));
            }
            Self::Lease { answer, reply, .. } => {
                let _ = reply.send(answer.ok_or_else(missing));
            }
            Self::Extend { answer, reply, .. } => {
                let _ = reply.send(answer.ok_or_else(missing));
            }
            Self::Pay { answer, reply, .. } => {
                let _ = reply.send(answer.unwrap_or_else(|| Err(missing())));
            }
            Self::SetCreditLine { answer, reply, .. } => {
                let _ = reply.send(answer.ok_or_else(missing));
            }
            Self::SetLimits { answer, reply, .. } => {
                let _ = reply.send(answer.ok_or_else(missing));
            }
            Self::Close => {}
        }
    }

    /// Answers that it failed.
    pub(super) fn fail(self, error: &StoreError) {
        let error = error.clone();
        // The caller may have gone.
        match self {
            Self::Hold { permit, reply, .. } => {
                drop(permit);
                let _ = reply.send(Err(error));
            }
            Self::Settle { reply, .. } => {
                let _ = reply.map(|reply| reply.send(Err(error)));
            }
            Self::Record { permit, reply, .. } => {
                drop(permit);
                let _ = reply.send(Err(error));
            }
            Self::EndLease { reply, .. } | Self::Flush(reply) => {
                let _ = reply.send(Err(error));
            }
            Self::Lease { reply, .. } => {
                let _ = reply.send(Err(error));
            }
            Self::Extend { reply, .. } => {
                let _ = reply.send(Err(error));
            }
            Self::Pay { reply, .. } | Self::SetCreditLine { reply, .. } => {
                let _ = reply.send(Err(error));
            }
            Self::SetLimits { reply, .. } => {
                let _ = reply.send(Err(error));
            }
            Self::Close => {}
        }
    }
}

/// Gives back a hold that never reached its caller.
pub(super) fn give_back(hold: Hold) -> Command {
    Command::Settle {
        hold,
        settlement: Settlement::new(Money::ZERO, Outcome::Disconnected),
        _on_its_way: None,
        reply: None,
    }
}

/// A hold on its way to its caller. If the caller is gone by then, dropping this gives the hold
/// back.
pub(super) struct Granted {
    hold: Option<Hold>,
    writer: UnboundedSender<Command>,
}

impl Granted {
    pub(super) fn new(hold: Hold, writer: UnboundedSender<Command>) -> Self {
        Self {
            hold: Some(hold),
            writer,
        }
    }

    pub(super) fn accept(mut self) -> Option<Hold> {
        self.hold.take()
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            // Without a writer, another process resolves the hold later.
            let _ = self.writer.send(give_back(hold));
        }
    }
}
