//! A refusal: what happened, what the client may read, and what the operator may read.

mod sought;
mod words;

use std::{borrow::Cow, fmt, time::Duration};

use super::{KeyId, credential::CredentialKind, money::Money};

use words::Words;

pub(crate) use {sought::Sought, words::Neither};

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DenialKind {
    /// No credential was sent. 401.
    CredentialMissing,
    /// A credential was sent, but it is not valid. 401.
    CredentialInvalid,
    /// The credential was valid once, but has expired. 401.
    CredentialExpired,
    /// A login with a wrong name or a wrong password; it is never revealed which. 401.
    LoginFailed,
    /// Several credentials were sent that disagree, or one was sent twice. 401.
    CredentialAmbiguous,
    /// The caller is known, but not allowed to do this. 403.
    NotPermitted,
    /// Not allowed from this network address. 403.
    AddressRefused,
    /// Too many requests. 429.
    RateLimited,
    /// The balance does not cover the price. 402.
    InsufficientCredits,
    /// The balance would suffice, but a spending limit is reached. 402.
    SpendingLimitReached,
    /// The request itself is unacceptable: a path that is not normalized, an unreadable body. 400.
    Malformed,
    /// The request is well-formed, but cannot be carried out. 422.
    Unprocessable,
    /// Nothing exists at this address. 404.
    NotFound,
    /// The resource exists, but not for this method. 405.
    MethodNotAllowed,
    /// It exists already. 409.
    Conflict,
    /// The body is larger than allowed. 413.
    TooLarge,
    /// The body came too slowly, or not at all. 408.
    TooSlow,
    /// The service failed. 500.
    Internal,
    /// A store or pool that the decision depends on can't answer at the moment. 503, with
    /// `Retry-After: 1` unless the refusal says otherwise.
    Unavailable,
}

impl DenialKind {
    /// A stable name for logs, metrics and error codes, in snake case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CredentialMissing => "credential_missing",
            Self::CredentialInvalid => "credential_invalid",
            Self::CredentialExpired => "credential_expired",
            Self::LoginFailed => "login_failed",
            Self::CredentialAmbiguous => "credential_ambiguous",
            Self::NotPermitted => "not_permitted",
            Self::AddressRefused => "address_refused",
            Self::RateLimited => "rate_limited",
            Self::InsufficientCredits => "insufficient_credits",
            Self::SpendingLimitReached => "spending_limit_reached",
            Self::Malformed => "malformed",
            Self::Unprocessable => "unprocessable",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::TooSlow => "too_slow",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
        }
    }

    /// Whether the client is asked to authenticate (401).
    #[must_use]
    pub const fn is_authentication(self) -> bool {
        matches!(
            self,
            Self::CredentialMissing
                | Self::CredentialInvalid
                | Self::CredentialExpired
                | Self::CredentialAmbiguous
                | Self::LoginFailed
        )
    }

    /// Whether money is the reason (402).
    #[must_use]
    pub const fn is_payment(self) -> bool {
        matches!(self, Self::InsufficientCredits | Self::SpendingLimitReached)
    }
}

/// How long a client is asked to wait if the service can't answer: a store that failed over, or was
/// restarted, is back within seconds, and a breaker tries it about once a second.
const UNAVAILABLE_FOR: Duration = Duration::from_secs(1);

/// A refused request. The text for the client and the text for the operator are separate, and
/// neither contains a secret.
///
/// ```
/// use tollgate::denial::{Denial, DenialKind};
///
/// let denial = Denial::new(DenialKind::NotPermitted).because("key-1 lacks chat:write");
/// assert_eq!(denial.kind().as_str(), "not_permitted");
/// assert_eq!(denial.reason(), "key-1 lacks chat:write");
/// assert_eq!(denial.message(), None, "a client reads the format's own text");
/// ```
#[derive(Clone)]
pub struct Denial {
    kind: DenialKind,
    credential: Option<CredentialKind>,
    words: Words,
    reason: Cow<'static, str>,
    retry_after: Option<Duration>,
    /// `None`: unmarked.
    is_passing: Option<bool>,
    /// Boxed, because few refusals have details, and refusals are moved by value.
    details: Option<Box<Details>>,
}

