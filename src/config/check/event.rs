//! `[[event]]`: signed calls that move versions.

use super::{
    origin::Known,
    secret::secrets,
    surroundings::Surroundings,
    values::{distinct, positive_size, NOT_ZERO},
};
use crate::{
    config::{
        fault::{nearest, Report},
        place::Place,
        raw,
        read::{At, Field, OneOrMany},
        secret::Secret,
        types::{CacheMode, Event, PathPattern, Route},
    },
    name::Namespace,
};
use base64::{engine::general_purpose::STANDARD, Engine};
use std::collections::HashMap;

/// Checks every `[[event]]`.
pub(super) fn events(
    raw: Vec<At<raw::Event>>,
    origins: &Known,
    routes: Option<&[Route]>,
    around: &Surroundings<'_>,
    report: &mut Report,
) -> Option<Vec<Event>> {
    let mut taken: HashMap<String, usize> = HashMap::new();
    let mut checked = Vec::new();
    for (index, At { value, place }) in raw.into_iter().enumerate() {
        if let Field::Given(At { value, place }) = &value.path {
            if let Some(twin) = taken.insert(value.clone(), index) {
                report.fault(place, format!("the same path as event[{twin}]"));
            }
        }
        checked.push(event(value, &place, origins, routes, around, report));
    }
    checked.into_iter().collect()
}

fn event(
    raw: raw::Event,
    place: &Place,
    origins: &Known,
    routes: Option<&[Route]>,
    around: &Surroundings<'_>,
    report: &mut Report,
) -> Option<Event> {
    let path = raw.path.required("path", place, report).and_then(|path| exact(path, routes, report));
    let secrets =
        secrets(raw.secret, place, around, report).and_then(|secrets| signing_keys(secrets, report));
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
    Some(Event {
        path: path?,
        secrets: secrets?,
        bump: bump?,
        forward: forward?,
        rate: rate?,
        max_body: max_body?,
    })
}

fn exact(path: At<String>, routes: Option<&[Route]>, report: &mut Report) -> Option<String> {
    let At { value, place } = path;
    if value.contains('*') {
        report.fault(&place, "must be exact, without \"*\"");
        return None;
    }
    match raw::exact_path(&value) {
        Ok(path) => {
            let same = |route: &&Route| route.path == PathPattern::Exact(path.clone());
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
fn signing_keys(secrets: Vec<At<Secret>>, report: &mut Report) -> Option<Vec<Secret>> {
    let mut key = |At { value, place }: At<Secret>| {
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
    raw: At<OneOrMany<Namespace>>,
    routes: Option<&[Route]>,
    report: &mut Report,
) -> Option<Vec<Namespace>> {
    let At { value: OneOrMany(names), place } = raw;
    if names.is_empty() {
        report.fault(&place, "must hold at least one namespace");
        return None;
    }
    if let Some(routes) = routes {
        let cached: Vec<&str> = routes.iter().filter_map(namespace_of).collect();
        for At { value, place } in names.iter().filter(|name| !cached.contains(&name.value.as_str())) {
            let hint = nearest(value.as_str(), &cached).map(|near| format!(", did you mean {near:?}?"));
            report.warn(place, format!("no route caches under {value:?}{}", hint.unwrap_or_default()));
        }
    }
    distinct(names, report)
}

fn namespace_of(route: &Route) -> Option<&str> {
    match &route.cache {
        CacheMode::Off | CacheMode::Follow(_) => None,
        CacheMode::Versioned(rules) => Some(rules.namespace.as_str()),
    }
}
