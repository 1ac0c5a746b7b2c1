//! How a handler reports what its request really cost.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use super::money::Money;
use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// The longest name of a model that is kept, in bytes.
const MODEL_LENGTH_MAX: usize = 128;

/// Token counts, as they are billed. `cached` and `cache_written` are parts of `input`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// All input tokens.
    pub(crate) input: u64,
    /// Input tokens that were read from a cache.
    pub(crate) cached: u64,
    /// Input tokens that were written to a cache.
    pub(crate) cache_written: u64,
    /// Of `cache_written`: those kept for an hour.
    pub(crate) written_for_an_hour: u64,
    /// Output tokens.
    pub(crate) output: u64,
}

/// Lets a handler set the real cost of its request. It is in the request's extensions. Clones share
/// their state, so a stream can count while it runs.
///
/// With several spending layers around one handler there is still a single handle, and each layer
/// applies what is set on it to its own ledger at its own prices. Usage that a layer reads from the
/// answer is not shared: each layer reads for itself. In
/// [shadow](crate::SpendingLimitLayer::shadow) mode the handle is there even if the call would have
/// been refused; then it settles nothing.
///
/// Values must be set before the body ends; later ones have no effect. A cost above the hold is
/// still charged in full, and new holds are refused until it is covered.
///
/// An upgrade (101, or an answer to CONNECT) has no body: the call is settled when the head of the
/// answer is sent, and anything counted later over the connection comes too late. Set the cost
/// before answering, or settle such use elsewhere.
#[derive(Clone)]
pub struct Charge(Arc<Counters>);

#[derive(Default)]
struct Counters {
    cost_is_set: AtomicBool,
    cost: AtomicI64,
    tokens_are_set: AtomicBool,
    input: AtomicU64,
    cached: AtomicU64,
    cache_written: AtomicU64,
    written_for_an_hour: AtomicU64,
    output: AtomicU64,
    output_is_set: AtomicBool,
    model: OnceLock<Arc<str>>,
    read: OnceLock<Tokens>,
}

impl Charge {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Counters::default()))
    }

    /// Sets what the request costs; a negative cost counts as zero. Takes precedence over tokens.
    pub fn set(&self, cost: Money) {
        self.0
            .cost
            .store(cost.max(Money::ZERO).nanos(), Ordering::Relaxed);
        self.0.cost_is_set.store(true, Ordering::Release);
    }

    /// Adds input tokens.
    pub fn add_input_tokens(&self, tokens: u64) {
        add(&self.0.input, tokens);
        self.0.tokens_are_set.store(true, Ordering::Release);
    }

    /// Adds cached tokens: input tokens that came from a cache
    /// ([`TokenPrice::cached_input`](crate::TokenPrice::cached_input)). Count them as input too.
    pub fn add_cached_tokens(&self, tokens: u64) {
        add(&self.0.cached, tokens);
        self.0.tokens_are_set.store(true, Ordering::Release);
    }

    /// Adds input tokens that were written to a cache
    /// ([`TokenPrice::cache_write`](crate::TokenPrice::cache_write)). Count them as input too.
    pub fn add_cache_write_tokens(&self, tokens: u64) {
        add(&self.0.cache_written, tokens);
        self.0.tokens_are_set.store(true, Ordering::Release);
    }

    /// The same for tokens that the cache keeps for an hour
    /// ([`TokenPrice::cache_write_for_an_hour`](crate::TokenPrice::cache_write_for_an_hour)).
    pub fn add_hour_cache_write_tokens(&self, tokens: u64) {
        add(&self.0.written_for_an_hour, tokens);
        self.add_cache_write_tokens(tokens);
    }

    /// Adds output tokens.
    ///
    /// A handler that counts while a stream runs should start by adding zero. If a call ends early
    /// and only its input was counted, its output is unknown, and the bytes that were sent are
    /// charged instead.
    pub fn add_output_tokens(&self, tokens: u64) {
        add(&self.0.output, tokens);
        self.0.output_is_set.store(true, Ordering::Release);
        self.0.tokens_are_set.store(true, Ordering::Release);
    }

    /// Sets the model that answers, for the usage log and for
    /// [`Price::by_model`](crate::Price::by_model). Only the first call counts; the name is cut to
    /// 128 bytes, and control characters are removed.
    pub fn set_model(&self, model: &str) {
        let end = model.floor_char_boundary(MODEL_LENGTH_MAX);
        let model = model.get(..end).unwrap_or_default();
        let readable: String = model.chars().filter(|c| !c.is_control()).collect();
        let _ = self.0.model.set(Arc::from(readable));
    }

    /// Token counts that a layer read from the answer because the handler counted none. For token
    /// limits further out; not treated as the handler's own report. The first reading counts.
    pub(crate) fn note_read(&self, tokens: Tokens) {
        let _ = self.0.read.set(tokens);
    }

    pub(crate) fn read(&self) -> Option<Tokens> {
        self.0.read.get().copied()
    }

    /// Whether output tokens were ever counted, even zero.
    pub(crate) fn reports_output(&self) -> bool {
        self.0.output_is_set.load(Ordering::Acquire)
    }

    pub(crate) fn model(&self) -> Option<&Arc<str>> {
        self.0.model.get()
    }

    pub(crate) fn cost(&self) -> Option<Money> {
        let set = self.0.cost_is_set.load(Ordering::Acquire);
        set.then(|| Money::from_nanos(self.0.cost.load(Ordering::Relaxed)))
    }

    /// `None` if nothing was ever counted, which differs from zero.
    pub(crate) fn tokens(&self) -> Option<Tokens> {
        let set = self.0.tokens_are_set.load(Ordering::Acquire);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        set.then(|| {
            let (cached, cache_written) = (count(&self.0.cached), count(&self.0.cache_written));
            let for_an_hour = count(&self.0.written_for_an_hour);
            Tokens {
                // The parts are input even if the handler didn't count them as input.
                input: count(&self.0.input).max(cached.saturating_add(cache_written)),
                cached,
                cache_written,
                written_for_an_hour: for_an_hour.min(cache_written),
                output: count(&self.0.output),
            }
        })
    }
}

/// Adds, and stops at the end of the range.
fn add(counter: &AtomicU64, more: u64) {
    let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
        Some(count.saturating_add(more))
    });
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge")
            .field("cost", &self.cost())
            .field("tokens", &self.tokens())
            .finish()
    }
}