#[derive(Clone, Default)]
struct Details {
    price: Option<Money>,
    is_price_at_most: bool,
    limit_end: Option<super::clock::Timestamp>,
    expired_at: Option<super::clock::Timestamp>,
    violated: Vec<Box<str>>,
    lacking_scope: Option<Box<str>>,
    allowed: Vec<Box<str>>,
    holder: Option<Holder>,
    parameter: Option<Box<str>>,
    code: Option<Box<str>>,
}

/// Whose credential was refused: for the audit log, never in an answer.
#[derive(Clone)]
pub(crate) struct Holder {
    pub(crate) subject: Box<str>,
    pub(crate) key: Option<KeyId>,
}

impl Denial {
    /// A refusal of the given kind. One of [`Unavailable`](DenialKind::Unavailable) asks its client
    /// to come again in a second; [`retry_after`](Self::retry_after) sets another time.
    #[must_use]
    pub const fn new(kind: DenialKind) -> Self {
        let retry_after = match kind {
            DenialKind::Unavailable => Some(UNAVAILABLE_FOR),
            _ => None,
        };
        Self {
            kind,
            credential: None,
            words: Words::Usual,
            reason: Cow::Borrowed(""),
            retry_after,
            is_passing: None,
            details: None,
        }
    }

    /// Sets which kind of credential it is about.
    #[must_use]
    pub const fn of_credential(mut self, credential: CredentialKind) -> Self {
        self.credential = Some(credential);
        self
    }

