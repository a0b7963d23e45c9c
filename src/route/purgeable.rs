//! The URLs under which a purge can match anything: those of routes that follow their origin. Pure.

use super::{RouteMatch, RouteTable};
use crate::{
    config::{CacheMode, RouteConfig, RouteTarget},
    http::canonical_path::{CanonicalPath, PathFault},
    name::Namespace,
};

use http::Method;

/// The reason for which a purge of a URL can't match anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotPurgeable {
    /// No route matches this host and path for GET.
    #[error("no route answers a GET of it")]
    Unrouted,
    /// Requests with such a path are refused.
    #[error("no request can name it: its path {0}")]
    Path(PathFault),
    /// Requests with an escaped slash or backslash are refused there.
    #[error("requests for it are refused: an escaped slash or backslash would lead to another route")]
    EscapedSlash,
    /// Its answers are stored under a version of a namespace.
    #[error("it is cached under the namespace {0}, whose answers end when its version is bumped: by an event or `tidegate bump`")]
    Namespace(Namespace),
    /// Its route serves files.
    #[error("its route sends files: they are never cached")]
    Files,
    /// Its route caches nothing.
    #[error("its route caches nothing")]
    Uncached,
}

impl RouteTable {
    /// Checks that a purge of this path and query of `host` can match anything; `routes` are those that this
    /// was built from.
    ///
    /// # Errors
    /// The reason for which it can't.
    pub fn purgeable(&self, routes: &[RouteConfig], host: &str, target: &str) -> Result<(), NotPurgeable> {
        let path = target.split('?').next().unwrap_or_default();
        let canonical = CanonicalPath::of(path).map_err(NotPurgeable::Path)?;
        let index = match self.find(Some(host), &canonical, path, &Method::GET) {
            RouteMatch::Found(index) => index,
            RouteMatch::Ambiguous => return Err(NotPurgeable::EscapedSlash),
            RouteMatch::NotFound | RouteMatch::MethodNotAllowed(_) => return Err(NotPurgeable::Unrouted),
        };
        match routes.get(index).map(|route| (&route.target, &route.cache)) {
            Some((RouteTarget::Files(_), _)) => Err(NotPurgeable::Files),
            Some((_, CacheMode::Versioned(rules))) => Err(NotPurgeable::Namespace(rules.namespace.clone())),
            Some((_, CacheMode::Follow(_))) => Ok(()),
            Some((_, CacheMode::Off)) => Err(NotPurgeable::Uncached),
            None => Err(NotPurgeable::Unrouted),
        }
    }
}
