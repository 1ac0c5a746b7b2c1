//! The laws of ledgers whose money can be leased, on each engine that has them; and that each law
//! catches stores that break it.

#[cfg(feature = "sqlite")]
mod wrong {
    use std::{
        collections::HashMap,
        sync::{Arc, Mutex},
        time::Duration,
    };

    use tollgate::{
        books::{
            Balance, Budget, HoldRefusal, LeaseId, LeaseStanding, LeaseStep, Snapshot, StepKind,
        },
        budget::{SpendingLimits, Windows},
        clock::{Clock, Timestamp},
        money::Money,
        store::{
            AccountId, BudgetId, LeaseStore, Ledger, Page, Paged, SqliteStore, StoreFuture, Tenure,
        },
        usage::{Adjustment, Call, Credit, Hold, HoldRequest, Settlement, Transaction, UsageEntry},
    };

    use crate::engines::Time;

    /// What is wrong with a store.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Defect {
        AppliesAgain,
        OpensForTheDead,
        OpensAnywhere,
        NeverEnds,
        ForgetsLateReports,
        CountsLateReportsToday,
        TellsNoInstance,
        TellsAnotherTime,
        TellsAnotherDay,
        HoldsNothing,
        GrantsWhatIsAsked,
        GrowsAtOnce,
        KeepsWhatItHas,
        LosesARow,
        ChargesWhatWasHeld,
        ChargesWhatIsLeased,
        CountsToday,
        LooksBeforeItLocks,
    }

    /// SQLite's ledger, behind what does something wrong with its steps.
    #[derive(Clone, Debug)]
    pub(crate) struct Wrong {
        store: SqliteStore,
        clock: Time,
        defect: Defect,
        nobody: Arc<Tenure>,
        known: Arc<Mutex<HashMap<LeaseId, Known>>>,
    }

    /// What was done with a lease.
    #[derive(Clone, Copy, Debug)]
    struct Known {
        /// By its node, and in the store.
        steps: (u64, u64),
        amount: Money,
        day: i64,
    }

    impl Wrong {
        pub(crate) fn new(store: SqliteStore, clock: Time, defect: Defect) -> Self {
            Self {
                store,
                clock,
                defect,
                nobody: Arc::default(),
                known: Arc::default(),
            }
        }

        fn has(&self, defect: Defect) -> bool {
            self.defect == defect
        }

        fn next(&self, id: LeaseId) -> u64 {
            let mut known = self.known.lock().unwrap();
            let known = known.get_mut(&id).unwrap();
            known.steps.1 += 1;
            known.steps.1
        }

        /// The step that the store gets instead.
        fn instead(&self, mut step: LeaseStep) -> LeaseStep {
            let day = self.store.windows(self.clock.now()).day;
            let mut all = self.known.lock().unwrap();
            let known = all.entry(step.id).or_insert(Known {
                steps: (0, 0),
                amount: Money::ZERO,
                day,
            });
            let is_again = step.number <= known.steps.0;
            let renumbers = [
                Defect::AppliesAgain,
                Defect::GrowsAtOnce,
                Defect::CountsToday,
            ];
            let renumbers = renumbers.contains(&self.defect) && step.kind == StepKind::Lease;
            if renumbers && (!is_again || self.has(Defect::AppliesAgain)) {
                known.steps = (step.number, known.steps.1 + 1);
                step.number = known.steps.1;
            }
            match self.defect {
                Defect::OpensForTheDead => step.id.instance = self.store.tenure().instance(),
                Defect::OpensAnywhere if known.steps.0 == 0 => step.number = 1,
                Defect::NeverEnds => step.ends = false,
                Defect::HoldsNothing => step.target = Money::ZERO,
                Defect::KeepsWhatItHas => step.target = step.target.max(known.amount),
                Defect::LosesARow => drop(step.served.pop()),
                Defect::CountsToday if known.day < day => {
                    known.steps.1 = 1;
                    known.day = day;
                    (step.id.number, step.number) = (step.id.number + 1_000, 1);
                }
                _ => {}
            }
            for served in &mut step.served {
                let charged = &mut served.settlement.charged;
                match self.defect {
                    Defect::ChargesWhatWasHeld => *charged = served.held,
                    Defect::ChargesWhatIsLeased => *charged = (*charged).min(known.amount),
                    _ => {}
                }
            }
            if let StepKind::Late(report) = &mut step.kind {
                if self.has(Defect::CountsLateReportsToday) {
                    report.windows = self.store.windows(self.clock.now());
                } else if self.has(Defect::ForgetsLateReports) {
                    known.steps.0 += 1;
                    step.id.number += 1_000_000 * known.steps.0;
                }
            }
            step
        }
    }

    impl LeaseStore for Wrong {
        fn lease(&self, asked: Arc<LeaseStep>) -> StoreFuture<LeaseStanding> {
            let wrong = self.clone();
            let (id, number, target) = (asked.id, asked.number, asked.target);
            StoreFuture::new(async move {
                let before = wrong.store.balance(&asked.account).await?.available();
                let step = wrong.instead(Arc::unwrap_or_clone(asked));
                if wrong.has(Defect::LooksBeforeItLocks) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                let mut standing = wrong.store.lease(Arc::new(step.clone())).await?;
                for _ in 0..50 {
                    let grows = wrong.has(Defect::GrowsAtOnce) && standing.amount < target;
                    if !grows || number == 0 {
                        break;
                    }
                    let mut more = step.clone();
                    more.served.clear();
                    more.number = wrong.next(id);
                    standing = wrong.store.lease(Arc::new(more)).await?;
                }
                let told = match wrong.defect {
                    Defect::HoldsNothing | Defect::GrantsWhatIsAsked => target,
                    Defect::LooksBeforeItLocks if number == 1 => {
                        target.min(Money::from_nanos(before.nanos() / 8))
                    }
                    _ => standing.amount,
                };
                if standing.is_open {
                    standing.amount = told;
                }
                let mut known = wrong.known.lock().unwrap();
                if let Some(known) = known.get_mut(&id) {
                    known.steps.0 = known.steps.0.max(number);
                    known.amount = standing.amount;
                }
                Ok(standing)
            })
        }

        fn tenure(&self) -> &Tenure {
            if self.has(Defect::TellsNoInstance) {
                &self.nobody
            } else {
                self.store.tenure()
            }
        }

        fn clock(&self) -> Arc<dyn Clock> {
            if self.has(Defect::TellsAnotherTime) {
                Arc::new(tollgate::clock::ManualClock::default())
            } else {
                self.clock.clone()
            }
        }

        fn windows(&self, now: Timestamp) -> Windows {
            let mut windows = self.store.windows(now);
            if self.has(Defect::TellsAnotherDay) {
                windows.day = windows.month;
            }
            windows
        }
    }

    impl Ledger for Wrong {
        fn hold(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>> {
            self.store.hold(request)
        }

        fn settle(&self, hold: Hold, settlement: Settlement) -> StoreFuture<()> {
            self.store.settle(hold, settlement)
        }

        fn extend(&self, hold: &Hold, lifetime: Duration) -> StoreFuture<bool> {
            self.store.extend(hold, lifetime)
        }

        fn record(&self, call: Call, settlement: Settlement) -> StoreFuture<()> {
            self.store.record(call, settlement)
        }

        pass_on_books!(store);
    }
}

