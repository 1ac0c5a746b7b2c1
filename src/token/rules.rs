//! What a verifier requires of the claims.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use super::{
    TokenError, TokenErrorKind, TokenUse, VerifiedToken,
    claims::{Claims, NumericDate, Typ},
    header::HeaderKeys,
    issuers::Issuers,
    mapping::Mapping,
    verified::PrincipalOnce,
};
use crate::domain::{
    SessionId,
    clock::Timestamp,
    principal::{TENANT, TokenGrant},
};

const SUBJECT_LENGTH_MAX: usize = 255;
/// The most JSON of a token that is kept for the application, in bytes: every cached token has its
/// own.
const KEPT_LENGTH_MAX: usize = 4 * 1_024;

/// The claim `typ` of Keycloak's tokens that aren't for calling services. Its access tokens have
/// `Bearer` or `DPoP` there, and all of them have `JWT` in the header.
const NOT_FOR_CALLS: &[&str] = &["ID", "Serialized-ID", "Logout"];
/// The claim `typ` of its refresh tokens.
const REFRESHING: &[&str] = &["Refresh", "Offline"];

/// What a verifier requires of a token's claims.
pub(super) struct Rules {
    /// Any of these; if empty, any issuer or none.
    pub(super) issuers: Issuers,
    /// Any of these; if empty, only tokens without an audience.
    pub(super) audiences: Vec<Box<str>>,
    pub(super) typ: Option<Box<str>>,
    pub(super) header_keys: HeaderKeys,
    pub(super) token_use: Option<TokenUse>,
    pub(super) leeway: Duration,
    /// For moments in the future, if it differs from `leeway`.
    pub(super) leeway_ahead: Option<Duration>,
    pub(super) age_max: Option<Duration>,
    /// What every subject begins with.
    pub(super) subject_prefix: Box<str>,
    /// The claims that are kept for the application.
    pub(super) kept: Vec<Box<str>>,
    /// The claims that are read: these, and those that are mapped.
    pub(super) read: Vec<Box<str>>,
    pub(super) mapping: Mapping,
}

impl Rules {
    /// Everything but the time. `of_key` is the issuer that the token's key belongs to, if a
    /// provider says so of each.
    pub(super) fn judge(
        &self,
        mut claims: Claims<'_>,
        of_key: Option<&str>,
    ) -> Result<VerifiedToken, TokenError> {
        self.judge_addresses(&claims, of_key)?;
        let typ = claims.typ.as_ref().and_then(Typ::text);
        self.judge_use(claims.token_use.as_deref(), typ)?;
        self.mapping.check_required(&claims)?;
        let roles = self.mapping.roles(&mut claims)?;
        let scopes = self.mapping.scopes(&claims)?;
        let mut attributes = self.mapping.attributes(&claims)?;
        if let Some(tenant) = self.issuers.judge(&claims, of_key)? {
            attributes.insert(TENANT.to_owned(), tenant.to_owned());
        }
        let subject = self.subject(&claims)?;
        let kept = self.keep(claims.kept)?;
        let NumericDate(expires_at) = claims
            .expires_at
            .ok_or(TokenError::malformed("the token has no exp"))?;
        let session = claims
            .session
            .map(|session| SessionId::new(&session))
            .transpose()
            .map_err(|_| TokenError::malformed("sid has 1 to 255 bytes"))?;
        Ok(VerifiedToken {
            subject,
            session,
            id: claims.id.map(Into::into),
            issued_at: claims.issued_at.map(|date| date.0),
            not_before: claims.not_before.map(|date| date.0),
            expires_at,
            roles,
            grant: TokenGrant::shared(scopes, attributes, kept),
            keys: 0,
            principal: PrincipalOnce::default(),
        })
    }

    /// The claims that are kept for the application, and nothing else of what was read.
    fn keep(&self, read: BTreeMap<String, Value>) -> Result<BTreeMap<String, Value>, TokenError> {
        let is_kept = |name: &str| self.kept.iter().any(|kept| **kept == *name);
        let kept: BTreeMap<_, _> = read.into_iter().filter(|(name, _)| is_kept(name)).collect();
        let length = serde_json::to_string(&kept).map_or(usize::MAX, |json| json.len());
        if length > KEPT_LENGTH_MAX {
            let text = "the claims that are kept are longer than 4 KiB";
            return Err(TokenError::malformed(text));
        }
        Ok(kept)
    }

