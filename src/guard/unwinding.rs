//! Reacting to a panic in the inner service.

use std::mem;

/// Calls the inner service, and calls `let_go` on `under_way` if it panics: during unwinding, while
/// [`thread::panicking`](std::thread::panicking) is true. A layer further out may catch the panic;
/// anything dropped after that would look as if the client had disconnected.
pub(super) fn guarded<T, U>(
    under_way: &mut U,
    let_go: impl FnMut(&mut U),
    ask: impl FnOnce() -> T,
) -> T {
    let armed = Armed { under_way, let_go };
    let answer = ask();
    mem::forget(armed);
    answer
}

struct Armed<'a, U, F: FnMut(&mut U)> {
    under_way: &'a mut U,
    let_go: F,
}

impl<U, F: FnMut(&mut U)> Drop for Armed<'_, U, F> {
    fn drop(&mut self) {
        (self.let_go)(self.under_way);
    }
}
