//! When keys at an address are fetched, and who waits for them.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use hashbrown::HashMap;
use serde::Deserialize;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};

use super::{JwksError, fetch::Fetcher};
use crate::{
    domain::clock::{Clock, Timestamp},
    token::{
        TokenError, TokenErrorKind, VerifyingKeys,
        key::DefaultAlgorithms,
        live::{KeyRefresh, KeySource, Shared, Wait},
    },
};

/// Whatever the headers say, keys are fetched again within `FRESH_MAX`, and not before `FRESH_MIN`.
pub(super) const FRESH_MAX: Duration = Duration::from_secs(86_400);
pub(super) const FRESH_MIN: Duration = Duration::from_secs(60);
/// How many absent key names are remembered. Beyond them only the cooldown limits fetches.
const ABSENT_MAX: usize = 1_024;
/// For how many cooldowns they are remembered. With one, a made-up name that keeps coming would
/// claim the next fetch too, always before a key that is new; but a name that was used before its
/// key existed must not be blocked for long.
const ABSENT_FOR: u32 = 2;
/// How many tokens wait for a fetch at once; beyond them the keys are reported as unavailable.
const WAITING_MAX: usize = 1_024;
/// How long not to look again if there was no runtime to fetch in.
const PAUSE: Duration = Duration::from_secs(1);
/// Keys are overdue after this many times their freshness; until then no token waits for newer
/// ones.
const OVERDUE_AFTER: u32 = 2;

/// The most that is shown of a provider's own name for itself, in characters.
const ISSUER_SHOWN: usize = 200;

/// How long after a first failure a verifier without any keys asks again. Each further failure
/// doubles it, up to the cooldown.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long a token waits for overdue keys if its own key is known: a provider that hangs must not
/// block it.
const PATIENCE: Duration = Duration::from_millis(250);

/// The location of the keys.
pub(super) enum Location {
    Keys(String),
    Provider(String),
}

/// Without the query, which may hold a secret.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Keys(address) | Self::Provider(address)) = self;
        f.write_str(address.split('?').next().unwrap_or_default())
    }
}

/// The settings of the builder.
pub(super) struct Settings {
    pub(super) place: Location,
    pub(super) fetcher: Fetcher,
    pub(super) algorithms: DefaultAlgorithms,
    pub(super) refresh: Duration,
    pub(super) cooldown: Duration,
    pub(super) clock: Arc<dyn Clock>,
}

pub(super) struct Source {
    settings: Settings,
    shared: Shared,
    state: Mutex<State>,
    /// Between these moments (in seconds since 1970) nobody checks whether a fetch is due, so that
    /// the monotonic clock needn't be read for each token.
    paused_from: AtomicI64,
    paused_until: AtomicI64,
    /// Whether a fetch is under way for keys that were due long before it began, because no tokens
    /// came meanwhile.
    overdue: AtomicBool,
    /// The number of the last completed fetch.
    over: watch::Sender<u64>,
    waiting: Arc<Semaphore>,
}

/// All moments are of the monotonic clock.
#[derive(Default)]
struct State {
    /// How many fetches have begun: they run one after the other, each identified by its number.
    begun: u64,
    began_at: Option<Duration>,
    in_flight: bool,
    /// The last fetch that brought keys.
    succeeded: u64,
    /// How many of the last completed fetches brought none.
    failures: u32,
    refresh_at: Option<Duration>,
    /// From when the current keys are too old to use while newer ones may be available.
    overdue_at: Option<Duration>,
    /// Names that a fetch didn't bring although it began after they were requested, with the moment
    /// of that.
    absent: HashMap<Box<str>, Duration>,
}

