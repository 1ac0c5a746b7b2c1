//! Names in a path.

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use crate::domain::denial::{Denial, DenialKind};

/// Path parameters that name something, parsed like axum's `Path`; `None` if they can't be a valid
/// name: an id that is too long, or an escape that isn't UTF-8. axum would answer that with 400.
/// The handler should answer it like an unknown id, since nothing has that name.
///
/// ```
/// use tollgate::{Principal, axum::PathName, denial::Denial, keyring::{Keyring, KeyringError}, store::KeyId};
///
/// async fn delete_key(keys: Keyring, caller: Principal, PathName(id): PathName<KeyId>) -> Result<(), Denial> {
///     let id = id.ok_or(KeyringError::NotFound)?;
///     keys.delete(caller.subject(), &id).await?;
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct PathName<T>(pub Option<T>);

/// Refused with 500 if the route has no such parameters.
impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for PathName<T> {
    type Rejection = Denial;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Denial> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(Some(name))),
            Err(rejection) if rejection.status().is_client_error() => Ok(Self(None)),
            Err(rejection) => Err(Denial::new(DenialKind::Internal).because(rejection.body_text())),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, http::Request, routing::get};
    use tower::ServiceExt;

    use super::*;
    use crate::domain::KeyId;

    #[tokio::test]
    async fn what_cannot_be_a_name_is_nobodys() {
        let one = async |PathName(id): PathName<KeyId>| format!("{id:?}");
        let two = async |PathName(ids): PathName<(String, KeyId)>| format!("{ids:?}");
        let wrong = async |PathName(ids): PathName<(String, String)>| format!("{ids:?}");
        let router = Router::new()
            .route("/keys/{id}", get(one))
            .route("/agents/{bot}/keys/{id}", get(two))
            .route("/wrong/{id}", get(wrong));
        let long = "k".repeat(256);
        let none = "None".to_owned();
        for (path, status, said) in [
            (
                "/keys/k-1".to_owned(),
                200,
                r#"Some(KeyId("k-1"))"#.to_owned(),
            ),
            (format!("/keys/{long}"), 200, none.clone()),
            ("/keys/%ff".to_owned(), 200, none.clone()),
            ("/keys/a%00b".to_owned(), 200, none.clone()),
            (
                "/agents/a/keys/k".to_owned(),
                200,
                r#"Some(("a", KeyId("k")))"#.to_owned(),
            ),
            ("/agents/%ff/keys/k".to_owned(), 200, none.clone()),
            (format!("/agents/a/keys/{long}"), 200, none),
            ("/wrong/a".to_owned(), 500, String::new()),
        ] {
            let request = Request::get(&path).body(Body::empty()).unwrap();
            let answer = router.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), status, "{path}");
            let body = axum::body::to_bytes(answer.into_body(), 4_096)
                .await
                .unwrap();
            assert!(status != 200 || body == said, "{path}: {body:?}");
        }
    }
}
