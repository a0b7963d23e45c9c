//! The `Forwarded` field (RFC 7239): `for=192.0.2.60;proto=http;by=203.0.113.43, for="[2001:db8::17]:4711"`.
//!
//! Parsed from the end, where each proxy appends its element: nothing that a client has written, such as an
//! unclosed quote, can swallow what a proxy appended.

use super::value::{parse_host, parse_scheme, text_or_empty};
use crate::cache::key::RequestScheme;

use http::{header, HeaderMap};
use std::borrow::Cow;

/// One element, written by one proxy.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ForwardedElement<'h> {
    node: Option<Cow<'h, str>>,
    proto: Option<Cow<'h, str>>,
    host: Option<Cow<'h, str>>,
}

impl<'h> ForwardedElement<'h> {
    /// `for`: the node that the proxy received the request from.
    pub(super) fn node(self) -> Option<Cow<'h, str>> {
        self.node
    }

    /// `proto`: the scheme of the request that the proxy received.
    pub(super) fn proto(&self) -> Option<RequestScheme> {
        parse_scheme(self.proto.as_deref()?)
    }

    /// `host`: the host of that request.
    pub(super) fn host(&self) -> Option<Box<str>> {
        parse_host(self.host.as_deref()?)
    }

    /// Parses `name=value;name=value`; `None` if it is malformed, or has a name twice.
    fn read(text: &'h str) -> Option<Self> {
        let mut element = Self::default();
        let pairs = QuotedSplit::new(text.as_bytes(), b';').map(self::text_or_empty);
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=')?;
            let value = unquote_value(value)?;
            let place = match name {
                _ if !is_token(name) => return None,
                _ if name.eq_ignore_ascii_case("for") => &mut element.node,
                _ if name.eq_ignore_ascii_case("proto") => &mut element.proto,
                _ if name.eq_ignore_ascii_case("host") => &mut element.host,
                _ => continue,
            };
            if place.replace(value).is_some() {
                return None;
            }
        }
        Some(element)
    }
}

/// The elements of all lines, the last first; `None` for a malformed one.
pub(super) fn elements_from_end(headers: &HeaderMap) -> impl Iterator<Item = Option<ForwardedElement<'_>>> {
    let lines = headers.get_all(header::FORWARDED).iter().rev();
    let elements = lines.flat_map(|line| QuotedSplit::new(line.as_bytes(), b','));
    elements.map(text_or_empty).filter(|element| !element.is_empty()).map(ForwardedElement::read)
}

/// Splits at a separator outside of quotes, from the end.
struct QuotedSplit<'h> {
    rest: Option<&'h [u8]>,
    separator: u8,
}

impl<'h> QuotedSplit<'h> {
    fn new(text: &'h [u8], separator: u8) -> Self {
        Self { rest: Some(text), separator }
    }
}

impl<'h> Iterator for QuotedSplit<'h> {
    type Item = &'h [u8];

    fn next(&mut self) -> Option<&'h [u8]> {
        let text = self.rest?;
        let mut quoted = false;
        for (at, byte) in text.iter().enumerate().rev() {
            match byte {
                b'"' if !(quoted && is_escaped(&text[..at])) => quoted = !quoted,
                byte if *byte == self.separator && !quoted => {
                    self.rest = Some(&text[..at]);
                    return Some(text[at + 1..].trim_ascii());
                }
                _ => {}
            }
        }
        self.rest = None;
        Some(text.trim_ascii())
    }
}

/// Returns true if the next byte is escaped: an odd number of backslashes precedes it.
fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|b| **b == b'\\').count() % 2 == 1
}

/// A value, without its quotes and escapes.
fn unquote_value(text: &str) -> Option<Cow<'_, str>> {
    let Some(open) = text.strip_prefix('"') else {
        // Strictly only a token. Addresses with a port or brackets are common without the required quotes.
        let common = |b: u8| is_token_byte(b) || matches!(b, b':' | b'[' | b']');
        return (!text.is_empty() && text.bytes().all(common)).then(|| text.into());
    };
    let inside = open.strip_suffix('"')?;
    if !inside.contains(['\\', '"']) {
        return Some(inside.into());
    }
    let (mut value, mut chars) = (String::with_capacity(inside.len()), inside.chars());
    while let Some(char) = chars.next() {
        match char {
            '\\' => value.push(chars.next()?),
            '"' => return None,
            _ => value.push(char),
        }
    }
    Some(value.into())
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// RFC 9110, 5.6.2
fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn nodes(lines: &[&str]) -> Vec<Option<String>> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::FORWARDED, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        elements_from_end(&headers).map(|e| e.and_then(ForwardedElement::node).map(Cow::into_owned)).collect()
    }

    fn some(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|text| Some((*text).to_owned())).collect()
    }

    #[test]
    fn the_examples_of_the_rfc() {
        assert_eq!(nodes(&["for=\"_gazonk\""]), some(&["_gazonk"]));
        assert_eq!(nodes(&["For=\"[2001:db8:cafe::17]:4711\""]), some(&["[2001:db8:cafe::17]:4711"]));
        assert_eq!(nodes(&["for=192.0.2.60;proto=http;by=203.0.113.43"]), some(&["192.0.2.60"]));
        assert_eq!(nodes(&["for=192.0.2.43, for=198.51.100.17"]), some(&["198.51.100.17", "192.0.2.43"]));
        let lines = ["for=_hidden, for=_SEVKISEK", "for=unknown"];
        assert_eq!(nodes(&lines), some(&["unknown", "_SEVKISEK", "_hidden"]));
    }

    #[test]
    fn quotes_hold_what_separates() {
        assert_eq!(nodes(&["for=\"a,b;c\\\"d\\\\\";by=x"]), some(&["a,b;c\"d\\"]));
        assert_eq!(nodes(&["for=a ; proto=https , ,for=b;"]), some(&["b", "a"]));
        let mut headers = HeaderMap::new();
        headers.append(header::FORWARDED, "proto=HTTPS;host=\"a.example:8443\";for=x".parse().unwrap());
        let element = elements_from_end(&headers).next().flatten().unwrap();
        assert_eq!(element.proto(), Some(RequestScheme::Https));
        assert_eq!(element.host().as_deref(), Some("a.example:8443"));
    }

    #[test]
    fn what_is_not_well_formed_says_nothing() {
        for text in [
            "for",
            "for=",
            "=x",
            "for=a b",
            "for=\"a",
            "for=a\"",
            "for=\"a\\\"",
            "for=\"a\"b\"",
            "for=a;for=b",
            "f r=a",
            "for=a;;;=",
            "\"",
            "for=é",
        ] {
            assert_eq!(nodes(&[text]), [None], "{text}");
        }
        assert_eq!(nodes(&["", ", ,"]), []);
        assert_eq!(nodes(&["proto=http"]), [None]);
    }

    #[test]
    fn nothing_swallows_what_was_added_after_it() {
        for open in ["for=\"a", "\"", "for=\"\\", "for=\"a\\\"", "a\"b\"c\"", "\\", "for=\"x\";\""] {
            let line = format!("{open}, for=\"[2001:db8::1]:80\";proto=http");
            assert_eq!(nodes(&[&line])[0].as_deref(), Some("[2001:db8::1]:80"), "{line}");
        }
    }
}
