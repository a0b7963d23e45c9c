//! The last of a connection whose client may still be sending (RFC 9112, 9.6).
//!
//! A socket that is closed with bytes unread, or to which more come, is reset, and a reset takes away what the client has
//! not read yet: the answer that told it why. So the system is told that nothing more will be sent, and what still comes
//! is dropped until the client has closed its end too, is silent for a while, or has had its time. Whoever served the
//! connection does not wait for that, and its place is free.

use socket2::SockRef;
use std::{
    io,
    net::Shutdown,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio::{io::AsyncReadExt, net::TcpStream, runtime::Handle, time::timeout};

/// Connections that are let go so at once, of all clients: further ones are closed as they are.
const MOST: usize = 256;
/// The time that a client may take, and for which it may be silent (nginx's `lingering_time` and `lingering_timeout`).
const AT_MOST: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(5);
/// What is dropped at once.
const PIECE: usize = 16 * 1024;

static LINGERING: AtomicUsize = AtomicUsize::new(0);

/// Lets a connection go whose socket is about to be closed. Nothing happens where that can't be.
pub(super) fn let_go(socket: &TcpStream) {
    let Ok(runtime) = Handle::try_current() else { return };
    let Some(counted) = Counted::one() else { return };
    // The socket lives as long as this does; whoever has the other closes it.
    let Ok(socket) = SockRef::from(socket).try_clone() else { return };
    drop(runtime.spawn(async move {
        let _counted = counted;
        if let Err(error) = drain(socket.into()).await {
            tracing::trace!(%error, "a client left at once");
        }
    }));
}

async fn drain(socket: std::net::TcpStream) -> io::Result<()> {
    socket.shutdown(Shutdown::Write)?;
    let mut socket = TcpStream::from_std(socket)?;
    let dropping = async {
        let mut piece = vec![0; PIECE];
        loop {
            match timeout(PAUSE, socket.read(&mut piece)).await {
                Ok(Ok(0)) | Err(_) => return Ok(()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    };
    timeout(AT_MOST, dropping).await.unwrap_or(Ok(()))
}

/// One of those that are let go.
struct Counted;

impl Counted {
    fn one() -> Option<Self> {
        let before = LINGERING.fetch_add(1, Ordering::Relaxed);
        let counted = Self;
        (before < MOST).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        LINGERING.fetch_sub(1, Ordering::Relaxed);
    }
}
