//! What every engine must do: each law runs against each of them.
//!
//! The laws of keys and those of logins run against each store that keeps either; the others
//! against those that keep all. Time stands still unless a law turns it.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cloned_ref_to_slice_refs,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a law that fails ends its test"
)]

mod audit;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
#[path = "../simulation/dice.rs"]
mod dice;
mod engines;
#[cfg(feature = "sqlite")]
#[macro_use]
#[path = "../support/passing.rs"]
mod passing;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod lease_laws;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod leased;
#[cfg(feature = "sqlite")]
mod leased_changes;
#[cfg(feature = "sqlite")]
mod leased_failures;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod leased_late;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod leased_world;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod leases;
mod ledger;
mod log;
mod operations;
mod people;
#[cfg(all(feature = "postgres", feature = "metrics"))]
mod postgres_gauge;
#[cfg(feature = "postgres")]
mod postgres_ill;
#[cfg(feature = "postgres")]
mod postgres_laws;
#[cfg(feature = "postgres")]
#[path = "../support/postgres_proxy.rs"]
mod postgres_proxy;
#[cfg(feature = "postgres")]
mod postgres_push;
#[cfg(feature = "postgres")]
mod postgres_schemas;
#[cfg(feature = "postgres")]
#[path = "../support/postgres.rs"]
mod postgres_server;
#[cfg(feature = "postgres")]
mod postgres_tables;
mod races;
mod rate_list;
mod rates;
#[cfg(any(feature = "postgres", feature = "redis", feature = "sqlite"))]
mod recovery;
#[cfg(feature = "redis")]
mod redis_news;
#[cfg(feature = "redis")]
#[path = "../support/redis.rs"]
#[allow(
    dead_code,
    clippy::expect_used,
    reason = "tests of other kinds use the rest"
)]
mod redis_server;
#[cfg(feature = "redis")]
mod redis_sessions;
#[cfg(feature = "redis")]
mod redis_time;
#[cfg(feature = "redis")]
mod redis_under_way;
#[cfg(feature = "redis")]
mod redis_under_way_upkeep;
mod refunds;
mod refunds_of_rows;
mod refunds_that_meet;
#[cfg(feature = "sqlite")]
mod restart;
mod rolling;
mod sessions;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod silence;
mod slots;
mod statement;
mod static_keys;
mod thresholds;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod two_processes;

macro_rules! on_each_engine {
    ($($room:ident::$law:ident,)*) => {
        mod memory {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $law() {
                    let (store, clock) = crate::engines::memory();
                    crate::$room::$law(store, clock).await;
                }
            )*
        }

        #[cfg(feature = "postgres")]
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $law() {
                    if let Some((store, clock)) = crate::engines::postgres().await {
                        crate::$room::$law(store.clone(), clock).await;
                        store.close().await.unwrap();
                    }
                }
            )*
        }

        #[cfg(feature = "postgres")]
        mod postgres_elsewhere {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $law() {
                    if let Some((store, clock)) = crate::engines::postgres_elsewhere().await {
                        crate::$room::$law(store.clone(), clock).await;
                        store.close().await.unwrap();
                    }
                }
            )*
        }

        #[cfg(feature = "sqlite")]
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $law() {
                    let folder = tempfile::tempdir().unwrap();
                    let (store, clock) = crate::engines::sqlite(folder.path()).await;
                    crate::$room::$law(store, clock).await;
                }
            )*
        }
    };
}

/// Runs laws against engines that keep everything, and those of money against Redis too.
macro_rules! laws {
    (
        everything { $($room:ident::$law:ident,)* }
        money { $($money_room:ident::$money_law:ident,)* }
    ) => {
        on_each_engine! { $($room::$law,)* $($money_room::$money_law,)* }

        #[cfg(feature = "redis")]
        mod redis {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $money_law() {
                    if let Some((ledger, clock, _server)) = crate::engines::redis().await {
                        crate::$money_room::$money_law(ledger, clock).await;
                    }
                }
            )*
        }
    };
}

/// Laws of one trait, for stores that keep nothing else too: those that a store of a user's own is
/// tested by.
macro_rules! laws_of {
    ($room:ident on $engine:ident: $($law:ident,)*) => {
        mod $engine {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $law() {
                    if let Some((store, _place)) = crate::engines::alone::$engine().await {
                        tollgate::conformance::$room::$law(store).await;
                    }
                }
            )*
        }
    };
}

macro_rules! key_laws {
    ($($law:ident,)*) => {
        mod key_laws {
            laws_of! { keys on file: $($law,)* }
            laws_of! { keys on memory: $($law,)* }
            #[cfg(feature = "postgres")]
            laws_of! { keys on postgres: $($law,)* }
            #[cfg(feature = "postgres")]
            laws_of! { keys on postgres_elsewhere: $($law,)* }
            #[cfg(feature = "sqlite")]
            laws_of! { keys on sqlite: $($law,)* }
        }
    };
}

