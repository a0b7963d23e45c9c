//! Lingering close: the end of a connection whose client may still be sending (RFC 9112, 9.6).
//!
//! A socket that is closed with unread bytes, or that receives more, is reset, and a reset discards bytes
//! that the client has not read yet: the answer that explains the close. So the write side is shut down
//! first, and further bytes are dropped until the client closes its side, is silent for a while, or the time
//! is over. The task that served the connection does not wait for this, and its place is free.

use socket2::SockRef;
use std::{
    io,
    net::Shutdown,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio::{io::AsyncReadExt, net::TcpStream, runtime::Handle, time::timeout};

/// The most connections that linger at once; further ones are closed at once.
const MAX_LINGERING: usize = 256;
/// The total time, and the time without bytes (nginx's `lingering_time` and `lingering_timeout`).
const LINGER_TIME: Duration = Duration::from_secs(30);
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);
/// The size of the buffer for dropped bytes.
const DISCARD_BYTES: usize = 16 * 1024;

static LINGERING_COUNT: AtomicUsize = AtomicUsize::new(0);

/// Lingers on a connection whose socket is about to be closed; does nothing if that is impossible.
pub(crate) fn linger_close(socket: &TcpStream) {
    let Ok(runtime) = Handle::try_current() else { return };
    let Some(counted) = LingerPermit::one() else { return };
    // The duplicate keeps the socket open; the original is closed by its owner.
    let Ok(socket) = SockRef::from(socket).try_clone() else { return };
    drop(runtime.spawn(async move {
        let _counted = counted;
        if let Err(error) = discard_input(socket.into()).await {
            tracing::trace!(%error, "a client left at once");
        }
    }));
}

async fn discard_input(socket: std::net::TcpStream) -> io::Result<()> {
    socket.shutdown(Shutdown::Write)?;
    let mut socket = TcpStream::from_std(socket)?;
    let dropping = async {
        let mut piece = vec![0; DISCARD_BYTES];
        loop {
            match timeout(LINGER_TIMEOUT, socket.read(&mut piece)).await {
                Ok(Ok(0)) | Err(_) => return Ok(()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    };
    timeout(LINGER_TIME, dropping).await.unwrap_or(Ok(()))
}

/// A guard that counts a lingering connection.
struct LingerPermit;

impl LingerPermit {
    fn one() -> Option<Self> {
        let before = LINGERING_COUNT.fetch_add(1, Ordering::Relaxed);
        let counted = Self;
        (before < MAX_LINGERING).then_some(counted)
    }
}

impl Drop for LingerPermit {
    fn drop(&mut self) {
        LINGERING_COUNT.fetch_sub(1, Ordering::Relaxed);
    }
}
