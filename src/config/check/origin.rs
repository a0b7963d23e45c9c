//! `[[origin]]`, and how routes and events refer to one.

use super::{host::host_and_port, positive};
use crate::config::{
    fault::Report,
    raw,
    read::{At, Field, OneOrMany, Place},
    types::{Health, Origin, OriginServer},
};
use crate::name::Name;
use std::{collections::HashMap, time::Duration};

/// The origins by name.
pub(super) struct Known {
    /// `None` where a name is missing or faulty: nothing can then be said about references.
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
            report.unknown(&name.place, format!("unknown origin {:?}", name.value), &name.value, known);
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
pub(super) fn origins(raw: At<Vec<At<raw::Origin>>>, report: &mut Report) -> Option<Vec<Origin>> {
    if raw.value.is_empty() {
        report.fault(&raw.place, "must hold at least one");
        return None;
    }
    let checked: Vec<_> =
        raw.value.into_iter().map(|origin| check(origin.value, &origin.place, report)).collect();
    checked.into_iter().collect()
}

fn check(raw: raw::Origin, place: &Place, report: &mut Report) -> Option<Origin> {
    let name = raw.name.required("name", place, report);
    let servers = raw.servers.required("servers", place, report).and_then(|raw| servers(raw, report));
    let connect_timeout = positive(raw.connect_timeout, Duration::from_secs(2), report);
    let read_timeout = positive(raw.read_timeout, Duration::from_secs(30), report);
    let retries = raw.retries.or_if(2, |retries| *retries <= 10, "must be at most 10", report);
    let health = health(raw.health, report);
    Some(Origin {
        name: name?.value,
        servers: servers?,
        connect_timeout: connect_timeout?,
        read_timeout: read_timeout?,
        retries: retries?,
        health: health?,
    })
}

fn servers(raw: At<OneOrMany<String>>, report: &mut Report) -> Option<Vec<OriginServer>> {
    let OneOrMany(urls) = raw.value;
    if urls.is_empty() {
        report.fault(&raw.place, "must hold at least one");
        return None;
    }
    let mut servers = Vec::new();
    let mut all_good = true;
    for At { value, place } in urls {
        match server(&value) {
            Ok(server) if servers.contains(&server) => report.fault(&place, "stands there twice"),
            Ok(server) => servers.push(server),
            Err(complaint) => {
                report.fault(&place, complaint);
                all_good = false;
            }
        }
    }
    all_good.then_some(servers)
}

/// `http://host[:port]` or `https://host[:port]`. Complaints don't quote the URL, which may hold a password.
fn server(url: &str) -> Result<OriginServer, &'static str> {
    const FORM: &str = "must be http://host:port or https://host:port";
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
    Ok(OriginServer { tls, host: host.to_ascii_lowercase(), port })
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
    Some(Some(Health { path: path?, interval: interval?, timeout: timeout? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_a_scheme_a_host_and_a_port() {
        let good = |url, tls, host: &str, port| {
            assert_eq!(server(url), Ok(OriginServer { tls, host: host.to_owned(), port }), "{url}");
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
        ] {
            assert!(server(bad).is_err(), "{bad:?}");
        }
    }
}