macro_rules! session_laws {
    ($($law:ident,)*) => {
        mod session_laws {
            laws_of! { sessions on memory: $($law,)* }
            #[cfg(feature = "postgres")]
            laws_of! { sessions on postgres: $($law,)* }
            #[cfg(feature = "postgres")]
            laws_of! { sessions on postgres_elsewhere: $($law,)* }
            #[cfg(feature = "redis")]
            laws_of! { sessions on redis: $($law,)* }
            #[cfg(feature = "redis-cluster")]
            laws_of! { sessions on redis_cluster: $($law,)* }
            #[cfg(feature = "sqlite")]
            laws_of! { sessions on sqlite: $($law,)* }
        }
    };
}

key_laws! {
    a_key_is_found_by_its_whole_digest_as_it_was_stored,
    an_id_or_a_digest_is_taken_once,
    a_rotation_ends_the_old_key_at_the_earlier_end,
    a_new_key_has_the_settings_that_the_old_one_has_then,
    a_key_is_rotated_once,
    a_new_key_ends_when_it_is_told_to,
    a_rotated_key_ends_with_its_overlap_at_the_latest,
    an_expired_key_goes_on_where_there_is_room,
    a_rotation_of_what_is_not_an_active_own_key_stores_nothing,
    an_owner_has_only_so_many_keys_and_others_theirs,
    another_owner_s_key_is_like_none,
    keys_are_listed_newest_first_a_page_at_a_time,
    keys_of_all_owners_are_listed_newest_first,
    an_update_changes_what_it_names_and_no_revocation,
    a_key_that_was_changed_since_it_was_seen_is_left_as_it_is,
    a_touch_changes_one_column_and_never_goes_back,
    a_deleted_key_is_gone,
    all_keys_of_an_owner_end_in_one_step,
    a_disabled_key_is_enabled_again_unless_it_was_revoked,
    a_disabled_key_leaves_its_place_and_needs_one_to_come_back,
    a_key_gets_another_digest_if_it_has_the_old_one,
    a_key_may_expire_in_the_last_second_of_time,
    active_keys_are_listed_by_their_last_use,
}

session_laws! {
    a_login_ends_once,
    a_refresh_token_is_exchanged_once_and_the_second_time_ends_the_login,
    a_refresh_of_what_is_over_or_another_s_changes_nothing,
    a_refresh_that_leaves_no_time_is_refused,
    a_grace_takes_the_immediate_parent_once_more,
    a_user_has_only_so_many_logins_and_others_theirs,
    of_any_logins_at_once_so_many_stay_as_there_may_be,
    open_logins_are_listed_newest_first,
    of_a_thousand_refreshes_at_once_one_wins_and_then_the_login_ends,
}

#[test]
fn every_law_of_a_suite_is_run_by_it_and_on_each_engine() {
    let suite = include_str!("../../src/conformance/mod.rs");
    let here = concat!(
        include_str!("main.rs"),
        include_str!("rates.rs"),
        include_str!("lease_laws.rs"),
        include_str!("slots.rs")
    );
    let mut laws = 0;
    for source in [
        include_str!("../../src/conformance/keys/mod.rs"),
        include_str!("../../src/conformance/keys/bounds.rs"),
        include_str!("../../src/conformance/keys/ends.rs"),
        include_str!("../../src/conformance/keys/listing.rs"),
        include_str!("../../src/conformance/keys/rotation.rs"),
        include_str!("../../src/conformance/leases/money.rs"),
        include_str!("../../src/conformance/leases/steps.rs"),
        include_str!("../../src/conformance/rates/corrections.rs"),
        include_str!("../../src/conformance/rates/counting.rs"),
        include_str!("../../src/conformance/rates/time.rs"),
        include_str!("../../src/conformance/sessions.rs"),
        include_str!("../../src/conformance/slots.rs"),
    ] {
        for after in source.split("\npub async fn ").skip(1) {
            let law = after.split('<').next().unwrap();
            let listed = format!("\n    {law},\n");
            let with_defects = format!("\n    {law}: ");
            let is_run = here.contains(&listed) || here.contains(&with_defects);
            assert!(suite.contains(&listed) && is_run, "{law}");
            laws += 1;
        }
    }
    assert_eq!(laws, 72);
}

