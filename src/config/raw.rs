//! The schema of the file: every table, its keys and their types, in one declaration. From it come the
//! reader, the list of known keys and (with the test beside `docs/configuration.md`) the documentation's
//! completeness.
//!
//! Values are read one by one here. Defaults, references and combinations are decided in `check`.

use super::{
    fault::Report,
    hints,
    origin::HashBy,
    place::Place,
    read::{entries, field, mismatch, text, At, Field, OneOrMany, Read, Size},
    types::{Auth, Coding, EscapedSlash, LogFormat, PathPattern, Scope, TokenPlace, Underscores},
    units,
};
use crate::{
    canonical_path::{CanonicalPath, PathFault},
    name::Name,
};
use http::HeaderName;
use ipnet::IpNet;
use jsonwebtoken::Algorithm;
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use toml::de::DeValue;

/// Declares the tables: a struct of [`Field`]s each, read key by key.
macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident $title:literal { $($key:ident: $type:ty),* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Default)]
            pub(super) struct $name { $(pub(super) $key: Field<$type>),* }

            impl $name {
                const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];
            }

            impl Read for $name {
                fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
                    let table = entries(value, Self::KEYS, place, report)?;
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
        origin: Vec<At<Origin>>, route: Vec<At<Route>>, event: Vec<At<Event>>, encoding: Encoding,
        headers: Headers, accel: Vec<At<Accel>>
    }

    Server "`[server]`" {
        threads: u32, drain: Duration, keepalive: Duration, keepalive_requests: u32,
        trusted_proxies: OneOrMany<IpNet>, underscores: Underscores,
        header_timeout: Duration, body_timeout: Duration, body_min_rate: Size, send_timeout: Duration, send_min_rate: Size,
        max_connections: u32, max_connections_per_address: u32
    }

    Listener "`[[listener]]`" {
        address: SocketAddr,
        certificates: Vec<At<CertificateFiles>>, client_certificates: ClientCertificates, http2: bool,
        redirect_to_https: bool, hsts: Hsts, proxy_protocol: bool
    }

    CertificateFiles "`listener.certificates`" { cert: String, key: String, ocsp: String }

    ClientCertificates "`listener.client_certificates`" { ca: String, required: bool, header: String }

    Hsts "`listener.hsts`" { max_age: Duration, include_subdomains: bool, preload: bool }

    Admin "`[admin]`" { address: SocketAddr, hosts: OneOrMany<String> }

    Log "`[log]`" { format: LogFormat, access: bool }

    Store "`[store]`" {
        redis: OneOrManyUrls, user: Source, password: Source, prefix: Prefix, memory: Size, deadline: Duration,
        lease: Duration, outage_ttl: OutageTtl, poll: Duration
    }

    Jwt "`[jwt]`" {
        algorithms: Vec<At<Algorithm>>, secret: OneOrMany<Source>, jwks: Jwks, tenant_claim: ClaimName,
        default_tenant: Name, user_claim: ClaimName, role_claim: ClaimName, audience: OneOrMany<String>,
        issuer: OneOrMany<String>, leeway: Duration, max_token: Size
    }

    Jwks "`jwt.jwks`" { file: String, url: String, refresh: Duration, max_age: Duration }

    /// The source of a secret: an environment variable or a file.
    Stored "Secrets" { env: String, file: String }

    Origin "`[[origin]]`" {
        name: Name, servers: OneOrMany<OriginServer>, connect_timeout: Duration, read_timeout: Duration, retries: u32,
        health: Health, balance: Balance, sticky: Sticky, http2: bool, tls: OriginTls, max_connections: u32,
        queue: u32, queue_timeout: Duration, idle_timeout: Duration, request_timeout: Duration,
        receive_buffer: Size, panic_mode: bool
    }

    WeightedServer "`origin.servers`" { url: String, weight: u32 }

    HashBalance "`origin.balance`" { hash: HashBy }

    Sticky "`origin.sticky`" { query: String, cookie: String, secret: Source }

    OriginTls "`origin.tls`" { ca: String, cert: String, key: String, server_name: String }

    Health "`origin.health`" { path: String, interval: Duration, timeout: Duration, host: String, headers: Lines }

    Route "`[[route]]`" {
        name: Name, host: String, methods: Vec<At<http::Method>>, path: PathPattern, origin: String, cache: Cache,
        auth: Auth, token_query: bool, max_body: Size, websocket: WebSocket,
        limit: OneOrMany<Limit>,
        request_headers: HeaderRules, response_headers: HeaderRules, security_headers: bool, cors: Cors, signed: Signed,
        files: Files, accel: bool, escaped_slash: EscapedSlash
    }

    Files "`route.files`" {
        root: String, index: String, precompressed: bool, symlinks: bool, hidden: bool, cache_control: String,
        immutable: OneOrMany<String>
    }

    Accel "`[[accel]]`" {
        internal: String, root: String, symlinks: bool, hidden: bool, origin: String, prefix: String
    }

    Limit "`route.limit`" { name: Name, rate: Rate, burst: u32, by: By, shared: bool }

    /// The request field or query parameter that identifies a client.
    Key "`route.limit.by`" { header: HeaderName, query: String }

    Headers "`[headers]`" {
        request_headers: HeaderRules, response_headers: HeaderRules, security_headers: bool
    }

    HeaderRules "`request_headers` and `response_headers`" {
        set: Lines, add: Lines, remove: OneOrMany<String>
    }

    Cors "`route.cors`" {
        origins: OneOrMany<String>, methods: Vec<At<http::Method>>, headers: OneOrMany<String>,
        expose: OneOrMany<String>, credentials: bool, max_age: Duration
    }

    Signed "`route.signed`" { secret: OneOrMany<Source> }

    CacheRules "`route.cache`" {
        namespace: Name, scope: Scope, ttl: Duration, stale_while_revalidate: Duration, stale_if_error: Duration,
        query: Vec<At<String>>, negative_ttl: Duration, max_size: Size, fill_timeout: Duration, hedge: Duration,
        stale_after: Duration, cache_control: String
    }

    FollowRules "`route.cache` with `follow`" {
        follow: Follow, request_directives: bool, heuristic: bool, set_cookie: bool,
        stale_while_revalidate: Duration, stale_if_error: Duration, max_size: Size, fill_timeout: Duration,
        hedge: Duration, stale_after: Duration, redis: Size, key_headers: Vec<At<HeaderName>>, statuses: Vec<At<u32>>, variants: u32
    }

    WebSocket "`route.websocket`" {
        idle_timeout: Duration, origins: OneOrMany<String>, token: OneOrMany<TokenPlace>
    }

    Event "`[[event]]`" {
        path: String, secret: OneOrMany<Source>, bump: OneOrMany<Name>, forward: bool, origin: String, rate: u32,
        max_body: Size
    }

    Encoding "`[encoding]`" {
        types: Vec<At<String>>, min_size: Size, prefer: Vec<At<Coding>>, levels: Levels, memory: Size
    }

    Levels "`encoding.levels`" { br: u32, gzip: u32, zstd: u32 }
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

