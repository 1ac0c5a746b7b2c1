//! Refresh tokens: how they are exchanged, and how reuse is handled.

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use serde_json::Value;

use super::{
    Login, LoginConfigError, LoginError, LoginErrorKind, Logins,
    opening::{LOGIN_MARGIN, record_attempt},
};
use crate::{
    domain::{
        SessionId, UserId,
        audit::AuditAction,
        user::{RefreshExchange, RefreshOutcome, SessionRecord, UserRecord},
    },
    store::Change,
    token::{
        GENERATION, IssuedToken, RefreshGrant, TokenError, TokenErrorKind, TokenIssuer, TokenUse,
        TokenVerifier, VerifiedToken,
    },
};

/// The longest grace period: enough for one retry by a client.
const GRACE_MAX: Duration = Duration::from_secs(60);

/// NIST SP 800-63B section 2.1.3: users log in again after 30 days at the latest.
const LOGIN_LIFETIME_MAX: Duration = Duration::from_secs(30 * 86_400);

const SHOWN_MAX: u16 = 1_000;

const LIFETIME_MAX: Duration = Duration::from_secs(3_650 * 86_400);

/// How refresh tokens are issued, for [`LoginsBuilder::refresh`](super::LoginsBuilder::refresh).
///
/// ```
/// use std::time::Duration;
/// use tollgate::login::RefreshTokens;
///
/// let week = Duration::from_secs(7 * 86_400);
/// let each_good_once = RefreshTokens::rotating(week).grace(Duration::from_secs(10));
/// let good_until_logout = RefreshTokens::reusable(week);
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct RefreshTokens {
    lifetime: Duration,
    rotation: Option<Rotation>,
}

#[derive(Clone, Copy, Debug)]
struct Rotation {
    grace: Duration,
    login_lifetime_max: Option<Duration>,
}

impl Rotation {
    /// The maximum lifetime of a login, with tokens of this lifetime.
    fn login_lifetime_max(self, lifetime: Duration) -> Duration {
        let unless_set = LOGIN_LIFETIME_MAX.max(lifetime);
        self.login_lifetime_max.unwrap_or(unless_set)
    }
}

impl RefreshTokens {
    /// Each token is valid once: a refresh returns a new one, again valid for `lifetime`, in whole
    /// seconds. A token that is presented twice is in two hands, and ends its login with everything
    /// that was issued for it (RFC 9700 section 4.14.2).
    pub const fn rotating(lifetime: Duration) -> Self {
        Self {
            lifetime,
            rotation: Some(Rotation {
                grace: Duration::ZERO,
                login_lifetime_max: None,
            }),
        }
    }

    /// One token per login, valid for `lifetime`, in whole seconds, however often it is used. The
    /// last access token that it is exchanged for has a full lifetime, so the login lasts that much
    /// longer.
    pub const fn reusable(lifetime: Duration) -> Self {
        Self {
            lifetime,
            rotation: None,
        }
    }

    /// How long after its exchange a rotating token is accepted again, because the answer may have
    /// been lost: 0 by default, at most 60 seconds. It covers only the immediate predecessor of the
    /// valid token.
    pub const fn grace(mut self, grace: Duration) -> Self {
        if let Some(rotation) = &mut self.rotation {
            rotation.grace = grace;
        }
        self
    }

    /// The maximum lifetime of a login with rotating tokens; 30 days by default, or `lifetime` if
    /// that is longer. No token outlives it: if it is shorter than `lifetime`, it applies instead.
    pub const fn login_lifetime_max(mut self, lifetime: Duration) -> Self {
        if let Some(rotation) = &mut self.rotation {
            rotation.login_lifetime_max = Some(lifetime);
        }
        self
    }
}

/// [`RefreshTokens`], and what it takes to issue and verify them.
#[derive(Debug)]
pub(super) struct Refresher {
    tokens: RefreshTokens,
    verifier: TokenVerifier,
}

