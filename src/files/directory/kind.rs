//! Properties derived from a file's name: its content type, whether it is worth encoding, whether it will
//! ever change.
//!
//! Pure. No file is opened.

use http::HeaderValue;

/// The content type of an unknown name.
const OCTET_STREAM: &str = "application/octet-stream";

/// The content type of a file of this name.
pub(crate) fn content_type(name: &str) -> HeaderValue {
    let kind = media_type(name);
    let text = kind.starts_with("text/");
    let value = if text { HeaderValue::try_from(format!("{kind}; charset=utf-8")) } else { kind.try_into() };
    value.unwrap_or(HeaderValue::from_static(OCTET_STREAM))
}

fn media_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension {
        // Newer than the list of `mime_guess`.
        "webmanifest" => "application/manifest+json",
        "map" => "application/json",
        // RFC 9239.
        "js" | "mjs" => "text/javascript",
        extension => mime_guess::from_ext(extension).first_raw().unwrap_or(OCTET_STREAM),
    }
}

/// Returns true if content of this type may have a compressed form: images, video, audio and archives have
/// none.
pub(crate) fn may_be_encoded(content_type: &HeaderValue) -> bool {
    let value = content_type.to_str().unwrap_or_default().to_ascii_lowercase();
    let kind = value.split(';').next().unwrap_or_default().trim();
    let packed = [
        "application/gzip",
        "application/zip",
        "application/zstd",
        "application/x-7z-compressed",
        "application/x-bzip2",
        "application/x-rar-compressed",
        "application/x-xz",
        "font/woff",
        "font/woff2",
    ];
    match kind.split_once('/') {
        Some(("image", picture)) => matches!(picture, "svg+xml" | "bmp" | "x-icon"),
        Some(("video" | "audio", _)) => false,
        _ => !packed.contains(&kind),
    }
}

/// Returns true if a name holds a hash of the content, as build tools make them: `app.3f2a91bc.js`,
/// `main-0ecb9ed6ce5e7dea.css`, `index-BX3kd9Xa.js`.
///
/// A hash is a part of the name, after a dot or a dash and before the extension, of at least eight letters
/// and digits, with both among them, that is hexadecimal or holds capitals. Dates and version numbers are
/// none.
pub(crate) fn is_hashed(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let Some((stem, _)) = name.rsplit_once('.') else { return false };
    // The part before the first dot or dash is the plain name.
    stem.split(['.', '-']).skip(1).any(is_hash)
}

fn is_hash(part: &str) -> bool {
    let bytes = part.as_bytes();
    let letters = bytes.iter().any(u8::is_ascii_alphabetic);
    let digits = bytes.iter().any(u8::is_ascii_digit);
    let capitals = bytes.iter().any(u8::is_ascii_uppercase);
    let hexadecimal = bytes.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let plain = bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_');
    (8..=64).contains(&bytes.len()) && letters && digits && plain && (hexadecimal || capitals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_the_files_of_a_page() {
        for (name, kind) in [
            ("index.html", "text/html; charset=utf-8"),
            ("a/app.js", "text/javascript; charset=utf-8"),
            ("app.mjs", "text/javascript; charset=utf-8"),
            ("style.css", "text/css; charset=utf-8"),
            ("data.json", "application/json"),
            ("app.js.map", "application/json"),
            ("site.webmanifest", "application/manifest+json"),
            ("module.wasm", "application/wasm"),
            ("logo.svg", "image/svg+xml"),
            ("photo.JPG", "image/jpeg"),
            ("photo.avif", "image/avif"),
            ("photo.webp", "image/webp"),
            ("favicon.ico", "image/x-icon"),
            ("font.woff2", "font/woff2"),
            ("report.pdf", "application/pdf"),
            ("archive.zip", "application/zip"),
            ("film.mp4", "video/mp4"),
            ("robots.txt", "text/plain; charset=utf-8"),
            ("table.csv", "text/csv; charset=utf-8"),
            ("unknown.xyzzy", OCTET_STREAM),
            ("Makefile", OCTET_STREAM),
            ("", OCTET_STREAM),
        ] {
            assert_eq!(content_type(name), kind, "{name}");
        }
    }

    #[test]
    fn what_is_packed_already_has_no_smaller_form() {
        for (kind, may) in [
            ("text/html; charset=utf-8", true),
            ("application/json", true),
            ("image/svg+xml", true),
            ("application/wasm", true),
            ("image/png", false),
            ("Image/PNG", false),
            ("video/mp4", false),
            ("font/woff2", false),
            ("application/zip", false),
        ] {
            assert_eq!(may_be_encoded(&HeaderValue::from_static(kind)), may, "{kind}");
        }
    }

    #[test]
    fn names_with_a_hash() {
        for name in [
            "app.3f2a91bc.js",
            "static/js/main.8a7b6c5d.chunk.js",
            "main-0ecb9ed6ce5e7dea.css",
            "app.55e7cbb9ba48.css",
            "index-BX3kd9Xa.js",
            "assets/index-B_3kd9Xa.css",
            "app-5XCG2YLA.js",
            "chunk.3f2a91bc.js.map",
        ] {
            assert!(is_hashed(name), "{name}");
        }
        for name in [
            "app.js",
            "index.html",
            "report.20240101.pdf",
            "report-20240101.pdf",
            "jquery-3.7.1.min.js",
            "3f2a91bc.js",
            "bootstrap.bundle.min.js",
            "a-deadbeef.js",
            "base64encoder-version2beta.js",
            "3f2a91bc/app.js",
            "app.3f2a91bc",
            "",
        ] {
            assert!(!is_hashed(name), "{name}");
        }
    }
}
