//! When keys at an address are fetched.

mod flight;
mod location;
mod waits;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use hashbrown::HashMap;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::JoinHandle,
};

use self::flight::{Flight, no_end};
pub(super) use self::{
    location::{Location, configuration_of},
    waits::SharedSource,
};
use super::{JwksError, fetch::Fetcher};
use crate::{
    domain::clock::Clock,
    repeats::Repeats,
    token::{key::DefaultAlgorithms, live::Shared},
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

/// How long after a first failure a verifier without any keys asks again. Each further failure
/// doubles it, up to the cooldown.
const RETRY_AFTER: Duration = Duration::from_secs(1);

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
    failures: Repeats,
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
            failures: Repeats::new(),
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
            let outcome = flight.source.settings.download().await;
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

    /// How long after a fetch the next one may begin: the cooldown, which is for tokens with
    /// made-up names, or less while there are no keys at all, and therefore no token is good.
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

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.settings.place.address();
        f.debug_tuple("JwksUrl").field(&place).finish()
    }
}
