//! Content codings: the choice for a client (RFC 9110, 12.5.3), the decision whether a body is worth
//! encoding, and the encoding itself.
//!
//! Negotiation is pure and allocates nothing. Nothing here knows where an encoded body is kept.

pub mod stream;
pub mod transform;
use super::body::Body;
use crate::{
    config::{ContentCoding, EncodingConfig},
    http::field_lines::joined_lines,
};
use stream::Encoder;

use bytes::Bytes;
use http::{header, HeaderMap, HeaderValue};
use std::io;

/// The result of the negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodingChoice {
    /// This coding.
    Coding(ContentCoding),
    /// The content as it is.
    Identity,
    /// No available coding is acceptable. The content is sent as it is all the same: RFC 9110 prefers that to
    /// a 406.
    NotAcceptable,
}

impl CodingChoice {
    /// The coding to send, if any.
    pub const fn coding(self) -> Option<ContentCoding> {
        match self {
            Self::Coding(coding) => Some(coding),
            Self::Identity | Self::NotAcceptable => None,
        }
    }
}

impl ContentCoding {
    /// The suffix that the tag of the encoded content adds to that of the plain one: `"abc"` → `"abc-br"`.
    pub const fn etag_suffix(self) -> &'static str {
        match self {
            Self::Brotli => "-br",
            Self::Zstd => "-zstd",
            Self::Gzip => "-gzip",
        }
    }

    /// RFC 9110, 8.4.1: names are case-insensitive, and `x-gzip` is `gzip`.
    pub(crate) fn of_token(token: &[u8]) -> Option<Self> {
        let named =
            Self::ALL.iter().copied().find(|coding| token.eq_ignore_ascii_case(coding.token().as_bytes()));
        named.or_else(|| token.eq_ignore_ascii_case(b"x-gzip").then_some(Self::Gzip))
    }
}

/// Chooses among the codings in `prefer` for which `has` is true, and identity.
///
/// The highest weight wins; at equal weights an earlier coding in `prefer`, and any coding before identity.
/// `accept_encoding` is all values of the header joined by commas. Without the header the content goes out as
/// it is: such a client may know no coding.
pub fn negotiate_coding(
    accept_encoding: Option<&[u8]>,
    prefer: &[ContentCoding],
    has: impl Fn(ContentCoding) -> bool,
) -> CodingChoice {
    let Some(value) = accept_encoding else { return CodingChoice::Identity };
    let accepted = AcceptedWeights::of(value);
    let mut best: Option<(QualityValue, ContentCoding)> = None;
    for &coding in prefer {
        let weight = accepted.weight(coding);
        if weight > best.map_or(0, |(weight, _)| weight) && has(coding) {
            best = Some((weight, coding));
        }
    }
    let identity = accepted.identity.or(accepted.any);
    match best {
        Some((weight, coding)) if identity.is_none_or(|identity| identity <= weight) => {
            CodingChoice::Coding(coding)
        }
        None if identity == Some(0) => CodingChoice::NotAcceptable,
        _ => CodingChoice::Identity,
    }
}

/// The codings in `prefer` that a client accepts, by its preference; without those of a lower weight than
/// identity.
pub fn rank_codings(
    accept_encoding: Option<&[u8]>,
    prefer: &[ContentCoding],
) -> [Option<ContentCoding>; ContentCoding::ALL.len()] {
    let mut ranked = [None; ContentCoding::ALL.len()];
    for place in 0..ranked.len() {
        let next = negotiate_coding(accept_encoding, prefer, |coding| !ranked.contains(&Some(coding)));
        ranked[place] = next.coding();
    }
    ranked
}

/// Returns true if `accept_encoding` (all values of the header joined by commas) accepts `coding` at all.
pub(crate) fn accepts_coding(accept_encoding: &[u8], coding: ContentCoding) -> bool {
    AcceptedWeights::of(accept_encoding).weight(coding) > 0
}

/// Returns true if it accepts identity.
pub(crate) fn accepts_identity(accept_encoding: &[u8]) -> bool {
    let accepted = AcceptedWeights::of(accept_encoding);
    accepted.identity.or(accepted.any) != Some(0)
}

/// `Accept-Encoding` for the origin: the known codings that the client accepts, so that the answer can be
/// recognised and recoded; `None` if the client has no such field.
pub fn offered_codings(headers: &HeaderMap) -> Option<HeaderValue> {
    let accepted = joined_lines(headers, &header::ACCEPT_ENCODING)?;
    let accepted = AcceptedWeights::of(&accepted);
    let names: Vec<_> =
        ContentCoding::ALL.iter().filter(|coding| accepted.weight(**coding) > 0).map(|c| c.token()).collect();
    let text = if names.is_empty() { "identity".to_owned() } else { names.join(", ") };
    HeaderValue::try_from(text).ok()
}

/// A q-value in thousandths.
type QualityValue = u16;

/// The weights in `Accept-Encoding`; `None`: not mentioned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct AcceptedWeights {
    codings: [Option<QualityValue>; ContentCoding::ALL.len()],
    identity: Option<QualityValue>,
    any: Option<QualityValue>,
}

impl AcceptedWeights {
    fn of(value: &[u8]) -> Self {
        Self::common(value).unwrap_or_else(|| Self::parsed(value))
    }

