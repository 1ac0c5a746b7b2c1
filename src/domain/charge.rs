//! How a handler reports what its request really cost.

// Named, because the models include this file from elsewhere.
#[path = "charge/tokens.rs"]
mod tokens;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

pub(crate) use tokens::{Missing, Tokens};

use super::{money::Money, usage::Tags};
use crate::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    lock,
};

/// The longest name of a model or a tier that is kept, in bytes.
const NAME_LENGTH_MAX: usize = 128;

/// The names by which providers call their ordinary tier (OpenAI; Anthropic and Gemini; Groq and
/// Vertex AI).
const ORDINARY_TIERS: [&str; 3] = ["default", "standard", "on_demand"];

/// Whether a provider calls its ordinary tier like this, in any case.
pub(crate) fn is_ordinary_tier(name: &str) -> bool {
    let mut names = ORDINARY_TIERS.iter();
    names.any(|ordinary| ordinary.eq_ignore_ascii_case(name))
}

/// The names of tiers by which one call was served, by the keys that name them: some providers name
/// two that differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tiers<'a>([Option<&'a str>; 4]);

impl<'a> Tiers<'a> {
    pub(crate) fn names(self) -> impl Iterator<Item = &'a str> + Clone {
        self.0.into_iter().flatten()
    }

    /// The first that isn't ordinary.
    pub(crate) fn special(self) -> Option<&'a str> {
        self.names().find(|name| !is_ordinary_tier(name))
    }
}

impl<'a> From<[Option<&'a str>; 4]> for Tiers<'a> {
    fn from(names: [Option<&'a str>; 4]) -> Self {
        let trimmed = names.map(|name| name.map(str::trim));
        Self(trimmed.map(|name| name.filter(|name| !name.is_empty())))
    }
}

impl<'a> From<Option<&'a str>> for Tiers<'a> {
    fn from(name: Option<&'a str>) -> Self {
        Self::from([name, None, None, None])
    }
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
    input_is_set: AtomicBool,
    /// Other tokens were counted, which are parts of these.
    parts_are_set: AtomicBool,
    input: AtomicU64,
    cached: AtomicU64,
    cache_written: AtomicU64,
    written_for_an_hour: AtomicU64,
    output: AtomicU64,
    output_is_set: AtomicBool,
    model: OnceLock<Arc<str>>,
    read: OnceLock<Tokens>,
    /// What few handlers count, apart so that other calls don't carry it.
    more: OnceLock<Box<MoreCounters>>,
}

#[derive(Default)]
struct MoreCounters {
    input_audio: AtomicU64,
    input_image: AtomicU64,
    output_audio: AtomicU64,
    output_image: AtomicU64,
    searches: AtomicU64,
    tier: OnceLock<Arc<str>>,
    tags: Mutex<Tags>,
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

    /// Adds input tokens, even zero. With these or [output tokens](Self::add_output_tokens), the
    /// handler's counts replace all those that are read from the answer, its searches too: an
    /// output that isn't counted here as well is then none, except in [limits of
    /// tokens](crate::RateLimitLayer::tokens).
    pub fn add_input_tokens(&self, tokens: u64) {
        add(&self.0.input, tokens);
        self.0.input_is_set.store(true, Ordering::Release);
    }

    /// Adds cached tokens: input tokens that came from a cache
    /// ([`TokenPrice::cached_input`](crate::TokenPrice::cached_input)). Count them as input too.
    ///
    /// Parts of the input or output alone replace no count that is read from the answer: of each
    /// part the larger count is taken, within the answer's input and output. If none is read, the
    /// parts are all there is.
    pub fn add_cached_tokens(&self, tokens: u64) {
        add(&self.0.cached, tokens);
        self.0.parts_are_set.store(true, Ordering::Release);
    }

    /// Adds input tokens that were written to a cache
    /// ([`TokenPrice::cache_write`](crate::TokenPrice::cache_write)). Count them as input too;
    /// alone they are [parts](Self::add_cached_tokens).
    pub fn add_cache_write_tokens(&self, tokens: u64) {
        add(&self.0.cache_written, tokens);
        self.0.parts_are_set.store(true, Ordering::Release);
    }

    /// The same for tokens that the cache keeps for an hour
    /// ([`TokenPrice::cache_write_for_an_hour`](crate::TokenPrice::cache_write_for_an_hour)).
    pub fn add_hour_cache_write_tokens(&self, tokens: u64) {
        add(&self.0.written_for_an_hour, tokens);
        self.add_cache_write_tokens(tokens);
    }

    /// Adds output tokens, even zero. With these or [input tokens](Self::add_input_tokens), the
    /// handler's counts replace all those that are read from the answer, its searches too.
    ///
    /// A handler that counts while a stream runs, and reads no usage from the answer, should start
    /// by adding zero. If a call ends early and only its input was counted, its output is unknown,
    /// and as many tokens as can have been sent are charged instead.
    ///
    /// Where the provider reports usage in the answer, add nothing before it has ended: whatever is
    /// added, even zero, makes the call cost that alone. To charge what a broken stream delivered,
    /// count beside it, and add the counts when the stream is dropped before its end. If it ends,
    /// the provider's usage applies.
    pub fn add_output_tokens(&self, tokens: u64) {
        add(&self.0.output, tokens);
        self.0.output_is_set.store(true, Ordering::Release);
    }

    /// Adds audio tokens of the input
    /// ([`TokenPrice::audio_input`](crate::TokenPrice::audio_input)). Count them as input too.
    pub fn add_audio_input_tokens(&self, tokens: u64) {
        self.add_more(|more| &more.input_audio, tokens);
    }

