//! The words by which transactions begin.

use std::{sync::Arc, time::Duration};

use super::schema::Schema;

/// PostgreSQL's settings of time are milliseconds in 32 bits, with a sign.
const MILLIS_MAX: u128 = 2_147_483_647;

/// Each statement sees what was committed before it, whatever the server's default: who waited for a lock counts what
/// others made. The server gives up before the caller does, and what a process leaves that was cut off holds nobody up
/// for longer than its holds do. Tables are found by their names alone, in the store's schema, until the transaction ends: the
/// connection's own `search_path` is the application's.
pub(super) struct Begin {
    /// In the books. Who waits for another's lock for long looks whose it is, while there is time.
    pub(super) books: Arc<str>,
    /// To change what is outside the books.
    pub(super) durably: Arc<str>,
    pub(super) to_read: Arc<str>,
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
        let durably = format!(
            "{write}; SELECT set_config('synchronous_commit', 'on', true)
             WHERE current_setting('synchronous_commit') = 'off'"
        );
        Self {
            books: books.into(),
            durably: durably.into(),
            to_read: begin("READ ONLY").into(),
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
        // Zero would be no limit at all.
        assert!(shortest.to_read.contains("statement_timeout = 1;"));
        assert!(shortest.to_read.ends_with("session_timeout = 1"));
        assert!(shortest.books.ends_with("lock_timeout = 1"));
    }
}
