//! Who is asked next where a policy of several abstains.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::convert::Infallible;

use http::{Request, Response};
use tollgate::{
    ApiKeyLayer, JwtLayer, RequestHead,
    denial::{Denial, DenialKind},
    guard::{Authenticator, CredentialPlaces, Decision, Gate, Identified, Policy, Verdict},
    keyring::KeyResolver,
    store::StaticKeys,
    token::TokenVerifier,
};
use tower::{Layer, ServiceExt, service_fn};

const KEY: &str = "3f6e1c0a9b7d4e52-of-32-or-more";

fn keys() -> ApiKeyLayer {
    let keys = StaticKeys::new().add_key("app", KEY, ["app"]).unwrap();
    ApiKeyLayer::new(KeyResolver::builder(keys).build())
}

/// Has nothing to say, and finds it out at once or by I/O.
#[derive(Clone, Copy, Debug)]
enum Silent {
    AtOnce,
    AfterIo,
}

impl Policy for Silent {
    type Permit = Identified;

    fn name(&self) -> &'static str {
        "silent"
    }

    fn places(&self) -> CredentialPlaces {
        CredentialPlaces::ELSEWHERE
    }

    fn decide(&self, _: &RequestHead<'_>) -> Decision<Identified> {
        let abstain = || Verdict::Abstain(Denial::new(DenialKind::CredentialMissing));
        match self {
            Self::AtOnce => Decision::Ready(abstain()),
            Self::AfterIo => Decision::pending(async move {
                tokio::task::yield_now().await;
                abstain()
            }),
        }
    }
}

impl Authenticator for Silent {
    type Policy = Self;

    fn into_gate(self) -> Gate<Self> {
        Gate::new(self)
    }
}

/// The status for a good key, with a cookie that is none.
async fn status(layer: impl Authenticator) -> u16 {
    let hello =
        service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::new())));
    let request = Request::builder()
        .header("x-api-key", KEY)
        .header("cookie", "token=a.b.c");
    let service = layer.into_gate().layer(hello);
    let answer = service.oneshot(request.body(()).unwrap()).await;
    answer.unwrap().status().as_u16()
}

#[tokio::test]
async fn nobody_is_asked_after_io() {
    assert_eq!(status(Silent::AtOnce.or(keys())).await, 200);
    assert_eq!(status(Silent::AfterIo.or(keys())).await, 401);
    assert_eq!(
        status(Silent::AtOnce.or(Silent::AfterIo).or(keys())).await,
        401
    );
    assert_eq!(status(keys().or(Silent::AfterIo)).await, 200);
}

#[tokio::test]
async fn a_bad_token_in_a_cookie_stands_in_the_way_of_a_key_behind_it() {
    let verifier = TokenVerifier::hs256(b"thirty-two bytes or more, please!");
    let cookie = JwtLayer::new(verifier.build().unwrap()).cookie("token");
    assert_eq!(status(cookie.clone().or(keys())).await, 401);
    assert_eq!(status(keys().or(cookie)).await, 200);
}
