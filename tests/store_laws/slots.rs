//! The laws of requests under way on each engine that has them; and that each law catches stores
//! that break it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use tollgate::store::{ConcurrencyStore, RateKey, Slot, StoreFuture};

/// What is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    AdmitsOneMore,
    KeepsTheFirstLimit,
    FreesNothing,
    FreesTwo,
    TakesOnRefusal,
    IgnoresScope,
    SharesKeys,
    KeepsWhatWasGivenUp,
    LooksBeforeItTakes,
    FreesLater,
}

/// Numbers under a lock, with a defect if that is asked for.
#[derive(Clone, Debug, Default)]
struct Counted {
    keys: Arc<Mutex<HashMap<RateKey, u32>>>,
    first: Arc<AtomicU32>,
    defect: Option<Defect>,
}

struct Taken(Counted, RateKey);

impl Counted {
    fn new(defect: Option<Defect>) -> Self {
        Self {
            defect,
            ..Self::default()
        }
    }

    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    fn key(&self, key: &RateKey) -> RateKey {
        let scope: Arc<str> = match self.has(Defect::IgnoresScope) {
            true => "".into(),
            false => key.scope().into(),
        };
        match self.has(Defect::SharesKeys) {
            true => RateKey::new(&scope, b""),
            false => RateKey::new(&scope, key.digest()),
        }
    }

    fn most(&self, most: u32) -> u32 {
        if self.has(Defect::KeepsTheFirstLimit) {
            let _ = self
                .first
                .compare_exchange(0, most, Ordering::SeqCst, Ordering::SeqCst);
            return self.first.load(Ordering::SeqCst);
        }
        most + u32::from(self.has(Defect::AdmitsOneMore))
    }

    fn take(&self, key: &RateKey, most: u32) -> Option<Slot> {
        let mut keys = self.keys.lock().unwrap();
        let taken = keys.entry(key.clone()).or_default();
        if *taken >= most {
            *taken += u32::from(self.has(Defect::TakesOnRefusal));
            return None;
        }
        *taken += 1;
        drop(keys);
        Some(Slot::new(Taken(self.clone(), key.clone())))
    }

    fn is_full(&self, key: &RateKey, most: u32) -> bool {
        let keys = self.keys.lock().unwrap();
        keys.get(key).is_some_and(|taken| *taken >= most)
    }
}

impl ConcurrencyStore for Counted {
    fn acquire(&self, key: &RateKey, most: u32) -> StoreFuture<Option<Slot>> {
        let (store, key, most) = (self.clone(), self.key(key), self.most(most));
        if self.has(Defect::KeepsWhatWasGivenUp) {
            let slot = self.take(&key, most).map(std::mem::ManuallyDrop::new);
            return StoreFuture::new(async {
                tokio::task::yield_now().await;
                Ok(slot.map(std::mem::ManuallyDrop::into_inner))
            });
        }
        StoreFuture::new(async move {
            if store.has(Defect::LooksBeforeItTakes) {
                let is_full = store.is_full(&key, most);
                tokio::task::yield_now().await;
                return Ok((!is_full).then(|| store.take(&key, u32::MAX)).flatten());
            }
            Ok(store.take(&key, most))
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Self(store, key) = self;
        if store.has(Defect::FreesNothing) {
            return;
        }
        let freed = 1 + u32::from(store.has(Defect::FreesTwo));
        let (keys, key) = (Arc::clone(&store.keys), key.clone());
        let free = move || {
            let mut keys = keys.lock().unwrap();
            let taken = keys.entry(key).or_default();
            *taken = taken.saturating_sub(freed);
        };
        if store.has(Defect::FreesLater) {
            tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_secs(5)).await;
                free();
            });
            return;
        }
        free();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn numbers_under_a_lock_keep_all_laws() {
    tollgate::conformance::slots(async |_| Counted::new(None)).await;
}

macro_rules! slot_laws {
    ($($law:ident: $($defect:ident)|+,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $law() {
                for defect in [$(Defect::$defect),+] {
                    let law = tollgate::conformance::slots::$law(Arc::new(Counted::new(Some(defect))));
                    assert!(tokio::spawn(law).await.is_err(), "{defect:?} is not noticed");
                }
            }
        )*

        #[cfg(feature = "redis")]
        mod on_redis {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $law() {
                    if let Some(server) = crate::redis_server::RedisServer::start() {
                        let store = crate::redis_under_way::patient_of(server.url()).await;
                        tollgate::conformance::slots::$law(std::sync::Arc::new(store)).await;
                    }
                }
            )*
        }

        #[cfg(feature = "redis-cluster")]
        mod on_a_cluster {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $law() {
                    if let Some(server) = crate::redis_sessions::cluster_of_one() {
                        let nodes = tollgate::store::RedisClient::cluster([&*server.url()]);
                        let store = crate::redis_under_way::patient_of(nodes).await;
                        tollgate::conformance::slots::$law(std::sync::Arc::new(store)).await;
                    }
                }
            )*
        }
    };
}

slot_laws! {
    a_key_has_so_many_slots_and_no_more: AdmitsOneMore | KeepsTheFirstLimit | FreesNothing,
    a_slot_is_free_once_it_is_dropped: FreesNothing | FreesTwo | FreesLater,
    a_refused_request_takes_no_slot: TakesOnRefusal,
    callers_and_limits_have_slots_of_their_own: IgnoresScope | SharesKeys,
    who_gives_up_takes_no_slot: KeepsWhatWasGivenUp,
    of_a_hundred_at_once_as_many_are_under_way_as_may_be: LooksBeforeItTakes | AdmitsOneMore,
    a_slot_outlives_whoever_took_it: FreesNothing | FreesLater,
}
