//! The requests that a stored answer is for (RFC 9111, 4.1): by the fields in its `Vary`, as the original
//! request had them.
//!
//! Values are compared in a normal form: lines joined, no space around commas. `Accept-Encoding` is reduced
//! to the known codings that it accepts, `Accept-Language` to its weights. No other field is normalised,
//! since its syntax is unknown here.

use super::directives;
use crate::config::ContentCoding;

use http::{header, HeaderMap, HeaderName, HeaderValue};
use std::collections::BTreeSet;
use xxhash_rust::xxh3::Xxh3Default;

/// The meaning of `Vary` in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VaryRule {
    /// It is for all requests.
    Never,
    /// It is for requests like the original one.
    By(SelectingFields),
    /// It is for no other request: `*`, or an invalid name.
    Always,
}

/// Reads `Vary` of the answer to `request`.
pub fn vary_rule(answer: &HeaderMap, request: &HeaderMap) -> VaryRule {
    let lines = answer.get_all(header::VARY).iter().map(HeaderValue::as_bytes);
    match parse_vary_names(lines) {
        None => VaryRule::Always,
        Some(names) => SelectingFields::by(None, &names, Some(request)).map_or(VaryRule::Never, VaryRule::By),
    }
}

/// The fields in these lines of `Vary`, sorted, each once; `None`: `*`, or an invalid name.
pub fn parse_vary_names<'l>(lines: impl Iterator<Item = &'l [u8]>) -> Option<Vec<HeaderName>> {
    let members = lines.flat_map(directives::list_members).filter(|member| !member.is_empty());
    let names = members.map(|member| HeaderName::from_bytes(member).ok().filter(|name| name != "*"));
    let mut names: Vec<HeaderName> = names.collect::<Option<_>>()?;
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    Some(names)
}

/// The fields that tell the variants of a resource apart, with the values of one variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectingFields {
    /// Sorted, unique, in lower case.
    names: Vec<HeaderName>,
    /// One for each name; `None` if the request had no such field.
    values: Vec<Option<Vec<u8>>>,
}

/// The properties of a stored answer that may make it right for requests other than the original one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredContent<'a> {
    /// `Content-Encoding`; empty if it has several lines, which no request is assumed to accept.
    pub coding: Option<&'a [u8]>,
    /// `Content-Language`
    pub language: Option<&'a [u8]>,
    /// The gateway may encode and decode it: its coding is none or a known one, and `no-transform` is absent.
    pub transformable: bool,
}

impl<'a> StoredContent<'a> {
    /// Reads the stored fields of an answer.
    pub fn of(stored: &'a [(HeaderName, HeaderValue)]) -> Self {
        let all =
            |name: HeaderName| stored.iter().filter(move |(n, _)| *n == name).map(|(_, v)| v.as_bytes());
        let mut codings = all(header::CONTENT_ENCODING);
        let coding = match (codings.next(), codings.next()) {
            (one, None) => one,
            (_, Some(_)) => Some(&b""[..]),
        };
        let is_ours =
            |text: &[u8]| ContentCoding::ALL.iter().any(|c| text.eq_ignore_ascii_case(c.token().as_bytes()));
        let fixed = all(header::CACHE_CONTROL)
            .flat_map(directives::list_members)
            .any(|member| member.eq_ignore_ascii_case(b"no-transform"));
        let transformable = !fixed && coding.is_none_or(is_ours);
        Self { coding, language: all(header::CONTENT_LANGUAGE).next(), transformable }
    }
}

/// The result of matching a stored answer with a request; the later values are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum VariantMatch {
    /// It isn't.
    No,
    /// The request differs, and the answer is still right: another coding of the same content, or the one
    /// language that it prefers.
    Fits,
    /// The request equals the original one.
    Exact,
}

impl SelectingFields {
    /// The fields' names, sorted.
    pub fn names(&self) -> &[HeaderName] {
        &self.names
    }

