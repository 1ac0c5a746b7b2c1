//! A shared store that goes, and that comes back.
//!
//! Processes don't all find it back at the same time, and those that haven't still admit their
//! shares. So until all have, a process asks the store only for what its own share admits as well,
//! and the share isn't changed by what the store says. A client is told the smaller count of both.

use super::{
    RateDecision, RateKey, Readings, RemoteRateStore, WindowReading, fallback::Effect,
    resilient::Inner, statistics::count,
};
use crate::{
    domain::quota::Quotas,
    store::{
        StoreError,
        remote::{Availability, RemoteServer},
    },
};

impl<R: RemoteRateStore> RemoteServer for Inner<R> {
    fn availability(&self) -> &Availability {
        &self.availability
    }

    async fn revive(&self) -> Result<(), StoreError> {
        self.remote.revive().await
    }

    fn is_lost(&self, error: &StoreError) {
        count(&self.counters.losses);
        tracing::warn!(target: "tollgate", %error, "shared rate limits: the store is gone, this process counts by itself");
    }

    fn is_back(&self) {
        tracing::info!(target: "tollgate", "shared rate limits: the store is back");
    }

    /// An answer that shows only that the store can be read is no success where it was writing that
    /// failed.
    fn is_well(&self) -> bool {
        !self.fallback.is_behind()
    }
}

impl<R: RemoteRateStore> Inner<R> {
    /// Takes from the share what is also to be asked for, while not all may have found the store
    /// back.
    pub(super) fn take_of_share_lately(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
    ) -> Option<RateDecision> {
        if !self.availability.is_back_lately() {
            return None;
        }
        self.fallback.take_also(key, quotas, cost)
    }

    /// What a caller has left that looks, while not all may have found the store back: what the
    /// store has, or the share if that is less.
    pub(super) fn left_lately(&self, key: &RateKey, quotas: &Quotas, left: Readings) -> Readings {
        if !self.availability.is_back_lately() {
            return left;
        }
        match self.fallback.share_left(key, quotas) {
            None => left,
            Some(share) => {
                let windows = left.as_slice().iter().zip(share.as_slice());
                let smaller = |(left, share): (&WindowReading, &WindowReading)| {
                    if share.remaining < left.remaining {
                        *share
                    } else {
                        *left
                    }
                };
                windows.map(smaller).collect()
            }
        }
    }

    /// Hears what the store has left, unless the share itself is kept to.
    pub(super) fn hear(&self, key: &RateKey, quotas: &Quotas, left: &Readings, effect: Effect) {
        if !self.availability.is_back_lately() {
            self.fallback.hear(key, quotas, left, effect);
        }
    }
}
