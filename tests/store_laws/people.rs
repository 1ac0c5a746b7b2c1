//! Users, and what a new password does to their logins.

use tollgate::{
    store::{Page, StoreErrorKind, UserId},
    user::{UserCondition, UserRecord, UserUpdate},
};

use crate::{
    engines::{Engine, Time, kind, later, now},
    sessions::{session, session_id},
};

pub(crate) fn user_id(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn user(name: &str) -> UserRecord {
    let email = format!(" {name}@Example.com ");
    UserRecord::new(user_id(name), &email, "$argon2id$old".to_owned(), now())
}

pub(crate) async fn an_address_is_taken_once_in_whatever_case<S: Engine>(store: S, _: Time) {
    let mut ann = user("ann");
    ann.attributes
        .insert("name".to_owned(), "Ann \"A\"".to_owned());
    ann.roles = vec!["admin".to_owned()];
    store.insert_user(ann.clone()).await.unwrap();
    let mut shouting = user("bob");
    shouting.email = "ANN@EXAMPLE.COM".to_owned();
    for taken in [ann.clone(), shouting] {
        let answer = store.insert_user(taken).await;
        assert_eq!(kind(answer), StoreErrorKind::Conflict);
    }
    for written in ["ann@example.com", "\tAnn@Example.COM\n"] {
        let found = store.user_by_email(written).await.unwrap();
        assert_eq!(found, Some(ann.clone()));
    }
    assert_eq!(store.user(&ann.id).await.unwrap(), Some(ann));
    assert_eq!(store.user(&user_id("bob")).await.unwrap(), None);
    assert_eq!(store.user_by_email("ann").await.unwrap(), None);
}

pub(crate) async fn users_are_listed_newest_first_a_page_at_a_time<S: Engine>(store: S, _: Time) {
    for name in ["a", "b", "c", "d"] {
        store.insert_user(user(name)).await.unwrap();
    }
    assert!(store.delete_user(&user_id("c")).await.unwrap());
    let first = store.users(Page::first(2)).await.unwrap();
    let names = |users: Vec<UserRecord>| users.into_iter().map(|user| user.id).collect::<Vec<_>>();
    assert_eq!(names(first.items), [user_id("d"), user_id("b")]);
    let page = Page::first(2).after(first.next_cursor.unwrap());
    let last = store.users(page).await.unwrap();
    assert_eq!(names(last.items), [user_id("a")]);
    assert_eq!(last.next_cursor, None);
}

pub(crate) async fn a_user_s_update_changes_what_it_names<S: Engine>(store: S, _: Time) {
    let mut expected = user("ann");
    expected.attributes.insert("a".to_owned(), "1".to_owned());
    expected.attributes.insert("b".to_owned(), "1".to_owned());
    store.insert_user(expected.clone()).await.unwrap();
    let mut change = UserUpdate::default();
    change.attributes.insert("b".to_owned(), "2".to_owned());
    change.active = Some(false);
    let updated = store.update_user(&expected.id, change).await.unwrap();
    expected.attributes.insert("b".to_owned(), "2".to_owned());
    expected.active = false;
    assert_eq!(updated, Some(expected.clone()));
    let mut change = UserUpdate::default();
    change.roles = Some(vec!["viewer".to_owned()]);
    store.update_user(&expected.id, change).await.unwrap();
    expected.roles = vec!["viewer".to_owned()];
    assert_eq!(store.user(&expected.id).await.unwrap(), Some(expected));
    let unknown = store.update_user(&user_id("bob"), UserUpdate::default());
    assert_eq!(unknown.await.unwrap(), None);
}

/// Of two users who want one address at the same time one gets it, whichever way.
pub(crate) async fn an_address_that_is_changed_is_taken_once<S: Engine>(store: S, _: Time) {
    let moved = |to: &str| {
        let mut change = UserUpdate::default();
        change.email = Some(to.to_owned());
        change
    };
    for name in ["ann", "bob", "eve"] {
        store.insert_user(user(name)).await.unwrap();
    }
    let taken = store.update_user(&user_id("ann"), moved("BOB@example.com "));
    assert_eq!(kind(taken.await), StoreErrorKind::Conflict);
    let found = store.user_by_email("ann@example.com").await.unwrap();
    assert_eq!(found, Some(user("ann")), "nothing is changed");
    // One's own isn't taken by oneself.
    let same = store.update_user(&user_id("ann"), moved("ANN@example.com"));
    assert_eq!(same.await.unwrap(), Some(user("ann")));

    let tasks = ["ann", "bob", "eve"].map(|name| {
        let (store, change) = (store.clone(), moved(" New@Example.com "));
        tokio::spawn(async move { store.update_user(&user_id(name), change).await })
    });
    let mut winner = None;
    for task in tasks {
        match task.await.unwrap() {
            Ok(user) => assert_eq!(winner.replace(user.unwrap().id), None),
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Conflict),
        }
    }
    let found = store.user_by_email("new@example.com").await.unwrap();
    let (winner, found) = (winner.unwrap(), found.unwrap());
    assert_eq!(
        (&found.id, found.email.as_str()),
        (&winner, "new@example.com")
    );
    // What was left is free.
    let left = format!("{}@example.com", winner.as_str());
    assert_eq!(store.user_by_email(&left).await.unwrap(), None);
    let mut another = user("another");
    another.email = left;
    store.insert_user(another).await.unwrap();
}

