//! Hashes and compares passwords, with limited concurrency.

use std::{fmt, num::NonZero, sync::Arc, thread};

use argon2::{Algorithm, Params, Version, password_hash::phc::PasswordHash};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task,
};
use zeroize::Zeroizing;

use super::{LoginConfigError, PasswordError, hasher::Hasher};

/// The longest password that is hashed, in bytes; NIST SP 800-63B asks for at least 64 characters.
pub(super) const PASSWORD_LENGTH_MAX: usize = 1_024;

const MEMORY_KIB_MAX: u32 = 1 << 20;
const ITERATIONS_MAX: u32 = 64;
const PARALLELISM_MAX: u32 = 64;
const WAITING: usize = 64;

/// The result of comparing a password with a stored hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PasswordCheck {
    /// The password matches.
    Match,
    /// The password matches, but was hashed with lower parameters than the current ones: rehash it
    /// while it is at hand.
    MatchToRehash,
    /// The password doesn't match, or there is none.
    Mismatch,
}

/// Hashes and compares passwords with Argon2id. Cloning is cheap; clones share the queue.
///
/// Hashing runs on tokio's blocking threads, by default as many at once as there are cores; a
/// bounded number of callers wait, and further ones are refused as [`Busy`](PasswordError::Busy). A
/// caller that disconnects keeps its place until its hash is done, because the memory is in use
/// until then. The memory of as many hashes as were ever computed at once is kept for reuse: at
/// most [`concurrency`](PasswordsBuilder::concurrency) times
/// [`memory_kib`](PasswordsBuilder::memory_kib).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tollgate::login::{PasswordCheck, Passwords};
///
/// let passwords = Passwords::builder().memory_kib(64).iterations(1).build()?; // as low as only a test may go
/// let stored = passwords.hash("correct horse").await?;
/// assert!(stored.starts_with("$argon2id$v=19$m=64,t=1,p=1$"));
/// assert_eq!(passwords.verify("correct horse", Some(&stored)).await?, PasswordCheck::Match);
/// assert_eq!(passwords.verify("battery staple", Some(&stored)).await?, PasswordCheck::Mismatch);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Passwords(Arc<Inner>);

struct Inner {
    hasher: Hasher,
    /// Compared with if there is no user, so that it takes as long.
    dummy: String,
    /// Callers that are hashing or waiting.
    queue: Arc<Semaphore>,
    /// Callers that are hashing.
    slots: Arc<Semaphore>,
}

impl Passwords {
    /// Starts with OWASP's parameters for Argon2id: 19 MiB, 2 passes, 1 lane.
    pub fn builder() -> PasswordsBuilder {
        PasswordsBuilder {
            memory_kib: Params::DEFAULT_M_COST,
            iterations: Params::DEFAULT_T_COST,
            parallelism: Params::DEFAULT_P_COST,
            concurrency: thread::available_parallelism().map_or(1, NonZero::get),
            waiting: WAITING,
        }
    }

    /// The hash to store, as a PHC string with a random salt.
    ///
    /// # Errors
    /// [`PasswordError`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn hash(&self, password: &str) -> Result<String, PasswordError> {
        let password = bounded(password)?;
        self.run(move |inner| inner.hasher.hash(&password))
            .await?
            .ok_or(PasswordError::Failed)
    }

    /// Compares a password with a user's stored hash, or with a dummy hash if there is no such
    /// user, in the same time. That also holds for hashes made with lower parameters than the
    /// current ones. Those made with higher ones take longer, so lowering the parameters reveals
    /// which users existed before.
    ///
    /// # Errors
    /// [`PasswordError`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn verify(
        &self,
        password: &str,
        stored: Option<&str>,
    ) -> Result<PasswordCheck, PasswordError> {
        let password = bounded(password)?;
        let stored = stored.map(ToOwned::to_owned);
        self.run(move |inner| inner.compare(&password, stored.as_deref()))
            .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let place = Arc::clone(&self.0.queue)
            .try_acquire_owned()
            .map_err(|_| PasswordError::Busy)?;
        let slot = Arc::clone(&self.0.slots)
            .acquire_owned()
            .await
            .map_err(|_| PasswordError::Failed)?;
        let inner = Arc::clone(&self.0);
        task::spawn_blocking(move || {
            let _permits: (OwnedSemaphorePermit, OwnedSemaphorePermit) = (place, slot);
            work(&inner)
        })
        .await
        .map_err(|_| PasswordError::Failed)
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords")
            .field("parameters", self.0.hasher.params())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn compare(&self, password: &[u8], stored: Option<&str>) -> PasswordCheck {
        let parsed = stored.and_then(parse_bounded);
        if stored.is_some() && parsed.is_none() {
            tracing::error!("a stored password hash is not a valid Argon2 hash within our limits");
        }
        let Some((hash, params)) = parsed else {
            // The result is ignored: it is a mismatch in any case.
            let _ = PasswordHash::new(&self.dummy).map(|dummy| {
                self.hasher
                    .matches_hash(password, &dummy, self.hasher.params())
            });
            return PasswordCheck::Mismatch;
        };
        let fits = self.hasher.matches_hash(password, &hash, &params);
        // The timing must not reveal users whose password was hashed before the parameters were
        // raised.
        if let Some(rest) = missing_work(&params, self.hasher.params()) {
            self.hasher.burn_time(password, rest);
        }
        if !fits {
            PasswordCheck::Mismatch
        } else if self.is_outdated(&hash, &params) {
            PasswordCheck::MatchToRehash
        } else {
            PasswordCheck::Match
        }
    }

    fn is_outdated(&self, hash: &PasswordHash, params: &Params) -> bool {
        let current = self.hasher.params();
        hash.algorithm.as_str() != Algorithm::Argon2id.as_str()
            || hash
                .version
                .is_none_or(|version| version < u32::from(Version::V0x13))
            || params.m_cost() < current.m_cost()
            || params.t_cost() < current.t_cost()
            || params.p_cost() < current.p_cost()
    }
}

