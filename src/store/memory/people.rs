//! Users and logins under one lock, so that operations on both are atomic.

use std::{cmp::Reverse, collections::BTreeMap};

use hashbrown::{HashMap, HashSet};

use super::MemoryStore;
use crate::{
    domain::{
        SessionId, UserId,
        clock::Timestamp,
        page::{Page, Paged},
        user::{
            RefreshExchange, RefreshOutcome, SessionRecord, UserRecord, UserUpdate, normal_email,
        },
    },
    store::{
        SessionStore, StoreError, StoreErrorKind, StoreFuture, UserStore,
        people::{address_taken, condition_unmet, overfilled, unstorable},
    },
    sync::lock,
};

#[derive(Default)]
pub(super) struct People {
    users: HashMap<UserId, (u64, UserRecord)>,
    by_email: HashMap<String, UserId>,
    by_age: BTreeMap<u64, UserId>,
    made: u64,
    sessions: HashMap<SessionId, SessionRecord>,
    sessions_of: HashMap<UserId, HashSet<SessionId>>,
}

fn conflict(text: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Conflict, text)
}

impl People {
    fn insert_user(&mut self, mut user: UserRecord) -> Result<(), StoreError> {
        if !user.is_storable() {
            return Err(unstorable());
        }
        user.email = normal_email(&user.email);
        if self.users.contains_key(&user.id) || self.by_email.contains_key(&user.email) {
            return Err(conflict("the id or the address of the user is taken"));
        }
        self.made = self.made.saturating_add(1);
        self.by_email.insert(user.email.clone(), user.id.clone());
        self.by_age.insert(self.made, user.id.clone());
        self.users.insert(user.id.clone(), (self.made, user));
        Ok(())
    }

    fn user(&self, id: &UserId) -> Option<&UserRecord> {
        self.users.get(id).map(|(_, user)| user)
    }

    fn users(&self, page: &Page) -> Paged<UserRecord> {
        let before = page.cursor().unwrap_or(u64::MAX);
        let rows = self
            .by_age
            .range(..before)
            .rev()
            .filter_map(|(position, id)| Some((*position, self.user(id)?.clone())))
            .take(usize::from(page.limit()).saturating_add(1))
            .collect();
        Paged::from_rows(page, rows)
    }

    fn update_user(
        &mut self,
        id: &UserId,
        change: &UserUpdate,
    ) -> Result<Option<UserRecord>, StoreError> {
        let Some(user) = self.user(id) else {
            return Ok(None);
        };
        if !change.is_storable() {
            return Err(unstorable());
        }
        if !user.meets_condition_of(change) {
            return Err(condition_unmet());
        }
        let (before, mut changed) = (user.email.clone(), user.clone());
        changed.apply(change.clone());
        if changed.is_overfilled_by(change) {
            return Err(overfilled());
        }
        if changed.email != before {
            if self.by_email.contains_key(&changed.email) {
                return Err(address_taken());
            }
            self.by_email.remove(&before);
            self.by_email.insert(changed.email.clone(), id.clone());
        }
        if let Some((_, user)) = self.users.get_mut(id) {
            user.clone_from(&changed);
        }
        if let Some(at) = change.logins_end_at {
            self.end_sessions_of(id, at);
        }
        Ok(Some(changed))
    }

    fn change_password(&mut self, id: &UserId, expected: u64, hash: String, at: Timestamp) -> bool {
        let Some((_, user)) = self.users.get_mut(id) else {
            return false;
        };
        if user.password_version != expected {
            return false;
        }
        user.password_hash = hash;
        user.password_version = expected.saturating_add(1);
        self.end_sessions_of(id, at);
        true
    }

    fn rehash_password(&mut self, id: &UserId, expected: u64, hash: String) -> bool {
        match self.users.get_mut(id) {
            Some((_, user)) if user.password_version == expected => {
                user.password_hash = hash;
                true
            }
            _ => false,
        }
    }

    fn delete_user(&mut self, id: &UserId) -> bool {
        let Some((position, user)) = self.users.remove(id) else {
            return false;
        };
        self.by_email.remove(&user.email);
        self.by_age.remove(&position);
        for session in self.sessions_of.remove(id).unwrap_or_default() {
            self.sessions.remove(&session);
        }
        true
    }

    fn open_session(
        &mut self,
        session: SessionRecord,
        expected_version: Option<u64>,
        logins_max: u32,
    ) -> Result<bool, StoreError> {
        if let Some(expected) = expected_version {
            let user = self.user(&session.user);
            if !user.is_some_and(|user| user.active && user.password_version == expected) {
                return Ok(false);
            }
        }
        if self.sessions.contains_key(&session.id) {
            return Err(conflict("the id of the login is taken"));
        }
        self.make_room(&session, logins_max);
        self.sessions_of
            .entry(session.user.clone())
            .or_default()
            .insert(session.id.clone());
        self.sessions.insert(session.id.clone(), session);
        Ok(true)
    }

    /// Removes logins of a user that would exceed the limit together with a new one.
    fn make_room(&mut self, another: &SessionRecord, logins_max: u32) {
        let Some(ids) = self.sessions_of.get_mut(&another.user) else {
            return;
        };
        let others = ids.iter().filter_map(|id| self.sessions.get(id));
        for id in another.make_room(others, logins_max) {
            ids.remove(&id);
            self.sessions.remove(&id);
        }
    }

