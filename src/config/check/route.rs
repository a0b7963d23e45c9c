//! `[[route]]`: the requests that it takes, and its use of tokens. A combination that could show one tenant's
//! answer to another is a fault.

use super::{
    cache, cors, files, headers,
    host::host,
    limit,
    origin::Known,
    signed,
    surroundings::Surroundings,
    unique::{Names, Taken},
    websocket,
};
use crate::config::{
    fault::Report,
    place::Place,
    raw,
    read::{At, Field, OneOrMany, Size},
    secret::Secret,
    types::{Auth, CacheMode, Limit, PathPattern, Route, Scope},
    Target,
};

/// The other parts of the configuration that routes refer to.
pub(super) struct Around<'a> {
    pub(super) origins: &'a Known,
    /// The file has a `[jwt]`.
    pub(super) tokens: bool,
    /// `[headers]`
    pub(super) headers: headers::Checked,
    pub(super) around: &'a Surroundings<'a>,
}

/// Checks every `[[route]]`.
pub(super) fn routes(
    raw: Vec<At<raw::Route>>,
    around: Around<'_>,
    report: &mut Report,
) -> Option<Vec<Route>> {
    let names = Names::reserve(&raw, report);
    let Around { origins, tokens, headers, around } = around;
    let is_rest = |route: &At<raw::Route>| matches!(&route.value.path, Field::Given(At { value: PathPattern::Prefix(all), .. }) if all == "/");
    let has_rest = raw.iter().any(is_rest);
    let taken = Taken::default();
    let mut checker = Checker { origins, tokens, headers, around, has_rest, names, taken, report };
    let route = |(index, At { value, place })| checker.route(value, index, &place);
    let checked: Vec<_> = raw.into_iter().enumerate().map(route).collect();
    checked.into_iter().collect()
}

struct Checker<'a> {
    origins: &'a Known,
    tokens: bool,
    headers: headers::Checked,
    around: &'a Surroundings<'a>,
    /// A route matches everything.
    has_rest: bool,
    names: Names,
    taken: Taken,
    report: &'a mut Report,
}

