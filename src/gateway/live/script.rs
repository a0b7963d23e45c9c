//! The script by which a page watches entries, at the path of each `[[live]]` with `.js`.

use crate::{
    config::EncodingConfig,
    gateway::{
        context::RequestContext,
        respond::{errors, refuse_with_problem, send_representation},
        services::{GatewayServices, NextStep},
        session::GatewaySession,
    },
    http::cache_status::CacheStatus,
    representation::{OutsideCaching, Representation},
    telemetry::labels::{CacheResult, RejectReason},
};

use bytes::Bytes;
use http::{header, HeaderValue, Method, StatusCode};
use pingora_core::Result;
use std::sync::OnceLock;

const SCRIPT: &str = include_str!("live.js");

static ENCODED: OnceLock<Representation> = OnceLock::new();

/// Sends the script. Browsers ask for it again each time, and get a 304.
pub(crate) async fn answer_script(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
) -> Result<NextStep> {
    if !matches!(session.req_header().method, Method::GET | Method::HEAD) {
        let problem = errors::method_not_allowed(&[Method::GET, Method::HEAD]);
        return refuse_with_problem(services, session, ctx, RejectReason::MethodNotAllowed, problem).await;
    }
    ctx.result = CacheResult::Local;
    ctx.detail = Some("script");
    let rules = &ctx.site.config().encoding;
    // Encoded once: a reload of `[encoding]` changes nothing here.
    let script = ENCODED.get_or_init(|| script(rules).with_encodings(rules, |_, _| {}));
    send_representation(services, session, ctx, script, CacheStatus::local("script")).await
}

fn script(rules: &EncodingConfig) -> Representation {
    let kind = HeaderValue::from_static("text/javascript; charset=utf-8");
    let outside = OutsideCaching {
        cache_control: HeaderValue::from_static("no-cache"),
        varies_by_authorization: false,
    };
    let content = Bytes::from(without_comments(SCRIPT));
    Representation::new(StatusCode::OK, vec![(header::CONTENT_TYPE, kind)], content, None, outside, rules)
}

/// The script without indentation and lines of comments.
fn without_comments(script: &str) -> String {
    let lines = script.lines().map(str::trim_start);
    let code = lines.filter(|line| !(line.is_empty() || line.starts_with("//")));
    code.fold(String::with_capacity(script.len()), |sent, line| sent + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ContentCoding};

    #[test]
    fn what_is_sent_of_it_is_small() {
        let config =
            Config::parse(include_str!("../../../conf/demo.toml"), "demo.toml", &|_| None).unwrap().config;
        let script = script(&config.encoding).with_encodings(&config.encoding, |_, _| {});
        let sent = script.encoded(ContentCoding::Gzip).unwrap().len();
        assert!(sent <= 3_000, "{sent}");
    }
}
