//! Connections for upgrades: once the origin has switched protocols, the gateway takes its connection over.
//!
//! Pingora 0.9.1 forwards upgraded bytes in one loop that reads nothing from a side while it writes to it:
//! two peers that both write at once can block each other for ever, although they wouldn't without a proxy.
//! Pingora therefore does the handshake only. It sees the head of the 101 and nothing after it; the connection
//! itself is taken out with [`UpgradeHandover::take`] by a task that forwards both directions independently. An
//! answer other than a 101 passes unchanged.
//!
//! The first read waits for the end of the request: Pingora ends the exchange at once if it reads the 101
//! before it has read the (empty) end of the request's body from its own channel, and a nearby origin is fast
//! enough for that. Pingora flushes when it has sent the head, and again when it has read that end. Such a
//! connection is used for one exchange only.

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::{
    connectors::{L4Connect, TransportConnector},
    protocols::{
        l4::{
            socket::SocketAddr,
            stream::Stream as Socket,
            virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream},
        },
        tls::ALPN,
        Stream,
    },
    upstreams::peer::{HttpPeer, Scheme},
    Result,
};
use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc,
    },
    task::{ready, Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// The longest time for which the first read waits for that flush.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(1);
/// A bit in the group key that keeps these connections apart from reusable ones.
const ALONE: u64 = 1 << 63;

/// Opens connections for upgrades, with TLS if the origin has it.
pub(crate) struct UpgradeConnector {
    connector: Arc<TransportConnector>,
    count: AtomicU64,
}

impl UpgradeConnector {
    /// Loads the authorities that verify origins.
    pub(crate) fn new() -> Self {
        Self { connector: Arc::new(TransportConnector::new(None)), count: AtomicU64::new(0) }
    }

    /// Prepares a peer for an upgrade; the origin has to answer within the peer's `read_timeout`.
    pub(crate) fn prepare(&self, peer: &mut HttpPeer) -> UpgradeHandover {
        let mut at = peer.clone();
        // An upgrade requires HTTP/1.1 (RFC 6455, 4.1).
        at.options.alpn = ALPN::H1;
        let shared = UpgradeShared {
            stream: None,
            request: RequestProgress::Unsent,
            hold: None,
            answer_within: at.options.read_timeout,
            waiting: None,
            phase: AnswerPhase::Head(HeadScanner::default()),
        };
        let handover = UpgradeHandover(Arc::new(Mutex::new(shared)));
        // Pingora sees no TLS: it is within the connection.
        peer.scheme = Scheme::HTTP;
        peer.sni.clear();
        peer.client_cert_key = None;
        peer.group_key = ALONE | self.count.fetch_add(1, Ordering::Relaxed);
        let options = &mut peer.options;
        options.alpn = ALPN::H1;
        options.idle_timeout = Some(Duration::ZERO);
        // After its stream is taken, this connection is silent for as long as the exchange lasts.
        options.read_timeout = None;
        options.custom_l4 = Some(Arc::new(UpgradeDialer {
            at,
            connector: self.connector.clone(),
            handover: handover.clone(),
        }));
        handover
    }
}

/// The handle by which the origin's connection is taken over.
#[derive(Clone)]
pub(crate) struct UpgradeHandover(Arc<Mutex<UpgradeShared>>);

impl UpgradeHandover {
    /// Takes the origin's connection; `None` unless it has answered with 101, or if it was taken before.
    pub(crate) fn take(&self) -> Option<UpgradedStream> {
        let mut shared = self.0.lock();
        let AnswerPhase::Switched { first } = &mut shared.phase else { return None };
        let first = std::mem::take(first);
        Some(UpgradedStream { stream: shared.stream.take()?, first })
    }
}

/// An origin's connection that has switched protocols.
pub struct UpgradedStream {
    /// The connection.
    pub stream: Stream,
    /// The bytes of the origin behind the head of its answer.
    pub first: Vec<u8>,
}

impl fmt::Debug for UpgradedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upgraded(…)")
    }
}

