//! What only some calls use or carry.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Tags;
use crate::domain::{
    BudgetId,
    budget::{Calendar, Windows},
    charge::Tokens,
    clock::Timestamp,
};

/// What only some calls use, and is priced on its own, or carry. Where it is not there, none of it
/// was counted or noted. Its serialized form leaves out what is zero or not known, and names that
/// it doesn't know are ignored, so a ledger can keep it as JSON in one column.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct UsageDetails {
    /// Of the input tokens that were written to a cache: those kept for an hour.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hour_cache_write_tokens: u64,
    /// Input tokens that were audio.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub audio_input_tokens: u64,
    /// Input tokens that were images.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub image_input_tokens: u64,
    /// Output tokens that were audio.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub audio_output_tokens: u64,
    /// Output tokens that were images.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub image_output_tokens: u64,
    /// Web searches that the provider made.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub web_searches: u64,
    /// The provider's tier that served the call; `None` for its ordinary one, or if none was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<Arc<str>>,
    /// What the application noted: [on the layer](crate::SpendingLimitLayer::tags), or in the
    /// [handler](crate::Charge::tag). A call that its ledger resolved, because its process died or
    /// it outlived its hold, has none.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// The budgets that it counted in: its key's, its team's. Empty if there was none but its
    /// key's, and for a call without a hold. One that its ledger resolved has its key's too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<BudgetId>,
    /// The day and the month in which its charge counted, where they aren't those in which it
    /// began: its money was set aside after midnight, or by a clock that differs, or in a lease of
    /// the day before. Ledgers write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Windows>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes it like that"
)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl UsageDetails {
    /// `None` if there is nothing to tell.
    pub(crate) fn of(tokens: Option<&Tokens>, service_tier: Option<&str>) -> Option<Box<Self>> {
        let rare = |tokens: &Tokens| {
            let Tokens {
                written_for_an_hour,
                input_audio,
                input_image,
                output_audio,
                output_image,
                searches,
                ..
            } = *tokens;
            let media = input_audio | input_image | output_audio | output_image;
            (written_for_an_hour | media | searches) > 0
        };
        let tokens = tokens.filter(|tokens| rare(tokens));
        if tokens.is_none() && service_tier.is_none() {
            return None;
        }
        let tokens = tokens.copied().unwrap_or_default();
        Some(Box::new(Self {
            hour_cache_write_tokens: tokens.written_for_an_hour,
            audio_input_tokens: tokens.input_audio,
            image_input_tokens: tokens.input_image,
            audio_output_tokens: tokens.output_audio,
            image_output_tokens: tokens.output_image,
            web_searches: tokens.searches,
            service_tier: service_tier.map(Arc::from),
            ..Self::default()
        }))
    }

    /// The same with what was noted of the call, if anything was.
    pub(crate) fn with_notes(
        details: Option<Box<Self>>,
        tags: Tags,
        budgets: &[BudgetId],
    ) -> Option<Box<Self>> {
        if tags.is_empty() && budgets.is_empty() {
            return details;
        }
        let mut details = details.unwrap_or_default();
        details.tags = tags;
        details.budgets = budgets.to_vec();
        Some(details)
    }

    /// The same with the windows in which the charge counted, if they are to be noted.
    pub(crate) fn with_windows(
        details: Option<Box<Self>>,
        windows: Option<Windows>,
    ) -> Option<Box<Self>> {
        if windows.is_none() {
            return details;
        }
        let mut details = details.unwrap_or_default();
        details.windows = windows;
        Some(details)
    }

    /// The windows in which a call's charge counted.
    pub(crate) fn windows_of(
        details: Option<&Self>,
        started_at: Timestamp,
        calendar: &Calendar,
    ) -> Windows {
        let noted = details.and_then(|details| details.windows);
        noted.unwrap_or_else(|| calendar.windows(started_at))
    }
}

#[cfg(any(feature = "postgres", feature = "redis", feature = "sqlite"))]
impl UsageDetails {
    /// `None` if it can't be read, which is logged once: the rest of its row is worth more than it.
    pub(crate) fn from_text(text: &str) -> Option<Box<Self>> {
        static LOGGED: std::sync::Once = std::sync::Once::new();
        let details = serde_json::from_str(text);
        if let Err(error) = &details {
            LOGGED.call_once(|| {
                tracing::error!(
                    target: "tollgate",
                    %error,
                    "a row of usage has details that can't be read, and is shown without; further ones are not logged"
                );
            });
        }
        details.ok()
    }
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
impl UsageDetails {
    /// As they are stored, with the windows that are to be noted.
    pub(crate) fn text_of(details: Option<&Self>, windows: Option<Windows>) -> Option<String> {
        match windows {
            None => details.map(Self::to_text),
            Some(_) => {
                let details = details.cloned().map(Box::new);
                Self::with_windows(details, windows).map(|details| details.to_text())
            }
        }
    }

    /// As it is stored.
    pub(crate) fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_used_is_told() {
        assert_eq!(UsageDetails::of(None, None), None);
        let plain = Tokens {
            input: 3,
            cached: 2,
            cache_written: 1,
            output: 4,
            ..Tokens::default()
        };
        assert_eq!(UsageDetails::of(Some(&plain), None), None);
        let spoken = Tokens {
            input_audio: 3,
            searches: 1,
            ..plain
        };
        let details = UsageDetails::of(Some(&spoken), Some("flex")).unwrap();
        let text = serde_json::to_string(&details).unwrap();
        let expected = r#"{"audio_input_tokens":3,"web_searches":1,"service_tier":"flex"}"#;
        assert_eq!(text, expected);
        let read: UsageDetails = serde_json::from_str(&text).unwrap();
        assert_eq!(read, *details);
        let of_later = r#"{"audio_input_tokens":3,"video_seconds":9}"#;
        let read: UsageDetails = serde_json::from_str(of_later).unwrap();
        assert_eq!(read.audio_input_tokens, 3);
    }

    #[test]
    fn each_kind_is_told() {
        let all = Tokens {
            written_for_an_hour: 1,
            input_audio: 2,
            input_image: 3,
            output_audio: 4,
            output_image: 5,
            searches: 6,
            ..Tokens::default()
        };
        let details = UsageDetails::of(Some(&all), None).unwrap();
        let expected = UsageDetails {
            hour_cache_write_tokens: 1,
            audio_input_tokens: 2,
            image_input_tokens: 3,
            audio_output_tokens: 4,
            image_output_tokens: 5,
            web_searches: 6,
            service_tier: None,
            ..UsageDetails::default()
        };
        assert_eq!(*details, expected);
        for count in [1, 1 << 40] {
            for place in 0..6 {
                let mut tokens = Tokens::default();
                let counter = match place {
                    0 => &mut tokens.written_for_an_hour,
                    1 => &mut tokens.input_audio,
                    2 => &mut tokens.input_image,
                    3 => &mut tokens.output_audio,
                    4 => &mut tokens.output_image,
                    _ => &mut tokens.searches,
                };
                *counter = count;
                assert!(UsageDetails::of(Some(&tokens), None).is_some(), "{place}");
            }
        }
    }
}
