//! The outcome of a gRPC-Web call, which is at the end of its body (gRPC-Web, "Protocol differences
//! vs gRPC over HTTP2"): read in passing, without keeping the body.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderMap;
use smallvec::SmallVec;

use super::Dialect;
use crate::wire::encoding::is_encoded;

/// The start of a frame: a byte of flags, and the length.
const HEAD: usize = 5;
/// The flags of a frame with trailers instead of a message, and of a compressed one.
const IS_TRAILERS: u8 = 0x80;
const IS_COMPRESSED: u8 = 0x01;
/// How much of a line is looked at; no line with a status is longer.
const LINE_MAX: usize = 32;
const STATUS: &[u8] = b"grpc-status";
/// How much text is decoded at once: whole groups.
const TEXT_AT_ONCE: usize = 1_024;
const GROUP: usize = 4;

/// Reads one body.
#[derive(Debug)]
pub(super) struct WebStatus {
    frames: Frames,
    /// For a Base64 body: the bytes of the current group so far.
    text: Option<SmallVec<[u8; GROUP]>>,
}

impl WebStatus {
    /// The reader for an answer with these headers; `None`: its body has no status.
    pub(super) fn for_body(headers: &HeaderMap) -> Option<Self> {
        let text = match Dialect::of(headers) {
            Dialect::Http | Dialect::Grpc => return None,
            Dialect::Web => None,
            Dialect::WebText => Some(SmallVec::new()),
        };
        (!is_encoded(headers)).then(|| Self {
            frames: Frames::default(),
            text,
        })
    }

    /// Reads on.
    pub(super) fn feed(&mut self, piece: &[u8]) {
        match &mut self.text {
            None => self.frames.feed(piece),
            Some(group) => {
                if decode(group, piece, |bytes| self.frames.feed(bytes)).is_none() {
                    self.frames.at = At::Lost;
                }
            }
        }
    }

    /// Whether the call has failed, as far as the body was read.
    pub(super) fn has_failed(&self) -> bool {
        self.frames.failed
    }

    /// Whether a message went out.
    pub(super) fn has_delivered(&self) -> bool {
        self.frames.delivered
    }
}

/// Decodes whole groups. Padding may follow any of them: a body may consist of separately encoded
/// parts.
fn decode(
    group: &mut SmallVec<[u8; GROUP]>,
    piece: &[u8],
    mut each: impl FnMut(&[u8]),
) -> Option<()> {
    let missing = GROUP.saturating_sub(group.len()).checked_rem(GROUP)?;
    let (first, rest) = piece.split_at(missing.min(piece.len()));
    group.extend_from_slice(first);
    if group.len() == GROUP {
        decode_groups(group, &mut each)?;
        group.clear();
    }
    let (groups, rest) = rest.as_chunks::<GROUP>();
    for groups in groups.as_flattened().chunks(TEXT_AT_ONCE) {
        decode_groups(groups, &mut each)?;
    }
    group.extend_from_slice(rest);
    Some(())
}

fn decode_groups(mut groups: &[u8], each: &mut impl FnMut(&[u8])) -> Option<()> {
    let mut bytes = [0; TEXT_AT_ONCE];
    while !groups.is_empty() {
        let padding = groups.iter().position(|&one| one == b'=');
        let end = padding.map_or(groups.len(), |at| {
            at.saturating_add(1).next_multiple_of(GROUP)
        });
        let (padded, rest) = groups.split_at_checked(end)?;
        let length = STANDARD.decode_slice(padded, &mut bytes).ok()?;
        each(bytes.get(..length)?);
        groups = rest;
    }
    Some(())
}

/// Frames, one after the other.
#[derive(Debug, Default)]
struct Frames {
    at: At,
    delivered: bool,
    failed: bool,
}

#[derive(Debug)]
enum At {
    Head(SmallVec<[u8; HEAD]>),
    Message {
        left: usize,
    },
    Trailers {
        left: usize,
        line: Line,
    },
    /// Within something that can't be parsed.
    Lost,
}

impl Default for At {
    fn default() -> Self {
        Self::Head(SmallVec::new())
    }
}

impl Frames {
    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let wanted = match &self.at {
                At::Head(head) => HEAD.saturating_sub(head.len()),
                At::Message { left } | At::Trailers { left, .. } => *left,
                At::Lost => return,
            };
            let (part, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            self.take(part);
        }
    }

    /// Takes at most what is left of the current part.
    fn take(&mut self, part: &[u8]) {
        let is_over = match &mut self.at {
            At::Head(head) => {
                head.extend_from_slice(part);
                if head.len() == HEAD {
                    self.begin();
                }
                return;
            }
            At::Message { left } => {
                *left = left.saturating_sub(part.len());
                *left == 0
            }
            At::Trailers { left, line } => {
                *left = left.saturating_sub(part.len());
                for &byte in part {
                    self.failed |= line.take(byte);
                }
                let is_over = *left == 0;
                // The last line needs no line end.
                self.failed |= is_over && line.take(b'\n');
                is_over
            }
            At::Lost => false,
        };
        if is_over {
            self.at = At::default();
        }
    }

    /// Begins what the head announces.
    fn begin(&mut self) {
        let At::Head(head) = std::mem::take(&mut self.at) else {
            return;
        };
        let [flags, length @ ..] = head.as_slice() else {
            return;
        };
        let length = <[u8; 4]>::try_from(length).map(u32::from_be_bytes);
        let Some(left) = length.ok().and_then(|length| usize::try_from(length).ok()) else {
            self.at = At::Lost;
            return;
        };
        let is_trailers = flags & IS_TRAILERS != 0;
        self.delivered |= !is_trailers;
        self.at = match (is_trailers, left) {
            (_, 0) => At::default(),
            (false, left) => At::Message { left },
            (true, _) if flags & IS_COMPRESSED != 0 => At::Lost,
            (true, left) => At::Trailers {
                left,
                line: Line::default(),
            },
        };
    }
}

