//! What may be a name: what people read in lists, logs and terminals.

use serde_json::json;

use crate::support::{Account, home};

#[tokio::test]
async fn a_name_is_short_and_has_no_control_characters() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let (long, megabyte) = ("n".repeat(256), "n".repeat(1_000_000));
    for name in ["a\u{1b}[2Jb", "a\nb", "\0", "a\u{85}b", &long, &megabyte] {
        let call = server.post("/api/keys").bearer(&account.token);
        let refused = call.json(&json!({ "name": name })).send().await;
        let message = refused.refused(&[422]).json()["message"].to_string();
        assert!(message.contains("name: "), "{message}");
    }
    assert!(account.keys(&server).await.is_empty(), "none is stored");

    let register = async |name: &str| {
        let user = json!({
            "email": "ann@example.com", "password": "Password 123!", "username": name,
        });
        server.post("/api/auth/register").json(&user).send().await
    };
    let long = "n".repeat(201);
    for name in ["", " ", "a\u{1b}[2Jb", "a\nb", &long] {
        let refused = register(name).await.refused(&[422]);
        assert_eq!(
            refused.json()["message"],
            "username: 1 to 200 characters, none of them a control character"
        );
    }
    register(&megabyte).await.refused(&[413]);
    let user = register(" Ann Smith ").await.expect(201).json();
    assert_eq!(user["username"], "Ann Smith");
    server.stop().await.without_panic();
}
