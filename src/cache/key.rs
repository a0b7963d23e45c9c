//! What tells one answer from another, and the names under which the store keeps it.
//!
//! Pure: a request's parts in, texts out. Two requests share a [`Key`] only if they share the namespace, the
//! tenant, the host (where the route is bound to one), the user (scope `user`), the path and the listed query
//! parameters; nothing else of a request enters. All text from outside is escaped, so that no part can pose as
//! another: `:` separates the parts of a key and never stands inside one.
//!
//! | key | holds |
//! |---|---|
//! | `<prefix>ver:<namespace>:<tenant>` | the version; the application may write it |
//! | `<prefix><namespace>:<tenant>:<variant>:v<version>` | the answer of one generation |
//! | `<prefix><namespace>:<tenant>:<variant>:last` | the version of the newest answer that was stored |
//! | `<prefix>lock:<namespace>:<tenant>:<variant>:v<version>` | the lease of a fill |
//! | `<prefix>event:<id>` | an event that was taken |

use crate::{
    config::{CacheRules, Scope},
    name::{Namespace, Tenant},
};
use percent_encoding::{percent_decode_str, utf8_percent_encode, AsciiSet, NON_ALPHANUMERIC};
use sha2::{Digest, Sha256};
use std::fmt::{self, Write as _};

/// A variant longer than this (bytes) is replaced by its SHA-256.
const LONGEST_VARIANT: usize = 200;

/// Everything but RFC 3986's unreserved characters is escaped inside a query's names and values and a user.
const WORD: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// A path keeps its `/`; its own escapes are escaped once more, so that `:` and `%3A` stay apart.
const PATH: &AsciiSet =
    &WORD.remove(b'/').remove(b'!').remove(b'$').remove(b'@').remove(b'+').remove(b',').remove(b'=');

/// The identity of an answer across its generations: `<namespace>:<tenant>:<variant>`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<str>);

/// The parts of a request that may tell answers apart.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The host, only where the route is bound to one.
    pub host: Option<&'a str>,
    /// The tenant; ignored for scope `public`.
    pub tenant: &'a Tenant,
    /// The user; used for scope `user` only.
    pub user: Option<&'a str>,
    /// The path as it was sent.
    pub path: &'a str,
    /// The canonical query (see [`canonical_query`]).
    pub query: &'a str,
}

impl Key {
    /// Derives the key. `parts` is taken apart completely, so that a new part can't be forgotten here.
    pub fn derive(rules: &CacheRules, parts: Parts<'_>) -> Self {
        let Parts { host, tenant, user, path, query } = parts;
        let tenant = whose(rules.scope, tenant);
        let mut text = String::with_capacity(96);
        text.push_str(rules.namespace.as_str());
        text.push(':');
        text.push_str(tenant.as_str());
        text.push(':');
        let variant = text.len();
        if rules.scope == Scope::User {
            // A user always leaves its mark, so that no user's variant equals one without.
            text.push('~');
            push_escaped(&mut text, user.unwrap_or_default(), WORD);
        }
        if let Some(host) = host {
            // No path begins like this, and in a user it is escaped.
            text.push('@');
            push_escaped(&mut text, host, WORD);
        }
        push_escaped(&mut text, path, PATH);
        if !query.is_empty() {
            text.push('?');
            text.push_str(query);
        }
        if text.len() - variant > LONGEST_VARIANT {
            let digest = Sha256::digest(&text.as_bytes()[variant..]);
            text.truncate(variant);
            text.push('#');
            push_hex(&mut text, &digest);
        }
        Self(text.into_boxed_str())
    }

    /// The text, without the store's prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The tenant whose version counts for a scope.
pub fn whose(scope: Scope, tenant: &Tenant) -> &Tenant {
    match scope {
        Scope::Public => Tenant::public(),
        Scope::Tenant | Scope::User => tenant,
    }
}

/// The listed parameters of a query in the list's order, each with all its values in the order sent, decoded
/// and escaped anew: what enters the key is exactly what the origin is asked.
pub fn canonical_query(listed: &[String], query: &str) -> String {
    let mut canonical = String::new();
    for name in listed {
        for (_, value) in pairs(query).filter(|(n, _)| decode(n) == name.as_bytes()) {
            if !canonical.is_empty() {
                canonical.push('&');
            }
            push_escaped(&mut canonical, name, WORD);
            canonical.push('=');
            push_escaped_bytes(&mut canonical, &decode(value));
        }
    }
    canonical
}

/// How many parameters a query has.
pub fn count_parameters(query: &str) -> usize {
    pairs(query).count()
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|p| !p.is_empty()).map(|p| p.split_once('=').unwrap_or((p, "")))
}

