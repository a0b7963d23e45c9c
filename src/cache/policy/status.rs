//! The meaning of a status: for a resource, for one request for it, or for the server.
//!
//! Pure. An answer that is not stored may all the same end what is (RFC 9111, 4.3.3): it is newer, and it is the truth.

use crate::telemetry::labels::FillOutcome;
use http::StatusCode;

/// Returns whether an answer that is not stored, for this reason, ends what is stored for the same request. A server's error
/// doesn't, nor does a refusal of what one request said beside its target. What a request with credentials gets is about its
/// sender, unless the resource is gone: otherwise anyone could end what others are served with a bad token.
pub fn ends_stored(why: FillOutcome, status: StatusCode, with_credentials: bool) -> bool {
    match status.as_u16() {
        404 | 410 => true,
        _ if with_credentials => false,
        200..=299 => !matches!(
            why,
            // Made for credentials, for a cookie, or a part: others may still get what there was.
            FillOutcome::Authorization | FillOutcome::Cookie | FillOutcome::Partial
        ),
        // A 304 says nothing of what it is not compared with.
        304 => false,
        // RFC 9110, 15.5: the syntax, the preferences, the preconditions, the pace or the size of one request.
        400 | 406..=408 | 411..=413 | 415..=417 | 421 | 422 | 425 | 428 | 429 | 431 => false,
        300..=499 => true,
        _ => false,
    }
}

/// Returns whether a server's error may come of what this very request said: an application that stumbles over a field. One that
/// speaks of the server's own state (502, 503, 504) does not.
pub fn may_be_the_requests_own(status: StatusCode) -> bool {
    status.is_server_error() && !matches!(status.as_u16(), 502..=504)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_error_ends_what_is_stored() {
        let ends = |why, status| ends_stored(why, StatusCode::from_u16(status).unwrap(), false);
        for status in [200, 204, 206, 299, 301, 302, 303, 307, 401, 403, 404, 405, 410, 451] {
            assert!(ends(FillOutcome::Status, status), "{status}");
        }
        for why in [FillOutcome::Private, FillOutcome::NoStore, FillOutcome::SetCookie, FillOutcome::VaryAny]
        {
            assert!(ends(why, 200), "{why}");
        }
        for status in [304, 400, 406, 408, 412, 413, 416, 421, 425, 429, 431, 500, 502, 503, 504, 599, 999] {
            assert!(!ends(FillOutcome::Status, status), "{status}");
        }
        for why in [FillOutcome::Authorization, FillOutcome::Cookie] {
            assert!(!ends(why, 200) && ends(why, 404), "{why}");
        }
        assert!(!ends(FillOutcome::Partial, 206));
        for (status, over) in
            [(200, false), (302, false), (401, false), (403, false), (404, true), (410, true)]
        {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(ends_stored(FillOutcome::Status, status, true), over, "{status}");
        }
    }
}
