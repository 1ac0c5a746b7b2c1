//! HTTP/2, where a server's slips end a client's connection.

use super::{ADMIN, home, launch, support::Http2};

#[tokio::test]
async fn head_is_answered_without_content() {
    let home = home();
    let server = launch(&home).start().await;
    let mut client = Http2::connect(server.address).await;
    let with_key = [("x-api-key", ADMIN)];
    for (path, lines, status) in [
        ("/", [].as_slice(), 404),
        ("/api/nowhere", &with_key, 404),
        ("/api/ask", &with_key, 405),
        ("/api/admin/stats", &[], 401),
        ("/api/admin/stats", &with_key, 200),
    ] {
        let answer = client.head_is_get_without_content(path, lines).await;
        assert_eq!(answer.status(), status, "{path}");
    }
}
