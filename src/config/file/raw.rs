//! The schema of the file: every table, its keys and their types, in one declaration. From it come the
//! reader, the list of known keys and (with the test beside `docs/configuration.md`) the documentation's
//! completeness.
//!
//! Values are read one by one here. Defaults, references and combinations are decided in `check`.

use super::{
    entries, fault::FaultReport, field, hints, mismatch, place::FilePlace, text, units, ByteSize, OneOrMany,
    PlacedValue, ReadValue, TableField,
};
use crate::{
    config::{
        origin::HashBy,
        types::{
            AuthMode, CacheScope, ContentCoding, EscapedSlashPolicy, LogFormat, PathPattern, TokenPlace,
            UnderscorePolicy,
        },
        LiveTrigger,
    },
    http::canonical_path::{CanonicalPath, PathFault},
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

/// Declares the tables: a struct of [`TableField`]s each, read key by key.
macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident $title:literal { $($key:ident: $type:ty),* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Default)]
            pub(crate) struct $name { $(pub(crate) $key: TableField<$type>),* }

            impl $name {
                const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];
            }

            impl ReadValue for $name {
                fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
                    let table = entries(value, Self::KEYS, place, report)?;
                    Some(Self { $($key: field(table, stringify!($key), place, report)),* })
                }
            }
        )*

        /// Every table's title in the documentation, and its known keys.
        #[cfg(test)]
        pub(crate) const TABLES: &[(&str, &[&str])] = &[$(($title, $name::KEYS)),*];
    };
}

