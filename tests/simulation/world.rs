//! Who does what next.

mod limits;
mod refunds;
mod tally;

use std::{sync::Arc, task::Waker, time::Duration};

use tollgate::{
    budget::{SpendingLimits, Thresholds},
    clock::{Clock, Timestamp},
    money::Money,
    store::{AccountId, BudgetId, KeyId, Ledger, Page},
    usage::{
        Adjustment, Call, Credit, Expiry, Hold, HoldRequest, Idempotency, Outcome, Settlement,
        UsageDetails,
    },
};

use crate::{
    calls::{CallUnderWay, Caller},
    dice::Dice,
    watched::{Watched, at_once},
};

pub(crate) use self::tally::Tally;

pub(crate) struct World {
    dice: Dice,
    ledger: Watched,
    caller: Caller,
    accounts: Vec<AccountId>,
    budgets: Vec<BudgetId>,
    holds: Vec<Hold>,
    /// Names of holds that were settled: they come again.
    replays: Vec<Hold>,
    calls: Vec<CallUnderWay>,
    begun: usize,
    payments: Vec<Credit>,
    refunds: Vec<Adjustment>,
    /// Whether nothing is given back to budgets but by the rows of calls that counted in them.
    by_rows_alone: bool,
    tally: Tally,
}

/// The seconds of each budget's window that rolls: of one that doesn't end with a slice, of an
/// hour, of a day.
const WINDOWS: [u64; 3] = [301, 3_600, 86_400];

