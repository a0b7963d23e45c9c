//! Sending a part of a file without its bytes passing through this process: `sendfile(2)`.
//!
//! Only for what the kernel has in memory, on sockets without TLS: whoever hands a part over sees to both.

use std::{
    fs::File,
    io,
    task::{ready, Context, Poll},
};
use tokio::{io::Interest, net::TcpStream};

/// Sends up to `most` bytes of a file from `at` on, as many as the socket takes now.
///
/// # Errors
/// If the client is gone, or the file ends before.
pub(super) fn poll(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    file: &File,
    at: u64,
    most: usize,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        let mut from = at;
        // Where the socket takes nothing, the runtime learns of it here, and waits.
        match stream
            .try_io(Interest::WRITABLE, || Ok(rustix::fs::sendfile(stream, file, Some(&mut from), most)?))
        {
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            other => return Poll::Ready(other),
        }
    }
}
