//! `route.websocket`: the pages that may open a WebSocket, and the place of its token.

use crate::config::{
    check::values::{distinct, positive},
    file::{fault::FaultReport, raw, OneOrMany, PlacedValue, TableField},
    types::{TokenPlace, WebSocketConfig},
    OriginPattern,
};

use std::time::Duration;

/// Checks `websocket`. `tokens`: there is a `[jwt]`, and the route reads tokens.
pub(crate) fn check_websocket(
    raw: TableField<raw::WebSocket>,
    tokens: bool,
    report: &mut FaultReport,
) -> Option<Option<WebSocketConfig>> {
    let Some(PlacedValue { value, .. }) = raw.optional()? else { return Some(None) };
    let idle_timeout = positive(value.idle_timeout, Duration::from_secs(60), report);
    let origins = origins(value.origins, report);
    let tokens = places(value.token, tokens, report);
    Some(Some(WebSocketConfig { idle_timeout: idle_timeout?, origins: origins?, tokens: tokens? }))
}

fn origins(raw: TableField<OneOrMany<String>>, report: &mut FaultReport) -> Option<Vec<OriginPattern>> {
    let Some(PlacedValue { value: OneOrMany(listed), place }) = raw.optional()? else {
        return Some(Vec::new());
    };
    if listed.is_empty() {
        report.fault(&place, "must hold at least one; left out, pages of any origin may open WebSockets");
        return None;
    }
    let read = |PlacedValue { value, place }: PlacedValue<String>| {
        let read = OriginPattern::parse(&value).map(|value| PlacedValue { value, place: place.clone() });
        read.map_err(|complaint| report.fault(&place, complaint)).ok()
    };
    let read: Vec<_> = listed.into_iter().map(read).collect();
    distinct(read.into_iter().collect::<Option<_>>()?, report)
}

fn places(
    raw: TableField<OneOrMany<TokenPlace>>,
    tokens: bool,
    report: &mut FaultReport,
) -> Option<Vec<TokenPlace>> {
    let Some(PlacedValue { value: OneOrMany(listed), place }) = raw.optional()? else {
        return Some(Vec::new());
    };
    if listed.is_empty() {
        report.fault(&place, "must hold at least one");
        return None;
    }
    if !tokens {
        report.fault(&place, "needs a [jwt] to verify tokens with, and can't go with auth = \"off\"");
    }
    distinct(listed, report)
}
