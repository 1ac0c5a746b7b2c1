//! Where everything is kept.

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
};

use tollgate::{
    keyring::KeyResolver,
    login::SessionResolver,
    store::{
        AuditLog, Invalidations, KeyStore, Ledger, MemoryStore, SessionStore, SqliteStore,
        StoreError, UserStore,
    },
    token::SigningSecret,
};
#[cfg(feature = "postgres")]
use {sqlx::postgres::PgPoolOptions, tollgate::store::PostgresStore};

use super::{StartError, limits::RateLimits, optional};

/// Where everything is kept, as `DATABASE_URL` and `REDIS_URL` say.
pub(crate) struct Stores {
    pub(crate) keys: Arc<dyn KeyStore>,
    pub(crate) users: Arc<dyn UserStore>,
    pub(crate) sessions: Arc<dyn SessionStore>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) limits: RateLimits,
    pub(crate) audit: Arc<dyn AuditLog>,
    /// What other processes change, where they say so.
    changes: Option<Arc<dyn Invalidations>>,
    /// Where a secret lies that was made here; nowhere, when nothing outlives the process.
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
    /// `sqlite:PATH` (`sqlite:./data/NAME.db` unless set), `postgres://…`, or `memory:`.
    pub(crate) async fn open(name: &str) -> Result<Self, StartError> {
        let limits = RateLimits::open(name).await?;
        let url = optional("DATABASE_URL").unwrap_or_else(|| format!("sqlite:./data/{name}.db"));
        if url.starts_with("memory:") {
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
        Ok(stores)
    }

    #[cfg(feature = "postgres")]
    async fn on_postgres(url: &str, name: &str, limits: RateLimits) -> Result<Self, StartError> {
        // sqlx's own error may repeat the URL, and so a password.
        let pool = PgPoolOptions::new()
            .max_connections(16)
            .connect(url)
            .await
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
            secret: None,
            engine,
        }
    }

    /// Whether what is kept is still there when this process has ended.
    pub(crate) fn outlive_the_process(&self) -> bool {
        !matches!(self.engine, Engine::Memory)
    }

    /// Lets the resolver forget at once what other processes change, where they say so.
    pub(crate) fn tell_keys(&self, resolver: &KeyResolver) {
        if let Some(changes) = &self.changes {
            resolver.follow(changes);
        }
    }

    /// The same, of logins.
    pub(crate) fn tell_logins(&self, resolver: &SessionResolver) {
        if let Some(changes) = &self.changes {
            resolver.follow(changes);
        }
    }

    /// `JWT_SECRET`, or one that is made once and kept: beside the database's file, or in `./data`, where the database
    /// is none. Processes on several machines must be given the same.
    pub(crate) fn signing_secret(&self) -> Result<SigningSecret, StartError> {
        if let Ok(secret) = env::var("JWT_SECRET") {
            return SigningSecret::from_bytes(secret.as_bytes())
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
        self.ledger.flush().await?;
        match self.engine {
            Engine::Memory => Ok(()),
            Engine::Sqlite(store) => store.close().await,
            #[cfg(feature = "postgres")]
            Engine::Postgres(store) => store.close().await,
        }
    }
}
