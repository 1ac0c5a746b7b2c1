//! Longer requests, tiers, and that a hold covers what a call within its bounds can cost.

use proptest::prelude::*;

use super::*;
use crate::{domain::charge::Tiers, spending_limit::PriceTable};

/// So many nano-dollars for a token of input, and of output.
fn rates(input: i64, output: i64) -> TokenPrice {
    Price::per_million_tokens(
        nanos(input.saturating_mul(1_000_000)),
        nanos(output.saturating_mul(1_000_000)),
    )
}

fn cost(price: &TokenPrice, input: u64, output: u64, tier: Option<&str>) -> i64 {
    let tokens = counts(input, output).tokens.unwrap();
    price.cost(&tokens, tier).nanos()
}

#[test]
fn a_longer_request_costs_other_prices_for_all_of_it() {
    // Gemini 2.5 Pro: $1.25 and $10; above 200,000 tokens $2.50 and $15.
    let gemini = rates(1_250, 10_000).above_input(200_000, rates(2_500, 15_000));
    assert_eq!(
        cost(&gemini, 200_000, 10, None),
        200_000 * 1_250 + 10 * 10_000
    );
    assert_eq!(
        cost(&gemini, 200_001, 10, None),
        200_001 * 2_500 + 10 * 15_000
    );
    // What was cached is input, and its prices are the longer request's.
    let cached = rates(3, 15)
        .cached_input(nanos(300_000))
        .above_input(100, rates(6, 22).cached_input(nanos(600_000)));
    let tokens = Tokens {
        input: 101,
        cached: 100,
        ..Tokens::default()
    };
    assert_eq!(cached.cost(&tokens, None).nanos(), 60 + 6);
}

#[test]
fn the_largest_number_that_is_exceeded_counts() {
    let price = rates(1, 1)
        .above_input(128, rates(9, 9))
        .above_input(32, rates(2, 2))
        .above_input(128, rates(3, 3));
    for (input, each) in [(32, 1), (33, 2), (128, 2), (129, 3), (9_999, 3)] {
        assert_eq!(
            cost(&price, input, 0, None),
            i64::try_from(input).unwrap() * each
        );
    }
}

#[test]
fn the_hold_is_for_the_dearest_that_may_apply() {
    let price = rates(1, 10)
        .output_bound(TokenBound::Fixed(5))
        .above_input(200, rates(2, 20));
    assert_eq!(price.hold(&Plain(200).into()), Some(nanos(200 + 50)));
    assert_eq!(price.hold(&Plain(201).into()), Some(nanos(201 * 2 + 100)));
    // Longer ones that are cheaper.
    let cheaper = rates(2, 20)
        .output_bound(TokenBound::Fixed(5))
        .above_input(200, rates(1, 10));
    assert_eq!(cheaper.hold(&Plain(201).into()), Some(nanos(201 * 2 + 100)));
    let tiers = price
        .tier("flex", rates(0, 5))
        .tier("priority", rates(1, 30).above_input(300, rates(4, 40)));
    assert_eq!(tiers.hold(&Plain(200).into()), Some(nanos(200 + 150)));
    assert_eq!(tiers.hold(&Plain(301).into()), Some(nanos(301 * 4 + 200)));
}

#[test]
fn a_tier_costs_by_its_name_and_an_unknown_one_the_most() {
    let price = rates(2, 20)
        .tier("flex", rates(1, 10))
        .tier("priority", rates(9, 9))
        .tier("Priority", rates(4, 40).above_input(100, rates(5, 50)));
    for (tier, each) in [
        (None, 2),
        (Some("default"), 2),
        (Some("standard"), 2),
        (Some("ON_DEMAND"), 2),
        (Some("flex"), 1),
        (Some("FLEX"), 1),
        (Some("priority"), 4),
        (Some("auto"), 4),
        (Some("ultra"), 4),
        (Some(""), 2),
        (Some(" "), 2),
        (Some("default "), 2),
        (Some(" flex "), 1),
    ] {
        assert_eq!(cost(&price, 1, 0, tier), each, "{tier:?}");
    }
    assert_eq!(cost(&price, 101, 0, Some("priority")), 505);
    let named = rates(2, 20).tier("default", rates(3, 30));
    assert_eq!(cost(&named, 1, 0, Some("default")), 3);
    assert_eq!(cost(&named, 1, 0, None), 2);
    let untiered = rates(2, 20);
    assert_eq!(cost(&untiered, 1, 0, Some("priority")), 2);
}

