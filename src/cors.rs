//! Cross-origin requests, handled by the Fetch standard
//! (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! Decides the CORS fields of an answer to a request with `Origin`, and the answer to a preflight. An actual
//! request is never refused: the browser decides what a script may read, and a request from an origin that
//! isn't allowed gets an answer without permissions. The origin server's own CORS fields are removed, so that
//! no permission occurs twice, and none that was made for another request.

use crate::{
    config::{AllowedOrigins, CorsConfig, OriginPattern},
    headers::{vary_by, MessageFields},
};
use http::{header, HeaderMap, HeaderName, HeaderValue, Method};

/// The answer to a preflight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PreflightAnswer {
    /// 204 with these fields. The browser compares the method and fields with the allowed ones, and names the
    /// one that isn't.
    Allowed(Vec<(HeaderName, HeaderValue)>),
    /// 403 without permissions: the origin isn't allowed.
    Refused,
}

const ALLOW_ALL: HeaderValue = HeaderValue::from_static("*");
const ALLOW_CREDENTIALS: HeaderValue = HeaderValue::from_static("true");
/// The fields that a preflight's answer depends on, for `Vary`.
pub(crate) const PREFLIGHT_VARY: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");

/// The method that a preflight asks for; `None` if the request is not a preflight.
pub(crate) fn preflight_method(method: &Method, request: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS || !request.contains_key(header::ORIGIN) {
        return None;
    }
    let asked = single_line(request, &header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(asked.as_bytes()).ok()
}

/// The answer to a preflight with these fields.
pub(crate) fn answer_preflight(cors: &CorsConfig, request: &HeaderMap) -> PreflightAnswer {
    let Some(allowed) = allowed_origin(cors, request) else { return PreflightAnswer::Refused };
    let mut fields = vec![(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed)];
    if cors.credentials {
        fields.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, ALLOW_CREDENTIALS));
    }
    fields.push((header::ACCESS_CONTROL_ALLOW_METHODS, cors.methods.clone()));
    if let Some(headers) = &cors.headers {
        fields.push((header::ACCESS_CONTROL_ALLOW_HEADERS, headers.clone()));
    }
    fields.push((header::ACCESS_CONTROL_MAX_AGE, cors.max_age.clone()));
    fields.push((header::VARY, PREFLIGHT_VARY));
    PreflightAnswer::Allowed(fields)
}

/// Replaces the CORS fields of an answer to a request with these fields: those of the origin server are
/// removed, and the gateway's are added.
pub(crate) fn apply_cors(cors: &CorsConfig, request: &HeaderMap, answer: &mut impl MessageFields) {
    let theirs = answer.names().into_iter().filter(|name| name.as_str().starts_with("access-control-"));
    theirs.for_each(|name| answer.remove(&name));
    if cors.origins != AllowedOrigins::Any {
        vary_by(answer, "Origin");
    }
    let Some(allowed) = allowed_origin(cors, request) else { return };
    answer.append(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    if cors.credentials {
        answer.append(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, ALLOW_CREDENTIALS);
    }
    if let Some(expose) = &cors.expose {
        answer.append(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
    }
}

/// The value of `Access-Control-Allow-Origin`; `None`: nothing is allowed.
fn allowed_origin(cors: &CorsConfig, request: &HeaderMap) -> Option<HeaderValue> {
    match &cors.origins {
        // The same for all requests, so that one answer fits all.
        AllowedOrigins::Any => Some(ALLOW_ALL),
        AllowedOrigins::Listed(patterns) => {
            let origin = single_line(request, &header::ORIGIN)?;
            let text = origin.to_str().ok()?;
            patterns.iter().any(|pattern| matches_origin(pattern, text)).then(|| origin.clone())
        }
    }
}

/// Returns true if pages of this origin may send credentials.
pub(crate) fn may_send_credentials(cors: &CorsConfig, origin: &str) -> bool {
    match &cors.origins {
        AllowedOrigins::Any => false,
        AllowedOrigins::Listed(patterns) => {
            cors.credentials && patterns.iter().any(|pattern| matches_origin(pattern, origin))
        }
    }
}

/// Returns true if a pattern matches this origin. Compares bytes: browsers serialise an origin in one way
/// only (RFC 6454, 6.2).
pub(crate) fn matches_origin(pattern: &OriginPattern, origin: &str) -> bool {
    match pattern {
        OriginPattern::Exact(exact) => **exact == *origin,
        OriginPattern::Below { scheme, domain } => {
            let labels = origin.strip_prefix(&**scheme).and_then(|rest| rest.strip_suffix(&**domain));
            labels.is_some_and(|labels| labels.len() <= 253 && labels.split('.').all(is_label))
        }
    }
}

fn is_label(label: &str) -> bool {
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    (1..=63).contains(&label.len()) && label.bytes().all(known)
}

/// The value of a field that occurs exactly once.
fn single_line<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    lines.next().filter(|_| lines.next().is_none())
}

#[cfg(test)]
#[path = "cors_tests.rs"]
mod tests;