pub(crate) async fn no_text_of_a_user_has_a_nul_in_it<S: Engine>(store: S, _: Time) {
    let nul = || "a\0b".to_owned();
    let refused = |spoil: fn(&mut UserRecord, String)| {
        let mut user = user("bob");
        spoil(&mut user, nul());
        store.insert_user(user)
    };
    for answer in [
        refused(|user, text| user.email = text),
        refused(|user, text| user.roles.push(text)),
        refused(|user, text| drop(user.attributes.insert("name".to_owned(), text))),
        refused(|user, text| drop(user.attributes.insert(text, String::new()))),
    ] {
        assert_eq!(kind(answer.await), StoreErrorKind::Refused);
    }
    assert_eq!(store.user(&user_id("bob")).await.unwrap(), None);
    let ann = user("ann");
    store.insert_user(ann.clone()).await.unwrap();
    let (mut roles, mut attributes) = (UserUpdate::default(), UserUpdate::default());
    let mut email = UserUpdate::default();
    roles.roles = Some(vec![nul()]);
    attributes.attributes.insert("name".to_owned(), nul());
    email.email = Some(nul());
    for update in [roles, attributes, email] {
        let answer = store.update_user(&ann.id, update).await;
        assert_eq!(kind(answer), StoreErrorKind::Refused);
    }
    assert_eq!(store.user(&ann.id).await.unwrap(), Some(ann));
}

pub(crate) async fn a_user_has_only_so_many_attributes<S: Engine>(store: S, _: Time) {
    let mut ann = user("ann");
    let name = |number: usize| format!("agent-{number}");
    for number in 0..127 {
        ann.attributes.insert(name(number), "1".to_owned());
    }
    store.insert_user(ann.clone()).await.unwrap();
    let change = |number, value: &str| {
        let mut change = UserUpdate::default();
        change.attributes.insert(name(number), value.to_owned());
        store.update_user(&ann.id, change)
    };
    let full = change(0, &"a".repeat(32_768)).await;
    assert_eq!(kind(full), StoreErrorKind::Full);
    assert_eq!(store.user(&ann.id).await.unwrap(), Some(ann.clone()));
    let answers = [
        change(127, "2"),
        change(128, "2"),
        change(129, "2"),
        change(130, "2"),
    ];
    let mut stored = 0;
    for answer in answers {
        match answer.await {
            Ok(_) => stored += 1,
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Full),
        }
    }
    assert_eq!(stored, 1, "one more, and no other");
    let user = change(0, "3").await.unwrap().unwrap();
    assert_eq!(user.attributes.len(), 128);
    assert_eq!(user.attributes.get("agent-0").unwrap(), "3");
    // Who has too many from before there was a bound may be shut out.
    let mut bob = user_with(&ann, "bob");
    for number in 127..200 {
        bob.attributes.insert(name(number), "1".to_owned());
    }
    store.insert_user(bob.clone()).await.unwrap();
    let mut shut_out = UserUpdate::default();
    shut_out.active = Some(false);
    let shut_out = store.update_user(&bob.id, shut_out).await.unwrap();
    assert!(!shut_out.unwrap().active);
}

