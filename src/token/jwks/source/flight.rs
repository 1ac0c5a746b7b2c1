//! A fetch, and what follows from its end.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{OVERDUE_AFTER, Source};
use crate::{
    repeats::LogLine,
    token::{VerifyingKeys, jwks::JwksError},
};

/// A fetch under way. However it ends, those who wait for it are notified.
pub(super) struct Flight {
    pub(super) source: Arc<Source>,
    pub(super) number: u64,
    pub(super) is_over: bool,
}

impl Flight {
    pub(super) fn land(
        &mut self,
        outcome: Result<(VerifyingKeys, Duration), JwksError>,
    ) -> Result<(), JwksError> {
        self.is_over = true;
        let source = &self.source;
        let settings = &source.settings;
        // Before taking the lock that tokens wait for; nobody else replaces the keys meanwhile.
        let known = source.shared.keys().0.map(|known| known.to_jwks());
        let is_news = |keys: &VerifyingKeys| known.is_none_or(|known| known != keys.to_jwks());
        let outcome = outcome.map(|(keys, fresh)| (is_news(&keys).then_some(keys), fresh));
        let now = settings.clock.elapsed();
        let mut state = source.state();
        let (outcome, fresh) = match outcome {
            Ok((news, fresh)) => {
                state.succeeded = self.number;
                state.failures = 0;
                if let Some(LogLine { left_out }) = source.failures.succeeded() {
                    let place = &settings.place;
                    tracing::info!(target: "tollgate", %place, left_out, "token keys are fetched again");
                }
                if let Some(keys) = news {
                    state.absent.clear();
                    source.shared.replace(keys);
                }
                let fresh = fresh.max(settings.cooldown);
                state.overdue_at = now.checked_add(fresh.saturating_mul(OVERDUE_AFTER));
                (Ok(()), fresh)
            }
            Err(error) => {
                if let Some(LogLine { left_out }) = source.failures.failed(&error, now) {
                    let place = &settings.place;
                    tracing::warn!(target: "tollgate", %place, %error, left_out, "could not fetch token keys");
                }
                state.failures = state.failures.saturating_add(1);
                (Err(error), source.rest(&state))
            }
        };
        state.in_flight = false;
        state.refresh_at = now.checked_add(fresh);
        source.overdue.store(false, Ordering::Release);
        source.pause_checks(settings.clock.now().as_second(), fresh);
        source.over.send_replace(self.number);
        outcome
    }
}

impl Drop for Flight {
    /// Not over: the runtime is shutting down, or the task panicked.
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.land(Err(no_end()));
        }
    }
}

pub(super) const fn no_end() -> JwksError {
    JwksError::Answer(Cow::Borrowed("the fetch came to no end"))
}
