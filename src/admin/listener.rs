//! Connections to the admin listener: few, short, and served even if the process has no descriptor left.
//!
//! Heads, exchanges and connections have timeouts. If too many connections are open, the oldest is closed:
//! health probes take milliseconds. A few descriptors are reserved for this listener.

use super::{guard::LocalAddress, state::AdminState};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, OwnedFd},
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::{sleep, timeout},
};

/// The most connections at a time.
const MAX_CONNECTIONS: usize = 64;
/// The number of reserved descriptors.
const RESERVED_DESCRIPTORS: usize = 16;
/// The timeout for a whole head, and for an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest head, in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// The time for which a connection is kept.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(60);
/// The time for the exchange that is under way then.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after an accept that failed.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(20);

/// Serves connections for as long as the process lives.
pub(crate) async fn serve(listener: TcpListener, state: AdminState) {
    let (router, reserve) = (super::build_router(state), DescriptorReserve::of(&listener));
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = accept_connection(&listener, &reserve).await;
        let Ok(local) = stream.local_addr() else { continue };
        open.retain(|connection| !connection.is_finished());
        while open.len() >= MAX_CONNECTIONS {
            open.pop_front().iter().for_each(AbortHandle::abort);
        }
        let (router, reserve) = (router.clone().layer(Extension(LocalAddress(local.ip()))), reserve.clone());
        let serving = tokio::spawn(async move {
            serve_connection(stream, router).await;
            reserve.fill();
        });
        open.push_back(serving.abort_handle());
    }
}

/// Accepts the next connection.
async fn accept_connection(listener: &TcpListener, reserve: &DescriptorReserve) -> TcpStream {
    reserve.fill();
    loop {
        let error = match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => error,
        };
        if !(is_exhausted(&error) && reserve.release_one()) {
            tracing::debug!(%error, "the admin listener accepts no connection");
            sleep(ACCEPT_BACKOFF).await;
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    // Without it answers are only slower.
    stream.set_nodelay(true).unwrap_or_default();
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD_BYTES);
    let service = TowerToHyperService::new(router);
    let mut serving = pin!(protocol.serve_connection(TokioIo::new(stream), service));
    let ended = match timeout(CONNECTION_LIFETIME, serving.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            serving.as_mut().graceful_shutdown();
            timeout(DRAIN_TIMEOUT, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the admin listener ended");
    }
}

/// Returns true if the process, or the system, has no descriptor left.
fn is_exhausted(error: &io::Error) -> bool {
    [Errno::EMFILE, Errno::ENFILE].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// Reserved descriptors. A released one is used by the next accept.
#[derive(Clone)]
struct DescriptorReserve(Arc<ReservedDescriptor>);

struct ReservedDescriptor {
    /// The descriptor that the reserved ones are duplicates of.
    of: Option<OwnedFd>,
    all: Mutex<Vec<OwnedFd>>,
}

impl DescriptorReserve {
    fn of(listener: &TcpListener) -> Self {
        let of = listener.as_fd().try_clone_to_owned().ok();
        let reserve = Self(Arc::new(ReservedDescriptor { of, all: Mutex::default() }));
        reserve.fill();
        reserve
    }

    /// Opens reserved descriptors, as far as possible.
    fn fill(&self) {
        let Some(of) = &self.0.of else { return };
        let mut all = self.0.all.lock();
        while all.len() < RESERVED_DESCRIPTORS {
            let Ok(copy) = of.try_clone() else { return };
            all.push(copy);
        }
    }

    /// Releases a descriptor. Returns false if there was none.
    fn release_one(&self) -> bool {
        self.0.all.lock().pop().is_some()
    }
}
