//! Users in one store, logins in another that knows none of them.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::{
    domain::{
        SessionId,
        clock::Timestamp,
        user::{RefreshExchange, RefreshOutcome, SessionRecord},
    },
    store::{MemoryStore, SessionStore, StoreError, StoreFuture},
};

type Hook = Box<dyn FnOnce() + Send>;

/// Logins alone. Those of a user can't be ended while the flag is set.
#[derive(Default)]
struct Apart(MemoryStore, std::sync::Mutex<Option<Hook>>, AtomicBool);

impl std::fmt::Debug for Apart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Apart")
    }
}

impl SessionStore for Apart {
    fn open_session(
        &self,
        mut session: SessionRecord,
        expected_version: Option<u64>,
        logins_max: u32,
    ) -> StoreFuture<bool> {
        if let Some(hook) = self.1.lock().unwrap().take() {
            hook();
        }
        session.password_version = expected_version;
        self.0.open_session(session, None, logins_max)
    }

    fn session(&self, id: &SessionId) -> StoreFuture<Option<SessionRecord>> {
        self.0.session(id)
    }

    fn open_sessions_of(
        &self,
        user: &UserId,
        at: Timestamp,
        limit: u16,
    ) -> StoreFuture<Vec<SessionRecord>> {
        self.0.open_sessions_of(user, at, limit)
    }

    fn exchange_refresh(
        &self,
        id: &SessionId,
        exchange: RefreshExchange,
    ) -> StoreFuture<RefreshOutcome> {
        self.0.exchange_refresh(id, exchange)
    }

    fn end_session(&self, id: &SessionId, at: Timestamp) -> StoreFuture<bool> {
        self.0.end_session(id, at)
    }

    fn end_sessions_of(&self, user: &UserId, at: Timestamp) -> StoreFuture<u64> {
        if self.2.load(Ordering::Acquire) {
            let gone = StoreError::new(StoreErrorKind::Unavailable, "gone");
            return StoreFuture::ready(Err(gone));
        }
        self.0.end_sessions_of(user, at)
    }

    fn purge_sessions(&self, before: Timestamp) -> StoreFuture<u64> {
        self.0.purge_sessions(before)
    }
}

struct Split {
    users: Arc<FakeStore>,
    sessions: Arc<Apart>,
    logins: Logins,
    clock: Arc<ManualClock>,
    ann: UserRecord,
}

impl Split {
    async fn new() -> Self {
        let (users, sessions) = (Arc::new(FakeStore::default()), Arc::new(Apart::default()));
        let clock = Arc::new(ManualClock::default());
        let issuer = TokenIssuer::hs256(SECRET).with_clock(clock.clone()).build();
        let logins = Logins::builder(users.clone(), sessions.clone(), issuer.unwrap())
            .with_passwords(cheap().build().unwrap())
            .refresh(RefreshTokens::rotating(Duration::from_secs(86_400)))
            .build()
            .unwrap();
        let ann = logins
            .register(NewUser::new(EMAIL, PASSWORD))
            .await
            .unwrap();
        Self {
            users,
            sessions,
            logins,
            clock,
            ann,
        }
    }

    async fn verdict(&self, login: &Login) -> bool {
        let verifier = TokenVerifier::hs256(SECRET).with_clock(self.clock.clone());
        let token = verifier
            .build()
            .unwrap()
            .verify(login.token.expose())
            .unwrap();
        self.logins.resolver().resolve(&token).await.is_ok()
    }
}

#[tokio::test]
async fn a_new_password_ends_logins_that_are_kept_elsewhere() {
    let split = Split::new().await;
    let login = split.logins.login(EMAIL, PASSWORD).await.unwrap();
    assert!(split.verdict(&login).await);
    let changed = split
        .logins
        .change_password(&split.ann.id, PASSWORD, "another horse");
    changed.await.unwrap();
    assert!(!split.verdict(&login).await);
    assert_eq!(split.logins.logins_of(&split.ann.id).await.unwrap(), []);
    let token = login.refresh_token.unwrap();
    let refused = kind(split.logins.refresh(token.expose()).await);
    assert!(refused.starts_with("RefreshInvalid"), "{refused}");
    let login = split.logins.login(EMAIL, "another horse").await.unwrap();
    assert!(split.verdict(&login).await);
}

