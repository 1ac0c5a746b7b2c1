//! The end of a stream, which tells how it ended.

/// An event with an error is found among so many bytes at the end of a stream, if it begins there.
const END_MAX: usize = 2_048;

/// The last bytes of a stream, at least [`END_MAX`] of them if there were so many, in two parts:
/// each byte is copied once at most, and none is moved. How many more are kept depends on how the
/// stream was cut, so they aren't given out.
#[derive(Debug)]
pub(super) struct End {
    before: Vec<u8>,
    last: Vec<u8>,
    is_cut: bool,
}

impl End {
    pub(super) const fn new() -> Self {
        Self {
            before: Vec::new(),
            last: Vec::new(),
            is_cut: false,
        }
    }

    #[inline]
    pub(super) fn keep(&mut self, piece: &[u8]) {
        if self.last.len().saturating_add(piece.len()) > END_MAX {
            self.begin_part(piece);
        } else {
            self.last.extend_from_slice(piece);
        }
    }

    /// Both parts together, and so the last one with the piece, are more than the end.
    #[cold]
    #[inline(never)]
    fn begin_part(&mut self, piece: &[u8]) {
        self.is_cut |= !self.before.is_empty();
        std::mem::swap(&mut self.before, &mut self.last);
        self.last.clear();
        let (cut, end) = piece.split_at(piece.len().saturating_sub(END_MAX));
        if !cut.is_empty() {
            self.is_cut = true;
            self.before.clear();
        }
        self.last.extend_from_slice(end);
    }

    /// The last [`END_MAX`] bytes, or all of a shorter stream.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = [&*self.before, &*self.last].concat();
        bytes.split_off(bytes.len().saturating_sub(END_MAX))
    }

    /// Whether there were more before them.
    pub(super) const fn is_cut(&self) -> bool {
        self.is_cut || self.before.len().saturating_add(self.last.len()) > END_MAX
    }
}