/// A line of trailers, written like an HTTP/1.1 header.
#[derive(Debug, Default)]
struct Line(SmallVec<[u8; LINE_MAX]>);

impl Line {
    /// Whether the line ends with this byte, and gives a status that is a failure.
    fn take(&mut self, byte: u8) -> bool {
        if byte != b'\n' {
            if self.0.len() < LINE_MAX {
                self.0.push(byte);
            }
            return false;
        }
        let colon = self.0.iter().position(|&byte| byte == b':');
        let field = colon.and_then(|colon| self.0.split_at_checked(colon));
        let failed = field.is_some_and(|(name, value)| {
            let value = value.strip_prefix(b":").unwrap_or_default();
            name.trim_ascii().eq_ignore_ascii_case(STATUS) && value.trim_ascii() != b"0"
        });
        self.0.clear();
        failed
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header::CONTENT_TYPE};

    use super::*;

    fn reader(media_type: &'static str) -> WebStatus {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        WebStatus::for_body(&headers).unwrap()
    }

    fn frame(flags: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap();
        [&[flags], length.to_be_bytes().as_slice(), content].concat()
    }

    /// A message, if there is one, and trailers.
    fn body(message: Option<&[u8]>, trailers: &str) -> Vec<u8> {
        let message = message.map(|message| frame(0, message));
        [
            message.unwrap_or_default(),
            frame(0x80, trailers.as_bytes()),
        ]
        .concat()
    }

    /// Reads a body in pieces of this size: whether it failed, and whether something was delivered.
    fn read(reader: &mut WebStatus, body: &[u8], size: usize) -> (bool, bool) {
        for piece in body.chunks(size) {
            reader.feed(piece);
        }
        (reader.has_failed(), reader.has_delivered())
    }

    #[test]
    fn a_body_says_at_its_end_how_the_call_went() {
        // A message that looks like trailers isn't trailers.
        let lying = frame(0x80, b"grpc-status:13\r\n");
        for (message, trailers, expected) in [
            (
                Some(b"hello".as_slice()),
                "grpc-status:0\r\n",
                (false, true),
            ),
            (Some(&lying), "grpc-status: 0\r\n", (false, true)),
            (Some(b""), "grpc-status:13\r\n", (true, true)),
            (Some(b"hello"), "grpc-status:13", (true, true)),
            (
                Some(b"hello"),
                "grpc-message:grpc-status:0\r\nGRPC-Status : 7\r\n",
                (true, true),
            ),
            (
                None,
                "grpc-message:a long one that is longer than any line with a status\r\ngrpc-status:7\r\n",
                (true, false),
            ),
            (
                None,
                "grpc-status:0\r\ngrpc-message:grpc-status:5\r\n",
                (false, false),
            ),
            (None, "x-grpc-status:5\r\nGrpc-Status:16\n", (true, false)),
            (None, "", (false, false)),
        ] {
            let body = body(message, trailers);
            let text = STANDARD.encode(&body);
            for size in 1..=body.len() {
                let binary = read(&mut reader("application/grpc-web+proto"), &body, size);
                assert_eq!(binary, expected, "{trailers} in pieces of {size}");
                let encoded = read(
                    &mut reader("application/grpc-web-text"),
                    text.as_bytes(),
                    size,
                );
                assert_eq!(encoded, expected, "{trailers} in text of {size}");
            }
        }
    }

    #[test]
    fn text_may_be_encoded_part_by_part() {
        let (message, trailers) = (frame(0, &[7; 3_000]), frame(0x80, b"grpc-status:8\r\n"));
        let text: String = message
            .chunks(1_000)
            .chain(trailers.chunks(4))
            .map(|part| STANDARD.encode(part))
            .collect();
        for size in [1, 3, 4, 1_000, 1_024, 1_025, 10_000] {
            let mut reader = reader("application/grpc-web-text+proto");
            assert_eq!(
                read(&mut reader, text.as_bytes(), size),
                (true, true),
                "{size}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_has_not_failed() {
        let failed = body(None, "grpc-status:13\r\n");
        let no_text = [b"?".as_slice(), STANDARD.encode(&failed).as_bytes()].concat();
        assert!(!read(&mut reader("application/grpc-web-text"), &no_text, 7).0);
        let compressed = frame(0x81, b"grpc-status:13\r\n");
        assert!(!read(&mut reader("application/grpc-web"), &compressed, 7).0);
        let mut short = failed;
        short.truncate(12);
        assert!(!read(&mut reader("application/grpc-web"), &short, 7).0);
    }

    #[test]
    fn bodies_of_grpc_web_alone_are_read() {
        let mut headers = HeaderMap::new();
        assert!(WebStatus::for_body(&headers).is_none());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        assert!(WebStatus::for_body(&headers).is_none());
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/grpc-web"),
        );
        assert!(WebStatus::for_body(&headers).is_some());
        headers.insert("content-encoding", HeaderValue::from_static("gzip"));
        assert!(WebStatus::for_body(&headers).is_none());
    }
}
