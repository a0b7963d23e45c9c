//! The identity of an answer, and the names of keys in the store.
//!
//! Pure: a request's parts in, texts out. Two requests share a [`CacheKey`] only if they share the namespace, the
//! tenant, the host (if the route is bound to one), the user (scope `user`), the path and the listed query
//! parameters; nothing else of a request is in it. All text from outside is escaped, so that no part can pose
//! as another: `:` separates the parts of a key and never occurs inside one.
//!
//! | key | holds |
//! |---|---|
//! | `<prefix>ver:<namespace>:<tenant>` | the version; the application may write it |
//! | `<prefix><namespace>:<tenant>:<variant>:v<version>` | the answer of one generation |
//! | `<prefix><namespace>:<tenant>:<variant>:last` | the version of the newest answer that was stored |
//! | `<prefix>@<scheme>/<host><path and query>` | an answer as its origin's headers say, or the fields by which it varies |
//! | `<prefix>@<scheme>/<host><path and query>:<digest>` | one variant of it |
//! | `<prefix>lock:` and the name of an answer | the lease of a fill |
//! | `<prefix>event:<id>` | an event that was taken |
//! | `<prefix>purge:log` | the log of purges; the application may add to it |
//! | `<prefix>limit:<route>:<limit>:<client>` | when a client's bucket is empty, in microseconds since 1970 |

use crate::{
    config::{CacheRules, CacheScope},
    http::{authority, canonical_path::normalize_escapes},
    name::{Name, Namespace, Tenant},
};
use bytes::Bytes;
use percent_encoding::{percent_decode_str, utf8_percent_encode, AsciiSet, NON_ALPHANUMERIC};
use sha2::{Digest, Sha256};
use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};
use xxhash_rust::xxh3::xxh3_128;

/// A variant longer than this (bytes) is replaced by its SHA-256.
const LONGEST_VARIANT: usize = 200;

/// All characters except RFC 3986's unreserved ones are escaped in the names and values of a query and in a
/// user.
const WORD: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// A path keeps its `/`; its own escapes are escaped once more, so that `:` and `%3A` stay distinct.
const PATH: &AsciiSet =
    &WORD.remove(b'/').remove(b'!').remove(b'$').remove(b'@').remove(b'+').remove(b',').remove(b'=');

/// A target keeps its `/`, its `?` and the delimiters of a query; its own escapes are escaped once more.
const TARGET: &AsciiSet = &PATH.remove(b'?').remove(b'&').remove(b';').remove(b'*').remove(b'(').remove(b')');

/// The identity of an answer across its generations: `<namespace>:<tenant>:<variant>`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CacheKey(Box<str>);

/// The scheme of a request. An origin that sees it may answer differently, such as with a redirect from one
/// to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RequestScheme {
    /// Without TLS.
    #[default]
    Http,
    /// With TLS.
    Https,
}

impl RequestScheme {
    /// The scheme of a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The parts of a request that may distinguish answers.
#[derive(Debug, Clone, Copy)]
pub struct KeyParts<'a> {
    /// The host, only if the route is bound to one.
    pub host: Option<&'a str>,
    /// The tenant; ignored for scope `public`.
    pub tenant: &'a Tenant,
    /// The user; used for scope `user` only.
    pub user: Option<&'a str>,
    /// The path in its canonical form.
    pub path: &'a str,
    /// The canonical query (see [`canonical_query`]).
    pub query: &'a str,
}

impl CacheKey {
    /// Derives the key. `parts` is destructured completely, so that a new part can't be forgotten here.
    pub fn derive(rules: &CacheRules, parts: KeyParts<'_>) -> Self {
        let mut text = String::with_capacity(96);
        Self::spell(&mut text, rules, parts);
        Self(text.into_boxed_str())
    }

