//! When a client is told to come again, if at all.

use super::*;

#[test]
fn waits_are_whole_seconds_rounded_up_and_never_zero() {
    for (wait, header) in [(0, "1"), (1, "1"), (1_000, "1"), (1_001, "2")] {
        let wait = Duration::from_millis(wait);
        let denial = Denial::new(DenialKind::RateLimited).retry_after(wait);
        let (response, _) = answer(&Denials::default(), &denial, "/");
        assert_eq!(response.headers()[RETRY_AFTER], header);
    }
}

#[test]
fn who_meets_a_failing_store_is_told_when_to_come_again() {
    let failing = Denial::new(DenialKind::Unavailable);
    for format in [
        DenialFormat::Problem,
        DenialFormat::OpenAi,
        DenialFormat::Anthropic,
    ] {
        let denials = Denials::new(format);
        let (response, _) = answer(&denials, &failing, "/");
        assert_eq!(
            (response.status(), &response.headers()[RETRY_AFTER]),
            (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
        );
        assert!(!response.headers().contains_key("x-should-retry"));
        let later = failing.clone().retry_after(Duration::from_secs(30));
        let (response, _) = answer(&denials, &later, "/");
        assert_eq!(response.headers()[RETRY_AFTER], "30");
    }
    let (response, _) = answer(&Denials::new(DenialFormat::OpenAi), &failing, "/");
    assert_eq!(response.headers()["retry-after-ms"], "1000");
    let (response, _) = answer(&Denials::default(), &Denial::new(DenialKind::Internal), "/");
    assert!(!response.headers().contains_key(RETRY_AFTER));
}

#[test]
fn who_lacks_money_for_a_moment_is_not_told_to_give_up() {
    for kind in [
        DenialKind::InsufficientCredits,
        DenialKind::SpendingLimitReached,
    ] {
        for format in [DenialFormat::OpenAi, DenialFormat::Anthropic] {
            let advice = |denial: Denial| {
                let (response, body) = answer(&Denials::new(format), &denial, "/");
                assert_eq!(response.status(), 402);
                let header = |name| response.headers().get(name).cloned();
                (header("x-should-retry"), header("retry-after"), body)
            };
            let held = Denial::new(kind).passing();
            let (retry, wait, text) = advice(held.retry_after(Duration::from_secs(1)));
            assert_eq!(
                (retry.unwrap(), wait.unwrap()),
                ("true".parse().unwrap(), "1".parse().unwrap())
            );
            let (retry, wait, same) = advice(Denial::new(kind));
            assert_eq!((retry.unwrap(), wait), ("false".parse().unwrap(), None));
            assert_eq!(text, same, "{kind:?}");
            let later = Denial::new(kind).retry_after(Duration::from_secs(9));
            assert_eq!(advice(later).0.unwrap(), "false");
        }
    }
    let advice = |denial: &Denial| {
        let (response, _) = answer(&Denials::new(DenialFormat::OpenAi), denial, "/");
        response.headers().get("x-should-retry").cloned()
    };
    let taken = || Denial::new(DenialKind::Conflict);
    assert_eq!(advice(&taken()), None);
    assert_eq!(advice(&taken().passing()).unwrap(), "true");
    assert_eq!(advice(&taken().lasting()).unwrap(), "false");
    assert_eq!(
        advice(&Denial::new(DenialKind::RateLimited).passing()),
        None
    );
}
