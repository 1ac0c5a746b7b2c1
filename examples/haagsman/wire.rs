//! The wire formats.

use serde::{Deserialize, Serialize};
use tollgate::{
    audit::{AuditAction, AuditEntry, AuditFilter, AuditOutcome},
    clock::Timestamp,
    denial::{Denial, DenialKind},
    store::{Page, PageLimit},
    user::UserRecord,
};

/// Times are given to the second; those of the log always to the microsecond, so that their texts
/// sort correctly.
fn at(moment: Timestamp) -> Timestamp {
    Timestamp::from_second(moment.as_second()).unwrap_or(moment)
}

#[derive(Deserialize)]
pub(crate) struct Login {
    pub(crate) email: String,
    pub(crate) password: String,
}

#[derive(Deserialize)]
pub(crate) struct Refresh {
    pub(crate) refresh_token: String,
}

#[derive(Serialize)]
pub(crate) struct Tokens {
    access_token: String,
    refresh_token: Option<String>,
    token_type: &'static str,
    /// Seconds.
    expires_in: u64,
}

impl Tokens {
    pub(crate) fn of(login: &tollgate::login::Login) -> Self {
        let refresh = login.refresh_token.as_ref();
        Self {
            access_token: login.token.expose().to_owned(),
            refresh_token: refresh.map(|token| token.expose().to_owned()),
            token_type: "bearer",
            expires_in: login.token.expires_in_secs(),
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct CreateUser {
    pub(crate) email: String,
    pub(crate) password: String,
    pub(crate) role: String,
}

#[derive(Deserialize)]
pub(crate) struct ChangeUser {
    pub(crate) role: Option<String>,
    pub(crate) active: Option<bool>,
}

#[derive(Serialize)]
pub(crate) struct User {
    id: String,
    email: String,
    role: Option<String>,
    active: bool,
    created_at: Timestamp,
}

impl From<UserRecord> for User {
    fn from(user: UserRecord) -> Self {
        Self {
            id: user.id.to_string(),
            email: user.email,
            role: user.roles.into_iter().next(),
            active: user.active,
            created_at: at(user.created_at),
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct Query {
    pub(crate) query: String,
}

#[derive(Serialize)]
pub(crate) struct Items<T> {
    pub(crate) items: Vec<T>,
    pub(crate) next_cursor: Option<u64>,
}

/// `?limit=&cursor=`
#[derive(Deserialize)]
pub(crate) struct PageQuery {
    limit: Option<PageLimit>,
    cursor: Option<u64>,
}

impl PageQuery {
    pub(crate) fn page(&self) -> Page {
        let page = Page::first(self.limit.map_or(50, PageLimit::get));
        match self.cursor {
            Some(cursor) => page.after(cursor),
            None => page,
        }
    }
}

/// `?actor=&action=&outcome=`
#[derive(Deserialize)]
pub(crate) struct AuditQuery {
    actor: Option<String>,
    action: Option<String>,
    outcome: Option<String>,
}

impl AuditQuery {
    pub(crate) fn filter(self) -> Result<AuditFilter, Denial> {
        let unknown = || {
            let denial = Denial::new(DenialKind::Unprocessable);
            denial.with_message("outcome: success, refused or failed")
        };
        let outcome = self.outcome.as_deref().map(AuditOutcome::from_name);
        Ok(AuditFilter {
            actor: self.actor,
            action: self.action.map(AuditAction::named),
            outcome: outcome.map(|known| known.ok_or_else(unknown)).transpose()?,
        })
    }
}

#[derive(Serialize)]
pub(crate) struct Entry {
    time: String,
    actor: Option<String>,
    key: Option<String>,
    address: Option<String>,
    action: String,
    outcome: &'static str,
    request_id: Option<String>,
    route: Option<String>,
    target: Option<String>,
    reason: Option<String>,
}

impl From<AuditEntry> for Entry {
    fn from(AuditEntry { event, .. }: AuditEntry) -> Self {
        Self {
            time: format!("{:.6}", event.at),
            actor: event.actor,
            key: event.key.map(|key| key.to_string()),
            address: event.address.map(|address| address.to_string()),
            action: event.action.as_str().to_owned(),
            outcome: event.outcome.as_str(),
            request_id: event.request_id.map(|id| id.to_string()),
            route: event.route.map(|route| route.to_string()),
            target: event.target,
            reason: event.reason,
        }
    }
}
