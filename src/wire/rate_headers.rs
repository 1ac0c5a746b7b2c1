//! What a client is told of its limits, in the dialects that are in use.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    domain::{clock::Timestamp, denial::whole_secs_up, quota::Quotas},
    store::{Readings, WindowReading},
};

/// How a client is told what is left to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RateHeaderDialect {
    /// `RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-10 and -11, for every
    /// window.
    Draft,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset` for the tightest window; the reset in seconds from
    /// now.
    XRateLimit,
    /// The same with the reset in seconds since 1970-01-01T00:00:00Z, as GitHub has it.
    XRateLimitEpoch,
    /// `x-ratelimit-limit-requests`, `-remaining-requests` and `-reset-requests` (`6m0s`), as OpenAI has
    /// them.
    OpenAiRequests,
    /// The same about tokens, for a limit whose unit is the token.
    OpenAiTokens,
}

const DRAFT: [HeaderName; 2] = [
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
];
/// Limit, remaining, reset.
type Names = [HeaderName; 3];
const X: Names = [
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
];
const REQUESTS: Names = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: Names = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// The dialects that a layer speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateHeaders([Option<RateHeaderDialect>; 5], Chosen);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chosen {
    ByDefault,
    ByHand,
}

impl Default for RateHeaders {
    fn default() -> Self {
        use RateHeaderDialect::{Draft, XRateLimit};
        let usual = [Some(Draft), Some(XRateLimit), None, None, None];
        Self(usual, Chosen::ByDefault)
    }
}

impl RateHeaders {
    /// One more dialect; the first takes the place of the usual ones.
    pub(crate) fn add(&mut self, dialect: RateHeaderDialect) {
        if self.1 == Chosen::ByDefault {
            *self = Self([None; 5], Chosen::ByHand);
        }
        if !self.0.contains(&Some(dialect))
            && let Some(free) = self.0.iter_mut().find(|slot| slot.is_none())
        {
            *free = Some(dialect);
        }
    }

    /// Whether the time of day is told.
    pub(crate) fn tells_time(&self) -> bool {
        self.0.contains(&Some(RateHeaderDialect::XRateLimitEpoch))
    }

    /// Writes the headers, but none that an inner limiter, which knows the caller better, has written.
    pub(crate) fn write(
        &self,
        headers: &mut HeaderMap,
        quotas: &Quotas,
        readings: &Readings,
        now: Option<Timestamp>,
    ) {
        let readings = readings.as_slice();
        let pairs = quotas.as_slice().iter().zip(readings).enumerate();
        let tightest = pairs.min_by_key(|(_, (_, reading))| reading.remaining);
        let Some((index, (_, reading))) = tightest else {
            return;
        };
        let limit = || text(quotas.limit_text(index));
        let seconds = || HeaderValue::from(whole_seconds(reading.reset));
        for dialect in self.0.iter().flatten() {
            match dialect {
                RateHeaderDialect::Draft => draft(headers, quotas, readings),
                RateHeaderDialect::XRateLimit => three(headers, &X, limit, reading, seconds),
                RateHeaderDialect::XRateLimitEpoch => {
                    let now = now.map_or(0, |now| u64::try_from(now.as_second()).unwrap_or(0));
                    let epoch = || now.saturating_add(whole_seconds(reading.reset)).into();
                    three(headers, &X, limit, reading, epoch);
                }
                RateHeaderDialect::OpenAiRequests => {
                    three(headers, &REQUESTS, limit, reading, || {
                        in_words(reading.reset)
                    });
                }
                RateHeaderDialect::OpenAiTokens => {
                    three(headers, &TOKENS, limit, reading, || in_words(reading.reset));
                }
            }
        }
    }
}

fn three(
    headers: &mut HeaderMap,
    names: &Names,
    limit: impl Fn() -> HeaderValue,
    reading: &WindowReading,
    reset: impl Fn() -> HeaderValue,
) {
    let [of_limit, of_remaining, of_reset] = names;
    if !headers.contains_key(of_limit) {
        headers.insert(of_limit, limit());
        headers.insert(of_remaining, HeaderValue::from(reading.remaining));
        headers.insert(of_reset, reset());
    }
}

fn draft(headers: &mut HeaderMap, quotas: &Quotas, readings: &[WindowReading]) {
    let [rate_limit, policy] = DRAFT;
    if headers.contains_key(&rate_limit) {
        return;
    }
    let windows = quotas.as_slice().iter().zip(readings);
    let mut list = Vec::with_capacity(readings.len().saturating_mul(40));
    for (quota, reading) in windows {
        let separator = if list.is_empty() { "\"" } else { ", \"" };
        list.extend_from_slice(separator.as_bytes());
        list.extend_from_slice(quota.name().as_bytes());
        list.extend_from_slice(b"\";r=");
        push_number(&mut list, reading.remaining.into());
        list.extend_from_slice(b";t=");
        push_number(&mut list, whole_seconds(reading.reset));
    }
    if let Ok(list) = HeaderValue::try_from(list) {
        headers.insert(rate_limit, list);
        headers.insert(policy, text(quotas.policy_text()));
    }
}

/// A text that holds nothing but printable ASCII.
fn text(text: &Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text.clone()).unwrap_or(HeaderValue::from_static(""))
}

fn push_number(list: &mut Vec<u8>, number: u64) {
    let start = list.len();
    let mut rest = number;
    loop {
        let digit = rest
            .checked_rem(10)
            .and_then(|digit| u8::try_from(digit).ok());
        list.push(b'0'.saturating_add(digit.unwrap_or(0)));
        rest = rest.checked_div(10).unwrap_or(0);
        if rest == 0 {
            break;
        }
    }
    if let Some(digits) = list.get_mut(start..) {
        digits.reverse();
    }
}

/// Whole seconds rounded up; 0 when there is nothing to wait for.
fn whole_seconds(wait: Duration) -> u64 {
    if wait.is_zero() {
        0
    } else {
        whole_secs_up(wait)
    }
}

/// `0s`, `20ms`, `8.5s`, `6m0s`, `1h0m5s`, rounded up.
fn in_words(wait: Duration) -> HeaderValue {
    let millis = wait.as_nanos().div_ceil(1_000_000);
    let millis = u64::try_from(millis).unwrap_or(u64::MAX);
    let over = |number: u64, by: u64| {
        let quotient = number.checked_div(by).unwrap_or(0);
        (quotient, number.checked_rem(by).unwrap_or(0))
    };
    let (seconds, rest) = over(millis, 1_000);
    let words = match seconds {
        0 if rest > 0 => format!("{rest}ms"),
        0..60 => {
            let decimals = format!("{rest:03}");
            match decimals.trim_end_matches('0') {
                "" => format!("{seconds}s"),
                decimals => format!("{seconds}.{decimals}s"),
            }
        }
        _ => {
            let (minutes, seconds) = over(seconds.saturating_add(u64::from(rest > 0)), 60);
            match over(minutes, 60) {
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    };
    HeaderValue::try_from(words).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::quota::Quota;

    fn readings(of: &[(u32, u64)]) -> Readings {
        let reading = |(remaining, millis): &(u32, u64)| WindowReading {
            remaining: *remaining,
            reset: Duration::from_millis(*millis),
        };
        of.iter().map(reading).collect()
    }

    fn write(dialects: &[RateHeaderDialect], of: &[(u32, u64)]) -> HeaderMap {
        let quotas = [Quota::per_second(10), Quota::per_minute(60).named("a\"b")];
        let mut headers = RateHeaders::default();
        for dialect in dialects {
            headers.add(*dialect);
        }
        let mut map = HeaderMap::new();
        let now = "2026-01-01T00:00:00Z".parse().ok();
        headers.write(&mut map, &quotas.into(), &readings(of), now);
        map
    }

    #[test]
    fn several_windows_are_one_list_and_the_tightest_is_told_alone() {
        let map = write(&[], &[(9, 100), (3, 57_001)]);
        assert_eq!(map["ratelimit"], "\"second\";r=9;t=1, \"ab\";r=3;t=58");
        assert_eq!(
            map["ratelimit-policy"],
            "\"second\";q=10;w=1, \"ab\";q=60;w=60"
        );
        assert_eq!(map["x-ratelimit-limit"], "60");
        assert_eq!(map["x-ratelimit-remaining"], "3");
        assert_eq!(map["x-ratelimit-reset"], "58");
        assert_eq!(map.len(), 5);
    }

    #[test]
    fn the_inner_limiter_has_the_word() {
        let mut map = write(&[], &[(9, 100), (3, 57_001)]);
        let before = map.clone();
        let outer = Quotas::from(Quota::per_minute(7));
        RateHeaders::default().write(&mut map, &outer, &readings(&[(1, 0)]), None);
        assert_eq!(map, before);
    }

    #[test]
    fn other_dialects_take_the_place_of_the_usual_ones() {
        let map = write(
            &[RateHeaderDialect::XRateLimitEpoch],
            &[(9, 100), (3, 57_001)],
        );
        assert_eq!(map["x-ratelimit-reset"], "1767225658");
        assert_eq!(map.len(), 3);
        let both = [
            RateHeaderDialect::OpenAiRequests,
            RateHeaderDialect::OpenAiTokens,
        ];
        let map = write(&both, &[(9, 100), (3, 57_001)]);
        assert_eq!(map["x-ratelimit-limit-requests"], "60");
        assert_eq!(map["x-ratelimit-remaining-tokens"], "3");
        assert_eq!(map["x-ratelimit-reset-tokens"], "57.001s");
        assert_eq!(map.len(), 6);
    }

    #[test]
    fn a_wait_is_told_in_words_and_rounded_up() {
        let words = |millis: u64| {
            in_words(Duration::from_millis(millis))
                .to_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(words(0), "0s");
        assert_eq!(words(20), "20ms");
        assert_eq!(words(1_000), "1s");
        assert_eq!(words(8_640), "8.64s");
        assert_eq!(words(360_000), "6m0s");
        assert_eq!(words(359_001), "6m0s");
        assert_eq!(words(3_605_000), "1h0m5s");
        assert_eq!(in_words(Duration::from_nanos(1)), "1ms");
    }

    #[test]
    fn numbers_are_written_as_they_are() {
        for number in [0, 9, 10, 4_294_967_295, u64::MAX] {
            let mut list = b"r=".to_vec();
            push_number(&mut list, number);
            assert_eq!(list, format!("r={number}").into_bytes());
        }
    }
}
