//! Connections that are encrypted, with certificates on both sides.

use super::*;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/grpc/certificates");

fn file(name: &str) -> String {
    std::fs::read_to_string(format!("{FOLDER}/{name}")).unwrap()
}

/// Wants a certificate of its clients.
fn start(more: &[&str]) -> Option<RedisServer> {
    let [ca, certificate, key] =
        ["ca.pem", "server.pem", "server.key"].map(|name| format!("{FOLDER}/{name}"));
    let mut arguments = vec!["--port", "0", "--tls-port", "{port}"];
    arguments.extend(["--tls-ca-cert-file", &ca, "--tls-auth-clients", "yes"]);
    arguments.extend(["--tls-cert-file", &certificate, "--tls-key-file", &key]);
    arguments.extend(more);
    RedisServer::start_with(&arguments)
}

fn url(server: &RedisServer, host: &str) -> String {
    format!("rediss://{host}:{}/", server.port())
}

fn trusted(client: RedisClient) -> RedisClient {
    let client = client.certificate_authority(file("ca.pem"));
    client.client_certificate(file("client.pem"), file("client.key"))
}

async fn limiter(client: RedisClient) -> Result<RedisRateLimiter, StoreError> {
    let limiter = RedisRateLimiter::builder(client)
        .deadline(Duration::from_secs(20))
        .build()?;
    limiter.connect().await?;
    Ok(limiter)
}

async fn counts(limiter: &RedisRateLimiter) {
    let quotas = Quotas::from(Quota::per_hour(10));
    let taken = limiter.take(&key("ann"), &quotas, 1).await.unwrap();
    assert_eq!(taken.readings.remaining(), 9);
    assert_eq!(limiter.statistics().failures, 0);
}

#[tokio::test]
async fn who_shows_the_right_certificate_is_let_in_and_nobody_else_is_trusted() {
    let Some(server) = start(&[]) else {
        return;
    };
    let here = RedisClient::new(url(&server, "localhost"));
    counts(&limiter(trusted(here.clone())).await.unwrap()).await;

    let authority = || here.clone().certificate_authority(file("ca.pem"));
    let strangers = [
        ("no certificate of its own", authority()),
        (
            "one that nobody signed",
            authority().client_certificate(file("ca.pem"), file("client.key")),
        ),
        (
            "another authority",
            here.clone()
                .client_certificate(file("client.pem"), file("client.key")),
        ),
        (
            "another name",
            trusted(RedisClient::new(url(&server, "127.0.0.1"))),
        ),
    ];
    for (why, client) in strangers {
        let error = limiter(client).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{why}");
    }
}

#[test]
fn certificates_that_are_none_or_would_not_be_used_are_refused() {
    let here = || RedisClient::new("rediss://localhost/");
    let nonsense = [
        here().certificate_authority("no certificate"),
        here().certificate_authority(file("client.key")),
        here().client_certificate(file("client.pem"), "no key"),
        trusted(RedisClient::new("redis://localhost/")),
        trusted(RedisClient::sentinel(
            "rediss://main/",
            ["redis://localhost/"],
        )),
    ];
    for client in nonsense {
        assert!(!format!("{client:?}").contains("BEGIN"));
        let error = RedisRateLimiter::builder(client).build().unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Refused);
        assert!(!format!("{error} {error:?}").contains("BEGIN"));
    }
}

#[cfg(feature = "redis-cluster")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_are_the_connections_to_a_cluster() {
    let cluster = ["--cluster-enabled", "yes", "--tls-cluster", "yes"];
    let names = [
        "--cluster-announce-hostname",
        "localhost",
        "--cluster-preferred-endpoint-type",
        "hostname",
    ];
    let Some(server) = start(&[&cluster[..], &names[..]].concat()) else {
        return;
    };
    let here = url(&server, "localhost");
    let client = trusted(RedisClient::cluster([here.as_str()]));
    let direct = trusted(RedisClient::new(here.clone()));
    let servers = direct.servers(DEADLINE).unwrap();
    let mut join = redis::cmd("CLUSTER");
    join.arg("ADDSLOTSRANGE").arg(0).arg(16_383);
    let resend = crate::store::redis::connections::Resend::Never;
    servers.order::<()>(&[0; 16], &join, resend).await.unwrap();
    let limiter = loop {
        if let Ok(limiter) = limiter(client.clone()).await {
            break limiter;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    counts(&limiter).await;
    let stranger = RedisClient::cluster([here.as_str()]).certificate_authority(file("ca.pem"));
    assert!(self::limiter(stranger).await.is_err());
}
