//! An origin that answers with bytes as they are written here: interim answers, and what no HTTP library sends.

use bytes::Bytes;
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc,
    },
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};

/// The server; each request (without a body, or with one that has a length) is answered alike: `first`, then, once released,
/// `rest`.
pub struct RawOrigin {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    released: watch::Sender<bool>,
    server: AbortHandle,
}

impl RawOrigin {
    /// Starts it on a free port.
    pub async fn start(first: impl Into<Bytes>, rest: impl Into<Bytes>) -> Self {
        Self::serving(first.into(), rest.into(), false).await
    }

    /// The same, and it closes the connection after each answer.
    pub async fn start_closing(first: impl Into<Bytes>, rest: impl Into<Bytes>) -> Self {
        Self::serving(first.into(), rest.into(), true).await
    }

    async fn serving(first: Bytes, rest: Bytes, closing: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, released) = (Arc::new(AtomicUsize::new(0)), watch::Sender::new(false));
        let (count, gate) = (requests.clone(), released.subscribe());
        let connections = Arc::new(AtomicUsize::new(0));
        let accepted = connections.clone();
        let serving = tokio::spawn(async move {
            // Dropped with this task, and every connection with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                let messages = (first.clone(), rest.clone());
                connections.spawn(serve(stream, messages, closing, count.clone(), gate.clone()));
            }
        });
        Self { address, requests, connections, released, server: serving.abort_handle() }
    }

    /// `http://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets the rest of each answer go.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    /// Holds the rest back again.
    pub fn hold(&self) {
        self.released.send_replace(false);
    }

    /// The number of connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The number of requests so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for RawOrigin {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(
    stream: TcpStream,
    (first, rest): (Bytes, Bytes),
    closing: bool,
    requests: Arc<AtomicUsize>,
    mut released: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut line, mut body) = (String::new(), 0);
        // The empty line ends the head; a connection that is closed between requests ends this.
        while line != "\r\n" {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let field = line.to_ascii_lowercase();
            body =
                field.strip_prefix("content-length:").map_or(body, |length| length.trim().parse().unwrap());
        }
        stream.read_exact(&mut vec![0; body]).await?;
        requests.fetch_add(1, Ordering::SeqCst);
        stream.write_all(&first).await?;
        drop(released.wait_for(|released| *released).await);
        stream.write_all(&rest).await?;
        if closing {
            return stream.shutdown().await;
        }
    }
}
