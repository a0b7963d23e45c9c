//! `X-Accel-Redirect`: an origin orders a file, and the client gets it instead of the answer.
//!
//! If a proxied request gets such an answer, `response_filter` finds the order in its head. Nothing of that
//! answer is sent to the client; the exchange with the origin ends normally and its connection is reused. The
//! file is sent in Pingora's last phase, so that a download never occupies a server of the application. If
//! the cache asked the origin, the order is returned with the answer to the caller.
//!
//! An answer without an order costs one look-up in its head.

use crate::{
    files::{
        accel::{self, AccelFields, LocateError},
        answer::FileFacts,
        content_type,
        directory::chosen::FileSource,
        path,
    },
    gateway::{
        body::{pacing::PacedBody, pieces::BodyPieces},
        context::{relay::AccelRedirect, RequestContext},
        headers::{rules, to_client::set_gateway_headers, to_origin},
        respond::{
            errors,
            files::{self, send_file, send_no_file, OutgoingFile},
            fit_to_client, send_pieces, send_problem,
        },
        runtime_config::LocationBackend,
        services::{GatewayServices, NextStep},
        session::GatewaySession,
    },
    http::{
        cache_status::{CacheStatus, ForwardToken},
        names::REQUEST_ID,
        via::via_value,
    },
    origin::client::{OriginRequest, OriginResponse},
    representation::{conditional::asks_if_modified, encoding, problem::ProblemReply, Body},
    telemetry::labels::{AccelOutcome, CacheResult, FileOutcome},
};

