//! The task that takes leases, reports on them and gives them back: at intervals, and earlier when
//! that is needed.
//!
//! Each lease has at most one step in progress, and no lease waits for another. However the task
//! ends, nothing is granted and nobody waits afterwards.

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

use super::{
    accounts::Accounts,
    lease::StepFailure,
    steps::{Outgoing, failure},
};
use crate::{
    domain::{AccountId, books::LeaseStanding},
    repeats::{LogLine, RepeatsOfWriter},
    store::{StoreError, StoreErrorKind},
};

/// A step without an answer after this long is sent again; the store applies it once.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Answers handled in one go before other work gets its turn.
const ANSWERS_AT_ONCE: usize = 1_024;

/// Pause before retrying a step that the store rejected while a caller waits for it.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// How long a node that is closing keeps trying to report what is left.
pub(super) const SHUT_DOWN_WITHIN: Duration = Duration::from_secs(15);

pub(super) struct LeaseReporter {
    accounts: Arc<Accounts>,
    /// At most one step per lease.
    answers: JoinSet<Answer>,
    /// Accounts whose step the store rejected since the waiters were last checked.
    failed: Vec<AccountId>,
    retry: Option<Pin<Box<Sleep>>>,
    /// What the log has of reports that the store couldn't take, or refuses for what is in them.
    told: RepeatsOfWriter,
}

struct Answer {
    sent: Outgoing,
    answer: Result<LeaseStanding, StoreError>,
}

enum Event {
    /// Everything is due.
    Tick,
    /// Only urgent work is due.
    Urgent,
    Answer(Result<Answer, JoinError>),
}

impl Drop for LeaseReporter {
    fn drop(&mut self) {
        self.accounts.end();
    }
}

impl LeaseReporter {
    pub(super) fn new(accounts: Arc<Accounts>) -> Self {
        Self {
            accounts,
            answers: JoinSet::new(),
            failed: Vec::new(),
            retry: None,
            told: RepeatsOfWriter::new(),
        }
    }

    /// Runs until the node is closed and everything is reported.
    pub(super) async fn run(mut self) {
        let mut ticks = interval(self.accounts.settings.report_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.accounts.is_closed.load(Ordering::Acquire) {
            match self.next(&mut ticks).await {
                Event::Tick => self.send(None, true),
                Event::Urgent => self.send(None, false),
                Event::Answer(answer) => {
                    if self.handle_answers(answer).is_err() {
                        return;
                    }
                }
            }
            self.answer_waiters();
        }
        if timeout(SHUT_DOWN_WITHIN, self.shut_down()).await.is_err() {
            tracing::error!(target: "tollgate::ledger", "leases were not closed in time: the store did not accept everything");
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

    /// Sends what is due for one account, or for all.
    fn send(&mut self, account: Option<&AccountId>, is_tick: bool) {
        let outgoing = self.accounts.due(account, is_tick);
        for sent in outgoing {
            let answer = self.accounts.store.lease(Arc::clone(&sent.step));
            self.answers.spawn(async move {
                let answer = timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|_| {
                    let text = "the store did not answer a lease report in time";
                    Err(StoreError::new(StoreErrorKind::Unavailable, text))
                });
                Answer { sent, answer }
            });
        }
    }

    /// Handles an answer, and any others that are ready. A panicked step leaves the state unknown,
    /// which ends the reporter.
    fn handle_answers(&mut self, first: Result<Answer, JoinError>) -> Result<(), JoinError> {
        let log = |error: &JoinError| {
            tracing::error!(target: "tollgate::ledger", %error, "a lease report panicked or was cancelled");
        };
        self.handle_answer(&first.inspect_err(log)?);
        for _ in 1..ANSWERS_AT_ONCE {
            let Some(answer) = self.answers.try_join_next() else {
                break;
            };
            self.handle_answer(&answer.inspect_err(log)?);
        }
        Ok(())
    }

    fn handle_answer(&mut self, Answer { sent, answer }: &Answer) {
        match answer {
            Err(error) => self.note_failure(sent, error),
            Ok(_) => {
                if let Some(LogLine { left_out }) = self.told.succeeded() {
                    tracing::info!(target: "tollgate::ledger", left_out, "the store accepts lease reports again");
                }
            }
        }
        if self.accounts.answered(sent, answer) {
            self.send(Some(&sent.account), false);
        }
    }

    fn note_failure(&mut self, sent: &Outgoing, error: &StoreError) {
        let now = self.accounts.clock.elapsed();
        let is_passing = match failure(error) {
            StepFailure::Transient | StepFailure::Defect => true,
            StepFailure::Refused => false,
        };
        if let Some(LogLine { left_out }) = self.told.failed(error, is_passing, now) {
            tracing::error!(
                target: "tollgate::ledger",
                %error,
                left_out,
                lease = %sent.step.id,
                account = %sent.account,
                rows = sent.step.served.len(),
                "the store did not accept a lease report"
            );
        }
        if !self.failed.contains(&sent.account) {
            self.failed.push(sent.account.clone());
        }
    }

    fn answer_waiters(&mut self) {
        let others_wait = self.accounts.answer_waiters(&self.failed);
        if others_wait && !self.failed.is_empty() && self.retry.is_none() {
            self.retry = Some(Box::pin(sleep(RETRY_AFTER)));
        }
        self.failed.clear();
    }

    /// Shuts down in order: resolves open holds, reports what was served, gives back what is left.
    async fn shut_down(&mut self) {
        loop {
            self.accounts.close(None);
            // In every round: more may have been granted while the others were resolved.
            self.accounts.abandon();
            self.accounts.await_all(None);
            self.send(None, true);
            if self.accounts.is_empty() && self.answers.is_empty() {
                return;
            }
            let is_idle = self.answers.is_empty();
            // One slow answer does not delay the others.
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

    /// Handles the answers of all steps in progress.
    async fn collect(&mut self) -> Result<(), JoinError> {
        while let Some(answer) = self.answers.join_next().await {
            self.handle_answers(answer)?;
        }
        Ok(())
    }
}