impl Refresher {
    pub(super) fn new(
        mut tokens: RefreshTokens,
        issuer: &TokenIssuer,
    ) -> Result<Self, LoginConfigError> {
        let login_lifetime_max = tokens.rotation.and_then(|it| it.login_lifetime_max);
        let lifetime = tokens
            .lifetime
            .min(login_lifetime_max.unwrap_or(Duration::MAX));
        tokens.lifetime = Duration::from_secs(lifetime.as_secs());
        if tokens.lifetime.is_zero() || tokens.lifetime > LIFETIME_MAX {
            return Err(LoginConfigError::RefreshLifetime);
        }
        if tokens.rotation.is_some_and(|it| it.grace > GRACE_MAX) {
            return Err(LoginConfigError::RefreshGrace);
        }
        // A rotating token is seen only once, so caching is useless.
        let verifier = issuer
            .verifier()
            .token_use(TokenUse::Refresh)
            .add_claim(GENERATION)
            .cache_capacity(0)
            .build()
            .map_err(|_| LoginConfigError::Failed)?;
        Ok(Self { tokens, verifier })
    }

    /// The lifetime of a login from its start, with access tokens of this lifetime.
    pub(super) fn login_lifetime(&self, access: Duration) -> Duration {
        let refresh = self.tokens.lifetime;
        match self.tokens.rotation {
            Some(rotation) => {
                lifetime_after_exchange(refresh, access).min(rotation.login_lifetime_max(refresh))
            }
            None => refresh.saturating_add(access).saturating_add(LOGIN_MARGIN),
        }
    }

    pub(super) fn issue(
        &self,
        issuer: &TokenIssuer,
        session: &SessionRecord,
    ) -> Result<IssuedToken, LoginError> {
        Ok(issuer.issue_refresh(&RefreshGrant {
            user: &session.user,
            session: &session.id,
            generation: session.generation,
            lifetime: self.tokens.lifetime,
            latest: session.expires_at,
        })?)
    }
}

/// The content of a refresh token.
struct Presented {
    user: UserId,
    session: SessionId,
    generation: u64,
}

impl Presented {
    fn of(token: &VerifiedToken) -> Option<Self> {
        Some(Self {
            user: UserId::new(token.subject()).ok()?,
            session: token.session()?.clone(),
            generation: token.claim(GENERATION).and_then(Value::as_u64)?,
        })
    }
}

impl Logins {
    /// Exchanges a refresh token for a new access token with the user's current roles and, if they
    /// rotate, for the next refresh token.
    ///
    /// Of several concurrent exchanges of one rotating token, here or in other processes, one
    /// succeeds; the next ends the login, and with it every token that was issued for it, including
    /// the winner's. If the store fails before the exchange, the token remains valid.
    ///
    /// # Errors
    /// `RefreshExpired`, `RefreshInvalid`, `RefreshReused`; `Store`, `Internal`.
    pub async fn refresh(&self, token: &str) -> Result<Login, LoginError> {
        let refresher = self
            .refresher()
            .ok_or_else(|| invalid("no refresh tokens are issued here"))?;
        let (who, outcome) = match refresher.verifier.look(token) {
            Ok(verified) => {
                let outcome = self
                    .continue_login(refresher, Presented::of(&verified))
                    .await;
                (Some(verified.subject().into()), outcome)
            }
            Err(refusal) => (refusal.holder, Err(refused(refusal.error))),
        };
        record_attempt(AuditAction::REFRESH, who.as_deref(), &outcome);
        outcome
    }

    async fn continue_login(
        &self,
        refresher: &Refresher,
        presented: Option<Presented>,
    ) -> Result<Login, LoginError> {
        let presented = presented.ok_or_else(|| invalid("not one of ours"))?;
        // Checked before the exchange: a failure here must not use up the token.
        let user = self
            .user(&presented.user)
            .await?
            .filter(|user| user.active)
            .ok_or_else(|| invalid("the user is gone or not active"))?;
        let roles = user.roles.iter().map(String::as_str);
        self.issuer()
            .check_roles(&user.id, &presented.session, roles)?;
        let (session, rotated) = match refresher.tokens.rotation {
            Some(rotation) => {
                let session = self
                    .exchange(presented, rotation, refresher.tokens.lifetime)
                    .await?;
                (session, true)
            }
            None => (self.open_session(presented).await?, false),
        };
        if session.is_of_another_password(&user) {
            return Err(invalid("the user's password was changed since"));
        }
        self.renew(refresher, user, &session, rotated)
    }

