//! Removes untrusted fields from a request before any other step reads them, in every lane. One list has the
//! fields ([`claim_of_field`]).
//!
//! The client's address, scheme and host from trusted proxies were read before (`address`); `to_origin`
//! writes them anew for the origin. Other fields of trusted proxies pass. A request whose answer is shared
//! has none of these fields, except for those in the route's `key_headers`.

use crate::{
    config::{claim_of_field, is_disguised, same_to_cgi, FieldClaim, FollowRules, UnderscorePolicy},
    gateway::context::RequestContext,
    http::names::MIN_VERSION,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use pingora_http::RequestHeader;

/// Removes the fields that the sender of a request is not trusted with, and those that are for the gateway
/// alone: the context keeps these.
pub(crate) fn drop_untrusted(request: &mut RequestHeader, ctx: &mut RequestContext) {
    let site = &ctx.site;
    let underscores = site.plan.config.server.underscores;
    let said_by = RequestSender { trusted: ctx.by_proxy, underscores, subjects: &site.subjects };
    let gone = names_of(request, |name| !said_by.may_send_field(name));
    for name in &gone {
        if *name == MIN_VERSION {
            ctx.min_version_lines.extend(request.headers.get_all(name).iter().cloned());
        }
        request.remove_header(name);
    }
}

/// Removes the fields that a shared answer must not depend on: other clients get that answer too.
pub(crate) fn drop_unkeyed(request: &mut RequestHeader, rules: &FollowRules) {
    remove_fields(request, |name| is_unkeyed(name, rules));
}

/// Returns true if a request has a field that a shared answer must not depend on.
pub(crate) fn has_unkeyed(headers: &HeaderMap, rules: &FollowRules) -> bool {
    headers.keys().any(|name| is_unkeyed(name, rules))
}

/// The lines of `Vary` for the fields in a route's `key_headers`: this cache and those behind it obey them.
pub(crate) fn vary_lines(names: &[HeaderName]) -> impl Iterator<Item = HeaderValue> + '_ {
    names.iter().map(|name| HeaderValue::from(name.clone()))
}

fn is_unkeyed(name: &HeaderName, rules: &FollowRules) -> bool {
    // `Accept.Language` and `Accept_Language` are `Accept-Language` to CGI, and neither `Vary` nor a condition would see it.
    let is_free = claim_of_field(name.as_str()) == FieldClaim::Free && !is_disguised(name.as_str());
    !is_free && !rules.key_headers.contains(name)
}

fn remove_fields(request: &mut RequestHeader, goes: impl Fn(&HeaderName) -> bool) {
    for name in &names_of(request, goes) {
        request.remove_header(name);
    }
}

fn names_of(request: &RequestHeader, is_meant: impl Fn(&HeaderName) -> bool) -> Vec<HeaderName> {
    request.headers.keys().filter(|name| is_meant(name)).cloned().collect()
}

/// The sender of a request.
struct RequestSender<'s> {
    /// True if it is one of `trusted_proxies`.
    trusted: bool,
    underscores: UnderscorePolicy,
    /// The fields in which an origin gets the subject of a client's certificate.
    subjects: &'s [HeaderName],
}

impl RequestSender<'_> {
    fn may_send_field(&self, name: &HeaderName) -> bool {
        let text = name.as_str();
        if self.underscores == UnderscorePolicy::Drop && text.contains('_') {
            return false;
        }
        let passes = match claim_of_field(text) {
            FieldClaim::Free | FieldClaim::Override => true,
            FieldClaim::Proxy => self.trusted,
            FieldClaim::Gateway => false,
        };
        passes && !self.subjects.iter().any(|subject| same_to_cgi(subject.as_str(), text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: [&str; 11] = [
        "x-tenant",
        "x_tenant",
        "x_real-ip",
        "x-other",
        "x_other",
        "x.other",
        "x-accel-mapping",
        "x-forwarded-prefix",
        "x_forwarded_prefix",
        "x-http-method-override",
        "script_name",
    ];

    fn heard(trusted: bool, underscores: UnderscorePolicy, subjects: &[HeaderName]) -> Vec<&'static str> {
        let sender = RequestSender { trusted, underscores, subjects };
        FIELDS.into_iter().filter(|name| sender.may_send_field(&HeaderName::from_static(name))).collect()
    }

    #[test]
    fn a_sender_keeps_only_the_fields_it_is_trusted_with() {
        let method = "x-http-method-override";
        assert_eq!(heard(false, UnderscorePolicy::Drop, &[]), ["x-other", "x.other", method]);
        let by_proxy = ["x-other", "x.other", "x-forwarded-prefix", method];
        assert_eq!(heard(true, UnderscorePolicy::Drop, &[]), by_proxy);
        assert_eq!(heard(false, UnderscorePolicy::Pass, &[]), ["x-other", "x_other", "x.other", method]);
        let all = [
            "x-other",
            "x_other",
            "x.other",
            "x-forwarded-prefix",
            "x_forwarded_prefix",
            method,
            "script_name",
        ];
        assert_eq!(heard(true, UnderscorePolicy::Pass, &[]), all);
        let subjects = [HeaderName::from_static("x-other")];
        assert_eq!(heard(false, UnderscorePolicy::Pass, &subjects), [method]);
    }
}