    /// Sets a text for the client, instead of the denial format's own.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.words = Words::Own(message.into());
        self
    }

    /// Sets a text for the operator's log. No client sees it.
    #[must_use]
    pub fn because(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.reason = reason.into();
        self
    }

    /// Sets how long the client should wait before it tries again. Answers carry it in whole
    /// seconds, rounded up, never 0.
    #[must_use]
    pub const fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Says nothing of the time, though refusals of its kind do.
    pub(crate) const fn without_wait(mut self) -> Self {
        self.retry_after = None;
        self
    }

    /// Marks what passes by itself within seconds: a call under way holds the money that is needed,
    /// or is the first one with this `Idempotency-Key`. Without this mark, formats that can tell a
    /// client not to retry a 402 do so.
    #[must_use]
    pub const fn passing(mut self) -> Self {
        self.is_passing = Some(true);
        self
    }

    /// Marks what no retry of the same request will change, where clients retry the status of
    /// themselves.
    #[must_use]
    pub const fn lasting(mut self) -> Self {
        self.is_passing = Some(false);
        self
    }

    /// What the request would have cost.
    #[must_use]
    pub fn price(mut self, price: Money) -> Self {
        self.details_mut().price = Some(price);
        self.details_mut().is_price_at_most = false;
        self
    }

    /// What the request could have cost at most, where its price depends on its use: that much was
    /// to be held.
    #[must_use]
    pub fn price_at_most(mut self, most: Money) -> Self {
        self.details_mut().price = Some(most);
        self.details_mut().is_price_at_most = true;
        self
    }

    /// When the calendar window ends whose spending limit is reached.
    #[must_use]
    pub fn limit_ending_at(mut self, at: super::clock::Timestamp) -> Self {
        self.details_mut().limit_end = Some(at);
        self
    }

    /// When the credential expired.
    #[must_use]
    pub fn expired_at(mut self, at: super::clock::Timestamp) -> Self {
        self.details_mut().expired_at = Some(at);
        self
    }

    /// Which rate limits were exceeded, by their names.
    #[must_use]
    pub fn violating<'a>(mut self, policies: impl IntoIterator<Item = &'a str>) -> Self {
        self.details_mut().violated = policies.into_iter().map(Into::into).collect();
        self
    }

    /// Sets which methods would have been allowed instead: the `Allow` of a 405 (RFC 9110, 15.5.6).
    #[must_use]
    pub fn allowing<'a>(mut self, methods: impl IntoIterator<Item = &'a str>) -> Self {
        self.details_mut().allowed = methods.into_iter().map(Into::into).collect();
        self
    }

    /// Sets which parameter of the request is wrong: `param` in
    /// [OpenAI's format](crate::DenialFormat::OpenAi). Other formats don't show it.
    #[must_use]
    pub fn at_parameter(mut self, name: &str) -> Self {
        self.details_mut().parameter = Some(name.into());
        self
    }

    /// Sets a code that is more exact than the kind, for clients that look for it: `code` in
    /// [OpenAI's format](crate::DenialFormat::OpenAi). Other formats show the kind's.
    #[must_use]
    pub fn with_code(mut self, code: &str) -> Self {
        self.details_mut().code = Some(code.into());
        self
    }

    /// Sets which scopes a token must have for this request, for the challenge of RFC 6750 section
    /// 3.
    pub(crate) fn lacking_scope(mut self, scopes: &[Box<str>]) -> Self {
        self.details_mut().lacking_scope = Some(scopes.join(" ").into());
        self
    }

    pub(crate) fn required_scope(&self) -> Option<&str> {
        self.details.as_ref()?.lacking_scope.as_deref()
    }

    /// Sets whose credential it was, if known despite the refusal.
    pub(crate) fn held_by(mut self, subject: &str, key: Option<&KeyId>) -> Self {
        self.details_mut().holder = Some(Holder {
            subject: subject.into(),
            key: key.cloned(),
        });
        self
    }

    pub(crate) fn holder(&self) -> Option<&Holder> {
        self.details.as_ref()?.holder.as_ref()
    }

    fn details_mut(&mut self) -> &mut Details {
        self.details.get_or_insert_default()
    }

    /// The kind of refusal.
    #[must_use]
    pub const fn kind(&self) -> DenialKind {
        self.kind
    }

    /// Which kind of credential it is about, if any.
    #[must_use]
    pub const fn credential(&self) -> Option<CredentialKind> {
        self.credential
    }

    /// The text for the client, if it replaces the format's own.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.words.message()
    }

    /// The text for the operator; may be empty.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// How long to wait, as the refusing layer knows it.
    #[must_use]
    pub const fn wait(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether it is known to [pass](Self::passing) by itself within seconds, or to
    /// [last](Self::lasting). A want of money lasts unless it is marked.
    #[must_use]
    pub const fn is_passing(&self) -> Option<bool> {
        match self.is_passing {
            None if self.kind.is_payment() => Some(false),
            marked => marked,
        }
    }

    /// How long to wait in whole seconds, rounded up, at least 1.
    #[must_use]
    pub fn wait_secs(&self) -> Option<u64> {
        self.retry_after.map(whole_secs_up)
    }

    /// What the request would have cost; at most, if [so marked](Self::is_price_at_most).
    #[must_use]
    pub fn priced_at(&self) -> Option<Money> {
        self.details.as_ref()?.price
    }

    /// Whether the price is the most that the request could have cost.
    #[must_use]
    pub fn is_price_at_most(&self) -> bool {
        let details = self.details.as_ref();
        details.is_some_and(|details| details.is_price_at_most)
    }

    /// Which rate limits were exceeded, by their names.
    pub fn violated_policies(&self) -> impl Iterator<Item = &str> {
        let details = self.details.iter();
        let names = details.flat_map(|details| &details.violated);
        names.map(AsRef::as_ref)
    }

    /// Which parameter of the request is wrong, if that is known.
    #[must_use]
    pub fn parameter(&self) -> Option<&str> {
        self.details.as_ref()?.parameter.as_deref()
    }

    /// The code that is more exact than the kind, if there is one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.details.as_ref()?.code.as_deref()
    }

    /// Which methods would have been allowed instead.
    pub fn allowed_methods(&self) -> impl Iterator<Item = &str> {
        let details = self.details.iter();
        let methods = details.flat_map(|details| &details.allowed);
        methods.map(AsRef::as_ref)
    }

    /// When the day or the month ends whose spending limit is reached, if that is known. The call
    /// may fit then, unless another limit is reached too, or it costs more than the limit.
    #[must_use]
    pub fn limit_end(&self) -> Option<super::clock::Timestamp> {
        self.details.as_ref()?.limit_end
    }

    /// When the credential expired.
    #[must_use]
    pub fn expiry(&self) -> Option<super::clock::Timestamp> {
        self.details.as_ref()?.expired_at
    }
}

/// Whole seconds, rounded up, at least 1, so that a client that waits this long has waited long
/// enough.
pub(crate) fn whole_secs_up(wait: Duration) -> u64 {
    let rounded = wait
        .as_secs()
        .saturating_add(u64::from(wait.subsec_nanos() > 0));
    rounded.max(1)
}

impl fmt::Debug for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Denial")
            .field("kind", &self.kind)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        if self.reason.is_empty() {
            Ok(())
        } else {
            write!(f, ": {}", self.reason)
        }
    }
}

impl std::error::Error for Denial {}
