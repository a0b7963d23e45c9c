//! Routing: by host, then by path, then by method. Pure: no clock, no I/O, and no allocation on a lookup,
//! whose cost grows with the number of different prefix lengths, not with the number of routes.
//!
//! An exact host takes precedence over a wildcard, a longer wildcard over a shorter one, and any of them over
//! a route without a host. Under one host an exact path takes precedence over prefixes, and a longer prefix
//! over a shorter one. The method is compared last: a path with other methods gets 405 and never falls
//! through to a shorter prefix, which may have weaker rules. Paths are compared in their canonical form. A
//! path with an escaped slash matches a route only if it would match the same one with a slash there, or if
//! the route accepts escaped slashes.

mod purgeable;

pub use purgeable::NotPurgeable;

use crate::{
    config::{EscapedSlashPolicy, PathPattern, RouteConfig},
    http::{authority, canonical_path::CanonicalPath},
};
use http::Method;
use std::collections::HashMap;

/// The index of the routes.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// The paths by exact host, in lower case.
    hosts: HostTable<HostPaths>,
    /// The paths by the part after the `*` of a wildcard: `.example.com`.
    wildcards: HostTable<HostPaths>,
    /// The paths of routes without a host.
    any: HostPaths,
    /// The setting of each route, by its index.
    escaped_slash: Vec<Option<EscapedSlashPolicy>>,
}

/// The result of routing a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteMatch<'r> {
    /// An index into [`crate::config::Config::routes`].
    Found(usize),
    /// The path has routes, but only for these methods.
    MethodNotAllowed(&'r [Method]),
    /// No route matches the path.
    NotFound,
    /// The origin could read the escaped slashes of the path as slashes, and it would match another route
    /// then.
    Ambiguous,
}

type HostTable<T> = HashMap<Box<str>, T, ahash::RandomState>;

/// The paths of one host.
#[derive(Debug, Default)]
struct HostPaths {
    exact: HostTable<PathMethods>,
    /// The prefixes, without `*`, which end with `/`.
    prefixes: HostTable<PathMethods>,
    /// The lengths of the prefixes, longest first, each once.
    lengths: Vec<usize>,
}

/// The routes of one path.
#[derive(Debug, Default)]
struct PathMethods {
    /// Index and methods (empty: any), in the configuration's order.
    routes: Vec<(usize, Vec<Method>)>,
    /// All methods of `routes`, each once.
    allowed: Vec<Method>,
}

/// The longest host that is looked up (RFC 1035, 2.3.4); a longer one matches no route with a host.
const MAX_HOST: usize = 255;

impl RouteTable {
    /// Indexes the routes of a checked configuration.
    pub fn new(routes: &[RouteConfig]) -> Self {
        let escaped_slash = routes.iter().map(|route| route.escaped_slash).collect();
        let mut all = Self { escaped_slash, ..Self::default() };
        for (index, route) in routes.iter().enumerate() {
            let paths = match route.host.as_deref() {
                None => &mut all.any,
                Some(host) => match host.strip_prefix('*') {
                    Some(suffix) => all.wildcards.entry(suffix.into()).or_default(),
                    None => all.hosts.entry(host.into()).or_default(),
                },
            };
            paths.insert(&route.path, index, &route.methods);
        }
        let tables = all.hosts.values_mut().chain(all.wildcards.values_mut());
        tables.chain([&mut all.any]).for_each(HostPaths::order_lengths);
        all
    }

    /// Finds the route of a request. `host` is the `Host` field or the authority, with or without a port, in
    /// any case; `canonical` is the canonical form of the path `raw`, which has no query.
    pub fn find(
        &self,
        host: Option<&str>,
        canonical: &CanonicalPath,
        raw: &str,
        method: &Method,
    ) -> RouteMatch<'_> {
        let found = self.find_plain(host, canonical.as_str(raw), method);
        let Some(unescaped) = canonical.unescaped() else { return found };
        let policy = match found {
            RouteMatch::Found(index) => self.escaped_slash.get(index).copied().flatten(),
            _ => None,
        };
        let passes = match policy {
            Some(EscapedSlashPolicy::Pass) => true,
            Some(EscapedSlashPolicy::Refuse) => false,
            None => self.find_plain(host, unescaped, method) == found,
        };
        if passes {
            found
        } else {
            RouteMatch::Ambiguous
        }
    }

    /// The same for a canonical path without escaped slashes.
    pub fn find_plain(&self, host: Option<&str>, path: &str, method: &Method) -> RouteMatch<'_> {
        let of_host = host.filter(|_| !self.hosts.is_empty() || !self.wildcards.is_empty());
        let methods = of_host.and_then(|host| self.under_host(host, path)).or_else(|| self.any.find(path));
        methods.map_or(RouteMatch::NotFound, |methods| methods.find(method))
    }

    fn under_host(&self, host: &str, path: &str) -> Option<&PathMethods> {
        let mut buffer = [0; MAX_HOST];
        let host = lower_case(authority::host_name(host), &mut buffer)?;
        if let Some(methods) = self.hosts.get(host).and_then(|paths| paths.find(path)) {
            return Some(methods);
        }
        if self.wildcards.is_empty() {
            return None;
        }
        // A wildcard stands for at least one label, so that a leading dot doesn't count.
        host.match_indices('.')
            .filter(|(dot, _)| *dot > 0)
            .filter_map(|(dot, _)| self.wildcards.get(&host[dot..]))
            .find_map(|paths| paths.find(path))
    }
}

