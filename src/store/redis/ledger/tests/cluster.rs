//! On a cluster of three servers: no script names keys of two slots.

use super::*;
use crate::store::redis::tests::cluster::Nodes;

async fn on(nodes: &Nodes, clock: &Arc<ManualClock>) -> RedisLedger {
    let builder = RedisLedger::builder(nodes.client())
        .with_clock(clock.clone())
        .deadline(Duration::from_secs(20));
    builder.open().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_books_as_one_server_does() {
    let Some(nodes) = Nodes::start().await else {
        return;
    };
    let clock = Arc::new(ManualClock::default());
    let ledger = on(&nodes, &clock).await;
    for number in 0..20 {
        let name = format!("account {number}");
        pay(&ledger, &name).await;
        let who = account(&name);
        let mut wish = request(&who, &clock, 10);
        wish.idempotency = Some(Idempotency {
            key: Arc::from("key"),
            fingerprint: [7; 32],
            keep_for: Duration::from_secs(60),
        });
        let held = ledger.hold(wish.clone()).await.unwrap().unwrap();
        assert!(ledger.extend(&held, Duration::from_secs(5)).await.unwrap());
        ledger.settle(held, costs(7)).await.unwrap();
        assert!(ledger.hold(wish).await.unwrap().is_err(), "it was charged");
        let line = ledger
            .set_credit_line(&who, Money::from_nanos(5))
            .await
            .unwrap();
        assert_eq!(line.available().nanos(), 998);
        let limits = crate::domain::budget::SpendingLimits {
            daily: Some(Money::from_nanos(7)),
            ..Default::default()
        };
        ledger.set_limits(&who, &budget(0), limits).await.unwrap();
        let spent = ledger.budget(&who, &budget(0)).await.unwrap();
        assert_eq!(spent.day.settled.nanos(), 7);
        ledger.record(call(&who, &clock), costs(0)).await.unwrap();
        assert_eq!(
            ledger
                .usage(&who, Page::first(9))
                .await
                .unwrap()
                .items
                .len(),
            2
        );
        assert_eq!(
            ledger
                .transactions(&who, Page::first(9))
                .await
                .unwrap()
                .items
                .len(),
            2
        );
    }
    ledger.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_cluster_the_last_cents_are_spent_once_and_the_dead_are_cleared_up_after() {
    let Some(nodes) = Nodes::start().await else {
        return;
    };
    let (clock, still) = (
        Arc::new(ManualClock::default()),
        Arc::new(ManualClock::default()),
    );
    let (first, second) = (on(&nodes, &clock).await, on(&nodes, &still).await);
    pay(&first, "ann").await;
    let tasks: Vec<_> = (0..300)
        .map(|number| {
            let ledger = if number % 2 == 0 { &first } else { &second };
            let held = ledger.hold(request(&account("ann"), &clock, 7));
            tokio::spawn(async move { held.await.unwrap().ok() })
        })
        .collect();
    let mut held = Vec::new();
    for task in tasks {
        held.extend(task.await.unwrap());
    }
    assert_eq!(held.len(), 142, "a thousand by seven");
    for _ in 0..8 {
        clock.advance(Duration::from_secs(1));
        first.flush().await.unwrap();
    }
    let own = |hold: &Hold| hold.id.instance == first.0.shared.registry.instance();
    let open = held.iter().filter(|hold| own(hold)).count();
    let (settled, open_now) = books(&first).await;
    assert_eq!((settled, open_now), (0, i64::try_from(open).unwrap() * 7));
    for hold in held {
        first.settle(hold, costs(7)).await.unwrap();
    }
    // Those of the one that was taken for dead, too.
    assert_eq!(books(&first).await, (142 * 7, 0));
}
