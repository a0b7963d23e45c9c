//! Connections to the admin listener: few, short, and answered also where the process has no file left to open.
//!
//! A head has its time, an exchange and a connection have theirs. Where too many are open the oldest goes: those who
//! ask for health take milliseconds. A few descriptors are kept for it, which nobody else can use up.

use super::{guard::Local, AdminState};
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

/// Connections at a time.
const MOST: usize = 64;
/// Descriptors that are kept for them.
const RESERVED: usize = 16;
/// For a whole head, and for the wait for one.
const HEAD: Duration = Duration::from_secs(10);
/// The largest head, in bytes.
const LARGEST_HEAD: usize = 64 << 10;
/// The time for which a connection is kept.
const KEPT: Duration = Duration::from_secs(60);
/// For the exchange that is under way then.
const PART: Duration = Duration::from_secs(5);
/// Pause after an accept that failed.
const BREATHE: Duration = Duration::from_millis(20);

/// Answers for as long as the process lives.
pub async fn serve(listener: TcpListener, state: AdminState) {
    let (router, reserve) = (super::router(state), Reserve::of(&listener));
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = accept(&listener, &reserve).await;
        let Ok(local) = stream.local_addr() else { continue };
        open.retain(|connection| !connection.is_finished());
        while open.len() >= MOST {
            open.pop_front().iter().for_each(AbortHandle::abort);
        }
        let (router, reserve) = (router.clone().layer(Extension(Local(local.ip()))), reserve.clone());
        let serving = tokio::spawn(async move {
            serve_connection(stream, router).await;
            reserve.fill();
        });
        open.push_back(serving.abort_handle());
    }
}

/// The next connection.
async fn accept(listener: &TcpListener, reserve: &Reserve) -> TcpStream {
    reserve.fill();
    loop {
        let error = match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => error,
        };
        if !(is_exhausted(&error) && reserve.give_up_one()) {
            tracing::debug!(%error, "the admin listener accepts no connection");
            sleep(BREATHE).await;
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    // Without it answers are slower.
    stream.set_nodelay(true).unwrap_or_default();
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(LARGEST_HEAD);
    let service = TowerToHyperService::new(router);
    let mut serving = pin!(protocol.serve_connection(TokioIo::new(stream), service));
    let ended = match timeout(KEPT, serving.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            serving.as_mut().graceful_shutdown();
            timeout(PART, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the admin listener ended");
    }
}

/// Returns whether the process, or the system, has no descriptor left.
fn is_exhausted(error: &io::Error) -> bool {
    [Errno::EMFILE, Errno::ENFILE].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// Descriptors that are kept for connections of this listener. One that is given up is taken by the accept that follows.
#[derive(Clone)]
struct Reserve(Arc<Kept>);

struct Kept {
    /// What the kept ones are copies of.
    of: Option<OwnedFd>,
    all: Mutex<Vec<OwnedFd>>,
}

impl Reserve {
    fn of(listener: &TcpListener) -> Self {
        let of = listener.as_fd().try_clone_to_owned().ok();
        let reserve = Self(Arc::new(Kept { of, all: Mutex::default() }));
        reserve.fill();
        reserve
    }

    /// As far as there are any.
    fn fill(&self) {
        let Some(of) = &self.0.of else { return };
        let mut all = self.0.all.lock();
        while all.len() < RESERVED {
            let Ok(copy) = of.try_clone() else { return };
            all.push(copy);
        }
    }

    /// Returns whether there was one.
    fn give_up_one(&self) -> bool {
        self.0.all.lock().pop().is_some()
    }
}
