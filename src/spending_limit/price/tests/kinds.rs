//! Audio, images, and what contradicts itself.

use super::*;
use crate::{
    domain::charge::{Charge, Missing, Tiers},
    spending_limit::missing::Unpriced,
};

fn costs(price: &TokenPrice, tokens: Tokens) -> i64 {
    price.cost(&tokens, None).nanos()
}

/// Text 500 and 1,500, audio 4,000 and 8,000, images 1,000 and 3,000 nano-dollars a token.
fn by_kind() -> TokenPrice {
    by_token()
        .audio_input(nanos(4_000_000_000))
        .image_input(nanos(1_000_000_000))
        .audio_output(nanos(8_000_000_000))
        .image_output(nanos(3_000_000_000))
}

#[test]
fn audio_and_images_have_prices_of_their_own() {
    let tokens = Tokens {
        input: 100,
        input_audio: 30,
        input_image: 20,
        output: 50,
        output_audio: 10,
        output_image: 5,
        ..Tokens::default()
    };
    let read = 50 * 500 + 30 * 4_000 + 20 * 1_000;
    let written = 35 * 1_500 + 10 * 8_000 + 5 * 3_000;
    assert_eq!(costs(&by_kind(), tokens), read + written);
    assert_eq!(costs(&by_token(), tokens), 100 * 500 + 50 * 1_500);
    // It may all be audio.
    let held = nanos(100 * 4_000 + 10 * 8_000);
    assert_eq!(by_kind().hold(&Plain(100).into()), Some(held));
    for negative in [
        by_token().audio_input(nanos(-1)),
        by_token().image_input(nanos(-1)),
        by_token().audio_output(nanos(-1)),
        by_token().image_output(nanos(-1)),
        by_token().web_searches(nanos(-1), 1),
    ] {
        assert!(Price::from(negative).is_invalid());
    }
}

#[test]
fn a_price_of_zero_is_one() {
    let free = by_token()
        .audio_input(Money::ZERO)
        .cached_input(Money::ZERO);
    let tokens = Tokens {
        input: 10,
        input_audio: 4,
        cached: 1,
        ..Tokens::default()
    };
    assert_eq!(costs(&free, tokens), 6 * 500);
    let counts = Counts {
        tokens: Some(tokens),
        ..Counts::default()
    };
    assert_eq!(free.unpriced(&counts), [None; 3]);
}

#[test]
fn what_came_from_a_cache_is_taken_for_the_cheapest_kind() {
    let cached = by_kind().cached_input(nanos(50_000_000));
    let tokens = |cached| Tokens {
        input: 100,
        cached,
        input_audio: 30,
        ..Tokens::default()
    };
    let cost = 70 * 50 + 30 * 4_000;
    assert_eq!(costs(&cached, tokens(70)), cost, "all audio is fresh");
    let cost = 90 * 50 + 10 * 4_000;
    assert_eq!(costs(&cached, tokens(90)), cost, "not all of it can be");
    // Audio that is cheaper than text: then text is fresh.
    let cheap_audio = by_token()
        .cached_input(Money::ZERO)
        .audio_input(nanos(1_000_000));
    assert_eq!(costs(&cheap_audio, tokens(30)), 70 * 500);
}

#[test]
fn parts_that_are_more_than_their_whole_raise_it() {
    let tokens = Tokens {
        input: 7,
        cached: 4,
        cache_written: 6,
        written_for_an_hour: 9,
        output: 3,
        output_audio: 5,
        ..Tokens::default()
    };
    let whole = tokens.with_whole_parts();
    assert_eq!((whole.input, whole.written_for_an_hour), (10, 6));
    assert_eq!(whole.output, 5);
}

#[test]
fn the_handler_counts_kinds_and_names_a_tier() {
    let charge = Charge::new();
    charge.add_audio_input_tokens(3);
    charge.add_image_input_tokens(2);
    charge.add_output_tokens(9);
    charge.add_audio_output_tokens(4);
    charge.add_image_output_tokens(1);
    charge.add_web_searches(2);
    charge.set_service_tier("flex");
    charge.set_service_tier("priority");
    let expected = Tokens {
        input: 5,
        input_audio: 3,
        input_image: 2,
        output: 9,
        output_audio: 4,
        output_image: 1,
        searches: 2,
        missing: Missing::Input,
        ..Tokens::default()
    };
    assert_eq!(charge.tokens(), Some(expected));
    assert_eq!(charge.service_tier().map(AsRef::as_ref), Some("flex"));
    let named = Charge::new();
    named.set_service_tier("flex");
    assert_eq!(named.tokens(), None, "a tier is no count");
    let unnamed = Charge::new();
    for name in ["", " ", "\n"] {
        unnamed.set_service_tier(name);
        assert_eq!(unnamed.service_tier(), None);
    }
    unnamed.set_service_tier("default ");
    assert_eq!(unnamed.service_tier().map(AsRef::as_ref), Some("default"));
}

