//! A TCP proxy that disturbs what it carries: delays, holds, drops, cuts and resets, for each kind of connection.
//!
//! It stands between a node and its Redis and tells the two kinds of connections of a node apart: the one that asked
//! for `CLIENT TRACKING` is for reports, any other one is for commands. In front of anything else every connection is
//! one for commands.

use bytes::Bytes;
use socket2::SockRef;
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
        Arc,
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{broadcast, mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};

/// The connections that are disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    All,
    /// Those for commands.
    Commands,
    /// Those for reports.
    Reports,
}

/// A rule by which bytes pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rule {
    /// Each piece reaches the server so much later.
    pub up: Duration,
    /// Each piece reaches the client so much later.
    pub down: Duration,
    /// Nothing passes; what came meanwhile passes afterwards.
    pub held: bool,
    /// Nothing passes, and what came meanwhile is lost: such a connection is reset when the proxy is healed.
    pub lost: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Rules {
    commands: Rule,
    reports: Rule,
    refused: bool,
}

/// A disturbance that happens to connections once.
#[derive(Debug, Clone, Copy)]
enum Order {
    Reset,
    HalfOpen,
    Cut(usize),
    Heal,
}

struct Shared {
    to: SocketAddr,
    rules: watch::Sender<Rules>,
    orders: broadcast::Sender<(Which, Order)>,
}

/// The proxy; its port is closed when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: AbortHandle,
}

