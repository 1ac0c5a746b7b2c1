//! From where a key may be used.

use serde_json::json;

use crate::support::{Account, home};

#[tokio::test]
async fn a_key_is_good_at_its_addresses_only() {
    let home = home();
    let server = home.start().await;
    let (account, _) = Account::with_money(&server, "1").await;
    let here = [
        json!(["127.0.0.1"]),
        json!(["127.0.0.0/8"]),
        json!(["127.0.0.1/32"]),
        json!(["192.0.2.1", "127.0.0.1"]),
        json!(["0.0.0.0/0"]),
        json!(["2001:db8::/32", "127.0.0.0/24"]),
    ];
    for allowed in here {
        let key = account
            .key_with(&server, json!({"allowed_ips": allowed}))
            .await;
        key.health(&server).await.expect(200);
    }
    let elsewhere = [
        json!(["192.0.2.1"]),
        json!(["192.0.2.0/24", "10.0.0.0/8"]),
        json!(["127.0.0.2"]),
        json!(["127.0.1.0/24"]),
        json!(["::1"]),
        json!(["2001:db8::/32"]),
    ];
    for allowed in elsewhere {
        let key = account
            .key_with(&server, json!({"allowed_ips": allowed}))
            .await;
        key.health(&server).await.access_denied();
        key.chat(&server, "Hello!").send().await.access_denied();
    }
    assert_eq!(account.settled(&server).await, 1_000_000_000);
    server.stop().await.without_panic();
}

#[tokio::test]
async fn addresses_outlive_the_server() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let here = account
        .key_with(&server, json!({"allowed_ips": ["127.0.0.0/8"]}))
        .await;
    let far = account
        .key_with(&server, json!({"allowed_ips": ["192.0.2.1"]}))
        .await;
    server.stop().await.without_panic();
    let server = home.start().await;
    here.health(&server).await.expect(200);
    far.health(&server).await.access_denied();
}

#[tokio::test]
async fn what_is_no_address_is_refused() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let bad = [
        json!(["not an address"]),
        json!(["10.0.0.0/33"]),
        json!(["10.0.0.0/-1"]),
        json!(["10.0.0.0/"]),
        json!(["10.0.0"]),
        json!(["256.0.0.1"]),
        json!(["127.0.0.1", "nonsense"]),
        json!(["::/129"]),
        json!(["*"]),
        json!([""]),
        json!([1]),
        json!([null]),
        json!("127.0.0.1"),
        json!({"ip": "127.0.0.1"}),
        json!(7),
    ];
    for allowed in bad {
        let body = json!({"name": "x", "allowed_ips": allowed});
        let call = server.post("/api/keys").bearer(&account.token).json(&body);
        call.send().await.refused(&[400, 422]);
    }
    assert!(account.keys(&server).await.is_empty());
}

#[tokio::test]
async fn nobody_is_believed_about_an_address_unless_named() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let far = account
        .key_with(&server, json!({"allowed_ips": ["192.0.2.1"]}))
        .await;
    let forwarded = [
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-for", "192.0.2.1, 127.0.0.1"),
        ("x-real-ip", "192.0.2.1"),
        ("forwarded", "for=192.0.2.1"),
        ("true-client-ip", "192.0.2.1"),
        ("cf-connecting-ip", "192.0.2.1"),
    ];
    for (name, value) in forwarded {
        let call = server
            .get("/api/hub/health")
            .key(&far.value)
            .header(name, value);
        call.send().await.access_denied();
    }
    server.stop().await.without_panic();

    let server = home
        .launch()
        .env("TRUSTED_PROXIES", "10.0.0.0/8,127.0.0.0/8")
        .start()
        .await;
    far.health(&server).await.access_denied();
    let from = |chain| {
        server
            .get("/api/hub/health")
            .key(&far.value)
            .header("x-forwarded-for", chain)
    };
    from("192.0.2.1").send().await.expect(200);
    from("192.0.2.1, 10.1.2.3").send().await.expect(200);
    from("192.0.2.2").send().await.access_denied();
    // Only the last hop that no proxy of ours added counts: what is left of it is hearsay.
    from("192.0.2.1, 192.0.2.2").send().await.access_denied();
    let garbage = from("192.0.2.1, garbage").send().await;
    assert!(garbage.status.is_client_error(), "{garbage:?}");
}
