//! The keys file: hashes only, whole at any time, and shared.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use tokio::time::{sleep, timeout};

use super::{ask, cookie::Cookie, home, launch, make_key, refused, support::Server};

/// Within a second, as an edit of the file has to be.
async fn becomes(server: &Server, key: &str, status: u16) {
    let changed = async {
        while ask(server).key(key).send().await.status != status {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_millis(1_500), changed)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_file_holds_hashes_and_outlives_the_server() {
    let home = home();
    let server = launch(&home).start().await;
    let session = Cookie::of("ann");
    let key = make_key(&server, &session).await["key"]
        .as_str()
        .unwrap()
        .to_owned();
    ask(&server).key(&key).send().await.expect(200);
    let path = home.path().join("workspaces/api-keys.json");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let ended = server.stop().await;
    ended.without_panic();
    let content = fs::read_to_string(&path).unwrap();
    assert!(content.contains("sha256:") && content.contains("last_used_at"));
    for secret in [key.as_str(), &key[3..20]] {
        assert!(!content.contains(secret) && !ended.stderr.contains(secret));
    }
    let server = launch(&home).start().await;
    ask(&server).key(&key).send().await.expect(200);
    server.kill().await;
    let server = launch(&home).start().await;
    ask(&server).key(&key).send().await.expect(200);
}

#[tokio::test]
async fn two_servers_share_the_file_and_lose_nothing() {
    let home = home();
    let (one, two) = (launch(&home).start().await, launch(&home).start().await);
    let session = Cookie::of("ann");
    let mut keys = Vec::new();
    for _ in 0..10 {
        let (first, second) = tokio::join!(make_key(&one, &session), make_key(&two, &session));
        keys.extend([first, second]);
    }
    for server in [&one, &two] {
        for key in &keys {
            becomes(server, key["key"].as_str().unwrap(), 200).await;
        }
    }
    let listed = session.on(one.get("/api/keys")).send().await.json();
    assert_eq!(listed.as_array().unwrap().len(), 20);
    let gone = &keys[3];
    let path = format!("/api/keys/{}", gone["id"].as_str().unwrap());
    session.on(one.delete(&path)).send().await.expect(204);
    becomes(&two, gone["key"].as_str().unwrap(), 401).await;
}

#[tokio::test]
async fn an_edit_by_hand_counts_and_a_removed_file_ends_its_keys() {
    let home = home();
    let path = home.path().join("elsewhere.json");
    let launch = |home| launch(home).env("API_KEYS_FILE", "elsewhere.json");
    let server = launch(&home).start().await;
    let key = make_key(&server, &Cookie::of("ann")).await["key"]
        .as_str()
        .unwrap()
        .to_owned();
    ask(&server).key(&key).send().await.expect(200);
    let content = fs::read_to_string(&path).unwrap();
    let emptied = r#"{"version":1,"keys":[]}"#;
    fs::write(&path, emptied).unwrap();
    becomes(&server, &key, 401).await;
    fs::write(&path, &content).unwrap();
    becomes(&server, &key, 200).await;
    fs::write(&path, "{ broken").unwrap();
    becomes(&server, &key, 503).await;
    ask(&server)
        .key("client-key-1")
        .send()
        .await
        .refusal(&[503]);
    // Whose a key is can't be said then where there is nothing, either.
    let nowhere = || server.get("/nope");
    nowhere().key(&key).send().await.refusal(&[503]);
    nowhere().send().await.refusal(&[404]);
    let session = Cookie::of("ann").on(nowhere());
    session.send().await.refusal(&[404]);
    fs::write(&path, &content).unwrap();
    becomes(&server, &key, 200).await;
    fs::remove_file(&path).unwrap();
    becomes(&server, &key, 401).await;
    refused(&ask(&server).key(&key).send().await, 401, "Invalid API key");
    ask(&server).key("client-key-1").send().await.expect(200);
}