    /// Writes the text of the key that [`Self::derive`] would make into `text`, which is cleared: a look-up
    /// needs no key of its own.
    pub fn spell(text: &mut String, rules: &CacheRules, parts: KeyParts<'_>) {
        let KeyParts { host, tenant, user, path, query } = parts;
        let tenant = tenant_of_scope(rules.scope, tenant);
        text.clear();
        text.push_str(rules.namespace.as_str());
        text.push(':');
        text.push_str(tenant.as_str());
        text.push(':');
        let variant = text.len();
        if rules.scope == CacheScope::User {
            // A user is always marked, so that no user's variant equals one without.
            text.push('~');
            push_escaped(text, user.unwrap_or_default(), WORD);
        }
        if let Some(host) = host {
            // No path begins like this, and in a user it is escaped.
            text.push('@');
            push_escaped(text, host, WORD);
        }
        push_escaped(text, path, PATH);
        if !query.is_empty() {
            text.push('?');
            text.push_str(query);
        }
        if text.len() - variant > LONGEST_VARIANT {
            let digest = Sha256::digest(&text.as_bytes()[variant..]);
            text.truncate(variant);
            text.push('#');
            push_hex(text, &digest);
        }
    }

    /// The key of a resource of an origin that is followed: its scheme, its host and its target as it is
    /// sent. No namespace begins like it.
    pub fn of_resource(scheme: RequestScheme, host: &str, target: &str) -> Self {
        // Usually the exact length.
        let mut text = String::with_capacity(2 + scheme.as_str().len() + host.len() + target.len());
        Self::spell_resource(&mut text, scheme, host, target);
        Self(text.into_boxed_str())
    }

    /// Writes the text of the key that [`Self::of_resource`] would make into `text`, which is cleared.
    pub fn spell_resource(text: &mut String, scheme: RequestScheme, host: &str, target: &str) {
        text.clear();
        text.push('@');
        text.push_str(scheme.as_str());
        text.push('/');
        authority::push_normalized(text, host);
        // Characters of a target that could pose as another part of a key, or as the end of one, are escaped.
        push_escaped(text, &normalize_escapes(target), TARGET);
        if text.len() > LONGEST_VARIANT {
            let digest = Sha256::digest(text.as_bytes());
            text.truncate(1);
            text.push('#');
            push_hex(text, &digest);
        }
    }

    /// The text, without the store's prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for CacheKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The tenant whose version applies to a scope.
pub fn tenant_of_scope(scope: CacheScope, tenant: &Tenant) -> &Tenant {
    match scope {
        CacheScope::Public => Tenant::public(),
        CacheScope::Tenant | CacheScope::User => tenant,
    }
}

/// The listed parameters of a query in the list's order, each with all its values in the order sent, decoded
/// and escaped again: the key holds exactly what the origin is sent.
pub fn canonical_query(listed: &[String], query: &str) -> String {
    let mut canonical = String::new();
    spell_query(&mut canonical, listed, query);
    canonical
}

/// Writes the result of [`canonical_query`] into `canonical`, which is cleared.
pub fn spell_query(canonical: &mut String, listed: &[String], query: &str) {
    canonical.clear();
    for name in listed {
        for (_, value) in query_pairs(query).filter(|(n, _)| *decode_parameter(n) == *name.as_bytes()) {
            if !canonical.is_empty() {
                canonical.push('&');
            }
            push_escaped(canonical, name, WORD);
            canonical.push('=');
            push_escaped_bytes(canonical, &decode_parameter(value));
        }
    }
}

/// A number for a resource, whatever the client, scheme and variant: the target of a purge by URL. `host` and
/// `target` (path and query) are as a request names them. Two resources with one number would only be purged
/// together, as are those that differ in the scheme.
pub fn resource_hash(host: &str, target: &str) -> u128 {
    let mut text = String::with_capacity(host.len() + 1 + target.len());
    authority::push_normalized(&mut text, host);
    text.push('\n');
    text.push_str(&normalize_escapes(target));
    xxh3_128(text.as_bytes())
}

/// The number of parameters in a query.
pub fn count_parameters(query: &str) -> usize {
    query_pairs(query).count()
}

fn query_pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|p| !p.is_empty()).map(|p| p.split_once('=').unwrap_or((p, "")))
}

fn decode_parameter(text: &str) -> Cow<'_, [u8]> {
    if !text.bytes().any(|b| matches!(b, b'+' | b'%')) {
        return text.as_bytes().into();
    }
    let plus_is_space = text.replace('+', " ");
    percent_decode_str(&plus_is_space).collect::<Vec<u8>>().into()
}

fn push_escaped(out: &mut String, text: &str, set: &'static AsciiSet) {
    for piece in utf8_percent_encode(text, set) {
        out.push_str(piece);
    }
}

fn push_escaped_bytes(out: &mut String, bytes: &[u8]) {
    for piece in percent_encoding::percent_encode(bytes, WORD) {
        out.push_str(piece);
    }
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String can't fail.
        write!(out, "{byte:02x}").unwrap_or_default();
    }
}

