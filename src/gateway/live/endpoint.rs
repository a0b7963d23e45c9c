//! `[[live]]`: several entries on one stream, each with a name.

use crate::{
    config::{LiveEndpointConfig, LiveRules},
    gateway::{
        context::RequestContext,
        live::{
            open_stream,
            plan::{plan_watch, PlannedWatch},
            wish,
        },
        request::{
            auth::admit,
            min_version::read_min_version,
            preflight,
            rate_limit::{refuse_limited, within_limits},
        },
        respond::{errors, refuse_request, refuse_with_problem},
        services::{GatewayServices, NextStep},
        session::GatewaySession,
    },
    http::canonical_path::CanonicalPath,
    limits::rate::LimitStage,
    representation::problem::ProblemReply,
    route::RouteMatch,
    telemetry::labels::RejectReason,
};

use http::{header, Method, StatusCode};
use percent_encoding::percent_decode_str;
use pingora_core::Result;
use pingora_http::RequestHeader;
use std::sync::Arc;

/// The parameter that names entries.
const WATCH: &str = "watch";

/// Answers a request for a `[[live]]`.
pub(crate) async fn answer_endpoint(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    endpoint: &LiveEndpointConfig,
) -> Result<NextStep> {
    if session.req_header().method != Method::GET {
        let problem = errors::method_not_allowed(&[Method::GET]);
        return refuse_with_problem(services, session, ctx, RejectReason::MethodNotAllowed, problem).await;
    }
    let accepts = session.req_header().headers.get_all(header::ACCEPT);
    if !accepts.iter().any(|line| wish::names_event_stream(line.as_bytes())) {
        return refuse_request(services, session, ctx, RejectReason::NotAcceptable).await;
    }
    let (named, rest) = match watched_names(session.req_header(), endpoint) {
        Ok(named) => named,
        Err(complaint) => {
            let problem = ProblemReply::new(StatusCode::BAD_REQUEST, complaint);
            return refuse_with_problem(services, session, ctx, RejectReason::BadWatch, problem).await;
        }
    };
    let (path, mut first, mut identity) = (std::mem::take(&mut ctx.path), None, None);
    let mut planned = Vec::with_capacity(named.len());
    for (name, target) in &named {
        match plan_entry(services, session, ctx, name, &with_query(target, &rest)).await {
            Ok((index, rules, watch)) => {
                // What the limits of a route took means nothing to those of the next one.
                let taken = std::mem::take(&mut ctx.taken);
                first.get_or_insert((index, rules, taken));
                // The request has one token, which not every route reads.
                identity = identity.or(ctx.identity.take());
                planned.push(watch);
            }
            Err(RejectReason::RateLimited) => return refuse_limited(services, session, ctx).await,
            Err(reason) => return refuse_request(services, session, ctx, reason).await,
        }
    }
    ctx.path = path;
    // There is at least one name.
    let Some((index, rules, taken)) = first else {
        return refuse_request(services, session, ctx, RejectReason::NotFound).await;
    };
    (ctx.route, ctx.taken, ctx.identity) = (Some(index), taken, identity);
    let names = named.into_iter().map(|(name, _)| name.to_owned()).collect();
    open_stream(services, session, ctx, &rules, (planned, Some(names))).await
}

