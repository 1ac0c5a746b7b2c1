//! Whether a guard that tells limits stands inside another one.
//!
//! An outer limiter leaves what an inner one has told, and writes over what a handler sent of its own. Inside one guard
//! the answer in hand knows who wrote what; between two guards an extension of the response says so, which costs
//! allocations, and so is left only where somebody is there to read it. A guard that tells limits says on its thread that
//! it asks, for as long as it does: what is asked meanwhile, and answers meanwhile, is inside. An inner guard that
//! is asked by another task (behind a buffer) isn't seen; the outer one has the word then.

use std::cell::Cell;

use super::course::Admission;

thread_local! {
    static OUTER: Cell<u32> = const { Cell::new(0) };
}

/// Asks the inner service.
pub(super) fn inside<A: Admission, T>(ask: impl FnOnce() -> T) -> T {
    if !A::TELLS_LIMITS {
        return ask();
    }
    OUTER.set(OUTER.get().saturating_add(1));
    let _inside = Inside;
    ask()
}

/// Whether a guard further out, that tells limits, is asking.
pub(crate) fn is_inside() -> bool {
    OUTER.get() > 0
}

struct Inside;

impl Drop for Inside {
    fn drop(&mut self) {
        OUTER.set(OUTER.get().saturating_sub(1));
    }
}
