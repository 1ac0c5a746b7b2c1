//! `Idempotency-Key`: a client's retry is charged once (draft-ietf-httpapi-idempotency-key-header).

use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};
use sha2::{Digest, Sha256};

use super::{
    body_digest,
    kept_answers::{Answer, AnswerKey, KeptAnswers, length_of_fields},
};
use crate::{
    domain::{
        AccountId,
        books::HoldRefusal,
        denial::{Denial, DenialKind},
        money::Money,
        principal::Principal,
        usage::Idempotency,
    },
    guard::FixedBody,
    wire::{RequestHead, write_cost},
};

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// RFC 9530.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// The longest key, in bytes.
const KEY_LENGTH_MAX: usize = 255;

/// How `Idempotency-Key` is honoured.
///
/// The ledger remembers an account's keys, so that a retry is charged once whichever instance it
/// reaches. Answers are kept in this process's memory, within limits; a retry whose answer isn't
/// there is refused (409) and not charged. While the first call is under way, further ones are
/// refused (409); a call that cost nothing leaves its key free. A key that is reused with another
/// method, target, credential (a rotated API key counts as the same), `content-type`,
/// `content-encoding`, `content-length` or `content-digest` is refused (422). Another body of the
/// same length is refused only if a [`BodyDigestLayer`](crate::BodyDigestLayer) is further out:
/// this layer reads no bodies.
///
/// ```
/// use std::time::Duration;
/// use tollgate::IdempotencyKeys;
///
/// let keys = IdempotencyKeys::new()
///     .keep_for(Duration::from_secs(3_600))
///     .answer_bytes_max(16 * 1024);
/// # let _ = keys;
/// ```
#[derive(Clone, Debug)]
#[must_use = "settings do nothing until a layer has them"]
pub struct IdempotencyKeys {
    keep_for: Duration,
    answer_bytes_max: usize,
    memory_bytes_max: u64,
}

impl IdempotencyKeys {
    /// Remembers keys for a day, and answers of up to 64 KiB each, 16 MiB in all.
    pub fn new() -> Self {
        Self {
            keep_for: Duration::from_secs(86_400),
            answer_bytes_max: 64 * 1_024,
            memory_bytes_max: 16 * 1_024 * 1_024,
        }
    }

    /// How long a key is remembered after its call began.
    pub fn keep_for(mut self, time: Duration) -> Self {
        self.keep_for = time;
        self
    }

    /// The largest body, with its trailers, that is kept for a retry; 0: none.
    pub fn answer_bytes_max(mut self, bytes: usize) -> Self {
        self.answer_bytes_max = bytes;
        self
    }

    /// Names a payment whose request has an `Idempotency-Key`, for the
    /// [reference](crate::usage::Credit::reference) of its credit. The same key of the same account
    /// is the same payment, which the ledger counts once, and refuses
    /// ([`Conflict`](crate::store::StoreErrorKind::Conflict)) with another amount. `None` if the
    /// client sent no key.
    ///
    /// It has 43 characters, and reveals nothing about the key.
    ///
    /// ```
    /// use http::HeaderMap;
    /// use tollgate::{IdempotencyKeys, store::AccountId};
    ///
    /// let (ann, bob) = (AccountId::new("ann")?, AccountId::new("bob")?);
    /// let mut headers = HeaderMap::new();
    /// assert_eq!(IdempotencyKeys::payment_name(&headers, &ann)?, None);
    /// headers.insert("idempotency-key", "order-7".parse()?);
    /// let name = IdempotencyKeys::payment_name(&headers, &ann)?;
    /// assert_eq!(name, IdempotencyKeys::payment_name(&headers, &ann)?);
    /// assert_ne!(name, IdempotencyKeys::payment_name(&headers, &bob)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// 400 if the header is repeated, or isn't 1 to 255 visible characters.
    pub fn payment_name(
        headers: &HeaderMap,
        account: &AccountId,
    ) -> Result<Option<String>, Denial> {
        let Some(key) = key_of(headers)? else {
            return Ok(None);
        };
        let mut hash = Sha256::new();
        for part in ["payment", account.as_str(), key] {
            add_part(&mut hash, part.as_bytes());
        }
        Ok(Some(URL_SAFE_NO_PAD.encode(hash.finalize())))
    }