/// Parameters that take about as long as the time difference between the current and the stored
/// ones; `None` if there is none.
fn missing_work(stored: &Params, current: &Params) -> Option<Params> {
    // The number of blocks written, which determines the time.
    let blocks =
        |params: &Params| u64::from(params.m_cost()).saturating_mul(params.t_cost().into());
    let more = blocks(current).checked_sub(blocks(stored))?;
    let memory = more.checked_div(current.t_cost().into())?;
    let memory = u32::try_from(memory).ok()?;
    // Differences too small to measure yield `None`.
    Params::new(memory, current.t_cost(), current.p_cost(), None).ok()
}

/// A stored Argon2 hash within our own limits: a damaged row must not overload the machine.
fn parse_bounded(stored: &str) -> Option<(PasswordHash, Params)> {
    let hash = PasswordHash::new(stored).ok()?;
    let params = Params::try_from(&hash).ok()?;
    let fits = params.m_cost() <= MEMORY_KIB_MAX
        && params.t_cost() <= ITERATIONS_MAX
        && params.p_cost() <= PARALLELISM_MAX;
    fits.then_some((hash, params))
}

fn bounded(password: &str) -> Result<Zeroizing<Vec<u8>>, PasswordError> {
    if password.is_empty() || password.len() > PASSWORD_LENGTH_MAX {
        return Err(PasswordError::Length);
    }
    Ok(Zeroizing::new(password.as_bytes().to_vec()))
}

/// Makes [`Passwords`].
#[derive(Clone, Debug)]
#[must_use]
pub struct PasswordsBuilder {
    memory_kib: u32,
    iterations: u32,
    parallelism: u32,
    concurrency: usize,
    waiting: usize,
}

impl PasswordsBuilder {
    /// How much memory one hash takes, in KiB; 19,456 by default, at most 1 GiB.
    pub fn memory_kib(mut self, memory_kib: u32) -> Self {
        self.memory_kib = memory_kib;
        self
    }

    /// The number of passes; 2 by default, at most 64.
    pub fn iterations(mut self, iterations: u32) -> Self {
        self.iterations = iterations;
        self
    }

    /// The number of lanes; 1 by default, at most 64.
    pub fn parallelism(mut self, lanes: u32) -> Self {
        self.parallelism = lanes;
        self
    }

    /// How many hashes are computed at once; one per core by default.
    pub fn concurrency(mut self, hashes: usize) -> Self {
        self.concurrency = hashes;
        self
    }

    /// How many callers may wait for their turn; 64 by default.
    pub fn waiting(mut self, callers: usize) -> Self {
        self.waiting = callers;
        self
    }

    /// Builds the hasher. This computes one hash, which takes tens of milliseconds.
    ///
    /// # Errors
    /// [`LoginConfigError`], which names the setting.
    pub fn build(self) -> Result<Passwords, LoginConfigError> {
        let params = Params::new(self.memory_kib, self.iterations, self.parallelism, None)
            .ok()
            .filter(|_| {
                self.memory_kib <= MEMORY_KIB_MAX
                    && self.iterations <= ITERATIONS_MAX
                    && self.parallelism <= PARALLELISM_MAX
            })
            .ok_or(LoginConfigError::Parameters)?;
        let slots = self.concurrency.min(Semaphore::MAX_PERMITS);
        if slots == 0 {
            return Err(LoginConfigError::Concurrency);
        }
        let queue = slots.saturating_add(self.waiting);
        let hasher = Hasher::new(params);
        let mut nothing = Zeroizing::new([0_u8; 32]);
        getrandom::fill(nothing.as_mut()).map_err(|_| LoginConfigError::Failed)?;
        let dummy = hasher
            .hash(nothing.as_ref())
            .ok_or(LoginConfigError::Failed)?;
        Ok(Passwords(Arc::new(Inner {
            hasher,
            dummy,
            queue: Arc::new(Semaphore::new(queue.min(Semaphore::MAX_PERMITS))),
            slots: Arc::new(Semaphore::new(slots)),
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(stored: [u32; 3], current: [u32; 3]) -> Option<(u32, u32)> {
        let params = |[m, t, p]: [u32; 3]| Params::new(m, t, p, None).unwrap();
        let rest = missing_work(&params(stored), &params(current))?;
        Some((rest.m_cost(), rest.t_cost()))
    }

    #[test]
    fn what_a_lower_hash_takes_less_is_spent_all_the_same() {
        assert_eq!(rest([19_456, 2, 1], [19_456, 2, 1]), None);
        assert_eq!(rest([4_096, 1, 1], [19_456, 2, 1]), Some((17_408, 2)));
        assert_eq!(rest([19_456, 2, 1], [19_456, 3, 1]), Some((6_485, 3)));
        assert_eq!(
            rest([65_536, 1, 1], [19_456, 2, 1]),
            None,
            "it takes longer"
        );
        assert_eq!(
            rest([19_452, 2, 1], [19_456, 2, 1]),
            None,
            "next to nothing"
        );
        assert_eq!(rest([8, 1, 1], [1 << 20, 64, 4]), Some(((1 << 20) - 1, 64)));
    }
}
