//! `X-Accel-Redirect` and related fields: the instructions of an origin, and the internal location of the
//! file.
//!
//! Pure. Fields of a client are never read here. The fields and their meaning are nginx's; `docs/files.md`
//! lists the differences.

use super::path::{self, PathError};
use crate::http::{
    hop_by_hop::{connection_options, is_hop_by_hop},
    names::{is_for_gateway, ACCEL_BUFFERING, ACCEL_CHARSET, ACCEL_LIMIT_RATE, ACCEL_REDIRECT},
};

use http::{header, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{percent_encode, AsciiSet, NON_ALPHANUMERIC};
use std::ops::Range;

/// The instructions of an origin besides the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct AccelFields {
    /// `X-Accel-Limit-Rate`: bytes a second; 0, or a value that is no number: no limit.
    pub rate: Option<u64>,
    /// `X-Accel-Buffering: no`: data is sent as soon as it arrives.
    pub at_once: bool,
}

impl AccelFields {
    /// Reads the instructions of an answer.
    pub(crate) fn of(answer: &HeaderMap) -> Self {
        let text = |name| answer.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        Self {
            rate: text(&ACCEL_LIMIT_RATE).and_then(|rate| rate.parse().ok()).filter(|rate| *rate > 0),
            at_once: text(&ACCEL_BUFFERING).is_some_and(|word| word.eq_ignore_ascii_case("no")),
        }
    }
}

/// `Content-Type` with the charset of `X-Accel-Charset`; `None` if it stays as it is.
pub(crate) fn charset_content_type(answer: &HeaderMap) -> Option<HeaderValue> {
    let charset = answer.get(&ACCEL_CHARSET)?.to_str().ok()?.trim();
    let token = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'+');
    if charset.is_empty() || !charset.bytes().all(token) {
        return None;
    }
    let kind = answer.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let other = |parameter: &&str| {
        let name = parameter.split('=').next().unwrap_or_default();
        !name.trim().eq_ignore_ascii_case("charset")
    };
    let mut parts: Vec<&str> = kind.split(';').filter(other).map(str::trim).collect();
    let charset = format!("charset={charset}");
    parts.insert(1.min(parts.len()), &charset);
    HeaderValue::try_from(parts.join("; ")).ok()
}

/// The fields of an origin's answer that are sent with the file: all except the instructions and those that
/// describe the answer's own message.
pub(crate) fn forwarded_fields(answer: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let of_its_message = [
        "age",
        "content-digest",
        "content-encoding",
        "content-length",
        "content-md5",
        "content-range",
        "date",
        "digest",
        "etag",
        "last-modified",
        "repr-digest",
    ];
    let nominated = connection_options(answer);
    let keeps = |name: &HeaderName| {
        !is_for_gateway(name)
            && !is_hop_by_hop(name)
            && !of_its_message.contains(&name.as_str())
            && !nominated.contains(name)
    };
    let mut fields: Vec<_> = answer
        .iter()
        .filter(|(name, _)| keeps(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if let Some(kind) = charset_content_type(answer) {
        fields
            .iter_mut()
            .filter(|(name, _)| *name == header::CONTENT_TYPE)
            .for_each(|(_, v)| *v = kind.clone());
    }
    fields
}

/// An internal location, as a prefix of paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InternalLocation(Vec<String>);

impl InternalLocation {
    /// Parses a location such as `/protected/`, in a spelling that was checked.
    ///
    /// # Errors
    /// If it is no path.
    pub(crate) fn new(text: &str) -> Result<Self, PathError> {
        let segments = path::decode_segments(text.as_bytes())?;
        Ok(Self(segments.into_iter().map(|segment| segment.into_owned()).collect()))
    }
}

/// The reason why the file that an origin names is in no location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LocateError {
    /// The value is no path, or there are several.
    Malformed,
    /// No location contains it.
    Nowhere,
}

/// The location of a file, and the path below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocatedTarget {
    /// Its index in the list.
    pub location: usize,
    /// The path and query, as the origin wrote them, without the location's own part.
    pub rest: Vec<u8>,
}

impl LocatedTarget {
    /// The path below the location, without the query.
    pub(crate) fn path(&self) -> &[u8] {
        &self.rest[..self.path_end()]
    }

    /// The query with its `?`, or nothing.
    pub(crate) fn query(&self) -> &[u8] {
        &self.rest[self.path_end()..]
    }

    fn path_end(&self) -> usize {
        self.rest.iter().position(|b| *b == b'?').unwrap_or(self.rest.len())
    }
}

