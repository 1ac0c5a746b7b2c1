//! The first bytes of a client.

/// The start of every HTTP/2 connection (RFC 9113, 3.4). It is followed by the head of the client's
/// SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;

/// The types of TLS records (RFC 8446, 5.1) that a client sends before anything is encrypted; the
/// type of alerts lies between them.
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;

/// What has arrived of it.
#[derive(Default)]
pub(super) enum Greeting {
    #[default]
    Nothing,
    /// This many bytes of HTTP/2's greeting.
    Http2(usize),
    Tls(Records),
}

impl Greeting {
    /// Takes in more bytes and returns whether they suffice: a complete HTTP/2 greeting, the first
    /// encrypted record of TLS, or a byte that can't be part of either. HTTP/1.1 and anything else
    /// is left to the server.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> bool {
        if let (Self::Nothing, Some(first)) = (&self, bytes.first()) {
            *self = match *first {
                HANDSHAKE => Self::Tls(Records::default()),
                _ => Self::Http2(0),
            };
        }
        match self {
            Self::Nothing => false,
            Self::Http2(received) => is_greeted(received, bytes),
            Self::Tls(records) => bytes.iter().any(|byte| records.receive(*byte)),
        }
    }
}

fn is_greeted(received: &mut usize, bytes: &[u8]) -> bool {
    let expected = PREFACE.get(*received..).unwrap_or_default();
    let is_http2 = bytes
        .iter()
        .zip(expected)
        .all(|(received, one)| received == one);
    *received = received.saturating_add(bytes.len());
    !is_http2 || *received >= PREFACE.len().saturating_add(FRAME_HEAD)
}

/// The progress of a client's TLS handshake. Whether its first encrypted record ends the handshake
/// or carries data can't be seen from outside.
#[derive(Default)]
pub(super) struct Records {
    /// How much of a record's head has arrived: its type, two bytes of a version, and its length.
    head: u8,
    /// How much of the record itself is still to come, once its head is there.
    left: u16,
}

impl Records {
    /// Whether this byte ends the handshake, or shows that this isn't TLS.
    fn receive(&mut self, byte: u8) -> bool {
        match (self.head, self.left) {
            (0, 1..) => self.left = self.left.saturating_sub(1),
            (0, 0) if !matches!(byte, CHANGE_CIPHER_SPEC..=HANDSHAKE) => return true,
            (0..=2, _) => self.head = self.head.saturating_add(1),
            (3, _) => {
                self.left = u16::from(byte) << 8;
                self.head = 4;
            }
            (4.., _) => {
                self.left |= u16::from(byte);
                self.head = 0;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APPLICATION_DATA: u8 = 23;

    #[test]
    fn a_preface_is_half_of_a_greeting() {
        let whole = [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
        for cut in 1..whole.len() {
            let (first, last) = whole.split_at(cut);
            let mut greeting = Greeting::default();
            assert!(!greeting.receive(first), "{cut}");
            assert!(!greeting.receive(b""), "{cut}");
            assert!(greeting.receive(last), "{cut}");
        }
    }

    #[test]
    fn what_speaks_otherwise_has_spoken() {
        for said in [
            "GET /",
            "G",
            "POST / ",
            "PRI * HTTP/1.1",
            "\0",
            "\x17",
            "\x14",
        ] {
            assert!(Greeting::default().receive(said.as_bytes()), "{said}");
        }
        let mut slow = Greeting::default();
        assert!(!slow.receive(b"P") && slow.receive(b"UT"));
    }

    fn record(kind: u8, length: u16) -> Vec<u8> {
        let mut record = vec![kind, 3, 3];
        record.extend(length.to_be_bytes());
        // With bytes in it that are types.
        record.resize(5 + usize::from(length), APPLICATION_DATA);
        record
    }

    #[test]
    fn of_tls_the_handshake_is_no_greeting() {
        let hello = record(HANDSHAKE, 600);
        let plain = [
            hello.clone(),
            record(CHANGE_CIPHER_SPEC, 1),
            record(HANDSHAKE, 0),
        ]
        .concat();
        for cut in 0..plain.len() {
            let (first, last) = plain.split_at(cut);
            let mut greeting = Greeting::default();
            assert!(!greeting.receive(first) && !greeting.receive(last), "{cut}");
            assert!(greeting.receive(&[APPLICATION_DATA]), "{cut}");
        }
        // All at once, or something else where a record should begin.
        for next in [record(APPLICATION_DATA, 9), b"GET /".to_vec(), vec![24]] {
            assert!(Greeting::default().receive(&[hello.clone(), next].concat()));
        }
        assert!(!Greeting::default().receive(&record(HANDSHAKE, u16::MAX)[..60_000]));
    }
}
