//! `route.websocket`: the pages that may open a WebSocket, and the place of its token.

use super::values::{distinct, positive};
use crate::config::{
    fault::Report,
    raw,
    read::{At, Field, OneOrMany},
    types::{TokenPlace, WebSocket},
    OriginPattern,
};
use std::time::Duration;

/// Checks `websocket`. `tokens`: there is a `[jwt]`, and the route reads tokens.
pub(super) fn websocket(
    raw: Field<raw::WebSocket>,
    tokens: bool,
    report: &mut Report,
) -> Option<Option<WebSocket>> {
    let Some(At { value, .. }) = raw.optional()? else { return Some(None) };
    let idle_timeout = positive(value.idle_timeout, Duration::from_secs(60), report);
    let origins = origins(value.origins, report);
    let tokens = places(value.token, tokens, report);
    Some(Some(WebSocket { idle_timeout: idle_timeout?, origins: origins?, tokens: tokens? }))
}

fn origins(raw: Field<OneOrMany<String>>, report: &mut Report) -> Option<Vec<OriginPattern>> {
    let Some(At { value: OneOrMany(listed), place }) = raw.optional()? else { return Some(Vec::new()) };
    if listed.is_empty() {
        report.fault(&place, "must hold at least one; left out, pages of any origin may open WebSockets");
        return None;
    }
    let read = |At { value, place }: At<String>| {
        let read = OriginPattern::parse(&value).map(|value| At { value, place: place.clone() });
        read.map_err(|complaint| report.fault(&place, complaint)).ok()
    };
    let read: Vec<_> = listed.into_iter().map(read).collect();
    distinct(read.into_iter().collect::<Option<_>>()?, report)
}

fn places(raw: Field<OneOrMany<TokenPlace>>, tokens: bool, report: &mut Report) -> Option<Vec<TokenPlace>> {
    let Some(At { value: OneOrMany(listed), place }) = raw.optional()? else { return Some(Vec::new()) };
    if listed.is_empty() {
        report.fault(&place, "must hold at least one");
        return None;
    }
    if !tokens {
        report.fault(&place, "needs a [jwt] to verify tokens with, and can't go with auth = \"off\"");
    }
    distinct(listed, report)
}
