//! A server that answers, fails, is silent and comes back, in time that is paused.

use std::{
    pin::pin,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use super::*;
use crate::domain::clock::ManualClock;

const DEADLINE: Duration = Duration::from_millis(25);

#[derive(Debug)]
struct Server {
    availability: Availability,
    clock: Arc<ManualClock>,
    is_alive: AtomicBool,
    is_well: AtomicBool,
    checks: AtomicU32,
    losses: AtomicU32,
    returns: AtomicU32,
}

impl RemoteServer for Server {
    fn availability(&self) -> &Availability {
        &self.availability
    }

    async fn revive(&self) -> Result<(), StoreError> {
        self.checks.fetch_add(1, Ordering::Relaxed);
        if self.is_alive.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(gone())
        }
    }

    fn is_lost(&self, _: &StoreError) {
        self.losses.fetch_add(1, Ordering::Relaxed);
    }

    fn is_back(&self) {
        assert!(self.availability.is_down(), "before anybody calls it");
        self.returns.fetch_add(1, Ordering::Relaxed);
    }

    fn is_well(&self) -> bool {
        self.is_well.load(Ordering::Relaxed)
    }
}

fn server() -> Arc<Server> {
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_secs(60));
    Arc::new(Server {
        availability: Availability::new(DEADLINE, clock.clone()),
        clock,
        is_alive: AtomicBool::new(true),
        is_well: AtomicBool::new(true),
        checks: AtomicU32::new(0),
        losses: AtomicU32::new(0),
        returns: AtomicU32::new(0),
    })
}

fn gone() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "gone")
}

fn odd() -> StoreError {
    StoreError::internal("odd")
}

impl Server {
    /// Checks, losses, returns.
    fn seen(&self) -> [u32; 3] {
        [&self.checks, &self.losses, &self.returns].map(|count| count.load(Ordering::Relaxed))
    }
}

async fn silence() -> Result<u32, StoreError> {
    std::future::pending().await
}

#[tokio::test(start_paused = true)]
async fn who_is_silent_three_times_is_not_called_until_found_back() {
    let server = server();
    server.is_alive.store(false, Ordering::Relaxed);
    for failures in 1..=3 {
        let began = tokio::time::Instant::now();
        let error = ask(&server, pin!(silence())).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        assert!(error.to_string().contains("in time"), "{error}");
        let waited = began.elapsed();
        assert!(waited >= DEADLINE && waited < DEADLINE * 2, "{waited:?}");
        assert_eq!(server.availability.is_down(), failures == 3);
    }
    assert_eq!(server.seen(), [0, 1, 0]);
    let unasked = async { unreachable!("it is down") };
    let error = ask::<_, u32, StoreError>(&server, pin!(unasked)).await;
    assert_eq!(error.unwrap_err().kind(), StoreErrorKind::Unavailable);
    sleep(Duration::from_secs(10)).await;
    let [checks, losses, returns] = server.seen();
    assert!((6..30).contains(&checks), "{checks}");
    assert_eq!((losses, returns), (1, 0));
    assert!(!server.availability.is_back_lately());

    server.is_alive.store(true, Ordering::Relaxed);
    sleep(Duration::from_secs(2)).await;
    let [checks, losses, returns] = server.seen();
    assert_eq!((losses, returns), (1, 1));
    assert!(!server.availability.is_down() && server.availability.is_back_lately());
    let answer = ask(&server, Box::pin(async { Ok::<_, StoreError>(7) })).await;
    assert_eq!(answer.unwrap(), 7);
    sleep(Duration::from_secs(9)).await;
    assert_eq!(server.seen(), [checks, 1, 1], "nobody checks any more");
    server.clock.advance(Duration::from_secs(2));
    assert!(!server.availability.is_back_lately());
}

