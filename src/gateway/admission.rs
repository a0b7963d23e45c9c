//! Whether a route takes a request: its size, its upgrade, its token.
//!
//! Decides from the head alone; a body that turns out too long is cut off while it passes (`proxied.rs`).

use super::{Context, Gateway};
use crate::{
    clock,
    config::{Auth, CacheRules, Route, Scope},
    identity::{Identity, Remembered, TokenError, Verifier},
    limits::rate::Limits,
    telemetry::labels::{RejectReason, TokenResult},
    websocket,
};
use http::header;
use pingora_http::RequestHeader;
use std::sync::Arc;

impl Gateway {
    /// Whether a route takes a request: its size, its upgrade, its token.
    pub(super) async fn admit(
        &self,
        route: &Route,
        rules: Option<&Arc<CacheRules>>,
        request: &RequestHeader,
        ctx: &mut Context,
    ) -> Result<(), RejectReason> {
        if content_length(request).is_some_and(|length| length > route.max_body) {
            return Err(RejectReason::BodyTooLarge);
        }
        if websocket::is_wanted(&request.headers) {
            let rules = route.websocket.as_ref().ok_or(RejectReason::UpgradeRefused)?;
            ctx.handshake = Some(Box::new(self.admit_websocket(rules, request, ctx)?));
        }
        ctx.identity = self.identify(ctx, route, rules, request).await?;
        Ok(())
    }

    /// Who asks. Where the answer or the route depends on it, a token has to verify; elsewhere one that does not
    /// is none of the gateway's business and passes on to the origin.
    async fn identify(
        &self,
        ctx: &mut Context,
        route: &Route,
        rules: Option<&Arc<CacheRules>>,
        request: &RequestHeader,
    ) -> Result<Option<Arc<Identity>>, RejectReason> {
        let scope = rules.map(|rules| rules.scope);
        let site = ctx.site.clone();
        let Some(verifier) = site.plan.verifier.as_ref().filter(|_| route.auth != Auth::Off) else {
            return Ok(None);
        };
        let needed = route.auth == Auth::Required || scope == Some(Scope::User);
        let matters = needed || scope == Some(Scope::Tenant);
        // A limit may want to know who it is where the answer is for all.
        let asked = ctx.at_hand().and_then(|at_hand| at_hand.limits.as_ref()).is_some_and(Limits::asks_who);
        if !matters && !asked && scope == Some(Scope::Public) {
            return Ok(None);
        }
        let token = match super::websocket::token(route, request, ctx.handshake.as_deref()) {
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
                    Remembered::Yes => TokenResult::Remembered,
                    Remembered::No => TokenResult::Verified,
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

/// The verdict on a token whose key is not known, once the key set has been read again. Where that was done a moment ago,
/// nobody waits.
async fn verify_renewed(
    verifier: &Verifier,
    token: &str,
    refused: TokenError,
) -> Result<(Arc<Identity>, Remembered), TokenError> {
    match verifier.renew().await {
        true => verifier.verify(token, clock::reading()),
        false => Err(refused),
    }
}

pub(super) fn content_length(request: &RequestHeader) -> Option<u64> {
    request.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