    /// The subject, with its prefix and its tenant.
    pub(super) fn subject(&self, claims: &Claims<'_>) -> Result<Box<str>, TokenError> {
        let named = self.mapping.subject(claims)?;
        let tenant = self.issuers.judge(claims, None)?;
        let (tenant, colon) = tenant.map_or(("", ""), |tenant| (tenant, ":"));
        let subject = named.map(|named| [&self.subject_prefix, tenant, colon, named].concat());
        subject
            .filter(|subject| subject.len() <= SUBJECT_LENGTH_MAX)
            .map(Into::into)
            .ok_or(TokenError::malformed(
                "the token has no subject of 1 to 255 bytes",
            ))
    }

    /// Checks issuer and audience.
    fn judge_addresses(&self, claims: &Claims<'_>, of_key: Option<&str>) -> Result<(), TokenError> {
        self.issuers.judge(claims, of_key)?;
        // RFC 7519 section 4.1.3: a recipient that isn't named in `aud` must refuse, and so must
        // one without a name.
        let meant_for_us = match &claims.audience {
            Some(audience) => self.audiences.iter().any(|name| audience.contains(name)),
            None => self.audiences.is_empty(),
        };
        if meant_for_us {
            Ok(())
        } else {
            Err(TokenError::new(
                TokenErrorKind::WrongAudience,
                "the token is meant for another audience",
            ))
        }
    }

    /// Unless set otherwise, an access token is expected, and a token that doesn't say its use is
    /// accepted as one.
    fn judge_use(&self, token_use: Option<&str>, typ: Option<&str>) -> Result<(), TokenError> {
        let expected = self.token_use.unwrap_or_default();
        let fits = match token_use {
            None => self.token_use.is_none(),
            Some(token_use) => token_use == expected.as_str(),
        };
        let is_one_of = |types: &[&str]| {
            typ.is_some_and(|typ| types.iter().any(|it| typ.eq_ignore_ascii_case(it)))
        };
        let foreign =
            is_one_of(NOT_FOR_CALLS) || (expected == TokenUse::Access && is_one_of(REFRESHING));
        if fits && !foreign {
            Ok(())
        } else {
            Err(TokenError::new(
                TokenErrorKind::WrongUse,
                "the token is for another use",
            ))
        }
    }

    /// Checks the time, the only part of a verdict that changes, on every use.
    pub(super) fn judge_time(
        &self,
        token: &VerifiedToken,
        now: Timestamp,
    ) -> Result<(), TokenError> {
        // Lazy: nearly all tokens pass without the leeway.
        let earliest = || now.saturating_sub(self.leeway).unwrap_or(Timestamp::MIN);
        let ahead = || self.leeway_ahead.unwrap_or(self.leeway);
        let latest = || now.saturating_add(ahead()).unwrap_or(Timestamp::MAX);
        if token.expires_at <= now && token.expires_at <= earliest() {
            let at = token.expires_at;
            return Err(TokenError::new(
                TokenErrorKind::Expired { at },
                "the token has expired",
            ));
        }
        if [token.not_before, token.issued_at]
            .into_iter()
            .flatten()
            .any(|moment| moment > now && moment > latest())
        {
            return Err(TokenError::new(
                TokenErrorKind::NotYetValid,
                "the token begins in the future",
            ));
        }
        match self.age_max {
            Some(age_max) => judge_age(token, earliest(), age_max),
            None => Ok(()),
        }
    }
}

fn judge_age(
    token: &VerifiedToken,
    earliest: Timestamp,
    age_max: Duration,
) -> Result<(), TokenError> {
    let issued_at = token.issued_at.ok_or(TokenError::new(
        TokenErrorKind::MissingClaim,
        "the token doesn't say when it was issued",
    ))?;
    let end = issued_at.saturating_add(age_max).unwrap_or(Timestamp::MAX);
    if end <= earliest {
        return Err(TokenError::new(
            TokenErrorKind::TooOld,
            "the token was issued too long ago",
        ));
    }
    Ok(())
}
