//! What a server must provide, and how it should be configured, to be trusted with money.

use std::sync::Arc;

use redis::Value;

use super::{redis_call::RedisCall, shared::Shared};
use crate::store::{StoreError, StoreErrorKind};

/// The first version with all commands that the scripts use.
const OLDEST: (u64, u64) = (6, 2);

/// Refuses a server that is too old, and warns of settings that risk losing money.
///
/// # Errors
/// `Refused` when the server is too old. Managed servers may hide their version and settings; then
/// this checks nothing.
pub(super) async fn check(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let info = RedisCall::command("INFO").arg("server");
    let mut versions = reply_strings(shared, &info).await.into_iter();
    let is_old = |info: String| version(&info).is_some_and(|version| version < OLDEST);
    if versions.any(is_old) {
        let text = "the ledger needs Redis 6.2 or Valkey";
        return Err(StoreError::new(StoreErrorKind::Refused, text));
    }
    for (setting, good, danger) in SETTINGS {
        let command = RedisCall::command("CONFIG").arg("GET").arg(*setting);
        if let [_, value] = reply_strings(shared, &command).await.as_slice()
            && value != good
        {
            tracing::warn!(target: "tollgate::redis", setting, value, danger);
        }
    }
    Ok(())
}

/// All strings of a reply, whatever its shape: a cluster answers for each of its nodes. Empty if
/// the server doesn't answer.
async fn reply_strings(shared: &Arc<Shared>, command: &RedisCall) -> Vec<String> {
    let mut texts = Vec::new();
    let mut left: Vec<Value> = shared.ask(0, command).await.into_iter().collect();
    while let Some(value) = left.pop() {
        match value {
            Value::BulkString(bytes) => texts.extend(String::from_utf8(bytes)),
            Value::SimpleString(text) | Value::VerbatimString { text, .. } => texts.push(text),
            // The last one is popped first.
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
        "a server that stops loses balances, holds and charges",
    ),
    (
        "appendfsync",
        "always",
        "a server that crashes may lose what it acknowledged within the last second",
    ),
    (
        "maxmemory-policy",
        "noeviction",
        "a server that runs out of memory may evict the books of an account",
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
