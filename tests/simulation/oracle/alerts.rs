//! Which soft limits a settlement crosses.

use tollgate::{
    budget::{BudgetWindow, SpendingAlert, SpendingLimits, Thresholds},
    store::{AccountId, BudgetId},
};

use super::Oracle;

/// A limit, and what was spent when it was crossed.
pub(super) type Crossed = (i64, i128);

/// What was crossed, or told, by budget and window.
type News = std::collections::HashMap<(BudgetId, BudgetWindow), Vec<Crossed>>;

fn told_of(alerts: &[SpendingAlert]) -> News {
    let mut told = News::new();
    for alert in alerts {
        let place = (alert.budget.clone(), alert.window);
        let found = (alert.limit.nanos(), i128::from(alert.spent.nanos()));
        told.entry(place).or_default().push(found);
    }
    told
}

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
            let place = (budget.clone(), window);
            self.crossed.entry(place).or_default().extend(crossed);
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

    /// A settlement tells of all that it crossed, smallest first, and of nothing else.
    pub(crate) fn check_told(&mut self, alerts: &[SpendingAlert]) {
        let told = told_of(alerts);
        self.alerts += alerts.len();
        self.alerts_together += usize::from(told.values().any(|told| told.len() > 1));
        assert_eq!(told, std::mem::take(&mut self.crossed));
    }

    /// So does a look that ends several calls, in any order: what was spent at each is not known.
    pub(crate) fn check_told_of_expired(&mut self, account: &AccountId, alerts: &[SpendingAlert]) {
        assert!(alerts.iter().all(|alert| alert.account == *account));
        let limits = |news: News| {
            let limits = news.into_iter().map(|(place, told)| {
                let mut limits: Vec<i64> = told.into_iter().map(|(limit, _)| limit).collect();
                limits.sort_unstable();
                (place, limits)
            });
            limits.collect::<std::collections::HashMap<_, _>>()
        };
        self.alerts_of_expired += alerts.len();
        let crossed = std::mem::take(&mut self.crossed);
        assert_eq!(limits(told_of(alerts)), limits(crossed));
    }
}