fn decode(text: &str) -> Vec<u8> {
    let plus_is_space = text.replace('+', " ");
    percent_decode_str(&plus_is_space).collect()
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

/// The names of keys in the store, all under one prefix.
#[derive(Debug, Clone)]
pub struct Names {
    prefix: Box<str>,
}

impl Names {
    /// Names under `prefix` (`dash:`).
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    /// Where the version of a namespace and tenant stands.
    pub fn version(&self, namespace: &Namespace, tenant: &Tenant) -> String {
        format!("{}ver:{namespace}:{tenant}", self.prefix)
    }

    /// Where the answer of one generation stands; `version` is [`super::version::Version::tag`].
    pub fn body(&self, key: &Key, version: &str) -> String {
        format!("{}{}:v{version}", self.prefix, key.as_str())
    }

    /// Where the version of the newest stored answer stands.
    pub fn last(&self, key: &Key) -> String {
        format!("{}{}:last", self.prefix, key.as_str())
    }

    /// Where the lease of a fill stands.
    pub fn lease(&self, key: &Key, version: &str) -> String {
        format!("{}lock:{}:v{version}", self.prefix, key.as_str())
    }

    /// Where an event that was taken is remembered.
    pub fn event(&self, endpoint: &str, id: &str) -> String {
        let mut name = format!("{}event:", self.prefix);
        push_escaped(&mut name, endpoint, WORD);
        name.push(':');
        push_escaped(&mut name, id, WORD);
        name
    }

    /// The prefixes whose keys the store is asked to report on.
    pub fn tracked(&self) -> [String; 2] {
        [format!("{}ver:", self.prefix), format!("{}lock:", self.prefix)]
    }

    /// What a reported key is.
    pub fn recognise<'k>(&self, key: &'k str) -> Reported<'k> {
        let Some(rest) = key.strip_prefix(&*self.prefix) else { return Reported::Foreign };
        if let Some(version) = rest.strip_prefix("ver:") {
            return match version.split_once(':') {
                Some((namespace, tenant)) => Reported::Version { namespace, tenant },
                None => Reported::Foreign,
            };
        }
        match rest.starts_with("lock:") {
            true => Reported::Lease,
            false => Reported::Foreign,
        }
    }
}

