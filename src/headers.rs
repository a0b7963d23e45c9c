//! Header rules at work: what a route takes off, sets and adds, on the way to the origin and on the way back.
//!
//! Pure: rules and what is known of a request in, changed fields out. A value is one line of text whatever a variable
//! stands for: one that holds a control character stands for nothing, and a field whose value comes out empty is not
//! sent. Fields of the connection, of framing and those that only the gateway says are left alone
//! ([`Direction::reserved`]); the configuration refuses rules that name them.

use crate::{
    authority,
    config::{
        begins_to_cgi, same_to_cgi, Direction, HeaderRules, Headers, NamePattern, Segment, Template, Variable,
    },
};
use http::{header, HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::{fmt::Write as _, net::IpAddr};

/// What is known of a request, for the variables of values.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
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
pub trait Fields {
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
pub fn to_origin(headers: &Headers, facts: &Facts<'_>, fields: &mut impl Fields) {
    for rules in &headers.request {
        let names = fields.names();
        for name in names.iter().filter(|name| touches(rules, name)) {
            fields.remove(name);
        }
        set(rules, facts, fields);
        add(rules, facts, fields, |_| true);
    }
}

/// Whether a field of the client's gets to the origin as it came.
pub fn passes(headers: &Headers, name: &HeaderName) -> bool {
    !headers.request.iter().any(|rules| touches(rules, name))
}

/// Applies a route's rules to what the client is told with this status.
pub fn to_client(headers: &Headers, facts: &Facts<'_>, status: StatusCode, fields: &mut impl Fields) {
    // A client lays the fields of a 304 over those that it keeps (RFC 9111, 3.2): what the kept ones say already, and
    // the 304 does not repeat, is not said otherwise here.
    let renews = status == StatusCode::NOT_MODIFIED;
    if headers.security && !renews && status != StatusCode::SWITCHING_PROTOCOLS {
        secure(fields);
    }
    for rules in &headers.response {
        for pattern in &rules.remove {
            match pattern {
                NamePattern::Exact(name) => fields.remove(name),
                NamePattern::Prefix(prefix) => {
                    let hit = |name: &&HeaderName| begins(name, prefix, Direction::Response);
                    fields.names().iter().filter(hit).for_each(|name| fields.remove(name));
                }
            }
        }
        rules.set.iter().for_each(|(name, _)| fields.remove(name));
        set(rules, facts, fields);
        let there = if renews { fields.names() } else { Vec::new() };
        add(rules, facts, fields, |name| !renews || there.contains(name));
    }
}

/// Whether rules for requests take a client's field off, or replace it. What an application behind CGI or WSGI can't
/// tell from it (`X_Role`, `X.Role` and `X-Role`) goes as well.
fn touches(rules: &HeaderRules, name: &HeaderName) -> bool {
    let alike = |other: &HeaderName| same_to_cgi(name.as_str(), other.as_str());
    rules.set.iter().any(|(set, _)| alike(set))
        || rules.remove.iter().any(|pattern| match pattern {
            NamePattern::Exact(exact) => alike(exact),
            NamePattern::Prefix(prefix) => begins(name, prefix, Direction::Request),
        })
}

/// Whether a pattern's beginning is a name's, and rules may touch it.
fn begins(name: &HeaderName, prefix: &str, direction: Direction) -> bool {
    let name = name.as_str();
    let begins = match direction {
        Direction::Request => begins_to_cgi(name, prefix),
        Direction::Response => name.starts_with(prefix),
    };
    begins && direction.reserved(name).is_none() && !is_kept(name, direction)
}

/// Fields that a pattern doesn't mean: without `Host` there is no request, and `Vary` is added to by whoever makes
/// answers differ.
fn is_kept(name: &str, direction: Direction) -> bool {
    name == match direction {
        Direction::Request => "host",
        Direction::Response => "vary",
    }
}

fn set(rules: &HeaderRules, facts: &Facts<'_>, fields: &mut impl Fields) {
    for (name, lines) in &rules.set {
        for value in lines.iter().filter_map(|line| value(line, facts)) {
            fields.append(name.clone(), value);
        }
    }
}

fn add(
    rules: &HeaderRules,
    facts: &Facts<'_>,
    fields: &mut impl Fields,
    wanted: impl Fn(&HeaderName) -> bool,
) {
    for (name, line) in rules.add.iter().filter(|(name, _)| wanted(name)) {
        if let Some(value) = value(line, facts) {
            fields.append(name.clone(), value);
        }
    }
}

const NOSNIFF: (HeaderName, HeaderValue) =
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
const FRAMES: (HeaderName, HeaderValue) = (header::X_FRAME_OPTIONS, HeaderValue::from_static("SAMEORIGIN"));
const REFERRER: (HeaderName, HeaderValue) =
    (header::REFERRER_POLICY, HeaderValue::from_static("strict-origin-when-cross-origin"));

/// Says what the origin has left unsaid. `frame-ancestors` is a word on frames as well, and the stronger one.
fn secure(fields: &mut impl Fields) {
    let framed = fields.joined(&header::CONTENT_SECURITY_POLICY).is_some_and(|policy| {
        let mut directives = policy.split(|b| matches!(b, b';' | b','));
        directives.any(|d| {
            let name = d.trim_ascii().split(u8::is_ascii_whitespace).next().unwrap_or_default();
            name.eq_ignore_ascii_case(b"frame-ancestors")
        })
    });
    for (name, value) in [NOSNIFF, FRAMES, REFERRER] {
        let said = fields.joined(&name).is_some() || (name == header::X_FRAME_OPTIONS && framed);
        if !said {
            fields.append(name, value);
        }
    }
}

/// A value for a request; `None`: there is nothing to say.
pub fn value(template: &Template, facts: &Facts<'_>) -> Option<HeaderValue> {
    let segments = match template {
        Template::Fixed(value) => return Some(value.clone()),
        Template::Made(segments) => segments,
    };
    let mut text = String::with_capacity(48);
    for segment in segments {
        match segment {
            Segment::Text(fixed) => text.push_str(fixed),
            Segment::Variable(variable) => {
                let begin = text.len();
                push(&mut text, *variable, facts);
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

fn push(text: &mut String, variable: Variable, facts: &Facts<'_>) {
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

impl Fields for HeaderMap {
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
impl Fields for Vec<(HeaderName, HeaderValue)> {
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
