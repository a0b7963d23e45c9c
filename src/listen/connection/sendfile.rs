//! Sends a part of a file without copying it through this process: `sendfile(2)`.
//!
//! Only for pages in the kernel's cache, on sockets without TLS: the caller ensures both.

use std::{
    fs::File,
    io,
    task::{ready, Context, Poll},
};
use tokio::{io::Interest, net::TcpStream};

/// Sends up to `most` bytes of a file from `at` on, as many as the socket accepts now.
///
/// # Errors
/// If the client is gone, or the file ends early.
pub(crate) fn poll_sendfile(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    file: &File,
    at: u64,
    most: usize,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        let mut from = at;
        // This tells the runtime that the socket isn't writable, and registers the task.
        match stream
            .try_io(Interest::WRITABLE, || Ok(rustix::fs::sendfile(stream, file, Some(&mut from), most)?))
        {
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            other => return Poll::Ready(other),
        }
    }
}
