//! What a client is told of its limits.
//!
//! `RateLimit` and `RateLimit-Policy` as in draft-ietf-httpapi-ratelimit-headers-10, and the older
//! `X-RateLimit-*` for the tightest window, with the reset in seconds from now.

use std::{fmt::Write, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    domain::{denial::whole_secs_up, quota::Quota},
    store::WindowReading,
};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The part of the headers that is the same in every answer, made once.
#[derive(Clone, Debug)]
pub(crate) struct RateHeaders {
    policy: HeaderValue,
    windows: Box<[(String, HeaderValue)]>,
}

impl RateHeaders {
    pub(crate) fn new(quotas: &[Quota]) -> Self {
        let mut policy = String::new();
        let mut windows = Vec::with_capacity(quotas.len());
        for quota in quotas {
            let separator = if policy.is_empty() { "" } else { ", " };
            let seconds = whole_secs_up(quota.period());
            let _ = write!(
                policy,
                "{separator}\"{}\";q={};w={seconds}",
                quota.name(),
                quota.limit()
            );
            windows.push((
                format!("\"{}\";r=", quota.name()),
                HeaderValue::from(quota.limit()),
            ));
        }
        let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static(""));
        Self {
            policy,
            windows: windows.into(),
        }
    }

    /// Writes the headers, unless an inner limiter that knows the caller better has written its own.
    pub(crate) fn write(&self, headers: &mut HeaderMap, readings: &[WindowReading]) {
        if headers.contains_key(RATE_LIMIT) {
            return;
        }
        let mut list = String::with_capacity(self.windows.len().saturating_mul(32));
        let mut tightest: Option<(&HeaderValue, WindowReading)> = None;
        for ((start, limit), reading) in self.windows.iter().zip(readings) {
            let separator = if list.is_empty() { "" } else { ", " };
            let _ = write!(
                list,
                "{separator}{start}{};t={}",
                reading.remaining,
                seconds(reading.reset)
            );
            if tightest.is_none_or(|(_, least)| reading.remaining < least.remaining) {
                tightest = Some((limit, *reading));
            }
        }
        let (Ok(list), Some((limit, reading))) = (HeaderValue::try_from(list), tightest) else {
            return;
        };
        headers.insert(RATE_LIMIT, list);
        headers.insert(RATE_LIMIT_POLICY, self.policy.clone());
        headers.insert(X_LIMIT, limit.clone());
        headers.insert(X_REMAINING, HeaderValue::from(reading.remaining));
        headers.insert(X_RESET, HeaderValue::from(seconds(reading.reset)));
    }
}

/// Whole seconds rounded up; 0 when there is nothing to wait for.
fn seconds(wait: Duration) -> u64 {
    if wait.is_zero() {
        0
    } else {
        whole_secs_up(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_windows_are_one_list_and_the_tightest_is_told_alone() {
        let headers =
            RateHeaders::new(&[Quota::per_second(10), Quota::per_minute(60).named("a\"b")]);
        let readings = [
            WindowReading {
                remaining: 9,
                reset: Duration::from_millis(100),
            },
            WindowReading {
                remaining: 3,
                reset: Duration::from_millis(57_001),
            },
        ];
        let mut map = HeaderMap::new();
        headers.write(&mut map, &readings);
        assert_eq!(map[RATE_LIMIT], "\"second\";r=9;t=1, \"ab\";r=3;t=58");
        assert_eq!(
            map[RATE_LIMIT_POLICY],
            "\"second\";q=10;w=1, \"ab\";q=60;w=60"
        );
        assert_eq!(
            (&map[X_LIMIT], &map[X_REMAINING], &map[X_RESET]),
            (
                &"60".parse().unwrap(),
                &"3".parse().unwrap(),
                &"58".parse().unwrap()
            )
        );
    }

    #[test]
    fn the_inner_limiter_has_the_word() {
        let mut map = HeaderMap::new();
        map.insert(RATE_LIMIT, HeaderValue::from_static("\"x\";r=1;t=1"));
        let outer = RateHeaders::new(&[Quota::per_minute(60)]);
        outer.write(
            &mut map,
            &[WindowReading {
                remaining: 1,
                reset: Duration::ZERO,
            }],
        );
        assert_eq!(map.len(), 1);
    }
}
