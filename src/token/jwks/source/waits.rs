//! Who waits for a fetch.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{runtime::Handle, time::timeout};

use super::Source;
use crate::{
    domain::clock::Timestamp,
    token::{
        TokenError, TokenErrorKind, VerifyingKeys,
        live::{KeyRefresh, KeySource, Wait},
    },
};

/// How long a token waits for overdue keys if its own key is known: a provider that hangs must not
/// block it.
const PATIENCE: Duration = Duration::from_millis(250);

/// The source as used by verifiers: an `Arc`, which tasks can clone.
#[derive(Debug)]
pub(in crate::token::jwks) struct SharedSource(pub(in crate::token::jwks) Arc<Source>);

impl KeySource for SharedSource {
    fn generation(&self, now: Timestamp) -> u64 {
        let Self(source) = self;
        let second = now.as_second();
        if second < source.paused_from.load(Ordering::Acquire)
            || second >= source.paused_until.load(Ordering::Acquire)
        {
            source.look(second);
        }
        source.shared.generation()
    }

    fn keys(&self) -> (Option<VerifyingKeys>, u64) {
        self.0.shared.keys()
    }

    fn is_failing(&self) -> bool {
        self.0.state().is_failing()
    }

    fn overdue(&self) -> Option<Wait> {
        let Self(source) = self;
        if !source.overdue.load(Ordering::Acquire) {
            return None;
        }
        let state = source.state();
        let (fetch, in_flight) = (state.begun, state.in_flight);
        drop(state);
        // If too many are waiting, use the current keys.
        let place = Arc::clone(&source.waiting).try_acquire_owned().ok();
        let (source, place) = (Arc::clone(source), place.filter(|_| in_flight)?);
        Some(Box::pin(async move {
            // Afterwards the token is judged by whatever keys there are.
            let _ = timeout(PATIENCE, source.end_of(fetch)).await;
            drop(place);
        }))
    }

    fn wait_for(&self, kid: Option<&str>, judged_by: u64) -> Result<KeyRefresh, TokenError> {
        const FULL: TokenError = TokenError::new(
            TokenErrorKind::NoKeys,
            "too many tokens wait for keys already",
        );
        let Self(source) = self;
        let state = source.state();
        // Keys are replaced under this lock. A token that was judged by older ones must not be told
        // that no fetch is due, but judged again.
        if source.shared.generation() != judged_by {
            return Ok(KeyRefresh::Done);
        }
        let seen = state.begun;
        let fetch = if state.in_flight {
            drop(state);
            seen
        } else {
            if !source.may_fetch_for(&state, kid) {
                return Ok(KeyRefresh::None);
            }
            let Ok(runtime) = Handle::try_current() else {
                return Ok(KeyRefresh::None);
            };
            drop(source.begin(state, &runtime));
            seen.saturating_add(1)
        };
        let place = Arc::clone(&source.waiting).try_acquire_owned();
        let place = place.map_err(|_| FULL)?;
        let (source, kid) = (Arc::clone(source), kid.map(Box::from));
        Ok(KeyRefresh::Pending(Box::pin(async move {
            source.end_of(fetch).await;
            if let Some(kid) = kid {
                source.miss(kid, seen);
            }
            drop(place);
        })))
    }
}