/// The names of an answer's keys in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorePlace {
    /// The answer itself.
    pub body: String,
    /// The lease of its fill.
    pub lease: String,
    /// The key that leads to it, with its value.
    pub pointer: Option<(String, Bytes)>,
}

/// The names of keys in the store, all under one prefix.
#[derive(Debug, Clone)]
pub struct StoreKeys {
    prefix: Box<str>,
}

impl StoreKeys {
    /// Names under `prefix` (`dash:`).
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    /// The key of the version of a namespace and tenant.
    pub fn version(&self, namespace: &Namespace, tenant: &Tenant) -> String {
        format!("{}ver:{namespace}:{tenant}", self.prefix)
    }

    /// The keys of an answer of one generation; `version` is [`super::coherence::version::Version::tag`].
    pub fn of_version(&self, key: &CacheKey, version: &str) -> StorePlace {
        let name = format!("{}:v{version}", key.as_str());
        let pointer = Some((self.last(key), version.to_owned().into()));
        StorePlace { body: self.of(&name), lease: self.lease(&name), pointer }
    }

    /// The key of the version of the newest stored answer.
    pub fn last(&self, key: &CacheKey) -> String {
        self.of(&format!("{}:last", key.as_str()))
    }

    /// The keys of the answer of a resource, or of the fields by which it varies.
    pub fn of_resource(&self, key: &CacheKey) -> StorePlace {
        StorePlace { body: self.of(key.as_str()), lease: self.lease(key.as_str()), pointer: None }
    }

    /// The keys of a variant of a resource; `varies` is the value of the resource's key then.
    pub fn of_variant(&self, key: &CacheKey, digest: &str, varies: Bytes) -> StorePlace {
        let name = format!("{}:{digest}", key.as_str());
        StorePlace {
            body: self.of(&name),
            lease: self.lease(&name),
            pointer: Some((self.of(key.as_str()), varies)),
        }
    }

    fn of(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn lease(&self, name: &str) -> String {
        format!("{}lock:{name}", self.prefix)
    }

    /// The key of an event that was processed.
    pub fn event(&self, endpoint: &str, id: &str) -> String {
        let mut name = format!("{}event:", self.prefix);
        push_escaped(&mut name, endpoint, WORD);
        name.push(':');
        push_escaped(&mut name, id, WORD);
        name
    }

    /// The key of the purge log. It has a prefix of its own like the other families of keys: reports on keys
    /// that begin with `purge` would include every answer of a namespace `purges`.
    pub fn purge_log(&self) -> String {
        format!("{}purge:log", self.prefix)
    }

    /// The key of a client's bucket of a shared limit. `whose` needs no escaping.
    pub fn limit(&self, route: &Name, limit: &Name, whose: &str) -> String {
        format!("{}limit:{route}:{limit}:{whose}", self.prefix)
    }

    /// The prefixes of the keys that the store is asked to report changes of.
    pub fn tracked(&self) -> [String; 3] {
        ["ver:", "lock:", "purge:"].map(|family| format!("{}{family}", self.prefix))
    }

    /// The channel on which nodes announce the keys that they have changed, if the store does not report
    /// changes.
    pub fn channel(&self) -> String {
        format!("{}changes", self.prefix)
    }

    /// The kind of a reported key.
    pub fn classify_key<'k>(&self, key: &'k str) -> ReportedKey<'k> {
        let Some(rest) = key.strip_prefix(&*self.prefix) else { return ReportedKey::Foreign };
        if let Some(version) = rest.strip_prefix("ver:") {
            return match version.split_once(':') {
                Some((namespace, tenant)) => ReportedKey::Version { namespace, tenant },
                None => ReportedKey::Foreign,
            };
        }
        match rest {
            "purge:log" => ReportedKey::PurgeLog,
            _ if rest.starts_with("lock:") => ReportedKey::Lease,
            _ => ReportedKey::Foreign,
        }
    }
}

/// A key that the store reported as changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportedKey<'k> {
    /// The version of this namespace and tenant.
    Version {
        /// The namespace.
        namespace: &'k str,
        /// The tenant.
        tenant: &'k str,
    },
    /// A lease.
    Lease,
    /// The log of purges.
    PurgeLog,
    /// A key of another application.
    Foreign,
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