/// Finds the longest location that contains the file an answer names. `None`: it names none.
///
/// # Errors
/// If it names no file that may be sent.
pub(crate) fn locate_target(
    answer: &HeaderMap,
    locations: &[InternalLocation],
) -> Option<Result<LocatedTarget, LocateError>> {
    let mut lines = answer.get_all(&ACCEL_REDIRECT).iter();
    let target = lines.next()?.as_bytes().trim_ascii();
    if lines.next().is_some() || !target.starts_with(b"/") {
        return Some(Err(LocateError::Malformed));
    }
    let path_end = target.iter().position(|b| *b == b'?').unwrap_or(target.len());
    Some(
        find_location(&target[..path_end], locations)
            .map(|(location, below)| LocatedTarget { location, rest: target[below..].to_vec() }),
    )
}

/// The index of the location, and the offset of the path below it.
fn find_location(path: &[u8], locations: &[InternalLocation]) -> Result<(usize, usize), LocateError> {
    let segments = path::decode_segments(path).map_err(|_| LocateError::Malformed)?;
    let fits = |internal: &InternalLocation| {
        segments.len() >= internal.0.len() && internal.0.iter().zip(&segments).all(|(a, b)| a == b)
    };
    let best = locations.iter().enumerate().filter(|(_, internal)| fits(internal));
    let (location, internal) =
        best.max_by_key(|(_, internal)| internal.0.len()).ok_or(LocateError::Nowhere)?;
    let spans = segment_spans(path);
    let below = match internal.0.len() {
        0 => 0,
        n => spans.get(n - 1).map_or(path.len(), |span| span.end),
    };
    // The location itself, without its slash, is not below it.
    match path.get(below) {
        Some(b'/') => Ok((location, below + 1)),
        _ => Err(LocateError::Nowhere),
    }
}

/// The ranges of a path's segments.
fn segment_spans(path: &[u8]) -> Vec<Range<usize>> {
    let mut begin = 0;
    let mut spans = Vec::new();
    for part in path.split(|b| *b == b'/') {
        if !part.is_empty() {
            spans.push(begin..begin + part.len());
        }
        begin += part.len() + 1;
    }
    spans
}

