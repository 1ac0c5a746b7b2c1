//! What a client says first.

/// How every connection of HTTP/2 begins (RFC 9113, 3.4); the head of a frame follows, of the client's settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;

/// What was heard of it.
#[derive(Default)]
pub(super) struct Greeting {
    heard: usize,
}

impl Greeting {
    /// Hears more, and says whether it is enough: all of HTTP/2's greeting, or a byte that isn't of it. What speaks HTTP/1.1, or nothing
    /// at all, is the server's to judge.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> bool {
        let expected = PREFACE.get(self.heard..).unwrap_or_default();
        let is_http2 = bytes.iter().zip(expected).all(|(heard, one)| heard == one);
        self.heard = self.heard.saturating_add(bytes.len());
        !is_http2 || self.heard >= PREFACE.len().saturating_add(FRAME_HEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preface_is_half_of_a_greeting() {
        let whole = [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
        for cut in 1..whole.len() {
            let (first, last) = whole.split_at(cut);
            let mut greeting = Greeting::default();
            assert!(!greeting.hear(first), "{cut}");
            assert!(!greeting.hear(b""), "{cut}");
            assert!(greeting.hear(last), "{cut}");
        }
    }

    #[test]
    fn what_speaks_otherwise_has_spoken() {
        for said in ["GET /", "G", "POST / ", "PRI * HTTP/1.1", "\0"] {
            assert!(Greeting::default().hear(said.as_bytes()), "{said}");
        }
        let mut slow = Greeting::default();
        assert!(!slow.hear(b"P") && slow.hear(b"UT"));
    }
}
