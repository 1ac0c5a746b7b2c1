//! The laws that every store keeps, as tests for a store of one's own.
//!
//! They are those that the engines of this crate are tested by. [`keys`](keys()),
//! [`sessions`](sessions()), [`rates`](rates()), [`slots`](slots()) and `leases` run all laws of a
//! trait, each on a new store, under any tokio runtime; one of several threads lets them meet more
//! of what goes wrong at once. A law that is broken panics, and is named on stderr. Each is a
//! function too, for whoever wants a test of each, or leaves out one that says that it may be. A
//! later version may have further laws.
//!
//! Their time is that of the [`ManualClock`] that a new store is handed: one that looks at a clock,
//! as for [`recently_used`](crate::store::KeyLookup::recently_used), is to look at that. Laws of
//! rate limits and of leases turn it.
//!
//! What a store of one's own needs besides is public too. This one has all of it, and keeps all
//! laws:
//!
//! ```
//! use std::sync::{Arc, Mutex, PoisonError};
//! use tollgate::{
//!     clock::{Clock, Timestamp},
//!     key::{KeyDigest, KeyRecord, KeyUpdate, KeysPerOwner, Rehash, RevokedKey, Rotation, RotationOutcome},
//!     store::{KeyId, KeyLookup, KeyStore, Page, Paged, StoreError, StoreErrorKind, StoreFuture},
//! };
//!
//! /// Keys, oldest first: each step is one under the lock, as it would be in a transaction.
//! #[derive(Debug)]
//! struct Shelf {
//!     keys: Mutex<Vec<(u64, KeyRecord)>>,
//!     clock: Arc<dyn Clock>,
//! }
//!
//! impl Shelf {
//!     fn step<T>(&self, step: impl FnOnce(&mut Vec<(u64, KeyRecord)>) -> Result<T, StoreError>) -> StoreFuture<T> {
//!         StoreFuture::ready(step(&mut self.keys.lock().unwrap_or_else(PoisonError::into_inner)))
//!     }
//! }
//!
//! fn owned<'a>(keys: &'a [(u64, KeyRecord)], owner: &'a str) -> impl Iterator<Item = &'a KeyRecord> {
//!     keys.iter().map(|(_, key)| key).filter(move |key| key.owner == owner)
//! }
//!
//! fn place(keys: &[(u64, KeyRecord)], owner: &str, id: &KeyId) -> Option<usize> {
//!     keys.iter().position(|(_, key)| key.owner == owner && key.id == *id)
//! }
//!
//! fn add(keys: &mut Vec<(u64, KeyRecord)>, key: KeyRecord, leaves: Option<KeyId>) -> Result<(), StoreError> {
//!     if keys.iter().any(|(_, other)| other.id == key.id || other.digest == key.digest) {
//!         return Err(StoreError::new(StoreErrorKind::Conflict, "the id or the digest is taken"));
//!     }
//!     let position = keys.last().map_or(1, |(last, _)| last + 1);
//!     keys.retain(|(_, other)| Some(&other.id) != leaves.as_ref());
//!     keys.push((position, key));
//!     Ok(())
//! }
//!
//! impl KeyLookup for Shelf {
//!     fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
//!         self.step(|keys| Ok(keys.iter().find(|(_, key)| key.digest == *digest).map(|(_, key)| key.clone())))
//!     }
//!
//!     fn touch(&self, id: &KeyId, at: Timestamp) {
//!         let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
//!         if let Some((_, key)) = keys.iter_mut().find(|(_, key)| key.id == *id) {
//!             key.last_used_at = key.last_used_at.max(Some(at));
//!         }
//!     }
//!
//!     fn rehash(&self, change: Rehash) -> StoreFuture<bool> {
//!         self.step(|keys| {
//!             let is_meant = |key: &KeyRecord| key.id == change.id && key.digest == change.from;
//!             let Some(place) = keys.iter().position(|(_, key)| is_meant(key)) else { return Ok(false) };
//!             if keys.iter().any(|(_, key)| key.digest == change.digest && key.id != change.id) {
//!                 return Err(StoreError::new(StoreErrorKind::Conflict, "the digest is taken"));
//!             }
//!             Ok(keys[place].1.rehash(&change))
//!         })
//!     }
//!
//!     fn recently_used(&self, limit: u16) -> StoreFuture<Vec<KeyRecord>> {
//!         self.step(|keys| {
//!             let now = self.clock.now();
//!             let mut active: Vec<_> = keys.iter().map(|(_, key)| key).filter(|key| key.is_active(now)).cloned().collect();
//!             active.sort_by_key(|key| std::cmp::Reverse(key.last_used_at));
//!             active.truncate(limit.into());
//!             Ok(active)
//!         })
//!     }
//! }
//!
//! impl KeyStore for Shelf {
//!     fn insert(&self, key: KeyRecord, bounds: Option<KeysPerOwner>) -> StoreFuture<()> {
//!         self.step(|keys| {
//!             let leaves = bounds.map(|bounds| bounds.admit(&key, owned(keys, &key.owner))).transpose()?;
//!             add(keys, key, leaves.flatten())
//!         })
//!     }
//!
//!     fn rotate(&self, rotation: Rotation, bounds: Option<KeysPerOwner>) -> StoreFuture<RotationOutcome> {
//!         self.step(|keys| {
//!             let Some(place) = place(keys, &rotation.owner, &rotation.replaced) else {
//!                 return Ok(RotationOutcome::Unknown);
//!             };
//!             let mut old = keys[place].1.clone();
//!             let successor = match old.rotate(&rotation) {
//!                 Ok(successor) => successor,
//!                 Err(outcome) => return Ok(outcome),
//!             };
//!             let leaves = bounds.map(|bounds| bounds.make_room(&successor, owned(keys, &rotation.owner))).transpose()?;
//!             let (before, replaced) = (std::mem::replace(&mut keys[place].1, old), keys[place].1.digest);
//!             if let Err(taken) = add(keys, successor.clone(), leaves.flatten()) {
//!                 keys[place].1 = before; // All or nothing.
//!                 return Err(taken);
//!             }
//!             Ok(RotationOutcome::Rotated { replaced, successor: Box::new(successor) })
//!         })
//!     }
//!
//!     fn get(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
//!         self.step(|keys| Ok(place(keys, owner, id).map(|place| keys[place].1.clone())))
//!     }
//!
//!     fn list(&self, owner: &str, page: Page) -> StoreFuture<Paged<KeyRecord>> {
//!         self.step(|keys| {
//!             let behind = keys.iter().rev().filter(|(position, key)| {
//!                 key.owner == owner && page.cursor().is_none_or(|cursor| *position < cursor)
//!             });
//!             let rows = behind.take(usize::from(page.limit()) + 1).cloned().collect();
//!             Ok(Paged::from_rows(&page, rows))
//!         })
//!     }
//!
//!     fn list_all(&self, page: Page) -> StoreFuture<Paged<KeyRecord>> {
//!         self.step(|keys| {
//!             let behind = keys.iter().rev().filter(|(position, _)| page.cursor().is_none_or(|cursor| *position < cursor));
//!             let rows = behind.take(usize::from(page.limit()) + 1).cloned().collect();
//!             Ok(Paged::from_rows(&page, rows))
//!         })
//!     }
//!
//!     fn update(&self, owner: &str, id: &KeyId, change: KeyUpdate, bounds: Option<KeysPerOwner>) -> StoreFuture<Option<KeyRecord>> {
//!         self.step(|keys| {
//!             let Some(place) = place(keys, owner, id) else { return Ok(None) };
//!             let (mut key, now) = (keys[place].1.clone(), self.clock.now());
//!             if !key.is_as_seen(change.seen.as_deref()) {
//!                 return Err(StoreError::new(StoreErrorKind::Conflict, "the key was changed meanwhile"));
//!             }
//!             if key.comes_back(&change, now) && let Some(bounds) = bounds {
//!                 bounds.admit_again(now, owned(keys, owner))?;
//!             }
//!             key.apply(change);
//!             keys[place].1 = key.clone();
//!             Ok(Some(key))
//!         })
//!     }
//!
//!     fn revoke_all(&self, owner: &str, at: Timestamp) -> StoreFuture<Vec<RevokedKey>> {
//!         self.step(|keys| {
//!             let owned = keys.iter_mut().map(|(_, key)| key).filter(|key| key.owner == owner);
//!             Ok(owned.filter_map(|key| key.revoke(at)).collect())
//!         })
//!     }
//!
//!     fn delete(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
//!         self.step(|keys| Ok(place(keys, owner, id).map(|place| keys.remove(place).1)))
//!     }
//! }
//!
//! # #[tokio::main] async fn main() {
//! // In a `#[tokio::test(flavor = "multi_thread")]`:
//! tollgate::conformance::keys(async |clock| Shelf { keys: Mutex::default(), clock }).await;
//! # }
//! ```

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a law that is broken ends its test"
)]
#![expect(
    clippy::field_reassign_with_default,
    reason = "they are written as whoever uses the crate must write them"
)]