/// The server answers 5 ms after the deadline, during which this process was held up for `busy`.
async fn answered_after(busy: Duration) -> (Result<(), StoreError>, Arc<Server>) {
    let server = server();
    let answer = async {
        sleep(Duration::from_millis(24)).await;
        server
            .clock
            .advance(Duration::from_millis(24).saturating_add(busy));
        sleep(Duration::from_millis(6)).await;
        Ok(())
    };
    let outcome = wait_for(&server, pin!(answer)).await;
    (outcome, Arc::clone(&server))
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_this_process_was_too_busy_to_read_is_read() {
    let (outcome, _) = answered_after(Duration::ZERO).await;
    outcome.unwrap_err();
    let (outcome, server) = answered_after(Duration::from_millis(9)).await;
    outcome.unwrap();
    assert!(!server.availability.is_down());
    // But it isn't waited for without end.
    let began = tokio::time::Instant::now();
    let silent = async {
        server.clock.advance(Duration::from_secs(1));
        silence().await
    };
    wait_for(&server, pin!(silent)).await.unwrap_err();
    assert!(began.elapsed() < DEADLINE * 2, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_single_pause_is_a_single_failure_however_many_wait() {
    let server = server();
    for moment in 1..=3 {
        let passes = async {
            sleep(Duration::from_millis(24)).await;
            server.clock.advance(DEADLINE);
        };
        let calls = (0..50).map(|_| ask(&server, Box::pin(silence())));
        let calls = futures_util::future::join_all(calls);
        let ((), failed) = tokio::join!(passes, calls);
        assert!(failed.iter().all(Result::is_err));
        assert_eq!(server.availability.is_down(), moment == 3);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_ends_a_row_of_failures_if_the_server_is_well() {
    let server = server();
    let answer = async || Ok::<_, StoreError>(());
    for _ in 0..4 {
        for _ in 0..2 {
            let failed = wait_for(&server, pin!(async { Err::<(), _>(odd()) })).await;
            assert_eq!(failed.unwrap_err().kind(), StoreErrorKind::Internal);
        }
        wait_for(&server, pin!(answer())).await.unwrap();
    }
    assert_eq!(server.seen(), [0; 3]);
    server.is_well.store(false, Ordering::Relaxed);
    for failures in 1..=3 {
        wait_for(&server, pin!(answer())).await.unwrap();
        wait_for(&server, pin!(async { Err::<(), _>(odd()) }))
            .await
            .unwrap_err();
        assert_eq!(server.availability.is_down(), failures == 3);
    }
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_reached_is_down_at_once_and_checked_by_one() {
    let server = server();
    server.is_alive.store(false, Ordering::Relaxed);
    let calls = (0..9).map(|_| ask(&server, Box::pin(async { Err::<(), _>(gone()) })));
    for failed in futures_util::future::join_all(calls).await {
        assert_eq!(failed.unwrap_err().kind(), StoreErrorKind::Unavailable);
    }
    connect(&server).await.unwrap_err();
    assert_eq!(server.seen(), [1, 1, 0]);
    sleep(Duration::from_millis(76)).await;
    let [checks, losses, returns] = server.seen();
    assert!((2..4).contains(&checks), "one task checks: {checks}");
    assert_eq!((losses, returns), (1, 0));
    server.is_alive.store(true, Ordering::Relaxed);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(server.seen()[1..], [1, 1]);
}

/// A failure that is only about the call says nothing of the server.
#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_call_is_not_counted() {
    #[derive(Debug)]
    struct Wrong(StoreError);
    impl CallError for Wrong {
        fn down() -> Self {
            Self(gone())
        }
        fn late() -> Self {
            Self(gone())
        }
        fn error(&self) -> &StoreError {
            &self.0
        }
        fn severity(&self) -> Option<Failure> {
            None
        }
    }
    let server = server();
    for _ in 0..9 {
        let failed = ask(&server, Box::pin(async { Err::<(), _>(Wrong(odd())) })).await;
        assert_eq!(failed.unwrap_err().0.kind(), StoreErrorKind::Internal);
    }
    assert_eq!(server.seen(), [0; 3]);
}

#[tokio::test(start_paused = true)]
async fn the_check_ends_with_whoever_owns_the_server() {
    let server = server();
    server.is_alive.store(false, Ordering::Relaxed);
    connect(&server).await.unwrap_err();
    let owned = Arc::downgrade(&server);
    drop(server);
    sleep(Duration::from_secs(2)).await;
    assert!(owned.upgrade().is_none());
    let tasks = Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks, 0);
}
