use http::{HeaderMap, HeaderName};

use super::{
    RequestLength::{Encoded, Plain, Unknown},
    *,
};
use crate::domain::charge::Tokens;

mod kinds;
mod markup;
mod scales;

fn nanos(nanos: i64) -> Money {
    Money::from_nanos(nanos)
}

fn counts(input: u64, output: u64) -> Counts<'static> {
    Counts {
        tokens: Some(Tokens {
            input,
            output,
            ..Tokens::default()
        }),
        ..Counts::default()
    }
}

fn by_token() -> TokenPrice {
    Price::per_million_tokens(nanos(500_000_000), nanos(1_500_000_000))
        .output_bound(TokenBound::Fixed(10))
}

#[test]
fn tokens_are_held_for_by_their_bounds_and_charged_by_count() {
    let price = Price::from(by_token());
    assert_eq!(price.hold(Plain(100)), Some(nanos(100 * 500 + 10 * 1_500)));
    assert_eq!(
        price.counted(&Counts::default()),
        None,
        "missing isn't zero"
    );
    assert_eq!(price.counted(&counts(0, 0)), Some(Money::ZERO));
    assert_eq!(
        price.counted(&counts(3, 2)),
        Some(nanos(3 * 500 + 2 * 1_500))
    );
    assert_eq!(price.counted(&counts(u64::MAX, 0)), Some(Money::MAX));
}

#[test]
fn the_length_of_what_is_compressed_bounds_nothing() {
    let length_of = |lines: &[(&'static str, &'static str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        RequestLength::of(&headers, None)
    };
    let length = ("content-length", "100");
    assert_eq!(length_of(&[]), Unknown);
    assert_eq!(length_of(&[("content-length", "many")]), Unknown);
    assert_eq!(length_of(&[length]), Plain(100));
    assert_eq!(
        length_of(&[length, ("content-encoding", "identity")]),
        Plain(100)
    );
    assert_eq!(
        length_of(&[length, ("grpc-encoding", "identity")]),
        Plain(100)
    );
    for coding in [("content-encoding", "gzip"), ("grpc-encoding", "gzip")] {
        assert_eq!(length_of(&[length, coding]), Encoded(100));
        assert_eq!(length_of(&[coding]), Unknown);
    }
    let measured = |coding: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("content-encoding", coding.parse().unwrap());
        RequestLength::of(&headers, Some(100))
    };
    assert_eq!(measured("identity"), Plain(100));
    assert_eq!(measured("gzip"), Encoded(100));
    for (declared, longer) in [("99", 100), ("100", 100), ("101", 101), ("many", 100)] {
        let mut headers = HeaderMap::new();
        headers.insert("content-length", declared.parse().unwrap());
        assert_eq!(RequestLength::of(&headers, Some(100)), Plain(longer));
    }
    let as_sent = TokenBound::BodyBytesAsSent { unknown: 1_000 };
    let undecoded = Price::from(by_token().input_bound(as_sent));
    let bound = TokenBound::BodyBytes { unknown: 1_000 };
    let price = Price::from(by_token().input_bound(bound));
    let held = |read: i64| Some(nanos(read * 500 + 10 * 1_500));
    assert_eq!(price.hold(Encoded(100)), held(1_000));
    assert_eq!(price.hold(Unknown), held(1_000));
    assert_eq!(price.hold(Encoded(4_000)), held(4_000));
    assert_eq!(undecoded.hold(Encoded(100)), held(100));
    assert_eq!(undecoded.hold(Unknown), held(1_000));
}

#[test]
fn what_came_from_a_cache_has_its_own_price() {
    let price = Price::from(by_token().cached_input(nanos(50_000_000)));
    let mut counted = counts(10, 0);
    counted.tokens.as_mut().unwrap().cached = 4;
    assert_eq!(price.counted(&counted), Some(nanos(6 * 500 + 4 * 50)));
}

#[test]
fn what_was_written_to_a_cache_has_its_own_price_by_its_time() {
    let price = Price::from(by_token());
    let mut counted = counts(10, 0);
    let tokens = counted.tokens.as_mut().unwrap();
    (
        tokens.cached,
        tokens.cache_written,
        tokens.written_for_an_hour,
    ) = (1, 7, 3);
    assert_eq!(price.counted(&counted), Some(nanos(10 * 500)));
    let for_minutes = by_token().cache_write(nanos(625_000_000));
    let cost = nanos(3 * 500 + 7 * 625);
    assert_eq!(
        Price::from(for_minutes.clone()).counted(&counted),
        Some(cost)
    );
    let both = Price::from(for_minutes.cache_write_for_an_hour(nanos(1_000_000_000)));
    let cost = nanos(3 * 500 + 4 * 625 + 3 * 1_000);
    assert_eq!(both.counted(&counted), Some(cost));
    // It may all be written for an hour.
    let held = nanos(100 * 1_000 + 10 * 1_500);
    assert_eq!(both.hold(Plain(100)), Some(held));
    assert!(Price::from(by_token().cache_write(nanos(-1))).is_invalid());
    assert!(Price::from(by_token().cache_write_for_an_hour(nanos(-1))).is_invalid());
}

#[test]
fn bytes_are_counted_whatever_they_are() {
    let price = Price::per_million_bytes(nanos(2_000_000), 100);
    assert_eq!(price.hold(Unknown), Some(nanos(200)));
    let sent = Counts {
        bytes: 150,
        ..Counts::default()
    };
    assert_eq!(price.counted(&sent), Some(nanos(300)));
}