macro_rules! lease_laws {
    ($($law:ident: $($defect:ident)|+,)*) => {
        #[cfg(feature = "sqlite")]
        mod caught {
            use super::wrong::{Defect, Wrong};

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $law() {
                    for defect in [$(Defect::$defect),+] {
                        let folder = tempfile::tempdir().unwrap();
                        let (store, clock) = crate::engines::sqlite(folder.path()).await;
                        let store = Wrong::new(store, clock.clone(), defect);
                        let law = tollgate::conformance::leases::$law(store, clock);
                        assert!(tokio::spawn(law).await.is_err(), "{defect:?} is not noticed");
                    }
                }
            )*
        }

        #[cfg(feature = "sqlite")]
        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $law() {
                    let folder = tempfile::tempdir().unwrap();
                    let (store, clock) = crate::engines::sqlite(folder.path()).await;
                    tollgate::conformance::leases::$law(store, clock).await;
                }
            )*
        }

        #[cfg(feature = "postgres")]
        mod on_postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $law() {
                    if let Some((store, clock)) = crate::engines::postgres().await {
                        tollgate::conformance::leases::$law(store, clock).await;
                    }
                }
            )*
        }
    };
}

lease_laws! {
    a_step_counts_once: AppliesAgain,
    a_lease_is_opened_by_its_first_step_and_for_a_living_instance: OpensForTheDead | OpensAnywhere,
    a_lease_ends_with_its_last_step: NeverEnds,
    a_late_report_counts_once_and_where_its_hold_did: ForgetsLateReports | CountsLateReportsToday,
    a_store_tells_its_instance_and_its_time: TellsNoInstance | TellsAnotherTime | TellsAnotherDay,
    what_is_leased_is_there_for_nobody_else: HoldsNothing,
    a_lease_grows_by_an_eighth_and_past_no_limit: GrantsWhatIsAsked | GrowsAtOnce,
    what_is_needed_no_more_is_given_back: KeepsWhatItHas,
    what_was_served_is_charged_and_written_down: LosesARow | ChargesWhatWasHeld,
    what_cost_more_than_was_leased_is_charged_all_the_same: ChargesWhatIsLeased,
    a_charge_counts_in_the_day_of_its_lease: CountsToday,
    of_many_leases_at_once_no_more_is_set_aside_than_there_is: LooksBeforeItLocks,
}
