//! Names of the fields that the gateway writes, and of those by which an origin instructs it: each stands here
//! once.
//!
//! Pure. Names that the `http` crate has are used from there; those of a connection stand in `hop_by_hop`. The
//! prepared lane compares bytes, and spells out the few names that it reads (`listen::h1::request_head`).

use http::{header, HeaderName};

/// The id of a request, in both directions.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The tenant that a token names.
pub(crate) const TENANT: HeaderName = HeaderName::from_static("x-tenant");
/// The user that a token names.
pub(crate) const USER: HeaderName = HeaderName::from_static("x-user");
/// The role that a token names.
pub(crate) const ROLE: HeaderName = HeaderName::from_static("x-role");
/// The client's address.
pub(crate) const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// The addresses that a request has come by.
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The host that a client has named.
pub(crate) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The scheme that a client has used.
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The versions that an event has made, in the answer to its sender.
pub(crate) const VERSION: HeaderName = HeaderName::from_static("tidegate-version");
/// The least versions that a client accepts.
pub(crate) const MIN_VERSION: HeaderName = HeaderName::from_static("tidegate-min-version");

/// The fields that the gateway sets in requests to an origin. All but `Via` and `X-Request-Id` are removed from
/// what a client sends.
pub(crate) static ORIGIN_FIELDS: [HeaderName; 10] = [
    TENANT,
    USER,
    ROLE,
    REAL_IP,
    FORWARDED_FOR,
    header::FORWARDED,
    FORWARDED_PROTO,
    FORWARDED_HOST,
    REQUEST_ID,
    header::VIA,
];

/// Returns true if the gateway sets the field of this name (lower case) in requests to an origin.
pub(crate) fn is_origin_field(name: &str) -> bool {
    ORIGIN_FIELDS.iter().any(|told| told.as_str() == name)
}

/// The beginning of the names of an origin's instructions to the gateway.
pub(crate) const ACCEL_PREFIX: &str = "x-accel-";
/// The file to send instead of the answer.
pub(crate) const ACCEL_REDIRECT: HeaderName = HeaderName::from_static("x-accel-redirect");
/// The lifetime of the answer in this cache.
pub(crate) const ACCEL_EXPIRES: HeaderName = HeaderName::from_static("x-accel-expires");
/// The rate at which it is sent, in bytes a second.
pub(crate) const ACCEL_LIMIT_RATE: HeaderName = HeaderName::from_static("x-accel-limit-rate");
/// `no`: it is sent as it arrives.
pub(crate) const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// The charset of its content.
pub(crate) const ACCEL_CHARSET: HeaderName = HeaderName::from_static("x-accel-charset");

/// Returns true if a field is an instruction to the gateway, which no client may see or send.
pub(crate) fn is_accel_field(name: &HeaderName) -> bool {
    name.as_str().starts_with(ACCEL_PREFIX)
}

/// Returns true if a field of an origin's answer is between the origin and the gateway: an instruction, or the
/// id of a request, which the gateway makes anew for each answer.
pub(crate) fn is_for_gateway(name: &HeaderName) -> bool {
    is_accel_field(name) || *name == REQUEST_ID
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_their_readers() {
        for (name, told, accel, ours) in [
            ("x-accel-anything", false, true, true),
            ("x-accelerate", false, false, false),
            ("x-request-id", true, false, true),
            ("x-tenant", true, false, false),
            ("x-forwarded-host", true, false, false),
            ("x-forwarded-port", false, false, false),
            ("via", true, false, false),
        ] {
            let field = HeaderName::from_static(name);
            let is = (is_origin_field(name), is_accel_field(&field), is_for_gateway(&field));
            assert_eq!(is, (told, accel, ours), "{name}");
        }
    }
}
