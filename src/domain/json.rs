//! A name that serde_json gives a meaning of its own.

/// Whether an object with this member is read by `serde_json::Value` as what its text says, from the start: with the feature
/// `raw_value`, which sqlx and axum's `json` switch on too. The text may hold another such object, and so on; the bound on nesting
/// begins anew each time, so that a small body of them uses up the stack, which ends the process.
pub(crate) fn is_reserved(name: &str) -> bool {
    name == "$serde_json::private::RawValue"
}
