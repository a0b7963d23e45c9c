//! Admission to the admin listener: refuses web pages, and requests for other hosts.

use super::{hosts::KnownHosts, problem::problem_response};
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

/// The timeout for a request's body and its processing.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// The address that a connection was made to.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalAddress(pub(super) IpAddr);

/// Passes a request on, or answers with the reason for the refusal.
pub(super) async fn admit(
    State(known): State<Arc<KnownHosts>>,
    Extension(LocalAddress(local)): Extension<LocalAddress>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(refusal) = refusal_for(&request, &known, local) {
        return refusal;
    }
    match tokio::time::timeout(EXCHANGE_TIMEOUT, next.run(request)).await {
        Ok(answer) => answer,
        Err(_) => {
            close_connection(problem_response(StatusCode::REQUEST_TIMEOUT, Some("the request took too long")))
        }
    }
}

fn refusal_for(request: &Request, known: &KnownHosts, local: IpAddr) -> Option<Response> {
    // Browsers send it with every request by which a page could do harm; nothing here is for pages.
    if request.headers().contains_key(ORIGIN) {
        return Some(problem_response(
            StatusCode::FORBIDDEN,
            Some("a request with Origin is a web page's: none is served here"),
        ));
    }
    let mut lines = request.headers().get_all(HOST).iter();
    let (host, twice) = (lines.next(), lines.next().is_some());
    if twice || (host.is_none() && request.version() != Version::HTTP_10) {
        return Some(close_connection(problem_response(
            StatusCode::BAD_REQUEST,
            Some("there has to be one Host"),
        )));
    }
    let admits = |host: &str| known.admits(host, local);
    let named = host.is_none_or(|host| host.to_str().is_ok_and(admits));
    // RFC 9112, 3.2.2: the host of an absolute target takes precedence.
    let target = request.uri().authority().is_none_or(|authority| admits(authority.as_str()));
    if named && target && request.method() != Method::CONNECT {
        return None;
    }
    let detail = "this host is not known here: list it in hosts of [admin]";
    Some(close_connection(problem_response(StatusCode::MISDIRECTED_REQUEST, Some(detail))))
}

/// Closes the connection after a request that was not meant for this listener.
fn close_connection(mut answer: Response) -> Response {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}
