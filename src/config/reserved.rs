//! Field names that have a meaning to the gateway: who may set which field of a request, and which fields no
//! header rule may touch.
//!
//! The only such list. The gateway uses it to remove what a client may not claim, the cache to keep one
//! client's fields out of shared fetches, and the configuration check to refuse rules. `docs/headers.md`
//! describes it for users.

use crate::http::{
    hop_by_hop::is_hop_by_hop,
    names::{is_origin_field, ACCEL_PREFIX},
};
use http::HeaderName;
use std::borrow::Cow;

/// The party that may set a field of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldClaim {
    /// Anyone.
    Free,
    /// Anyone, but it changes how an application understands the request: a fetch for others leaves it out.
    Override,
    /// A trusted proxy; a fetch for others leaves it out.
    Proxy,
    /// The gateway alone, or no one.
    Gateway,
}

/// Returns who may set the field of this name (lower case). `X_Tenant` and `X.Tenant` count as `X-Tenant`: an
/// application behind CGI or WSGI can't tell them apart.
pub fn claim_of_field(name: &str) -> FieldClaim {
    // This runs for each field of each request: the first letter decides most of them.
    let [b'c' | b'd' | b'f' | b'o' | b'p' | b'r' | b's' | b't' | b'v' | b'w' | b'x', ..] = name.as_bytes()
    else {
        return FieldClaim::Free;
    };
    match dashed(name) {
        // Fields that a client may set itself, except in a spelling that poses as one that the gateway sets.
        Cow::Owned(read) if is_origin_field(&read) => FieldClaim::Gateway,
        read if read.starts_with('x') => of_x(&read),
        read => of_others(&read),
    }
}

fn of_x(name: &str) -> FieldClaim {
    match name {
        // A client may choose the id of its request.
        name if is_origin_field(name) && name != "x-request-id" => FieldClaim::Gateway,
        // Instructions to a server that sends files.
        "x-sendfile-type" => FieldClaim::Gateway,
        name if name.starts_with(ACCEL_PREFIX) => FieldClaim::Gateway,
        "x-forwarded" | "x-host" | "x-http-host-override" | "x-rewrite-url" | "x-script-name" => {
            FieldClaim::Proxy
        }
        "x-envoy-original-host" | "x-envoy-original-path" | "x-scheme" | "x-url-scheme" => FieldClaim::Proxy,
        "x-client-dn" | "x-ssl" => FieldClaim::Proxy,
        name if is_of_proxies(name) => FieldClaim::Proxy,
        "x-http-method" | "x-http-method-override" | "x-method-override" => FieldClaim::Override,
        "x-client-ip" | "x-cluster-client-ip" | "x-originating-ip" | "x-proxyuser-ip" => FieldClaim::Override,
        "x-azure-clientip" | "x-azure-socketip" | "x-appengine-user-ip" => FieldClaim::Override,
        "x-envoy-external-address" | "x-forward-for" => FieldClaim::Override,
        _ => FieldClaim::Free,
    }
}

fn of_others(name: &str) -> FieldClaim {
    match name {
        "forwarded" => FieldClaim::Gateway,
        // CGI turns it into HTTP_PROXY, the variable from which many HTTP clients take their proxy (httpoxy).
        "proxy" => FieldClaim::Gateway,
        // For the gateway: read before it is dropped.
        "tidegate-min-version" => FieldClaim::Gateway,
        "script-name" | "path-info" | "front-end-https" => FieldClaim::Proxy,
        // The client certificate (RFC 9440) or user that a proxy has verified.
        "client-cert" | "client-cert-chain" | "cf-access-authenticated-user-email" => FieldClaim::Proxy,
        name if name.starts_with("remote-") || name.starts_with("ssl-client-") => FieldClaim::Proxy,
        name if name.starts_with("tailscale-user-") || name.starts_with("oidc-claim-") => FieldClaim::Proxy,
        "client-ip" | "true-client-ip" | "fastly-client-ip" | "fly-client-ip" => FieldClaim::Override,
        "do-connecting-ip" | "forwarded-for" | "proxy-client-ip" | "wl-proxy-client-ip" => {
            FieldClaim::Override
        }
        "cf-connecting-ip" | "cf-connecting-ipv6" | "cf-visitor" => FieldClaim::Override,
        "cloudfront-forwarded-proto" => FieldClaim::Override,
        _ => FieldClaim::Free,
    }
}

