//! A seeded world of nodes with leases on one set of books: calls, reports, refunds, kills at any
//! step, clocks that differ by minutes and are set, limits that change. After every step the books
//! are within every limit, or no further beyond it than they were when it was lowered; in the end
//! what was charged is what was served, but for what killed nodes had not told and what was settled
//! after more than a day.
//!
//! `LEASES_SEEDS` and `LEASES_STEPS` set how much; `LEASES_FIRST_SEED` repeats a failure.

use std::{collections::HashMap, time::Duration};

use tollgate::{
    books::{Budget, HoldRefusal},
    budget::{BudgetWindow, SpendingLimits},
    clock::{Clock, Timestamp},
    store::{BudgetId, LeaseStore, LeasedLedger, Ledger, Page, StoreErrorKind},
    usage::Hold,
};

use crate::{
    dice::Dice,
    engines::{Time, account, balances, budget, costs, nanos, pay, request},
    leases::{Place, silent, time_goes_on},
    rolling::rolling,
};

const DAILY: i64 = 250;
const TOTAL: i64 = 400;
/// In any minute.
const ROLLING: i64 = 120;
const DEPOSIT: i64 = 400;

/// What counts in a budget: in a day, in all, in its rolling window.
type Counts = [i64; 3];

/// More than is ever spent.
const NO_LIMIT: i64 = i64::MAX / 2;

/// By how many seconds a node's time of day may differ from the watcher's.
const SKEW: i64 = 300;

struct Node<S> {
    store: S,
    ledger: LeasedLedger,
    clock: Time,
    /// Its store's instance. As long as it lives nobody takes it for dead: what it holds would be
    /// resolved, and what it served would be forgotten after a day.
    instance: u64,
    /// How many seconds its time of day is ahead of the watcher's; negative if it is behind.
    skew: i64,
    holds: Vec<Open>,
    /// What it charged and has not surely told.
    untold: i64,
}

struct Open {
    hold: Hold,
    ends: Duration,
    /// Days that had begun when it was granted.
    days: usize,
}

/// How often things happened.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    here: usize,
    in_store: usize,
    refused: usize,
    rolling: usize,
    killed: usize,
    lost: i64,
    days: usize,
    late: usize,
    limited: usize,
    given_back: usize,
}

struct World<P: Place> {
    dice: Dice,
    place: P,
    nodes: Vec<Node<P::Store>>,
    watcher: (P::Store, Time),
    /// What may count at most in a budget, as of its last limits.
    most: HashMap<&'static str, Counts>,
    deposited: i64,
    served: i64,
    /// What calls cost whose hold was over: its money may have been given to others.
    late: i64,
    /// The part of it that may be forgotten.
    forgotten: i64,
    tally: Tally,
}

impl<P: Place> World<P> {
    async fn new(seed: u64, place: P) -> Self {
        let watcher = place.node().await;
        let ann = account("ann");
        pay(&watcher.0, &ann, DEPOSIT).await;
        let mut most = HashMap::new();
        let limits = [("key-1", Some(DAILY), None), ("team", None, Some(TOTAL))];
        for (name, daily, total) in limits {
            let limits = SpendingLimits {
                daily: daily.map(nanos),
                total: total.map(nanos),
                ..rolling(60, ROLLING)
            };
            let set = watcher.0.set_limits(&ann, &budget(name), limits);
            set.await.unwrap();
            let counts = [daily, total, Some(ROLLING)];
            most.insert(name, counts.map(|limit| limit.unwrap_or(NO_LIMIT)));
        }
        let mut world = Self {
            dice: Dice::new(seed),
            nodes: Vec::new(),
            watcher,
            most,
            place,
            deposited: DEPOSIT,
            served: 0,
            late: 0,
            forgotten: 0,
            tally: Tally::default(),
        };
        for _ in 0..2 {
            world.join().await;
        }
        world
    }

    async fn join(&mut self) {
        let (store, clock) = self.place.node().await;
        let skew = self.dice.between(-SKEW, SKEW);
        clock.set(ahead(self.watcher.1.now(), skew));
        store.flush().await.unwrap();
        self.nodes.push(Node {
            ledger: silent(store.clone()),
            instance: store.tenure().instance(),
            store,
            clock,
            skew,
            holds: Vec::new(),
            untold: 0,
        });
    }

    fn some_node(&self) -> usize {
        usize::try_from(self.dice.roll(self.nodes.len() as u64)).unwrap()
    }