/// `store.outage_ttl`: a duration, or no bound.
#[derive(Debug)]
pub(super) enum OutageTtl {
    Bounded(Duration),
    Unlimited,
}

impl Read for OutageTtl {
    fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
        match value {
            DeValue::String(word) if word == "unlimited" => Some(Self::Unlimited),
            DeValue::String(word) if !word.starts_with(|first: char| first.is_ascii_digit()) => {
                report.fault(place, "must be a duration such as \"20s\", or \"unlimited\"");
                None
            }
            _ => Duration::read(value, place, report).map(Self::Bounded),
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

/// A claim: its name, or a JSON pointer to it (RFC 6901).
#[derive(Debug)]
pub(super) struct ClaimName(pub(super) String);

impl Read for ClaimName {
    fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
        let escapes = |text: &str| text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
        text(value, place, report, |text| match text {
            "" => Err("must not be empty"),
            pointer if pointer.starts_with('/') && !escapes(pointer) => {
                Err("is no JSON pointer (RFC 6901): \"~\" is written \"~0\", \"/\" in a name \"~1\"")
            }
            _ => Ok(Self(text.to_owned())),
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

/// One of `origin.servers`: a URL, or a table with its weight.
#[derive(Debug)]
pub(super) enum OriginServer {
    Url(String),
    Weighted(WeightedServer),
}

impl Read for OriginServer {
    fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
        match value {
            DeValue::Table(_) => WeightedServer::read(value, place, report).map(Self::Weighted),
            _ => String::read(value, place, report).map(Self::Url),
        }
    }
}

/// `origin.balance`
#[derive(Debug)]
pub(super) enum Balance {
    RoundRobin,
    LeastConnections,
    Hash(HashBalance),
}

impl Read for Balance {
    fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
        match value {
            DeValue::Table(_) => HashBalance::read(value, place, report).map(Self::Hash),
            DeValue::String(word) if word == "round-robin" => Some(Self::RoundRobin),
            DeValue::String(word) if word == "least-connections" => Some(Self::LeastConnections),
            _ => {
                let forms = "must be \"round-robin\", \"least-connections\" or { hash = \"client\" }";
                report.fault(place, forms);
                None
            }
        }
    }
}

/// `set`, `add`: field names, each with one line or several.
#[derive(Debug)]
pub(super) struct Lines(pub(super) Vec<(At<String>, Vec<At<Line>>)>);

/// The text of a field's line.
#[derive(Debug)]
pub(super) struct Line(pub(super) String);

impl Read for Lines {
    fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
        let DeValue::Table(table) = value else {
            mismatch(value, "a table such as { \"X-Name\" = \"value\" }", place, report);
            return None;
        };
        let mut read = Vec::with_capacity(table.len());
        for (name, value) in table.iter() {
            let place = place.child(name.get_ref(), name.span().start);
            let lines = OneOrMany::read(value.get_ref(), &place, report).map(|OneOrMany(lines)| lines);
            read.push(lines.map(|lines| (At { value: name.get_ref().clone().into_owned(), place }, lines)));
        }
        read.into_iter().collect::<Option<_>>().map(Self)
    }
}

impl Read for Line {
    fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
        text(value, place, report, |text| match text {
            "" => Err("must not be empty: a field is taken off by naming it in remove"),
            _ => Ok(Self(text.to_owned())),
        })
    }
}

/// `route.cache`
#[derive(Debug)]
pub(super) enum Cache {
    Off,
    Rules(Box<CacheRules>),
    Follow(Box<FollowRules>),
}

/// `route.cache.follow`: the source of the caching rules.
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
                        let word_shown = hints::shown(&word);
                        report.unknown(place, format!("unknown value {word_shown}"), &word, [$($word),*]);
                        None
                    }
                }
            }
        }
    };
}

