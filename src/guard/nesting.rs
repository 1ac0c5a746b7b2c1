//! Whether a guard that reports limits is nested in another one.
//!
//! An outer limiter keeps the limits that an inner one has reported, but overwrites those that a
//! handler wrote itself. Inside one guard the [`Answer`](super::course::Answer) records who wrote
//! what; between two guards an extension of the response does, which costs allocations and so is
//! left only if an outer guard will read it. Therefore a guard that reports limits sets a mark on
//! its thread while it calls or polls the inner service: whatever is called or answers during that
//! time is inside. An inner guard that is called by another task (behind a buffer) isn't seen; then
//! the outer one prevails.

use std::cell::Cell;

use super::course::Admission;

thread_local! {
    static OUTER: Cell<u32> = const { Cell::new(0) };
}

/// Runs `ask`, marked as inside a guard with this admission.
pub(super) fn inside<A: Admission, T>(ask: impl FnOnce() -> T) -> T {
    if !A::TELLS_LIMITS {
        return ask();
    }
    OUTER.set(OUTER.get().saturating_add(1));
    let _inside = Inside;
    ask()
}

/// Whether an outer guard that reports limits is calling.
pub(crate) fn is_inside() -> bool {
    OUTER.get() > 0
}

struct Inside;

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        OUTER.set(OUTER.get().saturating_sub(1));
    }
}
