//! Limits how slowly a body may arrive: a client that starts a body and falls silent would keep
//! what was read of it in memory.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

/// The longest silence between two frames.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long a whole body may take, counted from the first time it was waited for.
const WHOLE_MAX: Duration = Duration::from_secs(30);

/// The timers of one body. A body that has already arrived needs none.
#[derive(Default)]
pub(crate) struct Pace {
    silence: Option<Pin<Box<Sleep>>>,
    whole: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// Ready if the body has timed out, given that nothing has arrived; otherwise wakes the task
    /// when it does.
    pub(crate) fn poll_timeout(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let clocks = [
            (&mut self.silence, SILENCE_MAX),
            (&mut self.whole, WHOLE_MAX),
        ];
        for (clock, time) in clocks {
            let clock = clock.get_or_insert_with(|| Box::pin(sleep(time)));
            if clock.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Something has arrived.
    pub(crate) fn made_progress(&mut self) {
        self.silence = None;
    }
}
