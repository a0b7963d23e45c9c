//! Purge orders: a URL, a tag or everything; hard or soft.
//!
//! Pure: texts in, orders out, and back into the fields of a record of the log. A URL stands for all variants
//! of the resource, whatever its scheme: one answer may be cached for `http` and `https`. Its host, path and
//! query are normalized (RFC 3986, 6.2.2). Tags are those in `Cache-Tag` and `Surrogate-Key` of an answer,
//! case-sensitive.
//!
//! The size of a record is limited, because any client with an unsafe method can cause one. A longer URL is
//! recorded as a digest of its resource.

use crate::{
    cache::key,
    http::{
        authority,
        canonical_path::{normalize_escapes, with_one_leading_slash},
    },
};
use http::HeaderMap;
use std::{borrow::Cow, fmt, str::FromStr};
use xxhash_rust::xxh3::Xxh3;

/// The longest tag (bytes).
pub const LONGEST_TAG: usize = 1_024;
/// The most tags of one answer.
pub const MOST_TAGS: usize = 1_024;
/// The most bytes of the tags of one answer together.
const MOST_TAG_BYTES: usize = 16 * 1_024;
/// The longest host and target, in bytes, that are recorded as they are.
const LONGEST_URL: usize = 128;

/// The target of a purge.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PurgeTarget {
    /// All variants of a resource.
    Url {
        /// The host, in the form of [`authority::normalize`].
        host: Box<str>,
        /// The path and the query, in the form of [`normalize_escapes`], with one slash at the beginning.
        target: Box<str>,
    },
    /// All variants of a resource, by the number of [`key::resource_hash`].
    Resource(u128),
    /// Every answer with this tag.
    Tag(Box<str>),
    /// Everything.
    All,
}

/// A purge that was ordered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PurgeOrder {
    /// Its target.
    pub target: PurgeTarget,
    /// True if the answers become stale (they may be validated, and served on an error); false if they are
    /// removed.
    pub soft: bool,
}

/// The reason why a text is no order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PurgeRefusal {
    /// Not `http://…` or `https://…`.
    #[error("a URL has to begin with http:// or https://")]
    Relative,
    /// No host, or user information.
    #[error("a URL needs a host, and no user or password")]
    Host,
    /// Characters that are not allowed in a request target.
    #[error(
        "a URL has no blanks, no control characters and nothing but ASCII: escape them as the client does"
    )]
    Characters,
    /// An empty tag, one that is too long, or one that no answer can have.
    #[error("a tag has 1 to 1,024 bytes, no control characters, no blanks around it")]
    Tag,
    /// A malformed digest.
    #[error("the digest of a resource has 32 hexadecimal digits")]
    Digest,
    /// A record of an unknown kind.
    #[error("the kind of a purge is url, resource, tag or all")]
    Kind,
}

impl PurgeTarget {
    /// The resource `target` (path and query) of `host`, as a request names them.
    pub fn of(host: &str, target: &str) -> Self {
        let target = normalize_escapes(with_one_leading_slash(target)).into();
        Self::Url { host: authority::normalize(host).into(), target }
    }

    /// The resource at an absolute URL. A fragment is ignored.
    ///
    /// # Errors
    /// If it is no such URL.
    pub fn url(text: &str) -> Result<Self, PurgeRefusal> {
        let (scheme, rest) = text.split_once("://").ok_or(PurgeRefusal::Relative)?;
        if !["http", "https"].iter().any(|s| scheme.eq_ignore_ascii_case(s)) {
            return Err(PurgeRefusal::Relative);
        }
        if !rest.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(PurgeRefusal::Characters);
        }
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (host, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority::normalize(host).is_empty() || host.starts_with(':') || host.contains('@') {
            return Err(PurgeRefusal::Host);
        }
        // A client sends a URL without a path with the path `/`.
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self::of(host, &format!("{slash}{target}")))
    }

    /// The answers with this tag.
    ///
    /// # Errors
    /// If no answer can have it.
    pub fn tag(text: &str) -> Result<Self, PurgeRefusal> {
        match is_tag(text) && text == text.trim() {
            true => Ok(Self::Tag(text.into())),
            false => Err(PurgeRefusal::Tag),
        }
    }
}

impl PurgeOrder {
    /// A purge that removes its target.
    pub fn hard(target: PurgeTarget) -> Self {
        Self { target, soft: false }
    }

    /// The same in few bytes: a long URL becomes a digest.
    pub fn bounded(self) -> Self {
        let target = match self.target {
            PurgeTarget::Url { host, target } if host.len() + target.len() > LONGEST_URL => {
                PurgeTarget::Resource(key::resource_hash(&host, &target))
            }
            other => other,
        };
        Self { target, ..self }
    }

