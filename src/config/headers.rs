//! Header rules as the program uses them: checked names and parsed values.
//!
//! A value is fixed, or a template of text and variables (`"$client_ip"`) that is filled in for each request.
//! Templates are parsed once, with the configuration; the gateway knows the values of the variables.
//! [`MessageDirection::reserved`] names the fields that no rule may touch: the check and the gateway use the
//! same list.

use super::reserved::{dashed, is_of_connection, CONDITIONS, OF_THE_BODY, OURS_IN_ANSWERS};
use crate::http::names::is_origin_field;
use http::{HeaderName, HeaderValue};

/// `request_headers`, `response_headers`: removed first, then set, then added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderRules {
    /// `remove`
    pub remove: Vec<NamePattern>,
    /// `set`: each name with its lines, which replace those that are there.
    pub set: Vec<(HeaderName, Vec<HeaderTemplate>)>,
    /// `add`: further lines.
    pub add: Vec<(HeaderName, HeaderTemplate)>,
}

impl HeaderRules {
    /// Returns true if they change nothing.
    pub fn is_empty(&self) -> bool {
        let Self { remove, set, add } = self;
        remove.is_empty() && set.is_empty() && add.is_empty()
    }
}

/// The rules for the fields of a route's requests and answers: those of `[headers]`, then its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteHeaders {
    /// `request_headers`, in the order in which they apply; none of them is empty.
    pub request: Vec<HeaderRules>,
    /// `response_headers`, in the order in which they apply; none of them is empty.
    pub response: Vec<HeaderRules>,
    /// `security_headers` (false)
    pub security: bool,
}

/// One of `remove`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamePattern {
    /// This field.
    Exact(HeaderName),
    /// `X-Powered-*`: every field whose name begins like this (lower case).
    Prefix(Box<str>),
}

/// A value of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderTemplate {
    /// The same for all.
    Fixed(HeaderValue),
    /// Made for each request: at least one variable.
    Made(Vec<TemplateSegment>),
}

/// A piece of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateSegment {
    /// Printable ASCII.
    Text(Box<str>),
    /// A value that is known of the request.
    Variable(Variable),
}

macro_rules! variables {
    ($($(#[$doc:meta])* $variable:ident => $name:literal,)+) => {
        /// A variable, written with a `$` in a value.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Variable { $($(#[$doc])* $variable,)+ }

        impl Variable {
            /// Every variable.
            pub const ALL: &'static [Self] = &[$(Self::$variable,)+];

            /// Its name, without the `$`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variable => $name,)+ }
            }
        }
    };
}

variables! {
    /// The client's address.
    ClientIp => "client_ip",
    /// The address at the other end of the connection.
    RemoteAddr => "remote_addr",
    /// `http` or `https`, as the client came.
    Scheme => "scheme",
    /// The host that was asked for, in lower case, without a port.
    Host => "host",
    /// The path that was asked for, without the query.
    Path => "path",
    /// The request's id.
    RequestId => "request_id",
    /// The route's name.
    Route => "route",
    /// The tenant of the token, `public` without one.
    Tenant => "tenant",
    /// The user of the token.
    User => "user",
    /// The role of the token.
    Role => "role",
    /// The source of the answer, in the words of the metrics; in answers only.
    Cache => "cache",
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TemplateFault {
    /// No variable is called so.
    Unknown(String),
    /// The fault, described for people.
    Malformed(&'static str),
}

impl HeaderTemplate {
    /// Takes a text apart.
    pub(super) fn parse(text: &str) -> Result<Self, TemplateFault> {
        if !text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return Err(TemplateFault::Malformed("must be printable ASCII"));
        }
        if text.trim() != text {
            return Err(TemplateFault::Malformed("must not begin or end with a space"));
        }
        let (mut segments, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let (segment, behind) = piece(rest)?;
            match (segments.last_mut(), segment) {
                (Some(TemplateSegment::Text(before)), TemplateSegment::Text(more)) => {
                    *before = format!("{before}{more}").into()
                }
                (_, segment) => segments.push(segment),
            }
            rest = behind;
        }
        match segments.as_slice() {
            [] => Err(TemplateFault::Malformed("must not be empty")),
            [TemplateSegment::Text(fixed)] => match HeaderValue::from_str(fixed) {
                Ok(value) => Ok(Self::Fixed(value)),
                Err(_) => Err(TemplateFault::Malformed("must be printable ASCII")),
            },
            _ => Ok(Self::Made(segments)),
        }
    }

    /// The variables that it names.
    pub fn variables(&self) -> impl Iterator<Item = Variable> + '_ {
        let segments = match self {
            Self::Fixed(_) => &[][..],
            Self::Made(segments) => segments,
        };
        segments.iter().filter_map(|segment| match segment {
            TemplateSegment::Text(_) => None,
            TemplateSegment::Variable(variable) => Some(*variable),
        })
    }
}

/// The first segment of a text that is not empty, and what follows it.
fn piece(text: &str) -> Result<(TemplateSegment, &str), TemplateFault> {
    const DOLLAR: TemplateFault =
        TemplateFault::Malformed("\"$\" begins a variable, such as \"$host\"; a dollar is written \"$$\"");
    let Some(behind) = text.strip_prefix('$') else {
        let end = text.find('$').unwrap_or(text.len());
        return Ok((TemplateSegment::Text(text[..end].into()), &text[end..]));
    };
    if let Some(rest) = behind.strip_prefix('$') {
        return Ok((TemplateSegment::Text("$".into()), rest));
    }
    let (name, rest) = match behind.strip_prefix('{') {
        Some(inner) => inner.split_once('}').ok_or(TemplateFault::Malformed("\"${\" has no \"}\""))?,
        None => {
            let end = behind.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(behind.len());
            behind.split_at(end)
        }
    };
    if name.is_empty() {
        return Err(DOLLAR);
    }
    match Variable::ALL.iter().find(|variable| variable.name() == name) {
        Some(variable) => Ok((TemplateSegment::Variable(*variable), rest)),
        None => Err(TemplateFault::Unknown(name.to_owned())),
    }
}

/// The direction of the messages that rules apply to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageDirection {
    /// To the origin.
    Request,
    /// To the client.
    Response,
}

