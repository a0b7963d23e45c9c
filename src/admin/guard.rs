//! Admission to the admin listener: no web page, and nobody who means another host.

use super::{hosts::KnownHosts, problem};
use axum::{
    extract::{Request, State},
    http::{
        header::{CONNECTION, HOST, ORIGIN},
        HeaderValue, Method, StatusCode, Version,
    },
    middleware::Next,
    response::Response,
    Extension,
};
use std::{net::IpAddr, sync::Arc, time::Duration};

/// For a request's body, and what is done with it.
const EXCHANGE: Duration = Duration::from_secs(30);

/// The address that a connection was made to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Local(pub(super) IpAddr);

/// Answers, or says why not.
pub(super) async fn admit(
    State(known): State<Arc<KnownHosts>>,
    Extension(Local(local)): Extension<Local>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(refusal) = refusal(&request, &known, local) {
        return refusal;
    }
    match tokio::time::timeout(EXCHANGE, next.run(request)).await {
        Ok(answer) => answer,
        Err(_) => ends(problem(StatusCode::REQUEST_TIMEOUT, Some("the request took too long"))),
    }
}

fn refusal(request: &Request, known: &KnownHosts, local: IpAddr) -> Option<Response> {
    // Browsers send it with whatever a page could do harm by; nothing here is for pages.
    if request.headers().contains_key(ORIGIN) {
        return Some(problem(
            StatusCode::FORBIDDEN,
            Some("a request with Origin is a web page's: none is served here"),
        ));
    }
    let mut lines = request.headers().get_all(HOST).iter();
    let (host, twice) = (lines.next(), lines.next().is_some());
    if twice || (host.is_none() && request.version() != Version::HTTP_10) {
        return Some(ends(problem(StatusCode::BAD_REQUEST, Some("there has to be one Host"))));
    }
    let admits = |host: &str| known.admits(host, local);
    let named = host.is_none_or(|host| host.to_str().is_ok_and(admits));
    // RFC 9112, 3.2.2: what an absolute target says counts more.
    let target = request.uri().authority().is_none_or(|authority| admits(authority.as_str()));
    if named && target && request.method() != Method::CONNECT {
        return None;
    }
    let detail = "this host is not known here: list it in hosts of [admin]";
    Some(ends(problem(StatusCode::MISDIRECTED_REQUEST, Some(detail))))
}

/// Whoever has sent something that was not meant for this listener is heard no further.
fn ends(mut answer: Response) -> Response {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}