    /// The fields `k`, `v` and `soft` of its record in the log.
    pub fn fields(&self) -> [(&'static str, String); 3] {
        let (kind, value) = match &self.target {
            PurgeTarget::Resource(digest) => ("resource", format!("{digest:032x}")),
            PurgeTarget::Url { host, target } => ("url", format!("http://{host}{target}")),
            PurgeTarget::Tag(tag) => ("tag", tag.to_string()),
            PurgeTarget::All => ("all", String::new()),
        };
        [("k", kind.to_owned()), ("v", value), ("soft", u8::from(self.soft).to_string())]
    }

    /// Reads a record of the log; `None`: it is the beginning of a log. Any value of `soft` but `1` means
    /// hard: purging too much costs a fill, purging too little is wrong.
    ///
    /// # Errors
    /// If the order is unknown.
    pub fn read(fields: &[(String, String)]) -> Result<Option<Self>, PurgeRefusal> {
        let field = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let value = field("v").unwrap_or_default();
        let target = match field("k") {
            Some("url") => PurgeTarget::url(value)?,
            Some("resource") => PurgeTarget::Resource(digest(value)?),
            Some("tag") => PurgeTarget::tag(value)?,
            Some("all") => PurgeTarget::All,
            Some(BEGINNING) => return Ok(None),
            _ => return Err(PurgeRefusal::Kind),
        };
        Ok(Some(Self { target, soft: field("soft") == Some("1") }))
    }
}

/// The kind of a record without an order. An empty log is begun with one, so that its absence shows later
/// that the log was lost.
const BEGINNING: &str = "begin";

/// The fields of the record that begins a log; `nonce` makes it different from that of any earlier log.
pub fn beginning(nonce: u64) -> [(&'static str, String); 2] {
    [("k", BEGINNING.to_owned()), ("v", format!("{nonce:016x}"))]
}

fn digest(text: &str) -> Result<u128, PurgeRefusal> {
    let is_hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|_| is_hex).ok_or(PurgeRefusal::Digest)
}

fn is_tag(text: &str) -> bool {
    (1..=LONGEST_TAG).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The tags of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnswerTags<'a> {
    /// Each once, sorted; at most [`MOST_TAGS`].
    pub kept: Vec<Cow<'a, str>>,
    /// The number of tags that were too long, too many or no text. A purge of them would not find the answer.
    pub ignored: usize,
}

/// Reads `Cache-Tag` (separated by commas) and `Surrogate-Key` (by blanks). Text that is not UTF-8 is taken
/// as ISO 8859-1.
pub fn tags_of(headers: &HeaderMap) -> AnswerTags<'_> {
    let mut all: Vec<Cow<'_, str>> = Vec::new();
    for (name, separator) in [("cache-tag", b','), ("surrogate-key", b' ')] {
        for value in headers.get_all(name) {
            let tags = value.as_bytes().split(|byte| *byte == separator).map(<[u8]>::trim_ascii);
            all.extend(tags.filter(|tag| !tag.is_empty()).map(text_of));
        }
    }
    all.sort_unstable();
    all.dedup();
    let (count, mut bytes) = (all.len(), 0);
    all.retain(|tag| {
        bytes += tag.len();
        is_tag(tag) && bytes <= MOST_TAG_BYTES
    });
    all.truncate(MOST_TAGS);
    AnswerTags { ignored: count - all.len(), kept: all }
}

fn text_of(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect::<String>().into(),
    }
}

/// The name of a record of the log: its number in the stream, which rises, and a hash of its content. A log
/// that was lost and begun anew may use a number again, for another record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordId {
    ms: u64,
    seq: u64,
    print: u64,
}

/// The text is no name of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no name of a record of the log")]
pub struct InvalidRecordId;

impl RecordId {
    /// The name of a record with this number (`<ms>-<seq>`) and these fields and values, in the order of the
    /// log.
    ///
    /// # Errors
    /// If that is no number of a record.
    pub fn new(number: &str, words: &[impl AsRef<[u8]>]) -> Result<Self, InvalidRecordId> {
        let (ms, seq) = number.split_once('-').ok_or(InvalidRecordId)?;
        let mut print = Xxh3::new();
        for word in words.iter().map(AsRef::as_ref) {
            print.update(&word.len().to_le_bytes());
            print.update(word);
        }
        let [ms, seq] = [ms, seq].map(|part| part.parse().map_err(|_| InvalidRecordId));
        Ok(Self { ms: ms?, seq: seq?, print: print.digest() })
    }

    /// The number in the stream.
    pub fn number(self) -> String {
        format!("{}-{}", self.ms, self.seq)
    }
}

impl FromStr for RecordId {
    type Err = InvalidRecordId;

    fn from_str(text: &str) -> Result<Self, InvalidRecordId> {
        let (number, print) = text.rsplit_once('-').ok_or(InvalidRecordId)?;
        let print = u64::from_str_radix(print, 16).map_err(|_| InvalidRecordId)?;
        Ok(Self { print, ..Self::new(number, &[""; 0])? })
    }
}

/// The form in a stored answer, which names the record after which it was filled; `from_str` reads it.
impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{:x}", self.ms, self.seq, self.print)
    }
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
