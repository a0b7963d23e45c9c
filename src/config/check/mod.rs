//! Checks the parsed file: fills in defaults, resolves references between tables and refuses combinations
//! that can't work. Each function checks all its keys before it gives up, so that every fault is reported,
//! and returns `None` only if one was.

mod address;
mod admin;
mod event;
mod host;
mod jwt;
pub(crate) mod listener;
pub(crate) mod live;
pub(crate) mod origin;
pub(crate) mod route;
mod secret;
mod store;
pub(super) mod surroundings;
mod unique;
mod values;

use super::{
    file::{fault::FaultReport, place::FilePlace, raw, ByteSize, OneOrMany, PlacedValue, TableField},
    types::{
        CacheMode, Config, ContentCoding, EncodingConfig, GatewayConfig, LogConfig, LogFormat, RouteConfig,
        StoreConfig, UnderscorePolicy,
    },
};
use ipnet::IpNet;
use std::{collections::BTreeMap, time::Duration};
use surroundings::CheckEnvironment;

use values::distinct;

/// Checks the whole file.
pub(super) fn check_file(
    raw: PlacedValue<raw::File>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<Config> {
    let PlacedValue { value: raw, place } = raw;
    let server = check_server(raw.server.or_default(), report);
    let mut addresses = Vec::new();
    let listeners = raw.listener.required("listener", &place, report);
    let listeners = listeners.and_then(|raw| listener::check_listeners(raw, &mut addresses, around, report));
    let admin = admin::check_admin(raw.admin, &addresses, report);
    let log = check_log(raw.log.or_default());
    let store = store::check_store(raw.store.or_default(), around, report);
    let tokens = !matches!(raw.jwt, TableField::Absent);
    let jwt = jwt::check_jwt(raw.jwt, around, report);
    let cookie = jwt.as_ref().and_then(|jwt| jwt.as_ref()?.cookie.clone());
    let (known, origins) = match raw.origin {
        TableField::Absent if files_alone(&raw.route) => {
            (origin::KnownOrigins::new(None, report), Some(Vec::new()))
        }
        given => {
            let origins = given.required("origin", &place, report);
            let known = origin::KnownOrigins::new(origins.as_ref(), report);
            (known, origins.and_then(|raw| origin::check_origins(raw, around, report)))
        }
    };
    if matches!(raw.route, TableField::Absent) {
        report.warn(
            &place.child("route", 0),
            "there is none: every request but an event's is answered with 404",
        );
    }
    if let (TableField::Given(routes), Some(store)) = (&raw.route, &store) {
        route::limit::check_shared_limits(&routes.value, store, report);
    }
    if let (TableField::Given(routes), Some(server)) = (&raw.route, &server) {
        route::dropped::warn(&routes.value, server.underscores, report);
    }
    let for_all = route::headers::check_global_rules(raw.headers, tokens, report);
    let headers = for_all.as_ref().map(|all| all.headers.clone());
    let around_routes = route::RouteReferences {
        origins: &known,
        tokens,
        cookie,
        headers: for_all.unwrap_or_default(),
        around,
    };
    let routes = raw.route.or(Vec::new()).and_then(|raw| route::check_routes(raw, around_routes, report));
    let store = store.map(|store| size_store(store, routes.as_deref().unwrap_or_default(), &place, report));
    let events = raw
        .event
        .or(Vec::new())
        .and_then(|raw| event::check_events(raw, &known, routes.as_deref(), around, report));
    let live = raw
        .live
        .or(Vec::new())
        .and_then(|raw| live::check_endpoints(raw, routes.as_deref(), events.as_deref(), report));
    let encoding = check_encoding(raw.encoding.or_default(), report);
    let accels =
        raw.accel.or(Vec::new()).and_then(|raw| route::files::check_accels(raw, &known, around, report));
    Some(Config {
        server: server?,
        listeners: listeners?,
        admin: admin?,
        log: log?,
        store: store?,
        jwt: jwt?,
        origins: origins?,
        routes: routes?,
        events: events?,
        encoding: encoding?,
        headers: headers?,
        accels: accels?,
        live: live?,
    })
}

/// Returns true if there are routes and all of them serve files, so that no origin is needed.
fn files_alone(routes: &TableField<Vec<PlacedValue<raw::Route>>>) -> bool {
    let sends_files = |route: &PlacedValue<raw::Route>| !matches!(route.value.files, TableField::Absent);
    matches!(routes, TableField::Given(routes) if !routes.value.is_empty() && routes.value.iter().all(sends_files))
}

/// Adds to the store the size of the largest answer that it has to hold.
fn size_store(
    store: StoreConfig,
    routes: &[RouteConfig],
    place: &FilePlace,
    report: &mut FaultReport,
) -> StoreConfig {
    let size = |route: &RouteConfig| match &route.cache {
        CacheMode::Off => 0,
        CacheMode::Versioned(rules) => rules.max_size,
        CacheMode::Follow(rules) => rules.max_size,
    };
    let largest = routes.iter().map(size).max().unwrap_or(0);
    if largest.saturating_mul(2) > store.memory {
        let place = place.child("store", 0).child("memory", 0);
        let text =
            format!("is less than twice the largest max_size ({largest} bytes): such answers are not kept");
        report.warn(&place, text);
    }
    StoreConfig { largest, ..store }
}

impl<T: Default> TableField<T> {
    /// A table, or one without keys where it is left out (or was no table, which is reported).
    fn or_default(self) -> T {
        self.or(T::default()).unwrap_or_default()
    }
}

fn check_server(mut raw: raw::Server, report: &mut FaultReport) -> Option<GatewayConfig> {
    let clients = listener::clients::check_clients(&mut raw, report);
    let threads = raw.threads.or_if(0, |threads| *threads <= 1024, "must be at most 1024", report);
    let drain = raw.drain.or(Duration::from_secs(30));
    // Pingora takes whole seconds and reads none as "without end".
    let whole_second = |keepalive: &Duration| keepalive.as_secs() > 0;
    let keepalive = raw.keepalive.or_if(Duration::from_secs(65), whole_second, "must be at least 1s", report);
    let keepalive_requests = raw.keepalive_requests.or(10_000);
    let threads = match threads {
        Some(0) => Some(std::thread::available_parallelism().map_or(1, usize::from)),
        other => other.and_then(|threads| usize::try_from(threads).ok()),
    };
    let trusted_proxies =
        raw.trusted_proxies.or(OneOrMany(Vec::new())).map(|networks| check_trusted_proxies(networks, report));
    let underscores = raw.underscores.or(UnderscorePolicy::Drop);
    Some(GatewayConfig {
        threads: threads?,
        drain: drain?,
        keepalive: keepalive?,
        keepalive_requests: keepalive_requests?,
        trusted_proxies: trusted_proxies?,
        underscores: underscores?,
        clients: clients?,
    })
}

fn check_trusted_proxies(networks: OneOrMany<IpNet>, report: &mut FaultReport) -> Vec<IpNet> {
    let each = |PlacedValue { value, place }: PlacedValue<IpNet>| {
        if value.prefix_len() == 0 {
            report.warn(&place, "holds every address: whoever connects says who he is");
        }
        value
    };
    networks.0.into_iter().map(each).collect()
}

fn check_log(raw: raw::Log) -> Option<LogConfig> {
    Some(LogConfig { format: raw.format.or(LogFormat::Auto)?, access: raw.access.or(true)? })
}

/// The content types that are encoded by default: text, by the names that servers give it.
const ENCODED_TYPES: &[&str] = &[
    "application/javascript",
    "application/json",
    "application/problem+json",
    "application/xml",
    "image/svg+xml",
    "text/css",
    "text/html",
    "text/javascript",
    "text/plain",
    "text/xml",
];

fn check_encoding(raw: raw::Encoding, report: &mut FaultReport) -> Option<EncodingConfig> {
    let types = match raw.types.optional() {
        Some(Some(types)) => media_types(types.value, report),
        Some(None) => Some(ENCODED_TYPES.iter().map(|name| (*name).to_owned()).collect()),
        None => None,
    };
    let min_size = raw.min_size.or(ByteSize(1024));
    let prefer = match raw.prefer.optional() {
        Some(Some(prefer)) => distinct(prefer.value, report),
        Some(None) => Some(vec![ContentCoding::Brotli, ContentCoding::Zstd, ContentCoding::Gzip]),
        None => None,
    };
    let levels = check_levels(raw.levels.or_default(), report);
    let memory = raw.memory.or(ByteSize(128 << 20));
    let (min_size, memory) = (min_size?.0, memory?.0);
    Some(EncodingConfig { types: types?, min_size, prefer: prefer?, levels: levels?, memory })
}

fn check_levels(raw: raw::Levels, report: &mut FaultReport) -> Option<BTreeMap<ContentCoding, i32>> {
    let mut level = |field: TableField<u32>, default: u32, range: std::ops::RangeInclusive<u32>| {
        let complaint = format!("must be from {} to {}", range.start(), range.end());
        field.or_if(default, |level| range.contains(level), &complaint, report)
    };
    let levels = [
        (ContentCoding::Brotli, level(raw.br, 5, 0..=11)),
        (ContentCoding::Zstd, level(raw.zstd, 3, 1..=22)),
        (ContentCoding::Gzip, level(raw.gzip, 6, 1..=9)),
    ];
    levels.into_iter().map(|(coding, level)| Some((coding, i32::try_from(level?).ok()?))).collect()
}

/// Lower-case `type/subtype`s.
fn media_types(raw: Vec<PlacedValue<String>>, report: &mut FaultReport) -> Option<Vec<String>> {
    let token = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    let mut check = |PlacedValue { value, place }: PlacedValue<String>| match value.split_once('/') {
        Some((kind, subtype)) if token(kind) && token(subtype) => Some(value.to_ascii_lowercase()),
        _ => {
            report.fault(&place, "must be a media type without parameters, such as \"application/json\"");
            None
        }
    };
    let checked: Vec<_> = raw.into_iter().map(&mut check).collect();
    checked.into_iter().collect()
}