    /// The values that tell an answer apart by these fields, which are sorted: its previous ones, and for
    /// other fields those of the request, or none without a request. `None` if there are no fields.
    pub fn by(before: Option<&Self>, names: &[HeaderName], request: Option<&HeaderMap>) -> Option<Self> {
        let value = |name: &HeaderName| {
            let known =
                before.and_then(|before| before.names.iter().position(|n| n == name).zip(Some(before)));
            match known {
                Some((place, before)) => before.values[place].clone(),
                None => request.and_then(|request| normalize_value(name, request)),
            }
        };
        let values = names.iter().map(value).collect();
        (!names.is_empty()).then(|| Self { names: names.to_vec(), values })
    }

    /// The memory that it takes beside itself, in bytes.
    pub fn weight(&self) -> u64 {
        let values = self.values.iter().flatten().map(Vec::len).sum::<usize>();
        (size_of_val(&*self.names) + size_of_val(&*self.values) + values) as u64
    }

    /// Matches the answer with a request.
    pub fn matches(&self, request: &HeaderMap, answer: StoredContent<'_>) -> VariantMatch {
        let each = self.names.iter().zip(&self.values).map(|(name, stored)| {
            if normalize_value(name, request) == *stored {
                // The normal form keeps the known codings only.
                let foreign = *name == header::ACCEPT_ENCODING && !answer.transformable;
                return match answer.coding {
                    Some(coding) if foreign && !allows(coding, request) => VariantMatch::No,
                    _ => VariantMatch::Exact,
                };
            }
            let fits = match *name {
                header::ACCEPT_ENCODING => answer.transformable,
                header::ACCEPT_LANGUAGE => answer.language.is_some_and(|is| is_most_wanted(is, request)),
                _ => false,
            };
            if fits {
                VariantMatch::Fits
            } else {
                VariantMatch::No
            }
        });
        each.min().unwrap_or(VariantMatch::Exact)
    }

    /// A name for the requests that the answer is for: 32 hexadecimal digits.
    pub fn name(&self) -> String {
        digest(self.names.iter().zip(self.values.iter().cloned()))
    }

    /// A name for a request's values of these fields: 32 hexadecimal digits, the same for requests that are
    /// [`VariantMatch::Exact`] to each other.
    pub fn digest(names: &[HeaderName], request: &HeaderMap) -> String {
        digest(names.iter().map(|name| (name, normalize_value(name, request))))
    }
}

fn digest<'n>(fields: impl Iterator<Item = (&'n HeaderName, Option<Vec<u8>>)>) -> String {
    let mut hash = Xxh3Default::new();
    for (name, value) in fields {
        hash.update(name.as_str().as_bytes());
        // With its length before it, no value can pose as the next one; no value is that long.
        let length = value.as_ref().map_or(u64::MAX, |value| value.len() as u64);
        hash.update(&length.to_le_bytes());
        hash.update(&value.unwrap_or_default());
    }
    format!("{:032x}", hash.digest128())
}

/// The normal form of a request's field; `None` if it is absent.
fn normalize_value(name: &HeaderName, request: &HeaderMap) -> Option<Vec<u8>> {
    if !request.contains_key(name) {
        return None;
    }
    let value = directives::join_field_lines(request, name);
    Some(match *name {
        header::ACCEPT_ENCODING => codings(&value),
        header::ACCEPT_LANGUAGE => match languages(&value) {
            Some(wanted) => text(&wanted),
            None => members(&value).to_ascii_lowercase(),
        },
        _ => members(&value),
    })
}

/// A list without the space in it.
fn members(value: &[u8]) -> Vec<u8> {
    directives::list_members(value).collect::<Vec<_>>().join(&b","[..])
}

/// The codings in `Accept-Encoding`, each with true if it is accepted.
struct AcceptedCodings(Vec<(Vec<u8>, bool)>);

impl AcceptedCodings {
    fn read(value: &[u8]) -> Self {
        let member = |member| {
            let (coding, weight) = parse_weight(member)?;
            let coding = if coding == b"x-gzip" { b"gzip".to_vec() } else { coding };
            Some((coding, weight > 0))
        };
        Self(directives::list_members(value).filter_map(member).collect())
    }

