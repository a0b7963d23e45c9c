//! The canonical form of a request's path, to which every rule is applied: routes, events, preflights,
//! limits, files and the keys of namespaces. An application behind the gateway decodes the path and often
//! merges its slashes; a rule on the bytes as they came could be bypassed with another spelling.
//!
//! The form: percent-encoding is decoded once and encoded again where RFC 3986 requires it (section 3.3), in
//! upper case; runs of slashes become one. Two paths that a server decodes to the same octets have the same
//! form. Dot segments, NUL and broken percent-encoding are refused: most clients resolve the first, and no
//! client sends the others. A request to an origin that is proxied or followed keeps its path unchanged.
//!
//! An escaped slash (`%2F`) and a backslash stay escaped: they are octets of a segment. A server may read
//! them as separators: [`CanonicalPath::unescaped`] is the path for such a server. Pure.

use std::{borrow::Cow, fmt::Write as _};

/// The reason why a path has no canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// It does not begin with a slash.
    #[error("must begin with \"/\"")]
    Relative,
    /// A `%` without two hexadecimal digits after it.
    #[error("holds a \"%\" that begins no percent-encoding")]
    Escape,
    /// A NUL octet.
    #[error("holds a NUL")]
    Nul,
    /// A `.` or `..` segment, in any spelling, with or without parameters (`..;x`).
    #[error("holds a dot segment")]
    DotSegment,
    /// `/\` at the beginning, which some URL parsers take for `//`, and so for the beginning of a host.
    #[error("begins with \"/\\\"")]
    Backslash,
}

/// The canonical form of a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CanonicalPath {
    /// `None`: the path is in canonical form already.
    text: Option<Box<str>>,
    /// The path with escaped slashes and backslashes as slashes. `None`: it has neither.
    unescaped: Option<Box<str>>,
}

impl CanonicalPath {
    /// Makes the form of a path without its query.
    ///
    /// # Errors
    /// The reason why the path has none.
    pub fn of(raw: &str) -> Result<Self, PathFault> {
        if Self::is_plain(raw) {
            return Ok(Self::default());
        }
        let text = rewrite_path(raw)?;
        // Every escaped octet is in upper case by now.
        let has_other_slashes = text.contains("%2F") || text.contains("%5C");
        let unescaped =
            has_other_slashes.then(|| merge_slashes(&text.replace("%2F", "/").replace("%5C", "/")));
        let read = unescaped.as_deref().unwrap_or(&text);
        if read.split('/').any(is_dot_segment) {
            return Err(PathFault::DotSegment);
        }
        let text = (text != raw).then(|| text.into_boxed_str());
        Ok(Self { text, unescaped: unescaped.map(Into::into) })
    }

    /// Returns true if a path is certainly in canonical form, as most are. False for a segment that begins
    /// with a dot, which needs a closer look.
    pub fn is_plain(raw: &str) -> bool {
        let mut after_slash = false;
        for byte in raw.bytes() {
            if !PATH_CHARACTERS[usize::from(byte)] || after_slash && matches!(byte, b'/' | b'.') {
                return false;
            }
            after_slash = byte == b'/';
        }
        raw.starts_with('/')
    }

    /// The canonical form; `raw` is the path that it was made from.
    pub fn as_str<'p>(&'p self, raw: &'p str) -> &'p str {
        self.text.as_deref().unwrap_or(raw)
    }

    /// The canonical form for servers that read escaped slashes and backslashes as slashes. `None`: it has
    /// neither.
    pub fn unescaped(&self) -> Option<&str> {
        self.unescaped.as_deref()
    }
}

/// A target whose leading slashes are one: an origin could read the text after two of them as a host (RFC 3986,
/// 4.2), and see another path than the one by which rules are chosen.
pub(crate) fn with_one_leading_slash(target: &str) -> &str {
    let slashes = target.len() - target.trim_start_matches('/').len();
    &target[slashes.saturating_sub(1)..]
}

/// Normalizes a path and query without a change of their meaning (RFC 3986, 6.2.2): escapes in upper case,
/// none for unreserved characters, one for each character that is not allowed in a URL. Broken escapes stay
/// as they are.
pub(crate) fn normalize_escapes(target: &str) -> Cow<'_, str> {
    if target.bytes().all(|b| b.is_ascii_graphic() && b != b'%') {
        return target.into();
    }
    let mut out = String::with_capacity(target.len() + 16);
    let mut rest = target.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match (byte, decode_escape(byte, behind)) {
            (_, Some(octet)) => {
                rest = &behind[2..];
                match is_unreserved(octet) {
                    true => out.push(char::from(octet)),
                    false => push_escape(&mut out, octet),
                }
            }
            (byte, None) if byte.is_ascii_graphic() => out.push(char::from(byte)),
            (byte, None) => push_escape(&mut out, byte),
        }
    }
    out.into()
}

