//! What is on its way, so that it can be waited for.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Every errand has a clone of the sender of its time; when the last one is dropped, the receiver hears the end.
#[derive(Debug)]
pub(super) struct Errands {
    now: Mutex<(Sender<()>, Receiver<()>)>,
    /// What was waited for, and is not done.
    earlier: tokio::sync::Mutex<Vec<Receiver<()>>>,
}

/// Of an errand, for as long as it is on its way.
#[derive(Debug)]
pub(super) struct Ticket {
    _sender: Sender<()>,
}

impl Errands {
    pub(super) fn new() -> Self {
        Self {
            now: Mutex::new(channel(1)),
            earlier: tokio::sync::Mutex::default(),
        }
    }

    fn now(&self) -> MutexGuard<'_, (Sender<()>, Receiver<()>)> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ticket(&self) -> Ticket {
        let _sender = self.now().0.clone();
        Ticket { _sender }
    }

    /// Waits for all that are on their way now, and not for those that come meanwhile.
    pub(super) async fn wait(&self) {
        let mut earlier = self.earlier.lock().await;
        let (sender, receiver) = mem::replace(&mut *self.now(), channel(1));
        drop(sender);
        earlier.push(receiver);
        while let Some(receiver) = earlier.last_mut() {
            // Nothing is ever sent: it hears that nobody is there any more.
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
        let errands = Errands::new();
        errands.wait().await;
        let first = errands.ticket();
        assert!(errands.wait().now_or_never().is_none());
        let second = errands.ticket();
        drop(first);
        assert!(errands.wait().now_or_never().is_none(), "the second one");
        drop(second);
        errands.wait().await;
    }
}