#[test]
fn a_model_that_nobody_knows_costs_as_the_dearest() {
    let cheap = Price::per_million_tokens(nanos(1_000_000), nanos(1_000_000));
    let models = Price::by_model([("small", cheap.clone()), ("large", by_token())]);
    assert_eq!(
        models.hold(Plain(100)),
        Price::from(by_token()).hold(Plain(100))
    );
    for (model, cost) in [("small", 20), ("large", 20_000), ("other", 20_000)] {
        let counted = Counts {
            model: Some(model),
            ..counts(10, 10)
        };
        assert_eq!(models.counted(&counted), Some(nanos(cost)), "{model}");
    }
    let nobody: [(&str, Price); 0] = [];
    assert!(Price::by_model(nobody).is_invalid());
    assert!(Price::by_model([("a", Price::by_model([("b", cheap.clone())]))]).is_invalid());
}

#[test]
fn a_stream_that_was_left_costs_no_more_than_its_bytes() {
    let price = Price::from(by_token());
    let held = nanos(100 * 500 + 10 * 1_500);
    let left = |tokens, bytes| {
        let counts = Counts {
            tokens,
            produced: bytes,
            request: Plain(100).into(),
            ..Counts::default()
        };
        price.cost_at_most(held, &counts)
    };
    assert_eq!(left(None, 0), nanos(100 * 500));
    assert_eq!(left(None, 4), nanos(100 * 500 + 4 * 1_500));
    assert_eq!(left(None, 400), held);
    let begun = counts(7, 1).tokens;
    assert_eq!(left(begun, 0), nanos(7 * 500 + 1_500));
    assert_eq!(left(begun, 4), nanos(7 * 500 + 4 * 1_500));
    assert_eq!(left(begun, 400), nanos(7 * 500 + 10 * 1_500));
    let beyond = counts(7, 99).tokens;
    assert_eq!(left(beyond, 400), nanos(7 * 500 + 99 * 1_500));
    let read_all = counts(1_000, 0).tokens;
    assert_eq!(
        left(read_all, 400),
        nanos(1_000 * 500),
        "no less than was counted"
    );
}

#[test]
fn a_stream_that_was_left_costs_what_its_own_model_does() {
    let cheap = Price::per_million_tokens(nanos(1_000_000), nanos(2_000_000));
    let models = Price::by_model([("small", cheap.clone()), ("large", by_token())]);
    let held = models.hold(Plain(100)).unwrap();
    let left = |model, bytes| {
        let counts = Counts {
            produced: bytes,
            model: Some(model),
            request: Plain(100).into(),
            ..Counts::default()
        };
        models.cost_at_most(held, &counts)
    };
    assert_eq!(left("small", 4), nanos(100 + 4 * 2));
    assert_eq!(
        Some(left("small", 5_000)),
        Price::from(cheap).hold(Plain(100))
    );
    for dearest in ["large", "other"] {
        assert_eq!(left(dearest, 4), nanos(100 * 500 + 4 * 1_500), "{dearest}");
        assert_eq!(left(dearest, 5_000), held, "{dearest}");
    }
}

#[test]
fn a_model_costs_by_its_name_or_by_the_longest_beginning() {
    let flat = |cost| Price::flat(nanos(cost));
    let prices = Price::by_model([
        ("gpt-4o*", flat(3)),
        ("gpt-4o-mini*", flat(2)),
        ("gpt-4o-mini-2024", flat(1)),
        ("o1", flat(4)),
    ]);
    assert!(!prices.is_invalid());
    for (model, cost) in [
        ("gpt-4o", 3),
        ("gpt-4o-2024-08-06", 3),
        ("gpt-4o-mini", 2),
        ("gpt-4o-mini-2024-07-18", 2),
        ("gpt-4o-mini-2024", 1),
        ("o1", 4),
        ("o1-mini", 4),
        ("gpt-4", 4),
    ] {
        let counted = Counts {
            model: Some(model),
            ..Counts::default()
        };
        assert_eq!(prices.counted(&counted), Some(nanos(cost)), "{model}");
    }
    for unclear in ["*a", "a*b", "a**"] {
        assert!(Price::by_model([(unclear, flat(1))]).is_invalid());
    }
    assert!(!Price::by_model([("*", flat(1))]).is_invalid());
    let below = Price::by_model([("a*", flat(-1)), ("b", flat(1))]);
    assert!(below.is_invalid());
}

#[test]
fn of_an_unknown_model_of_which_nothing_was_counted_nobody_knows_the_cost() {
    let mixed = Price::by_model([
        ("flat", Price::flat(nanos(1))),
        ("large", by_token().into()),
    ]);
    assert_eq!(mixed.counted(&Counts::default()), None);
    let held = mixed.hold(Unknown).unwrap();
    assert_eq!(
        mixed.cost_at_most(held, &Counts::default()),
        held.saturating_sub(nanos(10 * 1_500))
    );
    let flat = Counts {
        model: Some("flat"),
        ..Counts::default()
    };
    assert_eq!(mixed.counted(&flat), Some(nanos(1)));
}

/// Each call moves its price, from its table into its hold.
#[test]
fn a_price_is_small_whatever_it_goes_by() {
    assert!(size_of::<Price>() <= 64, "{}", size_of::<Price>());
}
