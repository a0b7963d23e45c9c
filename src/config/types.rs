//! The types of a checked configuration: every value in range, every default filled in, every reference
//! between tables resolved. Each field names its key in the file and its default.
//!
//! Nothing here reads a file or makes a decision. The `Debug` of these types never shows a secret.

use super::{
    files::{AccelLocation, RouteTarget},
    origin::OriginConfig,
    secret::Secret,
    CorsConfig, LiveEndpointConfig, LiveRules, OriginPattern, RouteHeaders,
};
use crate::{
    certificate,
    name::{Name, Namespace, Tenant},
};

use ipnet::IpNet;
use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[server]`
    pub server: GatewayConfig,
    /// `[[listener]]`, at least one.
    pub listeners: Vec<ListenerConfig>,
    /// `[admin]`; without it there is no admin listener.
    pub admin: Option<AdminConfig>,
    /// `[log]`
    pub log: LogConfig,
    /// `[store]`
    pub store: StoreConfig,
    /// `[jwt]`; without it every token is refused on routes that need one.
    pub jwt: Option<JwtConfig>,
    /// `[[origin]]`, at least one where a route needs one; [`RouteTarget::Origin`] is an index into it.
    pub origins: Vec<OriginConfig>,
    /// `[[route]]`, in the file's order.
    pub routes: Vec<RouteConfig>,
    /// `[[event]]`
    pub events: Vec<EventConfig>,
    /// `[encoding]`
    pub encoding: EncodingConfig,
    /// `[headers]`, for answers where no route is found; each [`RouteConfig::headers`] has them already.
    pub headers: RouteHeaders,
    /// `[[accel]]`, in the file's order.
    pub accels: Vec<AccelLocation>,
    /// `[[live]]`, in the file's order.
    pub live: Vec<LiveEndpointConfig>,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Worker threads, at least 1 (`0` in the file: one per core).
    pub threads: usize,
    /// The time that requests and sockets have to finish on shutdown (`drain`, 30 s).
    pub drain: Duration,
    /// The time that an idle client connection is kept open (`keepalive`, 65 s).
    pub keepalive: Duration,
    /// Requests on one client connection before it is closed (`keepalive_requests`, 10,000; `0`: no limit).
    pub keepalive_requests: u32,
    /// `trusted_proxies`: the networks whose fields on a client's address, scheme and host are believed
    /// (none).
    pub trusted_proxies: Vec<IpNet>,
    /// `underscores`: the treatment of a request's fields with an underscore in their name (`drop`).
    pub underscores: UnderscorePolicy,
    /// The timeouts of clients and the limits on their connections.
    pub clients: ClientTimeouts,
}

/// Treatment of a request's fields with an underscore in their name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnderscorePolicy {
    /// They are dropped, as nginx does.
    Drop,
    /// They pass, except those that an application could take for a field reserved to the gateway or a
    /// trusted proxy.
    Pass,
}

/// The keys of `[server]` about slow clients and many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientTimeouts {
    /// For the whole head of a request (`header_timeout`, 10 s).
    pub header_timeout: Duration,
    /// Between two pieces of a request's body (`body_timeout`, 30 s).
    pub body_timeout: Duration,
    /// Bytes a second of a body that is waited for (`body_min_rate`, 256; `0`: any).
    pub body_min_rate: u64,
    /// For a pending write without progress (`send_timeout`, 30 s).
    pub send_timeout: Duration,
    /// Bytes a second that a client has to take of an answer (`send_min_rate`, 256; `0`: any).
    pub send_min_rate: u64,
    /// The most connections at a time; `None`: half of the limit on open files (`max_connections`, `0` in the
    /// file).
    pub max_connections: Option<u32>,
    /// The most connections of one address at a time; `None`: any number (`max_connections_per_address`, `0`
    /// in the file).
    pub max_per_address: Option<u32>,
}

/// `[[listener]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The address to listen on.
    pub address: SocketAddr,
    /// `certificates`, `client_certificates`; without certificates there is no TLS.
    pub tls: Option<ListenerTls>,
    /// `http2`: by ALPN with TLS (true), with prior knowledge without TLS (false).
    pub http2: bool,
    /// `redirect_to_https`: the index of the listener with TLS that requests are sent to.
    pub redirect_to: Option<usize>,
    /// `hsts`: the value of `Strict-Transport-Security`.
    pub hsts: Option<String>,
    /// `proxy_protocol`: each connection begins with the address of the client that it is for.
    pub proxy_protocol: bool,
}

