//! Connections after a 101: tunnels, and the frames of WebSockets in them.

pub(crate) mod tunnel;
pub(crate) mod websocket_frames;
