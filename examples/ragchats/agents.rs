//! Agents belong to a user: each is stored as an attribute of the user, named by its id.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use tollgate::{
    Principal,
    axum::{JsonBody, PathName},
    denial::{Denial, DenialKind},
    keyring::{KeyringError, NewKey},
    login::LoginErrorKind,
    store::KeyId,
    user::{UserCondition, UserRecord, UserUpdate},
};
use uuid::Uuid;

use crate::{
    App,
    support::all_keys,
    wire::{Agent, AgentKey, Answer, Named, NewAgentKey, Query, short_name},
};

/// Keeps a user's row small: this many fit even with the longest names ([`short_name`]).
const AGENTS_MAX: usize = 100;

const PREFIX: &str = "agent:";

/// Oldest first.
fn agents_of(user: &UserRecord) -> Vec<Agent> {
    let kept = user.attributes.iter().filter_map(|(name, text)| {
        let id = name.strip_prefix(PREFIX)?;
        let (created_at, name) = text.split_once(' ')?;
        Some((created_at, Agent::new(id, name)))
    });
    let mut agents: Vec<_> = kept.collect();
    agents.sort_by(|one, other| one.0.cmp(other.0));
    agents.into_iter().map(|(_, agent)| agent).collect()
}

pub(crate) async fn list(
    State(app): State<App>,
    caller: Principal,
) -> Result<Json<Vec<Agent>>, Denial> {
    let user = app.logins.user_of(&caller).await?;
    Ok(Json(agents_of(&user)))
}

pub(crate) async fn create(
    State(app): State<App>,
    caller: Principal,
    JsonBody(new): JsonBody<Named>,
) -> Result<(StatusCode, Json<Agent>), Denial> {
    let name = short_name(&new.name)?;
    let user = app.logins.user_of(&caller).await?;
    let agent = Agent::new(&Uuid::new_v4().to_string(), name);
    let mut update = UserUpdate::default();
    update.attributes.insert(
        format!("{PREFIX}{}", agent.id),
        format!("{:.6} {name}", app.clock.now()),
    );
    // Checked by the store: agents that are made at the same time are counted too.
    update.only_if = Some(UserCondition::AttributesAtMost {
        prefix: PREFIX.to_owned(),
        max: AGENTS_MAX,
    });
    match app.logins.update(&user.id, update).await {
        Err(error) if matches!(error.kind(), LoginErrorKind::ConditionUnmet) => {
            let rule = format!("A user has at most {AGENTS_MAX} agents");
            Err(Denial::new(DenialKind::Conflict).with_message(rule))
        }
        updated => updated
            .map(|_| (StatusCode::CREATED, Json(agent)))
            .map_err(Denial::from),
    }
}

/// Another user's agent is treated as missing.
async fn owned(app: &App, caller: &Principal, bot_id: Option<String>) -> Result<String, Denial> {
    let user = app.logins.user_of(caller).await?;
    let is_known = |id: &String| user.attributes.contains_key(&format!("{PREFIX}{id}"));
    bot_id.filter(is_known).ok_or_else(no_such_agent)
}

fn no_such_agent() -> Denial {
    Denial::new(DenialKind::NotFound).with_message("There is no such agent")
}

pub(crate) async fn create_key(
    State(app): State<App>,
    caller: Principal,
    PathName(bot_id): PathName<String>,
    JsonBody(new): JsonBody<Named>,
) -> Result<(StatusCode, Json<NewAgentKey>), Denial> {
    let bot_id = owned(&app, &caller, bot_id).await?;
    let new = NewKey {
        name: short_name(&new.name)?.to_owned(),
        resource: Some(bot_id),
        ..NewKey::default()
    };
    let (key, record) = app.keys.create_for(&caller, new).await?;
    Ok((StatusCode::CREATED, Json(NewAgentKey::of(&key, record))))
}

pub(crate) async fn list_keys(
    State(app): State<App>,
    caller: Principal,
    PathName(bot_id): PathName<String>,
) -> Result<Response, Denial> {
    let bot_id = owned(&app, &caller, bot_id).await?;
    all_keys(&app.keys, &caller, move |key| {
        let is_of_agent = key.resource.as_deref() == Some(&bot_id);
        is_of_agent.then(|| AgentKey::from(key))
    })
    .await
}

/// The key stops working at once.
pub(crate) async fn delete_key(
    State(app): State<App>,
    caller: Principal,
    PathName(names): PathName<(String, String)>,
) -> Result<StatusCode, Denial> {
    let (bot_id, id) = names.unzip();
    let bot_id = owned(&app, &caller, bot_id).await?;
    let id = id.and_then(|id| KeyId::new(&id).ok());
    let id = id.ok_or(KeyringError::NotFound)?;
    let key = app.keys.get(caller.subject(), &id).await?;
    if key.resource.as_deref() != Some(&bot_id) {
        return Err(KeyringError::NotFound.into());
    }
    app.keys.delete(caller.subject(), &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn query(
    PathName(bot_id): PathName<String>,
    JsonBody(query): JsonBody<Query>,
) -> Result<Json<Answer>, Denial> {
    let bot_id = bot_id.ok_or_else(no_such_agent)?;
    Ok(Json(Answer::echoing(&bot_id, &query.message)))
}
