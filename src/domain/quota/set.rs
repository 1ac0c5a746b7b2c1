//! Several quotas that are decided together.

use std::{
    num::NonZeroU32,
    sync::{Arc, OnceLock},
};

use http::HeaderValue;

use super::{Quota, Rule};

/// Several quotas that must all admit: one decision, all or nothing. There is at least one quota,
/// and names are distinct: quotas that share a name are renamed `minute-2`, `minute-3`, except for
/// the first. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Quotas(Arc<Set>);

#[derive(Debug)]
struct Set {
    quotas: Box<[Quota]>,
    is_calendar: bool,
    header_values: QuotaHeaders,
    /// The first share that was requested; a process usually needs only one.
    share: OnceLock<(NonZeroU32, Quotas)>,
}

/// Header values that describe the quotas in every answer, computed once.
#[derive(Debug)]
pub(crate) struct QuotaHeaders {
    /// The value of `RateLimit-Policy` for all of them.
    pub(crate) policy: HeaderValue,
    /// The size of each quota, which is the most that can be left of it.
    pub(crate) limits: Box<[HeaderValue]>,
    /// What precedes each quota's remaining units in `RateLimit`: `"second";r=`, then `,
    /// "minute";r=`.
    pub(crate) openings: Box<[Box<str>]>,
    /// A capacity in bytes that always suffices for `RateLimit`.
    pub(crate) room: usize,
}

/// The longest text after an opening: two numbers, and what separates them.
const NUMBERS_LENGTH_MAX: usize = 10 + 3 + 20;

impl QuotaHeaders {
    fn of(quotas: &[Quota]) -> Self {
        // Names are printable ASCII.
        let value = |text: String| text.parse().unwrap_or(HeaderValue::from_static(""));
        let policy = |quota: &Quota| {
            let held = format!("\"{}\";q={}", quota.name(), quota.burst_size());
            match quota.whole_seconds() {
                Some(seconds) => format!("{held};w={seconds}"),
                None => held,
            }
        };
        let policies: Vec<String> = quotas.iter().map(policy).collect();
        let limits = quotas.iter().map(|quota| quota.burst_size().into());
        let separators = std::iter::once("").chain(std::iter::repeat(", "));
        let openings = quotas.iter().zip(separators).map(|(quota, separator)| {
            format!("{separator}\"{}\";r=", quota.name()).into_boxed_str()
        });
        let openings: Box<[Box<str>]> = openings.collect();
        let lengths = openings.iter().map(|opening| opening.len());
        Self {
            policy: value(policies.join(", ")),
            limits: limits.collect(),
            room: lengths
                .map(|length| length.saturating_add(NUMBERS_LENGTH_MAX))
                .sum(),
            openings,
        }
    }
}

/// There is no quota, which would mean no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no quota would be no limit")]
pub struct NoQuota;

impl Quotas {
    /// The quotas.
    ///
    /// # Errors
    /// [`NoQuota`] when there is none.
    pub fn new(quotas: impl IntoIterator<Item = Quota>) -> Result<Self, NoQuota> {
        let quotas: Vec<Quota> = quotas.into_iter().collect();
        if quotas.is_empty() {
            return Err(NoQuota);
        }
        Ok(Self::of(quotas))
    }

    fn of(mut quotas: Vec<Quota>) -> Self {
        make_names_unique(&mut quotas);
        let is_calendar = quotas
            .iter()
            .any(|quota| matches!(quota.rule(), Rule::Calendar(..)));
        Self(Arc::new(Set {
            header_values: QuotaHeaders::of(&quotas),
            quotas: quotas.into(),
            is_calendar,
            share: OnceLock::new(),
        }))
    }

    /// The quotas.
    #[must_use]
    pub fn as_slice(&self) -> &[Quota] {
        &self.0.quotas
    }

    /// One of `parts` equal shares of each, rounded up.
    #[must_use]
    pub fn share(&self, parts: NonZeroU32) -> Self {
        let make = || {
            let quotas = self.as_slice().iter().map(|quota| quota.share(parts));
            Self::of(quotas.collect())
        };
        match self.0.share.get_or_init(|| (parts, make())) {
            (of, share) if *of == parts => share.clone(),
            _ => make(),
        }
    }

    pub(crate) fn header_values(&self) -> &QuotaHeaders {
        &self.0.header_values
    }

    /// Whether one of them is a calendar quota, so that the time of day matters.
    pub(crate) fn is_calendar(&self) -> bool {
        self.0.is_calendar
    }

    /// Whether both are the same set by pointer, without comparing the quotas.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Names distinguish windows in headers and in a shared store, so they must be unique.
fn make_names_unique(quotas: &mut [Quota]) {
    let mut taken: Vec<String> = Vec::with_capacity(quotas.len());
    for quota in quotas {
        let first = quota.name().to_owned();
        let mut name = first.clone();
        let mut number = 2_u32;
        while taken.contains(&name) {
            name = format!("{first}-{number}");
            number = number.saturating_add(1);
        }
        if name != first {
            *quota = quota.clone().named(&name);
        }
        taken.push(name);
    }
}

impl PartialEq for Quotas {
    fn eq(&self, other: &Self) -> bool {
        self.is(other) || self.as_slice() == other.as_slice()
    }
}

impl Eq for Quotas {}

impl From<Quota> for Quotas {
    fn from(quota: Quota) -> Self {
        Self::of(vec![quota])
    }
}

impl From<&Self> for Quotas {
    fn from(quotas: &Self) -> Self {
        quotas.clone()
    }
}

impl<const N: usize> From<[Quota; N]> for Quotas {
    fn from(quotas: [Quota; N]) -> Self {
        const { assert!(N > 0, "no quota would be no limit") };
        Self::of(quotas.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_told_apart_by_name() {
        let quotas = Quotas::from([
            Quota::per_minute(1),
            Quota::per_minute(2),
            Quota::per_minute(3),
        ]);
        let names: Vec<_> = quotas.as_slice().iter().map(Quota::name).collect();
        assert_eq!(names, ["minute", "minute-2", "minute-3"]);
        assert_eq!(Quotas::new([]), Err(NoQuota));
    }

    #[test]
    fn a_share_is_rounded_up() {
        let quotas = Quotas::from([Quota::per_minute(10).burst(1)]);
        let share = quotas.share(NonZeroU32::new(4).unwrap());
        assert_eq!(share, Quotas::from(Quota::per_minute(3).burst(1)));
    }
}
