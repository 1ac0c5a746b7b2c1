//! The serialized form of quotas, for key records, configuration files and tables of tiers.

use std::{borrow::Cow, num::NonZeroU32, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{CalendarPeriod, Quota, Quotas, Rule, Zone};

/// `{"name":"minute","limit":60,"period_ms":60000}`; `burst`, `rule` and `zone` only where they
/// differ from the default.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    name: Cow<'a, str>,
    limit: NonZeroU32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    burst: Option<NonZeroU32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    period_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "WrittenRule::is_rolling")]
    rule: WrittenRule,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<Cow<'a, str>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WrittenRule {
    #[default]
    Rolling,
    Strict,
    CalendarDay,
    CalendarWeek,
    CalendarMonth,
}

impl WrittenRule {
    const fn calendar(period: CalendarPeriod) -> Self {
        match period {
            CalendarPeriod::Day => Self::CalendarDay,
            CalendarPeriod::Week => Self::CalendarWeek,
            CalendarPeriod::Month => Self::CalendarMonth,
        }
    }

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde hands a reference over"
    )]
    fn is_rolling(&self) -> bool {
        *self == Self::Rolling
    }
}

impl Serialize for Quota {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (rule, zone) = match &self.rule {
            Rule::Rolling => (WrittenRule::Rolling, None),
            Rule::Strict => (WrittenRule::Strict, None),
            Rule::Calendar(period, zone) => (WrittenRule::calendar(*period), Some(zone)),
        };
        let period_ms = u64::try_from(self.period.as_millis()).ok();
        Written {
            name: Cow::Borrowed(&self.name),
            limit: self.limit,
            burst: Some(self.burst).filter(|burst| *burst != self.limit),
            period_ms: period_ms.filter(|_| zone.is_none()),
            rule,
            zone: zone.map(|zone| Cow::Borrowed(zone.name())),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Quota {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        let limit = written.limit.get();
        let period = || {
            let period = written.period_ms.map(Duration::from_millis);
            period.ok_or_else(|| D::Error::missing_field("period_ms"))
        };
        let zone = || match &written.zone {
            Some(name) => Zone::named(name).map_err(D::Error::custom),
            None => Ok(Zone::utc()),
        };
        let calendar = |period| Ok(Self::calendar(period, limit).in_zone(zone()?));
        let quota = match written.rule {
            WrittenRule::Rolling => Self::per(period()?, limit),
            WrittenRule::Strict => Self::per(period()?, limit).strict(),
            WrittenRule::CalendarDay => calendar(CalendarPeriod::Day)?,
            WrittenRule::CalendarWeek => calendar(CalendarPeriod::Week)?,
            WrittenRule::CalendarMonth => calendar(CalendarPeriod::Month)?,
        };
        let burst = written.burst.unwrap_or(written.limit);
        Ok(quota.named(&written.name).burst(burst.get()))
    }
}

impl Serialize for Quotas {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_slice().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Quotas {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let quotas = Vec::<Quota>::deserialize(deserializer)?;
        Self::new(quotas).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let zone = Zone::named("Europe/Amsterdam").unwrap();
        let quotas = Quotas::from([
            Quota::per_second(10),
            Quota::per_minute(60).burst(5).named("short"),
            Quota::per(Duration::from_millis(1_500), 7).strict(),
            Quota::calendar(CalendarPeriod::Day, 1_000),
            Quota::calendar(CalendarPeriod::Week, 5_000),
            Quota::calendar(CalendarPeriod::Month, 10_000).in_zone(zone),
        ]);
        let text = serde_json::to_string(&quotas).unwrap();
        assert!(
            text.starts_with(r#"[{"name":"second","limit":10,"period_ms":1000},"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Quotas>(&text).unwrap(), quotas);
    }

    #[test]
    fn what_is_no_quota_is_refused() {
        for text in [
            "[]",
            r#"[{"name":"a","limit":0,"period_ms":1}]"#,
            r#"[{"name":"a","limit":1}]"#,
            r#"[{"name":"a","limit":1,"period_ms":1,"rule":"odd"}]"#,
            r#"[{"name":"a","limit":1,"rule":"calendar_day","zone":"Nowhere"}]"#,
            r#"[{"name":"a","limit":1,"period_ms":1,"more":1}]"#,
        ] {
            assert!(serde_json::from_str::<Quotas>(text).is_err(), "{text}");
        }
    }
}
