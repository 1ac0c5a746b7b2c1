//! What a server must be, and what it should be set to, to be trusted with money.

use std::sync::Arc;

use redis::Value;

use super::{question::Question, shared::Shared};
use crate::store::{StoreError, StoreErrorKind};

/// The first version that has all commands that the scripts use.
const OLDEST: (u64, u64) = (6, 2);

/// Refuses a server that is too old, and warns of settings under which money can be lost.
///
/// # Errors
/// `Refused` when the server is too old. What a managed server doesn't tell is not asked twice.
pub(super) async fn look_at(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let info = Question::command("INFO").arg("server");
    let mut versions = told(shared, &info).await.into_iter();
    let is_old = |info: String| version(&info).is_some_and(|version| version < OLDEST);
    if versions.any(is_old) {
        let text = "the ledger needs Redis 6.2 or Valkey";
        return Err(StoreError::new(StoreErrorKind::Refused, text));
    }
    for (setting, good, danger) in SETTINGS {
        let question = Question::command("CONFIG").arg("GET").arg(*setting);
        if let [_, value] = told(shared, &question).await.as_slice()
            && value != good
        {
            tracing::warn!(target: "tollgate::redis", setting, value, danger);
        }
    }
    Ok(())
}

/// All texts of an answer, whatever its shape: a cluster answers for each of its nodes. Nothing where the server
/// doesn't tell.
async fn told(shared: &Arc<Shared>, question: &Question) -> Vec<String> {
    let mut texts = Vec::new();
    let mut left: Vec<Value> = shared.ask(0, question).await.into_iter().collect();
    while let Some(value) = left.pop() {
        match value {
            Value::BulkString(bytes) => texts.extend(String::from_utf8(bytes)),
            Value::SimpleString(text) | Value::VerbatimString { text, .. } => texts.push(text),
            // The last is taken first.
            Value::Array(values) => left.extend(values.into_iter().rev()),
            Value::Map(pairs) => {
                let values = pairs.into_iter().flat_map(|(key, value)| [key, value]);
                left.extend(values.rev());
            }
            _ => {}
        }
    }
    texts
}

const SETTINGS: &[(&str, &str, &str)] = &[
    (
        "appendonly",
        "yes",
        "a server that ends takes balances, holds and charges with it",
    ),
    (
        "appendfsync",
        "always",
        "a server that ends may forget what it answered within the last second",
    ),
    (
        "maxmemory-policy",
        "noeviction",
        "a server that runs out of memory may throw away the books of an account",
    ),
];

fn version(info: &str) -> Option<(u64, u64)> {
    let version = info
        .lines()
        .find_map(|line| line.strip_prefix("redis_version:"))?;
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_where_there_is_one() {
        let info = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n";
        assert_eq!(version(info), Some((7, 0)));
        assert!(version("redis_version:6.0.9\r\n") < Some(OLDEST));
        assert_eq!(version("redis_version:unstable"), None);
        assert_eq!(version(""), None);
    }
}