impl Proxy {
    /// In front of this address, on a free port.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared =
            Arc::new(Shared { to, rules: watch::Sender::default(), orders: broadcast::Sender::new(64) });
        let serving = shared.clone();
        let server = tokio::spawn(async move {
            // Dropped with this task, and every connection with it.
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    Ok((client, _)) = listener.accept() => {
                        connections.spawn(carry(client, serving.clone()));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Self { address, shared, server: server.abort_handle() }
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `redis://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Passes bytes by this rule from now on, also those on the way.
    pub fn set(&self, which: Which, rule: Rule) {
        self.shared.rules.send_modify(|rules| {
            if which != Which::Reports {
                rules.commands = rule;
            }
            if which != Which::Commands {
                rules.reports = rule;
            }
        });
    }

    /// Delays both directions.
    pub fn delay(&self, which: Which, up: Duration, down: Duration) {
        self.set(which, Rule { up, down, ..Rule::default() });
    }

    /// Lets nothing pass until [`Proxy::heal`], and loses nothing.
    pub fn hold(&self, which: Which) {
        self.set(which, Rule { held: true, ..Rule::default() });
    }

    /// Loses all that comes: a hole.
    pub fn lose(&self, which: Which) {
        self.set(which, Rule { lost: true, ..Rule::default() });
    }

    /// Resets every connection, and each new one at once.
    pub fn refuse(&self) {
        self.shared.rules.send_modify(|rules| rules.refused = true);
        self.reset(Which::All);
    }

    /// Resets connections that are open now.
    pub fn reset(&self, which: Which) {
        self.order(which, Order::Reset);
    }

    /// Closes the server's end; the client's stays open and silent until [`Proxy::heal`].
    pub fn half_open(&self, which: Which) {
        self.order(which, Order::HalfOpen);
    }

    /// Resets connections after so many further bytes from the server: within a message, where one is longer.
    pub fn cut(&self, which: Which, after: usize) {
        self.order(which, Order::Cut(after));
    }

    /// Ends every disturbance.
    pub fn heal(&self) {
        self.shared.rules.send_replace(Rules::default());
        self.order(Which::All, Order::Heal);
    }

    fn order(&self, which: Which, order: Order) {
        // Without connections nobody listens, and nobody has to.
        drop(self.shared.orders.send((which, order)));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A connection, as far as it is known.
#[derive(Default)]
struct State {
    /// 0: not known yet, 1: commands, 2: reports.
    kind: AtomicU8,
    /// Bytes from the server until it is cut; [`usize::MAX`]: never.
    left: AtomicUsize,
    lossy: AtomicBool,
}

impl State {
    /// The kind shows in the first words after the handshake.
    fn learn(&self, said: &[u8]) {
        let says = |word: &str| said.windows(word.len()).any(|bytes| bytes == word.as_bytes());
        if says("TRACKING") {
            self.kind.store(2, Ordering::SeqCst);
        } else if self.kind.load(Ordering::SeqCst) == 0
            && !["HELLO", "CLIENT", "AUTH", "SELECT"].iter().any(|w| says(w))
        {
            self.kind.store(1, Ordering::SeqCst);
        }
    }

    fn is(&self, which: Which) -> bool {
        let kind = self.kind.load(Ordering::SeqCst);
        which == Which::All || kind == if which == Which::Commands { 1 } else { 2 }
    }

    /// A connection in its handshake is disturbed only where all are.
    fn rule(&self, rules: &Rules) -> Rule {
        match self.kind.load(Ordering::SeqCst) {
            1 => rules.commands,
            2 => rules.reports,
            _ if rules.commands == rules.reports => rules.commands,
            _ => Rule::default(),
        }
    }
}

/// The reason why the carrying of a connection ended.
#[derive(PartialEq)]
enum End {
    Closed,
    Reset,
    HalfOpen,
}

async fn carry(mut client: TcpStream, shared: Arc<Shared>) {
    let mut orders = shared.orders.subscribe();
    let to = shared.to;
    let refused = shared.rules.borrow().refused;
    let server = if refused { None } else { TcpStream::connect(to).await.ok() };
    let Some(mut server) = server else { return abort(&client) };
    // A proxy that gathers small packets would be a delay of its own.
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let state = State { left: AtomicUsize::new(usize::MAX), ..State::default() };
    let end = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let up = pump(from_client, to_server, &state, shared.rules.subscribe(), true);
        let down = pump(from_server, to_client, &state, shared.rules.subscribe(), false);
        tokio::select! {
            end = up => end,
            end = down => end,
            end = ordered(&mut orders, &state) => end,
        }
    };
    match end {
        End::Closed => {}
        End::Reset => (abort(&client), abort(&server)).0,
        End::HalfOpen => {
            drop(server);
            while !matches!(orders.recv().await, Ok((_, Order::Heal | Order::Reset))) {}
            abort(&client);
        }
    }
}

/// Closes with a reset when it is dropped.
fn abort(stream: &TcpStream) {
    // One that the peer has closed meanwhile needs none.
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap_or_default();
}

/// Waits for an order that ends this connection.
async fn ordered(orders: &mut broadcast::Receiver<(Which, Order)>, state: &State) -> End {
    loop {
        let Ok((which, order)) = orders.recv().await else { continue };
        if !state.is(which) {
            continue;
        }
        match order {
            Order::Reset => return End::Reset,
            Order::HalfOpen => return End::HalfOpen,
            Order::Cut(after) => state.left.store(after, Ordering::SeqCst),
            Order::Heal if state.lossy.load(Ordering::SeqCst) => return End::Reset,
            Order::Heal => state.left.store(usize::MAX, Ordering::SeqCst),
        }
    }
}

/// Carries one direction by the rules.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut into: impl AsyncWrite + Unpin,
    state: &State,
    rules: watch::Receiver<Rules>,
    is_up: bool,
) -> End {
    let (pieces, mut due) = mpsc::unbounded_channel::<(Instant, Bytes)>();
    let mut changes = rules.clone();
    let read = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if is_up {
                state.learn(&buffer[..n]);
            }
            let rule = state.rule(&rules.borrow());
            let delay = if is_up { rule.up } else { rule.down };
            // The writer is there as long as this is.
            drop(pieces.send((Instant::now() + delay, Bytes::copy_from_slice(&buffer[..n]))));
        }
    };
    let write = async {
        while let Some((at, piece)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            // An error means that the proxy is gone.
            let rule = match changes.wait_for(|rules| !state.rule(rules).held).await {
                Ok(rules) => state.rule(&rules),
                Err(_) => return End::Closed,
            };
            if rule.lost {
                state.lossy.store(true, Ordering::SeqCst);
                continue;
            }
            match deliver(&mut into, &piece, state, is_up).await {
                Ok(true) => {}
                Ok(false) => return End::Reset,
                Err(_) => return End::Closed,
            }
        }
        End::Closed
    };
    tokio::pin!(write);
    tokio::select! {
        end = &mut write => end,
        // What was read before the end is still to be passed on.
        () = read => write.await,
    }
}

/// Writes a piece, or the part of it up to a cut: then `false`.
async fn deliver(
    into: &mut (impl AsyncWrite + Unpin),
    piece: &[u8],
    state: &State,
    is_up: bool,
) -> io::Result<bool> {
    let left = state.left.load(Ordering::SeqCst);
    if is_up || left == usize::MAX {
        return into.write_all(piece).await.map(|()| true);
    }
    let now = left.min(piece.len());
    into.write_all(&piece[..now]).await?;
    state.left.store(left - now, Ordering::SeqCst);
    Ok(left > now)
}
