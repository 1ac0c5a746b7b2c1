//! The administrator's routes: keys, payments, refunds, limits, and what was used.

use std::collections::BTreeMap;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tollgate::{
    UsageExport,
    audit::{Act, AuditAction, record},
    axum::{JsonBody, PathName},
    books::{Balance, Budget},
    budget::SpendingLimits,
    denial::{Denial, DenialKind},
    keyring::NewKey,
    money::Money,
    store::AccountId,
    usage::Credit,
};

use crate::{App, PLANS};

/// A key of a customer, who need not be known before.
#[derive(Deserialize)]
pub(crate) struct ForCustomer {
    account: AccountId,
    plan: String,
    #[serde(default)]
    name: String,
}

pub(crate) async fn create_key(
    State(app): State<App>,
    JsonBody(new): JsonBody<ForCustomer>,
) -> Result<(StatusCode, Json<Value>), Denial> {
    if !PLANS.iter().any(|(plan, ..)| *plan == new.plan) {
        let unknown = Denial::new(DenialKind::Unprocessable);
        return Err(unknown.with_message("plan: there is no such plan"));
    }
    let settings = NewKey {
        name: new.name,
        roles: vec!["customer".to_owned()],
        metadata: BTreeMap::from([("plan".to_owned(), new.plan)]),
        ..NewKey::default()
    };
    let (key, record) = app.keys.create(new.account.as_str(), settings).await?;
    let told = json!({ "id": record.id, "account": new.account, "key": key.expose() });
    Ok((StatusCode::CREATED, Json(told)))
}

/// A payment; the same reference again is the same payment.
#[derive(Deserialize)]
pub(crate) struct Paid {
    account: AccountId,
    amount: Money,
    reference: String,
}

pub(crate) async fn credit(
    State(app): State<App>,
    JsonBody(paid): JsonBody<Paid>,
) -> Result<Json<Balance>, Denial> {
    let act = Act::new(AuditAction::new("account.credit")).target(paid.account.as_str());
    let act = act.because(&format!("{} by {}", paid.amount, paid.reference));
    let credit = Credit {
        account: paid.account,
        amount: paid.amount,
        reference: paid.reference,
    };
    let balance = app.ledger.credit(credit).await?;
    record(act);
    Ok(Json(balance))
}

/// A call, as its row of the usage log names it (a client may choose its request's id, and choose
/// one twice), and how much of it is given back: all, unless that is stated.
#[derive(Deserialize)]
pub(crate) struct Refund {
    account: AccountId,
    position: u64,
    request_id: String,
    amount: Option<Money>,
}

/// Each call can be refunded once, to the budgets that its row tells of too.
pub(crate) async fn refund(
    State(app): State<App>,
    JsonBody(refund): JsonBody<Refund>,
) -> Result<Json<Balance>, Denial> {
    let found = app.ledger.usage_at(&refund.account, refund.position);
    let row = found.await?;
    let row = row.filter(|row| row.call.request_id.as_str() == refund.request_id);
    let row = row.ok_or(Denial::new(DenialKind::NotFound))?;
    let amount = refund.amount.unwrap_or(row.settlement.charged);
    let reference = format!("refund-{}-{}", row.position, refund.request_id);
    let act = Act::new(AuditAction::new("account.refund")).target(refund.account.as_str());
    let act = act.because(&format!("{amount} by {reference}"));
    let balance = app.ledger.adjust(row.refund(amount, reference)).await?;
    record(act);
    Ok(Json(balance))
}

/// What a customer may spend with all keys together, and at which amounts the log tells of it.
#[derive(Deserialize)]
pub(crate) struct Limited {
    account: AccountId,
    limits: SpendingLimits,
}

/// A limit that isn't there is none.
pub(crate) async fn set_limits(
    State(app): State<App>,
    JsonBody(new): JsonBody<Limited>,
) -> Result<Json<Budget>, Denial> {
    let act = Act::new(AuditAction::new("account.limits")).target(new.account.as_str());
    let act = act.because(&json!(new.limits).to_string());
    let set = app.ledger.set_limits(&new.account, &app.budget, new.limits);
    let budget = set.await?;
    record(act);
    Ok(Json(budget))
}

pub(crate) async fn usage(
    State(app): State<App>,
    PathName(account): PathName<AccountId>,
) -> Result<Response, Denial> {
    let account = account.ok_or(Denial::new(DenialKind::NotFound))?;
    let export = UsageExport::csv(app.ledger, account);
    let head = [(CONTENT_TYPE, export.content_type())];
    Ok((head, Body::new(export)).into_response())
}