/// A key that the store reported as changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported<'k> {
    /// The version of this namespace and tenant.
    Version {
        /// The namespace.
        namespace: &'k str,
        /// The tenant.
        tenant: &'k str,
    },
    /// A lease.
    Lease,
    /// Nothing of ours.
    Foreign,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn rules(scope: Scope, query: &[&str]) -> CacheRules {
        CacheRules {
            namespace: "kpi".parse().unwrap(),
            scope,
            ttl: Duration::from_secs(20),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            query: query.iter().map(|q| q.to_string()).collect(),
            negative_ttl: Duration::ZERO,
            max_size: 1 << 20,
            fill_timeout: Duration::from_secs(30),
            cache_control: None,
        }
    }

    fn key(rules: &CacheRules, tenant: &str, user: Option<&str>, path: &str, query: &str) -> Key {
        let tenant = tenant.parse().unwrap();
        let query = canonical_query(&rules.query, query);
        Key::derive(rules, Parts { host: None, tenant: &tenant, user, path, query: &query })
    }

    #[test]
    fn keys_are_as_the_application_knows_them() {
        let names = Names::new("dash:");
        let (kpi, acme) = ("kpi".parse().unwrap(), "acme".parse().unwrap());
        assert_eq!(names.version(&kpi, &acme), "dash:ver:kpi:acme");
        let key = key(&rules(Scope::Tenant, &["hours"]), "acme", None, "/api/widgets/kpi", "x=1&hours=24");
        assert_eq!(names.body(&key, "7"), "dash:kpi:acme:/api/widgets/kpi?hours=24:v7");
        assert_eq!(names.lease(&key, "7"), "dash:lock:kpi:acme:/api/widgets/kpi?hours=24:v7");
        assert_eq!(
            names.recognise("dash:ver:kpi:acme"),
            Reported::Version { namespace: "kpi", tenant: "acme" }
        );
        assert_eq!(names.recognise("dash:lock:kpi:acme:/x:v1"), Reported::Lease);
        assert_eq!(names.recognise("other:ver:kpi:acme"), Reported::Foreign);
    }

    #[test]
    fn a_public_scope_ignores_the_tenant_and_a_user_scope_never_meets_another() {
        let public = rules(Scope::Public, &[]);
        assert_eq!(key(&public, "acme", Some("a"), "/p", ""), key(&public, "globex", None, "/p", ""));
        let user = rules(Scope::User, &[]);
        let tenant = rules(Scope::Tenant, &[]);
        assert_ne!(key(&user, "acme", None, "/p", ""), key(&tenant, "acme", None, "/p", ""));
        assert_ne!(key(&user, "acme", Some("a"), "/p", ""), key(&user, "acme", Some("a/p"), "", ""));
    }

    #[test]
    fn a_path_cannot_pose_as_a_host() {
        let rules = rules(Scope::Public, &[]);
        let of = |host, path| {
            Key::derive(&rules, Parts { host, tenant: Tenant::public(), user: None, path, query: "" })
        };
        assert_ne!(of(Some("a.example"), "/pub/x"), of(None, "//a.example/pub/x"));
        assert_ne!(of(Some("a.example"), "/pub/x"), of(None, "/@a.example/pub/x"));
        assert_ne!(of(Some("a.example"), "/pub/x"), of(Some("b.example"), "/pub/x"));
    }

    #[test]
    fn long_variants_are_hashed_and_stay_apart() {
        let rules = rules(Scope::Tenant, &["q"]);
        let long = |c: &str| key(&rules, "acme", None, "/p", &format!("q={}", c.repeat(5_000)));
        assert_ne!(long("a"), long("b"));
        assert!(long("a").as_str().len() < 100);
    }

    type Asked = (String, Option<String>, String, Vec<(String, String)>);

    fn asked() -> impl Strategy<Value = Asked> {
        let word = "[a-b:/%?&=~# é\\x00v1]{0,6}";
        (
            "[ab.-]{1,3}",
            proptest::option::of(word),
            "/[a-b:%?v/#3A]{0,8}",
            proptest::collection::vec(("[hx]", word), 0..4),
        )
    }

    fn query_of(pairs: &[(String, String)]) -> String {
        let escape = |t: &str| percent_encoding::percent_encode(t.as_bytes(), WORD).to_string();
        pairs.iter().map(|(n, v)| format!("{}={}", escape(n), escape(v))).collect::<Vec<_>>().join("&")
    }

    proptest! {
        #[test]
        fn different_askers_never_share_a_key(a in asked(), b in asked(), scope in 0..3_usize) {
            let scope = [Scope::Public, Scope::Tenant, Scope::User][scope];
            let rules = rules(scope, &["h"]);
            let listed = |x: &Asked| x.3.iter().filter(|(n, _)| n == "h").cloned().collect::<Vec<_>>();
            let same = (scope == Scope::Public || a.0 == b.0)
                && (scope != Scope::User || a.1.as_deref().unwrap_or("") == b.1.as_deref().unwrap_or(""))
                && a.2 == b.2
                && listed(&a) == listed(&b);
            let of = |x: &Asked| key(&rules, &x.0, x.1.as_deref(), &x.2, &query_of(&x.3));
            // `?` and `#` can't stand in a path that was parsed; here they must not confuse it either.
            prop_assert_eq!(of(&a) == of(&b), same, "{:?} {:?}", of(&a), of(&b));
        }

        #[test]
        fn only_listed_parameters_count(path in "/[a-z]{1,5}", hours in 0..99_u8, junk in "[a-gi-z=&%+]{0,40}") {
            let rules = rules(Scope::Tenant, &["hours"]);
            let plain = key(&rules, "acme", None, &path, &format!("hours={hours}"));
            prop_assert_eq!(&plain, &key(&rules, "acme", None, &path, &format!("{junk}&hours={hours}&{junk}")));
            prop_assert_eq!(&plain, &key(&rules, "acme", None, &path, &format!("hour%73={hours}")));
        }

        #[test]
        fn generations_and_leases_are_different_names(version in "[0-9]{1,5}", other in "[0-9]{1,5}") {
            let names = Names::new("dash:");
            let key = key(&rules(Scope::Tenant, &[]), "acme", None, "/p", "");
            prop_assert_eq!(names.body(&key, &version) == names.body(&key, &other), version == other);
            prop_assert_ne!(names.body(&key, &version), names.lease(&key, &version));
        }

        #[test]
        fn event_ids_never_meet(a in "[a-c:%/]{1,6}", b in "[a-c:%/]{1,6}") {
            let names = Names::new("dash:");
            prop_assert_eq!(names.event("/e", &a) == names.event("/e", &b), a == b);
            prop_assert_ne!(names.event("/e", &a), names.event("/f", &a));
        }
    }
}