    /// Recognises the values that browsers and the usual HTTP libraries send, by comparison alone.
    fn common(value: &[u8]) -> Option<Self> {
        let codings: &[ContentCoding] = match value {
            b"gzip, deflate, br, zstd" => &[ContentCoding::Brotli, ContentCoding::Zstd, ContentCoding::Gzip],
            b"gzip, deflate, br" => &[ContentCoding::Brotli, ContentCoding::Gzip],
            b"gzip, deflate" | b"gzip" => &[ContentCoding::Gzip],
            b"br" => &[ContentCoding::Brotli],
            b"zstd" => &[ContentCoding::Zstd],
            b"identity" | b"" => &[],
            _ => return None,
        };
        let mut accepted = Self::default();
        for &coding in codings {
            accepted.codings[coding as usize] = Some(1000);
        }
        if value == b"identity" {
            accepted.identity = Some(1000);
        }
        Some(accepted)
    }

    /// Parses a value. Malformed members are skipped; of several mentions of one coding the first counts.
    fn parsed(value: &[u8]) -> Self {
        let mut accepted = Self::default();
        for (name, weight) in value.split(|&b| b == b',').filter_map(parse_member) {
            let place = if let Some(coding) = ContentCoding::of_token(name) {
                &mut accepted.codings[coding as usize]
            } else if name == b"*" {
                &mut accepted.any
            } else if name.eq_ignore_ascii_case(b"identity") {
                &mut accepted.identity
            } else {
                continue;
            };
            place.get_or_insert(weight);
        }
        accepted
    }

    fn weight(&self, coding: ContentCoding) -> QualityValue {
        self.codings[coding as usize].or(self.any).unwrap_or(0)
    }
}

/// `codings [ OWS ";" OWS "q=" qvalue ]`
fn parse_member(text: &[u8]) -> Option<(&[u8], QualityValue)> {
    let Some(semicolon) = text.iter().position(|&b| b == b';') else {
        return Some((text.trim_ascii(), 1000));
    };
    let (name, parameter) = text.split_at(semicolon);
    let [b'q' | b'Q', b'=', value @ ..] = parameter[1..].trim_ascii() else { return None };
    Some((name.trim_ascii(), parse_weight(value)?))
}

/// `qvalue = ( "0" [ "." 0*3DIGIT ] ) / ( "1" [ "." 0*3("0") ] )`
fn parse_weight(value: &[u8]) -> Option<QualityValue> {
    let (&whole, rest) = value.split_first()?;
    let digits = match rest {
        [] => &[][..],
        [b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => digits,
        _ => return None,
    };
    let thousandths = digits
        .iter()
        .zip([100, 10, 1])
        .map(|(digit, place)| QualityValue::from(digit - b'0') * place)
        .sum::<QualityValue>();
    match whole {
        b'0' => Some(thousandths),
        b'1' if thousandths == 0 => Some(1000),
        _ => None,
    }
}

/// Returns true if a body of `len` bytes should be offered encoded: its type is one of `rules.types`, it is
/// long enough, not yet encoded, and its transformation is allowed (no `Cache-Control: no-transform`, RFC
/// 9110, 7.7).
pub fn is_worth_encoding(
    rules: &EncodingConfig,
    content_type: Option<&[u8]>,
    has_content_encoding: bool,
    no_transform: bool,
    len: u64,
) -> bool {
    if has_content_encoding || no_transform || len < rules.min_size {
        return false;
    }
    let Some(essence) = content_type.and_then(|value| value.split(|&b| b == b';').next()) else {
        return false;
    };
    let essence = essence.trim_ascii();
    let is_listed = |listed: &String| is_same_type(listed.as_bytes(), essence);
    // Like nginx, where text/html is always one of gzip_types.
    let is_page = || !rules.types.is_empty() && essence.eq_ignore_ascii_case(b"text/html");
    rules.types.iter().any(is_listed) || is_page()
}

/// Compares media types; those of scripts are aliases of one (RFC 9239, 6).
fn is_same_type(a: &[u8], b: &[u8]) -> bool {
    const SCRIPT: [&[u8]; 5] = [
        b"text/javascript",
        b"application/javascript",
        b"application/x-javascript",
        b"text/ecmascript",
        b"application/ecmascript",
    ];
    let is_script = |kind: &[u8]| SCRIPT.iter().any(|script| kind.eq_ignore_ascii_case(script));
    a.eq_ignore_ascii_case(b) || is_script(a) && is_script(b)
}

/// Encodes `body`; `None` if that doesn't make it shorter. `level` is the coding's own, clamped to its range.
/// Takes CPU time in proportion to the body: not for a thread that serves requests.
///
/// # Errors
/// The encoder's error, such as a lack of memory.
pub fn encode_body(coding: ContentCoding, level: i32, body: &Body) -> io::Result<Option<Body>> {
    /// The size in bytes of the pieces in which an encoded body is kept; nearly all bodies are smaller.
    const KEPT: usize = 1 << 20;
    // The boxed slice returns the encoder's spare capacity: entries live long and are weighed by their
    // length.
    let tight = |made: Vec<u8>| Bytes::from(made.into_boxed_slice());
    let mut encoder = Encoder::new(coding, level, Some(body.len()))?;
    let mut kept = vec![];
    for piece in body.pieces().flat_map(|piece| piece.chunks(KEPT)) {
        encoder.write(piece)?;
        if encoder.made().len() >= KEPT {
            kept.push(tight(std::mem::take(encoder.made())));
        }
    }
    kept.push(tight(encoder.finish()?.into()));
    let encoded = Body::from_pieces(kept);
    Ok((encoded.len() < body.len()).then_some(encoded))
}

/// The level of a coding.
pub fn coding_level(rules: &EncodingConfig, coding: ContentCoding) -> i32 {
    rules.levels.get(&coding).copied().unwrap_or(5)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
