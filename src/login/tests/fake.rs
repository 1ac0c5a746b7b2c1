//! The least that a store of users and logins can be.

use std::{
    fmt,
    future::pending,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use crate::{
    domain::{
        SessionId, UserId,
        clock::Timestamp,
        page::{Page, Paged},
        user::{
            RefreshExchange, RefreshOutcome, SessionRecord, UserRecord, UserUpdate, normal_email,
        },
    },
    store::{SessionStore, StoreError, StoreErrorKind, StoreFuture, UserStore},
};

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(super) struct FakeStore {
    rows: Mutex<Rows>,
    hook: Mutex<Option<Hook>>,
    password_hook: Mutex<Option<Hook>>,
    pub(super) failing: AtomicBool,
    /// Only new hashes of passwords fail.
    pub(super) failing_rehash: AtomicBool,
    pub(super) hanging: AtomicBool,
    /// It does what it is asked for, and panics then.
    pub(super) panicking: AtomicBool,
    pub(super) purges: AtomicUsize,
}

#[derive(Default)]
struct Rows {
    users: Vec<UserRecord>,
    sessions: Vec<SessionRecord>,
}

impl Rows {
    fn user(&mut self, id: &UserId) -> Option<&mut UserRecord> {
        self.users.iter_mut().find(|user| user.id == *id)
    }

    fn end_of(&mut self, id: &UserId, at: Timestamp) -> u64 {
        let open = |session: &&mut SessionRecord| session.user == *id && session.ended_at.is_none();
        let ended = self.sessions.iter_mut().filter(open);
        ended
            .map(|session| session.ended_at = Some(at))
            .map(|()| 1)
            .sum()
    }
}

impl FakeStore {
    pub(super) fn before_open(&self, hook: impl FnOnce() + Send + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    pub(super) fn before_password(&self, hook: impl FnOnce() + Send + 'static) {
        *self.password_hook.lock().unwrap() = Some(Box::new(hook));
    }

    fn answer<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Rows) -> Result<T, StoreError>,
    ) -> StoreFuture<T> {
        if self.hanging.load(Ordering::Acquire) {
            return StoreFuture::new(pending());
        }
        if self.failing.load(Ordering::Acquire) {
            let gone = StoreError::new(StoreErrorKind::Unavailable, "gone");
            return StoreFuture::ready(Err(gone));
        }
        let answer = work(&mut self.rows.lock().unwrap());
        if self.panicking.load(Ordering::Acquire) {
            return StoreFuture::new(async { panic!("after the commit") });
        }
        StoreFuture::ready(answer)
    }
}

impl fmt::Debug for FakeStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeStore")
    }
}

impl UserStore for FakeStore {
    fn insert_user(&self, user: UserRecord) -> StoreFuture<()> {
        self.answer(|rows| {
            if rows.users.iter().any(|other| other.email == user.email) {
                return Err(StoreError::new(StoreErrorKind::Conflict, "taken"));
            }
            rows.users.push(user);
            Ok(())
        })
    }

    fn user(&self, id: &UserId) -> StoreFuture<Option<UserRecord>> {
        self.answer(|rows| Ok(rows.user(id).cloned()))
    }

    fn user_by_email(&self, email: &str) -> StoreFuture<Option<UserRecord>> {
        let email = normal_email(email);
        self.answer(|rows| Ok(rows.users.iter().find(|user| user.email == email).cloned()))
    }

    fn users(&self, _: Page) -> StoreFuture<Paged<UserRecord>> {
        self.answer(|rows| {
            Ok(Paged {
                items: rows.users.clone(),
                next_cursor: None,
            })
        })
    }

    fn update_user(&self, id: &UserId, change: UserUpdate) -> StoreFuture<Option<UserRecord>> {
        self.answer(|rows| {
            let ends = change.logins_end_at;
            let email = change.email.as_deref().map(normal_email);
            let is_other =
                |user: &UserRecord| user.id != *id && Some(&user.email) == email.as_ref();
            if rows.users.iter().any(is_other) {
                return Err(StoreError::new(StoreErrorKind::Conflict, "taken"));
            }
            if rows
                .user(id)
                .is_some_and(|user| !user.meets_condition_of(&change))
            {
                return Err(StoreError::new(StoreErrorKind::NotFound, "unmet"));
            }
            let changed = rows.user(id).map(|user| {
                user.apply(change);
                user.clone()
            });
            if let (Some(at), Some(user)) = (ends, &changed) {
                rows.end_of(&user.id, at);
            }
            Ok(changed)
        })
    }

