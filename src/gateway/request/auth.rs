//! Admission of a request by its route: its size, its upgrade, its token.
//!
//! Looks at the head alone. A body that exceeds the limit is cut off while it is read (`session/pingora.rs`).

use crate::{
    clock,
    config::RouteConfig,
    gateway::{
        context::RequestContext,
        request::websocket::{admit_websocket, has_foreign_cookie, request_token},
        services::GatewayServices,
    },
    http::framing::content_length::content_length,
    identity::{Identity, RememberedVerdict, TokenError, TokenRule, Verifier},
    telemetry::labels::{RejectReason, TokenResult},
    websocket::is_upgrade_wanted,
};

use pingora_http::RequestHeader;
use std::sync::Arc;

/// Checks whether a route accepts a request: its size, its upgrade, its token.
pub(crate) async fn admit(
    services: &GatewayServices,
    route: &RouteConfig,
    rule: TokenRule,
    request: &RequestHeader,
    ctx: &mut RequestContext,
) -> Result<(), RejectReason> {
    if content_length(&request.headers).is_some_and(|length| length > route.max_body) {
        return Err(RejectReason::BodyTooLarge);
    }
    if is_upgrade_wanted(&request.headers) {
        let rules = route.websocket.as_ref().ok_or(RejectReason::UpgradeRefused)?;
        ctx.handshake = Some(Box::new(admit_websocket(rules, request, ctx)?));
    }
    ctx.identity = identify(services, ctx, route, rule, request).await?;
    Ok(())
}

/// The client's identity. If the answer or the route depends on it, the token must verify. Elsewhere an
/// invalid token is ignored by the gateway and forwarded to the origin.
async fn identify(
    services: &GatewayServices,
    ctx: &mut RequestContext,
    route: &RouteConfig,
    rule: TokenRule,
    request: &RequestHeader,
) -> Result<Option<Arc<Identity>>, RejectReason> {
    let site = ctx.site.clone();
    let Some(verifier) = site.plan.verifier.as_ref().filter(|_| rule.reads_token()) else {
        return Ok(None);
    };
    let token = match request_token(route, request, ctx.handshake.as_deref()) {
        Ok(Some((token, _))) => token,
        Ok(None) if rule.admits_anonymous() => return Ok(None),
        Ok(None) if has_foreign_cookie(route, request, ctx.handshake.as_deref()) => {
            return Err(RejectReason::CrossOrigin)
        }
        Ok(None) => return Err(RejectReason::TokenMissing),
        Err(error) => return wrong_token(ctx, rule, error),
    };
    let verdict = match verifier.verify(&token, clock::reading()) {
        Err(error) if verifier.may_lack_key(&token, error) => {
            Box::pin(verify_renewed(verifier, &token, error)).await
        }
        verdict => verdict,
    };
    let verdict = verdict
        .and_then(|(identity, remembered)| rule.check_identity(&identity).map(|()| (identity, remembered)));
    match verdict {
        Ok((identity, remembered)) => {
            services.metrics.token(match remembered {
                RememberedVerdict::Yes => TokenResult::Remembered,
                RememberedVerdict::No => TokenResult::Verified,
            });
            Ok(Some(identity))
        }
        Err(error) => {
            services.metrics.token(TokenResult::Refused);
            wrong_token(ctx, rule, error)
        }
    }
}

fn wrong_token(
    ctx: &mut RequestContext,
    rule: TokenRule,
    error: TokenError,
) -> Result<Option<Arc<Identity>>, RejectReason> {
    if rule.refuses_invalid() {
        Err(ctx.refuse_token(error))
    } else {
        Ok(None)
    }
}

/// Verifies a token whose key is unknown again once the key set has been fetched. If it was fetched a moment
/// ago, `refused` stands.
async fn verify_renewed(
    verifier: &Verifier,
    token: &str,
    refused: TokenError,
) -> Result<(Arc<Identity>, RememberedVerdict), TokenError> {
    match verifier.renew().await {
        true => verifier.verify(token, clock::reading()),
        false => Err(refused),
    }
}
