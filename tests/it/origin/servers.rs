//! Origins with several servers: who is asked, what happens when one fails, sessions, limits, and every way that a
//! server is spoken to.

mod checks;
mod choosing;
mod limits;
mod out;
mod refusing;
mod sessions;
mod speaking;
mod verifying;

use crate::support::*;
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::{tungstenite::Message, MaybeTlsStream, WebSocketStream};

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// Opens a WebSocket through a gateway.
async fn socket(gateway: &Gateway, target: &str) -> Result<Socket, tokio_tungstenite::tungstenite::Error> {
    let url = format!("ws://{}{target}", gateway.address());
    tokio_tungstenite::connect_async(url).await.map(|(socket, _)| socket)
}

/// Holds that what is sent comes back.
async fn echoes(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
    let echoed = tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(echoed, Message::text(text));
}

/// Requests for this path by server.
fn counts(origins: &[TestOrigin], path: &str) -> Vec<usize> {
    origins.iter().map(|origin| origin.count(path)).collect()
}

async fn origins(n: usize) -> Vec<TestOrigin> {
    let mut all = Vec::new();
    for _ in 0..n {
        all.push(TestOrigin::start().await);
    }
    all
}

/// In front of all of them, as one origin.
fn before(origins: &[TestOrigin]) -> gateway::GatewayBuilder {
    origins[1..].iter().fold(Gateway::with(&origins[0]), |builder, origin| builder.server(&origin.url()))
}