#[test]
fn a_stream_that_was_left_is_of_the_dearest_tier_unless_it_named_one() {
    let price = rates(1, 10)
        .output_bound(TokenBound::Fixed(8))
        .tier("flex", rates(0, 5))
        .tier("priority", rates(2, 20));
    let held = price.hold(&Plain(100).into()).unwrap();
    let left = |tokens, tier, bytes| {
        let counts = Counts {
            tokens,
            tier: Tiers::from(tier),
            produced: bytes,
            request: Plain(100).into(),
            ..Counts::default()
        };
        price.cost_at_most(held, &counts).nanos()
    };
    assert_eq!(left(None, None, 3), 100 * 2 + 3 * 20);
    let begun = counts(50, 1).tokens;
    assert_eq!(left(begun, None, 3), 50 * 2 + 3 * 20);
    assert_eq!(left(begun, Some("auto"), 3), 50 * 2 + 3 * 20);
    assert_eq!(left(begun, Some("default"), 3), 50 + 3 * 10);
    assert_eq!(left(begun, Some("flex"), 3), 3 * 5);
    // What came beyond the count may be audio.
    let spoken = rates(1, 10).audio_output(nanos(50_000_000));
    let counts = Counts {
        tokens: begun,
        produced: 3,
        request: Plain(100).into(),
        ..Counts::default()
    };
    let held = spoken.hold(&Plain(100).into()).unwrap();
    assert_eq!(spoken.cost_at_most(held, &counts).nanos(), 50 + 10 + 2 * 50);
}

#[test]
fn of_several_tiers_the_dearest_counts() {
    let price = rates(2, 20)
        .tier("flex ", rates(1, 10))
        .tier("priority", rates(4, 40));
    let cost = |names| {
        let tokens = counts(1, 0).tokens.unwrap();
        price.cost(&tokens, Tiers::from(names)).nanos()
    };
    let (flex, priority) = (Some("flex"), Some("priority"));
    assert_eq!(cost([None, None, priority, Some("ON_DEMAND")]), 4);
    assert_eq!(cost([flex, priority, None, None]), 4);
    assert_eq!(cost([None, None, flex, Some("ON_DEMAND")]), 2);
    assert_eq!(cost([None, flex, None, flex]), 1);
    assert_eq!(cost([None, flex, None, Some("auto")]), 4);
    assert_eq!(cost([Some(""), flex, None, Some(" ")]), 1);
}

/// Zeros in every event but the last, or no input in them.
#[test]
fn a_stream_that_was_left_before_its_input_was_counted_costs_all_of_it() {
    let price = rates(1_000, 10_000).above_input(800_000, rates(2_000, 15_000));
    let left = |tokens, length| {
        let counts = Counts {
            tokens: Some(tokens),
            produced: 127,
            request: Plain(length).into(),
            ..Counts::default()
        };
        let held = price.hold(&counts.request).unwrap();
        price.cost_at_most(held, &counts).nanos()
    };
    let zeros = Tokens::default();
    assert_eq!(left(zeros, 800_000), 800_000 * 1_000 + 127 * 10_000);
    assert_eq!(left(zeros, 1_000_000), 1_000_000 * 2_000 + 127 * 15_000);
    let output = |output| Tokens {
        output,
        input_is_unknown: true,
        ..zeros
    };
    assert_eq!(left(output(200), 100), 100 * 1_000 + 200 * 10_000);
    assert_eq!(left(output(5), 100), 100 * 1_000 + 127 * 10_000);
    let most = 100 * 1_000 + 4_096 * 10_000;
    assert_eq!(left(output(4_096), 100), most, "as was held");
    let counted = counts(7, 5).tokens.unwrap();
    assert_eq!(left(counted, 1_000_000), 7 * 1_000 + 127 * 10_000);
    // The tier that was named still counts.
    let tiered = rates(2, 20).tier("priority", rates(4, 40));
    let counts = Counts {
        tokens: Some(zeros),
        tier: Tiers::from(Some("default")),
        produced: 3,
        request: Plain(100).into(),
        ..Counts::default()
    };
    let held = tiered.hold(&counts.request).unwrap();
    assert_eq!(tiered.cost_at_most(held, &counts).nanos(), 260);
}

