//! The handlers: logins, users and the audit log; the documents are a demonstration.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde_json::{Value, json};
use tollgate::{
    Principal,
    audit::{Act, AuditAction, record},
    axum::JsonBody,
    denial::{Denial, DenialKind},
    login::NewUser,
    store::UserId,
};

use crate::{
    App,
    wire::{
        AuditQuery, ChangeUser, CreateUser, Document, Entry, Items, Login, PageQuery,
        Query as Search, Question, Refresh, Tokens, User,
    },
};

type Answer<T> = Result<Json<T>, Denial>;
type Created<T> = Result<(StatusCode, Json<T>), Denial>;

pub(crate) async fn login(
    State(app): State<App>,
    JsonBody(login): JsonBody<Login>,
) -> Answer<Tokens> {
    let login = app.logins.login(&login.email, &login.password).await?;
    Ok(Json(Tokens::of(&login)))
}

pub(crate) async fn refresh(
    State(app): State<App>,
    JsonBody(refresh): JsonBody<Refresh>,
) -> Answer<Tokens> {
    let login = app.logins.refresh(&refresh.refresh_token).await?;
    Ok(Json(Tokens::of(&login)))
}

pub(crate) async fn logout(
    State(app): State<App>,
    caller: Principal,
) -> Result<StatusCode, Denial> {
    let login = caller.session().ok_or_else(|| {
        Denial::new(DenialKind::NotPermitted).with_message("A key has no login that could end")
    })?;
    app.logins.logout(login).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn list_users(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Answer<Items<User>> {
    let page = app.logins.users(query.page()).await?;
    Ok(Json(Items {
        items: page.items.into_iter().map(Into::into).collect(),
        next_cursor: page.next_cursor,
    }))
}

pub(crate) async fn create_user(
    State(app): State<App>,
    JsonBody(new): JsonBody<CreateUser>,
) -> Created<User> {
    known(&app, &new.role)?;
    let user = NewUser::new(&new.email, &new.password).role(&new.role);
    let user = app.logins.register(user).await?;
    Ok((StatusCode::CREATED, Json(user.into())))
}

pub(crate) async fn change_user(
    State(app): State<App>,
    Path(id): Path<UserId>,
    JsonBody(change): JsonBody<ChangeUser>,
) -> Answer<User> {
    if let Some(role) = &change.role {
        known(&app, role)?;
    }
    let mut user = None;
    if let Some(role) = change.role {
        user = Some(app.logins.set_roles(&id, vec![role]).await?);
    }
    if let Some(active) = change.active {
        user = Some(if active {
            app.logins.activate(&id).await?
        } else {
            app.logins.deactivate(&id).await?
        });
    }
    let unchanged =
        || Denial::new(DenialKind::Unprocessable).with_message("role or active: missing");
    Ok(Json(user.ok_or_else(unchanged)?.into()))
}

pub(crate) async fn delete_user(
    State(app): State<App>,
    Path(id): Path<UserId>,
) -> Result<StatusCode, Denial> {
    app.logins.delete_user(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn known(app: &App, role: &str) -> Result<(), Denial> {
    if app.roles.contains(role) {
        return Ok(());
    }
    Err(Denial::new(DenialKind::Unprocessable).with_message("role: there is no such role"))
}

pub(crate) async fn audit(
    State(app): State<App>,
    Query(page): Query<PageQuery>,
    Query(query): Query<AuditQuery>,
) -> Answer<Items<Entry>> {
    let page = app.audit.entries(query.filter()?, page.page()).await?;
    Ok(Json(Items {
        items: page.items.into_iter().map(Into::into).collect(),
        next_cursor: page.next_cursor,
    }))
}

pub(crate) async fn stats() -> Json<Value> {
    Json(json!({ "documents": 2, "chunks": 14 }))
}

pub(crate) async fn search(JsonBody(search): JsonBody<Search>) -> Json<Value> {
    Json(json!({ "query": search.query, "results": [] }))
}

pub(crate) async fn chat(JsonBody(question): JsonBody<Question>) -> Json<Value> {
    Json(json!({ "answer": format!("You asked: {}", question.message) }))
}

pub(crate) async fn triage() -> Json<Value> {
    Json(json!({ "items": [] }))
}

pub(crate) async fn upload(JsonBody(document): JsonBody<Document>) -> (StatusCode, Json<Value>) {
    let id = uuid::Uuid::new_v4().to_string();
    (
        StatusCode::CREATED,
        Json(json!({ "id": id, "title": document.title })),
    )
}

pub(crate) async fn remove(Path(_): Path<String>) -> StatusCode {
    StatusCode::NO_CONTENT
}

pub(crate) async fn configure(JsonBody(config): JsonBody<Value>) -> Json<Value> {
    record(Act::new(AuditAction::new("config.update")));
    Json(config)
}

pub(crate) async fn erase(Path(subject): Path<String>) -> Json<Value> {
    record(Act::new(AuditAction::new("gdpr.erase")).target(&subject));
    Json(json!({ "subject": subject, "erased": true }))
}

pub(crate) async fn nothing() -> Denial {
    Denial::new(DenialKind::NotFound)
}
