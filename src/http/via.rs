//! `Via` (RFC 9110, 7.6.3).

use http::{HeaderValue, Version};

/// The gateway's member of `Via` for a message that was received in this version.
pub(crate) fn via_value(received: Version) -> HeaderValue {
    HeaderValue::from_static(match received {
        Version::HTTP_10 => "1.0 tidegate",
        Version::HTTP_2 => "2 tidegate",
        _ => "1.1 tidegate",
    })
}