pub mod keys;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "postgres", feature = "sqlite"))))]
pub mod leases;
pub mod rates;
pub mod sessions;
pub mod slots;

use std::{fmt, sync::Arc, time::Duration};

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use crate::store::LeaseStore;
use crate::{
    domain::clock::{Clock, ManualClock, Timestamp},
    store::{ConcurrencyStore, KeyStore, RateStore, SessionStore, StoreError, StoreErrorKind},
};

/// All laws of a suite, each on a store of its own.
macro_rules! suite {
    ($(#[$doc:meta])* $suite:ident of $trait:ident: $($law:ident,)*) => {
        $(#[$doc])*
        ///
        /// `new_store` makes an empty store that reads this clock.
        ///
        /// # Panics
        /// When a law is broken.
        pub async fn $suite<S: $trait>(mut new_store: impl AsyncFnMut(Arc<ManualClock>) -> S) {
            $(
                eprintln!("{}::{}", stringify!($suite), stringify!($law));
                $suite::$law(Arc::new(new_store(Arc::default()).await)).await;
            )*
        }
    };
    (turning $(#[$doc:meta])* $suite:ident of $trait:ident: $($law:ident,)*) => {
        $(#[$doc])*
        ///
        /// `new_store` makes a store that has nothing in it yet and reads this clock, which the
        /// laws turn.
        ///
        /// # Panics
        /// When a law is broken.
        pub async fn $suite<S: $trait>(mut new_store: impl AsyncFnMut(Arc<ManualClock>) -> S) {
            $(
                eprintln!("{}::{}", stringify!($suite), stringify!($law));
                let clock = Arc::new(ManualClock::default());
                $suite::$law(new_store(Arc::clone(&clock)).await, clock).await;
            )*
        }
    };
}

suite! {
    /// Runs all [laws of a key store](mod@keys).
    keys of KeyStore:
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

suite! {
    /// Runs all [laws of a store of logins](mod@sessions).
    sessions of SessionStore:
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

suite! {
    turning
    /// Runs all [laws of a store that counts requests](mod@rates).
    rates of RateStore:
    each_window_holds_its_number_and_no_unit_more,
    callers_and_limits_have_counts_of_their_own,
    a_refusal_takes_nothing,
    several_windows_are_taken_all_or_none,
    a_cost_is_taken_whole,
    what_a_window_never_holds_is_too_costly,
    what_costs_nothing_is_admitted_and_takes_nothing,
    a_look_takes_nothing,
    a_reset_forgets_one_key_and_all_of_it,
    quotas_come_with_each_call,
    of_a_hundred_at_once_as_many_are_admitted_as_fit,
    what_was_used_beyond_an_estimate_counts_and_is_never_refused,
    what_an_estimate_had_too_much_is_given_back_once,
    a_window_is_never_more_than_full_however_much_is_given_back,
    what_has_left_its_window_is_not_given_back,
    a_correction_reaches_only_the_windows_that_it_names,
    a_bucket_admits_exactly_what_its_rate_says,
    a_strict_window_holds_its_number_in_every_period,
    a_day_a_week_and_a_month_begin_anew,
    who_waits_as_told_is_admitted,
    a_window_is_full_again_when_it_said,
}

suite! {
    /// Runs all [laws of a store that counts requests under way](mod@slots).
    slots of ConcurrencyStore:
    a_key_has_so_many_slots_and_no_more,
    a_slot_is_free_once_it_is_dropped,
    a_refused_request_takes_no_slot,
    callers_and_limits_have_slots_of_their_own,
    who_gives_up_takes_no_slot,
    of_a_hundred_at_once_as_many_are_under_way_as_may_be,
    a_slot_outlives_whoever_took_it,
}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
suite! {
    turning
    /// Runs all [laws of a ledger whose money can be leased](mod@leases).
    leases of LeaseStore:
    a_step_counts_once,
    a_lease_is_opened_by_its_first_step_and_for_a_living_instance,
    a_lease_ends_with_its_last_step,
    a_late_report_counts_once_and_where_its_hold_did,
    a_store_tells_its_instance_and_its_time,
    what_is_leased_is_there_for_nobody_else,
    a_lease_grows_by_an_eighth_and_past_no_limit,
    what_is_needed_no_more_is_given_back,
    what_was_served_is_charged_and_written_down,
    what_cost_more_than_was_leased_is_charged_all_the_same,
    a_charge_counts_in_the_day_of_its_lease,
    of_many_leases_at_once_no_more_is_set_aside_than_there_is,
}

fn now() -> Timestamp {
    ManualClock::default().now()
}

fn later(seconds: u32) -> Timestamp {
    now() + Duration::from_secs(seconds.into())
}

fn kind<T: fmt::Debug>(answer: Result<T, StoreError>) -> StoreErrorKind {
    answer.unwrap_err().kind()
}
