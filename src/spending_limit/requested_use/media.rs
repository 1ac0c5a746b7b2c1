//! The media type of a body that is read as JSON.

use http::{HeaderMap, header::CONTENT_TYPE};

use super::json::malformed;
use crate::domain::denial::Denial;

/// Lets through a body without a type, and one whose only type is JSON in UTF-8.
///
/// # Errors
/// If it is of another type: a service may read it by that type, as a form or in another charset,
/// and find other members in it.
pub(super) fn admit_json(headers: &HeaderMap) -> Result<(), Denial> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let is_json = match (types.next(), types.next()) {
        (None, _) => true,
        (Some(only), None) => only.to_str().is_ok_and(is_json),
        (Some(_), Some(_)) => false,
    };
    if is_json {
        return Ok(());
    }
    Err(malformed(
        "The content-type must be application/json, in UTF-8",
    ))
}

/// Whether it is `application/json`, or a type that ends in `+json` (RFC 6839, 3.1), with no
/// charset but UTF-8 (RFC 8259, 8.1).
fn is_json(media_type: &str) -> bool {
    let mut parts = media_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let essence = essence.to_ascii_lowercase();
    let structured = |(kind, name): (&str, &str)| {
        let is_token = |text: &str| !text.contains([',', ' ', '\t']);
        kind == "application" && (name == "json" || name.ends_with("+json")) && is_token(name)
    };
    essence.split_once('/').is_some_and(structured) && parts.all(is_no_other_charset)
}

/// `charset*=` (RFC 8187) states one as well, and is refused.
fn is_no_other_charset(parameter: &str) -> bool {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    let starts = name.get(..7).unwrap_or_default();
    if !starts.eq_ignore_ascii_case("charset") {
        return true;
    }
    let value = value.trim().trim_matches('"');
    let is_utf_8 = value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8");
    name.trim_end().len() == 7 && is_utf_8
}
