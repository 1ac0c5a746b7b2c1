//! Which soft limits a settlement crosses.

use tollgate::{
    budget::{BudgetWindow, SpendingAlert, SpendingLimits, Thresholds},
    store::{AccountId, BudgetId},
};

use super::Oracle;

/// A limit, and what was spent when it was crossed.
pub(super) type Crossed = (i64, i128);

fn soft(limits: &SpendingLimits, window: BudgetWindow) -> Thresholds {
    match window {
        BudgetWindow::Day => limits.soft.daily.clone(),
        BudgetWindow::Month => limits.soft.monthly.clone(),
        BudgetWindow::Total => limits.soft.total.clone(),
        BudgetWindow::Rolling => {
            let rolling = limits.rolling.as_ref();
            rolling.map_or(Thresholds::NONE, |rolling| rolling.soft.clone())
        }
        other => unreachable!("{other:?} is not known here"),
    }
}

impl Oracle {
    /// Notes what a charge crosses by taking a window's spending from one amount to another; in one
    /// that rolls, what wasn't told within its length.
    pub(super) fn note_crossed(
        &mut self,
        (account, budget): (&AccountId, &BudgetId),
        window: BudgetWindow,
        (before, after): (i128, i128),
    ) {
        let place = (account.clone(), budget.clone());
        let Some(limits) = self.limits.get(&place) else {
            return;
        };
        let mut crossed = Vec::new();
        for limit in soft(limits, window).as_slice() {
            let limit = limit.nanos();
            let is_crossed = before < i128::from(limit) && i128::from(limit) <= after;
            let is_news = match self.rolling.get_mut(&place) {
                Some(rolling) if is_crossed && window == BudgetWindow::Rolling => {
                    let (now, length) = (rolling.by(self.second), rolling.window.length());
                    let known = rolling.told.get(&limit).copied();
                    let is_news = known.is_none_or(|told| now - told >= length.as_secs() as i64);
                    if is_news {
                        rolling.told.insert(limit, now);
                    }
                    is_news
                }
                _ => is_crossed,
            };
            if is_news {
                crossed.push((limit, after));
            }
        }
        if !crossed.is_empty() {
            self.crossed.insert((budget.clone(), window), crossed);
        }
    }

    /// What stays among the soft limits of a window that rolls remembers when it was told.
    pub(super) fn keep_told(
        &mut self,
        place: &(AccountId, BudgetId),
        before: Option<&SpendingLimits>,
        after: &SpendingLimits,
    ) {
        let before = before.map_or(Thresholds::NONE, |limits| {
            soft(limits, BudgetWindow::Rolling)
        });
        let after = soft(after, BudgetWindow::Rolling);
        let is_among = |all: &Thresholds, limit| {
            let mut all = all.as_slice().iter();
            all.any(|known| known.nanos() == limit)
        };
        if let Some(rolling) = self.rolling.get_mut(place) {
            rolling
                .told
                .retain(|limit, _| is_among(&before, *limit) && is_among(&after, *limit));
        }
    }

    /// A settlement tells of all that it crossed, smallest first, and of nothing else. Of a day or a
    /// month that is over it tells nothing.
    pub(crate) fn check_told(&mut self, alerts: &[SpendingAlert]) {
        let mut told = std::collections::HashMap::<_, Vec<Crossed>>::new();
        for alert in alerts {
            let place = (alert.budget.clone(), alert.window);
            let found = (alert.limit.nanos(), i128::from(alert.spent.nanos()));
            told.entry(place).or_default().push(found);
        }
        let mut crossed = std::mem::take(&mut self.crossed);
        self.alerts += alerts.len();
        self.alerts_together += usize::from(told.values().any(|told| told.len() > 1));
        crossed.retain(|place, _| {
            let may_be_over = matches!(place.1, BudgetWindow::Day | BudgetWindow::Month);
            !may_be_over || told.contains_key(place)
        });
        assert_eq!(told, crossed);
    }
}