pub(crate) async fn a_user_is_changed_only_as_it_was_read<S: Engine>(store: S, _: Time) {
    let read = user("ann");
    store.insert_user(read.clone()).await.unwrap();
    let change = |read: &UserRecord, name: &str| {
        let mut change = UserUpdate::default();
        change.roles = Some(vec![name.to_owned()]);
        change.only_if = Some(UserCondition::Unchanged(Box::new(read.clone())));
        change
    };
    // Of those who read the same, one comes first.
    let tasks = ["one", "two", "three", "four"].map(|name| {
        let (store, change) = (store.clone(), change(&read, name));
        tokio::spawn(async move { store.update_user(&user_id("ann"), change).await })
    });
    let mut winner = None;
    for task in tasks {
        match task.await.unwrap() {
            Ok(user) => assert_eq!(winner.replace(user.unwrap()), None),
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::NotFound),
        }
    }
    let winner = winner.unwrap();
    assert_eq!(store.user(&read.id).await.unwrap(), Some(winner.clone()));
    let mut stale = change(&read, "five");
    stale.logins_end_at = Some(later(1));
    stale.active = Some(false);
    assert_eq!(
        kind(store.update_user(&read.id, stale).await),
        StoreErrorKind::NotFound
    );
    assert_eq!(
        store.user(&read.id).await.unwrap(),
        Some(winner.clone()),
        "nothing is changed"
    );
    // Every field that a decision may rest on counts, and no password.
    let others: [fn(&mut UserRecord); 4] = [
        |user| user.active = false,
        |user| user.email = "another@example.com".to_owned(),
        |user| user.roles.clear(),
        |user| drop(user.attributes.insert("a".to_owned(), "1".to_owned())),
    ];
    for spoil in others {
        let mut other = winner.clone();
        spoil(&mut other);
        let answer = store.update_user(&read.id, change(&other, "six")).await;
        assert_eq!(kind(answer), StoreErrorKind::NotFound);
    }
    let changed = store.change_password(&read.id, 0, "$argon2id$new".to_owned(), later(1));
    assert!(changed.await.unwrap());
    let updated = store.update_user(&read.id, change(&winner, "six")).await;
    assert_eq!(updated.unwrap().unwrap().roles, ["six"]);
    let nobody = store
        .update_user(&user_id("bob"), change(&read, "six"))
        .await;
    assert_eq!(nobody.unwrap(), None);
}

