//! The stores.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tollgate::{
    key::KeyFormat,
    keyring::{KeyResolver, Keyring},
    login::{LoginErrorKind, Logins, LoginsBuilder, NewUser},
    store::{
        AuditLog, ChangeListener, Invalidations, KeyStore, Ledger, MemoryStore, SessionStore,
        SqliteStore, StoreError, UserStore,
    },
    token::{SigningSecret, TokenIssuer},
};
#[cfg(feature = "postgres")]
use {sqlx::postgres::PgPoolOptions, tollgate::store::PostgresStore};

use super::{StartError, limits::RateLimits, optional, secret};

/// How long this process may go on accepting a key that another one revoked, if the notice is lost.
const KEY_TTL: Duration = Duration::from_secs(2);

/// The stores, as `DATABASE_URL` and `REDIS_URL` say.
pub(crate) struct Stores {
    pub(crate) keys: Arc<dyn KeyStore>,
    pub(crate) users: Arc<dyn UserStore>,
    pub(crate) sessions: Arc<dyn SessionStore>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) limits: RateLimits,
    pub(crate) audit: Arc<dyn AuditLog>,
    /// Changes by other processes, where they are announced.
    changes: Option<Arc<dyn Invalidations>>,
    /// Announces this process's changes, where the store doesn't.
    herald: Option<Arc<dyn ChangeListener>>,
    /// Where a generated secret is stored; nowhere if nothing outlives the process.
    secret: Option<PathBuf>,
    engine: Engine,
}

enum Engine {
    Memory,
    Sqlite(SqliteStore),
    #[cfg(feature = "postgres")]
    Postgres(PostgresStore),
}