use bytes::Bytes;
use http::{header, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use std::pin::pin;

/// `Cache-Status` of a file that a proxied answer ordered.
pub(crate) const ACCEL_STATUS: CacheStatus =
    CacheStatus::forwarded(ForwardToken::Bypass).with_detail(Some("accel"));

/// The order in an origin's answer, if it is one to be carried out.
pub(crate) fn accel_order(
    services: &GatewayServices,
    ctx: &RequestContext,
    status: StatusCode,
    answer: &HeaderMap,
) -> Option<AccelRedirect> {
    let located = accel::locate_target(answer, &ctx.site.accels.internals)?;
    let metrics = &services.metrics;
    if !ctx.routed().is_some_and(|route| route.accel) {
        metrics.accel(AccelOutcome::Off);
        return None;
    }
    // A refusal or a redirection is sent as it is. A 304 only means that the client's copy is still
    // valid.
    if !status.is_success() && status != StatusCode::NOT_MODIFIED {
        metrics.accel(AccelOutcome::Status);
        return None;
    }
    Some(AccelRedirect { located, answer: answer.clone(), orders: AccelFields::of(answer) })
}

/// Sends the ordered file, or the answer of the ordered URL.
pub(crate) async fn send_accel_file(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    ordered: AccelRedirect,
    status: CacheStatus,
) -> Result<NextStep> {
    let AccelRedirect { located, answer, orders } = ordered;
    ctx.result = CacheResult::File;
    ctx.detail = Some("accel");
    let located = match located {
        Ok(located) => located,
        Err(why) => return refuse_location(services, session, ctx, why).await,
    };
    let site = ctx.site.clone();
    match &site.accels.behind[located.location] {
        LocationBackend::Root { root, hidden } => {
            services.metrics.accel(AccelOutcome::File);
            let Ok(path) = path::relative_path(located.path(), *hidden) else {
                return send_no_file(services, session, ctx, FileOutcome::BadPath).await;
            };
            let name = path.as_str().to_owned();
            let opened = match root.file(path).await {
                Ok(opened) => opened,
                Err(error) => return send_no_file(services, session, ctx, files::open_outcome(&error)).await,
            };
            let facts = FileFacts::of_file(&opened.stamp, "");
            let mut fields = accel::forwarded_fields(&answer);
            if !fields.iter().any(|(name, _)| *name == header::CONTENT_TYPE) {
                fields.push((header::CONTENT_TYPE, content_type(&name)));
            }
            {
                let source = FileSource::File(opened);
                let file = OutgoingFile { source, facts: &facts, fields: &fields, orders, status };
                send_file(services, session, ctx, file).await
            }
        }
        LocationBackend::Origin { origin, prefix } => {
            let ask = build_request(
                session.req_header(),
                ctx,
                accel::target_path(prefix, &located),
                !located.query().is_empty(),
            );
            let asking = site.plan.origins.begin(*origin, &ask, None, &|_| ());
            let asked = session.while_connected(pin!(asking)).await?;
            match asked {
                Ok(answering) => {
                    send_from_other_origin(services, session, ctx, answering, (&answer, orders), status).await
                }
                Err(error) => {
                    services.metrics.accel(AccelOutcome::OriginFailed);
                    tracing::warn!(%error, "fetching the target of an X-Accel-Redirect failed");
                    let error = errors::fetch_error(&error);
                    ctx.result = CacheResult::Error;
                    ctx.detail = Some(errors::error_name(error));
                    send_problem(session, ctx, errors::fetch_problem(error)).await
                }
            }
        }
    }
}

async fn refuse_location(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    why: LocateError,
) -> Result<NextStep> {
    let (outcome, detail) = match why {
        LocateError::Nowhere => (AccelOutcome::NoLocation, "the origin named a file that is nowhere"),
        LocateError::Malformed => (AccelOutcome::Malformed, "the origin named a file that can't be one"),
    };
    services.metrics.accel(outcome);
    let route = ctx.routed().map(|route| route.name.as_str());
    tracing::warn!(reason = outcome.as_str(), route, "an X-Accel-Redirect has no valid target");
    ctx.result = CacheResult::Error;
    ctx.detail = Some(outcome.as_str());
    send_problem(session, ctx, ProblemReply::new(StatusCode::BAD_GATEWAY, detail)).await
}

/// Sends another origin's answer, with the fields that the first answer sets.
async fn send_from_other_origin(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    answering: OriginResponse,
    (answer, orders): (&HeaderMap, AccelFields),
    status: CacheStatus,
) -> Result<NextStep> {
    let found = match answering.status {
        StatusCode::OK
        | StatusCode::PARTIAL_CONTENT
        | StatusCode::PRECONDITION_FAILED
        | StatusCode::RANGE_NOT_SATISFIABLE => true,
        StatusCode::NOT_MODIFIED if asks_if_modified(&session.req_header().headers) => true,
        StatusCode::NOT_FOUND | StatusCode::GONE => false,
        // Details of the other origin (its names, its keys) are not for clients.
        other => {
            services.metrics.accel(AccelOutcome::OriginFailed);
            tracing::warn!(status = other.as_u16(), "the target of an X-Accel-Redirect was refused");
            ctx.result = CacheResult::Error;
            let problem = ProblemReply::new(StatusCode::BAD_GATEWAY, "the file could not be fetched");
            return send_problem(session, ctx, problem).await;
        }
    };
    services.metrics.accel(AccelOutcome::Origin);
    if !found {
        let problem = ProblemReply::new(StatusCode::NOT_FOUND, "there is no such file");
        return send_problem(session, ctx, problem).await;
    }
    let mut head = Box::new(ResponseHeader::build(answering.status, Some(24))?);
    for (name, value) in combine_fields(answering.status, &answering.headers, answer) {
        head.append_header(name, value)?;
    }
    let request = session.req_header();
    let bodyless = request.method == Method::HEAD
        || !matches!(answering.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    if bodyless && request.method != Method::HEAD && answering.status != StatusCode::NOT_MODIFIED {
        head.insert_header(header::CONTENT_LENGTH, HeaderValue::from(0))?;
    }
    let rules = &ctx.site.plan.config.encoding;
    let how = (orders.at_once, bodyless);
    let codec = fit_to_client(services, &mut head, &request.headers, how, rules, answering.told_length())?;
    set_gateway_headers(&mut head, ctx, status)?;
    rules::apply_answer_rules(request, &mut head, ctx);
    ctx.flows_at_once();
    let pieces = match bodyless {
        true => BodyPieces::Here(Body::new()),
        false => BodyPieces::Origin(Box::new(answering), orders.rate.map(PacedBody::new)),
    };
    send_pieces(session, head, pieces, codec).await
}

/// Builds the request to the other origin: it carries the client's range and conditions, and no client
/// identity.
fn build_request(
    request: &RequestHeader,
    ctx: &RequestContext,
    target: String,
    signed: bool,
) -> OriginRequest {
    let asked = request
        .headers
        .iter()
        .filter(|(name, _)| to_origin::PARTIAL_REQUEST_FIELDS.contains(name) || **name == header::ACCEPT);
    let mut headers: Vec<_> = asked.map(|(name, value)| (name.clone(), value.clone())).collect();
    let offered = encoding::offered_codings(&request.headers).unwrap_or(HeaderValue::from_static("identity"));
    headers.push((header::ACCEPT_ENCODING, offered));
    headers.push((header::VIA, via_value(Version::HTTP_11)));
    headers.push((REQUEST_ID, ctx.request_id.clone()));
    // A URL that is signed for GET is not good for HEAD.
    let method = if request.method == Method::HEAD && !signed { Method::HEAD } else { Method::GET };
    OriginRequest { method, target, host: None, headers, tenant: None, spare: false, body: Bytes::new() }
}

/// The fields of the answer to the client. Fields of the first origin's answer take precedence. Fields of the
/// other origin's are used where they describe its bytes, and where the first answer doesn't set them.
fn combine_fields(
    status: StatusCode,
    other: &HeaderMap,
    first: &HeaderMap,
) -> Vec<(HeaderName, HeaderValue)> {
    static OF_THE_BYTES: [HeaderName; 7] = [
        header::ACCEPT_RANGES,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::ETAG,
        header::LAST_MODIFIED,
        header::VARY,
    ];
    static OF_THE_CONTENT: [HeaderName; 5] = [
        header::CONTENT_TYPE,
        header::CONTENT_DISPOSITION,
        header::CONTENT_LANGUAGE,
        header::CACHE_CONTROL,
        header::EXPIRES,
    ];
    let kind = other.get(header::CONTENT_TYPE).filter(|kind| {
        let kind = kind.as_bytes();
        !kind.starts_with(b"binary/octet-stream") && !kind.starts_with(b"application/octet-stream")
    });
    let mut fields = accel::forwarded_fields(first);
    fields.retain(|(name, _)| {
        *name != header::ACCEPT_RANGES && (*name != header::CONTENT_TYPE || kind.is_none())
    });
    let said: Vec<HeaderName> = fields.iter().map(|(name, _)| name.clone()).collect();
    let heard = |name: &HeaderName| {
        OF_THE_BYTES.contains(name) || OF_THE_CONTENT.contains(name) && !said.contains(name)
    };
    fields.extend(other.iter().filter(|(name, _)| heard(name)).map(|(n, v)| (n.clone(), v.clone())));
    if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        let of_content = [header::CONTENT_TYPE, header::CONTENT_DISPOSITION, header::CONTENT_ENCODING];
        fields.retain(|(name, _)| !of_content.contains(name) && *name != header::CONTENT_LENGTH);
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn told(
        status: u16,
        other: &[(&'static str, &'static str)],
        first: &[(&'static str, &'static str)],
    ) -> Vec<String> {
        let status = StatusCode::from_u16(status).unwrap();
        let fields = combine_fields(status, &map(other), &map(first));
        let mut told: Vec<_> = fields.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        told.sort();
        told
    }

    #[test]
    fn who_says_what_of_a_file_from_elsewhere() {
        let bucket = [
            ("content-type", "application/pdf"),
            ("content-length", "5"),
            ("etag", "\"s3\""),
            ("cache-control", "max-age=9"),
            ("x-amz-request-id", "1"),
            ("server", "AmazonS3"),
            ("set-cookie", "bucket=1"),
            ("x-accel-redirect", "/protected/x"),
        ];
        let app = [
            ("content-type", "text/html"),
            ("content-length", "0"),
            ("etag", "\"app\""),
            ("content-disposition", "attachment"),
            ("cache-control", "private"),
            ("set-cookie", "a=1"),
            ("x-accel-redirect", "/s3/a"),
        ];
        let expected = [
            "cache-control: private",
            "content-disposition: attachment",
            "content-length: 5",
            "content-type: application/pdf",
            "etag: \"s3\"",
            "set-cookie: a=1",
        ];
        assert_eq!(told(200, &bucket, &app), expected);
        // S3's default content type for an object that nobody typed: the application's type is used.
        let unknown = [("content-type", "binary/octet-stream"), ("content-length", "5")];
        assert!(told(200, &unknown, &app).contains(&"content-type: text/html".to_owned()));
        assert!(told(200, &bucket, &[]).contains(&"cache-control: max-age=9".to_owned()));
        assert_eq!(told(304, &bucket, &app), ["cache-control: private", "etag: \"s3\"", "set-cookie: a=1"]);
    }
}
