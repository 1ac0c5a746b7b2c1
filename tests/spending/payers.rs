//! Who pays, within which budgets, and what is exported of it.

use std::collections::BTreeMap;

use tollgate::denial::Denial;

use super::*;

#[tokio::test]
async fn a_team_within_a_tenant_pays_and_its_budget_holds() {
    let gate = Gate::new().await;
    let team = BudgetId::new("team:a").unwrap();
    let limits = SpendingLimits {
        daily: Some(dollars("2.5")),
        ..SpendingLimits::default()
    };
    let set = gate.ledger.set_limits(&account(), &team, limits);
    set.await.unwrap();
    let layer = gate
        .layer(Price::flat(dollars("1")))
        .cost_headers()
        .account(|_| AccountId::new("ann"))
        .add_budget(|caller| {
            let team = caller.attribute("team");
            team.map(|team| BudgetId::new(&format!("team:{team}")))
                .transpose()
        });
    let service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(answer("text/plain", &["hello"]))
    }));
    let call = |subject: &str, team: &str| {
        let mut request = request();
        let attributes = BTreeMap::from([("team".to_owned(), team.to_owned())]);
        let caller = Principal::builder(subject, CredentialKind::ApiKey).attributes(attributes);
        request.extensions_mut().insert(caller.build());
        service.clone().oneshot(request)
    };
    for (subject, team, status) in [
        ("bob", "a", 200),
        ("carol", "a", 200),
        ("dave", "a", 402),
        ("dave", "b", 200),
        ("dave", &*"x".repeat(300), 403),
    ] {
        let answer = call(subject, team).await.unwrap();
        if team == "a" && status == 200 {
            assert!(answer.headers().contains_key("x-budget-remaining"));
        }
        assert_eq!(said(answer).await.0, status, "{subject} {team}");
    }
    let row = gate.last().await;
    assert_eq!(
        (&*row.call.principal, row.call.account.as_str()),
        ("dave", "ann")
    );
    let spent = gate.ledger.budget(&account(), &team).await.unwrap();
    assert_eq!(spent.total.settled, dollars("2"));
}

#[tokio::test]
async fn who_has_the_money_in_other_calls_is_told_to_come_again_at_once() {
    for (price, limit, text) in [
        (
            "60",
            None,
            "This request costs $60.0000 but your balance is insufficient.",
        ),
        (
            "1",
            Some("1.5"),
            "This access key has reached its spending limit.",
        ),
    ] {
        let gate = Gate::new().await;
        let limits = SpendingLimits {
            daily: limit.map(dollars),
            ..SpendingLimits::default()
        };
        let key = BudgetId::new("ann").unwrap();
        let set = gate.ledger.set_limits(&account(), &key, limits);
        set.await.unwrap();
        let layer = gate
            .layer(Price::flat(dollars(price)))
            .add_budget(move |_| Ok(Some(key.clone())))
            .denials(Denials::new(DenialFormat::OpenAi));
        let service = layer.layer(service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(answer("text/plain", &["hello"]))
        }));
        let call = async || service.clone().oneshot(request()).await.unwrap();
        let advice = |answer: &Response<_>| {
            ["retry-after", "retry-after-ms", "x-should-retry"].map(|name| {
                let value = answer.headers().get(name);
                value.map(|value| value.to_str().unwrap().to_owned())
            })
        };
        let under_way = call().await;
        let refused = call().await;
        assert_eq!(
            advice(&refused),
            ["1", "1000", "true"].map(|value| Some(value.to_owned()))
        );
        let (status, _, body) = said(refused).await;
        assert!(status == 402 && body.contains(text), "{body}");
        assert_eq!(said(under_way).await.0, 200);

        let refused = call().await;
        // For a format of one's own: no client should wait for hours by itself.
        let denial = refused.extensions().get::<Denial>().unwrap();
        let midnight = limit.map(|_| "2026-01-02T00:00:00Z".parse().unwrap());
        assert_eq!(denial.limit_end(), midnight);
        assert_eq!(advice(&refused), [None, None, Some("false".to_owned())]);
        let (status, _, body) = said(refused).await;
        assert!(status == 402 && body.contains(text), "{body}");
    }
}

