//! Whether a route takes a request: its size, its upgrade, its token.
//!
//! Decides from the head alone; a body that turns out too long is cut off while it passes (`proxied.rs`).

use super::{Context, Gateway};
use crate::{
    config::{Auth, CacheRules, Route, Scope},
    identity::{Identity, Remembered},
    limits::rate::Limits,
    telemetry::labels::{RejectReason, TokenResult},
    websocket,
};
use http::header;
use pingora_http::RequestHeader;
use std::{sync::Arc, time::SystemTime};

impl Gateway {
    /// Whether a route takes a request: its size, its upgrade, its token.
    pub(super) fn admit(
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
            ctx.handshake = Some(Box::new(self.admit_websocket(rules, request)?));
        }
        ctx.identity = self.identify(ctx, route, rules, request)?;
        Ok(())
    }

    /// Who asks. Where the answer or the route depends on it, a token has to verify; elsewhere one that does not
    /// is none of the gateway's business and passes on to the origin.
    fn identify(
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
            Err(_) if matters => return Err(RejectReason::Token),
            Err(_) => return Ok(None),
        };
        match verifier.verify(&token, SystemTime::now()) {
            // An answer for one user can't be told from another's where nobody says who it is.
            Ok((identity, _)) if scope == Some(Scope::User) && identity.user.is_none() => {
                self.parts.metrics.token(TokenResult::Refused);
                Err(RejectReason::Token)
            }
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
                    ctx.detail = Some(error.detail());
                    Err(RejectReason::Token)
                } else {
                    Ok(None)
                }
            }
        }
    }
}

pub(super) fn content_length(request: &RequestHeader) -> Option<u64> {
    request.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
