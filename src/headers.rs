//! Header rules at work: what a route takes off, sets and adds, on the way to the origin and on the way back.
//!
//! Pure: rules and what is known of a request in, changed fields out. A value is one line of text whatever a variable
//! stands for: one that holds a control character stands for nothing, and a field whose value comes out empty is not
//! sent. Fields of the connection, of framing and those that only the gateway says are left alone
//! ([`MessageDirection::reserved`]); the configuration refuses rules that name them.

use crate::{
    config::{
        begins_to_cgi, same_to_cgi, HeaderRules, HeaderTemplate, MessageDirection, NamePattern, RouteHeaders,
        TemplateSegment, Variable,
    },
    http::authority,
};
use http::{header, HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::{fmt::Write as _, net::IpAddr};

/// What is known of a request, for the variables of values.
#[derive(Debug, Clone, Copy)]
pub struct RuleFacts<'a> {
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

/// The fields of a message, whatever holds them.
pub trait MessageFields {
    /// The names that are there, each once.
    fn names(&self) -> Vec<HeaderName>;
    /// The lines of a field, joined with commas; `None` where it isn't there.
    fn joined(&self, name: &HeaderName) -> Option<Vec<u8>>;
    /// Takes all lines of a field off.
    fn remove(&mut self, name: &HeaderName);
    /// Adds a line.
    fn append(&mut self, name: HeaderName, value: HeaderValue);
}

/// Applies a route's rules to what the origin is told.
pub fn apply_to_origin(headers: &RouteHeaders, facts: &RuleFacts<'_>, fields: &mut impl MessageFields) {
    for rules in &headers.request {
        let names = fields.names();
        for name in names.iter().filter(|name| is_touched(rules, name)) {
            fields.remove(name);
        }
        set_fields(rules, facts, fields);
        add_fields(rules, facts, fields, |_| true);
    }
}

/// Whether a field of the client's gets to the origin as it came.
pub fn passes_unchanged(headers: &RouteHeaders, name: &HeaderName) -> bool {
    !headers.request.iter().any(|rules| is_touched(rules, name))
}

/// Applies a route's rules to what the client is told with this status.
pub fn apply_to_client(
    headers: &RouteHeaders,
    facts: &RuleFacts<'_>,
    status: StatusCode,
    fields: &mut impl MessageFields,
) {
    // A client lays the fields of a 304 over those that it keeps (RFC 9111, 3.2): what the kept ones say already, and
    // the 304 does not repeat, is not said otherwise here.
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

/// Whether rules for requests take a client's field off, or replace it. What an application behind CGI or WSGI can't
/// tell from it (`X_Role`, `X.Role` and `X-Role`) goes as well.
fn is_touched(rules: &HeaderRules, name: &HeaderName) -> bool {
    let alike = |other: &HeaderName| same_to_cgi(name.as_str(), other.as_str());
    rules.set.iter().any(|(set, _)| alike(set))
        || rules.remove.iter().any(|pattern| match pattern {
            NamePattern::Exact(exact) => alike(exact),
            NamePattern::Prefix(prefix) => matches_prefix(name, prefix, MessageDirection::Request),
        })
}

/// Whether a pattern's beginning is a name's, and rules may touch it.
fn matches_prefix(name: &HeaderName, prefix: &str, direction: MessageDirection) -> bool {
    let name = name.as_str();
    let begins = match direction {
        MessageDirection::Request => begins_to_cgi(name, prefix),
        MessageDirection::Response => name.starts_with(prefix),
    };
    begins && direction.reserved(name).is_none() && !is_protected(name, direction)
}

/// Fields that a pattern doesn't mean: without `Host` there is no request, and `Vary` is added to by whoever makes
/// answers differ.
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

/// Says what the origin has left unsaid. `frame-ancestors` is a word on frames as well, and the stronger one.
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

/// A value for a request; `None`: there is nothing to say.
pub fn render_value(template: &HeaderTemplate, facts: &RuleFacts<'_>) -> Option<HeaderValue> {
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

/// What may not stand in a URL and was sent all the same is escaped: one path has one form, and is ASCII.
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

/// As the origin client takes them.
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
