//! Pingora's connections to a server whose name has several addresses.

use super::{
    dial::{dial_server, not_connected, ReachedAddress},
    state::ServerState,
};
use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::{
    connectors::L4Connect,
    protocols::l4::{socket::SocketAddr as Address, stream::Stream},
    Error, ErrorType,
};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// A connector for Pingora.
pub(crate) struct OriginDialer {
    pub(crate) server: Arc<ServerState>,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) buffer: Option<u32>,
    pub(crate) within: Duration,
    /// The time at which the request began.
    pub(crate) began: Instant,
    pub(crate) reached: ReachedAddress,
}

impl std::fmt::Debug for OriginDialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dialer({:?})", self.addresses)
    }
}

#[async_trait]
impl L4Connect for OriginDialer {
    async fn connect(&self, _: &Address) -> pingora_core::Result<Stream> {
        let missed = Mutex::new(Vec::new());
        let dialled = dial_server(&self.addresses, self.buffer, |address| missed.lock().push(address));
        let dialled = timeout(self.within, dialled).await;
        // If all failed, the caller reports it.
        if let Ok(Ok(_)) = &dialled {
            missed.into_inner().into_iter().for_each(|address| self.server.missed(address, self.began));
        }
        match dialled {
            Ok(Ok((stream, address))) => {
                self.reached.set(address).unwrap_or_default();
                Ok(stream.into())
            }
            Ok(Err(error)) => Err(not_connected(error)),
            Err(_) => Error::e_explain(ErrorType::ConnectTimedout, "connecting to a server"),
        }
    }
}