tables! {
    File "The tables" {
        server: Server, listener: Vec<PlacedValue<Listener>>, admin: Admin, log: Log, store: Store, jwt: Jwt,
        origin: Vec<PlacedValue<Origin>>, route: Vec<PlacedValue<Route>>, event: Vec<PlacedValue<Event>>, encoding: Encoding,
        headers: Headers, accel: Vec<PlacedValue<Accel>>, live: Vec<PlacedValue<LiveEndpoint>>
    }

    Server "`[server]`" {
        threads: u32, drain: Duration, keepalive: Duration, keepalive_requests: u32,
        trusted_proxies: OneOrMany<IpNet>, underscores: UnderscorePolicy,
        header_timeout: Duration, body_timeout: Duration, body_min_rate: ByteSize, send_timeout: Duration, send_min_rate: ByteSize,
        max_connections: u32, max_connections_per_address: u32
    }

    Listener "`[[listener]]`" {
        address: SocketAddr,
        certificates: Vec<PlacedValue<CertificateFiles>>, client_certificates: ClientCertificates, http2: bool,
        redirect_to_https: bool, hsts: Hsts, proxy_protocol: bool
    }

    CertificateFiles "`listener.certificates`" { cert: String, key: String, ocsp: String }

    ClientCertificates "`listener.client_certificates`" { ca: String, required: bool, header: String }

    Hsts "`listener.hsts`" { max_age: Duration, include_subdomains: bool, preload: bool }

    Admin "`[admin]`" { address: SocketAddr, hosts: OneOrMany<String> }

    Log "`[log]`" { format: LogFormat, access: bool }

    Store "`[store]`" {
        redis: OneOrManyUrls, user: SecretSource, password: SecretSource, prefix: StorePrefix, memory: ByteSize, deadline: Duration,
        lease: Duration, outage_ttl: OutageTtl, poll: Duration
    }

    Jwt "`[jwt]`" {
        algorithms: Vec<PlacedValue<Algorithm>>, secret: OneOrMany<SecretSource>, jwks: Jwks, tenant_claim: ClaimName,
        default_tenant: Name, user_claim: ClaimName, role_claim: ClaimName, audience: OneOrMany<String>,
        issuer: OneOrMany<String>, leeway: Duration, max_token: ByteSize, cookie: String
    }

    Jwks "`jwt.jwks`" { file: String, url: String, refresh: Duration, max_age: Duration }

    /// The source of a secret: an environment variable or a file.
    Stored "Secrets" { env: String, file: String }

    Origin "`[[origin]]`" {
        name: Name, servers: OneOrMany<RawServer>, connect_timeout: Duration, read_timeout: Duration, retries: u32,
        health: Health, balance: RawBalance, sticky: Sticky, http2: bool, tls: OriginTls, max_connections: u32,
        queue: u32, queue_timeout: Duration, idle_timeout: Duration, request_timeout: Duration,
        receive_buffer: ByteSize, panic_mode: bool, refills: u32
    }

    WeightedServer "`origin.servers`" { url: String, weight: u32 }

    HashBalance "`origin.balance`" { hash: HashBy }

    Sticky "`origin.sticky`" { query: String, cookie: String, secret: SecretSource }

    OriginTls "`origin.tls`" { ca: String, cert: String, key: String, server_name: String }

    Health "`origin.health`" { path: String, interval: Duration, timeout: Duration, host: String, headers: RuleLines }

    Route "`[[route]]`" {
        name: Name, host: String, methods: Vec<PlacedValue<http::Method>>, path: PathPattern, origin: String, cache: RawCache,
        auth: AuthMode, token_query: bool, max_body: ByteSize, websocket: WebSocket,
        limit: OneOrMany<Limit>,
        request_headers: HeaderRules, response_headers: HeaderRules, security_headers: bool, cors: Cors, signed: Signed,
        files: Files, accel: bool, escaped_slash: EscapedSlashPolicy, live: RawLive
    }

    Live "`route.live`" {
        event: String, ping: Duration, window: Duration, on_bump: LiveTrigger, on_ttl: LiveTrigger, max_wait: Duration,
        max_watchers: u32, max_watchers_per_tenant: u32, max_watchers_per_user: u32, max_watchers_per_address: u32
    }

    LiveEndpoint "`[[live]]`" { path: String, watch: NamedTargets }

    Files "`route.files`" {
        root: String, index: String, precompressed: bool, symlinks: bool, hidden: bool, cache_control: String,
        immutable: OneOrMany<String>
    }

    Accel "`[[accel]]`" {
        internal: String, root: String, symlinks: bool, hidden: bool, origin: String, prefix: String
    }

    Limit "`route.limit`" { name: Name, rate: RawRate, burst: u32, by: LimitKey, shared: bool }

    /// The request field or query parameter that identifies a client.
    Key "`route.limit.by`" { header: HeaderName, query: String }

    Headers "`[headers]`" {
        request_headers: HeaderRules, response_headers: HeaderRules, security_headers: bool
    }

    HeaderRules "`request_headers` and `response_headers`" {
        set: RuleLines, add: RuleLines, remove: OneOrMany<String>
    }

    Cors "`route.cors`" {
        origins: OneOrMany<String>, methods: Vec<PlacedValue<http::Method>>, headers: OneOrMany<String>,
        expose: OneOrMany<String>, credentials: bool, max_age: Duration
    }

    Signed "`route.signed`" { secret: OneOrMany<SecretSource> }

    CacheRules "`route.cache`" {
        namespace: Name, scope: CacheScope, ttl: Duration, stale_while_revalidate: Duration, stale_if_error: Duration,
        query: Vec<PlacedValue<String>>, negative_ttl: Duration, max_size: ByteSize, fill_timeout: Duration, hedge: Duration,
        stale_after: Duration, min_version_wait: Duration, cache_control: String
    }

    FollowRules "`route.cache` with `follow`" {
        follow: FollowWord, request_directives: bool, heuristic: bool, set_cookie: bool,
        stale_while_revalidate: Duration, stale_if_error: Duration, max_size: ByteSize, fill_timeout: Duration,
        hedge: Duration, stale_after: Duration, redis: ByteSize, key_headers: Vec<PlacedValue<HeaderName>>, statuses: Vec<PlacedValue<u32>>, variants: u32
    }

    WebSocket "`route.websocket`" {
        idle_timeout: Duration, origins: OneOrMany<String>, token: OneOrMany<TokenPlace>
    }

    Event "`[[event]]`" {
        path: String, secret: OneOrMany<SecretSource>, bump: OneOrMany<Name>, forward: bool, origin: String, rate: u32,
        max_body: ByteSize
    }

    Encoding "`[encoding]`" {
        types: Vec<PlacedValue<String>>, min_size: ByteSize, prefer: Vec<PlacedValue<ContentCoding>>, levels: Levels, memory: ByteSize
    }

    Levels "`encoding.levels`" { br: u32, gzip: u32, zstd: u32 }
}