/// The TLS settings of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// `certificates`, at least one; the first is the default where SNI names none of them.
    pub certificates: Vec<certificate::CertificatePaths>,
    /// `client_certificates`
    pub clients: Option<ClientCertificates>,
}

/// `listener.client_certificates`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// `ca`: the authorities that they have to come from.
    pub ca: PathBuf,
    /// `required`: the handshake fails without one (true).
    pub required: bool,
    /// `header`: the request field that names the certificate's subject to an origin. Clients can't set it on
    /// any listener.
    pub header: Option<http::HeaderName>,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// The address that serves metrics and health.
    pub address: SocketAddr,
    /// `hosts`: names by which it may be asked, exact or `*.example.com`, lower case (none but its own).
    pub hosts: Vec<String>,
}

/// `[log]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// `format`: `auto` (text on a terminal, else JSON), `text`, `json`.
    pub format: LogFormat,
    /// `access`: write access records (default true).
    pub access: bool,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// `redis`: left out, this process's memory alone.
    pub redis: Option<RedisConfig>,
    /// `prefix` of every key (`dash:`).
    pub prefix: String,
    /// `memory`: bytes of the first tier (256 MiB).
    pub memory: u64,
    /// `deadline` of one Redis call (50 ms).
    pub deadline: Duration,
    /// `lease`: the time to live of a fill's lease in Redis, renewed while the fill goes on (5 s).
    pub lease: Duration,
    /// `outage_ttl`: how long answers are served from memory while the store can't confirm that they are
    /// current (5 s); `None`: as long as they are fresh.
    pub outage_ttl: Option<Duration>,
    /// `poll`: how long a version and the purge log are trusted where Redis reports no changes (1 s).
    pub poll: Duration,
    /// The largest `max_size` of all routes.
    pub largest: u64,
}

/// The address of Redis. Its `Debug` hides passwords.
#[derive(Clone, PartialEq, Eq)]
pub enum RedisConfig {
    /// One server: a URL as redis-rs takes it (`redis://`, `rediss://`, `unix://`).
    Single(String),
    /// `redis+sentinel://[user:password@]host:port[,host:port…]/<master name>[/<db>]`
    Sentinel {
        /// URLs of the sentinels.
        sentinels: Vec<String>,
        /// The name of the monitored master.
        master: String,
        /// The database on the master.
        db: i64,
        /// `user`, `password` for the master.
        credentials: (Option<String>, Option<String>),
    },
    /// Several URLs: the seeds of a cluster.
    Cluster(Vec<String>),
}

impl RedisConfig {
    /// The same servers under another user and password; a password is needed for a user. `None` for both:
    /// without any.
    #[must_use]
    pub fn known_as(self, user: Option<&str>, password: Option<&str>) -> Self {
        let of = |url: String| match url.parse::<url::Url>() {
            Ok(url) => String::from(with_credentials(url, user, password)),
            Err(_) => url,
        };
        match self {
            Self::Single(url) => Self::Single(of(url)),
            Self::Cluster(seeds) => Self::Cluster(seeds.into_iter().map(of).collect()),
            Self::Sentinel { sentinels, master, db, credentials: _ } => {
                let credentials = (user.map(str::to_owned), password.map(str::to_owned));
                Self::Sentinel { sentinels, master, db, credentials }
            }
        }
    }

    /// The address for logs and messages: hosts, ports and the database, without users and passwords.
    pub fn place(&self) -> String {
        let of = |url: &String| match url.parse::<url::Url>() {
            Ok(url) if url.scheme() == "unix" => url.path().to_owned(),
            Ok(url) => {
                let (host, port) = (url.host_str().unwrap_or_default(), url.port().unwrap_or(6379));
                format!("{host}:{port}{}", url.path().trim_end_matches('/'))
            }
            Err(_) => String::new(),
        };
        match self {
            Self::Single(url) => of(url),
            Self::Sentinel { sentinels, master, .. } => {
                let all: Vec<_> = sentinels.iter().map(of).collect();
                format!("{} (sentinels of {master})", all.join(", "))
            }
            Self::Cluster(seeds) => seeds.iter().map(of).collect::<Vec<_>>().join(", "),
        }
    }
}

