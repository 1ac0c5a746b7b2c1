//! Account management, behind a JWT: users, keys, payments, monitoring.

use axum::{
    Json,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use std::time::Duration;
use tollgate::{
    IdempotencyKeys, Principal,
    axum::{JsonBody, PathName},
    denial::Denial,
    keyring::{KeyringError, NewKey},
    login::NewUser,
    store::KeyId,
    usage::Credit,
};
use uuid::Uuid;

use crate::{
    App,
    support::all_keys,
    wire::{
        BalanceView, ChangePassword, CreateKey, Items, Key, Limits, LoggedIn, Login, PageQuery,
        Register, RotateKey, SetLimits, TopUp, TransactionView, Usage, User,
    },
};

type Answer<T> = Result<Json<T>, Denial>;
type Created<T> = Result<(StatusCode, Json<T>), Denial>;

const OVERLAP_SECONDS: u64 = 3_600;

pub(crate) async fn register(
    State(app): State<App>,
    JsonBody(new): JsonBody<Register>,
) -> Created<User> {
    let new_user = NewUser::new(&new.email, &new.password)
        .role("user")
        .name("username", &new.username);
    let user = app.logins.register(new_user).await?;
    Ok((StatusCode::CREATED, Json(User::full(&user))))
}

pub(crate) async fn login(
    State(app): State<App>,
    JsonBody(login): JsonBody<Login>,
) -> Answer<LoggedIn> {
    let login = app.logins.login(&login.email, &login.password).await?;
    let token = login.token.expose().to_owned();
    Ok(Json(LoggedIn {
        token,
        user: User::brief(&login.user),
    }))
}

pub(crate) async fn me(State(app): State<App>, caller: Principal) -> Answer<User> {
    Ok(Json(User::full(&app.logins.user_of(&caller).await?)))
}

pub(crate) async fn change_password(
    State(app): State<App>,
    caller: Principal,
    JsonBody(change): JsonBody<ChangePassword>,
) -> Answer<User> {
    let user = app.logins.user_of(&caller).await?;
    app.logins
        .change_password(&user.id, &change.current_password, &change.new_password)
        .await?;
    Ok(Json(User::full(&user)))
}

pub(crate) async fn create_key(
    State(app): State<App>,
    caller: Principal,
    JsonBody(new): JsonBody<CreateKey>,
) -> Created<Key> {
    let new = NewKey {
        name: new.name,
        environment: Some(new.environment.unwrap_or_else(|| "live".into())),
        roles: new.roles.unwrap_or_else(|| vec!["user".into()]),
        networks: new.allowed_ips,
        expires_at: new.expires_at,
        ..NewKey::default()
    };
    let (key, record) = app.keys.create_for(&caller, new).await?;
    Ok((
        StatusCode::CREATED,
        Json(Key::created(&key, record, app.clock.now())),
    ))
}

pub(crate) async fn list_keys(
    State(app): State<App>,
    caller: Principal,
) -> Result<Response, Denial> {
    let now = app.clock.now();
    all_keys(&app.keys, &caller, move |key| Some(Key::listed(key, now))).await
}

pub(crate) async fn revoke_key(
    State(app): State<App>,
    caller: Principal,
    PathName(id): PathName<KeyId>,
) -> Answer<Key> {
    let id = id.ok_or(KeyringError::NotFound)?;
    let record = app.keys.revoke(caller.subject(), &id).await?;
    Ok(Json(Key::listed(record, app.clock.now())))
}

pub(crate) async fn delete_key(
    State(app): State<App>,
    caller: Principal,
    PathName(id): PathName<KeyId>,
) -> Result<StatusCode, Denial> {
    let id = id.ok_or(KeyringError::NotFound)?;
    app.keys.delete(caller.subject(), &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn rotate_key(
    State(app): State<App>,
    caller: Principal,
    PathName(id): PathName<KeyId>,
    rotate: Option<JsonBody<RotateKey>>,
) -> Created<Key> {
    let id = id.ok_or(KeyringError::NotFound)?;
    let overlap = rotate
        .and_then(|JsonBody(rotate)| rotate.overlap_seconds)
        .unwrap_or(OVERLAP_SECONDS);
    let overlap = Duration::from_secs(overlap);
    let (key, record) = app.keys.rotate(caller.subject(), &id, overlap).await?;
    Ok((
        StatusCode::CREATED,
        Json(Key::created(&key, record, app.clock.now())),
    ))
}

pub(crate) async fn set_limits(
    State(app): State<App>,
    caller: Principal,
    PathName(id): PathName<KeyId>,
    JsonBody(limits): JsonBody<SetLimits>,
) -> Answer<Limits> {
    let id = id.ok_or(KeyringError::NotFound)?;
    let key = app.keys.get(caller.subject(), &id).await?;
    let account = caller.require_account()?;
    let limits = limits.into();
    let budget = app.ledger.set_limits(account, &key.lineage, limits).await?;
    Ok(Json(Limits::of(id.to_string(), &budget)))
}

pub(crate) async fn top_up(
    State(app): State<App>,
    caller: Principal,
    headers: HeaderMap,
    JsonBody(payment): JsonBody<TopUp>,
) -> Answer<BalanceView> {
    let account = caller.require_account()?;
    let name = IdempotencyKeys::payment_name(&headers, account)?;
    let name = name.unwrap_or_else(|| Uuid::new_v4().to_string());
    let credit = Credit {
        account: account.clone(),
        amount: payment.amount,
        reference: format!("topup-{name}"),
    };
    Ok(Json(app.ledger.credit(credit).await?.into()))
}

pub(crate) async fn balance(State(app): State<App>, caller: Principal) -> Answer<BalanceView> {
    Ok(Json(
        app.ledger.balance(caller.require_account()?).await?.into(),
    ))
}

pub(crate) async fn transactions(
    State(app): State<App>,
    caller: Principal,
    Query(query): Query<PageQuery>,
) -> Answer<Items<TransactionView>> {
    let page = app
        .ledger
        .transactions(caller.require_account()?, query.page())
        .await?;
    let items = page.items.into_iter().map(Into::into).collect();
    Ok(Json(Items {
        items,
        next_cursor: page.next_cursor,
    }))
}

pub(crate) async fn usage(
    State(app): State<App>,
    caller: Principal,
    Query(query): Query<PageQuery>,
) -> Answer<Items<Usage>> {
    let page = app
        .ledger
        .usage(caller.require_account()?, query.page())
        .await?;
    let items = page.items.into_iter().map(Into::into).collect();
    Ok(Json(Items {
        items,
        next_cursor: page.next_cursor,
    }))
}