impl Stores {
    /// `sqlite:PATH` (`sqlite:./data/NAME.db` unless set), `postgres://…`, or `memory:`, also as
    /// SQLite has it.
    pub(crate) async fn open(name: &str) -> Result<Self, StartError> {
        let limits = RateLimits::open(name).await?;
        let url = optional("DATABASE_URL")?.unwrap_or_else(|| format!("sqlite:./data/{name}.db"));
        if url.starts_with("memory:") || url.starts_with("sqlite::memory:") {
            return Ok(Self::of(MemoryStore::new(), limits, Engine::Memory));
        }
        if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            return Self::on_postgres(&url, name, limits).await;
        }
        let Some(path) = url.strip_prefix("sqlite:").filter(|path| !path.is_empty()) else {
            let text = "DATABASE_URL: sqlite:PATH, postgres://… or memory: is expected";
            return Err(text.into());
        };
        let path = Path::new(path.strip_prefix("//").unwrap_or(path));
        let store = SqliteStore::open(path)
            .await
            .map_err(|error| format!("DATABASE_URL: {error}"))?;
        let mut stores = Self::of(store.clone(), limits, Engine::Sqlite(store));
        stores.secret = Some(path.with_extension("jwt-secret"));
        if let Some(url) = optional("REDIS_URL")? {
            stores.share_news(&url, name)?;
        }
        Ok(stores)
    }

    /// For a store that several processes share, and that announces no changes.
    #[cfg(feature = "redis")]
    fn share_news(&mut self, url: &str, name: &str) -> Result<(), StartError> {
        let news = tollgate::store::RedisInvalidations::builder(url)
            .channel(&format!("{name}:changes"))
            .build()
            .map_err(|error| format!("REDIS_URL: {error}"))?;
        self.changes = Some(Arc::new(news.clone()));
        self.herald = Some(Arc::new(news));
        Ok(())
    }

    #[cfg(not(feature = "redis"))]
    fn share_news(&mut self, _: &str, _: &str) -> Result<(), StartError> {
        Err("REDIS_URL: this build was made without the feature `redis`".into())
    }

    #[cfg(feature = "postgres")]
    async fn on_postgres(url: &str, name: &str, limits: RateLimits) -> Result<Self, StartError> {
        // sqlx's own error may repeat the URL, and so a password. The store connects, and says it
        // if that takes long.
        let pool = PgPoolOptions::new()
            .max_connections(16)
            .connect_lazy(url)
            .map_err(|error| match error {
                sqlx::Error::Configuration(_) => "DATABASE_URL: no URL of PostgreSQL".to_owned(),
                error => format!("DATABASE_URL: {error}"),
            })?;
        let store = PostgresStore::open(pool)
            .await
            .map_err(|error| format!("DATABASE_URL: {error}"))?;
        let mut stores = Self::of(store.clone(), limits, Engine::Postgres(store.clone()));
        stores.changes = Some(Arc::new(store));
        stores.secret = Some(PathBuf::from(format!("./data/{name}.jwt-secret")));
        Ok(stores)
    }

    #[cfg(not(feature = "postgres"))]
    #[allow(clippy::unused_async, reason = "there is a database elsewhere")]
    async fn on_postgres(_: &str, _: &str, _: RateLimits) -> Result<Self, StartError> {
        Err("DATABASE_URL: this build was made without the feature `postgres`".into())
    }

    fn of<S>(store: S, limits: RateLimits, engine: Engine) -> Self
    where
        S: AuditLog + KeyStore + UserStore + SessionStore + Ledger + Clone,
    {
        let store = Arc::new(store);
        Self {
            keys: store.clone(),
            users: store.clone(),
            sessions: store.clone(),
            ledger: store.clone(),
            limits,
            audit: store,
            changes: None,
            herald: None,
            secret: None,
            engine,
        }
    }

    /// For commands whose result must outlive them.
    pub(crate) fn must_outlive(&self, command: &str) -> Result<(), StartError> {
        match self.engine {
            Engine::Memory => Err(format!(
                "{command}: DATABASE_URL must name a database that outlives this command"
            )
            .into()),
            _ => Ok(()),
        }
    }

    /// The keyring and the resolver for keys of that format.
    pub(crate) fn keyring(&self, format: KeyFormat) -> (Keyring, KeyResolver) {
        let resolver = KeyResolver::builder(Arc::clone(&self.keys))
            .add_format(format.clone())
            .ttl(KEY_TTL)
            .build();
        if let Some(changes) = &self.changes {
            resolver.follow(changes);
        }
        let ring = Keyring::new(Arc::clone(&self.keys), format, resolver.clone());
        let ring = match &self.herald {
            Some(herald) => ring.add_listener(Arc::clone(herald)),
            None => ring,
        };
        (ring, resolver)
    }

    /// Logins with tokens of `issuer`, configured for the server, and the administrator named by
    /// `ADMIN_EMAIL` and `ADMIN_PASSWORD`.
    pub(crate) async fn logins(
        &self,
        issuer: TokenIssuer,
        set: impl FnOnce(LoginsBuilder) -> LoginsBuilder,
    ) -> Result<Logins, StartError> {
        let (users, sessions) = (Arc::clone(&self.users), Arc::clone(&self.sessions));
        let mut logins = set(Logins::builder(users, sessions, issuer));
        if let Some(herald) = &self.herald {
            logins = logins.add_listener(Arc::clone(herald));
        }
        let logins = logins.build()?;
        if let Some(changes) = &self.changes {
            logins.resolver().follow(changes);
        }
        let (email, password) = (optional("ADMIN_EMAIL")?, optional("ADMIN_PASSWORD")?);
        if email.is_some() != password.is_some() {
            return Err("ADMIN_EMAIL, ADMIN_PASSWORD: one is set without the other".into());
        }
        if let (Some(email), Some(password)) = (email, password) {
            let admin = NewUser::new(&email, &password).role("admin");
            let made = logins.ensure_user(admin).await;
            made.map_err(|error| match error.kind() {
                LoginErrorKind::InvalidEmail => format!("ADMIN_EMAIL: {error}"),
                LoginErrorKind::WeakPassword(_) => format!("ADMIN_PASSWORD: {error}"),
                _ => format!("the first administrator can't be made: {error}"),
            })?;
        }
        Ok(logins)
    }

    /// `JWT_SECRET` (an empty one counts, and is too short), or one that is generated once and
    /// stored: beside the database's file, or in `./data` if the database isn't a file. Processes
    /// on several machines must be given the same one.
    pub(crate) fn signing_secret(&self) -> Result<SigningSecret, StartError> {
        if let Some(secret) = secret("JWT_SECRET") {
            return SigningSecret::from_bytes(&secret)
                .map_err(|error| format!("JWT_SECRET: {error}").into());
        }
        let Some(path) = &self.secret else {
            return Ok(SigningSecret::generate()?);
        };
        tracing::info!(path = %path.display(), "JWT_SECRET is not set: tokens are signed with this file's");
        Ok(SigningSecret::load_or_create(path)?)
    }

    /// Waits until all is written.
    pub(crate) async fn close(self) -> Result<(), StoreError> {
        let flushed = self.ledger.flush().await;
        let closed = match self.engine {
            Engine::Memory => Ok(()),
            Engine::Sqlite(store) => store.close().await,
            #[cfg(feature = "postgres")]
            Engine::Postgres(store) => store.close().await,
        };
        flushed.and(closed)
    }
}
