//! Payments and corrections.

use std::sync::Arc;

use super::{
    RedisLedger,
    codec::{self, corrupt},
    listing,
    redis_call::{CLAIM, PAY, RedisCall},
    shared::{Failure, Shared},
};
use crate::{
    domain::{
        books::{Balance, RefundRefusal},
        usage::{Adjustment, UsageEntry, is_reference},
    },
    store::{StoreError, StoreFuture},
};

impl RedisLedger {
    pub(super) fn pay(&self, change: Adjustment) -> StoreFuture<Balance> {
        if !is_reference(&change.reference) {
            return StoreFuture::ready(Err(StoreError::no_reference()));
        }
        self.ask(move |shared| async move { shared.pay(&change).await })
    }
}

impl Shared {
    /// This takes two steps because a reference is shared by all accounts, while a script works on
    /// one account. First the reference is claimed for this payment, for good; then the payment is
    /// made, once. If it is cut off between the two, it is made when the same payment is requested
    /// again.
    async fn pay(self: &Arc<Self>, change: &Adjustment) -> Result<Balance, Failure> {
        let (account, reference) = (&change.account, change.reference.as_str());
        let meaning = meaning(change);
        let claim = format!("{meaning} {}", account.as_str());
        let command =
            RedisCall::script(&CLAIM, &[self.names.reference(reference)]).arg(claim.as_str());
        let standing: String = self.ask(self.shard(reference), &command).await?;
        if standing != claim {
            return Err(StoreError::reference_taken().into());
        }
        let row = self.charged(change).await?;
        let names = self.names.account(account);
        let keys = [
            names.books(),
            names.references(),
            names.payments(),
            names.refunds(),
        ];
        let (now, moment) = (self.settings.clock.now(), self.moment());
        let mut command = RedisCall::script(&PAY, &keys)
            .arg(change.amount.nanos())
            .arg(reference)
            .arg(meaning)
            .arg(now.to_string())
            .arg(moment.second)
            .arg(moment.windows.day)
            .arg(moment.windows.month);
        for word in self.words(change, row.as_ref()) {
            command = command.arg(word);
        }
        let mut budgets: Vec<&str> = change.budgets.iter().map(|id| id.as_str()).collect();
        budgets.sort_unstable();
        budgets.dedup();
        for budget in budgets {
            command = command.arg(budget);
        }
        let answer: Vec<String> = self.ask(self.shard(account.as_str()), &command).await?;
        let Some((word, balance)) = answer.split_first() else {
            return Err(corrupt("answer").into());
        };
        match word.as_str() {
            "paid" => {
                let balance: Vec<_> = balance.iter().cloned().map(Some).collect();
                Ok(codec::balance(&balance)?)
            }
            "refused" => Err(StoreError::from(RefundRefusal::OutOfRange).into()),
            "unknown" => Err(StoreError::unknown_call().into()),
            "too much" => Err(StoreError::from(RefundRefusal::MoreThanCharged).into()),
            _ => Err(StoreError::reference_taken().into()),
        }
    }

    /// The row of the call that is given back. Rows never change, so it may be read before.
    async fn charged(self: &Arc<Self>, change: &Adjustment) -> Result<Option<UsageEntry>, Failure> {
        let Some(call) = &change.call else {
            return Ok(None);
        };
        let found = listing::usage_at(self, &change.account, call.position).await?;
        Ok(found.filter(|row| row.call.request_id == call.request_id))
    }

    /// What the script must know of the call that is given back.
    fn words(&self, change: &Adjustment, row: Option<&UsageEntry>) -> [String; 6] {
        let Some(call) = &change.call else {
            return Default::default();
        };
        let (position, request_id) = (call.position.to_string(), call.request_id.to_string());
        let [charged, second, day, month] = row.map_or_else(Default::default, |row| {
            let windows = self.settings.calendar.windows(row.call.started_at);
            let charged = row.settlement.charged.nanos();
            [
                charged,
                row.settled_at.as_second(),
                windows.day,
                windows.month,
            ]
            .map(|number| number.to_string())
        });
        [position, request_id, charged, second, day, month]
    }
}

/// What a reference stands for within its account. Without a call it is the amount alone, as
/// payments are stored that know of none.
fn meaning(change: &Adjustment) -> String {
    let amount = change.amount.nanos();
    match change.position() {
        None => amount.to_string(),
        Some(position) => format!("{amount}@{position}"),
    }
}
