//! What processes have together when their store fails.

use super::*;

/// What is free in a bucket with that limit.
fn free(bucket: &mut Bucket, limit: u32, now_ms: u64) -> u32 {
    limit - u32::try_from(bucket.held(now_ms)).unwrap()
}

/// Two processes share 100 per second, and one of them serves three requests out of four. The one
/// that serves less has no more left for that when the store fails, however often.
#[test]
fn whoever_served_less_has_no_more_than_was_left() {
    let (processes, clock, fate) = with_fate(2, 0, Degraded::default());
    let quotas = Quotas::from(Quota::per_second(100));
    let key = RateKey::new(&"test".into(), b"a");
    let take = |process: usize| {
        let taken = now(processes[process].take(&key, &quotas, 1));
        taken.unwrap().is_admitted()
    };
    let (mut with, mut without) = ([0_u32; 2], [0_u32; 2]);
    for process in [0, 0, 0, 1].into_iter().cycle().take(4 * 300) {
        clock.advance(Duration::from_micros(2_500));
        with[process] += u32::from(take(process));
    }
    assert!(
        with[0] > 2 * with[1] && with[0] + with[1] <= 400,
        "{with:?}"
    );
    fate.store(true, Ordering::Relaxed);
    for process in [0, 0, 0, 1].into_iter().cycle().take(4 * 300) {
        clock.advance(Duration::from_micros(2_500));
        without[process] += u32::from(take(process));
    }
    assert!(
        without
            .iter()
            .all(|admitted| (148..=150).contains(admitted)),
        "{without:?}"
    );
}

