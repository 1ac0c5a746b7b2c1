//! Keys at an address: fetched when they are needed, and seldom.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use hashbrown::HashSet;
use serde::Deserialize;
use tokio::{
    runtime::Handle,
    sync::{Mutex as Turn, Semaphore},
};

use super::{
    JwksError,
    fetch::{Allowances, Fetcher},
};
use crate::{
    domain::clock::{Clock, SystemClock, Timestamp},
    token::{
        TokenKeys, VerifyingKeys,
        live::{KeySource, Shared, Source, Wait},
    },
};

const REFRESH: Duration = Duration::from_secs(600);
const COOLDOWN: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(5);
/// Whatever the headers say, keys are fetched again within this time, and not before that.
const FRESH_MAX: Duration = Duration::from_secs(86_400);
const FRESH_MIN: Duration = Duration::from_secs(60);
/// Names of no key that are remembered. Beyond them the cooldown alone holds.
const ABSENT_MAX: usize = 1_024;
/// Requests that wait for a fetch at once; the next are told that the keys can't be had.
const WAITING_MAX: usize = 1_024;

/// A JWK set at an `https` address, or where an OpenID provider says that it is. A clone is a reference count.
///
/// - Known keys never wait: a refresh goes on beside them, and one that fails leaves them as they are.
/// - A token with an unknown `kid` waits for a fetch, if the last one was a cooldown ago or more; all who wait share it. A
///   `kid` that a fetch didn't bring is remembered. So a flood of made-up ones costs one fetch in a cooldown.
/// - While there were never any keys, or an unknown `kid` can't be looked up because the source fails, tokens are
///   answered with 503, never 401.
/// - No redirect is followed, no proxy asked, nothing beyond 256 KiB read, no address of a private network connected to.
///
/// ```
/// use tollgate::token::{JwksUrl, TokenVerifier};
///
/// let keys = JwksUrl::discover("https://id.example.com").build()?;
/// let verifier = TokenVerifier::builder(keys).issuer("https://id.example.com").audience("api").build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct JwksUrl(Arc<Inner>);

struct Inner {
    place: Place,
    fetcher: Fetcher,
    shared: Shared,
    refresh: Duration,
    cooldown: Duration,
    clock: Arc<dyn Clock>,
    /// When the keys are to be fetched again, in seconds since 1970.
    refresh_at: AtomicI64,
    state: Mutex<State>,
    /// Whose turn it is to fetch.
    turn: Arc<Turn<()>>,
    waiting: Arc<Semaphore>,
}

enum Place {
    Keys(String),
    Provider(String),
}

#[derive(Default)]
struct State {
    /// When a fetch last began, on the clock that never steps back, and how many there were.
    attempted: Option<Duration>,
    attempts: u64,
    in_flight: bool,
    failing: bool,
    absent: HashSet<Box<str>>,
}

#[derive(Deserialize)]
struct Provider {
    issuer: String,
    jwks_uri: String,
}

impl JwksUrl {
    /// Begins with the address of a JWK set.
    pub fn at(url: &str) -> JwksUrlBuilder {
        JwksUrlBuilder::new(Place::Keys(url.to_owned()))
    }

    /// Begins with an issuer whose configuration says where its keys are (OpenID Connect Discovery section 4).
    pub fn discover(issuer: &str) -> JwksUrlBuilder {
        JwksUrlBuilder::new(Place::Provider(issuer.to_owned()))
    }

