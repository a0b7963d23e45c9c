//! `[[route]]`: which requests it takes, and whose tokens it reads. What could show one tenant's answer to
//! another is a fault.

use super::{
    cache,
    host::{bracketed, is_name},
    origin::Known,
    positive,
    unique::{Names, Taken},
};
use crate::config::{
    fault::Report,
    raw,
    read::{At, Field, Place, Size},
    types::{Auth, CacheMode, PathPattern, Route, Scope, WebSocket},
};
use std::time::Duration;

/// Checks every `[[route]]`. `tokens`: there is a `[jwt]`.
pub(super) fn routes(
    raw: Vec<At<raw::Route>>,
    origins: &Known,
    tokens: bool,
    report: &mut Report,
) -> Option<Vec<Route>> {
    let names = Names::reserve(&raw, report);
    let mut checker = Checker { origins, tokens, names, taken: Taken::default(), report };
    let route = |(index, At { value, place })| checker.route(value, index, &place);
    let checked: Vec<_> = raw.into_iter().enumerate().map(route).collect();
    checked.into_iter().collect()
}

struct Checker<'a> {
    origins: &'a Known,
    tokens: bool,
    names: Names,
    taken: Taken,
    report: &'a mut Report,
}

impl Checker<'_> {
    fn route(&mut self, raw: raw::Route, index: usize, place: &Place) -> Option<Route> {
        let auth = self.auth(&raw, place);
        let token_query = self.token_query(&raw);
        let host = self.host(raw.host);
        let methods = raw.methods.or(Vec::new()).map(with_head);
        let path = raw.path.required("path", place, self.report);
        if let (Some(host), Some(methods), Some(path)) = (&host, &methods, &path) {
            let key = (host.clone(), path.value.clone());
            self.taken.claim(key, methods, index, &path.place, self.report);
        }
        let path: Option<PathPattern> = path.map(|path| path.value);
        let name = match raw.name.optional() {
            Some(Some(name)) => Some(name.value),
            Some(None) => path.as_ref().and_then(|path| self.names.derive(path)),
            None => None,
        };
        let origin = raw.origin.required("origin", place, self.report);
        let origin = origin.and_then(|name| self.origins.find(&name, self.report));
        let cache = self.cache(raw.cache);
        let max_body = raw.max_body.or(Size(10 << 20));
        let websocket = websocket(raw.websocket, self.report);
        Some(Route {
            name: name?,
            host: host?,
            methods: methods?,
            path: path?,
            origin: origin?,
            cache: cache?,
            auth: auth?,
            token_query: token_query?,
            max_body: max_body?.0,
            websocket: websocket?,
        })
    }

    fn host(&mut self, raw: Field<String>) -> Option<Option<String>> {
        let Some(At { value, place }) = raw.optional()? else { return Some(None) };
        host(&value).map(Some).map_err(|complaint| self.report.fault(&place, complaint)).ok()
    }

    fn cache(&mut self, raw: Field<raw::Cache>) -> Option<CacheMode> {
        match raw.optional()? {
            Some(At { value: raw::Cache::Rules(rules), place }) => {
                cache::rules(*rules, &place, self.report).map(|rules| CacheMode::Versioned(Box::new(rules)))
            }
            Some(At { value: raw::Cache::Follow(rules), .. }) => {
                cache::follow(*rules, self.report).map(|rules| CacheMode::Follow(Box::new(rules)))
            }
            _ => Some(CacheMode::Off),
        }
    }

    /// `auth`, in accord with the scope and with whether tokens can be verified.
    fn auth(&mut self, raw: &raw::Route, place: &Place) -> Option<Auth> {
        let (auth, auth_place) = match &raw.auth {
            Field::Given(at) => (Some(at.value), &at.place),
            Field::Absent => (Some(Auth::Optional), place),
            Field::Faulty => (None, place),
        };
        if let Some((scope, scope_place)) = rules(raw).and_then(|rules| personal(&rules.scope)) {
            if !self.tokens {
                self.report.fault(scope_place, format!("{scope:?} needs a [jwt] to verify tokens with"));
            }
            if auth == Some(Auth::Off) {
                self.report.fault(
                    auth_place,
                    format!("\"off\" can't go with scope {scope:?}, which is read from the token"),
                );
            }
        }
        if !self.tokens && auth == Some(Auth::Required) {
            self.report.fault(auth_place, "\"required\" needs a [jwt] to verify tokens with");
        }
        auth
    }

    fn token_query(&mut self, raw: &raw::Route) -> Option<bool> {
        let place = match &raw.token_query {
            Field::Absent => return Some(false),
            Field::Faulty => return None,
            Field::Given(At { value: false, .. }) => return Some(false),
            Field::Given(At { place, .. }) => place,
        };
        if !self.tokens {
            self.report.fault(place, "needs a [jwt] to verify tokens with");
        }
        if matches!(raw.auth, Field::Given(At { value: Auth::Off, .. })) {
            self.report.fault(place, "can't go with auth = \"off\"");
        }
        if let Some(Field::Given(query)) = rules(raw).map(|rules| &rules.query) {
            if query.value.iter().any(|name| name.value == "token") {
                self.report.fault(
                    place,
                    "can't go with a cache.query that holds \"token\": tokens stay out of keys",
                );
            }
        }
        Some(true)
    }
}

/// The route's cache table, if it has one.
fn rules(raw: &raw::Route) -> Option<&raw::CacheRules> {
    match &raw.cache {
        Field::Given(At { value: raw::Cache::Rules(rules), .. }) => Some(rules),
        _ => None,
    }
}

/// The word and the place of a scope that tells people apart.
fn personal(scope: &Field<Scope>) -> Option<(&'static str, &Place)> {
    let Field::Given(At { value, place }) = scope else { return None };
    match value {
        Scope::Public => None,
        Scope::Tenant => Some(("tenant", place)),
        Scope::User => Some(("user", place)),
    }
}

/// A server that answers GET answers HEAD (RFC 9110, 9.1).
fn with_head(methods: Vec<At<http::Method>>) -> Vec<http::Method> {
    let mut all: Vec<http::Method> = Vec::new();
    for At { value, .. } in methods {
        let head = (value == http::Method::GET).then_some(http::Method::HEAD);
        for method in std::iter::once(value).chain(head) {
            if !all.contains(&method) {
                all.push(method);
            }
        }
    }
    all
}

/// An exact host or `*.` and one, in lower case.
fn host(text: &str) -> Result<String, &'static str> {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix('.').unwrap_or(&text);
    let exact = text.strip_prefix("*.").unwrap_or(text);
    if is_name(exact) || bracketed(text).is_some() {
        return Ok(text.to_owned());
    }
    Err(match (exact.contains('*'), exact.contains(':')) {
        (true, _) => "\"*\" may only stand at the beginning, as \"*.\"",
        (_, true) => "must not hold a port, and an IPv6 address stands in brackets",
        _ => "must be a host such as \"dash.example.com\" or \"*.example.com\"",
    })
}

fn websocket(raw: Field<raw::WebSocket>, report: &mut Report) -> Option<Option<WebSocket>> {
    let Some(At { value, .. }) = raw.optional()? else { return Some(None) };
    let idle_timeout = positive(value.idle_timeout, Duration::from_secs(60), report)?;
    Some(Some(WebSocket { idle_timeout }))
}