impl HostPaths {
    fn insert(&mut self, path: &PathPattern, index: usize, methods: &[Method]) {
        let entry = match path {
            PathPattern::Exact(path) => self.exact.entry(path.as_str().into()),
            PathPattern::Prefix(prefix) => {
                self.lengths.push(prefix.len());
                self.prefixes.entry(prefix.as_str().into())
            }
        };
        entry.or_default().insert(index, methods);
    }

    fn order_lengths(&mut self) {
        self.lengths.sort_unstable_by(|a, b| b.cmp(a));
        self.lengths.dedup();
    }

    fn find(&self, path: &str) -> Option<&PathMethods> {
        if let Some(methods) = self.exact.get(path) {
            return Some(methods);
        }
        // Every prefix ends with a slash: other positions need no look-up.
        self.lengths
            .iter()
            .filter(|length| path.as_bytes().get(**length - 1) == Some(&b'/'))
            .find_map(|length| self.prefixes.get(&path[..*length]))
    }
}

impl PathMethods {
    fn insert(&mut self, index: usize, methods: &[Method]) {
        self.routes.push((index, methods.to_vec()));
        for method in methods {
            if !self.allowed.contains(method) {
                self.allowed.push(method.clone());
            }
        }
    }

    fn find(&self, method: &Method) -> RouteMatch<'_> {
        let takes = |methods: &[Method]| methods.is_empty() || methods.contains(method);
        match self.routes.iter().find(|(_, methods)| takes(methods)) {
            Some((index, _)) => RouteMatch::Found(*index),
            None => RouteMatch::MethodNotAllowed(&self.allowed),
        }
    }
}

