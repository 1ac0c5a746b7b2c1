//! Payments and corrections.

use hashbrown::HashMap;

use super::{Inner, log::UsageLog};
use crate::{
    domain::{
        AccountId,
        books::{self, Balance, ChargedCall},
        budget::Calendar,
        money::Money,
        usage::{
            Adjustment, PaymentMeaning, RefundedCall, Transaction, UsageDetails, is_reference,
        },
    },
    store::StoreError,
    sync::lock,
};

/// All payments by reference.
pub(super) type Payments = HashMap<String, PaymentMeaning>;

pub(super) struct Payment {
    pub(super) transaction: Transaction,
    /// The charge before it.
    pub(super) charge: Option<u64>,
}

impl Inner {
    /// Moves money into or out of an account, once per reference.
    pub(super) fn pay(
        &self,
        change: Adjustment,
        rule: fn(&mut Balance, Money) -> Option<()>,
    ) -> Result<Balance, StoreError> {
        if !is_reference(&change.reference) {
            return Err(StoreError::no_reference());
        }
        books::check(&change, rule)?;
        let id = &change.account;
        let mut payments = lock(&self.accounts.payments);
        if let Some(earlier) = payments.get(&change.reference) {
            if !earlier.is_of(&change) {
                return Err(StoreError::reference_taken());
            }
            let balance = self.with_known(id, |account| account.balance);
            return Ok(balance.unwrap_or_default());
        }
        let at = self.clock.now();
        let now = self.calendar.moment(at);
        let balance = self.with_account(id, |account| {
            let mut log = lock(&self.log);
            let find = |call| charged(&log, &self.calendar, id, call);
            let call = change.call.as_ref().map(find).transpose()?;
            books::pay(account, &change, rule, call.as_ref(), now)?;
            if let Some(position) = change.position() {
                log.give_back(position, change.amount);
            }
            account.payments.push(Payment {
                transaction: Transaction {
                    position: log.position(),
                    at,
                    amount: change.amount,
                    reference: change.reference.clone(),
                    route: None,
                    refunded: change.call.as_ref().map(|call| call.request_id.to_string()),
                },
                charge: account.latest.charge,
            });
            Ok::<_, StoreError>(account.balance)
        })?;
        let meaning = PaymentMeaning::of(&change);
        payments.insert(change.reference, meaning);
        Ok(balance)
    }
}

/// A call of which something is given back.
fn charged(
    log: &UsageLog,
    calendar: &Calendar,
    id: &AccountId,
    call: &RefundedCall,
) -> Result<ChargedCall, StoreError> {
    let row = log.row(call.position, id).map(|row| &row.entry);
    let row = row.filter(|row| row.call.request_id == call.request_id);
    let row = row.ok_or_else(StoreError::unknown_call)?;
    Ok(ChargedCall {
        charged: row.settlement.charged,
        refunded: log.refunded(call.position),
        windows: UsageDetails::windows_of(
            row.settlement.details.as_deref(),
            row.call.started_at,
            calendar,
        ),
        second: row.settled_at.as_second(),
    })
}