/// The octet of an escape: `byte` is `%`, and two hexadecimal digits follow.
fn decode_escape(byte: u8, behind: &[u8]) -> Option<u8> {
    let digit = |at: usize| behind.get(at).and_then(|digit| char::from(*digit).to_digit(16));
    match byte {
        b'%' => u8::try_from(digit(0)? << 4 | digit(1)?).ok(),
        _ => None,
    }
}

fn rewrite_path(raw: &str) -> Result<String, PathFault> {
    if !raw.starts_with('/') {
        return Err(PathFault::Relative);
    }
    if raw.trim_start_matches('/').starts_with('\\') {
        return Err(PathFault::Backslash);
    }
    let mut out = String::with_capacity(raw.len() + 16);
    let mut rest = raw.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match byte {
            b'/' if out.ends_with('/') => {}
            b'/' => out.push('/'),
            b'%' => {
                push_octet(&mut out, decode_escape(byte, behind).ok_or(PathFault::Escape)?)?;
                rest = &behind[2..];
            }
            byte => push_octet(&mut out, byte)?,
        }
    }
    Ok(out)
}

/// Adds an octet of a segment, escaped if necessary: an unescaped slash would be a separator.
fn push_octet(out: &mut String, octet: u8) -> Result<(), PathFault> {
    match octet {
        0 => return Err(PathFault::Nul),
        b'/' => push_escape(out, octet),
        octet if is_path_character(octet) => out.push(char::from(octet)),
        octet => push_escape(out, octet),
    }
    Ok(())
}

fn push_escape(out: &mut String, octet: u8) {
    // Writing to a String can't fail.
    write!(out, "%{octet:02X}").unwrap_or_default();
}

fn merge_slashes(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    merged
}

/// Returns true for a dot segment, with or without parameters: some servers remove these first.
fn is_dot_segment(segment: &str) -> bool {
    matches!(segment.split(';').next(), Some("." | ".."))
}

/// Characters of a path that need no escape (RFC 3986, 3.3: `pchar` and `/`).
const fn is_path_character(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' | b'/'
        )
}

/// A table look-up is cheaper than a comparison with each character.
static PATH_CHARACTERS: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0_u8);
    loop {
        table[byte as usize] = is_path_character(byte);
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};

