//! `[[event]]`: signed calls that move versions.

use super::{
    origin::KnownOrigins,
    secret::resolve_secrets,
    surroundings::CheckEnvironment,
    values::{distinct, positive_size, NOT_ZERO},
};
use crate::{
    config::{
        file::{
            fault::{nearest, FaultReport},
            place::FilePlace,
            raw, OneOrMany, PlacedValue, TableField,
        },
        secret::Secret,
        types::{CacheMode, EventConfig, PathPattern, RouteConfig},
    },
    name::Namespace,
};

use base64::{engine::general_purpose::STANDARD, Engine};
use std::collections::HashMap;

/// Checks every `[[event]]`.
pub(super) fn check_events(
    raw: Vec<PlacedValue<raw::Event>>,
    origins: &KnownOrigins,
    routes: Option<&[RouteConfig]>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<Vec<EventConfig>> {
    let mut taken: HashMap<String, usize> = HashMap::new();
    let mut checked = Vec::new();
    for (index, PlacedValue { value, place }) in raw.into_iter().enumerate() {
        if let TableField::Given(PlacedValue { value, place }) = &value.path {
            if let Some(twin) = taken.insert(value.clone(), index) {
                report.fault(place, format!("the same path as event[{twin}]"));
            }
        }
        checked.push(check_event(value, &place, origins, routes, around, report));
    }
    checked.into_iter().collect()
}

fn check_event(
    raw: raw::Event,
    place: &FilePlace,
    origins: &KnownOrigins,
    routes: Option<&[RouteConfig]>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<EventConfig> {
    let path = raw.path.required("path", place, report).and_then(|path| exact(path, routes, report));
    let secrets =
        resolve_secrets(raw.secret, place, around, report).and_then(|secrets| signing_keys(secrets, report));
    let bump = raw.bump.required("bump", place, report).and_then(|raw| namespaces(raw, routes, report));
    let origin = raw.origin.optional();
    let forward = match (raw.forward.or(false), origin) {
        (Some(true), Some(Some(name))) => origins.find(&name, report).map(Some),
        (Some(true), Some(None)) => origins.only(place, report).map(Some),
        (Some(false), Some(Some(name))) => {
            report.warn(&name.place, "does nothing without forward = true");
            origins.find(&name, report).map(|_| None)
        }
        (Some(false), Some(None)) => Some(None),
        _ => None,
    };
    let rate = raw.rate.or_if(100, |rate| *rate > 0, NOT_ZERO, report);
    let max_body = positive_size(raw.max_body, 64 << 10, report);
    Some(EventConfig {
        path: path?,
        secrets: secrets?,
        bump: bump?,
        forward: forward?,
        rate: rate?,
        max_body: max_body?,
    })
}

fn exact(
    path: PlacedValue<String>,
    routes: Option<&[RouteConfig]>,
    report: &mut FaultReport,
) -> Option<String> {
    let PlacedValue { value, place } = path;
    if value.contains('*') {
        report.fault(&place, "must be exact, without \"*\"");
        return None;
    }
    match raw::exact_path(&value) {
        Ok(path) => {
            let same = |route: &&RouteConfig| route.path == PathPattern::Exact(path.clone());
            if let Some(route) = routes.unwrap_or(&[]).iter().find(same) {
                report.warn(
                    &place,
                    format!("also the path of the route {:?}, which never gets a request", route.name),
                );
            }
            Some(path)
        }
        Err(complaint) => {
            report.fault(&place, complaint);
            None
        }
    }
}

/// The size in bytes below which a secret is warned of (Standard Webhooks asks for 24 to 64).
const SHORT_SECRET: usize = 24;

/// The bytes to sign with: those that `whsec_…` encodes, else the text itself.
fn signing_keys(secrets: Vec<PlacedValue<Secret>>, report: &mut FaultReport) -> Option<Vec<Secret>> {
    let mut key = |PlacedValue { value, place }: PlacedValue<Secret>| {
        let key = match value.reveal().strip_prefix(b"whsec_") {
            None => value,
            Some(encoded) => match STANDARD.decode(encoded) {
                Ok(bytes) if !bytes.is_empty() => Secret::new(bytes),
                _ => {
                    report.fault(&place, "what follows whsec_ must be base64");
                    return None;
                }
            },
        };
        let length = key.reveal().len();
        if length < SHORT_SECRET {
            report.warn(&place, format!("{length} bytes, should have {SHORT_SECRET} or more"));
        }
        Some(key)
    };
    let keys: Vec<_> = secrets.into_iter().map(&mut key).collect();
    keys.into_iter().collect()
}

fn namespaces(
    raw: PlacedValue<OneOrMany<Namespace>>,
    routes: Option<&[RouteConfig]>,
    report: &mut FaultReport,
) -> Option<Vec<Namespace>> {
    let PlacedValue { value: OneOrMany(names), place } = raw;
    if names.is_empty() {
        report.fault(&place, "must hold at least one namespace");
        return None;
    }
    if let Some(routes) = routes {
        let cached: Vec<&str> = routes.iter().filter_map(namespace_of).collect();
        for PlacedValue { value, place } in names.iter().filter(|name| !cached.contains(&name.value.as_str()))
        {
            let hint = nearest(value.as_str(), &cached).map(|near| format!(", did you mean {near:?}?"));
            report.warn(place, format!("no route caches under {value:?}{}", hint.unwrap_or_default()));
        }
    }
    distinct(names, report)
}

fn namespace_of(route: &RouteConfig) -> Option<&str> {
    match &route.cache {
        CacheMode::Off | CacheMode::Follow(_) => None,
        CacheMode::Versioned(rules) => Some(rules.namespace.as_str()),
    }
}
