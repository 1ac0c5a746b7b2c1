//! How much of one event is output, once its shape is known.

use super::envelope::{Told, Value};

/// What the current event has so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// All of it. This counts unless it is an event in a shape that is known.
    pub(super) bytes: u64,
    output: u64,
    /// What may repeat the request.
    undecided: u64,
    /// What repeats all output.
    whole: u64,
    /// The current name.
    pub(super) name: u64,
    pub(super) is_known: bool,
    pub(super) is_broken: bool,
    pub(super) told: Told,
}

impl Part {
    pub(super) const fn new() -> Self {
        Self {
            bytes: 0,
            output: 0,
            undecided: 0,
            whole: 0,
            name: 0,
            is_known: false,
            is_broken: false,
            told: Told::Nothing,
        }
    }

    /// How much there was with it, of so much before.
    pub(super) fn with(&self, before: u64) -> u64 {
        if self.is_broken || !self.is_known {
            return before.saturating_add(self.bytes);
        }
        let output = self.output.saturating_add(self.name);
        match self.told {
            Told::Again => before.max(output.saturating_add(self.whole)),
            Told::Response => before.saturating_add(output).max(self.whole),
            Told::Nothing | Told::Shape => {
                let output = output.saturating_add(self.undecided);
                before.saturating_add(output).saturating_add(self.whole)
            }
        }
    }

    pub(super) fn count(&mut self, value: Value, bytes: u64) {
        let counter = match value {
            Value::Wrapping => return,
            Value::Output => &mut self.output,
            Value::Undecided => &mut self.undecided,
            Value::Whole => &mut self.whole,
            Value::Name => &mut self.name,
        };
        *counter = counter.saturating_add(bytes);
    }
}
