use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{
    domain::{
        charge::{Tiers, Tokens},
        money::Money,
    },
    spending_limit::price::Counts,
};

const FOUR_THOUSAND: u64 = 4_096;

fn nanos(nanos: i64) -> Money {
    Money::from_nanos(nanos)
}

/// A nano-dollar for a token read, and `output` for one written.
fn by_token(output: i64) -> TokenPrice {
    Price::per_million_tokens(nanos(1_000_000), nanos(output.saturating_mul(1_000_000)))
}

fn asking(model: Option<&str>, output_max: Option<u64>, choices: u64) -> RequestedUse {
    RequestedUse {
        model: model.map(Arc::from),
        output_max,
        choices,
    }
}

fn demand(asked: &RequestedUse) -> Demand<'_> {
    Demand {
        length: RequestLength::Plain(100),
        asked: Some(asked),
    }
}

fn held(price: &Price, asked: &RequestedUse) -> Option<i64> {
    price.hold(demand(asked)).map(Money::nanos)
}

fn refused(price: &Price, asked: &RequestedUse) -> Option<String> {
    let refused = price.admits(&demand(asked)).err();
    refused.map(|denial| denial.message().unwrap().to_owned())
}

#[test]
fn what_is_asked_for_is_held_for() {
    let price = Price::from(by_token(10));
    for (output_max, choices, output) in [
        (None, 1, FOUR_THOUSAND),
        (None, 8, 8 * FOUR_THOUSAND),
        (None, 0, FOUR_THOUSAND),
        (Some(64_000), 1, 64_000),
        (Some(64_000), 8, 512_000),
        (Some(1), 3, 3),
        (Some(0), 3, 0),
    ] {
        let asked = asking(None, output_max, choices);
        let cost = i64::try_from(output)
            .unwrap()
            .saturating_mul(10)
            .saturating_add(100);
        assert_eq!(held(&price, &asked), Some(cost), "{asked:?}");
        let each = output_max.unwrap_or(FOUR_THOUSAND);
        assert_eq!(price.output_held(&demand(&asked)), Some(each));
    }
    assert_eq!(held(&price, &asking(None, Some(u64::MAX), 2)), None);
    assert_eq!(held(&price, &asking(None, Some(u64::MAX), 1)), None);
    let unread = Demand::from(RequestLength::Plain(100));
    assert_eq!(price.hold(unread), Some(nanos(100 + 40_960)));
    let by_length = TokenBound::BodyBytes { unknown: 1 };
    let echo = Price::from(by_token(10).output_bound(by_length));
    assert_eq!(held(&echo, &asking(None, None, 2)), Some(100 + 2 * 1_000));
    assert_eq!(held(&echo, &asking(None, Some(5), 2)), Some(100 + 2 * 50));
    let flat = Price::flat(nanos(7));
    assert_eq!(held(&flat, &asking(None, Some(5), 2)), Some(7));
    assert_eq!(flat.output_held(&demand(&asking(None, Some(5), 2))), None);
}

#[test]
fn the_model_that_is_asked_for_is_held_for() {
    let dear = by_token(100).output_bound(TokenBound::Fixed(50));
    let models = Price::by_model([("small*", by_token(1)), ("large", dear)]);
    for (model, output_max, cost, output) in [
        (Some("small-2024"), Some(10), 110, 10),
        (Some("large"), Some(10), 1_100, 10),
        (Some("other"), Some(10), 1_100, 10),
        (Some("Small-2024"), Some(10), 1_100, 10),
        (Some(" small"), Some(10), 1_100, 10),
        (None, Some(10), 1_100, 10),
        (Some("small"), None, 100 + 4_096, FOUR_THOUSAND),
        (Some("large"), None, 100 + 5_000, 50),
        (None, None, 100 + 5_000, 50),
    ] {
        let asked = asking(model, output_max, 1);
        assert_eq!(held(&models, &asked), Some(cost), "{asked:?}");
        assert_eq!(
            models.output_held(&demand(&asked)),
            Some(output),
            "{asked:?}"
        );
        assert_eq!(refused(&models, &asked), None);
    }
    let listed = models.only_listed_models();
    let must = Some("model: must be one of those that are sold here".to_owned());
    assert_eq!(refused(&listed, &asking(Some("other"), None, 1)), must);
    assert_eq!(refused(&listed, &asking(None, None, 1)), must);
    assert_eq!(refused(&listed, &asking(Some("small"), None, 1)), None);
    let other = asking(Some("other"), None, 1);
    let denial = listed.admits(&demand(&other)).unwrap_err();
    let told = (denial.parameter(), denial.code());
    assert_eq!(told, (Some("model"), Some("model_not_found")));
    let unread = listed.admits(&Demand::default()).unwrap_err();
    assert_eq!(unread.kind(), DenialKind::Internal);
}

