//! What the file may say: every table, its keys and their types, in one declaration that makes the reader,
//! the list of known keys and (with the test beside `docs/configuration.md`) the documentation's
//! completeness.
//!
//! Values are read one by one here. Defaults, references and combinations are decided in `check`.

use super::{
    fault::Report,
    read::{entries, field, later, mismatch, text, At, Field, OneOrMany, Place, Read, Size},
    types::{Auth, Coding, LogFormat, PathPattern, Scope},
};
use crate::name::Name;
use jsonwebtoken::Algorithm;
use std::{net::SocketAddr, time::Duration};
use toml::de::DeValue;

/// Declares the tables: a struct of [`Field`]s each, read key by key. `later` lists keys of the contract that
/// this version refuses.
macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident $title:literal { $($key:ident: $type:ty),* } later { $($later:ident),* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Default)]
            pub(super) struct $name { $(pub(super) $key: Field<$type>),* }

            impl $name {
                const KEYS: &'static [&'static str] = &[$(stringify!($key),)* $(stringify!($later),)*];
            }

            impl Read for $name {
                fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
                    let table = entries(value, Self::KEYS, place, report)?;
                    $(later(table, stringify!($later), place, report);)*
                    Some(Self { $($key: field(table, stringify!($key), place, report)),* })
                }
            }
        )*

        /// Every table's title in the documentation, and its known keys.
        #[cfg(test)]
        pub(super) const TABLES: &[(&str, &[&str])] = &[$(($title, $name::KEYS)),*];
    };
}

tables! {
    File "The tables" {
        server: Server, listener: Vec<At<Listener>>, admin: Admin, log: Log, store: Store, jwt: Jwt,
        origin: Vec<At<Origin>>, route: Vec<At<Route>>, event: Vec<At<Event>>, encoding: Encoding
    } later { accel }

    Server "`[server]`" {
        threads: u32, drain: Duration, keepalive: Duration, keepalive_requests: u32
    } later {}

    Listener "`[[listener]]`" { address: SocketAddr } later { certificates, redirect_to_https }

    Admin "`[admin]`" { address: SocketAddr } later {}

    Log "`[log]`" { format: LogFormat, access: bool } later {}

    Store "`[store]`" {
        redis: OneOrManyUrls, prefix: Prefix, memory: Size, deadline: Duration, lease: Duration
    } later {}

    Jwt "`[jwt]`" {
        algorithms: Vec<At<Algorithm>>, secret: OneOrMany<Source>, jwks: Jwks, tenant_claim: String,
        user_claim: String, role_claim: String, audience: OneOrMany<String>, issuer: OneOrMany<String>,
        leeway: Duration
    } later {}

    Jwks "`jwt.jwks`" { file: String, url: String, refresh: Duration } later {}

    /// Where a secret is read from.
    Stored "Secrets" { env: String, file: String } later {}

    Origin "`[[origin]]`" {
        name: Name, servers: OneOrMany<String>, connect_timeout: Duration, read_timeout: Duration, retries: u32,
        health: Health
    } later {}

    Health "`origin.health`" { path: String, interval: Duration, timeout: Duration } later {}

    Route "`[[route]]`" {
        name: Name, host: String, methods: Vec<At<http::Method>>, path: PathPattern, origin: String, cache: Cache,
        auth: Auth, token_query: bool, max_body: Size, websocket: WebSocket
    } later {}

    CacheRules "`route.cache`" {
        namespace: Name, scope: Scope, ttl: Duration, stale_while_revalidate: Duration, stale_if_error: Duration,
        query: Vec<At<String>>, negative_ttl: Duration, max_size: Size, fill_timeout: Duration, cache_control: String
    } later {}

    FollowRules "`route.cache` with `follow`" {
        follow: Follow, request_directives: bool, heuristic: bool, set_cookie: bool,
        stale_while_revalidate: Duration, stale_if_error: Duration, max_size: Size, fill_timeout: Duration,
        redis: Size
    } later {}

    WebSocket "`route.websocket`" { idle_timeout: Duration } later {}

    Event "`[[event]]`" {
        path: String, secret: OneOrMany<Source>, bump: OneOrMany<Name>, forward: bool, origin: String, rate: u32,
        max_body: Size
    } later {}

    Encoding "`[encoding]`" {
        types: Vec<At<String>>, min_size: Size, prefer: Vec<At<Coding>>, levels: Levels
    } later {}

    Levels "`encoding.levels`" { br: u32, gzip: u32, zstd: u32 } later {}
}

/// `store.redis`: one URL, or a list of them (a cluster).
#[derive(Debug)]
pub(super) enum OneOrManyUrls {
    One(Source),
    Many(Vec<At<Source>>),
}

impl Read for OneOrManyUrls {
    fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
        match value {
            DeValue::Array(_) => Read::read(value, place, report).map(Self::Many),
            _ => Source::read(value, place, report).map(Self::One),
        }
    }
}

