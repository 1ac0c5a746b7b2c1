//! The task that takes leases, reports and gives back: at intervals, and before where that is wanted.
//!
//! Of each lease one step is under way at a time, and no lease waits for another's. Whatever ends the task, nothing is
//! granted and nobody waits afterwards.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    task::{JoinError, JoinSet},
    time::{Interval, MissedTickBehavior, Sleep, interval, sleep, timeout},
};

use super::{accounts::Accounts, steps::Outgoing};
use crate::{
    domain::{AccountId, books::LeaseStanding},
    store::{StoreError, StoreErrorKind},
};

/// After that a step that is not answered is sent again: it is taken once.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Answers after which others have their turn.
const ANSWERS_AT_ONCE: usize = 1_024;

/// How long what the store did not take waits while somebody waits for it.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// How long a node that ends tries to tell what is left.
pub(super) const LEAVE_WITHIN: Duration = Duration::from_secs(15);

pub(super) struct Agent {
    accounts: Arc<Accounts>,
    /// At most one of each lease.
    answers: JoinSet<Answer>,
    /// Of these the store did not take a step, since waiters were looked at.
    failed: Vec<AccountId>,
    retry: Option<Pin<Box<Sleep>>>,
}

struct Answer {
    sent: Outgoing,
    answer: Result<LeaseStanding, StoreError>,
}

enum Event {
    /// It is time for everything.
    Tick,
    /// Something does not wait for its time.
    Urgent,
    Answer(Result<Answer, JoinError>),
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.accounts.end();
    }
}

impl Agent {
    pub(super) fn new(accounts: Arc<Accounts>) -> Self {
        Self {
            accounts,
            answers: JoinSet::new(),
            failed: Vec::new(),
            retry: None,
        }
    }

    /// The agent's work, until the node ends and everything is told.
    pub(super) async fn run(mut self) {
        let mut ticks = interval(self.accounts.settings.report_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.accounts.is_closed.load(Ordering::Acquire) {
            match self.next(&mut ticks).await {
                Event::Tick => self.send(None, true),
                Event::Urgent => self.send(None, false),
                Event::Answer(answer) => {
                    if self.take(answer).is_err() {
                        return;
                    }
                }
            }
            self.answer_waiters();
        }
        if timeout(LEAVE_WITHIN, self.leave()).await.is_err() {
            tracing::error!(target: "tollgate::ledger", "the store did not let a node end in time");
        }
    }

    async fn next(&mut self, ticks: &mut Interval) -> Event {
        let accounts = Arc::clone(&self.accounts);
        let mut urgent = pin!(accounts.urgent.notified());
        poll_fn(|context| {
            if ticks.poll_tick(context).is_ready() {
                return Poll::Ready(Event::Tick);
            }
            if urgent.as_mut().poll(context).is_ready() || self.poll_retry(context).is_ready() {
                return Poll::Ready(Event::Urgent);
            }
            match self.answers.poll_join_next(context) {
                Poll::Ready(Some(answer)) => Poll::Ready(Event::Answer(answer)),
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    fn poll_retry(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(retry) = &mut self.retry else {
            return Poll::Pending;
        };
        let retry = retry.as_mut().poll(context);
        if retry.is_ready() {
            self.retry = None;
        }
        retry
    }

    /// Sends what is due of an account, or of all.
    fn send(&mut self, account: Option<&AccountId>, is_tick: bool) {
        let outgoing = self.accounts.due(account, is_tick);
        for sent in outgoing {
            let answer = self.accounts.store.lease(Arc::clone(&sent.step));
            self.answers.spawn(async move {
                let answer = timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|_| {
                    let text = "a step of a lease was not answered in time";
                    Err(StoreError::new(StoreErrorKind::Unavailable, text))
                });
                Answer { sent, answer }
            });
        }
    }

    /// Takes an answer, and those that are there besides. One that broke off leaves nothing to rely on.
    fn take(&mut self, first: Result<Answer, JoinError>) -> Result<(), JoinError> {
        let told = |error: &JoinError| {
            tracing::error!(target: "tollgate::ledger", %error, "a step of a lease broke off");
        };
        self.take_one(&first.inspect_err(told)?);
        for _ in 1..ANSWERS_AT_ONCE {
            let Some(answer) = self.answers.try_join_next() else {
                break;
            };
            self.take_one(&answer.inspect_err(told)?);
        }
        Ok(())
    }

    fn take_one(&mut self, Answer { sent, answer }: &Answer) {
        if let Err(error) = answer {
            tracing::error!(
                target: "tollgate::ledger",
                %error,
                lease = %sent.step.id,
                account = %sent.account,
                rows = sent.step.served.len(),
                "the store did not take a step of a lease"
            );
            if !self.failed.contains(&sent.account) {
                self.failed.push(sent.account.clone());
            }
        }
        if self.accounts.answered(sent, answer) {
            self.send(Some(&sent.account), false);
        }
    }

    fn answer_waiters(&mut self) {
        let others_wait = self.accounts.answer_waiters(&self.failed);
        if others_wait && !self.failed.is_empty() && self.retry.is_none() {
            self.retry = Some(Box::pin(sleep(RETRY_AFTER)));
        }
        self.failed.clear();
    }

    /// Ends in order: what is open is resolved, what was served is told, what is left is given back.
    async fn leave(&mut self) {
        loop {
            self.accounts.close(None);
            // Each time: one may have been granted while the others were resolved.
            self.accounts.abandon();
            self.accounts.owe_all(None);
            self.send(None, true);
            if self.accounts.is_empty() && self.answers.is_empty() {
                return;
            }
            let is_idle = self.answers.is_empty();
            // A slow one does not keep the others waiting.
            let round = timeout(RETRY_AFTER, self.collect()).await;
            let must_pause = is_idle || !self.failed.is_empty();
            self.answer_waiters();
            match round {
                Ok(Err(_)) => return,
                Ok(Ok(())) if must_pause => sleep(RETRY_AFTER).await,
                Ok(Ok(())) | Err(_) => {}
            }
        }
    }

    /// Takes the answers of all that is under way.
    async fn collect(&mut self) -> Result<(), JoinError> {
        while let Some(answer) = self.answers.join_next().await {
            self.take(answer)?;
        }
        Ok(())
    }
}