/// A URL with this user and password instead of its own. A socket has them among its parameters.
fn with_credentials(mut url: url::Url, user: Option<&str>, password: Option<&str>) -> url::Url {
    if url.scheme() != "unix" {
        // Fails only for a URL without a host, which the check has refused.
        url.set_username(user.unwrap_or_default()).unwrap_or_default();
        url.set_password(password).unwrap_or_default();
        return url;
    }
    let others: Vec<_> = url.query_pairs().filter(|(name, _)| !matches!(&**name, "user" | "pass")).collect();
    let others: Vec<_> =
        others.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    let added = [("user", user), ("pass", password)];
    let added = added.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
    let all: Vec<_> = others.into_iter().chain(added).collect();
    url.set_query(None);
    if !all.is_empty() {
        url.query_pairs_mut().extend_pairs(all);
    }
    url
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Single(_) => "Single(…)",
            Self::Sentinel { .. } => "Sentinel(…)",
            Self::Cluster(_) => "Cluster(…)",
        })
    }
}

/// `[jwt]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtConfig {
    /// `algorithms` that are accepted, at least one; symmetric and asymmetric ones are never mixed.
    pub algorithms: Vec<jsonwebtoken::Algorithm>,
    /// The source of the keys.
    pub keys: JwtKeys,
    /// `jwks.max_age`: how long a key set that can't be read is believed (1 d).
    pub jwks_max_age: Duration,
    /// `tenant_claim` (`tenant`); as the other two a name, or a JSON pointer.
    pub tenant_claim: String,
    /// `default_tenant`: of tokens that name none.
    pub default_tenant: Option<Tenant>,
    /// `user_claim` (`sub`).
    pub user_claim: String,
    /// `role_claim` (`role`).
    pub role_claim: String,
    /// `audience`: accepted values of `aud`; empty: not checked.
    pub audience: Vec<String>,
    /// `issuer`: accepted values of `iss`; empty: not checked.
    pub issuer: Vec<String>,
    /// `leeway` on `exp` and `nbf` (0 s).
    pub leeway: Duration,
    /// `max_token`: the longest token, in bytes (16 KiB).
    pub max_token: usize,
    /// `cookie`: the name of a cookie that may hold the token.
    pub cookie: Option<Arc<str>>,
}

/// The keys of `[jwt]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwtKeys {
    /// `secret`: one or, while one rotates, several shared secrets, tried in order.
    Secrets(Vec<Secret>),
    /// `jwks = { file = … }`: re-read when it changes.
    JwksFile(PathBuf),
    /// `jwks = { url = …, refresh = "5m" }`
    JwksUrl {
        /// An `http` or `https` URL.
        url: String,
        /// The time from one fetch to the next.
        refresh: Duration,
    },
}

/// `[[route]]`
#[derive(Debug, Clone)]
pub struct RouteConfig {
    /// `name`, a metric label; derived from the path by default (`/api/widgets/kpi` → `api_widgets_kpi`).
    /// Unique over all routes.
    pub name: Name,
    /// `host`: an exact host or `*.example.com`, lower case; `None`: any.
    pub host: Option<String>,
    /// `methods`; empty: any.
    pub methods: Vec<http::Method>,
    /// `path`, in its canonical form.
    pub path: PathPattern,
    /// `escaped_slash`; `None`: refused where another rule could be meant.
    pub escaped_slash: Option<EscapedSlashPolicy>,
    /// `origin` or `files`
    pub target: RouteTarget,
    /// `accel`: an origin's `X-Accel-Redirect` is carried out (default true); else it is removed.
    pub accel: bool,
    /// `cache`
    pub cache: CacheMode,
    /// `auth`: `optional` (default; a token, where one is shown, must verify if the scope or `auth` reads
    /// it), `required`, `off` (tokens pass through unread; not with scope `tenant` or `user`).
    pub auth: AuthMode,
    /// The cookie that may hold the token, where one is read: `cookie` of `[jwt]`.
    pub token_cookie: Option<Arc<str>>,
    /// `token_query`: accept `?token=` besides the header (default false).
    pub token_query: bool,
    /// `max_body`: the largest request body (10 MiB).
    pub max_body: u64,
    /// `websocket = { … }`: WebSockets are allowed only with it.
    pub websocket: Option<WebSocketConfig>,
    /// `limit`: all of them have to let a request through. Their names are unique on the route.
    pub limits: Vec<LimitConfig>,
    /// `request_headers`, `response_headers`, `security_headers`, after those of `[headers]`.
    pub headers: RouteHeaders,
    /// `cors`
    pub cors: Option<Box<CorsConfig>>,
    /// `signed = { secret }`: one or, while one rotates, several secrets; the first signs.
    pub signed: Option<Vec<Secret>>,
    /// `live`: its answers can be watched.
    pub live: Option<Arc<LiveRules>>,
}