/// `store.prefix`: may be empty.
#[derive(Debug)]
pub(super) struct Prefix(pub(super) String);

impl Read for Prefix {
    fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
        text(value, place, report, |text| {
            match text.len() <= 64 && text.bytes().all(|b| b.is_ascii_graphic()) {
                true => Ok(Self(text.to_owned())),
                false => Err("must be at most 64 printable ASCII characters, none of them a space"),
            }
        })
    }
}

/// A secret: in the file itself, or where to read it.
#[derive(Debug)]
pub(super) enum Source {
    Plain(Plain),
    Stored(Stored),
}

/// Text of the file that must not be shown.
pub(super) struct Plain(pub(super) String);

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Plain(…)")
    }
}

impl Read for Source {
    fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
        match value {
            DeValue::String(_) => String::read(value, place, report).map(|text| Self::Plain(Plain(text))),
            DeValue::Table(_) => Stored::read(value, place, report).map(Self::Stored),
            _ => {
                mismatch(value, "{ env = \"NAME\" }, { file = \"path\" } or text", place, report);
                None
            }
        }
    }
}

/// `route.cache`
#[derive(Debug)]
pub(super) enum Cache {
    Off,
    Rules(Box<CacheRules>),
    Follow(Box<FollowRules>),
}

/// `route.cache.follow`: whom to follow.
#[derive(Debug)]
pub(super) enum Follow {
    Origin,
}

impl Read for Cache {
    fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
        match value {
            DeValue::Table(table) if table.contains_key("follow") => {
                FollowRules::read(value, place, report).map(|rules| Self::Follow(Box::new(rules)))
            }
            DeValue::Table(_) => {
                CacheRules::read(value, place, report).map(|rules| Self::Rules(Box::new(rules)))
            }
            DeValue::String(word) if word == "off" => Some(Self::Off),
            DeValue::String(word) if word == "origin" => Some(Self::Follow(Box::default())),
            _ => {
                report.fault(
                    place,
                    "must be \"off\", \"origin\" or a table such as { namespace = \"kpi\", ttl = \"20s\" }",
                );
                None
            }
        }
    }
}

/// Reads a type from a closed list of words.
macro_rules! words {
    ($type:ty { $($word:literal => $value:expr),* $(,)? }) => {
        impl Read for $type {
            fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
                let word = text(value, place, report, |text| Ok::<_, &str>(text.to_owned()))?;
                match word.as_str() {
                    $($word => Some($value),)*
                    _ => {
                        report.unknown(place, format!("unknown value {word:?}"), &word, [$($word),*]);
                        None
                    }
                }
            }
        }
    };
}

words!(LogFormat { "auto" => Self::Auto, "text" => Self::Text, "json" => Self::Json });
words!(Auth { "off" => Self::Off, "optional" => Self::Optional, "required" => Self::Required });
words!(Follow { "origin" => Self::Origin });
words!(Scope { "public" => Self::Public, "tenant" => Self::Tenant, "user" => Self::User });
words!(Coding { "br" => Self::Brotli, "zstd" => Self::Zstd, "gzip" => Self::Gzip });
words!(Algorithm {
    "HS256" => Self::HS256, "HS384" => Self::HS384, "HS512" => Self::HS512,
    "RS256" => Self::RS256, "RS384" => Self::RS384, "RS512" => Self::RS512, "PS256" => Self::PS256,
    "ES256" => Self::ES256, "ES384" => Self::ES384, "EdDSA" => Self::EdDSA,
});

impl Read for http::Method {
    fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
        text(value, place, report, |text| match Self::from_bytes(text.as_bytes()) {
            Ok(method) if !text.bytes().any(|b| b.is_ascii_lowercase()) => Ok(method),
            _ => Err("must be a method in capitals, such as \"GET\""),
        })
    }
}

/// The longest path that a route or an event may have, in bytes.
const MAX_PATH: usize = 1024;

impl Read for PathPattern {
    fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
        text(value, place, report, |text| match text.strip_suffix("/*") {
            Some(before) => exact_path(&format!("{before}/")).map(Self::Prefix),
            None => exact_path(text).map(Self::Exact),
        })
    }
}

/// A path as it may stand in a request line, without a query.
pub(super) fn exact_path(text: &str) -> Result<String, &'static str> {
    if !text.starts_with('/') {
        return Err("must begin with \"/\"");
    }
    if text.contains('*') {
        return Err("\"*\" may only stand at the end, as \"/*\"");
    }
    if text.contains(['?', '#']) {
        return Err("must be a path alone, without \"?\" or \"#\"");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("must be written as in a request: no spaces, other characters percent-encoded");
    }
    if text.len() > MAX_PATH {
        return Err("must not be longer than 1024 bytes");
    }
    Ok(text.to_owned())
}
