//! What a row says a call was for.

use super::*;

/// Tagged by the request's head, and by its handler.
async fn serve(gate: &Gate, layer: SpendingLimitLayer, request: Request<()>) -> UsageEntry {
    let handler = service_fn(|request: Request<()>| async move {
        let charge = request.extensions().get::<Charge>().unwrap();
        if request.headers().contains_key("x-feature") {
            charge.tag("by", "handler");
            charge.tag("customer", "acme, \"inc\"");
            charge.tag("bad", "a\nb");
            charge.tag(&"long".repeat(17), "x");
        }
        Ok::<_, Infallible>(answer("text/plain", &["hello"]))
    });
    let answer = layer.layer(handler).oneshot(request).await.unwrap();
    assert_eq!(said(answer).await.0, 200);
    gate.last().await
}

fn by_feature(layer: SpendingLimitLayer) -> SpendingLimitLayer {
    layer.tags(|head, caller| {
        let feature = head.headers.get("x-feature");
        let feature = feature.and_then(|feature| feature.to_str().ok());
        match feature {
            None => Tags::new(),
            Some(feature) => Tags::new()
                .with("feature", feature)
                .with("by", caller.subject()),
        }
    })
}

#[tokio::test]
async fn a_row_says_what_its_call_was_for() {
    let gate = Gate::new().await;
    let team = BudgetId::new("team:a").unwrap();
    let budget = team.clone();
    let layer = by_feature(gate.layer(Price::flat(dollars("1"))))
        .add_budget(move |_| Ok(Some(budget.clone())));
    let request = request_with("key-1", &[("x-feature", "summary")]);
    let row = serve(&gate, layer.clone(), request).await;
    let details = row.settlement.details.unwrap();
    let all = [
        ("by", "handler"),
        ("customer", "acme, \"inc\""),
        ("feature", "summary"),
    ];
    assert_eq!(details.tags.iter().collect::<Vec<_>>(), all);
    assert_eq!(details.budgets, [team]);

    let export = UsageExport::csv(gate.ledger.clone(), account());
    let csv = export.collect().await.unwrap().to_bytes();
    let csv = String::from_utf8(csv.to_vec()).unwrap();
    let (head, rows) = csv.split_once("\r\n").unwrap();
    assert!(head.ends_with(",service_tier,tags,budgets"), "{head}");
    let cells = r#","{""by"":""handler"",""customer"":""acme, \""inc\"""",""feature"":""summary""}","[""team:a""]""#;
    assert!(rows.trim_end().ends_with(cells), "{rows}");
    let export = UsageExport::json_lines(gate.ledger.clone(), account());
    let lines = export.collect().await.unwrap().to_bytes();
    let row: serde_json::Value = serde_json::from_slice(&lines).unwrap();
    assert_eq!(row["tags"]["feature"], "summary");
    assert_eq!(row["budgets"], serde_json::json!(["team:a"]));
}

#[tokio::test]
async fn a_row_without_tags_is_as_it_was() {
    let gate = Gate::new().await;
    let layer = by_feature(gate.layer(Price::flat(dollars("1"))));
    let row = serve(&gate, layer, request()).await;
    assert_eq!(row.settlement.details, None);
    let row = serde_json::to_value(&row).unwrap();
    assert_eq!(
        (&row["tags"], &row["budgets"]),
        (&serde_json::Value::Null, &serde_json::Value::Null)
    );
}

#[tokio::test]
async fn a_free_call_has_its_tags_and_counts_in_no_budget() {
    let gate = Gate::new().await;
    let team = BudgetId::new("team:a").unwrap();
    let layer = by_feature(gate.layer(Price::free())).add_budget(move |_| Ok(Some(team.clone())));
    let request = request_with("key-1", &[("x-feature", "summary")]);
    let row = serve(&gate, layer, request).await;
    let details = row.settlement.details.unwrap();
    assert_eq!(details.tags.get("feature"), Some("summary"));
    assert!(details.budgets.is_empty());
}

/// What a client can fill must not push out what the handler says.
#[tokio::test]
async fn the_request_s_tags_leave_room_for_the_handler_s() {
    let gate = Gate::new().await;
    let layer = gate.layer(Price::flat(dollars("1"))).tags(|head, _| {
        let all = head.headers.iter();
        all.fold(Tags::new(), |tags, (name, value)| {
            tags.with(name.as_str(), value.to_str().unwrap_or("?"))
        })
    });
    let names = ["a", "b", "by", "d", "e", "f", "g", "x-feature"];
    let request = request_with("key-1", &names.map(|name| (name, "1")));
    let row = serve(&gate, layer, request).await;
    let tags = row.settlement.details.unwrap().tags;
    assert_eq!(tags.get("by"), Some("handler"));
    assert_eq!(tags.get("customer"), Some("acme, \"inc\""), "{tags:?}");
    assert_eq!(tags.iter().count(), 8);
}
