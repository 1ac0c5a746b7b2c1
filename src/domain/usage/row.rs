//! The serialized form of a row of the usage log.

use serde::{Serialize, Serializer};

use super::{Tags, UsageEntry};
use crate::domain::{BudgetId, clock::Timestamp, money::Money};

#[derive(Serialize)]
struct Row<'a> {
    position: u64,
    started_at: Timestamp,
    settled_at: Timestamp,
    request_id: &'a str,
    account: &'a str,
    principal: &'a str,
    key: Option<&'a str>,
    route: &'a str,
    model: Option<&'a str>,
    status: Option<u16>,
    outcome: &'a str,
    held: Money,
    charged: Money,
    input_tokens: Option<u64>,
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
    output_tokens: Option<u64>,
    bytes: Option<u64>,
    latency_ms: u64,
    usage_is_missing: bool,
    hour_cache_write_tokens: Option<u64>,
    audio_input_tokens: Option<u64>,
    image_input_tokens: Option<u64>,
    audio_output_tokens: Option<u64>,
    image_output_tokens: Option<u64>,
    web_searches: Option<u64>,
    service_tier: Option<&'a str>,
    tags: Option<&'a Tags>,
    budgets: Option<&'a [BudgetId]>,
}

impl Serialize for UsageEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (call, settlement) = (&self.call, &self.settlement);
        let details = settlement.details.as_deref();
        let row = Row {
            position: self.position,
            started_at: call.started_at,
            settled_at: self.settled_at,
            request_id: &call.request_id,
            account: call.account.as_str(),
            principal: &call.principal,
            key: call.key.as_ref().map(|key| key.as_str()),
            route: &call.route,
            model: settlement.model.as_deref(),
            status: settlement.status,
            outcome: settlement.outcome.as_str(),
            held: self.held,
            charged: settlement.charged,
            input_tokens: settlement.input_tokens,
            cached_tokens: settlement.cached_tokens,
            cache_write_tokens: settlement.cache_write_tokens,
            output_tokens: settlement.output_tokens,
            bytes: settlement.bytes,
            latency_ms: settlement.latency_ms(),
            usage_is_missing: settlement.usage_is_missing,
            hour_cache_write_tokens: details.map(|details| details.hour_cache_write_tokens),
            audio_input_tokens: details.map(|details| details.audio_input_tokens),
            image_input_tokens: details.map(|details| details.image_input_tokens),
            audio_output_tokens: details.map(|details| details.audio_output_tokens),
            image_output_tokens: details.map(|details| details.image_output_tokens),
            web_searches: details.map(|details| details.web_searches),
            service_tier: details.and_then(|details| details.service_tier.as_deref()),
            tags: details
                .map(|details| &details.tags)
                .filter(|tags| !tags.is_empty()),
            budgets: details
                .map(|details| &*details.budgets)
                .filter(|budgets| !budgets.is_empty()),
        };
        row.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{
        AccountId,
        usage::{Call, Outcome, Settlement},
    };

    #[test]
    fn a_row_is_flat_and_its_money_exact() {
        let account = AccountId::new("ann").unwrap();
        let entry = UsageEntry {
            position: 7,
            call: Call {
                request_id: "request-1".into(),
                account,
                principal: "ann".into(),
                key: None,
                route: "POST /chat".into(),
                started_at: Timestamp::UNIX_EPOCH,
            },
            held: Money::from_nanos(2_000_000),
            settlement: Settlement {
                latency: Duration::from_micros(7_900),
                status: Some(200),
                ..Settlement::new(Money::from_nanos(1), Outcome::Completed)
            },
            settled_at: Timestamp::UNIX_EPOCH,
        };
        let json = serde_json::to_string(&entry).unwrap();
        let expected = r#"{"position":7,"started_at":"1970-01-01T00:00:00Z","settled_at":"1970-01-01T00:00:00Z","#;
        assert!(json.starts_with(expected), "{json}");
        let money = r#""status":200,"outcome":"completed","held":0.002,"charged":0.000000001,"#;
        assert!(json.contains(money), "{json}");
        assert!(json.contains(r#""latency_ms":7,"#), "{json}");
    }
}