laws! {
    everything {
        log::everybody_s_usage_is_listed_oldest_first,
        log::who_follows_everybody_s_usage_misses_nothing,
        audit::an_event_is_written_down_as_it_was,
        audit::the_audit_log_is_read_a_page_at_a_time,
        audit::the_audit_log_is_read_in_the_order_of_its_times,
        audit::a_filter_finds_what_it_asks_for,
        people::an_address_is_taken_once_in_whatever_case,
        people::users_are_listed_newest_first_a_page_at_a_time,
        people::a_user_s_update_changes_what_it_names,
        people::an_address_that_is_changed_is_taken_once,
        people::no_text_of_a_user_has_a_nul_in_it,
        people::a_user_has_only_so_many_attributes,
        people::a_user_is_changed_only_as_it_was_read,
        people::attributes_of_one_kind_are_counted_in_the_store,
        people::a_new_password_ends_every_login_in_one_step,
        people::an_update_that_ends_logins_does_so_in_one_step,
        people::a_stronger_hash_of_the_same_password_ends_nothing,
        people::a_login_opens_only_for_an_active_user_with_that_password,
        people::a_deleted_user_s_logins_are_gone,
        people::logins_are_forgotten_after_their_time,
        races::a_change_that_fails_harms_nothing_beside_it,
        races::no_login_outlives_the_password_it_was_made_with,
    }
    money {
        ledger::an_account_that_never_was_is_empty,
        ledger::a_reference_pays_once,
        ledger::a_payment_out_of_range_is_refused,
        ledger::a_payment_without_a_name_is_refused,
        ledger::a_settlement_takes_what_the_call_cost,
        ledger::a_refused_hold_changes_nothing,
        ledger::money_that_is_only_held_is_not_gone,
        ledger::a_free_call_is_logged_and_costs_nothing,
        ledger::limits_count_what_was_spent_before,
        ledger::a_day_ends_and_the_month_goes_on,
        ledger::a_hold_is_settled_once,
        ledger::a_hold_that_outlives_its_time_is_given_back,
        ledger::a_late_settlement_charges_once_and_only_what_was_abandoned,
        ledger::a_late_settlement_adds_to_what_was_charged_and_never_takes,
        ledger::after_a_day_a_late_settlement_changes_nothing,
        operations::a_correction_counts_once_and_may_leave_less_than_nothing,
        refunds::a_refund_lowers_what_its_budgets_have_spent,
        refunds::a_refund_of_a_call_counts_where_the_call_did,
        refunds::a_call_is_given_back_once,
        refunds::refunds_of_one_call_that_meet_give_it_back_once,
        refunds::in_a_window_that_rolls_a_refund_takes_the_call_s_own_charge,
        refunds::a_refund_takes_nothing_from_other_calls_in_a_window_that_rolls,
        refunds::a_refund_finds_the_day_in_which_its_call_was_charged,
        refunds::a_refund_that_is_refused_leaves_its_reference_free,
        refunds::a_refund_without_sense_is_refused_before_all_else,
        refunds_of_rows::a_row_of_usage_is_found_by_its_position,
        refunds_of_rows::a_row_is_given_back_to_the_budgets_that_it_tells_of,
        refunds_of_rows::a_large_amount_is_given_back_to_the_last_of_it,
        refunds_of_rows::a_call_that_its_ledger_resolved_is_given_back_where_it_counted,
        operations::a_credit_line_is_spent_and_no_more,
        operations::a_hold_lives_longer_where_it_is_extended,
        operations::an_account_has_only_so_many_holds_open_and_others_theirs,
        operations::an_expired_hold_is_charged_where_that_was_asked_for,
        operations::an_idempotency_key_is_charged_once,
        operations::a_call_that_cost_nothing_frees_its_key,
        operations::an_abandoned_call_frees_its_key,
        operations::a_late_settlement_and_a_repetition_are_charged_once,
        operations::a_soft_limit_is_told_once_in_a_window,
        operations::no_charge_is_larger_than_the_books_can_hold,
        operations::what_can_not_be_counted_is_not_granted,
        operations::no_lifetime_is_too_short_or_too_long,
        operations::a_budget_that_is_named_twice_counts_once,
        operations::a_hundred_holds_with_one_idempotency_key_are_one,
        log::the_log_says_what_happened,
        log::usage_is_listed_newest_first_a_page_at_a_time,
        log::transactions_are_payments_and_charges_in_their_order,
        log::another_account_s_cursor_leads_to_what_is_older,
        statement::what_there_was_and_what_moved_is_what_there_is,
        statement::a_statement_holds_while_the_account_moves,
        statement::a_snapshot_is_the_sum_of_what_it_includes,
        rolling::a_charge_counts_until_its_slice_has_left_the_window,
        rolling::what_is_held_counts_until_its_end_and_its_charge_from_then_on,
        rolling::a_rolling_limit_that_is_changed_forgets_nothing,
        rolling::a_soft_rolling_limit_is_told_once_in_the_length_of_its_window,
        thresholds::each_of_several_soft_limits_is_told_once_in_a_window,
        thresholds::soft_limits_that_stay_are_not_told_again_and_new_ones_when_crossed,
        thresholds::each_of_several_soft_limits_is_told_once_in_a_window_that_rolls,
        thresholds::what_an_account_is_down_to_is_told_once_until_more_is_paid_in,
        rolling::a_rolling_limit_for_ten_serves_ten_of_a_hundred,
        races::money_for_ten_serves_ten_of_a_hundred,
        races::a_limit_for_ten_serves_ten_of_a_hundred,
        races::a_hundred_payments_with_one_reference_are_one,
        races::a_hundred_settlements_of_one_hold_are_one,
        races::the_books_balance_after_a_thousand_calls_of_every_kind,
    }
}
