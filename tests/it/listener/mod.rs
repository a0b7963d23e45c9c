//! Connections, TLS, HTTP/2, WebSockets.

mod autobahn;
mod connections;
mod http2;
mod slow;
mod socketio;
mod tls;
mod websocket_transcripts;
mod websockets;
