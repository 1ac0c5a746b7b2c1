//! Prices by the model that answers.

use std::collections::BTreeMap;

use super::Price;

/// Prices by the name of a model, or by its beginning.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Models {
    named: BTreeMap<Box<str>, Price>,
    /// By beginnings, the longest first.
    beginning: Vec<(Box<str>, Price)>,
}

impl Models {
    /// A name that ends in `*` is a beginning. Of a name that is there twice the last price counts.
    pub(super) fn new<'a>(prices: impl IntoIterator<Item = (&'a str, Price)>) -> Self {
        let (mut named, mut beginning) = (BTreeMap::new(), BTreeMap::new());
        for (name, price) in prices {
            match name.strip_suffix('*') {
                Some(start) => beginning.insert(Box::from(start), price),
                None => named.insert(Box::from(name), price),
            };
        }
        let mut beginning: Vec<(Box<str>, Price)> = beginning.into_iter().collect();
        beginning.sort_by_key(|(start, _)| std::cmp::Reverse(start.len()));
        Self { named, beginning }
    }

    /// The price of a model; `None` where there is none of its name, or nobody told it.
    pub(super) fn of(&self, model: Option<&str>) -> Option<&Price> {
        let model = model?;
        self.named.get(model).or_else(|| {
            let mut beginning = self.beginning.iter();
            let fits = beginning.find(|(start, _)| model.starts_with(start.as_ref()));
            fits.map(|(_, price)| price)
        })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Price> {
        let beginning = self.beginning.iter().map(|(_, price)| price);
        self.named.values().chain(beginning)
    }

    /// Whether there are any, and no `*` but at an end.
    pub(super) fn are_clear(&self) -> bool {
        let beginning = self.beginning.iter().map(|(start, _)| start);
        let mut names = self.named.keys().chain(beginning).peekable();
        names.peek().is_some() && names.all(|name| !name.contains('*'))
    }
}