    async fn hold(&mut self) {
        let (key, team) = ([budget("key-1")], [budget("key-1"), budget("team")]);
        let budgets: [&[BudgetId]; 4] = [&key, &team, &[], &[]];
        let budgets = self.dice.pick(&budgets);
        let mut wish = request(&account("ann"), budgets, self.dice.between(1, 12));
        let lifetime = *self.dice.pick(&[3, 360_000, 360_000, 360_000]);
        wish.lifetime = Duration::from_secs(lifetime);
        let at = self.some_node();
        let node = &mut self.nodes[at];
        let ends = node.clock.elapsed() + wish.lifetime;
        match node.ledger.hold(wish).await.unwrap() {
            Ok(hold) => {
                if hold.id.instance == node.store.tenure().instance() {
                    self.tally.in_store += 1;
                } else {
                    self.tally.here += 1;
                }
                let days = self.tally.days;
                node.holds.push(Open { hold, ends, days });
            }
            Err(
                HoldRefusal::RollingLimitReached { .. }
                | HoldRefusal::OnlyHeld {
                    limit: Some(BudgetWindow::Rolling),
                },
            ) => self.tally.rolling += 1,
            Err(
                HoldRefusal::InsufficientCredits
                | HoldRefusal::LimitReached(_)
                | HoldRefusal::OnlyHeld { .. },
            ) => self.tally.refused += 1,
            Err(refusal) => panic!("{refusal}"),
        }
    }

    async fn settle(&mut self) {
        let at = self.some_node();
        let node = &mut self.nodes[at];
        if node.holds.is_empty() {
            return;
        }
        let which = self.dice.roll(node.holds.len() as u64);
        let open = node.holds.swap_remove(usize::try_from(which).unwrap());
        let Open { hold, ends, days } = open;
        let cost = self.dice.between(0, hold.amount.nanos());
        self.served += cost;
        if ends <= node.clock.elapsed() {
            self.tally.late += 1;
            self.late += cost;
            self.forgotten += if days < self.tally.days { cost } else { 0 };
        }
        if hold.id.instance != node.store.tenure().instance() {
            node.untold += cost;
        }
        node.ledger.settle(hold, costs(cost)).await.unwrap();
    }

    async fn tell(&mut self) {
        let at = self.some_node();
        let node = &mut self.nodes[at];
        if self.dice.one_in(3) {
            node.ledger.give_back().await.unwrap();
        } else {
            node.ledger.flush().await.unwrap();
        }
        node.untold = 0;
    }

    /// Time goes on for all; now and then the time of day alone is set to another day.
    async fn pass_time(&mut self) {
        let mut now = self.watcher.1.now();
        if self.dice.one_in(8) {
            self.tally.days += 1;
            now += Duration::from_secs(86_400);
        }
        let nodes = self.nodes.iter();
        let clocks = nodes.map(|node| (&node.store, &node.clock, node.skew));
        for (store, clock, skew) in clocks.chain([(&self.watcher.0, &self.watcher.1, 0)]) {
            clock.set(ahead(now, skew));
            clock.advance(Duration::from_millis(700));
            store.flush().await.unwrap();
        }
        for node in &self.nodes {
            let instance = node.store.tenure().instance();
            assert_eq!(instance, node.instance, "taken for dead");
        }
    }

    /// From here on it does nothing any more; another one takes its place, when what it had is
    /// given back or before.
    async fn kill(&mut self) {
        let at = self.some_node();
        let node = self.nodes.swap_remove(at);
        self.tally.killed += 1;
        self.tally.lost += node.untold;
        std::mem::forget(node);
        if self.dice.one_in(2) {
            for _ in 0..12 {
                self.pass_time().await;
            }
        }
        self.join().await;
    }

    async fn check(&self) {
        let (ann, store) = (account("ann"), &self.watcher.0);
        let balance = store.balance(&ann).await.unwrap();
        let most = |limit| nanos(limit + self.late);
        assert!(
            balance.available() >= nanos(-self.late),
            "overspent: {balance:?}"
        );
        assert!(!balance.held.is_negative(), "{balance:?}");
        assert!(
            balance.settled <= nanos(self.served),
            "charged what nobody served"
        );
        for name in ["key-1", "team"] {
            let budget = store.budget(&ann, &budget(name)).await.unwrap();
            assert!(!budget.day.held.is_negative() && !budget.total.held.is_negative());
            let is_within = |(all, limit): (i64, i64)| nanos(all) <= most(limit);
            let mut counts = counted(&budget).into_iter().zip(self.most[name]);
            assert!(counts.all(is_within), "{name}: {budget:?}, {:?}", self.most);
        }
    }

    /// Other nodes don't hear of it. What they have leased is set aside, so it counts already.
    async fn limit(&mut self) {
        let node = &self.nodes[self.some_node()];
        let name = *self.dice.pick(&["key-1", "team"]);
        let some = |most| match self.dice.roll(4) {
            0 => None,
            _ => Some(self.dice.between(most / 4, most)),
        };
        let (daily, total, in_any_minute) = (some(DAILY), some(TOTAL), some(ROLLING));
        let window = *self.dice.pick(&[60, 60, 60, 90]);
        let limits = SpendingLimits {
            daily: daily.map(nanos),
            total: total.map(nanos),
            ..in_any_minute.map_or(SpendingLimits::default(), |most| rolling(window, most))
        };
        let ann = account("ann");
        let set = node.ledger.set_limits(&ann, &budget(name), limits);
        set.await.unwrap();
        let found = self.watcher.0.budget(&ann, &budget(name)).await.unwrap();
        let limits = [daily, total, in_any_minute];
        let mut most = counted(&found);
        for (most, limit) in most.iter_mut().zip(limits) {
            *most = limit.map_or(NO_LIMIT, |limit| limit.max(*most));
        }
        self.most.insert(name, most);
        self.tally.limited += 1;
    }