pub(crate) async fn attributes_of_one_kind_are_counted_in_the_store<S: Engine>(store: S, _: Time) {
    let mut ann = user("ann");
    ann.attributes.insert("name".to_owned(), "Ann".to_owned());
    ann.attributes.insert("agent:0".to_owned(), "0".to_owned());
    store.insert_user(ann.clone()).await.unwrap();
    let change = |names: &[usize]| {
        let mut change = UserUpdate::default();
        for name in names {
            change
                .attributes
                .insert(format!("agent:{name}"), "1".to_owned());
        }
        change.only_if = Some(UserCondition::AttributesAtMost {
            prefix: "agent:".to_owned(),
            max: 3,
        });
        change
    };
    let many = store.update_user(&ann.id, change(&[1, 2, 3])).await;
    assert_eq!(kind(many), StoreErrorKind::NotFound);
    assert_eq!(store.user(&ann.id).await.unwrap(), Some(ann.clone()));
    let tasks = [1, 2, 3, 4, 5].map(|name| {
        let (store, change) = (store.clone(), change(&[name]));
        tokio::spawn(async move { store.update_user(&user_id("ann"), change).await })
    });
    let mut made = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => made += 1,
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::NotFound),
        }
    }
    assert_eq!(made, 2, "two more, and no others");
    // What is there is no further one, and others aren't counted.
    let mut again = change(&[0]);
    again.attributes.insert("phone".to_owned(), "1".to_owned());
    let user = store.update_user(&ann.id, again).await.unwrap().unwrap();
    assert_eq!(user.attributes.len(), 5);
    assert_eq!(user.attributes.get("agent:0").unwrap(), "1");
}

fn user_with(other: &UserRecord, name: &str) -> UserRecord {
    let mut user = user(name);
    user.attributes.clone_from(&other.attributes);
    user
}

pub(crate) async fn a_new_password_ends_every_login_in_one_step<S: Engine>(store: S, _: Time) {
    let ann = user("ann");
    store.insert_user(ann.clone()).await.unwrap();
    for (name, of) in [("s1", "ann"), ("s2", "ann"), ("s3", "bob")] {
        assert!(
            store
                .open_session(session(name, of), None, 1_000)
                .await
                .unwrap()
        );
    }
    assert!(
        store
            .end_session(&session_id("s2"), later(1))
            .await
            .unwrap()
    );
    let change = |expected| {
        let hash = "$argon2id$new".to_owned();
        store.change_password(&ann.id, expected, hash, later(5))
    };
    for wrong in [1, u64::MAX] {
        assert!(!change(wrong).await.unwrap());
    }
    assert_eq!(store.user(&ann.id).await.unwrap(), Some(ann.clone()));
    assert!(change(0).await.unwrap());
    assert!(!change(0).await.unwrap(), "once for each version");
    let stored = store.user(&ann.id).await.unwrap().unwrap();
    assert_eq!(stored.password_hash, "$argon2id$new");
    assert_eq!(stored.password_version, 1);
    let mut ends = Vec::new();
    for name in ["s1", "s2", "s3"] {
        let session = store.session(&session_id(name)).await.unwrap().unwrap();
        ends.push(session.ended_at);
    }
    assert_eq!(ends, [Some(later(5)), Some(later(1)), None]);
    let nobody = store.change_password(&user_id("bob"), 0, String::new(), now());
    assert!(!nobody.await.unwrap());
}

pub(crate) async fn an_update_that_ends_logins_does_so_in_one_step<S: Engine>(store: S, _: Time) {
    let ann = user("ann");
    store.insert_user(ann.clone()).await.unwrap();
    for (name, of) in [("s1", "ann"), ("s2", "bob")] {
        assert!(
            store
                .open_session(session(name, of), None, 1_000)
                .await
                .unwrap()
        );
    }
    let mut change = UserUpdate::default();
    change.active = Some(false);
    change.logins_end_at = Some(later(5));
    let shut_out = store.update_user(&ann.id, change).await.unwrap().unwrap();
    assert!(!shut_out.active);
    assert_eq!(shut_out.password_version, 1);
    assert_eq!(shut_out.password_hash, ann.password_hash);
    assert_eq!(store.user(&ann.id).await.unwrap(), Some(shut_out));
    let mut back = UserUpdate::default();
    back.active = Some(true);
    let back = store.update_user(&ann.id, back).await.unwrap().unwrap();
    assert_eq!(back.password_version, 1, "nothing ends by that");
    let mut ends = Vec::new();
    for name in ["s1", "s2"] {
        let session = store.session(&session_id(name)).await.unwrap().unwrap();
        ends.push(session.ended_at);
    }
    assert_eq!(ends, [Some(later(5)), None]);
    let open = |name, version| store.open_session(session(name, "ann"), Some(version), 1_000);
    assert!(!open("s3", 0).await.unwrap(), "it began before");
    assert!(open("s4", 1).await.unwrap());
}