/// `store.redis`: one URL, or a list of them (a cluster).
#[derive(Debug)]
pub(crate) enum OneOrManyUrls {
    One(SecretSource),
    Many(Vec<PlacedValue<SecretSource>>),
}

impl ReadValue for OneOrManyUrls {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        match value {
            DeValue::Array(_) => ReadValue::read(value, place, report).map(Self::Many),
            _ => SecretSource::read(value, place, report).map(Self::One),
        }
    }
}

/// `store.outage_ttl`: a duration, or no bound.
#[derive(Debug)]
pub(crate) enum OutageTtl {
    Bounded(Duration),
    Unlimited,
}

impl ReadValue for OutageTtl {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
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
pub(crate) struct StorePrefix(pub(crate) String);

impl ReadValue for StorePrefix {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
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
pub(crate) struct ClaimName(pub(crate) String);

impl ReadValue for ClaimName {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
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
pub(crate) enum SecretSource {
    Plain(PlainSecret),
    Stored(Stored),
}

/// Text of the file that must not be shown.
pub(crate) struct PlainSecret(pub(crate) String);

impl std::fmt::Debug for PlainSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Plain(…)")
    }
}

impl ReadValue for SecretSource {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        match value {
            DeValue::String(_) => {
                String::read(value, place, report).map(|text| Self::Plain(PlainSecret(text)))
            }
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
pub(crate) enum RawServer {
    Url(String),
    Weighted(WeightedServer),
}

impl ReadValue for RawServer {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        match value {
            DeValue::Table(_) => WeightedServer::read(value, place, report).map(Self::Weighted),
            _ => String::read(value, place, report).map(Self::Url),
        }
    }
}

/// `origin.balance`
#[derive(Debug)]
pub(crate) enum RawBalance {
    RoundRobin,
    LeastConnections,
    Hash(HashBalance),
}

impl ReadValue for RawBalance {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
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
pub(crate) struct RuleLines(pub(crate) Vec<(PlacedValue<String>, Vec<PlacedValue<RuleLine>>)>);

/// The text of a field's line.
#[derive(Debug)]
pub(crate) struct RuleLine(pub(crate) String);

impl ReadValue for RuleLines {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        let DeValue::Table(table) = value else {
            mismatch(value, "a table such as { \"X-Name\" = \"value\" }", place, report);
            return None;
        };
        let mut read = Vec::with_capacity(table.len());
        for (name, value) in table.iter() {
            let place = place.child(name.get_ref(), name.span().start);
            let lines = OneOrMany::read(value.get_ref(), &place, report).map(|OneOrMany(lines)| lines);
            read.push(
                lines.map(|lines| (PlacedValue { value: name.get_ref().clone().into_owned(), place }, lines)),
            );
        }
        read.into_iter().collect::<Option<_>>().map(Self)
    }
}

impl ReadValue for RuleLine {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        text(value, place, report, |text| match text {
            "" => Err("must not be empty: a field is taken off by naming it in remove"),
            _ => Ok(Self(text.to_owned())),
        })
    }
}

/// `route.live`: a table, or `true` for its defaults.
#[derive(Debug)]
pub(crate) enum RawLive {
    Off,
    Rules(Box<Live>),
}

impl ReadValue for RawLive {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        match value {
            DeValue::Boolean(true) => Some(Self::Rules(Box::default())),
            DeValue::Boolean(false) => Some(Self::Off),
            DeValue::Table(_) => Live::read(value, place, report).map(|live| Self::Rules(Box::new(live))),
            _ => {
                report.fault(place, "must be true, or a table such as { event = \"metric_update\" }");
                None
            }
        }
    }
}

/// `live.watch`: the names of entries, each with its target.
#[derive(Debug)]
pub(crate) struct NamedTargets(pub(crate) Vec<(PlacedValue<String>, PlacedValue<String>)>);

impl ReadValue for NamedTargets {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        let DeValue::Table(table) = value else {
            mismatch(value, "a table such as { kpi = \"/api/widgets/kpi\" }", place, report);
            return None;
        };
        let mut read = Vec::with_capacity(table.len());
        for (name, value) in table.iter() {
            let place = place.child(name.get_ref(), name.span().start);
            let target = String::read(value.get_ref(), &place, report);
            let name = PlacedValue { value: name.get_ref().clone().into_owned(), place: place.clone() };
            read.push(target.map(|value| (name, PlacedValue { value, place })));
        }
        read.into_iter().collect::<Option<_>>().map(Self)
    }
}

