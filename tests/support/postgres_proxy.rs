//! A way to PostgreSQL that can fall silent, or lose an answer.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sqlx::postgres::PgConnectOptions;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixStream},
};

pub(crate) struct Proxy {
    state: Arc<State>,
    port: u16,
}

#[derive(Default)]
struct State {
    /// Connections that were made before so many are silent.
    frozen: AtomicUsize,
    made: AtomicUsize,
    /// The next commit is done, and its connection ends without an answer.
    loses_a_commit: AtomicBool,
    lost: AtomicBool,
}

impl Proxy {
    /// A way to the server whose socket is in that folder.
    pub(crate) async fn to(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let (target, own) = (folder.join(".s.PGSQL.5432"), Arc::clone(&state));
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = UnixStream::connect(&target).await.unwrap();
                let number = own.made.fetch_add(1, Ordering::SeqCst);
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let state = Arc::clone(&own);
                let ended = Arc::new(AtomicBool::new(false));
                let cut = Arc::clone(&ended);
                tokio::spawn(async move {
                    let mut bytes = [0; 16_384];
                    while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
                        state.wait_while_frozen(number).await;
                        let is_commit = bytes[..count].windows(7).any(|seven| seven == b"COMMIT\0");
                        if is_commit && state.loses_a_commit.swap(false, Ordering::SeqCst) {
                            cut.store(true, Ordering::SeqCst);
                        }
                        if to_server.write_all(&bytes[..count]).await.is_err() {
                            return;
                        }
                    }
                });
                let state = Arc::clone(&own);
                tokio::spawn(async move {
                    let mut bytes = [0; 16_384];
                    while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
                        state.wait_while_frozen(number).await;
                        if ended.load(Ordering::SeqCst) {
                            // It is done: that was its answer.
                            state.lost.store(true, Ordering::SeqCst);
                            return;
                        }
                        if to_client.write_all(&bytes[..count]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { state, port }
    }

    pub(crate) fn options(&self, place: &PgConnectOptions) -> PgConnectOptions {
        PgConnectOptions::new()
            .host("127.0.0.1")
            .port(self.port)
            .username("tollgate")
            .database(place.get_database().unwrap())
            .ssl_mode(sqlx::postgres::PgSslMode::Disable)
    }

    /// Nothing more comes through the connections that there are; those that are made later are
    /// good.
    pub(crate) fn freeze(&self) {
        let made = self.state.made.load(Ordering::SeqCst);
        self.state.frozen.store(made, Ordering::SeqCst);
    }

    pub(crate) fn lose_a_commit(&self) {
        self.state.loses_a_commit.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_lost_one(&self) -> bool {
        self.state.lost.load(Ordering::SeqCst)
    }
}

impl State {
    async fn wait_while_frozen(&self, number: usize) {
        while number < self.frozen.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
