//! The WebSocket handshake of a request.

use crate::{origin::upgrade::UpgradeHandover, websocket::TokenOffer};

/// A handshake that was accepted by the gateway.
#[derive(Default)]
pub(crate) struct WebSocketHandshake {
    pub(crate) offer: Option<TokenOffer>,
    pub(crate) handover: Option<UpgradeHandover>,
}
