//! A panic of the inner service, seen while it passes.

use std::mem;

/// Asks the inner service, and lets go of what is under way when it panics: while the stack is unwound, when
/// [`thread::panicking`](std::thread::panicking) says so. A layer further out may catch the panic; whatever is dropped
/// after that looks as if the client had left.
pub(super) fn asked<T, U>(
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
