//! How slowly a body may come: whoever begins one and falls silent holds what was read of it in memory.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

/// The longest silence between two frames.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long all of a body may take, counted from the first time that it was waited for.
const WHOLE_MAX: Duration = Duration::from_secs(30);

/// The clocks of one body. A body that is there costs none.
#[derive(Default)]
pub(crate) struct Pace {
    silence: Option<Pin<Box<Sleep>>>,
    whole: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// Whether it is given up, now that there is nothing of it; else the task is woken when it is to be.
    pub(crate) fn poll_given_up(&mut self, context: &mut Context<'_>) -> Poll<()> {
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

    /// There was something of it.
    pub(crate) fn went_on(&mut self) {
        self.silence = None;
    }
}
