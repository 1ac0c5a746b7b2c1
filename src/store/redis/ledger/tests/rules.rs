//! The scripts compared with the domain's rules, call by call.

mod steps;

use std::{sync::Arc, time::Duration};

use proptest::{prelude::*, test_runner::TestRunner};

use self::steps::{Step, near, rolling_steps, steps};
use super::{account, budget, call, request};
use crate::{
    domain::{
        AccountId,
        budget::{Calendar, RollingLimit, RollingWindow, SoftLimits, SpendingLimits, Thresholds},
        clock::{Clock, ManualClock, Timestamp},
        money::Money,
        page::Page,
        quota::Zone,
        usage::{Adjustment, Credit, Expiry, Hold, HoldRequest, Idempotency, Outcome, Settlement},
    },
    store::{Ledger, MemoryStore, RedisLedger, StoreError, redis::test_server::RedisServer},
};

/// The domain's rules in memory, and the scripts, sharing one clock.
struct Twins {
    memory: MemoryStore,
    redis: RedisLedger,
    clock: Arc<ManualClock>,
    account: AccountId,
    open: Vec<(Hold, Hold)>,
    /// Those that expired, and when.
    late: Vec<(Hold, Hold, Duration)>,
    payments: u32,
    /// How long keys are kept.
    keep_for: Duration,
    /// The latest time that the clock showed.
    latest: Timestamp,
}

impl Twins {
    async fn step(&mut self, step: Step) {
        match step {
            Step::Hold {
                amount,
                budgets,
                charge,
                key,
            } => {
                let wish = HoldRequest {
                    budgets: budgets.into_iter().map(budget).collect(),
                    expiry: if charge {
                        Expiry::Charge
                    } else {
                        Expiry::Release
                    },
                    idempotency: key.map(|(key, fingerprint)| Idempotency {
                        key: Arc::from(format!("key {key}")),
                        fingerprint: [fingerprint; 32],
                        keep_for: self.keep_for,
                    }),
                    ..request(&self.account, &self.clock, amount)
                };
                let right = self.memory.hold(wish.clone()).await.unwrap();
                let held = self.redis.hold(wish).await.unwrap();
                match (right, held) {
                    (Ok(right), Ok(held)) => {
                        assert_eq!((right.windows, right.left), (held.windows, held.left));
                        self.open.push((right, held));
                    }
                    (right, held) => {
                        assert_eq!(right.unwrap_err(), held.unwrap_err());
                        self.begin_windows().await;
                    }
                }
            }
            Step::Settle { which, charged } => {
                if self.open.is_empty() {
                    return;
                }
                let (right, held) = self.open.swap_remove(which % self.open.len());
                self.settle(right, held, charged).await;
            }
            Step::Late { which, charged } => {
                // The one remembers by a clock that isn't set, the other by the time of day.
                let (now, half_a_day) = (self.clock.elapsed(), Duration::from_secs(43_200));
                self.late.retain(|(_, _, at)| now < *at + half_a_day);
                if self.late.is_empty() {
                    return;
                }
                let (right, held, _) = self.late.swap_remove(which % self.late.len());
                self.settle(right, held, charged).await;
            }
            Step::Wait(secs) => self.clock.advance(Duration::from_secs(secs.into())),
            Step::Back(secs) => {
                let now = self.clock.now();
                self.latest = self.latest.max(now);
                self.clock.set(now - Duration::from_secs(secs.into()));
            }
            Step::Expire(which) => self.expire(which).await,
            other => self.manage(other).await,
        }
    }

    async fn expire(&mut self, which: usize) {
        if self.open.is_empty() {
            return;
        }
        // One at a time, so that both process them in the same order.
        let (right, held) = self.open.swap_remove(which % self.open.len());
        let second = Duration::from_secs(1);
        assert!(self.memory.extend(&right, second).await.unwrap());
        assert!(self.redis.extend(&held, second).await.unwrap());
        self.clock.advance(second);
        self.memory.flush().await.unwrap();
        self.redis.flush().await.unwrap();
        assert!(!self.redis.extend(&held, second).await.unwrap());
        self.late.push((right, held, self.clock.elapsed()));
    }