struct UpgradeDialer {
    at: HttpPeer,
    connector: Arc<TransportConnector>,
    handover: UpgradeHandover,
}

impl fmt::Debug for UpgradeDialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connect({})", self.at)
    }
}

#[async_trait]
impl L4Connect for UpgradeDialer {
    async fn connect(&self, _: &SocketAddr) -> Result<Socket> {
        let stream = self.connector.new_stream(&self.at).await?;
        self.handover.0.lock().stream = Some(stream);
        Ok(VirtualSocketStream::new(Box::new(HeldStream(self.handover.clone()))).into())
    }
}

/// The connection as Pingora sees it.
struct HeldStream(UpgradeHandover);

/// The state that Pingora's connection and the handle share.
struct UpgradeShared {
    /// The connection; `None` once it was taken.
    stream: Option<Stream>,
    request: RequestProgress,
    /// The timer of the wait for the request's end, while a read waits for it.
    hold: Option<Pin<Box<Sleep>>>,
    /// The timeout of a read.
    answer_within: Option<Duration>,
    /// The timer of that timeout, while a read waits.
    waiting: Option<Pin<Box<Sleep>>>,
    phase: AnswerPhase,
}

/// The progress of the request that Pingora sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestProgress {
    Unsent,
    /// The head was written.
    Written,
    /// The head was flushed.
    Flushed,
    /// The end of the body was read from the channel.
    Ended,
}

impl RequestProgress {
    /// The state after a flush.
    fn flushed(self) -> Self {
        match self {
            Self::Unsent => Self::Unsent,
            Self::Written => Self::Flushed,
            Self::Flushed | Self::Ended => Self::Ended,
        }
    }
}

/// The progress of the answer.
enum AnswerPhase {
    /// The head is being read.
    Head(HeadScanner),
    /// It is not a 101.
    Other,
    /// The head of a 101 has been read; the bytes behind it are kept.
    Switched { first: Vec<u8> },
}

impl UpgradeShared {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if matches!(self.phase, AnswerPhase::Switched { .. }) {
            // Pingora reads nothing more; the exchange is ended from the client's side.
            return Poll::Pending;
        }
        if self.request != RequestProgress::Ended {
            // The flush at the end of the request wakes this read.
            let hold = self.hold.get_or_insert_with(|| Box::pin(tokio::time::sleep(HANDOVER_TIMEOUT)));
            ready!(hold.as_mut().poll(cx));
            self.request = RequestProgress::Ended;
        }
        self.hold = None;
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(stream).poll_read(cx, buf) {
            self.waiting = None;
            read?;
            self.look(buf, before);
            return Poll::Ready(Ok(()));
        }
        let Some(within) = self.answer_within else { return Poll::Pending };
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no answer to the upgrade in time")))
    }

    /// Examines bytes that were read, from `begin` on; bytes behind the head of a 101 are removed and kept.
    fn look(&mut self, buf: &mut ReadBuf<'_>, mut begin: usize) {
        while let AnswerPhase::Head(head) = &mut self.phase {
            let Some((length, status)) = head.end(&buf.filled()[begin..]) else { return };
            begin += length;
            self.phase = match status {
                Some(101) => AnswerPhase::Switched { first: buf.filled()[begin..].to_vec() },
                Some(100..=199) => AnswerPhase::Head(HeadScanner::default()),
                _ => AnswerPhase::Other,
            };
            if matches!(self.phase, AnswerPhase::Switched { .. }) {
                buf.set_filled(begin);
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(stream) = &mut self.stream {
            let written = ready!(Pin::new(stream).poll_write(cx, data))?;
            if self.request == RequestProgress::Unsent {
                self.request = RequestProgress::Written;
            }
            return Poll::Ready(Ok(written));
        }
        // The task that has taken the stream writes to it.
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_rest(
        &mut self,
        poll: impl FnOnce(Pin<&mut Stream>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        self.stream.as_mut().map_or(Poll::Ready(Ok(())), |stream| poll(Pin::new(stream)))
    }
}

/// Searches for the end of a head.
#[derive(Debug, Default)]
struct HeadScanner {
    /// Its first bytes, up to the status.
    begin: Vec<u8>,
    /// The number of bytes of the current line, without carriage returns.
    line: usize,
    /// True after the first line.
    inside: bool,
}

impl HeadScanner {
    /// Processes bytes. If the head ends within them, returns the position behind it, and its status.
    fn end(&mut self, data: &[u8]) -> Option<(usize, Option<u16>)> {
        const STATUS: std::ops::Range<usize> = 9..12;
        for (place, byte) in data.iter().enumerate() {
            if !self.inside && self.begin.len() < STATUS.end {
                self.begin.push(*byte);
            }
            match byte {
                b'\n' if self.inside && self.line == 0 => {
                    let status =
                        self.begin.get(STATUS).and_then(|s| std::str::from_utf8(s).ok()?.parse().ok());
                    return Some((place + 1, status));
                }
                b'\n' => (self.inside, self.line) = (true, 0),
                b'\r' => {}
                _ => self.line += 1,
            }
        }
        None
    }
}

impl fmt::Debug for HeldStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held(…)")
    }
}

impl VirtualSocket for HeldStream {
    /// The inner connection has been set up already.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for HeldStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0 .0.lock().poll_read(cx, buf)
    }
}

