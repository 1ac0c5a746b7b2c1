//! The handlers: logins, users and the audit log; the documents are a demonstration.

use axum::{
    Json,
    extract::{FromRequest, OptionalFromRequest, Query, Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
};
use serde_json::{Value, json};
use tollgate::{
    Principal,
    audit::{Act, AuditAction, record},
    axum::{JsonBody, PathName, WholeBody},
    denial::{Denial, DenialKind},
    login::NewUser,
    store::UserId,
    user::UserUpdate,
};

use crate::{
    App,
    wire::{
        AuditQuery, ChangeUser, CreateUser, Entry, Items, Login, PageQuery, Query as Search,
        Refresh, Tokens, User,
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
    PathName(id): PathName<UserId>,
    JsonBody(change): JsonBody<ChangeUser>,
) -> Answer<User> {
    if let Some(role) = &change.role {
        known(&app, role)?;
    }
    if change.role.is_none() && change.active.is_none() {
        let unchanged = Denial::new(DenialKind::Unprocessable);
        return Err(unchanged.with_message("role or active: missing"));
    }
    let mut update = UserUpdate::default();
    update.roles = change.role.map(|role| vec![role]);
    update.active = change.active;
    let id = id.ok_or(Denial::new(DenialKind::NotFound))?;
    let user = app.logins.update_ending_logins(&id, update).await?;
    Ok(Json(user.into()))
}

pub(crate) async fn delete_user(
    State(app): State<App>,
    PathName(id): PathName<UserId>,
) -> Result<StatusCode, Denial> {
    let id = id.ok_or(Denial::new(DenialKind::NotFound))?;
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

/// The members of a question aren't documented, so any JSON is accepted.
pub(crate) async fn chat(question: Option<JsonBody<Value>>) -> Json<Value> {
    let asked = member(question, &["message", "question", "query"]);
    Json(json!({ "answer": format!("You asked: {}", asked.unwrap_or_default()) }))
}

pub(crate) async fn triage() -> Json<Value> {
    Json(json!({ "items": [] }))
}

/// JSON, optionally with a title; or a form with a file; or a file.
pub(crate) async fn upload(request: Request) -> Created<Value> {
    let media_type = request.headers().get(CONTENT_TYPE).cloned();
    let is_of = |start: &[u8]| {
        let media_type = media_type.as_ref().map(|value| value.as_bytes());
        media_type.is_some_and(|media_type| media_type.starts_with(start))
    };
    let WholeBody(body) = WholeBody::from_request(request, &()).await?;
    // JSON is accepted whatever its content type says; curl labels it as a form.
    let is_file = is_of(b"multipart/")
        || (media_type.is_some()
            && ![
                b"application/json".as_slice(),
                b"application/x-www-form-urlencoded",
            ]
            .into_iter()
            .any(is_of)
            && !body.trim_ascii_start().starts_with(b"{"));
    let document = if is_file {
        None
    } else {
        let request = Request::new(body.into());
        <JsonBody<Value> as OptionalFromRequest<()>>::from_request(request, &()).await?
    };
    let id = uuid::Uuid::new_v4().to_string();
    let title = member(document, &["title", "name"]);
    Ok((
        StatusCode::CREATED,
        Json(json!({ "id": id, "title": title })),
    ))
}

/// The first of these members that has a text.
fn member(body: Option<JsonBody<Value>>, names: &[&str]) -> Option<String> {
    let JsonBody(json) = body?;
    let mut found = names.iter().filter_map(|name| json.get(name)?.as_str());
    found.next().map(str::to_owned)
}

pub(crate) async fn remove(PathName(id): PathName<String>) -> Result<StatusCode, Denial> {
    id.ok_or(Denial::new(DenialKind::NotFound))?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn configure(config: Option<JsonBody<Value>>) -> Json<Value> {
    record(Act::new(AuditAction::new("config.update")));
    Json(config.map_or_else(|| json!({}), |JsonBody(config)| config))
}

pub(crate) async fn erase(PathName(subject): PathName<String>) -> Answer<Value> {
    let subject = subject.ok_or(Denial::new(DenialKind::NotFound))?;
    record(Act::new(AuditAction::new("gdpr.erase")).target(&subject));
    Ok(Json(json!({ "subject": subject, "erased": true })))
}

pub(crate) async fn nothing() -> Denial {
    Denial::new(DenialKind::NotFound)
}
