//! The stored formats: numbers and times as text that an operator can read, calls and settlements
//! as JSON.

use std::{borrow::Cow, time::Duration};

use redis::RedisError;
use serde::{Deserialize, Serialize};

use crate::{
    domain::{
        AccountId, BudgetId, KeyId,
        books::{Balance, Budget, Grant, HoldRefusal, Left, Spent},
        budget::{BudgetWindow, SoftLimits, SpendingAlert, SpendingLimits, Thresholds, Windows},
        clock::Timestamp,
        money::Money,
        usage::{Call, Expiry, Outcome, Settlement, UsageDetails},
    },
    store::{StoreError, redis::connections::is_wrapped, rolling, thresholds},
};

pub(super) fn corrupt(what: &str) -> StoreError {
    StoreError::internal(&format!("Redis contains an invalid {what}"))
}

pub(super) fn money(text: &str) -> Result<Money, StoreError> {
    let nanos = text.parse().map_err(|_| corrupt("amount"))?;
    Ok(Money::from_nanos(nanos))
}

pub(super) fn limit(limit: Option<Money>) -> String {
    limit.map_or_else(|| "-".to_owned(), |limit| limit.nanos().to_string())
}

fn limit_or_none(text: &str) -> Result<Option<Money>, StoreError> {
    match text {
        "-" => Ok(None),
        amount => money(amount).map(Some),
    }
}

pub(super) fn moment(text: &str) -> Result<Timestamp, StoreError> {
    text.parse().map_err(|_| corrupt("moment"))
}

pub(super) fn expiry(expiry: Expiry) -> &'static str {
    match expiry {
        Expiry::Release => "release",
        Expiry::Charge => "charge",
    }
}

/// Deposited, settled, held, credit line; what was never written is zero.
pub(super) fn balance(words: &[Option<String>]) -> Result<Balance, StoreError> {
    let [deposited, settled, held, credit_line] = words else {
        return Err(corrupt("balance"));
    };
    let amount = |word: &Option<String>| word.as_deref().map_or(Ok(Money::ZERO), money);
    Ok(Balance {
        deposited: amount(deposited)?,
        settled: amount(settled)?,
        held: amount(held)?,
        credit_line: amount(credit_line)?,
    })
}

/// As an argument of `limits.lua`.
pub(super) fn thresholds(soft: &Thresholds) -> String {
    let limits = soft.as_slice().iter();
    let limits: Vec<String> = limits.map(|limit| limit.nanos().to_string()).collect();
    if limits.is_empty() {
        return "-".to_owned();
    }
    limits.join(",")
}

/// A budget as written by `books.lua`, with its rolling window if it has one, and the soft limits
/// of windows with several.
pub(super) fn budget(
    text: &str,
    rolling: Option<&str>,
    soft: Option<&str>,
) -> Result<Budget, StoreError> {
    let words: Vec<&str> = text.split(' ').collect();
    let [limits @ .., day, month, a, b, c, d, e, f] = words.as_slice() else {
        return Err(corrupt("budget"));
    };
    let [daily, monthly, total, soft_daily, soft_monthly, soft_total] = limits else {
        return Err(corrupt("budget"));
    };
    let second = |word: &str| word.parse::<i64>().map_err(|_| corrupt("window"));
    let spent = |settled: &str, held: &str| -> Result<Spent, StoreError> {
        Ok(Spent {
            settled: money(settled)?,
            held: money(held)?,
        })
    };
    let mut budget = Budget {
        limits: SpendingLimits {
            daily: limit_or_none(daily)?,
            monthly: limit_or_none(monthly)?,
            total: limit_or_none(total)?,
            soft: SoftLimits {
                daily: limit_or_none(soft_daily)?.into(),
                monthly: limit_or_none(soft_monthly)?.into(),
                total: limit_or_none(soft_total)?.into(),
            },
            rolling: None,
        },
        windows: Windows {
            day: second(day)?,
            month: second(month)?,
        },
        day: spent(a, b)?,
        month: spent(c, d)?,
        total: spent(e, f)?,
        rolling: None,
    };
    if let Some(text) = rolling {
        rolling::read(text, &mut budget).ok_or_else(|| corrupt("rolling window"))?;
    }
    if let Some(text) = soft {
        thresholds::read(text, &mut budget);
    }
    Ok(budget)
}

/// The outcome of a hold.
#[derive(Debug)]
pub(super) enum HoldAnswer {
    Granted(Grant),
    Refused(HoldRefusal),
    /// The instance was declared dead.
    Fenced,
    /// It was given up before it arrived.
    GivenUp,
}