impl Checker<'_> {
    fn route(&mut self, raw: raw::Route, index: usize, place: &Place) -> Option<Route> {
        let auth = self.auth(&raw, place);
        if !matches!(raw.files, Field::Absent) {
            self.fits_files(&raw);
        }
        let token_query = self.token_query(&raw);
        let tokens = self.tokens && !matches!(raw.auth, Field::Given(At { value: Auth::Off, .. }));
        let host = self.host(raw.host);
        let methods = raw.methods.or(Vec::new()).map(with_head);
        let path = raw.path.required("path", place, self.report);
        if let (Some(host), Some(methods), Some(path)) = (&host, &methods, &path) {
            let key = (host.clone(), path.value.clone());
            self.taken.claim(key, methods, index, &path.place, self.report);
        }
        if let Some(At { value: PathPattern::Exact(exact), place }) = &path {
            if exact.ends_with('/') && (exact.len() > 1 || !self.has_rest) {
                let text = format!("is this path alone; for all below it, write \"{exact}*\"");
                self.report.warn(place, text);
            }
        }
        let path: Option<PathPattern> = path.map(|path| path.value);
        let name = match raw.name.optional() {
            Some(Some(name)) => Some(name.value),
            Some(None) => path.as_ref().and_then(|path| self.names.derive(path)),
            None => None,
        };
        let accel = raw.accel.or(true);
        let escaped_slash = raw.escaped_slash.optional().map(|given| given.map(|at| at.value));
        let target = self.target(raw.origin, raw.files, place);
        let signed = self.signed(&raw.cache, raw.signed, methods.as_deref());
        let cache = self.cache(raw.cache);
        let cors = cors::cors(raw.cors, methods.as_deref(), self.report);
        let of = match (&cache, &host, &cors) {
            (Some(cache), Some(host), Some(cors)) => {
                Some(headers::Of { index, cache, has_host: host.is_some(), cors: cors.is_some() })
            }
            _ => None,
        };
        let own = raw::Headers {
            request_headers: raw.request_headers,
            response_headers: raw.response_headers,
            security_headers: raw.security_headers,
        };
        let headers = headers::of_route(own, &self.headers, of.as_ref(), self.tokens, self.report);
        let max_body = raw.max_body.or(Size(10 << 20));
        let websocket = websocket::websocket(raw.websocket, tokens, self.report);
        let limits = self.limits(raw.limit, auth);
        Some(Route {
            name: name?,
            host: host?,
            methods: methods?,
            path: path?,
            escaped_slash: escaped_slash?,
            target: target?,
            accel: accel?,
            cache: cache?,
            auth: auth?,
            token_query: token_query?,
            max_body: max_body?.0,
            websocket: websocket?,
            limits: limits?,
            headers: headers?,
            cors: cors?,
            signed: signed?,
        })
    }

    fn limits(&mut self, raw: Field<OneOrMany<raw::Limit>>, auth: Option<Auth>) -> Option<Vec<Limit>> {
        let Some(At { value, .. }) = raw.optional()? else { return Some(Vec::new()) };
        let tokens = self.tokens && auth != Some(Auth::Off);
        limit::limits(value.0, tokens, self.report)
    }

    fn signed(
        &mut self,
        cache: &Field<raw::Cache>,
        raw: Field<raw::Signed>,
        methods: Option<&[http::Method]>,
    ) -> Option<Option<Vec<Secret>>> {
        let query = match rules(cache).map(|rules| &rules.query) {
            Some(Field::Given(query)) => query.value.as_slice(),
            _ => &[],
        };
        signed::signed(raw, query, methods.is_some_and(<[_]>::is_empty), self.around, self.report)
    }

    fn target(&mut self, origin: Field<String>, files: Field<raw::Files>, place: &Place) -> Option<Target> {
        match (origin, files) {
            (origin, Field::Absent) => {
                let origin = origin.required("origin", place, self.report)?;
                self.origins.find(&origin, self.report).map(Target::Origin)
            }
            (Field::Absent, files) => {
                let At { value, place } = files.optional()??;
                files::files(value, &place, self.around, self.report)
                    .map(|files| Target::Files(Box::new(files)))
            }
            (Field::Given(At { place, .. }), _) => {
                self.report.fault(&place, "can't go with files: a route has one or the other");
                None
            }
            (Field::Faulty, _) => None,
        }
    }

    /// Reports the keys that a route of files can't have.
    fn fits_files(&mut self, raw: &raw::Route) {
        if let Field::Given(At { value: raw::Cache::Rules(_) | raw::Cache::Follow(_), place }) = &raw.cache {
            self.report.fault(place, "can't go with files: they are here already");
        }
        if let Field::Given(At { place, .. }) = &raw.websocket {
            self.report.fault(place, "can't go with files");
        }
        if let Field::Given(At { value: true, place }) = &raw.accel {
            self.report.fault(place, "can't go with files: it is about an origin's answers");
        }
        let reads = |method: &http::Method| matches!(*method, http::Method::GET | http::Method::HEAD);
        if let Field::Given(methods) = &raw.methods {
            for At { place, .. } in methods.value.iter().filter(|method| !reads(&method.value)) {
                self.report.fault(place, "can't go with files: they answer GET and HEAD alone");
            }
        }
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
        if let Some((scope, scope_place)) = rules(&raw.cache).and_then(|rules| personal(&rules.scope)) {
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
        if let Some(Field::Given(query)) = rules(&raw.cache).map(|rules| &rules.query) {
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
fn rules(cache: &Field<raw::Cache>) -> Option<&raw::CacheRules> {
    match cache {
        Field::Given(At { value: raw::Cache::Rules(rules), .. }) => Some(rules),
        _ => None,
    }
}

/// The word and the place of a scope that depends on a token.
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