    /// Part of what one of the last calls cost, once, though two nodes ask for it.
    async fn refund(&mut self) {
        let ann = account("ann");
        let rows = self.nodes[self.some_node()]
            .ledger
            .usage(&ann, Page::first(9));
        let rows = rows.await.unwrap().items;
        if rows.is_empty() {
            return;
        }
        let amount = self.dice.between(1, 6);
        let name = format!("refund-{}-{}", self.tally.given_back, self.deposited);
        let refund = self.dice.pick(&rows).refund(nanos(amount), name);
        let (one, other) = (self.some_node(), self.some_node());
        let one = self.nodes[one].ledger.adjust(refund.clone()).await;
        let other = self.nodes[other].ledger.adjust(refund).await;
        assert_eq!(one.is_ok(), other.is_ok());
        match one {
            Ok(_) => {
                self.deposited += amount;
                self.tally.given_back += 1;
            }
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Refused, "{error}"),
        }
    }

    async fn run(mut self, steps: u64) -> Tally {
        for _ in 0..steps {
            match self.dice.roll(100) {
                0..49 => self.hold().await,
                49..81 => self.settle().await,
                81..89 => self.tell().await,
                89..94 => self.pass_time().await,
                94 => self.limit().await,
                95..97 => self.refund().await,
                97..99 => {
                    let amount = self.dice.between(1, 20);
                    self.deposited += amount;
                    let credit = tollgate::usage::Credit {
                        account: account("ann"),
                        amount: nanos(amount),
                        reference: format!("{}", self.deposited),
                    };
                    self.watcher.0.credit(credit).await.unwrap();
                }
                _ => self.kill().await,
            }
            self.check().await;
        }
        for node in std::mem::take(&mut self.nodes) {
            node.ledger.close().await.unwrap();
            for open in node.holds {
                // Those of the store, which is still there.
                node.store.settle(open.hold, costs(0)).await.unwrap();
            }
        }
        time_goes_on(&self.watcher.0, &self.watcher.1, 9).await;
        self.check().await;
        balances(&self.watcher.0, &account("ann"), self.deposited, 0).await;
        let settled = self
            .watcher
            .0
            .balance(&account("ann"))
            .await
            .unwrap()
            .settled;
        let least = self.served - self.tally.lost - self.forgotten;
        assert!(
            settled >= nanos(least),
            "{settled} of {}: {:?}",
            self.served,
            self.tally
        );
        self.tally
    }
}

/// To the microsecond: heartbeats are times of day, and on a clock that stands still nobody is seen
/// to live.
fn ahead(now: Timestamp, seconds: i64) -> Timestamp {
    Timestamp::from_microsecond(now.as_microsecond() + seconds * 1_000_000).unwrap()
}

/// With what is held.
fn counted(budget: &Budget) -> Counts {
    let window = budget.rolling.as_ref().unwrap().settled();
    let windows = [
        (budget.day.settled, budget.day.held),
        (budget.total.settled, budget.total.held),
        (window, budget.total.held),
    ];
    windows.map(|(settled, held)| settled.nanos() + held.nanos())
}

fn setting(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(default, |text| text.parse().unwrap())
}

pub(crate) async fn whatever_happens<P: Place>(seeds: u64, place: impl AsyncFn() -> Option<P>) {
    let (seeds, steps) = (setting("LEASES_SEEDS", seeds), setting("LEASES_STEPS", 300));
    let first = setting("LEASES_FIRST_SEED", 0);
    let mut all = Tally::default();
    for seed in first..first + seeds {
        let Some(place) = place().await else { return };
        eprintln!("LEASES_FIRST_SEED={seed} LEASES_SEEDS=1 repeats this world");
        let tally = World::new(seed, place).await.run(steps).await;
        all.here += tally.here;
        all.in_store += tally.in_store;
        all.refused += tally.refused;
        all.rolling += tally.rolling;
        all.killed += tally.killed;
        all.lost += tally.lost;
        all.days += tally.days;
        all.late += tally.late;
        all.limited += tally.limited;
        all.given_back += tally.given_back;
    }
    eprintln!("{seeds} seeds of {steps} steps: {all:?}");
    // A world in which something never happens proves nothing about it.
    if seeds >= 10 {
        let least = [
            all.here,
            all.in_store,
            all.rolling,
            all.killed,
            all.days,
            all.late,
            all.limited,
            all.given_back,
        ];
        assert!(
            least.iter().all(|count| *count > 5) && all.lost > 0,
            "{all:?}"
        );
    }
}