impl State {
    fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

#[derive(Deserialize)]
struct Provider {
    issuer: String,
    jwks_uri: String,
}

impl Source {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            shared: Shared::default(),
            state: Mutex::default(),
            // There is nothing to refresh before the first token.
            paused_from: AtomicI64::new(i64::MIN),
            paused_until: AtomicI64::new(i64::MAX),
            overdue: AtomicBool::new(false),
            over: watch::Sender::new(0),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
        }
    }

    /// Fetches now, regardless of the cooldown; if a fetch is under way, after it.
    pub(super) async fn fetch(self: &Arc<Self>) -> Result<(), JwksError> {
        let runtime = Handle::try_current();
        let runtime = runtime.map_err(|_| JwksError::Answer("no Tokio runtime is here".into()))?;
        loop {
            match self.begin_or_meet(&runtime) {
                Ok(fetch) => return fetch.await.unwrap_or_else(|_| Err(no_end())),
                Err(other) => self.end_of(other).await,
            }
        }
    }

    /// Returns the number of the other fetch if one is under way.
    fn begin_or_meet(
        self: &Arc<Self>,
        runtime: &Handle,
    ) -> Result<JoinHandle<Result<(), JwksError>>, u64> {
        let state = self.state();
        if state.in_flight {
            return Err(state.begun);
        }
        Ok(self.begin(state, runtime))
    }

    /// Starts a fetch in its own task, because its waiters may disconnect.
    fn begin(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        runtime: &Handle,
    ) -> JoinHandle<Result<(), JwksError>> {
        let now = self.settings.clock.elapsed();
        state.begun = state.begun.saturating_add(1);
        state.began_at = Some(now);
        state.in_flight = true;
        let is_overdue = !state.is_failing() && state.overdue_at.is_some_and(|at| at <= now);
        self.overdue.store(is_overdue, Ordering::Release);
        self.paused_until.store(i64::MAX, Ordering::Release);
        self.paused_from.store(i64::MIN, Ordering::Release);
        let mut flight = Flight {
            source: Arc::clone(self),
            number: state.begun,
            is_over: false,
        };
        // A runtime that is shutting down drops the task here, and with it the flight, which takes
        // the lock.
        drop(state);
        runtime.spawn(async move {
            let outcome = flight.source.download().await;
            flight.land(outcome)
        })
    }

    async fn end_of(&self, fetch: u64) {
        let mut over = self.over.subscribe();
        // It fails only without a sender, which is `self`.
        let _ = over.wait_for(|over| *over >= fetch).await;
    }

    /// Starts a refresh if it is due and there is a runtime; otherwise notes how long it isn't.
    fn look(self: &Arc<Self>, second: i64) {
        let state = self.state();
        if state.in_flight {
            return;
        }
        let now = self.settings.clock.elapsed();
        let refresh_at = state.refresh_at.unwrap_or(Duration::MAX);
        let left = refresh_at.saturating_sub(now);
        match Handle::try_current() {
            Ok(runtime) if left.is_zero() => drop(self.begin(state, &runtime)),
            // The wall clock may have been set.
            _ => self.pause_checks(second, left.max(PAUSE)),
        }
    }

    fn pause_checks(&self, from: i64, duration: Duration) {
        let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        let until = from.saturating_add(seconds);
        self.paused_until.store(until, Ordering::Release);
        self.paused_from.store(from, Ordering::Release);
    }

    async fn download(&self) -> Result<(VerifyingKeys, Duration), JwksError> {
        let url = match &self.settings.place {
            Location::Keys(url) => self.settings.fetcher.check(url)?,
            Location::Provider(issuer) => {
                let configuration = configuration_of(issuer);
                let url = self.settings.fetcher.check(&configuration)?;
                let document = self.settings.fetcher.fetch(url).await?;
                let other = |found: Option<&str>| JwksError::Discovery {
                    expected: issuer.clone(),
                    found: found.map(|found| found.chars().take(ISSUER_SHOWN).collect()),
                };
                let provider: Provider =
                    serde_json::from_slice(&document.json).map_err(|_| other(None))?;
                if provider.issuer != *issuer {
                    return Err(other(Some(&provider.issuer)));
                }
                self.settings.fetcher.check(&provider.jwks_uri)?
            }
        };
        let document = self.settings.fetcher.fetch(url).await?;
        let keys = VerifyingKeys::from_public_jwks(&document.json)?;
        let keys = self.settings.algorithms.of(keys)?;
        let fresh = document.max_age.unwrap_or(self.settings.refresh);
        Ok((
            keys,
            fresh
                .clamp(FRESH_MIN, FRESH_MAX)
                .min(self.settings.refresh.max(FRESH_MIN)),
        ))
    }

    /// Remembers that no key has this name, if a fetch that began after `seen` shows it.
    fn miss(&self, kid: Box<str>, seen: u64) {
        let known = self.shared.keys().0.is_some_and(|keys| keys.has(&kid));
        let now = self.settings.clock.elapsed();
        let mut state = self.state();
        if known || state.succeeded <= seen {
            return;
        }
        if state.absent.len() >= ABSENT_MAX {
            state.absent.retain(|_, at| self.is_recent(*at, now));
        }
        if state.absent.len() < ABSENT_MAX {
            state.absent.insert(kid, now);
        }
    }

    fn is_recent(&self, at: Duration, now: Duration) -> bool {
        now.saturating_sub(at) < self.settings.cooldown.saturating_mul(ABSENT_FOR)
    }

    /// Whether a fetch for a key of that name is neither known to be futile nor too soon.
    fn may_fetch_for(&self, state: &State, kid: Option<&str>) -> bool {
        let now = self.settings.clock.elapsed();
        let rested = |at| now.saturating_sub(at) >= self.rest(state);
        let missed = kid.and_then(|kid| state.absent.get(kid));
        state.began_at.is_none_or(rested) && !missed.is_some_and(|at| self.is_recent(*at, now))
    }

    /// How long after a fetch the next one may begin: the cooldown, which is for tokens with made-up
    /// names, or less while there are no keys at all, and therefore no token is good.
    fn rest(&self, state: &State) -> Duration {
        let cooldown = self.settings.cooldown;
        if !state.is_failing() || self.shared.keys().0.is_some() {
            return cooldown;
        }
        let doublings = state.failures.saturating_sub(1).min(16);
        let retry_after = RETRY_AFTER.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(1));
        retry_after.min(cooldown)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fetch under way. However it ends, those who wait for it are notified.
struct Flight {
    source: Arc<Source>,
    number: u64,
    is_over: bool,
}

impl Flight {
    fn land(
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
                if let Some(keys) = news {
                    state.absent.clear();
                    source.shared.replace(keys);
                }
                let fresh = fresh.max(settings.cooldown);
                state.overdue_at = now.checked_add(fresh.saturating_mul(OVERDUE_AFTER));
                (Ok(()), fresh)
            }
            Err(error) => {
                let place = &settings.place;
                tracing::warn!(target: "tollgate", %place, %error, "could not fetch token keys");
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

const fn no_end() -> JwksError {
    JwksError::Answer(Cow::Borrowed("the fetch came to no end"))
}

/// OpenID Connect Discovery section 4.1: a trailing slash is removed before the path is appended.
pub(super) fn configuration_of(issuer: &str) -> String {
    let issuer = issuer.strip_suffix('/').unwrap_or(issuer);
    format!("{issuer}/.well-known/openid-configuration")
}

/// The source as used by verifiers: an `Arc`, which tasks can clone.
#[derive(Debug)]
pub(super) struct SharedSource(pub(super) Arc<Source>);

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

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Location::Keys(place) | Location::Provider(place)) = &self.settings.place;
        f.debug_tuple("JwksUrl").field(place).finish()
    }
}
