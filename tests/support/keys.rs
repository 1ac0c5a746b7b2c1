//! Keys that are made in the database of an example itself.

use futures_util::future::try_join_all;
use tollgate::{
    key::KeyFormat,
    keyring::{KeyResolver, Keyring, NewKey},
    store::SqliteStore,
};

use super::Home;

impl Home {
    /// Makes as many keys for `owner` as a keyring lets one have unless it is told otherwise.
    pub(crate) async fn fill(&self, owner: &str) {
        let store = SqliteStore::open(self.path().join("p.db")).await;
        let store = store.expect("the database of the example");
        let format = KeyFormat::builder("full").build().expect("a format");
        let resolver = KeyResolver::builder(store.clone()).build();
        let ring = Keyring::new(store.clone(), format, resolver);
        let keys = (0..1_000).map(|_| ring.create(owner, NewKey::default()));
        try_join_all(keys).await.expect("room for all of them");
        let one_more = ring.create(owner, NewKey::default()).await;
        one_more.expect_err("an owner who has as many as may be");
        store.close().await.expect("all is written");
    }
}