    async fn settle(&self, right: Hold, held: Hold, charged: i64) {
        let settlement = Settlement::new(Money::from_nanos(charged), Outcome::Completed);
        self.memory.settle(right, settlement.clone()).await.unwrap();
        self.redis.settle(held, settlement).await.unwrap();
    }

    /// A refusal may start new windows, which discards the counts of the old ones. In memory that
    /// is stored; a script writes nothing on refusal.
    async fn begin_windows(&self) {
        let now = self.clock.now();
        self.clock.set(now.max(self.latest));
        for number in 0..3 {
            let (account, id) = (&self.account, budget(number));
            let limits = self.memory.budget(account, &id).await.unwrap().limits;
            self.memory
                .set_limits(account, &id, limits.clone())
                .await
                .unwrap();
            self.redis.set_limits(account, &id, limits).await.unwrap();
        }
        self.clock.set(now);
    }

    /// Operations other than calls.
    async fn manage(&mut self, step: Step) {
        match step {
            Step::Pay(amount) => {
                self.payments += 1;
                let credit = Credit {
                    account: self.account.clone(),
                    amount: Money::from_nanos(amount),
                    reference: format!("{} {}", self.account, self.payments),
                };
                let right = self.memory.credit(credit.clone()).await;
                self.same(right, self.redis.credit(credit).await);
            }
            Step::Adjust(amount) => {
                self.payments += 1;
                let adjustment = Adjustment::new(
                    self.account.clone(),
                    Money::from_nanos(amount),
                    format!("{} {}", self.account, self.payments),
                );
                let right = self.memory.adjust(adjustment.clone()).await;
                self.same(right, self.redis.adjust(adjustment).await);
            }
            Step::Refund(amount, budgets, call) => self.refund(amount, &budgets, call).await,
            Step::Line(line) => {
                let line = Money::from_nanos(line);
                let right = self.memory.set_credit_line(&self.account, line).await;
                self.same(right, self.redis.set_credit_line(&self.account, line).await);
            }
            Step::Limits(id, limits, soft, rolling) => {
                let thresholds = |soft: Vec<i64>| {
                    Thresholds::new(soft.into_iter().map(Money::from_nanos)).unwrap()
                };
                let [daily, monthly, total] = limits.map(|limit| limit.map(Money::from_nanos));
                let [soft_daily, soft_monthly, soft_total] = soft.map(thresholds);
                let limits = SpendingLimits {
                    daily,
                    monthly,
                    total,
                    soft: SoftLimits {
                        daily: soft_daily,
                        monthly: soft_monthly,
                        total: soft_total,
                    },
                    rolling: rolling.map(|(seconds, limit, soft)| RollingLimit {
                        window: RollingWindow::new(Duration::from_secs(seconds)).unwrap(),
                        limit: limit.map(Money::from_nanos),
                        soft: thresholds(soft),
                    }),
                };
                let (memory, redis) = (&self.memory, &self.redis);
                let right = memory
                    .set_limits(&self.account, &budget(id), limits.clone())
                    .await;
                let set = redis.set_limits(&self.account, &budget(id), limits).await;
                self.same(right, set);
            }
            Step::Record => {
                let settlement = Settlement::new(Money::MAX, Outcome::Completed);
                let call = call(&self.account, &self.clock);
                self.memory
                    .record(call.clone(), settlement.clone())
                    .await
                    .unwrap();
                self.redis.record(call, settlement).await.unwrap();
            }
            other => unreachable!("{other:?} is a call"),
        }
    }

    async fn refund(&mut self, amount: i64, budgets: &[u8], call: Option<usize>) {
        self.payments += 1;
        let reference = format!("{} {}", self.account, self.payments);
        let amount = Money::from_nanos(amount);
        let mut right = Adjustment::new(self.account.clone(), amount, reference);
        for number in budgets {
            right = right.in_budget(budget(*number));
        }
        let mut refund = right.clone();
        let rows = [
            self.memory.usage(&self.account, Page::first(20)).await,
            self.redis.usage(&self.account, Page::first(20)).await,
        ];
        let [known, stored] = rows.map(|rows| rows.unwrap().items);
        if let Some(which) = call.filter(|_| !known.is_empty()) {
            let which = which % known.len();
            (right, refund) = (right.of_call(&known[which]), refund.of_call(&stored[which]));
        }
        let right = self.memory.adjust(right).await;
        self.same(right, self.redis.adjust(refund).await);
    }

