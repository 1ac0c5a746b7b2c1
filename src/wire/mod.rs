//! Floor 2: the only place that handles HTTP and gRPC: credentials in, refusals and limit headers
//! out.

mod client_address;
mod connection;
mod cookie;
mod cost_headers;
mod credential;
mod credential_places;
mod denial;
mod encoding;
mod grpc;
mod head;
mod number;
mod origin;
mod pace;
mod path;
mod rate_headers;
mod request_id;
mod routes;
mod usage;
mod whole;

pub(crate) use client_address::counted_as;
pub use client_address::{AddressError, ClientAddress, ClientIp, ForwardedHeader, PeerAddress};
pub use denial::{DenialBody, DenialContext, DenialFormat, Denials, RenderDenial};
pub use head::RequestHead;
pub use origin::{InvalidOrigin, Origin};
pub use routes::InvalidRoute;
pub use whole::read_body;

pub(crate) use connection::closing;
pub(crate) use cookie::{CookieValue, read as read_cookie, read_named as read_named_cookie};
pub(crate) use cost_headers::{CostFigures, remove_what_was_left, write_cost};
pub(crate) use credential::{Credential, Credentials, KeyHeaders, X_API_KEY, are_doubled};
pub use credential_places::CredentialPlaces;
pub(crate) use denial::{RefusedRequest, kind_of_status};
pub(crate) use encoding::is_encoded;
pub(crate) use grpc::{
    CallStatus as GrpcCallStatus, Dialect, explain as explain_grpc, has_failed as grpc_has_failed,
    is_grpc, is_unauthenticated as grpc_is_unauthenticated, kind_of_answer as kind_of_grpc_answer,
    timeout as grpc_timeout,
};
pub(crate) use origin::is_cross_site;
pub(crate) use pace::Pace;
pub(crate) use path::{is_normal_path, parameter_of};
pub use rate_headers::RateHeaderDialect;
pub(crate) use rate_headers::{RateHeaders, ToldLimits};
pub(crate) use routes::{Methods, RouteMatch, Routes};
pub(crate) use usage::{ToldError, UsageReader};

/// A refusal as a gRPC status, with the text for clients.
#[cfg(feature = "tonic")]
pub(crate) fn grpc_status(refusal: &crate::domain::denial::Denial) -> ::tonic::Status {
    let text = refusal
        .message()
        .map_or_else(|| denial::message(refusal), Into::into);
    grpc::status(refusal, &text)
}
