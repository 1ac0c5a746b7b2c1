//! From where keys may come.

use super::{ADMIN, ask, cookie::Cookie, home, launch, refused};

const REFUSED: &str = "Access denied from this IP address";

#[tokio::test]
async fn the_address_is_looked_at_before_the_key_and_for_keys_alone() {
    let home = home();
    let server = launch(&home)
        .env("ALLOWED_IPS", "192.168.1.100,10.0.0.0/8")
        .start()
        .await;
    for key in ["client-key-1", ADMIN, "no-such-key"] {
        refused(&ask(&server).key(key).send().await, 403, REFUSED);
        refused(&ask(&server).bearer(key).send().await, 403, REFUSED);
    }
    Cookie::of("ann").on(ask(&server)).send().await.expect(200);
    refused(&ask(&server).send().await, 401, "Invalid API key");
    // The peer is no proxy of ours: what it says of others counts for nothing.
    for name in ["x-forwarded-for", "x-real-ip", "forwarded"] {
        let value = if name == "forwarded" {
            "for=10.0.0.1"
        } else {
            "10.0.0.1"
        };
        let call = ask(&server).key("client-key-1").header(name, value);
        refused(&call.send().await, 403, REFUSED);
    }
}

#[tokio::test]
async fn a_trusted_proxy_speaks_for_its_client() {
    let home = home();
    let server = launch(&home)
        .env("ALLOWED_IPS", "10.0.0.50, 2001:db8::/32")
        .env("TRUSTED_PROXIES", "127.0.0.1")
        .start()
        .await;
    let from = |lines: &[(&str, &str)]| {
        let call = ask(&server).key("client-key-1");
        lines
            .iter()
            .fold(call, |call, (name, value)| call.header(name, value))
            .send()
    };
    for lines in [
        [("x-forwarded-for", "10.0.0.50")].as_slice(),
        &[("x-forwarded-for", "6.6.6.6, 10.0.0.50")],
        &[
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "2001:db8::7"),
        ],
        &[("x-real-ip", "10.0.0.50")],
        &[("x-forwarded-for", "10.0.0.50"), ("x-real-ip", "6.6.6.6")],
    ] {
        from(lines).await.expect(200);
    }
    for lines in [
        [].as_slice(),
        &[("x-forwarded-for", "10.0.0.50, 6.6.6.6")],
        &[("x-real-ip", "6.6.6.6")],
        &[("x-forwarded-for", "6.6.6.6"), ("x-real-ip", "10.0.0.50")],
    ] {
        refused(&from(lines).await, 403, REFUSED);
    }
    for garbage in ["unknown", "10.0.0.50, _obf", ""] {
        from(&[("x-forwarded-for", garbage)])
            .await
            .refusal(&[400, 403]);
    }
}

#[tokio::test]
async fn a_star_allows_everybody() {
    for allowed in ["*", "", " 127.0.0.0/8 , ::1"] {
        let home = home();
        let server = launch(&home).env("ALLOWED_IPS", allowed).start().await;
        ask(&server).key("client-key-1").send().await.expect(200);
    }
}
