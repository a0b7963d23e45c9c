//! `[[origin]]`, and how routes and events refer to one.

use super::{host::host_and_port, origin_tls, secret, surroundings::Surroundings, values::positive};
use crate::{
    config::{
        fault::Report,
        hints,
        origin::{Balance, Health, Origin, OriginServer, ServerAddress, Sticky},
        place::Place,
        raw,
        read::{At, Field, OneOrMany, Size},
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
pub(super) struct Known {
    /// `None` if a name is missing or faulty: references can't be checked then.
    names: Option<HashMap<Name, usize>>,
}

impl Known {
    /// Takes the names; two equal ones are a fault.
    pub(super) fn new(origins: Option<&At<Vec<At<raw::Origin>>>>, report: &mut Report) -> Self {
        let mut names = HashMap::new();
        for (index, origin) in origins.iter().flat_map(|origins| &origins.value).enumerate() {
            let Field::Given(At { value, place }) = &origin.value.name else { return Self { names: None } };
            if let Some(twin) = names.insert(value.clone(), index) {
                report.fault(place, format!("the same name as origin[{twin}]"));
            }
        }
        Self { names: Some(names).filter(|names| !names.is_empty()) }
    }

    /// The index of the origin of this name.
    pub(super) fn find(&self, name: &At<String>, report: &mut Report) -> Option<usize> {
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
    pub(super) fn only(&self, table: &Place, report: &mut Report) -> Option<usize> {
        let names = self.names.as_ref()?;
        if names.len() != 1 {
            report.fault(&table.child("origin", table.offset), "missing, there are several to choose from");
            return None;
        }
        Some(0)
    }
}

/// Checks every `[[origin]]`.
pub(super) fn origins(
    raw: At<Vec<At<raw::Origin>>>,
    around: &Surroundings<'_>,
    report: &mut Report,
) -> Option<Vec<Origin>> {
    if raw.value.is_empty() {
        report.fault(&raw.place, "must hold at least one");
        return None;
    }
    let cookies = |origin: &At<raw::Origin>| match &origin.value.sticky {
        Field::Given(At { value: raw::Sticky { cookie: Field::Given(cookie), .. }, .. }) => {
            Some(cookie.clone())
        }
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
    let checked: Vec<_> =
        raw.value.into_iter().map(|origin| check(origin.value, &origin.place, around, report)).collect();
    checked.into_iter().collect()
}

fn check(raw: raw::Origin, place: &Place, around: &Surroundings<'_>, report: &mut Report) -> Option<Origin> {
    let tls_place = match &raw.tls {
        Field::Given(At { place, .. }) => Some(place.clone()),
        _ => None,
    };
    let name = raw.name.required("name", place, report);
    let servers = raw.servers.required("servers", place, report).and_then(|raw| servers(raw, report));
    let tls = origin_tls::tls(raw.tls, around, report);
    if let (Some(tls), Some(servers)) = (&tls, &servers) {
        origin_tls::fits(tls, servers, tls_place.as_ref(), report);
    }
    let sticky = sticky(raw.sticky, around, report);
    let balance = raw.balance.or(raw::Balance::RoundRobin).and_then(|raw| balance(raw, place, report));
    let http2 = raw.http2.or(false);
    let limits = limits(raw.max_connections, raw.queue, raw.queue_timeout, report);
    let connect_timeout = positive(raw.connect_timeout, Duration::from_secs(2), report);
    let read_timeout = positive(raw.read_timeout, Duration::from_secs(30), report);
    let idle_timeout = positive(raw.idle_timeout, Duration::from_secs(60), report);
    let request_timeout = raw.request_timeout.or(Duration::ZERO);
    let receive_buffer = receive_buffer(raw.receive_buffer, report);
    let retries = raw.retries.or_if(2, |retries| *retries <= 10, "must be at most 10", report);
    let health = health(raw.health, report);
    let panic_mode = raw.panic_mode.or(true);
    let (max_connections, queue, queue_timeout) = limits?;
    Some(Origin {
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
    })
}

/// The size of the kernel's receive buffer in bytes; `0` leaves it to the kernel.
fn receive_buffer(raw: Field<Size>, report: &mut Report) -> Option<Option<u32>> {
    let fits = |size: &Size| size.0 == 0 || (16 << 10..=64 << 20).contains(&size.0);
    let size = raw.or_if(Size(256 << 10), fits, "must be 0, or 16KiB to 64MiB", report)?;
    Some(u32::try_from(size.0).ok().filter(|size| *size > 0))
}

/// The servers, each with its place in the file.
fn servers(raw: At<OneOrMany<raw::OriginServer>>, report: &mut Report) -> Option<Vec<(OriginServer, Place)>> {
    let OneOrMany(all) = raw.value;
    if all.is_empty() {
        report.fault(&raw.place, "must hold at least one");
        return None;
    }
    let mut servers: Vec<(OriginServer, Place)> = Vec::new();
    let mut all_good = true;
    for At { value, place } in all {
        match server(value, place, report) {
            Some((server, place)) if servers.iter().any(|(other, _)| other.address == server.address) => {
                report.fault(&place, "stands there twice");
            }
            Some(server) => servers.push(server),
            None => all_good = false,
        }
    }
    all_good.then_some(servers)
}

fn server(raw: raw::OriginServer, place: Place, report: &mut Report) -> Option<(OriginServer, Place)> {
    let (url, weight) = match raw {
        raw::OriginServer::Url(url) => (Some(At { value: url, place }), Some(1)),
        raw::OriginServer::Weighted(raw) => {
            let url = raw.url.required("url", &place, report);
            let within = |weight: &u32| (1..=1000).contains(weight);
            (url, raw.weight.or_if(1, within, "must be from 1 to 1000", report))
        }
    };
    let At { value: url, place } = url?;
    match address(&url) {
        Ok(address) => Some((OriginServer { address, weight: weight? }, place)),
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

fn balance(raw: raw::Balance, table: &Place, report: &mut Report) -> Option<Balance> {
    Some(match raw {
        raw::Balance::RoundRobin => Balance::RoundRobin,
        raw::Balance::LeastConnections => Balance::LeastConnections,
        raw::Balance::Hash(raw) => {
            let place = table.child("balance", table.offset);
            Balance::Hash(raw.hash.required("hash", &place, report)?.value)
        }
    })
}

fn sticky(raw: Field<raw::Sticky>, around: &Surroundings<'_>, report: &mut Report) -> Option<Option<Sticky>> {
    let Some(At { value: raw, place }) = raw.optional()? else { return Some(None) };
    let token = |text: &String| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        text.len() <= 64 && text.bytes().all(plain)
    };
    let mut word = |field: Field<String>| match field.optional() {
        Some(Some(At { value, .. })) if token(&value) => Some(Some(value)),
        Some(Some(At { place, .. })) => {
            report.fault(&place, "must be a name of letters, digits and a few signs, at most 64 of them");
            None
        }
        Some(None) => Some(None),
        None => None,
    };
    let (query, cookie) = (word(raw.query), word(raw.cookie));
    let secret = match raw.secret.optional() {
        Some(Some(At { value, place })) => {
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
    Some(Some(Sticky { query, cookie, secret: secret? }))
}

/// The longest queue: each place in it is memory, and a client that waits.
const MAX_QUEUE: u32 = 10_000;

type Limits = (Option<NonZeroU32>, usize, Duration);

fn limits(
    max: Field<u32>,
    queue: Field<u32>,
    timeout: Field<Duration>,
    report: &mut Report,
) -> Option<Limits> {
    let queued = match (&queue, &timeout) {
        (Field::Given(At { place, .. }), _) | (_, Field::Given(At { place, .. })) => Some(place.clone()),
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

fn health(raw: Field<raw::Health>, report: &mut Report) -> Option<Option<Health>> {
    let Some(At { value: raw, place }) = raw.optional()? else { return Some(None) };
    let path = raw.path.required("path", &place, report);
    let path = path.and_then(|At { value, place }| {
        let visible = value.starts_with('/') && value.bytes().all(|b| b.is_ascii_graphic());
        if !visible {
            report.fault(&place, "must begin with \"/\" and hold no spaces");
        }
        visible.then_some(value)
    });
    let interval = positive(raw.interval, Duration::from_secs(5), report);
    let timeout = positive(raw.timeout, Duration::from_secs(2), report);
    let host = match raw.host.optional() {
        Some(Some(At { value, place })) if host_and_port(&value, 80).is_none() => {
            report.fault(&place, "must be a name or an address, with or without a port");
            None
        }
        Some(host) => Some(host.map(|host| host.value)),
        None => None,
    };
    let headers = raw.headers.or(raw::Lines(Vec::new())).and_then(|lines| check_fields(lines, report));
    let (path, host, headers) = (path?, host?, headers?);
    Some(Some(Health { path, interval: interval?, timeout: timeout?, host, headers }))
}

/// The fields of a check.
fn check_fields(
    raw::Lines(lines): raw::Lines,
    report: &mut Report,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let framing = [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION];
    let mut fields = Some(Vec::new());
    for (At { value: name, place }, values) in lines {
        let field = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| !framing.contains(name));
        if field.is_none() {
            report
                .fault(&place, "must be a field's name, and none that frames a request; Host is health.host");
            fields = None;
        }
        for At { value: raw::Line(value), place } in values {
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
