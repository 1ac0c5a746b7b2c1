//! The laws of rate limits on each engine that has them; and that each law catches stores that
//! break it.

use std::sync::Arc;

use tollgate::clock::ManualClock;

use crate::rate_list::{Defect, Listed};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_list_of_what_was_taken_keeps_all_laws() {
    tollgate::conformance::rates(async |clock| Listed::new(clock, None)).await;
}

macro_rules! rate_laws {
    ($($law:ident: $($defect:ident)|+,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $law() {
                for defect in [$(Defect::$defect),+] {
                    let clock: Arc<ManualClock> = Arc::default();
                    let store = Listed::new(clock.clone(), Some(defect));
                    let law = tollgate::conformance::rates::$law(store, clock);
                    assert!(tokio::spawn(law).await.is_err(), "{defect:?} is not noticed");
                }
            }
        )*

        mod on_memory {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $law() {
                    let (store, clock) = crate::engines::memory_rates();
                    tollgate::conformance::rates::$law(store, clock).await;
                }
            )*
        }

        #[cfg(feature = "redis")]
        mod on_redis {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $law() {
                    if let Some((store, clock, _server)) = crate::redis_time::rates().await {
                        tollgate::conformance::rates::$law(store, clock).await;
                    }
                }
            )*
        }
    };
}

rate_laws! {
    each_window_holds_its_number_and_no_unit_more: AdmitsOneMore | TellsNothing,
    callers_and_limits_have_counts_of_their_own: IgnoresScope | SharesKeys,
    a_refusal_takes_nothing: TakesOnRefusal,
    several_windows_are_taken_all_or_none: TakesFromThoseThatAdmit | JudgesTheFirstWindow,
    a_cost_is_taken_whole: CountsEachAsOne | TakesWhatIsLeft,
    what_a_window_never_holds_is_too_costly: TellsTheTooCostlyToWait,
    what_costs_nothing_is_admitted_and_takes_nothing: RefusesTheFree | TakesOneOfTheFree,
    a_look_takes_nothing: TakesOnLook,
    a_reset_forgets_one_key_and_all_of_it: ForgetsNothing | ForgetsTheFirstWindow | ForgetsEverybody,
    quotas_come_with_each_call: ForgetsUnderAnotherNumber | ForgetsOtherWindows | JudgesAllWindows,
    of_a_hundred_at_once_as_many_are_admitted_as_fit: LooksBeforeItLocks,
    what_was_used_beyond_an_estimate_counts_and_is_never_refused: CorrectsNoFurtherThanFull | CorrectsTwice,
    what_an_estimate_had_too_much_is_given_back_once: CorrectsTwice | GivesNothingBack,
    a_window_is_never_more_than_full_however_much_is_given_back: FillsBeyondFull,
    what_has_left_its_window_is_not_given_back: GivesBackWhatIsGone,
    a_correction_reaches_only_the_windows_that_it_names: CorrectsAllWindows | CorrectsEverybody,
    a_bucket_admits_exactly_what_its_rate_says: DrainsFaster | DrainsSlower,
    a_strict_window_holds_its_number_in_every_period: FreesAtOnce | CountsFixedPeriods | DrainsSlower,
    a_day_a_week_and_a_month_begin_anew: CountsDaysInUtc | WeeksFromThursday | MonthsOfThirtyDays,
    who_waits_as_told_is_admitted: WaitsTooBriefly,
    a_window_is_full_again_when_it_said: IsFullBeforeItSaid,
}
