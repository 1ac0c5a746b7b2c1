//! Nobody chooses a price or a budget by what can't be read.

use super::*;

/// The client chooses between a free price and a dear one by its model, and so a budget.
fn chosen_by_model(chosen: &Arc<AtomicU64>) -> (SpendingLimitLayer, MemoryStore) {
    let model = |head: &tollgate::RequestHead<'_>| {
        let asked: Option<&RequestedUse> = head.extensions.get();
        asked.and_then(|asked| asked.model.clone())
    };
    let (by_price, by_budget) = (Arc::clone(chosen), Arc::clone(chosen));
    let price = move |head: &tollgate::RequestHead<'_>| {
        by_price.fetch_add(1, Ordering::SeqCst);
        match model(head).as_deref() {
            Some("large") => Price::flat(dollars("2000")),
            _ => Price::free(),
        }
    };
    let prices = PriceTable::new().route_by("POST", PATH, price).unwrap();
    let ledger = MemoryStore::new();
    let layer = SpendingLimitLayer::new(ledger.clone(), prices).add_budget_by(move |head, _| {
        by_budget.fetch_add(1, Ordering::SeqCst);
        model(head).map(|model| BudgetId::new(&model)).transpose()
    });
    (layer, ledger)
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_before_a_price_is_chosen_by_it() {
    let chosen = Arc::new(AtomicU64::new(0));
    let (layer, ledger) = chosen_by_model(&chosen);
    let outer = reads(RequestShape::OpenAiChat).bytes_max(1_000);
    let service = outer.layer(layer.layer(service_fn(async |request: Request<_>| {
        let _: &DigestedBody<Pieces> = request.body();
        Ok::<_, Infallible>(answer("text/plain", &["hello"]))
    })));
    let call = |pieces: Vec<Result<&'static str, io::Error>>, headers| {
        let mut request = post(pieces_of(pieces));
        let more = request_with("key-1", headers).into_parts().0.headers;
        request.headers_mut().extend(more);
        let answer = service.clone().oneshot(request);
        async move { said(answer.await.unwrap()).await.0 }
    };
    let long = "{\"model\":\"large\",\"user\":\"".to_owned() + &"u".repeat(1_000) + "\"}";
    let long: &'static str = long.leak();
    let large = r#"{"model":"large"}"#;
    let gzip: &[(&'static str, &'static str)] = &[("content-encoding", "gzip")];
    let form = &[("content-type", "application/x-www-form-urlencoded")];
    let broken = || Err(io::Error::other("gone"));
    for (pieces, headers, status) in [
        (
            vec![Ok(r#"{"model":"large","model":"large"}"#)],
            &[][..],
            400,
        ),
        (vec![Ok(long)], &[], 413),
        (vec![Ok(large), broken()], &[], 400),
        (vec![Ok(large)], gzip, 400),
        (vec![Ok(large)], form, 400),
    ] {
        let what = format!("{pieces:?} {headers:?}");
        assert_eq!(call(pieces, headers).await, status, "{what}");
    }
    assert_eq!(chosen.load(Ordering::SeqCst), 0, "no closure was asked");
    assert_eq!(call(vec![Ok(large)], &[]).await, 402);
    assert_eq!(call(vec![Ok(r#"{"model":"small"}"#)], &[]).await, 200);
    let rows = ledger.usage(&account(), Page::first(9)).await.unwrap();
    assert_eq!(rows.items.len(), 1, "the one that was answered");
}

type Pieces = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, io::Error>>>>;

fn pieces_of(pieces: Vec<Result<&'static str, io::Error>>) -> Pieces {
    let frame = |piece: &'static str| Frame::data(Bytes::from_static(piece.as_bytes()));
    let frames: Vec<_> = pieces.into_iter().map(|piece| piece.map(frame)).collect();
    StreamBody::new(stream::iter(frames))
}

/// A body that came too slowly isn't known either, nor what another layer had read of it.
#[tokio::test(start_paused = true)]
async fn what_comes_too_slowly_is_refused_before_a_price_is_chosen_by_it() {
    let chosen = Arc::new(AtomicU64::new(0));
    let (layer, _) = chosen_by_model(&chosen);
    let service =
        reads(RequestShape::OpenAiChat).layer(layer.layer(service_fn(async |_: Request<_>| {
            Ok::<_, Infallible>(answer("text/plain", &["hello"]))
        })));
    let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
    let mut request = post(never);
    request.extensions_mut().insert(RequestedUse::default());
    let answer = service.oneshot(request).await.unwrap();
    assert_eq!(said(answer).await.0, 408);
    assert_eq!(chosen.load(Ordering::SeqCst), 0);
}

/// The hold is for the model of the path, and the body can't name another.
#[tokio::test]
async fn gemini_s_model_is_that_of_its_path() {
    const CALLS: &str = "/v1beta/models/{call}";
    let bound = |price: TokenPrice| price.input_bound(TokenBound::Fixed(0));
    let flash = bound(Price::per_million_tokens(dollars("0.15"), dollars("0.60")));
    let models = Price::by_model([("pro", bound(dear())), ("flash", flash)]);
    let (ledger, _) = funded_with("1000", dear()).await;
    let prices = PriceTable::new().route("POST", CALLS, models).unwrap();
    let layer = SpendingLimitLayer::new(ledger.clone(), prices);
    let service = BodyDigestLayer::new()
        .read_use("POST", CALLS, RequestShape::Gemini)
        .unwrap()
        .layer(layer.layer(service_fn(obedient::<DigestedBody<Full<Bytes>>>)));
    let config = json!({"maxOutputTokens": 9, "candidateCount": 3});
    for (last, model, status, each) in [
        ("pro:generateContent", "pro", 200, 10_000),
        ("pro%3AgenerateContent", "pro", 200, 10_000),
        ("flash:streamGenerateContent", "flash", 200, 600),
        ("pro:generateContent", "models/flash", 400, 0),
        ("pro%3AgenerateContent", "models/flash", 400, 0),
        ("pro", "models/flash", 400, 0),
    ] {
        let body = json!({"model": model, "generationConfig": config});
        let mut request = post(Full::new(Bytes::from(body.to_string())));
        *request.uri_mut() = format!("/v1beta/models/{last}").parse().unwrap();
        let answer = service.clone().oneshot(request).await.unwrap();
        assert_eq!(said(answer).await.0, status, "{last} {model}");
        if status == 200 {
            let rows = ledger.usage(&account(), Page::first(1)).await.unwrap();
            let held = rows.items.first().unwrap().held.nanos();
            assert_eq!(held, 27 * each, "{last}");
        }
    }
}

/// A price that doesn't go by what is asked for tells nothing of it.
#[tokio::test]
async fn of_a_flat_price_no_held_use_is_told() {
    let by_model = Price::by_model([("m", Price::flat(dollars("1")))]);
    for (price, is_told) in [
        (Price::flat(dollars("1")), false),
        (Price::free(), false),
        (by_model, true),
        (Price::per_million_bytes(dollars("1"), 100), true),
    ] {
        let (_, layer) = funded_with("1000", price).await;
        let service = reads(RequestShape::OpenAiChat).layer(layer.layer(service_fn(
            move |request: Request<_>| {
                let _: &DigestedBody<Full<Bytes>> = request.body();
                assert!(request.extensions().get::<RequestedUse>().is_some());
                let told: Option<&HeldUse> = request.extensions().get();
                assert_eq!(told.is_some(), is_told);
                async { Ok::<_, Infallible>(answer("text/plain", &["hello"])) }
            },
        )));
        let answer = service.oneshot(post(Full::new(chat(&json!({}))))).await;
        assert_eq!(said(answer.unwrap()).await.0, 200);
    }
}

/// The head declares less than what arrives.
#[tokio::test]
async fn a_length_that_is_declared_too_short_bounds_nothing() {
    let price = Price::per_million_tokens(dollars("2.50"), dollars("0"));
    let (ledger, layer) = funded_with("1000", price).await;
    let service = reads(RequestShape::OpenAiChat)
        .layer(layer.layer(service_fn(obedient::<DigestedBody<Full<Bytes>>>)));
    let body = chat(&json!({"max_tokens": 9}));
    let long = i64::try_from(body.len()).unwrap();
    let mut request = post(Full::new(body));
    let short = HeaderValue::from_static("1");
    request.headers_mut().insert("content-length", short);
    assert_eq!(said(service.oneshot(request).await.unwrap()).await.0, 200);
    let rows = ledger.usage(&account(), Page::first(1)).await.unwrap();
    assert_eq!(rows.items.first().unwrap().held.nanos(), long * 2_500);
}
