//! Parses a path of a request, or of `X-Accel-Redirect`, into the name of a file below a root.
//!
//! Pure. Percent-encoding is decoded once, segment by segment, so that an encoded slash never separates
//! segments. Text that another reader could understand differently is refused, not repaired: dot segments,
//! encoded slashes, backslashes, control characters, and invalid UTF-8. The kernel enforces the confinement
//! to the root as well (`root.rs`).

use std::borrow::Cow;

/// The longest path that the system takes, in bytes.
const MAX_PATH_BYTES: usize = 4_000;

/// The reason why a path names no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    /// A `%` without two hexadecimal digits, or text that is no UTF-8.
    #[error("is malformed")]
    Malformed,
    /// `.` or `..`, in any spelling.
    #[error("holds a dot segment")]
    Dots,
    /// An encoded slash or a backslash.
    #[error("holds an escaped slash or a backslash")]
    Separator,
    /// A control character, NUL among them.
    #[error("holds a control character")]
    Control,
    /// A name that begins with a dot.
    #[error("names a hidden file")]
    Hidden,
    /// Longer than any file's path.
    #[error("is too long")]
    TooLong,
}

/// A path below a root.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RelativePath {
    /// Segments, none of them empty, with single slashes between them and none at either end. Empty: the
    /// root.
    path: String,
    /// True if the path ended with a slash.
    directory: bool,
}

impl RelativePath {
    /// The path, decoded; empty for the root itself.
    pub(crate) fn as_str(&self) -> &str {
        &self.path
    }

    /// Returns true if the path names a directory.
    pub(crate) fn is_directory(&self) -> bool {
        self.directory
    }

    /// The path of the file with this name in this directory.
    pub(crate) fn child(&self, name: &str) -> String {
        match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}/{name}"),
        }
    }
}

/// Parses a path without a query. Empty segments are dropped. With `hidden`, names that begin with a dot are
/// accepted; without, only `.well-known` at the beginning is (RFC 8615).
///
/// # Errors
/// If it names no file that may be sent.
pub(crate) fn relative_path(raw: &[u8], hidden: bool) -> Result<RelativePath, PathError> {
    let segments = decode_segments(raw)?;
    for (place, segment) in segments.iter().enumerate() {
        let well_known = place == 0 && segment == ".well-known";
        if segment.starts_with('.') && !hidden && !well_known {
            return Err(PathError::Hidden);
        }
    }
    let directory = raw.is_empty() || raw.ends_with(b"/");
    Ok(RelativePath { path: segments.join("/"), directory })
}

/// The segments of a path, decoded, without empty ones.
///
/// # Errors
/// If one of them is not allowed in a path.
pub(crate) fn decode_segments(raw: &[u8]) -> Result<Vec<Cow<'_, str>>, PathError> {
    if raw.len() > MAX_PATH_BYTES {
        return Err(PathError::TooLong);
    }
    let mut segments = Vec::new();
    for part in raw.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
        let segment = decode_percent(part)?;
        check_segment(&segment)?;
        segments.push(segment);
    }
    Ok(segments)
}

/// Decodes percent-encoding, once.
fn decode_percent(part: &[u8]) -> Result<Cow<'_, str>, PathError> {
    if !part.contains(&b'%') {
        return std::str::from_utf8(part).map(Cow::Borrowed).map_err(|_| PathError::Malformed);
    }
    let mut decoded = Vec::with_capacity(part.len());
    let mut rest = part;
    while let Some((&first, behind)) = rest.split_first() {
        match (first, behind) {
            (b'%', [high, low, behind @ ..]) => {
                decoded.push(hex_digit(*high)? << 4 | hex_digit(*low)?);
                rest = behind;
            }
            (b'%', _) => return Err(PathError::Malformed),
            _ => {
                decoded.push(first);
                rest = behind;
            }
        }
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| PathError::Malformed)
}

