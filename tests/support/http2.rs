//! Calls over one connection of HTTP/2, of which a server may spoil all that follows.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response, header::CONTENT_LENGTH};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

pub(crate) struct Http2 {
    address: SocketAddr,
    client: SendRequest<Empty<Bytes>>,
}

impl Http2 {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("it listens");
        let client = Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream));
        let (client, connection) = client.await.expect("HTTP/2");
        tokio::spawn(connection);
        Self { address, client }
    }

    pub(crate) async fn call(
        &mut self,
        method: Method,
        path: &str,
        lines: &[(&str, &str)],
    ) -> Response<Bytes> {
        let target = format!("http://{}{path}", self.address);
        let request = Request::builder().method(method).uri(target);
        let request = lines.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        let request = request.body(Empty::new()).expect("a request");
        let (head, body) = self
            .client
            .send_request(request)
            .await
            .expect("an answer")
            .into_parts();
        let body = body.collect().await.expect("nothing that wasn't asked for");
        Response::from_parts(head, body.to_bytes())
    }

    /// HEAD is answered as GET is, but for the content (RFC 9110, 9.3.2).
    pub(crate) async fn head_is_get_without_content(
        &mut self,
        path: &str,
        lines: &[(&str, &str)],
    ) -> Response<Bytes> {
        let head = self.call(Method::HEAD, path, lines).await;
        let get = self.call(Method::GET, path, lines).await;
        assert_eq!(head.status(), get.status(), "{path}");
        assert_eq!(head.body(), "", "{path}");
        let length = |answer: &Response<Bytes>| answer.headers().get(CONTENT_LENGTH).cloned();
        assert_eq!(length(&head), length(&get), "{path}");
        assert_eq!(length(&get), Some(get.body().len().into()), "{path}");
        head
    }
}
