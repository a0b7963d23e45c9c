//! `[[route]]`: the requests that it takes, and its use of tokens. A combination that could show one tenant's
//! answer to another is a fault.

pub(crate) mod cache;
pub(crate) mod cors;
pub(crate) mod dropped;
pub(crate) mod files;
pub(crate) mod headers;
pub(crate) mod limit;
pub(crate) mod signed;
pub(crate) mod websocket;
use super::{
    host::check_host,
    live,
    origin::KnownOrigins,
    surroundings::CheckEnvironment,
    unique::{RouteNames, TakenPaths},
};
use crate::config::{
    file::{fault::FaultReport, place::FilePlace, raw, ByteSize, OneOrMany, PlacedValue, TableField},
    secret::Secret,
    types::{AuthMode, CacheMode, CacheScope, LimitConfig, PathPattern, RouteConfig},
    RouteTarget,
};

use std::sync::Arc;

/// The other parts of the configuration that routes refer to.
pub(crate) struct RouteReferences<'a> {
    pub(crate) origins: &'a KnownOrigins,
    /// The file has a `[jwt]`.
    pub(crate) tokens: bool,
    /// The cookie that may hold a token.
    pub(crate) cookie: Option<Arc<str>>,
    /// `[headers]`
    pub(crate) headers: headers::CheckedRules,
    pub(crate) around: &'a CheckEnvironment<'a>,
}

/// Checks every `[[route]]`.
pub(crate) fn check_routes(
    raw: Vec<PlacedValue<raw::Route>>,
    around: RouteReferences<'_>,
    report: &mut FaultReport,
) -> Option<Vec<RouteConfig>> {
    let names = RouteNames::reserve(&raw, report);
    let RouteReferences { origins, tokens, cookie, headers, around } = around;
    let is_rest = |route: &PlacedValue<raw::Route>| matches!(&route.value.path, TableField::Given(PlacedValue { value: PathPattern::Prefix(all), .. }) if all == "/");
    let has_rest = raw.iter().any(is_rest);
    let taken = TakenPaths::default();
    let mut checker =
        RouteChecker { origins, tokens, cookie, headers, around, has_rest, names, taken, report };
    let route = |(index, PlacedValue { value, place })| checker.route(value, index, &place);
    let checked: Vec<_> = raw.into_iter().enumerate().map(route).collect();
    checked.into_iter().collect()
}

struct RouteChecker<'a> {
    origins: &'a KnownOrigins,
    tokens: bool,
    cookie: Option<Arc<str>>,
    headers: headers::CheckedRules,
    around: &'a CheckEnvironment<'a>,
    /// A route matches everything.
    has_rest: bool,
    names: RouteNames,
    taken: TakenPaths,
    report: &'a mut FaultReport,
}