#[tokio::test]
async fn who_has_spent_what_a_rolling_window_admits_is_told_when_to_come_again() {
    let gate = Gate::new().await;
    let budgets = ["5h", "7d"].map(|name| BudgetId::new(&format!("key-1:{name}")).unwrap());
    for (budget, (hours, limit)) in budgets.iter().zip([(5, "2"), (7 * 24, "3.5")]) {
        let window = RollingWindow::new(Duration::from_secs(hours * 3_600)).unwrap();
        let limits = SpendingLimits {
            rolling: Some(RollingLimit::new(window, dollars(limit))),
            ..SpendingLimits::default()
        };
        let set = gate.ledger.set_limits(&account(), budget, limits);
        set.await.unwrap();
    }
    let two = budgets.clone();
    let layer = two.into_iter().fold(
        gate.layer(Price::flat(dollars("1"))).cost_headers(),
        |layer, budget| layer.add_budget(move |_| Ok(Some(budget.clone()))),
    );
    let service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(answer("text/plain", &["hello"]))
    }));
    let call = async || {
        let answer = service.clone().oneshot(request()).await.unwrap();
        let headers = answer.headers();
        let field = |name| {
            headers
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        let fields = (field("x-budget-remaining"), field("retry-after"));
        (said(answer).await.0, fields.0, fields.1)
    };
    let left = |left: &str| (200_u16, Some(left.to_owned()), None);
    let refused = |wait: u64| (402, None, Some(wait.to_string()));
    // The first second of a slice of either window, five minutes and 168: both fit into 14 hours.
    let second = u64::try_from(gate.clock.now().as_second()).unwrap();
    gate.clock
        .advance(Duration::from_secs(50_400 - second % 50_400));
    assert_eq!(call().await, left("1"));
    assert_eq!(call().await, left("0"));
    assert_eq!(call().await, refused(18_300));
    gate.clock.advance(Duration::from_secs(18_300));
    assert_eq!(call().await, left("0.5"));
    assert_eq!(call().await, refused(604_800 + 10_080 - 18_300));
    for budget in &budgets {
        let spent = gate.ledger.budget(&account(), budget).await.unwrap();
        assert_eq!(spent.total.settled, dollars("3"));
    }
}

#[tokio::test]
async fn the_log_is_exported_whole_and_harmless() {
    let gate = Gate::new().await;
    let settlement = Settlement {
        status: Some(200),
        latency: Duration::from_millis(7),
        model: Some(Arc::from("=1+1,\"x\"")),
        input_tokens: Some(3),
        cached_tokens: Some(2),
        ..Settlement::new(Money::ZERO, Outcome::Completed)
    };
    for number in 0..1_201 {
        let call = Call {
            request_id: format!("-{number}").into(),
            account: account(),
            principal: Arc::from("ann"),
            key: None,
            route: Arc::from("GET /models"),
            started_at: gate.clock.now(),
        };
        gate.ledger.record(call, settlement.clone()).await.unwrap();
        gate.clock.advance(Duration::from_secs(1));
    }
    let read = async |export: UsageExport| {
        let bytes = export.collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    let csv = read(UsageExport::csv(gate.ledger.clone(), account())).await;
    let lines: Vec<&str> = csv.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), 1_202);
    assert_eq!(
        lines[1],
        "1202,2026-01-01T00:20:00Z,2026-01-01T00:20:00Z,'-1200,ann,ann,,GET /models,\
         \"'=1+1,\"\"x\"\"\",200,completed,0,0,3,2,,,,7,false,,,,,,,,,"
    );
    let json = read(UsageExport::json_lines(gate.ledger.clone(), account())).await;
    assert_eq!(json.lines().count(), 1_201);
    let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(first["request_id"], "-1200");
    assert_eq!(first["model"], "=1+1,\"x\"");
    assert_eq!(first["charged"], 0);
    let since = gate.clock.now() - Duration::from_secs(600);
    let export = UsageExport::json_lines(gate.ledger.clone(), account()).since(since);
    assert_eq!(read(export).await.lines().count(), 600);
    let until = gate.clock.now() - Duration::from_secs(60);
    let export = UsageExport::json_lines(gate.ledger.clone(), account());
    let window = read(export.since(since).until(until)).await;
    assert_eq!(window.lines().count(), 540);
    let export = UsageExport::json_lines_of_all(gate.ledger.clone(), 0);
    let all = read(export.since(since).until(until)).await;
    assert!(all.lines().eq(window.lines().rev()));
    // Of all accounts, oldest first, where the last reading ended.
    let all = read(UsageExport::csv_of_all(gate.ledger.clone(), 1_200)).await;
    assert_eq!(all.lines().count(), 3);
    assert_eq!(all.lines().last(), csv.lines().nth(1));
    let export = UsageExport::json_lines_of_all(gate.ledger.clone(), 0).since(since);
    let export = read(export).await;
    assert_eq!(export.lines().count(), 600);
    assert_eq!(export.lines().last(), json.lines().next());
    let bob = AccountId::new("bob").unwrap();
    assert_eq!(
        read(UsageExport::json_lines(gate.ledger.clone(), bob)).await,
        ""
    );
}