pub(super) fn hold_answer(words: &[String]) -> Result<HoldAnswer, StoreError> {
    let [word, details @ ..] = words else {
        return Err(corrupt("answer"));
    };
    let refusal = match word.as_str() {
        "held" => return granted(details).map(HoldAnswer::Granted),
        "fenced" => return Ok(HoldAnswer::Fenced),
        "given_up" => return Ok(HoldAnswer::GivenUp),
        "insufficient" => HoldRefusal::InsufficientCredits,
        "negative" => HoldRefusal::NegativeAmount,
        "day" => HoldRefusal::LimitReached(BudgetWindow::Day),
        "month" => HoldRefusal::LimitReached(BudgetWindow::Month),
        "total" => HoldRefusal::LimitReached(BudgetWindow::Total),
        "rolling" => HoldRefusal::RollingLimitReached {
            wait: match details {
                [word] if word == "-" => None,
                [word] => Some(Duration::from_secs(
                    word.parse().map_err(|_| corrupt("wait"))?,
                )),
                _ => return Err(corrupt("answer")),
            },
        },
        "only_held" => HoldRefusal::OnlyHeld {
            limit: occupied(details)?,
        },
        "in_progress" => HoldRefusal::InProgress,
        "already_settled" => HoldRefusal::AlreadySettled,
        "other_request" => HoldRefusal::OtherRequest,
        _ => return Err(corrupt("answer")),
    };
    Ok(HoldAnswer::Refused(refusal))
}

fn occupied(words: &[String]) -> Result<Option<BudgetWindow>, StoreError> {
    let [word] = words else {
        return Err(corrupt("answer"));
    };
    Ok(match word.as_str() {
        "balance" => None,
        "day" => Some(BudgetWindow::Day),
        "month" => Some(BudgetWindow::Month),
        "total" => Some(BudgetWindow::Total),
        "rolling" => Some(BudgetWindow::Rolling),
        _ => return Err(corrupt("answer")),
    })
}

fn granted(words: &[String]) -> Result<Grant, StoreError> {
    let [day, month, account, budgets] = words else {
        return Err(corrupt("grant"));
    };
    let second = |word: &str| word.parse::<i64>().map_err(|_| corrupt("window"));
    Ok(Grant {
        windows: Windows {
            day: second(day)?,
            month: second(month)?,
        },
        left: Left {
            account: money(account)?,
            budgets: limit_or_none(budgets)?,
        },
    })
}

/// Soft limits that were passed: four words each.
pub(super) fn alerts(
    account: &AccountId,
    words: &[String],
) -> Result<Vec<SpendingAlert>, StoreError> {
    let alert = |words: &[String]| match words {
        [budget, window, limit, spent] => Ok(SpendingAlert {
            account: account.clone(),
            budget: BudgetId::new(budget).map_err(|_| corrupt("budget"))?,
            window: match window.as_str() {
                "1" => BudgetWindow::Day,
                "2" => BudgetWindow::Month,
                "3" => BudgetWindow::Total,
                "4" => BudgetWindow::Rolling,
                _ => return Err(corrupt("window")),
            },
            limit: money(limit)?,
            spent: money(spent)?,
        }),
        _ => Err(corrupt("alert")),
    };
    words.chunks(4).map(alert).collect()
}

/// A call as stored with a hold and in the log.
#[derive(Deserialize, Serialize)]
struct StoredCall<'a> {
    id: Cow<'a, str>,
    by: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<KeyId>,
    route: Cow<'a, str>,
    at: Timestamp,
}

pub(super) fn write_call(call: &Call) -> Result<String, StoreError> {
    let stored = StoredCall {
        id: Cow::Borrowed(&call.request_id),
        by: Cow::Borrowed(&call.principal),
        key: call.key.clone(),
        route: Cow::Borrowed(&call.route),
        at: call.started_at,
    };
    serde_json::to_string(&stored).map_err(|_| StoreError::internal("a call can't be written"))
}

pub(super) fn read_call(account: &AccountId, text: &str) -> Result<Call, StoreError> {
    let stored: StoredCall<'_> = serde_json::from_str(text).map_err(|_| corrupt("call"))?;
    Ok(Call {
        request_id: stored.id.into(),
        account: account.clone(),
        principal: stored.by.into(),
        key: stored.key,
        route: stored.route.into(),
        started_at: stored.at,
    })
}

/// How a call ended; the charge is stored separately.
#[derive(Deserialize, Serialize)]
struct StoredSettlement<'a> {
    outcome: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    latency_nanos: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cached_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cache_write_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    usage_is_missing: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Cow<'a, UsageDetails>>,
}