    /// Fetches the keys now: at start, so that the first token doesn't wait, or that a wrong address is seen.
    ///
    /// # Errors
    /// [`JwksError`].
    pub async fn fetch(&self) -> Result<(), JwksError> {
        let _turn = self.0.turn.lock().await;
        self.0.fetch().await
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a fetch may begin.
    fn may_begin(&self, state: &State) -> bool {
        let now = self.clock.elapsed();
        state
            .attempted
            .is_none_or(|at| now.saturating_sub(at) >= self.cooldown)
    }

    /// A refresh beside those who verify, if it is time and there is a runtime to do it.
    fn refresh_beside(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        // Taken before the task begins, so that whoever waits for a key waits for this fetch.
        let Ok(turn) = Arc::clone(&self.turn).try_lock_owned() else {
            return;
        };
        {
            let mut state = self.state();
            if state.in_flight || !self.may_begin(&state) {
                return;
            }
            state.begin(self.clock.elapsed());
        }
        let this = Arc::clone(self);
        runtime.spawn(async move {
            let outcome = this.download().await;
            // The error is in the log; the keys stay.
            let _ = this.settle(outcome);
            drop(turn);
        });
    }

    async fn fetch(&self) -> Result<(), JwksError> {
        self.state().begin(self.clock.elapsed());
        // Also when whoever waits for it hangs up.
        let guard = InFlight(self);
        let outcome = self.download().await;
        std::mem::forget(guard);
        self.settle(outcome)
    }

    async fn download(&self) -> Result<(VerifyingKeys, Duration), JwksError> {
        let url = match &self.place {
            Place::Keys(url) => self.fetcher.check(url)?,
            Place::Provider(issuer) => {
                let configuration = configuration_of(issuer);
                let url = self.fetcher.check(&configuration)?;
                let document = self.fetcher.fetch(url).await?;
                let provider: Provider =
                    serde_json::from_slice(&document.json).map_err(|_| JwksError::Discovery)?;
                if provider.issuer != *issuer {
                    return Err(JwksError::Discovery);
                }
                self.fetcher.check(&provider.jwks_uri)?
            }
        };
        let document = self.fetcher.fetch(url).await?;
        let keys = VerifyingKeys::from_public_jwks(&document.json)?;
        let fresh = document.max_age.unwrap_or(self.refresh);
        Ok((
            keys,
            fresh
                .clamp(FRESH_MIN, FRESH_MAX)
                .min(self.refresh.max(FRESH_MIN)),
        ))
    }

    fn settle(
        &self,
        outcome: Result<(VerifyingKeys, Duration), JwksError>,
    ) -> Result<(), JwksError> {
        let now = self.clock.now();
        let mut state = self.state();
        state.in_flight = false;
        let (outcome, next) = match outcome {
            Ok((keys, fresh)) => {
                state.failing = false;
                let same = self
                    .shared
                    .keys()
                    .0
                    .is_some_and(|known| known.to_jwks() == keys.to_jwks());
                if !same {
                    state.absent.clear();
                    self.shared.replace(keys);
                }
                (Ok(()), fresh)
            }
            Err(error) => {
                state.failing = true;
                tracing::warn!(target: "tollgate", %error, "keys of tokens could not be fetched");
                (Err(error), self.cooldown)
            }
        };
        let next = now.saturating_add(next).unwrap_or(Timestamp::MAX);
        self.refresh_at.store(next.as_second(), Ordering::Release);
        outcome
    }

    /// Waits for a fetch that is under way, or makes one.
    async fn wait_for(self: Arc<Self>, kid: Option<Box<str>>, seen: u64) {
        let Ok(_place) = Arc::clone(&self.waiting).try_acquire_owned() else {
            return;
        };
        let _turn = self.turn.lock().await;
        let begins = {
            let state = self.state();
            state.attempts == seen && self.may_begin(&state)
        };
        if begins {
            // The error is in the log, and in what the token is told.
            let _ = self.fetch().await;
        }
        let Some(kid) = kid else { return };
        let known = self.shared.keys().0.is_some_and(|keys| keys.has(&kid));
        let mut state = self.state();
        if !known && !state.failing && state.absent.len() < ABSENT_MAX {
            state.absent.insert(kid);
        }
    }
}

impl State {
    fn begin(&mut self, at: Duration) {
        self.attempted = Some(at);
        self.attempts = self.attempts.saturating_add(1);
        self.in_flight = true;
    }
}

/// Takes the flight back when its future is dropped.
struct InFlight<'a>(&'a Inner);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.state().in_flight = false;
    }
}

/// OpenID Connect Discovery section 4.1: a slash at the end is taken away before the path is added.
fn configuration_of(issuer: &str) -> String {
    let issuer = issuer.strip_suffix('/').unwrap_or(issuer);
    format!("{issuer}/.well-known/openid-configuration")
}

/// The source as a verifier has it: an `Arc` of its own, to be handed to tasks.
#[derive(Debug)]
struct Handed(Arc<Inner>);

