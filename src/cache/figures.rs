//! The limits and statistics of a cache.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

/// The limits of a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheBounds {
    /// The maximum number of values.
    pub(crate) capacity: u64,
    /// How long a value is served, counted from before it was loaded.
    pub(crate) ttl: Duration,
    /// The maximum number of known absences; they never evict a value.
    pub(crate) negative_capacity: u64,
    /// How long a known absence is remembered.
    pub(crate) negative_ttl: Duration,
}

/// The statistics of a cache since its creation.
///
/// The figures are read one after the other, not as one snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStatistics {
    /// Answered with a value from memory.
    pub hits: u64,
    /// Answered from memory with a known absence.
    pub negative_hits: u64,
    /// Not answered from memory.
    pub misses: u64,
    /// Queries to the store.
    pub loads: u64,
    /// Answered with a stale value because the store failed.
    pub stale_hits: u64,
    /// Values and known absences that were evicted to make room for others.
    pub evictions: u64,
    /// Values in memory, approximately.
    pub entries: u64,
    /// Known absences in memory, approximately.
    pub negative_entries: u64,
}

/// Hits are counted in the table.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) negative_hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) loads: AtomicU64,
    pub(super) stale_hits: AtomicU64,
    pub(super) evictions: Arc<AtomicU64>,
}