/// Beginnings of names of `x-` that only proxies set.
const OF_PROXIES: [&str; 17] = [
    "x-amzn-mtls-",
    "x-amzn-oidc-",
    "x-arr-",
    "x-auth-request-",
    "x-authenticated-",
    "x-authentik-",
    "x-client-cert",
    "x-client-verify",
    "x-forwarded-",
    "x-goog-authenticated-",
    "x-ms-client-principal",
    "x-ms-token-",
    "x-original-",
    "x-pomerium-claim-",
    "x-remote-",
    "x-ssl-",
    "x-webauth-",
];

fn is_of_proxies(name: &str) -> bool {
    // The letter after `x-` tells most of them apart.
    let letter = name.as_bytes().get(2);
    OF_PROXIES.iter().any(|begin| begin.as_bytes().get(2) == letter && name.starts_with(begin))
}

/// Returns true if CGI and WSGI keep a sign of a name: all others are the same there.
fn is_kept_by_cgi(sign: u8) -> bool {
    sign.is_ascii_alphanumeric()
}

/// Returns true if a name has another sign than letters, digits and `-`: to CGI and WSGI it is the same as an
/// ordinary name, and nothing else on the way takes it for that.
pub fn is_disguised(name: &str) -> bool {
    name.bytes().any(|sign| !is_kept_by_cgi(sign) && sign != b'-')
}

/// Returns true if CGI and WSGI turn two names (lower case) into the same variable.
pub fn same_to_cgi(one: &str, other: &str) -> bool {
    one.len() == other.len() && begins_to_cgi(one, other)
}

/// Returns true if a name begins like this (both lower case) once CGI or WSGI has turned it into a variable.
pub fn begins_to_cgi(name: &str, begin: &str) -> bool {
    let same = |(n, b): (u8, u8)| n == b || !is_kept_by_cgi(n) && !is_kept_by_cgi(b);
    name.len() >= begin.len() && name.bytes().zip(begin.bytes()).all(same)
}

/// A name as CGI reads it, with dashes for the signs that it doesn't keep. Borrowed: it is written like that.
pub(super) fn dashed(name: &str) -> Cow<'_, str> {
    match name.bytes().all(|sign| is_kept_by_cgi(sign) || sign == b'-') {
        true => name.into(),
        // A name of a field is ASCII.
        false => name.replace(|c: char| u8::try_from(c).is_ok_and(|sign| !is_kept_by_cgi(sign)), "-").into(),
    }
}