impl MessageDirection {
    /// Why no rule may touch a field of this name (lower case); `None`: rules may.
    ///
    /// `X_Tenant` is taken for `X-Tenant`: an application behind CGI or WSGI can't tell the two apart.
    pub fn reserved(self, name: &str) -> Option<&'static str> {
        const FRAMING: &str = "it belongs to the connection or the message's framing";
        const OURS: &str = "only the gateway says it";
        let name = &*dashed(name);
        if is_of_connection(name) || name.starts_with("sec-websocket-") {
            return Some(FRAMING);
        }
        match self {
            Self::Request if is_origin_field(name) => Some(OURS),
            Self::Request if CONDITIONS.contains(&name) => {
                Some("what is asked for, and under which condition, is the client's and the cache's matter")
            }
            Self::Response if OURS_IN_ANSWERS.contains(&name) => Some(OURS),
            Self::Response if OF_THE_BODY.contains(&name) => {
                Some("it describes the very bytes that are sent")
            }
            Self::Request | Self::Response => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made(text: &str) -> Vec<TemplateSegment> {
        match HeaderTemplate::parse(text) {
            Ok(HeaderTemplate::Made(segments)) => segments,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_text_is_taken_apart() {
        let (text, variable) = (|t: &str| TemplateSegment::Text(t.into()), TemplateSegment::Variable);
        assert_eq!(made("$client_ip"), [variable(Variable::ClientIp)]);
        assert_eq!(made("a $host:8080"), [text("a "), variable(Variable::Host), text(":8080")]);
        assert_eq!(made("${host}name"), [variable(Variable::Host), text("name")]);
        assert_eq!(
            made("$$$tenant$user$$"),
            [text("$"), variable(Variable::Tenant), variable(Variable::User), text("$")]
        );
        assert_eq!(
            HeaderTemplate::parse("5 $$ a$$b"),
            Ok(HeaderTemplate::Fixed(HeaderValue::from_static("5 $ a$b")))
        );
    }

    #[test]
    fn what_is_no_template() {
        let fault = |text: &str| HeaderTemplate::parse(text).expect_err(text);
        assert_eq!(fault("$hostname"), TemplateFault::Unknown("hostname".into()));
        assert_eq!(fault("${Host}"), TemplateFault::Unknown("Host".into()));
        for malformed in
            ["", "$", "a$", "$ x", "${", "${host", "${}", "a\nb", "a\tb", "a\u{7f}", "é", " a", "a "]
        {
            assert!(matches!(fault(malformed), TemplateFault::Malformed(_)), "{malformed:?}");
        }
    }

    #[test]
    fn what_only_looks_different_is_reserved_as_well() {
        for name in
            ["x-tenant", "x_tenant", "x.tenant", "content_length", "connection", "sec-websocket-key", "range"]
        {
            assert!(MessageDirection::Request.reserved(name).is_some(), "{name}");
        }
        for name in ["content-length", "x-request-id", "cache-status", "content-encoding", "date"] {
            assert!(MessageDirection::Response.reserved(name).is_some(), "{name}");
        }
        for name in ["host", "authorization", "x-tenants", "accept-encoding"] {
            assert_eq!(MessageDirection::Request.reserved(name), None, "{name}");
        }
        for name in ["x-tenant", "server", "cache-control", "vary"] {
            assert_eq!(MessageDirection::Response.reserved(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart_or_told(text in "[$a-z_{} ]{0,12}|.{0,20}") {
            if let Ok(HeaderTemplate::Made(segments)) = HeaderTemplate::parse(&text) {
                prop_assert!(segments.iter().any(|s| matches!(s, TemplateSegment::Variable(_))));
                let twice = segments.windows(2).any(|w| matches!(w, [TemplateSegment::Text(_), TemplateSegment::Text(_)]));
                prop_assert!(!twice, "texts beside each other: {segments:?}");
            }
        }

        #[test]
        fn doubled_dollars_are_text(text in "[ -~]{1,20}") {
            let text = text.trim();
            if !text.is_empty() {
                let expected = HeaderTemplate::Fixed(HeaderValue::from_str(text).unwrap());
                prop_assert_eq!(HeaderTemplate::parse(&text.replace('$', "$$")), Ok(expected));
            }
        }
    }
}