#[test]
fn a_whole_count_that_names_no_input_costs_what_was_held_for() {
    let price = Price::from(rates(1, 10).above_input(99, rates(2, 20)));
    let cost = |tokens| {
        let counts = Counts {
            tokens: Some(tokens),
            produced: 900,
            request: Plain(100).into(),
            ..Counts::default()
        };
        price.counted(&counts).unwrap().nanos()
    };
    let unnamed = Tokens {
        output: 5,
        input_is_unknown: true,
        ..Tokens::default()
    };
    assert_eq!(cost(unnamed), 100 * 2 + 5 * 20);
    let zero = Tokens {
        input_is_unknown: false,
        ..unnamed
    };
    assert_eq!(cost(zero), 5 * 10, "explicitly zero");
}

#[test]
fn what_only_a_whole_price_can_have_is_refused_within_it() {
    let bounded = || rates(1, 1).output_bound(TokenBound::Fixed(7));
    let read = || rates(1, 1).input_bound(TokenBound::Fixed(7));
    let longer = || rates(1, 1).above_input(5, rates(1, 1));
    for price in [
        rates(1, 1).above_input(5, longer()),
        rates(1, 1).above_input(5, bounded()),
        rates(1, 1).above_input(5, read()),
        rates(1, 1).above_input(5, rates(1, 1).web_searches(nanos(1), 1)),
        rates(1, 1).above_input(5, rates(-1, 1)),
        rates(1, 1).tier("a", rates(1, -1)),
        rates(1, 1).tier("a", rates(1, 1).above_input(5, rates(1, -1))),
        rates(1, 1).tier("a", rates(1, 1).above_input(5, bounded())),
        rates(1, 1).tier("a", rates(1, 1).tier("b", rates(1, 1))),
        rates(1, 1).tier("a", bounded()),
        rates(1, 1).tier("a", rates(1, 1).web_searches(nanos(1), 1)),
        rates(1, 1).tier("", rates(1, 1)),
        rates(1, 1).tier("a", rates(1, 1).requested_output_max(7)),
    ] {
        let prices = PriceTable::new();
        assert!(prices.route("POST", "/chat", price).is_err());
    }
    let fine = longer().tier("a", longer()).web_searches(nanos(1), 1);
    assert!(!Price::from(fine).is_invalid());
}

