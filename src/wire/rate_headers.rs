//! Headers that tell a client its limits, in the dialects in use.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::number::{Text, number, small};
use crate::{
    domain::{
        clock::Clock,
        denial::whole_secs_up,
        quota::{QuotaHeaders, Quotas},
    },
    store::{Readings, WindowReading},
};

/// The headers that tell a client what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RateHeaderDialect {
    /// `RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-10 and -11, for
    /// every window: `q` is its size (for a rolling quota the [burst](crate::quota::Quota::burst)),
    /// and `w` the time in which that much is restored, if that is whole seconds. Not used for a
    /// limit of [tokens](crate::RateLimitLayer::tokens).
    Draft,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset` for the tightest window: its size, how much
    /// of that is left, and in how many seconds it will be full again.
    XRateLimit,
    /// The same with the reset in seconds since 1970-01-01T00:00:00Z, as GitHub does.
    XRateLimitEpoch,
    /// `x-ratelimit-limit-requests`, `-remaining-requests` and `-reset-requests` (`6m0s`), as
    /// OpenAI does.
    OpenAiRequests,
    /// The same for tokens, for a limit of tokens.
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

/// Lists of up to this many bytes are built on the stack.
const ROOM: usize = 160;

/// The dialects of a layer, whether they are the defaults, and the unit of its limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateHeaders([Option<RateHeaderDialect>; 5], Selection, Unit);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Selection {
    Default,
    Explicit,
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Requests,
    Tokens,
}

impl Default for RateHeaders {
    fn default() -> Self {
        use RateHeaderDialect::{Draft, XRateLimit};
        let usual = [Some(Draft), Some(XRateLimit), None, None, None];
        Self(usual, Selection::Default, Unit::Requests)
    }
}

impl RateHeaders {
    /// Adds a dialect; the first one replaces the defaults.
    pub(crate) fn add(&mut self, dialect: RateHeaderDialect) {
        if self.1 == Selection::Default {
            *self = Self([None; 5], Selection::Explicit, self.2);
        }
        if self.2 == Unit::Tokens && dialect == RateHeaderDialect::Draft {
            return;
        }
        if !self.0.contains(&Some(dialect))
            && let Some(free) = self.0.iter_mut().find(|slot| slot.is_none())
        {
            *free = Some(dialect);
        }
    }

    /// Reports tokens from now on: not in the draft's headers, whose registry of units (section
    /// 10.3) has none for them.
    pub(crate) fn report_tokens(&mut self) {
        use RateHeaderDialect::{Draft, OpenAiTokens, XRateLimit};
        self.2 = Unit::Tokens;
        if self.1 == Selection::Default {
            self.0 = [Some(XRateLimit), Some(OpenAiTokens), None, None, None];
        }
        for slot in &mut self.0 {
            if *slot == Some(Draft) {
                *slot = None;
            }
        }
    }

    /// A request limit already uses the generic headers in the same answers, so tokens are reported
    /// only in the token-specific ones, unless dialects were chosen explicitly.
    pub(crate) fn report_beside_requests(&mut self) {
        if self.1 == Selection::Default && self.2 == Unit::Tokens {
            self.0 = [
                Some(RateHeaderDialect::OpenAiTokens),
                None,
                None,
                None,
                None,
            ];
        }
    }

    /// Reports nothing.
    pub(crate) const fn none() -> Self {
        Self([None; 5], Selection::Explicit, Unit::Requests)
    }

    /// Reports requests from now on.
    pub(crate) fn report_requests(&mut self) {
        if self.1 == Selection::Default {
            *self = Self::default();
        }
        self.2 = Unit::Requests;
    }

    /// Seconds since 1970-01-01T00:00:00Z if a dialect needs the time of day; 0 otherwise.
    pub(crate) fn unix_secs(&self, clock: &dyn Clock) -> u64 {
        if self.0.contains(&Some(RateHeaderDialect::XRateLimitEpoch)) {
            u64::try_from(clock.now().as_second()).unwrap_or(0)
        } else {
            0
        }
    }

    /// Writes the headers, replacing others of the same names (a handler may pass on those of a
    /// service that it calls itself), but not those that an inner limiter, which knows the caller
    /// better, has already reported.
    pub(crate) fn write(
        &self,
        headers: &mut HeaderMap,
        quotas: &Quotas,
        readings: &Readings,
        unix_secs: u64,
        told_limits: &mut ToldLimits,
    ) {
        let readings = readings.as_slice();
        let tightest = readings.iter().enumerate();
        let tightest = tightest.min_by_key(|(_, reading)| reading.remaining);
        let Some((index, reading)) = tightest else {
            return;
        };
        let values = quotas.header_values();
        let mut tightest = Tightest {
            index,
            limit: values.limits.get(index).unwrap_or(&values.policy),
            reading,
            remaining: None,
        };
        for dialect in self.0.iter().flatten() {
            if !told_limits.is_first(*dialect) {
                continue;
            }
            match dialect {
                RateHeaderDialect::Draft => {
                    write_all(headers, quotas, readings, &mut tightest);
                }
                RateHeaderDialect::XRateLimit => {
                    tightest.write(headers, X, |reset| number(whole_seconds(reset)));
                }
                RateHeaderDialect::XRateLimitEpoch => tightest.write(headers, X, |reset| {
                    number(unix_secs.saturating_add(whole_seconds(reset)))
                }),
                RateHeaderDialect::OpenAiRequests => tightest.write(headers, REQUESTS, in_words),
                RateHeaderDialect::OpenAiTokens => tightest.write(headers, TOKENS, in_words),
            }
        }
    }
}

/// The header fields in which limits have been reported on an answer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ToldLimits(u8);

impl ToldLimits {
    pub(crate) const fn add(&mut self, others: Self) {
        self.0 |= others.0;
    }

    /// Whether this dialect's fields are still unused; marks them as used.
    const fn is_first(&mut self, dialect: RateHeaderDialect) -> bool {
        let fields = match dialect {
            RateHeaderDialect::Draft => 1,
            RateHeaderDialect::XRateLimit | RateHeaderDialect::XRateLimitEpoch => 2,
            RateHeaderDialect::OpenAiRequests => 4,
            RateHeaderDialect::OpenAiTokens => 8,
        };
        let is_first = self.0 & fields == 0;
        self.0 |= fields;
        is_first
    }
}

/// The window that is reported in dialects with only one window.
struct Tightest<'a> {
    index: usize,
    limit: &'a HeaderValue,
    reading: &'a WindowReading,
    /// The remaining units as a value, if already formatted.
    remaining: Option<HeaderValue>,
}

impl Tightest<'_> {
    fn write(
        &mut self,
        headers: &mut HeaderMap,
        names: Names,
        reset: impl FnOnce(Duration) -> HeaderValue,
    ) {
        let [of_limit, of_remaining, of_reset] = names;
        headers.insert(of_limit, self.limit.clone());
        let made = self.remaining.take();
        let remaining = made.unwrap_or_else(|| number(self.reading.remaining.into()));
        headers.insert(of_remaining, remaining);
        headers.insert(of_reset, reset(self.reading.reset));
    }
}

/// Every window in the draft's form: a list of policies, and a list of what is left.
fn write_all(
    headers: &mut HeaderMap,
    quotas: &Quotas,
    readings: &[WindowReading],
    tightest: &mut Tightest<'_>,
) {
    let [rate_limit, policy] = DRAFT;
    let values = quotas.header_values();
    headers.insert(policy, values.policy.clone());
    let (list, digits) = if values.room <= ROOM {
        list([0; ROOM], values, readings, tightest.index)
    } else {
        list(vec![0; values.room], values, readings, tightest.index)
    };
    if small(tightest.reading.remaining.into()).is_none() {
        tightest.remaining = HeaderValue::from_maybe_shared(list.slice(digits)).ok();
    }
    if let Ok(list) = HeaderValue::from_maybe_shared(list) {
        headers.insert(rate_limit, list);
    }
}

/// `"second";r=9;t=1, "minute";r=3;t=58`, and the range of the remaining units of the tightest
/// window.
fn list<R: AsRef<[u8]> + AsMut<[u8]> + Send + 'static>(
    room: R,
    values: &QuotaHeaders,
    readings: &[WindowReading],
    tightest: usize,
) -> (Bytes, Range<usize>) {
    let (mut list, mut left) = (Text::new(room), 0..0);
    for (index, (opening, reading)) in values.openings.iter().zip(readings).enumerate() {
        list.push(opening.as_bytes());
        let digits = list.push_number(reading.remaining.into());
        if index == tightest {
            left = digits;
        }
        list.push(b";t=");
        list.push_number(whole_seconds(reading.reset));
    }
    (list.into_bytes(), left)
}

/// Whole seconds, rounded up; 0 if there is nothing to wait for.
fn whole_seconds(wait: Duration) -> u64 {
    if wait.is_zero() {
        0
    } else {
        whole_secs_up(wait)
    }
}

/// `0s`, `20ms`, `8.5s`, `6m0s`, `1h0m5s`, rounded up.
fn in_words(wait: Duration) -> HeaderValue {
    let words = words(wait);
    words.parse().unwrap_or(HeaderValue::from_static(""))
}

fn words(wait: Duration) -> String {
    let millis = wait.as_nanos().div_ceil(1_000_000);
    let millis = u64::try_from(millis).unwrap_or(u64::MAX);
    let over = |number: u64, by: u64| {
        let quotient = number.checked_div(by).unwrap_or(0);
        (quotient, number.checked_rem(by).unwrap_or(0))
    };
    let (seconds, rest) = over(millis, 1_000);
    match seconds {
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
    }
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
        let unix_secs = 1_767_225_600;
        let told = &mut ToldLimits::default();
        headers.write(&mut map, &quotas.into(), &readings(of), unix_secs, told);
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
        let map = write(&[], &[(4_000_000_000, 0), (1_234, 57_001)]);
        assert_eq!(
            map["ratelimit"],
            "\"second\";r=4000000000;t=0, \"ab\";r=1234;t=58"
        );
        assert_eq!(map["x-ratelimit-remaining"], "1234");
    }

    #[test]
    fn a_long_list_is_told_whole() {
        let quotas: Vec<_> = (1..20_u32)
            .map(|number| Quota::per_minute(number).named(&format!("window-{number}")))
            .collect();
        let quotas = Quotas::new(quotas).unwrap();
        let mut map = HeaderMap::new();
        let left = readings(&[(7, 1); 19]);
        RateHeaders::default().write(&mut map, &quotas, &left, 0, &mut ToldLimits::default());
        let list = map["ratelimit"].to_str().unwrap();
        assert!(list.starts_with("\"window-1\";r=7;t=1, "), "{list}");
        assert!(list.ends_with(", \"window-19\";r=7;t=1"), "{list}");
    }

    #[test]
    fn the_inner_limiter_has_the_word_and_nobody_else() {
        let [inner, outer] = [5, 7].map(|limit| Quotas::from(Quota::per_minute(limit)));
        let mut map = HeaderMap::new();
        for name in [&X[0], &X[2], &X[2], &DRAFT[0], &REQUESTS[0]] {
            map.append(name, "99".parse().unwrap());
        }
        let headers = RateHeaders::default();
        let (readings, mut told) = (readings(&[(1, 0)]), ToldLimits::default());
        headers.write(&mut map, &inner, &readings, 0, &mut told);
        headers.write(&mut map, &outer, &readings, 0, &mut told);
        assert_eq!(map["x-ratelimit-limit"], "5");
        assert_eq!(map["ratelimit-policy"], "\"minute\";q=5;w=60");
        assert_eq!(map["ratelimit"], "\"minute\";r=1;t=0");
        assert_eq!(map[&X[2]], "0");
        assert_eq!(map[&REQUESTS[0]], "99", "none of ours");
        assert_eq!(map.len(), 6, "each once");
        let mut other = RateHeaders::default();
        other.add(RateHeaderDialect::OpenAiRequests);
        other.write(&mut map, &outer, &readings, 0, &mut told);
        assert_eq!(map[&REQUESTS[0]], "7");
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
        let words = |millis| in_words(Duration::from_millis(millis));
        assert_eq!(words(0), "0s");
        assert_eq!(words(20), "20ms");
        assert_eq!(words(1_000), "1s");
        assert_eq!(words(8_640), "8.64s");
        assert_eq!(words(360_000), "6m0s");
        assert_eq!(words(359_001), "6m0s");
        assert_eq!(words(3_605_000), "1h0m5s");
        assert_eq!(in_words(Duration::from_nanos(1)), "1ms");
    }
}
