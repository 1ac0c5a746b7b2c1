//! The engine in this process's memory: nothing survives a restart.

mod rate;

pub use rate::{MemoryRateLimiter, RateDecision, WindowReading};
