//! The bounds of a cache, and how it fares.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

/// The bounds of a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheBounds {
    /// How many values at most.
    pub(crate) capacity: u64,
    /// How long a value is served, counted from before it was loaded.
    pub(crate) ttl: Duration,
    /// How many absent keys are remembered at most; they never push out a value.
    pub(crate) negative_capacity: u64,
    /// How long an absent key is remembered.
    pub(crate) negative_ttl: Duration,
}

/// How often a cache was asked, and what came of it, since it was made.
///
/// The figures are read one after the other, not at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStatistics {
    /// Answered with a value from memory.
    pub hits: u64,
    /// Answered from memory that there is none.
    pub negative_hits: u64,
    /// Not answered from memory.
    pub misses: u64,
    /// Times the store was asked.
    pub loads: u64,
    /// Answered with a value that was too old, because the store failed.
    pub stale_hits: u64,
    /// Values and known absences that made room for others.
    pub evictions: u64,
    /// Values in memory, about.
    pub entries: u64,
    /// Known absences in memory, about.
    pub negative_entries: u64,
}

/// Hits are counted by the table.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) negative_hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) loads: AtomicU64,
    pub(super) stale_hits: AtomicU64,
    pub(super) evictions: Arc<AtomicU64>,
}
