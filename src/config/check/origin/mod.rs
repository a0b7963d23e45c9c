//! `[[origin]]`, and how routes and events refer to one.

pub(crate) mod tls;
use super::{
    host::host_and_port,
    secret,
    surroundings::CheckEnvironment,
    values::{cookie_name, positive},
};
use crate::{
    config::{
        file::{
            fault::FaultReport, hints, place::FilePlace, raw, ByteSize, OneOrMany, PlacedValue, TableField,
        },
        origin::{BalanceMethod, HealthConfig, OriginConfig, ServerAddress, ServerEntry, StickyConfig},
        secret::Secret,
    },
    name::Name,
};

use http::{header, HeaderName, HeaderValue};
use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU32,
    time::Duration,
};

/// The origins by name.
pub(crate) struct KnownOrigins {
    /// `None` if a name is missing or faulty: references can't be checked then.
    names: Option<HashMap<Name, usize>>,
}

impl KnownOrigins {
    /// Takes the names; two equal ones are a fault.
    pub(crate) fn new(
        origins: Option<&PlacedValue<Vec<PlacedValue<raw::Origin>>>>,
        report: &mut FaultReport,
    ) -> Self {
        let mut names = HashMap::new();
        for (index, origin) in origins.iter().flat_map(|origins| &origins.value).enumerate() {
            let TableField::Given(PlacedValue { value, place }) = &origin.value.name else {
                return Self { names: None };
            };
            if let Some(twin) = names.insert(value.clone(), index) {
                report.fault(place, format!("the same name as origin[{twin}]"));
            }
        }
        Self { names: Some(names).filter(|names| !names.is_empty()) }
    }

    /// The index of the origin of this name.
    pub(crate) fn find(&self, name: &PlacedValue<String>, report: &mut FaultReport) -> Option<usize> {
        let names = self.names.as_ref()?;
        let index = name.value.parse::<Name>().ok().and_then(|name| names.get(&name).copied());
        if index.is_none() {
            let mut known: Vec<&str> = names.keys().map(Name::as_str).collect();
            known.sort_unstable();
            if name.value.contains("://") || name.value.starts_with("unix:") {
                let text = "must be the name of an [[origin]]: the address stands in its servers";
                report.fault(&name.place, text);
                return None;
            }
            let shown = hints::shown(&name.value);
            report.unknown(&name.place, format!("unknown origin {shown}"), &name.value, known);
        }
        index
    }

    /// The index of the only origin; that there are several is a fault of the table at `table`.
    pub(crate) fn only(&self, table: &FilePlace, report: &mut FaultReport) -> Option<usize> {
        let names = self.names.as_ref()?;
        if names.len() != 1 {
            report.fault(&table.child("origin", table.offset), "missing, there are several to choose from");
            return None;
        }
        Some(0)
    }
}