    fn same<T: PartialEq + std::fmt::Debug>(
        &self,
        right: Result<T, StoreError>,
        answer: Result<T, StoreError>,
    ) {
        let kind = |error: StoreError| error.kind();
        assert_eq!(right.map_err(kind), answer.map_err(kind));
    }

    async fn compare(&self) {
        let (memory, redis, account) = (&self.memory, &self.redis, &self.account);
        let right = memory.balance(account).await.unwrap();
        assert_eq!(right, redis.balance(account).await.unwrap());
        for number in 0..3 {
            let right = memory.budget(account, &budget(number)).await.unwrap();
            let kept = redis.budget(account, &budget(number)).await.unwrap();
            assert_eq!(right, kept, "budget {number}");
        }
        let mut right: Vec<_> = memory
            .usage(account, Page::first(1_000))
            .await
            .unwrap()
            .items;
        let mut rows: Vec<_> = redis
            .usage(account, Page::first(1_000))
            .await
            .unwrap()
            .items;
        for rows in [&mut right, &mut rows] {
            rows.iter_mut().for_each(|row| row.position = 0);
            rows.sort_by_key(|row| {
                (
                    row.settled_at,
                    row.held,
                    row.settlement.charged,
                    row.settlement.latency,
                )
            });
        }
        assert_eq!(right, rows);
    }
}

#[test]
fn the_scripts_keep_the_rules_of_the_domain() {
    compare(&[], steps(), Duration::from_secs(40_000));
}

#[test]
fn the_scripts_keep_the_rules_when_clocks_are_set_back() {
    // In memory, keys expire by a clock that isn't set.
    let steps = prop_oneof![9 => steps(), 1 => (0_u32..300_000).prop_map(Step::Back)];
    compare(&[], steps, Duration::from_secs(1_000_000_000));
}

#[test]
fn the_scripts_count_windows_that_roll_as_the_domain_does() {
    let first = [
        Step::Pay(1_000_000),
        near(0, Some((60, Some(100), vec![50]))),
        near(1, Some((601, Some(150), vec![20, 40, 90]))),
    ];
    compare(&first, rolling_steps(), Duration::from_secs(1));
}

fn compare(first: &[Step], steps: impl Strategy<Value = Step>, keep_for: Duration) {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let clock = Arc::new(ManualClock::default());
    let told = Arc::new(std::sync::Mutex::new(<[Vec<String>; 2]>::default()));
    let tell = |place: usize| {
        let told = Arc::clone(&told);
        move |alert: &_| told.lock().unwrap()[place].push(format!("{alert:?}"))
    };
    let memory = MemoryStore::builder()
        .with_clock(clock.clone())
        .calendar(Calendar::in_zone(Zone::named("America/Santiago").unwrap()))
        .on_alert(tell(0))
        .build();
    let redis = RedisLedger::builder(server.url())
        .with_clock(clock.clone())
        .calendar(Calendar::in_zone(Zone::named("America/Santiago").unwrap()))
        .on_alert(tell(1))
        .deadline(Duration::from_secs(20));
    let redis = runtime.block_on(redis.open()).unwrap();
    let cases = std::env::var("CASES").map_or(24, |cases| cases.parse().unwrap());
    let runs = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(cases));
    let strategy = prop::collection::vec(steps, 1..60);
    let outcome = runner.run(&strategy, |steps| {
        runs.set(runs.get() + 1);
        let mut twins = Twins {
            memory: memory.clone(),
            redis: redis.clone(),
            clock: clock.clone(),
            account: account(&format!("account {}", runs.get())),
            open: Vec::new(),
            late: Vec::new(),
            payments: 0,
            keep_for,
            latest: clock.now(),
        };
        runtime.block_on(async {
            for step in first.iter().cloned().chain(steps) {
                twins.step(step).await;
                twins.compare().await;
            }
            // Two that end at once may be reported in a different order.
            let [mut right, mut told] = std::mem::take(&mut *told.lock().unwrap());
            right.sort();
            told.sort();
            assert_eq!(right, told);
        });
        Ok(())
    });
    outcome.unwrap();
    runtime.block_on(redis.close()).unwrap();
}
