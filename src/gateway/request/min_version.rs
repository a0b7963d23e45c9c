//! `Tidegate-Min-Version`: a request that accepts no answer of an earlier version than it names.

use crate::{
    cache::coherence::version::{MinVersion, MinVersionError},
    config::CacheMode,
    gateway::{
        context::RequestContext,
        respond::{errors, send_problem},
        runtime_config::{RouteMode, RuntimeConfig},
        services::NextStep,
        session::GatewaySession,
    },
    name::Namespace,
    telemetry::labels::CacheResult,
};

use http::HeaderValue;
use pingora_core::Result;

/// Reads the minimum of a request for a route of this mode. Routes without a namespace have no versions, and
/// ignore the field.
///
/// # Errors
/// If the field is malformed.
pub(crate) fn read_min_version(
    ctx: &RequestContext,
    mode: &RouteMode,
) -> std::result::Result<MinVersion, MinVersionError> {
    match mode {
        RouteMode::Versioned(rules) if !ctx.min_version_lines.is_empty() => {
            let lines = ctx.min_version_lines.iter().map(HeaderValue::as_bytes);
            MinVersion::parse(lines, &rules.namespace, |name| has_namespace(&ctx.site, name))
        }
        _ => Ok(MinVersion::default()),
    }
}

/// Returns true if a route has this namespace.
fn has_namespace(site: &RuntimeConfig, namespace: &Namespace) -> bool {
    site.config().routes.iter().any(|route| match &route.cache {
        CacheMode::Versioned(rules) => rules.namespace == *namespace,
        CacheMode::Off | CacheMode::Follow(_) => false,
    })
}

/// Answers a request whose minimum was not reached in time.
pub(crate) async fn refuse_unreached(
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
) -> Result<NextStep> {
    ctx.result = CacheResult::Error;
    ctx.detail = Some("min-version");
    send_problem(session, ctx, errors::min_version_problem()).await
}
