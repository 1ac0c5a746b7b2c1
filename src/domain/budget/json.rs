//! Budgets and their windows as JSON.

use std::time::Duration;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::SerializeStruct,
};

use serde_json::value::RawValue;

use super::{RollingWindow, Thresholds};
use crate::domain::{
    books::{Budget, Spent},
    clock::Timestamp,
    money::Money,
};

/// Its length in seconds.
impl Serialize for RollingWindow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.length().as_secs())
    }
}

impl<'de> Deserialize<'de> for RollingWindow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = u64::deserialize(deserializer)?;
        Self::new(Duration::from_secs(seconds)).map_err(D::Error::custom)
    }
}

/// One amount is a number, several are a list of numbers, none is `null`.
impl Serialize for Thresholds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.as_slice() {
            [] => serializer.serialize_none(),
            [amount] => amount.serialize(serializer),
            amounts => amounts.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Thresholds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // An amount is read from its very text, which serde's buffers for untagged forms don't
        // keep.
        let raw = <Box<RawValue>>::deserialize(deserializer)?;
        let text = raw.get();
        if text.starts_with('[') {
            let amounts: Vec<Money> = serde_json::from_str(text).map_err(D::Error::custom)?;
            return Self::new(amounts).map_err(D::Error::custom);
        }
        let amount: Option<Money> = serde_json::from_str(text).map_err(D::Error::custom)?;
        Ok(amount.into())
    }
}

impl Serialize for Spent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut spent = serializer.serialize_struct("Spent", 2)?;
        spent.serialize_field("settled", &self.settled)?;
        spent.serialize_field("held", &self.held)?;
        spent.end()
    }
}

/// Its limits, what was spent in each window, and when the day and the month of that began. Of the
/// rolling window there is what was charged; what is held in it is `total.held`.
impl Serialize for Budget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Charged {
            settled: Money,
        }

        let start = |second| Timestamp::from_second(second).ok();
        let rolling = self.rolling.as_ref().map(|rolling| Charged {
            settled: rolling.settled(),
        });
        let mut budget = serializer.serialize_struct("Budget", 7)?;
        budget.serialize_field("limits", &self.limits)?;
        budget.serialize_field("day_start", &start(self.windows.day))?;
        budget.serialize_field("day", &self.day)?;
        budget.serialize_field("month_start", &start(self.windows.month))?;
        budget.serialize_field("month", &self.month)?;
        budget.serialize_field("total", &self.total)?;
        budget.serialize_field("rolling", &rolling)?;
        budget.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::{
        AccountId, BudgetId,
        budget::{BudgetWindow, RollingLimit, SoftLimits, SpendingAlert, SpendingLimits},
    };

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    fn limits() -> SpendingLimits {
        let window = RollingWindow::new(Duration::from_secs(18_000)).unwrap();
        SpendingLimits {
            daily: Some(money("5.25")),
            rolling: Some(RollingLimit::new(window, money("2"))),
            soft: SoftLimits {
                monthly: Thresholds::new([money("7"), money("5.5")]).unwrap(),
                total: money("0.000000001").into(),
                ..SoftLimits::default()
            },
            ..SpendingLimits::default()
        }
    }

    #[test]
    fn limits_are_read_as_they_were_written() {
        let text = serde_json::to_string(&limits()).unwrap();
        assert!(text.contains("\"window_seconds\":18000"), "{text}");
        let read: SpendingLimits = serde_json::from_str(&text).unwrap();
        assert_eq!(read, limits());
        let none: SpendingLimits = serde_json::from_str("{}").unwrap();
        assert_eq!(none, SpendingLimits::default());
    }

    #[test]
    fn thresholds_are_an_amount_or_a_list_of_them() {
        let read = |text: &str| serde_json::from_str::<Thresholds>(text).unwrap();
        let several = Thresholds::new([money("2"), money("1.5")]).unwrap();
        assert_eq!(read(" [2, 1.5, 2.0] "), several);
        assert_eq!(serde_json::to_string(&several).unwrap(), "[1.5,2]");
        assert_eq!(read("1.5"), money("1.5").into());
        assert_eq!(read("[1.5]"), money("1.5").into());
        let one = serde_json::to_string(&read("1.5")).unwrap();
        assert_eq!(one, "1.5");
        for none in ["null", "[]"] {
            assert_eq!(read(none), Thresholds::NONE);
        }
        let none = serde_json::to_string(&Thresholds::NONE).unwrap();
        assert_eq!(none, "null");
        let soft = r#"{"rolling": {"window_seconds": 60, "soft": [1, 2]}}"#;
        let limits: SpendingLimits = serde_json::from_str(soft).unwrap();
        assert_eq!(limits.rolling.unwrap().soft, read("[1, 2]"));
    }

    #[test]
    fn what_is_no_limit_is_refused() {
        for text in [
            r#"{"dayly": 1}"#,
            r#"{"soft": {"daily": 1, "rolling": 1}}"#,
            r#"{"rolling": {"window_seconds": 59, "limit": 1}}"#,
            r#"{"rolling": {"window_seconds": 60, "limits": 1}}"#,
            r#"{"rolling": {"limit": 1}}"#,
            r#"{"daily": "many"}"#,
            r#"{"daily": [1, 2]}"#,
            r#"{"soft": {"daily": "many"}}"#,
            r#"{"soft": {"daily": [1, "2"]}}"#,
            r#"{"soft": {"daily": [[1]]}}"#,
            r#"{"soft": {"daily": {"0": 1}}}"#,
            r#"{"soft": {"daily": [1, 2, 3, 4, 5, 6, 7, 8, 9]}}"#,
            r#"{"daily": 0.0000000001}"#,
        ] {
            let read = serde_json::from_str::<SpendingLimits>(text);
            assert!(read.is_err(), "{text}");
        }
    }

    #[test]
    fn a_budget_says_what_was_spent_of_what() {
        let mut budget = Budget {
            limits: limits(),
            ..Budget::default()
        };
        budget.day.settled = money("1.5");
        budget.total.held = money("3");
        let shown = serde_json::to_value(&budget).unwrap();
        assert_eq!(shown["limits"]["daily"].to_string(), "5.25");
        assert_eq!(shown["day_start"], "1970-01-01T00:00:00Z");
        assert_eq!(shown["day"]["settled"].to_string(), "1.5");
        assert_eq!(shown["total"]["held"].to_string(), "3");
        assert_eq!(shown["rolling"], json!(null));
    }

    #[test]
    fn an_alert_names_its_window() {
        let alert = SpendingAlert {
            account: AccountId::new("ann").unwrap(),
            budget: BudgetId::new("key-1").unwrap(),
            window: BudgetWindow::Rolling,
            limit: money("1"),
            spent: money("1.25"),
        };
        let shown = serde_json::to_value(&alert).unwrap();
        assert_eq!(shown["window"], "rolling");
        assert_eq!(shown["account"], "ann");
        assert_eq!(shown["spent"].to_string(), "1.25");
    }
}
