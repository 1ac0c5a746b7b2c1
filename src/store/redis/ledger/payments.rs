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
        usage::{Adjustment, UsageDetails, UsageEntry, is_reference},
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
        let row = self.charged(change).await?;
        self.look_first(change, row.as_ref()).await?;
        self.book(change, row.as_ref()).await
    }

    /// The two steps.
    pub(super) async fn book(
        self: &Arc<Self>,
        change: &Adjustment,
        row: Option<&UsageEntry>,
    ) -> Result<Balance, Failure> {
        let (account, reference) = (&change.account, change.reference.as_str());
        let meaning = meaning(change);
        let names = self.names.account(account);
        let claim = format!("{meaning} {}", account.as_str());
        let command =
            RedisCall::script(&CLAIM, &[self.names.reference(reference)]).arg(claim.as_str());
        let standing: String = self.ask(self.shard(reference), &command).await?;
        if standing != claim {
            return Err(StoreError::reference_taken().into());
        }
        let keys = [
            names.books(),
            names.references(),
            names.payments(),
            names.refunds(),
            names.usage(),
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
        for word in self.words(change, row) {
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

    /// Refuses a refund that the script would refuse, before it has claimed its reference: under
    /// one that nothing was paid with, another payment may be made. Only if refunds of one call
    /// meet may one that is refused have taken its reference. What was made before is answered by
    /// the script.
    async fn look_first(
        self: &Arc<Self>,
        change: &Adjustment,
        row: Option<&UsageEntry>,
    ) -> Result<(), Failure> {
        let Some(call) = &change.call else {
            return Ok(());
        };
        let (account, names) = (&change.account, self.names.account(&change.account));
        let shard = self.shard(account.as_str());
        let command = RedisCall::command("HGET")
            .arg(names.refunds())
            .arg(call.position);
        let before: Option<String> = self.ask(shard, &command).await?;
        // Asked last: what counts here may be this very refund, sent to another process too.
        let command = RedisCall::command("HEXISTS")
            .arg(names.references())
            .arg(change.reference.as_str());
        if self.ask::<i64>(shard, &command).await? != 0 {
            return Ok(());
        }
        let Some(row) = row else {
            return Err(StoreError::unknown_call().into());
        };
        let before = before.as_deref().map(codec::money).transpose()?;
        let all = before.unwrap_or_default().checked_add(change.amount);
        if all.is_none_or(|all| all > row.settlement.charged) {
            return Err(StoreError::from(RefundRefusal::MoreThanCharged).into());
        }
        Ok(())
    }

    /// The row of the call that is given back. Rows never change, so it may be read before; whether
    /// it is still there, the script looks again.
    pub(super) async fn charged(
        self: &Arc<Self>,
        change: &Adjustment,
    ) -> Result<Option<UsageEntry>, Failure> {
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
            let (details, calendar) = (&row.settlement.details, &self.settings.calendar);
            let start = row.call.started_at;
            let windows = UsageDetails::windows_of(details.as_deref(), start, calendar);
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

/// What a reference stands for within its account. Without a call and budgets it is the amount
/// alone, as payments are stored that know of none.
fn meaning(change: &Adjustment) -> String {
    let mut meaning = change.amount.nanos().to_string();
    if let Some(position) = change.position() {
        meaning.push('@');
        meaning.push_str(&position.to_string());
    }
    meaning.push_str(&change.budget_names());
    meaning
}
