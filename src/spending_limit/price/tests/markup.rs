//! What a seller adds to a provider's prices.

use super::*;

/// A price with everything that a price can have, each number times `times`.
fn everything(times: i64) -> TokenPrice {
    let each = |number: i64| nanos(number.saturating_mul(times));
    let long = Price::per_million_tokens(each(70), each(80)).audio_output(each(90));
    let tier = Price::per_million_tokens(each(100), each(110)).above_input(20, long.clone());
    Price::per_million_tokens(each(10), each(20))
        .cached_input(each(1))
        .cache_write(each(12))
        .cache_write_for_an_hour(each(15))
        .audio_input(each(30))
        .image_input(each(40))
        .audio_output(each(50))
        .image_output(each(60))
        .above_input(10, long)
        .tier("priority", tier)
        .web_searches(each(7), 3)
        .output_bound(TokenBound::Fixed(9))
        .requested_output_max(10)
}

#[test]
fn every_price_is_raised_and_no_bound_is() {
    assert_eq!(everything(4).markup_bps(2_500), everything(5));
    assert_eq!(everything(1).markup_bps(10_000), everything(2));
    assert_eq!(everything(3).markup_bps(0), everything(3));
}

#[test]
fn a_raised_price_is_rounded_up() {
    let raised = Price::per_million_tokens(nanos(1), nanos(10_001)).markup_bps(1);
    assert_eq!(raised, Price::per_million_tokens(nanos(2), nanos(10_003)));
}

#[test]
fn what_is_set_afterwards_is_not_raised() {
    let price = by_token().markup_bps(10_000).cached_input(nanos(3));
    let twice = Price::per_million_tokens(nanos(1_000_000_000), nanos(3_000_000_000))
        .output_bound(TokenBound::Fixed(10))
        .cached_input(nanos(3));
    assert_eq!(price, twice);
}

#[test]
fn a_price_that_becomes_too_high_is_refused() {
    let dearest = Price::per_million_tokens(nanos(0), Money::MAX);
    assert!(!Price::from(dearest.clone().markup_bps(0)).is_invalid());
    assert!(Price::from(dearest.markup_bps(1)).is_invalid());
    let searches = by_token().web_searches(Money::MAX, 1);
    assert!(Price::from(searches.markup_bps(u32::MAX)).is_invalid());
    let negative = Price::per_million_tokens(nanos(-1), nanos(1));
    assert!(Price::from(negative.markup_bps(5)).is_invalid());
}
