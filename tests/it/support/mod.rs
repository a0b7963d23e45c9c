//! Helpers of the integration tests: real redis servers, a programmable origin, gateway processes, a client.
//!
//! Everything listens on 127.0.0.1 on a free port, lives in a temporary directory and is killed on drop, also
//! when a test panics. Nothing here sleeps for a fixed time: one waits on a condition, with a deadline.

pub mod answer;
pub mod browser;
pub mod client;
pub mod events;
pub mod exchange;
pub mod gateway;
pub mod metrics;
pub mod node;
pub mod origin;
pub mod process;
pub mod proxy;
pub mod python;
pub mod raw_origin;
pub mod recorder;
pub mod redis_server;
pub mod strict;
pub mod tls;
pub mod transfer;
pub mod webhook;
pub mod websocket;

pub use answer::{Answer, Seen};
pub use client::{raw_exchange, send, Raw, Reply};
pub use gateway::{Gateway, GatewayBuilder};
pub use origin::{Spoken, TestOrigin};
pub use proxy::Proxy;
pub use raw_origin::RawOrigin;
pub use recorder::{Recorder, Say};
pub use redis_server::{Cluster, Redis, Sentinel};
pub use transfer::{End, Transfer};

use socket2::{Domain, Socket, Type};
use std::{
    collections::BTreeSet,
    future::Future,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Mutex,
    time::{Duration, Instant},
};

/// A deadline for what should happen at once, on a machine that may be busy compiling.
pub const SOON: Duration = Duration::from_secs(10);

/// Asks `check` again and again until it answers with `Some`, and panics with `what` at the deadline.
pub async fn eventually<T, F, Fut>(what: &str, deadline: Duration, mut check: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// [`eventually`] for a condition.
pub async fn until<F, Fut>(what: &str, deadline: Duration, mut check: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    eventually(what, deadline, || {
        let checked = check();
        async move { checked.await.then_some(()) }
    })
    .await;
}

/// An address on which nobody listens at the moment, and which this process has not been given before. Somebody may take it before its user does: users retry.
pub fn free_address() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());
    loop {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        if GIVEN.lock().unwrap().insert(address) {
            return address;
        }
    }
}

/// An address that refuses connections for as long as the socket lives: bound, so that nobody else gets it, and not listened on.
pub fn refused_address() -> (SocketAddr, Socket) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    (socket.local_addr().unwrap().as_socket().unwrap(), socket)
}

/// `len` reproducible bytes that don't compress.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut out: Vec<u8> = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&next());
    }
    out.truncate(len);
    out
}

/// SHA-256 in hex.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex(&sha2::Sha256::digest(bytes))
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The value below which the share `q` (0 to 1) of `values` lies.
pub fn quantile(values: &mut [Duration], q: f64) -> Duration {
    assert!(!values.is_empty(), "a quantile of nothing");
    values.sort_unstable();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let rank = ((values.len() as f64 * q).ceil() as usize).clamp(1, values.len());
    values[rank - 1]
}

/// Now, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}