/// Checks every `[[origin]]`.
pub(crate) fn check_origins(
    raw: PlacedValue<Vec<PlacedValue<raw::Origin>>>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<Vec<OriginConfig>> {
    if raw.value.is_empty() {
        report.fault(&raw.place, "must hold at least one");
        return None;
    }
    let cookies = |origin: &PlacedValue<raw::Origin>| match &origin.value.sticky {
        TableField::Given(PlacedValue {
            value: raw::Sticky { cookie: TableField::Given(cookie), .. },
            ..
        }) => Some(cookie.clone()),
        _ => None,
    };
    let mut names = HashSet::new();
    for cookie in raw.value.iter().filter_map(cookies) {
        if !names.insert(cookie.value) {
            report.fault(
                &cookie.place,
                "another origin has a cookie of this name: each would forget the other's",
            );
        }
    }
    let checked: Vec<_> = raw
        .value
        .into_iter()
        .map(|origin| check_origin(origin.value, &origin.place, around, report))
        .collect();
    checked.into_iter().collect()
}

fn check_origin(
    raw: raw::Origin,
    place: &FilePlace,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<OriginConfig> {
    let tls_place = match &raw.tls {
        TableField::Given(PlacedValue { place, .. }) => Some(place.clone()),
        _ => None,
    };
    let name = raw.name.required("name", place, report);
    let servers =
        raw.servers.required("servers", place, report).and_then(|raw| check_origin_servers(raw, report));
    let tls = tls::check_origin_tls(raw.tls, around, report);
    if let (Some(tls), Some(servers)) = (&tls, &servers) {
        tls::fits(tls, servers, tls_place.as_ref(), report);
    }
    let sticky = check_sticky(raw.sticky, around, report);
    let balance =
        raw.balance.or(raw::RawBalance::RoundRobin).and_then(|raw| check_balance(raw, place, report));
    let http2 = raw.http2.or(false);
    let limits = check_origin_limits(raw.max_connections, raw.queue, raw.queue_timeout, report);
    let connect_timeout = positive(raw.connect_timeout, Duration::from_secs(2), report);
    let read_timeout = positive(raw.read_timeout, Duration::from_secs(30), report);
    let idle_timeout = positive(raw.idle_timeout, Duration::from_secs(60), report);
    let request_timeout = raw.request_timeout.or(Duration::ZERO);
    let receive_buffer = receive_buffer(raw.receive_buffer, report);
    let retries = raw.retries.or_if(2, |retries| *retries <= 10, "must be at most 10", report);
    let health = check_health(raw.health, report);
    let panic_mode = raw.panic_mode.or(true);
    let refills = super::live::check_refills(raw.refills, report);
    let (max_connections, queue, queue_timeout) = limits?;
    Some(OriginConfig {
        name: name?.value,
        servers: servers?.into_iter().map(|(server, _)| server).collect(),
        balance: balance?,
        sticky: sticky?,
        http2: http2?,
        tls: tls?,
        max_connections,
        queue,
        queue_timeout,
        connect_timeout: connect_timeout?,
        read_timeout: read_timeout?,
        request_timeout: request_timeout.map(|t| Some(t).filter(|t| !t.is_zero()))?,
        idle_timeout: idle_timeout?,
        receive_buffer: receive_buffer?,
        retries: retries?,
        health: health?,
        panic_mode: panic_mode?,
        refills: refills?,
    })
}

/// The size of the kernel's receive buffer in bytes; `0` leaves it to the kernel.
fn receive_buffer(raw: TableField<ByteSize>, report: &mut FaultReport) -> Option<Option<u32>> {
    let fits = |size: &ByteSize| size.0 == 0 || (16 << 10..=64 << 20).contains(&size.0);
    let size = raw.or_if(ByteSize(256 << 10), fits, "must be 0, or 16KiB to 64MiB", report)?;
    Some(u32::try_from(size.0).ok().filter(|size| *size > 0))
}

/// The servers, each with its place in the file.
fn check_origin_servers(
    raw: PlacedValue<OneOrMany<raw::RawServer>>,
    report: &mut FaultReport,
) -> Option<Vec<(ServerEntry, FilePlace)>> {
    let OneOrMany(all) = raw.value;
    if all.is_empty() {
        report.fault(&raw.place, "must hold at least one");
        return None;
    }
    let mut servers: Vec<(ServerEntry, FilePlace)> = Vec::new();
    let mut all_good = true;
    for PlacedValue { value, place } in all {
        match check_origin_server(value, place, report) {
            Some((server, place)) if servers.iter().any(|(other, _)| other.address == server.address) => {
                report.fault(&place, "stands there twice");
            }
            Some(server) => servers.push(server),
            None => all_good = false,
        }
    }
    all_good.then_some(servers)
}

fn check_origin_server(
    raw: raw::RawServer,
    place: FilePlace,
    report: &mut FaultReport,
) -> Option<(ServerEntry, FilePlace)> {
    let (url, weight) = match raw {
        raw::RawServer::Url(url) => (Some(PlacedValue { value: url, place }), Some(1)),
        raw::RawServer::Weighted(raw) => {
            let url = raw.url.required("url", &place, report);
            let within = |weight: &u32| (1..=1000).contains(weight);
            (url, raw.weight.or_if(1, within, "must be from 1 to 1000", report))
        }
    };
    let PlacedValue { value: url, place } = url?;
    match address(&url) {
        Ok(address) => Some((ServerEntry { address, weight: weight? }, place)),
        Err(complaint) => {
            report.fault(&place, complaint);
            None
        }
    }
}

/// `http://host[:port]`, `https://host[:port]` or `unix:/path`. Faults don't quote the URL, which may hold a
/// password.
fn address(url: &str) -> Result<ServerAddress, &'static str> {
    const FORM: &str = "must be http://host:port, https://host:port or unix:/path";
    if let Some(path) = url.strip_prefix("unix:") {
        return socket(path.strip_prefix("//").unwrap_or(path));
    }
    if url.starts_with("http://unix:") {
        return Err("is nginx's way to write a socket: here it is \"unix:/path\", without http://");
    }
    let (tls, authority) = match url.split_once("://") {
        Some(("http", rest)) => (false, rest),
        Some(("https", rest)) => (true, rest),
        _ => return Err(FORM),
    };
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    if authority.contains('@') {
        return Err("must not hold a user or a password");
    }
    if authority.contains(['/', '?', '#']) {
        return Err("must end with the port: the path of a request reaches the origin unchanged");
    }
    let (host, port) = host_and_port(authority, if tls { 443 } else { 80 }).ok_or(FORM)?;
    Ok(ServerAddress::Tcp { tls, host: host.to_ascii_lowercase(), port })
}

/// The longest path that a socket may have (`sun_path`, with its end).
const MAX_SOCKET: usize = 107;

fn socket(path: &str) -> Result<ServerAddress, &'static str> {
    match path.starts_with('/') && path.len() > 1 && path.len() <= MAX_SOCKET && !path.contains('\0') {
        true => Ok(ServerAddress::Unix(path.into())),
        false => Err("must be unix: and the whole path of a socket, at most 107 bytes"),
    }
}

