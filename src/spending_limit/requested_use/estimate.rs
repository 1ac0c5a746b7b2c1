//! How many tokens a request may use.

use super::RequestedUse;
use crate::{
    spending_limit::{body_digest, price::RequestLength},
    wire::RequestHead,
};

impl RequestedUse {
    /// How many tokens a request may use, as an estimate for
    /// [`RateLimitLayer::tokens`](crate::RateLimitLayer::tokens): one for each four bytes of its
    /// body, and the output that it asks for, of all its choices together; `output` for each choice
    /// of a request that states no bound. 0 for a request that nothing
    /// [read](crate::BodyDigestLayer::read_use).
    ///
    /// ```
    /// use tollgate::{RateLimitLayer, RequestedUse, quota::Quota};
    ///
    /// let tokens = RateLimitLayer::per_account(Quota::per_minute(100_000))
    ///     .tokens(|head| RequestedUse::estimate(head, 1_000));
    /// # let _ = tokens;
    /// ```
    #[must_use]
    pub fn estimate(head: &RequestHead<'_>, output: u64) -> u32 {
        let Some(asked) = head.extensions.get::<Self>() else {
            return 0;
        };
        let read = body_digest::read(head.extensions).ok().flatten();
        let length = RequestLength::of(head.headers, read.map(|read| read.bytes));
        let output = asked.output_max.unwrap_or(output);
        let output = output.saturating_mul(asked.choices.max(1));
        let tokens = length.bytes_as_sent(0).div_ceil(4).saturating_add(output);
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, header::CONTENT_LENGTH};

    use super::*;

    fn request(length: Option<u64>) -> Request<()> {
        let mut request = Request::new(());
        if let Some(length) = length {
            request.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        request
    }

    fn asking(length: Option<u64>, output_max: Option<u64>, choices: u64) -> u32 {
        let mut request = request(length);
        request.extensions_mut().insert(RequestedUse {
            output_max,
            choices,
            ..RequestedUse::default()
        });
        RequestedUse::estimate(&RequestHead::of(&request), 1_000)
    }

    #[test]
    fn the_body_and_the_output_of_each_choice_count() {
        assert_eq!(asking(Some(401), Some(50), 1), 101 + 50);
        assert_eq!(asking(Some(401), Some(50), 3), 101 + 3 * 50);
        assert_eq!(asking(Some(400), None, 2), 100 + 2 * 1_000);
        assert_eq!(asking(Some(0), Some(0), 0), 0);
        assert_eq!(asking(None, Some(7), 0), 7, "no choice counts as one");
    }

    #[test]
    fn what_no_number_holds_is_as_much_as_there_can_be() {
        assert_eq!(asking(Some(u64::MAX), Some(1), 1), u32::MAX);
        assert_eq!(asking(Some(0), Some(u64::MAX), 2), u32::MAX);
    }

    #[test]
    fn what_was_not_read_is_estimated_at_nothing() {
        let request = request(Some(4_000));
        let head = RequestHead::of(&request);
        assert_eq!(RequestedUse::estimate(&head, 1_000), 0);
    }
}
