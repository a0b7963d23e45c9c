//! Problem documents (RFC 9457) of the admin listener.

use axum::{
    http::{
        header::{CACHE_CONTROL, CONTENT_TYPE},
        HeaderName, StatusCode,
    },
    response::{IntoResponse, Response},
};

pub(super) const NO_STORE: [(HeaderName, &str); 1] = [(CACHE_CONTROL, "no-store")];

pub(super) fn problem_response(status: StatusCode, detail: Option<&str>) -> Response {
    let mut body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
    });
    if let Some(detail) = detail {
        body["detail"] = detail.into();
    }
    (status, NO_STORE, [(CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}