/// A process that hasn't noticed that the store is back still admits its share, so until then no
/// other takes more than its own.
#[tokio::test(start_paused = true)]
async fn whoever_finds_the_store_back_keeps_to_its_share_until_all_have() {
    let (processes, clock, fate) = with_fate(1, 8, Degraded::default());
    let process = &processes[0];
    let quotas = Quotas::from(Quota::per_second(100));
    let key = RateKey::new(&"test".into(), b"a");
    let admitted = async || {
        let mut admitted = 0;
        for _ in 0..200 {
            let taken = process.take(&key, &quotas, 1).await.unwrap();
            admitted += u32::from(taken.is_admitted());
        }
        admitted
    };
    fate.store(true, Ordering::Relaxed);
    assert_eq!(admitted().await, 50);
    fate.store(false, Ordering::Relaxed);
    while process.statistics().is_degraded {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(admitted().await, 0, "nothing anew");
    clock.advance(Duration::from_secs(1));
    assert_eq!(admitted().await, 50, "a half");
    clock.advance(Duration::from_secs(1));
    assert_eq!(admitted().await, 100, "the whole");
}

/// Until all have found the store back, nobody is promised more than the share admits, nor more
/// than the store does; and what was taken meanwhile is given back in full.
#[tokio::test(start_paused = true)]
async fn who_calls_before_all_have_found_the_store_is_told_the_smaller_count() {
    let (processes, clock, fate) = with_fate(1, 0, Degraded::default());
    let process = &processes[0];
    let quotas = Quotas::from(Quota::per_hour(100));
    let [key, busy] = [b"a", b"b"].map(|name| RateKey::new(&"test".into(), name));
    let take = async |key: &RateKey, cost| process.take(key, &quotas, cost).await.unwrap();
    let peek = async |key: &RateKey| process.peek(key, &quotas).await.unwrap().remaining();
    let remote: &MemoryRateLimiter = &process.remote().0;
    fate.store(true, Ordering::Relaxed);
    // The store counts these as well, and its answer is lost.
    assert_eq!(take(&key, 20).await.readings.remaining(), 30);
    fate.store(false, Ordering::Relaxed);
    while process.statistics().is_degraded {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(remote.take(&busy, &quotas, 90).is_admitted(), "by another");
    let taken = take(&key, 10).await;
    assert_eq!(taken.readings.remaining(), 20, "of its share, not 70");
    assert_eq!(peek(&key).await, 20);
    assert_eq!(take(&busy, 1).await.readings.remaining(), 9, "not 49");
    assert_eq!(peek(&busy).await, 9);
    assert_eq!(remote.peek(&key, &quotas).remaining(), 70);
    let correction = Correction {
        units: -10,
        taken_at: taken.taken_at,
        readings: taken.readings,
    };
    process.correct(&key, &quotas, correction).await.unwrap();
    assert_eq!(remote.peek(&key, &quotas).remaining(), 80);
    clock.advance(Duration::from_secs(2));
    assert_eq!(take(&key, 1).await.readings.remaining(), 79);
    assert_eq!(peek(&key).await, 79);
}

/// A correction reports what is left as a request does, even if another process took everything.
#[test]
fn a_correction_is_heard_of_before_the_store_goes() {
    let (processes, _, fate) = with_fate(1, 0, Degraded::default());
    let process = &processes[0];
    let quotas = Quotas::from(Quota::per_hour(100));
    let key = RateKey::new(&"test".into(), b"a");
    let take = |cost| now(process.take(&key, &quotas, cost)).unwrap();
    let correct = |taken: &RateDecision, units| {
        let (taken_at, readings) = (taken.taken_at, taken.readings.clone());
        let correction = Correction {
            units,
            taken_at,
            readings,
        };
        now(process.correct(&key, &quotas, correction))
    };
    let (first, second) = (take(40), take(40));
    correct(&first, -30).unwrap();
    fate.store(true, Ordering::Relaxed);
    assert!(
        !take(26).is_admitted() && take(5).is_admitted(),
        "a half of 50"
    );
    correct(&second, -30).unwrap();
    assert!(
        !take(21).is_admitted(),
        "what the store doesn't hear is not given back"
    );
    correct(&second, 15).unwrap();
    assert!(
        !take(6).is_admitted() && take(5).is_admitted(),
        "but used it is"
    );
}

proptest! {
    /// Each process has its part of what it knows to be left, what has drained since, and what it
    /// took ahead: nothing that others took before is forgotten, and none is in debt.
    #[test]
    fn each_has_its_part_of_what_it_heard_last(
        parts in 1_u32..5,
        units in 1_u32..40,
        lease in 0_u32..9,
        steps in prop::collection::vec((0_usize..3, 0_u64..120, 1_u32..4), 0..60),
    ) {
        let degraded = Degraded::local(NonZeroU32::new(parts).unwrap());
        let (processes, clock, fate) = with_fate(3, lease, degraded);
        let limit = parts * units;
        let quotas = Quotas::from(Quota::per(Duration::from_millis(u64::from(limit) * INTERVAL_MS), limit));
        let key = RateKey::new(&"test".into(), b"a");
        let (mut bucket, mut now_ms) = (Bucket::default(), 0);
        // What each knows: the state of the bucket, and what it has in hand.
        let mut known = [(); 3].map(|()| (Bucket::default(), InHand::default()));
        for (at, wait, cost) in steps {
            clock.advance(Duration::from_millis(wait));
            now_ms += wait;
            let process = &processes[at];
            let before = process.statistics();
            let decision = now(process.take(&key, &quotas, cost)).unwrap();
            let (heard, in_hand) = &mut known[at];
            let _ = in_hand.left(now_ms);
            if process.statistics().round_trips == before.round_trips {
                in_hand.spend(if decision.is_admitted() { cost } else { 0 });
                continue;
            }
            if decision.is_admitted() {
                let plenty = lease > cost && free(&mut bucket, limit, now_ms) >= 2 * lease;
                let taken = if plenty { lease } else { cost };
                bucket.add(taken, now_ms);
                if plenty {
                    in_hand.add(taken - cost, now_ms);
                }
            }
            *heard = Bucket(bucket.0.clone());
        }
        fate.store(true, Ordering::Relaxed);
        clock.advance(Duration::from_millis(5));
        now_ms += 5;
        for (process, (heard, in_hand)) in processes.iter().zip(&mut known) {
            let expected = in_hand.left(now_ms) + free(heard, limit, now_ms) / parts;
            let mut admitted = 0;
            let wait = loop {
                match now(process.take(&key, &quotas, 1)).unwrap().outcome {
                    RateOutcome::Admitted => admitted += 1,
                    RateOutcome::Refused(wait) => break wait,
                    RateOutcome::TooCostly => panic!("one is not too costly"),
                }
            };
            prop_assert_eq!(admitted, expected);
            prop_assert!(wait <= Duration::from_millis(u64::from(parts) * INTERVAL_MS));
        }
    }
}
