//! By which a handler tells what its request really cost.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use super::money::Money;
use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// The longest name of a model that is kept, in bytes.
const MODEL_LENGTH_MAX: usize = 128;

/// Tokens as they are paid for. What was read from a cache and what was written to one are no more together than all that
/// was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// Read, all of them.
    pub(crate) input: u64,
    /// Of these, read from a cache.
    pub(crate) cached: u64,
    /// Of all that was read, written to a cache.
    pub(crate) cache_written: u64,
    /// Of that, to be kept for an hour.
    pub(crate) written_for_an_hour: u64,
    /// Written.
    pub(crate) output: u64,
}

/// The handle by which a handler sets the real cost of its request. It is in the request's extensions;
/// a clone is a reference count, and a stream may count with it while it runs.
///
/// Of several spending layers around one handler each goes by what it sets, in its own ledger and at its own prices: there is one handle,
/// whichever layer left it. What an inner one reads from the answer is its own affair, and each reads for itself. In
/// [shadow](crate::SpendingLimitLayer::shadow) it is there too where a call would have been refused, and settles nothing.
///
/// What is set counts if it is set before the body ends; later it changes nothing. A cost above the
/// hold is charged all the same, and new holds wait until it is covered.
///
/// An upgrade (101, or an answer to CONNECT) has no body: the call is settled with the head of the answer, and what a handler
/// counts while it talks over the connection comes too late. Set its cost before it answers, or settle such use elsewhere.
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
    output_is_told: AtomicBool,
    model: OnceLock<Arc<str>>,
    read: OnceLock<Tokens>,
}

impl Charge {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Counters::default()))
    }

    /// The request costs this much; a negative cost counts as nothing. Takes precedence over tokens.
    pub fn set(&self, cost: Money) {
        self.0
            .cost
            .store(cost.max(Money::ZERO).nanos(), Ordering::Relaxed);
        self.0.cost_is_set.store(true, Ordering::Release);
    }

    /// So many more tokens were read.
    pub fn add_input_tokens(&self, tokens: u64) {
        add(&self.0.input, tokens);
        self.0.tokens_are_set.store(true, Ordering::Release);
    }

    /// Of the tokens that were read and are counted as such, so many came from a cache
    /// ([`TokenPrice::cached_input`](crate::TokenPrice::cached_input)).
    pub fn add_cached_tokens(&self, tokens: u64) {
        add(&self.0.cached, tokens);
        self.0.tokens_are_set.store(true, Ordering::Release);
    }

    /// Of the tokens that were read and are counted as such, so many were written to a cache
    /// ([`TokenPrice::cache_write`](crate::TokenPrice::cache_write)).
    pub fn add_cache_write_tokens(&self, tokens: u64) {
        add(&self.0.cache_written, tokens);
        self.0.tokens_are_set.store(true, Ordering::Release);
    }

    /// The same, to be kept there for an hour ([`TokenPrice::cache_write_for_an_hour`](crate::TokenPrice::cache_write_for_an_hour)).
    pub fn add_hour_cache_write_tokens(&self, tokens: u64) {
        add(&self.0.written_for_an_hour, tokens);
        self.add_cache_write_tokens(tokens);
    }

    /// So many more tokens were written.
    ///
    /// Who counts while a stream runs begins with zero. Of a call that ends early, of which only the input was counted, nobody
    /// knows what was written by then, and the bytes that went out are charged for.
    pub fn add_output_tokens(&self, tokens: u64) {
        add(&self.0.output, tokens);
        self.0.output_is_told.store(true, Ordering::Release);
        self.0.tokens_are_set.store(true, Ordering::Release);
    }

    /// The model that answers: for the usage log, and for [`Price::by_model`](crate::Price::by_model). The
    /// first name counts, up to 128 bytes of it, without control characters.
    pub fn set_model(&self, model: &str) {
        let end = model.floor_char_boundary(MODEL_LENGTH_MAX);
        let model = model.get(..end).unwrap_or_default();
        // A name that is there already stays.
        let readable: String = model.chars().filter(|c| !c.is_control()).collect();
        let _ = self.0.model.set(Arc::from(readable));
    }

    /// What a layer read of the answer, where the handler counted nothing: for limits in tokens further out, and no word of the
    /// handler's. Those that were read first count.
    pub(crate) fn note_read(&self, tokens: Tokens) {
        let _ = self.0.read.set(tokens);
    }

    pub(crate) fn read(&self) -> Option<Tokens> {
        self.0.read.get().copied()
    }

    /// Whether tokens written were ever counted, if only zero.
    pub(crate) fn tells_output(&self) -> bool {
        self.0.output_is_told.load(Ordering::Acquire)
    }

    pub(crate) fn model(&self) -> Option<&Arc<str>> {
        self.0.model.get()
    }

    pub(crate) fn cost(&self) -> Option<Money> {
        let set = self.0.cost_is_set.load(Ordering::Acquire);
        set.then(|| Money::from_nanos(self.0.cost.load(Ordering::Relaxed)))
    }

    /// `None` when nothing was ever counted, which is not the same as zero.
    pub(crate) fn tokens(&self) -> Option<Tokens> {
        let set = self.0.tokens_are_set.load(Ordering::Acquire);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        set.then(|| {
            let (cached, cache_written) = (count(&self.0.cached), count(&self.0.cache_written));
            let for_an_hour = count(&self.0.written_for_an_hour);
            Tokens {
                // Parts that nobody counted as read were read all the same.
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