/// Prices of any shape, in nano-dollars of a million, so that rounding matters.
fn prices() -> impl Strategy<Value = TokenPrice> {
    let money = || (0_i64..5_000_000).prop_map(nanos);
    let optional = || proptest::option::of((0_i64..5_000_000).prop_map(nanos));
    let rates = move || {
        let cached = (optional(), optional(), optional());
        let media = (optional(), optional(), optional(), optional());
        (money(), money(), cached, media).prop_map(|(input, output, cached, media)| {
            let set = |price: TokenPrice,
                       rate: Option<Money>,
                       set: fn(TokenPrice, Money) -> TokenPrice| {
                match rate {
                    Some(rate) => set(price, rate),
                    None => price,
                }
            };
            let price = Price::per_million_tokens(input, output);
            let price = set(price, cached.0, TokenPrice::cached_input);
            let price = set(price, cached.1, TokenPrice::cache_write);
            let price = set(price, cached.2, TokenPrice::cache_write_for_an_hour);
            let price = set(price, media.0, TokenPrice::audio_input);
            let price = set(price, media.1, TokenPrice::image_input);
            let price = set(price, media.2, TokenPrice::audio_output);
            set(price, media.3, TokenPrice::image_output)
        })
    };
    let scale = move || {
        let above = proptest::collection::vec((0_u64..2_000, rates()), 0..3);
        (rates(), above)
            .prop_map(|(price, above)| {
                let mut above = above.into_iter();
                above.try_fold(price, |price, (tokens, rates)| {
                    Some(price.above_input(tokens, rates))
                })
            })
            .prop_map(|price| price.unwrap())
    };
    let tiers = proptest::collection::vec((0_u8..4, scale()), 0..3);
    let searches = proptest::option::of((0_i64..5_000_000, 0_u64..9));
    (scale(), tiers, searches).prop_map(|(price, tiers, searches)| {
        let named = |tier: u8| ["flex", "priority", "default", "batch"][usize::from(tier)];
        let mut price = price;
        for (tier, rates) in tiers {
            price = price.tier(named(tier), rates);
        }
        match searches {
            Some((each, bound)) => price.web_searches(nanos(each), bound),
            None => price,
        }
    })
}

/// Counts within these bounds, that may contradict each other.
fn usage(input: u64, output: u64) -> impl Strategy<Value = Tokens> {
    let read = (
        0..=input,
        0..=input,
        0..=input,
        0..=input,
        0..=input,
        0..=input,
    );
    let written = (0..=output, 0..=output, 0..=output);
    (read, written).prop_map(move |(read, written)| {
        let tokens = Tokens {
            input: read.0,
            cached: read.1,
            cache_written: read.2,
            written_for_an_hour: read.3,
            input_audio: read.4,
            input_image: read.5,
            output: written.0,
            output_audio: written.1,
            output_image: written.2,
            ..Tokens::default()
        };
        tokens.with_whole_parts()
    })
}

fn tiers() -> impl Strategy<Value = Option<&'static str>> {
    let names = ["flex", "priority", "default", "batch", "auto", "unheard of"];
    proptest::option::of(proptest::sample::select(names.to_vec()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_hold_covers_every_usage_within_its_bounds(
        price in prices(),
        tokens in usage(1_500, 700),
        tier in tiers(),
        searches in 0_u64..9,
        more in (0_u64..100, 0_u64..100),
        bytes in 0_u64..2_000,
    ) {
        let bound = price.clone().web_searches(nanos(3_333), 8);
        for (price, searches) in [(price, 0), (bound, searches.min(8))] {
            let price = price
                .input_bound(TokenBound::Fixed(tokens.input.saturating_add(more.0)))
                .output_bound(TokenBound::Fixed(tokens.output.saturating_add(more.1)));
            prop_assert!(!price.is_invalid());
            let held = price.hold(&Unknown.into()).unwrap();
            let tokens = Tokens { searches, ..tokens };
            let cost = price.cost(&tokens, tier);
            prop_assert!(cost <= held, "{cost} > {held}");
            // What a stream that was left costs is between them.
            let all = Counts { tokens: Some(tokens), tier: Tiers::from(tier), produced: bytes, ..Counts::default() };
            let left = price.cost_at_most(held, &all);
            prop_assert!(cost <= left && left <= held, "{cost} {left} {held}");
            // Searches that nobody has counted yet aren't charged.
            let cost = price.cost(&Tokens { searches: 0, ..tokens }, tier);
            let uncounted = Counts { tokens: None, produced: tokens.output, ..all };
            let left = price.cost_at_most(held, &uncounted);
            prop_assert!(cost <= left && left <= held, "{cost} {left} {held}");
        }
    }

    #[test]
    fn no_tier_that_is_not_listed_costs_less_than_none(price in prices(), tokens in usage(3_000, 700)) {
        let ordinary = price.cost(&tokens, None);
        prop_assert!(price.cost(&tokens, Some("unheard of")) >= ordinary);
        prop_assert!(price.cost(&tokens, Some("auto")) >= ordinary);
    }
}
