//! Problem documents (RFC 9457): the gateway's own error answers.

use super::response_head::{append_field, blank_head};
use bytes::Bytes;
use http::{header, HeaderName, HeaderValue, StatusCode};
use pingora_http::ResponseHeader;

/// A problem, ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct ProblemReply {
    /// The status.
    pub status: StatusCode,
    /// The explanation, for people; never anything secret.
    pub detail: &'static str,
    /// Further headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Further members of the document, or replacements of those that all have (RFC 9457, 3.2).
    pub members: Vec<(&'static str, serde_json::Value)>,
}

impl ProblemReply {
    /// A problem without further headers.
    pub(crate) fn new(status: StatusCode, detail: &'static str) -> Self {
        Self { status, detail, headers: vec![], members: vec![] }
    }

    /// The same with one more header.
    #[must_use]
    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same with one more member, or one replaced.
    #[must_use]
    pub(crate) fn with_member(mut self, member: &'static str, value: impl Into<serde_json::Value>) -> Self {
        self.members.push((member, value.into()));
        self
    }

    /// The head and the body.
    pub(crate) fn into_parts(self, request_id: &str) -> (Box<ResponseHeader>, Bytes) {
        let body = problem_document(self.status, self.detail, request_id, self.members);
        let mut head = Box::new(blank_head(self.status));
        let fixed = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json")),
            (header::CONTENT_LENGTH, HeaderValue::from(body.len())),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        for (name, value) in fixed.into_iter().chain(self.headers) {
            append_field(&mut head, name, value);
        }
        (head, body)
    }
}

fn problem_document(
    status: StatusCode,
    detail: &str,
    request_id: &str,
    members: Vec<(&'static str, serde_json::Value)>,
) -> Bytes {
    let mut document = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail,
    });
    if !request_id.is_empty() {
        document["request_id"] = request_id.into();
    }
    for (member, value) in members {
        document[member] = value;
    }
    document.to_string().into()
}

/// The answer to a request that could not be read.
pub(crate) fn unreadable_problem(status: StatusCode) -> ProblemReply {
    let detail = match status {
        StatusCode::REQUEST_TIMEOUT => "the request did not arrive in time",
        _ => "the request could not be read",
    };
    ProblemReply::new(status, detail)
}

/// The same as HTTP/1.1 bytes; the connection is closed after it.
pub(crate) fn unreadable_bytes(status: StatusCode) -> Bytes {
    let body = problem_document(status, unreadable_problem(status).detail, "", vec![]);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), &body].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_tells_its_status_and_the_request() {
        let retry = (header::RETRY_AFTER, HeaderValue::from_static("1"));
        let problem = ProblemReply::new(StatusCode::SERVICE_UNAVAILABLE, "later").with(retry.0, retry.1);
        let (head, body) = problem.with_member("type", "about:more").into_parts("r1");
        assert_eq!(head.status, 503);
        assert_eq!(head.headers["retry-after"], "1");
        assert_eq!(head.headers["content-type"], "application/problem+json");
        let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(document["title"], "Service Unavailable");
        assert_eq!(document["type"], "about:more");
        assert_eq!((document["status"].as_u64(), document["request_id"].as_str()), (Some(503), Some("r1")));
    }
}