/// A second hold of the same name, as a reply that came twice would be.
fn copy(hold: &Hold) -> Hold {
    Hold {
        id: hold.id,
        call: hold.call.clone(),
        budgets: hold.budgets.clone(),
        amount: hold.amount,
        windows: hold.windows,
        left: hold.left,
        expiry: hold.expiry,
        idempotency_key: hold.idempotency_key.clone(),
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let dice = Dice::new(seed);
        let ledger = Watched::new(dice.clone());
        let names = ["ann", "bob"];
        let budgets = ["key-1", "key-2", "team"];
        let world = Self {
            caller: Caller::new(&ledger, dice.clone()),
            accounts: names.map(|name| AccountId::new(name).unwrap()).to_vec(),
            budgets: budgets.map(|name| BudgetId::new(name).unwrap()).to_vec(),
            dice,
            ledger,
            holds: Vec::new(),
            replays: Vec::new(),
            calls: Vec::new(),
            begun: 0,
            payments: Vec::new(),
            refunds: Vec::new(),
            by_rows_alone: seed.is_multiple_of(2),
            tally: Tally::default(),
        };
        // Windows that roll are counted from the beginning.
        for account in &world.accounts {
            for (budget, window) in world.budgets.iter().zip(WINDOWS) {
                let limits = SpendingLimits {
                    rolling: Some(world.rolling(window, None, Thresholds::NONE)),
                    ..SpendingLimits::default()
                };
                world.limit(account, budget, limits);
            }
        }
        world
    }

    pub(crate) fn run(mut self, steps: u64) -> Tally {
        for step in 0..steps {
            let account = self.dice.pick(&self.accounts).clone();
            self.step(&account);
            self.check(&account);
            if step % 64 == 63 {
                self.check_logs();
            }
        }
        self.end();
        self.tally
    }

    fn step(&mut self, account: &AccountId) {
        match self.dice.roll(32) {
            0..=6 => self.hold(account),
            7..=11 => self.settle(),
            12 => self.settle_again(),
            13 => self.lose_a_hold(),
            14 => self.extend(),
            15..=17 => self.begin_call(account),
            18..=24 => self.poll_a_call(),
            25 => self.drop_a_call(),
            26 if self.dice.one_in(3) => self.adjust(account),
            26 => self.pay(account),
            27 => self.refund(account),
            28 => self.set_limits(account),
            29 => self.set_credit_line(account),
            30 => self.turn_the_clock(),
            _ => self.let_time_pass(),
        }
    }

    fn some_budgets(&self) -> Arc<[BudgetId]> {
        (0..self.dice.roll(4))
            .map(|_| self.dice.pick(&self.budgets).clone())
            .collect()
    }

    fn hold(&mut self, account: &AccountId) {
        let idempotency = self.dice.one_in(3).then(|| Idempotency {
            key: Arc::from(format!("once-{}", self.dice.roll(4))),
            fingerprint: [u8::try_from(self.dice.roll(2)).unwrap(); 32],
            keep_for: Duration::from_secs(300),
        });
        let amount = match self.dice.roll(20) {
            0 => *self.dice.pick(&[0, -1, i64::MAX, i64::MIN]),
            _ => self.dice.between(0, 30),
        };
        let budgets = self.some_budgets();
        let key = budgets
            .iter()
            .find(|budget| budget.as_str().starts_with("key"));
        self.begun += 1;
        let request = HoldRequest {
            call: Call {
                request_id: format!("held-{}", self.begun).into(),
                account: account.clone(),
                principal: Arc::from("somebody"),
                key: key.map(|key| KeyId::new(key.as_str()).unwrap()),
                route: Arc::from("POST /chat"),
                started_at: self.ledger.clock.now(),
            },
            budgets: budgets.into(),
            amount: Money::from_nanos(amount),
            lifetime: Duration::from_secs(self.dice.roll(200)),
            expiry: *self.dice.pick(&[Expiry::Release, Expiry::Charge]),
            idempotency,
        };
        // To the end, in one step: those that end on the way are the layer's calls.
        let mut answer = Box::pin(self.ledger.hold(request));
        let mut context = std::task::Context::from_waker(Waker::noop());
        let answer = loop {
            if let std::task::Poll::Ready(answer) = answer.as_mut().poll(&mut context) {
                break answer.unwrap();
            }
        };
        match answer {
            Ok(hold) => {
                self.tally.granted += 1;
                self.holds.push(hold);
            }
            Err(_) => self.tally.refused += 1,
        }
    }

    fn some_hold(&self) -> Option<usize> {
        let count = self.holds.len() as u64;
        (count > 0).then(|| usize::try_from(self.dice.roll(count)).unwrap())
    }

    fn settlement(&self, hold: &Hold) -> Settlement {
        let held = hold.amount;
        let charged = match self.dice.roll(6) {
            0 => 0,
            1 => -5,
            2 => held.nanos() + self.dice.between(1, 10),
            3 => held.nanos(),
            _ => self.dice.between(0, held.nanos().max(0)),
        };
        let mut settlement = Settlement::new(Money::from_nanos(charged), Outcome::Completed);
        // As the gate does, where it is not the key's own budget alone.
        let key = hold.call.key.as_ref().map(|key| key.as_str());
        if hold
            .budgets
            .iter()
            .any(|budget| Some(budget.as_str()) != key)
        {
            let mut details = UsageDetails::default();
            details.budgets = hold.budgets.to_vec();
            settlement.details = Some(Box::new(details));
        }
        settlement
    }

    fn settle(&mut self) {
        let Some(place) = self.some_hold() else {
            return;
        };
        let hold = self.holds.swap_remove(place);
        self.replays.push(copy(&hold));
        let settlement = self.settlement(&hold);
        drop(self.ledger.settle(hold, settlement));
        self.tally.settled += 1;
    }

    fn settle_again(&mut self) {
        if self.replays.is_empty() {
            return;
        }
        let mut hold = copy(self.dice.pick(&self.replays));
        if self.dice.one_in(4) {
            hold.id.instance ^= 1;
        }
        let settlement = self.settlement(&hold);
        drop(self.ledger.settle(hold, settlement));
        self.tally.settled_again += 1;
    }

    fn lose_a_hold(&mut self) {
        if let Some(place) = self.some_hold() {
            self.tally.lost += 1;
            self.replays.push(self.holds.swap_remove(place));
        }
    }

    fn extend(&mut self) {
        if let Some(place) = self.some_hold() {
            let lifetime = Duration::from_secs(self.dice.roll(200));
            drop(self.ledger.extend(&self.holds[place], lifetime));
        }
    }

    fn begin_call(&mut self, account: &AccountId) {
        if self.calls.len() < 16 {
            let call = self.caller.call(self.begun, account, self.some_budgets());
            self.begun += 1;
            self.calls.push(call);
        }
    }

    fn poll_a_call(&mut self) {
        let count = self.calls.len() as u64;
        if count == 0 {
            return;
        }
        let place = usize::try_from(self.dice.roll(count)).unwrap();
        let mut context = std::task::Context::from_waker(Waker::noop());
        if self.calls[place]
            .call
            .as_mut()
            .poll(&mut context)
            .is_ready()
        {
            self.end_call(place);
            self.tally.calls_done += 1;
        }
    }

    fn drop_a_call(&mut self) {
        let count = self.calls.len() as u64;
        if count > 0 {
            let place = usize::try_from(self.dice.roll(count)).unwrap();
            self.end_call(place);
            self.tally.calls_dropped += 1;
        }
    }

    /// Done, or its client died: what it held is settled either way.
    fn end_call(&mut self, place: usize) {
        let CallUnderWay { request_id, call } = self.calls.swap_remove(place);
        drop(call);
        self.ledger.oracle.lock().unwrap().check_ended(&request_id);
    }

    fn pay(&mut self, account: &AccountId) {
        if !self.payments.is_empty() && self.dice.one_in(3) {
            let again = self.dice.pick(&self.payments).clone();
            self.ledger.expire(&again.account);
            at_once(self.ledger.credit(again)).unwrap();
            self.tally.paid_again += 1;
            return;
        }
        let credit = Credit {
            account: account.clone(),
            amount: Money::from_nanos(self.dice.between(1, 300)),
            reference: format!("payment-{}", self.payments.len()),
        };
        self.payments.push(credit.clone());
        let amount = credit.amount.nanos();
        self.ledger.expire(account);
        at_once(self.ledger.credit(credit)).unwrap();
        self.ledger.oracle.lock().unwrap().pay(account, amount);
    }

    fn adjust(&mut self, account: &AccountId) {
        let amount = self.dice.between(-60, 60);
        let adjustment = Adjustment::new(
            account.clone(),
            Money::from_nanos(amount),
            format!("adjustment-{}", self.ledger.clock.elapsed().as_nanos()),
        );
        self.ledger.expire(account);
        // Zero, or the moment's second one: refused.
        if at_once(self.ledger.adjust(adjustment)).is_ok() {
            let moved = at_once(self.ledger.transactions(account, Page::first(1))).unwrap();
            let is_new = moved
                .items
                .first()
                .is_some_and(|moved| moved.route.is_none());
            assert!(is_new);
            self.ledger.oracle.lock().unwrap().pay(account, amount);
        }
        self.ledger.clock.advance(Duration::from_nanos(1));
    }

    /// The time of day alone, as an administrator would, back or forth by up to three days.
    fn turn_the_clock(&mut self) {
        let clock = &self.ledger.clock;
        let seconds = clock.now().as_second() + self.dice.between(-259_200, 259_200);
        clock.set(Timestamp::from_second(seconds).unwrap());
        self.tally.clock_set += 1;
    }

    fn let_time_pass(&mut self) {
        let seconds = match self.dice.roll(10) {
            0 => 86_400,
            1 => 3_600,
            _ => self.dice.roll(60),
        };
        self.ledger.clock.advance(Duration::from_secs(seconds));
    }

    fn check(&self, account: &AccountId) {
        self.ledger.expire(account);
        let balance = at_once(self.ledger.balance(account)).unwrap();
        let oracle = self.ledger.oracle.lock().unwrap();
        oracle.check_balance(account, balance);
        for id in &self.budgets {
            let budget = at_once(self.ledger.budget(account, id)).unwrap();
            oracle.check_budget(account, id, &budget);
        }
    }

    fn check_logs(&self) {
        for account in &self.accounts {
            self.ledger.expire(account);
            let (mut rows, mut charged) = (0, 0);
            let mut page = Page::first(1_000);
            loop {
                let part = at_once(self.ledger.usage(account, page)).unwrap();
                rows += part.items.len();
                let costs = part.items.iter().map(|row| row.settlement.charged.nanos());
                charged += costs.map(i128::from).sum::<i128>();
                let Some(cursor) = part.next_cursor else {
                    break;
                };
                page = Page::first(1_000).after(cursor);
            }
            let oracle = self.ledger.oracle.lock().unwrap();
            oracle.check_log(account, rows, charged);
        }
    }

    /// Everybody leaves, time passes, and nothing is left.
    fn end(&mut self) {
        while !self.calls.is_empty() {
            self.end_call(0);
        }
        self.holds.clear();
        self.ledger.clock.advance(Duration::from_secs(1_000));
        for account in self.accounts.clone() {
            self.check(&account);
            let balance = at_once(self.ledger.balance(&account)).unwrap();
            assert_eq!(balance.held, Money::ZERO);
        }
        self.check_logs();
        let oracle = self.ledger.oracle.lock().unwrap();
        assert_eq!(oracle.open(), 0);
        self.tally.expired = oracle.expired;
        self.tally.charged_late = oracle.charged_late;
        self.tally.alerts = oracle.alerts;
        self.tally.alerts_together = oracle.alerts_together;
        self.tally.alerts_of_expired = oracle.alerts_of_expired;
    }
}