#[tokio::test]
async fn whoever_is_shut_out_while_logging_in_has_no_login_when_let_in_again() {
    let split = Split::new().await;
    // Everything of a shutting out comes between the look at the user and the opening.
    let (users, id) = (Arc::clone(&split.users), split.ann.id.clone());
    *split.sessions.1.lock().unwrap() = Some(Box::new(move || {
        let out = UserUpdate {
            active: Some(false),
            ..UserUpdate::default()
        };
        let done = users.update_user(&id, out).now_or_never();
        assert!(done.unwrap().unwrap().is_some());
    }));
    let refused = kind(split.logins.login(EMAIL, PASSWORD).await);
    assert_eq!(refused, "InvalidCredentials");
    split.logins.activate(&split.ann.id).await.unwrap();
    let now = split.clock.now();
    let open = split.sessions.open_sessions_of(&split.ann.id, now, 9).await;
    assert_eq!(open.unwrap(), []);
}

#[tokio::test]
async fn logins_are_over_also_where_nobody_came_to_end_them() {
    let split = Split::new().await;
    let login = split.logins.login(EMAIL, PASSWORD).await.unwrap();
    split.sessions.2.store(true, Ordering::Release);
    // As far as a process came that was killed then.
    let cut_short = kind(split.logins.deactivate(&split.ann.id).await);
    assert!(cut_short.starts_with("Store"), "{cut_short}");
    assert!(split.logins.activate(&split.ann.id).await.unwrap().active);
    assert!(!split.verdict(&login).await);
    let token = login.refresh_token.unwrap();
    let refused = kind(split.logins.refresh(token.expose()).await);
    assert!(refused.starts_with("RefreshInvalid"), "{refused}");
    let login = split.logins.login(EMAIL, PASSWORD).await.unwrap();
    assert!(split.verdict(&login).await);
}

#[tokio::test]
async fn a_deleted_user_s_logins_elsewhere_are_nobody_s() {
    let split = Split::new().await;
    let login = split.logins.login(EMAIL, PASSWORD).await.unwrap();
    split.logins.delete_user(&split.ann.id).await.unwrap();
    assert!(!split.verdict(&login).await);
    assert_eq!(split.logins.logins_of(&split.ann.id).await.unwrap(), []);
    let token = login.refresh_token.unwrap();
    let refused = kind(split.logins.refresh(token.expose()).await);
    assert!(refused.starts_with("RefreshInvalid"), "{refused}");
}

#[tokio::test]
async fn a_listener_is_told_of_every_change() {
    use crate::store::{Change, ChangeListener};

    #[derive(Clone, Default)]
    struct Heard(Arc<std::sync::Mutex<Vec<Change>>>);
    impl ChangeListener for Heard {
        fn changed(&self, change: &Change) {
            self.0.lock().unwrap().push(change.clone());
        }
    }
    let (store, heard) = (Arc::new(FakeStore::default()), Heard::default());
    let issuer = TokenIssuer::hs256(SECRET).build().unwrap();
    let logins = Logins::builder(store.clone(), store, issuer)
        .with_passwords(cheap().build().unwrap())
        .add_listener(heard.clone())
        .build()
        .unwrap();
    let ann = logins
        .register(NewUser::new(EMAIL, PASSWORD))
        .await
        .unwrap()
        .id;
    let login = logins.login(EMAIL, PASSWORD).await.unwrap();
    assert!(logins.logout(&login.session).await.unwrap());
    logins.logout_everywhere(&ann).await.unwrap();
    logins
        .set_roles(&ann, vec!["user".to_owned()])
        .await
        .unwrap();
    logins
        .change_password(&ann, PASSWORD, "another horse")
        .await
        .unwrap();
    logins.deactivate(&ann).await.unwrap();
    logins.delete_user(&ann).await.unwrap();
    let mut expected = vec![Change::Session(login.session)];
    expected.extend(std::iter::repeat_n(Change::User(ann), 5));
    assert_eq!(*heard.0.lock().unwrap(), expected);
}