/// The target for another origin: its prefix with the path and query below the location, as they were
/// written. Octets that are not allowed in a request target are escaped.
pub(crate) fn target_path(prefix: &str, located: &LocatedTarget) -> String {
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'/')
        .remove(b'%')
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~')
        .remove(b'!')
        .remove(b'$')
        .remove(b'&')
        .remove(b'\'')
        .remove(b'(')
        .remove(b')')
        .remove(b'*')
        .remove(b'+')
        .remove(b',')
        .remove(b';')
        .remove(b'=')
        .remove(b':')
        .remove(b'@')
        .remove(b'?');
    let below = located.rest.iter().position(|b| *b != b'/').unwrap_or(located.rest.len());
    format!("{prefix}{}", percent_encode(&located.rest[below..], KEPT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        let mut map = HeaderMap::new();
        for (name, value) in fields.iter().map(field) {
            map.append(name, value);
        }
        map
    }

    fn located(target: &str) -> Option<Result<(usize, String), LocateError>> {
        let locations: Vec<_> = ["/protected/", "/protected/big/", "/mein%20ordner/"]
            .map(|l| InternalLocation::new(l).unwrap())
            .into();
        locate_target(&answer(&[("x-accel-redirect", target)]), &locations)
            .map(|found| found.map(|at| (at.location, String::from_utf8(at.rest).unwrap())))
    }

    #[test]
    fn the_longest_location_is_meant() {
        for (target, location, rest) in [
            ("/protected/a.zip", 0, "a.zip"),
            ("/protected/big%20file.zip", 0, "big%20file.zip"),
            ("/protected/", 0, ""),
            ("//protected//a/b", 0, "/a/b"),
            ("/protected/big/x", 1, "x"),
            ("/protected/bigger", 0, "bigger"),
            ("/%70rotected/x", 0, "x"),
            ("/mein%20ordner/x", 2, "x"),
            ("/mein ordner/x", 2, "x"),
            ("/protected/a?X-Amz-Signature=1&b=/../c", 0, "a?X-Amz-Signature=1&b=/../c"),
            (" /protected/a ", 0, "a"),
        ] {
            assert_eq!(located(target), Some(Ok((location, rest.to_owned()))), "{target}");
        }
    }

    #[test]
    fn what_no_location_has_is_nowhere() {
        use LocateError::{Malformed, Nowhere};
        for (target, why) in [
            ("/other/x", Nowhere),
            ("/protected", Nowhere),
            ("/protectedx/y", Nowhere),
            ("/Protected/x", Nowhere),
            ("/", Nowhere),
            ("", Malformed),
            ("protected/x", Malformed),
            ("@named", Malformed),
            ("http://example.com/protected/x", Malformed),
            ("/x/../protected/a", Malformed),
            ("/protected/../secret", Malformed),
            ("/protected/%2e%2e/secret", Malformed),
            ("/protected/..%2fsecret", Malformed),
            ("/protected/a%00", Malformed),
            ("/protected\\..\\x", Malformed),
        ] {
            assert_eq!(located(target), Some(Err(why)), "{target}");
        }
        let twice = answer(&[("x-accel-redirect", "/protected/a"), ("x-accel-redirect", "/protected/b")]);
        let locations = [InternalLocation::new("/protected/").unwrap()];
        assert_eq!(locate_target(&twice, &locations), Some(Err(Malformed)));
        assert_eq!(locate_target(&HeaderMap::new(), &locations), None);
    }

    #[test]
    fn everything_may_be_internal() {
        let all = [InternalLocation::new("/").unwrap()];
        let found = locate_target(&answer(&[("x-accel-redirect", "/a/b")]), &all);
        assert_eq!(found, Some(Ok(LocatedTarget { location: 0, rest: b"a/b".to_vec() })));
    }

    #[test]
    fn what_another_origin_is_asked_for() {
        for (rest, expected) in [
            ("a/b.zip?X-Amz-Signature=1%2F2", "/bucket/a/b.zip?X-Amz-Signature=1%2F2"),
            ("big file.zip", "/bucket/big%20file.zip"),
            ("größe", "/bucket/gr%C3%B6%C3%9Fe"),
            ("a#b\"c", "/bucket/a%23b%22c"),
            ("/x", "/bucket/x"),
        ] {
            let located = LocatedTarget { location: 0, rest: rest.as_bytes().to_vec() };
            assert_eq!(target_path("/bucket/", &located), expected);
        }
        let located = LocatedTarget { location: 0, rest: b"a?b=c?d".to_vec() };
        assert_eq!((located.path(), located.query()), (&b"a"[..], &b"?b=c?d"[..]));
    }

    #[test]
    fn orders() {
        let of = |fields: &[(&'static str, &str)]| AccelFields::of(&answer(fields));
        assert_eq!(of(&[]), AccelFields::default());
        assert_eq!(of(&[("x-accel-limit-rate", "1024")]).rate, Some(1024));
        for none in ["0", "off", "", "-1", "1k"] {
            let fields = [("x-accel-limit-rate", none)];
            assert_eq!(of(&fields).rate, None, "{none}");
        }
        assert!(of(&[("x-accel-buffering", "no")]).at_once);
        assert!(!of(&[("x-accel-buffering", "yes")]).at_once);
    }

    #[test]
    fn a_charset_is_put_into_the_type() {
        let told = |kind, charset| {
            charset_content_type(&answer(&[("content-type", kind), ("x-accel-charset", charset)]))
                .map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(told("text/plain", "utf-8").as_deref(), Some("text/plain; charset=utf-8"));
        let both = told("text/plain; Charset=latin1; format=flowed", "koi8-r");
        assert_eq!(both.as_deref(), Some("text/plain; charset=koi8-r; format=flowed"));
        assert_eq!(told("text/plain", "a b"), None);
        assert_eq!(charset_content_type(&answer(&[("x-accel-charset", "utf-8")])), None);
    }

    #[test]
    fn what_describes_the_empty_answer_is_left_out() {
        let kept = forwarded_fields(&answer(&[
            ("content-type", "text/html"),
            ("content-disposition", "attachment"),
            ("cache-control", "private"),
            ("expires", "0"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("access-control-allow-origin", "*"),
            ("content-length", "0"),
            ("content-encoding", "gzip"),
            ("etag", "\"x\""),
            ("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT"),
            ("transfer-encoding", "chunked"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("x-accel-redirect", "/protected/a"),
            ("x-accel-charset", "utf-8"),
        ]));
        let kept: Vec<_> = kept.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        assert_eq!(
            kept,
            [
                "content-type: text/html; charset=utf-8",
                "content-disposition: attachment",
                "cache-control: private",
                "expires: 0",
                "set-cookie: a=1",
                "set-cookie: b=2",
                "access-control-allow-origin: *",
            ]
        );
    }
}
