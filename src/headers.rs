//! Applies header rules: the fields that a route removes, sets and adds, in requests and in answers.
//!
//! Pure: takes rules and facts of a request, and changes fields. A value is one line of text: a variable
//! whose value has a control character is empty, and a field whose value is empty is not sent. Fields of the
//! connection, of framing, and those of the gateway alone are not changed ([`MessageDirection::reserved`]);
//! the configuration refuses rules that name them.

use crate::{
    config::{
        begins_to_cgi, same_to_cgi, HeaderRules, HeaderTemplate, MessageDirection, NamePattern, RouteHeaders,
        TemplateSegment, Variable,
    },
    http::authority,
};
use http::{header, HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::{fmt::Write as _, net::IpAddr};

/// The facts of a request: the values of the variables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RuleFacts<'a> {
    /// `$client_ip`
    pub client: Option<IpAddr>,
    /// `$remote_addr`
    pub remote: Option<IpAddr>,
    /// `$scheme`
    pub scheme: &'a str,
    /// `$host`, as it was sent.
    pub host: &'a str,
    /// `$path`, as it was sent.
    pub path: &'a str,
    /// `$request_id`
    pub request_id: &'a str,
    /// `$route`; empty where there is none.
    pub route: &'a str,
    /// `$tenant`
    pub tenant: &'a str,
    /// `$user`
    pub user: Option<&'a str>,
    /// `$role`
    pub role: Option<&'a str>,
    /// `$cache`
    pub cache: &'a str,
}

/// The fields of a message, independent of the type that holds them.
pub(crate) trait MessageFields {
    /// The names of the fields, each once.
    fn names(&self) -> Vec<HeaderName>;
    /// The lines of a field, joined with commas; `None` if it is absent.
    fn joined(&self, name: &HeaderName) -> Option<Vec<u8>>;
    /// Removes all lines of a field.
    fn remove(&mut self, name: &HeaderName);
    /// Adds a line.
    fn append(&mut self, name: HeaderName, value: HeaderValue);
}

/// Adds a field's name to `Vary`, unless it is there already.
pub(crate) fn vary_by(answer: &mut impl MessageFields, field: &'static str) {
    let said = answer.joined(&header::VARY).unwrap_or_default();
    let names = |name: &[u8]| name == b"*" || name.eq_ignore_ascii_case(field.as_bytes());
    if !said.split(|b| *b == b',').any(|name| names(name.trim_ascii())) {
        answer.append(header::VARY, HeaderValue::from_static(field));
    }
}

/// Applies a route's rules to a request to the origin.
pub(crate) fn apply_to_origin(
    headers: &RouteHeaders,
    facts: &RuleFacts<'_>,
    fields: &mut impl MessageFields,
) {
    for rules in &headers.request {
        let names = fields.names();
        for name in names.iter().filter(|name| is_touched(rules, name)) {
            fields.remove(name);
        }
        set_fields(rules, facts, fields);
        add_fields(rules, facts, fields, |_| true);
    }
}

/// Returns true if no rule changes this field of the client.
pub(crate) fn passes_unchanged(headers: &RouteHeaders, name: &HeaderName) -> bool {
    !headers.request.iter().any(|rules| is_touched(rules, name))
}

/// Applies a route's rules to an answer of this status to the client.
pub(crate) fn apply_to_client(
    headers: &RouteHeaders,
    facts: &RuleFacts<'_>,
    status: StatusCode,
    fields: &mut impl MessageFields,
) {
    // A client replaces its stored fields by those of a 304 (RFC 9111, 3.2). A default must not replace a
    // stored field that the 304 does not repeat.
    let renews = status == StatusCode::NOT_MODIFIED;
    if headers.security && !renews && status != StatusCode::SWITCHING_PROTOCOLS {
        add_security_fields(fields);
    }
    for rules in &headers.response {
        for pattern in &rules.remove {
            match pattern {
                NamePattern::Exact(name) => fields.remove(name),
                NamePattern::Prefix(prefix) => {
                    let hit = |name: &&HeaderName| matches_prefix(name, prefix, MessageDirection::Response);
                    fields.names().iter().filter(hit).for_each(|name| fields.remove(name));
                }
            }
        }
        rules.set.iter().for_each(|(name, _)| fields.remove(name));
        set_fields(rules, facts, fields);
        let there = if renews { fields.names() } else { Vec::new() };
        add_fields(rules, facts, fields, |name| !renews || there.contains(name));
    }
}

/// Returns true if rules for requests remove or replace a client's field. Names that are the same to an
/// application behind CGI or WSGI (`X_Role`, `X.Role` and `X-Role`) count as one.
fn is_touched(rules: &HeaderRules, name: &HeaderName) -> bool {
    let alike = |other: &HeaderName| same_to_cgi(name.as_str(), other.as_str());
    rules.set.iter().any(|(set, _)| alike(set))
        || rules.remove.iter().any(|pattern| match pattern {
            NamePattern::Exact(exact) => alike(exact),
            NamePattern::Prefix(prefix) => matches_prefix(name, prefix, MessageDirection::Request),
        })
}

/// Returns true if a name begins with a pattern's prefix, and rules may change the field.
fn matches_prefix(name: &HeaderName, prefix: &str, direction: MessageDirection) -> bool {
    let name = name.as_str();
    let begins = match direction {
        MessageDirection::Request => begins_to_cgi(name, prefix),
        MessageDirection::Response => name.starts_with(prefix),
    };
    begins && direction.reserved(name).is_none() && !is_protected(name, direction)
}