impl AsyncWrite for HeldStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.0 .0.lock().poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0 .0.lock();
        ready!(shared.poll_rest(|stream| stream.poll_flush(cx)))?;
        shared.request = shared.request.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 .0.lock().poll_rest(|stream| stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

    /// Returns the bytes that Pingora gets, the bytes that are kept, and true after a switch, for an `answer`
    /// in these pieces.
    fn read(answer: &[u8], cuts: &[usize]) -> (Vec<u8>, Vec<u8>, bool) {
        let mut shared = UpgradeShared {
            stream: None,
            request: RequestProgress::Ended,
            hold: None,
            answer_within: None,
            waiting: None,
            phase: AnswerPhase::Head(HeadScanner::default()),
        };
        let (mut given, mut begin) = (Vec::new(), 0);
        for end in cuts.iter().copied().chain([answer.len()]) {
            let piece = &answer[begin..end.max(begin)];
            begin = begin.max(end);
            if matches!(shared.phase, AnswerPhase::Switched { .. }) {
                continue;
            }
            let mut space = vec![0; piece.len() + 3];
            let mut buf = ReadBuf::new(&mut space);
            buf.put_slice(piece);
            shared.look(&mut buf, 0);
            given.extend_from_slice(buf.filled());
        }
        match shared.phase {
            AnswerPhase::Switched { first } => (given, first, true),
            AnswerPhase::Head(_) | AnswerPhase::Other => (given, Vec::new(), false),
        }
    }

    #[test]
    fn what_is_behind_a_101_is_kept() {
        let answer = [SWITCHED, b"\x81\x02hi\n\n"].concat();
        assert_eq!(read(&answer, &[]), (SWITCHED.to_vec(), b"\x81\x02hi\n\n".to_vec(), true));
        let interim = [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", SWITCHED].concat();
        assert_eq!(read(&interim, &[]), (interim, Vec::new(), true));
    }

    #[test]
    fn any_other_answer_passes() {
        for answer in [
            &b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nHTTP/1.1 101 x\r\n\r\nrest"[..],
            b"HTTP/1.0 200\n\nbody",
            b"HTTP/1.1 1012\r\n",
            b"\r\n\r\n\r\n",
            b"",
        ] {
            assert_eq!(read(answer, &[]), (answer.to_vec(), Vec::new(), false));
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            behind in proptest::collection::vec(any::<u8>(), 0..40),
            mut cuts in proptest::collection::vec(0..SWITCHED.len(), 0..6),
        ) {
            cuts.sort_unstable();
            let answer = [SWITCHED, &behind].concat();
            let (given, first, switched) = read(&answer, &cuts);
            prop_assert!(switched);
            prop_assert_eq!(given, SWITCHED);
            prop_assert_eq!(first, behind);
        }
    }
}
