//! Routes that serve files, and the sending of files in general.

use crate::{
    clock,
    files::{
        accel::AccelFields,
        answer::{self, FileFacts, FilePiece},
        directory::{chosen::FileSource, DirectoryAnswer, SMALL_FILE},
        path,
        root::OpenError,
        send,
    },
    gateway::{
        body::{codec::TURN_BYTES, file_pieces::FilePieces, pieces::BodyPieces},
        context::RequestContext,
        headers::{rules, to_client::set_gateway_headers},
        respond::{errors, fit_to_client, refuse_with_problem, send_pieces, send_problem, send_whole},
        runtime_config::RouteFiles,
        services::{GatewayServices, NextStep},
        session::GatewaySession,
    },
    http::{cache_status::CacheStatus, field_lines::joined_lines},
    representation::{encoding, problem::ProblemReply, Body},
    telemetry::labels::{CacheResult, FileOutcome, RejectReason},
};

use bytes::Bytes;
use http::{header, HeaderName, HeaderValue, Method, StatusCode, Uri};
use pingora_core::{ErrorSource, Result};
use pingora_http::ResponseHeader;

/// `Cache-Status` of a file that a route serves.
const ROUTE_STATUS: CacheStatus = CacheStatus::local("file");

/// A file to be sent.
pub(crate) struct OutgoingFile<'a> {
    pub(crate) source: FileSource,
    pub(crate) facts: &'a FileFacts,
    pub(crate) fields: &'a [(HeaderName, HeaderValue)],
    pub(crate) orders: AccelFields,
    pub(crate) status: CacheStatus,
}

/// Answers a request on a route of files.
pub(crate) async fn answer_file(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    at: &RouteFiles,
) -> Result<NextStep> {
    let request = session.req_header();
    if !matches!(request.method, Method::GET | Method::HEAD) {
        let problem = errors::method_not_allowed(&[Method::GET, Method::HEAD]);
        return refuse_with_problem(services, session, ctx, RejectReason::MethodNotAllowed, problem).await;
    }
    ctx.result = CacheResult::File;
    let below = ctx.path_of(request).get(at.base..).unwrap_or_default();
    let Ok(path) = path::relative_path(below.as_bytes(), at.directory.hidden()) else {
        return send_no_file(services, session, ctx, FileOutcome::BadPath).await;
    };
    let accepted = joined_lines(&request.headers, &header::ACCEPT_ENCODING);
    let ranked = encoding::rank_codings(accepted.as_deref(), &ctx.site.config().encoding.prefer);
    match at.directory.find(path, ranked).await {
        Ok(DirectoryAnswer::File(chosen)) => {
            let file = OutgoingFile {
                source: chosen.source.clone(),
                facts: &chosen.facts,
                fields: &chosen.fields,
                orders: AccelFields::default(),
                status: ROUTE_STATUS,
            };
            send_file(services, session, ctx, file).await
        }
        Ok(DirectoryAnswer::Slash) => send_slash_redirect(services, session, ctx, at).await,
        Err(error) => send_no_file(services, session, ctx, open_outcome(&error)).await,
    }
}

/// Redirects to the same path with a slash, with a relative reference that can't lead to another host.
async fn send_slash_redirect(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    at: &RouteFiles,
) -> Result<NextStep> {
    let Some(location) = slash_location(&session.req_header().uri) else {
        return send_no_file(services, session, ctx, FileOutcome::BadPath).await;
    };
    services.metrics.file(FileOutcome::Slash);
    let mut head = Box::new(ResponseHeader::build(StatusCode::PERMANENT_REDIRECT, Some(8))?);
    head.insert_header(header::LOCATION, location)?;
    head.insert_header(header::CACHE_CONTROL, at.cache_control.clone())?;
    head.insert_header(header::CONTENT_LENGTH, HeaderValue::from(0))?;
    set_gateway_headers(&mut head, ctx, ROUTE_STATUS)?;
    rules::apply_answer_rules(session.req_header(), &mut head, ctx);
    send_whole(session, head, Body::new()).await
}

/// Answers if no file can be sent. The cause is logged for the operator, and not shown to the client.
pub(crate) async fn send_no_file(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    why: FileOutcome,
) -> Result<NextStep> {
    services.metrics.file(why);
    ctx.result = CacheResult::File;
    ctx.detail = Some(why.as_str());
    let problem = match why {
        FileOutcome::Failed => {
            ctx.result = CacheResult::Error;
            ProblemReply::new(StatusCode::INTERNAL_SERVER_ERROR, "the file can't be read")
        }
        _ => ProblemReply::new(StatusCode::NOT_FOUND, "there is no such file"),
    };
    send_problem(session, ctx, problem).await
}