pub(crate) async fn a_stronger_hash_of_the_same_password_ends_nothing<S: Engine>(
    store: S,
    _: Time,
) {
    let ann = user("ann");
    store.insert_user(ann.clone()).await.unwrap();
    assert!(
        store
            .open_session(session("s1", "ann"), None, 1_000)
            .await
            .unwrap()
    );
    let rehash = |version| store.rehash_password(&ann.id, version, "$argon2id$dear".to_owned());
    assert!(!rehash(1).await.unwrap());
    assert!(rehash(0).await.unwrap());
    let stored = store.user(&ann.id).await.unwrap().unwrap();
    assert_eq!(
        (stored.password_hash.as_str(), stored.password_version),
        ("$argon2id$dear", 0)
    );
    let session = store.session(&session_id("s1")).await.unwrap().unwrap();
    assert_eq!(session.ended_at, None);
}

pub(crate) async fn a_login_opens_only_for_an_active_user_with_that_password<S: Engine>(
    store: S,
    _: Time,
) {
    store.insert_user(user("ann")).await.unwrap();
    let open =
        |name: &str, of: &str, expected| store.open_session(session(name, of), expected, 1_000);
    assert!(!open("s1", "ann", Some(1)).await.unwrap());
    assert!(!open("s1", "ann", Some(u64::MAX)).await.unwrap());
    assert!(
        !open("s1", "bob", Some(0)).await.unwrap(),
        "nobody of that name"
    );
    assert_eq!(store.session(&session_id("s1")).await.unwrap(), None);
    assert!(open("s1", "ann", Some(0)).await.unwrap());
    assert_eq!(
        kind(open("s1", "ann", Some(0)).await),
        StoreErrorKind::Conflict
    );
    let stored = store.session(&session_id("s1")).await.unwrap();
    assert_eq!(stored, Some(session("s1", "ann")));
    let mut change = UserUpdate::default();
    change.active = Some(false);
    store.update_user(&user_id("ann"), change).await.unwrap();
    assert!(!open("s2", "ann", Some(0)).await.unwrap());
    assert!(open("s2", "ann", None).await.unwrap());
}

pub(crate) async fn a_deleted_user_s_logins_are_gone<S: Engine>(store: S, _: Time) {
    store.insert_user(user("ann")).await.unwrap();
    store
        .open_session(session("s1", "ann"), None, 1_000)
        .await
        .unwrap();
    store
        .open_session(session("s2", "bob"), None, 1_000)
        .await
        .unwrap();
    assert!(store.delete_user(&user_id("ann")).await.unwrap());
    assert!(!store.delete_user(&user_id("ann")).await.unwrap());
    assert_eq!(store.session(&session_id("s1")).await.unwrap(), None);
    assert!(store.session(&session_id("s2")).await.unwrap().is_some());
    assert_eq!(store.user_by_email("ann@example.com").await.unwrap(), None);
    store.insert_user(user("ann")).await.unwrap();
}

pub(crate) async fn logins_are_forgotten_after_their_time<S: Engine>(store: S, _: Time) {
    store
        .open_session(session("s1", "ann"), None, 1_000)
        .await
        .unwrap();
    let mut long = session("s2", "ann");
    long.expires_at = later(120);
    store.open_session(long, None, 1_000).await.unwrap();
    assert_eq!(store.purge_sessions(later(60)).await.unwrap(), 0);
    assert_eq!(store.purge_sessions(later(61)).await.unwrap(), 1);
    assert_eq!(store.session(&session_id("s1")).await.unwrap(), None);
    assert!(store.session(&session_id("s2")).await.unwrap().is_some());
}
