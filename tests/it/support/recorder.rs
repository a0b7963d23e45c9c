//! An origin that keeps every byte it gets, reads it strictly, and answers as it is told.

use super::Spoken;
use super::{
    strict::{self, Message},
    until, SOON,
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc, Mutex,
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
    task::{AbortHandle, JoinSet},
};

/// The bytes of the answer.
#[derive(Debug, Clone)]
pub struct Say {
    /// The bytes, in pieces that are written one by one.
    pub pieces: Vec<Vec<u8>>,
    /// True if the connection ends behind them.
    pub close: bool,
}

impl Say {
    /// These bytes, and the connection goes on.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self { pieces: vec![bytes.into()], close: false }
    }

    /// A plain answer that tells what it answers; one to a target with `fresh` in it may be kept.
    pub fn plain(request: &Message) -> Self {
        let said = format!("{} {}", request.method(), request.target());
        let body = if request.method() == "HEAD" { "" } else { &said };
        let fresh = if request.target().contains("fresh") { "Cache-Control: max-age=60\r\n" } else { "" };
        Self::bytes(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Answers: {said}\r\n{fresh}Content-Length: {}\r\n\r\n{body}",
            said.len()
        ))
    }

    /// The same, and the connection ends.
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }
}

type Answers = Arc<dyn Fn(&Message) -> Say + Send + Sync>;

/// The requests received.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Whole requests.
    pub requests: Vec<Message>,
    /// Requests that were never whole, of connections that have ended.
    pub cut_off: Vec<Vec<u8>>,
    /// The bytes that no strict reader accepts.
    pub illegal: Vec<String>,
}

#[derive(Default)]
struct Kept {
    record: Mutex<Record>,
    /// Connections on which a request has begun and is not whole.
    unfinished: AtomicUsize,
}

/// The server.
pub struct Recorder {
    address: SocketAddr,
    url: String,
    kept: Arc<Kept>,
    server: AbortHandle,
}

impl Recorder {
    /// Starts it on a free port.
    pub async fn start(answers: impl Fn(&Message) -> Say + Send + Sync + 'static) -> Self {
        Self::start_as(Spoken::default(), answers).await
    }

    /// The same, spoken to in this way, by HTTP/1.1.
    pub async fn start_as(spoken: Spoken, answers: impl Fn(&Message) -> Say + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = match &spoken {
            Spoken { unix: Some(path), .. } => format!("unix:{}", path.display()),
            Spoken { tls: Some(_), .. } => format!("https://{address}"),
            _ => format!("http://{address}"),
        };
        let kept = Arc::new(Kept::default());
        let (answers, keep): (Answers, _) = (Arc::new(answers), kept.clone());
        let unix = spoken.unix.map(|path| UnixListener::bind(path).unwrap());
        let serving = tokio::spawn(async move {
            // Dropped with this task, and every connection with it.
            let mut connections = JoinSet::new();
            loop {
                let (answers, keep) = (answers.clone(), keep.clone());
                if let Some(unix) = &unix {
                    let Ok((stream, _)) = unix.accept().await else { return };
                    connections.spawn(serve(stream, answers, keep));
                    continue;
                }
                let Ok((stream, _)) = listener.accept().await else { return };
                match spoken.tls.clone() {
                    None => connections.spawn(serve(stream, answers, keep)),
                    Some(tls) => connections
                        .spawn(async move { serve(tls.accept(stream).await?, answers, keep).await }),
                };
            }
        });
        Self { address, url, kept, server: serving.abort_handle() }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:<port>`, `https://…` or `unix:…`
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The requests since the last call.
    pub fn take(&self) -> Record {
        std::mem::take(&mut *self.kept.record.lock().unwrap())
    }

    /// The same, when no request is half here.
    pub async fn settled(&self) -> Record {
        let unfinished = || self.kept.unfinished.load(Ordering::SeqCst);
        until("no request is half here", SOON, || async { unfinished() == 0 }).await;
        self.take()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A request that has begun; counted while it lives.
struct Unfinished(Arc<Kept>);

impl Unfinished {
    fn new(kept: &Arc<Kept>) -> Self {
        kept.unfinished.fetch_add(1, Ordering::SeqCst);
        Self(kept.clone())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.unfinished.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve<S>(mut stream: S, answers: Answers, kept: Arc<Kept>) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut read = Vec::new();
    let mut unfinished = None;
    let mut continued = false;
    loop {
        match strict::request(&read) {
            Ok(Some((request, end))) => {
                read.drain(..end);
                continued = false;
                let say = answers(&request);
                kept.record.lock().unwrap().requests.push(request);
                unfinished = None;
                for piece in &say.pieces {
                    stream.write_all(piece).await?;
                    stream.flush().await?;
                }
                if say.close {
                    return stream.shutdown().await;
                }
            }
            Ok(None) => {
                // Who waits to be told to go on is told so.
                let asks = String::from_utf8_lossy(&read).to_ascii_lowercase();
                if !continued && asks.contains("\r\n\r\n") && asks.contains("expect: 100-continue") {
                    continued = true;
                    stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
                }
                let n = stream.read_buf(&mut read).await?;
                if n == 0 {
                    kept.record.lock().unwrap().cut_off.extend(Some(read).filter(|read| !read.is_empty()));
                    return Ok(());
                }
                unfinished.get_or_insert_with(|| Unfinished::new(&kept));
            }
            Err(illegal) => {
                kept.record.lock().unwrap().illegal.push(illegal.0);
                return Ok(());
            }
        }
    }
}