/// Sends a file: all of it, ranges of it, or 304.
pub(crate) async fn send_file(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    file: OutgoingFile<'_>,
) -> Result<NextStep> {
    let OutgoingFile { source, facts, fields, orders, status } = file;
    let request = session.req_header();
    // A request with another method that led here reads the file (as nginx's internal redirects do).
    let method = if request.method == Method::HEAD { &Method::HEAD } else { &Method::GET };
    let answer::SendPlan { mut head, pieces } =
        answer::plan_answer(method, &request.headers, facts, fields, clock::wall());
    let outcome = status_outcome(head.status);
    let rules = &ctx.site.plan.config.encoding;
    let how = (orders.at_once, *method == Method::HEAD);
    let codec = fit_to_client(services, &mut head, &request.headers, how, rules, Some(facts.length))?;
    let most = if codec.is_some() { TURN_BYTES.min(send::PIECE_BYTES) } else { send::PIECE_BYTES };
    set_gateway_headers(&mut head, ctx, status)?;
    ctx.result = CacheResult::File;
    rules::apply_answer_rules(request, &mut head, ctx);
    let sent = match (source, codec) {
        (FileSource::Here(content), None) => send_whole(session, head, memory_body(&content, pieces)).await,
        (FileSource::Here(content), codec) => {
            let pieces = BodyPieces::Here(memory_body(&content, pieces));
            send_pieces(session, head, pieces, codec).await
        }
        (FileSource::File(opened), codec) => {
            let by_itself =
                codec.is_none() && !session.is_http2() && answer::body_length(&pieces) > SMALL_FILE;
            let to = ctx.signals.clone().filter(|to| by_itself && to.file.is_offered());
            let pieces = FilePieces::new(opened, pieces, most, orders.rate, to);
            send_pieces(session, head, BodyPieces::File(Box::new(pieces)), codec).await
        }
    };
    services.metrics.file(match &sent {
        Ok(_) => outcome,
        Err(error) if *error.esource() == ErrorSource::Internal => FileOutcome::Failed,
        Err(_) if ctx.signals.as_ref().is_some_and(|to| to.file.was_truncated()) => {
            tracing::warn!("a file was truncated while it was sent");
            FileOutcome::Failed
        }
        Err(_) => FileOutcome::Aborted,
    });
    sent
}

/// The pieces of a file in memory.
fn memory_body(content: &Bytes, pieces: Vec<FilePiece>) -> Body {
    let within = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(content.len());
    let bytes = |piece| match piece {
        FilePiece::Here(bytes) => bytes,
        FilePiece::File(range) => content.slice(within(range.start)..within(range.end)),
    };
    Body::from_pieces(pieces.into_iter().map(bytes).collect())
}

/// Translates an error of opening a file into the outcome that is counted.
pub(crate) fn open_outcome(error: &OpenError) -> FileOutcome {
    match error {
        OpenError::NotFound => FileOutcome::NotFound,
        OpenError::Link => FileOutcome::Link,
        OpenError::Directory | OpenError::NotRegular => FileOutcome::NotRegular,
        OpenError::Denied => FileOutcome::Denied,
        OpenError::NotNow | OpenError::Io(_) => {
            tracing::error!(%error, "a file can't be opened");
            FileOutcome::Failed
        }
    }
}

fn status_outcome(status: StatusCode) -> FileOutcome {
    match status {
        StatusCode::PARTIAL_CONTENT => FileOutcome::Partial,
        StatusCode::NOT_MODIFIED => FileOutcome::NotModified,
        StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => FileOutcome::Unfit,
        _ => FileOutcome::Whole,
    }
}

/// Path and query with a slash after the path. Leading slashes are merged: two of them would name a host.
fn slash_location(uri: &Uri) -> Option<HeaderValue> {
    let path = uri.path().trim_start_matches(['/', '\\']);
    let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
    HeaderValue::try_from(format!("/{path}/{query}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_leads_to_no_other_host() {
        for (uri, location) in [
            ("/docs", "/docs/"),
            ("/docs?a=1&b=/", "/docs/?a=1&b=/"),
            ("//evil.example/docs", "/evil.example/docs/"),
            ("/big%20docs", "/big%20docs/"),
        ] {
            assert_eq!(slash_location(&uri.parse().unwrap()).unwrap(), location, "{uri}");
        }
    }
}