/// As it is stored, with the windows that are to be noted.
pub(super) fn write_settlement(
    settlement: &Settlement,
    windows: Option<Windows>,
) -> Result<String, StoreError> {
    let mut details = settlement.details.as_deref().map(Cow::Borrowed);
    if windows.is_some() {
        details.get_or_insert_default().to_mut().windows = windows;
    }
    let stored = StoredSettlement {
        outcome: Cow::Borrowed(settlement.outcome.as_str()),
        status: settlement.status,
        latency_nanos: u64::try_from(settlement.latency.as_nanos()).unwrap_or(u64::MAX),
        input_tokens: settlement.input_tokens,
        cached_tokens: settlement.cached_tokens,
        cache_write_tokens: settlement.cache_write_tokens,
        output_tokens: settlement.output_tokens,
        bytes: settlement.bytes,
        model: settlement.model.as_deref().map(Cow::Borrowed),
        usage_is_missing: settlement.usage_is_missing,
        details,
    };
    serde_json::to_string(&stored)
        .map_err(|_| StoreError::internal("a settlement can't be written"))
}

pub(super) fn read_settlement(text: &str, charged: Money) -> Result<Settlement, StoreError> {
    let stored: StoredSettlement<'_> = match serde_json::from_str(text) {
        Ok(stored) => stored,
        Err(_) => without_details(text).ok_or_else(|| corrupt("settlement"))?,
    };
    Ok(Settlement {
        charged,
        outcome: Outcome::from_name(&stored.outcome).ok_or_else(|| corrupt("outcome"))?,
        status: stored.status,
        latency: Duration::from_nanos(stored.latency_nanos),
        input_tokens: stored.input_tokens,
        cached_tokens: stored.cached_tokens,
        cache_write_tokens: stored.cache_write_tokens,
        output_tokens: stored.output_tokens,
        bytes: stored.bytes,
        model: stored.model.map(Into::into),
        usage_is_missing: stored.usage_is_missing,
        details: stored.details.map(|details| Box::new(details.into_owned())),
    })
}

/// What is left of a settlement if its details can't be read. Reading them once more logs why.
fn without_details(text: &str) -> Option<StoredSettlement<'static>> {
    let mut stored: serde_json::Value = serde_json::from_str(text).ok()?;
    let details = stored.as_object_mut()?.remove("details")?;
    let stored = serde_json::from_value(stored).ok()?;
    UsageDetails::from_text(&details.to_string());
    Some(stored)
}

/// Errors that a retry may overcome.
const TRANSIENT_CODES: &[&str] = &[
    "-READONLY",
    "-MASTERDOWN",
    "-MISCONF",
    "-OOM",
    "-LOADING",
    "-NOREPLICAS",
    "-BUSY",
];

/// Whether the server says that it did nothing: even within a script these errors come before the
/// first change.
pub(super) fn is_refusal(error: &RedisError) -> bool {
    let refuses = |code: &str| {
        TRANSIENT_CODES
            .iter()
            .any(|known| known.get(1..) == Some(code))
    };
    error.code().is_some_and(refuses) || is_wrapped(error, TRANSIENT_CODES)
}

/// Whether the server itself says that a retry would fail again.
pub(super) fn is_permanent(error: &RedisError) -> bool {
    matches!(error.code(), Some("ERR" | "WRONGTYPE" | "CROSSSLOT"))
        && !is_wrapped(error, TRANSIENT_CODES)
}

#[cfg(test)]
mod tests {
    use redis::{ErrorKind, RedisError, ServerErrorKind};

    use super::*;

    fn error(detail: &str) -> RedisError {
        let kind = ErrorKind::Server(ServerErrorKind::ResponseError);
        RedisError::from((
            kind,
            "An error was signalled by the server",
            detail.to_owned(),
        ))
    }

    #[test]
    fn what_passes_is_not_hopeless_within_a_script_either() {
        for code in [
            "READONLY",
            "MASTERDOWN",
            "MISCONF",
            "OOM",
            "LOADING",
            "NOREPLICAS",
            "BUSY",
        ] {
            let script = "Error running script (call to f_6b1b): @user_script:12:";
            let wrapped = error(&format!("{script} -{code} some more words"));
            assert!(!is_permanent(&wrapped) && is_refusal(&wrapped), "{code}");
            let bare = redis::make_extension_error(code.to_owned(), None);
            assert!(!is_permanent(&bare) && is_refusal(&bare), "{code}");
        }
        assert!(!is_refusal(&error("unknown command 'EVALSHA'")));
        assert!(is_permanent(&error("unknown command 'EVALSHA'")));
        let defect =
            "Error running script (call to f_6b1b): @user_script:3: attempt to call a nil value";
        assert!(is_permanent(&error(defect)));
    }
}
