//! Registration, login, refresh and logout.

use axum::{Json, extract::State, http::StatusCode};
use tollgate::{
    Principal,
    axum::JsonBody,
    denial::{Denial, DenialKind},
    login::NewUser,
};

use crate::{
    App,
    wire::{Access, LoggedIn, Login, Refresh, Register, User},
};

pub(crate) async fn register(
    State(app): State<App>,
    JsonBody(new): JsonBody<Register>,
) -> Result<(StatusCode, Json<User>), Denial> {
    let new_user = NewUser::new(&new.email, &new.password)
        .name("firstName", &new.first_name)
        .name("lastName", &new.last_name);
    let user = app.logins.register(new_user).await?;
    Ok((StatusCode::CREATED, Json(User::from(&user))))
}

pub(crate) async fn login(
    State(app): State<App>,
    JsonBody(login): JsonBody<Login>,
) -> Result<Json<LoggedIn>, Denial> {
    let login = app.logins.login(&login.email, &login.password).await?;
    LoggedIn::of(&login)
        .map(Json)
        .ok_or_else(|| Denial::new(DenialKind::Internal))
}

pub(crate) async fn refresh(
    State(app): State<App>,
    JsonBody(token): JsonBody<Refresh>,
) -> Result<Json<Access>, Denial> {
    let login = app.logins.refresh(&token.refresh).await;
    let login = login.map_err(|error| {
        let denial = Denial::from(error);
        match denial.kind() {
            DenialKind::CredentialExpired => denial.with_message("Refresh token has expired"),
            DenialKind::CredentialInvalid => denial.with_message("Refresh token is not valid"),
            _ => denial,
        }
    })?;
    let access = login.token.expose().to_owned();
    Ok(Json(Access { access }))
}

pub(crate) async fn logout(
    State(app): State<App>,
    caller: Principal,
) -> Result<StatusCode, Denial> {
    if let Some(login) = caller.session() {
        app.logins.logout(login).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