    fn change_password(
        &self,
        id: &UserId,
        expected_version: u64,
        password_hash: String,
        at: Timestamp,
    ) -> StoreFuture<bool> {
        let hook = self.password_hook.lock().unwrap().take();
        if let Some(hook) = hook {
            hook();
        }
        self.answer(|rows| {
            let Some(user) = rows.user(id) else {
                return Ok(false);
            };
            if user.password_version != expected_version {
                return Ok(false);
            }
            user.password_version = user.password_version.saturating_add(1);
            user.password_hash = password_hash;
            rows.end_of(id, at);
            Ok(true)
        })
    }

    fn rehash_password(
        &self,
        id: &UserId,
        expected_version: u64,
        password_hash: String,
    ) -> StoreFuture<bool> {
        if self.failing_rehash.load(Ordering::Acquire) {
            let full = StoreError::new(StoreErrorKind::Unavailable, "full");
            return StoreFuture::ready(Err(full));
        }
        self.answer(|rows| {
            let same = |user: &&mut UserRecord| user.password_version == expected_version;
            let user = rows.user(id).filter(same);
            Ok(user
                .map(|user| user.password_hash = password_hash)
                .is_some())
        })
    }

    fn delete_user(&self, id: &UserId) -> StoreFuture<bool> {
        self.answer(|rows| {
            let before = rows.users.len();
            rows.users.retain(|user| user.id != *id);
            rows.sessions.retain(|session| session.user != *id);
            Ok(rows.users.len() < before)
        })
    }
}

impl SessionStore for FakeStore {
    fn open_session(
        &self,
        session: SessionRecord,
        expected_version: Option<u64>,
        _: u32,
    ) -> StoreFuture<bool> {
        if let Some(hook) = self.hook.lock().unwrap().take() {
            hook();
        }
        self.answer(|rows| {
            if let Some(expected) = expected_version {
                let fits = |user: &mut UserRecord| user.active && user.password_version == expected;
                if !rows.user(&session.user).is_some_and(fits) {
                    return Ok(false);
                }
            }
            rows.sessions.push(session);
            Ok(true)
        })
    }

    fn session(&self, id: &SessionId) -> StoreFuture<Option<SessionRecord>> {
        self.answer(|rows| Ok(rows.sessions.iter().find(|row| row.id == *id).cloned()))
    }

    fn open_sessions_of(
        &self,
        user: &UserId,
        at: Timestamp,
        limit: u16,
    ) -> StoreFuture<Vec<SessionRecord>> {
        self.answer(|rows| {
            let open = |row: &&SessionRecord| row.user == *user && row.is_open(at);
            let open = rows.sessions.iter().rev().filter(open).cloned();
            Ok(open.take(limit.into()).collect())
        })
    }

    fn exchange_refresh(
        &self,
        id: &SessionId,
        exchange: RefreshExchange,
    ) -> StoreFuture<RefreshOutcome> {
        self.answer(|rows| {
            let row = rows.sessions.iter_mut().find(|row| row.id == *id);
            Ok(row.map_or(RefreshOutcome::Unknown, |row| row.exchange(&exchange)))
        })
    }

    fn end_session(&self, id: &SessionId, at: Timestamp) -> StoreFuture<bool> {
        self.answer(|rows| {
            let row = rows.sessions.iter_mut().find(|row| row.id == *id);
            Ok(row
                .filter(|row| row.ended_at.is_none())
                .map(|row| row.ended_at = Some(at))
                .is_some())
        })
    }

    fn end_sessions_of(&self, user: &UserId, at: Timestamp) -> StoreFuture<u64> {
        self.answer(|rows| Ok(rows.end_of(user, at)))
    }

    fn purge_sessions(&self, before: Timestamp) -> StoreFuture<u64> {
        self.purges.fetch_add(1, Ordering::AcqRel);
        self.answer(|rows| {
            let over = |row: &mut SessionRecord| row.expires_at < before;
            Ok(rows.sessions.extract_if(.., over).map(|_| 1).sum())
        })
    }
}
