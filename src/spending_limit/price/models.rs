//! Prices by model.

use std::collections::BTreeMap;

use super::Price;

/// Prices by the full name of a model, or by its prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Models {
    by_name: BTreeMap<Box<str>, Price>,
    /// By prefix, longest first.
    by_prefix: Vec<(Box<str>, Price)>,
    /// Whether requests for other models are refused.
    pub(super) only_listed: bool,
}

impl Models {
    /// A name that ends in `*` is a prefix. If a name is given twice, the last price counts.
    pub(super) fn new<'a>(prices: impl IntoIterator<Item = (&'a str, Price)>) -> Self {
        let (mut by_name, mut by_prefix) = (BTreeMap::new(), BTreeMap::new());
        for (name, price) in prices {
            match name.strip_suffix('*') {
                Some(start) => by_prefix.insert(Box::from(start), price),
                None => by_name.insert(Box::from(name), price),
            };
        }
        let mut by_prefix: Vec<(Box<str>, Price)> = by_prefix.into_iter().collect();
        by_prefix.sort_by_key(|(start, _)| std::cmp::Reverse(start.len()));
        Self {
            by_name,
            by_prefix,
            only_listed: false,
        }
    }

    /// The price of a model; `None` if none matches, or the model is unknown.
    pub(super) fn price_of(&self, model: Option<&str>) -> Option<&Price> {
        let model = model?;
        self.by_name.get(model).or_else(|| {
            let mut by_prefix = self.by_prefix.iter();
            let matching = by_prefix.find(|(start, _)| model.starts_with(start.as_ref()));
            matching.map(|(_, price)| price)
        })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Price> {
        let by_prefix = self.by_prefix.iter().map(|(_, price)| price);
        self.by_name.values().chain(by_prefix)
    }

    /// Whether there are any models, with `*` only at the end.
    pub(super) fn are_valid(&self) -> bool {
        let by_prefix = self.by_prefix.iter().map(|(start, _)| start);
        let mut names = self.by_name.keys().chain(by_prefix).peekable();
        names.peek().is_some() && names.all(|name| !name.contains('*'))
    }
}