#[test]
fn parts_that_the_handler_counts_replace_no_count_of_the_answers() {
    let read = Tokens {
        input: 1_000,
        cached: 10,
        output: 50,
        searches: 1,
        ..Tokens::default()
    };
    let beside = |count: fn(&Charge), read| {
        let charge = Charge::new();
        count(&charge);
        charge.tokens_beside(read)
    };
    let searched = Tokens {
        searches: 3,
        ..read
    };
    let add_two = |charge: &Charge| charge.add_web_searches(2);
    assert_eq!(beside(add_two, Some(read)), Some(searched));
    let alone = Tokens {
        searches: 2,
        input_is_unknown: true,
        missing: Missing::Both,
        ..Tokens::default()
    };
    assert_eq!(beside(add_two, None), Some(alone));
    let parts = |charge: &Charge| {
        charge.add_cached_tokens(9);
        charge.add_hour_cache_write_tokens(3);
        charge.add_audio_input_tokens(4);
        charge.add_image_output_tokens(60);
    };
    let with_parts = Tokens {
        cache_written: 3,
        written_for_an_hour: 3,
        input_audio: 4,
        output: 60,
        output_image: 60,
        ..read
    };
    assert_eq!(beside(parts, Some(read)), Some(with_parts));
    let whole = |charge: &Charge| {
        charge.add_output_tokens(0);
        charge.add_web_searches(2);
    };
    let counted = Tokens {
        searches: 2,
        missing: Missing::Input,
        ..Tokens::default()
    };
    assert_eq!(beside(whole, Some(read)), Some(counted), "all replaced");
    assert_eq!(beside(|_| {}, Some(read)), Some(read));
    assert_eq!(beside(|_| {}, None), None);
}

#[test]
fn searches_cost_by_the_thousand_and_are_held_for() {
    // $10 a thousand: a cent each.
    let price = by_token().web_searches(Money::from_dollars(10).unwrap(), 3);
    let cent = 10_000_000;
    let tokens = Tokens {
        searches: 5,
        ..Tokens::default()
    };
    assert_eq!(costs(&price, tokens), 5 * cent);
    assert_eq!(costs(&by_token(), tokens), 0);
    let held = by_token().hold(&Plain(100).into()).unwrap().nanos() + 3 * cent;
    assert_eq!(price.hold(&Plain(100).into()), Some(nanos(held)));
    let endless = Tokens {
        searches: u64::MAX,
        ..Tokens::default()
    };
    assert_eq!(price.cost(&endless, None), Money::MAX);
    // Of a stream that was left, those that were counted by then.
    let begun = Counts {
        tokens: counts(7, 1).tokens,
        request: Plain(100).into(),
        ..Counts::default()
    };
    let most = nanos(7 * 500 + 1_500);
    assert_eq!(price.cost_at_most(nanos(held), &begun), most);
    let searched = Counts {
        tokens: begun.tokens.map(|tokens| Tokens {
            searches: 2,
            ..tokens
        }),
        ..begun
    };
    let most = nanos(7 * 500 + 1_500 + 2 * cent);
    assert_eq!(price.cost_at_most(nanos(held), &searched), most);
    let uncounted = Counts {
        tokens: None,
        ..begun
    };
    let most = nanos(100 * 500);
    assert_eq!(price.cost_at_most(nanos(held), &uncounted), most);
}

#[test]
fn what_has_no_price_of_its_own_is_told() {
    let told = |price: &TokenPrice, tokens: Tokens, tier| {
        let counts = Counts {
            tokens: Some(tokens),
            tier: Tiers::from(tier),
            ..Counts::default()
        };
        price.unpriced(&counts) != [None; 3]
    };
    let none = Tokens::default();
    let audio = Tokens {
        output: 1,
        output_audio: 1,
        ..none
    };
    let searched = Tokens {
        searches: 1,
        ..none
    };
    let (plain, kinds) = (by_token(), by_kind());
    assert!(!told(&plain, none, None));
    assert!(told(&plain, audio, None));
    assert!(!told(&kinds, audio, None));
    assert!(told(&kinds, searched, None));
    assert!(!told(&by_token().web_searches(nanos(1), 0), searched, None));
    assert!(told(&plain, none, Some("priority")));
    assert!(!told(&plain, none, Some("default")));
    let all = Counts {
        tokens: Some(Tokens {
            searches: 1,
            ..audio
        }),
        tier: Tiers::from(Some("flex")),
        ..Counts::default()
    };
    let each = [Unpriced::Media, Unpriced::Searches, Unpriced::Tier];
    assert_eq!(plain.unpriced(&all), each.map(Some));
    let tiered = by_kind().tier("priority", by_rates());
    assert!(!told(&tiered, none, Some("priority")));
    assert!(told(&tiered, audio, Some("priority")), "by its own rates");
    assert!(!told(&tiered, audio, Some("standard")));
}

fn by_rates() -> TokenPrice {
    Price::per_million_tokens(nanos(1), nanos(1))
}
