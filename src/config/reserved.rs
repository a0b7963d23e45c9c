//! Names of fields with a meaning to the gateway: which of a request's fields its sender may say, and which fields no
//! header rule may touch.
//!
//! The one list of them. The gateway removes by it what a client claims, the cache keeps by it what is shared free of
//! one client's words, and the check of the configuration refuses rules by it. `docs/headers.md` tells it to users.

use std::borrow::Cow;

/// The right to say a field of a request, by who has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Anyone.
    Free,
    /// Anyone, but it changes what an application takes a request for: it is not asked for others as well.
    Override,
    /// A trusted proxy, and not for others as well.
    Proxy,
    /// The gateway alone; or nobody.
    Gateway,
}

/// Tells who may say the field of this name (lower case). `X_Tenant` and `X.Tenant` are taken for `X-Tenant`: an application
/// behind CGI or WSGI can't tell them apart.
pub fn claim(name: &str) -> Claim {
    // Each field of each request is asked for: most are through with their first letter.
    match name.as_bytes() {
        // What a client may say itself, but not in the place of what the gateway tells.
        [b'x' | b'v', ..] if name.contains('_') && OURS_IN_REQUESTS.contains(&&*dashed(name)) => {
            Claim::Gateway
        }
        [b'x', ..] => of_x(&dashed(name)),
        [b'c' | b'f' | b'p' | b'r' | b's' | b't', ..] => of_others(&dashed(name)),
        _ => Claim::Free,
    }
}

fn of_x(name: &str) -> Claim {
    match name {
        "x-real-ip" | "x-tenant" | "x-user" | "x-role" => Claim::Gateway,
        "x-forwarded-for" | "x-forwarded-host" | "x-forwarded-proto" => Claim::Gateway,
        // Orders to who sends files.
        "x-sendfile-type" => Claim::Gateway,
        name if name.starts_with("x-accel-") => Claim::Gateway,
        "x-forwarded" | "x-host" | "x-http-host-override" | "x-rewrite-url" | "x-script-name" => Claim::Proxy,
        "x-envoy-original-host" | "x-envoy-original-path" | "x-scheme" | "x-url-scheme" => Claim::Proxy,
        name if OF_PROXIES.iter().any(|begin| name.starts_with(begin)) => Claim::Proxy,
        "x-http-method" | "x-http-method-override" | "x-method-override" => Claim::Override,
        "x-client-ip" | "x-cluster-client-ip" | "x-originating-ip" | "x-proxyuser-ip" => Claim::Override,
        "x-azure-clientip" | "x-appengine-user-ip" => Claim::Override,
        _ => Claim::Free,
    }
}

fn of_others(name: &str) -> Claim {
    match name {
        "forwarded" => Claim::Gateway,
        // CGI makes HTTP_PROXY of it, the variable that names a proxy to many clients (httpoxy).
        "proxy" => Claim::Gateway,
        "script-name" | "path-info" | "front-end-https" => Claim::Proxy,
        // Who has shown a certificate (RFC 9440), or is somebody to a proxy.
        "client-cert" | "client-cert-chain" | "remote-user" => Claim::Proxy,
        name if name.starts_with("ssl-client-") => Claim::Proxy,
        "client-ip" | "true-client-ip" | "fastly-client-ip" => Claim::Override,
        "cf-connecting-ip" | "cf-connecting-ipv6" | "cf-visitor" => Claim::Override,
        "cloudfront-forwarded-proto" => Claim::Override,
        _ => Claim::Free,
    }
}

/// Beginnings of names of `x-` that only proxies set.
const OF_PROXIES: [&str; 6] =
    ["x-auth-request-", "x-forwarded-", "x-original-", "x-remote-", "x-ssl-client-", "x-webauth-"];

/// A name as CGI reads it, with dashes: every sign but letters and digits is the same there.
pub fn dashed(name: &str) -> Cow<'_, str> {
    match name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        true => name.into(),
        false => name.replace(|c: char| !c.is_ascii_alphanumeric(), "-").into(),
    }
}

/// RFC 9110, 7.6.1; RFC 9112, 6.
pub(super) const OF_THE_CONNECTION: [&str; 13] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Fields that the gateway tells an origin.
pub(super) const OURS_IN_REQUESTS: [&str; 10] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
    "x-role",
    "x-tenant",
    "x-user",
];
/// Fields of requests that say what is asked for, and under which condition.
pub(super) const CONDITIONS: [&str; 6] =
    ["if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "range"];
/// Fields that the gateway tells a client.
pub(super) const OURS_IN_ANSWERS: [&str; 5] = ["age", "cache-status", "date", "via", "x-request-id"];
/// Fields that describe the bytes that are sent.
pub(super) const OF_THE_BODY: [&str; 3] = ["accept-ranges", "content-encoding", "content-range"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_may_say() {
        let table: [(Claim, &[&str]); 4] = [
            (
                Claim::Gateway,
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
                    "proxy",
                ],
            ),
            (
                Claim::Proxy,
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
                ],
            ),
            (
                Claim::Override,
                &["x-http-method-override", "x_http_method_override", "x-client-ip", "cf-connecting-ip"],
            ),
            (
                Claim::Free,
                &["host", "accept", "x-requested-with", "x-forwardedfor", "x-tenants", "proxy-x", "x_other"],
            ),
        ];
        for (expected, names) in table {
            for name in names {
                assert_eq!(claim(name), expected, "{name}");
            }
        }
    }

    #[test]
    fn no_rule_says_what_the_gateway_tells_anew() {
        let told = OURS_IN_REQUESTS.iter().filter(|name| !matches!(**name, "via" | "x-request-id"));
        for name in told {
            assert_eq!(claim(name), Claim::Gateway, "{name}");
        }
    }
}