/// Returns true for fields that no pattern matches: a request needs `Host`, and `Vary` has the values of all
/// steps that select an answer.
fn is_protected(name: &str, direction: MessageDirection) -> bool {
    name == match direction {
        MessageDirection::Request => "host",
        MessageDirection::Response => "vary",
    }
}

fn set_fields(rules: &HeaderRules, facts: &RuleFacts<'_>, fields: &mut impl MessageFields) {
    for (name, lines) in &rules.set {
        for value in lines.iter().filter_map(|line| render_value(line, facts)) {
            fields.append(name.clone(), value);
        }
    }
}

fn add_fields(
    rules: &HeaderRules,
    facts: &RuleFacts<'_>,
    fields: &mut impl MessageFields,
    wanted: impl Fn(&HeaderName) -> bool,
) {
    for (name, line) in rules.add.iter().filter(|(name, _)| wanted(name)) {
        if let Some(value) = render_value(line, facts) {
            fields.append(name.clone(), value);
        }
    }
}

const NOSNIFF: (HeaderName, HeaderValue) =
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
const DEFAULT_FRAME_OPTIONS: (HeaderName, HeaderValue) =
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("SAMEORIGIN"));
const DEFAULT_REFERRER_POLICY: (HeaderName, HeaderValue) =
    (header::REFERRER_POLICY, HeaderValue::from_static("strict-origin-when-cross-origin"));

/// Adds the security fields that the origin has not set. `frame-ancestors` takes precedence over
/// `X-Frame-Options`.
fn add_security_fields(fields: &mut impl MessageFields) {
    let framed = fields.joined(&header::CONTENT_SECURITY_POLICY).is_some_and(|policy| {
        let mut directives = policy.split(|b| matches!(b, b';' | b','));
        directives.any(|d| {
            let name = d.trim_ascii().split(u8::is_ascii_whitespace).next().unwrap_or_default();
            name.eq_ignore_ascii_case(b"frame-ancestors")
        })
    });
    for (name, value) in [NOSNIFF, DEFAULT_FRAME_OPTIONS, DEFAULT_REFERRER_POLICY] {
        let said = fields.joined(&name).is_some() || (name == header::X_FRAME_OPTIONS && framed);
        if !said {
            fields.append(name, value);
        }
    }
}

/// Renders a value for a request; `None` if it is empty.
pub(crate) fn render_value(template: &HeaderTemplate, facts: &RuleFacts<'_>) -> Option<HeaderValue> {
    let segments = match template {
        HeaderTemplate::Fixed(value) => return Some(value.clone()),
        HeaderTemplate::Made(segments) => segments,
    };
    let mut text = String::with_capacity(48);
    for segment in segments {
        match segment {
            TemplateSegment::Text(fixed) => text.push_str(fixed),
            TemplateSegment::Variable(variable) => {
                let begin = text.len();
                push_variable(&mut text, *variable, facts);
                if text[begin..].chars().any(char::is_control) {
                    text.truncate(begin);
                }
            }
        }
    }
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    HeaderValue::from_str(text).ok()
}

fn push_variable(text: &mut String, variable: Variable, facts: &RuleFacts<'_>) {
    let mut address = |of: Option<IpAddr>| {
        if let Some(ip) = of {
            // Writing to a String can't fail.
            write!(text, "{}", ip.to_canonical()).unwrap_or_default();
        }
    };
    match variable {
        Variable::ClientIp => address(facts.client),
        Variable::RemoteAddr => address(facts.remote),
        Variable::Scheme => text.push_str(facts.scheme),
        Variable::Host => text.push_str(&authority::host_name(facts.host).to_ascii_lowercase()),
        Variable::Path => push_path(text, facts.path),
        Variable::RequestId => text.push_str(facts.request_id),
        Variable::Route => text.push_str(facts.route),
        Variable::Tenant => text.push_str(facts.tenant),
        Variable::User => text.push_str(facts.user.unwrap_or_default()),
        Variable::Role => text.push_str(facts.role.unwrap_or_default()),
        Variable::Cache => text.push_str(facts.cache),
    }
}

/// Appends a path; bytes that a URL must not contain are percent-encoded, so that the result is ASCII.
fn push_path(text: &mut String, path: &str) {
    for byte in path.bytes() {
        match byte.is_ascii_graphic() {
            true => text.push(char::from(byte)),
            false => write!(text, "%{byte:02X}").unwrap_or_default(),
        }
    }
}

impl MessageFields for HeaderMap {
    fn names(&self) -> Vec<HeaderName> {
        self.keys().cloned().collect()
    }

    fn joined(&self, name: &HeaderName) -> Option<Vec<u8>> {
        let lines: Vec<&[u8]> = self.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        (!lines.is_empty()).then(|| lines.join(&b","[..]))
    }

    fn remove(&mut self, name: &HeaderName) {
        HeaderMap::remove(self, name);
    }

    fn append(&mut self, name: HeaderName, value: HeaderValue) {
        HeaderMap::append(self, name, value);
    }
}

/// The form that the origin client uses.
impl MessageFields for Vec<(HeaderName, HeaderValue)> {
    fn names(&self) -> Vec<HeaderName> {
        let mut names: Vec<HeaderName> = Vec::with_capacity(self.len());
        for (name, _) in self {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    fn joined(&self, name: &HeaderName) -> Option<Vec<u8>> {
        let lines: Vec<&[u8]> = self.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_bytes()).collect();
        (!lines.is_empty()).then(|| lines.join(&b","[..]))
    }

    fn remove(&mut self, name: &HeaderName) {
        self.retain(|(n, _)| n != name);
    }

    fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.push((name, value));
    }
}

#[cfg(test)]
#[path = "headers_tests.rs"]
mod tests;
