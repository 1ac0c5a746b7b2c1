//! Requests written byte by byte, for what an HTTP client would put right before sending it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{Answer, Client};

const ANSWERED_WITHIN: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// One request on a connection of its own.
#[derive(Debug)]
pub(crate) struct RawCall {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl RawCall {
    /// `target` goes into the request line as it is.
    pub(crate) fn new(method: &str, target: &str) -> Self {
        let head =
            format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        Self {
            head: head.into_bytes(),
            body: Vec::new(),
        }
    }

    /// One header line, without its end.
    pub(crate) fn line(mut self, line: impl AsRef<[u8]>) -> Self {
        self.head.extend_from_slice(line.as_ref());
        self.head.extend_from_slice(b"\r\n");
        self
    }

    /// A body with its length.
    pub(crate) fn body(self, body: &[u8]) -> Self {
        self.line(format!("content-length: {}", body.len()))
            .sent_as(body)
    }

    /// A body whose framing the lines have already told.
    pub(crate) fn sent_as(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    /// `None` when the server closed the connection without an answer.
    pub(crate) async fn attempt(self, client: &Client) -> Option<Answer> {
        let mut request = self.head;
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(&self.body);

        let stream = TcpStream::connect(client.address)
            .await
            .expect("the server listens");
        let (reader, mut writer) = stream.into_split();
        let mut answer = Vec::new();
        let exchange = async {
            let mut reader = reader.take(ANSWER_BYTES_MAX);
            // A server that has refused may close before it has read everything.
            let (_, _) = tokio::join!(
                async {
                    let written = writer.write_all(&request).await;
                    (written, writer.flush().await)
                },
                reader.read_to_end(&mut answer),
            );
        };
        timeout(ANSWERED_WITHIN, exchange)
            .await
            .expect("an answer or a closed connection");
        parse(&answer)
    }

    pub(crate) async fn send(self, client: &Client) -> Answer {
        self.attempt(client).await.expect("an answer")
    }
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = answer.split_at(end);
    let body = &body[4..];
    let head = std::str::from_utf8(head).expect("an ASCII head");
    let mut lines = head.split("\r\n");
    let status = lines
        .next()?
        .split(' ')
        .nth(1)?
        .parse::<StatusCode>()
        .ok()?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').expect("name: value");
        let name = name.parse::<HeaderName>().expect("a header name");
        headers.append(
            name,
            HeaderValue::from_str(value.trim()).expect("a header value"),
        );
    }
    let is_chunked = headers
        .get("transfer-encoding")
        .is_some_and(|value| value == "chunked");
    let body = if is_chunked {
        joined(body)
    } else {
        body.to_vec()
    };
    Some(Answer {
        status,
        headers,
        body: Bytes::from(body),
    })
}

/// The content of complete chunks.
pub(crate) fn joined(mut chunks: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(end) = chunks.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&chunks[..end]).expect("a chunk size");
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk size");
        let rest = &chunks[end + 2..];
        let Some((chunk, rest)) = rest.split_at_checked(size) else {
            break;
        };
        content.extend_from_slice(chunk);
        let Some(rest) = rest.strip_prefix(b"\r\n") else {
            break;
        };
        chunks = rest;
    }
    content
}

/// Writes the start of something on a connection and then nothing, and waits until the server ends
/// it: what it said.
pub(crate) async fn silent(client: &Client, start: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(client.address)
        .await
        .expect("the server listens");
    stream.write_all(start).await.expect("it takes that much");
    let mut said = Vec::new();
    // A reset is an end too.
    let _ = timeout(ANSWERED_WITHIN, stream.read_to_end(&mut said))
        .await
        .expect("the end of the connection");
    said
}