impl KeySource for Handed {
    fn generation(&self, now: Timestamp) -> u64 {
        if now.as_second() >= self.0.refresh_at.load(Ordering::Acquire) {
            self.0.refresh_beside();
        }
        self.0.shared.generation()
    }

    fn keys(&self) -> (Option<VerifyingKeys>, u64) {
        self.0.shared.keys()
    }

    fn is_failing(&self) -> bool {
        self.0.state().failing
    }

    fn wait_for(&self, kid: Option<&str>) -> Option<Wait> {
        let state = self.0.state();
        let worth_it = state.in_flight
            || (self.0.may_begin(&state) && kid.is_none_or(|kid| !state.absent.contains(kid)));
        if !worth_it {
            return None;
        }
        let seen = state.attempts;
        drop(state);
        let this = Arc::clone(&self.0);
        Some(Box::pin(this.wait_for(kid.map(Into::into), seen)))
    }
}

impl From<JwksUrl> for TokenKeys {
    fn from(url: JwksUrl) -> Self {
        Self(Source::Live(Arc::new(Handed(url.0))))
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Place::Keys(place) | Place::Provider(place)) = &self.place;
        f.debug_tuple("JwksUrl").field(place).finish()
    }
}

impl fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Makes a [`JwksUrl`].
#[must_use]
pub struct JwksUrlBuilder {
    place: Place,
    allowances: Allowances,
    refresh: Duration,
    cooldown: Duration,
    deadline: Duration,
    clock: Arc<dyn Clock>,
}

impl JwksUrlBuilder {
    fn new(place: Place) -> Self {
        Self {
            place,
            allowances: Allowances::default(),
            refresh: REFRESH,
            cooldown: COOLDOWN,
            deadline: DEADLINE,
            clock: SystemClock::shared(),
        }
    }

    /// After how long at most keys are fetched again; 10 minutes unless set, 1 minute at least, 1 day at most. Cache
    /// headers that say less are obeyed down to a minute.
    pub fn refresh(mut self, interval: Duration) -> Self {
        self.refresh = interval;
        self
    }

    /// How far apart fetches are at least, whatever tokens come; 30 seconds unless set, 1 second at least.
    pub fn cooldown(mut self, cooldown: Duration) -> Self {
        self.cooldown = cooldown;
        self
    }

    /// How long one answer may take, in all; 5 seconds unless set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Another source of time.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Takes keys over plain HTTP too: whoever is on the way can then sign tokens. For tests.
    pub fn dangerous_allow_http(mut self) -> Self {
        self.allowances.http = true;
        self
    }

    /// Connects to private and local addresses too: for providers on one's own network.
    pub fn dangerous_allow_private_addresses(mut self) -> Self {
        self.allowances.private_addresses = true;
        self
    }

    /// The source. Nothing is fetched yet.
    ///
    /// # Errors
    /// [`JwksError`], which names the setting.
    pub fn build(self) -> Result<JwksUrl, JwksError> {
        if self.cooldown < Duration::from_secs(1) {
            return Err(JwksError::Setting("cooldown: at least 1 second"));
        }
        if self.deadline.is_zero() {
            return Err(JwksError::Setting("deadline: some time"));
        }
        if !(FRESH_MIN..=FRESH_MAX).contains(&self.refresh) {
            return Err(JwksError::Setting("refresh: 1 minute to 1 day"));
        }
        let fetcher = Fetcher::new(self.deadline, self.allowances)?;
        match &self.place {
            Place::Keys(url) => fetcher.check(url)?,
            Place::Provider(issuer) => fetcher.check(&configuration_of(issuer))?,
        };
        Ok(JwksUrl(Arc::new(Inner {
            place: self.place,
            fetcher,
            shared: Shared::default(),
            refresh: self.refresh,
            cooldown: self.cooldown,
            clock: self.clock,
            // Nothing to refresh before the first token.
            refresh_at: AtomicI64::new(i64::MAX),
            state: Mutex::default(),
            turn: Arc::default(),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
        })))
    }
}

impl fmt::Debug for JwksUrlBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwksUrlBuilder").finish_non_exhaustive()
    }
}