    fn allows(&self, coding: &[u8]) -> bool {
        let says = |coding: &[u8]| self.0.iter().find(|(name, _)| name == coding).map(|(_, is)| *is);
        says(coding).or_else(|| says(b"*")).unwrap_or(false)
    }
}

/// The known codings that `Accept-Encoding` accepts.
fn codings(value: &[u8]) -> Vec<u8> {
    let accepted = AcceptedCodings::read(value);
    let ours = ContentCoding::ALL.iter().map(|coding| coding.token().as_bytes());
    ours.filter(|coding| accepted.allows(coding)).collect::<Vec<_>>().join(&b","[..])
}

/// Returns true if a request accepts content with this `Content-Encoding`.
fn allows(coding: &[u8], request: &HeaderMap) -> bool {
    if !request.contains_key(header::ACCEPT_ENCODING) {
        return true;
    }
    let accepted = AcceptedCodings::read(&directives::join_field_lines(request, &header::ACCEPT_ENCODING));
    directives::list_members(coding).all(|coding| accepted.allows(&coding.to_ascii_lowercase()))
}

/// The languages in `Accept-Language`, in lower case, with their weights in thousandths: the highest first,
/// by name at equal weights. `None` if a member is malformed.
fn languages(value: &[u8]) -> Option<Vec<(u16, Vec<u8>)>> {
    let members = directives::list_members(value).filter(|member| !member.is_empty());
    let wanted: Option<BTreeSet<_>> =
        members.map(|member| parse_weight(member).map(|(tag, weight)| (1_000 - weight, tag))).collect();
    Some(wanted?.into_iter().map(|(less, tag)| (1_000 - less, tag)).collect())
}

fn text(wanted: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let each = wanted.iter().map(|(weight, tag)| [tag, format!(";{weight}").as_bytes()].concat());
    each.collect::<Vec<_>>().join(&b","[..])
}

/// Returns true if the request prefers one language to all others, and `language` is it.
fn is_most_wanted(language: &[u8], request: &HeaderMap) -> bool {
    let wanted =
        languages(&directives::join_field_lines(request, &header::ACCEPT_LANGUAGE)).unwrap_or_default();
    match wanted.as_slice() {
        [(weight, tag), rest @ ..] => {
            let alone = rest.first().is_none_or(|(next, _)| next < weight);
            alone && *weight > 0 && language.trim_ascii().eq_ignore_ascii_case(tag)
        }
        [] => false,
    }
}

/// Parses a member `name` or `name;q=0.5` in lower case with its weight in thousandths (RFC 9110, 12.4.2);
/// `None` if it has another form.
fn parse_weight(member: &[u8]) -> Option<(Vec<u8>, u16)> {
    let mut parts = member.split(|b| *b == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().filter(|name| !name.is_empty())?.to_ascii_lowercase();
    let weight = match (parts.next(), parts.next()) {
        (None, _) => 1_000,
        (Some([b'q' | b'Q', b'=', weight @ ..]), None) => thousandths(weight)?,
        _ => return None,
    };
    Some((name, weight))
}

/// Parses `0`, `0.5`, `1.000` …: at most three digits after the point, at most 1.
fn thousandths(weight: &[u8]) -> Option<u16> {
    let (whole, part) = match weight {
        [whole] => (whole, &[][..]),
        [whole, b'.', part @ ..] if part.len() <= 3 => (whole, part),
        _ => return None,
    };
    if !matches!(whole, b'0' | b'1') || !part.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at: usize| u16::from(part.get(at).map_or(0, |b| b - b'0'));
    let sum = u16::from(whole - b'0') * 1_000 + digit(0) * 100 + digit(1) * 10 + digit(2);
    (sum <= 1_000).then_some(sum)
}

#[cfg(test)]
#[path = "vary_tests.rs"]
mod tests;