#[test]
fn no_more_is_sold_than_the_price_allows() {
    let price = Price::from(by_token(1).requested_output_max(8_192));
    let must = "A request may ask for at most 8192 output tokens, all choices together";
    for (output_max, choices, fits) in [
        (Some(8_192), 1, true),
        (Some(8_193), 1, false),
        (Some(4_096), 2, true),
        (Some(4_096), 3, false),
        (None, 2, true),
        (None, 3, false),
        (Some(u64::MAX), 2, false),
    ] {
        let refused = refused(&price, &asking(None, output_max, choices));
        assert_eq!(refused.is_none(), fits, "{output_max:?} {choices}");
        assert!(refused.is_none_or(|refused| refused == must));
    }
    let unread = price.admits(&Demand::default()).unwrap_err();
    assert_eq!(unread.kind(), DenialKind::Internal);
    assert!(unread.message().is_none(), "the reason is for the log");
    let wide = by_token(1).requested_output_max(64_000);
    let models = Price::by_model([("small", price), ("large", wide.into())]);
    let unread = models.admits(&Demand::default()).unwrap_err();
    assert_eq!(unread.kind(), DenialKind::Internal);
    let asks = |model| refused(&models, &asking(model, Some(64_000), 1)).is_none();
    assert!(asks(Some("large")) && !asks(Some("small")) && !asks(None) && !asks(Some("other")));
}

/// Rates of a price: of a million tokens, in nano-dollars.
fn rates() -> impl Strategy<Value = (i64, i64)> {
    let rate = || 0..100_000_000_000_i64;
    (rate(), rate())
}

proptest! {
    /// Whatever a provider counts that honours the model, the bound and the choices, and reads no
    /// more than the request contains, is covered; and so is what is charged without a count.
    #[test]
    fn what_honours_the_request_never_costs_more_than_its_hold(
        (small, large) in (rates(), rates()),
        own_bound in 0..10_000_u64,
        stated in proptest::option::of(0..200_000_u64),
        choices in 0..200_u64,
        model in proptest::option::of(prop_oneof!["small", "large", "other"]),
        answers in prop_oneof!["small", "large"],
        length in 0..2_000_000_u64,
        (read, cached, written) in (0..=1_000_u64, 0..=1_000_u64, 0..=1_000_u64),
        bytes: u64,
    ) {
        let price = |(input, output)| Price::per_million_tokens(nanos(input), nanos(output))
            .cached_input(nanos(input / 10))
            .output_bound(TokenBound::Fixed(own_bound));
        let models = Price::by_model([("small", price(small)), ("large", price(large))]);
        let asked = asking(model.as_deref(), stated, choices);
        let demand = Demand { length: RequestLength::Plain(length), asked: Some(&asked) };
        let held = models.hold(demand).unwrap();

        let part = |of: u64, thousandths: u64| of.saturating_mul(thousandths) / 1_000;
        let input = part(length, read);
        let each = models.output_held(&demand).unwrap();
        let answered = match model.as_deref() {
            Some(model @ ("small" | "large")) => model,
            _ => &answers,
        };
        let tokens = Tokens {
            input,
            cached: part(input, cached),
            output: part(each.saturating_mul(choices.max(1)), written),
            ..Tokens::default()
        };
        let mut counts = Counts {
            tokens: Some(tokens),
            bytes,
            produced: bytes,
            model: Some(answered),
            tier: Tiers::default(),
            request: demand,
        };
        prop_assert!(models.counted(&counts).unwrap() <= held);
        prop_assert!(models.cost_at_most(held, &counts) <= held);
        counts.tokens = None;
        prop_assert!(models.cost_at_most(held, &counts) <= held);
        prop_assert!(models.sufficient_hold(held, &counts) <= held);
        for model in [None, Some(answered)] {
            counts.model = model;
            let most = models.cost_at_most(held, &counts);
            prop_assert!(most <= held);
            // What is beyond it need not be counted.
            let produced = bytes.min(models.uncounted_max(&demand));
            prop_assert_eq!(models.cost_at_most(held, &Counts { produced, ..counts }), most);
        }
    }
}
