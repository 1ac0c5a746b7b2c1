//! What a client says first.

/// How every connection of HTTP/2 begins (RFC 9113, 3.4); the head of a frame follows, of the client's settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;

/// The types of TLS records (RFC 8446, 5.1) in which a client says something before anything is encrypted; an alert's is between them.
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;

/// What was heard of it.
#[derive(Default)]
pub(super) enum Greeting {
    #[default]
    Nothing,
    /// So many bytes of HTTP/2's.
    Http2(usize),
    Tls(Records),
}

impl Greeting {
    /// Hears more, and says whether it is enough: all of HTTP/2's greeting, of TLS the first record that is encrypted, or a byte that is
    /// of neither. What speaks HTTP/1.1, or nothing at all, is the server's to judge.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> bool {
        if let (Self::Nothing, Some(first)) = (&self, bytes.first()) {
            *self = match *first {
                HANDSHAKE => Self::Tls(Records::default()),
                _ => Self::Http2(0),
            };
        }
        match self {
            Self::Nothing => false,
            Self::Http2(heard) => is_greeted(heard, bytes),
            Self::Tls(records) => bytes.iter().any(|byte| records.hear(*byte)),
        }
    }
}

fn is_greeted(heard: &mut usize, bytes: &[u8]) -> bool {
    let expected = PREFACE.get(*heard..).unwrap_or_default();
    let is_http2 = bytes.iter().zip(expected).all(|(heard, one)| heard == one);
    *heard = heard.saturating_add(bytes.len());
    !is_http2 || *heard >= PREFACE.len().saturating_add(FRAME_HEAD)
}

/// How far a client has come in a handshake. Nobody but it knows what its first encrypted record is: the end of its handshake, or more.
#[derive(Default)]
pub(super) struct Records {
    /// Of the record's head: its type, two bytes of a version, and its length.
    head: u8,
    /// Of the record itself, once its head is there.
    left: u16,
}

impl Records {
    /// Whether with this byte the handshake is over, or no TLS.
    fn hear(&mut self, byte: u8) -> bool {
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
            assert!(!greeting.hear(first), "{cut}");
            assert!(!greeting.hear(b""), "{cut}");
            assert!(greeting.hear(last), "{cut}");
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
            assert!(Greeting::default().hear(said.as_bytes()), "{said}");
        }
        let mut slow = Greeting::default();
        assert!(!slow.hear(b"P") && slow.hear(b"UT"));
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
            assert!(!greeting.hear(first) && !greeting.hear(last), "{cut}");
            assert!(greeting.hear(&[APPLICATION_DATA]), "{cut}");
        }
        // All at once, or something else where a record should begin.
        for next in [record(APPLICATION_DATA, 9), b"GET /".to_vec(), vec![24]] {
            assert!(Greeting::default().hear(&[hello.clone(), next].concat()));
        }
        assert!(!Greeting::default().hear(&record(HANDSHAKE, u16::MAX)[..60_000]));
    }
}