/// One of a route's `limit`s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitConfig {
    /// `name`, as clients see it; by default the word of `by`, numbered from 2 if that is taken.
    pub name: Name,
    /// `rate`: this many requests, at least 1 …
    pub requests: u32,
    /// … in this time: whole seconds, from 1 s to 31 d.
    pub window: Duration,
    /// `burst`: this many at once (as many as `requests`).
    pub burst: u32,
    /// `by`: the key that identifies a client (its address).
    pub by: LimitBy,
    /// `shared`: all nodes count together, in Redis (false).
    pub shared: bool,
}

/// The key by which a limit tells clients apart. A request without it is counted by its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitBy {
    /// `"address"`: an IPv4 address, the /64 of an IPv6 address.
    Address,
    /// `"tenant"` of a token that verifies.
    Tenant,
    /// `"user"` of a token that verifies.
    User,
    /// `{ header = "…" }`
    Header(http::HeaderName),
    /// `{ query = "…" }`
    Query(String),
}

/// The use of tokens on a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// Never read.
    Off,
    /// Verified if present.
    Optional,
    /// 401 without one.
    Required,
}

/// `websocket`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketConfig {
    /// `idle_timeout`: how long a socket may stay silent in both directions (60 s).
    pub idle_timeout: Duration,
    /// `origins` of pages that may open one; empty: any.
    pub origins: Vec<OriginPattern>,
    /// `token`: where a handshake's token is looked for, in this order; empty: where the route looks for it.
    pub tokens: Vec<TokenPlace>,
}

/// The part of a handshake that holds the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenPlace {
    /// `Authorization: Bearer …`
    Header,
    /// The cookie of `[jwt]`.
    Cookie,
    /// `?token=…`
    Query,
    /// `Sec-WebSocket-Protocol: bearer, …`
    Subprotocol,
}

/// The policy of a route for paths that hold an escaped slash (`%2F`) or a backslash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EscapedSlashPolicy {
    /// 400
    Refuse,
    /// It passes as part of a segment; its meaning is up to the origin.
    Pass,
}

/// The paths that a route's `path` matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathPattern {
    /// Exactly this path.
    Exact(String),
    /// `/x/*`: every path that begins with the text before the `*` (here `/x/`).
    Prefix(String),
}

/// `cache`
#[derive(Debug, Clone)]
pub enum CacheMode {
    /// `"off"`, the default.
    Off,
    /// A table with a namespace: answers under version keys.
    Versioned(Box<CacheRules>),
    /// `"origin"`, or a table with `follow = "origin"`: as the origin's headers say (RFC 9111).
    Follow(Box<FollowRules>),
}

/// `cache = "origin"`, `cache = { follow = "origin", … }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowRules {
    /// `request_directives`: obey the client's `Cache-Control` (false: a client can't make the origin work).
    pub request_directives: bool,
    /// `heuristic`: keep what has a `Last-Modified` and no lifetime for a tenth of its age (true).
    pub heuristic: bool,
    /// `set_cookie`: keep answers that set a cookie, with it (false).
    pub set_cookie: bool,
    /// `stale_while_revalidate` where the origin names none (0 s)
    pub stale_while_revalidate: Duration,
    /// `stale_if_error` where the origin names none (0 s)
    pub stale_if_error: Duration,
    /// `max_size` of a kept body (16 MiB).
    pub max_size: u64,
    /// `fill_timeout`: how long the origin may take to begin its answer, and how long others may join it (30
    /// s).
    pub fill_timeout: Duration,
    /// `hedge`: how long the fill of another node is waited for; `None`: derived from the usual time of the
    /// route's fills.
    pub hedge: Option<Duration>,
    /// `stale_after`: how long a fill is waited for before the stale answer is served meanwhile; `None`: to
    /// its end.
    pub stale_after: Option<Duration>,
    /// `redis`: bodies up to this size are kept in Redis as well (0: none).
    pub redis: u64,
    /// `key_headers`: request fields that are part of the key whatever `Vary` says; sorted, unique.
    pub key_headers: Vec<http::HeaderName>,
    /// `statuses`: those of [`REFUSALS`] that are stored as well, if the origin gives them a lifetime (none).
    pub statuses: Vec<u16>,
    /// `variants`: the most variants of one resource, by `Vary`, that are kept (32).
    pub variants: usize,
}

