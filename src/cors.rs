//! Cross-origin requests, judged at the edge by the Fetch standard (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! Decides which fields an answer gets for the `Origin` that asks, and how a preflight is answered. It never refuses an
//! actual request: what a script may read is for the browser to enforce, and a request from an origin that isn't
//! allowed gets an answer without a word of permission. What the origin server said of CORS is taken off, so that no
//! permission stands there twice, and none that was made for somebody else's request.

use crate::{
    config::{AllowedOrigins, Cors, OriginPattern},
    headers::Fields,
};
use http::{header, HeaderMap, HeaderName, HeaderValue, Method};

/// How a preflight is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preflight {
    /// 204 with these fields. Whether the method and the fields that were asked for are among those that are allowed
    /// is the browser's to see: it names the one that isn't.
    Allowed(Vec<(HeaderName, HeaderValue)>),
    /// The origin isn't allowed: 403, without a word of permission.
    Refused,
}

const ALL: HeaderValue = HeaderValue::from_static("*");
const YES: HeaderValue = HeaderValue::from_static("true");
/// What a preflight's answer depends on.
pub const PREFLIGHT_VARIES: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");

/// The method that a preflight asks for; `None`: it is none.
pub fn preflighted(method: &Method, request: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS || !request.contains_key(header::ORIGIN) {
        return None;
    }
    let asked = only(request, &header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(asked.as_bytes()).ok()
}

/// How a preflight with these fields is answered.
pub fn preflight(cors: &Cors, request: &HeaderMap) -> Preflight {
    let Some(allowed) = allowed(cors, request) else { return Preflight::Refused };
    let mut fields = vec![(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed)];
    if cors.credentials {
        fields.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, YES));
    }
    fields.push((header::ACCESS_CONTROL_ALLOW_METHODS, cors.methods.clone()));
    if let Some(headers) = &cors.headers {
        fields.push((header::ACCESS_CONTROL_ALLOW_HEADERS, headers.clone()));
    }
    fields.push((header::ACCESS_CONTROL_MAX_AGE, cors.max_age.clone()));
    fields.push((header::VARY, PREFLIGHT_VARIES));
    Preflight::Allowed(fields)
}

/// Changes an answer to a request with these fields: what the origin server allowed goes, what the gateway allows
/// comes.
pub fn dress(cors: &Cors, request: &HeaderMap, answer: &mut impl Fields) {
    let theirs = answer.names().into_iter().filter(|name| name.as_str().starts_with("access-control-"));
    theirs.for_each(|name| answer.remove(&name));
    if cors.origins != AllowedOrigins::Any {
        vary_by_origin(answer);
    }
    let Some(allowed) = allowed(cors, request) else { return };
    answer.append(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    if cors.credentials {
        answer.append(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, YES);
    }
    if let Some(expose) = &cors.expose {
        answer.append(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
    }
}

/// The value of `Access-Control-Allow-Origin`; `None`: nothing is allowed.
fn allowed(cors: &Cors, request: &HeaderMap) -> Option<HeaderValue> {
    match &cors.origins {
        // Said to everyone: one answer fits all who ask.
        AllowedOrigins::Any => Some(ALL),
        AllowedOrigins::Listed(patterns) => {
            let origin = only(request, &header::ORIGIN)?;
            let text = origin.to_str().ok()?;
            patterns.iter().any(|pattern| permits(pattern, text)).then(|| origin.clone())
        }
    }
}

/// Whether a pattern is of this origin. Byte for byte: browsers write an origin in one way only (RFC 6454, 6.2).
pub fn permits(pattern: &OriginPattern, origin: &str) -> bool {
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

/// The only line of a field.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    lines.next().filter(|_| lines.next().is_none())
}

/// Adds `Origin` to `Vary`, unless that says it already.
fn vary_by_origin(answer: &mut impl Fields) {
    let said = answer.joined(&header::VARY).unwrap_or_default();
    let names = |name: &[u8]| name == b"*" || name.eq_ignore_ascii_case(b"origin");
    if !said.split(|b| *b == b',').any(|name| names(name.trim_ascii())) {
        answer.append(header::VARY, HeaderValue::from_static("Origin"));
    }
}

#[cfg(test)]
#[path = "cors_tests.rs"]
mod tests;