fn check_balance(raw: raw::RawBalance, table: &FilePlace, report: &mut FaultReport) -> Option<BalanceMethod> {
    Some(match raw {
        raw::RawBalance::RoundRobin => BalanceMethod::RoundRobin,
        raw::RawBalance::LeastConnections => BalanceMethod::LeastConnections,
        raw::RawBalance::Hash(raw) => {
            let place = table.child("balance", table.offset);
            BalanceMethod::Hash(raw.hash.required("hash", &place, report)?.value)
        }
    })
}

fn check_sticky(
    raw: TableField<raw::Sticky>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<Option<StickyConfig>> {
    let Some(PlacedValue { value: raw, place }) = raw.optional()? else { return Some(None) };
    let (query, cookie) = (cookie_name(raw.query, report), cookie_name(raw.cookie, report));
    let secret = match raw.secret.optional() {
        Some(Some(PlacedValue { value, place })) => {
            secret::text(value, &place, around, report).map(|text| Some(Secret::new(text)))
        }
        Some(None) => Some(None),
        None => None,
    };
    let (query, cookie) = (query?, cookie?);
    if query.is_none() && cookie.is_none() {
        report.fault(&place, "must have query, cookie or both");
        return None;
    }
    Some(Some(StickyConfig { query, cookie, secret: secret? }))
}

/// The longest queue: each place in it is memory, and a client that waits.
const MAX_QUEUE: u32 = 10_000;

type OriginLimits = (Option<NonZeroU32>, usize, Duration);

fn check_origin_limits(
    max: TableField<u32>,
    queue: TableField<u32>,
    timeout: TableField<Duration>,
    report: &mut FaultReport,
) -> Option<OriginLimits> {
    let queued = match (&queue, &timeout) {
        (TableField::Given(PlacedValue { place, .. }), _)
        | (_, TableField::Given(PlacedValue { place, .. })) => Some(place.clone()),
        _ => None,
    };
    let max = max.or(0).map(NonZeroU32::new);
    let queue = queue.or_if(100, |queue| *queue <= MAX_QUEUE, "must be at most 10000", report);
    let timeout = positive(timeout, Duration::from_secs(5), report);
    if let (Some(None), Some(place)) = (max, queued) {
        report.warn(&place, "has no effect without max_connections: nobody waits");
    }
    Some((max?, usize::try_from(queue?).ok()?, timeout?))
}

fn check_health(raw: TableField<raw::Health>, report: &mut FaultReport) -> Option<Option<HealthConfig>> {
    let Some(PlacedValue { value: raw, place }) = raw.optional()? else { return Some(None) };
    let path = raw.path.required("path", &place, report);
    let path = path.and_then(|PlacedValue { value, place }| {
        let visible = value.starts_with('/') && value.bytes().all(|b| b.is_ascii_graphic());
        if !visible {
            report.fault(&place, "must begin with \"/\" and hold no spaces");
        }
        visible.then_some(value)
    });
    let interval = positive(raw.interval, Duration::from_secs(5), report);
    let timeout = positive(raw.timeout, Duration::from_secs(2), report);
    let host = match raw.host.optional() {
        Some(Some(PlacedValue { value, place })) if host_and_port(&value, 80).is_none() => {
            report.fault(&place, "must be a name or an address, with or without a port");
            None
        }
        Some(host) => Some(host.map(|host| host.value)),
        None => None,
    };
    let headers = raw.headers.or(raw::RuleLines(Vec::new())).and_then(|lines| check_fields(lines, report));
    let (path, host, headers) = (path?, host?, headers?);
    Some(Some(HealthConfig { path, interval: interval?, timeout: timeout?, host, headers }))
}

/// The fields of a check.
fn check_fields(
    raw::RuleLines(lines): raw::RuleLines,
    report: &mut FaultReport,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let framing = [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION];
    let mut fields = Some(Vec::new());
    for (PlacedValue { value: name, place }, values) in lines {
        let field = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| !framing.contains(name));
        if field.is_none() {
            report
                .fault(&place, "must be a field's name, and none that frames a request; Host is health.host");
            fields = None;
        }
        for PlacedValue { value: raw::RuleLine(value), place } in values {
            let value = HeaderValue::from_str(&value).ok();
            if value.is_none() {
                report.fault(&place, "must be a field's value");
                fields = None;
            }
            if let (Some(fields), Some(field), Some(value)) = (&mut fields, &field, value) {
                fields.push((field.clone(), value));
            }
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_a_scheme_a_host_and_a_port() {
        let good = |url, tls, host: &str, port| {
            let wanted = ServerAddress::Tcp { tls, host: host.to_owned(), port };
            assert_eq!(address(url), Ok(wanted), "{url}");
        };
        good("http://127.0.0.1:5000", false, "127.0.0.1", 5000);
        good("http://App.internal:5000/", false, "app.internal", 5000);
        good("https://app", true, "app", 443);
        good("http://app", false, "app", 80);
        good("http://[::1]:5000", false, "::1", 5000);
        for bad in [
            "",
            "app:5000",
            "http://",
            "https://",
            "https://:443",
            "http://:80",
            "ftp://a",
            "http://a:",
            "http://a:0",
            "http://a:70000",
            "http://a:x",
            "http://u:p@a:1",
            "http://a:1/x",
            "http://a:1?x",
            "http://a b:1",
            "HTTP://a:1",
            "http://a:1//",
            "unix:",
            "unix:/",
            "unix:app.sock",
            "unix://app.sock",
        ] {
            assert!(address(bad).is_err(), "{bad:?}");
        }
        for url in ["unix:/run/app.sock", "unix:///run/app.sock"] {
            assert_eq!(address(url), Ok(ServerAddress::Unix("/run/app.sock".into())), "{url}");
        }
        assert!(address(&format!("unix:/{}", "x".repeat(107))).is_err());
    }

    #[test]
    fn an_address_reads_as_it_is_written() {
        for url in ["http://a:1", "https://a:443", "http://[::1]:5000", "unix:/run/app.sock"] {
            assert_eq!(address(url).expect("is good").to_string(), url);
        }
    }
}
