//! Pages of keys.

use super::*;

/// [`list`](KeyStore::list) has an owner's keys newest first, each once, and no cursor on the last
/// page.
pub async fn keys_are_listed_newest_first_a_page_at_a_time<S: KeyStore + Clone>(store: S) {
    for number in 0..7 {
        store
            .insert(key(&format!("key-{number}"), "ann"), None)
            .await
            .unwrap();
        store
            .insert(key(&format!("bobs-{number}"), "bob"), None)
            .await
            .unwrap();
    }
    let mut page = Page::first(3);
    let mut names = Vec::new();
    let mut pages = 0;
    loop {
        let part = store.list("ann", page).await.unwrap();
        names.extend(part.items.into_iter().map(|key| key.name));
        pages += 1;
        let Some(cursor) = part.next_cursor else {
            break;
        };
        page = Page::first(3).after(cursor);
    }
    let newest_first: Vec<_> = (0..7).rev().map(|number| format!("key-{number}")).collect();
    assert_eq!((names, pages), (newest_first, 3));
    let exact = store.list("ann", Page::first(7)).await.unwrap();
    assert_eq!(exact.next_cursor, None, "no page behind the last");
}

/// [`list_all`](KeyStore::list_all) has the keys of all owners newest first, each once, whatever
/// their state, and no cursor on the last page; what comes or goes while they are read moves none
/// of the others.
pub async fn keys_of_all_owners_are_listed_newest_first<S: KeyStore + Clone>(store: S) {
    let none = store.list_all(Page::first(3)).await.unwrap();
    assert_eq!((none.items, none.next_cursor), (Vec::new(), None));
    let mut revoked = key("key-4", "ann");
    revoked.revoked_at = Some(now());
    let mut disabled = key("key-5", "bob");
    disabled.disabled_at = Some(now());
    for number in 0..4 {
        let owner = ["ann", "bob"][number % 2];
        let made = key(&format!("key-{number}"), owner);
        store.insert(made, None).await.unwrap();
    }
    for ended in [revoked, disabled] {
        store.insert(ended, None).await.unwrap();
    }
    let exact = store.list_all(Page::first(6)).await.unwrap();
    assert_eq!((exact.items.len(), exact.next_cursor), (6, None));
    assert_eq!(exact.items[0], get(&store, "bob", "key-5").await.unwrap());
    let first = store.list_all(Page::first(2)).await.unwrap();
    let names = |keys: Vec<KeyRecord>| keys.into_iter().map(|key| key.name).collect::<Vec<_>>();
    assert_eq!(names(first.items), ["key-5", "key-4"]);
    store.insert(key("key-6", "eve"), None).await.unwrap();
    for (owner, gone) in [("ann", "key-4"), ("ann", "key-2")] {
        store.delete(owner, &id(gone)).await.unwrap();
    }
    let page = Page::first(9).after(first.next_cursor.unwrap());
    let second = store.list_all(page).await.unwrap();
    assert_eq!(second.next_cursor, None);
    assert_eq!(names(second.items), ["key-3", "key-1", "key-0"]);
}