impl RouteChecker<'_> {
    fn route(&mut self, raw: raw::Route, index: usize, place: &FilePlace) -> Option<RouteConfig> {
        let auth = self.auth(&raw, place);
        if !matches!(raw.files, TableField::Absent) {
            self.fits_files(&raw);
        }
        let token_query = self.token_query(&raw);
        let tokens =
            self.tokens && !matches!(raw.auth, TableField::Given(PlacedValue { value: AuthMode::Off, .. }));
        let host = self.host(raw.host);
        let methods = raw.methods.or(Vec::new()).map(with_head);
        let path = raw.path.required("path", place, self.report);
        if let (Some(host), Some(methods), Some(path)) = (&host, &methods, &path) {
            let key = (host.clone(), path.value.clone());
            self.taken.claim(key, methods, index, &path.place, self.report);
        }
        if let Some(PlacedValue { value: PathPattern::Exact(exact), place }) = &path {
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
        let live = live::check_live(raw.live, cache.as_ref(), methods.as_deref(), self.report);
        let cors = cors::check_cors(raw.cors, methods.as_deref(), self.report);
        let of = match (&cache, &host, &cors) {
            (Some(cache), Some(host), Some(cors)) => {
                Some(headers::RuleContext { index, cache, has_host: host.is_some(), cors: cors.is_some() })
            }
            _ => None,
        };
        let own = raw::Headers {
            request_headers: raw.request_headers,
            response_headers: raw.response_headers,
            security_headers: raw.security_headers,
        };
        let headers = headers::check_route_rules(own, &self.headers, of.as_ref(), self.tokens, self.report);
        let max_body = raw.max_body.or(ByteSize(10 << 20));
        let websocket = websocket::check_websocket(raw.websocket, tokens, self.report);
        let limits = self.limits(raw.limit, auth);
        Some(RouteConfig {
            name: name?,
            host: host?,
            methods: methods?,
            path: path?,
            escaped_slash: escaped_slash?,
            target: target?,
            accel: accel?,
            cache: cache?,
            auth: auth?,
            token_cookie: self.cookie.clone().filter(|_| tokens),
            token_query: token_query?,
            max_body: max_body?.0,
            websocket: websocket?,
            limits: limits?,
            headers: headers?,
            cors: cors?,
            signed: signed?,
            live: live?,
        })
    }

    fn limits(
        &mut self,
        raw: TableField<OneOrMany<raw::Limit>>,
        auth: Option<AuthMode>,
    ) -> Option<Vec<LimitConfig>> {
        let Some(PlacedValue { value, .. }) = raw.optional()? else { return Some(Vec::new()) };
        let tokens = self.tokens && auth != Some(AuthMode::Off);
        limit::check_limits(value.0, tokens, self.report)
    }

    fn signed(
        &mut self,
        cache: &TableField<raw::RawCache>,
        raw: TableField<raw::Signed>,
        methods: Option<&[http::Method]>,
    ) -> Option<Option<Vec<Secret>>> {
        let query = match rules(cache).map(|rules| &rules.query) {
            Some(TableField::Given(query)) => query.value.as_slice(),
            _ => &[],
        };
        signed::check_signed(raw, query, methods.is_some_and(<[_]>::is_empty), self.around, self.report)
    }

    fn target(
        &mut self,
        origin: TableField<String>,
        files: TableField<raw::Files>,
        place: &FilePlace,
    ) -> Option<RouteTarget> {
        match (origin, files) {
            (origin, TableField::Absent) => {
                let origin = origin.required("origin", place, self.report)?;
                self.origins.find(&origin, self.report).map(RouteTarget::Origin)
            }
            (TableField::Absent, files) => {
                let PlacedValue { value, place } = files.optional()??;
                files::check_files(value, &place, self.around, self.report)
                    .map(|files| RouteTarget::Files(Box::new(files)))
            }
            (TableField::Given(PlacedValue { place, .. }), _) => {
                self.report.fault(&place, "can't go with files: a route has one or the other");
                None
            }
            (TableField::Faulty, _) => None,
        }
    }

    /// Reports the keys that a route of files can't have.
    fn fits_files(&mut self, raw: &raw::Route) {
        if let TableField::Given(PlacedValue {
            value: raw::RawCache::Rules(_) | raw::RawCache::Follow(_),
            place,
        }) = &raw.cache
        {
            self.report.fault(place, "can't go with files: they are here already");
        }
        if let TableField::Given(PlacedValue { place, .. }) = &raw.websocket {
            self.report.fault(place, "can't go with files");
        }
        if let TableField::Given(PlacedValue { value: true, place }) = &raw.accel {
            self.report.fault(place, "can't go with files: it is about an origin's answers");
        }
        let reads = |method: &http::Method| matches!(*method, http::Method::GET | http::Method::HEAD);
        if let TableField::Given(methods) = &raw.methods {
            for PlacedValue { place, .. } in methods.value.iter().filter(|method| !reads(&method.value)) {
                self.report.fault(place, "can't go with files: they answer GET and HEAD alone");
            }
        }
    }

    fn host(&mut self, raw: TableField<String>) -> Option<Option<String>> {
        let Some(PlacedValue { value, place }) = raw.optional()? else { return Some(None) };
        check_host(&value).map(Some).map_err(|complaint| self.report.fault(&place, complaint)).ok()
    }

    fn cache(&mut self, raw: TableField<raw::RawCache>) -> Option<CacheMode> {
        match raw.optional()? {
            Some(PlacedValue { value: raw::RawCache::Rules(rules), place }) => {
                cache::check_cache_rules(*rules, &place, self.report)
                    .map(|rules| CacheMode::Versioned(Box::new(rules)))
            }
            Some(PlacedValue { value: raw::RawCache::Follow(rules), .. }) => {
                cache::check_follow_rules(*rules, self.report).map(|rules| CacheMode::Follow(Box::new(rules)))
            }
            _ => Some(CacheMode::Off),
        }
    }

    /// `auth`, in accord with the scope and with whether tokens can be verified.
    fn auth(&mut self, raw: &raw::Route, place: &FilePlace) -> Option<AuthMode> {
        let (auth, auth_place) = match &raw.auth {
            TableField::Given(at) => (Some(at.value), &at.place),
            TableField::Absent => (Some(AuthMode::Optional), place),
            TableField::Faulty => (None, place),
        };
        if let Some((scope, scope_place)) = rules(&raw.cache).and_then(|rules| personal(&rules.scope)) {
            if !self.tokens {
                self.report.fault(scope_place, format!("{scope:?} needs a [jwt] to verify tokens with"));
            }
            if auth == Some(AuthMode::Off) {
                self.report.fault(
                    auth_place,
                    format!("\"off\" can't go with scope {scope:?}, which is read from the token"),
                );
            }
        }
        if !self.tokens && auth == Some(AuthMode::Required) {
            self.report.fault(auth_place, "\"required\" needs a [jwt] to verify tokens with");
        }
        auth
    }

    fn token_query(&mut self, raw: &raw::Route) -> Option<bool> {
        let place = match &raw.token_query {
            TableField::Absent => return Some(false),
            TableField::Faulty => return None,
            TableField::Given(PlacedValue { value: false, .. }) => return Some(false),
            TableField::Given(PlacedValue { place, .. }) => place,
        };
        if !self.tokens {
            self.report.fault(place, "needs a [jwt] to verify tokens with");
        }
        if matches!(raw.auth, TableField::Given(PlacedValue { value: AuthMode::Off, .. })) {
            self.report.fault(place, "can't go with auth = \"off\"");
        }
        if let Some(TableField::Given(query)) = rules(&raw.cache).map(|rules| &rules.query) {
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
fn rules(cache: &TableField<raw::RawCache>) -> Option<&raw::CacheRules> {
    match cache {
        TableField::Given(PlacedValue { value: raw::RawCache::Rules(rules), .. }) => Some(rules),
        _ => None,
    }
}

/// The word and the place of a scope that depends on a token.
fn personal(scope: &TableField<CacheScope>) -> Option<(&'static str, &FilePlace)> {
    let TableField::Given(PlacedValue { value, place }) = scope else { return None };
    match value {
        CacheScope::Public => None,
        CacheScope::Tenant => Some(("tenant", place)),
        CacheScope::User => Some(("user", place)),
    }
}

/// A server that answers GET answers HEAD (RFC 9110, 9.1).
fn with_head(methods: Vec<PlacedValue<http::Method>>) -> Vec<http::Method> {
    let mut all: Vec<http::Method> = Vec::new();
    for PlacedValue { value, .. } in methods {
        let head = (value == http::Method::GET).then_some(http::Method::HEAD);
        for method in std::iter::once(value).chain(head) {
            if !all.contains(&method) {
                all.push(method);
            }
        }
    }
    all
}