/// Takes an entry through the steps of a request for it.
async fn plan_entry(
    services: &GatewayServices,
    session: &GatewaySession<'_>,
    ctx: &mut RequestContext,
    name: &str,
    target: &str,
) -> std::result::Result<(usize, Arc<LiveRules>, PlannedWatch), RejectReason> {
    let mut request = session.req_header().clone();
    request.set_raw_path(target.as_bytes()).map_err(|_| RejectReason::BadRequest)?;
    ctx.path = CanonicalPath::of(request.uri.path()).map_err(|_| RejectReason::BadPath)?;
    let index = match ctx.find_route(&request, &request.method) {
        RouteMatch::Found(index) => index,
        _ => return Err(RejectReason::NotFound),
    };
    ctx.route = Some(index);
    let site = ctx.site.clone();
    let (route, at_hand) = (&site.plan().config.routes[index], &site.per_route[index]);
    let Some(rules) = route.live.clone() else { return Err(RejectReason::NotFound) };
    let limits = at_hand.limits.as_ref();
    if !within_limits(services, limits, LimitStage::Anyone, &request, ctx).await {
        return Err(RejectReason::RateLimited);
    }
    preflight::verify_signed_url(&mut request, ctx)?;
    admit(services, route, at_hand.token, &request, ctx).await?;
    if !within_limits(services, limits, LimitStage::Identified, &request, ctx).await {
        return Err(RejectReason::RateLimited);
    }
    ctx.min_version = read_min_version(ctx, &at_hand.mode).map_err(|_| RejectReason::BadMinVersion)?;
    let watch = plan_watch(services, &request, ctx, index, name).ok_or(RejectReason::NotFound)?;
    Ok((index, rules, watch))
}

/// A target with further parameters.
fn with_query(target: &str, rest: &str) -> String {
    match (rest.is_empty(), target.contains('?')) {
        (true, _) => target.to_owned(),
        (false, true) => format!("{target}&{rest}"),
        (false, false) => format!("{target}?{rest}"),
    }
}

/// The entries that a request names, with their targets, and its other parameters.
type NamedEntries<'e> = (Vec<(&'e str, &'e str)>, String);

/// Reads `?watch=`.
fn watched_names<'e>(
    request: &RequestHeader,
    endpoint: &'e LiveEndpointConfig,
) -> std::result::Result<NamedEntries<'e>, &'static str> {
    let query = request.uri.query().unwrap_or_default();
    let (mut named, mut rest): (Vec<(&str, &str)>, Vec<&str>) = (Vec::new(), Vec::new());
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let Some(names) = parameter.strip_prefix(WATCH).and_then(|value| value.strip_prefix('=')) else {
            rest.push(parameter);
            continue;
        };
        let names = percent_decode_str(names).decode_utf8().map_err(|_| "watch is no text in UTF-8")?;
        for name in names.split(',') {
            let known = endpoint.watch.iter().find(|(known, _)| known == name);
            let (known, target) = known.ok_or("watch names an entry that there is not")?;
            if named.iter().any(|(other, _)| other == known) {
                return Err("watch names an entry twice");
            }
            named.push((known, target));
        }
    }
    match named.is_empty() {
        true => Err("watch has to name the entries, as in ?watch=kpi,chart"),
        false => Ok((named, rest.join("&"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(query: &str) -> std::result::Result<(Vec<String>, String), &'static str> {
        let endpoint = LiveEndpointConfig {
            path: "/live".to_owned(),
            watch: vec![("chart".into(), "/api/chart?n=1".into()), ("kpi".into(), "/api/kpi".into())],
        };
        let request = RequestHeader::build(Method::GET, format!("/live{query}").as_bytes(), None).unwrap();
        let (named, rest) = watched_names(&request, &endpoint)?;
        Ok((
            named.into_iter().map(|(name, target)| format!("{name}={}", with_query(target, &rest))).collect(),
            rest,
        ))
    }

    #[test]
    fn entries_are_named_in_the_order_of_the_client_and_get_the_other_parameters() {
        let (entries, rest) = named("?period=7d&watch=kpi%2Cchart&token=x").unwrap();
        assert_eq!(entries, ["kpi=/api/kpi?period=7d&token=x", "chart=/api/chart?n=1&period=7d&token=x"]);
        assert_eq!(rest, "period=7d&token=x");
        assert_eq!(named("?watch=kpi&watch=chart").unwrap().0, ["kpi=/api/kpi", "chart=/api/chart?n=1"]);
    }

    #[test]
    fn names_that_are_none_are_refused() {
        let many = format!("?watch={}", vec!["kpi"; 1_000].join(","));
        for query in [
            "",
            "?watch=",
            "?watch=orders",
            "?watch=kpi,kpi",
            "?watch=kpi,",
            "?watch=%ff",
            "?watches=kpi",
            &many,
        ] {
            assert!(named(query).is_err(), "{query}");
        }
    }
}