fn hex_digit(digit: u8) -> Result<u8, PathError> {
    let value = (digit as char).to_digit(16).ok_or(PathError::Malformed)?;
    u8::try_from(value).map_err(|_| PathError::Malformed)
}

fn check_segment(segment: &str) -> Result<(), PathError> {
    if segment == "." || segment == ".." {
        return Err(PathError::Dots);
    }
    if segment.contains(['/', '\\']) {
        return Err(PathError::Separator);
    }
    match segment.chars().any(char::is_control) {
        true => Err(PathError::Control),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_path_names() {
        for (raw, path, directory) in [
            ("", "", true),
            ("/", "", true),
            ("a", "a", false),
            ("a/b.js", "a/b.js", false),
            ("a/", "a", true),
            ("//a//b", "a/b", false),
            ("big%20file.zip", "big file.zip", false),
            ("%E2%82%AC.txt", "€.txt", false),
            // Decoded once.
            ("a%252e%252e", "a%2e%2e", false),
            ("100%25.txt", "100%.txt", false),
            // As X-Accel-Redirect often has it.
            ("big file.zip", "big file.zip", false),
            ("größe.txt", "größe.txt", false),
            ("a..b/c...", "a..b/c...", false),
            ("12:30.log", "12:30.log", false),
            ("a:b.txt", "a:b.txt", false),
            ("C:/x", "C:/x", false),
            (".well-known/acme-challenge/x", ".well-known/acme-challenge/x", false),
        ] {
            let found = relative_path(raw.as_bytes(), false);
            assert_eq!(found, Ok(RelativePath { path: path.to_owned(), directory }), "{raw}");
        }
    }

    #[test]
    fn what_names_nothing() {
        use PathError::{Control, Dots, Hidden, Malformed, Separator};
        for (raw, why) in [
            ("..", Dots),
            ("../secret", Dots),
            ("a/../../secret", Dots),
            ("a/..", Dots),
            ("./a", Dots),
            ("%2e%2e/secret", Dots),
            (".%2E/secret", Dots),
            ("a%2fb", Separator),
            ("..%2fsecret", Separator),
            ("a%5Cb", Separator),
            ("..\\..\\secret", Separator),
            ("\\\\server\\share", Separator),
            ("a%00.txt", Control),
            ("%00", Control),
            ("a%0ab", Control),
            ("a\tb", Control),
            ("%C2%85", Control),
            ("a%", Malformed),
            ("a%2", Malformed),
            ("a%zz", Malformed),
            ("a%+1", Malformed),
            // Overlong forms of "." and "/", and half a character.
            ("%c0%ae%c0%ae/secret", Malformed),
            ("%c0%af", Malformed),
            ("%e2%82", Malformed),
            (".git/config", Hidden),
            (".env", Hidden),
            ("a/.htpasswd", Hidden),
            ("%2eenv", Hidden),
            ("a/.well-known/x", Hidden),
        ] {
            assert_eq!(relative_path(raw.as_bytes(), false), Err(why), "{raw}");
        }
        assert_eq!(relative_path(&[b'a'; MAX_PATH_BYTES + 1], false), Err(PathError::TooLong));
        assert_eq!(relative_path(b".env", true).map(|found| found.path), Ok(".env".to_owned()));
        assert_eq!(relative_path(b".env/..", true), Err(Dots));
    }

    proptest! {
        #[test]
        fn whatever_is_named_is_plain(raw in prop::collection::vec(any::<u8>(), 0..60), hidden: bool) {
            if let Ok(found) = relative_path(&raw, hidden) {
                prop_assert!(!found.path.starts_with('/') && !found.path.ends_with('/'));
                for segment in found.path.split('/').filter(|_| !found.path.is_empty()) {
                    prop_assert!(!matches!(segment, "" | "." | ".."), "{}", found.path);
                    prop_assert!(!segment.contains(['\0', '\\', '\n']), "{}", found.path);
                }
            }
        }
    }
}
