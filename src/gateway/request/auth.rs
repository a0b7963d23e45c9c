//! Admission of a request by its route: its size, its upgrade, its token.
//!
//! Looks at the head alone. A body that exceeds the limit is cut off while it is read (`session/pingora.rs`).

use crate::{
    clock,
    config::{AuthMode, CacheRules, CacheScope, RouteConfig},
    gateway::{Gateway, RequestContext},
    http::content_length::content_length,
    identity::{Identity, RememberedVerdict, TokenError, Verifier},
    limits::rate::RouteLimits,
    telemetry::labels::{RejectReason, TokenResult},
    websocket,
};

use pingora_http::RequestHeader;
use std::sync::Arc;

impl Gateway {
    /// Checks whether a route accepts a request: its size, its upgrade, its token.
    pub(crate) async fn admit(
        &self,
        route: &RouteConfig,
        rules: Option<&Arc<CacheRules>>,
        request: &RequestHeader,
        ctx: &mut RequestContext,
    ) -> Result<(), RejectReason> {
        if content_length(&request.headers).is_some_and(|length| length > route.max_body) {
            return Err(RejectReason::BodyTooLarge);
        }
        if websocket::is_upgrade_wanted(&request.headers) {
            let rules = route.websocket.as_ref().ok_or(RejectReason::UpgradeRefused)?;
            ctx.handshake = Some(Box::new(self.admit_websocket(rules, request, ctx)?));
        }
        ctx.identity = self.identify(ctx, route, rules, request).await?;
        Ok(())
    }

    /// The client's identity. If the answer or the route depends on it, the token must verify. Elsewhere an
    /// invalid token is ignored by the gateway and forwarded to the origin.
    async fn identify(
        &self,
        ctx: &mut RequestContext,
        route: &RouteConfig,
        rules: Option<&Arc<CacheRules>>,
        request: &RequestHeader,
    ) -> Result<Option<Arc<Identity>>, RejectReason> {
        let scope = rules.map(|rules| rules.scope);
        let site = ctx.site.clone();
        let Some(verifier) = site.plan.verifier.as_ref().filter(|_| route.auth != AuthMode::Off) else {
            return Ok(None);
        };
        let needed = route.auth == AuthMode::Required || scope == Some(CacheScope::User);
        let matters = needed || scope == Some(CacheScope::Tenant);
        // A limit may be keyed by the identity even where the answer is public.
        let asked = ctx
            .at_hand()
            .and_then(|at_hand| at_hand.limits.as_ref())
            .is_some_and(RouteLimits::needs_identity);
        if !matters && !asked && scope == Some(CacheScope::Public) {
            return Ok(None);
        }
        let token = match super::websocket::request_token(route, request, ctx.handshake.as_deref()) {
            Ok(Some((token, _))) => token,
            Ok(None) if needed => return Err(RejectReason::TokenMissing),
            Ok(None) => return Ok(None),
            Err(error) if matters => return Err(ctx.refuse_token(error)),
            Err(_) => return Ok(None),
        };
        let verdict = match verifier.verify(&token, clock::reading()) {
            Err(error) if verifier.may_lack_key(&token, error) => {
                Box::pin(verify_renewed(verifier, &token, error)).await
            }
            verdict => verdict,
        };
        let verdict = verdict
            .and_then(|(identity, remembered)| identity.check_scope(scope).map(|()| (identity, remembered)));
        match verdict {
            Ok((identity, remembered)) => {
                self.parts.metrics.token(match remembered {
                    RememberedVerdict::Yes => TokenResult::Remembered,
                    RememberedVerdict::No => TokenResult::Verified,
                });
                Ok(Some(identity))
            }
            Err(error) => {
                self.parts.metrics.token(TokenResult::Refused);
                if matters {
                    Err(ctx.refuse_token(error))
                } else {
                    Ok(None)
                }
            }
        }
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
