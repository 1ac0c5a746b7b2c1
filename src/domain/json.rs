//! A member name that serde_json treats specially.

/// Whether this member name makes `serde_json::Value` parse the member's text as JSON in place of
/// the object. It does so with the feature `raw_value`, which sqlx and axum's `json` also enable.
/// The text may contain another such object, and so on; the nesting limit restarts each time, so a
/// small body can overflow the stack, which aborts the process.
pub(crate) fn is_reserved(name: &str) -> bool {
    name == "$serde_json::private::RawValue"
}