/// `route.cache`
#[derive(Debug)]
pub(crate) enum RawCache {
    Off,
    Rules(Box<CacheRules>),
    Follow(Box<FollowRules>),
}

/// `route.cache.follow`: the source of the caching rules.
#[derive(Debug)]
pub(crate) enum FollowWord {
    Origin,
}

impl ReadValue for RawCache {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
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
        impl ReadValue for $type {
            fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
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
pub(crate) struct RawRate {
    pub(crate) requests: u32,
    pub(crate) window: Duration,
}

impl ReadValue for RawRate {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        text(value, place, report, |text| {
            units::parse_rate(text).map(|(requests, window)| Self { requests, window })
        })
    }
}

/// `route.limit.by`
#[derive(Debug)]
pub(crate) enum LimitKey {
    Word(LimitPerson),
    Key(Key),
}

/// The client that a limit counts by, if it is not a named field or parameter.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LimitPerson {
    Address,
    Tenant,
    User,
}

impl ReadValue for LimitKey {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        match value {
            DeValue::Table(_) => Key::read(value, place, report).map(Self::Key),
            DeValue::String(_) => LimitPerson::read(value, place, report).map(Self::Word),
            _ => {
                mismatch(value, "a word, { header = \"…\" } or { query = \"…\" }", place, report);
                None
            }
        }
    }
}

impl ReadValue for HeaderName {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        text(value, place, report, |text| {
            Self::from_bytes(text.as_bytes()).map_err(|_| "must be the name of a header")
        })
    }
}

impl ReadValue for IpNet {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
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

words!(LiveTrigger { "watched" => Self::Watched, "eager" => Self::Eager, "lazy" => Self::Lazy });
words!(LimitPerson { "address" => Self::Address, "tenant" => Self::Tenant, "user" => Self::User });
words!(LogFormat { "auto" => Self::Auto, "text" => Self::Text, "json" => Self::Json });
words!(AuthMode { "off" => Self::Off, "optional" => Self::Optional, "required" => Self::Required });
words!(UnderscorePolicy { "drop" => Self::Drop, "pass" => Self::Pass });
words!(EscapedSlashPolicy { "refuse" => Self::Refuse, "pass" => Self::Pass });
words!(HashBy { "client" => Self::Client, "path" => Self::Path, "tenant" => Self::Tenant });
words!(TokenPlace { "header" => Self::Header, "query" => Self::Query, "subprotocol" => Self::Subprotocol });
words!(FollowWord { "origin" => Self::Origin });
words!(CacheScope { "public" => Self::Public, "tenant" => Self::Tenant, "user" => Self::User });
words!(ContentCoding { "br" => Self::Brotli, "zstd" => Self::Zstd, "gzip" => Self::Gzip });
words!(Algorithm {
    "HS256" => Self::HS256, "HS384" => Self::HS384, "HS512" => Self::HS512,
    "RS256" => Self::RS256, "RS384" => Self::RS384, "RS512" => Self::RS512, "PS256" => Self::PS256,
    "ES256" => Self::ES256, "ES384" => Self::ES384, "EdDSA" => Self::EdDSA,
});

impl ReadValue for http::Method {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        text(value, place, report, |text| match Self::from_bytes(text.as_bytes()) {
            Ok(method) if !text.bytes().any(|b| b.is_ascii_lowercase()) => Ok(method),
            _ => Err("must be a method in capitals, such as \"GET\""),
        })
    }
}

/// The longest path that a route or an event may have, in bytes.
const MAX_PATH: usize = 1024;

impl ReadValue for PathPattern {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        text(value, place, report, |text| match text.strip_suffix("/*") {
            Some(before) => exact_path(&format!("{before}/")).map(Self::Prefix),
            None => exact_path(text).map(Self::Exact),
        })
    }
}

/// The canonical form of a path as it may stand in a request line, without a query.
pub(crate) fn exact_path(text: &str) -> Result<String, &'static str> {
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
