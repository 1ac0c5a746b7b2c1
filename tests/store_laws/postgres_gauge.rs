//! What an operator sees of charges that PostgreSQL doesn't take.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tollgate::store::Ledger;

use crate::{
    engines::{account, balances, costs, hold, pay},
    postgres_ill::{CUT, say, short, until},
    postgres_server::{database, pool},
    recovery::{CHILD, child},
};

/// What the gauge of unwritten charges shows, as the bits of a float.
#[derive(Default)]
struct Shown(Arc<AtomicU64>);

impl Recorder for Shown {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        assert_eq!(key.name(), "tollgate_unwritten_settlements");
        Gauge::from_arc(Arc::clone(&self.0))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// In a process of its own, because the gauge is a process's; on one thread, because the recorder
/// is a thread's.
#[tokio::test]
async fn charges_that_the_database_did_not_take_are_shown_until_it_does() {
    if std::env::var_os(CHILD).is_none() {
        let test = "postgres_gauge::charges_that_the_database_did_not_take_are_shown_until_it_does";
        let output = child(test, "alone").wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
        return;
    }
    let Some(place) = database().await else {
        return;
    };
    let shown = Shown::default();
    let _recorded = metrics::set_default_local_recorder(&shown);
    let value = || f64::from_bits(shown.0.load(Ordering::Relaxed));
    let (store, _) = short(pool(place.clone(), 4).await).await;
    let ann = account("ann");
    pay(&store, &ann, 1_000).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(hold(&store, &ann, &[], 10).await.unwrap());
    }
    say(&place, "ALTER DATABASE $name ALLOW_CONNECTIONS false").await;
    say(&place, CUT).await;
    assert!(value() < 0.5, "{}", value());
    for held in held {
        drop(store.settle(held, costs(10)));
    }
    until(async || (value() - 5.0).abs() < 0.5).await;
    say(&place, "ALTER DATABASE $name ALLOW_CONNECTIONS true").await;
    until(async || store.flush().await.is_ok()).await;
    until(async || value() < 0.5).await;
    balances(&store, &ann, 1_000, 0).await;
    store.close().await.unwrap();
}
