//! Users and passwords, asked for anew for each connection.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use redis::RedisConnectionInfo;
use secrecy::{ExposeSecret, SecretString};
use tokio::{task::JoinSet, time::timeout};

use crate::store::{StoreError, StoreErrorKind};

/// How long a provider may take.
const PROVIDER_MAX: Duration = Duration::from_secs(5);

/// How much of a provider's error is told, in bytes.
const TOLD_MAX: usize = 500;

/// A user of Redis and its password or token.
#[derive(Clone)]
pub struct RedisCredentials {
    username: Option<String>,
    password: SecretString,
}

impl RedisCredentials {
    /// The password, or token, of a user.
    #[must_use]
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            username: Some(username.into()),
            password: SecretString::from(password.into()),
        }
    }

    /// The password of the server's default user.
    #[must_use]
    pub fn password(password: impl Into<String>) -> Self {
        Self {
            username: None,
            password: SecretString::from(password.into()),
        }
    }

    /// These, and nothing of the user that the address names.
    pub(super) fn apply(&self, asked: &RedisConnectionInfo) -> RedisConnectionInfo {
        let settings = RedisConnectionInfo::default()
            .set_db(asked.db())
            .set_protocol(asked.protocol());
        let settings = match &self.username {
            Some(username) => settings.set_username(username),
            None => settings,
        };
        settings.set_password(self.password.expose_secret())
    }
}

impl fmt::Debug for RedisCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCredentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

type Asked = Pin<Box<dyn Future<Output = Result<RedisCredentials, StoreError>> + Send>>;

/// Where they come from.
#[derive(Clone)]
pub(in crate::store::redis) struct Credentials(Arc<dyn Fn() -> Asked + Send + Sync>);

impl Credentials {
    pub(super) fn from<F, A>(provider: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<RedisCredentials, StoreError>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(provider())))
    }

    pub(super) async fn ask(&self) -> Result<RedisCredentials, StoreError> {
        let failed = |text: &str| {
            let end = text.floor_char_boundary(TOLD_MAX);
            let text = text.get(..end).unwrap_or_default();
            let text = format!("there are no credentials for Redis: {text}");
            StoreError::new(StoreErrorKind::Unavailable, &text)
        };
        // A panic must not end the task that waits here: it may be the only one that reconnects.
        let provider = Arc::clone(&self.0);
        let mut asked = JoinSet::new();
        asked.spawn(async move { timeout(PROVIDER_MAX, provider()).await });
        match asked.join_next().await {
            Some(Ok(Ok(asked))) => asked.map_err(|error| failed(&error.to_string())),
            Some(Ok(Err(_))) => Err(failed("they didn't come in time")),
            Some(Err(_)) | None => Err(failed("their provider panicked")),
        }
    }
}

#[cfg(feature = "redis-cluster")]
mod of_nodes {
    use std::{
        pin::Pin,
        task::{Context, Poll, ready},
    };

    use futures_core::Stream;
    use redis::{ErrorKind, RedisError, RedisResult, auth::BasicAuth};
    use secrecy::ExposeSecret;

    use super::Credentials;
    use crate::{
        domain::clock::{Clock, SystemClock},
        repeats::{LogLine, Repeats},
    };

    /// What a cluster's client asks for each of its connections.
    #[derive(Clone)]
    pub(in crate::store::redis) struct ClusterCredentials(pub(in crate::store::redis) Credentials);

    type Asked = Pin<Box<dyn Future<Output = RedisResult<BasicAuth>> + Send>>;

    /// One answer. It doesn't end: whoever waits for the next credentials would warn of it.
    struct Once(Option<Asked>);

    impl redis::auth::StreamingCredentialsProvider for ClusterCredentials {
        fn subscribe(&self) -> Pin<Box<dyn Stream<Item = RedisResult<BasicAuth>> + Send>> {
            let credentials = self.0.clone();
            Box::pin(Once(Some(Box::pin(async move {
                let asked = credentials.ask().await.map_err(|error| {
                    static FAILURES: Repeats = Repeats::new();
                    if let Some(LogLine { left_out }) = FAILURES.failed(&error, SystemClock.elapsed()) {
                        tracing::warn!(target: "tollgate::redis", %error, left_out, "a node can't be connected");
                    }
                    let text = "there are no credentials";
                    RedisError::from((ErrorKind::AuthenticationFailed, text))
                })?;
                // A name is always sent.
                let username = asked.username.unwrap_or_else(|| "default".to_owned());
                let password = asked.password.expose_secret().to_owned();
                Ok(BasicAuth::new(username, password))
            }))))
        }
    }

    impl Stream for Once {
        type Item = RedisResult<BasicAuth>;

        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            let Some(asked) = &mut self.0 else {
                return Poll::Pending;
            };
            let answer = ready!(asked.as_mut().poll(cx));
            self.0 = None;
            Poll::Ready(Some(answer))
        }
    }
}

#[cfg(feature = "redis-cluster")]
pub(in crate::store::redis) use of_nodes::ClusterCredentials;