    fn open_sessions_of(&self, user: &UserId, at: Timestamp, limit: u16) -> Vec<SessionRecord> {
        let ids = self.sessions_of.get(user).into_iter().flatten();
        let mut open: Vec<&SessionRecord> = ids
            .filter_map(|id| self.sessions.get(id))
            .filter(|session| session.is_open(at))
            .collect();
        open.sort_unstable_by_key(|session| (Reverse(session.created_at), &session.id));
        open.truncate(usize::from(limit));
        open.into_iter().cloned().collect()
    }

    fn exchange_refresh(&mut self, id: &SessionId, exchange: &RefreshExchange) -> RefreshOutcome {
        self.sessions
            .get_mut(id)
            .map_or(RefreshOutcome::Unknown, |session| {
                session.exchange(exchange)
            })
    }

    fn end_session(&mut self, id: &SessionId, at: Timestamp) -> bool {
        let session = self.sessions.get_mut(id);
        let Some(session) = session.filter(|session| session.ended_at.is_none()) else {
            return false;
        };
        session.ended_at = Some(at);
        true
    }

    fn end_sessions_of(&mut self, user: &UserId, at: Timestamp) -> u64 {
        let mut ended = 0_u64;
        for id in self.sessions_of.get(user).into_iter().flatten() {
            let session = self.sessions.get_mut(id);
            if let Some(session) = session.filter(|session| session.ended_at.is_none()) {
                session.ended_at = Some(at);
                ended = ended.saturating_add(1);
            }
        }
        ended
    }

    fn purge_sessions(&mut self, before: Timestamp) -> u64 {
        let mut purged = 0_u64;
        for (id, session) in self
            .sessions
            .extract_if(|_, session| session.expires_at < before)
        {
            purged = purged.saturating_add(1);
            if let Some(ids) = self.sessions_of.get_mut(&session.user) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.sessions_of.remove(&session.user);
                }
            }
        }
        purged
    }
}

impl UserStore for MemoryStore {
    fn insert_user(&self, user: UserRecord) -> StoreFuture<()> {
        StoreFuture::ready(lock(&self.0.people).insert_user(user))
    }

    fn user(&self, id: &UserId) -> StoreFuture<Option<UserRecord>> {
        StoreFuture::ready(Ok(lock(&self.0.people).user(id).cloned()))
    }

    fn user_by_email(&self, email: &str) -> StoreFuture<Option<UserRecord>> {
        let people = lock(&self.0.people);
        let id = people.by_email.get(&normal_email(email));
        StoreFuture::ready(Ok(id.and_then(|id| people.user(id)).cloned()))
    }

    fn users(&self, page: Page) -> StoreFuture<Paged<UserRecord>> {
        StoreFuture::ready(Ok(lock(&self.0.people).users(&page)))
    }

    fn update_user(&self, id: &UserId, change: UserUpdate) -> StoreFuture<Option<UserRecord>> {
        StoreFuture::ready(lock(&self.0.people).update_user(id, &change))
    }

    fn change_password(
        &self,
        id: &UserId,
        expected_version: u64,
        password_hash: String,
        at: Timestamp,
    ) -> StoreFuture<bool> {
        let mut people = lock(&self.0.people);
        let changed = people.change_password(id, expected_version, password_hash, at);
        StoreFuture::ready(Ok(changed))
    }

    fn rehash_password(
        &self,
        id: &UserId,
        expected_version: u64,
        password_hash: String,
    ) -> StoreFuture<bool> {
        let mut people = lock(&self.0.people);
        StoreFuture::ready(Ok(people.rehash_password(
            id,
            expected_version,
            password_hash,
        )))
    }

    fn delete_user(&self, id: &UserId) -> StoreFuture<bool> {
        StoreFuture::ready(Ok(lock(&self.0.people).delete_user(id)))
    }
}

impl SessionStore for MemoryStore {
    fn open_session(
        &self,
        session: SessionRecord,
        expected_version: Option<u64>,
        logins_max: u32,
    ) -> StoreFuture<bool> {
        let mut people = lock(&self.0.people);
        StoreFuture::ready(people.open_session(session, expected_version, logins_max))
    }

    fn session(&self, id: &SessionId) -> StoreFuture<Option<SessionRecord>> {
        StoreFuture::ready(Ok(lock(&self.0.people).sessions.get(id).cloned()))
    }

    fn open_sessions_of(
        &self,
        user: &UserId,
        at: Timestamp,
        limit: u16,
    ) -> StoreFuture<Vec<SessionRecord>> {
        StoreFuture::ready(Ok(lock(&self.0.people).open_sessions_of(user, at, limit)))
    }

    fn exchange_refresh(
        &self,
        id: &SessionId,
        exchange: RefreshExchange,
    ) -> StoreFuture<RefreshOutcome> {
        StoreFuture::ready(Ok(lock(&self.0.people).exchange_refresh(id, &exchange)))
    }

    fn end_session(&self, id: &SessionId, at: Timestamp) -> StoreFuture<bool> {
        StoreFuture::ready(Ok(lock(&self.0.people).end_session(id, at)))
    }

    fn end_sessions_of(&self, user: &UserId, at: Timestamp) -> StoreFuture<u64> {
        StoreFuture::ready(Ok(lock(&self.0.people).end_sessions_of(user, at)))
    }

    fn purge_sessions(&self, before: Timestamp) -> StoreFuture<u64> {
        StoreFuture::ready(Ok(lock(&self.0.people).purge_sessions(before)))
    }
}