/// `route.limit.rate`: so many in such a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) requests: u32,
    pub(super) window: Duration,
}

impl Read for Rate {
    fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
        text(value, place, report, |text| {
            units::rate(text).map(|(requests, window)| Self { requests, window })
        })
    }
}

/// `route.limit.by`
#[derive(Debug)]
pub(super) enum By {
    Word(Person),
    Key(Key),
}

/// The client that a limit counts by, if it is not a named field or parameter.
#[derive(Debug, Clone, Copy)]
pub(super) enum Person {
    Address,
    Tenant,
    User,
}

impl Read for By {
    fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
        match value {
            DeValue::Table(_) => Key::read(value, place, report).map(Self::Key),
            DeValue::String(_) => Person::read(value, place, report).map(Self::Word),
            _ => {
                mismatch(value, "a word, { header = \"…\" } or { query = \"…\" }", place, report);
                None
            }
        }
    }
}

impl Read for HeaderName {
    fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
        text(value, place, report, |text| {
            Self::from_bytes(text.as_bytes()).map_err(|_| "must be the name of a header")
        })
    }
}

impl Read for IpNet {
    fn read(value: &DeValue<'_>, place: &Place, report: &mut Report) -> Option<Self> {
        text(value, place, report, |text| {
            let alone = || text.parse().map(|address: IpAddr| Self::from(address));
            let network = text.parse::<Self>().or_else(|_| alone());
            let network =
                network.map_err(|_| "must be a network such as \"10.0.0.0/8\", or an address".to_owned())?;
            match network.trunc() {
                whole if whole == network => Ok(network),
                whole => Err(format!("has bits beyond its prefix: \"{whole}\" is the network")),
            }
        })
    }
}

words!(Person { "address" => Self::Address, "tenant" => Self::Tenant, "user" => Self::User });
words!(LogFormat { "auto" => Self::Auto, "text" => Self::Text, "json" => Self::Json });
words!(Auth { "off" => Self::Off, "optional" => Self::Optional, "required" => Self::Required });
words!(Underscores { "drop" => Self::Drop, "pass" => Self::Pass });
words!(EscapedSlash { "refuse" => Self::Refuse, "pass" => Self::Pass });
words!(HashBy { "client" => Self::Client, "path" => Self::Path, "tenant" => Self::Tenant });
words!(TokenPlace { "header" => Self::Header, "query" => Self::Query, "subprotocol" => Self::Subprotocol });
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

/// The canonical form of a path as it may stand in a request line, without a query.
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
    let path = CanonicalPath::of(text).map_err(|fault| match fault {
        PathFault::Relative => "must begin with \"/\"",
        PathFault::Escape => "holds a \"%\" that begins no percent-encoding: write \"%25\" for the character",
        PathFault::Nul => "must not hold a NUL",
        PathFault::Backslash => "must not begin with \"/\\\"",
        PathFault::DotSegment => "must not hold a \".\" or \"..\" segment: no request with one gets so far",
    })?;
    if text.starts_with("//") {
        return Err("must not begin with \"//\"");
    }
    if path.unescaped().is_some() {
        return Err("must not hold an escaped slash or a backslash: see escaped_slash");
    }
    Ok(path.as_str(text).to_owned())
}
