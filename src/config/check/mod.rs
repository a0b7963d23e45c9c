//! Checks the parsed file: fills in defaults, resolves references between tables and refuses combinations
//! that can't work. Each function checks all its keys before it gives up, so that every fault is reported,
//! and returns `None` only if one was.

mod address;
mod admin;
mod cache;
mod clients;
mod cors;
mod dropped;
mod event;
mod files;
mod headers;
mod host;
mod jwt;
mod limit;
mod listener;
mod origin;
mod origin_tls;
mod route;
mod secret;
mod signed;
mod store;
pub(super) mod surroundings;
mod unique;
mod values;
mod websocket;

use super::{
    fault::Report,
    place::Place,
    raw,
    read::{At, Field, OneOrMany, Size},
    types::{CacheMode, Coding, Config, Encoding, Log, LogFormat, Route, Server, Store, Underscores},
};
use ipnet::IpNet;
use std::{collections::BTreeMap, time::Duration};
use surroundings::Surroundings;
use values::distinct;

/// Checks the whole file.
pub(super) fn file(raw: At<raw::File>, around: &Surroundings<'_>, report: &mut Report) -> Option<Config> {
    let At { value: raw, place } = raw;
    let server = server(raw.server.or_default(), report);
    let mut addresses = Vec::new();
    let listeners = raw.listener.required("listener", &place, report);
    let listeners = listeners.and_then(|raw| listener::listeners(raw, &mut addresses, around, report));
    let admin = admin::admin(raw.admin, &addresses, report);
    let log = log(raw.log.or_default());
    let store = store::store(raw.store.or_default(), around, report);
    let tokens = !matches!(raw.jwt, Field::Absent);
    let jwt = jwt::jwt(raw.jwt, around, report);
    let (known, origins) = match raw.origin {
        Field::Absent if files_alone(&raw.route) => (origin::Known::new(None, report), Some(Vec::new())),
        given => {
            let origins = given.required("origin", &place, report);
            let known = origin::Known::new(origins.as_ref(), report);
            (known, origins.and_then(|raw| origin::origins(raw, around, report)))
        }
    };
    if matches!(raw.route, Field::Absent) {
        report.warn(
            &place.child("route", 0),
            "there is none: every request but an event's is answered with 404",
        );
    }
    if let (Field::Given(routes), Some(store)) = (&raw.route, &store) {
        limit::shared(&routes.value, store, report);
    }
    if let (Field::Given(routes), Some(server)) = (&raw.route, &server) {
        dropped::warn(&routes.value, server.underscores, report);
    }
    let for_all = headers::for_all(raw.headers, tokens, report);
    let headers = for_all.as_ref().map(|all| all.headers.clone());
    let around_routes =
        route::Around { origins: &known, tokens, headers: for_all.unwrap_or_default(), around };
    let routes = raw.route.or(Vec::new()).and_then(|raw| route::routes(raw, around_routes, report));
    let store = store.map(|store| sized(store, routes.as_deref().unwrap_or_default(), &place, report));
    let events = raw
        .event
        .or(Vec::new())
        .and_then(|raw| event::events(raw, &known, routes.as_deref(), around, report));
    let encoding = encoding(raw.encoding.or_default(), report);
    let accels = raw.accel.or(Vec::new()).and_then(|raw| files::accels(raw, &known, around, report));
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
    })
}

/// Returns true if there are routes and all of them serve files, so that no origin is needed.
fn files_alone(routes: &Field<Vec<At<raw::Route>>>) -> bool {
    let sends_files = |route: &At<raw::Route>| !matches!(route.value.files, Field::Absent);
    matches!(routes, Field::Given(routes) if !routes.value.is_empty() && routes.value.iter().all(sends_files))
}

/// Adds to the store the size of the largest answer that it has to hold.
fn sized(store: Store, routes: &[Route], place: &Place, report: &mut Report) -> Store {
    let size = |route: &Route| match &route.cache {
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
    Store { largest, ..store }
}

impl<T: Default> Field<T> {
    /// A table, or one without keys where it is left out (or was no table, which is reported).
    fn or_default(self) -> T {
        self.or(T::default()).unwrap_or_default()
    }
}

fn server(mut raw: raw::Server, report: &mut Report) -> Option<Server> {
    let clients = clients::clients(&mut raw, report);
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
        raw.trusted_proxies.or(OneOrMany(Vec::new())).map(|networks| trusted(networks, report));
    let underscores = raw.underscores.or(Underscores::Drop);
    Some(Server {
        threads: threads?,
        drain: drain?,
        keepalive: keepalive?,
        keepalive_requests: keepalive_requests?,
        trusted_proxies: trusted_proxies?,
        underscores: underscores?,
        clients: clients?,
    })
}

fn trusted(networks: OneOrMany<IpNet>, report: &mut Report) -> Vec<IpNet> {
    let each = |At { value, place }: At<IpNet>| {
        if value.prefix_len() == 0 {
            report.warn(&place, "holds every address: whoever connects says who he is");
        }
        value
    };
    networks.0.into_iter().map(each).collect()
}

fn log(raw: raw::Log) -> Option<Log> {
    Some(Log { format: raw.format.or(LogFormat::Auto)?, access: raw.access.or(true)? })
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

fn encoding(raw: raw::Encoding, report: &mut Report) -> Option<Encoding> {
    let types = match raw.types.optional() {
        Some(Some(types)) => media_types(types.value, report),
        Some(None) => Some(ENCODED_TYPES.iter().map(|name| (*name).to_owned()).collect()),
        None => None,
    };
    let min_size = raw.min_size.or(Size(1024));
    let prefer = match raw.prefer.optional() {
        Some(Some(prefer)) => distinct(prefer.value, report),
        Some(None) => Some(vec![Coding::Brotli, Coding::Zstd, Coding::Gzip]),
        None => None,
    };
    let levels = levels(raw.levels.or_default(), report);
    let memory = raw.memory.or(Size(128 << 20));
    let (min_size, memory) = (min_size?.0, memory?.0);
    Some(Encoding { types: types?, min_size, prefer: prefer?, levels: levels?, memory })
}

fn levels(raw: raw::Levels, report: &mut Report) -> Option<BTreeMap<Coding, i32>> {
    let mut level = |field: Field<u32>, default: u32, range: std::ops::RangeInclusive<u32>| {
        let complaint = format!("must be from {} to {}", range.start(), range.end());
        field.or_if(default, |level| range.contains(level), &complaint, report)
    };
    let levels = [
        (Coding::Brotli, level(raw.br, 5, 0..=11)),
        (Coding::Zstd, level(raw.zstd, 3, 1..=22)),
        (Coding::Gzip, level(raw.gzip, 6, 1..=9)),
    ];
    levels.into_iter().map(|(coding, level)| Some((coding, i32::try_from(level?).ok()?))).collect()
}

/// Lower-case `type/subtype`s.
fn media_types(raw: Vec<At<String>>, report: &mut Report) -> Option<Vec<String>> {
    let token = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    let mut check = |At { value, place }: At<String>| match value.split_once('/') {
        Some((kind, subtype)) if token(kind) && token(subtype) => Some(value.to_ascii_lowercase()),
        _ => {
            report.fault(&place, "must be a media type without parameters, such as \"application/json\"");
            None
        }
    };
    let checked: Vec<_> = raw.into_iter().map(&mut check).collect();
    checked.into_iter().collect()
}
