//! The one task that frees and renews the slots of a process.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
};

use tokio::{runtime::Handle, task::JoinHandle, time::sleep};

use super::{Resend, Shared};
use crate::{
    store::{RateKey, StoreError, remote},
    sync::lock,
};

/// Renewals in a lifetime: two may fail.
const RENEWALS: u32 = 3;
/// Slots in one call.
const CHUNK: usize = 500;

impl Shared {
    /// Starts the task, unless it runs. One that ended with its runtime is started again.
    pub(super) fn keep_up(self: &Arc<Self>) {
        let mut upkeep = lock(&self.upkeep);
        if upkeep.as_ref().is_none_or(JoinHandle::is_finished)
            && let Ok(runtime) = Handle::try_current()
        {
            *upkeep = Some(runtime.spawn(keep(Arc::clone(self))));
        }
    }

    fn is_done(&self) -> bool {
        let is_idle = lock(&self.held).is_empty() || self.availability.is_down();
        self.is_closed.load(Ordering::Acquire) && is_idle
    }

    async fn send(
        self: &Arc<Self>,
        operation: &str,
        key: &RateKey,
        slots: &[u64],
    ) -> Result<(), StoreError> {
        for slots in slots.chunks(CHUNK) {
            let command = self.command(operation, key, 0, slots);
            let sent = self
                .servers
                .order::<i64>(key.digest(), &command, Resend::Safe);
            remote::ask(self, pin!(sent)).await?;
        }
        Ok(())
    }

    /// Frees what is over. What Redis doesn't hear of is kept, for when it is back.
    async fn free(self: &Arc<Self>) {
        if self.availability.is_down() {
            return;
        }
        let mut over = lock(&self.held).take_over().into_iter();
        while let Some((key, slots)) = over.next() {
            if self.send("free", &key, &slots).await.is_err() {
                let mut held = lock(&self.held);
                for (key, slots) in std::iter::once((key, slots)).chain(over) {
                    held.free_later(key, slots, self.slots_max);
                }
                return;
            }
        }
    }

    async fn renew(self: &Arc<Self>) {
        let slots = lock(&self.held).slots();
        for (key, slots) in slots {
            if self.send("renew", &key, &slots).await.is_err() {
                return;
            }
        }
    }
}

/// Renewals and releases take turns, so no slot is renewed after its release.
async fn keep(shared: Arc<Shared>) {
    let pause = shared.lifetime.checked_div(RENEWALS).unwrap_or_default();
    while !shared.is_done() {
        let mut due = pin!(sleep(pause));
        loop {
            tokio::select! {
                () = &mut due => break,
                () = shared.wake.notified() => {}
            }
            if shared.renews_now.swap(false, Ordering::AcqRel) {
                break;
            }
            shared.free().await;
            if shared.is_done() {
                return;
            }
        }
        shared.renew().await;
        shared.free().await;
    }
}