/// `text` in lower case, in `buffer`; `None` if it does not fit.
fn lower_case<'b>(text: &str, buffer: &'b mut [u8; MAX_HOST]) -> Option<&'b str> {
    let lower = buffer.get_mut(..text.len())?;
    lower.copy_from_slice(text.as_bytes());
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AuthMode, CacheMode, RouteTarget};

    use proptest::{prelude::*, sample::select};

    fn route(host: Option<&str>, path: &str, methods: &[Method]) -> RouteConfig {
        let path = match path.strip_suffix('*') {
            Some(prefix) => PathPattern::Prefix(prefix.to_owned()),
            None => PathPattern::Exact(path.to_owned()),
        };
        RouteConfig {
            name: crate::name::Name::public().clone(),
            host: host.map(str::to_owned),
            methods: methods.to_vec(),
            path,
            target: RouteTarget::Origin(0),
            escaped_slash: None,
            accel: true,
            cache: CacheMode::Off,
            auth: AuthMode::Optional,
            token_cookie: None,
            token_query: false,
            max_body: 0,
            websocket: None,
            limits: vec![],
            headers: crate::config::RouteHeaders::default(),
            cors: None,
            live: None,
            signed: None,
        }
    }

    fn found(routes: &RouteTable, host: Option<&str>, path: &str) -> Option<usize> {
        match routes.find_plain(host, path, &Method::GET) {
            RouteMatch::Found(index) => Some(index),
            RouteMatch::MethodNotAllowed(_) | RouteMatch::NotFound | RouteMatch::Ambiguous => None,
        }
    }

    #[test]
    fn the_longest_path_wins_and_a_prefix_ends_at_a_slash() {
        let paths = ["/*", "/x/*", "/x/y", "/x/y/*", "/x"];
        let routes = RouteTable::new(&paths.map(|path| route(None, path, &[])));
        for (path, index) in [
            ("/", 0),
            ("/xy", 0),
            ("/x", 4),
            ("/x/", 1),
            ("/x/z", 1),
            ("/x/y", 2),
            ("/x/y/", 3),
            ("/x/y/z/%2e", 3),
            ("/é/", 0),
        ] {
            assert_eq!(found(&routes, None, path), Some(index), "{path}");
        }
        for path in ["", "*", "x/y"] {
            assert_eq!(found(&routes, None, path), None, "{path:?}");
        }
        let only = RouteTable::new(&[route(None, "/x/*", &[])]);
        for path in ["/x", "/xy", "/", "/y/x/"] {
            assert_eq!(found(&only, None, path), None, "{path}");
        }
    }

    #[test]
    fn an_exact_host_beats_a_wildcard_beats_none() {
        let routes = RouteTable::new(&[
            route(None, "/*", &[]),
            route(Some("*.example.com"), "/*", &[]),
            route(Some("a.example.com"), "/x/*", &[]),
            route(Some("*.b.example.com"), "/x/*", &[]),
            route(Some("[::1]"), "/*", &[]),
        ]);
        for (host, path, index) in [
            ("a.example.com", "/x/", 2),
            ("A.Example.COM.:8080", "/x/", 2),
            ("a.example.com", "/y", 1),
            ("c.b.example.com:443", "/x/1", 3),
            ("c.b.example.com", "/y", 1),
            ("d.c.b.example.com", "/x/1", 3),
            ("example.com", "/x/", 0),
            (".example.com", "/x/", 0),
            ("aexample.com", "/x/", 0),
            ("[::1]:80", "/", 4),
            ("[::1]", "/", 4),
            ("[::2]", "/", 0),
            ("", "/", 0),
            (":80", "/", 0),
            ("[", "/", 0),
            ("]é[:", "/", 0),
        ] {
            assert_eq!(found(&routes, Some(host), path), Some(index), "{host} {path}");
        }
        let long = format!("{}.example.com", "a".repeat(300));
        assert_eq!(found(&routes, Some(&long), "/"), Some(0));
        assert_eq!(found(&routes, None, "/x/"), Some(0));
    }

    #[test]
    fn a_method_without_a_route_does_not_fall_through_to_a_laxer_one() {
        let routes = RouteTable::new(&[
            route(None, "/*", &[]),
            route(None, "/orders", &[Method::POST]),
            route(None, "/orders", &[Method::GET, Method::HEAD]),
        ]);
        assert_eq!(routes.find_plain(None, "/orders", &Method::POST), RouteMatch::Found(1));
        assert_eq!(routes.find_plain(None, "/orders", &Method::HEAD), RouteMatch::Found(2));
        let allowed = [Method::POST, Method::GET, Method::HEAD];
        assert_eq!(
            routes.find_plain(None, "/orders", &Method::DELETE),
            RouteMatch::MethodNotAllowed(&allowed)
        );
        assert_eq!(routes.find_plain(None, "/orders/1", &Method::DELETE), RouteMatch::Found(0));
        assert_eq!(RouteTable::new(&[]).find_plain(None, "/", &Method::GET), RouteMatch::NotFound);
    }

    #[test]
    fn a_spelling_takes_the_route_that_it_means_or_none() {
        let mut all = [
            route(None, "/*", &[]),
            route(None, "/admin/*", &[]),
            route(None, "/repos/*", &[]),
            route(None, "/repos/x/settings", &[]),
            route(None, "/keeps/*", &[]),
            route(None, "/keeps/admin", &[]),
            route(None, "/strict/*", &[]),
            route(None, "/post", &[Method::POST]),
        ];
        all[4].escaped_slash = Some(EscapedSlashPolicy::Pass);
        all[6].escaped_slash = Some(EscapedSlashPolicy::Refuse);
        let routes = RouteTable::new(&all);
        use RouteMatch::{Ambiguous, Found};
        for (raw, found) in [
            ("/%61dmin/users", Found(1)),
            ("//admin/users", Found(1)),
            ("/admin//users", Found(1)),
            ("/admin%2fusers", Ambiguous),
            ("/admin%5Cusers", Ambiguous),
            ("/admin\\users", Ambiguous),
            ("/%2fadmin/users", Ambiguous),
            ("/a%2fb", Found(0)),
            ("/admin/a%2fb", Found(1)),
            ("/repos/group%2Fname", Found(2)),
            ("/repos/x%2Fsettings", Ambiguous),
            ("/repos/%78/setting%73", Found(3)),
            ("/keeps/a%2Fb", Found(4)),
            ("/keeps/%2Fadmin", Found(4)),
            ("/keeps%2Fadmin", Ambiguous),
            ("/strict/a", Found(6)),
            ("/strict/a%2Fb", Ambiguous),
            ("/strict/a\\b", Ambiguous),
            ("/%2Fpost", Ambiguous),
        ] {
            let path = CanonicalPath::of(raw).unwrap();
            assert_eq!(routes.find(None, &path, raw, &Method::GET), found, "{raw}");
        }
        let path = CanonicalPath::of("/%70ost").unwrap();
        assert_eq!(
            routes.find(None, &path, "/%70ost", &Method::GET),
            RouteMatch::MethodNotAllowed(&[Method::POST])
        );
    }

    /// A reference implementation: applies the rules one after the other to all routes.
    fn linear(
        routes: &[RouteConfig],
        host: Option<&str>,
        path: &str,
        method: &Method,
    ) -> Result<usize, Vec<Method>> {
        let host = host.map(|host| host.split(':').next().unwrap_or("").trim_end_matches('.').to_lowercase());
        let host_rank = |route: &RouteConfig| match (route.host.as_deref(), host.as_deref()) {
            (None, _) => Some(0),
            (Some(_), None) => None,
            (Some(wanted), Some(host)) => match wanted.strip_prefix('*') {
                Some(suffix) => (host.ends_with(suffix) && host.len() > suffix.len()).then_some(suffix.len()),
                None => (wanted == host).then_some(usize::MAX),
            },
        };
        let path_rank = |route: &RouteConfig| match &route.path {
            PathPattern::Exact(exact) => (exact == path).then_some(usize::MAX),
            PathPattern::Prefix(prefix) => path.starts_with(prefix.as_str()).then_some(prefix.len()),
        };
        let rank = |route: &RouteConfig| Some((host_rank(route)?, path_rank(route)?));
        let Some(best) = routes.iter().filter_map(rank).max() else { return Err(Vec::new()) };
        let mut allowed = Vec::new();
        for (index, route) in routes.iter().enumerate().filter(|(_, route)| rank(route) == Some(best)) {
            if route.methods.is_empty() || route.methods.contains(method) {
                return Ok(index);
            }
            for method in &route.methods {
                if !allowed.contains(method) {
                    allowed.push(method.clone());
                }
            }
        }
        Err(allowed)
    }

    fn any_path() -> impl Strategy<Value = String> {
        prop::collection::vec(select(vec!["a", "b", "ab", ""]), 0..4)
            .prop_map(|parts| format!("/{}", parts.join("/")))
    }

    fn any_route() -> impl Strategy<Value = RouteConfig> {
        let hosts = vec![None, None, Some("a.x"), Some("b.a.x"), Some("*.x"), Some("*.a.x"), Some("x")];
        let methods = vec![vec![], vec![Method::GET], vec![Method::POST, Method::PUT]];
        (select(hosts), any_path(), any::<bool>(), select(methods)).prop_map(
            |(host, path, prefix, methods)| {
                let path = if prefix { format!("{}/*", path.trim_end_matches('/')) } else { path };
                route(host, &path, &methods)
            },
        )
    }

    proptest! {
        #[test]
        fn as_a_linear_scan_would_decide(
            routes in prop::collection::vec(any_route(), 0..24),
            host in select(vec![None, Some("a.x"), Some("B.a.X:80"), Some("c.b.a.x."), Some("x"), Some(".x"), Some("y")]),
            path in any_path(),
            method in select(vec![Method::GET, Method::PUT, Method::DELETE]),
        ) {
            let indexed = RouteTable::new(&routes);
            let expected = linear(&routes, host, &path, &method);
            match indexed.find_plain(host, &path, &method) {
                RouteMatch::Found(index) => prop_assert_eq!(expected, Ok(index)),
                RouteMatch::MethodNotAllowed(allowed) => {
                    prop_assert!(!allowed.is_empty());
                    prop_assert_eq!(expected, Err(allowed.to_vec()));
                }
                RouteMatch::NotFound => prop_assert_eq!(expected, Err(Vec::new())),
                RouteMatch::Ambiguous => prop_assert!(false, "a plain path has one reading"),
            }
        }

        #[test]
        fn no_host_and_no_path_panics(host in ".*", path in ".*") {
            let routes = RouteTable::new(&[route(Some("*.x"), "/*", &[]), route(Some("a.x"), "/é/*", &[])]);
            routes.find_plain(Some(&host), &path, &Method::GET);
        }
    }

    #[test]
    fn ten_thousand_routes_are_each_found() {
        let paths: Vec<String> = (0..10_000)
            .map(|n| format!("/{}/{n}{}", "d/".repeat(n % 7), if n % 2 == 0 { "" } else { "/*" }))
            .collect();
        let all: Vec<RouteConfig> = paths.iter().map(|path| route(None, path, &[])).collect();
        let routes = RouteTable::new(&all);
        for (index, path) in paths.iter().enumerate() {
            assert_eq!(found(&routes, None, &path.replace('*', "deep/er")), Some(index), "{path}");
        }
    }
}
