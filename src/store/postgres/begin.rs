//! The statements that begin transactions.

use std::{sync::Arc, time::Duration};

use super::schema::Schema;

/// PostgreSQL's time settings are milliseconds in a signed 32-bit integer.
const MILLIS_MAX: u128 = 2_147_483_647;

/// Each statement sees what was committed before it, whatever the server's default, so whoever
/// waited for a lock counts what others wrote. The server gives up before the caller does. What a
/// process leaves behind when it is cut off blocks others no longer than its holds do. Until the
/// transaction ends, unqualified table names refer to the store's schema: the connection's own
/// `search_path` belongs to the application.
pub(super) struct Begin {
    /// For the books. With a lock timeout, so that a lane blocked for long still has time to find
    /// out which accounts are locked.
    pub(super) books: Arc<str>,
    /// For changes outside the books.
    pub(super) write_durably: Arc<str>,
    pub(super) read: Arc<str>,
}

impl Begin {
    pub(super) fn new(deadline: Duration, schema: &Schema) -> Self {
        let millis = deadline.as_millis().clamp(1, MILLIS_MAX);
        let patience = millis.saturating_sub(millis >> 3).max(1);
        let path = schema.path();
        let begin = |access: &str| {
            format!(
                "BEGIN ISOLATION LEVEL READ COMMITTED {access};
                 SET LOCAL search_path = {path};
                 SET LOCAL statement_timeout = {patience};
                 SET LOCAL idle_in_transaction_session_timeout = {millis}"
            )
        };
        let write = begin("READ WRITE");
        let books = format!("{write}; SET LOCAL lock_timeout = {}", (millis >> 2).max(1));
        let write_durably = format!(
            "{write}; SELECT set_config('synchronous_commit', 'on', true)
             WHERE current_setting('synchronous_commit') = 'off'"
        );
        Self {
            books: books.into(),
            write_durably: write_durably.into(),
            read: begin("READ ONLY").into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_deadline_is_one_that_the_server_takes() {
        let begin = |deadline| Begin::new(deadline, &Schema::default());
        let longest = begin(Duration::MAX);
        assert!(longest.books.contains("statement_timeout = 1879048192;"));
        assert!(longest.books.contains("session_timeout = 2147483647;"));
        assert!(longest.books.ends_with("lock_timeout = 536870911"));
        let shortest = begin(Duration::ZERO);
        // Zero would mean no limit.
        assert!(shortest.read.contains("statement_timeout = 1;"));
        assert!(shortest.read.ends_with("session_timeout = 1"));
        assert!(shortest.books.ends_with("lock_timeout = 1"));
    }
}
