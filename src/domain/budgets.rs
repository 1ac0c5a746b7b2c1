//! The budgets of a call.

use std::{ops::Deref, sync::Arc};

use super::BudgetId;

/// The budgets that must cover a call, besides the balance of its account. Most callers have one,
/// their key's, which takes no list. Cloning is cheap.
///
/// ```
/// use tollgate::{budget::Budgets, store::BudgetId};
///
/// let (key, team) = (BudgetId::new("key-1")?, BudgetId::new("team-7")?);
/// assert_eq!(Budgets::from([key.clone()]).as_slice(), [key.clone()]);
/// assert_eq!(Budgets::from([key, team]).len(), 2);
/// # Ok::<(), tollgate::store::InvalidId>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Budgets(Few);

#[derive(Clone, Debug, Default)]
enum Few {
    #[default]
    None,
    One(BudgetId),
    Several(Arc<[BudgetId]>),
}

impl Budgets {
    /// The budgets, in the order in which they were named.
    #[must_use]
    pub fn as_slice(&self) -> &[BudgetId] {
        match &self.0 {
            Few::None => &[],
            Few::One(budget) => std::slice::from_ref(budget),
            Few::Several(several) => several,
        }
    }
}

impl Deref for Budgets {
    type Target = [BudgetId];

    fn deref(&self) -> &[BudgetId] {
        self.as_slice()
    }
}

impl PartialEq for Budgets {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Budgets {}

impl From<BudgetId> for Budgets {
    fn from(budget: BudgetId) -> Self {
        Self(Few::One(budget))
    }
}

impl From<Vec<BudgetId>> for Budgets {
    fn from(budgets: Vec<BudgetId>) -> Self {
        match <[BudgetId; 1]>::try_from(budgets) {
            Ok([budget]) => budget.into(),
            Err(none) if none.is_empty() => Self::default(),
            Err(several) => Self(Few::Several(several.into())),
        }
    }
}

impl<const N: usize> From<[BudgetId; N]> for Budgets {
    fn from(budgets: [BudgetId; N]) -> Self {
        Vec::from(budgets).into()
    }
}

impl From<&[BudgetId]> for Budgets {
    fn from(budgets: &[BudgetId]) -> Self {
        match budgets {
            [] => Self::default(),
            [budget] => budget.clone().into(),
            several => Self(Few::Several(several.into())),
        }
    }
}

/// Shares the list, where there are several.
impl From<Arc<[BudgetId]>> for Budgets {
    fn from(budgets: Arc<[BudgetId]>) -> Self {
        if budgets.len() > 1 {
            return Self(Few::Several(budgets));
        }
        (&*budgets).into()
    }
}

impl FromIterator<BudgetId> for Budgets {
    fn from_iter<I: IntoIterator<Item = BudgetId>>(budgets: I) -> Self {
        budgets.into_iter().collect::<Vec<_>>().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_they_come_from_they_are_the_same() {
        for count in 0..4 {
            let ids: Vec<_> = ["a", "b", "c"][..count]
                .iter()
                .map(|name| BudgetId::new(name).unwrap())
                .collect();
            let shared: Arc<[BudgetId]> = ids.clone().into();
            let all = [
                Budgets::from(ids.clone()),
                Budgets::from(ids.as_slice()),
                Budgets::from(shared),
                ids.iter().cloned().collect(),
            ];
            for budgets in all {
                assert_eq!(budgets.as_slice(), ids);
                assert_eq!(budgets, Budgets::from(ids.clone()));
                assert_eq!(matches!(budgets.0, Few::Several(_)), count > 1);
            }
        }
    }
}
