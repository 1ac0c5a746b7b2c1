//! What is set by somebody who knows no password of before.

use super::*;

#[tokio::test]
async fn a_password_that_is_set_ends_every_login_and_the_one_of_before() {
    let (world, ann) = World::with_ann().await;
    let (_, token) = world.login().await;
    let set = |id, new| world.logins.set_password(id, new);
    assert!(kind(set(&ann.id, "short").await).starts_with("WeakPassword"));
    let nobody = UserId::new("nobody").unwrap();
    assert_eq!(kind(set(&nobody, "another horse").await), "UnknownUser");
    assert_eq!(world.verdict(&token).await, "ok");
    set(&ann.id, "another horse").await.unwrap();
    assert_eq!(world.verdict(&token).await, "Ended");
    let old = world.logins.login(EMAIL, PASSWORD).await;
    assert_eq!(kind(old), "InvalidCredentials");
    world.logins.login(EMAIL, "another horse").await.unwrap();

    // Who is shut out is let in by no password.
    world.logins.deactivate(&ann.id).await.unwrap();
    set(&ann.id, "a third horse").await.unwrap();
    let shut_out = world.logins.login(EMAIL, "a third horse").await;
    assert_eq!(kind(shut_out), "InvalidCredentials");
    world.logins.activate(&ann.id).await.unwrap();
    world.logins.login(EMAIL, "a third horse").await.unwrap();
}

/// Whoever has the old one changes it just before, to keep the user out.
#[tokio::test]
async fn a_password_that_is_set_comes_after_one_that_is_changed_meanwhile() {
    let (world, ann) = World::with_ann().await;
    let (store, id) = (Arc::clone(&world.store), ann.id.clone());
    world.store.before_password(move || {
        let stolen = store.change_password(&id, 0, "x".to_owned(), ann.created_at);
        assert!(stolen.now_or_never().unwrap().unwrap());
    });
    world
        .logins
        .set_password(&ann.id, "another horse")
        .await
        .unwrap();
    let user = world.logins.user(&ann.id).await.unwrap().unwrap();
    assert_eq!(user.password_version, 2);
    world.logins.login(EMAIL, "another horse").await.unwrap();
}

#[tokio::test]
async fn another_address_is_one_s_own_and_its_logins_go_on() {
    let (world, ann) = World::with_ann().await;
    let (_, token) = world.login().await;
    world
        .logins
        .register(NewUser::new("bob@example.org", PASSWORD))
        .await
        .unwrap();
    let set = |email| world.logins.set_email(&ann.id, email);
    assert_eq!(kind(set("no address").await), "InvalidEmail");
    assert_eq!(kind(set(" BOB@example.org").await), "EmailTaken");
    let nobody = UserId::new("nobody").unwrap();
    let unknown = world.logins.set_email(&nobody, "new@example.org").await;
    assert_eq!(kind(unknown), "UnknownUser");
    let moved = set(" New@Example.org ").await.unwrap();
    assert_eq!(moved.email, "new@example.org");
    assert_eq!(world.verdict(&token).await, "ok");
    world
        .logins
        .login("new@example.org", PASSWORD)
        .await
        .unwrap();
    let old = world.logins.login(EMAIL, PASSWORD).await;
    assert_eq!(kind(old), "InvalidCredentials");
}
