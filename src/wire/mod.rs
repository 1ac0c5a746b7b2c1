//! Floor 2: the one place that speaks HTTP and gRPC: credentials in, refusals and limit headers out.

mod client_address;
mod credential;
mod denial;
mod grpc;
mod head;
mod path;
mod rate_headers;
mod request_id;

pub(crate) use client_address::counted_as;
pub use client_address::{AddressError, ClientAddress, ForwardedHeader, PeerAddress};
pub use denial::{DenialBody, DenialContext, DenialFormat, Denials, RenderDenial};
pub use head::RequestHead;
pub use request_id::RequestId;

pub(crate) use credential::{Credential, Credentials};
pub(crate) use denial::{RefusedRequest, kind_of_status};
pub(crate) use path::is_normal_path;
pub(crate) use rate_headers::RateHeaders;
