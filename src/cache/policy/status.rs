//! The meaning of a status: for a resource, for one request for it, or for the server.
//!
//! Pure. An answer that is not stored may still end a stored one (RFC 9111, 4.3.3), because it is newer.

use crate::telemetry::labels::FillOutcome;
use http::StatusCode;

/// Returns true if an answer that is not stored, for this reason, ends the stored one for the same request. A
/// server's error doesn't, nor does a refusal of a part of one request beside its target. An answer to a
/// request with credentials is about its sender, unless the resource is gone: otherwise any client could end
/// a shared answer with a bad token. An answer to HEAD is never stored: `Stored` is the reason if one to GET
/// would be.
pub fn ends_stored(why: FillOutcome, status: StatusCode, with_credentials: bool) -> bool {
    match status.as_u16() {
        404 | 410 => true,
        _ if with_credentials => false,
        200..=299 => !matches!(
            why,
            // Made for credentials, for a cookie, or a part: the stored answer may still be right for others.
            FillOutcome::Authorization | FillOutcome::Cookie | FillOutcome::Partial
        ),
        // A 304 is only about the answer that it was compared with.
        304 => false,
        // RFC 9110, 15.5: the syntax, the preferences, the preconditions, the rate or the size of one
        // request.
        400 | 406..=408 | 411..=413 | 415..=417 | 421 | 422 | 425 | 428 | 429 | 431 => false,
        300..=499 => true,
        _ => false,
    }
}

/// Returns true if a server's error may be caused by this very request: an application that fails on a field.
/// One about the server's own state (502, 503, 504) is not.
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