/// RFC 3986, 2.3
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    fn canonical(raw: &str) -> String {
        CanonicalPath::of(raw).unwrap_or_else(|fault| panic!("{raw}: {fault}")).as_str(raw).to_owned()
    }

    #[test]
    fn spellings_of_one_path_have_one_form() {
        for (raw, form) in [
            ("/", "/"),
            ("/admin/users", "/admin/users"),
            ("/%61dmin/users", "/admin/users"),
            ("/%61%64%6D%69%6e/users", "/admin/users"),
            ("//admin/users", "/admin/users"),
            ("/admin///users//", "/admin/users/"),
            ("/admin%2fusers", "/admin%2Fusers"),
            ("/admin\\users", "/admin%5Cusers"),
            ("/a\\", "/a%5C"),
            ("/admin%5cusers", "/admin%5Cusers"),
            ("/a%3ab@c%40d;e%3B", "/a:b@c@d;e;"),
            ("/a b%20c", "/a%20b%20c"),
            ("/é/%c3%A9", "/%C3%A9/%C3%A9"),
            ("/%7E~", "/~~"),
            ("/%2561dmin", "/%2561dmin"),
            ("/a%3Fb%23c%25", "/a%3Fb%23c%25"),
            ("/%ff%c0%ae", "/%FF%C0%AE"),
            ("/%2Ea/..a/a../...", "/.a/..a/a../..."),
            ("/a|b\"^`{}<>", "/a%7Cb%22%5E%60%7B%7D%3C%3E"),
            ("/a%0ab", "/a%0Ab"),
        ] {
            assert_eq!(canonical(raw), form, "{raw}");
            assert_eq!(canonical(form), form, "{form}");
        }
    }

    #[test]
    fn paths_that_climb_or_are_broken_are_refused() {
        use PathFault::{Backslash, DotSegment, Escape, Nul, Relative};
        for (raw, fault) in [
            ("", Relative),
            ("*", Relative),
            ("a/b", Relative),
            ("%2fa", Relative),
            ("/..", DotSegment),
            ("/a/../b", DotSegment),
            ("/a/.", DotSegment),
            ("/./a", DotSegment),
            ("/a/%2e%2E/b", DotSegment),
            ("/a/.%2e", DotSegment),
            ("/a%2f..%2fb", DotSegment),
            ("/a\\..\\b", DotSegment),
            ("/a%5c..", DotSegment),
            ("/a//../b", DotSegment),
            ("/a/..;/b", DotSegment),
            ("/a/.;x=1/b", DotSegment),
            ("/a/..%3Bx/b", DotSegment),
            ("/a%00b", Nul),
            ("/\\a", Backslash),
            ("//\\a", Backslash),
            ("/%", Escape),
            ("/a%2", Escape),
            ("/%zz", Escape),
            ("/%u0061", Escape),
            ("/%+1", Escape),
        ] {
            assert_eq!(CanonicalPath::of(raw), Err(fault), "{raw}");
        }
    }

    #[test]
    fn escaped_slashes_may_be_read_as_slashes() {
        for (raw, unescaped) in [
            ("/admin/users", None),
            ("/%61dmin//users", None),
            ("/x%2Fadmin", Some("/x/admin")),
            ("/x\\admin/y", Some("/x/admin/y")),
            ("/x%5cadmin", Some("/x/admin")),
            ("/x/%2F/admin", Some("/x/admin")),
            ("/%2fadmin%2F", Some("/admin/")),
            ("/%252Fadmin", None),
        ] {
            assert_eq!(CanonicalPath::of(raw).unwrap().unescaped(), unescaped, "{raw}");
        }
    }

    #[test]
    fn equivalent_targets_have_one_form() {
        for (target, form) in [
            ("/a?b=c", "/a?b=c"),
            ("/%7Ea?%7e", "/~a?~"),
            ("/%c3?%c3", "/%C3?%C3"),
            ("/ä?ö", "/%C3%A4?%C3%B6"),
            // An escaped reserved character has another meaning than a plain one.
            ("/%2f%3F?%26%3d", "/%2F%3F?%26%3D"),
            ("//a", "//a"),
            ("/%?%2", "/%?%2"),
        ] {
            assert_eq!(normalize_escapes(target), form, "{target}");
            assert_eq!(normalize_escapes(form), form, "{form}");
        }
    }

    /// A path of pieces in various spellings.
    fn any_path() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "a", "%61", "A", "/", "//", "%2f", "%2F", "\\", "%5c", "%", "%2", "%252f", "~", "%7e", ".",
            "%2e", "..", ";", "%3b", "é", "%c3%a9", " ", "%20", "%00", "@", "%40", "?", "%ff",
        ]);
        prop::collection::vec(piece, 0..8)
            .prop_map(|pieces| format!("/{}", pieces.concat().replace('?', "%3F")))
    }

    proptest! {
        #[test]
        fn a_form_is_its_own_form_and_decodes_to_the_same_octets(raw in any_path()) {
            let Ok(path) = CanonicalPath::of(&raw) else { return Ok(()) };
            let form = path.as_str(&raw);
            prop_assert!(form.is_ascii() && form.starts_with('/') && !form.contains("//"), "{}", form);
            prop_assert_eq!(canonical(form), form);
            let octets = |text: &str| {
                let segments = text.split('/').filter(|segment| !segment.is_empty());
                segments.map(|segment| percent_decode_str(segment).collect::<Vec<u8>>()).collect::<Vec<_>>()
            };
            prop_assert_eq!(octets(&raw), octets(form));
            if let Some(unescaped) = path.unescaped() {
                prop_assert!(!unescaped.contains("//") && !unescaped.contains('\\'), "{}", unescaped);
                prop_assert_eq!(canonical(unescaped), unescaped);
            }
        }

        #[test]
        fn what_decodes_to_the_same_octets_has_the_same_form(raw in any_path()) {
            let Ok(path) = CanonicalPath::of(&raw) else { return Ok(()) };
            // Each octet of each segment escaped.
            let escaped: String = raw
                .split('/')
                .map(|segment| percent_decode_str(segment).map(|b| format!("%{b:02x}")).collect::<String>())
                .collect::<Vec<_>>()
                .join("/");
            prop_assert_eq!(canonical(&escaped), path.as_str(&raw));
        }

        #[test]
        fn nothing_panics(raw in ".*", octets in prop::collection::vec(any::<u8>(), 0..40)) {
            drop(CanonicalPath::of(&raw));
            drop(CanonicalPath::of(&String::from_utf8_lossy(&octets)));
            normalize_escapes(&raw);
        }
    }
}
