//! `POST /api/purge`: the parsing of the body, and the answer.
//!
//! The body is JSON with one of `url`, `urls`, `tag`, `tags`, `all`, and optionally `soft`. Anything else is
//! an error, so that a misspelt key never purges less, or harder, than intended. The content type must be
//! `application/json`: a web page that somebody on the admin network visits can send other types without a
//! preflight.

use super::{
    problem::{problem_response, NO_STORE},
    state::{AdminState, PurgeFailure},
};
use crate::{
    cache::coherence::purge::{PurgeOrder, PurgeTarget},
    telemetry::labels::StoreError,
};

use axum::{
    body::Bytes,
    extract::{rejection::BytesRejection, State},
    http::{
        header::{CONTENT_TYPE, RETRY_AFTER},
        HeaderMap, HeaderValue, StatusCode,
    },
    response::{IntoResponse, Response},
    Json,
};
use serde_json::{json, Map, Value};

/// The largest body, in bytes.
pub(super) const MAX_BODY_BYTES: usize = 1 << 20;
const USAGE_HINT: &str = "say one of url, urls, tag, tags, all";

/// Purges entries on this node and on all others.
pub(super) async fn purge(
    State(state): State<AdminState>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    if !is_json(&headers) {
        return problem_response(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Some("the body has to be application/json"),
        );
    }
    let orders = match body {
        Ok(body) => parse_orders(&body),
        Err(rejection) => return problem_response(rejection.status(), Some(&rejection.body_text())),
    };
    let orders = match orders {
        Ok(orders) => orders,
        Err(fault) => return problem_response(StatusCode::BAD_REQUEST, Some(&fault)),
    };
    let soft = orders.iter().all(|order| order.soft);
    match (state.purge)(orders).await {
        Ok(purged) => (NO_STORE, Json(json!({ "purged": purged, "soft": soft }))).into_response(),
        Err(PurgeFailure::Nothing(why)) => problem_response(StatusCode::UNPROCESSABLE_ENTITY, Some(&why)),
        Err(PurgeFailure::Store(error)) => {
            let why = match error {
                StoreError::Timeout => "Redis did not answer in time",
                StoreError::Down => "Redis can't be reached",
                StoreError::Protocol => "Redis refused to write it (/readyz and the log tell its words)",
            };
            let detail = format!(
                "purged on this node, but not recorded for the others: {why}; it will be as soon as Redis takes it"
            );
            let mut answer = problem_response(StatusCode::SERVICE_UNAVAILABLE, Some(&detail));
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            answer
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let named = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = named.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Parses a body, or returns the fault in it.
fn parse_orders(body: &[u8]) -> Result<Vec<PurgeOrder>, String> {
    let body: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| format!("the body is no JSON object: {error}"))?;
    let (mut wanted, mut soft) = (None, false);
    for (key, value) in &body {
        let targets = match (key.as_str(), value) {
            ("soft", Value::Bool(value)) => {
                soft = *value;
                continue;
            }
            ("url", value) => vec![parse_target(key, value, PurgeTarget::url)?],
            ("tag", value) => vec![parse_target(key, value, PurgeTarget::tag)?],
            ("urls", value) => parse_list(key, value, PurgeTarget::url)?,
            ("tags", value) => parse_list(key, value, PurgeTarget::tag)?,
            ("all", Value::Bool(true)) => vec![PurgeTarget::All],
            ("all", _) => return Err("all: only true makes sense".to_owned()),
            ("soft", _) => return Err("soft: true or false is expected".to_owned()),
            _ => return Err(format!("{key:?} is not known: {USAGE_HINT}, and perhaps soft")),
        };
        if wanted.replace(targets).is_some() {
            return Err(format!("{USAGE_HINT}, not several"));
        }
    }
    let targets = wanted.ok_or(USAGE_HINT)?;
    Ok(targets.into_iter().map(|target| PurgeOrder { target, soft }).collect())
}

fn parse_list<E: std::fmt::Display>(
    key: &str,
    value: &Value,
    parse: fn(&str) -> Result<PurgeTarget, E>,
) -> Result<Vec<PurgeTarget>, String> {
    match value {
        Value::Array(items) if !items.is_empty() => {
            let each = items.iter().enumerate();
            each.map(|(place, item)| parse_target(&format!("{key}[{place}]"), item, parse)).collect()
        }
        _ => Err(format!("{key}: a list that is not empty is expected")),
    }
}

fn parse_target<E: std::fmt::Display>(
    place: &str,
    value: &Value,
    parse: fn(&str) -> Result<PurgeTarget, E>,
) -> Result<PurgeTarget, String> {
    let text = value.as_str().ok_or_else(|| format!("{place}: text is expected"))?;
    parse(text).map_err(|error| format!("{place}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Vec<PurgeOrder>, String> {
        parse_orders(body.as_bytes())
    }

    #[test]
    fn a_body_orders_one_kind_of_thing() {
        let url = PurgeTarget::of("dash.example", "/x?y=1");
        assert_eq!(read(r#"{"url": "http://dash.example/x?y=1"}"#), Ok(vec![PurgeOrder::hard(url.clone())]));
        let soft = |target| PurgeOrder { target, soft: true };
        assert_eq!(
            read(r#"{"soft": true, "urls": ["https://Dash.example:443/x?y=1", "http://b"]}"#),
            Ok(vec![soft(url), soft(PurgeTarget::of("b", "/"))])
        );
        let tag = |text: &str| PurgeTarget::Tag(text.into());
        assert_eq!(
            read(r#"{"tag": "products", "soft": false}"#),
            Ok(vec![PurgeOrder::hard(tag("products"))])
        );
        assert_eq!(read(r#"{"tags": ["a", "b"]}"#), Ok(["a", "b"].map(|t| PurgeOrder::hard(tag(t))).into()));
        assert_eq!(read(r#"{"all": true}"#), Ok(vec![PurgeOrder::hard(PurgeTarget::All)]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, told) in [
            ("", "no JSON object"),
            ("[]", "no JSON object"),
            ("{}", "say one of url"),
            (r#"{"soft": true}"#, "say one of url"),
            (r#"{"ulr": "http://a/"}"#, "\"ulr\" is not known"),
            (r#"{"tag": "a", "Soft": true}"#, "\"Soft\" is not known"),
            (r#"{"tag": "a", "all": true}"#, "not several"),
            (r#"{"url": 5}"#, "url: text"),
            (r#"{"url": null}"#, "url: text"),
            (r#"{"url": "/x"}"#, "url: a URL has to begin with"),
            (r#"{"url": "ftp://a/x"}"#, "url: a URL has to begin with"),
            (r#"{"urls": "http://a/"}"#, "urls: a list"),
            (r#"{"urls": []}"#, "urls: a list"),
            (r#"{"urls": ["http://a/", "http://a b/"]}"#, "urls[1]: a URL has no blanks"),
            (r#"{"urls": ["http:///x"]}"#, "urls[0]: a URL needs a host"),
            (r#"{"tag": ""}"#, "tag: a tag has"),
            (r#"{"tags": [" a"]}"#, "tags[0]: a tag has"),
            (r#"{"all": false}"#, "all: only true"),
            (r#"{"all": true, "soft": "yes"}"#, "soft: true or false"),
        ] {
            let fault = read(body).unwrap_err();
            assert!(fault.contains(told), "{body}: {fault}");
        }
    }
}
