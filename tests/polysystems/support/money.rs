//! Money as the server writes it: decimal text, read without a float.

use std::collections::BTreeMap;

use serde_json::{Value, value::RawValue};

use super::Answer;

/// Nano-dollars from the text of a JSON number of dollars.
#[track_caller]
pub(crate) fn nanos(text: &str) -> i64 {
    let (sign, digits) = text
        .strip_prefix('-')
        .map_or(("", text), |rest| ("-", rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_plain = [whole, fraction]
        .concat()
        .bytes()
        .all(|byte| byte.is_ascii_digit());
    assert!(
        is_plain && !whole.is_empty() && fraction.len() <= 9,
        "not a plain number of dollars: {text}"
    );
    format!("{sign}{whole}{fraction:0<9}")
        .parse()
        .expect("an amount that fits")
}

/// A JSON object whose numbers keep their text.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    members: BTreeMap<String, Box<RawValue>>,
}

impl Row {
    #[track_caller]
    fn read(text: &str) -> Self {
        let members = serde_json::from_str(text)
            .unwrap_or_else(|error| panic!("{error}: an object expected, not {text}"));
        Self { members }
    }

    #[track_caller]
    fn raw(&self, name: &str) -> &str {
        self.members
            .get(name)
            .unwrap_or_else(|| panic!("no `{name}` in {self:?}"))
            .get()
    }

    #[track_caller]
    pub(crate) fn money(&self, name: &str) -> i64 {
        nanos(self.raw(name))
    }

    #[track_caller]
    pub(crate) fn value(&self, name: &str) -> Value {
        serde_json::from_str(self.raw(name)).expect("JSON within JSON")
    }

    #[track_caller]
    pub(crate) fn text(&self, name: &str) -> String {
        self.value(name)
            .as_str()
            .unwrap_or_else(|| panic!("`{name}` is no text"))
            .to_owned()
    }

    /// Whether any member is exactly this text.
    pub(crate) fn says(&self, text: &str) -> bool {
        let quoted = Value::from(text).to_string();
        self.members.values().any(|value| value.get() == quoted)
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &str)> {
        self.members
            .iter()
            .map(|(name, value)| (name.as_str(), value.get()))
    }
}

impl Answer {
    /// The answer as one object.
    #[track_caller]
    pub(crate) fn row(&self) -> Row {
        Row::read(self.text())
    }

    #[track_caller]
    pub(crate) fn money(&self, name: &str) -> i64 {
        self.row().money(name)
    }

    /// One page of `{items, next_cursor}`: its items, and the cursor as text.
    #[track_caller]
    pub(crate) fn page(&self) -> (Vec<Row>, Option<String>) {
        let page = self.row();
        let items: Vec<Box<RawValue>> =
            serde_json::from_str(page.raw("items")).expect("`items` is an array");
        let cursor = match page.value("next_cursor") {
            Value::Null => None,
            Value::String(cursor) => Some(cursor),
            Value::Number(cursor) => Some(cursor.to_string()),
            other => panic!("no cursor: {other}"),
        };
        (
            items.iter().map(|item| Row::read(item.get())).collect(),
            cursor,
        )
    }
}