    /// How much memory all answers may take, including their header fields; 0: none are kept. To
    /// make room, the account that uses most loses its oldest answer.
    pub fn memory_bytes_max(mut self, bytes: u64) -> Self {
        self.memory_bytes_max = bytes;
        self
    }
}

/// The `Idempotency-Key` of a request, if it has one.
fn key_of(headers: &HeaderMap) -> Result<Option<&str>, Denial> {
    let malformed = |why: &'static str| {
        Denial::new(DenialKind::Malformed)
            .with_message(why)
            .because(why)
    };
    let mut lines = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    if lines.next().is_some() {
        return Err(malformed("More than one Idempotency-Key was sent"));
    }
    let key = line.to_str().unwrap_or_default();
    if key.is_empty() || key.len() > KEY_LENGTH_MAX {
        return Err(malformed(
            "An Idempotency-Key has 1 to 255 visible characters",
        ));
    }
    Ok(Some(key))
}

impl Default for IdempotencyKeys {
    fn default() -> Self {
        Self::new()
    }
}

/// The settings, and the answers that are kept.
#[derive(Clone)]
pub(super) struct Answers {
    settings: IdempotencyKeys,
    kept: Arc<KeptAnswers>,
}

impl Answers {
    pub(super) fn new(settings: IdempotencyKeys) -> Self {
        Self {
            kept: Arc::new(KeptAnswers::new(settings.memory_bytes_max)),
            settings,
        }
    }

    /// What identifies a repetition of the request; `None` if the client sent no key.
    pub(super) fn read(
        &self,
        head: &RequestHead<'_>,
        principal: &Principal,
    ) -> Result<Option<Idempotency>, Denial> {
        let Some(key) = key_of(head.headers)? else {
            return Ok(None);
        };
        let body = body_digest::read(head.extensions)?.and_then(|read| read.digest.as_ref());
        Ok(Some(Idempotency {
            key: Arc::from(key),
            fingerprint: fingerprint(head, principal, body),
            keep_for: self.settings.keep_for,
        }))
    }

    /// Starts to record the answer of a call that began at `started` and holds money. An answer
    /// already kept under its key belongs to a call that the ledger has forgotten.
    pub(super) fn recording(
        &self,
        account: AccountId,
        call: Idempotency,
        started: Duration,
    ) -> Recording {
        let key = (account, call.key, call.fingerprint);
        self.kept.forget(&key);
        Recording {
            answers: self.clone(),
            key,
            until: started.saturating_add(call.keep_for),
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Some(Vec::new()),
            trailers: None,
        }
    }

    /// The answer of a call that was charged before, if it is kept here.
    pub(super) fn find(
        &self,
        account: AccountId,
        call: &Idempotency,
        now: Duration,
    ) -> Option<Response<FixedBody>> {
        let key = (account, Arc::clone(&call.key), call.fingerprint);
        let answer = self.kept.find(&key, now)?;
        let body = FixedBody::new(answer.body.clone());
        let mut response = Response::new(match &answer.trailers {
            Some(trailers) => body.with_trailers(trailers.clone()),
            None => body,
        });
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers.clone();
        let replayed = HeaderValue::from_static("true");
        response.headers_mut().insert(REPLAYED, replayed);
        Some(response)
    }
}