/// Returns true for a field of the connection, or of a message's framing (RFC 9110, 7.6.1; RFC 9112, 6).
pub(super) fn is_of_connection(name: &str) -> bool {
    matches!(name, "content-length" | "expect" | "proxy-authorization")
        || name.parse::<HeaderName>().is_ok_and(|name| is_hop_by_hop(&name))
}
/// Fields of requests that select a part of the content or make the request conditional.
pub(super) const CONDITIONS: [&str; 6] =
    ["if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "range"];
/// Fields that the gateway sets in answers to a client.
pub(super) const OURS_IN_ANSWERS: [&str; 5] = ["age", "cache-status", "date", "via", "x-request-id"];
/// Fields that describe the bytes that are sent.
pub(super) const OF_THE_BODY: [&str; 3] = ["accept-ranges", "content-encoding", "content-range"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::names::ORIGIN_FIELDS;

    #[test]
    fn what_a_client_may_say() {
        let table: [(FieldClaim, &[&str]); 4] = [
            (
                FieldClaim::Gateway,
                &[
                    "x-tenant",
                    "x_tenant",
                    "x.tenant",
                    "x_real-ip",
                    "forwarded",
                    "x-forwarded-for",
                    "x_forwarded_proto",
                    "x-accel-mapping",
                    "x_accel_redirect",
                    "x_request_id",
                    "x_request-id",
                    "x.request-id",
                    "proxy",
                    "tidegate-min-version",
                    "tidegate.min.version",
                ],
            ),
            (
                FieldClaim::Proxy,
                &[
                    "x-forwarded",
                    "x-forwarded-prefix",
                    "x_forwarded_prefix",
                    "x-forwarded-port",
                    "x-forwarded-ssl",
                    "x-forwarded-scheme",
                    "x-forwarded-server",
                    "x-forwarded-path",
                    "x-forwarded-uri",
                    "x-forwarded-user",
                    "x-original-url",
                    "x-original-host",
                    "x-rewrite-url",
                    "x-host",
                    "script_name",
                    "script-name",
                    "path_info",
                    "client-cert",
                    "ssl_client_verify",
                    "x-ssl-client-s-dn",
                    "remote_user",
                    "x-remote-group",
                    "x-auth-request-email",
                    "x-webauth-user",
                    "remote-groups",
                    "remote.email",
                    "remote-name",
                    "x-client-cert",
                    "x-client-certificate",
                    "x-client-verify",
                    "x-client-dn",
                    "x-ssl",
                    "x-ssl-cert",
                    "x.ssl.issuer",
                    "x-arr-clientcert",
                    "x-arr-ssl",
                    "x-authenticated-user",
                    "x-authenticated-userid",
                    "x-authentik-username",
                    "x-goog-authenticated-user-email",
                    "x-goog-authenticated-user-id",
                    "x-amzn-oidc-identity",
                    "x-amzn-oidc-data",
                    "x-amzn-mtls-clientcert-subject",
                    "x-ms-client-principal",
                    "x-ms-client-principal-name",
                    "x-ms-token-aad-id-token",
                    "x-pomerium-claim-email",
                    "tailscale-user-login",
                    "tailscale-user-name",
                    "oidc_claim_sub",
                    "cf-access-authenticated-user-email",
                ],
            ),
            (
                FieldClaim::Override,
                &[
                    "x-http-method-override",
                    "x_http_method_override",
                    "x-client-ip",
                    "cf-connecting-ip",
                    "x-forward-for",
                    "forwarded-for",
                    "forwarded.for",
                    "fly-client-ip",
                    "do-connecting-ip",
                    "x-azure-socketip",
                    "x-envoy-external-address",
                    "proxy-client-ip",
                    "wl-proxy-client-ip",
                ],
            ),
            (
                FieldClaim::Free,
                &[
                    "host",
                    "accept",
                    "x-requested-with",
                    "x-forwardedfor",
                    "x-tenants",
                    "proxy-x",
                    "x_other",
                    "x.other",
                    "x",
                    "x-request-id",
                    "via",
                    "date",
                    "origin",
                    "x-client-data",
                    "x-amzn-trace-id",
                    "x-goog-api-key",
                    "x-ms-version",
                ],
            ),
        ];
        for (expected, names) in table {
            for name in names {
                assert_eq!(claim_of_field(name), expected, "{name}");
            }
        }
    }

    #[test]
    fn names_that_cgi_reads_alike_are_one() {
        for (one, other, same) in [
            ("x-plan", "x-plan", true),
            ("x-plan", "x_plan", true),
            ("x.plan", "x~plan", true),
            ("x-plan", "x!plan", true),
            ("x-plan", "xaplan", false),
            ("x-plan", "x-plans", false),
            ("x-plan", "x--plan", false),
        ] {
            assert_eq!((same_to_cgi(one, other), same_to_cgi(other, one)), (same, same), "{one} {other}");
            assert_eq!(dashed(one) == dashed(other), same, "{one} {other}");
        }
        for (name, is) in [("x-plan", false), ("x_plan", true), ("x.plan", true), ("x-plan~", true)] {
            assert_eq!(is_disguised(name), is, "{name}");
        }
        for (name, begins) in
            [("x-debug-a", true), ("x.debug.a", true), ("x-debug", false), ("x-debuga", false)]
        {
            assert_eq!(begins_to_cgi(name, "x-debug-"), begins, "{name}");
        }
    }

    #[test]
    fn no_rule_says_what_the_gateway_tells_anew() {
        let told = ORIGIN_FIELDS.iter().filter(|name| !matches!(name.as_str(), "via" | "x-request-id"));
        for name in told {
            assert_eq!(claim_of_field(name.as_str()), FieldClaim::Gateway, "{name}");
        }
    }
}
