//! Settings that would end everything at once.

use std::time::Duration;

use super::StoreError;

/// Refuses a deadline or an age of nothing: every call would be late, and every row too old.
pub(super) fn not_zero(setting: &str, value: Duration) -> Result<(), StoreError> {
    if value.is_zero() {
        return Err(StoreError::internal(&format!("{setting}: more than zero")));
    }
    Ok(())
}