/// The refusal of a repeated call; `None` if the reason is not repetition.
pub(super) fn denial(refusal: HoldRefusal) -> Option<Denial> {
    let (kind, message) = match refusal {
        HoldRefusal::InProgress => (
            DenialKind::Conflict,
            "A request with this Idempotency-Key is under way",
        ),
        HoldRefusal::AlreadySettled => (
            DenialKind::Conflict,
            "A request with this Idempotency-Key was answered and charged before; its answer is not kept",
        ),
        HoldRefusal::OtherRequest => (
            DenialKind::Unprocessable,
            "This Idempotency-Key was used for another request",
        ),
        _ => return None,
    };
    let denial = Denial::new(kind)
        .with_message(message)
        .because(refusal.to_string());
    Some(match refusal {
        HoldRefusal::InProgress => denial.passing(),
        _ => denial.lasting(),
    })
}

/// Covers everything that must match in a repetition: method, target, caller, credential, and the
/// body as far as it is known. A rotated API key is the same credential, so that a retry may
/// already use the new one.
fn fingerprint(head: &RequestHead<'_>, principal: &Principal, body: Option<&[u8; 32]>) -> [u8; 32] {
    let credential = match (principal.lineage(), principal.key(), principal.session()) {
        (Some(lineage), _, _) => lineage.as_str(),
        (None, Some(key), _) => key.as_str(),
        (None, None, Some(session)) => session.as_str(),
        (None, None, None) => "",
    };
    let query = head.uri.query().unwrap_or_default();
    let parts = [
        head.method.as_str(),
        head.path(),
        query,
        principal.subject(),
        credential,
    ];
    let mut hash = Sha256::new();
    for part in parts {
        add_part(&mut hash, part.as_bytes());
    }
    for name in [
        CONTENT_TYPE,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_DIGEST,
        GRPC_ENCODING,
    ] {
        for line in head.headers.get_all(&name) {
            add_part(&mut hash, name.as_str().as_bytes());
            add_part(&mut hash, line.as_bytes());
        }
    }
    add_part(&mut hash, body.map_or(&[], <[u8; 32]>::as_slice));
    hash.finalize().into()
}

fn add_part(hash: &mut Sha256, part: &[u8]) {
    hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
    hash.update(part);
}

/// Copies an answer while it is sent, unless it becomes too large.
pub(super) struct Recording {
    answers: Answers,
    key: AnswerKey,
    until: Duration,
    status: StatusCode,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
    trailers: Option<HeaderMap>,
}

impl Recording {
    pub(super) fn head(&mut self, status: StatusCode, headers: HeaderMap) {
        self.status = status;
        self.headers = headers;
    }

    /// What the call cost, which its first answer could not always say.
    pub(super) fn cost(&mut self, charged: Money) {
        write_cost(&mut self.headers, charged);
    }

    pub(super) fn data(&mut self, piece: &[u8]) {
        let room = self.answers.settings.answer_bytes_max;
        if let Some(body) = &mut self.body {
            if body.len().saturating_add(piece.len()) > room {
                self.body = None;
            } else {
                body.extend_from_slice(piece);
            }
        }
    }

    /// Trailers take from the room for the body.
    pub(super) fn trailers(&mut self, trailers: &HeaderMap) {
        let room = self.answers.settings.answer_bytes_max;
        let body = self.body.as_ref().map_or(0, Vec::len);
        if body.saturating_add(length_of_fields(trailers)) > room {
            self.give_up();
        } else {
            self.trailers = Some(trailers.clone());
        }
    }

    /// An answer that can't be repeated in full is not kept.
    pub(super) fn give_up(&mut self) {
        self.body = None;
    }

    /// Keeps the answer: it is sent to the end, and charged. The settlement that follows makes the
    /// ledger keep the key. A call that costs nothing frees its key, and the next caller to use it
    /// needs its own answer, so such an answer is not kept.
    pub(super) fn keep(self, now: Duration) {
        if self.answers.settings.answer_bytes_max == 0 {
            return;
        }
        let Some(body) = self.body else { return };
        let trailers = self.trailers.as_ref();
        let answer = Answer::new(self.until, self.status, &self.headers, body, trailers);
        self.answers.kept.keep(self.key, answer, now);
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").finish_non_exhaustive()
    }
}