    fn renew(
        &self,
        refresher: &Refresher,
        user: UserRecord,
        session: &SessionRecord,
        rotated: bool,
    ) -> Result<Login, LoginError> {
        let roles = user.roles.iter().map(String::as_str);
        let token = self
            .issuer()
            .issue_until(&user.id, &session.id, roles, session.expires_at)?;
        // No token would be good for a second.
        let at = session.expires_at;
        if at.duration_since(self.now()) < SignedDuration::from_secs(1) {
            return Err(LoginError::new(LoginErrorKind::RefreshExpired { at }));
        }
        let refresh_token = rotated
            .then(|| refresher.issue(self.issuer(), session))
            .transpose()?;
        Ok(Login {
            user,
            token,
            refresh_token,
            session: session.id.clone(),
        })
    }

    async fn exchange(
        &self,
        presented: Presented,
        rotation: Rotation,
        lifetime: Duration,
    ) -> Result<SessionRecord, LoginError> {
        let Presented {
            user,
            session,
            generation,
        } = presented;
        let exchange = RefreshExchange {
            user,
            generation,
            at: self.now(),
            lifetime: lifetime_after_exchange(lifetime, self.issuer().lifetime()),
            login_lifetime_max: rotation.login_lifetime_max(lifetime),
            grace: rotation.grace,
        };
        let (sessions, id) = (Arc::clone(self.sessions()), session.clone());
        let outcome = self
            .change(Change::Session(session.clone()), async move {
                sessions.exchange_refresh(&id, exchange).await
            })
            .await?;
        match outcome {
            RefreshOutcome::Exchanged(session) | RefreshOutcome::Repeated(session) => Ok(session),
            RefreshOutcome::Reused => {
                tracing::warn!(
                    target: "tollgate",
                    %session,
                    "a refresh token was used twice; its login was ended"
                );
                Err(LoginError::new(LoginErrorKind::RefreshReused))
            }
            RefreshOutcome::Expired { at } => {
                Err(LoginError::new(LoginErrorKind::RefreshExpired { at }))
            }
            RefreshOutcome::Ended => Err(invalid("the login was ended")),
            RefreshOutcome::Unknown => Err(invalid("there is no such login")),
        }
    }

    /// Reads from the store rather than from the resolver's cache: a refresh is rare, and its
    /// result lasts.
    async fn open_session(&self, presented: Presented) -> Result<SessionRecord, LoginError> {
        let session = self
            .await_store(self.sessions().session(&presented.session))
            .await?
            .filter(|session| session.user == presented.user)
            .ok_or_else(|| invalid("there is no such login"))?;
        if session.ended_at.is_some() {
            return Err(invalid("the login was ended"));
        }
        if !session.is_open(self.now()) {
            let at = session.expires_at;
            return Err(LoginError::new(LoginErrorKind::RefreshExpired { at }));
        }
        Ok(session)
    }

    /// The open logins of a user, newest first, at most 1,000, for display. Each can be ended by
    /// [`logout`](Self::logout).
    ///
    /// # Errors
    /// `Store`.
    pub async fn logins_of(&self, user: &UserId) -> Result<Vec<SessionRecord>, LoginError> {
        let Some(record) = self.user(user).await? else {
            return Ok(Vec::new());
        };
        let open = self
            .sessions()
            .open_sessions_of(user, self.now(), SHOWN_MAX);
        let mut open = self.await_store(open).await?;
        open.retain(|session| !session.is_of_another_password(&record));
        Ok(open)
    }
}

/// How long a login lasts after an exchange: as long as the longer-lived of its tokens.
fn lifetime_after_exchange(refresh: Duration, access: Duration) -> Duration {
    refresh.max(access).saturating_add(LOGIN_MARGIN)
}

fn invalid(why: &'static str) -> LoginError {
    LoginError::new(LoginErrorKind::RefreshInvalid(why))
}

fn refused(error: TokenError) -> LoginError {
    match error.kind() {
        TokenErrorKind::Expired { at } => LoginError::new(LoginErrorKind::RefreshExpired { at }),
        _ => invalid(error.reason()),
    }
}
