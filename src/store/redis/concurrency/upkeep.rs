//! The one task that frees and renews the slots of a process.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    select,
    task::{JoinHandle, JoinSet},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout},
};

use super::{Resend, Shared, gone};
use crate::{
    store::{RateKey, StoreError, remote},
    sync::lock,
};

/// Rounds of renewals in a lifetime: one may fail.
const RENEWALS: u32 = 3;
/// Slots in one call.
pub(super) const CHUNK: usize = 500;
/// Renewals that wait for their answers at a time, and releases.
const AT_ONCE: usize = 64;
/// The longest pause before a release is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long the last releases may take.
const FLUSH_MAX: Duration = Duration::from_secs(2);
const FLUSH_PAUSE: Duration = Duration::from_millis(20);

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

    /// Tells Redis of everything that is over, within two seconds.
    pub(super) async fn flush(self: &Arc<Self>) -> Result<(), StoreError> {
        let is_left = || lock(&self.held).is_anything_over();
        let all = async {
            while is_left() && !self.availability.is_down() {
                if !self.free(true).await {
                    sleep(FLUSH_PAUSE).await;
                }
            }
        };
        let _ = timeout(FLUSH_MAX, all).await;
        if is_left() { Err(gone()) } else { Ok(()) }
    }

    /// Nothing is under way, and nothing more can begin.
    fn is_done(&self) -> bool {
        self.is_closed.load(Ordering::Acquire) && lock(&self.held).len() == 0
    }

    fn pause(&self) -> Duration {
        self.lifetime.checked_div(RENEWALS).unwrap_or(self.lifetime)
    }

    async fn send(
        self: &Arc<Self>,
        operation: &str,
        key: &RateKey,
        slots: &[u64],
    ) -> Result<(), StoreError> {
        let command = self.command(operation, key, 0, slots);
        let sent = self
            .servers
            .order::<i64>(key.digest(), &command, Resend::Safe);
        remote::ask(self, pin!(sent)).await.map(drop)
    }

    /// Frees what is over; without `all`, only of keys that didn't just fail. What Redis doesn't
    /// hear of is kept.
    async fn free(self: &Arc<Self>, all: bool) -> bool {
        if self.availability.is_down() {
            return false;
        }
        let keys = lock(&self.held).keys_to_free(all);
        at_once(keys, |key| Arc::clone(self).free_of(key)).await
    }

    async fn free_of(self: Arc<Self>, key: RateKey) -> bool {
        let slots: Vec<_> = lock(&self.held).to_free(&key, usize::MAX).collect();
        for slots in slots.chunks(CHUNK) {
            let outcome = self.send("free", &key, slots).await;
            let mut held = lock(&self.held);
            if outcome.is_err() {
                held.failed_to_free(&key);
                return false;
            }
            held.freed(&key, slots);
        }
        true
    }

    /// One round of renewals. A key that fails is among the first of the next round.
    async fn renew(self: &Arc<Self>) -> bool {
        let keys = lock(&self.held).begin_round();
        at_once(keys, |key| Arc::clone(self).renew_of(key)).await
    }

    async fn renew_of(self: Arc<Self>, key: RateKey) -> bool {
        if self.availability.is_down() {
            return false;
        }
        let slots = lock(&self.held).begin_renewal(&key);
        let mut is_done = true;
        for slots in slots.chunks(CHUNK) {
            is_done &= self.send("renew", &key, slots).await.is_ok();
        }
        if lock(&self.held).renewed(&key, &slots, is_done, self.slots_max) {
            self.wake.notify_one();
        }
        is_done
    }

    /// A round begins a third of a lifetime after the last one began, and when Redis is back.
    async fn renew_always(self: &Arc<Self>) {
        let pause = self.pause();
        let mut ticks = every(pause);
        ticks.reset();
        loop {
            select! {
                _ = ticks.tick() => {}
                () = self.back.notified() => ticks.reset(),
            }
            if self.availability.is_down() {
                continue;
            }
            let began = Instant::now();
            let is_done = self.renew().await;
            let took = began.elapsed();
            if took > pause {
                tracing::warn!(target: "tollgate::redis", ?took, "renewing what is under way takes too long: slots may be taken for free");
            } else if !is_done {
                tracing::debug!(target: "tollgate::redis", "not everything that is under way was renewed");
            }
        }
    }

    /// Ends when nothing is under way any more, and nothing more can begin.
    async fn free_always(self: &Arc<Self>) {
        let mut ticks = every(self.pause().min(RETRY));
        loop {
            let all = select! {
                _ = ticks.tick() => true,
                () = self.wake.notified() => false,
            };
            if self.is_done() {
                let _ = self.flush().await;
                return;
            }
            self.free(all).await;
        }
    }
}

/// Renewals never wait for releases.
async fn keep(shared: Arc<Shared>) {
    select! {
        () = shared.renew_always() => {}
        () = shared.free_always() => {}
    }
}

/// After a late one the next is a whole period later.
fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// A call for each key, many at a time. Whether all succeeded.
async fn at_once<F>(keys: Vec<RateKey>, call: impl Fn(RateKey) -> F) -> bool
where
    F: Future<Output = bool> + Send + 'static,
{
    let (mut calls, mut are_done) = (JoinSet::new(), true);
    for key in keys {
        if calls.len() >= AT_ONCE {
            are_done &= matches!(calls.join_next().await, Some(Ok(true)));
        }
        calls.spawn(call(key));
    }
    while let Some(is_done) = calls.join_next().await {
        are_done &= is_done.unwrap_or(false);
    }
    are_done
}
