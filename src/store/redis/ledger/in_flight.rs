//! Counts the calls in progress, so that a flush can wait for them.

use std::{
    mem,
    sync::{Mutex, MutexGuard},
};

use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::sync::lock;

/// Each call holds a clone of the current sender; when the last clone is dropped, the receiver sees
/// the channel close.
#[derive(Debug)]
pub(super) struct InFlight {
    now: Mutex<(Sender<()>, Receiver<()>)>,
    /// Earlier generations that a flush waited for and that aren't finished.
    earlier: tokio::sync::Mutex<Vec<Receiver<()>>>,
}

/// Marks a call as in progress until it is dropped.
#[derive(Debug)]
pub(super) struct InFlightCall {
    _sender: Sender<()>,
}

impl InFlight {
    pub(super) fn new() -> Self {
        Self {
            now: Mutex::new(channel(1)),
            earlier: tokio::sync::Mutex::default(),
        }
    }

    fn now(&self) -> MutexGuard<'_, (Sender<()>, Receiver<()>)> {
        lock(&self.now)
    }

    pub(super) fn ticket(&self) -> InFlightCall {
        let _sender = self.now().0.clone();
        InFlightCall { _sender }
    }

    /// Waits for all calls in progress now, but not for those that start later.
    pub(super) async fn wait(&self) {
        let mut earlier = self.earlier.lock().await;
        let (sender, receiver) = mem::replace(&mut *self.now(), channel(1));
        drop(sender);
        earlier.push(receiver);
        while let Some(receiver) = earlier.last_mut() {
            // Nothing is ever sent: this returns when all senders are gone.
            receiver.recv().await;
            earlier.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn it_waits_for_what_is_on_its_way_and_for_nothing_else() {
        let in_flight = InFlight::new();
        in_flight.wait().await;
        let first = in_flight.ticket();
        assert!(in_flight.wait().now_or_never().is_none());
        let second = in_flight.ticket();
        drop(first);
        assert!(in_flight.wait().now_or_never().is_none(), "the second one");
        drop(second);
        in_flight.wait().await;
    }
}