/// Statuses that as a rule refuse a request for something beside its target: its credentials, its fields, its
/// rate. They are stored only if a route names them.
pub const REFUSALS: [u16; 17] =
    [400, 401, 402, 403, 406, 407, 408, 411, 413, 415, 421, 422, 425, 426, 428, 429, 431];

/// `cache = { namespace = …, … }`
#[derive(Debug, Clone)]
pub struct CacheRules {
    /// `namespace`
    pub namespace: Namespace,
    /// `scope` (`public`)
    pub scope: CacheScope,
    /// `ttl`, required.
    pub ttl: Duration,
    /// `stale_while_revalidate` (0 s)
    pub stale_while_revalidate: Duration,
    /// `stale_if_error` (0 s)
    pub stale_if_error: Duration,
    /// `query`: the parameters that are part of the key and are sent to the origin; sorted, unique.
    pub query: Vec<String>,
    /// `negative_ttl` for 404 and 410 (0 s: not stored).
    pub negative_ttl: Duration,
    /// `max_size` of a stored body (1 MiB).
    pub max_size: u64,
    /// `fill_timeout`: the deadline of one fill (30 s).
    pub fill_timeout: Duration,
    /// `hedge`: how long the fill of another node is waited for; `None`: derived from the usual time of the
    /// route's fills.
    pub hedge: Option<Duration>,
    /// `stale_after`: how long a fill is waited for before the stale answer is served meanwhile; `None`: to
    /// its end.
    pub stale_after: Option<Duration>,
    /// `min_version_wait`: how long a request with `Tidegate-Min-Version` may wait for its answer (5 s).
    pub min_version_wait: Duration,
    /// `cache_control` sent to clients; `None`: derived from the scope and `ttl`.
    pub cache_control: Option<String>,
}

/// Words that can't be namespaces: in the store's keys they stand in the same place, before versions, leases,
/// the ids of events, the log of purges and the buckets of limits.
pub const RESERVED_NAMESPACES: [&str; 5] = ["ver", "lock", "event", "purge", "limit"];

/// The set of clients that share an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheScope {
    /// Everyone.
    Public,
    /// Everyone of a tenant; without a token: tenant `public`.
    Tenant,
    /// One user of a tenant; without a token: 401.
    User,
}

/// `[[event]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventConfig {
    /// `path`, exact. The last segment is the event's name in metrics.
    pub path: String,
    /// `secret`: one or several (`whsec_…` is base64, anything else is taken as it is).
    pub secrets: Vec<Secret>,
    /// `bump`: namespaces, at least one.
    pub bump: Vec<Namespace>,
    /// `forward`: index into [`Config::origins`] where `true` (with `origin = "…"`), else `None`.
    pub forward: Option<usize>,
    /// `rate`: events a second that are accepted (`100`), with bursts of twice that.
    pub rate: u32,
    /// `max_body` (64 KiB)
    pub max_body: u64,
}

/// `[encoding]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodingConfig {
    /// `types` that are worth encoding, lower case, without parameters.
    pub types: Vec<String>,
    /// `min_size` in bytes (1,024).
    pub min_size: u64,
    /// `prefer`: the order at equal q-values (`["br", "zstd", "gzip"]`).
    pub prefer: Vec<ContentCoding>,
    /// `levels`: per coding (`br` 5, `gzip` 6, `zstd` 3).
    pub levels: BTreeMap<ContentCoding, i32>,
    /// `memory` in bytes (128 MiB): what encoders of answers on their way may hold together.
    pub memory: u64,
}

/// A content coding that Tidegate can make (RFC 9110, 8.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ContentCoding {
    /// RFC 7932
    Brotli,
    /// RFC 8878
    Zstd,
    /// RFC 1952
    Gzip,
}
