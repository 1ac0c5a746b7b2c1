//! What an address says. redis-rs ignores what it doesn't know, so that a mistyped parameter would
//! lead elsewhere than its author meant.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use super::{UNREADABLE, refused};
use crate::store::StoreError;

/// The parameters of an address, and of the address of a socket.
const PARAMETERS: &[&str] = &["protocol"];
const PARAMETERS_OF_SOCKETS: &[&str] = &["db", "user", "pass", "protocol"];

/// An address all of whose parts are known. Texts of errors repeat none of them: any may be secret.
pub(super) fn read(url: &str) -> Result<ConnectionInfo, StoreError> {
    let info = url.into_connection_info().map_err(|_| {
        let is_tls = url.starts_with("rediss:") || url.starts_with("valkeys:");
        if is_tls && !cfg!(feature = "redis-tls") {
            return refused("TLS to Redis needs the feature `redis-tls`");
        }
        refused(UNREADABLE)
    })?;
    if url.contains('#') {
        return Err(refused("nothing may follow a `#` in a Redis address"));
    }
    let known = match info.addr() {
        ConnectionAddr::Unix(_) => PARAMETERS_OF_SOCKETS,
        _ => PARAMETERS,
    };
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let mut names = query.split('&').filter_map(|pair| pair.split('=').next());
    if names.any(|name| !name.is_empty() && !known.contains(&name)) {
        let text = "a Redis address has no parameter but `protocol`, and that of a socket `db`, \
                    `user` and `pass`";
        return Err(refused(text));
    }
    if info.redis_settings().db() < 0 {
        return Err(refused("the number of a Redis database is below 0"));
    }
    // Small commands must not wait until the last one is confirmed.
    let settings = info.tcp_settings().clone().set_nodelay(true);
    Ok(info.set_tcp_settings(settings))
}

/// A user without a password would be the default user.
pub(super) fn check_user(info: &ConnectionInfo) -> Result<(), StoreError> {
    let settings = info.redis_settings();
    match (settings.username(), settings.password()) {
        (Some(_), None) => Err(refused("the user in a Redis address has no password")),
        _ => Ok(()),
    }
}

pub(super) fn of_sentinel(url: &str) -> Result<ConnectionInfo, StoreError> {
    let info = read(url)?;
    check_user(&info)?;
    if matches!(info.addr(), ConnectionAddr::Unix(_)) {
        return Err(refused("the address of a sentinel is a socket"));
    }
    if info.redis_settings().db() != 0 {
        return Err(refused("the address of a sentinel has a database"));
    }
    Ok(info)
}

/// The address of a master has the name that sentinels know it by, and no port.
pub(super) fn check_name(url: &str) -> Result<(), StoreError> {
    let (_, rest) = url.split_once("://").unwrap_or_default();
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = rest.get(..end).unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.contains(':') {
        let text = "the master's address has a port, which its sentinels tell";
        return Err(refused(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the error tells, or nothing.
    fn told<T>(checked: Result<T, StoreError>) -> String {
        checked
            .err()
            .map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn every_part_of_an_address_counts_or_is_refused() {
        for (url, part) in [
            ("redis://h", ""),
            ("redis://h:6379/3", ""),
            ("redis://u:p%23%3F@h/?protocol=resp3", ""),
            ("unix:///tmp/s?db=2&user=u&pass=p", ""),
            ("redis://h/?db=3", "parameter"),
            ("redis://h/0?ssl=true", "parameter"),
            ("redis://h?protcol=resp3", "parameter"),
            ("redis://h?protocol=resp3&timeout=5", "parameter"),
            ("unix:///tmp/s?database=2", "parameter"),
            ("redis://h/#insecure", "#"),
            ("unix:///tmp/s#x", "#"),
            ("redis://h/-1", "below 0"),
            ("unix:///tmp/s?db=-1", "below 0"),
        ] {
            let told = told(read(url));
            assert_eq!(told.is_empty(), part.is_empty(), "{url}: {told}");
            assert!(told.contains(part), "{url}: {told}");
        }
        let is_tls = cfg!(feature = "redis-tls");
        let insecure = told(read("rediss://h/#insecure"));
        assert!(
            insecure.contains(if is_tls { "#" } else { "TLS" }),
            "{insecure}"
        );
    }

    #[test]
    fn a_user_has_a_password() {
        for (url, is_whole) in [
            ("redis://h", true),
            ("redis://:p@h", true),
            ("redis://u:p@h", true),
            ("redis://u@h", false),
            ("unix:///s?user=u", false),
        ] {
            assert_eq!(check_user(&read(url).unwrap()).is_ok(), is_whole, "{url}");
        }
        assert!(told(of_sentinel("redis://u@h")).contains("password"));
    }

    #[test]
    fn a_sentinel_has_no_database_and_its_master_no_port() {
        assert_eq!(told(of_sentinel("redis://:p@h:26379/")), "");
        assert!(told(of_sentinel("redis://h/3")).contains("database"));
        assert!(told(of_sentinel("unix:///s")).contains("socket"));
        for url in ["redis://main", "redis://u:p@main/3", "rediss://:a@main?x:y"] {
            assert_eq!(told(check_name(url)), "", "{url}");
        }
        for url in ["redis://main:1", "redis://u:p@main:6379/3"] {
            assert!(told(check_name(url)).contains("port"), "{url}");
        }
    }

    #[test]
    fn small_commands_are_sent_at_once() {
        let info = read("redis://h").unwrap();
        assert!(info.tcp_settings().nodelay());
    }
}
