//! A request that needs neither Pingora's parser nor its session.

use crate::{
    gateway::{cache::prepared::request::FastRequest, runtime_config::RuntimeConfig},
    route::RouteMatch,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use pingora_http::RequestHeader;
use std::sync::Arc;

/// A request that the gateway serves by itself: see `Gateway::serve`.
pub struct NativeRequest {
    /// Its head.
    pub(crate) head: Box<RequestHeader>,
    /// The runtime configuration that applies to it.
    pub(crate) site: Arc<RuntimeConfig>,
}

/// The number of fields that may be added to a request.
const SPARE_FIELDS: usize = 2;

impl NativeRequest {
    /// Builds a request from what the prepared lane has read in `bytes`, if the gateway can serve it without
    /// Pingora.
    pub(crate) fn of(asked: &FastRequest<'_>, bytes: &[u8], site: &Arc<RuntimeConfig>) -> Option<Self> {
        let method = if asked.is_head { Method::HEAD } else { Method::GET };
        let is_own = match site.routes.find_plain(Some(asked.host), asked.path, &method) {
            RouteMatch::Found(index) => site.per_route.get(index)?.own,
            RouteMatch::NotFound | RouteMatch::MethodNotAllowed(_) | RouteMatch::Ambiguous => true,
        };
        if !is_own {
            return None;
        }
        let (mut head, ()) = http::Request::new(()).into_parts();
        // Values that are kept share this buffer.
        let kept = Bytes::copy_from_slice(bytes);
        let part = |text: &[u8]| {
            let at = (text.as_ptr() as usize).checked_sub(bytes.as_ptr() as usize)?;
            (at.checked_add(text.len())? <= kept.len()).then(|| kept.slice(at..at + text.len()))
        };
        head.method = method;
        head.uri = Uri::from_maybe_shared(part(asked.target.as_bytes())?).ok()?;
        head.headers = HeaderMap::with_capacity(asked.fields.len() + SPARE_FIELDS);
        for field in asked.fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            head.headers.try_append(name, HeaderValue::from_maybe_shared(part(field.value)?).ok()?).ok()?;
        }
        Some(Self { head: Box::new(head.into()), site: Arc::clone(site) })
    }
}