    /// Adds image tokens of the input
    /// ([`TokenPrice::image_input`](crate::TokenPrice::image_input)). Count them as input too.
    pub fn add_image_input_tokens(&self, tokens: u64) {
        self.add_more(|more| &more.input_image, tokens);
    }

    /// Adds audio tokens of the output
    /// ([`TokenPrice::audio_output`](crate::TokenPrice::audio_output)). Count them as output too.
    pub fn add_audio_output_tokens(&self, tokens: u64) {
        self.add_more(|more| &more.output_audio, tokens);
    }

    /// Adds image tokens of the output
    /// ([`TokenPrice::image_output`](crate::TokenPrice::image_output)). Count them as output too.
    pub fn add_image_output_tokens(&self, tokens: u64) {
        self.add_more(|more| &more.output_image, tokens);
    }

    /// Adds web searches that the provider made for the call
    /// ([`TokenPrice::web_searches`](crate::TokenPrice::web_searches)).
    ///
    /// They replace nothing: they are charged beside the tokens that the handler counts, or else
    /// beside the tokens and searches that are read from the answer. If nobody counts tokens, those
    /// are estimated as if the client had left: the input that was held for, and the bytes that
    /// were sent, up to the hold. Add zero tokens if there were none.
    pub fn add_web_searches(&self, searches: u64) {
        add(&self.0.more.get_or_init(Box::default).searches, searches);
    }

    fn add_more(&self, counter: impl FnOnce(&MoreCounters) -> &AtomicU64, more: u64) {
        add(counter(self.0.more.get_or_init(Box::default)), more);
        self.0.parts_are_set.store(true, Ordering::Release);
    }

    /// Sets the provider's tier that served the call, for the usage log and for
    /// [`TokenPrice::tier`](crate::TokenPrice::tier), in place of those that the answer names. Only
    /// the first call counts; the name is treated like that of a [model](Self::set_model), without
    /// spaces around it. An empty one is none.
    pub fn set_service_tier(&self, tier: &str) {
        let tier = readable(tier.trim());
        if !tier.trim().is_empty() {
            let more = self.0.more.get_or_init(Box::default);
            let _ = more.tier.set(tier);
        }
    }

    /// Sets the model that answers, for the usage log and for
    /// [`Price::by_model`](crate::Price::by_model). Only the first call counts; the name is cut to
    /// 128 bytes, and control characters are removed.
    pub fn set_model(&self, model: &str) {
        let _ = self.0.model.set(readable(model));
    }

    /// Notes a [tag](Tags) in the call's row of the usage log, in place of one of the same name: a
    /// customer or a feature that the request's head doesn't tell. It doesn't change what is
    /// charged. One that is not valid, or one too many, is left out, and the first such one is
    /// logged.
    pub fn tag(&self, name: &str, value: &str) {
        let more = self.0.more.get_or_init(Box::default);
        lock(&more.tags).note(name, value);
    }

    pub(crate) fn tags(&self) -> Tags {
        let more = self.0.more.get();
        more.map_or_else(Tags::default, |more| lock(&more.tags).clone())
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

    fn counts_input(&self) -> bool {
        self.0.input_is_set.load(Ordering::Acquire)
    }

    pub(crate) fn model(&self) -> Option<&Arc<str>> {
        self.0.model.get()
    }

    pub(crate) fn service_tier(&self) -> Option<&Arc<str>> {
        self.0.more.get().and_then(|more| more.tier.get())
    }

    pub(crate) fn cost(&self) -> Option<Money> {
        let set = self.0.cost_is_set.load(Ordering::Acquire);
        set.then(|| Money::from_nanos(self.0.cost.load(Ordering::Relaxed)))
    }

    /// Whether input or output was ever counted, even zero: then what the answer reports doesn't
    /// matter.
    pub(crate) fn counts_tokens(&self) -> bool {
        self.counts_input() || self.reports_output()
    }

    /// What was counted here or, unless tokens were, in the answer: `read`.
    pub(crate) fn tokens_beside(&self, read: Option<Tokens>) -> Option<Tokens> {
        let counted = self.tokens();
        match (counted, read) {
            (Some(parts), Some(read)) if !self.counts_tokens() => Some(read.with_parts_of(parts)),
            (None, read) => read,
            (counted, _) => counted,
        }
    }

    /// `None` if nothing was ever counted, which differs from zero. Searches alone leave the input
    /// unknown.
    pub(crate) fn tokens(&self) -> Option<Tokens> {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let has_tokens = self.counts_tokens() || self.0.parts_are_set.load(Ordering::Acquire);
        let more = self.0.more.get();
        let count_more = |of: fn(&MoreCounters) -> &AtomicU64| more.map_or(0, |m| count(of(m)));
        let searches = count_more(|more| &more.searches);
        (has_tokens || searches > 0).then(|| {
            // The parts are input or output even if the handler didn't count them as such.
            let counted = Tokens {
                input: count(&self.0.input),
                input_is_unknown: !has_tokens,
                missing: Missing::unless(self.counts_input(), self.reports_output()),
                cached: count(&self.0.cached),
                cache_written: count(&self.0.cache_written),
                written_for_an_hour: count(&self.0.written_for_an_hour),
                input_audio: count_more(|more| &more.input_audio),
                input_image: count_more(|more| &more.input_image),
                output: count(&self.0.output),
                output_audio: count_more(|more| &more.output_audio),
                output_image: count_more(|more| &more.output_image),
                searches,
            };
            counted.with_whole_parts()
        })
    }
}

/// A name for the log: short, and without control characters.
fn readable(name: &str) -> Arc<str> {
    let end = name.floor_char_boundary(NAME_LENGTH_MAX);
    let name = name.get(..end).unwrap_or_default();
    let readable: String = name.chars().filter(|c| !c.is_control()).collect();
    Arc::from(readable)
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
